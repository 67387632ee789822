"""GET /v1/transactions/{merchantOrderId}: is this order paid?"""

from __future__ import annotations

from typing import TYPE_CHECKING

import assembly
from http_api.requests import ApiRequest, Event
from http_api.responses import Response, json_response
from http_api.routing import serve

if TYPE_CHECKING:
    from aws_lambda_powertools.utilities.typing import LambdaContext


def get_transaction(request: ApiRequest) -> Response:
    status = assembly.gateway().status_checks.check(request.order, request.origin)
    return json_response(200, status.fields)


ROUTES = {"GET /v1/transactions/{merchantOrderId}": get_transaction}


def lambda_handler(event: Event, context: LambdaContext) -> Response:
    return serve(event, context, ROUTES)


assembly.start(lambda gateway: gateway.status_checks)
