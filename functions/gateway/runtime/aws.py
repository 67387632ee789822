"""The AWS clients, each made when it is first asked for: no function needs all of them."""

from __future__ import annotations

from functools import cached_property
from typing import TYPE_CHECKING

import boto3
import botocore.httpsession
from botocore.config import Config

from gateway.runtime import tls

if TYPE_CHECKING:
    from mypy_boto3_dynamodb import DynamoDBClient
    from mypy_boto3_secretsmanager import SecretsManagerClient
    from mypy_boto3_sqs import SQSClient

# As wide as a batch of the queue, whose messages are worked at the same time.
CONCURRENT_CALLS = 10

# What CloudTrail shows. Given by us, for botocore puts its own together twice in every call: 8 % of a batch's CPU.
USER_AGENT = f"qris-gateway Boto3/{boto3.__version__}"

# The tables and the queue answer in milliseconds or not at all. One try must end within the protocol's SETTLE_SECONDS.
AWS_CONFIG = Config(
    connect_timeout=1,
    read_timeout=5,
    # What our own code says is tested, and DynamoDB checks it as well: to check it here is 9 % of a warm refund.
    parameter_validation=False,
    retries={"mode": "standard", "total_max_attempts": 3},
    max_pool_connections=CONCURRENT_CALLS,
    user_agent=USER_AGENT,
)
# Within the layer's SECRETS_SECONDS, which stand in the time of every call to Indodana: hence a single try, and the
# layer's own second one over a new connection. Where it fails, the credentials in the cache go on being used.
SECRETS_CONFIG = Config(
    connect_timeout=1,
    read_timeout=1.5,
    retries={"mode": "standard", "total_max_attempts": 1},
    user_agent=USER_AGENT,
)

# There is no other way to give botocore a context; tls.py says what it is for.
botocore.httpsession.create_urllib3_context = tls.context


class AwsClients:
    @cached_property
    def dynamodb(self) -> DynamoDBClient:
        return boto3.client("dynamodb", config=AWS_CONFIG)

    @cached_property
    def sqs(self) -> SQSClient:
        return boto3.client("sqs", config=AWS_CONFIG)

    @cached_property
    def secretsmanager(self) -> SecretsManagerClient:
        return boto3.client("secretsmanager", config=SECRETS_CONFIG)
