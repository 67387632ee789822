"""The items of the ledger's table: refunds and orders as DynamoDB items, and their keys.

item                       sort key             holds
an order's sums            ORDER                amount = refunded + reserved + refundable
a refund                   REFUND#<refundId>    its whole state; `version` counts its transitions

Both carry `schemaVersion`. Readers come first: a release reads a new schema, and only the one after it writes it. So a
deployment, a canary or a rollback never leaves a process with items that it cannot read (docs/decisions/0024).
"""

from __future__ import annotations

from datetime import datetime
from typing import Any

from gateway.core.dynamodb import Item, from_item, to_item
from gateway.core.model import (
    Failure,
    FailureCode,
    Order,
    OrderKey,
    Reason,
    Refund,
    RefundPointer,
    RefundRequest,
    from_iso,
    iso,
)
from gateway.core.transitions import OPEN_STATUSES, RefundStatus

ORDER = "ORDER"
# A new version is only for a change that an older reader would misunderstand, not for an attribute that it may ignore.
WRITTEN_SCHEMA = 1
NEWEST_READABLE_SCHEMA = 1
# Raised when an item was not written by this gateway or is incomplete.
UNREADABLE = (ArithmeticError, LookupError, TypeError, ValueError)


def order_item_key(order: OrderKey) -> Item:
    return {"pk": {"S": order.partition}, "sk": {"S": ORDER}}


def refund_item_key(order: OrderKey, refund_id: str) -> Item:
    return {"pk": {"S": order.partition}, "sk": {"S": f"REFUND#{refund_id}"}}


def open_key(merchant_id: str, status: RefundStatus) -> str:
    return f"{merchant_id}#{status}"


def keys_of(wanted: RefundRequest | RefundPointer) -> list[Item]:
    order = wanted.order
    return [order_item_key(order), *(refund_item_key(order, refund_id) for refund_id in wanted.refund_ids)]


def key_of(item: Item) -> tuple[str, str]:
    return item["pk"]["S"], item["sk"]["S"]


def list_key(refund: Refund) -> Item:
    return refund_item_key(refund.request.order, refund.refund_id) | {"createdAt": {"S": iso(refund.created_at)}}


def position(list_key: Item) -> tuple[str, str]:
    return list_key["createdAt"]["S"], list_key["sk"]["S"]


def from_order(key: OrderKey, order: Order, at: datetime) -> Item:
    return order_item_key(key) | to_item(
        {
            "schemaVersion": WRITTEN_SCHEMA,
            "amount": order.amount,
            "refundable": order.refundable,
            "reserved": order.reserved,
            "refunded": order.refunded,
            "openedAt": iso(at),
        }
    )


def to_order(item: Item) -> Order:
    """Raises one of UNREADABLE."""
    values = _values(item)
    return Order(values["amount"], values["refundable"], values["reserved"], values["refunded"])


def from_refund(refund: Refund) -> Item:
    request = refund.request
    is_open = refund.status in OPEN_STATUSES
    failure = refund.failure
    return refund_item_key(request.order, refund.refund_id) | to_item(
        {
            "schemaVersion": WRITTEN_SCHEMA,
            "refundId": refund.refund_id,
            "merchantId": request.order.merchant_id,
            "merchantOrderId": request.order.merchant_order_id,
            "idempotencyKey": request.idempotency_key,
            "requestedAmount": request.amount,
            "reason": request.reason,
            "note": request.note,
            "requestedBy": request.requested_by,
            "status": refund.status,
            "createdBy": refund.created_by,
            "createdAt": iso(refund.created_at),
            "updatedAt": iso(refund.updated_at),
            "version": refund.version,
            "transitionId": refund.transition_id,
            "correlationId": refund.correlation_id,
            "reservedAmount": refund.reserved_amount,
            "transactionAmount": refund.transaction_amount,
            "attempts": refund.attempts,
            "ambiguous": refund.ambiguous,
            "leaseUntil": iso(refund.lease_until) if refund.lease_until else None,
            "sendableUntil": iso(refund.sendable_until) if refund.sendable_until else None,
            "nextAttemptAt": iso(refund.next_attempt_at) if refund.next_attempt_at else None,
            "queueMessage": refund.queue_message,
            "enqueuedAt": iso(refund.enqueued_at) if refund.enqueued_at else None,
            "decisionId": refund.decision_id,
            "failureCode": failure.code if failure else None,
            "failureDetail": failure.detail if failure else None,
            "failureUpstreamStatus": failure.upstream_status if failure else None,
            "failureUpstreamKind": failure.upstream_kind if failure else None,
            "failureUpstreamMessage": failure.upstream_message if failure else None,
            "openKey": open_key(request.order.merchant_id, refund.status) if is_open else None,
            "openSince": iso(refund.updated_at) if is_open else None,
        }
    )


def to_refund(item: Item) -> Refund:
    """Raises one of UNREADABLE."""
    values = _values(item)
    failure = None
    if "failureCode" in values:
        status = values.get("failureUpstreamStatus")
        failure = Failure(
            code=FailureCode(values["failureCode"]),
            detail=values["failureDetail"],
            upstream_status=None if status is None else int(status),
            upstream_kind=values.get("failureUpstreamKind"),
            upstream_message=values.get("failureUpstreamMessage"),
        )
    return Refund(
        request=RefundRequest(
            order=OrderKey(values["merchantId"], values["merchantOrderId"]),
            idempotency_key=values["idempotencyKey"],
            amount=values.get("requestedAmount"),
            reason=Reason(values["reason"]),
            note=values.get("note"),
            requested_by=values["requestedBy"],
        ),
        status=RefundStatus(values["status"]),
        created_by=values["createdBy"],
        created_at=from_iso(values["createdAt"]),
        updated_at=from_iso(values["updatedAt"]),
        version=int(values["version"]),
        transition_id=values["transitionId"],
        correlation_id=values.get("correlationId"),
        reserved_amount=values.get("reservedAmount"),
        transaction_amount=values.get("transactionAmount"),
        attempts=int(values["attempts"]),
        ambiguous=values["ambiguous"],
        lease_until=from_iso(values["leaseUntil"]) if "leaseUntil" in values else None,
        sendable_until=from_iso(values["sendableUntil"]) if "sendableUntil" in values else None,
        next_attempt_at=from_iso(values["nextAttemptAt"]) if "nextAttemptAt" in values else None,
        queue_message=values.get("queueMessage"),
        enqueued_at=from_iso(values["enqueuedAt"]) if "enqueuedAt" in values else None,
        decision_id=values.get("decisionId"),
        failure=failure,
    )


def _values(item: Item) -> dict[str, Any]:
    values = from_item(item)
    schema = values.get("schemaVersion", 0)  # 0: written by 0.5.0 or earlier; read in the same way
    if schema > NEWEST_READABLE_SCHEMA:
        raise ValueError(f"its schema version is {schema}; this release reads up to {NEWEST_READABLE_SCHEMA}")
    return values
