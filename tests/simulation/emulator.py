"""DynamoDB, SQS and Secrets Manager in memory: what the gateway uses of boto3's clients, in microseconds a call.

Only what the gateway's code calls is here, by the same names and with the same answers and exceptions. Whatever else is
asked for fails loudly (TypeError, NotImplementedError), so that no test rests on a guess. Where AWS's documentation and
moto differ, this follows AWS; test_emulator.py holds it to moto and names those differences.

A call is atomic as long as one thread at a time is in here, which is the simulation's scheduler's part. Items go in and
come out as they are, not copied: nobody may change them.
"""

# ruff: noqa: N803 - the arguments have the names that boto3 gives them

from __future__ import annotations

import operator
import re
from bisect import bisect_right
from collections import deque
from collections.abc import Callable, Hashable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from datetime import datetime
from decimal import Decimal, DecimalException
from functools import cache, wraps
from hashlib import blake2b, md5
from typing import Any, Concatenate, NoReturn, Protocol

from boto3.dynamodb.types import DYNAMODB_CONTEXT
from botocore.errorfactory import BaseClientExceptions, ClientExceptionsFactory
from botocore.exceptions import ClientError
from botocore.loaders import Loader
from botocore.model import ServiceModel

Value = Mapping[str, Any]  # in the low-level client's form: {"N": "100000"}
Item = Mapping[str, Value]


# ---- what all three share


class Refusal(Exception):
    """AWS says no; it leaves the client as the ClientError that botocore makes of it."""

    def __init__(self, code: str, message: str, **details: Any) -> None:
        super().__init__(message)
        self.code = code
        self.response = {"Error": {"Code": code, "Message": message}, **details}


def _invalid(message: str) -> Refusal:
    return Refusal("ValidationException", message)


@cache
def _exceptions_of(service: str) -> BaseClientExceptions:
    """The very classes that a client of the service has, from botocore's own model of it."""
    model = ServiceModel(Loader().load_service_model(service, "service-2"), service)
    return ClientExceptionsFactory().create_client_exceptions(model)


class _Client(Protocol):
    @property
    def exceptions(self) -> Any: ...


def _operation[C: _Client, **P, R](name: str) -> Callable[[Callable[Concatenate[C, P], R]], Callable[..., R]]:
    """A call that the client makes, by AWS's name for it."""

    def decorated(method: Callable[Concatenate[C, P], R]) -> Callable[..., R]:
        @wraps(method)
        def call(client: C, /, *args: P.args, **request: P.kwargs) -> R:
            try:
                return method(client, *args, **request)
            except Refusal as refusal:
                error: type[ClientError] = client.exceptions.from_code(refusal.code)
                raise error(refusal.response, name) from None  # type: ignore[arg-type]

        return call

    return decorated


class Fingerprint[K: Hashable]:
    """A digest of many parts, the same in every process; only what changed since the last time is looked at again.

    `look` gives all of a part as text, or None where it is gone.
    """

    def __init__(self, look: Callable[[K], str | None]) -> None:
        self.changed: set[K] = set()
        self._look = look
        self._parts: dict[K, int] = {}
        self._value = 0

    def value(self) -> int:
        for key in self.changed:
            part = self._look(key)
            digest = 0 if part is None else _digest(f"{key!r} {part}")
            # The parts' keys differ, so no two of them cancel each other out.
            self._value ^= self._parts.get(key, 0) ^ digest
            self._parts[key] = digest
        self.changed.clear()
        return self._value

    def savepoint(self) -> Callable[[], None]:
        value, parts = self.value(), dict(self._parts)

        def rollback() -> None:
            self._value, self._parts = value, dict(parts)
            self.changed.clear()

        return rollback


def _call_all(functions: Iterable[Callable[[], None]]) -> None:
    for function in functions:
        function()


def _digest(text: str) -> int:
    return int.from_bytes(blake2b(text.encode(), digest_size=16).digest())


# ---- DynamoDB: values and expressions

MAX_ITEM_BYTES = 400 * 1024
MAX_DIGITS = 38
MAX_KEY_BYTES = {"pk": 2048, "sk": 1024}
_PLAIN_NUMBER = re.compile(r"0|-?(?:[1-9][0-9]*|0(?=\.))(?:\.[0-9]*[1-9])?")


