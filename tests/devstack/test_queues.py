"""The queue mapping: batches, redelivery, dead letters, concurrency, on a real server."""

import threading
import time
from collections.abc import Callable, Mapping
from typing import Any

import pytest

from devstack.cloudformation import SENDER_ID
from devstack.queues import Poller, failed_messages, message_event, sqs_event
from devstack.runtime import Runtime
from devstack.template import Function, Queue, QueueMapping
from tests.devstack.account import Account, until


class Worker:
    """A function that takes batches, and the poller that feeds it."""

    def __init__(
        self,
        account: Account,
        answer: Callable[[list[dict[str, Any]]], Any],
        *,
        concurrency: int = 2,
        report: bool = True,
    ) -> None:
        self.batches: list[list[dict[str, Any]]] = []
        self.answer = answer
        function = Function("W", "worker", "w.handler", 5, 128, {}, "arn:aws:lambda:r:1:function:worker")
        self.runtime = Runtime({"W": function}, {"W": self.handle})
        mapping = QueueMapping("W", "Queue", 10, report, concurrency)
        self.events: list[Mapping[str, Any]] = []
        self.poller = Poller(
            mapping, account.queue, "ap-southeast-3", account.sqs, self.runtime, self.events.append, retry_seconds=0.01
        )

    def handle(self, event: Any, _: Any) -> Any:
        self.batches.append(event["Records"])
        return self.answer(event["Records"])

    @property
    def bodies(self) -> list[str]:
        return [record["body"] for batch in list(self.batches) for record in batch]

    def __enter__(self) -> "Worker":
        self.poller.start()
        return self

    def __exit__(self, *_: object) -> None:
        self.poller.stop()  # its long poll may go on for a second, and finds nothing
        assert self.runtime.drain(5)


def failures(*ids: str) -> dict[str, Any]:
    return {"batchItemFailures": [{"itemIdentifier": item} for item in ids]}


def return_at_once(account: Account, records: list[dict[str, Any]]) -> None:
    """Instead of after the queue's visibility timeout, which the tests need not wait for."""
    for record in records:
        account.sqs.change_message_visibility(
            QueueUrl=account.queue.url, ReceiptHandle=record["receiptHandle"], VisibilityTimeout=0
        )


@pytest.mark.parametrize(
    ("sender", "shown"),
    [("123456789012", SENDER_ID), (SENDER_ID, SENDER_ID), ("AROAEXAMPLETILLS1:till-3", "AROAEXAMPLETILLS1:till-3")],
)
def test_a_sender_that_the_emulator_does_not_know_is_the_local_one(sender: str, shown: str) -> None:
    named = {"MessageId": "m", "ReceiptHandle": "r", "Body": "{}", "MD5OfBody": ""}
    message: Any = named | {"Attributes": {"SenderId": sender}}
    [record] = sqs_event([message], "arn", "ap-southeast-3")["Records"]
    assert record["attributes"] == {"SenderId": shown}
    assert message["Attributes"] == {"SenderId": sender}


def test_event_has_the_shape_of_sqs(account: Account) -> None:
    account.sqs.send_message(
        QueueUrl=account.queue.url,
        MessageBody="{}",
        MessageAttributes={
            "text": {"DataType": "String", "StringValue": "x"},
            "bytes": {"DataType": "Binary", "BinaryValue": b"\xff"},
        },
    )
    with Worker(account, lambda _: None) as worker:
        until(lambda: account.count(account.queue.url) == 0)
    ((record,),) = worker.batches
    assert {"ApproximateReceiveCount", "SentTimestamp", "SenderId", "ApproximateFirstReceiveTimestamp"} <= set(
        record["attributes"]
    )
    assert record["attributes"]["ApproximateReceiveCount"] == "1"
    assert record["messageAttributes"]["text"]["stringValue"] == "x"
    assert record["messageAttributes"]["bytes"] == {
        "binaryValue": "/w==",
        "stringListValues": [],
        "binaryListValues": [],
        "dataType": "Binary",
    }
    assert record["md5OfBody"] == "99914b932bd37a50b983c5e7c90ae93b"
    assert (record["eventSource"], record["eventSourceARN"]) == ("aws:sqs", account.queue.arn)
    assert record["awsRegion"] == "ap-southeast-3"
    assert record["messageId"]
    assert record["receiptHandle"]


