"""Mutants of what callers are told, of the queue and of the schedule."""

from __future__ import annotations

from tests.simulation.catalogue.mutant import (
    COMES_TO_AN_END,
    EXPLAINED,
    HOLDS_IT,
    NOT_KEPT,
    NOT_LOST,
    TOLD_OF_RECORD,
    TOLD_TRUTH,
    mutant,
)
from tests.simulation.mutating import Edit

MUTANTS = (
    # ---- what is said
    mutant(
        "read-without-asking-for-consistency",
        "A refund is read as it was a moment ago, and its caller told what is on record no more.",
        TOLD_OF_RECORD,
        "who_reads_while_a_refund_is_made",
        Edit("Ledger._get", '{"Keys": keys, "ConsistentRead": True}', '{"Keys": keys}'),
    ),
    mutant(
        "own-twin-not-read",
        "A refund is refused for want of the money that the same request, sent twice at once, has taken.",
        HOLDS_IT,
        "one_key_twice_and_reads_in_two_parts",
        Edit("RefundService._refuse", "_, twin = ...", "twin = None"),
    ),
    mutant(
        "unknown-shown-as-done",
        "The caller of an UNKNOWN refund is told 201.",
        TOLD_TRUTH,
        "one_refund_by_api",
        Edit("_created", "202", "201 if refund.status is RefundStatus.UNKNOWN else 202"),
    ),
    mutant(
        "answer-not-redacted",
        "What Indodana said of a success is kept as it came.",
        NOT_KEPT,
        "one_refund_by_api",
        Edit("Reading._evidence", "evidence.of(...)", 'AnswerEvidence(self._answer.body.decode(), "0")'),
    ),
    mutant(
        "refusal-not-redacted",
        "What Indodana said of a refusal is kept with the refund as it came.",
        NOT_KEPT,
        "one_refund_by_api",
        Edit("Reading._message", "evidence.words(...)", "str(message)"),
    ),
    # ---- the queue and the schedule
    mutant(
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
    mutant(
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
    mutant(
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
    mutant(
        "schedule-leaves-leases",
        "The schedule leaves expired leases to the callers, who may never come back.",
        COMES_TO_AN_END,
        "a_caller_who_never_comes_back",
        Edit("Recovery._recover", "self._protocol.has_expired_lease(refund)", "False"),
    ),
    mutant(
        "dead-letter-without-record",
        "A message that can never work is dead-lettered with nothing on record.",
        EXPLAINED,
        "one_key_for_two_messages",
        Edit("Worker._dead_letter", "self._audit_log.add(record)", "pass"),
    ),
)
