"""SQS event source mappings: receives batches, invokes the function, deletes what it did not report as failed."""

import base64
import json
import threading
import time
from collections.abc import Mapping, Sequence
from contextlib import suppress
from typing import TYPE_CHECKING, Any

import botocore.exceptions

from devstack.cloudformation import SENDER_ID
from devstack.events import Report, notice, to_stderr
from devstack.runtime import FunctionError, Runtime
from devstack.template import Queue, QueueMapping

if TYPE_CHECKING:
    from mypy_boto3_sqs import SQSClient
    from mypy_boto3_sqs.type_defs import MessageTypeDef

DELETE_LIMIT = 10
"""SQS deletes at most so many messages at once."""
# Short, because a stop waits for it; Lambda's pollers wait 20 s.
LONG_POLL_SECONDS = 1
RETRY_SECONDS = 1.0
AWS_ERRORS = (botocore.exceptions.BotoCoreError, botocore.exceptions.ClientError)


class Poller:
    """One mapping: a thread that receives, and up to the maximum concurrency of threads that invoke."""

    def __init__(
        self,
        mapping: QueueMapping,
        queue: Queue,
        region: str,
        sqs: "SQSClient",
        runtime: Runtime,
        report: Report = to_stderr,
        *,
        retry_seconds: float = RETRY_SECONDS,
    ) -> None:
        self._mapping = mapping
        self._queue = queue
        self._region = region
        self._sqs = sqs
        self._runtime = runtime
        self._report = report
        self._retry_seconds = retry_seconds
        self._slots = threading.BoundedSemaphore(mapping.maximum_concurrency)
        self._stopping = threading.Event()
        self._thread = threading.Thread(target=self._poll, name=f"poller-{mapping.function}", daemon=True)

    def start(self) -> None:
        self._thread.start()

    def stop(self) -> None:
        """Takes no more messages; those that are being worked on are left to finish."""
        self._stopping.set()

    def join(self, seconds: float) -> None:
        self._thread.join(seconds)

    def _poll(self) -> None:
        while not self._stopping.is_set():
            if not self._slots.acquire(timeout=0.1):
                continue
            handed_over = False
            try:
                messages = self._receive()
                if messages and self._stopping.is_set():
                    self._give_back(messages)
                elif messages:
                    threading.Thread(target=self._work, args=(messages,), daemon=True).start()
                    handed_over = True
            except Exception as error:  # the queue must be served again, whatever it was
                if not self._stopping.is_set():
                    self._report(notice(f"messages could not be received from {self._queue.name}: {error}"))
                self._stopping.wait(self._retry_seconds)
            finally:
                if not handed_over:
                    self._slots.release()

    def _receive(self) -> list["MessageTypeDef"]:
        return self._sqs.receive_message(
            QueueUrl=self._queue.url,
            MaxNumberOfMessages=self._mapping.batch_size,
            WaitTimeSeconds=LONG_POLL_SECONDS,
            MessageSystemAttributeNames=["All"],
            MessageAttributeNames=["All"],
        ).get("Messages", [])

    def _give_back(self, messages: Sequence["MessageTypeDef"]) -> None:
        for message in messages:
            with suppress(*AWS_ERRORS):
                self._sqs.change_message_visibility(
                    QueueUrl=self._queue.url, ReceiptHandle=message["ReceiptHandle"], VisibilityTimeout=0
                )

    def _work(self, messages: Sequence["MessageTypeDef"]) -> None:
        started = time.monotonic()
        failed = {message["MessageId"] for message in messages}
        try:
            event = sqs_event(messages, self._queue.arn, self._region)
            result = self._runtime.invoke(self._mapping.function, event)
            failed = failed_messages(result, messages) if self._mapping.report_batch_item_failures else set()
            self._delete([message for message in messages if message["MessageId"] not in failed])
        except FunctionError:
            pass  # reported already; the whole batch comes back after its visibility timeout
        except Exception as error:
            self._report(notice(f"a batch of {self._queue.name} failed", error))
        finally:
            self._slots.release()
        milliseconds = round((time.monotonic() - started) * 1000, 1)
        for message in messages:
            self._report(message_event(message, self._queue, message["MessageId"] in failed) | {"ms": milliseconds})

    def _delete(self, messages: Sequence["MessageTypeDef"]) -> None:
        for start in range(0, len(messages), DELETE_LIMIT):
            entries = [
                {"Id": str(index), "ReceiptHandle": message["ReceiptHandle"]}
                for index, message in enumerate(messages[start : start + DELETE_LIMIT])
            ]
            answer = self._sqs.delete_message_batch(QueueUrl=self._queue.url, Entries=entries)  # type: ignore[arg-type]
            for failure in answer.get("Failed", []):
                self._report(notice(f"a message of {self._queue.name} could not be deleted: {failure.get('Message')}"))


