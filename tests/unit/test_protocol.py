"""The refund protocol with a ledger in memory and an Indodana that answers as told: times, records and conditions."""

from __future__ import annotations

import logging
from collections.abc import Callable
from dataclasses import replace
from datetime import timedelta
from decimal import Decimal
from typing import Any

import pytest
from botocore.exceptions import EndpointConnectionError

from gateway.core.breaker import Admission, AttemptResult
from gateway.core.context import RequestContext
from gateway.core.errors import LedgerBusy, LedgerUnavailable, OrderChanged, RefundChanged
from gateway.core.model import FailureCode, Order, OrderKey, Reason, Refund
from gateway.core.outcome import ConflictKinds
from gateway.core.protocol import KNOWN_ORDERS, LEASE_SECONDS, Deferred, Refusal
from gateway.core.transitions import RefundStatus
from gateway.core.upstream import UpstreamAnswer
from indodana import (
    AnswerTimedOut,
    Cancellation,
    ConnectionFailed,
    CredentialsRejected,
    IndodanaError,
    RateLimited,
    Refused,
    ServerFailed,
)
from tests.unit.protocol_world import (
    EVIDENCE,
    FAILED,
    NOON,
    ORDER,
    QUEUED,
    SUBMITTING,
    SUCCEEDED,
    UNKNOWN,
    World,
    died,
    paid,
    request,
)

# Of functions/gateway/core/protocol.py: what a status check and a submission need, and a write.
SETTLE_SECONDS = 8
STATUS_CHECK_SECONDS = 12 + SETTLE_SECONDS
RESERVE_SECONDS = 2 * SETTLE_SECONDS
SUBMIT_SECONDS = 10 + SETTLE_SECONDS


@pytest.fixture
def world() -> World:
    return World()


# ---- a refund that goes well


def test_a_first_refund_checks_the_order_and_sends_what_was_asked(world: World) -> None:
    refund = world.refund(request())

    assert refund.status is SUCCEEDED
    assert world.indodana.checks == [("m1", "ORDER-1")]
    assert world.indodana.merchants == ["m1"]
    assert world.indodana.sent == [
        Cancellation(refund.refund_id, "ORDER-1", Decimal(60_000), "Out of Stock", "Rina", NOON)
    ]
    assert (refund.version, refund.attempts, refund.ambiguous) == (2, 1, False)
    assert (refund.reserved_amount, refund.transaction_amount) == (Decimal(60_000), Decimal(100_000))
    assert (refund.lease_until, refund.next_attempt_at, refund.queue_message) == (None, None, None)
    assert world.sums() == (40_000, 0, 60_000)
    assert world.breaker.is_proven
    assert world.errors == []


def test_each_transition_is_on_record_with_what_indodana_answered(world: World) -> None:
    world.refund(request())

    reserved, settled = world.records()
    assert (reserved["action"], reserved.get("before"), reserved["after"]) == ("REFUND_SUBMITTING", None, "SUBMITTING")
    assert (reserved["upstreamStatus"], reserved["upstreamBody"]) == (200, "transactionStatus PAID, amount 100000")
    assert (settled["action"], settled["before"], settled["after"]) == ("REFUND_SUCCEEDED", "SUBMITTING", "SUCCEEDED")
    assert (settled["upstreamStatus"], settled["upstreamBody"]) == (200, EVIDENCE.body)
    assert settled["upstreamSha256"] == "f00d"
    assert "cause" not in settled


def test_a_refund_is_reserved_under_a_lease_before_it_is_sent(world: World) -> None:
    seen: list[Refund] = []
    world.indodana.during = lambda: seen.append(world.read(request()).refund)
    world.refund(request())

    [submitting] = seen
    assert submitting.status is SUBMITTING
    assert submitting.lease_until == submitting.sendable_until == NOON + timedelta(seconds=45)
    assert (submitting.queue_message, submitting.enqueued_at, submitting.next_attempt_at) == (None, None, None)


def test_all_that_remains_is_what_the_order_still_has(world: World) -> None:
    world.refund(request(60_000, "a"))
    assert world.refund(request(None, "b")).reserved_amount == Decimal(40_000)
    assert world.indodana.sent[-1].amount == Decimal(40_000)
    assert world.sums() == (0, 0, 100_000)


def test_a_second_refund_of_an_order_asks_for_no_status(world: World) -> None:
    world.refund(request(60_000, "a"))
    world.refund(request(30_000, "b"))
    assert len(world.indodana.checks) == 1


