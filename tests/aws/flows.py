"""What the functions are for, as flows: every event of events/, and what no event reaches.

What a flow comes to can be compared: what each step returned, and what is there afterwards.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from decimal import Decimal
from typing import Any

from devstack.queues import failed_messages, sqs_event
from testkit.indodana.control_client import SimulatorControl
from testkit.ministack import ACCOUNT, REGION
from tests.aws.deployment import SENDER, Deployment
from tests.aws.function import Access, Invocation
from tests.event_cases import HEALTH, HTTP, QUEUE, SCHEDULE, load

AN_HOUR = 3600
PARTIAL = "refund_api/partial"
LATER = "refund_api/respond-async"
WORKER = "refund_worker"
DIED = "Killed: killed"


@dataclass
class Run:
    """A flow: `results`, `used` and `denied` grow with each step; `there` is what is there at its end."""

    deployment: Deployment
    simulator: SimulatorControl
    results: list[Any] = field(default_factory=list)
    there: dict[str, Any] = field(default_factory=dict)
    used: dict[str, set[Access]] = field(default_factory=dict)
    denied: set[str] = field(default_factory=set)

    def event(self, name: str, **options: Any) -> None:
        self.invoke(name.split("/")[0], load(name), **options)

    def invoke(self, folder: str, event: Any, **options: Any) -> Any:
        invocation = self._noted(folder, self.deployment.function(folder).invoke(event, **options))
        self.results.append(told(invocation))
        return invocation.result

    def send(self, body: str) -> None:
        sender = f"{self.deployment.stack}-{SENDER}"
        self.deployment.as_role(sender, "sqs").send_message(QueueUrl=self.queue, MessageBody=body)

    def poll(self) -> None:
        """What Lambda does for the worker's event source mapping, with the worker's role: when the mapping is made, and
        for each batch."""
        self._call("get_queue_attributes", AttributeNames=["VisibilityTimeout"])
        received = self._call(
            "receive_message", MaxNumberOfMessages=10, AttributeNames=["All"], MessageAttributeNames=["All"]
        )
        messages = (received or {}).get("Messages", [])
        if not messages:
            return
        result = self.invoke(WORKER, sqs_event(messages, f"arn:aws:sqs:{REGION}:{ACCOUNT}:refunds", REGION))
        failed = failed_messages(result, messages)
        for message in messages:
            if message["MessageId"] not in failed:
                self._call("delete_message", ReceiptHandle=message["ReceiptHandle"])

    def receive_until_sqs_moves_it(self) -> None:
        """As often as the queue allows, as if the worker could never work on it."""
        sqs = self.deployment.root("sqs")
        asked = sqs.get_queue_attributes(QueueUrl=self.queue, AttributeNames=["RedrivePolicy"])["Attributes"]
        for _ in range(1 + int(json.loads(asked["RedrivePolicy"])["maxReceiveCount"])):
            sqs.receive_message(QueueUrl=self.queue, VisibilityTimeout=0)

    def _call(self, operation: str, **arguments: Any) -> Any:
        function = self.deployment.function(WORKER)
        invocation = self._noted(WORKER, function.call("sqs", operation, QueueUrl=self.queue, **arguments))
        self.results.append((operation, invocation.error))
        return invocation.result

    def _noted(self, folder: str, invocation: Invocation) -> Invocation:
        self.used.setdefault(folder, set()).update(invocation.used)
        self.denied |= invocation.denied
        return invocation

    @property
    def queue(self) -> str:
        return self.deployment.resources["RefundQueue"]


def told(invocation: Invocation) -> Any:
    """A function's result without what differs from run to run; its error, as a text, if it failed."""
    match invocation.result:
        case {"statusCode": status, "body": str() as body}:
            return status, json.loads(body).get("code")
        case {"statusCode": status}:
            return status
        case {"batchItemFailures": failures}:
            return len(failures)
        case dict() as counts:
            return {name: number for name, number in counts.items() if not name.startswith("oldest_")}
    return invocation.error


