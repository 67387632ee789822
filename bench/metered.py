"""The stub with a meter and a queue: what a call costs, what waits, whether money moved, and how much upstream takes.

    python -m bench.metered

is bench/stub.py, and beside it
- every call to DynamoDB is on record with the units it is charged (bench/capacity.py);
- SQS is a queue that keeps messages and delivers them again: the simulation's (testkit/emulator);
- Indodana keeps books, and can be told to take only so many requests at a time: a further one gets 429 and Retry-After.
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

from bench.capacity import PAGE_BYTES, Index, Item, Units, Write, item_bytes, read_each, read_together, written
from bench.stub import Answer, Call, Services, Stub, StubFailure, serve, writes_in
from devstack.template import Model, Template
from testkit.emulator import Sqs

RETRY_AFTER_SECONDS = 1

LEDGER, AUDIT, QUEUE = "LedgerTable", "AuditTable", "RefundQueue"


@dataclass(frozen=True)
class MeteredCall(Call):
    write_units: float = 0
    """Of both tables, without the index."""
    audit_write_units: float = 0
    """Of these, the audit table's."""
    index_write_units: float = 0
    read_units: float = 0
    stored_bytes: int = 0
    """By how much it made a table larger."""
    bytes_sent: int = 0
    """To Indodana: what leaves AWS."""


@dataclass(frozen=True)
class Books:
    """What is on record in the end, at Indodana and in the ledger."""

    moved: Mapping[str, int]
    """How often money moved, by refund."""
    refunds: Mapping[str, str]
    """The ledger's statuses, by refund."""
    refunded: Mapping[str, int]
    """What the ledger says was refunded, by order, in whole rupiah."""
    moved_amounts: Mapping[str, int]
    """What Indodana says, by order."""
    dead_letters: int


class MeteredServices(Services):
    def __init__(self, model: Model) -> None:
        super().__init__(model)
        self._names = {logical_id: table.name for logical_id, table in model.tables.items()}
        self._indexes = {
            table.name: tuple(_index(index) for index in table.definition.get("GlobalSecondaryIndexes", []))
            for table in model.tables.values()
        }
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
        self._most_at_a_time: int | None = None
        self._at_work = 0

    def _control(self, target: str, body: bytes) -> Answer:
        match target:
            case "/_stub/limit":
                self._most_at_a_time = json.loads(body)
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
        keys = _keys_written(operation, request)
        before = [self._found(table, key) for table, key, _ in keys]
        answer = super()._dynamodb(operation, request, now)
        done = answer.status == 200
        # What an Update would have made of an item is no larger than the item: it changes numbers only.
        writes = [
            Write(old, self._found(table, key) if done else put or old, self._indexes[table])
            for old, (table, key, put) in zip(before, keys, strict=True)
        ]
        transaction = operation == "TransactWriteItems"
        if writes:
            units = written(writes, transaction=transaction, done=done)
        else:
            units = _read(operation, request, answer.body) if done else Units()
        of_audit = [write for write, (table, *_) in zip(writes, keys, strict=True) if table == self._names[AUDIT]]
        growth = sum(item_bytes(write.after or {}) - item_bytes(write.before or {}) for write in writes)
        assert answer.call
        call = MeteredCall(
            **vars(answer.call),
            write_units=units.write,
            audit_write_units=written(of_audit, transaction=transaction, done=done).write,
            index_write_units=units.index_write,
            read_units=units.read,
            stored_bytes=growth if done else 0,
        )
        return replace(answer, call=call)

    def _found(self, table: str, key: Item) -> Item | None:
        found: list[Item] = self._items.batch_get_item(RequestItems={table: {"Keys": [key]}})["Responses"][table]
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
        call = MeteredCall("sqs", operation, now, now + seconds, error)
        return Answer(400 if error else 200, result, seconds, call)

    def _sqs(self, operation: str, request: Mapping[str, Any]) -> dict[str, Any]:
        request = {**request, "QueueUrl": request["QueueUrl"].rpartition("/")[2]}
        entries = request.pop("Entries", [])
        result: dict[str, Any] = {}
        match operation:
            case "SendMessage":
                result = self._queue.send_message(**request)
            case "ReceiveMessage":
                result = self._queue.receive_message(**request)
            case "ChangeMessageVisibility":
                result = self._queue.change_message_visibility(**request)
            case "DeleteMessageBatch":
                for entry in entries:
                    self._queue.delete_message(**request, ReceiptHandle=entry["ReceiptHandle"])
                result = {"Successful": [{"Id": entry["Id"]} for entry in entries], "Failed": []}
            case _:
                raise NotImplementedError(operation)
        return result

    # ---- Indodana

    def _indodana(self, method: str, target: str, headers: Mapping[str, str], body: bytes, now: float) -> Answer:
        sent = _bytes_sent(method, target, headers, body)
        operation = target.partition("?")[0].rpartition("/")[2]
        if self._most_at_a_time is not None and self._at_work >= self._most_at_a_time:
            problem = {"status": "ERROR", "error": {"kind": "TooManyRequestsError", "message": "too many at a time"}}
            call = MeteredCall("indodana", operation, now, now, "429", bytes_sent=sent)
            return Answer(429, problem, 0.0, call, headers={"Retry-After": str(RETRY_AFTER_SECONDS)})
        answer = super()._indodana(method, target, headers, body, now)
        if answer.status == 200 and operation == "order_cancellation":
            wanted = json.loads(body)
            self._moved[wanted["refundId"]] += 1
            self._amounts[wanted["merchantOrderId"]] += int(wanted["cancellationAmount"])
        self._at_work += 1
        assert answer.call
        return replace(answer, call=MeteredCall(**vars(answer.call), bytes_sent=sent), done=self._one_less)

    def _one_less(self) -> None:
        self._at_work -= 1


