"""The sweep over all open refunds: where a run stops, the next one continues; nothing stops it for good."""

from __future__ import annotations

import logging
import threading
from collections.abc import Callable
from datetime import timedelta
from typing import Any

import pytest
from botocore.exceptions import EndpointConnectionError

from gateway.core.audit import AuditLog
from gateway.core.context import RequestContext
from gateway.core.dynamodb import from_item
from gateway.core.errors import LedgerUnavailable
from gateway.core.items import order_item_key, refund_item_key
from gateway.core.model import OrderKey, Refund
from gateway.refunds import sweep
from gateway.refunds.dead_letters import DeadLetters
from gateway.refunds.queue import RefundQueue
from gateway.refunds.recovery import MOST_LOGGED, STOP_SECONDS, Counts, Recovery
from gateway.refunds.service import RefundResult, RefundService
from gateway.refunds.sweep import Sweep, SweepStore, Totals
from gateway.refunds.threads import in_threads
from testkit.emulator import Sqs
from tests.unit.protocol_world import NOON, ORDER, UNKNOWN, World, died, request

UNREACHABLE = EndpointConnectionError(endpoint_url="https://dynamodb")
QUEUE, DEAD_LETTERS = "https://sqs/refunds", "https://sqs/dead-letters"
PAGE = 2


class Gateway(World):
    """Recovery in pages of two. `seconds_left` is what a run has; a call may take from it."""

    def __init__(self) -> None:
        super().__init__()
        self.sqs = Sqs(self.clock, 240, 5, url=QUEUE, dead_letter_url=DEAD_LETTERS)
        self.queue = RefundQueue(self.sqs, QUEUE, DEAD_LETTERS)  # type: ignore[arg-type]
        self.store = SweepStore(self.dynamo, "ledger")  # type: ignore[arg-type]
        self.pages: list[tuple[Counts, Totals]] = []
        self.failures = 0

    def waiting(self, count: int, first: int = 0) -> list[Refund]:
        """QUEUED, each of its own order, in the order in which recovery meets them."""
        audit_log: Any = AuditLog(self.dynamo, "audit")  # type: ignore[arg-type]
        service = RefundService(self.protocol, self.ledger, audit_log, self.queue, clock=self.clock)
        made: list[Refund] = []
        for number in range(first, first + count):
            self.passes(0.001)
            asked = request(1_000, order=OrderKey("m1", f"ORDER-{number:03}"))
            result = service.refund_later(asked, self.context())
            assert isinstance(result, RefundResult)
            made.append(result.refund)
        return made

    def recover(self, run_all: Any = None, page_size: int = PAGE) -> Counts:
        def failed(count: int) -> None:
            self.failures += count

        recovery = Recovery(
            self.ledger,
            self.protocol,
            self.queue,
            self.store,
            DeadLetters(
                self.queue,
                AuditLog(self.dynamo, "audit"),  # type: ignore[arg-type]
                default_merchant_id="m1",
                merchant_ids=frozenset({"m1"}),
            ),
            clock=self.clock,
            run_all=run_all or (lambda jobs: [job() for job in jobs]),
            on_page=lambda page, totals: self.pages.append((page, totals)),
            on_failures=failed,
            page_size=page_size,
        )
        context = RequestContext("recovery", "schedule", "run-1", seconds_left=lambda: self.seconds_left)
        return recovery.run_once(context)

    def enqueued(self) -> list[str]:
        """The orders that recovery sent a message for, in this order."""
        refunds = [item for item in self.dynamo.items("ledger") if "enqueuedAt" in item]
        return [item["merchantOrderId"]["S"][-3:] for item in refunds]

    def during(self, monkeypatch: pytest.MonkeyPatch, operation: str, happen: Callable[[int], object]) -> None:
        """Before each call of this operation; it gets the number of the call, from 1 on."""
        call, calls = getattr(self.dynamo, operation), [0]

        def called(**arguments: Any) -> Any:
            calls[0] += 1
            happen(calls[0])
            return call(**arguments)

        monkeypatch.setattr(self.dynamo, operation, called)

    def stored(self) -> dict[str, Any] | None:
        found = [item for item in self.dynamo.items("ledger") if item["pk"] == sweep.KEY["pk"]]
        return from_item(found[0]) if found else None

    def unreadable(self, name: str) -> None:
        item = {"pk": f"m1#{name}", "sk": "REFUND#x", "openKey": "m1#QUEUED", "openSince": name}
        self.dynamo.put_item(TableName="ledger", Item={key: {"S": text} for key, text in item.items()})


