"""When a process may call Indodana again, after a refund whose outcome nobody knows, or status checks in vain."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta

import pytest

from gateway.core.breaker import PROVEN_SECONDS, REFUNDS, STATUS_CHECKS, Admission, AttemptResult, CircuitBreaker


class Time:
    def __init__(self) -> None:
        self.now = datetime(2026, 11, 27, 7, 0, tzinfo=UTC)

    def __call__(self) -> datetime:
        return self.now

    def passes(self, seconds: float) -> None:
        self.now += timedelta(seconds=seconds)


@pytest.fixture
def time() -> Time:
    return Time()


@pytest.fixture
def breaker(time: Time) -> CircuitBreaker:
    return CircuitBreaker(REFUNDS, time)


def fail(breaker: CircuitBreaker) -> None:
    breaker.report(breaker.admit(), AttemptResult.DOUBTFUL)


def test_refunds_are_sent_until_an_outcome_is_unknown(breaker: CircuitBreaker) -> None:
    for result in (AttemptResult.ANSWERED, AttemptResult.NOTHING):
        assert breaker.admit() is Admission.SEND
        breaker.report(Admission.SEND, result)
    fail(breaker)

    assert breaker.admit() is Admission.WAIT


def test_after_a_wait_one_probe_goes_at_a_time(breaker: CircuitBreaker, time: Time) -> None:
    fail(breaker)
    time.passes(1.9)
    assert breaker.admit() is Admission.WAIT
    time.passes(0.1)

    assert [breaker.admit() for _ in range(3)] == [Admission.PROBE, Admission.WAIT, Admission.WAIT]


def test_a_probe_that_is_answered_lets_all_others_go(breaker: CircuitBreaker, time: Time) -> None:
    fail(breaker)
    time.passes(2)
    breaker.report(breaker.admit(), AttemptResult.ANSWERED)

    assert [breaker.admit() for _ in range(3)] == [Admission.SEND] * 3


def test_each_failed_probe_doubles_the_wait_up_to_five_minutes(breaker: CircuitBreaker, time: Time) -> None:
    fail(breaker)
    waits = []
    for _ in range(10):
        waits.append(breaker.wait_seconds)
        time.passes(waits[-1] - 0.001)
        assert breaker.admit() is Admission.WAIT
        time.passes(0.001)
        assert breaker.admit() is Admission.PROBE
        breaker.report(Admission.PROBE, AttemptResult.DOUBTFUL)

    assert waits == [2, 4, 8, 16, 32, 64, 128, 256, 300, 300]


def test_a_probe_that_came_to_nothing_gives_its_place_to_another_at_once(breaker: CircuitBreaker, time: Time) -> None:
    fail(breaker)
    time.passes(2)
    breaker.report(breaker.admit(), AttemptResult.NOTHING)

    assert breaker.admit() is Admission.PROBE


def test_calls_under_way_neither_close_it_nor_make_the_wait_longer(breaker: CircuitBreaker) -> None:
    for _ in range(4):
        assert breaker.admit() is Admission.SEND
    breaker.report(Admission.SEND, AttemptResult.DOUBTFUL)
    assert not breaker.still_admits(Admission.SEND)
    assert breaker.still_admits(Admission.PROBE)

    breaker.report(Admission.SEND, AttemptResult.DOUBTFUL)
    assert breaker.wait_seconds == 2
    breaker.report(Admission.SEND, AttemptResult.ANSWERED)
    assert breaker.admit() is Admission.WAIT


def test_an_answer_proves_it_for_a_minute(breaker: CircuitBreaker, time: Time) -> None:
    assert not breaker.is_proven
    breaker.report(breaker.admit(), AttemptResult.NOTHING)
    assert not breaker.is_proven
    breaker.report(breaker.admit(), AttemptResult.ANSWERED)
    assert breaker.is_proven
    time.passes(PROVEN_SECONDS)
    assert breaker.is_proven
    time.passes(0.001)
    assert not breaker.is_proven


def test_a_clock_that_was_set_back_opens_it_no_longer_than_its_wait(breaker: CircuitBreaker, time: Time) -> None:
    fail(breaker)
    time.passes(-3600)

    assert breaker.admit() is Admission.PROBE


def test_a_breaker_that_never_opened_waits_its_shortest(breaker: CircuitBreaker) -> None:
    assert breaker.wait_seconds == 2


def test_a_closed_breaker_opens_as_if_for_the_first_time(breaker: CircuitBreaker, time: Time) -> None:
    for _ in range(2):
        fail(breaker)
        assert breaker.wait_seconds == 2
        time.passes(2)
        breaker.report(breaker.admit(), AttemptResult.ANSWERED)
        assert breaker.admit() is Admission.SEND


def test_a_breaker_stays_open_for_five_minutes_at_most(breaker: CircuitBreaker, time: Time) -> None:
    waits = []
    for _ in range(12):
        fail(breaker)
        waits.append(breaker.wait_seconds)
        time.passes(breaker.wait_seconds)
    assert waits == [2, 4, 8, 16, 32, 64, 128, 256, *[300] * 4]


def test_an_answer_proves_a_minute(breaker: CircuitBreaker, time: Time) -> None:
    breaker.report(breaker.admit(), AttemptResult.ANSWERED)
    for passed, is_proven in ((60, True), (0.001, False)):
        time.passes(passed)
        assert breaker.is_proven is is_proven


# ---- status checks


@pytest.fixture
def of_checks(time: Time) -> CircuitBreaker:
    return CircuitBreaker(STATUS_CHECKS, time)


def test_status_checks_go_on_after_a_single_failure(of_checks: CircuitBreaker) -> None:
    for _ in range(3):
        fail(of_checks)
        assert of_checks.still_admits(Admission.SEND)
        assert of_checks.admit() is Admission.SEND
        of_checks.report(Admission.SEND, AttemptResult.ANSWERED)


def test_a_call_without_a_result_neither_counts_nor_ends_the_row(of_checks: CircuitBreaker) -> None:
    fail(of_checks)
    of_checks.report(of_checks.admit(), AttemptResult.NOTHING)
    fail(of_checks)
    assert of_checks.admit() is Admission.WAIT


def test_status_checks_wait_from_a_second_to_half_a_minute(of_checks: CircuitBreaker, time: Time) -> None:
    fail(of_checks)
    waits = []
    for _ in range(8):
        fail(of_checks)
        waits.append(of_checks.wait_seconds)
        time.passes(waits[-1] - 0.001)
        assert of_checks.admit() is Admission.WAIT
        time.passes(0.001)
    assert waits == [1, 2, 4, 8, 16, 30, 30, 30]


def test_a_probe_that_is_answered_lets_status_checks_go_on(of_checks: CircuitBreaker, time: Time) -> None:
    for _ in range(2):
        fail(of_checks)
    time.passes(1)
    assert [of_checks.admit() for _ in range(3)] == [Admission.PROBE, Admission.WAIT, Admission.WAIT]
    assert of_checks.wait_seconds == 1
    of_checks.report(Admission.PROBE, AttemptResult.ANSWERED)
    assert [of_checks.admit() for _ in range(3)] == [Admission.SEND] * 3
    fail(of_checks)  # the row begins anew
    assert of_checks.admit() is Admission.SEND


def test_the_rules_are_as_documented() -> None:
    assert (REFUNDS.opens_after, REFUNDS.first_wait_seconds, REFUNDS.longest_wait_seconds) == (1, 2, 300)
    checks = STATUS_CHECKS
    assert (checks.opens_after, checks.first_wait_seconds, checks.longest_wait_seconds) == (2, 1, 30)
