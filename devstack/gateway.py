"""An HTTP API as API Gateway runs it: routes, the JWT authorizer, payload format 2.0, answers.

`HttpApi` is the API without sockets: what it does with a parsed request. `Gateway` puts it on a port.
"""

import base64
import json
import re
import secrets
import socket
import sys
import threading
import time
import traceback
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime
from email.errors import FirstHeaderLineIsContinuationDefect, MissingHeaderBodySeparatorDefect
from http import HTTPStatus
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from socketserver import TCPServer
from typing import Any
from urllib.parse import unquote_to_bytes, urlsplit

from devstack import pages
from devstack.aws import advertised_host
from devstack.cloudformation import ACCOUNT_ID
from devstack.errors import DevstackError
from devstack.runtime import FunctionError, StillRunningError
from devstack.template import Route
from devstack.tokens import ForbiddenError, Issuer, UnauthorizedError, authorize

# An HTTP API's quotas.
MAX_BODY_BYTES = 10 * 1024 * 1024
MAX_HEADER_BYTES = 10_240
# How long a caller may keep a connection idle, or a request unfinished.
SOCKET_TIMEOUT_SECONDS = 30
# What is left of a body that is refused unread is taken in for so long, so that the refusal is not lost in a reset.
LINGER_SECONDS = 2.0
SERVE_POLL_SECONDS = 0.05
# A line that is no header ends the head for Python's parser, and what follows would pass for a body. The other defects
# are of multipart bodies, which are the functions' to judge.
HEAD_DEFECTS = (FirstHeaderLineIsContinuationDefect, MissingHeaderBodySeparatorDefect)
# Set by the connection itself, so not a handler's to decide.
CONNECTION_HEADERS = frozenset({"connection", "content-length", "keep-alive", "transfer-encoding", "upgrade"})

type Headers = Sequence[tuple[str, str]]


@dataclass(frozen=True)
class Request:
    method: str
    target: str
    """As sent: the path still encoded, with the query."""
    headers: Headers = ()
    body: bytes = b""
    source_ip: str = "127.0.0.1"
    protocol: str = "HTTP/1.1"


@dataclass(frozen=True)
class Response:
    status: int
    body: bytes = b""
    headers: Headers = field(default_factory=tuple)


class BadRequestError(DevstackError):
    """The request cannot be understood."""

    def __init__(self, status: HTTPStatus = HTTPStatus.BAD_REQUEST) -> None:
        super().__init__(status.phrase)
        self.status = status


def refusal(status: int, headers: Headers = ()) -> Response:
    """One of API Gateway's own answers."""
    body = json.dumps({"message": HTTPStatus(status).phrase}).encode()
    return Response(status, body, (("content-type", "application/json"), *headers))


