"""One TLS context for all connections, to AWS and to Indodana."""

from __future__ import annotations

import ssl
from functools import cache
from typing import Any

import certifi


@cache
def context() -> ssl.SSLContext:
    """Verifies certificates and host names, with certifi's bundle.

    botocore reads the bundle again for every connection: 20 ms of a full CPU each, ten times at the start of a batch,
    and a function of 512 MB has a third of a CPU. Here it is read once, in the init phase.
    """
    made = ssl.create_default_context(cafile=certifi.where())
    made.load_verify_locations = _do_nothing  # type: ignore[method-assign]
    return made


def _do_nothing(*_: Any, **__: Any) -> None:
    pass
