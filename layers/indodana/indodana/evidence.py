"""The part of an answer that may be stored: values known to be harmless, and the shape of the rest.

    JSON            a JSON text of the same shape, with only the values that a rule below allows
    anything else   type, length, a page's title, Server and Via, which show who answered

Size and time are limited (linear in the input): the outcome of any answer must be recorded in time.
"""

import hashlib
import html
import json
import logging
import re
from collections.abc import Iterator
from dataclasses import dataclass
from decimal import Decimal
from email.message import Message
from typing import Any

from indodana.documents import Document, JsonObject
from indodana.masking import LONG_NUMBER, MAX_WORDS, PERSONAL_STEMS, PERSONAL_WORDS, Known

MAX_CHARACTERS = 4000  # far below DynamoDB's 400 KB an item
MAX_DEPTH = 12  # deeper than any answer known; DynamoDB takes 32 levels
_TO_CLOSE = 400  # characters to close the open levels when the room is used up
_LEAST_COST = 10  # the least characters that a name or a value counts, to limit many short ones too
_LONGEST_NUMBER = 20  # digits
_LONGEST_HEADER = 100
_LONGEST_TITLE = 1000

_log = logging.getLogger("indodana")

_FIELD_NAME = re.compile(r"[A-Za-z_][A-Za-z0-9_.-]{0,47}")
_WORD_OF_NAME = re.compile(r"[A-Z]+(?![a-z])|[A-Z]?[a-z]+")
_IDENTIFIER = re.compile(r"[A-Za-z0-9._-]{1,64}")
_SUM = re.compile(r"[0-9]{1,14}(?:[.,][0-9]{1,4})?")
_TIME = re.compile(r"[0-9]{4}-?[0-9]{2}-?[0-9]{2}[T ][0-9:.]{4,15} ?[0-9:+Z-]{0,6}")
_DIGITS = re.compile(r"[0-9](?:[._-]{0,3}+[0-9])*+")
_MEDIA_TYPE = re.compile(r"[\w.+-]{1,40}/[\w.+-]{1,40}", re.ASCII)

# The documented fields, and those that describe the result. A value that matches its rule is kept unchanged; without a
# match or a rule it is masked like a message.
_FIELDS: dict[str, re.Pattern[str] | None] = {
    **dict.fromkeys(("merchantorderid", "transactionid", "refundid", "cancellationid"), _IDENTIFIER),
    **dict.fromkeys(("amount", "cancellationamount", "refundamount"), _SUM),
    **dict.fromkeys(("transactiontime", "cancellationdate"), _TIME),
    **dict.fromkeys(
        (
            *("status", "transactionstatus", "fraudstatus", "paymenttype", "cancellationstatus", "refundstatus"),
            *("error", "errors", "errormessage", "errordescription", "kind", "type", "message", "messages"),
            *("description", "detail", "details", "reason", "title", "cancellationreason"),
        )
    ),
}
_NAMES_OF_IDENTIFIERS = ("id", "number", "code", "reference")
_PERSONAL_WORDS = {  # words in a field name, split by case
    *PERSONAL_WORDS,
    *("account", "rekening", "card", "holder", "owner", "buyer", "payer", "contact", "by", "key", "ip", "device"),
    *("session", "postal", "zip", "tel", "fax", "identity", "person", "recipient", "age", "gender", "pan", "iban"),
}


@dataclass(frozen=True)
class AnswerEvidence:
    """`body` is safe to store; `sha256` is of the whole answer, to verify a copy of it."""

    body: str
    sha256: str


def of(headers: Message, body: bytes, document: Document | None, known: Known) -> AnswerEvidence:
    """Never raises: the outcome is more important than its evidence."""
    sha256 = hashlib.sha256(body).hexdigest()
    try:
        if document is None:
            return AnswerEvidence(_of_page(headers, body, known), sha256)
        return AnswerEvidence(_Shape(known, MAX_CHARACTERS - _TO_CLOSE).of("", document.value), sha256)
    except Exception as error:
        # Only its class: its text may contain the answer.
        _log.error("evidence could not be extracted from an answer of %s bytes: %s", len(body), type(error).__name__)
        return AnswerEvidence(f"[answer of {len(body)} bytes]", sha256)


