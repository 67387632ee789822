"""Faults: what a caller sees of each, and whether the money moved."""

import contextlib
import http.client
import time
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import pytest

from testkit.indodana.control_client import SimulatorControl
from testkit.indodana.faults import FAULTS
from testkit.indodana.simulator import LOCAL_MERCHANTS, Simulator
from tests.testkit.indodana_caller import STATUS_PATH, cancel, check, connect, raw_cancel, send


@pytest.mark.parametrize(
    ("fault", "parameters", "status", "kind", "moved"),
    [
        ("error_before", {}, 500, "InternalServerError", 0),
        ("error_before", {"status": 503}, 503, "InternalServerError", 0),
        ("error_after", {}, 500, "InternalServerError", 60000),
        ("error_after", {"status": 504}, 504, "InternalServerError", 60000),
        ("rate_limited", {"retry_after": 7}, 429, "TooManyRequestsError", 0),
        ("unauthorized", {}, 401, "FailedAuthError", 0),
        ("conflict", {}, 409, "ConflictError", 0),
        ("refused", {}, 422, "ValidationError", 0),
        ("refused", {"status": 400}, 400, "BadRequestError", 0),
        ("refused", {"status": 403}, 403, "ForbiddenError", 0),
        ("refused", {"status": 404}, 404, "NotFoundError", 0),
        ("ok_error", {}, 200, "InternalServerError", 0),
    ],
)
def test_a_fault_that_answers_an_error(
    simulator: Simulator,
    control: SimulatorControl,
    fault: str,
    parameters: dict[str, Any],
    status: int,
    kind: str,
    moved: int,
) -> None:
    control.fault(fault, **parameters)

    answer = cancel(simulator)

    assert (answer.status, answer.error_kind) == (status, kind)
    assert answer.headers["Retry-After"] == ("7" if fault == "rate_limited" else None)
    assert control.moved("m1", "ORDER-PAID") == moved
    (request,) = control.books()["requests"]
    assert (request["fault"], request["answered"]) == (fault, status)


@pytest.mark.parametrize(
    ("fault", "status", "moved"),
    [
        ("html", None, 0),
        ("html", 502, 0),
        ("html_after", None, 60000),
        ("empty", None, 0),
        ("empty_after", None, 60000),
    ],
)
def test_a_fault_that_answers_no_json(
    simulator: Simulator, control: SimulatorControl, fault: str, status: int | None, moved: int
) -> None:
    control.fault(fault, status=status)

    answer = cancel(simulator)

    assert answer.status == (status or 200)
    assert answer.raw.startswith(b"<html>") if fault.startswith("html") else answer.raw == b""
    assert control.moved("m1", "ORDER-PAID") == moved


@pytest.mark.parametrize(("fault", "moved"), [("reset_before", 0), ("reset_after", 60000)])
def test_a_reset_is_a_real_one(simulator: Simulator, control: SimulatorControl, fault: str, moved: int) -> None:
    control.fault(fault)

    with raw_cancel(simulator) as raw, pytest.raises(ConnectionResetError):
        raw.recv(1)

    assert control.moved("m1", "ORDER-PAID") == moved
    assert [(r["fault"], r["answered"]) for r in control.books()["requests"]] == [(fault, None)]


@pytest.mark.parametrize(("fault", "moved"), [("timeout_before", 0), ("timeout_after", 60000)])
def test_a_timeout_holds_the_answer_and_never_gives_it(
    simulator: Simulator, control: SimulatorControl, fault: str, moved: int
) -> None:
    control.fault(fault)
    with pytest.raises(TimeoutError):
        cancel(simulator, timeout=0.1)
    assert control.moved("m1", "ORDER-PAID") == moved
    assert [(r["fault"], r["answered"]) for r in control.books()["requests"]] == [(fault, None)]

    control.clear_faults()
    control.fault(fault, seconds=0.05)
    with raw_cancel(simulator) as raw:
        assert raw.recv(1) == b""


@pytest.mark.parametrize("fault", ["timeout_before", "timeout_after", "slow"])
@pytest.mark.parametrize("end", ["stop", "reset", "refuse"])
def test_a_held_answer_ends_promptly(fault: str, end: str) -> None:
    with Simulator(LOCAL_MERCHANTS) as simulator:
        control = SimulatorControl(simulator.control_url)
        control.fault(fault, seconds=60)
        with raw_cancel(simulator) as raw:
            while not control.books()["requests"]:
                time.sleep(0.005)
            began = time.monotonic()
            match end:
                case "stop":
                    simulator.stop()
                case "reset":
                    control.reset()
                case "refuse":
                    control.fault("refuse_connections")
            with contextlib.suppress(ConnectionResetError):
                assert raw.recv(1) == b""
            assert time.monotonic() - began < 5


