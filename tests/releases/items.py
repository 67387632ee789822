"""Writes or reads sample items with the `gateway.core` that is on PYTHONPATH: this release's, or an earlier one's.

    python tests/releases/items.py write            prints the samples as the release writes them, as JSON
    python tests/releases/items.py read < items     prints what the release reads in them, or why it can't

It runs in a process of its own, because two releases of one package do not fit into one.
"""

from __future__ import annotations

import dataclasses
import json
import sys
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from decimal import Decimal
from typing import Any

from gateway.core import items
from gateway.core.model import Failure, FailureCode, Order, OrderKey, Reason, Refund, RefundRequest
from gateway.core.transitions import RefundStatus

AT = datetime(2026, 11, 22, 7, 5, tzinfo=UTC)
ORDER = OrderKey("m1", "A&B")

# A value for each field. A release gets those that it has.
REQUEST: dict[str, Any] = {
    "order": ORDER,
    "idempotency_key": "return-4711",
    "amount": Decimal("25000.50"),
    "reason": Reason.ITEMS_RETURNED,
    "note": "One of two shirts",
    "requested_by": "rina",
    "spelled_key": None,
    "replay_only": False,
}
REFUND: dict[str, Any] = {
    "created_by": "back-office",
    "created_at": AT,
    "updated_at": AT + timedelta(seconds=1),
    "version": 3,
    "transition_id": "t-3",
    "correlation_id": "sale-4711",
    "reserved_amount": Decimal("25000.50"),
    "transaction_amount": Decimal(100_000),
    "attempts": 2,
    "ambiguous": True,
    "lease_until": AT + timedelta(seconds=2),
    "sendable_until": AT + timedelta(seconds=3),
    "next_attempt_at": AT + timedelta(seconds=4),
    "queue_message": "m-1",
    "enqueued_at": AT + timedelta(seconds=5),
    "decision_id": "d-1",
}


def samples() -> Iterator[dict[str, Any]]:
    """Every value that the release knows in a field with few of them, and a refund with nothing optional."""
    request = RefundRequest(**_of(RefundRequest, REQUEST))
    refund = Refund(request=request, status=RefundStatus.QUEUED, **_of(Refund, REFUND))
    for status in RefundStatus:
        yield items.from_refund(dataclasses.replace(refund, status=status))
    for code in FailureCode:
        failure = Failure(code, "because", 422, "Kind", "message")
        yield items.from_refund(dataclasses.replace(refund, status=RefundStatus.FAILED, failure=failure))
    for reason in Reason:
        yield items.from_refund(
            dataclasses.replace(refund, request=dataclasses.replace(request, reason=reason, note=None, amount=None))
        )
    yield items.from_refund(
        Refund(request, RefundStatus.QUEUED, "back-office", AT, AT, version=1, transition_id="t-1")  # nothing optional
    )
    order = Order(Decimal(100_000), Decimal(60_000), Decimal(25_000), Decimal(15_000))
    yield items.from_order(ORDER, order, AT) if hasattr(items, "from_order") else _order_of_0_5_0(order)


def _of(record: Any, values: dict[str, Any]) -> dict[str, Any]:
    return {each.name: values[each.name] for each in dataclasses.fields(record) if each.name in values}


def _order_of_0_5_0(order: Order) -> dict[str, Any]:
    """As that release's ledger.py wrote it; later ones have `items.from_order`."""
    sums = {name: {"N": str(getattr(order, name))} for name in ("amount", "refundable", "reserved", "refunded")}
    return items.order_item_key(ORDER) | sums | {"openedAt": {"S": "2026-11-22T07:05:00.000000Z"}}


def read(item: dict[str, Any]) -> dict[str, Any]:
    try:
        value = items.to_order(item) if item["sk"]["S"] == items.ORDER else items.to_refund(item)
    except items.UNREADABLE as error:
        return {"unreadable": f"{type(error).__name__}: {error}"}
    return dataclasses.asdict(value)


if __name__ == "__main__":
    if sys.argv[1] == "write":
        print(json.dumps(list(samples())))
    else:
        print(json.dumps([read(item) for item in json.load(sys.stdin)], default=str))
