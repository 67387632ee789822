"""Random fault simulation: twenty orders, a hundred refunds, eight functions at a time, with kills and faults.

Everything is drawn from the seed, so a seed always gives the same run. A run that breaks an invariant is shortened: it
leaves out refunds and events as long as it still breaks the same invariant.
"""

from __future__ import annotations

import json
import random
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass, field
from decimal import Decimal
from typing import Any

from gateway.core.model import AmbiguousRefunds
from gateway.core.transitions import RefundStatus
from tests.simulation.engine import Fault, Fiber, Invocation
from tests.simulation.invariants import OPEN, Violation, hold
from tests.simulation.simulated import LIST, QUEUE, STRANGER, Look, SimulatedWorld, installed, refund_id_of
from tests.simulation.simulated import READ as READ_ONE

ORDERS = 20
REFUNDS = 100
AT_A_TIME = 8
AMOUNT = 100_000
MAX_STEPS = 50_000  # a run takes some 2,000; one that takes so many does not end
TRIES = 4  # of a caller who gets no answer, or one without an outcome

# How often each event is chosen, per thousand steps; otherwise a pending call takes effect.
FAULT, KILL, FREEZE, PASS, LONG_PASS, DELIVER, RECOVER, REPEAT_DELIVERY = 35, 8, 2, 15, 3, 40, 6, 6
REDRIVE, LOOK, DECIDE, ROTATE, READ, START, FORGE = 2, 8, 8, 1, 8, 90, 8
FLOOD = 12  # forged messages at once
# The largest error of a sandbox's clock, and the longest cold start.
SKEW_SECONDS = 2.0
START_SECONDS = 8.0


@dataclass(frozen=True)
class PlannedRefund:
    """A refund that a caller will ask for."""

    number: int
    merchant: str
    order: str
    amount: int | None
    key: str
    channel: str  # api | later | queue


@dataclass
class Cut:
    """What a shortened run leaves out: refunds by number, events by the step at which they happened."""

    refunds: frozenset[int] = frozenset()
    events: frozenset[int] = frozenset()


@dataclass
class Tally:
    counts: Counter[str] = field(default_factory=Counter)
    events: list[int] = field(default_factory=list)
    lines: list[str] = field(default_factory=list)


def run_seed(seed: int, cut: Cut | None = None, *, trace: bool = False) -> Tally:
    """Raises Violation, with the tally so far in `tally`."""
    run = _RandomRun(seed, cut or Cut(), trace=trace)
    try:
        run.execute()
    except Violation as violation:
        violation.tally = run.tally
        raise
    return run.tally


