"""The refund protocol: reserve, submit, settle.

Indodana may not recognise a repeated refund, and any call can die at any point. So the intent is written before the
call and the outcome after it, and between them the truth is "unknown":

    reserve   one write: the refund is SUBMITTING under a lease, the order's refundable is down by the amount, on record
    submit    one POST to Indodana
    settle    one write: the outcome, the order's sums, on record

    died before reserve     nothing happened; the same request makes it
    died before settle      the lease expires, and the refund becomes UNKNOWN with its reservation kept
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
from gateway.core.breaker import Admission, AttemptResult, CircuitBreaker
from gateway.core.context import RequestContext
from gateway.core.errors import LedgerBusy, LedgerUnavailable, OrderChanged, RefundChanged
from gateway.core.ledger import Ledger
from gateway.core.model import (
    AmbiguousRefunds,
    Failure,
    FailureCode,
    Order,
    OrderKey,
    Refund,
    RefundRequest,
    SumsChange,
    new_refund,
)
from gateway.core.outcome import ConflictKinds, Outcome, not_sent, outcome_of_error, refusal_failure, upstream_failure
from gateway.core.transitions import RefundStatus
from gateway.core.upstream import Indodana, UpstreamAnswer, answer_in, cancellation_of
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

log = logging.getLogger("gateway")

# A lease outlives the function that holds it (template.yaml: 29 s and 40 s; Lambda kills it then), with some seconds
# for clocks that differ: once it has expired, nobody can be about to submit any more. It is not much longer, for a
# refund whose process died shows as SUBMITTING until then.
LEASE_SECONDS = 45
# One try of a write at its longest: its order lock (order_locks.py), connecting and reading, as the AWS clients do
# (runtime/aws.py).
SETTLE_SECONDS = 7
# The order's sums may change between reading and reserving; each round reads what changed them.
RESERVE_TRIES = 10
# A further refund of an order that this process has refunded before goes without a read: 2 calls to AWS instead of 3.
KNOWN_ORDERS = 1000

SUBMIT_SECONDS = CANCEL_BUDGET_SECONDS + SETTLE_SECONDS  # what must be left before a submission begins
WRITE_SECONDS = CANCEL_READ_SECONDS + SETTLE_SECONDS  # … and right before its POST is written


@dataclass(frozen=True)
class Deferred:
    """Nothing was reserved and nothing sent: Indodana could not say whether the order is paid, or must not be asked."""

    cause: str
    retry_after_seconds: float | None = None
    upstream: UpstreamAnswer | None = None
    unanswered: bool = False  # Indodana was asked, and did not answer


@dataclass(frozen=True)
class Refusal:
    failure: Failure
    upstream: UpstreamAnswer | None = None


class RefundProtocol:
    """What moves money, and what an expired lease means. Everything else asks for a refund or reads it."""

    def __init__(
        self,
        ledger: Ledger,
        audit_log: AuditLog,
        indodana: Indodana,
        *,
        ambiguous_refunds: AmbiguousRefunds,
        conflict_kinds: ConflictKinds,
        breaker: CircuitBreaker,
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
        self, request: RefundRequest, before: Refund | None, order: Order | None, context: RequestContext
    ) -> Refund | Refusal | Deferred:
        """Reserves, submits and settles. `before` and `order` are what was on record when they were read.

        Raises RefundChanged where somebody else has changed the refund since, LedgerUnavailable.
        """
        admission = self._breaker.admit()
        if admission is Admission.WAIT:
            reserved_already = before is not None and before.has_reservation
            if order and not reserved_already and (failure := order.shortfall(request.amount)):
                return Refusal(failure)
            cause = "Indodana's last answer left an outcome unknown; refunds wait until it answers again"
            return Deferred(cause, self._breaker.wait_seconds)
        result = AttemptResult.NOTHING
        try:
            status = self._ask_status(request.order, context) if admission is Admission.PROBE else None
            if isinstance(status, Deferred):
                result = AttemptResult.DOUBTFUL if status.unanswered else AttemptResult.NOTHING
                return status
            reserved = self._reserve(request, before, order, status, context)
            if isinstance(reserved, Refusal | Deferred):
                return reserved
            refund, cancellation = reserved
            outcome, result = self._submit(refund, cancellation, admission, context)
        finally:
            self._breaker.report(admission, result)
        return self._settle(refund, outcome, context)

    def expire_lease(self, refund: Refund, context: RequestContext) -> Refund:
        """The lease's holder is gone, and nobody knows how far it came: UNKNOWN. Returns what is on record then."""
        cause = "lease expired before the outcome was recorded"
        after = refund.transition_to(
            RefundStatus.UNKNOWN,
            self._clock(),
            ambiguous=True,
            lease_until=None,
            next_attempt_at=self._next_attempt(Outcome(RefundStatus.UNKNOWN, cause), refund.attempts),
        )
        try:
            self._ledger.transition(refund, after, context, cause=cause)
        except RefundChanged as changed:
            return changed.current
        log.warning("outcome of refund %s of order %s is unknown: %s", after.refund_id, _order(after), cause)
        return after

    def has_expired_lease(self, refund: Refund) -> bool:
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
        context: RequestContext,
    ) -> tuple[Refund, Cancellation] | Refusal | Deferred:
        """`status`: Indodana's answer, where it was asked already. Of an order that the ledger knows it decides
        nothing: an order with refunds may read as cancelled."""
        upstream: UpstreamAnswer | None = None
        for _ in range(RESERVE_TRIES):
            if before and before.reserved_amount is not None:  # it kept its reservation while it waited
                amount, transaction_amount = before.reserved_amount, before.transaction_amount
            else:
                if order is None:
                    answer = status or self._ask_status(request.order, context)
                    if isinstance(answer, Deferred):
                        return answer
                    opened = _open_order(answer)
                    if not isinstance(opened, tuple):
                        return opened
                    order, upstream = opened
                if failure := order.shortfall(request.amount):
                    return Refusal(failure)
                amount = order.refundable if request.amount is None else request.amount
                transaction_amount = order.amount
            after = self._submitting(request, before, amount, transaction_amount, context)
            # What will be sent is made before anything is written: what can't be sent must not become UNKNOWN.
            cancellation = cancellation_of(after)
            exact = request.amount is None
            try:
                self._write(before, after, context, upstream=upstream, order=order, exact=exact)
            except OrderChanged as changed:
                order = changed.current
            else:
                if order:
                    self._remember(request.order, order.plus(SumsChange.between(before, after)))
                return after, cancellation
        raise LedgerBusy("the order's sums changed faster than they could be reserved")

    def _remember(self, key: OrderKey, order: Order) -> None:
        if len(self.known_orders) >= KNOWN_ORDERS:
            self.known_orders.clear()
        self.known_orders[key] = replace(order, stored=True)

    def _ask_status(self, key: OrderKey, context: RequestContext) -> TransactionStatus | Refused | Deferred:
        if context.seconds_left() < STATUS_BUDGET_SECONDS + SETTLE_SECONDS:
            return Deferred("not enough time left to check the order's status")
        try:
            return self._indodana.check_status(key.merchant_id, key.merchant_order_id)
        except Refused as refused:
            return refused
        except IndodanaError as error:
            self._on_upstream_error(error)
            return Deferred(
                f"status check failed: {error}",
                error.retry_after_seconds,
                answer_in(error),
                unanswered=isinstance(error, OutcomeUnknown | ConnectionFailed),
            )

    def _submitting(
        self,
        request: RefundRequest,
        before: Refund | None,
        amount: Decimal,
        transaction: Decimal | None,
        context: RequestContext,
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
            return before.transition_to(RefundStatus.SUBMITTING, at, **changes)
        return new_refund(request, RefundStatus.SUBMITTING, at, context, **changes)

    # ---- submit

    def _submit(
        self, refund: Refund, cancellation: Cancellation, admission: Admission, context: RequestContext
    ) -> tuple[Outcome, AttemptResult]:
        """One POST, and what it means. It is not begun, and not written, unless its outcome can still be settled under
        the lease."""

        def is_time_for(seconds: float) -> bool:
            lease_left = (refund.lease_until - self._clock()).total_seconds() if refund.lease_until else 0.0
            return min(context.seconds_left(), lease_left) >= seconds

        def may_send() -> bool:
            # Time has passed since: for the secret, for connecting, or because the process was frozen.
            return is_time_for(WRITE_SECONDS) and self._breaker.still_admits(admission)

        if not is_time_for(SUBMIT_SECONDS):
            return not_sent(refund, "not enough time left to submit it"), AttemptResult.NOTHING
        try:
            accepted = self._indodana.cancel(refund.request.order.merchant_id, cancellation, may_send=may_send)
        except SendingTooLate:
            return not_sent(refund, "held back right before it was sent"), AttemptResult.NOTHING
        except IndodanaError as error:
            if not isinstance(error, Refused):
                self._on_upstream_error(error)
            return outcome_of_error(refund, error, self._conflict_kinds), _result(error)
        upstream = UpstreamAnswer.of(accepted.http_status, accepted.evidence)
        return Outcome(RefundStatus.SUCCEEDED, upstream=upstream), AttemptResult.ANSWERED

    # ---- settle

    def _settle(self, before: Refund, outcome: Outcome, context: RequestContext) -> Refund:
        try:
            return self._write_outcome(before, outcome, context)
        except RefundChanged as changed:
            late = changed.current
        # The lease expired meanwhile. What Indodana said of this very attempt is evidence all the same.
        if (
            late.status is RefundStatus.UNKNOWN
            and late.sendable_until == before.sendable_until
            and outcome.status in (RefundStatus.SUCCEEDED, RefundStatus.FAILED)
        ):
            try:
                return self._write_outcome(late, outcome, context)
            except RefundChanged as changed:
                late = changed.current
        if outcome.status is RefundStatus.UNKNOWN:  # which contradicts nothing
            return late
        log.error(
            "late response: refund %s of order %s is already %s, but the outcome of its submission was %s: %s",
            *(late.refund_id, _order(late), late.status, outcome.status, outcome.cause),
        )
        self._audit_log.record_best_effort(
            audit.late_evidence_record(late, self._clock(), context, outcome.status, outcome.upstream)
        )
        return late

    def _write_outcome(self, before: Refund, outcome: Outcome, context: RequestContext) -> Refund:
        unknown = outcome.status is RefundStatus.UNKNOWN
        after = before.transition_to(
            outcome.status,
            self._clock(),
            ambiguous=before.ambiguous or unknown,
            lease_until=None,
            next_attempt_at=self._next_attempt(outcome, before.attempts),
            queue_message=context.carrier if outcome.status is RefundStatus.QUEUED else None,
            failure=outcome.failure,
        )
        try:
            self._write(before, after, context, cause=outcome.cause, upstream=outcome.upstream)
        except LedgerUnavailable as error:
            http_status = outcome.upstream.status if outcome.upstream else None
            log.error(
                "outcome could not be recorded: refund %s of order %s was submitted, outcome %s (HTTP %s, %s)",
                *(after.refund_id, _order(after), outcome.status, http_status, outcome.cause),
            )
            raise LedgerUnavailable("the refund was submitted, and its outcome could not be recorded") from error
        if unknown:
            log.warning(
                "outcome of refund %s of order %s is unknown: %s", after.refund_id, _order(after), outcome.cause
            )
        return after

    def _write(
        self,
        before: Refund | None,
        after: Refund,
        context: RequestContext,
        *,
        cause: str | None = None,
        upstream: UpstreamAnswer | None = None,
        order: Order | None = None,
        exact: bool = False,
    ) -> None:
        """A transition, tried again while there is time where nobody knows whether it was written: it lands once.

        What is not written is not known to anybody, and becomes an operator's work.
        """
        for last_try in (False, False, True):
            try:
                self._ledger.transition(
                    before, after, context, cause=cause, upstream=upstream, order=order, exact=exact
                )
            except LedgerUnavailable:
                if last_try or context.seconds_left() < SETTLE_SECONDS:
                    raise
            else:
                return

    def _next_attempt(self, outcome: Outcome, attempts: int) -> datetime | None:
        resubmits = self._ambiguous_refunds is AmbiguousRefunds.RESUBMIT and outcome.may_be_resubmitted
        if outcome.status is RefundStatus.QUEUED or (outcome.status is RefundStatus.UNKNOWN and resubmits):
            return self._clock() + timedelta(seconds=backoff_seconds(attempts, outcome.retry_after_seconds))
        return None


def _open_order(status: TransactionStatus | Refused) -> tuple[Order, UpstreamAnswer] | Refusal | Deferred:
    """An order's first refund opens its sums by what Indodana says of it."""
    if isinstance(status, Refused):
        if status.http_status == 404:
            failure = upstream_failure(FailureCode.ORDER_NOT_FOUND, "Indodana knows no such order", status)
        else:
            failure = refusal_failure(status)
        return Refusal(failure, answer_in(status))
    state = status.transaction_status
    upstream = UpstreamAnswer(200, f"transactionStatus {state}, amount {status.amount}")
    opened = Order.opened_by(state, status.amount)
    if opened is None:
        return Deferred("Indodana's answer names no amount", upstream=upstream)
    return Refusal(opened, upstream) if isinstance(opened, Failure) else (opened, upstream)


def _result(error: IndodanaError) -> AttemptResult:
    if isinstance(error, OutcomeUnknown):
        return AttemptResult.DOUBTFUL
    return AttemptResult.NOTHING if isinstance(error, NotSent) else AttemptResult.ANSWERED


def _order(refund: Refund) -> str:
    return refund.request.order.partition
