"""The ledger over tables in memory: pages, stale replicas, incomplete answers, and the conditions of its writes."""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterable
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from decimal import Decimal
from typing import Any

import pytest
from botocore.exceptions import ClientError, EndpointConnectionError

from gateway.core.context import RequestContext
from gateway.core.dynamodb import Item, from_item
from gateway.core.errors import (
    IllegalTransition,
    InvalidRequest,
    LedgerBusy,
    LedgerUnavailable,
    NotFound,
    OrderChanged,
    RefundChanged,
    UnreadableItem,
)
from gateway.core.ledger import CONFLICT_BASE_SECONDS, CONFLICT_TRIES, Ledger, Snapshot
from gateway.core.model import (
    Failure,
    FailureCode,
    Order,
    OrderKey,
    Reason,
    Refund,
    RefundRequest,
    iso,
    new_refund,
)
from gateway.core.transitions import LEGAL_TRANSITIONS, RefundStatus
from gateway.core.upstream import UpstreamAnswer
from testkit.emulator import Dynamo

ORDER = OrderKey("m1", "ORDER-1")
NOON = datetime(2026, 11, 27, 12, tzinfo=UTC)
CONTEXT = RequestContext("agent", "api", "request-1")
QUEUED, SUBMITTING, UNKNOWN = RefundStatus.QUEUED, RefundStatus.SUBMITTING, RefundStatus.UNKNOWN
SUCCEEDED, FAILED = RefundStatus.SUCCEEDED, RefundStatus.FAILED
UNREACHABLE = EndpointConnectionError(endpoint_url="https://dynamodb")


class Replica:
    """DynamoDB that lags: whoever does not ask for consistency reads what was before the last write.

    `errors` by operation: what its next calls raise; None lets one through.
    """

    def __init__(self, tables: Dynamo) -> None:
        self.tables = tables
        self.errors: dict[str, list[Exception | None]] = {}
        self.calls: list[tuple[str, dict[str, Any]]] = []

    def __getattr__(self, operation: str) -> Any:
        call = getattr(self.tables, operation)
        if operation == "exceptions":
            return call

        def answer(**request: Any) -> Any:
            self.calls.append((operation, request))
            errors = self.errors.get(operation)
            if errors and (error := errors.pop(0)):
                raise error
            asked = request.get("RequestItems", {"": request}).values()
            may_lag = operation in ("query", "scan", "batch_get_item") and "IndexName" not in request
            if may_lag and not all(part.get("ConsistentRead") for part in asked):
                return self.tables.behind(1, lambda: call(**request))
            return call(**request)

        return answer


class Made:
    def __init__(self) -> None:
        self.tables = Dynamo({"ledger": {"open-refunds": ("openKey", "openSince")}, "audit": {}})
        self.client = Replica(self.tables)
        self.slept: list[float] = []
        self.transitions: list[tuple[Refund | None, Refund]] = []
        self.ledger = Ledger(
            self.client,  # type: ignore[arg-type]
            "ledger",
            "audit",
            sleep=self.slept.append,
            on_transition=lambda before, after: self.transitions.append((before, after)),
        )

    def put(self, refund: Refund, order: Order | None = None) -> Refund:
        self.ledger.transition(None, refund, CONTEXT, order=order)
        return refund

    def read(self, refund: Refund) -> Any:
        return self.ledger.read(refund.request)

    def records(self) -> list[dict[str, Any]]:
        return [from_item(item) for item in self.tables.items("audit")]


@pytest.fixture
def made() -> Made:
    return Made()


def request(key: str = "k", amount: int | None = 1000, order: OrderKey = ORDER) -> RefundRequest:
    return RefundRequest(order, key, None if amount is None else Decimal(amount), Reason.OTHERS, None, "Rina")


def queued(key: str = "k", at: datetime = NOON, order: OrderKey = ORDER, **changes: Any) -> Refund:
    return new_refund(request(key, order=order), QUEUED, at, CONTEXT, **changes)


