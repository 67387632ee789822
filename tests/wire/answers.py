"""The server's answers, Indodana's own and those of proxies on the way, and whether the money moved before.

Each answer names the outcomes that are right if it arrives complete and in time. Whether money moved is random, except
where docs/correctness.md assumes it: OK means it moved; 401, 429 and Indodana's own error document mean it did not.
"""

from __future__ import annotations

import gzip
import json
import random
from collections.abc import Callable
from dataclasses import dataclass
from decimal import Decimal
from typing import Any

import simplejson

from indodana import (
    CancellationAccepted,
    ContradictingAnswer,
    CredentialsRejected,
    ForeignAnswer,
    OutcomeUnknown,
    RateLimited,
    Refused,
    ServerFailed,
    TransactionStatus,
)

REFUSALS = (400, 403, 404, 409, 422)
# The client reads no more of a body.
BODY_LIMIT = 64 * 1024
RETRY_AFTER_LIMIT = 24 * 3600.0


@dataclass(frozen=True)
class Asked:
    """A request, and another refund of the same seed, whose answer it might get by mistake."""

    order: str
    refund_id: str | None = None
    amount: Decimal | None = None
    other: Asked | None = None


@dataclass(frozen=True)
class ServerAnswer:
    name: str
    status: int
    body: bytes
    outcomes: tuple[type, ...]
    moved: bool = False
    headers: tuple[str, ...] = ()
    # Incomplete, it could mean something else: it is always sent completely.
    whole_only: bool = False
    # The body before compression.
    unpacked: bytes | None = None
    # Details that the outcome must have.
    field: str | None = None
    retry_after: float | None = None
    status_amount: Decimal | None = None
    transaction_status: str | None = None

    def names(self, order: str) -> bool:
        """Whether it names the order, so that a client can see to which request it belongs."""
        try:
            document = json.loads(self.body)
        except (ValueError, RecursionError):
            return False
        return self.status == 200 and isinstance(document, dict) and document.get("merchantOrderId") == order

    @property
    def carries_body(self) -> bool:
        return self.status not in (101, 204, 304)


type Maker = Callable[[random.Random, Asked], ServerAnswer]


def to_cancel(rng: random.Random, asked: Asked) -> ServerAnswer:
    return _drawn(rng, _TO_CANCEL)(rng, asked)


def to_status(rng: random.Random, asked: Asked) -> ServerAnswer:
    return _drawn(rng, _TO_STATUS)(rng, asked)


def unauthorized(rng: random.Random) -> ServerAnswer:
    """For a request signed with a key that was rotated."""
    return _unauthorized(rng, Asked(""))


def _drawn(rng: random.Random, makers: list[tuple[int, Maker]]) -> Maker:
    return rng.choices([maker for _, maker in makers], [weight for weight, _ in makers])[0]


def _dumps(rng: random.Random, document: Any) -> bytes:
    if isinstance(document, dict):
        names = list(document)
        rng.shuffle(names)
        document = {name: document[name] for name in names}
    indent = rng.choice((None, None, None, 2))
    text = simplejson.dumps(document, use_decimal=True, indent=indent, ensure_ascii=rng.random() < 0.5)
    return (text + rng.choice(("", "", "", "\n", "\r\n  "))).encode()


_JSON = ("Content-Type: application/json",)
_HTML = ("Content-Type: text/html; charset=utf-8",)
_PAGES = (
    b"<html><head><title>403 Forbidden</title></head><body>cloudflare</body></html>",
    b"<!DOCTYPE html><p>Error</p>",
    b"Forbidden",
    b"",
    b'<html>{"status":"ERROR"}</html>',
)


def _sum(rng: random.Random, amount: Decimal) -> Any:
    """An amount in one of its JSON spellings."""
    return rng.choice((amount, amount.quantize(Decimal("0.01")), simplejson.RawJSON(f"{amount:.3f}"), amount))


def _ok(rng: random.Random, asked: Asked) -> dict[str, Any]:
    """OK to a cancellation, with some other fields that contradict nothing."""
    assert asked.amount is not None
    may: dict[str, Any] = {
        "refundId": asked.refund_id,
        "merchantOrderId": asked.order,
        "cancellationAmount": _sum(rng, asked.amount),
        "refundAmount": _sum(rng, asked.amount),
        "amount": asked.amount * 7,
        "transactionStatus": rng.choice(("PAID", "CANCELLED", "Cancelled", "REFUNDED")),
        "refundStatus": rng.choice(("SUCCESS", "COMPLETED", "REFUNDED")),
        "error": None,
        "message": rng.choice(("Refund PENDING, then done", "éè 返金", "FAILED before, OK now", "x" * 300)),
        "transactionId": "T-1",
        "legalName": "Budi Santoso",
        "data": {"status": "OK", "list": [1, 2.5, None, True]},
    }
    return {"status": "OK"} | {name: value for name, value in may.items() if rng.random() < 0.25}


