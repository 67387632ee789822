"""SQS's client: a queue and its dead-letter queue."""

# ruff: noqa: N803 - the arguments have the names that boto3 gives them

from __future__ import annotations

from collections.abc import Callable, Hashable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from datetime import datetime
from hashlib import md5
from typing import Any

from testkit.emulator.clients import Refusal, exceptions_of, operation
from testkit.emulator.fingerprints import Fingerprint

_NO_ATTRIBUTES: Mapping[str, Mapping[str, str]] = {}

DEAD_LETTER_VISIBILITY_SECONDS = 30  # SQS's own default, which that queue keeps
SENDER_ID = "AIDAIT2UOQQY3AUEKVGXU"  # the sender of every message in moto's queues
ALL = ("All",)
MAX_DELAY_SECONDS = 900
MAX_BATCH = 10
MAX_VISIBILITY_SECONDS = 43_200


@dataclass(slots=True, eq=False)
class Message:
    """A message as the queue keeps it; times in milliseconds since the epoch."""

    message_id: str
    body: str
    attributes: Mapping[str, Mapping[str, str]]
    sender_id: str
    sent_at: int
    visible_at: int
    receive_count: int = 0  # over all queues
    first_received_at: int = 0
    received_at: int = 0
    moved_from: str = ""  # the ARN of the queue from which SQS moved it to its dead-letter queue

    @property
    def receipt_handle(self) -> str:
        """Another one each time that it is received."""
        return f"{self.message_id}/{self.receive_count}"

    def shown(self) -> dict[str, Any]:
        shown = {
            "MessageId": self.message_id,
            "ReceiptHandle": self.receipt_handle,
            "MD5OfBody": _md5(self.body),
            "Body": self.body,
            "Attributes": {
                "SenderId": self.sender_id,
                "SentTimestamp": str(self.sent_at),
                "ApproximateReceiveCount": str(self.receive_count),
                "ApproximateFirstReceiveTimestamp": str(self.first_received_at),
                **({"DeadLetterQueueSourceArn": self.moved_from} if self.moved_from else {}),
            },
        }
        return {**shown, "MessageAttributes": self.attributes} if self.attributes else shown


@dataclass(slots=True)
class _Queue:
    visibility_seconds: int
    messages: dict[str, Message] = field(default_factory=dict)


