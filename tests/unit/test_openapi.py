"""docs/openapi.yaml says what the template routes, what the code takes and what it answers; no less and no more."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from copy import deepcopy
from datetime import UTC, datetime
from decimal import Decimal
from functools import cache
from http import HTTPStatus
from pathlib import Path
from re import _parser
from typing import Any

import pytest
import yaml
from hypothesis import example, given
from hypothesis import strategies as st
from jsonschema import Draft202012Validator  # type: ignore[import-untyped]
from openapi_spec_validator import OpenAPIV31SpecValidator

import indodana
from devstack import pages
from devstack.pages import operations
from devstack.template import Route, Template
from gateway.core import audit, inputs, texts
from gateway.core.context import RequestContext
from gateway.core.dynamodb import from_item
from gateway.core.errors import InvalidRequest
from gateway.core.ledger import OrderRefundsPage
from gateway.core.model import (
    EvidenceSource,
    Failure,
    FailureCode,
    Order,
    OrderKey,
    Reason,
    Refund,
    RefundRequest,
    iso,
    new_refund,
)
from gateway.core.transitions import OPEN_STATUSES, RefundStatus
from gateway.core.upstream import UpstreamAnswer
from gateway.http import problems
from gateway.http.requests import CORRELATION_HEADER, Forbidden, PreconditionRequired
from gateway.http.responses import Response, json_response, location, refund_response, refund_view, refunds_view
from gateway.refunds import validation
from tests.openapi import DOCUMENT, closed, complaints, inlined, schema
from tests.problem_cases import DOMAIN, FAILURES, UPSTREAM

ROOT = Path(__file__).parents[2]
GUIDE = (ROOT / "docs/api.md").read_text(encoding="utf-8")
ROUTES = Template.load_local().model().routes
OPERATIONS = {f"{method} {path}": inlined(operation) for method, path, operation in operations(DOCUMENT)}
PROBLEM = "application/problem+json"
ORDER = OrderKey("m1", "A&B")
CONTEXT = RequestContext("back-office", "api", "request-1", sender="AROAEXAMPLE", sender_session="till-3")
AT = datetime(2026, 11, 22, 7, 5, tzinfo=UTC)
FAILURE = Failure(FailureCode.UPSTREAM_REFUSED, "because", 422, "ValidationError", "too late")


def request(**changes: Any) -> RefundRequest:
    given: dict[str, Any] = {
        "amount": Decimal("1000.5"),
        "reason": Reason.OTHERS,
        "note": "a note",
        "requested_by": "rina",
    }
    return RefundRequest(ORDER, "key", **given | changes)


def refund(status: RefundStatus, **changes: Any) -> Refund:
    return new_refund(request(), status, AT, CONTEXT, **changes)


# ---- the document itself


def test_it_is_openapi_3_1() -> None:
    text = (ROOT / "docs" / "openapi.yaml").read_text(encoding="utf-8")
    assert DOCUMENT["openapi"].startswith("3.1.")
    OpenAPIV31SpecValidator(yaml.safe_load(text)).validate()


def test_every_component_is_used() -> None:
    used = set(re.findall(r"#/components/(\w+/[\w-]+)", json.dumps(DOCUMENT, default=str)))
    used |= {
        f"securitySchemes/{name}" for operation in OPERATIONS.values() for use in operation["security"] for name in use
    }
    assert used == {f"{kind}/{name}" for kind, named in DOCUMENT["components"].items() for name in named}


def examples(node: Any, where: str) -> Iterator[tuple[str, Any, Any]]:
    """Where it stands, its schema, the example; of media types, parameters, headers and schemas alike."""
    if isinstance(node, list):
        for index, item in enumerate(node):
            yield from examples(item, f"{where}/{index}")
    if not isinstance(node, dict):
        return
    if isinstance(node.get("schema"), dict):
        if "example" in node:
            yield where, node["schema"], node["example"]
        for name, found in node.get("examples", {}).items():
            yield f"{where} {name}", node["schema"], found["value"]
    elif isinstance(node.get("examples"), list):
        for found in node["examples"]:
            yield where, node, found
    for name, value in node.items():
        if name not in ("example", "examples", "value"):
            yield from examples(value, f"{where}/{name}")


EXAMPLES = [
    *examples(OPERATIONS, ""),
    *examples(inlined(DOCUMENT["components"]["schemas"]), "schemas"),
]


@pytest.mark.parametrize(("where", "rules", "value"), EXAMPLES, ids=[where for where, _, _ in EXAMPLES])
def test_an_example_is_what_it_is_an_example_of(where: str, rules: Any, value: Any) -> None:
    assert complaints(rules, value) == []


@pytest.mark.parametrize("key", OPERATIONS)
def test_an_operation_shows_how_it_is_used_and_what_it_answers(key: str) -> None:
    operation = OPERATIONS[key]
    bodies = [operation["requestBody"]] if "requestBody" in operation else []
    for content in [body["content"]["application/json"] for body in bodies]:
        assert content["examples"]
    for parameter in operation["parameters"]:
        assert not parameter.get("required") or "example" in parameter, parameter["name"]
    for status, answer in operation["responses"].items():
        assert status == "204" or any("examples" in content for content in answer["content"].values()), status


# By the first field of the object.
GUIDE_SHOWS = {"amount": "RefundRequest", "refundId": "Refund", "outcome": "Resolution"}


def test_the_guides_examples_are_right() -> None:
    blocks = "\n".join(re.findall(r"^ {4}(.*)$", GUIDE, re.MULTILINE))
    decoder = json.JSONDecoder(parse_float=Decimal)
    values = [decoder.raw_decode(blocks, start.start())[0] for start in re.finditer(r"^\{", blocks, re.MULTILINE)]
    shown = {GUIDE_SHOWS[first]: value for value in values if (first := next(iter(value))) in GUIDE_SHOWS}

    assert set(shown) == set(GUIDE_SHOWS.values())
    assert [complaint for name, value in shown.items() for complaint in complaints(schema(name), value)] == []


# ---- the template


def test_its_operations_are_the_templates_routes() -> None:
    assert set(OPERATIONS) == {route.key for route in ROUTES}


@pytest.mark.parametrize("route", ROUTES, ids=lambda route: route.key)
def test_an_operation_wants_the_scopes_of_its_route(route: Route) -> None:
    wanted = [{"jwt": [scope]} for scope in route.scopes] if route.authorizer else []
    operation = OPERATIONS[route.key]

    assert operation["security"] == wanted
    assert bool(wanted) == {"401", "403", "429", "500"}.issubset(operation["responses"])
    scheme = DOCUMENT["components"]["securitySchemes"]["jwt"]
    assert all(f"`{scope}`" in scheme["description"] for scope in route.scopes)


@pytest.mark.parametrize("route", ROUTES, ids=lambda route: route.key)
def test_an_operation_has_the_parameters_of_its_path(route: Route) -> None:
    named = {parameter["name"] for parameter in OPERATIONS[route.key]["parameters"] if parameter["in"] == "path"}
    assert named == set(re.findall(r"\{(\w+)\}", route.path))


@pytest.mark.parametrize("route", ROUTES, ids=lambda route: route.key)
def test_an_operation_takes_the_callers_own_id_and_answers_it(route: Route) -> None:
    """Not the open route, which takes nothing; nor what API Gateway answers by itself."""
    operation = OPERATIONS[route.key]
    taken = [found for found in operation["parameters"] if found["name"] == CORRELATION_HEADER]
    answered = {
        status for status, answer in operation["responses"].items() if CORRELATION_HEADER in answer.get("headers", {})
    }
    by_function = {status for status in operation["responses"] if status not in ("401", "429")}

    assert [found["in"] for found in taken] == (["header"] if route.authorizer else [])
    assert answered == (by_function if route.authorizer else set())


# ---- what the code takes


def all_but(refused: str) -> str:
    """Some validators know no lone surrogates, and let no expression name them. So it names the range from what stands
    before them to what follows, and takes those two in again."""
    return rf"(?:[^{refused.replace(texts.SURROGATES, r'\ud7ff-\ue000')}]|[\ud7ff\ue000])"


def test_the_patterns_are_the_codes() -> None:
    patterns = {
        "MerchantOrderId": inputs.MERCHANT_ORDER_ID,
        "RefundId": inputs.REFUND_ID,
        "CorrelationId": inputs.CORRELATION_ID,
        "EntityTag": inputs.ENTITY_TAG,
    }
    assert {name: schema(name)["pattern"] for name in patterns} == {
        name: f"^{pattern.pattern}$" for name, pattern in patterns.items()
    }
    refund = schema("RefundRequest")["properties"]
    visible = f"(?=[{texts.INVISIBLE}]*[^{texts.INVISIBLE}])"
    assert refund["note"]["pattern"] == rf"^(?:{visible}{all_but(texts.REFUSED)}+)?(?!\n)$"
    assert refund["requestedBy"]["pattern"] == rf"^{visible}{all_but(texts.REFUSED_ON_ONE_LINE)}+(?!\n)$"
    evidence = schema("Evidence")["properties"]
    assert evidence["reference"]["pattern"] == refund["requestedBy"]["pattern"]
    assert evidence["checkedAt"]["pattern"] == f"^{inputs.CHECKED_AT.pattern}$"
    assert evidence["note"] | {"description": ""} == refund["note"] | {"description": ""}
    assert schema("Withdrawal")["properties"]["note"] | {"description": ""} == refund["note"] | {"description": ""}


def test_the_limits_are_the_codes() -> None:
    body = schema("RefundRequest")
    limit = DOCUMENT["components"]["parameters"]["Limit"]["schema"]
    assert schema("RequestAmount")["maximum"] == inputs.MAX_AMOUNT
    assert body["properties"]["note"]["maxLength"] == inputs.MAX_NOTE
    assert body["properties"]["requestedBy"]["maxLength"] == validation.MAX_REQUESTED_BY
    assert schema("Evidence")["properties"]["reference"]["maxLength"] == validation.MAX_REFERENCE
    assert (limit["minimum"], limit["maximum"], limit["default"]) == (1, inputs.MAX_PAGE, inputs.DEFAULT_PAGE)
    assert {schema(name)["properties"][items]["maxItems"] for name, items in PAGES} == {inputs.MAX_PAGE}
    for operation in OPERATIONS.values():
        if "requestBody" in operation:
            assert f"{inputs.MAX_BODY_BYTES // 1024} KiB" in operation["requestBody"]["description"]


PAGES = [("RefundPage", "refunds"), ("OrderRefunds", "refunds"), ("AuditPage", "records")]


def test_the_fields_are_the_codes() -> None:
    assert tuple(schema("RefundRequest")["properties"]) == validation.REFUND_FIELDS
    assert tuple(schema("Resolution")["properties"]) == validation.RESOLUTION_FIELDS
    assert tuple(schema("Evidence")["properties"]) == validation.EVIDENCE_FIELDS
    assert tuple(schema("Withdrawal")["properties"]) == validation.WITHDRAWAL_FIELDS


def test_the_enums_are_the_codes() -> None:
    steps = [f"REFUND_{status}" for status in RefundStatus]
    others = {value for name, value in vars(audit).items() if name.isupper() and isinstance(value, str)}
    assert schema("Reason")["enum"] == list(Reason)
    assert schema("RefundStatus")["enum"] == list(RefundStatus)
    assert schema("OpenStatus")["enum"] == list(OPEN_STATUSES)
    assert schema("FailureCode")["enum"] == list(FailureCode)
    assert schema("Resolution")["properties"]["outcome"]["enum"] == list(validation.RESOLUTION_OUTCOMES)
    assert schema("Evidence")["properties"]["source"]["enum"] == list(EvidenceSource)
    assert set(schema("AuditRecord")["properties"]["action"]["enum"]) == {*steps, *others}


def is_taken(body: dict[str, Any], key: str = "key") -> bool:
    try:
        return not validation.refund_request(ORDER, key, body).replay_only
    except InvalidRequest:
        return False


@cache
def rules(name: str) -> Any:
    return Draft202012Validator(closed(inlined(schema(name))))


def is_documented(name: str, value: Any) -> bool:
    return bool(rules(name).is_valid(value))


def refund_body(**fields: Any) -> dict[str, Any]:
    return {"reason": "OTHERS", "requestedBy": "rina"} | fields


def ranges(pattern: str) -> set[tuple[int, int]]:
    """Of characters, as the classes of a regular expression have them, whether they allow or forbid them."""
    found: set[tuple[int, int]] = set()

    def walk(node: Any) -> None:
        match node:
            case (_parser.RANGE, (first, last)):
                found.add((first, last))
            case (_parser.LITERAL, code):
                found.add((code, code))
            case tuple() | list() | _parser.SubPattern():
                for part in node:
                    walk(part)

    walk(_parser.parse(pattern))
    return found


def texts_of(pattern: str, longest: int) -> st.SearchStrategy[str]:
    """Of characters in the document's ranges, at their ends and beyond them; and of lengths about the longest."""
    found = sorted(ranges(pattern))
    beyond = sorted({code for first, last in found for code in (first - 1, last + 1) if 0 <= code <= 0x10FFFF})
    within = st.sampled_from(found).flatmap(lambda ends: st.integers(*ends))
    characters = (within | st.sampled_from(beyond)).map(chr)
    exactly = st.integers(longest - 1, longest + 1).map("é".__mul__)
    return st.text(characters, max_size=4) | st.text(within.map(chr), max_size=12) | st.text(max_size=120) | exactly


