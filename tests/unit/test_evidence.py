"""What is kept of an answer, and that it gives nobody away."""

from __future__ import annotations

import base64
import html
import json
import logging
from collections.abc import Callable
from decimal import Decimal
from hashlib import sha256
from http.client import HTTPMessage
from typing import Any
from urllib.parse import quote, quote_plus

import pytest
import simplejson
from hypothesis import given
from hypothesis import strategies as st

from indodana import evidence
from indodana.documents import parse
from indodana.evidence import MAX_CHARACTERS, MAX_DEPTH
from indodana.masking import MAX_WORDS, Known

ORDER, REFUND = "ORDER-081234567890", "9876543210abcdef9876543210abcdef"
API_KEY, SECRET_KEY = "Key/4711+live", "s3cr3t-key&0815"
SIGNATURE = "5eee2829cefdf6c578bf276ab169f322c1ce0da36f18dc582cfb511bfa965121"
CANCELLED_BY, CUSTOMER = "Rina Wijaya", "Budi Säntoso"
KNOWN = Known((ORDER, REFUND), Decimal(1_000_000_000), (API_KEY, SECRET_KEY, SIGNATURE, CANCELLED_BY, CUSTOMER))
# As nothing else looks that the tests make.
PRIVATE = "Budi-5A7T0S0"


def kept(body: str | bytes, known: Known = KNOWN, **headers: str) -> str:
    raw = body if isinstance(body, bytes) else body.encode()
    fields = HTTPMessage()
    for name, value in headers.items():
        fields[name.replace("_", "-")] = value
    made = evidence.of(fields, raw, parse(raw), known)
    assert made.sha256 == sha256(raw).hexdigest()
    assert len(made.body) <= MAX_CHARACTERS
    made.body.encode()
    return made.body


def shape(value: object, known: Known = KNOWN) -> Any:
    return json.loads(kept(json.dumps(value), known), parse_float=Decimal)


# JSON


def test_known_fields_keep_their_values() -> None:
    known = {
        "status": "OK",
        "transactionStatus": "PAID",
        "merchantOrderId": ORDER,
        "transactionId": "trx-0123456789",
        "amount": 4500000,
        "paymentType": "3_months",
        "transactionTime": "2019-09-26T06:24:26+0000",
        "fraudStatus": "ACCEPT",
        "refundId": REFUND,
        "cancellationId": "012345678901",
        "cancellationAmount": Decimal("1000000000.50"),
        "refundAmount": "1000000000.00",
        "cancellationStatus": "DONE",
        "refundStatus": "SUCCESS",
        "cancellationDate": "2019-09-12T18:18:18+07:00",
        "error": {"kind": "ValidationError", "message": "Saldo tidak cukup"},
        "data": [{"status": "OK", "transaction_id": 4711, "message": None}],
    }
    text = kept(simplejson.dumps(known, use_decimal=True))
    assert simplejson.loads(text, use_decimal=True) == known


def test_of_other_fields_the_shape_is_kept() -> None:
    assert shape(
        {"note": PRIVATE, "score": 712.5, "vip": True, "gone": None, "list": [PRIVATE, 1], "inner": {"a": {"b": ""}}}
    ) == {
        "note": f"[text of {len(PRIVATE)}]",
        "score": "[number of 5]",
        "vip": "[boolean]",
        "gone": None,
        "list": [f"[text of {len(PRIVATE)}]", "[number of 1]"],
        "inner": {"a": {"b": "[text of 0]"}},
    }


@pytest.mark.parametrize(
    "name",
    ["bankReferenceNumber", "trace_id", "RESPONSE-CODE", "approvalCode", "id", "Reference", "requestid", "rrn.number"],
)
@pytest.mark.parametrize("value", ["A-17.b_9", "4711", 4711, "x" * 64])
def test_a_reference_keeps_its_value_by_its_name(name: str, value: object) -> None:
    assert shape({name: value}) == {name: value}


@pytest.mark.parametrize(
    "value",
    [
        "x" * 65,
        "two words",
        "budi@example.com",
        "é",
        "",
        "081234567890",
        "0812-3456-7890",
        "0812.3456.7890",
        "6281234567890",
        "81234567890",
        "tel081234567890",
        81234567890,
        "3201234567890123",
        3201234567890123,
        "32.01.23.456789.0123",
        "4111111111111111",
        "4111-1111-1111-1111",
        "378282246310005",
        "4222222222222",
        SIGNATURE,
    ],
    ids=str,
)
@pytest.mark.parametrize("name", ["bankReferenceNumber", "traceId", "code"])
def test_a_reference_that_could_be_somebodys_number_is_not_kept(name: str, value: object) -> None:
    assert str(shape({name: value})[name]).startswith(("[text of ", "[number of "))


