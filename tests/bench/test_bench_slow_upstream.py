"""The checks of what a slow Indodana costs fail for a refund that waits, a late answer, and held function time."""

from __future__ import annotations

import json

import pytest

from bench.slow_upstream import MAX_SECONDS_OF_100, REFUNDS, Cell, Polling, check_polling, check_refunds, taken_before
from bench.stub import API_KEY, SECRET_KEY, Services
from bench.warm import refund_event
from devstack.template import Template
from indodana import Credentials, authorization

AT_ONCE = Cell(0.0, REFUNDS, 3.5)


def failed(*cells: Cell) -> list[str]:
    return [check.text for check in check_refunds(3.0, 0.2, cells) if not check.passed]


def test_refunds_made_at_once_and_in_time_pass() -> None:
    assert failed(AT_ONCE, Cell(6.0, REFUNDS, 29.9)) == []


def test_one_refund_that_waits_fails() -> None:
    [text] = failed(AT_ONCE, Cell(6.0, REFUNDS - 1, 9.5))
    assert "83% of first refunds" in text


def test_an_answer_for_which_nobody_waits_fails() -> None:
    [text] = failed(AT_ONCE, Cell(6.0, REFUNDS, 30.0))
    assert "answered 30.0 s" in text


def test_status_checks_that_hold_their_functions_fail() -> None:
    assert check_polling(Polling(200, 2 * MAX_SECONDS_OF_100)).passed
    assert not check_polling(Polling(200, 2 * MAX_SECONDS_OF_100 + 1)).passed
    assert not check_polling(Polling(64, 322.0)).passed  # what it was without a circuit breaker


def test_an_event_says_when_api_gateway_took_it(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("time.time", lambda: 1_795_331_100.5)
    assert taken_before(refund_event("A"), 6.0)["requestContext"]["timeEpoch"] == 1_795_331_094_500


@pytest.mark.parametrize(("cancellation", "seconds"), [(None, 3.0), (0.2, 0.2), (0.0, 0.0)])
def test_the_stub_answers_a_refund_in_its_own_time(
    template: Template, cancellation: float | None, seconds: float
) -> None:
    services = Services(template.model())
    latencies = {"call": 0.0, "transaction": 0.0, "upstream": 3.0, "cancellation": cancellation}
    services.answer("POST", "/_stub/latencies", {}, json.dumps(latencies).encode(), 0.0)
    signed = {"authorization": authorization(Credentials(API_KEY, SECRET_KEY), "1569479066")}
    refund = json.dumps({"refundId": "r", "merchantOrderId": "A"}).encode()

    checked = services.answer("GET", "/v1/transactions/qris/check_status?merchantOrderId=A", signed, b"", 0.0)
    refunded = services.answer("POST", "/v3/order_cancellation", signed, refund, 0.0)

    assert (checked.status, checked.seconds) == (200, 3.0)
    assert (refunded.status, refunded.seconds) == (200, seconds)
