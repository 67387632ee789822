"""The API without sockets: events as API Gateway makes them, and responses as it makes them of results."""

import base64
import json
from collections.abc import Mapping
from typing import Any

import pytest

from devstack.api_gateway.http_api import HttpApi
from devstack.api_gateway.messages import Request, Response
from devstack.runtime import FunctionError, StillRunningError
from devstack.tokens import Issuer
from tests.devstack.api import ISSUER, NOW, ROUTES, Echo, token


@pytest.fixture
def api(issuer: Issuer, echo: Echo) -> HttpApi:
    return HttpApi(ROUTES, issuer, echo, clock=lambda: NOW)


def get(api: HttpApi, target: str, **headers: str) -> Response:
    return api.handle(Request("GET", target, list(headers.items())))


def test_event_has_the_documented_shape(api: HttpApi, echo: Echo) -> None:
    headers = [
        ("Host", "localhost:8080"),
        ("X-Twice", "a"),
        ("x-twice", "b"),
        ("Cookie", "one=1; two=2"),
        ("User-Agent", "curl"),
    ]
    api.handle(Request("GET", "/orders/A%20B?x=1&x=2&empty=&y=a%26b+c", headers, source_ip="10.0.0.7"))
    event = echo.event
    assert event["version"] == "2.0"
    assert event["routeKey"] == "GET /orders/{orderId}"
    assert event["rawPath"] == "/orders/A B"
    assert event["rawQueryString"] == "x=1&x=2&empty=&y=a%26b+c"
    assert event["cookies"] == ["one=1", "two=2"]
    assert event["headers"]["x-twice"] == "a,b"
    assert "cookie" not in event["headers"]
    assert event["queryStringParameters"] == {"x": "1,2", "empty": "", "y": "a&b c"}
    assert event["pathParameters"] == {"orderId": "A B"}
    assert event["isBase64Encoded"] is False
    assert "body" not in event
    context = event["requestContext"]
    assert {
        name: context[name] for name in ("accountId", "apiId", "domainName", "routeKey", "stage", "time", "timeEpoch")
    } == {
        "accountId": "123456789012",
        "apiId": "local",
        "domainName": "localhost:8080",
        "routeKey": "GET /orders/{orderId}",
        "stage": "$default",
        "time": "15/Jan/2027:08:00:00 +0000",
        "timeEpoch": 1_800_000_000_500,
    }
    assert context["http"] == {
        "method": "GET",
        "path": "/orders/A B",
        "protocol": "HTTP/1.1",
        "sourceIp": "10.0.0.7",
        "userAgent": "curl",
    }
    assert context["requestId"]
    assert "authorizer" not in context


def test_event_leaves_out_what_the_request_lacks(api: HttpApi, echo: Echo) -> None:
    get(api, "/orders/latest")
    assert not {"queryStringParameters", "pathParameters", "cookies", "body"} & set(echo.event)


def test_claims_reach_the_function_as_texts(api: HttpApi, issuer: Issuer, echo: Echo) -> None:
    bearer = f"Bearer {token(issuer, 'write', 'x', groups=['a', 'b'], admin=True, iat=1_700_000_000)}"
    response = api.handle(Request("POST", "/orders/1/refunds", [("Authorization", bearer)], b"{}"))
    assert response.status == 200
    jwt = echo.event["requestContext"]["authorizer"]["jwt"]
    assert jwt["scopes"] == ["write"]
    assert (jwt["claims"]["groups"], jwt["claims"]["admin"], jwt["claims"]["iat"]) == ("[a b]", "true", "1700000000")
    assert jwt["claims"]["scope"] == "write x"
    assert all(isinstance(value, str) for value in jwt["claims"].values())


def test_missing_bad_and_insufficient_tokens_are_told_apart(api: HttpApi, issuer: Issuer, echo: Echo) -> None:
    def post(*headers: tuple[str, str]) -> Response:
        return api.handle(Request("POST", "/orders/1/refunds", headers))

    missing, bad = post(), post(("authorization", "Bearer nonsense"))
    assert (missing.status, json.loads(missing.body)) == (401, {"message": "Unauthorized"})
    assert dict(missing.headers)["www-authenticate"] == "Bearer"
    assert bad.status == 401
    assert 'error="invalid_token"' in dict(bad.headers)["www-authenticate"]
    poor = post(("authorization", token(issuer, "read")))
    assert (poor.status, json.loads(poor.body)) == (403, {"message": "Forbidden"})
    assert 'error="insufficient_scope"' in dict(poor.headers)["www-authenticate"]
    assert echo.events == []


