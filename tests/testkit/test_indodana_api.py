"""Indodana's API as it is documented."""

import contextlib
import threading
from concurrent.futures import ThreadPoolExecutor
from datetime import datetime
from decimal import Decimal
from typing import Any

import pytest

from testkit.indodana.control_client import SimulatorControl
from testkit.indodana.simulator import Simulator
from tests.testkit.indodana_caller import CANCELLATION_PATH, cancel, cancellation, check, connect, send

WRONG_VALUES: dict[str, list[Any]] = {
    "refundId": [..., None, "", " ", 7, "r" * 33],
    "merchantOrderId": [..., None, "", 7, "o" * 33, "a b", "a/b", "é", "٣", "a\n"],
    "cancellationAmount": [
        *(..., None, 0, -1, "60000", True, []),
        *(Decimal("0.001"), Decimal("1E+14"), Decimal("1E+999"), Decimal("1E-999")),
    ],
    "cancellationReason": [..., None, "", " ", 7],
    "cancelledBy": [..., None, "", 7],
    "cancellationDate": [
        *(..., None, "", 7, "2019-09-12", "2019-09-12T18:18:18", "2019-13-12T18:18:18Z", "yesterday"),
    ],
}


@pytest.mark.parametrize("status", ["INITIATED", "EXPIRED", "PAID", "REJECTED"])
def test_a_status_has_every_documented_field(simulator: Simulator, status: str) -> None:
    answer = check(simulator, f"ORDER-{status}")

    assert answer.status == 200
    body = answer.json
    assert set(body) == {
        *("status", "transactionStatus", "merchantOrderId", "transactionId", "amount"),
        *("paymentType", "transactionTime", "fraudStatus", "legalName", "indodanaUserId"),
    }
    assert (body["status"], body["transactionStatus"]) == ("OK", status)
    assert body["transactionTime"].endswith("+0000")
    assert datetime.strptime(body["transactionTime"], "%Y-%m-%dT%H:%M:%S%z").tzinfo is not None


def test_an_order_id_of_all_allowed_characters_is_found(simulator: Simulator, control: SimulatorControl) -> None:
    control.add_order("aZ9=.-_+@:&^%!$", Decimal("12345.67"), "SOMETHING_NEW")

    answer = check(simulator, "aZ9=.-_+@:&^%!$").json

    assert answer["amount"] == Decimal("12345.67")
    assert answer["transactionStatus"] == "SOMETHING_NEW"


@pytest.mark.parametrize("version", ["v1", "v2", "v3"])
def test_a_cancellation_moves_money_and_is_in_the_books(
    simulator: Simulator, control: SimulatorControl, version: str
) -> None:
    path = f"/chermes/merchant/{version}/order_cancellation"
    answer = send(simulator.upstream_url, "POST", path, cancellation(cancellationAmount=Decimal("60000.50")))

    assert (answer.status, answer.json["status"]) == (200, "OK")
    books = control.books("ORDER-PAID")
    (movement,) = books["movements"]
    assert datetime.fromisoformat(movement.pop("at")).utcoffset() is not None
    assert movement == {
        "merchantId": "m1",
        "merchantOrderId": "ORDER-PAID",
        "refundId": "refund-1",
        "amount": Decimal("60000.50"),
        "cancellationReason": "Out of Stock",
        "cancelledBy": "till-7",
    }
    assert books["orders"]["m1/ORDER-PAID"] == {"amount": 100000, "moved": Decimal("60000.50")}
    assert books["orders"]["m2/ORDER-PAID"] == {"amount": 100000, "moved": 0}
    (request,) = books["requests"]
    assert request["path"] == "order_cancellation"
    assert (request["merchantOrderId"], request["refundId"]) == ("ORDER-PAID", "refund-1")
    assert request["answered"] == 200
    assert "fault" not in request


def test_the_total_moved_never_exceeds_the_orders_amount(simulator: Simulator, control: SimulatorControl) -> None:
    assert cancel(simulator, refundId="r1", cancellationAmount=99999).status == 200
    over = cancel(simulator, refundId="r2", cancellationAmount=Decimal("1.01"))
    assert (over.status, over.error_kind) == (422, "ValidationError")
    assert cancel(simulator, refundId="r3", cancellationAmount=Decimal("1.00")).status == 200
    assert control.moved("m1", "ORDER-PAID") == 100000


