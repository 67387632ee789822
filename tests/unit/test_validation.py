"""The rules for callers' input: what breaks one is refused by its field, what passes is exactly what was sent."""

from __future__ import annotations

import base64
import json
from collections.abc import Callable
from decimal import Decimal
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from refunds import paging, validation
from refunds.errors import BodyTooLarge, InvalidRequest
from refunds.model import OPEN_STATUSES, OrderKey, Reason, RefundStatus

ORDER = OrderKey("m1", "ORDER-1")
REFUND = {"amount": 25_000, "reason": "OTHERS", "note": "one of two", "requestedBy": "Rina"}
MESSAGE = {"merchantId": "m2", "merchantOrderId": "ORDER-1", "idempotencyKey": "bo-1", **REFUND}
RESOLUTION = {"outcome": "FAILED", "evidence": "ticket 4711"}

SURROGATE = "\ud800"
NOT_A_TEXT: list[object] = [None, True, 7, 1.5, [], ["OTHERS"], {}, {"S": "OTHERS"}]
# In a line of people's words.
BAD_WORDS = [
    "",
    " ",
    "\u3000",
    "\t",
    SURROGATE,
    f"a{SURROGATE}b",
    "a\0b",
    "\x1b[31m",
    "\x7f",
    "\x85",
    "a\u2028b",
    "\u202eb",
]


def parse(document: object) -> dict[str, Any]:
    return validation.json_object(json.dumps(document).encode())


def amount_of(spelling: str) -> Decimal | None:
    body = validation.json_object(f'{{"amount": {spelling}, "reason": "OTHERS", "requestedBy": "Rina"}}'.encode())
    return validation.refund_request(ORDER, "key", body).amount


def fields_refused(call: Callable[[], object]) -> list[str]:
    with pytest.raises(InvalidRequest) as refused:
        call()
    assert all(error.detail for error in refused.value.errors)
    return [error.field for error in refused.value.errors]


def refused_in_body(changes: dict[str, object]) -> list[str]:
    """What the refund's rules say; the queue's and the API's must say the same."""
    by_api = fields_refused(lambda: validation.refund_request(ORDER, "key", parse(REFUND | changes)))
    by_queue = fields_refused(lambda: validation.refund_message(parse(MESSAGE | changes), "m1"))
    assert by_api == by_queue
    return by_api


def without(document: dict[str, Any], field: str) -> dict[str, Any]:
    return {name: value for name, value in document.items() if name != field}


