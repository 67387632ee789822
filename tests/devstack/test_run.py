"""`make run` as a newcomer sees it: it starts, its commands work when pasted, it stops without a trace."""

import json
import os
import re
import shutil
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path
from typing import Any, Self

import pytest

from devstack.aws import AwsServer, client
from devstack.errors import DevstackError
from devstack.local_files import LOCAL_ROOT, directory_of
from devstack.run import Settings, forget_credentials
from devstack.samconfig import ROOT
from devstack.template import Template
from testkit.http_caller import call
from testkit.indodana.control_client import SimulatorControl
from testkit.indodana.simulator import Simulator
from testkit.processes import Program, until

# A start takes a second or two, unless the machine is busy.
START_SECONDS = 60.0


class Running:
    """A stack whose output and errors are kept apart; leaving the `with` kills it."""

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
        deadline = time.monotonic() + START_SECONDS
        while not self.stack_file.exists():
            assert self.process.poll() is None, self.process.communicate()
            assert time.monotonic() < deadline
            time.sleep(0.02)
        document: dict[str, Any] = json.loads(self.stack_file.read_text())
        return document

    def stop(self, number: int = signal.SIGINT) -> tuple[int, str, str]:
        self.process.send_signal(number)
        return self.ended()

    def ended(self) -> tuple[int, str, str]:
        output, errors = self.process.communicate(timeout=START_SECONDS)
        return self.process.returncode, output, errors

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        if self.process.poll() is None:
            self.process.kill()
            self.process.communicate()


@pytest.fixture
def running(tmp_path: Path) -> Iterator[Running]:
    with Running(tmp_path) as running:
        yield running


def test_stack_starts_its_commands_work_and_ctrl_c_stops_it(running: Running) -> None:
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


def test_sigterm_stops_it_at_any_moment(tmp_path: Path) -> None:
    for seconds in (0.15, 0.5):
        with Running(tmp_path) as running:
            time.sleep(seconds)
            code, _, errors = running.stop(signal.SIGTERM)
        assert "Traceback" not in errors
        assert code in (0, -signal.SIGTERM), "the latter: before Python could take signals at all"
        assert not running.stack_file.exists()


def test_taken_port_is_one_clear_line_and_the_others_file_stays(tmp_path: Path) -> None:
    (tmp_path / "stack.json").write_text("another's")
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = str(taken.getsockname()[1])
        with Running(tmp_path, PORT=port) as running:
            code, _, errors = running.ended()
    assert code == 1
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
def test_invalid_setting_is_named(environment: dict[str, str], said: str) -> None:
    with pytest.raises(DevstackError, match=said):
        Settings.of_environment(environment)


def test_parameters_are_given_as_sam_takes_them() -> None:
    settings = Settings.of_environment({"PARAMETERS": "ResolutionHoldSeconds=0 MerchantIds='m1,m2' SecretPrefix=x=y/"})
    assert settings.parameters == {"ResolutionHoldSeconds": "0", "MerchantIds": "m1,m2", "SecretPrefix": "x=y/"}


@pytest.mark.parametrize("parameters", ["ResolutionHoldSeconds=-1", "Typo=1"])
def test_invalid_parameter_is_one_clear_line(tmp_path: Path, parameters: str) -> None:
    with Running(tmp_path, PARAMETERS=parameters) as running:
        code, _, errors = running.ended()

    [line] = errors.splitlines()
    assert (code, parameters.split("=")[0] in line) == (1, True)
    assert line.startswith("The stack cannot start: ")


def test_settings_have_the_documented_defaults() -> None:
    settings = Settings.of_environment({"PORT": "", "UPSTREAM_URL": "http://up.test/"})
    assert (settings.host, settings.port, settings.upstream_url) == ("127.0.0.1", 8080, "http://up.test")
    assert (settings.aws_endpoint_url, settings.credentials, settings.directory) == (None, None, None)


# Folders


def test_each_port_has_a_folder_of_its_own() -> None:
    assert directory_of({}) == LOCAL_ROOT / "8080"
    assert directory_of({"PORT": "9000"}) == LOCAL_ROOT / "9000"
    assert directory_of({"PORT": "0"}, port=41234) == LOCAL_ROOT / "41234"
    assert directory_of({"PORT": "9000", "LOCAL_DIR": "/tmp/x"}) == Path("/tmp/x")


def test_two_stacks_at_once_keep_their_files_apart(tmp_path: Path) -> None:
    root = tmp_path / "copy"  # with a .local of its own
    for name in ("devstack", "functions", "layers", "testkit"):
        shutil.copytree(ROOT / name, root / name, ignore=shutil.ignore_patterns("__pycache__"))
    for name in ("template.yaml", "samconfig.toml"):
        shutil.copy(ROOT / name, root)
    with ExitStack() as both:
        programs = [
            both.enter_context(Program(tmp_path, "devstack", root=root, environment={"PORT": "0"})) for _ in range(2)
        ]
        for program in programs:
            program.wait_for("^Ctrl-C stops it")
        files = list(root.glob(".local/[0-9]*/stack.json"))
        assert len(files) == 2
        for file in files:
            info = json.loads(file.read_text())
            assert info["baseUrl"].endswith(f":{file.parent.name}")
            assert (file.parent / "token").read_text() == info["token"]
            names = {path.name for path in file.parent.iterdir()}
            assert names == {"stack.json", "token", "signing-key.json", "functions.log", "stack.log"}
        assert [program.stop(signal.SIGINT) for program in programs] == [0, 0]
    assert not list(root.glob(".local/[0-9]*/stack.json"))


