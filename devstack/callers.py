"""Those who want refunds from a stack that is killed under them, and ask again until they are answered."""

import heapq
import http.client
import itertools
import random
import threading
import time
from collections import Counter
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from decimal import ROUND_DOWN, Decimal
from typing import Any, Self
from urllib.parse import quote, urlsplit

import simplejson

from devstack.errors import DevstackError
from testkit.indodana.fields import CENT, plain

# More would only wait for each other: the emulated DynamoDB does one thing at a time.
CALLERS = 8
# The last part of the storm has no new orders, only what is left of the others.
ASKING_SHARE = 0.9
# The gateway gives up after 30 s, and says so.
ANSWER_SECONDS = 35.0
# What a caller waits who got no answer; a 409 says how long the lease may last, and nobody is that patient.
NO_ANSWER_SECONDS = (0.2, 1.0)
MOST_RETRY_AFTER_SECONDS = 4.0

type Item = dict[str, Any]
type Where = Callable[[], Item]
"""The stack's `stack.json`: where it is now, or was until it was killed."""


class CallerError(DevstackError):
    """A caller broke down, so the run says nothing about the gateway."""


@dataclass(frozen=True)
class Wanted:
    """A refund that somebody wants; `amount` None is all that remains."""

    order_id: str
    key: str
    amount: Decimal | None

    @property
    def body(self) -> Item:
        body: Item = {"reason": "ITEMS_RETURNED", "requestedBy": "back office"}
        return body if self.amount is None else body | {"amount": self.amount}


@dataclass(frozen=True)
class Ask:
    """One caller's wish, asked again until there is an answer. `channel`: now, later or queue."""

    number: int
    wanted: Wanted
    channel: str


@dataclass(frozen=True)
class Plan:
    orders: dict[str, Decimal]
    """What was paid for each."""
    asks: list[list[Ask]]
    """By order: these come at once."""

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
                # Some are wanted twice at once, as impatient callers and an at-least-once queue do.
                for _ in range(chance.choice((1, 1, 1, 1, 2))):
                    channel = chance.choices(("now", "later", "queue"), (5, 2, 3))[0]
                    together.append(Ask(next(numbers), Wanted(order_id, f"part-{part}", wanted), channel))
            chance.shuffle(together)
            asks.append(together)
        return cls(amounts, asks)


@dataclass(frozen=True)
class Answer:
    status: int
    retry_after_seconds: float
    body: Item


def call(
    info: Item, method: str, path: str, body: Item | None = None, headers: Mapping[str, str] | None = None
) -> Answer:
    """Raises OSError, HTTPException: there was no answer."""
    address = urlsplit(info["baseUrl"])
    connection = http.client.HTTPConnection(address.hostname or "", address.port, timeout=ANSWER_SECONDS)
    data = None if body is None else simplejson.dumps(body, use_decimal=True)
    try:
        connection.request(
            method,
            path,
            data,
            {"Authorization": f"Bearer {info['token']}", "Content-Type": "application/json", **(headers or {})},
        )
        answer = connection.getresponse()
        text = answer.read()
        wait = answer.getheader("retry-after", "1")
    finally:
        connection.close()
    return Answer(answer.status, float(wait), simplejson.loads(text, use_decimal=True))


def refunds_path(order_id: str) -> str:
    return f"/v1/transactions/{quote(order_id, safe='')}/refunds"


class Callers:
    """A few threads that ask what is due, and ask again where no answer came."""

    def __init__(self, plan: Plan, seed: int, seconds: float, where: Where, sqs: Any) -> None:
        self._where = where
        self._sqs = sqs
        self._chance = random.Random(f"callers {seed}")
        now = time.monotonic()
        # Orders come one after the other through the storm; what is asked of one comes at once.
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
        """What is no reason to ask again."""
        self.answers: Counter[str] = Counter()
        self.sent: Counter[Wanted] = Counter()
        """Messages in the queue."""
        for number in range(CALLERS):
            threading.Thread(target=self._run, name=f"caller-{number}", daemon=True).start()

    def left(self) -> int:
        """How many have no answer yet."""
        with self._changed:
            if self._error:
                raise CallerError(f"a caller broke down: {self._error!r}") from self._error
            return len(self._due) + self._asking

    def stop(self) -> None:
        with self._changed:
            self._stopping = True
            self._changed.notify_all()

    def send(self, wanted: Wanted) -> None:
        body = wanted.body | {"merchantOrderId": wanted.order_id, "idempotencyKey": wanted.key}
        with self._changed:
            self.sent[wanted] += 1  # before it is there, so that a message more can never be one that was lost
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
        """None: that was it. Else the seconds until it is asked again."""
        if ask.channel == "queue":
            self.send(ask.wanted)
            return None
        headers = {"Idempotency-Key": ask.wanted.key} | ({"Prefer": "respond-async"} if ask.channel == "later" else {})
        try:
            answer = call(self._where(), "POST", refunds_path(ask.wanted.order_id), ask.wanted.body, headers)
        except (OSError, http.client.HTTPException):
            with self._changed:
                self.answers["no answer"] += 1
                wait = self._chance.uniform(*NO_ANSWER_SECONDS)
            time.sleep(wait)  # the others get no answer now, either
            return 0.0
        in_progress = answer.status == 409 and answer.body.get("code") == "REFUND_IN_PROGRESS"
        with self._changed:
            self.answers[f"{answer.status} {answer.body.get('code') or answer.body.get('status', '')}".strip()] += 1
            is_bug = answer.body.get("code") == "INTERNAL_ERROR"
            if in_progress or (answer.status >= 500 and not is_bug):
                return min(answer.retry_after_seconds, MOST_RETRY_AFTER_SECONDS) * self._chance.uniform(0.5, 1)
            self.told.append((ask, answer))
        return None
