"""How many outcomes become unknown when something in front of Indodana, or Indodana itself, fails for everybody."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable
from typing import Any

import pytest

from refunds.breaker import CLOSED_MAX_SECONDS
from tests.world import World

KNOWN_ORDERS = 200
# A wall in front of Indodana, by what it lets through: (fault, its options, the paths).
CANCELLATION, STATUS = "order_cancellation", "check_status"
WALLS: dict[str, tuple[str, dict[str, int], list[str]]] = {
    "an HTML 403 for each POST": ("html", {"status": 403}, [CANCELLATION]),
    "an HTML 403 for everything": ("html", {"status": 403}, [CANCELLATION, STATUS]),
    "503 for everything": ("error_before", {"status": 503}, [CANCELLATION, STATUS]),
}


@pytest.fixture
def orders(world: World) -> list[str]:
    """Orders whose sums the ledger knows, so that a refund of them needs no status check."""
    orders = [world.order(100_000) for _ in range(KNOWN_ORDERS)]
    sums: dict[str, Any] = {name: {"N": "100000"} for name in ("amount", "refundable")}
    sums |= {name: {"N": "0"} for name in ("reserved", "refunded")}
    for order in orders:
        key = {"pk": {"S": world.order_key(order).partition}, "sk": {"S": "ORDER"}}
        world.dynamodb.put_item(TableName=world.settings.ledger_table, Item=key | sums)
    return orders


def by_api(world: World, orders: list[str]) -> None:
    for order in orders:
        assert world.refund(order, 1000).status == 202


def by_queue(world: World, orders: list[str]) -> None:
    for order in orders:
        world.send(order, "k", amount=1000)
    while messages := world.receive(visibility=3600):
        world.work(messages)


def statuses(world: World, orders: list[str]) -> Counter[str]:
    return Counter(world.list(order).body["refunds"][0]["status"] for order in orders)


@pytest.mark.parametrize("ask", [by_api, by_queue])
@pytest.mark.parametrize("wall", WALLS)
def test_a_wall_in_front_of_indodana_makes_one_refund_unknown_and_queues_the_others(
    world: World, orders: list[str], wall: str, ask: Callable[[World, list[str]], None]
) -> None:
    fault, options, paths = WALLS[wall]
    for path in paths:
        world.simulator.fault(fault, path=path, **options)

    ask(world, orders)

    assert statuses(world, orders) == {"UNKNOWN": 1, "QUEUED": KNOWN_ORDERS - 1}
    assert sum(len(world.requests(order)) for order in orders) == 1

    # While it stands, each back-off costs one more at the most, and none where status checks fail, too.
    for _ in range(3):
        world.clock.pass_seconds(CLOSED_MAX_SECONDS)
        world.reconcile()
        for message in world.receive(visibility=3600):
            world.work([message])
    unknown = statuses(world, orders)["UNKNOWN"]
    assert unknown == (1 if STATUS in paths else 4)

    world.simulator.clear_faults()
    for _ in range(3):
        world.clock.pass_seconds(3600)
        world.reconcile()
        while messages := world.receive(visibility=3600):
            world.work(messages)
    assert statuses(world, orders) == {"UNKNOWN": unknown, "SUCCEEDED": KNOWN_ORDERS - unknown}
    assert sum(world.moved(order) for order in orders) == 1000 * (KNOWN_ORDERS - unknown)


def test_a_probe_of_a_cancelled_order_that_the_ledger_knows_is_sent_all_the_same(world: World) -> None:
    """What its status says decides nothing: an order with refunds may read as cancelled."""
    order = world.order(100_000)
    world.refund(order, 1000)
    world.simulator.fault("error_before", path=CANCELLATION, merchant_order_id=order, times=1)
    assert world.refund(order, 1000).body["status"] == "UNKNOWN"
    world.simulator.add_order(order, 100_000, "CANCELLED")
    world.clock.pass_seconds(2)

    asked = len(world.requests(order, STATUS))
    world.refund(order, 1000)

    assert len(world.requests(order, STATUS)) == asked + 1
    assert len(world.requests(order)) == 3


def test_while_it_waits_a_refund_for_too_much_is_refused_all_the_same(world: World) -> None:
    order = world.order(100_000)
    world.simulator.fault("error_before", path=CANCELLATION, merchant_order_id=order, times=1)
    world.refund(order, 60_000)

    refused = world.refund(order, 60_000)

    assert (refused.status, refused.body["code"]) == (422, "AMOUNT_EXCEEDS_REFUNDABLE")


def test_the_messages_of_a_cold_worker_go_one_by_one_until_one_is_answered(world: World) -> None:
    orders = [world.order() for _ in range(6)]
    world.simulator.fault("error_before", path=CANCELLATION)
    for order in orders:
        world.send(order, "k", amount=1000)

    world.work_queue()

    assert statuses(world, orders) == {"UNKNOWN": 1, "QUEUED": 5}
