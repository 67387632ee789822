"""What the simulated Indodana knows: its orders, the money it moved, the requests it saw."""

import re
import threading
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from datetime import UTC, datetime
from decimal import Decimal
from typing import Any

# decimal(16,2): fourteen digits before the point.
MAX_AMOUNT = Decimal("99999999999999.99")
CENT = Decimal("0.01")
ORDER_ID = re.compile(r"[A-Za-z0-9=.\-_+@:&^%!$]{1,32}")
# Not documented; 32 is what the gateway promises to stay within.
MAX_REFUND_ID_LENGTH = 32
TIME_WITH_OFFSET = re.compile(r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d(\.\d{1,6})?(Z|[+-]\d\d:?\d\d)", re.ASCII)

DEFAULT_ORDERS = (
    ("ORDER-PAID", Decimal(100000), "PAID"),
    ("ORDER-INITIATED", Decimal(50000), "INITIATED"),
    ("ORDER-EXPIRED", Decimal(50000), "EXPIRED"),
    ("ORDER-REJECTED", Decimal(50000), "REJECTED"),
)


class InvalidFieldError(Exception):
    """A field of a request has a value that is not accepted."""

    def __init__(self, field: str, message: str) -> None:
        super().__init__(f"{field}: {message}")
        self.field = field
        self.message = message


class RefusalError(Exception):
    """The upstream API answers with an error."""

    def __init__(self, status: int, kind: str, message: str | dict[str, str]) -> None:
        super().__init__(f"{status} {kind}: {message}")
        self.status = status
        self.kind = kind
        self.message = message


@dataclass(frozen=True)
class Order:
    merchant_id: str
    merchant_order_id: str
    amount: Decimal
    transaction_status: str
    created_at: datetime


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
class Request:
    """An upstream request. `answered` stays None when the caller got no status."""

    path: str
    at: datetime
    merchant_order_id: str | None
    refund_id: str | None
    fault: str | None = None
    answered: int | None = None


class Books:
    """Orders, movements and requests. Deciding on a cancellation and moving its money is one step under one lock."""

    def __init__(self, clock: Callable[[], float]) -> None:
        self.recognises_repeats = False
        self._clock = clock
        self._lock = threading.Lock()
        self._orders: dict[tuple[str, str], Order] = {}
        self._moved: dict[tuple[str, str], Decimal] = {}
        self._refunds: set[tuple[str, str]] = set()
        self._movements: list[Movement] = []
        self._requests: list[Request] = []

    def add_default_orders(self, merchant_id: str) -> None:
        for merchant_order_id, amount, transaction_status in DEFAULT_ORDERS:
            self.put_order(merchant_id, merchant_order_id, amount, transaction_status)

    def put_order(self, merchant_id: str, merchant_order_id: str, amount: Decimal, transaction_status: str) -> None:
        """Add or replace an order. What was moved for it before stays moved."""
        key = (merchant_id, merchant_order_id)
        with self._lock:
            if amount < self._moved.get(key, 0):
                raise InvalidFieldError("amount", f"is less than the {self._moved[key]} already moved for this order")
            self._orders[key] = Order(merchant_id, merchant_order_id, amount, transaction_status, self._now())

    def order(self, merchant_id: str, merchant_order_id: str) -> Order:
        with self._lock:
            return self._order(merchant_id, merchant_order_id)

    def cancel(self, merchant_id: str, cancellation: Cancellation) -> Movement:
        """Move the money, or raise the RefusalError that says why not."""
        key = (merchant_id, cancellation.merchant_order_id)
        refund = (merchant_id, cancellation.refund_id)
        with self._lock:
            order = self._order(*key)
            if self.recognises_repeats and refund in self._refunds:
                raise RefusalError(409, "ConflictError", f"Refund {cancellation.refund_id} is already done")
            if order.transaction_status != "PAID":
                raise RefusalError(422, "ValidationError", f"Transaction is {order.transaction_status}, not PAID")
            moved = self._moved.get(key, Decimal(0)) + cancellation.amount
            if moved > order.amount:
                raise RefusalError(422, "ValidationError", "The cancelled total would exceed the transaction's amount")
            movement = Movement(merchant_id, self._now(), cancellation)
            self._moved[key] = moved
            self._refunds.add(refund)
            self._movements.append(movement)
            return movement

    def record_request(self, path: str, merchant_order_id: str | None, refund_id: str | None) -> Request:
        with self._lock:
            request = Request(path, self._now(), merchant_order_id, refund_id)
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
                    f"{key[0]}/{key[1]}": {"amount": plain(order.amount), "moved": plain(self._moved.get(key, 0))}
                    for key, order in self._orders.items()
                    if wanted(key[1])
                },
                "requests": [_request(request) for request in self._requests if wanted(request.merchant_order_id)],
            }

    def describe_orders(self) -> list[dict[str, Any]]:
        with self._lock:
            return [
                {
                    "merchantId": order.merchant_id,
                    "merchantOrderId": order.merchant_order_id,
                    "amount": plain(order.amount),
                    "transactionStatus": order.transaction_status,
                    "moved": plain(self._moved.get(key, 0)),
                }
                for key, order in self._orders.items()
            ]

    def _order(self, merchant_id: str, merchant_order_id: str) -> Order:
        order = self._orders.get((merchant_id, merchant_order_id))
        if order is None:
            raise RefusalError(404, "NotFoundError", "Transaction is not found")
        return order

    def _now(self) -> datetime:
        return datetime.fromtimestamp(self._clock(), UTC)


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


