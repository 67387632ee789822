"""What the explorer knows of a choice without telling it is what comes of it."""

from __future__ import annotations

import random
from collections.abc import Callable, Iterator, Sequence

import pytest

from tests.simulation.engine import Choice
from tests.simulation.explore import Foresight, Small, explore
from tests.simulation.mutant_worlds import widened
from tests.simulation.simulated import AUDIT, DEAD_LETTERS, LEDGER, QUEUE, SimulatedWorld, installed
from tests.simulation.worlds import WORLDS

WALKS = 100


@pytest.fixture(autouse=True)
def _installed() -> Iterator[None]:
    with installed():
        yield


class Blind(Foresight):
    def states_after(self, small: Small, choices: Sequence[Choice]) -> list[int | None]:
        return [None] * len(choices)


def everything(world: SimulatedWorld) -> str:
    """As it is, and not by the digests that looking ahead takes back too."""
    watch = {name: value for name, value in vars(world.watch).items() if name != "held_by"}
    ledger, audit = ([*world.dynamo.items(table)] for table in (LEDGER, AUDIT))
    queues = [world.sqs.messages(url) for url in (QUEUE, DEAD_LETTERS)]
    return repr((watch, ledger, audit, queues, world.indodana.movements))


def walk(build: Callable[[], Small], foresight: Foresight, chance: random.Random) -> int:
    """One schedule, as chance has it; returns how many of its steps were foreseen."""
    small, foreseen = build(), 0
    while choices := small.choices():
        before = small.state(), everything(small.world)
        ahead = foresight.states_after(small, choices)
        assert (small.state(), everything(small.world)) == before
        number = chance.randrange(len(choices))
        choices[number].take()
        foresight.learn(choices[number])
        if ahead[number] is not None:
            assert small.state() == ahead[number], choices[number].text
            foreseen += 1
    return foreseen


@pytest.mark.parametrize("name", WORLDS)
def test_what_is_foreseen_is_what_comes_and_looking_changes_nothing(name: str) -> None:
    foresight, chance = Foresight(), random.Random(name)

    foreseen = sum(walk(widened(WORLDS[name], 2, 2), foresight, chance) for _ in range(WALKS))

    assert foreseen > WALKS / 2


@pytest.mark.parametrize(
    "name",
    [
        "one_refund_by_api",
        "one_refund_with_a_cold_start",
        "one_message",
        "a_process_that_freezes_as_it_sends",
        "a_decision_sent_twice",
        "a_decision_on_a_refund_that_is_sent_again",
    ],
)
def test_foresight_leaves_out_and_makes_up_no_schedule(name: str) -> None:
    foreseen, told = explore(WORLDS[name]), explore(WORLDS[name], Blind())

    assert foreseen.steps < told.steps
    assert (foreseen.schedules, foreseen.states, foreseen.endings) == (told.schedules, told.states, told.endings)
