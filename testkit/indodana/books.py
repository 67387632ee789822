"""What the simulated Indodana knows: its transactions, the money it moved, the requests it received."""

import threading
from collections.abc import Callable
from dataclasses import dataclass, replace
from datetime import UTC, date, datetime, timedelta
from decimal import Decimal
from typing import Any

from testkit.indodana.answers import RefusalError
from testkit.indodana.clock import WIB
from testkit.indodana.fields import InvalidFieldError, plain

PAID = "PAID"
# The documentation says "Cancelled" and not how the API spells it; its other statuses are in capitals.
CANCELLED = "CANCELLED"
# Counted from the day of the transaction, in WIB: what was made on the 1st can be cancelled until the 31st is over.
CANCELLATION_DAYS = 30

DEFAULT_ORDERS = (
    ("ORDER-PAID", Decimal(100000), PAID),
    ("ORDER-INITIATED", Decimal(50000), "INITIATED"),
    ("ORDER-EXPIRED", Decimal(50000), "EXPIRED"),
    ("ORDER-REJECTED", Decimal(50000), "REJECTED"),
)


@dataclass(frozen=True)
class Transaction:
    """Indodana's view of an order. A merchant's order has one."""

    merchant_id: str
    merchant_order_id: str
    amount: Decimal
    status: str
    time: datetime


@dataclass(frozen=True)
class Cancellation:
    refund_id: str
    merchant_order_id: str
    amount: Decimal
    reason: str
    cancelled_by: str


@dataclass(frozen=True)
class Movement:
    """Money that went back to a customer."""

    merchant_id: str
    at: datetime
    cancellation: Cancellation


@dataclass
class Rules:
    """What Indodana does where its documentation leaves it open."""

    # Refuse a refundId that has moved money already.
    recognises_repeats: bool = False
    # The transaction's status after a refund of a part of its amount: PAID or CANCELLED.
    partial_refund_status: str = PAID
    # Refuse every refund after a transaction's first partial one.
    one_partial_only: bool = False


@dataclass
class ReceivedRequest:
    """A request to Indodana's API. `answered` stays None when the caller got no status."""

    path: str
    at: datetime
    merchant_order_id: str | None
    refund_id: str | None
    fault: str | None = None
    answered: int | None = None


