"""Mutants of reserving, submitting and interpreting the outcome."""

from __future__ import annotations

from tests.simulation.catalogue.mutant import (
    AS_ASKED,
    AT_MOST_ONCE,
    FAILED_HAS_NOT,
    INTENT_FIRST,
    NOT_MORE_THAN_PAID,
    NOT_NEGATIVE,
    SUCCEEDED_HAS_MOVED,
    SUMS_ADD_UP,
    SUMS_AGREE,
    TOOK_ALL,
    mutant,
)
from tests.simulation.mutating import Edit

MUTANTS = (
    # ---- reserve
    mutant(
        "no-condition-on-refundable",
        "A reservation is compared with the amount paid, not with the refundable rest.",
        NOT_NEGATIVE,
        "all_that_remains_twice",
        Edit(
            "Ledger._sums_write", '"refundable = :needed" if exact else "refundable >= :needed"', '"amount >= :needed"'
        ),
    ),
    mutant(
        "reservation-not-subtracted",
        "Reserved money stays refundable.",
        SUMS_ADD_UP,
        "one_refund_by_api",
        Edit("SumsChange.refundable", "-(self.reserved + self.refunded)", "-self.refunded"),
    ),
    mutant(
        "order-opened-twice",
        "Two first refunds of an order both create its sums; the second overwrites the first one's reservation.",
        SUMS_AGREE,
        "two_refunds_by_api_with_two_keys",
        # A condition that always holds.
        Edit("Ledger._sums_write", '"attribute_not_exists(pk)"', '"attribute_not_exists(noSuchAttribute)"'),
    ),
    mutant(
        "first-refund-not-compared",
        "The first refund of an order is not compared with the amount paid.",
        NOT_NEGATIVE,
        "more_than_was_paid",
        Edit("Order.shortfall", "amount <= self.refundable", "not self.stored or amount <= self.refundable"),
        Edit("Order.plus", "self.refundable + change.refundable < 0", "self.amount < 0"),
    ),
    mutant(
        "amount-paid-misread",
        "The amount paid is read in another unit, a hundred times too much.",
        NOT_MORE_THAN_PAID,
        "more_than_was_paid",
        Edit(
            "_open_order", "Order.opened_by(state, status.amount)", "Order.opened_by(state, (status.amount or 0) * 100)"
        ),
    ),
    mutant(
        "any-status-is-paid",
        "Any order that is not REJECTED can be refunded, instead of PAID orders only.",
        NOT_MORE_THAN_PAID,
        "an_order_that_is_not_paid",
        Edit("Order.opened_by", 'transaction_status != "PAID"', 'transaction_status == "REJECTED"'),
    ),
    mutant(
        "all-that-remains-not-exact",
        "“All that remains” reserves the amount that was read, although more is refundable by then.",
        TOOK_ALL,
        "a_refund_and_all_that_remains",
        Edit("RefundProtocol._reserve", "exact=request.amount is None", "exact=False"),
    ),
    mutant(
        "reservation-given-back-on-unknown",
        "An UNKNOWN refund gives its reservation back, although its money may have moved.",
        SUMS_AGREE,
        "one_refund_by_api",
        Edit(
            "Refund.held_reserved",
            "self.status in OPEN_STATUSES",
            "ORIGINAL and self.status is not RefundStatus.UNKNOWN",
        ),
    ),
    mutant(
        "reservation-given-back-on-queued",
        "A refund that becomes QUEUED again gives its reservation back, and does not reserve again.",
        SUMS_AGREE,
        "one_refund_by_api",
        Edit(
            "Refund.held_reserved",
            "self.status in OPEN_STATUSES",
            "ORIGINAL and self.status is not RefundStatus.QUEUED",
        ),
        Edit(
            "SumsChange.between",
            "return cls(...)",
            """
            if before and before.status is RefundStatus.QUEUED and before.reserved_amount is not None:
                return cls(Decimal(0), after.held_refunded)
            ORIGINAL
            """,
        ),
    ),
    mutant(
        "failed-keeps-its-reservation",
        "A FAILED refund keeps its reservation, so the customer can never be refunded.",
        SUMS_AGREE,
        "one_refund_by_api",
        Edit("Refund.held_reserved", "self.status in OPEN_STATUSES", "ORIGINAL or self.status is RefundStatus.FAILED"),
    ),
    # ---- submit
    mutant(
        "settle-before-submit",
        "The refund is recorded as SUCCEEDED before it is sent.",
        SUCCEEDED_HAS_MOVED,
        "one_refund_by_api",
        Edit(
            "RefundProtocol.attempt",
            "outcome, result = self._submit(...)",
            """
            settled = self._settle(refund, Outcome(RefundStatus.SUCCEEDED), context)
            ORIGINAL
            """,
        ),
        Edit("RefundProtocol.attempt", "return self._settle(refund, outcome, ...)", "return settled"),
    ),
    mutant(
        "written-after-the-call",
        "The refund is sent first and recorded afterwards.",
        INTENT_FIRST,
        "one_refund_by_api",
        Edit("RefundProtocol._reserve", "self._write(...)", "self._reserved = lambda: ORIGINAL"),
        Edit(
            "RefundProtocol.attempt",
            "outcome, result = self._submit(...)",
            """
            ORIGINAL
            self._reserved()
            """,
        ),
    ),
    mutant(
        "whole-amount-sent",
        "A partial refund is sent with the whole transaction's amount.",
        AS_ASKED,
        "one_refund_by_api",
        Edit(
            "RefundProtocol._reserve",
            "cancellation_of(after)",
            "cancellation_of(replace(after, reserved_amount=after.transaction_amount or amount))",
        ),
    ),
    mutant(
        "submission-retried",
        "A failed submission is retried once, as HTTP libraries do.",
        AT_MOST_ONCE,
        "one_refund_by_api",
        Edit(
            "RefundProtocol._submit",
            "accepted = self._indodana.cancel(...)",
            """
            try:
                ORIGINAL
            except IndodanaError:
                ORIGINAL
            """,
        ),
    ),
    mutant(
        "sent-after-the-lease",
        "A frozen process sends its refund although its lease has expired.",
        INTENT_FIRST,
        "a_process_that_froze_before_it_sent",
        Edit(
            "RefundProtocol._submit",
            "min(context.seconds_left(), lease_left)",
            "SUBMIT_SECONDS",
        ),
    ),
    # ---- outcome
    mutant(
        "lost-answer-is-a-failure",
        "A timeout or a lost answer makes the refund FAILED.",
        FAILED_HAS_NOT,
        "one_refund_by_api",
        Edit(
            "outcome_of_error",
            "return Outcome(RefundStatus.UNKNOWN, ...)",
            """
            failure = upstream_failure(FailureCode.UPSTREAM_REFUSED, str(error), error)
            return Outcome(RefundStatus.FAILED, cause=str(error), failure=failure, upstream=answer_in(error))
            """,
        ),
    ),
    mutant(
        "lost-answer-is-not-sent",
        "A lost answer is treated as “not sent”, and the refund is sent again.",
        AT_MOST_ONCE,
        "one_refund_by_api",
        Edit(
            "outcome_of_error",
            "Outcome(RefundStatus.UNKNOWN, ...)",
            "not_sent(refund, str(error), answer_in(error))",
        ),
    ),
    mutant(
        "server-error-is-success",
        "A 5xx makes the refund SUCCEEDED.",
        SUCCEEDED_HAS_MOVED,
        "one_refund_by_api",
        Edit(
            "outcome_of_error",
            "return Outcome(RefundStatus.UNKNOWN, ...)",
            """
            from indodana import ServerFailed

            if isinstance(error, ServerFailed):
                return Outcome(RefundStatus.SUCCEEDED, upstream=answer_in(error))
            ORIGINAL
            """,
        ),
    ),
    mutant(
        "any-200-is-success",
        "A 200 with any body makes the refund SUCCEEDED.",
        SUCCEEDED_HAS_MOVED,
        "one_refund_by_api",
        Edit("Reading._ok", 'not self._is_own_document("OK")', "False"),
        Edit("Reading.cancellation", "self._contradicted(self._ok())", "self._ok() and None"),
    ),
    mutant(
        "first-conflict-is-success",
        "A 409 to the first submission is treated as “already done”.",
        SUCCEEDED_HAS_MOVED,
        "one_refund_by_api",
        Edit("_refused", "refund.ambiguous and conflict and ...", "conflict"),
    ),
    mutant(
        "later-conflict-is-a-failure",
        "A 409 to a refund that was sent before (`resubmit`) makes it FAILED, although it means “already done”.",
        FAILED_HAS_NOT,
        "an_unknown_refund_submitted_again",
        Edit("_refused", "not refund.ambiguous", "True"),
    ),
)
