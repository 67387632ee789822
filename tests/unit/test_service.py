"""What callers, messages and the schedule bring about, with a ledger in memory: answers, records, messages."""

from __future__ import annotations

import json
import logging
from collections.abc import Callable
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from decimal import Decimal
from typing import Any

import pytest
from botocore.exceptions import EndpointConnectionError

from gateway.core import correlation
from gateway.core.audit import AuditLog
from gateway.core.context import RequestContext
from gateway.core.errors import (
    IdempotencyKeyReused,
    InvalidRequest,
    LedgerUnavailable,
    NotFound,
    NotPermitted,
    NotResolvable,
    NotWithdrawable,
    RefundChanged,
    ResolutionTooEarly,
    StaleVersion,
)
from gateway.core.inputs import CLOCK_SKEW_SECONDS
from gateway.core.model import Evidence, EvidenceSource, Failure, FailureCode, Refund, RefundRequest, Resolution, iso
from gateway.refunds.dead_letters import DeadLetters
from gateway.refunds.decisions import Decisions
from gateway.refunds.queue import RefundQueue
from gateway.refunds.recovery import Recovery
from gateway.refunds.service import RefundResult, RefundService
from gateway.refunds.sweep import SweepStore
from gateway.refunds.worker import Message, Worker
from indodana import AnswerTimedOut, ConnectionFailed, RateLimited, Refused
from tests.unit.protocol_world import (
    FAILED,
    NOON,
    ORDER,
    QUEUED,
    SUBMITTING,
    SUCCEEDED,
    UNKNOWN,
    World,
    died,
    paid,
    request,
)

HOLD_SECONDS = 600
UNREACHABLE = EndpointConnectionError(endpoint_url="https://sqs")


class Sqs:
    def __init__(self) -> None:
        self.sent: list[dict[str, Any]] = []
        self.hidden: dict[str, int] = {}
        self.error: Exception | None = None

    def send_message(self, **message: Any) -> None:
        if self.error:
            raise self.error
        self.sent.append(message)

    def send_message_batch(self, *, QueueUrl: str, Entries: list[dict[str, Any]]) -> dict[str, Any]:  # noqa: N803
        if self.error:
            raise self.error
        self.sent += [{"QueueUrl": QueueUrl, **entry} for entry in Entries]
        return {"Successful": [{"Id": entry["Id"]} for entry in Entries]}

    def receive_message(self, **_: Any) -> dict[str, Any]:
        return {}

    def change_message_visibility(self, *, QueueUrl: str, ReceiptHandle: str, VisibilityTimeout: int) -> None:  # noqa: N803
        assert QueueUrl == "queue"
        self.hidden[ReceiptHandle] = VisibilityTimeout


class Gateway(World):
    def __init__(self) -> None:
        super().__init__()
        self.sqs = Sqs()
        self.queue = RefundQueue(self.sqs, "queue", "dead letters")  # type: ignore[arg-type]
        self.audit_log = AuditLog(self.dynamo, "audit")  # type: ignore[arg-type]
        self.dead_letters = 0
        self.assemble()

    def assemble(self, *, resubmit: bool = False, **of_worker: Any) -> None:
        self.with_settings(resubmit=resubmit)
        self.service = RefundService(self.protocol, self.ledger, self.audit_log, self.queue, clock=self.clock)
        self.decisions = Decisions(
            self.protocol, self.ledger, self.audit_log, resolution_hold_seconds=HOLD_SECONDS, clock=self.clock
        )
        merchants: Any = {"default_merchant_id": "m1", "merchant_ids": frozenset({"m1", "m2"})}
        self.recovery = Recovery(
            self.ledger,
            self.protocol,
            self.queue,
            SweepStore(self.dynamo, "ledger"),  # type: ignore[arg-type]
            DeadLetters(self.queue, self.audit_log, **merchants),
            clock=self.clock,
        )
        self.worker = Worker(
            self.service,
            self.queue,
            self.audit_log,
            **merchants,
            queue_senders=frozenset({("AIDABACKOFFICE", "m1"), ("AIDABACKOFFICE", "m2"), ("AROATILLS", "m1")}),
            max_receive_count=5,
            clock=self.clock,
            on_dead_letter=self._count_dead_letter,
            **of_worker,
        )

    def _count_dead_letter(self) -> None:
        self.dead_letters += 1

    def at_once(self, asked: RefundRequest, **changes: Any) -> Any:
        return self.service.refund_now(asked, self.context(**changes))

    def later(self, asked: RefundRequest, **changes: Any) -> Any:
        return self.service.refund_later(asked, self.context(**changes))

    def unanswered(self, asked: RefundRequest) -> Refund:
        """QUEUED with its reservation."""
        self.indodana.outcome = ConnectionFailed("no connection")
        made: Refund = self.service.work(asked, self.context(message="message-1"))
        self.indodana.outcome = None
        assert made.status is QUEUED
        return made


@pytest.fixture
def gateway() -> Gateway:
    return Gateway()


# ---- a caller who waits


def test_a_refund_is_made_while_its_caller_waits(gateway: Gateway) -> None:
    result = gateway.at_once(request())
    assert result == RefundResult(gateway.read(request()).refund)
    assert (result.refund.status, result.replayed) == (SUCCEEDED, False)
    assert gateway.sqs.sent == []


def test_a_request_that_comes_again_is_answered_with_its_refund(gateway: Gateway) -> None:
    first = gateway.at_once(request())
    for again in (gateway.at_once(request()), gateway.later(request())):
        assert again == RefundResult(first.refund, replayed=True)
    assert len(gateway.indodana.sent) == 1
    assert len(gateway.records()) == 2


@pytest.mark.parametrize("call", [Gateway.at_once, Gateway.later])
def test_a_key_of_another_refund_is_refused_and_on_record(gateway: Gateway, call: Callable[..., Any]) -> None:
    gateway.at_once(request(60_000))
    with pytest.raises(IdempotencyKeyReused):
        call(gateway, request(50_000))
    record = gateway.record("REFUND_REFUSED")
    assert (record["failureCode"], record["amount"], record["after"]) == ("IDEMPOTENCY_KEY_REUSED", 50_000, "SUCCEEDED")
    assert record["at"] == iso(NOON)
    assert record["requestId"] == "request-1"


def test_a_refund_that_indodana_cannot_take_now_is_queued(gateway: Gateway) -> None:
    gateway.indodana.outcome = RateLimited("wait", http_status=429, retry_after_seconds=30)
    result = gateway.at_once(request())
    assert result.refund.status is QUEUED
    [message] = gateway.sqs.sent
    assert message["DelaySeconds"] == 30
    assert message["MessageAttributes"]["token"]["StringValue"] == result.refund.queue_message


def test_a_refund_of_an_order_that_cannot_be_checked_is_queued(gateway: Gateway) -> None:
    gateway.indodana.status = RateLimited("wait", http_status=429, retry_after_seconds=30)
    result = gateway.at_once(request())
    refund = result.refund
    assert (refund.status, refund.reserved_amount, refund.attempts) == (QUEUED, None, 0)
    assert refund.next_attempt_at == NOON + timedelta(seconds=30)
    record = gateway.record("REFUND_QUEUED")
    assert (record["cause"], record["upstreamStatus"]) == ("status check failed: wait", 429)
    assert gateway.sqs.sent[0]["DelaySeconds"] == 30