def pattern_of(field: str) -> str:
    return str(schema("RefundRequest")["properties"][field]["pattern"])


@given(texts_of(pattern_of("requestedBy"), validation.MAX_REQUESTED_BY))
@example("\u200d")
@example("Rina\n")
@example("")
@example("\ud800")
def test_who_wants_it_is_taken_where_the_document_says_so(text: str) -> None:
    body = refund_body(requestedBy=text)
    assert is_taken(body) == is_documented("RefundRequest", body)


@given(texts_of(pattern_of("note"), inputs.MAX_NOTE) | st.none() | st.booleans())
@example("two\nlines\n")
@example("\n")
@example("")
@example("\u202e")
@example("\ud800")
def test_a_note_is_taken_where_the_document_says_so(note: object) -> None:
    body = refund_body(note=note)
    assert is_taken(body) == is_documented("RefundRequest", body)


NUMBERS = (
    st.decimals(allow_nan=False, allow_infinity=False)
    | st.decimals(-1, 10**16, places=2)
    | st.decimals(0, 10**15, places=4)
    | st.integers(-1, 10**17).map(Decimal)
)


@given(NUMBERS, st.integers(0, 40), st.integers(-4, 4))
@example(Decimal("0.01"), 0, 0)
@example(Decimal("0.001"), 0, 0)
@example(inputs.MAX_AMOUNT, 20, 0)
@example(inputs.MAX_AMOUNT + Decimal("0.01"), 0, 0)
@example(Decimal("1E+3"), 0, 0)
@example(Decimal("25000"), 4, 0)
def test_an_amount_in_any_spelling_is_taken_where_the_document_says_so(
    amount: Decimal, zeros: int, exponent: int
) -> None:
    sign, digits, power = amount.as_tuple()
    assert isinstance(power, int)
    amount = Decimal((sign, (*digits, *[0] * zeros), power - zeros + exponent))
    beyond_a_schema = abs(amount.adjusted()) > 20  # whose own arithmetic can't tell
    if beyond_a_schema or amount.as_tuple().exponent == -3:  # … nor does it see how a number is spelled
        assert inputs.money_or_flaw(amount)[0] is None
    else:
        assert is_taken(refund_body(amount=amount)) == is_documented("RefundRequest", refund_body(amount=amount))


