"""One API request, read from an HTTP API event (payload format 2.0) that the JWT authorizer has let through."""

from __future__ import annotations

import base64
import binascii
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

from refunds import validation
from refunds.errors import FieldError, InvalidRequest
from refunds.model import OrderKey, Origin

CHANNEL = "api"
CORRELATION_HEADER = "X-Correlation-Id"
Event = Mapping[str, Any]


class Forbidden(Exception):
    """The token is good, and does not say for whom."""


@dataclass(frozen=True)
class ApiRequest:
    event: Event
    merchant_id: str
    origin: Origin
    seconds_left: Callable[[], float]

    @property
    def order(self) -> OrderKey:
        """Raises InvalidRequest."""
        return validation.order_key(self.merchant_id, self._path("merchantOrderId"))

    @property
    def refund_id(self) -> str:
        """Raises InvalidRequest."""
        return validation.refund_id(self._path("refundId"))

    def header(self, name: str) -> str | None:
        value: str | None = self.event.get("headers", {}).get(name)
        return value

    def query(self, name: str) -> str | None:
        value: str | None = (self.event.get("queryStringParameters") or {}).get(name)
        return value

    def body(self) -> dict[str, Any]:
        """The JSON object of the body. Raises InvalidRequest."""
        raw = (self.event.get("body") or "").encode("utf-8", "surrogatepass")
        if self.event.get("isBase64Encoded"):
            try:
                raw = base64.b64decode(raw, validate=True)
            except binascii.Error as error:
                raise InvalidRequest(FieldError("body", "must be valid base64 where it says so")) from error
        return validation.json_object(raw)

    def _path(self, name: str) -> str:
        # API Gateway has decoded it once, and once is right: an order id may hold a '%'.
        value: str = self.event["pathParameters"][name]
        return value


def correlation_id(event: Event) -> str:
    """The caller's own id for this request; API Gateway's, where it gave none, or one that read() refuses."""
    request_id: str = event["requestContext"]["requestId"]
    return validation.correlation_id_in(_correlation_header(event)) or request_id


def _correlation_header(event: Event) -> str | None:
    value: str | None = event.get("headers", {}).get(CORRELATION_HEADER.lower())
    return value


def read(event: Event, seconds_left: Callable[[], float], *, merchant_id: str, merchant_claim: str) -> ApiRequest:
    """`merchant_claim`: the claim that names the caller's merchant; empty where the stack serves `merchant_id` alone.

    Raises InvalidRequest, Forbidden.
    """
    validation.check_correlation_id(_correlation_header(event), CORRELATION_HEADER)
    context = event["requestContext"]
    claims = context["authorizer"]["jwt"]["claims"]
    if merchant_claim:
        merchant_id = claims.get(merchant_claim, "")
        if not validation.MERCHANT_ID.fullmatch(merchant_id):
            raise Forbidden(f"the token's claim {merchant_claim} must name the merchant: {validation.MERCHANT_ID_RULE}")
    principal = claims.get("sub") or claims.get("client_id")
    if not principal:
        raise Forbidden("the token must name its principal in the claim sub or client_id")
    origin = Origin(principal, CHANNEL, context["requestId"], correlation_id(event))
    return ApiRequest(event, merchant_id, origin, seconds_left)
