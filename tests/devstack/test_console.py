"""The console's lines, made of the log entries of the functions and the stack."""

import io
import json
from datetime import UTC, datetime, timedelta, timezone
from typing import Any

import pytest

from devstack.console import PLAIN, RED, YELLOW, Formatter, Painter, heading, parse, time_of
from devstack.journal import Journal, LineWriter
from devstack.local_files import FUNCTIONS_LOG, STACK_LOG

JAKARTA = timezone(timedelta(hours=7))
WHAT = 40
"""The column in which a line says what happened."""
AT = "2026-11-27T14:03:11.402000+00:00"


def shown(entry: dict[str, Any], formatter: Formatter | None = None) -> str | None:
    line = (formatter or Formatter()).line({"at": AT, **entry})
    return None if line is None else line.text(JAKARTA)


def cells(entry: dict[str, Any], formatter: Formatter | None = None) -> list[str]:
    text = shown(entry, formatter)
    assert text is not None
    return [cell.strip() for cell in text.split("  ") if cell.strip()]


REFUND = {
    "message": "refund",
    "refund_id": "6f2a1b3c" + "0" * 24,
    "merchant_id": "m1",
    "merchant_order_id": "ORDER-PAID",
    "status": "SUCCEEDED",
    "attempts": 1,
    "correlation_id": "till-3",
}


def test_refund_line_has_local_time_merchant_order_change_and_request() -> None:
    assert cells(REFUND | {"before": "QUEUED", "amount": "25000.00", "ms": 48.2}) == [
        "21:03:11.402",
        "m1",
        "ORDER-PAID",
        "refund 6f2a1b3c… 25,000 QUEUED → SUCCEEDED",
        "48 ms",
        "till-3",
    ]


@pytest.mark.parametrize(
    ("more", "what"),
    [
        ({}, "refund 6f2a1b3c… SUCCEEDED"),
        ({"amount": 25000}, "refund 6f2a1b3c… 25,000 SUCCEEDED"),
        ({"amount": 1234567.5}, "refund 6f2a1b3c… 1,234,567.5 SUCCEEDED"),
        ({"amount": None, "before": None}, "refund 6f2a1b3c… SUCCEEDED"),
        ({"amount": "much"}, "refund 6f2a1b3c… much SUCCEEDED"),
        ({"attempts": 3}, "refund 6f2a1b3c… SUCCEEDED (attempt 3)"),
        ({"refund_id": "short"}, "refund short SUCCEEDED"),
    ],
)
def test_refund_line_leaves_out_what_is_not_known(more: dict[str, Any], what: str) -> None:
    assert what in cells(REFUND | more)


@pytest.mark.parametrize(
    ("entry", "what"),
    [
        (
            {"event": "request", "method": "GET", "target": "/v1/transactions/A", "status": 200, "outcome": "PAID"},
            "GET /v1/transactions/A → 200 PAID",
        ),
        ({"event": "message", "receive_count": 1, "outcome": "done"}, "queue: message → done"),
        (
            {"event": "message", "receive_count": 2, "outcome": "will be redelivered"},
            "queue: message (delivery 2) → will be redelivered",
        ),
        (
            {"event": "schedule", "name": "N", "function": "F", "result": {"queued": 2, "unknown": 0, "errors": 1,
             "leases_expired": 3, "oldest_queued_seconds": 9.5}},
            "recovery: 2 queued, 1 errors, 3 leases expired",
        ),
        ({"event": "schedule", "name": "N", "function": "F", "result": {"leases_expired": 0}},
         "recovery: nothing to do"),
        ({"event": "schedule", "name": "N", "function": "F", "result": None}, "schedule N ran F"),
        (
            {"event": "indodana", "operation": "order_cancellation", "amount": 25000, "answered": 200},
            "Indodana: order_cancellation 25,000 → 200",
        ),
        (
            {"event": "indodana", "operation": "check_status", "answered": None, "fault": "timeout_before"},
            "Indodana: check_status → no answer (fault timeout_before)",
        ),
        ({"event": "notice", "message": "messages could not be received"}, "messages could not be received"),
        ({"message": "Indodana is rate-limiting requests"}, "Indodana is rate-limiting requests"),
        ({"message": "printed, not JSON"}, "printed, not JSON"),
    ],
)  # fmt: skip
def test_entry_says_what_happened(entry: dict[str, Any], what: str) -> None:
    assert what in cells(entry)


@pytest.mark.parametrize(
    "entry",
    [
        {"_aws": {"Timestamp": 1}, "RefundOutcomes": [1.0]},
        {"_aws": {"Timestamp": 1}, "UpstreamLatency": [12.5], "operation": "check_status"},
        {"message": "batch", "messages": 1, "again": 0},
        {"message": "anything", "queued": 0, "leases_expired": 0},
        {"message": "request", "request_id": "r", "status": 200},
        {"message": ""},
    ],
)
def test_entry_for_machines_is_not_shown(entry: dict[str, Any]) -> None:
    assert shown(entry) is None


def test_upstream_metrics_are_shown_where_no_simulator_reports_the_calls() -> None:
    metric = {"_aws": {"Timestamp": 1}, "UpstreamLatency": [12.5], "operation": "check_status"}
    assert cells(metric, Formatter(shows_upstream_metrics=True))[1:] == ["Indodana check_status", "12 ms"]


