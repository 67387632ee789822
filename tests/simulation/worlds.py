"""The small worlds, of which every schedule with up to two kills and two faults is executed."""

from __future__ import annotations

import itertools
from collections.abc import Callable
from decimal import Decimal
from typing import Any

from gateway.core.model import AmbiguousRefunds
from tests.simulation.engine import Fault, Fiber, Invocation
from tests.simulation.explore import Later, Next, SmallWorld
from tests.simulation.invariants import hold
from tests.simulation.simulated import (
    LIST,
    QUEUE,
    READ,
    STRANGER,
    TILLS,
    VISIBILITY_SECONDS,
    Look,
    SimulatedWorld,
    refund_id_of,
)

ORDER = "ORDER-1"
LEASE_AND_MORE = 50.0  # seconds: every submission and its lease are over by then
HOLD_AND_MORE = 650.0  # … and every request has arrived at Indodana or is lost


def _world(**options: object) -> SimulatedWorld:
    world = SimulatedWorld(**options)  # type: ignore[arg-type]
    world.indodana.add_order("m1", ORDER, Decimal(100_000))
    return world


def _repeated(*requests: tuple[int | None, str]) -> Callable[[SimulatedWorld], None]:
    """At the end, every caller repeats its request; this must change nothing."""

    def repeat(world: SimulatedWorld) -> None:
        for amount, key in requests:
            world.finish(world.refund(ORDER, amount, key))
        world.aftermath()

    return repeat


def one_refund_by_api() -> SmallWorld:
    world = _world()
    world.refund(ORDER, 60_000, "k")
    return SmallWorld(world, passes=[LEASE_AND_MORE], at_the_end=_repeated((60_000, "k")))


def one_refund_with_a_cold_start() -> SmallWorld:
    world = _world(warm=False)
    world.refund(ORDER, None, "k")
    return SmallWorld(world, at_the_end=_repeated((None, "k")))


def one_refund_later() -> SmallWorld:
    world = _world()
    world.refund(ORDER, 60_000, "k", later=True)
    return SmallWorld(
        world, later=[("the queue delivers", SimulatedWorld.deliver)], at_the_end=_repeated((60_000, "k"))
    )


def one_message_delivered_twice() -> SmallWorld:
    world = _world()
    world.send(ORDER, 60_000, "k")
    world.send(ORDER, 60_000, "k")
    world.deliver(1)
    world.deliver(1)
    return SmallWorld(world, at_the_end=_repeated((60_000, "k")))


def two_refunds_by_api_with_two_keys() -> SmallWorld:
    world = _world()
    world.refund(ORDER, 60_000, "a")
    world.refund(ORDER, 60_000, "b")
    return SmallWorld(world, at_the_end=_repeated((60_000, "a"), (60_000, "b")))


def two_refunds_by_api_with_one_key() -> SmallWorld:
    world = _world()
    world.refund(ORDER, 60_000, "k")
    world.refund(ORDER, 60_000, "k")
    return SmallWorld(world, at_the_end=_repeated((60_000, "k")))


def a_refund_by_api_and_one_by_queue() -> SmallWorld:
    world = _world()
    world.refund(ORDER, 60_000, "a")
    world.send(ORDER, 60_000, "b")
    world.deliver()
    return SmallWorld(world, at_the_end=_repeated((60_000, "a"), (60_000, "b")))


def one_refund_by_api_and_by_queue() -> SmallWorld:
    world = _world()
    world.refund(ORDER, 60_000, "k")
    world.send(ORDER, 60_000, "k")
    world.deliver()
    return SmallWorld(world, at_the_end=_repeated((60_000, "k")))


def all_that_remains_twice() -> SmallWorld:
    world = _world()
    world.finish(world.refund(ORDER, 10_000, "first"))
    world.refund(ORDER, None, "a")
    world.refund(ORDER, None, "b")
    return SmallWorld(world, at_the_end=_repeated((None, "a"), (None, "b")))


