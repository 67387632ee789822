"""The times that must fit into each other: calls into functions, functions into leases.

How long a request takes at most, with every call as slow as it can be, is in test_worst_case.py.
"""

from __future__ import annotations

from typing import Any

import pytest

from devstack.template import Template
from gateway.core.ledger import CONFLICT_BASE_SECONDS, CONFLICT_TRIES
from gateway.core.order_locks import LOCK_SECONDS
from gateway.core.protocol import (
    ATTEMPT_SECONDS,
    LEASE_SECONDS,
    RESERVE_SECONDS,
    SETTLE_SECONDS,
    SUBMIT_SECONDS,
)
from gateway.http.requests import ANSWER_SECONDS, API_GATEWAY_SECONDS
from gateway.runtime import aws
from indodana import CANCEL_READ_SECONDS, SECRETS_SECONDS, STATUS_BUDGET_SECONDS, Timeouts
from indodana.credentials import AT_ONCE_SECONDS
from tests.unit.slow_world import AWS_SECONDS, LAMBDA_SECONDS

FUNCTIONS = Template.load_local().model().functions
SUBMITTING = ["RefundApiFunction", "RefundWorkerFunction"]
CLOCK_SKEW_SECONDS = 5  # between two machines of AWS; their time service keeps to milliseconds
# A first refund is made at once although the function started so late, and Indodana takes so long for a status.
COLD_START_SECONDS, STATUS_SECONDS = 6, 3


@pytest.mark.parametrize("function", SUBMITTING)
def test_a_lease_outlives_every_function_that_can_hold_it(function: str) -> None:
    assert LEASE_SECONDS >= FUNCTIONS[function].timeout_seconds + CLOCK_SKEW_SECONDS


@pytest.mark.parametrize("function", ["RefundApiFunction", "StatusCheckFunction"])
def test_a_function_ends_before_api_gateway_gives_up(function: str) -> None:
    assert FUNCTIONS[function].timeout_seconds == LAMBDA_SECONDS <= ANSWER_SECONDS < API_GATEWAY_SECONDS


def test_a_cold_start_and_a_slow_status_leave_time_for_a_refund() -> None:
    # One second is for reading, reserving and connecting.
    assert COLD_START_SECONDS + STATUS_SECONDS + 1 + SUBMIT_SECONDS <= ANSWER_SECONDS
    assert COLD_START_SECONDS + 1 + STATUS_BUDGET_SECONDS + SETTLE_SECONDS <= ANSWER_SECONDS


def test_the_worker_has_time_for_several_refunds_one_after_the_other() -> None:
    assert Timeouts().connect + Timeouts().status_read + SUBMIT_SECONDS == ATTEMPT_SECONDS
    assert ATTEMPT_SECONDS + 15 <= FUNCTIONS["RefundWorkerFunction"].timeout_seconds


def test_a_status_check_at_its_slowest_still_answers() -> None:
    assert STATUS_BUDGET_SECONDS + SETTLE_SECONDS < FUNCTIONS["StatusCheckFunction"].timeout_seconds


def test_what_is_set_aside_for_a_call_is_what_its_client_may_take() -> None:
    assert SUBMIT_SECONDS == CANCEL_READ_SECONDS + SETTLE_SECONDS
    assert RESERVE_SECONDS == 2 * SETTLE_SECONDS
    # A write whose first try got no answer is tried again in time.
    assert LOCK_SECONDS + AWS_SECONDS <= SETTLE_SECONDS
    conflicts = sum(CONFLICT_BASE_SECONDS * 2**attempt for attempt in range(1, CONFLICT_TRIES))
    assert LOCK_SECONDS + conflicts + 1 <= SETTLE_SECONDS
    secrets: Any = aws.SECRETS_CONFIG
    tries = secrets.retries["total_max_attempts"]
    assert AT_ONCE_SECONDS + tries * (secrets.connect_timeout + secrets.read_timeout) <= SECRETS_SECONDS
