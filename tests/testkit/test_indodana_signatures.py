"""Who may call the simulator: signatures, nonces and credentials."""

import hashlib
import hmac

import pytest

from testkit.indodana.control_client import SimulatorControl
from testkit.indodana.simulator import LOCAL_MERCHANTS, Simulator
from tests.testkit.indodana_caller import cancel, check, sign

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


def test_old_credentials_stay_valid_while_they_are_kept(simulator: Simulator, control: SimulatorControl) -> None:
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