def test_an_order_is_known_with_its_sums_while_a_refund_is_under_way(world: World) -> None:
    known: list[Order] = []
    world.indodana.during = lambda: known.append(world.protocol.known_orders[ORDER])
    world.refund(request(60_000, "a"))
    world.refund(request(30_000, "b"))

    assert known == [
        Order(Decimal(100_000), Decimal(40_000), reserved=Decimal(60_000)),
        Order(Decimal(100_000), Decimal(10_000), reserved=Decimal(30_000), refunded=Decimal(60_000)),
    ]


def test_known_orders_are_forgotten_at_their_limit(world: World) -> None:
    for number in range(KNOWN_ORDERS - 1):
        world.protocol.known_orders[OrderKey("m2", str(number))] = Order(Decimal(1), Decimal(1))
    world.refund(request(1_000, "a"))
    assert len(world.protocol.known_orders) == KNOWN_ORDERS
    world.refund(request(1_000, "b"))
    assert list(world.protocol.known_orders) == [ORDER]


# ---- what refuses it before anything is sent


@pytest.mark.parametrize(
    ("status", "code"),
    [
        (paid(status="INITIATED"), FailureCode.TRANSACTION_NOT_PAID),
        (Refused("no", http_status=404, kind="NotFoundError"), FailureCode.ORDER_NOT_FOUND),
        (Refused("no", http_status=403, kind="ForbiddenError"), FailureCode.UPSTREAM_REFUSED),
        (paid(59_999), FailureCode.AMOUNT_EXCEEDS_REFUNDABLE),
    ],
)
def test_an_order_that_cannot_be_refunded_refuses(world: World, status: Any, code: FailureCode) -> None:
    world.indodana.status = status
    refusal = world.attempt(request())

    assert isinstance(refusal, Refusal)
    assert refusal.failure.code is code
    assert world.read(request()) == (None, None)
    assert world.indodana.sent == []


def test_a_refusal_carries_what_indodana_said(world: World) -> None:
    world.indodana.status = Refused("no", http_status=404, kind="NotFoundError", message="gone", evidence=EVIDENCE)
    refusal = world.attempt(request())

    assert (refusal.upstream.status, refusal.upstream.body, refusal.upstream.sha256) == (404, EVIDENCE.body, "f00d")
    assert refusal.failure.detail == "Indodana has no such order"
    failure = refusal.failure
    assert (failure.upstream_status, failure.upstream_kind, failure.upstream_message) == (404, "NotFoundError", "gone")

    world.indodana.status = paid(status="EXPIRED")
    assert world.attempt(request()).upstream.body == "transactionStatus EXPIRED, amount 100000"
    assert world.attempt(request()).upstream.status == 200


def test_an_order_without_an_amount_is_put_off(world: World) -> None:
    world.indodana.status = paid(None)
    deferred = world.attempt(request())

    assert isinstance(deferred, Deferred)
    assert deferred.cause == "Indodana's answer has no amount"
    assert deferred.upstream is not None
    assert (deferred.upstream.status, deferred.unanswered) == (200, False)


@pytest.mark.parametrize(
    ("error", "unanswered"),
    [
        (AnswerTimedOut("no answer"), True),
        (ServerFailed("failed", http_status=500), True),
        (ConnectionFailed("no connection"), True),
        (RateLimited("wait", http_status=429, retry_after_seconds=17), False),
        (CredentialsRejected("no", http_status=401), False),
    ],
)
def test_a_status_check_that_fails_puts_the_refund_off(world: World, error: IndodanaError, unanswered: bool) -> None:
    world.indodana.status = error
    deferred = world.attempt(request())

    assert isinstance(deferred, Deferred)
    assert deferred.cause == f"status check failed: {error}"
    assert deferred.retry_after_seconds == error.retry_after_seconds
    assert deferred.unanswered is unanswered
    assert deferred.upstream == (UpstreamAnswer(error.http_status, None) if error.http_status else None)
    assert world.errors == [error]
    # Nothing was sent, so other refunds may still be.
    assert world.breaker.admit() is Admission.SEND


def test_a_status_is_only_asked_for_while_there_is_time(world: World) -> None:
    world.seconds_left = STATUS_CHECK_SECONDS - 0.001
    deferred = world.attempt(request())
    assert isinstance(deferred, Deferred)
    assert deferred == Deferred("not enough time left to check the order's status", None, None, unanswered=False)
    assert world.indodana.checks == []

    world.seconds_left = STATUS_CHECK_SECONDS
    world.attempt(request())
    assert len(world.indodana.checks) == 1


# ---- time, and the lease


