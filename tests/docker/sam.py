"""What `sam build --config-env local` made, run by the SAM CLI in the Lambda runtime, on emulators of this process.

Each way of the SAM CLI builds an image of the layer anew for each container (some seconds), so containers are kept
where that can be: `sam local invoke` has one for each call, `start-lambda` and `start-api` one for each function.
"""

from __future__ import annotations

import contextlib
import json
import math
import os
import re
import socket
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from types import TracebackType
from typing import Any, Self

import boto3
from botocore.config import Config

from devstack import aws, sam_environment
from devstack.api_gateway.http_api import HttpApi
from devstack.api_gateway.server import HttpServer
from devstack.queues import Poller
from devstack.runtime import FunctionError
from devstack.template import Model, Template
from devstack.tokens import Issuer
from testkit.indodana.simulator import Simulator, merchant_secrets
from testkit.processes import ROOT, until
from tests.e2e.stack import Caller

BUILT = ROOT / ".aws-sam" / "build-local"
LAMBDA_IMAGE = "public.ecr.aws/lambda/python:3.13-x86_64"
DOCKER_SECONDS = 30
BUILD_SECONDS = 300
INVOKE_SECONDS = 300  # the first may pull the image
START_SECONDS = 60
STOP_SECONDS = 60
EVERY_ADDRESS = "0.0.0.0"  # a container comes in by another one than the tests do
# `start-api` and `start-lambda`. EAGER would start the containers side by side, and lose one of them now and then
# (SAM CLI 1.170 makes two runtimes then, and stops the containers of one).
WARM = ("--warm-containers", "LAZY", "--no-watch")


def run(*command: str, seconds: float, environment: dict[str, str] | None = None) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        command,
        cwd=ROOT,
        env=_environment() | (environment or {}),
        capture_output=True,
        text=True,
        timeout=seconds,
        check=False,
    )


def _environment() -> dict[str, str]:
    # The SAM CLI hands credentials on, and a developer's own must not end in a container.
    kept = {name: value for name, value in os.environ.items() if not name.startswith("AWS_")}
    return kept | {
        # Its venv also holds the python3.13 that `sam build` looks for.
        "PATH": f"{ROOT}/.venv-sam/bin:{os.environ['PATH']}",
        "SAM_CLI_TELEMETRY": "0",
        "AWS_ACCESS_KEY_ID": "local",
        "AWS_SECRET_ACCESS_KEY": "nonsense",
    }


def _local(command: str, *arguments: str, environment_file: Path) -> list[str]:
    # An image that is here needs no registry; else sam pulls it.
    here = run("docker", "image", "inspect", LAMBDA_IMAGE, seconds=DOCKER_SECONDS).returncode == 0
    options = ["--config-env", "local", "--env-vars", str(environment_file), *(["--skip-pull-image"] if here else [])]
    return ["sam", "local", command, *arguments, *options]


@dataclass(frozen=True)
class Invocation:
    """What came of one `sam local invoke`."""

    answer: Any
    log: str

    @property
    def init_milliseconds(self) -> float:
        """Of the runtime interface emulator's INIT REPORT; the REPORT line's "Init Duration" is not measured there."""
        found = re.search(r"INIT REPORT\(durationMs: ([0-9.]+)\)", self.log)
        assert found, self.log
        return float(found[1])


def invoke(function: str, event: str, environment_file: Path) -> Invocation:
    """The function's answer to events/<event>.json, in a container of its own."""
    command = _local("invoke", function, "--event", f"events/{event}.json", environment_file=environment_file)
    # With it, the emulator says how long the init phase took.
    done = run(*command, seconds=INVOKE_SECONDS, environment={"SAM_CLI_RIE_DEV": "1"})
    assert done.returncode == 0, done.stderr
    assert runs_what_was_built(done.stderr), done.stderr
    # pytest shows it where a test fails: the functions' own logs are in it.
    sys.stderr.write(done.stderr)
    return Invocation(json.loads(done.stdout.strip().splitlines()[-1]), done.stderr)


def runs_what_was_built(output: str) -> bool:
    """Whether the SAM CLI says so of every container: where it is told of no other template, it takes the sources."""
    mounted = re.findall(r"^Mounting (.+) as /var/task", output, re.MULTILINE)
    return bool(mounted) and all(Path(path).is_relative_to(BUILT) for path in mounted)


class Service:
    """`sam local start-api` or `start-lambda`, ready once it is made."""

    def __init__(self, command: str, directory: Path, environment_file: Path) -> None:
        self._output_file = directory / f"{command}.out"
        with socket.socket() as free:
            free.bind(("127.0.0.1", 0))
            self.port: int = free.getsockname()[1]
        arguments = _local(command, "--port", str(self.port), *WARM, environment_file=environment_file)
        with self._output_file.open("wb") as output:
            self._process = subprocess.Popen(
                arguments,
                cwd=ROOT,
                env=_environment(),
                stdin=subprocess.DEVNULL,
                stdout=output,
                stderr=subprocess.STDOUT,
            )
        try:
            assert until(self._listens, bool, START_SECONDS), self.output
        except BaseException:
            self.stop()
            raise

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.port}"

    @property
    def output(self) -> str:
        return self._output_file.read_text(encoding="utf-8")

    def stop(self) -> None:
        """By SIGTERM, at which it removes its containers."""
        self._process.terminate()
        self._process.wait(STOP_SECONDS)

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.stop()

    def _listens(self) -> bool:
        assert self._process.poll() is None, self.output
        with socket.socket() as caller:
            return caller.connect_ex(("127.0.0.1", self.port)) == 0


