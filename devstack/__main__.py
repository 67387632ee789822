"""python -m devstack: the local stack in the foreground, until Ctrl-C."""

import os
import signal
import sys
import time

# A second Ctrl-C after this time ends the process at once; an earlier one is the first, sent twice.
REPEAT_SECONDS = 1.0
_first: float | None = None


def _stop(*_: object) -> None:
    global _first
    if _first is None:
        _first = time.monotonic()
        sys.exit(0)
    if time.monotonic() - _first > REPEAT_SECONDS:
        os._exit(130)


if __name__ == "__main__":
    # Before the imports, which take a moment: a Ctrl-C during them shows no traceback, either.
    for number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(number, _stop)
    from devstack.run import main

    main()
