"""template.yaml, transformed by SAM and deployed to ministack by its CloudFormation, with its roles as they stand."""

from __future__ import annotations

import io
import json
import re
import zipfile
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import boto3
from botocore import xform_name
from botocore.config import Config
from botocore.exceptions import ClientError

from testkit.indodana.simulator import merchant_secrets
from testkit.ministack import ACCOUNT, REGION, ROOT_KEYS, Ministack
from testkit.processes import until
from tests.aws.function import Access, Function, trust
from tests.transformed import transform

BUCKET = "bucket"  # as tests/build/transform_template.py has it
SECRET_PREFIX = "qris-gateway/"
# What ministack cannot do, or should not do here. A type stands for each of its resources; with a property, for those
# that have it. What refers to something left out is left out, too.
LEFT_OUT = {
    "AWS::CodeDeploy::Application": "ministack has no CodeDeploy",
    "AWS::CodeDeploy::DeploymentGroup": "ministack has no CodeDeploy",
    "AWS::CloudWatch::Alarm.Metrics": "ministack has no alarms on metric math",
    "AWS::Lambda::EventSourceMapping": "ministack would run the worker itself, and not by its role: "
    "the tests make these calls with the role (tests/aws/flows.py)",
    "AWS::Events::Rule": "ministack would run recovery itself, every minute",
    "AWS::SecretsManager::ResourcePolicy": "ministack's CloudFormation does not know it: put into Secrets Manager",
}
SENDER = "back-office"  # the end of the name of a role that may send to the queue
POLICY = "ResourcePolicyDocument"  # the end of the name of an output with a resource's policy
BATCHED = {"sqs:ChangeMessageVisibility", "sqs:DeleteMessage", "sqs:SendMessage"}


@dataclass(frozen=True)
class Grant(Access):
    """One action on one resource that a statement of a role allows. `resource` may be a pattern."""

    role: str
    policy: str
    statement: int

    def __str__(self) -> str:
        return f"{self.role}: {self.action} on {self.resource}"


