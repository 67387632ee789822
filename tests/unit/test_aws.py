"""The AWS clients, as AWS sees them."""

from __future__ import annotations

import json
from collections.abc import Iterator
from typing import Any

import boto3
import pytest
from botocore.awsrequest import AWSPreparedRequest, AWSResponse
from botocore.compat import HTTPHeaders

from gateway.runtime.aws import AwsClients


class Snapshot(Exception):
    """The request got as far as the wire."""


@pytest.mark.parametrize(
    ("service", "operation", "request_of_it"),
    [
        ("dynamodb", "get_item", {"TableName": "t", "Key": {}}),
        ("sqs", "send_message", {"QueueUrl": "https://sqs.ap-southeast-3.amazonaws.com/1/q", "MessageBody": "{}"}),
        ("secretsmanager", "get_secret_value", {"SecretId": "s"}),
    ],
)
def test_cloudtrail_shows_who_called(service: str, operation: str, request_of_it: dict[str, Any]) -> None:
    client = getattr(AwsClients(), service)
    sent: list[AWSPreparedRequest] = []

    def see(request: AWSPreparedRequest, **_: object) -> None:
        sent.append(request)
        raise Snapshot

    client.meta.events.register("before-send", see)
    with pytest.raises(Snapshot):
        getattr(client, operation)(**request_of_it)

    [request] = sent
    agent: Any = request.headers["User-Agent"]
    assert agent.decode().startswith(f"qris-gateway Boto3/{boto3.__version__}")


ITEM = {
    "pk": {"S": "m1#ORDER-1"},
    "count": {"N": "100000.50"},
    "ambiguous": {"BOOL": False},
    "gone": {"NULL": True},
    "totals": {"M": {"queued": {"N": "1"}, "deep": {"M": {"list": {"L": [{"S": "a"}, {"M": {}}]}}}}},
    "names": {"SS": ["a", "b"]},
    "emoji": {"S": "\u00a7 \U0001f600"},
}


@pytest.mark.parametrize("items", [[], [ITEM, ITEM | {"pk": {"S": "m1#ORDER-2"}}]])
def test_a_scans_items_are_as_botocores_own_parser_gives_them(items: list[Any]) -> None:
    """They bypass it, because it takes most of the time of a large page."""
    key = {"pk": {"S": "m1#ORDER-2"}}
    content = {"Items": items, "Count": len(items), "ScannedCount": len(items), "LastEvaluatedKey": key}
    ours, theirs = AwsClients().dynamodb, boto3.client("dynamodb")

    answers = [answered(client, 200, content).scan(TableName="t") for client in (ours, theirs)]

    for answer in answers:
        del answer["ResponseMetadata"]
    assert answers[0] == answers[1] == content


def test_a_scan_that_is_refused_raises_its_error() -> None:
    error = {"__type": "com.amazonaws.dynamodb.v20120810#ResourceNotFoundException", "message": "not found"}
    client = answered(AwsClients().dynamodb, 400, error)
    with pytest.raises(client.exceptions.ResourceNotFoundException, match="not found"):
        client.scan(TableName="t")


def answered(client: Any, status: int, content: dict[str, Any]) -> Any:
    """Without a connection: what `before-send` returns is the answer."""

    class Raw:
        def stream(self) -> Iterator[bytes]:
            yield json.dumps(content).encode()

    def answer(**_: object) -> AWSResponse:
        headers = HTTPHeaders.from_dict({"content-type": "application/x-amz-json-1.0"})
        return AWSResponse("https://dynamodb", status, headers, Raw())

    client.meta.events.register("before-send.dynamodb.Scan", answer)
    return client
