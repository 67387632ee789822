"""The policies of those who deploy allow what CloudFormation needs for the template's resource types, and little more.

What a type needs is in its schema, which cfn-lint brings along (in .venv-sam).
"""

from __future__ import annotations

import json
import re
import tomllib
from collections.abc import Iterator
from fnmatch import fnmatchcase
from functools import cache
from typing import Any

import pytest

from tests.transformed import ROOT, SAM_PYTHON, transform

POLICIES = sorted((ROOT / "deploy").glob("deployer-policy-*.json"))
SCHEMAS = ROOT / ".venv-sam/lib/python3.13/site-packages/cfnlint/data/schemas/resources"
LONGEST_MANAGED_POLICY = 6144  # characters, without spaces
PARAMETERS = {"MerchantId": "m1", "JwtIssuer": "https://issuer.example", "JwtAudience": "gateway"}

# What a schema names for uses of its type that the template does not make, as patterns.
NOT_USED = {
    "s3:REST.PUT.OBJECT": "log delivery to S3",
    "s3:GetObjectMetadata": "a table's import",
    "firehose:*": "log delivery to Firehose",
    "kinesis:*": "a table's stream to Kinesis",
    "dynamodb:*KinesisStreamingDestination": "the same",
    "dynamodb:ImportTable": "a table's import",
    "dynamodb:*TableReplica": "a global table",
    "dynamodb:*Item": "the same",
    "dynamodb:Scan": "the same",
    "dynamodb:Query": "the same",
    "dynamodb:UpdateTimeToLive": "a table whose items expire",
    "dynamodb:UpdateContributorInsights": "a table with Contributor Insights",
    "dynamodb:DeleteTable": "tables are kept",
    "cognito-idp:DeleteUserPool": "the user pool is kept",
    "cognito-idp:AddCustomAttributes": "a user pool with attributes of its own",
    "cloudfront:updateDistribution": "a user pool's domain of its own",
    "ec2:*": "a function in a VPC",
    "elasticfilesystem:*": "a function with a file system",
    "s3files:*": "the same",
    "kms:ListAliases": "an alias in place of the key",
    "kms:RevokeGrant": "a table that is deleted",
    "kms:GenerateDataKeyWithoutPlaintext": "Cognito with a key of its own",
    "kms:ReEncrypt*": "the same",
    "lambda:*CodeSigningConfig": "signed code",
    "lambda:PutRuntimeManagementConfig": "a runtime that is pinned",
    "lambda:*FunctionRecursionConfig": "a function that may call itself",
    "lambda:*FunctionScalingConfig": "capacity providers",
    "lambda:PassCapacityProvider": "the same",
    "lambda:AssociateRuntimeAlias": "a runtime that is pinned",
    "codedeploy:RegisterOnPremisesInstance": "servers of one's own",
    "logs:*DataProtectionPolicy": "a log group with data protection",
    "logs:*IndexPolicy": "a log group with field indexes",
    "logs:DeleteResourcePolicy": "a log group with a policy of its own",
    "logs:PutLogGroupDeletionProtection": "a log group that cannot be deleted",
    "logs:PutBearer*": "logs that are sent with a bearer token",
    "logs:*LogStream*": "a table's import",
    "logs:PutLogEvents": "the same",
    "secretsmanager:*Replicat*": "a secret in several regions",
    "secretsmanager:GetSecretValue": "whoever deploys need not know the merchant's keys",
}
# What `make deploy`, `make rollback`, `make prune-versions` and the SAM CLI call by themselves.
CALLED = {
    "cloudformation:CreateChangeSet",
    "cloudformation:DescribeChangeSet",
    "cloudformation:DescribeStackEvents",
    "cloudformation:DescribeStacks",
    "cloudformation:ExecuteChangeSet",
    "cloudformation:GetTemplate",
    "cloudformation:GetTemplateSummary",
    "cloudformation:ListStackResources",
    "dynamodb:DescribeTable",
    "lambda:DeleteFunction",
    "lambda:GetAccountSettings",
    "lambda:ListAliases",
    "lambda:ListVersionsByFunction",
    "logs:DescribeLogGroups",
    "s3:GetObject",
    "s3:ListBucket",
    "s3:PutObject",
}
# Their actions know no resource, or none that a deployment could name beforehand.
ANY_RESOURCE = {"QueueMappings", "WithoutResources", "UserPool", "OwnKey"}