class TestBody:
    @pytest.mark.parametrize(
        "raw",
        [
            b"",
            b" ",
            b"refund",
            b"{",
            b'{"amount": 1000,',
            b'{"amount": 1000,}',
            b"{'amount': 1000}",
            b'{"amount": 01}',
            b'{"amount": +1}',
            b'{"amount": .5}',
            b'{"amount": 0x10}',
            b'{"amount": 1_000}',
            b'{"note": "a\nb"}',
            b'{"note": "\0"}',
            b'{"note": "\\x"}',
            b'{"amount": 1} {"amount": 2}',
            b"\xef\xbb\xbf{}",
            b"null",
            b"true",
            b"1000",
            b'"text"',
            b"[]",
            b'[{"amount": 1000}]',
        ],
    )
    def test_what_is_no_json_object_is_refused(self, raw: bytes) -> None:
        assert fields_refused(lambda: validation.json_object(raw)) == ["body"]

    @pytest.mark.parametrize(
        "raw",
        [
            b"\xff",
            b'{"note": "\xe9"}',  # Latin-1
            b'{"note": "\xc0\xaf"}',  # overlong
            b'{"note": "\xed\xa0\x80"}',  # half a surrogate pair
            '{"note": "a"}'.encode("utf-16"),
        ],
    )
    def test_what_is_not_utf8_is_refused(self, raw: bytes) -> None:
        with pytest.raises(InvalidRequest, match="body: must be UTF-8"):
            validation.json_object(raw)

    def test_the_largest_body_is_read_and_one_byte_more_is_too_large(self) -> None:
        largest = b"{}" + b" " * (validation.MAX_BODY_BYTES - 2)

        assert validation.json_object(largest) == {}
        with pytest.raises(BodyTooLarge, match=f"is {validation.MAX_BODY_BYTES + 1}"):
            validation.json_object(largest + b" ")

    def test_a_refund_with_every_field_at_its_longest_is_far_from_too_large(self) -> None:
        longest = {
            "note": "\U0001f600" * validation.MAX_NOTE,
            "requestedBy": "\U0001f600" * validation.MAX_REQUESTED_BY,
        }

        assert validation.refund_request(ORDER, "k" * 255, parse(REFUND | longest)).note == longest["note"]

    @pytest.mark.parametrize("opens", ["[", '{"amount":', '{"amount":['])
    @pytest.mark.parametrize("depth", [100, 1000, 16_000])
    def test_what_is_nested_is_refused_however_deep(self, opens: str, depth: int) -> None:
        closes = {"[": "]", "{": "}"}
        times = min(depth, (validation.MAX_BODY_BYTES - 10) // (len(opens) + sum(opens.count(c) for c in closes)))
        tail = "".join(closes[c] for c in reversed(opens) if c in closes)
        raw = f"{opens * times}1{tail * times}".encode()

        refused = fields_refused(lambda: validation.refund_request(ORDER, "key", validation.json_object(raw)))
        assert refused in (["body"], ["amount", "reason", "requestedBy"])

    @pytest.mark.parametrize(
        "raw", [b'{"amount": 1, "amount": 1}', b'{"amount": 1, "reason": "OTHERS", "\\u0061mount": 2}']
    )
    def test_a_field_that_stands_twice_is_refused(self, raw: bytes) -> None:
        assert fields_refused(lambda: validation.json_object(raw)) == ["amount"]

    def test_numbers_keep_every_digit(self) -> None:
        assert validation.json_object(b'{"a": 0.1, "b": 12345678901234567890.123456789}') == {
            "a": Decimal("0.1"),
            "b": Decimal("12345678901234567890.123456789"),
        }


class TestUnknownFields:
    @pytest.mark.parametrize("field", ["merchantId", "Amount", "amount ", "", "__proto__", "currency", "refundId"])
    def test_an_unknown_field_is_refused_by_its_name(self, field: str) -> None:
        assert fields_refused(lambda: validation.refund_request(ORDER, "key", parse(REFUND | {field: 1}))) == [field]
        assert fields_refused(lambda: validation.resolution(parse(RESOLUTION | {field: 1}))) == [field]

    @pytest.mark.parametrize(
        ("field", "said"),
        [
            (SURROGATE, "\\ud800"),
            ("é", "\\xe9"),
            ("a\nb", "a\\nb"),
            ("\0", "\\x00"),
            ("\x7f", "\\x7f"),
            ("x" * 65, "x" * 64),
        ],
    )
    def test_a_name_is_said_back_in_printable_ascii(self, field: str, said: str) -> None:
        """It goes into an answer, a log line and an SQS message attribute, which takes no control characters."""
        assert refused_in_body({field: 1}) == [said]
        twice = json.dumps({field: 1})[:-1] + "," + json.dumps({field: 1})[1:]
        assert fields_refused(lambda: validation.json_object(twice.encode())) == [said]

    def test_thousands_of_unknown_fields_get_a_short_answer(self) -> None:
        body = validation.json_object(
            json.dumps(dict.fromkeys(map(str, range(1500)), 0), separators=(",", ":")).encode()
        )

        with pytest.raises(InvalidRequest) as refused:
            validation.refund_message(body, "m1")

        assert len(str(refused.value)) < 2000
        assert {"reason", "requestedBy", "0"} < {error.field for error in refused.value.errors}


class TestAmount:
    @pytest.mark.parametrize(
        "spelling",
        [
            "0", "0.0", "0.00", "-0", "0e5", "-1", "-0.01", "-1000", "-99999999999999.99",
            "NaN", "Infinity", "-Infinity", "1e999", "-1e999", "1e-999", "1e99999999999999999999",
            "-1e99999999999999999999", "1e-99999999999999999999", "0e99999999999999999999", "1e999999999999999999",
            "0.001", "0.009", "1000.125", "1000.000", "1e-3", "99999999999999.991", "99999999999999.990",
            "100000000000000", "100000000000000.00", "1e14", "99999999999999.995", "12345678901234567",
            "123456789012345", "1234567890123456", "9" * 5000, "0." + "0" * 5000 + "1",
            '""', '"1000"', '"1000.00"', '"NaN"', "true", "false", "null", "[]", "[1000]", "{}", '{"value": 1000}',
        ],
    )  # fmt: skip
    def test_what_is_no_money_is_refused(self, spelling: str) -> None:
        assert fields_refused(lambda: amount_of(spelling)) == ["amount"]

    @pytest.mark.parametrize(
        ("spelling", "rupiah"),
        [
            ("1", "1"),
            ("0.01", "0.01"),
            ("1000.5", "1000.50"),
            ("1000.55", "1000.55"),
            ("99999999999999", "99999999999999"),
            ("99999999999999.9", "99999999999999.9"),
            ("99999999999999.99", "99999999999999.99"),
            ("9999999999999999e-2", "99999999999999.99"),
            ("1.5E3", "1500"),
            ("1e13", "10000000000000"),
        ],
    )
    def test_money_is_taken_to_the_last_cent(self, spelling: str, rupiah: str) -> None:
        assert amount_of(spelling) == Decimal(rupiah)

    @pytest.mark.parametrize("spelling", ["1000", "1000.0", "1000.00", "1e3", "1E+3", "1.0e3", "10000e-1", "100000e-2"])
    def test_the_same_money_is_the_same_however_it_is_spelled(self, spelling: str) -> None:
        amount = amount_of(spelling)

        assert amount == 1000
        # As a person reads it in an answer or in the audit: never 1E+3.
        assert str(amount) in ("1000", "1000.0", "1000.00")

    def test_without_an_amount_all_that_remains_is_asked_for(self) -> None:
        assert validation.refund_request(ORDER, "key", parse(without(REFUND, "amount"))).amount is None

    @pytest.mark.parametrize(
        "value", [1000, 1000.0, True, "1000", None, Decimal("NaN"), Decimal("sNaN"), Decimal("-Inf")]
    )
    def test_only_a_decimal_is_money(self, value: object) -> None:
        assert not validation.is_money(value)


class TestReason:
    @pytest.mark.parametrize(
        "reason",
        [*NOT_A_TEXT, "", " ", "others", "OTHERS ", "Others", "Out of Stock", "OTHERS\n", "X" * 5000, SURROGATE],
    )
    def test_any_other_is_refused(self, reason: object) -> None:
        assert refused_in_body({"reason": reason}) == ["reason"]

    def test_it_must_be_given(self) -> None:
        with pytest.raises(InvalidRequest, match="must be one of EXPIRED, OUT_OF_STOCK, ITEMS_RETURNED, OTHERS"):
            validation.refund_request(ORDER, "key", parse(without(REFUND, "reason")))

    @pytest.mark.parametrize("reason", list(Reason))
    def test_the_four_are_taken(self, reason: Reason) -> None:
        assert validation.refund_request(ORDER, "key", parse(REFUND | {"reason": reason})).reason is reason


class TestWords:
    @pytest.mark.parametrize("requested_by", [*NOT_A_TEXT, *BAD_WORDS, "a\nb", "a\tb", "Rina\n", "a" * 101])
    def test_a_bad_requested_by_is_refused(self, requested_by: object) -> None:
        assert refused_in_body({"requestedBy": requested_by}) == ["requestedBy"]

    def test_requested_by_must_be_given(self) -> None:
        body = parse(without(REFUND, "requestedBy"))
        assert fields_refused(lambda: validation.refund_request(ORDER, "key", body)) == ["requestedBy"]

    @pytest.mark.parametrize("note", [*NOT_A_TEXT, *BAD_WORDS, "\n", "\r\n", "a" * 501])
    def test_a_bad_note_is_refused(self, note: object) -> None:
        assert refused_in_body({"note": note}) == ["note"]

    @pytest.mark.parametrize("evidence", [*NOT_A_TEXT, *BAD_WORDS, "\n", "a" * 1001])
    def test_bad_evidence_is_refused(self, evidence: object) -> None:
        assert fields_refused(lambda: validation.resolution(parse(RESOLUTION | {"evidence": evidence}))) == ["evidence"]

    @pytest.mark.parametrize(
        "words", ["a", "a" * 100, "Ibu Rina, kasir №7", "王小明", "Ramé 😀", 'it\'s "so" <b>&amp;</b>', " padded "]
    )
    def test_words_are_taken_as_they_are(self, words: str) -> None:
        request = validation.refund_request(ORDER, "key", parse(REFUND | {"requestedBy": words, "note": words}))

        assert (request.requested_by, request.note) == (words, words)
        assert validation.resolution(parse(RESOLUTION | {"evidence": words})) == (RefundStatus.FAILED, words)

    @pytest.mark.parametrize("lines", ["two\nlines", "of\r\nWindows", "a\ttable", "a" * 500])
    def test_a_note_may_have_lines(self, lines: str) -> None:
        assert validation.refund_request(ORDER, "key", parse(REFUND | {"note": lines})).note == lines
        assert validation.resolution(parse(RESOLUTION | {"evidence": lines}))[1] == lines

    def test_a_note_may_be_left_out(self) -> None:
        assert validation.refund_request(ORDER, "key", parse(without(REFUND, "note"))).note is None

    def test_evidence_of_a_thousand_characters_is_taken(self) -> None:
        assert validation.resolution(parse(RESOLUTION | {"evidence": "a" * 1000}))[1] == "a" * 1000


class TestIdempotencyKey:
    BAD = ("", "k" * 256, "a\0b", "a\nb", "key\n", "\t", "\x7f", "clé", "キー", SURROGATE)

    @pytest.mark.parametrize("key", [None, *BAD])
    def test_a_bad_header_is_refused(self, key: str | None) -> None:
        assert fields_refused(lambda: validation.refund_request(ORDER, key, parse(REFUND))) == ["Idempotency-Key"]

    @pytest.mark.parametrize("key", [*NOT_A_TEXT, *BAD])
    def test_a_bad_one_in_a_message_is_refused(self, key: object) -> None:
        body = parse(MESSAGE | {"idempotencyKey": key})
        assert fields_refused(lambda: validation.refund_message(body, "m1")) == ["idempotencyKey"]

    def test_a_missing_one_is_said_to_be_missing(self) -> None:
        with pytest.raises(InvalidRequest, match="Idempotency-Key: is missing"):
            validation.refund_request(ORDER, None, parse(REFUND))
        with pytest.raises(InvalidRequest, match="idempotencyKey: is missing"):
            validation.refund_message(parse(without(MESSAGE, "idempotencyKey")), "m1")

    @pytest.mark.parametrize("key", ["k", "k" * 255, "a b", "~!@#$%^&*()", '"8e03978e-40d5-43e8-bc93-6894a57f9324"'])
    def test_printable_ascii_is_taken_as_it_is(self, key: str) -> None:
        assert validation.refund_request(ORDER, key, parse(REFUND)).idempotency_key == key
        assert validation.refund_message(parse(MESSAGE | {"idempotencyKey": key}), "m1").idempotency_key == key


BAD_ORDER_IDS = (
    "", " ", "A B", "A/B", "/", "../x", "A#B", "#", "A?B", "A\\B", "A\nB", "A\n", "\0", "A,B", "A;B", "A*B", "A|B",
    "A'B", 'A"B', "A~B", "A<B>", "A{B}", "PESANAN-É", "注文", "１", SURROGATE, "\U0001f600", "A" * 33,
)  # fmt: skip


class TestIds:
    @pytest.mark.parametrize("order_id", BAD_ORDER_IDS)
    def test_a_bad_order_id_is_refused(self, order_id: str) -> None:
        assert fields_refused(lambda: validation.order_key("m1", order_id)) == ["merchantOrderId"]

    @pytest.mark.parametrize("order_id", [*NOT_A_TEXT, *BAD_ORDER_IDS])
    def test_a_bad_order_id_in_a_message_is_refused(self, order_id: object) -> None:
        body = parse(MESSAGE | {"merchantOrderId": order_id})
        assert fields_refused(lambda: validation.refund_message(body, "m1")) == ["merchantOrderId"]

    def test_a_message_without_an_order_id_is_refused(self) -> None:
        body = parse(without(MESSAGE, "merchantOrderId"))
        assert fields_refused(lambda: validation.refund_message(body, "m1")) == ["merchantOrderId"]

    @pytest.mark.parametrize("order_id", ["A", "a9=.-_+@:&^%!$", "%2F", "100%", "A" * 32])
    def test_what_indodana_allows_is_taken_as_it_is(self, order_id: str) -> None:
        assert validation.order_key("m1", order_id) == OrderKey("m1", order_id)

    @pytest.mark.parametrize(
        "merchant_id", [*NOT_A_TEXT, "", " ", "m 1", "m/1", "m#1", "m.1", "m1\n", "é", SURROGATE, "m" * 65]
    )
    def test_a_bad_merchant_id_is_refused(self, merchant_id: object) -> None:
        body = parse(MESSAGE | {"merchantId": merchant_id})
        assert fields_refused(lambda: validation.refund_message(body, "m1")) == ["merchantId"]

    def test_a_message_names_its_merchant_or_is_the_default_ones(self) -> None:
        assert validation.refund_message(parse(MESSAGE), "m1").order == OrderKey("m2", "ORDER-1")
        assert validation.refund_message(parse(without(MESSAGE, "merchantId")), "m1").order == OrderKey("m1", "ORDER-1")

    @pytest.mark.parametrize(
        "refund_id", ["", "0" * 31, "0" * 33, "0" * 31 + "A", "0" * 31 + "g", "0" * 32 + "\n", "٣" * 32, SURROGATE]
    )
    def test_a_malformed_refund_id_is_refused(self, refund_id: str) -> None:
        assert fields_refused(lambda: validation.refund_id(refund_id)) == ["refundId"]

    def test_a_refund_id_is_taken_as_it_is(self) -> None:
        assert validation.refund_id("0123456789abcdef" * 2) == "0123456789abcdef" * 2


class TestResolution:
    @pytest.mark.parametrize(
        "outcome", [*NOT_A_TEXT, "", "succeeded", "FAILED ", *set(RefundStatus) - {"SUCCEEDED", "FAILED"}]
    )
    def test_any_other_outcome_is_refused(self, outcome: object) -> None:
        assert fields_refused(lambda: validation.resolution(parse(RESOLUTION | {"outcome": outcome}))) == ["outcome"]

    def test_both_fields_must_be_given(self) -> None:
        assert fields_refused(lambda: validation.resolution({})) == ["outcome", "evidence"]


class TestQuery:
    @pytest.mark.parametrize(
        "limit", ["", " ", "0", "-1", "+1", "101", "1000", "1.0", "1e1", "0x1", "ten", "٣", "²", "1\n", "9" * 5000]
    )
    def test_a_bad_limit_is_refused(self, limit: str) -> None:
        assert fields_refused(lambda: validation.page_limit(limit)) == ["limit"]

    @pytest.mark.parametrize(("limit", "taken"), [(None, validation.DEFAULT_PAGE), ("1", 1), ("100", 100)])
    def test_a_limit_is_taken(self, limit: str | None, taken: int) -> None:
        assert validation.page_limit(limit) == taken

    @pytest.mark.parametrize(
        "status", [None, "", "LOST", "unknown", "UNKNOWN ", "UNKNOWN,QUEUED", "SUCCEEDED", "FAILED", SURROGATE]
    )
    def test_a_bad_status_is_refused(self, status: str | None) -> None:
        assert fields_refused(lambda: validation.open_status(status, OPEN_STATUSES)) == ["status"]

    @pytest.mark.parametrize("status", OPEN_STATUSES)
    def test_an_open_status_is_taken(self, status: RefundStatus) -> None:
        assert validation.open_status(str(status), OPEN_STATUSES) is status


class TestPageToken:
    KEY = {"pk": {"S": "m1#ORDER-1"}, "sk": {"S": "2026-11-22T07:05:00.000000Z#1"}}  # noqa: RUF012 - never changed

    def start(self, token: str | None) -> Any:
        return paging.start_of(token, attributes=frozenset(self.KEY), must_hold={"pk": "m1#ORDER-1"})

    def test_a_token_leads_on_from_its_key(self) -> None:
        assert self.start(paging.to_token(self.KEY)) == {"ExclusiveStartKey": self.KEY}
        assert self.start(None) == {}
        assert paging.to_token(None) is None

    @pytest.mark.parametrize(
        "key",
        [
            {"pk": {"S": "m2#ORDER-1"}},
            {"pk": {"S": ""}},
            {"sk": {"S": ""}},
            {"sk": {"S": "a\0"}},
            {"sk": {"S": SURROGATE}},
            {"sk": {"S": "a" * 1025}},
            {"sk": {"S": "é" * 1024}},  # 2048 bytes, and DynamoDB's limit for a sort key is 1024
            {"sk": {"S": 1}},
            {"sk": {"S": None}},
            {"sk": {"S": ["a"]}},
            {"sk": {"N": "1"}},
            {"sk": {"S": "a", "N": "1"}},
            {"sk": {}},
            {"sk": "S"},
            {"sk": ["S"]},
            {"sk": None},
            {"sk": 1},
            {"openKey": {"S": "m1#UNKNOWN"}},
        ],
    )
    def test_a_forged_key_is_refused(self, key: dict[str, Any]) -> None:
        token = paging.to_token(self.KEY | key)
        assert fields_refused(lambda: self.start(token)) == ["nextToken"]

    @pytest.mark.parametrize(
        "document", [None, True, 1, "text", [], {}, ["pk", "sk"], [["pk", "sk"]], {"pk": {"S": "m1#ORDER-1"}}]
    )
    def test_another_document_is_refused(self, document: Any) -> None:
        token = base64.urlsafe_b64encode(json.dumps(document).encode()).decode()
        assert fields_refused(lambda: self.start(token)) == ["nextToken"]

    @pytest.mark.parametrize(
        "token",
        ["", " ", "=", "====", "a", "not base64!", "e30", "e30=\n", "é", SURROGATE, "\0", "gICA", "//8=", "A" * 100_000,
         base64.b64encode(b"[" * 50_000).decode(), base64.b64encode(b"9" * 5000).decode(),
         base64.b64encode(b'{"pk": NaN}').decode()],
    )  # fmt: skip
    def test_what_is_no_token_is_refused(self, token: str) -> None:
        assert fields_refused(lambda: self.start(token)) == ["nextToken"]


def test_every_broken_rule_is_said_at_once() -> None:
    body = parse({"amount": -1, "reason": "no", "note": "", "requestedBy": "", "currency": "IDR"})

    refused = fields_refused(lambda: validation.refund_request(ORDER, None, body))

    assert sorted(refused) == ["Idempotency-Key", "amount", "currency", "note", "reason", "requestedBy"]


# A busy machine is no fault of the rules.
patient = settings(deadline=None, suppress_health_check=[HealthCheck.too_slow])

ANY_TEXT = st.text(st.characters(exclude_categories=()))
ANY_JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | ANY_TEXT,
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(ANY_TEXT, inner, max_size=3),
    max_leaves=8,
)


