"""A simulator of Indodana's QRIS merchant API that keeps books of the money it moved and fails on demand.

    python -m testkit.indodana --host 127.0.0.1 --port 9001 --upstream-port 9002

Two listeners: `control_url` answers the control API under `/_simulator/` and the upstream API, and is always there;
`upstream_url` answers the upstream API alone, and is the one that the fault `refuse_connections` closes.

It is the other side of every call, so it shares no code with the gateway: signatures are checked here from the
documentation alone.
"""

import hashlib
import hmac
import re
import socket
import struct
import sys
import threading
import time
from collections.abc import Callable, Mapping
from contextlib import suppress
from dataclasses import dataclass, field
from decimal import Decimal
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from types import TracebackType
from typing import Any, Self
from urllib.parse import parse_qs

import simplejson

from testkit.indodana.books import (
    Books,
    InvalidFieldError,
    Order,
    RefusalError,
    Request,
    parse_amount,
    parse_cancellation,
    parse_order_id,
    parse_text,
    plain,
)
from testkit.indodana.faults import REFUSE_CONNECTIONS, Fault, Faults

LOCAL_MERCHANTS = {"m1": ("local-m1-key", "local-m1-secret"), "m2": ("local-m2-key", "local-m2-secret")}

BASE_PATH = "/chermes/merchant"
ENDPOINTS = {
    ("GET", f"{BASE_PATH}/v1/transactions/qris/check_status"): "check_status",
    ("POST", f"{BASE_PATH}/v1/order_cancellation"): "order_cancellation",
    ("POST", f"{BASE_PATH}/v2/order_cancellation"): "order_cancellation",
    ("POST", f"{BASE_PATH}/v3/order_cancellation"): "order_cancellation",
}
CONTROL_PREFIX = "/_simulator/"
# The key pairs that a merchant may sign with: one, or several while a new one is handed over.
type Pairs = tuple[tuple[str, str], ...]
MERCHANT_ID = re.compile(r"[A-Za-z0-9_-]{1,64}")
# The documentation does not say how old a nonce may be; five minutes is the usual allowance for clocks that differ.
NONCE_WINDOW_SECONDS = 300
MAX_BODY_BYTES = 64 * 1024
# How often a held answer looks whether its caller has given up.
HOLD_POLL_SECONDS = 0.1
# How long closing a listener waits for the threads of its connections; they are daemons and cannot outlive the process.
DRAIN_SECONDS = 1.0
JSON_TYPE = "application/json"
KINDS = {400: "BadRequestError", 403: "ForbiddenError", 404: "NotFoundError", 422: "ValidationError"}


@dataclass(frozen=True)
class Answer:
    status: int
    body: bytes
    content_type: str = JSON_TYPE
    headers: Mapping[str, str] = field(default_factory=dict)

    @classmethod
    def of_json(cls, status: int, body: Mapping[str, Any], headers: Mapping[str, str] | None = None) -> Self:
        return cls(status, simplejson.dumps(body, use_decimal=True).encode(), headers=headers or {})

    @classmethod
    def of_error(
        cls, status: int, kind: str, message: str | dict[str, str], headers: Mapping[str, str] | None = None
    ) -> Self:
        return cls.of_json(status, {"status": "ERROR", "error": {"kind": kind, "message": message}}, headers)


class _State:
    """All that a reset throws away. A request works on the state it arrived in, so none straddles a reset."""

    def __init__(
        self,
        merchants: Mapping[str, tuple[str, str]],
        clock: Callable[[], float],
        seed: int,
        nonce_window_seconds: float | None,
    ) -> None:
        self.credentials: Mapping[str, Pairs] = {merchant_id: (pair,) for merchant_id, pair in merchants.items()}
        self.nonce_window_seconds = nonce_window_seconds
        self.books = Books(clock)
        self.faults = Faults(seed)
        self.released = threading.Event()
        for merchant_id in merchants:
            self.books.add_default_orders(merchant_id)


