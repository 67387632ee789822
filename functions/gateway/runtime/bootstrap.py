"""Builds the gateway once per process: settings, clients, and the domain's objects.

Each part is imported and created on first use: imports are most of a cold start, and no function needs all parts.
"""

from __future__ import annotations

import gc
import os
import threading
import time
from collections.abc import Callable, Sequence
from datetime import datetime
from functools import cache, cached_property
from typing import TYPE_CHECKING, Any

from gateway.core.model import utc_now

if TYPE_CHECKING:
    from gateway.core.audit import AuditLog
    from gateway.core.breaker import CircuitBreaker
    from gateway.core.ledger import Ledger
    from gateway.core.order_locks import Lock
    from gateway.core.protocol import RefundProtocol
    from gateway.core.upstream import GuardedIndodana
    from gateway.refunds.dead_letters import DeadLetters
    from gateway.refunds.decisions import Decisions
    from gateway.refunds.queue import RefundQueue
    from gateway.refunds.recovery import Recovery
    from gateway.refunds.service import RefundService
    from gateway.refunds.worker import Worker
    from gateway.runtime.aws import AwsClients
    from gateway.runtime.settings import Settings
    from gateway.status.checks import StatusChecks
    from indodana import IndodanaClient

IN_LAMBDA = "AWS_LAMBDA_INITIALIZATION_TYPE" in os.environ
if IN_LAMBDA:
    # Imported objects are never garbage: collecting during imports takes 6 % of a cold start. start() enables it again.
    gc.disable()


