"""The local stack as a process of its own, and a caller who knows of it what anybody can: its address and a token."""

from __future__ import annotations

import json
import uuid
from collections.abc import Mapping
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any
from urllib.parse import quote

from devstack.aws import client
from devstack.template import Template
from devstack.tokens import Issuer
from testkit import http_caller
from testkit.http_caller import Answer
from testkit.indodana.control_client import SimulatorControl
from testkit.processes import ROOT, Program


class Caller:
    """Who knows of a stack what its stack.json says, and has the key that signs its tokens in `directory`."""

    def __init__(self, info: dict[str, Any], directory: Path) -> None:
        self.info = info
        self.directory = directory
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
        sent_token = None if token is None else token or self.info["token"]
        return http_caller.call(self.info["baseUrl"], method, target, body, token=sent_token, headers=headers)

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

    def wait_in_vain(self, order_id: str) -> None:
        """As if the message of the order's waiting refund had been due an hour ago, and was lost."""
        hour_ago = (datetime.now(UTC) - timedelta(hours=1)).isoformat()
        dynamodb = client("dynamodb", self.info["awsEndpointUrl"])
        for item in self.items("ledgerTable"):
            if item.get("merchantOrderId") == {"S": order_id} and "nextAttemptAt" in item:
                dynamodb.update_item(
                    TableName=self.info["ledgerTable"],
                    Key={name: item[name] for name in ("pk", "sk")},
                    UpdateExpression="SET nextAttemptAt = :hour_ago",
                    ExpressionAttributeValues={":hour_ago": {"S": hour_ago}},
                )


class Stack(Program, Caller):
    """`python -m devstack`, ready once it is made."""

    def __init__(self, directory: Path, environment: Mapping[str, str] | None = None, *, root: Path = ROOT) -> None:
        own = {"PORT": "0", "LOCAL_DIR": str(directory)}
        Program.__init__(self, directory, "devstack", root=root, environment=own | dict(environment or {}))
        try:
            self.wait_for("^Ctrl-C stops it")
        except BaseException:
            self.kill()
            raise
        Caller.__init__(self, json.loads((directory / "stack.json").read_text()), directory)


def path(order_id: str) -> str:
    return f"/v1/transactions/{quote(order_id, safe='')}"
