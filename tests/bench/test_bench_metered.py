"""The metered stub counts and refuses what AWS would."""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Any

import pytest

from bench.capacity import Units
from bench.metered import LEDGER, QUEUE, MeteredServices
from bench.stub import API_KEY, SECRET_KEY
from devstack.template import Model, Template
from indodana import Credentials, authorization

SIGNED = {"authorization": authorization(Credentials(API_KEY, SECRET_KEY), "1569479066")}
OPEN = {"openKey": {"S": "m1#SUBMITTING"}, "openSince": {"S": "2026-11-22"}}


@pytest.fixture(scope="module")
def model(template: Template) -> Model:
    return template.model()


@pytest.fixture
def services(model: Model) -> MeteredServices:
    return MeteredServices(model)


def aws(services: MeteredServices, target: str, **request: Any) -> Any:
    return services.answer("POST", "/", {"x-amz-target": target}, json.dumps(request).encode(), 0.0)


def dynamodb(services: MeteredServices, operation: str, **request: Any) -> Any:
    answer = aws(services, f"DynamoDB_20120810.{operation}", **request)
    answer.done()
    return answer


def control(services: MeteredServices, what: str, content: object = None) -> Any:
    return services.answer("POST", f"/_stub/{what}", {}, json.dumps(content).encode(), 0.0).body


def units(services: MeteredServices) -> list[Units]:
    return [Units(**call["units"]) for call in control(services, "take_calls")["calls"]]


def put(table: str, key: str, attributes: Mapping[str, Any] = {}, **options: Any) -> dict[str, Any]:
    return {"TableName": table, "Item": {"pk": {"S": "m1#O"}, "sk": {"S": key}, **attributes}, **options}


def test_transaction_is_charged_for_table_and_index(services: MeteredServices, model: Model) -> None:
    ledger, audit = model.tables[LEDGER].name, model.tables["AuditTable"].name
    actions = [{"Put": put(ledger, "REFUND#1", OPEN)}, {"Put": put(audit, "2026#1")}, {"Put": put(ledger, "ORDER")}]
    dynamodb(services, "TransactWriteItems", TransactItems=actions)
    dynamodb(services, "TransactWriteItems", TransactItems=[{"Put": put(ledger, "REFUND#1")}])
    assert units(services) == [Units(write=6, index_write=1), Units(write=2, index_write=1)]


def test_cancelled_transaction_is_charged_without_the_index(services: MeteredServices, model: Model) -> None:
    ledger = model.tables[LEDGER].name
    once = put(ledger, "REFUND#1", OPEN, ConditionExpression="attribute_not_exists(pk)")
    for _ in range(2):
        dynamodb(services, "TransactWriteItems", TransactItems=[{"Put": once}])
    assert units(services) == [Units(write=2, index_write=1), Units(write=2)]


def test_reads_are_charged_for_the_items_found(services: MeteredServices, model: Model) -> None:
    ledger = model.tables[LEDGER].name
    dynamodb(services, "PutItem", **put(ledger, "REFUND#1", OPEN))
    keys = [{"pk": {"S": "m1#O"}, "sk": {"S": key}} for key in ("ORDER", "REFUND#1")]
    dynamodb(services, "BatchGetItem", RequestItems={ledger: {"Keys": keys, "ConsistentRead": True}})
    values = {":order": {"S": "m1#O"}}
    query = {"TableName": ledger, "KeyConditionExpression": "pk = :order", "ExpressionAttributeValues": values}
    dynamodb(services, "Query", **query, ConsistentRead=True)
    dynamodb(services, "Scan", TableName=ledger, IndexName="open-refunds")
    assert units(services)[1:] == [Units(read=2), Units(read=1), Units(read=0.5)]


def test_page_larger_than_on_aws_is_refused(services: MeteredServices, model: Model) -> None:
    ledger = model.tables[LEDGER].name
    for number in range(4):
        dynamodb(services, "PutItem", **put(ledger, f"REFUND#{number}", {"note": {"S": "x" * 300_000}}))
    assert aws(services, "DynamoDB_20120810.Scan", TableName=ledger).status == 400
    assert "larger than a page" in control(services, "take_calls")["failures"][0]


# ---- Indodana


def cancel(services: MeteredServices, refund: str, amount: int = 100) -> Any:
    body = {"refundId": refund, "merchantOrderId": "O", "cancellationAmount": amount}
    return services.answer("POST", "/v3/order_cancellation", SIGNED, json.dumps(body).encode(), 0.0)


def test_upstream_answers_429_above_its_limit(services: MeteredServices) -> None:
    control(services, "limit", 1)
    first = cancel(services, "r1")
    refused = cancel(services, "r2")
    assert (refused.status, refused.headers) == (429, {"Retry-After": "1"})
    first.done()
    assert cancel(services, "r2").status == 200
    assert control(services, "books")["moved"] == {"r1": 1, "r2": 1}


def test_books_count_money_that_moved_twice(services: MeteredServices) -> None:
    cancel(services, "r1")
    cancel(services, "r1")
    books = control(services, "books")
    assert (books["moved"], books["moved_amounts"]) == ({"r1": 2}, {"O": 200})


# ---- the queue


def test_message_is_hidden_until_visible_and_gone_once_deleted(services: MeteredServices, model: Model) -> None:
    url = model.queues[QUEUE].url

    def receive() -> list[Any]:
        answer = aws(services, "AmazonSQS.ReceiveMessage", QueueUrl=url, MaxNumberOfMessages=10)
        return list(answer.body.get("Messages", []))

    control(services, "send", ["one", "two"])
    (one, two) = receive()
    assert receive() == []
    hide = {"QueueUrl": url, "ReceiptHandle": one["ReceiptHandle"], "VisibilityTimeout": 0}
    assert aws(services, "AmazonSQS.ChangeMessageVisibility", **hide).status == 200
    (again,) = receive()
    assert (again["Body"], again["Attributes"]["ApproximateReceiveCount"]) == ("one", "2")
    entries = [{"Id": str(n), "ReceiptHandle": m["ReceiptHandle"]} for n, m in enumerate((again, two))]
    aws(services, "AmazonSQS.DeleteMessageBatch", QueueUrl=url, Entries=entries)
    assert control(services, "waiting") == 0


def test_request_refused_by_sqs_is_not_a_stub_failure(services: MeteredServices, model: Model) -> None:
    late = {"QueueUrl": model.queues[QUEUE].url, "ReceiptHandle": "gone/1", "VisibilityTimeout": 1}
    refused = aws(services, "AmazonSQS.ChangeMessageVisibility", **late)
    assert (refused.status, refused.body["__type"]) == (400, "com.amazonaws.sqs#InvalidParameterValue")
    assert control(services, "take_calls")["failures"] == []
