"""Schedules: every one runs once when the stack starts, and then as its expression says."""

import re
import sys
import threading
import uuid
from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from typing import Any

from devstack.cloudformation import ACCOUNT_ID
from devstack.errors import TemplateError
from devstack.runtime import FunctionError, Runtime
from devstack.template import Schedule

UNIT_SECONDS = {"minute": 60, "hour": 3600, "day": 86_400}
MONTHS = ["JAN", "FEB", "MAR", "APR", "MAY", "JUN", "JUL", "AUG", "SEP", "OCT", "NOV", "DEC"]
WEEKDAYS = ["SUN", "MON", "TUE", "WED", "THU", "FRI", "SAT"]
# (name, least, most, names of the values) in the order of a cron expression.
CRON_FIELDS: tuple[tuple[str, int, int, list[str]], ...] = (
    ("minutes", 0, 59, []),
    ("hours", 0, 23, []),
    ("day of month", 1, 31, []),
    ("month", 1, 12, MONTHS),
    ("day of week", 1, 7, WEEKDAYS),
    ("year", 1970, 2199, []),
)
# A cron expression that names no minute within so long is taken to name none: 29 February comes within eight years.
CRON_HORIZON_DAYS = 8 * 366

type Next = Callable[[datetime], datetime]


def parse_schedule(expression: str) -> Next:
    """What tells, of a moment, the schedule's next one after it."""
    if rate := re.fullmatch(r"rate\((\d+) (minute|hour|day)(s?)\)", expression):
        count = int(rate[1])
        if count < 1 or (count == 1) == bool(rate[3]):
            raise TemplateError(f"{expression} is no rate: EventBridge wants rate(1 minute), rate(5 minutes)")
        step = timedelta(seconds=count * UNIT_SECONDS[rate[2]])
        return lambda moment: moment + step
    if cron := re.fullmatch(r"cron\((.*)\)", expression):
        return _cron(cron[1].split(), expression)
    raise TemplateError(f"the local stack does not understand the schedule {expression!r}")


def _cron(parts: list[str], expression: str) -> Next:
    if len(parts) != len(CRON_FIELDS):
        raise TemplateError(f"{expression} has not the six fields of a cron expression")
    allowed = [_values(part, *field, expression) for part, field in zip(parts, CRON_FIELDS, strict=True)]
    if (parts[2] == "?") == (parts[4] == "?"):
        raise TemplateError(f"{expression}: exactly one of day of month and day of week is ?")
    minutes, hours, days, months, weekdays, years = allowed

    def following(moment: datetime) -> datetime:
        earliest = moment.astimezone(UTC).replace(second=0, microsecond=0) + timedelta(minutes=1)
        for offset in range(CRON_HORIZON_DAYS):
            day = (earliest + timedelta(days=offset)).date()
            if day.year not in years or day.month not in months or day.day not in days:
                continue
            if day.isoweekday() % 7 + 1 not in weekdays:
                continue
            for hour in sorted(hours):
                for minute in sorted(minutes):
                    found = datetime(day.year, day.month, day.day, hour, minute, tzinfo=UTC)
                    if found >= earliest:
                        return found
        raise TemplateError(f"{expression} never comes")

    return following


def _values(text: str, name: str, least: int, most: int, names: list[str], expression: str) -> set[int]:
    values: set[int] = set()
    for part in text.split(","):
        match = re.fullmatch(r"(\*|\?|[A-Za-z0-9]+)(?:-([A-Za-z0-9]+))?(?:/(\d+))?", part)
        if not match or (match[1] in ("*", "?") and match[2]):
            raise TemplateError(f"{expression}: the local stack does not understand {part!r} as {name}")
        first = least if match[1] in ("*", "?") else _value(match[1], names, expression)
        last = _value(match[2], names, expression) if match[2] else first
        if match[1] in ("*", "?") or (match[3] and not match[2]):
            last = most
        step = int(match[3] or 1)
        if not least <= first <= last <= most or step < 1:
            raise TemplateError(f"{expression}: {part!r} is out of range as {name}")
        values |= set(range(first, last + 1, step))
    return values


def _value(text: str, names: list[str], expression: str) -> int:
    if text.upper() in names:
        return names.index(text.upper()) + 1
    if not text.isdecimal():
        raise TemplateError(f"{expression}: the local stack does not understand {text!r}")
    return int(text)


def schedule_event(schedule: Schedule, region: str, moment: datetime) -> Any:
    """The event as EventBridge sends it: the given Input, or its own."""
    if schedule.input is not None:
        return schedule.input
    kind = "rule" if schedule.source == "aws.events" else "schedule/default"
    service = "events" if schedule.source == "aws.events" else "scheduler"
    return {
        "version": "0",
        "id": str(uuid.uuid4()),
        "detail-type": "Scheduled Event",
        "source": schedule.source,
        "account": ACCOUNT_ID,
        "time": moment.strftime("%Y-%m-%dT%H:%M:%SZ"),
        "region": region,
        "resources": [f"arn:aws:{service}:{region}:{ACCOUNT_ID}:{kind}/{schedule.function}{schedule.name}"],
        # The scheduler sends its detail as a text.
        "detail": {} if schedule.source == "aws.events" else "{}",
    }


class Timer:
    """One schedule in a thread. A run that takes longer than the rate delays the next; two never overlap."""

    def __init__(self, schedule: Schedule, region: str, runtime: Runtime) -> None:
        self._schedule = schedule
        self._region = region
        self._runtime = runtime
        self._next = parse_schedule(schedule.expression)
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
                self._runtime.invoke(self._schedule.function, schedule_event(self._schedule, self._region, started))
            except FunctionError:
                pass  # said on stderr already; the next run comes
            except Exception as error:
                print(f"the schedule {self._schedule.name} failed: {error}", file=sys.stderr, flush=True)
            wait_seconds = (self._next(started) - datetime.now(UTC)).total_seconds()
            self._stopping.wait(max(0.0, wait_seconds))