def test_only_failed_messages_return_until_they_are_dead_letters(account: Account) -> None:
    account.send("good", "poison", "good too")

    def answer(records: list[dict[str, Any]]) -> Any:
        poison = [record for record in records if record["body"] == "poison"]
        return_at_once(account, poison)
        return failures(*(record["messageId"] for record in poison))

    with Worker(account, answer) as worker:
        until(lambda: account.count(account.dead.url) == 1)
    assert sorted(worker.bodies) == ["good", "good too", "poison", "poison"], "the receive limit is two"
    assert account.count(account.queue.url) == 0
    (dead,) = account.sqs.receive_message(QueueUrl=account.dead.url)["Messages"]
    assert dead["Body"] == "poison"
    told = [(event["receive_count"], event["outcome"]) for event in worker.events if event["event"] == "message"]
    assert sorted(told) == [
        (1, "done"),
        (1, "done"),
        (1, "will be redelivered"),
        (2, "failed, goes to the dead-letter queue"),
    ]


def test_handler_that_raises_fails_its_whole_batch(account: Account) -> None:
    account.send("a", "b")

    def answer(records: list[dict[str, Any]]) -> Any:
        return_at_once(account, records)
        raise RuntimeError("down")

    with Worker(account, answer) as worker:
        until(lambda: account.count(account.dead.url) == 2)
    assert sorted(worker.bodies) == ["a", "a", "b", "b"]
    until(lambda: len(worker.events) == 4)
    assert [event["event"] for event in worker.events] == ["message"] * 4, "the runtime reports the failure"


def test_batches_run_at_once_up_to_the_maximum_concurrency(account: Account) -> None:
    release, working, most, lock = threading.Event(), [0], [0], threading.Lock()

    def answer(_: Any) -> Any:
        with lock:
            working[0] += 1
            most[0] = max(most[0], working[0])
        release.wait(5)
        with lock:
            working[0] -= 1

    with Worker(account, answer, concurrency=3):
        for number in range(5):
            account.send(str(number))
            time.sleep(0.1)
        assert most[0] == 3
        release.set()
        until(lambda: account.count(account.queue.url) == 0)
    assert most[0] == 3


def test_poller_outlives_a_queue_that_fails(account: Account) -> None:
    class Flaky:
        broken = True

        def receive_message(self, **arguments: Any) -> Any:
            if self.broken:
                self.broken = False
                raise RuntimeError("no connection")
            return account.sqs.receive_message(**arguments)

        def __getattr__(self, name: str) -> Any:
            return getattr(account.sqs, name)

    account.send("a")
    worker = Worker(account, lambda _: None)
    worker.poller._sqs = Flaky()  # type: ignore[assignment]
    with worker:
        until(lambda: worker.bodies == ["a"])
    assert "no connection" in worker.events[0]["message"]


@pytest.mark.parametrize(
    ("result", "failed"),
    [
        (None, set()),
        ({}, set()),
        ({"batchItemFailures": []}, set()),
        ({"batchItemFailures": None}, set()),
        (failures("1"), {"1"}),
        (failures("1", "1"), {"1"}),
        (failures("unknown"), {"1", "2"}),
        (failures("1", ""), {"1", "2"}),
        ({"batchItemFailures": [{"itemIdentifier": None}]}, {"1", "2"}),
        ({"batchItemFailures": [{}]}, {"1", "2"}),
        ({"batchItemFailures": "all"}, {"1", "2"}),
        ("nonsense", {"1", "2"}),
    ],
)
def test_batch_report_is_read_as_lambda_reads_it(result: Any, failed: set[str]) -> None:
    messages: Any = [{"MessageId": "1"}, {"MessageId": "2"}]
    assert failed_messages(result, messages) == failed


def message(body: str, **attributes: str) -> Any:
    given = {name: {"DataType": "String", "StringValue": value} for name, value in attributes.items()}
    return {
        "MessageId": "id-1",
        "Body": body,
        "Attributes": {"ApproximateReceiveCount": "2"},
        "MessageAttributes": given,
    }


def test_message_is_reported_with_the_order_that_it_names() -> None:
    queue = Queue("Q", "shop-Q", "http://q", "arn", {}, "Dead", 3)
    body = '{"merchantId": "m2", "merchantOrderId": "A-1", "amount": 1, "note": "private"}'
    assert message_event(message(body, correlationId="batch-7"), queue, is_failed=True) == {
        "event": "message",
        "queue": "shop-Q",
        "message_id": "id-1",
        "receive_count": 2,
        "outcome": "will be redelivered",
        "level": "INFO",
        "merchant_id": "m2",
        "merchant_order_id": "A-1",
        "correlation_id": "batch-7",
    }


@pytest.mark.parametrize("body", ["", "no JSON", "[1]", "7", '{"merchantOrderId": 7}'])
def test_message_that_names_no_order_is_reported_by_its_own_id(body: str) -> None:
    queue = Queue("Q", "shop-Q", "http://q", "arn", {})
    event = message_event(message(body), queue, is_failed=False)
    assert (event["outcome"], event["correlation_id"]) == ("done", "id-1")
    assert not {"merchant_id", "merchant_order_id"} & set(event)
