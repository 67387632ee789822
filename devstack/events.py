"""What the local stack says of itself while it runs: one mapping for each thing that happened, under the name `event`.

request    an HTTP request was answered
message    an SQS message was worked, by the invocation that it was part of
schedule   a schedule ran its function
indodana   Indodana answered a call, or did not
failure    a function raised or timed out, with the traceback
notice     anything else that somebody should read
"""

import sys
import traceback
from collections.abc import Callable, Mapping
from typing import Any

type Event = Mapping[str, Any]
type Report = Callable[[Event], None]


def to_stderr(event: Event) -> None:
    """For a part of the stack that runs without the whole: what went wrong, and nothing else."""
    if event["event"] in ("failure", "notice"):
        text = event["message"] + (f"\n{event['exception']}" if "exception" in event else "")
        print(text, file=sys.stderr, flush=True)


def notice(message: str, error: BaseException | None = None) -> Event:
    """With `error`, its traceback too."""
    shown = {} if error is None else {"exception": "".join(traceback.format_exception(error)).rstrip()}
    return {"event": "notice", "message": message, "level": "ERROR", **shown}
