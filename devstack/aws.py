"""The AWS emulator (moto's server, made safe under concurrency), and provisioning what template.yaml has in it.

    python -m devstack.aws --host 127.0.0.1 --port 5000

keeps it in a process of its own, so that its data outlives the stack that is started with AWS_ENDPOINT_URL.
"""

import argparse
import io
import json
import os
import signal
import socket
import threading
import time
from collections.abc import Callable, Iterable, Mapping
from contextlib import suppress
from types import TracebackType
from typing import TYPE_CHECKING, Any, Self
from urllib.parse import urlsplit
from wsgiref.types import StartResponse, WSGIApplication, WSGIEnvironment

import boto3
import botocore.exceptions
from botocore.config import Config
from moto.moto_server.werkzeug_app import DomainDispatcherApplication, MotoRequestHandler, create_backend_app
from werkzeug.serving import BaseWSGIServer, make_server

from devstack.errors import DevstackError
from devstack.samconfig import DEFAULT_REGION
from devstack.template import Model, Queue, Table

if TYPE_CHECKING:
    from mypy_boto3_dynamodb import DynamoDBClient
    from mypy_boto3_sqs import SQSClient

LONG_POLL_INTERVAL_SECONDS = 0.02
CONNECT_TIMEOUT_SECONDS = 2
# A long poll of SQS holds its answer for up to 20 s.
READ_TIMEOUT_SECONDS = 30

# moto's state belongs to the process, and so do the locks, however many servers it has.
_LOCKS = {"dynamodb": threading.Lock(), "sqs": threading.Lock()}
STOP_POLL_SECONDS = 0.05


class Serialized:
    """WSGI middleware that lets moto work on one DynamoDB request, and on one SQS request, at a time.

    moto has no atomic writes: under concurrency, conditions let too much through, a failing transaction restores
    an old copy of the table, and deleting an SQS message loses those that are sent meanwhile. A long poll would
    keep the queue's lock while it waits, so it is done here: many short polls, the lock free in between.

    `seen` is told of every request's X-Amz-Target: "DynamoDB_20120810.Query".
    """

    def __init__(self, application: WSGIApplication, seen: Callable[[str], None] = lambda _: None) -> None:
        self._application = application
        self._seen = seen

    def __call__(self, environ: WSGIEnvironment, start_response: StartResponse) -> Iterable[bytes]:
        self._seen(environ.get("HTTP_X_AMZ_TARGET", ""))
        lock = _LOCKS.get(_service(environ))
        if lock is None:
            return self._application(environ, start_response)
        # Read before the lock is taken, so that a slow caller delays only itself.
        length = environ.get("CONTENT_LENGTH") or "0"
        body = environ["wsgi.input"].read(int(length)) if length.isdecimal() else b""
        if environ.get("HTTP_X_AMZ_TARGET") == "AmazonSQS.ReceiveMessage":
            return self._receive(environ, body, lock, start_response)
        status, headers, answer = self._once(environ, body, lock)
        start_response(status, headers)
        return [answer]

    def _receive(
        self, environ: WSGIEnvironment, body: bytes, lock: threading.Lock, start_response: StartResponse
    ) -> Iterable[bytes]:
        try:
            request = json.loads(body)
            wait_seconds = float(request.get("WaitTimeSeconds") or 0)
            if 0 < wait_seconds <= 20:
                body = json.dumps(request | {"WaitTimeSeconds": 0}).encode()
        except (AttributeError, TypeError, ValueError):
            wait_seconds = 0  # moto says what is wrong with it
        deadline = time.monotonic() + wait_seconds
        while True:
            status, headers, answer = self._once(environ, body, lock)
            done = not status.startswith("200") or b'"Messages"' in answer
            if done or time.monotonic() >= deadline:
                start_response(status, headers)
                return [answer]
            time.sleep(LONG_POLL_INTERVAL_SECONDS)

    def _once(
        self, environ: WSGIEnvironment, body: bytes, lock: threading.Lock
    ) -> tuple[str, list[tuple[str, str]], bytes]:
        # A fresh environ each time: Flask keeps its parsed request in it.
        fresh = {key: value for key, value in environ.items() if not key.startswith(("werkzeug.", "flask."))}
        fresh |= {"wsgi.input": io.BytesIO(body), "CONTENT_LENGTH": str(len(body))}
        started: list[Any] = []

        def start(status: str, headers: list[tuple[str, str]], _: object = None) -> Any:
            started[:] = [status, headers]

        with lock:
            chunks = self._application(fresh, start)
            try:
                answer = b"".join(chunks)
            finally:
                if hasattr(chunks, "close"):
                    chunks.close()
        return started[0], started[1], answer


