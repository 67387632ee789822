"""The domain's types (refund, order, request), and the rules for an order's sums."""

from __future__ import annotations

import hashlib
import json
import unicodedata
import uuid
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime, timedelta
from decimal import Decimal
from enum import StrEnum
from functools import cached_property
from typing import Any

from gateway.core.context import RequestContext
from gateway.core.errors import IllegalTransition
from gateway.core.transitions import OPEN_STATUSES, RefundStatus

REFUND_ID_LENGTH = 32  # Indodana documents no limit for refundId; 32 is what it documents for merchantOrderId


class Reason(StrEnum):
    EXPIRED = "EXPIRED"
    OUT_OF_STOCK = "OUT_OF_STOCK"
    ITEMS_RETURNED = "ITEMS_RETURNED"
    OTHERS = "OTHERS"


class AmbiguousRefunds(StrEnum):
    """What happens to a refund whose outcome is unknown: an operator's review, or another submission."""

    REVIEW = "review"
    RESUBMIT = "resubmit"


class EvidenceSource(StrEnum):
    """Where a person looked up a refund's outcome."""

    SETTLEMENT_REPORT = "SETTLEMENT_REPORT"
    INDODANA_DASHBOARD = "INDODANA_DASHBOARD"
    INDODANA_SUPPORT = "INDODANA_SUPPORT"
    BANK_STATEMENT = "BANK_STATEMENT"


class FailureCode(StrEnum):
    """Why a refund failed. Callers branch on these: never rename one."""

    ORDER_NOT_FOUND = "ORDER_NOT_FOUND"
    TRANSACTION_NOT_PAID = "TRANSACTION_NOT_PAID"
    AMOUNT_EXCEEDS_REFUNDABLE = "AMOUNT_EXCEEDS_REFUNDABLE"
    UPSTREAM_REFUSED = "UPSTREAM_REFUSED"
    RESOLVED_AS_FAILED = "RESOLVED_AS_FAILED"
    WITHDRAWN = "WITHDRAWN"


@dataclass(frozen=True)
class Failure:
    code: FailureCode
    detail: str
    upstream_status: int | None = None
    upstream_kind: str | None = None
    upstream_message: str | None = None  # redacted


@dataclass(frozen=True)
class OrderKey:
    merchant_id: str
    merchant_order_id: str

    @property
    def partition(self) -> str:
        # Neither part can hold a '#', so no two orders share a partition.
        return f"{self.merchant_id}#{self.merchant_order_id}"


@dataclass(frozen=True)
class RefundRequest:
    """A validated request. `amount` is in rupiah; None means all that remains."""

    order: OrderKey
    idempotency_key: str
    amount: Decimal | None
    reason: Reason
    note: str | None
    requested_by: str
    # The key as sent, if its canonical form differs: earlier releases stored refunds under it.
    spelled_key: str | None = field(default=None, compare=False)
    # The key is a comma-separated list: it can only name a refund that an earlier release made.
    replay_only: bool = field(default=False, compare=False)

    @cached_property
    def refund_id(self) -> str:
        """Derived from order and key, so that every retry and redelivery finds the same refund."""
        return _refund_id(self.order, self.idempotency_key)

    @cached_property
    def spelled_refund_id(self) -> str | None:
        """The id that earlier releases derived from the key as sent."""
        return None if self.spelled_key is None else _refund_id(self.order, self.spelled_key)

    @property
    def refund_ids(self) -> list[str]:
        """The ids under which the ledger may have the refund."""
        return [self.refund_id] + ([self.spelled_refund_id] if self.spelled_refund_id else [])

    def asks_the_same_as(self, other: RefundRequest) -> bool:
        """Whether both ask for the same refund, apart from the key. Earlier releases stored texts as sent, so both
        texts are normalized first."""
        return (self.order, self.amount, self.reason, _normalized(self.note), _normalized(self.requested_by)) == (
            *(other.order, other.amount, other.reason),
            *(_normalized(other.note), _normalized(other.requested_by)),
        )


@dataclass(frozen=True)
class RefundPointer:
    """Names a refund that is on record, and says nothing else about it: the ledger has what was requested."""

    order: OrderKey
    refund_id: str

    @property
    def refund_ids(self) -> list[str]:
        return [self.refund_id]


def _refund_id(order: OrderKey, key: str) -> str:
    identity = json.dumps([order.merchant_id, order.merchant_order_id, key])
    return hashlib.sha256(identity.encode()).hexdigest()[:REFUND_ID_LENGTH]


def _normalized(text: str | None) -> str | None:
    return None if text is None else unicodedata.normalize("NFC", text)


@dataclass(frozen=True)
class Evidence:
    """Where and when a person checked a refund's outcome, and the reference found there."""

    source: EvidenceSource
    reference: str
    checked_at: datetime
    note: str | None = None


@dataclass(frozen=True)
class Resolution:
    """An operator's decision on an UNKNOWN refund; `outcome` is SUCCEEDED or FAILED."""

    outcome: RefundStatus
    evidence: Evidence


