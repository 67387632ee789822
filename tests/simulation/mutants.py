"""The proof that the proof bites: small mistakes in the protocol, each of which must break an invariant.

    python -m tests.simulation.mutants                     tells of each mutant, and prints the table of docs/mutants.md
    python -m tests.simulation.mutants --write             … and writes it there
    python -m tests.simulation.mutants --run NAME          tells of one mutant, in its world
    python -m tests.simulation.mutants --run NAME WORLD …  … in these worlds, or in `all`

Each mutant runs in an interpreter of its own, where the text of a module is changed while it is loaded. It tells every
schedule of its world, without accidents first, then with a kill, then with a fault, then with both, then with two
faults, until an invariant breaks. `unmutated` is the code as it is.
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
from collections.abc import Iterable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from importlib.abc import MetaPathFinder
from importlib.machinery import ModuleSpec, PathFinder, SourceFileLoader
from pathlib import Path
from types import CodeType, ModuleType
from typing import Any

ROOT = Path(__file__).parents[2]
TABLE = ROOT / "docs" / "mutants.md"
IMPORT_ROOTS = ("functions", "layers/indodana")
UNMUTATED = "unmutated"
BUDGETS = ((0, 0), (1, 0), (0, 1), (1, 1), (0, 2))  # kills and faults
# By how many budgets it took.
ACCIDENTS = {1: "no accident", 2: "a kill", 3: "a fault", 4: "a kill and a fault", 5: "two faults"}
AT_A_TIME = 2
RUN_SECONDS = 300.0

CLIENT = "layers/indodana/indodana/client.py"
HANDLER = "functions/refund_api/handler.py"
LEDGER = "functions/refunds/ledger.py"
MODEL = "functions/refunds/model.py"
PROTOCOL = "functions/refunds/protocol.py"
RECONCILE = "functions/refunds/reconcile.py"
UPSTREAM = "functions/refunds/upstream.py"
VERDICT = "functions/refunds/verdict.py"
WORKER = "functions/refunds/worker.py"
WORKFLOW = "functions/refunds/workflow.py"

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


@dataclass(frozen=True)
class Edit:
    file: str
    old: str
    new: str

    @property
    def module(self) -> str:
        root = next(root for root in IMPORT_ROOTS if self.file.startswith(f"{root}/"))
        return self.file.removeprefix(f"{root}/").removesuffix(".py").replace("/", ".")

    def applied_to(self, text: str) -> str:
        found = text.count(self.old)
        if found != 1:
            raise AssertionError(f"{self.file} has {found} times, and not once:\n{self.old}")
        return text.replace(self.old, self.new)


@dataclass(frozen=True)
class Mutant:
    name: str
    story: str  # what goes wrong
    invariant: str  # the one that breaks first
    world: str  # in which it does
    edits: tuple[Edit, ...]


def _mutant(name: str, story: str, invariant: str, world: str, *edits: tuple[str, str, str]) -> Mutant:
    return Mutant(name, story, invariant, world, tuple(Edit(*edit) for edit in edits))


_SUBMIT_AND_SETTLE = """\
        verdict = self._submit(reserved, seconds_left)
        return self._settle(reserved, verdict, origin, seconds_left)
"""
_EXPIRED = """\
            RefundStatus.UNKNOWN,
            self._clock(),
            ambiguous=True,
            lease_until=None,
            next_attempt_at=self._next_attempt(Verdict(RefundStatus.UNKNOWN, cause), refund.attempts),
"""
_RESERVES = "return self.reserved_amount or Decimal(0) if self.status in OPEN_STATUSES else Decimal(0)"
_NOBODY_KNOWS = "    return Verdict(RefundStatus.UNKNOWN, cause=str(error), upstream=said(error))\n"
_IDENTITY = "json.dumps([self.order.merchant_id, self.order.merchant_order_id, self.idempotency_key])"
_REFUND_CONDITION = """\
            put["ConditionExpression"] = "#status = :status AND version = :version"
            put["ExpressionAttributeNames"] = {"#status": "status"}
            put["ExpressionAttributeValues"] = to_item({":status": before.status, ":version": before.version})
"""
_AUDIT_PUT = """\
            {
                "Put": {
                    "TableName": self._audit_table,
                    "Item": record,
                    "ConditionExpression": "attribute_not_exists(pk)",
                }
            },
