"""The artifact that `sam build` makes, in the Lambda runtime: by `sam local invoke`, `start-api` and `start-lambda`.

`make test-docker` runs it. Where no Docker engine answers it fails and says so: it never passes without having run.

What `start-api` can prove is little: it runs no JWT authorizer and invokes the functions without a caller's claims
(samcli/commands/local/lib/swagger/parser.py: "only add authorizer if it is Lambda token or request based (not jwt)"),
and so they refuse everything but the health check, as they must. What callers with tokens get, the same functions
answer through the local gateway, which does what API Gateway's authorizer does, and `sam local start-lambda`.
"""

from __future__ import annotations

import http.client
import json
import runpy
from collections.abc import Iterator
from typing import Any
from urllib.parse import quote

import pytest

from devstack.template import Route, Template
from testkit.processes import ROOT, until
from tests.docker import sam
from tests.docker.invocations import INVOCATIONS, WAIT_SECONDS
from tests.docker.sam import SamStack, Service
from tests.e2e.stack import path

MODEL = Template.load_local().model()
HEALTH = "GET /v1/health"
SYMBOLS = "%41+b&c@d:e^f!$=._-"  # with what Indodana allows in an order's id, and URLs don't
TRIM = runpy.run_path(str(ROOT / "layers" / "indodana" / "trim.py"))


@pytest.fixture(scope="session")
def built() -> None:
    sam.build()


@pytest.fixture(scope="session")
def stack(built: None, tmp_path_factory: pytest.TempPathFactory) -> Iterator[SamStack]:
    with sam.stack(tmp_path_factory.mktemp("sam")) as stack:
        # The emulator counts a container's start as the function's time (Lambda gives the init phase its own), and a
        # refund is not sent where too little of it is left. So what moves money is awake before it is asked to.
        stack.functions.invoke("RefundWorkerFunction", {"Records": []})
        assert stack.call("GET", "/v1/refunds?status=UNKNOWN").status == 200
        yield stack


@pytest.fixture(scope="session")
def start_api(stack: SamStack) -> Iterator[Service]:
    # What is called at AWS from here on, start-api's containers call.
    assert until(stack.messages, lambda left: left == 0, WAIT_SECONDS) == 0
    with Service("start-api", stack.directory, stack.environment_file) as service:
        yield service


@pytest.fixture(autouse=True)
def no_faults(stack: SamStack) -> Iterator[None]:
    yield
    stack.simulator.clear_faults()


# ---- sam local invoke: every function, each in a cold container of its own


@pytest.mark.parametrize("function", INVOCATIONS)
def test_a_function_answers_sam_local_invoke(
    stack: SamStack, unknown_refund: str, init_milliseconds: dict[str, float], function: str
) -> None:
    assert stack.status("ORDER-PAID").status == 200  # which is on record, for the timeline
    event, holds = INVOCATIONS[function]

    invocation = sam.invoke(function, event, stack.environment_file)

    holds(stack, invocation.answer)
    init_milliseconds[function] = invocation.init_milliseconds


@pytest.fixture(scope="session")
def unknown_refund(stack: SamStack) -> str:
    order = stack.order()
    stack.simulator.fault("error_after", path="order_cancellation", merchant_order_id=order, times=1)
    stack.refund(order, 1000)
    # UNKNOWN at once, or after the queue has sent it: where the machine was so slow that no time was left to.
    assert states(stack, order, ["UNKNOWN"]) == ["UNKNOWN"]
    return order


@pytest.fixture(scope="session")
def init_milliseconds(pytestconfig: pytest.Config) -> Iterator[dict[str, float]]:
    """By function; said at the end, whether it went well or not."""
    measured: dict[str, float] = {}
    yield measured
    capture = pytestconfig.pluginmanager.get_plugin("capturemanager")
    assert capture
    terminal = pytestconfig.get_terminal_writer()
    with capture.global_and_fixture_disabled():
        terminal.line("\nInit phase in the Lambda runtime, once each, with as much of a processor as was free here:")
        for function, milliseconds in measured.items():
            terminal.line(f"  {function:<22}{milliseconds:7.0f} ms")


