"""What was deployed: each deployment's template and parameters, in the bucket in which SAM keeps the code.

deployments/<stack>/<UTC time>/template.yaml        as CloudFormation has it, naming the code in the same bucket
deployments/<stack>/<UTC time>/deployment.json      its parameters, tags and commit; written last
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from datetime import UTC, datetime, timedelta, timezone
from typing import Any

from botocore.exceptions import ClientError

from deploy.account import QUICKLY, Session, Stack
from deploy.target import DeployError, Target

SAM_STACK = "aws-sam-cli-managed-default"
FOLDER = "deployments"
TIME = "%Y-%m-%dT%H%M%SZ"
WIB = timezone(timedelta(hours=7))


@dataclass(frozen=True)
class Deployment:
    at: str
    commit: str
    parameters: Mapping[str, str]
    tags: Mapping[str, str]
    restores: str | None = None
    """A way back repeats an earlier deployment: when that one was."""


class History:
    def __init__(self, aws: Session, target: Target) -> None:
        self._s3 = aws.client("s3")
        self._stack = target.stack
        self.bucket = _bucket(aws)

    def record(self, deployment: Deployment, template: str) -> None:
        self.keep_template(deployment.at, template)
        self._put(deployment.at, "deployment.json", json.dumps(asdict(deployment), indent=1))

    def keep_template(self, at: str, template: str) -> str:
        """Its URL, as SAM gives CloudFormation its own: it is longer than what fits into a call."""
        key = self._put(at, "template.yaml", template)
        return f"{self._s3.meta.endpoint_url}/{self.bucket}/{key}"

    def all(self) -> list[Deployment]:
        """The oldest first."""
        pages = self._s3.get_paginator("list_objects_v2").paginate(Bucket=self.bucket, Prefix=self._key("", ""))
        keys = sorted(found["Key"] for page in pages for found in page.get("Contents", []))
        return [Deployment(**json.loads(self._get(key))) for key in keys if key.endswith("/deployment.json")]

    def template(self, deployment: Deployment) -> str:
        return self._get(self._key(deployment.at, "template.yaml"))

    def _key(self, at: str, name: str) -> str:
        return "/".join([FOLDER, self._stack, *([at, name] if at else [""])])

    def _put(self, at: str, name: str, text: str) -> str:
        key = self._key(at, name)
        self._s3.put_object(Bucket=self.bucket, Key=key, Body=text.encode())
        return key

    def _get(self, key: str) -> str:
        body: bytes = self._s3.get_object(Bucket=self.bucket, Key=key)["Body"].read()
        return body.decode()


def _bucket(aws: Session) -> str:
    try:
        [stack] = aws.client("cloudformation", config=QUICKLY).describe_stacks(StackName=SAM_STACK)["Stacks"]
        outputs = {each["OutputKey"]: each["OutputValue"] for each in stack.get("Outputs", [])}
        return str(outputs["SourceBucket"])
    except (ClientError, KeyError) as error:
        raise DeployError(
            f"the stack {SAM_STACK} of SAM (resolve_s3 = true) does not name its bucket: {error}"
        ) from error


def is_recorded(kept: History, deployments: list[Deployment], stack: Stack, template: str) -> bool:
    """Whether the last recorded deployment is what the stack has now."""
    if not deployments:
        return False
    last = deployments[-1]
    return dict(last.parameters) == dict(stack.parameters) and kept.template(last) == template


def now() -> str:
    return datetime.now(UTC).strftime(TIME)


def in_wib(at: str) -> str:
    """For people."""
    time = datetime.strptime(at, TIME).replace(tzinfo=UTC).astimezone(WIB)
    return time.strftime("%Y-%m-%d %H:%M:%S WIB")


def current_template(aws: Session, stack: str) -> str:
    """As it was uploaded, before SAM's transform."""
    found: Any = aws.client("cloudformation").get_template(StackName=stack, TemplateStage="Original")["TemplateBody"]
    return found if isinstance(found, str) else json.dumps(found)


def last(deployments: list[Deployment]) -> Deployment:
    """The last of them, or the earlier one that it repeats."""
    return deployments[_position(deployments)]


def before(deployments: list[Deployment]) -> Deployment | None:
    """What to go back to from the last of them. Going back twice goes back further, never to what was left."""
    position = _position(deployments)
    return last(deployments[:position]) if position else None


def _position(deployments: list[Deployment]) -> int:
    restores = deployments[-1].restores
    return next((place for place, each in enumerate(deployments) if each.at == restores), len(deployments) - 1)
