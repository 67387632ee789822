"""The commands of a page of docs/, run as they stand there: in bash, with an `aws` that is botocore in this process.

The AWS CLI's own options are made of botocore's description of each call, and so are these.
"""

from __future__ import annotations

import json
import os
import subprocess
import threading
from collections.abc import Mapping
from datetime import datetime
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from types import TracebackType
from typing import Any, Self

import boto3
import botocore.validate
import jmespath  # type: ignore[import-untyped]
from botocore import xform_name
from botocore.exceptions import BotoCoreError, ClientError

EMULATED = frozenset({"dynamodb", "secretsmanager", "sqs"})
ANSWER = "123456789012"
"""What a call that is only checked answers where a script wants a text: an id that every later call takes."""
AWS = """aws() { curl -sS --fail-with-body --data-binary @<(printf '%s\\0' "$@") "$AWS_COMMANDS"; }
"""
SECONDS = 30


class CommandError(Exception):
    """A command that the AWS CLI would refuse; the text says why."""


class AwsCommands:
    """Runs scripts. What the emulator does not have is checked as the AWS CLI would, and not called."""

    def __init__(self, endpoint_url: str, folder: Path) -> None:
        self._endpoint_url = endpoint_url
        self._folder = folder
        self.checked: list[str] = []
        """The calls that were only checked: service and operation."""
        commands = self

        class Handler(BaseHTTPRequestHandler):
            def do_POST(self) -> None:
                words = self.rfile.read(int(self.headers["content-length"])).decode().split("\0")[:-1]
                try:
                    status, text = 200, commands.call(words)
                except (CommandError, OSError, BotoCoreError, ClientError) as error:
                    status, text = 400, f"aws {' '.join(words)}: {error}\n"
                body = text.encode()
                self.send_response(status)
                self.send_header("content-length", str(len(body)))
                self.end_headers()
                self.wfile.write(body)

            def log_message(self, *_: object) -> None:
                pass

        self._server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self._thread = threading.Thread(target=self._server.serve_forever, args=(0.05,), daemon=True)

    def __enter__(self) -> Self:
        self._thread.start()
        return self

    def __exit__(self, *_: type[BaseException] | BaseException | TracebackType | None) -> None:
        self._server.shutdown()
        self._thread.join()
        self._server.server_close()

    def run(self, script: str, variables: Mapping[str, str]) -> str:
        """What the script prints. A command that fails, also in the middle of a pipe, fails it."""
        done = subprocess.run(
            ["bash", "-euo", "pipefail", "-c", AWS + script],
            cwd=self._folder,
            env={**os.environ, **variables, "AWS_COMMANDS": f"http://127.0.0.1:{self._server.server_port}/"},
            capture_output=True,
            text=True,
            timeout=SECONDS,
            check=False,
        )
        assert done.returncode == 0, f"{script}\nfailed:\n{done.stdout}{done.stderr}"
        return done.stdout

    def call(self, words: list[str]) -> str:
        service, command, *rest = words
        client = boto3.client(service, endpoint_url=self._endpoint_url)  # type: ignore[call-overload]
        if command == "wait":
            waiter, *rest = rest
            options, _ = self._options(client, "DescribeTable", rest)
            client.get_waiter(waiter.replace("-", "_")).wait(**options)
            return ""
        operations = {xform_name(name, "-"): name for name in client.meta.service_model.operation_names}
        if command not in operations:
            raise CommandError("no such command")
        operation = operations[command]
        options, own = self._options(client, operation, rest)
        if service not in EMULATED:
            self._check(client, operation, options)
            self.checked.append(f"{service} {command}")
            return f"{ANSWER}\n" if own.get("output") == "text" else ""
        method = xform_name(operation)
        if client.can_paginate(method):
            answer = client.get_paginator(method).paginate(**options).build_full_result()
        else:
            answer = getattr(client, method)(**options)
        answer.pop("ResponseMetadata", None)
        if "query" in own:
            answer = jmespath.search(own["query"], answer)
        if own.get("output") == "text":
            return "\t".join(map(str, answer if isinstance(answer, list) else [answer])) + "\n"
        return json.dumps(answer, default=_json) + "\n"

    def _options(self, client: Any, operation: str, words: list[str]) -> tuple[dict[str, Any], dict[str, str]]:
        """The call's arguments, and the options of the AWS CLI itself."""
        shape = client.meta.service_model.operation_model(operation).input_shape
        members = {xform_name(name, "-"): (name, member) for name, member in shape.members.items()}
        arguments: dict[str, Any] = {}
        own: dict[str, str] = {}
        ahead = list(words)
        while ahead:
            option = ahead.pop(0)
            if not option.startswith("--"):
                raise CommandError(f"{option!r} is no option")
            name = option[2:]
            values = []
            while ahead and not ahead[0].startswith("--"):
                values.append(ahead.pop(0))
            if name in ("query", "output"):
                [own[name]] = values
            elif name in members:
                member, kind = members[name]
                arguments[member] = self._value(kind, values)
            elif name.startswith("no-") and name[3:] in members:
                arguments[members[name[3:]][0]] = False
            else:
                raise CommandError(f"no option {option}")
        return arguments, own

    def _value(self, shape: Any, values: list[str]) -> Any:
        values = [
            (self._folder / value.removeprefix("file://")).read_text() if value.startswith("file://") else value
            for value in values
        ]
        if shape.type_name == "boolean":
            return values != ["false"]
        if shape.type_name in ("list", "structure", "map") and values[0].lstrip().startswith(("[", "{")):
            return json.loads(values[0])
        if shape.type_name == "list":
            return [self._value(shape.member, [value]) for value in values]
        [value] = values
        match shape.type_name:
            case "structure" | "map" as kind:
                words = dict(word.split("=", 1) for word in value.split(","))
                shapes = shape.members if kind == "structure" else dict.fromkeys(words, shape.value)
                return {name: self._value(shapes[name], [text]) for name, text in words.items()}
            case "integer" | "long":
                return int(value)
            case "double" | "float":
                return float(value)
            case "timestamp":
                return datetime.fromisoformat(value)
        return value

    @staticmethod
    def _check(client: Any, operation: str, options: Mapping[str, Any]) -> None:
        shape = client.meta.service_model.operation_model(operation).input_shape
        report = botocore.validate.ParamValidator().validate(options, shape)
        if report.has_errors():
            raise CommandError(report.generate_report())


def _json(value: object) -> object:
    return value.isoformat() if isinstance(value, datetime) else str(value)
