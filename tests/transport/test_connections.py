"""Connections to Indodana over real sockets: which are used again, and which never."""

from __future__ import annotations

import gc
import socket
import ssl
import threading
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from pathlib import Path
from typing import Any

import pytest

from indodana import (
    AnswerTimedOut,
    ConnectionFailed,
    ConnectionLost,
    CredentialStore,
    ForeignAnswer,
    IndodanaClient,
    IndodanaError,
    OutcomeUnknown,
    Timeouts,
)
from indodana.transport import IDLE_SECONDS
from tests.transport.upstream import (
    HINTS,
    OK,
    PAID,
    TRUNCATED,
    Act,
    World,
    cancel_on,
    certificate,
    close,
    error,
    hang,
    http,
    outcome_of,
    refused_port,
    reset,
    sends,
    status_of,
    undisturbed,
)

# Which connection


def test_a_cancellation_has_a_connection_of_its_own(world: World) -> None:
    """Neither one that the peer may have forgotten, nor one on which another answer may still come."""
    upstream = world.upstream(http(body=PAID), OK, OK, http(body=PAID))
    client = world.client(upstream)
    for call in (status_of, cancel_on, cancel_on, status_of):
        call(client)
    assert [request.connection for request in upstream.received] == [1, 2, 3, 1]
    assert [request.headers.get("connection") for request in upstream.received] == [None, "close", "close", None]


@undisturbed
def test_a_cancellation_does_not_wait_for_its_connections_end(world: World) -> None:
    started = time.monotonic()
    cancel_on(world.client(world.upstream(sends(OK, then=hang))))
    assert time.monotonic() - started < 1


@pytest.mark.parametrize(
    "late", [error(400), OK, b"HTTP/1.1 408 Request Timeout\r\nContent-Length: 0\r\n\r\n"], ids=["400", "200", "408"]
)
def test_what_comes_after_an_answer_is_no_answer_to_the_next_cancellation(world: World, late: bytes) -> None:
    upstream = world.upstream(sends(OK, late, then=hang), error(422))
    client = world.client(upstream)
    assert outcome_of(lambda: cancel_on(client)) == 200
    assert outcome_of(lambda: cancel_on(client)) == 422


ANOTHER = http(body={**PAID, "merchantOrderId": "ANOTHER"})
# Sent late or twice, nobody could tell that it is not the next one's.
NAMELESS = http(body={"status": "OK", "transactionStatus": "EXPIRED"})


@pytest.mark.parametrize("pause", [0, 0.1], ids=["at once", "late"])
@pytest.mark.parametrize("tls", [False, True], ids=["http", "https"])
def test_a_connection_with_unasked_bytes_is_not_used_again(
    world: World, pause: float, tls: bool, tmp_path: Path
) -> None:
    """`at once`: in the same packet, so that reading the answer takes the rest with it."""
    server, trusting = certificate(tmp_path) if tls else (None, None)
    answers = [http(body=PAID), error(404)]
    twice = sends(*answers, pause=pause, then=hang) if pause else sends(b"".join(answers), then=hang)
    upstream = world.upstream(twice, http(body=PAID), tls=server)
    client = world.client(upstream, ssl_context=trusting)
    status_of(client)
    time.sleep(2 * pause)
    status_of(client)
    assert upstream.connections == 2


def breaks_when_used_again(how: Act) -> Act:
    """Answers once; what it is asked next on the same connection, it answers `how`."""

    def act(sock: socket.socket) -> None:
        sock.sendall(http(body=PAID))
        sock.recv(65_536)
        how(sock)

    return act


@pytest.mark.parametrize(
    "how",
    [
        close,
        reset,
        sends(TRUNCATED),
        sends(b"gibberish\r\n\r\n"),
        sends(ANOTHER, then=hang),
        sends(NAMELESS, then=hang),
        sends(error(404), then=hang),
        sends(HINTS),
    ],
    ids=[
        *("closed", "reset", "cut", "not HTTP", "another order's answer", "an answer that names no order"),
        *("an error that names none", "closed after 103"),
    ],
)
@pytest.mark.parametrize("tls", [False, True], ids=["http", "https"])
def test_a_status_check_failing_on_a_kept_connection_is_repeated_on_a_new(
    world: World, how: Act, tls: bool, tmp_path: Path
) -> None:
    """Reported at psf/requests#4506: the peer has forgotten the connection, and it shows only when it is used."""
    server, trusting = certificate(tmp_path) if tls else (None, None)
    upstream = world.upstream(breaks_when_used_again(how), http(body={**PAID, "amount": 1}), tls=server)
    client = world.client(upstream, ssl_context=trusting)
    assert status_of(client).amount == 4500000
    assert status_of(client).amount == 1
    assert [request.connection for request in upstream.received] == [1, 2]


def test_it_is_made_once_more_and_no_oftener(world: World) -> None:
    upstream = world.upstream(breaks_when_used_again(reset), reset)
    client = world.client(upstream)
    status_of(client)
    with pytest.raises(ConnectionLost):
        status_of(client)
    assert upstream.connections == 2


@pytest.mark.parametrize(
    "act", [close, reset, sends(TRUNCATED), sends(ANOTHER)], ids=["closed", "reset", "cut", "other"]
)
def test_a_status_check_that_fails_on_a_new_connection_is_not_made_again(world: World, act: Act) -> None:
    upstream = world.upstream(act, http(body=PAID))
    with pytest.raises(OutcomeUnknown):
        status_of(world.client(upstream))
    assert len(upstream.received) == 1