class Sqs:
    """A standard queue and its dead-letter queue, by their URLs.

    `choose` gets the messages that are visible, oldest first, and gives those to deliver, in their order. `sender_id`
    stands in the messages sent; it can be changed at any time.
    """

    def __init__(
        self,
        clock: Callable[[], datetime],
        visibility_seconds: int,
        max_receive_count: int,
        *,
        url: str = "https://sqs/refunds",
        dead_letter_url: str = "https://sqs/dead-letters",
        choose: Callable[[list[Message]], Iterable[Message]] | None = None,
        sender_id: str = SENDER_ID,
    ) -> None:
        self.choose = choose
        self.sender_id = sender_id
        self._clock = clock
        self._max_receive_count = max_receive_count
        self._url = url
        self._dead_letters = _Queue(DEAD_LETTER_VISIBILITY_SECONDS)
        self._queues = {url: _Queue(visibility_seconds), dead_letter_url: self._dead_letters}
        self._dead_letter_url = dead_letter_url
        self._sent = 0
        self._fingerprint: Fingerprint[tuple[str, str]] = Fingerprint(self._look)

    @property
    def exceptions(self) -> Any:
        return exceptions_of("sqs")

    def snapshot(self) -> Hashable:
        return self._sent, self._fingerprint.value()

    def savepoint(self) -> Callable[[], None]:
        """What takes back every change after it, whenever it is called."""
        sent, fingerprint = self._sent, self._fingerprint.savepoint()
        saved = [(queue, [replace(message) for message in queue.messages.values()]) for queue in self._queues.values()]

        def rollback() -> None:
            self._sent = sent
            fingerprint()
            for queue, messages in saved:
                queue.messages = {message.message_id: replace(message) for message in messages}

        return rollback

    def redrive(self) -> None:
        """Every dead letter goes back to the queue, where it is a new message: StartMessageMoveTask, all of it done."""
        for message in list(self._dead_letters.messages.values()):
            del self._dead_letters.messages[message.message_id]
            self._fingerprint.changed.add((self._dead_letter_url, message.message_id))
            self._send(self._url, message.body, message.attributes, message.sender_id)

    def messages(self, url: str) -> list[dict[str, Any]]:
        """Everything in the queue, visible or not, as receive_message gives it, for whoever checks it: no call."""
        return [message.shown() for message in self._queues[url].messages.values()]

    @operation("SendMessage")
    def send_message(
        self,
        *,
        QueueUrl: str,
        MessageBody: str,
        DelaySeconds: int = 0,
        MessageAttributes: Mapping[str, Mapping[str, str]] = _NO_ATTRIBUTES,
    ) -> dict[str, Any]:
        if not 0 <= DelaySeconds <= MAX_DELAY_SECONDS:
            raise Refusal("InvalidParameterValue", f"Value {DelaySeconds} for parameter DelaySeconds is invalid")
        message = self._send(QueueUrl, MessageBody, MessageAttributes, self.sender_id, DelaySeconds)
        return {"MessageId": message.message_id, "MD5OfMessageBody": _md5(MessageBody)}

    @operation("SendMessageBatch")
    def send_message_batch(self, *, QueueUrl: str, Entries: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
        self._queue(QueueUrl)
        if not Entries:
            raise Refusal("EmptyBatchRequest", "The batch request doesn't contain any entries.")
        if len(Entries) > MAX_BATCH:
            raise Refusal("TooManyEntriesInBatchRequest", f"Maximum number of entries per request are {MAX_BATCH}.")
        if len({entry["Id"] for entry in Entries}) < len(Entries):
            raise Refusal("BatchEntryIdsNotDistinct", "Two or more batch entries in the request have the same Id.")
        successful: list[dict[str, Any]] = []
        failed: list[dict[str, Any]] = []
        for entry in Entries:
            if entry.keys() - {"Id", "MessageBody", "DelaySeconds", "MessageAttributes"}:
                raise NotImplementedError(f"the entry {entry}")
            delay = entry.get("DelaySeconds", 0)
            if not 0 <= delay <= MAX_DELAY_SECONDS:
                text = f"Value {delay} for parameter DelaySeconds is invalid"
                failed.append(
                    {"Id": entry["Id"], "SenderFault": True, "Code": "InvalidParameterValue", "Message": text}
                )
                continue
            attributes = entry.get("MessageAttributes", _NO_ATTRIBUTES)
            message = self._send(QueueUrl, entry["MessageBody"], attributes, self.sender_id, delay)
            body_digest = _md5(message.body)
            successful.append({"Id": entry["Id"], "MessageId": message.message_id, "MD5OfMessageBody": body_digest})
        return {"Successful": successful, **({"Failed": failed} if failed else {})}

    @operation("ReceiveMessage")
    def receive_message(
        self,
        *,
        QueueUrl: str,
        MaxNumberOfMessages: int = 1,
        VisibilityTimeout: int | None = None,
        WaitTimeSeconds: int = 0,  # noqa: ARG002 - never waited: the clock stands still during a call
        AttributeNames: Sequence[str] = ALL,
        MessageSystemAttributeNames: Sequence[str] = ALL,
        MessageAttributeNames: Sequence[str] = ALL,
    ) -> dict[str, Any]:
        """Gives all attributes, which Lambda's pollers ask for."""
        if not ALL == tuple(MessageAttributeNames) == tuple(AttributeNames) == tuple(MessageSystemAttributeNames):
            raise NotImplementedError("some of the attributes only")
        queue = self._queue(QueueUrl)
        seconds = queue.visibility_seconds if VisibilityTimeout is None else VisibilityTimeout
        if not 1 <= MaxNumberOfMessages <= 10 or not 0 <= seconds <= MAX_VISIBILITY_SECONDS:
            raise Refusal("InvalidParameterValue", "MaxNumberOfMessages or VisibilityTimeout is out of range")
        now = self._now()
        visible = [message for message in queue.messages.values() if message.visible_at <= now]
        received: list[dict[str, Any]] = []
        for message in self.choose(visible) if self.choose else visible:
            if QueueUrl == self._url and message.receive_count >= self._max_receive_count:
                del queue.messages[message.message_id]
                self._fingerprint.changed.add((QueueUrl, message.message_id))
                message.moved_from = _arn(QueueUrl)
                self._put(self._dead_letter_url, self._dead_letters, message)
                continue
            message.receive_count += 1
            message.received_at = now
            message.first_received_at = message.first_received_at or now
            message.visible_at = now + seconds * 1000
            self._fingerprint.changed.add((QueueUrl, message.message_id))
            received.append(message.shown())
            if len(received) == MaxNumberOfMessages:
                break
        return {"Messages": received} if received else {}

    @operation("DeleteMessage")
    def delete_message(self, *, QueueUrl: str, ReceiptHandle: str) -> dict[str, Any]:
        """Done with the latest handle only; with an earlier one, or when it is gone, it succeeds and does nothing."""
        queue = self._queue(QueueUrl)
        message = queue.messages.get(_message_id(ReceiptHandle))
        if message is not None and message.receipt_handle == ReceiptHandle:
            del queue.messages[message.message_id]
            self._fingerprint.changed.add((QueueUrl, message.message_id))
        return {}

    @operation("ChangeMessageVisibility")
    def change_message_visibility(self, *, QueueUrl: str, ReceiptHandle: str, VisibilityTimeout: int) -> dict[str, Any]:
        """An earlier handle works too: AWS does not say that it would not."""
        queue = self._queue(QueueUrl)
        message = queue.messages.get(_message_id(ReceiptHandle))
        now = self._now()
        if message is None:
            raise Refusal("InvalidParameterValue", "Message does not exist or is not available")
        if not message.receive_count or message.visible_at <= now:
            raise Refusal("MessageNotInflight", "The specified message isn't in flight.")
        visible_at = now + VisibilityTimeout * 1000
        # From when it was received, not from now.
        if VisibilityTimeout < 0 or visible_at - message.received_at > MAX_VISIBILITY_SECONDS * 1000:
            raise Refusal(
                "InvalidParameterValue",
                f"Value {VisibilityTimeout} for parameter VisibilityTimeout is invalid. Reason: Total "
                f"VisibilityTimeout for the message is beyond the limit [{MAX_VISIBILITY_SECONDS} seconds]",
            )
        message.visible_at = visible_at
        self._fingerprint.changed.add((QueueUrl, message.message_id))
        return {}

    def _send(
        self, url: str, body: str, attributes: Mapping[str, Mapping[str, str]], sender_id: str, delay_seconds: int = 0
    ) -> Message:
        queue = self._queue(url)
        self._sent += 1
        now = self._now()
        message = Message(
            message_id=f"00000000-0000-4000-8000-{self._sent:012}",
            body=body,
            attributes=attributes,
            sender_id=sender_id,
            sent_at=now,
            visible_at=now + delay_seconds * 1000,
        )
        self._put(url, queue, message)
        return message

    def _now(self) -> int:
        return round(self._clock().timestamp() * 1000)

    def _queue(self, url: str) -> _Queue:
        queue = self._queues.get(url)
        if queue is None:
            raise Refusal("QueueDoesNotExist", "The specified queue does not exist.")
        return queue

    def _put(self, url: str, queue: _Queue, message: Message) -> None:
        queue.messages[message.message_id] = message
        self._fingerprint.changed.add((url, message.message_id))

    def _look(self, part: tuple[str, str]) -> str | None:
        url, message_id = part
        message = self._queues[url].messages.get(message_id)
        return None if message is None else repr(message)


def _message_id(receipt_handle: str) -> str:
    message_id, slash, _ = receipt_handle.partition("/")
    if not slash:
        raise Refusal("ReceiptHandleIsInvalid", "The input receipt handle is invalid.")
    return message_id


def _arn(url: str) -> str:
    return f"arn:aws:sqs:ap-southeast-3:123456789012:{url.rpartition('/')[2]}"


def _md5(text: str) -> str:
    return md5(text.encode(), usedforsecurity=False).hexdigest()
