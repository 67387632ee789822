"""The small worlds, in which every schedule with up to two kills and two faults is told."""

from __future__ import annotations

import itertools
from collections.abc import Callable
from decimal import Decimal
from typing import Any

from gateway.core.model import AmbiguousRefunds
from tests.simulation.engine import Fault, Fiber, Invocation
from tests.simulation.explore import Later, Next, Small
from tests.simulation.invariants import hold
from tests.simulation.simulated import LIST, READ, Look, SimulatedWorld, refund_id_of

ORDER = "ORDER-1"
LEASE_AND_MORE = 50.0  # seconds: whatever was under way is over by then, and its lease too
HOLD_AND_MORE = 650.0  # … and what was on its way to Indodana has arrived or is gone


def _world(**options: object) -> SimulatedWorld:
    world = SimulatedWorld(**options)  # type: ignore[arg-type]
    world.indodana.add_order("m1", ORDER, Decimal(100_000))
    return world


def _repeated(*requests: tuple[int | None, str]) -> Callable[[SimulatedWorld], None]:
    """Every caller repeats its request once all is quiet; that must change nothing."""

    def repeat(world: SimulatedWorld) -> None:
        for amount, key in requests:
            world.finish(world.refund(ORDER, amount, key))
        world.aftermath()

    return repeat


def one_refund_by_api() -> Small:
    world = _world()
    world.refund(ORDER, 60_000, "k")
    return Small(world, passes=[LEASE_AND_MORE], at_the_end=_repeated((60_000, "k")))


def one_refund_with_a_cold_start() -> Small:
    world = _world(warm=False)
    world.refund(ORDER, None, "k")
    return Small(world, at_the_end=_repeated((None, "k")))


def one_refund_later() -> Small:
    world = _world()
    world.refund(ORDER, 60_000, "k", later=True)
    return Small(world, later=[("the queue delivers", SimulatedWorld.deliver)], at_the_end=_repeated((60_000, "k")))


def one_message_delivered_twice() -> Small:
    world = _world()
    world.send(ORDER, 60_000, "k")
    world.send(ORDER, 60_000, "k")
    world.deliver(1)
    world.deliver(1)
    return Small(world, at_the_end=_repeated((60_000, "k")))


def two_refunds_by_api_with_two_keys() -> Small:
    world = _world()
    world.refund(ORDER, 60_000, "a")
    world.refund(ORDER, 60_000, "b")
    return Small(world, at_the_end=_repeated((60_000, "a"), (60_000, "b")))


def two_refunds_by_api_with_one_key() -> Small:
    world = _world()
    world.refund(ORDER, 60_000, "k")
    world.refund(ORDER, 60_000, "k")
    return Small(world, at_the_end=_repeated((60_000, "k")))


def a_refund_by_api_and_one_by_queue() -> Small:
    world = _world()
    world.refund(ORDER, 60_000, "a")
    world.send(ORDER, 60_000, "b")
    world.deliver()
    return Small(world, at_the_end=_repeated((60_000, "a"), (60_000, "b")))


def one_refund_by_api_and_by_queue() -> Small:
    world = _world()
    world.refund(ORDER, 60_000, "k")
    world.send(ORDER, 60_000, "k")
    world.deliver()
    return Small(world, at_the_end=_repeated((60_000, "k")))


def all_that_remains_twice() -> Small:
    world = _world()
    world.finish(world.refund(ORDER, 10_000, "first"))
    world.refund(ORDER, None, "a")
    world.refund(ORDER, None, "b")
    return Small(world, at_the_end=_repeated((None, "a"), (None, "b")))


def a_refund_and_recovery() -> Small:
    world = _world()
    world.refund(ORDER, 60_000, "k")
    return Small(
        world,
        later=[("the schedule runs", SimulatedWorld.recover)],
        passes=[LEASE_AND_MORE],
        at_the_end=_repeated((60_000, "k")),
    )


def a_refund_and_its_resolution() -> Small:
    """Unknown already: its operator, who looked it up at Indodana, settles it; its caller and another refund come."""
    world = _world()
    _become_unknown(world, 60_000, "k")
    world.settle(world.seen(ORDER, "k"))
    world.refund(ORDER, 60_000, "k")
    world.refund(ORDER, 60_000, "other")
    return Small(world, at_the_end=_repeated((60_000, "k"), (60_000, "other")))


def two_operators_resolve() -> Small:
    world = _world()
    _become_unknown(world, 60_000, "k")
    world.settle(world.seen(ORDER, "k"), "operator-1")
    world.settle(world.seen(ORDER, "k"), "operator-2")
    return Small(world, later=[("the schedule runs", SimulatedWorld.recover)], at_the_end=_repeated((60_000, "k")))


