"""Bad input through the handlers: a 4xx that names the field, nothing to Indodana, nothing on record."""

from __future__ import annotations

import base64
import io
import json
from collections.abc import Callable, Iterator
from datetime import timedelta
from decimal import Decimal
from typing import Any, cast

import pytest
import simplejson
from hypothesis import HealthCheck, example, given, settings
from hypothesis import strategies as st

from gateway.core import inputs, keys, texts
from gateway.core.dynamodb import from_item
from gateway.core.keys import Key
from gateway.core.model import OrderKey, Reason, RefundRequest
from tests.world import CREATE, Answer, World

STATUS = "GET /v1/transactions/{merchantOrderId}"
LIST = "GET /v1/transactions/{merchantOrderId}/refunds"
GET = "GET /v1/transactions/{merchantOrderId}/refunds/{refundId}"
WITHDRAW = "POST /v1/transactions/{merchantOrderId}/refunds/{refundId}/withdrawal"
RESOLVE = "POST /v1/transactions/{merchantOrderId}/refunds/{refundId}/resolution"
WORK = "GET /v1/refunds"
AUDIT = "GET /v1/transactions/{merchantOrderId}/audit"

REFUND = {"amount": 1000, "reason": "OTHERS", "note": "one of two", "requestedBy": "Rina"}
EVIDENCE = {"source": "INDODANA_SUPPORT", "reference": "ticket 4711", "checkedAt": "2026-11-22T14:05:00+07:00"}
RESOLUTION = {"outcome": "FAILED", "evidence": EVIDENCE}
KEY = {"idempotency-key": "key-1"}
VERSION = {"if-match": '"1"'}
REFUND_ID = "0" * 32
SURROGATE = "\ud800"
NO_TEXT: list[object] = [None, True, 7, 1.5, [], {}]


@pytest.fixture
def untouched(world: World) -> Iterator[World]:
    """A world in which the test must leave no trace."""
    yield world
    books = world.simulator.books()
    assert (books["movements"], books["requests"]) == ([], [])
    for table in (world.settings.ledger_table, world.settings.audit_table):
        assert world.dynamodb.scan(TableName=table)["Items"] == []
    assert world.receive() == []


def fields_refused(answer: Answer, status: int = 400) -> list[str]:
    """The fields that a problem names, once it is a problem as it should be."""
    problem = answer.body
    assert (answer.status, problem["status"], problem["code"]) == (status, status, "INVALID_REQUEST"), answer.text
    assert answer.headers["content-type"] == "application/problem+json"
    assert problem["requestId"]
    for error in problem["errors"]:
        assert error["detail"]
        assert error["detail"] in problem["detail"]
    return [error["field"] for error in problem["errors"]]


def create(world: World, body: object, headers: dict[str, str] | None = None, **options: Any) -> Answer:
    return world.api(CREATE, "ORDER-PAID", body=body, headers=KEY if headers is None else headers, **options)


def amounts(*spellings: str) -> list[str]:
    rest = json.dumps({name: value for name, value in REFUND.items() if name != "amount"})
    return [f'{{"amount": {spelling}, {rest[1:]}' for spelling in spellings]


@pytest.mark.parametrize("later", [False, True])
@pytest.mark.parametrize(
    ("field", "bodies"),
    [
        ("amount", amounts("0", "-1", "-0.01", "NaN", "Infinity", "-Infinity", "1e999", "1e99999999999999999999")),
        ("amount", amounts("1000.125", "0.001", "100000000000000", "12345678901234567", "25.000", "1000.000")),
        ("amount", amounts("null", "true", "false", '""', '"1000"', "[]", "[1000]", "{}")),
        *[
            (field, [REFUND | {field: value} for value in cast(list[Any], values)])
            for field, values in {
                "reason": [*NO_TEXT, "", "others", "JUST_BECAUSE", "X" * 5000, SURROGATE],
                "note": [*NO_TEXT[1:], " ", "a\0b", "\x1b[31m", "\u202ea", SURROGATE, "a" * 501],
                "requestedBy": [*NO_TEXT, "", " ", "\u200d", "a\nb", "a\0b", SURROGATE, "a" * 101],
                "merchantId": ["m2"],
                "merchantOrderId": ["ORDER-PAID"],
                "currency": ["IDR"],
            }.items()
        ],
        ("reason", [{"requestedBy": "Rina"}]),
        ("requestedBy", [{"reason": "OTHERS"}]),
    ],
)  # fmt: skip
def test_a_bad_field_is_named(untouched: World, field: str, bodies: list[object], later: bool) -> None:
    headers = KEY | ({"prefer": "respond-async"} if later else {})
    for body in bodies:
        assert fields_refused(create(untouched, body, headers)) == [field], body


