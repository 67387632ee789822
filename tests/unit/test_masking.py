"""What masking finds, in which disguise, and what it leaves alone."""

from __future__ import annotations

import base64
from decimal import Decimal

import pytest

from indodana import AnswerEvidence, CancellationAccepted, evidence
from indodana.masking import MAX_WORDS, Known


def b64(raw: bytes) -> str:
    return base64.b64encode(raw).decode()


@pytest.mark.parametrize("before", range(4))
@pytest.mark.parametrize("after", range(4))
@pytest.mark.parametrize("secret", ["s3cr3t!", "s3cr3t!!", "the-secret-key"])
def test_a_secret_within_base64_is_found_wherever_it_stands(secret: str, before: int, after: int) -> None:
    text = b64(b"ab>?"[:before] + secret.encode() + b"\xff~yz"[:after])
    known = Known(private=(secret,))
    assert known.shows_private(f"token={text};")
    assert known.shows_private(text.replace("+", "-").replace("/", "_"))
    assert known.mask(f"token {text}") == f"[text of {len(text) + 6}]"


def test_a_short_secret_is_found_where_it_is_all_of_a_base64_text() -> None:
    assert Known(private=("k3y!",)).shows_private(f"key {b64(b'k3y!')}")
    assert not Known(private=("ab",)).shows_private(f"key {b64(b'ab')}")


def test_other_base64_shows_no_secret() -> None:
    known = Known(private=("the-secret-key", "k3y!"))
    assert not known.shows_private(b64(b"the-public-key and some other words"))


@pytest.mark.parametrize(
    "text", [r"\u0073ecret-key", r"\x73ecret-key", "&#115;ecret-key", "%73ecret-key", "%2573ecret-key"]
)
def test_a_secret_that_is_escaped_is_found(text: str) -> None:
    assert Known(private=("secret-key",)).shows_private(f"it is {text}.")
    assert not Known(private=("secret-kez",)).shows_private(f"it is {text}.")


def test_a_secret_of_one_character_is_found_as_a_word_of_its_own() -> None:
    known = Known(private=("7",))
    assert known.shows_private("code 7!")
    assert not known.shows_private("code 77")
    assert known.mask("code 7, not 77") == "code [masked], not 77"


@pytest.mark.parametrize("blank", ["", " ", "+"])
def test_a_blank_value_hides_nothing(blank: str) -> None:
    assert Known(private=(blank,)).mask("a b, c") == "a b, c"


def test_a_value_of_four_characters_is_masked_within_words() -> None:
    assert Known(private=("k3y9",)).mask("xK3Y9x") == "x[masked]x"
    assert Known(private=("k3y",)).mask("xk3yx k3y") == "xk3yx [masked]"


def test_a_value_that_is_no_text_of_unicode_is_looked_for_all_the_same() -> None:
    known = Known(private=("\ud800-secret",))
    assert not known.shows_private("nothing of it")
    assert known.shows_private("\ud800-secret")


def test_only_what_is_part_of_an_own_id_is_an_own_number() -> None:
    known = Known(ids=("R-123456789",), amount=Decimal("1234567890.50"))
    assert known.mask("R-123456789 first") == "R-123456789 first"
    assert known.mask("987654321 and R-123456789") == "[masked] and R-123456789"
    assert known.mask("R-123456789 and 987654321") == "R-123456789 and [masked]"
    assert known.mask("123456789 alone, 1234567890.50 paid") == "[masked] alone, 1234567890.50 paid"
    assert Known(amount=Decimal(123_456_789)).mask("123456789 and 123456789.00") == "123456789 and 123456789.00"
    assert Known().mask("12345678 and 123456789") == "12345678 and [masked]"


def test_a_text_is_kept_up_to_its_largest_length() -> None:
    assert Known().mask("x" * MAX_WORDS) == "x" * MAX_WORDS
    assert Known().mask("x" * (MAX_WORDS + 1)) == "x" * (MAX_WORDS - 1) + "…"


def test_nothing_is_left_of_a_long_text_whose_beginning_is_masked() -> None:
    address = "x" * 3000 + "@example.com"
    assert Known().mask(address.ljust(4096, "y")) == "[masked]"
    assert Known().mask(address.ljust(4097, "y")) == "[text of 4097]"
    assert Known().mask("x" * 4096 + " 0812345678901") == "x" * (MAX_WORDS - 1) + "…"


PERSONAL = (
    *("name", "nama", "phone", "telepon", "telp", "mobile", "msisdn", "whatsapp", "email", "address", "alamat"),
    *("passport", "birth", "customer", "user", "secret", "token", "password", "signature", "authorization", "cookie"),
    *("apikey", "cancelledby", "e-mail", "api key", "api_key", "api-key"),
    *("hp", "wa", "nik", "ktp", "npwp", "dob", "pin", "otp", "cvv"),
)


@pytest.mark.parametrize("word", PERSONAL)
def test_what_follows_a_personal_word_is_masked(word: str) -> None:
    for sign in (":", "=", ">", " %3A", '" :'):
        text = f"refused, {word.upper()}{sign}Budi"
        assert Known().mask(text) == text.removesuffix("Budi") + "[masked]"
    assert Known().mask(f"refused, {word}less") == f"refused, {word}less"


@pytest.mark.parametrize("word", ["hp", "wa", "nik", "ktp", "npwp", "dob", "pin", "otp", "cvv"])
def test_short_personal_words_count_only_alone(word: str) -> None:
    assert Known().mask(f"x{word}: Budi") == f"x{word}: Budi"


@pytest.mark.parametrize(
    ("text", "masked"),
    [
        ("Bearer abc.def rest", "[masked] rest"),
        ("to a.b+c-d@example.com now", "to [masked] now"),
        ("to a%40b.id, a&#64;b.id, a(at)b.id, a[AT]b.id", "to [masked], [masked], [masked], [masked]"),
        ("call 0812 3456.789 now", "call [masked] now"),
        ("call (021) 345-67890 now", "call ([masked] now"),
        ("at 12345678 now", "at 12345678 now"),
        ("a\tb\nc", "a b c"),
    ],
)
def test_addresses_tokens_and_long_numbers_are_masked(text: str, masked: str) -> None:
    assert Known().mask(text) == masked


@pytest.mark.parametrize(
    ("text", "is_harmless"),
    [
        ("ORDER-12345678", True),
        ("0123", True),
        ("08123456", True),  # eight digits
        ("081234567", False),
        ("628123456", False),
        ("812345678", False),
        ("712345678", True),
        ("INV-0812-3456-7890", False),
        ("081234567890123", False),  # 15 digits
        ("3171234567890123", False),  # a NIK has 16
        ("371449635398431", False),  # a card's check digit is right
        ("371449635398432", True),
        ("4222222222222", False),
        ("4222222222223", True),
        ("6304000000000000000", False),  # 19 digits
        ("63040000000000000004", True),  # 20
        ("400000000006", True),  # 12, though its check digit would be right
    ],
)
def test_an_identifier_is_harmless_unless_it_may_be_somebodys_number(text: str, is_harmless: bool) -> None:
    assert evidence.is_harmless(text, Known()) is is_harmless


def test_an_identifier_with_a_secret_is_not_harmless() -> None:
    assert not evidence.is_harmless("ref-s3cr3t", Known(private=("s3cr3t",)))


def test_of_an_answer_that_was_taken_no_evidence_is_shown() -> None:
    accepted = CancellationAccepted(200, AnswerEvidence('{"legalName": "Budi"}', "f00d"))
    assert "Budi" not in repr(accepted)
    assert accepted.http_status == 200
