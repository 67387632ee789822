"""Errors to HTTP: every class has its status and its code, and says no more than a caller may know."""

from __future__ import annotations

import json
from collections.abc import Iterator
from datetime import timedelta
from decimal import Decimal
from typing import Any

import pytest

import indodana
from gateway.core import errors
from gateway.core.errors import FieldError, RefundsError
from gateway.core.model import Failure, FailureCode
from gateway.core.transitions import RefundStatus
from gateway.http import problems
from gateway.http.requests import Forbidden, PreconditionRequired
from gateway.http.responses import Response, json_response, refund_view
from indodana import IndodanaError
from tests.problem_cases import DOMAIN, FAILURES, INTERNAL, REFUND, UPSTREAM

# What errors of ours and of the packages' say among us: a secret's name, a table's, AWS's and TLS's own words.
INTERNALS = (
    "the secret qris-gateway/m1 could not be read: AccessDeniedException on arn:aws:secretsmanager:1234 for table "
    "qris-LedgerTable-X: [SSL: CERTIFICATE_VERIFY_FAILED] self-signed certificate (_ssl.c:1000)"
)


def classes[T](base: type[T]) -> Iterator[type[T]]:
    yield base
    for subclass in base.__subclasses__():
        yield from classes(subclass)


def body_of(response: Response | None, status: int, code: str) -> dict[str, Any]:
    """What every problem has; returns its body."""
    assert response is not None
    body: dict[str, Any] = json.loads(response["body"])
    assert (response["statusCode"], body["status"], body["code"]) == (status, status, code)
    assert response["headers"]["content-type"] == "application/problem+json"
    assert response["headers"]["cache-control"] == "no-store"
    assert body["type"] == f"urn:qris-gateway:problem:{code.lower().replace('_', '-')}"
    assert body["title"]
    assert body["detail"]
    assert body["requestId"] == "request-1"
    return body


def test_every_class_of_error_is_intended() -> None:
    assert set(classes(IndodanaError)) == set(UPSTREAM)
    assert set(classes(RefundsError)) == set(DOMAIN) | {type(error) for error in INTERNAL}
    assert set(FAILURES) == set(FailureCode) == set(problems.FAILURE_STATUS)


@pytest.mark.parametrize("error_class", UPSTREAM, ids=lambda error_class: error_class.__name__)
def test_each_failure_of_a_call_to_indodana_has_its_problem(error_class: type[IndodanaError]) -> None:
    status, code, again = UPSTREAM[error_class]

    response = problems.from_error(error_class(INTERNALS), "request-1")

    body = body_of(response, status, code)
    assert "upstream" not in body  # it said nothing
    assert not set(body["detail"].replace(";", "").split()) & {"secret", "table", "AccessDeniedException", "[SSL:"}
    assert not any(word in body["detail"] for word in ("qris", "arn:", "Exception", "SSL", "(_ssl", "Ledger", "1234"))
    assert (response or {})["headers"].get("retry-after") == ("2" if again else None)


def test_no_class_hides_behind_its_base() -> None:
    kinds = [kind for kind, *_ in problems.UPSTREAM_PROBLEMS]
    for position, kind in enumerate(kinds):
        assert not any(issubclass(kind, before) for before in kinds[:position]), kind


def test_an_order_that_indodana_does_not_know_is_404() -> None:
    body = body_of(
        problems.from_error(indodana.Refused("refused", http_status=404), "request-1"), 404, "ORDER_NOT_FOUND"
    )
    assert body["upstream"]["status"] == 404


@pytest.mark.parametrize("http_status", [400, 403, 409, 422])
def test_what_indodana_refuses_otherwise_is_422(http_status: int) -> None:
    error = indodana.Refused("refused", http_status=http_status)
    assert (
        body_of(problems.from_error(error, "request-1"), 422, "UPSTREAM_REFUSED")["upstream"]["status"] == http_status
    )


@pytest.mark.parametrize(
    ("wished", "said"), [(None, "2"), (0.0, "2"), (0.2, "1"), (7.0, "7"), (7.1, "8"), (3600.0, "3600")]
)
def test_retry_after_is_indodanas_in_whole_seconds(wished: float | None, said: str) -> None:
    response = problems.from_error(
        indodana.RateLimited("later", http_status=429, retry_after_seconds=wished), "request-1"
    )

    body_of(response, 503, "UPSTREAM_RATE_LIMITED")
    assert (response or {})["headers"]["retry-after"] == said


@pytest.mark.parametrize("words", [("InternalError", "Saldo tidak cukup \u00a7"), (None, None)])
def test_upstreams_own_words_are_shown_as_the_layer_has_masked_them(words: tuple[str | None, str | None]) -> None:
    error = indodana.ServerFailed("Indodana failed (HTTP 500)", http_status=500, kind=words[0], message=words[1])

    response = problems.from_error(error, "request-1")

    said = body_of(response, 502, "UPSTREAM_FAILED")["upstream"]
    assert (said["status"], said["error"]) == (500, {"kind": words[0], "message": words[1]})
    (response or {})["body"].encode("ascii")


@pytest.mark.parametrize("error_class", DOMAIN, ids=lambda error_class: error_class.__name__)
def test_each_error_of_the_domain_has_its_problem(error_class: type[RefundsError]) -> None:
    error, status, code, again = DOMAIN[error_class]

    response = problems.from_error(error, "request-1")

    detail = body_of(response, status, code)["detail"]
    assert (str(error) in detail) is not isinstance(error, errors.LedgerUnavailable)
    assert (response or {})["headers"].get("retry-after") == ("2" if again else None)