def sqs_event(messages: Sequence["MessageTypeDef"], queue_arn: str, region: str) -> dict[str, Any]:
    """The event which Lambda makes of a batch."""
    return {
        "Records": [
            {
                "messageId": message["MessageId"],
                "receiptHandle": message["ReceiptHandle"],
                "body": message["Body"],
                "attributes": _system_attributes(message),
                "messageAttributes": {
                    name: _message_attribute(value) for name, value in message.get("MessageAttributes", {}).items()
                },
                "md5OfBody": message["MD5OfBody"],
                "eventSource": "aws:sqs",
                "eventSourceARN": queue_arn,
                "awsRegion": region,
            }
            for message in messages
        ]
    }


def _system_attributes(message: "MessageTypeDef") -> dict[str, str]:
    attributes: dict[str, str] = dict(message.get("Attributes", {}))  # type: ignore[arg-type]
    # To an emulator without roles and users, everybody is the account. The local stack lists one sender.
    if attributes.get("SenderId", "").isdecimal():
        attributes["SenderId"] = SENDER_ID
    return attributes


def message_event(message: "MessageTypeDef", queue: Queue, is_failed: bool) -> dict[str, Any]:
    """What became of a message, and the order that it names, for the stack's log."""
    received = int(message.get("Attributes", {}).get("ApproximateReceiveCount", "1"))
    is_last = queue.max_receive_count is not None and received >= queue.max_receive_count
    outcome = "done"
    if is_failed:
        outcome = "failed, goes to the dead-letter queue" if is_last else "will be redelivered"
    attribute = message.get("MessageAttributes", {}).get("correlationId")
    given = attribute.get("StringValue") if attribute else None
    named = _named_in(message["Body"])
    event = {
        "event": "message",
        "queue": queue.name,
        "message_id": message["MessageId"],
        "receive_count": received,
        "outcome": outcome,
        "level": "WARNING" if is_failed and is_last else "INFO",
        "merchant_id": named.get("merchantId"),
        "merchant_order_id": named.get("merchantOrderId"),
        # As the function has it: the message's own id where the sender gave none.
        "correlation_id": given or message["MessageId"],
    }
    return {name: value for name, value in event.items() if value is not None}


def _named_in(body: str) -> dict[str, str]:
    try:
        document = json.loads(body)
    except ValueError:
        return {}
    if not isinstance(document, dict):
        return {}
    return {name: value for name, value in document.items() if isinstance(value, str)}


def _message_attribute(value: Mapping[str, Any]) -> dict[str, Any]:
    event: dict[str, Any] = {"stringListValues": [], "binaryListValues": [], "dataType": value["DataType"]}
    if "StringValue" in value:
        event["stringValue"] = value["StringValue"]
    if "BinaryValue" in value:
        event["binaryValue"] = base64.b64encode(value["BinaryValue"]).decode("ascii")
    return event


def failed_messages(result: Any, messages: Sequence["MessageTypeDef"]) -> set[str]:
    """The ids to keep. As in Lambda: no report means that none failed, an invalid one that all did."""
    everything = {message["MessageId"] for message in messages}
    if result is None or result == {}:
        return set()
    if not isinstance(result, dict):
        return everything
    failures = result.get("batchItemFailures")
    if failures is None:
        return set()
    if not isinstance(failures, list):
        return everything
    reported = [item.get("itemIdentifier") if isinstance(item, dict) else None for item in failures]
    failed = {item for item in reported if isinstance(item, str)}
    return failed if len(failed) == len(set(map(str, reported))) and failed <= everything else everything
