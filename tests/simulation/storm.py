"""A larger world from a seed: twenty orders, a hundred refunds, eight functions at work at a time, and accidents.

Everything is drawn from the seed, so a seed tells the same story each time. A story that breaks an invariant is made
shorter by leaving accidents and refunds out as long as it still breaks the same one.
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
from tests.simulation.simulated import LIST, QUEUE, Look, SimulatedWorld, installed, refund_id_of
from tests.simulation.simulated import READ as READ_ONE

ORDERS = 20
REFUNDS = 100
AT_A_TIME = 8
AMOUNT = 100_000
MAX_STEPS = 50_000  # a world takes some 2,000; more would be one that does not come to rest
TRIES = 4  # of a caller who gets no answer, or none that says what became of its refund

# How often each thing is chosen, in parts of a thousand; the rest of the time a pending call takes effect.
FAULT, KILL, FREEZE, PASS, LONG_PASS, DELIVER, RECOVER, REPEAT_DELIVERY = 35, 8, 2, 15, 3, 40, 6, 6
REDRIVE, LOOK, DECIDE, ROTATE, READ, START = 2, 8, 8, 1, 8, 90
# Of a sandbox's clock, to either side, and of its start.
SKEW_SECONDS = 2.0
START_SECONDS = 3.0


@dataclass(frozen=True)
class Wanted:
    """A refund that somebody wants."""

    number: int
    merchant: str
    order: str
    amount: int | None
    key: str
    channel: str  # api | later | queue


@dataclass
class Cut:
    """What a shortened story leaves out: refunds by number, accidents by the step at which they came."""

    refunds: frozenset[int] = frozenset()
    accidents: frozenset[int] = frozenset()


@dataclass
class Tally:
    counts: Counter[str] = field(default_factory=Counter)
    accidents: list[int] = field(default_factory=list)
    lines: list[str] = field(default_factory=list)


def weather(seed: int, cut: Cut | None = None, *, story: bool = False) -> Tally:
    """Tells the seed's story. Raises Violation, with the tally so far in `tally`."""
    storm = _Storm(seed, cut or Cut(), story=story)
    try:
        storm.blow()
    except Violation as violation:
        violation.tally = storm.tally
        raise
    return storm.tally


def shortened(seed: int, violation: Violation) -> tuple[Cut, Violation]:
    """Leaves out as much as may be left out while the same invariant still breaks."""
    cut, best = Cut(), violation

    def still_breaks(tried: Cut) -> Violation | None:
        try:
            weather(seed, tried)
        except Violation as found:
            return found if found.invariant == violation.invariant else None
        return None

    for name, every in (("refunds", list(range(REFUNDS))), ("accidents", list(violation.tally.accidents))):
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


