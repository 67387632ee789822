"""A world in which the real functions run on emulated AWS, Indodana's double, and a clock that the scheduler moves."""

from __future__ import annotations

import json
import logging
import math
import uuid
from collections import Counter
from collections.abc import Callable, Iterator, Mapping
from contextlib import ExitStack, contextmanager, suppress
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime, timedelta
from decimal import Decimal
from functools import partial
from types import SimpleNamespace
from typing import Any
from unittest.mock import patch

from botocore.exceptions import ReadTimeoutError
from greenlet import getcurrent

import audit_query.handler
import gateway.core.ledger
import recovery.handler
import refund_api.handler
import refund_worker.handler
import status_check.handler
from gateway.core.dynamodb import from_item
from gateway.core.errors import LedgerUnavailable
from gateway.core.model import AmbiguousRefunds, OrderKey, Reason, RefundRequest, iso
from gateway.core.transitions import RefundStatus
from gateway.refunds import sweep
from gateway.runtime import bootstrap, telemetry
from gateway.runtime.bootstrap import Gateway
from gateway.runtime.settings import Settings
from indodana import CredentialStore, IndodanaClient
from testkit.emulator import LAG_WRITES, Dynamo, Secrets, Sqs
from tests.simulation.engine import (
    Call,
    CooperativeLock,
    Fault,
    Fiber,
    Invocation,
    Outcome,
    current_fiber,
    happen,
)
from tests.simulation.indodana_double import Indodana, Movement
from tests.simulation.invariants import Asked, Invariants, Sent, Violation, check_answer, hold

BEGINNING = datetime(2026, 11, 22, 7, 0, tzinfo=UTC)
LEDGER, AUDIT = "ledger", "audit"
QUEUE, DEAD_LETTERS = "https://sqs/refunds", "https://sqs/dead-letters"
API_SECONDS, WORKER_SECONDS, RECOVERY_SECONDS = 29.0, 40.0, 60.0  # template.yaml's timeouts
VISIBILITY_SECONDS = 240
MAX_RECEIVE_COUNT = 10
CONFLICT = "transaction conflict"
FREEZE_SECONDS = 50.0  # longer than a lease
API_GATEWAY_SECONDS = 30.0  # it waits no longer, cold start included
CANCEL_READ_SECONDS = 10.0  # what Indodana's answer to a refund may take
LIST = "GET /v1/transactions/{merchantOrderId}/refunds"
READ = "GET /v1/transactions/{merchantOrderId}/refunds/{refundId}"
STATUS = "GET /v1/transactions/{merchantOrderId}"
CREATE = "POST /v1/transactions/{merchantOrderId}/refunds"
RESOLVE = "POST /v1/transactions/{merchantOrderId}/refunds/{refundId}/resolution"
WITHDRAW = "POST /v1/transactions/{merchantOrderId}/refunds/{refundId}/withdrawal"

GATEWAY = "AROAGATEWAY:a-function"  # sends the gateway's own messages
BACK_OFFICE, TILLS = "AROABACKOFFICE", "AIDATILLS"  # may request refunds by queue: for both merchants, and for m1
# Nobody listed, but both parts look like the back office.
STRANGER = f"{BACK_OFFICE}2:{BACK_OFFICE}"

SCOPES = "transactions:read refunds:read refunds:write refunds:resolve audit:read"

SETTINGS = Settings(
    indodana_url="https://indodana.test",
    indodana_base_path="/chermes/merchant",
    indodana_status_version="v1",
    indodana_cancellation_version="v3",
    secret_prefix="qris-gateway/",
    merchant_id="m1",
    merchant_ids=frozenset({"m1", "m2"}),
    queue_senders=frozenset({(BACK_OFFICE, "m1"), (BACK_OFFICE, "m2"), (TILLS, "m1")}),
    merchant_claim="merchant_id",
    scope_prefix="",
    ledger_table=LEDGER,
    audit_table=AUDIT,
    refund_queue_url=QUEUE,
    refund_dead_letter_queue_url=DEAD_LETTERS,
    max_receive_count=MAX_RECEIVE_COUNT,
    ambiguous_refunds=AmbiguousRefunds.REVIEW,
    resolution_hold_seconds=600,
    conflict_kinds_not_done=frozenset(),
    conflict_kinds_done=frozenset({"ConflictError"}),
)


class RecordedSecrets:
    """Secrets Manager for one sandbox; keeps its answers, which are all that the sandbox's cache can hold."""

    def __init__(self, secrets: Any, world: SimulatedWorld) -> None:
        self._secrets = secrets
        self._world = world
        self.seen: list[tuple[float, str]] = []

    def get_secret_value(self, **arguments: Any) -> Any:
        answer = self._secrets.get_secret_value(**arguments)
        self.seen.append((self._world.now, answer["SecretString"]))
        return answer


