"""The gateway: events as API Gateway makes them, answers as it maps them, and a socket that no caller can upset."""

import base64
import json
import socket
import threading
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from http.client import HTTPConnection
from typing import Any

import pytest

from devstack.errors import DevstackError
from devstack.gateway import MAX_BODY_BYTES, Gateway, HttpApi, Request, Response
from devstack.runtime import FunctionError, Runtime, StillRunningError
from devstack.template import Authorizer, Function, Route
from devstack.tokens import Issuer

ISSUER = "http://gateway.test"
NOW = 1_800_000_000.5
JWT = Authorizer("Jwt", ISSUER, ("gateway",))


def route(key: str, *scopes: str, authorizer: Authorizer | None = None, function: str = "F") -> Route:
    method, path = key.split(" ")
    return Route(function, method, path, authorizer, scopes, 30.0)


ROUTES = [
    route("GET /orders/{orderId}"),
    route("GET /orders/{orderId}/refunds/{refundId}"),
    route("GET /orders/latest", function="Latest"),
    route("POST /orders/{orderId}/refunds", "write", authorizer=JWT),
    route("ANY /files/{path+}", function="Files"),
]


@pytest.fixture(scope="module")
def issuer(tmp_path_factory: pytest.TempPathFactory) -> Issuer:
    return Issuer(ISSUER, tmp_path_factory.mktemp("keys"))


def token(issuer: Issuer, *scopes: str, **claims: Any) -> str:
    return issuer.token(scopes, audience="gateway", merchant="m1", claims=claims, clock=lambda: NOW)


class Echo:
    """Stands in for the functions: keeps the event, answers what it is told."""

    def __init__(self) -> None:
        self.events: list[tuple[str, dict[str, Any]]] = []
        self.answer: Any = {"statusCode": 200, "body": "ok"}

    def __call__(self, function: str, event: dict[str, Any], _: float) -> Any:
        self.events.append((function, event))
        if isinstance(self.answer, Exception):
            raise self.answer
        return self.answer

    @property
    def event(self) -> dict[str, Any]:
        return self.events[-1][1]


@pytest.fixture
def echo() -> Echo:
    return Echo()


@pytest.fixture
def api(issuer: Issuer, echo: Echo) -> HttpApi:
    return HttpApi(ROUTES, issuer, echo, clock=lambda: NOW)


def get(api: HttpApi, target: str, **headers: str) -> Response:
    return api.handle(Request("GET", target, list(headers.items())))


def test_an_event_has_the_documented_shape(api: HttpApi, echo: Echo) -> None:
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


def test_what_is_not_there_is_left_out(api: HttpApi, echo: Echo) -> None:
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


def test_a_missing_a_bad_and_a_poor_token_are_told_apart(api: HttpApi, issuer: Issuer, echo: Echo) -> None:
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


def test_an_encoded_slash_stays_inside_its_segment_and_is_decoded_once(api: HttpApi, echo: Echo) -> None:
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
        ("PUT", "/files/a/b", "Files", {"path": "a/b"}),
        ("GET", "http://elsewhere.test/orders/1?x=1", "F", {"orderId": "1"}),
    ],
)
def test_the_most_specific_route_wins(
    api: HttpApi, echo: Echo, method: str, target: str, function: str, parameters: dict[str, str] | None
) -> None:
    assert api.handle(Request(method, target)).status == 200
    assert echo.events[-1][0] == function
    assert echo.event.get("pathParameters") == parameters


@pytest.mark.parametrize(
    ("method", "target"),
    [("GET", "/"), ("GET", "/orders"), ("GET", "/orders/"), ("GET", "/orders/1/"), ("DELETE", "/orders/1"),
     ("GET", "/orders//refunds/1"), ("FOO", "/orders/1"), ("GET", "/files/")],
)  # fmt: skip
def test_no_route_is_not_found(api: HttpApi, method: str, target: str) -> None:
    response = api.handle(Request(method, target))
    assert (response.status, json.loads(response.body)) == (404, {"message": "Not Found"})


@pytest.mark.parametrize(
    "target", ["/orders/%", "/orders/%2", "/orders/%zz", "/orders/%ff", "/orders/é", "/orders/1?x=%", "*", "", "/o\x00"]
)
def test_a_target_that_cannot_be_read_is_a_bad_request(api: HttpApi, echo: Echo, target: str) -> None:
    assert get(api, target).status == 400
    assert echo.events == []


def test_a_body_of_text_is_text_and_any_other_is_base64(api: HttpApi, issuer: Issuer, echo: Echo) -> None:
    headers = [("authorization", token(issuer, "write"))]
    api.handle(Request("POST", "/orders/1/refunds", headers, '{"note": "é"}'.encode()))
    assert (echo.event["body"], echo.event["isBase64Encoded"]) == ('{"note": "é"}', False)
    api.handle(Request("POST", "/orders/1/refunds", headers, b"\xff\x00"))
    assert (base64.b64decode(echo.event["body"]), echo.event["isBase64Encoded"]) == (b"\xff\x00", True)


