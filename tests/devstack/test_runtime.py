"""The functions' runtime: a context, a timeout, JSON in and out."""

import threading
from collections.abc import Mapping
from typing import Any

import pytest

from devstack.runtime import FunctionError, Runtime, StillRunningError
from devstack.template import Function


def runtime(handler: Any, timeout_seconds: float = 5, **options: Any) -> Runtime:
    function = Function("F", "shop-F", "f.handler", timeout_seconds, 256, {}, "arn:aws:lambda:r:1:function:shop-F")
    return Runtime({"F": function}, {"F": handler}, **options)


def test_handler_gets_a_context_with_the_templates_timeout_and_memory() -> None:
    def handler(event: Any, context: Any) -> Any:
        assert isinstance(context.aws_request_id, str)
        assert 4000 < context.get_remaining_time_in_millis() <= 5000
        return [event, context.function_name, context.memory_limit_in_mb, context.invoked_function_arn]

    assert runtime(handler).invoke("F", {"a": 1}) == [{"a": 1}, "shop-F", 256, "arn:aws:lambda:r:1:function:shop-F"]


@pytest.mark.parametrize("result", [{1, 2}, object(), b"bytes"])
def test_result_that_is_not_json_is_a_failed_invocation(result: Any) -> None:
    with pytest.raises(FunctionError):
        runtime(lambda *_: result).invoke("F", {})


def test_handler_that_raises_shows_its_traceback_on_stderr(capfd: pytest.CaptureFixture[str]) -> None:
    def handler(*_: Any) -> Any:
        raise RuntimeError("no money moved")

    with pytest.raises(FunctionError):
        runtime(handler).invoke("F", {})
    assert "RuntimeError: no money moved" in capfd.readouterr().err


def test_handler_out_of_time_fails_and_a_stop_waits_for_it() -> None:
    release = threading.Event()
    slow = runtime(lambda *_: release.wait(5), timeout_seconds=0.05)
    with pytest.raises(FunctionError):
        slow.invoke("F", {})
    assert not slow.drain(0.05)
    release.set()
    assert slow.drain(5)


def test_callers_patience_is_told_from_the_functions_timeout() -> None:
    release = threading.Event()
    slow = runtime(lambda *_: release.wait(5))
    with pytest.raises(StillRunningError):
        slow.invoke("F", {}, 0.05)
    release.set()
    assert slow.drain(5)


def test_failure_is_reported_with_function_request_id_and_traceback() -> None:
    events: list[Mapping[str, Any]] = []
    ids: list[str] = []

    def handler(_: Any, context: Any) -> Any:
        ids.append(context.aws_request_id)
        raise RuntimeError("no money moved")

    with pytest.raises(FunctionError):
        runtime(handler, report=events.append).invoke("F", {})
    (event,) = events
    assert event["message"] == "F failed: RuntimeError: no money moved"
    assert event["exception"].startswith("Traceback (most recent call last):")
    assert (event["event"], event["function"], event["request_id"]) == ("failure", "F", ids[0])


def test_timeout_is_reported_without_a_traceback() -> None:
    events: list[Mapping[str, Any]] = []
    release = threading.Event()
    slow = runtime(lambda *_: release.wait(5), timeout_seconds=0.05, report=events.append)
    with pytest.raises(FunctionError):
        slow.invoke("F", {})
    release.set()
    assert slow.drain(5)
    assert [(event["message"], "exception" in event) for event in events] == [("F timed out after 0.05 s", False)]