def a_refund_and_recovery() -> SmallWorld:
    world = _world()
    world.refund(ORDER, 60_000, "k")
    return SmallWorld(
        world,
        later=[("recovery starts", SimulatedWorld.recover)],
        passes=[LEASE_AND_MORE],
        at_the_end=_repeated((60_000, "k")),
    )


def a_refund_and_its_resolution() -> SmallWorld:
    """The refund is UNKNOWN. An operator settles it; its caller repeats it, and another refund comes."""
    world = _world()
    _become_unknown(world, 60_000, "k")
    world.settle(world.seen(ORDER, "k"))
    world.refund(ORDER, 60_000, "k")
    world.refund(ORDER, 60_000, "other")
    return SmallWorld(world, at_the_end=_repeated((60_000, "k"), (60_000, "other")))


def two_operators_resolve() -> SmallWorld:
    world = _world()
    _become_unknown(world, 60_000, "k")
    world.settle(world.seen(ORDER, "k"), "operator-1")
    world.settle(world.seen(ORDER, "k"), "operator-2")
    return SmallWorld(world, later=[("recovery starts", SimulatedWorld.recover)], at_the_end=_repeated((60_000, "k")))


def a_rotation_in_the_middle() -> SmallWorld:
    """Indodana accepts the new key at once; Secrets Manager has it later."""
    world = _world()
    world.finish(world.refund(ORDER, 1_000, "before"))  # the sandbox has the old key in its cache
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

    return SmallWorld(
        world, later=[("the key is changed", indodana), ("the new key is stored", secret)], at_the_end=both
    )


def an_unknown_refund_submitted_again() -> SmallWorld:
    world = _world(ambiguous_refunds=AmbiguousRefunds.RESUBMIT)
    _become_unknown(world, 60_000, "k")
    world.pass_seconds(1000)
    world.recover()
    return SmallWorld(
        world,
        later=[("the queue delivers", SimulatedWorld.deliver), ("the queue delivers again", SimulatedWorld.deliver)],
        at_the_end=_repeated((60_000, "k")),
    )


def one_key_for_two_payloads() -> SmallWorld:
    world = _world()

    def asked(amount: int) -> None:
        def answered(status: int, body: Any) -> None:
            right = status not in (201, 202) or body["amount"] == amount
            hold("an answer is about the refund that was requested", right, f"{body.get('amount')}, not {amount}")

        world.refund(ORDER, amount, "k", on_answer=answered)

    asked(60_000)
    asked(10_000)
    return SmallWorld(world)


def more_than_was_paid() -> SmallWorld:
    world = _world()
    world.refund(ORDER, 150_000, "k")
    return SmallWorld(world)


def an_order_that_is_not_paid() -> SmallWorld:
    world = _world()
    world.indodana.add_order("m1", ORDER, Decimal(100_000), "INITIATED")
    world.refund(ORDER, 60_000, "k")

    def nothing_moved(world: SimulatedWorld) -> None:
        hold("only a paid order is refunded", not world.indodana.movements, world.indodana.movements)

    return SmallWorld(world, at_the_end=nothing_moved)


def a_refund_and_all_that_remains() -> SmallWorld:
    """The first may be refused, and give its money back while the second takes all that remains."""
    world = _world()
    run_to(world, world.refund(ORDER, 60_000, "a"), "cancel")
    world.refund(ORDER, None, "b")
    return SmallWorld(world)


def a_caller_who_never_comes_back() -> SmallWorld:
    world = _world()
    world.refund(ORDER, 60_000, "k")
    return SmallWorld(world)


def one_message() -> SmallWorld:
    """No second message follows it."""
    world = _world()
    world.send(ORDER, 60_000, "k")
    world.deliver()
    return SmallWorld(world)


def one_key_for_two_messages() -> SmallWorld:
    world = _world()
    world.send(ORDER, 60_000, "k")
    world.send(ORDER, 10_000, "k")
    world.deliver()
    return SmallWorld(world)


def one_key_for_a_request_and_a_message() -> SmallWorld:
    world = _world()
    world.refund(ORDER, 60_000, "k")
    world.send(ORDER, 10_000, "k")
    world.deliver()
    return SmallWorld(world)


