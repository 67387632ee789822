"""Where a local stack keeps its files: `.local/<port>/`, a folder for each port, so that two stacks share none.

LOCAL_DIR names another folder.
"""

import json
import os
import shlex
from collections.abc import Mapping
from contextlib import suppress
from pathlib import Path
from typing import Any

from devstack.errors import DevstackError
from devstack.samconfig import ROOT

DEFAULT_PORT = 8080
LOCAL_ROOT = ROOT / ".local"
STACK_FILE = "stack.json"
TOKEN_FILE = "token"
FUNCTIONS_LOG = "functions.log"
"""What the functions print: JSON lines, as CloudWatch would have them."""
STACK_LOG = "stack.log"
"""The stack's own events, JSON lines: requests, queue messages, schedules, Indodana's calls."""


def port_of(environment: Mapping[str, str]) -> int:
    port = environment.get("PORT") or str(DEFAULT_PORT)
    if not (port.isascii() and port.isdecimal()) or int(port) > 65535:
        raise DevstackError(f"PORT is {port!r}, not a number from 0 (any free port) to 65535")
    return int(port)


def directory_of(environment: Mapping[str, str], port: int | None = None) -> Path:
    """`port`: the one that the stack really has, where PORT is 0."""
    if given := environment.get("LOCAL_DIR"):
        return Path(given)
    return LOCAL_ROOT / str(port_of(environment) if port is None else port)


def running_stack(directory: Path) -> dict[str, Any]:
    """The stack.json of the stack that runs there; empty when none does."""
    try:
        document = json.loads((directory / STACK_FILE).read_text(encoding="utf-8"))
    except (FileNotFoundError, NotADirectoryError, ValueError):
        return {}
    return document if isinstance(document, dict) else {}


def running_ports() -> list[str]:
    return sorted((path.parent.name for path in LOCAL_ROOT.glob(f"*/{STACK_FILE}")), key=lambda name: (len(name), name))


def shell_path(path: Path) -> str:
    """As a shell takes it, in the folder where it stands now."""
    with suppress(ValueError):
        path = path.relative_to(Path.cwd())
    return shlex.quote(str(path))


def write_private(path: Path, text: str) -> None:
    """Whole or not at all, and readable by its owner alone: it holds a token or a key."""
    draft = _private_draft(path, text)
    draft.replace(path)


def create_private(path: Path, text: str) -> None:
    """Like write_private, but what another process has written there before stays."""
    draft = _private_draft(path, text)
    with suppress(FileExistsError):
        path.hardlink_to(draft)  # unlike a rename, it refuses to replace
    draft.unlink()


def _private_draft(path: Path, text: str) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    draft = path.with_name(f".{path.name}.{os.getpid()}")
    descriptor = os.open(draft, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600)
    with os.fdopen(descriptor, "w", encoding="utf-8") as file:
        file.write(text)
    return draft
