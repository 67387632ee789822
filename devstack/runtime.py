"""Runs the handlers in this process as Lambda would: JSON in, JSON out, a context, a timeout."""

import importlib
import json
import math
import os
import sys
import threading
import time
import traceback
import uuid
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

from devstack.errors import DevstackError, TemplateError
from devstack.events import Report, to_stderr
from devstack.template import Function, Model


class FunctionError(DevstackError):
    """The handler raised, or returned what is not JSON."""


class FunctionTimeoutError(FunctionError):
    """The handler was still running at its timeout."""


class StillRunningError(FunctionError):
    """The caller stopped waiting before the function's timeout."""


@dataclass(frozen=True)
class Context:
    """What Lambda gives a handler beside the event."""

    function: Function
    deadline: float
    aws_request_id: str = field(default_factory=lambda: str(uuid.uuid4()))
    function_version: str = "$LATEST"
    log_stream_name: str = "local"
    identity: None = None
    client_context: None = None

    @property
    def function_name(self) -> str:
        return self.function.name

    @property
    def memory_limit_in_mb(self) -> int:
        return self.function.memory_mb

    @property
    def invoked_function_arn(self) -> str:
        return self.function.arn

    @property
    def log_group_name(self) -> str:
        return f"/aws/lambda/{self.function.name}"

    def get_remaining_time_in_millis(self) -> int:
        return max(0, int((self.deadline - time.monotonic()) * 1000))


type Handler = Callable[[Any, Any], Any]


class Runtime:
    """The functions of one stack. Each invocation has its own thread, as it has its own sandbox in AWS."""

    def __init__(
        self, functions: Mapping[str, Function], handlers: Mapping[str, Handler], report: Report = to_stderr
    ) -> None:
        self._functions = functions
        self._handlers = handlers
        self._report = report
        self._idle = threading.Condition()
        self._running = 0

    def invoke(self, logical_id: str, event: Any, patience_seconds: float = math.inf) -> Any:
        """The handler's result. A FunctionError has been reported already, with its traceback."""
        function = self._functions[logical_id]
        outcome: list[tuple[Any, BaseException | None]] = []
        context = Context(function, time.monotonic() + function.timeout_seconds)
        # Through JSON, as in AWS: a handler gets no object of ours, and a result that is not JSON fails here too.
        sent = json.loads(json.dumps(event))

        def run() -> None:
            try:
                outcome.append((json.loads(json.dumps(self._handlers[logical_id](sent, context))), None))
            except BaseException as error:  # sys.exit() in a handler is a failed invocation, too
                outcome.append((None, error))
            finally:
                with self._idle:
                    self._running -= 1
                    self._idle.notify_all()

        with self._idle:
            self._running += 1
        thread = threading.Thread(target=run, name=f"{logical_id}-{context.aws_request_id}", daemon=True)
        thread.start()
        thread.join(min(function.timeout_seconds, patience_seconds))
        if not outcome:
            if patience_seconds < function.timeout_seconds:
                raise StillRunningError(logical_id)
            # Lambda would kill it; a thread cannot be killed, so it runs on.
            timed_out = f"{logical_id} timed out after {function.timeout_seconds:g} s"
            self._report(_failure(timed_out, logical_id, context))
            raise FunctionTimeoutError(logical_id)
        result, error = outcome[0]
        if error is not None:
            failed = f"{logical_id} failed: {type(error).__name__}: {error}"
            trace = "".join(traceback.format_exception(error)).rstrip()
            self._report(_failure(failed, logical_id, context) | {"exception": trace})
            raise FunctionError(logical_id) from error
        return result

    def drain(self, seconds: float) -> bool:
        """Waits until no invocation runs. False where one still does after so many seconds."""
        with self._idle:
            return self._idle.wait_for(lambda: self._running == 0, seconds)


def _failure(message: str, logical_id: str, context: Context) -> dict[str, Any]:
    request_id = context.aws_request_id
    return {"event": "failure", "message": message, "level": "ERROR", "function": logical_id, "request_id": request_id}


def load_runtime(model: Model, report: Report = to_stderr) -> Runtime:
    """Imports every handler, with the template's environment and Lambda's order of sys.path: functions, then layers."""
    os.environ.update(model.environment())
    paths = [str(path) for path in model.code_paths]
    for path in model.code_paths:
        if not path.is_dir():
            raise TemplateError(f"the template names the folder {path} as code, and it does not exist")
    sys.path[:0] = [path for path in paths if path not in sys.path]
    handlers = {name: _handler(function) for name, function in model.functions.items()}
    return Runtime(model.functions, handlers, report)


def _handler(function: Function) -> Handler:
    module_name, _, attribute = function.handler.rpartition(".")
    try:
        handler = getattr(importlib.import_module(module_name), attribute, None)
    except ImportError as error:
        raise DevstackError(
            f"{function.logical_id}'s handler {function.handler} cannot be imported: {error}"
        ) from error
    if not callable(handler):
        raise DevstackError(f"{function.logical_id}'s handler {function.handler} does not exist")
    result: Handler = handler
    return result
