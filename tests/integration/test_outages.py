"""What a process does after an outcome became unknown: it waits, and then asks before it sends.

How many become unknown behind a wall is counted in tests/simulation/test_outages.py.
"""

from __future__ import annotations

from tests.world import World

CANCELLATION, STATUS = "order_cancellation", "check_status"


def test_a_probe_of_a_cancelled_order_is_sent_if_the_ledger_knows_it(world: World) -> None:
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

    statuses = sorted(world.list_refunds(order).body["refunds"][0]["status"] for order in orders)
    assert statuses == ["QUEUED"] * 5 + ["UNKNOWN"]