def _accepted(rng: random.Random, asked: Asked) -> ServerAnswer:
    status, name = (201, "201 OK") if rng.random() < 0.05 else (200, "OK")
    return ServerAnswer(name, status, _dumps(rng, _ok(rng, asked)), (CancellationAccepted,), True, _JSON)


def _named(rng: random.Random, asked: Asked) -> ServerAnswer:
    """OK with all fields that name its request."""
    document = _ok(rng, asked) | {
        "refundId": asked.refund_id,
        "merchantOrderId": asked.order,
        "cancellationAmount": asked.amount,
    }
    return ServerAnswer("OK that names its request", 200, _dumps(rng, document), (CancellationAccepted,), True, _JSON)


def _accepted_large(rng: random.Random, asked: Asked) -> ServerAnswer:
    document = _ok(rng, asked) | {"padding": "word " * rng.randint(1000, 12_000)}
    return ServerAnswer("large OK", 200, _dumps(rng, document), (CancellationAccepted,), True, _JSON)


def _accepted_tolerated(rng: random.Random, asked: Asked) -> ServerAnswer:
    """OK in a form that a client may accept or not."""
    ok = _dumps(rng, _ok(rng, asked))
    name, body, headers = rng.choice(
        (
            ("OK after a byte order mark", b"\xef\xbb\xbf" + ok, _JSON),
            ("OK compressed, unasked", gzip.compress(ok, mtime=0), (*_JSON, "Content-Encoding: gzip")),
            ("OK with the same key twice", ok.replace(b"{", b'{"status": "OK", ', 1), _JSON),
            ("OK with a sum in words", ok.replace(b"{", b'{"cancellationAmount": "all of it", ', 1), _JSON),
            ("OK with a null identity", ok.replace(b"{", b'{"refundId": null, ', 1), _JSON),
        )
    )
    outcomes, unpacked = (CancellationAccepted, OutcomeUnknown), ok if len(headers) > 1 else None
    return ServerAnswer(name, 200, body, outcomes, True, headers, whole_only=True, unpacked=unpacked)


def _contradicting(rng: random.Random, asked: Asked) -> ServerAnswer:
    assert asked.amount is not None
    assert asked.other is not None
    assert asked.other.amount is not None
    field = rng.choice(("cancellationAmount", "refundAmount", "refundId", "merchantOrderId", "error", "status words"))
    if field in ("cancellationAmount", "refundAmount"):
        value: Any = rng.choice((asked.amount * 10, asked.amount + 1, asked.amount - Decimal("0.01"), 0, -asked.amount))
    elif field == "refundId":
        value = asked.other.refund_id
    elif field == "merchantOrderId":
        value = asked.other.order
    elif field == "error":
        value = rng.choice(({"kind": "InternalError", "message": "no"}, "no", ["no"]))
    else:
        field = rng.choice(("refundStatus", "cancellationStatus", "transactionStatus"))
        value = rng.choice(("PENDING", "PROCESSING", "IN_PROGRESS", "FAILED", "REJECTED", "EXPIRED"))
        value = rng.choice((value, value.lower(), value.capitalize()))
    body = _dumps(rng, _ok(rng, asked) | {field: value})
    return ServerAnswer(
        f"OK contradicting in {field}", 200, body, (ContradictingAnswer,), rng.random() < 0.5, _JSON, field=field
    )


def _of_another(rng: random.Random, asked: Asked) -> ServerAnswer:
    """The complete OK of another refund."""
    assert asked.other is not None
    document = {
        "status": "OK",
        "refundId": asked.other.refund_id,
        "merchantOrderId": asked.other.order,
        "cancellationAmount": asked.other.amount,
    }
    moved = rng.random() < 0.5
    return ServerAnswer("OK of another refund", 200, _dumps(rng, document), (ContradictingAnswer,), moved, _JSON)


