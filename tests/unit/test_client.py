import json
import logging
import socket
import ssl
import struct
import threading
import time
import traceback
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from decimal import Decimal
from email.utils import format_datetime
from pathlib import Path
from typing import Any
from urllib.parse import parse_qs, urlsplit

import pytest
import simplejson

from indodana import (
    AnswerTimedOut,
    AnswerUnreadable,
    Cancellation,
    ConnectionFailed,
    ConnectionLost,
    ConnectTimedOut,
    Credentials,
    CredentialsRejected,
    CredentialStore,
    CredentialsUnavailable,
    IndodanaClient,
    IndodanaError,
    NotSent,
    OutcomeUnknown,
    RateLimited,
    Refused,
    ServerFailed,
    Timeouts,
    authorization,
)
from indodana.transport import IDLE_SECONDS
from tests.unit.certificates import self_signed

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

    def end(self) -> None:
        for end in reversed(self._ends):
            end()


@pytest.fixture
def world() -> Iterator[World]:
    made = World()
    yield made
    made.end()


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


both_calls = pytest.mark.parametrize("call", [status_of, cancel_on])


def refused_port() -> int:
    with socket.create_server(("127.0.0.1", 0)) as listener:
        return int(listener.getsockname()[1])


# What goes out


def test_check_status_is_asked_as_documented(world: World) -> None:
    upstream = world.upstream(http(body=PAID))
    world.client(upstream).check_status("m1", "ORDER-1")
    [request] = upstream.received
    assert request.method == "GET"
    assert request.target == "/chermes/merchant/v1/transactions/qris/check_status?merchantOrderId=ORDER-1"
    assert request.headers["authorization"] == authorization(Credentials(KEY, SECRET), "1569479066")
    assert request.body == b""


def test_every_character_of_an_order_id_arrives(world: World) -> None:
    order = "aZ09=.-_+@:&^%!$%41 é/?#"
    upstream = world.upstream(http(body={**PAID, "merchantOrderId": order}))
    assert world.client(upstream).check_status("m1", order).transaction_status == "PAID"
    assert upstream.received[0].query == {"merchantOrderId": [order]}


def test_a_cancellation_is_posted_as_documented(world: World) -> None:
    upstream = world.upstream(OK)
    world.client(upstream).cancel("m1", cancellation())
    [request] = upstream.received
    assert (request.method, request.target) == ("POST", "/chermes/merchant/v3/order_cancellation")
    assert request.headers["content-type"] == "application/json"
    assert request.headers["authorization"] == authorization(Credentials(KEY, SECRET), "1569479066")
    assert json.loads(request.body) == {
        "refundId": "R-1",
        "merchantOrderId": "ORDER-1",
        "cancellationAmount": 100000,
        "cancellationReason": "Out of Stock",
        "cancelledBy": "till 7",
        "cancellationDate": "2019-09-12T18:18:18+07:00",
    }


@pytest.mark.parametrize(
    ("amount", "spelled"),
    [
        ("1000", "1000"),
        ("1000.00", "1000"),
        ("1E+5", "100000"),
        ("0.05", "0.05"),
        ("1.5", "1.50"),
        ("1.500", "1.50"),
        ("99999999999999.99", "99999999999999.99"),
        ("9007199254740.93", "9007199254740.93"),
    ],
)
def test_an_amount_goes_out_exactly_and_in_plain_digits(world: World, amount: str, spelled: str) -> None:
    upstream = world.upstream(OK)
    world.client(upstream).cancel("m1", cancellation(amount=Decimal(amount)))
    assert f'"cancellationAmount": {spelled},'.encode() in upstream.received[0].body
    assert simplejson.loads(upstream.received[0].body, use_decimal=True)["cancellationAmount"] == Decimal(amount)


@pytest.mark.parametrize("amount", ["0", "-1", "0.001", "NaN", "Infinity", "100000000000000", "1E+999999", "1E-999999"])
def test_what_is_no_amount_of_money_cannot_be_cancelled(amount: str) -> None:
    with pytest.raises(ValueError, match="amount"):
        cancellation(amount=Decimal(amount))