def _service(environ: WSGIEnvironment) -> str:
    target = environ.get("HTTP_X_AMZ_TARGET", "")
    if target.startswith("DynamoDB"):
        return "dynamodb"
    return "sqs" if target.startswith("AmazonSQS") else ""


class _RequestHandler(MotoRequestHandler):
    # Otherwise head and body, sent one after the other, wait for the caller's delayed ACK: 40 ms a request.
    disable_nagle_algorithm = True

    def log_request(self, *_: object) -> None:
        """Nothing: a line for each call would hide the stack's own lines."""


class AwsServer:
    """moto's server in a thread of this process; several servers in one process share their data."""

    def __init__(self, host: str = "127.0.0.1", port: int = 0, seen: Callable[[str], None] = lambda _: None) -> None:
        self._server: BaseWSGIServer = _bound(host, port, seen)
        self._thread = threading.Thread(
            target=self._server.serve_forever, args=(STOP_POLL_SECONDS,), name="aws", daemon=True
        )
        self.url = f"http://{advertised_host(host)}:{self._server.port}"

    def start(self) -> Self:
        self._thread.start()
        return self

    def stop(self) -> None:
        if self._thread.is_alive():
            self._server.shutdown()
            self._thread.join()
        self._server.server_close()

    def __enter__(self) -> Self:
        return self.start()

    def __exit__(self, *_: type[BaseException] | BaseException | TracebackType | None) -> None:
        self.stop()


def _bound(host: str, port: int, seen: Callable[[str], None]) -> BaseWSGIServer:
    # Bound here: at a taken port werkzeug would print advice of its own and call sys.exit.
    listener = socket.socket()
    try:
        listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        listener.bind((host, port))
        listener.listen(256)
    except OSError as error:
        listener.close()
        raise DevstackError(f"the AWS emulator cannot listen on {host}:{port}: {error.strerror or error}") from error
    application = Serialized(DomainDispatcherApplication(create_backend_app), seen)
    with listener:
        return make_server(
            host, port, application, threaded=True, request_handler=_RequestHandler, fd=listener.fileno()
        )


def advertised_host(host: str) -> str:
    """The address at which a caller on this machine reaches what listens on `host`."""
    return "127.0.0.1" if host in ("", "0.0.0.0") else host


def prepare_environment(region: str = DEFAULT_REGION) -> None:
    """Lets boto3 work here without an AWS account. Variables that are set stay."""
    os.environ.setdefault("AWS_ACCESS_KEY_ID", "local")
    os.environ.setdefault("AWS_SECRET_ACCESS_KEY", "local")
    os.environ.setdefault("AWS_DEFAULT_REGION", os.environ.get("AWS_REGION", region))
    os.environ.setdefault("AWS_REGION", os.environ["AWS_DEFAULT_REGION"])
    # A profile that is not configured here would make every client fail.
    os.environ.pop("AWS_PROFILE", None)
    # A company's proxy cannot reach this machine's own ports.
    for name in ("NO_PROXY", "no_proxy"):
        own = ["127.0.0.1", "localhost", "172.17.0.1"]
        known = [host for host in os.environ.get(name, "").split(",") if host]
        os.environ[name] = ",".join([*known, *(host for host in own if host not in known)])


def client(service: str, endpoint_url: str) -> Any:
    config = Config(
        connect_timeout=CONNECT_TIMEOUT_SECONDS,
        read_timeout=READ_TIMEOUT_SECONDS,
        retries={"max_attempts": 2, "mode": "standard"},
        max_pool_connections=64,
    )
    return boto3.client(service, endpoint_url=endpoint_url, config=config)  # type: ignore[call-overload]


def provision(
    model: Model, endpoint_url: str, secret_values: Mapping[str, str] | None = None
) -> dict[str, dict[str, str]]:
    """Creates what is missing; what exists is kept with its data. Returns what `Template.model()` takes as `actual`.

    `secret_values` by name come before the template's own values, and may name secrets which the template lacks.
    """
    actual: dict[str, dict[str, str]] = {}
    try:
        dynamodb = client("dynamodb", endpoint_url)
        for table in model.tables.values():
            _provision_table(dynamodb, table)
        sqs = client("sqs", endpoint_url)
        # Dead-letter queues first: a redrive policy names its target's ARN.
        for queue in sorted(model.queues.values(), key=lambda queue: queue.dead_letter_queue is not None):
            actual[queue.logical_id] = _provision_queue(sqs, queue, actual)
        secretsmanager = client("secretsmanager", endpoint_url)
        values = {secret.name: secret.value for secret in model.secrets.values()} | dict(secret_values or {})
        for name, value in values.items():
            with suppress(secretsmanager.exceptions.ResourceExistsException):
                secretsmanager.create_secret(Name=name, SecretString=value)
    except (botocore.exceptions.BotoCoreError, botocore.exceptions.ClientError) as error:
        raise DevstackError(f"the AWS endpoint {endpoint_url} refused what the stack needs: {error}") from error
    return actual


