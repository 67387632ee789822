"""Page tokens that come back changed, and idempotency keys as clients and proxies spell them."""

from __future__ import annotations

import base64
import json
from typing import Any

import pytest

from gateway.core import keys, paging
from gateway.core.errors import InvalidRequest
from gateway.core.keys import Key

ATTRIBUTES = frozenset({"pk", "sk"})


def start(token: str | None) -> Any:
    return paging.start_of(token, attributes=ATTRIBUTES, must_hold={"pk": "m1#ORDER-1"})


def key(sort: str) -> dict[str, Any]:
    return {"pk": {"S": "m1#ORDER-1"}, "sk": {"S": sort}}


@pytest.mark.parametrize("sort", ["REFUND#1", "???>>>~~~", "x" * 1024, *(f"{'~' * number}?" for number in range(4))])
def test_a_token_leads_to_where_its_page_ended(sort: str) -> None:
    token = paging.to_token(key(sort))
    assert token
    assert not set(token) & set("+/ ")
    assert start(token) == {"ExclusiveStartKey": key(sort)}


def test_a_last_page_has_no_token_and_a_first_one_needs_none() -> None:
    assert paging.to_token(None) is None
    assert paging.to_token({}) is None
    assert start(None) == {}


def encoded(value: object) -> str:
    return base64.urlsafe_b64encode(json.dumps(value).encode()).decode()


@pytest.mark.parametrize(
    "token",
    [
        "",
        "no base64!",
        "é",
        encoded(key("x"))[:8] + " " + encoded(key("x"))[8:],
        encoded(key("x")) + "*",
        encoded("text"),
        encoded([]),
        encoded({"pk": {"S": "m1#ORDER-1"}}),
        encoded({**key("x"), "more": {"S": "x"}}),
        encoded({"pk": {"S": "m1#ORDER-2"}, "sk": {"S": "x"}}),
        encoded({"pk": {"S": "m1#ORDER-1"}, "sk": {"N": "1"}}),
        encoded({"pk": {"S": "m1#ORDER-1"}, "sk": {"S": 1}}),
        encoded({"pk": {"S": "m1#ORDER-1"}, "sk": "x"}),
        encoded(key("")),
        encoded(key("x" * 1025)),
        encoded(key("é")),
        encoded(key("a\nb")),
        base64.urlsafe_b64encode(b"[" * 100_000).decode(),
    ],
)
def test_a_token_that_no_page_gave_is_refused(token: str) -> None:
    with pytest.raises(InvalidRequest, match="nextToken"):
        start(token)


@pytest.mark.parametrize(
    ("value", "read"),
    [
        ("k", Key("k")),
        ("X-1", Key("X-1")),
        ("1-X", Key("1-X")),
        ("a b", Key("a b")),
        ("aX,aX", Key("aX", "aX,aX")),
        ("Xa,Xa", Key("Xa", "Xa,Xa")),
        ("u, u", Key("u", "u, u")),
        ("u ,u", Key("u", "u ,u")),
        ("u,\tu", Key("u")),
        ("u\t,u", Key("u")),
        ('"u"', Key("u", '"u"')),
        ('"u", "u"', Key("u", '"u", "u"')),
        ('"u",\t"u"', Key("u")),
        ('"u",   "u"', Key("u", '"u",   "u"')),
        ('"u",u', Key("u", '"u",u')),
        (r'"a\"b"', Key('a"b', r'"a\"b"')),
        ('"a,b"', Key("a,b", '"a,b"')),
        ('"u,"u', Key('"u', '"u,"u')),
        ("a,b", Key("a,b", replay_only=True)),
        ('"', Key('"', replay_only=True)),
        (" k", None),
        ("k\t", None),
        ("", None),
        ("a\nb", None),
        ("é", None),
        ("k" * 255, Key("k" * 255)),
        ("k" * 256, None),
    ],
)
def test_a_key_is_read_as_its_sender_meant_it(value: str, read: Key | None) -> None:
    assert keys.read(value) == read


@pytest.mark.parametrize(("value", "is_list"), [("k", False), ("a,b", True), ('"a,b"', False), ('"a","b"', True)])
def test_a_list_of_keys_is_told_from_one(value: str, is_list: bool) -> None:
    assert keys.is_list(value) is is_list