def test_an_amount_with_more_digits_than_the_decimal_context_is_not_rounded_into_one() -> None:
    with pytest.raises(ValueError, match="amount"):
        cancellation(amount=Decimal("1000." + "0" * 40 + "1"))


def test_a_float_or_a_time_without_offset_cannot_be_cancelled() -> None:
    with pytest.raises(ValueError, match="amount"):
        cancellation(amount=1000.0)
    with pytest.raises(ValueError, match="offset"):
        cancellation(date=datetime(2019, 9, 12))  # noqa: DTZ001


def test_versions_are_configuration(world: World) -> None:
    upstream = world.upstream(http(body=PAID), OK)
    client = world.client(upstream, status_version="v7", cancellation_version="v9")
    status_of(client)
    cancel_on(client)
    assert [urlsplit(request.target).path for request in upstream.received] == [
        "/chermes/merchant/v7/transactions/qris/check_status",
        "/chermes/merchant/v9/order_cancellation",
    ]


@pytest.mark.parametrize(
    "url", ["", "ftp://host/x", "host/x", "http://", "http://user:pass@host/x", "http://host/?a=b"]
)
def test_a_base_url_that_cannot_work_is_found_at_start(world: World, url: str) -> None:
    with pytest.raises(ValueError, match="base_url"):
        world.client(url)


