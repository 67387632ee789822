"""What the server says to a request, and what it did before it said so: Indodana's own answers, and others' on the way.

Each answer knows the verdicts that are right where the wire carries it whole and in time. What moved is not drawn where
an assumption of docs/correctness.md says it: OK has moved; 401, 429 and Indodana's own error document have not.
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
# What the client reads of a body.
BODY_LIMIT = 64 * 1024
RETRY_AFTER_LIMIT = 24 * 3600.0


@dataclass(frozen=True)
class Asked:
    """What a request asks for, and another refund of the same seed, whose answer might get lost here."""

    order: str
    refund_id: str | None = None
    amount: Decimal | None = None
    other: Asked | None = None


@dataclass(frozen=True)
class Said:
    name: str
    status: int
    body: bytes
    verdicts: tuple[type, ...]
    moved: bool = False
    headers: tuple[str, ...] = ()
    # Cut short, it could be read as something else: it is always sent whole.
    whole_only: bool = False
    # What was meant by a body that came packed.
    unpacked: bytes | None = None
    # What the verdict has to say, where it is this answer's.
    field: str | None = None
    retry_after: float | None = None
    status_amount: Decimal | None = None
    transaction_status: str | None = None

    def names(self, order: str) -> bool:
        """Read as the answer to a request about another order, it shows that it is none."""
        try:
            document = json.loads(self.body)
        except (ValueError, RecursionError):
            return False
        return self.status == 200 and isinstance(document, dict) and document.get("merchantOrderId") == order

    @property
    def carries_body(self) -> bool:
        return self.status not in (101, 204, 304)


type Maker = Callable[[random.Random, Asked], Said]


def to_cancel(rng: random.Random, asked: Asked) -> Said:
    return _drawn(rng, _TO_CANCEL)(rng, asked)


def to_status(rng: random.Random, asked: Asked) -> Said:
    return _drawn(rng, _TO_STATUS)(rng, asked)


def unauthorized(rng: random.Random) -> Said:
    """To a request signed with a key that was replaced."""
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
    """A sum as JSON may spell it."""
    return rng.choice((amount, amount.quantize(Decimal("0.01")), simplejson.RawJSON(f"{amount:.3f}"), amount))


def _ok(rng: random.Random, asked: Asked) -> dict[str, Any]:
    """OK to a cancellation, with some of what may stand beside it and contradicts nothing."""
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


def _accepted(rng: random.Random, asked: Asked) -> Said:
    status, name = (201, "201 OK") if rng.random() < 0.05 else (200, "OK")
    return Said(name, status, _dumps(rng, _ok(rng, asked)), (CancellationAccepted,), True, _JSON)


def _named(rng: random.Random, asked: Asked) -> Said:
    """OK that names its request in every way that there is."""
    document = _ok(rng, asked) | {
        "refundId": asked.refund_id,
        "merchantOrderId": asked.order,
        "cancellationAmount": asked.amount,
    }
    return Said("OK that names its request", 200, _dumps(rng, document), (CancellationAccepted,), True, _JSON)


def _accepted_large(rng: random.Random, asked: Asked) -> Said:
    document = _ok(rng, asked) | {"padding": "word " * rng.randint(1000, 12_000)}
    return Said("large OK", 200, _dumps(rng, document), (CancellationAccepted,), True, _JSON)


def _accepted_tolerated(rng: random.Random, asked: Asked) -> Said:
    """OK in a form of which a client may think either way."""
    ok = _dumps(rng, _ok(rng, asked))
    name, body, headers = rng.choice(
        (
            ("OK after a byte order mark", b"\xef\xbb\xbf" + ok, _JSON),
            ("OK compressed, unasked", gzip.compress(ok, mtime=0), (*_JSON, "Content-Encoding: gzip")),
            ("OK twice the same key", ok.replace(b"{", b'{"status": "OK", ', 1), _JSON),
            ("OK with a sum in words", ok.replace(b"{", b'{"cancellationAmount": "all of it", ', 1), _JSON),
            ("OK with a null identity", ok.replace(b"{", b'{"refundId": null, ', 1), _JSON),
        )
    )
    verdicts, unpacked = (CancellationAccepted, OutcomeUnknown), ok if len(headers) > 1 else None
    return Said(name, 200, body, verdicts, True, headers, whole_only=True, unpacked=unpacked)


def _contradicting(rng: random.Random, asked: Asked) -> Said:
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
    return Said(f"OK of another {field}", 200, body, (ContradictingAnswer,), rng.random() < 0.5, _JSON, field=field)


def _of_another(rng: random.Random, asked: Asked) -> Said:
    """The whole OK of another refund."""
    assert asked.other is not None
    document = {
        "status": "OK",
        "refundId": asked.other.refund_id,
        "merchantOrderId": asked.other.order,
        "cancellationAmount": asked.other.amount,
    }
    moved = rng.random() < 0.5
    return Said("OK of another refund", 200, _dumps(rng, document), (ContradictingAnswer,), moved, _JSON)


def _ambiguous(rng: random.Random, asked: Asked) -> Said:
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
    return Said("OK with a key twice", 200, body.encode(), (OutcomeUnknown,), rng.random() < 0.5, _JSON)


def _other_2xx(rng: random.Random, asked: Asked) -> Said:
    status = rng.choice((202, 202, 203, 204, 205, 206, 207, 226))
    headers = (*_JSON, "Content-Range: bytes 0-20/21") if status == 206 else _JSON
    body = _dumps(rng, _ok(rng, asked) if asked.amount else {"status": "OK", "transactionStatus": "PAID"})
    return Said(f"{status}", status, body, (OutcomeUnknown,), rng.random() < 0.5, headers)


def _odd_200(rng: random.Random, asked: Asked) -> Said:
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
    return Said("200 that is no answer", 200, body, (OutcomeUnknown,), moved, rng.choice((_JSON, _HTML)), True)


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


def _refused(rng: random.Random, asked: Asked) -> Said:
    status = rng.choice(REFUSALS)
    headers = rng.choice((_JSON, ("Content-Type: application/json; charset=utf-8", "Server: nginx"), ()))
    return Said("Indodana's own refusal", status, _dumps(rng, _error_document(rng)), (Refused,), False, headers)


def _foreign(rng: random.Random, asked: Asked) -> Said:
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
    return Said(f"somebody else's {status}", status, body, (ForeignAnswer,), rng.random() < 0.5, headers, True)


def _unauthorized(rng: random.Random, asked: Asked) -> Said:
    body = rng.choice((_dumps(rng, _error_document(rng)), *_PAGES, b'{"status": "OK"}'))
    return Said("401", 401, body, (CredentialsRejected,), False, ('WWW-Authenticate: Bearer realm="x"',))


def _limited(rng: random.Random, asked: Asked) -> Said:
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
    return Said("429", 429, body, (RateLimited,), False, headers, retry_after=seconds)


def _failed(rng: random.Random, asked: Asked) -> Said:
    status = rng.choice((500, 502, 503, 504, 520, 599))
    body = rng.choice((_dumps(rng, _error_document(rng)), *_PAGES, b'{"status": "OK"}'))
    return Said("5xx", status, body, (ServerFailed,), rng.random() < 0.5)


def _undocumented(rng: random.Random, asked: Asked) -> Said:
    status = rng.choice((300, 301, 302, 303, 304, 307, 308, 402, 405, 406, 407, 408, 410, 413, 418, 425, 451, 600, 999))
    headers: tuple[str, ...] = ("Location: /elsewhere",) if 300 <= status < 400 else ()
    if status == 407:
        headers = ('Proxy-Authenticate: Basic realm="x"',)
    body = rng.choice((b'{"status": "OK"}', b'{"status": "ERROR", "error": {}}', *_PAGES))
    name = "a redirect" if 300 <= status < 400 else "a status that is not documented"
    return Said(name, status, body, (OutcomeUnknown,), rng.random() < 0.5, headers)


def _switching(rng: random.Random, asked: Asked) -> Said:
    headers = ("Upgrade: h2c", "Connection: Upgrade")
    return Said("101", 101, b"", (OutcomeUnknown,), rng.random() < 0.5, headers)


def _status(rng: random.Random, asked: Asked) -> Said:
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
    return Said(
        "a transaction's status",
        200,
        _dumps(rng, document),
        (TransactionStatus,),
        headers=_JSON,
        status_amount=amount,
        transaction_status=word,
    )


def _odd_status(rng: random.Random, asked: Asked) -> Said:
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
    return Said("a status that is none", 200, _dumps(rng, document), (OutcomeUnknown,), headers=_JSON)


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
