"""Indodana and all that stands before it, on a loopback port: acts and answers as the seed says, and keeps books."""

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
from tests.wire import answers, carriage
from tests.wire.answers import Asked, Said
from tests.wire.carriage import Carried, Clarity, End, Next, Opening

# Nothing on this machine takes so long; a thread that waits longer is given up.
PATIENCE_SECONDS = 5.0
STATUS_PATH = "/chermes/merchant/v1/transactions/qris/check_status"
CANCELLATION_PATH = "/chermes/merchant/v3/order_cancellation"
# What a refund's request carries, and nothing that an earlier answer asked for.
HEADERS = {"host", "accept", "accept-encoding", "authorization", "user-agent", "connection"}
OF_A_BODY = {"content-type", "content-length"}


@dataclass
class Arrival:
    """A request that was read whole, and what was done and said about it."""

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
    # Before this nobody could know that there would be a connection.
    opened_at: float
    idle_since: float | None = None
    # Sent before the answer to the one before it had ended.
    early: bool = False
    # Bytes that are no answer to it went before its answer, or may have.
    stray: bool = False
    # Since when the client could see that the connection was closed, or had bytes on it that nobody had asked for.
    unfit_since: float | None = None
    said: Said | None = None
    carried: Carried | None = None
    # Its answer was sent as planned. Otherwise the connection had been made mute or half-closed by the request before.
    answered: bool = True
    exchanged: bool = False

    @property
    def moved(self) -> bool:
        return self.refund_id is not None and self.said is not None and self.said.moved


@dataclass(frozen=True)
class Accident:
    """A connection ended before a request on it was read whole."""

    name: str
    since: float
    until: float
    fresh: bool
    # For the client it may have been no connection at all, or one on which it sent something.
    refused: bool
    lost: bool


class _Gone(Exception):
    """The client has closed the connection."""


class _Wire:
    """One connection's bytes, through TLS or not; TLS in memory, so that it can be cut at any byte."""

    def __init__(self, sock: socket.socket, context: ssl.SSLContext | None) -> None:
        self.sock = sock
        self.sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        self._in, self._out = ssl.MemoryBIO(), ssl.MemoryBIO()
        self._tls = context.wrap_bio(self._in, self._out, server_side=True) if context else None
        self.buffer = b""
        self.unfit_since: float | None = None

    def handshake(self, at_most: int | None = None) -> None:
        """Sends so many bytes of its part of the handshake, or all."""
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
        # What came in one piece with the end of the handshake is here already.
        if self._opens_sealed():
            return True
        if not self._receive(seconds):
            return False
        self._opens_sealed()
        return True

    def _opens_sealed(self) -> bool:
        """Whether TLS had bytes for the buffer."""
        before = len(self.buffer)
        if self._tls is not None:
            with suppress(ssl.SSLWantReadError):
                while True:
                    data = self._tls.read(65_536)
                    if not data:
                        raise _Gone
                    self.buffer += data
        return len(self.buffer) > before

    def peeks(self) -> bool:
        """Waits until something comes, and leaves it there."""
        ready = select.select([self.sock], [], [], PATIENCE_SECONDS)[0]
        return bool(ready) and bool(self.sock.recv(1, socket.MSG_PEEK))

    def waits(self, seconds: float) -> None:
        """Lets time pass, and sees at once when the client goes."""
        until = time.monotonic() + seconds
        while (left := until - time.monotonic()) > 0:
            self.receive(left)

    def sends(self, data: bytes) -> None:
        self.sock.sendall(self._sealed(data))

    def _sealed(self, data: bytes) -> bytes:
        if self._tls is None:
            return data
        if data:
            self._tls.write(data)
        return self._out.read()

    def closes(self, end: End) -> None:
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
    """`wall` is the clock that the client goes by; `read_seconds` its deadlines by method."""

    def __init__(self, seed: int, context: ssl.SSLContext | None, wall: Callable[[], float]) -> None:
        self.seed = seed
        self.context = context
        self.wall = wall
        # What each refund's and each order's request may be answered with, by mistake.
        self.others: dict[str, Asked] = {}
        self.valid_keys: set[str] = set()
        self.arrivals: list[Arrival] = []
        self.accidents: list[Accident] = []
        self.unexpected: list[str] = []
        self.events: Counter[str] = Counter()
        self.lock = threading.Lock()
        self.booth = _Booth()
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
        """Reads what has been sent, and nothing after that. Returns when every answer has been given, or given up."""
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

    def forgets(self, rng: random.Random) -> None:
        """As while a function is frozen: kept connections end, with a word or without."""
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

    def idles(self, number: int, wire: _Wire | None) -> None:
        with self.lock:
            if wire is None:
                self._idle.pop(number, None)
            else:
                self._idle[number] = wire


