"""The API's refunds, from the caller's side and in Indodana's books."""

from __future__ import annotations

import io
from concurrent.futures import ThreadPoolExecutor
from datetime import timedelta
from decimal import Decimal
from typing import Any

import pytest

from gateway.core import upstream
from gateway.core.errors import LedgerBusy
from gateway.core.ledger import Ledger
from gateway.core.model import AmbiguousRefunds, Reason, Refund
from gateway.core.protocol import LEASE_SECONDS
from gateway.core.transitions import RefundStatus
from indodana import Cancellation, CancellationAccepted, IndodanaClient
from tests.world import Killed, World


def test_a_partial_refund_moves_its_amount_once_and_reads_back_the_same(world: World) -> None:
    order = world.order(100_000)

    created = world.refund(order, 25_000, fields={"note": "one of two shirts"})

    assert created.status == 201
    refund = created.body
    assert refund == {
        "refundId": refund["refundId"],
        "merchantOrderId": order,
        "status": "SUCCEEDED",
        "type": "PARTIAL",
        "amount": 25_000,
        "reason": "ITEMS_RETURNED",
        "note": "one of two shirts",
        "requestedBy": "agent",
        "version": 2,
        "createdAt": refund["createdAt"],
        "updatedAt": refund["updatedAt"],
    }
    assert created.headers["etag"] == '"2"'
    assert created.headers["location"] == f"/v1/transactions/{order}/refunds/{refund['refundId']}"
    assert world.get(order, refund["refundId"]).body == refund
    assert world.list_refunds(order).body["refunds"] == [refund]
    assert world.sums(order) == (25_000, 0, 75_000)
    [movement] = world.movements(order)
    assert (movement["refundId"], movement["amount"]) == (refund["refundId"], 25_000)


def test_a_refund_without_an_amount_takes_all_that_remains(world: World) -> None:
    whole, rest = world.order("100000.50"), world.order(100_000)
    world.refund(rest, 30_000)

    assert world.refund(whole).body["amount"] == Decimal("100000.50")
    assert world.refund(whole).status == 422
    last = world.refund(rest)

    assert (last.status, last.body["amount"], last.body["type"]) == (201, 70_000, "PARTIAL")
    assert world.list_refunds(whole).body["refunds"][0]["type"] == "FULL"
    assert world.moved(whole) == Decimal("100000.50")
    assert world.sums(rest) == (100_000, 0, 0)


def test_exactly_all_that_is_left_can_be_asked_for_by_its_amount(world: World) -> None:
    order = world.order(100_000)
    assert world.refund(order, 40_000).status == 201

    assert world.refund(order, 60_000).status == 201
    assert world.refund(world.order(100_000), 100_000).body["type"] == "FULL"

    assert world.sums(order) == (100_000, 0, 0)


