"""The stack is killed between any two steps and started again: each refund agrees with Indodana's books, or is UNKNOWN.

DynamoDB, SQS and Indodana are outside, so they live on. Several refunds are cut off at once, each at a step of its own,
and their leases are waited for together.
"""

from __future__ import annotations

import itertools
import random
import time
from collections import Counter
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from decimal import Decimal
from http.client import HTTPException
from pathlib import Path
from typing import Any

import pytest

from gateway.core.model import OrderKey, Reason, RefundRequest
from gateway.core.transitions import LEGAL_TRANSITIONS, RefundStatus
from gateway.refunds.recovery import OVERDUE_SECONDS
from testkit.http_caller import Answer
from testkit.indodana.control_client import SimulatorControl
from testkit.processes import Program, until
from tests.e2e.stack import Stack, path

ORDER_AMOUNT = 100_000
# Every order is asked for more than it has: 60 + 30 + 30 %.
PARTS = (60_000, 30_000, 30_000)
LOAD_ROUNDS = 3
ORDERS_PER_ROUND = 5
# Longer than any test here: what is held so is held until the stack is killed.
HELD_SECONDS = 300
# Longer than the load that comes after it, so that no kill but the first can meet it; shorter than the leases.
WAITS_SECONDS = 25
SEED = random.randrange(2**32)


@dataclass(frozen=True)
class Wanted:
    """A refund that somebody asks for, and asks for again in the same words when nothing came back."""

    order_id: str
    amount: int
    key: str
    channel: str  # api, async or queue

    @property
    def refund_id(self) -> str:
        order = OrderKey("m1", self.order_id)
        return RefundRequest(order, self.key, Decimal(self.amount), Reason.OTHERS, None, "back office").refund_id

    def ask(self, stack: Stack) -> Answer | None:
        """None where the stack was killed before it answered, and from the queue, which answers nobody."""
        if self.channel == "queue":
            stack.send(stack.message(self.order_id, self.amount, self.key))
            return None
        with suppress(OSError, HTTPException):
            return self.over_http(stack)
        return None

    def over_http(self, stack: Stack) -> Answer:
        later = {"Prefer": "respond-async"} if self.channel == "async" else {}
        body = {"amount": self.amount, "reason": "OTHERS", "requestedBy": "back office"}
        return stack.call("POST", f"{path(self.order_id)}/refunds", body, headers={"Idempotency-Key": self.key} | later)


class Outside:
    """What outlives the stack: an AWS emulator, Indodana, and those who ask for refunds."""

    def __init__(self, directory: Path, aws: Program, simulator: Program) -> None:
        self.directory = directory
        self.environment = {
            "AWS_ENDPOINT_URL": aws.wait_for(r"listens on (\S+)")[1],
            "UPSTREAM_URL": simulator.wait_for(r"^upstream +(\S+)")[1],
            # What was in flight when the stack was killed is in Indodana's books or never will be.
            "PARAMETERS": "ResolutionHoldSeconds=0",
        }
        self.simulator = SimulatorControl(simulator.wait_for(r"^control +(\S+)")[1])
        self.wanted: list[Wanted] = []
        # What callers heard before the stack was killed.
        self.told: list[tuple[Wanted, Answer]] = []

    def stack(self) -> Stack:
        return Stack(self.directory, self.environment)

    def asks(self, wanted: Wanted, stack: Stack) -> None:
        if answer := wanted.ask(stack):
            self.told.append((wanted, answer))

    def wants(self, order_id: str, amount: int, key: str, channel: str) -> Wanted:
        wanted = Wanted(order_id, amount, key, channel)
        self.wanted.append(wanted)
        return wanted

    def movements(self) -> Counter[str]:
        return Counter(movement["refundId"] for movement in self.simulator.books()["movements"])


@pytest.fixture(scope="module")
def outside(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Outside]:
    directory = tmp_path_factory.mktemp("crash")
    with (
        Program(directory, "devstack.aws", "--port", "0") as aws,
        Program(directory, "testkit.indodana", "--port", "0", "--upstream-port", "0") as simulator,
    ):
        yield Outside(directory, aws, simulator)


