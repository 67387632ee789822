"""HTTP exchanges with a total timeout, in which no answer can belong to another request.

    get     on a kept connection or a new one; a failure on a kept one is retried once, on a new one
    post    on a new connection that is used only once; never retried

An error raised here means that nothing was sent: the connection failed, or the caller stopped the request. Everything
from the first written byte on is an Answer, complete or not.
"""

import http.client
import io
import re
import socket
import ssl
import threading
import time
import weakref
import zlib
from collections.abc import Callable, Mapping
from contextlib import suppress
from dataclasses import dataclass, field
from typing import Any
from urllib.parse import urlsplit

import requests
from urllib3.connection import HTTPConnection, HTTPSConnection
from urllib3.util.connection import create_connection

from indodana.errors import (
    AnswerTimedOut,
    AnswerUnreadable,
    ConnectionFailed,
    ConnectionLost,
    ConnectTimedOut,
    OutcomeUnknown,
    SendingTooLate,
)
from indodana.trust import verifying_context

# A NAT gateway drops an idle connection (AWS's after 350 s), load balancers often after 60 s, and a frozen Lambda
# function wakes with connections that no longer exist. A connection is closed well before; a new one costs some
# milliseconds.
IDLE_SECONDS = 20.0
# Known answers are below 1 KiB; a proxy's error pages have some KiB.
MAX_BODY_BYTES = 64 * 1024
# The body with headers and chunk framing.
MAX_WIRE_BYTES = 4 * MAX_BODY_BYTES
READ_BYTES = 8192
SWITCHING_PROTOCOLS = 101
_LENGTH = re.compile("[0-9]{1,18}")


@dataclass(frozen=True)
class Answer:
    """An answer: `http_status` is None if there was none; `broken` is the reason if it is not complete."""

    http_status: int | None
    headers: http.client.HTTPMessage = field(repr=False)
    body: bytes = field(repr=False)
    broken: OutcomeUnknown | None = None


class Transport:
    """Connections to the host of `base_url`; thread-safe. Keeps nothing else between requests."""

    def __init__(
        self, base_url: str, pool_size: int, ssl_context: ssl.SSLContext | None, clock: Callable[[], float]
    ) -> None:
        parts = urlsplit(base_url)
        self._host, self._port = parts.hostname or "", parts.port
        self._ssl_context: ssl.SSLContext | None = None
        if parts.scheme == "https":
            self._ssl_context = ssl_context or verifying_context()
        self._pool_size = pool_size
        self._clock = clock
        self._lock = threading.Lock()
        self._idle: list[_Connection] = []
        # Closes the kept connections when the transport is collected.
        weakref.finalize(self, _close_all, self._idle)

    def get(
        self,
        request: requests.PreparedRequest,
        *,
        connect_seconds: float,
        read_seconds: float,
        is_ours: Callable[[Answer], bool],
    ) -> Answer:
        """`is_ours`: whether a complete answer certainly belongs to this request. Raises ConnectionFailed.

        Any other answer on a kept connection may belong to an earlier request, sent late or twice.
        """
        kept = self._take()
        if kept is None:
            connection = self._connect(connect_seconds)
            return self._get_on(connection, request, time.monotonic() + read_seconds, is_ours)
        deadline = time.monotonic() + read_seconds
        answer = self._get_on(kept, request, deadline, is_ours)
        left = deadline - time.monotonic()
        if left <= 0 or (answer.broken is None and is_ours(answer)):
            return answer
        # The peer may have closed the connection, or answered late on it. Asking again moves no money.
        return self._get_on(self._connect(min(connect_seconds, left)), request, deadline, is_ours)

    def post(
        self,
        request: requests.PreparedRequest,
        *,
        connect_seconds: float,
        read_seconds: float,
        may_send: Callable[[], bool],
    ) -> Answer:
        """`may_send` is called right before the first byte is written. Raises ConnectionFailed, SendingTooLate.

        A kept connection is never used: the peer may have closed it, or another request's answer may still arrive on
        it, and neither is visible before it is used.
        """
        connection = self._connect(connect_seconds)
        try:
            if not may_send():
                raise SendingTooLate("the caller stopped the request before it was sent")
            headers = {**request.headers, "Connection": "close"}
            return connection.exchange(request, headers, time.monotonic() + read_seconds)
        finally:
            connection.close()

    def close(self) -> None:
        """Closes the idle connections; the transport can still be used."""
        with self._lock:
            _close_all(self._idle)

    def _get_on(
        self,
        connection: "_Connection",
        request: requests.PreparedRequest,
        deadline: float,
        is_ours: Callable[[Answer], bool],
    ) -> Answer:
        keep = False
        try:
            answer = connection.exchange(request, request.headers, deadline)
            keep = connection.may_be_used_again and is_ours(answer)
        finally:
            if keep:
                self._keep(connection)
            else:
                connection.close()
        return answer

    def _connect(self, seconds: float) -> "_Connection":
        connection: _Connection
        if self._ssl_context is None:
            connection = _Connection(self._host, self._port, timeout=seconds)
        else:
            connection = _SecureConnection(self._host, self._port, timeout=seconds, ssl_context=self._ssl_context)
        connection.connect()
        return connection

    def _take(self) -> "_Connection | None":
        while True:
            with self._lock:
                if not self._idle:
                    return None
                connection = self._idle.pop()
            # The wall clock, because a monotonic one may stop while the function is frozen. After a wall clock was set
            # back, the idle time is not known, so the connection is closed, too.
            if 0 <= self._clock() - connection.idle_since <= IDLE_SECONDS and connection.is_silent:
                return connection
            connection.close()

    def _keep(self, connection: "_Connection") -> None:
        connection.idle_since = self._clock()
        with self._lock:
            if len(self._idle) < self._pool_size:
                self._idle.append(connection)
                return
        connection.close()


