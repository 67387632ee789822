"""Secrets Manager's client: secrets with their version before the last rotation."""

# ruff: noqa: N803 - the arguments have the names that boto3 gives them

from __future__ import annotations

from collections.abc import Hashable, Mapping
from typing import Any

from testkit.emulator.clients import Refusal, exceptions_of, operation
from testkit.emulator.fingerprints import Fingerprint


class Secrets:
    """Secrets by name, each with the value before the last rotation as AWSPREVIOUS."""

    def __init__(self, values: Mapping[str, str]) -> None:
        self._versions = {name: [text] for name, text in values.items()}
        self._fingerprint: Fingerprint[str] = Fingerprint(self._look)
        self._fingerprint.changed.update(self._versions)

    @property
    def exceptions(self) -> Any:
        return exceptions_of("secretsmanager")

    def snapshot(self) -> Hashable:
        return self._fingerprint.value()

    def rotate(self, name: str, text: str) -> None:
        self._versions[name].append(text)
        self._fingerprint.changed.add(name)

    @operation("GetSecretValue")
    def get_secret_value(self, *, SecretId: str, VersionStage: str = "AWSCURRENT") -> dict[str, Any]:
        versions = self._versions.get(SecretId)
        if versions is None:
            raise Refusal("ResourceNotFoundException", "Secrets Manager can't find the specified secret.")
        age = {"AWSCURRENT": 1, "AWSPREVIOUS": 2}.get(VersionStage)
        if age is None or age > len(versions):
            raise Refusal(
                "ResourceNotFoundException",
                f"Secrets Manager can't find the specified secret value for staging label: {VersionStage}",
            )
        return {
            "ARN": f"arn:aws:secretsmanager:ap-southeast-3:123456789012:secret:{SecretId}-000000",
            "Name": SecretId,
            "VersionId": f"00000000-0000-4000-8000-{len(versions) - age + 1:012}",
            "SecretString": versions[-age],
            "VersionStages": [VersionStage],
        }

    def _look(self, name: str) -> str:
        return repr(self._versions[name])