def _stored(item: Item) -> Item:
    """The item as it comes out again: zeros that say nothing trimmed off numbers, text that is nothing but text.

    Refuses an item that is too large.
    """
    size = 0
    changed: dict[str, Value] = {}
    for name, value in item.items():
        if "S" in value:
            content = value["S"]
            size += len(name) + len(content)
            if content.__class__ is not str:  # an enum's member
                changed[name] = {"S": str(content)}
        elif "N" in value:
            content = value["N"]
            size += len(name) + len(content)
            # The commonest numbers first: to tell them takes a third of the expression's time.
            plain = (content.isdecimal() and content[0] != "0") or _PLAIN_NUMBER.fullmatch(content)
            if not plain or len(content) > MAX_DIGITS:
                changed[name] = {"N": _number_text(_number(content))}
        elif "M" in value:
            changed[name] = {"M": _stored(value["M"])}
            size += len(repr(value))
        elif "BOOL" not in value:
            raise NotImplementedError(f"the attribute {name}: {value}")
    # A character is at most four bytes, so that only a large item is measured.
    if size * 4 > MAX_ITEM_BYTES and _bytes_of(item) > MAX_ITEM_BYTES:
        raise _invalid("Item size has exceeded the maximum allowed size")
    return {**item, **changed} if changed else item


def _bytes_of(item: Item) -> int:
    size = 0
    for name, value in item.items():
        ((kind, content),) = value.items()
        size += len(name.encode())
        if kind == "S":
            size += len(content.encode())
        elif kind == "M":
            size += 3 + len(content) + _bytes_of(content)
        else:
            size += len(str(content)) // 2 + 1  # a byte for about two digits, and one more
    return size


def _number(text: str) -> Decimal:
    try:
        number = DYNAMODB_CONTEXT.create_decimal(text)
    except DecimalException:
        number = Decimal("NaN")
    if not number.is_finite():
        raise _invalid(f"The parameter cannot be converted to a numeric value: {text}")
    return number


def _number_text(number: Decimal) -> str:
    return format(number.normalize(DYNAMODB_CONTEXT), "f") if number else "0"


type Names = Mapping[str, str]
type Values = Mapping[str, Value]
type Operand = Callable[[Item, Names, Values], Value | None]
type Condition = Callable[[Item, Names, Values], bool]
type Target = Callable[[Names], str]

_COMPARISONS: dict[str, Callable[[Any, Any], bool]] = {
    "=": operator.eq,
    "<>": operator.ne,
    "<": operator.lt,
    "<=": operator.le,
    ">": operator.gt,
    ">=": operator.ge,
}
_TOKEN = re.compile(r"\s*([#:]?[A-Za-z_][A-Za-z0-9_]*|<>|<=|>=|[=<>+\-(),]|$)")
_NOTHING: Mapping[str, Any] = {}


@dataclass(frozen=True)
class Expressions:
    """What one request says in expressions, compiled; each kind of request only once."""

    condition: Condition | None
    assignments: tuple[tuple[Target, Operand], ...]
    names: frozenset[str]  # the placeholders in them, which the request must define, and no others
    values: frozenset[str]

    def check(self, names: Names, values: Values) -> None:
        _check_placeholders("ExpressionAttributeNames", "attribute name", self.names, names.keys())
        _check_placeholders("ExpressionAttributeValues", "attribute value", self.values, values.keys())

    def applied(self, item: Item, names: Names, values: Values) -> Item:
        """The item after the update; every operand is as it was before."""
        changes: dict[str, Value] = {}
        for target, operand in self.assignments:
            name = target(names)
            if name in changes:
                raise _invalid(f"Two document paths overlap with each other: [{name}]")
            if name in MAX_KEY_BYTES:
                raise _invalid(f"Cannot update attribute {name}. This attribute is part of the key")
            value = operand(item, names, values)
            if value is None:
                raise _invalid("The provided expression refers to an attribute that does not exist in the item")
            changes[name] = value
        return {**item, **changes}


