"""The exchange over real sockets: answers that break off, time, and what is held back at the last moment."""

from __future__ import annotations

import socket
import time
import traceback
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from indodana import (
    AnswerTimedOut,
    AnswerUnreadable,
    ConnectionFailed,
    ConnectionLost,
    CredentialsRejected,
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
from tests.transport.upstream import (
    HINTS,
    OK,
    PAID,
    TRUNCATED,
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
    outcome_of,
    refused_port,
    reset,
    sends,
    status_of,
    undisturbed,
)

# No answer: nobody knows

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
@undisturbed
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


@undisturbed
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


@undisturbed
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


def test_a_cancellation_repeated_with_new_credentials_is_held_back_too(world: World) -> None:
    upstream = world.upstream(OK, UNAUTHORIZED)
    client = world.client(upstream)
    cancel_on(client)
    world.secrets.pair = {"apiKey": "new-key", "secretKey": "new-secret"}
    allowed = iter([True, False])
    with pytest.raises(SendingTooLate):
        client.cancel("m1", cancellation(), may_send=lambda: next(allowed))
    assert len(upstream.received) == 2


@undisturbed
def test_the_time_for_an_answer_begins_when_the_request_is_written(world: World) -> None:
    def slow_to_allow() -> bool:
        time.sleep(0.3)
        return True

    def slow_to_answer(sock: socket.socket) -> None:
        time.sleep(0.3)
        sock.sendall(OK)

    client = world.client(world.upstream(slow_to_answer), timeouts=Timeouts(cancel_read=0.5))
    client.cancel("m1", cancellation(), may_send=slow_to_allow)