@pytest.fixture
def gateway() -> Gateway:
    return Gateway()


class Killed(BaseException):
    """The process was killed."""


def killed() -> None:
    raise Killed


# ---- one run


def test_one_run_reaches_every_page_and_ends_the_sweep(gateway: Gateway) -> None:
    gateway.waiting(5)
    gateway.passes(60)
    counts = gateway.recover()
    assert (counts.looked_at, counts.queued, counts.enqueued, counts.errors) == (5, 5, 5, 0)
    assert gateway.enqueued() == ["000", "001", "002", "003", "004"]
    assert [page.looked_at for page, _ in gateway.pages] == [2, 2, 1]
    stored = gateway.stored()
    assert stored
    assert ("start" in stored, set(stored["totals"].values())) == (False, {0})


def test_a_sweep_of_one_page_stores_nothing(gateway: Gateway) -> None:
    gateway.waiting(1)
    gateway.passes(60)
    assert gateway.recover().enqueued == 1
    assert gateway.stored() is None


def test_each_page_is_counted_with_the_sweeps_totals(gateway: Gateway) -> None:
    gateway.waiting(3)
    died(gateway, request(2_000, "unknown"))
    gateway.passes(60)
    gateway.recover()
    # The third page is empty: DynamoDB does not look further than it is asked to.
    assert [(totals.queued, totals.unknown) for _, totals in gateway.pages] == [(2, 0), (3, 1), (3, 1)]
    ages: Any = [(page.oldest_queued_seconds, page.oldest_unknown_seconds) for page, _ in gateway.pages]
    assert ages == [(105.002, 0), (105, 105), (0, 0)]


def test_threads_share_a_page_and_no_refund_twice(gateway: Gateway, monkeypatch: pytest.MonkeyPatch) -> None:
    gateway.waiting(2)
    gateway.passes(60)

    def run_all(jobs: Any) -> list[int]:
        raise AssertionError("up to ten refunds are not worth a thread")

    assert gateway.recover(run_all).enqueued == 2

    gateway.waiting(95, first=2)
    gateway.passes(40)
    one_at_a_time = threading.Lock()
    jobs_of: list[int] = []

    def locked(call: Callable[..., Any]) -> Callable[..., Any]:
        def called(**arguments: Any) -> Any:
            with one_at_a_time:
                return call(**arguments)

        return called

    def interleaved(jobs: Any) -> list[int]:
        jobs_of.append(len(jobs))
        return in_threads(jobs)

    monkeypatch.setattr(gateway.dynamo, "update_item", locked(gateway.dynamo.update_item))
    monkeypatch.setattr(gateway.sqs, "send_message_batch", locked(gateway.sqs.send_message_batch))
    assert gateway.recover(interleaved, page_size=1000).enqueued == 95
    assert jobs_of == [10]
    assert len(set(gateway.enqueued())) == 97
    tokens = [message["MessageAttributes"]["token"]["StringValue"] for message in gateway.sqs.messages(QUEUE)]
    assert len(set(tokens)) == len(tokens) == 2 * 97


# ---- a run that stops