def a_rotation_in_the_middle() -> Small:
    """Indodana takes the new key at once; Secrets Manager has it a moment later, or a while."""
    world = _world()
    world.finish(world.refund(ORDER, 1_000, "before"))  # the sandbox knows the old key
    world.refund(ORDER, 60_000, "k")

    def indodana(world: SimulatedWorld) -> None:
        world.indodana.credentials["m1"] = ("ApiKey-3", "TopSecret-3")

    def secret(world: SimulatedWorld) -> None:
        world.secrets.rotate("qris-gateway/m1", '{"apiKey": "ApiKey-3", "secretKey": "TopSecret-3"}')

    def both(world: SimulatedWorld) -> None:
        if world.indodana.credentials["m1"][0] != "ApiKey-3":
            indodana(world)
        secret(world)
        world.aftermath()
        _repeated((60_000, "k"))(world)

    return Small(world, later=[("the key is changed", indodana), ("the new key is stored", secret)], at_the_end=both)


def an_unknown_refund_submitted_again() -> Small:
    world = _world(ambiguous_refunds=AmbiguousRefunds.RESUBMIT)
    _become_unknown(world, 60_000, "k")
    world.pass_seconds(1000)
    world.recover()
    return Small(
        world,
        later=[("the queue delivers", SimulatedWorld.deliver), ("the queue delivers again", SimulatedWorld.deliver)],
        at_the_end=_repeated((60_000, "k")),
    )


def one_key_for_two_payloads() -> Small:
    world = _world()

    def asked(amount: int) -> None:
        def answered(status: int, body: Any) -> None:
            told = status not in (201, 202) or body["amount"] == amount
            hold("a caller is told of what it asked for", told, f"{body.get('amount')} and not {amount}")

        world.refund(ORDER, amount, "k", on_answer=answered)

    asked(60_000)
    asked(10_000)
    return Small(world)


def more_than_was_paid() -> Small:
    world = _world()
    world.refund(ORDER, 150_000, "k")
    return Small(world)


def an_order_that_is_not_paid() -> Small:
    world = _world()
    world.indodana.add_order("m1", ORDER, Decimal(100_000), "INITIATED")
    world.refund(ORDER, 60_000, "k")

    def nothing_moved(world: SimulatedWorld) -> None:
        hold("only a paid order is refunded", not world.indodana.movements, world.indodana.movements)

    return Small(world, at_the_end=nothing_moved)


def a_refund_and_all_that_remains() -> Small:
    """The one may be refused, and give back while the other takes all that remains."""
    world = _world()
    run_to(world, world.refund(ORDER, 60_000, "a"), "cancel")
    world.refund(ORDER, None, "b")
    return Small(world)


def a_caller_who_never_comes_back() -> Small:
    world = _world()
    world.refund(ORDER, 60_000, "k")
    return Small(world)


def one_message() -> Small:
    """Nobody repeats it."""
    world = _world()
    world.send(ORDER, 60_000, "k")
    world.deliver()
    return Small(world)


def one_key_for_two_messages() -> Small:
    world = _world()
    world.send(ORDER, 60_000, "k")
    world.send(ORDER, 10_000, "k")
    world.deliver()
    return Small(world)


def one_key_for_a_request_and_a_message() -> Small:
    world = _world()
    world.refund(ORDER, 60_000, "k")
    world.send(ORDER, 10_000, "k")
    world.deliver()
    return Small(world)


def two_messages_of_one_order() -> Small:
    """In one batch, so in two threads of a process that has had an answer from Indodana a moment ago."""
    world = _world()
    world.finish(world.refund(ORDER, 10_000, "before"))
    world.send(ORDER, 60_000, "a")
    world.send(ORDER, 60_000, "b")
    world.deliver()
    return Small(world)


def a_withdrawal_and_the_worker() -> Small:
    """The operator has seen it QUEUED; the worker takes it at any moment."""
    world = _world()
    world.finish(world.refund(ORDER, 60_000, "k", later=True))
    world.withdraw(world.seen(ORDER, "k"))
    world.deliver()
    return Small(world, kills=1, faults=1, at_the_end=_repeated((60_000, "k")))


def a_withdrawal_and_the_schedule() -> Small:
    """The operator has seen it QUEUED; since then its worker died with it, and the schedule finds it."""
    world = _world()
    world.finish(world.refund(ORDER, 60_000, "k", later=True))
    look = world.seen(ORDER, "k")
    world.kill_after_effect(run_to(world, world.deliver(), "cancel"))
    world.withdraw(look)
    world.recover()
    return Small(world, passes=[LEASE_AND_MORE], kills=1, faults=1, at_the_end=_repeated((60_000, "k")))