@dataclass(frozen=True)
class Flow:
    name: str
    steps: Callable[[Run], None]
    fault: str | None = None  # at the first refund that reaches Indodana
    result: Any = None  # of the last function, if it says more than `there`
    there: Mapping[str, int] = field(default_factory=dict)  # some of what is there afterwards

    def run(self, deployment: Deployment, simulator: SimulatorControl) -> Run:
        simulator.reset()
        deployment.clear()
        deployment.start_anew()
        if self.fault:
            simulator.fault(self.fault, path="order_cancellation", times=1)
        run = Run(deployment, simulator)
        self.steps(run)
        run.there = what_is_there(deployment, simulator)
        return run


def what_is_there(deployment: Deployment, simulator: SimulatorControl) -> dict[str, Any]:
    """Money that moved, records and messages."""
    dynamodb, sqs = deployment.root("dynamodb"), deployment.root("sqs")
    kinds = [f"ApproximateNumberOfMessages{kind}" for kind in ("", "NotVisible", "Delayed")]
    counted: dict[str, Any] = {"moved": sum(Decimal(each["amount"]) for each in simulator.books()["movements"])}
    for name, table in deployment.tables.items():
        counted[name] = dynamodb.scan(TableName=table, Select="COUNT")["Count"]
    for name, queue in deployment.of_type("AWS::SQS::Queue").items():
        numbers = sqs.get_queue_attributes(QueueUrl=queue, AttributeNames=kinds)["Attributes"]
        counted[name] = sum(int(numbers[kind]) for kind in kinds)
    return counted


# ---- what no event reaches


def message_of_a_queued_refund(run: Run) -> None:
    run.event(LATER)
    run.poll()


def message_while_indodana_is_away(run: Run) -> None:
    run.event(LATER)
    run.simulator.fault("refuse_connections")
    run.poll()


def message_that_is_invalid(run: Run) -> None:
    run.send("not JSON")
    run.poll()


def message_that_is_received_too_often(run: Run) -> None:
    run.send('{"merchantOrderId": "ORDER-PAID"}')
    run.receive_until_sqs_moves_it()
    run.event("recovery/schedule")


def refund_whose_message_was_lost(run: Run) -> None:
    run.event(LATER)
    run.event("recovery/schedule", ahead_seconds=AN_HOUR)


def refund_whose_process_died(run: Run) -> None:
    run.event(PARTIAL, die_during="cancel")
    run.event("recovery/schedule", ahead_seconds=AN_HOUR)


# Each with some of what is there afterwards.
OTHERS: dict[Callable[[Run], None], dict[str, int]] = {
    message_of_a_queued_refund: {"moved": 10_000, "RefundQueue": 0},
    message_while_indodana_is_away: {"moved": 0, "RefundQueue": 1},
    message_that_is_invalid: {"RefundQueue": 0, "RefundDeadLetterQueue": 1},
    message_that_is_received_too_often: {"RefundQueue": 0, "RefundDeadLetterQueue": 1, "AuditTable": 1},
    refund_whose_message_was_lost: {"RefundQueue": 2},
    refund_whose_process_died: {"AuditTable": 2},
}


def flows() -> Iterator[Flow]:
    for name, http in HTTP.items():
        yield Flow(name, _events(*http.after, name), http.fault, (http.status, http.code))
    for name, batch in QUEUE.items():
        yield Flow(name, _events(*batch.after, name), None, 0, {"RefundDeadLetterQueue": batch.dead_letters})
    for name in (*SCHEDULE, *HEALTH):
        yield Flow(name, _events(name))
    for steps, there in OTHERS.items():
        yield Flow(steps.__name__, steps, there=there)


def _events(*names: str) -> Callable[[Run], None]:
    def steps(run: Run) -> None:
        for name in names:
            run.event(name)

    return steps


FLOWS = {flow.name: flow for flow in flows()}