"""
# No code of the gateway deletes from the ledger, and the emulator would not. An item of nothing but its key is as good
# as none where reading and creating take it for none.
_AS_IF_DELETABLE = (
    (
        LEDGER,
        "return _to_order(sums) if sums else None, _to_refund(refund) if refund else None",
        'return _to_order(sums) if sums else None, _to_refund(refund) if refund and "refundId" in refund else None',
    ),
    (
        LEDGER,
        """\
            "Item": _from_refund(after),
            "ConditionExpression": "attribute_not_exists(pk)",
""",
        """\
            "Item": _from_refund(after),
            "ConditionExpression": "attribute_not_exists(refundId)",
""",
    ),
    (
        LEDGER,
        "    # ---- how\n",
        """\
    def forget(self, request: RefundRequest) -> None:
        self._client.put_item(TableName=self._table, Item=_refund_item_key(request.order, request.refund_id))

    # ---- how
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
        (LEDGER, '"refundable = :needed" if exact else "refundable >= :needed"', '"amount >= :needed"'),
    ),
    _mutant(
        "reservation-not-subtracted",
        "What is reserved stays refundable until it is refunded.",
        SUMS_ADD_UP,
        "one_refund_by_api",
        (LEDGER, "refundable = -(reserved + refunded)", "refundable = -refunded"),
    ),
    _mutant(
        "order-opened-twice",
        "Two first refunds of an order each open its sums, and the second forgets what the first reserved.",
        SUMS_AGREE,
        "two_refunds_by_api_with_two_keys",
        (
            LEDGER,
            """\
                    "Item": _order_item_key(after.request.order) | to_item(opened),
                    "ConditionExpression": "attribute_not_exists(pk)",
""",
            """\
                    "Item": _order_item_key(after.request.order) | to_item(opened),
""",
        ),
    ),
    _mutant(
        "first-refund-not-compared",
        "Where the order has no sums yet, the amount is compared with nothing.",
        NOT_NEGATIVE,
        "more_than_was_paid",
        (
            PROTOCOL,
            "if order.refundable > 0 and (amount is None or amount <= order.refundable):",
            "if not order.stored or order.refundable > 0 and (amount is None or amount <= order.refundable):",
        ),
        (LEDGER, "if order.refundable + refundable < 0:", "if order.amount < 0:"),
    ),
    _mutant(
        "amount-paid-misread",
        "What Indodana says was paid is read in another unit, a hundred times as much.",
        NOT_MORE_THAN_PAID,
        "more_than_was_paid",
        (PROTOCOL, "Order.unopened(status.amount)", "Order.unopened(status.amount * 100)"),
    ),
    _mutant(
        "any-status-is-paid",
        "Only what is known to be fraud is not refunded, instead of only what is PAID being refunded.",
        NOT_MORE_THAN_PAID,
        "an_order_that_is_not_paid",
        (PROTOCOL, 'if state != "PAID":', 'if state == "REJECTED":'),
    ),
    _mutant(
        "all-that-remains-not-exact",
        "“All that remains” is what it was when it was read, though more is there when it is reserved.",
        TOOK_ALL,
        "a_refund_and_all_that_remains",
        (PROTOCOL, "exact=request.amount is None", "exact=False"),
    ),
    _mutant(
        "reservation-given-back-on-unknown",
        "An UNKNOWN refund, whose money may have moved, gives its reservation back.",
        SUMS_AGREE,
        "one_refund_by_api",
        (MODEL, _RESERVES, _RESERVES.replace(" else", " and self.status is not RefundStatus.UNKNOWN else")),
    ),
    _mutant(
        "reservation-given-back-on-queued",
        "A refund that goes back to QUEUED gives its reservation back, and does not take it again.",
        SUMS_AGREE,
        "one_refund_by_api",
        (MODEL, _RESERVES, _RESERVES.replace(" else", " and self.status is not RefundStatus.QUEUED else")),
        (
            LEDGER,
            "        refundable = -(reserved + refunded)\n",
            """\
        if before and before.status is RefundStatus.QUEUED and before.reserved_amount is not None:
            reserved = Decimal(0)
        refundable = -(reserved + refunded)
""",
        ),
    ),
    _mutant(
        "failed-keeps-its-reservation",
        "A FAILED refund holds its money for good, and the customer can never be refunded.",
        SUMS_AGREE,
        "one_refund_by_api",
        (MODEL, _RESERVES, _RESERVES.replace(" else", " or self.status is RefundStatus.FAILED else")),
    ),
    # ---- submit
    _mutant(
        "settle-before-submit",
        "The refund is on record as SUCCEEDED before it is sent.",
        SUCCEEDED_HAS_MOVED,
        "one_refund_by_api",
        (
            PROTOCOL,
            _SUBMIT_AND_SETTLE,
            """\
        settled = self._settle(reserved, Verdict(RefundStatus.SUCCEEDED), origin, seconds_left)
        self._submit(reserved, seconds_left)
        return settled
""",
        ),
    ),
    _mutant(
        "written-after-the-call",
        "The refund is sent first and written down afterwards.",
        INTENT_FIRST,
        "one_refund_by_api",
        (
            PROTOCOL,
            "self._write(before, after, record, seconds_left, order=order, exact=request.amount is None)",
            "self._reserved = lambda: self._write(before, after, record, seconds_left, order=order)",
        ),
        (
            PROTOCOL,
            _SUBMIT_AND_SETTLE,
            """\
        verdict = self._submit(reserved, seconds_left)
        self._reserved()
        return self._settle(reserved, verdict, origin, seconds_left)
""",
        ),
    ),
    _mutant(
        "whole-amount-sent",
        "A partial refund is sent with the whole transaction's amount.",
        AS_ASKED,
        "one_refund_by_api",
        (VERDICT, "amount=refund.amount,", "amount=refund.transaction_amount or refund.amount,"),
    ),
    _mutant(
        "submission-retried",
        "A submission that fails is tried once more, as HTTP libraries like to do.",
        AT_MOST_ONCE,
        "one_refund_by_api",
        (
            PROTOCOL,
            """\
        try:
            accepted = self._indodana.cancel(refund.request.order.merchant_id, cancellation(refund))
""",
            """\
        try:
            try:
                accepted = self._indodana.cancel(refund.request.order.merchant_id, cancellation(refund))
            except IndodanaError:
                accepted = self._indodana.cancel(refund.request.order.merchant_id, cancellation(refund))
""",
        ),
    ),
    _mutant(
        "sent-after-the-lease",
        "A process that was frozen sends its refund although its lease has run out.",
        INTENT_FIRST,
        "a_process_that_froze_before_it_sent",
        (PROTOCOL, "if min(seconds_left(), lease_left) < SUBMIT_SECONDS:", "if seconds_left() < 0:"),
    ),
    # ---- what the call did
    _mutant(
        "lost-answer-is-a-failure",
        "A timeout or a lost answer is taken for a failure.",
        FAILED_HAS_NOT,
        "one_refund_by_api",
        (
            VERDICT,
            _NOBODY_KNOWS,
            """\
    failure = upstream_failure(FailureCode.UPSTREAM_REFUSED, str(error), error)
    return Verdict(RefundStatus.FAILED, cause=str(error), failure=failure, upstream=said(error))
""",
        ),
    ),
    _mutant(
        "lost-answer-is-not-sent",
        "A lost answer is taken for a request that was never sent, and the refund is tried again.",
        AT_MOST_ONCE,
        "one_refund_by_api",
        (VERDICT, _NOBODY_KNOWS, "    return surely_not_sent(refund, str(error), said(error))\n"),
    ),
    _mutant(
        "server-error-is-success",
        "A 5xx is taken for “it will have done it”.",
        SUCCEEDED_HAS_MOVED,
        "one_refund_by_api",
        (VERDICT, "IndodanaError, NotSent, Refused\n", "IndodanaError, NotSent, Refused, ServerFailed\n"),
        (
            VERDICT,
            _NOBODY_KNOWS,
            f"""\
    if isinstance(error, ServerFailed):
        return Verdict(RefundStatus.SUCCEEDED, upstream=said(error))
{_NOBODY_KNOWS}""",
        ),
    ),
    _mutant(
        "any-200-is-success",
        "A 200 is success, whatever its body says.",
        SUCCEEDED_HAS_MOVED,
        "one_refund_by_api",
        (CLIENT, 'if document.get("status") != "OK":', 'if document.get("status") is None:'),
    ),
    _mutant(
        "first-conflict-is-success",
        "A 409 is taken for “done before” although nothing was sent before.",
        SUCCEEDED_HAS_MOVED,
        "one_refund_by_api",
        (VERDICT, "    if not refund.ambiguous:\n", "    if not refund.ambiguous and refused.http_status != 409:\n"),
    ),
    _mutant(
        "later-conflict-is-a-failure",
        "A 409 to a refund that was sent before (`resubmit`) is a failure, though it says that the first was done.",
        FAILED_HAS_NOT,
        "an_unknown_refund_submitted_again",
        (VERDICT, "    if not refund.ambiguous:\n", "    if refused:\n"),
    ),
    # ---- leases
    _mutant(
        "lease-ignored",
        "A refund that somebody is submitting is submitted by another.",
        LEGAL,
        "one_message_delivered_twice",
        (
            MODEL,
            "{RefundStatus.SUCCEEDED, RefundStatus.FAILED, RefundStatus.UNKNOWN, RefundStatus.QUEUED}",
            "set(RefundStatus)",
        ),
        (
            PROTOCOL,
            "        return refund.status is RefundStatus.QUEUED\n",
            "        return refund.status in (RefundStatus.QUEUED, RefundStatus.SUBMITTING)\n",
        ),
    ),
    _mutant(
        "expired-lease-is-requeued",
        "Whoever held the lease is gone, so the refund is tried again.",
        AT_MOST_ONCE,
        "one_refund_by_api",
        (
            PROTOCOL,
            _EXPIRED,
            """\
            RefundStatus.QUEUED,
            self._clock(),
            lease_until=None,
            next_attempt_at=self._clock(),
""",
        ),
    ),
    _mutant(
        "expired-lease-is-a-failure",
        "Whoever held the lease is gone, so the refund has failed.",
        FAILED_HAS_NOT,
        "one_refund_by_api",
        (
            PROTOCOL,
            _EXPIRED,
            """\
            RefundStatus.FAILED,
            self._clock(),
            lease_until=None,
            failure=Failure(FailureCode.UPSTREAM_REFUSED, cause),
""",
        ),
    ),
    _mutant(
        "expired-lease-is-not-ambiguous",
        "An expired lease is not noted as a submission that may have been done; under `resubmit` a 409 then fails it.",
        FAILED_HAS_NOT,
        "a_lost_process_where_unknown_is_submitted_again",
        (PROTOCOL, _EXPIRED, _EXPIRED.replace("ambiguous=True", "ambiguous=refund.ambiguous")),
    ),
    _mutant(
        "running-lease-is-over",
        "A submission under way is taken for lost by whoever comes by.",
        UNKNOWN_IS_HONEST,
        "two_refunds_by_api_with_one_key",
        (
            PROTOCOL,
            """\
            and refund.lease_until is not None
            and self._clock() >= refund.lease_until
""",
            "",
        ),
    ),
    _mutant(
        "unknown-submitted-again",
        "Under `review`, an UNKNOWN refund whose message comes again is submitted again.",
        NEVER_AGAIN,
        "one_message",
        (
            PROTOCOL,
            "return self._ambiguous_refunds is AmbiguousRefunds.RESUBMIT and refund.next_attempt_at is not None",
            "return True",
        ),
    ),
    # ---- operators
    _mutant(
        "evidence-from-before-the-lease-ran-out",
        "An operator who looked while the refund was under way settles it as soon as its lease is over.",
        FAILED_HAS_NOT,
        "an_operator_who_looked_too_early",
        (
            WORKFLOW,
            "            raise NotResolvable(self._protocol.expire_lease(before, origin))\n",
            "            before = self._protocol.expire_lease(before, origin)\n",
        ),
    ),
    _mutant(
        "submission-withdrawn",
        "An operator withdraws a refund that is being sent.",
        FAILED_HAS_NOT,
        "a_refund_under_way_and_an_operator",
        (
            WORKFLOW,
            "withdrawn = before.status is RefundStatus.QUEUED and",
            "withdrawn = before.status in (RefundStatus.QUEUED, RefundStatus.SUBMITTING) and",
        ),
    ),
    # ---- writing
    _mutant(
        "version-not-checked",
        "A refund that was worked on and is QUEUED again is taken for the one that was read.",
        NOT_OVERWRITTEN,
        "a_refund_worked_since_it_was_read",
        (
            LEDGER,
            _REFUND_CONDITION,
            """\
            put["ConditionExpression"] = "#status = :status"
            put["ExpressionAttributeNames"] = {"#status": "status"}
            put["ExpressionAttributeValues"] = to_item({":status": before.status})
""",
        ),
    ),
    _mutant(
        "settle-not-conditional",
        "An outcome is written over whatever stands there, be it an operator's word.",
        NOT_OVERWRITTEN,
        "a_lease_that_ran_out_under_its_process",
        (
            LEDGER,
            f"        if before:\n{_REFUND_CONDITION}",
            f"""\
        if before and before.status is RefundStatus.SUBMITTING:
            put["ConditionExpression"] = "attribute_exists(pk)"
        elif before:
{_REFUND_CONDITION}""",
        ),
    ),
    _mutant(
        "own-write-not-recognised",
        "A write that landed, and whose answer was lost, is taken for somebody else's.",
        UNKNOWN_IS_HONEST,
        "one_refund_by_api",
        (
            LEDGER,
            """\
            if current.transition_id == after.transition_id:
                return True
""",
            "",
        ),
    ),
    _mutant(
        "audit-written-after",
        "The audit record is written after the step, in a call of its own.",
        ONE_RECORD,
        "one_refund_by_api",
        (LEDGER, _AUDIT_PUT, ""),
        (LEDGER, "if len(failed) > 2 and failed[2]:", "if len(failed) > 1 and failed[1]:"),
        (LEDGER, 'item = failed[2].get("Item")', 'item = failed[1].get("Item")'),
        (
            LEDGER,
            """\
            else:
                return
        raise LedgerBusy(""",
            """\
            else:
                self._client.put_item(TableName=self._audit_table, Item=record)
                return
        raise LedgerBusy(""",
        ),
    ),
    _mutant(
        "audit-record-left-out",
        "One step, to UNKNOWN, has no audit record.",
        ONE_RECORD,
        "one_refund_by_api",
        (
            LEDGER,
            "            items.append(sums)\n",
            """\
            items.append(sums)
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
        (
            WORKFLOW,
            "from refunds.errors import IdempotencyKeyReused, NotResolvable",
            "from refunds.errors import IdempotencyKeyReused, LedgerUnavailable, NotResolvable",
        ),
        (
            WORKFLOW,
            """\
            return self._replay(changed.current, request, origin)
        if isinstance(result, Refusal):
""",
            """\
            return self._replay(changed.current, request, origin)
        except LedgerUnavailable:
            self._ledger.forget(request)
            raise
        if isinstance(result, Refusal):
""",
        ),
    ),
    _mutant(
        "refund-deleted-when-not-sent",
        "A refund that could not be sent is deleted, as if it had never been asked for.",
        NOT_OVERWRITTEN,
        "a_small_refund_repeated",
        *_AS_IF_DELETABLE,
        (
            WORKFLOW,
            "            self._enqueue(result)\n",
            "            self._ledger.forget(request)\n",
        ),
    ),
    _mutant(
        "id-without-merchant",
        "Two merchants' refunds of one order id and key share an id.",
        LEGAL,
        "two_merchants_with_one_order_id",
        (MODEL, _IDENTITY, "json.dumps([self.order.merchant_order_id, self.idempotency_key])"),
    ),
    _mutant(
        "id-without-order",
        "Two orders' refunds of one key share an id.",
        LEGAL,
        "two_orders_with_one_key",
        (MODEL, _IDENTITY, "json.dumps([self.order.merchant_id, self.idempotency_key])"),
    ),
    _mutant(
        "id-of-the-request",
        "The key is the request's own id, so that each retry is another refund.",
        ONE_KEY,
        "a_small_refund_repeated",
        (HANDLER, 'request.header("idempotency-key")', "request.origin.request_id"),
    ),
    _mutant(
        "payload-not-compared",
        "A key that is used again with another payload answers with the first one's refund.",
        TOLD_OF_ITS_OWN,
        "one_key_for_two_payloads",
        (WORKFLOW, "if existing.request != request:", "if existing.refund_id != request.refund_id:"),
    ),
    _mutant(
        "payload-not-compared-after-a-race",
        "A message that meets another request with its key is deleted as done, whatever it asks for.",
        NOT_LOST,
        "one_key_for_a_request_and_a_message",
        (
            WORKFLOW,
            "return self._checked(changed.current, request, origin)  # another worker has it",
            "return changed.current",
        ),
    ),
    # ---- what is said
    _mutant(
        "unknown-shown-as-done",
        "The caller of an UNKNOWN refund is told 201.",
        TOLD_TRUTH,
        "one_refund_by_api",
        (HANDLER, "case RefundStatus.SUCCEEDED:", "case RefundStatus.SUCCEEDED | RefundStatus.UNKNOWN:"),
    ),
    _mutant(
        "answer-not-redacted",
        "What Indodana said of a success is kept as it came.",
        NOT_KEPT,
        "one_refund_by_api",
        (UPSTREAM, "redact(accepted.body)", "accepted.body"),
    ),
    _mutant(
        "refusal-not-redacted",
        "What Indodana said of a refusal is kept with the refund as it came.",
        NOT_KEPT,
        "one_refund_by_api",
        (UPSTREAM, "redact(text)[:MAX_TEXT]", "text[:MAX_TEXT]"),
    ),
    # ---- the queue and the schedule
    _mutant(
        "message-deleted-on-error",
        "A message is deleted although working it raised, before anything was on record.",
        NOT_LOST,
        "one_message",
        (
            WORKER,
            """\
            return False
        self._on_outcome(refund)
""",
            """\
            return True
        self._on_outcome(refund)
""",
        ),
    ),
    _mutant(
        "nobody-comes-back",
        "The message of a refund that waits is deleted, and the schedule enqueues nothing.",
        COMES_TO_AN_END,
        "one_refund_by_api",
        (WORKER, "return self._leave_to_later(message, refund)", "return True"),
        (RECONCILE, "return self._queue.send(refund)", "return True"),
    ),
    _mutant(
        "stale-refund-not-enqueued",
        "The schedule passes over what is QUEUED and has lost its message.",
        COMES_TO_AN_END,
        "one_refund_later",
        (RECONCILE, "waits = self._protocol", "waits = refund.status is not RefundStatus.QUEUED and self._protocol"),
    ),
    _mutant(
        "schedule-leaves-leases",
        "The schedule leaves expired leases to the callers, who may never come back.",
        COMES_TO_AN_END,
        "a_caller_who_never_comes_back",
        (RECONCILE, "if self._protocol.lease_is_over(refund):", "if refund.status is None:"),
    ),
    _mutant(
        "dead-letter-without-record",
        "A message that can never work is dead-lettered with nothing on record.",
        EXPLAINED,
        "one_key_for_two_messages",
        (
            WORKER,
            "            self._audit_log.add(record)\n            self._queue.dead_letter(",
            "            self._queue.dead_letter(",
        ),
    ),
)
BY_NAME = {mutant.name: mutant for mutant in MUTANTS}


# ---- one mutant, in this process


class _Mutating(MetaPathFinder):
    """Loads the modules that are edited from their edited text."""

    def __init__(self, edits: Sequence[Edit]) -> None:
        self._edits: dict[str, list[Edit]] = {}
        for edit in edits:
            self._edits.setdefault(edit.module, []).append(edit)

    def find_spec(
        self, fullname: str, path: Sequence[str] | None, target: ModuleType | None = None
    ) -> ModuleSpec | None:
        edits = self._edits.get(fullname)
        if not edits:
            return None
        spec = PathFinder.find_spec(fullname, path, target)
        if spec and spec.origin:
            spec.loader = _Edited(fullname, spec.origin, edits)
        return spec


class _Edited(SourceFileLoader):
    def __init__(self, fullname: str, path: str, edits: Sequence[Edit]) -> None:
        super().__init__(fullname, path)
        self._edits = edits

    def get_code(self, fullname: str) -> CodeType:
        text = Path(self.path).read_text()
        for edit in self._edits:
            text = edit.applied_to(text)
        return compile(text, self.path, "exec")


def run(name: str, worlds: Mapping[str, int]) -> dict[str, Any]:
    """Tells of each world with so many of the budgets. Says what broke first, if anything did.

    Must be called before the gateway's code is imported.
    """
    edits = () if name == UNMUTATED else BY_NAME[name].edits
    if loaded := {edit.module for edit in edits} & sys.modules.keys():
        raise RuntimeError(f"loaded before they could be edited: {loaded}")
    sys.path[:0] = [str(ROOT / root) for root in IMPORT_ROOTS]
    os.environ |= {"POWERTOOLS_SERVICE_NAME": "qris-gateway", "POWERTOOLS_METRICS_NAMESPACE": "QrisGateway"}
    sys.meta_path.insert(0, _Mutating(edits))

    from tests.simulation import simulated
    from tests.simulation.explore import Story, explore
    from tests.simulation.invariants import Violation
    from tests.simulation.mutant_worlds import WORLDS, widened

    schedules = 0
    worlds = dict.fromkeys(WORLDS, worlds["all"]) if "all" in worlds else worlds
    with simulated.installed():
        for reach, (kills, faults) in enumerate(BUDGETS, 1):
            for world in (world for world, budgets in worlds.items() if reach <= budgets):
                try:
                    schedules += explore(widened(WORLDS[world], kills, faults)).schedules
                except (Story, Violation) as story:
                    broken = story if isinstance(story, Violation) else story.__cause__
                    assert isinstance(broken, Violation)
                    # Without steps where the world breaks already while it is prepared.
                    told = str(story).splitlines()[1:] if isinstance(story, Story) else []
                    lines = [line.split(".", 1)[1].strip() for line in told]
                    return {
                        "mutant": name,
                        "invariant": broken.invariant,
                        "world": world,
                        "budgets": reach,
                        "steps": len([line for line in lines if line != "the end"]),
                        "story": lines,
                    }
    return {"mutant": name, "schedules": schedules}


# ---- all of them, each in a process of its own


def run_apart(name: str, worlds: Mapping[str, int] | None = None) -> dict[str, Any]:
    worlds = worlds or {BY_NAME[name].world: len(BUDGETS)}
    wanted = [f"{world}={budgets}" for world, budgets in worlds.items()]
    done = subprocess.run(
        [sys.executable, "-m", "tests.simulation.mutants", "--run", name, *wanted],
        cwd=ROOT,
        capture_output=True,
        text=True,
        timeout=RUN_SECONDS,
        check=False,
    )
    if done.returncode:
        return {"mutant": name, "error": done.stderr}
    result: dict[str, Any] = json.loads(done.stdout)
    return result


def control(results: Iterable[Mapping[str, Any]]) -> dict[str, Any]:
    """All that was told of the mutants until they died, told of the code as it is."""
    worlds: dict[str, int] = {}
    for result in results:
        worlds[result["world"]] = max(worlds.get(result["world"], 0), result["budgets"])
    return run_apart(UNMUTATED, worlds)


def table(results: Mapping[str, Mapping[str, Any]], schedules: int) -> str:
    """`schedules`: that the unmutated code survived."""
    lines = [
        "# Mutants",
        "",
        "Small mistakes in the protocol, and the invariant that breaks first when every schedule of a small world is",
        "told: without accidents, then with a kill, a fault, both, two faults. Each mistake is made in a process of",
        "its own, while the code is loaded. A step is one choice of the scheduler. To be told a story:",
        "`python -m tests.simulation.mutants --run NAME`.",
        "",
        f"All {len(MUTANTS)} die. The code as it is survives the same worlds, {schedules:,} schedules. Made by",
        "`python -m tests.simulation.mutants --write`.",
        "",
        "| mutant | what goes wrong | invariant that breaks | world | steps |",
        "|---|---|---|---|---|",
    ]
    for mutant in MUTANTS:
        result = results[mutant.name]
        world = result["world"].replace("_", " ")
        lines.append(
            f"| `{mutant.name}` | {mutant.story} | {result['invariant']} | {world}, {ACCIDENTS[result['budgets']]} "
            f"| {result['steps']} |"
        )
    return "\n".join([*lines, ""])


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--run", metavar="NAME")
    parser.add_argument("--write", action="store_true")
    parser.add_argument("worlds", nargs="*", metavar="WORLD", help="with =2, only the first two budgets")
    options = parser.parse_args()
    if options.run:
        wanted = [name.partition("=") for name in options.worlds] or [(BY_NAME[options.run].world, "", "")]
        worlds = {world: int(budgets or len(BUDGETS)) for world, _, budgets in wanted}
        print(json.dumps(run(options.run, worlds), indent=2))
        return 0
    with ThreadPoolExecutor(AT_A_TIME) as pool:
        results = dict(zip(BY_NAME, pool.map(run_apart, BY_NAME), strict=True))
    survivors = [result for result in results.values() if "invariant" not in result]
    unmutated = control(result for result in results.values() if "invariant" in result)
    if survivors or "schedules" not in unmutated:
        print(json.dumps([*survivors, unmutated], indent=2), file=sys.stderr)
        return 1
    print(text := table(results, unmutated["schedules"]), end="")
    if options.write:
        TABLE.write_text(text)
    return 0


if __name__ == "__main__":
    sys.exit(main())