@pytest.mark.parametrize("stops_at", range(1, 5))
def test_the_next_run_continues_where_time_was_short(
    gateway: Gateway, monkeypatch: pytest.MonkeyPatch, stops_at: int
) -> None:
    gateway.waiting(5)
    gateway.passes(60)

    def short(call: int) -> None:
        if call == stops_at:
            gateway.seconds_left = STOP_SECONDS - 0.1

    gateway.during(monkeypatch, "update_item", short)
    assert gateway.recover().enqueued == stops_at
    gateway.seconds_left = 60
    looked_at = gateway.recover().looked_at
    assert looked_at == 5 - stops_at  # no refund again
    assert gateway.enqueued() == ["000", "001", "002", "003", "004"]


def test_a_run_without_time_loses_no_position(gateway: Gateway, monkeypatch: pytest.MonkeyPatch) -> None:
    gateway.waiting(5)
    gateway.passes(60)
    scans: list[int] = []

    def short(call: int) -> None:
        scans.append(call)
        gateway.seconds_left = STOP_SECONDS - 0.1

    gateway.during(monkeypatch, "scan", short)
    for _ in range(3):  # the page is read, and then there is no time for a refund of it
        gateway.seconds_left = 60
        assert gateway.recover().looked_at == 0
    assert len(scans) == 3
    monkeypatch.undo()
    gateway.seconds_left = 60
    assert gateway.recover().enqueued == 5


def test_the_totals_go_on_over_runs(gateway: Gateway, monkeypatch: pytest.MonkeyPatch) -> None:
    gateway.waiting(5)
    gateway.passes(60)

    def short(call: int) -> None:
        if call in (3, 4):
            gateway.seconds_left = STOP_SECONDS - 0.1

    gateway.during(monkeypatch, "update_item", short)
    for _ in range(3):
        gateway.seconds_left = 60
        gateway.recover()
    assert [totals.queued for _, totals in gateway.pages] == [2, 3, 4, 5]
    gateway.seconds_left = 60
    gateway.recover()
    assert gateway.pages[-1][1].queued == 5  # of the next sweep


@pytest.mark.parametrize("operation", ["scan", "put_item", "update_item"])
@pytest.mark.parametrize("call", range(1, 5))
def test_after_a_kill_at_any_call_every_refund_is_reached(
    gateway: Gateway, monkeypatch: pytest.MonkeyPatch, operation: str, call: int
) -> None:
    gateway.waiting(5)
    gateway.passes(60)
    with monkeypatch.context() as patched:
        gateway.during(patched, operation, lambda number: killed() if number == call else None)
        try:
            gateway.recover()
        except Killed:
            pass
        else:
            assert (operation, call) in {("scan", 4), ("put_item", 4)}
    gateway.recover()
    gateway.recover()  # the first may have ended the sweep
    assert len(gateway.enqueued()) == 5


def test_a_page_that_kills_each_run_stops_no_other(gateway: Gateway, monkeypatch: pytest.MonkeyPatch) -> None:
    poison = gateway.waiting(6)[2]
    gateway.passes(60)
    update = gateway.dynamo.update_item

    def poisoned(**arguments: Any) -> Any:
        if arguments["Key"] == refund_item_key(poison.request.order, poison.refund_id):
            killed()
        return update(**arguments)

    monkeypatch.setattr(gateway.dynamo, "update_item", poisoned)
    with pytest.raises(Killed):
        gateway.recover()
    gateway.recover()
    # 003 shares the page, and is behind the poison: it waits until the process survives.
    assert gateway.enqueued() == ["000", "001", "004", "005"]


def test_a_ledger_that_cannot_be_listed_fails_the_run(gateway: Gateway, monkeypatch: pytest.MonkeyPatch) -> None:
    gateway.waiting(5)
    gateway.passes(60)

    def fail(call: int) -> None:
        if call == 2:
            raise UNREACHABLE

    gateway.during(monkeypatch, "scan", fail)
    with pytest.raises(LedgerUnavailable):
        gateway.recover()
    assert len(gateway.pages) == 1  # what was done is counted
    assert gateway.recover().looked_at == 3
    assert len(gateway.enqueued()) == 5


# ---- the stored position