PRINTABLE = st.text(st.characters(min_codepoint=0x20, max_codepoint=0x7E), max_size=20)
KEYS = (
    st.text(max_size=12)
    | PRINTABLE
    | st.text(st.sampled_from('u ,"\\;'), max_size=8)
    | st.from_regex(schema("IdempotencyKey")["pattern"])
)


@given(KEYS.filter(lambda key: not key.endswith("\n")))  # before which Python's `$` matches, too
@example('"')
@example('""')
@example('","')
@example("k" * 255)
@example("k" * 256)
def test_a_key_is_taken_where_the_document_says_so(key: str) -> None:
    """Beyond that, a list of one key; which names the refund that its first entry does."""
    if is_documented("IdempotencyKey", key):
        assert is_taken(refund_body(), key)
    elif is_taken(refund_body(), key):
        first, comma, _ = key.partition(",")
        named = [validation.refund_request(ORDER, each, refund_body()).refund_id for each in (key, first.strip(), key)]
        assert comma
        assert len(set(named)) == 1


@given(
    st.from_regex(schema("MerchantOrderId")["pattern"], fullmatch=True)
    | st.text(st.sampled_from("A.\u00e9/ "), max_size=34)
)
@example(".")
@example("..")
@example("...")
def test_an_order_id_is_taken_where_the_document_says_so(order_id: str) -> None:
    assert bool(inputs.MERCHANT_ORDER_ID.fullmatch(order_id)) == is_documented("MerchantOrderId", order_id)