@dataclass(frozen=True)
class Order:
    """An order's sums in rupiah: refunded + reserved + refundable = amount, always."""

    amount: Decimal
    refundable: Decimal
    reserved: Decimal = Decimal(0)
    refunded: Decimal = Decimal(0)
    stored: bool = True  # False: known only from Indodana; its first refund adds it to the ledger

    @classmethod
    def opened_by(cls, transaction_status: str, amount: Decimal | None) -> Order | Failure | None:
        """A new order from Indodana's answer: it must be PAID, and its amount becomes refundable.

        None: the answer has no amount.
        """
        if transaction_status != "PAID":
            detail = f"only a PAID transaction can be refunded; this one is {transaction_status}"
            return Failure(FailureCode.TRANSACTION_NOT_PAID, detail)
        if amount is None:
            return None
        return cls(amount=amount, refundable=amount, stored=False)

    def shortfall(self, amount: Decimal | None) -> Failure | None:
        """Why `amount` (None: all that remains) can't be refunded; None if it can."""
        if self.refundable > 0 and (amount is None or amount <= self.refundable):
            return None
        asked = "all that remains" if amount is None else f"{amount} rupiah"
        detail = (
            f"requested: {asked}; refundable: {self.refundable} rupiah ({self.amount} paid, {self.refunded} refunded, "
            f"{self.reserved} reserved by open refunds)"
        )
        return Failure(FailureCode.AMOUNT_EXCEEDS_REFUNDABLE, detail)

    def plus(self, change: SumsChange) -> Order:
        """The sums after a transition. Raises IllegalTransition if the refund would reserve more than is refundable."""
        if self.refundable + change.refundable < 0:
            raise IllegalTransition("a refund must not reserve more than is refundable")
        return replace(
            self,
            refundable=self.refundable + change.refundable,
            reserved=self.reserved + change.reserved,
            refunded=self.refunded + change.refunded,
        )


@dataclass(frozen=True)
class SumsChange:
    """What a transition adds to its order's sums; the three changes add up to zero."""

    reserved: Decimal
    refunded: Decimal

    @classmethod
    def between(cls, before: Refund | None, after: Refund) -> SumsChange:
        return cls(
            after.held_reserved - (before.held_reserved if before else Decimal(0)),
            after.held_refunded - (before.held_refunded if before else Decimal(0)),
        )

    @property
    def refundable(self) -> Decimal:
        return -(self.reserved + self.refunded)

    def __bool__(self) -> bool:
        return bool(self.reserved or self.refunded)


@dataclass(frozen=True)
class Refund:
    request: RefundRequest
    status: RefundStatus
    created_by: str
    created_at: datetime
    updated_at: datetime
    version: int  # counts the transitions; the ledger's optimistic lock
    transition_id: str  # of the last transition, to recognise a write whose response was lost
    correlation_id: str | None = None  # of the first request; later steps without their own id use it, too
    reserved_amount: Decimal | None = None  # None until the amount was first reserved
    transaction_amount: Decimal | None = None
    attempts: int = 0  # attempts so far, whether or not they reached a submission
    ambiguous: bool = False  # an attempt may have reached Indodana, and its outcome is unknown
    lease_until: datetime | None = None  # SUBMITTING: until then the submission belongs to the process that began it
    sendable_until: datetime | None = None  # the end of the last lease: until then its POST could have been sent
    next_attempt_at: datetime | None = None  # no attempt before it; None: an operator must decide first
    queue_message: str | None = None  # QUEUED: the one message that carries it (RequestContext.carrier)
    enqueued_at: datetime | None = None  # when recovery last sent a message for it because it was overdue
    decision_id: str | None = None  # of the person's decision that settled it, to recognise a repeated decision
    failure: Failure | None = None

    @property
    def refund_id(self) -> str:
        return self.request.refund_id

    @property
    def amount(self) -> Decimal | None:
        """Rupiah; None if all that remains was requested and nothing is reserved yet."""
        return self.reserved_amount if self.reserved_amount is not None else self.request.amount

    @property
    def is_full(self) -> bool | None:
        """Whether it is the full amount of the transaction; None if that is not known yet."""
        return None if self.transaction_amount is None else self.amount == self.transaction_amount

    @property
    def held_reserved(self) -> Decimal:
        """Its part of the order's `reserved`."""
        return self.reserved_amount or Decimal(0) if self.status in OPEN_STATUSES else Decimal(0)

    @property
    def held_refunded(self) -> Decimal:
        """Its part of the order's `refunded`."""
        return self.reserved_amount or Decimal(0) if self.status is RefundStatus.SUCCEEDED else Decimal(0)

    def transition_to(self, status: RefundStatus, at: datetime, **changes: Any) -> Refund:
        """The refund after one transition. `updated_at` always increases, even if machines' clocks differ."""
        return replace(
            self,
            status=status,
            updated_at=max(at, self.updated_at + timedelta(microseconds=1)),
            version=self.version + 1,
            transition_id=new_transition_id(),
            **changes,
        )


def new_refund(
    request: RefundRequest, status: RefundStatus, at: datetime, context: RequestContext, **changes: Any
) -> Refund:
    return Refund(
        request=request,
        status=status,
        created_by=context.actor,
        created_at=at,
        updated_at=at,
        version=1,
        transition_id=new_transition_id(),
        correlation_id=context.known_as,
        **changes,
    )


def new_transition_id() -> str:
    return uuid.uuid4().hex


def utc_now() -> datetime:
    return datetime.now(UTC)


def iso(at: datetime) -> str:
    """ISO 8601 in UTC at a fixed width, so that times sort as text."""
    return at.astimezone(UTC).strftime("%Y-%m-%dT%H:%M:%S.%fZ")


def from_iso(text: str) -> datetime:
    return datetime.fromisoformat(text)
