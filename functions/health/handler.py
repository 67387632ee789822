"""GET /v1/health: shows that the API and Lambda respond. It needs no token, so it calls and returns nothing."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from aws_lambda_powertools.utilities.typing import LambdaContext


def get_health() -> dict[str, Any]:
    return {"statusCode": 204, "headers": {"cache-control": "no-store"}}


ROUTES = {"GET /v1/health": get_health}


def lambda_handler(event: Mapping[str, Any], _context: LambdaContext) -> dict[str, Any]:
    return ROUTES[event["routeKey"]]()