@pytest.mark.parametrize(
    "change",
    [
        {"amount": 0},
        {"amount": "1000"},
        {"amount": None},
        {"amount": True},
        {"amount": Decimal("0.005")},
        {"reason": "BECAUSE"},
        {"reason": None},
        {"note": " "},
        {"note": "a bell \a"},
        {"note": 7},
        {"note": "x" * 501},
        {"requestedBy": ""},
        {"requestedBy": None},
        {"requestedBy": "two\nlines"},
        {"requestedBy": 7},
        {"currency": "IDR"},
    ],
    ids=str,
)
def test_what_the_code_refuses_the_document_forbids(change: dict[str, Any]) -> None:
    body = {"amount": Decimal(1000), "reason": "OTHERS", "requestedBy": "rina"} | change
    assert not is_taken({name: Decimal(value) if type(value) is int else value for name, value in body.items()})
    assert complaints(schema("RefundRequest"), body)


# ---- what the code answers


def answers() -> list[Response]:
    """One of each that gateway.http.problems can give."""
    return [
        *(found for kind in UPSTREAM if (found := problems.from_error(kind("it went wrong", http_status=500), "r"))),
        *(found for error, *_ in DOMAIN.values() if (found := problems.from_error(error, "r"))),
        problems.from_error(indodana.Refused("it went wrong", http_status=404), "r") or {},
        problems.from_error(Forbidden("no merchant"), "r") or {},
        problems.from_error(PreconditionRequired(), "r") or {},
        *(problems.from_failure(Failure(code, "because"), "r") for code in FAILURES),
        problems.from_failure(FAILURE, "r", refund(RefundStatus.FAILED, failure=FAILURE), replayed=True),
        problems.in_progress(refund(RefundStatus.SUBMITTING), "r"),
        problems.internal_error("r"),
    ]


