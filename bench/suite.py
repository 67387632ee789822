"""Every figure that `make bench` prints, with its bound."""

from __future__ import annotations

import json
import socket
import subprocess
import time
from collections.abc import Callable, Sequence
from contextlib import ExitStack
from functools import partial
from urllib.parse import urlsplit

from bench import cold, layout, warm
from bench.figures import Figure, Spread, ratios
from bench.layout import Layout
from bench.stub import CALL_SECONDS, Stub, in_series
from bench.warm import BATCH, Process, UnexpectedAnswer
from devstack.template import Model, Template

COLD = "Cold start, over F: boto3, its clients for DynamoDB and Secrets Manager, a requests session"
COLD_USUAL = "Cold start, over the usual set as sam build ships it: Powertools, no bytecode"
WARM = "Warm"
BATCHES = "Batches of 10, Indodana at 200 ms"
WEIGHT = "Weight"

COLD_BOUND = 0.95
COLD_USUAL_BOUND = 0.23

COLD_ROUNDS = 20
WARM_ROUNDS = 16
CALLS_A_BLOCK = 6
COUNTED_CALLS = 5
BATCH_ROUNDS = 8
ONE_ORDER_ROUNDS = 5  # at two seconds each
MEMORY_ROUNDS = 3
STUB_CALLS = 200

UPSTREAM_SECONDS = 0.050
BATCH_UPSTREAM_SECONDS = 0.200
SECRETS_REQUESTS = 1_000
SECRETS_WITHIN_SECONDS = 60.0

Progress = Callable[[str], None]


def measure(template: Template, places: Layout, stub: Stub, progress: Progress) -> list[Figure]:
    """`template`: as deployed. The warm measurements run against the stub instead."""
    against_stub = Template.load_local(upstream_url=stub.url, endpoint_url=stub.url)
    model = against_stub.model()
    return [
        *cold_starts(places, template.model(), progress),
        *warm_calls(places, model, stub, progress),
        *batches(places, model, stub, progress),
        *weights(places, model, stub, progress),
    ]


# ---- cold starts


def cold_starts(places: Layout, model: Model, progress: Progress) -> list[Figure]:
    peers = {
        "bare-session": ("a requests session alone", places.floor(model, "bare_session:session")),
        "F": ("F", places.floor(model, "clients:session")),
        "plain": ("a plain function", places.floor(model, "plain:refund")),
        "usual": ("the usual set, with bytecode", places.usual(model, "usual:refund")),
        "usual-as-shipped": ("the usual set, as shipped", places.usual_as_shipped(model, "usual:refund")),
    }
    sandboxes = {name: sandbox for name, (_, sandbox) in peers.items()}
    sandboxes |= {name: places.function(model, name) for name in model.functions}
    taken = cold.measure(sandboxes, COLD_ROUNDS, progress)

    def figure(name: str, title: str, bound: float | None) -> Figure:
        value = Spread.of(ratios(taken[name], taken["F"]))
        ours = name in model.functions
        return Figure(f"cold/{name}", COLD, title, "×", value, "F", bound, Spread.of(taken[name]), is_ours=ours)

    def over_usual(name: str) -> Figure:
        value = Spread.of(ratios(taken[name], taken["usual-as-shipped"]))
        return Figure(f"cold-usual/{name}", COLD_USUAL, name, "×", value, "usual, shipped", COLD_USUAL_BOUND)

    return [
        *(figure(name, title, None) for name, (title, _) in peers.items()),
        *(figure(name, name, COLD_BOUND) for name in model.functions),
        *(over_usual(name) for name in model.functions),
    ]


# ---- warm calls


class _Orders:
    """Orders whose first refund was made by another process."""

    def __init__(self, stub: Stub, opener: Process) -> None:
        self._stub = stub
        self._opener = opener
        self._made = 0

    def opened(self, count: int) -> list[str]:
        """Sets the stub's latencies to zero."""
        orders = [f"OPENED-{number}" for number in range(self._made, self._made + count)]
        self._made += count
        self._stub.set_latencies(upstream=0.0, call=0.0, transaction=0.0)
        self._opener.call([warm.refund_event(order) for order in orders])
        return orders