class _Storm:
    def __init__(self, seed: int, cut: Cut, *, story: bool) -> None:
        self.random = random.Random(seed)
        self.cut = cut
        self.story = story
        self.tally = Tally()
        resubmits = self.random.random() < 0.1
        sandboxes = random.Random(f"the sandboxes of {seed}")  # made at other moments in a shortened story
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
        self.wanted = self._wishes()
        self.open = list(self.wanted)
        self.again: list[tuple[Wanted, int]] = []  # whose caller will repeat it, and how often it has been tried
        self.looks: list[Look] = []  # of operators who have not decided yet, or will say it again
        self.keys = 0

    def _wishes(self) -> list[Wanted]:
        orders = []
        for number in range(ORDERS):
            merchant = "m1" if number % 4 else "m2"
            order = f"O{number}"
            status = "PAID" if number % 10 else "INITIATED"
            self.world.indodana.add_order(merchant, order, Decimal(AMOUNT), status)
            orders.append((merchant, order))
        wishes: list[Wanted] = []
        for number in range(REFUNDS):
            twin = self.random.choice(wishes) if wishes and self.random.random() < 0.15 else None
            merchant, order = (twin.merchant, twin.order) if twin else self.random.choice(orders)
            amount = twin.amount if twin else self.random.choice([None, 10_000, 30_000, 60_000, 100_000, 123_456])
            if twin and self.random.random() < 0.1:
                amount = 777  # the key of another payload
            key = twin.key if twin else f"key-{number}"
            wishes.append(Wanted(number, merchant, order, amount, key, self.random.choice(["api", "later", "queue"])))
        return [wish for wish in wishes if wish.number not in self.cut.refunds]

    # ---- the storm

    def blow(self) -> None:
        with installed(logs=self.random.random() < 0.1):
            for step in range(MAX_STEPS):
                if not self.open and not self.again and not self.world.live:
                    break
                self._step(step)
            else:
                raise Violation("the world comes to rest", f"not after {MAX_STEPS} steps")
            self._calm()

    def _step(self, number: int) -> None:
        fibers = [fiber for invocation in self.world.live for fiber in invocation.pending()]
        # The draws are the same whatever is left out, so that a shortened story stays close to the whole one.
        what, which, how = self.random.randrange(1000), self.random.random(), self.random.random()
        fiber = fibers[int(which * len(fibers))] if fibers else None
        edge = 0
        for weight, happen, accident in self._kinds:
            edge += weight
            if what < edge:
                if accident and number in self.cut.accidents:
                    break
                if happen(self, fiber, how):
                    if accident:
                        self.tally.accidents.append(number)
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
        self._say(f"{fiber.invocation.name}: {fiber.call.name} {fiber.call.detail}, and then it dies")
        self.tally.counts["steps"] += 1
        self.tally.counts["kills"] += 1
        self.world.kill_after_effect(fiber)
        return True

    def _freeze(self, fiber: Fiber | None, _: float) -> bool:
        if fiber is None or fiber.invocation.outlives_its_time:
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
        if len(self.world.live) >= AT_A_TIME or not (self.open or self.again):
            return False
        tries = 1
        if self.again and (how < 0.3 or not self.open):
            wanted, tries = self.again.pop(int(how * 977) % len(self.again))
        else:
            wanted = self.open.pop(0)
        self._say(f"somebody wants {wanted}")
        self.tally.counts["requests"] += 1
        if wanted.channel == "queue":
            self.world.send(wanted.order, wanted.amount, wanted.key, wanted.merchant)
            return True
        self._call(wanted, tries)
        return True

    def _call(self, wanted: Wanted, tries: int) -> None:
        answered: list[int] = []
        invocation = self.world.refund(
            wanted.order,
            wanted.amount,
            wanted.key,
            later=wanted.channel == "later",
            merchant=wanted.merchant,
            on_answer=lambda status, _: answered.append(status),
        )
        ended = invocation.on_end

        def caller_decides(invocation: Invocation) -> None:
            ended(invocation)
            if tries < TRIES and (not answered or answered[0] in (409, 503)):
                self.again.append((wanted, tries + 1))

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
        self._say("the schedule runs")
        self.world.recover()
        return True

    def _repeat_delivery(self, _: Fiber | None, how: float) -> bool:
        """SQS delivers at least once: a message that somebody has in hand is delivered to another, too."""
        messages = self.world.sqs.messages(QUEUE)
        if not messages or len(self.world.live) >= AT_A_TIME:
            return False
        message = messages[int(how * len(messages))]
        self._say(f"message {message['MessageId'][-4:]} is delivered once more")
        self.world.send_body(message["Body"])
        return True

    def _redrive(self, _: Fiber | None, __: float) -> bool:
        if not self.world.dead_letters():
            return False
        self._say("the dead letters go back to the queue")
        self.world.sqs.redrive()
        return True

    def _look(self, _: Fiber | None, how: float) -> bool:
        """An operator reads a refund that is open, and looks it up at Indodana."""
        watched = self.world.watch.refunds.values()
        refunds = [refund for refund in watched if refund["status"] in (RefundStatus.UNKNOWN, RefundStatus.QUEUED)]
        if not refunds or len(self.world.live) >= AT_A_TIME:
            return False
        refund = refunds[int(how * len(refunds))]

        def seen(look: Look) -> None:
            self._say(f"an operator has seen {look}")
            self.looks.append(look)

        self.world.look(refund["merchantOrderId"], refund["idempotencyKey"], refund["merchantId"], seen)
        return True

    def _decide(self, _: Fiber | None, how: float) -> bool:
        """By what was seen then. One decision in four is made again later, and one withdrawal in two at all."""
        if not self.looks or len(self.world.live) >= AT_A_TIME:
            return False
        number = int(how * len(self.looks))
        look = self.looks[number] if how * 4 % 1 < 0.25 else self.looks.pop(number)
        if look.status == RefundStatus.QUEUED and how * 8 % 1 < 0.5:
            return False
        self._say(f"who saw {look} decides")
        self.tally.counts["decisions"] += 1

        def answered(status: int, _: object) -> None:
            self._say(f"… and is answered {status}")
            self.tally.counts["decided"] += status == 200

        return self.world.decide(look, on_answer=answered) is not None

    def _rotate(self, _: Fiber | None, __: float) -> bool:
        self.keys += 1
        pair = (f"ApiKey-1-{self.keys}", f"TopSecret-1-{self.keys}")
        self._say("m1's key is rotated")
        self.world.indodana.credentials["m1"] = pair
        self.world.secrets.rotate("qris-gateway/m1", json.dumps({"apiKey": pair[0], "secretKey": pair[1]}))
        return True

    def _read(self, _: Fiber | None, how: float) -> bool:
        if len(self.world.live) >= AT_A_TIME:
            return False
        wanted = self.wanted[int(how * len(self.wanted))] if self.wanted else None
        if wanted is None:
            return False
        order = "GET /v1/transactions/{merchantOrderId}"
        route = [order, LIST, READ_ONE, f"{order}/audit", "GET /v1/refunds"][int(how * 997) % 5]
        refund_id = refund_id_of(wanted.order, wanted.key, wanted.merchant) if route == READ_ONE else None
        status = OPEN[int(how * 9973) % len(OPEN)]
        query, where = (None, wanted.order) if "{" in route else ({"status": status.value}, None)
        self.world.api(route, where, refund_id=refund_id, query=query, merchant=wanted.merchant)
        return True

    _kinds: tuple[tuple[int, Callable[[_Storm, Fiber | None, float], bool], bool], ...] = (
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
        (START, _start, False),
    )

    # ---- the calm after it

    def _calm(self) -> None:
        world = self.world
        world.aftermath()
        movements = dict(world.watch.times_moved)
        for wanted in self.wanted:
            if wanted.channel != "queue":
                world.finish(world.refund(wanted.order, wanted.amount, wanted.key, merchant=wanted.merchant))
        # What was refused for want of money may go through now that other refunds have failed; what moved is as it was.
        for refund_id, times in movements.items():
            hold("a repeated request moves nothing again", world.watch.times_moved[refund_id] == times, refund_id[:6])
        world.aftermath()
        world.watch.quiet(world)
        self.tally.counts["refunds"] += len(world.watch.refunds)
        for refund in world.watch.refunds.values():
            self.tally.counts[str(refund["status"])] += 1
        self.tally.counts["movements"] += len(world.indodana.movements)
        self.tally.counts["log lines read"] += len(world.log_lines)

    def _say(self, text: str) -> None:
        if self.story:
            self.tally.lines.append(f"{self.world.now:8.0f} s  {text}")


def merged(tallies: list[dict[str, int]]) -> Counter[str]:
    total: Counter[str] = Counter()
    for tally in tallies:
        total.update(tally)
    return total


def tell(seed: int) -> dict[str, Any]:
    """For a worker process: the seed's counts, or what broke."""
    try:
        return {"seed": seed, "counts": dict(weather(seed).counts)}
    except Violation as violation:
        return {"seed": seed, "violation": str(violation)}
