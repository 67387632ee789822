import json
import time

import pytest
from hypothesis import given
from hypothesis import strategies as st

from indodana import redact, redact_value
from indodana.redaction import MAX_CHARACTERS, MAX_DEPTH

# As a name and a key look, and found in nothing else that the tests make.
PRIVATE = "Budi-5A7T0S0"


@pytest.mark.parametrize(
    "name",
    [
        "legalName",
        "LegalName",
        "legal_name",
        "LEGAL-NAME",
        "customerLegalName",
        "indodanaUserId",
        "INDODANA_USER_ID",
        "apiKey",
        "api-key",
        "secretKey",
        "secret",
        "Authorization",
        "signature",
        "x-signature",
    ],
)
@pytest.mark.parametrize("value", [PRIVATE, [PRIVATE], {"first": PRIVATE}], ids=["text", "list", "object"])
def test_a_sensitive_field_is_redacted_however_its_name_is_written(name: str, value: object) -> None:
    redacted = redact(json.dumps({"error": [{name: value, "kind": "NotFoundError"}]}))
    assert PRIVATE not in redacted
    assert json.loads(redacted)["error"][0] == {name: "[redacted]", "kind": "NotFoundError"}


def test_what_is_neither_secret_nor_personal_stays_and_numbers_keep_their_spelling() -> None:
    body = '{"status":"OK","amount":1000.00,"big":12345678901234567890.10,"e":1E5,"né":"密","no":[null,true,-0]}'
    assert redact(body) == body


@pytest.mark.parametrize(
    "text",
    [
        f"Authorization: Bearer {PRIVATE}:1:abc",
        f"got 'bearer {PRIVATE}' from you",
        f"legalName={PRIVATE}&amount=1",
        f"legal name: {PRIVATE}, {PRIVATE}",
        f"<legalName>{PRIVATE}</legalName>",
        f'{{"legalName": "{PRIVATE}", truncated',
        f'{{"legalName": "a \\" quoted {PRIVATE}", truncated',
        f'{{"legalName": "unterminated {PRIVATE}',
        f'{{"legalName": {{"first": "{PRIVATE}"',
        f'{{"legalName": ["{PRIVATE}"',
        f"{{'legalName': '{PRIVATE}'}}",
        f'failed on {{\\"legalName\\": \\"{PRIVATE}\\", \\"amount\\": 1}}',
        f'failed on {{\\\\\\"legalName\\\\\\": \\\\\\"{PRIVATE}\\\\\\"}}',
        f'failed on {{\\"legalName\\": \\"a \\\\\\" quoted {PRIVATE}\\"}}',
        f"{PRIVATE}:1569479066:" + "5eee2829cefdf6c578bf276ab169f322c1ce0da36f18dc582cfb511bfa965121",
        f"secret key: {PRIVATE}",
    ],
)
@pytest.mark.parametrize("wrap", [str, json.dumps, lambda text: json.dumps({"message": text})], ids=range(3))
def test_text_that_is_not_json_is_scrubbed_also_within_json(text: str, wrap: type[str]) -> None:
    assert PRIVATE not in redact(wrap(text))


def test_scrubbing_leaves_the_rest_of_a_text() -> None:
    assert redact(f"order O1: legalName={PRIVATE}&amount=1") == "order O1: legalName=[redacted]&amount=1"
    assert redact(f"try Bearer {PRIVATE} again") == "try Bearer [redacted] again"
    assert redact(f'oops {{"legalName": "{PRIVATE}", "amount": 1}}') == 'oops {"legalName": [redacted], "amount": 1}'
    assert redact("<html>502 Bad Gateway</html>") == "<html>502 Bad Gateway</html>"
    assert redact("") == ""


json_values = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False) | st.text(max_size=8),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(max_size=8), inner, max_size=4),
    max_leaves=8,
)
sensitive = st.sampled_from(["legalName", "legal_name", "INDODANA-USER-ID", "apiKey", "Secret_Key", "authorization"])
private_values = st.sampled_from([PRIVATE, [PRIVATE], {"given": PRIVATE}, f'a "{PRIVATE}" \\ b', f"é\n{PRIVATE}"])
with_private = st.recursive(
    st.builds(lambda name, value, others: {**others, name: value}, sensitive, private_values, st.just({"a": 1})),
    lambda inner: (
        st.tuples(json_values, inner).map(list)
        | st.builds(lambda name, value, other: {name: value, "other": other}, st.text(max_size=8), inner, json_values)
        | inner.map(json.dumps)  # JSON as a text within JSON, escaped once more
        | inner.map(lambda value: f"failed: {json.dumps(value)}")
        | inner.map(lambda value: f"failed: {json.dumps(value)[:-1]}")
    ),
    max_leaves=4,
)


@given(with_private)
def test_no_personal_value_comes_through_wherever_it_is_nested(value: object) -> None:
    assert PRIVATE not in redact(json.dumps(value))
    assert PRIVATE not in redact(json.dumps(value, ensure_ascii=False, indent=1))
    assert PRIVATE not in json.dumps(redact_value(value))


@given(st.text() | json_values.map(json.dumps))
def test_anything_is_redacted_to_something_that_can_be_stored(text: str) -> None:
    assert len(redact(text).encode("utf-8")) <= 4 * MAX_CHARACTERS


def test_half_a_surrogate_pair_does_not_come_out() -> None:
    assert redact('{"message":"\\ud800 \\ud83d\\ude00"}') == '{"message":"? 😀"}'
    assert redact_value({"message": "\ud800"}) == {"message": "?"}


def test_a_long_text_is_cut_and_says_by_how_much() -> None:
    redacted = redact("x" * 10_000)
    kept, note = redacted.split("…")
    assert len(redacted) <= MAX_CHARACTERS
    assert note == f" [{10_000 - len(kept)} characters cut]"
    assert len(kept) > 3_900
    assert redact("x" * MAX_CHARACTERS) == "x" * MAX_CHARACTERS


def test_a_value_that_the_cut_falls_into_is_redacted_before() -> None:
    assert PRIVATE[:6] not in redact("x" * (MAX_CHARACTERS - 60) + f" legalName={PRIVATE}")


def test_what_is_nested_too_deep_is_redacted_whole() -> None:
    deep: object = PRIVATE
    for _ in range(MAX_DEPTH + 1):
        deep = [deep]
    assert PRIVATE not in redact(json.dumps(deep))
    assert redact("[" * 100_000).startswith("[[[")


@pytest.mark.parametrize("filler", ["legalName ", '\\"', "legal   ", "a:1:", '"legalName":"', "bearer ", "\\", "a"])
def test_a_hostile_body_of_the_largest_size_takes_no_time(filler: str) -> None:
    started = time.process_time()
    redact(filler * (65_536 // len(filler)))
    assert time.process_time() - started < 1


def test_an_error_message_is_redacted_as_text_and_as_object() -> None:
    assert redact_value(f"legalName: {PRIVATE}") == "legalName: [redacted]"
    assert redact_value({"amount": 5, "legalName": PRIVATE}) == {"amount": 5, "legalName": "[redacted]"}
    assert redact_value(None) is None
