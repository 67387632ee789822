"""What a mutant is, and the invariants that mutants break."""

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


def mutant(name: str, story: str, invariant: str, world: str, *edits: Edit) -> Mutant:
    return Mutant(name, story, invariant, world, edits)