def test_a_deferral_without_a_time_waits_its_first_back_off(gateway: Gateway) -> None:
    gateway.indodana.status = ConnectionFailed("no connection")
    due = gateway.at_once(request()).refund.next_attempt_at
    assert timedelta(seconds=2) <= due - NOON <= timedelta(seconds=2.4)


@pytest.mark.parametrize("call", [Gateway.at_once, Gateway.later])
def test_a_message_that_could_not_be_sent_is_logged(
    gateway: Gateway, call: Callable[..., Any], caplog: pytest.LogCaptureFixture
) -> None:
    gateway.sqs.error = UNREACHABLE
    gateway.indodana.outcome = ConnectionFailed("no connection")
    refund = call(gateway, request()).refund
    assert refund.status is QUEUED
    [line] = [line for line in caplog.records if line.levelno == logging.ERROR]
    assert refund.refund_id in line.getMessage()
    assert line.exc_info


def test_a_refusal_is_answered_and_on_record(gateway: Gateway) -> None:
    gateway.indodana.status = paid(50_000)
    failure = gateway.at_once(request())
    assert isinstance(failure, Failure)
    record = gateway.record("REFUND_REFUSED")
    assert (record["failureCode"], record["failureDetail"]) == ("AMOUNT_EXCEEDS_REFUNDABLE", failure.detail)
    assert "upstreamStatus" not in record
    assert record["at"] == iso(NOON)
    assert gateway.read(request()) == (None, None)


def test_a_refusal_by_indodana_is_on_record_with_its_answer(gateway: Gateway) -> None:
    gateway.indodana.status = Refused("no", http_status=404)
    gateway.at_once(request())
    assert gateway.record("REFUND_REFUSED")["upstreamStatus"] == 404


def test_a_refund_whose_twin_took_the_money_is_answered_with_the_twin(gateway: Gateway) -> None:
    """The same request twice at once: the one that finds nothing left was refunded by the other."""
    first = gateway.at_once(request(100_000))
    stale = gateway.read(request(key="other")).order
    gateway.protocol.known_orders[ORDER] = stale
    assert gateway.at_once(request(100_000)) == RefundResult(first.refund, replayed=True)


def test_a_known_order_saves_a_read_and_refuses_nothing(gateway: Gateway, monkeypatch: pytest.MonkeyPatch) -> None:
    gateway.at_once(request(60_000, "a"))
    reads = []
    read = gateway.ledger.read

    def counted(asked: RefundRequest) -> Any:
        reads.append(asked)
        return read(asked)

    monkeypatch.setattr(gateway.ledger, "read", counted)
    assert gateway.at_once(request(10_000, "b")).refund.status is SUCCEEDED
    assert reads == []
    gateway.at_once(request(1_000, "c", spelled_key='"c"'))
    assert len(reads) == 1
    gateway.at_once(request(99_000, "d"))
    assert len(reads) > 1


@pytest.mark.parametrize(("message", "field"), [(None, "Idempotency-Key"), ("message-1", "idempotencyKey")])
def test_a_list_of_keys_names_only_a_refund_that_is_on_record(
    gateway: Gateway, message: str | None, field: str
) -> None:
    a_list = request(key="a,b", replay_only=True)
    gateway.protocol.known_orders[ORDER] = gateway.protocol.known_orders.get(ORDER) or _order(gateway)
    calls: list[Callable[..., Any]] = [
        gateway.service.refund_now,
        gateway.service.refund_later,
        gateway.service.work,
        gateway.service.take_on,
    ]
    for call in calls:
        with pytest.raises(InvalidRequest, match=field):
            call(a_list, gateway.context(message=message))
    made = gateway.at_once(request(key="a,b")).refund
    for call in calls:
        found = call(a_list, gateway.context(message=message))
        assert (found.refund if isinstance(found, RefundResult) else found) == made


def _order(gateway: Gateway) -> Any:
    gateway.at_once(request(1_000, "first"))
    return gateway.read(request()).order


# ---- a caller who does not wait


def test_a_refund_for_later_is_on_record_and_in_the_queue(gateway: Gateway) -> None:
    result = gateway.later(request(), correlation_id="c-1")
    refund = result.refund
    assert result == RefundResult(gateway.read(request()).refund)
    assert (refund.status, refund.next_attempt_at, refund.attempts) == (QUEUED, NOON, 0)
    assert gateway.record("REFUND_QUEUED")["cause"] == "requested with Prefer: respond-async"
    [message] = gateway.sqs.sent
    assert message["DelaySeconds"] == 0
    assert message["MessageAttributes"]["token"]["StringValue"] == refund.queue_message
    assert gateway.indodana.checks == []


def test_a_refund_for_later_that_the_order_lacks_is_refused(gateway: Gateway) -> None:
    gateway.at_once(request(60_000, "first"))
    assert gateway.later(request(40_001)).code is FailureCode.AMOUNT_EXCEEDS_REFUNDABLE
    assert gateway.sqs.sent == []


@pytest.mark.parametrize("call", ["refund_later", "refund_now", "take_on", "work"])
def test_a_refund_that_another_process_just_made_is_the_answer(
    gateway: Gateway, monkeypatch: pytest.MonkeyPatch, call: str
) -> None:
    """It was not there yet when this one read."""
    on_record = gateway.later(request()).refund
    gateway.indodana.status = ConnectionFailed("no connection")
    read = gateway.ledger.read

    def before_it_was_there(asked: RefundRequest) -> Any:
        monkeypatch.undo()
        return read(asked)._replace(refund=None)

    monkeypatch.setattr(gateway.ledger, "read", before_it_was_there)
    answer = getattr(gateway.service, call)(request(), gateway.context())
    assert answer == (RefundResult(on_record, replayed=True) if call.startswith("refund") else on_record)


def _unseen_once(gateway: Gateway, monkeypatch: pytest.MonkeyPatch) -> None:
    """The next read is answered as before the refund was there."""
    read = gateway.ledger.read

    def before_it_was_there(asked: RefundRequest) -> Any:
        monkeypatch.undo()
        return read(asked)._replace(refund=None)

    monkeypatch.setattr(gateway.ledger, "read", before_it_was_there)


@pytest.mark.parametrize("call", ["refund_later", "refund_now", "take_on", "work"])
def test_a_refund_that_another_process_left_behind_is_unknown(
    gateway: Gateway, monkeypatch: pytest.MonkeyPatch, call: str
) -> None:
    """It was not there yet when this one read, and its lease is over already."""

    def die() -> None:
        raise KeyboardInterrupt

    gateway.indodana.during = die
    with pytest.raises(KeyboardInterrupt):
        gateway.at_once(request(1_000))
    gateway.protocol.known_orders.clear()
    gateway.passes(45)
    _unseen_once(gateway, monkeypatch)
    answer = getattr(gateway.service, call)(request(1_000), gateway.context())
    refund = answer.refund if isinstance(answer, RefundResult) else answer
    assert (refund.status, refund.version) == (UNKNOWN, 2)
    assert gateway.record("REFUND_UNKNOWN")["requestId"] == "request-1"