class Simulator:
    """Both listeners and what they answer. The first of `merchants` is the default one of the control API.

    A port of 0 picks a free one, which is kept over stop() and start(). A `nonce_window_seconds` of None accepts
    every nonce. `seed` decides which requests a fault with a probability hits.
    """

    def __init__(
        self,
        merchants: Mapping[str, tuple[str, str]] = LOCAL_MERCHANTS,
        host: str = "127.0.0.1",
        port: int = 0,
        upstream_port: int = 0,
        *,
        seed: int = 0,
        nonce_window_seconds: float | None = NONCE_WINDOW_SECONDS,
        clock: Callable[[], float] = time.time,
    ) -> None:
        self._merchants = dict(merchants)
        self._clock = clock
        self._seed = seed
        self._nonce_window_seconds = nonce_window_seconds
        self.state = self._new_state()
        self._control = _Listener(self, host, port, serves_control=True)
        self._upstream = _Listener(self, host, upstream_port, serves_control=False)
        # Guards the listeners and the timers, and the decision whether the upstream listener is to be open.
        self._lock = threading.RLock()
        self._running = False
        self._timers: list[threading.Timer] = []

    @property
    def control_url(self) -> str:
        return self._control.url

    @property
    def upstream_url(self) -> str:
        return self._upstream.url

    def start(self) -> Self:
        with self._lock:
            self._running = True
            self.state.released.clear()
            try:
                self._control.open()
                self._follow_faults()
            except OSError:  # a port is taken
                self.stop()
                raise
        return self

    def stop(self) -> None:
        with self._lock:
            self._running = False
            self._cancel_timers()
            self.state.released.set()
            self._upstream.close()
        # Not under the lock: a control request that is being answered may be waiting for it.
        self._control.close()

    def __enter__(self) -> Self:
        return self.start()

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self.stop()

    # What the control API does

    def control(self, method: str, path: list[str], query: Mapping[str, str], raw_body: bytes) -> Answer:
        """Answer a control request; raises InvalidFieldError for a request that is not right."""
        state = self.state
        body = _control_body(raw_body) if method in ("POST", "PUT") else {}
        match method, path:
            case "GET", ["books"]:
                return Answer.of_json(200, state.books.describe(query.get("merchantOrderId")))
            case "GET", ["orders"]:
                return Answer.of_json(200, {"orders": state.books.describe_orders()})
            case "POST", ["orders"]:
                return Answer.of_json(201, self._put_order(state, body))
            case "GET", ["faults"]:
                return Answer.of_json(200, {"faults": state.faults.describe()})
            case "POST", ["faults"]:
                return Answer.of_json(201, {"id": self._add_fault(state, body).id})
            case "DELETE", ["faults"]:
                state.faults.clear()
                self._follow_faults()
                return Answer.of_json(200, {})
            case "DELETE", ["faults", fault_id]:
                found = state.faults.remove(fault_id)
                self._follow_faults()
                return Answer.of_json(200, {}) if found else Answer.of_error(404, "NotFoundError", "No such fault")
            case "PUT", ["merchants", merchant_id]:
                return Answer.of_json(200, self._put_credentials(state, merchant_id, body))
            case "POST", ["settings"]:
                return Answer.of_json(200, self._change_settings(state, body))
            case "POST", ["reset"]:
                self.reset()
                return Answer.of_json(200, {})
        return Answer.of_error(
            404, "NotFoundError", f"No such control route: {method} {CONTROL_PREFIX}{'/'.join(path)}"
        )

    def reset(self) -> None:
        """Everything as at the start: books, orders, faults, settings, credentials. Held answers are dropped."""
        with self._lock:
            before, self.state = self.state, self._new_state()
            before.released.set()
            self._cancel_timers()
            self._follow_faults()

    def _new_state(self) -> _State:
        return _State(self._merchants, self._clock, self._seed, self._nonce_window_seconds)

    def _put_order(self, state: _State, body: Mapping[str, Any]) -> dict[str, Any]:
        _refuse_unknown(body, "merchantId", "merchantOrderId", "amount", "transactionStatus")
        merchant_id = parse_text(body, "merchantId") if "merchantId" in body else next(iter(state.credentials), "")
        if merchant_id not in state.credentials:
            raise InvalidFieldError("merchantId", "is not a merchant of this simulator")
        merchant_order_id = parse_order_id(body, "merchantOrderId")
        amount = parse_amount(body, "amount")
        # Any status goes: callers must cope with those that the documentation does not list.
        transaction_status = parse_text(body, "transactionStatus")
        state.books.put_order(merchant_id, merchant_order_id, amount, transaction_status)
        return {"merchantId": merchant_id, "merchantOrderId": merchant_order_id}

    def _add_fault(self, state: _State, body: Mapping[str, Any]) -> Fault:
        fault = state.faults.add(body)
        if fault.fault == REFUSE_CONNECTIONS:
            with self._lock:
                self._follow_faults()
                if fault.seconds is not None and self._running:
                    timer = threading.Timer(fault.seconds, self._end_refusal, (state, fault.id))
                    timer.daemon = True
                    self._timers.append(timer)
                    timer.start()
        return fault

    def _end_refusal(self, state: _State, fault_id: str) -> None:
        state.faults.remove(fault_id)
        self._follow_faults()

    def _follow_faults(self) -> None:
        """Open or close the upstream listener, as the faults now want it."""
        with self._lock:
            if not self._running:
                return
            if self.state.faults.refuses_connections():
                self._upstream.refuse()
            else:
                self._upstream.open()

    def _cancel_timers(self) -> None:
        for timer in self._timers:
            timer.cancel()
        self._timers.clear()

    def _put_credentials(self, state: _State, merchant_id: str, body: Mapping[str, Any]) -> dict[str, Any]:
        """`keepOld`: the pairs before stay valid beside the new one, until the next change without it."""
        _refuse_unknown(body, "apiKey", "secretKey", "keepOld")
        if not MERCHANT_ID.fullmatch(merchant_id):
            raise InvalidFieldError("merchantId", "must be 1 to 64 letters, digits, _ or -")
        api_key, secret_key = parse_text(body, "apiKey"), parse_text(body, "secretKey")
        if not re.fullmatch(r"[!-~]+", api_key):
            raise InvalidFieldError("apiKey", "must be printable ASCII without spaces, as it travels in a header")
        keep_old = body.get("keepOld", False)
        if not isinstance(keep_old, bool):
            raise InvalidFieldError("keepOld", "must be true or false")
        with self._lock:
            others = [pair for other, pairs in state.credentials.items() if other != merchant_id for pair in pairs]
            if any(key == api_key for key, _ in others):
                raise InvalidFieldError("apiKey", "belongs to another merchant")
            if merchant_id not in state.credentials:
                state.books.add_default_orders(merchant_id)
            old = state.credentials.get(merchant_id, ()) if keep_old else ()
            # Replaced as a whole: requests read it without the lock.
            state.credentials = {**state.credentials, merchant_id: (*old, (api_key, secret_key))}
        return {"merchantId": merchant_id}

    def _change_settings(self, state: _State, body: Mapping[str, Any]) -> dict[str, Any]:
        _refuse_unknown(body, "recognisesRepeats", "seed", "nonceWindowSeconds")
        recognises_repeats = body.get("recognisesRepeats", state.books.recognises_repeats)
        if not isinstance(recognises_repeats, bool):
            raise InvalidFieldError("recognisesRepeats", "must be true or false")
        window = body.get("nonceWindowSeconds", state.nonce_window_seconds)
        if window is not None and (
            isinstance(window, bool) or not isinstance(window, int | float | Decimal) or window < 0
        ):
            raise InvalidFieldError("nonceWindowSeconds", "must be a number of 0 or more, or null")
        if "seed" in body:
            seed = body["seed"]
            if isinstance(seed, bool) or not isinstance(seed, int):
                raise InvalidFieldError("seed", "must be a whole number")
            state.faults.seed(seed)
        state.books.recognises_repeats = recognises_repeats
        state.nonce_window_seconds = None if window is None else float(window)
        return {"recognisesRepeats": recognises_repeats, "nonceWindowSeconds": state.nonce_window_seconds}

    # What the upstream API does

    def answer(self, state: _State, call: "_Call") -> Answer:
        """Do what an upstream request asks and give the right answer, before any fault spoils it."""
        try:
            if call.endpoint not in ENDPOINTS.values():
                raise RefusalError(404, "NotFoundError", "No such path")
            merchant_id = authenticate(call.authorization, state.credentials, self._clock(), state.nonce_window_seconds)
            if call.endpoint == "check_status":
                if not call.merchant_order_id:
                    raise InvalidFieldError("merchantOrderId", "is required")
                return Answer.of_json(200, _status_of(state.books.order(merchant_id, call.merchant_order_id)))
            if call.body is None:
                raise RefusalError(400, "BadRequestError", "Body must be a JSON object")
            cancellation = parse_cancellation(call.body)
            state.books.cancel(merchant_id, cancellation)
        except InvalidFieldError as error:
            return Answer.of_error(422, "ValidationError", {error.field: error.message})
        except RefusalError as refusal:
            return Answer.of_error(refusal.status, refusal.kind, refusal.message)
        return Answer.of_json(
            200,
            {
                "status": "OK",
                "refundId": cancellation.refund_id,
                "merchantOrderId": cancellation.merchant_order_id,
                "cancellationAmount": plain(cancellation.amount),
            },
        )


