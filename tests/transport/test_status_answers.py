"""Answers to a status check, over real sockets."""

from __future__ import annotations

import json
from collections.abc import Callable
from decimal import Decimal
from hashlib import sha256
from typing import Any

import pytest

from indodana import (
    AnswerUnreadable,
    CredentialsRejected,
    IndodanaClient,
    IndodanaError,
    NotSent,
    OutcomeUnknown,
    RateLimited,
    Refused,
    ServerFailed,
)
from tests.transport.upstream import (
    PAID,
    World,
    both_calls,
    error,
    error_of,
    http,
    status_of,
)

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
