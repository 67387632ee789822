"""Credentials that Indodana rejects, and the one repetition with new ones."""

from __future__ import annotations

import pytest

from indodana import (
    Credentials,
    CredentialsRejected,
    authorization,
)
from tests.transport.upstream import (
    KEY,
    OK,
    SECRET,
    UNAUTHORIZED,
    World,
    cancel_on,
)

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


def test_after_a_late_rejection_the_next_call_reads_the_secret(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    """The time after a late answer is there to record it: a secret that cannot be read would take three seconds."""
    monkeypatch.setattr("indodana.client.RETRY_WITHIN_SECONDS", 0.0)
    upstream = world.upstream(OK, UNAUTHORIZED, OK)
    client = world.client(upstream)
    cancel_on(client)
    world.secrets.pair = {"apiKey": "new-key", "secretKey": "new-secret"}

    with pytest.raises(CredentialsRejected):
        cancel_on(client)
    assert world.secrets.reads == 1

    cancel_on(client)
    assert world.secrets.reads == 2
    assert upstream.received[2].headers["authorization"].startswith("Bearer new-key:")
