"""The simulator's clock, and the times that follow it."""

from datetime import UTC, datetime, timedelta

import pytest

from testkit.indodana.clock import WIB
from testkit.indodana.control_client import SimulatorControl, SimulatorError
from testkit.indodana.simulator import LOCAL_MERCHANTS, Simulator
from tests.testkit.indodana_caller import cancel, check, send, sign

TOLERANCE = timedelta(seconds=30)
NEW_YEAR = datetime(2030, 1, 1, 9, 0, tzinfo=WIB)


def transaction_time(simulator: Simulator, order: str) -> str:
    return str(check(simulator, order).json["transactionTime"])


def test_the_clock_shows_the_real_time_until_it_is_moved(control: SimulatorControl) -> None:
    before = datetime.now(UTC)
    assert before <= control.now() <= datetime.now(UTC)


def test_the_clock_runs_on_from_where_it_was_set() -> None:
    real = 1_700_000_000.0
    with Simulator(clock=lambda: real) as simulator:
        control = SimulatorControl(simulator.control_url)
        control.set_clock(NEW_YEAR)
        assert control.now() == NEW_YEAR
        real += 90
        assert control.now() == NEW_YEAR + timedelta(seconds=90)


def test_the_clock_moves_by_days_from_where_it_stands() -> None:
    with Simulator(clock=lambda: 1_700_000_000.0) as simulator:
        control = SimulatorControl(simulator.control_url)
        start = control.now()
        for days in (31, 1, -0.5):
            control.move_clock(days)
        assert control.now() == start + timedelta(days=31.5)


@pytest.mark.parametrize("back", ["set", "reset"])
def test_the_clock_goes_back_to_the_real_time(control: SimulatorControl, back: str) -> None:
    control.move_clock(100)
    assert control.now() - datetime.now(UTC) > timedelta(days=99)

    if back == "set":
        control.set_clock(None)
    else:
        control.reset()

    assert abs(control.now() - datetime.now(UTC)) < TOLERANCE


@pytest.mark.parametrize("method", ["PUT", "POST"])
def test_the_clock_answers_its_new_time(simulator: Simulator, method: str) -> None:
    body = b'{"now": "2030-01-01T09:00:00+07:00"}'

    moved = send(simulator.control_url, method, "/_simulator/clock", body).json

    assert set(moved) == {"now", "secondsAhead"}
    assert NEW_YEAR <= datetime.fromisoformat(moved["now"]) < NEW_YEAR + TOLERANCE
    ahead = (NEW_YEAR - datetime.now(UTC)).total_seconds()
    assert float(moved["secondsAhead"]) == pytest.approx(ahead, abs=30)


def test_a_new_order_is_made_at_the_clocks_time(simulator: Simulator, control: SimulatorControl) -> None:
    control.set_clock(NEW_YEAR)
    control.add_order("NEW", 1000)
    assert transaction_time(simulator, "NEW").startswith("2030-01-01T02:00:")


def test_an_orders_time_can_be_given(simulator: Simulator, control: SimulatorControl) -> None:
    control.add_order("OLD", 1000, transaction_time=NEW_YEAR)

    assert transaction_time(simulator, "OLD") == "2030-01-01T02:00:00+0000"
    [listed] = [order for order in control.orders() if order["merchantOrderId"] == "OLD"]
    assert datetime.fromisoformat(listed["transactionTime"]) == NEW_YEAR


def test_the_books_have_the_clocks_time(simulator: Simulator, control: SimulatorControl) -> None:
    control.move_clock(20)
    cancel(simulator)

    books = control.books()

    for entry in (*books["movements"], *books["requests"]):
        assert datetime.fromisoformat(entry["at"]) - datetime.now(UTC) > timedelta(days=19)
    assert len(books["movements"]) == len(books["requests"]) == 1


def test_signatures_are_checked_against_the_real_time(simulator: Simulator, control: SimulatorControl) -> None:
    control.set_clock(NEW_YEAR)

    assert check(simulator).status == 200
    signed_then = sign(*LOCAL_MERCHANTS["m1"], nonce=int(NEW_YEAR.timestamp()))
    assert check(simulator, authorization=signed_then).status == 401


def test_a_move_out_of_the_clocks_years_is_refused(control: SimulatorControl) -> None:
    control.set_clock(NEW_YEAR)
    with pytest.raises(SimulatorError, match="days: moves the clock out of the years from 2000 to 2099"):
        control.move_clock(365 * 80)
    assert abs(control.now() - NEW_YEAR) < TOLERANCE
