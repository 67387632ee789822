"""A small API of its own for the tests of the local API Gateway."""

from typing import Any

from devstack.template import Authorizer, Route
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
    route("POST /shop/{merchantOrderId}/refunds", "write", authorizer=JWT),
    route("PUT /files/{folder}/{name}", function="Files"),
]


def token(issuer: Issuer, *scopes: str, **claims: Any) -> str:
    return issuer.token(scopes, audience="gateway", merchant="m1", claims=claims, clock=lambda: NOW)


class Echo:
    """Stands in for the functions: keeps the events, returns what it is told."""

    def __init__(self) -> None:
        self.events: list[tuple[str, dict[str, Any]]] = []
        self.result: Any = {"statusCode": 200, "body": "ok"}

    def __call__(self, function: str, event: dict[str, Any], _: float) -> Any:
        self.events.append((function, event))
        if isinstance(self.result, Exception):
            raise self.result
        return self.result

    @property
    def event(self) -> dict[str, Any]:
        return self.events[-1][1]
