"""The emulator that the tests here share."""

from collections.abc import Iterator
from pathlib import Path

import pytest

from devstack.aws import AwsServer
from tests.devstack.account import Account


@pytest.fixture(scope="module")
def endpoint_url() -> Iterator[str]:
    with pytest.MonkeyPatch.context() as patch, AwsServer() as server:
        patch.delenv("AWS_PROFILE", raising=False)
        patch.setenv("AWS_ACCESS_KEY_ID", "local")
        patch.setenv("AWS_SECRET_ACCESS_KEY", "local")
        patch.setenv("AWS_DEFAULT_REGION", "ap-southeast-3")
        yield server.url


@pytest.fixture
def account(endpoint_url: str, tmp_path: Path) -> Account:
    return Account(endpoint_url, tmp_path)
