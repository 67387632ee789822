"""A question at the terminal."""

from __future__ import annotations

import sys

from deploy.target import DeployError


def ask(question: str, confirm: str) -> None:
    """Raises DeployError unless it is answered with y; CONFIRM=no does not ask."""
    if confirm == "no":
        return
    if not sys.stdin.isatty():
        raise DeployError("there is no terminal to ask at: CONFIRM=no goes on without asking")
    if input(f"{question} [y/N] ").strip().lower() not in ("y", "yes"):
        raise DeployError("nothing was changed")