def test_encoded_slash_stays_in_its_segment_and_is_decoded_once(api: HttpApi, echo: Echo) -> None:
    get(api, "/orders/a%2Fb")
    assert echo.event["pathParameters"] == {"orderId": "a/b"}
    get(api, "/orders/a%252Fb/refunds/%E2%82%AC")
    assert echo.event["pathParameters"] == {"orderId": "a%2Fb", "refundId": "€"}


@pytest.mark.parametrize(
    ("method", "target", "function", "parameters"),
    [
        ("GET", "/orders/latest", "Latest", None),
        ("GET", "/orders/lat%65st", "Latest", None),
        ("GET", "/orders/other", "F", {"orderId": "other"}),
        ("PUT", "/files/a/b", "Files", {"folder": "a", "name": "b"}),
        ("GET", "http://elsewhere.test/orders/1?x=1", "F", {"orderId": "1"}),
    ],
)
def test_most_specific_route_wins(
    api: HttpApi, echo: Echo, method: str, target: str, function: str, parameters: dict[str, str] | None
) -> None:
    assert api.handle(Request(method, target)).status == 200
    assert echo.events[-1][0] == function
    assert echo.event.get("pathParameters") == parameters


@pytest.mark.parametrize(
    ("method", "target"),
    [("POST", "/"), ("GET", "/orders"), ("GET", "/orders/"), ("GET", "/orders/1/"), ("DELETE", "/orders/1"),
     ("GET", "/orders//refunds/1"), ("FOO", "/orders/1"), ("GET", "/files/"),
     ("PUT", "/files/a"), ("PUT", "/files/a/b/c")],
)  # fmt: skip
def test_request_without_a_route_is_not_found(api: HttpApi, method: str, target: str) -> None:
    response = api.handle(Request(method, target))
    assert (response.status, json.loads(response.body)) == (404, {"message": "Not Found"})


@pytest.mark.parametrize(
    "target", ["/orders/%", "/orders/%2", "/orders/%zz", "/orders/%ff", "/orders/é", "/orders/1?x=%", "*", "", "/o\x00"]
)
def test_unreadable_target_is_a_bad_request(api: HttpApi, echo: Echo, target: str) -> None:
    assert get(api, target).status == 400
    assert echo.events == []


def test_body_is_text_or_else_base64(api: HttpApi, issuer: Issuer, echo: Echo) -> None:
    headers = [("authorization", token(issuer, "write"))]
    api.handle(Request("POST", "/orders/1/refunds", headers, '{"note": "é"}'.encode()))
    assert (echo.event["body"], echo.event["isBase64Encoded"]) == ('{"note": "é"}', False)
    api.handle(Request("POST", "/orders/1/refunds", headers, b"\xff\x00"))
    assert (base64.b64decode(echo.event["body"]), echo.event["isBase64Encoded"]) == (b"\xff\x00", True)


def test_result_becomes_a_response_with_headers_cookies_and_body(api: HttpApi, echo: Echo) -> None:
    echo.result = {
        "statusCode": "201",
        "headers": {"X-Number": 7, "Content-Length": "999", "content-type": "application/problem+json"},
        "cookies": ["a=1", "b=2"],
        "body": base64.b64encode(b"\xff").decode(),
        "isBase64Encoded": True,
    }
    response = get(api, "/orders/1")
    assert (response.status, response.body) == (201, b"\xff")
    assert response.headers == (
        ("x-number", "7"),
        ("content-type", "application/problem+json"),
        ("set-cookie", "a=1"),
        ("set-cookie", "b=2"),
    )
    echo.result = {"statusCode": 200, "body": "é"}
    assert get(api, "/orders/1") == Response(200, "é".encode(), (("content-type", "text/plain;charset=utf-8"),))
    echo.result = {"transactionStatus": "PAID"}
    assert get(api, "/orders/1").body == b'{"transactionStatus": "PAID"}', "no statusCode: the body of a 200"


