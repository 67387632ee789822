"""What evidence keeps of values, names, depths and lengths, and of pages."""

from __future__ import annotations

import json
from email.message import Message
from typing import Any

import pytest

from indodana import evidence
from indodana.documents import parse
from indodana.masking import MAX_WORDS, Known


def kept(body: str, known: Known | None = None) -> str:
    raw = body.encode()
    return evidence.of(Message(), raw, parse(raw), known or Known()).body


def page(body: str, **headers: str) -> str:
    message = Message()
    for name, value in headers.items():
        message[name.replace("_", "-")] = value
    return evidence.of(message, body.encode(), None, Known()).body


def words(body: str) -> str:
    document = parse(body.encode())
    assert document
    return evidence.words(document.value, Known())


@pytest.mark.parametrize(
    ("body", "shape"),
    [
        ('{"status":true}', '{"status":true}'),
        ('{"status":false}', '{"status":false}'),
        ('{"other":true}', '{"other":"[boolean]"}'),
        ('{"status":null,"other":null}', '{"status":null,"other":null}'),
        ('{"status":12345678}', '{"status":12345678}'),
        ('{"status":123456789}', '{"status":"[number of 9]"}'),
        ('{"other":5}', '{"other":"[number of 1]"}'),
        ('{"amount":12345678901234567890}', '{"amount":12345678901234567890}'),
        ('{"amount":123456789012345678901}', '{"amount":"[number of 21]"}'),
        ('{"orderNumber":1701}', '{"orderNumber":1701}'),
        ('{"message":"sudah dibatalkan é"}', '{"message":"sudah dibatalkan é"}'),
        ('{"other":"sudah"}', '{"other":"[text of 5]"}'),
        ('{"transaction.status":"PAID","transaction-status":"PAID"}',) * 2,
        ('{"customer":{"a":1,"b":2}}', '{"customer":"[object of 2]"}'),
        ('{"customer":[1,2,3]}', '{"customer":"[list of 3]"}'),
        ('{"not a name":[1,2]}', '{"[name of 10]":"[list of 2]"}'),
        ('{"not a name":"abc"}', '{"[name of 10]":"[text of 3]"}'),
        ('{"not a name":1.5}', '{"[name of 10]":"[number of 3]"}'),
        ("[]", "[]"),
        ("{}", "{}"),
        ("1701", '"[number of 4]"'),
    ],
)
def test_a_value_is_kept_only_where_a_rule_lets_it(body: str, shape: str) -> None:
    assert kept(body) == shape


def test_words_keep_short_numbers_and_booleans() -> None:
    assert words('{"other":5,"yes":true,"text":"habis"}') == '{"other":5,"yes":true,"text":"habis"}'
    assert words('{"other":12345678,"more":123456789}') == '{"other":12345678,"more":"[number of 9]"}'


@pytest.mark.parametrize(("opening", "closing", "kind"), [("[", "]", "list"), ('{"status":', "}", "object")])
def test_evidence_is_twelve_levels_deep(opening: str, closing: str, kind: str) -> None:
    assert kept(opening * 12 + "null" + closing * 12) == opening * 12 + "null" + closing * 12
    deeper = kept(opening * 13 + "null" + closing * 13)
    assert deeper == opening * 12 + f'"[{kind} of 1]"' + closing * 12


@pytest.mark.parametrize("count", [400, 1000])
def test_what_finds_no_room_is_counted(count: int) -> None:
    shape = json.loads(kept(json.dumps(["x" * 5] * count)))
    assert len(shape) < count
    assert shape[:-1] == ["[text of 5]"] * (len(shape) - 1)
    assert shape[-1] == f"[{count - len(shape) + 1} more]"
    assert 3000 < len(json.dumps(shape)) < 4000


def test_members_that_find_no_room_are_counted() -> None:
    shape: dict[str, Any] = json.loads(kept(json.dumps({f"field{number}": 1 for number in range(1000)})))
    assert shape["…"] == f"[{1000 - len(shape) + 1} more]"


def test_what_just_finds_room_is_not_counted_as_missing() -> None:
    for count in range(200, 320):
        shape = json.loads(kept(json.dumps(["x" * 5] * count)))
        missing = count - len(shape) + (len(shape) > 200 and shape[-1] != "[text of 5]")
        assert missing == 0 or shape[-1] == f"[{missing} more]"
        assert "[0 more]" not in shape


def test_words_keep_to_their_length() -> None:
    said = words(json.dumps([{"text": "habis " * 5}] * 50))
    assert len(said) <= MAX_WORDS
    json.loads(said)


@pytest.mark.parametrize(
    ("body", "title"),
    [
        ("<title>Bad Gateway</title>", "Bad Gateway"),
        ("<html><TITLE lang=id> Bad &amp; Gateway\n</TITLE>", "Bad & Gateway"),
        ("<title></title>", None),
        ("<p>hello</p>", None),
        ("x<p>hello</p>", None),
        ("hello", None),
        ("<title", None),
        ("<title>no end", None),
    ],
)
def test_a_page_is_known_by_its_title(body: str, title: str | None) -> None:
    told = page(body, Content_Type="text/html; charset=utf-8", Server="nginx", Via="1.1 proxy")
    parts = [f"not JSON: text/html, {len(body)} bytes", *([f"title: {title}"] if title else []), "server: nginx"]
    assert told == "; ".join([*parts, "via: 1.1 proxy"])


def test_a_page_without_headers_is_of_an_unknown_type() -> None:
    assert page("hello") == "not JSON: unknown type, 5 bytes"
    assert page("hello", Content_Type="<script>") == "not JSON: unknown type, 5 bytes"
    assert page("hello", Server="x" * 200) == f"not JSON: unknown type, 5 bytes; server: {'x' * 100}"
    assert page("<title>" + "x" * 999 + "&#121;</title>").endswith("x" * 100)
