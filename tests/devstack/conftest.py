"""What the tests here share: an emulator, an issuer of tokens, a function that echoes."""

from collections.abc import Iterator
from pathlib import Path

import pytest

from devstack.aws import AwsServer
from devstack.tokens import Issuer
from tests.devstack.account import Account
from tests.devstack.api import ISSUER, Echo


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


@pytest.fixture(scope="module")
def issuer(tmp_path_factory: pytest.TempPathFactory) -> Issuer:
    return Issuer(ISSUER, tmp_path_factory.mktemp("keys"))


@pytest.fixture
def echo() -> Echo:
    return Echo()
