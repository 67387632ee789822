"""The exchange over real sockets: connections, time, and answers that come to the request that they answer."""

from __future__ import annotations

import gc
import socket
import ssl
import threading
import time
import traceback
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from pathlib import Path
from typing import Any

import pytest

from indodana import (
    AnswerTimedOut,
    AnswerUnreadable,
    ConnectionFailed,
    ConnectionLost,
    CredentialsRejected,
    CredentialStore,
    ForeignAnswer,
    IndodanaClient,
    IndodanaError,
    NotSent,
    OutcomeUnknown,
    RateLimited,
    SendingTooLate,
    ServerFailed,
    Timeouts,
)
from indodana.transport import IDLE_SECONDS
from tests.transport.upstream import (
    OK,
    PAID,
    UNAUTHORIZED,
    Act,
    World,
    cancel_on,
    cancellation,
    certificate,
    close,
    error,
    hang,
    http,
    refused_port,
    reset,
    sends,
    status_of,
)


@pytest.fixture
def world() -> Iterator[World]:
    with World() as made:
        yield made


def outcome_of(call: Callable[[], Any]) -> int | None:
    """The status of the answer that a cancellation was given."""
    try:
        status: int = call().http_status
    except IndodanaError as failure:
        return failure.http_status
    return status


# No answer: nobody knows

