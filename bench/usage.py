"""What one status check and one refund use of AWS: calls, request units and bytes as counted, CPU time as measured.

    python -m bench.usage

runs each way that a refund goes through the functions, warm and undisturbed, against the metered stub, and keeps what
it took in bench/usage.json. docs/cost.md is computed from that. tests/integration/test_usage.py counts again, and fails
where the two differ.
"""

from __future__ import annotations

import json
import platform
import statistics
from collections import Counter
from collections.abc import Callable, Sequence
from contextlib import ExitStack
from dataclasses import asdict, dataclass
from datetime import timedelta
from operator import attrgetter
from pathlib import Path
from typing import Any

from bench.events import recovery_event, refund_later_event
from bench.functions import Function, Invocation, model_against
from bench.growth import POLLING
from bench.metered import MeteredCall, MeteredStub
from bench.poller import Poller
from bench.warm import BATCH, batch_event, refund_event, status_event
from devstack.aws import prepare_environment

KEPT = Path(__file__).parent / "usage.json"
ROUNDS = 200
DUE, DUE_ROUNDS = 20, 3
WARM_UP = 5  # a process's first calls make its clients and fill its caches


MEASURED = ("stored_bytes", "bytes_sent", "bytes_answered", "log_bytes", "metric_bytes", "cpu_ms")


@dataclass(frozen=True)
class Usage:
    """Of one invocation."""

    function: str
    works: int
    """Status checks or refunds, all at the same time."""
    calls: dict[str, int]
    write_units: float
    """Of both tables, without the index."""
    audit_write_units: float
    index_write_units: float
    read_units: float
    log_lines: int
    """Metrics among them."""
    metrics: list[str]
    """Custom metrics: each name with its dimensions' values is one."""
    # Medians, of what is not quite the same each time: numbers and times have more digits or fewer.
    stored_bytes: float
    bytes_sent: float
    """To Indodana."""
    bytes_answered: float
    log_bytes: float
    """Without the metrics."""
    metric_bytes: float
    cpu_ms: float
    """On the machine where it was measured."""

    def counted(self) -> dict[str, Any]:
        """What is the same each time, and on every machine."""
        return {name: value for name, value in asdict(self).items() if name not in MEASURED}


class NotAlike(Exception):
    """Invocations that should make the same calls made different ones."""


def measure(rounds: int) -> dict[str, Usage]:
    prepare_environment()
    with MeteredStub() as stub, ExitStack() as stack:
        stub.set_latencies(upstream=0.0)
        model = model_against(stub.url)
        poller = Poller(stub, model)
        status_check, api, worker, reconciler = (
            stack.enter_context(Function(model, f"{name}Function"))
            for name in ("StatusCheck", "RefundApi", "RefundWorker", "Reconciler")
        )
        orders = (f"ORDER-{number:06}" for number in range(10**6))

        def usage(name: str, works: int, invoke: Callable[[], Invocation]) -> Usage:
            for _ in range(WARM_UP):
                invoke()
            each = []
            for _ in range(rounds):
                stub.take_metered()
                invocation = invoke()
                each.append(_usage(f"{name}Function", works, invocation, stub.take_metered()))
            return _typical(each)

        def accept() -> Invocation:
            return api.invoke(refund_later_event(next(orders)))

        def work_accepted() -> Invocation:
            accept()
            stub.take_metered()
            (invocation,) = poller.work([worker]).invocations
            return invocation

        # Each finds what the one before it enqueued more than twice as long overdue, which is time for another message.
        ahead = [
            stack.enter_context(Function(model, "RecoveryFunction", clock_ahead=timedelta(hours=3**round_)))
            for round_ in range(DUE_ROUNDS)
        ]
        for function in ahead:
            function.invoke(recovery_event())

        def reconcile_due() -> Usage:
            for _ in range(DUE):
                accept()
            each = []
            for function in ahead:
                stub.take_metered()
                invocation = function.invoke(recovery_event())
                each.append(_usage("RecoveryFunction", DUE, invocation, stub.take_metered()))
            poller.work([worker])
            return _typical(each)

        return {
            "status check": usage("StatusCheck", 1, lambda: status_check.invoke(status_event(next(orders)))),
            "refund by API": usage("RefundApi", 1, lambda: api.invoke(refund_event(next(orders)))),
            "further refund by API": usage("RefundApi", 1, lambda: api.invoke(refund_event("ORDER-KNOWN"))),
            "batch of refunds": usage(
                "RefundWorker", BATCH, lambda: worker.invoke(batch_event([next(orders) for _ in range(BATCH)]))
            ),
            "batch of one refund": usage("RefundWorker", 1, lambda: worker.invoke(batch_event([next(orders)]))),
            "reconciler": usage("Reconciler", 1, lambda: reconciler.invoke(recovery_event())),
            "batch of one accepted refund": usage("RefundWorker", 1, work_accepted),
            # The last two leave refunds open, and are in this order for it.
            "reconciler with refunds due": reconcile_due(),
            "refund accepted for later": usage("RefundApi", 1, accept),
        }


