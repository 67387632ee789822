"""What is read of a secret before and after a rotation, by another implementation and by the emulator."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from testkit.emulator import Secrets


def told_by_both(theirs: Any) -> Iterator[tuple[Any, Any]]:
    """What the emulator answered, and what the client `theirs` answered."""
    theirs.create_secret(Name="emulator/m1", SecretString="first")
    secrets = Secrets({"emulator/m1": "first"})
    asked = [("emulator/m1", "AWSCURRENT"), ("emulator/m1", "AWSPREVIOUS"), ("emulator/m2", "AWSCURRENT")]
    before = secrets.snapshot()

    def seen(secretsmanager: Any, name: str, stage: str) -> Any:
        try:
            answer = secretsmanager.get_secret_value(SecretId=name, VersionStage=stage)
        except secretsmanager.exceptions.ResourceNotFoundException as error:
            return error.operation_name
        return answer["Name"], answer["SecretString"], answer["VersionStages"]

    yield [seen(secrets, *it) for it in asked], [seen(theirs, *it) for it in asked]
    theirs.put_secret_value(SecretId="emulator/m1", SecretString="second")
    secrets.rotate("emulator/m1", "second")
    yield [seen(secrets, *it) for it in asked], [seen(theirs, *it) for it in asked]
    assert secrets.snapshot() != before