def a_decision_on_a_refund_that_is_sent_again() -> Small:
    """It was not done, as the operator found; since then the stack submits it again."""
    world = _world(ambiguous_refunds=AmbiguousRefunds.RESUBMIT)
    _become_unknown(world, 60_000, "k", "lost before it was done")
    world.pass_seconds(1000)
    world.finish(world.recover())
    world.settle(world.seen(ORDER, "k"))
    world.deliver()
    return Small(world, kills=1, faults=1, at_the_end=_repeated((60_000, "k")))


def two_operators_who_looked_at_two_times() -> Small:
    """The one before what was on its way arrived, perhaps, and the other after it."""
    world = _world(arrives_late=True)
    _become_unknown(world, 60_000, "k", "given up, and done 590 s later")
    later = [_operator("the one"), _operator("the other")]
    return Small(world, later=later, passes=[LEASE_AND_MORE, HOLD_AND_MORE], kills=1, faults=1)


def a_decision_sent_twice() -> Small:
    """The operator does not know whether it came through."""
    world = _world()
    _become_unknown(world, 60_000, "k")
    look = world.seen(ORDER, "k")
    world.settle(look)
    world.settle(look)

    def again(world: SimulatedWorld) -> None:
        world.finish(
            world.settle(look, on_answer=lambda status, _: hold("a decision can be repeated", status == 200, status))
        )

    return Small(world, at_the_end=again)


def a_withdrawal_sent_twice() -> Small:
    world = _world()
    world.finish(world.refund(ORDER, 60_000, "k", later=True))
    look = world.seen(ORDER, "k")
    world.withdraw(look)

    def again(world: SimulatedWorld) -> None:
        world.finish(world.withdraw(look))

    return Small(world, later=[DELIVERED, ("the operator repeats it", again)], kills=1, faults=1)


def a_refund_done_late() -> Small:
    """Indodana may carry it out after everybody gave up on it: until shortly before the hold ends."""
    world = _world(arrives_late=True)
    run_to(world, world.refund(ORDER, 60_000, "k"), "cancel")
    later = [_operator("the operator")]
    return Small(world, later=later, passes=[LEASE_AND_MORE, HOLD_AND_MORE], at_the_end=_repeated((60_000, "k")))


def a_process_that_freezes() -> Small:
    """At any moment, for longer than its lease, and goes on; meanwhile its refund is found, and an operator looks."""
    world = _world()
    run_to(world, world.refund(ORDER, 60_000, "k"), "cancel")
    later = [SCHEDULE_HAS_RUN, _operator("the operator")]
    return Small(world, later=later, passes=[HOLD_AND_MORE], kills=1, faults=0, freezes=1)


def a_process_that_freezes_as_it_sends() -> Small:
    """Between its last look at the clock and its writing, or before it reads the answer."""
    world = _world(freezes=True)
    run_to(world, world.refund(ORDER, 60_000, "k"), "cancel")
    return Small(world, later=[SCHEDULE_HAS_RUN], kills=1, faults=2, at_the_end=_repeated((60_000, "k")))


def clocks_that_differ() -> Small:
    """The worker's is 2 s slow, and the schedule's 2 s fast; Lambda kills the worker 5 s before its lease ends."""
    world = _world(skew_seconds=itertools.cycle((-2.0, 2.0)).__next__)
    world.send(ORDER, 60_000, "k")
    run_to(world, world.deliver(), "cancel")
    world.recover()
    return Small(world, passes=[39.0, 2.0], kills=1, faults=1, at_the_end=_repeated((60_000, "k")))


def an_index_that_lags() -> Small:
    """The schedule finds refunds by it: as they were, or not at all."""
    world = _world(stale_reads=True)
    world.finish(world.refund(ORDER, 60_000, "k", later=True))
    world.pass_seconds(LEASE_AND_MORE)
    world.deliver()
    world.recover()
    return Small(world, kills=1, faults=1, at_the_end=_repeated((60_000, "k")))


def two_messages_of_a_refund_that_waits() -> Small:
    """Indodana takes no more for now; one message is due then, and the other comes at once."""
    world = _world()
    world.send(ORDER, 60_000, "k")
    world.send(ORDER, 60_000, "k")
    first = world.deliver(1)
    cancel = run_to(world, first, "cancel")
    world.run(cancel, fault_of(cancel, "HTTP 429"))
    world.finish(first)
    world.deliver(1)
    later: list[Later] = [("the queue delivers again", SimulatedWorld.deliver)]
    return Small(world, later=later, passes=[4.0], kills=1, faults=1, at_the_end=_repeated((60_000, "k")))


