"""No field of a refund is forgotten on its way: into the queue, the ledger, the audit log and the answer."""

from __future__ import annotations

from dataclasses import MISSING, fields, replace
from datetime import UTC, datetime, timedelta
from decimal import Decimal
from typing import Any

import pytest

from gateway.core import audit, inputs
from gateway.core.context import RequestContext
from gateway.core.dynamodb import from_item
from gateway.core.items import from_refund, to_refund
from gateway.core.model import Failure, FailureCode, OrderKey, Reason, Refund, RefundPointer, RefundRequest
from gateway.core.transitions import RefundStatus
from gateway.http.responses import refund_view
from gateway.refunds import validation
from gateway.refunds.queue import pointer_body

AT = datetime(2026, 11, 22, 7, 5, tzinfo=UTC)
REQUEST = RefundRequest(
    OrderKey("m1", "A&B"), "return-4711", Decimal("25000.50"), Reason.ITEMS_RETURNED, "One of two shirts", "rina"
)
REFUND = Refund(
    request=REQUEST,
    status=RefundStatus.FAILED,
    created_by="back-office",
    created_at=AT,
    updated_at=AT + timedelta(seconds=1),
    version=3,
    transition_id="t-3",
    correlation_id="sale-4711",
    reserved_amount=Decimal("25000.50"),
    transaction_amount=Decimal(100_000),
    attempts=2,
    ambiguous=True,
    lease_until=AT + timedelta(seconds=2),
    sendable_until=AT + timedelta(seconds=3),
    next_attempt_at=AT + timedelta(seconds=4),
    queue_message="m-1",
    enqueued_at=AT + timedelta(seconds=5),
    decision_id="d-1",
    failure=Failure(FailureCode.UPSTREAM_REFUSED, "because", 422, "Kind", "message"),
)
# How a key is spelled is of the request that brings it, and of nothing later.
OF_THE_KEY_ALONE = {"spelled_key", "replay_only"}


def left_at_default(sample: Any) -> set[str]:
    return {each.name for each in fields(sample) if getattr(sample, each.name) == each.default is not MISSING}


@pytest.mark.parametrize("sample", [REQUEST, REFUND, REFUND.failure], ids=["request", "refund", "failure"])
def test_the_samples_of_this_file_fill_every_field(sample: Any) -> None:
    assert left_at_default(sample) <= OF_THE_KEY_ALONE


def test_a_pointer_names_its_refund_and_says_nothing_else_of_it() -> None:
    body = inputs.json_object(pointer_body(REFUND).encode())

    assert validation.queue_message(body, "another-merchant") == RefundPointer(REQUEST.order, REFUND.refund_id)
    assert set(body) == set(validation.POINTER_FIELDS)


def test_the_ledger_keeps_every_field_of_a_refund() -> None:
    assert to_refund(from_refund(REFUND)) == REFUND


def test_every_field_asked_for_is_compared_when_a_key_is_used_again() -> None:
    changed: dict[str, Any] = {
        "order": OrderKey("m1", "C"),
        "amount": Decimal(1),
        "reason": Reason.OTHERS,
        "note": "Another note",
        "requested_by": "siti",
    }

    assert set(changed) == {each.name for each in fields(REQUEST)} - OF_THE_KEY_ALONE - {"idempotency_key"}
    for name, value in changed.items():
        assert not REQUEST.asks_the_same_as(replace(REQUEST, **{name: value})), name


def test_the_answer_shows_every_field_asked_for() -> None:
    assert set(validation.REFUND_FIELDS) <= set(refund_view(REFUND))


def test_the_audit_record_has_every_field_asked_for() -> None:
    record = from_item(audit.transition_record(None, REFUND, RequestContext("back-office", "api", "r-1")))

    assert set(validation.REFUND_FIELDS) <= set(record)
