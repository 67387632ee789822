"""DynamoDB, SQS, Secrets Manager and Indodana with constant latencies on one port, for measurements.

    python -m bench.stub

prints its address as a line of JSON and exits at the end of its standard input. DynamoDB's items and conditions are the
simulation's (testkit/emulator); here they are put behind HTTP, and given what takes time on AWS:

    a call to AWS               answered 5 ms after the request arrived
    TransactWriteItems          10 ms; any other write of one of its items during that time fails with a
                                TransactionConflict
    a call to Indodana          a configurable latency

Every call is recorded with its times, so that calls can be counted and concurrent ones be seen.
Linux only: it needs timers that are more precise than asyncio's.
"""

from __future__ import annotations

import asyncio
import gc
import hashlib
import heapq
import hmac
import http.client
import itertools
import json
import os
import re
import subprocess
import sys
import time
from collections import Counter
from collections.abc import Callable, Iterable, Mapping, Sequence
from contextlib import AbstractContextManager
from dataclasses import asdict, dataclass, field
from types import TracebackType
from typing import Any, Self
from urllib.parse import parse_qs, urlsplit

from botocore.exceptions import ClientError

from devstack.samconfig import ROOT
from devstack.template import Model, Template
from testkit.emulator import Dynamo

CALL_SECONDS = 0.005
TRANSACTION_SECONDS = 0.010

API_KEY = "merchant-key"
SECRET_KEY = "merchant-secret"
# More than any measurement refunds.
ORDER_AMOUNT = 1_000_000_000_000

# The tables of the peers that the gateway is compared with; the gateway's own are in the template.
PEER_TABLES: Mapping[str, Mapping[str, tuple[str, str]]] = {"peer-orders": {}, "peer-audit": {}, "peer-idempotency": {}}


@dataclass(frozen=True)
class Latencies:
    """In seconds, from the arrival of a request to its answer."""

    call: float = CALL_SECONDS
    transaction: float = TRANSACTION_SECONDS
    upstream: float = 0.0
    cancellation: float | None = None
    """Of a cancellation; None: as every call to Indodana."""


@dataclass(frozen=True)
class Call:
    """One answered call; times in seconds of the stub's clock."""

    service: str
    operation: str
    began: float
    ended: float
    error: str | None
    """The error code; None if the call succeeded."""
    items: tuple[str, ...] = ()
    """The items of its writes, also of failed ones, as table/pk/sk."""
    conflicts: tuple[str, ...] = ()
    """Those in conflict with another write in progress; then nothing was written."""


def in_series(calls: Iterable[Call]) -> int:
    """The length of the longest chain of calls in which each began after the one before ended."""
    longest, last_end = 0, float("-inf")
    for call in sorted(calls, key=lambda call: call.ended):
        if call.began >= last_end:
            longest, last_end = longest + 1, call.ended
    return longest


# ---- DynamoDB


class _Conflict(Exception):
    """An item is being written by another call."""

    def __init__(self, items: list[str | None]) -> None:
        super().__init__()
        self.items = items


class _Items(Dynamo):
    """The emulator's DynamoDB with what only the peers use."""

    def get_item(self, *, TableName: str, Key: Any, ConsistentRead: bool = False) -> dict[str, Any]:  # noqa: N803
        request = {TableName: {"Keys": [Key], "ConsistentRead": ConsistentRead}}
        found = self.batch_get_item(RequestItems=request)["Responses"][TableName]
        return {"Item": found[0]} if found else {}

    def transact_write_items(self, *, TransactItems: Any, ClientRequestToken: str = "") -> dict[str, Any]:  # noqa: N803, ARG002
        """Ignores the SDK's token for lost answers: none is lost here."""
        return super().transact_write_items(TransactItems=TransactItems)

    def put_item(self, /, **request: Any) -> dict[str, Any]:
        """Supports conditions of the form `a OR b OR (c)` by trying one alternative after the other."""
        alternatives = re.split(r"\s+OR\s+", request.get("ConditionExpression", ""))
        if len(alternatives) == 1:
            return super().put_item(**request)
        refused: ClientError | None = None
        for alternative in alternatives:
            condition = alternative.removeprefix("(").removesuffix(")") if "(" == alternative[0] else alternative
            used = set(re.findall(r"[#:]\w+", condition))
            placeholders = {
                name: {placeholder: value for placeholder, value in request[name].items() if placeholder in used}
                for name in ("ExpressionAttributeNames", "ExpressionAttributeValues")
            }
            try:
                return super().put_item(**request | placeholders | {"ConditionExpression": condition})
            except self.exceptions.ConditionalCheckFailedException as error:
                refused = error
        assert refused
        raise refused


