"""Digests by which two states of a service are told to be the same."""

from __future__ import annotations

from collections.abc import Callable, Hashable
from hashlib import blake2b


class Fingerprint[K: Hashable]:
    """A digest of many parts, the same in every process; only what changed since the last time is looked at again.

    `look` gives all of a part as text, or None where it is gone.
    """

    def __init__(self, look: Callable[[K], str | None]) -> None:
        self.changed: set[K] = set()
        self._look = look
        self._parts: dict[K, int] = {}
        self._value = 0

    def value(self) -> int:
        for key in self.changed:
            part = self._look(key)
            digest = 0 if part is None else _digest(f"{key!r} {part}")
            # The parts' keys differ, so no two of them cancel each other out.
            self._value ^= self._parts.get(key, 0) ^ digest
            self._parts[key] = digest
        self.changed.clear()
        return self._value

    def savepoint(self) -> Callable[[], None]:
        value, parts = self.value(), dict(self._parts)

        def rollback() -> None:
            self._value, self._parts = value, dict(parts)
            self.changed.clear()

        return rollback


def _digest(text: str) -> int:
    return int.from_bytes(blake2b(text.encode(), digest_size=16).digest())
