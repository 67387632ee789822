"""The refund protocol: reserve, submit, settle.

Indodana may not recognise a repeated refund, and any call can die at any point. So the intent is written before the
call and the outcome after it, and between them the truth is "unknown":

    reserve   one write: the refund is SUBMITTING under a lease, the order's refundable is down by the amount, on record
    submit    one POST to Indodana
    settle    one write: the outcome, the order's sums, on record

    died before reserve     nothing happened; the same request makes it
    died before settle      the lease runs out, and the refund becomes UNKNOWN with its reservation kept
    died after settle       the same request reads the outcome

Nothing is attempted before the refund's `next_attempt_at`, nor while this process doubts that Indodana would answer
(breaker.py).
"""

from __future__ import annotations

import logging
from collections.abc import Callable
from dataclasses import dataclass, replace
from datetime import datetime, timedelta
from decimal import Decimal
from typing import Any

from gateway.core import audit
from gateway.core.audit import AuditLog
from gateway.core.backoff import backoff_seconds
from gateway.core.breaker import Admission, Breaker, Result
from gateway.core.dynamodb import Item
from gateway.core.errors import LedgerBusy, LedgerUnavailable, OrderChanged, RefundChanged
from gateway.core.ledger import Ledger
from gateway.core.model import (
    AmbiguousRefunds,
    Failure,
    FailureCode,
    Order,
    OrderKey,
    Origin,
    Refund,
    RefundRequest,
    RefundStatus,
    first_record,
    new_transition_id,
)
from gateway.core.outcome import (
    ConflictKinds,
    Verdict,
    cancellation,
    refusal_detail,
    surely_not_sent,
    upstream_failure,
    verdict_on_error,
)
from gateway.core.upstream import Indodana, UpstreamSaid, accepted_said, said
from indodana import (
    CANCEL_BUDGET_SECONDS,
    CANCEL_READ_SECONDS,
    STATUS_BUDGET_SECONDS,
    Cancellation,
    ConnectionFailed,
    IndodanaError,
    NotSent,
    OutcomeUnknown,
    Refused,
    SendingTooLate,
    TransactionStatus,
)

log = logging.getLogger("refunds")

# A lease outlives the function that holds it (template.yaml: 29 s and 40 s; Lambda kills it then), with some seconds
# for clocks that differ: when it has run out, nobody can be about to submit any more. It is not much longer, for a
# refund whose process died shows as SUBMITTING until then.
LEASE_SECONDS = 45
# One try of a write at its longest: its turn (ledger.py), connecting and reading, as the AWS clients do (aws.py).
SETTLE_SECONDS = 7
# The order's sums may change between reading and reserving; each round reads what changed them.
RESERVE_TRIES = 10
# A further refund of an order that this process has refunded before goes without a read: 2 calls to AWS instead of 3.
KNOWN_ORDERS = 1000

SUBMIT_SECONDS = CANCEL_BUDGET_SECONDS + SETTLE_SECONDS  # what must be left before a submission begins
WRITE_SECONDS = CANCEL_READ_SECONDS + SETTLE_SECONDS  # … and right before its POST is written

SecondsLeft = Callable[[], float]


@dataclass(frozen=True)
class NotNow:
    """Nothing was reserved and nothing sent: Indodana could not say whether the order is paid, or must not be asked."""

    cause: str
    retry_after_seconds: float | None = None
    upstream: UpstreamSaid | None = None
    unanswered: bool = False  # Indodana was asked, and did not answer


@dataclass(frozen=True)
class Refusal:
    failure: Failure
    upstream: UpstreamSaid | None = None