@dataclass
class Functions:
    """The functions behind `start-lambda`, invoked as devstack.runtime.Runtime invokes those of this process."""

    service: Service
    routes: set[str] = field(default_factory=set)
    """Of the requests that reached a function."""

    def __post_init__(self) -> None:
        # Like Lambda's callers here, it asks once: an invocation that is repeated is another one.
        config = Config(read_timeout=INVOKE_SECONDS, retries={"total_max_attempts": 1})
        self._client = boto3.client("lambda", endpoint_url=self.service.url, config=config)

    def invoke(self, logical_id: str, event: Any, patience_seconds: float = math.inf) -> Any:
        answer = self._client.invoke(FunctionName=logical_id, Payload=json.dumps(event))
        result = json.loads(answer["Payload"].read())
        # Not by Lambda's FunctionError, which the SAM CLI leaves out where a function cannot even be imported.
        if isinstance(result, dict) and "errorType" in result:
            raise FunctionError(f"{logical_id}: {result}")
        if "routeKey" in event:
            self.routes.add(event["routeKey"])
        return result


class SamStack(Caller):
    """The local stack, but for its functions, which run as built, in containers.

    `operations` are what containers called at AWS: "DynamoDB_20120810.Query". The tests come in by another door.
    """

    def __init__(
        self, info: dict[str, Any], directory: Path, model: Model, functions: Functions, operations: list[str]
    ) -> None:
        super().__init__(info, directory)
        self.model = model
        self.functions = functions
        self.operations = operations

    @property
    def environment_file(self) -> Path:
        return self.directory / sam_environment.FILE_NAME


def build() -> None:
    """Fails where there is no Docker engine: what needs one never passes without having run."""
    try:
        engine = run("docker", "info", seconds=DOCKER_SECONDS)
    except FileNotFoundError:
        raise AssertionError("no Docker engine: there is no `docker` command; these tests need one") from None
    assert engine.returncode == 0, f"no Docker engine answers: {engine.stderr.strip()}"
    built = run("sam", "build", "--config-env", "local", seconds=BUILD_SECONDS)
    assert built.returncode == 0, built.stderr


@contextlib.contextmanager
def stack(directory: Path) -> Iterator[SamStack]:
    """Emulators, the gateway with its authorizer, the queue's poller, and `start-lambda` for the functions."""
    aws.prepare_environment()
    operations: list[str] = []
    with contextlib.ExitStack() as undo:
        simulator = undo.enter_context(Simulator(host=EVERY_ADDRESS))
        for_tests = undo.enter_context(aws.AwsServer())
        for_containers = undo.enter_context(aws.AwsServer(EVERY_ADDRESS, seen=operations.append))
        gateway = HttpServer()
        undo.callback(gateway.stop)

        template = Template.load_local(
            issuer=gateway.url, upstream_url=simulator.upstream_url, endpoint_url=for_containers.url
        )
        keys = merchant_secrets(template.parameters["SecretPrefix"])
        model = template.model(aws.provision(template.model(), for_tests.url, keys))
        environment = model.environment()
        environment_file = directory / sam_environment.FILE_NAME
        environment_file.write_text(json.dumps(sam_environment.for_containers(environment)))

        functions = Functions(undo.enter_context(Service("start-lambda", directory, environment_file)))
        issuer = Issuer(gateway.url, directory)
        gateway.start(HttpApi(model.routes, issuer, functions.invoke))
        sqs = aws.client("sqs", for_tests.url)
        for mapping in model.queue_mappings:
            poller = Poller(mapping, model.queues[mapping.queue], model.region, sqs, functions)  # type: ignore[arg-type]
            poller.start()
            undo.callback(poller.join, STOP_SECONDS)
            undo.callback(poller.stop)
        info = {
            "baseUrl": gateway.url,
            "token": issuer.token(model.scopes, audience=template.parameters["JwtAudience"], merchant="m1"),
            "issuer": gateway.url,
            "simulatorUrl": simulator.control_url.replace(EVERY_ADDRESS, "127.0.0.1"),
            "awsEndpointUrl": for_tests.url,
            "queueUrl": environment["REFUND_QUEUE_URL"],
            "deadLetterQueueUrl": environment["REFUND_DEAD_LETTER_QUEUE_URL"],
            "ledgerTable": environment["LEDGER_TABLE"],
            "auditTable": environment["AUDIT_TABLE"],
        }
        yield SamStack(info, directory, model, functions, operations)
