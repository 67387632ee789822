"""Total times and sizes of one exchange, whatever the peer does within them."""

from __future__ import annotations

import socket
import threading
import time
from contextlib import suppress

import pytest

from indodana import AnswerTimedOut, AnswerUnreadable, IndodanaError, Timeouts
from tests.transport.upstream import PAID, World, cancel_on, hang, http, sends, status_of

SHORT = Timeouts(connect=0.4, status_read=0.4, cancel_read=0.4)
ANSWER = http(body=PAID)


def drip(sock: socket.socket, content: bytes, seconds: float) -> None:
    with suppress(OSError):
        for number in range(len(content)):
            sock.sendall(content[number : number + 1])
            time.sleep(seconds)


@pytest.mark.parametrize("call", [status_of, cancel_on])
def test_an_answer_that_drips_is_given_up_at_its_deadline(world: World, call: object) -> None:
    upstream = world.upstream(lambda sock: drip(sock, ANSWER, 0.02))
    started = time.monotonic()
    with pytest.raises(AnswerTimedOut):
        call(world.client(upstream, timeouts=SHORT))  # type: ignore[operator]
    assert 0.3 < time.monotonic() - started < 1.5


def test_an_answer_that_just_keeps_its_deadline_is_read(world: World) -> None:
    upstream = world.upstream(lambda sock: drip(sock, ANSWER, 0.001))
    assert status_of(world.client(upstream, timeouts=Timeouts(2, 3, 3))).transaction_status == "PAID"


def test_interim_answers_without_end_are_given_up_at_the_largest_size(world: World) -> None:
    upstream = world.upstream(sends(b"HTTP/1.1 103 Early Hints\r\n\r\n" * 12_000, then=hang))
    with pytest.raises(AnswerUnreadable):
        status_of(world.client(upstream))


@pytest.mark.parametrize("status", [100, 102, 103, 199])
def test_an_interim_answer_is_passed_over(world: World, status: int) -> None:
    interim = f"HTTP/1.1 {status} Interim\r\nX-Hint: one\r\n\r\n".encode()
    upstream = world.upstream(interim * 2 + ANSWER)
    client = world.client(upstream)
    assert status_of(client).transaction_status == "PAID"
    assert status_of(client).transaction_status == "PAID"
    assert upstream.connections == 1


def test_a_kept_connection_that_hangs_is_not_asked_beyond_the_deadline(world: World) -> None:
    upstream = world.upstream(ANSWER, hang)
    client = world.client(upstream, timeouts=SHORT)
    status_of(client)
    started = time.monotonic()
    with pytest.raises(AnswerTimedOut):
        status_of(client)
    assert time.monotonic() - started < 1
    assert len(upstream.received) == 2


def test_a_client_keeps_no_more_connections_than_it_may(world: World) -> None:
    ended = threading.Event()

    def answer(sock: socket.socket) -> None:
        sock.sendall(ANSWER)
        sock.settimeout(3)
        with suppress(OSError):
            if not sock.recv(1):
                ended.set()

    upstream = world.upstream(answer)
    client = world.client(upstream, pool_size=0)
    for connections in (1, 2):
        status_of(client)
        assert upstream.connections == connections
        assert ended.wait(2)
        ended.clear()


def test_the_address_that_answers_is_found_among_several(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    upstream = world.upstream(ANSWER)
    with socket.create_server(("127.0.0.1", 0)) as listener:
        refusing = listener.getsockname()
    addresses = [refusing, refusing, ("127.0.0.1", upstream.port)]
    asked: list[object] = []

    def resolved(*where: object, **how: object) -> list[tuple[object, ...]]:
        asked.append((where[0], how.get("type")))
        return [(socket.AF_INET, socket.SOCK_STREAM, 6, "", address) for address in addresses]

    client = world.client(upstream)
    with monkeypatch.context() as patch:
        patch.setattr("indodana.transport.socket.getaddrinfo", resolved)
        patch.setattr("indodana.transport.create_connection", _connect)
        assert status_of(client).transaction_status == "PAID"
    assert asked == [("127.0.0.1", socket.SOCK_STREAM)]


def _connect(address: tuple[str, int], timeout: float, socket_options: object) -> socket.socket:
    assert 0 < timeout <= 2
    assert socket_options
    sock = socket.socket()
    sock.settimeout(timeout)
    try:
        sock.connect(address)
    except OSError:
        sock.close()
        raise
    return sock


def test_several_addresses_share_the_time_of_one(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    waited: list[float] = []

    def black_hole(address: tuple[str, int], timeout: float, socket_options: object) -> socket.socket:
        waited.append(timeout)
        time.sleep(timeout)
        raise TimeoutError("timed out")

    def resolved(*_: object, **__: object) -> list[tuple[object, ...]]:
        return [(socket.AF_INET, socket.SOCK_STREAM, 6, "", ("127.0.0.1", 9))] * 4

    monkeypatch.setattr("indodana.transport.socket.getaddrinfo", resolved)
    monkeypatch.setattr("indodana.transport.create_connection", black_hole)
    started = time.monotonic()
    with pytest.raises(IndodanaError, match="no connection to Indodana: timed out"):
        status_of(world.client("http://127.0.0.1:9", timeouts=SHORT))
    assert 0.3 < time.monotonic() - started < 0.8
    assert waited == pytest.approx([0.1] * 4, abs=0.05)
