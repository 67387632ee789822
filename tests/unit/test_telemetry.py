"""Logs and metrics leave by one stream, a line each, from as many threads as the worker has."""

from __future__ import annotations

import json
import logging
import sys
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor

import pytest

from gateway.core.upstream import StatusChecksPaused
from gateway.runtime import telemetry
from indodana import AnswerUnreadable, ContradictingAnswer

THREADS, EACH = 8, 200


@pytest.fixture
def impatient_threads() -> Iterator[None]:
    """Threads change places at every opportunity."""
    before = sys.getswitchinterval()
    sys.setswitchinterval(1e-6)
    yield
    sys.setswitchinterval(before)


@pytest.mark.usefixtures("impatient_threads")
def test_what_threads_emit_at_the_same_time_stays_a_line_each(capfd: pytest.CaptureFixture[str]) -> None:
    def emit(_: int) -> None:
        for number in range(EACH):
            telemetry.count("RefundOutcomes", status="SUCCEEDED")
            telemetry.logger.info("refund", extra={"number": number})

    handler = telemetry.logger.registered_handler
    assert isinstance(handler, logging.StreamHandler)
    before = handler.setStream(sys.stdout)
    with ThreadPoolExecutor(THREADS) as pool:
        list(pool.map(emit, range(THREADS)))
    handler.setStream(before)
    lines = [json.loads(line) for line in capfd.readouterr().out.splitlines()]
    assert sum("_aws" in line for line in lines) == THREADS * EACH
    assert sum(line.get("message") == "refund" for line in lines) == THREADS * EACH


def metrics(printed: str) -> list[tuple[str, dict[str, str]]]:
    """Each metric with its dimensions, but those that all of them have."""
    found = []
    for line in map(json.loads, printed.splitlines()):
        [told] = line["_aws"]["CloudWatchMetrics"]
        dimensions = {name: line[name] for name in told["Dimensions"][0] if name != "service"}
        found.append((told["Metrics"][0]["Name"], dimensions))
    return found


def test_an_ok_that_contradicts_is_counted_by_its_field_and_in_all(capsys: pytest.CaptureFixture[str]) -> None:
    telemetry.upstream_error(ContradictingAnswer("it says something else", field="refundAmount"))
    telemetry.upstream_error(AnswerUnreadable("it says nothing"))

    counted = metrics(capsys.readouterr().out)
    assert [metric for metric in counted if metric[0] == "ContradictingAnswers"] == [
        ("ContradictingAnswers", {"field": "refundAmount"}),
        ("ContradictingAnswers", {}),
    ]
    assert ("UpstreamErrors", {"error": "ContradictingAnswer"}) in counted


def test_a_status_check_that_was_not_sent_is_no_upstream_error(capsys: pytest.CaptureFixture[str]) -> None:
    telemetry.upstream_error(StatusChecksPaused("not sent"))

    assert metrics(capsys.readouterr().out) == [("StatusChecksPaused", {})]