ANSWERS = answers()


def documented_problems() -> dict[tuple[int, str], list[Any]]:
    """Status and code: the responses that have them."""
    found: dict[tuple[int, str], list[Any]] = {}
    for operation in OPERATIONS.values():
        for response in operation["responses"].values():
            for part in response.get("content", {}).get(PROBLEM, {"schema": {"allOf": []}})["schema"]["allOf"][1:]:
                for code in part["properties"]["code"]["enum"]:
                    found.setdefault((part["properties"]["status"]["const"], code), []).append(response)
    return found


def test_every_problem_of_the_code_is_in_the_document_and_no_other() -> None:
    given = {(answer["statusCode"], json.loads(answer["body"])["code"]) for answer in ANSWERS}
    source = Path(problems.__file__).read_text(encoding="utf-8")
    codes = {*re.findall(r'"([A-Z]+_?[A-Z_]+)"', source), *FailureCode}

    assert set(documented_problems()) == given
    assert {code for _, code in given} == codes == set(schema("ProblemCode")["enum"])


def test_the_guides_error_table_has_every_problem_and_no_other() -> None:
    rows = re.findall(r"^\| ([0-9, ]+) \| ([A-Z_`, ]+) \|", GUIDE, re.MULTILINE)
    shown = {
        (int(status), code)
        for statuses, codes in rows
        for status in statuses.split(", ")
        for code in re.findall(r"`([A-Z_]+)`", codes)
    }

    assert shown == set(documented_problems())


