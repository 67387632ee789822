"""The audit log: who did what to which order, when and why, and what Indodana answered. It is append-only."""

from __future__ import annotations

import logging
import uuid
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from datetime import datetime
from decimal import Decimal
from typing import TYPE_CHECKING, Any

from botocore.exceptions import BotoCoreError, ClientError

from gateway.core import paging
from gateway.core.context import RequestContext
from gateway.core.dynamodb import Item, from_item, to_item
from gateway.core.errors import LedgerUnavailable, NotFound
from gateway.core.model import Failure, OrderKey, Refund, RefundRequest, iso
from gateway.core.upstream import UpstreamAnswer

if TYPE_CHECKING:
    from mypy_boto3_dynamodb import DynamoDBClient

log = logging.getLogger("gateway")

LATE_EVIDENCE = "LATE_EVIDENCE"
STATUS_CHECKED = "STATUS_CHECKED"
REFUND_REFUSED = "REFUND_REFUSED"
REFUND_RESOLVED = "REFUND_RESOLVED"
REFUND_WITHDRAWN = "REFUND_WITHDRAWN"
DECISION_REFUSED = "DECISION_REFUSED"
MESSAGE_DEAD_LETTERED = "MESSAGE_DEAD_LETTERED"
MESSAGE_FOR_SETTLED_REFUND = "MESSAGE_FOR_SETTLED_REFUND"
FORBIDDEN = "FORBIDDEN"

KEY_ATTRIBUTES = frozenset({"pk", "sk"})
# Limits for values of a refused request, which nothing has validated.
MAX_ACTOR = 256
MAX_PATH_PART = 256


@dataclass(frozen=True)
class Page:
    records: list[dict[str, Any]]
    next_token: str | None


def transition_record(
    before: Refund | None,
    after: Refund,
    context: RequestContext,
    *,
    cause: str | None = None,
    upstream: UpstreamAnswer | None = None,
    action: str | None = None,
    decision: Mapping[str, Any] | None = None,
) -> Item:
    """The one record of the transition from `before` to `after`, for the same DynamoDB transaction.

    `decision`: what a person decided, and their evidence.
    """
    return to_item(
        {
            **_record(after.request.order, after.updated_at, f"{after.refund_id}#{after.version:06d}", context, after),
            **_asked_for(after.request),
            "action": action or f"REFUND_{after.status}",
            "before": before.status if before else None,
            "after": after.status,
            "amount": after.amount,
            "cause": cause,
            **(decision or {}),
            **_upstream(upstream),
            **_failure(after.failure),
        }
    )


def refusal_record(
    request: RefundRequest, failure: Failure, at: datetime, context: RequestContext, upstream: UpstreamAnswer | None
) -> Item:
    """A refund request that was refused before a refund existed."""
    return to_item(
        {
            **_record(request.order, at, uuid.uuid4().hex, context),
            **_asked_for(request),
            "action": REFUND_REFUSED,
            "amount": request.amount,
            **_upstream(upstream),
            **_failure(failure),
        }
    )


def reused_key_record(request: RefundRequest, existing: Refund, at: datetime, context: RequestContext) -> Item:
    """A refund request whose idempotency key belongs to a different request."""
    return to_item(
        {
            **_record(request.order, at, uuid.uuid4().hex, context),
            **_asked_for(request),
            "refundId": existing.refund_id,
            "action": REFUND_REFUSED,
            "after": existing.status,
            "amount": request.amount,
            "failureCode": "IDEMPOTENCY_KEY_REUSED",
            "failureDetail": "the idempotency key was already used for a different request",
        }
    )


def refused_decision_record(
    refund: Refund, at: datetime, context: RequestContext, decision: Mapping[str, Any], cause: str
) -> Item:
    """A person's decision that was refused."""
    return to_item(
        {
            **_record(refund.request.order, at, uuid.uuid4().hex, context, refund),
            **_asked_for(refund.request),
            "action": DECISION_REFUSED,
            "after": refund.status,
            "amount": refund.amount,
            "cause": cause,
            **decision,
        }
    )


def settled_refund_record(refund: Refund, message_id: str, sent_at: datetime, context: RequestContext) -> Item:
    """A message for a refund that was settled before the message was sent. The message id is its key, so a redelivery
    adds no second record."""
    return to_item(
        {
            **_record(refund.request.order, sent_at, message_id, context, refund),
            **_asked_for(refund.request),
            "action": MESSAGE_FOR_SETTLED_REFUND,
            "after": refund.status,
            "amount": refund.amount,
            "messageId": message_id,
            "cause": f"the idempotency key was already used: its refund is {refund.status} since "
            f"{iso(refund.updated_at)}; a new refund needs a new key",
        }
    )


def forbidden_record(at: datetime, context: RequestContext, route: str, path: Mapping[str, str], why: str) -> Item:
    """An API request that its token does not allow. No merchant is known for it, so it is stored in a partition of its
    day that no merchant can have."""
    where = OrderKey("", f"forbidden-{at:%Y-%m-%d}")
    return to_item(
        {
            **_record(where, at, uuid.uuid4().hex, replace(context, actor=context.actor[:MAX_ACTOR])),
            "action": FORBIDDEN,
            "route": route,
            "path": {name: value[:MAX_PATH_PART] for name, value in path.items()},
            "cause": why,
        }
    )