@pytest.mark.parametrize(
    "result",
    [
        {"statusCode": "many"},
        {"statusCode": 99},
        {"statusCode": 200.5},
        {"statusCode": True},
        {"statusCode": None},
        {"statusCode": 200, "body": {"not": "text"}},
        {"statusCode": 200, "headers": ["x"]},
        {"statusCode": 200, "headers": {"x": None}},
        {"statusCode": 200, "headers": {"x": "a\r\nset-cookie: b"}},
        {"statusCode": 200, "headers": {"x y": "a"}},
        {"statusCode": 200, "body": "!", "isBase64Encoded": True},
        FunctionError("F"),
    ],
)
def test_invalid_result_is_a_500_that_tells_nothing(api: HttpApi, echo: Echo, result: Any) -> None:
    echo.result = result
    response = get(api, "/orders/1")
    assert (response.status, json.loads(response.body)) == (500, {"message": "Internal Server Error"})


def test_function_slower_than_its_route_allows_is_unavailable(api: HttpApi, echo: Echo) -> None:
    echo.result = StillRunningError("F")
    assert get(api, "/orders/1").status == 503


def test_issuers_documents_are_served(api: HttpApi) -> None:
    configuration = json.loads(get(api, "/.well-known/openid-configuration").body)
    assert (configuration["issuer"], configuration["jwks_uri"]) == (ISSUER, f"{ISSUER}/.well-known/jwks.json")
    assert json.loads(get(api, "/.well-known/jwks.json").body)["keys"][0]["kty"] == "RSA"


def test_docs_have_commands_with_the_token_of_this_stack(api: HttpApi, issuer: Issuer) -> None:
    page = get(api, "/docs").body.decode()
    assert f"$(cat {issuer.directory}/token)" in page
    assert f"{ISSUER}/v1/" in page


def test_root_leads_to_the_docs(api: HttpApi) -> None:
    response = get(api, "/")
    assert (response.status, dict(response.headers)["location"]) == (302, "/docs")


# What is reported


@pytest.fixture
def events(issuer: Issuer, echo: Echo) -> tuple[HttpApi, list[Mapping[str, Any]]]:
    events: list[Mapping[str, Any]] = []
    return HttpApi(ROUTES, issuer, echo, clock=lambda: NOW, report=events.append), events


def test_request_is_reported_with_order_merchant_outcome_and_ids(
    events: tuple[HttpApi, list[Mapping[str, Any]]], issuer: Issuer, echo: Echo
) -> None:
    api, reported = events
    echo.result = {
        "statusCode": 202,
        "headers": {"content-type": "application/json", "X-Correlation-Id": "till-3"},
        "body": '{"refundId": "6f2a", "status": "QUEUED"}',
    }
    api.handle(Request("POST", "/shop/A%20B/refunds", [("authorization", token(issuer, "write"))], b"{}"))
    (event,) = reported
    assert event["ms"] >= 0
    assert {name: value for name, value in event.items() if name != "ms"} == {
        "event": "request",
        "method": "POST",
        "target": "/shop/A%20B/refunds",
        "route": "POST /shop/{merchantOrderId}/refunds",
        "status": 202,
        "outcome": "QUEUED",
        "request_id": echo.event["requestContext"]["requestId"],
        "correlation_id": "till-3",
        "merchant_id": "m1",
        "merchant_order_id": "A B",
        "refund_id": "6f2a",
    }


def test_refused_token_is_reported_with_its_reason_and_never_itself(
    events: tuple[HttpApi, list[Mapping[str, Any]]], issuer: Issuer
) -> None:
    api, reported = events
    good = token(issuer, "read")
    for header in ([], [("authorization", "Bearer nonsense")], [("authorization", good)]):
        api.handle(Request("POST", "/orders/1/refunds", header))
    assert [event["status"] for event in reported] == [401, 401, 403]
    missing, bad, insufficient = (event["why"] for event in reported)
    assert missing == "there is no token"
    assert "not one of this issuer's" in bad
    assert insufficient == "the token has none of the scopes write"
    assert good not in json.dumps(reported)


def test_invalid_result_is_reported_with_a_traceback(
    events: tuple[HttpApi, list[Mapping[str, Any]]], echo: Echo
) -> None:
    api, reported = events
    echo.result = {"statusCode": 99}
    get(api, "/orders/1")
    notice, request = reported
    assert "F returned no valid HTTP response" in notice["message"]
    assert "ValueError: statusCode is 99" in notice["exception"]
    assert request["status"] == 500