def test_a_submission_is_only_begun_while_it_can_be_settled(world: World) -> None:
    world.refund(request(1_000, "first"))
    world.seconds_left = SUBMIT_SECONDS - 0.001
    queued = world.refund(request())

    assert queued.status is QUEUED
    assert len(world.indodana.sent) == 1
    assert world.record("REFUND_QUEUED")["cause"] == "not enough time left to submit it"

    world.seconds_left = SUBMIT_SECONDS
    assert world.refund(request(1_000, "other")).status is SUCCEEDED


def test_a_refund_is_only_reserved_while_it_can_be_settled(world: World) -> None:
    world.refund(request(1_000, "first"))
    world.seconds_left = RESERVE_SECONDS - 0.001
    assert world.attempt(request()) == Deferred("not enough time left to reserve it")
    assert world.sums() == (99_000, 0, 1_000)

    world.seconds_left = RESERVE_SECONDS
    assert world.refund(request()).status is QUEUED
    assert world.sums() == (39_000, 60_000, 1_000)


def test_a_status_that_comes_too_late_to_reserve_is_on_record(world: World) -> None:
    def check_status(*_: str) -> Any:
        world.seconds_left = RESERVE_SECONDS - 0.001
        return paid()

    world.indodana.check_status = check_status  # type: ignore[method-assign, assignment]
    deferred = world.attempt(request())
    answered = UpstreamAnswer(200, "transactionStatus PAID, amount 100000")
    assert deferred == Deferred("not enough time left to reserve it", upstream=answered)


@pytest.mark.parametrize(("left", "is_written"), [(RESERVE_SECONDS, True), (RESERVE_SECONDS - 0.001, False)])
def test_a_reservation_is_written_again_only_while_it_can_be_settled(
    world: World, failing: list[bool], left: float, is_written: bool
) -> None:
    failing.append(True)
    transition = world.ledger.transition

    def slow(*arguments: Any, **options: Any) -> None:
        world.seconds_left = left
        transition(*arguments, **options)

    world.ledger.transition = slow  # type: ignore[method-assign]
    if is_written:
        assert world.refund(request()).status is QUEUED  # too late to be sent
    else:
        with pytest.raises(LedgerUnavailable):
            world.attempt(request())


@pytest.mark.parametrize(("left", "is_sent"), [(SUBMIT_SECONDS, True), (SUBMIT_SECONDS - 0.001, False)])
def test_a_request_is_held_back_where_its_answer_came_too_late(world: World, left: float, is_sent: bool) -> None:
    def time_passes() -> None:
        world.seconds_left = left

    world.indodana.before_sending = time_passes
    refund = world.refund(request())

    assert bool(world.indodana.sent) is is_sent
    assert refund.status is (SUCCEEDED if is_sent else QUEUED)
    if not is_sent:
        assert world.records()[-1]["cause"] == "not sent: too little time left, or the circuit breaker opened"


@pytest.mark.parametrize(("passed", "is_sent"), [(45 - SUBMIT_SECONDS, True), (45 - SUBMIT_SECONDS + 0.001, False)])
def test_a_request_is_held_back_where_its_lease_would_end(world: World, passed: float, is_sent: bool) -> None:
    world.indodana.before_sending = lambda: world.passes(passed)
    world.refund(request())
    assert bool(world.indodana.sent) is is_sent


def test_a_request_is_held_back_once_another_ended_unknown(world: World) -> None:
    world.indodana.before_sending = lambda: world.breaker.report(Admission.SEND, AttemptResult.DOUBTFUL)
    assert world.refund(request()).status is QUEUED
    assert world.indodana.sent == []


def test_a_lease_has_expired_at_its_end_and_not_before(world: World) -> None:
    seen: list[Refund] = []
    world.indodana.during = lambda: seen.append(world.read(request()).refund)
    settled = world.refund(request())
    [submitting] = seen

    world.passes(44.999)
    assert not world.protocol.has_expired_lease(submitting)
    world.passes(0.001)
    assert world.protocol.has_expired_lease(submitting)
    assert not world.protocol.has_expired_lease(settled)
    assert not world.protocol.has_expired_lease(replace(submitting, lease_until=None))
    assert not world.protocol.has_expired_lease(replace(submitting, status=UNKNOWN))


def test_an_expired_lease_leaves_the_outcome_unknown(world: World, caplog: pytest.LogCaptureFixture) -> None:
    unknown = died(world, request())
    assert unknown == world.read(request()).refund
    assert (unknown.status, unknown.ambiguous, unknown.lease_until) == (UNKNOWN, True, None)
    assert unknown.next_attempt_at is None
    assert unknown.sendable_until == NOON + timedelta(seconds=45)
    assert world.sums() == (40_000, 60_000, 0)
    record = world.records()[-1]
    assert (record["action"], record["cause"]) == ("REFUND_UNKNOWN", "lease expired before the outcome was recorded")
    [line] = [line for line in caplog.messages if "is unknown: lease expired" in line]
    assert unknown.refund_id in line
    assert "m1#ORDER-1" in line


