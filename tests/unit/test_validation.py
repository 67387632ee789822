"""The rules for callers' input: what breaks one is refused by its field, what passes is exactly what was sent."""

from __future__ import annotations

import base64
import json
import tracemalloc
import unicodedata
from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from decimal import Decimal
from itertools import batched
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from gateway.core import inputs, keys, paging, texts
from gateway.core.errors import BodyTooLarge, InvalidRequest
from gateway.core.keys import Key
from gateway.core.model import Evidence, EvidenceSource, OrderKey, Reason, Resolution
from gateway.core.transitions import OPEN_STATUSES, RefundStatus
from gateway.refunds import validation

ORDER = OrderKey("m1", "ORDER-1")
NOW = datetime(2026, 11, 23, 8, 0, tzinfo=UTC)
REFUND = {"amount": 25_000, "reason": "OTHERS", "note": "one of two", "requestedBy": "Rina"}
MESSAGE = {"merchantId": "m2", "merchantOrderId": "ORDER-1", "idempotencyKey": "bo-1", **REFUND}
EVIDENCE = {
    "source": "SETTLEMENT_REPORT",
    "reference": "2026-11-22.xlsx, line 12",
    "checkedAt": "2026-11-23T14:30:00+07:00",
    "note": "the second of two",
}
RESOLUTION = {"outcome": "FAILED", "evidence": EVIDENCE}

SURROGATE = "\ud800"
NOT_A_TEXT: list[object] = [True, 7, 1.5, [], ["OTHERS"], {}, {"S": "OTHERS"}]
NO_WORDS: list[object] = [*NOT_A_TEXT, " ", "\u3000", "\u200d", "\u2800", "\u200b \ufe0f", "\U000e0041"]
# Each with the place of the character that may not stand there, and how it is called.
BAD_WORDS = [
    (SURROGATE, 1, "U+D800 (half of a surrogate pair)"),
    (f"a{SURROGATE}b", 2, "U+D800 (half of a surrogate pair)"),
    ("a\0b", 2, "U+0000 (null)"),
    ("Ri\x1b[31m", 3, "U+001B (escape)"),
    ("\x7f", 1, "U+007F (delete)"),
    ("\x9d", 1, "U+009D (a control character)"),
    ("ab\x85", 3, "U+0085 (next line)"),
    ("Rina\u202e", 5, "U+202E (right-to-left override)"),
    ("\u202db", 1, "U+202D (left-to-right override)"),
    ("\ufdd0", 1, "U+FDD0 (a noncharacter)"),
    ("\U0001f600\U0010ffff", 2, "U+10FFFF (a noncharacter)"),
]
# … on one line.
BAD_LINES = [
    ("a\nb", 2, "U+000A (line feed)"),
    ("a\r", 2, "U+000D (carriage return)"),
    ("\tb", 1, "U+0009 (tab)"),
    ("a\u2028b", 2, "U+2028 (line separator)"),
    ("a\u2029b", 2, "U+2029 (paragraph separator)"),
]


def parse(document: object) -> dict[str, Any]:
    return inputs.json_object(json.dumps(document).encode())


def amount_of(spelling: str) -> Decimal | None:
    body = inputs.json_object(f'{{"amount": {spelling}, "reason": "OTHERS", "requestedBy": "Rina"}}'.encode())
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


def said_of(field: str, call: Callable[[], object]) -> str:
    with pytest.raises(InvalidRequest) as refused:
        call()
    [detail] = [error.detail for error in refused.value.errors if error.field == field]
    return detail


