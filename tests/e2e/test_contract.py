"""The local stack answers as docs/openapi.yaml says, whatever it is sent: examples, edges, random input, chains."""

from __future__ import annotations

import json
import re
import subprocess
import sys
from collections import defaultdict
from collections.abc import Iterator
from decimal import Decimal
from html import unescape
from pathlib import Path
from typing import Any

import pytest
import simplejson

from devstack.pages import load, operations
from gateway.core import texts
from gateway.core.inputs import MAX_AMOUNT
from tests.e2e.stack import Stack, path
from tests.openapi import closed, complaints, inlined

CASES_AN_OPERATION = 40  # of random input; the edges of every rule come on top
LIMIT_SECONDS = 240  # for each run, which takes some 20 s on two idle cores

CHECKS = (
    "not_a_server_error",
    "status_code_conformance",
    "content_type_conformance",
    "response_headers_conformance",
    "response_schema_conformance",
    "ignored_auth",
    "negative_data_rejection",
    "missing_required_header",
    "ensure_resource_availability",
    "use_after_free",
    # Left out: positive_data_acceptance. A `nextToken` is good only if a page gave it, a key is good only once, and
    # what is printable stands in Unicode's tables: no schema says so. tests/unit/test_openapi.py compares the two.
    # Left out: unsupported_method and allow_header_conformance. They want 405 and Allow where there is no such route,
    # and API Gateway answers 404.
    # Left out: object_level_authorization. It wants a second caller; tests/integration has one of another merchant.
)

# A decision without If-Match is answered with 428, which schemathesis does not expect.
CONFIGURATION = """
[checks]
missing_required_header.expected-statuses = [400, 428]
"""

# What a refund comes to at Indodana, by order. Without these, random input would hardly find an order that is paid.
ORDERS = PAID, UNKNOWN, WAITING, REFUSED, UNPAID = ("C-PAID", "C-UNKNOWN", "C-WAITING", "C-REFUSED", "C-UNPAID")
NO_ORDER = "C-NONE"
FAULTS: dict[str, dict[str, Any]] = {
    UNKNOWN: {"fault": "error_after"},
    WAITING: {"fault": "rate_limited", "retry_after": 3600},
    REFUSED: {"fault": "refused", "status": 422},
}

# The answers that the run must have met, so that "no failure" means something. That a decision is taken hangs on what
# became of the refund that it meets: a test of its own sees to that.
MUST_MEET = {
    "GET /v1/health": {204},
    "GET /v1/transactions/{merchantOrderId}": {200, 400, 401, 404},
    "POST /v1/transactions/{merchantOrderId}/refunds": {201, 202, 400, 401, 404, 409, 422},
    "GET /v1/transactions/{merchantOrderId}/refunds": {200, 400, 401, 404},
    "GET /v1/transactions/{merchantOrderId}/refunds/{refundId}": {200, 400, 401, 404},
    "POST /v1/transactions/{merchantOrderId}/refunds/{refundId}/withdrawal": {400, 401, 404, 409, 412, 428},
    "POST /v1/transactions/{merchantOrderId}/refunds/{refundId}/resolution": {400, 401, 404, 409, 412, 428},
    "GET /v1/refunds": {200, 400, 401},
    "GET /v1/transactions/{merchantOrderId}/audit": {200, 400, 401},
}


@pytest.fixture(scope="module")
def stack(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Stack]:
    with Stack(tmp_path_factory.mktemp("contract") / ".local") as stack:
        yield stack


def test_the_stack_serves_the_document_and_a_page_to_read(stack: Stack) -> None:
    document = json.loads(stack.call("GET", "/openapi.json", token=None).text, parse_float=Decimal)
    page = stack.call("GET", "/docs", token=None)

    assert document == load() | {"servers": [{"url": stack.info["baseUrl"]}]}
    assert (page.status, page.headers["content-type"]) == (200, "text/html; charset=utf-8")
    assert f"{stack.info['baseUrl']}/docs" in stack.output


def test_the_pages_commands_work_when_pasted(stack: Stack) -> None:
    page = stack.call("GET", "/docs", token=None).text
    commands = [unescape(found) for found in re.findall(r"<pre>(curl .*?)</pre>", page, re.DOTALL)]
    folder = stack.directory.parent
    statuses = [
        subprocess.run(
            ["sh", "-c", f"{command} -o answer -w '%{{http_code}}'"], cwd=folder, stdout=subprocess.PIPE
        ).stdout
        for command in commands
    ]
    # Status; refund, the order's refunds, the one just made, its withdrawal and its resolution (it neither waits nor is
    # UNKNOWN), the work list; audit; health.
    assert statuses == [b"200", b"201", b"200", b"200", b"409", b"409", b"200", b"200", b"204"]


def test_a_decision_that_is_taken_is_answered_as_the_document_says(stack: Stack) -> None:
    waiting, unknown = stack.order(), stack.order()
    stack.simulator.fault("rate_limited", retry_after=3600, path="order_cancellation", merchant_order_id=waiting)
    stack.simulator.fault("error_after", path="order_cancellation", merchant_order_id=unknown)
    queued, unsure = (stack.refund(order, 1000).body for order in (waiting, unknown))

    target = f"{path(waiting)}/refunds/{queued['refundId']}/withdrawal"
    withdrawn = stack.call("POST", target, {"note": "why"}, headers={"If-Match": f'"{queued["version"]}"'})
    answers = {"withdrawRefund": withdrawn, "resolveRefund": stack.resolve(unsure, "SUCCEEDED")}

    described = {found["operationId"]: inlined(found)["responses"]["200"] for _, _, found in operations(load())
                 if found["operationId"] in answers}  # fmt: skip
    for name, answer in answers.items():
        assert answer.status == 200, answer.text
        assert complaints(described[name]["content"]["application/json"]["schema"], answer.body) == []
        assert answer.headers["etag"] == f'"{answer.body["version"]}"'
        assert {header.lower() for header in described[name]["headers"]} <= answer.headers.keys()


