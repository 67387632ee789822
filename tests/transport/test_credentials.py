import inspect
import json
import logging
import threading
import time
import traceback
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

import boto3
import pytest

from gateway.runtime import aws
from indodana import Credentials, CredentialStore, CredentialsUnavailable, NotSent
from indodana.credentials import AT_ONCE_SECONDS, FAILED_READ_PAUSE_SECONDS, UNCHANGED_READ_PAUSE_SECONDS

OLD = Credentials("old-key", "old-secret")
NEW = Credentials("new-key", "new-secret")


class SecretsManager:
    """Answers `secret` (a text, or None: no such secret) after `seconds`, and counts."""

    def __init__(self, credentials: Credentials = OLD, seconds: float = 0.0) -> None:
        self.seconds = seconds
        self.requests: list[dict[str, str]] = []
        self.holds(credentials)

    def holds(self, credentials: Credentials) -> None:
        self.secret: str | None = json.dumps({"apiKey": credentials.api_key, "secretKey": credentials.secret_key})

    def get_secret_value(self, **request: str) -> dict[str, Any]:
        self.requests.append(request)
        secret = self.secret
        time.sleep(self.seconds)
        if secret is None:
            error = Exception("An error occurred")
            error.response = {"Error": {"Code": "ResourceNotFoundException"}}  # type: ignore[attr-defined]
            raise error
        return {"SecretString": secret}


class Clock:
    now = 1000.0

    def __call__(self) -> float:
        return self.now


def store_on(secrets_manager: Any, clock: Clock | None = None, ttl_seconds: float = 300) -> CredentialStore:
    return CredentialStore(secrets_manager, "gateway/", ttl_seconds=ttl_seconds, clock=clock or Clock())


def at_once(call: Callable[[], Any], threads: int = 10) -> list[Any]:
    """What each of so many threads got, results and errors alike."""
    barrier = threading.Barrier(threads)

    def run() -> Any:
        barrier.wait()
        try:
            return call()
        except Exception as error:
            return error

    with ThreadPoolExecutor(threads) as pool:
        return [future.result() for future in [pool.submit(run) for _ in range(threads)]]


def test_the_current_version_of_the_merchants_own_secret_is_asked_for() -> None:
    secrets_manager = SecretsManager()
    assert store_on(secrets_manager).get("m1") == OLD
    assert secrets_manager.requests == [{"SecretId": "gateway/m1", "VersionStage": "AWSCURRENT"}]


def test_credentials_are_cached_for_the_ttl_and_no_longer() -> None:
    secrets_manager, clock = SecretsManager(), Clock()
    store = store_on(secrets_manager, clock, ttl_seconds=300)
    store.get("m1")
    secrets_manager.holds(NEW)
    clock.now += 299
    assert store.get("m1") == OLD
    clock.now += 1
    assert store.get("m1") == NEW


def test_a_clock_that_went_back_says_nothing_about_a_secrets_age() -> None:
    secrets_manager, clock = SecretsManager(), Clock()
    store = store_on(secrets_manager, clock, ttl_seconds=300)
    store.get("m1")
    secrets_manager.holds(NEW)
    clock.now -= 0.1
    assert store.get("m1") == NEW


def test_a_store_goes_by_the_wall_clock_unless_told_otherwise() -> None:
    """A monotonic clock may stand still while the function is frozen, and a rotated key would live on."""
    assert inspect.signature(CredentialStore).parameters["clock"].default is time.time


def test_merchants_do_not_share_credentials() -> None:
    secrets_manager = SecretsManager()
    store = store_on(secrets_manager)
    store.get("m1")
    secrets_manager.holds(NEW)
    assert store.get("m2") == NEW
    assert store.get("m1") == OLD


