"""The emulator answers as moto does, and as AWS's documentation says where moto does not."""

from __future__ import annotations

import json
import time
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from decimal import Decimal
from enum import StrEnum
from typing import Any

import pytest
from botocore.exceptions import ClientError
from hypothesis import HealthCheck, Phase, given, settings
from hypothesis import strategies as st

from devstack.aws import AwsServer, client, provision
from devstack.template import Template
from gateway.runtime.settings import Settings
from testkit.emulator import Dynamo, Secrets, Sqs

INDEX = "open-refunds"
KEY = {"pk": {"S": "m1#A"}, "sk": {"S": "ORDER"}}
OTHER_KEY = {"pk": {"S": "m1#A"}, "sk": {"S": "REFUND#1"}}
ALL_OLD = {"ReturnValuesOnConditionCheckFailure": "ALL_OLD"}
MAX_RECEIVE_COUNT = 2
QUEUE, DEAD_LETTERS = "https://sqs/refunds", "https://sqs/dead-letters"


@dataclass(frozen=True)
class Both:
    """moto with the template's tables, and the emulator with the same."""

    moto: Any
    tables: Mapping[str, Mapping[str, tuple[str, str]]]
    ledger: str

    def emptied(self) -> Dynamo:
        for item in self.moto.scan(TableName=self.ledger)["Items"]:
            self.moto.delete_item(TableName=self.ledger, Key={"pk": item["pk"], "sk": item["sk"]})
        return Dynamo(self.tables)


@pytest.fixture(scope="module")
def both(aws: AwsServer, template: Template) -> Both:
    stack = Template(
        template.document, stack_name="emulator", endpoint_url=aws.url, overrides=dict(template.parameters)
    )
    model = stack.model(provision(stack.model(), aws.url, {}))
    tables = {}
    for table in model.tables.values():
        indexes = table.definition.get("GlobalSecondaryIndexes", [])
        tables[table.name] = {index["IndexName"]: _key_names(index["KeySchema"]) for index in indexes}
        assert _key_names(table.definition["KeySchema"]) == ("pk", "sk")
    return Both(client("dynamodb", aws.url), tables, Settings.from_environment(model.environment()).ledger_table)


def _key_names(schema: list[dict[str, str]]) -> tuple[str, str]:
    by_type = {key["KeyType"]: key["AttributeName"] for key in schema}
    return by_type["HASH"], by_type["RANGE"]


# ---- what an operation came to, in a form that can be compared


def outcome(dynamodb: Any, operation: str, arguments: dict[str, Any]) -> Any:
    try:
        answer = dict(getattr(dynamodb, operation)(**arguments))
    except ClientError as error:
        response: Any = error.response
        return plain(
            (
                type(error).__name__,
                error.operation_name,
                response["Error"]["Code"],
                response.get("Item"),
                response.get("CancellationReasons"),
            )
        )
    for unasked in ("ResponseMetadata", "ConsumedCapacity", "ItemCollectionMetrics"):  # as moto gives them
        answer.pop(unasked, None)
    return plain(answer)


def plain(value: Any) -> Any:
    """Numbers as numbers: moto keeps them as they were written."""
    if isinstance(value, dict):
        return {name: Decimal(part) if name == "N" else plain(part) for name, part in value.items()}
    return [plain(part) for part in value] if isinstance(value, list | tuple) else value


def pages(dynamodb: Any, operation: str, arguments: dict[str, Any]) -> Iterator[Any]:
    start: dict[str, Any] = {}
    while True:
        answer = outcome(dynamodb, operation, {**arguments, **start})
        yield answer
        if "LastEvaluatedKey" not in answer:
            return
        start = {"ExclusiveStartKey": answer["LastEvaluatedKey"]}


def everything(dynamodb: Any, table: str) -> Any:
    items = [item for page in pages(dynamodb, "scan", {"TableName": table}) for item in page["Items"]]
    return sorted(items, key=lambda item: (item["pk"]["S"], item["sk"]["S"]))


# ---- the operations that the gateway makes, on so few keys and values that they get in each other's way