def warm_calls(places: Layout, model: Model, stub: Stub, progress: Progress) -> list[Figure]:
    with ExitStack() as running:

        def process(sandbox: layout.Sandbox) -> Process:
            return running.enter_context(Process(sandbox))

        def gateway(function: str) -> Process:
            return process(places.function(model, function))

        stub.set_latencies(upstream=0.0)
        orders = _Orders(stub, gateway("RefundApiFunction"))
        refunds = {
            "ours": gateway("RefundApiFunction"),
            "elsewhere": gateway("RefundApiFunction"),
            "floor": process(places.floor(model, "floor:refund")),
            "usual": process(_untraced(places.usual(model, "usual:refund"))),
            "plain": process(places.floor(model, "plain:refund")),
        }
        checks = {
            "ours": gateway("StatusCheckFunction"),
            "floor": process(places.floor(model, "floor:status")),
            "usual": process(_untraced(places.usual(model, "usual:status"))),
            "plain": process(places.floor(model, "plain:status")),
        }
        for name, one in refunds.items():
            one.call([warm.refund_event(_known(name)) for _ in range(3)])
        for name, one in checks.items():
            one.call([warm.status_event(_known(name)) for _ in range(3)])

        progress("warm: counting calls")
        counts = _counted(stub, refunds, orders)
        progress("warm: refunds, Indodana at 0 ms")
        at_0 = _refunds(stub, refunds, orders, 0.0)
        progress(f"warm: refunds, Indodana at {UPSTREAM_SECONDS * 1000:.0f} ms")
        at_50 = _refunds(stub, refunds, orders, UPSTREAM_SECONDS)
        progress("warm: status checks")
        stub.set_latencies(upstream=0.0)
        events = {name: partial(warm.status_event, _known(name)) for name in checks}
        status = warm.blocks(checks, events, WARM_ROUNDS, CALLS_A_BLOCK)

    def figure(
        key: str, title: str, taken: dict[str, list[float]], name: str, over: str, bound: float | None = None
    ) -> Figure:
        value = Spread.of(ratios(taken[name], taken[over]))
        over, ours = {"usual": "the usual way"}.get(over, over), name in ("ours", "elsewhere")
        return Figure(f"warm/{key}", WARM, title, "×", value, over, bound, Spread.of(taken[name]), is_ours=ours)

    return [
        figure("refund-usual", "refund at 0 ms", at_0, "ours", "usual", 0.80),
        figure("refund-usual-elsewhere", "… of an order that another process opened", at_0, "elsewhere", "usual"),
        figure("refund-floor", "refund at 50 ms", at_50, "ours", "floor", 1.15),
        figure("refund-floor-elsewhere", "… of an order that another process opened", at_50, "elsewhere", "floor"),
        figure("refund-floor-usual", "… the usual way", at_50, "usual", "floor"),
        figure("refund-floor-plain", "… a plain function", at_50, "plain", "floor"),
        figure("status-floor", "status check, beside Indodana's time", status, "ours", "floor", 1.15),
        figure("status-floor-usual", "… the usual way", status, "usual", "floor"),
        figure("status-floor-plain", "… a plain function", status, "plain", "floor"),
        *counts,
    ]


def _untraced(sandbox: layout.Sandbox) -> layout.Sandbox:
    """Without the tracer: the gateway's functions have none, so the times are comparable."""
    environment = {**sandbox.environment, "POWERTOOLS_TRACE_DISABLED": "true"}
    return layout.Sandbox(sandbox.handler, sandbox.path, environment, sandbox.python)


def _known(name: str) -> str:
    """The order of which a process makes all its refunds."""
    return f"KNOWN-{name}"


def _refunds(stub: Stub, refunds: dict[str, Process], orders: _Orders, upstream: float) -> dict[str, list[float]]:
    opened = iter(orders.opened(WARM_ROUNDS * CALLS_A_BLOCK))
    events: dict[str, Callable[[], warm.Event]] = {
        name: partial(warm.refund_event, _known(name)) for name in refunds if name != "elsewhere"
    }
    events["elsewhere"] = lambda: warm.refund_event(next(opened))
    stub.set_latencies(upstream=upstream)
    return warm.blocks(refunds, events, WARM_ROUNDS, CALLS_A_BLOCK)


def _counted(stub: Stub, refunds: dict[str, Process], orders: _Orders) -> list[Figure]:
    opened = orders.opened(COUNTED_CALLS)
    stub.set_latencies(upstream=0.0)

    def series(name: str, wanted: Sequence[str]) -> list[float]:
        events = [warm.refund_event(order) for order in wanted]
        return [in_series(warm.to_aws(warm.calls_of(stub, refunds[name], event))) for event in events]

    known = {name: series(name, [_known(name)] * COUNTED_CALLS) for name in refunds}
    elsewhere = series("elsewhere", opened)
    # What the documentation of the comparison says.
    for name, calls in (("floor", 2), ("usual", 5), ("plain", 0)):
        if set(known[name]) != {calls}:
            raise UnexpectedAnswer(f"{name} makes {known[name]} calls to AWS for a refund instead of {calls}")

    def figure(key: str, title: str, samples: list[float], bound: float | None) -> Figure:
        value, ours = Spread.worst(samples), bound is not None
        return Figure(f"warm/calls-{key}", WARM, title, "calls", value, "in series", bound, is_ours=ours)

    return [
        figure("known", "refund: calls to AWS", known["ours"], 2),
        figure("elsewhere", "… of an order that another process opened", elsewhere, 3),
        figure("usual", "… the usual way", known["usual"], None),
    ]


# ---- batches


