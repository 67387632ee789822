"""Maps errors to HTTP, in one place: RFC 9457 problems with a stable `code`."""

from __future__ import annotations

import math
from collections.abc import Mapping
from http import HTTPStatus
from typing import Any

from gateway.core.errors import (
    BodyTooLarge,
    IdempotencyKeyReused,
    InvalidRequest,
    LedgerBusy,
    LedgerUnavailable,
    NotFound,
    NotPermitted,
    NotResolvable,
    NotWithdrawable,
    ResolutionTooEarly,
    StaleVersion,
    UnreadableItem,
)
from gateway.core.model import Failure, FailureCode, Refund
from gateway.core.upstream import StatusChecksPaused
from gateway.http.requests import Forbidden, PreconditionRequired
from gateway.http.responses import Response, entity_tag, json_response, location, refund_view, upstream_view
from indodana import (
    AnswerTimedOut,
    AnswerUnreadable,
    ConnectionFailed,
    ConnectionLost,
    ConnectTimedOut,
    ContradictingAnswer,
    CredentialsRejected,
    CredentialsUnavailable,
    ForeignAnswer,
    IndodanaError,
    RateLimited,
    Refused,
    ServerFailed,
)

RETRY_SECONDS = 2  # if the error names no other time
TRY_AGAIN = "retry (a refund with the same Idempotency-Key)"

FAILURE_STATUS = {
    FailureCode.ORDER_NOT_FOUND: HTTPStatus.NOT_FOUND,
    FailureCode.TRANSACTION_NOT_PAID: HTTPStatus.CONFLICT,
    FailureCode.AMOUNT_EXCEEDS_REFUNDABLE: HTTPStatus.UNPROCESSABLE_ENTITY,
    FailureCode.UPSTREAM_REFUSED: HTTPStatus.UNPROCESSABLE_ENTITY,
    FailureCode.RESOLVED_AS_FAILED: HTTPStatus.UNPROCESSABLE_ENTITY,
    FailureCode.WITHDRAWN: HTTPStatus.UNPROCESSABLE_ENTITY,
}

# A class stands before its base class. Callers get these details: the error's own text may name internals, and is only
# logged.
UPSTREAM_PROBLEMS: tuple[tuple[type[IndodanaError], HTTPStatus, str, str], ...] = (
    (Refused, HTTPStatus.UNPROCESSABLE_ENTITY, "UPSTREAM_REFUSED", "Indodana refused the request"),
    (RateLimited, HTTPStatus.SERVICE_UNAVAILABLE, "UPSTREAM_RATE_LIMITED", "Indodana is rate-limiting requests"),
    # The operator must fix the next two, not the caller.
    (
        CredentialsRejected,
        HTTPStatus.BAD_GATEWAY,
        "UPSTREAM_CREDENTIALS_REJECTED",
        "Indodana rejected the merchant's credentials",
    ),
    (
        CredentialsUnavailable,
        HTTPStatus.BAD_GATEWAY,
        "CREDENTIALS_UNAVAILABLE",
        "the merchant's credentials could not be read",
    ),
    (
        StatusChecksPaused,
        HTTPStatus.GATEWAY_TIMEOUT,
        "UPSTREAM_TIMEOUT",
        "Indodana did not answer earlier requests in time; this one was not sent",
    ),
    (ConnectTimedOut, HTTPStatus.GATEWAY_TIMEOUT, "UPSTREAM_TIMEOUT", "Indodana did not answer in time"),
    (AnswerTimedOut, HTTPStatus.GATEWAY_TIMEOUT, "UPSTREAM_TIMEOUT", "Indodana did not answer in time"),
    (ConnectionFailed, HTTPStatus.BAD_GATEWAY, "UPSTREAM_UNREACHABLE", "the connection to Indodana failed"),
    (ConnectionLost, HTTPStatus.BAD_GATEWAY, "UPSTREAM_UNREACHABLE", "the connection to Indodana was lost"),
    (ServerFailed, HTTPStatus.BAD_GATEWAY, "UPSTREAM_FAILED", "Indodana returned a server error"),
    (AnswerUnreadable, HTTPStatus.BAD_GATEWAY, "UPSTREAM_UNREADABLE", "Indodana's answer could not be read"),
    (ContradictingAnswer, HTTPStatus.BAD_GATEWAY, "UPSTREAM_UNREADABLE", "Indodana's answer contradicts the request"),
    (ForeignAnswer, HTTPStatus.BAD_GATEWAY, "UPSTREAM_UNREADABLE", "the answer is not in Indodana's format"),
    (IndodanaError, HTTPStatus.BAD_GATEWAY, "UPSTREAM_FAILED", "the call to Indodana failed"),
)


