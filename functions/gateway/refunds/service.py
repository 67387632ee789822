"""Refund requests of callers and of the queue: makes, replays, refuses and queues refunds.

Only the protocol moves money (protocol.py). People's decisions are in decisions.py.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterable
from dataclasses import dataclass, replace
from datetime import datetime, timedelta

from gateway.core import audit
from gateway.core.audit import AuditLog
from gateway.core.backoff import backoff_seconds
from gateway.core.context import RequestContext
from gateway.core.errors import (
    FieldError,
    IdempotencyKeyReused,
    InvalidRequest,
    LedgerUnavailable,
    NotFound,
    QueueUnavailable,
    RefundChanged,
)
from gateway.core.ledger import Ledger, Snapshot
from gateway.core.model import Failure, Order, Refund, RefundPointer, RefundRequest, new_refund, utc_now
from gateway.core.protocol import SETTLE_SECONDS, Deferred, RefundProtocol, Refusal
from gateway.core.transitions import RefundStatus
from gateway.core.upstream import UpstreamAnswer
from gateway.refunds.queue import RefundQueue
from gateway.refunds.validation import KEY_LIST_RULE

log = logging.getLogger("gateway")


@dataclass(frozen=True)
class RefundResult:
    """The result of a request. A FAILED refund is a result, too."""

    refund: Refund
    replayed: bool = False


class RefundService:
    def __init__(
        self,
        protocol: RefundProtocol,
        ledger: Ledger,
        audit_log: AuditLog,
        queue: RefundQueue,
        *,
        clock: Callable[[], datetime] = utc_now,
    ) -> None:
        self._protocol = protocol
        self._ledger = ledger
        self._audit_log = audit_log
        self._queue = queue
        self._clock = clock

    # ---- requests

    def refund_now(self, request: RefundRequest, context: RequestContext) -> RefundResult | Failure:
        """Refunds while the caller waits; QUEUED if Indodana is not available. A Failure means that no refund exists.

        Raises InvalidRequest for a key that is a list, IdempotencyKeyReused, LedgerUnavailable.
        """
        order, existing = self._known_or_read(request, context)
        if existing:
            return self._replay(existing, request, context)
        try:
            result = self._protocol.attempt(request, None, order, context)
            if isinstance(result, Deferred):
                result = self._defer(request, None, result, context)
        except RefundChanged as changed:
            return self._replay(changed.current, request, context)
        if isinstance(result, Refusal):
            return self._refuse(request, result, context)
        if result.status is RefundStatus.QUEUED:
            self._enqueue(result, context)
        return RefundResult(result)

    def refund_later(self, request: RefundRequest, context: RequestContext) -> RefundResult | Failure:
        """Records the refund and queues it. Raises as `refund_now`."""
        order, existing = self._read(request, context)
        if existing:
            return self._replay(existing, request, context)
        if order and (failure := order.shortfall(request.amount)):
            return self._refuse(request, Refusal(failure), context)
        try:
            refund = self._record_queued(request, context, cause="requested with Prefer: respond-async", wait_seconds=0)
        except RefundChanged as changed:
            return self._replay(changed.current, request, context)
        self._enqueue(refund, context)
        return RefundResult(refund)

    def prefetch(self, wanted: Iterable[RefundRequest | RefundPointer]) -> list[Snapshot | None]:
        """Reads in one call what the messages of a batch need; None: each must read it itself."""
        return self._ledger.prefetch(list(wanted))

    def work(self, request: RefundRequest, context: RequestContext, prefetched: Snapshot | None = None) -> Refund:
        """Processes a request by queue as far as possible now. Returns the refund as stored, in any status.

        `prefetched` is what `prefetch` read. If it is old by now, the conditions of the writes find out.

        Raises as `refund_now`.
        """
        snapshot = prefetched or self._ledger.read(request)
        order, existing = _refuse_new_key_list(snapshot, request, context)
        if existing:
            return self._continue(self._matching(existing, request, context), order, context)
        return self._attempt(request, None, order, context)

    def work_recorded(
        self, wanted: RefundRequest | RefundPointer, context: RequestContext, prefetched: Snapshot | None = None
    ) -> Refund:
        """The same for a message that can make no refund: it only says which one on record to look at.

        Raises as `recorded`.
        """
        order, refund, context = self._recorded(prefetched or self._ledger.read(wanted), wanted, context)
        return self._continue(refund, order, context)

    def take_on(self, request: RefundRequest, context: RequestContext) -> Refund:
        """Records a queued refund without attempting it; recovery will enqueue it. Raises as `refund_now`."""
        _, existing = self._read(request, context)
        if existing:
            return self._matching(existing, request, context)
        try:
            return self._record_queued(request, context, cause="not enough time left to attempt it", wait_seconds=0)
        except RefundChanged as changed:
            return self._matching(changed.current, request, context)

    def recorded(self, wanted: RefundRequest | RefundPointer, context: RequestContext) -> Refund:
        """The refund on record that a message names.

        Raises NotFound, IdempotencyKeyReused if the message is a request for another refund, LedgerUnavailable.
        """
        return self._recorded(self._ledger.read(wanted), wanted, context)[1]

    # ---- how

    def _recorded(
        self, snapshot: Snapshot, wanted: RefundRequest | RefundPointer, context: RequestContext
    ) -> tuple[Order | None, Refund, RequestContext]:
        """Acts for who asked for the refund, not for who sent the message."""
        order, refund = snapshot
        if refund is None:
            raise NotFound("refundId: the ledger has no refund with this refundId for this merchant and order")
        request = wanted if isinstance(wanted, RefundRequest) else refund.request
        context = replace(context, actor=refund.created_by)
        return order, self._matching(refund, request, context), context

    def _continue(self, refund: Refund, order: Order | None, context: RequestContext) -> Refund:
        """Attempts a refund on record, if it is due; what was requested is on record, too."""
        return self._attempt(refund.request, refund, order, context) if self._protocol.is_due(refund) else refund

    def _attempt(
        self, request: RefundRequest, before: Refund | None, order: Order | None, context: RequestContext
    ) -> Refund:
        """An attempt for which no caller waits: what it came to is on record."""
        try:
            result = self._protocol.attempt(request, before, order, context)
            if isinstance(result, Refusal):
                return self._fail(request, before, result, context)
            if isinstance(result, Deferred):
                return self._defer(request, before, result, context)
        except RefundChanged as changed:
            return self._matching(changed.current, request, context)  # another worker has processed it
        return result

    def _known_or_read(self, request: RefundRequest, context: RequestContext) -> Snapshot:
        """The order as this process last saw it, if enough is refundable, else what the ledger has. If those sums are
        old, or the refund exists, the reservation's conditions find out. Nothing is refused without reading."""
        order = self._protocol.known_orders.get(request.order)
        if order and not order.shortfall(request.amount) and not (request.spelled_key or request.replay_only):
            return Snapshot(order, None)
        return self._read(request, context)

    def _read(self, request: RefundRequest, context: RequestContext) -> Snapshot:
        return _refuse_new_key_list(self._ledger.read(request), request, context)

    def _replay(self, existing: Refund, request: RefundRequest, context: RequestContext) -> RefundResult:
        try:
            return RefundResult(self._matching(existing, request, context), replayed=True)
        except IdempotencyKeyReused:
            self._audit_log.record_best_effort(audit.reused_key_record(request, existing, self._clock(), context))
            raise

    def _matching(self, existing: Refund, request: RefundRequest, context: RequestContext) -> Refund:
        """The refund, after handling an expired lease. Raises IdempotencyKeyReused if another request made it."""
        if not existing.request.asks_the_same_as(request):
            raise IdempotencyKeyReused(existing)
        return (
            self._protocol.expire_lease(existing, context) if self._protocol.has_expired_lease(existing) else existing
        )

    def _defer(
        self, request: RefundRequest, before: Refund | None, deferred: Deferred, context: RequestContext
    ) -> Refund:
        log.info("refund %s of order %s deferred: %s", request.refund_id, request.order.partition, deferred.cause)
        if before is None:
            return self._record_queued(
                request,
                context,
                cause=deferred.cause,
                upstream=deferred.upstream,
                wait_seconds=backoff_seconds(1, deferred.retry_after_seconds),
            )
        wait = backoff_seconds(before.attempts + 1, deferred.retry_after_seconds)
        return self._ledger.postpone(before, self._clock() + timedelta(seconds=wait), context.carrier)

    def _record_queued(
        self,
        request: RefundRequest,
        context: RequestContext,
        *,
        cause: str,
        wait_seconds: float,
        upstream: UpstreamAnswer | None = None,
    ) -> Refund:
        at = self._clock()
        due = at + timedelta(seconds=wait_seconds)
        refund = new_refund(
            request, RefundStatus.QUEUED, at, context, next_attempt_at=due, queue_message=context.carrier
        )
        self._ledger.transition(None, refund, context, cause=cause, upstream=upstream)
        return refund

    def _fail(self, request: RefundRequest, before: Refund | None, refusal: Refusal, context: RequestContext) -> Refund:
        """No caller waits for a queued refund, so its refusal is stored as a FAILED refund."""
        at = self._clock()
        if before:
            after = before.transition_to(
                RefundStatus.FAILED, at, failure=refusal.failure, next_attempt_at=None, queue_message=None
            )
        else:
            after = new_refund(request, RefundStatus.FAILED, at, context, failure=refusal.failure)
        self._ledger.transition(before, after, context, upstream=refusal.upstream)
        return after

    def _refuse(self, request: RefundRequest, refusal: Refusal, context: RequestContext) -> RefundResult | Failure:
        """Returns the refusal, unless the same request, sent twice at the same time, has already made the refund.

        Raises LedgerUnavailable if that cannot be found out and recorded while the caller waits.
        """
        if context.seconds_left() < 2 * SETTLE_SECONDS:
            raise LedgerUnavailable("not enough time left to record the refusal")
        _, twin = self._ledger.read(request)
        if twin:
            return self._replay(twin, request, context)
        self._audit_log.record_best_effort(
            audit.refusal_record(request, refusal.failure, self._clock(), context, refusal.upstream)
        )
        return refusal.failure

    def _enqueue(self, refund: Refund, context: RequestContext) -> None:
        """A lost message only delays the refund: recovery enqueues a refund that stays QUEUED."""
        if context.seconds_left() < SETTLE_SECONDS:
            log.info("refund %s is left to recovery: not enough time left to enqueue it", refund.refund_id)
            return
        wait = (refund.next_attempt_at - self._clock()).total_seconds() if refund.next_attempt_at else 0.0
        try:
            self._queue.send(refund, delay_seconds=wait)
        except QueueUnavailable:
            log.exception("refund %s could not be enqueued; recovery will enqueue it", refund.refund_id)


def _refuse_new_key_list(snapshot: Snapshot, request: RefundRequest, context: RequestContext) -> Snapshot:
    """A key that is a list is only valid for a refund of an earlier release. Raises InvalidRequest."""
    if request.replay_only and snapshot.refund is None:
        field = "idempotencyKey" if context.message else "Idempotency-Key"
        raise InvalidRequest(FieldError(field, KEY_LIST_RULE))
    return snapshot