def test_the_guides_routes_and_values_are_those_of_the_document() -> None:
    assert set(re.findall(r"^\| `((?:GET|POST) [^`?]+)", GUIDE, re.MULTILINE)) == set(OPERATIONS)
    for values in (Reason, EvidenceSource):
        assert [value for value in values if f"`{value}`" not in GUIDE] == []


@pytest.mark.parametrize("answer", ANSWERS, ids=lambda answer: json.loads(answer["body"])["code"])
def test_a_problem_is_as_the_document_has_it(answer: Response) -> None:
    body = json.loads(answer["body"], parse_float=Decimal)
    responses = documented_problems()[answer["statusCode"], body["code"]]
    documented = {name.lower() for response in responses for name in response.get("headers", {})}

    assert answer["headers"].keys() - {"content-type", "cache-control"} <= documented
    for response in responses:
        assert complaints(response["content"][PROBLEM]["schema"], body) == []


@pytest.mark.parametrize("key", OPERATIONS)
def test_a_problems_examples_are_one_of_each_of_its_codes(key: str) -> None:
    for status, response in OPERATIONS[key]["responses"].items():
        content = response.get("content", {}).get(PROBLEM)
        if content:
            assert set(content["examples"]) == set(content["schema"]["allOf"][1]["properties"]["code"]["enum"])
            for code, shown in content["examples"].items():
                value = shown["value"]
                assert (value["code"], value["status"]) == (code, int(status))
                assert value["title"] == HTTPStatus(int(status)).phrase
                assert value["type"] == f"urn:qris-gateway:problem:{code.lower().replace('_', '-')}"


def body_of(value: Any) -> Any:
    return json.loads(json_response(200, value)["body"], parse_float=Decimal)


@pytest.mark.parametrize(
    "found",
    [
        *(refund(status, reserved_amount=Decimal("1000.5")) for status in RefundStatus),
        refund(RefundStatus.FAILED, failure=FAILURE, transaction_amount=Decimal(2000)),
        new_refund(request(amount=None, note=None), RefundStatus.QUEUED, AT, CONTEXT),
    ],
    ids=lambda found: found.status,
)
def test_a_refund_is_as_the_document_has_it(found: Refund) -> None:
    order = Order(Decimal(2000), Decimal("999.5"), reserved=Decimal("1000.5"))
    assert complaints(schema("Refund"), body_of(refund_view(found))) == []
    for listed in (OrderRefundsPage(order, [found], None), OrderRefundsPage(None, [found], "next")):
        assert complaints(schema("OrderRefunds"), body_of(refunds_view("A&B", listed))) == []
    assert complaints(schema("EntityTag"), refund_response(found)["headers"]["etag"]) == []
    assert complaints(schema("RefundPath"), location(found)) == []


