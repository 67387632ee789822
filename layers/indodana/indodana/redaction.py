"""Takes credentials and personal data out of what Indodana said, so that it can be kept as evidence."""

import json
import re

import simplejson

REDACTED = "[redacted]"
# Enough for any answer known, and far below DynamoDB's 400 KB an item.
MAX_CHARACTERS = 4000
# Deeper than any answer known. DynamoDB takes 32 levels.
MAX_DEPTH = 20

# Words of a field's name, however they are joined: legalName, LEGAL_NAME, x-legal-name. The first two are documented.
_SENSITIVE_WORDS = (
    ("legal", "name"),
    ("indodana", "user", "id"),
    ("customer", "name"),
    ("full", "name"),
    ("phone", "number"),
    ("phone",),
    ("email",),
    ("api", "key"),
    ("secret", "key"),
    ("secret",),
    ("authorization",),
    ("signature",),
    ("password",),
    ("token",),
)
_SENSITIVE = tuple("".join(words) for words in _SENSITIVE_WORDS)

_NAME = "|".join(r"[\W_]{0,3}".join(words) for words in _SENSITIVE_WORDS)
_FIELD_IN_TEXT = re.compile(
    rf"""(?P<name>(?:{_NAME})[\w-]*\\*["']?\s*[:=>]\s*)
    (?:
        (?P<quote>\\*["'])  (?: .*? (?<!\\)(?P=quote) | .* )  # up to the same quote, escaped as often; else to the end
      | [\[{{].*                                              # where it ends, only a parser could say
      | [^&;<}}\r\n]+
    )""",
    re.IGNORECASE | re.VERBOSE | re.DOTALL,
)
_BEARER = re.compile(r"""\b(bearer\s+)[^\s"'\\<>,;]+""", re.IGNORECASE)
_SIGNED = re.compile(r"""[^\s"':]{1,200}:\d{1,20}:[0-9a-f]{64}""", re.IGNORECASE)


def redact(text: str) -> str:
    """The text without what is secret or personal, at most MAX_CHARACTERS long; numbers keep their spelling."""
    redacted = _redact_text(text, 0)
    if len(redacted) <= MAX_CHARACTERS:
        return redacted
    kept = MAX_CHARACTERS - 40  # room for the note
    return f"{redacted[:kept]}… [{len(redacted) - kept} characters cut]"


def redact_value(value: object) -> object:
    """The same for a parsed JSON value, of any length."""
    return _redact_value(value, 0)


def _redact_value(value: object, depth: int) -> object:
    if depth > MAX_DEPTH:
        return REDACTED
    if isinstance(value, dict):
        return {
            _scrub(str(name)): REDACTED if _is_sensitive(str(name)) else _redact_value(inner, depth + 1)
            for name, inner in value.items()
        }
    if isinstance(value, list | tuple):
        return [_redact_value(inner, depth + 1) for inner in value]
    if isinstance(value, str):
        return _redact_text(value, depth + 1)
    return value


def _redact_text(text: str, depth: int) -> str:
    """A text may be JSON itself, also within JSON."""
    if text.lstrip()[:1] in ("{", "[", '"'):
        raw = simplejson.RawJSON  # keeps a number as it was written
        try:
            parsed = json.loads(text, parse_float=raw, parse_int=raw, parse_constant=raw)
        except (ValueError, RecursionError):
            return _scrub(text)
        return simplejson.dumps(_redact_value(parsed, depth), ensure_ascii=False, separators=(",", ":"))
    return _scrub(text)


def _scrub(text: str) -> str:
    """By pattern, for text that cannot be parsed; rather too much than too little."""
    # JSON can escape half a surrogate pair, and no UTF-8 can store that.
    text = text.encode("utf-8", "replace").decode()
    text = _FIELD_IN_TEXT.sub(lambda match: match["name"] + REDACTED, text)
    return _SIGNED.sub(REDACTED, _BEARER.sub(r"\1" + REDACTED, text))


def _is_sensitive(name: str) -> bool:
    letters = re.sub(r"[\W_]", "", name).lower()
    return any(word in letters for word in _SENSITIVE)
