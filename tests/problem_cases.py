"""Every class of error with its problem: status, code, and whether it says when to try again."""

from __future__ import annotations

from datetime import UTC, datetime
from decimal import Decimal

import indodana
from gateway.core import errors
from gateway.core.context import RequestContext
from gateway.core.errors import FieldError, RefundsError
from gateway.core.model import FailureCode, OrderKey, Reason, Refund, RefundRequest, new_refund
from gateway.core.transitions import RefundStatus
from gateway.core.upstream import StatusChecksPaused
from indodana import IndodanaError

ASKED = RefundRequest(OrderKey("m1", "A&B"), "k", Decimal(1000), Reason.OTHERS, None, "Rina")
REFUND: Refund = new_refund(
    ASKED, RefundStatus.FAILED, datetime(2026, 11, 22, tzinfo=UTC), RequestContext("agent", "api", "request-1")
)

# Every class of the layer, and the gateway's own: status, code, and whether it says when to try again.
UPSTREAM: dict[type[IndodanaError], tuple[int, str, bool]] = {
    indodana.IndodanaError: (502, "UPSTREAM_FAILED", False),
    indodana.NotSent: (502, "UPSTREAM_FAILED", False),
    indodana.SendingTooLate: (502, "UPSTREAM_FAILED", False),
    indodana.OutcomeUnknown: (502, "UPSTREAM_FAILED", False),
    indodana.ConnectionFailed: (502, "UPSTREAM_UNREACHABLE", False),
    indodana.ConnectTimedOut: (504, "UPSTREAM_TIMEOUT", True),
    StatusChecksPaused: (504, "UPSTREAM_TIMEOUT", True),
    indodana.RateLimited: (503, "UPSTREAM_RATE_LIMITED", True),
    indodana.CredentialsRejected: (502, "UPSTREAM_CREDENTIALS_REJECTED", False),
    indodana.CredentialsUnavailable: (502, "CREDENTIALS_UNAVAILABLE", False),
    indodana.Refused: (422, "UPSTREAM_REFUSED", False),
    indodana.AnswerTimedOut: (504, "UPSTREAM_TIMEOUT", True),
    indodana.ConnectionLost: (502, "UPSTREAM_UNREACHABLE", False),
    indodana.ServerFailed: (502, "UPSTREAM_FAILED", False),
    indodana.AnswerUnreadable: (502, "UPSTREAM_UNREADABLE", False),
    indodana.ForeignAnswer: (502, "UPSTREAM_UNREADABLE", False),
    indodana.ContradictingAnswer: (502, "UPSTREAM_UNREADABLE", False),
}

# Every class of the domain, with one of its errors.
DOMAIN: dict[type[RefundsError], tuple[RefundsError, int, str, bool]] = {
    errors.InvalidRequest: (errors.InvalidRequest(FieldError("amount", "is wrong")), 400, "INVALID_REQUEST", False),
    errors.BodyTooLarge: (errors.BodyTooLarge(FieldError("body", "is large")), 413, "INVALID_REQUEST", False),
    errors.IdempotencyKeyReused: (errors.IdempotencyKeyReused(REFUND), 422, "IDEMPOTENCY_KEY_REUSED", False),
    errors.NotFound: (errors.NotFound("no such refund"), 404, "NOT_FOUND", False),
    errors.NotPermitted: (errors.NotPermitted("not another's"), 403, "FORBIDDEN", False),
    errors.StaleVersion: (errors.StaleVersion(REFUND), 412, "VERSION_MISMATCH", False),
    errors.NotResolvable: (errors.NotResolvable(REFUND), 409, "REFUND_NOT_UNKNOWN", False),
    errors.NotWithdrawable: (errors.NotWithdrawable(REFUND), 409, "REFUND_NOT_WITHDRAWABLE", False),
    errors.ResolutionTooEarly: (
        errors.ResolutionTooEarly(REFUND, REFUND.updated_at, 1.5),
        *(409, "RESOLUTION_TOO_EARLY", True),
    ),
    errors.UnreadableItem: (errors.UnreadableItem("m1#ORDER", "REFUND#1"), 503, "LEDGER_UNAVAILABLE", True),
    errors.LedgerUnavailable: (errors.LedgerUnavailable("no answer"), 503, "LEDGER_UNAVAILABLE", True),
    errors.LedgerBusy: (errors.LedgerBusy("many writers"), 503, "LEDGER_BUSY", True),
}
# These are caught where they are raised. One that comes as far as the API is a fault of the gateway, logged as one.
INTERNAL: list[RefundsError] = [
    errors.RefundsError("base"),
    errors.QueueUnavailable("sending to the refund queue failed"),
    errors.DecisionRefused(REFUND, "base"),
    errors.RefundChanged(REFUND),
    errors.OrderChanged(None),
    errors.IllegalTransition("illegal transition from QUEUED to UNKNOWN"),
]

FAILURES = {
    FailureCode.ORDER_NOT_FOUND: 404,
    FailureCode.TRANSACTION_NOT_PAID: 409,
    FailureCode.AMOUNT_EXCEEDS_REFUNDABLE: 422,
    FailureCode.UPSTREAM_REFUSED: 422,
    FailureCode.RESOLVED_AS_FAILED: 422,
    FailureCode.WITHDRAWN: 422,
}
