"""The local stack as a process of its own, and a caller who knows of it what anybody can: its address and a token."""

from __future__ import annotations

import http.client
import json
import os
import re
import signal
import subprocess
import sys
import time
import uuid
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from datetime import UTC, datetime
from decimal import Decimal
from pathlib import Path
from types import TracebackType
from typing import Any, Self
from urllib.parse import quote, urlsplit

from devstack.aws import client
from devstack.template import Template
from devstack.tokens import Issuer
from testkit.indodana.control_client import SimulatorControl

ROOT = Path(__file__).parents[2]
START_SECONDS = 30.0
STOP_SECONDS = 15.0
ANSWER_SECONDS = 30.0
WAIT_SECONDS = 20.0
POLL_SECONDS = 0.05
# What would take the stack elsewhere than a test sends it.
FOREIGN = ("PORT", "HOST", "UPSTREAM_URL", "AWS_ENDPOINT_URL", "PARAMETERS", "LOCAL_DIR", "PYTHONPATH")


class Program:
    """`python -m …` with its output in a file, so that nothing ever waits for a reader."""

    def __init__(
        self, directory: Path, *arguments: str, root: Path = ROOT, environment: Mapping[str, str] | None = None
    ) -> None:
        directory.mkdir(parents=True, exist_ok=True)
        self.output_file = directory / f"{arguments[0]}-{uuid.uuid4().hex[:8]}.out"
        kept = {name: value for name, value in os.environ.items() if name not in FOREIGN}
        with self.output_file.open("wb") as output:
            self.process = subprocess.Popen(
                [sys.executable, "-m", *arguments],
                cwd=root,
                env=kept | dict(environment or {}),
                stdin=subprocess.DEVNULL,
                stdout=output,
                stderr=subprocess.STDOUT,
                start_new_session=True,
            )

    @property
    def output(self) -> str:
        return self.output_file.read_text(encoding="utf-8")

    def says(self, pattern: str) -> re.Match[str]:
        """Waits for it."""

        def look() -> re.Match[str] | None:
            found = re.search(pattern, self.output, re.MULTILINE)
            assert found or self.process.poll() is None, f"it ended with {self.process.returncode}:\n{self.output}"
            return found

        found = until(look, bool, START_SECONDS)
        assert found, self.output
        return found

    def stop(self, number: int = signal.SIGTERM) -> int:
        self.process.send_signal(number)
        return self.ended()

    def kill(self) -> None:
        self.process.kill()
        self.ended()

    def ended(self, seconds: float = STOP_SECONDS) -> int:
        return self.process.wait(seconds)

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self.process.poll() is None:
            self.kill()


@dataclass(frozen=True)
class Answer:
    status: int
    headers: dict[str, str]
    text: str

    @property
    def body(self) -> Any:
        return json.loads(self.text, parse_float=Decimal)


