"""Mutants of answers, of the queue and of recovery."""

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
    # ---- answers
    mutant(
        "read-without-asking-for-consistency",
        "Reads are not consistent, so a caller may get an older state of a refund.",
        TOLD_OF_RECORD,
        "who_reads_while_a_refund_is_made",
        Edit("Ledger._get", '{"Keys": keys, "ConsistentRead": True}', '{"Keys": keys}'),
    ),
    mutant(
        "own-duplicate-not-read",
        "A request is refused for lack of money that its own duplicate has reserved.",
        HOLDS_IT,
        "one_key_twice_and_reads_in_two_parts",
        Edit("RefundService._refuse", "_, twin = ...", "twin = None"),
    ),
    mutant(
        "unknown-shown-as-done",
        "An UNKNOWN refund is answered with 201.",
        TOLD_TRUTH,
        "one_refund_by_api",
        Edit("_created", "202", "201 if refund.status is RefundStatus.UNKNOWN else 202"),
    ),
    mutant(
        "answer-not-redacted",
        "Indodana's answer to an accepted refund is stored unredacted.",
        NOT_KEPT,
        "one_refund_by_api",
        Edit("Reading._evidence", "evidence.of(...)", 'AnswerEvidence(self._answer.body.decode(), "0")'),
    ),
    mutant(
        "refusal-not-redacted",
        "Indodana's message of a refusal is stored unredacted with the refund.",
        NOT_KEPT,
        "one_refund_by_api",
        Edit("Reading._message", "evidence.words(...)", "str(message)"),
    ),
    # ---- the queue and recovery
    mutant(
        "message-deleted-on-error",
        "A message is deleted although processing it raised an exception before anything was recorded.",
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
        "waiting-refund-abandoned",
        "The message of a waiting refund is deleted, and recovery enqueues nothing.",
        COMES_TO_AN_END,
        "one_refund_by_api",
        Edit("Worker._process", "self._defer_message(message, refund)", "True"),
        Edit("Recovery._recover", "to_send=True", "to_send=False"),
    ),
    mutant(
        "stale-refund-not-enqueued",
        "Recovery ignores a QUEUED refund whose message was lost.",
        COMES_TO_AN_END,
        "one_refund_later",
        Edit(
            "Recovery._is_overdue",
            "self._protocol.waits_for_an_attempt(refund)",
            "refund.status is not RefundStatus.QUEUED and ORIGINAL",
        ),
    ),
    mutant(
        "recovery-ignores-leases",
        "Recovery ignores expired leases; only a repeated request finds them.",
        COMES_TO_AN_END,
        "a_caller_who_never_comes_back",
        Edit("Recovery._recover", "self._protocol.has_expired_lease(refund)", "False"),
    ),
    mutant(
        "dead-letter-without-record",
        "An invalid message becomes a dead letter without an audit record.",
        EXPLAINED,
        "one_key_for_two_messages",
        Edit("Worker._dead_letter", "self._audit_log.add(record)", "pass"),
    ),
)