@pytest.mark.parametrize("call", ["refund_later", "refund_now"])
def test_a_key_that_another_process_just_used_is_refused_and_on_record(
    gateway: Gateway, monkeypatch: pytest.MonkeyPatch, call: str
) -> None:
    other = gateway.later(request(60_000)).refund
    gateway.indodana.status = ConnectionFailed("no connection")
    _unseen_once(gateway, monkeypatch)
    with pytest.raises(IdempotencyKeyReused) as raised:
        getattr(gateway.service, call)(request(50_000), gateway.context())
    assert raised.value.refund == other
    assert gateway.record("REFUND_REFUSED")["requestId"] == "request-1"


def test_a_refusal_whose_key_was_used_meanwhile_is_on_record(gateway: Gateway, monkeypatch: pytest.MonkeyPatch) -> None:
    gateway.at_once(request(60_000))
    _unseen_once(gateway, monkeypatch)
    with pytest.raises(IdempotencyKeyReused):
        gateway.at_once(request(50_000))
    assert gateway.record("REFUND_REFUSED")["failureCode"] == "IDEMPOTENCY_KEY_REUSED"


# ---- a message of the queue


def test_a_message_of_a_known_order_asks_for_no_status(gateway: Gateway) -> None:
    gateway.service.work(request(1_000, "a"), gateway.context(message="message-1"))
    gateway.service.work(request(1_000, "b"), gateway.context(message="message-2"))
    assert len(gateway.indodana.checks) == 1


def test_a_postponed_refund_waits_as_long_as_indodana_asks(gateway: Gateway) -> None:
    gateway.later(request())
    gateway.indodana.status = RateLimited("wait", http_status=429, retry_after_seconds=30)
    postponed = gateway.service.work(request(), gateway.context(message="message-1"))
    assert postponed.next_attempt_at == NOON + timedelta(seconds=30)


def test_a_queued_refund_is_worked_when_it_is_due(gateway: Gateway) -> None:
    refund = gateway.later(request()).refund
    worked = gateway.service.work(request(), gateway.context(message=refund.queue_message))
    assert (worked.status, worked.version) == (SUCCEEDED, 3)
    assert gateway.service.work(request(), gateway.context()) == worked
    assert len(gateway.indodana.sent) == 1


def test_a_refund_that_is_not_due_is_left_alone(gateway: Gateway) -> None:
    waiting = gateway.unanswered(request())
    assert gateway.service.work(request(), gateway.context(message="message-2")) == waiting
    gateway.passes(2.4)
    assert gateway.service.work(request(), gateway.context(message="message-2")).status is SUCCEEDED


def test_what_was_prefetched_is_not_read_again(gateway: Gateway, monkeypatch: pytest.MonkeyPatch) -> None:
    gateway.later(request())
    [snapshot] = gateway.service.prefetch(iter([request()]))
    monkeypatch.setattr(gateway.ledger, "read", None)
    assert gateway.service.work(request(), gateway.context(), snapshot).status is SUCCEEDED


def test_a_prefetched_refund_that_changed_since_is_read_from_the_refusal(gateway: Gateway) -> None:
    gateway.later(request())
    [snapshot] = gateway.service.prefetch([request()])
    worked = gateway.service.work(request(), gateway.context())
    assert gateway.service.work(request(), gateway.context(), snapshot) == worked


def test_a_message_with_the_key_of_another_refund_is_refused(gateway: Gateway) -> None:
    gateway.later(request(60_000))
    for call in (gateway.service.work, gateway.service.take_on):
        with pytest.raises(IdempotencyKeyReused):
            call(request(50_000), gateway.context())


def test_a_queued_refund_that_is_refused_fails(gateway: Gateway) -> None:
    refund = gateway.later(request()).refund
    gateway.indodana.status = paid(status="EXPIRED")
    failed = gateway.service.work(request(), gateway.context())
    assert (failed.status, failed.version, failed.refund_id) == (FAILED, 2, refund.refund_id)
    assert failed.failure is not None
    assert failed.failure.code is FailureCode.TRANSACTION_NOT_PAID
    assert (failed.next_attempt_at, failed.queue_message) == (None, None)
    assert gateway.read(request()).refund == failed
    assert gateway.record("REFUND_FAILED")["upstreamStatus"] == 200


def test_a_messages_first_attempt_that_is_refused_is_a_failed_refund(gateway: Gateway) -> None:
    gateway.indodana.status = Refused("no", http_status=404)
    failed = gateway.service.work(request(), gateway.context(message="message-1"))
    assert (failed.status, failed.version, failed.created_at) == (FAILED, 1, NOON)
    assert failed.failure is not None
    assert failed.failure.code is FailureCode.ORDER_NOT_FOUND
    assert gateway.read(request()).refund == failed
    assert gateway.record("REFUND_FAILED")["upstreamStatus"] == 404


def test_a_refund_that_is_deferred_again_is_postponed(gateway: Gateway, caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.INFO, "gateway")
    refund = gateway.later(request()).refund
    gateway.indodana.status = ConnectionFailed("no connection")
    for attempts, least in ((1, 2), (2, 4)):
        now = gateway.now
        postponed = gateway.service.work(request(), gateway.context(message=f"message-{attempts}"))
        assert (postponed.attempts, postponed.version) == (attempts, refund.version)
        assert postponed.queue_message == f"message-{attempts}"
        assert postponed.next_attempt_at is not None
        assert timedelta(seconds=least) <= postponed.next_attempt_at - now <= timedelta(seconds=least * 1.2)
        assert gateway.read(request()).refund == postponed
        gateway.passes(least * 1.2)
    lines = [line for line in caplog.messages if "deferred" in line]
    assert len(lines) == 2
    for part in (refund.refund_id, "m1#ORDER-1", "status check failed: no connection"):
        assert part in lines[0]


def test_a_refund_for_which_no_time_is_left_is_put_on_record(gateway: Gateway) -> None:
    refund = gateway.service.take_on(request(), gateway.context(message="message-1"))
    assert (refund.status, refund.next_attempt_at, refund.queue_message) == (QUEUED, NOON, "message-1")
    assert gateway.record("REFUND_QUEUED")["cause"] == "not enough time left to attempt it"
    assert gateway.service.take_on(request(), gateway.context(message="message-2")) == refund
    assert gateway.sqs.sent == []


@pytest.mark.parametrize("call", ["refund_now", "refund_later", "work", "take_on"])
def test_a_refund_whose_lease_expired_is_seen_as_unknown(gateway: Gateway, call: str) -> None:
    seen: list[Refund] = []

    def die() -> None:
        seen.append(gateway.read(request()).refund)
        raise KeyboardInterrupt

    gateway.indodana.during = die
    with pytest.raises(KeyboardInterrupt):
        gateway.at_once(request())
    assert seen[0].status is SUBMITTING
    gateway.protocol.known_orders.clear()
    gateway.passes(45)
    answer = getattr(gateway.service, call)(request(), gateway.context(message="message-1"))
    refund = answer.refund if isinstance(answer, RefundResult) else answer
    if call == "work":  # what is SUBMITTING is not due, and the next look sees it
        assert refund.status in (SUBMITTING, UNKNOWN)
    else:
        assert refund.status is UNKNOWN


# ---- the worker


