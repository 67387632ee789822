"""A test in this folder that starts a process, opens a connection or listens fails."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from typing import Any

import pytest

REFUSED = frozenset({"socket.connect", "socket.bind", "subprocess.Popen", "os.posix_spawn", "os.fork", "os.exec"})

_refusing = False


class NotAUnitTest(Exception):
    """What the test does belongs in another folder of tests/; docs/contributing.md lists them."""


def _refuse(event: str, arguments: tuple[Any, ...]) -> None:
    if _refusing and event in REFUSED:
        raise NotAUnitTest(f"{event}{arguments}")


sys.addaudithook(_refuse)  # for as long as the process lives, so it has a switch


@pytest.fixture(autouse=True)
def _only_units(request: pytest.FixtureRequest) -> Iterator[None]:
    global _refusing
    _refusing = not request.path.name.startswith(("test_devstack_", "test_simulator"))  # they are about to move
    yield
    _refusing = False
