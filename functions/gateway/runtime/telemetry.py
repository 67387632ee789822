"""Logs and metrics of every function: JSON lines and CloudWatch's embedded metric format, both on standard output."""

from __future__ import annotations

import logging
import os
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING

from aws_lambda_powertools.logging import Logger
from aws_lambda_powertools.logging.utils import copy_config_to_registered_loggers
from aws_lambda_powertools.metrics import MetricUnit, single_metric

from gateway.core import correlation
from gateway.core.transitions import RefundStatus
from gateway.core.upstream import StatusChecksPaused
from indodana import ContradictingAnswer, CredentialsRejected, CredentialsUnavailable, IndodanaError

if TYPE_CHECKING:
    from gateway.core.model import Refund
    from gateway.core.upstream import Indodana
    from gateway.refunds.recovery import Counts
    from gateway.refunds.sweep import Totals
    from indodana import Cancellation, CancellationAccepted, TransactionStatus

logger = Logger()


# The domain and the layer log with the standard library; this writes their lines as JSON, too.
_LIBRARIES = {"gateway", "indodana"}
for _name in _LIBRARIES:
    logging.getLogger(_name)
copy_config_to_registered_loggers(source_logger=logger, include=_LIBRARIES)


def _add_fields(record: logging.LogRecord) -> bool:
    record.correlation_id = correlation.current()
    # An alarm counts the errors of a new version while traffic shifts to it.
    if record.levelno >= logging.ERROR:
        record.function_name = os.environ.get("AWS_LAMBDA_FUNCTION_NAME")
        record.function_version = os.environ.get("AWS_LAMBDA_FUNCTION_VERSION")
    return True


# A filter on the shared handler: Powertools' own keys would be the same for all threads.
logger.registered_handler.addFilter(_add_fields)


def count(metric: str, value: float = 1, **dimensions: str) -> None:
    _emit(metric, MetricUnit.Count, value, dimensions)


def seconds(metric: str, value: float, **dimensions: str) -> None:
    _emit(metric, MetricUnit.Seconds, value, dimensions)


def upstream_error(error: IndodanaError) -> None:
    """Counts a failure by class, and in total for the alarm: CloudWatch does not add up over a dimension.

    Credential failures are also counted separately, for their own alarm. Contradicting answers are also counted by
    field, which shows whether Indodana's usual answer is like that.

    A status check that was not sent is no failure of Indodana's, and is counted apart.
    """
    if isinstance(error, StatusChecksPaused):
        count("StatusChecksPaused")
        return
    count("UpstreamErrors", error=type(error).__name__)
    count("UpstreamErrors")
    if isinstance(error, CredentialsRejected | CredentialsUnavailable):
        count("CredentialFailures")
    if isinstance(error, ContradictingAnswer):
        count("ContradictingAnswers", field=error.field)
        count("ContradictingAnswers")


def audit_lost() -> None:
    count("AuditRecordsLost")


def transition(before: Refund | None, refund: Refund) -> None:
    """Counts and logs a transition. SUBMITTING is left out: it is not an outcome."""
    if refund.status is RefundStatus.SUBMITTING:
        return
    count("RefundOutcomes", status=refund.status)
    order = refund.request.order
    logger.info(
        "refund",
        extra={
            "refund_id": refund.refund_id,
            "merchant_id": order.merchant_id,
            "merchant_order_id": order.merchant_order_id,
            "before": before.status if before else None,
            "status": refund.status,
            "amount": refund.amount,
            "attempts": refund.attempts,
        },
    )


def open_refunds(page: Counts, totals: Totals) -> None:
    """After each page of recovery's, so that a run that is killed later counts as far as it came.

    How many there are: the sweep's total so far, whose maximum is the sweep's total. Ages: their maximum is the
    oldest. What was done: each page's, to be added up. Emits zeros too: an alarm needs data to return to OK.
    """
    count("QueuedRefunds", totals.queued)
    count("UnknownRefunds", totals.unknown)
    count("UnreadableItems", totals.unreadable)
    count("LeasesExpired", page.leases_expired)
    count("RecoveryFailures", page.errors)
    seconds("OldestQueuedRefundAge", page.oldest_queued_seconds)
    seconds("OldestSubmittingRefundAge", page.oldest_submitting_seconds)
    seconds("OldestUnknownRefundAge", page.oldest_unknown_seconds)


class TimedIndodana:
    """Emits the duration of each call to Indodana as a metric, also for failed calls."""

    def __init__(self, indodana: Indodana) -> None:
        self._indodana = indodana

    def check_status(self, merchant_id: str, merchant_order_id: str) -> TransactionStatus:
        with _timed("check_status"):
            return self._indodana.check_status(merchant_id, merchant_order_id)

    def cancel(
        self, merchant_id: str, cancellation: Cancellation, *, may_send: Callable[[], bool]
    ) -> CancellationAccepted:
        with _timed("order_cancellation"):
            return self._indodana.cancel(merchant_id, cancellation, may_send=may_send)


@contextmanager
def _timed(operation: str) -> Iterator[None]:
    started = time.perf_counter()
    try:
        yield
    finally:
        milliseconds = (time.perf_counter() - started) * 1000
        _emit("UpstreamLatency", MetricUnit.Milliseconds, milliseconds, {"operation": operation})


def _emit(metric: str, unit: MetricUnit, value: float, dimensions: dict[str, str]) -> None:
    # One object per metric: Powertools' shared Metrics mixes up metrics of parallel threads. And under the handler's
    # lock: a metric is printed as text and then a line end, and another thread's log line could come between.
    output = logger.registered_handler
    output.acquire()
    try:
        with single_metric(name=metric, unit=unit, value=value) as metrics:
            for name, dimension in dimensions.items():
                metrics.add_dimension(name=name, value=dimension)
            if correlation_id := correlation.current():
                metrics.add_metadata(key="correlation_id", value=correlation_id)
    except Exception:  # a lost metric must not turn a response about money into an error
        logger.exception("emitting metric %s failed", metric)
    finally:
        output.release()