class Deployment:
    """A stack in an emulator that is its own as far as names go; `stop` ends the functions' processes."""

    def __init__(
        self,
        emulator: Ministack,
        certificate: Path,
        directory: Path,
        stack: str,
        parameters: Mapping[str, str],
        upstream_url: str = "https://indodana.invalid",
    ) -> None:
        """`upstream_url`: where the functions find Indodana. In a deployment, a parameter can name only https."""
        trust(certificate)
        self._emulator = emulator
        self._certificate = certificate
        self._directory = directory
        self.stack = stack
        self.parameters = parameters
        self.upstream_url = upstream_url
        self._functions: dict[str, Function] = {}
        self.transformed = _transformed(parameters)
        self.template, self.left_out = without_what_is_left_out(self.transformed)
        self.template["Transform"] = "AWS::LanguageExtensions"
        self.template["Outputs"] |= {
            f"{name}{POLICY}": {"Value": {"Fn::ToJsonString": resource["Properties"]["ResourcePolicy"]}}
            for name, resource in self.transformed["Resources"].items()
            if "ResourcePolicy" in resource.get("Properties", {})
        }
        self._create()
        pages = self.root("cloudformation").get_paginator("list_stack_resources").paginate(StackName=stack)
        self.resources: dict[str, str] = {
            resource["LogicalResourceId"]: resource["PhysicalResourceId"]
            for page in pages
            for resource in page["StackResourceSummaries"]
        }
        self._correct_policies()

    # ---- clients

    def root(self, service: str) -> Any:
        """A client of the account's root user, which may do everything."""
        return self.client(service, ROOT_KEYS)

    def as_role(self, role: str, service: str) -> Any:
        """A client with the credentials of a role, by its name."""
        return self.client(service, self.credentials(role))

    def credentials(self, role: str, session: str = "tests") -> dict[str, str]:
        arn = self.root("iam").get_role(RoleName=role)["Role"]["Arn"]
        made = self.root("sts").assume_role(RoleArn=arn, RoleSessionName=session[:64])["Credentials"]
        return {
            "aws_access_key_id": made["AccessKeyId"],
            "aws_secret_access_key": made["SecretAccessKey"],
            "aws_session_token": made["SessionToken"],
        }

    def client(self, service: str, keys: Mapping[str, str]) -> Any:
        config = Config(parameter_validation=False, retries={"total_max_attempts": 1})
        return boto3.client(  # type: ignore[call-overload]
            service,
            endpoint_url=self._emulator.url,
            region_name=REGION,
            verify=str(self._certificate),
            config=config,
            **keys,
        )

    # ---- the stack

    def of_type(self, kind: str) -> dict[str, str]:
        """Logical and physical names of those that were made: not where a condition does not hold."""
        found = self.template["Resources"].items()
        named = (name for name, resource in found if resource["Type"] == kind)
        return {name: self.resources[name] for name in named if name in self.resources}

    def resource_policy(self, resource: str) -> dict[str, Any]:
        """The policy that a resource has in the template, resolved."""
        found = self.root("cloudformation").describe_stacks(StackName=self.stack)["Stacks"][0]["Outputs"]
        [value] = [output["OutputValue"] for output in found if output["OutputKey"] == f"{resource}{POLICY}"]
        document = json.loads(value)
        return _with_sessions(document.get("PolicyDocument", document))

    @cached_property
    def queue_policies(self) -> dict[str, dict[str, Any]]:
        """By the queues' URLs, as they were deployed."""
        sqs = self.root("sqs")
        queues = self.of_type("AWS::SQS::Queue").values()
        found = {url: sqs.get_queue_attributes(QueueUrl=url, AttributeNames=["Policy"])["Attributes"] for url in queues}
        return {url: json.loads(attributes["Policy"]) for url, attributes in found.items()}

    def indexes(self, table: str) -> list[str]:
        described = self.root("dynamodb").describe_table(TableName=table)["Table"]
        return [index["IndexName"] for index in described.get("GlobalSecondaryIndexes", [])]

    def _create(self) -> None:
        s3, cloudformation = self.root("s3"), self.root("cloudformation")
        with suppress(s3.exceptions.BucketAlreadyOwnedByYou):
            s3.create_bucket(Bucket=BUCKET, CreateBucketConfiguration={"LocationConstraint": REGION})
        archive = io.BytesIO()
        with zipfile.ZipFile(archive, "w") as file:
            file.writestr("here.txt", "The tests run the functions from the repository.")
        for name, content in {
            "code": archive.getvalue(),
            "layer": archive.getvalue(),
            f"{self.stack}.json": json.dumps(self.template).encode(),
        }.items():
            s3.put_object(Bucket=BUCKET, Key=name, Body=content)
        cloudformation.create_stack(
            StackName=self.stack,
            TemplateURL=f"{self._emulator.url}/{BUCKET}/{self.stack}.json",
            Capabilities=["CAPABILITY_IAM", "CAPABILITY_AUTO_EXPAND"],
            Parameters=[{"ParameterKey": name, "ParameterValue": value} for name, value in self.parameters.items()],
        )

        def status() -> str:
            return cloudformation.describe_stacks(StackName=self.stack)["Stacks"][0]["StackStatus"]

        came_to = until(status, lambda seen: not seen.endswith("IN_PROGRESS"))
        assert came_to == "CREATE_COMPLETE", f"{came_to}:\n{self._emulator.output[-3000:]}"

    def _correct_policies(self) -> None:
        """Where ministack judges otherwise than AWS, and where its CloudFormation leaves a policy out."""
        for role, policies in self._policies.items():
            for name, document in policies.items():
                self._put(role, name, document)
        for name, resource in self.transformed["Resources"].items():
            if resource["Type"] == "AWS::SecretsManager::ResourcePolicy":
                secret = self.resources[resource["Properties"]["SecretId"]["Ref"]]
                document = json.dumps(self.resource_policy(name))
                self.root("secretsmanager").put_resource_policy(SecretId=secret, ResourcePolicy=document)
        self.create_role(f"{self.stack}-{SENDER}", {"Action": "sqs:SendMessage", "Resource": "*"})
        for queue, policy in self.queue_policies.items():
            corrected = json.dumps(_with_sessions(policy, f"arn:aws:iam::{ACCOUNT}:role/{self.stack}-{SENDER}"))
            self.root("sqs").set_queue_attributes(QueueUrl=queue, Attributes={"Policy": corrected})

    # ---- the functions and their roles

    @cached_property
    def roles(self) -> dict[str, str]:
        """The role's name by the function's folder."""
        return {folder: found["Role"].rpartition("/")[2] for folder, found in self._configurations.items()}

    @cached_property
    def _configurations(self) -> dict[str, Any]:
        client = self.root("lambda")
        found = [
            client.get_function_configuration(FunctionName=name)
            for name in self.of_type("AWS::Lambda::Function").values()
        ]
        return {function["Handler"].split(".")[0]: function for function in found}

    @property
    def tables(self) -> dict[str, str]:
        """Those that the functions use."""
        environment = self._configurations["recovery"]["Environment"]["Variables"]
        return {"LedgerTable": environment["LEDGER_TABLE"], "AuditTable": environment["AUDIT_TABLE"]}

    def function(self, folder: str) -> Function:
        """Its process, with the environment that it has in Lambda and the credentials of its role."""
        if folder not in self._functions:
            configuration = self._configurations[folder]
            keys = self.credentials(self.roles[folder], configuration["FunctionName"])
            environment = configuration["Environment"]["Variables"] | {name.upper(): key for name, key in keys.items()}
            environment |= {
                "AWS_ENDPOINT_URL": self._emulator.url,
                "AWS_REGION": REGION,
                "AWS_DEFAULT_REGION": REGION,
                "INDODANA_URL": self.upstream_url,
                "TEST_CERTIFICATE": str(self._certificate),
            }
            log = self._directory / f"{folder}.log"
            self._functions[folder] = Function(configuration["Handler"], environment, log)
        return self._functions[folder]

    def grants(self, folder: str) -> list[Grant]:
        """Each action on each resource that the function's role is allowed."""
        role = self.roles[folder]
        assert all(
            it["Effect"] == "Allow" for document in self._policies[role].values() for it in document["Statement"]
        )
        return [
            Grant(action, _behind_the_account(resource), role, policy, number)
            for policy, document in self._policies[role].items()
            for number, statement in enumerate(document["Statement"])
            for action in as_list(statement["Action"])
            for resource in as_list(statement["Resource"])
        ]

    @contextmanager
    def without(self, grant: Grant) -> Iterator[None]:
        """The role as it is, but for this grant."""
        document = self._policies[grant.role][grant.policy]
        statements = list(document["Statement"])
        taken_from = statements.pop(grant.statement)
        actions = as_list(taken_from["Action"])
        resources = as_list(taken_from["Resource"])
        [resource] = [each for each in resources if _behind_the_account(each) == grant.resource]
        others = [action for action in actions if action != grant.action]
        elsewhere = [each for each in resources if each != resource]
        statements += [taken_from | {"Action": others}] if others else []
        statements += [taken_from | {"Action": grant.action, "Resource": elsewhere}] if elsewhere else []
        # A policy needs a statement.
        statements += [] if statements else [{"Effect": "Allow", "Action": "sts:GetCallerIdentity", "Resource": "*"}]
        self._put(grant.role, grant.policy, document | {"Statement": statements})
        try:
            yield
        finally:
            self._put(grant.role, grant.policy, document)

    def create_role(self, name: str, *allowed: Mapping[str, Any]) -> None:
        """A role that Lambda may take, and what it may do: actions and resources."""
        iam = self.root("iam")
        by_lambda = {"Principal": {"Service": "lambda.amazonaws.com"}, "Action": "sts:AssumeRole"}
        iam.create_role(RoleName=name, AssumeRolePolicyDocument=policy_document(by_lambda))
        if allowed:
            iam.put_role_policy(RoleName=name, PolicyName=name, PolicyDocument=policy_document(*allowed))

    @cached_property
    def _policies(self) -> dict[str, dict[str, Any]]:
        """Documents by the names of role and policy, as they were deployed."""
        iam = self.root("iam")
        found: dict[str, dict[str, Any]] = {}
        for role in self.roles.values():
            names = iam.list_role_policies(RoleName=role)["PolicyNames"]
            found[role] = {
                name: iam.get_role_policy(RoleName=role, PolicyName=name)["PolicyDocument"] for name in names
            }
        return found

    def _put(self, role: str, policy: str, document: dict[str, Any]) -> None:
        corrected = document | {"Statement": [_with_batches(statement) for statement in document["Statement"]]}
        self.root("iam").put_role_policy(RoleName=role, PolicyName=policy, PolicyDocument=json.dumps(corrected))

    # ---- their data

    def store_merchants_secrets(self) -> None:
        secrets = self.root("secretsmanager")
        prefix = self.parameters.get("SecretPrefix", SECRET_PREFIX)
        for name, value in merchant_secrets(prefix).items():
            if name == prefix + self.parameters["MerchantId"]:  # the stack made it
                secrets.put_secret_value(SecretId=name, SecretString=value)
            else:
                secrets.create_secret(Name=name, SecretString=value)

    def clear(self) -> None:
        """Empties the tables and the queues."""
        dynamodb, sqs = self.root("dynamodb"), self.root("sqs")
        for table in self.tables.values():
            for page in dynamodb.get_paginator("scan").paginate(TableName=table):
                for item in page["Items"]:
                    dynamodb.delete_item(TableName=table, Key={"pk": item["pk"], "sk": item["sk"]})
        for queue in self.of_type("AWS::SQS::Queue").values():
            sqs.purge_queue(QueueUrl=queue)

    def start_anew(self) -> None:
        for function in self._functions.values():
            function.start_anew()

    def stop(self) -> None:
        for function in self._functions.values():
            function.stop()


