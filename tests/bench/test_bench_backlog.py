"""The measurement of recovery's backlog, with a thousandth of it, and what makes it fail."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest

from bench import backlog
from bench.backlog import Backlog, backlog_text, check_backlog, run_backlog
from devstack.aws import prepare_environment

DONE: dict[str, Any] = {"looked_at": backlog.OPEN, "enqueued": backlog.OVERDUE, "errors": 0}
GOOD = Backlog(DONE, calls=11_300, calls_in_series=2000, seconds=60.0, cpu_seconds=15.0, cpu_share=1.0)


def failed(found: Backlog) -> list[str]:
    return [check.text for check in check_backlog(found) if not check.passed]


def test_a_run_that_reaches_all_in_time_passes() -> None:
    assert failed(GOOD) == []
    assert GOOD.lambda_seconds == 25.0
    assert "25.0 s" in backlog_text(GOOD)


@pytest.mark.parametrize("field", DONE)
def test_a_run_that_leaves_a_refund_fails(field: str) -> None:
    [text] = failed(replace(GOOD, result=DONE | {field: DONE[field] + 1}))
    assert "looked at" in text


def test_a_run_that_would_be_stopped_on_lambda_fails() -> None:
    """With less memory a function has less of a CPU."""
    for slow in (replace(GOOD, cpu_share=0.29), replace(GOOD, cpu_seconds=31.0), replace(GOOD, calls_in_series=6000)):
        [text] = failed(slow)
        assert "at most 40" in text


def test_the_measured_run_enqueues_what_is_overdue(monkeypatch: pytest.MonkeyPatch) -> None:
    prepare_environment()
    monkeypatch.setattr(backlog, "OPEN", 100)
    monkeypatch.setattr(backlog, "OVERDUE", 10)

    found = run_backlog()

    wanted = {"looked_at": 100, "queued": 100, "enqueued": 10, "errors": 0, "unreadable": 0}
    assert {name: found.result[name] for name in wanted} == wanted
    # The sweep's position, one page, ten records of messages, one batch of messages, the dead letters.
    assert (found.calls, found.calls_in_series) == (14, 14)
    assert (found.cpu_share, found.cpu_seconds > 0) == (1.0, True)