class CheckedDynamo:
    """DynamoDB; the invariants check every write."""

    def __init__(self, dynamo: Dynamo, world: SimulatedWorld) -> None:
        self._dynamo = dynamo
        self._world = world
        self.exceptions = dynamo.exceptions

    def __getattr__(self, name: str) -> Any:
        return getattr(self._dynamo, name)

    def batch_get_item(self, **request: Any) -> Any:
        if any(key["sk"]["S"] == "ORDER" for key in request["RequestItems"][LEDGER]["Keys"]):
            self._acting.sums_read += (self._world.watch.writes,)
        return self._dynamo.batch_get_item(**request)

    def transact_write_items(self, *, TransactItems: list[Any]) -> Any:  # noqa: N803 - boto3's own name
        acting = self._acting
        acting.sums_read += (self._world.watch.writes,)  # it may be refused because of them
        answer = self._dynamo.transact_write_items(TransactItems=TransactItems)
        world = self._world
        world.watch.wrote(TransactItems, acting, acting.sandbox.clock(), world.sums, world.sent)
        return answer

    def update_item(self, **request: Any) -> Any:
        answer = self._dynamo.update_item(**request)
        [item] = self._dynamo.batch_get_item(RequestItems={LEDGER: {"Keys": [request["Key"]]}})["Responses"][LEDGER]
        self._world.watch.postponed(from_item(item), self._acting.sandbox.clock())
        return answer

    @property
    def _acting(self) -> Invocation:
        assert self._world.acting
        return self._world.acting


class CheckedSqs:
    """SQS; the invariants check every message that the gateway sends for a refund."""

    def __init__(self, sqs: Sqs, world: SimulatedWorld) -> None:
        self._sqs = sqs
        self._world = world

    def __getattr__(self, name: str) -> Any:
        return getattr(self._sqs, name)

    def send_message(self, **request: Any) -> Any:
        self._check(request)
        return self._sqs.send_message(**request)

    def send_message_batch(self, **request: Any) -> Any:
        for entry in request["Entries"]:
            self._check(entry)
        return self._sqs.send_message_batch(**request)

    def _check(self, message: Mapping[str, Any]) -> None:
        token = message.get("MessageAttributes", {}).get("token")
        if token:
            self._world.watch.message_sent(token["StringValue"])


class ScheduledClient:
    """A client whose every call is handed to the scheduler."""

    def __init__(
        self, client: Any, faults: Callable[[str, Mapping[str, Any], Any, Callable[[], Any]], list[Fault]]
    ) -> None:
        self._client = client
        self._faults = faults
        self.exceptions = getattr(client, "exceptions", None)

    def __getattr__(self, name: str) -> Callable[..., Any]:
        method = getattr(self._client, name)

        def call(**arguments: Any) -> Any:
            effect = partial(method, **arguments)
            refund_id, detail = _subject(name, arguments)
            faults = self._faults(name, arguments, self._client, effect)
            return current_fiber().make(Call(name, detail, effect, faults, refund_id))

        setattr(self, name, call)
        return call


def _subject(name: str, arguments: Mapping[str, Any]) -> tuple[str | None, str]:
    if name != "transact_write_items":
        return None, ""
    refund = next(write["Put"]["Item"] for write in arguments["TransactItems"] if "refundId" in write["Put"]["Item"])
    return refund["refundId"]["S"], f"refund {refund['refundId']['S'][:6]} becomes {refund['status']['S']}"


def _lost() -> None:
    raise ReadTimeoutError(endpoint_url="https://aws")


def dynamodb_faults(name: str, arguments: Mapping[str, Any], client: Any, effect: Callable[[], Any]) -> list[Fault]:
    def unavailable() -> None:
        error = {"Error": {"Code": "ProvisionedThroughputExceededException", "Message": "throttled"}}
        raise client.exceptions.ProvisionedThroughputExceededException(error, name)

    def lost() -> None:
        effect()
        _lost()

    def cancelled(**fields: Any) -> None:
        answer = {"Error": {"Code": "TransactionCanceledException", "Message": ""}, **fields}
        raise client.exceptions.TransactionCanceledException(answer, name)

    def conflict() -> None:
        others = [{"Code": "None"}] * (len(arguments["TransactItems"]) - 1)
        cancelled(CancellationReasons=[*others, {"Code": "TransactionConflict"}])

    def retried_without_a_reason() -> None:
        effect()
        cancelled()

    def repeated() -> Any:
        effect()
        return effect()  # the SDK's own retry, after its first response was lost

    writes = name in ("transact_write_items", "put_item", "update_item")
    # A recovery run that cannot read where the last one stopped ends, as if it had not been started.
    redundant = name == "batch_get_item" and arguments["RequestItems"][LEDGER]["Keys"] == [sweep.KEY]
    faults = [Fault("throttled", unavailable, leaves_doubt=writes, redundant=redundant)]
    if writes:
        faults.append(Fault("done, response lost", lost, leaves_doubt=True))
    if name == "transact_write_items":
        faults += [
            Fault("done, response lost, retried by the SDK", repeated),
            Fault(CONFLICT, conflict),
            Fault("cancelled without a reason", cancelled, leaves_doubt=True, redundant=True),
            Fault(
                "done, retried, cancelled without a reason", retried_without_a_reason, leaves_doubt=True, redundant=True
            ),
        ]
    return faults


