"""The outcome of a submission: what Indodana's answer, or its absence, means for the refund.

what the call did                                 a first attempt      after one that may have reached Indodana
OK, and nothing in it that contradicts            SUCCEEDED            SUCCEEDED
surely not sent                                   QUEUED               UNKNOWN, as before
409 of a kind that surely did nothing             FAILED               UNKNOWN, for an operator
409 of a kind that means "done before"            UNKNOWN              SUCCEEDED
any other 409                                     UNKNOWN              UNKNOWN, for an operator
400, 403, 404, 422 in Indodana's own words        FAILED               UNKNOWN, for an operator
anything else                                     UNKNOWN              UNKNOWN

Indodana does not document which kinds of a 409 mean what: the merchant names them once Indodana has confirmed them
(ConflictKindsNotDone, ConflictKindsDone).
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
    may_be_resubmitted: bool = True  # of an UNKNOWN one, where the stack resubmits


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
    """This attempt moved nothing. If an earlier one may have, the refund stays UNKNOWN."""
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
    # Refused or in conflict, perhaps because an earlier attempt was done: an operator must look, no further attempt.
    return Outcome(RefundStatus.UNKNOWN, cause, upstream=upstream, may_be_resubmitted=False)


def refusal_failure(refused: Refused) -> Failure:
    return upstream_failure(
        FailureCode.UPSTREAM_REFUSED, f"Indodana refused it with HTTP {refused.http_status}", refused
    )


def upstream_failure(code: FailureCode, detail: str, error: IndodanaError) -> Failure:
    return Failure(code, detail, error.http_status, error.kind, error.message)
