"""What Indodana's answers mean, over real sockets."""

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
    CredentialsRejected,
    ForeignAnswer,
    IndodanaClient,
    IndodanaError,
    NotSent,
    OutcomeUnknown,
    RateLimited,
    Refused,
    ServerFailed,
)
from indodana.answers import Asked, Reading
from indodana.transport import Answer
from tests.transport.upstream import (
    NOW,
    PAID,
    Act,
    World,
    cancel_on,
    cancellation,
    error,
    http,
    sends,
    status_of,
)


@pytest.fixture
def world() -> Iterator[World]:
    with World() as made:
        yield made


both_calls = pytest.mark.parametrize("call", [status_of, cancel_on])


REFUSALS = [400, 403, 404, 409, 422]


def error_of(world: World, call: Callable[[IndodanaClient], Any], answer: bytes | Act) -> IndodanaError:
    upstream = world.upstream(answer)
    with pytest.raises(IndodanaError) as caught:
        call(world.client(upstream))
    assert len(upstream.received) == 1, "asked again"
    return caught.value


# A status


@pytest.mark.parametrize("status", ["INITIATED", "EXPIRED", "PAID", "REJECTED", "SOMETHING_NEW"])
def test_every_transaction_status_is_passed_on(world: World, status: str) -> None:
    upstream = world.upstream(http(body={**PAID, "transactionStatus": status}))
    assert status_of(world.client(upstream)).transaction_status == status


def test_a_status_carries_the_documented_fields(world: World) -> None:
    body = json.dumps({**PAID, "internalNote": "not documented"}).replace("4500000", "9007199254740.93")
    answer = status_of(world.client(world.upstream(http(body=body))))
    assert answer.amount == Decimal("9007199254740.93")
    expected = {name: value for name, value in PAID.items() if name != "status"}
    assert answer.fields == {**expected, "amount": Decimal("9007199254740.93")}
    assert "Budi" not in repr(answer)
    assert "user-42" not in repr(answer)


@pytest.mark.parametrize("status", [200, 201])
def test_a_status_is_read_from_a_whole_ok(world: World, status: int) -> None:
    assert status_of(world.client(world.upstream(http(status, PAID)))).transaction_status == "PAID"


@pytest.mark.parametrize(
    ("spelled", "amount"),
    [
        ("4500000", "4500000"),
        ("100000.00", "100000"),
        ("1E+5", "100000"),
        ("100000.50", "100000.50"),
        ("0", "0"),
        ('"4500000"', "4500000"),
        ('"100000.00"', "100000"),
        ('"100000.5"', "100000.50"),
        ('"100000.05"', "100000.05"),
        ('"100000.0000"', "100000"),
        ('"99999999999999.99"', "99999999999999.99"),
        ('"0.00"', "0"),
    ],
)
def test_an_amount_is_exact_whether_it_comes_as_a_number_or_as_text(world: World, spelled: str, amount: str) -> None:
    body = json.dumps(PAID).replace("4500000", spelled)
    answer = status_of(world.client(world.upstream(http(body=body))))
    for read in (answer.amount, answer.fields["amount"]):
        assert isinstance(read, Decimal)
        assert str(read) == amount


def test_a_status_without_amount_has_none(world: World) -> None:
    upstream = world.upstream(http(body={"status": "OK", "transactionStatus": "INITIATED"}))
    answer = status_of(world.client(upstream))
    assert answer.amount is None
    assert answer.fields == {"transactionStatus": "INITIATED"}