small = st.integers(1, 2).map(lambda number: {"N": str(number)})
amounts = st.sampled_from(["-1", "0", "1", "1.00", "2.5", "10"]).map(lambda number: {"N": number})
statuses = st.sampled_from(["QUEUED", "UNKNOWN"]).map(lambda status: {"S": status})
times = st.sampled_from(["t1", "t2", "t3"]).map(lambda at: {"S": at})
open_keys = st.sampled_from(["m1#QUEUED", "m1#UNKNOWN"]).map(lambda key: {"S": key})
keys = st.builds(
    lambda pk, sk: {"pk": {"S": pk}, "sk": {"S": sk}},
    st.sampled_from(["m1#A", "m1#B"]),
    st.sampled_from(["ORDER", "REFUND#1", "REFUND#2"]),
)
SUMS = {"refundable": amounts, "reserved": amounts, "refunded": amounts}
COUNTERS = {"status": statuses, "version": small, "attempts": small}
MORE = {
    "ambiguous": st.booleans().map(lambda value: {"BOOL": value}),
    "note": st.text(max_size=3).map(lambda text: {"S": text}),
    "evidence": st.dictionaries(st.sampled_from(["source", "reference"]), times, max_size=2).map(lambda m: {"M": m}),
    "openKey": open_keys,
    "openSince": times,
}
# Mostly with all that the expressions speak of, so that they hold often enough; now and then with little.
bodies = st.one_of(
    st.fixed_dictionaries({**SUMS, **COUNTERS}, optional=MORE),
    st.fixed_dictionaries(COUNTERS, optional={**SUMS, **MORE}),
    st.fixed_dictionaries({}, optional={**SUMS, **COUNTERS, **MORE}),
)
items = st.builds(lambda key, body: {**key, **body}, keys, bodies)
# A condition or an update, and the values that it takes.
CONDITIONS = {
    "attribute_not_exists(pk)": {},
    "attribute_exists ( pk ) and attribute_not_exists(openKey)": {},
    "#status = :status AND version = :version": {":status": statuses, ":version": small},
    "version = :version AND attempts = :seen": {":version": small, ":seen": small},
    "refundable = :needed": {":needed": amounts},
    "refundable >= :needed": {":needed": amounts},
    "reserved>=:needed": {":needed": amounts},
    "#status <> :status": {":status": statuses},
    "version < :version": {":version": small},
    "attempts <= :seen AND version > :version": {":seen": small, ":version": small},
    "refundable > reserved": {},
}
UPDATES = {
    "SET refundable = refundable + :refundable, reserved = reserved + :reserved, refunded = refunded + :refunded": {
        ":refundable": amounts,
        ":reserved": amounts,
        ":refunded": amounts,
    },
    "SET nextAttemptAt = :until, attempts = :attempts": {":until": times, ":attempts": small},
    "SET #status = :to, version = version + :one": {":to": statuses, ":one": st.just({"N": "1"})},
    "SET refundable = refundable - :less, reserved = refundable": {":less": amounts},
}


@st.composite
def written(draw: st.DrawFn, table: str, kind: str) -> dict[str, Any]:
    """The arguments of one write, with a condition or, now and then, without."""
    request: dict[str, Any] = {"TableName": table}
    used = []
    if kind == "Put":
        request["Item"] = draw(items)
    else:
        request["Key"] = draw(keys)
    if kind == "Update":
        used.append((request.setdefault("UpdateExpression", draw(st.sampled_from([*UPDATES]))), UPDATES))
    if kind == "ConditionCheck" or draw(st.integers(0, 3)):
        used.append((request.setdefault("ConditionExpression", draw(st.sampled_from([*CONDITIONS]))), CONDITIONS))
        request |= draw(st.sampled_from([ALL_OLD, {}]))
    values = {name: draw(strategy) for text, known in used for name, strategy in known[text].items()}
    if values:
        request["ExpressionAttributeValues"] = values
    if any("#status" in text for text, _ in used):
        request["ExpressionAttributeNames"] = {"#status": "status"}
    return request


def operations(table: str) -> st.SearchStrategy[tuple[str, dict[str, Any]]]:
    action = st.sampled_from(["Put", "Put", "Update", "Update", "ConditionCheck"]).flatmap(
        lambda kind: written(table, kind).map(lambda request: {kind: request})
    )
    batch = st.lists(keys, min_size=1, max_size=3).map(
        lambda wanted: {"RequestItems": {table: {"Keys": wanted, "ConsistentRead": True}}}
    )
    return st.one_of(
        written(table, "Put").map(lambda request: ("put_item", request)),
        written(table, "Update").map(lambda request: ("update_item", request)),
        *[st.lists(action, min_size=1, max_size=3).map(lambda it: ("transact_write_items", {"TransactItems": it}))] * 3,
        batch.map(lambda request: ("batch_get_item", request)),
    )