def _close_all(connections: "list[_Connection]") -> None:
    while connections:
        connections.pop().close()


class _UntilDeadline(io.RawIOBase):
    """Reads a socket within a total time and a total size; a socket's own timeout restarts with every byte that
    arrives."""

    def __init__(self, raw: io.RawIOBase, sock: socket.socket) -> None:
        self._raw = raw
        self._sock = sock
        self._deadline = time.monotonic() + (sock.gettimeout() or 0.0)
        self._bytes_left = MAX_WIRE_BYTES
        self.ended = False

    def readable(self) -> bool:
        return True

    def readinto(self, buffer: Any) -> int | None:
        if self.ended:
            return 0
        if self._bytes_left <= 0:
            raise http.client.HTTPException("answer is larger than the size limit")
        self._sock.settimeout(_seconds_until(self._deadline))
        read = self._raw.readinto(buffer)
        self._bytes_left -= read or 0
        return read

    def close(self) -> None:
        if not self.closed:
            self._raw.close()
        super().close()


class _Reader(io.BufferedReader):
    """Shows whether more bytes had arrived than were read: the rest would be lost, or be read as the next answer."""

    has_rest = False

    def __init__(self, raw: _UntilDeadline) -> None:
        super().__init__(raw)
        self._until_deadline = raw

    def close(self) -> None:
        if not self.closed:
            self._until_deadline.ended = True
            self.has_rest = bool(self.peek())
        super().close()


class _Response(http.client.HTTPResponse):
    """A final answer; the socket's timeout is the total for its status line, headers and body."""

    def __init__(self, sock: socket.socket, *args: Any, **kwargs: Any) -> None:
        super().__init__(sock, *args, **kwargs)
        self.reader = _Reader(_UntilDeadline(self.fp.detach(), sock))
        self.fp = self.reader

    def _read_status(self) -> tuple[str, int, str]:
        """http.client skips only a 100, and would take any other 1xx for the final answer."""
        while True:
            version, status, reason = super()._read_status()  # type: ignore[misc]
            if not 100 <= status <= 199 or status == SWITCHING_PROTOCOLS:
                return version, status, reason
            http.client.parse_headers(self.fp)


class _Connection(HTTPConnection):
    response_class = _Response
    idle_since = 0.0
    may_be_used_again = False
    _connect_by = 0.0

    def connect(self) -> None:
        """DNS, TCP, TLS and the certificate, within the timeout. Raises ConnectionFailed."""
        self._connect_by = time.monotonic() + (self.timeout or 0.0)
        try:
            super().connect()
        except Exception as error:
            self.close()
            failed = ConnectTimedOut if isinstance(error, TimeoutError) else ConnectionFailed
            raise failed(f"no connection to Indodana: {str(error) or type(error).__name__}") from error

    def _new_conn(self) -> socket.socket:
        """Connects to the first address of the host that accepts; all addresses share one timeout."""
        addresses = socket.getaddrinfo(self._dns_host, self.port, type=socket.SOCK_STREAM)
        for tried, (*_, address) in enumerate(addresses):
            try:
                seconds = _seconds_until(self._connect_by) / (len(addresses) - tried)
                where = (str(address[0]), int(address[1]))
                sock = create_connection(where, seconds, socket_options=self.socket_options)
                sock.settimeout(_seconds_until(self._connect_by))
                return sock
            except OSError:
                if tried + 1 == len(addresses):
                    raise
        raise OSError("the host has no address")

    @property
    def is_silent(self) -> bool:
        """Whether nothing has arrived since the last answer: no close, no unexpected data."""
        read_by_tls = self.sock.pending() if isinstance(self.sock, ssl.SSLSocket) else 0
        return self.is_connected and not read_by_tls

    def exchange(self, request: requests.PreparedRequest, headers: Mapping[str, str], deadline: float) -> Answer:
        """Writes the request and reads the answer. From here on the outcome is unknown, unless the answer shows it."""
        self.may_be_used_again = False
        try:
            self.timeout = _seconds_until(deadline)
            # The peer may have answered and closed before it read everything.
            with suppress(BrokenPipeError, ConnectionResetError):
                self.request(str(request.method), request.path_url, body=request.body, headers=headers)
            if self.sock is not None:
                self.sock.settimeout(_seconds_until(deadline))
            # urllib3's own method would log invalid header lines, which may contain anything.
            response = http.client.HTTPConnection.getresponse(self)
        except Exception as error:
            return Answer(None, http.client.HTTPMessage(), b"", _unknown(error))
        assert isinstance(response, _Response)
        with response:
            body, broken = _read(response)
        self.may_be_used_again = not (
            broken or response.will_close or response.status == SWITCHING_PROTOCOLS or response.reader.has_rest
        )
        return Answer(response.status, response.headers, body, broken)


