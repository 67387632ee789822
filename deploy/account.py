"""What can be seen in the account before a deployment begins, so that it does not fail after minutes."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

import boto3
from botocore.config import Config
from botocore.exceptions import BotoCoreError, ClientError

from deploy import tables
from deploy.target import DeployError, Target

# Once and quickly: it only looks.
QUICKLY = Config(connect_timeout=2, read_timeout=3, retries={"total_max_attempts": 1})
ALWAYS_ENABLED = "us-east-1"
UNRESERVED = 100
"""Lambda keeps so many executions of an account for functions that reserve none."""
RESERVED = "ReservedConcurrency"

Session = Any
"""boto3.Session: its client() has a type for each service by literal name only."""


@dataclass(frozen=True)
class Stack:
    status: str
    changed: str
    """When it was last updated, or created."""
    parameters: Mapping[str, str]
    tags: tuple[tuple[str, str], ...]

    @property
    def was_rolled_back(self) -> bool:
        return "ROLLBACK" in self.status


def session(target: Target) -> Session:
    try:
        found = boto3.Session(profile_name=target.profile, region_name=target.region)
        credentials = found.get_credentials()
    except BotoCoreError as error:
        raise DeployError(f"the AWS credentials cannot be read: {error}") from error
    if credentials is None:
        raise DeployError(
            "there are no AWS credentials: sign in (aws sso login, or aws configure), or set AWS_PROFILE or "
            "AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY"
        )
    return found


def identity(aws: Session, region: str) -> str:
    """The caller's ARN. In a region that is not enabled for the account, STS does not know its credentials."""
    try:
        return _caller(aws, region)
    except ClientError as error:
        code = error.response["Error"]["Code"]
        if code not in ("InvalidClientTokenId", "UnrecognizedClientException"):
            raise DeployError(f"AWS refuses the credentials: {error}") from error
        try:
            caller = _caller(aws, ALWAYS_ENABLED)
        except (ClientError, BotoCoreError) as also:
            raise DeployError(
                f"AWS does not know the credentials, or they have expired ({code}): sign in again"
            ) from also
        raise DeployError(
            f"the region {region} is not enabled for the account of {caller}: it is an opt-in region. Enable it "
            f"once (some minutes): aws account enable-region --region-name {region}"
        ) from error
    except BotoCoreError as error:
        raise DeployError(f"AWS cannot be reached: {error}") from error


def _caller(aws: Session, region: str) -> str:
    return str(aws.client("sts", region_name=region, config=QUICKLY).get_caller_identity()["Arn"])


def describe(aws: Session, stack: str) -> Stack | None:
    """None where there is none yet; one whose first change set was declined is none, to SAM either."""
    try:
        [found] = aws.client("cloudformation", config=QUICKLY).describe_stacks(StackName=stack)["Stacks"]
    except ClientError as error:
        if "does not exist" in str(error):
            return None
        raise DeployError(f"the stack {stack} cannot be looked at: {error}") from error
    except BotoCoreError as error:
        raise DeployError(f"the stack {stack} cannot be looked at: {error}") from error
    if found["StackStatus"] == "REVIEW_IN_PROGRESS":
        return None
    return Stack(
        status=found["StackStatus"],
        changed=str(found.get("LastUpdatedTime", found["CreationTime"])),
        parameters={each["ParameterKey"]: each["ParameterValue"] for each in found.get("Parameters", [])},
        tags=tuple((each["Key"], each["Value"]) for each in found.get("Tags", [])),
    )


def not_deployable(name: str, stack: Stack) -> str | None:
    """Why CloudFormation would refuse to update a stack in this state."""
    if stack.status.endswith("_IN_PROGRESS"):
        return f"{name} is being changed ({stack.status}): wait until it ends, then repeat the command"
    if stack.status == "UPDATE_ROLLBACK_FAILED":
        return (
            f"{name} could not be rolled back (UPDATE_ROLLBACK_FAILED): aws cloudformation continue-update-rollback "
            f"--stack-name {name}"
        )
    if stack.status in ("ROLLBACK_COMPLETE", "ROLLBACK_FAILED", "CREATE_FAILED", "DELETE_FAILED"):
        return (
            f"the first deployment of {name} failed ({stack.status}), and nothing can be deployed over it: aws "
            f"cloudformation delete-stack --stack-name {name}"
        )
    return None


def left_behind(aws: Session, names: list[str]) -> list[str]:
    """Of a new stack's log groups: those that an earlier stack of the same name left."""
    logs = aws.client("logs", config=QUICKLY)
    found = [
        group["logGroupName"]
        for name in names
        for group in logs.describe_log_groups(logGroupNamePrefix=name)["logGroups"]
    ]
    return [name for name in names if name in found]


def concurrency_flaws(aws: Session, values: Mapping[str, str], stack: Stack | None) -> Iterator[str]:
    """What Lambda, or the queue, would not put up with."""
    reserved = {name.removeprefix(RESERVED): int(value) for name, value in values.items() if name.startswith(RESERVED)}
    worker, workers = reserved.get("RefundWorker", 0), int(values["WorkerMaximumConcurrency"])
    if 0 < worker < workers:
        yield (
            f"{RESERVED}RefundWorker ({worker}) is below WorkerMaximumConcurrency ({workers}): messages would be "
            "received, throttled and counted as tried"
        )
    provisioned = int(values["ProvisionedConcurrency"])
    for name in ("StatusCheck", "RefundApi"):
        if 0 < reserved.get(name, 0) < provisioned:
            yield f"{RESERVED}{name} ({reserved[name]}) is below ProvisionedConcurrency ({provisioned})"
    if not any(reserved.values()):
        return
    already = sum(
        int(value) for name, value in (stack.parameters if stack else {}).items() if name.startswith(RESERVED)
    )
    limits = aws.client("lambda", config=QUICKLY).get_account_settings()["AccountLimit"]
    room = limits["UnreservedConcurrentExecutions"] + already - UNRESERVED
    if sum(reserved.values()) > room:
        yield (
            f"{sum(reserved.values())} executions are to be reserved, and the account has room for {max(room, 0)}: its "
            f"limit is {limits['ConcurrentExecutions']}, of which Lambda keeps {UNRESERVED} unreserved. Reserve less, "
            "or ask for more (Service Quotas: Concurrent executions)"
        )


def flaws(aws: Session, target: Target, values: Mapping[str, str], names: list[str]) -> list[str]:
    """What would make the deployment fail."""
    stack = describe(aws, target.stack)
    try:
        found = list(concurrency_flaws(aws, values, stack))
        found += tables.flaws(aws.client("dynamodb", config=QUICKLY), values, stack.parameters if stack else {})
        if stack is None:
            found += [
                f"the log group {name} is there already, from an earlier stack of this name: delete it, or give "
                "the stack another stack_name"
                for name in left_behind(aws, names)
            ]
        elif refused := not_deployable(target.stack, stack):
            found.append(refused)
    except (ClientError, BotoCoreError) as error:
        raise DeployError(f"the account cannot be looked at: {error}") from error
    return found
