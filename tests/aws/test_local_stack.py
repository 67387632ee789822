"""`make run` on ministack instead of moto, unchanged: AWS_ENDPOINT_URL says where it is (docs/local.md)."""

from __future__ import annotations

from pathlib import Path

from testkit.ministack import Ministack
from testkit.processes import until
from tests.e2e.stack import Stack


def test_the_local_stack_works_on_ministack(tmp_path: Path) -> None:
    with (
        Ministack(tmp_path / "ministack") as emulator,
        Stack(tmp_path / "stack", {"AWS_ENDPOINT_URL": emulator.url}) as stack,
    ):
        assert stack.info["awsEndpointUrl"] == emulator.url
        order = stack.order()
        assert stack.status(order).body["transactionStatus"] == "PAID"
        assert stack.refund(order, 25_000, key="one").status == 201
        assert stack.refund(order, 25_000, key="one").headers["idempotency-replayed"] == "true"
        assert stack.refund(order, 10_000, later=True).status == 202
        stack.send(stack.message(order, 5000, "from the back office"))
        stack.send("not JSON")
        assert until(lambda: stack.states(order), lambda states: states == ["SUCCEEDED"] * 3) == ["SUCCEEDED"] * 3
        assert [letter["Body"] for letter in until(stack.dead_letters, bool)] == ["not JSON"]
        stack.simulator.fault("reset_after", path="order_cancellation", times=1)
        unknown = stack.refund(order, 7000).body
        assert unknown["status"] == "UNKNOWN"
        assert [refund["refundId"] for refund in stack.call("GET", "/v1/refunds?status=UNKNOWN").body["refunds"]] == [
            unknown["refundId"]
        ]
        assert stack.resolve(unknown, "SUCCEEDED").body["status"] == "SUCCEEDED"
        sums = stack.refunds(order)
        assert (sums["refunded"], sums["reserved"], sums["refundable"]) == (47_000, 0, 53_000)
        assert stack.simulator.moved("m1", order) == 47_000
        assert {record["action"] for record in stack.audit(order)} >= {"REFUND_SUCCEEDED", "REFUND_UNKNOWN"}
        assert until(stack.messages, lambda number: number == 0) == 0
        assert stack.stop() == 0
