"""API Gateway's patience, through the handlers: what the time since it took a request leaves for a refund."""

from __future__ import annotations

import time
from typing import Any

import pytest

from devstack.runtime import Runtime
from devstack.template import Function
from refund_api.handler import lambda_handler
from tests.world import CREATE, MERCHANT, World

FUNCTION = Function("F", "shop-F", "refund_api.handler", 29, 512, {}, "arn:aws:lambda:r:1:function:shop-F")


def taken(seconds_ago: float) -> dict[str, Any]:
    """The request context of a request that API Gateway took so long ago."""
    claims = {"sub": "agent-7", "merchant_id": MERCHANT, "scope": "refunds:write"}
    now = int((time.time() - seconds_ago) * 1000)
    return {"requestContext": {"requestId": "request-1", "timeEpoch": now, "authorizer": {"jwt": {"claims": claims}}}}


@pytest.mark.parametrize(("seconds_ago", "status"), [(0, 201), (6, 201), (12, 202), (28, 202), (31, 201)])
def test_a_refund_is_sent_only_while_its_caller_waits(world: World, seconds_ago: float, status: int) -> None:
    """The last one is no cold start: nobody waits for so long, so one of the clocks must be wrong."""
    order = world.order()
    world.refund(order, 1000)

    answer = world.refund(order, 1000, **taken(seconds_ago))

    assert answer.status == status
    assert answer.body["status"] == ("SUCCEEDED" if status == 201 else "QUEUED")
    assert len(world.requests(order)) == (2 if status == 201 else 1)


def test_a_refund_that_was_too_late_is_made_by_the_worker(world: World) -> None:
    order = world.order()
    late = world.refund(order, 1000, **taken(12))
    assert late.body["status"] == "QUEUED"

    world.clock.pass_seconds(60)
    world.recover()
    world.work_queue()

    assert world.get(order, late.body["refundId"]).body["status"] == "SUCCEEDED"


def test_an_invocation_with_all_its_time_is_late_for_api_gateway(world: World) -> None:
    """By the runtime's own count 29 s are left."""
    order = world.order()
    world.refund(order, 1000)
    runtime = Runtime({"F": FUNCTION}, {"F": lambda_handler})

    def invoke(seconds_ago: float) -> int:
        event = {
            "routeKey": CREATE,
            "headers": {"idempotency-key": f"key-{seconds_ago}"},
            "pathParameters": {"merchantOrderId": order},
            "body": '{"amount": 1000, "reason": "OTHERS", "requestedBy": "agent"}',
            "isBase64Encoded": False,
        }
        status: int = runtime.invoke("F", event | taken(seconds_ago))["statusCode"]
        return status

    assert [invoke(seconds_ago) for seconds_ago in (0, 11.5)] == [201, 202]
