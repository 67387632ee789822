"""The log files of a running stack, and its console, which shows the same as readable lines."""

import io
import json
import threading
from collections.abc import Callable
from contextlib import suppress
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, TextIO

from devstack.console import Formatter, Painter, parse
from devstack.events import Event
from devstack.local_files import FUNCTIONS_LOG, STACK_LOG


class Journal:
    """Two files, so that functions.log stays what the functions print and nothing else."""

    def __init__(self, directory: Path, console: TextIO, formatter: Formatter) -> None:
        self._console = console
        self._formatter = formatter
        self._painter = Painter(console)
        self._lock = threading.Lock()
        self._functions = (directory / FUNCTIONS_LOG).open("w", encoding="utf-8", buffering=1)
        self._stack = (directory / STACK_LOG).open("w", encoding="utf-8", buffering=1)

    def report(self, event: Event) -> None:
        entry = {"at": datetime.now(UTC).isoformat(), **event}
        with self._lock:
            with suppress(ValueError):  # the file is closed: the stack is stopping
                self._stack.write(json.dumps(entry, default=str, ensure_ascii=False) + "\n")
            self._show(entry)

    def function_line(self, text: str) -> None:
        with self._lock:
            with suppress(ValueError):
                self._functions.write(f"{text}\n")
            self._show(parse(text))

    def close(self) -> None:
        self._functions.close()
        self._stack.close()

    def _show(self, entry: dict[str, Any] | Event) -> None:
        line = self._formatter.line(entry)
        if line is not None:
            with suppress(OSError, ValueError):  # a terminal that is gone must not stop the stack
                print(self._painter.paint(line), file=self._console, flush=True)


class LineWriter(io.TextIOBase):
    """Standard output for the handlers: hands on whole lines, whichever of their threads prints them."""

    def __init__(self, take: Callable[[str], None]) -> None:
        self._take = take
        self._pending = threading.local()

    def writable(self) -> bool:
        return True

    def write(self, text: str) -> int:
        *lines, rest = (getattr(self._pending, "text", "") + text).split("\n")
        self._pending.text = rest
        for line in lines:
            self._take(line)
        return len(text)
