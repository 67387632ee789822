"""Callers that request refunds from a stack while it is being killed, and repeat each request until it is answered."""

import heapq
import http.client
import itertools
import random
import threading
import time
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass
from decimal import ROUND_DOWN, Decimal
from typing import Any, Self
from urllib.parse import quote

import simplejson

from devstack.errors import DevstackError
from testkit.http_caller import Answer, call
from testkit.indodana.fields import CENT, plain

# More would only wait for each other: the emulated DynamoDB works on one request at a time.
CALLERS = 8
# The last part of the load has no new orders, only what is left of the others.
ASKING_SHARE = 0.9
# How long a caller waits after no answer. A 409 names the whole lease, longer than callers wait.
NO_ANSWER_SECONDS = (0.2, 1.0)
MOST_RETRY_AFTER_SECONDS = 4.0

type Item = dict[str, Any]
type Where = Callable[[], Item]
"""The stack's `stack.json`: where it is now, or was until it was killed."""


class CallerError(DevstackError):
    """A caller failed, so the run says nothing about the gateway."""


@dataclass(frozen=True)
class Wanted:
    """A refund to request; `amount` None means all that remains."""

    order_id: str
    key: str
    amount: Decimal | None

    @property
    def body(self) -> Item:
        body: Item = {"reason": "ITEMS_RETURNED", "requestedBy": "back office"}
        return body if self.amount is None else body | {"amount": self.amount}


@dataclass(frozen=True)
class Ask:
    """One request, repeated until it is answered. `channel`: now, later or queue."""

    number: int
    wanted: Wanted
    channel: str


@dataclass(frozen=True)
class Plan:
    orders: dict[str, Decimal]
    """What was paid for each."""
    asks: list[list[Ask]]
    """By order; those of one order are sent at once."""

    @classmethod
    def of_seed(cls, seed: int, orders: int) -> Self:
        chance = random.Random(f"plan {seed}")
        numbers = itertools.count()
        amounts: dict[str, Decimal] = {}
        asks: list[list[Ask]] = []
        for index in range(orders):
            order_id = f"CHAOS-{index:03d}"
            amounts[order_id] = amount = chance.randrange(20, 500) * 1000 + chance.choice((Decimal(0), Decimal("0.5")))
            together: list[Ask] = []
            for part in range(chance.choice((2, 2, 3, 3))):
                kind = chance.choices(("part", "rest", "too much"), (6, 2, 1))[0]
                share = Decimal(chance.randrange(20, 65)) / 100
                wanted = {
                    "part": plain((amount * share).quantize(CENT, ROUND_DOWN)),
                    "rest": None,
                    "too much": amount + 1,
                }[kind]
                # Some are sent twice at once, as impatient callers and an at-least-once queue do.
                for _ in range(chance.choice((1, 1, 1, 1, 2))):
                    channel = chance.choices(("now", "later", "queue"), (5, 2, 3))[0]
                    together.append(Ask(next(numbers), Wanted(order_id, f"part-{part}", wanted), channel))
            chance.shuffle(together)
            asks.append(together)
        return cls(amounts, asks)


def refunds_path(order_id: str) -> str:
    return f"/v1/transactions/{quote(order_id, safe='')}/refunds"


class Callers:
    """A few threads that send what is due, and send it again where no answer came."""

    def __init__(self, plan: Plan, seed: int, seconds: float, where: Where, sqs: Any) -> None:
        self._where = where
        self._sqs = sqs
        self._chance = random.Random(f"callers {seed}")
        now = time.monotonic()
        # Orders follow each other; the requests of one order are sent at once.
        self._due = [
            (now + seconds * ASKING_SHARE * index / len(plan.asks), ask.number, ask)
            for index, together in enumerate(plan.asks)
            for ask in together
        ]
        heapq.heapify(self._due)
        self._changed = threading.Condition()
        self._asking = 0
        self._stopping = False
        self._error: BaseException | None = None
        self.told: list[tuple[Ask, Answer]] = []
        """Answers that end the repeating."""
        self.answers: Counter[str] = Counter()
        self.sent: Counter[Wanted] = Counter()
        """Messages in the queue."""
        for number in range(CALLERS):
            threading.Thread(target=self._run, name=f"caller-{number}", daemon=True).start()

    def left(self) -> int:
        """How many have no answer yet."""
        with self._changed:
            if self._error:
                raise CallerError(f"a caller failed: {self._error!r}") from self._error
            return len(self._due) + self._asking

    def stop(self) -> None:
        with self._changed:
            self._stopping = True
            self._changed.notify_all()

    def send(self, wanted: Wanted) -> None:
        body = wanted.body | {"merchantOrderId": wanted.order_id, "idempotencyKey": wanted.key}
        with self._changed:
            self.sent[wanted] += 1  # before it is sent, so that the queue never holds a message that is not counted
        self._sqs.send_message(QueueUrl=self._where()["queueUrl"], MessageBody=simplejson.dumps(body, use_decimal=True))

    def _run(self) -> None:
        try:
            while (ask := self._next()) is not None:
                wait = self._ask(ask)
                with self._changed:
                    self._asking -= 1
                    if wait is not None:
                        heapq.heappush(self._due, (time.monotonic() + wait, ask.number, ask))
                    self._changed.notify_all()
        except BaseException as error:
            with self._changed:
                self._error = error

    def _next(self) -> Ask | None:
        with self._changed:
            while not self._stopping and (self._due or self._asking):
                wait = self._due[0][0] - time.monotonic() if self._due else None
                if wait is not None and wait <= 0:
                    self._asking += 1
                    return heapq.heappop(self._due)[2]
                self._changed.wait(wait)
            return None

    def _ask(self, ask: Ask) -> float | None:
        """The seconds until it is sent again; None: it is answered."""
        if ask.channel == "queue":
            self.send(ask.wanted)
            return None
        headers = {"Idempotency-Key": ask.wanted.key} | ({"Prefer": "respond-async"} if ask.channel == "later" else {})
        try:
            stack = self._where()
            target = refunds_path(ask.wanted.order_id)
            answer = call(stack["baseUrl"], "POST", target, ask.wanted.body, token=stack["token"], headers=headers)
        except (OSError, http.client.HTTPException):
            with self._changed:
                self.answers["no answer"] += 1
                wait = self._chance.uniform(*NO_ANSWER_SECONDS)
            time.sleep(wait)  # the other callers get no answer now, either
            return 0.0
        in_progress = answer.status == 409 and answer.body.get("code") == "REFUND_IN_PROGRESS"
        with self._changed:
            self.answers[f"{answer.status} {answer.body.get('code') or answer.body.get('status', '')}".strip()] += 1
            is_bug = answer.body.get("code") == "INTERNAL_ERROR"
            if in_progress or (answer.status >= 500 and not is_bug):
                return min(
                    float(answer.headers.get("retry-after", 1)), MOST_RETRY_AFTER_SECONDS
                ) * self._chance.uniform(0.5, 1)
            self.told.append((ask, answer))
        return None