@pytest.mark.parametrize(
    "change",
    [
        {"transactionStatus": None},
        {"transactionStatus": ""},
        {"transactionStatus": 1},
        {"transactionStatus": "  "},
        {"transactionStatus": "PAID\n"},
        {"transactionStatus": "\ud800"},
        {"transactionStatus": "x" * 65},
        {"transactionStatus": "x" * 60_000},
        {"transactionStatus": ["PAID"]},
        {"transactionStatus": {"value": "PAID"}},
        {"merchantOrderId": "ORDER-2"},
        {"merchantOrderId": 1},
        {"merchantOrderId": ""},
        {"transactionId": {"id": 1}},
        {"transactionId": ["T-1"]},
        {"transactionId": "x" * 257},
        {"paymentType": int("9" * 21)},
        {"paymentType": {}},
        {"transactionTime": [2019]},
        {"fraudStatus": {"status": "ACCEPT"}},
        {"legalName": {"first": "Budi", "last": "Santoso"}},
        {"legalName": "x" * 60_000},
        {"legalName": "\udfff"},
        {"indodanaUserId": []},
        {"amount": ""},
        {"amount": "4500000.123"},
        {"amount": "4.500.000"},
        {"amount": "4,500,000"},
        {"amount": "450.000"},
        {"amount": "-1"},
        {"amount": "+1"},
        {"amount": "007"},
        {"amount": "1E5"},
        {"amount": " 4500000"},
        {"amount": "4500000\n"},
        {"amount": "Rp4500000"},
        {"amount": "\u0664\u0665"},
        {"amount": "NaN"},
        {"amount": "9" * 60_000},
        {"amount": {"value": 4500000}},
        {"amount": True},
        {"amount": -1},
        {"amount": 1.234},
        {"amount": 10**14},
        {"amount": []},
    ],
    ids=lambda change: str(change)[:60],
)
def test_a_status_with_a_field_that_cannot_be_used_is_unreadable(world: World, change: dict[str, Any]) -> None:
    failure = error_of(world, status_of, http(body={**PAID, **change}))
    assert type(failure) is AnswerUnreadable
    assert "Budi" not in f"{failure} {failure.evidence} {failure.message}"


@pytest.mark.parametrize(
    "spelled",
    [
        "9" * 5000,
        "1E+999999",
        "1E-999999",
        "-1E+999999999",
        "1e99999999999999999999",
        "0." + "0" * 5000 + "1",
        "NaN",
        "-Infinity",
    ],
    ids=lambda spelled: spelled[:30],
)
@pytest.mark.parametrize("field", ["amount", "transactionId", "transactionStatus"])
def test_no_number_is_too_strange_to_be_unreadable(world: World, field: str, spelled: str) -> None:
    body = json.dumps({**PAID, field: "HERE"}).replace('"HERE"', spelled)
    assert type(error_of(world, status_of, http(body=body))) is AnswerUnreadable


def test_a_status_whose_fields_are_null_has_none_of_them(world: World) -> None:
    fields = {**dict.fromkeys(PAID), "transactionStatus": "PAID"}
    answer = status_of(world.client(world.upstream(http(body={**fields, "status": "OK"}))))
    assert (answer.transaction_status, answer.amount) == ("PAID", None)


@pytest.mark.parametrize(
    "undocumented",
    [
        "[" * 500 + "]" * 500,
        "9" * 5000,
        "1E+999999",
        '"\\ud800"',
        '"\\u0000"',
        "{" + ",".join(f'"{n}":{n}' for n in range(3000)) + "}",
    ],
    ids=lambda text: text[:20],
)
@both_calls
def test_what_is_not_documented_may_be_whatever_it_likes(
    world: World, call: Callable[[IndodanaClient], Any], undocumented: str
) -> None:
    call(
        world.client(world.upstream(http(body=f'{{"x": {undocumented}, "status": "OK", "transactionStatus": "PAID"}}')))
    )


@pytest.mark.parametrize(
    ("status", "expected", "family"),
    [
        (400, Refused, Refused),
        (401, CredentialsRejected, NotSent),
        (403, Refused, Refused),
        (404, Refused, Refused),
        (409, Refused, Refused),
        (422, Refused, Refused),
        (429, RateLimited, NotSent),
        (500, ServerFailed, OutcomeUnknown),
        (502, ServerFailed, OutcomeUnknown),
        (503, ServerFailed, OutcomeUnknown),
        (504, ServerFailed, OutcomeUnknown),
        (599, ServerFailed, OutcomeUnknown),
        (200, AnswerUnreadable, OutcomeUnknown),
        (202, AnswerUnreadable, OutcomeUnknown),
        (302, AnswerUnreadable, OutcomeUnknown),
        (304, AnswerUnreadable, OutcomeUnknown),
        (402, AnswerUnreadable, OutcomeUnknown),
        (408, AnswerUnreadable, OutcomeUnknown),
        (418, AnswerUnreadable, OutcomeUnknown),
        (600, AnswerUnreadable, OutcomeUnknown),
    ],
)
@both_calls
def test_an_error_answer_is_sorted_by_its_status(
    world: World,
    call: Callable[[IndodanaClient], Any],
    status: int,
    expected: type[IndodanaError],
    family: type[IndodanaError],
) -> None:
    answer = error(status, "NotFoundError", {"legalName": ["Budi Santoso"], "amount": 1.5})
    failure = error_of(world, call, answer)
    assert type(failure) is expected
    assert isinstance(failure, family)
    assert failure.http_status == status
    if status != 304:  # which has no body
        assert failure.kind == "NotFoundError"
        assert failure.message == '{"legalName":"[list of 1]","amount":1.5}'
        assert failure.evidence
        assert failure.evidence.sha256 == sha256(answer.partition(b"\r\n\r\n")[2]).hexdigest()
        assert "NotFoundError" in failure.evidence.body
        assert "NotFoundError" in str(failure)
    assert str(status) in str(failure)
    assert "Budi" not in f"{failure} {failure!r} {failure.message} {failure.evidence}"


