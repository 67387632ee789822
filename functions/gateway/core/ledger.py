"""The ledger: every refund and every order's sums, in DynamoDB.

One write does everything: `transition` takes a refund from one state to the next, moves the order's sums by what that
means, and adds the audit record, in one TransactWriteItems, on condition that nothing has changed since it was read.

    item                       sort key             holds
    an order's sums            ORDER                amount = refunded + reserved + refundable
    a refund                   REFUND#<refundId>    its whole state; `version` counts its transitions
"""

from __future__ import annotations

import logging
import threading
import time
from collections.abc import Callable, Collection, Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from datetime import datetime
from decimal import Decimal
from typing import TYPE_CHECKING, Any, Protocol

from botocore.exceptions import BotoCoreError, ClientError

from gateway.core import paging
from gateway.core.backoff import JITTER
from gateway.core.dynamodb import Item, from_item, to_item
from gateway.core.errors import (
    IllegalTransition,
    LedgerBusy,
    LedgerUnavailable,
    NotFound,
    OrderChanged,
    RefundChanged,
)
from gateway.core.model import (
    LEGAL_TRANSITIONS,
    OPEN_STATUSES,
    Failure,
    FailureCode,
    Order,
    OrderKey,
    Reason,
    Refund,
    RefundRequest,
    RefundStatus,
    from_iso,
    iso,
)

if TYPE_CHECKING:
    from mypy_boto3_dynamodb import DynamoDBClient

log = logging.getLogger("refunds")

OPEN_REFUNDS_INDEX = "open-refunds"
INDEX_KEY_ATTRIBUTES = frozenset({"pk", "sk", "openKey", "openSince"})
LIST_KEY_ATTRIBUTES = frozenset({"pk", "sk", "createdAt"})

# Refunds of one order meet in its sums. DynamoDB refuses all but one of those that meet (TransactionConflict), and the
# others try again, after no less than a transaction takes, and for up to 3.2 s in all.
CONFLICT_TRIES = 8
CONFLICT_BASE_SECONDS = 0.0125

# Longer than a write takes: who waits longer does so for one that hangs, and has an outcome to write himself.
TURN_SECONDS = 1
ORDERS_WITH_TURNS = 1000

ORDER = "ORDER"
PASSING_REASONS = frozenset({"TransactionConflict", "ThrottlingError", "ProvisionedThroughputExceeded"})
# What an item raises that is not ours, or not whole.
UNREADABLE = (ArithmeticError, LookupError, TypeError, ValueError)

type Seen = tuple[Order | None, Refund | None]


@dataclass(frozen=True)
class OrderRefunds:
    """A page of an order's refunds, and its sums."""

    order: Order | None  # None while no refund has reserved anything yet
    refunds: list[Refund]
    next_token: str | None


class Lock(Protocol):
    """As in `threading`."""

    def acquire(self, *, timeout: float) -> bool: ...

    def release(self) -> None: ...


@dataclass(frozen=True)
class WorkList:
    refunds: list[Refund]
    next_token: str | None


