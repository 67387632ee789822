"""The simulator as a process: its ports, its start and its end."""

import os
import signal
import socket
import subprocess
import sys
from pathlib import Path

import pytest

from testkit.indodana.control_client import SimulatorControl
from testkit.indodana.simulator import LOCAL_MERCHANTS, Simulator
from tests.testkit.indodana_caller import STATUS_PATH, cancel, check, send


def test_a_simulator_starts_again_on_its_ports_with_its_books() -> None:
    simulator = Simulator(LOCAL_MERCHANTS).start()
    upstream = simulator.upstream_url
    cancel(simulator)
    simulator.stop()
    with pytest.raises(ConnectionRefusedError):
        check(simulator)

    with simulator:
        assert simulator.upstream_url == upstream
        assert SimulatorControl(simulator.control_url).moved("m1", "ORDER-PAID") == 60000
        assert check(simulator).status == 200


def test_a_taken_port_leaves_nothing_open() -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        simulator = Simulator(LOCAL_MERCHANTS, upstream_port=taken.getsockname()[1])
        with pytest.raises(OSError, match="in use"):
            simulator.start()
    with pytest.raises(ConnectionRefusedError):
        send(simulator.control_url, "GET", "/_simulator/books")


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_the_command_prints_its_urls_and_stops_cleanly(number: signal.Signals) -> None:
    command = [sys.executable, "-m", "testkit.indodana", "--port", "0", "--upstream-port", "0"]
    with subprocess.Popen(
        command,
        cwd=Path(__file__).parents[2],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        env=os.environ | {"PYTHONPATH": "."},
    ) as process:
        assert process.stdout is not None
        control_url, upstream_url = (process.stdout.readline().split()[1] for _ in range(2))
        assert SimulatorControl(control_url).moved("m2", "ORDER-PAID") == 0
        assert send(upstream_url, "GET", f"{STATUS_PATH}?merchantOrderId=ORDER-PAID").status == 200
        process.send_signal(number)
        out, errors = process.communicate(timeout=5)
    assert (process.returncode, out, errors) == (0, "", "")