def _index(definition: Mapping[str, Any]) -> Index:
    if definition["Projection"] != {"ProjectionType": "ALL"}:
        raise NotImplementedError(f"the index {definition['IndexName']} projects something else than ALL")
    hash_key, range_key = (key["AttributeName"] for key in definition["KeySchema"])
    return hash_key, range_key


def _keys_written(operation: str, request: Mapping[str, Any]) -> list[tuple[str, Item, Item | None]]:
    """Of each item that is written: its table, its key, and all of it where the request has that."""
    return [
        (
            write["TableName"],
            {name: (write.get("Item") or write["Key"])[name] for name in ("pk", "sk")},
            write.get("Item"),
        )
        for write in writes_in(operation, request)
    ]


def _read(operation: str, request: Mapping[str, Any], answer: Mapping[str, Any]) -> Units:
    if operation == "BatchGetItem":
        ((table, wanted),) = request["RequestItems"].items()
        found = answer["Responses"][table]
        return read_each(found, len(wanted["Keys"]), consistent=wanted.get("ConsistentRead", False))
    if operation not in ("Query", "Scan"):
        raise NotImplementedError(operation)
    if sum(map(item_bytes, answer["Items"])) > PAGE_BYTES:
        raise NotImplementedError("AWS would have ended this page")
    return read_together(answer["Items"], consistent=request.get("ConsistentRead", False))


def _bytes_sent(method: str, target: str, headers: Mapping[str, str], body: bytes) -> int:
    head = len(f"{method} {target} HTTP/1.1\r\n\r\n")
    return head + sum(len(name) + len(value) + 4 for name, value in headers.items()) + len(body)


# ---- whoever measures


class MeteredStub(Stub):
    """The metered stub in a process of its own."""

    module = "bench.metered"

    def limit_upstream(self, most_at_a_time: int | None) -> None:
        """None: as many requests as come."""
        self._ask("limit", most_at_a_time)

    def books(self) -> Books:
        return Books(**self._ask("books", {}))

    def send(self, bodies: Iterable[str]) -> None:
        """Messages of whoever sends to the refund queue; they are no calls of a function's, and take no time."""
        self._ask("send", list(bodies))

    def waiting(self) -> int:
        """Messages in the refund queue, whether or not they can be received now."""
        count: int = self._ask("waiting", {})
        return count

    def take_metered(self) -> list[MeteredCall]:
        """As take_calls(). Raises StubFailure."""
        taken = self._ask("take_calls", {})
        if taken["failures"]:
            raise StubFailure("; ".join(taken["failures"]))
        return [MeteredCall(**call) for call in taken["calls"]]


if __name__ == "__main__":
    gc.disable()  # as in bench/stub.py
    asyncio.run(serve(MeteredServices(Template.load_local().model())))