class RefundProtocol:
    """What moves money, and what a lease that ran out means. Everything else asks for a refund or reads it."""

    def __init__(
        self,
        ledger: Ledger,
        audit_log: AuditLog,
        indodana: Indodana,
        *,
        ambiguous_refunds: AmbiguousRefunds,
        conflict_kinds: ConflictKinds,
        breaker: Breaker,
        clock: Callable[[], datetime],
        on_upstream_error: Callable[[IndodanaError], None] = lambda _: None,
    ) -> None:
        self._ledger = ledger
        self._audit_log = audit_log
        self._indodana = indodana
        self._ambiguous_refunds = ambiguous_refunds
        self._conflict_kinds = conflict_kinds
        self._breaker = breaker
        self._clock = clock
        self._on_upstream_error = on_upstream_error
        self.known_orders: dict[OrderKey, Order] = {}  # as this process last saw their sums, which may be old

    def attempt(
        self,
        request: RefundRequest,
        before: Refund | None,
        order: Order | None,
        origin: Origin,
        seconds_left: SecondsLeft,
    ) -> Refund | Refusal | NotNow:
        """Reserves, submits and settles. `before` and `order` are what was on record when they were read.

        Raises RefundChanged where somebody else has changed the refund since, LedgerUnavailable.
        """
        admission = self._breaker.admit()
        if admission is Admission.WAIT:
            if not _holds_its_money(before) and order and (failure := too_much(request.amount, order)):
                return Refusal(failure)
            cause = "Indodana's last answer left an outcome unknown; refunds wait until it answers again"
            return NotNow(cause, self._breaker.wait_seconds)
        result = Result.NOTHING
        try:
            status = self._ask_status(request.order, seconds_left) if admission is Admission.PROBE else None
            if isinstance(status, NotNow):
                result = Result.DOUBTFUL if status.unanswered else Result.NOTHING
                return status
            reserved = self._reserve(request, before, order, status, origin, seconds_left)
            if isinstance(reserved, Refusal | NotNow):
                return reserved
            refund, sent = reserved
            verdict, result = self._submit(refund, sent, admission, seconds_left)
        finally:
            self._breaker.left(admission, result)
        return self._settle(refund, verdict, origin, seconds_left)

    def expire_lease(self, refund: Refund, origin: Origin) -> Refund:
        """Whoever held the lease is gone, and nobody knows how far it came: UNKNOWN. Returns what is on record then."""
        cause = "lease expired before the outcome was recorded"
        after = refund.moved(
            RefundStatus.UNKNOWN,
            self._clock(),
            ambiguous=True,
            lease_until=None,
            next_attempt_at=self._next_attempt(Verdict(RefundStatus.UNKNOWN, cause), refund.attempts),
        )
        try:
            self._ledger.transition(refund, after, audit.transition_record(refund, after, origin, cause=cause))
        except RefundChanged as changed:
            return changed.current
        log.warning("the outcome of refund %s of order %s is unknown: %s", after.refund_id, _order(after), cause)
        return after

    def lease_is_over(self, refund: Refund) -> bool:
        return (
            refund.status is RefundStatus.SUBMITTING
            and refund.lease_until is not None
            and self._clock() >= refund.lease_until
        )

    def waits_for_an_attempt(self, refund: Refund) -> bool:
        if refund.status is RefundStatus.UNKNOWN:  # it has a time for its next attempt where the stack resubmits
            return self._ambiguous_refunds is AmbiguousRefunds.RESUBMIT and refund.next_attempt_at is not None
        return refund.status is RefundStatus.QUEUED

    def is_due(self, refund: Refund) -> bool:
        """Whether it waits for an attempt that may be made now."""
        due = refund.next_attempt_at
        return self.waits_for_an_attempt(refund) and (due is None or due <= self._clock())

    # ---- reserve

    def _reserve(
        self,
        request: RefundRequest,
        before: Refund | None,
        order: Order | None,
        status: TransactionStatus | Refused | None,
        origin: Origin,
        seconds_left: SecondsLeft,
    ) -> tuple[Refund, Cancellation] | Refusal | NotNow:
        """`status`: Indodana's answer, where it was asked already. Of an order that the ledger knows it decides
        nothing: an order with refunds may read as cancelled."""
        upstream: UpstreamSaid | None = None
        for _ in range(RESERVE_TRIES):
            if before and before.reserved_amount is not None:  # it kept its reservation while it waited
                amount, transaction_amount = before.reserved_amount, before.transaction_amount
            else:
                if order is None:
                    asked = status or self._ask_status(request.order, seconds_left)
                    if isinstance(asked, NotNow):
                        return asked
                    opened = _opened(asked)
                    if not isinstance(opened, tuple):
                        return opened
                    order, upstream = opened
                if failure := too_much(request.amount, order):
                    return Refusal(failure)
                amount = order.refundable if request.amount is None else request.amount
                transaction_amount = order.amount
            after = self._submitting(request, before, amount, transaction_amount, origin)
            # What will be sent is made before anything is written: what can't be sent must not become UNKNOWN.
            sent = cancellation(after)
            record = audit.transition_record(before, after, origin, upstream=upstream)
            try:
                self._write(before, after, record, seconds_left, order=order, exact=request.amount is None)
            except OrderChanged as changed:
                order = changed.current
            else:
                if order:
                    self._remember(request.order, order, reserved=amount)
                return after, sent
        raise LedgerBusy("the order's sums changed faster than they could be reserved")

    def _remember(self, key: OrderKey, order: Order, *, reserved: Decimal) -> None:
        if len(self.known_orders) >= KNOWN_ORDERS:
            self.known_orders.clear()
        left, now_reserved = order.refundable - reserved, order.reserved + reserved
        self.known_orders[key] = replace(order, refundable=left, reserved=now_reserved, stored=True)

    def _ask_status(self, key: OrderKey, seconds_left: SecondsLeft) -> TransactionStatus | Refused | NotNow:
        if seconds_left() < STATUS_BUDGET_SECONDS + SETTLE_SECONDS:
            return NotNow("too little time was left to ask for the order's status")
        try:
            return self._indodana.check_status(key.merchant_id, key.merchant_order_id)
        except Refused as refused:
            return refused
        except IndodanaError as error:
            self._on_upstream_error(error)
            return NotNow(
                f"the order's status could not be asked: {error}",
                error.retry_after_seconds,
                said(error),
                unanswered=isinstance(error, OutcomeUnknown | ConnectionFailed),
            )

    def _submitting(
        self,
        request: RefundRequest,
        before: Refund | None,
        amount: Decimal,
        transaction: Decimal | None,
        origin: Origin,
    ) -> Refund:
        at = self._clock()
        changes: dict[str, Any] = {
            "reserved_amount": amount,
            "transaction_amount": transaction,
            "lease_until": at + timedelta(seconds=LEASE_SECONDS),
            "sendable_until": at + timedelta(seconds=LEASE_SECONDS),
            "next_attempt_at": None,
            "queue_message": None,
            "enqueued_at": None,
            "attempts": before.attempts + 1 if before else 1,
        }
        if before:
            return before.moved(RefundStatus.SUBMITTING, at, **changes)
        return first_record(request, RefundStatus.SUBMITTING, at, origin, **changes)

    # ---- submit

    def _submit(
        self, refund: Refund, sent: Cancellation, admission: Admission, seconds_left: SecondsLeft
    ) -> tuple[Verdict, Result]:
        """One POST, and what it means. It is not begun, and not written, unless its outcome can still be settled under
        the lease."""

        def is_time_for(seconds: float) -> bool:
            lease_left = (refund.lease_until - self._clock()).total_seconds() if refund.lease_until else 0.0
            return min(seconds_left(), lease_left) >= seconds

        def may_send() -> bool:
            # Time has passed since: for the secret, for connecting, or because the process was frozen.
            return is_time_for(WRITE_SECONDS) and self._breaker.still_admits(admission)

        if not is_time_for(SUBMIT_SECONDS):
            return surely_not_sent(refund, "too little time was left to send it"), Result.NOTHING
        try:
            accepted = self._indodana.cancel(refund.request.order.merchant_id, sent, may_send=may_send)
        except SendingTooLate:
            return surely_not_sent(refund, "held back right before it was sent"), Result.NOTHING
        except IndodanaError as error:
            if not isinstance(error, Refused):
                self._on_upstream_error(error)
            return verdict_on_error(refund, error, self._conflict_kinds), _result(error)
        return Verdict(RefundStatus.SUCCEEDED, upstream=accepted_said(accepted)), Result.ANSWERED

    # ---- settle

    def _settle(self, before: Refund, verdict: Verdict, origin: Origin, seconds_left: SecondsLeft) -> Refund:
        try:
            return self._write_outcome(before, verdict, origin, seconds_left)
        except RefundChanged as changed:
            late = changed.current
        # The lease ran out under us. What Indodana said of this very attempt is evidence all the same.
        if (
            late.status is RefundStatus.UNKNOWN
            and late.sendable_until == before.sendable_until
            and verdict.status in (RefundStatus.SUCCEEDED, RefundStatus.FAILED)
        ):
            try:
                return self._write_outcome(late, verdict, origin, seconds_left)
            except RefundChanged as changed:
                late = changed.current
        if verdict.status is RefundStatus.UNKNOWN:  # which contradicts nothing
            return late
        log.error(
            "late answer: refund %s of order %s is on record as %s, but its submission came to %s: %s",
            *(late.refund_id, _order(late), late.status, verdict.status, verdict.cause),
        )
        self._audit_log.record_best_effort(
            audit.late_evidence_record(late, self._clock(), origin, verdict.status, verdict.upstream)
        )
        return late

    def _write_outcome(self, before: Refund, verdict: Verdict, origin: Origin, seconds_left: SecondsLeft) -> Refund:
        unknown = verdict.status is RefundStatus.UNKNOWN
        after = before.moved(
            verdict.status,
            self._clock(),
            ambiguous=before.ambiguous or unknown,
            lease_until=None,
            next_attempt_at=self._next_attempt(verdict, before.attempts),
            queue_message=carried_by(origin) if verdict.status is RefundStatus.QUEUED else None,
            failure=verdict.failure,
        )
        record = audit.transition_record(before, after, origin, cause=verdict.cause, upstream=verdict.upstream)
        try:
            self._write(before, after, record, seconds_left)
        except LedgerUnavailable as error:
            answered = verdict.upstream.status if verdict.upstream else None
            log.error(
                "refund %s of order %s was submitted and came to %s (HTTP %s, %s), which could not be written",
                *(after.refund_id, _order(after), verdict.status, answered, verdict.cause),
            )
            raise LedgerUnavailable("the refund was submitted, and its outcome could not be written") from error
        if unknown:
            cause = verdict.cause
            log.warning("the outcome of refund %s of order %s is unknown: %s", after.refund_id, _order(after), cause)
        return after

    def _write(
        self,
        before: Refund | None,
        after: Refund,
        record: Item,
        seconds_left: SecondsLeft,
        *,
        order: Order | None = None,
        exact: bool = False,
    ) -> None:
        """A transition, tried again while there is time where nobody knows whether it was written: it lands once.

        What is not written is not known to anybody, and becomes an operator's work.
        """
        for last_try in (False, False, True):
            try:
                self._ledger.transition(before, after, record, order=order, exact=exact)
            except LedgerUnavailable:
                if last_try or seconds_left() < SETTLE_SECONDS:
                    raise
            else:
                return

    def _next_attempt(self, verdict: Verdict, attempts: int) -> datetime | None:
        resubmits = self._ambiguous_refunds is AmbiguousRefunds.RESUBMIT and verdict.may_be_resubmitted
        if verdict.status is RefundStatus.QUEUED or (verdict.status is RefundStatus.UNKNOWN and resubmits):
            return self._clock() + timedelta(seconds=backoff_seconds(attempts, verdict.retry_after_seconds))
        return None


