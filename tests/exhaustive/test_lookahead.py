"""The explorer predicts the same states that executing the choices leads to."""

from __future__ import annotations

import random
from collections.abc import Callable, Iterator, Sequence

import pytest

from tests.simulation.engine import Choice
from tests.simulation.explore import Lookahead, SmallWorld, explore
from tests.simulation.mutant_worlds import widened
from tests.simulation.simulated import AUDIT, DEAD_LETTERS, LEDGER, QUEUE, SimulatedWorld, installed
from tests.simulation.worlds import WORLDS

WALKS = 100


@pytest.fixture(autouse=True)
def _installed() -> Iterator[None]:
    with installed():
        yield


class NoLookahead(Lookahead):
    def states_after(self, small: SmallWorld, choices: Sequence[Choice]) -> list[int | None]:
        return [None] * len(choices)


def everything(world: SimulatedWorld) -> str:
    """The real content, not the digests, which the lookahead rolls back, too."""
    watch = {name: value for name, value in vars(world.watch).items() if name != "held_by"}
    ledger, audit = ([*world.dynamo.items(table)] for table in (LEDGER, AUDIT))
    queues = [world.sqs.messages(url) for url in (QUEUE, DEAD_LETTERS)]
    return repr((watch, ledger, audit, queues, world.indodana.movements))


def walk(build: Callable[[], SmallWorld], lookahead: Lookahead, chance: random.Random) -> int:
    """Executes one random schedule; returns how many of its steps were predicted."""
    small, predicted = build(), 0
    while choices := small.choices():
        before = small.state(), everything(small.world)
        ahead = lookahead.states_after(small, choices)
        assert (small.state(), everything(small.world)) == before
        number = chance.randrange(len(choices))
        choices[number].take()
        lookahead.learn(choices[number])
        if ahead[number] is not None:
            assert small.state() == ahead[number], choices[number].text
            predicted += 1
    return predicted


@pytest.mark.parametrize("name", WORLDS)
def test_a_prediction_is_right_and_changes_nothing(name: str) -> None:
    lookahead, chance = Lookahead(), random.Random(name)

    predicted = sum(walk(widened(WORLDS[name], 2, 2), lookahead, chance) for _ in range(WALKS))

    assert predicted > WALKS / 2


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
def test_the_lookahead_adds_and_removes_no_schedule(name: str) -> None:
    predicted, executed = explore(WORLDS[name]), explore(WORLDS[name], NoLookahead())

    assert predicted.steps < executed.steps
    assert (predicted.schedules, predicted.states, predicted.endings) == (
        executed.schedules,
        executed.states,
        executed.endings,
    )
