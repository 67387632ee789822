"""One seed: some threads with their refunds and status checks, one client, one server, and what came of each call."""

from __future__ import annotations

import json
import logging
import random
import socket
import ssl
import tempfile
import threading
import time
from collections import Counter
from collections.abc import Callable
from contextlib import ExitStack
from dataclasses import dataclass, field
from datetime import UTC, datetime
from decimal import Decimal
from functools import cache
from pathlib import Path
from typing import Any

from indodana import Cancellation, CredentialStore, IndodanaClient, Timeouts
from testkit.certificates import self_signed
from tests.wire.answers import Asked
from tests.wire.carriage import CANCEL_READ_SECONDS, CONNECT_SECONDS, STATUS_READ_SECONDS
from tests.wire.lag import Lag
from tests.wire.server import Arrival, Server

# What the client logs of an answer is for a person, and no part of its verdict.
logging.getLogger("indodana").addHandler(logging.NullHandler())

MERCHANTS = ("m1", "m2")
TIMEOUTS = Timeouts(connect=CONNECT_SECONDS, status_read=STATUS_READ_SECONDS, cancel_read=CANCEL_READ_SECONDS)
DATE = datetime(2019, 9, 12, 11, 18, 18, tzinfo=UTC)
# While a function is frozen: not at all, less than a connection is kept, more, and a clock that is set back.
FREEZES_SECONDS = (0.0, 5.0, 30.0, 3000.0, -3.0)


@dataclass
class Call:
    """One call of the client's, and what it said."""

    number: int
    merchant: str
    order: str
    refund_id: str | None = None
    amount: Decimal | None = None
    # To may_send(): "holds" | "is over" | "ends after one request"
    lease: str = "holds"
    # "server" | "closed port" | "black hole"
    to: str = "server"
    started: float = 0.0
    ended: float = 0.0
    wall: float = 0.0
    asked_at: list[float] = field(default_factory=list)
    answer: Any = None

    @property
    def cancels(self) -> bool:
        return self.refund_id is not None

    @property
    def read_seconds(self) -> float:
        return CANCEL_READ_SECONDS if self.cancels else STATUS_READ_SECONDS

    @property
    def verdict(self) -> type:
        return type(self.answer)

    def may_send(self) -> bool:
        self.asked_at.append(time.monotonic())
        return self.lease == "holds" or (self.lease == "ends after one request" and len(self.asked_at) == 1)

    def __str__(self) -> str:
        what = (
            f"refund {self.refund_id} of {self.amount} on {self.order}" if self.cancels else f"status of {self.order}"
        )
        return f"call {self.number}, {what}" + (f" (lease {self.lease})" if self.lease != "holds" else "")


@dataclass
class Told:
    """All that is known of a seed when it has come to rest."""

    seed: int
    calls: list[Call]
    server: Server
    lag: Lag
    tls: bool

    def arrivals_of(self, call: Call) -> list[Arrival]:
        if call.to != "server":
            return []
        return [one for one in self.server.arrivals if (one.order, one.refund_id) == (call.order, call.refund_id)]


class _Wall:
    """The wall clock, which goes on while a function is frozen, and may be set back."""

    def __init__(self) -> None:
        self.ahead = 0.0

    def __call__(self) -> float:
        return time.time() + self.ahead


class _Secrets:
    def __init__(self) -> None:
        self.versions = Counter(MERCHANTS)

    def key(self, merchant: str) -> str:
        return f"key-{merchant}-{self.versions[merchant]}"

    def get_secret_value(self, SecretId: str, **_: str) -> dict[str, str]:  # noqa: N803 - as boto3 spells it
        key = self.key(SecretId.removeprefix("gateway/"))
        return {"SecretString": json.dumps({"apiKey": key, "secretKey": f"secret-of-{key}"})}


@cache
def _contexts() -> tuple[ssl.SSLContext, ssl.SSLContext]:
    """The server's and the client's."""
    with tempfile.TemporaryDirectory() as folder:
        path = self_signed(Path(folder))
        server = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        server.load_cert_chain(path)
        return server, ssl.create_default_context(cafile=path)


@cache
def _nowhere() -> dict[str, tuple[int, list[socket.socket]]]:
    """A port that nobody listens on, and one that answers no connection: its queue is full. Both stay so."""
    closed = socket.socket()
    closed.bind(("127.0.0.1", 0))
    full = socket.socket()
    full.bind(("127.0.0.1", 0))
    full.listen(0)
    queue = [full]
    for _ in range(4):
        waiting = socket.socket()
        waiting.setblocking(False)
        waiting.connect_ex(full.getsockname())
        queue.append(waiting)
    return {"closed port": (closed.getsockname()[1], [closed]), "black hole": (full.getsockname()[1], queue)}


