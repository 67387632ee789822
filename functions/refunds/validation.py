"""The rules for what callers send, by API and by queue alike. A broken rule names its field and what would be right."""

from __future__ import annotations

import json
import re
import unicodedata
from collections.abc import Mapping
from decimal import Decimal, InvalidOperation
from typing import Any

from refunds.errors import BodyTooLarge, FieldError, InvalidRequest
from refunds.model import OrderKey, Reason, RefundRequest, RefundStatus

MAX_BODY_BYTES = 16 * 1024  # a refund with every field at its longest is under 4 KiB
MAX_AMOUNT = Decimal("99999999999999.99")  # Indodana's decimal(16,2)
MAX_REQUESTED_BY = 100
MAX_NOTE = 500
MAX_EVIDENCE = 1000
MAX_IDEMPOTENCY_KEY = 255
MAX_UNKNOWN_SAID = 10  # a body has room for thousands of fields; a log line and an audit record have not
MAX_PAGE = 100
DEFAULT_PAGE = 50

MERCHANT_ID = re.compile(r"[A-Za-z0-9_-]{1,64}")
MERCHANT_ORDER_ID = re.compile(r"[A-Za-z0-9=.\-_+@:&^%!$]{1,32}")  # Indodana's own rule for merchantOrderId
REFUND_ID = re.compile(r"[0-9a-f]{32}")
# No space at its ends: HTTP takes those off a header, so the same key would name two refunds by API and by queue.
IDEMPOTENCY_KEY = re.compile(rf"[\x21-\x7e](?:[\x20-\x7e]{{0,{MAX_IDEMPOTENCY_KEY - 2}}}[\x21-\x7e])?")
# A caller's own; with what API Gateway makes its ids of, for those serve where a caller gives none.
CORRELATION_ID = re.compile(r"[A-Za-z0-9\-_.:/+=]{1,128}")

MERCHANT_ID_RULE = "must be 1 to 64 letters, digits, '_' or '-'"
MERCHANT_ORDER_ID_RULE = "must be 1 to 32 characters: letters, digits and = . - _ + @ : & ^ % ! $"
REFUND_ID_RULE = "must be a refundId as the API gave it: 32 lower-case hexadecimal digits"
IDEMPOTENCY_KEY_RULE = (
    f"must be 1 to {MAX_IDEMPOTENCY_KEY} printable ASCII characters with no space at either end, the same for every "
    "try of one refund"
)
KEY_LIST_RULE = "is a list: repeated headers are joined by commas; send one key, without a comma outside of quotes"
CORRELATION_ID_RULE = "must be 1 to 128 characters: letters, digits and - _ . : / + ="
AMOUNT_RULE = f"must be a JSON number of rupiah over 0 and at most {MAX_AMOUNT}, with at most two decimals"

REFUND_FIELDS = ("amount", "reason", "note", "requestedBy")
MESSAGE_FIELDS = ("merchantId", "merchantOrderId", "idempotencyKey", *REFUND_FIELDS)
RESOLUTION_FIELDS = ("outcome", "evidence")
RESOLUTION_OUTCOMES = (RefundStatus.SUCCEEDED, RefundStatus.FAILED)


class _Errors:
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


def refund_request(order: OrderKey, idempotency_key: str | None, body: Mapping[str, Any]) -> RefundRequest:
    """The request in an API body. Raises InvalidRequest."""
    errors = _Errors()
    _no_unknown_fields(body, REFUND_FIELDS, errors)
    request = _refund(order, _idempotency_key(idempotency_key, "Idempotency-Key", errors), body, errors)
    errors.raise_any()
    return request


def refund_message(body: Mapping[str, Any], default_merchant_id: str) -> RefundRequest:
    """The request in a queue message. Raises InvalidRequest."""
    errors = _Errors()
    _no_unknown_fields(body, MESSAGE_FIELDS, errors)
    merchant_id = _text(body, "merchantId", MERCHANT_ID, MERCHANT_ID_RULE, errors, default=default_merchant_id)
    order_id = _text(body, "merchantOrderId", MERCHANT_ORDER_ID, MERCHANT_ORDER_ID_RULE, errors)
    key = _idempotency_key(body.get("idempotencyKey"), "idempotencyKey", errors)
    request = _refund(OrderKey(merchant_id, order_id), key, body, errors)
    errors.raise_any()
    return request


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


