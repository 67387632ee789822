"""What each audit record says, and how an order's timeline is read."""

from __future__ import annotations

import logging
from collections.abc import Callable
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from decimal import Decimal
from typing import Any

import pytest
from botocore.exceptions import ClientError, EndpointConnectionError

from gateway.core import audit
from gateway.core.audit import MAX_ACTOR, MAX_PATH_PART, AuditLog
from gateway.core.context import RequestContext
from gateway.core.dynamodb import Item, from_item
from gateway.core.errors import InvalidRequest, LedgerUnavailable, NotFound
from gateway.core.model import Failure, FailureCode, OrderKey, Reason, RefundRequest, new_refund
from gateway.core.transitions import RefundStatus
from gateway.core.upstream import UpstreamAnswer
from testkit.emulator import Dynamo

ORDER = OrderKey("m1", "ORDER-1")
NOON = datetime(2026, 11, 27, 12, tzinfo=UTC)
AT = "2026-11-27T12:00:00.000000Z"
CONTEXT = RequestContext("agent", "api", "request-1", "correlation-1")
REQUEST = RefundRequest(ORDER, "k", Decimal(60_000), Reason.OTHERS, "a note", "Rina")
ASKED_BY = RequestContext("agent", "api", "request-0", "correlation-0")
REFUND = new_refund(REQUEST, RefundStatus.QUEUED, NOON, ASKED_BY, reserved_amount=Decimal(50_000))
FAILURE = Failure(FailureCode.UPSTREAM_REFUSED, "refused", 422)
UPSTREAM = UpstreamAnswer(422, "{}", "f00d")

BASE = {
    **{"pk": "m1#ORDER-1", "at": AT, "merchantId": "m1", "merchantOrderId": "ORDER-1", "actor": "agent"},
    **{"channel": "api", "requestId": "request-1", "correlationId": "correlation-1"},
}
ASKED = {
    **{"refundId": REQUEST.refund_id, "idempotencyKey": "k", "reason": "OTHERS", "note": "a note"},
    **{"requestedBy": "Rina"},
}
ANSWERED = {"upstreamStatus": 422, "upstreamBody": "{}", "upstreamSha256": "f00d"}
FAILED = {"failureCode": "UPSTREAM_REFUSED", "failureDetail": "refused"}
SETTLED = replace(REFUND, status=RefundStatus.SUCCEEDED)

RECORDS: dict[str, tuple[Callable[[], Item], dict[str, Any]]] = {
    "refused": (
        lambda: audit.refusal_record(REQUEST, FAILURE, NOON, CONTEXT, UPSTREAM),
        {**ASKED, "action": "REFUND_REFUSED", "amount": 60_000, **ANSWERED, **FAILED},
    ),
    "key reused": (
        lambda: audit.reused_key_record(replace(REQUEST, amount=Decimal(1)), SETTLED, NOON, CONTEXT),
        {
            **{**ASKED, "action": "REFUND_REFUSED", "after": "SUCCEEDED", "amount": 1},
            "failureCode": "IDEMPOTENCY_KEY_REUSED",
            "failureDetail": "the idempotency key was already used for a different request",
        },
    ),
    "decision refused": (
        lambda: audit.refused_decision_record(REFUND, NOON, CONTEXT, {"decision": "WITHDRAW"}, "too late"),
        {
            **{**ASKED, "action": "DECISION_REFUSED", "after": "QUEUED", "amount": 50_000},
            **{"cause": "too late", "decision": "WITHDRAW"},
        },
    ),
    "late evidence": (
        lambda: audit.late_evidence_record(REFUND, NOON, CONTEXT, "SUCCEEDED", UPSTREAM),
        {
            **{**ASKED, "action": "LATE_EVIDENCE", "after": "QUEUED", "amount": 50_000, **ANSWERED},
            "cause": "late response: outcome was SUCCEEDED, but the refund had already become QUEUED",
        },
    ),
    "status checked": (
        lambda: audit.status_record(ORDER, NOON, CONTEXT, "PAID", UPSTREAM, Decimal(7)),
        {"action": "STATUS_CHECKED", "after": "PAID", "amount": 7, **ANSWERED},
    ),
    "forbidden": (
        lambda: audit.forbidden_record(NOON, CONTEXT, "GET /v1/refunds", {"id": "x"}, "no scope"),
        {
            **{"pk": "#forbidden-2026-11-27", "merchantId": "", "merchantOrderId": "forbidden-2026-11-27"},
            **{"action": "FORBIDDEN", "route": "GET /v1/refunds", "path": {"id": "x"}, "cause": "no scope"},
        },
    ),
}


