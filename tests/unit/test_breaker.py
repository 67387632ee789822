"""When a process may send refunds, after one whose outcome nobody knows."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta

import pytest

from gateway.core.breaker import OPEN_MAX_SECONDS, PROVEN_SECONDS, Admission, AttemptResult, CircuitBreaker


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
    return CircuitBreaker(time)


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

    assert waits == [2, 4, 8, 16, 32, 64, 128, 256, OPEN_MAX_SECONDS, OPEN_MAX_SECONDS]


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