class Ledger:
    def __init__(
        self,
        client: DynamoDBClient,
        ledger_table: str,
        audit_table: str,
        *,
        sleep: Callable[[float], None] = time.sleep,
        new_lock: Callable[[], Lock] = threading.Lock,
        on_transition: Callable[[Refund], None] = lambda _: None,
    ) -> None:
        """`on_transition` is told of each transition once, by whoever made it."""
        self._client = client
        self._table = ledger_table
        self._audit_table = audit_table
        self._sleep = sleep
        self._new_lock = new_lock
        self._on_transition = on_transition
        self._turns: dict[OrderKey, Lock] = {}

    # ---- reading

    def read(self, request: RefundRequest) -> Seen:
        """The order's sums and the refund that the request names, as far as they exist. Raises LedgerUnavailable."""
        return _seen(self._get(_keys(request)), request)

    def read_ahead(self, requests: Collection[RefundRequest]) -> list[Seen | None]:
        """The same of up to 30 requests in one call. None: it could not be read, and `read` will say why."""
        if not requests:
            return []
        try:
            items = self._get([key for request in requests for key in _keys(request)])
        except LedgerUnavailable:
            log.exception("a batch could not be read in one call, so each of its refunds is read alone")
            return [None for _ in requests]
        return [_seen_if_readable(items, request) for request in requests]

    def refund(self, order: OrderKey, refund_id: str) -> Refund:
        """Raises NotFound, LedgerUnavailable."""
        key = _refund_item_key(order, refund_id)
        item = self._get([key]).get(_by_key(key))
        if item is None:
            raise NotFound("this order has no such refund")
        return _to_refund(item)

    def refunds_of(self, order: OrderKey, limit: int, token: str | None) -> OrderRefunds:
        """A page of the order's refunds, oldest first. All are read for each page: their keys are in no order.

        Raises NotFound where no refund was ever recorded, InvalidRequest for the token, LedgerUnavailable.
        """
        start = paging.start_of(token, attributes=LIST_KEY_ATTRIBUTES, must_hold={"pk": order.partition})
        after = _place(start["ExclusiveStartKey"]) if start else None
        sums: Order | None = None
        refunds: list[Refund] = []
        for item in self._items(
            self._client.query,
            KeyConditionExpression="pk = :order",
            ExpressionAttributeValues={":order": {"S": order.partition}},
            ConsistentRead=True,
        ):
            if item["sk"]["S"] == ORDER:
                sums = _to_order(item)
            else:
                refunds.append(_to_refund(item))
        if not refunds:
            raise NotFound("no refund of this order was ever asked for")
        refunds.sort(key=lambda refund: _place(_list_key(refund)))
        rest = [refund for refund in refunds if after is None or _place(_list_key(refund)) > after]
        next_token = paging.to_token(_list_key(rest[limit - 1])) if len(rest) > limit else None
        return OrderRefunds(sums, rest[:limit], next_token)

    def work_list(self, merchant_id: str, status: RefundStatus, limit: int, token: str | None) -> WorkList:
        """The merchant's refunds in an open status, the longest waiting first. Raises InvalidRequest for the token."""
        open_key = _open_key(merchant_id, status)
        start = paging.start_of(token, attributes=INDEX_KEY_ATTRIBUTES, must_hold={"openKey": open_key})
        try:
            answer = self._client.query(
                TableName=self._table,
                IndexName=OPEN_REFUNDS_INDEX,
                KeyConditionExpression="openKey = :key",
                ExpressionAttributeValues={":key": {"S": open_key}},
                Limit=limit,
                **start,
            )
        except (ClientError, BotoCoreError) as error:
            raise LedgerUnavailable("the ledger could not be read") from error
        refunds = [_to_refund(item) for item in answer["Items"]]
        return WorkList(refunds, paging.to_token(answer.get("LastEvaluatedKey")))

    def open_refunds(self) -> Iterator[Refund | None]:
        """Every open refund of every merchant, perhaps a moment old. None: an item that is no refund, which is logged.

        Raises LedgerUnavailable.
        """
        for item in self._items(self._client.scan, IndexName=OPEN_REFUNDS_INDEX):
            try:
                refund = _to_refund(item)
            except UNREADABLE:
                log.exception("the ledger's item %s / %s can't be read", item["pk"]["S"], item["sk"]["S"])
                yield None
            else:
                yield refund

    # ---- writing

    def transition(
        self, before: Refund | None, after: Refund, record: Item, *, order: Order | None = None, exact: bool = False
    ) -> None:
        """Takes the refund from `before` to `after`, with the order's sums and the audit record, or does nothing.

        `order` is what the sums were read to be; it is needed where the refund reserves. `exact`: reserve only if all
        that is refundable is still what was read (for "all that remains").

        Raises RefundChanged or OrderChanged where the conditions do not hold, IllegalTransition, LedgerBusy (nothing
        was written), LedgerUnavailable (nobody knows).
        """
        if after.status not in LEGAL_TRANSITIONS[before.status if before else None]:
            raise IllegalTransition(f"{before.status if before else 'a new refund'} may not become {after.status}")
        items: list[Any] = [
            self._refund_write(before, after),
            {
                "Put": {
                    "TableName": self._audit_table,
                    "Item": record,
                    "ConditionExpression": "attribute_not_exists(pk)",
                }
            },
        ]
        if sums := self._sums_write(before, after, order, exact=exact):
            items.append(sums)

        for attempt in range(CONFLICT_TRIES):
            if attempt:
                self._wait(attempt)
            try:
                with self._turn(after.request.order):
                    self._client.transact_write_items(TransactItems=items)
            except self._client.exceptions.TransactionCanceledException as canceled:
                reasons: list[dict[str, Any]] = list(canceled.response.get("CancellationReasons", []))  # type: ignore[arg-type]
                if len(reasons) != len(items):
                    # Refused for a reason that is not said, perhaps because it had landed already: the next try tells.
                    if attempt + 1 == CONFLICT_TRIES:
                        raise LedgerUnavailable("the ledger refused the write and did not say why") from canceled
                    continue
                if self._landed_before(after, reasons):
                    break
                if not any(reason.get("Code") in PASSING_REASONS for reason in reasons):
                    raise LedgerUnavailable(f"the ledger refused the write: {_codes(reasons)}") from canceled
            except (ClientError, BotoCoreError) as error:
                raise LedgerUnavailable("whether the ledger was written is not known") from error
            else:
                break
        else:
            raise LedgerBusy("too many refunds of this order at once")
        self._on_transition(after)

    def postpone(self, refund: Refund, until: datetime, queue_message: str) -> Refund:
        """Notes another attempt that came to nothing, when the next is due, and the message that will lead to it.

        Raises RefundChanged where someone else was quicker, LedgerUnavailable.
        """
        after = replace(refund, next_attempt_at=until, attempts=refund.attempts + 1, queue_message=queue_message)
        self._note(
            refund,
            "SET nextAttemptAt = :until, attempts = :attempts, queueMessage = :message",
            {":until": iso(until), ":attempts": after.attempts, ":message": queue_message},
        )
        return after

    def note_message(self, refund: Refund, queue_message: str, at: datetime) -> Refund:
        """Notes the message that is about to be sent for a refund that is overdue. Raises as `postpone`."""
        self._note(
            refund,
            "SET queueMessage = :message, enqueuedAt = :at",
            {":message": queue_message, ":at": iso(at)},
        )
        return replace(refund, queue_message=queue_message, enqueued_at=at)

    # ---- how

    def _note(self, refund: Refund, update: str, values: dict[str, Any]) -> None:
        """Bookkeeping of a refund that waits: no transition."""
        known = ":seenMessage = queueMessage" if refund.queue_message else "attribute_not_exists(queueMessage)"
        seen = {":version": refund.version, ":seen": refund.attempts, ":seenMessage": refund.queue_message}
        try:
            self._client.update_item(
                TableName=self._table,
                Key=_refund_item_key(refund.request.order, refund.refund_id),
                UpdateExpression=update,
                ConditionExpression=f"version = :version AND attempts = :seen AND {known}",
                ExpressionAttributeValues=to_item(values | seen),
                ReturnValuesOnConditionCheckFailure="ALL_OLD",
            )
        except self._client.exceptions.ConditionalCheckFailedException as failed:
            current: Any = failed.response.get("Item")
            if not current:
                raise LedgerUnavailable("the refund is gone from the ledger") from failed
            raise RefundChanged(_to_refund(current)) from failed
        except (ClientError, BotoCoreError) as error:
            raise LedgerUnavailable("whether the ledger was written is not known") from error

    def _get(self, wanted_keys: Iterable[Item]) -> dict[tuple[str, str], Item]:
        """These items by partition and sort key, as far as they exist."""
        # By key, for two refunds may share an order, and DynamoDB takes a key but once.
        wanted = {_by_key(key): key for key in wanted_keys}
        keys: list[Any] = list(wanted.values())
        found: dict[tuple[str, str], Item] = {}
        try:
            for attempt in range(CONFLICT_TRIES):
                if attempt:
                    self._wait(attempt)
                answer = self._client.batch_get_item(RequestItems={self._table: {"Keys": keys, "ConsistentRead": True}})
                found |= {_by_key(item): item for item in answer["Responses"].get(self._table, [])}
                left = answer.get("UnprocessedKeys", {})
                keys = list(left[self._table]["Keys"]) if left else []
                if not keys:
                    return found
        except (ClientError, BotoCoreError) as error:
            raise LedgerUnavailable("the ledger could not be read") from error
        raise LedgerBusy("the ledger gave no whole answer")

    @contextmanager
    def _turn(self, order: OrderKey) -> Iterator[None]:
        """The threads of one process take turns in writing to an order: two that meet would each have to try again.

        More than that does not hang on it, so nobody waits for long.
        """
        if len(self._turns) >= ORDERS_WITH_TURNS:
            self._turns.clear()
        lock = self._turns.setdefault(order, self._new_lock())
        its_turn = lock.acquire(timeout=TURN_SECONDS)
        try:
            yield
        finally:
            if its_turn:
                lock.release()

    def _wait(self, attempt: int) -> None:
        most = CONFLICT_BASE_SECONDS * 2**attempt
        self._sleep(JITTER.uniform(most / 2, most))

    def _refund_write(self, before: Refund | None, after: Refund) -> dict[str, Any]:
        put: dict[str, Any] = {
            "TableName": self._table,
            "Item": _from_refund(after),
            "ConditionExpression": "attribute_not_exists(pk)",
            "ReturnValuesOnConditionCheckFailure": "ALL_OLD",
        }
        if before:
            put["ConditionExpression"] = "#status = :status AND version = :version"
            put["ExpressionAttributeNames"] = {"#status": "status"}
            put["ExpressionAttributeValues"] = to_item({":status": before.status, ":version": before.version})
            if after.status is RefundStatus.SUBMITTING:
                # Put off since it was read, it is not due any more.
                put["ConditionExpression"] += " AND attempts = :attempts"
                put["ExpressionAttributeValues"] |= to_item({":attempts": before.attempts})
        return {"Put": put}

    def _sums_write(
        self, before: Refund | None, after: Refund, order: Order | None, *, exact: bool
    ) -> dict[str, Any] | None:
        reserved = after.reserves - (before.reserves if before else Decimal(0))
        refunded = after.refunds - (before.refunds if before else Decimal(0))
        refundable = -(reserved + refunded)
        if not reserved and not refunded:
            return None
        if order and not order.stored:
            if order.refundable + refundable < 0:
                raise IllegalTransition("a refund may not reserve more than its order has")
            opened = {
                "amount": order.amount,
                "refundable": order.refundable + refundable,
                "reserved": order.reserved + reserved,
                "refunded": order.refunded + refunded,
                "openedAt": iso(after.updated_at),
            }
            return {
                "Put": {
                    "TableName": self._table,
                    "Item": _order_item_key(after.request.order) | to_item(opened),
                    "ConditionExpression": "attribute_not_exists(pk)",
                    "ReturnValuesOnConditionCheckFailure": "ALL_OLD",
                }
            }
        values = {":refundable": refundable, ":reserved": reserved, ":refunded": refunded}
        if refundable < 0:
            condition = "refundable = :needed" if exact else "refundable >= :needed"
            values[":needed"] = -refundable
        else:
            condition = "reserved >= :needed"
            values[":needed"] = -reserved
        return {
            "Update": {
                "TableName": self._table,
                "Key": _order_item_key(after.request.order),
                "UpdateExpression": "SET refundable = refundable + :refundable, reserved = reserved + :reserved, "
                "refunded = refunded + :refunded",
                "ConditionExpression": condition,
                "ExpressionAttributeValues": to_item(values),
                "ReturnValuesOnConditionCheckFailure": "ALL_OLD",
            }
        }

    def _landed_before(self, after: Refund, reasons: list[dict[str, Any]]) -> bool:
        """Whether the write that was just refused had already taken effect, its first answer having been lost.

        Raises RefundChanged or OrderChanged where a condition failed for any other reason.
        """
        failed = [reason if reason.get("Code") == "ConditionalCheckFailed" else None for reason in reasons]
        if failed[0]:
            if not failed[0].get("Item"):
                raise LedgerUnavailable("the refund is gone from the ledger")
            current = _to_refund(failed[0]["Item"])
            if current.transition_id == after.transition_id:
                return True
            raise RefundChanged(current)
        if reasons[0].get("Code") in PASSING_REASONS:
            return False  # the same refund is being written just now: what the sums say may be its doing
        if len(failed) > 2 and failed[2]:
            item = failed[2].get("Item")
            raise OrderChanged(_to_order(item) if item else None)
        return False

    def _items(self, operation: Callable[..., Any], **arguments: Any) -> Iterator[Item]:
        start: Any = {}
        while True:
            try:
                answer = operation(TableName=self._table, **arguments, **start)
            except (ClientError, BotoCoreError) as error:
                raise LedgerUnavailable("the ledger could not be read") from error
            yield from answer["Items"]
            if not answer.get("LastEvaluatedKey"):
                return
            start = {"ExclusiveStartKey": answer["LastEvaluatedKey"]}


