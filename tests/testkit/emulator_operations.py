"""Operations of DynamoDB that the gateway makes, drawn at random, and what must be refused: for another implementation
and for the emulator, on the template's tables."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

from hypothesis import HealthCheck, Phase, settings
from hypothesis import strategies as st

from devstack.aws import client, provision
from devstack.template import Template
from gateway.runtime.settings import Settings
from testkit.emulator import Dynamo
from tests.testkit.emulator_calls import INDEX, KEY

# For a test that asks another implementation the same.
COMPARED = settings(
    max_examples=30,
    deadline=None,
    derandomize=True,
    phases=[phase for phase in Phase if phase is not Phase.explain],  # which takes minutes
    suppress_health_check=[HealthCheck.too_slow],
)
ALL_OLD = {"ReturnValuesOnConditionCheckFailure": "ALL_OLD"}


@dataclass(frozen=True)
class Both:
    """Another implementation with the template's tables, and the emulator with the same."""

    theirs: Any
    tables: Mapping[str, Mapping[str, tuple[str, str]]]
    ledger: str

    @classmethod
    def provision(cls, template: Template, url: str) -> Both:
        stack = Template(template.document, stack_name="emulator", endpoint_url=url, overrides=template.parameters)
        model = stack.model(provision(stack.model(), url, {}))
        tables = {}
        for table in model.tables.values():
            indexes = table.definition.get("GlobalSecondaryIndexes", [])
            tables[table.name] = {index["IndexName"]: _key_names(index["KeySchema"]) for index in indexes}
            assert _key_names(table.definition["KeySchema"]) == ("pk", "sk")
        return cls(client("dynamodb", url), tables, Settings.from_environment(model.environment()).ledger_table)

    def emptied(self) -> Dynamo:
        for item in self.theirs.scan(TableName=self.ledger)["Items"]:
            self.theirs.delete_item(TableName=self.ledger, Key={"pk": item["pk"], "sk": item["sk"]})
        return Dynamo(self.tables)


def _key_names(schema: list[dict[str, str]]) -> tuple[str, str]:
    by_type = {key["KeyType"]: key["AttributeName"] for key in schema}
    return by_type["HASH"], by_type["RANGE"]


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