def test_a_reference_with_a_secret_in_it_is_not_kept() -> None:
    known = Known(private=("live-4711", "Rina"))
    for value in ("live-4711", "LIVE-4711", "x.live-4711.y", "rina", "bGl2ZS00NzEx", base64_of("key:live-4711")):
        assert shape({"traceId": value}, known) == {"traceId": f"[text of {len(value)}]"}


@pytest.mark.parametrize(
    "name",
    [
        "legalName", "LEGAL_NAME", "legal-name", "legalname", "indodanaUserId", "INDODANA_USER_ID", "customerId",
        "phoneNumber", "phone_number", "mobileNumber", "msisdn", "nikNumber", "NIKNumber", "ktp_number", "cardNumber",
        "accountNumber", "email", "e-mail", "fullName", "name", "nama", "cancelledBy", "userId", "apiKey", "secretKey",
        "signature", "X-Signature", "authorizationCode", "pinCode", "otpCode", "accessToken", "passportNumber",
        "hp.number",
    ],
)  # fmt: skip
@pytest.mark.parametrize(
    "value", [PRIVATE, [PRIVATE], {"status": PRIVATE}, 4711], ids=["text", "list", "object", "number"]
)
def test_a_personal_field_never_keeps_its_value(name: str, value: object) -> None:
    text = kept(json.dumps({"error": [{name: value, "kind": "NotFoundError"}]}))
    assert PRIVATE not in text
    assert "4711" not in text
    assert json.loads(text)["error"][0]["kind"] == "NotFoundError"


@pytest.mark.parametrize(
    "name", ["Budi Santoso", "budi@example.com", "0812 3456 7890", "", "1a", "x" * 49, "id_081234567890", "nama:", "né"]
)
@pytest.mark.parametrize("value", [PRIVATE, {"message": PRIVATE}, ["x"]], ids=["text", "object", "list"])
def test_a_name_that_looks_like_none_is_not_kept(name: str, value: object) -> None:
    text = kept(json.dumps({"status": "OK", name: value}))
    assert PRIVATE not in text
    assert json.loads(text)["status"] == "OK"
    assert f"[name of {len(name)}]" in text


def test_a_key_that_stands_twice_is_shown_twice() -> None:
    assert kept('{"status":"ERROR","status":"OK","a":{"b":1,"b":1}}') == (
        '{"status":"ERROR","status":"OK","a":{"b":"[number of 1]","b":"[number of 1]"}}'
    )


@pytest.mark.parametrize(
    "body",
    [
        json.dumps({f"field{number}": "x" for number in range(4000)}),
        json.dumps([{}] * 20_000),
        json.dumps([[]] * 20_000),
        json.dumps([1] * 30_000),
        json.dumps({"message": ["\u0001\u0002" * 200] * 100}),
        json.dumps({"message": ['"\\' * 250] * 100}),
        json.dumps({"a": [{"b": [{"c": [{"message": "x" * 400}] * 20}] * 20}] * 20}),
        json.dumps({f"{'x' * 40}{number}": {} for number in range(1000)}),
        "[" * 700 + "]" * 700,
        "[" * 30_000,
    ],
    ids=lambda body: str(body)[:20],
)
def test_much_is_cut_and_stays_json(body: str) -> None:
    text = kept(body)
    if body.endswith(("]", "}")):
        json.loads(text)
        assert " more]" in text or " of 1]" in text


def test_what_is_nested_too_deep_is_not_looked_at() -> None:
    deep: object = {"message": PRIVATE}
    for _ in range(MAX_DEPTH):
        deep = [deep]
    assert PRIVATE not in kept(json.dumps(deep))
    assert PRIVATE in kept(json.dumps({"message": PRIVATE}))


@pytest.mark.parametrize("body", ['"OK"', "17", "null", "[]", "{}", "true"])
def test_json_that_is_no_object_is_kept_likewise(body: str) -> None:
    assert kept(body) in ('"[text of 2]"', '"[number of 2]"', "null", "[]", "{}", '"[boolean]"')


# Anything else


def test_of_a_page_one_sees_who_answered() -> None:
    page = "<html><head><TITLE lang=en>\n 403 &amp; Forbidden </TITLE></head><body>for Budi</body></html>"
    headers: Any = {"Content_Type": "text/html; charset=utf-8", "Server": "nginx/1.25", "Via": "1.1 varnish"}
    assert kept(page, **headers) == (
        f"not JSON: text/html, {len(page)} bytes; title: 403 & Forbidden; server: nginx/1.25; via: 1.1 varnish"
    )


