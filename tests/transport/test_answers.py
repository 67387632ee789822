"""Which answers mean that a cancellation was done, and those that make no sense; over real sockets."""

from __future__ import annotations

import json
import zlib
from collections.abc import Callable, Iterator
from datetime import UTC, datetime, timedelta
from decimal import Decimal
from email.utils import format_datetime
from hashlib import sha256
from http.client import HTTPMessage
from typing import Any

import pytest
import simplejson
from hypothesis import given
from hypothesis import strategies as st

from indodana import (
    AnswerUnreadable,
    ContradictingAnswer,
    IndodanaClient,
    IndodanaError,
    OutcomeUnknown,
    RateLimited,
    ServerFailed,
)
from indodana.answers import Asked, Reading
from indodana.transport import Answer
from tests.transport.upstream import (
    NOW,
    PAID,
    World,
    both_calls,
    cancel_on,
    cancellation,
    error,
    error_of,
    http,
)

# Done, or not


@pytest.mark.parametrize("status", [200, 201])
def test_an_accepted_cancellation_keeps_evidence_of_the_answer(world: World, status: int) -> None:
    body = '{ "status":"OK", "refundId": "R-1", "extra": 1.50, "legalName": "Budi Santoso" }'
    accepted = cancel_on(world.client(world.upstream(http(status, body))))
    assert accepted.http_status == status
    assert json.loads(accepted.evidence.body)["refundId"] == "R-1"
    assert accepted.evidence.sha256 == sha256(body.encode()).hexdigest()
    assert "Budi" not in f"{accepted!r} {accepted.evidence}"


@pytest.mark.parametrize("status", [202, 203, 204, 205, 206, 207, 226, 299])
@both_calls
def test_another_2xx_says_not_that_it_is_done(world: World, call: Callable[[IndodanaClient], Any], status: int) -> None:
    assert type(error_of(world, call, http(status, PAID))) is AnswerUnreadable


@pytest.mark.parametrize(
    "body",
    [
        '{"status": "ERROR", "status": "OK", "transactionStatus": "PAID"}',
        '{"status": "OK", "status": "OK", "transactionStatus": "PAID"}',
        '{"status": "OK", "transactionStatus": "PAID", "transactionStatus": "PAID"}',
        '{"status": "OK", "transactionStatus": "PAID", "data": {"a": 1, "a": 2}}',
        '{"status": "OK", "transactionStatus": "PAID", "data": [[{"a": {"b": 1, "b": 1}}]]}',
        '{"st\\u0061tus": "ERROR", "status": "OK", "transactionStatus": "PAID"}',
    ],
)
@both_calls
def test_an_ok_with_a_key_that_stands_twice_is_none(
    world: World, call: Callable[[IndodanaClient], Any], body: str
) -> None:
    failure = error_of(world, call, http(200, body))
    assert type(failure) is AnswerUnreadable
    assert failure.evidence
    assert failure.evidence.body.count(":") == body.count(":"), "one of them is not in the evidence"


AGREEING = [
    {},
    {"cancellationAmount": 100000},
    {"cancellationAmount": 100000.00, "refundAmount": "100000"},
    {"refundAmount": "100000.00"},
    {"cancellationAmount": None, "refundAmount": None, "refundId": None, "merchantOrderId": None, "error": None},
    {"refundId": "R-1", "merchantOrderId": "ORDER-1"},
    {"amount": 4500000},
    {"amount": 1},
    {"refundStatus": "SUCCESS", "cancellationStatus": "DONE", "transactionStatus": "CANCELLED"},
    {"transactionStatus": "PAID"},
    {"transactionStatus": "PARTIALLY_CANCELLED"},
    {"refundStatus": None, "cancellationStatus": ["FAILED"], "transactionStatus": 1},
    {"message": "refund FAILED before, PENDING now", "data": {"refundStatus": "FAILED", "refundId": "R-2"}},
    {"errors": ["x"], "Error": "x", "errorCode": 17},
]


@pytest.mark.parametrize("said", AGREEING, ids=str)
def test_an_ok_that_does_not_contradict_is_success(world: World, said: dict[str, Any]) -> None:
    assert cancel_on(world.client(world.upstream(http(body={"status": "OK", **said})))).http_status == 200


