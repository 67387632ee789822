"""Reads idempotency keys: one key for each refund, however a client or a proxy writes it."""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass

MAX_LENGTH = 255
# No space at either end: HTTP removes it from a header, so one key would mean two refunds, by API and by queue.
KEY = re.compile(rf"[\x21-\x7e](?:[\x20-\x7e]{{0,{MAX_LENGTH - 2}}}[\x21-\x7e])?")
# A structured string (RFC 8941), as in the IETF's draft of the Idempotency-Key header: "u" is u.
_STRING = r'"((?:[\x20\x21\x23-\x5b\x5d-\x7e]|\\["\\])*)"'
_QUOTED_PART = re.compile(rf"{_STRING}[ \t]*(,|\Z)")
_BARE_PART = re.compile(r"([^,]*)(,|\Z)")
# This key sent twice would be `","`, which is the structured string of another key.
_AMBIGUOUS = '"'


@dataclass(frozen=True)
class Key:
    key: str
    spelled: str | None = None  # the text as sent, if it differs and earlier releases accepted it as a key
    replay_only: bool = False  # not a valid key now: it can only name a refund that an earlier release made


def read(value: str) -> Key | None:
    """The key that `value` names; None if it is no key.

    API Gateway joins repeated headers with a comma, so a list of one and the same key is that key. Quotation marks
    protect a comma only in a well-formed structured string: `"u,"u` is the key `"u` twice. Every refund in the ledger
    can be found under `key` or `spelled`.
    """
    if value != value.strip(" \t"):
        return None
    spelled = value if KEY.fullmatch(value) else None
    parts = set(_parts(value))
    if len(parts) == 1 and value != _AMBIGUOUS and KEY.fullmatch(key := parts.pop()):
        return Key(key, None if value == key else spelled)
    return Key(spelled, replay_only=True) if spelled else None


def is_list(value: str) -> bool:
    return len(list(_parts(value))) > 1


def _parts(value: str) -> Iterator[str]:
    start, separator = 0, ","
    while separator:
        while value[start : start + 1] in (" ", "\t"):
            start += 1
        if found := _QUOTED_PART.match(value, start):
            part = re.sub(r"\\(.)", r"\1", found[1])
        else:
            found = _BARE_PART.match(value, start)
            assert found  # the pattern matches any text
            part = found[1].strip(" \t")
        yield part
        start, separator = found.end(), found[2]