def stale_reads(name: str, arguments: Mapping[str, Any], client: Any, effect: Callable[[], Any]) -> list[Fault]:
    """Answers from an older state, if the call does not ask for a consistent read."""
    requests = arguments["RequestItems"].values() if name == "batch_get_item" else [arguments]
    if name not in ("batch_get_item", "query", "scan") or all(one.get("ConsistentRead") for one in requests):
        return []
    return [
        Fault(f"a read that lags {writes} writes behind", partial(client.behind, writes, effect), redundant=redundant)
        for writes, redundant in ((1, False), (LAG_WRITES, True))
    ]


def torn_reads(name: str, arguments: Mapping[str, Any], client: Any) -> list[Fault]:
    """A batch is no snapshot: its first item may come back unprocessed, and be read after the others."""
    if name != "batch_get_item" or len(arguments["RequestItems"][LEDGER]["Keys"]) < 2:
        return []
    wanted = arguments["RequestItems"][LEDGER]

    def torn() -> Any:
        answer = client.batch_get_item(RequestItems={LEDGER: {**wanted, "Keys": wanted["Keys"][1:]}})
        return {**answer, "UnprocessedKeys": {LEDGER: {**wanted, "Keys": wanted["Keys"][:1]}}}

    return [Fault("first item unprocessed", torn)]


def sqs_faults(name: str, arguments: Mapping[str, Any], client: Any, effect: Callable[[], Any]) -> list[Fault]:
    def lost() -> None:
        effect()
        _lost()

    def in_part() -> Any:
        first, *others = arguments["Entries"]
        failed = [{"Id": first["Id"], "SenderFault": False, "Code": "InternalError"}]
        taken = client.send_message_batch(**{**arguments, "Entries": others})["Successful"] if others else []
        return {"Successful": taken, "Failed": failed}

    # Whether a dead letter is read now or by the next run makes no difference to anything else.
    faults = [Fault("request lost", _lost, redundant=name == "receive_message")]
    if name in ("send_message", "send_message_batch"):
        faults.append(Fault("done, response lost", lost))
    if name == "send_message_batch":
        faults.append(Fault("one entry not taken", in_part, redundant=len(arguments["Entries"]) == 1))
    return faults


def secrets_faults(name: str, arguments: Mapping[str, Any], client: Any, effect: Callable[[], Any]) -> list[Fault]:
    return [Fault("request lost", _lost)]


@dataclass(frozen=True)
class Context:
    world: SimulatedWorld
    deadline: float
    aws_request_id: str

    def get_remaining_time_in_millis(self) -> int:
        return int(max(0.0, self.deadline - self.world.now) * 1000)


@dataclass(frozen=True)
class Look:
    """What an operator saw: a refund, and whether Indodana's books had it at that moment."""

    merchant: str
    order: str
    refund_id: str
    status: str
    version: int
    moved: bool
    checked_at: datetime

    @property
    def outcome(self) -> str:
        """As an honest operator decides it."""
        return "SUCCEEDED" if self.moved else "FAILED"

    def __str__(self) -> str:
        books = "in" if self.moved else "not in"
        seconds = (self.checked_at - BEGINNING).total_seconds()
        refund = f"{self.refund_id[:6]} {self.status} at version {self.version}"
        return f"{refund}, {books} Indodana's books at {seconds:g} s"


@dataclass(eq=False)
class Sandbox:
    """A Lambda process, which runs one invocation after the other, and what it remembers in between."""

    gateway: Gateway
    clock: Callable[[], datetime]
    skew_seconds: float
    secrets_seen: list[tuple[float, str]]
    history: int = 0  # digest of all inputs so far; with its code, they determine what it does
    predicted: tuple[Any, ...] | None = None  # set together with its invocation's

    def memory(self) -> tuple[Any, ...]:
        if self.predicted:
            return self.predicted
        known_orders = frozenset(self.gateway.protocol.known_orders.items())
        *of_checks, _ = self.gateway.status_breaker.memory()  # whether a status check was answered lately is never read
        refunds = self.gateway.refund_breaker.memory()
        return (self.skew_seconds, tuple(self.secrets_seen), known_orders, refunds, tuple(of_checks))