@dataclass
class Aftermath:
    """What the last stack, which is left alone, found and made of it."""

    outside: Outside
    stack: Stack
    before_repeats: dict[str, str]
    """The status of each refund by its id, before anybody asked again."""

    def refunds(self) -> dict[str, dict[str, Any]]:
        items = [_plain(item) for item in self.stack.items("ledgerTable")]
        return {item["refundId"]: item for item in items if item["sk"].startswith("REFUND#")}

    def orders(self) -> dict[str, dict[str, Any]]:
        items = [_plain(item) for item in self.stack.items("ledgerTable")]
        return {item["pk"].removeprefix("m1#"): item for item in items if item["sk"] == "ORDER"}


# What each order of the first kill does when the stack dies, and what that must come to.
MOMENTS = {
    "BEFORE-RESERVE": ("slow", "check_status", "api"),
    "BEFORE-RESERVE-Q": ("slow", "check_status", "queue"),
    "BEFORE-MONEY": ("timeout_before", "order_cancellation", "api"),
    "BEFORE-MONEY-Q": ("timeout_before", "order_cancellation", "queue"),
    "AFTER-MONEY": ("timeout_after", "order_cancellation", "api"),
    "AFTER-MONEY-Q": ("timeout_after", "order_cancellation", "queue"),
    "ANSWERING": ("slow", "order_cancellation", "async"),
    "WAITING": ("rate_limited", "order_cancellation", "api"),  # in the queue, by the time of the kill
}


@pytest.fixture(scope="module")
def aftermath(outside: Outside) -> Iterator[Aftermath]:
    kill_at_each_moment(outside)
    kill_under_load(outside)
    with outside.stack() as stack:  # a start in between finds leases that still run, and must leave them alone
        wait = seconds_until_all_is_due(Aftermath(outside, stack, {}))
        stack.kill()
    time.sleep(wait)
    with outside.stack() as stack:
        found = Aftermath(outside, stack, {})
        open_states = {"QUEUED", "SUBMITTING"}
        until(
            lambda: {refund["status"] for refund in found.refunds().values()}, lambda states: not states & open_states
        )
        found.before_repeats = {refund_id: refund["status"] for refund_id, refund in found.refunds().items()}
        yield found


def kill_at_each_moment(outside: Outside) -> None:
    simulator = outside.simulator
    with outside.stack() as stack:
        simulator.add_order("DONE", ORDER_AMOUNT)
        assert outside.wants("DONE", 60_000, "done", "api").over_http(stack).status == 201
        for order, (fault, at, _) in MOMENTS.items():
            simulator.add_order(order, ORDER_AMOUNT)
            # The gateway waits 5 s for a status and 10 s for a cancellation, so it is the kill that ends them.
            options: dict[str, Any] = (
                {"retry_after": WAITS_SECONDS} if fault == "rate_limited" else {"seconds": HELD_SECONDS}
            )
            simulator.fault(fault, path=at, merchant_order_id=order, **options)
        wanted = [outside.wants(order, 60_000, "killed", channel) for order, (_, _, channel) in MOMENTS.items()]
        with ThreadPoolExecutor(len(wanted)) as pool:
            asking = [pool.submit(outside.asks, one, stack) for one in wanted]

            def reached() -> dict[str, str]:
                last = {request["merchantOrderId"]: request["path"] for request in simulator.books()["requests"]}
                return {order: last.get(order, "") for order in MOMENTS}

            there = {order: at for order, (_, at, _) in MOMENTS.items()}
            assert until(reached, there.__eq__) == there
            assert until(lambda: stack.states("WAITING"), ["QUEUED"].__eq__) == ["QUEUED"]
            stack.kill()
        for done in asking:
            done.result()
    simulator.clear_faults()


