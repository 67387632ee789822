"""Worlds only for mutants: schedules that are too long for the small worlds, or need a special beginning."""

from __future__ import annotations

import math
from collections.abc import Callable
from decimal import Decimal
from typing import Any

from gateway.core.model import AmbiguousRefunds
from tests.simulation import worlds
from tests.simulation.catalogue.mutant import ASKED, ONE_PROBE, PAUSED, REFUNDS_GO_ON
from tests.simulation.engine import Fault, Invocation
from tests.simulation.explore import SmallWorld
from tests.simulation.indodana_double import NO_ANSWER
from tests.simulation.invariants import hold
from tests.simulation.simulated import (
    MAX_RECEIVE_COUNT,
    QUEUE,
    STRANGER,
    VISIBILITY_SECONDS,
    SimulatedWorld,
    refund_id_of,
)
from tests.simulation.worlds import LEASE_AND_MORE, ORDER, fault_of, run_to

OTHER_ORDER = "ORDER-2"
AMOUNT = Decimal(100_000)


def widened(
    build: Callable[[], SmallWorld], kills: int, faults: int, *, redundant_faults: bool = True
) -> Callable[[], SmallWorld]:
    """The world with another budget and with all faults: a mutant may handle redundant ones differently."""

    def built() -> SmallWorld:
        small = build()
        small.kills, small.faults, small.redundant_faults = kills, faults, redundant_faults
        return small

    return built


# ---- worlds


def _world(**options: Any) -> SimulatedWorld:
    world = SimulatedWorld(**options)
    world.indodana.add_order("m1", ORDER, AMOUNT)
    return world


def two_merchants_with_one_order_id() -> SmallWorld:
    world = _world()
    world.indodana.add_order("m2", ORDER, AMOUNT)
    world.refund(ORDER, 30_000, "k")
    world.refund(ORDER, 30_000, "k", merchant="m2")
    return SmallWorld(world)


def two_orders_with_one_key() -> SmallWorld:
    world = _world()
    world.indodana.add_order("m1", OTHER_ORDER, AMOUNT)
    world.refund(ORDER, 30_000, "k")
    world.refund(OTHER_ORDER, 30_000, "k")
    return SmallWorld(world)


def a_small_refund_repeated() -> SmallWorld:
    """So small that its order has money for two: only the key prevents the second one."""
    world = _world()
    world.refund(ORDER, 30_000, "k")

    def repeated(world: SimulatedWorld) -> None:
        world.finish(world.refund(ORDER, 30_000, "k"))
        world.aftermath()
        hold("one key makes one refund", len(world.watch.refunds) == 1, len(world.watch.refunds))

    return SmallWorld(world, at_the_end=repeated)


def a_refund_worked_since_it_was_read() -> SmallWorld:
    """A worker read that it is QUEUED; since then another worker tried to send it, and it is QUEUED again."""
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
    return SmallWorld(world)


def an_answer_that_comes_late() -> SmallWorld:
    """With no time left to retry the write of the outcome."""
    world = _world()
    world.refund(ORDER, 30_000, "k")

    def repeated(world: SimulatedWorld) -> None:
        world.finish(world.refund(ORDER, 30_000, "k"))
        world.aftermath()

    return SmallWorld(world, passes=[22.0], at_the_end=repeated)


def a_lost_process_where_unknown_is_submitted_again() -> SmallWorld:
    world = _world(ambiguous_refunds=AmbiguousRefunds.RESUBMIT)
    world.refund(ORDER, 60_000, "k")
    return SmallWorld(world)


def a_lost_process_whose_repetition_may_be_refused() -> SmallWorld:
    """Indodana made the refund; the process was killed, and the refund is sent again."""
    world = _world(ambiguous_refunds=AmbiguousRefunds.RESUBMIT)
    world.kill_after_effect(run_to(world, world.refund(ORDER, 60_000, "k"), "cancel"))
    for _ in range(2):
        world.pass_seconds(1000)
        world.finish(world.recover())
    world.deliver()
    return SmallWorld(world)


def a_lease_that_ran_out_under_its_process() -> SmallWorld:
    """Indodana answered; then the process froze, recovery found the expired lease, and an operator settles it."""
    world = _world()
    invocation = _immortal(world)
    world.run(run_to(world, invocation, "cancel"))
    world.pass_seconds(LEASE_AND_MORE)
    world.finish(world.recover())
    world.settle(world.seen(ORDER, "k"))
    return SmallWorld(world)


