"""Scheduled: recovers refunds that were left open, and measures their number and age."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from gateway.core.context import RequestContext
from gateway.core.correlation import correlated
from gateway.runtime import bootstrap, telemetry

if TYPE_CHECKING:
    from aws_lambda_powertools.utilities.typing import LambdaContext


def lambda_handler(_event: Mapping[str, Any], context: LambdaContext) -> dict[str, Any]:
    with correlated(context.aws_request_id):
        run = RequestContext(
            "recovery",
            "schedule",
            context.aws_request_id,
            seconds_left=lambda: context.get_remaining_time_in_millis() / 1000,
        )
        counts = bootstrap.gateway().recovery.run_once(run)
        telemetry.logger.info("recovery run", extra=dataclasses.asdict(counts))
    return dataclasses.asdict(counts)


bootstrap.start(lambda gateway: gateway.recovery)
