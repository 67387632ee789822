"""The refund queue. The gateway's own messages are pointers: each names a refund that the ledger has."""

from __future__ import annotations

import json
import logging
from typing import TYPE_CHECKING

from botocore.exceptions import BotoCoreError, ClientError

from gateway.core.errors import QueueUnavailable
from gateway.core.inputs import correlation_id_in
from gateway.core.model import Refund

if TYPE_CHECKING:
    from mypy_boto3_sqs import SQSClient
    from mypy_boto3_sqs.type_defs import MessageAttributeValueTypeDef

log = logging.getLogger("gateway")

MAX_DELAY_SECONDS = 900  # SQS's own limit for DelaySeconds
MAX_VISIBILITY_SECONDS = 43_200  # SQS's own limit, 12 hours


class RefundQueue:
    def __init__(self, client: SQSClient, url: str, dead_letter_url: str) -> None:
        self._client = client
        self._url = url
        self._dead_letter_url = dead_letter_url

    def send(self, refund: Refund, *, delay_seconds: float = 0) -> None:
        """Raises QueueUnavailable; the refund is in the ledger anyway."""
        delay = min(MAX_DELAY_SECONDS, max(0, round(delay_seconds)))
        try:
            self._client.send_message(
                QueueUrl=self._url,
                MessageBody=pointer_body(refund),
                DelaySeconds=delay,
                MessageAttributes=_attributes(
                    # Checked again: the worker moves a message with an invalid id to the dead-letter queue.
                    correlationId=correlation_id_in(refund.correlation_id),
                    token=refund.queue_message,
                ),
            )
        except (ClientError, BotoCoreError) as error:
            raise QueueUnavailable("sending to the refund queue failed") from error

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
