"""What a call to Indodana sends, with which credentials, and how often; what was surely not sent."""

from __future__ import annotations

import json
import logging
import socket
import time
from collections.abc import Callable, Iterator
from datetime import datetime
from decimal import Decimal
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import pytest
import simplejson

from indodana import (
    ConnectionFailed,
    ConnectTimedOut,
    Credentials,
    CredentialsRejected,
    CredentialsUnavailable,
    IndodanaClient,
    IndodanaError,
    NotSent,
    Timeouts,
    authorization,
)
from tests.transport.upstream import (
    KEY,
    NOW,
    OK,
    PAID,
    SECRET,
    UNAUTHORIZED,
    Act,
    World,
    cancel_on,
    cancellation,
    certificate,
    close,
    error,
    hang,
    http,
    refused_port,
    reset,
    sends,
    status_of,
)


@pytest.fixture
def world() -> Iterator[World]:
    with World() as made:
        yield made


both_calls = pytest.mark.parametrize("call", [status_of, cancel_on])


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


def test_an_amount_with_more_digits_than_the_decimal_context_is_not_rounded_into_one() -> None:
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


# No answer: surely not sent


@both_calls
def test_a_refused_connection_is_surely_not_sent(world: World, call: Callable[[IndodanaClient], Any]) -> None:
    with pytest.raises(ConnectionFailed) as caught:
        call(world.client(f"http://127.0.0.1:{refused_port()}"))
    assert type(caught.value) is ConnectionFailed
    assert isinstance(caught.value, NotSent)
    assert caught.value.http_status is None


@pytest.mark.parametrize("host", ["does-not-exist.invalid", "a..b", "x" * 70 + ".invalid"])
def test_a_host_without_address_is_surely_not_sent(world: World, host: str) -> None:
    with pytest.raises(ConnectionFailed) as caught:
        cancel_on(world.client(f"http://{host}"))
    assert type(caught.value) is ConnectionFailed


@both_calls
def test_a_certificate_that_is_not_trusted_is_surely_not_sent(
    world: World, call: Callable[[IndodanaClient], Any], tmp_path: Path
) -> None:
    server, _ = certificate(tmp_path)
    upstream = world.upstream(http(body=PAID), tls=server)
    with pytest.raises(ConnectionFailed, match="self-signed") as caught:
        call(world.client(upstream))
    assert type(caught.value) is ConnectionFailed
    assert upstream.received == []


def test_a_certificate_for_another_host_is_surely_not_sent(world: World, tmp_path: Path) -> None:
    server, trusting = certificate(tmp_path)
    upstream = world.upstream(OK, tls=server)
    with pytest.raises(ConnectionFailed, match="localhost"):
        cancel_on(world.client(upstream.url.replace("127.0.0.1", "localhost"), ssl_context=trusting))
    assert upstream.received == []


@pytest.mark.parametrize("act", [sends(b"HTTP/1.1 200 OK\r\n\r\n"), close, reset], ids=["not TLS", "closed", "reset"])
def test_a_tls_handshake_that_breaks_is_surely_not_sent(world: World, act: Act, tmp_path: Path) -> None:
    upstream = world.upstream(OK, tls=certificate(tmp_path)[0], on_connect=act)
    with pytest.raises(ConnectionFailed) as caught:
        cancel_on(world.client(upstream))
    assert type(caught.value) is ConnectionFailed


def test_a_tls_handshake_that_hangs_is_surely_not_sent(world: World, tmp_path: Path) -> None:
    upstream = world.upstream(OK, tls=certificate(tmp_path)[0], on_connect=hang)
    started = time.monotonic()
    with pytest.raises(ConnectTimedOut) as caught:
        cancel_on(world.client(upstream, timeouts=Timeouts(connect=0.15)))
    assert isinstance(caught.value, NotSent)
    assert time.monotonic() - started < 1


