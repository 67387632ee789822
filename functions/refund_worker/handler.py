"""Processes the refund queue's batches."""

from __future__ import annotations

from collections.abc import Mapping
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Any

from gateway.refunds.worker import TOKEN, Message
from gateway.runtime import bootstrap, telemetry

if TYPE_CHECKING:
    from aws_lambda_powertools.utilities.typing import LambdaContext


def lambda_handler(event: Mapping[str, Any], context: LambdaContext) -> dict[str, Any]:
    messages = [_message(record) for record in event["Records"]]
    again = bootstrap.gateway().worker.run(messages, lambda: context.get_remaining_time_in_millis() / 1000)
    telemetry.logger.info("batch", extra={"messages": len(messages), "again": len(again)})
    return {"batchItemFailures": [{"itemIdentifier": message_id} for message_id in again]}


def _message(record: Mapping[str, Any]) -> Message:
    attributes = record["attributes"]
    given = record.get("messageAttributes", {}).get("correlationId")
    token = record.get("messageAttributes", {}).get("token", {}).get("stringValue", "")
    return Message(
        message_id=record["messageId"],
        receipt_handle=record["receiptHandle"],
        body=record["body"],
        receive_count=int(attributes["ApproximateReceiveCount"]),
        sender=attributes["SenderId"],
        sent_at=datetime.fromtimestamp(int(attributes["SentTimestamp"]) / 1000, UTC),
        correlation_id=given.get("stringValue", "") if given else None,  # a binary value becomes "", which is invalid
        token=token if TOKEN.fullmatch(token) else None,
    )


bootstrap.start(lambda gateway: gateway.worker)
