"""The AWS clients. Each is created on first use: no function needs all of them."""

from __future__ import annotations

import json
from functools import cached_property
from http import HTTPStatus
from typing import TYPE_CHECKING, Any

import boto3
import botocore.httpsession
from botocore.config import Config

from gateway.runtime import tls

if TYPE_CHECKING:
    from mypy_boto3_dynamodb import DynamoDBClient
    from mypy_boto3_secretsmanager import SecretsManagerClient
    from mypy_boto3_sqs import SQSClient

# The batch size of the queue, whose messages are processed in parallel.
CONCURRENT_CALLS = 10

# CloudTrail shows it. Set here because botocore builds its own twice in every call: 8 % of a batch's CPU.
USER_AGENT = f"qris-gateway Boto3/{boto3.__version__}"

# DynamoDB and SQS answer in milliseconds or not at all. Both tries, with a wait of up to 1 s between them, end within
# the protocol's SETTLE_SECONDS.
AWS_CONFIG = Config(
    connect_timeout=1,
    read_timeout=2,
    # The gateway's calls are tested, and AWS validates them too: validating here takes 9 % of a warm refund.
    parameter_validation=False,
    retries={"mode": "standard", "total_max_attempts": 2},
    max_pool_connections=CONCURRENT_CALLS,
    user_agent=USER_AGENT,
)
# Within the layer's SECRETS_SECONDS, which is part of the time budget of every call to Indodana. So there is one try,
# and the layer's own second one on a new connection. If both fail, the cached credentials are used.
SECRETS_CONFIG = Config(
    connect_timeout=1,
    read_timeout=1.5,
    retries={"mode": "standard", "total_max_attempts": 1},
    user_agent=USER_AGENT,
)

# botocore has no other way to set a TLS context; tls.py says why it is needed.
botocore.httpsession.create_urllib3_context = tls.context


def _take_items(response_dict: dict[str, Any], customized_response_dict: dict[str, Any], **_: object) -> None:
    """Keeps a scan's items from botocore's parser: it looks for all ten types of a value in each value, which is more
    than half of what a recovery run over many open refunds computes. In JSON they have the form that it gives them,
    except for binary values, which no item has."""
    if response_dict["status_code"] == HTTPStatus.OK:
        body = json.loads(response_dict["body"])
        customized_response_dict["Items"] = body.pop("Items")
        response_dict["body"] = json.dumps(body).encode()


class AwsClients:
    @cached_property
    def dynamodb(self) -> DynamoDBClient:
        client = boto3.client("dynamodb", config=AWS_CONFIG)
        client.meta.events.register("before-parse.dynamodb.Scan", _take_items)
        return client

    @cached_property
    def sqs(self) -> SQSClient:
        return boto3.client("sqs", config=AWS_CONFIG)

    @cached_property
    def secretsmanager(self) -> SecretsManagerClient:
        return boto3.client("secretsmanager", config=SECRETS_CONFIG)