def two_messages_of_one_order() -> SmallWorld:
    """In one batch: two threads of a process that had an answer from Indodana a moment ago."""
    world = _world()
    world.finish(world.refund(ORDER, 10_000, "before"))
    world.send(ORDER, 60_000, "a")
    world.send(ORDER, 60_000, "b")
    world.deliver()
    return SmallWorld(world)


def a_withdrawal_and_the_worker() -> SmallWorld:
    """An operator saw it QUEUED; the worker may submit it at any moment."""
    world = _world()
    world.finish(world.refund(ORDER, 60_000, "k", later=True))
    world.withdraw(world.seen(ORDER, "k"))
    world.deliver()
    return SmallWorld(world, kills=1, faults=1, at_the_end=_repeated((60_000, "k")))


def a_withdrawal_and_the_schedule() -> SmallWorld:
    """An operator saw it QUEUED; since then its worker was killed, and recovery finds it."""
    world = _world()
    world.finish(world.refund(ORDER, 60_000, "k", later=True))
    look = world.seen(ORDER, "k")
    world.kill_after_effect(run_to(world, world.deliver(), "cancel"))
    world.withdraw(look)
    world.recover()
    return SmallWorld(world, passes=[LEASE_AND_MORE], kills=1, faults=1, at_the_end=_repeated((60_000, "k")))


def a_decision_on_a_refund_that_is_sent_again() -> SmallWorld:
    """The operator saw that it was not done; since then the stack submits it again (resubmit)."""
    world = _world(ambiguous_refunds=AmbiguousRefunds.RESUBMIT)
    _become_unknown(world, 60_000, "k", "request lost")
    world.pass_seconds(1000)
    world.finish(world.recover())
    world.settle(world.seen(ORDER, "k"))
    world.deliver()
    return SmallWorld(world, kills=1, faults=1, at_the_end=_repeated((60_000, "k")))


def two_operators_who_looked_at_two_times() -> SmallWorld:
    """The first perhaps before the request arrived at Indodana, and the second after it."""
    world = _world(arrives_late=True)
    _become_unknown(world, 60_000, "k", "timed out, done 590 s later")
    later = [_operator("operator 1"), _operator("operator 2")]
    return SmallWorld(world, later=later, passes=[LEASE_AND_MORE, HOLD_AND_MORE], kills=1, faults=1)


def a_decision_sent_twice() -> SmallWorld:
    """The operator does not know whether the first request arrived."""
    world = _world()
    _become_unknown(world, 60_000, "k")
    look = world.seen(ORDER, "k")
    world.settle(look)
    world.settle(look)

    def again(world: SimulatedWorld) -> None:
        world.finish(
            world.settle(look, on_answer=lambda status, _: hold("a decision can be repeated", status == 200, status))
        )

    return SmallWorld(world, at_the_end=again)


def a_withdrawal_sent_twice() -> SmallWorld:
    world = _world()
    world.finish(world.refund(ORDER, 60_000, "k", later=True))
    look = world.seen(ORDER, "k")
    world.withdraw(look)

    def again(world: SimulatedWorld) -> None:
        world.finish(world.withdraw(look))

    return SmallWorld(world, later=[DELIVERED, ("the operator repeats the withdrawal", again)], kills=1, faults=1)


def a_refund_done_late() -> SmallWorld:
    """Indodana may carry it out after its sender timed out: until shortly before the hold ends."""
    world = _world(arrives_late=True)
    run_to(world, world.refund(ORDER, 60_000, "k"), "cancel")
    later = [_operator("the operator")]
    return SmallWorld(world, later=later, passes=[LEASE_AND_MORE, HOLD_AND_MORE], at_the_end=_repeated((60_000, "k")))


def a_process_that_freezes() -> SmallWorld:
    """At any moment, for longer than its lease, and then continues. Meanwhile recovery runs and an operator decides."""
    world = _world()
    run_to(world, world.refund(ORDER, 60_000, "k"), "cancel")
    later = [RECOVERY_RUNS, _operator("the operator")]
    return SmallWorld(world, later=later, passes=[HOLD_AND_MORE], kills=1, faults=0, freezes=1)


