"""One recovery run over 100,000 open refunds, of which 10,000 are overdue.

`make scale` (bench/scale.py) runs the real handler in its own process against the stub, whose calls take 5 ms. What
counts is the time that the run would take on Lambda: its CPU time, with the share of a CPU that its memory gives it,
and its calls' latency, one after the other as far as they were made so. Both are nearly the same on a busy machine,
where the run itself takes longer; so here it may.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, replace
from datetime import UTC, datetime, timedelta
from decimal import Decimal
from itertools import batched
from typing import Any

from bench.events import recovery_event
from bench.functions import Function, model_against
from bench.growth import Check
from bench.stub import CALL_SECONDS, Stub, in_series

OPEN, OVERDUE = 100_000, 10_000
AT_ONCE = 1000  # items that are put into the stub by one request
FULL_CPU_MB = 1769  # the memory with which Lambda gives a function one whole CPU
PATIENCE_SECONDS = 600
RECOVERY = "RecoveryFunction"


@dataclass(frozen=True)
class Backlog:
    """What one run did."""

    result: dict[str, Any]
    calls: int
    calls_in_series: int
    seconds: float
    cpu_seconds: float
    cpu_share: float

    @property
    def lambda_seconds(self) -> float:
        """If its CPU is as fast as this machine's. At most: its threads compute while others of them wait."""
        return self.cpu_seconds / self.cpu_share + self.calls_in_series * CALL_SECONDS


def run_backlog() -> Backlog:
    with Stub() as stub:
        model = model_against(stub.url)
        function = model.functions[RECOVERY]
        patient = replace(function, timeout_seconds=PATIENCE_SECONDS)
        model = replace(model, functions={**model.functions, RECOVERY: patient})
        stub.set_latencies(upstream=0.0)
        with Function(model, RECOVERY) as recovery:
            recovery.invoke(recovery_event())  # creates the clients
            stub.take_calls()
            for items in batched(_items(datetime.now(UTC)), AT_ONCE, strict=False):
                stub.put_items(model.tables["LedgerTable"].name, items)
            invocation = recovery.invoke(recovery_event())
        calls = stub.take_calls()
    return Backlog(
        invocation.result,
        len(calls),
        in_series(calls),
        invocation.seconds,
        invocation.cpu_seconds,
        min(1.0, function.memory_mb / FULL_CPU_MB),
    )


def backlog_text(backlog: Backlog) -> str:
    return (
        f"One recovery run, {OPEN:,} open refunds, {OVERDUE:,} of them overdue: {backlog.cpu_seconds:.1f} s of CPU, "
        f"{backlog.calls:,} calls, {backlog.calls_in_series:,} of them one after the other; on Lambda at most "
        f"{backlog.lambda_seconds:.1f} s, with {backlog.cpu_share:.2f} of a CPU; {backlog.seconds:.1f} s here"
    )


def check_backlog(backlog: Backlog) -> list[Check]:
    from gateway.refunds.recovery import STOP_SECONDS

    timeout = model_against("http://localhost").functions[RECOVERY].timeout_seconds
    most = timeout - STOP_SECONDS
    found = {name: backlog.result[name] for name in ("looked_at", "enqueued", "errors")}
    return [
        Check(
            f"Recovery: one run looked at {found['looked_at']:,} of {OPEN:,} open refunds, enqueued "
            f"{found['enqueued']:,} of {OVERDUE:,} overdue ones, failed at {found['errors']}",
            found == {"looked_at": OPEN, "enqueued": OVERDUE, "errors": 0},
        ),
        Check(
            f"Recovery: seconds for this run on Lambda: {backlog.lambda_seconds:.1f}, at most {most:g}",
            backlog.lambda_seconds <= most,
        ),
    ]


def _items(now: datetime) -> Iterator[dict[str, Any]]:
    """QUEUED refunds of as many orders; each tenth has waited for an hour longer than it should have."""
    from gateway.core.context import RequestContext
    from gateway.core.items import from_refund
    from gateway.core.model import OrderKey, Reason, RefundRequest, new_refund
    from gateway.core.transitions import RefundStatus

    context = RequestContext("agent-7", "api", "a" * 32)
    for number in range(OPEN):
        order = OrderKey("local-merchant", f"ORDER-BACKLOG-{number:06}")
        request = RefundRequest(order, f"key-{number:06}", Decimal(25_000), Reason.OTHERS, None, "agent-7")
        due = now + timedelta(hours=-1 if number % (OPEN // OVERDUE) == 0 else 1)
        refund = new_refund(
            request,
            RefundStatus.QUEUED,
            now - timedelta(hours=2, milliseconds=number),
            context,
            reserved_amount=Decimal(25_000),
            transaction_amount=Decimal(100_000),
            next_attempt_at=due,
            queue_message=f"{number:032x}",
        )
        yield from_refund(refund)