def submitting(key: str = "k", amount: int = 1000) -> Refund:
    return new_refund(
        request(key, amount),
        SUBMITTING,
        NOON,
        CONTEXT,
        reserved_amount=Decimal(amount),
        transaction_amount=Decimal(5000),
    )


PAID = Order(Decimal(5000), Decimal(5000), stored=False)


# ---- an order's list


def minutes(count: int) -> Iterable[datetime]:
    return (NOON + timedelta(minutes=number) for number in range(count))


def test_an_orders_refunds_come_oldest_first_in_pages(made: Made) -> None:
    refunds = [made.put(queued(f"key-{number}", at)) for number, at in enumerate(minutes(7))]
    made.put(queued("other order", order=OrderKey("m1", "ORDER-2")))
    made.tables.page_size = 2  # of DynamoDB's own pages, which say nothing of ours
    found: list[Refund] = []
    sizes, token = [], None
    while True:
        page = made.ledger.refunds_of(ORDER, 3, token)
        found += page.refunds
        sizes.append(len(page.refunds))
        assert page.order is None  # nothing was reserved yet
        token = page.next_token
        if token is None:
            break
    assert found == refunds
    assert sizes == [3, 3, 1]


def test_refunds_of_one_moment_are_each_on_a_page(made: Made) -> None:
    refunds = {made.put(queued(f"key-{number}")).refund_id for number in range(3)}
    found, token = [], None
    for _ in refunds:
        page = made.ledger.refunds_of(ORDER, 1, token)
        found += [refund.refund_id for refund in page.refunds]
        token = page.next_token
    assert sorted(found) == sorted(refunds)


def test_a_full_last_page_has_no_next(made: Made) -> None:
    for number, at in enumerate(minutes(3)):
        made.put(queued(f"key-{number}", at))
    assert made.ledger.refunds_of(ORDER, 3, None).next_token is None


def test_an_orders_list_has_its_sums(made: Made) -> None:
    refund = made.put(submitting(), PAID)
    page = made.ledger.refunds_of(ORDER, 10, None)
    assert page.refunds == [refund]
    assert page.order == Order(Decimal(5000), Decimal(4000), reserved=Decimal(1000))


def test_an_order_without_refunds_is_not_found(made: Made) -> None:
    made.put(queued())
    with pytest.raises(NotFound):
        made.ledger.refunds_of(OrderKey("m1", "ORDER-2"), 10, None)


def test_a_page_token_opens_no_other_orders_list(made: Made) -> None:
    for order in (ORDER, OrderKey("m1", "ORDER-2")):
        for number, at in enumerate(minutes(2)):
            made.put(queued(f"key-{number}", at, order))
    token = made.ledger.refunds_of(ORDER, 1, None).next_token
    assert token
    with pytest.raises(InvalidRequest):
        made.ledger.refunds_of(OrderKey("m1", "ORDER-2"), 1, token)
    with pytest.raises(InvalidRequest):
        made.ledger.open_refunds_page("m1", QUEUED, 1, token)


# ---- a refund as it is kept


def test_a_refund_is_kept_with_all_that_is_known_of_it(made: Made) -> None:
    asked = RefundRequest(ORDER, "k", None, Reason.ITEMS_RETURNED, "a note", "Rina")
    failure = Failure(FailureCode.UPSTREAM_REFUSED, "refused", 422, "ValidationError", "bad")
    times: dict[str, Any] = {
        name: NOON + timedelta(seconds=number)
        for number, name in enumerate(("lease_until", "sendable_until", "next_attempt_at", "enqueued_at"))
    }
    refund = Refund(
        request=asked,
        status=FAILED,
        created_by="agent",
        created_at=NOON,
        updated_at=NOON + timedelta(seconds=9),
        version=7,
        transition_id="t-1",
        correlation_id="c-1",
        reserved_amount=Decimal("1.5"),
        transaction_amount=Decimal(9),
        attempts=3,
        ambiguous=True,
        queue_message="message-1",
        decision_id="decision-1",
        failure=failure,
        **times,
    )
    made.tables.put_item(TableName="ledger", Item=_item(refund))
    assert made.read(refund).refund == refund
    assert not _item(refund).keys() & {"openKey", "openSince"}

    nothing: dict[str, Any] = dict.fromkeys(times)
    least = replace(refund, failure=Failure(FailureCode.WITHDRAWN, "withdrawn"), **nothing)
    least = replace(least, reserved_amount=None, transaction_amount=None, correlation_id=None, decision_id=None)
    made.tables.put_item(TableName="ledger", Item=_item(least))
    assert made.read(refund).refund == least


