"""`make run` from outside: a process, its address, its token, its queue. Everything works as the documents say."""

from __future__ import annotations

import functools
import json
import re
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest

from devstack.template import Route, Template
from devstack.tokens import Issuer
from testkit.http_caller import Answer
from testkit.indodana.control_client import SimulatorControl
from testkit.indodana.simulator import LOCAL_MERCHANTS, Simulator
from testkit.processes import ROOT, Program, until
from tests.e2e.stack import Stack, path

PROMISED_KEYS = {
    "baseUrl", "token", "issuer", "simulatorUrl", "awsEndpointUrl", "queueUrl", "deadLetterQueueUrl", "ledgerTable",
    "auditTable", "secretName",
}  # fmt: skip
MODEL = Template.load_local().model()
STOPS_WITHIN_SECONDS = 5.0
CUSTOMER = "Siti Rahmawati"  # as the simulator's orders have it


@pytest.fixture(scope="module")
def stack(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Stack]:
    # A path that a shell would take apart if the banner did not quote it.
    with Stack(tmp_path_factory.mktemp("stack") / "local files") as stack:
        yield stack


def calls(route: Route) -> tuple[str, str]:
    return route.method, route.path.replace("{merchantOrderId}", "ORDER-PAID").replace("{refundId}", "0" * 32)


# ---- what it says of itself


def test_stack_json_has_the_promised_keys_and_is_private(stack: Stack) -> None:
    assert set(stack.info) == PROMISED_KEYS
    assert all(stack.info.values())
    assert (stack.directory / "stack.json").stat().st_mode & 0o077 == 0
    assert stack.info["token"] not in stack.output


@pytest.mark.parametrize("shell", ["bash", "sh"])
def test_banners_curl_commands_work_when_pasted(stack: Stack, shell: str) -> None:
    commands = re.findall(r"^ +(curl .+)$", stack.output, re.MULTILINE)
    assert len(commands) == 4

    done = subprocess.run([shell], input="\n".join(commands), capture_output=True, text=True, cwd=ROOT, timeout=60)

    assert (done.returncode, done.stderr) == (0, "")
    status, refund, refunds, audit = (json.loads(line) for line in done.stdout.splitlines())
    assert status["transactionStatus"] == "PAID"
    assert (refund["status"], refund["amount"]) == ("SUCCEEDED", 25_000)
    assert (refunds["refunded"], refunds["refundable"]) == (25_000, 75_000)
    assert {record["action"] for record in audit["records"]} >= {"STATUS_CHECKED", "REFUND_SUCCEEDED"}
    assert stack.simulator.moved("m1", "ORDER-PAID") == 25_000


def test_make_token_prints_a_token_with_given_scopes_and_merchant(stack: Stack) -> None:
    make = ["make", "-s", f"PY={sys.executable}", "-o", ".venv/.installed", "token"]
    wanted = ["SCOPES=transactions:read refunds:read", "MERCHANT=m2"]
    environment = {"LOCAL_DIR": str(stack.directory), "PATH": "/usr/bin:/bin"}

    done = subprocess.run(make + wanted, capture_output=True, text=True, cwd=ROOT, env=environment, timeout=60)

    assert (done.returncode, done.stderr) == (0, "")
    token = done.stdout.removesuffix("\n")
    stack.simulator.add_order("ONLY-OF-M2", 7000, "PAID", "m2")
    assert stack.status("ONLY-OF-M2", token=token).body["amount"] == 7000
    assert stack.status("ONLY-OF-M2").status == 404
    assert stack.refund("ONLY-OF-M2", 1, token=token).status == 403


# ---- who may call


def test_health_route_is_open_and_says_nothing(stack: Stack) -> None:
    assert [route.key for route in MODEL.routes if not route.authorizer] == ["GET /v1/health"]
    answer = stack.call("GET", "/v1/health", token=None)
    assert (answer.status, answer.text) == (204, "")


