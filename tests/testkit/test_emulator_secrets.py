"""The emulated Secrets Manager answers as moto does."""

from __future__ import annotations

from typing import Any

from devstack.aws import AwsServer, client
from testkit.emulator import Secrets


def test_secrets_manager_answers_as_moto_does(aws: AwsServer) -> None:
    moto = client("secretsmanager", aws.url)
    moto.create_secret(Name="emulator/m1", SecretString="first")
    secrets = Secrets({"emulator/m1": "first"})
    asked = [("emulator/m1", "AWSCURRENT"), ("emulator/m1", "AWSPREVIOUS"), ("emulator/m2", "AWSCURRENT")]
    before = secrets.snapshot()

    def seen(secretsmanager: Any, name: str, stage: str) -> Any:
        try:
            answer = secretsmanager.get_secret_value(SecretId=name, VersionStage=stage)
        except secretsmanager.exceptions.ResourceNotFoundException as error:
            return error.operation_name
        return answer["Name"], answer["SecretString"], answer["VersionStages"]

    assert [seen(secrets, *it) for it in asked] == [seen(moto, *it) for it in asked]
    moto.put_secret_value(SecretId="emulator/m1", SecretString="second")
    secrets.rotate("emulator/m1", "second")
    assert [seen(secrets, *it) for it in asked] == [seen(moto, *it) for it in asked]
    assert secrets.snapshot() != before
