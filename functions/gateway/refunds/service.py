"""What callers and the queue ask for: refunds that are made, replayed, refused and queued.

Money moves in the protocol alone (protocol.py). What people decide is in decisions.py.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from datetime import datetime, timedelta

from gateway.core import audit
from gateway.core.audit import AuditLog
from gateway.core.backoff import backoff_seconds
from gateway.core.errors import FieldError, IdempotencyKeyReused, InvalidRequest, RefundChanged
from gateway.core.ledger import Ledger, Seen
from gateway.core.model import (
    Failure,
    Origin,
    Refund,
    RefundRequest,
    RefundStatus,
    first_record,
    utc_now,
)
from gateway.core.protocol import NotNow, RefundProtocol, Refusal, SecondsLeft, carried_by, too_much
from gateway.core.upstream import UpstreamSaid
from gateway.refunds.queue import RefundQueue
from gateway.refunds.validation import KEY_LIST_RULE

log = logging.getLogger("refunds")


@dataclass(frozen=True)
class Answer:
    """What a request came to. A FAILED refund is an answer, too."""

    refund: Refund
    replayed: bool = False


class RefundWorkflow:
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

    # ---- what callers ask for

    def refund_now(self, request: RefundRequest, origin: Origin, seconds_left: SecondsLeft) -> Answer | Failure:
        """Refunds while the caller waits. What Indodana can't take now is QUEUED. A Failure: it was never begun.

        Raises InvalidRequest for a key that names none, IdempotencyKeyReused, LedgerUnavailable.
        """
        order, existing = self._known_or_read(request, origin)
        if existing:
            return self._replay(existing, request, origin)
        try:
            result = self._protocol.attempt(request, None, order, origin, seconds_left)
            if isinstance(result, NotNow):
                result = self._wait(request, None, result, origin)
        except RefundChanged as changed:
            return self._replay(changed.current, request, origin)
        if isinstance(result, Refusal):
            return self._refuse(request, result, origin)
        if result.status is RefundStatus.QUEUED:
            self._enqueue(result)
        return Answer(result)

    def refund_later(self, request: RefundRequest, origin: Origin) -> Answer | Failure:
        """Takes the refund on and leaves it to the queue. Raises as `refund_now`."""
        order, existing = self._read(request, origin)
        if existing:
            return self._replay(existing, request, origin)
        if order and (failure := too_much(request.amount, order)):
            return self._refuse(request, Refusal(failure), origin)
        try:
            refund = self._queue_up(request, origin, cause="asked to be done later", wait_seconds=0)
        except RefundChanged as changed:
            return self._replay(changed.current, request, origin)
        self._enqueue(refund)
        return Answer(refund)

    def read_ahead(self, requests: Iterable[RefundRequest]) -> list[Seen | None]:
        """What `work` would read of each, in one call; None: it must do so itself."""
        return self._ledger.read_ahead(list(requests))

    def work(
        self, request: RefundRequest, origin: Origin, seconds_left: SecondsLeft, seen: Seen | None = None
    ) -> Refund:
        """Takes a queued refund as far as it will go now. What it returns is on record, whatever its status.

        `seen` is what `read_ahead` saw: where it is old by now, the conditions of what is written tell.

        Raises as `refund_now`.
        """
        order, existing = self._with_key_checked(seen, request, origin) if seen else self._read(request, origin)
        if existing:
            existing = self._checked(existing, request, origin)
            if not self._protocol.is_due(existing):
                return existing
        try:
            result = self._protocol.attempt(request, existing, order, origin, seconds_left)
            if isinstance(result, Refusal):
                return self._fail(request, existing, result, origin)
            if isinstance(result, NotNow):
                return self._wait(request, existing, result, origin)
        except RefundChanged as changed:
            return self._checked(changed.current, request, origin)  # another worker has it
        return result

    def take_on(self, request: RefundRequest, origin: Origin) -> Refund:
        """Puts a queued refund on record without working it; recovery enqueues it. Raises as `refund_now`."""
        _, existing = self._read(request, origin)
        if existing:
            return self._checked(existing, request, origin)
        try:
            return self._queue_up(request, origin, cause="there was no time yet to work it", wait_seconds=0)
        except RefundChanged as changed:
            return self._checked(changed.current, request, origin)

    # ---- how

    def _known_or_read(self, request: RefundRequest, origin: Origin) -> Seen:
        """The order as this process last saw it, if that has the money: where that is old, or the refund exists, the
        reservation's conditions tell. Nothing is refused without reading."""
        order = self._protocol.known_orders.get(request.order)
        if order and not too_much(request.amount, order) and not (request.spelled_key or request.replay_only):
            return order, None
        return self._read(request, origin)

    def _read(self, request: RefundRequest, origin: Origin) -> Seen:
        return self._with_key_checked(self._ledger.read(request), request, origin)

    def _with_key_checked(self, seen: Seen, request: RefundRequest, origin: Origin) -> Seen:
        if request.replay_only and seen[1] is None:
            field = "idempotencyKey" if origin.message else "Idempotency-Key"
            raise InvalidRequest(FieldError(field, KEY_LIST_RULE))
        return seen

    def _replay(self, existing: Refund, request: RefundRequest, origin: Origin) -> Answer:
        try:
            return Answer(self._checked(existing, request, origin), replayed=True)
        except IdempotencyKeyReused:
            self._audit_log.record_best_effort(audit.reused_key_record(request, existing, self._clock(), origin))
            raise

    def _checked(self, existing: Refund, request: RefundRequest, origin: Origin) -> Refund:
        if not existing.request.asks_the_same_as(request):
            raise IdempotencyKeyReused(existing)
        return self._protocol.expire_lease(existing, origin) if self._protocol.lease_is_over(existing) else existing

    def _wait(self, request: RefundRequest, before: Refund | None, not_now: NotNow, origin: Origin) -> Refund:
        log.info("refund %s of order %s waits: %s", request.refund_id, request.order.partition, not_now.cause)
        if before is None:
            return self._queue_up(
                request,
                origin,
                cause=not_now.cause,
                upstream=not_now.upstream,
                wait_seconds=backoff_seconds(1, not_now.retry_after_seconds),
            )
        wait = backoff_seconds(before.attempts + 1, not_now.retry_after_seconds)
        return self._ledger.postpone(before, self._clock() + timedelta(seconds=wait), carried_by(origin))

    def _queue_up(
        self,
        request: RefundRequest,
        origin: Origin,
        *,
        cause: str,
        wait_seconds: float,
        upstream: UpstreamSaid | None = None,
    ) -> Refund:
        at = self._clock()
        due = at + timedelta(seconds=wait_seconds)
        refund = first_record(
            request, RefundStatus.QUEUED, at, origin, next_attempt_at=due, queue_message=carried_by(origin)
        )
        record = audit.transition_record(None, refund, origin, cause=cause, upstream=upstream)
        self._ledger.transition(None, refund, record)
        return refund

    def _fail(self, request: RefundRequest, before: Refund | None, refusal: Refusal, origin: Origin) -> Refund:
        """A queued refund has no caller to tell: its refusal is on record as a FAILED refund."""
        at = self._clock()
        if before:
            after = before.moved(
                RefundStatus.FAILED, at, failure=refusal.failure, next_attempt_at=None, queue_message=None
            )
        else:
            after = first_record(request, RefundStatus.FAILED, at, origin, failure=refusal.failure)
        record = audit.transition_record(before, after, origin, upstream=refusal.upstream)
        self._ledger.transition(before, after, record)
        return after

    def _refuse(self, request: RefundRequest, refusal: Refusal, origin: Origin) -> Answer | Failure:
        """The refusal is the answer, unless the same request, sent twice at once, has meanwhile taken the money."""
        _, twin = self._ledger.read(request)
        if twin:
            return self._replay(twin, request, origin)
        self._audit_log.record_best_effort(
            audit.refusal_record(request, refusal.failure, self._clock(), origin, refusal.upstream)
        )
        return refusal.failure

    def _enqueue(self, refund: Refund) -> None:
        """A message lost here costs time and no refund: recovery enqueues what stays QUEUED."""
        wait = (refund.next_attempt_at - self._clock()).total_seconds() if refund.next_attempt_at else 0.0
        if not self._queue.send(refund, delay_seconds=wait):
            log.warning("refund %s waits for recovery: it could not be enqueued", refund.refund_id)
