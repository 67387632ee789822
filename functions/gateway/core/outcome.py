"""The outcome of a submission: what Indodana's answer, or a missing answer, means for the refund.

result of the call                                a first attempt      after one that may have reached Indodana
OK that contradicts nothing                       SUCCEEDED            SUCCEEDED
certainly not sent                                QUEUED               UNKNOWN, as before
409 of a kind in ConflictKindsNotDone             FAILED               UNKNOWN, for an operator
409 of a kind in ConflictKindsDone                UNKNOWN              SUCCEEDED
any other 409                                     UNKNOWN              UNKNOWN, for an operator
400, 403, 404, 422 in Indodana's own format       FAILED               UNKNOWN, for an operator
anything else                                     UNKNOWN              UNKNOWN

Indodana does not document what the kinds of a 409 mean: the merchant sets these parameters after Indodana has confirmed
them.
"""

from __future__ import annotations

from dataclasses import dataclass

from gateway.core.model import Failure, FailureCode, Refund
from gateway.core.transitions import RefundStatus
from gateway.core.upstream import UpstreamAnswer, answer_in
from indodana import IndodanaError, NotSent, Refused


@dataclass(frozen=True)
class Outcome:
    """What a submission means for its refund: a row of the table above."""

    status: RefundStatus
    cause: str | None = None
    failure: Failure | None = None
    upstream: UpstreamAnswer | None = None
    retry_after_seconds: float | None = None
    may_be_resubmitted: bool = True  # for an UNKNOWN refund, if AmbiguousRefunds is `resubmit`


@dataclass(frozen=True)
class ConflictKinds:
    """Kinds of a 409 whose meaning Indodana has confirmed to the merchant."""

    not_done: frozenset[str] = frozenset()
    done: frozenset[str] = frozenset()


def outcome_of_error(refund: Refund, error: IndodanaError, kinds: ConflictKinds) -> Outcome:
    if isinstance(error, NotSent):
        return not_sent(refund, str(error), answer_in(error), error.retry_after_seconds)
    if isinstance(error, Refused):
        return _refused(refund, error, kinds)
    return Outcome(RefundStatus.UNKNOWN, cause=str(error), upstream=answer_in(error))


def not_sent(
    refund: Refund, cause: str, upstream: UpstreamAnswer | None = None, retry_after_seconds: float | None = None
) -> Outcome:
    """This attempt moved no money. If an earlier one may have, the refund stays UNKNOWN."""
    status = RefundStatus.UNKNOWN if refund.ambiguous else RefundStatus.QUEUED
    return Outcome(status, cause, upstream=upstream, retry_after_seconds=retry_after_seconds)


def _refused(refund: Refund, refused: Refused, kinds: ConflictKinds) -> Outcome:
    cause, upstream = str(refused), answer_in(refused)
    conflict = refused.http_status == 409
    if refund.ambiguous and conflict and refused.kind in kinds.done:  # an earlier attempt did it
        return Outcome(RefundStatus.SUCCEEDED, cause, upstream=upstream)
    surely_not_done = not conflict or refused.kind in kinds.not_done
    if not refund.ambiguous and surely_not_done:
        return Outcome(RefundStatus.FAILED, cause, failure=refusal_failure(refused), upstream=upstream)
    # The reason may be that an earlier attempt was done: an operator must check, and it is not attempted again.
    return Outcome(RefundStatus.UNKNOWN, cause, upstream=upstream, may_be_resubmitted=False)


def refusal_failure(refused: Refused) -> Failure:
    return upstream_failure(
        FailureCode.UPSTREAM_REFUSED, f"Indodana refused the request with HTTP {refused.http_status}", refused
    )


def upstream_failure(code: FailureCode, detail: str, error: IndodanaError) -> Failure:
    return Failure(code, detail, error.http_status, error.kind, error.message)
