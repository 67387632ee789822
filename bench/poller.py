"""Lambda's poller of the refund queue: passes batches to the functions and deletes the processed messages."""

from __future__ import annotations

import time
from collections.abc import Sequence
from dataclasses import dataclass, field
from multiprocessing.connection import wait
from typing import Any

import boto3
from botocore.config import Config

from bench.functions import Function, Invocation
from bench.metered import QUEUE, MeteredStub
from bench.warm import BATCH
from devstack.queues import failed_messages, sqs_event
from devstack.template import Model

# Between two receives from a queue without visible messages.
POLL_SECONDS = 0.02


@dataclass
class QueueRun:
    """One run until the queue was empty."""

    seconds: float = 0
    invocations: list[Invocation] = field(default_factory=list)
    deliveries: int = 0
    redelivered: set[str] = field(default_factory=set)
    """Ids of messages that were delivered again at least once."""


class Poller:
    def __init__(self, stub: MeteredStub, model: Model) -> None:
        self._stub = stub
        self._model = model
        self._queue = model.queues[QUEUE]
        config = Config(read_timeout=30, retries={"total_max_attempts": 1})
        self._sqs: Any = boto3.client("sqs", endpoint_url=stub.url, region_name=model.region, config=config)

    def work(self, functions: Sequence[Function]) -> QueueRun:
        """Until the queue is empty. Raises InvocationFailed."""
        run, began = QueueRun(), time.perf_counter()
        idle = list(functions)
        at_work: dict[Any, tuple[Function, list[Any]]] = {}
        while True:
            while idle and (messages := self._receive()):
                function = idle.pop()
                function.begin(sqs_event(messages, self._queue.arn, self._model.region))
                at_work[function.pipe] = function, messages
                run.deliveries += len(messages)
            if not at_work and self._stub.waiting() == 0:
                run.seconds = time.perf_counter() - began
                return run
            for pipe in wait(list(at_work), POLL_SECONDS):
                function, messages = at_work.pop(pipe)
                invocation = function.end()
                run.invocations.append(invocation)
                run.redelivered |= self._delete(messages, invocation.result)
                idle.append(function)

    def _receive(self) -> list[Any]:
        messages: list[Any] = self._sqs.receive_message(
            QueueUrl=self._queue.url,
            MaxNumberOfMessages=BATCH,
            AttributeNames=["All"],
            MessageAttributeNames=["All"],
        ).get("Messages", [])
        return messages

    def _delete(self, messages: Sequence[Any], result: Any) -> set[str]:
        """Deletes all but the messages that the function reported; returns their ids."""
        kept = failed_messages(result, messages)
        entries = [
            {"Id": str(number), "ReceiptHandle": message["ReceiptHandle"]}
            for number, message in enumerate(messages)
            if message["MessageId"] not in kept
        ]
        if entries:
            self._sqs.delete_message_batch(QueueUrl=self._queue.url, Entries=entries)
        return kept
