"""Every payload under events/ through its handler: what `sam local invoke` is given works, and keeps working."""

from __future__ import annotations

import json
from dataclasses import dataclass
from decimal import Decimal
from pathlib import Path
from typing import Any

import pytest

import audit_query.handler
import health.handler
import recovery.handler
import refund_api.handler
import refund_worker.handler
import status_check.handler
from tests.world import Answer, Context, World

EVENTS = Path(__file__).parents[2] / "events"
HANDLERS: dict[str, Any] = {
    "status_check": status_check.handler.lambda_handler,
    "refund_api": refund_api.handler.lambda_handler,
    "refund_worker": refund_worker.handler.lambda_handler,
    "recovery": recovery.handler.lambda_handler,
    "audit_query": audit_query.handler.lambda_handler,
    "health": health.handler.lambda_handler,
}
PARTIAL = "refund_api/partial"  # 25000 of m1's ORDER-PAID


@dataclass(frozen=True)
class Case:
    """What an HTTP event is answered, after others in the same world."""

    status: int
    code: str | None = None
    field: str | None = None
    after: tuple[str, ...] = ()
    fault: str | None = None  # at the first refund that reaches Indodana
    moved: int | str = 0  # rupiah of m1's ORDER-PAID in Indodana's books


@dataclass(frozen=True)
class Batch:
    """What the worker makes of a queue event. None of them leaves a message to be delivered again."""

    moved: int
    dead_letters: int = 0
    after: tuple[str, ...] = ()


# Every file, without its .json. A file missing here fails, as does a row without a file.
HTTP = {
    "status_check/paid": Case(200),
    "status_check/initiated": Case(200),
    "status_check/expired": Case(200),
    "status_check/rejected": Case(200),
    "status_check/other-merchant": Case(200),
    "status_check/unknown-order": Case(404, "ORDER_NOT_FOUND"),
    "status_check/order-with-symbols": Case(404, "ORDER_NOT_FOUND"),
    "status_check/order-with-slash": Case(400, "INVALID_REQUEST", "merchantOrderId"),
    "status_check/order-too-long": Case(400, "INVALID_REQUEST", "merchantOrderId"),
    PARTIAL: Case(201, moved=25_000),
    "refund_api/partial-decimal": Case(201, moved="1000.50"),
    "refund_api/full": Case(201, moved=100_000),
    "refund_api/base64-body": Case(201, moved=5000),
    "refund_api/other-merchant": Case(201, after=(PARTIAL,), moved=25_000),
    "refund_api/respond-async": Case(202),
    "refund_api/over-refund": Case(422, "AMOUNT_EXCEEDS_REFUNDABLE"),
    "refund_api/same-key-other-amount": Case(422, "IDEMPOTENCY_KEY_REUSED", after=(PARTIAL,), moved=25_000),
    "refund_api/not-paid": Case(409, "TRANSACTION_NOT_PAID"),
    "refund_api/unknown-order": Case(404, "ORDER_NOT_FOUND"),
    "refund_api/bad-amount": Case(400, "INVALID_REQUEST", "amount"),
    "refund_api/bad-reason-and-unknown-field": Case(400, "INVALID_REQUEST", "reason"),
    "refund_api/not-json": Case(400, "INVALID_REQUEST", "body"),
    "refund_api/without-body": Case(400, "INVALID_REQUEST", "body"),
    "refund_api/without-idempotency-key": Case(400, "INVALID_REQUEST", "Idempotency-Key"),
    "refund_api/key-sent-twice": Case(201, after=(PARTIAL,), moved=25_000),
    "refund_api/key-in-quotes": Case(201, after=(PARTIAL,), moved=25_000),
    "refund_api/two-keys": Case(400, "INVALID_REQUEST", "Idempotency-Key", (PARTIAL,), moved=25_000),
    "refund_api/unknown-merchant": Case(403, "FORBIDDEN"),
    "refund_api/bad-correlation-id": Case(400, "INVALID_REQUEST", "X-Correlation-Id"),
    "refund_api/list": Case(200, after=(PARTIAL,), moved=25_000),
    "refund_api/list-page": Case(200, after=(PARTIAL,), moved=25_000),
    "refund_api/get": Case(200, after=(PARTIAL,), moved=25_000),
    "refund_api/get-unknown-refund": Case(404, "NOT_FOUND", after=(PARTIAL,), moved=25_000),
    "refund_api/resolution": Case(200, after=(PARTIAL,), fault="reset_after", moved=25_000),
    "refund_api/resolution-stale": Case(412, "VERSION_MISMATCH", None, (PARTIAL,), "reset_after", 25_000),
    "refund_api/resolution-without-if-match": Case(
        428, "PRECONDITION_REQUIRED", None, (PARTIAL,), "reset_after", 25_000
    ),
    "refund_api/resolution-old-form": Case(400, "INVALID_REQUEST", "evidence", (PARTIAL,), "reset_after", 25_000),
    "refund_api/withdrawal": Case(200, after=("refund_api/respond-async",)),
    "refund_api/withdrawal-without-body": Case(200, after=("refund_api/respond-async",)),
    "refund_api/withdrawal-of-anothers": Case(403, "FORBIDDEN", after=("refund_api/respond-async",)),
    "refund_api/withdrawal-without-if-match": Case(428, "PRECONDITION_REQUIRED", after=("refund_api/respond-async",)),
    "refund_api/withdrawal-any-version": Case(400, "INVALID_REQUEST", "If-Match", after=("refund_api/respond-async",)),
    "refund_api/resolution-bad-outcome": Case(400, "INVALID_REQUEST", "outcome", (PARTIAL,), "reset_after", 25_000),
    "refund_api/work-list": Case(200, after=(PARTIAL,), fault="reset_after", moved=25_000),
    "refund_api/work-list-page": Case(200, after=("refund_api/respond-async",)),
    "refund_api/work-list-bad-status": Case(400, "INVALID_REQUEST", "status"),
    "audit_query/timeline": Case(200, after=(PARTIAL,), moved=25_000),
    "audit_query/first-page": Case(200, after=("status_check/paid", PARTIAL), moved=25_000),
    "audit_query/unknown-order": Case(404, "NOT_FOUND"),
    "audit_query/bad-limit": Case(400, "INVALID_REQUEST", "limit", (PARTIAL,), moved=25_000),
    "audit_query/bad-token": Case(400, "INVALID_REQUEST", "nextToken", (PARTIAL,), moved=25_000),
}
QUEUE = {
    "refund_worker/one": Batch(15_000),
    "refund_worker/full": Batch(100_000),
    "refund_worker/redelivered": Batch(15_000, after=("refund_worker/one",)),
    "refund_worker/same-refund-twice": Batch(7000),
    "refund_worker/batch": Batch(30_000),
    "refund_worker/with-poison": Batch(12_000, dead_letters=3),
}
SCHEDULE = {"recovery/schedule"}
HEALTH = {"health/anybody"}


def load(name: str) -> Any:
    return json.loads((EVENTS / f"{name}.json").read_text())


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