def test_broken_rules_are_listed_field_by_field() -> None:
    error = errors.InvalidRequest(FieldError("amount", "is wrong"), FieldError("reason", "is missing"))

    body = body_of(problems.from_error(error, "request-1"), 400, "INVALID_REQUEST")

    assert body["errors"] == [
        {"field": "amount", "detail": "is wrong"},
        {"field": "reason", "detail": "is missing"},
    ]
    assert body["detail"] == "amount: is wrong; reason: is missing"


def test_a_ledger_without_answer_claims_nothing_and_says_how_to_learn() -> None:
    busy = problems.from_error(errors.LedgerBusy(INTERNALS), "request-1")
    lost = problems.from_error(errors.LedgerUnavailable(INTERNALS), "request-1")

    again = "retry (a refund with the same Idempotency-Key)"
    busy_says = f"too many refunds of this order at the same time; {again}"
    assert body_of(busy, 503, "LEDGER_BUSY")["detail"] == busy_says
    assert body_of(lost, 503, "LEDGER_UNAVAILABLE")["detail"] == f"a dependency was unavailable; {again}"


def test_an_unreadable_item_is_named_as_one_without_its_key() -> None:
    response = problems.from_error(errors.UnreadableItem("m1#ORDER-1", "REFUND#abc"), "request-1")

    detail = body_of(response, 503, "LEDGER_UNAVAILABLE")["detail"]
    assert detail.startswith("this order's entry in the ledger cannot be read; an operator must look at it; retry")
    assert "REFUND#abc" not in detail


def test_a_decision_on_an_old_version_is_answered_with_the_refund_now() -> None:
    response = problems.from_error(errors.StaleVersion(REFUND), "request-1") or {}

    assert body_of(response, 412, "VERSION_MISMATCH")["refund"] == json.loads(
        json_response(200, refund_view(REFUND))["body"]
    )
    assert response["headers"]["etag"] == '"1"'


def test_a_decision_without_a_version_is_told_where_to_find_it() -> None:
    detail = body_of(problems.from_error(PreconditionRequired(), "request-1"), 428, "PRECONDITION_REQUIRED")["detail"]
    assert all(word in detail for word in ("If-Match", "ETag", "GET /v1/transactions/"))


def test_a_token_that_names_nobody_is_forbidden() -> None:
    body_of(problems.from_error(Forbidden("no merchant"), "request-1"), 403, "FORBIDDEN")


@pytest.mark.parametrize("error", [*INTERNAL, ZeroDivisionError("1/0"), KeyError("x")], ids=lambda e: type(e).__name__)
def test_a_bug_is_no_problem_of_the_callers(error: Exception) -> None:
    assert problems.from_error(error, "request-1") is None
    body_of(problems.internal_error("request-1"), 500, "INTERNAL_ERROR")


@pytest.mark.parametrize("code", FAILURES)
def test_each_refusal_has_its_problem(code: FailureCode) -> None:
    response = problems.from_failure(Failure(code, "because"), "request-1")

    assert "upstream" not in body_of(response, FAILURES[code], code)
    assert not {"location", "idempotency-replayed"} & set(response["headers"])


def test_a_failed_refund_is_named_with_what_upstream_said() -> None:
    failure = Failure(FailureCode.UPSTREAM_REFUSED, "because", 422, "ValidationError", "too late")

    response = problems.from_failure(failure, "request-1", REFUND, replayed=True)

    body = body_of(response, 422, "UPSTREAM_REFUSED")
    assert body["detail"] == (
        "because; this refund failed at 2026-11-22 00:00:00 UTC; to try again, use a new Idempotency-Key"
    )
    assert body["upstream"] == {"status": 422, "error": {"kind": "ValidationError", "message": "too late"}}
    assert body["refundId"] == REFUND.refund_id
    assert response["headers"]["location"] == f"/v1/transactions/A%26B/refunds/{REFUND.refund_id}"
    assert response["headers"]["idempotency-replayed"] == "true"


def test_a_refund_that_failed_just_now_is_no_older_decision() -> None:
    refund = REFUND.transition_to(RefundStatus.FAILED, REFUND.updated_at + timedelta(hours=1))
    response = problems.from_failure(Failure(FailureCode.WITHDRAWN, "because"), "request-1", refund)
    assert body_of(response, 422, "WITHDRAWN")["detail"] == "because"


def test_a_refund_under_way_says_when_to_ask_again() -> None:
    response = problems.in_progress(REFUND, "request-1")

    assert body_of(response, 409, "REFUND_IN_PROGRESS")["refundId"] == REFUND.refund_id
    assert int(response["headers"]["retry-after"]) >= 1


@pytest.mark.parametrize(
    ("value", "spelled"),
    [
        (Decimal("1000"), "1000"),
        (Decimal("1000.00"), "1000"),
        (Decimal("1E+5"), "100000"),
        (Decimal("1000.5"), "1000.5"),
        (Decimal("99999999999999.99"), "99999999999999.99"),
        (Decimal("1E-2"), "0.01"),
        (Decimal("0E+3"), "0"),
    ],
)
def test_an_amount_leaves_exactly(value: Decimal, spelled: str) -> None:
    assert json_response(200, {"amount": value, "more": [{"amount": value}]})["body"] == (
        f'{{"amount": {spelled}, "more": [{{"amount": {spelled}}}]}}'
    )


@pytest.mark.parametrize("spelled", ["1E+999999999", "-1E+999999999", "1E-999999999", "0E-999999999"])
def test_a_number_that_is_no_money_is_not_written_out(spelled: str) -> None:
    """Indodana's other fields are passed on as they come, and all their zeros would fill the function's memory."""
    assert json_response(200, {"paymentType": Decimal(spelled)})["body"] == f'{{"paymentType": {spelled}}}'