@pytest.mark.parametrize(
    "change",
    [
        {"start": {"M": {"pk": {"S": "m1#ORDER-003"}}}},
        {"start": {"M": {name: {"N": "1"} for name in ("pk", "sk", "openKey", "openSince")}}},
        {"start": {"S": "m1#ORDER-003"}},
        {"totals": {"S": "many"}},
        {"totals": {"M": {"queued": {"S": "many"}}}},
        {"totals": {"M": {"later": {"N": "1"}}}},
        {"logged": {"M": {"m1#X / REFUND#x": {"S": "yesterday"}}}},
        {"token": {"N": "7"}},
        {"token": None, "start": None},
        {"token": None, "start": None, "totals": None, "logged": None},
    ],
)
def test_a_position_that_cannot_be_read_begins_a_new_sweep(gateway: Gateway, change: dict[str, Any]) -> None:
    """And is replaced, whatever is in it."""
    gateway.waiting(5)
    gateway.passes(60)
    usable = sweep.KEY | {"token": {"S": "t"}, "totals": {"M": {}}, "logged": {"M": {}}}
    item = {name: value for name, value in (usable | change).items() if value is not None}
    gateway.dynamo.put_item(TableName="ledger", Item=item)
    assert (gateway.recover().enqueued, len(gateway.pages)) == (5, 3)
    assert set((gateway.stored() or {})["totals"]) == set(vars(Totals()))


@pytest.mark.parametrize("where", ["m1#A", "m1#ORDER-002", "m1#ZZZ"])
def test_an_old_position_only_changes_the_order(gateway: Gateway, where: str) -> None:
    """Of a restored table, or of a refund that is settled since."""
    refunds = gateway.waiting(5)
    gateway.passes(60)
    since = refunds[2].updated_at.isoformat()
    start = {"pk": where, "sk": "REFUND#x", "openKey": "m1#QUEUED", "openSince": since}
    old = Sweep(start={name: {"S": text} for name, text in start.items()})
    assert gateway.store.move(Sweep(), old)
    for _ in range(2):
        gateway.recover()
    assert len(gateway.enqueued()) == 5


def test_two_runs_at_once_do_not_share_a_page(gateway: Gateway, monkeypatch: pytest.MonkeyPatch) -> None:
    """The second one starts while the first one reads its first page. Who stores a position first goes on."""
    gateway.waiting(5)
    gateway.passes(60)
    second: list[Counts] = []

    def other_run(call: int) -> None:
        if call == 1:
            second.append(gateway.recover())

    gateway.during(monkeypatch, "scan", other_run)
    first = gateway.recover()
    assert (first.looked_at, second[0].looked_at) == (0, 5)
    assert first.errors == second[0].errors == 0
    assert len(gateway.enqueued()) == len(gateway.sqs.messages(QUEUE)) - 5 == 5


def test_a_store_that_fails_stops_no_refund(gateway: Gateway, monkeypatch: pytest.MonkeyPatch) -> None:
    gateway.waiting(5)
    gateway.passes(60)

    def fail(_: int) -> None:
        raise UNREACHABLE

    gateway.during(monkeypatch, "put_item", fail)
    counts = gateway.recover()
    assert (counts.enqueued, counts.errors) == (5, 3)
    assert sum(page.errors for page, _ in gateway.pages) == 3


def test_an_own_write_that_the_sdk_repeats_is_recognised(gateway: Gateway, monkeypatch: pytest.MonkeyPatch) -> None:
    put = gateway.dynamo.put_item

    def twice(**request: Any) -> Any:
        put(**request)  # its response is lost
        return put(**request)

    first = gateway.store.move(Sweep(), Sweep())
    assert first
    monkeypatch.setattr(gateway.dynamo, "put_item", twice)
    second = gateway.store.move(first, Sweep())
    assert second
    assert gateway.store.move(first, Sweep()) is None
    assert gateway.store.move(second, Sweep())


