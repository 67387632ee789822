"""The functions, each in its own process as in Lambda, one event at a time.

They are forked from a process that has imported everything (bench/preload.py), so that 64 start in a moment.
"""

from __future__ import annotations

import json
import multiprocessing
import os
import sys
import time
from contextlib import AbstractContextManager, suppress
from dataclasses import dataclass
from datetime import timedelta
from multiprocessing.connection import Connection
from types import TracebackType
from typing import Any, Self

from devstack.runtime import FunctionError, load_runtime
from devstack.template import Model, Template

# Lambda sets one for each traced invocation, and every log line has it.
TRACE_ID = "Root=1-6746d7a0-3f2a1c0b5d4e6f7081920a1b;Parent=53995c3f42cd8ad8;Sampled=1"

_STOP = None


@dataclass(frozen=True)
class Invocation:
    """The result of one event."""

    result: Any
    seconds: float
    cpu_seconds: float
    """Of all threads of its process."""


class InvocationFailed(Exception):
    """A function raised or timed out."""


def model_against(url: str) -> Model:
    """The template's model with AWS and Indodana replaced by the stub."""
    return Template.load_local(endpoint_url=url, upstream_url=url).model()


class Function(AbstractContextManager["Function"]):
    """One process. `clock_ahead`: how much its wall clock is ahead.

    devstack.aws.prepare_environment() must have been called before the first one.
    """

    def __init__(self, model: Model, logical_id: str, *, clock_ahead: timedelta = timedelta(0)) -> None:
        self._arguments = (model, logical_id, clock_ahead)

    def __enter__(self) -> Self:
        context = multiprocessing.get_context("forkserver")
        context.set_forkserver_preload(["bench.preload"])
        self.pipe, other = context.Pipe()
        self._process = context.Process(target=_serve, args=(other, *self._arguments), daemon=True)
        self._process.start()
        other.close()
        return self

    def __exit__(self, *_: type[BaseException] | BaseException | TracebackType | None) -> None:
        with suppress(OSError):  # it has already ended, which end() reported
            self.pipe.send(_STOP)
        self._process.join(10)
        self.pipe.close()

    def invoke(self, event: Any) -> Invocation:
        """Raises InvocationFailed."""
        self.begin(event)
        return self.end()

    def begin(self, event: Any) -> None:
        self.pipe.send(event)

    def end(self) -> Invocation:
        """Waits for the result; `pipe` is readable when it is there. Raises InvocationFailed."""
        try:
            answer = self.pipe.recv()
        except (EOFError, OSError) as error:
            raise InvocationFailed(f"{self._arguments[1]} ended") from error
        if isinstance(answer, str):
            raise InvocationFailed(answer)
        assert isinstance(answer, Invocation)
        return answer


def _serve(pipe: Connection, model: Model, logical_id: str, clock_ahead: timedelta) -> None:
    os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())  # what the functions log
    os.environ["_X_AMZN_TRACE_ID"] = TRACE_ID
    runtime = load_runtime(model)
    if clock_ahead:
        _set_clock(clock_ahead)
    while (event := pipe.recv()) is not _STOP:
        began, cpu_began = time.perf_counter(), time.process_time()
        try:
            result = runtime.invoke(logical_id, event)
        except FunctionError as error:
            pipe.send(f"{logical_id}: {error.__cause__!r}")
            continue
        pipe.send(Invocation(result, time.perf_counter() - began, time.process_time() - cpu_began))


def _set_clock(ahead: timedelta) -> None:
    from gateway.core.model import utc_now
    from gateway.runtime import bootstrap
    from gateway.runtime.aws import AwsClients
    from gateway.runtime.settings import Settings

    settings = Settings.from_environment(os.environ)
    gateway = bootstrap.Gateway(settings, AwsClients(), clock=lambda: utc_now() + ahead)
    bootstrap.gateway = lambda: gateway  # type: ignore[assignment]


def body_of(invocation: Invocation) -> Any:
    return json.loads(invocation.result["body"])
