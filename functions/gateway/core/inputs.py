"""The input rules that all features share. Every error has its field and the rule."""

from __future__ import annotations

import json
import re
from collections.abc import Mapping
from datetime import UTC, datetime
from decimal import Decimal, InvalidOperation
from typing import Any

from gateway.core import texts
from gateway.core.errors import BodyTooLarge, FieldError, InvalidRequest
from gateway.core.model import OrderKey

MAX_BODY_BYTES = 16 * 1024  # a refund with every field at its longest is under 4 KiB
MAX_AMOUNT = Decimal("99999999999999.99")  # Indodana's decimal(16,2)
MAX_AMOUNT_DIGITS = 14  # before the point
MAX_NOTE = 500
MAX_PRINCIPAL = 256
MAX_UNKNOWN_REPORTED = 10  # a body can have thousands of fields; a log line and an audit record cannot
MAX_PAGE = 100
DEFAULT_PAGE = 50
CLOCK_SKEW_SECONDS = 5  # how far the clock of the person who checked may be ahead of ours
MERCHANT_ID = re.compile(r"[A-Za-z0-9_-]{1,64}")
# Indodana's own rule for merchantOrderId, except `.` and `..`, which HTTP clients remove from a URL.
MERCHANT_ORDER_ID = re.compile(r"(?!\.{1,2}$)[A-Za-z0-9=.\-_+@:&^%!$]{1,32}")
REFUND_ID = re.compile(r"[0-9a-f]{32}")
# The caller's own id. API Gateway's ids must match too: they are used when a caller sends none.
CORRELATION_ID = re.compile(r"[A-Za-z0-9\-_.:/+=]{1,128}")
ENTITY_TAG = re.compile(r'"(0|[1-9][0-9]{0,17})"')
CHECKED_AT = re.compile(
    r"20[0-9]{2}-(?:0[1-9]|1[0-2])-(?:0[1-9]|[12][0-9]|3[01])T(?:[01][0-9]|2[0-3]):[0-5][0-9]"
    r"(?::[0-5][0-9](?:\.[0-9]{1,9})?)?(?:Z|[+-](?:[01][0-9]|2[0-3]):?[0-5][0-9])"
)
# An unknown field's name is returned, logged and recorded only if it looks like this: it may hold personal data.
FIELD_NAME = re.compile(r"[a-z][A-Za-z0-9_]{0,39}")
MERCHANT_ID_RULE = "must be 1 to 64 letters, digits, '_' or '-'"
MERCHANT_ORDER_ID_RULE = (
    "must be 1 to 32 characters: letters, digits and = . - _ + @ : & ^ % ! $, and not . or .. alone"
)
REFUND_ID_RULE = "must be a refundId returned by the API: 32 lower-case hexadecimal digits"
CORRELATION_ID_RULE = "must be 1 to 128 characters: letters, digits and - _ . : / + ="
AMOUNT_RULE = f"must be a JSON number (rupiah) greater than 0 and at most {MAX_AMOUNT}, with at most two decimals"
THREE_DECIMALS_RULE = "must not have exactly three decimals: 25.000 may mean 25 or 25 thousand; write 25 or 25000"
ENTITY_TAG_RULE = 'must be one ETag of the refund, for example "3"; lists, weak tags (W/) and * are not allowed'
CHECKED_AT_RULE = "must be a time with a UTC offset, for example 2026-11-23T09:15:00+07:00"


class Errors:
    """Collects every broken rule, so that a caller gets all of them in one response."""

    def __init__(self) -> None:
        self._found: list[FieldError] = []

    def add(self, field: str, detail: str) -> None:
        self._found.append(FieldError(field, detail))

    def raise_any(self) -> None:
        if self._found:
            raise InvalidRequest(*self._found)


def json_object(raw: bytes) -> dict[str, Any]:
    """The JSON object in `raw`, its numbers as exact `Decimal`. Raises InvalidRequest for the field `body`."""
    if len(raw) > MAX_BODY_BYTES:
        raise BodyTooLarge(FieldError("body", f"must be at most {MAX_BODY_BYTES} bytes; it has {len(raw)}"))
    try:
        parsed = json.loads(
            raw.decode("utf-8"),
            parse_int=_number,
            parse_float=_number,
            parse_constant=Decimal,  # NaN and Infinity are refused later, by their field's rule
            object_pairs_hook=_object_without_repeats,
        )
    except UnicodeDecodeError as error:
        raise InvalidRequest(FieldError("body", f"must be UTF-8; byte {error.start} is invalid")) from error
    except json.JSONDecodeError as error:
        where = f"line {error.lineno}, column {error.colno}"
        raise InvalidRequest(FieldError("body", f"must be a JSON object; {error.msg} at {where}")) from error
    except RecursionError as error:
        raise InvalidRequest(FieldError("body", "must be a flat JSON object; it is nested too deep")) from error
    if not isinstance(parsed, dict):
        raise InvalidRequest(FieldError("body", "must be a JSON object"))
    return parsed