def store_secret(endpoint_url: str, name: str, value: str) -> None:
    """Replaces what an earlier stack may have stored there."""
    try:
        client("secretsmanager", endpoint_url).put_secret_value(SecretId=name, SecretString=value)
    except (botocore.exceptions.BotoCoreError, botocore.exceptions.ClientError) as error:
        raise DevstackError(f"the AWS endpoint {endpoint_url} could not store the secret {name}: {error}") from error


def _provision_table(dynamodb: "DynamoDBClient", table: Table) -> None:
    with suppress(dynamodb.exceptions.ResourceInUseException):
        dynamodb.create_table(TableName=table.name, **table.definition)
    dynamodb.get_waiter("table_exists").wait(TableName=table.name, WaiterConfig={"Delay": 1, "MaxAttempts": 20})
    found = dynamodb.describe_table(TableName=table.name)["Table"]
    if _keys(found) != _keys(table.definition):
        raise DevstackError(
            f"the table {table.name} exists with other keys or indexes than in template.yaml; "
            "start with an empty AWS endpoint, or delete the table"
        )


def _keys(table: Any) -> dict[str, set[tuple[str, str]]]:
    schemas = {"": table["KeySchema"]}
    for kind in ("GlobalSecondaryIndexes", "LocalSecondaryIndexes"):
        schemas |= {index["IndexName"]: index["KeySchema"] for index in table.get(kind) or []}
    return {name: {(key["AttributeName"], key["KeyType"]) for key in schema} for name, schema in schemas.items()}


def _provision_queue(sqs: "SQSClient", queue: Queue, actual: Mapping[str, Mapping[str, str]]) -> dict[str, str]:
    attributes: dict[str, str] = dict(queue.attributes)
    if queue.dead_letter_queue:
        target = actual.get(queue.dead_letter_queue)
        if target is None:
            raise DevstackError(f"{queue.logical_id}'s dead-letter queue has one of its own, which is not supported")
        policy = {"deadLetterTargetArn": target["Arn"], "maxReceiveCount": queue.max_receive_count}
        attributes["RedrivePolicy"] = json.dumps(policy)
    try:
        url = sqs.get_queue_url(QueueName=queue.name)["QueueUrl"]
        # A queue that is kept still follows the template; its messages stay.
        if attributes:
            sqs.set_queue_attributes(QueueUrl=url, Attributes=attributes)  # type: ignore[arg-type]
    except sqs.exceptions.QueueDoesNotExist:
        url = sqs.create_queue(QueueName=queue.name, Attributes=attributes)["QueueUrl"]  # type: ignore[arg-type]
    arn = sqs.get_queue_attributes(QueueUrl=url, AttributeNames=["QueueArn"])["Attributes"]["QueueArn"]
    return {"Ref": url, "QueueUrl": url, "Arn": arn, "QueueName": queue.name}


def checked_endpoint(url: str) -> str:
    """AWS_ENDPOINT_URL. Refused unless it is an emulator's, for the stack creates tables and queues there."""
    parts = urlsplit(url)
    if parts.scheme not in ("http", "https") or not parts.hostname:
        raise DevstackError(f"AWS_ENDPOINT_URL is {url!r}, not a URL like http://127.0.0.1:5000")
    if parts.hostname.endswith(("amazonaws.com", "api.aws")):
        raise DevstackError(f"AWS_ENDPOINT_URL is {url}, AWS itself; deploy with `sam deploy` instead")
    return url.rstrip("/")


def main(arguments: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(prog="python -m devstack.aws", description="The AWS emulator, alone.")
    parser.add_argument("--host", default="127.0.0.1")
    parser.add_argument("--port", type=int, default=5000, help="0 picks a free one (default: %(default)s)")
    options = parser.parse_args(arguments)
    stop = threading.Event()
    for number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(number, lambda *_: stop.set())
    try:
        server = AwsServer(options.host, options.port)
    except (DevstackError, OverflowError) as error:
        parser.exit(1, f"{error}\n")
    with server:
        print(f"The AWS emulator (DynamoDB, SQS, Secrets Manager) listens on {server.url}", flush=True)
        print(f"Start the stack with AWS_ENDPOINT_URL={server.url}; its data is kept until Ctrl-C here.", flush=True)
        stop.wait()
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