def _by_key(item: Item) -> tuple[str, str]:
    return item["pk"]["S"], item["sk"]["S"]


def _keys(request: RefundRequest) -> list[Item]:
    ids = [request.refund_id] + ([request.spelled_refund_id] if request.spelled_refund_id else [])
    return [_order_item_key(request.order), *(_refund_item_key(request.order, refund_id) for refund_id in ids)]


def _seen(items: dict[tuple[str, str], Item], request: RefundRequest) -> Seen:
    """A refund that is on record under the key as it was spelled goes first: that is the one that its caller made."""
    sums, *refunds = (items.get(_by_key(key)) for key in _keys(request))
    refund = next((item for item in reversed(refunds) if item), None)
    return _to_order(sums) if sums else None, _to_refund(refund) if refund else None


def _seen_if_readable(items: dict[tuple[str, str], Item], request: RefundRequest) -> Seen | None:
    try:
        return _seen(items, request)
    except UNREADABLE:
        return None


def _list_key(refund: Refund) -> Item:
    return _refund_item_key(refund.request.order, refund.refund_id) | {"createdAt": {"S": iso(refund.created_at)}}


def _place(list_key: Item) -> tuple[str, str]:
    return list_key["createdAt"]["S"], list_key["sk"]["S"]


def _codes(reasons: list[dict[str, Any]]) -> str:
    return ", ".join(str(reason.get("Code")) for reason in reasons)


def _order_item_key(order: OrderKey) -> Item:
    return {"pk": {"S": order.partition}, "sk": {"S": ORDER}}


def _refund_item_key(order: OrderKey, refund_id: str) -> Item:
    return {"pk": {"S": order.partition}, "sk": {"S": f"REFUND#{refund_id}"}}


def _open_key(merchant_id: str, status: RefundStatus) -> str:
    return f"{merchant_id}#{status}"


def _to_order(item: Item) -> Order:
    values = from_item(item)
    return Order(values["amount"], values["refundable"], values["reserved"], values["refunded"])


def _from_refund(refund: Refund) -> Item:
    request = refund.request
    is_open = refund.status in OPEN_STATUSES
    failure = refund.failure
    return _refund_item_key(request.order, refund.refund_id) | to_item(
        {
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
            "openKey": _open_key(request.order.merchant_id, refund.status) if is_open else None,
            "openSince": iso(refund.updated_at) if is_open else None,
        }
    )


def _to_refund(item: Item) -> Refund:
    values = from_item(item)
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