# ---- open refunds


def test_open_refunds_come_in_pages_the_longest_waiting_first(made: Made) -> None:
    refunds = [made.put(queued(f"key-{number}", at)) for number, at in enumerate(minutes(3))]
    made.put(submitting("busy"), PAID)
    made.put(queued("other merchant", order=OrderKey("m2", "ORDER-1")))

    first = made.ledger.open_refunds_page("m1", QUEUED, 2, None)
    second = made.ledger.open_refunds_page("m1", QUEUED, 2, first.next_token)
    assert (first.refunds, second.refunds) == (refunds[:2], refunds[2:])
    assert second.next_token is None
    assert [
        refund.request.idempotency_key for refund in made.ledger.open_refunds_page("m1", SUBMITTING, 2, None).refunds
    ] == ["busy"]


def test_a_page_token_opens_no_other_status_or_merchant(made: Made) -> None:
    for number, at in enumerate(minutes(2)):
        made.put(queued(f"key-{number}", at))
    token = made.ledger.open_refunds_page("m1", QUEUED, 1, None).next_token
    assert token
    for merchant, status in (("m2", QUEUED), ("m1", UNKNOWN)):
        with pytest.raises(InvalidRequest):
            made.ledger.open_refunds_page(merchant, status, 1, token)


def test_all_open_refunds_are_read_page_by_page(made: Made) -> None:
    refunds = [made.put(queued(f"key-{number}", at)) for number, at in enumerate(minutes(4))]
    refunds.append(made.put(queued("other merchant", NOON + timedelta(hours=1), order=OrderKey("m2", "ORDER-1"))))
    done = queued("done")
    made.put(done)
    made.ledger.transition(done, done.transition_to(FAILED, NOON), CONTEXT)
    found: list[Refund | None] = []
    end: Item | None = None
    pages = 0
    while end or not pages:
        page = made.ledger.open_refunds_after(end, 2)
        assert len(page.found) <= 2
        found += [refund for _, refund in page.found]
        end = page.end
        pages += 1
    assert found == refunds
    assert pages == 3


def test_a_page_of_open_refunds_starts_anywhere(made: Made) -> None:
    """At a refund's key in the index, also if it is no longer there."""
    refunds = [made.put(queued(f"key-{number}", at)) for number, at in enumerate(minutes(3))]
    first = made.ledger.open_refunds_after(None, 10).found[0].key
    made.ledger.transition(refunds[0], refunds[0].transition_to(FAILED, NOON), CONTEXT)
    assert [refund for _, refund in made.ledger.open_refunds_after(first, 10).found] == refunds[1:]


ODD = {
    name: {"S": text} for name, text in {"pk": "m1#X", "sk": "odd", "openKey": "m1#QUEUED", "openSince": "x"}.items()
}


def test_an_item_that_is_no_refund_stops_no_other(made: Made, caplog: pytest.LogCaptureFixture) -> None:
    refund = made.put(queued())
    made.tables.put_item(TableName="ledger", Item=ODD)

    found = made.ledger.open_refunds_after(None, 10).found
    listed = made.ledger.open_refunds_page("m1", QUEUED, 10, None)

    assert [one.refund for one in found] == [refund, None]
    assert (found[1].key, listed.refunds) == (ODD, [refund])
    [line] = caplog.records
    assert (line.levelno, "m1#X / odd" in line.getMessage()) == (logging.WARNING, True)


