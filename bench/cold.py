"""Cold starts: from the start of a process until its handler is imported and its clients are ready."""

from __future__ import annotations

import subprocess
import time
from collections.abc import Callable, Mapping

from bench.figures import rotated
from bench.layout import Sandbox

# The last line, because modules may print when imported. _exit: shutting down the interpreter is not part of a start.
_READY = "import os, time; os.write(1, b'\\n%d' % time.monotonic_ns()); os._exit(0)"


class ColdStartFailed(Exception):
    """A process ended before its handler was imported."""


def measure(sandboxes: Mapping[str, Sandbox], rounds: int, progress: Callable[[str], None]) -> dict[str, list[float]]:
    """Milliseconds by name, one for each round. The order rotates, so that none always follows the same one."""
    names = list(sandboxes)
    taken: dict[str, list[float]] = {name: [] for name in names}
    for name in names:  # so that the files are in the disk cache for all
        start(sandboxes[name])
    for number in range(rounds):
        progress(f"cold starts, round {number + 1} of {rounds}")
        for name in rotated(names, number):
            taken[name].append(start(sandboxes[name]))
    return taken


def start(sandbox: Sandbox) -> float:
    """Milliseconds. Raises ColdStartFailed."""
    module, _, attribute = sandbox.handler.partition(":")
    check = f"{module}.{attribute}; " if attribute else ""
    began = time.monotonic_ns()
    ended = subprocess.run(**sandbox.arguments("-c", f"import {module}; {check}{_READY}"), capture_output=True)
    if ended.returncode:
        raise ColdStartFailed(f"{sandbox.handler}: {ended.stderr.decode()}")
    return (int(ended.stdout.rpartition(b"\n")[2]) - began) / 1e6