def a_process_that_froze_before_it_sent() -> SmallWorld:
    """Until long after its lease; meanwhile an operator sees that no money moved."""
    world = _world()
    invocation = _immortal(world)
    fiber = run_to(world, invocation, "transact_write_items")
    reserve = fiber.call
    assert reserve

    def done_and_frozen() -> Any:
        answer = reserve.effect()
        world.pass_seconds(LEASE_AND_MORE)
        return answer

    world.run(fiber, Fault("done, the process freezes", done_and_frozen))

    def operator(world: SimulatedWorld) -> None:
        world.settle(world.seen(ORDER, "k"))

    later = [("recovery starts", SimulatedWorld.recover), ("an operator settles it", operator)]
    return SmallWorld(world, later=later)  # type: ignore[arg-type]


def an_operator_who_looked_too_early() -> SmallWorld:
    """The operator looked before the money moved; then the process was killed, and the operator decides."""
    world = _world()
    cancel = run_to(world, world.refund(ORDER, 60_000, "k"), "cancel")
    look = world.seen(ORDER, "k")
    world.kill_after_effect(cancel)
    world.pass_seconds(LEASE_AND_MORE)
    world.settle(look)
    return SmallWorld(world)


def a_refund_under_way_and_an_operator() -> SmallWorld:
    """The operator tries to withdraw it."""
    world = _world()
    run_to(world, world.refund(ORDER, 60_000, "k"), "cancel")
    world.withdraw(world.seen(ORDER, "k"))
    return SmallWorld(world)


def the_last_delivery_of_a_strangers_message() -> SmallWorld:
    """With too little time left to attempt anything: a listed sender's message would be taken on."""
    world = _world()
    world.send(ORDER, 60_000, "k", sender=STRANGER)
    for _ in range(MAX_RECEIVE_COUNT - 1):
        world.sqs.receive_message(QueueUrl=QUEUE)
        world.pass_seconds(VISIBILITY_SECONDS)
    worker = world.deliver()
    assert worker
    run_to(world, worker, "batch_get_item")
    return SmallWorld(world, passes=[20.0])


def a_strangers_words_before_the_gateways_own_message() -> SmallWorld:
    """The gateway's own message was lost."""
    world = _world()
    caller = world.refund(ORDER, 60_000, "k", later=True)
    send = run_to(world, caller, "send_message")
    world.run(send, worlds.fault_of(send, "request lost"))
    world.finish(caller)
    world.send(ORDER, 10_000, "k", sender=STRANGER)
    world.deliver()
    return SmallWorld(world)


def a_refund_after_a_cold_start() -> SmallWorld:
    """API Gateway has waited for 10 s when the function is invoked, and Indodana is slow, too."""
    world = _world(start_seconds=lambda: 10.0)
    world.refund(ORDER, 30_000, "k")
    return SmallWorld(world, passes=[10.5])


def a_status_endpoint_that_hangs() -> SmallWorld:
    """Refunds are answered. All is asked of one process, whose worker has several threads."""
    world = _world()
    world.check_status(ORDER)
    orders = [f"NEW-{number}" for number in range(5)]
    for order in orders:
        world.indodana.add_order("m1", order, AMOUNT)

    def told(world: SimulatedWorld, invocation: Invocation, fault: str | None = None) -> bool:
        """Whether it asks Indodana for a status. If so, the call ends with the fault."""
        while pending := invocation.pending():
            [fiber] = pending
            asks = fiber.call and fiber.call.name == "check_status"
            world.run(fiber, fault_of(fiber, fault) if asks and fault else None)
            if asks:
                world.finish(invocation)
                return True
        return False

    def asked_together(world: SimulatedWorld, orders: list[str]) -> int:
        """How many statuses the first refunds of these orders ask for at the same time."""
        for order in orders:
            world.send(order, 1_000, "k")
        batch = world.deliver()
        assert batch
        while others := [fiber for fiber in batch.pending() if fiber.call and fiber.call.name != "check_status"]:
            world.run(others[0])
        asking = len(batch.pending())
        world.finish(batch)
        return asking

    def scenario(world: SimulatedWorld) -> None:
        answers: list[tuple[int, Any]] = []

        def check(fault: str | None = None) -> bool:
            return told(world, world.check_status(ORDER, lambda *answer: answers.append(answer)), fault)

        world.deploy()
        world.finish(world.refund(orders[0], 1_000, "first"))  # known, and answered: the worker's threads run together
        hold(ASKED, check(NO_ANSWER) and check(None), "after one that was not answered in time")
        check(NO_ANSWER)
        check(NO_ANSWER)
        hold(PAUSED, not check(), "right after two that were not answered in time")
        status, problem = answers[-1]
        hold(PAUSED, (status, problem["code"]) == (504, "UPSTREAM_TIMEOUT"), answers[-1])
        world.finish(world.refund(orders[0], 1_000, "second"))
        statuses = [refund["status"] for refund in world.watch.refunds.values() if refund["pk"] == f"m1#{orders[0]}"]
        hold(REFUNDS_GO_ON, statuses == ["SUCCEEDED"] * 2, statuses)
        world.pass_seconds(1.0)
        hold(ASKED, check(NO_ANSWER), "after a second")
        world.pass_seconds(1.0)
        hold(PAUSED, not check(), "a second after the probe was not answered")
        world.pass_seconds(1.0)
        hold(ONE_PROBE, asked_together(world, orders[1:3]) == 1, "after two seconds")
        hold(ASKED, asked_together(world, orders[3:]) == 2, "after the probe was answered")
        world.aftermath()

    return SmallWorld(world, at_the_end=scenario)