class HttpApi:
    def __init__(
        self,
        routes: Iterable[Route],
        issuer: Issuer,
        invoke: Callable[[str, Any, float], Any],
        clock: Callable[[], float] = time.time,
    ) -> None:
        self._routes = [(_pattern(route.path), route) for route in routes]
        self._issuer = issuer
        self._keys = issuer.keys()
        self._invoke = invoke
        self._clock = clock

    def handle(self, request: Request) -> Response:
        try:
            path, query = _split_target(request.target)
            if request.method in ("GET", "HEAD"):
                if (document := self._document(path)) is not None:
                    return Response(200, json.dumps(document).encode(), (("content-type", "application/json"),))
                if (page := pages.serve(path, self._issuer.url)) is not None:
                    return Response(200, *page)
            segments = [_decoded(segment) for segment in path[1:].split("/")]
            parameters = query_parameters(query)
        except BadRequestError as error:
            return refusal(error.status)
        found = self._find(request.method, segments)
        if found is None:
            return refusal(404)
        route, path_parameters = found
        claims: dict[str, Any] | None = None
        token: str | None = None
        if route.authorizer is not None:
            try:
                token = next((value for name, value in request.headers if name.lower() == "authorization"), None)
                claims = authorize(token, route.authorizer, route.scopes, self._keys, self._clock)
            except UnauthorizedError as error:
                if token is None:
                    return refusal(401, headers=[("www-authenticate", "Bearer")])
                # What a caller learns is API Gateway's wording; what a developer needs is why.
                print(f"401 {route.key}: {error}", file=sys.stderr, flush=True)
                challenge = 'Bearer scope="" error="invalid_token" error_description="the token is not valid"'
                return refusal(401, headers=[("www-authenticate", challenge)])
            except ForbiddenError as error:
                challenge = f'Bearer scope="{error}" error="insufficient_scope" error_description="a scope is missing"'
                return refusal(403, headers=[("www-authenticate", challenge)])
        event = self._event(request, route, "/" + "/".join(segments), query, parameters, path_parameters, claims)
        try:
            return to_response(self._invoke(route.function, event, route.timeout_seconds))
        except StillRunningError:
            return refusal(503)
        except FunctionError:
            return refusal(500)
        except Exception:
            print(
                f"{route.function}'s answer is no HTTP answer:\n{traceback.format_exc()}", file=sys.stderr, flush=True
            )
            return refusal(500)

    def _document(self, path: str) -> dict[str, Any] | None:
        """The issuer's public documents: the gateway stands in for the identity provider, too."""
        match path:
            case "/.well-known/openid-configuration":
                return self._issuer.configuration()
            case "/.well-known/jwks.json":
                return self._issuer.jwks()
        return None

    def _find(self, method: str, segments: Sequence[str]) -> tuple[Route, dict[str, str]] | None:
        """The most specific route: fixed segments before variables before {greedy+}, a method before ANY."""
        best: tuple[tuple[object, ...], Route, dict[str, str]] | None = None
        for pattern, route in self._routes:
            if route.method not in (method, "ANY"):
                continue
            parameters = _match(pattern, segments)
            if parameters is None:
                continue
            rank = (tuple(part.rank for part in pattern), route.method == "ANY")
            if best is None or rank < best[0]:
                best = (rank, route, parameters)
        return best[1:] if best else None

    def _event(
        self,
        request: Request,
        route: Route,
        decoded_path: str,
        query: str,
        parameters: Mapping[str, str],
        path_parameters: Mapping[str, str],
        claims: Mapping[str, Any] | None,
    ) -> dict[str, Any]:
        now = self._clock()
        headers: dict[str, str] = {}
        cookies: list[str] = []
        for name, value in request.headers:
            key = name.lower()
            if key == "cookie":
                cookies += [cookie.strip() for cookie in value.split(";") if cookie.strip()]
            else:
                headers[key] = f"{headers[key]},{value}" if key in headers else value
        headers |= {
            "x-amzn-trace-id": f"Root=1-{int(now):08x}-{secrets.token_hex(12)}",
            "x-forwarded-for": ", ".join(filter(None, [headers.get("x-forwarded-for"), request.source_ip])),
            "x-forwarded-port": headers.get("host", "").rpartition(":")[2] or "80",
            "x-forwarded-proto": "http",
        }
        context: dict[str, Any] = {
            "accountId": ACCOUNT_ID,
            "apiId": "local",
            "domainName": headers.get("host", "localhost"),
            "domainPrefix": "local",
            "http": {
                "method": request.method,
                "path": decoded_path,
                "protocol": request.protocol,
                "sourceIp": request.source_ip,
                "userAgent": headers.get("user-agent", ""),
            },
            "requestId": base64.b64encode(secrets.token_bytes(11)).decode("ascii"),
            "routeKey": route.key,
            "stage": "$default",
            "time": datetime.fromtimestamp(now, UTC).strftime("%d/%b/%Y:%H:%M:%S +0000"),
            "timeEpoch": int(now * 1000),
        }
        if claims is not None:
            texts = {name: claim_text(value) for name, value in claims.items()}
            context["authorizer"] = {"jwt": {"claims": texts, "scopes": list(route.scopes) or None}}
        event: dict[str, Any] = {
            "version": "2.0",
            "routeKey": route.key,
            # Decoded, unlike a REST API's or a function URL's.
            "rawPath": decoded_path,
            "rawQueryString": query,
            "headers": headers,
            "requestContext": context,
            "isBase64Encoded": False,
        }
        if cookies:
            event["cookies"] = cookies
        if parameters:
            event["queryStringParameters"] = dict(parameters)
        if path_parameters:
            event["pathParameters"] = dict(path_parameters)
        if request.body:
            try:
                event["body"] = request.body.decode("utf-8")
            except UnicodeDecodeError:
                event["body"] = base64.b64encode(request.body).decode("ascii")
                event["isBase64Encoded"] = True
        return event


@dataclass(frozen=True)
class _Part:
    text: str
    rank: int
    """0 a fixed segment, 1 a variable, 2 a greedy one."""


def _pattern(path: str) -> list[_Part]:
    parts = []
    for segment in path[1:].split("/"):
        if segment.startswith("{") and segment.endswith("+}"):
            parts.append(_Part(segment[1:-2], 2))
        elif segment.startswith("{") and segment.endswith("}"):
            parts.append(_Part(segment[1:-1], 1))
        else:
            parts.append(_Part(segment, 0))
    return parts


def _match(pattern: Sequence[_Part], segments: Sequence[str]) -> dict[str, str] | None:
    parameters: dict[str, str] = {}
    for index, part in enumerate(pattern):
        if part.rank == 2:
            rest = "/".join(segments[index:])
            return {**parameters, part.text: rest} if rest else None
        if index >= len(segments):
            return None
        if part.rank == 1 and segments[index]:
            parameters[part.text] = segments[index]
        elif part.rank == 1 or segments[index] != part.text:
            return None
    return parameters if len(segments) == len(pattern) else None


