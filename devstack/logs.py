"""What the console of a stack has shown, from its files: `make logs`.

    python -m devstack.logs --order ORDER-PAID

Of one order, refund or request: also the lines that do not name it but belong to the same request.
"""

import argparse
import os
import sys
from collections.abc import Iterator, Sequence
from contextlib import suppress
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path

from devstack.console import Entry, Formatter, Painter, heading, parse, time_of
from devstack.errors import DevstackError
from devstack.local_files import FUNCTIONS_LOG, STACK_LOG, directory_of, running_ports


@dataclass(frozen=True)
class Filter:
    order: str = ""
    refund: str = ""
    """The beginning of an id is enough: the console shows no more."""
    correlation: str = ""
    """A correlation id, or a request id."""

    def select(self, entries: Sequence[Entry]) -> list[Entry]:
        requests = {name for entry in entries if self._names(entry) for name in _ids(entry)}
        return [entry for entry in entries if self._names(entry) or (self._is_silent(entry) and _ids(entry) & requests)]

    def _names(self, entry: Entry) -> bool:
        """Whether the entry itself says all that is asked for."""
        return (
            (not self.order or _order(entry) == self.order)
            and (not self.refund or _refund(entry).startswith(self.refund))
            and (not self.correlation or self.correlation in _ids(entry))
        )

    def _is_silent(self, entry: Entry) -> bool:
        """Whether it says nothing of another order or refund."""
        return (
            (not self.order or _order(entry) in ("", self.order))
            and (not self.refund or not _refund(entry) or _refund(entry).startswith(self.refund))
            and not (self.correlation and self.correlation not in _ids(entry))
        )


def _order(entry: Entry) -> str:
    path = entry.get("path")
    named = path.get("merchantOrderId") if isinstance(path, dict) else None
    return str(entry.get("merchant_order_id") or named or "")


def _refund(entry: Entry) -> str:
    path = entry.get("path")
    named = path.get("refundId") if isinstance(path, dict) else None
    return str(entry.get("refund_id") or named or "")


def _ids(entry: Entry) -> set[str]:
    return {str(entry[name]) for name in ("correlation_id", "request_id") if entry.get(name)}


def entries(directory: Path) -> list[Entry]:
    """Both files' lines in the order of their times. A line without a time has that of the line before it."""
    found: list[tuple[datetime, Entry]] = []
    for name in (FUNCTIONS_LOG, STACK_LOG):
        last = datetime.fromtimestamp(0, UTC)
        for entry in _lines(directory / name):
            at = time_of(entry)
            last = at or last
            found.append((last, entry if at else {**entry, "at": last.isoformat()}))
    return [entry for _, entry in sorted(found, key=lambda pair: pair[0])]


def _lines(path: Path) -> Iterator[Entry]:
    with path.open(encoding="utf-8", errors="replace") as file:
        for text in file:
            yield parse(text.rstrip("\n"))


def main(arguments: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(prog="python -m devstack.logs", description="Shows what a local stack logged.")
    parser.add_argument("--order", default="", help="of this order alone")
    parser.add_argument("--refund", default="", help="of this refund alone; the beginning of its id is enough")
    parser.add_argument("--correlation", default="", help="of this correlation id or request id alone")
    options = parser.parse_args(arguments)
    try:
        directory = directory_of(os.environ)
        if not (directory / STACK_LOG).exists():
            others = "".join(f"; PORT={port} has" for port in running_ports())
            raise DevstackError(f"{directory} has no logs: no stack has run on this PORT{others}")
    except DevstackError as error:
        parser.exit(1, f"{error}\n")
    found = entries(directory)
    formatter = Formatter(shows_upstream_metrics=not any(entry.get("event") == "indodana" for entry in found))
    painter = Painter(sys.stdout)
    lines = [
        formatter.line(entry) for entry in Filter(options.order, options.refund, options.correlation).select(found)
    ]
    if not any(lines):
        parser.exit(1, f"{directory} has no such line\n")
    with suppress(BrokenPipeError):  # `make logs | head`
        print(heading())
        for line in lines:
            if line is not None:
                print(painter.paint(line))
        sys.stdout.flush()
        return 0
    os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())  # for what Python still flushes when it ends
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