def resolution(changes: dict[str, object], evidence: dict[str, object] | None = None) -> Resolution:
    document = RESOLUTION | ({"evidence": EVIDENCE | evidence} if evidence else {}) | changes
    return validation.resolution(parse(document), NOW)


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
        assert fields_refused(lambda: inputs.json_object(raw)) == ["body"]

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
            inputs.json_object(raw)

    def test_the_largest_body_is_read_and_one_byte_more_is_too_large(self) -> None:
        largest = b"{}" + b" " * (inputs.MAX_BODY_BYTES - 2)

        assert inputs.json_object(largest) == {}
        with pytest.raises(BodyTooLarge, match=f"has {inputs.MAX_BODY_BYTES + 1}"):
            inputs.json_object(largest + b" ")

    def test_a_refund_with_every_field_at_its_longest_is_far_from_too_large(self) -> None:
        longest = {
            "note": "\U0001f600" * inputs.MAX_NOTE,
            "requestedBy": "\U0001f600" * validation.MAX_REQUESTED_BY,
        }

        assert validation.refund_request(ORDER, "k" * 255, parse(REFUND | longest)).note == longest["note"]

    @pytest.mark.parametrize("opens", ["[", '{"amount":', '{"amount":['])
    @pytest.mark.parametrize("depth", [100, 1000, 16_000])
    def test_what_is_nested_is_refused_however_deep(self, opens: str, depth: int) -> None:
        closes = {"[": "]", "{": "}"}
        times = min(depth, (inputs.MAX_BODY_BYTES - 10) // (len(opens) + sum(opens.count(c) for c in closes)))
        tail = "".join(closes[c] for c in reversed(opens) if c in closes)
        raw = f"{opens * times}1{tail * times}".encode()

        refused = fields_refused(lambda: validation.refund_request(ORDER, "key", inputs.json_object(raw)))
        assert refused in (["body"], ["amount", "reason", "requestedBy"])

    @pytest.mark.parametrize(
        "raw", [b'{"amount": 1, "amount": 1}', b'{"amount": 1, "reason": "OTHERS", "\\u0061mount": 2}']
    )
    def test_a_field_that_stands_twice_is_refused(self, raw: bytes) -> None:
        assert fields_refused(lambda: inputs.json_object(raw)) == ["amount"]

    def test_numbers_keep_every_digit(self) -> None:
        assert inputs.json_object(b'{"a": 0.1, "b": 12345678901234567890.123456789}') == {
            "a": Decimal("0.1"),
            "b": Decimal("12345678901234567890.123456789"),
        }


class TestUnknownFields:
    @pytest.mark.parametrize("field", ["merchantId", "currency", "refundId", "x", "a_1", "x" * 40])
    def test_an_unknown_field_is_refused_by_its_name(self, field: str) -> None:
        assert fields_refused(lambda: validation.refund_request(ORDER, "key", parse(REFUND | {field: 1}))) == [field]
        assert fields_refused(lambda: resolution({field: 1})) == [field]
        assert fields_refused(lambda: resolution({}, {field: 1})) == [f"evidence.{field}"]
        assert fields_refused(lambda: validation.withdrawal({field: 1})) == [field]

    @pytest.mark.parametrize(
        "field",
        ["Siti Rahayu", "Siti", "amount ", "", "__proto__", SURROGATE, "é", "a\nb", "\0", "a-b", "0812", "x" * 41],
    )
    def test_what_does_not_look_like_a_fields_name_is_not_said_back(self, field: str) -> None:
        """It goes into an answer, a log line and, by queue, into the audit for good; it may be a person's name."""
        said = f"a field whose name has {len(field)} characters"
        assert refused_in_body({field: 1}) == [said]
        assert fields_refused(lambda: resolution({}, {field: 1})) == [said.replace("field", "field of evidence", 1)]
        twice = json.dumps({field: 1})[:-1] + "," + json.dumps({field: 1})[1:]
        assert fields_refused(lambda: inputs.json_object(twice.encode())) == [said]

    def test_thousands_of_unknown_fields_get_a_short_answer(self) -> None:
        body = inputs.json_object(json.dumps(dict.fromkeys(map(str, range(1500)), 0), separators=(",", ":")).encode())

        with pytest.raises(InvalidRequest) as refused:
            validation.refund_message(body, "m1")

        assert len(str(refused.value)) < 2000
        assert {"reason", "requestedBy"} < {error.field for error in refused.value.errors}


class TestAmount:
    @pytest.mark.parametrize(
        "spelling",
        [
            "0", "0.0", "0.00", "-0", "0e5", "-1", "-0.01", "-1000", "-99999999999999.99",
            "NaN", "Infinity", "-Infinity", "1e999", "-1e999", "1e-999", "1e99999999999999999999",
            "-1e99999999999999999999", "1e-99999999999999999999", "0e99999999999999999999", "1e999999999999999999",
            "0.001", "0.009", "1000.125", "1000.1250", "1e-3", "99999999999999.991", "99999999999999.9901",
            "25.000", "25000.000", "1000.000", "99999999999999.990", "0.5000001", "1000" + "0" * 28 + "1",
            "25000." + "0" * 28 + "1", "25000000000000000000000000000.1e-24",
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
            ("25000." + "0" * 5000, "25000"),
            ("1" + "0" * 5000 + "e-5000", "1"),
        ],
    )
    def test_money_is_taken_to_the_last_cent(self, spelling: str, rupiah: str) -> None:
        assert amount_of(spelling) == Decimal(rupiah)

    @pytest.mark.parametrize(
        "spelling",
        ["1000", "1000.0", "1000.00", "1000.0000", "1e3", "1E+3", "1.0e3", "0.1E4", "10000e-1", "100000e-2", "1000e-0"],
    )
    def test_the_same_money_is_the_same_however_it_is_spelled(self, spelling: str) -> None:
        # As a person reads it in an answer or in the audit: never 1E+3.
        assert str(amount_of(spelling)) == "1000"

    @pytest.mark.parametrize("spelling", ["25.000", "25000.000", "1000.125", "25.000e0"])
    def test_three_decimals_are_refused_with_the_reason(self, spelling: str) -> None:
        """In Indonesia, 25.000 is 25 thousand."""
        assert "25.000 may mean 25 or 25 thousand" in said_of("amount", lambda: amount_of(spelling))

    @pytest.mark.parametrize("spelling", ["1e999999999", "1e-999999999", "1e999999999999999999", "10e-999999"])
    def test_an_exponent_beyond_all_money_takes_no_memory(self, spelling: str) -> None:
        tracemalloc.start()
        try:
            assert fields_refused(lambda: amount_of(spelling)) == ["amount"]
            assert tracemalloc.get_traced_memory()[1] < 1_000_000
        finally:
            tracemalloc.stop()

    def test_without_an_amount_all_that_remains_is_asked_for(self) -> None:
        assert validation.refund_request(ORDER, "key", parse(without(REFUND, "amount"))).amount is None

    @pytest.mark.parametrize(
        "value", [1000, 1000.0, True, "1000", None, Decimal("NaN"), Decimal("sNaN"), Decimal("-Inf")]
    )
    def test_only_a_decimal_is_money(self, value: object) -> None:
        assert inputs.money_or_flaw(value)[0] is None


class TestReason:
    @pytest.mark.parametrize(
        "reason",
        [None, *NOT_A_TEXT, "", " ", "others", "OTHERS ", "Others", "Out of Stock", "OTHERS\n", "X" * 5000, SURROGATE],
    )
    def test_any_other_is_refused(self, reason: object) -> None:
        assert refused_in_body({"reason": reason}) == ["reason"]

    def test_it_must_be_given(self) -> None:
        with pytest.raises(InvalidRequest, match="must be one of EXPIRED, OUT_OF_STOCK, ITEMS_RETURNED, OTHERS"):
            validation.refund_request(ORDER, "key", parse(without(REFUND, "reason")))

    @pytest.mark.parametrize("reason", list(Reason))
    def test_each_is_taken(self, reason: Reason) -> None:
        assert validation.refund_request(ORDER, "key", parse(REFUND | {"reason": reason})).reason is reason


class TestWords:
    @pytest.mark.parametrize("requested_by", [None, "", *NO_WORDS, "a" * 101])
    def test_a_bad_requested_by_is_refused(self, requested_by: object) -> None:
        assert refused_in_body({"requestedBy": requested_by}) == ["requestedBy"]

    def test_requested_by_must_be_given(self) -> None:
        body = parse(without(REFUND, "requestedBy"))
        assert fields_refused(lambda: validation.refund_request(ORDER, "key", body)) == ["requestedBy"]

    @pytest.mark.parametrize("note", [*NO_WORDS, "\n", "\r\n", "\t", "a" * 501])
    def test_a_bad_note_is_refused(self, note: object) -> None:
        assert refused_in_body({"note": note}) == ["note"]
        assert fields_refused(lambda: validation.withdrawal(parse({"note": note}))) == ["note"]
        assert fields_refused(lambda: resolution({}, {"note": note})) == ["evidence.note"]

    @pytest.mark.parametrize("reference", [None, "", *NO_WORDS, "a" * 201])
    def test_a_bad_reference_is_refused(self, reference: object) -> None:
        assert fields_refused(lambda: resolution({}, {"reference": reference})) == ["evidence.reference"]

    @pytest.mark.parametrize(("words", "place", "name"), BAD_WORDS)
    def test_what_may_not_stand_in_a_text_is_named_with_its_place(self, words: str, place: int, name: str) -> None:
        says = f"character {place} is {name}, which is not allowed"
        body = parse(REFUND | {"note": words, "requestedBy": words})
        refuse: Callable[[], object] = lambda: validation.refund_request(ORDER, "key", body)  # noqa: E731
        assert (said_of("note", refuse), said_of("requestedBy", refuse)) == (says, says)
        assert said_of("evidence.reference", lambda: resolution({}, {"reference": words})) == says

    @pytest.mark.parametrize(("words", "place", "name"), BAD_LINES)
    def test_what_makes_lines_is_taken_in_a_note_alone(self, words: str, place: int, name: str) -> None:
        says = f"character {place} is {name}, which is not allowed on one line"
        body = parse(REFUND | {"note": words, "requestedBy": words})
        with pytest.raises(InvalidRequest) as refused:
            validation.refund_request(ORDER, "key", body)
        assert [(error.field, error.detail) for error in refused.value.errors] == [("requestedBy", says)]

    @pytest.mark.parametrize(
        "words",
        [
            "a", "a" * 100, "Ibu Rina, kasir №7", "王小明", "Ramé 😀", 'it\'s "so" <b>&amp;</b>', " padded ",
            "pasted\u200b from\ufeff the web", "\u200eRina\u200f \u202aLRE\u202c", "soft\u00adhyphen", "👨‍👩‍👧",
            "\U000e0041a", "\ue000", "\U000f0000", "\u0378", "\u202f5", "క్‌ష", "ZW‍J",
        ],
    )  # fmt: skip
    def test_words_are_taken_as_they_are(self, words: str) -> None:
        request = validation.refund_request(ORDER, "key", parse(REFUND | {"requestedBy": words, "note": words}))

        assert (request.requested_by, request.note) == (words, words)
        assert resolution({}, {"reference": words}).evidence.reference == words
        assert validation.withdrawal({"note": words}) == words

    def test_a_name_is_the_same_however_its_accents_were_typed(self) -> None:
        composed, typed = "Ramé", "Rame\u0301"
        body = parse(REFUND | {"requestedBy": typed, "note": typed})

        request = validation.refund_request(ORDER, "key", body)

        assert (request.requested_by, request.note) == (composed, composed)
        assert validation.refund_message(parse(MESSAGE | {"requestedBy": typed}), "m1").requested_by == composed

    def test_a_text_that_grows_when_it_is_composed_is_taken_as_far_as_it_fits(self) -> None:
        """What is kept goes through the queue, and is held to the rule again."""
        grows = "\u0958"  # two characters in NFC
        kept = validation.refund_request(ORDER, "key", parse(REFUND | {"requestedBy": grows * 50})).requested_by
        assert len(kept) == 100
        assert refused_in_body({"requestedBy": grows * 51}) == ["requestedBy"]

    @pytest.mark.parametrize("lines", ["two\nlines", "of\r\nWindows", "a\ttable", "a" * 500])
    def test_a_note_may_have_lines(self, lines: str) -> None:
        assert validation.refund_request(ORDER, "key", parse(REFUND | {"note": lines})).note == lines

    @pytest.mark.parametrize("body", [without(REFUND, "note"), REFUND | {"note": None}, REFUND | {"note": ""}])
    def test_a_note_that_nobody_wrote_is_left_out(self, body: dict[str, Any]) -> None:
        assert validation.refund_request(ORDER, "key", parse(body)).note is None
        assert validation.withdrawal({name: body[name] for name in ("note",) if name in body}) is None

    def test_what_is_taken_hangs_on_no_table_of_the_runtimes(self) -> None:
        """Every character alone, against the ranges as the design has them."""

        def is_refused(code: int, *, lines: bool) -> bool:
            control = code < 0x20 or 0x7F <= code <= 0x9F
            return (
                (control and not (lines and chr(code) in "\t\n\r"))
                or 0xD800 <= code <= 0xDFFF
                or 0xFDD0 <= code <= 0xFDEF
                or code % 0x10000 in (0xFFFE, 0xFFFF)
                or code in (0x202D, 0x202E)
                or (not lines and code in (0x2028, 0x2029))
            )

        for lines in (False, True):
            expected = {code for code in range(0x110000) if is_refused(code, lines=lines)}
            assert all(texts.flaw(f"a{chr(code)}", 9, lines=lines) for code in expected)
            # The others together, at most 2,000 at a time: one by one they take seconds.
            taken = [chr(code) for code in range(0x110000) if code not in expected]
            for some in batched(taken, 2000, strict=False):
                flaw = texts.flaw("a" + "".join(some), 100_000, lines=lines)
                assert flaw is None, flaw

    def test_no_white_space_and_no_format_character_is_something_to_see(self) -> None:
        unseen = [chr(code) for code in range(0x110000) if unicodedata.category(chr(code)) in ("Cf", "Zs", "Zl", "Zp")]
        fillers = list("\u115f\u1160\u3164\uffa0\u2800\ufe0f\u034f\U000e0100")
        assert [text for text in [*unseen, *fillers] if not texts.flaw(text, 1, lines=True)] == []


class TestIdempotencyKey:
    BAD = ("", "k" * 256, "a\0b", "a\nb", "key\n", "\t", "\x7f", "clé", "キー", SURROGATE, " u", "u ",
           '"' + "k" * 256 + '"', '"clé"')  # fmt: skip

    @pytest.mark.parametrize("key", [None, *BAD])
    def test_a_bad_header_is_refused(self, key: str | None) -> None:
        assert fields_refused(lambda: validation.refund_request(ORDER, key, parse(REFUND))) == ["Idempotency-Key"]

    @pytest.mark.parametrize("key", [None, *NOT_A_TEXT, *BAD])
    def test_a_bad_one_in_a_message_is_refused(self, key: object) -> None:
        body = parse(MESSAGE | {"idempotencyKey": key})
        assert fields_refused(lambda: validation.refund_message(body, "m1")) == ["idempotencyKey"]

    def test_a_missing_one_is_said_to_be_missing(self) -> None:
        with pytest.raises(InvalidRequest, match="Idempotency-Key: is required"):
            validation.refund_request(ORDER, None, parse(REFUND))
        with pytest.raises(InvalidRequest, match="idempotencyKey: is required"):
            validation.refund_message(parse(without(MESSAGE, "idempotencyKey")), "m1")

    def read(self, value: str) -> Key:
        """By header and by queue alike."""
        by_api = validation.refund_request(ORDER, value, parse(REFUND))
        by_queue = validation.refund_message(parse(MESSAGE | {"idempotencyKey": value, "merchantId": "m1"}), "m1")
        found = [Key(each.idempotency_key, each.spelled_key, each.replay_only) for each in (by_api, by_queue)]
        assert found[0] == found[1]
        assert by_api.refund_id == by_queue.refund_id
        return found[0]

    @pytest.mark.parametrize(
        "key",
        ["k", "k" * 255, "a b", "~!@#$%^&*()", '"u', 'u"', 'a"b', '"u"v', '"u"; v=1', r'"a\b"', r'"a\"', "u;v", r"a\b"],
    )
    def test_printable_ascii_is_taken_as_it_is(self, key: str) -> None:
        assert self.read(key) == Key(key)

    @pytest.mark.parametrize(
        ("spelled", "key"),
        [
            ('"q-1"', "q-1"),
            ('"8e03978e-40d5-43e8-bc93-6894a57f9324"', "8e03978e-40d5-43e8-bc93-6894a57f9324"),
            ('"a b"', "a b"),
            ('"a,b"', "a,b"),
            (r'"a\"b"', 'a"b'),
            (r'"a\\b"', r"a\b"),
            (r'"\"u\""', '"u"'),
        ],
    )
    def test_a_structured_string_is_the_key_that_it_quotes(self, spelled: str, key: str) -> None:
        assert self.read(spelled) == Key(key, spelled)

    @pytest.mark.parametrize(
        ("spelled", "key"),
        [
            ("u,u", "u"),
            ("u, u", "u"),
            ("u ,u,  u", "u"),
            ('"u","u"', "u"),
            ('"u" , u', "u"),
            ('"u,"u', '"u'),
            ('"a,b","a,b"', "a,b"),
        ],
    )
    def test_a_header_that_was_sent_twice_is_one_key(self, spelled: str, key: str) -> None:
        assert self.read(spelled) == Key(key, spelled)

    def test_a_long_key_that_was_sent_twice_is_one_key(self) -> None:
        """No earlier release can have taken it as it is spelled."""
        assert self.read(",".join(["k" * 255] * 3)) == Key("k" * 255)
        assert self.read(f'"{"k" * 255}"') == Key("k" * 255)

    @pytest.mark.parametrize(
        "spelled",
        [
            *("a,b", "a, b", "u,v,u", "u,", ",u", ",", 'u,"v"', '"a,b', 'a"b,c"d', '"",""'),
            *('""', '" u"', '"u "', '"'),
        ],
    )
    def test_any_other_list_and_what_quotes_no_key_name_only_what_is_on_record(self, spelled: str) -> None:
        assert self.read(spelled) == Key(spelled, replay_only=True)

    def test_a_list_that_nothing_on_record_can_have_is_refused_as_a_list(self) -> None:
        refuse: Callable[[], object] = lambda: validation.refund_request(ORDER, f"{'a' * 200},{'b' * 200}", REFUND)  # noqa: E731
        assert said_of("Idempotency-Key", refuse) == validation.KEY_LIST_RULE

    KEYS = st.from_regex(keys.KEY, fullmatch=True)

    @given(KEYS, st.integers(2, 3), st.sampled_from([",", ", ", " , ", ",\t"]))
    def test_a_key_that_is_sent_again_and_again_never_names_another_refund(
        self, key: str, times: int, separator: str
    ) -> None:
        once, again = keys.read(key), keys.read(separator.join([key] * times))
        assert once is not None
        if not once.replay_only:
            assert again is not None
            assert again.key == once.key

    @given(KEYS, st.booleans())
    def test_what_is_on_record_under_a_key_is_found_by_it(self, key: str, quoted: bool) -> None:
        """As a message of the queue has it: an earlier release's key, or what a structured string quotes."""
        escaped = key.replace("\\", r"\\").replace('"', r"\"")
        on_record = keys.read(f'"{escaped}"') if quoted else Key(key)
        assert on_record is not None
        assert on_record.key == key
        found = keys.read(key)
        assert found is not None
        assert key in (found.key, found.spelled)


BAD_ORDER_IDS = (
    "", " ", ".", "..", "A B", "A/B", "/", "../x", "A#B", "#", "A?B", "A\\B", "A\nB", "A\n", ".\n", "\0", "A,B", "A;B",
    "A*B", "A|B",
    "A'B", 'A"B', "A~B", "A<B>", "A{B}", "PESANAN-É", "注文", "１", SURROGATE, "\U0001f600", "A" * 33,
)  # fmt: skip


class TestIds:
    @pytest.mark.parametrize("order_id", BAD_ORDER_IDS)
    def test_a_bad_order_id_is_refused(self, order_id: str) -> None:
        assert fields_refused(lambda: inputs.order_key("m1", order_id)) == ["merchantOrderId"]

    @pytest.mark.parametrize("order_id", [None, *NOT_A_TEXT, *BAD_ORDER_IDS])
    def test_a_bad_order_id_in_a_message_is_refused(self, order_id: object) -> None:
        body = parse(MESSAGE | {"merchantOrderId": order_id})
        assert fields_refused(lambda: validation.refund_message(body, "m1")) == ["merchantOrderId"]

    def test_a_message_without_an_order_id_is_refused(self) -> None:
        body = parse(without(MESSAGE, "merchantOrderId"))
        assert fields_refused(lambda: validation.refund_message(body, "m1")) == ["merchantOrderId"]

    @pytest.mark.parametrize("order_id", ["A", "a9=.-_+@:&^%!$", "%2F", "100%", "...", ".A", "A.", "A" * 32])
    def test_what_indodana_allows_is_taken_as_it_is(self, order_id: str) -> None:
        assert inputs.order_key("m1", order_id) == OrderKey("m1", order_id)

    @pytest.mark.parametrize(
        "merchant_id", [None, *NOT_A_TEXT, "", " ", "m 1", "m/1", "m#1", "m.1", "m1\n", "é", SURROGATE, "m" * 65]
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
        assert fields_refused(lambda: inputs.refund_id(refund_id)) == ["refundId"]

    def test_a_refund_id_is_taken_as_it_is(self) -> None:
        assert inputs.refund_id("0123456789abcdef" * 2) == "0123456789abcdef" * 2


class TestResolution:
    @pytest.mark.parametrize(
        "outcome", [None, *NOT_A_TEXT, "", "succeeded", "FAILED ", *sorted(set(RefundStatus) - {"SUCCEEDED", "FAILED"})]
    )
    def test_any_other_outcome_is_refused(self, outcome: object) -> None:
        assert fields_refused(lambda: resolution({"outcome": outcome})) == ["outcome"]

    def test_both_fields_must_be_given(self) -> None:
        assert fields_refused(lambda: validation.resolution({}, NOW)) == ["outcome", "evidence"]

    def test_it_is_read_with_its_evidence(self) -> None:
        checked = datetime(2026, 11, 23, 7, 30, tzinfo=UTC)
        evidence = Evidence(EvidenceSource.SETTLEMENT_REPORT, "2026-11-22.xlsx, line 12", checked, "the second of two")
        assert resolution({}) == Resolution(RefundStatus.FAILED, evidence)
        assert resolution({}, {"note": None}).evidence.note is None

    @pytest.mark.parametrize("evidence", [None, *NOT_A_TEXT[:-2], "", "ticket 4711"])
    def test_evidence_is_an_object(self, evidence: object) -> None:
        assert fields_refused(lambda: resolution({"evidence": evidence})) == ["evidence"]

    def test_evidence_in_the_form_of_earlier_releases_is_told_of_the_new_one(self) -> None:
        said = said_of("evidence", lambda: resolution({"evidence": "ticket 4711"}))
        assert "an object with source, reference, checkedAt" in said
        assert "If-Match" in said

    def test_all_that_is_wrong_with_evidence_is_said_at_once(self) -> None:
        refused = fields_refused(lambda: resolution({"outcome": "PERHAPS", "evidence": {"note": " ", "by": "rina"}}))
        assert refused == [
            *("outcome", "evidence.by", "evidence.source"),
            *("evidence.reference", "evidence.checkedAt", "evidence.note"),
        ]

    @pytest.mark.parametrize("source", [None, *NOT_A_TEXT, "", "settlement_report", "EMAIL"])
    def test_any_other_source_is_refused(self, source: object) -> None:
        assert fields_refused(lambda: resolution({}, {"source": source})) == ["evidence.source"]

    @pytest.mark.parametrize("source", EvidenceSource)
    def test_every_source_is_taken(self, source: EvidenceSource) -> None:
        assert resolution({}, {"source": str(source)}).evidence.source is source

    @pytest.mark.parametrize(
        "checked_at",
        [
            None, *NOT_A_TEXT, "", "yesterday", "2026-11-23", "2026-11-23T09:00:00", "2026-11-23 09:00:00Z",
            "2026-11-23T09:00:00z", "2026-11-23T09Z", "2026-11-23T24:00:00Z", "2026-11-23T09:60:00Z",
            "2026-02-30T09:00:00Z",
            "2026-13-01T09:00:00Z", "2026-11-23T09:00:60Z", "2026-11-23T09:00:00+7", "2026-11-23T09:00:00+07:60",
            "2026-11-23T09:00:00+24:00", "0001-01-01T00:00:00+07:00", "9999-12-31T23:59:59-07:00", "1795331100",
            "2026-11-23T09:00:00Z\n", "٢٠٢٦-11-23T09:00:00Z", "2026-W48-1T09:00:00Z", "2026-11-23T09:00:00.Z",
            "2026-11-23T09:00:00." + "0" * 10 + "Z",
        ],
    )  # fmt: skip
    def test_any_other_time_is_refused(self, checked_at: object) -> None:
        assert fields_refused(lambda: resolution({}, {"checkedAt": checked_at})) == ["evidence.checkedAt"]

    @pytest.mark.parametrize(
        "checked_at",
        [
            *(
                "2026-11-23T07:30Z",
                "2026-11-23T07:30:00Z",
                "2026-11-23T07:30:00.000Z",
                "2026-11-23T07:30:00.000000000Z",
            ),
            *(
                "2026-11-23T14:30:00+07:00",
                "2026-11-23T14:30+0700",
                "2026-11-22T20:00:00-11:30",
                "2026-11-23T07:30:00-00:00",
            ),
        ],
    )
    def test_a_time_with_its_offset_is_taken(self, checked_at: str) -> None:
        found = resolution({}, {"checkedAt": checked_at}).evidence.checked_at
        assert (found, found.tzinfo) == (datetime(2026, 11, 23, 7, 30, tzinfo=UTC), UTC)

    def test_what_succeeded_cannot_have_been_looked_up_later(self) -> None:
        """Whether what FAILED was looked up too early or is yet to be, the domain knows."""
        skew = timedelta(seconds=inputs.CLOCK_SKEW_SECONDS)
        for ahead, is_taken in ((skew, True), (skew + timedelta(microseconds=1), False)):
            evidence: dict[str, object] = {"checkedAt": (NOW + ahead).isoformat()}
            assert resolution({"outcome": "FAILED"}, evidence).evidence.checked_at == NOW + ahead
            if is_taken:
                assert resolution({"outcome": "SUCCEEDED"}, evidence).evidence.checked_at == NOW + ahead
            else:
                refused = fields_refused(lambda: resolution({"outcome": "SUCCEEDED"}, evidence))  # noqa: B023
                assert refused == ["evidence.checkedAt"]


class TestIfMatch:
    @pytest.mark.parametrize(
        ("tag", "version"), [('"1"', 1), ('"0"', 0), ('"42"', 42), ('"' + "9" * 18 + '"', 10**18 - 1)]
    )
    def test_a_strong_tag_is_the_refunds_version(self, tag: str, version: int) -> None:
        assert inputs.version_in(tag) == version

    @pytest.mark.parametrize(
        "tag",
        ["", " ", "*", "1", "'1'", '"', '""', '"1', 'W/"1"', 'w/"1"', '"1","1"', '"1", "2"', '"1" ', ' "1"', '"01"',
         '"-1"', '"+1"', '"1.0"', '"x"', '"١"', '"1"\n', '"' + "9" * 5000 + '"'],
    )  # fmt: skip
    def test_anything_else_is_refused(self, tag: str) -> None:
        assert fields_refused(lambda: inputs.version_in(tag)) == ["If-Match"]


class TestQuery:
    @pytest.mark.parametrize(
        "limit", ["", " ", "0", "-1", "+1", "101", "1000", "1.0", "1e1", "0x1", "ten", "٣", "²", "1\n", "9" * 5000]
    )
    def test_a_bad_limit_is_refused(self, limit: str) -> None:
        assert fields_refused(lambda: inputs.page_limit(limit)) == ["limit"]

    @pytest.mark.parametrize(("limit", "taken"), [(None, inputs.DEFAULT_PAGE), ("1", 1), ("100", 100)])
    def test_a_limit_is_taken(self, limit: str | None, taken: int) -> None:
        assert inputs.page_limit(limit) == taken

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
    body = parse({"amount": -1, "reason": "no", "note": " ", "requestedBy": "", "currency": "IDR"})

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
        assert isinstance(inputs.json_object(raw), dict)
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
        sent = {
            name: unicodedata.normalize("NFC", value) if isinstance(value, str) else value
            for name, value in parse(document).items()
            if not (name == "note" and value in (None, ""))
        }
        assert {name: value for name, value in taken.items() if value is not None} == sent
        assert keys.read(key) == Key(request.idempotency_key, request.spelled_key, request.replay_only)


@patient
@given(documents(MESSAGE), documents(RESOLUTION), documents(EVIDENCE))
def test_a_message_and_a_decision_are_refused_or_taken(
    message: dict[str, Any], decision: dict[str, Any], evidence: dict[str, Any]
) -> None:
    try:
        request = validation.refund_message(parse(message), "m1")
        assert request.order == OrderKey(message.get("merchantId", "m1"), message["merchantOrderId"])
        assert keys.read(message["idempotencyKey"]) == Key(
            request.idempotency_key, request.spelled_key, request.replay_only
        )
    except InvalidRequest as refused:
        assert_sayable(refused)
    for document in (decision, RESOLUTION | {"evidence": evidence}):
        try:
            found = validation.resolution(parse(document), NOW)
            source = document["evidence"]["source"]  # type: ignore[index]
            assert (found.outcome, found.evidence.source) == (document["outcome"], source)
        except InvalidRequest as refused:
            assert_sayable(refused)
    try:
        validation.withdrawal(parse(evidence))
    except InvalidRequest as refused:
        assert_sayable(refused)


@patient
@given(ANY_TEXT | ANY_JSON.map(lambda document: base64.urlsafe_b64encode(json.dumps(document).encode()).decode()))
def test_no_token_but_our_own_leads_anywhere(token: str) -> None:
    with pytest.raises(InvalidRequest):
        paging.start_of(token, attributes=frozenset({"pk", "sk"}), must_hold={"pk": "m1#ORDER-1"})
