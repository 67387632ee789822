"""How calls, request units and time grow with the number of refunds and of concurrent batches.

    python -m bench.scale

runs the real handlers, each in its own process, against the metered stub, and prints what the work used. It exits with
1 if something grows faster than the work, or if a refund was lost or did not move its money exactly once.
"""

from __future__ import annotations

import math
import sys
import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from datetime import timedelta
from functools import partial
from itertools import batched

from bench.backlog import backlog_text, check_backlog, run_backlog
from bench.events import list_event, message_body, recovery_event, refund_later_event, timeline_event
from bench.functions import Function, Invocation, InvocationFailed, body_of, model_against
from bench.growth import FIGURES, SETTLED_WORK, Check, Point, Usage, check_growth, check_time
from bench.metered import MeteredStub
from bench.poller import Poller, QueueRun
from bench.warm import BATCH, Event, batch_event, refund_event
from devstack.aws import prepare_environment
from devstack.template import Model

SIZES = (1, 10, 100, 1000)
PARALLEL_FUNCTIONS = 4  # where nothing is measured
REPEATS = 3  # of reads: the shortest time counts

CONCURRENCIES = (1, 2, 4, 8, 16, 32, 64)
UPSTREAM_LIMIT = 20  # requests that Indodana accepts at a time; others get 429
UPSTREAM_SECONDS = 0.2
LEVELS_TITLE = (
    f"Concurrent batches of {BATCH}, each refund the first of its order; upstream accepts {UPSTREAM_LIMIT} requests "
    f"at a time, {UPSTREAM_SECONDS * 1000:.0f} ms each"
)
CALLS_UPSTREAM = 2  # for the first refund of an order: status check and refund
# Throughput at the most batches, over the best throughput above upstream's limit; a fifth is allowed for noise.
MIN_THROUGHPUT = 0.8


class UnexpectedResult(Exception):
    """A function did not do what it was asked to, so the measurement means nothing."""


@dataclass(frozen=True)
class Level:
    """One number of concurrent batches, run until the queue was empty."""

    batches: int
    refunds: int
    worked: QueueRun
    usage: Usage
    rejected: int
    """Requests that upstream answered with 429."""

    @property
    def per_second(self) -> float:
        return self.refunds / self.worked.seconds

    @property
    def floor_seconds(self) -> float:
        """The time that upstream alone needs for the refunds."""
        concurrent = min(self.refunds, UPSTREAM_LIMIT)
        return self.refunds / concurrent * CALLS_UPSTREAM * UPSTREAM_SECONDS


