"""However slow AWS and Indodana are, a request is answered while API Gateway waits, also after a cold start.

Each call may be quick, or as slow as its timeouts let it be, and then succeed or fail. Every combination is run.
"""

from __future__ import annotations

from collections.abc import Callable
from contextlib import suppress

import pytest

from gateway.core.errors import LedgerUnavailable
from gateway.core.ledger import Ledger
from gateway.http.requests import API_GATEWAY_SECONDS
from indodana import IndodanaError, TransactionStatus
from tests.unit.protocol_world import SUBMITTING, SUCCEEDED, died, paid, request
from tests.unit.slow_world import Choices, SlowWorld

# Lambda ends an initialization that takes longer than 10 s.
COLD_STARTS = (0.0, 5.0, 10.0)


def first_refund(world: SlowWorld) -> None:
    world.slow_down()
    world.refund_now()


def refund_of_a_known_order(world: SlowWorld) -> None:
    world.refund(request(1_000, "first"))
    world.slow_down()
    world.refund_now()


def refund_for_later(world: SlowWorld) -> None:
    world.slow_down()
    world.refund_later()


def refund_of_more_than_is_left(world: SlowWorld) -> None:
    world.refund(request(90_000, "first"))
    world.slow_down()
    world.refund_now()


def refund_that_takes_what_another_one_needed(world: SlowWorld) -> None:
    """This process remembers the order's sums from before."""
    world.refund(request(1_000, "first"))
    remembered = dict(world.protocol.known_orders)
    world.refund(request(90_000, "second"))
    world.protocol.known_orders = remembered
    world.slow_down()
    world.refund_now()


def refund_whose_process_died(world: SlowWorld) -> None:
    world.protocol.expire_lease = lambda refund, _: refund  # type: ignore[method-assign, assignment]
    died(world, request())
    world.slow_down()
    world.refund_now()


def status_check(world: SlowWorld) -> None:
    world.slow_down()
    world.check_status()


REQUESTS = (
    first_refund,
    refund_of_a_known_order,
    refund_for_later,
    refund_of_more_than_is_left,
    refund_that_takes_what_another_one_needed,
    refund_whose_process_died,
    status_check,
)


@pytest.mark.parametrize("cold_seconds", COLD_STARTS)
@pytest.mark.parametrize("ask", REQUESTS, ids=lambda ask: ask.__name__)
def test_an_answer_is_there_before_api_gateway_gives_up(ask: Callable[[SlowWorld], None], cold_seconds: float) -> None:
    combinations = 0
    for choices in Choices().runs():
        world = SlowWorld(choices, cold_seconds)
        with suppress(LedgerUnavailable, IndodanaError):  # a 5xx is an answer, too
            ask(world)
        assert world.elapsed < API_GATEWAY_SECONDS, choices
        # What is reserved is settled, unless AWS failed at every try.
        refund = Ledger(world.dynamo, "ledger", "audit").read(request()).refund  # type: ignore[arg-type]
        is_settled = refund is None or refund.status is not SUBMITTING
        assert is_settled or world.aws_failed or ask is refund_whose_process_died, choices
        combinations += 1
    assert combinations > 5


@pytest.mark.parametrize("cold_seconds", [0.0, 6.0])
def test_a_cold_start_and_a_slow_status_leave_time_for_a_refund(cold_seconds: float) -> None:
    world = SlowWorld(Choices(), cold_seconds)
    world.slow_down()

    def slow(*_: str) -> TransactionStatus:
        world.passes(3)
        return paid()

    world.indodana.check_status = slow  # type: ignore[method-assign, assignment]
    world.refund_now()

    assert world.read(request()).refund.status is SUCCEEDED
