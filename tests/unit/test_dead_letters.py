"""Dead letters that SQS made: one audit record each, whatever else is in the queue."""

from __future__ import annotations

import hashlib
import logging
from datetime import UTC, datetime
from typing import Any

import pytest
from botocore.exceptions import EndpointConnectionError

from gateway.core.audit import AuditLog
from gateway.core.dynamodb import from_item
from gateway.refunds.dead_letters import DeadLetters, order_named_in
from gateway.refunds.queue import RefundQueue
from testkit.emulator import Dynamo, Sqs

NOW = datetime(2026, 11, 27, 12, tzinfo=UTC)
QUEUE, DEAD_LETTERS = "https://sqs/refunds", "https://sqs/dead-letters"
BODY = '{"merchantId": "m2", "merchantOrderId": "ORDER-1"}'
MERCHANTS: Any = {"default_merchant_id": "m1", "merchant_ids": frozenset({"m1", "m2"})}
UNREACHABLE = EndpointConnectionError(endpoint_url="https://aws")


class World:
    def __init__(self) -> None:
        self.sqs = Sqs(lambda: NOW, 240, 2, url=QUEUE, dead_letter_url=DEAD_LETTERS, sender_id="AIDASHOP")
        self.dynamo = Dynamo({"audit": {}})
        self.counted = 0
        self.dead_letters = DeadLetters(
            RefundQueue(self.sqs, QUEUE, DEAD_LETTERS),  # type: ignore[arg-type]
            AuditLog(self.dynamo, "audit"),  # type: ignore[arg-type]
            on_dead_letter=self._count,
            **MERCHANTS,
        )

    def _count(self) -> None:
        self.counted += 1

    def moved_by_sqs(self, *bodies: str, **attributes: str) -> None:
        given = {name: {"DataType": "String", "StringValue": text} for name, text in attributes.items()}
        for body in bodies:
            self.sqs.send_message(QueueUrl=QUEUE, MessageBody=body, MessageAttributes=given)
            for _ in range(3):
                self.sqs.receive_message(QueueUrl=QUEUE, VisibilityTimeout=0)
        assert not self.sqs.messages(QUEUE)

    def records(self) -> list[dict[str, Any]]:
        return [from_item(item) for item in self.dynamo.items("audit")]


@pytest.fixture
def world() -> World:
    return World()


def test_a_message_that_sqs_moved_gets_its_record_once(world: World, caplog: pytest.LogCaptureFixture) -> None:
    world.moved_by_sqs(BODY, correlationId="c-1")

    assert [world.dead_letters.record_some() for _ in range(3)] == [0, 0, 0]

    [record] = world.records()
    [letter] = world.sqs.messages(DEAD_LETTERS)
    assert record == {
        "pk": "m2#ORDER-1",
        "sk": f"2026-11-27T12:00:00.000000Z#{letter['MessageId']}",
        "at": "2026-11-27T12:00:00.000000Z",
        "merchantId": "m2",
        "merchantOrderId": "ORDER-1",
        "actor": "AIDASHOP",
        "sender": "AIDASHOP",
        "channel": "queue",
        "requestId": letter["MessageId"],
        "correlationId": "c-1",
        "action": "MESSAGE_DEAD_LETTERED",
        "messageId": letter["MessageId"],
        "cause": "received too often without being processed; SQS moved it to the dead-letter queue",
        "bodySha256": hashlib.sha256(BODY.encode()).hexdigest(),
        "receiveCount": 3,
    }
    assert world.counted == 1
    [line] = [line for line in caplog.records if letter["MessageId"] in line.getMessage()]
    assert line.levelno == logging.WARNING


def test_a_dead_letter_that_cannot_be_read_is_on_its_days_record(world: World) -> None:
    world.moved_by_sqs("no JSON", correlationId="\n")
    assert world.dead_letters.record_some() == 0
    [record] = world.records()
    assert record["pk"] == "#dead-letters-2026-11-27"
    assert record["correlationId"] == record["messageId"]  # never a text that breaks the rule


def test_a_run_records_ten_dead_letters_at_most(world: World) -> None:
    """SQS picks them, and need not pick others the next time: each run may get the same ten."""
    world.moved_by_sqs(*[BODY] * 12)
    world.dead_letters.record_some()
    assert len(world.records()) == 10
    world.dead_letters.record_some()
    assert len(world.records()) == 10
    world.sqs.choose = lambda visible: reversed(visible)
    world.dead_letters.record_some()
    assert len(world.records()) == 12


def test_a_dead_letter_of_the_workers_gets_no_second_record(world: World) -> None:
    RefundQueue(world.sqs, QUEUE, DEAD_LETTERS).dead_letter("no JSON", "id-0", "not JSON", None)  # type: ignore[arg-type]
    assert world.dead_letters.record_some() == 0
    assert (world.records(), world.counted) == ([], 0)


def test_what_fails_for_one_dead_letter_is_counted_and_stops_no_other(
    world: World, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    world.moved_by_sqs(BODY, BODY)
    put = world.dynamo.put_item

    def fail(**_: object) -> None:
        raise UNREACHABLE

    puts: Any = iter([fail, put, put, put])
    monkeypatch.setattr(world.dynamo, "put_item", lambda **request: next(puts)(**request))

    assert world.dead_letters.record_some() == 1

    assert (len(world.records()), world.counted) == (1, 1)
    [line] = [line for line in caplog.records if line.exc_info]
    assert world.sqs.messages(DEAD_LETTERS)[0]["MessageId"] in line.getMessage()
    assert world.dead_letters.record_some() == 0
    assert (len(world.records()), world.counted) == (2, 2)


def test_a_dead_letter_queue_without_answer_is_a_failure(
    world: World, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    def fail(**_: object) -> None:
        raise UNREACHABLE

    monkeypatch.setattr(world.sqs, "receive_message", fail)
    assert world.dead_letters.record_some() == 1
    assert any(line.exc_info and "dead letters could not be read" in line.getMessage() for line in caplog.records)


@pytest.mark.parametrize(
    ("body", "partition"),
    [
        (BODY, "m2#ORDER-1"),
        ('{"merchantOrderId": "ORDER-1"}', "m1#ORDER-1"),
        ('{"merchantId": "m1", "merchantOrderId": "ORDER-1", "refundId": "r"}', "m1#ORDER-1"),
        ('{"merchantId": "m3", "merchantOrderId": "ORDER-1"}', None),
        ('{"merchantId": ["m1"], "merchantOrderId": "ORDER-1"}', None),
        ('{"merchantOrderId": "no id\\n"}', None),
        ("[]", None),
        ("\ud800", None),
    ],
)
def test_a_dead_letter_belongs_to_the_order_that_it_names(body: str, partition: str | None) -> None:
    order = order_named_in(body, **MERCHANTS) if body != "\ud800" else None
    assert (order and order.partition) == partition
