from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path

import boto3
import pytest

from devstack.cloudformation import SENDER_ID
from testkit.certificates import self_signed
from testkit.indodana.control_client import SimulatorControl
from testkit.indodana.simulator import Simulator
from testkit.ministack import ACCOUNT, REGION, ROOT_KEYS, Ministack
from tests.aws.deployment import BACK_OFFICE, TAKEN_BY_LAMBDA, Deployment
from tests.aws.function import trust


@pytest.fixture(scope="package")
def certificate(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return self_signed(tmp_path_factory.mktemp("certificate"))


@pytest.fixture(scope="package")
def ministack(tmp_path_factory: pytest.TempPathFactory, certificate: Path) -> Iterator[Ministack]:
    """It enforces IAM, and listens for TLS: the queues' policy refuses anything else."""
    with Ministack(tmp_path_factory.mktemp("ministack"), enforce_iam=True, certificate=certificate) as emulator:
        yield emulator


@pytest.fixture(scope="package")
def indodana_control(indodana: Simulator) -> SimulatorControl:
    return SimulatorControl(indodana.control_url)


def role_that_sends(ministack: Ministack, certificate: Path) -> str:
    """The unique id of a role that may send to every queue, as far as its own policy goes: a back office's."""
    trust(certificate)
    iam = boto3.client(  # type: ignore[call-overload]
        "iam", endpoint_url=ministack.url, region_name=REGION, verify=str(certificate), **ROOT_KEYS
    )
    role = iam.create_role(RoleName=BACK_OFFICE, AssumeRolePolicyDocument=TAKEN_BY_LAMBDA)["Role"]
    send = {"Effect": "Allow", "Action": ["sqs:SendMessage", "sqs:SendMessageBatch"], "Resource": "*"}
    policy = json.dumps({"Version": "2012-10-17", "Statement": [send]})
    iam.put_role_policy(RoleName=BACK_OFFICE, PolicyName="send", PolicyDocument=policy)
    return str(role["RoleId"])


@pytest.fixture(scope="package")
def deployment(
    ministack: Ministack, certificate: Path, indodana: Simulator, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[Deployment]:
    stack = Deployment(
        ministack,
        certificate,
        tmp_path_factory.mktemp("functions"),
        "qris-gateway",
        {
            "MerchantId": "m1",
            "MerchantClaim": "merchant_id",
            "MerchantIds": "m1,m2",
            "QueueSenders": f"{SENDER_ID}=m1,{SENDER_ID}=m2,{role_that_sends(ministack, certificate)}=m1",
            "JwtIssuer": "https://issuer.example",
            "JwtAudience": "gateway",
            "AuditBreakGlassRoleArn": f"arn:aws:iam::{ACCOUNT}:role/break-glass",
            "SecretReaderArns": f"arn:aws:iam::{ACCOUNT}:role/reader",
        },
        indodana.upstream_url,
    )
    stack.store_merchants_secrets()
    yield stack
    stack.stop()
