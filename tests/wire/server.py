"""Indodana and the proxies before it, on a loopback port: acts and answers as the seed decides, and keeps books."""

from __future__ import annotations

import random
import select
import socket
import ssl
import struct
import threading
import time
from collections import Counter
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass
from decimal import Decimal
from typing import Any
from urllib.parse import parse_qs, urlsplit

import simplejson

from indodana import ContradictingAnswer
from tests.wire import answers, deliveries
from tests.wire.answers import Asked, ServerAnswer
from tests.wire.deliveries import Clarity, Delivery, End, Next, Opening

# No step on this machine takes so long; a thread that waits longer gives up.
PATIENCE_SECONDS = 5.0
STATUS_PATH = "/chermes/merchant/v1/transactions/qris/check_status"
CANCELLATION_PATH = "/chermes/merchant/v3/order_cancellation"
# All headers of a request; an earlier answer must not add one.
HEADERS = {"host", "accept", "accept-encoding", "authorization", "user-agent", "connection"}
OF_A_BODY = {"content-type", "content-length"}


@dataclass
class Arrival:
    """A request that was read completely, what the server did, and its answer."""

    method: str
    order: str
    refund_id: str | None
    amount: Decimal | None
    api_key: str
    attempt: int
    at: float
    connection: int
    # How many were read on the same connection before it, and when the last answer ended, by the wall clock.
    before: int
    # Before this moment the client could not have a connection.
    opened_at: float
    idle_since: float | None = None
    # Sent before the previous answer had ended.
    early: bool = False
    # Other bytes came before its answer, or may have.
    stray: bool = False
    # Since when the client could see that the connection was closed or had unexpected bytes.
    unfit_since: float | None = None
    answer_sent: ServerAnswer | None = None
    delivery: Delivery | None = None
    # False if no answer was sent, because the previous answer left the connection mute or half-closed.
    answered: bool = True
    exchanged: bool = False

    @property
    def moved(self) -> bool:
        return self.refund_id is not None and self.answer_sent is not None and self.answer_sent.moved


@dataclass(frozen=True)
class ConnectionFault:
    """A connection that ended before a request on it was read completely."""

    name: str
    since: float
    until: float
    fresh: bool
    # For the client: perhaps no connection at all (refused), or one on which it sent something (lost).
    refused: bool
    lost: bool


class _Gone(Exception):
    """The client has closed the connection."""


class _Wire:
    """One connection, with or without TLS. TLS runs in memory, so that it can be cut at any byte."""

    def __init__(self, sock: socket.socket, context: ssl.SSLContext | None) -> None:
        self.sock = sock
        self.sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        self._in, self._out = ssl.MemoryBIO(), ssl.MemoryBIO()
        self._tls = context.wrap_bio(self._in, self._out, server_side=True) if context else None
        self.buffer = b""
        self.unfit_since: float | None = None

    def handshake(self, at_most: int | None = None) -> None:
        """Sends its part of the handshake, or the first `at_most` bytes of it."""
        assert self._tls is not None
        sent = 0
        if at_most is not None:
            self._receive(PATIENCE_SECONDS)
        while True:
            try:
                self._tls.do_handshake()
                done = True
            except ssl.SSLWantReadError:
                done = False
            flight = self._out.read()
            if at_most is not None:
                flight = flight[: at_most - sent]
            self.sock.sendall(flight)
            sent += len(flight)
            if done or (at_most is not None and sent >= at_most):
                return
            self._receive(PATIENCE_SECONDS)

    def _receive(self, seconds: float) -> bool:
        """Waits for bytes; False if none came."""
        if not select.select([self.sock], [], [], seconds)[0]:
            return False
        data = self.sock.recv(65_536)
        if not data:
            raise _Gone
        if self._tls is None:
            self.buffer += data
        else:
            self._in.write(data)
        return True

    def receive(self, seconds: float) -> bool:
        # Bytes that came together with the end of the handshake are here already.
        if self._decrypt():
            return True
        if not self._receive(seconds):
            return False
        self._decrypt()
        return True

    def _decrypt(self) -> bool:
        """Decrypts into the buffer; False if there was nothing."""
        before = len(self.buffer)
        if self._tls is not None:
            with suppress(ssl.SSLWantReadError):
                while True:
                    data = self._tls.read(65_536)
                    if not data:
                        raise _Gone
                    self.buffer += data
        return len(self.buffer) > before

    def peek(self) -> bool:
        """Waits for bytes, and does not read them."""
        ready = select.select([self.sock], [], [], PATIENCE_SECONDS)[0]
        return bool(ready) and bool(self.sock.recv(1, socket.MSG_PEEK))

    def wait(self, seconds: float) -> None:
        """Waits, and notices at once if the client closes the connection."""
        until = time.monotonic() + seconds
        while (left := until - time.monotonic()) > 0:
            self.receive(left)

    def send(self, data: bytes) -> None:
        self.sock.sendall(self._encrypted(data))

    def _encrypted(self, data: bytes) -> bytes:
        if self._tls is None:
            return data
        if data:
            self._tls.write(data)
        return self._out.read()

    def close_as(self, end: End) -> None:
        with suppress(OSError):
            if end is End.RST:
                self.sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
            elif self._tls is not None and end in (End.FIN, End.HALF):
                with suppress(ssl.SSLError):
                    self._tls.unwrap()
                self.sock.sendall(self._out.read())
            if end is End.HALF:
                self.sock.shutdown(socket.SHUT_WR)
            else:
                self.sock.close()


