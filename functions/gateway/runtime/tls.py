"""One TLS context for all connections, to AWS and to Indodana."""

from __future__ import annotations

import ssl
from functools import cache
from typing import Any

from indodana.trust import verifying_context


@cache
def context() -> ssl.SSLContext:
    """Verifies certificates and host names. Raises NoAuthoritiesError.

    botocore reads all authorities again for every connection: 20 ms of a full CPU each, ten times at the start of a
    batch, and a function of 512 MB has a third of a CPU. Here that is done once, in the init phase.
    """
    made = verifying_context()
    made.load_verify_locations = _do_nothing  # type: ignore[method-assign]
    return made


def _do_nothing(*_: Any, **__: Any) -> None:
    pass
