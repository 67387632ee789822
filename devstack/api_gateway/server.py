"""A port that speaks HTTP/1.1 in front of an `HttpApi`, and that no caller can upset."""

import re
import socket
import sys
import threading
import time
import traceback
from email.errors import FirstHeaderLineIsContinuationDefect, MissingHeaderBodySeparatorDefect
from http import HTTPStatus
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from socketserver import TCPServer
from typing import Any

from devstack.api_gateway.http_api import HttpApi
from devstack.api_gateway.messages import BadRequestError, Request, Response, refusal
from devstack.aws import advertised_host
from devstack.errors import DevstackError

# An HTTP API's quotas.
MAX_BODY_BYTES = 10 * 1024 * 1024
MAX_HEADER_BYTES = 10_240
# How long a caller may keep a connection idle, or a request unfinished.
SOCKET_TIMEOUT_SECONDS = 30
# The rest of a body that is refused unread is received for so long: a reset could overtake the refusal.
LINGER_SECONDS = 2.0
SERVE_POLL_SECONDS = 0.05
# Python's parser ends the head at a line that is no header, and would take what follows for a body. The other defects
# are of multipart bodies, which the functions judge.
HEAD_DEFECTS = (FirstHeaderLineIsContinuationDefect, MissingHeaderBodySeparatorDefect)


class HttpServer:
    """The API on a port. Bound at once, so that its URL is known; serves after start()."""

    def __init__(self, host: str = "127.0.0.1", port: int = 0) -> None:
        self._api: HttpApi | None = None
        self.stopping = False
        try:
            self._server = _Server((host, port), self)
        except (OSError, OverflowError) as error:
            reason = getattr(error, "strerror", None) or error
            raise DevstackError(f"the gateway cannot listen on {host}:{port}: {reason}") from error
        self.port: int = self._server.server_address[1]
        self.url = f"http://{advertised_host(host)}:{self.port}"
        self._thread = threading.Thread(
            target=self._server.serve_forever, args=(SERVE_POLL_SECONDS,), name="gateway", daemon=True
        )

    def start(self, api: HttpApi) -> None:
        self._api = api
        self._thread.start()

    def stop(self) -> None:
        """Takes no more requests; those in flight go on."""
        self.stopping = True
        if self._thread.is_alive():
            self._server.shutdown()
            self._thread.join()
        self._server.server_close()

    def serve(self, request: Request) -> Response:
        if self._api is None or self.stopping:
            return refusal(503)
        return self._api.handle(request)


class _Server(ThreadingHTTPServer):
    daemon_threads = True
    request_queue_size = 512

    def __init__(self, address: tuple[str, int], http_server: HttpServer) -> None:
        self.http_server = http_server
        super().__init__(address, _Handler)

    def server_bind(self) -> None:
        # HTTPServer's looks the host's name up, which can take seconds where there is no DNS.
        TCPServer.server_bind(self)
        self.server_name, self.server_port = "localhost", self.server_address[1]

    def handle_error(self, request: Any, client_address: Any) -> None:
        # Callers hang up, and that is no error; anything else is.
        if not isinstance(sys.exception(), OSError):
            super().handle_error(request, client_address)


