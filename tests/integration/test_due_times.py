"""Nothing is attempted before it is due, however many messages a refund has, and each thing is told once."""

from __future__ import annotations

import json
from concurrent.futures import ThreadPoolExecutor
from datetime import datetime, timedelta
from typing import Any

import pytest

from gateway.core.model import Refund
from gateway.core.transitions import RefundStatus
from gateway.refunds.queue import MAX_VISIBILITY_SECONDS
from indodana import Cancellation, CancellationAccepted, IndodanaClient
from tests.world import World

DAY = 86_400


def limited(world: World, order: str, retry_after: int, times: int | None = None) -> str:
    """Indodana takes no cancellation of this order for now."""
    options: dict[str, Any] = {} if times is None else {"times": times}
    fault: str = world.simulator.fault(
        "rate_limited", path="order_cancellation", merchant_order_id=order, retry_after=retry_after, **options
    )
    return fault


def stored(world: World, order: str) -> Refund:
    [refund] = world.gateway.ledger.refunds_of(world.order_key(order), 2, None).refunds
    return refund


def due_in(world: World, order: str) -> float:
    due = stored(world, order).next_attempt_at
    assert due
    return (due - world.clock()).total_seconds()


def all_messages(world: World) -> list[Any]:
    found = world.receive()
    while more := world.receive():
        found += more
    return found


def outcomes(text: str) -> list[str]:
    """The statuses of the RefundOutcomes that were counted."""
    lines = [json.loads(line) for line in text.splitlines()]
    return [line["status"] for line in lines if "RefundOutcomes" in line]


def test_many_messages_of_a_refund_cause_one_attempt_when_it_is_due(world: World) -> None:
    order = world.order()
    limited(world, order, retry_after=600, times=1)
    for _ in range(4):
        world.send(order, "k", amount=1000)
    messages = all_messages(world)

    kept = world.work(messages)

    assert len(kept) == 1  # one carries it; the others are done
    assert len(world.requests(order)) == 1
    carrier = next(message for message in messages if stored(world, order).queue_message == message["MessageId"])
    world.send(order, "k", amount=1000)
    world.show(carrier)
    assert world.work(all_messages(world)) == [carrier["Body"]]
    assert len(world.requests(order)) == 1

    world.clock.pass_seconds(600)
    world.show(carrier)
    world.send(order, "k", amount=1000)
    assert world.work(all_messages(world)) == []
    assert len(world.requests(order)) == 2
    assert world.moved(order) == 1000


def test_two_workers_with_a_message_each_attempt_it_once(world: World) -> None:
    order = world.order()
    limited(world, order, retry_after=60)
    for _ in range(2):
        world.send(order, "k", amount=1000)
    first, second = all_messages(world)

    with ThreadPoolExecutor(2) as pool:
        list(pool.map(lambda message: world.work([message]), [first, second]))

    assert len(world.requests(order)) == 1


