"""What a call to Indodana sends and logs."""

from __future__ import annotations

import json
import logging
from datetime import datetime
from decimal import Decimal
from pathlib import Path
from urllib.parse import urlsplit

import pytest
import simplejson

from indodana import (
    Credentials,
    IndodanaError,
    authorization,
)
from tests.transport.upstream import (
    KEY,
    NOW,
    OK,
    PAID,
    SECRET,
    UNAUTHORIZED,
    World,
    cancel_on,
    cancellation,
    error,
    http,
    refused_port,
    reset,
    sends,
    status_of,
)

# What goes out


def test_check_status_is_asked_as_documented(world: World) -> None:
    upstream = world.upstream(http(body=PAID))
    world.client(upstream).check_status("m1", "ORDER-1")
    [request] = upstream.received
    assert request.method == "GET"
    assert request.target == "/chermes/merchant/v1/transactions/qris/check_status?merchantOrderId=ORDER-1"
    assert request.headers["authorization"] == authorization(Credentials(KEY, SECRET), "1569479066")
    assert request.body == b""


def test_every_character_of_an_order_id_arrives(world: World) -> None:
    order = "aZ09=.-_+@:&^%!$%41 é/?#"
    upstream = world.upstream(http(body={**PAID, "merchantOrderId": order}))
    assert world.client(upstream).check_status("m1", order).transaction_status == "PAID"
    assert upstream.received[0].query == {"merchantOrderId": [order]}


def test_a_cancellation_is_posted_as_documented(world: World) -> None:
    upstream = world.upstream(OK)
    world.client(upstream).cancel("m1", cancellation())
    [request] = upstream.received
    assert (request.method, request.target) == ("POST", "/chermes/merchant/v3/order_cancellation")
    assert request.headers["content-type"] == "application/json"
    assert request.headers["authorization"] == authorization(Credentials(KEY, SECRET), "1569479066")
    assert json.loads(request.body) == {
        "refundId": "R-1",
        "merchantOrderId": "ORDER-1",
        "cancellationAmount": 100000,
        "cancellationReason": "Out of Stock",
        "cancelledBy": "till 7",
        "cancellationDate": "2019-09-12T18:18:18+07:00",
    }


@pytest.mark.parametrize(
    ("amount", "spelled"),
    [
        ("1000", "1000"),
        ("1000.00", "1000"),
        ("1E+5", "100000"),
        ("0.05", "0.05"),
        ("1.5", "1.50"),
        ("1.500", "1.50"),
        ("99999999999999.99", "99999999999999.99"),
        ("9007199254740.93", "9007199254740.93"),
    ],
)
def test_an_amount_goes_out_exactly_and_in_plain_digits(world: World, amount: str, spelled: str) -> None:
    upstream = world.upstream(OK)
    world.client(upstream).cancel("m1", cancellation(amount=Decimal(amount)))
    assert f'"cancellationAmount": {spelled},'.encode() in upstream.received[0].body
    assert simplejson.loads(upstream.received[0].body, use_decimal=True)["cancellationAmount"] == Decimal(amount)


@pytest.mark.parametrize("amount", ["0", "-1", "0.001", "NaN", "Infinity", "100000000000000", "1E+999999", "1E-999999"])
def test_what_is_no_amount_of_money_cannot_be_cancelled(amount: str) -> None:
    with pytest.raises(ValueError, match="amount"):
        cancellation(amount=Decimal(amount))


def test_an_amount_of_more_digits_than_the_context_has_is_not_rounded() -> None:
    with pytest.raises(ValueError, match="amount"):
        cancellation(amount=Decimal("1000." + "0" * 40 + "1"))


def test_a_float_or_a_time_without_offset_cannot_be_cancelled() -> None:
    with pytest.raises(ValueError, match="amount"):
        cancellation(amount=1000.0)
    with pytest.raises(ValueError, match="offset"):
        cancellation(date=datetime(2019, 9, 12))  # noqa: DTZ001


def test_versions_are_configuration(world: World) -> None:
    upstream = world.upstream(http(body=PAID), OK)
    client = world.client(upstream, status_version="v7", cancellation_version="v9")
    status_of(client)
    cancel_on(client)
    assert [urlsplit(request.target).path for request in upstream.received] == [
        "/chermes/merchant/v7/transactions/qris/check_status",
        "/chermes/merchant/v9/order_cancellation",
    ]


@pytest.mark.parametrize(
    "url", ["", "ftp://host/x", "host/x", "http://", "http://user:pass@host/x", "http://host/?a=b"]
)
def test_a_base_url_that_cannot_work_is_found_at_start(world: World, url: str) -> None:
    with pytest.raises(ValueError, match="base_url"):
        world.client(url)


def test_neither_netrc_nor_proxies_of_the_environment_are_used(
    world: World, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    netrc = tmp_path / "netrc"
    netrc.write_text("machine 127.0.0.1 login intruder password intruder\n", encoding="utf-8")
    monkeypatch.setenv("NETRC", str(netrc))
    monkeypatch.setenv("HTTP_PROXY", f"http://127.0.0.1:{refused_port()}")
    upstream = world.upstream(http(body=PAID))
    status_of(world.client(upstream))
    assert upstream.received[0].headers["authorization"].startswith(f"Bearer {KEY}:")


def test_cookies_of_the_upstream_are_not_kept(world: World) -> None:
    upstream = world.upstream(http(200, PAID, "Set-Cookie: session=1; Path=/"))
    client = world.client(upstream)
    status_of(client)
    status_of(client)
    assert "cookie" not in upstream.received[1].headers


# Logs


def test_no_log_of_any_library_shows_a_secret_a_signature_or_personal_data(
    world: World, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.DEBUG)
    refusal = error(422, "ValidationError", {"legalName": "Budi Santoso"})
    redirect = http(302, "", "Location: http://127.0.0.1:1/")
    garbled = b"HTTP/1.1 500 Oops\r\nlegalName Budi Santoso\r\nContent-Length: 0\r\n\r\n"
    upstream = world.upstream(http(body=PAID), refusal, UNAUTHORIZED, redirect, sends(garbled), reset)
    client = world.client(upstream)
    for call in (status_of, cancel_on, cancel_on, cancel_on, cancel_on, cancel_on):
        try:
            call(client)
        except IndodanaError as failure:
            logging.getLogger("handler").exception("failed: %r", failure)
    assert len(upstream.received) == 6
    assert caplog.text.count("failed: ") == 5, "nothing was captured"
    signature = authorization(Credentials(KEY, SECRET), str(int(NOW))).rpartition(":")[2]
    for private in (KEY, SECRET, signature, "Bearer", "Budi", "user-42"):
        assert private not in caplog.text
