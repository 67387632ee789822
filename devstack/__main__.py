"""python -m devstack: the local stack in the foreground, until Ctrl-C."""

import os
import signal
import sys
import time

# A second Ctrl-C this much later is from one who does not want to wait; an earlier one is the same, sent twice.
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
    # Before the imports, which take a moment: a Ctrl-C among them is no traceback either.
    for number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(number, _stop)
    from devstack.run import main

    main()
