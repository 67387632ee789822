"""The refund queue. The gateway's own messages are pointers: each names a refund that the ledger has."""

from __future__ import annotations

import json
import logging
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Any

from botocore.exceptions import BotoCoreError, ClientError

from gateway.core.errors import QueueUnavailable
from gateway.core.inputs import correlation_id_in
from gateway.core.model import Refund

if TYPE_CHECKING:
    from mypy_boto3_sqs import SQSClient
    from mypy_boto3_sqs.type_defs import MessageAttributeValueTypeDef, MessageTypeDef

log = logging.getLogger("gateway")

MAX_DELAY_SECONDS = 900  # SQS's own limit for DelaySeconds
MAX_VISIBILITY_SECONDS = 43_200  # SQS's own limit, 12 hours
BATCH_SIZE = 10  # SQS's own limit for the messages of one call


@dataclass(frozen=True)
class DeadLetter:
    """A message in the dead-letter queue."""

    message_id: str
    body: str
    sender: str  # as `sender_parts` takes it
    sent_at: datetime  # to the first queue that it was in
    receive_count: int  # over all queues, with the call that read it here
    correlation_id: str | None  # as received, not validated
    is_recorded: bool  # by the worker, before it moved the message itself


class RefundQueue:
    def __init__(self, client: SQSClient, url: str, dead_letter_url: str) -> None:
        self._client = client
        self._url = url
        self._dead_letter_url = dead_letter_url

    def send(self, refund: Refund, *, delay_seconds: float = 0) -> None:
        """Raises QueueUnavailable; the refund is in the ledger anyway."""
        delay = min(MAX_DELAY_SECONDS, max(0, round(delay_seconds)))
        try:
            self._client.send_message(QueueUrl=self._url, DelaySeconds=delay, **_message(refund))
        except (ClientError, BotoCoreError) as error:
            raise QueueUnavailable("sending to the refund queue failed") from error

    def send_all(self, refunds: Sequence[Refund]) -> int:
        """Sends up to ten messages in one call, and returns how many SQS took. The others are logged: their refunds are
        in the ledger, and recovery sends another message later."""
        if not refunds:
            return 0
        entries: Any = [{"Id": str(number), **_message(refund)} for number, refund in enumerate(refunds)]
        try:
            answer = self._client.send_message_batch(QueueUrl=self._url, Entries=entries)
        except (ClientError, BotoCoreError):
            names = ", ".join(refund.refund_id for refund in refunds)
            log.exception("refunds %s could not be enqueued; a later run will enqueue them", names)
            return 0
        failed = answer.get("Failed", [])
        for one in failed:
            refund_id = refunds[int(one["Id"])].refund_id
            log.error(
                "refund %s could not be enqueued (%s); a later run will enqueue it", refund_id, one.get("Code", "")
            )
        return len(refunds) - len(failed)

    def extend_visibility(self, receipt_handle: str, seconds: float) -> None:
        """Best effort: hides a received message for so long. If the call fails, the queue's own visibility timeout
        applies, and the message only comes at another time."""
        visibility = min(MAX_VISIBILITY_SECONDS, max(1, round(seconds)))
        try:
            self._client.change_message_visibility(
                QueueUrl=self._url, ReceiptHandle=receipt_handle, VisibilityTimeout=visibility
            )
        except (ClientError, BotoCoreError):
            log.exception("extending the visibility timeout of a message failed")

    def dead_letter(self, body: str, message_id: str, cause: str, correlation_id: str | None) -> None:
        """Moves an invalid message to the dead-letter queue. Raises QueueUnavailable."""
        attributes = _attributes(cause=cause[:1000], originalMessageId=message_id, correlationId=correlation_id)
        try:
            self._client.send_message(QueueUrl=self._dead_letter_url, MessageBody=body, MessageAttributes=attributes)
        except (ClientError, BotoCoreError) as error:
            raise QueueUnavailable("sending to the dead-letter queue failed") from error

    def some_dead_letters(self) -> list[DeadLetter]:
        """Up to ten, as SQS picks them. They stay visible, for operators too. Raises QueueUnavailable."""
        try:
            answer = self._client.receive_message(
                QueueUrl=self._dead_letter_url,
                MaxNumberOfMessages=BATCH_SIZE,
                VisibilityTimeout=0,
                MessageSystemAttributeNames=["All"],
                MessageAttributeNames=["All"],
            )
        except (ClientError, BotoCoreError) as error:
            raise QueueUnavailable("receiving from the dead-letter queue failed") from error
        return [_dead_letter_in(message) for message in answer.get("Messages", [])]


def sender_parts(sender: str) -> tuple[str, str | None]:
    """Of SQS's SenderId: a user's unique id ("AIDA…"), or a role's and the name of its session ("AROA…:name")."""
    unique_id, _, session = sender.partition(":")
    return unique_id, session or None


def _dead_letter_in(message: MessageTypeDef) -> DeadLetter:
    system: Mapping[str, str] = message["Attributes"]  # type: ignore[assignment]
    attributes = message.get("MessageAttributes", {})
    given = attributes.get("correlationId")
    return DeadLetter(
        message_id=message["MessageId"],
        body=message["Body"],
        sender=system["SenderId"],
        sent_at=datetime.fromtimestamp(int(system["SentTimestamp"]) / 1000, UTC),
        receive_count=int(system["ApproximateReceiveCount"]),
        correlation_id=given.get("StringValue") if given else None,
        # SQS sets DeadLetterQueueSourceArn where it moved the message itself; then the attribute is the sender's own.
        is_recorded="originalMessageId" in attributes and "DeadLetterQueueSourceArn" not in system,
    )


def _message(refund: Refund) -> dict[str, Any]:
    return {
        "MessageBody": pointer_body(refund),
        "MessageAttributes": _attributes(
            # Checked again: the worker moves a message with an invalid id to the dead-letter queue.
            correlationId=correlation_id_in(refund.correlation_id),
            token=refund.queue_message,
        ),
    }


def _attributes(**texts: str | None) -> dict[str, MessageAttributeValueTypeDef]:
    return {name: {"DataType": "String", "StringValue": text} for name, text in texts.items() if text is not None}


def pointer_body(refund: Refund) -> str:
    order = refund.request.order
    return json.dumps(
        {
            "merchantId": order.merchant_id,
            "merchantOrderId": order.merchant_order_id,
            "refundId": refund.refund_id,
        }
    )