pytestmark = pytest.mark.skipif(not SAM_PYTHON.exists(), reason="the SAM CLI is not installed; make validate")


def statements() -> list[dict[str, Any]]:
    found = [statement for path in POLICIES for statement in json.loads(path.read_text())["Statement"]]
    assert len(found) > 10
    return found


def matches(action: str, patterns: list[str]) -> bool:
    return any(fnmatchcase(action.lower(), pattern.lower()) for pattern in patterns)


@cache
def needed() -> dict[str, set[str]]:
    """By resource type of the transformed template: what CloudFormation calls to make, read, change and delete it."""
    variant = {"code": "c", "layer": "l", "configuration": "1", "parameters": PARAMETERS}
    [template] = transform([variant])
    types = {resource["Type"] for resource in template["Resources"].values()}
    found: dict[str, set[str]] = {}
    for path in SCHEMAS.glob("*.json"):
        schema = json.loads(path.read_text())
        if schema.get("typeName") in types:
            handlers = schema["handlers"]
            wanted = [handlers[name] for name in ("create", "read", "update", "delete") if name in handlers]
            found[schema["typeName"]] = {action for each in wanted for action in each["permissions"]}
    assert found.keys() == types
    return found


def refused() -> Iterator[tuple[str, str]]:
    allowed = [action for statement in statements() for action in statement["Action"]]
    for kind, actions in sorted(needed().items()):
        yield from ((kind, action) for action in sorted(actions) if not matches(action, allowed))


def test_every_resource_of_the_template_can_be_deployed() -> None:
    assert [(kind, action) for kind, action in refused() if not matches(action, list(NOT_USED))] == []


def test_nothing_is_left_out_that_is_allowed_or_not_named() -> None:
    left_out = {action for _, action in refused()}
    assert [pattern for pattern in NOT_USED if not any(matches(action, [pattern]) for action in left_out)] == []


def test_what_the_commands_call_is_allowed() -> None:
    allowed = [action for statement in statements() for action in statement["Action"]]
    assert [action for action in sorted(CALLED) if not matches(action, allowed)] == []


def test_no_action_is_wider_than_reading() -> None:
    for statement in statements():
        assert statement["Effect"] == "Allow"
        for action in statement["Action"]:
            assert re.fullmatch(r"[a-z0-9-]+:([A-Za-z]+|(Get|List|Describe)[A-Za-z]*\*)", action), action


def test_what_is_deployed_is_named_as_the_stacks_of_samconfig_are() -> None:
    samconfig = tomllib.loads((ROOT / "samconfig.toml").read_text())
    stacks = [samconfig[name]["deploy"]["parameters"]["stack_name"] for name in ("staging", "production")]
    for statement in statements():
        if statement["Sid"] in ANY_RESOURCE:
            assert statement["Resource"] == ["*"]
            continue
        for resource in statement["Resource"]:
            assert resource != "*", statement["Sid"]
        own = [resource for resource in statement["Resource"] if "qris-gateway" in resource]
        for resource in own:
            pattern = re.search(r"qris-gateway[^/:]*", resource)
            assert pattern
            assert all(fnmatchcase(stack, pattern[0]) for stack in stacks), resource


def test_roles_may_be_passed_to_lambda_and_codedeploy_only() -> None:
    [passing] = [statement for statement in statements() if "iam:PassRole" in statement["Action"]]
    assert passing["Action"] == ["iam:PassRole"]
    services = passing["Condition"]["StringEquals"]["iam:PassedToService"]
    assert services == ["codedeploy.amazonaws.com", "lambda.amazonaws.com"]


def test_whoever_deploys_reads_neither_keys_nor_money() -> None:
    allowed = [action for statement in statements() for action in statement["Action"]]
    for action in ("secretsmanager:GetSecretValue", "dynamodb:GetItem", "dynamodb:PutItem", "sqs:ReceiveMessage"):
        assert not matches(action, allowed)


@pytest.mark.parametrize("path", POLICIES, ids=lambda path: path.stem)
def test_a_policy_fits_into_a_managed_policy(path: Any) -> None:
    assert len(json.dumps(json.loads(path.read_text()), separators=(",", ":"))) <= LONGEST_MANAGED_POLICY
