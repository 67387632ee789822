"""DynamoDB's items and numbers, as they are stored."""

from __future__ import annotations

import re
from collections.abc import Mapping
from decimal import Decimal, DecimalException
from typing import Any

from boto3.dynamodb.types import DYNAMODB_CONTEXT

from testkit.emulator.clients import invalid

Value = Mapping[str, Any]  # in the low-level client's form: {"N": "100000"}
Item = Mapping[str, Value]

MAX_ITEM_BYTES = 400 * 1024
MAX_DIGITS = 38
MAX_KEY_BYTES = {"pk": 2048, "sk": 1024}
_PLAIN_NUMBER = re.compile(r"0|-?(?:[1-9][0-9]*|0(?=\.))(?:\.[0-9]*[1-9])?")


def stored(item: Item) -> Item:
    """The item as it comes out again: zeros that say nothing trimmed off numbers, text that is nothing but text.

    Refuses an item that is too large.
    """
    size = 0
    changed: dict[str, Value] = {}
    for name, value in item.items():
        if "S" in value:
            content = value["S"]
            size += len(name) + len(content)
            if content.__class__ is not str:  # an enum's member
                changed[name] = {"S": str(content)}
        elif "N" in value:
            content = value["N"]
            size += len(name) + len(content)
            # The commonest numbers first: to tell them takes a third of the expression's time.
            plain = (content.isdecimal() and content[0] != "0") or _PLAIN_NUMBER.fullmatch(content)
            if not plain or len(content) > MAX_DIGITS:
                changed[name] = {"N": number_text(number(content))}
        elif "M" in value:
            changed[name] = {"M": stored(value["M"])}
            size += len(repr(value))
        elif "BOOL" not in value:
            raise NotImplementedError(f"the attribute {name}: {value}")
    # A character is at most four bytes, so that only a large item is measured.
    if size * 4 > MAX_ITEM_BYTES and _bytes_of(item) > MAX_ITEM_BYTES:
        raise invalid("Item size has exceeded the maximum allowed size")
    return {**item, **changed} if changed else item


def _bytes_of(item: Item) -> int:
    size = 0
    for name, value in item.items():
        ((kind, content),) = value.items()
        size += len(name.encode())
        if kind == "S":
            size += len(content.encode())
        elif kind == "M":
            size += 3 + len(content) + _bytes_of(content)
        else:
            size += len(str(content)) // 2 + 1  # a byte for about two digits, and one more
    return size


def number(text: str) -> Decimal:
    try:
        number = DYNAMODB_CONTEXT.create_decimal(text)
    except DecimalException:
        number = Decimal("NaN")
    if not number.is_finite():
        raise invalid(f"The parameter cannot be converted to a numeric value: {text}")
    return number


def number_text(number: Decimal) -> str:
    return format(number.normalize(DYNAMODB_CONTEXT), "f") if number else "0"
