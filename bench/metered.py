"""The stub with request units, a real queue, Indodana's books and a rate limit.

    python -m bench.metered

is bench/stub.py with these additions:
- every call to DynamoDB is recorded with the units it is charged (bench/capacity.py);
- SQS is a queue that keeps messages and delivers them again: the emulator's (testkit/emulator);
- Indodana records refunds, and can limit the requests it accepts at a time: others get 429 and Retry-After.
"""

from __future__ import annotations

import asyncio
import gc
import json
from collections import Counter
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from typing import Any

from botocore.exceptions import ClientError

from bench.capacity import (
    NO_UNITS,
    PAGE_BYTES,
    Item,
    Units,
    Write,
    get_units,
    item_bytes,
    page_units,
    written_units,
)
from bench.stub import Answer, Call, Services, Stub, indexes_of, key_of, serve, writes_in
from devstack.template import Model, Template
from testkit.emulator import Sqs

RETRY_AFTER_SECONDS = 1
POLLS = frozenset({"ReceiveMessage", "DeleteMessage", "DeleteMessageBatch"})

LEDGER, QUEUE = "LedgerTable", "RefundQueue"


@dataclass(frozen=True)
class MeteredCall(Call):
    units: Units = NO_UNITS
    is_poll: bool = False
    """Made by Lambda's pollers, and not by a function."""


@dataclass(frozen=True)
class Books:
    """What Indodana and the ledger have recorded."""

    moved: Mapping[str, int]
    """How many times money moved, by refund."""
    refunds: Mapping[str, str]
    """Statuses in the ledger, by refund."""
    refunded: Mapping[str, int]
    """Refunded according to the ledger, by order, in whole rupiah."""
    moved_amounts: Mapping[str, int]
    """Refunded according to Indodana, by order, in whole rupiah."""
    dead_letters: int


