from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from devstack.cloudformation import SENDER_ID
from testkit.certificates import self_signed
from testkit.indodana.control_client import SimulatorControl
from testkit.indodana.simulator import Simulator
from testkit.ministack import ACCOUNT, Ministack
from tests.aws.deployment import Deployment


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
            "QueueSenders": f"{SENDER_ID}=m1,{SENDER_ID}=m2",
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