@pytest.mark.parametrize("route", [route for route in MODEL.routes if route.authorizer], ids=lambda route: route.key)
def test_route_requires_a_valid_token_with_its_scope(stack: Stack, route: Route, tmp_path: Path) -> None:
    others = [scope for scope in MODEL.scopes if scope not in route.scopes]
    stranger = Issuer(stack.info["issuer"], tmp_path)
    audience = route.authorizer.audience[0] if route.authorizer else ""
    untrusted = {
        "none": None,
        "no token": "nonsense",
        "expired": stack.token(*MODEL.scopes, ttl_seconds=-1),
        "of another audience": stack.token(*MODEL.scopes, audience="somebody-else"),
        "of another issuer": stack.token(*MODEL.scopes, claims={"iss": "https://issuer.example"}),
        "of another key": stranger.token(MODEL.scopes, audience=audience, merchant="m1"),
    }
    before = len(stack.simulator.books()["requests"])

    answers = {name: stack.call(*calls(route), token=token) for name, token in untrusted.items()}

    assert {name: answer.status for name, answer in answers.items()} == dict.fromkeys(untrusted, 401)
    assert all("www-authenticate" in answer.headers for answer in answers.values())
    assert stack.call(*calls(route), token=stack.token(*others)).status == 403
    assert stack.call(*calls(route), token=stack.token(*MODEL.scopes, merchant=None)).status == 403
    assert len(stack.simulator.books()["requests"]) == before
    assert stack.call(*calls(route), token=stack.token(*route.scopes)).status not in (401, 403)


# ---- status and refunds


@pytest.mark.parametrize("status", ["PAID", "INITIATED", "EXPIRED", "REJECTED", "SOMETHING_NEW"])
def test_status_is_answered_as_indodana_has_it(stack: Stack, status: str) -> None:
    order = stack.order(45_000, status)

    answer = stack.status(order)

    assert (answer.status, answer.body["transactionStatus"], answer.body["amount"]) == (200, status, 45_000)
    assert answer.body["legalName"] == CUSTOMER


def test_unknown_order_is_404(stack: Stack) -> None:
    assert stack.status("NO-SUCH-ORDER").body["code"] == "ORDER_NOT_FOUND"
    assert stack.refund("NO-SUCH-ORDER", 1).status == 404


def test_repeated_request_moves_money_once(stack: Stack) -> None:
    order = stack.order()

    first, again = (stack.refund(order, 60_000, key="return-1") for _ in range(2))

    assert (first.status, again.status, again.body) == (201, 201, first.body)
    assert again.headers["idempotency-replayed"] == "true"
    assert stack.call("GET", first.headers["location"]).body == first.body
    assert stack.refund(order, 60_000).body["code"] == "AMOUNT_EXCEEDS_REFUNDABLE"
    assert stack.simulator.moved("m1", order) == 60_000


def test_redelivered_message_moves_money_once(stack: Stack) -> None:
    order = stack.order()
    message = stack.message(order, 60_000, "b-1")

    for _ in range(3):
        stack.send(message)
        assert until(stack.messages, lambda left: left == 0) == 0

    assert stack.states(order) == ["SUCCEEDED"]
    assert len(stack.simulator.books(order)["movements"]) == 1
    # The API knows it as the same refund, too.
    replayed = stack.call(
        "POST",
        f"{path(order)}/refunds",
        {"amount": 60_000, "reason": "OTHERS", "requestedBy": "back office"},
        headers={"Idempotency-Key": "b-1"},
    )
    assert (replayed.status, replayed.headers.get("idempotency-replayed")) == (201, "true")
    assert stack.simulator.moved("m1", order) == 60_000


def test_fifty_refunds_of_60_percent_at_once_move_money_once(stack: Stack) -> None:
    order = stack.order(100_000)
    stack.simulator.fault("slow", path="order_cancellation", merchant_order_id=order, seconds=0.3)

    with ThreadPoolExecutor(50) as pool:
        answers = list(pool.map(lambda number: stack.refund(order, 60_000, key=f"till-{number}"), range(50)))

    # Whoever had to wait for Indodana's status is queued, and refused later; nobody gets a server error.
    assert {answer.status for answer in answers} <= {201, 202, 422}
    until(lambda: stack.states(order), lambda states: not {"QUEUED", "SUBMITTING"} & set(states))
    refunds = stack.refunds(order)
    assert [refund["status"] for refund in refunds["refunds"]].count("SUCCEEDED") == 1
    assert (refunds["refunded"], refunds["reserved"], refunds["refundable"]) == (60_000, 0, 40_000)
    [movement] = stack.simulator.books(order)["movements"]
    assert movement["amount"] == 60_000


