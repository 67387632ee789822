"""The control API and its client."""

import re
from datetime import UTC, datetime, timedelta
from decimal import Decimal
from typing import Any

import pytest
import simplejson

from testkit.indodana.control_client import SimulatorControl, SimulatorError
from testkit.indodana.faults import FAULTS
from testkit.indodana.simulator import Simulator
from tests.testkit.indodana_caller import cancel, check, send

AN_ORDER = {"merchantOrderId": "A", "amount": 1, "transactionStatus": "PAID"}
DEFAULT_SETTINGS = {
    "recognisesRepeats": False,
    "partialRefundStatus": "PAID",
    "onePartialOnly": False,
    "nonceWindowSeconds": 300,
}


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
        ("POST", "settings", {"partialRefundStatus": "REFUNDED"}, "partialRefundStatus"),
        ("POST", "settings", {"partialRefundStatus": ["PAID"]}, "partialRefundStatus"),
        ("POST", "settings", {"onePartialOnly": 1}, "onePartialOnly"),
        ("POST", "settings", {"nonceWindowSeconds": Decimal("1E+999")}, "nonceWindowSeconds"),
        ("POST", "orders", [], "body"),
        ("POST", "orders", AN_ORDER | {"transactionTime": "2026-01-01"}, "transactionTime"),
        ("POST", "orders", AN_ORDER | {"transactionTime": "0001-01-01T00:00:00+14:00"}, "transactionTime"),
        ("POST", "orders", AN_ORDER | {"transactionTime": "2100-01-01T00:00:00Z"}, "transactionTime"),
        ("POST", "orders", AN_ORDER | {"transactionTime": None}, "transactionTime"),
        ("PUT", "clock", {}, "now"),
        ("PUT", "clock", {"now": "2030-01-01T00:00:00Z", "days": 1}, "now"),
        ("PUT", "clock", {"now": "tomorrow"}, "now"),
        ("PUT", "clock", {"now": "1999-12-31T23:59:59Z"}, "now"),
        ("PUT", "clock", {"now": 1}, "now"),
        ("PUT", "clock", {"days": "31"}, "days"),
        ("PUT", "clock", {"days": True}, "days"),
        ("PUT", "clock", {"days": Decimal("1E+999")}, "days"),
        ("PUT", "clock", {"days": 10**400}, "days"),
        ("POST", "clock", {"hours": 1}, "hours"),
        ("GET", "books?merchantOrderID=A", {}, "merchantOrderID"),
        ("GET", "orders?merchantId=m1", {}, "merchantId"),
    ],
)
def test_a_wrong_control_request_is_a_400_that_names_the_field(
    simulator: Simulator, control: SimulatorControl, method: str, path: str, body: Any, field: str
) -> None:
    raw_body = simplejson.dumps(body, use_decimal=True).encode()
    settings, orders = control.settings(), control.orders()

    answer = send(simulator.control_url, method, f"/_simulator/{path}", raw_body)

    assert answer.status == 400
    assert answer.json["error"]["field"] == field
    assert answer.json["error"]["message"].startswith(f"{field}: ")
    assert (control.faults(), control.settings(), control.orders()) == ([], settings, orders)
    assert abs(control.now() - datetime.now(UTC)) < timedelta(seconds=30)


def test_a_wrong_setting_changes_none_of_the_others(control: SimulatorControl) -> None:
    before = control.settings()
    with pytest.raises(SimulatorError, match="seed"):
        control.settings(onePartialOnly=True, partialRefundStatus="CANCELLED", nonceWindowSeconds=1, seed="x")
    assert control.settings() == before


def test_settings_are_changed_one_by_one_and_can_be_read(simulator: Simulator, control: SimulatorControl) -> None:
    changed = DEFAULT_SETTINGS | {"onePartialOnly": True}
    assert control.settings(onePartialOnly=True) == changed
    changed |= {"partialRefundStatus": "CANCELLED"}
    assert control.settings(partialRefundStatus="CANCELLED") == changed
    assert send(simulator.control_url, "GET", "/_simulator/settings").json == changed


