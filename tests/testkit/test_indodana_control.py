"""The control API and its client."""

import json
from typing import Any

import pytest

from testkit.indodana.control_client import SimulatorControl, SimulatorError
from testkit.indodana.simulator import Simulator
from tests.testkit.indodana_caller import cancel, check, send


@pytest.mark.parametrize(
    ("method", "path", "body", "field"),
    [
        ("POST", "faults", {"fault": "earthquake"}, "fault"),
        ("POST", "faults", {"fault": ["slow"]}, "fault"),
        ("POST", "faults", {"fault": "slow", "colour": "red"}, "colour"),
        ("POST", "faults", {"fault": "slow", "status": 500}, "status"),
        ("POST", "faults", {"fault": "slow", "seconds": -1}, "seconds"),
        ("POST", "faults", {"fault": "slow", "seconds": "1"}, "seconds"),
        ("POST", "faults", {"fault": "refuse_connections", "times": 1}, "times"),
        ("POST", "faults", {"fault": "conflict", "path": "refund"}, "path"),
        ("POST", "faults", {"fault": "conflict", "path": []}, "path"),
        ("POST", "faults", {"fault": "conflict", "merchantOrderId": "a b"}, "merchantOrderId"),
        ("POST", "faults", {"fault": "conflict", "probability": 1.1}, "probability"),
        ("POST", "faults", {"fault": "conflict", "probability": True}, "probability"),
        ("POST", "faults", {"fault": "conflict", "times": 0}, "times"),
        ("POST", "faults", {"fault": "conflict", "times": 1.5}, "times"),
        ("POST", "faults", {"fault": "error_after", "status": 200}, "status"),
        ("POST", "faults", {"fault": "refused", "status": 429}, "status"),
        ("POST", "faults", {"fault": "html", "status": 204}, "status"),
        ("POST", "faults", {"fault": "rate_limited", "retryAfter": "1\r\nX: y"}, "retryAfter"),
        ("POST", "orders", {"amount": 1, "transactionStatus": "PAID"}, "merchantOrderId"),
        ("POST", "orders", {"merchantOrderId": "A", "amount": "1", "transactionStatus": "PAID"}, "amount"),
        ("POST", "orders", {"merchantOrderId": "A", "amount": 1, "transactionStatus": ""}, "transactionStatus"),
        ("POST", "orders", {"merchantId": "m9", "merchantOrderId": "A"}, "merchantId"),
        ("PUT", "merchants/m1", {"apiKey": "k"}, "secretKey"),
        ("PUT", "merchants/m1", {"apiKey": "a b", "secretKey": "s"}, "apiKey"),
        ("PUT", "merchants/m1", {"apiKey": "local-m2-key", "secretKey": "s"}, "apiKey"),
        ("PUT", "merchants/m1", {"apiKey": "k", "secretKey": "s", "keepOld": "yes"}, "keepOld"),
        ("PUT", "merchants/m%201", {"apiKey": "k", "secretKey": "s"}, "merchantId"),
        ("POST", "settings", {"recognisesRepeats": "yes"}, "recognisesRepeats"),
        ("POST", "settings", {"seed": 1.5}, "seed"),
        ("POST", "settings", {"nonceWindowSeconds": -1}, "nonceWindowSeconds"),
        ("POST", "settings", {"recognizesRepeats": True}, "recognizesRepeats"),
        ("POST", "orders", [], "body"),
    ],
)
def test_a_wrong_control_request_is_a_400_that_names_the_field(
    simulator: Simulator, control: SimulatorControl, method: str, path: str, body: Any, field: str
) -> None:
    answer = send(simulator.control_url, method, f"/_simulator/{path}", json.dumps(body).encode())

    assert answer.status == 400
    assert answer.json["error"]["field"] == field
    assert answer.json["error"]["message"].startswith(f"{field}: ")
    assert control.faults() == []


def test_the_control_client_raises_what_the_simulator_says(control: SimulatorControl) -> None:
    with pytest.raises(SimulatorError, match=r"400.*transactionStatus"):
        control.add_order("A", 1, "")
    with pytest.raises(SimulatorError, match="404"):
        control.clear_faults("f0")


def test_a_replaced_order_keeps_what_was_moved(simulator: Simulator, control: SimulatorControl) -> None:
    cancel(simulator)

    control.add_order("ORDER-PAID", 70000)

    assert control.books()["orders"]["m1/ORDER-PAID"] == {"amount": 70000, "moved": 60000}
    assert cancel(simulator, cancellationAmount=10001).status == 422
    with pytest.raises(SimulatorError, match="amount"):
        control.add_order("ORDER-PAID", 59999)


def test_a_reset_brings_everything_back_to_the_start(simulator: Simulator, control: SimulatorControl) -> None:
    cancel(simulator)
    control.set_credentials("m1", "other", "other")
    control.set_credentials("m3", "m3-key", "m3-secret")
    control.settings(recognisesRepeats=True, nonceWindowSeconds=None)
    control.fault("conflict")
    control.add_order("A", 1)

    control.reset()

    books = control.books()
    assert (books["movements"], books["requests"], len(books["orders"])) == ([], [], 8)
    assert control.settings() == {"recognisesRepeats": False, "nonceWindowSeconds": 300}
    assert check(simulator).status == 200
