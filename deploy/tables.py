"""The tables that a stack uses. With another one, or an empty one, refunds that were made could be made again."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

EXISTING = ("ExistingLedgerTable", "ExistingAuditTable")
INDEXES = {"ExistingLedgerTable": {"open-refunds"}, "ExistingAuditTable": set[str]()}


def in_use(parameters: Mapping[str, str]) -> dict[str, str]:
    """The existing tables that these parameters name."""
    return {name: parameters[name] for name in EXISTING if parameters.get(name)}


def flaws(dynamodb: Any, values: Mapping[str, str], stack: Mapping[str, str]) -> Iterator[str]:
    """`values` are those to be deployed, `stack` the deployed stack's. A table of another name than the stack's may be
    right: it was restored."""
    for name, table in in_use(stack).items():
        if not values.get(name):
            yield (
                f"{name} is {table} in the stack, and would be empty: the stack would create a new, empty table. Set "
                f"{name}={table}"
            )
    for name, table in in_use(values).items():
        try:
            found = dynamodb.describe_table(TableName=table)["Table"]
        except dynamodb.exceptions.ResourceNotFoundException:
            yield f"{name} is {table}, and there is no such table"
            continue
        missing = INDEXES[name] - {index["IndexName"] for index in found.get("GlobalSecondaryIndexes", [])}
        if missing:
            yield f"{name} is {table}, which has no index {', '.join(missing)}: it is not a ledger"