class _Booth:
    """Where two answers are exchanged, if two come within a moment."""

    def __init__(self) -> None:
        self._condition = threading.Condition()
        self._left: list[Arrival] = []

    def exchange(self, arrival: Arrival, seconds: float) -> None:
        """What it said may be another's afterwards, and that one's said what this one did."""
        with self._condition:
            if self._left:
                other = self._left.pop()
                assert arrival.said is not None
                assert other.said is not None
                arrival.said, other.said = _given(arrival.said, other.said), _given(other.said, arrival.said)
                arrival.exchanged = other.exchanged = True
                self._condition.notify_all()
                return
            self._left.append(arrival)
            until = time.monotonic() + seconds
            while not arrival.exchanged and (left := until - time.monotonic()) > 0:
                self._condition.wait(left)
            if not arrival.exchanged:
                self._left.remove(arrival)


def _given(own: Said, other: Said) -> Said:
    """The other's answer, to a request that was done."""
    name, verdicts = "OK, exchanged with another's", (ContradictingAnswer,)
    return Said(name, 200, other.body, verdicts, own.moved, other.headers)


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
        self._last: Carried | None = None
        self._stray = b""

    def serve(self) -> None:
        try:
            rng = random.Random(f"{self._server.seed}/connection/{self._number}")
            opening = carriage.opening(rng, tls=self._server.context is not None)
            if self._opens(opening):
                while self._next():
                    pass
        except (_Gone, OSError, ssl.SSLError):
            if self._wire.buffer:
                with self._server.lock:
                    self._server.unexpected.append(
                        f"a request that came at the wrong time, or not whole: {self._wire.buffer!r}"
                    )
        finally:
            self._server.idles(self._number, None)
            self._wire.sock.close()

    def _event(self, name: str) -> None:
        with self._server.lock:
            self._server.events[name] += 1

    def _accident(self, name: str, *, refused: bool = False, lost: bool = True, since: float | None = None) -> None:
        now = time.monotonic()
        with self._server.lock:
            since = self._accepted_at if since is None else since
            self._server.accidents.append(Accident(name, since, now, self._served == 0, refused, lost))
        self._wire.buffer = b""

    def _opens(self, opening: Opening) -> bool:
        """Whether it comes as far as a request that is read whole."""
        wire = self._wire
        if not opening.opens:
            self._refuses(opening)
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
            wire.sends(opening.answers)
        self._accident(opening.name, refused=opening.reads == 0)
        wire.closes(End.RST if opening.rst else End.FIN)
        return False

    def _refuses(self, opening: Opening) -> None:
        """Breaks the TLS handshake off."""
        wire = self._wire
        with suppress(OSError):
            if opening.handshake_bytes is not None:
                wire.handshake(opening.handshake_bytes)
            if opening.handshake_says is not None:
                wire.peeks()
                wire.sock.sendall(opening.handshake_says)
            if opening.hangs:
                wire.sock.settimeout(PATIENCE_SECONDS)
                while wire.sock.recv(65_536):
                    pass
        # The connection ends, and TLS says nothing about it.
        wire.closes(End.RST if opening.rst else End.RAGGED)
        self._accident(opening.name, refused=True, lost=False)

    # The requests of one connection

    def _next(self) -> bool:
        """Reads a request and answers it; False when the connection has come to its end."""
        then = self._last.next if self._last else Next.ANSWER
        wire = self._wire
        if self._last is not None:
            self._server.idles(self._number, wire)
            if then in (Next.FIN_SOON, Next.RST_SOON, Next.STRAY_SOON) and not wire.buffer:
                since = time.monotonic()
                wire.receive(self._last.idle)
                if then is Next.STRAY_SOON:
                    self._strays(then)
                    wire.unfit_since = time.monotonic()
                else:
                    # A request that came at this very moment is not read.
                    self._accident(f"kept: {then.value}", since=since)
                    wire.closes(End.FIN if then is Next.FIN_SOON else End.RST)
                    return False
            if then in (Next.RST_UNREAD, Next.FIN_UNREAD):
                if not wire.buffer and not wire.peeks():
                    return False
                if then is Next.FIN_UNREAD:
                    wire.receive(PATIENCE_SECONDS)
                self._accident(f"kept: {then.value}", since=time.monotonic())
                wire.closes(End.RST if then is Next.RST_UNREAD else End.FIN)
                return False
        arrival = self._read()
        if arrival is None:
            return False
        self._server.idles(self._number, None)
        if then is Next.STRAY_AT_REQUEST:
            self._strays(then)
        arrival.stray = self._strayed
        return self._answer(arrival, then)

    def _strays(self, when: Next) -> None:
        self._event(f"kept: {when.value}")
        self._strayed = True
        self._wire.sends(self._stray)

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
        said = answers.to_cancel(rng, asked) if cancels else answers.to_status(rng, asked)
        if arrival.api_key not in server.valid_keys:
            said = answers.unauthorized(rng)
        arrival.said = said
        if then in (Next.CLOSE_UNANSWERED, Next.MUTE) or (self._last is not None and self._last.end is End.HALF):
            arrival.answered = False
            arrival.carried = Carried(Clarity.HIDDEN, [], End.FIN, nothing_came=then is not Next.MUTE)
            if then in (Next.CLOSE_UNANSWERED, Next.MUTE):
                self._event(f"kept: {then.value}")
            if then is Next.MUTE:
                wire.waits(PATIENCE_SECONDS)
            return False
        seconds = carriage.CANCEL_READ_SECONDS if cancels else carriage.STATUS_READ_SECONDS
        if said.name == "OK that names its request" and rng.random() < 0.5:
            server.booth.exchange(arrival, seconds * 0.3)
            said = arrival.said
        carried = carriage.carry(rng, said, seconds, tls=server.context is not None)
        arrival.carried = carried
        self._event(said.name)
        for event in carried.events:
            self._event(event)
        return self._carry(arrival, said, carried, rng)

    def _carry(self, arrival: Arrival, said: Said, carried: Carried, rng: random.Random) -> bool:
        wire = self._wire
        self._early = bool(wire.buffer)
        for step in carried.steps:
            if isinstance(step, bytes):
                wire.sends(step)
            else:
                wire.waits(step)
            # Before the last byte has gone out, nothing else can be asked on this connection.
            self._early = self._early or bool(wire.buffer)
        self._idle_since = self._server.wall()
        if "answered twice at once" in carried.events:
            self._strayed = True
        own = b"".join(step for step in carried.steps if isinstance(step, bytes))
        self._stray = own if said.names(arrival.order) and carried.clarity is Clarity.CLEAR else rng.choice(_STRAYS)
        self._last = carried
        if carried.unfinished and carried.end in (End.KEEP, End.HALF, End.HANG):
            if carried.end is End.HALF:
                wire.closes(End.HALF)
            # Whatever comes now is sent on a connection whose last answer has not ended.
            while not wire.buffer:
                if not wire.receive(PATIENCE_SECONDS):
                    return False
            self._early = True
            return True
        if carried.end in (End.FIN, End.RST, End.RAGGED):
            wire.closes(carried.end)
            return False
        if carried.end is End.HALF:
            wire.closes(End.HALF)
            wire.unfit_since = time.monotonic()
        return True


# None of them says to whom.
_STRAYS = (
    b"HTTP/1.1 408 Request Timeout\r\nConnection: close\r\nContent-Length: 0\r\n\r\n",
    b"HTTP/1.1 503 Service Unavailable\r\nConnection: close\r\nContent-Length: 0\r\n\r\n",
    b'HTTP/1.1 404 Not Found\r\nContent-Length: 19\r\n\r\n{"status": "ERROR"}',
    b'HTTP/1.1 200 OK\r\nContent-Length: 45\r\n\r\n{"status": "OK", "transactionStatus": "PAID"}',
    b'HTTP/1.1 200 OK\r\nContent-Length: 40\r\n\r\n{"stat',
    b"\x00\x01garbage",
)
