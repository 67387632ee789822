"""Recovery: finds open refunds that no process is working on, so that none is forgotten.

It looks at all open refunds page by page. A run that is out of time stops, and the next one continues there (sweep.py).
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, fields, replace
from datetime import datetime, timedelta
from functools import partial
from typing import Any, NamedTuple

from gateway.core.context import RequestContext
from gateway.core.correlation import correlated
from gateway.core.errors import LedgerUnavailable, RefundChanged
from gateway.core.ledger import Found, FoundPage, Ledger
from gateway.core.model import Refund, utc_now
from gateway.core.protocol import RefundProtocol
from gateway.core.transitions import RefundStatus
from gateway.refunds.dead_letters import DeadLetters
from gateway.refunds.queue import BATCH_SIZE, RefundQueue
from gateway.refunds.sweep import Sweep, SweepStore, Totals
from gateway.refunds.threads import in_threads

log = logging.getLogger("gateway")

# A refund's own message is due at its time. Another one is sent only if that time passed a while ago.
OVERDUE_SECONDS = 30
PAGE_SIZE = 1000  # of an index whose items have about 700 bytes: a page of DynamoDB's has 1 MB at most
# Each thread works on a refund's writes, and has a connection of its own (runtime/aws.py).
THREADS = 10
# The time that must be left to begin with a page or a refund: one call to AWS with all its tries (runtime/aws.py).
STOP_SECONDS = 20
# An unreadable item is logged once in this time, by one of all runs; it is counted in each.
LOG_AGAIN = timedelta(hours=1)
MOST_LOGGED = 100  # … and at most so many items: each is in the sweep's item


@dataclass
class Counts:
    """What a page or a run found and did."""

    looked_at: int = 0
    queued: int = 0
    submitting: int = 0
    unknown: int = 0
    unreadable: int = 0
    oldest_queued_seconds: float = 0
    oldest_submitting_seconds: float = 0
    oldest_unknown_seconds: float = 0
    leases_expired: int = 0
    enqueued: int = 0
    errors: int = 0

    def add(self, page: Counts) -> None:
        for one in fields(self):
            both = getattr(self, one.name), getattr(page, one.name)
            setattr(self, one.name, max(both) if one.name.startswith("oldest_") else sum(both))


class _Worked(NamedTuple):
    """A refund that something had to be done for."""

    refund: Refund  # as it is now
    failed: bool = False
    to_send: bool = False  # its message is recorded


class Recovery:
    def __init__(
        self,
        ledger: Ledger,
        protocol: RefundProtocol,
        queue: RefundQueue,
        sweeps: SweepStore,
        dead_letters: DeadLetters,
        *,
        clock: Callable[[], datetime] = utc_now,
        run_all: Callable[[Sequence[Callable[[], int]]], list[int]] = in_threads,
        on_page: Callable[[Counts, Totals], None] = lambda _page, _totals: None,
        on_failures: Callable[[int], None] = lambda _: None,
        page_size: int = PAGE_SIZE,
    ) -> None:
        """`on_page` gets the counts of each page, and what the sweep has found so far. `on_failures` gets the number of
        failures that are in no page's counts, if there are any."""
        self._ledger = ledger
        self._protocol = protocol
        self._queue = queue
        self._sweeps = sweeps
        self._dead_letters = dead_letters
        self._clock = clock
        self._run_all = run_all
        self._on_page = on_page
        self._on_failures = on_failures
        self._page_size = page_size

    def run_once(self, context: RequestContext) -> Counts:
        """Continues the sweep to its end, or until time is short; then records dead letters.

        A failure for one refund is logged and counted; the others continue. Raises LedgerUnavailable if the open
        refunds can't be listed.
        """
        counts = Counts()
        sweep: Sweep | None = self._sweeps.read()
        while sweep and context.seconds_left() >= STOP_SECONDS:
            sweep = self._next_page(sweep, counts, context)
        rest = Counts()
        if sweep:  # time is short
            self._store(sweep, sweep, rest)
        rest.errors += self._dead_letters.record_some()
        if rest.errors:
            self._on_failures(rest.errors)
        counts.add(rest)
        return counts

    # ---- the sweep

    def _next_page(self, sweep: Sweep, counts: Counts, context: RequestContext) -> Sweep | None:
        """None: the sweep has ended, or this run must stop."""
        page = self._ledger.open_refunds_after(sweep.start, self._page_size)
        result = Counts()
        moved = self._move_past(sweep, page, result)
        if moved is None:
            log.info("another recovery run continues the sweep; this one stops")
            return None
        reached = self._work_on(page.found, result, context)
        totals = _plus(sweep.totals, result)
        self._on_page(result, totals)
        counts.add(result)
        if reached < len(page.found):
            start = page.found[reached - 1].key if reached else sweep.start
            return replace(moved, start=start, totals=totals)
        return replace(moved, totals=totals) if page.end else None

    def _move_past(self, sweep: Sweep, page: FoundPage, result: Counts) -> Sweep | None:
        """The sweep after this page. It is stored before the page is worked on, if there are other pages."""
        to_log, logged = self._to_log(sweep, page)
        after = replace(sweep, start=page.end, totals=sweep.totals if page.end else Totals(), logged=logged)
        if page.end or sweep.start or to_log:
            moved = self._store(sweep, after, result)
            if moved is None:
                return None
            after = moved
        for name in to_log:
            log.error("unreadable item in the ledger: %s; its order's refunds wait until it is readable", name)
        return after

    def _store(self, before: Sweep, after: Sweep, result: Counts) -> Sweep | None:
        try:
            return self._sweeps.move(before, after)
        except LedgerUnavailable:
            # It may have been stored or not. If it was, the next page's write finds that, and the run stops.
            log.exception("the sweep's position could not be stored; a later run may look at refunds again")
            result.errors += 1
            return after

    def _to_log(self, sweep: Sweep, page: FoundPage) -> tuple[list[str], dict[str, datetime]]:
        """The page's unreadable items that are to be logged, and all that were logged lately."""
        now = self._clock()
        logged = {name: at for name, at in sweep.logged.items() if now - at < LOG_AGAIN}
        unreadable = [f"{key['pk']['S']} / {key['sk']['S']}" for key, refund in page.found if refund is None]
        to_log = [name for name in unreadable if name not in logged][: max(0, MOST_LOGGED - len(logged))]
        return to_log, logged | dict.fromkeys(to_log, now)

    # ---- a page

    def _work_on(self, found: Sequence[Found], result: Counts, context: RequestContext) -> int:
        """Does what is due for each refund, and counts. Returns how many of the page were reached before time was
        short."""
        waiting = [
            (number, refund)
            for number, (_, refund) in enumerate(found)
            if refund and (self._protocol.has_expired_lease(refund) or self._is_overdue(refund))
        ]
        worked: dict[int, _Worked] = {}
        to_do = iter(waiting)  # the threads share it: `next` of a list's iterator is atomic
        batches = -(-len(waiting) // BATCH_SIZE)
        jobs = [partial(self._work, to_do, worked, context)] * min(THREADS, batches)
        result.enqueued = sum(self._run_all(jobs) if len(jobs) > 1 else [job() for job in jobs])
        reached = next((number for number, _ in to_do), len(found))
        for number, (_, refund) in enumerate(found[:reached]):
            self._count(refund, worked.get(number), result)
        return reached

    def _work(self, to_do: Iterator[tuple[int, Refund]], worked: dict[int, _Worked], context: RequestContext) -> int:
        """Works on refunds until none is left or time is short. Returns how many messages it sent."""
        sent = 0
        recorded: list[Refund] = []
        with correlated(context.known_as):
            while context.seconds_left() >= STOP_SECONDS and (one := next(to_do, None)):
                number, refund = one
                with correlated(refund.correlation_id):
                    worked[number] = self._recover(refund, context)
                if worked[number].to_send:
                    recorded.append(worked[number].refund)
                if len(recorded) == BATCH_SIZE:
                    sent += self._queue.send_all(recorded)
                    recorded = []
            return sent + self._queue.send_all(recorded)

    def _recover(self, refund: Refund, context: RequestContext) -> _Worked:
        """Records a message before it is sent: a crash between the two only costs a wait; the other order could cause
        a flood of messages."""
        try:
            if self._protocol.has_expired_lease(refund):
                refund = self._protocol.expire_lease(refund, context)
            if self._is_overdue(refund):
                refund = self._ledger.record_message(refund, context.carrier, self._clock())
                return _Worked(refund, to_send=True)
        except RefundChanged:
            pass  # another process has just worked on it
        except Exception:  # one refund's failure must not stop the others
            log.exception("recovery of refund %s failed", refund.refund_id)
            return _Worked(refund, failed=True)
        return _Worked(refund)

    def _is_overdue(self, refund: Refund) -> bool:
        """Whether its message should have arrived long ago. The wait doubles with each message sent for it, so a queue
        that stops for a day gets a dozen messages of a refund, not one per run."""
        due = refund.next_attempt_at
        if due is None or not self._protocol.waits_for_an_attempt(refund):
            return False
        last = (refund.enqueued_at - due).total_seconds() if refund.enqueued_at else 0.0
        return (self._clock() - due).total_seconds() >= max(OVERDUE_SECONDS, 2 * last)

    def _count(self, before: Refund | None, worked: _Worked | None, result: Counts) -> None:
        result.looked_at += 1
        if before is None:
            result.unreadable += 1
            result.errors += 1
            return
        refund = worked.refund if worked else before
        result.errors += worked.failed if worked else 0
        now = self._clock()
        age = (now - refund.created_at).total_seconds()  # since it was requested: attempts do not reset it
        match refund.status:
            case RefundStatus.QUEUED:
                result.queued += 1
                result.oldest_queued_seconds = max(result.oldest_queued_seconds, age)
            case RefundStatus.SUBMITTING:
                result.submitting += 1
                # Since its attempt began: it ends with the lease, whenever the refund was requested.
                since = (now - refund.updated_at).total_seconds()
                result.oldest_submitting_seconds = max(result.oldest_submitting_seconds, since)
            case RefundStatus.UNKNOWN:
                result.unknown += 1
                result.oldest_unknown_seconds = max(result.oldest_unknown_seconds, age)
                result.leases_expired += before.status is RefundStatus.SUBMITTING


def _plus(totals: Totals, result: Counts) -> Totals:
    more: dict[str, Any] = {name: before + getattr(result, name) for name, before in vars(totals).items()}
    return Totals(**more)