def test_neither_netrc_nor_proxies_of_the_environment_are_used(
    world: World, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    netrc = tmp_path / "netrc"
    netrc.write_text("machine 127.0.0.1 login intruder password intruder\n", encoding="utf-8")
    monkeypatch.setenv("NETRC", str(netrc))
    monkeypatch.setenv("HTTP_PROXY", f"http://127.0.0.1:{refused_port()}")
    upstream = world.upstream(http(body=PAID))
    status_of(world.client(upstream))
    assert upstream.received[0].headers["authorization"].startswith(f"Bearer {KEY}:")


def test_cookies_of_the_upstream_are_not_kept(world: World) -> None:
    upstream = world.upstream(http(200, PAID, "Set-Cookie: session=1; Path=/"))
    client = world.client(upstream)
    status_of(client)
    status_of(client)
    assert "cookie" not in upstream.received[1].headers


# What comes back


@pytest.mark.parametrize("status", ["INITIATED", "EXPIRED", "PAID", "REJECTED", "SOMETHING_NEW"])
def test_every_transaction_status_is_passed_on(world: World, status: str) -> None:
    upstream = world.upstream(http(body={**PAID, "transactionStatus": status}))
    assert status_of(world.client(upstream)).transaction_status == status


def test_a_status_carries_the_documented_fields_as_they_came(world: World) -> None:
    body = json.dumps({**PAID, "internalNote": "not documented"}).replace("4500000", "9007199254740.93")
    answer = status_of(world.client(world.upstream(http(body=body))))
    assert answer.amount == Decimal("9007199254740.93")
    expected = {name: value for name, value in PAID.items() if name != "status"}
    assert answer.fields == {**expected, "amount": Decimal("9007199254740.93")}
    assert "Budi" not in repr(answer)
    assert "user-42" not in repr(answer)


def test_a_status_without_amount_has_none(world: World) -> None:
    upstream = world.upstream(http(body={"status": "OK", "transactionStatus": "INITIATED"}))
    answer = status_of(world.client(upstream))
    assert answer.amount is None
    assert answer.fields == {"transactionStatus": "INITIATED"}


def test_an_accepted_cancellation_keeps_the_answer_verbatim(world: World) -> None:
    body = '{ "status":"OK", "extra": 1.50, "legalName": "Budi Santoso" }'
    accepted = cancel_on(world.client(world.upstream(http(body=body))))
    assert (accepted.http_status, accepted.body) == (200, body)
    assert "Budi" not in repr(accepted)


@pytest.mark.parametrize(
    ("status", "expected", "family"),
    [
        (400, Refused, Refused),
        (401, CredentialsRejected, NotSent),
        (403, Refused, Refused),
        (404, Refused, Refused),
        (409, Refused, Refused),
        (422, Refused, Refused),
        (429, RateLimited, NotSent),
        (500, ServerFailed, OutcomeUnknown),
        (502, ServerFailed, OutcomeUnknown),
        (503, ServerFailed, OutcomeUnknown),
        (504, ServerFailed, OutcomeUnknown),
        (599, ServerFailed, OutcomeUnknown),
        (200, AnswerUnreadable, OutcomeUnknown),
        (302, AnswerUnreadable, OutcomeUnknown),
        (304, AnswerUnreadable, OutcomeUnknown),
        (402, AnswerUnreadable, OutcomeUnknown),
        (408, AnswerUnreadable, OutcomeUnknown),
        (418, AnswerUnreadable, OutcomeUnknown),
        (600, AnswerUnreadable, OutcomeUnknown),
    ],
)
@both_calls
def test_an_error_answer_is_sorted_by_its_status(
    world: World,
    call: Callable[[IndodanaClient], Any],
    status: int,
    expected: type[IndodanaError],
    family: type[IndodanaError],
) -> None:
    message = {"legalName": ["Budi Santoso"], "amount": 1.5}
    answer = error(status, "NotFoundError", message)
    upstream = world.upstream(answer)
    with pytest.raises(expected) as caught:
        call(world.client(upstream))
    assert type(caught.value) is expected
    assert isinstance(caught.value, family)
    assert len(upstream.received) == 1, "asked again"
    assert caught.value.http_status == status
    if status != 304:  # which has no body
        assert caught.value.kind == "NotFoundError"
        assert caught.value.message == {"legalName": ["Budi Santoso"], "amount": Decimal("1.5")}
        assert caught.value.body == answer.partition(b"\r\n\r\n")[2].decode()
        assert "NotFoundError" in str(caught.value)
    assert str(status) in str(caught.value)
    assert "Budi" not in str(caught.value) + repr(caught.value)


@pytest.mark.parametrize("status", [400, 401, 403, 404, 409, 422, 429, 500, 503])
@pytest.mark.parametrize("body", ["", "<html>Budi Santoso</html>", "null", '{"error": []}', '{"error": {"kind": 1}}'])
def test_an_error_answer_is_sorted_by_its_status_whatever_its_body(world: World, status: int, body: str) -> None:
    expected = {401: CredentialsRejected, 429: RateLimited, 500: ServerFailed, 503: ServerFailed}.get(status, Refused)
    with pytest.raises(expected) as caught:
        cancel_on(world.client(world.upstream(http(status, body))))
    assert (caught.value.kind, caught.value.message, caught.value.body) == (None, None, body)
    assert "Budi" not in str(caught.value)


def test_a_kind_that_is_none_stays_out_of_the_text(world: World) -> None:
    with pytest.raises(Refused) as caught:
        cancel_on(world.client(world.upstream(error(400, "Budi Santoso is unknown"))))
    assert caught.value.kind == "Budi Santoso is unknown"
    assert "Budi" not in str(caught.value)


@pytest.mark.parametrize(
    "body",
    [
        "",
        "<html>502 Bad Gateway</html>",
        "OK",
        "null",
        "[]",
        '"OK"',
        "{}",
        '{"status": "ok"}',
        '{"status": true}',
        '{"status": "OK"',
        '{"status": "OK", "amount": NaN}',
        '{"status": "OK", "amount": 1e99999999999999999999}',
        '{"status": "OK", "merchantOrderId": "ORDER-2"}',
        '{"status": "OK", "merchantOrderId": 1}',
        '{"status": "OK", "merchantOrderId": null}',
        b"\xff\xfe\x00",
        '{"status": "OK", "a": ' + "[" * 30_000,
        '{"status": "OK", "a": "' + "x" * 70_000 + '"}',
    ],
    ids=lambda body: str(body[:40]),
)
@both_calls
def test_a_200_that_makes_no_sense_leaves_the_outcome_unknown(
    world: World, call: Callable[[IndodanaClient], Any], body: str | bytes
) -> None:
    with pytest.raises(AnswerUnreadable) as caught:
        call(world.client(world.upstream(http(200, body))))
    assert caught.value.http_status == 200
    expected = body if isinstance(body, str) else body.decode("utf-8", "replace")
    assert caught.value.body == expected[: 64 * 1024]


@pytest.mark.parametrize(
    "change",
    [
        {"transactionStatus": None},
        {"transactionStatus": ""},
        {"transactionStatus": 1},
        {"transactionStatus": "\ud800"},
        {"amount": "4500000"},
        {"amount": True},
        {"amount": -1},
        {"amount": 1.234},
        {"amount": 10**14},
        {"amount": []},
    ],
    ids=str,
)
def test_a_status_with_a_field_that_cannot_be_used_is_unreadable(world: World, change: dict[str, Any]) -> None:
    with pytest.raises(AnswerUnreadable):
        status_of(world.client(world.upstream(http(body={**PAID, **change}))))


def test_a_byte_order_mark_does_not_matter(world: World) -> None:
    cancel_on(world.client(world.upstream(http(body=b"\xef\xbb\xbf" + b'{"status":"OK"}'))))


def test_a_chunked_answer_is_read(world: World) -> None:
    chunked = b'HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n5\r\n{"sta\r\na\r\ntus":"OK"}\r\n0\r\n\r\n'
    upstream = world.upstream(chunked)
    client = world.client(upstream)
    cancel_on(client)
    cancel_on(client)
    assert upstream.connections == 1


@pytest.mark.parametrize("location", ["http://127.0.0.1:1/elsewhere", "/v3/order_cancellation", "http://[", "\x7f"])
@pytest.mark.parametrize("status", [301, 302, 303, 307, 308])
def test_a_redirect_is_not_followed_nor_looked_at(world: World, status: int, location: str) -> None:
    upstream = world.upstream(http(status, "", f"Location: {location}"))
    with pytest.raises(AnswerUnreadable):
        cancel_on(world.client(upstream))
    assert len(upstream.received) == 1


@pytest.mark.parametrize(
    ("header", "seconds"),
    [
        ("7", 7),
        ("0", 0),
        ("999999999999", 3600),
        ("9" * 5000, 3600),
        ("-5", None),
        ("1.5", None),
        ("soon", None),
        ("", None),
        ("nan", None),
        ("²", None),
        (format_datetime(datetime.fromtimestamp(NOW, UTC) + timedelta(seconds=90), usegmt=True), 90),
        (format_datetime(datetime.fromtimestamp(NOW, UTC) - timedelta(seconds=90), usegmt=True), 0),
        (format_datetime(datetime.fromtimestamp(NOW, UTC) + timedelta(days=90), usegmt=True), 3600),
        ("Thu, 26 Sep 2019 06:25:26 -0000", 60),
        ("Thu, 99 Sep 99999 06:25:26 GMT", None),
    ],
)
def test_retry_after_is_seconds_or_a_date_within_reason(world: World, header: str, seconds: float | None) -> None:
    answer = error(429, "TooManyRequests", "slow down", f"Retry-After: {header}")
    with pytest.raises(RateLimited) as caught:
        cancel_on(world.client(world.upstream(answer)))
    assert caught.value.retry_after_seconds == seconds


def test_a_server_error_carries_its_retry_after_too(world: World) -> None:
    with pytest.raises(ServerFailed) as caught:
        cancel_on(world.client(world.upstream(http(503, "", "Retry-After: 30"))))
    assert caught.value.retry_after_seconds == 30


# No answer: surely not sent


@both_calls
def test_a_refused_connection_is_surely_not_sent(world: World, call: Callable[[IndodanaClient], Any]) -> None:
    with pytest.raises(ConnectionFailed) as caught:
        call(world.client(f"http://127.0.0.1:{refused_port()}"))
    assert type(caught.value) is ConnectionFailed
    assert isinstance(caught.value, NotSent)
    assert caught.value.http_status is None


@pytest.mark.parametrize("host", ["does-not-exist.invalid", "a..b", "x" * 70 + ".invalid"])
def test_a_host_without_address_is_surely_not_sent(world: World, host: str) -> None:
    with pytest.raises(ConnectionFailed) as caught:
        cancel_on(world.client(f"http://{host}"))
    assert type(caught.value) is ConnectionFailed


def certificate(tmp_path: Path) -> tuple[ssl.SSLContext, ssl.SSLContext]:
    """A server's TLS with a self-signed certificate for 127.0.0.1, and a client's that trusts it."""
    path = self_signed(tmp_path)
    server = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    server.load_cert_chain(path)
    return server, ssl.create_default_context(cafile=path)


@both_calls
def test_a_certificate_that_is_not_trusted_is_surely_not_sent(
    world: World, call: Callable[[IndodanaClient], Any], tmp_path: Path
) -> None:
    server, _ = certificate(tmp_path)
    upstream = world.upstream(http(body=PAID), tls=server)
    with pytest.raises(ConnectionFailed, match="self-signed") as caught:
        call(world.client(upstream))
    assert type(caught.value) is ConnectionFailed
    assert upstream.received == []


def test_a_certificate_for_another_host_is_surely_not_sent(world: World, tmp_path: Path) -> None:
    server, trusting = certificate(tmp_path)
    upstream = world.upstream(OK, tls=server)
    with pytest.raises(ConnectionFailed, match="localhost"):
        cancel_on(world.client(upstream.url.replace("127.0.0.1", "localhost"), ssl_context=trusting))
    assert upstream.received == []


@pytest.mark.parametrize("act", [sends(b"HTTP/1.1 200 OK\r\n\r\n"), close, reset], ids=["not TLS", "closed", "reset"])
def test_a_tls_handshake_that_breaks_is_surely_not_sent(world: World, act: Act, tmp_path: Path) -> None:
    upstream = world.upstream(OK, tls=certificate(tmp_path)[0], on_connect=act)
    with pytest.raises(ConnectionFailed) as caught:
        cancel_on(world.client(upstream))
    assert type(caught.value) is ConnectionFailed


def test_a_tls_handshake_that_hangs_is_surely_not_sent(world: World, tmp_path: Path) -> None:
    upstream = world.upstream(OK, tls=certificate(tmp_path)[0], on_connect=hang)
    started = time.monotonic()
    with pytest.raises(ConnectTimedOut) as caught:
        cancel_on(world.client(upstream, timeouts=Timeouts(connect=0.15)))
    assert isinstance(caught.value, NotSent)
    assert time.monotonic() - started < 1


def test_a_hosts_second_address_is_tried(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    upstream = world.upstream(OK)
    resolve = socket.getaddrinfo

    def two_addresses(host: str, *args: Any, **options: Any) -> Any:
        if host != "upstream.test":
            return resolve(host, *args, **options)
        return [*resolve("127.0.0.2", *args, **options), *resolve("127.0.0.1", *args, **options)]

    monkeypatch.setattr(socket, "getaddrinfo", two_addresses)
    cancel_on(world.client(f"http://upstream.test:{upstream.port}"))


def test_time_to_connect_is_shared_by_a_hosts_addresses(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    def five_addresses(*args: Any, **options: Any) -> Any:
        return [(socket.AF_INET, socket.SOCK_STREAM, 6, "", ("192.0.2.1", 80))] * 5

    def nobody_answers(address: object, seconds: float, **options: Any) -> None:
        tried.append(address)
        time.sleep(seconds)
        raise TimeoutError

    tried: list[object] = []
    monkeypatch.setattr("socket.getaddrinfo", five_addresses)
    monkeypatch.setattr("indodana.transport.create_connection", nobody_answers)
    started = time.monotonic()
    with pytest.raises(ConnectTimedOut):
        cancel_on(world.client("http://upstream.test", timeouts=Timeouts(connect=0.2)))
    assert time.monotonic() - started < 0.4
    assert tried == [("192.0.2.1", 80)] * 5


def test_no_credentials_means_nothing_was_sent(world: World) -> None:
    world.secrets.pair = {}
    upstream = world.upstream(OK)
    with pytest.raises(CredentialsUnavailable, match="gateway/m1"):
        cancel_on(world.client(upstream))
    assert upstream.connections == 0


# No answer: nobody knows

TRUNCATED = b'HTTP/1.1 200 OK\r\nContent-Length: 999\r\n\r\n{"status": "OK"}'
SLOWLY = {"pause": 0.05}


@pytest.mark.parametrize(
    ("act", "expected"),
    [
        (reset, ConnectionLost),
        (close, ConnectionLost),
        (hang, AnswerTimedOut),
        (sends(b"HTTP/1.1 200 OK\r\nContent-Le"), AnswerUnreadable),
        (sends(b"HTTP/1.1 200 OK\r\nContent-Le", then=hang), AnswerTimedOut),
        (sends(TRUNCATED), ConnectionLost),
        (sends(TRUNCATED, pause=0.05, then=reset), ConnectionLost),
        (sends(TRUNCATED, then=hang), AnswerTimedOut),
        (sends(*[bytes([byte]) for byte in OK], **SLOWLY), AnswerTimedOut),  # type: ignore[arg-type]
        (sends(OK[:-15], *[bytes([byte]) for byte in OK[-15:]], **SLOWLY), AnswerTimedOut),  # type: ignore[arg-type]
        (sends(b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n5\r\n{"), ConnectionLost),
        (sends(b"HTTP/1.1 100 Continue\r\n\r\n", then=hang), AnswerTimedOut),
        (sends(b"legalName: Budi Santoso\r\n\r\n"), AnswerUnreadable),
        (sends(b"HTTP/1.1 200 OK\r\n" + b"X: y\r\n" * 200 + b"\r\n"), AnswerUnreadable),
        (sends(b"HTTP/1.1 200 OK\r\nX: " + b"y" * 70_000 + b"\r\n\r\n"), AnswerUnreadable),
        (sends(b"HTTP/1.1 200 OK\r\nContent-Encoding: gzip\r\nContent-Length: 4\r\n\r\nBudi"), AnswerUnreadable),
    ],
    ids=[
        "reset",
        "closed",
        "hangs",
        "closes in the headers",
        "hangs in the headers",
        "closes in the body",
        "resets in the body",
        "hangs in the body",
        "trickles the headers",
        "trickles the body",
        "closes in a chunk",
        "hangs after 100",
        "not HTTP",
        "too many headers",
        "a header too long",
        "not gzip",
    ],
)
@pytest.mark.parametrize(("call", "tls"), [(status_of, False), (cancel_on, True)], ids=["status http", "cancel https"])
def test_an_answer_that_fails_after_the_request_leaves_the_outcome_unknown(
    world: World,
    call: Callable[[IndodanaClient], Any],
    tls: bool,
    act: Act,
    expected: type[IndodanaError],
    tmp_path: Path,
) -> None:
    server, trusting = certificate(tmp_path) if tls else (None, None)
    upstream = world.upstream(act, tls=server)
    started = time.monotonic()
    timeouts = Timeouts(connect=2, status_read=0.25, cancel_read=0.25)
    with pytest.raises(expected) as caught:
        call(world.client(upstream, ssl_context=trusting, timeouts=timeouts))
    assert time.monotonic() - started < 1, "not within the read timeout as a total"
    assert isinstance(caught.value, OutcomeUnknown)
    assert len(upstream.received) == 1, "sent again"
    assert "Budi" not in "".join(traceback.format_exception(caught.value))


def test_a_hang_after_a_late_start_ends_with_the_whole_answers_time(world: World) -> None:
    def act(sock: socket.socket) -> None:
        time.sleep(0.4)
        sock.sendall(TRUNCATED)
        hang(sock)

    started = time.monotonic()
    with pytest.raises(AnswerTimedOut):
        cancel_on(world.client(world.upstream(act), timeouts=Timeouts(cancel_read=0.5)))
    assert time.monotonic() - started < 0.8


@pytest.mark.parametrize(("status", "expected"), [(404, Refused), (429, RateLimited), (500, ServerFailed)])
@pytest.mark.parametrize("then", [close, hang])
def test_an_error_status_counts_though_its_body_breaks_off(
    world: World, status: int, expected: type[IndodanaError], then: Act
) -> None:
    act = sends(f"HTTP/1.1 {status} X\r\nContent-Length: 999\r\n\r\n<html>".encode(), then=then)
    with pytest.raises(expected):
        cancel_on(world.client(world.upstream(act), timeouts=Timeouts(cancel_read=0.15)))


def test_a_reset_while_an_earlier_failure_is_handled_is_still_unknown(world: World) -> None:
    refused = world.client(f"http://127.0.0.1:{refused_port()}")
    resetting = world.client(world.upstream(reset))
    try:
        cancel_on(refused)
    except ConnectionFailed:
        with pytest.raises(ConnectionLost):
            cancel_on(resetting)
    else:
        pytest.fail("the first did not fail")


def test_what_nobody_foresaw_after_connecting_is_unknown(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    client = world.client(world.upstream(OK))

    def fails(*_: Any, **__: Any) -> None:
        raise RuntimeError("unforeseen")

    monkeypatch.setattr("http.client.HTTPResponse.begin", fails)
    with pytest.raises(OutcomeUnknown):
        cancel_on(client)


# Credentials


def test_a_rotation_costs_no_failed_request(world: World) -> None:
    upstream = world.upstream(OK, UNAUTHORIZED, OK)
    client = world.client(upstream)
    cancel_on(client)
    world.secrets.pair = {"apiKey": "new-key", "secretKey": "new-secret"}
    cancel_on(client)
    old, new = Credentials(KEY, SECRET), Credentials("new-key", "new-secret")
    assert [request.headers["authorization"] for request in upstream.received] == [
        authorization(credentials, "1569479066") for credentials in (old, old, new)
    ]
    assert upstream.received[1].body == upstream.received[2].body
    assert upstream.connections == 1


def test_a_rejection_with_an_unchanged_secret_is_not_tried_again(world: World) -> None:
    upstream = world.upstream(UNAUTHORIZED)
    client = world.client(upstream)
    for _ in range(3):
        with pytest.raises(CredentialsRejected):
            cancel_on(client)
    assert len(upstream.received) == 3
    assert world.secrets.reads == 2


def test_a_second_rejection_is_final(world: World) -> None:
    upstream = world.upstream(OK, UNAUTHORIZED)
    client = world.client(upstream)
    cancel_on(client)
    world.secrets.pair = {"apiKey": "new-key", "secretKey": "new-secret"}
    with pytest.raises(CredentialsRejected):
        cancel_on(client)
    assert len(upstream.received) == 3


def test_after_a_rejection_that_took_long_the_request_is_not_made_again(
    world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("indodana.client.RETRY_WITHIN_SECONDS", 0.05)
    upstream = world.upstream(OK, UNAUTHORIZED, OK)
    client = world.client(upstream)
    cancel_on(client)
    world.secrets.pair = {"apiKey": "new-key", "secretKey": "new-secret"}
    world.secrets.seconds = 0.1
    with pytest.raises(CredentialsRejected):
        cancel_on(client)
    assert len(upstream.received) == 2
    cancel_on(client)
    assert upstream.received[2].headers["authorization"].startswith("Bearer new-key:")


def test_the_budgets_are_the_sum_of_what_a_call_may_wait_for() -> None:
    from indodana import CANCEL_BUDGET_SECONDS, SECRETS_SECONDS, STATUS_BUDGET_SECONDS

    assert 2 * SECRETS_SECONDS + 2 + 5 == STATUS_BUDGET_SECONDS
    assert 2 * SECRETS_SECONDS + 2 + 10 == CANCEL_BUDGET_SECONDS


# Connections


@pytest.mark.parametrize("tls", [False, True], ids=["http", "https"])
@pytest.mark.parametrize("answer", [http(body=PAID), error(404), error(429), http(500, "<html>")])
def test_a_connection_is_used_again(world: World, answer: bytes, tls: bool, tmp_path: Path) -> None:
    server, trusting = certificate(tmp_path) if tls else (None, None)
    upstream = world.upstream(answer, tls=server)
    client = world.client(upstream, ssl_context=trusting)
    for _ in range(3):
        with suppress(IndodanaError):
            status_of(client)
    assert len(upstream.received) == 3
    assert upstream.connections == 1


@pytest.mark.parametrize("tls", [False, True], ids=["http", "https"])
@pytest.mark.parametrize(
    ("seconds", "connections"), [(IDLE_SECONDS, 1), (IDLE_SECONDS + 0.1, 2), (86_400, 2), (-0.1, 2)]
)
def test_a_connection_idle_for_too_long_by_the_wall_clock_is_not_used_again(
    world: World, seconds: float, connections: int, tls: bool, tmp_path: Path
) -> None:
    server, trusting = certificate(tmp_path) if tls else (None, None)
    upstream = world.upstream(OK, tls=server)
    client = world.client(upstream, ssl_context=trusting)
    cancel_on(client)
    world.clock.now += seconds
    cancel_on(client)
    assert upstream.connections == connections


def test_a_connection_that_the_upstream_has_closed_is_not_used_again(world: World) -> None:
    upstream = world.upstream(sends(OK), OK)
    client = world.client(upstream)
    cancel_on(client)
    time.sleep(0.05)
    cancel_on(client)
    assert upstream.connections == 2


def test_a_connection_with_an_unread_rest_is_not_used_again(world: World) -> None:
    upstream = world.upstream(http(404, "x" * 100_000), OK)
    client = world.client(upstream)
    with pytest.raises(Refused):
        cancel_on(client)
    cancel_on(client)
    assert upstream.connections == 2


def test_each_answer_has_its_whole_time_on_a_connection_used_again(world: World) -> None:
    def slow(sock: socket.socket) -> None:
        for _ in range(3):
            time.sleep(0.2)
            sock.sendall(OK)
            sock.recv(65_536)

    client = world.client(world.upstream(slow), timeouts=Timeouts(cancel_read=0.4))
    for _ in range(3):
        cancel_on(client)


def test_threads_share_the_pool(world: World) -> None:
    upstream = world.upstream(http(body=PAID))
    client = world.client(upstream, pool_size=4, timeouts=Timeouts())
    with ThreadPoolExecutor(4) as pool:
        answers = list(pool.map(lambda _: status_of(client).transaction_status, range(40)))
    assert answers == ["PAID"] * 40
    assert upstream.connections <= 4


def test_one_tls_context_serves_every_connection(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    made = 0
    create = ssl.create_default_context

    def counted(*args: Any, **options: Any) -> ssl.SSLContext:
        nonlocal made
        made += 1
        return create(*args, **options)

    monkeypatch.setattr(ssl, "create_default_context", counted)
    client = world.client(f"https://127.0.0.1:{refused_port()}")
    for _ in range(3):
        with pytest.raises(ConnectionFailed):
            cancel_on(client)
    assert made == 1


def test_a_given_tls_context_trusts_only_whom_it_trusted(world: World, tmp_path: Path) -> None:
    server, trusting = certificate(tmp_path)
    cancel_on(world.client(world.upstream(OK, tls=server), ssl_context=trusting))
    assert trusting.cert_store_stats()["x509"] == 1


def test_an_ipv6_address_is_not_taken_for_a_name(world: World) -> None:
    upstream = world.upstream(OK)
    with pytest.raises(ConnectionFailed, match=r"refused|Cannot assign|family not supported|unreachable"):
        cancel_on(world.client(upstream.url.replace("127.0.0.1", "[::1]")))


# Logs


def test_no_log_of_any_library_shows_a_secret_a_signature_or_personal_data(
    world: World, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.DEBUG)
    refusal = error(422, "ValidationError", {"legalName": "Budi Santoso"})
    redirect = http(302, "", "Location: http://127.0.0.1:1/")
    garbled = b"HTTP/1.1 500 Oops\r\nlegalName Budi Santoso\r\nContent-Length: 0\r\n\r\n"
    upstream = world.upstream(http(body=PAID), refusal, UNAUTHORIZED, redirect, sends(garbled), reset)
    client = world.client(upstream)
    for call in (status_of, cancel_on, cancel_on, cancel_on, cancel_on, cancel_on):
        try:
            call(client)
        except IndodanaError as failure:
            logging.getLogger("handler").exception("failed: %r", failure)
    assert len(upstream.received) == 6
    assert "check_status" in caplog.text, "nothing was captured"
    signature = authorization(Credentials(KEY, SECRET), str(int(NOW))).rpartition(":")[2]
    for private in (KEY, SECRET, signature, "Bearer", "Budi", "user-42"):
        assert private not in caplog.text
