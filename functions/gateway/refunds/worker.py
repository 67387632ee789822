"""A batch of queue messages: orders at the same time, and of one order two refunds at a time."""

from __future__ import annotations

import hashlib
import logging
from collections.abc import Callable, Iterable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from datetime import datetime
from functools import partial
from itertools import chain

from gateway.core import audit, inputs
from gateway.core.audit import AuditLog
from gateway.core.backoff import backoff_seconds
from gateway.core.context import RequestContext
from gateway.core.correlation import correlated
from gateway.core.errors import FieldError, IdempotencyKeyReused, InvalidRequest, LedgerUnavailable, QueueUnavailable
from gateway.core.ledger import Snapshot
from gateway.core.model import OrderKey, Refund, RefundRequest, utc_now
from gateway.core.protocol import SUBMIT_SECONDS
from gateway.core.transitions import RefundStatus
from gateway.refunds import validation
from gateway.refunds.queue import MAX_VISIBILITY_SECONDS, RefundQueue
from gateway.refunds.service import RefundService

log = logging.getLogger("gateway")

CHANNEL = "queue"
SETTLED = frozenset({RefundStatus.SUCCEEDED, RefundStatus.FAILED})
# A message that was not begun because the time ran out is due again at once, for another invocation.
NOT_BEGUN_SECONDS = 1


@dataclass(frozen=True)
class Message:
    message_id: str
    receipt_handle: str
    body: str
    receive_count: int
    sender: str
    sent_at: datetime
    correlation_id: str | None = None  # as it came
    token: str | None = None  # the gateway's own name for it; None: sent by somebody else

    @property
    def name(self) -> str:
        """By which the ledger knows the message that carries a refund. Sent again, as from the dead-letter queue, a
        message of somebody else's has another."""
        return self.token or self.message_id


@dataclass(frozen=True)
class Task:
    message: Message
    request: RefundRequest
    context: RequestContext


type Job = Callable[[], list[str]]


def in_threads(jobs: Sequence[Job]) -> list[list[str]]:
    """As wide as the batch: each thread spends its time waiting for Indodana."""
    if not jobs:
        return []
    with ThreadPoolExecutor(max_workers=len(jobs)) as pool:
        return list(pool.map(lambda job: job(), jobs))


