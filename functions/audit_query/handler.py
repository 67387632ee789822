"""GET /v1/transactions/{merchantOrderId}/audit: the order's audit records."""

from __future__ import annotations

from typing import TYPE_CHECKING

from gateway.http.requests import ApiRequest, Event
from gateway.http.responses import Response, json_response
from gateway.http.router import serve
from gateway.runtime import bootstrap

if TYPE_CHECKING:
    from aws_lambda_powertools.utilities.typing import LambdaContext


def get_timeline(request: ApiRequest) -> Response:
    page = bootstrap.gateway().audit_log.timeline(request.order, request.page_limit, request.query("nextToken"))
    body = {
        "merchantOrderId": request.order.merchant_order_id,
        "records": page.records,
        "nextToken": page.next_token,
    }
    return json_response(200, body)


ROUTES = {"GET /v1/transactions/{merchantOrderId}/audit": get_timeline}


def lambda_handler(event: Event, context: LambdaContext) -> Response:
    return serve(event, context, ROUTES)


bootstrap.start(lambda gateway: gateway.audit_log)