def tell(seed: int) -> Told:
    rng = random.Random(f"{seed}/scene")
    tls = rng.random() < 0.4
    threads, rounds = rng.randint(3, 8), rng.randint(2, 3)
    wall, secrets, lag = _Wall(), _Secrets(), Lag()
    server_context, client_context = _contexts()
    with ExitStack() as stack:
        stack.enter_context(lag)
        server = Server(seed, server_context if tls else None, wall)
        stack.callback(server.stop)

        def client(url: str) -> IndodanaClient:
            store = CredentialStore(secrets, "gateway/", clock=wall)  # type: ignore[arg-type]
            context = client_context if url.startswith("https") else None
            made = IndodanaClient(
                url, store, pool_size=rng.randint(2, 10), clock=wall, timeouts=TIMEOUTS, ssl_context=context
            )
            stack.callback(made.close)
            return made

        one = client(server.url)
        nowhere = {name: client(f"http://127.0.0.1:{port}/chermes/merchant") for name, (port, _) in _nowhere().items()}
        server.valid_keys = {secrets.key(merchant) for merchant in MERCHANTS}
        calls: list[Call] = []
        for number in range(rounds):
            if number:
                _freeze(rng, server, one, wall, secrets)
            plans = [_planned(rng, seed, len(calls) + 1000 * thread) for thread in range(threads)]
            calls += [call for plan in plans for call in plan]
            _know_each_other(server, [call for plan in plans for call in plan])
            _at_once([lambda plan=plan: _make(one, plan, wall) for plan in plans])
        for name, other in nowhere.items():
            if rng.random() < (0.5 if name == "closed port" else 0.15):
                call = _planned(rng, seed, 20_000 + len(calls))[-1]
                call.to = name
                calls.append(call)
                _make(other, [call], wall)
    return Told(seed, calls, server, lag, tls)


def _planned(rng: random.Random, seed: int, first: int) -> list[Call]:
    """What one thread does in a round. As in the gateway, an order's status is often asked right before its refund."""
    plan: list[Call] = []
    for index in range(rng.randint(2, 5)):
        merchant, number = rng.choice(MERCHANTS), first * 10 + 2 * index
        order = f"ORDER-{seed}-{number}"
        kind = rng.choice(("status", "refund", "refund", "both", "both"))
        if kind != "refund":
            plan.append(Call(number, merchant, order))
        if kind != "status":
            lease = rng.choices(("holds", "is over", "ends after one request"), (93, 5, 2))[0]
            amount = Decimal(number * 100 + 50) + rng.choice((Decimal(0), Decimal("0.25")))
            plan.append(Call(number + 1, merchant, order, f"refund-{seed}-{number + 1}", amount, lease))
    return plan


def _know_each_other(server: Server, calls: list[Call]) -> None:
    refunds = [call for call in calls if call.cancels] or [Call(0, "m1", "ORDER-0", "refund-0", Decimal(1))]
    for call in calls:
        others = [other for other in refunds if other.order != call.order]
        other = others[call.number % len(others)] if others else Call(0, "m1", "ORDER-0", "refund-0", Decimal(1))
        server.others[call.refund_id or call.order] = Asked(other.order, other.refund_id, other.amount)


def _freeze(rng: random.Random, server: Server, client: IndodanaClient, wall: _Wall, secrets: _Secrets) -> None:
    """Between two rounds nothing runs: time passes, connections end, keys are replaced."""
    wall.ahead += rng.choice(FREEZES_SECONDS)
    if rng.random() < 0.4:
        server.forgets(rng)
    if rng.random() < 0.1:
        client.close()
    if rng.random() < 0.4:
        merchant = rng.choice(MERCHANTS)
        server.valid_keys.discard(secrets.key(merchant))
        secrets.versions[merchant] += 1
        server.valid_keys.add(secrets.key(merchant))


def _at_once(works: list[Callable[[], None]]) -> None:
    threads = [threading.Thread(target=work) for work in works]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()


def _make(client: IndodanaClient, plan: list[Call], wall: _Wall) -> None:
    for call in plan:
        call.wall, call.started = wall(), time.monotonic()
        try:
            if call.refund_id is None or call.amount is None:
                call.answer = client.check_status(call.merchant, call.order)
            else:
                wanted = Cancellation(call.refund_id, call.order, call.amount, "Others", "rina", DATE)
                call.answer = client.cancel(call.merchant, wanted, may_send=call.may_send)
        except Exception as error:  # whatever it is, the checks look at it
            call.answer = _without_frames(error)
        call.ended = time.monotonic()


def _without_frames(error: Exception) -> Exception:
    """Kept for the checks; what it holds on to would keep connections open."""
    error.__traceback__ = error.__cause__ = error.__context__ = None
    return error
