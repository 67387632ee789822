"""Mutants of writes, and of refund ids."""

from __future__ import annotations

from tests.simulation.catalogue.mutant import (
    LEGAL,
    NOT_LOST,
    NOT_OVERWRITTEN,
    ONE_KEY,
    ONE_RECORD,
    TOLD_OF_ITS_OWN,
    UNKNOWN_IS_HONEST,
    mutant,
)
from tests.simulation.mutating import Edit

# The gateway never deletes from the ledger, and the emulator cannot. Instead, an item with only its key counts as
# deleted, for reads and for creation.
_AS_IF_DELETABLE = (
    Edit(
        "_snapshot",
        "_readable(refund, to_refund) if refund else None",
        '_readable(refund, to_refund) if refund and "refundId" in refund else None',
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
    # ---- writes
    mutant(
        "version-not-checked",
        "A refund that changed and is QUEUED again is treated as the version that was read.",
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
    mutant(
        "settle-not-conditional",
        "An outcome overwrites the current state, even an operator's decision.",
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
    mutant(
        "own-write-not-recognised",
        "A write whose response was lost is not recognised as the process's own.",
        UNKNOWN_IS_HONEST,
        "one_refund_by_api",
        Edit("_already_written", "current.transition_id == after.transition_id", "False"),
    ),
    mutant(
        "audit-written-after",
        "The audit record is written after the transition, in a separate call.",
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
    mutant(
        "audit-record-left-out",
        "The transition to UNKNOWN has no audit record.",
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
    # ---- refund ids
    mutant(
        "record-deleted-on-error",
        "The refund is deleted when its request ends in an error, as idempotency decorators do.",
        LEGAL,
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
    mutant(
        "refund-deleted-when-not-sent",
        "A refund that could not be sent is deleted.",
        NOT_OVERWRITTEN,
        "a_small_refund_repeated",
        *_AS_IF_DELETABLE,
        Edit("RefundService.refund_now", "self._enqueue(result, context)", "self._ledger.forget(request)"),
    ),
    mutant(
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
    mutant(
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
    mutant(
        "id-of-the-request",
        "The request id is used as the key, so each retry is another refund.",
        ONE_KEY,
        "a_small_refund_repeated",
        Edit("create_refund", 'request.header("idempotency-key")', "request.context.request_id"),
    ),
    mutant(
        "payload-not-compared",
        "A reused key with another payload is answered with the first payload's refund.",
        TOLD_OF_ITS_OWN,
        "one_key_for_two_payloads",
        Edit("RefundService._matching", "existing.request.asks_the_same_as(request)", "True"),
    ),
    mutant(
        "payload-not-compared-after-a-race",
        "A message that races with a request with the same key is deleted as done, also if its payload differs.",
        NOT_LOST,
        "one_key_for_a_request_and_a_message",
        Edit("RefundService._attempt", "self._matching(changed.current, request, context)", "changed.current"),
    ),
)
