"""The input rules for refunds, the same for the API and the queue."""

from __future__ import annotations

from collections.abc import Mapping
from datetime import datetime, timedelta
from typing import Any

from gateway.core import keys
from gateway.core.errors import FieldError, InvalidRequest
from gateway.core.inputs import (
    CHECKED_AT_RULE,
    CLOCK_SKEW_SECONDS,
    MERCHANT_ID,
    MERCHANT_ID_RULE,
    MERCHANT_ORDER_ID,
    MERCHANT_ORDER_ID_RULE,
    REFUND_ID,
    REFUND_ID_RULE,
    Errors,
    free_text,
    money_or_flaw,
    note_field,
    refuse_unknown_fields,
    text_field,
    time_in,
)
from gateway.core.keys import Key
from gateway.core.model import Evidence, EvidenceSource, OrderKey, Reason, RefundPointer, RefundRequest, Resolution
from gateway.core.transitions import RefundStatus

MAX_REQUESTED_BY = 100
MAX_REFERENCE = 200
IDEMPOTENCY_KEY_RULE = (
    f"must be 1 to {keys.MAX_LENGTH} printable ASCII characters with no space at either end, and the same for every "
    "retry of one refund"
)
KEY_LIST_RULE = (
    "must be one key, sent once: API Gateway joins repeated headers with a comma. Put a key that contains a comma in "
    f"double quotes, with 1 to {keys.MAX_LENGTH} characters and no space at either end inside them"
)
REFUND_FIELDS = ("amount", "reason", "note", "requestedBy")
MESSAGE_FIELDS = ("merchantId", "merchantOrderId", "idempotencyKey", *REFUND_FIELDS)
POINTER_FIELDS = ("merchantId", "merchantOrderId", "refundId")
RESOLUTION_FIELDS = ("outcome", "evidence")
EVIDENCE_FIELDS = ("source", "reference", "checkedAt", "note")
WITHDRAWAL_FIELDS = ("note",)
EVIDENCE_RULE = f"must be an object with {', '.join(EVIDENCE_FIELDS[:-1])} and optionally note"
RESOLUTION_OUTCOMES = (RefundStatus.SUCCEEDED, RefundStatus.FAILED)


def refund_request(order: OrderKey, idempotency_key: str | None, body: Mapping[str, Any]) -> RefundRequest:
    """The request in an API body. Raises InvalidRequest."""
    errors = Errors()
    refuse_unknown_fields(body, REFUND_FIELDS, errors)
    request = _refund(order, _idempotency_key(idempotency_key, "Idempotency-Key", errors), body, errors)
    errors.raise_any()
    return request


def queue_message(body: Mapping[str, Any], default_merchant_id: str) -> RefundRequest | RefundPointer:
    """A message with a refundId is a pointer, any other one a full request. Raises InvalidRequest."""
    return refund_pointer(body) if "refundId" in body else refund_message(body, default_merchant_id)


def refund_pointer(body: Mapping[str, Any]) -> RefundPointer:
    """Raises InvalidRequest."""
    errors = Errors()
    refuse_unknown_fields(body, POINTER_FIELDS, errors)
    merchant_id = text_field(body, "merchantId", MERCHANT_ID, MERCHANT_ID_RULE, errors)
    order_id = text_field(body, "merchantOrderId", MERCHANT_ORDER_ID, MERCHANT_ORDER_ID_RULE, errors)
    refund_id = text_field(body, "refundId", REFUND_ID, REFUND_ID_RULE, errors)
    errors.raise_any()
    return RefundPointer(OrderKey(merchant_id, order_id), refund_id)


def refund_message(body: Mapping[str, Any], default_merchant_id: str) -> RefundRequest:
    """The full request in a queue message. Raises InvalidRequest."""
    errors = Errors()
    refuse_unknown_fields(body, MESSAGE_FIELDS, errors)
    merchant_id = text_field(body, "merchantId", MERCHANT_ID, MERCHANT_ID_RULE, errors, default=default_merchant_id)
    order_id = text_field(body, "merchantOrderId", MERCHANT_ORDER_ID, MERCHANT_ORDER_ID_RULE, errors)
    key = _idempotency_key(body.get("idempotencyKey"), "idempotencyKey", errors)
    request = _refund(OrderKey(merchant_id, order_id), key, body, errors)
    errors.raise_any()
    return request