def _holds_its_money(refund: Refund | None) -> bool:
    return refund is not None and refund.reserved_amount is not None


def _opened(status: TransactionStatus | Refused) -> tuple[Order, UpstreamSaid] | Refusal | NotNow:
    """An order's first refund: it must be PAID, and its amount opens the order's sums."""
    if isinstance(status, Refused):
        if status.http_status == 404:
            failure = upstream_failure(FailureCode.ORDER_NOT_FOUND, "Indodana knows no such order", status)
        else:
            failure = upstream_failure(FailureCode.UPSTREAM_REFUSED, refusal_detail(status), status)
        return Refusal(failure, said(status))
    state = status.transaction_status
    answered = UpstreamSaid(200, f"transactionStatus {state}, amount {status.amount}")
    if state != "PAID":
        detail = f"only a PAID transaction can be refunded, and this one is {state}"
        return Refusal(Failure(FailureCode.TRANSACTION_NOT_PAID, detail), answered)
    if status.amount is None:
        return NotNow("Indodana's answer names no amount", upstream=answered)
    return Order.unopened(status.amount), answered


def _result(error: IndodanaError) -> Result:
    if isinstance(error, OutcomeUnknown):
        return Result.DOUBTFUL
    return Result.NOTHING if isinstance(error, NotSent) else Result.ANSWERED


def carried_by(origin: Origin) -> str:
    """The message that will carry a QUEUED refund on: the one in hand, or one that is still to be sent."""
    return origin.message or new_transition_id()


def too_much(amount: Decimal | None, order: Order) -> Failure | None:
    if order.refundable > 0 and (amount is None or amount <= order.refundable):
        return None
    asked = "all that remains" if amount is None else f"{amount} rupiah"
    detail = (
        f"{asked} was asked for, and {order.refundable} rupiah can be refunded: of {order.amount} paid, "
        f"{order.refunded} are refunded and {order.reserved} reserved by refunds under way"
    )
    return Failure(FailureCode.AMOUNT_EXCEEDS_REFUNDABLE, detail)


def _order(refund: Refund) -> str:
    return refund.request.order.partition
