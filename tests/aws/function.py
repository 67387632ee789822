"""A function as a process with the credentials of its role, so that each call to AWS is made, and judged, as in Lambda.

    python -m tests.aws.function refund_api.handler.lambda_handler

reads a request in JSON from each line of standard input and answers each in a line of standard output. What the
function itself prints goes to standard error.

Why not in ministack's own Lambda: it runs functions with its own Python and its own botocore, and a test could neither
move their clock nor kill them at a given call.
"""

from __future__ import annotations

import importlib
import json
import os
import re
import ssl
import subprocess
import sys
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from fnmatch import fnmatchcase
from pathlib import Path
from typing import Any

import boto3
import botocore.session

from gateway.runtime import bootstrap, tls
from gateway.runtime.aws import AwsClients
from gateway.runtime.settings import Settings
from testkit.processes import NOT_INHERITED, ROOT

LAMBDA_SECONDS = 29.0
# As which action IAM sees each item of a transaction.
ITEM_ACTIONS = {
    "Put": "PutItem",
    "Update": "UpdateItem",
    "Delete": "DeleteItem",
    "ConditionCheck": "ConditionCheckItem",
    "Get": "GetItem",
}
REFUSALS = {"AccessDenied", "AccessDeniedException"}


@dataclass(frozen=True, order=True)
class Access:
    """An action on a resource: what a call needs, or what a policy grants. The resource is the end of its ARN, behind
    the account; a policy's may be a pattern."""

    action: str
    resource: str

    def covers(self, needed: Access) -> bool:
        return self.action == needed.action and fnmatchcase(needed.resource, self.resource)


@dataclass(frozen=True)
class Invocation:
    result: Any
    error: str | None
    used: frozenset[Access]
    denied: frozenset[str]
    """The actions that were refused."""


# ---- in the tests' process


class Function:
    """`environment` is the function's own in Lambda, with its credentials."""

    def __init__(self, handler: str, environment: Mapping[str, str], log: Path) -> None:
        self._log = log
        inherited = {
            name: value
            for name, value in os.environ.items()
            if name not in NOT_INHERITED and not name.startswith(("AWS_", "POWERTOOLS_"))
        }
        paths = [ROOT / "functions", ROOT / "layers" / "indodana", ROOT]
        with log.open("ab") as output:
            self._process = subprocess.Popen(
                [sys.executable, "-m", "tests.aws.function", handler],
                env=inherited | {"PYTHONPATH": os.pathsep.join(map(str, paths))} | dict(environment),
                cwd=ROOT,
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                stderr=output,
                text=True,
                start_new_session=True,
            )

    def invoke(self, event: Any, *, ahead_seconds: float = 0, die_during: str | None = None) -> Invocation:
        """`ahead_seconds`: how far its clock is ahead. `die_during`: the call to Indodana that kills it."""
        return self._ask(do="invoke", event=event, ahead_seconds=ahead_seconds, die_during=die_during)

    def call(self, service: str, operation: str, **arguments: Any) -> Invocation:
        """A call that Lambda itself makes with the function's role: it reads the queue, for example."""
        return self._ask(do="call", service=service, operation=operation, arguments=arguments)

    def start_anew(self) -> None:
        """As a new process would: nothing remembered, no connection open."""
        self._ask(do="start_anew")

    def _ask(self, **request: Any) -> Invocation:
        assert self._process.stdin
        assert self._process.stdout
        try:
            print(json.dumps(request), file=self._process.stdin, flush=True)
            told = json.loads(self._process.stdout.readline())
        except (OSError, ValueError) as error:
            raise AssertionError(f"the function's process ended:\n{self._log.read_text()[-3000:]}") from error
        used = frozenset(Access(*each) for each in told["used"])
        return Invocation(told["result"], told["error"], used, frozenset(told["denied"]))

    def stop(self) -> None:
        self._process.kill()
        self._process.communicate()


# ---- in the function's process


class Killed(BaseException):
    """The process is gone: nothing in it may catch this and go on."""


class Context:
    aws_request_id = "invocation-1"

    def get_remaining_time_in_millis(self) -> int:
        return int(LAMBDA_SECONDS * 1000)


