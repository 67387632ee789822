"""Indodana as the domain sees it: what is asked of it, and what it said in a form that may be kept."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Protocol

import simplejson

from indodana import Cancellation, CancellationAccepted, IndodanaError, TransactionStatus, redact

MAX_TEXT = 500  # characters of upstream's words that a refund carries; the audit keeps more


class Indodana(Protocol):
    def check_status(self, merchant_id: str, merchant_order_id: str) -> TransactionStatus: ...
    def cancel(
        self, merchant_id: str, cancellation: Cancellation, *, may_send: Callable[[], bool]
    ) -> CancellationAccepted: ...


@dataclass(frozen=True)
class UpstreamSaid:
    """What Indodana answered, for the record. `body` is redacted."""

    status: int | None
    body: str | None
    sha256: str | None = None


def error_said(error: IndodanaError) -> tuple[str | None, str | None]:
    """Upstream's own error kind and message as short, redacted text that can be stored and sent."""
    message = error.message
    if message is not None and not isinstance(message, str):
        message = simplejson.dumps(message, use_decimal=True)
    return _short(error.kind), _short(message)


def said(error: IndodanaError) -> UpstreamSaid | None:
    return None if error.http_status is None else UpstreamSaid(error.http_status, redact(error.body))


def accepted_said(accepted: CancellationAccepted) -> UpstreamSaid:
    return UpstreamSaid(accepted.http_status, redact(accepted.body))


def _short(text: str | None) -> str | None:
    return None if text is None else redact(text)[:MAX_TEXT]
