"""Mutants of who may send to the queue, and of what a forged message can do."""

from __future__ import annotations

from tests.simulation.catalogue.mutant import (
    AS_ASKED,
    FOR_WHO_ASKED,
    LISTED_ONLY,
    NOT_BEFORE_DUE,
    NOT_LOST,
    mutant,
)
from tests.simulation.mutating import Edit

LISTED = "(message.sender_id, wanted.order.merchant_id) in self._queue_senders"

MUTANTS = (
    mutant(
        "full-request-from-anyone",
        "A full request is taken from every sender.",
        LISTED_ONLY,
        "a_message_of_a_stranger",
        Edit("Worker._allowed", LISTED, "True"),
    ),
    mutant(
        "sender-compared-by-prefix",
        "A sender is listed if its id begins with a listed one.",
        LISTED_ONLY,
        "a_message_of_a_stranger",
        Edit(
            "Worker._allowed",
            LISTED,
            """any(
                message.sender.startswith(sender) and wanted.order.merchant_id == merchant
                for sender, merchant in self._queue_senders
            )""",
        ),
    ),
    mutant(
        "session-taken-for-the-sender",
        "A sender is listed if its session has the name of a listed one.",
        LISTED_ONLY,
        "a_message_of_a_stranger",
        Edit("Message.sender_id", "sender_parts(self.sender)[0]", "str(sender_parts(self.sender)[1])"),
    ),
    mutant(
        "sender-listed-for-any-merchant",
        "A listed sender may refund for every merchant.",
        LISTED_ONLY,
        "a_message_for_another_merchant",
        Edit("Worker._allowed", LISTED, "message.sender_id in {sender for sender, _ in self._queue_senders}"),
    ),
    mutant(
        "unlisted-first-refund-recorded-at-the-last-delivery",
        "A full request of any sender is recorded if its last delivery leaves no time to attempt it.",
        LISTED_ONLY,
        "the_last_delivery_of_a_strangers_message",
        Edit(
            "Worker._take_on",
            """
            if task.request:
                return self._service.take_on(task.request, task.context)
            """,
            """
            if isinstance(task.wanted, RefundRequest):
                return self._service.take_on(task.wanted, task.context)
            """,
        ),
    ),
    mutant(
        "words-of-a-message-instead-of-the-ledgers",
        "A refund on record is made with the amount of a stranger's message.",
        AS_ASKED,
        "a_strangers_words_before_the_gateways_own_message",
        Edit("RefundService._recorded", "self._matching(refund, request, context)", "refund"),
        Edit(
            "RefundService.work_recorded",
            "self._continue(refund, order, context)",
            "self._attempt(wanted if isinstance(wanted, RefundRequest) else refund.request, refund, order, context)",
        ),
    ),
    mutant(
        "other-words-of-a-stranger-deleted",
        "A stranger's request with other words than the refund on record is deleted as done.",
        NOT_LOST,
        "a_waiting_refund_and_a_strangers_words",
        Edit("RefundService._recorded", "self._matching(refund, request, context)", "refund"),
    ),
    mutant(
        "pointer-attempts-before-due",
        "A pointer attempts a waiting refund before it is due.",
        NOT_BEFORE_DUE,
        "a_forged_pointer_and_a_refund_that_waits",
        Edit("RefundService._continue", "self._protocol.is_due(refund)", "self._protocol.waits_for_an_attempt(refund)"),
    ),
    mutant(
        "pointer-postpones",
        "A pointer to a waiting refund postpones it and takes the place of its own message.",
        NOT_BEFORE_DUE,
        "a_forged_pointer_and_a_refund_that_waits",
        Edit(
            "RefundService._continue",
            "self._attempt(refund.request, refund, order, context) if self._protocol.is_due(refund) else refund",
            """
            (
                ORIGINAL
                if self._protocol.is_due(refund) or not self._protocol.waits_for_an_attempt(refund)
                else self._ledger.postpone(refund, self._clock() + timedelta(seconds=9), context.carrier)
            )
            """,
        ),
    ),
    mutant(
        "pointer-to-any-merchants-refund",
        "A pointer finds a refund by its id and order, whatever merchant it names.",
        NOT_LOST,
        "a_pointer_to_another_merchants_refund",
        Edit("refund_pointer", "OrderKey(merchant_id, order_id)", 'OrderKey("m1", order_id)'),
    ),
    mutant(
        "unknown-pointer-deleted",
        "A pointer to a refund that is not on record is deleted without a dead letter.",
        NOT_LOST,
        "a_pointer_to_another_merchants_refund",
        Edit(
            "Worker._process",
            "self._dead_letter(message, context, _cause(task, error), task.wanted.order)",
            "isinstance(error, NotFound) or ORIGINAL",
        ),
    ),
    mutant(
        "pointer-recorded-for-its-sender",
        "The steps of a pointer are recorded for the AWS role that sent it, not for who asked for the refund.",
        FOR_WHO_ASKED,
        "one_refund_later",
        Edit("RefundService._recorded", "replace(context, actor=refund.created_by)", "context"),
    ),
)