def test_a_hosts_second_address_is_tried(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    upstream = world.upstream(OK)
    resolve = socket.getaddrinfo

    def two_addresses(host: str, *args: Any, **options: Any) -> Any:
        if host != "upstream.test":
            return resolve(host, *args, **options)
        return [*resolve("127.0.0.2", *args, **options), *resolve("127.0.0.1", *args, **options)]

    monkeypatch.setattr(socket, "getaddrinfo", two_addresses)
    cancel_on(world.client(f"http://upstream.test:{upstream.port}"))


def test_time_to_connect_is_shared_by_a_hosts_addresses(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    def five_addresses(*args: Any, **options: Any) -> Any:
        return [(socket.AF_INET, socket.SOCK_STREAM, 6, "", ("192.0.2.1", 80))] * 5

    def nobody_answers(address: object, seconds: float, **options: Any) -> None:
        tried.append(address)
        time.sleep(seconds)
        raise TimeoutError

    tried: list[object] = []
    monkeypatch.setattr("socket.getaddrinfo", five_addresses)
    monkeypatch.setattr("indodana.transport.create_connection", nobody_answers)
    started = time.monotonic()
    with pytest.raises(ConnectTimedOut):
        cancel_on(world.client("http://upstream.test", timeouts=Timeouts(connect=0.2)))
    assert time.monotonic() - started < 0.4
    assert tried == [("192.0.2.1", 80)] * 5


def test_no_credentials_means_nothing_was_sent(world: World) -> None:
    world.secrets.pair = {}
    upstream = world.upstream(OK)
    with pytest.raises(CredentialsUnavailable, match="gateway/m1"):
        cancel_on(world.client(upstream))
    assert upstream.connections == 0


# Credentials


def test_a_rotation_costs_no_failed_request(world: World) -> None:
    upstream = world.upstream(OK, UNAUTHORIZED, OK)
    client = world.client(upstream)
    cancel_on(client)
    world.secrets.pair = {"apiKey": "new-key", "secretKey": "new-secret"}
    cancel_on(client)
    old, new = Credentials(KEY, SECRET), Credentials("new-key", "new-secret")
    assert [request.headers["authorization"] for request in upstream.received] == [
        authorization(credentials, "1569479066") for credentials in (old, old, new)
    ]
    assert upstream.received[1].body == upstream.received[2].body


def test_a_rejection_with_an_unchanged_secret_is_not_tried_again(world: World) -> None:
    upstream = world.upstream(UNAUTHORIZED)
    client = world.client(upstream)
    for _ in range(3):
        with pytest.raises(CredentialsRejected):
            cancel_on(client)
    assert len(upstream.received) == 3
    assert world.secrets.reads == 2


def test_a_second_rejection_is_final(world: World) -> None:
    upstream = world.upstream(OK, UNAUTHORIZED)
    client = world.client(upstream)
    cancel_on(client)
    world.secrets.pair = {"apiKey": "new-key", "secretKey": "new-secret"}
    with pytest.raises(CredentialsRejected):
        cancel_on(client)
    assert len(upstream.received) == 3


def test_after_a_rejection_that_took_long_the_request_is_not_made_again(
    world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("indodana.client.RETRY_WITHIN_SECONDS", 0.05)
    upstream = world.upstream(OK, UNAUTHORIZED, OK)
    client = world.client(upstream)
    cancel_on(client)
    world.secrets.pair = {"apiKey": "new-key", "secretKey": "new-secret"}
    world.secrets.seconds = 0.1
    with pytest.raises(CredentialsRejected):
        cancel_on(client)
    assert len(upstream.received) == 2
    cancel_on(client)
    assert upstream.received[2].headers["authorization"].startswith("Bearer new-key:")


def test_the_budgets_are_the_sum_of_what_a_call_may_wait_for() -> None:
    from indodana import CANCEL_BUDGET_SECONDS, SECRETS_SECONDS, STATUS_BUDGET_SECONDS

    assert 2 * SECRETS_SECONDS + 2 + 5 == STATUS_BUDGET_SECONDS
    assert 2 * SECRETS_SECONDS + 2 + 10 == CANCEL_BUDGET_SECONDS


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