# Credentials


KEYS = {"INDODANA_API_KEY": "given-key", "INDODANA_SECRET_KEY": "given-secret"}


def test_given_credentials_are_read_and_never_shown() -> None:
    environment = dict(KEYS)
    settings = Settings.of_environment(environment)
    assert settings.credentials == ("given-key", "given-secret")
    assert "given-" not in repr(settings)
    forget_credentials(environment)
    assert environment == {}


@pytest.mark.parametrize(("given", "missing"), [tuple(KEYS), tuple(reversed(KEYS))])
def test_one_credential_without_the_other_is_named(given: str, missing: str) -> None:
    with pytest.raises(DevstackError, match=f"{missing} is missing") as refused:
        Settings.of_environment({given: KEYS[given]})
    assert "given-" not in str(refused.value)


def test_stack_signs_with_the_given_credentials_and_logs_none(tmp_path: Path) -> None:
    """Against an Indodana that knows these keys alone, with an AWS endpoint that an earlier stack has filled."""
    with AwsServer() as aws, Simulator({"m1": ("given-key", "given-secret")}) as indodana:
        old = json.dumps({"apiKey": "old-key", "secretKey": "old-secret"})
        prefix = Template.load_local().model().environment()["SECRET_PREFIX"]
        client("secretsmanager", aws.url).create_secret(Name=f"{prefix}m1", SecretString=old)
        elsewhere = {"AWS_ENDPOINT_URL": aws.url, "UPSTREAM_URL": indodana.upstream_url}
        with Running(tmp_path, **elsewhere, **KEYS) as running:
            info = running.ready()
            answer = call(info["baseUrl"], "GET", "/v1/transactions/ORDER-PAID", token=info["token"])
            code, output, errors = running.stop()
    assert (answer.status, code, errors) == (200, 0, "")
    assert "Indodana check_status" in output
    assert not [text for text in [output, *(path.read_text() for path in tmp_path.glob("*.log"))] if "given-" in text]


# The console


def test_console_and_logs_show_refunds_queue_recovery_and_dead_letters(running: Running) -> None:
    info = running.ready()
    SimulatorControl(info["simulatorUrl"]).fault("slow", path="order_cancellation", seconds=0.01)
    order = "/v1/transactions/ORDER-PAID/refunds"
    body = {"amount": 25000, "reason": "OTHERS", "requestedBy": "siti"}
    headers = {"Idempotency-Key": "k", "Prefer": "respond-async", "X-Correlation-Id": "till-3"}
    refund = call(info["baseUrl"], "POST", order, body, token=info["token"], headers=headers).body
    sqs = client("sqs", info["awsEndpointUrl"])
    sqs.send_message(QueueUrl=info["queueUrl"], MessageBody='{"merchantOrderId": "ORDER-PAID", "amount": "x"}')
    until(lambda: (running.directory / "stack.log").read_text().count('"message"'), lambda count: count >= 2)
    code, output, errors = running.stop()
    assert (code, errors) == (0, "")
    lines = output[output.index("request\n") :].splitlines()
    shown = refund["refundId"][:8]
    expected = [
        r"^\d\d:\d\d:\d\d\.\d{3} +recovery: (nothing to do|1 looked at, 1 queued) +\d+ ms",
        r"^\S+ +ORDER-PAID +Indodana: check_status → 200 +\d+ ms$",
        r"^\S+ +ORDER-PAID +Indodana: order_cancellation → 200 \(fault slow\) +\d+ ms$",
        rf"^\S+  m1 +ORDER-PAID +refund {shown}… .*QUEUED +till-3$",
        r"^\S+  m1 +ORDER-PAID +POST /v1/transactions/ORDER-PAID/refunds → 202 QUEUED +\d+ ms +till-3$",
        rf"^\S+  m1 +ORDER-PAID +refund {shown}… .*SUCCEEDED +till-3$",
        r"^\S+  m1 +ORDER-PAID +queue: message → done +\d+ ms +till-3$",
    ]
    for pattern in expected:
        assert [line for line in lines if re.search(pattern, line)], f"{pattern}\n{output}"
    assert not [line for line in lines if line.startswith("{")], "no JSON on the console"
    assert re.search(r"dead.letter", " ".join(lines))

    def logs(*filters: str) -> str:
        command = [sys.executable, "-m", "devstack.logs", *filters]
        environment = {**os.environ, "LOCAL_DIR": str(running.directory)}
        return subprocess.run(command, cwd=ROOT, env=environment, capture_output=True, text=True, check=True).stdout

    assert set(lines[1:-2]) <= {*logs().splitlines(), ""}
    heading_and_lines = [len(logs(*by).splitlines()) for by in (("--refund", shown), ("--correlation", "till-3"))]
    assert heading_and_lines == [6, 5], "Indodana is told the refund, and no correlation id"
