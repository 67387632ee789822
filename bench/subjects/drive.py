"""Runs in the measured process: imports a handler and times its invocations.

    python drive.py module:handler

Each line of standard input is a JSON list of events; each line of standard output has their results and times.
"""

import gc
import importlib
import json
import os
import re
import sys
import time
from pathlib import Path
from typing import Any


class Context:
    """The attributes of Lambda's context that the measured code reads."""

    function_version = "$LATEST"
    memory_limit_in_mb = 256
    function_name = os.environ["AWS_LAMBDA_FUNCTION_NAME"]
    invoked_function_arn = f"arn:aws:lambda:ap-southeast-3:123456789012:function:{function_name}"
    aws_request_id = "52fdfc07-2182-454f-963f-5f0f9a621d72"

    def get_remaining_time_in_millis(self) -> int:
        return 29_000


def peak_memory_kib() -> int:
    """Not by resource.getrusage, which includes the process that this one was forked from."""
    found = re.search(r"VmHWM:\s*(\d+) kB", Path("/proc/self/status").read_text())
    assert found
    return int(found[1])


def clients() -> int:
    """The number of AWS SDK clients."""
    client = sys.modules.get("botocore.client")
    return sum(isinstance(thing, client.BaseClient) for thing in gc.get_objects()) if client else 0


def main() -> None:
    # The handler's output is dropped, so that it does not mix with the answers.
    answers = os.fdopen(os.dup(1), "w")
    os.dup2(os.open(os.devnull, os.O_WRONLY), 1)
    module, _, attribute = sys.argv[1].partition(":")
    handler = getattr(importlib.import_module(module), attribute)
    ready = clients()
    for line in sys.stdin:
        seconds: list[float] = []
        results: list[Any] = []
        for event in json.loads(line):
            context = Context()
            began = time.perf_counter()
            result = handler(event, context)
            seconds.append(time.perf_counter() - began)
            results.append(result)
        answer = {
            "seconds": seconds,
            "results": results,
            "peakKib": peak_memory_kib(),
            "clientsMadeLate": clients() - ready,
        }
        print(json.dumps(answer), file=answers, flush=True)


if __name__ == "__main__":
    main()
