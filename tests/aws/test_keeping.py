"""What a stack keeps: a restored ledger is taken in by a parameter alone, and a deleted stack leaves its data."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from testkit.ministack import Ministack
from testkit.processes import until
from tests.aws.deployment import BUCKET, Deployment

PARAMETERS = {
    "MerchantId": "m1",
    "JwtIssuer": "https://issuer.example",
    "JwtAudience": "gateway",
    "SecretPrefix": "kept/",
}
CAPABILITIES = ["CAPABILITY_IAM", "CAPABILITY_AUTO_EXPAND"]


@pytest.fixture
def stack(ministack: Ministack, certificate: Path, tmp_path: Path) -> Iterator[Deployment]:
    deployed = Deployment(ministack, certificate, tmp_path, "kept", PARAMETERS)
    yield deployed
    deployed.stop()


def status(stack: Deployment) -> str:
    """Also of a stack that is gone."""
    stacks = stack.root("cloudformation").list_stacks()["StackSummaries"]
    [found] = [each["StackStatus"] for each in stacks if each["StackName"] == stack.stack]
    return str(found)


def outputs(stack: Deployment) -> dict[str, str]:
    [described] = stack.root("cloudformation").describe_stacks(StackName=stack.stack)["Stacks"]
    return {output["OutputKey"]: output["OutputValue"] for output in described["Outputs"]}


def resources(stack: Deployment) -> set[str]:
    pages = stack.root("cloudformation").get_paginator("list_stack_resources").paginate(StackName=stack.stack)
    return {each["LogicalResourceId"] for page in pages for each in page["StackResourceSummaries"]}


def named(value: Any, name: str) -> set[str]:
    """The ARNs of that table and its indexes in a policy."""
    if isinstance(value, dict):
        return {arn for item in value.values() for arn in named(item, name)}
    if isinstance(value, list):
        return {arn for item in value for arn in named(item, name)}
    text = str(value)
    return {text.rpartition(":table/")[2]} if f":table/{name}" in text else set()


def test_a_stack_takes_in_a_restored_ledger_and_leaves_its_data_behind(ministack: Ministack, stack: Deployment) -> None:
    dynamodb, cloudformation = stack.root("dynamodb"), stack.root("cloudformation")
    outputs_before = outputs(stack)
    old = outputs_before["LedgerTableName"]
    new = f"{old}-restored"
    dynamodb.put_item(TableName=old, Item={"pk": {"S": "m1#ORDER"}, "sk": {"S": "ORDER"}})
    dynamodb.restore_table_to_point_in_time(SourceTableName=old, TargetTableName=new, UseLatestRestorableTime=True)

    cloudformation.update_stack(
        StackName=stack.stack,
        TemplateURL=f"{ministack.url}/{BUCKET}/{stack.stack}.json",
        Capabilities=CAPABILITIES,
        Parameters=[
            *({"ParameterKey": name, "UsePreviousValue": True} for name in PARAMETERS),
            {"ParameterKey": "ExistingLedgerTable", "ParameterValue": new},
        ],
    )
    assert until(lambda: status(stack), lambda seen: not seen.endswith("IN_PROGRESS")) == "UPDATE_COMPLETE"

    assert outputs(stack)["LedgerTableName"] == new
    environments = [each["Environment"]["Variables"] for each in stack.root("lambda").list_functions()["Functions"]]
    used = [each["LEDGER_TABLE"] for each in environments if each["POWERTOOLS_SERVICE_NAME"] == stack.stack]
    assert used == [new] * 6
    iam = stack.root("iam")
    policies = [
        iam.get_role_policy(RoleName=role, PolicyName=policy)["PolicyDocument"]
        for role in stack.of_type("AWS::IAM::Role").values()
        for policy in iam.list_role_policies(RoleName=role)["PolicyNames"]
    ]
    assert named(policies, old) == {new, f"{new}/index/open-refunds"}
    # The old table has left the stack, and is there.
    assert "LedgerTable" not in resources(stack)
    assert dynamodb.scan(TableName=old)["Count"] == dynamodb.scan(TableName=new)["Count"] == 1

    data = {kind: set(stack.of_type(kind).values()) for kind in ("AWS::SQS::Queue", "AWS::Logs::LogGroup")}
    cloudformation.delete_stack(StackName=stack.stack)
    assert until(lambda: status(stack), lambda seen: not seen.endswith("IN_PROGRESS")) == "DELETE_COMPLETE"

    assert {old, new, outputs_before["AuditTableName"]} <= set(dynamodb.list_tables()["TableNames"])
    assert data["AWS::SQS::Queue"] <= set(stack.root("sqs").list_queues()["QueueUrls"])
    groups = stack.root("logs").describe_log_groups()["logGroups"]
    assert data["AWS::Logs::LogGroup"] <= {group["logGroupName"] for group in groups}
    assert "kept/m1" in {secret["Name"] for secret in stack.root("secretsmanager").list_secrets()["SecretList"]}
    functions = stack.root("lambda").list_functions()["Functions"]
    assert [each for each in functions if each["FunctionName"].startswith("kept-")] == []