def authenticate(
    authorization: str | None,
    credentials: Mapping[str, Pairs],
    now: float,
    nonce_window_seconds: float | None,
) -> str:
    """The merchant who signed `Bearer {apiKey}:{nonce}:{signature}`; raises the 401 RefusalError when nobody did."""
    # http.server reads header bytes as Latin-1; this gives the bytes back.
    scheme, _, token = (authorization or "").encode("latin-1").partition(b" ")
    parts = token.rsplit(b":", 2)
    if scheme != b"Bearer" or len(parts) != 3:
        raise RefusalError(401, "FailedAuthError", "Authorization header is missing or malformed")
    given_key, nonce, signature = parts
    signer = None
    # Every pair is compared, whoever it is, so that time tells nothing about keys.
    for merchant_id, api_key, secret_key in [(name, *pair) for name, pairs in credentials.items() for pair in pairs]:
        key = api_key.encode()
        expected = hmac.new(secret_key.encode(), key + b":" + nonce, hashlib.sha256).hexdigest().encode()
        if hmac.compare_digest(given_key, key) & hmac.compare_digest(signature, expected):
            signer = merchant_id
    if signer is None:
        raise RefusalError(401, "FailedAuthError", "Unknown key or wrong signature")
    if not re.fullmatch(rb"[0-9]{1,15}", nonce):
        raise RefusalError(401, "FailedAuthError", "Nonce is not a Unix time in seconds")
    if nonce_window_seconds is not None and abs(int(nonce) - now) > nonce_window_seconds:
        raise RefusalError(401, "FailedAuthError", "Nonce is too far from the present time")
    return signer


