"""The refund protocol with a ledger in memory and an Indodana that answers as told, for tests of units."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from decimal import Decimal
from typing import Any

import pytest

from gateway.core.audit import AuditLog
from gateway.core.breaker import REFUNDS, CircuitBreaker
from gateway.core.context import RequestContext
from gateway.core.dynamodb import from_item
from gateway.core.ledger import Ledger
from gateway.core.model import AmbiguousRefunds, OrderKey, Reason, Refund, RefundRequest
from gateway.core.outcome import ConflictKinds
from gateway.core.protocol import LEASE_SECONDS, RefundProtocol
from gateway.core.transitions import RefundStatus
from indodana import (
    AnswerEvidence,
    Cancellation,
    CancellationAccepted,
    IndodanaError,
    SendingTooLate,
    TransactionStatus,
)
from testkit.emulator import Dynamo

ORDER = OrderKey("m1", "ORDER-1")
NOON = datetime(2026, 11, 27, 12, tzinfo=UTC)
QUEUED, SUBMITTING, UNKNOWN = RefundStatus.QUEUED, RefundStatus.SUBMITTING, RefundStatus.UNKNOWN
SUCCEEDED, FAILED = RefundStatus.SUCCEEDED, RefundStatus.FAILED
EVIDENCE = AnswerEvidence('{"status":"OK"}', "f00d")


def paid(amount: int | None = 100_000, status: str = "PAID") -> TransactionStatus:
    return TransactionStatus(status, None if amount is None else Decimal(amount), {})


class Indodana:
    """Answers as `status` and `outcome` say; `during` happens while a cancellation is on its way."""

    def __init__(self) -> None:
        self.status: TransactionStatus | IndodanaError = paid()
        self.outcome: IndodanaError | None = None
        self.during: Callable[[], object] = lambda: None
        self.before_sending: Callable[[], object] = lambda: None
        self.checks: list[tuple[str, str]] = []
        self.merchants: list[str] = []
        self.sent: list[Cancellation] = []

    def check_status(self, merchant_id: str, merchant_order_id: str) -> TransactionStatus:
        self.checks.append((merchant_id, merchant_order_id))
        if isinstance(self.status, IndodanaError):
            raise self.status
        return self.status

    def cancel(
        self, merchant_id: str, cancellation: Cancellation, *, may_send: Callable[[], bool]
    ) -> CancellationAccepted:
        self.merchants.append(merchant_id)
        self.before_sending()
        if not may_send():
            raise SendingTooLate("too late")
        self.sent.append(cancellation)
        self.during()
        if self.outcome:
            raise self.outcome
        return CancellationAccepted(200, EVIDENCE)


class World:
    def __init__(self) -> None:
        self.now = NOON
        self.seconds_left = math.inf
        self.dynamo = Dynamo({"ledger": {"open-refunds": ("openKey", "openSince")}, "audit": {}})
        self.indodana = Indodana()
        self.errors: list[IndodanaError] = []
        self.lost = 0
        self.breaker = CircuitBreaker(REFUNDS, self.clock)
        self.ledger = Ledger(self.dynamo, "ledger", "audit", sleep=lambda _: None)  # type: ignore[arg-type]
        self.protocol = self.with_settings()

    def clock(self) -> datetime:
        return self.now

    def with_settings(
        self, *, resubmit: bool = False, conflict_kinds: ConflictKinds | None = None, **options: Any
    ) -> RefundProtocol:
        def lost() -> None:
            self.lost += 1

        self.protocol = RefundProtocol(
            self.ledger,
            AuditLog(self.dynamo, "audit", on_lost=lost),  # type: ignore[arg-type]
            self.indodana,
            ambiguous_refunds=AmbiguousRefunds.RESUBMIT if resubmit else AmbiguousRefunds.REVIEW,
            conflict_kinds=conflict_kinds or ConflictKinds(),
            breaker=self.breaker,
            clock=self.clock,
            on_upstream_error=self.errors.append,
            **options,
        )
        return self.protocol

    def context(self, **changes: Any) -> RequestContext:
        left = changes.pop("seconds_left", lambda: self.seconds_left)
        return RequestContext("agent", "api", "request-1", seconds_left=left, **changes)

    def read(self, request: RefundRequest) -> Any:
        return self.ledger.read(request)

    def attempt(self, request: RefundRequest, **changes: Any) -> Any:
        """As a service makes it: with what is on record."""
        on_record = self.read(request)
        return self.protocol.attempt(request, on_record.refund, on_record.order, self.context(**changes))

    def refund(self, request: RefundRequest, **changes: Any) -> Refund:
        made = self.attempt(request, **changes)
        assert isinstance(made, Refund), made
        assert self.read(request).refund == made
        return made

    def sums(self) -> tuple[int, int, int]:
        order = self.read(request()).order
        assert order.refundable + order.reserved + order.refunded == order.amount
        return int(order.refundable), int(order.reserved), int(order.refunded)

    def records(self) -> list[dict[str, Any]]:
        return sorted((from_item(item) for item in self.dynamo.items("audit")), key=lambda record: record["sk"])

    def record(self, action: str) -> dict[str, Any]:
        """The last one."""
        return [record for record in self.records() if record["action"] == action][-1]

    def passes(self, seconds: float) -> None:
        self.now += timedelta(seconds=seconds)


def request(amount: int | None = 60_000, key: str = "k", **changes: Any) -> RefundRequest:
    rupiah = None if amount is None else Decimal(amount)
    asked = RefundRequest(ORDER, key, rupiah, Reason.OUT_OF_STOCK, "a note", "Rina")
    return replace(asked, **changes)


def died(world: World, asked: RefundRequest) -> Refund:
    """A refund whose process died while it was submitted, and whose lease is over."""

    class Killed(BaseException):
        pass

    def die() -> None:
        raise Killed

    world.indodana.during = die
    with pytest.raises(Killed):
        world.attempt(asked)
    world.indodana.during = lambda: None
    world.passes(LEASE_SECONDS)
    refund: Refund = world.protocol.expire_lease(world.read(asked).refund, world.context())
    return refund