class Server:
    """`wall`: the client's clock."""

    def __init__(self, seed: int, context: ssl.SSLContext | None, wall: Callable[[], float]) -> None:
        self.seed = seed
        self.context = context
        self.wall = wall
        # The other request whose answer each one may get by mistake.
        self.others: dict[str, Asked] = {}
        self.valid_keys: set[str] = set()
        self.arrivals: list[Arrival] = []
        self.connection_faults: list[ConnectionFault] = []
        self.unexpected: list[str] = []
        self.events: Counter[str] = Counter()
        self.lock = threading.Lock()
        self.swap = _Swap()
        self._idle: dict[int, _Wire] = {}
        self._sockets: list[socket.socket] = []
        self._threads: list[threading.Thread] = []
        self._stopped = False
        self._listener = socket.create_server(("127.0.0.1", 0), backlog=64)
        self.port = self._listener.getsockname()[1]
        self._start(self._accept)

    @property
    def url(self) -> str:
        return f"{'https' if self.context else 'http'}://127.0.0.1:{self.port}/chermes/merchant"

    def stop(self) -> None:
        """Reads only what was sent before. Returns when every answer was sent, or given up."""
        with suppress(OSError):
            self._listener.shutdown(socket.SHUT_RDWR)
        self._listener.close()
        with self.lock:
            self._stopped = True
            for sock in self._sockets:
                with suppress(OSError):
                    sock.shutdown(socket.SHUT_RD)
        until = time.monotonic() + PATIENCE_SECONDS
        for thread in self._threads:
            thread.join(max(0.0, until - time.monotonic()))
            if thread.is_alive():
                raise RuntimeError(f"seed {self.seed}: a connection of the server does not end")

    def close_idle_connections(self, rng: random.Random) -> None:
        """As while a function is frozen: some kept connections end."""
        with self.lock:
            for _, wire in sorted(self._idle.items()):
                if rng.random() < 0.5:
                    self.events["kept connections closed during a freeze"] += 1
                    with suppress(OSError):
                        wire.sock.shutdown(rng.choice((socket.SHUT_WR, socket.SHUT_RDWR)))
                    wire.unfit_since = time.monotonic()

    def _start(self, target: Callable[..., None], *args: Any) -> None:
        thread = threading.Thread(target=target, args=args, daemon=True)
        self._threads.append(thread)
        thread.start()

    def _accept(self) -> None:
        number = 0
        while True:
            try:
                sock, _ = self._listener.accept()
            except OSError:
                return
            number += 1
            with self.lock:
                if self._stopped:
                    sock.close()
                    return
                self._sockets.append(sock)
            self._start(_Connection(self, sock, number).serve)

    def set_idle(self, number: int, wire: _Wire | None) -> None:
        with self.lock:
            if wire is None:
                self._idle.pop(number, None)
            else:
                self._idle[number] = wire