def test_fifty_messages_for_60_percent_move_money_once(stack: Stack) -> None:
    order = stack.order(100_000)

    with ThreadPoolExecutor(10) as pool:
        list(pool.map(lambda number: stack.send(stack.message(order, 60_000, f"b-{number}")), range(50)))

    assert until(stack.messages, lambda left: left == 0) == 0
    assert sorted(stack.states(order)) == ["FAILED"] * 49 + ["SUCCEEDED"]
    assert stack.simulator.moved("m1", order) == 60_000


def test_respond_async_is_accepted_and_done_by_the_queue(stack: Stack) -> None:
    order = stack.order()

    accepted = stack.refund(order, 5000, later=True)

    assert (accepted.status, accepted.body["status"]) == (202, "QUEUED")
    assert until(lambda: stack.states(order), lambda states: states == ["SUCCEEDED"]) == ["SUCCEEDED"]
    assert stack.call("GET", accepted.headers["location"]).body["amount"] == 5000
    assert stack.simulator.moved("m1", order) == 5000


def test_correlation_id_leads_to_log_lines_and_audit_records(stack: Stack) -> None:
    asked, sent = stack.order(), stack.order()
    body = {"amount": 5000, "reason": "OTHERS", "requestedBy": "till 3"}
    headers = {"Idempotency-Key": "k", "Prefer": "respond-async", "X-Correlation-Id": "till-3/sale-4711"}
    message = json.dumps(stack.message(sent, 1000, "k"))
    attribute = {"correlationId": {"DataType": "String", "StringValue": "batch-7/line-3"}}

    answer = stack.call("POST", f"{path(asked)}/refunds", body, headers=headers)
    stack.sqs.send_message(QueueUrl=stack.info["queueUrl"], MessageBody=message, MessageAttributes=attribute)

    assert answer.headers["x-correlation-id"] == "till-3/sale-4711"
    for order, known_as in ((asked, "till-3/sale-4711"), (sent, "batch-7/line-3")):
        assert until(functools.partial(stack.states, order), ["SUCCEEDED"].__eq__) == ["SUCCEEDED"]
        assert {record["correlationId"] for record in stack.audit(order)} == {known_as}
    log = (stack.directory / "functions.log").read_text(encoding="utf-8")
    lines = [json.loads(line) for line in log.splitlines() if line.startswith("{")]
    logged = {(line.get("correlation_id"), line["message"]) for line in lines if "message" in line}
    assert {(known_as, said) for known_as, said in logged if known_as in ("till-3/sale-4711", "batch-7/line-3")} == {
        ("till-3/sale-4711", "request"),
        ("till-3/sale-4711", "refund"),
        ("batch-7/line-3", "refund"),
    }


def test_invalid_message_is_a_dead_letter_on_record_and_stops_no_other(stack: Stack) -> None:
    stack.dead_letters()
    order = stack.order()
    poison = ["not JSON", json.dumps({"merchantOrderId": order, "amount": -1}), json.dumps(["a", "list"])]

    for body in poison:
        stack.send(body)
    stack.send(stack.message(order, 1000, "good"))

    letters: list[Any] = []

    def received() -> int:
        letters.extend(stack.dead_letters())
        return len(letters)

    assert until(received, lambda count: count >= len(poison)) == len(poison)
    assert sorted(letter["Body"] for letter in letters) == sorted(poison)
    assert all(letter["MessageAttributes"]["cause"]["StringValue"] for letter in letters)
    assert until(lambda: stack.states(order), lambda states: states == ["SUCCEEDED"]) == ["SUCCEEDED"]
    records = [item for item in stack.items("auditTable") if item["action"]["S"] == "MESSAGE_DEAD_LETTERED"]
    assert {record["messageId"]["S"] for record in records} >= {
        letter["MessageAttributes"]["originalMessageId"]["StringValue"] for letter in letters
    }
    [named] = [record for record in stack.audit(order) if record["action"] == "MESSAGE_DEAD_LETTERED"]
    assert "amount" in named["cause"]