def _request(request: Request) -> dict[str, Any]:
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


def plain(amount: Decimal | int) -> Decimal:
    """The amount as it is written: whole rupiah without a fraction, else two decimals."""
    amount = Decimal(amount)
    whole = amount.quantize(Decimal(1))
    return whole if whole == amount else amount.quantize(CENT)


def parse_cancellation(body: Mapping[str, Any]) -> Cancellation:
    """The documented body of order_cancellation. Fields beyond it are ignored."""
    refund_id = parse_text(body, "refundId")
    if len(refund_id) > MAX_REFUND_ID_LENGTH:
        raise InvalidFieldError("refundId", f"is longer than {MAX_REFUND_ID_LENGTH} characters")
    merchant_order_id = parse_order_id(body, "merchantOrderId")
    amount = parse_amount(body, "cancellationAmount")
    reason = parse_text(body, "cancellationReason")
    cancelled_by = parse_text(body, "cancelledBy")
    _check_time(parse_text(body, "cancellationDate"))
    return Cancellation(refund_id, merchant_order_id, amount, reason, cancelled_by)


def parse_text(body: Mapping[str, Any], field: str) -> str:
    value = body.get(field)
    if not isinstance(value, str) or not value.strip():
        raise InvalidFieldError(field, "must be a string that is not empty")
    return value


def parse_order_id(body: Mapping[str, Any], field: str) -> str:
    value = parse_text(body, field)
    if not ORDER_ID.fullmatch(value):
        raise InvalidFieldError(field, "must be 1 to 32 letters, digits or = . - _ + @ : & ^ % ! $")
    return value


def parse_amount(body: Mapping[str, Any], field: str) -> Decimal:
    value = body.get(field)
    if isinstance(value, bool) or not isinstance(value, int | Decimal):
        raise InvalidFieldError(field, "must be a number")
    amount = Decimal(value)
    if not 0 < amount <= MAX_AMOUNT:
        raise InvalidFieldError(field, f"must be more than 0 and at most {MAX_AMOUNT}")
    if amount != amount.quantize(CENT):
        raise InvalidFieldError(field, "must have at most two decimals")
    return amount


def _check_time(value: str) -> None:
    try:
        if TIME_WITH_OFFSET.fullmatch(value):
            datetime.fromisoformat(value)
            return
    except ValueError:  # such as a thirteenth month
        pass
    raise InvalidFieldError("cancellationDate", "must be an ISO 8601 date and time with an offset")