@dataclass
class SimulatedWorld:
    ambiguous_refunds: AmbiguousRefunds = AmbiguousRefunds.REVIEW
    warm: bool = True  # sandboxes have their secrets in the cache already
    arrives_late: bool = False  # Indodana may carry out a request after its sender timed out
    freezes: bool = False  # processes may freeze while they send
    stale_reads: bool = False  # a read that is not consistent may lag behind
    torn_reads: bool = False  # a batch may be read in two parts
    max_receive_count: int = MAX_RECEIVE_COUNT
    skew_seconds: Callable[[], float] = lambda: 0.0  # of the next sandbox's clock
    start_seconds: Callable[[], float] = lambda: (
        0.0
    )  # of the next sandbox's cold start: API Gateway waits for it, and a batch has so much less time
    now: float = 0.0
    invocations: list[Invocation] = field(default_factory=list)
    started: int = 0
    acting: Invocation | None = None
    log_lines: list[str] = field(default_factory=list)
    sent: list[Sent] = field(default_factory=list)  # the messages that the gateway did not send

    def __post_init__(self) -> None:
        self.dynamo = Dynamo({LEDGER: {"open-refunds": ("openKey", "openSince")}, AUDIT: {}})
        self.sqs = Sqs(
            self.clock,
            VISIBILITY_SECONDS,
            self.max_receive_count,
            url=QUEUE,
            dead_letter_url=DEAD_LETTERS,
            sender_id=GATEWAY,
        )
        credentials = {"m1": ("ApiKey-1", "TopSecret-1"), "m2": ("ApiKey-2", "TopSecret-2")}
        self.secrets = Secrets({f"qris-gateway/{name}": _secret(*pair) for name, pair in credentials.items()})
        resubmits = self.ambiguous_refunds is AmbiguousRefunds.RESUBMIT
        self.indodana = Indodana(credentials, recognises_repeats=resubmits)
        self.watch = Invariants(self.ambiguous_refunds)
        self.indodana.on_movement = self._money_moved
        self.indodana.now = lambda: self.now
        self.indodana.arrives_late = self.arrives_late
        self.indodana.freeze = self._freeze_acting if self.freezes else None
        self._aws: Any = SimpleNamespace(
            dynamodb=ScheduledClient(CheckedDynamo(self.dynamo, self), self._dynamodb_faults),
            sqs=ScheduledClient(CheckedSqs(self.sqs, self), sqs_faults),
            secretsmanager=ScheduledClient(self.secrets, secrets_faults),
        )
        self._sandboxes: list[Sandbox] = []  # at rest
        self._conflicts: Counter[tuple[str, str | None]] = Counter()  # not in state(): a fiber's trace has them, too

    # ---- time

    def clock(self) -> datetime:
        return BEGINNING + timedelta(seconds=self.now)

    def pass_seconds(self, seconds: float) -> None:
        """Invocations past their timeout are killed. Requests on their way to Indodana arrive when due."""
        until = self.now + seconds
        while late := self.indodana.next_late(until):
            self.now, self.acting = late.due, None
            self.indodana.carry_out(late)
        self.now = until
        for invocation in self.live:
            if invocation.deadline <= self.now:
                self.kill(invocation)

    def freeze(self, invocation: Invocation) -> None:
        """For longer than a lease. Lambda does not kill it in time."""
        invocation.deadline = math.inf
        self.watch.died(invocation)  # for everybody else
        self.pass_seconds(FREEZE_SECONDS)

    def _freeze_acting(self) -> None:
        acting = self.acting
        assert acting
        self.freeze(acting)
        self.acting = acting

    # ---- what the scheduler does

    def run(self, fiber: Fiber, fault: Fault | None = None) -> None:
        outcome = self.happen(fiber, fault)
        fiber.invocation.sandbox.history = self.history(fiber, outcome)
        fiber.resume(outcome)
        fiber.invocation.settle()

    def happen(self, fiber: Fiber, fault: Fault | None) -> Outcome:
        """The call of this fiber takes effect, or fails; its invocation has not seen the result yet."""
        self.acting = fiber.invocation
        call = fiber.call
        if fault and call and call.refund_id and (fault.leaves_doubt or self._conflicts_for_good(fiber, call, fault)):
            self.watch.excused.add(call.refund_id)
        outcome = happen(fiber, fault)
        # The error's response may have items of the ledger, and the code reads this clock until its next call.
        seen = (*outcome.seen, repr(getattr(outcome.error, "response", None)), self.now)
        return replace(outcome, seen=seen)

    def history(self, fiber: Fiber, outcome: Outcome) -> int:
        """The history of the fiber's sandbox after it has seen the outcome."""
        # A warm sandbox reads its secrets without a call.
        seen = (fiber.number, outcome.seen, self.secrets.snapshot())
        return hash((fiber.invocation.sandbox.history, seen))

    def _conflicts_for_good(self, fiber: Fiber, call: Call, fault: Fault) -> bool:
        """A single conflict must be retried and excuses nothing; as many as the ledger has tries excuse an UNKNOWN."""
        if fault.name != CONFLICT:
            return False
        where = (fiber.invocation.name, call.refund_id)
        self._conflicts[where] += 1
        return self._conflicts[where] >= gateway.core.ledger.CONFLICT_TRIES

    def kill_after_effect(self, fiber: Fiber) -> None:
        """The call takes effect, and the process is killed before it sees the result."""
        self.take_effect(fiber)
        self.kill(fiber.invocation)

    def take_effect(self, fiber: Fiber) -> None:
        self.acting = fiber.invocation
        assert fiber.call
        with suppress(Exception):
            fiber.call.effect()

    def kill(self, invocation: Invocation) -> None:
        self.watch.died(invocation)
        invocation.kill()

    def deploy(self) -> None:
        """Later invocations get sandboxes that remember nothing."""
        self._sandboxes.clear()

    def abandon(self) -> None:
        """Ends all invocations of a world that is no longer used, so that it can be freed."""
        for invocation in self.live:
            invocation.abandon()

    def finish(self, invocation: Invocation | None) -> None:
        """Runs it to its end, while nothing else happens."""
        while invocation and (pending := invocation.pending()):
            self.run(pending[0])

    def aftermath(self) -> None:
        """Faults have stopped: invocations end, time passes, recovery runs, the queue is processed."""
        for invocation in self.live:
            self.finish(invocation)
        for _ in range(3):
            self.pass_seconds(1000)
            self.finish(self.recover())
            self.pass_seconds(1000)  # what recovery enqueues need not be due at once
            while batch := self.deliver():
                self.finish(batch)

    # ---- what tests and invariants can see

    def sums(self, partition: str) -> dict[str, Any] | None:
        key = {"pk": {"S": partition}, "sk": {"S": "ORDER"}}
        found = self.dynamo.batch_get_item(RequestItems={LEDGER: {"Keys": [key]}})["Responses"][LEDGER]
        return from_item(found[0]) if found else None

    def _money_moved(self, movement: Movement) -> None:
        amount, status = self.indodana.orders[movement.merchant_id, movement.merchant_order_id]
        sent_at = self.acting.sandbox.clock() if self.acting else None
        self.watch.money_moved(movement, amount if status == "PAID" else Decimal(0), sent_at)
        if self.acting and self.acting.taken_at is not None:
            answered_by = self.now - self.acting.taken_at + CANCEL_READ_SECONDS
            detail = f"{movement.refund_id[:6]} may be answered {answered_by:g} s after API Gateway took the request"
            hold("a refund is sent only while its caller waits", answered_by <= API_GATEWAY_SECONDS, detail)

    def _dynamodb_faults(
        self, name: str, arguments: Mapping[str, Any], client: Any, effect: Callable[[], Any]
    ) -> list[Fault]:
        stale = stale_reads(name, arguments, client, effect) if self.stale_reads else []
        torn = torn_reads(name, arguments, client) if self.torn_reads else []
        return [*dynamodb_faults(name, arguments, client, effect), *stale, *torn]

    def refund_ids(self) -> set[str]:
        return {item["refundId"]["S"] for item in self.dynamo.items(LEDGER) if "refundId" in item}

    def audit_items(self) -> list[Any]:
        return list(self.dynamo.items(AUDIT))

    def messages(self) -> list[Any]:
        return list(self.sqs.messages(QUEUE))

    def dead_letters(self) -> list[Any]:
        return list(self.sqs.messages(DEAD_LETTERS))

    def everything_kept(self) -> Iterator[tuple[str, str]]:
        for item in self.audit_items():
            yield "the audit log", repr(item)
        for item in self.dynamo.items(LEDGER):
            yield "the ledger", repr(item)
        for url in (QUEUE, DEAD_LETTERS):
            for message in self.sqs.messages(url):
                yield "a message", repr(message)
        for line in self.log_lines:
            yield "a log line", line

    # ---- starting functions

    @property
    def live(self) -> list[Invocation]:
        return [invocation for invocation in self.invocations if not invocation.ended]

    def api(
        self,
        route: str,
        order_id: str | None = None,
        *,
        refund_id: str | None = None,
        body: object = None,
        headers: dict[str, str] | None = None,
        query: dict[str, str] | None = None,
        merchant: str = "m1",
        actor: str = "agent-7",
        on_answer: Callable[[int, Any], None] = lambda status, body: None,
    ) -> Invocation:
        number = self.started + 1
        key = (headers or {}).get("idempotency-key")
        path = {"merchantOrderId": order_id, "refundId": refund_id}
        event = {
            "routeKey": route,
            "headers": headers or {},
            "queryStringParameters": query,
            "pathParameters": {name: value for name, value in path.items() if value is not None},
            "requestContext": {
                "requestId": f"request-{number}",
                "authorizer": {"jwt": {"claims": {"sub": actor, "merchant_id": merchant, "scope": SCOPES}}},
            },
            "body": json.dumps(body),
            "isBase64Encoded": False,
        }

        asked_for = refund_id or (refund_id_of(order_id, key, merchant) if order_id and key else "")
        asked = Asked(
            f"{merchant}#{order_id}" if order_id else None,
            asked_for,
            self.watch.writes,
            moved_already=asked_for in self.watch.times_moved,
            in_part=bool(query),
        )

        def answered(result: Any, invocation: Invocation) -> None:
            answer = json.loads(result["body"], parse_float=Decimal, parse_int=Decimal)
            check_answer(
                self.watch, asked, result["statusCode"], result["headers"], answer, sums_read=invocation.sums_read
            )
            on_answer(result["statusCode"], answer)

        name = f"api {route.split('/')[-1]} {order_id}"
        return self._invoke(name, HANDLERS[route], event, API_SECONDS, answered, asked_at=asked.at)

    def refund(
        self, order_id: str, amount: int | None, key: str, *, later: bool = False, merchant: str = "m1", **options: Any
    ) -> Invocation:
        body = {"reason": "OTHERS", "requestedBy": "agent"} | ({} if amount is None else {"amount": amount})
        headers = {"idempotency-key": key} | ({"prefer": "respond-async"} if later else {})
        return self.api(CREATE, order_id, body=body, headers=headers, merchant=merchant, **options)

    def check_status(
        self, order_id: str, on_answer: Callable[[int, Any], None] = lambda status, body: None
    ) -> Invocation:
        return self.api(STATUS, order_id, on_answer=on_answer)

    def look(
        self, order_id: str, key: str, merchant: str = "m1", then: Callable[[Look], object] = lambda _: None
    ) -> Invocation:
        """An operator reads a refund, and then looks it up at Indodana."""
        refund_id = refund_id_of(order_id, key, merchant)

        def answered(status: int, body: Any) -> None:
            if status == 200:
                moved = self.indodana.times_moved(refund_id) > 0
                then(Look(merchant, order_id, refund_id, body["status"], version_in(body), moved, self.clock()))

        return self.api(READ, order_id, refund_id=refund_id, merchant=merchant, on_answer=answered)

    def seen(self, order_id: str, key: str, merchant: str = "m1") -> Look:
        """What an operator sees who looks right now."""
        refund_id = refund_id_of(order_id, key, merchant)
        refund = self.watch.refunds[refund_id]
        moved = self.indodana.times_moved(refund_id) > 0
        return Look(merchant, order_id, refund_id, refund["status"], int(refund["version"]), moved, self.clock())

    def decide(
        self, look: Look, actor: str = "operator-1", on_answer: Callable[[int, Any], None] = lambda status, body: None
    ) -> Invocation | None:
        """The decision that follows from what the operator saw, whatever has happened since."""
        if look.status == RefundStatus.QUEUED:
            return self.withdraw(look, actor, on_answer)
        if look.status == RefundStatus.UNKNOWN:
            return self.settle(look, actor, on_answer)
        return None

    def withdraw(
        self, look: Look, actor: str = "operator-1", on_answer: Callable[[int, Any], None] = lambda status, body: None
    ) -> Invocation:
        return self._decision(WITHDRAW, look, {"note": "The customer keeps it"}, actor, on_answer)

    def settle(
        self, look: Look, actor: str = "operator-1", on_answer: Callable[[int, Any], None] = lambda status, body: None
    ) -> Invocation:
        evidence = {"source": "INDODANA_DASHBOARD", "reference": "page 12", "checkedAt": iso(look.checked_at)}
        return self._decision(RESOLVE, look, {"outcome": look.outcome, "evidence": evidence}, actor, on_answer)

    def _decision(
        self, route: str, look: Look, body: dict[str, Any], actor: str, on_answer: Callable[[int, Any], None]
    ) -> Invocation:
        decision = (route, look, actor)

        def answered(status: int, answer: Any) -> None:
            right = status == 200 or status == 503 or decision not in self.watch.decided
            hold("a repeated decision gets the first one's answer", right, f"{look}: {status} {answer}")
            if status == 200:
                right = answer["version"] == look.version + 1
                hold("a decision applies only to the version that it names", right, f"{look}: {answer}")
                self.watch.decided.add(decision)
            on_answer(status, answer)

        headers = {"if-match": f'"{look.version}"'}
        merchant, refund_id = look.merchant, look.refund_id
        return self.api(
            route, look.order, refund_id=refund_id, body=body, headers=headers, merchant=merchant, actor=actor,
            on_answer=answered,
        )  # fmt: skip

    def send(
        self,
        order_id: str,
        amount: int | None,
        key: str,
        merchant: str = "m1",
        sender: str = f"{BACK_OFFICE}:clerk-1",
        attributes: Mapping[str, Any] | None = None,
    ) -> None:
        """A full request."""
        body = {"merchantId": merchant, "merchantOrderId": order_id, "idempotencyKey": key, "reason": "OTHERS",
                "requestedBy": "agent"} | ({} if amount is None else {"amount": amount})  # fmt: skip
        self._put(json.dumps(body), sender, attributes)

    def point(self, order_id: str, key: str, merchant: str = "m1", *, at: str | None = None) -> None:
        """A forged pointer to a refund of `merchant`, or to one with its id `at` another merchant."""
        refund_id = refund_id_of(order_id, key, merchant)
        body = {"merchantId": at or merchant, "merchantOrderId": order_id, "refundId": refund_id}
        self._put(json.dumps(body), STRANGER)

    def _put(self, body: str, sender: str, attributes: Mapping[str, Any] | None = None) -> None:
        self.sent.append(Sent(body, sender))
        self.send_body(body, sender, attributes)

    def send_body(self, body: str, sender: str, attributes: Mapping[str, Any] | None = None) -> None:
        self.sqs.sender_id = sender
        self.sqs.send_message(QueueUrl=QUEUE, MessageBody=body, MessageAttributes=attributes or {})
        self.sqs.sender_id = GATEWAY

    def replace_pointers(self) -> None:
        """By the full requests that the release before sent."""
        asked_for = ("merchantId", "merchantOrderId", "idempotencyKey", "reason", "requestedBy")
        received = self.sqs.receive_message(QueueUrl=QUEUE, MaxNumberOfMessages=10)
        for message in received.get("Messages", []):
            refund = self.watch.refunds[json.loads(message["Body"])["refundId"]]
            body = {name: refund[name] for name in asked_for} | {"amount": int(refund["requestedAmount"])}
            self.sqs.delete_message(QueueUrl=QUEUE, ReceiptHandle=message["ReceiptHandle"])
            self.send_body(json.dumps(body), GATEWAY, message["MessageAttributes"])

    def deliver(self, most: int = 10) -> Invocation | None:
        """Gives a batch to the worker, if a message is visible. Lambda deletes what is not reported as failed."""
        found = self.sqs.receive_message(QueueUrl=QUEUE, MaxNumberOfMessages=most, AttributeNames=["All"])
        messages = found.get("Messages", [])
        if not messages:
            return None
        event = {
            "Records": [
                {
                    "messageId": message["MessageId"],
                    "receiptHandle": message["ReceiptHandle"],
                    "body": message["Body"],
                    "attributes": message["Attributes"],
                    "messageAttributes": {
                        name: {"dataType": value["DataType"], "stringValue": value["StringValue"]}
                        for name, value in message.get("MessageAttributes", {}).items()
                    },
                }
                for message in messages
            ]
        }

        def answered(result: Any, _: Invocation) -> None:
            again = {failure["itemIdentifier"] for failure in result["batchItemFailures"]}
            for message in messages:
                if message["MessageId"] not in again:
                    self.sqs.delete_message(QueueUrl=QUEUE, ReceiptHandle=message["ReceiptHandle"])

        return self._invoke("worker", refund_worker.handler.lambda_handler, event, WORKER_SECONDS, answered)

    def recover(self) -> Invocation:
        return self._invoke("recovery", recovery.handler.lambda_handler, {}, RECOVERY_SECONDS, lambda *_: None)

    def _invoke(
        self,
        name: str,
        handler: Callable[..., Any],
        event: Any,
        seconds: float,
        answered: Callable[[Any, Invocation], None],
        *,
        asked_at: int | None = None,
    ) -> Invocation:
        self.started += 1
        taken_at = None
        if "requestContext" in event:
            taken_at = self.now if self._sandboxes else self.now - self.start_seconds()
            taken = BEGINNING + timedelta(seconds=taken_at)
            event["requestContext"]["timeEpoch"] = int(taken.timestamp() * 1000)
        elif not self._sandboxes:
            seconds -= self.start_seconds()
        if not self._sandboxes:
            self._sandboxes.append(self._new_sandbox())
        sandbox = self._sandboxes.pop()
        context = Context(self, self.now + seconds, f"invocation-{self.started}")

        def ended(invocation: Invocation) -> None:
            if invocation.dead:
                return  # its sandbox is lost, too
            self._sandboxes.append(sandbox)
            try:
                result = invocation.result
            except LedgerUnavailable:
                return  # Lambda reports it, an alarm fires, and the next schedule or retry continues
            except Exception as error:
                raise Violation(
                    "no function raises an unexpected exception", f"{invocation.name}: {error!r}"
                ) from error
            answered(result, invocation)

        invocation = Invocation(f"{name} #{self.started}", partial(handler, event, context), context.deadline, ended)
        invocation.sandbox = sandbox
        invocation.taken_at, invocation.asked_at = taken_at, asked_at
        seen = (invocation.name, context.deadline, repr(event), self.now, sandbox.skew_seconds, self.secrets.snapshot())
        sandbox.history = hash((sandbox.history, seen))
        invocation.log_lines = self.log_lines
        self.invocations.append(invocation)
        invocation.start()
        return invocation

    def _new_sandbox(self) -> Sandbox:
        skew_seconds = self.skew_seconds()

        def clock() -> datetime:
            return self.clock() + timedelta(seconds=skew_seconds)

        secrets = RecordedSecrets(self._aws.secretsmanager if not self.warm else self.secrets, self)
        store = CredentialStore(
            secrets,  # type: ignore[arg-type]
            SETTINGS.secret_prefix,
            clock=lambda: clock().timestamp(),
            new_lock=CooperativeLock,
        )
        if self.warm:
            for merchant in ("m1", "m2"):
                store.get(merchant)
        client = IndodanaClient(
            SETTINGS.indodana_url + SETTINGS.indodana_base_path,
            store,
            clock=lambda: clock().timestamp(),
            transport=self.indodana,  # type: ignore[arg-type]
        )
        gateway = Gateway(
            replace(SETTINGS, ambiguous_refunds=self.ambiguous_refunds, max_receive_count=self.max_receive_count),
            self._aws,
            indodana=client,
            clock=clock,
            sleep=lambda _: None,
            run_all=lambda jobs: current_fiber().invocation.run_all(jobs),
            new_lock=CooperativeLock,
        )
        return Sandbox(gateway, clock, skew_seconds, secrets.seen)

    # ---- the world's whole state, for the explorer

    def state(self) -> int:
        return hash(
            (
                self.now,
                self.dynamo.snapshot(),
                self.dynamo.history(1) if self.stale_reads else None,
                self.sqs.snapshot(),
                self.secrets.snapshot(),
                self.indodana.snapshot(),
                tuple(sandbox.memory() for sandbox in self._sandboxes),
                tuple((live.state(), live.sandbox.memory()) for live in self.live),
                self.started,
            )
        )

    def savepoint(self) -> Callable[[], None]:
        """Returns a function that rolls back the effects of later calls, but not the progress of the code."""
        parts = [part.savepoint() for part in (self.dynamo, self.sqs, self.indodana, self.watch)]
        conflicts, sandboxes = Counter(self._conflicts), list(self._sandboxes)
        reads = [(live, live.sums_read) for live in self.live]

        def rollback() -> None:
            for live, sums_read in reads:
                live.sums_read = sums_read
            for part in parts:
                part()
            self._conflicts = Counter(conflicts)
            self._sandboxes = list(sandboxes)

        return rollback


