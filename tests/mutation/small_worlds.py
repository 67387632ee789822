"""The simulation's small worlds, told in this process: with no accident, with a kill, with a fault.

A hundredth of what test_exhaustive.py tells, in a hundredth of its time, for `make mutate`.
"""

from __future__ import annotations

import pytest

from tests.simulation.explore import explore
from tests.simulation.mutant_worlds import OWN_WORLDS, widened
from tests.simulation.simulated import installed
from tests.simulation.worlds import WORLDS


@pytest.mark.parametrize("kills_and_faults", [(0, 0), (1, 0), (0, 1)], ids=["no accident", "a kill", "a fault"])
@pytest.mark.parametrize("name", WORLDS | OWN_WORLDS)
def test_every_schedule_keeps_every_promise(name: str, kills_and_faults: tuple[int, int]) -> None:
    kills, faults = kills_and_faults
    with installed():
        assert explore(widened((WORLDS | OWN_WORLDS)[name], kills, faults)).schedules
