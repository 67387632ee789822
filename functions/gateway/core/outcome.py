"""What a submission says to Indodana, and what its outcome means.

what the call did                                 a first attempt      after one that may have reached Indodana
OK, and nothing in it that contradicts            SUCCEEDED            SUCCEEDED
surely not sent                                   QUEUED               UNKNOWN, as before
409 of a kind that surely did nothing             FAILED               UNKNOWN, for an operator
409 of a kind that means "done before"            UNKNOWN              SUCCEEDED
any other 409                                     UNKNOWN              UNKNOWN, for an operator
400, 403, 404, 422 in Indodana's own words        FAILED               UNKNOWN, for an operator
anything else                                     UNKNOWN              UNKNOWN

Which kinds of a 409 mean what, Indodana does not document: the merchant names them once it has confirmed them
(ConflictKindsNotDone, ConflictKindsDone).
"""

from __future__ import annotations

from dataclasses import dataclass

from gateway.core.model import Failure, FailureCode, Reason, Refund, RefundStatus
from gateway.core.upstream import UpstreamSaid, error_said, said
from indodana import Cancellation, IndodanaError, NotSent, Refused

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


@dataclass(frozen=True)
class ConflictKinds:
    """Kinds of a 409 whose meaning Indodana has confirmed to the merchant."""

    not_done: frozenset[str] = frozenset()
    done: frozenset[str] = frozenset()


def verdict_on_error(refund: Refund, error: IndodanaError, kinds: ConflictKinds) -> Verdict:
    if isinstance(error, NotSent):
        return surely_not_sent(refund, str(error), said(error), error.retry_after_seconds)
    if isinstance(error, Refused):
        return _refused(refund, error, kinds)
    return Verdict(RefundStatus.UNKNOWN, cause=str(error), upstream=said(error))


def surely_not_sent(
    refund: Refund, cause: str, upstream: UpstreamSaid | None = None, retry_after_seconds: float | None = None
) -> Verdict:
    """This attempt moved nothing. If an earlier one may have, the truth is as unknown as before."""
    status = RefundStatus.UNKNOWN if refund.ambiguous else RefundStatus.QUEUED
    return Verdict(status, cause, upstream=upstream, retry_after_seconds=retry_after_seconds)


def _refused(refund: Refund, refused: Refused, kinds: ConflictKinds) -> Verdict:
    conflict = refused.http_status == 409
    if refund.ambiguous and conflict and refused.kind in kinds.done:  # an earlier attempt did it
        return Verdict(RefundStatus.SUCCEEDED, cause=str(refused), upstream=said(refused))
    surely_not_done = not conflict or refused.kind in kinds.not_done
    if not refund.ambiguous and surely_not_done:
        failure = upstream_failure(FailureCode.UPSTREAM_REFUSED, refusal_detail(refused), refused)
        return Verdict(RefundStatus.FAILED, cause=str(refused), failure=failure, upstream=said(refused))
    # Refused or in conflict, perhaps because an earlier attempt was done: an operator must look, no further attempt.
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