def _ambiguous(rng: random.Random, asked: Asked) -> ServerAnswer:
    assert asked.other is not None
    pairs = [("status", "OK"), ("refundId", asked.refund_id), ("merchantOrderId", asked.order)]
    pairs.append(
        rng.choice(
            (
                ("status", "ERROR"),
                ("status", None),
                ("refundId", asked.other.refund_id),
                ("merchantOrderId", asked.other.order),
            )
        )
    )
    rng.shuffle(pairs)
    body = "{" + ", ".join(f"{json.dumps(name)}: {json.dumps(value)}" for name, value in pairs) + "}"
    return ServerAnswer("OK with a duplicate key", 200, body.encode(), (OutcomeUnknown,), rng.random() < 0.5, _JSON)


def _other_2xx(rng: random.Random, asked: Asked) -> ServerAnswer:
    status = rng.choice((202, 202, 203, 204, 205, 206, 207, 226))
    headers = (*_JSON, "Content-Range: bytes 0-20/21") if status == 206 else _JSON
    body = _dumps(rng, _ok(rng, asked) if asked.amount else {"status": "OK", "transactionStatus": "PAID"})
    return ServerAnswer(f"{status}", status, body, (OutcomeUnknown,), rng.random() < 0.5, headers)


def _odd_200(rng: random.Random, asked: Asked) -> ServerAnswer:
    body = rng.choice(
        (
            *_PAGES,
            b'{"status": "ERROR", "error": {"kind": "SomeError", "message": "no"}}',
            b'{"status": "ok"}',
            b'{"status": "OK "}',
            b'{"status": ["OK"]}',
            b'{"Status": "OK"}',
            b'{"data": {"status": "OK"}}',
            b'[{"status": "OK"}]',
            b'"OK"',
            b"null",
            b'{"status": "OK", "fee": NaN}',
            b'{"status": "OK", }',
            b'{"status": "OK"} and more',
            b'{"status": "OK"}{"status": "OK"}',
            b'{"status": "OK"',
            '{"status": "OK"}'.encode("utf-16"),
            b"[" * 20_000,
            b'{"status": "OK", "padding": "' + b"x" * (BODY_LIMIT + 1) + b'"}',
        )
    )
    moved = rng.random() < 0.5
    return ServerAnswer(
        "200 with an invalid body", 200, body, (OutcomeUnknown,), moved, rng.choice((_JSON, _HTML)), True
    )


def _error_document(rng: random.Random) -> dict[str, Any]:
    document: dict[str, Any] = {"status": "ERROR"}
    error: Any = rng.choice(
        (
            {"kind": "ValidationError", "message": "Saldo tidak cukup"},
            {"kind": "NotFoundError", "message": {"merchantOrderId": ["unknown"]}},
            "Saldo tidak cukup",
            {"message": None},
            {},
            None,
        )
    )
    return document if error is None else document | {"error": error}


def _refused(rng: random.Random, asked: Asked) -> ServerAnswer:
    status = rng.choice(REFUSALS)
    headers = rng.choice((_JSON, ("Content-Type: application/json; charset=utf-8", "Server: nginx"), ()))
    return ServerAnswer("Indodana's own refusal", status, _dumps(rng, _error_document(rng)), (Refused,), False, headers)


def _foreign(rng: random.Random, asked: Asked) -> ServerAnswer:
    status = rng.choice(REFUSALS)
    body = rng.choice(
        (
            *_PAGES,
            *_PAGES,
            b'{"message": "Forbidden"}',
            b'{"error": {"kind": "SomeError", "message": "no"}}',
            b'{"status": "OK"}',
            b'{"status": "error"}',
            b'{"status": 403, "error": "Forbidden"}',
            b'{"status": "FAIL", "status_code": 403}',
            b'{"status": "ERROR", "status": "OK"}',
            b'{"status": "OK", "status": "ERROR"}',
            b'[{"status": "ERROR"}]',
            b'{"data": {"status": "ERROR"}}',
            b'{"status": "ERROR"',
            b'{"status": "ERROR"}</html>',
            b'{"status": "ERROR", "padding": "' + b"x" * (BODY_LIMIT + 1) + b'"}',
        )
    )
    headers = rng.choice((_JSON, _HTML))
    return ServerAnswer(f"a proxy's {status}", status, body, (ForeignAnswer,), rng.random() < 0.5, headers, True)


def _unauthorized(rng: random.Random, asked: Asked) -> ServerAnswer:
    body = rng.choice((_dumps(rng, _error_document(rng)), *_PAGES, b'{"status": "OK"}'))
    return ServerAnswer("401", 401, body, (CredentialsRejected,), False, ('WWW-Authenticate: Bearer realm="x"',))


