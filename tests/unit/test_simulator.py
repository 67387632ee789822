import contextlib
import hashlib
import hmac
import http.client
import json
import os
import signal
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from datetime import datetime
from decimal import Decimal
from email.message import Message
from pathlib import Path
from typing import Any
from urllib.parse import quote, urlsplit

import pytest
import simplejson

from testkit.indodana.control_client import SimulatorControl, SimulatorError
from testkit.indodana.faults import FAULTS
from testkit.indodana.simulator import LOCAL_MERCHANTS, Simulator

STATUS_PATH = "/chermes/merchant/v1/transactions/qris/check_status"
CANCELLATION_PATH = "/chermes/merchant/v3/order_cancellation"

# (apiKey, secretKey, Authorization header), made with OpenSSL.
SIGNATURE_VECTORS = [
    (
        "merchant-key",
        "merchant-secret",
        "Bearer merchant-key:1569479066:5eee2829cefdf6c578bf276ab169f322c1ce0da36f18dc582cfb511bfa965121",
    ),
    (
        "5f0c1a7e-3b1d-4c57-9f7e-2d0a7c1b9e44",
        "s3cr3t/+=:with symbols",
        "Bearer 5f0c1a7e-3b1d-4c57-9f7e-2d0a7c1b9e44:1700000000:"
        "adb7eb5a0c7151fdcc59237da01a71a46d20b57db04fd1538c04d9d1dd621f9a",
    ),
    (
        "kunci",
        "rahasia-é-密",
        "Bearer kunci:1764547200:ad55c7c6ed3cc7706db0c608d4c35e0c0f796bd2ea634ef6323b3bb945aea8d8",
    ),
    ("a", "b", "Bearer a:0:1c7ce685d0946b0f9b36b991ccecc5563f81cbf9d6d201ebca49b7421b0d2a55"),
]


# `...` leaves the field out.
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


@dataclass(frozen=True)
class Answer:
    status: int
    headers: Message
    raw: bytes

    @property
    def json(self) -> Any:
        return simplejson.loads(self.raw, use_decimal=True)

    @property
    def error_kind(self) -> str:
        assert self.json["status"] == "ERROR"
        return str(self.json["error"]["kind"])


@pytest.fixture(scope="module")
def running() -> Iterator[Simulator]:
    with Simulator(LOCAL_MERCHANTS) as simulator:
        yield simulator


@pytest.fixture
def simulator(running: Simulator) -> Iterator[Simulator]:
    yield running
    running.reset()


@pytest.fixture
def control(simulator: Simulator) -> SimulatorControl:
    return SimulatorControl(simulator.control_url)


def sign(api_key: str, secret_key: str, nonce: int | None = None) -> str:
    signed = f"{api_key}:{int(time.time()) if nonce is None else nonce}"
    return f"Bearer {signed}:{hmac.new(secret_key.encode(), signed.encode(), hashlib.sha256).hexdigest()}"


def connect(url: str, timeout: float = 5) -> http.client.HTTPConnection:
    parts = urlsplit(url)
    assert parts.hostname is not None
    return http.client.HTTPConnection(parts.hostname, parts.port, timeout=timeout)


def send(
    url: str,
    method: str,
    path: str,
    body: bytes | None = None,
    authorization: str | None = None,
    timeout: float = 5,
) -> Answer:
    headers = {"Authorization": sign(*LOCAL_MERCHANTS["m1"]) if authorization is None else authorization}
    with contextlib.closing(connect(url, timeout)) as connection:
        connection.request(method, path, body, headers)
        with connection.getresponse() as response:
            return Answer(response.status, response.headers, response.read())


def cancellation(**changes: Any) -> bytes:
    body = {
        "refundId": "refund-1",
        "merchantOrderId": "ORDER-PAID",
        "cancellationAmount": 60000,
        "cancellationReason": "Out of Stock",
        "cancelledBy": "till-7",
        "cancellationDate": "2019-09-12T18:18:18+07:00",
    }
    body |= changes
    return simplejson.dumps({k: v for k, v in body.items() if v is not ...}, use_decimal=True).encode()


def cancel(simulator: Simulator, *, timeout: float = 5, authorization: str | None = None, **changes: Any) -> Answer:
    return send(
        simulator.upstream_url, "POST", CANCELLATION_PATH, cancellation(**changes), authorization, timeout=timeout
    )


def check(simulator: Simulator, order: str = "ORDER-PAID", authorization: str | None = None) -> Answer:
    path = f"{STATUS_PATH}?merchantOrderId={quote(order, safe='')}"
    return send(simulator.upstream_url, "GET", path, authorization=authorization)


# The API as it is documented


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


# Signatures


def test_the_given_signatures_are_accepted_and_no_others() -> None:
    merchants = {f"v{number}": (key, secret) for number, (key, secret, _) in enumerate(SIGNATURE_VECTORS)}
    with Simulator(merchants, nonce_window_seconds=None) as simulator:
        for _, _, authorization in SIGNATURE_VECTORS:
            assert check(simulator, authorization=authorization).status == 200
            for wrong in (authorization[:-1] + "x", authorization.replace(":", ":1", 1), authorization.upper()):
                refused = check(simulator, authorization=wrong)
                assert (refused.status, refused.error_kind) == (401, "FailedAuthError")


@pytest.mark.parametrize("authorization", ["", "Bearer", "Bearer a:b", "Basic a:0:b", "Bearer é:1:2", "::::"])
def test_a_malformed_authorization_is_unauthorized(
    simulator: Simulator, control: SimulatorControl, authorization: str
) -> None:
    assert check(simulator, authorization=authorization).error_kind == "FailedAuthError"
    assert cancel(simulator, authorization=authorization).status == 401
    assert control.books()["movements"] == []


