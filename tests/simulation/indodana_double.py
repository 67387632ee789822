"""Indodana, as far as its documentation goes, with exact books: what stands behind the client's session."""

from __future__ import annotations

import hashlib
import hmac
import json
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from decimal import Decimal
from typing import Any
from urllib.parse import parse_qs, urlsplit

import requests
from urllib3.connection import HTTPConnection
from urllib3.exceptions import ProtocolError

from indodana.transport import NotConnected
from tests.simulation.engine import Call, Fault, current_fiber

LEGAL_NAME = "Siti Rahmawati binti Ahmad"  # must be found in no log, record or message
USER_ID = "indodana-user-8231"
# A request may lie in a queue on its way, and be carried out after everybody has given up on it: soon, or just before
# the hold on an operator's FAILED ends (ResolutionHoldSeconds, from the end of the lease).
LATE_SECONDS = (590.0, 20.0)


@dataclass
class Response:
    """What the client needs of requests' response."""

    status_code: int
    body: str
    headers: dict[str, str] = field(default_factory=dict)

    def iter_content(self, _: int) -> Iterator[bytes]:
        yield self.body.encode()

    def __enter__(self) -> Response:
        return self

    def __exit__(self, *_: object) -> None:
        pass


@dataclass(frozen=True)
class Late:
    """A request that is still on its way."""

    due: float  # by the world's clock
    authorization: str
    wanted: dict[str, Any] = field(hash=False)


@dataclass(frozen=True)
class Movement:
    merchant_id: str
    merchant_order_id: str
    refund_id: str
    amount: Decimal


