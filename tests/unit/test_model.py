"""What a refund is: its identity, the steps that it may take, its sums and its times."""

from __future__ import annotations

import math
import time
from dataclasses import replace
from datetime import UTC, datetime, timedelta, timezone
from decimal import Decimal
from enum import StrEnum
from itertools import pairwise

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from gateway.core.backoff import backoff_seconds
from gateway.core.context import RequestContext
from gateway.core.errors import IllegalTransition
from gateway.core.inputs import REFUND_ID
from gateway.core.model import (
    REFUND_ID_LENGTH,
    AmbiguousRefunds,
    EvidenceSource,
    FailureCode,
    Order,
    OrderKey,
    Reason,
    Refund,
    RefundRequest,
    SumsChange,
    from_iso,
    iso,
    new_refund,
    new_transition_id,
    utc_now,
)
from gateway.core.transitions import LEGAL_TRANSITIONS, OPEN_STATUSES, RefundStatus
from gateway.core.upstream import INDODANA_REASONS

NOON = datetime(2026, 11, 22, 12, tzinfo=UTC)
JAKARTA = timezone(timedelta(hours=7))


def request(merchant: str = "m1", order: str = "ORDER-PAID", key: str = "return-1001") -> RefundRequest:
    return RefundRequest(OrderKey(merchant, order), key, Decimal(25_000), Reason.OTHERS, None, "Rina")


def refund(status: RefundStatus = RefundStatus.QUEUED, **changes: object) -> Refund:
    return new_refund(request(), status, NOON, RequestContext("agent", "api", "request-1"), **changes)


class TestRefundId:
    @pytest.mark.parametrize(
        ("asked", "refund_id"),
        [
            (request(), "a44c62cf83bdd60645e7ca701404deda"),
            (request("m2"), "832ec36a0613bb09b6213c637fed7909"),
            (request(order="A=B.c-1_2+3@4:5&6^7%8!$"), "d4e5df94f969f68c1c053680cd9bdee8"),
            (request(key='"quoted" \\ key'), "c6273b37f803bc0e3cb09acd3896a020"),
        ],
    )
    def test_it_never_changes(self, asked: RefundRequest, refund_id: str) -> None:
        """Refunds are on record under these ids, at Indodana too: another derivation would refund them again."""
        assert asked.refund_id == refund_id

    def test_merchant_order_and_key_each_make_another(self) -> None:
        requests = [request(), request(merchant="m2"), request(order="ORDER-2"), request(key="return-1002")]
        assert len({asked.refund_id for asked in requests}) == len(requests)

    def test_what_is_asked_for_does_not_change_it(self) -> None:
        other = replace(request(), amount=None, reason=Reason.EXPIRED, note="other", requested_by="Budi")
        assert other.refund_id == request().refund_id

    @settings(deadline=None)
    @given(*[st.tuples(*[st.text(st.sampled_from('m1#,"\\ '), min_size=1, max_size=4)] * 3)] * 2)
    def test_no_two_identities_share_one(self, one: tuple[str, str, str], other: tuple[str, str, str]) -> None:
        assert (request(*one).refund_id == request(*other).refund_id) == (one == other)

    @settings(deadline=None)
    @given(st.text(st.characters(min_codepoint=0x20, max_codepoint=0x7E), min_size=1, max_size=255))
    def test_it_is_32_lower_case_hexadecimal_digits(self, key: str) -> None:
        assert len(request(key=key).refund_id) == REFUND_ID_LENGTH == 32
        assert REFUND_ID.fullmatch(request(key=key).refund_id)


class TestTransitions:
    def test_they_are_the_designs_and_the_documented_additions(self) -> None:
        q, s, done, failed, unknown = (
            RefundStatus.QUEUED,
            RefundStatus.SUBMITTING,
            RefundStatus.SUCCEEDED,
            RefundStatus.FAILED,
            RefundStatus.UNKNOWN,
        )
        designed = {(None, q), (None, s), (q, s), (s, done), (s, failed), (s, unknown), (s, q)}
        designed |= {(unknown, done), (unknown, failed)}
        # Refused before anything was sent, with no caller to tell; and the stack's AmbiguousRefunds `resubmit`.
        added = {(None, failed), (q, failed), (unknown, s)}

        legal = {(before, after) for before, afters in LEGAL_TRANSITIONS.items() for after in afters}

        assert legal == designed | added

    def test_every_status_has_its_row(self) -> None:
        assert set(LEGAL_TRANSITIONS) == {None, *RefundStatus}

    def test_what_can_still_change_is_open(self) -> None:
        assert OPEN_STATUSES == (RefundStatus.QUEUED, RefundStatus.SUBMITTING, RefundStatus.UNKNOWN)


