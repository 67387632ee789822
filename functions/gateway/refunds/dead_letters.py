"""Dead letters that SQS made: messages that were received too often. Each gets its audit record; none is deleted.

The worker records the messages that it moves itself, before it moves them.
"""

from __future__ import annotations

import hashlib
import logging
from collections.abc import Callable

from gateway.core import audit, inputs
from gateway.core.audit import AuditLog
from gateway.core.context import RequestContext
from gateway.core.correlation import correlated
from gateway.core.errors import InvalidRequest, QueueUnavailable
from gateway.core.model import OrderKey
from gateway.refunds.queue import DeadLetter, RefundQueue, sender_parts

log = logging.getLogger("gateway")

CHANNEL = "queue"


def order_named_in(body: str, default_merchant_id: str, merchant_ids: frozenset[str]) -> OrderKey | None:
    """The order that a dead letter names, if it is valid: the audit record belongs to it."""
    try:
        message = inputs.json_object(body.encode())
    except InvalidRequest:
        return None
    merchant_id, order_id = message.get("merchantId", default_merchant_id), message.get("merchantOrderId")
    if not isinstance(merchant_id, str) or merchant_id not in merchant_ids:
        return None
    if not isinstance(order_id, str) or not inputs.MERCHANT_ORDER_ID.fullmatch(order_id):
        return None
    return OrderKey(merchant_id, order_id)


class DeadLetters:
    def __init__(
        self,
        queue: RefundQueue,
        audit_log: AuditLog,
        *,
        default_merchant_id: str,
        merchant_ids: frozenset[str],
        on_dead_letter: Callable[[], None] = lambda: None,
    ) -> None:
        self._queue = queue
        self._audit_log = audit_log
        self._default_merchant_id = default_merchant_id
        self._merchant_ids = merchant_ids
        self._on_dead_letter = on_dead_letter

    def record_some(self) -> int:
        """Adds the audit records of up to ten dead letters, as SQS picks them. Returns the number of failures."""
        try:
            letters = self._queue.some_dead_letters()
        except QueueUnavailable:
            log.exception("dead letters could not be read; a later run will record them")
            return 1
        return sum(not self._record(letter) for letter in letters if not letter.is_recorded)

    def _record(self, letter: DeadLetter) -> bool:
        """The message id is the record's key, so each run may try again."""
        correlation_id = inputs.correlation_id_in(letter.correlation_id)
        sender, session = sender_parts(letter.sender)
        context = RequestContext(
            sender, CHANNEL, letter.message_id, correlation_id, sender=sender, sender_session=session
        )
        with correlated(context.known_as):
            try:
                record = audit.dead_letter_record(
                    order_named_in(letter.body, self._default_merchant_id, self._merchant_ids),
                    letter.message_id,
                    letter.sent_at,
                    context,
                    "received too often without being processed; SQS moved it to the dead-letter queue",
                    hashlib.sha256(letter.body.encode()).hexdigest(),
                    receive_count=letter.receive_count,
                )
                added = self._audit_log.add(record)
            except Exception:  # one letter's failure must not stop the others
                log.exception("dead letter %s could not be recorded; a later run will record it", letter.message_id)
                return False
            if added:
                log.warning("SQS moved message %s to the dead-letter queue: received too often", letter.message_id)
                self._on_dead_letter()
        return True