@pytest.mark.parametrize("name", RECORDS)
def test_a_record_says_who_did_what_and_why(name: str) -> None:
    make, said = RECORDS[name]
    first, second = from_item(make()), from_item(make())
    sort_keys = {record.pop("sk") for record in (first, second)}
    assert first == second == {**BASE, **said}
    # Two of one moment are two.
    assert len(sort_keys) == 2
    for key in sort_keys:
        at, _, unique = key.partition("#")
        assert at == AT
        assert len(unique) == 32


MESSAGES: dict[str, tuple[Callable[[], Item], dict[str, Any]]] = {
    "dead letter": (
        lambda: audit.dead_letter_record(ORDER, "message-1", NOON, CONTEXT, "no JSON", "f00d"),
        {
            **{"action": "MESSAGE_DEAD_LETTERED", "messageId": "message-1", "cause": "no JSON", "bodySha256": "f00d"},
        },
    ),
    "dead letter of nobody": (
        lambda: audit.dead_letter_record(None, "message-1", NOON, CONTEXT, "no JSON", "f00d"),
        {
            **{"pk": "#dead-letters-2026-11-27", "merchantId": "", "merchantOrderId": "dead-letters-2026-11-27"},
            **{"action": "MESSAGE_DEAD_LETTERED", "messageId": "message-1", "cause": "no JSON", "bodySha256": "f00d"},
        },
    ),
    "settled refund": (
        lambda: audit.settled_refund_record(SETTLED, "message-1", NOON, CONTEXT),
        {
            **{**ASKED, "action": "MESSAGE_FOR_SETTLED_REFUND", "after": "SUCCEEDED", "amount": 50_000},
            "messageId": "message-1",
        },
    ),
}


@pytest.mark.parametrize("name", MESSAGES)
def test_a_record_of_a_message_is_the_same_when_it_comes_again(name: str) -> None:
    make, said = MESSAGES[name]
    record = from_item(make())
    assert record.pop("sk") == f"{AT}#message-1"
    if "cause" not in said:
        assert AT in record.pop("cause")
    assert record == {**BASE, **said}


def test_a_transition_is_recorded_with_its_failure_and_its_version() -> None:
    after = replace(REFUND, status=RefundStatus.FAILED, version=7, failure=FAILURE)
    record = from_item(audit.transition_record(REFUND, after, CONTEXT, cause="a cause", upstream=UPSTREAM))
    assert record == {
        **{**BASE, **ASKED, **ANSWERED, **FAILED, "sk": f"{AT}#{REFUND.refund_id}#000007"},
        **{"action": "REFUND_FAILED", "before": "QUEUED", "after": "FAILED", "amount": 50_000, "cause": "a cause"},
    }


