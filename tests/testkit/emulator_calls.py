"""What an operation of a client came to, in a form that can be compared."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from decimal import Decimal
from typing import Any

import pytest
from botocore.exceptions import ClientError

INDEX = "open-refunds"
KEY = {"pk": {"S": "m1#A"}, "sk": {"S": "ORDER"}}
OTHER_KEY = {"pk": {"S": "m1#A"}, "sk": {"S": "REFUND#1"}}


def outcome(dynamodb: Any, operation: str, arguments: dict[str, Any]) -> Any:
    try:
        answer = dict(getattr(dynamodb, operation)(**arguments))
    except ClientError as error:
        response: Any = error.response
        return plain(
            (
                type(error).__name__,
                error.operation_name,
                response["Error"]["Code"],
                response.get("Item"),
                response.get("CancellationReasons"),
            )
        )
    for unasked in ("ResponseMetadata", "ConsumedCapacity", "ItemCollectionMetrics"):  # as moto gives them
        answer.pop(unasked, None)
    return plain(answer)


def plain(value: Any) -> Any:
    """Numbers as numbers: moto keeps them as they were written."""
    if isinstance(value, dict):
        return {name: Decimal(part) if name == "N" else plain(part) for name, part in value.items()}
    return [plain(part) for part in value] if isinstance(value, list | tuple) else value


def pages(dynamodb: Any, operation: str, arguments: dict[str, Any]) -> Iterator[Any]:
    start: dict[str, Any] = {}
    while True:
        answer = outcome(dynamodb, operation, {**arguments, **start})
        yield answer
        if "LastEvaluatedKey" not in answer:
            return
        start = {"ExclusiveStartKey": answer["LastEvaluatedKey"]}


def everything(dynamodb: Any, table: str) -> Any:
    items = [item for page in pages(dynamodb, "scan", {"TableName": table}) for item in page["Items"]]
    return sorted(items, key=lambda item: (item["pk"]["S"], item["sk"]["S"]))


def code_of(call: Callable[..., Any], **arguments: Any) -> Any:
    with pytest.raises(ClientError) as caught:
        call(**arguments)
    return caught.value.response["Error"]["Code"]
