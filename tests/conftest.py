"""What every test may rely on: an emulated AWS, a simulated Indodana, and no way out of this machine."""

from __future__ import annotations

import io
import logging
import os
from collections.abc import Iterator

import pytest

from devstack.aws import AwsServer, prepare_environment, provision
from devstack.template import Model, Template
from testkit.indodana.control_client import SimulatorControl
from testkit.indodana.simulator import Simulator, merchant_secrets

prepare_environment()
os.environ |= {
    "POWERTOOLS_SERVICE_NAME": "qris-gateway",
    "POWERTOOLS_METRICS_NAMESPACE": "QrisGateway",
    # Each test's end empties the queues; AWS allows a PurgeQueue a minute.
    "MOTO_SQS_ENFORCE_STRICT_QUEUE_PURGE_BEHAVIOUR": "false",
}

from gateway.runtime import bootstrap, telemetry  # noqa: E402 - Powertools and boto3 read the environment on import
from gateway.runtime.settings import Settings  # noqa: E402
from tests.world import Clock, World  # noqa: E402


@pytest.fixture(scope="session")
def aws() -> Iterator[AwsServer]:
    with AwsServer() as server:
        yield server


@pytest.fixture(scope="session")
def indodana() -> Iterator[Simulator]:
    with Simulator() as simulator:
        yield simulator


@pytest.fixture(scope="session")
def template() -> Template:
    return Template.load_local()


@pytest.fixture
def logs() -> Iterator[io.StringIO]:
    """What the functions log while the test runs."""
    handlers = [handler for handler in telemetry.logger.handlers if isinstance(handler, logging.StreamHandler)]
    assert handlers
    stream = io.StringIO()
    before = [handler.setStream(stream) for handler in handlers]
    yield stream
    for handler, old in zip(handlers, before, strict=True):
        handler.setStream(old)


@pytest.fixture(scope="session")
def provisioned(aws: AwsServer, indodana: Simulator, template: Template) -> Model:
    """Tables, queues and secrets from template.yaml. Made once: it takes longer than most tests."""
    name = "test"
    prefix = f"{name}/"
    overrides = dict(template.parameters) | {"MerchantClaim": "merchant_id", "SecretPrefix": prefix}
    own = {"IndodanaUrl": indodana.upstream_url}
    stack = Template(template.document, stack_name=name, endpoint_url=aws.url, overrides=overrides, own=own)
    return stack.model(provision(stack.model(), aws.url, merchant_secrets(prefix)))


@pytest.fixture
def world(aws: AwsServer, indodana: Simulator, provisioned: Model, monkeypatch: pytest.MonkeyPatch) -> Iterator[World]:
    """Empty tables and queues, and every handler of this process working on them."""
    monkeypatch.setenv("AWS_ENDPOINT_URL", aws.url)
    world = World(Settings.from_environment(provisioned.environment()), SimulatorControl(indodana.control_url), Clock())
    monkeypatch.setattr(bootstrap, "gateway", lambda: world.gateway)
    yield world
    world.simulator.reset()
    world.clear()