def _status_of(order: Order) -> dict[str, Any]:
    identity = hashlib.sha256(f"{order.merchant_id}/{order.merchant_order_id}".encode()).hexdigest()
    return {
        "status": "OK",
        "transactionStatus": order.transaction_status,
        "merchantOrderId": order.merchant_order_id,
        "transactionId": f"trx-{identity[:16]}",
        "amount": plain(order.amount),
        "paymentType": "3_months",
        "transactionTime": order.created_at.strftime("%Y-%m-%dT%H:%M:%S%z"),
        "fraudStatus": "REJECT" if order.transaction_status == "REJECTED" else "ACCEPT",
        "legalName": "Siti Rahmawati",
        "indodanaUserId": f"user-{identity[16:28]}",
    }


def _spoiled(fault: Fault, answer: Answer | None) -> Answer:
    """What the caller gets to read under a fault that answers; `answer` is the right one, if the work was done."""
    match fault.fault:
        case "error_before" | "error_after":
            return Answer.of_error(fault.status or 500, "InternalServerError", "Something went wrong")
        case "rate_limited":
            return Answer.of_error(
                429, "TooManyRequestsError", "Too many requests", {"Retry-After": str(fault.retryAfter)}
            )
        case "unauthorized":
            return Answer.of_error(401, "FailedAuthError", "Unknown key or wrong signature")
        case "conflict":
            return Answer.of_error(409, "ConflictError", "Conflict")
        case "refused":
            status = fault.status or 422
            return Answer.of_error(status, KINDS[status], "Refused")
        case "html" | "html_after":
            page = b"<html><head><title>502 Bad Gateway</title></head><body><h1>502 Bad Gateway</h1></body></html>\n"
            return Answer(fault.status or 200, page, "text/html; charset=utf-8")
        case "empty" | "empty_after":
            return Answer(200, b"")
        case "ok_error":
            return Answer.of_error(200, "InternalServerError", "Something went wrong")
    assert answer is not None, fault.fault
    return answer