def order_key(merchant_id: str, merchant_order_id: str) -> OrderKey:
    if not MERCHANT_ORDER_ID.fullmatch(merchant_order_id):
        raise InvalidRequest(FieldError("merchantOrderId", MERCHANT_ORDER_ID_RULE))
    return OrderKey(merchant_id, merchant_order_id)


def refund_id(text: str) -> str:
    if not REFUND_ID.fullmatch(text):
        raise InvalidRequest(FieldError("refundId", REFUND_ID_RULE))
    return text


def check_correlation_id(text: str | None, field: str) -> None:
    """Raises InvalidRequest."""
    if text is not None and not CORRELATION_ID.fullmatch(text):
        raise InvalidRequest(FieldError(field, CORRELATION_ID_RULE))


def correlation_id_in(text: str | None) -> str | None:
    """The id if it follows the rule, else None: no other text may be stored, logged or returned."""
    return text if text is not None and CORRELATION_ID.fullmatch(text) else None


def version_in(entity_tag: str) -> int:
    """The refund's version in an If-Match header. Raises InvalidRequest."""
    if not (found := ENTITY_TAG.fullmatch(entity_tag)):
        raise InvalidRequest(FieldError("If-Match", ENTITY_TAG_RULE))
    return int(found[1])


def page_limit(text: str | None) -> int:
    if text is None:
        return DEFAULT_PAGE
    if not re.fullmatch(r"[0-9]{1,3}", text) or not 1 <= int(text) <= MAX_PAGE:
        raise InvalidRequest(FieldError("limit", f"must be a whole number from 1 to {MAX_PAGE}"))
    return int(text)


def is_principal(value: object) -> bool:
    """Whether it can be recorded and logged as the name of an actor."""
    return isinstance(value, str) and texts.flaw(value, MAX_PRINCIPAL, lines=False) is None


def money_or_flaw(value: object) -> tuple[Decimal | None, str]:
    """The sum in plain digits (1e3 becomes 1000, 25.10 becomes 25.1), or None and the broken rule.

    It works on the digits: Decimal's own operations round to 28 digits, and write out every zero of a huge exponent.
    """
    if not isinstance(value, Decimal) or not value.is_finite() or value <= 0:
        return None, AMOUNT_RULE
    _, digits, exponent = value.as_tuple()
    assert isinstance(exponent, int)  # it is finite
    if exponent == -3:
        return None, THREE_DECIMALS_RULE
    significant = "".join(map(str, digits)).rstrip("0")
    exponent += len(digits) - len(significant)
    if exponent < -2 or len(significant) + exponent > MAX_AMOUNT_DIGITS:
        return None, AMOUNT_RULE
    return Decimal(f"{significant}e{exponent}") if exponent < 0 else Decimal(significant + "0" * exponent), ""


def time_in(value: object) -> datetime | None:
    if not isinstance(value, str) or not CHECKED_AT.fullmatch(value):
        return None
    try:
        return datetime.fromisoformat(value).astimezone(UTC)
    except ValueError:  # 30 February
        return None


def text_field(
    body: Mapping[str, Any], field: str, rule: re.Pattern[str], detail: str, errors: Errors, default: str | None = None
) -> str:
    value = body.get(field, default)
    if isinstance(value, str) and rule.fullmatch(value):
        return value
    errors.add(field, detail)
    return ""


def note_field(body: Mapping[str, Any], errors: Errors, within: str = "") -> str | None:
    """None for null or empty text, which forms send for a field that was not filled in."""
    note = body.get("note")
    return None if note in (None, "") else free_text(note, f"{within}note", MAX_NOTE, errors)


def free_text(value: object, field: str, longest: int, errors: Errors, *, lines: bool = True) -> str:
    """A text written by people, normalized to NFC; empty if `errors` got an entry."""
    if not isinstance(value, str) or not value:
        errors.add(field, f"must be text of 1 to {longest} characters{'' if lines else ' on one line'}")
    elif flaw := texts.flaw(value, longest, lines=lines):
        errors.add(field, flaw)
    else:
        return texts.normalized(value)
    return ""


def refuse_unknown_fields(body: Mapping[str, Any], known: tuple[str, ...], errors: Errors, within: str = "") -> None:
    unknown = [field for field in body if field not in known]
    for field in unknown[:MAX_UNKNOWN_REPORTED]:
        errors.add(_name_to_report(field, within), f"unknown field; allowed fields: {', '.join(known)}")


def _name_to_report(field: str, within: str = "") -> str:
    """The name of a caller's field, or only its length if the name may not be repeated."""
    if FIELD_NAME.fullmatch(field):
        return within + field
    return f"a field{' of ' + within[:-1] if within else ''} whose name has {len(field)} characters"


def _number(text: str) -> Decimal:
    try:
        return Decimal(text)
    except InvalidOperation:  # an exponent too large for Decimal; no rule accepts it
        return Decimal("Infinity")


def _object_without_repeats(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    fields = dict(pairs)
    if len(fields) != len(pairs):
        names = [name for name, _ in pairs]
        repeated = next(name for name in names if names.count(name) > 1)
        raise InvalidRequest(FieldError(_name_to_report(repeated), "must not appear more than once in the body"))
    return fields