class _Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    timeout = SOCKET_TIMEOUT_SECONDS
    disable_nagle_algorithm = True

    server: _Server

    def __getattr__(self, name: str) -> Any:
        # http.server looks for do_GET and the like; API Gateway decides by its routes, whatever the method.
        if name.startswith("do_"):
            return self._answer
        raise AttributeError(name)

    def log_message(self, *_: object) -> None:
        """Nothing: the API reports its requests."""

    def version_string(self) -> str:
        return "devstack"

    def send_error(self, code: int, *_: object) -> None:
        """http.server's refusals of what is not HTTP: as JSON, and 4xx, for the error is the caller's."""
        self.close_connection = True
        self._send(refusal(code if 400 <= code < 500 else 400))
        self._linger()

    def _answer(self) -> None:
        try:
            body = self._read_body()
        except BadRequestError as error:
            self.close_connection = True
            self._send(refusal(error.status))
            self._linger()
            return
        except TimeoutError:
            self.close_connection = True
            self._send(refusal(408))
            return
        request = Request(
            method=self.command,
            target=self.path,
            headers=[(name, _utf8(value)) for name, value in self.headers.items()],
            body=body,
            source_ip=str(self.client_address[0]),
            protocol=self.request_version,
        )
        try:
            response = self.server.http_server.serve(request)
        except Exception:
            traceback.print_exc()
            response = refusal(500)
        if self.server.http_server.stopping:
            self.close_connection = True
        self._send(response)

    def _read_body(self) -> bytes:
        if sum(len(name) + len(value) for name, value in self.headers.items()) + len(self.path) > MAX_HEADER_BYTES:
            raise BadRequestError(HTTPStatus.REQUEST_HEADER_FIELDS_TOO_LARGE)
        if any(isinstance(defect, HEAD_DEFECTS) for defect in self.headers.defects):
            raise BadRequestError
        encodings = self.headers.get_all("transfer-encoding", [])
        lengths = {text.strip() for text in self.headers.get_all("content-length", [])}
        if encodings:
            if lengths or [text.strip().lower() for text in encodings] != ["chunked"]:
                raise BadRequestError
            return self._read_chunks()
        if not lengths:
            return b""
        if len(lengths) > 1 or not re.fullmatch(r"[0-9]{1,18}", (length := lengths.pop())):
            raise BadRequestError
        if int(length) > MAX_BODY_BYTES:
            raise BadRequestError(HTTPStatus.REQUEST_ENTITY_TOO_LARGE)
        return self._read_exactly(int(length))

    def _read_exactly(self, count: int) -> bytes:
        data = self.rfile.read(count)
        if len(data) < count:
            raise BadRequestError
        return data

    def _read_chunks(self) -> bytes:
        chunks: list[bytes] = []
        total = 0
        while True:
            size = self.rfile.readline(1024).split(b";")[0].strip()
            if not re.fullmatch(rb"[0-9A-Fa-f]{1,8}", size):
                raise BadRequestError
            total += int(size, 16)
            if total > MAX_BODY_BYTES:
                raise BadRequestError(HTTPStatus.REQUEST_ENTITY_TOO_LARGE)
            if int(size, 16) == 0:
                break
            chunks.append(self._read_exactly(int(size, 16)))
            if self._read_exactly(2) != b"\r\n":
                raise BadRequestError
        for _ in range(100):  # trailers, which nothing here uses
            if self.rfile.readline(1024).strip() == b"":
                return b"".join(chunks)
        raise BadRequestError

    def _send(self, response: Response) -> None:
        bodiless = response.status in (204, 304)
        self.send_response(response.status)
        for name, value in response.headers:
            # http.server encodes headers as Latin-1; this lets UTF-8 through as it is.
            self.send_header(name, value.encode("utf-8").decode("latin-1"))
        if not bodiless:
            self.send_header("content-length", str(len(response.body)))
        if self.close_connection:
            self.send_header("connection", "close")
        self.end_headers()
        if getattr(self, "command", None) != "HEAD" and not bodiless:
            self.wfile.write(response.body)

    def _linger(self) -> None:
        """Closing with unread bytes would reset the connection, and the caller might never see the answer."""
        deadline = time.monotonic() + LINGER_SECONDS
        try:
            self.connection.shutdown(socket.SHUT_WR)
            self.connection.settimeout(LINGER_SECONDS)
            while time.monotonic() < deadline and self.connection.recv(65_536):
                pass
        except OSError:
            pass


def _utf8(value: str) -> str:
    """http.server reads headers as Latin-1; what is UTF-8 becomes what it was."""
    try:
        return value.encode("latin-1").decode("utf-8")
    except (UnicodeDecodeError, UnicodeEncodeError):
        return value