def test_an_expired_lease_is_due_again_where_the_stack_resubmits(world: World) -> None:
    world.with_settings(resubmit=True)
    unknown = died(world, request())

    assert unknown.next_attempt_at is not None
    assert timedelta(seconds=2) <= unknown.next_attempt_at - world.now <= timedelta(seconds=2.4)
    assert world.protocol.waits_for_an_attempt(unknown)
    assert not world.protocol.is_due(unknown)
    world.passes(2.4)
    assert world.protocol.is_due(unknown)


def test_a_lease_that_somebody_else_ended_is_left_alone(world: World) -> None:
    seen: list[Refund] = []
    world.indodana.during = lambda: seen.append(world.read(request()).refund)
    settled = world.refund(request())
    assert world.protocol.expire_lease(seen[0], world.context()) == settled
    assert len(world.records()) == 2


# ---- when a refund is due


def test_a_refund_is_due_while_it_waits_and_its_time_has_come(world: World) -> None:
    queued = replace(world.refund(request()), status=QUEUED)
    for due, is_due in ((None, True), (NOON, True), (NOON + timedelta(seconds=1), False)):
        assert world.protocol.is_due(replace(queued, next_attempt_at=due)) is is_due
    for status in (SUBMITTING, SUCCEEDED, FAILED):
        assert not world.protocol.is_due(replace(queued, status=status, next_attempt_at=NOON))
        assert not world.protocol.waits_for_an_attempt(replace(queued, status=status))


@pytest.mark.parametrize("resubmit", [False, True])
def test_an_unknown_refund_waits_only_where_the_stack_resubmits(world: World, resubmit: bool) -> None:
    world.with_settings(resubmit=resubmit)
    unknown = replace(world.refund(request()), status=UNKNOWN, next_attempt_at=NOON)
    assert world.protocol.waits_for_an_attempt(unknown) is resubmit
    assert world.protocol.is_due(unknown) is resubmit
    assert not world.protocol.waits_for_an_attempt(replace(unknown, next_attempt_at=None))


# ---- outcomes


@pytest.mark.parametrize(
    ("error", "status"),
    [
        (AnswerTimedOut("no answer"), UNKNOWN),
        (ServerFailed("failed", http_status=500, evidence=EVIDENCE), UNKNOWN),
        (RateLimited("wait", http_status=429, retry_after_seconds=30), QUEUED),
        (ConnectionFailed("no connection"), QUEUED),
        (Refused("no", http_status=422, kind="ValidationError", message="bad", evidence=EVIDENCE), FAILED),
        (Refused("conflict", http_status=409, kind="ConflictError"), UNKNOWN),
    ],
)
def test_an_answer_decides_the_outcome_and_is_on_record(
    world: World, error: IndodanaError, status: RefundStatus, caplog: pytest.LogCaptureFixture
) -> None:
    world.indodana.outcome = error
    refund = world.refund(request(), message="carrier-1")

    assert refund.status is status
    assert refund.ambiguous is (status is UNKNOWN)
    assert refund.lease_until is None
    assert refund.queue_message == ("carrier-1" if status is QUEUED else None)
    assert (refund.next_attempt_at is not None) is (status is QUEUED)
    record = world.records()[-1]
    assert (record["after"], record["cause"]) == (status, str(error))
    assert record.get("upstreamStatus") == error.http_status
    assert world.sums() == ((100_000, 0, 0) if status is FAILED else (40_000, 60_000, 0))
    # A refusal is no fault of Indodana's.
    assert world.errors == ([] if isinstance(error, Refused) else [error])
    unknown_lines = [line for line in caplog.messages if "is unknown" in line]
    assert len(unknown_lines) == (1 if status is UNKNOWN else 0)
    for line in unknown_lines:
        assert refund.refund_id in line
        assert "m1#ORDER-1" in line
        assert str(error) in line


def test_a_refusal_is_kept_with_the_refund(world: World) -> None:
    world.indodana.outcome = Refused("no", http_status=422, kind="ValidationError", message="bad", evidence=EVIDENCE)
    failure = world.refund(request()).failure

    assert failure is not None
    assert failure.code is FailureCode.UPSTREAM_REFUSED
    assert failure.detail == "Indodana refused the request with HTTP 422"
    assert (failure.upstream_status, failure.upstream_kind, failure.upstream_message) == (422, "ValidationError", "bad")


