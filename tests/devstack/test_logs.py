"""`make logs`: what the console has shown, from the files, and of one order, refund or request alone."""

import json
from pathlib import Path
from typing import Any

import pytest

from devstack import local_files, logs
from devstack.local_files import FUNCTIONS_LOG, STACK_LOG
from devstack.logs import Filter

A, B = "6f2a1b3c" + "0" * 24, "77777777" + "0" * 24


def function(second: int, **entry: Any) -> dict[str, Any]:
    return {"timestamp": f"2026-11-27 14:00:{second:02},500+0000", **entry}


def stack(second: int, **entry: Any) -> dict[str, Any]:
    return {"at": f"2026-11-27T14:00:{second:02}.750000+00:00", **entry}


FUNCTIONS = [
    function(1, message="refund", refund_id=A, status="QUEUED", merchant_order_id="O-1", correlation_id="c1"),
    function(2, message="it waits", correlation_id="c1"),
    "printed by somebody",
    function(4, message="refund", refund_id=B, status="FAILED", merchant_order_id="O-1", correlation_id="c2"),
    function(5, message="refund", refund_id="888", status="FAILED", merchant_order_id="O-2", correlation_id="c3"),
    function(6, message="refund", refund_id="999", status="FAILED", merchant_order_id="O-1", correlation_id="c3"),
]
STACK = [
    stack(1, event="request", method="POST", target="/one", status=202, merchant_order_id="O-1", correlation_id="c1"),
    stack(3, event="notice", message="of nobody"),
    stack(5, event="request", method="GET", target="/two", status=200, merchant_order_id="O-2", request_id="r9"),
]


@pytest.fixture
def directory(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    for name, entries in ((FUNCTIONS_LOG, FUNCTIONS), (STACK_LOG, STACK)):
        lines = [entry if isinstance(entry, str) else json.dumps(entry) for entry in entries]
        (tmp_path / name).write_text("".join(f"{line}\n" for line in lines))
    monkeypatch.setenv("LOCAL_DIR", str(tmp_path))
    return tmp_path


def shown(directory: Path, **filters: str) -> list[str]:
    found = Filter(**filters).select(logs.entries(directory))
    return [str(entry.get("refund_id") or entry.get("target") or entry["message"])[:8] for entry in found]


def test_both_files_are_shown_in_the_order_of_their_times(directory: Path) -> None:
    everything = [A[:8], "/one", "it waits", "printed ", "of nobod", B[:8], "888", "/two", "999"]
    assert shown(directory) == everything


@pytest.mark.parametrize(
    ("filters", "lines"),
    [
        ({"order": "O-1"}, [A[:8], "/one", "it waits", B[:8], "999"]),
        ({"order": "O-2"}, ["888", "/two"]),
        ({"order": "O"}, []),
        ({"refund": "6f2a"}, [A[:8], "/one", "it waits"]),
        ({"refund": A}, [A[:8], "/one", "it waits"]),
        ({"refund": "888"}, ["888"]),
        ({"correlation": "c1"}, [A[:8], "/one", "it waits"]),
        ({"correlation": "c3"}, ["888", "999"]),
        ({"correlation": "r9"}, ["/two"]),
        ({"order": "O-1", "correlation": "c3"}, ["999"]),
        ({"order": "O-2", "refund": "6f2a"}, []),
    ],
)
def test_filter_keeps_its_lines_and_the_silent_ones_of_their_requests(
    directory: Path, filters: dict[str, str], lines: list[str]
) -> None:
    assert shown(directory, **filters) == lines


def test_command_prints_readable_lines(directory: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert logs.main(["--order", "O-2"]) == 0
    heading, first, second = capsys.readouterr().out.splitlines()
    assert heading.startswith("time")
    assert "refund 888 FAILED" in first
    assert "GET /two → 200" in second


def test_command_says_where_no_line_matches(directory: Path, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit, match="1"):
        logs.main(["--order", "O-3"])
    assert capsys.readouterr().err == f"{directory} has no such line\n"


def test_command_says_where_no_stack_has_run(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.delenv("LOCAL_DIR", raising=False)
    monkeypatch.setenv("PORT", "9001")
    monkeypatch.setattr(local_files, "LOCAL_ROOT", tmp_path)
    (tmp_path / "9000").mkdir()
    (tmp_path / "9000" / "stack.json").write_text("{}")
    with pytest.raises(SystemExit, match="1"):
        logs.main([])
    said = f"{tmp_path}/9001 has no logs: no stack has run on this PORT; PORT=9000 has\n"
    assert capsys.readouterr().err == said
