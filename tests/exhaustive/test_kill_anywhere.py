"""The process dies at every call that it makes, just before it and just after it took effect; then life goes on.

Each story is first told without an accident, to count its calls to AWS and to Indodana. Then it is told once for each
call and each side of it, the process dying there. Afterwards everything that would happen in the field happens:
messages are delivered again, callers repeat their requests, leases run out, the schedule runs. In the end the ledger,
the audit log and Indodana's books must agree.
"""

from __future__ import annotations

import itertools
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from decimal import Decimal
from typing import Any

import pytest

from gateway.core.model import Refund
from gateway.core.transitions import LEGAL_TRANSITIONS, RefundStatus
from tests.world import Killed, World

AMOUNT = Decimal(60_000)
Story = Callable[[World, str], None]


def refund_by_api(world: World, order: str) -> None:
    world.refund(order, 60_000, key="k")


def refund_by_api_later(world: World, order: str) -> None:
    world.refund(order, 60_000, key="k", later=True)
    world.work(world.receive(visibility=0))


def refund_by_queue(world: World, order: str) -> None:
    world.send(order, "k", amount=60_000, reason="ITEMS_RETURNED", requestedBy="agent")
    world.work(world.receive(visibility=0))


def refund_of_all_that_remains(world: World, order: str) -> None:
    world.refund(order, 40_000, key="first")
    world.refund(order, None, key="k")


def refund_during_rate_limit(world: World, order: str) -> None:
    world.simulator.fault("rate_limited", path="order_cancellation", merchant_order_id=order, times=1, retry_after=60)
    world.refund(order, 60_000, key="k")
    refund_by_queue(world, order)  # its own message is due in a minute; this one comes at once


def refund_refused_by_indodana(world: World, order: str) -> None:
    world.simulator.fault("refused", path="order_cancellation", merchant_order_id=order, status=422)
    world.refund(order, 60_000, key="k")


def unknown_refund_resolved(world: World, order: str) -> None:
    world.simulator.fault("reset_after", path="order_cancellation", merchant_order_id=order, times=1)
    refund_id = world.refund(order, 60_000, key="k").body["refundId"]
    world.resolve(order, refund_id, "SUCCEEDED")


def lost_refund_found_by_the_schedule(world: World, _: str) -> None:
    world.clock.pass_seconds(60)
    world.recover()


def lose_a_refund(world: World, order: str) -> None:
    world.die_during("cancel")
    with pytest.raises(Killed):
        world.refund(order, 60_000, key="k")
    world.reassemble()


# What has happened, safely, before the story begins.
BEFORE = {lost_refund_found_by_the_schedule: lose_a_refund}


STORIES: list[Story] = [
    refund_by_api,
    refund_by_api_later,
    refund_by_queue,
    refund_of_all_that_remains,
    refund_during_rate_limit,
    refund_refused_by_indodana,
    unknown_refund_resolved,
    lost_refund_found_by_the_schedule,
]


class Steps:
    """Every call that leaves the process, numbered; the process can be made to die at one of them."""

    def __init__(self, die_at: int | None = None, *, after: bool = False) -> None:
        self.taken = 0
        self.names: list[str] = []
        self._die_at = die_at
        self._after = after

    def before(self, name: str) -> int:
        """Returns the call's number."""
        self.taken += 1
        self.names.append(name)
        if self.taken == self._die_at and not self._after:
            raise Killed(f"before call {self.taken}, {name}")
        return self.taken

    def after(self, number: int) -> None:
        if number == self._die_at and self._after:
            raise Killed(f"after call {number}, {self.names[number - 1]}")