class _Writes:
    """The items being written now, and by what kind of call.

    A transaction conflicts with any other write of one of its items; two single writes of an item do not conflict.
    """

    def __init__(self) -> None:
        self._transactions: set[str] = set()
        self._singles: Counter[str] = Counter()

    def begin(self, operation: str, items: list[str]) -> Callable[[], None]:
        """Returns the function that ends the write. Raises _Conflict."""
        if operation == "TransactWriteItems":
            taken = [item if item in self._transactions or self._singles[item] else None for item in items]
            if any(taken):
                raise _Conflict(taken)
            self._transactions.update(items)
            return lambda: self._transactions.difference_update(items)
        if any(item in self._transactions for item in items):
            raise _Conflict([*items])
        self._singles.update(items)
        return lambda: self._singles.subtract(items)


def writes_in(operation: str, request: Mapping[str, Any]) -> Sequence[Mapping[str, Any]]:
    """The puts and updates of a request, each like a request of its own."""
    if operation == "TransactWriteItems":
        return [write for item in request["TransactItems"] for write in item.values()]
    return [request] if operation in ("PutItem", "UpdateItem") else []


def key_of(write: Mapping[str, Any]) -> dict[str, Any]:
    attributes = write.get("Item") or write["Key"]
    return {name: attributes[name] for name in ("pk", "sk")}


def _items_written(operation: str, request: Mapping[str, Any]) -> list[str]:
    keys = [(write["TableName"], key_of(write)) for write in writes_in(operation, request)]
    return [f"{table}/{key['pk']['S']}/{key['sk']['S']}" for table, key in keys]


def indexes_of(model: Model) -> dict[str, dict[str, tuple[str, str]]]:
    """Of each table: its indexes, with the hash and range attribute of each."""
    tables: dict[str, dict[str, tuple[str, str]]] = {}
    for table in model.tables.values():
        indexes = table.definition.get("GlobalSecondaryIndexes", [])
        if any(index["Projection"] != {"ProjectionType": "ALL"} for index in indexes):
            raise NotImplementedError(f"table {table.name} has an index that does not project ALL")
        tables[table.name] = {
            index["IndexName"]: tuple(key["AttributeName"] for key in index["KeySchema"]) for index in indexes
        }
    return tables


# ---- the services


@dataclass(frozen=True)
class Answer:
    status: int
    body: Any
    seconds: float
    call: Call | None = None
    done: Callable[[], None] = lambda: None
    """To be called when the answer is sent."""
    headers: Mapping[str, str] = field(default_factory=dict)