def _parse_object(raw: bytes) -> dict[str, Any] | None:
    """The JSON object with exact numbers, or None when it is not one."""
    try:
        parsed = simplejson.loads(raw.decode(), use_decimal=True)
    except (ValueError, ArithmeticError, RecursionError):
        return None
    return parsed if isinstance(parsed, dict) else None


def _control_body(raw: bytes) -> dict[str, Any]:
    body = _parse_object(raw or b"{}")
    if body is None:
        raise InvalidFieldError("body", "must be a JSON object")
    return body


def _refuse_unknown(body: Mapping[str, Any], *known: str) -> None:
    for name in body:
        if name not in known:
            raise InvalidFieldError(name, f"is not known; known are {', '.join(known)}")


@dataclass(frozen=True)
class _Call:
    """An upstream request, as far as it could be read. `endpoint` is the path itself when it is not a known one."""

    endpoint: str
    authorization: str | None
    merchant_order_id: str | None
    refund_id: str | None
    body: dict[str, Any] | None


class _CallerGoneError(Exception):
    """The connection ended before the request was read."""


class _Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    disable_nagle_algorithm = True
    server: "_Server"

    def do_GET(self) -> None:
        path, _, raw_query = self.path.partition("?")
        query = {name: values[0] for name, values in parse_qs(raw_query, keep_blank_values=True).items()}
        try:
            body = self._read_body()
        except RefusalError as refusal:
            self.close_connection = True  # the body was not read, so what follows is no request
            return self._send(Answer.of_error(refusal.status, refusal.kind, refusal.message))
        except _CallerGoneError:
            self.close_connection = True
            return None
        if self.server.serves_control and path.startswith(CONTROL_PREFIX):
            return self._serve_control(path.removeprefix(CONTROL_PREFIX).split("/"), query, body)
        return self._serve_upstream(path, query, body)

    do_POST = do_PUT = do_DELETE = do_GET  # noqa: N815

    def _serve_control(self, path: list[str], query: Mapping[str, str], body: bytes) -> None:
        try:
            answer = self.server.simulator.control(self.command, path, query, body)
        except InvalidFieldError as error:
            answer = Answer.of_json(
                400,
                {
                    "status": "ERROR",
                    "error": {"kind": "ValidationError", "field": error.field, "message": str(error)},
                },
            )
        self._send(answer)

    def _serve_upstream(self, path: str, query: Mapping[str, str], raw_body: bytes) -> None:
        state = self.server.simulator.state
        call = self._read_call(path, query, raw_body)
        request = state.books.record_request(call.endpoint, call.merchant_order_id, call.refund_id)
        fault = state.faults.pick(call.endpoint, call.merchant_order_id)
        if fault is None:
            return self._send(self.server.simulator.answer(state, call), request)
        request.fault = fault.fault
        answer = self.server.simulator.answer(state, call) if fault.does_the_work else None
        match fault.fault:
            case "reset_before" | "reset_after":
                # Lingering for 0 seconds makes close() send an RST, where it would have sent a FIN.
                self.connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
                self.close_connection = True
            case "timeout_before" | "timeout_after":
                self._hold(fault.seconds or 0, state.released)
                self.close_connection = True
            case "slow" if not self._hold(fault.seconds or 0, state.released):
                self.close_connection = True
            case "truncated_after":
                self._send(_spoiled(fault, answer), request, truncated=True)
            case _:
                self._send(_spoiled(fault, answer), request)
        return None

    def _read_call(self, path: str, query: Mapping[str, str], raw_body: bytes) -> _Call:
        endpoint = ENDPOINTS.get((self.command, path), path)
        body = _parse_object(raw_body) if endpoint == "order_cancellation" else None
        source: Mapping[str, Any] = query if body is None else body
        merchant_order_id, refund_id = source.get("merchantOrderId"), source.get("refundId")
        return _Call(
            endpoint,
            self.headers["Authorization"],
            merchant_order_id if isinstance(merchant_order_id, str) else None,
            refund_id if isinstance(refund_id, str) else None,
            body,
        )

    def _read_body(self) -> bytes:
        length = self.headers.get("Content-Length", "0")
        if "Transfer-Encoding" in self.headers or not re.fullmatch(r"[0-9]{1,12}", length):
            raise RefusalError(400, "BadRequestError", "Content-Length is required")
        if int(length) > MAX_BODY_BYTES:
            raise RefusalError(400, "BadRequestError", "Body is too large")
        body = self.rfile.read(int(length))
        if len(body) < int(length):
            raise _CallerGoneError
        return body

    def _hold(self, seconds: float, released: threading.Event) -> bool:
        """Wait; False when it was cut short by a stop, a reset or the caller hanging up."""
        deadline = time.monotonic() + seconds
        while (left := deadline - time.monotonic()) > 0:
            if released.wait(min(left, HOLD_POLL_SECONDS)) or self._caller_is_gone():
                return False
        return True

    def _caller_is_gone(self) -> bool:
        try:
            return not self.connection.recv(1, socket.MSG_PEEK | socket.MSG_DONTWAIT)
        except BlockingIOError:
            return False
        except OSError:
            return True

    def _send(self, answer: Answer, request: Request | None = None, truncated: bool = False) -> None:
        # Written down first, so that a caller who has the answer finds it in the books.
        if request is not None:
            request.answered = answer.status
        try:
            self.send_response(answer.status)
            self.send_header("Content-Type", answer.content_type)
            self.send_header("Content-Length", str(len(answer.body)))
            for name, value in answer.headers.items():
                self.send_header(name, value)
            if truncated or self.close_connection:
                self.send_header("Connection", "close")  # which also makes http.server close it
            self.end_headers()
            self.wfile.write(answer.body[: len(answer.body) // 2] if truncated else answer.body)
        except OSError:
            self.close_connection = True
            if request is not None:
                request.answered = None

    def log_message(self, format: str, *args: Any) -> None:
        """Say nothing: the books hold every request."""


class _Server(ThreadingHTTPServer):
    """Serves a bound socket until close(), which ends its open connections too."""

    daemon_threads = True
    request_queue_size = 256

    def __init__(self, bound: socket.socket, simulator: Simulator, serves_control: bool) -> None:
        super().__init__(bound.getsockname(), _Handler, bind_and_activate=False)
        self.socket.close()
        self.socket = bound
        self.simulator = simulator
        self.serves_control = serves_control
        self._connections: set[socket.socket] = set()
        self._changed = threading.Condition()
        self.server_activate()
        threading.Thread(target=self.serve_forever, name="simulator", daemon=True).start()

    def process_request(self, request: Any, client_address: Any) -> None:
        with self._changed:
            self._connections.add(request)
        super().process_request(request, client_address)

    def shutdown_request(self, request: Any) -> None:
        # The base class shuts the socket down first, which sends a FIN even where an RST is meant to go out.
        request.close()
        with self._changed:
            self._connections.discard(request)
            self._changed.notify_all()

    def handle_error(self, request: Any, client_address: Any) -> None:
        if not isinstance(sys.exception(), OSError):  # callers break off, and that is no error of ours
            super().handle_error(request, client_address)

    def close(self) -> None:
        # Wakes the accept loop at once where it would have polled on (Linux; elsewhere it is an error).
        with suppress(OSError):
            self.socket.shutdown(socket.SHUT_RDWR)
        self.shutdown()
        self.server_close()
        with self._changed:
            for connection in self._connections:
                with suppress(OSError):
                    connection.shutdown(socket.SHUT_RDWR)
            self._changed.wait_for(lambda: not self._connections, DRAIN_SECONDS)


class _Listener:
    """A port that serves, or refuses connections while nobody else can take it."""

    def __init__(self, simulator: Simulator, host: str, port: int, *, serves_control: bool) -> None:
        self._simulator = simulator
        self._serves_control = serves_control
        self._host = host
        self._port = port
        self._server: _Server | None = None
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
            self._server = _Server(bound, self._simulator, self._serves_control)

    def refuse(self) -> None:
        self.close()
        # Bound but not listening: the kernel answers connections with an RST, and the port stays ours.
        self._reserved = self._bind()
        # Two sockets that both reuse addresses may share a port until one listens; this one shares it with none.
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
