"""From event to response: calls the route's view, maps errors to problems, logs one line per request."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING, Any

from gateway.core.context import RequestContext
from gateway.core.correlation import correlated
from gateway.core.errors import LedgerUnavailable
from gateway.http import problems, requests
from gateway.http.requests import ApiRequest, Event, Forbidden
from gateway.http.responses import Response
from gateway.runtime import bootstrap, telemetry

if TYPE_CHECKING:
    from aws_lambda_powertools.utilities.typing import LambdaContext

View = Callable[[ApiRequest], Response]
NOBODY = "unknown"  # the actor if the token does not name its caller


def serve(event: Event, context: LambdaContext, routes: Mapping[str, View]) -> Response:
    """`routes`: API Gateway's route keys ("GET /v1/refunds") and their views."""
    correlation_id = requests.correlation_id(event)
    with correlated(correlation_id):
        response = _answer(event, context, routes)
    response["headers"][requests.CORRELATION_HEADER.lower()] = correlation_id
    return response


def _answer(event: Event, context: LambdaContext, routes: Mapping[str, View]) -> Response:
    started = time.perf_counter()
    request_id: str = event["requestContext"]["requestId"]
    log: dict[str, Any] = {"request_id": request_id, "route": event["routeKey"]}
    try:
        gateway = bootstrap.gateway()
        seconds_left = requests.time_left(
            event, lambda: context.get_remaining_time_in_millis() / 1000, lambda: gateway.clock().timestamp()
        )
        request = requests.read(event, seconds_left, gateway.settings)
        log |= {"merchant_id": request.merchant_id, "actor": request.context.actor}
        log |= {"path": event.get("pathParameters")}
        response = routes[event["routeKey"]](request)
    except Exception as error:
        problem = problems.from_error(error, request_id)
        if problem is None:
            telemetry.logger.exception("unhandled exception", extra=log)
            problem = problems.internal_error(request_id)
        # The log gets the internal reason; the caller does not.
        log["error"] = f"{type(error).__name__}: {error}"
        if isinstance(error, LedgerUnavailable) and error.__cause__:
            log["cause"] = f"{type(error.__cause__).__name__}: {error.__cause__}"
        if isinstance(error, Forbidden):
            _record(error, event, request_id)
        response = problem
    log |= {"status": response["statusCode"], "ms": round((time.perf_counter() - started) * 1000, 1)}
    telemetry.logger.info("request", extra=log)
    return response


def _record(forbidden: Forbidden, event: Event, request_id: str) -> None:
    from gateway.core import audit

    gateway = bootstrap.gateway()
    actor = requests.principal(event) or NOBODY
    context = RequestContext(actor, requests.CHANNEL, request_id, requests.correlation_id(event))
    path = {name: ascii(value)[1:-1] for name, value in (event.get("pathParameters") or {}).items()}
    record = audit.forbidden_record(gateway.clock(), context, event["routeKey"], path, str(forbidden))
    gateway.audit_log.record_best_effort(record)