class Services:
    """Answers requests, given their times of arrival; knows nothing of sockets."""

    def __init__(self, model: Model) -> None:
        self.latencies = Latencies()
        self._items = _Items({**PEER_TABLES, **indexes_of(model)})
        self._writes = _Writes()
        self._calls: list[Call] = []
        self._failures: list[str] = []
        self._ids = itertools.count(1)

    def answer(self, method: str, target: str, headers: Mapping[str, str], body: bytes, now: float) -> Answer:
        try:
            if target.startswith("/_stub/"):
                return self._control(target, body)
            if aws_target := headers.get("x-amz-target"):
                answer = self._aws(aws_target, json.loads(body), now)
            else:
                answer = self._indodana(method, target, headers, body, now)
        except Exception as error:  # reported by take_calls, which ends the measurement
            failure = f"{headers.get('x-amz-target', method + ' ' + target)}: {type(error).__name__}: {error}"
            self._failures.append(failure)
            return Answer(400, {"__type": "NotImplemented", "message": failure}, 0.0)
        assert answer.call
        self._calls.append(answer.call)
        return answer

    def _control(self, target: str, body: bytes) -> Answer:
        if target == "/_stub/latencies":
            self.latencies = Latencies(**json.loads(body))
            return Answer(200, {}, 0.0)
        if target == "/_stub/put_items":
            table, items = json.loads(body)
            for item in items:
                self._items.put_item(TableName=table, Item=item)
            return Answer(200, {}, 0.0)
        if target == "/_stub/take_calls":
            taken = {"calls": [asdict(call) for call in self._calls], "failures": self._failures}
            self._calls, self._failures = [], []
            return Answer(200, taken, 0.0)
        raise NotImplementedError(target)

    def _aws(self, target: str, request: dict[str, Any], now: float) -> Answer:
        service, _, operation = target.partition(".")
        match service:
            case "DynamoDB_20120810":
                return self._dynamodb(operation, request, now)
            case "AmazonSQS":
                result = self._sqs(operation, request)
            case "secretsmanager":
                result = self._secretsmanager(operation, request)
            case _:
                raise NotImplementedError(target)
        seconds = self.latencies.call
        name = {"AmazonSQS": "sqs"}.get(service, service)
        return Answer(200, result, seconds, Call(name, operation, now, now + seconds, None))

    def _dynamodb(self, operation: str, request: dict[str, Any], now: float) -> Answer:
        seconds = self.latencies.transaction if operation == "TransactWriteItems" else self.latencies.call
        method = getattr(self._items, re.sub(r"(?<!^)(?=[A-Z])", "_", operation).lower())

        items = _items_written(operation, request)

        def call(error: str | None, conflicts: Iterable[str] = ()) -> Call:
            return Call("dynamodb", operation, now, now + seconds, error, tuple(items), tuple(conflicts))

        try:
            done = self._writes.begin(operation, items)
        except _Conflict as conflict:
            body = _conflict_body(operation, conflict)
            return Answer(400, body, seconds, call(body["__type"], filter(None, conflict.items)))
        try:
            return Answer(200, method(**request), seconds, call(None), done)
        except ClientError as refused:
            details = {name: value for name, value in refused.response.items() if name != "Error"}
            code, message = refused.response["Error"]["Code"], refused.response["Error"]["Message"]
            return Answer(400, {"__type": code, "message": message, **details}, seconds, call(code), done)
        except BaseException:
            done()
            raise

    def _sqs(self, operation: str, request: Mapping[str, Any]) -> dict[str, Any]:
        match operation:
            case "SendMessage":
                digest = hashlib.md5(request["MessageBody"].encode(), usedforsecurity=False).hexdigest()
                return {"MessageId": f"00000000-0000-4000-8000-{next(self._ids):012}", "MD5OfMessageBody": digest}
            case "SendMessageBatch":
                taken = [{"Id": entry["Id"], **self._sqs("SendMessage", entry)} for entry in request["Entries"]]
                return {"Successful": taken}
            case "ChangeMessageVisibility" | "DeleteMessage" | "ReceiveMessage":
                return {}  # the queues are empty
        raise NotImplementedError(operation)

    def _secretsmanager(self, operation: str, request: Mapping[str, Any]) -> dict[str, Any]:
        if operation != "GetSecretValue":
            raise NotImplementedError(operation)
        return {
            "ARN": f"arn:aws:secretsmanager:ap-southeast-3:123456789012:secret:{request['SecretId']}-000000",
            "Name": request["SecretId"],
            "VersionId": "00000000-0000-4000-8000-000000000001",
            "SecretString": json.dumps({"apiKey": API_KEY, "secretKey": SECRET_KEY}),
            "VersionStages": ["AWSCURRENT"],
        }

    def _indodana(self, method: str, target: str, headers: Mapping[str, str], body: bytes, now: float) -> Answer:
        url = urlsplit(target)
        operation = url.path.rpartition("/")[2]
        seconds = self.latencies.upstream
        match method, operation:
            case "GET", "check_status":
                answer = _transaction(parse_qs(url.query)["merchantOrderId"][0])
            case "POST", "order_cancellation":
                wanted = json.loads(body)
                answer = {"status": "OK", "refundId": wanted["refundId"], "merchantOrderId": wanted["merchantOrderId"]}
                if self.latencies.cancellation is not None:
                    seconds = self.latencies.cancellation
            case _:
                raise NotImplementedError(f"{method} {url.path}")
        if not _is_signed(headers.get("authorization", "")):
            rejected = {"status": "ERROR", "error": {"kind": "FailedAuthError", "message": "wrong signature"}}
            return Answer(401, rejected, seconds, Call("indodana", operation, now, now + seconds, "401"))
        return Answer(200, answer, seconds, Call("indodana", operation, now, now + seconds, None))


