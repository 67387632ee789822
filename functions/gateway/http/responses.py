"""The API's responses except problems: JSON with amounts as exact numbers of rupiah."""

from __future__ import annotations

from collections.abc import Mapping
from decimal import Decimal
from typing import TYPE_CHECKING, Any
from urllib.parse import quote

import simplejson

from gateway.core.model import Failure, Refund, iso

if TYPE_CHECKING:
    from gateway.core.ledger import OrderRefundsPage  # not every function has a ledger

MAX_EXPONENT = 100  # a larger exponent is no amount; 1E+999999999 written in digits would fill the memory

Response = dict[str, Any]  # an HTTP API Lambda response, payload format 2.0


def json_response(
    status: int, body: Mapping[str, Any], headers: Mapping[str, str] | None = None, media_type: str = "application/json"
) -> Response:
    return {
        "statusCode": status,
        # Every response is valid only now and only for this caller.
        "headers": {"content-type": media_type, "cache-control": "no-store", **(headers or {})},
        "body": simplejson.dumps(_exact(body), use_decimal=True, ensure_ascii=True),
    }


def refund_view(refund: Refund) -> dict[str, Any]:
    """`amount` and `type` are null if all that remains was requested and nothing is reserved yet."""
    request = refund.request
    view: dict[str, Any] = {
        "refundId": refund.refund_id,
        "merchantOrderId": request.order.merchant_order_id,
        "status": refund.status,
        "type": None if refund.is_full is None else "FULL" if refund.is_full else "PARTIAL",
        "amount": refund.amount,
        "reason": request.reason,
        "note": request.note,
        "requestedBy": request.requested_by,
        "version": refund.version,
        "createdAt": iso(refund.created_at),
        "updatedAt": iso(refund.updated_at),
    }
    if refund.failure:
        view["failure"] = {
            "code": refund.failure.code,
            "detail": refund.failure.detail,
            **upstream_view(refund.failure),
        }
    return view


def refund_response(refund: Refund, status: int = 200, headers: Mapping[str, str] | None = None) -> Response:
    """A decision about the refund sends this ETag in If-Match."""
    return json_response(status, refund_view(refund), {"etag": entity_tag(refund), **(headers or {})})


def entity_tag(refund: Refund) -> str:
    return f'"{refund.version}"'


def refunds_view(merchant_order_id: str, found: OrderRefundsPage) -> dict[str, Any]:
    """The sums are null while every refund of the order is waiting and Indodana has not yet returned its amount."""
    order = found.order
    return {
        "merchantOrderId": merchant_order_id,
        "transactionAmount": order.amount if order else None,
        "refunded": order.refunded if order else None,
        "reserved": order.reserved if order else None,
        "refundable": order.refundable if order else None,
        "refunds": [refund_view(refund) for refund in found.refunds],
        "nextToken": found.next_token,
    }


def upstream_view(failure: Failure) -> dict[str, Any]:
    if failure.upstream_status is None:
        return {}
    error = {"kind": failure.upstream_kind, "message": failure.upstream_message}
    return {"upstream": {"status": failure.upstream_status, "error": error}}


def location(refund: Refund) -> str:
    order_id = quote(refund.request.order.merchant_order_id, safe="")
    return f"/v1/transactions/{order_id}/refunds/{refund.refund_id}"


def _exact(value: Any) -> Any:
    """Whole rupiah become an integer, others keep their decimals; a plain Decimal could be written as 1E+5."""
    if isinstance(value, Decimal):
        if abs(value.adjusted()) > MAX_EXPONENT:
            return value
        return int(value) if value == value.to_integral_value() else Decimal(f"{value:f}")
    if isinstance(value, Mapping):
        return {name: _exact(item) for name, item in value.items()}
    if isinstance(value, list):
        return [_exact(item) for item in value]
    return value
