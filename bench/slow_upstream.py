"""What a slow Indodana costs: refunds that are not made at once, and function time that status checks hold.

    python -m bench.slow_upstream

runs the real handlers, each in its own process, against the stub, and prints two tables:

    first refunds of their orders, by the time of Indodana's answers and of the cold start before: how many are made at
    once (201), and the longest time from API Gateway to the answer

    status checks while Indodana hangs: the function time that a hundred of them take

It exits with 1 if a bound is missed.
"""

from __future__ import annotations

import itertools
import sys
import time
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack
from dataclasses import dataclass

from bench.functions import Function, Invocation, InvocationFailed, model_against
from bench.growth import Check
from bench.stub import Stub
from bench.warm import Event, refund_event, status_event
from devstack.aws import prepare_environment
from devstack.template import Model

# Seconds of Indodana's answers: to a status check, and to a refund.
ANSWERS = ((0.5, 0.2), (1.5, 0.2), (3.0, 0.2), (3.0, 8.0))
# Seconds from API Gateway to the invocation.
COLD_STARTS = (0.0, 1.0, 2.0, 3.0, 4.0, 5.0, 6.0)
REFUNDS = 3  # for each
API_GATEWAY_SECONDS = 30.0

HANG_SECONDS = 60.0  # longer than a status check waits
PROCESSES = 8
POLL_SECONDS = 0.25  # between the end of a check and the next one
POLLING_SECONDS = 40.0
# Without the circuit breaker each check waits for 5 s: 500.
MAX_SECONDS_OF_100 = 60.0


@dataclass(frozen=True)
class Cell:
    """The refunds with one cold start."""

    cold_seconds: float
    at_once: int
    slowest_seconds: float
    """From API Gateway to the answer."""


@dataclass(frozen=True)
class Polling:
    requests: int
    seconds: float
    """Of function time."""

    @property
    def seconds_of_100(self) -> float:
        return self.seconds / self.requests * 100


def taken_before(event: Event, seconds: float) -> Event:
    """API Gateway took the request so long ago."""
    event["requestContext"]["timeEpoch"] = int((time.time() - seconds) * 1000)
    return event


def first_refunds(stub: Stub, model: Model, orders: Iterator[str]) -> Iterator[list[Cell]]:
    """For each of ANSWERS."""
    for status_seconds, refund_seconds in ANSWERS:
        with ExitStack() as stack:
            started = [
                (cold, stack.enter_context(Function(model, "RefundApiFunction")))
                for cold in COLD_STARTS
                for _ in range(REFUNDS)
            ]
            stub.set_latencies(upstream=0.0)
            for _, function in started:  # Lambda creates the clients before the invocation, too
                function.invoke(taken_before(refund_event(next(orders)), 0.0))
            stub.set_latencies(upstream=status_seconds, cancellation=refund_seconds)
            for cold, function in started:
                function.begin(taken_before(refund_event(next(orders)), cold))
            done = [(cold, function.end()) for cold, function in started]
        yield [_cell(cold, [invocation for of, invocation in done if of == cold]) for cold in COLD_STARTS]


def _cell(cold: float, done: Sequence[Invocation]) -> Cell:
    at_once = sum(invocation.result["statusCode"] == 201 for invocation in done)
    return Cell(cold, at_once, cold + max(invocation.seconds for invocation in done))


def hanging_status_checks(stub: Stub, model: Model) -> Polling:
    """Each process checks one status after the other, as callers who poll make it do."""
    stub.set_latencies(upstream=0.0)
    with ExitStack() as stack:
        functions = [stack.enter_context(Function(model, "StatusCheckFunction")) for _ in range(PROCESSES)]
        for number, function in enumerate(functions):
            function.invoke(taken_before(status_event(f"WARM-UP-{number}"), 0.0))
        stub.set_latencies(upstream=HANG_SECONDS)
        until = time.monotonic() + POLLING_SECONDS

        def poll(function: Function) -> list[float]:
            taken = []
            while time.monotonic() < until:
                taken.append(function.invoke(taken_before(status_event("POLLED"), 0.0)).seconds)
                time.sleep(POLL_SECONDS)
            return taken

        with ThreadPoolExecutor(PROCESSES) as pool:
            taken = list(itertools.chain.from_iterable(pool.map(poll, functions)))
    return Polling(len(taken), sum(taken))


# ---- output and checks


def check_refunds(status_seconds: float, refund_seconds: float, cells: Sequence[Cell]) -> list[Check]:
    share = sum(cell.at_once for cell in cells) / (REFUNDS * len(cells))
    slowest = max(cell.slowest_seconds for cell in cells)
    where = f"status in {status_seconds:g} s, refund in {refund_seconds:g} s"
    return [
        Check(f"{where}: {share:.0%} of first refunds made at once, all", share == 1),
        Check(
            f"{where}: answered {slowest:.1f} s after API Gateway took the request, before {API_GATEWAY_SECONDS:g} s",
            slowest < API_GATEWAY_SECONDS,
        ),
    ]


def check_polling(polling: Polling) -> Check:
    held = f"100 status checks while Indodana hangs take {polling.seconds_of_100:.0f} s of function time"
    return Check(f"{held}, at most {MAX_SECONDS_OF_100:g} s", polling.seconds_of_100 <= MAX_SECONDS_OF_100)


def main() -> int:
    prepare_environment()
    checks: list[Check] = []
    orders = (f"SLOW-{number}" for number in itertools.count())
    with Stub() as stub:
        model = model_against(stub.url)
        print(f"First refunds of their orders: how many of {REFUNDS} are made at once; slowest s from API Gateway on")
        print(_row("status s", "refund s", *(f"cold {cold:g} s" for cold in COLD_STARTS)))
        for (status, refund), cells in zip(ANSWERS, first_refunds(stub, model, orders), strict=True):
            texts = (f"{cell.at_once} {cell.slowest_seconds:5.1f}" for cell in cells)
            print(_row(f"{status:g}", f"{refund:g}", *texts), flush=True)
            checks += check_refunds(status, refund, cells)
        polling = hanging_status_checks(stub, model)
    print(f"\n{polling.requests} status checks in {PROCESSES} processes, Indodana hangs: {polling.seconds:.0f} s\n")
    checks.append(check_polling(polling))
    for check in checks:
        print(f"{'passed' if check.passed else 'FAILED'}  {check.text}")
    return 0 if all(check.passed for check in checks) else 1


def _row(*texts: str) -> str:
    return "  ".join(text.rjust(8) for text in texts)


if __name__ == "__main__":
    try:
        raise SystemExit(main())
    except InvocationFailed as error:
        sys.exit(str(error))