# Refused, and by whom


FOREIGN = [
    "",
    "<html><title>403 Forbidden</title>Budi Santoso</html>",
    "Forbidden",
    "null",
    "[]",
    "{}",
    '"ERROR"',
    '{"message": "Forbidden"}',
    '{"error": {"kind": "SomeError", "message": "what happened"}}',
    '{"status": 403, "error": "Forbidden"}',
    '{"status": "error", "error": {"kind": "SomeError"}}',
    '{"status": "OK"}',
    '{"status": "OK", "error": {"kind": "SomeError"}}',
    '{"status": null}',
    '{"status": ["ERROR"]}',
    '{"status": "OK", "status": "ERROR"}',
    '{"status": "ERROR", "status": "ERROR"}',
    '{"status": "ERROR", "error": {"kind": "A", "kind": "B"}}',
    '[{"status": "ERROR"}]',
    '{"status": "ERROR"} {"status": "OK"}',
    '{"status": "ERROR"',
    '{"status": "ERROR", "amount": NaN}',
    '{"status": "ERROR", "merchantOrderId": "ANOTHER"}',
    '{"status": "ERROR", "merchantOrderId": 1}',
    b"\x00\x00\x00",
    '{"status": "ERROR", "a": "' + "x" * 70_000 + '"}',
]


@pytest.mark.parametrize("status", REFUSALS)
@pytest.mark.parametrize("body", FOREIGN, ids=lambda body: str(body[:60]))
@both_calls
def test_a_refusal_in_any_other_form_than_indodanas_own_is_none(
    world: World, call: Callable[[IndodanaClient], Any], status: int, body: str | bytes
) -> None:
    """A proxy, a firewall or a wrong path may say it, of a refund that was done."""
    failure = error_of(world, call, http(status, body))
    assert type(failure) is ForeignAnswer
    assert isinstance(failure, OutcomeUnknown)
    assert failure.http_status == status
    assert failure.evidence
    assert "Budi" not in f"{failure} {failure.message}"


def test_a_refusal_of_another_refund_is_none_of_this_one(world: World) -> None:
    body = {"status": "ERROR", "refundId": "R-2", "error": {"kind": "SomeError"}}
    assert type(error_of(world, cancel_on, http(422, body))) is ForeignAnswer
    assert type(error_of(world, cancel_on, http(422, {**body, "refundId": "R-1"}))) is Refused


OWN = b'{"status": "ERROR", "error": {"kind": "SomeError"}}'


@pytest.mark.parametrize("status", REFUSALS)
@pytest.mark.parametrize(
    "answer",
    [
        b"",
        b"Content-Le",
        b"Content-Length: 60\r\n\r\n" + OWN,
        b"Content-Length: 51\r\n\r\n" + OWN[:-1],
        b"Transfer-Encoding: chunked\r\n\r\n33\r\n" + OWN,
        b"Content-Length: 51\r\nContent-Length: 20\r\n\r\n" + OWN,
    ],
    ids=["no headers", "half a header block", "cut", "cut inside", "cut chunks", "two lengths"],
)
def test_a_refusal_that_is_not_whole_is_none(world: World, status: int, answer: bytes) -> None:
    act = sends(f"HTTP/1.1 {status} Whatever\r\n".encode() + answer)
    assert type(error_of(world, cancel_on, act)) is ForeignAnswer


@pytest.mark.parametrize(
    ("status", "expected"), [(401, CredentialsRejected), (429, RateLimited), (500, ServerFailed), (503, ServerFailed)]
)
@pytest.mark.parametrize("body", FOREIGN, ids=lambda body: str(body[:60]))
@both_calls
def test_whoever_authenticates_or_limits_has_not_done_it_in_whatever_words(
    world: World,
    call: Callable[[IndodanaClient], Any],
    status: int,
    body: str | bytes,
    expected: type[IndodanaError],
) -> None:
    assert type(error_of(world, call, http(status, body))) is expected


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


# Indodana's words


