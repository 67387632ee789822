"""Readable lines, made of the JSON lines that the functions and the stack write.

    21:03:11.402  m1  ORDER-PAID  refund 6f2a1b3c… 25,000 SUBMITTING → SUCCEEDED  48 ms  Kx3fQ0rMjoEEPdw=

time (local), merchant, order, what happened, duration, request id. What is not known of a line is left out.
"""

import json
import os
import textwrap
from collections import OrderedDict
from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import UTC, datetime, tzinfo
from decimal import Decimal, InvalidOperation
from typing import Any, TextIO

type Entry = Mapping[str, Any]

SHOWN_ID_LENGTH = 8
"""Of a refund's id; REFUND= takes the beginning of one."""
REMEMBERED_REQUESTS = 2000
WIDTHS = (12, 8, 14, 58, 8)
"""Of time, merchant, order, what happened and duration. What is longer moves the rest of its line."""
HEADINGS = ("time", "merchant", "order", "what happened", "took", "request")
POWERTOOLS_TIME = "%Y-%m-%d %H:%M:%S,%f%z"
DETAIL_WIDTH = 110
COUNTED_SECONDS = "_seconds"

DIM, RED, YELLOW, PLAIN = "\033[2m", "\033[31m", "\033[33m", "\033[0m"
COLOURS = {"WARNING": YELLOW, "ERROR": RED, "CRITICAL": RED}


@dataclass(frozen=True)
class Line:
    """One entry, as far as it says something to a reader."""

    at: datetime
    what: str
    merchant: str = ""
    order: str = ""
    took: str = ""
    request: str = ""
    level: str = "INFO"
    details: tuple[str, ...] = ()
    """Lines below it: a traceback, a reason."""

    def text(self, zone: tzinfo | None = None) -> str:
        """`zone` None is this machine's own."""
        time = self.at.astimezone(zone).strftime("%H:%M:%S.%f")[:-3]
        cells = (time, self.merchant, self.order, self.what, self.took)
        aligned = [f"{cell:<{width}}" for cell, width in zip(cells[:-1], WIDTHS, strict=False)]
        aligned.append(f"{self.took:>{WIDTHS[-1]}}")
        first = "  ".join([*aligned, self.request]).rstrip()
        return "\n".join([first, *(f"{'':14}{detail}".rstrip() for detail in self.details)])


def heading() -> str:
    *cells, took, last = HEADINGS
    aligned = [f"{cell:<{width}}" for cell, width in zip(cells, WIDTHS, strict=False)]
    return "  ".join([*aligned, f"{took:>{WIDTHS[-1]}}", last])


def parse(text: str) -> Entry:
    """A line of a log file; what is not JSON becomes a message."""
    try:
        entry = json.loads(text, parse_float=Decimal)
    except ValueError:
        entry = None
    return entry if isinstance(entry, dict) else {"message": text}


def time_of(entry: Entry) -> datetime | None:
    try:
        if "at" in entry:
            return datetime.fromisoformat(entry["at"])
        if "_aws" in entry:
            return datetime.fromtimestamp(float(entry["_aws"]["Timestamp"]) / 1000, UTC)
        return datetime.strptime(entry["timestamp"], POWERTOOLS_TIME).astimezone(UTC)
    except (KeyError, TypeError, ValueError):
        return None