def listings(table: str) -> Iterator[tuple[str, dict[str, Any]]]:
    """Every list that the gateway reads, a page of one at a time and of two, and as it comes."""
    for limit in ({"Limit": 1}, {"Limit": 2}, {}):
        for order in ("m1#A", "m1#B"):
            values = {":order": {"S": order}}
            yield (
                "query",
                {
                    "TableName": table,
                    "KeyConditionExpression": "pk = :order",
                    "ExpressionAttributeValues": values,
                    "ConsistentRead": True,
                    **limit,
                },
            )
        for open_key in ("m1#QUEUED", "m1#UNKNOWN"):
            values = {":key": {"S": open_key}}
            yield (
                "query",
                {
                    "TableName": table,
                    "IndexName": INDEX,
                    "KeyConditionExpression": "openKey = :key",
                    "ExpressionAttributeValues": values,
                    **limit,
                },
            )
        yield "scan", {"TableName": table, "IndexName": INDEX, **limit}
        yield "scan", {"TableName": table, **limit}


@settings(
    max_examples=30,
    deadline=None,
    derandomize=True,
    phases=[phase for phase in Phase if phase is not Phase.explain],  # which takes minutes
    suppress_health_check=[HealthCheck.too_slow],
)
@given(data=st.data())
def test_dynamodb_answers_as_moto_does(both: Both, data: st.DataObject) -> None:
    dynamo = both.emptied()
    for operation, arguments in data.draw(st.lists(operations(both.ledger), min_size=8, max_size=16)):
        ours = outcome(dynamo, operation, arguments)
        theirs = outcome(both.moto, operation, arguments)
        reasons = ours[4] if isinstance(ours, list) else None
        if reasons and "ValidationError" in [reason["Code"] for reason in reasons]:
            # AWS tells which item it was (see below); moto refuses the request.
            ours = ["ClientError", "TransactWriteItems", "ValidationException", None, None]
        assert ours == theirs, (operation, arguments)
    assert everything(dynamo, both.ledger) == everything(both.moto, both.ledger)

    for operation, arguments in listings(both.ledger) if data.draw(st.integers(0, 3)) == 0 else ():
        ours = [page["Items"] for page in pages(dynamo, operation, arguments)]
        theirs = [page["Items"] for page in pages(both.moto, operation, arguments)]
        # AWS may end with an empty page (see below), moto looks ahead.
        assert ours == theirs or (ours[-1] == [] and ours[:-1] == theirs), (operation, arguments)

    rebuilt = Dynamo(both.tables)
    for item in dynamo.items(both.ledger):
        rebuilt.put_item(TableName=both.ledger, Item=item)
    assert rebuilt.snapshot() == dynamo.snapshot()


REFUSED: dict[str, tuple[str, dict[str, Any]]] = {
    "the same item twice": ("transact_write_items", {"TransactItems": [{"Put": {"Item": KEY}}] * 2}),
    "the same item twice, in two ways": (
        "transact_write_items",
        {
            "TransactItems": [
                {"Put": {"Item": KEY}},
                {"ConditionCheck": {"Key": KEY, "ConditionExpression": "attribute_exists(pk)"}},
            ]
        },
    ),
    "a large item": ("put_item", {"Item": KEY | {"note": {"S": "x" * 410_000}}}),
    "a large item in a transaction": (
        "transact_write_items",
        {"TransactItems": [{"Put": {"Item": KEY | {"note": {"S": "x" * 410_000}}}}]},
    ),
    "an empty key": ("put_item", {"Item": KEY | {"pk": {"S": ""}}}),
    "an empty index key": ("put_item", {"Item": KEY | {"openKey": {"S": ""}, "openSince": {"S": "t1"}}}),
    "half a key": ("put_item", {"Item": {"pk": {"S": "m1#A"}}}),
    "half a key to update": (
        "update_item",
        {
            "Key": {"pk": {"S": "m1#A"}},
            "UpdateExpression": "SET note = :it",
            "ExpressionAttributeValues": {":it": {"S": "x"}},
        },
    ),
    "a key that is a number": ("put_item", {"Item": KEY | {"pk": {"N": "1"}}}),
    "a key's new value": (
        "update_item",
        {"Key": KEY, "UpdateExpression": "SET sk = :it", "ExpressionAttributeValues": {":it": {"S": "x"}}},
    ),
    "a sum with nothing": (
        "update_item",
        {"Key": KEY, "UpdateExpression": "SET a = a + :it", "ExpressionAttributeValues": {":it": {"N": "1"}}},
    ),
    "one attribute set twice": (
        "update_item",
        {"Key": KEY, "UpdateExpression": "SET a = :it, a = :it", "ExpressionAttributeValues": {":it": {"N": "1"}}},
    ),
    "a value that is not given": ("update_item", {"Key": KEY, "UpdateExpression": "SET a = :it"}),
    "a name that is not used": (
        "put_item",
        {
            "Item": KEY,
            "ConditionExpression": "attribute_exists(pk)",
            "ExpressionAttributeNames": {"#status": "status"},
        },
    ),
    "a query by another attribute": (
        "query",
        {"KeyConditionExpression": "openKey = :it", "ExpressionAttributeValues": {":it": {"S": "x"}}},
    ),
    "a query by nothing": (
        "query",
        {
            "IndexName": INDEX,
            "KeyConditionExpression": "openKey = :it",
            "ExpressionAttributeValues": {":it": {"S": ""}},
        },
    ),
    "a consistent read of an index": ("scan", {"IndexName": INDEX, "ConsistentRead": True}),
    "one key twice in a batch": ("batch_get_item", {"RequestItems": {"": {"Keys": [KEY, KEY]}}}),
}


