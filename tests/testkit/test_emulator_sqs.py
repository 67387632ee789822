"""The emulated SQS: as moto does, and as AWS documents where moto does not."""

from __future__ import annotations

from collections.abc import Callable
from datetime import timedelta
from typing import Any

import pytest

from devstack.aws import AwsServer, client
from testkit.emulator import Sqs
from tests.testkit.emulator_calls import code_of
from tests.testkit.queue_stories import (
    DEAD_LETTERS,
    MAX_RECEIVE_COUNT,
    QUEUE,
    STORIES,
    Story,
    Time,
    redrive,
    told_by_both,
)


@pytest.fixture
def clock() -> Time:
    return Time()


@pytest.fixture
def sqs(clock: Time) -> Sqs:
    return Sqs(clock, 1, MAX_RECEIVE_COUNT, url=QUEUE, dead_letter_url=DEAD_LETTERS)


# SQS says where it moved a dead letter from; moto does not.
DIFFERENT_STORIES: dict[Callable[[Story], None], list[Any]] = {
    redrive: [(("more attributes", ["DeadLetterQueueSourceArn"]), ("more attributes", []))]
}


@pytest.mark.parametrize("told", STORIES, ids=lambda told: told.__name__)
def test_sqs_does_as_moto_does(aws: AwsServer, told: Callable[[Story], None]) -> None:
    ours, theirs = told_by_both(told, client("sqs", aws.url))
    differing = [(mine, other) for mine, other in zip(ours, theirs, strict=True) if mine != other]
    assert differing == DIFFERENT_STORIES.get(told, [])


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
