"""Calls that surely did not reach Indodana."""

from __future__ import annotations

import socket
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from indodana import (
    ConnectionFailed,
    ConnectTimedOut,
    CredentialsUnavailable,
    IndodanaClient,
    NotSent,
    Timeouts,
)
from tests.transport.upstream import (
    OK,
    PAID,
    Act,
    World,
    both_calls,
    cancel_on,
    certificate,
    close,
    hang,
    http,
    refused_port,
    reset,
    sends,
    undisturbed,
)

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


@undisturbed
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


@undisturbed
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