def _split_target(target: str) -> tuple[str, str]:
    """Path and query, still encoded; of an absolute URL, too, which HTTP allows in a request line."""
    if re.search(r"[^\x21-\x7e]", target) or re.search(r"%(?![0-9A-Fa-f]{2})", target):
        raise BadRequestError
    if not target.startswith("/"):
        parts = urlsplit(target)
        if parts.scheme not in ("http", "https"):
            raise BadRequestError
        target = f"{parts.path or '/'}?{parts.query}"
    path, _, query = target.partition("?")
    return path, query


def _decoded(text: str) -> str:
    try:
        return unquote_to_bytes(text).decode("utf-8")
    except UnicodeDecodeError:
        raise BadRequestError from None


def query_parameters(query: str) -> dict[str, str]:
    """Decoded; the values of a name that stands there twice are joined by a comma."""
    parameters: dict[str, str] = {}
    for pair in query.split("&"):
        if not pair:
            continue
        name, _, value = (_decoded(part.replace("+", " ")) for part in pair.partition("="))
        parameters[name] = f"{parameters[name]},{value}" if name in parameters else value
    return parameters


def claim_text(value: Any) -> str:
    """A claim as API Gateway hands it on: always a text."""
    if isinstance(value, str):
        return value
    if isinstance(value, list):
        return f"[{' '.join(claim_text(item) for item in value)}]"
    return json.dumps(value, separators=(",", ":"))


def to_response(result: Any) -> Response:
    """What API Gateway makes of a function's answer in format 2.0; a ValueError when it is none."""
    if not isinstance(result, dict) or "statusCode" not in result:
        # An answer without a status is the body of a 200.
        text = result if isinstance(result, str) else json.dumps(result)
        return Response(200, text.encode(), (("content-type", "application/json"),))
    status = int(str(result["statusCode"]))
    if isinstance(result["statusCode"], bool | float) or not 200 <= status <= 599:
        raise ValueError(f"statusCode is {result['statusCode']!r}")
    body = result.get("body")
    if body is not None and not isinstance(body, str):
        raise ValueError(f"body is of the type {type(body).__name__}, not a text")
    content = (body or "").encode()
    if result.get("isBase64Encoded"):
        content = base64.b64decode(content, validate=True)
    given = result.get("headers") or {}
    cookies = result.get("cookies") or []
    if not isinstance(given, dict) or not isinstance(cookies, list):
        raise ValueError("headers or cookies have the wrong type")
    headers = [(name.lower(), _header_text(value)) for name, value in given.items()]
    if any(not re.fullmatch(r"[!#$%&'*+\-.^_`|~0-9a-z]+", name) for name, _ in headers):
        raise ValueError(f"a header's name is not one: {given}")
    headers = [(name, value) for name, value in headers if name not in CONNECTION_HEADERS]
    headers += [("set-cookie", _header_text(cookie)) for cookie in cookies]
    if body is not None and "content-type" not in dict(headers):
        headers.append(("content-type", "text/plain;charset=utf-8"))
    return Response(status, content, tuple(headers))


def _header_text(value: Any) -> str:
    if not isinstance(value, str | int | float):
        raise ValueError(f"a header's value is {value!r}")
    text = claim_text(value)
    if re.search(r"[\r\n\0]", text):
        raise ValueError("a header's value holds a line break")
    return text


class Gateway:
    """The API on a port. Bound at once, so that its URL is known; served from start() on."""

    def __init__(self, host: str = "127.0.0.1", port: int = 0, log: Callable[[str], None] = lambda _: None) -> None:
        self._log = log
        self._api: HttpApi | None = None
        self.stopping = False
        try:
            self._server = _Server((host, port), self)
        except (OSError, OverflowError) as error:
            reason = getattr(error, "strerror", None) or error
            raise DevstackError(f"the gateway cannot listen on {host}:{port}: {reason}") from error
        self.url = f"http://{advertised_host(host)}:{self._server.server_address[1]}"
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
        started = time.monotonic()
        response = self._api.handle(request)
        milliseconds = (time.monotonic() - started) * 1000
        self._log(f"{request.method} {ascii(request.target)[1:-1]} {response.status} {milliseconds:.0f} ms")
        return response


class _Server(ThreadingHTTPServer):
    daemon_threads = True
    request_queue_size = 512

    def __init__(self, address: tuple[str, int], gateway: Gateway) -> None:
        self.gateway = gateway
        super().__init__(address, _Handler)

    def server_bind(self) -> None:
        # HTTPServer's looks the host's name up, which can take seconds where there is no DNS.
        TCPServer.server_bind(self)
        self.server_name, self.server_port = "localhost", self.server_address[1]

    def handle_error(self, request: Any, client_address: Any) -> None:
        # A caller that hung up is no event; anything else is a fault of ours.
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
        """Nothing: the gateway logs what it answers."""

    def version_string(self) -> str:
        return "devstack"

    def send_error(self, code: int, *_: object) -> None:
        """http.server's refusals of what is not HTTP, as JSON, and as the caller's fault which they are."""
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
            response = self.server.gateway.serve(request)
        except Exception:
            traceback.print_exc()
            response = refusal(500)
        if self.server.gateway.stopping:
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
