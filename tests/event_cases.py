"""The events of events/ and what each comes to, in an empty stack: tests/integration and tests/aws send them."""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

EVENTS = Path(__file__).parents[1] / "events"
PARTIAL = "refund_api/partial"  # 25000 of m1's ORDER-PAID


@dataclass(frozen=True)
class Case:
    """What an HTTP event is answered, after others in the same world."""

    status: int
    code: str | None = None
    field: str | None = None
    after: tuple[str, ...] = ()
    fault: str | None = None  # at the first refund that reaches Indodana
    moved: int | str = 0  # rupiah of m1's ORDER-PAID in Indodana's books


@dataclass(frozen=True)
class Batch:
    """What the worker makes of a queue event. None of them leaves a message to be delivered again."""

    moved: int
    dead_letters: int = 0
    after: tuple[str, ...] = ()


# Every file, without its .json. A file missing here fails, as does a row without a file.
HTTP = {
    "status_check/paid": Case(200),
    "status_check/initiated": Case(200),
    "status_check/expired": Case(200),
    "status_check/rejected": Case(200),
    "status_check/other-merchant": Case(200),
    "status_check/unknown-order": Case(404, "ORDER_NOT_FOUND"),
    "status_check/order-with-symbols": Case(404, "ORDER_NOT_FOUND"),
    "status_check/order-with-slash": Case(400, "INVALID_REQUEST", "merchantOrderId"),
    "status_check/order-too-long": Case(400, "INVALID_REQUEST", "merchantOrderId"),
    PARTIAL: Case(201, moved=25_000),
    "refund_api/partial-decimal": Case(201, moved="1000.50"),
    "refund_api/full": Case(201, moved=100_000),
    "refund_api/base64-body": Case(201, moved=5000),
    "refund_api/other-merchant": Case(201, after=(PARTIAL,), moved=25_000),
    "refund_api/respond-async": Case(202),
    "refund_api/over-refund": Case(422, "AMOUNT_EXCEEDS_REFUNDABLE"),
    "refund_api/same-key-other-amount": Case(422, "IDEMPOTENCY_KEY_REUSED", after=(PARTIAL,), moved=25_000),
    "refund_api/not-paid": Case(409, "TRANSACTION_NOT_PAID"),
    "refund_api/unknown-order": Case(404, "ORDER_NOT_FOUND"),
    "refund_api/bad-amount": Case(400, "INVALID_REQUEST", "amount"),
    "refund_api/bad-reason-and-unknown-field": Case(400, "INVALID_REQUEST", "reason"),
    "refund_api/not-json": Case(400, "INVALID_REQUEST", "body"),
    "refund_api/without-body": Case(400, "INVALID_REQUEST", "body"),
    "refund_api/without-idempotency-key": Case(400, "INVALID_REQUEST", "Idempotency-Key"),
    "refund_api/key-sent-twice": Case(201, after=(PARTIAL,), moved=25_000),
    "refund_api/key-in-quotes": Case(201, after=(PARTIAL,), moved=25_000),
    "refund_api/two-keys": Case(400, "INVALID_REQUEST", "Idempotency-Key", (PARTIAL,), moved=25_000),
    "refund_api/unknown-merchant": Case(403, "FORBIDDEN"),
    "refund_api/bad-correlation-id": Case(400, "INVALID_REQUEST", "X-Correlation-Id"),
    "refund_api/list": Case(200, after=(PARTIAL,), moved=25_000),
    "refund_api/list-page": Case(200, after=(PARTIAL,), moved=25_000),
    "refund_api/get": Case(200, after=(PARTIAL,), moved=25_000),
    "refund_api/get-unknown-refund": Case(404, "NOT_FOUND", after=(PARTIAL,), moved=25_000),
    "refund_api/resolution": Case(200, after=(PARTIAL,), fault="reset_after", moved=25_000),
    "refund_api/resolution-stale": Case(412, "VERSION_MISMATCH", None, (PARTIAL,), "reset_after", 25_000),
    "refund_api/resolution-without-if-match": Case(
        428, "PRECONDITION_REQUIRED", None, (PARTIAL,), "reset_after", 25_000
    ),
    "refund_api/resolution-old-form": Case(400, "INVALID_REQUEST", "evidence", (PARTIAL,), "reset_after", 25_000),
    "refund_api/withdrawal": Case(200, after=("refund_api/respond-async",)),
    "refund_api/withdrawal-without-body": Case(200, after=("refund_api/respond-async",)),
    "refund_api/withdrawal-of-anothers": Case(403, "FORBIDDEN", after=("refund_api/respond-async",)),
    "refund_api/withdrawal-without-if-match": Case(428, "PRECONDITION_REQUIRED", after=("refund_api/respond-async",)),
    "refund_api/withdrawal-any-version": Case(400, "INVALID_REQUEST", "If-Match", after=("refund_api/respond-async",)),
    "refund_api/resolution-bad-outcome": Case(400, "INVALID_REQUEST", "outcome", (PARTIAL,), "reset_after", 25_000),
    "refund_api/work-list": Case(200, after=(PARTIAL,), fault="reset_after", moved=25_000),
    "refund_api/work-list-page": Case(200, after=("refund_api/respond-async",)),
    "refund_api/work-list-bad-status": Case(400, "INVALID_REQUEST", "status"),
    "audit_query/timeline": Case(200, after=(PARTIAL,), moved=25_000),
    "audit_query/first-page": Case(200, after=("status_check/paid", PARTIAL), moved=25_000),
    "audit_query/unknown-order": Case(404, "NOT_FOUND"),
    "audit_query/unknown-merchant": Case(403, "FORBIDDEN"),
    "audit_query/bad-limit": Case(400, "INVALID_REQUEST", "limit", (PARTIAL,), moved=25_000),
    "audit_query/bad-token": Case(400, "INVALID_REQUEST", "nextToken", (PARTIAL,), moved=25_000),
}
QUEUE = {
    "refund_worker/one": Batch(15_000),
    "refund_worker/full": Batch(100_000),
    "refund_worker/redelivered": Batch(15_000, after=("refund_worker/one",)),
    "refund_worker/same-refund-twice": Batch(7000),
    "refund_worker/batch": Batch(30_000),
    "refund_worker/with-poison": Batch(12_000, dead_letters=3),
    "refund_worker/pointer": Batch(10_000, after=("refund_api/respond-async",)),
    "refund_worker/pointer-to-no-refund": Batch(0, dead_letters=2, after=("refund_api/respond-async",)),
    "refund_worker/unlisted-sender": Batch(0, dead_letters=1),
}
SCHEDULE = {"recovery/schedule"}
HEALTH = {"health/anybody"}


def load(name: str) -> Any:
    return json.loads((EVENTS / f"{name}.json").read_text())
