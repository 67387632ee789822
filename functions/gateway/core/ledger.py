"""The ledger: every refund and every order's sums, in DynamoDB.

`transition` is the one write: it changes the refund's state, adjusts the order's sums and adds the audit record, in one
TransactWriteItems, on condition that nothing has changed since it was read.
"""

from __future__ import annotations

import logging
import threading
import time
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping
from dataclasses import dataclass, replace
from datetime import datetime
from typing import TYPE_CHECKING, Any, NamedTuple

from botocore.exceptions import BotoCoreError, ClientError

from gateway.core import audit, paging
from gateway.core.backoff import JITTER
from gateway.core.context import RequestContext
from gateway.core.dynamodb import Item, to_item
from gateway.core.errors import (
    IllegalTransition,
    LedgerBusy,
    LedgerUnavailable,
    NotFound,
    OrderChanged,
    RefundChanged,
    UnreadableItem,
)
from gateway.core.items import (
    ORDER,
    UNREADABLE,
    from_order,
    from_refund,
    key_of,
    keys_of,
    list_key,
    open_key,
    order_item_key,
    position,
    refund_item_key,
    to_order,
    to_refund,
)
from gateway.core.model import Order, OrderKey, Refund, RefundPointer, RefundRequest, SumsChange, iso
from gateway.core.order_locks import Lock, OrderLocks
from gateway.core.transitions import LEGAL_TRANSITIONS, RefundStatus
from gateway.core.upstream import UpstreamAnswer

if TYPE_CHECKING:
    from mypy_boto3_dynamodb import DynamoDBClient

log = logging.getLogger("gateway")

OPEN_REFUNDS_INDEX = "open-refunds"
INDEX_KEY_ATTRIBUTES = frozenset({"pk", "sk", "openKey", "openSince"})
LIST_KEY_ATTRIBUTES = frozenset({"pk", "sk", "createdAt"})

# Refunds of one order write the same sums. DynamoDB refuses all but one of the simultaneous writes
# (TransactionConflict). The others retry, not sooner than a transaction takes, for up to 3.2 s in total.
CONFLICT_TRIES = 8
CONFLICT_BASE_SECONDS = 0.0125

PASSING_REASONS = frozenset({"TransactionConflict", "ThrottlingError", "ProvisionedThroughputExceeded"})


class Snapshot(NamedTuple):
    """What the ledger had for a request when it was read: the order's sums and the refund, if they exist."""

    order: Order | None
    refund: Refund | None


@dataclass(frozen=True)
class OrderRefundsPage:
    """A page of an order's refunds, and its sums."""

    order: Order | None  # None while no refund has reserved anything yet
    refunds: list[Refund]
    next_token: str | None


@dataclass(frozen=True)
class OpenRefundsPage:
    refunds: list[Refund]
    next_token: str | None


class Found(NamedTuple):
    """An item of the index of open refunds."""

    key: Item  # in the index
    refund: Refund | None  # None: unreadable


@dataclass(frozen=True)
class FoundPage:
    found: list[Found]
    end: Item | None  # the key after which the next page starts; None: this was the last one


