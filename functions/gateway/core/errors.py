"""The domain's errors. A refused refund is not an error but a result."""

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
    """The caller's input breaks a rule; `errors` has each field and its rule."""

    def __init__(self, *errors: FieldError) -> None:
        super().__init__("; ".join(f"{error.field}: {error.detail}" for error in errors))
        self.errors = errors


class BodyTooLarge(InvalidRequest):
    """The body is larger than any refund needs."""


class IdempotencyKeyReused(RefundsError):
    """The idempotency key was already used for a different request."""

    def __init__(self, refund: Refund) -> None:
        super().__init__(
            "this idempotency key was already used for this order with different content: send the same content to get "
            "that refund again, or use a new key for a new refund"
        )
        self.refund = refund


class NotFound(RefundsError):
    """The merchant has no such order or refund."""


class NotPermitted(RefundsError):
    """The caller may not do this to this refund."""


class DecisionRefused(RefundsError):
    """The refund as it is now (`refund`) does not allow the decision."""

    def __init__(self, refund: Refund, text: str) -> None:
        super().__init__(text)
        self.refund = refund


def _since(refund: Refund) -> str:
    return f"{refund.status} since {refund.updated_at:%Y-%m-%d %H:%M:%S} UTC"


class StaleVersion(DecisionRefused):
    """The decision was made on an older version of the refund."""

    def __init__(self, refund: Refund) -> None:
        super().__init__(
            refund,
            f"the refund has changed: it is now {refund.status}, version {refund.version}; read it again and decide on "
            "that version",
        )


class NotResolvable(DecisionRefused):
    """Only an UNKNOWN refund can be resolved."""

    def __init__(self, refund: Refund) -> None:
        super().__init__(
            refund,
            f"only an UNKNOWN refund can be resolved; this one is {_since(refund)}; to withdraw a QUEUED refund, use "
            "POST …/withdrawal",
        )


class NotWithdrawable(DecisionRefused):
    """Only a refund that cannot have been sent can be withdrawn."""

    def __init__(self, refund: Refund) -> None:
        super().__init__(
            refund,
            f"only a QUEUED refund can be withdrawn; this one is {_since(refund)}; to settle an UNKNOWN refund, use "
            "POST …/resolution",
        )


class ResolutionTooEarly(DecisionRefused):
    """The evidence is from a time at which Indodana could still have made the refund."""

    def __init__(self, refund: Refund, checked_from: datetime, retry_after_seconds: float) -> None:
        super().__init__(
            refund,
            f"evidence.checkedAt must be {checked_from:%Y-%m-%d %H:%M:%S} UTC or later and not in the future: until "
            "then Indodana may still make the refund; check again after that time",
        )
        self.retry_after_seconds = retry_after_seconds


class LedgerUnavailable(RefundsError):
    """A DynamoDB call failed; a write may have taken effect or not."""


class UnreadableItem(LedgerUnavailable):
    """An item of the ledger is not one that this release can read, so it cannot tell what is on record."""

    def __init__(self, pk: str, sk: str) -> None:
        super().__init__(f"unreadable item in the ledger: {pk} / {sk}")


class LedgerBusy(LedgerUnavailable):
    """Too many refunds of the same order at the same time; nothing was written."""


class QueueUnavailable(RefundsError):
    """A message could not be sent to SQS."""


class RefundChanged(RefundsError):
    """The refund was not as the transition expected; `current` is the refund in the ledger."""

    def __init__(self, current: Refund) -> None:
        super().__init__(f"refund {current.refund_id} is {current.status} at version {current.version}")
        self.current = current


class OrderChanged(RefundsError):
    """The order's sums did not allow the transition; `current` is the order in the ledger."""

    def __init__(self, current: Order | None) -> None:
        super().__init__("the order's sums have changed")
        self.current = current


class IllegalTransition(RefundsError):
    """The code asked for a transition that is not legal: a defect of the gateway."""
