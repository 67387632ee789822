"""The ledger compared with a model in plain Python, under random writes, races and network faults.

The model has the refunds and no sums. It computes the sums from the refunds; the ledger, which only adds and subtracts,
must have the same.
"""

from __future__ import annotations

from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass, replace
from datetime import UTC, datetime, timedelta
from decimal import Decimal
from enum import Enum
from itertools import pairwise
from typing import Any

import pytest
from botocore.exceptions import ClientError, ReadTimeoutError
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import (
    Bundle,
    MultipleResults,
    RuleBasedStateMachine,
    initialize,
    invariant,
    multiple,
    rule,
)

from gateway.core.context import RequestContext
from gateway.core.dynamodb import from_item
from gateway.core.errors import (
    IllegalTransition,
    InvalidRequest,
    LedgerBusy,
    LedgerUnavailable,
    NotFound,
    OrderChanged,
    RefundChanged,
    RefundsError,
)
from gateway.core.ledger import CONFLICT_TRIES, OPEN_REFUNDS_INDEX, Ledger
from gateway.core.model import Failure, FailureCode, Order, OrderKey, Reason, Refund, RefundRequest, new_refund
from gateway.core.transitions import RefundStatus
from testkit.emulator import Dynamo

LEDGER, AUDIT = "ledger", "audit"
ORDERS = (OrderKey("m1", "A"), OrderKey("m1", "B"), OrderKey("m2", "A"))
CENT = Decimal("0.01")
CONTEXT = RequestContext("agent", "test", "request")
BEGINNING = datetime(2026, 11, 22, 7, tzinfo=UTC)

Q, S, DONE, FAILED, UNKNOWN = RefundStatus
OPEN = (Q, S, UNKNOWN)
# A second copy, so that a mistake in the code's own table is found.
LEGAL = {
    *((None, status) for status in (Q, S, FAILED)),
    *((Q, status) for status in (S, FAILED)),
    *((S, status) for status in (DONE, FAILED, UNKNOWN, Q)),
    *((UNKNOWN, status) for status in (DONE, FAILED, S)),
}


class Network(Enum):
    """What happens to a write to DynamoDB on its way."""

    OK = "ok"
    CONFLICT = "another transaction on the same item"
    REQUEST_LOST = "no effect, and no response"
    ANSWER_LOST = "it took effect, but its response is lost"
    SENT_TWICE = "its first response is lost, and the SDK sends it again"


LOST = {Network.REQUEST_LOST, Network.ANSWER_LOST}
TOO_MANY_CONFLICTS = [Network.CONFLICT] * CONFLICT_TRIES  # more than the ledger has tries
NETWORKS = st.sampled_from(
    [
        *([[]] * 8),
        [Network.CONFLICT] * (CONFLICT_TRIES - 1),
        [Network.REQUEST_LOST],
        [Network.ANSWER_LOST],
        [Network.CONFLICT, Network.ANSWER_LOST],
        [Network.SENT_TWICE],
        TOO_MANY_CONFLICTS,
    ]
)


class UnreliableDynamo:
    """DynamoDB behind a network that makes the planned faults."""

    def __init__(self, dynamo: Dynamo) -> None:
        self._dynamo = dynamo
        self.exceptions = dynamo.exceptions
        self.network: list[Network] = []

    def __getattr__(self, name: str) -> Any:
        return getattr(self._dynamo, name)

    def transact_write_items(self, **request: Any) -> Any:
        return self._send(self._dynamo.transact_write_items, request)

    def update_item(self, **request: Any) -> Any:
        return self._send(self._dynamo.update_item, request)

    def _send(self, call: Callable[..., Any], request: dict[str, Any]) -> Any:
        network = self.network.pop(0) if self.network else Network.OK
        if network is Network.CONFLICT:
            *others, _ = request["TransactItems"]
            reasons = [*({"Code": "None"} for _ in others), {"Code": "TransactionConflict"}]
            answer = {"Error": {"Code": "TransactionCanceledException"}, "CancellationReasons": reasons}
            raise self.exceptions.TransactionCanceledException(answer, "TransactWriteItems")
        if network in (Network.ANSWER_LOST, Network.SENT_TWICE):
            with suppress(ClientError):
                call(**request)
        if network in LOST:
            raise ReadTimeoutError(endpoint_url="https://dynamodb")
        return call(**request)


class Portion(Enum):
    """How much of the refundable amount a refund reserves."""

    CENT = "a cent"
    HALF = "half of it"
    ALL = "all of it"
    TOO_MUCH = "a cent too much"