def on_table(table: str, arguments: dict[str, Any]) -> dict[str, Any]:
    if "RequestItems" in arguments:
        return {"RequestItems": {table: arguments["RequestItems"][""]}}
    if "TransactItems" in arguments:
        actions = [
            {kind: {**it, "TableName": table}} for action in arguments["TransactItems"] for kind, it in action.items()
        ]
        return {"TransactItems": actions}
    return {**arguments, "TableName": table}


@pytest.mark.parametrize("what", REFUSED)
def test_dynamodb_refuses_what_moto_refuses(both: Both, what: str) -> None:
    operation, arguments = REFUSED[what]
    dynamo = both.emptied()
    ours = outcome(dynamo, operation, on_table(both.ledger, arguments))
    assert ours == outcome(both.moto, operation, on_table(both.ledger, arguments))
    assert ours[2] == "ValidationException"
    assert everything(dynamo, both.ledger) == []
    elsewhere = outcome(dynamo, operation, on_table("elsewhere", arguments))
    assert elsewhere[2] in ("ResourceNotFoundException", "ValidationException")


# ---- AWS's documentation, where moto does otherwise


@pytest.fixture
def dynamo() -> Dynamo:
    return Dynamo({"t": {INDEX: ("openKey", "openSince")}})


def code_of(call: Callable[..., Any], **arguments: Any) -> Any:
    with pytest.raises(ClientError) as caught:
        call(**arguments)
    return caught.value.response["Error"]["Code"]


def put(dynamo: Dynamo, *all_items: dict[str, Any]) -> None:
    for item in all_items:
        dynamo.put_item(TableName="t", Item=item)


def test_a_page_that_ends_at_its_limit_has_a_last_key_in_any_case(dynamo: Dynamo) -> None:
    put(dynamo, KEY, OTHER_KEY)
    sizes = [len(page["Items"]) for page in pages(dynamo, "scan", {"TableName": "t", "Limit": 2})]
    assert sizes == [2, 0]


def test_a_page_goes_on_where_its_last_item_was_though_that_is_gone(dynamo: Dynamo) -> None:
    opened = [
        {"pk": {"S": "m1#A"}, "sk": {"S": str(number)}, "openKey": {"S": "m1#QUEUED"}, "openSince": {"S": "t1"}}
        for number in range(3)
    ]
    put(dynamo, *opened)
    first = dynamo.scan(TableName="t", IndexName=INDEX, Limit=1)
    put(dynamo, {"pk": {"S": "m1#A"}, "sk": {"S": "0"}})  # it is no longer open
    rest = dynamo.scan(TableName="t", IndexName=INDEX, ExclusiveStartKey=first["LastEvaluatedKey"])
    assert (first["Items"], rest["Items"]) == (opened[:1], opened[1:])


def test_what_only_the_stored_item_shows_is_that_items_reason(dynamo: Dynamo) -> None:
    update = {"TableName": "t", "Key": KEY, "UpdateExpression": "SET a = a + :it"}
    actions = [
        {"Put": {"TableName": "t", "Item": OTHER_KEY}},
        {"Update": update | {"ExpressionAttributeValues": {":it": {"N": "1"}}}},
    ]
    with pytest.raises(dynamo.exceptions.TransactionCanceledException) as caught:
        dynamo.transact_write_items(TransactItems=actions)
    assert [reason["Code"] for reason in caught.value.response["CancellationReasons"]] == ["None", "ValidationError"]
    assert list(dynamo.items("t")) == []