def test_an_unreadable_item_fails_reads_of_its_own_order_only(made: Made) -> None:
    broken, other = made.put(queued()), made.put(queued(order=OrderKey("m1", "ORDER-2")))
    item = next(item for item in made.tables.items("ledger") if item["pk"]["S"] == ORDER.partition)
    made.tables.put_item(TableName="ledger", Item={**item, "attempts": {"S": "many"}})

    stale = replace(broken, version=7)
    reads: list[Callable[[], object]] = [
        lambda: made.read(broken),
        lambda: made.ledger.refund(ORDER, broken.refund_id),
        lambda: made.ledger.refunds_of(ORDER, 10, None),
        lambda: made.ledger.record_message(stale, "message-1", NOON),
        lambda: made.ledger.transition(stale, stale.transition_to(FAILED, NOON), CONTEXT),
    ]
    for read in reads:
        with pytest.raises(UnreadableItem, match=f"{ORDER.partition} / REFUND#{broken.refund_id}"):
            read()
    assert made.read(other).refund == other
    assert made.ledger.prefetch([broken.request, other.request]) == [None, Snapshot(None, other)]


# ---- reading one


def test_a_refund_is_read_by_its_id(made: Made) -> None:
    refund = made.put(queued())
    assert made.ledger.refund(ORDER, refund.refund_id) == refund
    for order, refund_id in ((ORDER, "0" * 32), (OrderKey("m1", "ORDER-2"), refund.refund_id)):
        with pytest.raises(NotFound):
            made.ledger.refund(order, refund_id)


def test_reads_are_consistent(made: Made) -> None:
    """On a replica that lags behind the last write."""
    refund = made.put(queued())
    assert made.read(refund).refund == refund
    assert made.ledger.refund(ORDER, refund.refund_id) == refund
    assert made.ledger.prefetch([refund.request])[0].refund == refund  # type: ignore[union-attr]
    assert made.ledger.refunds_of(ORDER, 1, None).refunds == [refund]


def test_the_refund_under_the_key_as_spelled_goes_first(made: Made) -> None:
    spelled = made.put(queued('"k"'))
    both = replace(request(), spelled_key='"k"')
    assert made.ledger.read(both).refund == spelled
    plain = made.put(queued())
    assert made.ledger.read(both).refund == spelled
    assert made.ledger.read(request()).refund == plain


def test_requests_are_prefetched_in_one_call(made: Made) -> None:
    refund = made.put(submitting("a"), PAID)
    made.client.calls.clear()
    missing = request("missing", order=OrderKey("m1", "ORDER-2"))
    found = made.ledger.prefetch([refund.request, request("b"), missing])

    order = Order(Decimal(5000), Decimal(4000), reserved=Decimal(1000))
    assert found == [(order, refund), (order, None), (None, None)]
    assert len(made.client.calls) == 1
    assert made.ledger.prefetch([]) == []
    assert len(made.client.calls) == 1


def test_a_prefetch_that_fails_leaves_each_to_be_read_alone(made: Made, caplog: pytest.LogCaptureFixture) -> None:
    made.client.errors["batch_get_item"] = [UNREACHABLE]
    assert made.ledger.prefetch([request("a"), request("b")]) == [None, None]
    [line] = caplog.records
    assert line.levelno == logging.ERROR
    assert line.exc_info


