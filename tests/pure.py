"""A pytest plugin for `make check`: a test that starts a process or opens a connection fails."""

from __future__ import annotations

import sys
from typing import Any

IMPURE = frozenset({"socket.connect", "subprocess.Popen", "os.posix_spawn", "os.fork", "os.exec"})


def refuse(event: str, arguments: tuple[Any, ...]) -> None:
    if event in IMPURE:
        raise RuntimeError(f"{event}{arguments}: not in a pure test; IMPURE in the Makefile lists the files that may")


def pytest_collection() -> None:
    """Only now: what pytest starts for itself, it has started."""
    sys.addaudithook(refuse)
