"""Logs and metrics of every function: JSON lines and CloudWatch's embedded metric format, both on standard output."""

from __future__ import annotations

import logging
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING

from aws_lambda_powertools.logging import Logger
from aws_lambda_powertools.logging.utils import copy_config_to_registered_loggers
from aws_lambda_powertools.metrics import MetricUnit, single_metric

from gateway.core import correlation
from gateway.core.transitions import RefundStatus
from indodana import ContradictingAnswer, CredentialsRejected, CredentialsUnavailable, IndodanaError

if TYPE_CHECKING:
    from gateway.core.model import Refund
    from gateway.core.upstream import Indodana
    from gateway.refunds.recovery import Counts
    from indodana import Cancellation, CancellationAccepted, TransactionStatus

logger = Logger()


# What the domain and the layer log with the standard library comes out as the functions' own JSON lines.
_LIBRARIES = {"gateway", "indodana"}
for _name in _LIBRARIES:
    logging.getLogger(_name)
copy_config_to_registered_loggers(source_logger=logger, include=_LIBRARIES)


def _correlate(record: logging.LogRecord) -> bool:
    record.correlation_id = correlation.current()
    return True


# On the handler, which they all share; Powertools' own keys are one set for all threads.
logger.registered_handler.addFilter(_correlate)


def count(metric: str, value: float = 1, **dimensions: str) -> None:
    _emit(metric, MetricUnit.Count, value, dimensions)


def seconds(metric: str, value: float, **dimensions: str) -> None:
    _emit(metric, MetricUnit.Seconds, value, dimensions)


def upstream_error(error: IndodanaError) -> None:
    """Counts a failure by its class, and in all for the alarm: CloudWatch does not add up over a dimension.

    One of credentials counts also under the name that has an alarm of its own; an OK that contradicts what was asked
    also by its field, for that tells whether Indodana's usual answer is of that kind.
    """
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
    """Told once of each transition of a refund; one that is being submitted has come to nothing yet."""
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


def open_refunds(counts: Counts) -> None:
    """Zeros too: an alarm needs to see that nothing waits."""
    count("QueuedRefunds", counts.queued)
    count("UnknownRefunds", counts.unknown)
    count("LeasesExpired", counts.leases_expired)
    count("RecoveryFailures", counts.errors)
    seconds("OldestQueuedRefundAge", counts.oldest_queued_seconds)
    seconds("OldestUnknownRefundAge", counts.oldest_unknown_seconds)


class TimedIndodana:
    """Indodana, with the time of each call as a metric, whatever the call came to."""

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
    # One object a metric: Powertools' shared Metrics mixes up what the worker's threads add at the same time. And none
    # beside a log line: it is printed, the text and then the line's end, and another thread's text would come between.
    output = logger.registered_handler
    output.acquire()
    try:
        with single_metric(name=metric, unit=unit, value=value) as metrics:
            for name, dimension in dimensions.items():
                metrics.add_dimension(name=name, value=dimension)
    except Exception:  # a figure that is lost must not turn an answer about money into an error
        logger.exception("the metric %s could not be emitted", metric)
    finally:
        output.release()