def contradicting() -> Iterator[tuple[str, object]]:
    for name in ("cancellationAmount", "refundAmount"):
        for sum_ in (
            10000,
            1000000,
            100000.01,
            0,
            -100000,
            "10000",
            "100000.01",
            "100.000",
            "100,000",
            "1E5",
            " 100000",
        ):
            yield name, sum_
        for nothing in ("", "Rp 100000", True, False, [], {}, [100000], {"value": 100000}):
            yield name, nothing
    for name, other in (("refundId", "R-2"), ("merchantOrderId", "ORDER-2")):
        others: list[object] = [other, "", 1, True, [], {}, other.lower(), f"{other} "]
        yield from ((name, value) for value in others)
    yield "merchantOrderId", "order-1"
    errors: list[object] = ["Saldo tidak cukup", {"kind": "E"}, {}, [], "", 0, False]
    yield from (("error", value) for value in errors)
    for name in ("refundStatus", "cancellationStatus", "transactionStatus"):
        for word in ("PENDING", "PROCESSING", "IN_PROGRESS", "FAILED", "REJECTED", "EXPIRED"):
            yield from ((name, spelled) for spelled in (word, word.lower(), word.title(), f" {word}\n"))
        yield from ((name, spelled) for spelled in ("in progress", "In-Progress", "inProgress", "IN  PROGRESS"))


@pytest.mark.parametrize(("name", "value"), list(contradicting()), ids=str)
def test_an_ok_that_says_something_else_than_was_asked_is_none(world: World, name: str, value: object) -> None:
    """Reported at xendit-php#171 and hyperswitch#8049."""
    failure = error_of(world, cancel_on, http(body={"status": "OK", name: value}))
    assert type(failure) is ContradictingAnswer
    assert isinstance(failure, OutcomeUnknown)
    assert failure.field == name
    assert name in str(failure)


def test_a_sum_is_compared_exactly(world: World) -> None:
    client = world.client(world.upstream(http(body='{"status": "OK", "refundAmount": "9007199254740.93"}')))
    client.cancel("m1", cancellation(amount=Decimal("9007199254740.93")))
    with pytest.raises(ContradictingAnswer):
        client.cancel("m1", cancellation(amount=Decimal("9007199254740.92")))


@pytest.mark.parametrize(
    "body",
    [
        "",
        "<html>502 Bad Gateway</html>",
        "OK",
        "null",
        "[]",
        '"OK"',
        "{}",
        '{"status": "ok"}',
        '{"status": true}',
        '{"status": "OK"',
        '{"status": "OK", "amount": NaN}',
        '{"status": "OK", "amount": 1e99999999999999999999}',
        '{"status": "OK"} {"status": "OK"}',
        '{"status": "OK"}x',
        '{"status": "ERROR", "error": {"kind": "SomeError"}}',
        b"\xff\xfe\x00",
        '{"status": "OK", "a": ' + "[" * 30_000,
        '{"status": "OK", "a": "' + "x" * 70_000 + '"}',
    ],
    ids=lambda body: str(body[:40]),
)
@both_calls
def test_a_200_that_makes_no_sense_leaves_the_outcome_unknown(
    world: World, call: Callable[[IndodanaClient], Any], body: str | bytes
) -> None:
    failure = error_of(world, call, http(200, body))
    assert type(failure) is AnswerUnreadable
    assert failure.http_status == 200
    assert failure.evidence
    read = (body.encode() if isinstance(body, str) else body)[: 64 * 1024]
    assert failure.evidence.sha256 == sha256(read).hexdigest()


def test_a_byte_order_mark_does_not_matter(world: World) -> None:
    cancel_on(world.client(world.upstream(http(body=b"\xef\xbb\xbf" + b'{"status":"OK"}'))))


def test_a_chunked_answer_is_read(world: World) -> None:
    chunked = b'HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n5\r\n{"sta\r\na\r\ntus":"OK"}\r\n0\r\n\r\n'
    cancel_on(world.client(world.upstream(chunked)))


@pytest.mark.parametrize(("coding", "window"), [("gzip", 31), ("x-GZIP", 31), ("deflate", 15)])
def test_an_answer_that_comes_packed_all_the_same_is_read(world: World, coding: str, window: int) -> None:
    packing = zlib.compressobj(wbits=window)
    packed = packing.compress(b'{"status": "OK"}') + packing.flush()
    coded = f"Content-Encoding: {coding}"
    accepted = cancel_on(world.client(world.upstream(http(200, packed, coded))))
    assert accepted.evidence.sha256 == sha256(b'{"status": "OK"}').hexdigest()
    bomb = zlib.compressobj(wbits=window)
    for broken in (packed[:-4], packed + b"x", bomb.compress(b" " * 50_000_000) + bomb.flush()):
        assert type(error_of(world, cancel_on, http(200, broken, coded))) is AnswerUnreadable
    assert type(error_of(world, cancel_on, http(200, packed, "Content-Encoding: br"))) is AnswerUnreadable


