"""Asking for an order's status, on record."""

from __future__ import annotations

from collections.abc import Callable
from datetime import datetime
from decimal import Decimal

from gateway.core import audit
from gateway.core.audit import AuditLog
from gateway.core.model import OrderKey, Origin, utc_now
from gateway.core.upstream import Indodana, UpstreamSaid, said
from indodana import IndodanaError, TransactionStatus


class StatusChecks:
    def __init__(
        self,
        indodana: Indodana,
        audit_log: AuditLog,
        *,
        clock: Callable[[], datetime] = utc_now,
        on_upstream_error: Callable[[IndodanaError], None] = lambda _: None,
    ) -> None:
        self._indodana = indodana
        self._audit_log = audit_log
        self._clock = clock
        self._on_upstream_error = on_upstream_error

    def check(self, order: OrderKey, origin: Origin) -> TransactionStatus:
        """The status as Indodana gives it, in whatever state. Raises IndodanaError."""
        try:
            status = self._indodana.check_status(order.merchant_id, order.merchant_order_id)
        except IndodanaError as error:
            self._on_upstream_error(error)
            self._note(order, origin, type(error).__name__, said(error), None)
            raise
        # The body names the customer, so it stays out of the record.
        self._note(order, origin, status.transaction_status, UpstreamSaid(200, None), status.amount)
        return status

    def _note(
        self, order: OrderKey, origin: Origin, outcome: str, upstream: UpstreamSaid | None, amount: Decimal | None
    ) -> None:
        self._audit_log.record_best_effort(audit.status_record(order, self._clock(), origin, outcome, upstream, amount))
