from collections.abc import Iterator

import pytest

from testkit.indodana.control_client import SimulatorControl
from testkit.indodana.simulator import LOCAL_MERCHANTS, Simulator


@pytest.fixture(scope="module")
def running() -> Iterator[Simulator]:
    """One simulator for a module, because a start takes time; `simulator` resets it after each test."""
    with Simulator(LOCAL_MERCHANTS) as simulator:
        yield simulator


@pytest.fixture
def simulator(running: Simulator) -> Iterator[Simulator]:
    yield running
    running.reset()


@pytest.fixture
def control(simulator: Simulator) -> SimulatorControl:
    return SimulatorControl(simulator.control_url)