@pytest.mark.parametrize(
    ("body", "told"),
    [
        (b"", "not JSON: unknown type, 0 bytes"),
        (b"Budi Santoso", "not JSON: unknown type, 12 bytes"),
        (b"\xff\xfe\x00\x00", "not JSON: unknown type, 4 bytes"),
        (b"\xef\xbb\xbf<title>Sorry</title>", "not JSON: unknown type, 23 bytes; title: Sorry"),
        (b"<title>Sorry", "not JSON: unknown type, 12 bytes"),
        (b"<title>caf\xe9\x00</title>", "not JSON: unknown type, 20 bytes; title: caf\N{REPLACEMENT CHARACTER} "),
        (b'{"legalName": "Budi Santoso"', "not JSON: unknown type, 28 bytes"),
        (b'{"amount": NaN}', "not JSON: unknown type, 15 bytes"),
    ],
)
def test_of_what_is_no_json_its_length_is_kept(body: bytes, told: str) -> None:
    assert kept(body) == told


def test_a_title_and_headers_are_masked_and_short() -> None:
    page = f"<title>{'x' * 5000} budi@example.com {CUSTOMER}</title>"
    text = kept(page, Server=f"{CUSTOMER} 0812 3456 7890", Via="y" * 5000, Content_Type="Budi Santoso")
    for private in ("Budi", "3456", "example", "x" * 101, "y" * 101):
        assert private not in text


# Words for people


@pytest.mark.parametrize(
    ("text", "masked"),
    [
        ("Saldo tidak cukup", "Saldo tidak cukup"),
        ("hubungi budi.santoso+qris@mail.example.co.id segera", "hubungi [masked] segera"),
        ("budi%40example.com", "[masked]"),
        ("<budi@example.com>, ani@localhost", "<[masked]>, [masked]"),
        ("ani@example.com" * 3, "[masked]"),
        ("telp 081234567890!", "telp [masked]!"),
        ("+62 812-3456-7890", "+[masked]"),
        ("(0812) 3456 - 7890.", "([masked]."),
        ("0812/345/678", "[masked]"),
        ("0812\u2013345\u00a0678", "[masked]"),
        ("\uff10\uff18\uff11\uff12\uff13\uff14\uff15\uff16\uff17", "[masked]"),
        ("0812\u200b3456\u200b7890", "[masked]"),
        ("081\x00234\x00567", "[masked]"),
        ("NIK 3201234567890123", "NIK [masked]"),
        ("12345678", "12345678"),
        ("HTTP 500 at 2019-09-26", "HTTP 500 at 2019-09-26"),
        (f"order {ORDER} is unknown", f"order {ORDER} is unknown"),
        (f"refund {REFUND} is unknown", f"refund {REFUND} is unknown"),
        (f"order {ORDER}1 and 081234567890", f"order {ORDER[:6]}[masked] and [masked]"),
        ("1000000000, 1.000.000.000, 1000000000.00", "[masked]"),
        ("of 1000000000 rupiah", "of 1000000000 rupiah"),
        ("of Rp1.000.000.000,00", "of Rp1.000.000.000,00"),
        ("of 1000000001 rupiah", "of [masked] rupiah"),
        ("try Bearer abc:1:def again", "try [masked] again"),
        ("legalName=Budi&amount=1", "legalName=[masked]"),
        ('failed on {"customer_name": "Budi"}', 'failed on {"customer_name":[masked]'),
        ('failed on {\\"phone\\": 12}', 'failed on {\\"phone\\":[masked]'),
        ("<legalName>Budi</legalName>", "<legalName>[masked]"),
        ("no HP: 12 34", "no HP:[masked]"),
        ("a\nb\tc\x00d\ud800e", "a b c d e"),
    ],
)
def test_words_are_masked_and_stay_words(text: str, masked: str) -> None:
    assert KNOWN.mask(text) == masked


PRIVATE_VALUES = {
    "apiKey": API_KEY,
    "secretKey": SECRET_KEY,
    "signature": SIGNATURE,
    "cancelledBy": CANCELLED_BY,
    "customer": CUSTOMER,
}
COATS: dict[str, Callable[[str], str]] = {
    "plain": str,
    "upper case": str.upper,
    "lower case": str.lower,
    "URL": lambda text: quote(text, safe=""),
    "form": quote_plus,
    "URL, each character": lambda text: "".join(f"%{byte:02x}" for byte in text.encode()),
    "URL twice": lambda text: quote(quote(text, safe=""), safe=""),
    "page": html.escape,
    "page, each character": lambda text: "".join(f"&#{ord(char)};" for char in text),
    "page, hexadecimal": lambda text: "".join(f"&#x{ord(char):X}" + ";" for char in text),
    "JSON": lambda text: json.dumps(text)[1:-1],
    "JSON, each character": lambda text: "".join(f"\\u{ord(char):04x}" for char in text),
    "JSON in a URL": lambda text: quote("".join(f"\\u{ord(char):04X}" for char in text)),
    "base64": lambda text: base64.b64encode(text.encode()).decode(),
    "base64 for URLs": lambda text: base64.urlsafe_b64encode(text.encode()).decode().rstrip("="),
    "base64 of more": lambda text: base64.b64encode(f"k:{text}:9".encode()).decode(),
    "base64 of still more": lambda text: base64.b64encode(f"key {text}.".encode()).decode(),
    "base64 in a URL": lambda text: quote(base64.b64encode(text.encode()).decode(), safe=""),
    "more spaces": lambda text: text.replace(" ", "  \n"),
    "wide": lambda text: "".join(chr(ord(char) + 0xFEE0) if "!" <= char <= "~" else char for char in text),
}


