"""The rules for input that all features share. A broken rule names its field and what would be right."""

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
MAX_UNKNOWN_SAID = 10  # a body has room for thousands of fields; a log line and an audit record have not
MAX_PAGE = 100
DEFAULT_PAGE = 50
CLOCK_SKEW_SECONDS = 5  # by which the clock of who looked something up may be ahead of ours
MERCHANT_ID = re.compile(r"[A-Za-z0-9_-]{1,64}")
# Indodana's own rule for merchantOrderId, but for those that clients take out of an address: `.` and `..`.
MERCHANT_ORDER_ID = re.compile(r"(?!\.{1,2}$)[A-Za-z0-9=.\-_+@:&^%!$]{1,32}")
REFUND_ID = re.compile(r"[0-9a-f]{32}")
# A caller's own; with what API Gateway makes its ids of, for those serve where a caller gives none.
CORRELATION_ID = re.compile(r"[A-Za-z0-9\-_.:/+=]{1,128}")
ENTITY_TAG = re.compile(r'"(0|[1-9][0-9]{0,17})"')
CHECKED_AT = re.compile(
    r"20[0-9]{2}-(?:0[1-9]|1[0-2])-(?:0[1-9]|[12][0-9]|3[01])T(?:[01][0-9]|2[0-3]):[0-5][0-9]"
    r"(?::[0-5][0-9](?:\.[0-9]{1,9})?)?(?:Z|[+-](?:[01][0-9]|2[0-3]):?[0-5][0-9])"
)
# What a caller's own field name must look like to be said back, logged and recorded: people put names of people there.
FIELD_NAME = re.compile(r"[a-z][A-Za-z0-9_]{0,39}")
MERCHANT_ID_RULE = "must be 1 to 64 letters, digits, '_' or '-'"
MERCHANT_ORDER_ID_RULE = (
    "must be 1 to 32 characters: letters, digits and = . - _ + @ : & ^ % ! $, and not . or .. alone"
)
REFUND_ID_RULE = "must be a refundId as the API gave it: 32 lower-case hexadecimal digits"
CORRELATION_ID_RULE = "must be 1 to 128 characters: letters, digits and - _ . : / + ="
AMOUNT_RULE = f"must be a JSON number of rupiah over 0 and at most {MAX_AMOUNT}, with at most two decimals"
THREE_DECIMALS_RULE = (
    "must not be written with exactly three decimals: 25.000 may mean 25 or 25 thousand; write 25 or 25000"
)
ENTITY_TAG_RULE = 'must be one entity tag, the refund\'s ETag as it was read, as in "3"; no list, no W/ and no *'
CHECKED_AT_RULE = "must be a time with its offset, as in 2026-11-23T09:15:00+07:00"


class Errors:
    """Collects every broken rule, so that a caller learns of all of them at once."""

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
        raise BodyTooLarge(FieldError("body", f"must be at most {MAX_BODY_BYTES} bytes, and is {len(raw)}"))
    try:
        parsed = json.loads(
            raw.decode("utf-8"),
            parse_int=_number,
            parse_float=_number,
            parse_constant=Decimal,  # NaN and Infinity come through, for the rule of their field to refuse
            object_pairs_hook=_object_without_repeats,
        )
    except UnicodeDecodeError as error:
        raise InvalidRequest(FieldError("body", f"must be UTF-8; byte {error.start} is not")) from error
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
    """The id, where there is one that keeps to the rule: nothing else may be kept, logged or sent back."""
    return text if text is not None and CORRELATION_ID.fullmatch(text) else None


def version_in(entity_tag: str) -> int:
    """The refund's version that an If-Match header names. Raises InvalidRequest."""
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
    """Whether it can stand for who did something, in a record and in a log line."""
    return isinstance(value, str) and texts.flaw(value, MAX_PRINCIPAL, lines=False) is None


def is_money(value: object) -> bool:
    """Whether it is an exact sum in rupiah that Indodana's decimal(16,2) can hold; a bool, a float, a text is none."""
    return money_or_flaw(value)[0] is not None


def money_or_flaw(value: object) -> tuple[Decimal | None, str]:
    """The sum in plain digits, in which people read it (1e3 is 1000, 25.10 is 25.1), or what is wrong with it.

    By its digits: Decimal's own operations round to 28 of them, and write out as many zeros as an exponent asks for.
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
    body: Mapping[str, Any], field: str, rule: re.Pattern[str], says: str, errors: Errors, default: str | None = None
) -> str:
    value = body.get(field, default)
    if isinstance(value, str) and rule.fullmatch(value):
        return value
    errors.add(field, says)
    return ""


def note_field(body: Mapping[str, Any], errors: Errors, within: str = "") -> str | None:
    """Null or empty, as forms send what nobody filled in, it is left out."""
    note = body.get("note")
    return None if note in (None, "") else free_text(note, f"{within}note", MAX_NOTE, errors)


def free_text(value: object, field: str, longest: int, errors: Errors, *, lines: bool = True) -> str:
    """A text of people's words, in the form in which it is kept."""
    if not isinstance(value, str) or not value:
        errors.add(field, f"must be text of 1 to {longest} characters{'' if lines else ' on one line'}")
    elif flaw := texts.flaw(value, longest, lines=lines):
        errors.add(field, flaw)
    else:
        return texts.kept(value)
    return ""


def refuse_unknown_fields(body: Mapping[str, Any], known: tuple[str, ...], errors: Errors, within: str = "") -> None:
    unknown = [field for field in body if field not in known]
    for field in unknown[:MAX_UNKNOWN_SAID]:
        errors.add(_said(field, within), f"unknown field; allowed fields: {', '.join(known)}")


def _said(field: str, within: str = "") -> str:
    """A caller's own field name, as far as it may be said back."""
    if FIELD_NAME.fullmatch(field):
        return within + field
    return f"a field{' of ' + within[:-1] if within else ''} whose name has {len(field)} characters"


def _number(text: str) -> Decimal:
    try:
        return Decimal(text)
    except InvalidOperation:  # an exponent beyond what Decimal holds; no amount of money
        return Decimal("Infinity")


def _object_without_repeats(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    fields = dict(pairs)
    if len(fields) != len(pairs):
        names = [name for name, _ in pairs]
        repeated = next(name for name in names if names.count(name) > 1)
        raise InvalidRequest(FieldError(_said(repeated), "stands more than once in the body"))
    return fields