@dataclass
class Formatter:
    """Keeps in mind which order a request was about, for its lines that do not say so."""

    shows_upstream_metrics: bool = False
    """Whether Indodana's calls are read from the functions' metrics, because no simulator reports them."""
    _orders: OrderedDict[str, tuple[str, str]] = field(default_factory=OrderedDict)
    _reasons: OrderedDict[str, list[str]] = field(default_factory=OrderedDict)
    """Why a request was refused, from the function's line until the stack's own line of that request."""

    def line(self, entry: Entry, now: datetime | None = None) -> Line | None:
        """None where the entry is for machines, or says what another one says better."""
        described = self._described(entry)
        if described is None:
            return None
        what, details = described
        merchant, order = self._order(entry)
        return Line(
            at=time_of(entry) or now or datetime.now(UTC),
            what=what,
            merchant=merchant,
            order=order,
            took=_duration(entry),
            request=str(entry.get("correlation_id") or entry.get("request_id") or ""),
            level=str(entry.get("level", "INFO")),
            details=(*details, *str(entry.get("exception", "")).splitlines()),
        )

    def _order(self, entry: Entry) -> tuple[str, str]:
        path = entry.get("path")
        own = path.get("merchantOrderId") if isinstance(path, dict) else None
        merchant, order = str(entry.get("merchant_id") or ""), str(entry.get("merchant_order_id") or own or "")
        known_as = entry.get("correlation_id") or entry.get("request_id")
        if not known_as:
            return merchant, order
        remembered = self._orders.get(known_as, ("", ""))
        if order:
            # A queue message may leave the merchant out, and the function's lines of it do not.
            merchant = merchant or (remembered[0] if remembered[1] == order else "")
            _remember(self._orders, known_as, (merchant, order))
            return merchant, order
        return (merchant, order) if merchant else remembered

    def _described(self, entry: Entry) -> tuple[str, list[str]] | None:
        if "_aws" in entry:
            return self._metric(entry)
        if "event" in entry:
            describe = {
                "request": self._request,
                "message": _message,
                "schedule": _schedule,
                "indodana": _indodana,
            }.get(entry["event"])
            return describe(entry) if describe else (str(entry.get("message", entry["event"])), [])
        return self._function_line(entry)

    def _metric(self, entry: Entry) -> tuple[str, list[str]] | None:
        if not self.shows_upstream_metrics or "UpstreamLatency" not in entry:
            return None
        return f"Indodana {entry.get('operation', '')}", []

    def _function_line(self, entry: Entry) -> tuple[str, list[str]] | None:
        message = str(entry.get("message", ""))
        if "refund_id" in entry and "status" in entry:
            return _refund(entry), []
        if message == "request":
            if error := entry.get("error"):
                cause = entry.get("cause")
                reasons = [f"because {error}", *([f"cause {cause}"] if cause else [])]
                _remember(self._reasons, str(entry.get("request_id")), reasons)
            return None  # the stack's own line says the rest, and comes right after
        if message == "batch" or _is_recovery(entry):
            return None  # the stack's own lines say it, with the duration
        if not message and "exception" not in entry:
            return None
        first, *more = textwrap.wrap(message, WIDTHS[3]) or [""]
        return first, textwrap.wrap(" ".join(more), DETAIL_WIDTH)

    def _request(self, entry: Entry) -> tuple[str, list[str]]:
        outcome = f" {entry['outcome']}" if entry.get("outcome") else ""
        why = entry.get("why")
        reasons = [f"because {why}"] if why else self._reasons.pop(str(entry.get("request_id")), [])
        return f"{entry['method']} {entry['target']} → {entry['status']}{outcome}", reasons


def _remember[Value](memory: OrderedDict[str, Value], name: str, value: Value) -> None:
    memory[name] = value
    if len(memory) > REMEMBERED_REQUESTS:
        memory.popitem(last=False)


def _refund(entry: Entry) -> str:
    refund_id = str(entry["refund_id"])
    shown = refund_id if len(refund_id) <= SHOWN_ID_LENGTH else f"{refund_id[:SHOWN_ID_LENGTH]}…"
    before, attempts = entry.get("before"), entry.get("attempts")
    parts = [
        f"refund {shown}",
        _amount(entry.get("amount")),
        f"{before} → {entry['status']}" if before else str(entry["status"]),
        f"(attempt {attempts})" if isinstance(attempts, int) and attempts > 1 else "",
    ]
    return " ".join(part for part in parts if part)


def _message(entry: Entry) -> tuple[str, list[str]]:
    received = int(entry.get("receive_count", 1))
    delivery = f" (delivery {received})" if received > 1 else ""
    return f"queue: message{delivery} → {entry['outcome']}", []


def _schedule(entry: Entry) -> tuple[str, list[str]]:
    result = entry.get("result")
    if not isinstance(result, dict) or not _is_recovery(result):
        return f"schedule {entry['name']} ran {entry['function']}", []
    counts = [
        f"{count} {name.replace('_', ' ')}"
        for name, count in result.items()
        if count and not name.endswith(COUNTED_SECONDS)
    ]
    return f"recovery: {', '.join(counts) or 'nothing to do'}", []


def _indodana(entry: Entry) -> tuple[str, list[str]]:
    answered, fault = entry.get("answered"), entry.get("fault")
    parts = [
        f"Indodana: {entry['operation']}",
        _amount(entry.get("amount")),
        f"→ {answered or 'no answer'}",
        f"(fault {fault})" if fault else "",
    ]
    return " ".join(part for part in parts if part), []


def _is_recovery(entry: Entry) -> bool:
    return "leases_expired" in entry


def _amount(value: Any) -> str:
    if value is None:
        return ""
    try:
        amount = Decimal(str(value))
    except InvalidOperation:
        return str(value)
    return f"{amount:,.0f}" if amount == amount.to_integral_value() else f"{amount:,}"


def _duration(entry: Entry) -> str:
    milliseconds = entry.get("ms", entry.get("UpstreamLatency"))
    if isinstance(milliseconds, list):  # as the embedded metric format has it
        milliseconds = milliseconds[0] if milliseconds else None
    if isinstance(milliseconds, bool) or not isinstance(milliseconds, int | float | Decimal):
        return ""
    return f"{milliseconds:.0f} ms" if milliseconds < 10_000 else f"{milliseconds / 1000:.1f} s"


class Painter:
    """Colours for a terminal that shows them: warnings, errors, and times in the background."""

    def __init__(self, out: TextIO) -> None:
        self._in_colour = out.isatty() and "NO_COLOR" not in os.environ

    def paint(self, line: Line, zone: tzinfo | None = None) -> str:
        text = line.text(zone)
        if not self._in_colour:
            return text
        if colour := COLOURS.get(line.level):
            return f"{colour}{text}{PLAIN}"
        return f"{DIM}{text[:12]}{PLAIN}{text[12:]}"