def test_all_that_is_wrong_is_said_at_once(untouched: World) -> None:
    answer = create(untouched, {"amount": "1000", "reason": None, "note": " ", "currency": "IDR"}, {})

    assert sorted(fields_refused(answer)) == ["Idempotency-Key", "amount", "currency", "note", "reason", "requestedBy"]


NOT_A_BODY = [" ", "refund", "{", '{"amount": 1000,', "null", "true", "1000", '"text"', "[]", "[{}]", SURROGATE,
              f'{{"note": "{SURROGATE}"}}', '{"note": "a\nb"}', "\ufeff{}", "[" * 16_000, '{"a":' * 3000]  # fmt: skip


@pytest.mark.parametrize("route", [CREATE, RESOLVE, WITHDRAW])
def test_what_is_no_json_object_is_refused(untouched: World, route: str) -> None:
    def send(body: str | None, **options: Any) -> Answer:
        return untouched.api(route, "ORDER-PAID", refund_id=REFUND_ID, body=body, headers=KEY, **options)

    nothing = [] if route == WITHDRAW else [None, ""]
    for body in [*nothing, *NOT_A_BODY]:
        assert fields_refused(send(body)) == ["body"], body
    for raw in (
        *([] if route == WITHDRAW else [b""]),
        b"\xff",
        b'{"note": "\xe9"}',
        b'{"note": "\xed\xa0\x80"}',
        b"[]",
        json.dumps(REFUND).encode("utf-16"),
    ):
        assert fields_refused(send(base64.b64encode(raw).decode(), isBase64Encoded=True)) == ["body"], raw
    for body in (*nothing, "e30", "e30=\n", "not base64!", "é", SURROGATE, json.dumps(REFUND)):
        assert fields_refused(send(body, isBase64Encoded=True)) == ["body"], body
    assert fields_refused(send('{"amount": 1, "amount": 2}')) == ["amount"]


@pytest.mark.parametrize("route", [CREATE, RESOLVE, WITHDRAW])
def test_a_body_that_is_too_large_is_413(untouched: World, route: str) -> None:
    body = json.dumps(REFUND) + " " * inputs.MAX_BODY_BYTES

    def send(body: str, **options: Any) -> Answer:
        return untouched.api(route, "ORDER-PAID", refund_id=REFUND_ID, body=body, headers=KEY, **options)

    assert fields_refused(send(body), 413) == ["body"]
    assert fields_refused(send("[" * 5_000_000), 413) == ["body"]
    assert fields_refused(send(base64.b64encode(body.encode()).decode(), isBase64Encoded=True), 413) == ["body"]


@pytest.mark.parametrize("later", [False, True])
def test_a_bad_idempotency_key_is_named(untouched: World, later: bool) -> None:
    prefer = {"prefer": "respond-async"} if later else {}
    assert fields_refused(create(untouched, REFUND, prefer)) == ["Idempotency-Key"]
    for key in ("", '""', "k" * 256, "a\0b", "a\nb", "a\tb", "\x7f", "clé", "キー", SURROGATE, "a,b", "a, b", "a,"):
        assert fields_refused(create(untouched, REFUND, {"idempotency-key": key} | prefer)) == ["Idempotency-Key"], key


@pytest.mark.parametrize(
    "order_id",
    ["", " ", ".", "..", "A B", "A/B", "/", "../v1", "A#B", "A?B", "A\\B", "A\n", "\0", "A,B", "A~B", "PESANAN-É",
     "注文", "１", SURROGATE, "\U0001f600", "A" * 33, "%" * 33, "A" * 10_000],
)  # fmt: skip
def test_a_bad_order_id_is_named_by_every_route(untouched: World, order_id: str) -> None:
    bodies: dict[str, object] = {CREATE: REFUND, RESOLVE: RESOLUTION}
    for route in (STATUS, CREATE, LIST, GET, WITHDRAW, RESOLVE, AUDIT):
        answer = untouched.api(route, order_id, refund_id=REFUND_ID, body=bodies.get(route), headers=KEY)
        assert fields_refused(answer) == ["merchantOrderId"], route


def test_an_order_id_with_percent_signs_is_that_very_order(world: World) -> None:
    """API Gateway has decoded it once. Decoded again, A%2FB would be another order, or none."""
    for order_id in ("A%2FB", "100%", "%41", "A+B"):
        world.simulator.add_order(order_id, 100_000, "PAID", merchant_id="m1")
        assert world.status(order_id).body["merchantOrderId"] == order_id
        created = world.refund(order_id, 1000)
        assert (created.status, created.body["merchantOrderId"]) == (201, order_id)
        assert world.moved(order_id) == 1000
        assert world.audit(order_id)[0]["merchantOrderId"] == order_id


