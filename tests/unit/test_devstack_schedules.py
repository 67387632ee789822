"""Schedules of the local stack."""

import threading
from datetime import UTC, datetime
from typing import Any

import pytest

from devstack.errors import TemplateError
from devstack.runtime import Runtime
from devstack.schedules import Timer, parse_schedule, schedule_event
from devstack.template import Function, Schedule

# A Saturday.
NOW = datetime(2026, 2, 28, 23, 58, 30, tzinfo=UTC)


@pytest.mark.parametrize(
    ("expression", "following"),
    [
        ("rate(1 minute)", "2026-02-28T23:59:30"),
        ("rate(2 hours)", "2026-03-01T01:58:30"),
        ("cron(* * * * ? *)", "2026-02-28T23:59:00"),
        ("cron(0/15 * * * ? *)", "2026-03-01T00:00:00"),
        ("cron(30 9 1,15 * ? *)", "2026-03-01T09:30:00"),
        ("cron(0 10 ? * MON-FRI *)", "2026-03-02T10:00:00"),
        ("cron(0 0 29 FEB ? *)", "2028-02-29T00:00:00"),
        ("cron(58 23 * * ? *)", "2026-03-01T23:58:00"),
    ],
)
def test_the_next_run_follows_the_expression(expression: str, following: str) -> None:
    assert parse_schedule(expression)(NOW).replace(tzinfo=None).isoformat() == following


@pytest.mark.parametrize(
    "expression",
    ["rate(1 minutes)", "rate(2 minute)", "rate(0 minutes)", "rate(1 week)", "at(2026-01-01T00:00:00)", "cron(* * * *)",
     "cron(* * * * * *)", "cron(0 0 L * ? *)", "cron(61 * * * ? *)", "cron(0 0 ? * MON#1 *)", "None"],
)  # fmt: skip
def test_an_expression_that_is_not_understood_is_an_error(expression: str) -> None:
    with pytest.raises(TemplateError):
        parse_schedule(expression)


def test_the_event_is_eventbridges_or_the_given_input() -> None:
    event = schedule_event(Schedule("F", "Minute", "rate(1 minute)", "aws.events"), "ap-southeast-3", NOW)
    assert (event["source"], event["detail-type"], event["detail"]) == ("aws.events", "Scheduled Event", {})
    assert (event["time"], event["region"], event["account"]) == (
        "2026-02-28T23:58:30Z",
        "ap-southeast-3",
        "123456789012",
    )
    assert event["resources"][0].startswith("arn:aws:events:ap-southeast-3:123456789012:rule/")
    scheduler = Schedule("F", "Minute", "rate(1 minute)", "aws.scheduler")
    assert schedule_event(scheduler, "ap-southeast-3", NOW)["detail"] == "{}"
    assert schedule_event(Schedule("F", "M", "rate(1 minute)", "aws.events", {"a": 1}), "r", NOW) == {"a": 1}


def test_a_schedule_runs_at_once_and_outlives_a_failure(capfd: pytest.CaptureFixture[str]) -> None:
    runs: list[Any] = []
    second = threading.Event()

    def handler(event: Any, _: Any) -> None:
        runs.append(event)
        if len(runs) == 1:
            raise RuntimeError("the first run fails")
        second.set()

    function = Function("F", "f", "f.handler", 5, 128, {}, "arn")
    timer = Timer(Schedule("F", "Often", "rate(1 minute)", "aws.events"), "r", Runtime({"F": function}, {"F": handler}))
    timer._next = lambda moment: moment
    timer.start()
    assert second.wait(5)
    timer.stop()
    assert "the first run fails" in capfd.readouterr().err
