"""The built functions do all that they are for, with what is left in the layer and nothing else.

Each function is a process of its own with an empty Python, the built function and the built layer; warnings are errors.
AWS and Indodana are the emulators. Docker is not needed; `make test-docker` does the same in Lambda's own runtime.
"""

from __future__ import annotations

import json
import math
import os
import runpy
import subprocess
import sys
import threading
from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import pytest

from checks.pins import ROOT
from devstack import aws
from devstack.api_gateway.http_api import HttpApi
from devstack.api_gateway.server import HttpServer
from devstack.queues import Poller
from devstack.runtime import FunctionError
from devstack.template import Model, Template
from devstack.tokens import Issuer
from testkit.indodana.simulator import Simulator, merchant_secrets
from testkit.processes import until
from tests.e2e.stack import Caller

BUILD = ROOT / ".aws-sam" / "build"
LAYER = BUILD / "IndodanaLayer" / "python"
RUN_HANDLER = Path(__file__).with_name("run_handler.py")
TRIM = runpy.run_path(str(ROOT / "layers" / "indodana" / "trim.py"))
STOP_SECONDS = 15
WAIT_SECONDS = 30.0
# What trim.py replaces would load these; idna itself is there, and loaded where a host is not ASCII.
LEFT_OUT = {"charset_normalizer.api", "configparser", "idna.core", "importlib.metadata", "importlib.resources"}

pytestmark = pytest.mark.skipif(not LAYER.exists(), reason="nothing is built; make build")


class BuiltFunction:
    """A process with one function; it handles an event at a time, as Lambda's processes do."""

    def __init__(self, model: Model, logical_id: str, environment: dict[str, str], log: Path) -> None:
        function = model.functions[logical_id]
        self.logical_id = logical_id
        self.log = log
        self._lock = threading.Lock()
        with log.open("wb") as output:
            self._process = subprocess.Popen(
                [sys.executable, "-S", "-B", "-P", "-W", "error", str(RUN_HANDLER), function.handler,
                 str(function.timeout_seconds)],
                env={
                    **environment,
                    **function.environment,
                    "PYTHONPATH": os.pathsep.join((str(BUILD / logical_id), str(LAYER))),
                    "AWS_LAMBDA_INITIALIZATION_TYPE": "on-demand",
                    "AWS_LAMBDA_FUNCTION_NAME": function.name,
                    "AWS_REGION": model.region,
                    "AWS_DEFAULT_REGION": model.region,
                    "AWS_ACCESS_KEY_ID": "local",
                    "AWS_SECRET_ACCESS_KEY": "nonsense",
                    "HOME": "/nonexistent",
                },
                cwd="/",
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                stderr=output,
                text=True,
            )  # fmt: skip

    def invoke(self, event: Any) -> Any:
        answer = self._ask(json.dumps(event))
        if "error" in answer:
            raise FunctionError(f"{self.logical_id}: {answer['error']}")
        return answer["result"]

    def loaded(self) -> set[str]:
        return set(self._ask("")["result"])

    def stop(self) -> None:
        with self._process:  # closes the pipes, and waits
            pass

    def _ask(self, line: str) -> dict[str, Any]:
        assert self._process.stdin
        assert self._process.stdout
        with self._lock:
            self._process.stdin.write(f"{line}\n")
            self._process.stdin.flush()
            printed = self._process.stdout.readline()
        if not printed:
            raise FunctionError(f"{self.logical_id} ended:\n{self.log.read_text()}")
        answer: dict[str, Any] = json.loads(printed)
        return answer


class BuiltStack(Caller):
    """The local stack, with the built functions in the place of its own."""

    def __init__(
        self, info: dict[str, Any], directory: Path, functions: dict[str, BuiltFunction], operations: list[str]
    ) -> None:
        super().__init__(info, directory)
        self.functions = functions
        self.operations = operations
        """What the functions called at AWS: "DynamoDB_20120810.Query"."""

    def invoke(self, logical_id: str, event: Any, patience_seconds: float = math.inf) -> Any:
        return self.functions[logical_id].invoke(event)


@pytest.fixture(scope="module")
def stack(tmp_path_factory: pytest.TempPathFactory) -> Iterator[BuiltStack]:
    directory = tmp_path_factory.mktemp("built")
    aws.prepare_environment()
    with ExitStack() as undo:
        simulator = undo.enter_context(Simulator())
        emulator = undo.enter_context(aws.AwsServer())
        # They share their data. This one is the functions' alone, so that it is known what they call.
        operations: list[str] = []
        for_functions = undo.enter_context(aws.AwsServer(seen=operations.append))
        gateway = HttpServer()
        undo.callback(gateway.stop)
        template = Template.load_local(
            issuer=gateway.url, upstream_url=simulator.upstream_url, endpoint_url=for_functions.url
        )
        keys = merchant_secrets(template.parameters["SecretPrefix"])
        model = template.model(aws.provision(template.model(), emulator.url, keys))
        environment = model.environment()
        functions = {
            name: BuiltFunction(model, name, environment, directory / f"{name}.log") for name in model.functions
        }
        for function in functions.values():
            undo.callback(function.stop)
        issuer = Issuer(gateway.url, directory)
        info = {
            "baseUrl": gateway.url,
            "token": issuer.token(model.scopes, audience=template.parameters["JwtAudience"], merchant="m1"),
            "issuer": gateway.url,
            "simulatorUrl": simulator.control_url,
            "awsEndpointUrl": emulator.url,
            "queueUrl": environment["REFUND_QUEUE_URL"],
            "deadLetterQueueUrl": environment["REFUND_DEAD_LETTER_QUEUE_URL"],
            "ledgerTable": environment["LEDGER_TABLE"],
            "auditTable": environment["AUDIT_TABLE"],
        }
        stack = BuiltStack(info, directory, functions, operations)
        gateway.start(HttpApi(model.routes, issuer, stack.invoke))
        sqs = aws.client("sqs", emulator.url)
        for mapping in model.queue_mappings:
            poller = Poller(mapping, model.queues[mapping.queue], model.region, sqs, stack)  # type: ignore[arg-type]
            poller.start()
            undo.callback(poller.join, STOP_SECONDS)
            undo.callback(poller.stop)
        yield stack


