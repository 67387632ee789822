"""Mutants of recovery: its sweep, its messages and the records of dead letters."""

from __future__ import annotations

from tests.simulation.catalogue.mutant import (
    EXPLAINED,
    NOT_DELETED,
    REACHED,
    RECORDED_FIRST,
    RECORDED_ONCE,
    mutant,
)
from tests.simulation.mutating import Edit

MUTANTS = (
    # ---- the sweep
    mutant(
        "sweep-begins-anew",
        "Each recovery run begins at the first open refund, whatever the run before reached.",
        REACHED,
        "runs_that_have_time_for_one_page",
        Edit("_sweep_in", "None if start is None else ...", "None"),
    ),
    mutant(
        "sweep-skips-the-rest-of-a-page",
        "A run that is out of time leaves the rest of its page to the next sweep.",
        REACHED,
        "runs_that_have_time_for_one_page",
        Edit("Recovery._next_page", "page.found[reached - 1].key if reached else sweep.start", "moved.start"),
    ),
    mutant(
        "page-passed-after-its-work",
        "The position moves past a page after the work on it, so a page that kills its process stops all others.",
        REACHED,
        "a_refund_that_kills_recovery",
        Edit("Recovery._next_page", "self._move_past(sweep, page, result)", "replace(sweep, start=page.end)"),
        Edit(
            "Recovery._next_page",
            "return replace(moved, totals=totals) if page.end else None",
            "return self._move_past(sweep, page, result) if page.end else None",
        ),
    ),
    # ---- messages
    mutant(
        "message-sent-before-it-is-recorded",
        "Recovery sends a message and then records it, so a crash in between sends another one each minute.",
        RECORDED_FIRST,
        "one_refund_later",
        Edit(
            "Recovery._recover",
            "refund = self._ledger.record_message(...)",
            """
            message = context.carrier
            self._queue.send_all([replace(refund, queue_message=message)])
            refund = self._ledger.record_message(refund, message, self._clock())
            """,
        ),
        Edit("Recovery._recover", "to_send=True", "to_send=False"),
    ),
    # ---- dead letters
    mutant(
        "dead-letter-of-sqs-without-record",
        "A message that SQS moved to the dead-letter queue gets no audit record.",
        EXPLAINED,
        "a_message_that_kills_its_worker",
        Edit("DeadLetters._record", "self._audit_log.add(record)", "True"),
    ),
    mutant(
        "dead-letter-recorded-by-each-run",
        "The audit record of a dead letter has another key each time, so each recovery run adds one.",
        RECORDED_ONCE,
        "a_message_that_kills_its_worker",
        Edit(
            "dead_letter_record",
            "_record(where, sent_at, message_id, context)",
            "_record(where, sent_at, uuid.uuid4().hex, context)",
        ),
    ),
    mutant(
        "dead-letter-of-the-worker-recorded-again",
        "A dead letter that the worker has recorded is recorded by recovery, too.",
        RECORDED_ONCE,
        "one_key_for_two_messages",
        Edit("DeadLetters.record_some", "not letter.is_recorded", "True"),
    ),
    mutant(
        "forged-attribute-believed",
        "A message that SQS moved counts as recorded because its sender gave it the worker's attribute.",
        EXPLAINED,
        "a_dead_letter_that_looks_recorded",
        Edit("_dead_letter_in", '"DeadLetterQueueSourceArn" not in system', "True"),
    ),
    mutant(
        "dead-letter-deleted",
        "Recovery deletes a dead letter when its audit record is written.",
        NOT_DELETED,
        "a_message_that_kills_its_worker",
        Edit(
            "RefundQueue.some_dead_letters",
            "return [_dead_letter_in(message) for message in answer.get(...)]",
            """
            for message in answer.get("Messages", []):
                self._client.delete_message(
                    QueueUrl=self._dead_letter_url, ReceiptHandle=message["ReceiptHandle"]
                )
            ORIGINAL
            """,
        ),
    ),
)
