"""A program of this repository as a process of its own."""

from __future__ import annotations

import os
import re
import signal
import subprocess
import sys
import time
import uuid
from collections.abc import Callable, Mapping
from pathlib import Path
from types import TracebackType
from typing import Self

ROOT = Path(__file__).parents[1]
START_SECONDS = 30.0
STOP_SECONDS = 15.0
WAIT_SECONDS = 20.0
POLL_SECONDS = 0.05
# A caller's own shell may have these set for `make run`; a program started here gets only what it is given.
NOT_INHERITED = ("PORT", "HOST", "UPSTREAM_URL", "AWS_ENDPOINT_URL", "PARAMETERS", "LOCAL_DIR", "PYTHONPATH")


class ProgramError(Exception):
    """The program ended, or did not write what was waited for."""


class Program:
    """`python -m …`. Its output goes to a file, so that it never waits for a reader.

    Its own session keeps a Ctrl-C away from it: whoever started it decides when it ends. Leaving the `with` kills it.
    """

    def __init__(
        self,
        directory: Path,
        *arguments: str,
        name: str | None = None,
        root: Path = ROOT,
        python: Path = Path(sys.executable),
        environment: Mapping[str, str] | None = None,
    ) -> None:
        directory.mkdir(parents=True, exist_ok=True)
        self.name = name or f"{arguments[0]}-{uuid.uuid4().hex[:8]}"
        self.output_file = directory / f"{self.name}.out"
        inherited = {variable: value for variable, value in os.environ.items() if variable not in NOT_INHERITED}
        with self.output_file.open("wb") as output:
            self.process = subprocess.Popen(
                [str(python), "-m", *arguments],
                cwd=root,
                env=inherited | dict(environment or {}),
                stdin=subprocess.DEVNULL,
                stdout=output,
                stderr=subprocess.STDOUT,
                start_new_session=True,
            )

    @property
    def output(self) -> str:
        return self.output_file.read_text(encoding="utf-8", errors="replace")

    @property
    def is_running(self) -> bool:
        return self.process.poll() is None

    def wait_for(self, pattern: str, seconds: float = START_SECONDS) -> re.Match[str]:
        """The first match in the output, in which ^ and $ match at each line. Raises ProgramError."""

        def look() -> re.Match[str] | None:
            ended = self.process.poll()
            found = re.search(pattern, self.output, re.MULTILINE)
            if found is None and ended is not None:
                raise ProgramError(f"{self.name} ended with {ended}:\n{self.output}")
            return found

        found = until(look, bool, seconds)
        if found is None:
            raise ProgramError(f"{self.name} did not write {pattern!r} within {seconds} s:\n{self.output}")
        return found

    def stop(self, number: int = signal.SIGTERM) -> int:
        """Its exit code, once it has ended."""
        self.process.send_signal(number)
        return self.wait()

    def kill(self) -> None:
        self.process.kill()
        self.wait()

    def wait(self, seconds: float = STOP_SECONDS) -> int:
        return self.process.wait(seconds)

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self.is_running:
            self.kill()


def until[Seen](look: Callable[[], Seen], good: Callable[[Seen], bool], seconds: float = WAIT_SECONDS) -> Seen:
    """Looks until what it sees is good; what it saw last, when the time is up."""
    deadline = time.monotonic() + seconds
    while not good(seen := look()) and time.monotonic() < deadline:
        time.sleep(POLL_SECONDS)
    return seen
