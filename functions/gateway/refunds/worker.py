"""Processes a batch of queue messages: different orders in parallel, at most two refunds of one order in parallel."""

from __future__ import annotations

import hashlib
import logging
import re
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from datetime import datetime
from functools import partial
from itertools import chain

from gateway.core import audit, inputs
from gateway.core.audit import AuditLog
from gateway.core.backoff import backoff_seconds
from gateway.core.context import RequestContext
from gateway.core.correlation import correlated
from gateway.core.errors import (
    FieldError,
    IdempotencyKeyReused,
    InvalidRequest,
    LedgerUnavailable,
    NotFound,
    QueueUnavailable,
)
from gateway.core.ledger import Snapshot
from gateway.core.model import OrderKey, Refund, RefundPointer, RefundRequest, utc_now
from gateway.core.protocol import ATTEMPT_SECONDS
from gateway.core.transitions import RefundStatus
from gateway.refunds import validation
from gateway.refunds.dead_letters import CHANNEL, order_named_in
from gateway.refunds.queue import MAX_VISIBILITY_SECONDS, RefundQueue, sender_parts
from gateway.refunds.service import RefundService
from gateway.refunds.threads import in_threads

log = logging.getLogger("gateway")

TOKEN = re.compile(r"[0-9a-f]{32}")  # of the gateway's messages; the ledger keeps nothing else that a message brings
SETTLED = frozenset({RefundStatus.SUCCEEDED, RefundStatus.FAILED})
# A message that was not started for lack of time is redelivered at once, to another invocation.
NOT_BEGUN_SECONDS = 1


@dataclass(frozen=True)
class Message:
    message_id: str
    receipt_handle: str
    body: str
    receive_count: int
    sender: str  # as `sender_parts` takes it
    sent_at: datetime
    correlation_id: str | None = None  # as received, not validated
    token: str | None = None  # the gateway's own id for it; None: another sender's message

    @property
    def name(self) -> str:
        """The id under which the ledger records the message that carries a refund. Another sender's message gets a new
        one when it is sent again, for example from the dead-letter queue."""
        return self.token or self.message_id

    @property
    def sender_id(self) -> str:
        return sender_parts(self.sender)[0]

    @property
    def sender_session(self) -> str | None:
        return sender_parts(self.sender)[1]


@dataclass(frozen=True)
class Task:
    message: Message
    wanted: RefundRequest | RefundPointer
    request: RefundRequest | None  # what it may make a refund of; None: its refund must be on record
    context: RequestContext


type Job = Callable[[], list[str]]


