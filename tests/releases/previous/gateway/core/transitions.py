"""The states of a refund, and the legal transitions between them. docs/architecture.md draws them from this table."""

from __future__ import annotations

from collections.abc import Mapping
from enum import StrEnum


class RefundStatus(StrEnum):
    QUEUED = "QUEUED"
    SUBMITTING = "SUBMITTING"
    SUCCEEDED = "SUCCEEDED"
    FAILED = "FAILED"
    UNKNOWN = "UNKNOWN"


# `None` is a refund that does not exist yet. The ledger refuses every other transition.
# QUEUED → FAILED, and a new refund that is FAILED: refused before anything was sent, with no caller waiting
# (docs/decisions/0002). UNKNOWN → SUBMITTING: only if the stack's AmbiguousRefunds is `resubmit`.
LEGAL_TRANSITIONS: Mapping[RefundStatus | None, frozenset[RefundStatus]] = {
    None: frozenset({RefundStatus.QUEUED, RefundStatus.SUBMITTING, RefundStatus.FAILED}),
    RefundStatus.QUEUED: frozenset({RefundStatus.SUBMITTING, RefundStatus.FAILED}),
    RefundStatus.SUBMITTING: frozenset(
        {RefundStatus.SUCCEEDED, RefundStatus.FAILED, RefundStatus.UNKNOWN, RefundStatus.QUEUED}
    ),
    RefundStatus.UNKNOWN: frozenset({RefundStatus.SUCCEEDED, RefundStatus.FAILED, RefundStatus.SUBMITTING}),
    RefundStatus.SUCCEEDED: frozenset(),
    RefundStatus.FAILED: frozenset(),
}

OPEN_STATUSES = tuple(status for status in RefundStatus if LEGAL_TRANSITIONS[status])
