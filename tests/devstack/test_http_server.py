"""The server in front of the API: a socket that no caller can upset."""

import socket
import threading
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from http.client import HTTPConnection
from typing import Any

import pytest

from devstack.api_gateway.http_api import HttpApi
from devstack.api_gateway.server import MAX_BODY_BYTES, HttpServer
from devstack.errors import DevstackError
from devstack.tokens import Issuer
from tests.devstack.api import ROUTES, Echo, route


@pytest.fixture
def server(issuer: Issuer, echo: Echo) -> Iterator[HttpServer]:
    server = HttpServer()
    server.start(HttpApi([*ROUTES, route("POST /orders")], issuer, echo))
    yield server
    server.stop()


def address(server: HttpServer) -> tuple[str, int]:
    host, port = server.url.removeprefix("http://").split(":")
    return host, int(port)


def exchange(server: HttpServer, data: bytes) -> bytes:
    """Everything that the server answers to `data`, until it closes."""
    with socket.create_connection(address(server), timeout=5) as connection:
        connection.sendall(data)
        connection.shutdown(socket.SHUT_WR)
        answer = b""
        while part := connection.recv(65_536):
            answer += part
    return answer


@pytest.mark.parametrize(
    ("request_bytes", "status"),
    [
        (b"POST /orders HTTP/1.1\r\nContent-Length: x\r\n\r\n", 400),
        (b"POST /orders HTTP/1.1\r\nContent-Length: -1\r\n\r\n", 400),
        (b"POST /orders HTTP/1.1\r\nContent-Length: \xb2\r\n\r\n", 400),
        (b"POST /orders HTTP/1.1\r\nContent-Length: 1\r\nContent-Length: 2\r\n\r\nab", 400),
        (b"POST /orders HTTP/1.1\r\nContent-Length: 9\r\n\r\nshort", 400),
        (b"POST /orders HTTP/1.1\r\nContent-Length: 99999999999999999999999\r\n\r\n", 400),
        (b"POST /orders HTTP/1.1\r\nContent-Length: 10485761\r\n\r\n", 413),
        (b"POST /orders HTTP/1.1\r\nTransfer-Encoding: gzip\r\n\r\n", 400),
        (b"POST /orders HTTP/1.1\r\nTransfer-Encoding: chunked\r\nContent-Length: 3\r\n\r\n0\r\n\r\n", 400),
        (b"POST /orders HTTP/1.1\r\nTransfer-Encoding: chunked\r\n\r\nzz\r\n\r\n", 400),
        (b"POST /orders HTTP/1.1\r\nTransfer-Encoding: chunked\r\n\r\nfffffff\r\n", 413),
        (b"GET /orders/1 HTTP/1.1\r\nX: " + b"a" * 20_000 + b"\r\n\r\n", 431),
        (b"GET /orders/1 HTTP/1.1\r\nX: " + b"a" * 200_000 + b"\r\n\r\n", 431),
        (b"GET /orders/1 HTTP/1.1\r\n" + b"".join(b"X%d: a\r\n" % i for i in range(500)) + b"\r\n", 431),
        (b"GET /orders/" + b"a" * 100_000 + b" HTTP/1.1\r\n\r\n", 414),
        (b"GET /orders/1 HTTP/1.1\r\nno header at all\r\n\r\n", 400),
        (b"GET /orders/\xff HTTP/1.1\r\n\r\n", 400),
        (b"GET /orders/%ff HTTP/1.1\r\n\r\n", 400),
        (b"GET /orders/1 HTTP/9.9\r\n\r\n", 400),
        (b"GET /orders/1 nonsense\r\n\r\n", 400),
        (b"\x16\x03\x01\x02\x00\x01\r\n\r\n", 400),
        (b"FOO /orders HTTP/1.1\r\nConnection: close\r\n\r\n", 404),
        (b"HEAD /orders HTTP/1.1\r\nConnection: close\r\n\r\n", 404),
    ],
)
def test_malformed_request_is_a_4xx_without_a_traceback(
    server: HttpServer, capfd: pytest.CaptureFixture[str], request_bytes: bytes, status: int
) -> None:
    answer = exchange(server, request_bytes)
    assert answer.split(b"\r\n")[0].split(b" ")[1] == str(status).encode() or answer.startswith(b'{"message"'), answer
    assert b"Traceback" not in answer
    assert "Traceback" not in capfd.readouterr().err


def test_body_over_ten_megabytes_is_refused_even_if_sent_whole(server: HttpServer, echo: Echo) -> None:
    connection = HTTPConnection(*address(server), timeout=5)
    connection.request("POST", "/orders", b"x" * (MAX_BODY_BYTES + 1))
    assert connection.getresponse().status == 413
    connection.close()
    assert echo.events == []


def test_chunked_bodies_utf8_headers_and_kept_connections_work(server: HttpServer, echo: Echo) -> None:
    connection = HTTPConnection(*address(server), timeout=5)
    connection.request("POST", "/orders", iter([b"ab", b"c"]), headers={"X-Name": "é".encode()}, encode_chunked=True)
    connection.getresponse().read()
    assert (echo.event["body"], echo.event["headers"]["x-name"]) == ("abc", "é")
    connection.request("POST", "/orders", b"x" * MAX_BODY_BYTES)
    assert connection.getresponse().read() == b"ok"
    assert len(echo.event["body"]) == MAX_BODY_BYTES
    connection.close()


def test_64_requests_are_served_at_once(issuer: Issuer) -> None:
    together = threading.Barrier(64, timeout=10)

    def handler(_: str, __: Any, ___: float) -> Any:
        together.wait()
        return {"statusCode": 200}

    server = HttpServer()
    server.start(HttpApi(ROUTES, issuer, handler))

    def ask(number: int) -> int:
        connection = HTTPConnection(*address(server), timeout=15)
        connection.request("GET", f"/orders/{number}")
        status = connection.getresponse().status
        connection.close()
        return status

    with ThreadPoolExecutor(64) as pool:
        assert list(pool.map(ask, range(64))) == [200] * 64
    server.stop()


def test_taken_port_is_one_clear_line() -> None:
    server = HttpServer()
    with pytest.raises(DevstackError, match="cannot listen on"):
        HttpServer(port=address(server)[1])
    server.stop()