@pytest.mark.parametrize(
    ("error", "is_open"),
    [
        (AnswerTimedOut("no answer"), True),
        (ServerFailed("failed", http_status=500), True),
        (Refused("no", http_status=422), False),
        (RateLimited("wait", http_status=429), False),
        (ConnectionFailed("no connection"), False),
    ],
)
def test_only_an_unknown_outcome_opens_the_breaker(world: World, error: IndodanaError, is_open: bool) -> None:
    world.indodana.outcome = error
    world.refund(request())
    assert (world.breaker.admit() is Admission.WAIT) is is_open
    assert world.breaker.is_proven is isinstance(error, Refused)


def test_a_refund_that_waits_is_tried_again_after_its_back_off(world: World) -> None:
    world.indodana.outcome = RateLimited("wait", http_status=429, retry_after_seconds=30)
    queued = world.refund(request())
    assert queued.next_attempt_at == NOON + timedelta(seconds=30)

    world.indodana.outcome = ConnectionFailed("no connection")
    again = world.refund(request())
    assert (again.attempts, again.refund_id) == (2, queued.refund_id)
    assert again.next_attempt_at is not None
    assert timedelta(seconds=4) <= again.next_attempt_at - NOON <= timedelta(seconds=4.8)
    assert world.sums() == (40_000, 60_000, 0)

    world.indodana.outcome = None
    assert world.refund(request()).status is SUCCEEDED
    assert len(world.indodana.checks) == 1
    assert len({sent.date for sent in world.indodana.sent}) == 1


# ---- after an attempt that may have reached Indodana


@pytest.mark.parametrize(
    ("error", "status", "may_be_resubmitted"),
    [
        (None, SUCCEEDED, False),
        (Refused("no", http_status=422, kind="ValidationError"), UNKNOWN, False),
        (Refused("conflict", http_status=409, kind="OtherError"), UNKNOWN, False),
        (Refused("conflict", http_status=409, kind="NotDoneError"), UNKNOWN, False),
        (Refused("conflict", http_status=409, kind="DoneError"), SUCCEEDED, False),
        (Refused("not a conflict", http_status=422, kind="DoneError"), UNKNOWN, False),
        (RateLimited("wait", http_status=429, retry_after_seconds=30), UNKNOWN, True),
        (AnswerTimedOut("no answer"), UNKNOWN, True),
    ],
)
def test_a_resubmission_is_never_taken_for_the_first_attempt(
    world: World, error: IndodanaError | None, status: RefundStatus, may_be_resubmitted: bool
) -> None:
    kinds = ConflictKinds(frozenset({"NotDoneError"}), frozenset({"DoneError"}))
    world.with_settings(resubmit=True, conflict_kinds=kinds)
    died(world, request())
    world.indodana.outcome = error
    again = world.refund(request())

    assert (again.status, again.ambiguous) == (status, True)
    assert (again.next_attempt_at is not None) is may_be_resubmitted
    assert world.sums() == ((40_000, 0, 60_000) if status is SUCCEEDED else (40_000, 60_000, 0))
    assert world.records()[-1].get("cause") == (str(error) if error else None)


@pytest.mark.parametrize(
    ("kind", "status"), [("NotDoneError", FAILED), ("DoneError", UNKNOWN), ("OtherError", UNKNOWN)]
)
def test_a_first_conflict_fails_only_by_a_kind_that_did_nothing(world: World, kind: str, status: RefundStatus) -> None:
    world.with_settings(conflict_kinds=ConflictKinds(frozenset({"NotDoneError"}), frozenset({"DoneError"})))
    world.indodana.outcome = Refused("conflict", http_status=409, kind=kind)
    assert world.refund(request()).status is status


def test_no_kind_of_a_conflict_means_anything_unless_the_merchant_says_so(world: World) -> None:
    world.with_settings(resubmit=True)
    died(world, request())
    world.indodana.outcome = Refused("conflict", http_status=409, kind="DoneError")
    assert world.refund(request()).status is UNKNOWN


@pytest.mark.parametrize(
    ("reason", "words"),
    [
        (Reason.EXPIRED, "Expired"),
        (Reason.OUT_OF_STOCK, "Out of Stock"),
        (Reason.ITEMS_RETURNED, "Items Returned"),
        (Reason.OTHERS, "Others"),
    ],
)
def test_a_reason_is_sent_in_indodanas_words(world: World, reason: Reason, words: str) -> None:
    world.refund(request(reason=reason))
    assert world.indodana.sent[0].reason == words


# ---- the circuit breaker