@pytest.mark.parametrize("location", ["http://127.0.0.1:1/elsewhere", "/v3/order_cancellation", "http://[", "\x7f"])
@pytest.mark.parametrize("status", [301, 302, 303, 307, 308])
def test_a_redirect_is_not_followed_nor_looked_at(world: World, status: int, location: str) -> None:
    upstream = world.upstream(http(status, "", f"Location: {location}"))
    with pytest.raises(AnswerUnreadable):
        cancel_on(world.client(upstream))
    assert len(upstream.received) == 1


@pytest.mark.parametrize(
    ("header", "seconds"),
    [
        ("7", 7),
        ("0", 0),
        ("3600", 3600),
        ("86400", 86_400),
        ("86401", 86_400),
        ("999999999999", 86_400),
        ("9" * 5000, 86_400),
        ("-5", None),
        ("1.5", None),
        ("soon", None),
        ("", None),
        ("nan", None),
        ("²", None),
        (format_datetime(datetime.fromtimestamp(NOW, UTC) + timedelta(seconds=90), usegmt=True), 90),
        (format_datetime(datetime.fromtimestamp(NOW, UTC) - timedelta(seconds=90), usegmt=True), 0),
        (format_datetime(datetime.fromtimestamp(NOW, UTC) + timedelta(days=90), usegmt=True), 86_400),
        ("Thu, 26 Sep 2019 06:25:26 -0000", 60),
        ("Thu, 99 Sep 99999 06:25:26 GMT", None),
    ],
)
def test_retry_after_is_seconds_or_a_date_within_reason(world: World, header: str, seconds: float | None) -> None:
    answer = error(429, "TooManyRequests", "slow down", f"Retry-After: {header}")
    with pytest.raises(RateLimited) as caught:
        cancel_on(world.client(world.upstream(answer)))
    assert caught.value.retry_after_seconds == seconds


def test_a_retry_after_that_is_cut_is_logged(world: World, caplog: pytest.LogCaptureFixture) -> None:
    error_of(world, cancel_on, http(503, "", "Retry-After: 86400"))
    assert not caplog.records
    error_of(world, cancel_on, http(503, "", "Retry-After: 90000"))
    assert [(record.name, record.levelname) for record in caplog.records] == [("indodana", "WARNING")]
    assert "90000" in caplog.text


def test_a_server_error_carries_its_retry_after_too(world: World) -> None:
    with pytest.raises(ServerFailed) as caught:
        cancel_on(world.client(world.upstream(http(503, "", "Retry-After: 30"))))
    assert caught.value.retry_after_seconds == 30


# Whatever it is


NAMES = st.sampled_from(
    [*PAID, "error", "message", "errors", "kind", "code", "refundId", "refundAmount", "refundStatus", "title", "x"]
)
ODD_TEXTS = st.text(st.characters(), max_size=20) | st.sampled_from(
    ["OK", "ERROR", "100000.00", "&#" + "9" * 5000 + ";"]
)
ODD_NUMBERS = st.sampled_from([Decimal("9" * 4400), Decimal("1E+999999"), Decimal("-1E-999999"), Decimal("0.10")])
JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | ODD_NUMBERS | ODD_TEXTS,
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(NAMES | ODD_TEXTS, inner, max_size=6),
    max_leaves=12,
)
OBJECTS = st.dictionaries(NAMES, JSON, max_size=8).map(
    lambda said: {"status": "OK", "transactionStatus": "PAID", **said}
)


@given(
    status=st.sampled_from([200, 400, 401, 409, 422, 429, 500]),
    said=OBJECTS | JSON,
    retry_after=st.none() | ODD_TEXTS.filter(lambda text: text.isprintable()),
)
def test_nothing_that_is_said_raises_anything_else(status: int, said: object, retry_after: str | None) -> None:
    headers = HTTPMessage()
    if retry_after is not None:
        headers["Retry-After"] = retry_after
    answer = Answer(status, headers, simplejson.dumps(said, use_decimal=True, allow_nan=True).encode())
    reading = Reading(answer, Asked("ORDER-1", "R-1", Decimal(100000)), ("the-api-key", "till 7"), NOW)
    for read in (reading.transaction_status, reading.cancellation):
        try:
            read()
        except IndodanaError as error:
            failure = error
        else:
            continue
        json.dumps([str(failure), failure.kind, failure.message])
        assert failure.evidence
        assert failure.evidence.body.encode()