def test_numbers_lose_the_zeros_that_say_nothing_and_text_is_text(dynamo: Dynamo) -> None:
    class Status(StrEnum):
        OPEN = "OPEN"

    numbers = {"1.50": "1.5", "1E+3": "1000", "-0": "0", "007": "7", "0.10": "0.1", "100000": "100000", "0": "0"}
    put(dynamo, KEY | {given_: {"N": given_} for given_ in numbers} | {"status": {"S": Status.OPEN}})
    (item,) = dynamo.items("t")
    assert {name: item[name]["N"] for name in numbers} == numbers
    assert type(item["status"]["S"]) is str


@pytest.mark.parametrize("condition", ["a > :it", "a >= :it", "a <> :it", ":it < a", "b = a", "b <= a"])
def test_numbers_are_compared_and_added_as_exact_numbers(dynamo: Dynamo, condition: str) -> None:
    put(dynamo, KEY | {"a": {"N": "10.1"}, "b": {"N": "10.10"}})
    dynamo.update_item(
        TableName="t",
        Key=KEY,
        UpdateExpression="SET a = a + :more, b = b - :less",
        ConditionExpression=condition,
        ExpressionAttributeValues={":more": {"N": "0.2"}, ":less": {"N": "10.1"}}
        | ({":it": {"N": "9"}} if ":it" in condition else {}),
    )
    assert list(dynamo.items("t")) == [KEY | {"a": {"N": "10.3"}, "b": {"N": "0"}}]


@pytest.mark.parametrize("number", ["", "x", "NaN", "Infinity", "1e200", "1" * 39])
def test_what_is_no_number_of_dynamodbs_is_refused(dynamo: Dynamo, number: str) -> None:
    assert code_of(dynamo.put_item, TableName="t", Item=KEY | {"a": {"N": number}}) == "ValidationException"


@pytest.mark.parametrize("item", [{"openKey": {"N": "1"}}, {"sk": {"S": "x" * 1025}}, {"pk": {"S": "é" * 1025}}])
def test_keys_are_texts_of_limited_length(dynamo: Dynamo, item: dict[str, Any]) -> None:
    assert code_of(dynamo.put_item, TableName="t", Item=KEY | item) == "ValidationException"
    assert list(dynamo.items("t")) == []


def test_a_value_that_no_expression_uses_is_refused(dynamo: Dynamo) -> None:
    arguments = {"ConditionExpression": "attribute_exists(pk)", "ExpressionAttributeValues": {":it": {"N": "1"}}}
    assert code_of(dynamo.put_item, TableName="t", Item=KEY, **arguments) == "ValidationException"


@pytest.mark.parametrize(("comparison", "holds"), [("=", False), ("<", False), (">=", False), ("<>", True)])
def test_values_of_two_types_are_not_equal_and_in_no_order(dynamo: Dynamo, comparison: str, *, holds: bool) -> None:
    put(dynamo, KEY | {"a": {"N": "1"}})
    condition = {"ConditionExpression": f"a {comparison} :it", "ExpressionAttributeValues": {":it": {"S": "1"}}}
    answer = outcome(dynamo, "put_item", {"TableName": "t", "Item": KEY, **condition})
    assert (answer == {}) is holds


@pytest.mark.parametrize(
    "expressions",
    [
        {"ConditionExpression": "a = :it OR b = :it"},
        {"ConditionExpression": "begins_with(a, :it)"},
        {"ConditionExpression": "NOT a = :it"},
        {"ConditionExpression": "a.b = :it"},
        {"ConditionExpression": "a = "},
        {"UpdateExpression": "REMOVE a"},
        {"UpdateExpression": "SET a = if_not_exists(a, :it)"},
        {"UpdateExpression": "SET a = :it + b + b"},
    ],
    ids=str,
)
def test_an_expression_that_is_not_emulated_fails_loudly(dynamo: Dynamo, expressions: dict[str, str]) -> None:
    arguments = {"UpdateExpression": "SET a = :it", "ExpressionAttributeValues": {":it": {"N": "1"}}} | expressions
    with pytest.raises(NotImplementedError):
        dynamo.update_item(TableName="t", Key=KEY, **arguments)