class MeteredServices(Services):
    def __init__(self, model: Model) -> None:
        super().__init__(model)
        self._names = {logical_id: table.name for logical_id, table in model.tables.items()}
        self._indexes = {table: tuple(indexes.values()) for table, indexes in indexes_of(model).items()}
        queue = model.queues[QUEUE]
        assert queue.dead_letter_queue
        assert queue.max_receive_count
        self._dead_letters = model.queues[queue.dead_letter_queue].name
        self._queue = Sqs(
            lambda: datetime.now(UTC),
            int(queue.attributes["VisibilityTimeout"]),
            queue.max_receive_count,
            url=queue.name,
            dead_letter_url=self._dead_letters,
        )
        self._queue_name = queue.name
        self._moved: Counter[str] = Counter()
        self._amounts: Counter[str] = Counter()
        self._limit: int | None = None
        self._in_flight = 0

    def _control(self, target: str, body: bytes) -> Answer:
        match target:
            case "/_stub/limit":
                self._limit = json.loads(body)
                return Answer(200, {}, 0.0)
            case "/_stub/books":
                return Answer(200, vars(self._books()), 0.0)
            case "/_stub/send":
                for text in json.loads(body):
                    self._queue.send_message(QueueUrl=self._queue_name, MessageBody=text)
                return Answer(200, {}, 0.0)
            case "/_stub/waiting":
                return Answer(200, len(self._queue.messages(self._queue_name)), 0.0)
        return super()._control(target, body)

    def _books(self) -> Books:
        ledger = list(self._items.items(self._names[LEDGER]))
        return Books(
            moved=self._moved,
            refunds={item["refundId"]["S"]: item["status"]["S"] for item in ledger if "refundId" in item},
            refunded={
                item["pk"]["S"].partition("#")[2]: int(item["refunded"]["N"]) for item in ledger if "refunded" in item
            },
            moved_amounts=self._amounts,
            dead_letters=len(self._queue.messages(self._dead_letters)),
        )

    # ---- DynamoDB

    def _dynamodb(self, operation: str, request: dict[str, Any], now: float) -> Answer:
        wanted = writes_in(operation, request)
        before = [self._found(write) for write in wanted]
        answer = super()._dynamodb(operation, request, now)
        done = answer.status == 200
        # A failed Update is charged for the item before: its updates change only numbers, so the sizes are equal.
        writes = [
            Write(old, self._found(write) if done else write.get("Item", old), self._indexes[write["TableName"]])
            for old, write in zip(before, wanted, strict=True)
        ]
        if writes:
            units = written_units(writes, transaction=operation == "TransactWriteItems", done=done)
        else:
            units = _read(operation, request, answer.body) if done else NO_UNITS
        assert answer.call
        return replace(answer, call=MeteredCall(**vars(answer.call), units=units))

    def _found(self, write: Mapping[str, Any]) -> Item | None:
        table = write["TableName"]
        found: list[Item] = self._items.batch_get_item(RequestItems={table: {"Keys": [key_of(write)]}})["Responses"][
            table
        ]
        return found[0] if found else None

    # ---- SQS

    def _aws(self, target: str, request: dict[str, Any], now: float) -> Answer:
        service, _, operation = target.partition(".")
        if service != "AmazonSQS":
            return super()._aws(target, request, now)
        seconds = self.latencies.call
        error = None
        try:
            result = self._sqs(operation, request)
        except ClientError as refused:
            error = refused.response["Error"]["Code"]
            result = {"__type": f"com.amazonaws.sqs#{error}", "message": refused.response["Error"]["Message"]}
        # Recovery receives dead letters; nothing else receives by itself.
        is_poll = operation in POLLS and request["QueueUrl"].rpartition("/")[2] == self._queue_name
        call = MeteredCall("sqs", operation, now, now + seconds, error, is_poll=is_poll)
        return Answer(400 if error else 200, result, seconds, call)

    def _sqs(self, operation: str, request: Mapping[str, Any]) -> dict[str, Any]:
        request = {**request, "QueueUrl": request["QueueUrl"].rpartition("/")[2]}
        result: dict[str, Any] = {}
        match operation:
            case "SendMessage":
                result = self._queue.send_message(**request)
            case "SendMessageBatch":
                result = self._queue.send_message_batch(**request)
            case "ReceiveMessage":
                result = self._queue.receive_message(**request)
            case "ChangeMessageVisibility":
                result = self._queue.change_message_visibility(**request)
            case "DeleteMessage":
                self._queue.delete_message(**request)
            case "DeleteMessageBatch":
                entries = request.pop("Entries")
                for entry in entries:
                    self._queue.delete_message(**request, ReceiptHandle=entry["ReceiptHandle"])
                result = {"Successful": [{"Id": entry["Id"]} for entry in entries], "Failed": []}
            case _:
                raise NotImplementedError(operation)
        return result

    # ---- Indodana

    def _indodana(self, method: str, target: str, headers: Mapping[str, str], body: bytes, now: float) -> Answer:
        operation = target.partition("?")[0].rpartition("/")[2]
        if self._limit is not None and self._in_flight >= self._limit:
            problem = {
                "status": "ERROR",
                "error": {"kind": "TooManyRequestsError", "message": "too many concurrent requests"},
            }
            call = MeteredCall("indodana", operation, now, now, "429")
            return Answer(429, problem, 0.0, call, headers={"Retry-After": str(RETRY_AFTER_SECONDS)})
        answer = super()._indodana(method, target, headers, body, now)
        if answer.status == 200 and operation == "order_cancellation":
            wanted = json.loads(body)
            self._moved[wanted["refundId"]] += 1
            self._amounts[wanted["merchantOrderId"]] += int(wanted["cancellationAmount"])
        self._in_flight += 1
        assert answer.call
        return replace(answer, call=MeteredCall(**vars(answer.call)), done=self._finish)

    def _finish(self) -> None:
        self._in_flight -= 1


def _read(operation: str, request: Mapping[str, Any], answer: Mapping[str, Any]) -> Units:
    if operation == "BatchGetItem":
        ((table, wanted),) = request["RequestItems"].items()
        found = answer["Responses"][table]
        return get_units(found, len(wanted["Keys"]), consistent=wanted.get("ConsistentRead", False))
    if operation not in ("Query", "Scan"):
        raise NotImplementedError(operation)
    if sum(map(item_bytes, answer["Items"])) > PAGE_BYTES:
        raise NotImplementedError("larger than a page of AWS")
    return page_units(answer["Items"], consistent=request.get("ConsistentRead", False))


# ---- the client


class MeteredStub(Stub):
    """The metered stub, in its own process."""

    module = "bench.metered"

    def limit_upstream(self, limit: int | None) -> None:
        """None: no limit."""
        self._ask("limit", limit)

    def books(self) -> Books:
        return Books(**self._ask("books", {}))

    def send(self, bodies: Iterable[str]) -> None:
        """Puts messages into the refund queue without latency; not recorded as calls."""
        self._ask("send", list(bodies))

    def waiting(self) -> int:
        """The number of messages in the refund queue, visible or not."""
        count: int = self._ask("waiting", {})
        return count

    def take_metered(self) -> list[MeteredCall]:
        """Like take_calls, with the units of each call."""
        return [MeteredCall(**call | {"units": Units(**call.get("units", {}))}) for call in self._taken()]


if __name__ == "__main__":
    gc.disable()  # as in bench/stub.py
    asyncio.run(serve(MeteredServices(Template.load_local().model())))