class Gateway:
    def __init__(
        self,
        settings: Settings,
        aws: AwsClients,
        *,
        indodana: IndodanaClient | None = None,
        clock: Callable[[], datetime] = utc_now,
        sleep: Callable[[float], None] = time.sleep,
        run_all: Callable[[Sequence[Callable[[], Any]]], list[Any]] | None = None,
        new_lock: Callable[[], Lock] = threading.Lock,
    ) -> None:
        self.settings = settings
        self._aws = aws
        self._given_indodana = indodana
        self.clock = clock
        self._sleep = sleep
        self._run_all = run_all
        self._new_lock = new_lock

    @cached_property
    def indodana(self) -> IndodanaClient:
        from gateway.runtime import tls
        from gateway.runtime.aws import CONCURRENT_CALLS
        from indodana import CredentialStore, IndodanaClient

        settings = self.settings
        return self._given_indodana or IndodanaClient(
            settings.indodana_url + settings.indodana_base_path,
            CredentialStore(self._aws.secretsmanager, settings.secret_prefix),
            status_version=settings.indodana_status_version,
            cancellation_version=settings.indodana_cancellation_version,
            pool_size=CONCURRENT_CALLS,
            ssl_context=tls.context(),
        )

    @cached_property
    def _guarded_indodana(self) -> GuardedIndodana:
        from gateway.core.upstream import GuardedIndodana
        from gateway.runtime.telemetry import TimedIndodana

        return GuardedIndodana(TimedIndodana(self.indodana), self.status_breaker)

    @cached_property
    def audit_log(self) -> AuditLog:
        from gateway.core.audit import AuditLog
        from gateway.runtime import telemetry

        return AuditLog(self._aws.dynamodb, self.settings.audit_table, on_lost=telemetry.audit_lost)

    @cached_property
    def ledger(self) -> Ledger:
        from gateway.core.ledger import Ledger
        from gateway.runtime import telemetry

        settings = self.settings
        return Ledger(
            self._aws.dynamodb,
            settings.ledger_table,
            settings.audit_table,
            sleep=self._sleep,
            new_lock=self._new_lock,
            on_transition=telemetry.transition,
        )

    @cached_property
    def _queue(self) -> RefundQueue:
        from gateway.refunds.queue import RefundQueue

        settings = self.settings
        return RefundQueue(self._aws.sqs, settings.refund_queue_url, settings.refund_dead_letter_queue_url)

    @cached_property
    def status_checks(self) -> StatusChecks:
        from gateway.runtime import telemetry
        from gateway.status.checks import StatusChecks

        return StatusChecks(
            self._guarded_indodana,
            self.audit_log,
            clock=self.clock,
            on_upstream_error=telemetry.upstream_error,
        )

    @cached_property
    def refund_breaker(self) -> CircuitBreaker:
        from gateway.core.breaker import REFUNDS, CircuitBreaker

        return CircuitBreaker(REFUNDS, self.clock)

    @cached_property
    def status_breaker(self) -> CircuitBreaker:
        from gateway.core.breaker import STATUS_CHECKS, CircuitBreaker

        return CircuitBreaker(STATUS_CHECKS, self.clock)

    @cached_property
    def protocol(self) -> RefundProtocol:
        from gateway.core.outcome import ConflictKinds
        from gateway.core.protocol import RefundProtocol
        from gateway.runtime import telemetry

        return RefundProtocol(
            self.ledger,
            self.audit_log,
            self._guarded_indodana,
            ambiguous_refunds=self.settings.ambiguous_refunds,
            conflict_kinds=ConflictKinds(self.settings.conflict_kinds_not_done, self.settings.conflict_kinds_done),
            breaker=self.refund_breaker,
            clock=self.clock,
            on_upstream_error=telemetry.upstream_error,
        )

    @cached_property
    def service(self) -> RefundService:
        from gateway.refunds.service import RefundService

        return RefundService(self.protocol, self.ledger, self.audit_log, self._queue, clock=self.clock)

    @cached_property
    def decisions(self) -> Decisions:
        from gateway.refunds.decisions import Decisions

        return Decisions(
            self.protocol,
            self.ledger,
            self.audit_log,
            resolution_hold_seconds=self.settings.resolution_hold_seconds,
            clock=self.clock,
        )

    @cached_property
    def worker(self) -> Worker:
        from gateway.refunds.threads import in_threads
        from gateway.refunds.worker import Worker
        from gateway.runtime import telemetry

        return Worker(
            self.service,
            self._queue,
            self.audit_log,
            default_merchant_id=self.settings.merchant_id,
            merchant_ids=self.settings.merchant_ids,
            queue_senders=self.settings.queue_senders,
            max_receive_count=self.settings.max_receive_count,
            is_proven=lambda: self.refund_breaker.is_proven,
            clock=self.clock,
            run_all=self._run_all or in_threads,
            on_dead_letter=lambda: telemetry.count("DeadLetters"),
        )

    @cached_property
    def _dead_letters(self) -> DeadLetters:
        from gateway.refunds.dead_letters import DeadLetters
        from gateway.runtime import telemetry

        return DeadLetters(
            self._queue,
            self.audit_log,
            default_merchant_id=self.settings.merchant_id,
            merchant_ids=self.settings.merchant_ids,
            on_dead_letter=lambda: telemetry.count("DeadLetters"),
        )

    @cached_property
    def recovery(self) -> Recovery:
        from gateway.refunds.recovery import Recovery
        from gateway.refunds.sweep import SweepStore
        from gateway.refunds.threads import in_threads
        from gateway.runtime import telemetry

        return Recovery(
            self.ledger,
            self.protocol,
            self._queue,
            SweepStore(self._aws.dynamodb, self.settings.ledger_table),
            self._dead_letters,
            clock=self.clock,
            run_all=self._run_all or in_threads,
            on_page=telemetry.open_refunds,
            on_failures=lambda failures: telemetry.count("RecoveryFailures", failures),
        )


@cache
def gateway() -> Gateway:
    """The gateway of this process. Raises SettingsError."""
    from gateway.runtime.aws import AwsClients
    from gateway.runtime.settings import Settings

    return Gateway(Settings.from_environment(os.environ), AwsClients())


def start(part: Callable[[Gateway], object]) -> None:
    """Creates the part that a function needs in Lambda's init phase, so that the first caller does not wait for it."""
    if IN_LAMBDA:
        part(gateway())
        gc.freeze()
        gc.enable()