def a_process_that_freezes_as_it_sends() -> SmallWorld:
    """Between its last check of the clock and the request, or before it reads the answer."""
    world = _world(freezes=True)
    run_to(world, world.refund(ORDER, 60_000, "k"), "cancel")
    return SmallWorld(world, later=[RECOVERY_RUNS], kills=1, faults=2, at_the_end=_repeated((60_000, "k")))


def clocks_that_differ() -> SmallWorld:
    """The worker's is 2 s slow, and recovery's 2 s fast; Lambda kills the worker 5 s before its lease ends."""
    world = _world(skew_seconds=itertools.cycle((-2.0, 2.0)).__next__)
    world.send(ORDER, 60_000, "k")
    run_to(world, world.deliver(), "cancel")
    world.recover()
    return SmallWorld(world, passes=[39.0, 2.0], kills=1, faults=1, at_the_end=_repeated((60_000, "k")))


def an_index_that_lags() -> SmallWorld:
    """Recovery finds refunds through it: in an older state, or not at all."""
    world = _world(stale_reads=True)
    world.finish(world.refund(ORDER, 60_000, "k", later=True))
    world.pass_seconds(LEASE_AND_MORE)
    world.deliver()
    world.recover()
    return SmallWorld(world, kills=1, faults=1, at_the_end=_repeated((60_000, "k")))


def two_messages_of_a_refund_that_waits() -> SmallWorld:
    """Indodana is rate-limiting; one message is due later, and the other comes at once."""
    world = _world()
    world.send(ORDER, 60_000, "k")
    world.send(ORDER, 60_000, "k")
    first = world.deliver(1)
    cancel = run_to(world, first, "cancel")
    world.run(cancel, fault_of(cancel, "HTTP 429"))
    world.finish(first)
    world.deliver(1)
    later: list[Later] = [("the queue delivers again", SimulatedWorld.deliver)]
    return SmallWorld(world, later=later, passes=[4.0], kills=1, faults=1, at_the_end=_repeated((60_000, "k")))


def two_workers_and_a_refund_that_waits() -> SmallWorld:
    """Both have a message of it and read that it is due; the answer to one of them postpones it."""
    world = _world()
    world.finish(world.refund(ORDER, 60_000, "k", later=True))
    world.send(ORDER, 60_000, "k")
    world.deliver(1)
    world.deliver(1)
    return SmallWorld(world, kills=0, faults=1, at_the_end=_repeated((60_000, "k")))


def a_forged_pointer_and_a_refund_that_waits() -> SmallWorld:
    """Indodana is rate-limiting; the gateway's own message is due later, and a stranger's comes at once."""
    world = _world()
    world.finish(world.refund(ORDER, 60_000, "k", later=True))
    own = world.deliver()
    cancel = run_to(world, own, "cancel")
    world.run(cancel, fault_of(cancel, "HTTP 429"))
    world.finish(own)
    world.point(ORDER, "k")
    world.deliver()
    later: list[Later] = [("the queue delivers again", SimulatedWorld.deliver)]
    return SmallWorld(world, later=later, passes=[4.0], kills=1, faults=1, at_the_end=_repeated((60_000, "k")))


def a_forged_pointer_and_the_gateways_own() -> SmallWorld:
    """The refund is due: two workers, one with each."""
    world = _world()
    world.finish(world.refund(ORDER, 60_000, "k", later=True))
    world.point(ORDER, "k")
    world.deliver(1)
    world.deliver(1)
    return SmallWorld(world, later=[DELIVERED], kills=1, faults=1, at_the_end=_repeated((60_000, "k")))


