"""What the refund queue asks of SQS, within SQS's own limits, and what it makes of its refusals."""

from __future__ import annotations

import logging
from collections.abc import Callable
from dataclasses import replace
from datetime import UTC, datetime
from decimal import Decimal
from typing import Any

import pytest
from botocore.exceptions import ClientError, EndpointConnectionError

from gateway.core.context import RequestContext
from gateway.core.errors import QueueUnavailable
from gateway.core.model import OrderKey, Reason, Refund, RefundRequest, new_refund
from gateway.core.transitions import RefundStatus
from gateway.refunds.queue import DeadLetter, RefundQueue

REQUEST = RefundRequest(OrderKey("m1", "ORDER-1"), "k", Decimal("60000.50"), Reason.OUT_OF_STOCK, "a note", "Rina")
POINTER = f'{{"merchantId": "m1", "merchantOrderId": "ORDER-1", "refundId": "{REQUEST.refund_id}"}}'
ERRORS = [
    EndpointConnectionError(endpoint_url="https://sqs"),
    ClientError({"Error": {"Code": "OverLimit"}}, "SendMessage"),
]


class Sqs:
    def __init__(self) -> None:
        self.calls: list[dict[str, Any]] = []
        self.error: Exception | None = None
        self.answer: dict[str, Any] = {}

    def _call(self, **request: Any) -> dict[str, Any]:
        self.calls.append(request)
        if self.error:
            raise self.error
        return self.answer

    send_message = send_message_batch = receive_message = change_message_visibility = _call


@pytest.fixture
def sqs() -> Sqs:
    return Sqs()


@pytest.fixture
def queue(sqs: Sqs) -> RefundQueue:
    return RefundQueue(sqs, "the queue", "the dead letters")  # type: ignore[arg-type]


def refund(correlation_id: str | None = "c-1", queue_message: str | None = "token-1") -> Refund:
    context = RequestContext("agent", "api", "r-1", correlation_id)
    at = datetime(2026, 11, 27, tzinfo=UTC)
    return new_refund(REQUEST, RefundStatus.QUEUED, at, context, queue_message=queue_message)


def text(value: str) -> dict[str, str]:
    return {"DataType": "String", "StringValue": value}


def test_a_refund_is_sent_with_its_correlation_id_and_token(sqs: Sqs, queue: RefundQueue) -> None:
    queue.send(refund(), delay_seconds=17.4)
    assert sqs.calls == [
        {
            "QueueUrl": "the queue",
            "MessageBody": POINTER,
            "DelaySeconds": 17,
            "MessageAttributes": {"correlationId": text("c-1"), "token": text("token-1")},
        }
    ]


def test_a_message_without_a_token_or_a_fit_correlation_id_has_none(sqs: Sqs, queue: RefundQueue) -> None:
    queue.send(refund(correlation_id="no\nid", queue_message=None))
    assert sqs.calls[0]["MessageAttributes"] == {}


@pytest.mark.parametrize(("seconds", "delay"), [(0, 0), (-5, 0), (0.6, 1), (899.6, 900), (86_400, 900)])
def test_a_delay_keeps_to_sqs_limits(sqs: Sqs, queue: RefundQueue, seconds: float, delay: int) -> None:
    queue.send(refund(), delay_seconds=seconds)
    assert sqs.calls[0]["DelaySeconds"] == delay


def test_a_message_is_due_at_once_unless_told_otherwise(sqs: Sqs, queue: RefundQueue) -> None:
    queue.send(refund())
    assert sqs.calls[0]["DelaySeconds"] == 0


@pytest.mark.parametrize(("seconds", "visibility"), [(0, 1), (1.4, 1), (17.6, 18), (43_201, 43_200)])
def test_a_visibility_timeout_keeps_to_sqs_limits(
    sqs: Sqs, queue: RefundQueue, seconds: float, visibility: int
) -> None:
    queue.extend_visibility("receipt-1", seconds)
    assert sqs.calls == [{"QueueUrl": "the queue", "ReceiptHandle": "receipt-1", "VisibilityTimeout": visibility}]


@pytest.mark.parametrize("error", ERRORS)
def test_a_visibility_timeout_that_stays_is_logged(
    sqs: Sqs, queue: RefundQueue, error: Exception, caplog: pytest.LogCaptureFixture
) -> None:
    sqs.error = error
    queue.extend_visibility("receipt-1", 1)
    [line] = caplog.records
    assert (line.name, line.levelno) == ("gateway", logging.ERROR)
    assert line.exc_info


def test_a_dead_letter_says_why_it_is_one(sqs: Sqs, queue: RefundQueue) -> None:
    queue.dead_letter("the body", "message-1", "x" * 1001, "c-1")
    queue.dead_letter("the body", "message-1", "a cause", None)
    attributes = {"cause": text("x" * 1000), "originalMessageId": text("message-1"), "correlationId": text("c-1")}
    assert sqs.calls[0] == {"QueueUrl": "the dead letters", "MessageBody": "the body", "MessageAttributes": attributes}
    assert sqs.calls[1]["MessageAttributes"] == {"cause": text("a cause"), "originalMessageId": text("message-1")}


