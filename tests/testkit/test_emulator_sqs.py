"""The emulated SQS: as moto does, and as AWS documents where moto does not."""

from __future__ import annotations

import json
import time
from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest
from botocore.exceptions import ClientError

from devstack.aws import AwsServer, client
from testkit.emulator import Sqs
from tests.testkit.emulator_calls import code_of

MAX_RECEIVE_COUNT = 2
QUEUE, DEAD_LETTERS = "https://sqs/refunds", "https://sqs/dead-letters"


class Time:
    def __init__(self) -> None:
        self.now = datetime(2026, 11, 22, 7, 0, tzinfo=UTC)

    def __call__(self) -> datetime:
        return self.now

    def pass_seconds(self, seconds: float) -> None:
        self.now += timedelta(seconds=seconds)


@pytest.fixture
def clock() -> Time:
    return Time()


@pytest.fixture
def sqs(clock: Time) -> Sqs:
    return Sqs(clock, 1, MAX_RECEIVE_COUNT, url=QUEUE, dead_letter_url=DEAD_LETTERS)


class Story:
    """What a queue's client sees, in words that hold for any ids and times."""

    def __init__(self, sqs: Any, queue: str, dead_letters: str, pass_seconds: Callable[[float], None]) -> None:
        self.sqs = sqs
        self.urls = {"queue": queue, "dead letters": dead_letters}
        self.pass_seconds = pass_seconds
        self.ids: dict[str, int] = {}
        self.handles: list[str] = []
        self.seen: list[Any] = []

    def send(self, body: str, **options: Any) -> None:
        answer = self.sqs.send_message(QueueUrl=self.urls["queue"], MessageBody=body, **options)
        self.ids[answer["MessageId"]] = len(self.ids)
        self.seen.append(("sent", answer["MD5OfMessageBody"]))

    def send_batch(self, *messages: dict[str, Any]) -> None:
        entries = [{"Id": str(number), **message} for number, message in enumerate(messages)]
        try:
            answer = self.sqs.send_message_batch(QueueUrl=self.urls["queue"], Entries=entries)
        except ClientError as error:
            self.seen.append(("batch", error.response["Error"]["Code"].rpartition(".")[2]))
            return
        for message in answer["Successful"]:
            self.ids[message["MessageId"]] = len(self.ids)
        told = [(message["Id"], message["MD5OfMessageBody"]) for message in answer["Successful"]]
        self.seen.append(("batch", told, answer.get("Failed", [])))

    def receive(self, queue: str = "queue", **options: Any) -> None:
        found = self.sqs.receive_message(
            QueueUrl=self.urls[queue],
            AttributeNames=["All"],
            MessageAttributeNames=["All"],
            **{"MaxNumberOfMessages": 10, **options},
        )
        messages = found.get("Messages", [])
        self.handles += [message["ReceiptHandle"] for message in messages]
        for message in messages:
            attributes = message["Attributes"]
            # SQS says where it moved a dead letter from; moto does not.
            assert set(attributes) - {"DeadLetterQueueSourceArn"} == {
                "SenderId",
                "SentTimestamp",
                "ApproximateReceiveCount",
                "ApproximateFirstReceiveTimestamp",
            }
            assert int(attributes["SentTimestamp"]) <= int(attributes["ApproximateFirstReceiveTimestamp"])
        told = [
            (
                self.ids[message["MessageId"]],
                message["Body"],
                message["MD5OfBody"],
                message["Attributes"]["ApproximateReceiveCount"],
                message.get("MessageAttributes"),
            )
            for message in messages
        ]
        self.seen.append((queue, told, len(set(self.handles)) == len(self.handles)))

    def call(self, operation: str, handle: int | str, **options: Any) -> None:
        receipt = self.handles[handle] if isinstance(handle, int) else handle
        try:
            getattr(self.sqs, operation)(QueueUrl=self.urls["queue"], ReceiptHandle=receipt, **options)
        except ClientError as error:
            self.seen.append((operation, type(error).__name__))
        else:
            self.seen.append((operation, "done"))


