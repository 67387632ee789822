"""Every payload under events/ through its handler: what `sam local invoke` is given works, and keeps working."""

from __future__ import annotations

import json
from decimal import Decimal
from typing import Any

import pytest

import audit_query.handler
import health.handler
import recovery.handler
import refund_api.handler
import refund_worker.handler
import status_check.handler
from tests.event_cases import EVENTS, HEALTH, HTTP, PARTIAL, QUEUE, SCHEDULE, load
from tests.world import Answer, Context, World

HANDLERS: dict[str, Any] = {
    "status_check": status_check.handler.lambda_handler,
    "refund_api": refund_api.handler.lambda_handler,
    "refund_worker": refund_worker.handler.lambda_handler,
    "recovery": recovery.handler.lambda_handler,
    "audit_query": audit_query.handler.lambda_handler,
    "health": health.handler.lambda_handler,
}


def invoke(name: str) -> Any:
    result = HANDLERS[name.split("/")[0]](load(name), Context())
    return json.loads(json.dumps(result))  # what Lambda takes


def call(name: str) -> Answer:
    result = invoke(name)
    return Answer(result["statusCode"], result["headers"], result["body"])


def test_every_file_is_in_the_tables() -> None:
    files = {str(path.relative_to(EVENTS).with_suffix("")) for path in EVENTS.rglob("*") if path.is_file()}
    assert files == {*HTTP, *QUEUE, *SCHEDULE, *HEALTH}


def test_every_http_event_is_of_a_route_of_its_function() -> None:
    routes: dict[str, Any] = {
        "status_check": status_check.handler.ROUTES,
        "refund_api": refund_api.handler.ROUTES,
        "audit_query": audit_query.handler.ROUTES,
    }
    events = {name: load(name) for name in HTTP}
    for name, event in events.items():
        assert event["routeKey"] in routes[name.split("/")[0]], name
        assert event["requestContext"]["routeKey"] == event["routeKey"], name
    assert {event["routeKey"] for event in events.values()} == {route for of in routes.values() for route in of}


@pytest.mark.parametrize("name", HTTP)
def test_an_http_event_is_answered(world: World, name: str) -> None:
    case = HTTP[name]
    if case.fault:
        world.simulator.fault(case.fault, path="order_cancellation", times=1)
    for before in case.after:
        assert call(before).status < 300

    answer = call(name)

    assert answer.status == case.status, answer.text
    assert answer.body.get("code") == case.code
    if case.field:
        assert case.field in [error["field"] for error in answer.body["errors"]]
    assert world.moved("ORDER-PAID") == Decimal(case.moved)


def test_a_repeated_event_is_replayed(world: World) -> None:
    first, again = call(PARTIAL), call(PARTIAL)

    assert (again.status, again.body, again.headers["idempotency-replayed"]) == (201, first.body, "true")
    assert world.moved("ORDER-PAID") == 25_000


def test_each_bad_field_of_an_event_is_named(world: World) -> None:
    errors = call("refund_api/bad-reason-and-unknown-field").body["errors"]
    assert {error["field"] for error in errors} == {"merchantId", "reason"}


def test_the_statuses_are_those_of_the_events_names(world: World) -> None:
    for name in ("paid", "initiated", "expired", "rejected"):
        assert call(f"status_check/{name}").body["transactionStatus"] == name.upper()


def test_the_lists_hold_what_the_events_before_made(world: World) -> None:
    world.simulator.fault("reset_after", path="order_cancellation", times=1)
    unknown, queued = call(PARTIAL).body, call("refund_api/respond-async").body

    assert call("refund_api/work-list").body == {"refunds": [unknown], "nextToken": None}
    assert call("refund_api/work-list-page").body == {"refunds": [queued], "nextToken": None}
    assert call("refund_api/get").body == unknown
    assert call("refund_api/list").body["refunds"] == [unknown, queued]
    assert len(call("audit_query/first-page").body["records"]) == 2
    assert len(call("audit_query/timeline").body["records"]) == 3
    assert call("refund_api/resolution").body["status"] == "SUCCEEDED"
    assert call("audit_query/timeline").body["records"][-1]["actor"] == "operator-3"


@pytest.mark.parametrize("name", QUEUE)
def test_a_queue_event_is_worked(world: World, name: str) -> None:
    """Its receipt handles are of no message: where the worker would hide one, that fails and is logged."""
    batch = QUEUE[name]
    for before in batch.after:
        invoke(before)

    assert invoke(name) == {"batchItemFailures": []}

    assert world.moved("ORDER-PAID") == batch.moved
    letters = [letter["Body"] for letter in world.dead_letters()]
    assert len(letters) == batch.dead_letters
    assert {record["body"] for record in load(name)["Records"]} >= set(letters)


def test_a_batch_of_several_merchants_refuses_what_cannot_be_refunded(world: World) -> None:
    invoke("refund_worker/batch")

    assert world.moved("ORDER-PAID", "m2") == 5000
    for order in ("ORDER-INITIATED", "ORDER-NOBODY-KNOWS"):
        assert [refund["status"] for refund in world.list_refunds(order).body["refunds"]] == ["FAILED"]


def test_a_queue_event_waits_while_indodana_is_away(world: World) -> None:
    world.simulator.fault("refuse_connections")

    [message] = load("refund_worker/one")["Records"]
    assert invoke("refund_worker/one") == {"batchItemFailures": [{"itemIdentifier": message["messageId"]}]}
    assert world.list_refunds("ORDER-PAID").body["refunds"][0]["status"] == "QUEUED"


def test_an_event_with_an_id_of_its_senders_own_is_recorded_under_it(world: World) -> None:
    assert call(PARTIAL).headers["x-correlation-id"] == "till-7/sale-1001"
    invoke("refund_worker/one")

    known_as = [record["correlationId"] for record in world.audit("ORDER-PAID")]
    assert known_as == ["till-7/sale-1001"] * 2 + ["refunds-2026-11-22/line-1"] * 2


def test_the_schedules_event_is_worked(world: World) -> None:
    world.simulator.fault("reset_before", path="order_cancellation", times=1)
    call(PARTIAL)

    counts = invoke("recovery/schedule")

    assert counts == {
        "looked_at": 1,
        "queued": 0,
        "submitting": 0,
        "unknown": 1,
        "unreadable": 0,
        "oldest_queued_seconds": 0,
        "oldest_submitting_seconds": 0,
        "oldest_unknown_seconds": counts["oldest_unknown_seconds"],
        "leases_expired": 0,
        "enqueued": 0,
        "errors": 0,
    }
    assert 0 < counts["oldest_unknown_seconds"] < 60


def test_the_health_events_answer_is_empty() -> None:
    assert invoke("health/anybody") == {"statusCode": 204, "headers": {"cache-control": "no-store"}}
