"""An outage of a day, minute by minute, with the queue's own times: it ends without a burst of requests."""

from __future__ import annotations

import json
from collections import Counter, defaultdict
from collections.abc import Callable, Iterator
from decimal import Decimal
from itertools import pairwise

import pytest

from gateway.core.backoff import BACKOFF_BASE_SECONDS, BACKOFF_MAX_SECONDS
from tests.simulation.engine import Fault, Fiber, Invocation
from tests.simulation.simulated import DEAD_LETTERS, QUEUE, SimulatedWorld, installed, refund_id_of

MINUTES_A_DAY = 24 * 60
LONGEST_WAITS = MINUTES_A_DAY * 60 / BACKOFF_MAX_SECONDS  # in a day
ORDERS = ("ORDER-1", "ORDER-2", "ORDER-3")


class Day:
    """Each minute recovery runs, and the worker gets the messages that are visible."""

    def __init__(self) -> None:
        self.world = SimulatedWorld()
        self.asked: dict[str, list[float]] = defaultdict(list)  # times of the requests to Indodana, by order
        self.fails: Callable[[Fiber], Fault | None] = lambda _: None
        for order in ORDERS:
            self.world.indodana.add_order("m1", order, Decimal(100_000))
            # One by API, and the same one twice by queue.
            self.run(self.world.refund(order, 60_000, "k", later=True))
            self.world.send(order, 60_000, "k")
            self.world.send(order, 60_000, "k")

    def pass_minutes(self, minutes: int, *, paused: bool = False) -> None:
        for _ in range(minutes):
            self.run(self.world.recover())
            if not paused:
                self.deliver()
            self.world.pass_seconds(60)

    def deliver(self) -> None:
        while batch := self.world.deliver():
            self.run(batch)

    def run(self, invocation: Invocation) -> None:
        while pending := invocation.pending():
            fiber = pending[0]
            assert fiber.call
            if fiber.call.name == "check_status":
                self.asked[fiber.call.detail.removeprefix("order ")].append(self.world.now)
            if fiber.call.name == "cancel":
                [order] = {o for o in ORDERS if refund_id_of(o, "k")[:6] in fiber.call.detail}
                self.asked[order].append(self.world.now)
            self.world.run(fiber, self.fails(fiber))

    def messages(self) -> Counter[str]:
        bodies = [json.loads(message["Body"]) for message in self.world.sqs.messages(QUEUE)]
        return Counter(body["merchantOrderId"] for body in bodies)

    def all_is_done(self) -> None:
        moved = Counter(movement.merchant_order_id for movement in self.world.indodana.movements)
        assert moved == dict.fromkeys(ORDERS, 1)
        assert self.world.sqs.messages(QUEUE) == self.world.sqs.messages(DEAD_LETTERS) == []
        self.world.watch.quiet(self.world)


@pytest.fixture
def day() -> Iterator[Day]:
    with installed():
        yield Day()


@pytest.mark.parametrize("how", ["no connection", "HTTP 429", "HTTP 401"])
@pytest.mark.parametrize("call", ["check_status", "cancel"])
def test_an_outage_of_a_day_costs_one_request_a_refund_and_back_off(day: Day, call: str, how: str) -> None:
    def fails(fiber: Fiber) -> Fault | None:
        assert fiber.call
        return next((fault for fault in fiber.call.faults if fault.name == how and fiber.call.name == call), None)

    day.fails = fails
    day.pass_minutes(MINUTES_A_DAY)

    assert max(day.messages().values()) <= 1
    for times in day.asked.values():
        tries = sorted(set(times))  # a status check and the refund may be one attempt
        assert len(times) <= len(tries) + 1
        assert LONGEST_WAITS / 2 < len(tries) <= LONGEST_WAITS + 12
        for number, (one, other) in enumerate(pairwise(tries)):
            assert other - one >= min(BACKOFF_BASE_SECONDS * 2**number, BACKOFF_MAX_SECONDS)

    day.fails = lambda _: None
    day.pass_minutes(20)
    day.all_is_done()


def test_a_queue_paused_for_a_day_comes_back_with_one_request_a_refund(day: Day) -> None:
    day.pass_minutes(MINUTES_A_DAY, paused=True)
    assert max(day.messages().values()) <= 3 + 12

    day.pass_minutes(1)

    assert {order: len(times) for order, times in day.asked.items()} == dict.fromkeys(ORDERS, 2)  # status and refund
    day.all_is_done()


def test_dead_letters_all_sent_back_at_once_cause_no_extra_attempt(day: Day) -> None:
    """DynamoDB was unavailable for hours, so messages became dead letters; then Indodana is down."""

    def no_tables(fiber: Fiber) -> Fault | None:
        assert fiber.call
        return next((fault for fault in fiber.call.faults if fault.name == "throttled"), None)

    def no_indodana(fiber: Fiber) -> Fault | None:
        assert fiber.call
        return next((fault for fault in fiber.call.faults if fault.name == "no connection"), None)

    day.fails = no_tables
    day.pass_minutes(MINUTES_A_DAY // 4)
    assert len(day.world.dead_letters()) >= len(ORDERS)

    day.fails = no_indodana
    day.pass_minutes(5)
    day.deliver()
    before = {order: len(set(times)) for order, times in day.asked.items()}
    for _ in range(5):
        day.world.sqs.redrive()
        day.deliver()
    assert {order: len(set(times)) for order, times in day.asked.items()} == before

    day.fails = lambda _: None
    day.pass_minutes(20)
    day.all_is_done()