def resolution(body: Mapping[str, Any]) -> tuple[RefundStatus, str]:
    """An operator's outcome and its evidence. Raises InvalidRequest."""
    errors = _Errors()
    _no_unknown_fields(body, RESOLUTION_FIELDS, errors)
    outcome = body.get("outcome")
    if outcome not in RESOLUTION_OUTCOMES:
        errors.add("outcome", f"must be one of {', '.join(RESOLUTION_OUTCOMES)}")
    evidence = _free_text(body, "evidence", MAX_EVIDENCE, errors)
    errors.raise_any()
    return RefundStatus(str(outcome)), evidence


def open_status(text: str | None, allowed: tuple[RefundStatus, ...]) -> RefundStatus:
    if text not in allowed:
        raise InvalidRequest(FieldError("status", f"must be one of {', '.join(allowed)}"))
    return RefundStatus(str(text))


def page_limit(text: str | None) -> int:
    if text is None:
        return DEFAULT_PAGE
    if not re.fullmatch(r"[0-9]{1,3}", text) or not 1 <= int(text) <= MAX_PAGE:
        raise InvalidRequest(FieldError("limit", f"must be a whole number from 1 to {MAX_PAGE}"))
    return int(text)


def is_money(value: object) -> bool:
    """Whether it is an exact sum in rupiah that Indodana's decimal(16,2) can hold; a bool, a float, a text is none."""
    return (
        isinstance(value, Decimal)
        and value.is_finite()
        and 0 < value <= MAX_AMOUNT
        and int(value.as_tuple().exponent) >= -2  # an int: the value is finite
    )


def _refund(order: OrderKey, key: str, body: Mapping[str, Any], errors: _Errors) -> RefundRequest:
    amount = body.get("amount")
    if is_money(amount):
        amount = Decimal(f"{amount:f}")  # 1e3 as 1000: people read it in answers and in the audit
    elif "amount" in body:
        errors.add("amount", f"{AMOUNT_RULE}; leave it out to refund all that remains")
    reason = body.get("reason")
    if not isinstance(reason, str) or reason not in Reason.__members__:
        errors.add("reason", f"must be one of {', '.join(Reason)}")
        reason = Reason.OTHERS
    note = _free_text(body, "note", MAX_NOTE, errors) if "note" in body else None
    requested_by = _free_text(body, "requestedBy", MAX_REQUESTED_BY, errors, lines=False)
    return RefundRequest(order, key, amount, Reason(reason), note, requested_by)


def _idempotency_key(value: object, field: str, errors: _Errors) -> str:
    if value is None:
        errors.add(field, f"is missing; it {IDEMPOTENCY_KEY_RULE}")
    elif not isinstance(value, str) or not IDEMPOTENCY_KEY.fullmatch(value):
        errors.add(field, IDEMPOTENCY_KEY_RULE)
    else:
        return value
    return ""


def _text(
    body: Mapping[str, Any], field: str, rule: re.Pattern[str], says: str, errors: _Errors, default: str | None = None
) -> str:
    value = body.get(field, default)
    if isinstance(value, str) and rule.fullmatch(value):
        return value
    errors.add(field, says)
    return ""


def _free_text(body: Mapping[str, Any], field: str, longest: int, errors: _Errors, *, lines: bool = True) -> str:
    """A text of people's words: no control characters (but line breaks and tabs, where `lines`), no lone surrogates."""
    value = body.get(field)
    if (
        isinstance(value, str)
        and 1 <= len(value) <= longest
        and value.strip()
        and all(_may_be_written(character) or (lines and character in "\r\n\t") for character in value)
    ):
        return value
    kind = "printable text" if lines else "printable text on one line"
    errors.add(field, f"must be {kind} of 1 to {longest} characters")
    return ""


def _may_be_written(character: str) -> bool:
    # Python holds these for not printable: spaces of other widths, and the joiners of scripts and of emoji.
    return character.isprintable() or unicodedata.category(character) == "Zs" or character in "\u200c\u200d"


def _no_unknown_fields(body: Mapping[str, Any], known: tuple[str, ...], errors: _Errors) -> None:
    unknown = [field for field in body if field not in known]
    for field in unknown[:MAX_UNKNOWN_SAID]:
        errors.add(_printable(field), f"is not known here; the fields are {', '.join(known)}")


def _printable(field: str) -> str:
    """A caller's own field name, safe to say back: a lone surrogate could not be sent, SQS takes no control characters
    in a dead letter's cause, a long name need not be said in full."""
    return field[:64].encode("unicode_escape").decode()


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
        raise InvalidRequest(FieldError(_printable(repeated), "stands more than once in the body"))
    return fields