@pytest.fixture(autouse=True)
def no_faults(stack: BuiltStack) -> Iterator[None]:
    yield
    stack.simulator.clear_faults()


def states(stack: BuiltStack, order: str, expected: list[str]) -> list[str]:
    return until(lambda: stack.states(order), lambda seen: seen == expected, WAIT_SECONDS)


def sample(name: str) -> Any:
    return json.loads((ROOT / "events" / name).read_text())


# ---- the flows


def test_health_is_answered(stack: BuiltStack) -> None:
    assert stack.call("GET", "/v1/health", token=None).status == 204


def test_status_of_an_order_is_indodanas(stack: BuiltStack) -> None:
    order = stack.order()
    assert stack.status(order).body["transactionStatus"] == "PAID"
    assert stack.status("NO-SUCH-ORDER").status == 404


def test_refund_is_made_once_listed_and_on_record(stack: BuiltStack) -> None:
    order = stack.order(100_000)
    made = stack.refund(order, 60_000, key="till-1")
    again = stack.refund(order, 60_000, key="till-1")
    assert (made.status, again.status, again.body) == (201, 201, made.body)
    assert stack.refund(order, 60_000, key="till-2").status == 422
    assert stack.call("GET", made.headers["location"]).body == made.body
    assert stack.refunds(order)["refunds"][0] == made.body
    assert "REFUND_SUCCEEDED" in {record["action"] for record in stack.audit(order)}
    assert stack.simulator.moved("m1", order) == 60_000


def test_refund_that_waits_is_done_by_the_worker(stack: BuiltStack) -> None:
    order = stack.order()
    assert stack.refund(order, 25_000, later=True).status == 202
    assert states(stack, order, ["SUCCEEDED"]) == ["SUCCEEDED"]
    assert stack.simulator.moved("m1", order) == 25_000


def test_refund_outlives_an_outage(stack: BuiltStack) -> None:
    order = stack.order()
    stack.simulator.fault("refuse_connections")
    assert stack.refund(order, 5_000).status == 202
    stack.simulator.clear_faults()
    assert states(stack, order, ["SUCCEEDED"]) == ["SUCCEEDED"]


def test_overdue_refund_is_enqueued_by_recovery(stack: BuiltStack) -> None:
    order = stack.order()
    stack.simulator.fault("refuse_connections")
    assert stack.refund(order, 5_000).status == 202

    def enqueued() -> int:
        stack.wait_in_vain(order)
        count: int = stack.invoke("RecoveryFunction", sample("recovery/schedule.json"))["enqueued"]
        return count

    assert until(enqueued, bool, WAIT_SECONDS) == 1
    stack.simulator.clear_faults()
    assert states(stack, order, ["SUCCEEDED"]) == ["SUCCEEDED"]


def test_unknown_refund_is_counted_by_recovery_and_settled_by_a_person(stack: BuiltStack) -> None:
    order = stack.order()
    stack.simulator.fault("error_after", path="order_cancellation", merchant_order_id=order, times=1)
    stack.refund(order, 10_000)
    assert states(stack, order, ["UNKNOWN"]) == ["UNKNOWN"]
    [unknown] = stack.refunds(order)["refunds"]
    assert stack.invoke("RecoveryFunction", sample("recovery/schedule.json"))["unknown"] >= 1
    assert stack.resolve(unknown, "SUCCEEDED").body["status"] == "SUCCEEDED"


def test_invalid_message_is_a_dead_letter(stack: BuiltStack) -> None:
    stack.send({"merchantOrderId": "ORDER-PAID", "amount": "a lot"})
    assert until(stack.dead_letters, bool, WAIT_SECONDS)


@pytest.mark.parametrize("fault", ["html", "empty", "reset_before", "error_before", "ok_error"])
def test_answer_that_is_none_is_handled(stack: BuiltStack, fault: str) -> None:
    order = stack.order()
    stack.simulator.fault(fault, path="check_status", merchant_order_id=order)
    assert stack.status(order).status in (502, 503, 504)


MODEL = Template.load_local().model()
SAMPLES = sorted(str(path.relative_to(ROOT / "events")) for path in (ROOT / "events").rglob("*.json"))


@pytest.mark.parametrize("name", SAMPLES)
def test_sample_event_is_answered(stack: BuiltStack, name: str) -> None:
    [function] = [function for function in stack.functions if handled(function) == name.partition("/")[0]]
    answer = stack.invoke(function, sample(name))
    assert answer.get("statusCode", 200) < 500


def handled(logical_id: str) -> str:
    """The folder of a function's code and events."""
    return MODEL.functions[logical_id].handler.partition(".")[0]


def test_every_operation_that_is_left_was_called(stack: BuiltStack) -> None:
    """One of the last tests: the processes have done all of the above."""
    assert {target.rpartition(".")[2] for target in stack.operations} == {
        name for names in TRIM["OPERATIONS"].values() for name in names
    }


def test_nothing_that_was_left_out_was_asked_for(stack: BuiltStack) -> None:
    for name, function in stack.functions.items():
        assert function.loaded() & LEFT_OUT == set(), name
