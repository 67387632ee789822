"""The small worlds, in which every schedule with up to two kills and two faults is told."""

from __future__ import annotations

from collections.abc import Callable
from decimal import Decimal
from typing import Any

from refunds.model import AmbiguousRefunds
from tests.simulation.engine import Fault, Fiber, Invocation
from tests.simulation.explore import Small
from tests.simulation.invariants import hold
from tests.simulation.simulated import SimulatedWorld, refund_id_of

ORDER = "ORDER-1"
LEASE_AND_MORE = 50.0  # seconds: whatever was under way is over by then, and its lease too


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


def a_refund_and_the_reconciler() -> Small:
    world = _world()
    world.refund(ORDER, 60_000, "k")
    return Small(
        world,
        later=[("the schedule runs", SimulatedWorld.reconcile)],
        passes=[LEASE_AND_MORE],
        at_the_end=_repeated((60_000, "k")),
    )


def a_refund_and_its_resolution() -> Small:
    """Unknown already: its operator, who looked it up at Indodana, settles it; its caller and another refund come."""
    world = _world()
    _become_unknown(world, 60_000, "k")
    world.resolve(ORDER, refund_id_of(ORDER, "k"), "SUCCEEDED")
    world.refund(ORDER, 60_000, "k")
    world.refund(ORDER, 60_000, "other")
    return Small(world, at_the_end=_repeated((60_000, "k"), (60_000, "other")))


def two_operators_resolve() -> Small:
    world = _world()
    _become_unknown(world, 60_000, "k")
    world.resolve(ORDER, refund_id_of(ORDER, "k"), "SUCCEEDED")
    world.resolve(ORDER, refund_id_of(ORDER, "k"), "SUCCEEDED")
    return Small(world, later=[("the schedule runs", SimulatedWorld.reconcile)], at_the_end=_repeated((60_000, "k")))


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
    world.reconcile()
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
    """In one batch, so in two threads of one process."""
    world = _world()
    world.send(ORDER, 60_000, "a")
    world.send(ORDER, 60_000, "b")
    world.deliver()
    return Small(world)


def run_to(world: SimulatedWorld, invocation: Invocation, name: str) -> Fiber:
    """Its one fiber, before its next call of this name."""
    while True:
        [fiber] = invocation.pending()
        if fiber.call and fiber.call.name == name:
            return fiber
        world.run(fiber)


def _become_unknown(world: SimulatedWorld, amount: int, key: str) -> None:
    """Done at Indodana, and the answer lost."""
    invocation = world.refund(ORDER, amount, key)
    while invocation.pending():
        [fiber] = invocation.pending()
        assert fiber.call
        lost: Fault | None = None
        if fiber.call.name == "cancel":
            lost = next(fault for fault in fiber.call.faults if fault.name == "done, and the answer lost")
        world.run(fiber, lost)


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
        a_refund_and_the_reconciler,
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
    )
}