def a_dead_letter_that_looks_recorded() -> SmallWorld:
    """Its sender gave it the attributes that the worker gives to the dead letters that it moves itself."""
    text = {"DataType": "String", "StringValue": "forged"}
    world = _world(max_receive_count=2)
    worlds.dead_letter_by_sqs(world, {"cause": text, "originalMessageId": text})
    world.recover()
    return SmallWorld(world, at_the_end=worlds.dead_letter_stays)


def a_refund_that_kills_recovery() -> SmallWorld:
    """At each run, as it is about to be enqueued. Others wait on the pages after it."""
    world = _world()
    worlds.wait_without_messages(world, ORDER, OTHER_ORDER)

    def killed_runs(world: SimulatedWorld) -> None:
        poison: set[str] = set()
        for _ in range(3):
            invocation = world.recover()
            while pending := invocation.pending():
                [fiber] = pending
                assert fiber.call
                if fiber.call.name == "update_item":
                    at = repr(fiber.call.effect.keywords["Key"])  # type: ignore[attr-defined]
                    poison = poison or {at}
                    if at in poison:
                        world.kill(invocation)
                        break
                world.run(fiber)
        _all_are_enqueued(world, but=1)

    return SmallWorld(world, later=[("three recovery runs are killed by a refund", killed_runs)])


def runs_that_have_time_for_one_page() -> SmallWorld:
    world = _world()
    worlds.wait_without_messages(world, ORDER, OTHER_ORDER, "ORDER-3")

    def slow_runs(world: SimulatedWorld) -> None:
        for _ in range(3):
            invocation = world.recover()
            pages = 0
            while pending := invocation.pending():
                [fiber] = pending
                assert fiber.call
                pages += fiber.call.name == "scan"
                if pages == 2:
                    world.pass_seconds(45)  # of 60: the page is read, and nothing on it is begun
                    pages += 1
                world.run(fiber)
            world.pass_seconds(1)
        _all_are_enqueued(world)

    return SmallWorld(world, later=[("three recovery runs have time for one page each", slow_runs)])


def _all_are_enqueued(world: SimulatedWorld, but: int = 0) -> None:
    left = [refund_id[:6] for refund_id, refund in world.watch.refunds.items() if "enqueuedAt" not in refund]
    hold("recovery reaches every open refund", len(left) <= but, left)


def _immortal(world: SimulatedWorld) -> Invocation:
    """Lambda does not kill it in time, so its refund may become UNKNOWN."""
    invocation = world.refund(ORDER, 60_000, "k")
    invocation.deadline = math.inf
    world.watch.excused.add(refund_id_of(ORDER, "k"))
    return invocation


OWN_WORLDS: dict[str, Callable[[], SmallWorld]] = {
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
        the_last_delivery_of_a_strangers_message,
        a_strangers_words_before_the_gateways_own_message,
        a_refund_after_a_cold_start,
        a_status_endpoint_that_hangs,
        a_dead_letter_that_looks_recorded,
        a_refund_that_kills_recovery,
        runs_that_have_time_for_one_page,
    )
}
WORLDS = worlds.WORLDS | OWN_WORLDS