def _conflict_body(operation: str, conflict: _Conflict) -> dict[str, Any]:
    message = "Transaction is ongoing for the item"
    if operation != "TransactWriteItems":
        return {"__type": "TransactionConflictException", "message": message}
    reasons = [
        {"Code": "TransactionConflict", "Message": message} if item else {"Code": "None"} for item in conflict.items
    ]
    codes = ", ".join(reason["Code"] for reason in reasons)
    text = f"Transaction cancelled, please refer cancellation reasons for specific reasons [{codes}]"
    return {"__type": "TransactionCanceledException", "message": text, "Message": text, "CancellationReasons": reasons}


def _transaction(order_id: str) -> dict[str, Any]:
    return {
        "status": "OK",
        "transactionStatus": "PAID",
        "merchantOrderId": order_id,
        "transactionId": f"T-{order_id}",
        "amount": ORDER_AMOUNT,
        "paymentType": "qris",
        "transactionTime": "2026-11-22T06:24:26+0000",
        "fraudStatus": "ACCEPT",
        "legalName": "Siti Rahma",
        "indodanaUserId": "u-4711",
    }


def _is_signed(authorization: str) -> bool:
    signed, _, signature = authorization.removeprefix("Bearer ").rpartition(":")
    right = hmac.new(SECRET_KEY.encode(), signed.encode(), hashlib.sha256).hexdigest()
    return hmac.compare_digest(signature, right) and signed.startswith(f"{API_KEY}:")


# ---- the server


class _Timer:
    """Timers in microseconds. asyncio's are up to one millisecond late, the resolution of epoll."""

    def __init__(self, loop: asyncio.AbstractEventLoop) -> None:
        self._due: list[tuple[float, int, Callable[[], None]]] = []
        self._numbers = itertools.count()
        self._fd = os.timerfd_create(time.CLOCK_MONOTONIC, flags=os.TFD_NONBLOCK | os.TFD_CLOEXEC)
        loop.add_reader(self._fd, self._fire)

    def call_at(self, when: float, call: Callable[[], None]) -> None:
        heapq.heappush(self._due, (when, next(self._numbers), call))
        if self._due[0][0] == when:
            self._set()

    def _fire(self) -> None:
        os.read(self._fd, 8)
        while self._due and self._due[0][0] <= time.monotonic():
            heapq.heappop(self._due)[2]()
        if self._due:
            self._set()

    def _set(self) -> None:
        os.timerfd_settime(self._fd, flags=os.TFD_TIMER_ABSTIME, initial=self._due[0][0])


