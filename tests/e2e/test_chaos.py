"""`make chaos`, short; and the comparison that ends it sees every kind of wrong."""

from __future__ import annotations

import json
from collections.abc import Callable
from decimal import Decimal
from pathlib import Path
from typing import Any

import pytest

from devstack.aftermath import LEGAL_STEPS, Aftermath
from devstack.callers import Ask, Plan, Wanted
from gateway.core.transitions import LEGAL_TRANSITIONS, RefundStatus
from testkit.http_caller import Answer
from testkit.processes import Program

# About 65, of which the leases are 45; the rest is for a machine that has other things to do.
MOST_SECONDS = 150.0

AMOUNT = Decimal(100_000)
HALF = Decimal(50_000)
WANTED = Wanted("O", "k", HALF)


def test_no_money_is_wrong_after_a_short_storm(tmp_path: Path) -> None:
    temporary = tmp_path / "temporary"
    temporary.mkdir()
    short = ("devstack.chaos", "--seconds", "8", "--orders", "24")

    with Program(tmp_path, *short, environment={"TMPDIR": str(temporary)}) as chaos:
        status = chaos.wait(MOST_SECONDS)

    assert status == 0, chaos.output
    assert "✗" not in chaos.output
    assert list(temporary.iterdir()) == []


def test_the_same_seed_asks_for_the_same_refunds() -> None:
    assert Plan.of_seed(7, 30) == Plan.of_seed(7, 30) != Plan.of_seed(8, 30)


def test_legal_steps_are_the_ledgers_without_a_second_submission() -> None:
    steps = {(before or "", after) for before, afters in LEGAL_TRANSITIONS.items() for after in afters}
    assert steps - LEGAL_STEPS == {(RefundStatus.UNKNOWN, RefundStatus.SUBMITTING)}
    assert steps >= LEGAL_STEPS


def answer(status: int, body: dict[str, str]) -> Answer:
    return Answer(status, {}, json.dumps(body))


class Story:
    """One order, of which half was refunded; everything agrees until a test changes it."""

    def __init__(self) -> None:
        self.sums = {
            "pk": "m1#O",
            "sk": "ORDER",
            "amount": AMOUNT,
            "refunded": HALF,
            "reserved": Decimal(0),
            "refundable": HALF,
        }
        self.refund: dict[str, Any] = {
            "pk": "m1#O",
            "sk": "REFUND#r",
            "refundId": "r",
            "merchantId": "m1",
            "merchantOrderId": "O",
            "idempotencyKey": "k",
            "status": "SUCCEEDED",
            "reservedAmount": HALF,
            "version": 2,
        }
        self.movements = [{"merchantId": "m1", "merchantOrderId": "O", "refundId": "r", "amount": HALF}]
        self.audit = [
            {"sk": "1", "at": "1", "refundId": "r", "action": "REFUND_SUBMITTING", "after": "SUBMITTING"},
            {"sk": "2", "at": "2", "refundId": "r", "action": "R", "before": "SUBMITTING", "after": "SUCCEEDED"},
        ]
        self.answer = answer(201, {"refundId": "r", "status": "SUCCEEDED"})
        self.found: dict[tuple[str, str], str | None] = {("O", "r"): "SUCCEEDED"}
        self.sent = [WANTED]
        self.dead_letters: list[dict[str, Any]] = []

    def broken(self) -> set[str]:
        """The promises that do not hold."""
        aftermath = Aftermath(
            orders={"O": AMOUNT},
            movements=self.movements,
            ledger=[self.sums, self.refund],
            audit=self.audit,
            dead_letters=self.dead_letters,
            told=[(Ask(1, WANTED, "now"), self.answer)],
            wanted=self.sent,
            found=self.found,
        )
        return {check.promise for check in aftermath.checks() if check.broken}


def becomes(story: Story, status: str) -> None:
    """In the ledger and on record; not in Indodana's books."""
    story.refund["status"] = story.audit[-1]["after"] = status
    story.answer = answer(202, {"refundId": "r", "status": "QUEUED"})
    story.found = {("O", "r"): status}
    story.sums |= {"refunded": Decimal(0), "refundable": HALF, "reserved": HALF}
    if status == "FAILED":
        story.sums |= {"refundable": AMOUNT, "reserved": Decimal(0)}


def moved_twice(story: Story) -> None:
    story.movements *= 2


def moved_without_a_record(story: Story) -> None:
    story.movements.append({"merchantId": "m1", "merchantOrderId": "O", "refundId": "other", "amount": HALF})


def moved_more(story: Story) -> None:
    story.movements[0]["amount"] = HALF + 1


def never_moved(story: Story) -> None:
    story.movements.clear()


def failed_and_moved(story: Story) -> None:
    becomes(story, "FAILED")


def reservation_given_back(story: Story) -> None:
    becomes(story, "UNKNOWN")
    story.sums |= {"refundable": AMOUNT, "reserved": Decimal(0)}


def left_open(story: Story) -> None:
    becomes(story, "QUEUED")


def sums_that_do_not_add_up(story: Story) -> None:
    story.sums["refundable"] = HALF + 1


def step_not_on_record(story: Story) -> None:
    del story.audit[0]


def illegal_step(story: Story) -> None:
    story.audit.insert(
        1, {"sk": "11", "at": "11", "refundId": "r", "action": "R", "before": "SUBMITTING", "after": "SUBMITTING"}
    )
    story.refund["version"] = 3


def promised_and_lost(story: Story) -> None:
    story.found = {("O", "r"): None}


def told_otherwise(story: Story) -> None:
    story.answer = answer(422, {"refundId": "r", "code": "UPSTREAM_REFUSED"})


def answered_with_a_bug(story: Story) -> None:
    story.answer = answer(500, {"code": "INTERNAL_ERROR"})


def message_lost(story: Story) -> None:
    story.sent.append(Wanted("O", "another", None))


def unexplained_dead_letter(story: Story) -> None:
    story.dead_letters.append({"merchantOrderId": "O", "idempotencyKey": "another"})


def test_a_story_in_which_all_is_right_breaks_no_promise() -> None:
    assert Story().broken() == set()
    unknown = Story()
    becomes(unknown, "UNKNOWN")
    assert unknown.broken() == set()  # moved, which nobody knows


@pytest.mark.parametrize(
    ("wrong", "promise"),
    [
        (moved_twice, "no refund moved money twice"),
        (moved_twice, "SUCCEEDED: moved exactly once"),
        (moved_without_a_record, "every movement is a refund on record"),
        (moved_without_a_record, "each order: sums add up"),
        (moved_more, "every movement is a refund on record"),
        (never_moved, "SUCCEEDED: moved exactly once"),
        (never_moved, "each order: sums add up"),
        (failed_and_moved, "FAILED: nothing moved"),
        (failed_and_moved, "each order: sums add up"),
        (reservation_given_back, "each order: sums add up"),
        (left_open, "nothing is left QUEUED or SUBMITTING"),
        (sums_that_do_not_add_up, "each order: sums add up"),
        (step_not_on_record, "each refund's audit records"),
        (illegal_step, "each refund's audit records"),
        (promised_and_lost, "every refund that got a 201 or 202"),
        (told_otherwise, "what a caller was told is true"),
        (answered_with_a_bug, "what a caller was told is true"),
        (message_lost, "every refund that was sent to the queue"),
        (unexplained_dead_letter, "no dead letter"),
    ],
)
def test_the_comparison_sees_what_is_wrong(wrong: Callable[[Story], None], promise: str) -> None:
    story = Story()
    wrong(story)
    assert [broken for broken in story.broken() if broken.startswith(promise)]
