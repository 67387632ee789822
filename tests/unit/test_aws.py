"""The AWS clients, as AWS sees them."""

from __future__ import annotations

from typing import Any

import boto3
import pytest
from botocore.awsrequest import AWSPreparedRequest

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