def _open(world: World) -> None:
    world.refund(request(1_000, "first"))
    world.breaker.report(Admission.SEND, AttemptResult.DOUBTFUL)


def test_an_open_breaker_puts_refunds_off(world: World) -> None:
    _open(world)
    deferred = world.attempt(request())

    assert isinstance(deferred, Deferred)
    assert (
        deferred.cause == "circuit breaker is open after an unknown outcome; refunds wait until Indodana answers again"
    )
    assert (deferred.retry_after_seconds, deferred.unanswered, deferred.upstream) == (2, False, None)


def test_an_open_breaker_still_refuses_what_the_order_lacks(world: World) -> None:
    _open(world)
    refusal = world.attempt(request(99_001))
    assert isinstance(refusal, Refusal)
    assert refusal.failure.code is FailureCode.AMOUNT_EXCEEDS_REFUNDABLE
    # Of an order that is not known, nothing can be said.
    assert isinstance(world.attempt(request(order=OrderKey("m1", "ORDER-2"))), Deferred)


def test_an_open_breaker_refuses_no_refund_that_has_its_reservation(world: World) -> None:
    world.indodana.outcome = ConnectionFailed("no connection")
    world.refund(request(60_000))
    world.breaker.report(Admission.SEND, AttemptResult.DOUBTFUL)
    assert isinstance(world.attempt(request(60_000)), Deferred)


def test_a_refund_without_reservation_is_refused_by_an_open_breaker(world: World) -> None:
    _open(world)
    on_record = world.read(request(1_000, "first"))
    asked = request(99_001, "second")
    waiting = replace(on_record.refund, request=asked, status=QUEUED, reserved_amount=None)
    assert isinstance(world.protocol.attempt(asked, waiting, on_record.order, world.context()), Refusal)


def test_a_probe_checks_the_status_and_closes_the_breaker(world: World) -> None:
    _open(world)
    world.passes(2)
    assert world.refund(request()).status is SUCCEEDED
    assert len(world.indodana.checks) == 2
    assert world.breaker.admit() is Admission.SEND


@pytest.mark.parametrize(
    ("error", "wait_seconds"),
    [(AnswerTimedOut("no answer"), 4), (ConnectionFailed("no connection"), 4), (RateLimited("wait"), 0)],
)
def test_a_probe_that_is_not_answered_opens_the_breaker_for_longer(
    world: World, error: IndodanaError, wait_seconds: int
) -> None:
    _open(world)
    world.passes(2)
    world.indodana.status = error
    assert isinstance(world.attempt(request()), Deferred)

    if wait_seconds:
        assert world.breaker.admit() is Admission.WAIT
        assert world.breaker.wait_seconds == wait_seconds
    else:  # the next one probes
        assert world.breaker.admit() is Admission.PROBE


def test_a_probes_status_decides_nothing_of_a_known_order(world: World) -> None:
    """An order with refunds may read as cancelled."""
    _open(world)
    world.passes(2)
    world.indodana.status = paid(status="CANCELLED")
    assert world.refund(request()).status is SUCCEEDED


def test_a_probes_status_opens_an_order(world: World) -> None:
    world.breaker.report(Admission.SEND, AttemptResult.DOUBTFUL)
    world.passes(2)
    world.refund(request())
    assert len(world.indodana.checks) == 1


def test_a_probe_that_came_to_nothing_lets_the_next_one_probe(world: World) -> None:
    world.breaker.report(Admission.SEND, AttemptResult.DOUBTFUL)
    world.passes(2)
    world.indodana.status = paid(status="INITIATED")
    assert isinstance(world.attempt(request()), Refusal)
    assert world.breaker.admit() is Admission.PROBE


