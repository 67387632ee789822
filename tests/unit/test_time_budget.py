"""The times that must fit into each other: calls into functions, functions into leases."""

from __future__ import annotations

from typing import Any

import pytest

from devstack.template import Template
from gateway.core.order_locks import LOCK_SECONDS
from gateway.core.protocol import LEASE_SECONDS, SETTLE_SECONDS, SUBMIT_SECONDS
from gateway.runtime import aws
from indodana import CANCEL_BUDGET_SECONDS, SECRETS_SECONDS, STATUS_BUDGET_SECONDS
from indodana.credentials import AT_ONCE_SECONDS

FUNCTIONS = Template.load_local().model().functions
SUBMITTING = ["RefundApiFunction", "RefundWorkerFunction"]
CLOCK_SKEW_SECONDS = 5  # between two machines of AWS; their time service keeps to milliseconds


@pytest.mark.parametrize("function", SUBMITTING)
def test_a_lease_outlives_every_function_that_can_hold_it(function: str) -> None:
    assert LEASE_SECONDS >= FUNCTIONS[function].timeout_seconds + CLOCK_SKEW_SECONDS


@pytest.mark.parametrize("function", SUBMITTING)
def test_a_refund_can_be_sent_after_seconds_of_asking_and_reserving(function: str) -> None:
    assert SUBMIT_SECONDS + 4 <= FUNCTIONS[function].timeout_seconds


def test_a_status_check_at_its_slowest_still_answers() -> None:
    assert STATUS_BUDGET_SECONDS + SETTLE_SECONDS < FUNCTIONS["StatusCheckFunction"].timeout_seconds


def test_what_is_set_aside_for_a_call_is_what_its_client_may_take() -> None:
    assert SUBMIT_SECONDS == CANCEL_BUDGET_SECONDS + SETTLE_SECONDS
    calls: Any = aws.AWS_CONFIG
    assert LOCK_SECONDS + calls.connect_timeout + calls.read_timeout <= SETTLE_SECONDS
    secrets: Any = aws.SECRETS_CONFIG
    tries = secrets.retries["total_max_attempts"]
    assert AT_ONCE_SECONDS + tries * (secrets.connect_timeout + secrets.read_timeout) <= SECRETS_SECONDS