class Scale:
    def __init__(self, stub: MeteredStub, model: Model) -> None:
        self._stub = stub
        self._model = model
        self._poller = Poller(stub, model)
        self._requested = 0

    # ---- refunds

    def by_api(
        self, order_of: Callable[[int], str], *, at_a_time: int = 1, at_size: Callable[[int], None] = lambda _: None
    ) -> list[Point]:
        with ExitStack() as stack:
            apis = [stack.enter_context(self._function("RefundApiFunction")) for _ in range(at_a_time)]
            for number, api in enumerate(apis):
                _answered(api.invoke(refund_event(f"ORDER-WARM-UP-{number}")), 201)
            self._requested += at_a_time + SIZES[-1]
            self._stub.take_metered()
            points, usage, done = [], Usage(), 0
            for size in SIZES:
                requested = [refund_event(order_of(number)) for number in range(done, size)]
                done = size
                seconds = sum(invocation.seconds for invocation in _invoked(apis, requested, 201))
                usage += Usage.of(self._stub.take_metered(), seconds)
                points.append(Point(size, usage))
                at_size(size)
                self._stub.take_metered()
            return points

    def by_queue(self, order_of: Callable[[int], str]) -> list[Point]:
        with self._function("RefundWorkerFunction") as worker:
            self._warm_up([worker])
            points, usage, sent = [], Usage(), 0
            for size in SIZES:
                self._send(order_of(number) for number in range(sent, size))
                worked = self._poller.work([worker])
                sent = size
                usage += Usage.of(self._stub.take_metered(), sum(done.seconds for done in worked.invocations))
                points.append(Point(size, usage))
            return points

    # ---- reads

    def listing(self, order: str) -> Usage:
        """All refunds of one order."""
        with self._function("RefundApiFunction") as api:
            return self._read(lambda: [_answered(api.invoke(list_event(order)), 200)])

    def timeline(self, order: str) -> tuple[int, Usage]:
        """All pages of one order's audit records: the number of records, and the usage."""
        records = 0

        def pages() -> list[Invocation]:
            nonlocal records
            records, invocations = 0, list[Invocation]()
            token = None
            while token or not invocations:
                invocations.append(_answered(query.invoke(timeline_event(order, token)), 200))
                page = body_of(invocations[-1])
                records += len(page["records"])
                token = page["nextToken"]
            return invocations

        with self._function("AuditQueryFunction") as query:
            usage = self._read(pages)
        return records, usage

    def _read(self, read: Callable[[], Sequence[Invocation]]) -> Usage:
        read()  # creates the clients
        best = float("inf")
        for _ in range(REPEATS):
            self._stub.take_metered()
            best = min(best, sum(invocation.seconds for invocation in read()))
        return Usage.of(self._stub.take_metered(), best)

    # ---- recovery

    def recovery(self) -> tuple[list[Point], list[Point]]:
        """With n refunds that are queued and not yet due, and with n that are overdue and enqueued again."""
        idle: list[Point] = []
        due: list[Point] = []
        waiting = 0
        with ExitStack() as stack:
            apis = [stack.enter_context(self._function("RefundApiFunction")) for _ in range(PARALLEL_FUNCTIONS)]
            workers = [stack.enter_context(self._function("RefundWorkerFunction")) for _ in range(PARALLEL_FUNCTIONS)]

            def recovery_at(hours: int) -> Function:
                ahead = timedelta(hours=hours)
                function = stack.enter_context(self._function("RecoveryFunction", clock_ahead=ahead))
                _recovered(function, 0)
                return function

            early = recovery_at(-1)
            # A refund is enqueued again only when it is overdue for twice as long as the last time.
            late = [recovery_at(3**number) for number in range(len(SIZES))]
            for size, function in zip(SIZES, late, strict=True):
                _invoked(apis, [refund_later_event(f"ORDER-LATER-{order:06}") for order in range(waiting, size)], 202)
                waiting = size
                idle.append(Point(size, self._read(partial(_recovered, early, 0))))
                self._stub.take_metered()
                (invocation,) = _recovered(function, size)
                due.append(Point(size, Usage.of(self._stub.take_metered(), invocation.seconds)))
            self._requested += waiting
            # The queue now holds several messages of each refund.
            self._poller.work(workers)
            self._stub.take_metered()
        return idle, due

    # ---- concurrent batches

    def concurrency(self) -> Iterator[Level]:
        with ExitStack() as stack:
            functions = [stack.enter_context(self._function("RefundWorkerFunction")) for _ in range(CONCURRENCIES[-1])]
            self._warm_up(functions)
            for batches in CONCURRENCIES:
                refunds = batches * BATCH
                self._send(f"ORDER-C{batches:02}-{number:06}" for number in range(refunds))
                self._stub.set_latencies(upstream=UPSTREAM_SECONDS)
                self._stub.limit_upstream(UPSTREAM_LIMIT)
                worked = self._poller.work(functions[:batches])
                self._stub.limit_upstream(None)
                calls = self._stub.take_metered()
                self._stub.set_latencies(upstream=0.0)
                rejected = sum(call.error == "429" for call in calls)
                yield Level(batches, refunds, worked, Usage.of(calls, worked.seconds), rejected)

    # ---- at the end

    def books(self) -> list[Check]:
        """That every refund moved its money once, and that the ledger agrees."""
        books = self._stub.books()
        succeeded = [refund for refund, status in books.refunds.items() if status == "SUCCEEDED"]
        checks = {
            f"{len(succeeded):,} of {self._requested:,} requested refunds succeeded": len(succeeded) == self._requested,
            "money moved once for each of them and for no other": books.moved == dict.fromkeys(succeeded, 1),
            "Indodana and the ledger have the same sum for each order": books.moved_amounts == books.refunded,
            f"{books.dead_letters} dead letters": books.dead_letters == 0,
        }
        return [Check(text, passed) for text, passed in checks.items()]

    # ---- helpers

    def _function(self, logical_id: str, *, clock_ahead: timedelta = timedelta(0)) -> Function:
        return Function(self._model, logical_id, clock_ahead=clock_ahead)

    def _warm_up(self, functions: Sequence[Function]) -> None:
        """A batch of one message for each, so that the clients are created before measuring."""
        for number, function in enumerate(functions):
            function.begin(batch_event([f"ORDER-WARM-UP-{number:06}"]))
        for function in functions:
            if function.end().result["batchItemFailures"]:
                raise UnexpectedResult("the warm-up batch failed")
        self._requested += len(functions)
        self._stub.take_metered()

    def _send(self, orders: Iterator[str]) -> None:
        bodies = [message_body(order) for order in orders]
        self._stub.send(bodies)
        self._requested += len(bodies)


def _answered(invocation: Invocation, status: int) -> Invocation:
    if invocation.result["statusCode"] != status:
        raise UnexpectedResult(f"unexpected answer: {invocation.result}")
    return invocation


def _invoked(functions: Sequence[Function], requested: Iterable[Event], status: int) -> list[Invocation]:
    """The results of all events, one event at a time for each function."""
    invocations = []
    for some in batched(requested, len(functions), strict=False):
        at_work = list(zip(functions, some, strict=False))
        for function, event in at_work:
            function.begin(event)
        invocations += [_answered(function.end(), status) for function, _ in at_work]
    return invocations


def _recovered(function: Function, enqueued: int) -> list[Invocation]:
    invocation = function.invoke(recovery_event())
    if invocation.result["enqueued"] != enqueued or invocation.result["errors"]:
        raise UnexpectedResult(f"unexpected recovery run: {invocation.result}")
    return [invocation]


