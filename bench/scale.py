"""How the cost grows: refunds of one order and of many, by API and by queue, and batches against what upstream takes.

    python -m bench.scale

runs the real handlers, each in a process of its own, against the metered stub, and prints what the work took: calls
and request units, counted from the requests, and time. It ends with 1 where something grows faster than its work, or
where a refund was lost or moved money other than once.
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

from bench.events import list_event, message_body, recovery_event, refund_later_event, timeline_event
from bench.functions import Function, Invocation, InvocationFailed, body_of, model_against
from bench.growth import FIGURES, SETTLED_WORK, Judgement, Point, Spent, judged, time_judged
from bench.metered import MeteredStub
from bench.poller import Poller, Worked
from bench.warm import BATCH, Event, batch_event, refund_event
from devstack.aws import prepare_environment
from devstack.template import Model

MARKS = (1, 10, 100, 1000)
SIDE_BY_SIDE = 4  # functions, where what they do is not measured
REPEATS = 3  # of what is only read: the least time of them counts

CONCURRENCIES = (1, 2, 4, 8, 16, 32, 64)
UPSTREAM_PLACES = 20  # requests that Indodana takes at a time; a further one gets 429
UPSTREAM_SECONDS = 0.2
LEVELS_TITLE = (
    f"Batches of {BATCH} at a time, each refund its order's first; upstream takes {UPSTREAM_PLACES} requests at a "
    f"time, {UPSTREAM_SECONDS * 1000:.0f} ms each"
)
CALLS_UPSTREAM = 2  # of an order's first refund: its status, and the refund
# Beyond its limit, upstream must be worked no slower the more batches press on it; a fifth is left to chance and noise.
LEAST_KEPT = 0.8


class Wrong(Exception):
    """What was measured is not what was meant."""


@dataclass(frozen=True)
class Level:
    """So many batches at a time, worked until nothing waits any more."""

    batches: int
    refunds: int
    worked: Worked
    spent: Spent
    rejected: int
    """Requests that upstream had no place for."""

    @property
    def per_second(self) -> float:
        return self.refunds / self.worked.seconds

    @property
    def floor_seconds(self) -> float:
        """What upstream alone needs for so many refunds."""
        places = min(self.refunds, UPSTREAM_PLACES)
        return self.refunds / places * CALLS_UPSTREAM * UPSTREAM_SECONDS


class Scale:
    def __init__(self, stub: MeteredStub, model: Model) -> None:
        self._stub = stub
        self._model = model
        self._poller = Poller(stub, model)
        self._asked_for = 0

    # ---- refunds

    def by_api(
        self, order_of: Callable[[int], str], *, at_a_time: int = 1, at_mark: Callable[[int], None] = lambda _: None
    ) -> list[Point]:
        with ExitStack() as stack:
            apis = [stack.enter_context(self._function("RefundApiFunction")) for _ in range(at_a_time)]
            for number, api in enumerate(apis):
                _answered(api.invoke(refund_event(f"ORDER-WARM-UP-{number}")), 201)
            self._asked_for += at_a_time + MARKS[-1]
            self._stub.take_metered()
            points, spent, done = [], Spent(), 0
            for mark in MARKS:
                asked = [refund_event(order_of(number)) for number in range(done, mark)]
                done = mark
                seconds = sum(invocation.seconds for invocation in _invoked(apis, asked, 201))
                spent += Spent.of(self._stub.take_metered(), seconds)
                points.append(Point(mark, spent))
                at_mark(mark)
                self._stub.take_metered()
            return points

    def by_queue(self, order_of: Callable[[int], str]) -> list[Point]:
        with self._function("RefundWorkerFunction") as worker:
            self._warm_up([worker])
            points, spent, sent = [], Spent(), 0
            for mark in MARKS:
                self._send(order_of(number) for number in range(sent, mark))
                worked = self._poller.work([worker])
                sent = mark
                spent += Spent.of(self._stub.take_metered(), sum(done.seconds for done in worked.invocations))
                points.append(Point(mark, spent))
            return points

    # ---- what is read of them

    def listing(self, order: str) -> Spent:
        """All refunds of one order."""
        with self._function("RefundApiFunction") as api:
            return self._read(lambda: [_answered(api.invoke(list_event(order)), 200)])

    def timeline(self, order: str) -> tuple[int, Spent]:
        """All pages of one order's audit records, and how many records those are."""
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
            spent = self._read(pages)
        return records, spent

    def _read(self, read: Callable[[], Sequence[Invocation]]) -> Spent:
        read()  # a new process makes its clients first
        best = float("inf")
        for _ in range(REPEATS):
            self._stub.take_metered()
            best = min(best, sum(invocation.seconds for invocation in read()))
        return Spent.of(self._stub.take_metered(), best)

    # ---- recovery

    def recovery(self) -> tuple[list[Point], list[Point]]:
        """With n refunds that wait and are not due yet, and with n that are overdue and each enqueued again."""
        looked: list[Point] = []
        enqueued: list[Point] = []
        waiting = 0
        with ExitStack() as stack:
            apis = [stack.enter_context(self._function("RefundApiFunction")) for _ in range(SIDE_BY_SIDE)]
            workers = [stack.enter_context(self._function("RefundWorkerFunction")) for _ in range(SIDE_BY_SIDE)]

            def recovery_at(hours: int) -> Function:
                ahead = timedelta(hours=hours)
                function = stack.enter_context(self._function("RecoveryFunction", clock_ahead=ahead))
                _recovered(function, 0)
                return function

            early = recovery_at(-1)
            # Each an hour later than the one before: what that one enqueued is due again.
            late = [recovery_at(hours) for hours in range(1, len(MARKS) + 1)]
            for mark, function in zip(MARKS, late, strict=True):
                _invoked(apis, [refund_later_event(f"ORDER-LATER-{order:06}") for order in range(waiting, mark)], 202)
                waiting = mark
                looked.append(Point(mark, self._read(partial(_recovered, early, 0))))
                self._stub.take_metered()
                (invocation,) = _recovered(function, mark)
                enqueued.append(Point(mark, Spent.of(self._stub.take_metered(), invocation.seconds)))
            self._asked_for += waiting
            # Each refund stands in the queue several times now.
            self._poller.work(workers)
            self._stub.take_metered()
        return looked, enqueued

    # ---- batches at a time

    def concurrency(self) -> Iterator[Level]:
        with ExitStack() as stack:
            functions = [stack.enter_context(self._function("RefundWorkerFunction")) for _ in range(CONCURRENCIES[-1])]
            self._warm_up(functions)
            for batches in CONCURRENCIES:
                refunds = batches * BATCH
                self._send(f"ORDER-C{batches:02}-{number:06}" for number in range(refunds))
                self._stub.set_latencies(upstream=UPSTREAM_SECONDS)
                self._stub.limit_upstream(UPSTREAM_PLACES)
                worked = self._poller.work(functions[:batches])
                self._stub.limit_upstream(None)
                calls = self._stub.take_metered()
                self._stub.set_latencies(upstream=0.0)
                rejected = sum(call.error == "429" for call in calls)
                yield Level(batches, refunds, worked, Spent.of(calls, worked.seconds), rejected)

    # ---- in the end

    def books(self) -> list[Judgement]:
        """Whether every refund that was asked for moved money once, and the ledger says so."""
        books = self._stub.books()
        succeeded = [refund for refund, status in books.refunds.items() if status == "SUCCEEDED"]
        checks = {
            f"of {self._asked_for:,} refunds asked for, {len(succeeded):,} have succeeded": len(succeeded)
            == self._asked_for,
            "money moved once for each of them, and for nothing else": books.moved == dict.fromkeys(succeeded, 1),
            "Indodana's sums are the ledger's, order by order": books.moved_amounts == books.refunded,
            f"{books.dead_letters} dead letters": books.dead_letters == 0,
        }
        return [Judgement(text, met) for text, met in checks.items()]

    # ---- how

    def _function(self, logical_id: str, *, clock_ahead: timedelta = timedelta(0)) -> Function:
        return Function(self._model, logical_id, clock_ahead=clock_ahead)

    def _warm_up(self, functions: Sequence[Function]) -> None:
        """A batch of one message for each, so that none makes its clients in measured time."""
        for number, function in enumerate(functions):
            function.begin(batch_event([f"ORDER-WARM-UP-{number:06}"]))
        for function in functions:
            if function.end().result["batchItemFailures"]:
                raise Wrong("a first batch failed")
        self._asked_for += len(functions)
        self._stub.take_metered()

    def _send(self, orders: Iterator[str]) -> None:
        bodies = [message_body(order) for order in orders]
        self._stub.send(bodies)
        self._asked_for += len(bodies)