SHAPES = [
    ({"status": "ERROR", "error": "Saldo tidak cukup"}, None),
    ({"status": "ERROR", "error": {"kind": "BalanceError", "message": "Saldo tidak cukup"}}, "BalanceError"),
    ({"status": "ERROR", "error": {"code": "E-17", "description": "Saldo tidak cukup"}}, "E-17"),
    ({"status": "ERROR", "error": {"code": 4017, "detail": "Saldo tidak cukup"}}, "4017"),
    ({"status": "ERROR", "error": {"type": "balance", "reason": "Saldo tidak cukup"}}, "balance"),
    ({"status": "ERROR", "error": ["Saldo tidak cukup"]}, None),
    ({"status": "ERROR", "error": {"message": ["Saldo tidak cukup"]}}, None),
    ({"status": "ERROR", "error": {"kind": "E", "message": {"message": "Saldo tidak cukup"}}}, "E"),
    ({"status": "ERROR", "error": {"kind": "E", "message": {"amount": "Saldo tidak cukup"}}}, "E"),
    ({"status": "ERROR", "message": "Saldo tidak cukup"}, None),
    ({"status": "ERROR", "error": None, "message": "Saldo tidak cukup"}, None),
    ({"status": "ERROR", "error": {}, "message": "Saldo tidak cukup", "code": "E-17"}, "E-17"),
    ({"status": "ERROR", "errorCode": "E-17", "errorMessage": "Saldo tidak cukup"}, "E-17"),
    ({"status": "ERROR", "error_code": "E-17", "error_description": "Saldo tidak cukup"}, "E-17"),
    ({"status": "ERROR", "error": "no_balance", "error_description": "Saldo tidak cukup"}, "no_balance"),
    ({"status": "ERROR", "errors": ["Saldo tidak cukup"]}, None),
    ({"status": "ERROR", "errors": [{"code": "E-17", "message": "Saldo tidak cukup"}]}, None),
    ({"status": "ERROR", "errors": {"amount": ["Saldo tidak cukup"]}}, None),
    ({"status": "ERROR", "error": "Bad Request", "message": "Saldo tidak cukup"}, None),
    ({"status": "ERROR", "Error": {"Kind": "E", "Message": "Saldo tidak cukup"}}, "E"),
    ({"status": "ERROR", "type": "about:blank", "title": "Saldo tidak cukup"}, None),
]


@pytest.mark.parametrize(("document", "kind"), SHAPES, ids=lambda value: str(value)[19:])
@pytest.mark.parametrize("status", [400, 429, 500])
def test_indodanas_words_are_handed_on_in_every_shape(
    world: World, document: dict[str, Any], kind: str | None, status: int
) -> None:
    failure = error_of(world, cancel_on, http(status, document))
    assert "Saldo tidak cukup" in (failure.message or "")
    assert failure.kind == kind


@pytest.mark.parametrize(
    "message",
    [
        "hubungi budi.santoso@example.co.id",
        {"amount": "hubungi budi.santoso@example.co.id"},
        ["tel. 0812 3456 7890, budi.santoso@example.co.id"],
        "x" * 60_000,
        ["x" * 1000] * 60,
        {f"field{number}": "x" * 1000 for number in range(60)},
        '{"legalName": "budi.santoso"}',
    ],
    ids=lambda message: str(message)[:40],
)
def test_indodanas_words_are_masked_and_short(world: World, message: object) -> None:
    failure = error_of(world, cancel_on, error(422, "SomeError", message))
    assert failure.message
    assert len(failure.message) <= 500
    assert "budi" not in failure.message
    assert "7890" not in failure.message


@pytest.mark.parametrize(
    "kind", ["Budi Santoso is unknown", "budi@example.com", "081234567890", "x" * 65, "", 1.5, True, ["E"], {"a": 1}]
)
def test_a_kind_that_looks_like_none_is_none(world: World, kind: object) -> None:
    failure = error_of(world, cancel_on, error(400, kind))  # type: ignore[arg-type]
    assert failure.kind is None
    assert str(failure).endswith("(HTTP 400)")


def test_a_kind_that_does_not_look_like_indodanas_stays_out_of_the_text(world: World) -> None:
    failure = error_of(world, cancel_on, error(400, "Budi"))
    assert failure.kind == "Budi"
    assert "Budi" not in str(failure)


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
        yield from ((name, value) for value in (other, "", 1, True, [], {}, other.lower(), f"{other} "))
    yield "merchantOrderId", "order-1"
    yield from (("error", value) for value in ("Saldo tidak cukup", {"kind": "E"}, {}, [], "", 0, False))
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