def message(body: str | None = None, **changes: Any) -> Message:
    text = '{"merchantOrderId": "ORDER-1", "idempotencyKey": "k", "reason": "OTHERS", "requestedBy": "Rina"}'
    fields = {
        "message_id": "id-1",
        "receipt_handle": "receipt-1",
        "body": text if body is None else body,
        "receive_count": 1,
        "sender": "AIDABACKOFFICE",
        "sent_at": NOON,
    }
    return Message(**{**fields, **changes})


def run(gateway: Gateway, *messages: Message, seconds: float = 60) -> list[str]:
    return gateway.worker.run(messages, lambda: seconds)


def asked(gateway: Gateway) -> Refund:
    [refund] = gateway.ledger.refunds_of(ORDER, 10, None).refunds
    return refund


def test_a_message_is_worked_and_deleted(gateway: Gateway) -> None:
    assert run(gateway, message(correlation_id="c-1")) == []
    refund = asked(gateway)
    assert (refund.status, refund.created_by, refund.correlation_id) == (SUCCEEDED, "AIDABACKOFFICE", "c-1")
    record = gateway.record("REFUND_SUCCEEDED")
    assert (record["channel"], record["requestId"]) == ("queue", "id-1")


def test_a_message_that_is_deferred_stays_hidden_until_it_is_due(gateway: Gateway) -> None:
    gateway.indodana.outcome = RateLimited("wait", http_status=429, retry_after_seconds=30)
    assert run(gateway, message()) == ["id-1"]
    assert gateway.sqs.hidden == {"receipt-1": 31}
    # Another message of it has nothing to carry.
    assert run(gateway, message(message_id="id-2", receipt_handle="receipt-2")) == []
    assert "receipt-2" not in gateway.sqs.hidden


@pytest.mark.parametrize(("receive_count", "kept"), [(4, ["id-1"]), (5, [])])
def test_a_message_goes_at_its_last_delivery(gateway: Gateway, receive_count: int, kept: list[str]) -> None:
    gateway.indodana.outcome = RateLimited("wait", http_status=429, retry_after_seconds=30)
    assert run(gateway, message(receive_count=receive_count)) == kept


@pytest.mark.parametrize(("seconds", "kept"), [(43_199, ["id-1"]), (43_200, [])])
def test_a_message_goes_where_sqs_cannot_hide_it_so_long(gateway: Gateway, seconds: int, kept: list[str]) -> None:
    gateway.indodana.outcome = RateLimited("wait", http_status=429, retry_after_seconds=seconds)
    assert run(gateway, message()) == kept


@pytest.mark.parametrize(("receive_count", "kept"), [(4, ["id-1"]), (5, [])])
def test_a_message_for_which_no_time_is_left_comes_again(gateway: Gateway, receive_count: int, kept: list[str]) -> None:
    assert run(gateway, message(receive_count=receive_count), seconds=24.999) == kept
    if kept:
        assert gateway.sqs.hidden == {"receipt-1": 1}
        assert gateway.records() == []
    else:
        assert asked(gateway).status is QUEUED
    assert run(gateway, message(), seconds=25) == []
    assert asked(gateway).status is SUCCEEDED