def test_small_pages_and_batches_that_are_not_done_at_once(dynamo: Dynamo) -> None:
    put(dynamo, KEY, OTHER_KEY)
    dynamo.page_size = 1
    assert [page["Items"] for page in pages(dynamo, "scan", {"TableName": "t"})] == [[KEY], [OTHER_KEY], []]
    answer = dynamo.batch_get_item(RequestItems={"t": {"Keys": [KEY, OTHER_KEY]}})
    assert answer["Responses"] == {"t": [KEY]}
    assert dynamo.batch_get_item(RequestItems=answer["UnprocessedKeys"])["Responses"] == {"t": [OTHER_KEY]}


def test_the_snapshot_is_the_state_and_not_how_it_came_about(dynamo: Dynamo) -> None:
    empty = dynamo.snapshot()
    put(dynamo, KEY, OTHER_KEY)
    two = dynamo.snapshot()
    put(dynamo, KEY | {"a": {"N": "1"}})
    changed = dynamo.snapshot()
    put(dynamo, {"sk": KEY["sk"], "pk": KEY["pk"]})
    assert len({empty, two, changed}) == 3
    assert dynamo.snapshot() == two
    assert two == 100342439610739466860850369210768914001, "it is the same in every process"


def test_a_read_may_be_behind_and_changes_nothing_by_it(dynamo: Dynamo) -> None:
    opened = KEY | {"openKey": {"S": "m1#QUEUED"}, "openSince": {"S": "t1"}}
    put(dynamo, OTHER_KEY)
    both = [{"Put": {"TableName": "t", "Item": item}} for item in (opened, OTHER_KEY | {"a": {"N": "1"}})]
    dynamo.transact_write_items(TransactItems=both)
    before = dynamo.snapshot()
    open_ones = {"TableName": "t", "IndexName": INDEX}

    def scanned(writes: int, **what: Any) -> list[Any]:
        items: list[Any] = dynamo.behind(writes, lambda: dynamo.scan(**what))["Items"]
        return items

    assert [scanned(writes, TableName="t") for writes in (1, 2, 9)] == [[OTHER_KEY], [], []]
    assert [scanned(writes, **open_ones) for writes in (0, 1)] == [[opened], []]
    assert dynamo.snapshot() == before
    assert dynamo.scan(TableName="t")["Items"] == [opened, OTHER_KEY | {"a": {"N": "1"}}]


def test_what_a_read_may_say_that_is_behind_is_taken_back_with_the_writes(dynamo: Dynamo) -> None:
    put(dynamo, KEY)
    rollback, history = dynamo.savepoint(), dynamo.history(1)
    put(dynamo, OTHER_KEY)
    assert dynamo.history(1) != history

    rollback()

    assert dynamo.history(1) == history
    assert dynamo.behind(1, lambda: dynamo.scan(TableName="t"))["Items"] == []


# ---- SQS


class Time:
    def __init__(self) -> None:
        self.now = datetime(2026, 11, 22, 7, 0, tzinfo=UTC)

    def __call__(self) -> datetime:
        return self.now

    def pass_seconds(self, seconds: float) -> None:
        self.now += timedelta(seconds=seconds)


@pytest.fixture
def clock() -> Time:
    return Time()


@pytest.fixture
def sqs(clock: Time) -> Sqs:
    return Sqs(clock, 1, MAX_RECEIVE_COUNT, url=QUEUE, dead_letter_url=DEAD_LETTERS)


class Story:
    """What a queue's client sees, in words that hold for any ids and times."""

    def __init__(self, sqs: Any, queue: str, dead_letters: str, pass_seconds: Callable[[float], None]) -> None:
        self.sqs = sqs
        self.urls = {"queue": queue, "dead letters": dead_letters}
        self.pass_seconds = pass_seconds
        self.ids: dict[str, int] = {}
        self.handles: list[str] = []
        self.seen: list[Any] = []

    def send(self, body: str, **options: Any) -> None:
        answer = self.sqs.send_message(QueueUrl=self.urls["queue"], MessageBody=body, **options)
        self.ids[answer["MessageId"]] = len(self.ids)
        self.seen.append(("sent", answer["MD5OfMessageBody"]))

    def receive(self, queue: str = "queue", **options: Any) -> None:
        found = self.sqs.receive_message(
            QueueUrl=self.urls[queue],
            AttributeNames=["All"],
            MessageAttributeNames=["All"],
            **{"MaxNumberOfMessages": 10, **options},
        )
        messages = found.get("Messages", [])
        self.handles += [message["ReceiptHandle"] for message in messages]
        for message in messages:
            attributes = message["Attributes"]
            assert set(attributes) == {
                "SenderId",
                "SentTimestamp",
                "ApproximateReceiveCount",
                "ApproximateFirstReceiveTimestamp",
            }
            assert int(attributes["SentTimestamp"]) <= int(attributes["ApproximateFirstReceiveTimestamp"])
        told = [
            (
                self.ids[message["MessageId"]],
                message["Body"],
                message["MD5OfBody"],
                message["Attributes"]["ApproximateReceiveCount"],
                message.get("MessageAttributes"),
            )
            for message in messages
        ]
        self.seen.append((queue, told, len(set(self.handles)) == len(self.handles)))

    def call(self, operation: str, handle: int | str, **options: Any) -> None:
        receipt = self.handles[handle] if isinstance(handle, int) else handle
        try:
            getattr(self.sqs, operation)(QueueUrl=self.urls["queue"], ReceiptHandle=receipt, **options)
        except ClientError as error:
            self.seen.append((operation, type(error).__name__))
        else:
            self.seen.append((operation, "done"))


