"""The refund protocol: reserve, submit, settle.

Indodana may not recognise a repeated refund, and a process can die at any point. So the intent is written before the
call and the outcome after it, and between the two writes the outcome is unknown:

    reserve   one write: the refund is SUBMITTING under a lease, its amount is reserved, an audit record is added
    submit    one POST to Indodana
    settle    one write: the outcome, the order's sums, an audit record

    died before reserve     nothing happened; the same request makes the refund
    died before settle      the lease expires; the refund becomes UNKNOWN and keeps its reservation
    died after settle       the same request reads the outcome

Nothing is attempted before the refund's `next_attempt_at`, or while the circuit breaker is open (breaker.py).
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

# A lease is longer than the timeout of the function that holds it (template.yaml: 29 s and 40 s), plus some seconds for
# clocks that differ: after it has expired, no process can still submit. It is not much longer, because a refund whose
# process died stays SUBMITTING until then.
LEASE_SECONDS = 45
# The longest that a write takes: the order lock (order_locks.py), then the AWS client with all its tries
# (runtime/aws.py). Writes that conflict are answered in milliseconds, and wait for 3.2 s in total (ledger.py).
SETTLE_SECONDS = 8
# The order's sums may change between reading and reserving; each try continues with the changed sums.
RESERVE_TRIES = 10
# Orders that this process has refunded before need no read for the next refund: 2 calls to AWS instead of 3.
KNOWN_ORDERS = 1000

# The time that must be left right before the POST is written: for an answer that is as slow as possible, and for its
# outcome. Before a submission begins, too. What comes in between (the secret, the connection) usually takes
# milliseconds. If it takes longer, the refund is not sent; so nothing is set aside for it.
SUBMIT_SECONDS = CANCEL_READ_SECONDS + SETTLE_SECONDS
# … before a refund is reserved: what is reserved and never settled becomes UNKNOWN.
RESERVE_SECONDS = 2 * SETTLE_SECONDS
# … before the worker begins with a refund: for a status check (2 s to connect, 5 s to answer), and the submission.
ATTEMPT_SECONDS = 7 + SUBMIT_SECONDS


@dataclass(frozen=True)
class Deferred:
    """Nothing was reserved or sent: the order's status is not known, or the circuit breaker is open."""

    cause: str
    retry_after_seconds: float | None = None
    upstream: UpstreamAnswer | None = None
    unanswered: bool = False  # Indodana was asked, and did not answer


@dataclass(frozen=True)
class Refusal:
    failure: Failure
    upstream: UpstreamAnswer | None = None