def _answered(invocation: Invocation, status: int) -> Invocation:
    if invocation.result["statusCode"] != status:
        raise Wrong(f"answered {invocation.result}")
    return invocation


def _invoked(functions: Sequence[Function], asked: Iterable[Event], status: int) -> list[Invocation]:
    """Each event, as many at a time as there are functions."""
    invocations = []
    for some in batched(asked, len(functions), strict=False):
        at_work = list(zip(functions, some, strict=False))
        for function, event in at_work:
            function.begin(event)
        invocations += [_answered(function.end(), status) for function, _ in at_work]
    return invocations


def _recovered(function: Function, enqueued: int) -> list[Invocation]:
    invocation = function.invoke(recovery_event())
    if invocation.result["enqueued"] != enqueued or invocation.result["errors"]:
        raise Wrong(f"recovered {invocation.result}")
    return [invocation]


# ---- what is said of it


def growth_table(title: str, each: str, points: Sequence[Point]) -> str:
    rows = [(each, *FIGURES, "conflicts", "ms")]
    for point in points:
        spent, work = point.spent, point.work
        figures = [figure(spent) / work for figure in FIGURES.values()]
        rows.append((f"{work:,}", *map(_few_digits, [*figures, spent.conflicts / work, spent.seconds * 1000 / work])))
    return f"{title}: for each of n\n{_table(rows)}"


