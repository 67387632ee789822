"""What the gateway answers when Indodana limits refunds: one partial only, 30 days, CANCELLED after a refund."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta

import pytest

from tests.world import World


def refund_refused_by_indodana(world: World, order: str, amount: int | None = None) -> None:
    """The refund is FAILED with Indodana's 422, and its reservation is released."""
    before = world.sums(order)

    answer = world.refund(order, amount)

    assert (answer.status, answer.body["code"]) == (422, "UPSTREAM_REFUSED")
    assert world.requests(order)[-1]["answered"] == 422
    assert world.list_refunds(order).body["refunds"][-1]["status"] == "FAILED"
    assert world.sums(order) == before


def test_a_fully_refunded_order_reads_as_cancelled(world: World) -> None:
    order = world.order(100_000)
    world.refund(order, 40_000)
    assert world.status(order).body["transactionStatus"] == "PAID"

    world.refund(order)

    assert world.status(order).body["transactionStatus"] == "CANCELLED"
    refused = world.refund(order, 1)
    assert (refused.status, refused.body["code"]) == (422, "AMOUNT_EXCEEDS_REFUNDABLE")
    assert world.moved(order) == 100_000


@pytest.mark.parametrize("setting", [{"partialRefundStatus": "CANCELLED"}, {"onePartialOnly": True}])
def test_a_second_partial_that_indodana_refuses_is_failed(world: World, setting: dict[str, object]) -> None:
    world.simulator.settings(**setting)
    order = world.order(100_000)
    assert world.refund(order, 40_000).status == 201

    refund_refused_by_indodana(world, order, 60_000)

    assert world.moved(order) == 40_000


def test_a_refund_after_the_30_days_is_failed(world: World) -> None:
    order = world.order(100_000)
    assert world.refund(order, 40_000).status == 201
    world.simulator.move_clock(31)

    refund_refused_by_indodana(world, order)

    assert world.moved(order) == 40_000


def test_a_first_refund_after_the_30_days_is_failed_too(world: World) -> None:
    order = world.order()
    world.simulator.add_order(order, 100_000, transaction_time=datetime.now(UTC) - timedelta(days=32))

    answer = world.refund(order, 1000)

    assert (answer.status, answer.body["code"]) == (422, "UPSTREAM_REFUSED")
    assert world.moved(order) == 0


def test_a_full_refund_whose_answer_is_lost_stays_unknown(world: World) -> None:
    order = world.order(100_000)
    world.simulator.fault("reset_after", path="order_cancellation", merchant_order_id=order, times=1)

    assert world.refund(order).body["status"] == "UNKNOWN"

    assert world.status(order).body["transactionStatus"] == "CANCELLED"
    refused = world.refund(order, 1)
    assert (refused.status, refused.body["code"]) == (422, "AMOUNT_EXCEEDS_REFUNDABLE")
    assert len(world.requests(order)) == 1
