"""Recovery: finds open refunds that no process is working on, so that none is forgotten."""

from __future__ import annotations

import logging
from collections.abc import Callable
from dataclasses import dataclass
from datetime import datetime

from gateway.core.context import RequestContext
from gateway.core.correlation import correlated
from gateway.core.errors import LedgerUnavailable, QueueUnavailable, RefundChanged
from gateway.core.ledger import Ledger
from gateway.core.model import Refund, utc_now
from gateway.core.protocol import RefundProtocol
from gateway.core.transitions import RefundStatus
from gateway.refunds.queue import RefundQueue

log = logging.getLogger("gateway")

# A refund's own message is due at its time. Another one is sent only if that time passed a while ago.
OVERDUE_SECONDS = 30


@dataclass
class Counts:
    """What one run found and did."""

    queued: int = 0
    submitting: int = 0
    unknown: int = 0
    oldest_queued_seconds: float = 0
    oldest_unknown_seconds: float = 0
    oldest_submitting_seconds: float = 0
    leases_expired: int = 0
    enqueued: int = 0
    errors: int = 0


class Recovery:
    def __init__(
        self,
        ledger: Ledger,
        protocol: RefundProtocol,
        queue: RefundQueue,
        *,
        clock: Callable[[], datetime] = utc_now,
    ) -> None:
        self._ledger = ledger
        self._protocol = protocol
        self._queue = queue
        self._clock = clock

    def run_once(self, context: RequestContext) -> Counts:
        """Checks every open refund once. A failure for one refund is logged and counted; the others continue.

        Raises LedgerUnavailable if the open refunds can't be listed.
        """
        counts = Counts()
        for refund in self._ledger.all_open_refunds():
            if refund is None:
                counts.errors += 1
                continue
            with correlated(refund.correlation_id):
                try:
                    self._recover(refund, counts, context)
                except LedgerUnavailable:
                    log.exception("recovery of refund %s failed", refund.refund_id)
                    counts.errors += 1
        return counts

    def _recover(self, refund: Refund, counts: Counts, context: RequestContext) -> None:
        if refund.status is RefundStatus.SUBMITTING:
            # As it was found, so that a lease that recovery fails to end shows.
            submitting = (self._clock() - refund.updated_at).total_seconds()
            counts.oldest_submitting_seconds = max(counts.oldest_submitting_seconds, submitting)
        if self._protocol.has_expired_lease(refund):
            refund = self._protocol.expire_lease(refund, context)
            counts.leases_expired += refund.status is RefundStatus.UNKNOWN
        age = (self._clock() - refund.created_at).total_seconds()  # since it was requested: attempts do not reset it
        match refund.status:
            case RefundStatus.QUEUED:
                counts.queued += 1
                counts.oldest_queued_seconds = max(counts.oldest_queued_seconds, age)
            case RefundStatus.SUBMITTING:
                counts.submitting += 1
            case RefundStatus.UNKNOWN:
                counts.unknown += 1
                counts.oldest_unknown_seconds = max(counts.oldest_unknown_seconds, age)
        if self._is_overdue(refund) and self._enqueue(refund, context):
            counts.enqueued += 1

    def _is_overdue(self, refund: Refund) -> bool:
        """Whether its message should have arrived long ago. The wait doubles with each message sent for it, so a queue
        that stops for a day gets a dozen messages of a refund, not one per run."""
        due = refund.next_attempt_at
        if due is None or not self._protocol.waits_for_an_attempt(refund):
            return False
        last = (refund.enqueued_at - due).total_seconds() if refund.enqueued_at else 0.0
        return (self._clock() - due).total_seconds() >= max(OVERDUE_SECONDS, 2 * last)

    def _enqueue(self, refund: Refund, context: RequestContext) -> bool:
        """Records the message before it is sent: a crash between the two only costs a wait; the other order could cause
        a flood of messages."""
        try:
            self._queue.send(self._ledger.record_message(refund, context.carrier, self._clock()))
        except RefundChanged:
            return False  # another process has just worked on it
        except QueueUnavailable:
            log.exception("refund %s could not be enqueued; a later run will enqueue it", refund.refund_id)
            return False
        return True