def base64_of(text: str) -> str:
    return base64.urlsafe_b64encode(text.encode()).decode().rstrip("=")


@pytest.mark.parametrize("coat", COATS)
@pytest.mark.parametrize("value", PRIVATE_VALUES)
def test_what_the_exchange_knows_to_be_private_is_found_in_any_coat(value: str, coat: str) -> None:
    hidden = COATS[coat](PRIVATE_VALUES[value])
    for text in (hidden, f"refused for {hidden} today", f"x={hidden}&y"):
        for kept_text in (KNOWN.mask(text), kept(json.dumps({"message": text, "error": {"kind": text}}))):
            assert hidden not in kept_text, kept_text
            assert PRIVATE_VALUES[value].casefold() not in kept_text.casefold()


def test_a_short_name_is_found_as_a_word_of_its_own_only() -> None:
    known = Known(private=("Al",))
    assert known.mask("asked for by al: total 5") == "asked for by [masked]: total 5"


def test_an_id_that_is_short_does_not_let_a_telephone_number_through() -> None:
    known = Known(("3", "12345"))
    assert known.mask("telp 0812345678") == "telp [masked]"


def test_a_long_text_is_cut_and_nothing_is_cut_in_two_before_it_is_masked() -> None:
    assert KNOWN.mask("x" * 10_000) == "x" * (MAX_WORDS - 1) + "…"
    for length in range(4000, 4110):
        numbers = "123456789 x " * 340
        assert "0812" not in KNOWN.mask(f"{numbers[:length]}x 081234567890")
    for length in range(460, 510):
        assert "0812" not in KNOWN.mask("x" * length + " 081234567890")


@given(st.text() | st.text("0123456789 -+()@.", max_size=300))
def test_whatever_is_masked_can_be_stored_and_is_short(text: str) -> None:
    masked = KNOWN.mask(text)
    masked.encode()
    assert masked.isprintable()
    assert len(masked) <= MAX_WORDS


json_values = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False, allow_infinity=False) | st.text(max_size=8),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(max_size=8), inner, max_size=4),
    max_leaves=8,
)
personal_names = st.sampled_from(
    ["legalName", "legal_name", "INDODANA-USER-ID", "apiKey", "Secret_Key", "authorization"]
)
private_values = st.sampled_from([PRIVATE, [PRIVATE], {"given": PRIVATE}, f'a "{PRIVATE}" \\ b', f"é\n{PRIVATE}"])
with_private = st.recursive(
    st.builds(lambda name, value, others: {**others, name: value}, personal_names, private_values, st.just({"a": 1})),
    lambda inner: (
        st.tuples(json_values, inner).map(list)
        | st.builds(lambda name, value, other: {name: value, "other": other}, st.text(max_size=8), inner, json_values)
        | st.builds(lambda value: {"message": value}, inner)
        | inner.map(json.dumps)  # JSON as a text within JSON, escaped once more
        | inner.map(lambda value: {"message": f"failed: {json.dumps(value)}"})
        | inner.map(lambda value: {"message": f"failed: {json.dumps(value)[:-1]}"})
    ),
    max_leaves=4,
)


@given(with_private)
def test_no_personal_value_comes_through_wherever_it_is_nested(value: object) -> None:
    assert PRIVATE not in kept(json.dumps(value))
    assert PRIVATE not in kept(json.dumps(value, ensure_ascii=False, indent=1))
    document: Any = parse(json.dumps(value).encode())
    assert PRIVATE not in evidence.words(value if isinstance(value, str) else document.value, KNOWN)


@given(st.binary(max_size=200) | json_values.map(lambda value: json.dumps(value).encode()))
def test_of_anything_something_is_kept_that_can_be_stored(body: bytes) -> None:
    kept(body)


def test_evidence_that_cannot_be_made_is_missed_and_not_fatal(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    def fails(*_: object) -> None:
        raise RuntimeError(PRIVATE)

    monkeypatch.setattr("indodana.masking.Known.mask", fails)
    assert kept('{"message": "x"}') == "[answer of 16 bytes]"
    [record] = caplog.records
    assert (record.name, record.levelno) == ("indodana", logging.ERROR)
    assert "RuntimeError" in caplog.text
    assert PRIVATE not in caplog.text