HANDLERS = {
    **dict.fromkeys(status_check.handler.ROUTES, status_check.handler.lambda_handler),
    **dict.fromkeys(refund_api.handler.ROUTES, refund_api.handler.lambda_handler),
    **dict.fromkeys(audit_query.handler.ROUTES, audit_query.handler.lambda_handler),
}


def refund_id_of(order_id: str, key: str, merchant: str = "m1") -> str:
    return RefundRequest(OrderKey(merchant, order_id), key, None, Reason.OTHERS, None, "agent").refund_id


def version_in(body: Any) -> int:
    return int(body["version"])


def _secret(api_key: str, secret_key: str) -> str:
    return json.dumps({"apiKey": api_key, "secretKey": secret_key})


def _own_id() -> uuid.UUID:
    """Random for the code; the same in each replay of a schedule."""
    invocation = current_fiber().invocation
    invocation.ids += 1
    return uuid.uuid5(uuid.NAMESPACE_OID, f"{invocation.name}/{invocation.ids}")


class _IntoWorld(logging.Handler):
    """Keeps the log lines of the acting invocation, with all fields that the formatter would have printed."""

    def emit(self, record: logging.LogRecord) -> None:
        fiber = getattr(getcurrent(), "fiber", None)
        if fiber is None:
            return
        own = {name: value for name, value in vars(record).items() if name not in _PLAIN}
        trace = self.format(record) if record.exc_info else ""
        fiber.invocation.log_lines.append(f"{record.getMessage()} {own} {trace}")


_PLAIN = frozenset(vars(logging.makeLogRecord({})))


@contextmanager
def installed(*, logs: bool = False) -> Iterator[None]:
    """Replaces the few globals of the process. `logs`: keeps log lines for the invariants."""
    replaced: list[Any] = [
        patch.object(bootstrap, "gateway", lambda: current_fiber().invocation.sandbox.gateway),
        patch.object(telemetry, "_emit", lambda *_: None),
        # Two, so that two faults can exhaust them.
        patch.object(gateway.core.ledger, "CONFLICT_TRIES", 2),
        patch("uuid.uuid4", _own_id),
        patch("random.SystemRandom.uniform", lambda _, low, high: (low + high) / 2),
    ]
    loggers = [logging.getLogger(name) for name in (gateway.core.ledger.log.name, "indodana", telemetry.logger.name)]
    replaced += [patch.object(logger, "handlers", [_IntoWorld()]) for logger in loggers]
    replaced += [patch.object(logger, "propagate", False) for logger in loggers]
    with ExitStack() as stack:
        for one in replaced:
            stack.enter_context(one)
        if not logs:
            logging.disable(logging.CRITICAL)
            stack.callback(logging.disable, logging.NOTSET)
        yield
