"""What a submission says to Indodana, and what its outcome means: the rows of the design's table.

what the call did                                 a first attempt      after one that may have reached Indodana
2xx with `status: OK`                             SUCCEEDED            SUCCEEDED
surely not sent                                   QUEUED               UNKNOWN, as before
409                                               FAILED               SUCCEEDED: it knows the refundId
400, 403, 404, 422                                FAILED               UNKNOWN, for an operator
anything else                                     UNKNOWN              UNKNOWN
"""

from __future__ import annotations

from dataclasses import dataclass

from indodana import Cancellation, IndodanaError, NotSent, Refused
from refunds.model import Failure, FailureCode, Reason, Refund, RefundStatus
from refunds.upstream import UpstreamSaid, error_said, said

# Indodana's own words for our reasons (its documentation of cancellationReason).
INDODANA_REASONS = {
    Reason.EXPIRED: "Expired",
    Reason.OUT_OF_STOCK: "Out of Stock",
    Reason.ITEMS_RETURNED: "Items Returned",
    Reason.OTHERS: "Others",
}


@dataclass(frozen=True)
class Verdict:
    """What a submission means for its refund: a row of the table above."""

    status: RefundStatus
    cause: str | None = None
    failure: Failure | None = None
    upstream: UpstreamSaid | None = None
    retry_after_seconds: float | None = None
    may_be_resubmitted: bool = True  # of an UNKNOWN one, where the stack resubmits


def verdict_on_error(refund: Refund, error: IndodanaError) -> Verdict:
    if isinstance(error, NotSent):
        return surely_not_sent(refund, str(error), said(error), error.retry_after_seconds)
    if isinstance(error, Refused):
        return _refused(refund, error)
    return Verdict(RefundStatus.UNKNOWN, cause=str(error), upstream=said(error))


def surely_not_sent(
    refund: Refund, cause: str, upstream: UpstreamSaid | None = None, retry_after_seconds: float | None = None
) -> Verdict:
    """This attempt moved nothing. If an earlier one may have, the truth is as unknown as before."""
    status = RefundStatus.UNKNOWN if refund.ambiguous else RefundStatus.QUEUED
    return Verdict(status, cause, upstream=upstream, retry_after_seconds=retry_after_seconds)


def _refused(refund: Refund, refused: Refused) -> Verdict:
    failure = upstream_failure(FailureCode.UPSTREAM_REFUSED, refusal_detail(refused), refused)
    if not refund.ambiguous:
        return Verdict(RefundStatus.FAILED, cause=str(refused), failure=failure, upstream=said(refused))
    if refused.http_status == 409:  # it recognises the refundId: an earlier attempt did it
        return Verdict(RefundStatus.SUCCEEDED, cause=str(refused), upstream=said(refused))
    # This attempt was refused, perhaps because an earlier one was done. An operator must look: no further attempt.
    return Verdict(RefundStatus.UNKNOWN, cause=str(refused), upstream=said(refused), may_be_resubmitted=False)


def cancellation(refund: Refund) -> Cancellation:
    request = refund.request
    assert refund.amount is not None  # SUBMITTING has reserved
    return Cancellation(
        refund_id=refund.refund_id,
        merchant_order_id=request.order.merchant_order_id,
        amount=refund.amount,
        reason=INDODANA_REASONS[request.reason],
        cancelled_by=request.requested_by,
        date=refund.created_at,  # the same in every attempt, so that a repetition is the same request
    )


def upstream_failure(code: FailureCode, detail: str, error: IndodanaError) -> Failure:
    kind, message = error_said(error)
    return Failure(code, detail, error.http_status, kind, message)


def refusal_detail(refused: Refused) -> str:
    return f"Indodana refused it with HTTP {refused.http_status}"
