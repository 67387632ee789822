"""The whole stack in one process: AWS emulator, simulator, gateway, pollers, schedules.

One process with threads, so that nothing outlives it, however it ends.
"""

import contextlib
import io
import json
import os
import shlex
import sys
import threading
import time
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, NoReturn, Self, TextIO
from urllib.parse import urlsplit

from devstack.aws import AwsServer, checked_endpoint, client, prepare_environment, provision
from devstack.cloudformation import ROOT, parse_overrides
from devstack.errors import DevstackError
from devstack.gateway import Gateway, HttpApi
from devstack.queues import LONG_POLL_SECONDS, Poller
from devstack.runtime import Runtime, load_runtime
from devstack.schedules import Timer
from devstack.template import Model, Template
from devstack.tokens import DEFAULT_PORT, LOCAL_DIR, Issuer
from testkit.indodana.simulator import LOCAL_MERCHANTS, Simulator

# How long a stop waits for what is in flight; the ledger is made for what is cut off.
DRAIN_SECONDS = 5.0
# Of the token in stack.json: longer than a stack is left running.
STACK_TOKEN_TTL_SECONDS = 30 * 24 * 60 * 60


@dataclass(frozen=True)
class Settings:
    host: str = "127.0.0.1"
    port: int = DEFAULT_PORT
    upstream_url: str | None = None
    aws_endpoint_url: str | None = None
    parameters: Mapping[str, str] = field(default_factory=dict)
    """Of the template, where they are to be others than samconfig.toml's."""
    template: Path = ROOT / "template.yaml"
    directory: Path = LOCAL_DIR

    @classmethod
    def of_environment(cls, environment: Mapping[str, str]) -> Self:
        port = environment.get("PORT") or str(DEFAULT_PORT)
        if not port.isdecimal() or int(port) > 65535:
            raise DevstackError(f"PORT is {port!r}, not a number from 0 (a free one) to 65535")
        endpoint, upstream = environment.get("AWS_ENDPOINT_URL"), environment.get("UPSTREAM_URL")
        return cls(
            host=environment.get("HOST") or "127.0.0.1",
            port=int(port),
            upstream_url=_checked_upstream(upstream) if upstream else None,
            aws_endpoint_url=checked_endpoint(endpoint) if endpoint else None,
            parameters=_parameters(environment.get("PARAMETERS") or ""),
        )


def _parameters(text: str) -> dict[str, str]:
    try:
        return parse_overrides(text, "PARAMETERS")
    except ValueError as error:  # a quotation mark without its other
        raise DevstackError(f"PARAMETERS is {text!r}, not Name=value with spaces between them: {error}") from error


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
        self._gateway: Gateway | None = None
        self._runtime: Runtime | None = None
        self._pollers: list[Poller] = []
        self._timers: list[Timer] = []
        self.info: dict[str, Any] = {}
        self.model: Model | None = None

    @property
    def stack_file(self) -> Path:
        return self._settings.directory / "stack.json"

    @property
    def token_file(self) -> Path:
        return self._settings.directory / "token"

    @property
    def functions_log(self) -> Path:
        return self._settings.directory / "functions.log"

    def start(self) -> Self:
        settings = self._settings
        # First of all: a port that is taken is another stack's, whose files must stay.
        self._gateway = gateway = Gateway(settings.host, settings.port, log=self.say)
        settings.directory.mkdir(parents=True, exist_ok=True)
        self.stack_file.unlink(missing_ok=True)
        self._undo.enter_context(contextlib.redirect_stdout(_LineLog(self._open_log())))

        template = Template.load_local(settings.template, issuer=gateway.url, parameters=settings.parameters)
        template.model()  # what is wrong with it is said before anything is started
        prepare_environment(template.region)
        endpoint_url = settings.aws_endpoint_url or self._start_aws()
        simulator_url, upstream_url = None, settings.upstream_url
        if upstream_url is None:
            simulator = Simulator(LOCAL_MERCHANTS, host=settings.host)
            self._undo.callback(simulator.stop)
            simulator.start()
            simulator_url, upstream_url = simulator.control_url, simulator.upstream_url

        template = Template.load_local(
            settings.template,
            issuer=gateway.url,
            upstream_url=upstream_url,
            endpoint_url=endpoint_url,
            parameters=settings.parameters,
        )
        actual = provision(template.model(), endpoint_url, _merchant_secrets(template.model()))
        self.model = model = template.model(actual)
        os.environ["AWS_ENDPOINT_URL"] = endpoint_url
        self._runtime = runtime = load_runtime(model)

        issuer = Issuer(gateway.url, settings.directory)
        gateway.start(HttpApi(model.routes, issuer, runtime.invoke))
        sqs = client("sqs", endpoint_url)
        region = os.environ["AWS_DEFAULT_REGION"]
        self._pollers = [
            Poller(mapping, model.queues[mapping.queue], region, sqs, runtime) for mapping in model.queue_mappings
        ]
        self._timers = [Timer(schedule, region, runtime) for schedule in model.schedules]
        for poller in self._pollers:
            poller.start()
        for timer in self._timers:
            timer.start()

        environment = model.environment()
        self.info = {
            "baseUrl": gateway.url,
            "token": self._token(issuer, model),
            "issuer": gateway.url,
            "simulatorUrl": simulator_url,
            "awsEndpointUrl": endpoint_url,
            "queueUrl": environment.get("REFUND_QUEUE_URL"),
            "deadLetterQueueUrl": environment.get("REFUND_DEAD_LETTER_QUEUE_URL"),
            "ledgerTable": environment.get("LEDGER_TABLE"),
            "auditTable": environment.get("AUDIT_TABLE"),
            "secretName": environment.get("SECRET_PREFIX", "") + environment.get("MERCHANT_ID", ""),
        }
        _write_private(self.token_file, self.info["token"])
        _write_private(self.stack_file, json.dumps(self.info, indent=2) + "\n")
        return self

    def stop(self) -> None:
        with contextlib.suppress(FileNotFoundError, ValueError):
            # Another stack that was started in the same folder has files of its own there.
            if json.loads(self.stack_file.read_text(encoding="utf-8")) == self.info:
                self.stack_file.unlink()
                self.token_file.unlink(missing_ok=True)
        for timer in self._timers:
            timer.stop()
        for poller in self._pollers:
            poller.stop()
        if self._gateway:
            self._gateway.stop()
        for poller in self._pollers:
            poller.join(LONG_POLL_SECONDS + 1)
        if self._runtime and not self._runtime.drain(DRAIN_SECONDS):
            self.say(f"Invocations still running after {DRAIN_SECONDS:g} s are cut off.")
        self._undo.close()

    def say(self, text: str) -> None:
        # A terminal that is gone must not stop the stack.
        with contextlib.suppress(OSError, ValueError):
            print(text, file=self._console, flush=True)

    def _start_aws(self) -> str:
        server = AwsServer(self._settings.host)
        self._undo.callback(server.stop)
        return server.start().url

    def _open_log(self) -> TextIO:
        return self._undo.enter_context(self.functions_log.open("w", encoding="utf-8", buffering=1))

    def _token(self, issuer: Issuer, model: Model) -> str:
        audience = next((route.authorizer.audience[0] for route in model.routes if route.authorizer), "")
        merchant = model.environment().get("MERCHANT_ID")
        return issuer.token(model.scopes, audience=audience, merchant=merchant, ttl_seconds=STACK_TOKEN_TTL_SECONDS)


