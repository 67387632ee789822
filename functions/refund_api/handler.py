"""The refunds of the API: make one, read them, resolve one."""

from __future__ import annotations

from typing import TYPE_CHECKING

import assembly
import telemetry
from http_api import problems
from http_api.requests import ApiRequest, Event
from http_api.responses import Response, json_response, location, refund_view, refunds_view
from http_api.routing import serve
from refunds import validation
from refunds.model import OPEN_STATUSES, Failure, Refund, RefundStatus

if TYPE_CHECKING:
    from aws_lambda_powertools.utilities.typing import LambdaContext


def create_refund(request: ApiRequest) -> Response:
    wanted = validation.refund_request(request.order, request.header("idempotency-key"), request.body())
    workflow = assembly.gateway().workflow
    if _prefers_async(request.header("prefer")):
        answer = workflow.refund_later(wanted, request.origin)
    else:
        answer = workflow.refund_now(wanted, request.origin, request.seconds_left)
    if isinstance(answer, Failure):
        telemetry.count("RefundsRefused", code=answer.code)
        return problems.from_failure(answer, request.origin.request_id)
    return _created(answer.refund, request.origin.request_id, replayed=answer.replayed)


def list_refunds(request: ApiRequest) -> Response:
    order = request.order
    return json_response(
        200, refunds_view(order.merchant_order_id, assembly.gateway().ledger.refunds_of(order, 100, None))
    )


def get_refund(request: ApiRequest) -> Response:
    return json_response(200, refund_view(assembly.gateway().ledger.refund(request.order, request.refund_id)))


def resolve_refund(request: ApiRequest) -> Response:
    order, refund_id = request.order, request.refund_id
    outcome, evidence = validation.resolution(request.body())
    refund = assembly.gateway().workflow.resolve(order, refund_id, outcome, evidence, request.origin)
    return json_response(200, refund_view(refund))


def list_work(request: ApiRequest) -> Response:
    status = validation.open_status(request.query("status"), OPEN_STATUSES)
    limit = validation.page_limit(request.query("limit"))
    found = assembly.gateway().ledger.work_list(request.merchant_id, status, limit, request.query("nextToken"))
    body = {"refunds": [refund_view(refund) for refund in found.refunds], "nextToken": found.next_token}
    return json_response(200, body)


def _created(refund: Refund, request_id: str, *, replayed: bool) -> Response:
    headers = {"location": location(refund)}
    if replayed:
        headers["idempotency-replayed"] = "true"
    match refund.status:
        case RefundStatus.SUCCEEDED:
            return json_response(201, refund_view(refund), headers)
        case RefundStatus.QUEUED | RefundStatus.UNKNOWN:
            return json_response(202, refund_view(refund), headers)
        case RefundStatus.SUBMITTING:
            return problems.in_progress(refund, request_id)
        case RefundStatus.FAILED:
            assert refund.failure  # every FAILED refund says why
            return problems.from_failure(refund.failure, request_id, refund, replayed=replayed)


def _prefers_async(header: str | None) -> bool:
    """RFC 7240: preferences are comma-separated, their names case-insensitive."""
    preferences = (header or "").split(",")
    return any(preference.split(";")[0].strip().lower() == "respond-async" for preference in preferences)


ROUTES = {
    "POST /v1/transactions/{merchantOrderId}/refunds": create_refund,
    "GET /v1/transactions/{merchantOrderId}/refunds": list_refunds,
    "GET /v1/transactions/{merchantOrderId}/refunds/{refundId}": get_refund,
    "POST /v1/transactions/{merchantOrderId}/refunds/{refundId}/resolution": resolve_refund,
    "GET /v1/refunds": list_work,
}


def lambda_handler(event: Event, context: LambdaContext) -> Response:
    return serve(event, context, ROUTES)


assembly.start(lambda gateway: gateway.workflow)
