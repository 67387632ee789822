"""What a refund does to an order, and when Indodana refuses one."""

from datetime import UTC, datetime, timedelta

import pytest

from testkit.indodana.clock import WIB
from testkit.indodana.control_client import SimulatorControl
from testkit.indodana.simulator import Simulator
from tests.testkit.indodana_caller import Answer, cancel, check

# The order was made at 23:30 WIB of 1 January, which is still 1 January in UTC.
ORDER_TIME = datetime(2026, 1, 1, 23, 30, tzinfo=WIB)


def status_of(simulator: Simulator, order: str = "ORDER-PAID") -> str:
    return str(check(simulator, order).json["transactionStatus"])


def refused_because(answer: Answer) -> str:
    assert (answer.status, answer.error_kind) == (422, "ValidationError")
    return str(answer.json["error"]["message"])


def test_a_fully_refunded_order_is_cancelled(simulator: Simulator, control: SimulatorControl) -> None:
    assert cancel(simulator, cancellationAmount=100_000).status == 200

    assert status_of(simulator) == "CANCELLED"
    assert "CANCELLED" in refused_because(cancel(simulator, refundId="r2", cancellationAmount=1))
    assert control.moved("m1", "ORDER-PAID") == 100_000


def test_an_order_is_cancelled_by_the_partial_refund_that_completes_it(simulator: Simulator) -> None:
    cancel(simulator, refundId="r1", cancellationAmount=40_000)
    assert status_of(simulator) == "PAID"

    cancel(simulator, refundId="r2", cancellationAmount=60_000)
    assert status_of(simulator) == "CANCELLED"


def test_a_full_refund_cancels_only_its_own_merchants_order(simulator: Simulator, control: SimulatorControl) -> None:
    cancel(simulator, cancellationAmount=100_000)

    statuses = {
        order["merchantId"]: order["transactionStatus"]
        for order in control.orders()
        if order["merchantOrderId"] == "ORDER-PAID"
    }
    assert statuses == {"m1": "CANCELLED", "m2": "PAID"}


def test_a_refused_cancellation_leaves_the_status_as_it_was(simulator: Simulator, control: SimulatorControl) -> None:
    control.settings(partialRefundStatus="CANCELLED")

    assert cancel(simulator, cancellationAmount=100_001).status == 422

    assert status_of(simulator) == "PAID"


def test_a_partial_refund_cancels_the_order_if_set_to(simulator: Simulator, control: SimulatorControl) -> None:
    control.settings(partialRefundStatus="CANCELLED")

    assert cancel(simulator, cancellationAmount=1).status == 200

    assert status_of(simulator) == "CANCELLED"
    assert "CANCELLED" in refused_because(cancel(simulator, refundId="r2", cancellationAmount=1))


def test_a_second_partial_refund_is_refused_if_set_to(simulator: Simulator, control: SimulatorControl) -> None:
    control.settings(onePartialOnly=True)
    control.add_order("OTHER", 1000)

    assert cancel(simulator, refundId="r1", cancellationAmount=40_000).status == 200
    second = cancel(simulator, refundId="r2", cancellationAmount=60_000)

    assert "partial" in refused_because(second)
    assert status_of(simulator) == "PAID"
    assert control.moved("m1", "ORDER-PAID") == 40_000
    assert cancel(simulator, refundId="r3", merchantOrderId="OTHER", cancellationAmount=1000).status == 200


def test_a_repeat_is_recognised_after_a_full_refund_too(simulator: Simulator, control: SimulatorControl) -> None:
    control.settings(recognisesRepeats=True, onePartialOnly=True)
    assert [cancel(simulator, cancellationAmount=100_000).status for _ in range(2)] == [200, 409]


def test_a_cancelled_order_is_paid_again_once_it_is_replaced(simulator: Simulator, control: SimulatorControl) -> None:
    cancel(simulator, cancellationAmount=100_000)

    control.add_order("ORDER-PAID", 150_000)

    assert status_of(simulator) == "PAID"
    assert cancel(simulator, refundId="r2", cancellationAmount=50_000).status == 200
    assert status_of(simulator) == "CANCELLED"


@pytest.mark.parametrize(
    ("now", "status"),
    [
        (ORDER_TIME, 200),
        (ORDER_TIME + timedelta(days=30), 200),
        (datetime(2026, 1, 31, 23, 59, 59, tzinfo=WIB), 200),
        (datetime(2026, 2, 1, 0, 0, 1, tzinfo=WIB), 422),
        (datetime(2026, 2, 1, 0, 0, 1, tzinfo=UTC), 422),
        (ORDER_TIME + timedelta(days=365), 422),
    ],
)
def test_an_order_can_be_cancelled_until_its_30th_day_is_over(
    simulator: Simulator, control: SimulatorControl, now: datetime, status: int
) -> None:
    control.add_order("OLD", 1000, transaction_time=ORDER_TIME)
    control.set_clock(now)

    answer = cancel(simulator, merchantOrderId="OLD", cancellationAmount=1000)

    assert answer.status == status
    assert control.moved("m1", "OLD") == (1000 if status == 200 else 0)
    if status != 200:
        assert "30 days" in refused_because(answer)
        assert status_of(simulator, "OLD") == "PAID"


def test_an_order_made_long_ago_is_refused_without_moving_the_clock(
    simulator: Simulator, control: SimulatorControl
) -> None:
    control.add_order("OLD", 1000, transaction_time=datetime.now(UTC) - timedelta(days=32))
    control.add_order("YOUNG", 1000, transaction_time=datetime.now(UTC) - timedelta(days=29))

    assert "30 days" in refused_because(cancel(simulator, merchantOrderId="OLD", cancellationAmount=1000))
    assert cancel(simulator, merchantOrderId="YOUNG", cancellationAmount=1000).status == 200