def _transformed(parameters: Mapping[str, str]) -> dict[str, Any]:
    variant = {"code": "code", "layer": "layer", "configuration": "1", "parameters": dict(parameters)}
    [template] = transform([variant])
    return template


def without_what_is_left_out(template: dict[str, Any]) -> tuple[dict[str, Any], dict[str, str]]:
    """What can be deployed, and why each of the others cannot: a key of LEFT_OUT, or a resource that is left out."""
    resources: dict[str, Any] = dict(template["Resources"])
    why: dict[str, str] = {}
    while gone := {name: reason for name, it in resources.items() if (reason := _why_left_out(it, why))}:
        why |= gone
        resources = {name: resource for name, resource in resources.items() if name not in gone}
    outputs = {name: it for name, it in template["Outputs"].items() if not _names_one_of(it, why)}
    return template | {"Resources": resources, "Outputs": outputs}, why


def _why_left_out(resource: Mapping[str, Any], others: Mapping[str, str]) -> str | None:
    kinds = [resource["Type"], *(f"{resource['Type']}.{name}" for name in resource.get("Properties", {}))]
    by_type = next((kind for kind in kinds if kind in LEFT_OUT), None)
    # How an update is made, UpdatePolicy, does not matter to a stack that is made once.
    rest = {name: value for name, value in resource.items() if name != "UpdatePolicy"}
    return by_type or _names_one_of(rest, others)