@contextmanager
def counted(world: World, steps: Steps) -> Iterator[None]:
    """The gateway's own clients; those of the test and of the recovery are not counted."""
    gateway = world.gateway

    def before(model: Any, **_: Any) -> None:
        steps.before(model.name)

    def after(**_: Any) -> None:
        steps.after(steps.taken)

    aws = world.gateway_clients
    for client in (aws.dynamodb, aws.sqs, aws.secretsmanager):
        client.meta.events.register("before-call", before)
        client.meta.events.register("after-call", after)
    for name in ("check_status", "cancel"):
        setattr(gateway.indodana, name, _wrapped(getattr(gateway.indodana, name), name, steps))
    try:
        yield
    finally:
        world.reassemble()


def _wrapped(call: Callable[..., Any], name: str, steps: Steps) -> Callable[..., Any]:
    def wrapped(*arguments: Any, **options: Any) -> Any:
        number = steps.before(name)
        try:
            return call(*arguments, **options)
        finally:
            steps.after(number)  # it may have read a secret in between

    return wrapped


def life_goes_on(world: World, order: str, undelivered: list[Any]) -> None:
    world.work(undelivered)
    for _ in range(2):
        world.clock.pass_seconds(120)
        world.recover()
        world.work(world.receive(visibility=0))
    world.refund(order, 60_000, key="k")  # the caller, who never had an answer, repeats its request
    world.clock.pass_seconds(120)
    world.recover()
    world.work(world.receive(visibility=0))


def check(world: World, order: str) -> None:
    key = world.order_key(order)
    found = world.gateway.ledger.refunds_of(key, 100, None)
    moved = Counter(movement["refundId"] for movement in world.movements(order))
    records = world.audit(order)
    for refund in found.refunds:
        assert refund.status in (RefundStatus.SUCCEEDED, RefundStatus.FAILED, RefundStatus.UNKNOWN), refund
        assert moved[refund.refund_id] <= 1, "money moved twice"
        if refund.status is RefundStatus.SUCCEEDED:
            assert moved[refund.refund_id] == 1, "said to be done, and is not"
        if refund.status is RefundStatus.FAILED:
            assert moved[refund.refund_id] == 0, "said to have failed, and is done"
        check_history(refund, [record for record in records if record.get("refundId") == refund.refund_id])
    assert set(moved) <= {refund.refund_id for refund in found.refunds}, "money moved that no record explains"
    assert world.moved(order) <= 100_000
    if found.order:
        world.sums(order)


def check_history(refund: Refund, records: list[dict[str, Any]]) -> None:
    """One record a transition, in order, each of them legal, ending where the ledger says."""
    steps = [record for record in records if record["action"] not in ("REFUND_REFUSED", "LATE_EVIDENCE")]
    assert len(steps) == refund.version
    states = [None, *(RefundStatus(record["after"]) for record in steps)]
    assert [record.get("before") for record in steps] == states[:-1]
    assert all(after in LEGAL_TRANSITIONS[before] for before, after in itertools.pairwise(states) if after)
    assert states[-1] is refund.status


def prepared(world: World, story: Story) -> str:
    order = world.order(100_000)
    if story in BEFORE:
        BEFORE[story](world, order)
    world.reassemble()  # a process that has read no secret yet, each time
    return order


@pytest.mark.parametrize("story", STORIES, ids=lambda story: story.__name__)
def test_a_process_that_dies_at_any_call_leaves_the_truth(world: World, story: Story) -> None:
    rehearsal = Steps()
    order = prepared(world, story)
    with counted(world, rehearsal):
        story(world, order)
    life_goes_on(world, order, [])
    check(world, order)
    assert rehearsal.taken >= 2, rehearsal.names

    for number in range(1, rehearsal.taken + 1):
        for after in (False, True):
            order = prepared(world, story)
            steps = Steps(number, after=after)
            with counted(world, steps), pytest.raises(Killed):
                story(world, order)
            try:
                life_goes_on(world, order, world.receive(visibility=0))
                check(world, order)
            except AssertionError as error:
                side = "after" if after else "before"
                error.add_note(f"{story.__name__}, killed {side} call {number} of {rehearsal.names}")
                raise