@undisturbed
def test_both_tries_together_take_no_more_time_than_one(world: World) -> None:
    def dies_late(sock: socket.socket) -> None:
        time.sleep(0.3)
        reset(sock)

    upstream = world.upstream(breaks_when_used_again(dies_late), hang)
    client = world.client(upstream, timeouts=Timeouts(status_read=0.5))
    status_of(client)
    started = time.monotonic()
    with pytest.raises(AnswerTimedOut):
        status_of(client)
    assert 0.45 < time.monotonic() - started < 0.65
    assert upstream.connections == 2


def test_a_kept_connection_without_an_answer_leaves_no_time_for_another(world: World) -> None:
    upstream = world.upstream(breaks_when_used_again(hang), http(body=PAID))
    client = world.client(upstream, timeouts=Timeouts(status_read=0.2))
    status_of(client)
    with pytest.raises(AnswerTimedOut):
        status_of(client)
    assert upstream.connections == 1


def test_after_a_timeout_the_late_answer_comes_to_nobody(world: World) -> None:
    def late(sock: socket.socket) -> None:
        time.sleep(0.3)
        with suppress(OSError):
            sock.sendall(http(body={**PAID, "amount": 1}))

    upstream = world.upstream(late, http(body=PAID))
    client = world.client(upstream, timeouts=Timeouts(status_read=0.2))
    with pytest.raises(AnswerTimedOut):
        status_of(client)
    time.sleep(0.2)
    assert status_of(client).amount == 4500000


# Connections


@pytest.mark.parametrize("tls", [False, True], ids=["http", "https"])
@pytest.mark.parametrize("answer", [http(body=PAID), error(401), error(429), http(500, "<html>")])
def test_a_status_checks_connection_is_used_again(world: World, answer: bytes, tls: bool, tmp_path: Path) -> None:
    server, trusting = certificate(tmp_path) if tls else (None, None)
    upstream = world.upstream(answer, tls=server)
    client = world.client(upstream, ssl_context=trusting)
    for _ in range(3):
        with suppress(IndodanaError):
            status_of(client)
    assert len(upstream.received) == 3
    assert upstream.connections == 1


@pytest.mark.parametrize("answer", [NAMELESS, error(404), ANOTHER], ids=["nobody's", "an error", "another's"])
def test_a_connection_is_not_used_again_after_a_foreign_answer(world: World, answer: bytes) -> None:
    upstream = world.upstream(answer)
    client = world.client(upstream)
    for _ in range(3):
        with suppress(IndodanaError):
            status_of(client)
    assert [request.connection for request in upstream.received] == [1, 2, 3]


@pytest.mark.parametrize("tls", [False, True], ids=["http", "https"])
@pytest.mark.parametrize(
    ("seconds", "connections"), [(10, 1), (IDLE_SECONDS, 1), (IDLE_SECONDS + 0.1, 2), (30, 2), (86_400, 2), (-0.1, 2)]
)
def test_a_connection_idle_too_long_by_the_wall_clock_is_not_used_again(
    world: World, seconds: float, connections: int, tls: bool, tmp_path: Path
) -> None:
    """30 s are no measure of ours: load balancers forget a connection after 60 s, and somebody's may after less."""
    server, trusting = certificate(tmp_path) if tls else (None, None)
    upstream = world.upstream(http(body=PAID), tls=server)
    client = world.client(upstream, ssl_context=trusting)
    status_of(client)
    world.clock.now += seconds
    status_of(client)
    assert upstream.connections == connections


def test_a_connection_that_the_upstream_has_closed_is_not_used_again(world: World) -> None:
    upstream = world.upstream(sends(http(body=PAID)), http(body=PAID))
    client = world.client(upstream)
    status_of(client)
    time.sleep(0.05)
    status_of(client)
    assert len(upstream.received) == 2
    assert upstream.connections == 2


def test_a_connection_with_an_unread_rest_is_not_used_again(world: World) -> None:
    upstream = world.upstream(http(404, "x" * 100_000), http(body=PAID))
    client = world.client(upstream)
    with pytest.raises(ForeignAnswer):
        status_of(client)
    status_of(client)
    assert upstream.connections == 2


@undisturbed
def test_each_answer_has_its_whole_time_on_a_connection_used_again(world: World) -> None:
    def slow(sock: socket.socket) -> None:
        for _ in range(3):
            time.sleep(0.2)
            sock.sendall(http(body=PAID))
            sock.recv(65_536)

    upstream = world.upstream(slow)
    client = world.client(upstream, timeouts=Timeouts(status_read=0.4))
    for _ in range(3):
        status_of(client)
    assert upstream.connections == 1


@pytest.mark.parametrize("ends", [IndodanaClient.close, lambda _: gc.collect()], ids=["closed", "forgotten"])
def test_a_client_that_is_gone_leaves_no_connection_open(world: World, ends: Callable[[Any], object]) -> None:
    ended = threading.Event()

    def notices(sock: socket.socket) -> None:
        sock.sendall(http(body=PAID))
        if not sock.recv(1):
            ended.set()

    upstream = world.upstream(notices)
    client = IndodanaClient(upstream.url, CredentialStore(world.secrets, ""))  # type: ignore[arg-type]
    status_of(client)
    ends(client)
    del client
    assert ended.wait(2)


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