class Ledger:
    def __init__(
        self,
        client: DynamoDBClient,
        ledger_table: str,
        audit_table: str,
        *,
        sleep: Callable[[float], None] = time.sleep,
        new_lock: Callable[[], Lock] = threading.Lock,
        on_transition: Callable[[Refund | None, Refund], None] = lambda _before, _after: None,
    ) -> None:
        """`on_transition` is called once for each transition, in the process that made it."""
        self._client = client
        self._table = ledger_table
        self._audit_table = audit_table
        self._sleep = sleep
        self._order_locks = OrderLocks(new_lock)
        self._on_transition = on_transition

    # ---- reading

    def read(self, wanted: RefundRequest | RefundPointer) -> Snapshot:
        """What the ledger has for a request or a pointer. Raises LedgerUnavailable."""
        return _snapshot(self._get(keys_of(wanted)), wanted)

    def prefetch(self, wanted: Collection[RefundRequest | RefundPointer]) -> list[Snapshot | None]:
        """The same for up to 30 of them in one call. None: not readable, and `read` will raise the reason."""
        if not wanted:
            return []
        try:
            items = self._get([key for one in wanted for key in keys_of(one)])
        except LedgerUnavailable:
            log.exception("prefetch failed; reading each refund of the batch separately")
            return [None for _ in wanted]
        return [_snapshot_if_readable(items, one) for one in wanted]

    def refund(self, order: OrderKey, refund_id: str) -> Refund:
        """Raises NotFound, LedgerUnavailable."""
        key = refund_item_key(order, refund_id)
        item = self._get([key]).get(key_of(key))
        if item is None:
            raise NotFound("this order has no refund with this refundId")
        return _readable(item, to_refund)

    def refunds_of(self, order: OrderKey, limit: int, token: str | None) -> OrderRefundsPage:
        """A page of the order's refunds, oldest first. Each page reads all of them: their keys are not sorted by time.

        Raises NotFound if the order has no refund, InvalidRequest for the token, LedgerUnavailable.
        """
        start = paging.start_of(token, attributes=LIST_KEY_ATTRIBUTES, must_hold={"pk": order.partition})
        after = position(start["ExclusiveStartKey"]) if start else None
        sums: Order | None = None
        refunds: list[Refund] = []
        for item in self._items(
            self._client.query,
            KeyConditionExpression="pk = :order",
            ExpressionAttributeValues={":order": {"S": order.partition}},
            ConsistentRead=True,
        ):
            if item["sk"]["S"] == ORDER:
                sums = _readable(item, to_order)
            else:
                refunds.append(_readable(item, to_refund))
        if not refunds:
            raise NotFound("this order has no refunds")
        refunds.sort(key=lambda refund: position(list_key(refund)))
        rest = [refund for refund in refunds if after is None or position(list_key(refund)) > after]
        next_token = paging.to_token(list_key(rest[limit - 1])) if len(rest) > limit else None
        return OrderRefundsPage(sums, rest[:limit], next_token)

    def open_refunds_page(
        self, merchant_id: str, status: RefundStatus, limit: int, token: str | None
    ) -> OpenRefundsPage:
        """The merchant's refunds in an open status, longest waiting first. Raises InvalidRequest for the token.

        An unreadable item is left out and logged: it must not hide the other orders' refunds.
        """
        wanted_key = open_key(merchant_id, status)
        start = paging.start_of(token, attributes=INDEX_KEY_ATTRIBUTES, must_hold={"openKey": wanted_key})
        try:
            answer = self._client.query(
                TableName=self._table,
                IndexName=OPEN_REFUNDS_INDEX,
                KeyConditionExpression="openKey = :key",
                ExpressionAttributeValues={":key": {"S": wanted_key}},
                Limit=limit,
                **start,
            )
        except (ClientError, BotoCoreError) as error:
            raise LedgerUnavailable("the ledger could not be read") from error
        refunds: list[Refund] = []
        for item in answer["Items"]:
            try:
                refunds.append(_readable(item, to_refund))
            except UnreadableItem as unreadable:
                log.warning("%s: left out of the list of open refunds", unreadable)
        return OpenRefundsPage(refunds, paging.to_token(answer.get("LastEvaluatedKey")))

    def open_refunds_after(self, start: Item | None, limit: int) -> FoundPage:
        """A page of all merchants' open refunds, after the key `start`; the index may lag a moment.

        Raises LedgerUnavailable.
        """
        after: Any = {"ExclusiveStartKey": start} if start else {}
        try:
            answer = self._client.scan(TableName=self._table, IndexName=OPEN_REFUNDS_INDEX, Limit=limit, **after)
        except (ClientError, BotoCoreError) as error:
            raise LedgerUnavailable("the ledger could not be read") from error
        return FoundPage([_found(item) for item in answer["Items"]], answer.get("LastEvaluatedKey"))

    # ---- writing

    def transition(
        self,
        before: Refund | None,
        after: Refund,
        context: RequestContext,
        *,
        cause: str | None = None,
        upstream: UpstreamAnswer | None = None,
        action: str | None = None,
        decision: Mapping[str, Any] | None = None,
        order: Order | None = None,
        exact: bool = False,
    ) -> None:
        """Changes the refund from `before` to `after`, with the order's sums and the audit record; all or nothing.

        `cause`, `upstream`, `action` and `decision` are for the audit record. `order` has the sums as they were read;
        it is needed if the refund reserves. `exact`: reserve only if `refundable` is still what was read (for "all
        that remains").

        Raises RefundChanged or OrderChanged if the conditions fail, IllegalTransition, LedgerBusy (nothing was
        written), LedgerUnavailable (it may have been written or not).
        """
        if after.status not in LEGAL_TRANSITIONS[before.status if before else None]:
            raise IllegalTransition(
                f"illegal transition from {before.status if before else 'nothing'} to {after.status}"
            )
        record = audit.transition_record(
            before, after, context, cause=cause, upstream=upstream, action=action, decision=decision
        )
        items: list[Any] = [self._refund_write(before, after), self._audit_write(record)]
        if sums := self._sums_write(after, SumsChange.between(before, after), order, exact=exact):
            items.append(sums)

        for attempt in range(CONFLICT_TRIES):
            if attempt:
                self._back_off(attempt)
            try:
                with self._order_locks.held(after.request.order):
                    self._client.transact_write_items(TransactItems=items)
            except self._client.exceptions.TransactionCanceledException as canceled:
                reasons: list[dict[str, Any]] = list(canceled.response.get("CancellationReasons", []))  # type: ignore[arg-type]
                if len(reasons) != len(items):
                    # Cancelled without a reason, perhaps because it was already written: the next try finds out.
                    if attempt + 1 == CONFLICT_TRIES:
                        raise LedgerUnavailable("DynamoDB cancelled the ledger write without a reason") from canceled
                    continue
                if _already_written(after, reasons):
                    break
                if not any(reason.get("Code") in PASSING_REASONS for reason in reasons):
                    raise LedgerUnavailable(f"DynamoDB cancelled the ledger write: {_codes(reasons)}") from canceled
            except (ClientError, BotoCoreError) as error:
                raise LedgerUnavailable("ledger write failed; it may have taken effect or not") from error
            else:
                break
        else:
            raise LedgerBusy("too many refunds of this order at the same time")
        self._on_transition(before, after)

    def postpone(self, refund: Refund, until: datetime, queue_message: str) -> Refund:
        """Records an attempt that was deferred, when the next one is due, and the message that will start it.

        Raises RefundChanged if another process was faster, LedgerUnavailable.
        """
        after = replace(refund, next_attempt_at=until, attempts=refund.attempts + 1, queue_message=queue_message)
        self._update_waiting(
            refund,
            "SET nextAttemptAt = :until, attempts = :attempts, queueMessage = :message",
            {":until": iso(until), ":attempts": after.attempts, ":message": queue_message},
        )
        return after

    def record_message(self, refund: Refund, queue_message: str, at: datetime) -> Refund:
        """Records the message that is about to be sent for an overdue refund. Raises as `postpone`."""
        self._update_waiting(
            refund,
            "SET queueMessage = :message, enqueuedAt = :at",
            {":message": queue_message, ":at": iso(at)},
        )
        return replace(refund, queue_message=queue_message, enqueued_at=at)

    # ---- how

    def _update_waiting(self, refund: Refund, update: str, values: dict[str, Any]) -> None:
        """Updates a waiting refund without a transition."""
        same_message = ":seenMessage = queueMessage" if refund.queue_message else "attribute_not_exists(queueMessage)"
        seen = {":version": refund.version, ":seen": refund.attempts, ":seenMessage": refund.queue_message}
        try:
            self._client.update_item(
                TableName=self._table,
                Key=refund_item_key(refund.request.order, refund.refund_id),
                UpdateExpression=update,
                ConditionExpression=f"version = :version AND attempts = :seen AND {same_message}",
                ExpressionAttributeValues=to_item(values | seen),
                ReturnValuesOnConditionCheckFailure="ALL_OLD",
            )
        except self._client.exceptions.ConditionalCheckFailedException as failed:
            current: Any = failed.response.get("Item")
            if not current:
                raise LedgerUnavailable("the refund no longer exists in the ledger") from failed
            raise RefundChanged(_readable(current, to_refund)) from failed
        except (ClientError, BotoCoreError) as error:
            raise LedgerUnavailable("ledger write failed; it may have taken effect or not") from error

    def _get(self, wanted_keys: Iterable[Item]) -> dict[tuple[str, str], Item]:
        """The items that exist, by partition and sort key."""
        # By key: two refunds may share an order, and DynamoDB accepts each key only once.
        wanted = {key_of(key): key for key in wanted_keys}
        keys: list[Any] = list(wanted.values())
        found: dict[tuple[str, str], Item] = {}
        try:
            for attempt in range(CONFLICT_TRIES):
                if attempt:
                    self._back_off(attempt)
                answer = self._client.batch_get_item(RequestItems={self._table: {"Keys": keys, "ConsistentRead": True}})
                found |= {key_of(item): item for item in answer["Responses"].get(self._table, [])}
                left = answer.get("UnprocessedKeys", {})
                keys = list(left[self._table]["Keys"]) if left else []
                if not keys:
                    return found
        except (ClientError, BotoCoreError) as error:
            raise LedgerUnavailable("the ledger could not be read") from error
        raise LedgerBusy("DynamoDB did not return all items")

    def _back_off(self, attempt: int) -> None:
        most = CONFLICT_BASE_SECONDS * 2**attempt
        self._sleep(JITTER.uniform(most / 2, most))

    def _audit_write(self, record: Item) -> dict[str, Any]:
        put = {"TableName": self._audit_table, "Item": record, "ConditionExpression": "attribute_not_exists(pk)"}
        return {"Put": put}

    def _refund_write(self, before: Refund | None, after: Refund) -> dict[str, Any]:
        put: dict[str, Any] = {
            "TableName": self._table,
            "Item": from_refund(after),
            "ConditionExpression": "attribute_not_exists(pk)",
            "ReturnValuesOnConditionCheckFailure": "ALL_OLD",
        }
        if before:
            put["ConditionExpression"] = "#status = :status AND version = :version"
            put["ExpressionAttributeNames"] = {"#status": "status"}
            put["ExpressionAttributeValues"] = to_item({":status": before.status, ":version": before.version})
            if after.status is RefundStatus.SUBMITTING:
                # If it was postponed since it was read, it is no longer due.
                put["ConditionExpression"] += " AND attempts = :attempts"
                put["ExpressionAttributeValues"] |= to_item({":attempts": before.attempts})
        return {"Put": put}

    def _sums_write(
        self, after: Refund, change: SumsChange, order: Order | None, *, exact: bool
    ) -> dict[str, Any] | None:
        if not change:
            return None
        if order and not order.stored:
            return {
                "Put": {
                    "TableName": self._table,
                    "Item": from_order(after.request.order, order.plus(change), after.updated_at),
                    "ConditionExpression": "attribute_not_exists(pk)",
                    "ReturnValuesOnConditionCheckFailure": "ALL_OLD",
                }
            }
        values = {":refundable": change.refundable, ":reserved": change.reserved, ":refunded": change.refunded}
        if change.refundable < 0:
            condition = "refundable = :needed" if exact else "refundable >= :needed"
            values[":needed"] = -change.refundable
        else:
            condition = "reserved >= :needed"
            values[":needed"] = -change.reserved
        return {
            "Update": {
                "TableName": self._table,
                "Key": order_item_key(after.request.order),
                "UpdateExpression": "SET refundable = refundable + :refundable, reserved = reserved + :reserved, "
                "refunded = refunded + :refunded",
                "ConditionExpression": condition,
                "ExpressionAttributeValues": to_item(values),
                "ReturnValuesOnConditionCheckFailure": "ALL_OLD",
            }
        }

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