@pytest.mark.parametrize("name", [*RECORDS, *MESSAGES])
def test_a_record_bears_the_id_of_who_asked_where_a_step_has_none(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    make = (RECORDS | MESSAGES)[name][0]
    monkeypatch.setattr(f"{__name__}.CONTEXT", replace(CONTEXT, correlation_id=None))
    asked_before = {"decision refused", "late evidence", "settled refund"}
    assert from_item(make())["correlationId"] == ("correlation-0" if name in asked_before else "request-1")


def test_of_what_nobody_checked_only_so_much_is_recorded() -> None:
    context = replace(CONTEXT, actor="a" * 1000)
    record = from_item(audit.forbidden_record(NOON, context, "GET /", {"id": "x" * 1000}, "no scope"))
    assert (record["actor"], record["path"]) == ("a" * MAX_ACTOR, {"id": "x" * MAX_PATH_PART})
    assert MAX_ACTOR == MAX_PATH_PART == 256


# ---- the log


class Lagging:
    """DynamoDB whose reads are behind by one write, unless they ask for consistency."""

    def __init__(self) -> None:
        self.tables = Dynamo({"audit": {}})
        self.error: Exception | None = None

    @property
    def exceptions(self) -> Any:
        return self.tables.exceptions

    def put_item(self, **request: Any) -> Any:
        if self.error:
            raise self.error
        return self.tables.put_item(**request)

    def query(self, **request: Any) -> Any:
        if self.error:
            raise self.error
        if request.get("ConsistentRead"):
            return self.tables.query(**request)
        return self.tables.behind(1, lambda: self.tables.query(**request))


@pytest.fixture
def client() -> Lagging:
    return Lagging()


@pytest.fixture
def log(client: Lagging) -> AuditLog:
    return AuditLog(client, "audit")  # type: ignore[arg-type]


def record(number: int, order: OrderKey = ORDER) -> Item:
    at = NOON + timedelta(seconds=number)
    return audit.dead_letter_record(order, f"message-{number}", at, CONTEXT, f"cause {number}", "f00d")


def test_a_timeline_comes_oldest_first_in_pages(log: AuditLog) -> None:
    for number in (2, 0, 3, 1):
        log.add(record(number))
    log.add(record(9, OrderKey("m1", "ORDER-2")))
    first = log.timeline(ORDER, 3, None)
    second = log.timeline(ORDER, 3, first.next_token)
    assert [told["cause"] for told in first.records + second.records] == [f"cause {number}" for number in range(4)]
    assert second.next_token is None
    assert not first.records[0].keys() & {"pk", "sk"}
    with pytest.raises(InvalidRequest):
        log.timeline(OrderKey("m1", "ORDER-2"), 3, first.next_token)
    with pytest.raises(NotFound):
        log.timeline(OrderKey("m1", "ORDER-3"), 3, None)


def test_a_timelines_last_page_may_be_empty(log: AuditLog) -> None:
    log.add(record(0))
    page = log.timeline(ORDER, 1, None)
    assert log.timeline(ORDER, 1, page.next_token).records == []


def test_a_record_is_never_written_over(log: AuditLog) -> None:
    log.add(record(0))
    log.add({**record(0), "cause": {"S": "another cause"}})
    assert [told["cause"] for told in log.timeline(ORDER, 9, None).records] == ["cause 0"]


ERRORS = [EndpointConnectionError(endpoint_url="x"), ClientError({"Error": {"Code": "InternalServerError"}}, "Any")]


@pytest.mark.parametrize("error", ERRORS)
def test_a_log_that_does_not_answer_is_unavailable(log: AuditLog, client: Lagging, error: Exception) -> None:
    client.error = error
    calls: list[Callable[[], object]] = [lambda: log.add(record(0)), lambda: log.timeline(ORDER, 9, None)]
    for call in calls:
        with pytest.raises(LedgerUnavailable) as raised:
            call()
        assert raised.value.__cause__ is error


def test_a_record_that_is_lost_is_logged_and_counted(client: Lagging, caplog: pytest.LogCaptureFixture) -> None:
    lost: list[int] = []
    log = AuditLog(client, "audit", on_lost=lambda: lost.append(1))  # type: ignore[arg-type]
    log.record_best_effort(record(0))
    assert lost == []
    client.error = ERRORS[0]
    log.record_best_effort(record(1))
    assert lost == [1]
    [line] = caplog.records
    assert (line.name, line.levelno) == ("gateway", logging.ERROR)
    assert "MESSAGE_DEAD_LETTERED of m1#ORDER-1" in line.getMessage()
    assert line.exc_info