def test_a_refund_put_off_since_it_was_read_is_not_sent(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    """Between a worker's read and its reservation another one was told to come back later."""
    order = world.order()
    fault = world.simulator.fault("unauthorized", path="check_status", merchant_order_id=order)
    world.send(order, "k", amount=1000)
    [message] = world.receive()
    world.work([message])
    world.simulator.clear_faults(fault)
    world.clock.pass_seconds(60)
    ledger = world.gateway.ledger
    really = ledger.prefetch

    def outrun(*arguments: Any) -> Any:
        seen = really(*arguments)
        ledger.postpone(stored(world, order), world.clock() + timedelta(minutes=10), "another message")
        return seen

    monkeypatch.setattr(ledger, "prefetch", outrun)
    world.show(message)
    assert world.work(all_messages(world)) == []

    assert world.requests(order) == []
    assert stored(world, order).status is RefundStatus.QUEUED


def test_indodana_can_put_a_refund_off_for_a_day_which_no_message_can_wait(world: World) -> None:
    order = world.order()
    limited(world, order, retry_after=DAY, times=1)
    world.send(order, "k", amount=1000)

    assert world.work_queue() == []
    assert DAY - 60 < due_in(world, order) <= DAY
    assert due_in(world, order) > MAX_VISIBILITY_SECONDS

    for hour in range(23):
        world.clock.pass_seconds(3600)
        assert world.recover()["enqueued"] == 0, hour
    world.clock.pass_seconds(3700)
    assert world.recover()["enqueued"] == 1
    world.work_queue()
    assert len(world.requests(order)) == 2
    assert world.moved(order) == 1000


def test_a_queue_paused_for_a_day_comes_back_with_one_attempt_each(world: World) -> None:
    orders = [world.order() for _ in range(3)]
    for order in orders:
        world.refund(order, 1000, later=True)
    for _ in range(DAY // 1800):  # the schedule runs more often, which makes no difference
        world.clock.pass_seconds(1800)
        world.recover()

    messages = all_messages(world)
    assert len(messages) <= 3 * 13
    while messages:
        world.work(messages[:10])
        messages = messages[10:]

    assert [len(world.requests(order)) for order in orders] == [1, 1, 1]
    assert [world.moved(order) for order in orders] == [1000, 1000, 1000]


def test_an_outage_costs_one_request_a_refund_and_backoff(world: World) -> None:
    outage_seconds = 6 * 3600
    orders = [world.order() for _ in range(2)]
    for order in orders:
        world.refund(order, 1000)  # the ledger knows them
    outage = world.simulator.fault("rate_limited", path="order_cancellation")
    for order in orders:
        world.refund(order, 1000, later=True)
    before = sum(len(world.requests(order)) for order in orders)
    due: dict[str, set[datetime]] = {order: set() for order in orders}
    for _ in range(outage_seconds // 900):
        drain(world)
        for order in orders:
            refunds = world.gateway.ledger.refunds_of(world.order_key(order), 5, None).refunds
            due[order] |= {refund.next_attempt_at for refund in refunds if refund.next_attempt_at}
        world.clock.pass_seconds(900)
        world.recover()

    sent = sum(len(world.requests(order)) for order in orders) - before
    assert sent <= sum(len(times) for times in due.values())
    assert sent <= len(orders) * (outage_seconds / 900 + 12)  # the longest back-off, and those before it
    world.simulator.clear_faults(outage)
    for _ in range(3):
        world.clock.pass_seconds(900)
        world.recover()
        drain(world)
    assert [world.moved(order) for order in orders] == [2000] * 2
    assert world.dead_letters() == []


def drain(world: World) -> None:
    """Works all messages that are there; those that are hidden come when the refund is due, as in the queue."""
    for message in all_messages(world):
        if world.work([message]):
            world.show(message)


def test_an_outcome_is_counted_once_however_often_its_message_comes(
    world: World, capsys: pytest.CaptureFixture[str]
) -> None:
    order = world.order()
    world.send(order, "k", amount=1000)
    messages = world.receive()
    capsys.readouterr()

    for _ in range(3):
        assert world.work(messages) == []
    assert world.refund(order, 1000, key="k", fields={"reason": "OTHERS", "requestedBy": "back office"}).status == 201

    assert outcomes(capsys.readouterr().out) == ["SUCCEEDED"]


def test_each_outcome_on_the_way_is_counted(world: World, capsys: pytest.CaptureFixture[str]) -> None:
    order = world.order()
    world.simulator.fault("reset_after", path="order_cancellation", merchant_order_id=order, times=1)
    capsys.readouterr()

    queued = world.refund(order, 1000, later=True).body
    world.work_queue()
    assert world.resolve(order, queued["refundId"], "SUCCEEDED").status == 200

    assert outcomes(capsys.readouterr().out) == ["QUEUED", "UNKNOWN", "SUCCEEDED"]


@pytest.mark.parametrize("paid", [False, True], ids=["failed", "succeeded"])
def test_a_message_sent_after_its_refund_was_settled_is_on_record_once(world: World, paid: bool) -> None:
    order = world.order(status="PAID" if paid else "INITIATED")
    world.send(order, "k", amount=1000)
    first = world.receive()
    assert world.work(first) == []
    assert world.work(first) == []  # the same message again is no new request
    world.simulator.add_order(order, 100_000, "PAID")
    world.send(order, "k", amount=1000)
    late = [message | {"Attributes": later(message["Attributes"])} for message in world.receive()]

    for _ in range(2):
        assert world.work(late) == []

    records = [record for record in world.audit(order) if record["action"] == "MESSAGE_FOR_SETTLED_REFUND"]
    assert [record["after"] for record in records] == ["SUCCEEDED" if paid else "FAILED"]
    assert "needs a new key" in records[0]["cause"]
    assert world.moved(order) == (1000 if paid else 0)


def later(attributes: dict[str, str]) -> dict[str, str]:
    """The clocks of the emulated queue and of this test are the same to the millisecond; a second is enough."""
    return attributes | {"SentTimestamp": str(int(attributes["SentTimestamp"]) + 1000)}


def test_a_message_for_an_unknown_merchant_is_dead_lettered_and_on_record(world: World) -> None:
    order = world.order()
    world.send(order, "k", amount=1000, merchantId="m3")

    assert world.work_queue() == []

    [dead] = world.dead_letters()
    assert "MerchantIds" in dead["MessageAttributes"]["cause"]["StringValue"]
    records = world.dynamodb.scan(TableName=world.settings.audit_table)["Items"]
    assert [record["action"]["S"] for record in records] == ["MESSAGE_DEAD_LETTERED"]


def test_recovery_notes_a_message_before_it_sends_it(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    """Dying between the two costs a wait; the other way round each run would send another message."""
    order = world.order()
    world.refund(order, 1000, later=True)
    for message in world.receive():
        world.sqs.delete_message(QueueUrl=world.settings.refund_queue_url, ReceiptHandle=message["ReceiptHandle"])
    world.clock.pass_seconds(60)
    noted: list[str | None] = []
    sqs = world.gateway_clients.sqs
    send_message_batch = sqs.send_message_batch

    def sent(**request: Any) -> Any:
        [entry] = request["Entries"]
        assert entry["MessageAttributes"]["token"]["StringValue"] == stored(world, order).queue_message
        noted.append(stored(world, order).queue_message)
        return send_message_batch(**request)

    monkeypatch.setattr(sqs, "send_message_batch", sent)
    assert world.recover()["enqueued"] == 1
    assert len(noted) == 1


def test_each_attempt_asks_for_the_same_cancellation_to_the_letter(world: World) -> None:
    order = world.order()
    limited(world, order, retry_after=1, times=1)
    indodana, asked = world.gateway.indodana, []

    def cancel(merchant: str, cancellation: Cancellation, **options: Any) -> CancellationAccepted:
        asked.append(cancellation)
        return IndodanaClient.cancel(indodana, merchant, cancellation, **options)

    indodana.cancel = cancel  # type: ignore[method-assign, assignment]
    world.refund(order, 1000, key="k")
    world.clock.pass_seconds(3700)
    world.recover()
    world.work_queue()

    first, second = asked
    assert first == second
    assert world.moved(order) == 1000
