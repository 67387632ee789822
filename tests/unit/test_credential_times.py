"""For how long credentials are kept, and when Secrets Manager is asked again."""

from __future__ import annotations

import json
from typing import Any

import pytest

from indodana import CredentialStore, CredentialsUnavailable
from indodana.credentials import SECRETS_SECONDS, Credentials


class ConnectionClosedError(Exception):
    """As botocore names it."""


class SecretsManager:
    """Answers with the pair at hand, unless an error is; `seconds` pass while it does."""

    def __init__(self) -> None:
        self.now = 1_000_000.0
        self.seconds = 0.0
        self.reads = 0
        self.key = "key-1"
        self.errors: list[Exception] = []

    def get_secret_value(self, **_: str) -> Any:
        self.reads += 1
        self.now += self.seconds
        if self.errors:
            raise self.errors.pop(0)
        return {"SecretString": json.dumps({"apiKey": self.key, "secretKey": "secret"})}


@pytest.fixture
def secrets() -> SecretsManager:
    return SecretsManager()


@pytest.fixture
def store(secrets: SecretsManager) -> CredentialStore:
    return CredentialStore(secrets, "gateway/", clock=lambda: secrets.now)  # type: ignore[arg-type]


def test_credentials_are_read_again_after_five_minutes(secrets: SecretsManager, store: CredentialStore) -> None:
    for passed, reads in ((0, 1), (299.9, 1), (0.1, 2)):
        secrets.now += passed
        assert store.get("m1") == Credentials("key-1", "secret")
        assert secrets.reads == reads


def test_a_failed_read_is_tried_again_after_half_a_minute(secrets: SecretsManager, store: CredentialStore) -> None:
    store.get("m1")
    secrets.now += 300
    secrets.errors = [OSError()]
    for passed, reads in ((0, 2), (29.9, 2), (0.1, 3)):
        secrets.now += passed
        assert store.get("m1") == Credentials("key-1", "secret")
        assert secrets.reads == reads


def test_a_read_that_never_worked_is_tried_at_each_call(secrets: SecretsManager, store: CredentialStore) -> None:
    for _ in range(2):
        secrets.errors = [OSError()]
        with pytest.raises(CredentialsUnavailable, match="gateway/m1"):
            store.get("m1")
    assert secrets.reads == 2
    assert store.get("m1").api_key == "key-1"


def test_rejected_credentials_are_read_again_after_five_seconds(
    secrets: SecretsManager, store: CredentialStore
) -> None:
    rejected = store.get("m1")
    for passed, reads in ((0, 2), (4.9, 2), (0.1, 3)):
        secrets.now += passed
        assert store.replace("m1", rejected) == rejected
        assert secrets.reads == reads
    secrets.key = "key-2"
    secrets.now += 5
    assert store.replace("m1", rejected).api_key == "key-2"


@pytest.mark.parametrize(("seconds", "reads"), [(0.4, 2), (0.5, 1)])
def test_a_connection_that_had_died_is_made_anew_at_once(
    secrets: SecretsManager, store: CredentialStore, seconds: float, reads: int
) -> None:
    secrets.errors = [ConnectionClosedError()]
    secrets.seconds = seconds
    if reads == 2:
        assert store.get("m1").api_key == "key-1"
    else:
        with pytest.raises(CredentialsUnavailable):
            store.get("m1")
    assert secrets.reads == reads


def test_no_text_of_credentials_shows_them(store: CredentialStore) -> None:
    credentials = store.get("m1")
    assert "key-1" not in repr(credentials)
    assert "'secret'" not in repr(credentials)
    assert SECRETS_SECONDS == 3  # the clients in gateway/runtime/aws.py keep to it
