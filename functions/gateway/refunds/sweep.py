"""The sweep: one pass over all open refunds, which may take several recovery runs. Where it stands is in the ledger's
table, in a partition that no merchant can have.

A run moves the position past a page before it works on the page. So a page that kills its process costs only itself a
sweep, and the pages after it are reached. Correctness depends on none of this: without the item, or with an old one,
recovery looks at refunds again or in another order.
"""

from __future__ import annotations

import uuid
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from datetime import datetime
from typing import TYPE_CHECKING, Any

from botocore.exceptions import BotoCoreError, ClientError

from gateway.core.dynamodb import Item, from_item, to_item
from gateway.core.errors import LedgerUnavailable
from gateway.core.ledger import INDEX_KEY_ATTRIBUTES
from gateway.core.model import from_iso, iso

if TYPE_CHECKING:
    from mypy_boto3_dynamodb import DynamoDBClient

KEY: Item = {"pk": {"S": "#recovery"}, "sk": {"S": "SWEEP"}}


@dataclass(frozen=True)
class Totals:
    """What the sweep has found so far, over all its runs."""

    queued: int = 0
    submitting: int = 0
    unknown: int = 0
    unreadable: int = 0


@dataclass(frozen=True)
class Sweep:
    start: Item | None = None  # the key in the index after which the next page starts; None: at the beginning
    totals: Totals = Totals()
    logged: Mapping[str, datetime] = field(default_factory=dict)  # unreadable items, and when each was logged
    seen: Item | None = None  # the `token` attribute as it was read; each write replaces it


class SweepStore:
    def __init__(self, client: DynamoDBClient, table: str) -> None:
        self._client = client
        self._table = table

    def read(self) -> Sweep:
        """The beginning of a new sweep if nothing usable is stored. Raises LedgerUnavailable."""
        wanted: Any = {self._table: {"Keys": [KEY], "ConsistentRead": True}}
        try:
            answer = self._client.batch_get_item(RequestItems=wanted)
        except (ClientError, BotoCoreError) as error:
            raise LedgerUnavailable("the sweep's position could not be read") from error
        if answer.get("UnprocessedKeys"):
            raise LedgerUnavailable("DynamoDB did not return the sweep's position")
        return _sweep_in(answer["Responses"].get(self._table, []))

    def move(self, before: Sweep, after: Sweep) -> Sweep | None:
        """Stores `after` if the item is still as `before` was read; None: another run has moved it since.

        Raises LedgerUnavailable.
        """
        token = {"S": uuid.uuid4().hex}
        condition: dict[str, Any] = {"ConditionExpression": "attribute_not_exists(#token)"}
        if before.seen:
            condition = {"ConditionExpression": "#token = :seen", "ExpressionAttributeValues": {":seen": before.seen}}
        try:
            self._client.put_item(
                TableName=self._table,
                Item=KEY | {"token": token} | _written(after),
                ExpressionAttributeNames={"#token": "token"},
                ReturnValuesOnConditionCheckFailure="ALL_OLD",
                **condition,
            )
        except self._client.exceptions.ConditionalCheckFailedException as failed:
            current: Any = failed.response.get("Item", {})
            if current.get("token") != token:  # else it is this very write, sent twice by the SDK
                return None
        except (ClientError, BotoCoreError) as error:
            raise LedgerUnavailable("the sweep's position could not be written") from error
        return replace(after, seen=token)


def _written(sweep: Sweep) -> Item:
    start = {name: value["S"] for name, value in sweep.start.items()} if sweep.start else None
    logged = {name: iso(at) for name, at in sweep.logged.items()}
    return to_item({"start": start, "totals": vars(sweep.totals), "logged": logged})


def _is_key(start: Mapping[str, Any]) -> bool:
    """Else DynamoDB would refuse it at each run."""
    return start.keys() == INDEX_KEY_ATTRIBUTES and all(isinstance(text, str) and text for text in start.values())


def _sweep_in(found: list[Any]) -> Sweep:
    if not found:
        return Sweep()
    item: Item = found[0]
    seen = item.get("token")
    try:
        values = from_item(item)
        start = values.get("start")
        if start is not None and not _is_key(start):
            return Sweep(seen=seen)
        return Sweep(
            start=None if start is None else {name: {"S": text} for name, text in start.items()},
            totals=Totals(**{name: int(count) for name, count in values["totals"].items()}),
            logged={name: from_iso(at) for name, at in values["logged"].items()},
            seen=seen,
        )
    except (ArithmeticError, AttributeError, LookupError, TypeError, ValueError):
        return Sweep(seen=seen)  # written by another release, or by hand: a new sweep begins
