"""The merchant's keys are rotated as docs/operations.md tells, several times, while refunds run and statuses are asked.

Two stacks stand on one AWS and one Indodana: each has read the secret for itself, as Lambda's sandboxes have.
"""

from __future__ import annotations

import itertools
import json
import threading
from collections import Counter
from collections.abc import Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from decimal import Decimal
from typing import Any

import pytest

from devstack.aws import client
from gateway.core.model import OrderKey, Reason, RefundRequest
from testkit.http_caller import Answer
from testkit.indodana.control_client import SimulatorControl
from testkit.processes import Program, until
from tests.e2e.stack import Stack

ROTATIONS = 3
CALLERS = 4  # half of them at each stack
ORDER_AMOUNT = 10_000
PART = 1000
# After a step of a rotation each stack gives so many answers, for each of which it calls Indodana: as many as may have
# been asked for before the step, and one more.
ANSWERS_A_STEP = CALLERS // 2 + 1
PATIENCE_SECONDS = 60.0  # on a machine that has much else to do
_numbers = itertools.count(1)

MADE, QUEUED = ("refund", 201, "SUCCEEDED"), ("refund", 202, "QUEUED")
ASKED, REJECTED = ("status", 200, None), ("status", 502, "UPSTREAM_CREDENTIALS_REJECTED")


@dataclass(frozen=True)
class Place:
    """An AWS, an Indodana, and two stacks between them."""

    stacks: list[Stack]
    simulator: SimulatorControl
    secretsmanager: Any

    def rejected(self) -> int:
        return sum(request["answered"] == 401 for request in self.simulator.books()["requests"])

    def logs(self) -> list[str]:
        return [(stack.directory / "functions.log").read_text(encoding="utf-8") for stack in self.stacks]


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Place]:
    directory = tmp_path_factory.mktemp("rotation")
    with ExitStack() as running:
        aws = running.enter_context(Program(directory, "devstack.aws", "--port", "0"))
        ports = ("--port", "0", "--upstream-port", "0")
        simulator = running.enter_context(Program(directory, "testkit.indodana", *ports))
        endpoint = aws.wait_for(r"listens on (\S+)")[1]
        environment = {"AWS_ENDPOINT_URL": endpoint, "UPSTREAM_URL": simulator.wait_for(r"^upstream +(\S+)")[1]}
        yield Place(
            [running.enter_context(Stack(directory / name, environment)) for name in ("one", "other")],
            SimulatorControl(simulator.wait_for(r"^control +(\S+)")[1]),
            client("secretsmanager", endpoint),
        )


class Pair:
    """New keys, and what is done with them at each side."""

    def __init__(self, place: Place) -> None:
        self._place = place
        number = next(_numbers)
        self._keys = (f"key-{number}", f"secret-{number}")

    def is_accepted_beside_the_old(self) -> None:
        self._place.simulator.set_credentials("m1", *self._keys, keep_old=True)

    def is_accepted_alone(self) -> None:
        self._place.simulator.set_credentials("m1", *self._keys)

    def is_stored(self) -> None:
        secret = json.dumps(dict(zip(("apiKey", "secretKey"), self._keys, strict=True)))
        self._place.secretsmanager.put_secret_value(
            SecretId=self._place.stacks[0].info["secretName"], SecretString=secret
        )


