"""An AWS account that moto makes in this process, with the bucket and the stack that SAM keeps for itself."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from functools import cache
from typing import Any

import boto3
import pytest
from moto import mock_aws

from deploy import account, history
from deploy.target import Target

REGION = "ap-southeast-3"
STACK = "qris-gateway-staging"
BUCKET = "aws-sam-cli-managed-default-samclisourcebucket-1"


SESSION: Any = boto3.Session(region_name=REGION)


@cache
def client(service: str, region: str) -> Any:
    """Shared by all tests: making one takes longer than what they do with it."""
    return SESSION.client(service, region_name=region)


@dataclass
class Account:
    """In place of boto3.Session: its clients, but those that a test replaces, by service or by service and region."""

    replaced: dict[str, Any] = field(default_factory=dict)

    def client(self, service: str, region_name: str = REGION, **_: Any) -> Any:
        for name in (f"{service} {region_name}", service):
            if name in self.replaced:
                return self.replaced[name]
        return client(service, region_name)

    def stack(self) -> account.Stack:
        found = account.describe(self, STACK)
        assert found
        return found

    def deploy(self, template: str, parameters: Mapping[str, str], name: str = STACK) -> None:
        """As SAM does in the end."""
        cloudformation = self.client("cloudformation")
        make = cloudformation.update_stack if account.describe(self, name) else cloudformation.create_stack
        values = [{"ParameterKey": key, "ParameterValue": value} for key, value in parameters.items()]
        tags = [{"Key": "Application", "Value": "qris-gateway"}]
        make(StackName=name, TemplateBody=template, Parameters=values, Tags=tags)


@pytest.fixture
def aws(monkeypatch: pytest.MonkeyPatch) -> Iterator[Account]:
    monkeypatch.delenv("AWS_ENDPOINT_URL", raising=False)
    with mock_aws():
        found = Account()
        found.client("s3").create_bucket(Bucket=BUCKET, CreateBucketConfiguration={"LocationConstraint": REGION})
        output = f"Outputs: {{SourceBucket: {{Value: {BUCKET}}}}}"
        found.deploy("Resources: {None: {Type: AWS::SQS::Queue}}\n" + output, {}, history.SAM_STACK)
        monkeypatch.setattr(account, "session", lambda target: found)
        yield found


@pytest.fixture
def target() -> Target:
    return Target("staging", STACK, REGION, None, {})
