"""What the refund queue asks of SQS, within SQS's own limits, and what it makes of its refusals."""

from __future__ import annotations

import logging
from collections.abc import Callable
from datetime import UTC, datetime
from decimal import Decimal
from typing import Any

import pytest
from botocore.exceptions import ClientError, EndpointConnectionError

from gateway.core.context import RequestContext
from gateway.core.errors import QueueUnavailable
from gateway.core.model import OrderKey, Reason, Refund, RefundRequest, new_refund
from gateway.core.transitions import RefundStatus
from gateway.refunds.queue import RefundQueue

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

    def _call(self, **request: Any) -> None:
        self.calls.append(request)
        if self.error:
            raise self.error

    send_message = change_message_visibility = _call


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