def test_ten_threads_that_find_the_cache_expired_make_one_call() -> None:
    secrets_manager, clock = SecretsManager(seconds=0.05), Clock()
    store = store_on(secrets_manager, clock)
    assert at_once(lambda: store.get("m1")) == [OLD] * 10
    clock.now += 301
    secrets_manager.holds(NEW)
    assert at_once(lambda: store.get("m1")) == [NEW] * 10
    assert len(secrets_manager.requests) == 2


def test_ten_threads_with_nothing_cached_wait_for_one_failure_not_for_ten() -> None:
    secrets_manager = SecretsManager(seconds=0.05)
    secrets_manager.secret = None
    store = store_on(secrets_manager)
    assert [type(got) for got in at_once(lambda: store.get("m1"))] == [CredentialsUnavailable] * 10
    assert len(secrets_manager.requests) == 1


def test_one_merchants_slow_secret_keeps_no_other_waiting() -> None:
    secrets_manager = SecretsManager()
    store = store_on(secrets_manager)
    store.get("m2")
    secrets_manager.seconds = 0.5
    slow = threading.Thread(target=store.get, args=("m1",))
    slow.start()
    store.get("m2")
    assert slow.is_alive()
    slow.join()


def test_a_secrets_manager_outage_after_the_ttl_keeps_old_credentials(
    caplog: pytest.LogCaptureFixture,
) -> None:
    secrets_manager, clock = SecretsManager(), Clock()
    store = store_on(secrets_manager, clock)
    store.get("m1")
    secrets_manager.secret = None
    clock.now += 301
    assert [store.get("m1") for _ in range(5)] == [OLD] * 5
    assert len(secrets_manager.requests) == 2, "each call waited for the outage"
    [record] = caplog.records
    assert (record.name, record.levelno) == ("indodana", logging.WARNING)
    assert "gateway/m1" in record.getMessage()
    assert "ResourceNotFoundException" in record.getMessage()
    assert "old-" not in caplog.text

    secrets_manager.holds(NEW)
    clock.now += FAILED_READ_PAUSE_SECONDS
    assert store.get("m1") == NEW


def test_a_failure_with_nothing_cached_is_told_and_asked_again_next_time() -> None:
    secrets_manager = SecretsManager()
    secrets_manager.secret = None
    store = store_on(secrets_manager)
    with pytest.raises(CredentialsUnavailable, match=r"gateway/m1.*ResourceNotFoundException") as caught:
        store.get("m1")
    assert isinstance(caught.value, NotSent)
    secrets_manager.holds(OLD)
    assert store.get("m1") == OLD


@pytest.mark.parametrize(
    "secret",
    [
        "s3cret-value",
        "",
        '"s3cret-value"',
        '["s3cret-value"]',
        '{"apiKey": "s3cret-value"}',
        '{"secretKey": "s3cret-value"}',
        '{"apiKey": "", "secretKey": "s3cret-value"}',
        '{"apiKey": "k", "secretKey": ""}',
        '{"apiKey": 1, "secretKey": "s3cret-value"}',
        '{"apiKey": "k", "secretKey": ["s3cret-value"]}',
        '{"apiKey": "s3cret-value\\r\\nX-Injected: 1", "secretKey": "s"}',
        '{"apiKey": "s3cret-value é", "secretKey": "s"}',
        '{"apiKey": "k", "secretKey": "s3cret-value "}',
        '{"apiKey": "k", "secretKey": " s3cret-value"}',
        '{"apiKey": "k", "secretKey": "s3cret-value\\n"}',
        '{"apiKey": "k", "secretKey": "s3cret\u00a0s3cret-value"}',
        '{"apiKey": "k", "secretKey": "s3cret-value\\u200b"}',
        "[" * 100_000,
    ],
)
def test_a_malformed_secret_is_named_and_its_value_stands_nowhere(secret: str) -> None:
    secrets_manager = SecretsManager()
    secrets_manager.secret = secret
    with pytest.raises(CredentialsUnavailable, match="gateway/m1 is malformed") as caught:
        store_on(secrets_manager).get("m1")
    assert "s3cret-value" not in "".join(traceback.format_exception(caught.value)) + repr(caught.value)


