"""The schedule: finds refunds that were left open, and measures how many there are and how old."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

import assembly
import telemetry
from refunds.correlation import correlated
from refunds.model import Origin

if TYPE_CHECKING:
    from aws_lambda_powertools.utilities.typing import LambdaContext


def lambda_handler(_event: Mapping[str, Any], context: LambdaContext) -> dict[str, Any]:
    with correlated(context.aws_request_id):
        counts = assembly.gateway().reconciler.run_once(Origin("reconciler", "schedule", context.aws_request_id))
        telemetry.open_refunds(counts)
        telemetry.logger.info("reconciled", extra=dataclasses.asdict(counts))
    return dataclasses.asdict(counts)


assembly.start(lambda gateway: gateway.reconciler)
