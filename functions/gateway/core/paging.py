"""Page tokens: where the last page ended. They are opaque to callers and valid only for the list that returned them."""

from __future__ import annotations

import base64
import binascii
import json
from typing import Any

from gateway.core.errors import FieldError, InvalidRequest

Key = dict[str, Any]  # a DynamoDB key in the low-level client's form, e.g. {"pk": {"S": "m1#ORDER-1"}}


def to_token(last_key: Key | None) -> str | None:
    if not last_key:
        return None
    return base64.urlsafe_b64encode(json.dumps(last_key, separators=(",", ":")).encode()).decode()


def start_of(token: str | None, *, attributes: frozenset[str], must_hold: dict[str, str]) -> Any:
    """The query argument that continues after `token`; empty for the first page.

    Raises InvalidRequest unless its key has exactly `attributes` and the values of `must_hold`: a token of another
    merchant or another list is refused.
    """
    if token is None:
        return {}
    try:
        key = json.loads(base64.b64decode(token.encode("ascii"), altchars=b"-_", validate=True))
        right = (
            set(key) == attributes
            and all(set(value) == {"S"} and _is_key_text(value["S"]) for value in key.values())
            and all(key[name]["S"] == value for name, value in must_hold.items())
        )
    except (binascii.Error, ValueError, TypeError, AttributeError, RecursionError):
        right = False
    if not right:
        raise InvalidRequest(
            FieldError("nextToken", "must be the nextToken of the previous page of this list, unchanged")
        )
    return {"ExclusiveStartKey": key}


def _is_key_text(value: object) -> bool:
    # All keys are ASCII, so characters are bytes: DynamoDB allows 1024 bytes in a sort key.
    return isinstance(value, str) and 0 < len(value) <= 1024 and value.isascii() and value.isprintable()