TRUNCATED = b'HTTP/1.1 200 OK\r\nContent-Length: 999\r\n\r\n{"status": "OK"}'
SLOWLY = {"pause": 0.05}
HINTS = b"HTTP/1.1 103 Early Hints\r\nLink: </style.css>; rel=preload\r\n\r\n"


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
        (sends(HINTS, then=close), ConnectionLost),
        (sends(HINTS, then=hang), AnswerTimedOut),
        (sends(*[HINTS] * 20, **SLOWLY), AnswerTimedOut),  # type: ignore[arg-type]
        (sends(b"HTTP/1.1 101 Switching Protocols\r\nUpgrade: h2c\r\n\r\n" + OK), AnswerUnreadable),
        (sends(b"legalName: Budi Santoso\r\n\r\n"), AnswerUnreadable),
        (sends(b"HTTP/1.1 200 OK\r\n" + b"X: y\r\n" * 200 + b"\r\n"), AnswerUnreadable),
        (sends(b"HTTP/1.1 200 OK\r\nX: " + b"y" * 70_000 + b"\r\n\r\n"), AnswerUnreadable),
        (sends(b"HTTP/1.1 200 OK\r\nContent-Encoding: gzip\r\nContent-Length: 4\r\n\r\nBudi"), AnswerUnreadable),
        (sends(http(200, {"status": "OK"}, "Content-Length: 10")), AnswerUnreadable),
        (sends(http(200, {"status": "OK"}, "Transfer-Encoding: chunked")), AnswerUnreadable),
        (sends(b'HTTP/1.1 200 OK\r\nContent-Length: 1_5\r\n\r\n{"status":"OK"}'), AnswerUnreadable),
        (sends(b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\nBudi\r\n"), ConnectionLost),
        (sends(*[b"HTTP/1.1 103 X\r\nX: " + b"y" * 60_000 + b"\r\n\r\n"] * 50, OK), AnswerUnreadable),
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
        "closes after 103",
        "hangs after 103",
        "trickles 103s",
        "101",
        "not HTTP",
        "too many headers",
        "a header too long",
        "not gzip",
        "two lengths",
        "a length and chunks",
        "a length that is none",
        "chunks that are none",
        "without an end",
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


@pytest.mark.parametrize(
    ("status", "expected"),
    [
        (404, ForeignAnswer),
        (401, CredentialsRejected),
        (429, RateLimited),
        (500, ServerFailed),
        (302, AnswerUnreadable),
    ],
)
@pytest.mark.parametrize("then", [close, hang])
def test_an_error_status_counts_though_its_body_breaks_off(
    world: World, status: int, expected: type[IndodanaError], then: Act
) -> None:
    head = f"HTTP/1.1 {status} X\r\nContent-Length: 999\r\n\r\n".encode()
    act = sends(head + b'{"status": "ERROR", "error": {}}', then=then)
    with pytest.raises(expected) as caught:
        cancel_on(world.client(world.upstream(act), timeouts=Timeouts(cancel_read=0.15)))
    assert type(caught.value) is expected


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


# Informational answers


@pytest.mark.parametrize("status", [100, 102, 103, 110, 199])
@pytest.mark.parametrize("times", [1, 3])
@pytest.mark.parametrize("answer", [OK, error(422)], ids=["200", "422"])
def test_an_informational_answer_is_none(world: World, status: int, times: int, answer: bytes) -> None:
    """Reported at benoitc/gunicorn#3374: the answer to each request was taken for the next one's from then on."""
    informing = f"HTTP/1.1 {status} Whatever\r\nX-Note: more to come\r\n\r\n".encode() * times
    upstream = world.upstream(sends(informing, answer, pause=0.1), error(400))
    client = world.client(upstream)

    first = outcome_of(lambda: cancel_on(client))
    second = outcome_of(lambda: cancel_on(client))

    assert first == (200 if answer == OK else 422)
    assert second == 400
    assert upstream.connections == 2


def test_an_informational_answer_gives_an_answer_no_more_time(world: World) -> None:
    client = world.client(world.upstream(sends(*[HINTS] * 8, OK, pause=0.1)), timeouts=Timeouts(cancel_read=0.4))
    started = time.monotonic()
    with pytest.raises(AnswerTimedOut):
        cancel_on(client)
    assert time.monotonic() - started < 0.7


def test_informational_answers_leave_a_status_checks_connection_in_step(world: World) -> None:
    """Each check gets the answer to its own order, on one connection."""

    def informs(sock: socket.socket) -> None:
        asked = 0
        while asked < 3:
            sock.sendall(HINTS)
            time.sleep(0.05)
            sock.sendall(http(body={**PAID, "merchantOrderId": f"ORDER-{asked}"}))
            asked += 1
            sock.recv(65_536)

    upstream = world.upstream(informs)
    client = world.client(upstream)
    for number in range(3):
        order = f"ORDER-{number}"
        assert client.check_status("m1", order).fields["merchantOrderId"] == order
    assert upstream.connections == 1


def test_after_switching_protocols_a_connection_is_not_used_again(world: World) -> None:
    upstream = world.upstream(b"HTTP/1.1 101 Switching Protocols\r\nUpgrade: h2c\r\n\r\n", http(body=PAID))
    client = world.client(upstream)
    with pytest.raises(AnswerUnreadable):
        status_of(client)
    status_of(client)
    assert upstream.connections == 2


# Which connection


def test_a_cancellation_has_a_connection_of_its_own(world: World) -> None:
    """Neither one that the peer may have forgotten, nor one on which another answer may still come."""
    upstream = world.upstream(http(body=PAID), OK, OK, http(body=PAID))
    client = world.client(upstream)
    for call in (status_of, cancel_on, cancel_on, status_of):
        call(client)
    assert [request.connection for request in upstream.received] == [1, 2, 3, 1]
    assert [request.headers.get("connection") for request in upstream.received] == [None, "close", "close", None]


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
def test_a_connection_on_which_more_comes_than_was_asked_for_is_not_used_again(
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
def test_a_status_check_that_fails_on_a_kept_connection_is_made_once_more_on_a_new_one(
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


# Right before it is sent


@pytest.mark.parametrize("tls", [False, True], ids=["http", "https"])
def test_a_cancellation_is_held_back_at_the_last_moment(world: World, tls: bool, tmp_path: Path) -> None:
    server, trusting = certificate(tmp_path) if tls else (None, None)
    upstream = world.upstream(OK, tls=server)
    client = world.client(upstream, ssl_context=trusting)
    asked_with: list[tuple[int, int]] = []

    def may_send() -> bool:
        if tls:
            time.sleep(0.05)  # for the server to have counted what has connected
        asked_with.append((world.secrets.reads, len(upstream.received)))
        return False

    with pytest.raises(SendingTooLate) as caught:
        client.cancel("m1", cancellation(), may_send=may_send)
    assert isinstance(caught.value, NotSent)
    time.sleep(0.05)
    assert asked_with == [(1, 0)], "not after the secret was read, or not before the request was sent"
    assert (upstream.connections, upstream.received) == (1, []), "not after connecting, or sent all the same"


def test_a_cancellation_that_is_made_again_with_other_credentials_is_held_back_likewise(world: World) -> None:
    upstream = world.upstream(OK, UNAUTHORIZED)
    client = world.client(upstream)
    cancel_on(client)
    world.secrets.pair = {"apiKey": "new-key", "secretKey": "new-secret"}
    allowed = iter([True, False])
    with pytest.raises(SendingTooLate):
        client.cancel("m1", cancellation(), may_send=lambda: next(allowed))
    assert len(upstream.received) == 2


def test_the_time_for_an_answer_begins_when_the_request_is_written(world: World) -> None:
    def slow_to_allow() -> bool:
        time.sleep(0.3)
        return True

    def slow_to_answer(sock: socket.socket) -> None:
        time.sleep(0.3)
        sock.sendall(OK)

    client = world.client(world.upstream(slow_to_answer), timeouts=Timeouts(cancel_read=0.5))
    client.cancel("m1", cancellation(), may_send=slow_to_allow)


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
def test_a_connection_is_not_used_again_after_an_answer_that_may_be_another_requests(
    world: World, answer: bytes
) -> None:
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
def test_a_connection_idle_for_too_long_by_the_wall_clock_is_not_used_again(
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
