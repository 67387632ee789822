"""Is this order paid? Indodana's answer, and every way of not having one."""

from __future__ import annotations

import io
import json
from decimal import Decimal

import pytest

from indodana import Timeouts
from tests.world import World

DOCUMENTED = {
    "transactionStatus", "merchantOrderId", "transactionId", "amount", "paymentType", "transactionTime", "fraudStatus",
    "legalName", "indodanaUserId",
}  # fmt: skip


@pytest.mark.parametrize("state", ["INITIATED", "EXPIRED", "PAID", "REJECTED", "SOMETHING_NEW"])
def test_every_state_is_passed_on_as_it_is(world: World, state: str) -> None:
    order = world.order("4500000.25", state)

    answer = world.status(order)

    assert (answer.status, answer.body["transactionStatus"]) == (200, state)
    assert set(answer.body) == DOCUMENTED
    assert answer.body["amount"] == Decimal("4500000.25")


def test_a_status_check_is_on_record_without_the_customers_name(world: World) -> None:
    order = world.order()
    answer = world.status(order, subject="till-3")

    [record] = world.audit(order)

    assert (record["action"], record["after"], record["actor"]) == ("STATUS_CHECKED", "PAID", "till-3")
    assert answer.body["legalName"] not in json.dumps(record, default=str)
    assert answer.body["indodanaUserId"] not in json.dumps(record, default=str)


@pytest.mark.parametrize(
    ("fault", "options", "status", "code"),
    [
        ("rate_limited", {"retry_after": 7}, 503, "UPSTREAM_RATE_LIMITED"),
        ("unauthorized", {}, 502, "UPSTREAM_CREDENTIALS_REJECTED"),
        ("error_before", {"status": 503}, 502, "UPSTREAM_FAILED"),
        ("html", {}, 502, "UPSTREAM_UNREADABLE"),
        ("empty", {}, 502, "UPSTREAM_UNREADABLE"),
        ("ok_error", {}, 502, "UPSTREAM_UNREADABLE"),
        ("reset_before", {}, 502, "UPSTREAM_UNREACHABLE"),
        ("timeout_before", {}, 504, "UPSTREAM_TIMEOUT"),
        ("refused", {"status": 422}, 422, "UPSTREAM_REFUSED"),
        ("refused", {"status": 404}, 404, "ORDER_NOT_FOUND"),
    ],
)
def test_upstreams_troubles_are_told_apart(
    world: World, fault: str, options: dict[str, int], status: int, code: str, capsys: pytest.CaptureFixture[str]
) -> None:
    order = world.order()
    world.simulator.fault(fault, path="check_status", merchant_order_id=order, **options)
    world.gateway.indodana._timeouts = Timeouts(status_read=0.5)

    answer = world.status(order)

    assert (answer.status, answer.body["code"]) == (status, code)
    assert answer.headers["content-type"] == "application/problem+json"
    assert ("retry-after" in answer.headers) == (status in (503, 504))
    if fault == "rate_limited":
        assert answer.headers["retry-after"] == "7"
    assert [record["action"] for record in world.audit(order)] == ["STATUS_CHECKED"]
    assert ("CredentialFailures" in capsys.readouterr().out) == (fault == "unauthorized")


def test_checks_pause_while_indodana_does_not_answer(world: World, capsys: pytest.CaptureFixture[str]) -> None:
    order, known = world.order(), world.order()
    assert world.refund(known, 1000).status == 201
    world.simulator.fault("timeout_before", path="check_status", merchant_order_id=order)
    world.gateway.indodana._timeouts = Timeouts(status_read=0.2)
    for _ in range(2):
        assert world.status(order).status == 504
    asked, printed = len(world.requests(order, "check_status")), capsys.readouterr().out

    paused = world.status(order)

    assert (paused.status, paused.body["code"], paused.headers["retry-after"]) == (504, "UPSTREAM_TIMEOUT", "1")
    assert len(world.requests(order, "check_status")) == asked == 2
    # Nothing was asked or disclosed, so there is no record; and Indodana has not failed once more.
    assert len(world.audit(order)) == 2
    assert printed.count('"UpstreamErrors"') > 0
    emitted = capsys.readouterr().out
    assert ('"UpstreamErrors"' in emitted, '"StatusChecksPaused"' in emitted) == (False, True)

    # A refund of a known order needs no status. The first one of an order waits, and asks when the pause is over.
    assert world.refund(known, 1000).status == 201
    first = world.refund(order, 1000)
    assert (first.status, first.body["status"]) == (202, "QUEUED")
    assert len(world.requests(order, "check_status")) == 2

    world.simulator.clear_faults()
    assert world.status(order).status == 504
    world.clock.pass_seconds(1)
    assert [world.status(order).status for _ in range(3)] == [200] * 3
    world.clock.pass_seconds(60)
    world.recover()
    world.work_queue()
    assert world.get(order, first.body["refundId"]).body["status"] == "SUCCEEDED"


def test_no_connection_is_a_502(world: World) -> None:
    order = world.order()
    world.simulator.fault("refuse_connections")

    answer = world.status(order)

    assert (answer.status, answer.body["code"]) == (502, "UPSTREAM_UNREACHABLE")


def test_the_callers_answer_does_not_hang_on_the_audit(world: World, capsys: pytest.CaptureFixture[str]) -> None:
    order = world.order()
    world.reassemble(audit_table="no-such-table")

    assert world.status(order).status == 200
    assert "AuditRecordsLost" in capsys.readouterr().out


def test_a_rotation_costs_no_failed_request(world: World) -> None:
    order = world.order()
    assert world.status(order).status == 200

    world.rotate("m1", "key-2", "secret-2")

    assert world.status(order).status == 200
    assert world.refund(order, 1000).status == 201


def test_a_merchant_without_a_secret_is_our_fault_not_the_callers(world: World) -> None:
    world.reassemble(merchant_ids=frozenset({"m1", "m3"}))

    answer = world.status("ORDER-1", merchant="m3")

    assert (answer.status, answer.body["code"]) == (502, "CREDENTIALS_UNAVAILABLE")
    assert "m3" not in answer.text


def test_no_secret_and_no_name_in_any_log_line(
    world: World, logs: io.StringIO, capsys: pytest.CaptureFixture[str]
) -> None:
    order = world.order()
    status = world.status(order)
    world.refund(order, 1000)
    world.simulator.fault("refused", path="order_cancellation", merchant_order_id=order, status=403)
    world.refund(order, 1000)
    world.refund("NO-SUCH-ORDER", 1)

    everything = logs.getvalue() + "".join(capsys.readouterr())

    assert order in everything
    customer = (status.body["legalName"], status.body["indodanaUserId"])
    for secret in (*customer, "local-m1-secret", "local-m1-key", "Bearer"):
        assert secret not in everything