class TestMoved:
    @settings(deadline=None)
    @given(st.lists(st.timedeltas(timedelta(days=-1), timedelta(days=1)), min_size=1, max_size=8))
    def test_times_only_go_up_whatever_the_clocks_say(self, offsets: list[timedelta]) -> None:
        steps = [refund()]
        for offset in offsets:
            steps.append(steps[-1].transition_to(RefundStatus.SUBMITTING, NOON + offset))

        for before, after in pairwise(steps):
            assert after.updated_at > before.updated_at
            assert iso(after.updated_at) > iso(before.updated_at)
            assert after.version == before.version + 1
            assert after.created_at == NOON
        assert len({step.transition_id for step in steps}) == len(steps)

    def test_a_clock_that_is_right_is_believed(self) -> None:
        later = NOON + timedelta(seconds=7)
        assert refund().transition_to(RefundStatus.SUBMITTING, later).updated_at == later

    def test_all_else_stays_but_what_is_changed(self) -> None:
        before = refund(attempts=2, next_attempt_at=NOON)

        after = before.transition_to(RefundStatus.UNKNOWN, NOON, ambiguous=True, next_attempt_at=None)

        changed = {"status", "updated_at", "version", "transition_id", "ambiguous", "next_attempt_at"}
        assert {name for name in vars(before) if getattr(before, name) != getattr(after, name)} == changed
        assert (before.status, before.version) == (RefundStatus.QUEUED, 1)

    def test_a_first_record_is_version_1_of_its_request(self) -> None:
        first = refund(RefundStatus.SUBMITTING, attempts=1)

        assert (first.version, first.status, first.attempts) == (1, RefundStatus.SUBMITTING, 1)
        assert first.created_at == first.updated_at == NOON
        assert first.refund_id == request().refund_id
        assert new_transition_id() != new_transition_id()


class TestSums:
    @pytest.mark.parametrize("status", RefundStatus)
    def test_a_refund_holds_its_amount_in_one_sum_or_none(self, status: RefundStatus) -> None:
        held = refund(status, reserved_amount=Decimal(25_000))

        reserves = 25_000 if status in OPEN_STATUSES else 0
        assert (held.held_reserved, held.held_refunded) == (reserves, 25_000 if status is RefundStatus.SUCCEEDED else 0)
        assert (refund(status).held_reserved, refund(status).held_refunded) == (0, 0)

    def test_its_amount_is_what_was_reserved_or_else_asked_for(self) -> None:
        assert refund().amount == 25_000
        assert refund(reserved_amount=Decimal(7)).amount == 7
        all_that_remains = replace(refund(), request=replace(request(), amount=None))
        assert all_that_remains.amount is None

    @pytest.mark.parametrize(("transaction", "is_full"), [(None, None), ("25000.00", True), ("25000.01", False)])
    def test_it_is_full_when_it_is_the_whole_transactions_amount(
        self, transaction: str | None, is_full: object
    ) -> None:
        amount = None if transaction is None else Decimal(transaction)
        assert refund(transaction_amount=amount).is_full is is_full

    def test_an_order_opens_with_all_of_it_refundable(self) -> None:
        assert Order.opened_by("PAID", Decimal(7)) == Order(
            Decimal(7), Decimal(7), Decimal(0), Decimal(0), stored=False
        )


def test_each_reason_has_a_word_that_indodana_documents() -> None:
    assert set(INDODANA_REASONS) == set(Reason)
    assert set(INDODANA_REASONS.values()) <= {"Expired", "Out of Stock", "Items Returned", "Others"}