def test_no_caller_gets_an_answer_that_the_document_does_not_have(stack: Stack, tmp_path: Path) -> None:
    for order in ORDERS:
        stack.simulator.add_order(order, MAX_AMOUNT, "INITIATED" if order == UNPAID else "PAID", "m1")
    for order, fault in FAULTS.items():
        stack.simulator.fault(path="order_cancellation", merchant_order_id=order, **fault)

    met: dict[str, set[int]] = defaultdict(set)
    for run in (
        Run("any-order", drawable(closed(load())), "examples,coverage,fuzzing"),
        # Plain texts, so that more of them are taken.
        Run(
            "these-orders",
            narrowed(drawable(closed(load()))),
            *("fuzzing,stateful", "--mode=positive", "--generation-codec=ascii"),
        ),
    ):
        for route, statuses in run.on(stack, tmp_path).items():
            met[route] |= statuses

    documented = {f"{method} {path}": set(map(int, found["responses"])) for method, path, found in operations(load())}
    assert {route: met[route] - statuses for route, statuses in documented.items() if met[route] - statuses} == {}
    assert {route: statuses - met[route] for route, statuses in MUST_MEET.items() if statuses - met[route]} == {}
    assert "Traceback" not in stack.output + (stack.directory / "functions.log").read_text(encoding="utf-8")
    assert 0 < stack.refunds(PAID)["refunded"] == stack.simulator.moved("m1", PAID)


def drawable(document: dict[str, Any]) -> dict[str, Any]:
    """With one class of characters for people's texts, of which schemathesis makes texts of any length that it wants.
    Of the document's own expressions it draws for minutes until one fits; tests/unit/test_openapi.py compares those.
    """
    schemas = document["components"]["schemas"]
    for name, refused in (
        *(("RefundRequest.note", texts.REFUSED), ("RefundRequest.requestedBy", texts.REFUSED_ON_ONE_LINE)),
        *(("Evidence.note", texts.REFUSED), ("Evidence.reference", texts.REFUSED_ON_ONE_LINE)),
        ("Withdrawal.note", texts.REFUSED),
    ):
        schema, _, field = name.partition(".")
        schemas[schema]["properties"][field]["pattern"] = f"^[^{refused.replace(texts.SURROGATES, '')}]*$"
    return document


def narrowed(document: dict[str, Any]) -> dict[str, Any]:
    """Requests name the orders above, and ask for so little under keys of their own that there is always some left."""
    schemas = document["components"]["schemas"]
    schemas["RequestAmount"]["maximum"] = 1000
    schemas["RefundRequest"]["required"].append("amount")
    schemas["Evidence"]["properties"]["checkedAt"] = {"const": "2020-02-20T20:20:20.000000Z"}  # not yet to come
    order = document["components"]["parameters"]["MerchantOrderId"]
    order |= {"schema": {"enum": [*ORDERS, NO_ORDER]}, "example": PAID}
    for parameter in document["paths"]["/v1/transactions/{merchantOrderId}/refunds"]["post"]["parameters"]:
        parameter.pop("example", None)
    return document


class Run:
    """One run of schemathesis, the same requests every time (as far as they do not follow from answers)."""

    def __init__(self, name: str, document: dict[str, Any], phases: str, *options: str) -> None:
        self._name = name
        self._document = document
        self._options = ("--phases", phases, *options)

    def on(self, stack: Stack, directory: Path) -> dict[str, set[int]]:
        """The statuses that each route answered; fails where a check does."""
        schema, report = directory / f"{self._name}.json", directory / f"{self._name}.ndjson"
        (directory / "schemathesis.toml").write_text(CONFIGURATION, encoding="utf-8")
        schema.write_text(simplejson.dumps(self._document, use_decimal=True), encoding="utf-8")
        done = subprocess.run(
            [
                *(sys.executable, "-m", "schemathesis.cli", "run", str(schema), "--url", stack.info["baseUrl"]),
                *("--checks", ",".join(CHECKS), "--continue-on-failure", "--no-color"),
                *("--header", f"Authorization: Bearer {stack.info['token']}", "--output-sanitize", "false"),
                *("--max-examples", str(CASES_AN_OPERATION), "--generation-deterministic", *self._options),
                *("--report", "ndjson", "--report-ndjson-path", str(report)),
            ],
            cwd=directory,
            capture_output=True,
            text=True,
            timeout=LIMIT_SECONDS,
        )
        assert done.returncode == 0, done.stdout + done.stderr
        return _statuses(report)


def _statuses(report: Path) -> dict[str, set[int]]:
    found: dict[str, set[int]] = defaultdict(set)
    for line in report.read_text(encoding="utf-8").splitlines():
        recorder = json.loads(line).get("ScenarioFinished", {}).get("recorder") or {}
        for case_id, interaction in recorder.get("interactions", {}).items():
            case = recorder["cases"][case_id]["value"]
            if interaction["response"]:
                found[f"{case['method']} {case['path']}"].add(interaction["response"]["status_code"])
    return found
