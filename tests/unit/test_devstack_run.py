"""`make run` as a newcomer sees it: it starts, its commands work when pasted, it stops without a trace."""

import json
import os
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from devstack.cloudformation import ROOT
from devstack.errors import DevstackError
from devstack.run import Settings


class Running:
    def __init__(self, directory: Path, **environment: str) -> None:
        self.directory = directory
        clean = {name: value for name, value in os.environ.items() if not name.startswith("AWS_")}
        self.process = subprocess.Popen(
            [sys.executable, "-m", "devstack"],
            cwd=ROOT,
            env={**clean, "PORT": "0", "LOCAL_DIR": str(directory), **environment},
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )

    @property
    def stack_file(self) -> Path:
        return self.directory / "stack.json"

    def ready(self) -> dict[str, Any]:
        deadline = time.monotonic() + 30
        while not self.stack_file.exists():
            assert self.process.poll() is None, self.process.communicate()
            assert time.monotonic() < deadline
            time.sleep(0.02)
        document: dict[str, Any] = json.loads(self.stack_file.read_text())
        return document

    def stop(self, number: int = signal.SIGINT) -> tuple[int, str, str]:
        self.process.send_signal(number)
        output, errors = self.process.communicate(timeout=20)
        return self.process.returncode, output, errors


@pytest.fixture
def running(tmp_path: Path) -> Iterator[Running]:
    running = Running(tmp_path)
    yield running
    if running.process.poll() is None:
        running.process.kill()
        running.process.communicate()


def test_it_starts_its_commands_work_when_pasted_and_ctrl_c_stops_it(running: Running) -> None:
    info = running.ready()
    assert set(info) >= {
        "baseUrl", "token", "issuer", "simulatorUrl", "awsEndpointUrl", "queueUrl", "deadLetterQueueUrl", "ledgerTable",
        "auditTable", "secretName",
    }  # fmt: skip
    assert running.stack_file.stat().st_mode & 0o777 == 0o600
    output = running.process.stdout
    assert output is not None
    commands: list[str] = []
    while len(commands) < 4:
        line = output.readline()
        assert line, "the commands are not there"
        if line.startswith("  curl"):
            commands.append(line.strip())
    answers = [
        subprocess.run(["sh", "-c", command], cwd=ROOT, capture_output=True, text=True, check=True).stdout
        for command in commands
    ]
    status, refund, refunds, audit = map(json.loads, answers)
    assert status["transactionStatus"] == "PAID"
    assert refund["type"] == "PARTIAL"
    assert [item["refundId"] for item in refunds["refunds"]] == [refund["refundId"]]
    assert audit["merchantOrderId"] == "ORDER-PAID"
    code, _, errors = running.stop()
    assert (code, errors) == (0, "")
    assert not running.stack_file.exists()


def test_sigterm_stops_it_too_at_any_moment(tmp_path: Path) -> None:
    for seconds in (0.15, 0.7):
        running = Running(tmp_path)
        time.sleep(seconds)
        code, _, errors = running.stop(signal.SIGTERM)
        assert "Traceback" not in errors
        assert code in (0, -signal.SIGTERM), "the latter: before Python could take signals at all"
        assert not running.stack_file.exists()


def test_a_taken_port_is_one_clear_line_and_leaves_the_other_stacks_file(tmp_path: Path) -> None:
    (tmp_path / "stack.json").write_text("another's")
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = str(taken.getsockname()[1])
        running = Running(tmp_path, PORT=port)
        _, errors = running.process.communicate(timeout=20)
    assert running.process.returncode == 1
    assert errors.splitlines() == [
        f"The stack cannot start: the gateway cannot listen on 127.0.0.1:{port}: Address already in use"
    ]
    assert (tmp_path / "stack.json").read_text() == "another's"


@pytest.mark.parametrize(
    ("environment", "said"),
    [
        ({"PORT": "http"}, "PORT"),
        ({"PORT": "70000"}, "PORT"),
        ({"UPSTREAM_URL": "indodana.test"}, "UPSTREAM_URL"),
        ({"UPSTREAM_URL": "https://indodana.test/path"}, "UPSTREAM_URL"),
        ({"AWS_ENDPOINT_URL": "nowhere"}, "AWS_ENDPOINT_URL"),
        ({"PARAMETERS": "ResolutionHoldSeconds"}, "PARAMETERS holds 'ResolutionHoldSeconds', which is not Name=value"),
        ({"PARAMETERS": "SecretPrefix='x/"}, "PARAMETERS is"),
    ],
)
def test_a_setting_that_makes_no_sense_is_named(environment: dict[str, str], said: str) -> None:
    with pytest.raises(DevstackError, match=said):
        Settings.of_environment(environment)


def test_parameters_of_the_template_are_given_as_sam_takes_them() -> None:
    settings = Settings.of_environment({"PARAMETERS": "ResolutionHoldSeconds=0 MerchantIds='m1,m2' SecretPrefix=x=y/"})
    assert settings.parameters == {"ResolutionHoldSeconds": "0", "MerchantIds": "m1,m2", "SecretPrefix": "x=y/"}


@pytest.mark.parametrize("parameters", ["ResolutionHoldSeconds=-1", "Typo=1"])
def test_a_parameter_that_makes_no_sense_is_one_clear_line(tmp_path: Path, parameters: str) -> None:
    running = Running(tmp_path, PARAMETERS=parameters)
    _, errors = running.process.communicate(timeout=20)

    [line] = errors.splitlines()
    assert (running.process.returncode, parameters.split("=")[0] in line) == (1, True)
    assert line.startswith("The stack cannot start: ")


def test_the_settings_have_the_documented_defaults() -> None:
    settings = Settings.of_environment({"PORT": "", "UPSTREAM_URL": "http://up.test/"})
    assert (settings.host, settings.port, settings.upstream_url) == ("127.0.0.1", 8080, "http://up.test")
    assert settings.aws_endpoint_url is None