def test_an_invalid_secret_is_logged_and_the_valid_one_before_it_kept(
    caplog: pytest.LogCaptureFixture,
) -> None:
    secrets_manager, clock = SecretsManager(), Clock()
    store = store_on(secrets_manager, clock)
    store.get("m1")
    secrets_manager.secret = '{"apikey": "s3cret-value", "secretKey": "s3cret-value"}'
    clock.now += 301

    assert store.get("m1") == OLD
    [record] = caplog.records
    assert (record.name, record.levelno) == ("indodana", logging.ERROR)
    assert "gateway/m1 is malformed" in record.getMessage()
    assert "s3cret-value" not in caplog.text


def test_a_secret_without_a_string_is_malformed() -> None:
    secrets_manager = SecretsManager()
    secrets_manager.get_secret_value = lambda **_: {"SecretBinary": b"..."}  # type: ignore[method-assign]
    with pytest.raises(CredentialsUnavailable, match="malformed"):
        store_on(secrets_manager).get("m1")


def test_rejected_credentials_are_replaced_at_once_whatever_the_ttl() -> None:
    secrets_manager = SecretsManager()
    store = store_on(secrets_manager)
    store.get("m1")
    secrets_manager.holds(NEW)
    assert store.replace("m1", OLD) == NEW
    assert store.get("m1") == NEW
    assert len(secrets_manager.requests) == 2


