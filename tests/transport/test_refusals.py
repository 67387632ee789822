"""Which answers are Indodana's refusal, and what is kept of its words."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest

from indodana import (
    CredentialsRejected,
    ForeignAnswer,
    IndodanaClient,
    IndodanaError,
    OutcomeUnknown,
    RateLimited,
    Refused,
    ServerFailed,
)
from tests.transport.upstream import (
    World,
    both_calls,
    cancel_on,
    error,
    error_of,
    http,
    sends,
)

REFUSALS = [400, 403, 404, 409, 422]


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