# ---- sam local start-lambda behind the local gateway: callers with tokens


def test_every_route_is_answered_for_an_order_id_that_must_be_encoded(stack: SamStack) -> None:
    order = stack.order(order_id=f"1{SYMBOLS}")
    assert quote(order, safe="") != order

    assert stack.status(order).body["transactionStatus"] == "PAID"
    made = stack.refund(order, 25_000)
    assert (made.status, made.body["status"], made.body["merchantOrderId"]) == (201, "SUCCEEDED", order)
    assert stack.call("GET", made.headers["location"]).body == made.body
    assert stack.refunds(order)["refunds"] == [made.body]

    stack.simulator.fault("error_after", path="order_cancellation", merchant_order_id=order, times=1)
    stack.refund(order, 10_000)
    assert states(stack, order, ["SUCCEEDED", "UNKNOWN"]) == ["SUCCEEDED", "UNKNOWN"]
    unknown = stack.refunds(order)["refunds"][1]
    assert unknown in stack.call("GET", "/v1/refunds?status=UNKNOWN").body["refunds"]
    resolved = stack.resolve(unknown, "SUCCEEDED")
    assert (resolved.status, resolved.body["status"]) == (200, "SUCCEEDED")

    assert stack.audit(order)[-1]["action"] == "REFUND_RESOLVED"
    assert stack.simulator.moved("m1", order) == 35_000
    waiting = stack.refund(order, 1000, later=True).body
    target = f"{path(order)}/refunds/{waiting['refundId']}/withdrawal"
    assert stack.call("POST", target, headers={"If-Match": f'"{waiting["version"]}"'}).status in (200, 409, 412)
    assert stack.functions.routes | {HEALTH} == {route.key for route in MODEL.routes}
    assert sam.runs_what_was_built(stack.functions.service.output)


def test_no_function_hears_of_a_caller_without_a_good_token(stack: SamStack) -> None:
    order = stack.order()
    stack.functions.routes.clear()

    assert stack.refund(order, 1000, token=None).status == 401
    assert stack.refund(order, 1000, token=stack.token("refunds:write", audience="another")).status == 401
    assert stack.refund(order, 1000, token=stack.token("refunds:write", ttl_seconds=-1)).status == 401
    assert stack.refund(order, 1000, token=stack.token("refunds:read")).status == 403
    assert stack.functions.routes == set()


def test_a_token_without_merchant_is_refused_and_others_find_nothing(stack: SamStack) -> None:
    refund = stack.refund(stack.order(), 1000)
    scopes = stack.model.scopes

    assert stack.call("GET", refund.headers["location"], token=stack.token(*scopes, merchant=None)).status == 403
    assert stack.call("GET", refund.headers["location"], token=stack.token(*scopes, merchant="m2")).status == 404


def test_a_refund_repeated_with_the_same_key_moves_money_once(stack: SamStack) -> None:
    order = stack.order(100_000)

    first = stack.refund(order, 60_000, key="till-1")
    again = stack.refund(order, 60_000, key="till-1")

    assert (first.status, again.status, again.body) == (201, 201, first.body)
    assert again.headers["idempotency-replayed"] == "true"
    assert stack.refund(order, 60_000, key="till-2").status == 422
    assert stack.simulator.moved("m1", order) == 60_000
    sums = stack.refunds(order)
    assert (sums["refunded"], sums["refundable"]) == (60_000, 40_000)


def test_an_outage_only_delays_a_refund(stack: SamStack) -> None:
    order = stack.order()
    stack.simulator.fault("refuse_connections")

    queued = stack.refund(order, 5000)
    assert (queued.status, queued.body["status"]) == (202, "QUEUED")
    # The worker has tried in vain, and noted when it is due again.
    assert until(lambda: attempts(stack, order), lambda count: count > 0, WAIT_SECONDS) > 0
    stack.simulator.clear_faults()

    # Sooner than the queue's own visibility timeout: the worker hid the message for as long as the refund waits.
    assert states(stack, order, ["SUCCEEDED"]) == ["SUCCEEDED"]
    assert stack.simulator.moved("m1", order) == 5000


