"""The id by which a caller knows its own request, in every line that is logged on the way of it.

A context variable: each of the worker's threads has its own.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from contextvars import ContextVar

_current: ContextVar[str | None] = ContextVar("correlation_id", default=None)


def current() -> str | None:
    return _current.get()


@contextmanager
def correlated(correlation_id: str | None) -> Iterator[None]:
    """What happens within bears this id; None leaves the one around it."""
    token = _current.set(correlation_id or _current.get())
    try:
        yield
    finally:
        _current.reset(token)