def test_a_malformed_refund_id_is_named(untouched: World) -> None:
    for refund_id in ("", "0" * 31, "0" * 33, "0" * 31 + "A", "0" * 32 + "\n", "REFUND#1", "../x", "٣" * 32, SURROGATE):
        assert fields_refused(untouched.get("ORDER-PAID", refund_id)) == ["refundId"], refund_id
        assert fields_refused(untouched.resolve("ORDER-PAID", refund_id, "FAILED")) == ["refundId"], refund_id
        assert fields_refused(untouched.withdraw("ORDER-PAID", refund_id)) == ["refundId"], refund_id


@pytest.mark.parametrize(
    ("field", "values"),
    [
        ("outcome", [*NO_TEXT, "", "PERHAPS", "failed", "UNKNOWN", "QUEUED", "SUBMITTING", SURROGATE]),
        ("evidence", [*NO_TEXT[:-1], "", "ticket 4711"]),
        ("merchantId", ["m2"]),
    ],
)
def test_a_bad_field_of_a_resolution_is_named(untouched: World, field: str, values: list[object]) -> None:
    for value in values:
        answer = untouched.api(RESOLVE, "ORDER-PAID", refund_id=REFUND_ID, body=RESOLUTION | {field: value})
        assert fields_refused(answer) == [field], value
    if field in RESOLUTION:
        body = {name: value for name, value in RESOLUTION.items() if name != field}
        assert fields_refused(untouched.api(RESOLVE, "ORDER-PAID", refund_id=REFUND_ID, body=body)) == [field]


@pytest.mark.parametrize(
    ("field", "values"),
    [
        ("source", [*NO_TEXT, "", "EMAIL"]),
        ("reference", [*NO_TEXT, "", " ", "a\nb", "a\0b", "\u200b", SURROGATE, "a" * 201]),
        ("checkedAt", [*NO_TEXT, "", "2026-11-22", "2026-11-22T14:05:00", "2026-02-30T14:05:00Z"]),
        ("note", [*NO_TEXT[1:], " ", SURROGATE, "a" * 501]),
    ],
)
def test_a_bad_field_of_evidence_is_named(untouched: World, field: str, values: list[object]) -> None:
    for value in values:
        body = {"outcome": "SUCCEEDED", "evidence": EVIDENCE | {field: value}}
        answer = untouched.api(RESOLVE, "ORDER-PAID", refund_id=REFUND_ID, body=body, headers=VERSION)
        assert fields_refused(answer) == [f"evidence.{field}"], value
    answer = untouched.resolve(
        "ORDER-PAID", REFUND_ID, "SUCCEEDED", checked_at=untouched.clock() + timedelta(minutes=1)
    )
    assert fields_refused(answer) == ["evidence.checkedAt"]


def test_a_bad_field_of_a_withdrawal_is_named(untouched: World) -> None:
    for field, value in (("note", " "), ("note", 7), ("note", "a\0b"), ("reason", "OTHERS")):
        answer = untouched.api(WITHDRAW, "ORDER-PAID", refund_id=REFUND_ID, body={field: value}, headers=VERSION)
        assert fields_refused(answer) == [field], value


@pytest.mark.parametrize(("route", "body"), [(RESOLVE, RESOLUTION), (WITHDRAW, {}), (WITHDRAW, None)])
def test_a_decision_must_name_one_version(untouched: World, route: str, body: object) -> None:
    missing = untouched.api(route, "ORDER-PAID", refund_id=REFUND_ID, body=body)
    assert (missing.status, missing.body["code"]) == (428, "PRECONDITION_REQUIRED")
    assert "GET /v1/transactions/{merchantOrderId}/refunds/{refundId}" in missing.body["detail"]
    for tag in ("", "*", "1", 'W/"1"', '"1","1"', '"1", "2"', '"01"', '"-1"', '"x"', '"1', '"' + "9" * 5000 + '"'):
        answer = untouched.api(route, "ORDER-PAID", refund_id=REFUND_ID, body=body, headers={"if-match": tag})
        assert fields_refused(answer) == ["If-Match"], tag


def test_a_resolution_in_its_old_form_is_told_of_the_new_one(untouched: World) -> None:
    answer = untouched.api(RESOLVE, "ORDER-PAID", refund_id=REFUND_ID, body={"outcome": "FAILED", "evidence": "ticket"})

    assert fields_refused(answer) == ["evidence"]
    assert all(word in answer.body["detail"] for word in ("source", "reference", "checkedAt", "If-Match"))


