"""Small mistakes in the protocol, each of which must break an invariant: where, in which world, and which."""

from __future__ import annotations

from dataclasses import dataclass

from tests.simulation.mutating import Edit

# The invariants by the words with which they break.
AT_MOST_ONCE = "money moves at most once per refund"
NOT_MORE_THAN_PAID = "no more moves than was paid"
INTENT_FIRST = "intent is on record before money moves"
SUCCEEDED_HAS_MOVED = "what succeeded has moved"
FAILED_HAS_NOT = "what failed has not moved"
UNKNOWN_IS_HONEST = "unknown only where nobody could know"
NEVER_AGAIN = "an unknown refund is not submitted again under review"
SUMS_ADD_UP = "refunded + reserved + refundable = amount"
NOT_NEGATIVE = "no sum is negative"
SUMS_AGREE = "the order's sums are those of its refunds"
LEGAL = "every transition is legal"
NOT_OVERWRITTEN = "no transition is lost"
ONE_RECORD = "every transition has exactly one audit record"
COMES_TO_AN_END = "nothing stays queued or submitting"
NOT_LOST = "no refund is lost"
ONE_KEY = "one key makes one refund"
TOLD_TRUTH = "a caller is told the truth"
TOLD_OF_ITS_OWN = "a caller is told of what it asked for"
AS_ASKED = "what moves is what was asked for"
TOOK_ALL = "all that remains leaves nothing"
EXPLAINED = "every dead letter is explained by a record"
NOT_KEPT = "no secret and no name is kept"
NOT_BEFORE_DUE = "nothing is attempted before it is due"
TOLD_OF_RECORD = "a caller is told what is on record"
HOLDS_IT = "no refund lacks the money that it holds"
OF_ITS_VERSION = "a decision holds for the version that it was made on"


@dataclass(frozen=True)
class Mutant:
    name: str
    story: str  # what goes wrong
    invariant: str  # the one that breaks first
    world: str  # in which it does
    edits: tuple[Edit, ...]


def _mutant(name: str, story: str, invariant: str, world: str, *edits: Edit) -> Mutant:
    return Mutant(name, story, invariant, world, edits)


# No code of the gateway deletes from the ledger, and the emulator would not. An item of nothing but its key is as good
# as none where reading and creating take it for none.
_AS_IF_DELETABLE = (
    Edit(
        "_snapshot",
        "to_refund(refund) if refund else None",
        'to_refund(refund) if refund and "refundId" in refund else None',
    ),
    Edit("Ledger._refund_write", '"attribute_not_exists(pk)"', '"attribute_not_exists(refundId)"'),
    Edit(
        "Ledger.__init__",
        "self._client = client",
        """
        ORIGINAL
        self.forget = lambda request: client.put_item(
            TableName=ledger_table, Item=refund_item_key(request.order, request.refund_id)
        )
        """,
    ),
)

