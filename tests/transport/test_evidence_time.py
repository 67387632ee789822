"""Making the evidence of an answer takes time that grows with its length, whatever it holds."""

from __future__ import annotations

import time
from collections.abc import Callable
from decimal import Decimal
from http.client import HTTPMessage

import pytest

from indodana import evidence
from indodana.documents import parse
from indodana.masking import Known

API_KEY, CUSTOMER = "Key/4711+live", "Budi Säntoso"
KNOWN = Known(
    ("ORDER-081234567890", "9876543210abcdef9876543210abcdef"),
    Decimal(1_000_000_000),
    (API_KEY, "s3cr3t-key&0815", CUSTOMER),
)

FORMS = [
    '{"status":"OK","message":"%s"}',
    '{"status":"OK","legalName":"%s","message":"%s"}',
    '{"status":"ERROR","error":{"message":["%s"]}}',
    '{"%s":1}',
    "<title>%s</title>",
    "%s",
]
WORDS = [
    "phone", "name", "legalName: ", "legalName ", "bearer ", "a", "1", "1 ", "0812-", "a@", "@", "%40", "%", "&", "&#",
    "&#64;", "<title", "<", "a:1:", "+", "-", "(", "é", " ", "budi santoso ", "\\u0041", "[", "{", CUSTOMER, API_KEY,
]  # fmt: skip
MANY = {
    "objects": lambda size: "[" + ",".join(["{}"] * (size // 3)) + "]",
    "members": lambda size: "{" + ",".join(f'"k{number}":"v"' for number in range(size // 12)) + "}",
    "messages": lambda size: "[" + ",".join(['{"message":"a&b%20 c"}'] * (size // 23)) + "]",
    "names": lambda size: "{" + ",".join(f'"legalName":"Budi {number}"' for number in range(size // 24)) + "}",
    "numbers": lambda size: "[" + ",".join(["1"] * (size // 2)) + "]",
}


def milliseconds(body: bytes) -> float:
    started = time.process_time()
    evidence.of(HTTPMessage(), body, parse(body), KNOWN)
    return (time.process_time() - started) * 1000


def filled(form: str, word: str, size: int) -> bytes:
    return form.replace("%s", word * ((size - len(form)) // (len(word.encode()) * form.count("%s")))).encode()


def hold_to_bounds(make: Callable[[int], bytes], times: int) -> None:
    """The fastest of `times` runs, both sizes in turns: a busy machine slows some runs, and no run is too fast."""
    bodies = make(64 * 1024), make(32 * 1024)
    rounds = [[milliseconds(body) for body in bodies] for _ in range(times)]
    whole, half = (min(took) for took in zip(*rounds, strict=True))
    assert whole < 50
    # Below some milliseconds the clock's resolution counts.
    assert whole <= 2.5 * max(half, 4)


@pytest.mark.parametrize("form", FORMS)
@pytest.mark.parametrize("word", WORDS)
def test_the_largest_answer_of_one_word_takes_milliseconds(form: str, word: str) -> None:
    hold_to_bounds(lambda size: filled(form, word, size), times=3)


@pytest.mark.parametrize("many", MANY)
def test_the_largest_answer_of_many_small_things_takes_milliseconds(many: str) -> None:
    hold_to_bounds(lambda size: MANY[many](size).encode(), times=20)
