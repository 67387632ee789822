"""The refund queue: what the back office sends, and what becomes of each message."""

from __future__ import annotations

import io
import json
import threading
import time
from typing import Any

import pytest
from botocore.exceptions import ClientError

from gateway.core.transitions import RefundStatus
from indodana import CancellationAccepted, IndodanaClient
from tests.world import World


@pytest.fixture
def reads(world: World, monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """How many items each read of the ledger asks for."""
    client = world.gateway_clients.dynamodb
    batch_get_item, wanted = client.batch_get_item, []

    def counted(**request: Any) -> Any:
        [keys] = [table["Keys"] for table in request["RequestItems"].values()]
        wanted.append(len(keys))
        return batch_get_item(**request)

    monkeypatch.setattr(client, "batch_get_item", counted)
    return wanted


def refund_of(world: World, order: str) -> dict[str, object]:
    [refund] = world.list_refunds(order).body["refunds"]
    return dict(refund)


def test_a_message_becomes_a_refund(world: World) -> None:
    order = world.order(100_000)
    world.send(order, "bo-1", amount=30_000, note="counter 3")

    assert world.work_queue() == []

    refund = refund_of(world, order)
    assert (refund["status"], refund["amount"], refund["note"]) == ("SUCCEEDED", 30_000, "counter 3")
    assert world.moved(order) == 30_000
    assert [record["channel"] for record in world.audit(order)] == ["queue", "queue"]
    assert world.receive() == []


def test_a_message_delivered_again_moves_money_once(world: World) -> None:
    order = world.order(100_000)
    world.send(order, "bo-1", amount=30_000)
    messages = world.receive()

    assert world.work(messages) == []
    assert world.work(messages) == []

    assert world.moved(order) == 30_000


def test_the_same_refund_by_api_and_by_queue_is_one_refund(world: World) -> None:
    order = world.order(100_000)
    first = world.refund(order, 30_000, key="return-1")
    world.send(order, "return-1", amount=30_000.0, reason="ITEMS_RETURNED", requestedBy="agent")

    assert world.work_queue() == []

    assert world.moved(order) == 30_000
    assert refund_of(world, order)["refundId"] == first.body["refundId"]


@pytest.mark.parametrize(("seconds", "read"), [(60, "prefetch"), (10, "read")], ids=["worked", "taken on"])
def test_a_message_with_a_used_key_and_another_payload_changes_nothing(
    world: World, monkeypatch: pytest.MonkeyPatch, seconds: float, read: str
) -> None:
    order = world.order(100_000)
    world.send(order, "return-1", amount=10_000)
    for _ in range(world.settings.max_receive_count - 1):
        [message] = world.receive()
        world.show(message)
    ledger = world.gateway.ledger
    really = getattr(ledger, read)

    def outrun(*arguments: Any) -> Any:
        seen = really(*arguments)
        monkeypatch.setattr(ledger, read, really)
        world.refund(order, 60_000, key="return-1")
        return seen

    monkeypatch.setattr(ledger, read, outrun)
    assert world.work(world.receive(), seconds=seconds) == []

    assert world.moved(order) == 60_000
    assert len(world.dead_letters()) == 1
    [cause] = [record["cause"] for record in world.audit(order) if record["action"] == "MESSAGE_DEAD_LETTERED"]
    assert "idempotency key" in cause


def test_a_message_without_amount_refunds_the_rest_and_names_its_merchant(world: World) -> None:
    order = world.order(80_000, merchant="m2")
    world.send(order, "bo-1", merchantId="m2")

    world.work_queue()

    assert world.moved(order, "m2") == 80_000
    assert world.list_refunds(order).status == 404


def test_the_orders_of_a_batch_are_worked_at_the_same_time(world: World) -> None:
    orders = [world.order() for _ in range(10)]
    for order in orders:
        world.send(order, "k", amount=1000)
    indodana, lock, at_once = world.gateway.indodana, threading.Lock(), [0]
    most = 0

    def cancel(*arguments: Any, **options: Any) -> CancellationAccepted:
        nonlocal most
        with lock:
            at_once[0] += 1
            most = max(most, at_once[0])
        time.sleep(0.3)
        try:
            return IndodanaClient.cancel(indodana, *arguments, **options)
        finally:
            with lock:
                at_once[0] -= 1

    indodana.cancel = cancel  # type: ignore[method-assign]
    assert world.work(world.receive()) == []

    assert all(world.moved(order) == 1000 for order in orders)
    assert most > 5


def test_a_batch_is_read_in_one_call(world: World, reads: list[int]) -> None:
    orders = [world.order() for _ in range(4)]
    for order in orders:
        world.refund(order, 1000)
        world.send(order, "k", amount=1000)
        world.send(order, "l", amount=1000)
    reads.clear()

    assert world.work_queue() == []

    assert reads == [4 + 8]  # the sums and the refunds, each once
    assert all(world.moved(order) == 3000 for order in orders)


def test_what_a_lane_has_changed_is_read_again(world: World, reads: list[int]) -> None:
    order = world.order(100_000)
    world.refund(order, 1000)
    world.send(order, "k", amount=40_000)
    world.send(order, "l", amount=40_000)
    world.send(order, "m", amount=40_000)
    reads.clear()

    assert world.work_queue() == []

    assert reads == [1 + 2, 1 + 1]
    assert world.moved(order) == 81_000
    assert sorted(refund["status"] for refund in world.list_refunds(order).body["refunds"]) == [
        *("FAILED", "SUCCEEDED", "SUCCEEDED", "SUCCEEDED")
    ]


def test_a_batch_that_cannot_be_read_at_once_is_read_one_by_one(
    world: World, monkeypatch: pytest.MonkeyPatch, logs: io.StringIO
) -> None:
    orders = [world.order() for _ in range(3)]
    for order in orders:
        world.send(order, "k", amount=1000)
    client = world.gateway_clients.dynamodb
    batch_get_item = client.batch_get_item

    def overwhelmed(**request: Any) -> Any:
        [(_, wanted)] = request["RequestItems"].items()
        if len(wanted["Keys"]) > 2:
            raise ClientError({"Error": {"Code": "ProvisionedThroughputExceededException"}}, "BatchGetItem")
        return batch_get_item(**request)

    monkeypatch.setattr(client, "batch_get_item", overwhelmed)

    assert world.work_queue() == []

    assert all(world.moved(order) == 1000 for order in orders)
    assert "prefetch failed" in logs.getvalue()


def test_an_order_that_cannot_be_read_keeps_its_message_alone(world: World) -> None:
    good, bad = world.order(), world.order()
    for order in (good, bad):
        world.refund(order, 1000)
        world.send(order, "k", amount=1000)
    key = {"pk": {"S": world.order_key(bad).partition}, "sk": {"S": "ORDER"}}
    world.dynamodb.put_item(TableName=world.settings.ledger_table, Item=key)

    [kept] = world.work_queue()

    assert bad in kept
    assert (world.moved(good), world.moved(bad)) == (2000, 1000)


def test_a_write_that_hangs_holds_up_no_other_of_its_order_for_long(
    world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    order = world.order(100_000)
    world.refund(world.order(), 1000)  # answered, so that several are sent at once
    world.send(order, "k", amount=1000)
    world.send(order, "l", amount=1000)
    client = world.gateway_clients.dynamodb
    transact_write_items, first, second = client.transact_write_items, threading.Event(), threading.Event()
    overtaken: list[bool] = []

    def hanging_once(**request: Any) -> Any:
        if not first.is_set():
            first.set()
            overtaken.append(second.wait(5))  # it hangs until another write of the order begins
        else:
            second.set()
        return transact_write_items(**request)

    monkeypatch.setattr(client, "transact_write_items", hanging_once)
    assert world.work_queue() == []

    assert overtaken == [True]
    assert world.moved(order) == 2000


def test_the_refunds_of_one_order_are_worked_one_after_the_other(world: World) -> None:
    order = world.order(100_000)
    for number in range(6):
        world.send(order, f"k{number}", amount=20_000)

    assert world.work_queue() == []

    statuses = [refund["status"] for refund in world.list_refunds(order).body["refunds"]]
    assert sorted(statuses) == ["FAILED"] + ["SUCCEEDED"] * 5
    assert world.moved(order) == 100_000
    assert world.sums(order) == (100_000, 0, 0)


@pytest.mark.parametrize(("status", "code"), [("INITIATED", "TRANSACTION_NOT_PAID"), (None, "ORDER_NOT_FOUND")])
def test_a_refusal_has_no_caller_and_is_on_record_as_failed(world: World, status: str | None, code: str) -> None:
    order = world.order(status=status) if status else "NO-SUCH-ORDER-EITHER"
    world.send(order, "bo-1", amount=1000)

    assert world.work_queue() == []

    refund = refund_of(world, order)
    assert (refund["status"], refund["failure"]["code"]) == ("FAILED", code)  # type: ignore[index]
    assert world.dead_letters() == []


def test_a_queued_refund_that_turns_out_too_much_fails(world: World) -> None:
    order = world.order(100_000)
    later = world.refund(order, 60_000, later=True)
    assert world.refund(order, 60_000).status == 201

    assert world.work_queue() == []

    refund = world.get(order, later.body["refundId"]).body
    assert (refund["status"], refund["failure"]["code"]) == ("FAILED", "AMOUNT_EXCEEDS_REFUNDABLE")
    assert world.moved(order) == 60_000


GOOD = {"merchantOrderId": "O", "idempotencyKey": "k", "reason": "OTHERS", "requestedBy": "b"}
POISON = [
    ("not json", "body"),
    ("[]", "body"),
    ('{"merchantOrderId": "ORDER-X"}', "idempotencyKey"),
    (json.dumps(GOOD | {"amount": -1}), "amount"),
    (json.dumps(GOOD | {"merchantId": "a#b"}), "merchantId"),
]


@pytest.mark.parametrize(("body", "field"), POISON)
def test_an_invalid_message_is_recorded_and_dead_lettered_at_once(world: World, body: str, field: str) -> None:
    world.send_raw(body)
    [message] = world.receive()

    assert world.work([message]) == []

    [dead] = world.dead_letters()
    assert dead["Body"] == body
    assert field in dead["MessageAttributes"]["cause"]["StringValue"]
    assert dead["MessageAttributes"]["originalMessageId"]["StringValue"] == message["MessageId"]
    records = world.dynamodb.scan(TableName=world.settings.audit_table)["Items"]
    [record] = [item for item in records if item["messageId"]["S"] == message["MessageId"]]
    assert record["action"]["S"] == "MESSAGE_DEAD_LETTERED"
    assert field in record["cause"]["S"]


def received_from(world: World, sender: str) -> list[Any]:
    """The messages of the queue as if this principal had sent them."""
    return [message | {"Attributes": message["Attributes"] | {"SenderId": sender}} for message in world.receive()]


def test_the_gateways_own_message_is_a_pointer(world: World) -> None:
    order = world.order(100_000, merchant="m2")
    later = world.refund(order, 60_000, later=True, merchant="m2").body

    [message] = received_from(world, "AROAEXAMPLEFUNCTION:refund-api")

    assert json.loads(message["Body"]) == {
        **{"merchantId": "m2", "merchantOrderId": order, "refundId": later["refundId"]}
    }
    assert world.work([message]) == []
    assert world.moved(order, "m2") == 60_000
    records = world.audit(order, merchant="m2")
    assert [record["actor"] for record in records] == ["agent-7"] * 3
    assert [record.get("senderSession") for record in records] == [None, "refund-api", "refund-api"]


def test_a_senders_messages_are_taken_for_the_merchants_that_list_it(world: World) -> None:
    sender = "AROAEXAMPLETILLS1"
    world.reassemble(queue_senders=frozenset({(sender, "m2")}))
    order = world.order(100_000, merchant="m2")
    world.order(100_000)
    world.send(order, "k", amount=1000, merchantId="m2")
    world.send(order, "k", amount=1000, merchantId="m1")
    world.send(order, "l", amount=2000, merchantId="m2")

    first, second, third = received_from(world, f"{sender}:till-3")
    third["Attributes"]["SenderId"] = f"{sender}2:till-3"
    assert world.work([first, second, third]) == []

    assert (world.moved(order, "m2"), world.moved(order, "m1")) == (1000, 0)
    causes = {letter["MessageAttributes"]["cause"]["StringValue"] for letter in world.dead_letters()}
    assert causes == {
        f"sender {who} (session till-3) may not request refunds for merchant {merchant}: add {who}={merchant} to the "
        "parameter QueueSenders to allow it"
        for who, merchant in ((sender, "m1"), (f"{sender}2", "m2"))
    }
    done = [record for record in world.audit(order, merchant="m2") if record["action"] == "REFUND_SUCCEEDED"]
    assert [(record["actor"], record["senderSession"], record["requestedBy"]) for record in done] == [
        (sender, "till-3", "back office")
    ]


def test_messages_that_the_release_before_left_in_the_queue_are_worked(world: World) -> None:
    """Full requests of the gateway's own role, which nobody lists."""
    order = world.order(100_000)
    later = world.refund(order, 60_000, key="k", later=True).body
    [pointer] = world.receive()
    body = {
        **{"merchantId": "m1", "merchantOrderId": order, "idempotencyKey": "k", "amount": 60_000},
        **{"reason": "ITEMS_RETURNED", "requestedBy": "agent"},
    }
    sender = {"SenderId": "AROAEXAMPLEFUNCTION:refund-api"}
    old = pointer | {"Body": json.dumps(body), "Attributes": pointer["Attributes"] | sender}

    assert world.work([old]) == []

    assert world.get(order, later["refundId"]).body["status"] == "SUCCEEDED"
    assert world.moved(order) == 60_000
    assert world.dead_letters() == []


def test_a_flood_of_forged_pointers_neither_hastens_nor_delays_a_refund(world: World) -> None:
    order = world.order(100_000)
    world.simulator.fault("rate_limited", path="order_cancellation", merchant_order_id=order, retry_after=300, times=1)
    refund = world.refund(order, 60_000).body
    assert refund["status"] == "QUEUED"
    [before] = world.gateway.ledger.refunds_of(world.order_key(order), 2, None).refunds
    forged = {"merchantId": "m1", "merchantOrderId": order, "refundId": refund["refundId"]}
    for number in range(9):
        token = {"token": {"DataType": "String", "StringValue": "x" * number}} if number else {}
        world.send_raw(json.dumps(forged), token)

    assert world.work(received_from(world, "AROAEXAMPLESTRANGER:x")) == []

    [after] = world.gateway.ledger.refunds_of(world.order_key(order), 2, None).refunds
    assert after == before
    assert len(world.requests(order)) == 1
    world.clock.pass_seconds(301)
    world.send_raw(json.dumps(forged))
    assert world.work(received_from(world, "AROAEXAMPLESTRANGER:x")) == []
    assert world.get(order, refund["refundId"]).body["status"] == "SUCCEEDED"
    assert world.moved(order) == 60_000


def test_a_poisoned_message_harms_no_other_and_is_in_its_orders_timeline(world: World) -> None:
    order = world.order()
    world.send(order, "good", amount=1000)
    world.send(order, "bad", amount=0)
    world.send(order, "good", amount=2000)  # the key of another refund

    assert world.work_queue() == []

    assert world.moved(order) in (1000, 2000)
    assert len(world.dead_letters()) == 2
    causes = [record["cause"] for record in world.audit(order) if record["action"] == "MESSAGE_DEAD_LETTERED"]
    assert len(causes) == 2
    assert any("amount" in cause for cause in causes)
    assert any("idempotency key" in cause for cause in causes)


def test_a_refund_that_must_wait_is_hidden_longer_each_time_then_done(world: World) -> None:
    order = world.order()
    world.simulator.fault("rate_limited", path="order_cancellation", merchant_order_id=order, retry_after=1, times=3)
    world.send(order, "bo-1", amount=1000)
    waits = []
    for _ in range(3):
        [message] = world.receive()
        assert world.work([message]) == [message["Body"]]
        [stored] = world.gateway.ledger.refunds_of(world.order_key(order), 2, None).refunds
        assert stored.status is RefundStatus.QUEUED
        assert stored.next_attempt_at is not None
        waits.append((stored.next_attempt_at - stored.updated_at).total_seconds())
        world.show(message)
        [early] = world.receive()
        assert world.work([early]) == [early["Body"]]
        world.show(early)
        world.clock.pass_seconds(waits[-1] + 1)
    assert len(world.requests(order)) == 3
    assert waits == sorted(waits)
    assert waits[0] >= 2
    assert waits[2] >= 4 * 2

    assert world.work_queue() == []
    assert world.moved(order) == 1000


def test_retry_after_is_honoured(world: World) -> None:
    order = world.order()
    world.simulator.fault("rate_limited", path="order_cancellation", merchant_order_id=order, retry_after=300)
    world.send(order, "bo-1", amount=1000)

    world.work_queue()

    [refund] = world.gateway.ledger.refunds_of(world.order_key(order), 2, None).refunds
    assert refund.next_attempt_at is not None
    assert (refund.next_attempt_at - refund.updated_at).total_seconds() >= 299
    assert world.receive() == []  # hidden


def test_an_outage_alone_never_dead_letters_a_refund(world: World) -> None:
    order = world.order()
    outage = world.simulator.fault("refuse_connections")
    world.send(order, "bo-1", amount=1000)
    for _ in range(world.settings.max_receive_count):
        messages = world.receive()
        for message in messages:
            if world.work([message]):
                world.show(message)
    assert world.receive() == []
    assert world.dead_letters() == []

    world.simulator.clear_faults(outage)
    world.clock.pass_seconds(3600)
    assert world.recover()["enqueued"] == 1
    assert world.work_queue() == []
    assert world.moved(order) == 1000


def test_a_message_whose_time_is_up_is_not_begun_and_comes_again(world: World) -> None:
    order = world.order()
    world.send(order, "bo-1", amount=1000)
    [message] = world.receive()

    assert world.work([message], seconds=10) == [message["Body"]]

    assert world.requests(order) == []
    world.show(message)
    assert world.work_queue() == []
    assert world.moved(order) == 1000


def test_a_message_never_worked_is_taken_on_at_its_last_delivery(world: World) -> None:
    order = world.order()
    world.send(order, "bo-1", amount=1000)
    for _ in range(world.settings.max_receive_count):
        for message in world.receive():
            if world.work([message], seconds=10):
                world.show(message)

    assert world.receive() == []
    assert world.dead_letters() == []
    assert refund_of(world, order)["status"] == "QUEUED"
    world.clock.pass_seconds(60)
    world.recover()
    world.work_queue()
    assert world.moved(order) == 1000


def test_a_message_whose_refund_another_has_in_hand_is_done(world: World) -> None:
    """Whoever has it leaves a message of its own where it is put off, and the schedule finds it where that one dies."""
    order = world.order()
    world.send(order, "bo-1", amount=1000)
    [message] = world.receive()
    world.die_during("cancel")
    with pytest.raises(BaseException, match="killed"):
        world.work([message])
    world.reassemble()

    assert world.work([message]) == []
    assert refund_of(world, order)["status"] == "SUBMITTING"

    world.clock.pass_seconds(60)
    assert world.recover()["leases_expired"] == 1
    assert refund_of(world, order)["status"] == "UNKNOWN"
    assert len(world.requests(order)) == 0


def test_what_goes_wrong_with_one_message_keeps_that_message_alone(
    world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    good, bad = world.order(), world.order()
    world.send(good, "k", amount=1000)
    world.send(bad, "k", amount=1000)
    work = world.gateway.service.work

    def sometimes(request, *rest):  # type: ignore[no-untyped-def]
        if request.order.merchant_order_id == bad:
            raise ZeroDivisionError
        return work(request, *rest)

    monkeypatch.setattr(world.gateway.service, "work", sometimes)
    [kept] = world.work_queue()

    assert bad in kept
    assert world.moved(good) == 1000


class TestResubmit:
    """A merchant to whom Indodana has confirmed that it recognises a repeated refundId."""

    @pytest.fixture(autouse=True)
    def resubmitting(self, world: World) -> None:
        from gateway.core.model import AmbiguousRefunds

        world.simulator.settings(recognisesRepeats=True)
        world.reassemble(ambiguous_refunds=AmbiguousRefunds.RESUBMIT, conflict_kinds_done=frozenset({"ConflictError"}))

    @pytest.mark.parametrize("fault", ["reset_after", "reset_before"])
    def test_an_unknown_refund_is_submitted_again_and_moves_money_once(self, world: World, fault: str) -> None:
        order = world.order()
        world.simulator.fault(fault, path="order_cancellation", merchant_order_id=order, times=1)
        refund = world.refund(order, 1000).body
        assert refund["status"] == "UNKNOWN"

        world.clock.pass_seconds(60)
        assert world.recover()["enqueued"] == 1
        assert world.work_queue() == []

        assert world.get(order, refund["refundId"]).body["status"] == "SUCCEEDED"
        assert world.moved(order) == 1000
        assert len(world.requests(order)) == 2

    def test_a_later_refusal_proves_nothing_and_waits_for_an_operator(self, world: World) -> None:
        order = world.order()
        world.simulator.fault("reset_after", path="order_cancellation", merchant_order_id=order, times=1)
        world.simulator.fault("refused", path="order_cancellation", merchant_order_id=order, status=422)
        refund = world.refund(order, 1000).body
        world.clock.pass_seconds(60)
        world.recover()
        world.work_queue()

        assert world.get(order, refund["refundId"]).body["status"] == "UNKNOWN"
        world.clock.pass_seconds(86_400)
        assert world.recover()["enqueued"] == 0
        assert world.resolve(order, refund["refundId"], "SUCCEEDED").status == 200

    def test_an_outage_after_an_ambiguous_attempt_leaves_it_unknown(self, world: World) -> None:
        order = world.order()
        world.simulator.fault("reset_after", path="order_cancellation", merchant_order_id=order, times=1)
        world.simulator.fault("rate_limited", path="order_cancellation", merchant_order_id=order, times=1)
        refund = world.refund(order, 1000).body
        world.clock.pass_seconds(60)
        world.recover()
        world.work_queue()
        assert world.get(order, refund["refundId"]).body["status"] == "UNKNOWN"

        world.clock.pass_seconds(60)
        world.recover()
        world.work_queue()
        assert world.get(order, refund["refundId"]).body["status"] == "SUCCEEDED"
        assert world.moved(order) == 1000