def forged_pointers_to_refunds_of_every_status() -> SmallWorld:
    """A flood of them, in one batch; recovery runs meanwhile."""
    world = _world()
    world.finish(world.refund(ORDER, 10_000, "done"))
    world.finish(world.refund(ORDER, 20_000, "waits", later=True))
    _become_unknown(world, 30_000, "unknown")
    for key in ("done", "waits", "unknown", "never made"):
        world.point(ORDER, key)
        world.point(ORDER, key)
    world.deliver()
    return SmallWorld(world, later=[RECOVERY_RUNS], passes=[LEASE_AND_MORE], kills=1, faults=1)


def a_pointer_to_another_merchants_refund() -> SmallWorld:
    """Both merchants have an order with this id."""
    world = _world()
    world.indodana.add_order("m2", ORDER, Decimal(100_000))
    world.finish(world.refund(ORDER, 60_000, "k", later=True))
    world.point(ORDER, "k", at="m2")
    world.deliver(1)
    world.deliver(1)
    return SmallWorld(world, kills=1, faults=1, at_the_end=_repeated((60_000, "k")))


def a_message_of_a_stranger() -> SmallWorld:
    world = _world()
    world.send(ORDER, 60_000, "k", sender=STRANGER)
    world.send(ORDER, None, "other", sender=STRANGER)
    world.deliver()
    return SmallWorld(world)


def a_message_for_another_merchant() -> SmallWorld:
    """Its sender may refund for m1 only."""
    world = _world()
    world.indodana.add_order("m2", ORDER, Decimal(100_000))
    world.send(ORDER, 60_000, "k", "m2", sender=TILLS)
    world.send(ORDER, 60_000, "k", "m1", sender=TILLS)
    world.deliver()
    return SmallWorld(world, kills=1, faults=1)


def a_message_repeated_by_a_stranger() -> SmallWorld:
    """Word for word, and with other words: while a worker makes its refund, and before."""
    world = _world()
    world.send(ORDER, 60_000, "k")
    world.deliver(1)
    world.send(ORDER, 60_000, "k", sender=STRANGER)
    world.send(ORDER, 10_000, "k", sender=STRANGER)
    world.deliver(2)
    return SmallWorld(world, kills=1, faults=1, at_the_end=_repeated((60_000, "k")))


def a_waiting_refund_and_a_strangers_words() -> SmallWorld:
    """The refund is QUEUED and due; a stranger asks for it with another amount."""
    world = _world()
    world.finish(world.refund(ORDER, 60_000, "k", later=True))
    world.deliver(1)
    world.send(ORDER, 10_000, "k", sender=STRANGER)
    world.deliver(1)
    return SmallWorld(world, kills=1, faults=1, at_the_end=_repeated((60_000, "k")))


def messages_of_the_release_before() -> SmallWorld:
    """The gateway's own were full requests; it is not listed."""
    world = _world()
    world.finish(world.refund(ORDER, 60_000, "a", later=True))
    world.finish(world.refund(ORDER, 20_000, "b", later=True))
    world.replace_pointers()
    world.deliver()
    return SmallWorld(world, later=[DELIVERED], kills=1, faults=1, at_the_end=_repeated((60_000, "a"), (20_000, "b")))


def one_key_twice_and_reads_in_two_parts() -> SmallWorld:
    """A request reads its refund before its duplicate reserves the money, and the sums after that."""
    world = _world(torn_reads=True)
    world.refund(ORDER, 60_000, "k")
    world.refund(ORDER, 60_000, "k")
    return SmallWorld(world, kills=0, faults=1, at_the_end=_repeated((60_000, "k")))


def who_reads_while_a_refund_is_made() -> SmallWorld:
    """One caller reads it, another lists the order's refunds. A read that is not consistent may get an older state."""
    world = _world(stale_reads=True)
    world.refund(ORDER, 60_000, "k")

    def one(world: SimulatedWorld) -> None:
        world.api(READ, ORDER, refund_id=refund_id_of(ORDER, "k"))

    later: list[Later] = [
        ("a caller reads it", one),
        ("another lists the order's refunds", lambda world: world.api(LIST, ORDER)),
    ]
    return SmallWorld(world, later=later, kills=1, faults=1)


