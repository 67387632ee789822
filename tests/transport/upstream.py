"""An upstream over real sockets that does on each connection what a test tells it, and clients for it."""

from __future__ import annotations

import json
import socket
import ssl
import struct
import threading
import time
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass, field
from datetime import UTC, datetime
from decimal import Decimal
from functools import wraps
from pathlib import Path
from typing import Any, Self
from urllib.parse import parse_qs, urlsplit

import pytest

from indodana import Cancellation, CredentialStore, IndodanaClient, IndodanaError, Timeouts
from testkit.certificates import self_signed

NOW = datetime(2019, 9, 26, 6, 24, 26, tzinfo=UTC).timestamp()
KEY, SECRET = "the-api-key", "the-secret-key"
PAID = {
    "status": "OK",
    "transactionStatus": "PAID",
    "merchantOrderId": "ORDER-1",
    "transactionId": "T-1",
    "amount": 4500000,
    "paymentType": "3_months",
    "transactionTime": "2019-09-26T06:24:26+0000",
    "fraudStatus": "ACCEPT",
    "legalName": "Budi Santoso",
    "indodanaUserId": "user-42",
}

type Act = Callable[[socket.socket], object]
"""What the upstream does on the connection once it has read the request; the connection closes after it."""


def http(status: int = 200, body: object = None, *headers: str) -> bytes:
    content = body.encode() if isinstance(body, str) else body if isinstance(body, bytes) else json.dumps(body).encode()
    head = [f"HTTP/1.1 {status} Whatever", f"Content-Length: {len(content)}", *headers]
    return "\r\n".join(head).encode() + b"\r\n\r\n" + content


def error(status: int, kind: str = "SomeError", message: object = "what happened", *headers: str) -> bytes:
    return http(status, {"status": "ERROR", "error": {"kind": kind, "message": message}}, *headers)


OK = http(body={"status": "OK"})
UNAUTHORIZED = error(401, "FailedAuthError")
TRUNCATED = b'HTTP/1.1 200 OK\r\nContent-Length: 999\r\n\r\n{"status": "OK"}'
HINTS = b"HTTP/1.1 103 Early Hints\r\nLink: </style.css>; rel=preload\r\n\r\n"


def reset(sock: socket.socket) -> None:
    sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))


def close(sock: socket.socket) -> None:
    pass


def hang(sock: socket.socket) -> None:
    sock.settimeout(5)
    while sock.recv(65_536):  # until the client gives up
        pass


def sends(*parts: bytes, pause: float = 0, then: Act = close) -> Act:
    def act(sock: socket.socket) -> None:
        for part in parts:
            sock.sendall(part)
            time.sleep(pause)
        then(sock)

    return act


@dataclass
class Received:
    method: str
    target: str
    headers: dict[str, str]
    body: bytes
    connection: int

    @property
    def query(self) -> dict[str, list[str]]:
        return parse_qs(urlsplit(self.target).query, strict_parsing=True)


@dataclass
class Upstream:
    """An HTTP server that answers its n-th request with the n-th answer, and all later ones with the last."""

    answers: list[bytes | Act]
    tls: ssl.SSLContext | None = None
    on_connect: Act | None = None
    received: list[Received] = field(default_factory=list)
    connections: int = 0

    def __post_init__(self) -> None:
        self._lock = threading.Lock()
        self._open: list[socket.socket] = []
        self._listener = socket.create_server(("127.0.0.1", 0))
        self.port = self._listener.getsockname()[1]
        self._threads = [threading.Thread(target=self._accept, daemon=True)]
        self._threads[0].start()

    @property
    def url(self) -> str:
        return f"{'https' if self.tls else 'http'}://127.0.0.1:{self.port}/chermes/merchant"

    def stop(self) -> None:
        self._listener.shutdown(socket.SHUT_RDWR)
        self._listener.close()
        with self._lock:
            for sock in self._open:
                with suppress(OSError):
                    sock.shutdown(socket.SHUT_RDWR)
        for thread in self._threads:
            thread.join(5)

    def _accept(self) -> None:
        while True:
            try:
                sock, _ = self._listener.accept()
            except OSError:
                return
            with self._lock:
                self.connections += 1
                self._open.append(sock)
                thread = threading.Thread(target=self._serve, args=(sock, self.connections), daemon=True)
                self._threads.append(thread)
            thread.start()

    def _serve(self, sock: socket.socket, connection: int) -> None:
        try:
            if self.on_connect is not None:
                self.on_connect(sock)
                return
            if self.tls is not None:
                sock = self.tls.wrap_socket(sock, server_side=True)
            with sock.makefile("rb") as reader:
                while received := self._read(reader, connection):
                    with self._lock:
                        self.received.append(received)
                        answer = self.answers[min(len(self.received), len(self.answers)) - 1]
                    if not isinstance(answer, bytes):
                        answer(sock)
                        return
                    sock.sendall(answer)
        except OSError:
            pass
        finally:
            sock.close()

    @staticmethod
    def _read(reader: Any, connection: int) -> Received | None:
        first = reader.readline().decode().split()
        if not first:
            return None
        headers: dict[str, str] = {}
        while line := reader.readline().decode().strip():
            name, _, value = line.partition(":")
            headers[name.lower()] = value.strip()
        body = reader.read(int(headers.get("content-length", 0)))
        return Received(first[0], first[1], headers, body, connection)


