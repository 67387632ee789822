"""A caller of the simulator who signs as Indodana documents it, over plain sockets and without the gateway's code."""

import contextlib
import hashlib
import hmac
import http.client
import socket
import time
from dataclasses import dataclass
from email.message import Message
from typing import Any
from urllib.parse import quote, urlsplit

import simplejson

from testkit.indodana.simulator import LOCAL_MERCHANTS, Simulator

STATUS_PATH = "/chermes/merchant/v1/transactions/qris/check_status"


CANCELLATION_PATH = "/chermes/merchant/v3/order_cancellation"


@dataclass(frozen=True)
class Answer:
    status: int
    headers: Message
    raw: bytes

    @property
    def json(self) -> Any:
        return simplejson.loads(self.raw, use_decimal=True)

    @property
    def error_kind(self) -> str:
        assert self.json["status"] == "ERROR"
        return str(self.json["error"]["kind"])


def sign(api_key: str, secret_key: str, nonce: int | None = None) -> str:
    signed = f"{api_key}:{int(time.time()) if nonce is None else nonce}"
    return f"Bearer {signed}:{hmac.new(secret_key.encode(), signed.encode(), hashlib.sha256).hexdigest()}"


def connect(url: str, timeout: float = 5) -> http.client.HTTPConnection:
    parts = urlsplit(url)
    assert parts.hostname is not None
    return http.client.HTTPConnection(parts.hostname, parts.port, timeout=timeout)


def send(
    url: str,
    method: str,
    path: str,
    body: bytes | None = None,
    authorization: str | None = None,
    timeout: float = 5,
) -> Answer:
    headers = {"Authorization": sign(*LOCAL_MERCHANTS["m1"]) if authorization is None else authorization}
    with contextlib.closing(connect(url, timeout)) as connection:
        connection.request(method, path, body, headers)
        with connection.getresponse() as response:
            return Answer(response.status, response.headers, response.read())


def cancellation(**changes: Any) -> bytes:
    body = {
        "refundId": "refund-1",
        "merchantOrderId": "ORDER-PAID",
        "cancellationAmount": 60000,
        "cancellationReason": "Out of Stock",
        "cancelledBy": "till-7",
        "cancellationDate": "2019-09-12T18:18:18+07:00",
    }
    body |= changes
    return simplejson.dumps({k: v for k, v in body.items() if v is not ...}, use_decimal=True).encode()


def cancel(simulator: Simulator, *, timeout: float = 5, authorization: str | None = None, **changes: Any) -> Answer:
    return send(
        simulator.upstream_url, "POST", CANCELLATION_PATH, cancellation(**changes), authorization, timeout=timeout
    )


def check(simulator: Simulator, order: str = "ORDER-PAID", authorization: str | None = None) -> Answer:
    path = f"{STATUS_PATH}?merchantOrderId={quote(order, safe='')}"
    return send(simulator.upstream_url, "GET", path, authorization=authorization)


def raw_cancel(simulator: Simulator) -> socket.socket:
    """A socket on which a cancellation has been sent and nothing been read."""
    parts = urlsplit(simulator.upstream_url)
    body = cancellation()
    head = (
        f"POST {CANCELLATION_PATH} HTTP/1.1\r\nHost: simulator\r\nAuthorization: {sign(*LOCAL_MERCHANTS['m1'])}\r\n"
        f"Content-Length: {len(body)}\r\n\r\n"
    )
    raw = socket.create_connection((parts.hostname, parts.port), timeout=5)
    raw.sendall(head.encode() + body)
    return raw