def test_a_crash_does_not_keep_the_probe(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    world.breaker.report(Admission.SEND, AttemptResult.DOUBTFUL)
    world.passes(2)

    def crash(*_: object) -> Any:
        raise ZeroDivisionError

    monkeypatch.setattr(world.indodana, "check_status", crash)
    with pytest.raises(ZeroDivisionError):
        world.attempt(request())
    assert world.breaker.admit() is Admission.PROBE


# ---- races


def test_sums_that_changed_since_they_were_read_are_read_again(world: World) -> None:
    world.refund(request(30_000, "first"))
    old = world.read(request()).order
    world.refund(request(30_000, "second"))

    refused = world.protocol.attempt(request(60_000), None, old, world.context())
    assert isinstance(refused, Refusal)
    all_of_it = world.protocol.attempt(request(None), None, old, world.context())
    assert isinstance(all_of_it, Refund)
    assert all_of_it.reserved_amount == Decimal(40_000)


def test_all_that_remains_is_all_of_it_where_money_came_back(world: World) -> None:
    """Another refund gave its reservation back since the sums were read."""
    read: list[Order] = []
    world.indodana.during = lambda: read.append(world.read(request()).order)
    world.indodana.outcome = Refused("no", http_status=422)
    assert world.refund(request(30_000, "first")).status is FAILED
    assert read[0].refundable == 70_000

    world.indodana.outcome = None
    refund = world.protocol.attempt(request(None), None, read[0], world.context())
    assert isinstance(refund, Refund)
    assert refund.reserved_amount == 100_000


def test_sums_that_never_hold_still_make_the_ledger_busy(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    world.refund(request(1_000, "first"))
    order = world.read(request()).order
    tries = []

    def changed(*_: object, **__: object) -> None:
        tries.append(1)
        raise OrderChanged(order)

    monkeypatch.setattr(world.ledger, "transition", changed)
    with pytest.raises(LedgerBusy):
        world.attempt(request())
    assert len(tries) == 10


def test_a_refund_that_somebody_else_took_is_told(world: World) -> None:
    world.indodana.outcome = ConnectionFailed("no connection")
    queued = world.refund(request())
    world.indodana.outcome = None
    settled = world.refund(request())

    with pytest.raises(RefundChanged) as raised:
        world.protocol.attempt(request(), queued, None, world.context())
    assert raised.value.current == settled


# ---- settling late


def _expire_meanwhile(world: World, resolve: RefundStatus | None = None) -> Callable[[], None]:
    """While the answer is on its way the lease expires, and perhaps somebody settles the refund."""

    def meanwhile() -> None:
        world.passes(LEASE_SECONDS)
        late = world.protocol.expire_lease(world.read(request()).refund, world.context())
        if resolve:
            world.ledger.transition(late, late.transition_to(resolve, world.now), world.context())

    return meanwhile


@pytest.mark.parametrize(("error", "status"), [(None, SUCCEEDED), (Refused("no", http_status=422), FAILED)])
def test_an_answer_after_the_lease_still_settles_its_refund(
    world: World, error: IndodanaError | None, status: RefundStatus
) -> None:
    world.indodana.during = _expire_meanwhile(world)
    world.indodana.outcome = error
    refund = world.refund(request())

    assert (refund.status, refund.version, refund.ambiguous) == (status, 3, True)
    assert [record["action"] for record in world.records()][1:] == ["REFUND_UNKNOWN", f"REFUND_{status}"]


@pytest.mark.parametrize("error", [AnswerTimedOut("no answer"), ConnectionFailed("no connection")])
def test_an_attempt_that_said_nothing_changes_nothing_after_its_lease(world: World, error: IndodanaError) -> None:
    world.indodana.during = _expire_meanwhile(world)
    world.indodana.outcome = error
    refund = world.refund(request())
    assert (refund.status, refund.version) == (UNKNOWN, 2)


def test_an_answer_that_contradicts_a_settled_refund_is_evidence(
    world: World, caplog: pytest.LogCaptureFixture
) -> None:
    world.indodana.during = _expire_meanwhile(world, FAILED)
    refund = world.refund(request())

    assert refund.status is FAILED
    assert world.sums() == (100_000, 0, 0)
    record = world.record("LATE_EVIDENCE")
    assert record["after"] == "FAILED"
    assert record["cause"] == "late response: outcome was SUCCEEDED, but the refund had already become FAILED"
    assert (record["upstreamStatus"], record["upstreamSha256"]) == (200, "f00d")
    assert record["at"] == "2026-11-27T12:00:45.000000Z"
    [line] = [line for line in caplog.records if line.levelno == logging.ERROR]
    for part in (refund.refund_id, "m1#ORDER-1", "already FAILED", "was SUCCEEDED"):
        assert part in line.getMessage()


def test_an_unknown_outcome_contradicts_no_settled_refund(world: World, caplog: pytest.LogCaptureFixture) -> None:
    world.indodana.during = _expire_meanwhile(world, SUCCEEDED)
    world.indodana.outcome = AnswerTimedOut("no answer")
    assert world.refund(request()).status is SUCCEEDED
    assert "LATE_EVIDENCE" not in [record["action"] for record in world.records()]
    assert not [line for line in caplog.records if line.levelno == logging.ERROR]


def test_an_answer_does_not_settle_a_later_attempt_of_its_refund(world: World) -> None:
    """The stack resubmitted it meanwhile, and that attempt's lease expired too: which of them was refused?"""
    world.with_settings(resubmit=True)

    def meanwhile() -> None:
        world.indodana.during = lambda: None
        world.passes(LEASE_SECONDS)
        world.protocol.expire_lease(world.read(request()).refund, world.context())
        world.passes(10)
        world.indodana.outcome = AnswerTimedOut("no answer")
        world.refund(request())
        world.indodana.outcome = Refused("no", http_status=422)

    world.indodana.during = meanwhile
    refund = world.refund(request())
    assert (refund.status, refund.attempts) == (UNKNOWN, 2)
    assert world.record("LATE_EVIDENCE")["after"] == refund.status


def test_an_outcome_that_loses_both_races_is_evidence(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    world.indodana.during = _expire_meanwhile(world)
    transition = world.ledger.transition

    def raced(before: Refund | None, after: Refund, context: RequestContext, **more: Any) -> None:
        if before and before.status is UNKNOWN and after.status is SUCCEEDED:  # an operator is quicker
            monkeypatch.undo()
            transition(before, before.transition_to(FAILED, world.now), context)
        transition(before, after, context, **more)

    monkeypatch.setattr(world.ledger, "transition", raced)
    refund = world.refund(request())
    assert refund.status is FAILED
    assert world.record("LATE_EVIDENCE")["after"] == refund.status


# ---- when the ledger does not answer


@pytest.fixture
def failing(world: World, monkeypatch: pytest.MonkeyPatch) -> list[bool]:
    """Whether each of the next writes is answered with an error; they land all the same where it is False."""
    failures: list[bool] = []
    write = world.dynamo.transact_write_items

    def maybe(**request: Any) -> Any:
        if not failures:
            return write(**request)
        if not failures.pop(0):
            write(**request)
        raise EndpointConnectionError(endpoint_url="https://dynamodb")

    monkeypatch.setattr(world.dynamo, "transact_write_items", maybe)
    return failures


def _fails_while_settling(world: World, failing: list[bool], times: int, *, lands: bool = False) -> None:
    world.indodana.during = lambda: failing.extend([not lands] * times)


@pytest.mark.parametrize("lands", [False, True])
def test_an_outcome_is_written_at_the_third_try(world: World, failing: list[bool], lands: bool) -> None:
    _fails_while_settling(world, failing, 2, lands=lands)
    assert world.refund(request()).status is SUCCEEDED
    assert len(world.records()) == 2


def test_an_outcome_that_cannot_be_written_is_an_error(
    world: World, failing: list[bool], caplog: pytest.LogCaptureFixture
) -> None:
    _fails_while_settling(world, failing, 3)
    world.indodana.outcome = ServerFailed("failed", http_status=500)
    with pytest.raises(LedgerUnavailable, match="the refund was submitted"):
        world.attempt(request())

    [line] = [line for line in caplog.records if line.levelno == logging.ERROR]
    refund = world.read(request()).refund
    for part in (refund.refund_id, "m1#ORDER-1", "outcome UNKNOWN", "HTTP 500", "failed"):
        assert part in line.getMessage()


def test_an_outcome_without_an_answer_that_cannot_be_written_is_an_error(
    world: World, failing: list[bool], caplog: pytest.LogCaptureFixture
) -> None:
    _fails_while_settling(world, failing, 3)
    world.indodana.outcome = AnswerTimedOut("no answer")
    with pytest.raises(LedgerUnavailable):
        world.attempt(request())
    assert "HTTP None, no answer" in caplog.text


@pytest.mark.parametrize(("left", "is_written"), [(SETTLE_SECONDS, True), (SETTLE_SECONDS - 0.001, False)])
def test_an_outcome_is_written_again_only_while_there_is_time(
    world: World, failing: list[bool], left: float, is_written: bool
) -> None:
    def during() -> None:
        failing.append(True)
        world.seconds_left = left

    world.indodana.during = during
    if is_written:
        assert world.refund(request()).status is SUCCEEDED
    else:
        with pytest.raises(LedgerUnavailable):
            world.attempt(request())


def test_a_reservation_that_may_have_landed_is_not_sent(world: World, failing: list[bool]) -> None:
    failing.extend([False, True, True])
    with pytest.raises(LedgerUnavailable):
        world.attempt(request())
    assert world.indodana.sent == []
    assert world.read(request()).refund.status is SUBMITTING


def test_late_evidence_that_cannot_be_written_is_counted(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    world.indodana.during = _expire_meanwhile(world, FAILED)

    def fail(**_: object) -> None:
        raise EndpointConnectionError(endpoint_url="https://dynamodb")

    monkeypatch.setattr(world.dynamo, "put_item", fail)
    assert world.refund(request()).status is FAILED
    assert world.lost == 1
