"""Indodana as the domain sees it: what is asked of it, and what it said in a form that may be kept."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Protocol

from indodana import AnswerEvidence, Cancellation, CancellationAccepted, IndodanaError, TransactionStatus


class Indodana(Protocol):
    def check_status(self, merchant_id: str, merchant_order_id: str) -> TransactionStatus: ...
    def cancel(
        self, merchant_id: str, cancellation: Cancellation, *, may_send: Callable[[], bool]
    ) -> CancellationAccepted: ...


@dataclass(frozen=True)
class UpstreamSaid:
    """What Indodana answered, for the record: of the body what may be kept, and the sha256 of all of it."""

    status: int | None
    body: str | None
    sha256: str | None = None


def error_said(error: IndodanaError) -> tuple[str | None, str | None]:
    """Upstream's own error kind and message, as they can be stored and sent."""
    return error.kind, error.message


def said(error: IndodanaError) -> UpstreamSaid | None:
    return None if error.http_status is None else _said(error.http_status, error.evidence)


def accepted_said(accepted: CancellationAccepted) -> UpstreamSaid:
    return _said(accepted.http_status, accepted.evidence)


def _said(http_status: int, evidence: AnswerEvidence | None) -> UpstreamSaid:
    if evidence is None:
        return UpstreamSaid(http_status, None)
    return UpstreamSaid(http_status, evidence.body, evidence.sha256)