def test_a_position_that_is_not_returned_is_no_beginning(gateway: Gateway, monkeypatch: pytest.MonkeyPatch) -> None:
    unprocessed = {"Responses": {}, "UnprocessedKeys": {"ledger": {"Keys": [sweep.KEY]}}}
    monkeypatch.setattr(gateway.dynamo, "batch_get_item", lambda **_: unprocessed)
    with pytest.raises(LedgerUnavailable):
        gateway.store.read()


def test_the_position_is_in_a_partition_that_no_merchant_can_have() -> None:
    pk = sweep.KEY["pk"]["S"]
    assert pk.startswith("#")
    assert pk != order_item_key(ORDER)["pk"]["S"]


# ---- unreadable items


def logged(caplog: pytest.LogCaptureFixture) -> list[str]:
    lines = [line.getMessage() for line in caplog.records if line.levelno == logging.ERROR]
    caplog.clear()
    return [line.partition("ledger: ")[2].partition(" / ")[0] for line in lines]


def test_an_unreadable_item_is_counted_each_run_and_logged_once_an_hour(
    gateway: Gateway, caplog: pytest.LogCaptureFixture
) -> None:
    gateway.unreadable("X")
    gateway.waiting(3)
    for minute in range(130):
        counts = gateway.recover()
        assert (counts.unreadable, counts.errors) == (1, 1)
        assert gateway.pages[-1][1].unreadable == 1
        assert logged(caplog) == (["m1#X"] if minute in (0, 60, 120) else [])
        gateway.passes(60)


def test_each_unreadable_item_has_its_own_hour(gateway: Gateway, caplog: pytest.LogCaptureFixture) -> None:
    gateway.unreadable("X")
    gateway.recover()
    assert logged(caplog) == ["m1#X"]
    gateway.passes(1800)
    gateway.unreadable("Y")
    gateway.recover()
    assert logged(caplog) == ["m1#Y"]
    gateway.passes(1800)
    gateway.recover()
    assert logged(caplog) == ["m1#X"]


def test_a_flood_of_unreadable_items_is_not_logged_as_a_whole(
    gateway: Gateway, caplog: pytest.LogCaptureFixture
) -> None:
    for number in range(MOST_LOGGED + 7):
        gateway.unreadable(f"X{number:03}")
    assert gateway.recover().unreadable == MOST_LOGGED + 7
    assert len(logged(caplog)) == MOST_LOGGED
    gateway.passes(60)
    assert gateway.recover().unreadable == MOST_LOGGED + 7
    assert logged(caplog) == []


def test_an_unreadable_item_is_logged_by_one_of_two_runs(
    gateway: Gateway, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    gateway.unreadable("X")
    gateway.during(monkeypatch, "scan", lambda call: gateway.recover() if call == 1 else None)
    gateway.recover()
    assert logged(caplog) == ["m1#X"]


def test_failures_outside_of_pages_are_counted(gateway: Gateway, monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(**_: object) -> None:
        raise UNREACHABLE

    gateway.recover()
    assert gateway.failures == 0
    monkeypatch.setattr(gateway.sqs, "receive_message", fail)
    assert gateway.recover().errors == 1
    assert gateway.failures == 1


def test_a_refund_that_stays_submitting_is_as_old_as_its_attempt(
    gateway: Gateway, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Its lease is over, and the ledger cannot be written: nothing else would show it."""
    gateway.indodana.during = killed
    with pytest.raises(Killed):
        gateway.attempt(request())
    gateway.passes(300)

    def fail(**_: object) -> None:
        raise UNREACHABLE

    monkeypatch.setattr(gateway.dynamo, "transact_write_items", fail)
    counts = gateway.recover()
    assert (counts.submitting, counts.oldest_submitting_seconds, counts.errors) == (1, 300, 1)
    monkeypatch.undo()
    counts = gateway.recover()
    assert (counts.submitting, counts.unknown, counts.leases_expired) == (0, 1, 1)
    assert gateway.read(request()).refund.status is UNKNOWN
    assert gateway.now == NOON + timedelta(seconds=300)