def _check_placeholders(argument: str, what: str, used: frozenset[str], given: Any) -> None:
    if given == used:
        return
    if missing := sorted(used - given):
        raise _invalid(f"An expression {what} used in expression is not defined; {what}: {missing[0]}")
    unused = ", ".join(sorted(given - used))
    raise _invalid(f"Value provided in {argument} unused in expressions: keys: {{{unused}}}")


@cache
def _compiled(condition: str | None, update: str | None) -> Expressions:
    names: set[str] = set()
    values: set[str] = set()
    compiled_condition = _Parser(condition, names, values).condition() if condition is not None else None
    assignments = _Parser(update, names, values).assignments() if update is not None else ()
    return Expressions(compiled_condition, assignments, frozenset(names), frozenset(values))


class _Parser:
    """Recursive descent over one expression.

    condition    term { AND term }
    term         attribute_exists ( path )  |  attribute_not_exists ( path )  |  operand comparison operand
    assignments  SET path = operand [ + operand | - operand ] { , … }
    operand      path | :value
    path         name | #name
    """

    def __init__(self, text: str, names: set[str], values: set[str]) -> None:
        self._text = text
        self._tokens = list(self._tokenized(text))
        self._names = names
        self._values = values

    def condition(self) -> Condition:
        terms = [self._term()]
        while self._tokens[0].upper() == "AND":
            self._next()
            terms.append(self._term())
        self._expect("")
        return terms[0] if len(terms) == 1 else _conjunction(tuple(terms))

    def assignments(self) -> tuple[tuple[Target, Operand], ...]:
        if self._next().upper() != "SET":
            self._not_understood("only SET")
        assignments = [self._assignment()]
        while self._tokens[0] == ",":
            self._next()
            assignments.append(self._assignment())
        self._expect("")
        return tuple(assignments)

    def _term(self) -> Condition:
        if self._tokens[1] == "(":
            function = self._next()
            self._expect("(")
            target = self._path()
            self._expect(")")
            if function == "attribute_exists":
                return lambda item, names, _: target(names) in item
            if function == "attribute_not_exists":
                return lambda item, names, _: target(names) not in item
            self._not_understood(function)
        left = self._operand()
        comparison = self._next()
        if comparison not in _COMPARISONS:
            self._not_understood(comparison)
        return _comparison(_COMPARISONS[comparison], left, self._operand())

    def _assignment(self) -> tuple[Target, Operand]:
        target = self._path()
        self._expect("=")
        value = self._operand()
        if self._tokens[0] in ("+", "-"):
            sign = DYNAMODB_CONTEXT.add if self._next() == "+" else DYNAMODB_CONTEXT.subtract
            value = _arithmetic(sign, value, self._operand())
        return target, value

    def _operand(self) -> Operand:
        if self._tokens[0].startswith(":"):
            placeholder = self._next()
            self._values.add(placeholder)
            return lambda _, __, values: values[placeholder]
        if self._tokens[0].startswith("#"):
            target = self._path()
            return lambda item, names, _: item.get(target(names))
        name = self._word()
        return lambda item, _, __: item.get(name)

    def _path(self) -> Target:
        if self._tokens[0].startswith("#"):
            placeholder = self._next()
            self._names.add(placeholder)
            return lambda names: names[placeholder]
        name = self._word()
        return lambda _: name

    def _word(self) -> str:
        word = self._next()
        if not word.isidentifier():
            self._not_understood(word)
        return word

    def _next(self) -> str:
        return self._tokens.pop(0)

    def _expect(self, token: str) -> None:
        if self._tokens[0] != token:
            self._not_understood(self._tokens[0])
        self._next()

    def _tokenized(self, text: str) -> Iterator[str]:
        position = 0
        while position < len(text):
            match = _TOKEN.match(text, position)
            if match is None:
                self._not_understood(text[position:])
            position = match.end()
            if match[1]:
                yield match[1]
        yield from ("", "")  # the end, and what a look one further ahead finds there

    def _not_understood(self, token: str) -> NoReturn:
        raise NotImplementedError(f"{token or 'the end'!r} in the expression {self._text!r}")


def _conjunction(terms: tuple[Condition, ...]) -> Condition:
    def holds(item: Item, names: Names, values: Values) -> bool:
        for term in terms:  # noqa: SIM110 - all() over a generator takes twice the time
            if not term(item, names, values):
                return False
        return True

    return holds