@pytest.mark.parametrize("path", ["/_simulator", "/_simulator/"])
def test_the_index_lists_routes_that_exist(simulator: Simulator, path: str) -> None:
    index = send(simulator.control_url, "GET", path)

    assert index.headers["Content-Type"] == "text/plain; charset=utf-8"
    routes = re.findall(r"^([A-Z]+) +(/_simulator/[a-z]+)(/\{id\})? ", index.raw.decode(), re.MULTILINE)
    assert len(routes) == 13
    for method, route, parameter in routes:
        answer = send(simulator.control_url, method, route + ("/x" if parameter else ""), b"{}")
        assert b"No such control route" not in answer.raw, (method, route)


def test_the_index_has_every_setting_with_its_default(simulator: Simulator, control: SimulatorControl) -> None:
    index = send(simulator.control_url, "GET", "/_simulator").raw.decode()
    for name, default in control.settings().items():
        text = simplejson.dumps(default, use_decimal=True)
        assert re.search(rf"^ +{name} .*({text} \(default\)|\(default: {text}\))", index, re.MULTILINE), name


def test_the_indexs_examples_are_accepted(simulator: Simulator) -> None:
    index = send(simulator.control_url, "GET", "/_simulator").raw.decode()
    for route, field in (("orders", "merchantOrderId"), ("faults", "fault")):
        [example] = re.findall(rf'^ +(\{{"{field}".*)$', index, re.MULTILINE)
        assert send(simulator.control_url, "POST", f"/_simulator/{route}", example.encode()).status == 201


def test_an_unknown_route_says_where_the_routes_are_listed(simulator: Simulator) -> None:
    for method, path in (("GET", "/_simulator/order"), ("DELETE", "/_simulator"), ("PUT", "/_simulator/orders")):
        answer = send(simulator.control_url, method, path)
        assert (answer.status, answer.error_kind) == (404, "NotFoundError")
        message = answer.json["error"]["message"]
        assert message == f"No such control route: {method} {path}; GET /_simulator lists them"


def test_orders_are_listed_one_a_line(simulator: Simulator, control: SimulatorControl) -> None:
    yesterday = datetime.now(UTC).replace(microsecond=0) - timedelta(days=1)
    control.add_order("HALF", Decimal("1000.50"), transaction_time=yesterday)
    cancel(simulator, merchantOrderId="HALF", cancellationAmount=1000)

    listed = send(simulator.control_url, "GET", "/_simulator/orders")

    orders = listed.json["orders"]
    assert orders[-1] == {
        "merchantId": "m1",
        "merchantOrderId": "HALF",
        "amount": Decimal("1000.50"),
        "moved": 1000,
        "transactionStatus": "PAID",
        "transactionTime": yesterday.isoformat(),
    }
    lines = listed.raw.decode().splitlines()
    assert sum('"merchantOrderId": ' in line for line in lines) == len(orders) == 9


def test_faults_are_listed_with_what_each_kind_does(simulator: Simulator, control: SimulatorControl) -> None:
    fault = control.fault("slow", times=2, merchant_order_id="A")

    listed = send(simulator.control_url, "GET", "/_simulator/faults").json

    assert listed["faults"] == [{"id": fault, "fault": "slow", "seconds": 1, "times": 2, "merchantOrderId": "A"}]
    assert [kind["fault"] for kind in listed["kinds"]] == list(FAULTS)
    for kind in listed["kinds"]:
        assert kind["does"].endswith(".")
        for parameter in kind["parameters"]:
            assert f"`{parameter}`" in kind["does"], kind
    assert set(listed["narrowedBy"]) == {"path", "merchantOrderId", "probability", "times"}


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
    control.settings(
        recognisesRepeats=True, nonceWindowSeconds=None, partialRefundStatus="CANCELLED", onePartialOnly=True
    )
    control.fault("conflict")
    control.add_order("A", 1)

    control.reset()

    books = control.books()
    assert (books["movements"], books["requests"], len(books["orders"])) == ([], [], 8)
    assert control.settings() == DEFAULT_SETTINGS
    assert check(simulator).status == 200
