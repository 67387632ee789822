"""What can go wrong in the domain beyond a refused refund, which is an answer and not an error."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from datetime import datetime

    from gateway.core.model import Order, Refund


class RefundsError(Exception):
    """Base of the domain's errors."""


@dataclass(frozen=True)
class FieldError:
    field: str
    detail: str


class InvalidRequest(RefundsError):
    """The caller's input breaks a rule; `errors` names each field and what would be right."""

    def __init__(self, *errors: FieldError) -> None:
        super().__init__("; ".join(f"{error.field}: {error.detail}" for error in errors))
        self.errors = errors


class BodyTooLarge(InvalidRequest):
    """The body is larger than any refund needs."""


class IdempotencyKeyReused(RefundsError):
    """The idempotency key already names a refund that asked for something else."""

    def __init__(self, refund: Refund) -> None:
        super().__init__(
            "this idempotency key was used before on this order with another payload: repeat the first payload to get "
            "that refund again, or use a new key for a new refund"
        )
        self.refund = refund


class NotFound(RefundsError):
    """The merchant has no such thing on record."""


class NotPermitted(RefundsError):
    """The caller may not do this to this refund."""


class DecisionRefused(RefundsError):
    """A decision that does not hold for the refund as it is now; `refund` is what is on record."""

    def __init__(self, refund: Refund, text: str) -> None:
        super().__init__(text)
        self.refund = refund


def _since(refund: Refund) -> str:
    return f"{refund.status} since {refund.updated_at:%Y-%m-%d %H:%M:%S} UTC"


class StaleVersion(DecisionRefused):
    """The decision was made on another version of the refund than the one on record."""

    def __init__(self, refund: Refund) -> None:
        super().__init__(
            refund,
            f"the refund has changed: it is {refund.status} at version {refund.version}; read it again, and decide on "
            "that version",
        )


class NotResolvable(DecisionRefused):
    """Only an UNKNOWN refund can be resolved."""

    def __init__(self, refund: Refund) -> None:
        super().__init__(
            refund,
            f"the refund is {_since(refund)}, and only an UNKNOWN one can be resolved; a QUEUED one can be withdrawn "
            "by POST …/withdrawal",
        )


class NotWithdrawable(DecisionRefused):
    """Only a refund for which nothing can have been sent can be withdrawn."""

    def __init__(self, refund: Refund) -> None:
        super().__init__(
            refund,
            f"the refund is {_since(refund)}, and only a QUEUED one can be withdrawn; an UNKNOWN one is settled by "
            "POST …/resolution",
        )


class ResolutionTooEarly(DecisionRefused):
    """The evidence is from a time at which the refund could still have been done."""

    def __init__(self, refund: Refund, checked_from: datetime, retry_after_seconds: float) -> None:
        super().__init__(
            refund,
            f"evidence.checkedAt must be {checked_from:%Y-%m-%d %H:%M:%S} UTC or later and not in the future: until "
            "then Indodana may still carry the refund out, so look again after that time",
        )
        self.retry_after_seconds = retry_after_seconds


class LedgerUnavailable(RefundsError):
    """DynamoDB could not read or write now; whether a write took effect is not known."""


class LedgerBusy(LedgerUnavailable):
    """Too many refunds of the same order at once; this write was not made."""


class QueueUnavailable(RefundsError):
    """SQS did not take a message now."""


class RefundChanged(RefundsError):
    """The refund was not what the transition expected; `current` is what stands there."""

    def __init__(self, current: Refund) -> None:
        super().__init__(f"refund {current.refund_id} is {current.status} at version {current.version}")
        self.current = current


class OrderChanged(RefundsError):
    """The order's sums did not allow the transition; `current` is what stands there."""

    def __init__(self, current: Order | None) -> None:
        super().__init__("the order's sums have changed")
        self.current = current


class IllegalTransition(RefundsError):
    """The code asked for a step that no refund may take: a fault of the gateway."""
