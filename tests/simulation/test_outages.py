"""How many refunds become UNKNOWN when Indodana, or a proxy in front of it, fails every request."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterator
from decimal import Decimal
from http.client import HTTPMessage

import pytest

from gateway.core.breaker import REFUNDS
from indodana.transport import Answer
from tests.simulation.engine import Fault, Invocation
from tests.simulation.simulated import AUDIT, LEDGER, SimulatedWorld, installed

KNOWN_ORDERS = 200
ORDERS = [f"ORDER-{number}" for number in range(KNOWN_ORDERS)]
CANCEL, STATUS = "cancel", "check_status"
FORBIDDEN = "<html><head><title>403 Forbidden</title></head><body>Your IP address is not allowed</body></html>"
UNAVAILABLE = "<html><head><title>503 Service Unavailable</title></head></html>"
# A proxy in front of Indodana that stops requests: its answer, and the calls that it stops.
PROXIES = {
    "an HTML 403 to each POST": ((403, FORBIDDEN), (CANCEL,)),
    "an HTML 403 to everything": ((403, FORBIDDEN), (CANCEL, STATUS)),
    "503 to everything": ((503, UNAVAILABLE), (CANCEL, STATUS)),
}


def answered(status: int, page: str) -> Answer:
    return Answer(status, HTTPMessage(), page.encode())


class Blocked:
    """A world of one process at a time, whose calls to Indodana a proxy stops until it is removed."""

    def __init__(self, proxy: str) -> None:
        self.answer, self.stopped = PROXIES[proxy]
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
            fault = Fault("stopped by a proxy", lambda: answered(*self.answer), leaves_doubt=True)
            self.world.run(pending[0], fault if call.name in self.stopped else None)

    def remove_the_proxy(self) -> None:
        self.stopped = ()

    def drain(self) -> None:
        while batch := self.world.deliver():
            self.run(batch)

    def statuses(self) -> Counter[str]:
        return Counter(item["status"]["S"] for item in self.world.dynamo.items(LEDGER) if "status" in item)


def by_api(blocked: Blocked) -> None:
    for order in ORDERS:
        blocked.run(blocked.world.refund(order, 1000, "k"))


def by_queue(blocked: Blocked) -> None:
    for order in ORDERS:
        blocked.world.send(order, 1000, "k")
    blocked.drain()


@pytest.fixture(autouse=True)
def simulated() -> Iterator[None]:
    with installed():
        yield


@pytest.mark.parametrize("ask", [by_api, by_queue])
@pytest.mark.parametrize("proxy", PROXIES)
def test_a_proxy_that_stops_all_refunds_makes_one_of_200_unknown(proxy: str, ask: Callable[[Blocked], None]) -> None:
    blocked = Blocked(proxy)

    ask(blocked)

    assert blocked.statuses() == {"UNKNOWN": 1, "QUEUED": KNOWN_ORDERS - 1}
    assert blocked.posts == 1

    # While it stays, each back-off makes at most one more UNKNOWN, and none if status checks are stopped, too.
    for _ in range(3):
        blocked.world.pass_seconds(REFUNDS.longest_wait_seconds)
        blocked.run(blocked.world.recover())
        blocked.drain()
    unknown = blocked.statuses()["UNKNOWN"]
    assert unknown == blocked.posts == (1 if STATUS in blocked.stopped else 4)

    blocked.remove_the_proxy()
    for _ in range(3):
        blocked.world.pass_seconds(3600)
        blocked.run(blocked.world.recover())
        blocked.drain()
    assert blocked.statuses() == {"UNKNOWN": unknown, "SUCCEEDED": KNOWN_ORDERS - unknown}
    assert len(blocked.world.indodana.movements) == KNOWN_ORDERS - unknown
    blocked.world.watch.quiet(blocked.world)
    assert len(list(blocked.world.dynamo.items(AUDIT))) > KNOWN_ORDERS