def late_evidence_record(
    refund: Refund, at: datetime, context: RequestContext, came_to: str, upstream: UpstreamAnswer | None
) -> Item:
    """Indodana's answer about a refund that had been settled differently before the answer arrived."""
    return to_item(
        {
            **_record(refund.request.order, at, uuid.uuid4().hex, context, refund),
            **_asked_for(refund.request),
            "action": LATE_EVIDENCE,
            "after": refund.status,
            "amount": refund.amount,
            "cause": f"late response: outcome was {came_to}, but the refund had already become {refund.status}",
            **_upstream(upstream),
        }
    )


def status_record(
    order: OrderKey,
    at: datetime,
    context: RequestContext,
    outcome: str,
    upstream: UpstreamAnswer | None,
    amount: Decimal | None,
) -> Item:
    """`outcome` is the transactionStatus, or the name of the error."""
    return to_item(
        {
            **_record(order, at, uuid.uuid4().hex, context),
            "action": STATUS_CHECKED,
            "after": outcome,
            "amount": amount,
            **_upstream(upstream),
        }
    )


def dead_letter_record(
    order: OrderKey | None,
    message_id: str,
    sent_at: datetime,
    context: RequestContext,
    cause: str,
    body_sha256: str,
    receive_count: int | None = None,
) -> Item:
    """An invalid message, or one that was received too often (`receive_count`).

    The message id is its key, so a redelivery adds no second record.

    If the order is unknown, the record is stored in a partition of its day that no merchant can have.
    """
    where = order or OrderKey("", f"dead-letters-{sent_at:%Y-%m-%d}")
    return to_item(
        {
            **_record(where, sent_at, message_id, context),
            "action": MESSAGE_DEAD_LETTERED,
            "messageId": message_id,
            "cause": cause,
            "bodySha256": body_sha256,
            "receiveCount": receive_count,
        }
    )


class AuditLog:
    """Adds the records that are not transitions (the ledger writes those), and reads the timeline of all of them."""

    def __init__(self, client: DynamoDBClient, table: str, *, on_lost: Callable[[], None] = lambda: None) -> None:
        self._client = client
        self._table = table
        self._on_lost = on_lost

    def add(self, record: Item) -> bool:
        """Whether it was added: adding the same record again changes nothing. Raises LedgerUnavailable."""
        try:
            self._client.put_item(TableName=self._table, Item=record, ConditionExpression="attribute_not_exists(pk)")
        except self._client.exceptions.ConditionalCheckFailedException:
            return False
        except (ClientError, BotoCoreError) as error:
            raise LedgerUnavailable("the audit record could not be written") from error
        return True

    def record_best_effort(self, record: Item) -> None:
        """Adds a record of something that moved no money. A failure is logged and counted, and never raised."""
        try:
            self.add(record)
        except LedgerUnavailable:
            log.exception(
                "audit record %s of %s could not be written and is lost", record["action"]["S"], record["pk"]["S"]
            )
            self._on_lost()

    def timeline(self, order: OrderKey, limit: int, token: str | None) -> Page:
        """The order's records, oldest first. Raises NotFound if there are none, LedgerUnavailable, InvalidRequest."""
        start = paging.start_of(token, attributes=KEY_ATTRIBUTES, must_hold={"pk": order.partition})
        try:
            answer = self._client.query(
                TableName=self._table,
                KeyConditionExpression="pk = :order",
                ExpressionAttributeValues={":order": {"S": order.partition}},
                ConsistentRead=True,
                Limit=limit,
                **start,
            )
        except (ClientError, BotoCoreError) as error:
            raise LedgerUnavailable("the audit log could not be read") from error
        if not answer["Items"] and not start:
            raise NotFound("no audit records exist for this order")
        records = [_shown(from_item(item)) for item in answer["Items"]]
        return Page(records, paging.to_token(answer.get("LastEvaluatedKey")))


def _record(
    order: OrderKey, at: datetime, unique: str, context: RequestContext, refund: Refund | None = None
) -> dict[str, Any]:
    # A step without an id of its own (recovery, a message without one) gets the id of the original request.
    asked_as = refund.correlation_id if refund else None
    return {
        "pk": order.partition,
        "sk": f"{iso(at)}#{unique}",
        "at": iso(at),
        "merchantId": order.merchant_id,
        "merchantOrderId": order.merchant_order_id,
        "actor": context.actor,
        "channel": context.channel,
        "sender": context.sender,
        "senderSession": context.sender_session,
        "requestId": context.request_id,
        "correlationId": context.correlation_id or asked_as or context.request_id,
    }


def _asked_for(request: RefundRequest) -> dict[str, Any]:
    return {
        "refundId": request.refund_id,
        "idempotencyKey": request.idempotency_key,
        "reason": request.reason,
        "note": request.note,
        "requestedBy": request.requested_by,
    }


def _upstream(upstream: UpstreamAnswer | None) -> dict[str, Any]:
    if upstream is None:
        return {}
    return {"upstreamStatus": upstream.status, "upstreamBody": upstream.body, "upstreamSha256": upstream.sha256}


def _failure(failure: Failure | None) -> dict[str, Any]:
    return {"failureCode": failure.code, "failureDetail": failure.detail} if failure else {}


def _shown(record: dict[str, Any]) -> dict[str, Any]:
    return {name: value for name, value in record.items() if name not in KEY_ATTRIBUTES}