def test_a_bad_status_or_limit_is_named(untouched: World) -> None:
    for query in (
        None,
        {},
        *({"status": text} for text in ("", "LOST", "unknown", "FAILED", "UNKNOWN,QUEUED", SURROGATE)),
    ):
        assert fields_refused(untouched.api(WORK, query=query)) == ["status"], query
    for limit in ("", " ", "0", "-1", "101", "1.0", "ten", "٣", "²", "9" * 5000, "1,2", SURROGATE):
        assert fields_refused(untouched.open_refunds(limit=limit)) == ["limit"], limit
        assert fields_refused(untouched.api(AUDIT, "ORDER-PAID", query={"limit": limit})) == ["limit"], limit
        assert fields_refused(untouched.api(LIST, "ORDER-PAID", query={"limit": limit})) == ["limit"], limit


def token(key: object) -> str:
    return base64.urlsafe_b64encode(json.dumps(key).encode()).decode()


def text(value: object) -> dict[str, object]:
    return {"S": value}


AUDIT_KEY: dict[str, object] = {"pk": text("m1#ORDER-PAID"), "sk": text("2026-11-22T07:05:00.000000Z#1")}
WORK_KEY: dict[str, object] = {
    "pk": text("m1#ORDER-PAID"),
    "sk": text(f"REFUND#{REFUND_ID}"),
    "openKey": text("m1#UNKNOWN"),
    "openSince": text("2026-11-22T07:05:00.000000Z"),
}  # fmt: skip
NO_TOKEN = ["", " ", "=", "e30", "not base64!", "é", SURROGATE, "//8=", "A" * 100_000,
            base64.b64encode(b"[" * 50_000).decode(), base64.b64encode(b"9" * 5000).decode()]  # fmt: skip
NO_KEY = [None, True, 1, "text", [], {}, ["pk", "sk"], list(WORK_KEY), {"pk": text("m1#ORDER-PAID")}]
NO_KEY_TEXT = [None, 1, "S", [], {}, ["S"], {"N": "1"}, {"S": "a", "N": "1"}, *map(text, [
    None, 1, [], {}, "", "a\0", SURROGATE, "é" * 1024, "a" * 1025])]  # fmt: skip


def test_a_forged_token_of_the_timeline_is_refused(untouched: World) -> None:
    forged = [AUDIT_KEY | {"pk": text(pk)} for pk in ("m2#ORDER-PAID", "m1#ORDER-2", "", "#dead-letters-2026-11-22")]
    forged += [AUDIT_KEY | {name: value} for name in AUDIT_KEY for value in NO_KEY_TEXT]
    forged += [WORK_KEY, AUDIT_KEY | {"more": text("a")}]
    for next_token in [*NO_TOKEN, *map(token, NO_KEY), *map(token, forged)]:
        answer = untouched.api(AUDIT, "ORDER-PAID", query={"nextToken": next_token})
        assert fields_refused(answer) == ["nextToken"], next_token


def test_a_forged_token_of_the_open_refunds_is_refused(untouched: World) -> None:
    forged = [WORK_KEY | {"openKey": text(key)} for key in ("m2#UNKNOWN", "m1#QUEUED", "", "m1")]
    forged += [WORK_KEY | {name: value} for name in WORK_KEY for value in NO_KEY_TEXT]
    forged += [AUDIT_KEY, WORK_KEY | {"more": text("a")}]
    for next_token in [*NO_TOKEN, *map(token, NO_KEY), *map(token, forged)]:
        answer = untouched.open_refunds(nextToken=next_token)
        assert fields_refused(answer) == ["nextToken"], next_token


def test_a_token_that_could_have_been_ours_leads_to_nobody_elses_records(world: World) -> None:
    order, other = world.order(), world.order(merchant="m2")
    world.refund(order, 1000)
    world.refund(other, 1000, merchant="m2")
    mine = {"pk": text(f"m1#{order}"), "sk": text("0")}

    page = world.api(AUDIT, order, query={"nextToken": token(mine)})

    assert {record["merchantOrderId"] for record in page.body["records"]} == {order}
    work = {**WORK_KEY, "pk": text(f"m2#{other}"), "openSince": text("0")}
    assert world.open_refunds(nextToken=token(work)).body == {"refunds": [], "nextToken": None}


def test_thousands_of_unknown_fields_get_a_short_answer(untouched: World) -> None:
    answer = create(untouched, json.dumps(dict.fromkeys(map(str, range(1500)), 0), separators=(",", ":")))

    assert fields_refused(answer)
    assert len(answer.text) < 5000


@pytest.mark.parametrize(("name", "length"), [("\\u0001\\ud800", 2), ("Siti Rahayu", 11), ("0812-3456-789", 13)])
def test_a_field_name_that_is_none_stands_in_no_dead_letters_cause(world: World, name: str, length: int) -> None:
    """It may be a person's, and the audit keeps it for good; or poison: written as a JSON escape it is good SQS text,
    decoded it may stand in no message attribute."""
    world.send_raw(f'{{"merchantOrderId": "ORDER-PAID", "{name}": 1}}')

    assert world.work_queue() == []
    [letter] = world.dead_letters()
    cause = letter["MessageAttributes"]["cause"]["StringValue"]
    assert cause.startswith(f"a field whose name has {length} characters: unknown field; allowed fields: merchantId")
    assert world.audit("ORDER-PAID")[-1]["cause"] == cause


