"""The functions' environment for `sam local`: its containers reach the local stack at another address.

    python -m devstack.sam_environment

writes .local/sam-environment.json, which samconfig.toml's `local` environment names, for the stack that runs on PORT.
"""

import argparse
import json
import os
import socket
import sys
from collections.abc import Mapping
from pathlib import Path
from urllib.parse import urlsplit, urlunsplit

from devstack.errors import DevstackError
from devstack.local_files import LOCAL_ROOT, directory_of, running_stack

# Docker's bridge on Linux; Docker Desktop elsewhere has a name for it.
HOST_SEEN_FROM_CONTAINERS = "172.17.0.1" if sys.platform == "linux" else "host.docker.internal"
FILE_NAME = "sam-environment.json"
CONNECT_TIMEOUT_SECONDS = 2.0


def for_containers(environment: Mapping[str, str], host: str = HOST_SEEN_FROM_CONTAINERS) -> dict[str, dict[str, str]]:
    """The environment as --env-vars takes it, with `host` for this machine in every URL."""
    return {"Parameters": {name: _seen_from_container(value, host) for name, value in environment.items()}}


def _seen_from_container(value: str, host: str) -> str:
    url = urlsplit(value)
    if url.hostname not in ("127.0.0.1", "localhost", "0.0.0.0"):
        return value
    return urlunsplit(url._replace(netloc=host if url.port is None else f"{host}:{url.port}"))


def _check_reachable(url: str) -> None:
    address = urlsplit(url)
    if address.hostname != "172.17.0.1":
        return  # only the bridge's address is this machine's own, too
    try:
        socket.create_connection((address.hostname, address.port or 80), CONNECT_TIMEOUT_SECONDS).close()
    except OSError as error:
        raise DevstackError(f"containers cannot reach {url}; start the stack with: HOST=0.0.0.0 make run") from error


def write(stack_directory: Path, path: Path = LOCAL_ROOT / FILE_NAME, host: str = HOST_SEEN_FROM_CONTAINERS) -> Path:
    """Raises DevstackError where no stack runs, or none that a container can reach."""
    stack = running_stack(stack_directory)
    if not stack:
        raise DevstackError("no local stack runs on this PORT; start one with: HOST=0.0.0.0 make run")
    upstream = stack["simulatorUrl"] or os.environ.get("UPSTREAM_URL")
    if not upstream:
        raise DevstackError("the stack does not use the simulator: set UPSTREAM_URL here, too")
    environment = for_containers(
        {
            "AWS_ENDPOINT_URL": stack["awsEndpointUrl"],
            "INDODANA_URL": upstream,
            "LEDGER_TABLE": stack["ledgerTable"],
            "AUDIT_TABLE": stack["auditTable"],
            "REFUND_QUEUE_URL": stack["queueUrl"],
            "REFUND_DEAD_LETTER_QUEUE_URL": stack["deadLetterQueueUrl"],
        },
        host,
    )
    _check_reachable(environment["Parameters"]["AWS_ENDPOINT_URL"])
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps(environment, indent=2) + "\n", encoding="utf-8")
    return path


def main(arguments: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(prog="python -m devstack.sam_environment", description=__doc__)
    parser.add_argument("--host", default=HOST_SEEN_FROM_CONTAINERS, help="this machine (default: %(default)s)")
    options = parser.parse_args(arguments)
    try:
        write(directory_of(os.environ), host=options.host)
    except DevstackError as error:
        parser.exit(1, f"{error}\n")
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
