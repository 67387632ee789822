"""Status checks behind their circuit breaker: what opens it, what a caller is told, and that refunds pass by."""

from __future__ import annotations

from datetime import datetime, timedelta

import pytest

from gateway.core.breaker import STATUS_CHECKS, CircuitBreaker
from gateway.core.model import OrderKey
from gateway.core.upstream import GuardedIndodana, StatusChecksPaused, cancellation_of
from gateway.http import problems
from indodana import (
    AnswerTimedOut,
    ConnectionFailed,
    ConnectionLost,
    ConnectTimedOut,
    CredentialsRejected,
    CredentialsUnavailable,
    ForeignAnswer,
    IndodanaError,
    RateLimited,
    Refused,
    ServerFailed,
)
from tests.unit.protocol_world import NOON, Indodana, World, paid, request


class Guarded:
    def __init__(self) -> None:
        self.now = NOON
        self.indodana = Indodana()
        self.guarded = GuardedIndodana(self.indodana, CircuitBreaker(STATUS_CHECKS, self.clock))

    def clock(self) -> datetime:
        return self.now

    def check(self, answer: IndodanaError | None = None) -> IndodanaError | None:
        """The error that the check ended with."""
        self.indodana.status = answer or paid()
        try:
            assert self.guarded.check_status("m1", "ORDER-1") is self.indodana.status
        except IndodanaError as error:
            return error
        return None

    def asked(self) -> int:
        return len(self.indodana.checks)


@pytest.fixture
def of() -> Guarded:
    return Guarded()


TIMED_OUT = AnswerTimedOut("no answer")


@pytest.mark.parametrize("late", [TIMED_OUT, ConnectTimedOut("no connection")])
def test_after_two_that_got_no_answer_in_time_a_check_fails_without_asking(of: Guarded, late: IndodanaError) -> None:
    assert [of.check(late), of.check(late)] == [late, late]

    paused = of.check()

    assert isinstance(paused, StatusChecksPaused)
    assert (of.asked(), paused.retry_after_seconds) == (2, 1)


@pytest.mark.parametrize(
    "quick",
    [
        ConnectionFailed("refused"),
        ConnectionLost("reset"),
        ServerFailed("500"),
        ForeignAnswer("html"),
        RateLimited("429"),
        Refused("no such order", http_status=404),
        CredentialsRejected("401"),
        None,
    ],
)
def test_whatever_is_answered_in_time_keeps_checks_going(of: Guarded, quick: IndodanaError | None) -> None:
    for _ in range(3):
        of.check(TIMED_OUT)
        of.check(quick)
        of.check(quick)
    assert of.asked() == 9


def test_a_secret_that_cannot_be_read_says_nothing_about_indodana(of: Guarded) -> None:
    for answer in (TIMED_OUT, CredentialsUnavailable("no secret"), TIMED_OUT):
        of.check(answer)
    assert isinstance(of.check(), StatusChecksPaused)


def test_a_probe_that_is_answered_lets_checks_through_again(of: Guarded) -> None:
    for _ in range(2):
        of.check(TIMED_OUT)
    of.now += timedelta(seconds=1)
    assert of.check() is None
    assert of.check() is None


def test_a_probe_that_is_not_answered_pauses_them_for_longer(of: Guarded) -> None:
    for _ in range(2):
        of.check(TIMED_OUT)
    of.now += timedelta(seconds=1)
    assert of.check(TIMED_OUT) is TIMED_OUT
    of.now += timedelta(seconds=0.5)
    paused = of.check()
    assert isinstance(paused, StatusChecksPaused)
    assert paused.retry_after_seconds == 1.5


def test_a_probe_that_breaks_off_gives_its_place_to_the_next(of: Guarded, monkeypatch: pytest.MonkeyPatch) -> None:
    for _ in range(2):
        of.check(TIMED_OUT)
    of.now += timedelta(seconds=1)

    def broken(*_: str) -> None:
        raise RuntimeError("unexpected")

    with monkeypatch.context() as patched:
        patched.setattr(of.indodana, "check_status", broken)
        with pytest.raises(RuntimeError):
            of.guarded.check_status("m1", "ORDER-1")
    assert of.check() is None


def test_a_refund_is_sent_while_status_checks_are_paused(of: Guarded) -> None:
    for _ in range(2):
        of.check(TIMED_OUT)
    refund = World().refund(request())

    of.guarded.cancel("m1", cancellation_of(refund), may_send=lambda: True)

    assert [sent.refund_id for sent in of.indodana.sent] == [refund.refund_id]


def test_the_caller_is_told_as_after_a_time_out_and_when_to_come_back() -> None:
    late = problems.from_error(AnswerTimedOut("no answer"), "request-1")
    paused = problems.from_error(StatusChecksPaused("not sent", retry_after_seconds=14.2), "request-1")

    assert late
    assert paused
    assert paused["statusCode"] == late["statusCode"] == 504
    assert '"code": "UPSTREAM_TIMEOUT"' in paused["body"] or '"code":"UPSTREAM_TIMEOUT"' in paused["body"]
    assert "was not sent" in paused["body"]
    assert paused["headers"]["retry-after"] == "15"


def test_while_checks_are_paused_only_refunds_of_known_orders_are_sent() -> None:
    world = World()
    world.refund(request(1_000, "first"))
    guarded = GuardedIndodana(world.indodana, CircuitBreaker(STATUS_CHECKS, world.clock))
    world.protocol._indodana = guarded
    world.indodana.status = TIMED_OUT
    for _ in range(2):
        with pytest.raises(AnswerTimedOut):
            guarded.check_status("m1", "ORDER-2")
    checks = len(world.indodana.checks)

    unknown_order = request(1_000, "k", order=OrderKey("m1", "ORDER-2"))
    deferred = world.protocol.attempt(unknown_order, None, None, world.context())

    assert len(world.indodana.checks) == checks
    assert deferred.cause == (  # type: ignore[union-attr]
        "status check failed: not sent: Indodana did not answer earlier status checks in time"
    )
    assert deferred.retry_after_seconds == 1  # type: ignore[union-attr]
    assert not deferred.unanswered  # type: ignore[union-attr]
    assert world.refund(request(1_000, "second")).status == "SUCCEEDED"
