"""People's decisions about a refund: to withdraw it, or to settle it with evidence.

A decision names the refund's version and is valid for that version only: a refund that was QUEUED when somebody read it
may have been sent since.

    withdrawal   QUEUED  → FAILED                nothing can have been sent
    resolution   UNKNOWN → SUCCEEDED or FAILED   with evidence from outside

Packets and queues on the way to Indodana may be slow. So evidence that a refund was not made is accepted only if it is
from some time after the refund could last have been sent.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable
from datetime import datetime, timedelta
from typing import Any

from gateway.core import audit
from gateway.core.audit import AuditLog
from gateway.core.context import RequestContext
from gateway.core.errors import (
    DecisionRefused,
    NotPermitted,
    NotResolvable,
    NotWithdrawable,
    RefundChanged,
    ResolutionTooEarly,
    StaleVersion,
)
from gateway.core.inputs import CLOCK_SKEW_SECONDS
from gateway.core.ledger import Ledger
from gateway.core.model import Failure, FailureCode, OrderKey, Refund, Resolution, iso, utc_now
from gateway.core.protocol import LEASE_SECONDS, RefundProtocol
from gateway.core.transitions import RefundStatus


class Decisions:
    def __init__(
        self,
        protocol: RefundProtocol,
        ledger: Ledger,
        audit_log: AuditLog,
        *,
        resolution_hold_seconds: int,
        clock: Callable[[], datetime] = utc_now,
    ) -> None:
        self._protocol = protocol
        self._ledger = ledger
        self._audit_log = audit_log
        self._hold = timedelta(seconds=resolution_hold_seconds)
        self._clock = clock

    def withdraw(
        self,
        order: OrderKey,
        refund_id: str,
        version: int,
        note: str | None,
        context: RequestContext,
        *,
        may_withdraw_others: bool,
    ) -> Refund:
        """Ends a QUEUED refund as FAILED. The same decision repeated by the same actor gets the same result.

        Raises NotFound, NotPermitted, StaleVersion, NotWithdrawable, LedgerUnavailable.
        """
        decision = {"decision": "WITHDRAW", "note": note, "onVersion": version}

        def decide(refund: Refund) -> Refund:
            if refund.created_by != context.actor and not may_withdraw_others:
                raise NotPermitted("the token needs the scope refunds:resolve to withdraw another caller's refund")
            if refund.status is not RefundStatus.QUEUED:
                raise NotWithdrawable(refund)
            failure = Failure(FailureCode.WITHDRAWN, "withdrawn before it was sent")
            return self._settled(refund, RefundStatus.FAILED, failure, decision, context)

        return self._decide(order, refund_id, version, decision, context, audit.REFUND_WITHDRAWN, decide)

    def resolve(
        self, order: OrderKey, refund_id: str, version: int, resolution: Resolution, context: RequestContext
    ) -> Refund:
        """Settles an UNKNOWN refund. The same decision repeated by the same actor gets the same result.

        Raises NotFound, StaleVersion, NotResolvable, ResolutionTooEarly, LedgerUnavailable.
        """
        evidence = resolution.evidence
        decision = {
            "decision": f"RESOLVE_{resolution.outcome}",
            "evidence": {
                "source": evidence.source,
                "reference": evidence.reference,
                "checkedAt": iso(evidence.checked_at),
                **({"note": evidence.note} if evidence.note else {}),
            },
            "onVersion": version,
        }

        def decide(refund: Refund) -> Refund:
            if refund.status is not RefundStatus.UNKNOWN:
                raise NotResolvable(refund)
            failure = None
            if resolution.outcome is RefundStatus.FAILED:
                self._check_hold(refund, evidence.checked_at)
                detail = f"settled by an operator as not refunded: {evidence.source}, {evidence.reference}"
                failure = Failure(FailureCode.RESOLVED_AS_FAILED, detail)
            return self._settled(refund, resolution.outcome, failure, decision, context)

        return self._decide(order, refund_id, version, decision, context, audit.REFUND_RESOLVED, decide)

    def _check_hold(self, refund: Refund, checked_at: datetime) -> None:
        # Refunds of earlier releases have no `sendable_until`; their lease was at most this long.
        sendable_until = refund.sendable_until or refund.updated_at + timedelta(seconds=LEASE_SECONDS)
        first, now = sendable_until + self._hold, self._clock()
        if first <= checked_at <= now + timedelta(seconds=CLOCK_SKEW_SECONDS):
            return
        again = max(first, checked_at) if checked_at > now else first
        raise ResolutionTooEarly(refund, first, max((again - now).total_seconds(), 1))

    def _decide(
        self,
        order: OrderKey,
        refund_id: str,
        version: int,
        decision: dict[str, Any],
        context: RequestContext,
        action: str,
        decide: Callable[[Refund], Refund],
    ) -> Refund:
        before = self._ledger.refund(order, refund_id)
        try:
            if self._protocol.has_expired_lease(before):
                before = self._protocol.expire_lease(before, context)
            if before.version != version:
                return self._repeated(before, decision, context)
            after = decide(before)
            try:
                self._ledger.transition(before, after, context, action=action, decision=decision)
            except RefundChanged as changed:
                before = changed.current
                return self._repeated(before, decision, context)
        except (DecisionRefused, NotPermitted) as refused:
            at = self._clock()
            self._audit_log.record_best_effort(
                audit.refused_decision_record(before, at, context, decision, str(refused))
            )
            raise
        return after

    def _repeated(self, refund: Refund, decision: dict[str, Any], context: RequestContext) -> Refund:
        if refund.decision_id != _decision_id(decision, context):
            raise StaleVersion(refund)
        return refund

    def _settled(
        self,
        refund: Refund,
        status: RefundStatus,
        failure: Failure | None,
        decision: dict[str, Any],
        context: RequestContext,
    ) -> Refund:
        return refund.transition_to(
            status,
            self._clock(),
            lease_until=None,
            next_attempt_at=None,
            queue_message=None,
            failure=failure,
            decision_id=_decision_id(decision, context),
        )


def _decision_id(decision: dict[str, Any], context: RequestContext) -> str:
    return hashlib.sha256(json.dumps([context.actor, decision], sort_keys=True).encode()).hexdigest()
