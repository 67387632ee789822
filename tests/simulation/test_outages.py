"""How many outcomes become unknown when something in front of Indodana, or Indodana itself, fails for everybody."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterator
from decimal import Decimal
from http.client import HTTPMessage

import pytest

from gateway.core.breaker import OPEN_MAX_SECONDS
from indodana.transport import Answer
from tests.simulation.engine import Fault, Invocation
from tests.simulation.simulated import AUDIT, LEDGER, SimulatedWorld, installed

KNOWN_ORDERS = 200
ORDERS = [f"ORDER-{number}" for number in range(KNOWN_ORDERS)]
CANCEL, STATUS = "cancel", "check_status"
FORBIDDEN = "<html><head><title>403 Forbidden</title></head><body>Your IP address is not allowed</body></html>"
UNAVAILABLE = "<html><head><title>503 Service Unavailable</title></head></html>"
# A wall in front of Indodana: what it answers, and to which calls.
WALLS = {
    "an HTML 403 to each POST": ((403, FORBIDDEN), (CANCEL,)),
    "an HTML 403 to everything": ((403, FORBIDDEN), (CANCEL, STATUS)),
    "503 to everything": ((503, UNAVAILABLE), (CANCEL, STATUS)),
}


def answered(status: int, page: str) -> Answer:
    return Answer(status, HTTPMessage(), page.encode())


class Walled:
    """A world of one process at a time, whose calls to Indodana end at a wall until it is taken away."""

    def __init__(self, wall: str) -> None:
        self.answer, self.walled = WALLS[wall]
        self.world = SimulatedWorld()
        self.posts = 0
        sums = {name: {"N": "100000"} for name in ("amount", "refundable")}
        sums |= {name: {"N": "0"} for name in ("reserved", "refunded")}
        for order in ORDERS:
            self.world.indodana.add_order("m1", order, Decimal(100_000))
            key = {"pk": {"S": f"m1#{order}"}, "sk": {"S": "ORDER"}}
            self.world.dynamo.put_item(TableName=LEDGER, Item=key | sums)

    def run(self, invocation: Invocation | None) -> None:
        while invocation and (pending := invocation.pending()):
            call = pending[0].call
            assert call
            self.posts += call.name == CANCEL
            stopped = Fault("wall", lambda: answered(*self.answer), leaves_doubt=True)
            self.world.run(pending[0], stopped if call.name in self.walled else None)

    def take_the_wall_away(self) -> None:
        self.walled = ()

    def drain(self) -> None:
        while batch := self.world.deliver():
            self.run(batch)

    def statuses(self) -> Counter[str]:
        return Counter(item["status"]["S"] for item in self.world.dynamo.items(LEDGER) if "status" in item)


def by_api(walled: Walled) -> None:
    for order in ORDERS:
        walled.run(walled.world.refund(order, 1000, "k"))


def by_queue(walled: Walled) -> None:
    for order in ORDERS:
        walled.world.send(order, 1000, "k")
    walled.drain()


@pytest.fixture(autouse=True)
def simulated() -> Iterator[None]:
    with installed():
        yield


@pytest.mark.parametrize("ask", [by_api, by_queue])
@pytest.mark.parametrize("wall", WALLS)
def test_a_wall_before_indodana_makes_one_of_200_unknown_and_queues_others(
    wall: str, ask: Callable[[Walled], None]
) -> None:
    walled = Walled(wall)

    ask(walled)

    assert walled.statuses() == {"UNKNOWN": 1, "QUEUED": KNOWN_ORDERS - 1}
    assert walled.posts == 1

    # While it stands, each back-off costs one more at the most, and none where status checks end there, too.
    for _ in range(3):
        walled.world.pass_seconds(OPEN_MAX_SECONDS)
        walled.run(walled.world.recover())
        walled.drain()
    unknown = walled.statuses()["UNKNOWN"]
    assert unknown == walled.posts == (1 if STATUS in walled.walled else 4)

    walled.take_the_wall_away()
    for _ in range(3):
        walled.world.pass_seconds(3600)
        walled.run(walled.world.recover())
        walled.drain()
    assert walled.statuses() == {"UNKNOWN": unknown, "SUCCEEDED": KNOWN_ORDERS - unknown}
    assert len(walled.world.indodana.movements) == KNOWN_ORDERS - unknown
    walled.world.watch.quiet(walled.world)
    assert len(list(walled.world.dynamo.items(AUDIT))) > KNOWN_ORDERS
