"""Indodana as the domain sees it: its calls, and its answers in a form that may be stored."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Protocol

from gateway.core.breaker import Admission, AttemptResult, CircuitBreaker
from gateway.core.model import Reason, Refund
from indodana import (
    AnswerEvidence,
    AnswerTimedOut,
    Cancellation,
    CancellationAccepted,
    ConnectTimedOut,
    CredentialsUnavailable,
    IndodanaError,
    NotSent,
    TransactionStatus,
)

# Indodana's own words for our reasons (its documentation of cancellationReason).
INDODANA_REASONS = {
    Reason.EXPIRED: "Expired",
    Reason.OUT_OF_STOCK: "Out of Stock",
    Reason.ITEMS_RETURNED: "Items Returned",
    Reason.OTHERS: "Others",
}


class Indodana(Protocol):
    def check_status(self, merchant_id: str, merchant_order_id: str) -> TransactionStatus: ...
    def cancel(
        self, merchant_id: str, cancellation: Cancellation, *, may_send: Callable[[], bool]
    ) -> CancellationAccepted: ...


class StatusChecksPaused(NotSent):
    """The status check was not sent: Indodana did not answer earlier ones in time (breaker.py)."""


class GuardedIndodana:
    """Indodana behind the circuit breaker of its status checks. The protocol has the one of refunds."""

    def __init__(self, indodana: Indodana, breaker: CircuitBreaker) -> None:
        self._indodana = indodana
        self._breaker = breaker

    def check_status(self, merchant_id: str, merchant_order_id: str) -> TransactionStatus:
        """Raises StatusChecksPaused at once while the breaker is open."""
        admission = self._breaker.admit()
        if admission is Admission.WAIT:
            raise StatusChecksPaused(
                "not sent: Indodana did not answer earlier status checks in time",
                retry_after_seconds=self._breaker.wait_seconds,
            )
        result = AttemptResult.NOTHING
        try:
            status = self._indodana.check_status(merchant_id, merchant_order_id)
            result = AttemptResult.ANSWERED
        except IndodanaError as error:
            result = _result(error)
            raise
        finally:
            self._breaker.report(admission, result)
        return status

    def cancel(
        self, merchant_id: str, cancellation: Cancellation, *, may_send: Callable[[], bool]
    ) -> CancellationAccepted:
        return self._indodana.cancel(merchant_id, cancellation, may_send=may_send)


def _result(error: IndodanaError) -> AttemptResult:
    """Only what took long counts: a quick failure holds no function, and ends with its reason."""
    if isinstance(error, ConnectTimedOut | AnswerTimedOut):
        return AttemptResult.DOUBTFUL
    return AttemptResult.NOTHING if isinstance(error, CredentialsUnavailable) else AttemptResult.ANSWERED


@dataclass(frozen=True)
class UpstreamAnswer:
    """Indodana's answer for the audit record: the part of the body that may be stored, and the sha256 of all of it."""

    status: int | None
    body: str | None
    sha256: str | None = None

    @classmethod
    def of(cls, http_status: int, evidence: AnswerEvidence | None) -> UpstreamAnswer:
        if evidence is None:
            return cls(http_status, None)
        return cls(http_status, evidence.body, evidence.sha256)


def answer_in(error: IndodanaError) -> UpstreamAnswer | None:
    """None: Indodana did not answer."""
    return None if error.http_status is None else UpstreamAnswer.of(error.http_status, error.evidence)


def cancellation_of(refund: Refund) -> Cancellation:
    request = refund.request
    assert refund.amount is not None  # a SUBMITTING refund has a reservation
    return Cancellation(
        refund_id=refund.refund_id,
        merchant_order_id=request.order.merchant_order_id,
        amount=refund.amount,
        reason=INDODANA_REASONS[request.reason],
        cancelled_by=request.requested_by,
        date=refund.created_at,  # the same in every attempt, so that a repeated request is identical
    )
