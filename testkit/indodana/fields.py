"""How the fields of requests are read: the ones of Indodana's API and the ones of the control API."""

import re
from collections.abc import Mapping
from datetime import datetime
from decimal import Decimal
from typing import Any

import simplejson

# decimal(16,2): fourteen digits before the point.
MAX_AMOUNT = Decimal("99999999999999.99")
CENT = Decimal("0.01")
ORDER_ID = re.compile(r"[A-Za-z0-9=.\-_+@:&^%!$]{1,32}")
TIME_WITH_OFFSET = re.compile(r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d(\.\d{1,6})?(Z|[+-]\d\d:?\d\d)", re.ASCII)

EXAMPLE_TIME = "2019-09-12T18:18:18+07:00"


class InvalidFieldError(Exception):
    """A field of a request has a value that is not accepted."""

    def __init__(self, field: str, message: str) -> None:
        super().__init__(f"{field}: {message}")
        self.field = field
        self.message = message


def parse_object(raw: bytes) -> dict[str, Any] | None:
    """The JSON object with exact numbers, or None when it is not one."""
    try:
        parsed = simplejson.loads(raw.decode(), use_decimal=True)
    except (ValueError, ArithmeticError, RecursionError):
        return None
    return parsed if isinstance(parsed, dict) else None


def refuse_unknown(given: Mapping[str, Any], *allowed: str) -> None:
    for name in given:
        if name not in allowed:
            known = f"allowed fields: {', '.join(allowed)}" if allowed else "no field is allowed here"
            raise InvalidFieldError(name, f"unknown field; {known}")


def parse_text(body: Mapping[str, Any], field: str) -> str:
    value = body.get(field)
    if not isinstance(value, str) or not value.strip():
        raise InvalidFieldError(field, "must be a string that is not empty")
    return value


def parse_order_id(body: Mapping[str, Any], field: str) -> str:
    value = parse_text(body, field)
    if not ORDER_ID.fullmatch(value):
        raise InvalidFieldError(field, "must be 1 to 32 letters, digits or = . - _ + @ : & ^ % ! $")
    return value


def parse_amount(body: Mapping[str, Any], field: str) -> Decimal:
    value = body.get(field)
    if isinstance(value, bool) or not isinstance(value, int | Decimal):
        raise InvalidFieldError(field, "must be a number")
    amount = Decimal(value)
    if not 0 < amount <= MAX_AMOUNT:
        raise InvalidFieldError(field, f"must be more than 0 and at most {MAX_AMOUNT}")
    if amount != amount.quantize(CENT):
        raise InvalidFieldError(field, "must have at most two decimals")
    return amount


def parse_flag(body: Mapping[str, Any], field: str, default: bool | None = None) -> bool:
    value = body.get(field, default)
    if not isinstance(value, bool):
        raise InvalidFieldError(field, "must be true or false")
    return value


def parse_time(body: Mapping[str, Any], field: str) -> datetime:
    value = parse_text(body, field)
    try:
        if TIME_WITH_OFFSET.fullmatch(value):
            return datetime.fromisoformat(value)
    except ValueError:  # such as a thirteenth month
        pass
    raise InvalidFieldError(field, f"must be an ISO 8601 date and time with an offset, such as {EXAMPLE_TIME}")


def plain(amount: Decimal | int) -> Decimal:
    """The amount as it is written: whole rupiah without a fraction, else two decimals."""
    amount = Decimal(amount)
    whole = amount.quantize(Decimal(1))
    return whole if whole == amount else amount.quantize(CENT)