@pytest.mark.parametrize("spelling", ["1000", "1000.0", "1000.00", "1000.0000", "1e3", "1.0E+3", "100000e-2"])
def test_the_same_money_is_the_same_request_however_it_is_spelled(world: World, spelling: str) -> None:
    order = world.order()
    first = world.refund(order, 1000, key="k", fields={"reason": "OTHERS", "note": "one of two", "requestedBy": "Rina"})

    [body] = amounts(spelling)
    again = world.api(CREATE, order, body=body, headers={"idempotency-key": "k"})

    assert (again.status, again.headers.get("idempotency-replayed")) == (201, "true")
    assert again.text == first.text
    assert world.moved(order) == 1000


def test_an_amount_is_said_back_in_plain_digits(world: World) -> None:
    [body] = amounts("1e6")

    answer = create(world, body)

    assert (answer.status, answer.body["code"]) == (422, "AMOUNT_EXCEEDS_REFUNDABLE")
    assert "requested: 1000000 rupiah" in answer.body["detail"]


@pytest.mark.parametrize("key", ['"u"', r'"\""', r'"\"\""', r'"\"u\""', '"u,u"', '"a,b"', r'"\" u\""'])
def test_a_refund_with_an_odd_key_comes_back_from_the_queue_as_itself(world: World, key: str) -> None:
    """What a structured string quotes is any text; the gateway's own message has it without its quotes."""
    order = world.order()
    accepted = world.refund(order, 1000, key=key, later=True)

    assert world.work_queue() == []

    assert world.get(order, accepted.body["refundId"]).body["status"] == "SUCCEEDED"
    assert len(world.list_refunds(order).body["refunds"]) == 1
    assert world.dead_letters() == []


# ---- who calls

NO_MERCHANTS: list[object] = [
    None,
    "",
    " ",
    "m3",
    "M1",
    "m1 ",
    "m1,m2",
    "[m1]",
    "m/1",
    7,
    True,
    ["m1"],
    {"m1": 1},
    SURROGATE,
]
NOBODIES: list[object] = [None, "", " ", 7, True, ["agent"], {"a": 1}, "a\0b", "two\nlines", SURROGATE, "a" * 257]
UNVOUCHED: list[object] = [
    None,
    {},
    {"jwt": None},
    {"jwt": {}},
    {"jwt": {"claims": None}},
    {"jwt": {"claims": []}},
    "x",
]


def forbidden_records(world: World) -> list[dict[str, Any]]:
    items = world.dynamodb.scan(TableName=world.settings.audit_table, ConsistentRead=True)["Items"]
    return [record for record in map(from_item, items) if record["action"] == "FORBIDDEN"]


def as_caller(claims: object) -> dict[str, Any]:
    return {"requestContext": {"requestId": "request-1", "authorizer": {"jwt": {"claims": claims}}}}


@pytest.mark.parametrize("route", [STATUS, CREATE, LIST, GET, WITHDRAW, RESOLVE, WORK, AUDIT])
def test_a_token_of_an_unknown_merchant_is_forbidden_and_on_record(world: World, route: str) -> None:
    for number, merchant in enumerate(NO_MERCHANTS, 1):
        caller = as_caller({"sub": "agent-7", "merchant_id": merchant})
        answer = world.api(
            route, "ORDER-PAID", refund_id=REFUND_ID, body=REFUND, headers=KEY, correlation_id="sale-1", **caller
        )
        assert (answer.status, answer.body["code"]) == (403, "FORBIDDEN"), merchant
        records = forbidden_records(world)
        assert len(records) == number
        assert {(record["actor"], record["requestId"], record["correlationId"]) for record in records} == {
            ("agent-7", "request-1", "sale-1")
        }
        assert {record["route"] for record in records} == {route}
    assert world.simulator.books()["requests"] == []


def test_a_token_of_nobody_is_forbidden_and_that_is_on_record(world: World) -> None:
    for nobody in NOBODIES:
        caller = as_caller({"sub": nobody, "merchant_id": "m1"})
        assert world.api(STATUS, "ORDER-PAID", **caller).status == 403, nobody
    for authorizer in UNVOUCHED:
        caller = {"requestContext": {"requestId": "request-1", "authorizer": authorizer}}
        assert world.api(STATUS, "ORDER-PAID", **caller).status == 403, authorizer
    assert world.api(STATUS, "ORDER-PAID", requestContext={"requestId": "request-1"}).status == 403

    records = forbidden_records(world)
    assert len(records) == len(NOBODIES) + len(UNVOUCHED) + 1
    assert {record["actor"] for record in records} == {"unknown"}
    assert world.simulator.books()["requests"] == []