class Runtime:
    """Runs the handler, and writes down what is asked of AWS and what AWS refuses."""

    def __init__(self, handler: str) -> None:
        module, _, name = handler.rpartition(".")
        self._handler = getattr(importlib.import_module(module), name)
        self._ahead = timedelta()
        self._used: set[Access] = set()
        self._denied: set[str] = set()
        session = botocore.session.get_session()
        session.register("provide-client-params", self._note_use)
        session.register("after-call", self._note_refusal)
        boto3.setup_default_session(botocore_session=session)
        trust(Path(os.environ["TEST_CERTIFICATE"]))
        self.start_anew()

    def start_anew(self) -> None:
        clients = AwsClients()
        gateway = bootstrap.Gateway(
            Settings.from_environment(os.environ), clients, clock=lambda: datetime.now(UTC) + self._ahead
        )
        self._gateway = gateway
        bootstrap.gateway = lambda: gateway  # type: ignore[assignment]

    def invoke(self, event: Any, ahead_seconds: float, die_during: str | None) -> Any:
        self._ahead = timedelta(seconds=ahead_seconds)
        if die_during:
            setattr(self._gateway.indodana, die_during, _die)
        return self._handler(event, Context())

    def call(self, service: str, operation: str, arguments: dict[str, Any]) -> Any:
        client: Any = boto3.client(service)  # type: ignore[call-overload]
        return getattr(client, operation)(**arguments)

    def answer(self, request: dict[str, Any]) -> dict[str, Any]:
        self._used.clear()
        self._denied.clear()
        result, error = None, None
        try:
            result = getattr(self, request.pop("do"))(**request)
        except BaseException as raised:
            error = f"{type(raised).__name__}: {raised}"
        used = [[access.action, access.resource] for access in self._used]
        return {"result": result, "error": error, "used": used, "denied": list(self._denied)}

    def _note_use(self, **call: Any) -> None:
        model = call["model"]
        self._used.update(accesses(model.service_model.endpoint_prefix, model.name, call["params"]))

    def _note_refusal(self, **call: Any) -> None:
        model, error = call["model"], call["parsed"].get("Error", {})
        if error.get("Code") in REFUSALS:
            named = re.search(r"not authorized to perform: (\S+)", error["Message"])
            self._denied.add(known_to_iam(named[1] if named else f"{model.service_model.endpoint_prefix}:{model.name}"))


def trust(certificate: Path) -> None:
    """For the gateway's TLS context, which is all that botocore uses in this process."""
    # Not by the context's own method: it does nothing (tls.py).
    ssl.SSLContext.load_verify_locations(tls.context(), cafile=certificate)


def accesses(service: str, operation: str, arguments: Any) -> Iterator[Access]:
    """What IAM judges a call by."""
    action = f"{service}:{operation}"
    match arguments:
        case {"TransactItems": items}:
            for item in items:
                for kind, named in item.items():
                    yield Access(f"dynamodb:{ITEM_ACTIONS[kind]}", f"table/{named['TableName']}")
        case {"RequestItems": tables}:
            for table in tables:
                yield Access(action, f"table/{table}")
        case {"TableName": table, "IndexName": index}:
            yield Access(action, f"table/{table}/index/{index}")
        case {"TableName": table}:
            yield Access(action, f"table/{table}")
        case {"QueueUrl": url}:
            yield Access(known_to_iam(action), url.rpartition("/")[2])
        case {"SecretId": name}:
            yield Access(action, f"secret:{name}")
        case _:
            raise AssertionError(f"{action} with {sorted(arguments)}: tests/aws/function.py does not know its resource")


def known_to_iam(action: str) -> str:
    """A batch of SQS is allowed by the action of its parts."""
    return action.removesuffix("Batch") if action.startswith("sqs:") else action


def _die(*_: object, **__: object) -> None:
    raise Killed("killed")


def main(handler: str) -> None:
    answers = os.fdopen(os.dup(1), "w", buffering=1)
    os.dup2(2, 1)
    runtime = Runtime(handler)
    for line in sys.stdin:
        print(json.dumps(runtime.answer(json.loads(line)), default=str), file=answers)


if __name__ == "__main__":
    main(sys.argv[1])
