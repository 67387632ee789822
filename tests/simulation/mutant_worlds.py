"""What the mutants need beyond the small worlds: stories that those leave out, for their length or their premises."""

from __future__ import annotations

import math
from collections.abc import Callable
from decimal import Decimal
from typing import Any

from gateway.core.model import AmbiguousRefunds
from tests.simulation import worlds
from tests.simulation.engine import Fault, Invocation
from tests.simulation.explore import Small
from tests.simulation.invariants import hold
from tests.simulation.simulated import SimulatedWorld, refund_id_of
from tests.simulation.worlds import LEASE_AND_MORE, ORDER, run_to

OTHER_ORDER = "ORDER-2"
AMOUNT = Decimal(100_000)


def widened(build: Callable[[], Small], kills: int, faults: int, *, twins: bool = True) -> Callable[[], Small]:
    """The world with another budget, and with every fault: a mutant may take twins apart."""

    def built() -> Small:
        small = build()
        small.kills, small.faults, small.twins = kills, faults, twins
        return small

    return built


# ---- worlds


def _world(**options: Any) -> SimulatedWorld:
    world = SimulatedWorld(**options)
    world.indodana.add_order("m1", ORDER, AMOUNT)
    return world


def two_merchants_with_one_order_id() -> Small:
    world = _world()
    world.indodana.add_order("m2", ORDER, AMOUNT)
    world.refund(ORDER, 30_000, "k")
    world.refund(ORDER, 30_000, "k", merchant="m2")
    return Small(world)


def two_orders_with_one_key() -> Small:
    world = _world()
    world.indodana.add_order("m1", OTHER_ORDER, AMOUNT)
    world.refund(ORDER, 30_000, "k")
    world.refund(OTHER_ORDER, 30_000, "k")
    return Small(world)


def a_small_refund_repeated() -> Small:
    """So small that its order has enough for another: only the key keeps the second from being made."""
    world = _world()
    world.refund(ORDER, 30_000, "k")

    def repeated(world: SimulatedWorld) -> None:
        world.finish(world.refund(ORDER, 30_000, "k"))
        world.aftermath()
        hold("one key makes one refund", len(world.watch.refunds) == 1, len(world.watch.refunds))

    return Small(world, at_the_end=repeated)


def a_refund_worked_since_it_was_read() -> Small:
    """One worker has read that it is QUEUED; another has tried to send it since, and it is QUEUED again."""
    world = _world()
    world.finish(world.refund(ORDER, 60_000, "k", later=True))
    world.send(ORDER, 60_000, "k")
    slow, quick = world.deliver(1), world.deliver(1)
    assert slow
    assert quick
    run_to(world, slow, "check_status")
    cancel = run_to(world, quick, "cancel")
    assert cancel.call
    world.run(cancel, next(fault for fault in cancel.call.faults if fault.name == "no connection"))
    world.finish(quick)
    world.pass_seconds(1)
    return Small(world)


def an_answer_that_comes_late() -> Small:
    """With no time left to try again to write down what it said."""
    world = _world()
    world.refund(ORDER, 30_000, "k")

    def repeated(world: SimulatedWorld) -> None:
        world.finish(world.refund(ORDER, 30_000, "k"))
        world.aftermath()

    return Small(world, passes=[20.0], at_the_end=repeated)


def a_lost_process_where_unknown_is_submitted_again() -> Small:
    world = _world(ambiguous_refunds=AmbiguousRefunds.RESUBMIT)
    world.refund(ORDER, 60_000, "k")
    return Small(world)


def a_lost_process_whose_repetition_may_be_refused() -> Small:
    """Indodana has done it; the process died, and the refund is sent again."""
    world = _world(ambiguous_refunds=AmbiguousRefunds.RESUBMIT)
    world.kill_after_effect(run_to(world, world.refund(ORDER, 60_000, "k"), "cancel"))
    for _ in range(2):
        world.pass_seconds(1000)
        world.finish(world.recover())
    world.deliver()
    return Small(world)


def a_lease_that_ran_out_under_its_process() -> Small:
    """Indodana has answered; then the process froze, the schedule found its lease over, and an operator looks."""
    world = _world()
    invocation = _immortal(world)
    world.run(run_to(world, invocation, "cancel"))
    world.pass_seconds(LEASE_AND_MORE)
    world.finish(world.recover())
    world.settle(world.seen(ORDER, "k"))
    return Small(world)


def a_process_that_froze_before_it_sent() -> Small:
    """Until long after its lease; meanwhile an operator finds that nothing has moved."""
    world = _world()
    invocation = _immortal(world)
    fiber = run_to(world, invocation, "transact_write_items")
    reserve = fiber.call
    assert reserve

    def done_and_frozen() -> Any:
        answer = reserve.effect()
        world.pass_seconds(LEASE_AND_MORE)
        return answer

    world.run(fiber, Fault("done, and the process freezes", done_and_frozen))

    def operator(world: SimulatedWorld) -> None:
        world.settle(world.seen(ORDER, "k"))

    later = [("the schedule runs", SimulatedWorld.recover), ("an operator settles it", operator)]
    return Small(world, later=later)  # type: ignore[arg-type]


def an_operator_who_looked_too_early() -> Small:
    """Before the money moved; then its process died, and the operator says what it saw."""
    world = _world()
    cancel = run_to(world, world.refund(ORDER, 60_000, "k"), "cancel")
    look = world.seen(ORDER, "k")
    world.kill_after_effect(cancel)
    world.pass_seconds(LEASE_AND_MORE)
    world.settle(look)
    return Small(world)


def a_refund_under_way_and_an_operator() -> Small:
    """Who would withdraw it."""
    world = _world()
    run_to(world, world.refund(ORDER, 60_000, "k"), "cancel")
    world.withdraw(world.seen(ORDER, "k"))
    return Small(world)


def _immortal(world: SimulatedWorld) -> Invocation:
    """Lambda does not kill it in time, and so its refund may be unknown."""
    invocation = world.refund(ORDER, 60_000, "k")
    invocation.deadline = math.inf
    world.watch.excused.add(refund_id_of(ORDER, "k"))
    return invocation


OWN_WORLDS: dict[str, Callable[[], Small]] = {
    build.__name__: build
    for build in (
        two_merchants_with_one_order_id,
        two_orders_with_one_key,
        a_small_refund_repeated,
        a_refund_worked_since_it_was_read,
        an_answer_that_comes_late,
        a_lost_process_where_unknown_is_submitted_again,
        a_lost_process_whose_repetition_may_be_refused,
        a_lease_that_ran_out_under_its_process,
        a_process_that_froze_before_it_sent,
        an_operator_who_looked_too_early,
        a_refund_under_way_and_an_operator,
    )
}
WORLDS = worlds.WORLDS | OWN_WORLDS