# ---- paths


def test_encoded_slash_is_a_bad_order_id_and_not_another_path(stack: Stack) -> None:
    for method, end in (("GET", ""), ("GET", "/refunds"), ("POST", "/refunds"), ("GET", "/audit")):
        answer = stack.call(method, f"/v1/transactions/A%2FB{end}", {} if method == "POST" else None)
        assert (answer.status, answer.body["errors"][0]["field"]) == (400, "merchantOrderId")


def test_percent_sign_in_an_order_id_is_decoded_once(stack: Stack) -> None:
    order = stack.order(order_id="50%25OFF")

    assert stack.call("GET", "/v1/transactions/50%2525OFF").body["merchantOrderId"] == order
    refund = stack.refund(order, 1000)
    assert refund.headers["location"].startswith("/v1/transactions/50%2525OFF/refunds/")
    assert stack.call("GET", refund.headers["location"]).body["merchantOrderId"] == order
    assert stack.call("GET", "/v1/transactions/50%").status == 400


# ---- another upstream, or none


def test_upstream_url_uses_another_indodana_and_its_outage_queues_refunds(tmp_path: Path) -> None:
    indodana = Simulator().start()
    books = SimulatorControl(indodana.control_url)
    try:
        with Stack(tmp_path, {"UPSTREAM_URL": indodana.upstream_url}) as stack:
            assert set(stack.info) == PROMISED_KEYS
            assert stack.info["simulatorUrl"] is None
            assert stack.refund("ORDER-PAID", 25_000).status == 201
            assert books.moved("m1", "ORDER-PAID") == 25_000
            books.add_order("NEW", 9000)

            indodana.stop()

            assert stack.status("NEW").status == 502
            queued = [
                stack.refund("NEW", 4000),
                stack.refund("ORDER-PAID", 1000),
                stack.refund("NEW", 5000, later=True),
            ]
            assert [(answer.status, answer.body["status"]) for answer in queued] == [(202, "QUEUED")] * 3

            indodana.start()

            for order in ("NEW", "ORDER-PAID"):
                done = ["SUCCEEDED", "SUCCEEDED"]
                assert until(functools.partial(stack.states, order), done.__eq__) == done
            assert books.moved("m1", "NEW") == 9000
            assert books.moved("m1", "ORDER-PAID") == 26_000
    finally:
        indodana.stop()


# ---- starting and stopping


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_signal_ends_the_stack_after_requests_in_flight_are_answered(tmp_path: Path, number: int) -> None:
    with Stack(tmp_path) as stack:
        order = stack.order()
        stack.simulator.fault("slow", path="order_cancellation", merchant_order_id=order, seconds=1.5)
        with ThreadPoolExecutor(1) as pool:
            answer = pool.submit(stack.refund, order, 1000)
            until(lambda: stack.simulator.books(order)["movements"], bool)
            started = time.monotonic()

            assert stack.stop(number) == 0

            assert time.monotonic() - started < STOPS_WITHIN_SECONDS
            assert answer.result().status == 201
        assert "Traceback" not in stack.output
        assert not (tmp_path / "stack.json").exists()
        assert not (tmp_path / "token").exists()


def test_taken_port_is_one_line_and_harms_no_other_stack(stack: Stack) -> None:
    port = stack.info["baseUrl"].rpartition(":")[2]
    environment = {"PORT": port, "LOCAL_DIR": str(stack.directory)}

    with Program(stack.directory, "devstack", environment=environment) as second:
        assert second.wait() == 1

    [line] = second.output.splitlines()
    assert port in line
    assert json.loads((stack.directory / "stack.json").read_text()) == stack.info
    assert stack.status("ORDER-PAID").status == 200


