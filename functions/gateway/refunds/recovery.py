"""Recovery: what nobody is working on any more is found here, so that no refund stays open unseen."""

from __future__ import annotations

import logging
from collections.abc import Callable
from dataclasses import dataclass
from datetime import datetime

from gateway.core.correlation import correlated
from gateway.core.errors import LedgerUnavailable, RefundChanged
from gateway.core.ledger import Ledger
from gateway.core.model import Origin, Refund, RefundStatus, utc_now
from gateway.core.protocol import RefundProtocol, carried_by
from gateway.refunds.queue import RefundQueue

log = logging.getLogger("refunds")

# A refund's own message is due at its time; only when that passed a while ago is another one sent.
OVERDUE_SECONDS = 30


@dataclass
class Counts:
    """What one run found and did."""

    queued: int = 0
    submitting: int = 0
    unknown: int = 0
    oldest_queued_seconds: float = 0
    oldest_unknown_seconds: float = 0
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

    def run_once(self, origin: Origin) -> Counts:
        """Looks at every open refund once. What fails for one refund is logged, counted, and stops no other.

        Raises LedgerUnavailable where the open refunds can't be listed.
        """
        counts = Counts()
        for refund in self._ledger.open_refunds():
            if refund is None:
                counts.errors += 1
                continue
            with correlated(refund.correlation_id):
                try:
                    self._look_at(refund, counts, origin)
                except LedgerUnavailable:
                    log.exception("refund %s could not be recovered", refund.refund_id)
                    counts.errors += 1
        return counts

    def _look_at(self, refund: Refund, counts: Counts, origin: Origin) -> None:
        if self._protocol.lease_is_over(refund):
            refund = self._protocol.expire_lease(refund, origin)
            counts.leases_expired += refund.status is RefundStatus.UNKNOWN
        age = (self._clock() - refund.created_at).total_seconds()  # since it was asked for: tries don't make it younger
        match refund.status:
            case RefundStatus.QUEUED:
                counts.queued += 1
                counts.oldest_queued_seconds = max(counts.oldest_queued_seconds, age)
            case RefundStatus.SUBMITTING:
                counts.submitting += 1
            case RefundStatus.UNKNOWN:
                counts.unknown += 1
                counts.oldest_unknown_seconds = max(counts.oldest_unknown_seconds, age)
        if self._is_overdue(refund) and self._enqueue(refund, origin):
            counts.enqueued += 1

    def _is_overdue(self, refund: Refund) -> bool:
        """Whether a message of its own should long have come. Each next one is sent when it is twice as long overdue,
        so a queue that stands still for a day holds a dozen messages of a refund, and not one for each run."""
        due = refund.next_attempt_at
        if due is None or not self._protocol.waits_for_an_attempt(refund):
            return False
        last = (refund.enqueued_at - due).total_seconds() if refund.enqueued_at else 0.0
        return (self._clock() - due).total_seconds() >= max(OVERDUE_SECONDS, 2 * last)

    def _enqueue(self, refund: Refund, origin: Origin) -> bool:
        """Notes the message first: dying between the two costs a wait, the other way round a flood of messages."""
        try:
            noted = self._ledger.note_message(refund, carried_by(origin), self._clock())
        except RefundChanged:
            return False  # someone has just worked on it
        return self._queue.send(noted)