def visibility(story: Story) -> None:
    story.send("one")
    story.send("two", MessageAttributes={"cause": {"DataType": "String", "StringValue": "none"}})
    story.receive(MaxNumberOfMessages=1)
    story.receive(MaxNumberOfMessages=1)
    story.receive()  # both are hidden
    story.call("change_message_visibility", 1, VisibilityTimeout=0)
    story.call("delete_message", 0)
    story.pass_seconds(1.05)
    story.receive(VisibilityTimeout=30)  # the second, again
    story.receive()
    story.call("change_message_visibility", 2, VisibilityTimeout=0)
    story.receive()


def delay(story: Story) -> None:
    story.send("later", DelaySeconds=1)
    story.send("now")
    story.receive()
    story.call("delete_message", 0)
    story.call("delete_message", 0)  # it is gone: done
    story.pass_seconds(1.05)
    story.receive()
    story.call("delete_message", "nonsense")
    story.call("change_message_visibility", "nonsense", VisibilityTimeout=1)


def batch(story: Story) -> None:
    attribute = {"cause": {"DataType": "String", "StringValue": "none"}}
    story.send_batch({"MessageBody": "one"}, {"MessageBody": "two", "MessageAttributes": attribute})
    story.receive()
    story.send_batch()
    story.send_batch(*[{"MessageBody": "too many"}] * 11)
    story.send_batch({"MessageBody": "one", "Id": "same"}, {"MessageBody": "two", "Id": "same"})
    story.receive()


def redrive(story: Story) -> None:
    story.send("poison")
    for _ in range(MAX_RECEIVE_COUNT):
        story.receive(VisibilityTimeout=0)
    story.receive("dead letters")
    story.send("fine")
    story.receive()
    story.receive("dead letters")
    story.receive("dead letters")


@pytest.mark.parametrize("told", [visibility, delay, batch, redrive], ids=lambda told: told.__name__)
def test_sqs_does_as_moto_does(aws: AwsServer, sqs: Sqs, clock: Time, told: Callable[[Story], None]) -> None:
    moto = client("sqs", aws.url)
    dead_letters = moto.create_queue(QueueName=f"emulator-{told.__name__}-dead-letters")["QueueUrl"]
    arn = moto.get_queue_attributes(QueueUrl=dead_letters, AttributeNames=["QueueArn"])["Attributes"]["QueueArn"]
    policy = json.dumps({"deadLetterTargetArn": arn, "maxReceiveCount": MAX_RECEIVE_COUNT})
    queue = moto.create_queue(
        QueueName=f"emulator-{told.__name__}", Attributes={"VisibilityTimeout": "1", "RedrivePolicy": policy}
    )["QueueUrl"]
    theirs = Story(moto, queue, dead_letters, time.sleep)
    ours = Story(sqs, QUEUE, DEAD_LETTERS, clock.pass_seconds)
    told(theirs)
    told(ours)
    assert ours.seen == theirs.seen


def test_only_messages_in_flight_can_be_hidden_twelve_hours_in_all(sqs: Sqs, clock: Time) -> None:
    """moto counts the twelve hours from when it was sent, and hides what is not in flight."""
    sqs.send_message(QueueUrl=QUEUE, MessageBody="one")
    clock.pass_seconds(3600)
    (message,) = sqs.receive_message(QueueUrl=QUEUE)["Messages"]
    hide = {"QueueUrl": QUEUE, "ReceiptHandle": message["ReceiptHandle"]}
    sqs.change_message_visibility(**hide, VisibilityTimeout=43_200)
    clock.pass_seconds(10)
    assert code_of(sqs.change_message_visibility, **hide, VisibilityTimeout=43_200) == "InvalidParameterValue"
    sqs.change_message_visibility(**hide, VisibilityTimeout=0)
    with pytest.raises(sqs.exceptions.MessageNotInflight):
        sqs.change_message_visibility(**hide, VisibilityTimeout=1)
    sqs.delete_message(**hide)
    assert code_of(sqs.change_message_visibility, **hide, VisibilityTimeout=1) == "InvalidParameterValue"