class Belief(Enum):
    """What the writer has read of the order."""

    RIGHT = "its current sums"
    UNOPENED = "that it has no sums yet"
    OPENED = "that it has sums, with nothing reserved"


@dataclass(frozen=True)
class Step:
    """One call of the ledger's `transition`."""

    before: Refund | None
    after: Refund
    order: Order | None = None
    exact: bool = False


PORTIONS = st.sampled_from([Portion.CENT, *Portion])
BELIEFS = st.sampled_from([*([Belief.RIGHT] * 3), *Belief])
SKEWS = st.integers(-5, 5)
RefundKey = tuple[OrderKey, str]


class Model:
    """The expected content of the ledger."""

    def __init__(self, paid: dict[OrderKey, Decimal]) -> None:
        self.paid = paid
        self.steps: dict[RefundKey, list[Step]] = {}  # those that took effect
        self.copies: dict[RefundKey, list[Refund]] = {}  # all its states, the current one last
        self.changes = 0

    def current(self, key: RefundKey) -> Refund | None:
        return self.copies[key][-1] if key in self.copies else None

    def refunds(self, order: OrderKey | None = None) -> list[Refund]:
        """The refunds of one order, or all, sorted by their keys."""
        keys = sorted(self.copies, key=lambda key: (key[0].partition, key[1]))
        return [self.copies[key][-1] for key in keys if order in (None, key[0])]

    def order(self, key: OrderKey) -> Order | None:
        refunds = [refund for refund in self.refunds(key) if refund.reserved_amount is not None]
        if not refunds:
            return None
        reserved = sum(
            (refund.reserved_amount or Decimal(0) for refund in refunds if refund.status in OPEN), Decimal(0)
        )
        refunded = sum(
            (refund.reserved_amount or Decimal(0) for refund in refunds if refund.status is DONE), Decimal(0)
        )
        return Order(self.paid[key], self.paid[key] - reserved - refunded, reserved, refunded)

    def refusal(self, step: Step) -> RefundsError | None:
        before, after = step.before, step.after
        if (before.status if before else None, after.status) not in LEGAL:
            return IllegalTransition()
        if step.order and not step.order.stored and (after.reserved_amount or 0) > step.order.amount:
            return IllegalTransition()
        current = self.current(_key(after))
        if current and current.version != (before.version if before else 0):
            return RefundChanged(current)
        if current and before and after.status is S and current.attempts != before.attempts:
            return RefundChanged(current)  # it was postponed since it was read
        amount = after.reserved_amount
        if amount is None or (before and before.reserved_amount is not None):
            return None
        order = self.order(after.request.order)
        assert step.order
        if not step.order.stored:
            return OrderChanged(order) if order else None
        if order is None or amount > order.refundable or (step.exact and amount != order.refundable):
            return OrderChanged(order)
        return None

    def take(self, step: Step) -> None:
        self.steps.setdefault(_key(step.after), []).append(step)
        self.is_now(step.after)

    def is_now(self, refund: Refund) -> None:
        self.copies.setdefault(_key(refund), []).append(refund)
        self.changes += 1


def _key(refund: Refund) -> RefundKey:
    return refund.request.order, refund.refund_id


