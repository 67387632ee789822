"""The whole stack in one process: AWS emulator, simulator, gateway, pollers, schedules.

One process with threads, so that nothing outlives it, however it ends.
"""

import contextlib
import json
import os
import sys
import threading
import time
from collections.abc import Mapping, MutableMapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, NoReturn, Self, TextIO
from urllib.parse import urlsplit

from devstack.api_gateway.http_api import HttpApi
from devstack.api_gateway.server import HttpServer
from devstack.aws import AwsServer, checked_endpoint, client, prepare_environment, provision, store_secret
from devstack.console import Formatter, heading
from devstack.errors import DevstackError
from devstack.events import Event, Report
from devstack.journal import Journal, LineWriter
from devstack.local_files import (
    DEFAULT_PORT,
    FUNCTIONS_LOG,
    STACK_FILE,
    TOKEN_FILE,
    directory_of,
    port_of,
    running_stack,
    shell_path,
    write_private,
)
from devstack.queues import LONG_POLL_SECONDS, Poller
from devstack.runtime import Runtime, load_runtime
from devstack.samconfig import ROOT, parse_overrides
from devstack.schedules import Timer
from devstack.template import Model, Template
from devstack.tokens import Issuer
from testkit.indodana.books import ReceivedRequest
from testkit.indodana.simulator import LOCAL_MERCHANTS, Simulator, merchant_secrets

# How long a stop waits for what is in flight, and then cuts off. The ledger is made for that.
DRAIN_SECONDS = 5.0
# Of the token in stack.json: longer than anybody leaves a stack running.
STACK_TOKEN_TTL_SECONDS = 30 * 24 * 60 * 60


@dataclass(frozen=True)
class Settings:
    host: str = "127.0.0.1"
    port: int = DEFAULT_PORT
    upstream_url: str | None = None
    aws_endpoint_url: str | None = None
    parameters: Mapping[str, str] = field(default_factory=dict)
    """Of the template, where they differ from samconfig.toml's."""
    credentials: tuple[str, str] | None = field(default=None, repr=False)
    """The API key and the secret key that the merchant signs with; None for the simulator's."""
    template: Path = ROOT / "template.yaml"
    directory: Path | None = None
    """None for `.local/<port>`."""

    @classmethod
    def of_environment(cls, environment: Mapping[str, str]) -> Self:
        endpoint, upstream = environment.get("AWS_ENDPOINT_URL"), environment.get("UPSTREAM_URL")
        return cls(
            host=environment.get("HOST") or "127.0.0.1",
            port=port_of(environment),
            upstream_url=_checked_upstream(upstream) if upstream else None,
            aws_endpoint_url=checked_endpoint(endpoint) if endpoint else None,
            parameters=_parameters(environment.get("PARAMETERS") or ""),
            credentials=_credentials(environment),
            directory=directory_of(environment) if environment.get("LOCAL_DIR") else None,
        )


CREDENTIAL_VARIABLES = ("INDODANA_API_KEY", "INDODANA_SECRET_KEY")


def _credentials(environment: Mapping[str, str]) -> tuple[str, str] | None:
    """No message here shows a value."""
    api_key, secret_key = (environment.get(name, "").strip() for name in CREDENTIAL_VARIABLES)
    if not api_key and not secret_key:
        return None
    for name, value in zip(CREDENTIAL_VARIABLES, (api_key, secret_key), strict=True):
        if not value:
            raise DevstackError(f"{name} is missing; {' and '.join(CREDENTIAL_VARIABLES)} belong together")
    return api_key, secret_key


def forget_credentials(environment: MutableMapping[str, str]) -> None:
    """So that neither a function nor a child process finds them in its environment."""
    for name in CREDENTIAL_VARIABLES:
        environment.pop(name, None)


def _parameters(text: str) -> dict[str, str]:
    try:
        return parse_overrides(text, "PARAMETERS")
    except ValueError as error:  # an open quotation mark
        raise DevstackError(f"PARAMETERS is {text!r}, not Name=value separated by spaces: {error}") from error


def _checked_upstream(url: str) -> str:
    parts = urlsplit(url)
    if parts.scheme not in ("http", "https") or not parts.hostname or parts.path not in ("", "/") or parts.query:
        raise DevstackError(f"UPSTREAM_URL is {url!r}, not a scheme and host like https://stg-k-api.example.com")
    return url.rstrip("/")