class Worker:
    def __init__(
        self,
        service: RefundService,
        queue: RefundQueue,
        audit_log: AuditLog,
        *,
        default_merchant_id: str,
        merchant_ids: frozenset[str],
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
                request = self._parse(message)
            except InvalidRequest as error:
                with correlated(context.known_as):
                    if not self._dead_letter(message, context, str(error), self._order_named_in(message)):
                        again.append(message.message_id)
            else:
                task = Task(message, request, context)
                by_order.setdefault(request.order, {}).setdefault(request.refund_id, []).append(task)
        lanes = [lane for refunds in by_order.values() for lane in _lanes(list(refunds.values()))]
        snapshots = self._service.prefetch([lane[0].request for lane in lanes])
        jobs = [partial(self._one_by_one, lane, snapshot) for lane, snapshot in zip(lanes, snapshots, strict=True)]
        # Until Indodana has answered one, they go one by one: of those that are sent together, all would be UNKNOWN.
        while jobs and not self._is_proven():
            again.extend(*self._run_all([jobs.pop(0)]))
        for kept in self._run_all(jobs):
            again.extend(kept)
        return again

    def _one_by_one(self, tasks: list[Task], prefetched: Snapshot | None) -> list[str]:
        again: list[str] = []
        for task in tasks:
            with correlated(task.context.known_as):
                if not self._process(task, prefetched):
                    again.append(task.message.message_id)
            prefetched = None  # of the first; it may have changed what there is of the others
        return again

    def _process(self, task: Task, prefetched: Snapshot | None) -> bool:
        """Processes one message. True: it can be deleted, and the ledger says all that there is to say."""
        message, request, context = task.message, task.request, task.context
        in_time = context.seconds_left() >= SUBMIT_SECONDS
        if not in_time and not self._is_last_delivery(message):
            self._queue.extend_visibility(message.receipt_handle, NOT_BEGUN_SECONDS)
            return False
        try:
            if in_time:
                refund = self._service.work(request, context, prefetched)
            else:
                refund = self._service.take_on(request, context)
        except (IdempotencyKeyReused, InvalidRequest) as error:
            return self._dead_letter(message, context, str(error), request.order)
        except Exception:  # one refund's failure must not take the batch with it
            log.exception("processing of message %s failed; it will be redelivered", message.message_id)
            self._queue.extend_visibility(message.receipt_handle, backoff_seconds(message.receive_count))
            return False
        if refund.status in SETTLED:
            self._record_spent_key(message, context, refund)
        if refund.status is not RefundStatus.QUEUED:
            # Settled; or an operator's; or another's, which leaves a message of its own where it is deferred.
            return True
        return self._defer_message(message, refund)

    def _defer_message(self, message: Message, refund: Refund) -> bool:
        """One message carries the refund, and stays hidden until it is due. Any other goes.

        At its last delivery the carrier goes, too: to be received once more would dead-letter it, and an outage is no
        reason to. And where it is due later than SQS can hide it. The ledger has the refund, and recovery enqueues it
        when it is due.
        """
        wait = (refund.next_attempt_at - self._clock()).total_seconds() + 1 if refund.next_attempt_at else 1
        if refund.queue_message != message.name or self._is_last_delivery(message) or wait > MAX_VISIBILITY_SECONDS:
            return True
        self._queue.extend_visibility(message.receipt_handle, wait)
        return False

    def _record_spent_key(self, message: Message, context: RequestContext, refund: Refund) -> None:
        """Nobody is told that a message asked for a refund that was settled before, so it is on record. (A message of
        ours, or one from before it was settled, only comes again.)"""
        if message.token is None and message.sent_at > refund.updated_at:
            record = audit.settled_refund_record(refund, message.message_id, message.sent_at, context)
            self._audit_log.record_best_effort(record)

    def _is_last_delivery(self, message: Message) -> bool:
        return message.receive_count >= self._max_receive_count

    def _parse(self, message: Message) -> RefundRequest:
        inputs.check_correlation_id(message.correlation_id, "correlationId")
        request = validation.refund_message(inputs.json_object(message.body.encode()), self._default_merchant_id)
        if request.order.merchant_id not in self._merchant_ids:
            raise InvalidRequest(FieldError("merchantId", "names no merchant of this stack (parameter MerchantIds)"))
        return request

    def _dead_letter(self, message: Message, context: RequestContext, cause: str, order: OrderKey | None) -> bool:
        """On record first: a dead letter that no record explains is a riddle, a record too many is not."""
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

    def _order_named_in(self, message: Message) -> OrderKey | None:
        """The order of a message that is otherwise wrong, as far as it can be told: its record belongs there."""
        try:
            body = inputs.json_object(message.body.encode())
        except InvalidRequest:
            return None
        merchant_id, order_id = body.get("merchantId", self._default_merchant_id), body.get("merchantOrderId")
        if not isinstance(merchant_id, str) or merchant_id not in self._merchant_ids:
            return None
        if not isinstance(order_id, str) or not inputs.MERCHANT_ORDER_ID.fullmatch(order_id):
            return None
        return OrderKey(merchant_id, order_id)


def _lanes(refunds: list[list[Task]]) -> list[list[Task]]:
    """An order's refunds in two lanes: they share its sums, so more at a time would only get in each other's way, while
    of two one can write when the other waits for Indodana. A refund's own messages follow each other."""
    return [list(chain.from_iterable(lane)) for lane in (refunds[::2], refunds[1::2]) if lane]


def _context(message: Message, seconds_left: Callable[[], float]) -> RequestContext:
    return RequestContext(
        actor=message.sender,
        channel=CHANNEL,
        request_id=message.message_id,
        correlation_id=inputs.correlation_id_in(message.correlation_id),
        message=message.name,
        seconds_left=seconds_left,
    )
