"""What stands in a request besides its parameters, what of it an answer may echo, and what closing does."""

from __future__ import annotations

import socket
from collections.abc import Callable, Iterator
from typing import Any

import pytest

from indodana import (
    CANCEL_READ_SECONDS,
    STATUS_BUDGET_SECONDS,
    IndodanaClient,
    Refused,
    Timeouts,
)
from tests.transport.upstream import OK, PAID, World, cancel_on, error, http, status_of


@pytest.fixture
def world() -> Iterator[World]:
    with World() as made:
        yield made


@pytest.mark.parametrize(("call", "answer"), [(status_of, http(body=PAID)), (cancel_on, OK)])
def test_a_request_asks_for_plain_json_and_says_who_asks(
    world: World, call: Callable[[IndodanaClient], Any], answer: bytes
) -> None:
    upstream = world.upstream(answer)
    call(world.client(upstream))
    headers = upstream.received[0].headers
    assert headers["accept"] == "application/json"
    assert headers["accept-encoding"] == "identity"
    assert headers["user-agent"] == "qris-gateway"


def test_a_signature_that_an_answer_echoes_is_not_kept(world: World) -> None:
    def echo(sock: socket.socket) -> None:
        signature = upstream.received[0].headers["authorization"].rpartition(":")[2]
        sock.sendall(error(403, "SignatureError", f"{signature} is wrong"))

    upstream = world.upstream(echo)
    with pytest.raises(Refused) as caught:
        cancel_on(world.client(upstream))
    assert caught.value.message == "[masked] is wrong"


def test_a_closed_client_connects_anew(world: World) -> None:
    upstream = world.upstream(http(body=PAID))
    client = world.client(upstream)
    status_of(client)
    status_of(client)
    assert upstream.connections == 1
    client.close()
    status_of(client)
    assert upstream.connections == 2


def test_a_call_has_its_budget() -> None:
    """What the functions' timeouts are made of: secret, a quick 401, connection, answer."""
    assert (STATUS_BUDGET_SECONDS, CANCEL_READ_SECONDS) == (3 + 2 + 2 + 5, 10)
    assert Timeouts() == Timeouts(connect=2, status_read=5, cancel_read=10)
