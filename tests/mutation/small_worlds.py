"""The simulation's small worlds, run in this process: with no fault, with a kill, with a fault.

A hundredth of what tests/exhaustive runs, in a hundredth of its time, for `make mutate`.
"""

from __future__ import annotations

import pytest

from tests.simulation.explore import explore
from tests.simulation.mutant_worlds import OWN_WORLDS, widened
from tests.simulation.simulated import installed
from tests.simulation.worlds import WORLDS

ALL = WORLDS | OWN_WORLDS
# With a fault, only those that take a tenth of a second; the others take some.
WITH_A_FAULT = (
    *(
        "one_refund_by_api",
        "one_refund_with_a_cold_start",
        "one_refund_later",
        "one_message",
        "one_key_for_two_messages",
    ),
    *("more_than_was_paid", "an_order_that_is_not_paid", "a_caller_who_never_comes_back", "a_decision_sent_twice"),
    *("a_withdrawal_and_the_schedule", "a_process_that_freezes_as_it_sends", "a_small_refund_repeated"),
    *("an_answer_that_comes_late", "a_lease_that_ran_out_under_its_process", "a_refund_worked_since_it_was_read"),
    *("a_lost_process_where_unknown_is_submitted_again", "a_lost_process_whose_repetition_may_be_refused"),
)
SLOW = ("a_process_that_freezes",)


def explore_world(name: str, kills: int, faults: int) -> None:
    with installed():
        assert explore(widened(ALL[name], kills, faults)).schedules


@pytest.mark.parametrize("name", sorted(ALL.keys() - SLOW))
def test_every_schedule_without_a_fault_keeps_every_promise(name: str) -> None:
    explore_world(name, 0, 0)


@pytest.mark.parametrize("name", sorted(ALL.keys() - SLOW))
def test_every_schedule_with_a_kill_keeps_every_promise(name: str) -> None:
    explore_world(name, 1, 0)


@pytest.mark.parametrize("name", WITH_A_FAULT)
def test_every_schedule_with_a_fault_keeps_every_promise(name: str) -> None:
    explore_world(name, 0, 1)