class LedgerMachine(RuleBasedStateMachine):
    known = Bundle[RefundKey]("known")

    @initialize(cents=st.tuples(*[st.integers(1, 500)] * len(ORDERS)))
    def begin(self, cents: tuple[int, ...]) -> None:
        self.dynamo = Dynamo({LEDGER: {OPEN_REFUNDS_INDEX: ("openKey", "openSince")}, AUDIT: {}})
        self.client = UnreliableDynamo(self.dynamo)
        self.ledger = Ledger(self.client, LEDGER, AUDIT, sleep=lambda _: None)  # type: ignore[arg-type]
        self.model = Model(dict(zip(ORDERS, (CENT * amount for amount in cents), strict=True)))
        self.seconds = 0
        self.checks = 0
        self.checked = -1

    # ---- rules

    @rule(
        target=known,
        order=st.sampled_from(ORDERS),
        name=st.sampled_from("abcdef"),
        status=st.sampled_from([S, S, S, Q, Q, FAILED]),
        portion=PORTIONS,
        belief=BELIEFS,
        exact=st.booleans(),
        skew=SKEWS,
        network=NETWORKS,
    )
    def create(
        self,
        order: OrderKey,
        name: str,
        status: RefundStatus,
        portion: Portion,
        belief: Belief,
        exact: bool,
        skew: int,
        network: list[Network],
    ) -> RefundKey | MultipleResults[RefundKey]:
        """Creates a refund, also where it exists already."""
        amount = self._amount(order, portion)
        request = RefundRequest(order, name, None if exact else amount, Reason.OTHERS, None, "Rina")
        reserves = {"reserved_amount": amount, "transaction_amount": self.model.paid[order]} if status is S else {}
        at = self._now(skew)
        after = new_refund(request, status, at, CONTEXT, **reserves, **_details(status, at, attempts=1))
        created = self._write(self._step(None, after, belief, exact=exact), network)
        return _key(after) if created else multiple()

    @rule(
        key=known,
        nth=st.integers(0, 11),
        portion=PORTIONS,
        belief=BELIEFS,
        exact=st.booleans(),
        skew=SKEWS,
        network=NETWORKS,
    )
    def move(
        self,
        key: RefundKey,
        nth: int,
        portion: Portion,
        belief: Belief,
        exact: bool,
        skew: int,
        network: list[Network],
    ) -> None:
        """A legal transition, if there is one, from the current state."""
        self._move(self.model.copies[key][-1], nth, portion, belief, exact, skew, network)

    @rule(key=known, age=st.integers(1, 8), nth=st.integers(0, 11), portion=PORTIONS, skew=SKEWS, network=NETWORKS)
    def move_from_an_old_state(
        self, key: RefundKey, age: int, nth: int, portion: Portion, skew: int, network: list[Network]
    ) -> None:
        """A transition by a writer with a stale state. If the refund was only postponed since, it may succeed."""
        self._move(self._copy(key, age), nth, portion, Belief.RIGHT, False, skew, network)

    @rule(key=known, skew=SKEWS)
    def move_illegally(self, key: RefundKey, skew: int) -> None:
        """Every illegal transition of this refund, and of one that does not exist."""
        at = self._now(skew)
        before = self.model.copies[key][-1]
        request = replace(before.request, idempotency_key="illegal")
        for status in RefundStatus:
            after = before.transition_to(status, at)
            first = new_refund(request, status, at, CONTEXT, reserved_amount=CENT)
            if (before.status, status) not in LEGAL:
                self._write(self._step(before, after, Belief.RIGHT, exact=False), [])
            if (None, status) not in LEGAL:
                self._write(self._step(None, first, Belief.RIGHT, exact=False), [])

    @rule(key=known, age=st.integers(0, 4), network=NETWORKS)
    def write_once_more(self, key: RefundKey, age: int, network: list[Network]) -> None:
        """The same transition again, by a writer who did not see that it took effect."""
        steps = self.model.steps[key]
        self._write(steps[max(0, len(steps) - 1 - age)], network)

    @rule(
        key=known,
        age=st.integers(0, 2),
        seconds=st.integers(1, 900),
        network=st.sampled_from([[], [], *([kind] for kind in (*sorted(LOST, key=str), Network.SENT_TWICE))]),
    )
    def postpone(self, key: RefundKey, age: int, seconds: int, network: list[Network]) -> None:
        seen, until = self._copy(key, age), self._now(seconds)
        message = f"message of {until}"
        after = replace(seen, next_attempt_at=until, attempts=seen.attempts + 1, queue_message=message)
        self._keep_note(seen, after, network, lambda: self.ledger.postpone(seen, until, message))

    @rule(
        key=known,
        age=st.integers(0, 2),
        network=st.sampled_from([[], [], *([kind] for kind in (*sorted(LOST, key=str), Network.SENT_TWICE))]),
    )
    def record_message(self, key: RefundKey, age: int, network: list[Network]) -> None:
        seen, at = self._copy(key, age), self._now(1)
        message = f"message at {at}"
        after = replace(seen, queue_message=message, enqueued_at=at)
        self._keep_note(seen, after, network, lambda: self.ledger.record_message(seen, message, at))

    def _keep_note(self, seen: Refund, after: Refund, network: list[Network], note: Callable[[], Refund]) -> None:
        """Bookkeeping, which succeeds if the refund has not changed since."""
        copies = self.model.copies[_key(seen)]
        current = copies[-1]
        fits = all(getattr(seen, name) == getattr(current, name) for name in ("version", "attempts", "queue_message"))
        untouched = self.dynamo.snapshot()
        self.client.network = list(network)
        if fits and network != [Network.REQUEST_LOST]:
            self.model.is_now(after)
        if network and network[0] in LOST:
            with pytest.raises(LedgerUnavailable):
                note()
        elif fits and not network:
            assert note() == after
        else:  # also if it was sent twice: the second one finds the first one's change
            with pytest.raises(RefundChanged) as changed:
                note()
            assert changed.value.current == copies[-1]
        assert (self.dynamo.snapshot() == untouched) == (copies[-1] is current)

    # ---- invariants

    @invariant()
    def it_agrees_with_the_model(self) -> None:
        if self.checked == self.model.changes:
            return  # nothing was written since, which the rules have checked
        self.checked = self.model.changes
        # Pages of every size, limited by DynamoDB and by the caller.
        self.checks += 1
        self.dynamo.page_size = self.checks % 4 or None
        self.limit = 1 + self.checks % 3
        self.the_sums_add_up()
        self.every_refund_is_what_it_should_be()
        self.the_index_holds_what_is_open()
        self.every_transition_has_its_record()
        self.a_page_opens_no_other_list()

    def the_sums_add_up(self) -> None:
        orders = {}
        for item in self.dynamo.items(LEDGER):
            if item["sk"]["S"] == "ORDER":
                sums = from_item(item)
                orders[sums["pk"]] = sums
                assert sums["refunded"] + sums["reserved"] + sums["refundable"] == sums["amount"]
                assert min(sums["refunded"], sums["reserved"], sums["refundable"]) >= 0
        expected = {key.partition: order for key in ORDERS if (order := self.model.order(key))}
        assert orders.keys() == expected.keys()
        for partition, order in expected.items():
            sums = orders[partition]
            assert (sums["amount"], sums["refundable"]) == (order.amount, order.refundable)
            assert (sums["reserved"], sums["refunded"]) == (order.reserved, order.refunded)

    def every_refund_is_what_it_should_be(self) -> None:
        for key in ORDERS:
            order, refunds = self.model.order(key), self.model.refunds(key)
            for refund in refunds:
                assert self.ledger.read(refund.request) == (order, refund)
                assert self.ledger.refund(key, refund.refund_id) == refund
            none = RefundRequest(key, "none", CENT, Reason.OTHERS, None, "Rina", spelled_key="none as well")
            assert self.ledger.read(none) == (order, None)
            assert self._listed(key, order) == sorted(refunds, key=lambda refund: (refund.created_at, refund.refund_id))

    def _listed(self, key: OrderKey, order: Order | None) -> list[Refund]:
        found: list[Refund] = []
        token = None
        try:
            while token or not found:
                page = self.ledger.refunds_of(key, self.limit, token)
                assert page.order == order
                found += page.refunds
                token = page.next_token
                if token is None:
                    break
        except NotFound:
            assert not self.model.refunds(key)
        return found

    def the_index_holds_what_is_open(self) -> None:
        is_open = [refund for refund in self.model.refunds() if refund.status in OPEN]
        found: list[Any] = []
        page = self.ledger.open_refunds_after(None, 2)
        while True:
            found += [refund for _, refund in page.found]
            if page.end is None:
                break
            page = self.ledger.open_refunds_after(page.end, 2)
        assert sorted(map(_key, found), key=str) == sorted(map(_key, is_open), key=str)
        assert all(refund == self.model.current(_key(refund)) for refund in found)
        for merchant in ("m1", "m2"):
            for status in OPEN:
                mine = [r for r in is_open if r.request.order.merchant_id == merchant and r.status is status]
                assert self._all_pages(merchant, status) == sorted(mine, key=lambda refund: refund.updated_at)

    def every_transition_has_its_record(self) -> None:
        records: dict[RefundKey, list[dict[str, Any]]] = {}
        for item in sorted(self.dynamo.items(AUDIT), key=lambda item: (item["pk"]["S"], item["sk"]["S"])):
            record = from_item(item)
            order = OrderKey(record["merchantId"], record["merchantOrderId"])
            assert record["pk"] == order.partition
            records.setdefault((order, record["refundId"]), []).append(record)
        assert records.keys() == self.model.steps.keys()
        for key, steps in self.model.steps.items():
            assert len(steps) == self.model.copies[key][-1].version
            assert [(record.get("before"), record["after"], record.get("amount")) for record in records[key]] == [
                (step.before.status if step.before else None, step.after.status, step.after.amount) for step in steps
            ]
            assert all(one["after"] == other["before"] for one, other in pairwise(records[key]))

    def a_page_opens_no_other_list(self) -> None:
        token = self.ledger.open_refunds_page("m1", S, self.limit, None).next_token
        if token:
            for merchant, status in (("m2", S), ("m1", Q)):
                with pytest.raises(InvalidRequest):
                    self.ledger.open_refunds_page(merchant, status, self.limit, token)

    # ---- helpers

    def _copy(self, key: RefundKey, age: int) -> Refund:
        copies = self.model.copies[key]
        return copies[max(0, len(copies) - 1 - age)]

    def _move(
        self,
        before: Refund,
        nth: int,
        portion: Portion,
        belief: Belief,
        exact: bool,
        skew: int,
        network: list[Network],
    ) -> None:
        legal = [status for status in RefundStatus if (before.status, status) in LEGAL]
        if not legal:
            return
        status, at = legal[nth % len(legal)], self._now(skew)
        changes = _details(status, at, attempts=before.attempts + 1)
        order = before.request.order
        if status is S and before.reserved_amount is None:
            changes["reserved_amount"] = self._amount(order, portion)
            changes["transaction_amount"] = self.model.paid[order]
        self._write(self._step(before, before.transition_to(status, at, **changes), belief, exact=exact), network)

    def _step(self, before: Refund | None, after: Refund, belief: Belief, *, exact: bool) -> Step:
        key = after.request.order
        paid = self.model.paid[key]
        order = None
        if after.status is S and not (before and before.reserved_amount is not None):
            order = _unopened(paid) if belief is Belief.UNOPENED else Order(paid, paid)
            if belief is Belief.RIGHT:
                order = self.model.order(key) or _unopened(paid)
        return Step(before, after, order, exact)

    def _amount(self, key: OrderKey, portion: Portion) -> Decimal:
        order = self.model.order(key)
        refundable = order.refundable if order else self.model.paid[key]
        if portion is Portion.HALF:
            return max(CENT, (refundable / 2).quantize(CENT))
        if portion is Portion.TOO_MUCH:
            return refundable + CENT
        return CENT if portion is Portion.CENT else max(CENT, refundable)

    def _write(self, step: Step, network: list[Network]) -> bool:
        """Whether the step took effect: once or not at all, as the model says."""
        current = self.model.current(_key(step.after))
        has_landed = current is not None and current.transition_id == step.after.transition_id
        refusal = None if has_landed else self.model.refusal(step)
        untouched = self.dynamo.snapshot()
        if not isinstance(refusal, IllegalTransition) and network:
            self.client.network = list(network)
            if network == TOO_MANY_CONFLICTS:
                with pytest.raises(LedgerBusy):
                    self._transition(step)
                assert self.dynamo.snapshot() == untouched
                return False
            if network[-1] in LOST:
                with pytest.raises(LedgerUnavailable) as lost:
                    self._transition(step)
                assert not isinstance(lost.value, LedgerBusy)
        if refusal is None:
            self._transition(step)
            assert (self.dynamo.snapshot() == untouched) == has_landed
            if not has_landed:
                self.model.take(step)
            return not has_landed
        with pytest.raises(type(refusal)) as refused:
            self._transition(step)
        assert getattr(refused.value, "current", None) == getattr(refusal, "current", None)
        assert self.dynamo.snapshot() == untouched
        return False

    def _transition(self, step: Step) -> None:
        self.ledger.transition(step.before, step.after, CONTEXT, order=step.order, exact=step.exact)

    def _now(self, skew: int) -> datetime:
        """The time of one of several clocks that differ slightly."""
        self.seconds += 1
        return BEGINNING + timedelta(seconds=self.seconds + skew)

    def _all_pages(self, merchant: str, status: RefundStatus) -> list[Refund]:
        found: list[Refund] = []
        token = None
        while True:
            page = self.ledger.open_refunds_page(merchant, status, self.limit, token)
            assert len(page.refunds) <= self.limit
            found += page.refunds
            token = page.next_token
            if token is None:
                return found


def _unopened(paid: Decimal) -> Order:
    return Order(paid, paid, stored=False)


def _details(status: RefundStatus, at: datetime, *, attempts: int) -> dict[str, Any]:
    """What the protocol writes besides the status."""
    return {
        "attempts": attempts,
        "ambiguous": status is UNKNOWN,
        "lease_until": at + timedelta(seconds=45) if status is S else None,
        "next_attempt_at": at + timedelta(seconds=2) if status is Q else None,
        "failure": Failure(FailureCode.UPSTREAM_REFUSED, "no", 422, "kind", "no") if status is FAILED else None,
    }


TestLedger = LedgerMachine.TestCase
TestLedger.settings = settings(max_examples=120, stateful_step_count=50, deadline=None, print_blob=True)
