"""Runs one built function in a process of its own, without any of this venv's packages.

    python -S -B -P -W error run_handler.py module.attribute seconds

Each line of standard input is an event; each line of standard output is {"result": …}, or {"error": …} if the handler
raised. An empty line is answered with the names of the modules that are loaded.
"""

import importlib
import json
import os
import sys
import time
import traceback
import uuid


class Context:
    """The attributes of Lambda's context that the functions read."""

    function_name = os.environ["AWS_LAMBDA_FUNCTION_NAME"]
    function_version = "$LATEST"
    memory_limit_in_mb = 256
    invoked_function_arn = f"arn:aws:lambda:ap-southeast-3:123456789012:function:{function_name}"

    def __init__(self, seconds: float) -> None:
        self.aws_request_id = str(uuid.uuid4())
        self._deadline = time.monotonic() + seconds

    def get_remaining_time_in_millis(self) -> int:
        return max(0, int((self._deadline - time.monotonic()) * 1000))


def main(handler: str, seconds: float) -> None:
    # The handler's log lines must not mix with the answers.
    answers = os.fdopen(os.dup(1), "w")
    os.dup2(2, 1)
    module, _, attribute = handler.rpartition(".")
    function = getattr(importlib.import_module(module), attribute)
    for line in sys.stdin:
        answer: dict[str, object]
        if not line.strip():
            answer = {"result": sorted(sys.modules)}
        else:
            try:
                answer = {"result": function(json.loads(line), Context(seconds))}
            except Exception:
                answer = {"error": traceback.format_exc()}
        print(json.dumps(answer), file=answers, flush=True)


if __name__ == "__main__":
    main(sys.argv[1], float(sys.argv[2]))