# ---- output and checks


def growth_table(title: str, each: str, points: Sequence[Point]) -> str:
    rows = [(each, *FIGURES, "conflicts", "ms")]
    for point in points:
        usage, work = point.usage, point.work
        figures = [figure(usage) / work for figure in FIGURES.values()]
        rows.append((f"{work:,}", *map(_few_digits, [*figures, usage.conflicts / work, usage.seconds * 1000 / work])))
    return f"{title}, for each of n\n{_table(rows)}"


def level_table(levels: Sequence[Level]) -> str:
    head = (
        "batches",
        "refunds",
        "s",
        "a second",
        "upstream limit",
        "429",
        "redelivered",
        "deliveries",
        *FIGURES,
        "conflicts",
    )
    rows = [head]
    for level in levels:
        figures = [figure(level.usage) / level.refunds for figure in FIGURES.values()]
        row = (
            f"{level.batches}",
            f"{level.refunds}",
            f"{level.worked.seconds:.1f}",
            f"{level.per_second:.0f}",
            f"{level.refunds / level.floor_seconds:.0f}",
            f"{level.rejected}",
            f"{len(level.worked.redelivered)}",
            f"{level.worked.deliveries / level.refunds:.2f}",
        )
        rows.append((*row, *map(_few_digits, figures), f"{level.usage.conflicts}"))
    return _table(rows)


def _few_digits(value: float) -> str:
    return f"{value:.2f}" if value >= 0.095 else f"{value:.4f}" if value else "-"


def _table(rows: Sequence[tuple[str, ...]]) -> str:
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    return "\n".join("  ".join(text.rjust(width) for text, width in zip(row, widths, strict=True)) for row in rows)


def check_concurrency(levels: Sequence[Level]) -> list[Check]:
    """That more batches than upstream accepts do not reduce throughput or multiply deliveries."""
    last = levels[-1]
    at_most = f"with {last.batches} concurrent batches"
    deliveries = last.worked.deliveries / last.refunds
    # One, and one more for each doubling of refunds over upstream's limit: the delays double.
    max_deliveries = 1 + math.log2(last.refunds / UPSTREAM_LIMIT)
    kept = last.per_second / max(level.per_second for level in levels if level.rejected)
    return [
        check_time("Batches", [(level.refunds, level.worked.seconds) for level in levels]),
        Check(
            f"Batches: deliveries of each message {at_most}: {deliveries:.2f}, at most {max_deliveries:.2f}",
            deliveries <= max_deliveries,
        ),
        Check(
            f"Batches: refunds a second {at_most}, relative to the best above upstream's limit: {kept:.2f}, "
            f"at least {MIN_THROUGHPUT}",
            kept >= MIN_THROUGHPUT,
        ),
    ]


def main() -> int:
    prepare_environment()
    began = time.monotonic()
    checks: list[Check] = []

    def grown(title: str, each: str, points: Sequence[Point], settled_work: int = SETTLED_WORK) -> None:
        print(f"\n{growth_table(title, each, points)}", flush=True)
        checks.extend(check_growth(title, points, settled_work))

    with MeteredStub() as stub:
        stub.set_latencies(upstream=0.0)
        scale = Scale(stub, model_against(stub.url))
        listings: list[Point] = []
        timelines: list[Point] = []

        def read(size: int) -> None:
            listings.append(Point(size, scale.listing("ORDER-ONE")))
            timelines.append(Point(*scale.timeline("ORDER-ONE")))

        grown("Refunds by API, of one order", "refunds", scale.by_api(lambda _: "ORDER-ONE", at_size=read))
        grown("The list of one order's refunds", "refunds", listings)
        grown("The timeline of one order, in pages of 100", "records", timelines)
        many = scale.by_api(lambda number: f"ORDER-A{number:06}", at_a_time=2)
        grown("Refunds by API, of many orders, two at a time", "refunds", many)
        # Conflicts happen by chance; ten refunds are too few for a stable average.
        grown("Refunds by queue, of one order", "refunds", scale.by_queue(lambda _: "ORDER-BY-QUEUE"), settled_work=100)
        grown("Refunds by queue, of many orders", "refunds", scale.by_queue(lambda number: f"ORDER-Q{number:06}"))
        idle, due = scale.recovery()
        grown("Recovery, nothing due", "open", idle)
        grown("Recovery, everything due", "open", due)
        levels = list(scale.concurrency())
        print(f"\n{LEVELS_TITLE}, for each refund\n{level_table(levels)}")
        checks += check_concurrency(levels) + scale.books()
    backlog = run_backlog()
    print(f"\n{backlog_text(backlog)}", flush=True)
    checks += check_backlog(backlog)

    print()
    for check in checks:
        print(f"{'passed' if check.passed else 'FAILED'}  {check.text}")
    print(f"\n{time.monotonic() - began:.0f} s")
    return 0 if all(check.passed for check in checks) else 1


if __name__ == "__main__":
    try:
        raise SystemExit(main())
    except (InvocationFailed, UnexpectedResult) as error:
        sys.exit(str(error))