@pytest.mark.parametrize(("seconds_off", "status"), [(-301, 401), (-299, 200), (299, 200), (301, 401)])
def test_a_nonce_more_than_five_minutes_off_is_unauthorized(seconds_off: int, status: int) -> None:
    with Simulator(LOCAL_MERCHANTS, clock=lambda: 1_700_000_000.0) as simulator:
        authorization = sign(*LOCAL_MERCHANTS["m1"], nonce=1_700_000_000 + seconds_off)
        assert check(simulator, authorization=authorization).status == status


@pytest.mark.parametrize("nonce", ["", "now", "1.7e9", "-5", "٣"])
def test_a_nonce_that_is_no_unix_time_is_unauthorized(simulator: Simulator, nonce: str) -> None:
    key, secret = LOCAL_MERCHANTS["m1"]
    signature = hmac.new(secret.encode(), f"{key}:{nonce}".encode(), hashlib.sha256).hexdigest()
    authorization = f"Bearer {key}:{nonce}:{signature}".encode().decode("latin-1")
    assert check(simulator, authorization=authorization).status == 401


def test_rotated_credentials_count_at_once(simulator: Simulator, control: SimulatorControl) -> None:
    control.set_credentials("m1", "rotated-key", "rotated-secret")

    assert check(simulator).status == 401
    assert check(simulator, authorization=sign("rotated-key", "rotated-secret")).status == 200
    assert check(simulator, authorization=sign(*LOCAL_MERCHANTS["m2"])).status == 200


def test_old_credentials_count_beside_the_new_ones_for_as_long_as_they_are_kept(
    simulator: Simulator, control: SimulatorControl
) -> None:
    old, new = sign(*LOCAL_MERCHANTS["m1"]), sign("rotated-key", "rotated-secret")
    control.set_credentials("m1", "rotated-key", "rotated-secret", keep_old=True)
    assert [check(simulator, authorization=signed).status for signed in (old, new)] == [200, 200]
    assert check(simulator, authorization=sign("rotated-key", LOCAL_MERCHANTS["m1"][1])).status == 401

    control.set_credentials("m1", "rotated-key", "rotated-secret")
    assert [check(simulator, authorization=signed).status for signed in (old, new)] == [401, 200]


def test_merchants_do_not_see_each_others_orders(simulator: Simulator, control: SimulatorControl) -> None:
    control.add_order("ONLY-M2", 1000, merchant_id="m2")

    assert check(simulator, "ONLY-M2").status == 404
    assert check(simulator, "ONLY-M2", sign(*LOCAL_MERCHANTS["m2"])).status == 200


# Faults. What a caller sees of each, and whether the money moved.


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


def raw_cancel(simulator: Simulator) -> socket.socket:
    """A socket on which a cancellation has been sent and nothing been read."""
    parts = urlsplit(simulator.upstream_url)
    body = cancellation()
    head = (
        f"POST {CANCELLATION_PATH} HTTP/1.1\r\nHost: simulator\r\nAuthorization: {sign(*LOCAL_MERCHANTS['m1'])}\r\n"
        f"Content-Length: {len(body)}\r\n\r\n"
    )
    raw = socket.create_connection((parts.hostname, parts.port), timeout=5)
    raw.sendall(head.encode() + body)
    return raw


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


# The control API


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


def test_a_connection_is_kept_alive_over_answers_and_errors(simulator: Simulator) -> None:
    with contextlib.closing(connect(simulator.upstream_url)) as connection:
        sockets = set()
        for _ in range(3):
            connection.request("POST", CANCELLATION_PATH, b"{", {"Authorization": "Bearer no"})
            assert connection.getresponse().read()
            sockets.add(connection.sock)
    assert len(sockets) == 1
    assert None not in sockets


def test_a_simulator_starts_again_on_its_ports_with_its_books() -> None:
    simulator = Simulator(LOCAL_MERCHANTS).start()
    upstream = simulator.upstream_url
    cancel(simulator)
    simulator.stop()
    with pytest.raises(ConnectionRefusedError):
        check(simulator)

    with simulator:
        assert simulator.upstream_url == upstream
        assert SimulatorControl(simulator.control_url).moved("m1", "ORDER-PAID") == 60000
        assert check(simulator).status == 200


def test_a_taken_port_leaves_nothing_open() -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        simulator = Simulator(LOCAL_MERCHANTS, upstream_port=taken.getsockname()[1])
        with pytest.raises(OSError, match="in use"):
            simulator.start()
    with pytest.raises(ConnectionRefusedError):
        send(simulator.control_url, "GET", "/_simulator/books")


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_the_command_prints_its_urls_and_stops_cleanly(number: signal.Signals) -> None:
    command = [sys.executable, "-m", "testkit.indodana", "--port", "0", "--upstream-port", "0"]
    with subprocess.Popen(
        command,
        cwd=Path(__file__).parents[2],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        env=os.environ | {"PYTHONPATH": "."},
    ) as process:
        assert process.stdout is not None
        control_url, upstream_url = (process.stdout.readline().split()[1] for _ in range(2))
        assert SimulatorControl(control_url).moved("m2", "ORDER-PAID") == 0
        assert send(upstream_url, "GET", f"{STATUS_PATH}?merchantOrderId=ORDER-PAID").status == 200
        process.send_signal(number)
        out, errors = process.communicate(timeout=5)
    assert (process.returncode, out, errors) == (0, "", "")
