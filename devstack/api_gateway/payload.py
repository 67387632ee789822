"""Payload format 2.0: the event that a function gets of a request, and the response that is made of its result."""

import base64
import json
import re
import secrets
from collections.abc import Mapping
from datetime import UTC, datetime
from typing import Any

from devstack.api_gateway.messages import Request, Response
from devstack.api_gateway.targets import query_parameters
from devstack.cloudformation import ACCOUNT_ID
from devstack.template import Route

# The server sets these of each connection itself.
CONNECTION_HEADERS = frozenset({"connection", "content-length", "keep-alive", "transfer-encoding", "upgrade"})


def to_event(
    request: Request,
    route: Route,
    *,
    path: str,
    query: str,
    path_parameters: Mapping[str, str],
    claims: Mapping[str, Any] | None,
    now: float,
) -> dict[str, Any]:
    """`path` is decoded, as an HTTP API has it in rawPath (a REST API and a function URL have not); `query` is not."""
    headers, cookies = _headers(request, now)
    context: dict[str, Any] = {
        "accountId": ACCOUNT_ID,
        "apiId": "local",
        "domainName": headers.get("host", "localhost"),
        "domainPrefix": "local",
        "http": {
            "method": request.method,
            "path": path,
            "protocol": request.protocol,
            "sourceIp": request.source_ip,
            "userAgent": headers.get("user-agent", ""),
        },
        "requestId": base64.b64encode(secrets.token_bytes(11)).decode("ascii"),
        "routeKey": route.key,
        "stage": "$default",
        "time": datetime.fromtimestamp(now, UTC).strftime("%d/%b/%Y:%H:%M:%S +0000"),
        "timeEpoch": int(now * 1000),
    }
    if claims is not None:
        texts = {name: claim_text(value) for name, value in claims.items()}
        context["authorizer"] = {"jwt": {"claims": texts, "scopes": list(route.scopes) or None}}
    event: dict[str, Any] = {
        "version": "2.0",
        "routeKey": route.key,
        "rawPath": path,
        "rawQueryString": query,
        "headers": headers,
        "requestContext": context,
        "isBase64Encoded": False,
    }
    if cookies:
        event["cookies"] = cookies
    if parameters := query_parameters(query):
        event["queryStringParameters"] = parameters
    if path_parameters:
        event["pathParameters"] = dict(path_parameters)
    if request.body:
        try:
            event["body"] = request.body.decode("utf-8")
        except UnicodeDecodeError:
            event["body"] = base64.b64encode(request.body).decode("ascii")
            event["isBase64Encoded"] = True
    return event


def _headers(request: Request, now: float) -> tuple[dict[str, str], list[str]]:
    """Headers by names in lower case, with those that API Gateway adds; cookies apart."""
    headers: dict[str, str] = {}
    cookies: list[str] = []
    for name, value in request.headers:
        key = name.lower()
        if key == "cookie":
            cookies += [cookie.strip() for cookie in value.split(";") if cookie.strip()]
        else:
            headers[key] = f"{headers[key]},{value}" if key in headers else value
    headers |= {
        "x-amzn-trace-id": f"Root=1-{int(now):08x}-{secrets.token_hex(12)}",
        "x-forwarded-for": ", ".join(filter(None, [headers.get("x-forwarded-for"), request.source_ip])),
        "x-forwarded-port": headers.get("host", "").rpartition(":")[2] or "80",
        "x-forwarded-proto": "http",
    }
    return headers, cookies


def claim_text(value: Any) -> str:
    """A claim as API Gateway hands it on: always a text."""
    if isinstance(value, str):
        return value
    if isinstance(value, list):
        return f"[{' '.join(claim_text(item) for item in value)}]"
    return json.dumps(value, separators=(",", ":"))


def to_response(result: Any) -> Response:
    """Raises ValueError where API Gateway would answer 500 for what the function returned."""
    if not isinstance(result, dict) or "statusCode" not in result:
        # A result without a status is the body of a 200.
        text = result if isinstance(result, str) else json.dumps(result)
        return Response(200, text.encode(), (("content-type", "application/json"),))
    status = int(str(result["statusCode"]))
    if isinstance(result["statusCode"], bool | float) or not 200 <= status <= 599:
        raise ValueError(f"statusCode is {result['statusCode']!r}")
    body = result.get("body")
    if body is not None and not isinstance(body, str):
        raise ValueError(f"body is of the type {type(body).__name__}, not a text")
    content = (body or "").encode()
    if result.get("isBase64Encoded"):
        content = base64.b64decode(content, validate=True)
    given = result.get("headers") or {}
    cookies = result.get("cookies") or []
    if not isinstance(given, dict) or not isinstance(cookies, list):
        raise ValueError("headers or cookies have the wrong type")
    headers = [(name.lower(), _header_text(value)) for name, value in given.items()]
    if any(not re.fullmatch(r"[!#$%&'*+\-.^_`|~0-9a-z]+", name) for name, _ in headers):
        raise ValueError(f"headers has an invalid name: {given}")
    headers = [(name, value) for name, value in headers if name not in CONNECTION_HEADERS]
    headers += [("set-cookie", _header_text(cookie)) for cookie in cookies]
    if body is not None and "content-type" not in dict(headers):
        headers.append(("content-type", "text/plain;charset=utf-8"))
    return Response(status, content, tuple(headers))


def _header_text(value: Any) -> str:
    if not isinstance(value, str | int | float):
        raise ValueError(f"a header's value is {value!r}")
    text = claim_text(value)
    if re.search(r"[\r\n\0]", text):
        raise ValueError("a header's value holds a line break")
    return text