class Stack:
    """Starts everything, writes stack.json, and stops in the order that lets what is in flight finish."""

    def __init__(self, settings: Settings, console: TextIO) -> None:
        self._settings = settings
        self._console = console
        self._undo = contextlib.ExitStack()
        self._server: HttpServer | None = None
        self._runtime: Runtime | None = None
        self._pollers: list[Poller] = []
        self._timers: list[Timer] = []
        self._directory: Path | None = settings.directory
        self.info: dict[str, Any] = {}
        self.model: Model | None = None

    @property
    def directory(self) -> Path:
        assert self._directory is not None  # it has a port, and so a folder, once it has started
        return self._directory

    @property
    def stack_file(self) -> Path:
        return self.directory / STACK_FILE

    @property
    def token_file(self) -> Path:
        return self.directory / TOKEN_FILE

    @property
    def functions_log(self) -> Path:
        return self.directory / FUNCTIONS_LOG

    def start(self) -> Self:
        settings = self._settings
        # First of all: a port that is taken is another stack's, whose files must stay.
        self._server = server = HttpServer(settings.host, settings.port)
        self._directory = settings.directory or directory_of({}, server.port)
        self.directory.mkdir(parents=True, exist_ok=True)
        self.stack_file.unlink(missing_ok=True)
        report = self._open_journal()

        template = Template.load_local(settings.template, issuer=server.url, parameters=settings.parameters)
        merchants = self._merchants(template.model())  # an error in the template is found before anything starts
        prepare_environment(template.region)
        endpoint_url = settings.aws_endpoint_url or self._start_aws()
        simulator_url, upstream_url = None, settings.upstream_url
        if upstream_url is None:
            simulator = Simulator(
                merchants, settings.host, on_request=lambda request, seconds: report(_indodana_event(request, seconds))
            )
            self._undo.callback(simulator.stop)
            simulator.start()
            simulator_url, upstream_url = simulator.control_url, simulator.upstream_url

        template = Template.load_local(
            settings.template,
            issuer=server.url,
            upstream_url=upstream_url,
            endpoint_url=endpoint_url,
            parameters=settings.parameters,
        )
        self.model = model = self._provisioned(template, endpoint_url, merchants)
        os.environ["AWS_ENDPOINT_URL"] = endpoint_url
        self._runtime = runtime = load_runtime(model, report)

        issuer = Issuer(server.url, self.directory)
        server.start(HttpApi(model.routes, issuer, runtime.invoke, report=report))
        sqs = client("sqs", endpoint_url)
        region = os.environ["AWS_DEFAULT_REGION"]
        self._pollers = [
            Poller(mapping, model.queues[mapping.queue], region, sqs, runtime, report)
            for mapping in model.queue_mappings
        ]
        self._timers = [Timer(schedule, region, runtime, report) for schedule in model.schedules]
        for poller in self._pollers:
            poller.start()
        for timer in self._timers:
            timer.start()

        environment = model.environment()
        self.info = {
            "baseUrl": server.url,
            "token": self._token(issuer, model),
            "issuer": server.url,
            "simulatorUrl": simulator_url,
            "awsEndpointUrl": endpoint_url,
            "queueUrl": environment.get("REFUND_QUEUE_URL"),
            "deadLetterQueueUrl": environment.get("REFUND_DEAD_LETTER_QUEUE_URL"),
            "ledgerTable": environment.get("LEDGER_TABLE"),
            "auditTable": environment.get("AUDIT_TABLE"),
            "secretName": environment.get("SECRET_PREFIX", "") + environment.get("MERCHANT_ID", ""),
        }
        write_private(self.token_file, self.info["token"])
        write_private(self.stack_file, json.dumps(self.info, indent=2) + "\n")
        return self

    def stop(self) -> None:
        # Another stack that was started in the same folder has files of its own there.
        if self.info and running_stack(self.directory) == self.info:
            self.stack_file.unlink(missing_ok=True)
            self.token_file.unlink(missing_ok=True)
        for timer in self._timers:
            timer.stop()
        for poller in self._pollers:
            poller.stop()
        if self._server:
            self._server.stop()
        for poller in self._pollers:
            poller.join(LONG_POLL_SECONDS + 1)
        if self._runtime and not self._runtime.drain(DRAIN_SECONDS):
            self.say(f"Invocations that still run after {DRAIN_SECONDS:g} s are cut off.")
        self._undo.close()

    def say(self, text: str) -> None:
        # A terminal that is gone must not stop the stack.
        with contextlib.suppress(OSError, ValueError):
            print(text, file=self._console, flush=True)

    def _start_aws(self) -> str:
        server = AwsServer(self._settings.host)
        self._undo.callback(server.stop)
        return server.start().url

    def _open_journal(self) -> Report:
        formatter = Formatter(shows_upstream_metrics=self._settings.upstream_url is not None)
        journal = Journal(self.directory, self._console, formatter)
        self._undo.callback(journal.close)
        self._undo.enter_context(contextlib.redirect_stdout(LineWriter(journal.function_line)))
        return journal.report

    def _merchants(self, model: Model) -> dict[str, tuple[str, str]]:
        """The keys of each merchant; the simulator knows them, and the functions sign with them."""
        given = self._settings.credentials
        return LOCAL_MERCHANTS | ({model.environment().get("MERCHANT_ID", ""): given} if given else {})

    def _provisioned(self, template: Template, endpoint_url: str, merchants: Mapping[str, tuple[str, str]]) -> Model:
        model = template.model()
        environment = model.environment()
        prefix = environment.get("SECRET_PREFIX", "")
        secrets = merchant_secrets(prefix, merchants)
        actual = provision(model, endpoint_url, secrets)
        if self._settings.credentials:
            # An AWS endpoint that outlives its stacks may hold other keys.
            name = prefix + environment.get("MERCHANT_ID", "")
            store_secret(endpoint_url, name, secrets[name])
        return template.model(actual)

    def _token(self, issuer: Issuer, model: Model) -> str:
        audience = next((route.authorizer.audience[0] for route in model.routes if route.authorizer), "")
        merchant = model.environment().get("MERCHANT_ID")
        return issuer.token(model.scopes, audience=audience, merchant=merchant, ttl_seconds=STACK_TOKEN_TTL_SECONDS)