def _names_one_of(value: Any, names: Mapping[str, str]) -> str | None:
    text = json.dumps(value)
    quoted = (name for name in names if f'"{name}"' in text or re.search(rf"\$\{{{name}[.}}]", text))
    return next(quoted, None)


def _with_batches(statement: dict[str, Any]) -> dict[str, Any]:
    """ministack asks for actions like sqs:SendMessageBatch, which IAM does not know."""
    actions = as_list(statement["Action"])
    batches = [f"{action}Batch" for action in actions if action in BATCHED]
    return statement | {"Action": [*actions, *batches]}


def _with_sessions(document: dict[str, Any], *more: str) -> dict[str, Any]:
    """ministack takes the ARN of a role's session for aws:PrincipalArn; AWS takes the role's. `more` are roles for
    which it has no aws:userid where AWS has one: in the policies of queues."""
    statements = []
    for statement in document["Statement"]:
        condition = {operator: dict(keys) for operator, keys in statement.get("Condition", {}).items()}
        for keys in condition.values():
            if "aws:PrincipalArn" in keys:
                roles = [*as_list(keys["aws:PrincipalArn"]), *more]
                sessions = [arn.replace(":iam:", ":sts:").replace(":role/", ":assumed-role/") + "/*" for arn in roles]
                keys["aws:PrincipalArn"] = [*roles, *sessions]
        statements.append(statement | ({"Condition": condition} if condition else {}))
    return document | {"Statement": statements}


def policy_document(*statements: Mapping[str, Any]) -> str:
    """Of statements that allow, if they do not say otherwise."""
    return json.dumps({"Version": "2012-10-17", "Statement": [{"Effect": "Allow"} | dict(each) for each in statements]})


def as_list(value: Any) -> list[Any]:
    return value if isinstance(value, list) else [value]


def _behind_the_account(arn: str) -> str:
    return arn.split(":", 5)[5] if arn.startswith("arn:") else arn


def answer(client: Any, operation: str, arguments: Mapping[str, Any]) -> str:
    """The code of AWS's error; empty if it did what it was asked."""
    try:
        getattr(client, xform_name(operation))(**arguments)
    except ClientError as error:
        return error.response["Error"]["Code"]
    return ""