def _already_written(after: Refund, reasons: list[dict[str, Any]]) -> bool:
    """Whether the refused write had already taken effect, because an earlier try's response was lost.

    Raises RefundChanged or OrderChanged if a condition failed for another reason.
    """
    failed = [reason if reason.get("Code") == "ConditionalCheckFailed" else None for reason in reasons]
    if failed[0]:
        if not failed[0].get("Item"):
            raise LedgerUnavailable("the refund no longer exists in the ledger")
        current = _readable(failed[0]["Item"], to_refund)
        if current.transition_id == after.transition_id:
            return True
        raise RefundChanged(current)
    if reasons[0].get("Code") in PASSING_REASONS:
        return False  # the same refund is being written right now, and may have changed the sums itself
    if len(failed) > 2 and failed[2]:
        item = failed[2].get("Item")
        raise OrderChanged(_readable(item, to_order) if item else None)
    return False


def _snapshot(items: dict[tuple[str, str], Item], wanted: RefundRequest | RefundPointer) -> Snapshot:
    """A refund stored under the key as sent (`spelled_key`) is preferred: its own caller made it."""
    sums, *refunds = (items.get(key_of(key)) for key in keys_of(wanted))
    refund = next((item for item in reversed(refunds) if item), None)
    return Snapshot(_readable(sums, to_order) if sums else None, _readable(refund, to_refund) if refund else None)


def _readable[R](item: Item, read: Callable[[Item], R]) -> R:
    """Raises UnreadableItem."""
    try:
        return read(item)
    except UNREADABLE as error:
        raise UnreadableItem(*key_of(item)) from error


def _found(item: Item) -> Found:
    key = {name: item[name] for name in INDEX_KEY_ATTRIBUTES}
    try:
        return Found(key, to_refund(item))
    except UNREADABLE:
        return Found(key, None)


def _snapshot_if_readable(items: dict[tuple[str, str], Item], wanted: RefundRequest | RefundPointer) -> Snapshot | None:
    try:
        return _snapshot(items, wanted)
    except UnreadableItem:
        return None


def _codes(reasons: list[dict[str, Any]]) -> str:
    return ", ".join(str(reason.get("Code")) for reason in reasons)
