"""HTTP connections that know whether a request can have gone out, and that keep to their time.

requests and urllib3 report a failure by its class, and several classes are raised both before and after the request
was sent. Here connect() raises one class of its own, for everything that fails in it (DNS, TCP, TLS, certificate), and
nothing else raises that: the request was surely not sent if, and only if, a NotConnected is found in the error.
"""

import http.client
import io
import socket
import ssl
import time
from collections.abc import Callable, Iterator
from http.cookiejar import DefaultCookiePolicy
from typing import Any, ClassVar

import certifi
import requests
from requests.adapters import HTTPAdapter
from urllib3.connection import HTTPConnection, HTTPSConnection
from urllib3.connectionpool import HTTPConnectionPool, HTTPSConnectionPool
from urllib3.exceptions import MaxRetryError, NewConnectionError
from urllib3.util.connection import create_connection

# A NAT gateway forgets an idle connection (AWS's after 350 s), load balancers often after 60 s, and a frozen Lambda
# function wakes with connections that nobody else remembers. A refund sent on one of those ends in "nobody knows", so
# a connection is given up well before; a new one costs some milliseconds.
IDLE_SECONDS = 20.0


class NotConnected(NewConnectionError):
    """Nothing was sent: there was no connection to send it on."""

    def __init__(self, connection: HTTPConnection, cause: Exception) -> None:
        super().__init__(connection, str(cause) or type(cause).__name__)
        self.reason = str(cause) or type(cause).__name__
        self.timed_out = isinstance(cause, TimeoutError)


class _UntilDeadline(io.RawIOBase):
    """Reads a socket within a total time; the socket's own timeout starts anew with every byte that trickles in."""

    def __init__(self, raw: io.RawIOBase, sock: socket.socket) -> None:
        self._raw = raw
        self._sock = sock
        self._deadline = time.monotonic() + (sock.gettimeout() or 0.0)

    def readable(self) -> bool:
        return True

    def readinto(self, buffer: Any) -> int | None:
        remaining = self._deadline - time.monotonic()
        if remaining <= 0:
            raise TimeoutError("timed out")
        self._sock.settimeout(remaining)
        return self._raw.readinto(buffer)

    def close(self) -> None:
        if not self.closed:
            self._raw.close()
        super().close()


class _Response(http.client.HTTPResponse):
    """An answer whose status line, headers and body together keep to the read timeout."""

    def __init__(self, sock: socket.socket, *args: Any, **kwargs: Any) -> None:
        super().__init__(sock, *args, **kwargs)
        self.fp = io.BufferedReader(_UntilDeadline(self.fp.detach(), sock))

    def begin(self) -> None:
        super().begin()
        # urllib3 would log what stands among the headers and is none, whatever it says.
        self.headers.set_payload("")
        self.headers.defects = []


class _Connection(HTTPConnection):
    response_class = _Response
    clock: "ClassVar[staticmethod[[], float]]" = staticmethod(time.time)
    _answered_at = 0.0
    _connect_by = 0.0

    def connect(self) -> None:
        self._connect_by = time.monotonic() + (self.timeout or 0.0)
        try:
            super().connect()
        except Exception as error:
            raise NotConnected(self, error) from error

    def _new_conn(self) -> socket.socket:
        """TCP, with the time shared out among the host's addresses; what is left of it is for TLS."""
        addresses = socket.getaddrinfo(self.host.strip("[]"), self.port, type=socket.SOCK_STREAM)
        for tried, (*_, address) in enumerate(addresses):
            try:
                seconds = self._connect_seconds_left() / (len(addresses) - tried)
                where = (str(address[0]), int(address[1]))
                sock = create_connection(where, seconds, socket_options=self.socket_options)
                sock.settimeout(self._connect_seconds_left())
                return sock
            except OSError:
                if tried + 1 == len(addresses):
                    raise
        raise OSError("the host has no address")

    def _connect_seconds_left(self) -> float:
        left = self._connect_by - time.monotonic()
        if left <= 0:
            raise TimeoutError("timed out")
        return left

    def request(self, *args: Any, **kwargs: Any) -> None:
        if self.sock is not None:
            # A reused socket still has what was left of its last answer's time.
            self.sock.settimeout(self.timeout)
        super().request(*args, **kwargs)

    def getresponse(self) -> Any:
        response = super().getresponse()
        self._answered_at = self.clock()
        return response

    @property
    def is_connected(self) -> bool:
        # The wall clock, because a monotonic one may stand still while the function is frozen; a wall clock that was
        # set back says nothing about idleness, so then too the connection is given up.
        return 0 <= self.clock() - self._answered_at <= IDLE_SECONDS and super().is_connected


class _SecureConnection(_Connection, HTTPSConnection):
    pass


class _Adapter(HTTPAdapter):
    def __init__(self, pool_size: int, ssl_context: ssl.SSLContext | None, clock: Callable[[], float]) -> None:
        self._ssl_context = ssl_context
        self._clock = clock
        super().__init__(pool_connections=1, pool_maxsize=pool_size, max_retries=0)

    def init_poolmanager(self, *args: Any, **kwargs: Any) -> None:
        super().init_poolmanager(*args, ssl_context=self._ssl_context, **kwargs)
        clock = {"clock": staticmethod(self._clock)}
        plain = type("Connection", (_Connection,), clock)
        secure = type("SecureConnection", (_SecureConnection,), clock)
        self.poolmanager.pool_classes_by_scheme = {
            "http": type("Pool", (HTTPConnectionPool,), {"ConnectionCls": plain}),
            "https": type("SecurePool", (HTTPSConnectionPool,), {"ConnectionCls": secure}),
        }

    def cert_verify(self, *args: Any, **kwargs: Any) -> None:
        """Nothing to set up: the shared TLS context verifies. (The inherited one reads the CA file per connection.)"""


class _Session(requests.Session):
    def get_redirect_target(self, resp: requests.Response) -> None:  # noqa: ARG002
        """No redirect is followed, nor looked at: requests reads the whole body and the Location even when told not
        to follow, and either may raise after the request has done its work."""
        return


def session(base_url: str, pool_size: int, ssl_context: ssl.SSLContext | None, clock: Callable[[], float]) -> _Session:
    """A session with one pool of connections, which keeps nothing between two requests but these."""
    made = _Session()
    # A .netrc would replace the Authorization header; proxies and CA files of the environment are not ours either.
    made.trust_env = False
    made.cookies.set_policy(DefaultCookiePolicy(allowed_domains=[]))
    if ssl_context is None and base_url.startswith("https:"):
        ssl_context = ssl.create_default_context(cafile=certifi.where())
    adapter = _Adapter(pool_size, ssl_context, clock)
    made.mount("https://", adapter)
    made.mount("http://", adapter)
    return made


def causes(error: BaseException) -> Iterator[BaseException]:
    """The error and those it carries. Not by __context__: that may lead to an earlier call's error, when this call is
    made while that one is being handled."""
    inner: BaseException | None = error
    while inner is not None:
        yield inner
        carried = inner.reason if isinstance(inner, MaxRetryError) else None
        inner = carried or next((arg for arg in reversed(inner.args) if isinstance(arg, BaseException)), None)