def two_workers_and_a_refund_that_waits() -> Small:
    """Both have a message of it and find it due; what the one is told puts it off."""
    world = _world()
    world.finish(world.refund(ORDER, 60_000, "k", later=True))
    world.send(ORDER, 60_000, "k")
    world.deliver(1)
    world.deliver(1)
    return Small(world, kills=0, faults=1, at_the_end=_repeated((60_000, "k")))


def one_key_twice_and_reads_in_two_parts() -> Small:
    """The one's sums are read after the other has taken the money, and its refund before that."""
    world = _world(torn_reads=True)
    world.refund(ORDER, 60_000, "k")
    world.refund(ORDER, 60_000, "k")
    return Small(world, kills=0, faults=1, at_the_end=_repeated((60_000, "k")))


def who_reads_while_a_refund_is_made() -> Small:
    """One caller reads it, another the order's list. A read that asks for no consistency may be told of the past."""
    world = _world(stale_reads=True)
    world.refund(ORDER, 60_000, "k")

    def one(world: SimulatedWorld) -> None:
        world.api(READ, ORDER, refund_id=refund_id_of(ORDER, "k"))

    later: list[Later] = [
        ("a caller reads it", one),
        ("another lists the order's", lambda world: world.api(LIST, ORDER)),
    ]
    return Small(world, later=later, kills=1, faults=1)


def _schedule_has_run(world: SimulatedWorld) -> None:
    world.finish(world.recover())


SCHEDULE_HAS_RUN = ("the schedule has run", _schedule_has_run)
DELIVERED = ("the queue delivers", SimulatedWorld.deliver)


def _operator(who: str) -> tuple[str, Callable[[SimulatedWorld], object]]:
    """Who looks at some moment, and decides at a later one, by what was to be seen then."""

    def looks(world: SimulatedWorld) -> Next | None:
        looks: list[Look] = []
        world.finish(world.look(ORDER, "k", then=looks.append))
        if not looks:
            return None
        [look] = looks
        return Next(f"{who}, who saw {look}, decides", lambda world: world.decide(look, who))

    return f"{who} looks", looks


def fault_of(fiber: Fiber, name: str) -> Fault:
    assert fiber.call
    return next(fault for fault in fiber.call.faults if fault.name == name)


def run_to(world: SimulatedWorld, invocation: Invocation | None, name: str) -> Fiber:
    """Its one fiber, before its next call of this name."""
    assert invocation
    while True:
        [fiber] = invocation.pending()
        if fiber.call and fiber.call.name == name:
            return fiber
        world.run(fiber)


def _become_unknown(world: SimulatedWorld, amount: int, key: str, how: str = "done, and the answer lost") -> None:
    invocation = world.refund(ORDER, amount, key)
    cancel = run_to(world, invocation, "cancel")
    world.run(cancel, fault_of(cancel, how))
    world.finish(invocation)


WORLDS: dict[str, Callable[[], Small]] = {
    build.__name__: build
    for build in (
        one_refund_by_api,
        one_refund_with_a_cold_start,
        one_refund_later,
        one_message_delivered_twice,
        two_refunds_by_api_with_two_keys,
        two_refunds_by_api_with_one_key,
        a_refund_by_api_and_one_by_queue,
        one_refund_by_api_and_by_queue,
        all_that_remains_twice,
        a_refund_and_recovery,
        a_refund_and_its_resolution,
        two_operators_resolve,
        a_rotation_in_the_middle,
        an_unknown_refund_submitted_again,
        one_key_for_two_payloads,
        more_than_was_paid,
        an_order_that_is_not_paid,
        a_refund_and_all_that_remains,
        a_caller_who_never_comes_back,
        one_message,
        one_key_for_two_messages,
        one_key_for_a_request_and_a_message,
        two_messages_of_one_order,
        a_withdrawal_and_the_worker,
        a_withdrawal_and_the_schedule,
        a_decision_on_a_refund_that_is_sent_again,
        two_operators_who_looked_at_two_times,
        a_decision_sent_twice,
        a_withdrawal_sent_twice,
        a_refund_done_late,
        a_process_that_freezes,
        a_process_that_freezes_as_it_sends,
        clocks_that_differ,
        an_index_that_lags,
        two_messages_of_a_refund_that_waits,
        two_workers_and_a_refund_that_waits,
        one_key_twice_and_reads_in_two_parts,
        who_reads_while_a_refund_is_made,
    )
}