def test_what_somebody_who_is_forbidden_names_is_recorded_cut(world: World) -> None:
    order_id = "\ud800é" + "A" * 10_000

    assert world.api(STATUS, order_id, **as_caller({"sub": "agent-7"})).status == 403

    [record] = forbidden_records(world)
    assert record["path"]["merchantOrderId"].startswith("\\ud800\\xe9AAA")
    assert len(record["path"]["merchantOrderId"]) < 300


@pytest.mark.parametrize("claims", [{"client_id": "till-3"}, {"sub": "", "client_id": "till-3"}, {"sub": "till-3"}])
def test_a_token_names_its_principal_in_either_claim(world: World, claims: dict[str, object]) -> None:
    order = world.order()

    assert world.api(STATUS, order, **as_caller({"merchant_id": "m1", **claims})).status == 200

    assert world.audit(order)[-1]["actor"] == "till-3"


MAY_SETTLE: list[dict[str, object]] = [
    {"scope": "refunds:write refunds:resolve"},
    {"scp": "refunds:resolve"},
    {"scp": "[refunds:write refunds:resolve]"},  # a list, as API Gateway hands it on
    {"scope": ["refunds:write", "refunds:resolve"]},
    {"scope": 7, "scp": ["refunds:resolve"]},
]
MAY_NOT_SETTLE: list[dict[str, object]] = [
    {},
    {"scope": "refunds:write"},
    {"scope": "refunds:resolver xrefunds:resolve qris-gateway/refunds:resolve"},
    {"scope": None, "scp": True},
    {"scp": {"refunds:resolve": 1}},
    {"scp": [["refunds:resolve"], 7]},
    {"scopes": "refunds:resolve"},
]


@pytest.mark.parametrize(("claims", "allowed"), [*((claims, True) for claims in MAY_SETTLE),
                                                 *((claims, False) for claims in MAY_NOT_SETTLE)])  # fmt: skip
def test_another_ones_refund_is_withdrawn_by_who_may_settle(
    world: World, claims: dict[str, object], allowed: bool
) -> None:
    order = world.order()
    refund = world.refund(order, 1000, later=True, subject="agent-1").body

    def withdraw(subject: str, claims: dict[str, object]) -> Answer:
        caller = as_caller({"sub": subject, "merchant_id": "m1", **claims})
        return world.api(WITHDRAW, order, refund_id=refund["refundId"], headers=VERSION, **caller)

    answer = withdraw("agent-2", claims)

    assert (answer.status, answer.body.get("code")) == ((200, None) if allowed else (403, "FORBIDDEN"))
    if not allowed:
        assert withdraw("agent-1", claims).body["failure"]["code"] == "WITHDRAWN"


def test_the_scope_of_a_user_pool_has_its_name_before_it(world: World) -> None:
    world.reassemble(scope_prefix="qris-gateway/", merchant_claim="")
    order = world.order()
    refund = world.refund(order, 1000, later=True, subject="agent-1").body
    for scope, status in (("refunds:resolve", 403), ("qris-gateway/refunds:resolve", 200)):
        caller = as_caller({"sub": "agent-2", "scope": scope})
        answer = world.api(WITHDRAW, order, refund_id=refund["refundId"], headers=VERSION, **caller)
        assert answer.status == status, scope


# ---- what goes wrong among us


def test_a_caller_is_not_told_what_only_the_log_has_to_know(world: World, logs: io.StringIO) -> None:
    order, table, prefix = world.order(), "no-such-table", "no-such-secrets/"
    world.reassemble(ledger_table=table, secret_prefix=prefix)

    answers = [world.list_refunds(order), world.refund(order, 1000), world.status(order)]

    lines = [line for line in map(json.loads, logs.getvalue().splitlines()) if line["message"] == "request"]
    assert [answer.status for answer in answers] == [503, 503, 502]
    assert [answer.body["code"] for answer in answers] == [
        *("LEDGER_UNAVAILABLE", "LEDGER_UNAVAILABLE", "CREDENTIALS_UNAVAILABLE")
    ]
    for answer in answers:
        assert not any(word in answer.text for word in (table, prefix, "Exception", "Secrets", "DynamoDB", "operation"))
    assert all("ResourceNotFoundException" in line["cause"] for line in lines[:2])
    assert f"{prefix}m1" in lines[2]["error"]


# ---- whatever is sent

