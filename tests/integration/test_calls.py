"""Counts the calls to AWS and to Indodana and the DynamoDB request units of each route and flow.

The numbers are those of the table in docs/cost.md: what the gateway costs is calculated from them.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path
from typing import Any

import pytest

from bench.functions import model_against
from bench.growth import FIGURES, Usage
from bench.metered import MeteredStub
from gateway.core.protocol import LEASE_SECONDS
from gateway.runtime import bootstrap
from gateway.runtime.settings import Settings
from testkit.indodana.control_client import SimulatorControl
from tests.world import Answer, Clock, Killed, World

DOCUMENT = Path(__file__).parents[2] / "docs" / "cost.md"

type Counts = dict[str, tuple[float, ...]]

# Calls to AWS, calls to Indodana, write units of both tables, write units of the index, read units.
COUNTS: Counts = {
    "status check": (1, 1, 1, 0, 0),
    "status check, first of its process": (2, 1, 1, 0, 0),
    "refund by API, first of its order": (3, 2, 12, 2, 2),
    "refund by API, order opened by another process": (3, 1, 12, 2, 2),
    "refund by API, order known to the process": (2, 1, 12, 2, 0),
    "refund by API, repeated with the same key": (1, 0, 0, 0, 2),
    "refund by API, `Prefer: respond-async`": (3, 0, 4, 1, 2),
    "… its message at the worker": (3, 2, 12, 3, 2),
    "message of the refund queue": (3, 2, 12, 2, 2),
    "batch of ten messages": (21, 20, 120, 20, 20),
    "withdraw a refund": (2, 0, 4, 1, 1),
    "resolve a refund": (2, 0, 6, 1, 1),
    "read one refund": (1, 0, 0, 0, 1),
    "list an order's refunds": (1, 0, 0, 0, 1),
    "list open refunds": (1, 0, 0, 0, 0.5),
    "read an order's timeline": (1, 0, 0, 0, 1),
    "recovery run, nothing open": (3, 0, 0, 0, 1.5),
    "recovery run, an overdue refund": (5, 0, 1, 1, 1.5),
    "recovery run, an expired lease": (4, 0, 4, 2, 1.5),
}


@pytest.fixture(scope="module")
def counted() -> Iterator[Counts]:
    with MeteredStub() as stub, pytest.MonkeyPatch.context() as monkeypatch:
        stub.set_latencies(upstream=0, call=0, transaction=0)
        monkeypatch.setenv("AWS_ENDPOINT_URL", stub.url)
        settings = Settings.from_environment(model_against(stub.url).environment())
        world = World(settings, SimulatorControl(stub.url), Clock())
        monkeypatch.setattr(bootstrap, "gateway", lambda: world.gateway)
        yield count(stub, world)


def count(stub: MeteredStub, world: World) -> Counts:
    counts: Counts = {}

    def counting[T](flow: str, run: Callable[[], T]) -> T:
        stub.take_metered()
        result = run()
        usage = Usage.of(stub.take_metered(), seconds=0)
        counts[flow] = tuple(figure(usage) for figure in FIGURES.values())
        return result

    def api(flow: str, call: Callable[[], Answer], status: int) -> Answer:
        answer = counting(flow, call)
        assert answer.status == status, (flow, answer.text)
        return answer

    def work(flow: str, messages: list[Any]) -> None:
        assert counting(flow, lambda: world.work(messages)) == [], flow

    def messages_for(*orders: str) -> list[Any]:
        for order in orders:
            world.send(order, f"key-of-{order}", amount=100)
        return world.receive()

    def new_process() -> None:
        world.reassemble()
        world.status("ORDER")  # reads the secret

    api("status check, first of its process", lambda: world.status("ORDER"), 200)
    api("status check", lambda: world.status("ORDER"), 200)
    first = api("refund by API, first of its order", lambda: world.refund("ORDER", 100, key="key-1"), 201)
    api("refund by API, order known to the process", lambda: world.refund("ORDER", 100), 201)
    new_process()
    api("refund by API, order opened by another process", lambda: world.refund("ORDER", 100), 201)
    new_process()
    api("refund by API, repeated with the same key", lambda: world.refund("ORDER", 100, key="key-1"), 201)

    work("message of the refund queue", messages_for("ORDER-QUEUE"))
    work("batch of ten messages", messages_for(*(f"ORDER-BATCH-{number}" for number in range(10))))

    run = counting("recovery run, nothing open", world.recover)
    assert run["queued"] + run["submitting"] + run["unknown"] == 0
    api("refund by API, `Prefer: respond-async`", lambda: world.refund("ORDER-LATER", 100, later=True), 202)
    work("… its message at the worker", world.receive())

    waiting = world.refund("ORDER-OVERDUE", 100, later=True).body
    world.receive()
    world.clock.pass_seconds(3600)
    assert counting("recovery run, an overdue refund", world.recover)["enqueued"] == 1
    withdraw = partial(world.withdraw, "ORDER-OVERDUE", waiting["refundId"], version=waiting["version"])
    api("withdraw a refund", withdraw, 200)

    world.die_during("cancel")
    with pytest.raises(Killed):
        world.refund("ORDER-DIED", 100)
    new_process()
    world.clock.pass_seconds(LEASE_SECONDS + 1)
    assert counting("recovery run, an expired lease", world.recover)["leases_expired"] == 1
    [unknown] = api("list open refunds", world.open_refunds, 200).body["refunds"]
    world.wait_out_the_hold()
    resolve = partial(world.resolve, "ORDER-DIED", unknown["refundId"], "FAILED", version=unknown["version"])
    api("resolve a refund", resolve, 200)

    api("read one refund", lambda: world.get("ORDER", first.body["refundId"]), 200)
    api("list an order's refunds", lambda: world.list_refunds("ORDER"), 200)
    counting("read an order's timeline", lambda: world.audit("ORDER-LATER"))
    return counts


def test_each_flow_makes_the_calls_in_the_table(counted: Counts) -> None:
    assert counted == COUNTS


def test_docs_cost_has_the_counted_numbers(counted: Counts) -> None:
    table = DOCUMENT.read_text(encoding="utf-8").split("## Calls and request units")[1].split("\n## ")[0]
    rows = [[cell.strip() for cell in line.split("|")[1:-1]] for line in table.splitlines() if line.startswith("|")]
    documented = {title: tuple(map(float, numbers)) for title, *numbers in rows[2:]}
    assert documented == counted
