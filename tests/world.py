"""A gateway over an emulated AWS and a simulated Indodana, driven through its handlers as Lambda drives them."""

from __future__ import annotations

import itertools
import json
import uuid
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime, timedelta
from decimal import Decimal
from typing import Any

import boto3

import audit_query.handler
import recovery.handler
import refund_api.handler
import refund_worker.handler
import status_check.handler
from devstack.queues import sqs_event
from gateway.core.model import OrderKey
from gateway.runtime import bootstrap
from gateway.runtime.aws import AwsClients
from gateway.runtime.settings import Settings
from testkit.indodana.control_client import SimulatorControl

MERCHANT = "m1"
LAMBDA_SECONDS = 29.0
MOST_WRITES = 25  # in a BatchWriteItem
_numbers = itertools.count(1)

HANDLERS = {
    **dict.fromkeys(status_check.handler.ROUTES, status_check.handler.lambda_handler),
    **dict.fromkeys(refund_api.handler.ROUTES, refund_api.handler.lambda_handler),
    **dict.fromkeys(audit_query.handler.ROUTES, audit_query.handler.lambda_handler),
}
CREATE = "POST /v1/transactions/{merchantOrderId}/refunds"


@dataclass(frozen=True)
class Context:
    seconds: float = LAMBDA_SECONDS
    aws_request_id: str = "invocation-1"

    def get_remaining_time_in_millis(self) -> int:
        return int(self.seconds * 1000)


@dataclass(frozen=True)
class Answer:
    status: int
    headers: dict[str, str]
    text: str

    @property
    def body(self) -> Any:
        return json.loads(self.text, parse_float=Decimal)


@dataclass
class Clock:
    """The wall clock, with as much time passed in one go as a test likes."""

    ahead: timedelta = field(default_factory=timedelta)

    def __call__(self) -> datetime:
        return datetime.now(UTC) + self.ahead

    def pass_seconds(self, seconds: float) -> None:
        self.ahead += timedelta(seconds=seconds)


class Killed(BaseException):
    """The process is gone: nothing in it may catch this and go on."""


