"""The emulated DynamoDB does as AWS's documentation says, where moto does not."""

from __future__ import annotations

from enum import StrEnum
from typing import Any

import pytest

from testkit.emulator import Dynamo
from tests.testkit.emulator_calls import INDEX, KEY, OTHER_KEY, code_of, outcome, pages


@pytest.fixture
def dynamo() -> Dynamo:
    return Dynamo({"t": {INDEX: ("openKey", "openSince")}})


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
