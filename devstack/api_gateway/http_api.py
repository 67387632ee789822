"""The HTTP API without sockets: route, authorize, invoke, respond. The issuer's documents and the API's pages, too."""

import json
import time
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from typing import Any

from joserfc.jwk import KeySet

from devstack import pages
from devstack.api_gateway.authorizer import ForbiddenError, UnauthorizedError, authorize
from devstack.api_gateway.messages import BadRequestError, Request, Response, refusal
from devstack.api_gateway.payload import to_event, to_response
from devstack.api_gateway.routing import Router
from devstack.api_gateway.targets import decoded, query_parameters, split_target
from devstack.events import Report, notice, to_stderr
from devstack.local_files import TOKEN_FILE, shell_path
from devstack.runtime import FunctionError, StillRunningError
from devstack.template import Route
from devstack.tokens import MERCHANT_CLAIM, Issuer


@dataclass
class _Trace:
    """What is known of a request by the time that it is answered."""

    route: Route | None = None
    request_id: str | None = None
    merchant_id: Any = None
    path_parameters: Mapping[str, str] | None = None
    refused_because: str | None = None


class HttpApi:
    def __init__(
        self,
        routes: Iterable[Route],
        issuer: Issuer,
        invoke: Callable[[str, Any, float], Any],
        clock: Callable[[], float] = time.time,
        report: Report = to_stderr,
    ) -> None:
        self._router = Router(routes)
        self._issuer = issuer
        self._keys: KeySet = issuer.keys()
        self._invoke = invoke
        self._clock = clock
        self._report = report

    def handle(self, request: Request) -> Response:
        started = time.monotonic()
        trace = _Trace()
        response = self._response(request, trace)
        self._report(_request_event(request, response, trace, time.monotonic() - started))
        return response

    def _response(self, request: Request, trace: _Trace) -> Response:
        try:
            path, query = split_target(request.target)
            if request.method in ("GET", "HEAD") and (document := self._document(path)) is not None:
                return document
            segments = [decoded(segment) for segment in path[1:].split("/")]
            query_parameters(query)  # refused here, before anybody is asked who he is
        except BadRequestError as error:
            return refusal(error.status)
        found = self._router.find(request.method, segments)
        if found is None:
            return refusal(404)
        trace.route, trace.path_parameters = route, path_parameters = found
        claims: dict[str, Any] | None = None
        if route.authorizer is not None:
            token = next((value for name, value in request.headers if name.lower() == "authorization"), None)
            try:
                claims = authorize(token, route.authorizer, route.scopes, self._keys, self._clock)
            except UnauthorizedError as error:
                # The caller gets API Gateway's wording; the developer needs the reason.
                trace.refused_because = str(error)
                invalid = 'Bearer scope="" error="invalid_token" error_description="the token is not valid"'
                return refusal(401, headers=[("www-authenticate", "Bearer" if token is None else invalid)])
            except ForbiddenError as error:
                trace.refused_because = f"the token has none of the scopes {error}"
                challenge = f'Bearer scope="{error}" error="insufficient_scope" error_description="a scope is missing"'
                return refusal(403, headers=[("www-authenticate", challenge)])
            trace.merchant_id = claims.get(MERCHANT_CLAIM)
        event = to_event(
            request,
            route,
            path="/" + "/".join(segments),
            query=query,
            path_parameters=path_parameters,
            claims=claims,
            now=self._clock(),
        )
        trace.request_id = event["requestContext"]["requestId"]
        try:
            return to_response(self._invoke(route.function, event, route.timeout_seconds))
        except StillRunningError:
            trace.refused_because = f"{route.function} took longer than the route allows"
            return refusal(503)
        except FunctionError:
            return refusal(500)
        except Exception as error:
            self._report(notice(f"{route.function} returned no valid HTTP response", error))
            return refusal(500)

    def _document(self, path: str) -> Response | None:
        """What the local stack serves beside the routes: it stands in for the identity provider, and shows the API."""
        match path:
            case "/.well-known/openid-configuration":
                return _json(self._issuer.configuration())
            case "/.well-known/jwks.json":
                return _json(self._issuer.jwks())
            case "/" if pages.DOCUMENT.exists():
                return Response(302, b"", (("location", pages.PAGE_PATH),))
        page = pages.serve(path, self._issuer.url, shell_path(self._issuer.directory / TOKEN_FILE))
        return None if page is None else Response(200, *page)


def _json(document: Any) -> Response:
    return Response(200, json.dumps(document).encode(), (("content-type", "application/json"),))


def _request_event(request: Request, response: Response, trace: _Trace, seconds: float) -> dict[str, Any]:
    body = _json_object(response)
    path_parameters = trace.path_parameters or {}
    event = {
        "event": "request",
        "method": request.method,
        "target": ascii(request.target)[1:-1],
        "route": trace.route and trace.route.key,
        "status": response.status,
        "outcome": body.get("code") or body.get("status") or body.get("transactionStatus"),
        "why": trace.refused_because,
        "ms": round(seconds * 1000, 1),
        "request_id": trace.request_id,
        "correlation_id": dict(response.headers).get("x-correlation-id"),
        "merchant_id": trace.merchant_id,
        "merchant_order_id": path_parameters.get("merchantOrderId"),
        "refund_id": path_parameters.get("refundId") or body.get("refundId"),
    }
    return {name: value for name, value in event.items() if value is not None}


def _json_object(response: Response) -> dict[str, Any]:
    if "json" not in dict(response.headers).get("content-type", ""):
        return {}
    try:
        body = json.loads(response.body)
    except ValueError:
        return {}
    return body if isinstance(body, dict) else {}