def test_a_message_that_fails_is_logged_and_comes_again_later(
    gateway: Gateway, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    def crash(*_: object) -> None:
        raise ZeroDivisionError

    monkeypatch.setattr(gateway.service, "work", crash)
    assert run(gateway, message(receive_count=3)) == ["id-1"]
    assert gateway.sqs.hidden["receipt-1"] in (8, 9, 10)
    [line] = [line for line in caplog.records if line.levelno == logging.ERROR]
    assert "id-1" in line.getMessage()
    assert line.exc_info


def test_an_invalid_message_is_a_dead_letter_on_its_orders_record(
    gateway: Gateway, caplog: pytest.LogCaptureFixture
) -> None:
    body = '{"merchantOrderId": "ORDER-1", "amount": -1}'
    assert run(gateway, message(body, correlation_id="c-1")) == []
    record = gateway.record("MESSAGE_DEAD_LETTERED")
    assert (record["merchantId"], record["merchantOrderId"], record["messageId"]) == ("m1", "ORDER-1", "id-1")
    assert record["bodySha256"]
    [sent] = gateway.sqs.sent
    assert (sent["QueueUrl"], sent["MessageBody"]) == ("dead letters", body)
    assert sent["MessageAttributes"]["cause"]["StringValue"] == record["cause"]
    assert sent["MessageAttributes"]["correlationId"]["StringValue"] == "c-1"
    assert gateway.dead_letters == 1
    assert any("id-1" in line and record["cause"] in line for line in caplog.messages)


@pytest.mark.parametrize(
    "body",
    [
        "no JSON",
        '{"merchantId": "m3", "merchantOrderId": "ORDER-1"}',
        '{"merchantId": 7, "merchantOrderId": "ORDER-1"}',
        '{"merchantOrderId": "not an id!\n"}',
        '{"merchantOrderId": 7}',
        "{}",
    ],
)
def test_a_dead_letter_without_an_order_is_on_its_days_record(gateway: Gateway, body: str) -> None:
    assert run(gateway, message(body)) == []
    record = gateway.record("MESSAGE_DEAD_LETTERED")
    assert (record["merchantId"], record["merchantOrderId"]) == ("", "dead-letters-2026-11-27")


def test_a_message_of_a_merchant_that_is_not_the_stacks_is_a_dead_letter(gateway: Gateway) -> None:
    body = message().body.replace("{", '{"merchantId": "m3", ', 1)
    assert run(gateway, message(body)) == []
    assert "merchantId" in gateway.record("MESSAGE_DEAD_LETTERED")["cause"]
    assert run(gateway, message(body.replace("m3", "m2"))) == []
    assert gateway.dead_letters == 1


def test_a_reused_key_makes_a_dead_letter(gateway: Gateway) -> None:
    run(gateway, message())
    other = message(message().body.replace("OTHERS", "EXPIRED"), message_id="id-2")
    assert run(gateway, other) == []
    record = gateway.record("MESSAGE_DEAD_LETTERED")
    assert (record["merchantOrderId"], record["messageId"]) == ("ORDER-1", "id-2")


@pytest.mark.parametrize("broken", ["queue", "audit"])
def test_a_dead_letter_that_cannot_be_moved_comes_again(
    gateway: Gateway, monkeypatch: pytest.MonkeyPatch, broken: str, caplog: pytest.LogCaptureFixture
) -> None:
    def fail(**_: object) -> None:
        raise UNREACHABLE

    if broken == "queue":
        gateway.sqs.error = UNREACHABLE
    else:
        monkeypatch.setattr(gateway.dynamo, "put_item", fail)
    assert run(gateway, message("no JSON", receive_count=2)) == ["id-1"]
    assert gateway.sqs.hidden["receipt-1"] in (4, 5)
    assert gateway.dead_letters == 0
    assert gateway.sqs.sent == []
    assert any("id-1" in line.getMessage() and line.exc_info for line in caplog.records)


def test_a_new_message_for_a_settled_refund_is_on_record(gateway: Gateway) -> None:
    run(gateway, message())
    settled = asked(gateway)
    at = settled.updated_at
    run(gateway, message(message_id="old", sent_at=at))
    run(gateway, message(message_id="ours", sent_at=at + timedelta(seconds=1), token="0" * 32))
    assert "MESSAGE_FOR_SETTLED_REFUND" not in [record["action"] for record in gateway.records()]
    run(gateway, message(message_id="new", sent_at=at + timedelta(seconds=1)))
    record = gateway.record("MESSAGE_FOR_SETTLED_REFUND")
    assert (record["messageId"], record["after"], record["refundId"]) == ("new", "SUCCEEDED", settled.refund_id)


def test_refunds_go_one_by_one_until_indodana_has_answered_one(gateway: Gateway) -> None:
    batches: list[int] = []

    def run_all(jobs: Any) -> list[list[str]]:
        batches.append(len(jobs))
        return [job() for job in jobs]

    proven = iter([False, False, True])
    gateway.assemble(run_all=run_all, is_proven=lambda: next(proven))
    bodies = [message().body.replace("ORDER-1", f"ORDER-{number}") for number in range(4)]
    messages = [message(body, message_id=str(number)) for number, body in enumerate(bodies)]
    assert gateway.worker.run(messages, lambda: 60) == []
    assert batches == [1, 1, 2]


def keys_in(*keys: str) -> list[Message]:
    return [
        message(message().body.replace('"k"', f'"{key}"'), message_id=f"id-{number}") for number, key in enumerate(keys)
    ]


def test_an_orders_refunds_are_worked_two_at_a_time(gateway: Gateway) -> None:
    batches: list[int] = []

    def run_all(jobs: Any) -> list[list[str]]:
        batches.append(len(jobs))
        return [job() for job in jobs]

    gateway.assemble(run_all=run_all)
    assert gateway.worker.run(keys_in("a", "a", "a"), lambda: 60) == []
    assert gateway.worker.run(keys_in("b", "c", "d", "b", "e"), lambda: 60) == []
    assert batches == [1, 2]
    worked = gateway.ledger.refunds_of(ORDER, 10, None).refunds
    assert {refund.request.idempotency_key for refund in worked} == {*"abcde"}


def test_only_the_first_refund_of_a_lane_was_read_ahead(gateway: Gateway, monkeypatch: pytest.MonkeyPatch) -> None:
    reads: list[str] = []
    read = gateway.ledger.read

    def counted(asked: RefundRequest) -> Any:
        reads.append(asked.idempotency_key)
        return read(asked)

    monkeypatch.setattr(gateway.ledger, "read", counted)
    gateway.assemble(run_all=lambda jobs: [job() for job in jobs])
    assert gateway.worker.run(keys_in("a", "b", "c"), lambda: 60) == []
    # All that remains was refunded by the first, so the others are refused by what is read then.
    assert reads == ["c"]


def test_what_is_logged_of_a_message_bears_its_correlation_id(
    gateway: Gateway, monkeypatch: pytest.MonkeyPatch
) -> None:
    seen: list[str | None] = []

    def work(*_: object) -> Any:
        seen.append(correlation.current())
        raise ZeroDivisionError

    monkeypatch.setattr(gateway.service, "work", work)
    run(gateway, message(correlation_id="c-1"))
    run(gateway, message())
    assert seen == ["c-1", "id-1"]


# ---- who may send


def pointer(refund_id: str, merchant_id: str = "m1", **changes: Any) -> Message:
    body = {"merchantId": merchant_id, "merchantOrderId": "ORDER-1", "refundId": refund_id}
    return message(json.dumps(body), **{"sender": "AROAFUNCTION:refund-api", **changes})


def stored(gateway: Gateway) -> tuple[Any, ...]:
    return tuple(map(repr, (*gateway.dynamo.items("ledger"), *gateway.dynamo.items("audit"))))


@pytest.mark.parametrize(
    ("sender", "merchant_id", "taken"),
    [
        ("AIDABACKOFFICE", "m1", True),
        ("AIDABACKOFFICE", "m2", True),
        ("AROATILLS:till-3", "m1", True),
        ("AROATILLS", "m1", True),
        ("AROATILLS:till-3", "m2", False),
        ("AROATILLS2:till-3", "m1", False),
        ("AROATILL:till-3", "m1", False),
        ("AROATILLS3", "m1", False),
        ("aroatills:till-3", "m1", False),
        ("AROAOTHER:AROATILLS", "m1", False),
        ("AROAFUNCTION:refund-api", "m1", False),
        ("123456789012", "m1", False),
        ("", "m1", False),
    ],
)
def test_a_full_request_is_taken_from_a_listed_sender_for_its_merchant(
    gateway: Gateway, sender: str, merchant_id: str, taken: bool
) -> None:
    body = message().body.replace("{", f'{{"merchantId": "{merchant_id}", ', 1)
    assert run(gateway, message(body, sender=sender)) == []
    assert len(gateway.indodana.sent) == taken
    assert gateway.dead_letters == (not taken)
    assert any("REFUND#" in item for item in stored(gateway)) == taken


def test_a_dead_letter_of_an_unlisted_sender_says_what_would_list_it(gateway: Gateway) -> None:
    assert run(gateway, message(sender="AROAOTHER:till-3")) == []
    record = gateway.record("MESSAGE_DEAD_LETTERED")
    assert record["cause"] == (
        "sender AROAOTHER (session till-3) may not request refunds for merchant m1: add AROAOTHER=m1 to the parameter "
        "QueueSenders to allow it"
    )
    assert (record["actor"], record["sender"], record["senderSession"]) == ("AROAOTHER", "AROAOTHER", "till-3")
    assert record["merchantOrderId"] == "ORDER-1"
    run(gateway, message(sender="AIDAOTHER", message_id="id-2"))
    causes = [letter["MessageAttributes"]["cause"]["StringValue"] for letter in gateway.sqs.sent]
    assert "sender AIDAOTHER may not" in causes[1]


def test_a_record_of_a_full_request_names_sender_session_and_requester(gateway: Gateway) -> None:
    run(gateway, message(sender="AROATILLS:till-3"))
    for action in ("REFUND_SUBMITTING", "REFUND_SUCCEEDED"):
        record = gateway.record(action)
        assert (record["actor"], record["sender"], record["senderSession"]) == ("AROATILLS", "AROATILLS", "till-3")
        assert record["requestedBy"] == "Rina"
    assert asked(gateway).created_by == "AROATILLS"


def test_a_record_of_a_pointer_names_who_asked_for_its_refund(gateway: Gateway) -> None:
    made = gateway.later(request()).refund
    run(gateway, pointer(made.refund_id, message_id="id-9"))
    record = gateway.record("REFUND_SUCCEEDED")
    assert (record["actor"], record["requestedBy"], record["channel"]) == ("agent", "Rina", "queue")
    assert (record["sender"], record["senderSession"], record["requestId"]) == ("AROAFUNCTION", "refund-api", "id-9")
    assert "sender" not in gateway.record("REFUND_QUEUED")


def test_a_pointer_makes_the_refund_that_is_on_record(gateway: Gateway) -> None:
    made = gateway.later(request(40_000)).refund
    assert run(gateway, pointer(made.refund_id)) == []
    assert asked(gateway).status is SUCCEEDED
    [sent] = gateway.indodana.sent
    assert sent.amount == 40_000
    assert run(gateway, pointer(made.refund_id, sent_at=NOON + timedelta(hours=1))) == []
    assert len(gateway.indodana.sent) == 1
    assert len(gateway.records()) == 3


@pytest.mark.parametrize("sender", ["AROAFUNCTION:refund-api", "AROAOTHER:x", "AIDABACKOFFICE"])
def test_a_pointer_to_a_refund_that_is_not_due_changes_nothing(gateway: Gateway, sender: str) -> None:
    made = gateway.unanswered(request())
    before = stored(gateway)
    assert run(gateway, pointer(made.refund_id, sender=sender, message_id="id-2", receive_count=1)) == []
    assert run(gateway, pointer(made.refund_id, sender=sender, message_id="id-3", token="f" * 32)) == []
    assert stored(gateway) == before
    assert gateway.sqs.hidden == {}


def test_a_pointer_that_carries_its_refund_stays_hidden_until_it_is_due(gateway: Gateway) -> None:
    made = gateway.unanswered(request())
    assert made.next_attempt_at
    carrier = pointer(made.refund_id, message_id="message-1")
    assert run(gateway, carrier) == ["message-1"]
    assert gateway.sqs.hidden["receipt-1"] > 1
    gateway.passes(60)
    assert run(gateway, carrier) == []
    assert asked(gateway).status is SUCCEEDED


@pytest.mark.parametrize("receive_count", [1, 5])
@pytest.mark.parametrize("seconds", [60, 10])
@pytest.mark.parametrize("merchant_id", ["m1", "m2", "m3"])
def test_a_pointer_to_no_refund_of_its_merchant_is_a_dead_letter(
    gateway: Gateway, merchant_id: str, seconds: float, receive_count: int
) -> None:
    made = gateway.later(request()).refund
    wrong = "0" * 32 if merchant_id == "m1" else made.refund_id
    left = run(gateway, pointer(wrong, merchant_id, receive_count=receive_count), seconds=seconds)
    if merchant_id != "m3" and seconds == 10 and receive_count == 1:  # no time left: it comes again
        assert (left, gateway.dead_letters) == (["id-1"], 0)
        return
    assert (left, gateway.dead_letters) == ([], 1)
    record = gateway.record("MESSAGE_DEAD_LETTERED")
    assert ("MerchantIds" if merchant_id == "m3" else "has no refund with this refundId") in record["cause"]
    assert record["merchantId"] == ("" if merchant_id == "m3" else merchant_id)
    assert asked(gateway).status is QUEUED


def test_a_pointer_without_time_left_leaves_its_refund_to_recovery(gateway: Gateway) -> None:
    made = gateway.later(request()).refund
    before = stored(gateway)
    assert run(gateway, pointer(made.refund_id), seconds=10) == ["id-1"]
    assert run(gateway, pointer(made.refund_id, receive_count=5), seconds=10) == []
    assert (stored(gateway), gateway.dead_letters) == (before, 0)


@pytest.mark.parametrize("extra", [{"amount": 1}, {"requestedBy": "Eve"}, {"idempotencyKey": "k"}])
def test_a_pointer_that_says_more_is_a_dead_letter(gateway: Gateway, extra: dict[str, Any]) -> None:
    made = gateway.later(request()).refund
    body = json.loads(pointer(made.refund_id).body) | extra
    assert run(gateway, message(json.dumps(body), sender="AROAFUNCTION:refund-api")) == []
    assert "unknown field" in gateway.record("MESSAGE_DEAD_LETTERED")["cause"]
    assert asked(gateway).status is QUEUED


def full(made: Refund, **changes: Any) -> str:
    """A full request as the gateway of the release before sent it."""
    asked_for = made.request
    fields = {
        "merchantId": "m1",
        "merchantOrderId": "ORDER-1",
        "idempotencyKey": asked_for.idempotency_key,
        "reason": asked_for.reason,
        "requestedBy": asked_for.requested_by,
        "amount": None if asked_for.amount is None else int(asked_for.amount),
        "note": asked_for.note,
    }
    return json.dumps({name: value for name, value in (fields | changes).items() if value is not None})


@pytest.mark.parametrize("seconds", [60, 10])
def test_an_unlisted_senders_request_that_is_on_record_is_a_pointer(gateway: Gateway, seconds: float) -> None:
    made = gateway.later(request(40_000)).refund
    old = message(full(made), sender="AROAFUNCTION:refund-api", token=made.queue_message, receive_count=5)
    assert run(gateway, old, seconds=seconds) == []
    assert gateway.dead_letters == 0
    assert asked(gateway).status is (SUCCEEDED if seconds == 60 else QUEUED)
    assert asked(gateway).created_by == "agent"
    if seconds == 60:
        assert gateway.record("REFUND_SUCCEEDED")["actor"] == "agent"


@pytest.mark.parametrize("changes", [{"amount": 41_000}, {"requestedBy": "Eve"}, {"idempotencyKey": "other"}])
@pytest.mark.parametrize("seconds", [60, 10])
def test_an_unlisted_senders_other_words_are_a_dead_letter(
    gateway: Gateway, changes: dict[str, Any], seconds: float
) -> None:
    made = gateway.later(request(40_000)).refund
    forged = message(full(made, **changes), sender="AROAOTHER:x", receive_count=5)
    assert run(gateway, forged, seconds=seconds) == []
    assert "QueueSenders" in gateway.record("MESSAGE_DEAD_LETTERED")["cause"]
    assert asked(gateway) == made


def test_an_unlisted_senders_replay_of_a_settled_refund_is_on_record(gateway: Gateway) -> None:
    made = gateway.at_once(request(40_000)).refund
    replay = message(full(made), sender="AROAOTHER:x", sent_at=NOON + timedelta(hours=1))
    assert run(gateway, replay) == []
    record = gateway.record("MESSAGE_FOR_SETTLED_REFUND")
    assert (record["actor"], record["sender"], record["senderSession"]) == ("AROAOTHER", "AROAOTHER", "x")
    assert len(gateway.indodana.sent) == 1


def test_a_pointer_whose_refund_changes_under_it_reads_what_it_became(
    gateway: Gateway, monkeypatch: pytest.MonkeyPatch
) -> None:
    made = gateway.later(request()).refund
    attempt = gateway.protocol.attempt

    def outrun(*arguments: Any) -> Any:
        monkeypatch.setattr(gateway.protocol, "attempt", attempt)
        run(gateway, pointer(made.refund_id, message_id="id-2"))
        return attempt(*arguments)

    monkeypatch.setattr(gateway.protocol, "attempt", outrun)
    assert run(gateway, pointer(made.refund_id)) == []
    assert asked(gateway).status is SUCCEEDED
    assert len(gateway.indodana.sent) == 1


# ---- recovery


def recover(gateway: Gateway) -> dict[str, Any]:
    counts = gateway.recovery.run_once(RequestContext("recovery", "schedule", "run-1"))
    return {name: value for name, value in vars(counts).items() if value and name != "looked_at"}


def test_recovery_counts_what_is_open_and_how_old_it_is(gateway: Gateway) -> None:
    gateway.later(request(1_000, "queued"))
    gateway.passes(5)
    gateway.later(request(1_000, "younger"))
    died(gateway, request(2_000, "unknown"))
    gateway.passes(-30)
    assert recover(gateway) == {
        **{"queued": 2, "oldest_queued_seconds": 20, "unknown": 1, "oldest_unknown_seconds": 15}
    }


def test_recovery_ends_an_expired_lease(gateway: Gateway) -> None:
    def die() -> None:
        raise KeyboardInterrupt

    gateway.indodana.during = die
    with pytest.raises(KeyboardInterrupt):
        gateway.at_once(request())
    gateway.passes(44.9)
    assert recover(gateway) == {"submitting": 1, "oldest_submitting_seconds": 44.9}
    gateway.passes(0.1)
    assert recover(gateway) == {"unknown": 1, "oldest_unknown_seconds": 45, "leases_expired": 1}
    assert gateway.record("REFUND_UNKNOWN")["actor"] == "recovery"
    assert recover(gateway) == {"unknown": 1, "oldest_unknown_seconds": 45}


def test_an_overdue_refund_gets_a_message_each_time_it_is_twice_as_late(gateway: Gateway) -> None:
    gateway.later(request())
    gateway.sqs.sent.clear()
    sent_at = []
    for _ in range(260):
        gateway.passes(1)
        before = len(gateway.sqs.sent)
        recover(gateway)
        if len(gateway.sqs.sent) > before:
            sent_at.append(int((gateway.now - NOON).total_seconds()))
    assert sent_at == [30, 60, 120, 240]
    refund = gateway.read(request()).refund
    assert refund.enqueued_at == NOON + timedelta(seconds=240)
    assert gateway.sqs.sent[-1]["MessageAttributes"]["token"]["StringValue"] == refund.queue_message
    assert "DelaySeconds" not in gateway.sqs.sent[-1]


def test_an_unknown_refund_gets_a_message_only_where_the_stack_resubmits(gateway: Gateway) -> None:
    gateway.assemble(resubmit=True)
    died(gateway, request())
    gateway.passes(33)
    assert recover(gateway)["enqueued"] == 1
    gateway.assemble(resubmit=False)
    gateway.passes(3600)
    assert "enqueued" not in recover(gateway)


def test_a_message_that_is_not_taken_is_left_to_a_later_run(gateway: Gateway, caplog: pytest.LogCaptureFixture) -> None:
    refund = gateway.later(request()).refund
    gateway.passes(30)
    gateway.sqs.error = UNREACHABLE
    assert "enqueued" not in recover(gateway)
    assert any(refund.refund_id in line.getMessage() and line.exc_info for line in caplog.records)


def test_a_refund_that_somebody_works_on_gets_no_message(gateway: Gateway, monkeypatch: pytest.MonkeyPatch) -> None:
    refund = gateway.later(request()).refund
    gateway.sqs.sent.clear()
    gateway.passes(30)

    def changed(*_: object) -> None:
        raise RefundChanged(refund)

    monkeypatch.setattr(gateway.ledger, "record_message", changed)
    assert "enqueued" not in recover(gateway)
    assert gateway.sqs.sent == []


def test_what_fails_for_one_refund_is_counted_and_stops_no_other(
    gateway: Gateway, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    refunds = [gateway.later(request(1_000, key)).refund for key in ("a", "b")]
    unreadable = {name: {"S": "x"} for name in ("pk", "sk", "openKey", "openSince")}
    gateway.dynamo.put_item(TableName="ledger", Item=unreadable)
    gateway.passes(30)
    gateway.sqs.sent.clear()

    def fail(**_: object) -> None:
        raise UNREACHABLE

    update = gateway.dynamo.update_item
    failures: Any = iter([fail, update])
    monkeypatch.setattr(gateway.dynamo, "update_item", lambda **request: next(failures)(**request))
    assert recover(gateway) == {
        **{"queued": 2, "oldest_queued_seconds": 30, "unreadable": 1, "errors": 2, "enqueued": 1}
    }
    assert len(gateway.sqs.sent) == 1
    [line] = [line for line in caplog.records if line.exc_info and "recovery of refund" in line.getMessage()]
    assert line.name == "gateway"
    assert any(refund.refund_id in line.getMessage() for refund in refunds)


def test_recovery_adds_up_what_it_finds(gateway: Gateway, monkeypatch: pytest.MonkeyPatch) -> None:
    def die() -> None:
        raise KeyboardInterrupt

    gateway.indodana.during = die
    for key in "ab":
        with pytest.raises(KeyboardInterrupt):
            gateway.at_once(request(1_000, key))
    gateway.indodana.during = lambda: None
    assert recover(gateway) == {"submitting": 2}
    for key in "cd":
        gateway.later(request(1_000, key))
    gateway.passes(45)
    assert recover(gateway) == {
        **{"unknown": 2, "oldest_unknown_seconds": 45, "leases_expired": 2},
        **{"queued": 2, "oldest_queued_seconds": 45, "enqueued": 2},
    }

    def fail(**_: object) -> None:
        raise UNREACHABLE

    gateway.passes(60)
    monkeypatch.setattr(gateway.dynamo, "update_item", fail)
    assert recover(gateway)["errors"] == 2


# ---- decisions


def withdraw(gateway: Gateway, refund: Refund, version: int | None = None, **options: Any) -> Refund:
    others = options.pop("may_withdraw_others", False)
    context = replace(gateway.context(), actor=options.pop("actor", "agent"))
    return gateway.decisions.withdraw(
        ORDER,
        refund.refund_id,
        version or refund.version,
        options.pop("note", "a note"),
        context,
        may_withdraw_others=others,
    )


def resolve(gateway: Gateway, refund: Refund, outcome: Any, at: datetime | None = None, **options: Any) -> Refund:
    source = EvidenceSource.BANK_STATEMENT
    evidence = Evidence(source, options.pop("reference", "ticket 4711"), at or gateway.now, options.pop("note", None))
    context = replace(gateway.context(), actor=options.pop("actor", "operator"))
    version = options.pop("version", refund.version)
    return gateway.decisions.resolve(ORDER, refund.refund_id, version, Resolution(outcome, evidence), context)


def test_a_queued_refund_is_withdrawn_and_gives_its_money_back(gateway: Gateway) -> None:
    refund = gateway.unanswered(request())
    withdrawn = withdraw(gateway, refund)
    assert withdrawn.failure == Failure(FailureCode.WITHDRAWN, "withdrawn before it was sent")
    assert (withdrawn.status, withdrawn.next_attempt_at, withdrawn.queue_message) == (FAILED, None, None)
    assert gateway.sums() == (100_000, 0, 0)
    record = gateway.record("REFUND_WITHDRAWN")
    assert (record["decision"], record["note"], record["onVersion"]) == ("WITHDRAW", "a note", refund.version)
    assert gateway.read(request()).refund == withdrawn


def test_a_decision_that_comes_again_has_the_same_answer(gateway: Gateway) -> None:
    refund = gateway.unanswered(request())
    withdrawn = withdraw(gateway, refund)
    assert withdraw(gateway, refund) == withdrawn
    for options in (
        {"note": "other"},
        {"actor": "agent-2", "may_withdraw_others": True},
        {"version": refund.version - 1},
    ):
        with pytest.raises(StaleVersion):
            withdraw(gateway, refund, **options)
        record = gateway.record("DECISION_REFUSED")
        assert (record["after"], record["decision"]) == ("FAILED", "WITHDRAW")
        assert "the refund has changed" in record["cause"]


def test_anothers_refund_is_withdrawn_only_by_who_may(gateway: Gateway) -> None:
    refund = gateway.unanswered(request())
    with pytest.raises(NotPermitted):
        withdraw(gateway, refund, actor="agent-2")
    assert gateway.record("DECISION_REFUSED")["actor"] == "agent-2"
    assert withdraw(gateway, refund, actor="agent-2", may_withdraw_others=True).status is FAILED


def test_a_settled_refund_takes_no_decision(gateway: Gateway) -> None:
    settled = gateway.at_once(request(1_000, "settled")).refund
    with pytest.raises(NotWithdrawable):
        withdraw(gateway, settled)
    with pytest.raises(NotResolvable):
        resolve(gateway, settled, SUCCEEDED)
    with pytest.raises(NotFound):
        withdraw(gateway, replace(settled, request=request(key="missing")))


def test_an_unknown_refund_is_settled_by_evidence(gateway: Gateway) -> None:
    unknown = died(gateway, request())
    settled = resolve(gateway, unknown, SUCCEEDED, note="seen")
    assert (settled.status, settled.failure, settled.lease_until) == (SUCCEEDED, None, None)
    assert gateway.sums() == (40_000, 0, 60_000)
    record = gateway.record("REFUND_RESOLVED")
    assert (record["decision"], record["onVersion"]) == ("RESOLVE_SUCCEEDED", unknown.version)
    assert record["evidence"] == {
        "source": "BANK_STATEMENT",
        "reference": "ticket 4711",
        "checkedAt": iso(gateway.now),
        "note": "seen",
    }
    assert resolve(gateway, unknown, SUCCEEDED, note="seen") == settled
    with pytest.raises(StaleVersion):
        resolve(gateway, unknown, SUCCEEDED)


def test_evidence_without_a_note_has_none_on_record(gateway: Gateway) -> None:
    resolve(gateway, died(gateway, request()), SUCCEEDED)
    assert "note" not in gateway.record("REFUND_RESOLVED")["evidence"]


def test_a_refund_that_was_not_done_fails_after_the_hold(gateway: Gateway) -> None:
    unknown = died(gateway, request())
    first = NOON + timedelta(seconds=45 + HOLD_SECONDS)  # it could be sent until its lease ended
    gateway.now = first - timedelta(seconds=1)
    with pytest.raises(ResolutionTooEarly) as raised:
        resolve(gateway, unknown, FAILED)
    assert raised.value.refund == unknown
    assert raised.value.retry_after_seconds == 1
    assert iso(first)[:10] in str(raised.value)
    gateway.now = first
    with pytest.raises(ResolutionTooEarly):
        resolve(gateway, unknown, FAILED, first - timedelta(microseconds=1))
    failed = resolve(gateway, unknown, FAILED, first)
    assert failed.failure is not None
    assert failed.failure.code is FailureCode.RESOLVED_AS_FAILED
    assert failed.failure.detail == "settled by an operator as not refunded: BANK_STATEMENT, ticket 4711"
    assert gateway.sums() == (100_000, 0, 0)


def test_evidence_from_the_future_is_refused_beyond_the_clock_skew(gateway: Gateway) -> None:
    unknown = died(gateway, request())
    gateway.passes(HOLD_SECONDS + 3600)
    skew = timedelta(seconds=CLOCK_SKEW_SECONDS)
    with pytest.raises(ResolutionTooEarly) as raised:
        resolve(gateway, unknown, FAILED, gateway.now + skew + timedelta(seconds=1))
    assert raised.value.retry_after_seconds == CLOCK_SKEW_SECONDS + 1
    assert resolve(gateway, unknown, FAILED, gateway.now + skew).status is FAILED


def test_an_earlier_releases_refund_is_held_from_when_it_was_unknown(gateway: Gateway) -> None:
    unknown = died(gateway, request())
    old = replace(unknown, sendable_until=None)
    from gateway.core.items import from_refund

    gateway.dynamo.put_item(TableName="ledger", Item=from_refund(old))
    first = unknown.updated_at + timedelta(seconds=45 + HOLD_SECONDS)
    gateway.now = first
    with pytest.raises(ResolutionTooEarly):
        resolve(gateway, old, FAILED, first - timedelta(microseconds=1))
    assert resolve(gateway, old, FAILED, first).status is FAILED


def test_a_decision_on_a_refund_whose_lease_expired_is_on_an_old_version(gateway: Gateway) -> None:
    def die() -> None:
        raise KeyboardInterrupt

    gateway.indodana.during = die
    with pytest.raises(KeyboardInterrupt):
        gateway.at_once(request())
    submitting = gateway.read(request()).refund
    gateway.passes(45)
    with pytest.raises(StaleVersion):
        resolve(gateway, submitting, SUCCEEDED)
    unknown = gateway.read(request()).refund
    assert (unknown.status, unknown.version) == (UNKNOWN, submitting.version + 1)
    assert resolve(gateway, unknown, SUCCEEDED).status is SUCCEEDED


def test_a_decision_that_loses_a_race_is_refused_or_repeated(gateway: Gateway, monkeypatch: pytest.MonkeyPatch) -> None:
    unknown = died(gateway, request())
    transition = gateway.ledger.transition
    settled: list[Refund] = []

    def raced(before: Any, after: Any, context: Any, **more: Any) -> None:
        monkeypatch.undo()
        settled.append(resolve(gateway, unknown, SUCCEEDED, reference="another's"))
        transition(before, after, context, **more)

    monkeypatch.setattr(gateway.ledger, "transition", raced)
    with pytest.raises(StaleVersion):
        resolve(gateway, unknown, SUCCEEDED)
    record = gateway.record("DECISION_REFUSED")
    assert (record["after"], record["at"]) == ("SUCCEEDED", iso(gateway.now))
    assert gateway.read(request()).refund == settled[0]


def test_an_attempt_that_ends_unknown_waits_for_a_decision(gateway: Gateway) -> None:
    gateway.indodana.outcome = AnswerTimedOut("no answer")
    refund = gateway.at_once(request(requested_by="Sari")).refund
    assert refund.status is UNKNOWN
    assert gateway.sqs.sent == []
    assert gateway.indodana.sent[0].cancelled_by == "Sari"
    assert gateway.indodana.sent[0].amount == Decimal(60_000)
    assert gateway.indodana.sent[0].date.tzinfo is UTC


# ---- little time left


@pytest.mark.parametrize(("left", "is_sent"), [(8.0, True), (7.999, False)])
def test_a_queued_refund_is_enqueued_only_while_there_is_time(gateway: Gateway, left: float, is_sent: bool) -> None:
    made = gateway.later(request(), seconds_left=lambda: left)

    assert made.refund.status is QUEUED
    assert bool(gateway.sqs.sent) is is_sent


@pytest.mark.parametrize(("left", "is_refused"), [(16.0, True), (15.999, False)])
def test_a_refusal_that_cannot_be_recorded_in_time_is_none(gateway: Gateway, left: float, is_refused: bool) -> None:
    gateway.at_once(request(90_000, "first"))
    if is_refused:
        failure = gateway.later(request(), seconds_left=lambda: left)
        assert failure.code is FailureCode.AMOUNT_EXCEEDS_REFUNDABLE
    else:
        with pytest.raises(LedgerUnavailable, match="not enough time left to record the refusal"):
            gateway.later(request(), seconds_left=lambda: left)
    assert any(record["action"] == "REFUND_REFUSED" for record in gateway.records()) is is_refused