def test_an_answer_is_mapped_with_its_headers_cookies_and_body(api: HttpApi, echo: Echo) -> None:
    echo.answer = {
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
    echo.answer = {"statusCode": 200, "body": "é"}
    assert get(api, "/orders/1") == Response(200, "é".encode(), (("content-type", "text/plain;charset=utf-8"),))
    echo.answer = {"transactionStatus": "PAID"}
    assert get(api, "/orders/1").body == b'{"transactionStatus": "PAID"}', "no statusCode: the body of a 200"


@pytest.mark.parametrize(
    "answer",
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
def test_an_answer_that_is_none_is_a_500_that_tells_nothing(api: HttpApi, echo: Echo, answer: Any) -> None:
    echo.answer = answer
    response = get(api, "/orders/1")
    assert (response.status, json.loads(response.body)) == (500, {"message": "Internal Server Error"})


def test_a_function_slower_than_the_route_allows_is_unavailable(api: HttpApi, echo: Echo) -> None:
    echo.answer = StillRunningError("F")
    assert get(api, "/orders/1").status == 503


def test_the_issuers_documents_are_served(api: HttpApi) -> None:
    configuration = json.loads(get(api, "/.well-known/openid-configuration").body)
    assert (configuration["issuer"], configuration["jwks_uri"]) == (ISSUER, f"{ISSUER}/.well-known/jwks.json")
    assert json.loads(get(api, "/.well-known/jwks.json").body)["keys"][0]["kty"] == "RSA"


# On a socket


@pytest.fixture
def gateway(issuer: Issuer, echo: Echo) -> Iterator[Gateway]:
    gateway = Gateway()
    gateway.start(HttpApi([*ROUTES, route("POST /orders")], issuer, echo))
    yield gateway
    gateway.stop()


def address(gateway: Gateway) -> tuple[str, int]:
    host, port = gateway.url.removeprefix("http://").split(":")
    return host, int(port)


def exchange(gateway: Gateway, data: bytes) -> bytes:
    """Everything the gateway says to `data`, until it closes."""
    with socket.create_connection(address(gateway), timeout=5) as connection:
        connection.sendall(data)
        connection.shutdown(socket.SHUT_WR)
        answer = b""
        while part := connection.recv(65_536):
            answer += part
    return answer


@pytest.mark.parametrize(
    ("request_bytes", "status"),
    [
        (b"POST /orders HTTP/1.1\r\nContent-Length: x\r\n\r\n", 400),
        (b"POST /orders HTTP/1.1\r\nContent-Length: -1\r\n\r\n", 400),
        (b"POST /orders HTTP/1.1\r\nContent-Length: \xb2\r\n\r\n", 400),
        (b"POST /orders HTTP/1.1\r\nContent-Length: 1\r\nContent-Length: 2\r\n\r\nab", 400),
        (b"POST /orders HTTP/1.1\r\nContent-Length: 9\r\n\r\nshort", 400),
        (b"POST /orders HTTP/1.1\r\nContent-Length: 99999999999999999999999\r\n\r\n", 400),
        (b"POST /orders HTTP/1.1\r\nContent-Length: 10485761\r\n\r\n", 413),
        (b"POST /orders HTTP/1.1\r\nTransfer-Encoding: gzip\r\n\r\n", 400),
        (b"POST /orders HTTP/1.1\r\nTransfer-Encoding: chunked\r\nContent-Length: 3\r\n\r\n0\r\n\r\n", 400),
        (b"POST /orders HTTP/1.1\r\nTransfer-Encoding: chunked\r\n\r\nzz\r\n\r\n", 400),
        (b"POST /orders HTTP/1.1\r\nTransfer-Encoding: chunked\r\n\r\nfffffff\r\n", 413),
        (b"GET /orders/1 HTTP/1.1\r\nX: " + b"a" * 20_000 + b"\r\n\r\n", 431),
        (b"GET /orders/1 HTTP/1.1\r\nX: " + b"a" * 200_000 + b"\r\n\r\n", 431),
        (b"GET /orders/1 HTTP/1.1\r\n" + b"".join(b"X%d: a\r\n" % i for i in range(500)) + b"\r\n", 431),
        (b"GET /orders/" + b"a" * 100_000 + b" HTTP/1.1\r\n\r\n", 414),
        (b"GET /orders/1 HTTP/1.1\r\nno header at all\r\n\r\n", 400),
        (b"GET /orders/\xff HTTP/1.1\r\n\r\n", 400),
        (b"GET /orders/%ff HTTP/1.1\r\n\r\n", 400),
        (b"GET /orders/1 HTTP/9.9\r\n\r\n", 400),
        (b"GET /orders/1 nonsense\r\n\r\n", 400),
        (b"\x16\x03\x01\x02\x00\x01\r\n\r\n", 400),
        (b"FOO /orders HTTP/1.1\r\nConnection: close\r\n\r\n", 404),
        (b"HEAD /orders HTTP/1.1\r\nConnection: close\r\n\r\n", 404),
    ],
)
def test_a_malformed_request_is_the_callers_fault_and_shows_no_traceback(
    gateway: Gateway, capfd: pytest.CaptureFixture[str], request_bytes: bytes, status: int
) -> None:
    answer = exchange(gateway, request_bytes)
    assert answer.split(b"\r\n")[0].split(b" ")[1] == str(status).encode() or answer.startswith(b'{"message"'), answer
    assert b"Traceback" not in answer
    assert "Traceback" not in capfd.readouterr().err


def test_a_body_over_ten_megabytes_is_refused_though_it_is_sent_whole(gateway: Gateway, echo: Echo) -> None:
    connection = HTTPConnection(*address(gateway), timeout=5)
    connection.request("POST", "/orders", b"x" * (MAX_BODY_BYTES + 1))
    assert connection.getresponse().status == 413
    connection.close()
    assert echo.events == []


def test_chunked_bodies_repeated_headers_and_a_kept_connection_work(gateway: Gateway, echo: Echo) -> None:
    connection = HTTPConnection(*address(gateway), timeout=5)
    connection.request("POST", "/orders", iter([b"ab", b"c"]), headers={"X-Name": "é".encode()}, encode_chunked=True)
    connection.getresponse().read()
    assert (echo.event["body"], echo.event["headers"]["x-name"]) == ("abc", "é")
    connection.request("POST", "/orders", b"x" * MAX_BODY_BYTES)
    assert connection.getresponse().read() == b"ok"
    assert len(echo.event["body"]) == MAX_BODY_BYTES
    connection.close()


def test_sixty_four_requests_are_served_at_once(issuer: Issuer) -> None:
    together = threading.Barrier(64, timeout=10)

    def handler(_: str, __: Any, ___: float) -> Any:
        together.wait()
        return {"statusCode": 200}

    gateway = Gateway()
    gateway.start(HttpApi(ROUTES, issuer, handler))

    def ask(number: int) -> int:
        connection = HTTPConnection(*address(gateway), timeout=15)
        connection.request("GET", f"/orders/{number}")
        status = connection.getresponse().status
        connection.close()
        return status

    with ThreadPoolExecutor(64) as pool:
        assert list(pool.map(ask, range(64))) == [200] * 64
    gateway.stop()


def test_a_taken_port_is_one_clear_line() -> None:
    gateway = Gateway()
    with pytest.raises(DevstackError, match="cannot listen on"):
        Gateway(port=address(gateway)[1])
    gateway.stop()


# The functions behind it


def runtime(handler: Any, timeout_seconds: float = 5) -> Runtime:
    function = Function("F", "shop-F", "f.handler", timeout_seconds, 256, {}, "arn:aws:lambda:r:1:function:shop-F")
    return Runtime({"F": function}, {"F": handler})


def test_a_handler_gets_a_context_with_the_templates_timeout_and_memory() -> None:
    def handler(event: Any, context: Any) -> Any:
        assert isinstance(context.aws_request_id, str)
        assert 4000 < context.get_remaining_time_in_millis() <= 5000
        return [event, context.function_name, context.memory_limit_in_mb, context.invoked_function_arn]

    assert runtime(handler).invoke("F", {"a": 1}) == [{"a": 1}, "shop-F", 256, "arn:aws:lambda:r:1:function:shop-F"]


@pytest.mark.parametrize("answer", [{1, 2}, object(), b"bytes"])
def test_an_answer_that_is_not_json_is_a_failed_invocation(answer: Any) -> None:
    with pytest.raises(FunctionError):
        runtime(lambda *_: answer).invoke("F", {})


def test_a_handler_that_raises_shows_its_traceback_on_stderr(capfd: pytest.CaptureFixture[str]) -> None:
    def handler(*_: Any) -> Any:
        raise RuntimeError("no money moved")

    with pytest.raises(FunctionError):
        runtime(handler).invoke("F", {})
    assert "RuntimeError: no money moved" in capfd.readouterr().err


def test_a_handler_out_of_time_fails_and_a_stop_waits_for_it() -> None:
    release = threading.Event()
    slow = runtime(lambda *_: release.wait(5), timeout_seconds=0.05)
    with pytest.raises(FunctionError):
        slow.invoke("F", {})
    assert not slow.drain(0.05)
    release.set()
    assert slow.drain(5)


def test_impatience_is_told_from_a_timeout() -> None:
    release = threading.Event()
    slow = runtime(lambda *_: release.wait(5))
    with pytest.raises(StillRunningError):
        slow.invoke("F", {}, 0.05)
    release.set()
    assert slow.drain(5)
