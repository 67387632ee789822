"""Mutants of the time that a request has, and of status checks that are not answered."""

from __future__ import annotations

from tests.simulation.catalogue.mutant import ASKED, CALLER_WAITS, ONE_PROBE, PAUSED, REFUNDS_GO_ON, mutant
from tests.simulation.mutating import Edit

HANGS = "a_status_endpoint_that_hangs"

MUTANTS = (
    mutant(
        "cold-start-not-counted",
        "A request's time is counted from the invocation, although API Gateway has waited for the cold start, too.",
        CALLER_WAITS,
        "a_refund_after_a_cold_start",
        Edit("time_left", "min(until_timeout(), ...)", "until_timeout()"),
    ),
    mutant(
        "status-checks-never-pause",
        "Every status check asks Indodana, although the last ones got no answer.",
        PAUSED,
        HANGS,
        Edit("GuardedIndodana.check_status", "admission is Admission.WAIT", "False"),
    ),
    mutant(
        "a-single-time-out-pauses",
        "Status checks pause after a single one that got no answer in time.",
        ASKED,
        HANGS,
        Edit("STATUS_CHECKS", "opens_after=2", "opens_after=1"),
    ),
    mutant(
        "status-checks-pause-for-good",
        "Status checks that pause are never tried again.",
        ASKED,
        HANGS,
        Edit("CircuitBreaker.admit", "self._probing or self._seconds_open() > 0", "True"),
    ),
    mutant(
        "pause-does-not-grow",
        "A probe that gets no answer is followed by the next one after a second.",
        PAUSED,
        HANGS,
        Edit("CircuitBreaker._seconds_open", "2**probes_failed", "1"),
    ),
    mutant(
        "two-probes-at-a-time",
        "When the pause is over, all waiting status checks ask Indodana.",
        ONE_PROBE,
        HANGS,
        Edit("CircuitBreaker.admit", "self._probing = True", "pass"),
    ),
    mutant(
        "answered-probe-changes-nothing",
        "After a probe that was answered, status checks still go one by one.",
        ASKED,
        HANGS,
        Edit("CircuitBreaker.report", "self._failures = 0", "pass"),
    ),
    mutant(
        "one-breaker-for-all",
        "Status checks that get no answer stop the refunds, too.",
        REFUNDS_GO_ON,
        HANGS,
        Edit("Gateway.refund_breaker", "return ...", "return self.status_breaker"),
    ),
)