def kill_under_load(outside: Outside) -> None:
    """Many refunds at once with an Indodana that is slow and fails in every way, killed at a moment nobody chose."""
    chance = random.Random(SEED)
    simulator = outside.simulator
    simulator.settings(seed=SEED)
    for fault in ("reset_after", "reset_before", "error_after", "timeout_after", "conflict"):
        simulator.fault(fault, path="order_cancellation", probability=0.06)
    simulator.fault("rate_limited", probability=0.1)
    simulator.fault("slow", probability=0.9, seconds=0.25)
    for number in range(LOAD_ROUNDS):
        orders = [f"LOAD-{number}-{order}" for order in range(ORDERS_PER_ROUND)]
        wanted = []
        for order in orders:
            simulator.add_order(order, ORDER_AMOUNT)
            wanted += [
                outside.wants(order, amount, f"part-{part}", channel)
                for part, (amount, channel) in enumerate(zip(PARTS, ("api", "async", "queue"), strict=True))
            ]
        # Some are asked for twice at once, as impatient callers and an at-least-once queue do.
        asked = wanted + chance.sample(wanted, 5)
        chance.shuffle(asked)
        asking = []
        with outside.stack() as stack, ThreadPoolExecutor(len(asked)) as pool:
            for one in asked:
                asking.append(pool.submit(outside.asks, one, stack))
            time.sleep(chance.uniform(0.3, 1.6))
            stack.kill()
        for done in asking:
            done.result()
    simulator.clear_faults()


def seconds_until_all_is_due(found: Aftermath) -> float:
    """Until every lease has run out, and every queued refund's own message is so late that another one is sent."""
    due = [datetime.now(UTC)]
    for refund in found.refunds().values():
        if "leaseUntil" in refund:
            due.append(datetime.fromisoformat(refund["leaseUntil"]))
        if refund["status"] == "QUEUED":
            due.append(datetime.fromisoformat(refund["nextAttemptAt"]) + timedelta(seconds=OVERDUE_SECONDS))
    return (max(due) - datetime.now(UTC)).total_seconds() + 0.5


def _plain(item: dict[str, Any]) -> dict[str, Any]:
    """DynamoDB's own types as Python's."""
    return {name: Decimal(value["N"]) if "N" in value else next(iter(value.values())) for name, value in item.items()}


# ---- what must hold


def assert_ledger_and_books_agree(found: Aftermath) -> None:
    refunds, moved = found.refunds(), found.outside.movements()
    note = f"seed {SEED}"
    assert set(moved) <= set(refunds), note
    for refund_id, refund in refunds.items():
        match refund["status"]:
            case "SUCCEEDED":
                assert moved[refund_id] == 1, (refund, note)
            case "FAILED":
                assert moved[refund_id] == 0, (refund, note)
            case "UNKNOWN":
                assert moved[refund_id] <= 1, (refund, note)
            case other:
                pytest.fail(f"{other} is left over: {refund}, {note}")


def assert_sums_are_right(found: Aftermath) -> None:
    by_order: dict[str, list[dict[str, Any]]] = {}
    for refund in found.refunds().values():
        by_order.setdefault(refund["merchantOrderId"], []).append(refund)
    orders = found.orders()
    assert orders
    for order_id, sums in orders.items():

        def total(status: str, order_id: str = order_id) -> Decimal:
            return sum(
                (refund["reservedAmount"] for refund in by_order[order_id] if refund["status"] == status), Decimal()
            )

        assert sums["refunded"] == total("SUCCEEDED"), order_id
        assert sums["reserved"] == total("UNKNOWN"), order_id
        assert sums["amount"] == sums["refunded"] + sums["reserved"] + sums["refundable"] == ORDER_AMOUNT
        assert sums["refundable"] >= 0
        moved = found.outside.simulator.moved("m1", order_id)
        assert sums["refunded"] <= moved <= sums["refunded"] + sums["reserved"]


def test_nothing_is_left_open_and_the_ledger_agrees_with_the_books(aftermath: Aftermath) -> None:
    assert_ledger_and_books_agree(aftermath)
    assert_sums_are_right(aftermath)


def test_what_callers_were_told_before_the_crash_is_still_true(aftermath: Aftermath) -> None:
    assert aftermath.outside.told
    for wanted, answer in aftermath.outside.told:
        now = aftermath.before_repeats.get(wanted.refund_id)
        match answer.status:
            case 201:
                assert now == "SUCCEEDED", answer.text
            case 202:
                assert (
                    now
                    in {"QUEUED": ("SUCCEEDED", "FAILED", "UNKNOWN"), "UNKNOWN": ("UNKNOWN",)}[answer.body["status"]]
                )
            case 422:
                assert now in (None, "FAILED"), answer.text
            case 409:
                assert answer.body["code"] == "REFUND_IN_PROGRESS"
            case other:
                pytest.fail(f"{other} {answer.text}, seed {SEED}")