@pytest.fixture
def forgetful() -> Iterator[tuple[str, list[str]]]:
    """Secrets Manager behind connections that are dead once they have been used: its URL, and what it saw of each."""
    seen: list[str] = []

    class Handler(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"

        def do_POST(self) -> None:
            self.rfile.read(int(self.headers["Content-Length"]))
            if self.client_address[1] in used:
                seen.append("dead")
                self.close_connection = True
                return
            used.add(self.client_address[1])
            seen.append("answered")
            pair = OLD if len(used) == 1 else NEW
            secret = json.dumps({"apiKey": pair.api_key, "secretKey": pair.secret_key})
            body = json.dumps({"SecretString": secret}).encode()
            self.send_response(200)
            self.send_header("Content-Length", str(len(body)))
            self.end_headers()
            self.wfile.write(body)

        def log_message(self, *_: object) -> None:
            pass

    used: set[int] = set()
    with ThreadingHTTPServer(("127.0.0.1", 0), Handler) as server:
        server.daemon_threads = True
        thread = threading.Thread(target=server.serve_forever, args=(0.01,))
        thread.start()
        yield f"http://127.0.0.1:{server.server_port}", seen
        server.shutdown()
        thread.join()


def test_a_connection_that_died_while_it_was_idle_costs_no_rotation(forgetful: tuple[str, list[str]]) -> None:
    """As one does while the function is frozen; only by using it can this side find out."""
    url, seen = forgetful
    store = store_on(boto3.client("secretsmanager", endpoint_url=url, config=aws.SECRETS_CONFIG))
    assert store.get("m1") == OLD

    assert store.replace("m1", OLD) == NEW
    assert seen == ["answered", "dead", "answered"]


class ConnectionClosedError(Exception):
    """botocore's, by name."""


@pytest.mark.parametrize(("seconds", "requests"), [(0.0, 2), (AT_ONCE_SECONDS + 0.1, 1)], ids=["at once", "late"])
def test_a_second_read_is_made_where_the_first_failed_at_once(seconds: float, requests: int) -> None:
    secrets_manager, clock = SecretsManager(), Clock()

    def closed(**request: str) -> dict[str, Any]:
        secrets_manager.requests.append(request)
        clock.now += seconds
        raise ConnectionClosedError

    secrets_manager.get_secret_value = closed  # type: ignore[method-assign]
    with pytest.raises(CredentialsUnavailable, match="ConnectionClosedError"):
        store_on(secrets_manager, clock).get("m1")
    assert len(secrets_manager.requests) == requests


def test_ten_threads_rejected_at_once_read_the_secret_once() -> None:
    secrets_manager = SecretsManager(seconds=0.05)
    store = store_on(secrets_manager)
    store.get("m1")
    secrets_manager.holds(NEW)
    assert at_once(lambda: store.replace("m1", OLD)) == [NEW] * 10
    assert store.replace("m1", OLD) == NEW, "a late one uses what another thread got"
    assert len(secrets_manager.requests) == 2


def test_a_rejection_during_a_read_waits_for_that_one_and_no_other() -> None:
    secrets_manager, clock = SecretsManager(), Clock()
    store = store_on(secrets_manager, clock)
    store.get("m1")
    clock.now += 301
    secrets_manager.seconds = 0.1
    reading = threading.Thread(target=store.get, args=("m1",))
    reading.start()
    time.sleep(0.03)
    assert store.replace("m1", OLD) == OLD
    reading.join()
    assert len(secrets_manager.requests) == 2


def test_while_rejections_persist_the_secret_is_read_seldom() -> None:
    secrets_manager, clock = SecretsManager(), Clock()
    store = store_on(secrets_manager, clock)
    store.get("m1")
    assert [store.replace("m1", OLD) for _ in range(20)] == [OLD] * 20
    assert at_once(lambda: store.replace("m1", OLD)) == [OLD] * 10
    assert len(secrets_manager.requests) == 2
    clock.now += UNCHANGED_READ_PAUSE_SECONDS
    secrets_manager.holds(NEW)
    assert store.replace("m1", OLD) == NEW


def test_two_rotations_in_a_row_are_both_noticed() -> None:
    secrets_manager = SecretsManager()
    store = store_on(secrets_manager)
    store.get("m1")
    secrets_manager.holds(NEW)
    assert store.replace("m1", OLD) == NEW
    newest = Credentials("newest-key", "newest-secret")
    secrets_manager.holds(newest)
    assert store.replace("m1", NEW) == newest


def test_a_rejection_in_a_secrets_manager_outage_keeps_old_credentials() -> None:
    secrets_manager = SecretsManager()
    store = store_on(secrets_manager)
    store.get("m1")
    secrets_manager.secret = None
    assert store.replace("m1", OLD) == OLD


def test_replacing_what_was_never_read_reads_it() -> None:
    assert store_on(SecretsManager()).replace("m1", NEW) == OLD


def test_expired_credentials_are_read_with_the_next_call() -> None:
    secrets_manager = SecretsManager()
    store = store_on(secrets_manager)
    store.get("m1")
    store.expire("m1", OLD)
    assert len(secrets_manager.requests) == 1
    secrets_manager.holds(NEW)
    assert store.get("m1") == NEW


def test_credentials_that_were_replaced_meanwhile_are_not_expired() -> None:
    secrets_manager = SecretsManager(NEW)
    store = store_on(secrets_manager)
    store.get("m1")
    store.expire("m1", OLD)
    store.get("m1")
    assert len(secrets_manager.requests) == 1


def test_expiring_waits_for_no_read_of_another_thread() -> None:
    reading, release = threading.Event(), threading.Event()

    class Slow(SecretsManager):
        def get_secret_value(self, **request: str) -> dict[str, Any]:
            answer = super().get_secret_value(**request)
            if len(self.requests) > 1:
                reading.set()
                release.wait(5)
            return answer

    secrets_manager, clock = Slow(), Clock()
    store = store_on(secrets_manager, clock)
    store.get("m1")
    clock.now += 301
    with ThreadPoolExecutor(1) as pool:
        other = pool.submit(store.get, "m1")
        assert reading.wait(5)
        store.expire("m1", OLD)  # would never return if it waited
        release.set()
        assert other.result() == OLD