def test_an_audit_record_is_as_the_document_has_it() -> None:
    said = UpstreamAnswer(200, "{}", "0" * 64)
    evidence = {"source": "SETTLEMENT_REPORT", "reference": "line 12", "checkedAt": iso(AT)}
    decision = {"decision": "RESOLVE_FAILED", "evidence": evidence, "onVersion": 2}
    before, after = refund(RefundStatus.UNKNOWN), refund(RefundStatus.FAILED, failure=FAILURE)
    records = [
        audit.transition_record(before, after, CONTEXT, cause="x", upstream=said, decision=decision),
        audit.refused_decision_record(before, AT, CONTEXT, decision, "x"),
        audit.reused_key_record(request(), before, AT, CONTEXT),
        audit.settled_refund_record(after, "message-1", AT, CONTEXT),
        audit.forbidden_record(AT, CONTEXT, "GET /v1/refunds", {"refundId": "x"}, "why"),
        audit.transition_record(None, refund(RefundStatus.QUEUED), CONTEXT),
        audit.refusal_record(request(amount=None, note=None), FAILURE, AT, CONTEXT, said),
        audit.status_record(ORDER, AT, CONTEXT, "PAID", said, Decimal(5)),
        audit.late_evidence_record(after, AT, CONTEXT, "SUCCEEDED", said),
        audit.dead_letter_record(ORDER, "message-1", AT, CONTEXT, "no JSON", "0" * 64),
        audit.dead_letter_record(ORDER, "message-2", AT, CONTEXT, "too often", "0" * 64, receive_count=101),
    ]
    shown: set[str] = set()
    for record in records:
        value = body_of({k: v for k, v in from_item(record).items() if k not in audit.KEY_ATTRIBUTES})
        assert complaints(schema("AuditRecord"), value) == []
        shown |= value.keys()
    assert shown == schema("AuditRecord")["properties"].keys()


def test_a_status_has_the_fields_that_indodana_documents() -> None:
    documented = set(indodana.answers.DOCUMENTED_FIELDS)
    assert set(schema("Transaction")["properties"]) == documented


# ---- the page


def test_the_page_names_every_operation_code_and_schema() -> None:
    page = pages.html(DOCUMENT)
    for operation in OPERATIONS.values():
        assert f"<article id='{operation['operationId']}'>" in page
    for code in schema("ProblemCode")["enum"]:
        assert f"<td><code>{code}</code></td>" in page
    for name in DOCUMENT["components"]["schemas"]:
        assert f"id='schema-{name}'" in page


def test_the_page_needs_nothing_from_elsewhere_and_its_links_work() -> None:
    body, headers = pages.serve("/docs", "http://127.0.0.1:9999") or (b"", ())
    page = body.decode()
    anchors = set(re.findall(r"\bid='?([\w-]+)", page))

    assert not re.search(r"<(script|link|img|iframe)|@import|url\(", page)
    assert set(re.findall(r"href='([^'#][^']*)'", page)) == {"/openapi.json"}
    assert set(re.findall(r"href='#([^']*)'", page)) <= anchors
    assert "default-src 'none'" in dict(headers)["content-security-policy"]
    assert "curl -sS 'http://127.0.0.1:9999/v1/transactions/ORDER-PAID'" in page.replace("&#x27;", "'")


def test_the_page_shows_markup_as_text() -> None:
    document = deepcopy(DOCUMENT)
    evil = "<script>alert('`1`')</script>"
    document["info"]["description"] = document["info"]["title"] = document["info"]["summary"] = evil
    document["components"]["schemas"]["Problem"]["properties"]["detail"]["description"] = evil

    assert "<script" not in pages.html(document)


def test_only_its_own_paths_are_served() -> None:
    assert pages.serve("/v1/refunds", "http://127.0.0.1:9999") is None
    assert pages.serve("/docs/x", "http://127.0.0.1:9999") is None
