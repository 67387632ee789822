"""Mutants of leases, of operators' decisions and of due times."""

from __future__ import annotations

from tests.simulation.catalogue.mutant import (
    AT_MOST_ONCE,
    FAILED_HAS_NOT,
    INTENT_FIRST,
    LEGAL,
    NEVER_AGAIN,
    NOT_BEFORE_DUE,
    OF_ITS_VERSION,
    UNKNOWN_IS_HONEST,
    mutant,
)
from tests.simulation.mutating import Edit

MUTANTS = (
    # ---- leases
    mutant(
        "lease-ignored",
        "A refund that one process is submitting is submitted by another.",
        LEGAL,
        "one_message_delivered_twice",
        Edit(
            "LEGAL_TRANSITIONS",
            "{RefundStatus.SUCCEEDED, RefundStatus.FAILED, RefundStatus.UNKNOWN, RefundStatus.QUEUED}",
            "set(RefundStatus)",
        ),
        Edit(
            "RefundProtocol.waits_for_an_attempt",
            "refund.status is RefundStatus.QUEUED",
            "refund.status in (RefundStatus.QUEUED, RefundStatus.SUBMITTING)",
        ),
    ),
    mutant(
        "expired-lease-is-requeued",
        "A refund with an expired lease becomes QUEUED and is sent again.",
        AT_MOST_ONCE,
        "one_refund_by_api",
        Edit(
            "RefundProtocol.expire_lease",
            "refund.transition_to(...)",
            "refund.transition_to(RefundStatus.QUEUED, self._clock(), lease_until=None, next_attempt_at=self._clock())",
        ),
    ),
    mutant(
        "expired-lease-is-a-failure",
        "A refund with an expired lease becomes FAILED.",
        FAILED_HAS_NOT,
        "one_refund_by_api",
        Edit(
            "RefundProtocol.expire_lease",
            "refund.transition_to(...)",
            """
            refund.transition_to(
                RefundStatus.FAILED,
                self._clock(),
                lease_until=None,
                failure=Failure(FailureCode.UPSTREAM_REFUSED, cause),
            )
            """,
        ),
    ),
    mutant(
        "expired-lease-is-not-ambiguous",
        "An expired lease does not mark the refund as ambiguous, so with `resubmit` a 422 makes it FAILED.",
        FAILED_HAS_NOT,
        "a_lost_process_whose_repetition_may_be_refused",
        Edit("RefundProtocol.expire_lease", "ambiguous=True", "ambiguous=refund.ambiguous"),
    ),
    mutant(
        "running-lease-expired",
        "Any other request treats a submission in progress as lost.",
        UNKNOWN_IS_HONEST,
        "two_refunds_by_api_with_one_key",
        Edit("RefundProtocol.has_expired_lease", "refund.lease_until is not None", "True"),
        Edit("RefundProtocol.has_expired_lease", "self._clock() >= refund.lease_until", "True"),
    ),
    mutant(
        "unknown-submitted-again",
        "With `review`, an UNKNOWN refund is submitted again when its message is redelivered.",
        NEVER_AGAIN,
        "one_message",
        Edit(
            "RefundProtocol.waits_for_an_attempt",
            "self._ambiguous_refunds is AmbiguousRefunds.RESUBMIT and ...",
            "True",
        ),
    ),
    # ---- operators
    mutant(
        "evidence-from-before-the-lease-expired",
        "An operator who looked during the submission can settle the refund as soon as its lease has expired.",
        FAILED_HAS_NOT,
        "an_operator_who_looked_too_early",
        Edit(
            "Decisions._decide",
            "before = self._protocol.expire_lease(before, context)",
            """
            ORIGINAL
            version = before.version
            """,
        ),
        Edit("Decisions.resolve", "self._check_hold(refund, evidence.checked_at)", "pass"),
    ),
    mutant(
        "submitting-refund-withdrawn",
        "An operator can withdraw a SUBMITTING refund.",
        FAILED_HAS_NOT,
        "a_refund_under_way_and_an_operator",
        Edit(
            "Decisions.withdraw",
            "refund.status is not RefundStatus.QUEUED",
            "refund.status not in (RefundStatus.QUEUED, RefundStatus.SUBMITTING)",
        ),
    ),
    mutant(
        "decision-for-any-version",
        "An operator's FAILED is accepted although the refund was sent again since they looked.",
        OF_ITS_VERSION,
        "a_decision_on_a_refund_that_is_sent_again",
        Edit("Decisions._decide", "before.version != version", "False"),
        Edit("Decisions.resolve", "self._check_hold(refund, evidence.checked_at)", "pass"),
    ),
    mutant(
        "withdrawal-for-any-version",
        "A withdrawal is accepted although the refund is no longer QUEUED, as the operator saw it.",
        OF_ITS_VERSION,
        "a_withdrawal_and_the_worker",
        Edit("Decisions._decide", "before.version != version", "False"),
        Edit("Decisions.withdraw", "refund.status is not RefundStatus.QUEUED", "False"),
    ),
    mutant(
        "hold-not-checked",
        "An operator's FAILED is accepted while the request may still arrive at Indodana.",
        FAILED_HAS_NOT,
        "a_refund_done_late",
        Edit("Decisions.resolve", "self._check_hold(refund, evidence.checked_at)", "pass"),
    ),
    # ---- time
    mutant(
        "due-time-not-checked",
        "A waiting refund is attempted whenever one of its messages comes.",
        NOT_BEFORE_DUE,
        "two_messages_of_a_refund_that_waits",
        Edit("RefundProtocol.is_due", "due <= self._clock()", "True"),
    ),
    mutant(
        "postponed-since-it-was-read",
        "A worker sends a refund that another worker has postponed since it was read.",
        NOT_BEFORE_DUE,
        "two_workers_and_a_refund_that_waits",
        Edit("Ledger._refund_write", "after.status is RefundStatus.SUBMITTING", "False"),
    ),
    mutant(
        "last-check-left-out",
        "A process that froze after its checks sends its request without checking the time again.",
        INTENT_FIRST,
        "a_process_that_freezes_as_it_sends",
        Edit("RefundProtocol._submit", "is_time_for(SUBMIT_SECONDS) and ...", "True"),
    ),
)
