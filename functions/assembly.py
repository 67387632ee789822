"""Puts the gateway together: settings, clients, and the domain's objects on them, once a process."""

from __future__ import annotations

import os
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from datetime import datetime
from functools import cache
from typing import TYPE_CHECKING

import boto3
from botocore.config import Config

import telemetry
from indodana import CredentialStore, IndodanaClient
from refunds.audit import AuditLog
from refunds.ledger import Ledger
from refunds.model import utc_now
from refunds.queue import RefundQueue
from refunds.reconcile import Reconciler
from refunds.status import StatusChecks
from refunds.worker import Job, Worker, in_threads
from refunds.workflow import RefundWorkflow
from settings import Settings

if TYPE_CHECKING:
    from mypy_boto3_dynamodb import DynamoDBClient
    from mypy_boto3_secretsmanager import SecretsManagerClient
    from mypy_boto3_sqs import SQSClient

# As wide as a batch of the queue, whose messages are worked at the same time.
CONCURRENT_CALLS = 10

# The tables and the queue answer in milliseconds or not at all. One try takes at most the workflow's SETTLE_SECONDS.
AWS_CONFIG = Config(
    connect_timeout=1,
    read_timeout=5,
    retries={"mode": "standard", "total_max_attempts": 3},
    max_pool_connections=CONCURRENT_CALLS,
)
# At most the layer's SECRETS_SECONDS, which stand in the time of every call to Indodana: hence a single try. Where it
# fails, the credentials in the cache go on being used.
SECRETS_CONFIG = Config(connect_timeout=1, read_timeout=2, retries={"mode": "standard", "total_max_attempts": 1})


@dataclass(frozen=True)
class AwsClients:
    dynamodb: DynamoDBClient
    sqs: SQSClient
    secretsmanager: SecretsManagerClient

    @classmethod
    def create(cls) -> AwsClients:
        return cls(
            dynamodb=boto3.client("dynamodb", config=AWS_CONFIG),
            sqs=boto3.client("sqs", config=AWS_CONFIG),
            secretsmanager=boto3.client("secretsmanager", config=SECRETS_CONFIG),
        )


@dataclass(frozen=True)
class Gateway:
    settings: Settings
    indodana: IndodanaClient
    ledger: Ledger
    audit_log: AuditLog
    workflow: RefundWorkflow
    status_checks: StatusChecks
    worker: Worker
    reconciler: Reconciler


@cache
def gateway() -> Gateway:
    """The one gateway of this process. Raises SettingsError."""
    return assemble(Settings.from_environment(os.environ), AwsClients.create())


def assemble(
    settings: Settings,
    aws: AwsClients,
    *,
    indodana: IndodanaClient | None = None,
    clock: Callable[[], datetime] = utc_now,
    sleep: Callable[[float], None] = time.sleep,
    run_all: Callable[[Sequence[Job]], list[list[str]]] = in_threads,
) -> Gateway:
    queue = RefundQueue(aws.sqs, settings.refund_queue_url, settings.refund_dead_letter_queue_url)
    indodana = indodana or IndodanaClient(
        settings.indodana_url + settings.indodana_base_path,
        CredentialStore(aws.secretsmanager, settings.secret_prefix),
        status_version=settings.indodana_status_version,
        cancellation_version=settings.indodana_cancellation_version,
        pool_size=CONCURRENT_CALLS,
    )
    timed = telemetry.TimedIndodana(indodana)
    ledger = Ledger(aws.dynamodb, settings.ledger_table, settings.audit_table, sleep=sleep)
    audit_log = AuditLog(aws.dynamodb, settings.audit_table)
    workflow = RefundWorkflow(
        ledger,
        audit_log,
        timed,
        queue,
        ambiguous_refunds=settings.ambiguous_refunds,
        clock=clock,
        on_upstream_error=telemetry.upstream_error,
        on_audit_lost=telemetry.audit_lost,
    )
    return Gateway(
        settings=settings,
        indodana=indodana,
        ledger=ledger,
        audit_log=audit_log,
        workflow=workflow,
        status_checks=StatusChecks(
            timed,
            audit_log,
            clock=clock,
            on_upstream_error=telemetry.upstream_error,
            on_audit_lost=telemetry.audit_lost,
        ),
        worker=Worker(
            workflow,
            queue,
            audit_log,
            default_merchant_id=settings.merchant_id,
            max_receive_count=settings.max_receive_count,
            clock=clock,
            run_all=run_all,
            on_outcome=telemetry.refund_outcome,
            on_dead_letter=lambda: telemetry.count("DeadLetters"),
        ),
        reconciler=Reconciler(ledger, workflow, queue, ambiguous_refunds=settings.ambiguous_refunds, clock=clock),
    )


if "AWS_LAMBDA_INITIALIZATION_TYPE" in os.environ:  # in Lambda's init phase, not in the first caller's time
    gateway()