def level_table(levels: Sequence[Level]) -> str:
    head = ("batches", "refunds", "s", "a second", "upstream's", "429", "waited", "deliveries", *FIGURES, "conflicts")
    rows = [head]
    for level in levels:
        figures = [figure(level.spent) / level.refunds for figure in FIGURES.values()]
        row = (
            f"{level.batches}",
            f"{level.refunds}",
            f"{level.worked.seconds:.1f}",
            f"{level.per_second:.0f}",
            f"{level.refunds / level.floor_seconds:.0f}",
            f"{level.rejected}",
            f"{len(level.worked.waited)}",
            f"{level.worked.deliveries / level.refunds:.2f}",
        )
        rows.append((*row, *map(_few_digits, figures), f"{level.spent.conflicts}"))
    return _table(rows)


def _few_digits(value: float) -> str:
    return f"{value:.2f}" if value >= 0.095 else f"{value:.4f}" if value else "-"


def _table(rows: Sequence[tuple[str, ...]]) -> str:
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    return "\n".join("  ".join(text.rjust(width) for text, width in zip(row, widths, strict=True)) for row in rows)


def judged_levels(levels: Sequence[Level]) -> list[Judgement]:
    """Whether more batches than upstream takes make nothing worse: not the time for each, and not what they achieve."""
    last = levels[-1]
    at_most = f"with {last.batches} batches at a time"
    deliveries = last.worked.deliveries / last.refunds
    # One, and one for each time that upstream's places are asked for twice over: waits double.
    most_deliveries = 1 + math.log2(last.refunds / UPSTREAM_PLACES)
    kept = last.per_second / max(level.per_second for level in levels if level.rejected)
    return [
        time_judged("Batches", [(level.refunds, level.worked.seconds) for level in levels]),
        Judgement(
            f"Batches: deliveries of each refund {at_most}: {deliveries:.2f}, at most {most_deliveries:.2f}",
            deliveries <= most_deliveries,
        ),
        Judgement(
            f"Batches: refunds a second {at_most}, over the most that fewer reached against the limit: {kept:.2f}, "
            f"at least {LEAST_KEPT}",
            kept >= LEAST_KEPT,
        ),
    ]


def main() -> int:
    prepare_environment()
    began = time.monotonic()
    judgements: list[Judgement] = []

    def grown(title: str, each: str, points: Sequence[Point], settled_work: int = SETTLED_WORK) -> None:
        print(f"\n{growth_table(title, each, points)}", flush=True)
        judgements.extend(judged(title, points, settled_work))

    with MeteredStub() as stub:
        stub.set_latencies(upstream=0.0)
        scale = Scale(stub, model_against(stub.url))
        listings: list[Point] = []
        timelines: list[Point] = []

        def look(mark: int) -> None:
            listings.append(Point(mark, scale.listing("ORDER-ONE")))
            timelines.append(Point(*scale.timeline("ORDER-ONE")))

        grown("Refunds by API, of one order", "refunds", scale.by_api(lambda _: "ORDER-ONE", at_mark=look))
        grown("The list of one order's refunds", "refunds", listings)
        grown("One order's timeline, by pages of 100", "records", timelines)
        many = scale.by_api(lambda number: f"ORDER-A{number:06}", at_a_time=2)
        grown("Refunds by API, of many orders, two at a time", "refunds", many)
        # Its conflicts are chance, and ten refunds too few to show how many they are.
        grown("Refunds by queue, of one order", "refunds", scale.by_queue(lambda _: "ORDER-BY-QUEUE"), settled_work=100)
        grown("Refunds by queue, of many orders", "refunds", scale.by_queue(lambda number: f"ORDER-Q{number:06}"))
        looked, enqueued = scale.recovery()
        grown("Recovery, nothing due", "open", looked)
        grown("Recovery, everything due", "open", enqueued)
        levels = list(scale.concurrency())
        print(f"\n{LEVELS_TITLE}: for each refund\n{level_table(levels)}")
        judgements += judged_levels(levels) + scale.books()

    print()
    for judgement in judgements:
        print(f"{'' if judgement.met else 'NOT '}met  {judgement.text}")
    print(f"\n{time.monotonic() - began:.0f} s")
    return 0 if all(judgement.met for judgement in judgements) else 1


if __name__ == "__main__":
    try:
        raise SystemExit(main())
    except (InvocationFailed, Wrong) as error:
        sys.exit(str(error))