def documents(good: dict[str, Any]) -> st.SearchStrategy[dict[str, Any]]:
    """Good fields, any fields, fields left out and added, in every mixture."""
    usual = {name: st.just(value) | ANY_JSON | ANY_TEXT for name, value in good.items()}
    return st.tuples(
        st.fixed_dictionaries({}, optional=usual), st.just({}) | st.dictionaries(ANY_TEXT, ANY_JSON, max_size=2)
    ).map(lambda parts: parts[1] | parts[0])


def assert_sayable(refused: InvalidRequest) -> None:
    """In JSON, in a header's or a log's line, in an SQS attribute."""
    assert refused.errors
    assert str(refused).isascii()
    assert str(refused).isprintable()


@patient
@given(
    st.binary()
    | ANY_TEXT.map(lambda text: text.encode("utf-8", "surrogatepass"))
    | ANY_JSON.map(json.dumps).map(str.encode)
)
def test_any_bytes_are_an_object_or_refused(raw: bytes) -> None:
    try:
        assert isinstance(validation.json_object(raw), dict)
    except InvalidRequest as refused:
        assert_sayable(refused)


@patient
@given(documents(REFUND), st.just("key") | ANY_TEXT)
def test_a_refund_is_refused_or_taken_as_it_was_sent(document: dict[str, Any], key: str) -> None:
    try:
        request = validation.refund_request(ORDER, key, parse(document))
    except InvalidRequest as refused:
        assert_sayable(refused)
    else:
        taken = {
            "amount": request.amount,
            "reason": request.reason,
            "note": request.note,
            "requestedBy": request.requested_by,
        }
        sent = parse(document)
        assert {name: value for name, value in taken.items() if value is not None} == sent
        assert request.idempotency_key == key


@patient
@given(documents(MESSAGE), documents(RESOLUTION))
def test_a_message_and_a_resolution_are_refused_or_taken(message: dict[str, Any], resolution: dict[str, Any]) -> None:
    try:
        request = validation.refund_message(parse(message), "m1")
        assert request.order == OrderKey(message.get("merchantId", "m1"), message["merchantOrderId"])
        assert request.idempotency_key == message["idempotencyKey"]
    except InvalidRequest as refused:
        assert_sayable(refused)
    try:
        assert validation.resolution(parse(resolution)) == (resolution["outcome"], resolution["evidence"])
    except InvalidRequest as refused:
        assert_sayable(refused)


@patient
@given(ANY_TEXT | ANY_JSON.map(lambda document: base64.urlsafe_b64encode(json.dumps(document).encode()).decode()))
def test_no_token_but_our_own_leads_anywhere(token: str) -> None:
    with pytest.raises(InvalidRequest):
        paging.start_of(token, attributes=frozenset({"pk", "sk"}), must_hold={"pk": "m1#ORDER-1"})
