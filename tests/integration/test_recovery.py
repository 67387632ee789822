"""The schedule: leases that ran out, refunds that nobody works on, ages."""

from __future__ import annotations

import io
import json
from concurrent.futures import ThreadPoolExecutor

import pytest

from tests.world import World


def killed_in(world: World, call: str, order: str, key: str = "k") -> None:
    world.die_during(call)
    with pytest.raises(BaseException, match="killed"):
        world.refund(order, 10_000, key=key)
    world.reassemble()


def test_a_lease_that_ran_out_becomes_unknown_and_keeps_its_reservation(world: World) -> None:
    order = world.order(100_000)
    killed_in(world, "cancel", order)
    assert world.refund(order, 10_000, key="k").status == 409
    assert world.recover()["leases_expired"] == 0

    world.clock.pass_seconds(50)
    counts = world.recover()

    assert (counts["leases_expired"], counts["unknown"]) == (1, 1)
    assert world.open_refunds().body["refunds"][0]["merchantOrderId"] == order
    assert world.sums(order) == (0, 10_000, 90_000)
    record = world.audit(order)[-1]
    assert (record["action"], record["actor"], record["channel"]) == ("REFUND_UNKNOWN", "recovery", "schedule")
    assert "lease" in record["cause"]


def test_a_request_repeated_after_the_lease_is_answered_with_unknown(world: World) -> None:
    order = world.order()
    killed_in(world, "cancel", order)
    world.clock.pass_seconds(50)

    answer = world.refund(order, 10_000, key="k")

    assert (answer.status, answer.body["status"]) == (202, "UNKNOWN")
    assert world.requests(order) == []


def test_an_accepted_refund_whose_message_was_lost_is_enqueued_again(world: World) -> None:
    order = world.order()
    assert world.refund(order, 1000, later=True).status == 202
    for message in world.receive():
        world.sqs.delete_message(QueueUrl=world.settings.refund_queue_url, ReceiptHandle=message["ReceiptHandle"])
    assert world.recover()["enqueued"] == 0  # it may only be on its way

    world.clock.pass_seconds(60)
    assert world.recover()["enqueued"] == 1
    assert world.recover()["enqueued"] == 0  # and not once a minute

    assert world.work_queue() == []
    assert world.moved(order) == 1000


def test_a_queue_that_takes_no_message_loses_no_refund(world: World) -> None:
    order = world.order()
    url = world.settings.refund_queue_url
    world.reassemble(refund_queue_url=url + "-gone")
    answer = world.refund(order, 1000, later=True)
    assert (answer.status, answer.body["status"]) == (202, "QUEUED")

    world.reassemble(refund_queue_url=url)
    world.clock.pass_seconds(60)
    world.recover()
    world.work_queue()

    assert world.moved(order) == 1000


def test_an_item_that_cannot_be_read_stops_no_refund(world: World, logs: io.StringIO) -> None:
    broken, order = world.order(), world.order()
    world.refund(broken, 1000, later=True)
    [refund] = world.list_refunds(broken).body["refunds"]
    world.dynamodb.update_item(
        TableName=world.settings.ledger_table,
        Key={"pk": {"S": f"m1#{broken}"}, "sk": {"S": f"REFUND#{refund['refundId']}"}},
        UpdateExpression="SET attempts = :none",
        ExpressionAttributeValues={":none": {"S": "many"}},
    )
    killed_in(world, "cancel", order)
    world.clock.pass_seconds(50)

    counts = world.recover()

    assert (counts["errors"], counts["leases_expired"], counts["unknown"]) == (1, 1, 1)
    assert f"unreadable item in the ledger: m1#{broken} / REFUND#{refund['refundId']}" in logs.getvalue()


def test_an_unreadable_refund_stops_only_its_own_order(world: World, logs: io.StringIO) -> None:
    broken, order = world.order(), world.order()
    for one in (broken, order):
        world.refund(one, 1000, key="k", later=True)
    [refund] = world.list_refunds(broken).body["refunds"]
    world.dynamodb.update_item(
        TableName=world.settings.ledger_table,
        Key={"pk": {"S": f"m1#{broken}"}, "sk": {"S": f"REFUND#{refund['refundId']}"}},
        UpdateExpression="SET schemaVersion = :later",
        ExpressionAttributeValues={":later": {"N": "99"}},
    )

    answers = [
        world.list_refunds(broken),
        world.get(broken, refund["refundId"]),
        world.refund(broken, 1000, key="k", later=True),
    ]

    assert [(answer.status, answer.body["code"]) for answer in answers] == [(503, "LEDGER_UNAVAILABLE")] * 3
    assert all("cannot be read; an operator must look at it" in answer.body["detail"] for answer in answers)
    assert '"level":"ERROR"' not in logs.getvalue()
    assert [one["merchantOrderId"] for one in world.open_refunds("QUEUED").body["refunds"]] == [order]
    world.work_queue()
    assert (world.moved(broken), world.moved(order)) == (0, 1000)


def test_a_message_that_sqs_moved_gets_one_record_and_stays(world: World) -> None:
    order = world.order()
    world.send(order, "k", amount=1000)
    queue = world.settings.refund_queue_url
    for _ in range(world.settings.max_receive_count + 1):
        world.sqs.receive_message(QueueUrl=queue, VisibilityTimeout=0)

    for _ in range(2):
        assert world.recover()["errors"] == 0

    [record] = world.audit(order)
    assert (record["action"], record["receiveCount"]) == ("MESSAGE_DEAD_LETTERED", world.settings.max_receive_count + 1)
    [letter] = world.dead_letters()
    assert letter["MessageId"] == record["messageId"]


def test_ages_and_counts_are_metrics(world: World, capsys: pytest.CaptureFixture[str]) -> None:
    order = world.order()
    world.simulator.fault("error_before", path="order_cancellation", merchant_order_id=order)
    world.refund(order, 1000)
    world.refund(world.order(), 1000, later=True)
    world.clock.pass_seconds(7200)
    capsys.readouterr()

    counts = world.recover()

    assert (counts["unknown"], counts["queued"]) == (1, 1)
    assert 7200 <= counts["oldest_unknown_seconds"] < 7300
    lines = [json.loads(line) for line in capsys.readouterr().out.splitlines()]
    metrics = {
        metric["Name"]: line[metric["Name"]][0]
        for line in lines
        for directive in line.get("_aws", {}).get("CloudWatchMetrics", [])
        for metric in directive["Metrics"]
    }
    assert metrics["UnknownRefunds"] == 1
    assert metrics["OldestUnknownRefundAge"] == counts["oldest_unknown_seconds"]
    assert metrics["QueuedRefunds"] == 1


def test_two_recovery_runs_at_once_act_once(world: World) -> None:
    order = world.order(100_000)
    killed_in(world, "cancel", order)
    world.refund(order, 1000, later=True)
    world.clock.pass_seconds(120)

    with ThreadPoolExecutor(2) as pool:
        runs = list(pool.map(lambda _: world.recover(), range(2)))

    assert sum(run["enqueued"] for run in runs) == 1
    unknown = [record for record in world.audit(order) if record["action"] == "REFUND_UNKNOWN"]
    assert len(unknown) == 1
