"""Schedules of the local stack."""

import threading
from collections.abc import Mapping
from datetime import UTC, datetime, timedelta
from typing import Any

from devstack.runtime import Runtime
from devstack.schedules import Timer, schedule_event
from devstack.template import Function, Schedule

NOW = datetime(2026, 2, 28, 23, 58, 30, tzinfo=UTC)
FUNCTION = Function("F", "f", "f.handler", 5, 128, {}, "arn")


def test_event_is_eventbridges() -> None:
    event = schedule_event(Schedule("F", "Minute", timedelta(minutes=1)), "ap-southeast-3", NOW)
    assert (event["source"], event["detail-type"], event["detail"]) == ("aws.events", "Scheduled Event", {})
    assert (event["time"], event["region"], event["account"]) == (
        "2026-02-28T23:58:30Z",
        "ap-southeast-3",
        "123456789012",
    )
    assert event["resources"][0].startswith("arn:aws:events:ap-southeast-3:123456789012:rule/")


def test_schedule_runs_at_once_then_at_its_rate_and_outlives_a_failure() -> None:
    events: list[Mapping[str, Any]] = []
    third = threading.Event()
    runs: list[Any] = []

    def handler(event: Any, _: Any) -> Any:
        runs.append(event)
        if len(runs) == 1:
            raise RuntimeError("the first run fails")
        if len(runs) == 3:
            third.set()
        return {"queued": 2}

    runtime = Runtime({"F": FUNCTION}, {"F": handler}, events.append)
    timer = Timer(Schedule("F", "Often", timedelta(milliseconds=10)), "r", runtime, events.append)
    timer.start()
    assert third.wait(5)
    timer.stop()
    failure, run, *_ = events
    assert (failure["event"], "the first run fails" in failure["exception"]) == ("failure", True)
    assert {name: run[name] for name in ("event", "name", "function", "result")} == {
        "event": "schedule",
        "name": "Often",
        "function": "F",
        "result": {"queued": 2},
    }


def test_schedule_waits_for_its_rate() -> None:
    ran = threading.Semaphore(0)
    runtime = Runtime({"F": FUNCTION}, {"F": lambda *_: ran.release()})
    timer = Timer(Schedule("F", "Hourly", timedelta(hours=1)), "r", runtime)
    timer.start()
    assert ran.acquire(timeout=5)
    assert not ran.acquire(timeout=0.1)
    timer.stop()
