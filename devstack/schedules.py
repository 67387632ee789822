"""Schedules: each runs once when the stack starts, and then at its rate."""

import threading
import time
import uuid
from datetime import UTC, datetime
from typing import Any

from devstack.cloudformation import ACCOUNT_ID
from devstack.events import Report, notice, to_stderr
from devstack.runtime import FunctionError, Runtime
from devstack.template import Schedule


def schedule_event(schedule: Schedule, region: str, moment: datetime) -> dict[str, Any]:
    """The event as EventBridge sends it."""
    return {
        "version": "0",
        "id": str(uuid.uuid4()),
        "detail-type": "Scheduled Event",
        "source": "aws.events",
        "account": ACCOUNT_ID,
        "time": moment.strftime("%Y-%m-%dT%H:%M:%SZ"),
        "region": region,
        "resources": [f"arn:aws:events:{region}:{ACCOUNT_ID}:rule/{schedule.function}{schedule.name}"],
        "detail": {},
    }


class Timer:
    """One schedule in a thread. A run that takes longer than the rate delays the next; two never overlap."""

    def __init__(self, schedule: Schedule, region: str, runtime: Runtime, report: Report = to_stderr) -> None:
        self._schedule = schedule
        self._region = region
        self._runtime = runtime
        self._report = report
        self._stopping = threading.Event()
        self._thread = threading.Thread(target=self._run, name=f"schedule-{schedule.name}", daemon=True)

    def start(self) -> None:
        self._thread.start()

    def stop(self) -> None:
        self._stopping.set()

    def _run(self) -> None:
        while not self._stopping.is_set():
            started = datetime.now(UTC)
            try:
                self._run_once(started)
            except FunctionError:
                pass  # reported already; the next run comes
            except Exception as error:
                self._report(notice(f"the schedule {self._schedule.name} failed", error))
            wait_seconds = (started + self._schedule.rate - datetime.now(UTC)).total_seconds()
            self._stopping.wait(max(0.0, wait_seconds))

    def _run_once(self, started: datetime) -> None:
        clock = time.monotonic()
        result = self._runtime.invoke(self._schedule.function, schedule_event(self._schedule, self._region, started))
        self._report(
            {
                "event": "schedule",
                "name": self._schedule.name,
                "function": self._schedule.function,
                "result": result,
                "ms": round((time.monotonic() - clock) * 1000, 1),
            }
        )