def test_reason_of_a_refusal_stands_below_its_request() -> None:
    formatter = Formatter()
    function = {
        "message": "request",
        "request_id": "r1",
        "status": 503,
        "error": "LedgerUnavailable: no answer",
        "cause": "ReadTimeoutError: x",
    }
    request = {"event": "request", "method": "GET", "target": "/x", "status": 503, "request_id": "r1"}
    assert shown(function, formatter) is None
    first, *below = str(shown(request, formatter)).splitlines()
    assert "GET /x → 503" in first
    assert [line.strip() for line in below] == ["because LedgerUnavailable: no answer", "cause ReadTimeoutError: x"]
    assert "because" not in str(shown(request | {"request_id": "r2"}, formatter))
    assert "because the token has expired" in str(shown(request | {"why": "the token has expired"}))


def test_traceback_stands_below_its_line() -> None:
    trace = 'Traceback (most recent call last):\n  File "x.py", line 1\nRuntimeError: no money moved'
    text = str(shown({"event": "failure", "message": "F failed: RuntimeError", "exception": trace, "level": "ERROR"}))
    assert [line[14:] for line in text.splitlines()[1:]] == trace.splitlines()


def test_long_message_is_wrapped_below_its_line() -> None:
    message = "the message " + "was invalid and " * 12
    first, *below = str(shown({"message": message, "correlation_id": "c"})).splitlines()
    assert first.endswith("  c")
    assert " ".join([first[WHAT:].rpartition("  c")[0].strip(), *(line.strip() for line in below)]) == message.strip()


def test_lines_of_a_request_share_its_order() -> None:
    formatter = Formatter()
    shown(REFUND, formatter)
    waits = {"message": "it waits", "correlation_id": "till-3"}
    assert cells(waits, formatter)[1:] == ["m1", "ORDER-PAID", "it waits", "till-3"]
    assert cells(waits | {"correlation_id": "another"}, formatter)[1:] == ["it waits", "another"]
    message = {"event": "message", "outcome": "done", "merchant_order_id": "ORDER-PAID", "correlation_id": "till-3"}
    assert cells(message, formatter)[1:3] == ["m1", "ORDER-PAID"], "the merchant is known from the refund's line"
    assert cells(message | {"merchant_order_id": "OTHER"}, formatter)[1] == "OTHER"


@pytest.mark.parametrize(
    ("entry", "at"),
    [
        ({"at": AT}, datetime(2026, 11, 27, 14, 3, 11, 402000, UTC)),
        ({"timestamp": "2026-11-27 14:03:11,402+0000"}, datetime(2026, 11, 27, 14, 3, 11, 402000, UTC)),
        ({"timestamp": "2026-11-27 21:03:11,402+0700"}, datetime(2026, 11, 27, 14, 3, 11, 402000, UTC)),
        ({"_aws": {"Timestamp": 1_800_000_000_500}}, datetime(2027, 1, 15, 8, 0, 0, 500000, UTC)),
        ({"timestamp": "yesterday"}, None),
        ({"at": 7}, None),
        ({}, None),
    ],
)
def test_time_is_read_from_each_kind_of_entry(entry: dict[str, Any], at: datetime | None) -> None:
    assert time_of(entry) == at


def test_line_that_is_not_json_is_a_message() -> None:
    assert parse("Traceback") == {"message": "Traceback"}
    assert parse("[1]") == {"message": "[1]"}
    assert parse('{"a": 1}') == {"a": 1}


def test_headings_stand_over_their_columns() -> None:
    entry = REFUND | {"ms": 48}
    text = str(shown(entry))
    columns = {"merchant": "m1", "order": "ORDER-PAID", "what happened": "refund", "request": "till-3"}
    for name, value in columns.items():
        assert heading().index(name) == text.index(value)
    assert heading().index("took") + len("took") == text.index(" ms") + len(" ms")


class Terminal(io.StringIO):
    def isatty(self) -> bool:
        return True


def test_colours_are_for_terminals_alone(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("NO_COLOR", raising=False)
    for level, colour in {"ERROR": RED, "WARNING": YELLOW}.items():
        line = Formatter().line({"at": AT, "message": "x", "level": level})
        assert line is not None
        assert Painter(Terminal()).paint(line) == f"{colour}{line.text()}{PLAIN}"
        assert Painter(io.StringIO()).paint(line) == line.text()
        monkeypatch.setenv("NO_COLOR", "1")
        assert Painter(Terminal()).paint(line) == line.text()
        monkeypatch.delenv("NO_COLOR")


# The files behind it


def test_journal_writes_json_to_the_files_and_lines_to_the_console(tmp_path: Any) -> None:
    console = io.StringIO()
    journal = Journal(tmp_path, console, Formatter())
    out = LineWriter(journal.function_line)
    print(json.dumps(REFUND), file=out)
    print("no", "JSON", file=out)
    journal.report({"event": "notice", "message": "é"})
    journal.close()
    print("after the end", file=out)
    assert (tmp_path / FUNCTIONS_LOG).read_text().splitlines() == [json.dumps(REFUND), "no JSON"]
    (entry,) = map(json.loads, (tmp_path / STACK_LOG).read_text().splitlines())
    assert (entry["event"], entry["message"]) == ("notice", "é")
    assert datetime.fromisoformat(entry["at"]).tzinfo
    assert [line[WHAT:].strip() for line in console.getvalue().splitlines()][1:] == ["no JSON", "é", "after the end"]


def test_closed_console_stops_nothing(tmp_path: Any) -> None:
    console = io.StringIO()
    journal = Journal(tmp_path, console, Formatter())
    console.close()
    journal.report({"event": "notice", "message": "still written"})
    journal.close()
    assert "still written" in (tmp_path / STACK_LOG).read_text()