def resolution(body: Mapping[str, Any], now: datetime) -> Resolution:
    """An operator's outcome and its evidence. Raises InvalidRequest."""
    errors = Errors()
    refuse_unknown_fields(body, RESOLUTION_FIELDS, errors)
    outcome = body.get("outcome")
    if outcome not in RESOLUTION_OUTCOMES:
        errors.add("outcome", f"must be one of {', '.join(RESOLUTION_OUTCOMES)}")
    evidence = _evidence(body.get("evidence"), errors)
    # For FAILED the domain checks the time: it knows from when on a check is conclusive.
    latest = now + timedelta(seconds=CLOCK_SKEW_SECONDS)
    if evidence and evidence.checked_at > latest and outcome == RefundStatus.SUCCEEDED:
        errors.add("evidence.checkedAt", f"must not be in the future; the time now is {now:%Y-%m-%d %H:%M:%S} UTC")
    errors.raise_any()
    assert evidence
    return Resolution(RefundStatus(str(outcome)), evidence)


def withdrawal(body: Mapping[str, Any]) -> str | None:
    """The note in a withdrawal. Raises InvalidRequest."""
    errors = Errors()
    refuse_unknown_fields(body, WITHDRAWAL_FIELDS, errors)
    note = note_field(body, errors)
    errors.raise_any()
    return note


def open_status(text: str | None, allowed: tuple[RefundStatus, ...]) -> RefundStatus:
    if text not in allowed:
        raise InvalidRequest(FieldError("status", f"must be one of {', '.join(allowed)}"))
    return RefundStatus(str(text))


def _refund(order: OrderKey, key: Key, body: Mapping[str, Any], errors: Errors) -> RefundRequest:
    amount = None
    if "amount" in body:
        amount, flaw = money_or_flaw(body["amount"])
        if flaw:
            errors.add("amount", f"{flaw}; leave it out to refund all that remains")
    reason = body.get("reason")
    if not isinstance(reason, str) or reason not in Reason.__members__:
        errors.add("reason", f"must be one of {', '.join(Reason)}")
        reason = Reason.OTHERS
    note = note_field(body, errors)
    requested_by = free_text(body.get("requestedBy"), "requestedBy", MAX_REQUESTED_BY, errors, lines=False)
    return RefundRequest(
        order, key.key, amount, Reason(reason), note, requested_by, spelled_key=key.spelled, replay_only=key.replay_only
    )


def _idempotency_key(value: object, field: str, errors: Errors) -> Key:
    if value is None:
        errors.add(field, f"is required; it {IDEMPOTENCY_KEY_RULE}")
    elif not isinstance(value, str):
        errors.add(field, IDEMPOTENCY_KEY_RULE)
    elif found := keys.read(value):
        return found
    else:
        errors.add(field, KEY_LIST_RULE if keys.is_list(value) else IDEMPOTENCY_KEY_RULE)
    return Key("")


def _evidence(value: object, errors: Errors) -> Evidence | None:
    """None if it is invalid; `errors` has the reason then."""
    if isinstance(value, str):
        errors.add(
            "evidence",
            f"{EVIDENCE_RULE}; plain text, as in earlier releases, is not accepted, and the "
            "header If-Match is required",
        )
        return None
    if not isinstance(value, dict):
        errors.add("evidence", EVIDENCE_RULE)
        return None
    refuse_unknown_fields(value, EVIDENCE_FIELDS, errors, within="evidence.")
    source = value.get("source")
    if not isinstance(source, str) or source not in EvidenceSource.__members__:
        errors.add("evidence.source", f"must be one of {', '.join(EvidenceSource)}")
        source = None
    reference = free_text(value.get("reference"), "evidence.reference", MAX_REFERENCE, errors, lines=False)
    checked_at = time_in(value.get("checkedAt"))
    if checked_at is None:
        errors.add("evidence.checkedAt", CHECKED_AT_RULE)
    note = note_field(value, errors, within="evidence.")
    if source is None or checked_at is None:
        return None
    return Evidence(EvidenceSource(source), reference, checked_at, note)