ANY_TEXT = st.text(st.characters(exclude_categories=()))
ANY_JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | ANY_TEXT,
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(ANY_TEXT, inner, max_size=3),
    max_leaves=6,
)
AMOUNT = st.decimals("0.01", "3000", places=2) | st.integers(-1, 3000) | st.floats(-1, 3000)
TAKEN = st.characters().filter(lambda character: texts.flaw(f"a{character}", 9, lines=False) is None)
LINES = st.sampled_from("\r\n\t")
WORDS = st.text(TAKEN, min_size=1, max_size=100).filter(lambda text: texts.flaw(text, 100, lines=False) is None)


def bodies(good: dict[str, st.SearchStrategy[Any]]) -> st.SearchStrategy[tuple[str | None, bool]]:
    """A body and whether it says that it is base64: good ones, good ones with something wrong, and anything."""
    usual = st.fixed_dictionaries(good)
    spoiled = st.fixed_dictionaries({}, optional={name: value | ANY_JSON for name, value in good.items()})
    document = (
        usual
        | spoiled
        | st.tuples(usual, st.dictionaries(ANY_TEXT, ANY_JSON, max_size=2)).map(lambda two: two[0] | two[1])
    )
    dumped = st.builds(json.dumps, document | ANY_JSON, default=st.just(float), ensure_ascii=st.booleans())
    encoded = dumped.map(lambda body: base64.b64encode(body.encode("utf-8", "surrogatepass")).decode())
    anything = ANY_TEXT | st.binary().map(lambda raw: base64.b64encode(raw).decode()) | st.none()
    return st.tuples(dumped, st.just(False)) | st.tuples(encoded, st.just(True)) | st.tuples(anything, st.booleans())


def headers_of(keys: st.SearchStrategy[str]) -> st.SearchStrategy[dict[str, str]]:
    names = st.fixed_dictionaries(
        {}, optional={"idempotency-key": keys | ANY_TEXT, "prefer": ANY_TEXT, "content-type": ANY_TEXT}
    )
    good = st.fixed_dictionaries(
        {"idempotency-key": keys}, optional={"prefer": st.sampled_from(["respond-async", "wait=1"])}
    )
    return good | names | st.dictionaries(ANY_TEXT, ANY_TEXT, max_size=3)


def tokens(*keys: object) -> st.SearchStrategy[str]:
    return st.sampled_from([*map(token, keys)]) | ANY_JSON.map(token) | ANY_TEXT


QUERIES = st.none() | st.fixed_dictionaries(
    {},
    optional={
        "status": st.sampled_from(["UNKNOWN", "QUEUED", "SUBMITTING"]) | ANY_TEXT,
        "limit": st.integers(-1, 200).map(str) | ANY_TEXT,
        "nextToken": tokens(WORK_KEY, AUDIT_KEY),
    },
)
ORDER_IDS = st.sampled_from(["ORDER-PAID", "ORDER-INITIATED", "A%2FB"]) | ANY_TEXT | st.from_regex(
    inputs.MERCHANT_ORDER_ID, fullmatch=True
)  # fmt: skip
REFUND_IDS = st.just(REFUND_ID) | ANY_TEXT

# The world is made once for all examples: none may leave it in a state that breaks the next.
many = settings(
    max_examples=150,
    deadline=None,
    suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow],
)


def check(answer: Answer) -> Answer:
    assert answer.status < 500, answer.text
    answer.text.encode("ascii")
    for name, value in answer.headers.items():
        assert f"{name}{value}".isascii()
        assert f"{name}{value}".isprintable()
    if answer.status >= 400:
        assert answer.headers["content-type"] == "application/problem+json"
        assert answer.body["code"]
        assert answer.body["code"] != "INVALID_REQUEST" or answer.body["errors"]
    return answer


GOOD_REFUND: dict[str, st.SearchStrategy[Any]] = {
    "amount": AMOUNT,
    "reason": st.sampled_from(["OTHERS", "EXPIRED", "OUT_OF_STOCK", "ITEMS_RETURNED"]),
    "note": WORDS,
    "requestedBy": WORDS,
}


@many
@given(bodies(GOOD_REFUND), headers_of(st.integers(1, 10**6).map(str)), ORDER_IDS)
@example((json.dumps(REFUND | {"amount": 0.1}), False), KEY | {"prefer": "respond-async"}, "A%2FB")
def test_a_refund_is_refused_or_taken_whatever_is_sent(
    world: World, body: tuple[str | None, bool], headers: dict[str, str], order_id: str
) -> None:
    raw, is_base64 = body
    answer = check(world.api(CREATE, order_id, body=raw, headers=headers, isBase64Encoded=is_base64))

    if answer.status in (201, 202):
        assert world.get(order_id, answer.body["refundId"]).body == answer.body


def note_is_taken(fields: dict[str, Any]) -> bool:
    return texts.flaw(fields.get("note", "-"), 500, lines=True) is None


