"""GET /v1/transactions/{merchantOrderId}: the status of a transaction at Indodana."""

from __future__ import annotations

from typing import TYPE_CHECKING

from gateway.http.requests import ApiRequest, Event
from gateway.http.responses import Response, json_response
from gateway.http.router import serve
from gateway.runtime import bootstrap

if TYPE_CHECKING:
    from aws_lambda_powertools.utilities.typing import LambdaContext


def get_transaction(request: ApiRequest) -> Response:
    status = bootstrap.gateway().status_checks.check(request.order, request.context)
    return json_response(200, status.fields)


ROUTES = {"GET /v1/transactions/{merchantOrderId}": get_transaction}


def lambda_handler(event: Event, context: LambdaContext) -> Response:
    return serve(event, context, ROUTES)


bootstrap.start(lambda gateway: gateway.status_checks)