def _indodana_event(request: ReceivedRequest, seconds: float) -> Event:
    event = {
        "event": "indodana",
        "operation": request.path,
        "merchant_order_id": request.merchant_order_id,
        "refund_id": request.refund_id,
        "answered": request.answered,
        "fault": request.fault,
        "ms": round(seconds * 1000, 1),
    }
    return {name: value for name, value in event.items() if value is not None}


def banner(stack: Stack, started_seconds: float) -> str:
    info, model = stack.info, stack.model
    assert model is not None
    served = info["baseUrl"].rpartition(":")[2]
    port = "" if served == str(DEFAULT_PORT) else f" PORT={served}"
    shown = {path: shell_path(path) for path in (stack.stack_file, stack.token_file, stack.functions_log)}
    parts = [
        f"{len(model.routes)} routes",
        f"{len(model.queue_mappings)} queue{'' if len(model.queue_mappings) == 1 else 's'}",
        f"{len(model.schedules)} schedule{'' if len(model.schedules) == 1 else 's'}",
    ]
    lines = [
        "",
        f"The QRIS gateway is ready at {info['baseUrl']} ({', '.join(parts)}; {started_seconds:.1f} s)",
        f"  the API           {info['baseUrl']}/docs",
        f"  Indodana          {info['simulatorUrl'] or 'UPSTREAM_URL'}"
        + (" (a simulator; its orders and faults are at /_simulator/)" if info["simulatorUrl"] else ""),
        f"  AWS               {info['awsEndpointUrl']} (DynamoDB, SQS, Secrets Manager, emulated)",
        f"  addresses, token  {shown[stack.stack_file]}",
        f"  logs              {shown[stack.functions_log]}; make logs{port} ORDER=ORDER-PAID shows one order's",
        "",
        "Try in another terminal, in this folder: an order's status, a partial refund, the refunds, the audit timeline",
        "",
        *(f"  {command}" for command in curl_commands(info["baseUrl"], shown[stack.token_file])),
        "",
        "Ctrl-C stops it. From here on, a line for everything that happens:",
        "",
        heading(),
    ]
    return "\n".join(lines)


def curl_commands(base_url: str, token_file: str) -> list[str]:
    """One line each, to paste into any POSIX shell. Pasted again, the refund is the same refund."""
    order = f"{base_url}/v1/transactions/ORDER-PAID"
    authorization = f'-H "Authorization: Bearer $(cat {token_file})"'
    body = json.dumps({"amount": 25000, "reason": "OUT_OF_STOCK", "note": "One item", "requestedBy": "siti"})
    headers = "-H 'Content-Type: application/json' -H 'Idempotency-Key: first-refund'"
    return [
        f"curl -sSw '\\n' {authorization} {order}",
        f"curl -sSw '\\n' {authorization} {headers} -d '{body}' {order}/refunds",
        f"curl -sSw '\\n' {authorization} {order}/refunds",
        f"curl -sSw '\\n' {authorization} {order}/audit",
    ]


def main() -> NoReturn:
    """Runs until SIGINT or SIGTERM, which __main__ turns into SystemExit."""
    started = time.monotonic()
    console, status = sys.stdout, 0
    stack: Stack | None = None
    try:
        stack = Stack(Settings.of_environment(os.environ), console)
        forget_credentials(os.environ)
        stack.start()
        stack.say(banner(stack, time.monotonic() - started))
        threading.Event().wait()
    except DevstackError as error:
        print(f"The stack cannot start: {error}", file=sys.stderr)
        status = 1
    except SystemExit:
        pass
    if stack is not None:
        if stack.info:
            stack.say("\nStopping …")
        stack.stop()
    for stream in (console, sys.stderr):
        with contextlib.suppress(OSError, ValueError):
            stream.flush()
    # Not sys.exit: it would wait for the thread pools of a handler that hangs.
    os._exit(status)