class Caller:
    """Who knows of a stack what its stack.json says, and has the key that signs its tokens in `directory`."""

    def __init__(self, info: dict[str, Any], directory: Path) -> None:
        self.info = info
        self.directory = directory
        address = urlsplit(info["baseUrl"])
        self._host, self._port = address.hostname or "", address.port
        self._sqs: Any = None

    @property
    def simulator(self) -> SimulatorControl:
        return SimulatorControl(self.info["simulatorUrl"])

    # ---- the API

    def token(self, *scopes: str, merchant: str | None = "m1", **options: Any) -> str:
        audience = Template.load_local().parameters["JwtAudience"]
        given = {"audience": audience} | options
        return Issuer(self.info["issuer"], self.directory).token(scopes, merchant=merchant, **given)

    def call(
        self,
        method: str,
        target: str,
        body: object = None,
        *,
        token: str | None = "",
        headers: Mapping[str, str] | None = None,
    ) -> Answer:
        """`token`: empty for the stack's own, None for none. The target goes out exactly as it is."""
        sent = dict(headers or {})
        if token is not None:
            sent["Authorization"] = f"Bearer {token or self.info['token']}"
        data = None
        if body is not None:
            data = json.dumps(body).encode()
            sent["Content-Type"] = "application/json"
        connection = http.client.HTTPConnection(self._host, self._port, timeout=ANSWER_SECONDS)
        try:
            connection.request(method, target, data, sent)
            answer = connection.getresponse()
            text = answer.read().decode()
            return Answer(answer.status, {name.lower(): value for name, value in answer.getheaders()}, text)
        finally:
            connection.close()

    def order(self, amount: int = 100_000, status: str = "PAID", order_id: str | None = None) -> str:
        order_id = order_id or f"O-{uuid.uuid4().hex[:12]}"
        self.simulator.add_order(order_id, amount, status, "m1")
        return order_id

    def status(self, order_id: str, **options: Any) -> Answer:
        return self.call("GET", path(order_id), **options)

    def refund(
        self, order_id: str, amount: int | None = None, *, key: str | None = None, later: bool = False, **options: Any
    ) -> Answer:
        body: dict[str, Any] = {"reason": "ITEMS_RETURNED", "requestedBy": "till 3"}
        if amount is not None:
            body["amount"] = amount
        headers = {"Idempotency-Key": key or uuid.uuid4().hex} | ({"Prefer": "respond-async"} if later else {})
        return self.call("POST", f"{path(order_id)}/refunds", body, headers=headers, **options)

    def refunds(self, order_id: str) -> Any:
        """The list; empty where there is none yet."""
        answer = self.call("GET", f"{path(order_id)}/refunds")
        return answer.body if answer.status == 200 else {"refunds": []}

    def resolve(self, refund: Any, outcome: str, reference: str = "Indodana's books") -> Answer:
        """By who has just looked up the refund as it reads in `refund`."""
        evidence = {
            "source": "SETTLEMENT_REPORT",
            "reference": reference,
            "checkedAt": datetime.now(UTC).isoformat(),
        }
        target = f"{path(refund['merchantOrderId'])}/refunds/{refund['refundId']}/resolution"
        headers = {"If-Match": f'"{refund["version"]}"'}
        return self.call("POST", target, {"outcome": outcome, "evidence": evidence}, headers=headers)

    def states(self, order_id: str) -> list[str]:
        return [refund["status"] for refund in self.refunds(order_id)["refunds"]]

    def audit(self, order_id: str) -> list[dict[str, Any]]:
        records: list[dict[str, Any]] = []
        token = ""
        while True:
            page = self.call("GET", f"{path(order_id)}/audit?limit=100{token}")
            assert page.status == 200, page.text
            records += page.body["records"]
            if page.body["nextToken"] is None:
                return records
            token = f"&nextToken={quote(page.body['nextToken'], safe='')}"

    # ---- the queues

    @property
    def sqs(self) -> Any:
        self._sqs = self._sqs or client("sqs", self.info["awsEndpointUrl"])
        return self._sqs

    def send(self, body: object) -> None:
        text = body if isinstance(body, str) else json.dumps(body)
        self.sqs.send_message(QueueUrl=self.info["queueUrl"], MessageBody=text)

    def message(self, order_id: str, amount: int, key: str) -> dict[str, Any]:
        return {
            "merchantOrderId": order_id,
            "amount": amount,
            "idempotencyKey": key,
            "reason": "OTHERS",
            "requestedBy": "back office",
        }

    def messages(self) -> int:
        """How many messages the refund queue holds, seen or unseen."""
        names = [f"ApproximateNumberOfMessages{kind}" for kind in ("", "NotVisible", "Delayed")]
        found = self.sqs.get_queue_attributes(QueueUrl=self.info["queueUrl"], AttributeNames=names)["Attributes"]
        return sum(int(found[name]) for name in names)

    def dead_letters(self) -> list[Any]:
        """All that is there and was not asked for before."""
        letters: list[Any] = []
        while found := self.sqs.receive_message(
            QueueUrl=self.info["deadLetterQueueUrl"], MaxNumberOfMessages=10, MessageAttributeNames=["All"]
        ).get("Messages"):
            letters += found
        return letters

    # ---- the tables

    def items(self, table: str) -> list[dict[str, Any]]:
        """`ledgerTable` or `auditTable` as DynamoDB has it, with its type letters."""
        dynamodb = client("dynamodb", self.info["awsEndpointUrl"])
        items: list[dict[str, Any]] = []
        for page in dynamodb.get_paginator("scan").paginate(TableName=self.info[table]):
            items += page["Items"]
        return items


class Stack(Program, Caller):
    """`python -m devstack`, ready once it is made."""

    def __init__(self, directory: Path, environment: Mapping[str, str] | None = None, *, root: Path = ROOT) -> None:
        own = {"PORT": "0", "LOCAL_DIR": str(directory)}
        Program.__init__(self, directory, "devstack", root=root, environment=own | dict(environment or {}))
        try:
            self.says("^Ctrl-C stops it")
        except BaseException:
            self.kill()
            raise
        Caller.__init__(self, json.loads((directory / "stack.json").read_text()), directory)


def path(order_id: str) -> str:
    return f"/v1/transactions/{quote(order_id, safe='')}"


def until[Seen](look: Callable[[], Seen], good: Callable[[Seen], bool], seconds: float = WAIT_SECONDS) -> Seen:
    """What there is to see once it is good, or what there was when the time was up."""
    deadline = time.monotonic() + seconds
    while not good(seen := look()) and time.monotonic() < deadline:
        time.sleep(POLL_SECONDS)
    return seen
