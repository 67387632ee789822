"""One HTTP request with a JSON body to a server of this machine, and its answer."""

from __future__ import annotations

import http.client
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cached_property
from typing import Any
from urllib.parse import urlsplit

import simplejson

# The gateway's own limit is 30 s; then it answers 504.
TIMEOUT_SECONDS = 35.0


@dataclass(frozen=True)
class Answer:
    status: int
    headers: Mapping[str, str]
    """By names in lower case."""
    text: str

    @cached_property
    def body(self) -> Any:
        """The JSON; numbers with a decimal point are Decimals."""
        return simplejson.loads(self.text, use_decimal=True)


def call(
    base_url: str,
    method: str,
    target: str,
    body: object = None,
    *,
    token: str | None = None,
    headers: Mapping[str, str] | None = None,
    timeout_seconds: float = TIMEOUT_SECONDS,
) -> Answer:
    """On a connection of its own, without a proxy; the target is sent exactly as it is. Decimals may be in the body.

    Raises OSError or http.client.HTTPException where no answer came.
    """
    sent = dict(headers or {})
    if token is not None:
        sent["Authorization"] = f"Bearer {token}"
    data = None
    if body is not None:
        data = simplejson.dumps(body, use_decimal=True).encode()
        sent.setdefault("Content-Type", "application/json")
    connection = http.client.HTTPConnection(urlsplit(base_url).netloc, timeout=timeout_seconds)
    try:
        connection.request(method, target, data, sent)
        response = connection.getresponse()
        text = response.read().decode()
        return Answer(response.status, {name.lower(): value for name, value in response.getheaders()}, text)
    finally:
        connection.close()
