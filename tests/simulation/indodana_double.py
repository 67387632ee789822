"""Indodana as documented, with exact books. It replaces the client's transport."""

from __future__ import annotations

import hashlib
import hmac
import json
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from decimal import Decimal
from http.client import HTTPMessage
from typing import Any
from urllib.parse import parse_qs, urlsplit

import requests

from indodana import AnswerTimedOut, ConnectionFailed, ConnectionLost, SendingTooLate
from indodana.transport import Answer
from tests.simulation.engine import Call, Fault, current_fiber

LEGAL_NAME = "Siti Rahmawati binti Ahmad"  # must not appear in any log, record or message
USER_ID = "indodana-user-8231"
NO_ANSWER = "no answer in time"
# A request may be delayed on its way and carried out after its sender timed out: soon, or just before the hold on an
# operator's FAILED ends (ResolutionHoldSeconds after the end of the lease).
LATE_SECONDS = (590.0, 20.0)


# Wraps a call, so that may_send is asked at the moment at which it takes effect.
type _Sent = Callable[[Callable[[], Answer]], Callable[[], Answer]]


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
        self.freeze: Callable[[], None] | None = None  # freezes the calling process; if processes may freeze
        self.arrives_late = False  # whether requests may arrive late

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
        """Returns a function that rolls back later movements, as often as it is called."""
        made, late = len(self.movements), list(self.late)

        def rollback() -> None:
            del self.movements[made:]
            self.late = list(late)

        return rollback

    def next_late(self, until: float) -> Late | None:
        """Takes the delayed request that arrives next, if it is due."""
        due = min((late for late in self.late if late.due <= until), key=lambda late: late.due, default=None)
        if due:
            self.late.remove(due)
        return due

    def carry_out(self, late: Late) -> None:
        self._cancel(late.authorization, late.wanted)

    # ---- as the client's transport

    def get(self, request: requests.PreparedRequest, **_: Any) -> Answer:
        authorization = request.headers["Authorization"]
        order_id = parse_qs(urlsplit(request.url or "").query)["merchantOrderId"][0]
        call = Call(
            "check_status",
            f"order {order_id}",
            lambda: self._check_status(authorization, order_id),
            [
                *self._not_done(),
                Fault("response lost", _lost),
                Fault(NO_ANSWER, _no_answer, redundant=True),
                Fault("HTTP 500", lambda: _error(500, "ServerError", "try again"), redundant=True),
            ],
        )
        answer: Answer = current_fiber().make(call)
        return answer

    def post(self, request: requests.PreparedRequest, *, may_send: Callable[[], bool], **_: Any) -> Answer:
        authorization = request.headers["Authorization"]
        wanted = json.loads(request.body or b"", parse_float=Decimal, parse_int=Decimal)

        def sent(happens: Callable[[], Answer]) -> Callable[[], Answer]:
            """It is sent at the moment at which it takes effect, if may_send allows it."""

            def happen() -> Answer:
                if not may_send():
                    raise SendingTooLate("the caller stopped the request before it was sent")
                return happens()

            return happen

        def done() -> Answer:
            return self._cancel(authorization, wanted)

        faults = [
            *self._not_done(sent),
            Fault("HTTP 422", sent(lambda: _error(422, "ValidationError", {"legalName": LEGAL_NAME}))),
            # If repeats are recognised, a 409 means only that: `resubmit` relies on it.
            *(
                []
                if self.recognises_repeats
                else [Fault("HTTP 409", sent(_conflict), leaves_doubt=True, redundant=True)]
            ),
            Fault("request lost", sent(_lost), leaves_doubt=True),
            Fault("done, response lost", sent(lambda: _after(done(), _lost)), leaves_doubt=True),
            Fault(
                "done, HTTP 502",
                sent(lambda: _after(done(), lambda: _answer(502, "<html>Bad Gateway</html>"))),
                leaves_doubt=True,
                redundant=True,
            ),
            Fault(
                "not done, HTTP 500",
                sent(lambda: _answer(500, "<html>Error</html>")),
                leaves_doubt=True,
                redundant=True,
            ),
            Fault(
                "not done, HTTP 200 with an error",
                sent(lambda: _error(200, "ServerError", "not now")),
                leaves_doubt=True,
                redundant=True,
            ),
            *self._out_of_time(authorization, wanted, sent),
        ]
        detail = f"refund {wanted['refundId'][:6]} of {wanted['cancellationAmount']}"
        answer: Answer = current_fiber().make(Call("cancel", detail, sent(done), faults, refund_id=wanted["refundId"]))
        return answer

    def close(self) -> None:
        pass

    def _out_of_time(self, authorization: str, wanted: dict[str, Any], sent: _Sent) -> list[Fault]:
        faults: list[Fault] = []
        if self.arrives_late:

            def late(seconds: float) -> Answer:
                self.late.append(Late(self.now() + seconds, authorization, wanted))
                return _lost()

            faults += [
                Fault(
                    f"timed out, done {seconds:g} s later",
                    sent(lambda seconds=seconds: late(seconds)),
                    leaves_doubt=True,
                    redundant=seconds != LATE_SECONDS[0],
                )
                for seconds in LATE_SECONDS
            ]
        if freeze := self.freeze:

            def frozen_before() -> Answer:
                freeze()
                return sent(lambda: self._cancel(authorization, wanted))()

            def frozen_after() -> Answer:
                answer = self._cancel(authorization, wanted)
                freeze()
                return answer

            faults += [
                Fault("the process freezes before it sends", frozen_before, leaves_doubt=True, takes_time=True),
                Fault("done, the process freezes", sent(frozen_after), leaves_doubt=True, takes_time=True),
            ]
        return faults

    def _not_done(self, sent: _Sent = lambda happens: happens) -> list[Fault]:
        return [
            Fault("no connection", _no_connection),
            Fault("HTTP 429", sent(lambda: _answer(429, "slow down", {"Retry-After": "3"})), redundant=True),
            Fault("HTTP 401", sent(lambda: _error(401, "FailedAuthError", "who are you?"))),
        ]

    def _merchant(self, authorization: str) -> str | None:
        key, nonce, signature = authorization.removeprefix("Bearer ").split(":")
        for merchant_id, (api_key, secret_key) in self.credentials.items():
            right = hmac.new(secret_key.encode(), f"{key}:{nonce}".encode(), hashlib.sha256).hexdigest()
            if key == api_key and signature == right:
                return merchant_id
        return None

    def _check_status(self, authorization: str, order_id: str) -> Answer:
        merchant_id = self._merchant(authorization)
        if merchant_id is None:
            return _error(401, "FailedAuthError", "unknown key")
        if (merchant_id, order_id) not in self.orders:
            return _error(404, "NotFoundError", "no such order")
        amount, status = self.orders[merchant_id, order_id]
        return _answer(
            200,
            f'{{"status": "OK", "transactionStatus": "{status}", "merchantOrderId": "{order_id}", "amount": {amount}, '
            f'"legalName": "{LEGAL_NAME}", "indodanaUserId": "{USER_ID}"}}',
        )

    def _cancel(self, authorization: str, wanted: dict[str, Any]) -> Answer:
        merchant_id = self._merchant(authorization)
        if merchant_id is None:
            return _error(401, "FailedAuthError", "unknown key")
        order_id, amount = wanted["merchantOrderId"], Decimal(wanted["cancellationAmount"])
        if (merchant_id, order_id) not in self.orders:
            return _error(404, "NotFoundError", "no such order")
        if self.recognises_repeats and self.times_moved(wanted["refundId"]):
            return _error(409, "ConflictError", "this refundId is done already")
        # It does not check its sums: the gateway promises to refund no more than was paid.
        movement = Movement(merchant_id, order_id, wanted["refundId"], amount)
        self.movements.append(movement)
        self.on_movement(movement)
        return _answer(200, f'{{"status": "OK", "merchantOrderId": "{order_id}", "legalName": "{LEGAL_NAME}"}}')


def _after(_: Answer, then: Callable[[], Answer]) -> Answer:
    return then()


class Shown(Answer):
    """The scheduler compares results by their text."""

    def __repr__(self) -> str:
        return f"{self.http_status} {self.headers.items()} {self.body!r} {self.broken!r}"


def _answer(status: int, body: str, headers: Mapping[str, str] | None = None) -> Answer:
    fields = HTTPMessage()
    for name, value in (headers or {}).items():
        fields[name] = value
    return Shown(status, fields, body.encode())


def _lost() -> Answer:
    return Shown(None, HTTPMessage(), b"", ConnectionLost("the connection broke"))


def _no_answer() -> Answer:
    return Shown(None, HTTPMessage(), b"", AnswerTimedOut("no complete answer in time"))


def _no_connection() -> Answer:
    raise ConnectionFailed("no connection to Indodana: refused")


def _conflict() -> Answer:
    return _error(409, "ConflictError", "conflict")


def _error(status: int, kind: str, message: object) -> Answer:
    return _answer(status, json.dumps({"status": "ERROR", "error": {"kind": kind, "message": message}}))
