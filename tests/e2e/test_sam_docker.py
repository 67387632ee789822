"""The built functions in the Lambda runtime, by `sam local invoke`, against the AWS emulator and the simulator.

`make test-docker` runs it. Where no Docker engine answers it fails and says so: it never passes without having run.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
import urllib.request
from collections.abc import Iterator
from dataclasses import dataclass
from decimal import Decimal
from pathlib import Path
from typing import Any

import pytest

from devstack import aws, sam_environment
from devstack.simulator import LOCAL_MERCHANTS, Simulator
from devstack.simulator_control import SimulatorControl
from devstack.template import Template

pytestmark = pytest.mark.docker

ROOT = Path(__file__).parents[2]
LAMBDA_IMAGE = "public.ecr.aws/lambda/python:3.13-x86_64"
BUILD_SECONDS = 300
INVOKE_SECONDS = 300  # the first may pull the image


def run(*command: str, seconds: float) -> subprocess.CompletedProcess[str]:
    # The SAM CLI has a venv of its own, which also holds the python3.13 that `sam build` looks for.
    environment = {"PATH": f"{ROOT}/.venv-sam/bin:{os.environ['PATH']}", "SAM_CLI_TELEMETRY": "0"}
    return subprocess.run(
        command, cwd=ROOT, env=os.environ | environment, capture_output=True, text=True, timeout=seconds, check=False
    )


@pytest.fixture(scope="session")
def build() -> None:
    try:
        engine = run("docker", "info", seconds=30)
    except FileNotFoundError:
        pytest.fail("no Docker engine: there is no `docker` command. These tests need one.", pytrace=False)
    if engine.returncode:
        pytest.fail(f"no Docker engine answers: {engine.stderr.strip()}", pytrace=False)
    built = run("sam", "build", "--config-env", "local", seconds=BUILD_SECONDS)
    assert built.returncode == 0, built.stderr


@dataclass
class Stack:
    """What the functions work on, and the functions themselves, each invoked in a container of its own."""

    simulator: SimulatorControl
    sqs: Any
    environment: dict[str, str]
    environment_file: Path

    def invoke(self, function: str, event: str) -> Any:
        """The function's answer to events/<event>.json."""
        environment = ("--env-vars", str(self.environment_file))
        # An image that is here needs no registry; else sam pulls it.
        here = run("docker", "image", "inspect", LAMBDA_IMAGE, seconds=30).returncode == 0
        skip_pull = ("--skip-pull-image",) if here else ()
        command = ("sam", "local", "invoke", function, "--config-env", "local", "--event", f"events/{event}.json")
        done = run(*command, *environment, *skip_pull, seconds=INVOKE_SECONDS)
        assert done.returncode == 0, done.stderr
        answer = json.loads(done.stdout.strip().splitlines()[-1])
        # pytest shows it where a test fails: the functions' own logs are in it.
        sys.stderr.write(done.stderr)
        assert "errorType" not in answer, f"{answer}\n{done.stderr}"
        return answer

    def dead_letters(self) -> list[str]:
        answer = self.sqs.receive_message(
            QueueUrl=self.environment["REFUND_DEAD_LETTER_QUEUE_URL"], MaxNumberOfMessages=10
        )
        return [message["Body"] for message in answer.get("Messages", [])]


@pytest.fixture
def stack(build: None, tmp_path: Path) -> Iterator[Stack]:
    aws.prepare_environment()
    # Every address of this machine, since a container comes in by another one than the tests do.
    with Simulator(host="0.0.0.0") as simulator, aws.AwsServer(host="0.0.0.0") as server:
        urllib.request.urlopen(urllib.request.Request(f"{server.url}/moto-api/reset", method="POST")).close()
        simulator_url = simulator.control_url.replace("0.0.0.0", "127.0.0.1")
        template = Template.load_local(upstream_url=simulator_url, endpoint_url=server.url)
        keys = {
            f"{template.parameters['SecretPrefix']}{merchant}": json.dumps({"apiKey": api_key, "secretKey": secret_key})
            for merchant, (api_key, secret_key) in LOCAL_MERCHANTS.items()
        }
        environment = template.model(aws.provision(template.model(), server.url, keys)).environment()
        environment_file = tmp_path / sam_environment.FILE_NAME
        environment_file.write_text(json.dumps(sam_environment.for_containers(environment)))
        yield Stack(SimulatorControl(simulator_url), aws.client("sqs", server.url), environment, environment_file)


def body(answer: dict[str, Any]) -> dict[str, Any]:
    parsed: dict[str, Any] = json.loads(answer["body"], parse_float=Decimal)
    return parsed


def test_a_status_is_answered_as_indodana_has_it(stack: Stack) -> None:
    paid = stack.invoke("StatusCheckFunction", "status_check/paid")
    assert (paid["statusCode"], body(paid)["transactionStatus"]) == (200, "PAID")

    unknown = stack.invoke("StatusCheckFunction", "status_check/unknown-order")
    assert unknown["statusCode"] == 404
    assert unknown["headers"]["content-type"].startswith("application/problem+json")


def test_a_refund_repeated_with_the_same_key_moves_money_once_and_stands_in_the_audit_timeline(stack: Stack) -> None:
    first = stack.invoke("RefundApiFunction", "refund_api/partial")
    assert (first["statusCode"], body(first)["status"]) == (201, "SUCCEEDED")
    again = stack.invoke("RefundApiFunction", "refund_api/partial")
    assert body(again)["refundId"] == body(first)["refundId"]
    assert again["headers"]["idempotency-replayed"] == "true"
    assert stack.simulator.moved("m1", "ORDER-PAID") == 25000

    over = stack.invoke("RefundApiFunction", "refund_api/over-refund")
    assert over["statusCode"] == 422
    listed = body(stack.invoke("RefundApiFunction", "refund_api/list"))
    assert (listed["transactionAmount"], listed["refunded"], listed["refundable"]) == (100000, 25000, 75000)
    assert stack.simulator.moved("m1", "ORDER-PAID") == 25000

    timeline = stack.invoke("AuditQueryFunction", "audit_query/timeline")
    assert timeline["statusCode"] == 200
    assert body(first)["refundId"] in timeline["body"]


def test_a_poisoned_batch_refunds_what_is_good_and_dead_letters_the_rest(stack: Stack) -> None:
    answer = stack.invoke("RefundWorkerFunction", "refund_worker/with-poison")
    assert answer == {"batchItemFailures": []}
    assert stack.simulator.moved("m1", "ORDER-PAID") == 12000
    records = json.loads((ROOT / "events/refund_worker/with-poison.json").read_text())["Records"]
    assert sorted(stack.dead_letters()) == sorted(record["body"] for record in records[1:])


def test_the_reconciler_counts_a_refund_that_waits_for_an_operator(stack: Stack) -> None:
    assert stack.invoke("ReconcilerFunction", "reconciler/schedule")["unknown"] == 0
    stack.simulator.fault("error_after", path="order_cancellation", times=1)
    unknown = stack.invoke("RefundApiFunction", "refund_api/partial")
    assert (unknown["statusCode"], body(unknown)["status"]) == (202, "UNKNOWN")
    assert stack.invoke("ReconcilerFunction", "reconciler/schedule")["unknown"] == 1

    resolved = stack.invoke("RefundApiFunction", "refund_api/resolution")
    assert (resolved["statusCode"], body(resolved)["status"]) == (200, "SUCCEEDED")
    assert stack.simulator.moved("m1", "ORDER-PAID") == 25000
