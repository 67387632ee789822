"""The simulator's ports: each serves requests, or refuses connections without losing its port."""

import socket
import sys
import threading
from collections.abc import Callable
from contextlib import suppress
from http.server import ThreadingHTTPServer
from typing import Any

from testkit.indodana.handler import Control, Handler, OnRequest
from testkit.indodana.state import State

# How long closing a port waits for the threads of its connections. They are daemons and end with the process.
DRAIN_SECONDS = 1.0


class Server(ThreadingHTTPServer):
    """Serves a bound socket until close(), which ends its open connections too."""

    daemon_threads = True
    request_queue_size = 256

    def __init__(
        self, bound: socket.socket, state: Callable[[], State], control: Control | None, on_request: OnRequest
    ) -> None:
        super().__init__(bound.getsockname(), Handler, bind_and_activate=False)
        self.socket.close()
        self.socket = bound
        self.state = state
        self.control = control
        self.on_request = on_request
        self._connections: set[socket.socket] = set()
        self._changed = threading.Condition()
        self.server_activate()
        threading.Thread(target=self.serve_forever, name="simulator", daemon=True).start()

    def process_request(self, request: Any, client_address: Any) -> None:
        with self._changed:
            self._connections.add(request)
        super().process_request(request, client_address)

    def shutdown_request(self, request: Any) -> None:
        # The base class shuts the socket down first, which sends a FIN even where an RST is wanted.
        request.close()
        with self._changed:
            self._connections.discard(request)
            self._changed.notify_all()

    def handle_error(self, request: Any, client_address: Any) -> None:
        if not isinstance(sys.exception(), OSError):  # a caller that closes its connection is no error here
            super().handle_error(request, client_address)

    def close(self) -> None:
        # Wakes the accept loop at once instead of at its next poll (on Linux; elsewhere it is an error).
        with suppress(OSError):
            self.socket.shutdown(socket.SHUT_RDWR)
        self.shutdown()
        self.server_close()
        with self._changed:
            for connection in self._connections:
                with suppress(OSError):
                    connection.shutdown(socket.SHUT_RDWR)
            self._changed.wait_for(lambda: not self._connections, DRAIN_SECONDS)


class Listener:
    """A port that serves, or that refuses connections while no other process can take it."""

    def __init__(
        self,
        host: str,
        port: int,
        state: Callable[[], State],
        control: Control | None = None,
        on_request: OnRequest = lambda _request, _seconds: None,
    ) -> None:
        """`state` is asked once for each request. Without `control` the control API is not served."""
        self._state = state
        self._control = control
        self._on_request = on_request
        self._host = host
        self._port = port
        self._server: Server | None = None
        self._reserved: socket.socket | None = None

    @property
    def url(self) -> str:
        if not self._port:
            raise RuntimeError("The simulator has not been started, so its port is not known yet")
        return f"http://{self._host}:{self._port}"

    def open(self) -> None:
        if self._server is None:
            bound = self._reserved or self._bind()
            bound.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            self._reserved = None
            self._server = Server(bound, self._state, self._control, self._on_request)

    def refuse(self) -> None:
        self.close()
        # Bound but not listening: the kernel answers connections with an RST, and no other process gets the port.
        self._reserved = self._bind()
        # Two sockets that both reuse addresses can share a port until one of them listens. This one must not.
        self._reserved.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 0)

    def close(self) -> None:
        if self._server is not None:
            self._server.close()
            self._server = None
        if self._reserved is not None:
            self._reserved.close()
            self._reserved = None

    def _bind(self) -> socket.socket:
        bound = socket.socket()
        try:
            bound.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            bound.bind((self._host, self._port))
        except OSError:
            bound.close()
            raise
        self._port = bound.getsockname()[1]
        return bound