MUTANTS = (
    # ---- reserve
    _mutant(
        "no-condition-on-refundable",
        "A reservation is held to what was paid, and not to what is left of it.",
        NOT_NEGATIVE,
        "all_that_remains_twice",
        Edit(
            "Ledger._sums_write", '"refundable = :needed" if exact else "refundable >= :needed"', '"amount >= :needed"'
        ),
    ),
    _mutant(
        "reservation-not-subtracted",
        "What is reserved stays refundable until it is refunded.",
        SUMS_ADD_UP,
        "one_refund_by_api",
        Edit("SumsChange.refundable", "-(self.reserved + self.refunded)", "-self.refunded"),
    ),
    _mutant(
        "order-opened-twice",
        "Two first refunds of an order each open its sums, and the second forgets what the first reserved.",
        SUMS_AGREE,
        "two_refunds_by_api_with_two_keys",
        # A condition that always holds.
        Edit("Ledger._sums_write", '"attribute_not_exists(pk)"', '"attribute_not_exists(noSuchAttribute)"'),
    ),
    _mutant(
        "first-refund-not-compared",
        "Where the order has no sums yet, the amount is compared with nothing.",
        NOT_NEGATIVE,
        "more_than_was_paid",
        Edit("Order.shortfall", "amount <= self.refundable", "not self.stored or amount <= self.refundable"),
        Edit("Order.plus", "self.refundable + change.refundable < 0", "self.amount < 0"),
    ),
    _mutant(
        "amount-paid-misread",
        "What Indodana says was paid is read in another unit, a hundred times as much.",
        NOT_MORE_THAN_PAID,
        "more_than_was_paid",
        Edit(
            "_open_order", "Order.opened_by(state, status.amount)", "Order.opened_by(state, (status.amount or 0) * 100)"
        ),
    ),
    _mutant(
        "any-status-is-paid",
        "Only what is known to be fraud is not refunded, instead of only what is PAID being refunded.",
        NOT_MORE_THAN_PAID,
        "an_order_that_is_not_paid",
        Edit("Order.opened_by", 'transaction_status != "PAID"', 'transaction_status == "REJECTED"'),
    ),
    _mutant(
        "all-that-remains-not-exact",
        "“All that remains” is what it was when it was read, though more is there when it is reserved.",
        TOOK_ALL,
        "a_refund_and_all_that_remains",
        Edit("RefundProtocol._reserve", "exact=request.amount is None", "exact=False"),
    ),
    _mutant(
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
    _mutant(
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
    _mutant(
        "failed-keeps-its-reservation",
        "A FAILED refund holds its money for good, and the customer can never be refunded.",
        SUMS_AGREE,
        "one_refund_by_api",
        Edit("Refund.held_reserved", "self.status in OPEN_STATUSES", "ORIGINAL or self.status is RefundStatus.FAILED"),
    ),
    # ---- submit
    _mutant(
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
    _mutant(
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
    _mutant(
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
    _mutant(
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
    _mutant(
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
    _mutant(
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
    _mutant(
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
    _mutant(
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
    _mutant(
        "any-200-is-success",
        "A 200 is success, whatever its body says.",
        SUCCEEDED_HAS_MOVED,
        "one_refund_by_api",
        Edit("Reading._ok", 'not self._is_own_document("OK")', "False"),
        Edit("Reading.cancellation", "self._contradicted(self._ok())", "self._ok() and None"),
    ),
    _mutant(
        "first-conflict-is-success",
        "A 409 is taken for “done before” although nothing was sent before.",
        SUCCEEDED_HAS_MOVED,
        "one_refund_by_api",
        Edit("_refused", "refund.ambiguous and conflict and ...", "conflict"),
    ),
    _mutant(
        "later-conflict-is-a-failure",
        "A 409 to a refund that was sent before (`resubmit`) is a failure, though it says that the first was done.",
        FAILED_HAS_NOT,
        "an_unknown_refund_submitted_again",
        Edit("_refused", "not refund.ambiguous", "True"),
    ),
    # ---- leases
    _mutant(
        "lease-ignored",
        "A refund that somebody is submitting is submitted by another.",
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
    _mutant(
        "expired-lease-is-requeued",
        "Whoever held the lease is gone, so the refund is tried again.",
        AT_MOST_ONCE,
        "one_refund_by_api",
        Edit(
            "RefundProtocol.expire_lease",
            "refund.transition_to(...)",
            "refund.transition_to(RefundStatus.QUEUED, self._clock(), lease_until=None, next_attempt_at=self._clock())",
        ),
    ),
    _mutant(
        "expired-lease-is-a-failure",
        "Whoever held the lease is gone, so the refund has failed.",
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
    _mutant(
        "expired-lease-is-not-ambiguous",
        "An expired lease is not noted as a submission that may have been done; under `resubmit` a 422 then fails it.",
        FAILED_HAS_NOT,
        "a_lost_process_whose_repetition_may_be_refused",
        Edit("RefundProtocol.expire_lease", "ambiguous=True", "ambiguous=refund.ambiguous"),
    ),
    _mutant(
        "running-lease-is-over",
        "A submission under way is taken for lost by whoever comes by.",
        UNKNOWN_IS_HONEST,
        "two_refunds_by_api_with_one_key",
        Edit("RefundProtocol.has_expired_lease", "refund.lease_until is not None", "True"),
        Edit("RefundProtocol.has_expired_lease", "self._clock() >= refund.lease_until", "True"),
    ),
    _mutant(
        "unknown-submitted-again",
        "Under `review`, an UNKNOWN refund whose message comes again is submitted again.",
        NEVER_AGAIN,
        "one_message",
        Edit(
            "RefundProtocol.waits_for_an_attempt",
            "self._ambiguous_refunds is AmbiguousRefunds.RESUBMIT and ...",
            "True",
        ),
    ),
    # ---- operators
    _mutant(
        "evidence-from-before-the-lease-ran-out",
        "An operator who looked while the refund was under way settles it as soon as its lease is over.",
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
    _mutant(
        "submission-withdrawn",
        "An operator withdraws a refund that is being sent.",
        FAILED_HAS_NOT,
        "a_refund_under_way_and_an_operator",
        Edit(
            "Decisions.withdraw",
            "refund.status is not RefundStatus.QUEUED",
            "refund.status not in (RefundStatus.QUEUED, RefundStatus.SUBMITTING)",
        ),
    ),
    _mutant(
        "decision-holds-for-any-version",
        "An operator's FAILED is taken for a refund that was sent again since they looked.",
        OF_ITS_VERSION,
        "a_decision_on_a_refund_that_is_sent_again",
        Edit("Decisions._decide", "before.version != version", "False"),
        Edit("Decisions.resolve", "self._check_hold(refund, evidence.checked_at)", "pass"),
    ),
    _mutant(
        "withdrawn-whatever-it-is",
        "A withdrawal settles whatever the refund has become since the operator saw it QUEUED.",
        OF_ITS_VERSION,
        "a_withdrawal_and_the_worker",
        Edit("Decisions._decide", "before.version != version", "False"),
        Edit("Decisions.withdraw", "refund.status is not RefundStatus.QUEUED", "False"),
    ),
    _mutant(
        "hold-forgotten",
        "An operator's FAILED counts at once, while the request is still on its way to Indodana.",
        FAILED_HAS_NOT,
        "a_refund_done_late",
        Edit("Decisions.resolve", "self._check_hold(refund, evidence.checked_at)", "pass"),
    ),
    # ---- time
    _mutant(
        "due-time-not-asked",
        "A refund that waits is attempted whenever a message of it comes.",
        NOT_BEFORE_DUE,
        "two_messages_of_a_refund_that_waits",
        Edit("RefundProtocol.is_due", "due <= self._clock()", "True"),
    ),
    _mutant(
        "put-off-since-it-was-read",
        "A worker sends a refund that another one has put off since it was read.",
        NOT_BEFORE_DUE,
        "two_workers_and_a_refund_that_waits",
        Edit("Ledger._refund_write", "after.status is RefundStatus.SUBMITTING", "False"),
    ),
    _mutant(
        "last-look-forgotten",
        "A process that froze after its checks writes its request as if no time had passed.",
        INTENT_FIRST,
        "a_process_that_freezes_as_it_sends",
        Edit("RefundProtocol._submit", "is_time_for(WRITE_SECONDS) and ...", "True"),
    ),
    # ---- writing
    _mutant(
        "version-not-checked",
        "A refund that was worked on and is QUEUED again is taken for the one that was read.",
        NOT_OVERWRITTEN,
        "a_refund_worked_since_it_was_read",
        Edit("Ledger._refund_write", "after.status is RefundStatus.SUBMITTING", "False"),
        Edit("Ledger._refund_write", '"#status = :status AND version = :version"', '"#status = :status"'),
        Edit(
            "Ledger._refund_write",
            '{":status": before.status, ":version": before.version}',
            '{":status": before.status}',
        ),
    ),
    _mutant(
        "settle-not-conditional",
        "An outcome is written over whatever stands there, be it an operator's word.",
        NOT_OVERWRITTEN,
        "a_lease_that_ran_out_under_its_process",
        Edit(
            "Ledger._refund_write",
            """
            if before:
                ...
            """,
            """
            if before and before.status is RefundStatus.SUBMITTING:
                put["ConditionExpression"] = "attribute_exists(pk)"
            else:
                ORIGINAL
            """,
        ),
    ),
    _mutant(
        "own-write-not-recognised",
        "A write that landed, and whose answer was lost, is taken for somebody else's.",
        UNKNOWN_IS_HONEST,
        "one_refund_by_api",
        Edit("_already_written", "current.transition_id == after.transition_id", "False"),
    ),
    _mutant(
        "audit-written-after",
        "The audit record is written after the step, in a call of its own.",
        ONE_RECORD,
        "one_refund_by_api",
        Edit("Ledger.transition", "[self._refund_write(before, after), ...]", "[self._refund_write(before, after)]"),
        Edit("_already_written", "len(failed) > 2 and failed[2]", "len(failed) > 1 and failed[1]"),
        Edit("_already_written", "failed[2]", "failed[1]"),
        Edit(
            "Ledger.transition",
            "self._client.transact_write_items(...)",
            """
            ORIGINAL
            self._client.put_item(TableName=self._audit_table, Item=record)
            """,
        ),
    ),
    _mutant(
        "audit-record-left-out",
        "One step, to UNKNOWN, has no audit record.",
        ONE_RECORD,
        "one_refund_by_api",
        Edit(
            "Ledger.transition",
            """
            if sums := self._sums_write(...):
                ...
            """,
            """
            ORIGINAL
            if after.status is RefundStatus.UNKNOWN:
                del items[1]
            """,
        ),
    ),
    # ---- identity
    _mutant(
        "record-deleted-on-error",
        "The idempotency record is deleted when its request ends in an error, as idempotency decorators do.",
        NOT_OVERWRITTEN,
        "an_answer_that_comes_late",
        *_AS_IF_DELETABLE,
        Edit(
            "RefundService.refund_now",
            """
            try:
                ...
            except RefundChanged as changed:
                ...
            """,
            """
            from gateway.core.errors import LedgerUnavailable

            try:
                ORIGINAL
            except LedgerUnavailable:
                self._ledger.forget(request)
                raise
            """,
        ),
    ),
    _mutant(
        "refund-deleted-when-not-sent",
        "A refund that could not be sent is deleted, as if it had never been asked for.",
        NOT_OVERWRITTEN,
        "a_small_refund_repeated",
        *_AS_IF_DELETABLE,
        Edit("RefundService.refund_now", "self._enqueue(result)", "self._ledger.forget(request)"),
    ),
    _mutant(
        "id-without-merchant",
        "Two merchants' refunds of one order id and key share an id.",
        LEGAL,
        "two_merchants_with_one_order_id",
        Edit(
            "_refund_id",
            "[order.merchant_id, order.merchant_order_id, key]",
            "[order.merchant_order_id, key]",
        ),
    ),
    _mutant(
        "id-without-order",
        "Two orders' refunds of one key share an id.",
        LEGAL,
        "two_orders_with_one_key",
        Edit(
            "_refund_id",
            "[order.merchant_id, order.merchant_order_id, key]",
            "[order.merchant_id, key]",
        ),
    ),
    _mutant(
        "id-of-the-request",
        "The key is the request's own id, so that each retry is another refund.",
        ONE_KEY,
        "a_small_refund_repeated",
        Edit("create_refund", 'request.header("idempotency-key")', "request.context.request_id"),
    ),
    _mutant(
        "payload-not-compared",
        "A key that is used again with another payload answers with the first one's refund.",
        TOLD_OF_ITS_OWN,
        "one_key_for_two_payloads",
        Edit("RefundService._matching", "existing.request.asks_the_same_as(request)", "True"),
    ),
    _mutant(
        "payload-not-compared-after-a-race",
        "A message that meets another request with its key is deleted as done, whatever it asks for.",
        NOT_LOST,
        "one_key_for_a_request_and_a_message",
        Edit("RefundService.work", "self._matching(changed.current, request, context)", "changed.current"),
    ),
    # ---- what is said
    _mutant(
        "read-without-asking-for-consistency",
        "A refund is read as it was a moment ago, and its caller told what is on record no more.",
        TOLD_OF_RECORD,
        "who_reads_while_a_refund_is_made",
        Edit("Ledger._get", '{"Keys": keys, "ConsistentRead": True}', '{"Keys": keys}'),
    ),
    _mutant(
        "own-twin-not-read",
        "A refund is refused for want of the money that the same request, sent twice at once, has taken.",
        HOLDS_IT,
        "one_key_twice_and_reads_in_two_parts",
        Edit("RefundService._refuse", "_, twin = ...", "twin = None"),
    ),
    _mutant(
        "unknown-shown-as-done",
        "The caller of an UNKNOWN refund is told 201.",
        TOLD_TRUTH,
        "one_refund_by_api",
        Edit("_created", "202", "201 if refund.status is RefundStatus.UNKNOWN else 202"),
    ),
    _mutant(
        "answer-not-redacted",
        "What Indodana said of a success is kept as it came.",
        NOT_KEPT,
        "one_refund_by_api",
        Edit("Reading._evidence", "evidence.of(...)", 'AnswerEvidence(self._answer.body.decode(), "0")'),
    ),
    _mutant(
        "refusal-not-redacted",
        "What Indodana said of a refusal is kept with the refund as it came.",
        NOT_KEPT,
        "one_refund_by_api",
        Edit("Reading._message", "evidence.words(...)", "str(said)"),
    ),
    # ---- the queue and the schedule
    _mutant(
        "message-deleted-on-error",
        "A message is deleted although working it raised, before anything was on record.",
        NOT_LOST,
        "one_message",
        Edit(
            "Worker._process",
            """
            self._queue.extend_visibility(message.receipt_handle, backoff_seconds(message.receive_count))
            return False
            """,
            """
            self._queue.extend_visibility(message.receipt_handle, backoff_seconds(message.receive_count))
            return True
            """,
        ),
    ),
    _mutant(
        "nobody-comes-back",
        "The message of a refund that waits is deleted, and the schedule enqueues nothing.",
        COMES_TO_AN_END,
        "one_refund_by_api",
        Edit("Worker._process", "self._defer_message(message, refund)", "True"),
        Edit(
            "Recovery._enqueue",
            "self._queue.send(self._ledger.record_message(...))",
            "self._ledger.record_message(refund, context.carrier, self._clock())",
        ),
    ),
    _mutant(
        "stale-refund-not-enqueued",
        "The schedule passes over what is QUEUED and has lost its message.",
        COMES_TO_AN_END,
        "one_refund_later",
        Edit(
            "Recovery._is_overdue",
            "self._protocol.waits_for_an_attempt(refund)",
            "refund.status is not RefundStatus.QUEUED and ORIGINAL",
        ),
    ),
    _mutant(
        "schedule-leaves-leases",
        "The schedule leaves expired leases to the callers, who may never come back.",
        COMES_TO_AN_END,
        "a_caller_who_never_comes_back",
        Edit("Recovery._recover", "self._protocol.has_expired_lease(refund)", "False"),
    ),
    _mutant(
        "dead-letter-without-record",
        "A message that can never work is dead-lettered with nothing on record.",
        EXPLAINED,
        "one_key_for_two_messages",
        Edit("Worker._dead_letter", "self._audit_log.add(record)", "pass"),
    ),
)
BY_NAME = {mutant.name: mutant for mutant in MUTANTS}