@pytest.mark.parametrize("name", ["PORT", "UPSTREAM_URL", "AWS_ENDPOINT_URL"])
def test_invalid_setting_is_named_in_one_line(tmp_path: Path, name: str) -> None:
    with Program(tmp_path, "devstack", environment={"LOCAL_DIR": str(tmp_path), name: "nonsense"}) as program:
        assert program.wait() == 1
    [line] = program.output.splitlines()
    assert name in line


NEW_FUNCTION = """\
  GreetingFunction:
    Type: AWS::Serverless::Function
    Properties:
      Handler: greeting.lambda_handler
      Events:
        Greet:
          Type: HttpApi
          Properties:
            ApiId: !Ref Api
            Method: GET
            Path: /v1/greetings/{name}

Outputs:
"""
END_OF_ROUTES = "          # END routes\n"
NEW_ROUTE = """\
          /v1/greetings/{name}:
            get:
              security: [{ Jwt: [greetings:read] }]
"""


def test_route_added_to_the_template_works_with_no_other_change(tmp_path: Path) -> None:
    root = tmp_path / "copy"
    for folder in ("devstack", "functions", "layers", "testkit"):
        shutil.copytree(ROOT / folder, root / folder, ignore=shutil.ignore_patterns("__pycache__"))
    shutil.copy(ROOT / "samconfig.toml", root)
    text = (ROOT / "template.yaml").read_text()
    assert text.count("\nOutputs:\n") == text.count(END_OF_ROUTES) == 1
    text = text.replace("\nOutputs:\n", f"\n{NEW_FUNCTION}").replace(END_OF_ROUTES, f"{NEW_ROUTE}{END_OF_ROUTES}")
    (root / "template.yaml").write_text(text)
    (root / "functions" / "greeting.py").write_text(
        "def lambda_handler(event, context):\n"
        "    return {'statusCode': 200, 'body': f\"hello, {event['pathParameters']['name']}\"}\n"
    )

    with Stack(tmp_path / "local", root=root) as stack:
        assert stack.call("GET", "/v1/greetings/maya").text == "hello, maya"
        assert stack.call("GET", "/v1/greetings/maya", token=stack.token("refunds:read")).status == 403
        assert stack.refund("ORDER-PAID", 1000).status == 201


# ---- what stands in no log


def test_no_secret_and_no_personal_data_is_logged_or_recorded(stack: Stack) -> None:
    """Last, for it reads what all the tests before it left behind; and does on its own what would show."""
    order = stack.order()
    status = stack.status(order).body
    assert status["legalName"] == CUSTOMER
    token = stack.token(*MODEL.scopes)
    stack.status(order, token=token)
    for fault in ("unauthorized", "error_after", "html_after", "ok_error", "truncated_after", "conflict"):
        stack.simulator.fault(fault, merchant_order_id=order, times=1)
        _sent(stack.refund(order, 100, token=token), stack.status(order, token=token))
    stack.send(stack.message(order, 100, "b-1"))
    assert until(stack.messages, lambda left: left == 0) == 0

    files = [file for file in stack.directory.iterdir() if file.name not in ("stack.json", "token", "signing-key.json")]
    assert {file.suffix for file in files} == {".log", ".out"}
    left_behind = {file.name: file.read_text() for file in files}
    left_behind |= {table: json.dumps(stack.items(table)) for table in ("auditTable", "ledgerTable")}

    assert len(left_behind["auditTable"]) > 1000
    assert len(left_behind["functions.log"]) > 1000
    assert "Traceback" not in left_behind["functions.log"] + stack.output
    personal = [CUSTOMER, status["indodanaUserId"]]
    secret = [text for keys in LOCAL_MERCHANTS.values() for text in keys]
    for text in [*personal, *secret, token.rpartition(".")[2], "Bearer ey"]:
        assert [name for name, content in left_behind.items() if text in content] == [], text


def _sent(*answers: Answer) -> None:
    assert all(answer.status < 500 or answer.body["code"].startswith("UPSTREAM") for answer in answers)
