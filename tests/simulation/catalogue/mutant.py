"""A mutant, and the texts of the invariants that mutants break."""

from __future__ import annotations

from dataclasses import dataclass

from tests.simulation.mutating import Edit

# The same texts as in the simulation's hold("…").
AT_MOST_ONCE = "money moves at most once per refund"
NOT_MORE_THAN_PAID = "no more money moves than was paid"
INTENT_FIRST = "the intent is recorded before money moves"
SUCCEEDED_HAS_MOVED = "the money of a SUCCEEDED refund has moved"
FAILED_HAS_NOT = "the money of a FAILED refund has not moved"
UNKNOWN_IS_HONEST = "UNKNOWN only if nobody could know the outcome"
NEVER_AGAIN = "an UNKNOWN refund is not submitted again (review)"
SUMS_ADD_UP = "refunded + reserved + refundable = amount"
NOT_NEGATIVE = "no sum is negative"
SUMS_AGREE = "the order's sums match its refunds"
LEGAL = "every transition is legal"
NOT_OVERWRITTEN = "no transition is lost"
ONE_RECORD = "every transition has exactly one audit record"
COMES_TO_AN_END = "no refund stays QUEUED or SUBMITTING"
NOT_LOST = "no refund is lost"
ONE_KEY = "one key makes one refund"
TOLD_TRUTH = "an answer agrees with what happened"
TOLD_OF_ITS_OWN = "an answer is about the refund that was requested"
AS_ASKED = "the amount that moves is the amount requested"
TOOK_ALL = "refunding all that remains leaves nothing refundable"
EXPLAINED = "every dead letter has an audit record"
RECORDED_ONCE = "a dead letter has one audit record"
NOT_DELETED = "a dead letter stays until an operator deletes it"
RECORDED_FIRST = "a message is recorded before it is sent"
REACHED = "recovery reaches every open refund"
NOT_KEPT = "no secret and no customer name is stored"
NOT_BEFORE_DUE = "no attempt is made before it is due"
TOLD_OF_RECORD = "an answer agrees with the ledger"
HOLDS_IT = "no refund is refused for money that it holds itself"
LISTED_ONLY = "only a listed sender makes a refund by queue"
FOR_WHO_ASKED = "a step by queue is recorded for who asked for the refund"
CALLER_WAITS = "a refund is sent only while its caller waits"
PAUSED = "a status is not asked for while the last ones were not answered"
ASKED = "a status is asked for unless the last ones were not answered"
REFUNDS_GO_ON = "refunds go on while status checks are paused"
ONE_PROBE = "one status check finds out for all"
OF_ITS_VERSION = "a decision applies only to the version that it names"


@dataclass(frozen=True)
class Mutant:
    name: str
    mistake: str  # what goes wrong
    invariant: str  # the one that breaks first
    world: str  # in which it breaks
    edits: tuple[Edit, ...]


def mutant(name: str, mistake: str, invariant: str, world: str, *edits: Edit) -> Mutant:
    return Mutant(name, mistake, invariant, world, edits)
