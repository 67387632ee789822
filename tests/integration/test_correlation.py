"""A caller's own id: in its answer, in every line that is logged for it, and in every record of what it led to."""

from __future__ import annotations

import io
import json
import logging
import uuid
from typing import Any

import pytest

from gateway.core import inputs
from tests.world import World

WRONG = ["", " ", "a b", "a,b", "a" * 129, "é", "a;b", "x\ny", 'a"b', "{a}", "<a>", "rina@merchant.example"]


def lines(logs: io.StringIO) -> list[dict[str, Any]]:
    """Log lines, without the metrics between them."""
    found = [json.loads(line) for line in logs.getvalue().splitlines()]
    return [line for line in found if "_aws" not in line]


def ids(logs: io.StringIO) -> set[str | None]:
    return {line.get("correlation_id") for line in lines(logs)}


def recorded(world: World, order: str) -> list[tuple[str, str]]:
    return [(record["action"], record["correlationId"]) for record in world.audit(order)]


def test_a_request_with_an_id_is_answered_logged_and_recorded_under_it(world: World, logs: io.StringIO) -> None:
    order = world.order()

    status = world.status(order, correlation_id="till-3/sale:41")
    refund = world.refund(order, 1000, correlation_id="till-3/sale:42")

    assert status.headers["x-correlation-id"] == "till-3/sale:41"
    assert refund.headers["x-correlation-id"] == "till-3/sale:42"
    assert [line["correlation_id"] for line in lines(logs) if line["message"] == "request"] == [
        "till-3/sale:41",
        "till-3/sale:42",
    ]
    assert ids(logs) == {"till-3/sale:41", "till-3/sale:42"}
    assert recorded(world, order) == [
        ("STATUS_CHECKED", "till-3/sale:41"),
        ("REFUND_SUBMITTING", "till-3/sale:42"),
        ("REFUND_SUCCEEDED", "till-3/sale:42"),
    ]


def test_without_one_the_apis_request_id_serves(world: World, logs: io.StringIO) -> None:
    order = world.order()

    answer = world.refund(order, 1000)
    logged = ids(logs)

    [record, _] = world.audit(order)
    assert answer.headers["x-correlation-id"] == record["correlationId"] == record["requestId"]
    assert logged == {record["requestId"]}


def test_an_id_that_the_gateway_gave_may_be_sent_to_it() -> None:
    assert inputs.correlation_id_in("QkVfT012CyQEPcg=")  # API Gateway's, as in events/
    assert inputs.correlation_id_in(str(uuid.uuid4()))  # an SQS message's, a run's


@pytest.mark.parametrize("given", ["x", "a" * 128, "Root=1-6746d7a0-3f2a", "A_b-c.d:e/f+g="])
def test_an_id_within_the_rule_is_taken(world: World, given: str) -> None:
    assert world.status(world.order(), correlation_id=given).headers["x-correlation-id"] == given


@pytest.mark.parametrize("given", WRONG)
def test_an_id_that_breaks_the_rule_is_refused_and_goes_nowhere(world: World, logs: io.StringIO, given: str) -> None:
    order = world.order()

    answer = world.refund(order, 1000, correlation_id=given)

    assert (answer.status, answer.body["code"]) == (400, "INVALID_REQUEST")
    assert answer.body["errors"] == [{"field": "X-Correlation-Id", "detail": inputs.CORRELATION_ID_RULE}]
    assert answer.headers["x-correlation-id"] == answer.body["requestId"]
    assert ids(logs) == {answer.body["requestId"]}
    assert world.requests(order, "check_status") == []
    assert world.api("GET /v1/transactions/{merchantOrderId}/audit", order).status == 404


def test_problems_and_bugs_are_answered_and_logged_under_it_too(
    world: World, logs: io.StringIO, monkeypatch: pytest.MonkeyPatch
) -> None:
    order = world.order()

    forbidden = world.refund(order, 1000, merchant=None, correlation_id="c-1")
    refused = world.refund(order, 999_999, correlation_id="c-2")
    monkeypatch.setattr(world.gateway.service, "refund_now", None)
    broken = world.refund(order, 1000, correlation_id="c-3")

    assert [answer.status for answer in (forbidden, refused, broken)] == [403, 422, 500]
    assert [answer.headers["x-correlation-id"] for answer in (forbidden, refused, broken)] == ["c-1", "c-2", "c-3"]
    assert [line["correlation_id"] for line in lines(logs)] == ["c-1", "c-2", "c-3", "c-3"]
    assert recorded(world, order) == [("REFUND_REFUSED", "c-2")]


def test_what_the_domain_and_the_layer_log_bears_it(world: World, logs: io.StringIO) -> None:
    order = world.order()
    world.simulator.fault("rate_limited", path="check_status", merchant_order_id=order, times=1)

    world.refund(order, 1000, correlation_id="c-1")
    with_layer = lines(logs)
    logging.getLogger("indodana").warning("outside of any request")

    waits = next(line for line in with_layer if "deferred" in line["message"])
    assert (waits["name"], waits["correlation_id"]) == ("gateway", "c-1")
    last = lines(logs)[-1]
    assert (last["name"], last.get("correlation_id")) == ("indodana", None)