def test_a_slow_answer_is_right(simulator: Simulator, control: SimulatorControl) -> None:
    control.fault("slow", seconds=0.1)
    began = time.monotonic()

    assert cancel(simulator).json["status"] == "OK"

    assert time.monotonic() - began >= 0.1
    assert control.moved("m1", "ORDER-PAID") == 60000


def test_a_truncated_answer_ends_before_its_length(simulator: Simulator, control: SimulatorControl) -> None:
    control.fault("truncated_after")

    with pytest.raises(http.client.IncompleteRead) as cut:
        cancel(simulator)

    assert cut.value.partial.startswith(b'{"status": "OK"')
    assert control.moved("m1", "ORDER-PAID") == 60000


def test_refused_connections_are_refused_until_the_fault_is_deleted(
    simulator: Simulator, control: SimulatorControl
) -> None:
    upstream = simulator.upstream_url
    with contextlib.closing(connect(upstream)) as kept_alive:
        kept_alive.request("GET", STATUS_PATH)
        kept_alive.getresponse().read()
        kept_alive_socket = kept_alive.sock

        fault = control.fault("refuse_connections")

        assert kept_alive_socket.recv(1) == b""
    for _ in range(2):
        with pytest.raises(ConnectionRefusedError):
            check(simulator)
    # The control listener stays, and its upstream API with it.
    path = f"{STATUS_PATH}?merchantOrderId=ORDER-PAID"
    assert send(simulator.control_url, "GET", path).status == 200
    assert [f["id"] for f in control.faults()] == [fault]

    control.clear_faults(fault)

    assert simulator.upstream_url == upstream
    assert check(simulator).status == 200


def test_refused_connections_are_accepted_again_after_the_seconds(
    simulator: Simulator, control: SimulatorControl
) -> None:
    control.fault("refuse_connections", seconds=0.3)
    with pytest.raises(ConnectionRefusedError):
        check(simulator)
    deadline = time.monotonic() + 5
    while time.monotonic() < deadline:
        with contextlib.suppress(ConnectionRefusedError):
            assert check(simulator).status == 200
            break
        time.sleep(0.01)
    assert control.faults() == []


def test_connections_are_refused_as_long_as_any_fault_says_so(simulator: Simulator, control: SimulatorControl) -> None:
    control.fault("refuse_connections", seconds=0.05)
    control.fault("refuse_connections")
    time.sleep(0.15)
    with pytest.raises(ConnectionRefusedError):
        check(simulator)
    control.reset()
    assert check(simulator).status == 200


def test_faults_strike_in_order_as_often_as_told(simulator: Simulator, control: SimulatorControl) -> None:
    control.fault("error_before", status=503, times=2)
    control.fault("rate_limited", times=1)
    control.fault("conflict", path="check_status")

    assert [cancel(simulator).status for _ in range(4)] == [503, 503, 429, 200]
    assert check(simulator).status == 409
    assert [f["fault"] for f in control.faults()] == ["conflict"]


def test_times_are_counted_exactly_under_concurrency(simulator: Simulator, control: SimulatorControl) -> None:
    control.fault("error_before", times=7)
    with ThreadPoolExecutor(16) as pool:
        statuses = list(pool.map(lambda _: check(simulator).status, range(32)))
    assert sorted(statuses) == [200] * 25 + [500] * 7


def test_a_fault_strikes_only_its_path_and_order(simulator: Simulator, control: SimulatorControl) -> None:
    control.fault("unauthorized", path="order_cancellation", merchant_order_id="ORDER-PAID")

    assert check(simulator).status == 200
    assert cancel(simulator, merchantOrderId="ORDER-EXPIRED").status == 422
    assert cancel(simulator).status == 401


def test_a_probability_is_repeatable_from_its_seed(simulator: Simulator, control: SimulatorControl) -> None:
    control.fault("error_before", probability=0.5)
    rounds = []
    for seed in (1, 1, 2):
        control.settings(seed=seed)
        rounds.append([check(simulator).status for _ in range(20)])

    assert rounds[0] == rounds[1] != rounds[2]
    assert set(rounds[0]) == {200, 500}


def test_every_fault_can_be_added_with_its_defaults(simulator: Simulator, control: SimulatorControl) -> None:
    for fault in FAULTS:
        control.clear_faults(control.fault(fault))
    assert control.faults() == []
