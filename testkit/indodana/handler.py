"""How one HTTP request to the simulator is read and answered, and how a fault keeps it from its right answer."""

import re
import socket
import struct
import threading
import time
from collections.abc import Callable, Mapping
from http.server import BaseHTTPRequestHandler
from typing import TYPE_CHECKING, Any
from urllib.parse import parse_qs

from testkit.indodana import api
from testkit.indodana.answers import Answer, RefusalError
from testkit.indodana.books import ReceivedRequest
from testkit.indodana.fault_answers import under_fault
from testkit.indodana.faults import ORDER_CANCELLATION
from testkit.indodana.fields import parse_object
from testkit.indodana.state import State

if TYPE_CHECKING:
    from testkit.indodana.listener import Server

CONTROL_PATH = "/_simulator"
MAX_BODY_BYTES = 64 * 1024
# How often it is checked, while an answer is held back, whether the caller has closed the connection.
HOLD_POLL_SECONDS = 0.1

# Answers a control request: its method, its path below CONTROL_PATH, its query and its body.
type Control = Callable[[str, list[str], Mapping[str, str], bytes], Answer]
# Is told of each request to Indodana's API after its answer, and the seconds that it took.
type OnRequest = Callable[[ReceivedRequest, float], None]


class _CallerGoneError(Exception):
    """The connection ended before the request was read."""


class Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    disable_nagle_algorithm = True
    server: "Server"

    def do_GET(self) -> None:
        path, _, raw_query = self.path.partition("?")
        query = {name: values[0] for name, values in parse_qs(raw_query, keep_blank_values=True).items()}
        try:
            body = self._read_body()
        except RefusalError as refusal:
            self.close_connection = True  # the body was not read, so the next bytes are not a request
            return self._send(Answer.of_error(refusal.status, refusal.message))
        except _CallerGoneError:
            self.close_connection = True
            return None
        if self.server.control is not None and (path == CONTROL_PATH or path.startswith(f"{CONTROL_PATH}/")):
            below = [part for part in path.removeprefix(CONTROL_PATH).split("/") if part]
            return self._send(self.server.control(self.command, below, query, body))
        return self._serve_api(path, query, body)

    do_POST = do_PUT = do_DELETE = do_GET  # noqa: N815

    def _serve_api(self, path: str, query: Mapping[str, str], raw_body: bytes) -> None:
        state = self.server.state()
        call = self._read_call(path, query, raw_body)
        request = state.books.record_request(call.endpoint, call.merchant_order_id, call.refund_id)
        started = time.monotonic()
        try:
            self._answer(state, call, request)
        finally:
            self.server.on_request(request, time.monotonic() - started)

    def _answer(self, state: State, call: api.Call, request: ReceivedRequest) -> None:
        fault = state.faults.pick(call.endpoint, call.merchant_order_id)
        if fault is None:
            return self._send(api.answer(state, call), request)
        request.fault = fault.fault
        answer = api.answer(state, call) if fault.processes_the_request else None
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
                self._send(under_fault(fault, answer), request, truncated=True)
            case _:
                self._send(under_fault(fault, answer), request)
        return None

    def _read_call(self, path: str, query: Mapping[str, str], raw_body: bytes) -> api.Call:
        endpoint = api.ENDPOINTS.get((self.command, path), path)
        body = parse_object(raw_body) if endpoint == ORDER_CANCELLATION else None
        source: Mapping[str, Any] = query if body is None else body
        merchant_order_id, refund_id = source.get("merchantOrderId"), source.get("refundId")
        return api.Call(
            endpoint,
            self.headers["Authorization"],
            merchant_order_id if isinstance(merchant_order_id, str) else None,
            refund_id if isinstance(refund_id, str) else None,
            body,
        )

    def _read_body(self) -> bytes:
        length = self.headers.get("Content-Length", "0")
        if "Transfer-Encoding" in self.headers or not re.fullmatch(r"[0-9]{1,12}", length):
            raise RefusalError(400, "Content-Length is required")
        if int(length) > MAX_BODY_BYTES:
            raise RefusalError(400, "Body is too large")
        body = self.rfile.read(int(length))
        if len(body) < int(length):
            raise _CallerGoneError
        return body

    def _hold(self, seconds: float, released: threading.Event) -> bool:
        """Wait. False if a stop, a reset or the caller ended the wait early."""
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

    def _send(self, answer: Answer, request: ReceivedRequest | None = None, truncated: bool = False) -> None:
        # Recorded first, so that a caller who has the answer finds it in the books.
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
        """No log: the books hold every request."""
