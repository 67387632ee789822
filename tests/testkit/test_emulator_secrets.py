"""The emulated Secrets Manager answers as moto does."""

from __future__ import annotations

from devstack.aws import AwsServer, client
from tests.testkit.secret_stories import told_by_both


def test_secrets_manager_answers_as_moto_does(aws: AwsServer) -> None:
    for ours, theirs in told_by_both(client("secretsmanager", aws.url)):
        assert ours == theirs