def visibility(story: Story) -> None:
    story.send("one")
    story.send("two", MessageAttributes={"cause": {"DataType": "String", "StringValue": "none"}})
    story.receive(MaxNumberOfMessages=1)
    story.receive(MaxNumberOfMessages=1)
    story.receive()  # both are hidden
    story.call("change_message_visibility", 1, VisibilityTimeout=0)
    story.call("delete_message", 0)
    story.pass_seconds(1.05)
    story.receive(VisibilityTimeout=30)  # the second, again
    story.receive()
    story.call("change_message_visibility", 2, VisibilityTimeout=0)
    story.receive()


def delay(story: Story) -> None:
    story.send("later", DelaySeconds=1)
    story.send("now")
    story.receive()
    story.call("delete_message", 0)
    story.call("delete_message", 0)  # it is gone: done
    story.pass_seconds(1.05)
    story.receive()
    story.call("delete_message", "nonsense")
    story.call("change_message_visibility", "nonsense", VisibilityTimeout=1)


def redrive(story: Story) -> None:
    story.send("poison")
    for _ in range(MAX_RECEIVE_COUNT):
        story.receive(VisibilityTimeout=0)
    story.receive("dead letters")
    story.send("fine")
    story.receive()
    story.receive("dead letters")
    story.receive("dead letters")


@pytest.mark.parametrize("told", [visibility, delay, redrive], ids=lambda told: told.__name__)
def test_sqs_does_as_moto_does(aws: AwsServer, sqs: Sqs, clock: Time, told: Callable[[Story], None]) -> None:
    moto = client("sqs", aws.url)
    dead_letters = moto.create_queue(QueueName=f"emulator-{told.__name__}-dead-letters")["QueueUrl"]
    arn = moto.get_queue_attributes(QueueUrl=dead_letters, AttributeNames=["QueueArn"])["Attributes"]["QueueArn"]
    policy = json.dumps({"deadLetterTargetArn": arn, "maxReceiveCount": MAX_RECEIVE_COUNT})
    queue = moto.create_queue(
        QueueName=f"emulator-{told.__name__}", Attributes={"VisibilityTimeout": "1", "RedrivePolicy": policy}
    )["QueueUrl"]
    theirs = Story(moto, queue, dead_letters, time.sleep)
    ours = Story(sqs, QUEUE, DEAD_LETTERS, clock.pass_seconds)
    told(theirs)
    told(ours)
    assert ours.seen == theirs.seen


def test_only_messages_in_flight_can_be_hidden_twelve_hours_in_all(sqs: Sqs, clock: Time) -> None:
    """moto counts the twelve hours from when it was sent, and hides what is not in flight."""
    sqs.send_message(QueueUrl=QUEUE, MessageBody="one")
    clock.pass_seconds(3600)
    (message,) = sqs.receive_message(QueueUrl=QUEUE)["Messages"]
    hide = {"QueueUrl": QUEUE, "ReceiptHandle": message["ReceiptHandle"]}
    sqs.change_message_visibility(**hide, VisibilityTimeout=43_200)
    clock.pass_seconds(10)
    assert code_of(sqs.change_message_visibility, **hide, VisibilityTimeout=43_200) == "InvalidParameterValue"
    sqs.change_message_visibility(**hide, VisibilityTimeout=0)
    with pytest.raises(sqs.exceptions.MessageNotInflight):
        sqs.change_message_visibility(**hide, VisibilityTimeout=1)
    sqs.delete_message(**hide)
    assert code_of(sqs.change_message_visibility, **hide, VisibilityTimeout=1) == "InvalidParameterValue"


