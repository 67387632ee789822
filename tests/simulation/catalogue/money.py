"""Mutants of reserving, submitting and reading what a call did."""

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
        "A reservation is held to what was paid, and not to what is left of it.",
        NOT_NEGATIVE,
        "all_that_remains_twice",
        Edit(
            "Ledger._sums_write", '"refundable = :needed" if exact else "refundable >= :needed"', '"amount >= :needed"'
        ),
    ),
    mutant(
        "reservation-not-subtracted",
        "What is reserved stays refundable until it is refunded.",
        SUMS_ADD_UP,
        "one_refund_by_api",
        Edit("SumsChange.refundable", "-(self.reserved + self.refunded)", "-self.refunded"),
    ),
    mutant(
        "order-opened-twice",
        "Two first refunds of an order each open its sums, and the second forgets what the first reserved.",
        SUMS_AGREE,
        "two_refunds_by_api_with_two_keys",
        # A condition that always holds.
        Edit("Ledger._sums_write", '"attribute_not_exists(pk)"', '"attribute_not_exists(noSuchAttribute)"'),
    ),
    mutant(
        "first-refund-not-compared",
        "Where the order has no sums yet, the amount is compared with nothing.",
        NOT_NEGATIVE,
        "more_than_was_paid",
        Edit("Order.shortfall", "amount <= self.refundable", "not self.stored or amount <= self.refundable"),
        Edit("Order.plus", "self.refundable + change.refundable < 0", "self.amount < 0"),
    ),
    mutant(
        "amount-paid-misread",
        "What Indodana says was paid is read in another unit, a hundred times as much.",
        NOT_MORE_THAN_PAID,
        "more_than_was_paid",
        Edit(
            "_open_order", "Order.opened_by(state, status.amount)", "Order.opened_by(state, (status.amount or 0) * 100)"
        ),
    ),
    mutant(
        "any-status-is-paid",
        "Only what is known to be fraud is not refunded, instead of only what is PAID being refunded.",
        NOT_MORE_THAN_PAID,
        "an_order_that_is_not_paid",
        Edit("Order.opened_by", 'transaction_status != "PAID"', 'transaction_status == "REJECTED"'),
    ),
    mutant(
        "all-that-remains-not-exact",
        "“All that remains” is what it was when it was read, though more is there when it is reserved.",
        TOOK_ALL,
        "a_refund_and_all_that_remains",
        Edit("RefundProtocol._reserve", "exact=request.amount is None", "exact=False"),
    ),
    mutant(
        "reservation-given-back-on-unknown",
        "An UNKNOWN refund, whose money may have moved, gives its reservation back.",
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
        "A refund that goes back to QUEUED gives its reservation back, and does not take it again.",
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
        "A FAILED refund holds its money for good, and the customer can never be refunded.",
        SUMS_AGREE,
        "one_refund_by_api",
        Edit("Refund.held_reserved", "self.status in OPEN_STATUSES", "ORIGINAL or self.status is RefundStatus.FAILED"),
    ),
    # ---- submit
    mutant(
        "settle-before-submit",
        "The refund is on record as SUCCEEDED before it is sent.",
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
        "The refund is sent first and written down afterwards.",
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
        "A submission that fails is tried once more, as HTTP libraries like to do.",
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
        "A process that was frozen sends its refund although its lease has run out.",
        INTENT_FIRST,
        "a_process_that_froze_before_it_sent",
        Edit(
            "RefundProtocol._submit",
            "min(context.seconds_left(), lease_left)",
            "context.seconds_left() + SUBMIT_SECONDS",
        ),
    ),
    # ---- what the call did
    mutant(
        "lost-answer-is-a-failure",
        "A timeout or a lost answer is taken for a failure.",
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
        "A lost answer is taken for a request that was never sent, and the refund is tried again.",
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
        "A 5xx is taken for “it will have done it”.",
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
        "A 200 is success, whatever its body says.",
        SUCCEEDED_HAS_MOVED,
        "one_refund_by_api",
        Edit("Reading._ok", 'not self._is_own_document("OK")', "False"),
        Edit("Reading.cancellation", "self._contradicted(self._ok())", "self._ok() and None"),
    ),
    mutant(
        "first-conflict-is-success",
        "A 409 is taken for “done before” although nothing was sent before.",
        SUCCEEDED_HAS_MOVED,
        "one_refund_by_api",
        Edit("_refused", "refund.ambiguous and conflict and ...", "conflict"),
    ),
    mutant(
        "later-conflict-is-a-failure",
        "A 409 to a refund that was sent before (`resubmit`) is a failure, though it says that the first was done.",
        FAILED_HAS_NOT,
        "an_unknown_refund_submitted_again",
        Edit("_refused", "not refund.ambiguous", "True"),
    ),
)