@pytest.mark.parametrize("status", ["INITIATED", "EXPIRED", "REJECTED"])
def test_only_a_paid_order_can_be_cancelled(simulator: Simulator, control: SimulatorControl, status: str) -> None:
    answer = cancel(simulator, merchantOrderId=f"ORDER-{status}", cancellationAmount=1)

    assert (answer.status, answer.error_kind) == (422, "ValidationError")
    assert control.books()["movements"] == []


def test_an_unknown_order_is_not_found(simulator: Simulator) -> None:
    for answer in (check(simulator, "ORDER-X"), cancel(simulator, merchantOrderId="ORDER-X")):
        assert (answer.status, answer.error_kind) == (404, "NotFoundError")


def test_an_unknown_path_is_not_found(simulator: Simulator) -> None:
    for path in ("/chermes/merchant/v4/order_cancellation", "/_simulator/reset", "//", "/%2e%2e"):
        assert send(simulator.upstream_url, "POST", path, b"{}").status == 404


def test_a_repeated_refund_moves_money_again_unless_told_otherwise(
    simulator: Simulator, control: SimulatorControl
) -> None:
    assert [cancel(simulator, cancellationAmount=10000).status for _ in range(2)] == [200, 200]
    assert control.moved("m1", "ORDER-PAID") == 20000

    control.settings(recognisesRepeats=True)

    repeated = cancel(simulator, cancellationAmount=10000)
    assert (repeated.status, repeated.error_kind) == (409, "ConflictError")
    assert cancel(simulator, refundId="another", cancellationAmount=10000).status == 200
    assert control.moved("m1", "ORDER-PAID") == 30000


@pytest.mark.parametrize(
    ("field", "value"),
    [(field, value) for field, values in WRONG_VALUES.items() for value in values],
)
def test_a_wrong_field_is_a_validation_error_that_names_it(
    simulator: Simulator, control: SimulatorControl, field: str, value: Any
) -> None:
    answer = cancel(simulator, **{field: value})

    assert (answer.status, answer.error_kind) == (422, "ValidationError")
    assert list(answer.json["error"]["message"]) == [field]
    assert control.books()["movements"] == []


@pytest.mark.parametrize("date", ["2019-09-12T18:18:18+07:00", "2019-09-12T18:18:18.123Z", "2019-09-12T18:18:18+0000"])
def test_a_date_with_an_offset_is_accepted(simulator: Simulator, date: str) -> None:
    assert cancel(simulator, cancellationDate=date).status == 200


@pytest.mark.parametrize(
    "body",
    [
        b"",
        b"{",
        b"[]",
        b"\xff",
        b"[" * 20000,
        b'{"cancellationAmount": NaN}',
        b'{"cancellationAmount": 1e99999999999999999999}',
        b"1" * 5000,
        b" " * 100_000,
    ],
)
def test_a_body_that_is_no_json_object_is_a_bad_request(simulator: Simulator, body: bytes) -> None:
    answer = send(simulator.upstream_url, "POST", CANCELLATION_PATH, body)

    assert (answer.status, answer.error_kind) == (400, "BadRequestError")


def test_32_concurrent_cancellations_move_exactly_what_fits(simulator: Simulator, control: SimulatorControl) -> None:
    control.add_order("BUSY", Decimal("1000.09"))  # a cent short of ten times 100.01
    at_once = threading.Barrier(32)

    def one(number: int) -> int:
        at_once.wait()
        return cancel(
            simulator, refundId=f"r{number}", merchantOrderId="BUSY", cancellationAmount=Decimal("100.01")
        ).status

    with ThreadPoolExecutor(32) as pool:
        statuses = list(pool.map(one, range(32)))

    assert sorted(statuses) == [200] * 9 + [422] * 23
    books = control.books("BUSY")
    assert books["orders"]["m1/BUSY"] == {"amount": Decimal("1000.09"), "moved": Decimal("900.09")}
    assert sum(m["amount"] for m in books["movements"]) == Decimal("900.09")
    assert len({m["refundId"] for m in books["movements"]}) == 9
    assert [m["at"] for m in books["movements"]] == sorted(m["at"] for m in books["movements"])
    assert sorted(r["answered"] for r in books["requests"]) == sorted(statuses)


def test_a_connection_is_kept_alive_over_answers_and_errors(simulator: Simulator) -> None:
    with contextlib.closing(connect(simulator.upstream_url)) as connection:
        sockets = set()
        for _ in range(3):
            connection.request("POST", CANCELLATION_PATH, b"{", {"Authorization": "Bearer no"})
            assert connection.getresponse().read()
            sockets.add(connection.sock)
    assert len(sockets) == 1
    assert None not in sockets
