"""The one place that maps errors to HTTP: RFC 9457 problems with a stable `code`."""

from __future__ import annotations

import math
from collections.abc import Mapping
from http import HTTPStatus
from typing import Any

from http_api.requests import Forbidden
from http_api.responses import Response, json_response, location, upstream_view
from indodana import (
    AnswerTimedOut,
    AnswerUnreadable,
    ConnectionFailed,
    ConnectionLost,
    ConnectTimedOut,
    CredentialsRejected,
    CredentialsUnavailable,
    IndodanaError,
    RateLimited,
    Refused,
    ServerFailed,
)
from refunds.errors import (
    BodyTooLarge,
    IdempotencyKeyReused,
    InvalidRequest,
    LedgerBusy,
    LedgerUnavailable,
    NotFound,
    NotResolvable,
)
from refunds.model import Failure, FailureCode, Refund
from refunds.upstream import error_said

RETRY_SECONDS = 2  # when nobody knows better

FAILURE_STATUS = {
    FailureCode.ORDER_NOT_FOUND: HTTPStatus.NOT_FOUND,
    FailureCode.TRANSACTION_NOT_PAID: HTTPStatus.CONFLICT,
    FailureCode.AMOUNT_EXCEEDS_REFUNDABLE: HTTPStatus.UNPROCESSABLE_ENTITY,
    FailureCode.UPSTREAM_REFUSED: HTTPStatus.UNPROCESSABLE_ENTITY,
    FailureCode.RESOLVED_AS_FAILED: HTTPStatus.UNPROCESSABLE_ENTITY,
}

# In this order: a class stands before its base.
UPSTREAM_PROBLEMS: tuple[tuple[type[IndodanaError], HTTPStatus, str], ...] = (
    (Refused, HTTPStatus.UNPROCESSABLE_ENTITY, "UPSTREAM_REFUSED"),
    (RateLimited, HTTPStatus.SERVICE_UNAVAILABLE, "UPSTREAM_RATE_LIMITED"),
    (CredentialsRejected, HTTPStatus.BAD_GATEWAY, "UPSTREAM_CREDENTIALS_REJECTED"),  # ours to mend, not the caller's
    (CredentialsUnavailable, HTTPStatus.BAD_GATEWAY, "CREDENTIALS_UNAVAILABLE"),
    (ConnectTimedOut, HTTPStatus.GATEWAY_TIMEOUT, "UPSTREAM_TIMEOUT"),
    (AnswerTimedOut, HTTPStatus.GATEWAY_TIMEOUT, "UPSTREAM_TIMEOUT"),
    (ConnectionFailed, HTTPStatus.BAD_GATEWAY, "UPSTREAM_UNREACHABLE"),
    (ConnectionLost, HTTPStatus.BAD_GATEWAY, "UPSTREAM_UNREACHABLE"),
    (ServerFailed, HTTPStatus.BAD_GATEWAY, "UPSTREAM_FAILED"),
    (AnswerUnreadable, HTTPStatus.BAD_GATEWAY, "UPSTREAM_UNREADABLE"),
    (IndodanaError, HTTPStatus.BAD_GATEWAY, "UPSTREAM_FAILED"),
)


def from_error(error: Exception, request_id: str) -> Response | None:
    """The problem that `error` is; None where it is a bug of ours."""
    match error:
        case InvalidRequest():
            status = HTTPStatus.REQUEST_ENTITY_TOO_LARGE if isinstance(error, BodyTooLarge) else HTTPStatus.BAD_REQUEST
            fields = [{"field": found.field, "detail": found.detail} for found in error.errors]
            return _problem(status, "INVALID_REQUEST", str(error), request_id, errors=fields)
        case Forbidden():
            return _problem(HTTPStatus.FORBIDDEN, "FORBIDDEN", str(error), request_id)
        case NotFound():
            return _problem(HTTPStatus.NOT_FOUND, "NOT_FOUND", str(error), request_id)
        case IdempotencyKeyReused():
            return _problem(HTTPStatus.UNPROCESSABLE_ENTITY, "IDEMPOTENCY_KEY_REUSED", str(error), request_id)
        case NotResolvable():
            return _problem(HTTPStatus.CONFLICT, "REFUND_NOT_UNKNOWN", str(error), request_id)
        case LedgerUnavailable():
            code = "LEDGER_BUSY" if isinstance(error, LedgerBusy) else "LEDGER_UNAVAILABLE"
            detail = f"{error}; repeat the request with the same Idempotency-Key to learn what became of it"
            return _try_again(code, detail, request_id)
        case IndodanaError():
            return _from_upstream(error, request_id)
    return None


def from_failure(
    failure: Failure, request_id: str, refund: Refund | None = None, *, replayed: bool = False
) -> Response:
    """A refund that was not made; `refund` where it is on record as FAILED."""
    more: dict[str, Any] = upstream_view(failure)
    headers = {}
    if refund:
        more["refundId"] = refund.refund_id
        headers["location"] = location(refund)
    if replayed:
        headers["idempotency-replayed"] = "true"
    return _problem(FAILURE_STATUS[failure.code], failure.code, failure.detail, request_id, headers, **more)


def in_progress(refund: Refund, request_id: str) -> Response:
    detail = "the first request with this idempotency key is being submitted; repeat it later to learn its outcome"
    headers = {"retry-after": str(RETRY_SECONDS), "location": location(refund)}
    refund_id = refund.refund_id
    return _problem(HTTPStatus.CONFLICT, "REFUND_IN_PROGRESS", detail, request_id, headers, refundId=refund_id)


def internal_error(request_id: str) -> Response:
    detail = "something went wrong here; the request id leads to it in the logs"
    return _problem(HTTPStatus.INTERNAL_SERVER_ERROR, "INTERNAL_ERROR", detail, request_id)


def _from_upstream(error: IndodanaError, request_id: str) -> Response:
    status, code = next((status, code) for kind, status, code in UPSTREAM_PROBLEMS if isinstance(error, kind))
    if isinstance(error, Refused) and error.http_status == HTTPStatus.NOT_FOUND:
        status, code = HTTPStatus.NOT_FOUND, FailureCode.ORDER_NOT_FOUND.value
    headers = {}
    if status in (HTTPStatus.SERVICE_UNAVAILABLE, HTTPStatus.GATEWAY_TIMEOUT):
        headers["retry-after"] = str(max(1, math.ceil(error.retry_after_seconds or RETRY_SECONDS)))
    more: dict[str, Any] = {}
    if error.http_status is not None:
        kind_said, message = error_said(error)
        more["upstream"] = {"status": error.http_status, "error": {"kind": kind_said, "message": message}}
    return _problem(status, code, str(error), request_id, headers, **more)


def _try_again(code: str, detail: str, request_id: str) -> Response:
    headers = {"retry-after": str(RETRY_SECONDS)}
    return _problem(HTTPStatus.SERVICE_UNAVAILABLE, code, detail, request_id, headers)


def _problem(
    status: HTTPStatus, code: str, detail: str, request_id: str, headers: Mapping[str, str] | None = None, **more: Any
) -> Response:
    problem = {
        "type": f"urn:qris-gateway:problem:{code.lower().replace('_', '-')}",
        "title": status.phrase,
        "status": status.value,
        "code": code,
        "detail": detail,
        "requestId": request_id,
        **more,
    }
    return json_response(status.value, problem, headers, media_type="application/problem+json")