def _comparison(compare: Callable[[Any, Any], bool], left: Operand, right: Operand) -> Condition:
    is_ordering = compare not in (operator.eq, operator.ne)

    def holds(item: Item, names: Names, values: Values) -> bool:
        one, other = left(item, names, values), right(item, names, values)
        if one is None or other is None:
            return compare is operator.ne  # what is not there is not equal to anything
        ((kind, content),) = one.items()
        ((other_kind, other_content),) = other.items()
        if kind != other_kind:
            return compare is operator.ne
        if kind == "N":
            return compare(Decimal(content), Decimal(other_content))
        if is_ordering and kind != "S":
            raise _invalid(f"Incorrect operand type for operator or function; operand type: {kind}")
        return compare(content, other_content)  # texts by code points, which is the order of their UTF-8 too

    return holds


def _arithmetic(sign: Callable[[Decimal, Decimal], Decimal], left: Operand, right: Operand) -> Operand:
    def result(item: Item, names: Names, values: Values) -> Value | None:
        one, other = left(item, names, values), right(item, names, values)
        if one is None or other is None:
            return None
        if "N" not in one or "N" not in other:
            raise _invalid("An operand in the update expression has an incorrect data type")
        try:
            return {"N": _number_text(sign(_number(one["N"]), _number(other["N"])))}
        except DecimalException:
            raise _invalid("Number overflow. Attempting to store a number beyond 38 digits") from None

    return result


# ---- DynamoDB: tables

type Key = tuple[str, str]  # partition key, sort key
type Position = tuple[str, ...]  # of an item in its table or index: (pk, sk) or (hash, range, pk, sk)


class _Index:
    """A sparse index: the items that have both of its attributes, those of one hash key together."""

    def __init__(self, hash_attribute: str, range_attribute: str) -> None:
        self._hash = hash_attribute
        self._range = range_attribute
        self.attributes = (hash_attribute, range_attribute, "pk", "sk")  # what a position is made of
        self.groups: dict[str, dict[Position, Item]] = {}

    def position(self, item: Item, key: Key) -> Position | None:
        one = item.get(self._hash)
        other = item.get(self._range)
        return None if one is None or other is None else (one["S"], other["S"], *key)


class _Table:
    def __init__(self, name: str, indexes: Mapping[str, tuple[str, str]]) -> None:
        self.name = name
        self.partitions: dict[str, dict[str, Item]] = {}
        self.indexes = {index: _Index(*attributes) for index, attributes in indexes.items()}
        self._index_attributes = tuple({name for attributes in indexes.values() for name in attributes})

    def get(self, key: Key) -> Item | None:
        partition = self.partitions.get(key[0])
        return partition.get(key[1]) if partition else None

    def write(self, key: Key, item: Item | None) -> None:
        """None: it is gone, as it was before it was first written."""
        partition = self.partitions.setdefault(key[0], {})
        before = partition.pop(key[1], None) if item is None else partition.get(key[1])
        if item is not None:
            partition[key[1]] = item
        for index in self.indexes.values():
            if before is not None and (position := index.position(before, key)):
                group = index.groups[position[0]]
                del group[position]
                if not group:
                    del index.groups[position[0]]
            if item is not None and (position := index.position(item, key)):
                index.groups.setdefault(position[0], {})[position] = item

    def savepoint(self) -> Callable[[], None]:
        partitions = _copied(self.partitions)
        groups = [(index, _copied(index.groups)) for index in self.indexes.values()]

        def rollback() -> None:
            self.partitions = _copied(partitions)
            for index, copied in groups:
                index.groups = _copied(copied)

        return rollback

    def checked_item(self, item: Item) -> tuple[Item, Key]:
        """The item as it is stored, and its key."""
        key = _key_of(item, "One or more parameter values were invalid: Missing the key {} in the item")
        self.check_index_keys(item)
        return _stored(item), key

    def check_index_keys(self, item: Item) -> None:
        for name in self._index_attributes:
            value = item.get(name)
            if value is not None and not value.get("S"):
                raise _invalid(
                    "One or more parameter values are not valid. A value specified for a secondary index key is not "
                    f"supported: a non-empty string is expected. IndexKey: {name}"
                )