def test_each_moment_of_the_kill_comes_to_what_the_protocol_says(aftermath: Aftermath) -> None:
    states, moved = aftermath.before_repeats, aftermath.outside.movements()
    refund_ids = {wanted.order_id: wanted.refund_id for wanted in aftermath.outside.wanted if wanted.key == "killed"}

    came = {order: (states.get(refund_id), moved[refund_id]) for order, refund_id in refund_ids.items()}

    assert came == {
        "BEFORE-RESERVE": (None, 0),  # nobody has heard of it; its caller asks again
        "BEFORE-RESERVE-Q": (None, 0),  # its message comes back
        "BEFORE-MONEY": ("UNKNOWN", 0),
        "BEFORE-MONEY-Q": ("UNKNOWN", 0),
        "AFTER-MONEY": ("UNKNOWN", 1),
        "AFTER-MONEY-Q": ("UNKNOWN", 1),
        "ANSWERING": ("UNKNOWN", 1),
        "WAITING": ("SUCCEEDED", 1),
    }


def test_every_step_is_on_record_and_legal(aftermath: Aftermath) -> None:
    steps: dict[str, list[dict[str, Any]]] = {}
    for record in map(_plain, aftermath.stack.items("auditTable")):
        if "refundId" in record and record["action"] != "REFUND_REFUSED":
            steps.setdefault(record["refundId"], []).append(record)
    refunds = aftermath.refunds()
    assert set(steps) == set(refunds)
    for refund_id, records in steps.items():
        records.sort(key=lambda record: record["at"])
        states = [None, *(RefundStatus(record["after"]) for record in records)]
        assert [record.get("before") for record in records] == states[:-1]
        assert all(after in LEGAL_TRANSITIONS[before] for before, after in itertools.pairwise(states))
        assert (states[-1], len(records)) == (refunds[refund_id]["status"], refunds[refund_id]["version"])


def test_a_request_repeated_after_the_crash_is_the_same_refund(aftermath: Aftermath) -> None:
    """What was on record is answered again, what was not is done now; nothing is done twice."""
    stack, before = aftermath.stack, aftermath.before_repeats
    for wanted in aftermath.outside.wanted:
        known = before.get(wanted.refund_id)
        if wanted.channel == "queue":
            wanted.ask(stack)
            continue
        answer = wanted.over_http(stack)
        if known:
            expected = {"SUCCEEDED": 201, "UNKNOWN": 202, "FAILED": 422}[known]
            assert (answer.status, answer.body["refundId"]) == (expected, wanted.refund_id)
            assert answer.headers["idempotency-replayed"] == "true"
        else:
            assert answer.status in (201, 202, 422), answer.text
            assert "idempotency-replayed" not in answer.headers

    def open_or_missing() -> list[Wanted]:
        # A refund that the API refused to begin is in no ledger; one that the queue brought is, whatever came of it.
        refunds = aftermath.refunds()
        return [
            wanted
            for wanted in aftermath.outside.wanted
            if refunds.get(wanted.refund_id, {"status": "QUEUED" if wanted.channel == "queue" else "FAILED"})["status"]
            in ("QUEUED", "SUBMITTING")
        ]

    assert until(open_or_missing, lambda left: not left) == []
    after = aftermath.refunds()
    assert {refund_id: after[refund_id]["status"] for refund_id in before} == before
    assert_ledger_and_books_agree(aftermath)
    assert_sums_are_right(aftermath)


def test_an_operators_evidence_makes_ledger_and_books_agree(aftermath: Aftermath) -> None:
    """Last: after it nothing is UNKNOWN any more."""
    stack, moved = aftermath.stack, aftermath.outside.movements()
    for refund_id, refund in aftermath.refunds().items():
        if refund["status"] == "UNKNOWN":
            outcome = "SUCCEEDED" if moved[refund_id] else "FAILED"
            answer = stack.resolve(refund, outcome)
            assert (answer.status, answer.body["status"]) == (200, outcome), answer.text

    assert_ledger_and_books_agree(aftermath)
    assert_sums_are_right(aftermath)
    for order_id, sums in aftermath.orders().items():
        assert sums["refunded"] == aftermath.outside.simulator.moved("m1", order_id)
        assert sums["reserved"] == 0
