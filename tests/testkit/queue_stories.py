"""What a queue's client sees, told by another implementation of SQS and by the emulator."""

from __future__ import annotations

import json
import time
from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from typing import Any

from botocore.exceptions import ClientError

from testkit.emulator import Sqs

MAX_RECEIVE_COUNT = 2
QUEUE, DEAD_LETTERS = "https://sqs/refunds", "https://sqs/dead-letters"
USUAL_ATTRIBUTES = {"SenderId", "SentTimestamp", "ApproximateReceiveCount", "ApproximateFirstReceiveTimestamp"}


class Time:
    def __init__(self) -> None:
        self.now = datetime(2026, 11, 22, 7, 0, tzinfo=UTC)

    def __call__(self) -> datetime:
        return self.now

    def pass_seconds(self, seconds: float) -> None:
        self.now += timedelta(seconds=seconds)


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
        more = set()
        for message in messages:
            attributes = message["Attributes"]
            assert set(attributes) >= USUAL_ATTRIBUTES
            more |= set(attributes) - USUAL_ATTRIBUTES
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
        self.seen.append(("more attributes", sorted(more)))

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


STORIES = [visibility, delay, batch, redrive]


def told_by_both(tell: Callable[[Story], None], theirs: Any) -> tuple[list[Any], list[Any]]:
    """What the emulator's client saw, and what the client `theirs` saw of queues that are made for this."""
    dead_letters = theirs.create_queue(QueueName=f"emulator-{tell.__name__}-dead-letters")["QueueUrl"]
    arn = theirs.get_queue_attributes(QueueUrl=dead_letters, AttributeNames=["QueueArn"])["Attributes"]["QueueArn"]
    policy = json.dumps({"deadLetterTargetArn": arn, "maxReceiveCount": MAX_RECEIVE_COUNT})
    queue = theirs.create_queue(
        QueueName=f"emulator-{tell.__name__}", Attributes={"VisibilityTimeout": "1", "RedrivePolicy": policy}
    )["QueueUrl"]
    clock = Time()
    emulated = Sqs(clock, 1, MAX_RECEIVE_COUNT, url=QUEUE, dead_letter_url=DEAD_LETTERS)
    stories = Story(emulated, QUEUE, DEAD_LETTERS, clock.pass_seconds), Story(theirs, queue, dead_letters, time.sleep)
    for story in stories:
        tell(story)
    ours, others = stories
    return ours.seen, others.seen