def shortened(seed: int, violation: Violation) -> tuple[Cut, Violation]:
    """Leaves out as much as possible while the same invariant still breaks."""
    cut, best = Cut(), violation

    def still_breaks(tried: Cut) -> Violation | None:
        try:
            run_seed(seed, tried)
        except Violation as found:
            return found if found.invariant == violation.invariant else None
        return None

    for name, every in (("refunds", list(range(REFUNDS))), ("events", list(violation.tally.events))):
        left = every
        size = max(1, len(left) // 2)
        while left:
            for start in range(0, len(left), size):
                out = frozenset(left[start : start + size])
                tried = Cut(**{**vars(cut), name: getattr(cut, name) | out})
                if found := still_breaks(tried):
                    cut, best = tried, found
                    left = [one for one in left if one not in out]
                    break
            else:
                if size == 1:
                    break
                size = max(1, size // 2)
    return cut, best


class _RandomRun:
    def __init__(self, seed: int, cut: Cut, *, trace: bool) -> None:
        self.random = random.Random(seed)
        self.cut = cut
        self.trace = trace
        self.tally = Tally()
        resubmits = self.random.random() < 0.1
        sandboxes = random.Random(f"the sandboxes of {seed}")  # created at other moments in a shortened run
        self.world = SimulatedWorld(
            ambiguous_refunds=AmbiguousRefunds.RESUBMIT if resubmits else AmbiguousRefunds.REVIEW,
            warm=self.random.random() < 0.5,
            arrives_late=True,
            freezes=True,
            stale_reads=True,
            torn_reads=True,
            skew_seconds=lambda: sandboxes.uniform(-SKEW_SECONDS, SKEW_SECONDS),
            start_seconds=lambda: sandboxes.uniform(0, START_SECONDS),
        )
        self.world.dynamo.page_size = self.random.choice([None, None, 1, 7])
        self.planned = self._planned_refunds()
        self.not_sent = list(self.planned)
        self.to_repeat: list[tuple[PlannedRefund, int]] = []  # its caller will repeat it; how often it was tried
        self.looks: list[Look] = []  # of operators who have not decided yet, or will repeat a decision
        self.keys = 0

    def _planned_refunds(self) -> list[PlannedRefund]:
        orders = []
        for number in range(ORDERS):
            merchant = "m1" if number % 4 else "m2"
            order = f"O{number}"
            status = "PAID" if number % 10 else "INITIATED"
            self.world.indodana.add_order(merchant, order, Decimal(AMOUNT), status)
            orders.append((merchant, order))
        planned: list[PlannedRefund] = []
        for number in range(REFUNDS):
            earlier = self.random.choice(planned) if planned and self.random.random() < 0.15 else None
            merchant, order = (earlier.merchant, earlier.order) if earlier else self.random.choice(orders)
            amount = earlier.amount if earlier else self.random.choice([None, 10_000, 30_000, 60_000, 100_000, 123_456])
            if earlier and self.random.random() < 0.1:
                amount = 777  # the same key with another payload
            key = earlier.key if earlier else f"key-{number}"
            planned.append(
                PlannedRefund(number, merchant, order, amount, key, self.random.choice(["api", "later", "queue"]))
            )
        return [one for one in planned if one.number not in self.cut.refunds]

    # ---- random steps

    def execute(self) -> None:
        with installed(logs=self.random.random() < 0.1):
            for step in range(MAX_STEPS):
                if not self.not_sent and not self.to_repeat and not self.world.live:
                    break
                self._step(step)
            else:
                raise Violation("the run ends", f"not after {MAX_STEPS} steps")
            self._settle_down()

    def _step(self, number: int) -> None:
        fibers = [fiber for invocation in self.world.live for fiber in invocation.pending()]
        # The draws are the same whatever is left out, so that a shortened run stays close to the whole one.
        what, which, how = self.random.randrange(1000), self.random.random(), self.random.random()
        fiber = fibers[int(which * len(fibers))] if fibers else None
        edge = 0
        for weight, happen, optional in self._kinds:
            edge += weight
            if what < edge:
                if optional and number in self.cut.events:
                    break
                if happen(self, fiber, how):
                    if optional:
                        self.tally.events.append(number)
                    return
                break
        if fiber:
            self._say(f"{fiber.invocation.name}: {fiber.call.name} {fiber.call.detail}".rstrip())  # type: ignore[union-attr]
            self.tally.counts["steps"] += 1
            self.world.run(fiber)
        elif not self._start(None, how):
            self._pass(None, how)

    def _fault(self, fiber: Fiber | None, how: float) -> bool:
        if fiber is None or fiber.call is None or not fiber.call.faults:
            return False
        fault: Fault = fiber.call.faults[int(how * len(fiber.call.faults))]
        self._say(f"{fiber.invocation.name}: {fiber.call.name} {fiber.call.detail}: {fault.name}")
        self.tally.counts["steps"] += 1
        self.tally.counts["faults"] += 1
        self.world.run(fiber, fault)
        return True

    def _kill(self, fiber: Fiber | None, _: float) -> bool:
        if fiber is None or fiber.call is None:
            return False
        self._say(f"{fiber.invocation.name}: {fiber.call.name} {fiber.call.detail}, then its process is killed")
        self.tally.counts["steps"] += 1
        self.tally.counts["kills"] += 1
        self.world.kill_after_effect(fiber)
        return True

    def _freeze(self, fiber: Fiber | None, _: float) -> bool:
        if fiber is None or fiber.invocation.outlives_timeout:
            return False
        self._say(f"{fiber.invocation.name} freezes")
        self.tally.counts["freezes"] += 1
        self.world.freeze(fiber.invocation)
        return True

    def _pass(self, _: Fiber | None, how: float) -> bool:
        seconds = round(1 + how * 20)
        return self._let_pass(seconds)

    def _pass_long(self, _: Fiber | None, how: float) -> bool:
        return self._let_pass(round(30 + how * 600))

    def _let_pass(self, seconds: int) -> bool:
        before = len(self.world.live)
        self._say(f"{seconds} s pass")
        self.world.pass_seconds(seconds)
        self.tally.counts["timeouts"] += before - len(self.world.live)
        return True

    def _start(self, _: Fiber | None, how: float) -> bool:
        if len(self.world.live) >= AT_A_TIME or not (self.not_sent or self.to_repeat):
            return False
        tries = 1
        if self.to_repeat and (how < 0.3 or not self.not_sent):
            planned, tries = self.to_repeat.pop(int(how * 977) % len(self.to_repeat))
        else:
            planned = self.not_sent.pop(0)
        self._say(f"a caller asks for {planned}")
        self.tally.counts["requests"] += 1
        if planned.channel == "queue":
            self.world.send(planned.order, planned.amount, planned.key, planned.merchant)
            return True
        self._call(planned, tries)
        return True

    def _call(self, planned: PlannedRefund, tries: int) -> None:
        answered: list[int] = []
        invocation = self.world.refund(
            planned.order,
            planned.amount,
            planned.key,
            later=planned.channel == "later",
            merchant=planned.merchant,
            on_answer=lambda status, _: answered.append(status),
        )
        ended = invocation.on_end

        def caller_decides(invocation: Invocation) -> None:
            ended(invocation)
            if tries < TRIES and (not answered or answered[0] in (409, 503)):
                self.to_repeat.append((planned, tries + 1))

        if invocation.ended:
            return
        invocation.on_end = caller_decides

    def _deliver(self, _: Fiber | None, how: float) -> bool:
        if len(self.world.live) >= AT_A_TIME:
            return False
        return self.world.deliver(1 + int(how * 10)) is not None

    def _recover(self, _: Fiber | None, __: float) -> bool:
        if len(self.world.live) >= AT_A_TIME:
            return False
        self._say("recovery starts")
        self.world.recover()
        return True

    def _repeat_delivery(self, _: Fiber | None, how: float) -> bool:
        """SQS delivers at least once: a message that is being processed is delivered again."""
        messages = self.world.sqs.messages(QUEUE)
        if not messages or len(self.world.live) >= AT_A_TIME:
            return False
        message = messages[int(how * len(messages))]
        self._say(f"message {message['MessageId'][-4:]} is delivered once more")
        self.world.send_body(message["Body"], message["Attributes"]["SenderId"])
        return True

    def _redrive(self, _: Fiber | None, __: float) -> bool:
        if not self.world.dead_letters():
            return False
        self._say("the dead letters are sent back to the queue")
        self.world.sqs.redrive()
        return True

    def _forge(self, _: Fiber | None, how: float) -> bool:
        """A stranger sends pointers, or full requests: a refund's own words or others. Now and then many at once."""
        if not self.planned:
            return False
        planned = self.planned[int(how * len(self.planned))]
        kind, times = int(how * 997) % 4, FLOOD if int(how * 9973) % 8 == 0 else 1
        self._say(f"a stranger forges {times} of kind {kind}: {planned}")
        self.tally.counts["forged"] += times
        world = self.world
        for _time in range(times):
            if kind == 0:
                world.point(planned.order, planned.key, planned.merchant)
            elif kind == 1:
                world.point(planned.order, planned.key, planned.merchant, at="m2" if planned.merchant == "m1" else "m1")
            else:
                amount = planned.amount if kind == 2 else 5_000
                world.send(planned.order, amount, planned.key, planned.merchant, STRANGER)
        return True

    def _look(self, _: Fiber | None, how: float) -> bool:
        """An operator reads an open refund, and looks it up at Indodana."""
        watched = self.world.watch.refunds.values()
        refunds = [refund for refund in watched if refund["status"] in (RefundStatus.UNKNOWN, RefundStatus.QUEUED)]
        if not refunds or len(self.world.live) >= AT_A_TIME:
            return False
        refund = refunds[int(how * len(refunds))]

        def seen(look: Look) -> None:
            self._say(f"an operator sees {look}")
            self.looks.append(look)

        self.world.look(refund["merchantOrderId"], refund["idempotencyKey"], refund["merchantId"], seen)
        return True

    def _decide(self, _: Fiber | None, how: float) -> bool:
        """By what the operator saw earlier. One decision in four is repeated; one withdrawal in two is left out."""
        if not self.looks or len(self.world.live) >= AT_A_TIME:
            return False
        number = int(how * len(self.looks))
        look = self.looks[number] if how * 4 % 1 < 0.25 else self.looks.pop(number)
        if look.status == RefundStatus.QUEUED and how * 8 % 1 < 0.5:
            return False
        self._say(f"the operator who saw {look} decides")
        self.tally.counts["decisions"] += 1

        def answered(status: int, _: object) -> None:
            self._say(f"the decision is answered with {status}")
            self.tally.counts["decided"] += status == 200

        return self.world.decide(look, on_answer=answered) is not None

    def _rotate(self, _: Fiber | None, __: float) -> bool:
        self.keys += 1
        pair = (f"ApiKey-1-{self.keys}", f"TopSecret-1-{self.keys}")
        self._say("the key of m1 is rotated")
        self.world.indodana.credentials["m1"] = pair
        self.world.secrets.rotate("qris-gateway/m1", json.dumps({"apiKey": pair[0], "secretKey": pair[1]}))
        return True

    def _read(self, _: Fiber | None, how: float) -> bool:
        if len(self.world.live) >= AT_A_TIME:
            return False
        planned = self.planned[int(how * len(self.planned))] if self.planned else None
        if planned is None:
            return False
        order = "GET /v1/transactions/{merchantOrderId}"
        route = [order, LIST, READ_ONE, f"{order}/audit", "GET /v1/refunds"][int(how * 997) % 5]
        refund_id = refund_id_of(planned.order, planned.key, planned.merchant) if route == READ_ONE else None
        status = OPEN[int(how * 9973) % len(OPEN)]
        query, where = (None, planned.order) if "{" in route else ({"status": status.value}, None)
        self.world.api(route, where, refund_id=refund_id, query=query, merchant=planned.merchant)
        return True

    _kinds: tuple[tuple[int, Callable[[_RandomRun, Fiber | None, float], bool], bool], ...] = (
        (FAULT, _fault, True),
        (KILL, _kill, True),
        (FREEZE, _freeze, True),
        (PASS, _pass, True),
        (LONG_PASS, _pass_long, True),
        (DELIVER, _deliver, False),
        (RECOVER, _recover, True),
        (REPEAT_DELIVERY, _repeat_delivery, True),
        (REDRIVE, _redrive, True),
        (LOOK, _look, True),
        (DECIDE, _decide, True),
        (ROTATE, _rotate, True),
        (READ, _read, True),
        (FORGE, _forge, True),
        (START, _start, False),
    )

    # ---- after the random steps

    def _settle_down(self) -> None:
        world = self.world
        world.aftermath()
        movements = dict(world.watch.times_moved)
        for planned in self.planned:
            if planned.channel != "queue":
                world.finish(world.refund(planned.order, planned.amount, planned.key, merchant=planned.merchant))
        # A refund refused for lack of money may succeed now, after others have failed; what moved must not move again.
        for refund_id, times in movements.items():
            hold("a repeated request moves no money again", world.watch.times_moved[refund_id] == times, refund_id[:6])
        world.aftermath()
        world.watch.quiet(world)
        self.tally.counts["refunds"] += len(world.watch.refunds)
        for refund in world.watch.refunds.values():
            self.tally.counts[str(refund["status"])] += 1
        self.tally.counts["movements"] += len(world.indodana.movements)
        self.tally.counts["log lines read"] += len(world.log_lines)

    def _say(self, text: str) -> None:
        if self.trace:
            self.tally.lines.append(f"{self.world.now:8.0f} s  {text}")


def merged(tallies: list[dict[str, int]]) -> Counter[str]:
    total: Counter[str] = Counter()
    for tally in tallies:
        total.update(tally)
    return total


def result_of(seed: int) -> dict[str, Any]:
    """For a worker process: the seed's counts, or the invariant that broke."""
    try:
        return {"seed": seed, "counts": dict(run_seed(seed).counts)}
    except Violation as violation:
        return {"seed": seed, "violation": str(violation)}
