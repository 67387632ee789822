"""The functions' configuration: environment variables that template.yaml sets, read once into one typed object."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass

from gateway.core.inputs import MERCHANT_ID, MERCHANT_ID_RULE
from gateway.core.model import AmbiguousRefunds

# A merchant that looks like a sender would be one for the queue's policy (RefundQueuesPolicy in template.yaml).
QUEUE_SENDER = re.compile(r"(?P<sender>(?:AROA|AIDA)[A-Z0-9]{12,124})=(?P<merchant>(?!AROA|AIDA)[A-Za-z0-9_-]{1,64})")
QUEUE_SENDER_RULE = (
    "must be the unique id of an AWS role (AROA…) or user (AIDA…), then =, then a merchant id that does not begin with "
    "AROA or AIDA"
)


class SettingsError(Exception):
    """An environment variable is missing or invalid; the text has its name and its rule."""


@dataclass(frozen=True)
class Settings:
    indodana_url: str
    indodana_base_path: str
    indodana_status_version: str
    indodana_cancellation_version: str
    secret_prefix: str
    merchant_id: str  # for queue messages without merchantId and, without merchant_claim, for every caller
    merchant_claim: str  # empty: the stack serves only merchant_id
    merchant_ids: frozenset[str]  # all merchants of the stack
    queue_senders: frozenset[tuple[str, str]]  # unique ids of AWS roles and users, and the merchant each may refund for
    scope_prefix: str  # the prefix that the identity provider adds to a scope
    ledger_table: str
    audit_table: str
    refund_queue_url: str
    refund_dead_letter_queue_url: str
    max_receive_count: int
    ambiguous_refunds: AmbiguousRefunds
    resolution_hold_seconds: int
    conflict_kinds_not_done: frozenset[str]
    conflict_kinds_done: frozenset[str]

    @classmethod
    def from_environment(cls, environment: Mapping[str, str]) -> Settings:
        """Raises SettingsError."""

        def required(name: str) -> str:
            if not environment.get(name):
                raise SettingsError(f"{name} is not set: template.yaml sets it for every function")
            return environment[name]

        def names(name: str) -> frozenset[str]:
            return frozenset(filter(None, environment.get(name, "").split(",")))

        def whole_number(name: str, least: int, what: str) -> int:
            text = required(name)
            if not re.fullmatch(r"[0-9]{1,9}", text) or int(text) < least:
                raise SettingsError(f"{name} must be a whole number from {least}: {what}")
            return int(text)

        merchant_id, merchant_ids = required("MERCHANT_ID"), names("MERCHANT_IDS")
        for name, merchants in (("MERCHANT_ID", {merchant_id}), ("MERCHANT_IDS", merchant_ids)):
            if not all(map(MERCHANT_ID.fullmatch, merchants)):
                raise SettingsError(f"{name} {MERCHANT_ID_RULE}")
        queue_senders = {_queue_sender(entry, merchant_ids | {merchant_id}) for entry in names("QUEUE_SENDERS")}
        not_done, done = names("CONFLICT_KINDS_NOT_DONE"), names("CONFLICT_KINDS_DONE")
        if both := not_done & done:
            raise SettingsError(
                f"CONFLICT_KINDS_DONE must not contain kinds of CONFLICT_KINDS_NOT_DONE: {', '.join(both)}"
            )
        ambiguous = required("AMBIGUOUS_REFUNDS")
        if ambiguous not in list(AmbiguousRefunds):
            raise SettingsError(f"AMBIGUOUS_REFUNDS must be one of {', '.join(AmbiguousRefunds)}")
        return cls(
            indodana_url=required("INDODANA_URL"),
            indodana_base_path=environment.get("INDODANA_BASE_PATH", ""),
            indodana_status_version=required("INDODANA_STATUS_VERSION"),
            indodana_cancellation_version=required("INDODANA_CANCELLATION_VERSION"),
            secret_prefix=required("SECRET_PREFIX"),
            merchant_id=merchant_id,
            merchant_claim=environment.get("MERCHANT_CLAIM", ""),
            merchant_ids=merchant_ids | {merchant_id},
            queue_senders=frozenset(queue_senders),
            scope_prefix=environment.get("SCOPE_PREFIX", ""),
            ledger_table=required("LEDGER_TABLE"),
            audit_table=required("AUDIT_TABLE"),
            refund_queue_url=required("REFUND_QUEUE_URL"),
            refund_dead_letter_queue_url=required("REFUND_DEAD_LETTER_QUEUE_URL"),
            max_receive_count=whole_number("MAX_RECEIVE_COUNT", 1, "the refund queue's maxReceiveCount"),
            ambiguous_refunds=AmbiguousRefunds(ambiguous),
            resolution_hold_seconds=whole_number("RESOLUTION_HOLD_SECONDS", 0, "ResolutionHoldSeconds"),
            conflict_kinds_not_done=not_done,
            conflict_kinds_done=done,
        )


def _queue_sender(entry: str, merchant_ids: frozenset[str]) -> tuple[str, str]:
    """Raises SettingsError."""
    if not (found := QUEUE_SENDER.fullmatch(entry)):
        raise SettingsError(f"QUEUE_SENDERS has {entry!r}, which {QUEUE_SENDER_RULE}")
    if found["merchant"] not in merchant_ids:
        raise SettingsError(f"QUEUE_SENDERS has {entry!r}, but MERCHANT_ID and MERCHANT_IDS do not have that merchant")
    return found["sender"], found["merchant"]