class Load:
    """Callers who refund order after order in two parts, one over HTTP and one by a message, and ask for its status."""

    def __init__(self, place: Place) -> None:
        self._place = place
        self._logs_before = [len(log) for log in place.logs()]
        self._answered = threading.Condition()
        self._stopping = threading.Event()
        self._callers: list[Future[None]] = []
        self._answers: Counter[Stack] = Counter()
        self.told: Counter[tuple[str, int, str | None]] = Counter()
        self.wanted: set[str] = set()  # refundIds

    @contextmanager
    def running(self) -> Iterator[None]:
        with ThreadPoolExecutor(CALLERS) as pool:
            stacks = itertools.islice(itertools.cycle(self._place.stacks), CALLERS)
            self._callers = [pool.submit(self._call, stack) for stack in stacks]
            try:
                self.goes_on()
                yield
            finally:
                self._stopping.set()
        for caller in self._callers:
            caller.result()

    def _call(self, stack: Stack) -> None:
        while not self._stopping.is_set():
            order = f"O-{next(_numbers)}"
            self._place.simulator.add_order(order, ORDER_AMOUNT, merchant_id="m1")
            for key in ("http", "message"):
                asked = RefundRequest(OrderKey("m1", order), key, Decimal(PART), Reason.OTHERS, None, "till 3")
                self.wanted.add(asked.refund_id)
            stack.send(stack.message(order, PART, "message"))
            self._hears(stack, "refund", stack.refund(order, PART, key="http"))
            self._hears(stack, "status", stack.status(order))

    def _hears(self, stack: Stack, asked: str, answer: Answer) -> None:
        with self._answered:
            self._answers[stack] += 1
            self.told[asked, answer.status, answer.body.get("code") or answer.body.get("status")] += 1
            self._answered.notify_all()

    def goes_on(self) -> None:
        """Waits for some more answers of each stack."""
        with self._answered:
            enough = {stack: self._answers[stack] + ANSWERS_A_STEP for stack in self._place.stacks}
            there = self._answered.wait_for(lambda: self._answers >= Counter(enough), PATIENCE_SECONDS)
        assert there, [caller.exception() for caller in self._callers if caller.done()] or self.told

    def logged(self) -> str:
        """By both stacks, since the load began."""
        return "".join(log[before:] for log, before in zip(self._place.logs(), self._logs_before, strict=True))

    def refunds(self) -> dict[str, str]:
        """Status by refundId, as the ledger has them."""
        items = [item for item in self._place.stacks[0].items("ledgerTable") if "refundId" in item]
        found = {item["refundId"]["S"]: item["status"]["S"] for item in items}
        return {refund_id: found.get(refund_id, "not on record") for refund_id in self.wanted}

    def moved(self) -> Counter[str]:
        movements = self._place.simulator.books()["movements"]
        return Counter(found["refundId"] for found in movements if found["refundId"] in self.wanted)

    def comes_to_each_refund_made_once(self) -> None:
        found = until(self.refunds, lambda found: set(found.values()) == {"SUCCEEDED"}, PATIENCE_SECONDS)
        assert Counter(found.values()) == {"SUCCEEDED": len(self.wanted)}
        assert self.moved() == dict.fromkeys(self.wanted, 1)
        assert self._place.stacks[0].dead_letters() == []


def test_nobody_notices_a_rotation_in_which_both_pairs_count_for_a_while(place: Place) -> None:
    load = Load(place)
    with load.running():
        for _ in range(ROTATIONS):
            pair, rejected = Pair(place), place.rejected()
            pair.is_accepted_beside_the_old()
            pair.is_stored()
            load.goes_on()  # with the old pair, which both stacks have in hand for some minutes
            assert place.rejected() == rejected
            pair.is_accepted_alone()
            load.goes_on()  # having learned of it by a 401 that no caller hears of
            assert place.rejected() >= rejected + len(place.stacks)

    load.comes_to_each_refund_made_once()
    assert load.told.keys() == {MADE, ASKED}
    assert "RefundOutcomes" in load.logged()
    assert "UpstreamErrors" not in load.logged()
    assert "CredentialFailures" not in load.logged()


def test_keys_that_are_changed_at_once_make_refunds_wait_and_none_fail(place: Place) -> None:
    load = Load(place)
    with load.running():
        pair = Pair(place)
        pair.is_accepted_alone()
        until(load.told.keys, {QUEUED, REJECTED}.issubset, PATIENCE_SECONDS)
        pair.is_stored()

    load.comes_to_each_refund_made_once()
    assert load.told.keys() == {MADE, ASKED, QUEUED, REJECTED}
    assert "CredentialFailures" in load.logged()