class _SecureConnection(_Connection, HTTPSConnection):
    pass


def _read(response: _Response) -> tuple[bytes, OutcomeUnknown | None]:
    body = bytearray()
    try:
        if not _has_clear_length(response.headers):
            return b"", AnswerUnreadable("Indodana's answer has an ambiguous length")
        while len(body) <= MAX_BODY_BYTES and (part := response.read(READ_BYTES)):
            body += part
    except Exception as error:
        if isinstance(error, http.client.IncompleteRead):
            body += error.partial
        return bytes(body[:MAX_BODY_BYTES]), _unknown(error)
    if len(body) > MAX_BODY_BYTES:
        return bytes(body[:MAX_BODY_BYTES]), _too_large()
    if response.length:  # not all of Content-Length has arrived
        return bytes(body), _unknown(http.client.IncompleteRead(b""))
    return _decoded(bytes(body), response.headers.get("Content-Encoding", "").strip().lower())


def _has_clear_length(headers: http.client.HTTPMessage) -> bool:
    """Whether the headers give one standard length; otherwise two readers may find two different ends."""
    lengths, codings = headers.get_all("Content-Length", []), headers.get_all("Transfer-Encoding", [])
    if codings:
        return not lengths and [coding.lower() for coding in codings] == ["chunked"]
    return not lengths or (len(lengths) == 1 and _LENGTH.fullmatch(lengths[0].strip()) is not None)


def _decoded(body: bytes, coding: str) -> tuple[bytes, OutcomeUnknown | None]:
    """The body without its Content-Encoding: a server may compress although the request asked for identity."""
    if coding in ("", "identity"):
        return body, None
    unreadable = AnswerUnreadable("Indodana's answer has an unreadable Content-Encoding")
    if coding not in ("gzip", "x-gzip", "deflate"):
        return body, unreadable
    unpacking = zlib.decompressobj(zlib.MAX_WBITS | 32)  # gzip or zlib, by its header
    try:
        unpacked = unpacking.decompress(body, MAX_BODY_BYTES + 1)
    except zlib.error:
        return body, unreadable
    if len(unpacked) > MAX_BODY_BYTES:
        return unpacked[:MAX_BODY_BYTES], _too_large()
    return unpacked, None if unpacking.eof and not unpacking.unused_data else unreadable


def _unknown(error: Exception) -> OutcomeUnknown:
    """The error for an exchange that was interrupted. An unexpected exception is an unknown outcome, too."""
    # Both are raised for a connection that ends early, and both are http.client.HTTPException.
    ended = isinstance(error, http.client.RemoteDisconnected | http.client.IncompleteRead)
    unknown: OutcomeUnknown
    if isinstance(error, TimeoutError):
        unknown = AnswerTimedOut("Indodana did not send a complete answer in time")
    elif isinstance(error, http.client.HTTPException) and not ended:
        unknown = AnswerUnreadable("Indodana's answer is not valid HTTP")
    else:
        cause = type(error).__name__
        unknown = ConnectionLost(f"the connection to Indodana was lost before its answer was complete ({cause})")
    if not isinstance(error, http.client.HTTPException):  # such an error contains the answer's text
        unknown.__cause__ = error
    return unknown


def _too_large() -> AnswerUnreadable:
    return AnswerUnreadable(f"Indodana's answer is larger than {MAX_BODY_BYTES} bytes")


def _seconds_until(deadline: float) -> float:
    seconds = deadline - time.monotonic()
    if seconds <= 0:
        raise TimeoutError("timed out")
    return seconds
