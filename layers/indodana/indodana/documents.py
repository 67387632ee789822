"""Parses JSON exactly: keeps duplicate keys and exact numbers."""

import json
from dataclasses import dataclass
from decimal import Decimal
from typing import Any, NoReturn

_LONGEST_INT = 30  # digits; int() refuses thousands of digits, and its time grows with their square


class JsonObject(dict[str, Any]):
    """`pairs`: all keys and values in order. As a dict it has the last value of a duplicate key."""

    __slots__ = ("pairs",)
    pairs: list[tuple[str, Any]]


@dataclass(frozen=True)
class Document:
    """`is_ambiguous`: an object in it has a duplicate key, so that two parsers may read different values."""

    value: Any
    is_ambiguous: bool


def parse(body: bytes) -> Document | None:
    """None if it is not JSON, or has a number too large for Decimal."""
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