class Secrets:
    """Secrets Manager, with one key pair for every merchant."""

    def __init__(self, key: str = KEY, secret: str = SECRET) -> None:
        self.pair = {"apiKey": key, "secretKey": secret}
        self.reads = 0
        self.seconds = 0.0

    def get_secret_value(self, **_: str) -> dict[str, str]:
        self.reads += 1
        if self.reads > 1:
            time.sleep(self.seconds)
        return {"SecretString": json.dumps(self.pair)}


@dataclass
class Clock:
    now: float = NOW

    def __call__(self) -> float:
        return self.now


class World:
    """Makes upstreams and clients, and takes them down."""

    def __init__(self) -> None:
        self.secrets = Secrets()
        self.clock = Clock()
        self._ends: list[Callable[[], None]] = []

    def upstream(
        self, *answers: bytes | Act, tls: ssl.SSLContext | None = None, on_connect: Act | None = None
    ) -> Upstream:
        made = Upstream(list(answers), tls, on_connect)
        self._ends.append(made.stop)
        return made

    def client(self, upstream: Upstream | str, **options: Any) -> IndodanaClient:
        store = CredentialStore(self.secrets, "gateway/")  # type: ignore[arg-type]
        options.setdefault("timeouts", Timeouts(connect=2, status_read=2, cancel_read=2))
        url = upstream if isinstance(upstream, str) else upstream.url
        made = IndodanaClient(url, store, clock=self.clock, **options)
        self._ends.append(made.close)
        return made

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        for end in reversed(self._ends):
            end()


def cancellation(**changes: Any) -> Cancellation:
    date = datetime(2019, 9, 12, 11, 18, 18, 999_999, tzinfo=UTC)
    defaults = {
        "refund_id": "R-1",
        "merchant_order_id": "ORDER-1",
        "amount": Decimal("100000"),
        "reason": "Out of Stock",
        "cancelled_by": "till 7",
        "date": date,
    }
    return Cancellation(**{**defaults, **changes})


def status_of(client: IndodanaClient) -> Any:
    return client.check_status("m1", "ORDER-1")


def cancel_on(client: IndodanaClient) -> Any:
    return client.cancel("m1", cancellation())


def error_of(world: World, call: Callable[[IndodanaClient], Any], answer: bytes | Act) -> IndodanaError:
    upstream = world.upstream(answer)
    with pytest.raises(IndodanaError) as caught:
        call(world.client(upstream))
    assert len(upstream.received) == 1, "asked again"
    return caught.value


def outcome_of(call: Callable[[], Any]) -> int | None:
    """The status of the answer that a cancellation was given."""
    try:
        status: int = call().http_status
    except IndodanaError as failure:
        return failure.http_status
    return status


both_calls = pytest.mark.parametrize("call", [status_of, cancel_on])


def undisturbed[**P](test: Callable[P, None]) -> Callable[P, None]:
    """For a test that measures time: made again, three times at most in all, where it fails.

    A machine that stands still for a moment fails one run; a mistake in the client fails each.
    """

    @wraps(test)
    def repeated(*args: P.args, **options: P.kwargs) -> None:
        for _ in range(2):
            try:
                return test(*args, **options)
            except (AssertionError, IndodanaError, pytest.fail.Exception):
                continue
        return test(*args, **options)

    return repeated


def certificate(tmp_path: Path) -> tuple[ssl.SSLContext, ssl.SSLContext]:
    """A server's TLS with a self-signed certificate for 127.0.0.1, and a client's that trusts it."""
    path = self_signed(tmp_path)
    server = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    server.load_cert_chain(path)
    return server, ssl.create_default_context(cafile=path)


def refused_port() -> int:
    with socket.create_server(("127.0.0.1", 0)) as listener:
        return int(listener.getsockname()[1])