class World:
    """Tables and queues that are empty when a test begins; orders that no other test has."""

    def __init__(self, settings: Settings, simulator: SimulatorControl, clock: Clock) -> None:
        self.settings = self._first_settings = settings
        self.simulator = simulator
        self.clock = clock
        self.sqs = boto3.client("sqs")
        self.dynamodb = boto3.client("dynamodb")
        self.secretsmanager = boto3.client("secretsmanager")
        self._rotated: dict[str, str] = {}
        self.reassemble()

    def clear(self) -> None:
        """Takes away what the test left for the next one."""
        settings = self._first_settings
        for table in (settings.ledger_table, settings.audit_table):
            for page in self.dynamodb.get_paginator("scan").paginate(TableName=table, ConsistentRead=True):
                keys = [{name: item[name] for name in ("pk", "sk")} for item in page["Items"]]
                for some in itertools.batched(keys, MOST_WRITES, strict=False):
                    deletions: Any = [{"DeleteRequest": {"Key": key}} for key in some]
                    self.dynamodb.batch_write_item(RequestItems={table: deletions})
        for queue in (settings.refund_queue_url, settings.refund_dead_letter_queue_url):
            self.sqs.purge_queue(QueueUrl=queue)
        for name, text in self._rotated.items():
            self.secretsmanager.put_secret_value(SecretId=name, SecretString=text)

    def reassemble(self, **settings: Any) -> None:
        """As if every function had been started anew, perhaps with other settings."""
        self.settings = replace(self.settings, **settings)
        self.gateway_clients = AwsClients()
        self.gateway = bootstrap.Gateway(self.settings, self.gateway_clients, clock=self.clock)

    # ---- Indodana's side

    def order(self, amount: str | int = 100_000, status: str = "PAID", merchant: str = MERCHANT) -> str:
        order_id = f"ORDER-{next(_numbers)}"
        self.simulator.add_order(order_id, Decimal(amount), status, merchant_id=merchant)
        return order_id

    def moved(self, order_id: str, merchant: str = MERCHANT) -> Decimal:
        return self.simulator.moved(merchant, order_id)

    def rotate(self, merchant: str, api_key: str, secret_key: str) -> None:
        """New credentials at Indodana and in Secrets Manager, as a merchant's rotation leaves them."""
        self.simulator.set_credentials(merchant, api_key, secret_key)
        name = self.settings.secret_prefix + merchant
        self._rotated.setdefault(name, self.secretsmanager.get_secret_value(SecretId=name)["SecretString"])
        self.secretsmanager.put_secret_value(
            SecretId=name,
            SecretString=json.dumps({"apiKey": api_key, "secretKey": secret_key}),
        )

    def die_during(self, call: str) -> None:
        """The process dies as it is about to make this call of Indodana's client (`check_status`, `cancel`)."""

        def killed(*_: object, **__: object) -> None:
            raise Killed("killed")

        setattr(self.gateway.indodana, call, killed)

    def movements(self, order_id: str) -> list[dict[str, Any]]:
        movements: list[dict[str, Any]] = self.simulator.books(order_id)["movements"]
        return movements

    def requests(self, order_id: str, path: str = "order_cancellation") -> list[dict[str, Any]]:
        return [request for request in self.simulator.books(order_id)["requests"] if request["path"] == path]

    # ---- the API

    def api(
        self,
        route: str,
        order_id: str | None = None,
        *,
        refund_id: str | None = None,
        body: object = None,
        headers: dict[str, str] | None = None,
        query: dict[str, str] | None = None,
        merchant: str | None = MERCHANT,
        subject: str = "agent-7",
        scope: str = "refunds:read refunds:write refunds:resolve",
        seconds: float = LAMBDA_SECONDS,
        correlation_id: str | None = None,
        **event_changes: Any,
    ) -> Answer:
        """`body`: a text goes out as it is, anything else as JSON."""
        headers = dict(headers or {}) | ({} if correlation_id is None else {"x-correlation-id": correlation_id})
        claims = {"sub": subject, "merchant_id": merchant, "scope": scope}
        path = {"merchantOrderId": order_id, "refundId": refund_id}
        event = {
            "version": "2.0",
            "routeKey": route,
            "headers": headers,
            "queryStringParameters": query,
            "pathParameters": {name: value for name, value in path.items() if value is not None},
            "requestContext": {
                "requestId": uuid.uuid4().hex,
                "authorizer": {"jwt": {"claims": {name: claim for name, claim in claims.items() if claim is not None}}},
            },
            "body": body if isinstance(body, str) or body is None else json.dumps(body, default=_json_number),
            "isBase64Encoded": False,
        } | event_changes
        result = HANDLERS[route](event, Context(seconds))  # type: ignore[arg-type]
        return Answer(result["statusCode"], result["headers"], result["body"])

    def status(self, order_id: str, **options: Any) -> Answer:
        return self.api("GET /v1/transactions/{merchantOrderId}", order_id, **options)

    def refund(
        self, order_id: str, amount: object = None, *, key: str | None = None, later: bool = False, **options: Any
    ) -> Answer:
        body = {"reason": "ITEMS_RETURNED", "requestedBy": "agent", **options.pop("fields", {})}
        if amount is not None:
            body["amount"] = amount
        headers = {"idempotency-key": key or uuid.uuid4().hex, **({"prefer": "respond-async"} if later else {})}
        return self.api(CREATE, order_id, body=body, headers=headers, **options)

    def get(self, order_id: str, refund_id: str, **options: Any) -> Answer:
        route = "GET /v1/transactions/{merchantOrderId}/refunds/{refundId}"
        return self.api(route, order_id, refund_id=refund_id, **options)

    def list_refunds(self, order_id: str, **options: Any) -> Answer:
        return self.api("GET /v1/transactions/{merchantOrderId}/refunds", order_id, **options)

    def resolve(
        self,
        order_id: str,
        refund_id: str,
        outcome: str,
        *,
        version: int | None = None,
        checked_at: datetime | None = None,
        reference: str = "ticket 4711",
        **options: Any,
    ) -> Answer:
        """By an operator who has just looked, unless `version` or `checked_at` say otherwise."""
        evidence = {
            "source": "SETTLEMENT_REPORT",
            "reference": reference,
            "checkedAt": (checked_at or self.clock()).isoformat(),
        }
        body = {"outcome": outcome, "evidence": evidence}
        return self._decide("resolution", order_id, refund_id, version, body, **options)

    def withdraw(
        self, order_id: str, refund_id: str, *, version: int | None = None, note: str | None = None, **options: Any
    ) -> Answer:
        body = {} if note is None else {"note": note}
        return self._decide("withdrawal", order_id, refund_id, version, body, **options)

    def _decide(
        self, decision: str, order_id: str, refund_id: str, version: int | None, body: object, **options: Any
    ) -> Answer:
        if version is None:
            version = self.get(order_id, refund_id).body.get("version", 1)
        route = f"POST /v1/transactions/{{merchantOrderId}}/refunds/{{refundId}}/{decision}"
        headers = {"if-match": f'"{version}"'}
        return self.api(route, order_id, refund_id=refund_id, body=body, headers=headers, **options)

    def wait_out_the_hold(self) -> None:
        """Until it can be said of a refund that was sent just now that it was not done."""
        self.clock.pass_seconds(self.settings.resolution_hold_seconds + 60)

    def open_refunds(self, status: str = "UNKNOWN", **query: str) -> Answer:
        return self.api("GET /v1/refunds", query={"status": status, **query})

    def audit(self, order_id: str, **options: Any) -> list[dict[str, Any]]:
        answer = self.api("GET /v1/transactions/{merchantOrderId}/audit", order_id, query={"limit": "100"}, **options)
        assert answer.status == 200, answer.text
        records: list[dict[str, Any]] = answer.body["records"]
        return records

    def sums(self, order_id: str) -> tuple[Decimal, Decimal, Decimal]:
        """refunded, reserved, refundable; that they add up is checked each time."""
        body = self.list_refunds(order_id).body
        assert body["refunded"] + body["reserved"] + body["refundable"] == body["transactionAmount"]
        return body["refunded"], body["reserved"], body["refundable"]

    def order_key(self, order_id: str, merchant: str = MERCHANT) -> OrderKey:
        return OrderKey(merchant, order_id)

    # ---- the queue and the schedule

    def send(self, order_id: str, key: str, *, correlation_id: str | None = None, **fields: Any) -> None:
        """What a back office puts into the refund queue."""
        message = {
            "merchantOrderId": order_id,
            "idempotencyKey": key,
            "reason": "OTHERS",
            "requestedBy": "back office",
        } | fields
        body = json.dumps({name: value for name, value in message.items() if value is not None})
        attribute = {"DataType": "String", "StringValue": correlation_id}
        self.send_raw(body, {} if correlation_id is None else {"correlationId": attribute})

    def send_raw(self, body: str, attributes: Mapping[str, Any] | None = None) -> None:
        self.sqs.send_message(
            QueueUrl=self.settings.refund_queue_url, MessageBody=body, MessageAttributes=attributes or {}
        )

    def receive(self, queue_url: str | None = None, visibility: int = 60) -> list[Any]:
        found = self.sqs.receive_message(
            QueueUrl=queue_url or self.settings.refund_queue_url,
            MaxNumberOfMessages=10,
            VisibilityTimeout=visibility,
            AttributeNames=["All"],
            MessageAttributeNames=["All"],
        )
        return list(found.get("Messages", []))

    def show(self, message: Any) -> None:
        """Its visibility timeout is over."""
        self.sqs.change_message_visibility(
            QueueUrl=self.settings.refund_queue_url, ReceiptHandle=message["ReceiptHandle"], VisibilityTimeout=0
        )

    def work(self, messages: Iterable[Any], *, seconds: float = 60) -> list[str]:
        """Hands the messages to the worker and does what Lambda does then; returns the bodies of those kept."""
        messages = list(messages)
        event = {"Records": [_record(message) for message in messages]}
        result = refund_worker.handler.lambda_handler(event, Context(seconds))  # type: ignore[arg-type]
        again = {failure["itemIdentifier"] for failure in result["batchItemFailures"]}
        for message in messages:
            if message["MessageId"] not in again:
                self.sqs.delete_message(QueueUrl=self.settings.refund_queue_url, ReceiptHandle=message["ReceiptHandle"])
        return [message["Body"] for message in messages if message["MessageId"] in again]

    def work_queue(self) -> list[str]:
        """One batch, as it comes."""
        return self.work(self.receive())

    def dead_letters(self) -> list[Any]:
        return self.receive(self.settings.refund_dead_letter_queue_url)

    def recover(self) -> dict[str, Any]:
        return recovery.handler.lambda_handler({}, Context())  # type: ignore[arg-type]


def _record(message: Any) -> dict[str, Any]:
    [record] = sqs_event([message], "arn:aws:sqs:ap-southeast-3:123456789012:refunds", "ap-southeast-3")["Records"]
    return record | {"attributes": {"SenderId": "AIDA-BACK-OFFICE"} | message["Attributes"]}


def _json_number(value: object) -> object:
    if isinstance(value, Decimal):
        return int(value) if value == int(value) else float(value)
    raise TypeError(value)