class RefundProtocol:
    """The only code that moves money, and the handling of expired leases."""

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
        self.known_orders: dict[OrderKey, Order] = {}  # their sums as this process last saw them; they may be old

    def attempt(
        self, request: RefundRequest, before: Refund | None, order: Order | None, context: RequestContext
    ) -> Refund | Refusal | Deferred:
        """Reserves, submits and settles. `before` and `order` are as they were read from the ledger.

        Raises RefundChanged if another process has changed the refund since, LedgerUnavailable.
        """
        admission = self._breaker.admit()
        if admission is Admission.WAIT:
            reserved_already = before is not None and before.reserved_amount is not None
            if order and not reserved_already and (failure := order.shortfall(request.amount)):
                return Refusal(failure)
            cause = "circuit breaker is open after an unknown outcome; refunds wait until Indodana answers again"
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
        """Makes the refund UNKNOWN: the lease's holder may have submitted it. Returns the refund as stored."""
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
        if refund.status is RefundStatus.UNKNOWN:  # its next attempt has a time if the stack resubmits
            return self._ambiguous_refunds is AmbiguousRefunds.RESUBMIT and refund.next_attempt_at is not None
        return refund.status is RefundStatus.QUEUED

    def is_due(self, refund: Refund) -> bool:
        """Whether it waits for an attempt, and may be attempted now."""
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
        """`status`: the probe's status check, if there was one. It decides nothing for an order in the ledger: Indodana
        may show an order with refunds as cancelled."""
        upstream: UpstreamAnswer | None = None
        for _ in range(RESERVE_TRIES):
            if before and before.reserved_amount is not None:  # a waiting refund kept its reservation
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
            if context.seconds_left() < RESERVE_SECONDS:
                return Deferred("not enough time left to reserve it", upstream=upstream)
            after = self._submitting(request, before, amount, transaction_amount, context)
            # The request is built before anything is written: if it fails, the refund must not become UNKNOWN.
            cancellation = cancellation_of(after)
            exact = request.amount is None
            try:
                self._write(before, after, context, RESERVE_SECONDS, upstream=upstream, order=order, exact=exact)
            except OrderChanged as changed:
                order = changed.current
            else:
                if order:
                    self._remember(request.order, order.plus(SumsChange.between(before, after)))
                return after, cancellation
        raise LedgerBusy("the order's sums kept changing while the refund was being reserved")

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
        """One POST, and its outcome. It is sent only if its outcome can still be settled before the lease expires."""

        def is_time_for(seconds: float) -> bool:
            lease_left = (refund.lease_until - self._clock()).total_seconds() if refund.lease_until else 0.0
            return min(context.seconds_left(), lease_left) >= seconds

        def may_send() -> bool:
            # Time has passed: reading the secret, connecting, or while the process was frozen.
            return is_time_for(SUBMIT_SECONDS) and self._breaker.still_admits(admission)

        if not is_time_for(SUBMIT_SECONDS):
            return not_sent(refund, "not enough time left to submit it"), AttemptResult.NOTHING
        try:
            accepted = self._indodana.cancel(refund.request.order.merchant_id, cancellation, may_send=may_send)
        except SendingTooLate:
            return not_sent(
                refund, "not sent: too little time left, or the circuit breaker opened"
            ), AttemptResult.NOTHING
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
        # The lease expired meanwhile. Indodana's answer to this attempt is still valid evidence.
        if (
            late.status is RefundStatus.UNKNOWN
            and late.sendable_until == before.sendable_until
            and outcome.status in (RefundStatus.SUCCEEDED, RefundStatus.FAILED)
        ):
            try:
                return self._write_outcome(late, outcome, context)
            except RefundChanged as changed:
                late = changed.current
        if outcome.status is RefundStatus.UNKNOWN:  # it contradicts nothing
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
            self._write(before, after, context, SETTLE_SECONDS, cause=outcome.cause, upstream=outcome.upstream)
        except LedgerUnavailable as error:
            http_status = outcome.upstream.status if outcome.upstream else None
            log.error(
                "outcome could not be recorded: refund %s of order %s was submitted, outcome %s (HTTP %s, %s)",
                *(after.refund_id, _order(after), outcome.status, http_status, outcome.cause),
            )
            raise LedgerUnavailable("the refund was submitted, but its outcome could not be recorded") from error
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
        seconds: float,
        *,
        cause: str | None = None,
        upstream: UpstreamAnswer | None = None,
        order: Order | None = None,
        exact: bool = False,
    ) -> None:
        """A transition, retried while so many seconds are left if it may not have been written; it takes effect at most
        once.

        An outcome that is not written is lost, and an operator must find it out.
        """
        for last_try in (False, False, True):
            try:
                self._ledger.transition(
                    before, after, context, cause=cause, upstream=upstream, order=order, exact=exact
                )
            except LedgerUnavailable:
                if last_try or context.seconds_left() < seconds:
                    raise
            else:
                return

    def _next_attempt(self, outcome: Outcome, attempts: int) -> datetime | None:
        resubmits = self._ambiguous_refunds is AmbiguousRefunds.RESUBMIT and outcome.may_be_resubmitted
        if outcome.status is RefundStatus.QUEUED or (outcome.status is RefundStatus.UNKNOWN and resubmits):
            return self._clock() + timedelta(seconds=backoff_seconds(attempts, outcome.retry_after_seconds))
        return None


def _open_order(status: TransactionStatus | Refused) -> tuple[Order, UpstreamAnswer] | Refusal | Deferred:
    """The first refund of an order adds the order to the ledger, with the amount that Indodana returns."""
    if isinstance(status, Refused):
        if status.http_status == 404:
            failure = upstream_failure(FailureCode.ORDER_NOT_FOUND, "Indodana has no such order", status)
        else:
            failure = refusal_failure(status)
        return Refusal(failure, answer_in(status))
    state = status.transaction_status
    upstream = UpstreamAnswer(200, f"transactionStatus {state}, amount {status.amount}")
    opened = Order.opened_by(state, status.amount)
    if opened is None:
        return Deferred("Indodana's answer has no amount", upstream=upstream)
    return Refusal(opened, upstream) if isinstance(opened, Failure) else (opened, upstream)


def _result(error: IndodanaError) -> AttemptResult:
    if isinstance(error, OutcomeUnknown):
        return AttemptResult.DOUBTFUL
    return AttemptResult.NOTHING if isinstance(error, NotSent) else AttemptResult.ANSWERED


def _order(refund: Refund) -> str:
    return refund.request.order.partition