class Books:
    """Deciding on a cancellation and moving its money is one step under one lock."""

    def __init__(self, now: Callable[[], datetime]) -> None:
        self.rules = Rules()
        self._now = now
        self._lock = threading.Lock()
        self._transactions: dict[tuple[str, str], Transaction] = {}
        self._moved: dict[tuple[str, str], Decimal] = {}
        self._refunds: set[tuple[str, str]] = set()
        self._movements: list[Movement] = []
        self._requests: list[ReceivedRequest] = []

    def add_default_orders(self, merchant_id: str) -> None:
        for merchant_order_id, amount, status in DEFAULT_ORDERS:
            self.put_transaction(merchant_id, merchant_order_id, amount, status)

    def put_transaction(
        self, merchant_id: str, merchant_order_id: str, amount: Decimal, status: str, time: datetime | None = None
    ) -> None:
        """Add or replace a transaction, made now if no time is given. What was moved for it before stays moved."""
        key = (merchant_id, merchant_order_id)
        with self._lock:
            if amount < self._moved.get(key, 0):
                raise InvalidFieldError("amount", f"is less than the {self._moved[key]} already moved for this order")
            time = (time or self._now()).astimezone(UTC)
            self._transactions[key] = Transaction(merchant_id, merchant_order_id, amount, status, time)

    def transaction(self, merchant_id: str, merchant_order_id: str) -> Transaction:
        with self._lock:
            return self._find(merchant_id, merchant_order_id)

    def cancel(self, merchant_id: str, cancellation: Cancellation) -> Movement:
        """Move the money, or raise the RefusalError that says why not."""
        key = (merchant_id, cancellation.merchant_order_id)
        refund = (merchant_id, cancellation.refund_id)
        with self._lock:
            transaction = self._find(*key)
            if self.rules.recognises_repeats and refund in self._refunds:
                raise RefusalError(409, f"Refund {cancellation.refund_id} is already done")
            if transaction.status != PAID:
                raise RefusalError(422, f"Transaction is {transaction.status}, not PAID")
            now = self._now()
            if now.astimezone(WIB).date() > _last_day(transaction):
                raise RefusalError(422, f"Transaction was made more than {CANCELLATION_DAYS} days ago")
            if self.rules.one_partial_only and key in self._moved:
                raise RefusalError(422, "Transaction already has a partial refund, and only one is supported")
            moved = self._moved.get(key, Decimal(0)) + cancellation.amount
            if moved > transaction.amount:
                raise RefusalError(422, "The cancelled total would exceed the transaction's amount")
            status = CANCELLED if moved == transaction.amount else self.rules.partial_refund_status
            movement = Movement(merchant_id, now, cancellation)
            self._transactions[key] = replace(transaction, status=status)
            self._moved[key] = moved
            self._refunds.add(refund)
            self._movements.append(movement)
            return movement

    def record_request(self, path: str, merchant_order_id: str | None, refund_id: str | None) -> ReceivedRequest:
        with self._lock:
            request = ReceivedRequest(path, self._now(), merchant_order_id, refund_id)
            self._requests.append(request)
            return request

    def describe(self, merchant_order_id: str | None = None) -> dict[str, Any]:
        """Movements, sums per order and requests as one consistent view; of one order id, or of all."""

        def wanted(order_id: str | None) -> bool:
            return merchant_order_id is None or order_id == merchant_order_id

        with self._lock:
            return {
                "movements": [_movement(m) for m in self._movements if wanted(m.cancellation.merchant_order_id)],
                "orders": {
                    f"{key[0]}/{key[1]}": {"amount": plain(transaction.amount), "moved": plain(self._moved.get(key, 0))}
                    for key, transaction in self._transactions.items()
                    if wanted(key[1])
                },
                "requests": [_request(request) for request in self._requests if wanted(request.merchant_order_id)],
            }

    def describe_orders(self) -> list[dict[str, Any]]:
        with self._lock:
            return [
                {
                    "merchantId": transaction.merchant_id,
                    "merchantOrderId": transaction.merchant_order_id,
                    "amount": plain(transaction.amount),
                    "moved": plain(self._moved.get(key, 0)),
                    "transactionStatus": transaction.status,
                    "transactionTime": transaction.time.isoformat(timespec="seconds"),
                }
                for key, transaction in self._transactions.items()
            ]

    def _find(self, merchant_id: str, merchant_order_id: str) -> Transaction:
        transaction = self._transactions.get((merchant_id, merchant_order_id))
        if transaction is None:
            raise RefusalError(404, "Transaction is not found")
        return transaction


def _last_day(transaction: Transaction) -> date:
    """The last day on which the transaction can be cancelled."""
    return transaction.time.astimezone(WIB).date() + timedelta(days=CANCELLATION_DAYS)


def _movement(movement: Movement) -> dict[str, Any]:
    cancellation = movement.cancellation
    return {
        "merchantId": movement.merchant_id,
        "merchantOrderId": cancellation.merchant_order_id,
        "refundId": cancellation.refund_id,
        "amount": plain(cancellation.amount),
        "cancellationReason": cancellation.reason,
        "cancelledBy": cancellation.cancelled_by,
        "at": movement.at.isoformat(),
    }


def _request(request: ReceivedRequest) -> dict[str, Any]:
    described: dict[str, Any] = {
        "path": request.path,
        "merchantOrderId": request.merchant_order_id,
        "at": request.at.isoformat(),
        "answered": request.answered,
    }
    if request.refund_id is not None:
        described["refundId"] = request.refund_id
    if request.fault is not None:
        described["fault"] = request.fault
    return described
