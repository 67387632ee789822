"""The refund routes: create, list, read, withdraw and settle refunds."""

from __future__ import annotations

from typing import TYPE_CHECKING

from gateway.core.model import Failure, Refund
from gateway.core.transitions import OPEN_STATUSES, RefundStatus
from gateway.http import problems
from gateway.http.requests import ApiRequest, Event
from gateway.http.responses import Response, json_response, location, refund_response, refund_view, refunds_view
from gateway.http.router import serve
from gateway.refunds import validation
from gateway.runtime import bootstrap, telemetry

if TYPE_CHECKING:
    from aws_lambda_powertools.utilities.typing import LambdaContext


def create_refund(request: ApiRequest) -> Response:
    wanted = validation.refund_request(request.order, request.header("idempotency-key"), request.body())
    service = bootstrap.gateway().service
    if _prefers_async(request.header("prefer")):
        result = service.refund_later(wanted, request.context)
    else:
        result = service.refund_now(wanted, request.context)
    if isinstance(result, Failure):
        telemetry.count("RefundsRefused", code=result.code)
        return problems.from_failure(result, request.context.request_id)
    return _created(result.refund, request.context.request_id, replayed=result.replayed)


def list_refunds(request: ApiRequest) -> Response:
    order = request.order
    found = bootstrap.gateway().ledger.refunds_of(order, request.page_limit, request.query("nextToken"))
    return json_response(200, refunds_view(order.merchant_order_id, found))


def get_refund(request: ApiRequest) -> Response:
    return refund_response(bootstrap.gateway().ledger.refund(request.order, request.refund_id))


def withdraw_refund(request: ApiRequest) -> Response:
    order, refund_id, note = request.order, request.refund_id, validation.withdrawal(request.optional_body())
    gateway = bootstrap.gateway()
    may_withdraw_others = request.has_scope(f"{gateway.settings.scope_prefix}refunds:resolve")
    refund = gateway.decisions.withdraw(
        order, refund_id, request.version, note, request.context, may_withdraw_others=may_withdraw_others
    )
    return refund_response(refund)


def resolve_refund(request: ApiRequest) -> Response:
    order, refund_id, gateway = request.order, request.refund_id, bootstrap.gateway()
    resolution = validation.resolution(request.body(), gateway.clock())
    return refund_response(gateway.decisions.resolve(order, refund_id, request.version, resolution, request.context))


def list_open_refunds(request: ApiRequest) -> Response:
    status = validation.open_status(request.query("status"), OPEN_STATUSES)
    token = request.query("nextToken")
    found = bootstrap.gateway().ledger.open_refunds_page(request.merchant_id, status, request.page_limit, token)
    body = {"refunds": [refund_view(refund) for refund in found.refunds], "nextToken": found.next_token}
    return json_response(200, body)


def _created(refund: Refund, request_id: str, *, replayed: bool) -> Response:
    headers = {"location": location(refund)}
    if replayed:
        headers["idempotency-replayed"] = "true"
    match refund.status:
        case RefundStatus.SUCCEEDED:
            return refund_response(refund, 201, headers)
        case RefundStatus.QUEUED | RefundStatus.UNKNOWN:
            return refund_response(refund, 202, headers)
        case RefundStatus.SUBMITTING:
            return problems.in_progress(refund, request_id)
        case RefundStatus.FAILED:
            assert refund.failure  # every FAILED refund has one
            return problems.from_failure(refund.failure, request_id, refund, replayed=replayed)


def _prefers_async(header: str | None) -> bool:
    """RFC 7240: preferences are comma-separated, their names case-insensitive."""
    preferences = (header or "").split(",")
    return any(preference.split(";")[0].strip().lower() == "respond-async" for preference in preferences)


ROUTES = {
    "POST /v1/transactions/{merchantOrderId}/refunds": create_refund,
    "GET /v1/transactions/{merchantOrderId}/refunds": list_refunds,
    "GET /v1/transactions/{merchantOrderId}/refunds/{refundId}": get_refund,
    "POST /v1/transactions/{merchantOrderId}/refunds/{refundId}/withdrawal": withdraw_refund,
    "POST /v1/transactions/{merchantOrderId}/refunds/{refundId}/resolution": resolve_refund,
    "GET /v1/refunds": list_open_refunds,
}


def lambda_handler(event: Event, context: LambdaContext) -> Response:
    return serve(event, context, ROUTES)


bootstrap.start(lambda gateway: gateway.service)