def test_a_queued_refund_is_worked_under_its_callers_id(world: World, logs: io.StringIO) -> None:
    orders = [world.order() for _ in range(5)]
    for number, order in enumerate(orders):
        assert world.refund(order, 1000, later=True, correlation_id=f"c-{number}").status == 202
    logs.truncate(0)
    logs.seek(0)

    assert world.work_queue() == []  # in a thread for each order

    for number, order in enumerate(orders):
        steps = ["REFUND_QUEUED", "REFUND_SUBMITTING", "REFUND_SUCCEEDED"]
        assert recorded(world, order) == [(step, f"c-{number}") for step in steps]
        mine = [line for line in lines(logs) if line.get("merchant_order_id") == order]
        assert [line["correlation_id"] for line in mine] == [f"c-{number}"]
    batch = next(line for line in lines(logs) if line["message"] == "batch")
    assert "correlation_id" not in batch


def test_recovery_goes_on_under_the_callers_id(world: World, logs: io.StringIO) -> None:
    lost, dead = world.order(), world.order()
    world.refund(lost, 1000, later=True, correlation_id="c-lost")
    for message in world.receive():
        world.sqs.delete_message(QueueUrl=world.settings.refund_queue_url, ReceiptHandle=message["ReceiptHandle"])
    world.die_during("cancel")
    with pytest.raises(BaseException, match="killed"):
        world.refund(dead, 1000, correlation_id="c-dead")
    world.reassemble()
    world.clock.pass_seconds(60)
    logs.truncate(0)
    logs.seek(0)

    world.recover()
    unknown = next(line for line in lines(logs) if "is unknown" in line["message"])
    recovered = next(line for line in lines(logs) if line["message"] == "recovery run")
    world.work_queue()

    assert (unknown["correlation_id"], recovered["correlation_id"]) == ("c-dead", "invocation-1")
    assert recorded(world, dead) == [("REFUND_SUBMITTING", "c-dead"), ("REFUND_UNKNOWN", "c-dead")]
    assert recorded(world, lost)[-1] == ("REFUND_SUCCEEDED", "c-lost")


def test_a_repetition_under_another_id_is_the_same_refund(world: World) -> None:
    order = world.order()
    first = world.refund(order, 1000, key="k", later=True, correlation_id="c-1")

    again = world.refund(order, 1000, key="k", later=True, correlation_id="c-2")
    world.work_queue()

    assert (again.status, again.headers["idempotency-replayed"]) == (202, "true")
    assert again.headers["x-correlation-id"] == "c-2"
    assert again.body == first.body
    assert {correlation for _, correlation in recorded(world, order)} == {"c-1"}
    assert world.moved(order) == 1000


def test_an_operators_step_is_recorded_under_the_operators_id(world: World) -> None:
    order = world.order()
    world.simulator.fault("reset_after", path="order_cancellation", merchant_order_id=order, times=1)
    refund = world.refund(order, 1000, correlation_id="c-1").body

    world.resolve(order, refund["refundId"], "SUCCEEDED", correlation_id="ticket:4711")

    assert recorded(world, order)[-1] == ("REFUND_RESOLVED", "ticket:4711")


def test_a_producer_of_messages_gives_it_as_an_attribute(world: World) -> None:
    given, none = world.order(), world.order()
    world.send(given, "k", amount=1000, correlation_id="batch-7/line-3")
    world.send(none, "k", amount=1000)
    messages = world.receive()

    assert world.work(messages) == []

    assert {correlation for _, correlation in recorded(world, given)} == {"batch-7/line-3"}
    message_id = next(message["MessageId"] for message in messages if none in message["Body"])
    assert {correlation for _, correlation in recorded(world, none)} == {message_id}


@pytest.mark.parametrize(
    "attribute",
    [
        {"DataType": "String", "StringValue": "rina@merchant.example"},
        {"DataType": "Binary", "BinaryValue": b"c-1"},
    ],
    ids=["breaks the rule", "binary"],
)
def test_a_message_whose_id_breaks_the_rule_is_a_dead_letter(
    world: World, logs: io.StringIO, attribute: dict[str, Any]
) -> None:
    order = world.order()
    body = {"merchantOrderId": order, "idempotencyKey": "k", "reason": "OTHERS", "requestedBy": "back office"}
    world.send_raw(json.dumps(body), {"correlationId": attribute})
    [message] = world.receive()

    assert world.work([message]) == []

    [letter] = world.dead_letters()
    cause = letter["MessageAttributes"]["cause"]["StringValue"]
    assert cause == f"correlationId: {inputs.CORRELATION_ID_RULE}"
    assert "correlationId" not in letter["MessageAttributes"]
    assert recorded(world, order) == [("MESSAGE_DEAD_LETTERED", message["MessageId"])]
    assert "rina" not in logs.getvalue()
    assert world.moved(order) == 0


def test_a_dead_letter_keeps_the_id_for_whoever_sends_it_back(world: World, logs: io.StringIO) -> None:
    order = world.order()
    world.send(order, "k", amount=0, correlation_id="c-1")

    world.work_queue()

    [letter] = world.dead_letters()
    assert letter["MessageAttributes"]["correlationId"]["StringValue"] == "c-1"
    assert recorded(world, order) == [("MESSAGE_DEAD_LETTERED", "c-1")]
    assert next(line for line in lines(logs) if "dead-letter queue" in line["message"])["correlation_id"] == "c-1"


def test_a_message_sent_back_without_it_goes_on_under_the_refunds_own(world: World) -> None:
    order = world.order()
    world.refund(order, 1000, later=True, correlation_id="c-1")
    [message] = world.receive()
    world.sqs.delete_message(QueueUrl=world.settings.refund_queue_url, ReceiptHandle=message["ReceiptHandle"])
    world.send_raw(message["Body"])

    world.work_queue()

    assert {correlation for _, correlation in recorded(world, order)} == {"c-1"}