def test_a_batch_may_answer_nothing_of_a_table(made: Made, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(made.tables, "batch_get_item", lambda **_: {"Responses": {}, "UnprocessedKeys": {}})
    assert made.ledger.read(request()) == (None, None)


def test_an_unreadable_item_spoils_only_its_own_prefetch(made: Made) -> None:
    refund = made.put(queued("a"))
    odd = request("odd")
    made.tables.put_item(
        TableName="ledger", Item={"pk": {"S": ORDER.partition}, "sk": {"S": f"REFUND#{odd.refund_id}"}}
    )
    assert made.ledger.prefetch([odd, refund.request]) == [None, (None, refund)]


def test_an_incomplete_batch_is_completed(made: Made) -> None:
    refunds = [made.put(queued(key)) for key in "abc"]
    made.tables.page_size = 1
    found = made.ledger.prefetch([refund.request for refund in refunds])
    assert [snapshot.refund if snapshot else None for snapshot in found] == refunds
    assert len(made.slept) == 3
    for attempt, seconds in enumerate(made.slept, 1):
        assert CONFLICT_BASE_SECONDS * 2**attempt / 2 <= seconds <= CONFLICT_BASE_SECONDS * 2**attempt


def test_a_batch_that_stays_incomplete_means_the_ledger_is_busy(made: Made) -> None:
    made.tables.page_size = 1
    asked = replace(request(), spelled_key='"k"')
    assert made.ledger.read(asked) == (None, None)
    assert len(made.slept) == 2
    others = [request(f"key-{number}") for number in range(CONFLICT_TRIES)]
    made.slept.clear()
    assert made.ledger.prefetch(others) == [None] * CONFLICT_TRIES
    assert len(made.slept) == CONFLICT_TRIES - 1


@pytest.mark.parametrize(
    ("operation", "read"),
    [
        ("batch_get_item", lambda ledger: ledger.read(request())),
        ("batch_get_item", lambda ledger: ledger.refund(ORDER, "0" * 32)),
        ("query", lambda ledger: ledger.refunds_of(ORDER, 1, None)),
        ("query", lambda ledger: ledger.open_refunds_page("m1", QUEUED, 1, None)),
        ("scan", lambda ledger: ledger.open_refunds_after(None, 1)),
    ],
)
@pytest.mark.parametrize("error", [UNREACHABLE, ClientError({"Error": {"Code": "ThrottlingException"}}, "Any")])
def test_a_read_that_fails_makes_the_ledger_unavailable(
    made: Made, operation: str, read: Callable[[Ledger], object], error: Exception
) -> None:
    made.client.errors[operation] = [error]
    with pytest.raises(LedgerUnavailable) as raised:
        read(made.ledger)
    assert raised.value.__cause__ is error
    assert not isinstance(raised.value, LedgerBusy)


# ---- transitions


@pytest.mark.parametrize("status", RefundStatus)
@pytest.mark.parametrize("before_status", [None, *RefundStatus])
def test_only_legal_transitions_are_written(
    made: Made, before_status: RefundStatus | None, status: RefundStatus
) -> None:
    before = replace(submitting(), status=before_status) if before_status else None
    if before:
        made.tables.put_item(TableName="ledger", Item=_item(before))
        sums = {"amount": 5000, "refundable": 4000, "reserved": 1000, "refunded": 0}
        item = {"pk": {"S": ORDER.partition}, "sk": {"S": "ORDER"}, **{name: {"N": str(n)} for name, n in sums.items()}}
        made.tables.put_item(TableName="ledger", Item=item)
    after = before.transition_to(status, NOON) if before else replace(submitting(), status=status)
    if status in LEGAL_TRANSITIONS[before_status]:
        made.ledger.transition(before, after, CONTEXT, order=PAID if before is None else None)
        assert made.transitions == [(before, after)]
        assert made.read(after).refund == after
    else:
        with pytest.raises(IllegalTransition, match=f"from {before_status or 'nothing'} to {status}"):
            made.ledger.transition(before, after, CONTEXT, order=PAID)
        assert made.transitions == []
        assert made.records() == []


def _item(refund: Refund) -> Any:
    from gateway.core.items import from_refund

    return from_refund(refund)


def test_a_first_reservation_opens_the_orders_sums(made: Made) -> None:
    made.put(submitting(), PAID)
    sums = next(item for item in made.tables.items("ledger") if item["sk"]["S"] == "ORDER")
    assert from_item(sums) == {
        **{"pk": "m1#ORDER-1", "sk": "ORDER"},
        **{"amount": 5000, "refundable": 4000, "reserved": 1000, "refunded": 0, "openedAt": iso(NOON)},
        "schemaVersion": 1,
    }
    # Somebody else opened them meanwhile.
    with pytest.raises(OrderChanged) as raised:
        made.ledger.transition(None, submitting("other"), CONTEXT, order=PAID)
    assert raised.value.current == Order(Decimal(5000), Decimal(4000), reserved=Decimal(1000))


@pytest.mark.parametrize(("status", "refundable", "refunded"), [(SUCCEEDED, 4000, 1000), (FAILED, 5000, 0)])
def test_a_settled_refund_moves_its_reservation(
    made: Made, status: RefundStatus, refundable: int, refunded: int
) -> None:
    before = made.put(submitting(), PAID)
    made.ledger.transition(before, before.transition_to(status, NOON), CONTEXT)
    assert made.read(before).order == Order(Decimal(5000), Decimal(refundable), Decimal(0), Decimal(refunded))


def test_a_refund_is_reserved_only_where_the_sums_allow_it(made: Made) -> None:
    made.put(submitting("first", 3000), PAID)
    stored = made.read(submitting("first")).order
    with pytest.raises(OrderChanged):
        made.ledger.transition(None, submitting("too much", 2001), CONTEXT, order=stored)
    made.ledger.transition(None, submitting("part", 500), CONTEXT, order=stored)
    made.ledger.transition(None, submitting("just so", 1500), CONTEXT, order=stored)
    assert made.read(submitting("first")).order.refundable == 0


def test_all_that_remains_is_reserved_only_if_it_still_is_all(made: Made) -> None:
    made.put(submitting("first", 3000), PAID)
    stored = made.read(submitting("first")).order
    with pytest.raises(OrderChanged):
        made.ledger.transition(None, submitting("less", 1999), CONTEXT, order=stored, exact=True)
    made.ledger.transition(None, submitting("all", 2000), CONTEXT, order=stored, exact=True)


def test_a_reservation_that_is_not_there_is_not_given_back(made: Made) -> None:
    before = made.put(submitting(), PAID)
    sums = next(item for item in made.tables.items("ledger") if item["sk"]["S"] == "ORDER")
    made.tables.put_item(TableName="ledger", Item={**sums, "reserved": {"N": "999"}})
    with pytest.raises(OrderChanged):
        made.ledger.transition(before, before.transition_to(SUCCEEDED, NOON), CONTEXT)


@pytest.mark.parametrize("changes", [{"status": UNKNOWN}, {"version": 7}])
def test_a_refund_that_changed_is_not_written_over(made: Made, changes: dict[str, Any]) -> None:
    before = made.put(submitting(), PAID)
    stale = replace(before, **changes)
    with pytest.raises(RefundChanged) as raised:
        made.ledger.transition(stale, stale.transition_to(SUCCEEDED, NOON), CONTEXT)
    assert raised.value.current == before


def test_a_postponed_refund_is_not_submitted_by_who_read_it_before(made: Made) -> None:
    before = made.put(queued())
    postponed = made.ledger.postpone(before, NOON + timedelta(hours=1), "message-2")
    reserved = {"reserved_amount": Decimal(1000)}
    with pytest.raises(RefundChanged) as raised:
        made.ledger.transition(before, before.transition_to(SUBMITTING, NOON, **reserved), CONTEXT, order=PAID)
    assert raised.value.current == postponed
    # For another step it does not matter.
    made.ledger.transition(before, before.transition_to(FAILED, NOON), CONTEXT)


def test_a_record_is_made_with_each_transition(made: Made) -> None:
    refund = made.put(queued())
    upstream = UpstreamAnswer(422, "{}", "f00d")
    decision = {"reference": "ticket 4711"}
    after = refund.transition_to(FAILED, NOON)
    made.ledger.transition(
        refund, after, CONTEXT, cause="a cause", upstream=upstream, action="AN_ACTION", decision=decision
    )
    record = next(record for record in made.records() if record["action"] == "AN_ACTION")
    assert (record["cause"], record["upstreamStatus"], record["reference"]) == ("a cause", 422, "ticket 4711")
    assert record["sk"].endswith(f"#{refund.refund_id}#000002")


# ---- conflicts


class Refusing:
    """Refuses each transaction with the next reasons."""

    def __init__(self, made: Made, *answers: Any) -> None:
        self._answers = list(answers)
        self._write = made.tables.transact_write_items
        self._exceptions = made.tables.exceptions

    def __call__(self, **request: Any) -> Any:
        reasons = self._answers.pop(0) if self._answers else None
        if reasons is None:
            return self._write(**request)
        response = {"Error": {"Code": "TransactionCanceledException"}, "CancellationReasons": reasons}
        raise self._exceptions.TransactionCanceledException(response, "TransactWriteItems")


NONE = {"Code": "None"}
PASSING = ["TransactionConflict", "ThrottlingError", "ProvisionedThroughputExceeded"]


@pytest.mark.parametrize("code", PASSING)
@pytest.mark.parametrize("place", [0, 1, 2])
def test_a_write_that_met_another_is_tried_again(
    made: Made, monkeypatch: pytest.MonkeyPatch, code: str, place: int
) -> None:
    reasons = [NONE, NONE, NONE]
    reasons[place] = {"Code": code}
    monkeypatch.setattr(made.tables, "transact_write_items", Refusing(made, *[reasons] * (CONFLICT_TRIES - 1)))
    refund = made.put(submitting(), PAID)
    assert made.transitions == [(None, refund)]
    assert len(made.slept) == CONFLICT_TRIES - 1
    for attempt, seconds in enumerate(made.slept, 1):
        assert CONFLICT_BASE_SECONDS * 2**attempt / 2 <= seconds <= CONFLICT_BASE_SECONDS * 2**attempt


def test_a_write_that_always_meets_another_was_not_made(made: Made, monkeypatch: pytest.MonkeyPatch) -> None:
    reasons = [NONE, NONE, {"Code": "TransactionConflict"}]
    monkeypatch.setattr(made.tables, "transact_write_items", Refusing(made, *[reasons] * CONFLICT_TRIES))
    with pytest.raises(LedgerBusy):
        made.put(submitting(), PAID)
    assert made.transitions == []
    assert 1.5 < sum(made.slept) < 3.2  # a caller waits meanwhile


def test_a_refusal_for_another_reason_leaves_nobody_knowing(made: Made, monkeypatch: pytest.MonkeyPatch) -> None:
    refusing = Refusing(made, [NONE, {"Code": "ValidationError"}, NONE])
    monkeypatch.setattr(made.tables, "transact_write_items", refusing)
    with pytest.raises(LedgerUnavailable, match="None, ValidationError, None") as raised:
        made.put(submitting(), PAID)
    assert not isinstance(raised.value, LedgerBusy)
    assert made.slept == []


@pytest.mark.parametrize("item", [None, {}])
def test_a_refund_that_is_gone_leaves_nobody_knowing(
    made: Made, monkeypatch: pytest.MonkeyPatch, item: dict[str, Any] | None
) -> None:
    reason = {"Code": "ConditionalCheckFailed"} | ({} if item is None else {"Item": item})
    monkeypatch.setattr(made.tables, "transact_write_items", Refusing(made, [reason, NONE, NONE]))
    with pytest.raises(LedgerUnavailable, match="no longer exists"):
        made.put(submitting(), PAID)


def test_an_order_that_is_gone_has_changed(made: Made, monkeypatch: pytest.MonkeyPatch) -> None:
    failed = {"Code": "ConditionalCheckFailed"}
    monkeypatch.setattr(made.tables, "transact_write_items", Refusing(made, [NONE, NONE, failed]))
    with pytest.raises(OrderChanged) as raised:
        made.put(submitting(), PAID)
    assert raised.value.current is None


def test_an_audit_record_that_is_there_already_is_no_success(made: Made, monkeypatch: pytest.MonkeyPatch) -> None:
    failed = {"Code": "ConditionalCheckFailed"}
    monkeypatch.setattr(made.tables, "transact_write_items", Refusing(made, [NONE, failed]))
    with pytest.raises(LedgerUnavailable):
        made.put(queued())
    assert made.transitions == []


def test_a_write_that_fails_leaves_nobody_knowing(made: Made) -> None:
    for error in (UNREACHABLE, ClientError({"Error": {"Code": "InternalServerError"}}, "TransactWriteItems")):
        made.client.errors["transact_write_items"] = [error]
        with pytest.raises(LedgerUnavailable) as raised:
            made.put(queued())
        assert raised.value.__cause__ is error
    assert made.transitions == []


def test_a_write_whose_answer_was_lost_is_recognised(made: Made, monkeypatch: pytest.MonkeyPatch) -> None:
    refund = made.put(queued())
    made.ledger.transition(None, refund, CONTEXT)
    assert made.transitions == [(None, refund), (None, refund)]
    assert len(made.records()) == 1


def test_writes_of_one_order_take_turns_and_those_of_others_do_not(made: Made) -> None:
    held: list[tuple[str, int]] = []

    class Lock:
        def acquire(self, *, timeout: float) -> bool:
            assert 0 < timeout < 2
            held.append(("acquired", id(self)))
            return True

        def release(self) -> None:
            held.append(("released", id(self)))

    locks: list[Lock] = []

    def new_lock() -> Lock:
        locks.append(Lock())
        return locks[-1]

    ledger = Ledger(made.client, "ledger", "audit", new_lock=new_lock)  # type: ignore[arg-type]
    for key, order in (("a", ORDER), ("b", OrderKey("m1", "ORDER-2")), ("c", ORDER)):
        ledger.transition(None, queued(key, order=order), CONTEXT)
    first, other = held[0][1], held[2][1]
    assert first != other
    assert held == [(what, lock) for lock in (first, other, first) for what in ("acquired", "released")]


# ---- bookkeeping of a refund that waits


def test_a_postponed_refund_has_its_time_its_message_and_one_attempt_more(made: Made) -> None:
    refund = made.put(queued(attempts=2, queue_message="message-1"))
    until = NOON + timedelta(hours=1)
    after = made.ledger.postpone(refund, until, "message-2")

    assert after == replace(refund, next_attempt_at=until, attempts=3, queue_message="message-2")
    assert made.read(refund).refund == after


def test_a_message_that_is_sent_is_on_record(made: Made) -> None:
    refund = made.put(queued(queue_message="message-1"))
    after = made.ledger.record_message(refund, "message-2", NOON)

    assert after == replace(refund, queue_message="message-2", enqueued_at=NOON)
    assert made.read(refund).refund == after


@pytest.mark.parametrize(
    "changes", [{"version": 2}, {"attempts": 1}, {"queue_message": "other"}, {"queue_message": None}]
)
def test_a_refund_that_changed_is_not_postponed(made: Made, changes: dict[str, Any]) -> None:
    refund = made.put(queued(queue_message="message-1"))
    with pytest.raises(RefundChanged) as raised:
        made.ledger.postpone(replace(refund, **changes), NOON, "message-2")
    assert raised.value.current == refund


def test_a_refund_without_a_message_may_get_one_but_once(made: Made) -> None:
    refund = made.put(queued())
    made.ledger.record_message(refund, "message-1", NOON)
    with pytest.raises(RefundChanged):
        made.ledger.record_message(refund, "message-2", NOON)


def test_a_refund_that_is_gone_is_not_postponed(made: Made) -> None:
    with pytest.raises(LedgerUnavailable, match="no longer exists"):
        made.ledger.postpone(queued(), NOON, "message")


@pytest.mark.parametrize("error", [UNREACHABLE, ClientError({"Error": {"Code": "InternalServerError"}}, "UpdateItem")])
def test_a_postponement_that_fails_leaves_nobody_knowing(made: Made, error: Exception) -> None:
    refund = made.put(queued())
    made.client.errors["update_item"] = [error]
    with pytest.raises(LedgerUnavailable):
        made.ledger.postpone(refund, NOON, "message")
