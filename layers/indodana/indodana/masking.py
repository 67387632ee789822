"""Masks personal and secret data in messages.

Masked are e-mail addresses, numbers of nine digits or more that do not belong to this exchange, and this exchange's
known secrets and personal data. If one of those appears encoded (URL encoding, base64, …), its position is not known,
and the whole text is removed. Every pattern takes linear time.
"""

import base64
import html
import re
import unicodedata
from collections.abc import Iterator
from dataclasses import dataclass, field
from decimal import Decimal
from functools import cached_property
from urllib.parse import unquote

MAX_WORDS = 500  # characters of a message that are kept
MASKED = "[masked]"

# How much of a text is searched, and how much is cut off its end if it is longer: a value cut in two is not found.
_WINDOW = 4096
_EDGE = 512
LONG_NUMBER = 9  # digits of the shortest telephone numbers
_DISGUISES = 3  # nested encodings, as in JSON within a URL

# Parts of texts and of names in any case style. The short ones must be whole words.
PERSONAL_STEMS = (
    *("name", "nama", "phone", "telepon", "telp", "mobile", "msisdn", "whatsapp", "email", "address", "alamat"),
    *("passport", "birth", "customer", "user", "secret", "token", "password", "signature", "authorization", "cookie"),
    *("apikey", "cancelledby"),
)
PERSONAL_WORDS = ("hp", "wa", "nik", "ktp", "npwp", "dob", "pin", "otp", "cvv")

_PERSONAL_FIELD = re.compile(
    rf"""(?: {"|".join(PERSONAL_STEMS)} | e-mail | api[ _-]key | \b(?:{"|".join(PERSONAL_WORDS)})\b )
    [\w-]{{0,16}}+ [\\"'\s]{{0,8}}+ (?: [:=>] | %3[ad] )""",
    re.IGNORECASE | re.VERBOSE,
)
_BEARER = re.compile(r"\bbearer\s++\S++", re.IGNORECASE)
_EMAIL = re.compile(r"(?<![\w.+-])[\w.+-]++(?:@|%40|&\#64;|[(\[]at[)\]])[\w.@-]++", re.IGNORECASE)
_NUMBER = re.compile(r"\d(?:[\s./()+,_\-\u2010-\u2015\u2212]{0,3}+\d)*+")
_ESCAPED = re.compile(r"\\u([0-9a-fA-F]{4})|\\x([0-9a-fA-F]{2})")


@dataclass(frozen=True)
class Known:
    """An exchange's own ids and amount, which may be kept, and its secret and personal texts, which may not."""

    ids: tuple[str, ...] = ()
    amount: Decimal | None = None
    private: tuple[str, ...] = field(default=(), repr=False)

    def mask(self, text: str) -> str:
        """The masked text: at most MAX_WORDS characters, all printable."""
        words = "".join(char if char.isprintable() else " " for char in text[:_WINDOW])
        for value in self.private:
            words = _without(words, value)
        if self.shows_private(words):
            return f"[text of {len(text)}]"
        personal = _PERSONAL_FIELD.search(words)
        if personal:  # only a parser could find the end of its value
            words = words[: personal.end()] + MASKED
        for pattern in (_BEARER, _EMAIL, _NUMBER):
            words = pattern.sub(self._mask_unless_own, words)
        if len(text) > _WINDOW:
            words = words[:-_EDGE] or f"[text of {len(text)}]"
        return words if len(words) <= MAX_WORDS else words[: MAX_WORDS - 1] + "…"

    def shows_private(self, text: str) -> bool:
        """Whether it contains a private text, in any encoding."""
        for plain in _undisguised(text):
            words = _folded(plain)
            if any(value in words for value in self._folded_values):
                return True
            if any(re.search(rf"(?<!\w){re.escape(value)}(?!\w)", words) for value in self._short_values):
                return True
            standard = plain.translate(_STANDARD_BASE64)
            if any(part in standard for part in self._base64_parts):
                return True
        return False

    def is_own(self, text: str, start: int, end: int) -> bool:
        """Whether that part of the text belongs to one of this exchange's ids, or is its amount."""
        if any(text.find(own, max(0, end - len(own)), start + len(own)) >= 0 for own in self.ids):
            return True
        if self.amount is None:
            return False
        whole = f"{self.amount:.2f}".replace(".", "")
        digits = _digits(text[start:end])
        return digits == whole or (whole.endswith("00") and digits == whole[:-2])

    def _mask_unless_own(self, found: re.Match[str]) -> str:
        if found.re is _NUMBER and len(_digits(found[0])) < LONG_NUMBER:
            return found[0]
        return found[0] if self.is_own(found.string, found.start(), found.end()) else MASKED

    @cached_property
    def _folded_values(self) -> list[str]:
        return [folded for value in self.private if len(folded := _folded(value)) >= _SHORT]

    @cached_property
    def _short_values(self) -> list[str]:
        return [folded for value in self.private if 0 < len(folded := _folded(value)) < _SHORT]

    @cached_property
    def _base64_parts(self) -> list[str]:
        return [part for value in self.private for part in _in_base64(value)]


_SHORT = 4  # characters: shorter values are only found as whole words
_STANDARD_BASE64 = str.maketrans("-_", "+/")
_BASE64_PART = 8  # characters: shorter parts would match by chance


def _without(text: str, value: str) -> str:
    if not value.strip() or value.casefold() not in text.casefold():
        return text
    pattern = re.escape(value)
    if len(value) < _SHORT:
        pattern = rf"(?<!\w){pattern}(?!\w)"
    return re.sub(pattern, MASKED, text, flags=re.IGNORECASE)


def _undisguised(text: str) -> Iterator[str]:
    """The text, and its JSON, HTML and URL decodings, also nested."""
    yield text
    for decoded in (_unescaped, html.unescape, unquote) * _DISGUISES:
        plain = decoded(text)
        if plain != text:
            yield plain
            text = plain


def _unescaped(text: str) -> str:
    return _ESCAPED.sub(lambda found: chr(int(found[1] or found[2], 16)), text)


def _folded(text: str) -> str:
    """The form for comparing; `+` counts as a space, as in form encoding."""
    return " ".join(unicodedata.normalize("NFKC", text).casefold().replace("+", " ").split())


def _in_base64(value: str) -> Iterator[str]:
    """The base64 characters that show the value inside any base64 text, one for each of the three possible offsets."""
    raw = value.encode("utf-8", "replace")
    for before in range(3):
        encoded = base64.b64encode(bytes(before) + raw).decode().rstrip("=")
        # The first characters and the last one also contain bits of the neighbouring bytes.
        part = encoded[(0, 2, 3)[before] : -1 if (before + len(raw)) % 3 else None]
        if len(part) >= _BASE64_PART:
            yield part
        elif before == 0 and len(raw) >= _SHORT:
            yield encoded


def _digits(text: str) -> str:
    return "".join(str(unicodedata.decimal(char)) for char in text if char.isdecimal())