def _merchant_secrets(model: Model) -> dict[str, str]:
    """What the simulator's merchants sign with, under the names by which the functions look it up."""
    prefix = model.environment().get("SECRET_PREFIX", "")
    return {
        f"{prefix}{merchant}": json.dumps({"apiKey": api_key, "secretKey": secret_key})
        for merchant, (api_key, secret_key) in LOCAL_MERCHANTS.items()
    }


class _LineLog(io.TextIOBase):
    """What handlers print, in whole lines, whichever of their threads prints them."""

    def __init__(self, file: TextIO) -> None:
        self._file = file
        self._lock = threading.Lock()
        self._pending = threading.local()

    def writable(self) -> bool:
        return True

    def write(self, text: str) -> int:
        *lines, rest = (getattr(self._pending, "text", "") + text).split("\n")
        self._pending.text = rest
        if lines:
            with self._lock, contextlib.suppress(ValueError):  # closed: the stack is stopping
                self._file.write("".join(f"{line}\n" for line in lines))
        return len(text)


def _write_private(path: Path, text: str) -> None:
    """At once or not at all, and for nobody else to read: it holds a token."""
    draft = path.with_name(f".{path.name}.{os.getpid()}")
    descriptor = os.open(draft, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600)
    with os.fdopen(descriptor, "w", encoding="utf-8") as file:
        file.write(text)
    draft.replace(path)


def banner(stack: Stack, started_seconds: float) -> str:
    info, model = stack.info, stack.model
    assert model is not None
    shown = {path: _shown(path) for path in (stack.stack_file, stack.token_file, stack.functions_log)}
    parts = [
        f"{len(model.routes)} routes",
        f"{len(model.queue_mappings)} queue{'' if len(model.queue_mappings) == 1 else 's'}",
        f"{len(model.schedules)} schedule{'' if len(model.schedules) == 1 else 's'}",
    ]
    lines = [
        "",
        f"The QRIS gateway is ready at {info['baseUrl']} ({', '.join(parts)}; {started_seconds:.1f} s)",
        f"  Indodana          {info['simulatorUrl'] or 'another upstream, by UPSTREAM_URL'}"
        + (" (the simulator; orders and faults at /_simulator/)" if info["simulatorUrl"] else ""),
        f"  AWS               {info['awsEndpointUrl']} (DynamoDB, SQS, Secrets Manager)",
        f"  functions' logs   {shown[stack.functions_log]}",
        f"  all of it, token  {shown[stack.stack_file]}",
        f"  the API to read   {info['baseUrl']}/docs",
        "",
        "Try in another terminal, in this folder: an order's status, a partial refund, the refunds, the audit timeline",
        "",
        *(f"  {command}" for command in curl_commands(info["baseUrl"], shown[stack.token_file])),
        "",
        "Ctrl-C stops it. Requests:",
    ]
    return "\n".join(lines)


def curl_commands(base_url: str, token_file: str) -> list[str]:
    """One line each, to be pasted into any POSIX shell. Pasted again, the refund is the same refund."""
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


def _shown(path: Path) -> str:
    with contextlib.suppress(ValueError):
        path = path.relative_to(Path.cwd())
    return shlex.quote(str(path))


def main() -> NoReturn:
    """Runs until SIGINT or SIGTERM, which __main__ turns into SystemExit."""
    started = time.monotonic()
    console, status = sys.stdout, 0
    stack: Stack | None = None
    try:
        stack = Stack(Settings.of_environment(os.environ), console)
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