def from_error(error: Exception, request_id: str) -> Response | None:
    """The problem for `error`; None if the error is not an expected one."""
    match error:
        case InvalidRequest():
            status = HTTPStatus.REQUEST_ENTITY_TOO_LARGE if isinstance(error, BodyTooLarge) else HTTPStatus.BAD_REQUEST
            fields = [{"field": found.field, "detail": found.detail} for found in error.errors]
            return _problem(status, "INVALID_REQUEST", str(error), request_id, errors=fields)
        case Forbidden() | NotPermitted():
            return _problem(HTTPStatus.FORBIDDEN, "FORBIDDEN", str(error), request_id)
        case PreconditionRequired():
            return _problem(HTTPStatus.PRECONDITION_REQUIRED, "PRECONDITION_REQUIRED", str(error), request_id)
        case NotFound():
            return _problem(HTTPStatus.NOT_FOUND, "NOT_FOUND", str(error), request_id)
        case IdempotencyKeyReused():
            return _problem(HTTPStatus.UNPROCESSABLE_ENTITY, "IDEMPOTENCY_KEY_REUSED", str(error), request_id)
        case StaleVersion():
            headers = {"etag": entity_tag(error.refund)}
            view = refund_view(error.refund)
            return _problem(
                HTTPStatus.PRECONDITION_FAILED, "VERSION_MISMATCH", str(error), request_id, headers, refund=view
            )
        case NotResolvable():
            return _problem(HTTPStatus.CONFLICT, "REFUND_NOT_UNKNOWN", str(error), request_id)
        case NotWithdrawable():
            return _problem(HTTPStatus.CONFLICT, "REFUND_NOT_WITHDRAWABLE", str(error), request_id)
        case ResolutionTooEarly():
            headers = _retry_after(error.retry_after_seconds)
            return _problem(HTTPStatus.CONFLICT, "RESOLUTION_TOO_EARLY", str(error), request_id, headers)
        case LedgerBusy():
            return _try_again(
                "LEDGER_BUSY", f"too many refunds of this order at the same time; {TRY_AGAIN}", request_id
            )
        case UnreadableItem():
            detail = f"this order's entry in the ledger cannot be read; an operator must look at it; {TRY_AGAIN}"
            return _try_again("LEDGER_UNAVAILABLE", detail, request_id)
        case LedgerUnavailable():
            return _try_again("LEDGER_UNAVAILABLE", f"a dependency was unavailable; {TRY_AGAIN}", request_id)
        case IndodanaError():
            return _from_upstream(error, request_id)
    return None


def from_failure(
    failure: Failure, request_id: str, refund: Refund | None = None, *, replayed: bool = False
) -> Response:
    """The problem of a refused refund; `refund` if it is stored as FAILED."""
    more: dict[str, Any] = upstream_view(failure)
    headers, detail = {}, failure.detail
    if refund:
        more["refundId"] = refund.refund_id
        headers["location"] = location(refund)
    if refund and replayed:
        headers["idempotency-replayed"] = "true"
        failed_at = f"{refund.updated_at:%Y-%m-%d %H:%M:%S} UTC"
        detail += f"; this refund failed at {failed_at}; to try again, use a new Idempotency-Key"
    return _problem(FAILURE_STATUS[failure.code], failure.code, detail, request_id, headers, **more)


def in_progress(refund: Refund, request_id: str) -> Response:
    detail = "an earlier request with this idempotency key is being submitted; retry later with the same key"
    headers = _retry_after(RETRY_SECONDS) | {"location": location(refund)}
    refund_id = refund.refund_id
    return _problem(HTTPStatus.CONFLICT, "REFUND_IN_PROGRESS", detail, request_id, headers, refundId=refund_id)


def internal_error(request_id: str) -> Response:
    detail = "internal error; quote this requestId to support"
    return _problem(HTTPStatus.INTERNAL_SERVER_ERROR, "INTERNAL_ERROR", detail, request_id)


def _from_upstream(error: IndodanaError, request_id: str) -> Response:
    _, status, code, detail = next(row for row in UPSTREAM_PROBLEMS if isinstance(error, row[0]))
    if isinstance(error, Refused) and error.http_status == HTTPStatus.NOT_FOUND:
        status, code, detail = HTTPStatus.NOT_FOUND, FailureCode.ORDER_NOT_FOUND.value, "Indodana has no such order"
    headers = {}
    if status in (HTTPStatus.SERVICE_UNAVAILABLE, HTTPStatus.GATEWAY_TIMEOUT):
        headers = _retry_after(error.retry_after_seconds or RETRY_SECONDS)
    more: dict[str, Any] = {}
    if error.http_status is not None:
        more["upstream"] = {"status": error.http_status, "error": {"kind": error.kind, "message": error.message}}
    return _problem(status, code, detail, request_id, headers, **more)


def _try_again(code: str, detail: str, request_id: str) -> Response:
    return _problem(HTTPStatus.SERVICE_UNAVAILABLE, code, detail, request_id, _retry_after(RETRY_SECONDS))


def _retry_after(seconds: float) -> dict[str, str]:
    return {"retry-after": str(max(1, math.ceil(seconds)))}


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
