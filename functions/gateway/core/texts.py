"""Texts that people write: which characters are allowed in them, and the message for one that is not.

The rules are ranges of code points, so that they do not depend on the runtime's version of Unicode: REFUSED,
REFUSED_ON_ONE_LINE and INVISIBLE, each the inside of a regular expression's [ ]. docs/openapi.yaml has the same ranges.
"""

from __future__ import annotations

import re
import unicodedata

# Controls, lone surrogates, noncharacters, and the overrides of writing direction (U+202D, U+202E), which make a text
# look like another one. Every other character is allowed, also future ones.
_NONCHARACTERS = "".join(f"{chr(plane + 0xFFFE)}{chr(plane + 0xFFFF)}" for plane in range(0x10000, 0x110000, 0x10000))
SURROGATES = r"\ud800-\udfff"
REFUSED = rf"\x00-\x08\x0b\x0c\x0e-\x1f\x7f-\x9f\u202d\u202e{SURROGATES}\ufdd0-\ufdef\ufffe\uffff{_NONCHARACTERS}"
REFUSED_ON_ONE_LINE = rf"\t\n\r\u2028\u2029{REFUSED}"

# White space; format characters, joiners, variation selectors and tags; fillers and blanks that have no ink.
INVISIBLE = (
    r"\t\n\r\x20\xa0\u1680\u2000-\u200a\u2028\u2029\u202f\u205f\u3000"
    r"\xad\u034f\u0600-\u0605\u061c\u06dd\u070f\u0890\u0891\u08e2\u17b4\u17b5\u180b-\u180f\u200b-\u200f\u202a-\u202e"
    r"\u2060-\u206f\ufe00-\ufe0f\ufeff\ufff0-\ufffb"
    r"\u115f\u1160\u2800\u3164\uffa0"
    "\U000110bd\U000110cd\U00013430-\U0001343f\U00016fe4\U0001bca0-\U0001bca3\U0001d159\U0001d173-\U0001d17a"
    "\U000e0000-\U000e0fff"
)

_REFUSED = re.compile(f"[{REFUSED}]")
_REFUSED_ON_ONE_LINE = re.compile(f"[{REFUSED_ON_ONE_LINE}]")
_VISIBLE = re.compile(f"[^{INVISIBLE}]")

_NAMES = {
    0x00: "null",
    0x07: "bell",
    0x08: "backspace",
    0x09: "tab",
    0x0A: "line feed",
    0x0B: "vertical tab",
    0x0C: "form feed",
    0x0D: "carriage return",
    0x1B: "escape",
    0x7F: "delete",
    0x85: "next line",
    0x2028: "line separator",
    0x2029: "paragraph separator",
    0x202D: "left-to-right override",
    0x202E: "right-to-left override",
}


def flaw(text: str, longest: int, *, lines: bool) -> str | None:
    """The rule that `text` breaks, as a message for the caller; None if valid. `lines`: several lines are allowed."""
    if len(text) > longest:
        return f"must be at most {longest} characters; it has {len(text)}"
    if found := (_REFUSED if lines else _REFUSED_ON_ONE_LINE).search(text):
        where = "" if _REFUSED.match(found[0]) else " on one line"
        return f"character {found.start() + 1} is {_named(found[0])}, which is not allowed{where}"
    if not _VISIBLE.search(text):
        return "must have at least one visible character"
    if len(normalized(text)) > longest:
        return f"must be at most {longest} characters; it has {len(normalized(text))} in its composed form (NFC)"
    return None


def normalized(text: str) -> str:
    """The form (NFC) that is stored, compared and sent to Indodana: an accented letter is one character."""
    return unicodedata.normalize("NFC", text)


def _named(character: str) -> str:
    code = ord(character)
    if 0xD800 <= code <= 0xDFFF:
        name = "half of a surrogate pair"
    elif 0xFDD0 <= code <= 0xFDEF or code & 0xFFFE == 0xFFFE:
        name = "a noncharacter"
    else:
        name = _NAMES.get(code, "a control character")
    return f"U+{code:04X} ({name})"