class TestTimes:
    @settings(deadline=None)
    @given(*[st.datetimes(datetime(2000, 1, 1), datetime(2100, 1, 1), timezones=st.just(UTC))] * 2)  # noqa: DTZ001
    def test_they_sort_as_text_and_come_back_the_same(self, one: datetime, other: datetime) -> None:
        assert (iso(one) < iso(other)) == (one < other)
        assert from_iso(iso(one)) == one
        assert len(iso(one)) == len("2026-11-22T12:00:00.000000Z")

    def test_they_are_utc(self) -> None:
        assert iso(NOON.astimezone(JAKARTA)) == "2026-11-22T12:00:00.000000Z"
        assert from_iso(iso(NOON)).utcoffset() == utc_now().utcoffset() == timedelta(0)


@pytest.mark.parametrize(
    ("refundable", "amount", "is_enough"),
    [(0, None, False), (1, None, True), (1, 1, True), (1, 2, False), (2, 1, True), (0, 1, False)],
)
def test_an_order_refunds_what_it_has_and_no_more(refundable: int, amount: int | None, is_enough: bool) -> None:
    order = Order(Decimal(10), Decimal(refundable), reserved=Decimal(3), refunded=Decimal(7 - refundable))
    shortfall = order.shortfall(None if amount is None else Decimal(amount))
    assert (shortfall is None) is is_enough
    if shortfall:
        asked = "all that remains" if amount is None else f"{amount} rupiah"
        assert shortfall.detail == (
            f"requested: {asked}; refundable: {refundable} rupiah (10 paid, {7 - refundable} refunded, "
            "3 reserved by open refunds)"
        )


def test_no_order_gives_more_than_it_has() -> None:
    order = Order(Decimal(10), Decimal(5), reserved=Decimal(2), refunded=Decimal(3))
    assert order.plus(SumsChange(Decimal(5), Decimal(0))) == Order(Decimal(10), Decimal(0), Decimal(7), Decimal(3))
    assert order.plus(SumsChange(Decimal(-2), Decimal(2))) == Order(Decimal(10), Decimal(5), Decimal(0), Decimal(5))
    with pytest.raises(IllegalTransition):
        order.plus(SumsChange(Decimal(6), Decimal(0)))


def test_times_are_kept_in_utc_wherever_the_machine_stands(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TZ", "Asia/Jakarta")
    time.tzset()
    try:
        assert iso(NOON) == iso(NOON.astimezone(JAKARTA)) == "2026-11-22T12:00:00.000000Z"
    finally:
        monkeypatch.undo()
        time.tzset()


@pytest.mark.parametrize("words", [FailureCode, Reason, EvidenceSource, RefundStatus])
def test_words_that_callers_and_records_know_are_spelled_as_named(words: type[StrEnum]) -> None:
    assert [(word.name, word.value) for word in words] == [(word.name, word.name) for word in words]


def test_the_stacks_parameter_has_its_two_values() -> None:
    assert [*AmbiguousRefunds] == ["review", "resubmit"]


def test_requests_are_the_same_however_their_key_was_spelled() -> None:
    asked = request()
    assert asked == replace(asked, spelled_key='"return-1001"') == replace(asked, replay_only=True)
    assert asked.spelled_key is None
    assert not asked.replay_only


def test_contexts_are_the_same_whatever_time_is_left() -> None:
    context = RequestContext("agent", "api", "request-1")
    assert context.seconds_left() == math.inf
    assert context == replace(context, seconds_left=lambda: 1.0)
    assert "seconds_left" not in repr(context)


@pytest.mark.parametrize(("attempts", "seconds"), [(0, 2), (1, 2), (2, 4), (9, 512), (10, 900), (2000, 900)])
def test_waits_between_attempts_double_up_to_a_quarter_of_an_hour(
    monkeypatch: pytest.MonkeyPatch, attempts: int, seconds: int
) -> None:
    for jitter in (1, 1.2):
        monkeypatch.setattr("random.SystemRandom.uniform", lambda _self, least, most, jitter=jitter: jitter)
        assert backoff_seconds(attempts) == pytest.approx(seconds * jitter)
        assert backoff_seconds(attempts, 1000.0) == max(1000, seconds * jitter)
