"""Status checks: asks Indodana for an order's status and records it in the audit log."""

from __future__ import annotations

from collections.abc import Callable
from datetime import datetime
from decimal import Decimal

from gateway.core import audit
from gateway.core.audit import AuditLog
from gateway.core.context import RequestContext
from gateway.core.model import OrderKey, utc_now
from gateway.core.upstream import Indodana, StatusChecksPaused, UpstreamAnswer, answer_in
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

    def check(self, order: OrderKey, context: RequestContext) -> TransactionStatus:
        """Indodana's answer, whatever the transaction's status. Raises IndodanaError."""
        try:
            status = self._indodana.check_status(order.merchant_id, order.merchant_order_id)
        except IndodanaError as error:
            self._on_upstream_error(error)
            if not isinstance(error, StatusChecksPaused):  # Indodana was not asked, and no status was disclosed
                self._record(order, context, type(error).__name__, answer_in(error), None)
            raise
        # The body has personal data of the customer, so it is not recorded.
        self._record(order, context, status.transaction_status, UpstreamAnswer(200, None), status.amount)
        return status

    def _record(
        self,
        order: OrderKey,
        context: RequestContext,
        outcome: str,
        upstream: UpstreamAnswer | None,
        amount: Decimal | None,
    ) -> None:
        self._audit_log.record_best_effort(
            audit.status_record(order, self._clock(), context, outcome, upstream, amount)
        )