@settings(many, max_examples=60)
@given(
    st.fixed_dictionaries(
        {name: GOOD_REFUND[name] for name in ("reason", "requestedBy")},
        optional={
            "amount": st.decimals("0.01", "99999999999999.99", places=2),
            "note": st.text(TAKEN | LINES, min_size=1),
        },
    ).filter(note_is_taken),
    st.from_regex(keys.KEY, fullmatch=True).filter(lambda key: keys.read(key) == Key(key)),
    st.sampled_from(["now", "later", "queue"]),
    st.booleans(),
)
def test_what_is_taken_is_what_was_sent(
    world: World, fields: dict[str, Any], key: str, door: str, ensure_ascii: bool
) -> None:
    order_id = world.order("99999999999999.99")
    queued = {"merchantOrderId": order_id, "idempotencyKey": key} if door == "queue" else {}
    body = simplejson.dumps(fields | queued, use_decimal=True, ensure_ascii=ensure_ascii)

    if door == "queue":
        world.send_raw(body)
    else:
        prefer = {"prefer": "respond-async"} if door == "later" else {}
        answer = world.api(CREATE, order_id, body=body, headers={"idempotency-key": key} | prefer)
        assert answer.status == (202 if door == "later" else 201), answer.text
    assert world.work_queue() == []

    [refund] = world.list_refunds(order_id).body["refunds"]
    kept = {name: texts.normalized(value) if isinstance(value, str) else value for name, value in fields.items()}
    expected = {"amount": Decimal("99999999999999.99"), "note": None} | kept
    assert {name: refund[name] for name in expected} == expected
    assert refund["refundId"] == RefundRequest(OrderKey("m1", order_id), key, None, Reason.OTHERS, None, "").refund_id
    [movement] = world.movements(order_id)
    assert Decimal(movement["amount"]) == expected["amount"]
    assert movement["cancelledBy"] == expected["requestedBy"]
    for record in world.audit(order_id):
        assert record.get("note") == expected["note"]
        assert record["requestedBy"] == expected["requestedBy"]


@many
@given(
    bodies({"outcome": st.sampled_from(["SUCCEEDED", "FAILED"]), "evidence": st.just(EVIDENCE) | WORDS, "note": WORDS}),
    ORDER_IDS,
    REFUND_IDS,
    st.sampled_from([{}, VERSION]) | st.fixed_dictionaries({"if-match": ANY_TEXT}),
)
@example((json.dumps(RESOLUTION), False), "ORDER-PAID", REFUND_ID, VERSION)
@example((json.dumps({"note": "why"}), False), "ORDER-PAID", REFUND_ID, VERSION)
def test_a_decision_is_refused_whatever_is_sent(
    untouched: World, body: tuple[str | None, bool], order_id: str, refund_id: str, headers: dict[str, str]
) -> None:
    raw, is_base64 = body
    options: dict[str, Any] = {"body": raw, "headers": headers, "isBase64Encoded": is_base64}
    for route in (RESOLVE, WITHDRAW):
        assert check(untouched.api(route, order_id, refund_id=refund_id, **options)).status in (400, 404, 413, 428)


@many
@given(QUERIES, ORDER_IDS, REFUND_IDS, headers_of(st.just("k")))
@example({"status": "UNKNOWN", "limit": "1", "nextToken": token(WORK_KEY)}, "ORDER-PAID", REFUND_ID, {})
@example({"limit": "1", "nextToken": token(AUDIT_KEY)}, "ORDER-PAID", REFUND_ID, {})
def test_what_only_reads_never_fails_whatever_is_sent(
    untouched: World, query: dict[str, str] | None, order_id: str, refund_id: str, headers: dict[str, str]
) -> None:
    send: Callable[..., Answer] = untouched.api
    check(send(WORK, query=query, headers=headers))
    check(send(AUDIT, order_id, query=query, headers=headers))
    assert check(send(LIST, order_id, query=query, headers=headers)).status in (400, 404)
    assert check(send(GET, order_id, refund_id=refund_id, query=query, headers=headers)).status in (400, 404)


@settings(many, max_examples=60)
@given(ORDER_IDS, headers_of(st.just("k")))
def test_a_status_is_asked_for_orders_that_can_exist_and_for_no_others(
    world: World, order_id: str, headers: dict[str, str]
) -> None:
    before = len(world.simulator.books()["requests"])

    answer = check(world.api(STATUS, order_id, headers=headers))

    asked = len(world.simulator.books()["requests"]) - before
    assert (asked > 0) == (answer.status != 400)  # twice where a kept connection's answer names no order
    assert (answer.status == 400) == (not inputs.MERCHANT_ORDER_ID.fullmatch(order_id))