def a_message_that_kills_its_worker() -> SmallWorld:
    """SQS moves it to the dead-letter queue. Two recovery runs find it there at the same time."""
    world = dead_letter_by_sqs(_world(max_receive_count=2))
    world.recover()
    world.recover()
    return SmallWorld(world, kills=1, faults=1, at_the_end=dead_letter_stays)


def a_sweep_in_pages() -> SmallWorld:
    """Two refunds whose messages were lost, each on a page of its own, and two recovery runs."""
    world = _world()
    wait_without_messages(world, ORDER, "ORDER-2")
    world.recover()
    world.recover()
    return SmallWorld(world, kills=1, faults=0)


def dead_letter_by_sqs(world: SimulatedWorld, attributes: dict[str, Any] | None = None) -> SimulatedWorld:
    """A message whose worker is killed at each delivery."""
    world.send(ORDER, 60_000, "k", attributes=attributes)
    for _ in range(world.max_receive_count):
        invocation = world.deliver()
        assert invocation
        world.kill(invocation)
        world.pass_seconds(VISIBILITY_SECONDS)
    assert world.deliver() is None
    assert len(world.dead_letters()) == 1
    return world


def dead_letter_stays(world: SimulatedWorld) -> None:
    hold("a dead letter stays until an operator deletes it", len(world.dead_letters()) == 1, world.dead_letters())


def wait_without_messages(world: SimulatedWorld, *orders: str) -> None:
    """Overdue refunds, one for each order; recovery's pages have one each."""
    for order in orders:
        world.indodana.add_order("m1", order, Decimal(100_000))
        world.finish(world.refund(order, 60_000, "k", later=True))
        [message] = world.sqs.receive_message(QueueUrl=QUEUE)["Messages"]
        world.sqs.delete_message(QueueUrl=QUEUE, ReceiptHandle=message["ReceiptHandle"])
    world.dynamo.page_size = 1
    world.pass_seconds(LEASE_AND_MORE)


def _recovery_runs(world: SimulatedWorld) -> None:
    world.finish(world.recover())


RECOVERY_RUNS = ("recovery runs", _recovery_runs)
DELIVERED = ("the queue delivers", SimulatedWorld.deliver)


def _operator(who: str) -> tuple[str, Callable[[SimulatedWorld], object]]:
    """An operator who looks at some moment, and later decides by what they saw."""

    def looks(world: SimulatedWorld) -> Next | None:
        looks: list[Look] = []
        world.finish(world.look(ORDER, "k", then=looks.append))
        if not looks:
            return None
        [look] = looks
        return Next(f"{who} saw {look} and decides", lambda world: world.decide(look, who))

    return f"{who} looks", looks


def fault_of(fiber: Fiber, name: str) -> Fault:
    assert fiber.call
    return next(fault for fault in fiber.call.faults if fault.name == name)


def run_to(world: SimulatedWorld, invocation: Invocation | None, name: str) -> Fiber:
    """Runs an invocation up to its next call of this name; returns its only fiber."""
    assert invocation
    while True:
        [fiber] = invocation.pending()
        if fiber.call and fiber.call.name == name:
            return fiber
        world.run(fiber)


def _become_unknown(world: SimulatedWorld, amount: int, key: str, how: str = "done, response lost") -> None:
    invocation = world.refund(ORDER, amount, key)
    cancel = run_to(world, invocation, "cancel")
    world.run(cancel, fault_of(cancel, how))
    world.finish(invocation)


WORLDS: dict[str, Callable[[], SmallWorld]] = {
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
        a_forged_pointer_and_a_refund_that_waits,
        a_forged_pointer_and_the_gateways_own,
        forged_pointers_to_refunds_of_every_status,
        a_pointer_to_another_merchants_refund,
        a_message_of_a_stranger,
        a_message_for_another_merchant,
        a_message_repeated_by_a_stranger,
        a_waiting_refund_and_a_strangers_words,
        messages_of_the_release_before,
        one_key_twice_and_reads_in_two_parts,
        who_reads_while_a_refund_is_made,
        a_message_that_kills_its_worker,
        a_sweep_in_pages,
    )
}