def test_what_can_not_be_sent_is_not_put_on_record(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    """As where a reason was added that Indodana has no word for."""
    order = world.order()
    monkeypatch.delitem(upstream.INDODANA_REASONS, Reason.OTHERS)

    assert world.refund(order, 1000, fields={"reason": "OTHERS"}).status == 500

    assert world.list_refunds(order).status == 404
    assert world.refund(order, 1000, fields={"reason": "EXPIRED"}).status == 201


@pytest.mark.parametrize(
    ("reason", "said"),
    [
        ("EXPIRED", "Expired"),
        ("OUT_OF_STOCK", "Out of Stock"),
        ("ITEMS_RETURNED", "Items Returned"),
        ("OTHERS", "Others"),
    ],
)
def test_a_reason_reaches_indodana_in_its_own_words(world: World, reason: str, said: str) -> None:
    order = world.order()

    assert world.refund(order, 1000, fields={"reason": reason, "requestedBy": "Siti (support)"}).status == 201

    [movement] = world.movements(order)
    assert (movement["cancellationReason"], movement["cancelledBy"]) == (said, "Siti (support)")


def test_a_refund_repeated_with_the_same_key_moves_money_once(world: World) -> None:
    order = world.order(100_000)

    first = world.refund(order, 40_000, key="return-1")
    second = world.refund(order, Decimal("40000.0"), key="return-1")

    assert (second.status, second.body) == (first.status, first.body)
    assert second.headers["idempotency-replayed"] == "true"
    assert "idempotency-replayed" not in first.headers
    assert world.moved(order) == 40_000


@pytest.mark.parametrize(
    "other",
    [{"amount": 40_001}, {"amount": None}, {"fields": {"reason": "OTHERS"}}, {"fields": {"note": "new"}},
     {"fields": {"requestedBy": "someone else"}}],
)  # fmt: skip
def test_the_same_key_with_another_payload_is_refused(world: World, other: dict[str, object]) -> None:
    order = world.order(100_000)
    world.refund(order, 40_000, key="return-1")

    changed: dict[str, Any] = {"amount": 40_000, "key": "return-1"} | other
    again = world.refund(order, **changed)

    assert (again.status, again.body["code"]) == (422, "IDEMPOTENCY_KEY_REUSED")
    assert world.moved(order) == 40_000


def test_the_same_key_names_another_refund_per_order_and_merchant(world: World) -> None:
    first, second = world.order(), world.order()
    world.simulator.add_order(first, 100_000, "PAID", merchant_id="m2")

    ids = {
        world.refund(first, 1000, key="k").body["refundId"],
        world.refund(second, 1000, key="k").body["refundId"],
        world.refund(first, 1000, key="k", merchant="m2").body["refundId"],
    }

    assert len(ids) == 3
    assert (world.moved(first), world.moved(second), world.moved(first, "m2")) == (
        1000,
        1000,
        1000,
    )


def test_more_than_refundable_is_refused_with_the_sums_and_not_sent(world: World) -> None:
    order = world.order(100_000)
    world.refund(order, 60_000)

    refused = world.refund(order, 60_000)

    assert (refused.status, refused.body["code"]) == (422, "AMOUNT_EXCEEDS_REFUNDABLE")
    assert "refundable: 40000 rupiah" in refused.body["detail"]
    assert len(world.requests(order)) == 1
    assert len(world.list_refunds(order).body["refunds"]) == 1
    assert world.audit(order)[-1]["action"] == "REFUND_REFUSED"


def test_a_further_refund_of_an_order_costs_two_calls_to_aws(world: World) -> None:
    order, calls = world.order(100_000), []
    world.refund(order, 10_000)
    world.gateway_clients.dynamodb.meta.events.register("before-call", lambda model, **_: calls.append(model.name))

    assert world.refund(order, 10_000).status == 201
    assert world.refund(order, None).status == 201

    assert calls == ["TransactWriteItems"] * 4
    assert world.sums(order) == (100_000, 0, 0)


def test_what_a_process_remembers_of_an_order_never_decides_a_refund(world: World) -> None:
    order = world.order(100_000)
    world.refund(order, 60_000, key="first")
    remembering = world.gateway
    world.reassemble()
    world.refund(order, 30_000)
    world.gateway = remembering

    refused = world.refund(order, 20_000)
    assert (refused.status, refused.body["code"]) == (422, "AMOUNT_EXCEEDS_REFUNDABLE")
    assert "refundable: 10000 rupiah" in refused.body["detail"]
    again = world.refund(order, 60_000, key="first")
    assert (again.status, again.headers["idempotency-replayed"]) == (201, "true")
    assert world.moved(order) == 90_000

    world.simulator.fault("refused", path="order_cancellation", merchant_order_id=order, times=1)
    assert world.refund(order, 10_000).body["code"] == "UPSTREAM_REFUSED"
    given_back = world.refund(order, 10_000)
    assert given_back.status == 201
    assert world.sums(order) == (100_000, 0, 0)


def test_an_order_that_indodana_does_not_know_is_404_and_makes_no_refund(world: World) -> None:
    answer = world.refund("NO-SUCH-ORDER", 1000)

    assert (answer.status, answer.body["code"]) == (404, "ORDER_NOT_FOUND")
    assert answer.body["upstream"] == {
        "status": 404,
        "error": {"kind": "NotFoundError", "message": answer.body["upstream"]["error"]["message"]},
    }
    assert world.list_refunds("NO-SUCH-ORDER").status == 404


@pytest.mark.parametrize("status", ["INITIATED", "EXPIRED", "REJECTED"])
def test_an_order_that_is_not_paid_is_409(world: World, status: str) -> None:
    order = world.order(status=status)

    answer = world.refund(order, 1000)

    assert (answer.status, answer.body["code"]) == (409, "TRANSACTION_NOT_PAID")
    assert status in answer.body["detail"]
    assert world.requests(order) == []


def test_fifty_refunds_of_sixty_percent_at_once_move_money_once(world: World) -> None:
    order = world.order(100_000)

    with ThreadPoolExecutor(50) as pool:
        answers = list(pool.map(lambda _: world.refund(order, 60_000), range(50)))

    assert sorted(answer.status for answer in answers) == [201] + [422] * 49
    assert world.moved(order) == 60_000
    assert world.sums(order) == (60_000, 0, 40_000)


def test_one_key_sent_twenty_times_at_once_moves_money_once(world: World) -> None:
    order = world.order(100_000)
    world.simulator.fault("slow", path="order_cancellation", merchant_order_id=order, seconds=0.5)

    with ThreadPoolExecutor(20) as pool:
        answers = list(pool.map(lambda _: world.refund(order, 10_000, key="till-1"), range(20)))

    assert {answer.status for answer in answers} <= {201, 409}
    assert all(answer.headers["retry-after"] for answer in answers if answer.status == 409)
    assert {answer.body["code"] for answer in answers if answer.status == 409} == {"REFUND_IN_PROGRESS"}
    assert world.refund(order, 10_000, key="till-1").status == 201
    assert world.moved(order) == 10_000


def test_respond_async_takes_the_refund_on_and_the_queue_does_it(world: World) -> None:
    order = world.order()

    accepted = world.refund(order, 5000, key="k", later=True)

    assert (accepted.status, accepted.body["status"], accepted.body["type"]) == (202, "QUEUED", None)
    assert world.requests(order, "check_status") == []
    assert world.work_queue() == []
    assert world.get(order, accepted.body["refundId"]).body["status"] == "SUCCEEDED"
    assert accepted.headers["location"].endswith(accepted.body["refundId"])
    assert world.moved(order) == 5000


def test_an_asynchronous_refund_of_too_much_is_refused_at_once(world: World) -> None:
    order = world.order(100_000)
    world.refund(order, 90_000)

    assert world.refund(order, 10_001, later=True).status == 422
    assert world.receive() == []


def test_a_refund_that_its_own_twin_outran_is_not_called_too_much(
    world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The two reads of a batch are not of one moment: the sums may already be what the twin made of them."""
    order = world.order(100_000)
    first = world.refund(order, 60_000, key="k")
    ledger, reads = world.gateway.ledger, []

    def torn(*arguments: Any) -> Any:
        snapshot = Ledger.read(ledger, *arguments)
        reads.append(snapshot)
        return snapshot._replace(refund=None) if len(reads) == 1 else snapshot

    monkeypatch.setattr(ledger, "read", torn)
    second = world.refund(order, 60_000, key="k")

    assert (second.status, second.body) == (201, first.body)
    assert [record["action"] for record in world.audit(order)] == ["REFUND_SUBMITTING", "REFUND_SUCCEEDED"]


def test_what_was_submitted_and_could_not_be_written_is_not_called_undone(
    world: World, monkeypatch: pytest.MonkeyPatch, logs: io.StringIO
) -> None:
    order = world.order(100_000)
    ledger = world.gateway.ledger

    def busy(before: Refund | None, after: Refund, *rest: Any, **options: Any) -> None:
        if after.status is RefundStatus.SUCCEEDED:
            raise LedgerBusy("too many refunds of this order at the same time")
        Ledger.transition(ledger, before, after, *rest, **options)

    monkeypatch.setattr(ledger, "transition", busy)
    answer = world.refund(order, 60_000, key="k")

    assert (answer.status, answer.body["code"]) == (503, "LEDGER_UNAVAILABLE")
    assert "same Idempotency-Key" in answer.body["detail"]
    assert "was submitted, outcome SUCCEEDED" in logs.getvalue()
    assert world.moved(order) == 60_000


def test_an_answer_after_the_lease_settles_or_is_kept_as_evidence(world: World) -> None:
    world.reassemble(resolution_hold_seconds=0)
    for settled_first, status in ((False, "SUCCEEDED"), (True, "FAILED")):
        order = world.order(100_000)
        refund_id = late_answer(world, order, operator_settles=settled_first)

        assert world.get(order, refund_id).body["status"] == status
        late = [record for record in world.audit(order) if record["action"] == "LATE_EVIDENCE"]
        assert len(late) == settled_first


def test_a_late_answer_to_one_attempt_says_nothing_of_the_next(world: World) -> None:
    """The first was refused, and its answer came after the second had been sent."""
    world.reassemble(ambiguous_refunds=AmbiguousRefunds.RESUBMIT)
    order = world.order(100_000)
    world.simulator.fault("refused", path="order_cancellation", merchant_order_id=order, times=1)
    first = world.gateway

    def cancel(merchant: str, cancellation: Cancellation, **options: Any) -> CancellationAccepted:
        try:
            return IndodanaClient.cancel(first.indodana, merchant, cancellation, **options)
        finally:
            world.clock.pass_seconds(60)
            assert world.recover()["leases_expired"] == 1
            world.clock.pass_seconds(60)
            assert world.recover()["enqueued"] == 1
            world.simulator.fault("reset_after", path="order_cancellation", merchant_order_id=order, times=1)
            world.reassemble()
            world.work_queue()

    first.indodana.cancel = cancel  # type: ignore[method-assign, assignment]
    answer = world.refund(order, 60_000)

    assert (answer.status, answer.body["status"]) == (202, "UNKNOWN")
    assert world.moved(order) == 60_000
    assert world.sums(order) == (0, 60_000, 40_000)
    assert world.audit(order)[-1]["action"] == "LATE_EVIDENCE"


def late_answer(world: World, order: str, *, operator_settles: bool) -> str:
    """Between Indodana's doing it and its answer a minute passes, in which the schedule and an operator are at work."""
    indodana, refund_ids = world.gateway.indodana, []

    def cancel(merchant: str, cancellation: Cancellation, **options: Any) -> CancellationAccepted:
        accepted = IndodanaClient.cancel(indodana, merchant, cancellation, **options)
        refund_ids.append(cancellation.refund_id)
        world.clock.pass_seconds(60)
        world.recover()
        if operator_settles:
            assert world.resolve(order, cancellation.refund_id, "FAILED").status == 200
        return accepted

    indodana.cancel = cancel  # type: ignore[method-assign, assignment]
    world.refund(order, 60_000)
    world.reassemble()
    return refund_ids[0]


def test_what_indodana_refuses_is_failed_and_gives_its_reservation_back(world: World) -> None:
    order = world.order(100_000)
    world.simulator.fault("refused", path="order_cancellation", merchant_order_id=order, status=422, times=1)

    refused = world.refund(order, 60_000, key="k")

    assert (refused.status, refused.body["code"]) == (422, "UPSTREAM_REFUSED")
    assert refused.body["upstream"]["status"] == 422
    stored = world.get(order, refused.body["refundId"]).body
    assert stored["status"] == "FAILED"
    assert stored["failure"]["code"] == "UPSTREAM_REFUSED"
    assert stored["failure"]["upstream"] == refused.body["upstream"]
    assert world.sums(order) == (0, 0, 100_000)
    replayed = world.refund(order, 60_000, key="k")
    assert (replayed.status, replayed.headers["idempotency-replayed"]) == (422, "true")
    assert world.refund(order, 60_000).status == 201


REFUSED = [("refused", {"status": status}) for status in (400, 403, 404, 422)]
NOT_DONE = [("rate_limited", {"retry_after": 7}), ("unauthorized", {})]
AMBIGUOUS_DONE = ["reset_after", "error_after", "html_after", "empty_after", "truncated_after"]
AMBIGUOUS_NOT_DONE = ["reset_before", "error_before", "html", "empty", "ok_error"]


@pytest.mark.parametrize(("fault", "options"), REFUSED)
def test_a_refusal_means_failed(world: World, fault: str, options: dict[str, int]) -> None:
    order = world.order()
    world.simulator.fault(fault, path="order_cancellation", merchant_order_id=order, **options)

    assert world.refund(order, 1000).status == 422
    assert world.list_refunds(order).body["refunds"][0]["status"] == "FAILED"
    assert (world.sums(order)[1], world.moved(order)) == (0, 0)


@pytest.mark.parametrize(("fault", "options"), NOT_DONE)
def test_what_surely_never_happened_is_queued_and_done_later(world: World, fault: str, options: dict[str, int]) -> None:
    order = world.order(100_000)
    world.simulator.fault(fault, path="order_cancellation", merchant_order_id=order, times=1, **options)

    queued = world.refund(order, 60_000, key="k")

    assert (queued.status, queued.body["status"], queued.body["amount"]) == (202, "QUEUED", 60_000)
    # It was promised, so it keeps its reservation: nobody takes the money from under it.
    assert world.sums(order) == (0, 60_000, 40_000)
    assert world.refund(order, 60_000).status == 422
    world.clock.pass_seconds(60)
    world.recover()
    assert world.work_queue() == []
    assert world.refund(order, 60_000, key="k").status == 201
    assert world.moved(order) == 60_000


def test_a_first_conflict_is_unknown_unless_its_kind_means_not_done(world: World) -> None:
    order = world.order(100_000)
    world.simulator.fault("conflict", path="order_cancellation", merchant_order_id=order)
    assert world.refund(order, 1000).body["status"] == "UNKNOWN"

    world.reassemble(conflict_kinds_not_done=frozenset({"ConflictError"}))
    refused = world.refund(order, 1000)

    assert (refused.status, refused.body["code"]) == (422, "UPSTREAM_REFUSED")
    assert world.sums(order) == (0, 1000, 99_000)


@pytest.mark.parametrize("fault", AMBIGUOUS_DONE + AMBIGUOUS_NOT_DONE)
def test_what_nobody_knows_is_unknown_and_keeps_its_reservation(world: World, fault: str) -> None:
    order = world.order(100_000)
    world.simulator.fault(fault, path="order_cancellation", merchant_order_id=order, times=1)

    answer = world.refund(order, 60_000, key="k")

    assert (answer.status, answer.body["status"]) == (202, "UNKNOWN")
    assert world.moved(order) == (60_000 if fault in AMBIGUOUS_DONE else 0)
    assert world.sums(order) == (0, 60_000, 40_000)
    # Nobody submits it again: not its caller, not the queue, not the schedule.
    assert world.refund(order, 60_000, key="k").body["status"] == "UNKNOWN"
    world.send(order, "k", amount=60_000, reason="ITEMS_RETURNED", requestedBy="agent")
    assert world.work_queue() == []
    world.clock.pass_seconds(86_400)
    assert world.recover()["enqueued"] == 0
    assert len(world.requests(order)) == 1


def test_an_outage_is_no_error_to_the_caller_and_is_made_up_for(world: World) -> None:
    order = world.order(100_000)
    fault = world.simulator.fault("refuse_connections")

    first = world.refund(order, 30_000, key="k")  # not even the order's status could be asked

    assert (first.status, first.body["status"]) == (202, "QUEUED")
    assert world.refund(order, 30_000, key="k").headers["idempotency-replayed"] == "true"
    world.simulator.clear_faults(fault)
    world.clock.pass_seconds(60)
    world.recover()
    world.work_queue()
    assert world.get(order, first.body["refundId"]).body["status"] == "SUCCEEDED"
    assert world.moved(order) == 30_000


def test_a_refund_is_not_sent_without_time_left_to_write_its_outcome(world: World) -> None:
    order = world.order()
    world.refund(order, 1000)

    answer = world.refund(order, 1000, seconds=17.9)

    assert (answer.status, answer.body["status"]) == (202, "QUEUED")
    assert world.sums(order) == (1000, 1000, 98_000)
    assert len(world.requests(order)) == 1


class TestResolution:
    @pytest.fixture
    def unknown(self, world: World) -> tuple[str, str]:
        order = world.order(100_000)
        world.simulator.fault("reset_after", path="order_cancellation", merchant_order_id=order, times=1)
        return order, world.refund(order, 60_000).body["refundId"]

    def test_an_operator_settles_it_as_done(self, world: World, unknown: tuple[str, str]) -> None:
        order, refund_id = unknown

        resolved = world.resolve(order, refund_id, "SUCCEEDED", reference="report of 22 November", subject="finance-1")

        assert (resolved.status, resolved.body["status"]) == (200, "SUCCEEDED")
        assert world.sums(order) == (60_000, 0, 40_000)
        record = world.audit(order)[-1]
        assert record["action"] == "REFUND_RESOLVED"
        assert (record["before"], record["after"], record["actor"]) == ("UNKNOWN", "SUCCEEDED", "finance-1")
        evidence = record["evidence"]
        assert (evidence["source"], evidence["reference"]) == ("SETTLEMENT_REPORT", "report of 22 November")
        assert evidence["checkedAt"].endswith("Z")

    def test_an_operator_settles_it_as_not_done(self, world: World, unknown: tuple[str, str]) -> None:
        order, refund_id = unknown

        world.wait_out_the_hold()
        resolved = world.resolve(order, refund_id, "FAILED", reference="not in the settlement file")

        assert resolved.body["failure"]["code"] == "RESOLVED_AS_FAILED"
        assert "not in the settlement file" in resolved.body["failure"]["detail"]
        assert world.sums(order) == (0, 0, 100_000)

    def test_nobody_can_say_that_it_was_not_done_while_it_still_may_be(
        self, world: World, unknown: tuple[str, str]
    ) -> None:
        order, refund_id = unknown
        looked = world.clock()

        early = world.resolve(order, refund_id, "FAILED")
        world.wait_out_the_hold()
        old_evidence = world.resolve(order, refund_id, "FAILED", checked_at=looked)
        from_the_future = world.resolve(order, refund_id, "FAILED", checked_at=world.clock() + timedelta(minutes=5))

        for refused in (early, old_evidence, from_the_future):
            assert (refused.status, refused.body["code"]) == (409, "RESOLUTION_TOO_EARLY")
        hold = world.settings.resolution_hold_seconds
        assert hold < int(early.headers["retry-after"]) <= hold + LEASE_SECONDS
        assert world.get(order, refund_id).body["status"] == "UNKNOWN"
        refusals = [record for record in world.audit(order) if record["action"] == "DECISION_REFUSED"]
        assert [record["decision"] for record in refusals] == ["RESOLVE_FAILED"] * 3
        assert world.resolve(order, refund_id, "FAILED").status == 200

    def test_the_hold_counts_from_the_end_of_the_last_lease(self, world: World, unknown: tuple[str, str]) -> None:
        order, refund_id = unknown
        stored = world.gateway.ledger.refund(world.order_key(order), refund_id)
        assert stored.sendable_until
        first = stored.sendable_until + timedelta(seconds=world.settings.resolution_hold_seconds)
        world.wait_out_the_hold()

        too_early = world.resolve(order, refund_id, "FAILED", checked_at=first - timedelta(seconds=1))
        assert too_early.status == 409
        assert world.resolve(order, refund_id, "FAILED", checked_at=first).status == 200

    def test_nothing_else_can_be_resolved(self, world: World, unknown: tuple[str, str]) -> None:
        order, refund_id = unknown
        world.resolve(order, refund_id, "SUCCEEDED")

        again = world.resolve(order, refund_id, "FAILED")

        assert (again.status, again.body["code"]) == (409, "REFUND_NOT_UNKNOWN")
        assert world.withdraw(order, refund_id).body["code"] == "REFUND_NOT_WITHDRAWABLE"
        assert world.sums(order) == (60_000, 0, 40_000)
        assert world.resolve(order, "0" * 32, "FAILED").status == 404

    def test_a_decision_on_another_version_is_refused_with_the_refund_as_it_is(
        self, world: World, unknown: tuple[str, str]
    ) -> None:
        order, refund_id = unknown

        stale = world.resolve(order, refund_id, "SUCCEEDED", version=1)

        assert (stale.status, stale.body["code"]) == (412, "VERSION_MISMATCH")
        assert stale.body["refund"] == world.get(order, refund_id).body
        assert stale.headers["etag"] == f'"{stale.body["refund"]["version"]}"'
        assert world.audit(order)[-1]["action"] == "DECISION_REFUSED"

    def test_the_same_decision_by_the_same_person_has_the_same_answer_again(
        self, world: World, unknown: tuple[str, str]
    ) -> None:
        order, refund_id = unknown
        version, looked = world.get(order, refund_id).body["version"], world.clock()
        same: dict[str, Any] = {"version": version, "checked_at": looked, "subject": "finance-1"}

        first = world.resolve(order, refund_id, "SUCCEEDED", **same)
        again = world.resolve(order, refund_id, "SUCCEEDED", **same)

        assert (again.status, again.body) == (first.status, first.body) == (200, first.body)
        for other in ({"subject": "finance-2"}, {"reference": "another file"}, {"checked_at": world.clock()}):
            assert world.resolve(order, refund_id, "SUCCEEDED", **(same | other)).status == 412
        assert [record["action"] for record in world.audit(order)].count("REFUND_RESOLVED") == 1

    def test_a_withdrawal_of_what_was_sent_since_changes_nothing(self, world: World) -> None:
        """The operator saw it QUEUED; then the worker sent it, and the answer was lost."""
        order = world.order(100_000)
        queued = world.refund(order, 60_000, later=True).body
        world.simulator.fault("reset_after", path="order_cancellation", merchant_order_id=order, times=1)
        world.work_queue()

        late = world.withdraw(order, queued["refundId"], version=queued["version"])

        assert (late.status, late.body["refund"]["status"]) == (412, "UNKNOWN")
        assert world.withdraw(order, queued["refundId"]).body["code"] == "REFUND_NOT_WITHDRAWABLE"
        assert world.sums(order) == (0, 60_000, 40_000)
        assert world.moved(order) == 60_000

    def test_a_queued_refund_can_be_withdrawn_and_not_declared_done(self, world: World) -> None:
        order = world.order(100_000)
        world.simulator.fault("rate_limited", path="order_cancellation", merchant_order_id=order)
        refund_id = world.refund(order, 60_000).body["refundId"]

        assert world.resolve(order, refund_id, "SUCCEEDED").body["code"] == "REFUND_NOT_UNKNOWN"
        withdrawn = world.withdraw(order, refund_id, note="the customer kept it")

        assert (withdrawn.status, withdrawn.body["failure"]["code"]) == (200, "WITHDRAWN")
        record = world.audit(order)[-1]
        assert (record["action"], record["note"]) == ("REFUND_WITHDRAWN", "the customer kept it")
        assert world.sums(order) == (0, 0, 100_000)
        world.clock.pass_seconds(3600)
        world.recover()
        world.work_queue()
        assert world.moved(order) == 0

    def test_anothers_refund_can_be_withdrawn_only_with_the_resolve_scope(self, world: World) -> None:
        order = world.order(100_000)
        writes: dict[str, Any] = {"scope": "refunds:read refunds:write"}
        mine, yours = (
            world.refund(order, 1000, later=True, subject=subject, **writes).body["refundId"]
            for subject in ("agent-7", "agent-8")
        )

        assert world.withdraw(order, mine, subject="agent-7", **writes).status == 200
        refused = world.withdraw(order, yours, subject="agent-7", **writes)
        assert (refused.status, refused.body["code"]) == (403, "FORBIDDEN")
        assert world.audit(order)[-1]["action"] == "DECISION_REFUSED"
        assert world.withdraw(order, yours, subject="lead-1", scope="refunds:resolve").status == 200

    def test_evidence_from_before_nobody_knew_is_refused(self, world: World) -> None:
        order = world.order(100_000)
        world.die_during("cancel")
        with pytest.raises(Killed):
            world.refund(order, 60_000, key="k")
        world.reassemble()
        refund_id = world.list_refunds(order).body["refunds"][0]["refundId"]
        world.clock.pass_seconds(60)

        first = world.resolve(order, refund_id, "FAILED")

        assert (first.status, first.body["refund"]["status"]) == (412, "UNKNOWN")
        assert world.resolve(order, refund_id, "FAILED").body["code"] == "RESOLUTION_TOO_EARLY"
        world.wait_out_the_hold()
        assert world.resolve(order, refund_id, "FAILED").status == 200

    def test_two_operators_at_once_settle_it_once(self, world: World, unknown: tuple[str, str]) -> None:
        order, refund_id = unknown
        world.wait_out_the_hold()
        version = world.get(order, refund_id).body["version"]

        def resolve(outcome: str) -> int:
            return world.resolve(order, refund_id, outcome, version=version).status

        with ThreadPoolExecutor(2) as pool:
            assert sorted(pool.map(resolve, ["SUCCEEDED", "FAILED"])) == [200, 412]
        world.sums(order)


def test_the_open_refunds_pages_through_one_merchants_refunds(world: World) -> None:
    ids = []
    for _ in range(5):
        order = world.order()
        world.simulator.fault("error_before", path="order_cancellation", merchant_order_id=order)
        ids.append(world.refund(order, 1000).body["refundId"])
        world.reassemble()  # each by another process, for one that saw an outcome become unknown waits

    first = world.open_refunds(limit="2")
    second = world.open_refunds(limit="2", nextToken=first.body["nextToken"])
    third = world.open_refunds(limit="2", nextToken=second.body["nextToken"])

    listed = [refund["refundId"] for page in (first, second, third) for refund in page.body["refunds"]]
    assert listed == ids
    assert third.body["nextToken"] is None
    assert world.open_refunds("QUEUED").body == {"refunds": [], "nextToken": None}
    stolen = world.api(
        "GET /v1/refunds", query={"status": "UNKNOWN", "nextToken": first.body["nextToken"]}, merchant="m2"
    )
    assert (stolen.status, stolen.body["errors"][0]["field"]) == (400, "nextToken")


def test_an_order_with_many_refunds_is_listed_in_pages_oldest_first(world: World) -> None:
    order = world.order(100_000)
    made = [world.refund(order, 1000, fields={"note": "n" * 500}).body["refundId"] for _ in range(7)]

    pages: list[Any] = []
    token = None
    while not pages or token:
        query = {"limit": "3"} | ({"nextToken": token} if token else {})
        page = world.list_refunds(order, query=query)
        assert page.body["refunded"] == 7000
        pages.append([refund["refundId"] for refund in page.body["refunds"]])
        token = page.body["nextToken"]

    assert pages == [made[:3], made[3:6], made[6:]]
    other = world.order()
    world.refund(other, 1000)
    token = world.list_refunds(order, query={"limit": "1"}).body["nextToken"]
    stolen = world.list_refunds(other, query={"nextToken": token})
    assert (stolen.status, stolen.body["errors"][0]["field"]) == (400, "nextToken")


def test_a_full_page_of_the_longest_refunds_fits_into_an_answer(world: World) -> None:
    """Lambda takes 6 MB; the longest note is 500 characters, which JSON writes with up to 12 bytes each."""
    order = world.order(100_000)
    long = world.refund(order, 1000, fields={"note": "\U0001f600" * 500, "requestedBy": "\U0001f600" * 100})

    assert len(long.text) * 100 < 6_000_000 / 4


def test_another_merchant_finds_nothing(world: World) -> None:
    order = world.order()
    world.simulator.fault("error_before", path="order_cancellation", merchant_order_id=order)
    refund_id = world.refund(order, 1000, key="k").body["refundId"]
    world.reassemble()  # another process, for one that saw an outcome become unknown waits

    assert world.status(order, merchant="m2").status == 404
    assert world.refund(order, 1000, key="k", merchant="m2").status == 404
    assert world.get(order, refund_id, merchant="m2").status == 404
    assert world.list_refunds(order, merchant="m2").status == 404
    assert world.resolve(order, refund_id, "FAILED", merchant="m2").status == 404
    assert world.api("GET /v1/refunds", query={"status": "UNKNOWN"}, merchant="m2").body["refunds"] == []
    # What m2 asked Indodana for is on m2's own record, and nothing of m1's.
    assert {record["merchantId"] for record in world.audit(order, merchant="m2")} == {"m2"}

    assert world.get(order, refund_id).body["status"] == "UNKNOWN"
    assert [refund["refundId"] for refund in world.open_refunds().body["refunds"]] == [refund_id]
    assert {record["merchantId"] for record in world.audit(order)} == {"m1"}


def test_an_order_that_only_another_merchant_asked_for_has_no_timeline(world: World) -> None:
    order = world.order()
    world.refund(order, 1000)

    assert world.api("GET /v1/transactions/{merchantOrderId}/audit", order, merchant="m2").status == 404


@pytest.mark.parametrize("merchant", [None, "", "m1#x", "m" * 65])
def test_a_token_that_names_no_merchant_is_forbidden(world: World, merchant: str | None) -> None:
    answer = world.refund(world.order(), 1000, merchant=merchant)

    assert (answer.status, answer.body["code"]) == (403, "FORBIDDEN")
    assert "merchant_id" in answer.body["detail"]


def test_a_stack_without_a_merchant_claim_serves_its_single_merchant(world: World) -> None:
    world.reassemble(merchant_claim="")
    order = world.order()

    assert world.refund(order, 1000, merchant=None).status == 201
    assert world.moved(order) == 1000


def test_the_timeline_tells_who_did_what_and_why(world: World) -> None:
    order = world.order(100_000)
    world.refund(order, 25_000, key="k", subject="agent-7", fields={"note": "shirt", "requestedBy": "Rina"})

    first, second = world.audit(order)

    assert [first["action"], second["action"]] == ["REFUND_SUBMITTING", "REFUND_SUCCEEDED"]
    assert (first.get("before"), first["after"], second["before"]) == (None, "SUBMITTING", "SUBMITTING")
    for record in (first, second):
        assert record["actor"] == "agent-7"
        assert record["requestedBy"] == "Rina"
        assert (record["channel"], record["amount"], record["note"]) == ("api", 25_000, "shirt")
    assert (second["upstreamStatus"], "OK" in second["upstreamBody"]) == (200, True)


def test_a_bug_is_a_500_that_says_nothing_and_leaves_a_trace(
    world: World, monkeypatch: pytest.MonkeyPatch, logs: io.StringIO
) -> None:
    def broken(*_: object) -> None:
        raise ZeroDivisionError("inside")

    monkeypatch.setattr(world.gateway.service, "refund_now", broken)
    answer = world.refund(world.order(), 1000)

    assert (answer.status, answer.body["code"]) == (500, "INTERNAL_ERROR")
    assert "inside" not in answer.text
    assert answer.body["requestId"] in logs.getvalue()
    assert "ZeroDivisionError: inside" in logs.getvalue()