class _Connection(asyncio.Protocol):
    """HTTP/1.1 with keep-alive, as requests and botocore use it: one request at a time, with Content-Length."""

    def __init__(self, services: Services, timer: _Timer) -> None:
        self._services = services
        self._timer = timer
        self._buffer = b""
        self._transport: asyncio.Transport | None = None

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        assert isinstance(transport, asyncio.Transport)
        self._transport = transport

    def data_received(self, data: bytes) -> None:
        now = time.monotonic()
        self._buffer += data
        head_end = self._buffer.find(b"\r\n\r\n")
        if head_end < 0:
            return
        request_line, *lines = self._buffer[:head_end].decode("latin-1").split("\r\n")
        headers = {name.lower(): value.strip() for name, _, value in (line.partition(":") for line in lines)}
        request_end = head_end + 4 + int(headers.get("content-length", 0))
        if len(self._buffer) < request_end:
            return
        body, self._buffer = self._buffer[head_end + 4 : request_end], self._buffer[request_end:]
        method, target, _ = request_line.split(" ")
        answer = self._services.answer(method, target, headers, body, now)
        text = json.dumps(answer.body).encode()
        more = "".join(f"{name}: {value}\r\n" for name, value in answer.headers.items()).encode()
        response = (
            b"HTTP/1.1 %d Status\r\nContent-Type: application/json\r\nContent-Length: %d\r\n%b\r\n%b"
            % (answer.status, len(text), more, text)
        )  # fmt: skip

        def send() -> None:
            answer.done()
            assert self._transport
            self._transport.write(response)

        if answer.seconds:
            self._timer.call_at(now + answer.seconds, send)
        else:
            send()


async def serve(services: Services) -> None:
    """Runs until standard input ends."""
    loop = asyncio.get_running_loop()
    timer = _Timer(loop)
    server = await loop.create_server(lambda: _Connection(services, timer), "127.0.0.1", 0, backlog=1024)
    host, port = server.sockets[0].getsockname()
    print(json.dumps({"url": f"http://{host}:{port}"}), flush=True)
    ended = asyncio.Event()
    loop.add_reader(sys.stdin.fileno(), ended.set)
    await ended.wait()


# ---- the client


class StubFailure(Exception):
    """The stub did not start, or got a request that it does not support."""


class Stub(AbstractContextManager["Stub"]):
    """The stub, in its own process."""

    module = "bench.stub"

    def __enter__(self) -> Self:
        self._process = subprocess.Popen(
            [sys.executable, "-m", self.module], cwd=ROOT, stdin=subprocess.PIPE, stdout=subprocess.PIPE
        )
        assert self._process.stdout
        line = self._process.stdout.readline()
        if not line:
            raise StubFailure("the stub did not start")
        self.url: str = json.loads(line)["url"]
        self._connection = http.client.HTTPConnection(urlsplit(self.url).netloc, timeout=30)
        return self

    def __exit__(self, *_: type[BaseException] | BaseException | TracebackType | None) -> None:
        self._connection.close()
        assert self._process.stdin
        assert self._process.stdout
        self._process.stdin.close()
        self._process.wait(10)
        self._process.stdout.close()

    def set_latencies(
        self,
        *,
        upstream: float,
        cancellation: float | None = None,
        call: float = CALL_SECONDS,
        transaction: float = TRANSACTION_SECONDS,
    ) -> None:
        """In seconds, for all later requests."""
        self._ask("latencies", asdict(Latencies(call, transaction, upstream, cancellation)))

    def put_items(self, table: str, items: Iterable[Mapping[str, Any]]) -> None:
        """Puts items into a table without latency; not recorded as calls."""
        self._ask("put_items", [table, list(items)])

    def take_calls(self) -> list[Call]:
        """The calls since the last take_calls. Raises StubFailure."""
        return [Call(**call) for call in self._taken()]

    def _taken(self) -> list[dict[str, Any]]:
        taken = self._ask("take_calls", {})
        if taken["failures"]:
            raise StubFailure("; ".join(taken["failures"]))
        return [
            call | {"items": tuple(call["items"]), "conflicts": tuple(call["conflicts"])} for call in taken["calls"]
        ]

    def _ask(self, what: str, body: object) -> Any:
        self._connection.request("POST", f"/_stub/{what}", json.dumps(body))
        return json.loads(self._connection.getresponse().read())


if __name__ == "__main__":
    # A pause for garbage collection would be measured as the function's time.
    gc.disable()
    asyncio.run(serve(Services(Template.load_local().model())))