def _copied[K, P](groups: Mapping[str, dict[K, P]]) -> dict[str, dict[K, P]]:
    return {name: dict(group) for name, group in groups.items()}


def _checked_key(attributes: Item) -> Key:
    if len(attributes) != 2:
        raise _invalid("The provided key element does not match the schema")
    return _key_of(attributes, "The provided key element does not match the schema")


def _key_of(attributes: Item, missing: str) -> Key:
    try:
        pk, sk = attributes["pk"]["S"], attributes["sk"]["S"]
    except KeyError as error:
        if error.args == ("S",):
            raise _invalid("One or more parameter values were invalid: Type mismatch for key, expected: S") from None
        raise _invalid(missing.format(error.args[0])) from None
    if not pk or not sk:
        raise _invalid(
            "One or more parameter values are not valid. The AttributeValue for a key attribute cannot contain an "
            "empty string value"
        )
    for name, text in (("pk", pk), ("sk", sk)):
        if len(text) * 4 > MAX_KEY_BYTES[name] and len(text.encode()) > MAX_KEY_BYTES[name]:
            raise _invalid(f"Size of {name} has exceeded the maximum size limit of {MAX_KEY_BYTES[name]} bytes")
    return pk, sk


@dataclass(slots=True)
class _Write:
    """One action of a transaction, or a write of its own: checked, and not yet done."""

    table: _Table
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
        self._tables = {name: _Table(name, indexes) for name, indexes in tables.items()}
        self._fingerprint: Fingerprint[tuple[str, Key]] = Fingerprint(self._look)
        # What the last writes took the place of, the latest one last.
        self._replaced: deque[tuple[tuple[str, Key, Item | None], ...]] = deque(maxlen=LAG_WRITES)

    @property
    def exceptions(self) -> Any:
        return _exceptions_of("dynamodb")

    def snapshot(self) -> Hashable:
        return self._fingerprint.value()

    def savepoint(self) -> Callable[[], None]:
        """What takes back every write after it, whenever it is called."""
        rollbacks = [self._fingerprint.savepoint(), *(table.savepoint() for table in self._tables.values())]
        replaced = self._replaced.copy()

        def rollback() -> None:
            _call_all(rollbacks)
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
            _call_all(rollbacks)

    def history(self, writes: int) -> Hashable:
        """What `behind` so many writes can tell beside the snapshot."""
        return repr([*self._replaced][-writes:])

    def items(self, table: str) -> Iterator[Item]:
        """Everything in the table, for whoever checks it: no call of the client's."""
        for partition in self._tables[table].partitions.values():
            yield from partition.values()

    # ---- reading

    @_operation("BatchGetItem")
    def batch_get_item(self, *, RequestItems: Mapping[str, Any]) -> dict[str, Any]:
        responses: dict[str, list[Item]] = {}
        unprocessed: dict[str, Any] = {}
        room = self.page_size or 100
        if sum(len(request["Keys"]) for request in RequestItems.values()) > 100:
            raise _invalid("Too many items requested for the BatchGetItem call")
        for name, request in RequestItems.items():
            if not request.keys() <= {"Keys", "ConsistentRead"}:
                raise NotImplementedError(f"BatchGetItem with {sorted(request)}")
            table = self._table(name)
            keys = [_checked_key(key) for key in request["Keys"]]
            if len(set(keys)) < len(keys):
                raise _invalid("Provided list of item keys contains duplicates")
            found = responses[name] = []
            for key in keys[:room]:
                item = table.get(key)
                if item is not None:
                    found.append(item)
            if len(keys) > room:
                unprocessed[name] = {**request, "Keys": request["Keys"][room:]}
            room = max(0, room - len(keys))
        return {"Responses": responses, "UnprocessedKeys": unprocessed}

    @_operation("Query")
    def query(
        self,
        *,
        TableName: str,
        KeyConditionExpression: str,
        ExpressionAttributeValues: Values,
        ExpressionAttributeNames: Names = _NOTHING,
        IndexName: str | None = None,
        ConsistentRead: bool = False,
        Limit: int | None = None,
        ExclusiveStartKey: Item | None = None,
    ) -> dict[str, Any]:
        table, index = self._source(TableName, IndexName, ConsistentRead)
        hash_attribute = index.attributes[0] if index else "pk"
        target, placeholder = _key_condition(KeyConditionExpression)
        names = frozenset({target}) if target.startswith("#") else frozenset()
        _check_placeholders("ExpressionAttributeNames", "attribute name", names, ExpressionAttributeNames.keys())
        _check_placeholders(
            "ExpressionAttributeValues",
            "attribute value",
            frozenset({placeholder}),
            ExpressionAttributeValues.keys(),
        )
        if ExpressionAttributeNames.get(target, target) != hash_attribute:
            raise _invalid(f"Query condition missed key schema element: {hash_attribute}")
        wanted = ExpressionAttributeValues[placeholder].get("S")
        if not wanted:
            raise _invalid(f"A key attribute must be a non-empty string. Key: {hash_attribute}")
        entries: list[tuple[Position, Item]]
        if index:
            entries = list(index.groups.get(wanted, {}).items())
        else:
            entries = [((wanted, sk), item) for sk, item in table.partitions.get(wanted, {}).items()]
        start = self._start(index, ExclusiveStartKey)
        if start and start[0] != wanted:
            raise _invalid("The provided starting key is outside query boundaries based on provided conditions")
        return self._page(index, entries, start, Limit)

    @_operation("Scan")
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
        entries: list[tuple[Position, Item]]
        if index:
            entries = [entry for group in index.groups.values() for entry in group.items()]
        else:
            entries = [((pk, sk), item) for pk, group in table.partitions.items() for sk, item in group.items()]
        return self._page(index, entries, self._start(index, ExclusiveStartKey), Limit)

    def _source(self, table_name: str, index_name: str | None, consistent: bool) -> tuple[_Table, _Index | None]:
        table = self._table(table_name)
        if index_name is None:
            return table, None
        if index_name not in table.indexes:
            raise _invalid(f"The table does not have the specified index: {index_name}")
        if consistent:
            raise _invalid("Consistent reads are not supported on global secondary indexes")
        return table, table.indexes[index_name]

    @staticmethod
    def _start(index: _Index | None, key: Item | None) -> Position | None:
        if key is None:
            return None
        attributes = index.attributes if index else ("pk", "sk")
        if key.keys() != set(attributes) or not all(value.get("S") for value in key.values()):
            raise _invalid("The provided starting key is invalid")
        return tuple(key[name]["S"] for name in attributes)

    def _page(
        self, index: _Index | None, entries: list[tuple[Position, Item]], start: Position | None, limit: int | None
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

    @_operation("PutItem")
    def put_item(self, /, **request: Any) -> dict[str, Any]:
        self._write_alone(self._put(request))
        return {}

    @_operation("UpdateItem")
    def update_item(self, /, **request: Any) -> dict[str, Any]:
        self._write_alone(self._update(request))
        return {}

    @_operation("TransactWriteItems")
    def transact_write_items(self, *, TransactItems: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
        if not 0 < len(TransactItems) <= 100:
            raise _invalid("Member must have length between 1 and 100")
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
            raise _invalid("Transaction request cannot include multiple operations on one item")
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
            after = _stored(expressions.applied(key_attributes if before is None else before, names, values))
            table.check_index_keys(after)
            return after

        return self._conditional(table, _checked_key(key_attributes), request, updated)

    def _condition_check(self, request: Mapping[str, Any]) -> _Write:
        _check_arguments(request, _CHECK_ARGUMENTS)
        table = self._table(request["TableName"])
        return self._conditional(table, _checked_key(request["Key"]), request, lambda *_: None)

    def _conditional(
        self,
        table: _Table,
        key: Key,
        request: Mapping[str, Any],
        after: Callable[[Item | None, Expressions, Names, Values], Item | None],
    ) -> _Write:
        expressions = _compiled(request.get("ConditionExpression"), request.get("UpdateExpression"))
        names: Names = request.get("ExpressionAttributeNames", _NOTHING)
        values: Values = request.get("ExpressionAttributeValues", _NOTHING)
        expressions.check(names, values)
        before = table.get(key)
        if expressions.condition and not expressions.condition(before or _NOTHING, names, values):
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
            raise _invalid(reason["Message"])

    def _write(self, writes: Sequence[_Write]) -> None:
        """One request's, all at once."""
        done = [write for write in writes if write.after is not None]
        self._replaced.append(tuple((write.table.name, write.key, write.table.get(write.key)) for write in done))
        for write in done:
            write.table.write(write.key, write.after)
            self._fingerprint.changed.add((write.table.name, write.key))

    # ---- how

    def _table(self, name: str) -> _Table:
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


# ---- SQS

DEAD_LETTER_VISIBILITY_SECONDS = 30  # SQS's own default, which that queue keeps
ALL = ("All",)
MAX_DELAY_SECONDS = 900
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
        sender_id: str = "AIDAGATEWAY",
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
        return _exceptions_of("sqs")

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

    @_operation("SendMessage")
    def send_message(
        self,
        *,
        QueueUrl: str,
        MessageBody: str,
        DelaySeconds: int = 0,
        MessageAttributes: Mapping[str, Mapping[str, str]] = _NOTHING,
    ) -> dict[str, Any]:
        if not 0 <= DelaySeconds <= MAX_DELAY_SECONDS:
            raise Refusal("InvalidParameterValue", f"Value {DelaySeconds} for parameter DelaySeconds is invalid")
        message = self._send(QueueUrl, MessageBody, MessageAttributes, self.sender_id, DelaySeconds)
        return {"MessageId": message.message_id, "MD5OfMessageBody": _md5(MessageBody)}

    @_operation("ReceiveMessage")
    def receive_message(
        self,
        *,
        QueueUrl: str,
        MaxNumberOfMessages: int = 1,
        VisibilityTimeout: int | None = None,
        WaitTimeSeconds: int = 0,  # never waited: the clock stands still during a call
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

    @_operation("DeleteMessage")
    def delete_message(self, *, QueueUrl: str, ReceiptHandle: str) -> dict[str, Any]:
        """Done with the latest handle only; with an earlier one, or when it is gone, it succeeds and does nothing."""
        queue = self._queue(QueueUrl)
        message = queue.messages.get(_message_id(ReceiptHandle))
        if message is not None and message.receipt_handle == ReceiptHandle:
            del queue.messages[message.message_id]
            self._fingerprint.changed.add((QueueUrl, message.message_id))
        return {}

    @_operation("ChangeMessageVisibility")
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


def _md5(text: str) -> str:
    return md5(text.encode(), usedforsecurity=False).hexdigest()


# ---- Secrets Manager


class Secrets:
    """Secrets by name, each with the value before the last rotation as AWSPREVIOUS."""

    def __init__(self, values: Mapping[str, str]) -> None:
        self._versions = {name: [text] for name, text in values.items()}
        self._fingerprint: Fingerprint[str] = Fingerprint(self._look)
        self._fingerprint.changed.update(self._versions)

    @property
    def exceptions(self) -> Any:
        return _exceptions_of("secretsmanager")

    def snapshot(self) -> Hashable:
        return self._fingerprint.value()

    def rotate(self, name: str, text: str) -> None:
        self._versions[name].append(text)
        self._fingerprint.changed.add(name)

    @_operation("GetSecretValue")
    def get_secret_value(self, *, SecretId: str, VersionStage: str = "AWSCURRENT") -> dict[str, Any]:
        versions = self._versions.get(SecretId)
        if versions is None:
            raise Refusal("ResourceNotFoundException", "Secrets Manager can't find the specified secret.")
        age = {"AWSCURRENT": 1, "AWSPREVIOUS": 2}.get(VersionStage)
        if age is None or age > len(versions):
            raise Refusal(
                "ResourceNotFoundException",
                f"Secrets Manager can't find the specified secret value for staging label: {VersionStage}",
            )
        return {
            "ARN": f"arn:aws:secretsmanager:ap-southeast-3:123456789012:secret:{SecretId}-000000",
            "Name": SecretId,
            "VersionId": f"00000000-0000-4000-8000-{len(versions) - age + 1:012}",
            "SecretString": versions[-age],
            "VersionStages": [VersionStage],
        }

    def _look(self, name: str) -> str:
        return repr(self._versions[name])