def batches(places: Layout, model: Model, stub: Stub, progress: Progress) -> list[Figure]:
    api, worker = places.function(model, "RefundApiFunction"), places.function(model, "RefundWorkerFunction")
    many: list[float] = []
    one: list[float] = []
    conflicts: list[float] = []
    with Process(api) as opener, Process(worker) as process:
        orders = _Orders(stub, opener)

        def work(wanted: list[str]) -> float:
            stub.set_latencies(upstream=BATCH_UPSTREAM_SECONDS)
            stub.take_calls()
            (seconds,) = process.call([warm.batch_event(wanted)])
            return seconds

        work(orders.opened(BATCH))  # connects, and reads the secret
        for number in range(BATCH_ROUNDS):
            progress(f"batches of ten orders, {number + 1} of {BATCH_ROUNDS}")
            many.append(work(orders.opened(BATCH)))
        for number in range(ONE_ORDER_ROUNDS):
            progress(f"batches of one order, {number + 1} of {ONE_ORDER_ROUNDS}")
            one.append(work(orders.opened(1) * BATCH))
            conflicts.append(warm.most_conflicts(stub.take_calls()))

    def figure(key: str, title: str, samples: list[float], calls: int, bound: float) -> Figure:
        value = Spread.of([seconds / (calls * BATCH_UPSTREAM_SECONDS) for seconds in samples])
        measured = Spread.of([seconds * 1000 for seconds in samples])
        over = "one call" if calls == 1 else f"{calls} calls"
        return Figure(f"batch/{key}", BATCHES, title, "×", value, over, bound, measured)

    return [
        figure("many", "of 10 orders", many, 1, 1.5),
        figure("one", "of one order", one, BATCH, 1.1),
        Figure(
            "batch/conflicts", BATCHES, "… conflicts, at worst", "conflicts", Spread.worst(conflicts), "a refund", 1
        ),
    ]


# ---- signing, memory, size, secrets


def weights(places: Layout, model: Model, stub: Stub, progress: Progress) -> list[Figure]:
    progress("signing, memory, size, secrets")
    signing = _signing_microseconds(places, model)
    workers, floors = _peak_memory(places, model, stub)
    deployed, usual = places.deployed_bytes(), layout.usual_bytes()
    calls, seconds = warm.secrets_calls(stub, places.function(model, "StatusCheckFunction"), SECRETS_REQUESTS)
    if seconds > SECRETS_WITHIN_SECONDS:
        raise UnexpectedAnswer(
            f"{SECRETS_REQUESTS} requests took {seconds:.0f} s, more than {SECRETS_WITHIN_SECONDS:.0f} s"
        )
    size = Spread.of([deployed / usual])
    return [
        Figure("signing", WEIGHT, "signing a request", "µs", signing, bound=10, machine_dependent=True),
        Figure(
            *("memory", WEIGHT, "worker's memory with 10 in flight", "×", Spread.of(ratios(workers, floors)), "F", 1.3),
            *(Spread.of(workers), "MiB"),
        ),
        Figure(
            *("size", WEIGHT, "size of all that is deployed", "×", size, "pip's packages", 0.60),
            *(Spread.of([deployed / 1e6]), "MB"),
        ),
        Figure("secrets", WEIGHT, "reading the secret", "calls", Spread.of([calls]), "in 1,000 requests", 1),
    ]


def _signing_microseconds(places: Layout, model: Model) -> Spread:
    script = str(layout.SUBJECTS / "sign_many.py")
    arguments = places.function(model, "RefundApiFunction").arguments(script)
    printed = subprocess.run(**arguments, capture_output=True, check=True).stdout
    return Spread.of(json.loads(printed))


def _peak_memory(places: Layout, model: Model, stub: Stub) -> tuple[list[float], list[float]]:
    """In MiB, of the worker with a batch of ten orders, and of F."""
    workers, floors = [], []
    api, worker = places.function(model, "RefundApiFunction"), places.function(model, "RefundWorkerFunction")
    with Process(api) as opener:
        orders = _Orders(stub, opener)
        for _ in range(MEMORY_ROUNDS):
            with Process(places.floor(model, "clients:session")) as floor:
                floor.call([])
                floors.append(floor.peak_mib)
            opened = orders.opened(BATCH)
            stub.set_latencies(upstream=BATCH_UPSTREAM_SECONDS)
            with Process(worker) as process:
                process.call([warm.batch_event(opened)])
                workers.append(process.peak_mib)
    return workers, floors


# ---- the stub itself


def stub_lateness_microseconds(stub: Stub) -> Spread:
    """How much later than the configured latency an answer of the stub arrives at a plain socket."""
    stub.set_latencies(upstream=CALL_SECONDS)
    address = urlsplit(stub.url)
    request = b"GET /check_status?merchantOrderId=A HTTP/1.1\r\n\r\n"
    late = []
    with socket.create_connection((str(address.hostname), int(address.port or 80))) as connection:
        for _ in range(STUB_CALLS):
            began = time.perf_counter()
            connection.sendall(request)
            connection.recv(65_536)
            late.append((time.perf_counter() - began - CALL_SECONDS) * 1e6)
    stub.take_calls()
    return Spread.of(late)