@pytest.mark.parametrize("error", ERRORS)
@pytest.mark.parametrize(
    "send",
    [lambda queue: queue.send(refund()), lambda queue: queue.dead_letter("the body", "message-1", "a cause", None)],
    ids=["refund", "dead letter"],
)
def test_a_message_that_is_not_taken_is_told(
    sqs: Sqs, queue: RefundQueue, send: Callable[[RefundQueue], None], error: Exception
) -> None:
    sqs.error = error
    with pytest.raises(QueueUnavailable) as raised:
        send(queue)
    assert raised.value.__cause__ is error


# ---- batches


def test_up_to_ten_messages_are_sent_in_one_call(sqs: Sqs, queue: RefundQueue) -> None:
    refunds = [refund(queue_message=f"token-{number}") for number in range(10)]
    assert queue.send_all(refunds) == 10
    [call] = sqs.calls
    assert (call["QueueUrl"], len(call["Entries"])) == ("the queue", 10)
    assert len({entry["Id"] for entry in call["Entries"]}) == 10
    assert call["Entries"][3] | {"Id": ""} == {
        "Id": "",
        "MessageBody": POINTER,
        "MessageAttributes": {"correlationId": text("c-1"), "token": text("token-3")},
    }


def test_an_empty_batch_makes_no_call(sqs: Sqs, queue: RefundQueue) -> None:
    assert queue.send_all([]) == 0
    assert sqs.calls == []


def test_each_entry_that_sqs_does_not_take_is_logged(
    sqs: Sqs, queue: RefundQueue, caplog: pytest.LogCaptureFixture
) -> None:
    others = [replace(refund(), request=replace(REQUEST, idempotency_key=key)) for key in "abc"]
    failed = [{"Id": "1", "SenderFault": False, "Code": "InternalError"}]
    sqs.answer = {"Successful": [{"Id": "0"}, {"Id": "2"}], "Failed": failed}
    assert queue.send_all(others) == 2
    [line] = caplog.records
    assert line.levelno == logging.ERROR
    assert f"refund {others[1].refund_id} could not be enqueued (InternalError)" in line.getMessage()


@pytest.mark.parametrize("error", ERRORS)
def test_a_batch_that_fails_as_a_whole_is_logged_with_each_refund(
    sqs: Sqs, queue: RefundQueue, error: Exception, caplog: pytest.LogCaptureFixture
) -> None:
    others = [replace(refund(), request=replace(REQUEST, idempotency_key=key)) for key in "ab"]
    sqs.error = error
    assert queue.send_all(others) == 0
    [line] = caplog.records
    assert line.exc_info
    assert all(one.refund_id in line.getMessage() for one in others)


# ---- dead letters


def received(attributes: dict[str, Any] | None = None, **system: str) -> dict[str, Any]:
    known = {"SenderId": "AIDASHOP", "SentTimestamp": "1764201600123", "ApproximateReceiveCount": "101"}
    return {
        "MessageId": "id-1",
        "Body": "{}",
        "Attributes": known | system,
        **({"MessageAttributes": attributes} if attributes else {}),
    }


def test_dead_letters_are_read_and_stay_visible(sqs: Sqs, queue: RefundQueue) -> None:
    sqs.answer = {
        "Messages": [received({"correlationId": text("c-1")}), received({"correlationId": {"DataType": "B"}})]
    }
    first, second = queue.some_dead_letters()
    assert sqs.calls == [
        {
            **{"QueueUrl": "the dead letters", "MaxNumberOfMessages": 10, "VisibilityTimeout": 0},
            **{"MessageSystemAttributeNames": ["All"], "MessageAttributeNames": ["All"]},
        }
    ]
    sent_at = datetime(2025, 11, 27, 0, 0, 0, 123000, tzinfo=UTC)
    assert first == DeadLetter("id-1", "{}", "AIDASHOP", sent_at, 101, "c-1", is_recorded=False)
    assert second.correlation_id is None


SOURCE = {"DeadLetterQueueSourceArn": "arn:aws:sqs:ap-southeast-3:123456789012:refunds"}
OF_THE_WORKER = {"cause": text("no JSON"), "originalMessageId": text("id-0")}


@pytest.mark.parametrize(
    ("attributes", "system", "is_recorded"),
    [({}, {}, False), ({}, SOURCE, False), (OF_THE_WORKER, {}, True), (OF_THE_WORKER, SOURCE, False)],
)
def test_a_dead_letter_is_recorded_if_the_worker_moved_it(
    sqs: Sqs, queue: RefundQueue, attributes: dict[str, Any], system: dict[str, str], is_recorded: bool
) -> None:
    """Its sender can give a message the attributes; SQS alone says that it moved the message itself."""
    sqs.answer = {"Messages": [received(attributes, **system)]}
    [letter] = queue.some_dead_letters()
    assert letter.is_recorded is is_recorded


@pytest.mark.parametrize("error", ERRORS)
def test_dead_letters_that_cannot_be_read_are_an_error(sqs: Sqs, queue: RefundQueue, error: Exception) -> None:
    sqs.error = error
    with pytest.raises(QueueUnavailable):
        queue.some_dead_letters()