def test_a_message_is_deleted_by_its_latest_handle_only(sqs: Sqs) -> None:
    """AWS says that an earlier one might not do it; moto deletes."""
    sqs.send_message(QueueUrl=QUEUE, MessageBody="one")
    handles = [
        sqs.receive_message(QueueUrl=QUEUE, VisibilityTimeout=0)["Messages"][0]["ReceiptHandle"] for _ in range(2)
    ]
    sqs.delete_message(QueueUrl=QUEUE, ReceiptHandle=handles[0])
    assert len(sqs.messages(QUEUE)) == 1
    sqs.delete_message(QueueUrl=QUEUE, ReceiptHandle=handles[1])
    assert sqs.messages(QUEUE) == []


def test_who_holds_the_queue_chooses_what_is_delivered(sqs: Sqs) -> None:
    for body in ("one", "two", "three"):
        sqs.send_message(QueueUrl=QUEUE, MessageBody=body)
    sqs.choose = lambda visible: [visible[2], visible[0]]
    received = sqs.receive_message(QueueUrl=QUEUE, MaxNumberOfMessages=10)["Messages"]
    assert [message["Body"] for message in received] == ["three", "one"]
    assert [message["Body"] for message in sqs.messages(QUEUE)] == ["one", "two", "three"]


def test_dead_letters_come_back_as_new_messages(sqs: Sqs, clock: Time) -> None:
    attribute = {"token": {"DataType": "String", "StringValue": "t"}}
    sqs.send_message(QueueUrl=QUEUE, MessageBody="one", MessageAttributes=attribute)
    for _ in range(MAX_RECEIVE_COUNT + 1):
        sqs.receive_message(QueueUrl=QUEUE, VisibilityTimeout=0)
    [dead] = sqs.messages(DEAD_LETTERS)
    clock.now += timedelta(hours=1)
    before = sqs.snapshot()

    sqs.redrive()

    assert sqs.messages(DEAD_LETTERS) == []
    assert sqs.snapshot() != before
    [message] = sqs.receive_message(QueueUrl=QUEUE)["Messages"]
    assert (message["Body"], message["MessageAttributes"]) == ("one", attribute)
    assert message["MessageId"] != dead["MessageId"]
    assert message["Attributes"]["ApproximateReceiveCount"] == "1"
    assert int(message["Attributes"]["SentTimestamp"]) == int(dead["Attributes"]["SentTimestamp"]) + 3_600_000


def test_every_change_of_the_queue_is_in_its_snapshot(sqs: Sqs, clock: Time) -> None:
    snapshots = [sqs.snapshot()]
    sqs.send_message(QueueUrl=QUEUE, MessageBody="one")
    snapshots.append(sqs.snapshot())
    (message,) = sqs.receive_message(QueueUrl=QUEUE)["Messages"]
    snapshots.append(sqs.snapshot())
    hide = {"QueueUrl": QUEUE, "ReceiptHandle": message["ReceiptHandle"]}
    sqs.change_message_visibility(**hide, VisibilityTimeout=7)
    snapshots.append(sqs.snapshot())
    sqs.delete_message(**hide)
    snapshots.append(sqs.snapshot())
    assert len(set(snapshots)) == len(snapshots)


def test_a_queue_that_is_not_there(sqs: Sqs) -> None:
    with pytest.raises(sqs.exceptions.QueueDoesNotExist):
        sqs.send_message(QueueUrl="https://sqs/other", MessageBody="one")


# ---- Secrets Manager


def test_secrets_manager_answers_as_moto_does(aws: AwsServer) -> None:
    moto = client("secretsmanager", aws.url)
    moto.create_secret(Name="emulator/m1", SecretString="first")
    secrets = Secrets({"emulator/m1": "first"})
    asked = [("emulator/m1", "AWSCURRENT"), ("emulator/m1", "AWSPREVIOUS"), ("emulator/m2", "AWSCURRENT")]
    before = secrets.snapshot()

    def seen(secretsmanager: Any, name: str, stage: str) -> Any:
        try:
            answer = secretsmanager.get_secret_value(SecretId=name, VersionStage=stage)
        except secretsmanager.exceptions.ResourceNotFoundException as error:
            return error.operation_name
        return answer["Name"], answer["SecretString"], answer["VersionStages"]

    assert [seen(secrets, *it) for it in asked] == [seen(moto, *it) for it in asked]
    moto.put_secret_value(SecretId="emulator/m1", SecretString="second")
    secrets.rotate("emulator/m1", "second")
    assert [seen(secrets, *it) for it in asked] == [seen(moto, *it) for it in asked]
    assert secrets.snapshot() != before
