"""The functions' configuration: environment variables that template.yaml sets, read once into one typed object."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from refunds.model import AmbiguousRefunds
from refunds.validation import MERCHANT_ID, MERCHANT_ID_RULE


class SettingsError(Exception):
    """An environment variable is missing or wrong; says which, and what would be right."""


@dataclass(frozen=True)
class Settings:
    indodana_url: str
    indodana_base_path: str
    indodana_status_version: str
    indodana_cancellation_version: str
    secret_prefix: str
    merchant_id: str  # the merchant of a queue message that names none and, without a claim, of every caller
    merchant_ids: frozenset[str]  # all that the stack serves
    merchant_claim: str  # empty: the stack serves one merchant
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

        merchant_id = required("MERCHANT_ID")
        if not MERCHANT_ID.fullmatch(merchant_id):
            raise SettingsError(f"MERCHANT_ID {MERCHANT_ID_RULE}")
        receive_count = required("MAX_RECEIVE_COUNT")
        if not receive_count.isdecimal() or int(receive_count) < 1:
            raise SettingsError("MAX_RECEIVE_COUNT must be a whole number from 1: the refund queue's maxReceiveCount")
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
            ledger_table=required("LEDGER_TABLE"),
            audit_table=required("AUDIT_TABLE"),
            refund_queue_url=required("REFUND_QUEUE_URL"),
            refund_dead_letter_queue_url=required("REFUND_DEAD_LETTER_QUEUE_URL"),
            max_receive_count=int(receive_count),
            ambiguous_refunds=AmbiguousRefunds(ambiguous),
            merchant_ids=frozenset({merchant_id, "m1", "m2"}),
            resolution_hold_seconds=600,
            conflict_kinds_not_done=frozenset(),
            conflict_kinds_done=frozenset(),
        )