def _usage(function: str, works: int, invocation: Invocation, calls: Sequence[MeteredCall]) -> Usage:
    own = [call for call in calls if call.operation not in POLLING]
    failed = [call for call in own if call.error]
    if failed or invocation.result.get("statusCode", 200) >= 400 or invocation.result.get("batchItemFailures"):
        raise NotAlike(f"{function}: {failed} {invocation.result}")
    headers = invocation.result.get("headers", {})
    lines = invocation.output.splitlines(keepends=True)
    metrics = [(line, _metrics(json.loads(line))) for line in lines]
    return Usage(
        function=function,
        works=works,
        calls=dict(sorted(Counter(f"{call.service}.{call.operation}" for call in own).items())),
        write_units=sum(call.write_units for call in own),
        audit_write_units=sum(call.audit_write_units for call in own),
        index_write_units=sum(call.index_write_units for call in own),
        read_units=sum(call.read_units for call in own),
        log_lines=len(lines),
        metrics=sorted({name for _, names in metrics for name in names}),
        stored_bytes=sum(call.stored_bytes for call in own),
        bytes_sent=sum(call.bytes_sent for call in own),
        bytes_answered=len(invocation.result.get("body", ""))
        + sum(len(f"{name}: {value}\r\n") for name, value in headers.items()),
        log_bytes=sum(len(line.encode()) for line, names in metrics if not names),
        metric_bytes=sum(len(line.encode()) for line, names in metrics if names),
        cpu_ms=invocation.cpu_seconds * 1000,
    )


def _metrics(line: dict[str, Any]) -> list[str]:
    """Those that CloudWatch makes of a line in its embedded metric format."""
    return [
        f"{metric['Name']}({', '.join(f'{name}={line[name]}' for name in sorted(dimensions))})"
        for directive in line.get("_aws", {}).get("CloudWatchMetrics", [])
        for dimensions in directive["Dimensions"]
        for metric in directive["Metrics"]
    ]


def _typical(usages: Sequence[Usage]) -> Usage:
    first = usages[0]
    if any(usage.counted() != first.counted() for usage in usages):
        raise NotAlike(f"{first.function}: {first.counted()}")

    medians = {name: statistics.median(map(attrgetter(name), usages)) for name in MEASURED}
    return Usage(**first.counted(), **{name: round(median, 1) for name, median in medians.items()})


def load() -> dict[str, Usage]:
    content = json.loads(KEPT.read_text(encoding="utf-8"))
    return {name: Usage(**usage) for name, usage in content["usage"].items()}


def main() -> None:
    usage = {name: asdict(found) for name, found in measure(ROUNDS).items()}
    machine = {"python": platform.python_version(), "machine": platform.machine(), "rounds": ROUNDS}
    KEPT.write_text(json.dumps({"measured on": machine, "usage": usage}, indent=1) + "\n", encoding="utf-8")
    for name, found in usage.items():
        print(f"{name}: {found}")


if __name__ == "__main__":
    main()
