"""The stub that all measurements use."""

from __future__ import annotations

import json
from typing import Any

import pytest

from bench.stub import API_KEY, SECRET_KEY, Call, Latencies, Services, Stub, in_series
from devstack.template import Template
from indodana import Credentials, authorization

CANCEL = "/chermes/merchant/v3/order_cancellation"


@pytest.fixture
def services(template: Template) -> Services:
    return Services(template.model())


def dynamodb(services: Services, operation: str, now: float = 0.0, **request: Any) -> Any:
    headers = {"x-amz-target": f"DynamoDB_20120810.{operation}"}
    return services.answer("POST", "/", headers, json.dumps(request).encode(), now)


def put(key: str, **options: Any) -> dict[str, Any]:
    return {"TableName": "peer-orders", "Item": {"pk": {"S": "m1"}, "sk": {"S": key}}, **options}


def calls(services: Services) -> list[dict[str, Any]]:
    taken: list[dict[str, Any]] = services.answer("POST", "/_stub/take_calls", {}, b"{}", 0.0).body["calls"]
    return taken


def test_transaction_in_conflict_with_another_is_refused_and_recorded(services: Services) -> None:
    first = dynamodb(services, "TransactWriteItems", TransactItems=[{"Put": put("a")}])
    second = dynamodb(services, "TransactWriteItems", TransactItems=[{"Put": put("b")}, {"Put": put("a")}])
    assert first.status == 200
    assert [reason["Code"] for reason in second.body["CancellationReasons"]] == ["None", "TransactionConflict"]
    assert [call["conflicts"] for call in calls(services)] == [(), ("peer-orders/m1/a",)]


def test_item_can_be_written_again_after_the_answer(services: Services) -> None:
    dynamodb(services, "TransactWriteItems", TransactItems=[{"Put": put("a")}]).done()
    assert dynamodb(services, "TransactWriteItems", TransactItems=[{"Put": put("a")}]).status == 200


def test_transaction_conflicts_with_a_single_write(services: Services) -> None:
    assert [dynamodb(services, "PutItem", **put("a")).status for _ in range(2)] == [200, 200]
    refused = dynamodb(services, "TransactWriteItems", TransactItems=[{"Put": put("a")}])
    assert refused.body["__type"] == "TransactionCanceledException"


def test_condition_that_fails_returns_the_old_item(services: Services) -> None:
    once = put("a", ConditionExpression="attribute_not_exists(pk)", ReturnValuesOnConditionCheckFailure="ALL_OLD")
    assert dynamodb(services, "PutItem", **once).status == 200
    again = dynamodb(services, "PutItem", **once)
    assert (again.status, again.body["__type"]) == (400, "ConditionalCheckFailedException")
    assert again.body["Item"] == once["Item"]


@pytest.mark.parametrize(("expiry", "status"), [("9", 400), ("1", 200)])
def test_condition_with_alternatives_needs_one_of_them(services: Services, expiry: str, status: int) -> None:
    record = put("a")
    record["Item"]["expiry"] = {"N": expiry}
    dynamodb(services, "PutItem", **record)
    condition: Any = {
        "ConditionExpression": "attribute_not_exists(#id) OR #expiry < :now OR (#expiry = :never AND #id = :none)",
        "ExpressionAttributeNames": {"#id": "pk", "#expiry": "expiry"},
        "ExpressionAttributeValues": {":now": {"N": "5"}, ":never": {"N": "0"}, ":none": {"S": "-"}},
    }
    assert dynamodb(services, "PutItem", **record, **condition).status == status


def test_calls_are_in_series_only_if_they_do_not_overlap() -> None:
    def call(began: float, ended: float) -> Call:
        return Call("dynamodb", "GetItem", began, ended, None)

    assert in_series([call(0, 5), call(6, 11), call(12, 22)]) == 3
    assert in_series([call(0, 5), call(1, 6), call(2, 7)]) == 1
    assert in_series([call(0, 20), call(1, 6), call(7, 12)]) == 2


def test_indodana_stub_accepts_signed_requests_only(services: Services) -> None:
    body = json.dumps({"refundId": "r", "merchantOrderId": "o"}).encode()
    signed = {"authorization": authorization(Credentials(API_KEY, SECRET_KEY), "1569479066")}
    assert services.answer("POST", CANCEL, signed, body, 0.0).body["status"] == "OK"
    forged = {"authorization": authorization(Credentials(API_KEY, "guessed"), "1569479066")}
    assert services.answer("POST", CANCEL, forged, body, 0.0).status == 401


def test_answers_have_the_latency_of_their_kind(services: Services) -> None:
    services.latencies = Latencies(call=0.005, transaction=0.010, upstream=0.2)
    dynamodb(services, "PutItem", 1.0, **put("a"))
    dynamodb(services, "TransactWriteItems", 2.0, TransactItems=[{"Put": put("b")}])
    services.answer("GET", "/v1/check_status?merchantOrderId=o", {}, b"", 3.0)
    assert [round(call["ended"] - call["began"], 6) for call in calls(services)] == [0.005, 0.010, 0.2]


def test_unsupported_request_is_reported_with_the_calls(services: Services) -> None:
    assert dynamodb(services, "ListTables").status == 400
    failures = services.answer("POST", "/_stub/take_calls", {}, b"{}", 0.0).body["failures"]
    assert "ListTables" in failures[0]


def test_stub_runs_in_its_own_process() -> None:
    with Stub() as stub:
        stub.set_latencies(upstream=0.0)
        assert stub.take_calls() == []
