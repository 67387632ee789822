"""One API request, read from an HTTP API event (payload format 2.0) that the JWT authorizer has accepted."""

from __future__ import annotations

import base64
import binascii
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from gateway.core import inputs
from gateway.core.context import RequestContext
from gateway.core.errors import FieldError, InvalidRequest
from gateway.core.model import OrderKey

if TYPE_CHECKING:
    from gateway.runtime.settings import Settings

CHANNEL = "api"
# API Gateway answers 503 by itself 30 s after it took the request; for an HTTP API this cannot be raised. A cold start
# is part of that time, but not of the function's own timeout. One second is for the way back.
API_GATEWAY_SECONDS = 30.0
ANSWER_SECONDS = API_GATEWAY_SECONDS - 1.0
CORRELATION_HEADER = "X-Correlation-Id"
Event = Mapping[str, Any]


class Forbidden(Exception):
    """The token is valid, but does not name its caller, or names no merchant of this stack."""


class PreconditionRequired(Exception):
    """A decision has no If-Match header: it must name the refund's version."""

    def __init__(self) -> None:
        super().__init__(
            "the header If-Match is required: read the refund with "
            "GET /v1/transactions/{merchantOrderId}/refunds/{refundId} and send its ETag"
        )


@dataclass(frozen=True)
class ApiRequest:
    event: Event
    merchant_id: str
    context: RequestContext

    @property
    def order(self) -> OrderKey:
        """Raises InvalidRequest."""
        return inputs.order_key(self.merchant_id, self._path("merchantOrderId"))

    @property
    def refund_id(self) -> str:
        """Raises InvalidRequest."""
        return inputs.refund_id(self._path("refundId"))

    @property
    def page_limit(self) -> int:
        """Raises InvalidRequest."""
        return inputs.page_limit(self.query("limit"))

    @property
    def version(self) -> int:
        """The refund's version in If-Match. Raises PreconditionRequired, InvalidRequest."""
        entity_tag = self.header("if-match")
        if entity_tag is None:
            raise PreconditionRequired
        return inputs.version_in(entity_tag)

    def header(self, name: str) -> str | None:
        value: str | None = self.event.get("headers", {}).get(name)
        return value

    def query(self, name: str) -> str | None:
        value: str | None = (self.event.get("queryStringParameters") or {}).get(name)
        return value

    def body(self) -> dict[str, Any]:
        """The JSON object of the body. Raises InvalidRequest."""
        return inputs.json_object(self._raw_body())

    def optional_body(self) -> dict[str, Any]:
        """The same; {} if there is no body. Raises InvalidRequest."""
        raw = self._raw_body()
        return inputs.json_object(raw) if raw else {}

    def has_scope(self, scope: str) -> bool:
        """Whether the token has the scope. A route may accept several; API Gateway does not say which one matched."""
        claims = _claims(self.event)
        return any(scope in _words(claims.get(name)) for name in ("scope", "scp"))

    def _raw_body(self) -> bytes:
        raw = (self.event.get("body") or "").encode("utf-8", "surrogatepass")
        if not self.event.get("isBase64Encoded"):
            return raw
        try:
            return base64.b64decode(raw, validate=True)
        except binascii.Error as error:
            raise InvalidRequest(FieldError("body", "must be valid base64 if isBase64Encoded is true")) from error

    def _path(self, name: str) -> str:
        # API Gateway has already decoded it. It must not be decoded again: an order id may contain '%'.
        value: str = self.event["pathParameters"][name]
        return value


def correlation_id(event: Event) -> str:
    """The caller's id for this request; API Gateway's request id if there is none or it is invalid."""
    request_id: str = event["requestContext"]["requestId"]
    return inputs.correlation_id_in(_correlation_header(event)) or request_id


def principal(event: Event) -> str | None:
    """The caller's id in the token; None if it is missing or cannot be recorded."""
    claims = _claims(event)
    found = claims.get("sub") or claims.get("client_id")
    return found if inputs.is_principal(found) else None


def time_left(event: Event, until_timeout: Callable[[], float], now: Callable[[], float]) -> Callable[[], float]:
    """The time until the function ends, or its answer would be too late for API Gateway. `now`: as time.time.

    An event that was not taken within the last 30 s has no caller who waits (a sample event), or one of the clocks is
    wrong: then only the function's own time counts. A refund is as safe with either.
    """
    taken_at = event["requestContext"].get("timeEpoch")  # in milliseconds
    if not isinstance(taken_at, int | float) or not 0 <= now() - taken_at / 1000 <= API_GATEWAY_SECONDS:
        return until_timeout
    return lambda: min(until_timeout(), taken_at / 1000 + ANSWER_SECONDS - now())


def read(event: Event, seconds_left: Callable[[], float], settings: Settings) -> ApiRequest:
    """Raises InvalidRequest, Forbidden."""
    inputs.check_correlation_id(_correlation_header(event), CORRELATION_HEADER)
    actor = principal(event)
    if actor is None:
        rule = f"as text of at most {inputs.MAX_PRINCIPAL} characters"
        raise Forbidden(f"the token must name its caller in the claim sub or client_id, {rule}")
    merchant_id: object = settings.merchant_id
    if settings.merchant_claim:
        merchant_id = _claims(event).get(settings.merchant_claim)
    if not isinstance(merchant_id, str) or merchant_id not in settings.merchant_ids:
        raise Forbidden(f"the token's claim {settings.merchant_claim} must name a merchant of this stack")
    request_id = event["requestContext"]["requestId"]
    context = RequestContext(actor, CHANNEL, request_id, correlation_id(event), seconds_left=seconds_left)
    return ApiRequest(event, merchant_id, context)


def _correlation_header(event: Event) -> str | None:
    value: str | None = event.get("headers", {}).get(CORRELATION_HEADER.lower())
    return value


def _claims(event: Event) -> Mapping[str, Any]:
    """The claims that the authorizer has verified; {} without an authorizer, as in `sam local start-api`."""
    found: Any = event["requestContext"]
    for name in ("authorizer", "jwt", "claims"):
        found = found.get(name) if isinstance(found, Mapping) else None
    return found if isinstance(found, Mapping) else {}


def _words(claim: object) -> list[Any]:
    """The words of a claim: text with spaces, or a list, which API Gateway passes as "[a b]"."""
    if isinstance(claim, str):
        in_brackets = claim.startswith("[") and claim.endswith("]")
        return (claim[1:-1] if in_brackets else claim).split()
    return claim if isinstance(claim, list) else []
