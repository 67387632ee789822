"""JSON as it came: with every key, also one that stands twice, and with exact numbers."""

import json
from dataclasses import dataclass
from decimal import Decimal
from typing import Any, NoReturn

_LONGEST_INT = 30  # digits; int() refuses thousands of them, and takes the square of their number in time


class JsonObject(dict[str, Any]):
    """`pairs`: its keys and values in their order. As a dict it has the last of those that share a key."""

    __slots__ = ("pairs",)
    pairs: list[tuple[str, Any]]


@dataclass(frozen=True)
class Document:
    """`is_ambiguous`: some object in it has a key twice, so that two readers may read two things."""

    value: Any
    is_ambiguous: bool


def parse(body: bytes) -> Document | None:
    """None for what is no JSON, or has a number that no Decimal can hold."""
    is_ambiguous = False

    def objects(pairs: list[tuple[str, Any]]) -> JsonObject:
        nonlocal is_ambiguous
        made = JsonObject(pairs)
        made.pairs = pairs
        is_ambiguous |= len(made) < len(pairs)
        return made

    try:
        value = json.loads(
            body.decode("utf-8-sig", "replace"),
            object_pairs_hook=objects,
            parse_int=lambda digits: int(digits) if len(digits) <= _LONGEST_INT else Decimal(digits),
            parse_float=Decimal,
            parse_constant=_no_number,
        )
    except (ValueError, ArithmeticError, RecursionError):
        return None
    return Document(value, is_ambiguous)


def _no_number(constant: str) -> NoReturn:
    raise ValueError(f"{constant} is not JSON")