def test_a_message_is_deleted_by_its_latest_handle_only(sqs: Sqs) -> None:
    """AWS says that an earlier one might not do it; moto deletes."""
    sqs.send_message(QueueUrl=QUEUE, MessageBody="one")
    handles = [
        sqs.receive_message(QueueUrl=QUEUE, VisibilityTimeout=0)["Messages"][0]["ReceiptHandle"] for _ in range(2)
    ]
    sqs.delete_message(QueueUrl=QUEUE, ReceiptHandle=handles[0])
    assert len(sqs.messages(QUEUE)) == 1
    sqs.delete_message(QueueUrl=QUEUE, ReceiptHandle=handles[1])
    assert sqs.messages(QUEUE) == []


def test_who_holds_the_queue_chooses_what_is_delivered(sqs: Sqs) -> None:
    for body in ("one", "two", "three"):
        sqs.send_message(QueueUrl=QUEUE, MessageBody=body)
    sqs.choose = lambda visible: [visible[2], visible[0]]
    received = sqs.receive_message(QueueUrl=QUEUE, MaxNumberOfMessages=10)["Messages"]
    assert [message["Body"] for message in received] == ["three", "one"]
    assert [message["Body"] for message in sqs.messages(QUEUE)] == ["one", "two", "three"]


def test_dead_letters_come_back_as_new_messages(sqs: Sqs, clock: Time) -> None:
    attribute = {"token": {"DataType": "String", "StringValue": "t"}}
    sqs.send_message(QueueUrl=QUEUE, MessageBody="one", MessageAttributes=attribute)
    for _ in range(MAX_RECEIVE_COUNT + 1):
        sqs.receive_message(QueueUrl=QUEUE, VisibilityTimeout=0)
    [dead] = sqs.messages(DEAD_LETTERS)
    assert dead["Attributes"]["DeadLetterQueueSourceArn"].endswith(":refunds")
    clock.now += timedelta(hours=1)
    before = sqs.snapshot()

    sqs.redrive()

    assert sqs.messages(DEAD_LETTERS) == []
    assert sqs.snapshot() != before
    [message] = sqs.receive_message(QueueUrl=QUEUE)["Messages"]
    assert (message["Body"], message["MessageAttributes"]) == ("one", attribute)
    assert message["MessageId"] != dead["MessageId"]
    assert "DeadLetterQueueSourceArn" not in message["Attributes"]
    assert message["Attributes"]["ApproximateReceiveCount"] == "1"
    assert int(message["Attributes"]["SentTimestamp"]) == int(dead["Attributes"]["SentTimestamp"]) + 3_600_000


def test_every_change_of_the_queue_is_in_its_snapshot(sqs: Sqs, clock: Time) -> None:
    snapshots = [sqs.snapshot()]
    sqs.send_message(QueueUrl=QUEUE, MessageBody="one")
    snapshots.append(sqs.snapshot())
    (message,) = sqs.receive_message(QueueUrl=QUEUE)["Messages"]
    snapshots.append(sqs.snapshot())
    hide = {"QueueUrl": QUEUE, "ReceiptHandle": message["ReceiptHandle"]}
    sqs.change_message_visibility(**hide, VisibilityTimeout=7)
    snapshots.append(sqs.snapshot())
    sqs.delete_message(**hide)
    snapshots.append(sqs.snapshot())
    assert len(set(snapshots)) == len(snapshots)


def test_a_batch_may_be_taken_in_part(sqs: Sqs) -> None:
    entries = [{"Id": "a", "MessageBody": "one", "DelaySeconds": 901}, {"Id": "b", "MessageBody": "two"}]
    answer = sqs.send_message_batch(QueueUrl=QUEUE, Entries=entries)
    assert [entry["Id"] for entry in answer["Successful"]] == ["b"]
    assert [(entry["Id"], entry["Code"]) for entry in answer["Failed"]] == [("a", "InvalidParameterValue")]
    assert [message["Body"] for message in sqs.messages(QUEUE)] == ["two"]


def test_a_queue_that_is_not_there(sqs: Sqs) -> None:
    with pytest.raises(sqs.exceptions.QueueDoesNotExist):
        sqs.send_message(QueueUrl="https://sqs/other", MessageBody="one")