def _limited(rng: random.Random, asked: Asked) -> ServerAnswer:
    body = rng.choice((_dumps(rng, _error_document(rng)), *_PAGES))
    spelled, seconds = rng.choice(
        (
            (None, None),
            ("0", 0.0),
            ("7", 7.0),
            ("3600", 3600.0),
            ("86400", RETRY_AFTER_LIMIT),
            ("999999999", RETRY_AFTER_LIMIT),
            ("soon", None),
            ("-5", None),
        )
    )
    headers = () if spelled is None else (f"Retry-After: {spelled}",)
    return ServerAnswer("429", 429, body, (RateLimited,), False, headers, retry_after=seconds)


def _failed(rng: random.Random, asked: Asked) -> ServerAnswer:
    status = rng.choice((500, 502, 503, 504, 520, 599))
    body = rng.choice((_dumps(rng, _error_document(rng)), *_PAGES, b'{"status": "OK"}'))
    return ServerAnswer("5xx", status, body, (ServerFailed,), rng.random() < 0.5)


def _undocumented(rng: random.Random, asked: Asked) -> ServerAnswer:
    status = rng.choice((300, 301, 302, 303, 304, 307, 308, 402, 405, 406, 407, 408, 410, 413, 418, 425, 451, 600, 999))
    headers: tuple[str, ...] = ("Location: /elsewhere",) if 300 <= status < 400 else ()
    if status == 407:
        headers = ('Proxy-Authenticate: Basic realm="x"',)
    body = rng.choice((b'{"status": "OK"}', b'{"status": "ERROR", "error": {}}', *_PAGES))
    name = "a redirect" if 300 <= status < 400 else "an undocumented status"
    return ServerAnswer(name, status, body, (OutcomeUnknown,), rng.random() < 0.5, headers)


def _switching(rng: random.Random, asked: Asked) -> ServerAnswer:
    headers = ("Upgrade: h2c", "Connection: Upgrade")
    return ServerAnswer("101", 101, b"", (OutcomeUnknown,), rng.random() < 0.5, headers)


def _status(rng: random.Random, asked: Asked) -> ServerAnswer:
    word = rng.choice(("PAID", "PAID", "INITIATED", "EXPIRED", "REJECTED", "CANCELLED", "Some other"))
    amount = Decimal(rng.randint(1, 10**7)) + rng.choice((Decimal(0), Decimal("0.25")))
    may: dict[str, Any] = {
        "transactionId": f"T-{asked.order}",
        "paymentType": "3_months",
        "transactionTime": "2019-09-26T06:24:26+0000",
        "fraudStatus": "ACCEPT",
        "legalName": "Budi Santoso",
        "indodanaUserId": "user-42",
        "unknownField": {"a": [1]},
    }
    document = {"status": "OK", "transactionStatus": word, "amount": rng.choice((amount, amount, f"{amount:.2f}"))}
    if rng.random() < 0.9:
        document["merchantOrderId"] = asked.order
    document |= {name: value for name, value in may.items() if rng.random() < 0.7}
    return ServerAnswer(
        "a transaction's status",
        200,
        _dumps(rng, document),
        (TransactionStatus,),
        headers=_JSON,
        status_amount=amount,
        transaction_status=word,
    )


def _odd_status(rng: random.Random, asked: Asked) -> ServerAnswer:
    assert asked.other is not None
    document: dict[str, Any] = {
        "status": "OK",
        "transactionStatus": "PAID",
        "merchantOrderId": asked.order,
        "amount": 100,
    }
    document |= rng.choice(
        (
            {"merchantOrderId": asked.other.order},
            {"transactionStatus": None},
            {"transactionStatus": {"is": "PAID"}},
            {"status": "ERROR"},
            {"amount": "a lot"},
            {"amount": -1},
        )
    )
    return ServerAnswer("an invalid status", 200, _dumps(rng, document), (OutcomeUnknown,), headers=_JSON)


_TO_CANCEL: list[tuple[int, Maker]] = [
    (34, _accepted),
    (6, _named),
    (2, _accepted_large),
    (3, _accepted_tolerated),
    (9, _contradicting),
    (2, _of_another),
    (3, _ambiguous),
    (3, _other_2xx),
    (5, _odd_200),
    (11, _refused),
    (9, _foreign),
    (2, _unauthorized),
    (3, _limited),
    (4, _failed),
    (3, _undocumented),
    (1, _switching),
]
_TO_STATUS: list[tuple[int, Maker]] = [
    (60, _status),
    (4, _odd_status),
    (2, _other_2xx),
    (4, _odd_200),
    (7, _refused),
    (7, _foreign),
    (2, _unauthorized),
    (3, _limited),
    (4, _failed),
    (3, _undocumented),
    (1, _switching),
]