class _Swap:
    """Exchanges two answers, if two come at nearly the same time."""

    def __init__(self) -> None:
        self._condition = threading.Condition()
        self._left: list[Arrival] = []

    def exchange(self, arrival: Arrival, seconds: float) -> None:
        """Gives it the answer of another request, and that one its own, if there is another one in time."""
        with self._condition:
            if self._left:
                other = self._left.pop()
                assert arrival.answer_sent is not None
                assert other.answer_sent is not None
                arrival.answer_sent, other.answer_sent = (
                    _swapped(arrival.answer_sent, other.answer_sent),
                    _swapped(other.answer_sent, arrival.answer_sent),
                )
                arrival.exchanged = other.exchanged = True
                self._condition.notify_all()
                return
            self._left.append(arrival)
            until = time.monotonic() + seconds
            while not arrival.exchanged and (left := until - time.monotonic()) > 0:
                self._condition.wait(left)
            if not arrival.exchanged:
                self._left.remove(arrival)


def _swapped(own: ServerAnswer, other: ServerAnswer) -> ServerAnswer:
    """The other request's answer, sent to this one."""
    name, outcomes = "OK exchanged with another's", (ContradictingAnswer,)
    return ServerAnswer(name, 200, other.body, outcomes, own.moved, other.headers)


