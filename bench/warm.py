"""Warm invocations: running processes, called in alternating blocks, against the stub."""

from __future__ import annotations

import json
import statistics
import subprocess
import time
import uuid
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from contextlib import AbstractContextManager
from types import TracebackType
from typing import Any, Self

from bench.figures import rotated
from bench.layout import SUBJECTS, Sandbox
from bench.stub import Call, Stub
from devstack.samconfig import ROOT

EVENTS = ROOT / "events"
SAMPLE_ORDER = "ORDER-PAID"  # the one that the sample events are about
BATCH = 10

Event = dict[str, Any]


class UnexpectedAnswer(Exception):
    """A measured process did not do what it was asked to, so its time means nothing."""


# ---- events


def status_event(order: str) -> Event:
    return sample("status_check/paid.json", order)


def refund_event(order: str) -> Event:
    """A new refund each time."""
    event = sample("refund_api/partial.json", order)
    event["headers"]["idempotency-key"] = uuid.uuid4().hex
    return event


def batch_event(orders: Sequence[str]) -> Event:
    """One message for each order, with a new refund."""
    records = []
    for order in orders:
        (record,) = sample("refund_worker/one.json")["Records"]
        body = json.loads(record["body"]) | {"merchantOrderId": order, "idempotencyKey": uuid.uuid4().hex}
        records.append(record | {"messageId": str(uuid.uuid4()), "body": json.dumps(body)})
    return {"Records": records}


def sample(name: str, order: str = SAMPLE_ORDER) -> Event:
    """events/<name> for this order."""
    event: Event = json.loads((EVENTS / name).read_text(encoding="utf-8").replace(SAMPLE_ORDER, order))
    return event


# ---- a measured process


class Process(AbstractContextManager["Process"]):
    def __init__(self, sandbox: Sandbox) -> None:
        self._sandbox = sandbox
        self.peak_mib = 0.0
        """Since the start of the process."""

    def __enter__(self) -> Self:
        arguments = self._sandbox.arguments(str(SUBJECTS / "drive.py"), self._sandbox.handler)
        self._process = subprocess.Popen(**arguments, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
        return self

    def __exit__(self, *_: type[BaseException] | BaseException | TracebackType | None) -> None:
        with self._process:  # closes the pipes, and waits
            pass

    def call(self, events: Sequence[Event]) -> list[float]:
        """The seconds that each event took. Raises UnexpectedAnswer."""
        assert self._process.stdin
        assert self._process.stdout
        self._process.stdin.write(json.dumps(events) + "\n")
        self._process.stdin.flush()
        line = self._process.stdout.readline()
        if not line:
            raise UnexpectedAnswer(f"{self._sandbox.handler} ended")
        answer = json.loads(line)
        for result in answer["results"]:
            if result.get("statusCode") not in (200, 201) and result != {"batchItemFailures": []}:
                raise UnexpectedAnswer(f"{self._sandbox.handler}: {result}")
        if answer["clientsMadeLate"]:
            raise UnexpectedAnswer(
                f"{self._sandbox.handler} creates AWS clients during an invocation, where no cold start measures them"
            )
        self.peak_mib = answer["peakKib"] / 1024
        seconds: list[float] = answer["seconds"]
        return seconds


# ---- measurements


def blocks(
    processes: Mapping[str, Process], events: Mapping[str, Callable[[], Event]], rounds: int, calls: int
) -> dict[str, list[float]]:
    """Milliseconds by name: the median of each round. The order of processes rotates."""
    names = list(processes)
    taken: dict[str, list[float]] = {name: [] for name in names}
    for number in range(rounds):
        for name in rotated(names, number):
            seconds = processes[name].call([events[name]() for _ in range(calls)])
            taken[name].append(statistics.median(seconds) * 1000)
    return taken


def calls_of(stub: Stub, process: Process, event: Event) -> list[Call]:
    stub.take_calls()
    process.call([event])
    return stub.take_calls()


def to_aws(calls: Sequence[Call]) -> list[Call]:
    return [call for call in calls if call.service != "indodana"]


def most_conflicts(calls: Sequence[Call]) -> int:
    """The number of writes that failed by a conflict, for the refund with the most."""
    refused = Counter(item for call in calls if call.conflicts for item in call.items if "/REFUND#" in item)
    return max(refused.values(), default=0)


def secrets_calls(stub: Stub, sandbox: Sandbox, requests: int) -> tuple[int, float]:
    """The calls to Secrets Manager for so many requests of a new process, and the seconds that these took."""
    stub.set_latencies(upstream=0.0, call=0.0, transaction=0.0)
    stub.take_calls()
    with Process(sandbox) as process:
        began = time.monotonic()
        process.call([status_event("SECRETS-1") for _ in range(requests)])
        took = time.monotonic() - began
    return sum(call.service == "secretsmanager" for call in stub.take_calls()), took