class Worker:
    def __init__(
        self,
        service: RefundService,
        queue: RefundQueue,
        audit_log: AuditLog,
        *,
        default_merchant_id: str,
        merchant_ids: frozenset[str],
        queue_senders: frozenset[tuple[str, str]],
        max_receive_count: int,
        is_proven: Callable[[], bool] = lambda: True,
        clock: Callable[[], datetime] = utc_now,
        run_all: Callable[[Sequence[Job]], list[list[str]]] = in_threads,
        on_dead_letter: Callable[[], None] = lambda: None,
    ) -> None:
        self._service = service
        self._queue = queue
        self._audit_log = audit_log
        self._default_merchant_id = default_merchant_id
        self._merchant_ids = merchant_ids
        self._queue_senders = queue_senders
        self._max_receive_count = max_receive_count
        self._clock = clock
        self._is_proven = is_proven
        self._run_all = run_all
        self._on_dead_letter = on_dead_letter

    def run(self, messages: Iterable[Message], seconds_left: Callable[[], float]) -> list[str]:
        """Processes the batch; returns the ids of the messages that must be delivered again."""
        again: list[str] = []
        by_order: dict[OrderKey, dict[str, list[Task]]] = {}
        for message in messages:
            context = _context(message, seconds_left)
            try:
                wanted = self._parse(message)
            except InvalidRequest as error:
                with correlated(context.known_as):
                    order = order_named_in(message.body, self._default_merchant_id, self._merchant_ids)
                    if not self._dead_letter(message, context, str(error), order):
                        again.append(message.message_id)
            else:
                task = Task(message, wanted, self._allowed(wanted, message), context)
                by_order.setdefault(wanted.order, {}).setdefault(wanted.refund_id, []).append(task)
        lanes = [lane for refunds in by_order.values() for lane in _lanes(list(refunds.values()))]
        snapshots = self._service.prefetch([lane[0].wanted for lane in lanes])
        jobs = [partial(self._one_by_one, lane, snapshot) for lane, snapshot in zip(lanes, snapshots, strict=True)]
        # One by one until Indodana has answered one: if Indodana is down, all that are sent together become UNKNOWN.
        while jobs and not self._is_proven():
            again.extend(*self._run_all([jobs.pop(0)]))
        for message_ids in self._run_all(jobs):
            again.extend(message_ids)
        return again

    def _one_by_one(self, tasks: list[Task], prefetched: Snapshot | None) -> list[str]:
        again: list[str] = []
        for task in tasks:
            with correlated(task.context.known_as):
                if not self._process(task, prefetched):
                    again.append(task.message.message_id)
            prefetched = None  # only for the first task, which may have changed the order's sums
        return again

    def _process(self, task: Task, prefetched: Snapshot | None) -> bool:
        """Processes one message. True: it can be deleted, because the ledger has the refund."""
        message, context = task.message, task.context
        in_time = context.seconds_left() >= ATTEMPT_SECONDS
        if not in_time and not self._is_last_delivery(message):
            self._queue.extend_visibility(message.receipt_handle, NOT_BEGUN_SECONDS)
            return False
        try:
            refund = self._work(task, prefetched) if in_time else self._take_on(task)
        except (IdempotencyKeyReused, InvalidRequest, NotFound) as error:
            return self._dead_letter(message, context, _cause(task, error), task.wanted.order)
        except Exception:  # one refund's failure must not stop the batch
            log.exception("processing of message %s failed; it will be redelivered", message.message_id)
            self._queue.extend_visibility(message.receipt_handle, backoff_seconds(message.receive_count))
            return False
        if refund.status in SETTLED:
            self._record_spent_key(task, refund)
        if refund.status is not RefundStatus.QUEUED:
            # Settled, or an operator must decide, or another process has it, which sends its own message if needed.
            return True
        return self._defer_message(message, refund)

    def _work(self, task: Task, prefetched: Snapshot | None) -> Refund:
        if task.request:
            return self._service.work(task.request, task.context, prefetched)
        return self._service.work_recorded(task.wanted, task.context, prefetched)

    def _take_on(self, task: Task) -> Refund:
        if task.request:
            return self._service.take_on(task.request, task.context)
        return self._service.recorded(task.wanted, task.context)

    def _defer_message(self, message: Message, refund: Refund) -> bool:
        """The message that carries the refund stays hidden until the refund is due. Any other message is deleted.

        The carrier is deleted too at its last delivery (one more would move it to the dead-letter queue, and an outage
        is no reason for that), and if the refund is due later than SQS can hide a message. Then recovery enqueues the
        refund when it is due.
        """
        wait = (refund.next_attempt_at - self._clock()).total_seconds() + 1 if refund.next_attempt_at else 1
        if refund.queue_message != message.name or self._is_last_delivery(message) or wait > MAX_VISIBILITY_SECONDS:
            return True
        self._queue.extend_visibility(message.receipt_handle, wait)
        return False

    def _record_spent_key(self, task: Task, refund: Refund) -> None:
        """Records that a request was for a refund that was already settled: its sender gets no answer. (A message of
        the gateway, or one sent before the refund was settled, is only a redelivery.)"""
        message = task.message
        if isinstance(task.wanted, RefundPointer) or message.token is not None:
            return
        if message.sent_at > refund.updated_at:
            record = audit.settled_refund_record(refund, message.message_id, message.sent_at, task.context)
            self._audit_log.record_best_effort(record)

    def _is_last_delivery(self, message: Message) -> bool:
        return message.receive_count >= self._max_receive_count

    def _parse(self, message: Message) -> RefundRequest | RefundPointer:
        inputs.check_correlation_id(message.correlation_id, "correlationId")
        wanted = validation.queue_message(inputs.json_object(message.body.encode()), self._default_merchant_id)
        if wanted.order.merchant_id not in self._merchant_ids:
            raise InvalidRequest(FieldError("merchantId", "must be a merchant of this stack (parameter MerchantIds)"))
        return wanted

    def _allowed(self, wanted: RefundRequest | RefundPointer, message: Message) -> RefundRequest | None:
        """A full request whose sender may refund for its merchant."""
        if isinstance(wanted, RefundPointer):
            return None
        return wanted if (message.sender_id, wanted.order.merchant_id) in self._queue_senders else None

    def _dead_letter(self, message: Message, context: RequestContext, cause: str, order: OrderKey | None) -> bool:
        """Adds the audit record first: a dead letter must never be without one."""
        digest = hashlib.sha256(message.body.encode()).hexdigest()
        record = audit.dead_letter_record(order, message.message_id, message.sent_at, context, cause, digest)
        try:
            self._audit_log.add(record)
            self._queue.dead_letter(message.body, message.message_id, cause, context.correlation_id)
        except (LedgerUnavailable, QueueUnavailable):
            log.exception(
                "invalid message %s could not be moved to the dead-letter queue; it will be redelivered",
                message.message_id,
            )
            self._queue.extend_visibility(message.receipt_handle, backoff_seconds(message.receive_count))
            return False
        log.warning("invalid message %s moved to the dead-letter queue: %s", message.message_id, cause)
        self._on_dead_letter()
        return True


def _lanes(refunds: list[list[Task]]) -> list[list[Task]]:
    """Splits an order's refunds into two lanes. They share the order's sums, so more lanes would only conflict; with
    two, one can write while the other waits for Indodana. Messages of the same refund stay in one lane."""
    return [list(chain.from_iterable(lane)) for lane in (refunds[::2], refunds[1::2]) if lane]


def _cause(task: Task, error: Exception) -> str:
    """Why a message is a dead letter. A sender that is not listed is told nothing about what is on record."""
    if task.request or isinstance(task.wanted, RefundPointer):
        return str(error)
    sender, merchant_id = task.message.sender_id, task.wanted.order.merchant_id
    session = f" (session {task.message.sender_session})" if task.message.sender_session else ""
    return (
        f"sender {sender}{session} may not request refunds for merchant {merchant_id}: add {sender}={merchant_id} to "
        "the parameter QueueSenders to allow it"
    )


def _context(message: Message, seconds_left: Callable[[], float]) -> RequestContext:
    return RequestContext(
        actor=message.sender_id,
        channel=CHANNEL,
        sender=message.sender_id,
        sender_session=message.sender_session,
        request_id=message.message_id,
        correlation_id=inputs.correlation_id_in(message.correlation_id),
        message=message.name,
        seconds_left=seconds_left,
    )