class _Connection:
    def __init__(self, server: Server, sock: socket.socket, number: int) -> None:
        self._server = server
        self._number = number
        self._accepted_at = time.monotonic()
        self._opened_at = 0.0
        self._wire = _Wire(sock, server.context)
        self._served = 0
        self._idle_since: float | None = None
        self._early = False
        self._strayed = False
        self._last: Delivery | None = None
        self._stray = b""

    def serve(self) -> None:
        try:
            rng = random.Random(f"{self._server.seed}/connection/{self._number}")
            opening = deliveries.opening(rng, tls=self._server.context is not None)
            if self._open(opening):
                while self._next():
                    pass
        except (_Gone, OSError, ssl.SSLError):
            if self._wire.buffer:
                with self._server.lock:
                    self._server.unexpected.append(f"a request at the wrong time, or incomplete: {self._wire.buffer!r}")
        finally:
            self._server.set_idle(self._number, None)
            self._wire.sock.close()

    def _event(self, name: str) -> None:
        with self._server.lock:
            self._server.events[name] += 1

    def _connection_failed(
        self, name: str, *, refused: bool = False, lost: bool = True, since: float | None = None
    ) -> None:
        now = time.monotonic()
        with self._server.lock:
            since = self._accepted_at if since is None else since
            self._server.connection_faults.append(ConnectionFault(name, since, now, self._served == 0, refused, lost))
        self._wire.buffer = b""

    def _open(self, opening: Opening) -> bool:
        """Whether a request can be read on it."""
        wire = self._wire
        if not opening.opens:
            self._refuse(opening)
            return False
        if self._server.context is not None:
            if opening.delay:
                self._event(opening.name)
                time.sleep(opening.delay)
            self._opened_at = time.monotonic()
            wire.handshake()
        if opening.reads is None:
            return True
        while len(wire.buffer) < opening.reads and wire.receive(PATIENCE_SECONDS):
            pass
        if opening.answers is not None:
            wire.send(opening.answers)
        self._connection_failed(opening.name, refused=opening.reads == 0)
        wire.close_as(End.RST if opening.rst else End.FIN)
        return False

    def _refuse(self, opening: Opening) -> None:
        """Aborts the TLS handshake."""
        wire = self._wire
        with suppress(OSError):
            if opening.handshake_bytes is not None:
                wire.handshake(opening.handshake_bytes)
            if opening.handshake_says is not None:
                wire.peek()
                wire.sock.sendall(opening.handshake_says)
            if opening.hangs:
                wire.sock.settimeout(PATIENCE_SECONDS)
                while wire.sock.recv(65_536):
                    pass
        # The connection ends without close_notify.
        wire.close_as(End.RST if opening.rst else End.RAGGED)
        self._connection_failed(opening.name, refused=True, lost=False)

    # The requests of one connection

    def _next(self) -> bool:
        """Reads a request and answers it; False when the connection has ended."""
        then = self._last.next if self._last else Next.ANSWER
        wire = self._wire
        if self._last is not None:
            self._server.set_idle(self._number, wire)
            if then in (Next.FIN_SOON, Next.RST_SOON, Next.STRAY_SOON) and not wire.buffer:
                since = time.monotonic()
                wire.receive(self._last.idle)
                if then is Next.STRAY_SOON:
                    self._send_stray(then)
                    wire.unfit_since = time.monotonic()
                else:
                    # A request that comes right now is not read.
                    self._connection_failed(f"kept: {then.value}", since=since)
                    wire.close_as(End.FIN if then is Next.FIN_SOON else End.RST)
                    return False
            if then in (Next.RST_UNREAD, Next.FIN_UNREAD):
                if not wire.buffer and not wire.peek():
                    return False
                if then is Next.FIN_UNREAD:
                    wire.receive(PATIENCE_SECONDS)
                self._connection_failed(f"kept: {then.value}", since=time.monotonic())
                wire.close_as(End.RST if then is Next.RST_UNREAD else End.FIN)
                return False
        arrival = self._read()
        if arrival is None:
            return False
        self._server.set_idle(self._number, None)
        if then is Next.STRAY_AT_REQUEST:
            self._send_stray(then)
        arrival.stray = self._strayed
        return self._answer(arrival, then)

    def _send_stray(self, when: Next) -> None:
        self._event(f"kept: {when.value}")
        self._strayed = True
        self._wire.send(self._stray)

    def _read(self) -> Arrival | None:
        wire = self._wire
        while b"\r\n\r\n" not in wire.buffer:
            if not wire.receive(PATIENCE_SECONDS):
                return None
        head, _, rest = wire.buffer.partition(b"\r\n\r\n")
        first, *lines = head.decode("latin-1").split("\r\n")
        headers = {name.lower(): value.strip() for name, _, value in (line.partition(":") for line in lines)}
        length = int(headers.get("content-length", 0))
        while len(rest) < length:
            if not wire.receive(PATIENCE_SECONDS):
                return None
            rest = wire.buffer.partition(b"\r\n\r\n")[2]
        wire.buffer = rest[length:]
        return self._arrived(first, headers, rest[:length])

    def _arrived(self, first: str, headers: dict[str, str], body: bytes) -> Arrival:
        server = self._server
        method, target, _ = first.split(" ")
        parts = urlsplit(target)
        allowed = HEADERS | (OF_A_BODY if method == "POST" else set())
        expected = {"GET": STATUS_PATH, "POST": CANCELLATION_PATH}
        if parts.path != expected.get(method) or set(headers) - allowed:
            with server.lock:
                server.unexpected.append(f"{first} with {sorted(headers)}")
        document = simplejson.loads(body, use_decimal=True) if body else {}
        order = document.get("merchantOrderId") or parse_qs(parts.query).get("merchantOrderId", [""])[0]
        refund_id = document.get("refundId")
        amount = document.get("cancellationAmount")
        with server.lock:
            attempt = 1 + sum(other.order == order and other.refund_id == refund_id for other in server.arrivals)
            arrival = Arrival(
                method,
                order,
                refund_id,
                None if amount is None else Decimal(amount),
                headers.get("authorization", "").removeprefix("Bearer ").partition(":")[0],
                attempt,
                time.monotonic(),
                self._number,
                self._served,
                self._opened_at,
                self._idle_since,
                self._early,
                unfit_since=self._wire.unfit_since,
            )
            server.arrivals.append(arrival)
        self._served += 1
        return arrival

    def _answer(self, arrival: Arrival, then: Next) -> bool:
        server, wire = self._server, self._wire
        rng = random.Random(f"{server.seed}/{arrival.method}/{arrival.order}/{arrival.refund_id}/{arrival.attempt}")
        asked = Asked(
            arrival.order, arrival.refund_id, arrival.amount, server.others.get(arrival.refund_id or arrival.order)
        )
        cancels = arrival.method == "POST"
        answer = answers.to_cancel(rng, asked) if cancels else answers.to_status(rng, asked)
        if arrival.api_key not in server.valid_keys:
            answer = answers.unauthorized(rng)
        arrival.answer_sent = answer
        if then in (Next.CLOSE_UNANSWERED, Next.MUTE) or (self._last is not None and self._last.end is End.HALF):
            arrival.answered = False
            arrival.delivery = Delivery(Clarity.HIDDEN, [], End.FIN, nothing_came=then is not Next.MUTE)
            if then in (Next.CLOSE_UNANSWERED, Next.MUTE):
                self._event(f"kept: {then.value}")
            if then is Next.MUTE:
                wire.wait(PATIENCE_SECONDS)
            return False
        seconds = deliveries.CANCEL_READ_SECONDS if cancels else deliveries.STATUS_READ_SECONDS
        if answer.name == "OK that names its request" and rng.random() < 0.5:
            server.swap.exchange(arrival, seconds * 0.3)
            answer = arrival.answer_sent
        delivery = deliveries.delivery_of(rng, answer, seconds, tls=server.context is not None)
        arrival.delivery = delivery
        self._event(answer.name)
        for event in delivery.events:
            self._event(event)
        return self._carry(arrival, answer, delivery, rng)

    def _carry(self, arrival: Arrival, answer: ServerAnswer, delivery: Delivery, rng: random.Random) -> bool:
        wire = self._wire
        self._early = bool(wire.buffer)
        for step in delivery.steps:
            if isinstance(step, bytes):
                wire.send(step)
            else:
                wire.wait(step)
            # Before the last byte was sent, no other request may come on this connection.
            self._early = self._early or bool(wire.buffer)
        self._idle_since = self._server.wall()
        if "answered twice at once" in delivery.events:
            self._strayed = True
        own = b"".join(step for step in delivery.steps if isinstance(step, bytes))
        self._stray = own if answer.names(arrival.order) and delivery.clarity is Clarity.CLEAR else rng.choice(_STRAYS)
        self._last = delivery
        if delivery.unfinished and delivery.end in (End.KEEP, End.HALF, End.HANG):
            if delivery.end is End.HALF:
                wire.close_as(End.HALF)
            # Any request that comes now is too early: the last answer has not ended.
            while not wire.buffer:
                if not wire.receive(PATIENCE_SECONDS):
                    return False
            self._early = True
            return True
        if delivery.end in (End.FIN, End.RST, End.RAGGED):
            wire.close_as(delivery.end)
            return False
        if delivery.end is End.HALF:
            wire.close_as(End.HALF)
            wire.unfit_since = time.monotonic()
        return True


# None of them names a request.
_STRAYS = (
    b"HTTP/1.1 408 Request Timeout\r\nConnection: close\r\nContent-Length: 0\r\n\r\n",
    b"HTTP/1.1 503 Service Unavailable\r\nConnection: close\r\nContent-Length: 0\r\n\r\n",
    b'HTTP/1.1 404 Not Found\r\nContent-Length: 19\r\n\r\n{"status": "ERROR"}',
    b'HTTP/1.1 200 OK\r\nContent-Length: 45\r\n\r\n{"status": "OK", "transactionStatus": "PAID"}',
    b'HTTP/1.1 200 OK\r\nContent-Length: 40\r\n\r\n{"stat',
    b"\x00\x01garbage",
)
