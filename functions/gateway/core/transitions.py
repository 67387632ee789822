"""The states of a refund, and which may follow which. docs/architecture.md draws them from this table."""

from __future__ import annotations

from collections.abc import Mapping
from enum import StrEnum


class RefundStatus(StrEnum):
    QUEUED = "QUEUED"
    SUBMITTING = "SUBMITTING"
    SUCCEEDED = "SUCCEEDED"
    FAILED = "FAILED"
    UNKNOWN = "UNKNOWN"


# The only steps a refund may take; `None` is a refund that does not exist yet. Every write to the ledger is held to it.
# QUEUED → FAILED, and a first record that is FAILED: refused before anything was sent, when there was no caller to tell
# (docs/decisions/0002). UNKNOWN → SUBMITTING: only where the stack's AmbiguousRefunds is `resubmit`.
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