class Indodana:
    """`recognises_repeats`: a repeated refundId is answered 409 instead of moving money again."""

    def __init__(self, credentials: dict[str, tuple[str, str]], *, recognises_repeats: bool = False) -> None:
        self.credentials = credentials  # by merchant: apiKey, secretKey
        self.orders: dict[tuple[str, str], tuple[Decimal, str]] = {}
        self.movements: list[Movement] = []
        self.recognises_repeats = recognises_repeats
        self.on_movement: Callable[[Movement], None] = lambda _: None
        self.late: list[Late] = []
        self.now: Callable[[], float] = lambda: 0.0
        self.freeze: Callable[[], None] | None = None  # of the process that calls; where processes freeze
        self.arrives_late = False  # whether requests may

    def add_order(self, merchant_id: str, order_id: str, amount: Decimal, status: str = "PAID") -> None:
        self.orders[merchant_id, order_id] = (amount, status)

    def moved(self, merchant_id: str, order_id: str) -> Decimal:
        return sum(
            (m.amount for m in self.movements if (m.merchant_id, m.merchant_order_id) == (merchant_id, order_id)),
            Decimal(0),
        )

    def times_moved(self, refund_id: str) -> int:
        return sum(movement.refund_id == refund_id for movement in self.movements)

    def snapshot(self) -> tuple[Any, ...]:
        return (tuple(self.movements), tuple(self.credentials.items()), repr(self.late))

    def savepoint(self) -> Callable[[], None]:
        """What takes back every movement after it, whenever it is called."""
        made, late = len(self.movements), list(self.late)

        def rollback() -> None:
            del self.movements[made:]
            self.late = list(late)

        return rollback

    def next_late(self, until: float) -> Late | None:
        """The request on its way that arrives next, and no later; it has arrived then."""
        due = min((late for late in self.late if late.due <= until), key=lambda late: late.due, default=None)
        if due:
            self.late.remove(due)
        return due

    def carry_out(self, late: Late) -> None:
        self._cancel(late.authorization, late.wanted)

    # ---- as a requests session

    def send(self, request: requests.PreparedRequest, **_: Any) -> Response:
        parts = urlsplit(request.url or "")
        authorization = request.headers["Authorization"]
        if request.method == "GET":
            order_id = parse_qs(parts.query)["merchantOrderId"][0]
            call = Call(
                "check_status",
                f"order {order_id}",
                lambda: self._check_status(authorization, order_id),
                [
                    *self._not_done(),
                    Fault("answer lost", lambda: _lost()),
                    Fault("HTTP 500", lambda: _error(500, "ServerError", "try again"), twin=True),
                ],
            )
        else:
            wanted = json.loads(request.body or b"", parse_float=Decimal, parse_int=Decimal)
            call = Call(
                "cancel",
                f"refund {wanted['refundId'][:6]} of {wanted['cancellationAmount']}",
                lambda: self._cancel(authorization, wanted),
                [
                    *self._not_done(),
                    Fault("HTTP 422", lambda: _error(422, "ValidationError", {"legalName": LEGAL_NAME})),
                    # Where repeats are recognised a 409 says that, and nothing else: it is what `resubmit` relies on.
                    *([] if self.recognises_repeats else [Fault("HTTP 409", _conflict, leaves_doubt=True, twin=True)]),
                    Fault("lost before it was done", lambda: _lost(), leaves_doubt=True),
                    Fault(
                        "done, and the answer lost",
                        lambda: _after(self._cancel(authorization, wanted), _lost),
                        leaves_doubt=True,
                    ),
                    Fault(
                        "done, and HTTP 500",
                        lambda: _after(
                            self._cancel(authorization, wanted), lambda: Response(502, "<html>Bad Gateway</html>")
                        ),
                        leaves_doubt=True,
                        twin=True,
                    ),
                    Fault(
                        "HTTP 500, and not done",
                        lambda: Response(500, "<html>Error</html>"),
                        leaves_doubt=True,
                        twin=True,
                    ),
                    Fault(
                        "HTTP 200 with an error, and not done",
                        lambda: _error(200, "ServerError", "not now"),
                        leaves_doubt=True,
                        twin=True,
                    ),
                    *self._out_of_time(authorization, wanted),
                ],
                refund_id=wanted["refundId"],
            )
        answer: Response = current_fiber().make(call)
        return answer

    def close(self) -> None:
        pass

    def _out_of_time(self, authorization: str, wanted: dict[str, Any]) -> list[Fault]:
        faults: list[Fault] = []
        if self.arrives_late:

            def late(seconds: float) -> Response:
                self.late.append(Late(self.now() + seconds, authorization, wanted))
                return _lost()

            faults += [
                Fault(
                    f"given up, and done {seconds:g} s later",
                    lambda seconds=seconds: late(seconds),
                    leaves_doubt=True,
                    twin=seconds != LATE_SECONDS[0],
                )
                for seconds in LATE_SECONDS
            ]
        if freeze := self.freeze:

            def frozen_before() -> Response:
                freeze()
                return self._cancel(authorization, wanted)

            def frozen_after() -> Response:
                answer = self._cancel(authorization, wanted)
                freeze()
                return answer

            faults += [
                Fault("the process freezes before it writes", frozen_before, leaves_doubt=True, takes_time=True),
                Fault("done, and the process freezes", frozen_after, leaves_doubt=True, takes_time=True),
            ]
        return faults

    def _not_done(self) -> list[Fault]:
        return [
            Fault("no connection", _no_connection),
            Fault("HTTP 429", lambda: Response(429, "slow down", {"Retry-After": "3"}), twin=True),
            Fault("HTTP 401", lambda: _error(401, "FailedAuthError", "who are you?")),
        ]

    def _merchant(self, authorization: str) -> str | None:
        key, nonce, signature = authorization.removeprefix("Bearer ").split(":")
        for merchant_id, (api_key, secret_key) in self.credentials.items():
            right = hmac.new(secret_key.encode(), f"{key}:{nonce}".encode(), hashlib.sha256).hexdigest()
            if key == api_key and signature == right:
                return merchant_id
        return None

    def _check_status(self, authorization: str, order_id: str) -> Response:
        merchant_id = self._merchant(authorization)
        if merchant_id is None:
            return _error(401, "FailedAuthError", "unknown key")
        if (merchant_id, order_id) not in self.orders:
            return _error(404, "NotFoundError", "no such order")
        amount, status = self.orders[merchant_id, order_id]
        return Response(
            200,
            f'{{"status": "OK", "transactionStatus": "{status}", "merchantOrderId": "{order_id}", "amount": {amount}, '
            f'"legalName": "{LEGAL_NAME}", "indodanaUserId": "{USER_ID}"}}',
        )

    def _cancel(self, authorization: str, wanted: dict[str, Any]) -> Response:
        merchant_id = self._merchant(authorization)
        if merchant_id is None:
            return _error(401, "FailedAuthError", "unknown key")
        order_id, amount = wanted["merchantOrderId"], Decimal(wanted["cancellationAmount"])
        if (merchant_id, order_id) not in self.orders:
            return _error(404, "NotFoundError", "no such order")
        if self.recognises_repeats and self.times_moved(wanted["refundId"]):
            return _error(409, "ConflictError", "this refundId is done already")
        # It does not look after its own sums: that no more than was paid is refunded is the gateway's promise.
        movement = Movement(merchant_id, order_id, wanted["refundId"], amount)
        self.movements.append(movement)
        self.on_movement(movement)
        return Response(200, f'{{"status": "OK", "merchantOrderId": "{order_id}", "legalName": "{LEGAL_NAME}"}}')


def _after(_: Response, then: Callable[[], Response]) -> Response:
    return then()


def _lost() -> Response:
    raise requests.ConnectionError(ProtocolError("Connection aborted.", ConnectionResetError(104, "reset by peer")))


def _no_connection() -> Response:
    raise NotConnected(HTTPConnection("indodana.test"), ConnectionRefusedError(111, "Connection refused"))


def _conflict() -> Response:
    return _error(409, "ConflictError", "conflict")


def _error(status: int, kind: str, message: object) -> Response:
    return Response(status, json.dumps({"status": "ERROR", "error": {"kind": kind, "message": message}}))