def test_aws_operations_of_the_build_are_all_called_from_a_container(stack: SamStack) -> None:
    """tests/build/test_build.py holds them to those that the code calls. That they work, the tests above would miss."""
    order, later = stack.order(), stack.order()

    stack.status(order)  # GetSecretValue, PutItem
    stack.refund(order, 1000)  # BatchGetItem, TransactWriteItems
    stack.refunds(order)  # Query
    stack.simulator.fault("refuse_connections")
    stack.refund(later, 1000, later=True)  # SendMessage; the worker: UpdateItem, ChangeMessageVisibility
    schedule = json.loads((ROOT / "events/recovery/schedule.json").read_text())
    known = {name for operations in TRIM["OPERATIONS"].values() for name in operations}

    def not_called() -> set[str]:
        stack.wait_in_vain(later)
        stack.functions.invoke("RecoveryFunction", schedule)  # Scan, ReceiveMessage, SendMessageBatch
        return known - called(stack)

    assert until(not_called, lambda missing: not missing, WAIT_SECONDS) == set()
    assert called(stack) == known


# ---- sam local start-api: no authorizer, so no caller


@pytest.mark.parametrize("route", MODEL.routes, ids=lambda route: route.key)
def test_start_api_routes_reach_functions_that_refuse_without_claims(
    start_api: Service, stack: SamStack, route: Route
) -> None:
    before = len(stack.operations)
    heard = len(start_api.output)

    status, media_type, text = ask(start_api, stack, route)

    assert f"Invoking {MODEL.functions[route.function].handler}" in start_api.output[heard:]
    assert sam.runs_what_was_built(start_api.output)
    if route.key == HEALTH:
        assert (status, text) == (204, "")
        return
    assert (status, media_type, json.loads(text)["code"]) == (403, "application/problem+json", "FORBIDDEN")
    assert route.key in logged(start_api.output[heard:], "route")
    assert [target.rpartition(".")[2] for target in stack.operations[before:]] == ["PutItem"]  # that it was refused


def ask(start_api: Service, stack: SamStack, route: Route) -> tuple[int, str | None, str]:
    target = route.path.replace("{merchantOrderId}", quote(f"2{SYMBOLS}", safe="")).replace("{refundId}", "0" * 32)
    headers = {"Authorization": f"Bearer {stack.info['token']}", "Idempotency-Key": "start-api"}
    refund = json.dumps({"reason": "OTHERS", "requestedBy": "till 3"}) if route.method == "POST" else None
    connection = http.client.HTTPConnection("127.0.0.1", start_api.port, timeout=sam.INVOKE_SECONDS)
    try:
        connection.request(route.method, target, refund, headers)
        answer = connection.getresponse()
        return answer.status, answer.getheader("content-type"), answer.read().decode()
    finally:
        connection.close()


# ---- reading


def states(stack: SamStack, order: str, expected: list[str]) -> list[str]:
    """Of the order's refunds, once they are as expected, or what they were when the time was up."""
    return until(lambda: stack.states(order), lambda seen: seen == expected, WAIT_SECONDS)


def attempts(stack: SamStack, order: str) -> int:
    items = [item for item in stack.items("ledgerTable") if item.get("merchantOrderId") == {"S": order}]
    return sum(int(item["attempts"]["N"]) for item in items)


def called(stack: SamStack) -> set[str]:
    """Of AWS, by containers."""
    return {target.rpartition(".")[2] for target in stack.operations}


def logged(output: str, field: str) -> list[Any]:
    """Of the functions' log lines, which are JSON, among what else is written there."""
    return [json.loads(line).get(field) for line in output.splitlines() if line.startswith('{"level"')]
