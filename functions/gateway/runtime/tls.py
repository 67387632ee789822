"""One TLS context for every connection, to AWS and to Indodana."""

from __future__ import annotations

import ssl
from functools import cache
from typing import Any

import certifi


@cache
def context() -> ssl.SSLContext:
    """Verifies certificates and hosts, by certifi's bundle.

    botocore has the bundle read anew for every connection it opens: 20 ms of a whole processor each, ten times at the
    beginning of a batch, and a function of 512 MB has a third of one. Here it is read once, in the init phase.
    """
    made = ssl.create_default_context(cafile=certifi.where())
    made.load_verify_locations = _has_been_done  # type: ignore[method-assign]
    return made


def _has_been_done(*_: Any, **__: Any) -> None:
    pass