def words(value: object, known: Known) -> str:
    """A message: text is masked; anything else becomes its shape with masked texts."""
    if isinstance(value, str):
        return known.mask(value)
    return _Shape(known, MAX_WORDS - _TO_CLOSE // 4, keeps_words=True).of("", value)[:MAX_WORDS]


def is_harmless(text: str, known: Known) -> bool:
    """Whether a short text like an identifier has no personal number and no secret in it."""
    return not _has_personal_number(text) and not known.shows_private(text)


class _Shape:
    """Writes a JSON text of about `room` characters. `keeps_words`: keeps other texts, too, masked."""

    def __init__(self, known: Known, room: int, *, keeps_words: bool = False) -> None:
        self._known = known
        self._left = room
        self._keeps_words = keeps_words

    def of(self, name: str, value: object, depth: int = 0) -> str:
        if isinstance(value, JsonObject | list):
            if depth == MAX_DEPTH or _is_personal(name):
                return self._written(_kind(value))
            self._written("{}")
            if isinstance(value, list):
                return f"[{self._joined((self.of(name, part, depth + 1) for part in value), len(value))}]"
            return f"{{{self._joined(self._members(value, depth), len(value.pairs), '"…":')}}}"
        text = self._scalar(name, value)
        return self._written(text if len(text) <= self._left else _kind(value))

    def _members(self, value: JsonObject, depth: int) -> Iterator[str]:
        for name, inner in value.pairs:
            if _FIELD_NAME.fullmatch(name) and is_harmless(name, self._known):
                yield f"{self._written(json.dumps(name))}:{self.of(name, inner, depth + 1)}"
            else:  # its meaning is not known
                yield f"{self._written(f'"[name of {len(name)}]"')}:{self._written(_kind(inner))}"

    def _joined(self, parts: Iterator[str], count: int, before_note: str = "") -> str:
        shown = []
        for part in parts:
            shown.append(part)
            if self._left <= 0 and len(shown) < count:
                shown.append(f'{before_note}"[{count - len(shown)} more]"')
                break
        return ",".join(shown)

    def _written(self, text: str) -> str:
        self._left -= max(len(text) + 2, _LEAST_COST)
        return text

    def _scalar(self, name: str, value: Any) -> str:
        if value is None:
            return "null"
        if _is_personal(name):
            return _kind(value)
        if isinstance(value, bool):
            return json.dumps(value) if self._keeps_words or flat_name(name) in _FIELDS else _kind(value)
        return self._text(name, value) if isinstance(value, str) else self._number(name, value)

    def _text(self, name: str, value: str) -> str:
        field = flat_name(name)
        if field in _FIELDS:
            rule = _FIELDS[field]
            is_plain = rule is not None and rule.fullmatch(value) and not self._known.shows_private(value)
            kept = value if is_plain or value in self._known.ids else self._known.mask(value)
        elif self._is_identifier(name, value):
            kept = value
        elif self._keeps_words:
            kept = self._known.mask(value)
        else:
            return _kind(value)
        return json.dumps(kept, ensure_ascii=False)

    def _number(self, name: str, value: int | Decimal) -> str:
        text = str(value)
        is_short = len(text) < LONG_NUMBER and (self._keeps_words or flat_name(name) in _FIELDS)
        is_sum_or_id = _FIELDS.get(flat_name(name)) is not None and len(text) <= _LONGEST_NUMBER
        return text if is_short or is_sum_or_id or self._is_identifier(name, text) else _kind(value)

    def _is_identifier(self, name: str, text: str) -> bool:
        """Whether it is a reference, by its field's name, that Indodana could look up, and no personal number."""
        return bool(
            flat_name(name).endswith(_NAMES_OF_IDENTIFIERS)
            and _IDENTIFIER.fullmatch(text)
            and (text in self._known.ids or is_harmless(text, self._known))
        )


def _of_page(headers: Message, body: bytes, known: Known) -> str:
    named = headers.get("Content-Type", "").partition(";")[0].strip()
    kind = named if _MEDIA_TYPE.fullmatch(named) else "unknown type"
    texts = {"title": _title(body), "server": headers.get("Server", ""), "via": headers.get("Via", "")}
    parts = [f"{name}: {known.mask(text)[:_LONGEST_HEADER]}" for name, text in texts.items() if text]
    return "; ".join([f"not JSON: {kind}, {len(body)} bytes", *parts])


def _title(page: bytes) -> str:
    start = page.lower().find(b"<title")
    start = page.find(b">", start) if start >= 0 else -1
    end = page.find(b"<", start) if start >= 0 else -1
    title = page[start + 1 : min(end, start + _LONGEST_TITLE)] if end >= 0 else b""
    return html.unescape(title.decode("utf-8", "replace")).strip()


def _kind(value: object) -> str:
    """JSON text."""
    match value:
        case bool():
            return '"[boolean]"'
        case str():
            return f'"[text of {len(value)}]"'
        case JsonObject():
            return f'"[object of {len(value.pairs)}]"'
        case list():
            return f'"[list of {len(value)}]"'
    return f'"[number of {len(str(value))}]"'


def flat_name(name: str) -> str:
    return name.replace("_", "").replace("-", "").replace(".", "").lower()


def _is_personal(name: str) -> bool:
    of_name = {word.lower() for word in _WORD_OF_NAME.findall(name)}
    return not of_name.isdisjoint(_PERSONAL_WORDS) or any(stem in flat_name(name) for stem in PERSONAL_STEMS)


def _has_personal_number(text: str) -> bool:
    """Whether it has a telephone number, NIK or card number, in any grouping."""
    return any(_is_personal_number("".join(filter(str.isdigit, run))) for run in _DIGITS.findall(text))


def _is_personal_number(digits: str) -> bool:
    is_phone = 9 <= len(digits) <= 15 and digits.startswith(("0", "62", "8"))
    return is_phone or len(digits) == 16 or (13 <= len(digits) <= 19 and _passes_luhn(digits))


def _passes_luhn(digits: str) -> bool:
    doubled = [int(digit) * (1 + place % 2) for place, digit in enumerate(reversed(digits))]
    return sum(value - 9 if value > 9 else value for value in doubled) % 10 == 0
