"""DynamoDB's client: reads, conditional writes, transactions, and reads that lag behind."""

# ruff: noqa: N803 - the arguments have the names that boto3 gives them

from __future__ import annotations

import re
from bisect import bisect_right
from collections import deque
from collections.abc import Callable, Hashable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import cache
from typing import Any

from testkit.emulator.clients import Refusal, exceptions_of, invalid, operation
from testkit.emulator.expressions import NOTHING, Expressions, Names, Values, check_placeholders, compiled
from testkit.emulator.fingerprints import Fingerprint
from testkit.emulator.tables import Index, Key, Position, Table, checked_key
from testkit.emulator.values import Item, stored


@dataclass(slots=True)
class _Write:
    """One action of a transaction, or a write of its own: checked, and not yet done."""

    table: Table
    key: Key
    after: Item | None  # None: the action writes nothing
    failed: dict[str, Any] | None  # the reason not to do it


_CONDITION_FAILED = "The conditional request failed"
_NO_REASON = {"Code": "None"}
# How far a read that does not ask for more may lag behind: some writes, as far as anybody here can tell.
LAG_WRITES = 5


class Dynamo:
    """DynamoDB tables with the keys pk and sk; `tables` gives each one's indexes, a hash and a range attribute each.

    `page_size`: as many items as a page of a query or scan holds at most, as AWS ends a page by its size; and a batch
    of gets leaves the keys after so many unprocessed, as AWS may too. It can be changed at any time.
    """

    def __init__(self, tables: Mapping[str, Mapping[str, tuple[str, str]]], *, page_size: int | None = None) -> None:
        self.page_size = page_size
        self._tables = {name: Table(name, indexes) for name, indexes in tables.items()}
        self._fingerprint: Fingerprint[tuple[str, Key]] = Fingerprint(self._look)
        # What the last writes took the place of, the latest one last.
        self._replaced: deque[tuple[tuple[str, Key, Item | None], ...]] = deque(maxlen=LAG_WRITES)

    @property
    def exceptions(self) -> Any:
        return exceptions_of("dynamodb")

    def snapshot(self) -> Hashable:
        return self._fingerprint.value()

    def savepoint(self) -> Callable[[], None]:
        """What takes back every write after it, whenever it is called."""
        rollbacks = [self._fingerprint.savepoint(), *(table.savepoint() for table in self._tables.values())]
        replaced = self._replaced.copy()

        def rollback() -> None:
            call_all(rollbacks)
            self._replaced = replaced.copy()

        return rollback

    # ---- what a read may say that does not ask for consistency

    def behind[R](self, writes: int, read: Callable[[], R]) -> R:
        """The answer as it was before so many of the last writes, LAG_WRITES at most."""
        rollbacks = [table.savepoint() for table in self._tables.values()]
        for replaced in [*reversed(self._replaced)][:writes]:
            for name, key, before in replaced:
                self._tables[name].write(key, before)
        try:
            return read()
        finally:
            call_all(rollbacks)

    def history(self, writes: int) -> Hashable:
        """What `behind` so many writes can tell beside the snapshot."""
        return repr([*self._replaced][-writes:])

    def items(self, table: str) -> Iterator[Item]:
        """Everything in the table, for whoever checks it: no call of the client's."""
        for partition in self._tables[table].partitions.values():
            yield from partition.values()

    # ---- reading

    @operation("BatchGetItem")
    def batch_get_item(self, *, RequestItems: Mapping[str, Any]) -> dict[str, Any]:
        responses: dict[str, list[Item]] = {}
        unprocessed: dict[str, Any] = {}
        room = self.page_size or 100
        if sum(len(request["Keys"]) for request in RequestItems.values()) > 100:
            raise invalid("Too many items requested for the BatchGetItem call")
        for name, request in RequestItems.items():
            if not request.keys() <= {"Keys", "ConsistentRead"}:
                raise NotImplementedError(f"BatchGetItem with {sorted(request)}")
            table = self._table(name)
            keys = [checked_key(key) for key in request["Keys"]]
            if len(set(keys)) < len(keys):
                raise invalid("Provided list of item keys contains duplicates")
            found = responses[name] = []
            for key in keys[:room]:
                item = table.get(key)
                if item is not None:
                    found.append(item)
            if len(keys) > room:
                unprocessed[name] = {**request, "Keys": request["Keys"][room:]}
            room = max(0, room - len(keys))
        return {"Responses": responses, "UnprocessedKeys": unprocessed}

    @operation("Query")
    def query(
        self,
        *,
        TableName: str,
        KeyConditionExpression: str,
        ExpressionAttributeValues: Values,
        ExpressionAttributeNames: Names = NOTHING,
        IndexName: str | None = None,
        ConsistentRead: bool = False,
        Limit: int | None = None,
        ExclusiveStartKey: Item | None = None,
    ) -> dict[str, Any]:
        table, index = self._source(TableName, IndexName, ConsistentRead)
        hash_attribute = index.attributes[0] if index else "pk"
        target, placeholder = _key_condition(KeyConditionExpression)
        names = frozenset({target}) if target.startswith("#") else frozenset()
        check_placeholders("ExpressionAttributeNames", "attribute name", names, ExpressionAttributeNames.keys())
        check_placeholders(
            "ExpressionAttributeValues",
            "attribute value",
            frozenset({placeholder}),
            ExpressionAttributeValues.keys(),
        )
        if ExpressionAttributeNames.get(target, target) != hash_attribute:
            raise invalid(f"Query condition missed key schema element: {hash_attribute}")
        wanted = ExpressionAttributeValues[placeholder].get("S")
        if not wanted:
            raise invalid(f"A key attribute must be a non-empty string. Key: {hash_attribute}")
        entries: list[tuple[Position, Item]]
        if index:
            entries = list(index.groups.get(wanted, {}).items())
        else:
            entries = [((wanted, sk), item) for sk, item in table.partitions.get(wanted, {}).items()]
        start = self._start(index, ExclusiveStartKey)
        if start and start[0] != wanted:
            raise invalid("The provided starting key is outside query boundaries based on provided conditions")
        return self._page(index, entries, start, Limit)

    @operation("Scan")
    def scan(
        self,
        *,
        TableName: str,
        IndexName: str | None = None,
        ConsistentRead: bool = False,
        Limit: int | None = None,
        ExclusiveStartKey: Item | None = None,
    ) -> dict[str, Any]:
        """In the order of the keys, which is as good as AWS's, which is none."""
        table, index = self._source(TableName, IndexName, ConsistentRead)
        start = self._start(index, ExclusiveStartKey)
        entries: list[tuple[Position, Item]]
        if index:
            # No more than the page may hold, in an order that is kept: the bench reads 100,000 in pages.
            positions = index.in_order()
            first = bisect_right(positions, start) if start else 0
            wanted = positions[first : first + Limit] if Limit else positions[first:]
            entries = [(position, index.groups[position[0]][position]) for position in wanted]
        else:
            entries = [((pk, sk), item) for pk, group in table.partitions.items() for sk, item in group.items()]
        return self._page(index, entries, start, Limit)

    def _source(self, table_name: str, index_name: str | None, consistent: bool) -> tuple[Table, Index | None]:
        table = self._table(table_name)
        if index_name is None:
            return table, None
        if index_name not in table.indexes:
            raise invalid(f"The table does not have the specified index: {index_name}")
        if consistent:
            raise invalid("Consistent reads are not supported on global secondary indexes")
        return table, table.indexes[index_name]

    @staticmethod
    def _start(index: Index | None, key: Item | None) -> Position | None:
        if key is None:
            return None
        attributes = index.attributes if index else ("pk", "sk")
        if key.keys() != set(attributes) or not all(value.get("S") for value in key.values()):
            raise invalid("The provided starting key is invalid")
        return tuple(key[name]["S"] for name in attributes)

    def _page(
        self, index: Index | None, entries: list[tuple[Position, Item]], start: Position | None, limit: int | None
    ) -> dict[str, Any]:
        entries.sort(key=_position_of)
        if start:  # whether or not there still is an item there
            entries = entries[bisect_right(entries, start, key=_position_of) :]
        limit = min(limit or len(entries) + 1, self.page_size or len(entries) + 1)
        page = entries[:limit]
        answer = {"Items": [item for _, item in page], "Count": len(page), "ScannedCount": len(page)}
        if len(page) == limit:
            # Even if nothing comes after it: AWS stops at the limit, and does not look further.
            attributes = index.attributes if index else ("pk", "sk")
            answer["LastEvaluatedKey"] = {name: {"S": text} for name, text in zip(attributes, page[-1][0], strict=True)}
        return answer

    # ---- writing

    @operation("PutItem")
    def put_item(self, /, **request: Any) -> dict[str, Any]:
        self._write_alone(self._put(request))
        return {}

    @operation("UpdateItem")
    def update_item(self, /, **request: Any) -> dict[str, Any]:
        self._write_alone(self._update(request))
        return {}

    @operation("TransactWriteItems")
    def transact_write_items(self, *, TransactItems: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
        if not 0 < len(TransactItems) <= 100:
            raise invalid("Member must have length between 1 and 100")
        writes: list[_Write] = []
        failed = False
        for action in TransactItems:
            ((kind, request),) = action.items()
            if kind == "Put":
                write = self._put(request)
            elif kind == "Update":
                write = self._update(request)
            elif kind == "ConditionCheck":
                write = self._condition_check(request)
            else:
                raise NotImplementedError(f"the action {kind} in a transaction")
            failed = failed or write.failed is not None
            writes.append(write)
        if len({(write.table.name, write.key) for write in writes}) < len(writes):
            raise invalid("Transaction request cannot include multiple operations on one item")
        if failed:
            reasons = [write.failed or _NO_REASON for write in writes]
            codes = ", ".join(reason["Code"] for reason in reasons)
            message = f"Transaction cancelled, please refer cancellation reasons for specific reasons [{codes}]"
            raise Refusal("TransactionCanceledException", message, Message=message, CancellationReasons=reasons)
        self._write(writes)
        return {}

    def _put(self, request: Mapping[str, Any]) -> _Write:
        _check_arguments(request, _PUT_ARGUMENTS)
        table = self._table(request["TableName"])
        item, key = table.checked_item(request["Item"])
        return self._conditional(table, key, request, lambda *_: item)

    def _update(self, request: Mapping[str, Any]) -> _Write:
        _check_arguments(request, _UPDATE_ARGUMENTS)
        table = self._table(request["TableName"])
        key_attributes = request["Key"]

        def updated(before: Item | None, expressions: Expressions, names: Names, values: Values) -> Item:
            after = stored(expressions.applied(key_attributes if before is None else before, names, values))
            table.check_index_keys(after)
            return after

        return self._conditional(table, checked_key(key_attributes), request, updated)

    def _condition_check(self, request: Mapping[str, Any]) -> _Write:
        _check_arguments(request, _CHECK_ARGUMENTS)
        table = self._table(request["TableName"])
        return self._conditional(table, checked_key(request["Key"]), request, lambda *_: None)

    def _conditional(
        self,
        table: Table,
        key: Key,
        request: Mapping[str, Any],
        after: Callable[[Item | None, Expressions, Names, Values], Item | None],
    ) -> _Write:
        expressions = compiled(request.get("ConditionExpression"), request.get("UpdateExpression"))
        names: Names = request.get("ExpressionAttributeNames", NOTHING)
        values: Values = request.get("ExpressionAttributeValues", NOTHING)
        expressions.check(names, values)
        before = table.get(key)
        if expressions.condition and not expressions.condition(before or NOTHING, names, values):
            reason: dict[str, Any] = {"Code": "ConditionalCheckFailed", "Message": _CONDITION_FAILED}
            if before is not None and request.get("ReturnValuesOnConditionCheckFailure") == "ALL_OLD":
                reason["Item"] = before
            return _Write(table, key, None, reason)
        try:
            return _Write(table, key, after(before, expressions, names, values), None)
        except Refusal as refusal:
            # Found out on the stored item: in a transaction it is one item's reason, not the request's.
            return _Write(table, key, None, {"Code": "ValidationError", "Message": str(refusal)})

    def _write_alone(self, write: _Write) -> None:
        reason = write.failed
        if reason is None:
            self._write([write])
        elif reason["Code"] == "ConditionalCheckFailed":
            item = {"Item": reason["Item"]} if "Item" in reason else {}
            raise Refusal("ConditionalCheckFailedException", _CONDITION_FAILED, **item)
        else:
            raise invalid(reason["Message"])

    def _write(self, writes: Sequence[_Write]) -> None:
        """One request's, all at once."""
        done = [write for write in writes if write.after is not None]
        self._replaced.append(tuple((write.table.name, write.key, write.table.get(write.key)) for write in done))
        for write in done:
            write.table.write(write.key, write.after)
            self._fingerprint.changed.add((write.table.name, write.key))

    # ---- how

    def _table(self, name: str) -> Table:
        table = self._tables.get(name)
        if table is None:
            raise Refusal("ResourceNotFoundException", "Requested resource not found")
        return table

    def _look(self, part: tuple[str, Key]) -> str | None:
        table_name, key = part
        item = self._tables[table_name].get(key)
        if item is None:
            return None
        # Half the time that the repr of the whole takes.
        return ",".join(
            [f"{name} {kind} {text!r}" for name, value in sorted(item.items()) for kind, text in value.items()]
        )


_CONDITION_ARGUMENTS = frozenset(
    {
        "TableName",
        "ConditionExpression",
        "ExpressionAttributeNames",
        "ExpressionAttributeValues",
        "ReturnValuesOnConditionCheckFailure",
    }
)
_PUT_ARGUMENTS = _CONDITION_ARGUMENTS | {"Item"}
_CHECK_ARGUMENTS = _CONDITION_ARGUMENTS | {"Key"}
_UPDATE_ARGUMENTS = _CHECK_ARGUMENTS | {"UpdateExpression"}


def _check_arguments(request: Mapping[str, Any], known: frozenset[str]) -> None:
    if not request.keys() <= known:
        raise NotImplementedError(f"the arguments {sorted(request.keys() - known)}")


@cache
def _key_condition(expression: str) -> tuple[str, str]:
    """The attribute and the placeholder of `attribute = :value`, the one condition on keys that there is here."""
    match = re.fullmatch(r"\s*(#?\w+)\s*=\s*(:\w+)\s*", expression)
    if match is None:
        raise NotImplementedError(f"the key condition {expression!r}")
    return match[1], match[2]


def _position_of(entry: tuple[Position, Item]) -> Position:
    return entry[0]


def call_all(functions: Iterable[Callable[[], None]]) -> None:
    for function in functions:
        function()
