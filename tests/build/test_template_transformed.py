"""Rules over what the template becomes at a deployment, so that a new function can't forget one of them.

The transform is SAM's own, from .venv-sam (`make test` has it installed before the tests).
"""

from __future__ import annotations

import json
import re
from collections.abc import Callable
from functools import cache
from pathlib import Path
from typing import Any

import pytest
import yaml
from openapi_spec_validator import OpenAPIV30SpecValidator
from openapi_spec_validator.validation.exceptions import OpenAPIValidationError

from devstack.template import Template
from tests.transformed import SAM_PYTHON, transform

ROOT = Path(__file__).parents[2]
PARAMETERS = {"MerchantId": "m1", "JwtIssuer": "https://issuer.example", "JwtAudience": "gateway"}
OPEN_ROUTES = {("/v1/health", "get")}

pytestmark = pytest.mark.skipif(not SAM_PYTHON.exists(), reason="the SAM CLI is not installed; make validate")

Properties = dict[str, Any]


@cache
def transformed() -> list[dict[str, Any]]:
    """The template as it is, with another layer, with other code, and with another configuration's digest."""
    first = {"code": "code-1", "layer": "layer-1", "configuration": "1", "parameters": PARAMETERS}
    variants = [first, first | {"layer": "layer-2"}, first | {"code": "code-2"}, first | {"configuration": "2"}]
    return transform(variants)


def of_type(kind: str, variant: int = 0) -> dict[str, Properties]:
    resources = transformed()[variant]["Resources"]
    return {name: resource.get("Properties", {}) for name, resource in resources.items() if resource["Type"] == kind}


def functions() -> dict[str, Properties]:
    found = of_type("AWS::Lambda::Function")
    assert len(found) >= 6
    return found


def attribute(value: Any) -> tuple[str, str]:
    """GetAtt's resource and attribute, whichever way it is spelled."""
    target = value["Fn::GetAtt"]
    parts = target.split(".", 1) if isinstance(target, str) else target
    return parts[0], parts[1]


def as_list(value: Any) -> list[Any]:
    return value if isinstance(value, list) else [value]


def statements(role: Properties) -> list[Properties]:
    found = [statement for policy in role["Policies"] for statement in policy["PolicyDocument"]["Statement"]]
    return [statement["Fn::If"][1] if "Fn::If" in statement else statement for statement in found]


# ---- functions


def test_every_function_has_a_log_group_of_its_own_with_a_retention() -> None:
    groups = [function["LoggingConfig"]["LogGroup"]["Ref"] for function in functions().values()]
    assert len(groups) == len(set(groups))
    for group in groups:
        assert of_type("AWS::Logs::LogGroup")[group]["RetentionInDays"]


def test_every_function_has_alarms_for_errors_and_throttles() -> None:
    alarms = of_type("AWS::CloudWatch::Alarm").values()
    throttled = [
        query["MetricStat"]["Metric"]["Dimensions"]
        for alarm in alarms
        for query in alarm.get("Metrics", [])
        if query.get("MetricStat", {}).get("Metric", {}).get("MetricName") == "Throttles"
    ]
    for name in functions():
        this = [{"Name": "FunctionName", "Value": {"Ref": name}}]
        assert [alarm for alarm in alarms if alarm.get("MetricName") == "Errors" and alarm["Dimensions"] == this], name
        assert this in throttled, name


def test_every_function_has_a_role_of_its_own() -> None:
    roles = [attribute(function["Role"])[0] for function in functions().values()]
    assert len(roles) == len(set(roles))


def test_a_deployment_is_rolled_back_by_its_own_versions_alarm() -> None:
    versions = of_type("AWS::Lambda::Version")
    for name in functions():
        group = of_type("AWS::CodeDeploy::DeploymentGroup")[f"{name}DeploymentGroup"]
        alarm = f"{name.removesuffix('Function')}DeploymentAlarm"
        watched = {"Enabled": True, "Alarms": [{"Name": {"Ref": alarm}}]}
        assert group["AlarmConfiguration"] == {"Fn::If": ["WatchesDeployments", watched, {}]}
        assert "DEPLOYMENT_STOP_ON_ALARM" in group["AutoRollbackConfiguration"]["Events"]
        assert attribute(group["ServiceRoleArn"])[0] == "DeploymentRole"

        [version] = [each for each, properties in versions.items() if properties["FunctionName"] == {"Ref": name}]
        assert attribute(of_type("AWS::Lambda::Alias")[f"{name}Aliaslive"]["FunctionVersion"]) == (version, "Version")
        executed = [
            attribute(dimension["Value"])
            for query in of_type("AWS::CloudWatch::Alarm")[alarm]["Metrics"]
            for dimension in query.get("MetricStat", {}).get("Metric", {}).get("Dimensions", [])
            if dimension["Name"] == "ExecutedVersion"
        ]
        assert executed == [(version, "Version")] * 2
        assert f"${{{version}.Version}}" in of_type("AWS::CloudWatch::Alarm")[alarm]["AlarmName"]["Fn::Sub"]


def test_what_callers_wait_for_may_be_started_ahead_and_is_not_by_default() -> None:
    waited_for = {"StatusCheckFunction", "RefundApiFunction"}
    snapshots = {name for name, function in functions().items() if "SnapStart" in function}
    aliases = of_type("AWS::Lambda::Alias").items()
    provisioned = {name.removesuffix("Aliaslive") for name, alias in aliases if "ProvisionedConcurrencyConfig" in alias}
    assert snapshots == provisioned == waited_for
    for name in waited_for:
        snapshot = functions()[name]["SnapStart"]["ApplyOn"]["Fn::If"]
        assert snapshot == ["StartsFromSnapshot", "PublishedVersions", "None"]
        kept = of_type("AWS::Lambda::Alias")[f"{name}Aliaslive"]["ProvisionedConcurrencyConfig"]["Fn::If"]
        assert kept[0] == "HasProvisionedConcurrency"
    parameters = transformed()[0]["Parameters"]
    assert (parameters["SnapStart"]["Default"], parameters["ProvisionedConcurrency"]["Default"]) == ("no", 0)


def test_whatever_calls_a_function_calls_its_alias() -> None:
    aliases = {name for name, alias in of_type("AWS::Lambda::Alias").items() if alias["Name"] == "live"}
    called = [permission["FunctionName"]["Ref"] for permission in of_type("AWS::Lambda::Permission").values()]
    called += [mapping["FunctionName"]["Ref"] for mapping in of_type("AWS::Lambda::EventSourceMapping").values()]
    schedules = [rule for rule in of_type("AWS::Events::Rule").values() if "ScheduleExpression" in rule]
    called += [target["Arn"]["Ref"] for rule in schedules for target in rule["Targets"]]
    assert set(called) == aliases
    assert len(aliases) == len(functions())
    [api] = of_type("AWS::ApiGatewayV2::Api").values()
    for operation in operations(api).values():
        uri = json.dumps(operation["x-amazon-apigateway-integration"]["uri"])
        assert any(f"${{{alias}}}" in uri for alias in aliases), uri


@pytest.mark.parametrize("changed", [1, 2, 3], ids=["the layer", "the code", "the configuration"])
def test_a_change_publishes_a_new_version_of_every_function(changed: int) -> None:
    before, after = of_type("AWS::Lambda::Version"), of_type("AWS::Lambda::Version", changed)
    assert len(before) == len(after) == len(functions())
    assert set(before) & set(after) == set()


# ---- API


def operations(api: Properties) -> dict[tuple[str, str], Properties]:
    return {
        (path, method): operation
        for path, methods in api["Body"]["paths"].items()
        for method, operation in methods.items()
    }


def body(creates_user_pool: bool) -> Properties:
    """What API Gateway gets, with conditions and references as a deployment would resolve them."""
    [api] = of_type("AWS::ApiGatewayV2::Api").values()

    def resolved(value: Any) -> Any:
        match value:
            case {"Fn::If": ["CreatesUserPool", then, otherwise]}:
                return resolved(then if creates_user_pool else otherwise)
            case {"Ref": str(name)}:
                return name
            case {"Fn::Sub": str(text)}:
                return text
            case dict():
                assert not any(key.startswith("Fn::") for key in value), value
                return {key: resolved(item) for key, item in value.items()}
            case list():
                return [resolved(item) for item in value]
        return value

    found: Properties = resolved(api["Body"])
    return found


def document() -> Properties:
    found: Properties = yaml.safe_load((ROOT / "docs/openapi.yaml").read_text())
    return found


@pytest.mark.parametrize("creates_user_pool", [False, True])
def test_the_apis_body_is_valid_openapi(creates_user_pool: bool) -> None:
    """By somebody else's parser: API Gateway refuses a body about which its own has a warning."""
    found = body(creates_user_pool)
    assert of_type("AWS::ApiGatewayV2::Api")["Api"]["FailOnWarnings"] is True
    assert found["openapi"] == "3.0.1"
    OpenAPIV30SpecValidator(found).validate()


@pytest.mark.parametrize(
    "break_it",
    [
        lambda operation: operation["parameters"][0].pop("schema"),
        lambda operation: operation.update(parameters=[]),
        lambda operation: operation.update(responses={}),
        lambda operation: operation.update(security=[{"Jwt": {"Fn::If": []}}]),
    ],
)
def test_the_parser_refuses_what_sam_alone_would_make(break_it: Callable[[Properties], object]) -> None:
    found = body(False)
    break_it(found["paths"]["/v1/transactions/{merchantOrderId}"]["get"])
    with pytest.raises(OpenAPIValidationError):
        OpenAPIV30SpecValidator(found).validate()


@pytest.mark.parametrize("prefix", ["", "qris-gateway/"])
def test_the_apis_operations_are_the_documents_with_their_scopes(prefix: str) -> None:
    """Scope by scope: who has any of them may call the operation."""
    wanted = {
        (path, method): [prefix + scope for entry in operation["security"] for scope in entry["jwt"]]
        for path, item in document()["paths"].items()
        for method, operation in item.items()
        if method != "parameters"
    }
    found = {
        (path, method): [scope for entry in operation["security"] for scope in entry["Jwt"]]
        for path, item in body(bool(prefix))["paths"].items()
        for method, operation in item.items()
    }
    assert found == wanted
    assert [route for route, scopes in found.items() if not scopes] == sorted(OPEN_ROUTES)
    # One requirement a route: of several, API Gateway takes one.
    assert all(
        len(operation["security"]) == (route not in OPEN_ROUTES)
        for route, operation in operations({"Body": body(False)}).items()
    )


def test_each_operation_calls_the_alias_of_the_function_that_has_it() -> None:
    template = Template.load_local().model()
    aliases = of_type("AWS::Lambda::Alias")
    permissions = [
        (permission["FunctionName"]["Ref"], permission["SourceArn"]["Fn::Sub"][0].split("${__Stage__}")[1])
        for permission in of_type("AWS::Lambda::Permission").values()
        if permission["Principal"] == "apigateway.amazonaws.com"
    ]
    for route in template.routes:
        operation = body(False)["paths"][route.path][route.method.lower()]
        alias = f"{route.function}Aliaslive"
        assert aliases[alias]["FunctionName"] == {"Ref": route.function}
        integration = operation["x-amazon-apigateway-integration"]
        assert (integration["type"], integration["payloadFormatVersion"]) == ("aws_proxy", "2.0")
        assert f"functions/${{{alias}}}/invocations" in integration["uri"]
        source = re.sub(r"\{\w+\}", "*", route.path)
        assert (alias, f"/{route.method}{source}") in permissions
    assert len(permissions) == len(template.routes) == len(operations({"Body": body(False)}))


def test_the_authorizer_checks_tokens_of_the_issuer_or_of_the_user_pool() -> None:
    for creates_user_pool, issuer, audience in (
        (False, "JwtIssuer", "JwtAudience"),
        (True, "https://cognito-idp.${AWS::Region}.${AWS::URLSuffix}/${UserPool}", "UserPoolClient"),
    ):
        [scheme] = body(creates_user_pool)["components"]["securitySchemes"].values()
        assert scheme["x-amazon-apigateway-authorizer"] == {
            "type": "jwt",
            "identitySource": "$request.header.Authorization",
            "jwtConfiguration": {"issuer": issuer, "audience": [audience]},
        }


def test_every_stage_limits_its_requests_and_logs_them() -> None:
    for stage in of_type("AWS::ApiGatewayV2::Stage").values():
        assert stage["DefaultRouteSettings"]["ThrottlingRateLimit"]
        assert stage["DefaultRouteSettings"]["ThrottlingBurstLimit"]
        assert stage["AccessLogSettings"]["DestinationArn"]


# ---- roles


def test_every_role_is_a_functions_or_codedeploys() -> None:
    roles = of_type("AWS::IAM::Role")
    codedeploy = roles.pop("DeploymentRole")
    assert codedeploy["ManagedPolicyArns"] == [
        {"Fn::Sub": "arn:${AWS::Partition}:iam::aws:policy/service-role/AWSCodeDeployRoleForLambda"},
    ]
    assert "Policies" not in codedeploy
    assert set(roles) == {attribute(function["Role"])[0] for function in functions().values()}
    for name, role in roles.items():
        [trust] = role["AssumeRolePolicyDocument"]["Statement"]
        assert trust["Principal"] == {"Service": "lambda.amazonaws.com"}, name
        assert "ManagedPolicyArns" not in role, f"{name}: a managed policy reaches further than one function needs"


EXISTING = "arn:${AWS::Partition}:dynamodb:${AWS::Region}:${AWS::AccountId}:table/"


def resources(statement: Properties) -> list[Any]:
    """Both of a choice: the stack's own table, and an existing one."""
    listed = as_list(statement["Resource"])
    return [each for resource in listed for each in (resource["Fn::If"][1:] if "Fn::If" in resource else [resource])]


def test_no_role_has_a_wildcard_action_or_a_resource_wider_than_it_needs() -> None:
    for name, role in of_type("AWS::IAM::Role").items():
        for statement in statements(role) if "Policies" in role else []:
            where = f"{name}: {statement['Sid']}"
            actions = as_list(statement["Action"])
            assert statement["Effect"] == "Allow"
            assert "NotAction" not in statement
            assert "NotResource" not in statement
            assert [action for action in actions if "*" in action] == [], where
            for resource in resources(statement):
                if resource == "*":
                    assert {action.split(":")[0] for action in actions} == {"xray"}, where
                elif "Fn::Sub" in resource:
                    assert resource["Fn::Sub"] in (
                        "arn:${AWS::Partition}:secretsmanager:${AWS::Region}:${AWS::AccountId}:secret:${SecretPrefix}*",
                        "${LedgerTable.Arn}/index/open-refunds",
                        *(f"{EXISTING}${{ExistingLedgerTable}}{index}" for index in ("", "/index/open-refunds")),
                        f"{EXISTING}${{ExistingAuditTable}}",
                    ), where
                elif "Ref" in resource:
                    assert resource["Ref"] == "KmsKeyArn"
                else:
                    assert attribute(resource)[1] == "Arn", where


def test_a_function_writes_to_its_own_logs_only() -> None:
    for name, function in functions().items():
        role = of_type("AWS::IAM::Role")[attribute(function["Role"])[0]]
        [logs] = [statement for statement in statements(role) if statement["Sid"] == "WriteLogs"]
        assert attribute(logs["Resource"])[0] == function["LoggingConfig"]["LogGroup"]["Ref"], name


def test_a_role_may_use_the_key_only_through_the_services_it_uses() -> None:
    for name, role in of_type("AWS::IAM::Role").items():
        if "Policies" not in role:
            continue
        services = {action.split(":")[0] for each in statements(role) for action in as_list(each["Action"])}
        used = services & {"dynamodb", "sqs", "secretsmanager"}
        through = [
            each["Condition"]["StringEquals"]["kms:ViaService"] for each in statements(role) if "Condition" in each
        ]
        named = {service["Fn::Sub"].split(".")[0] for each in through for service in each}
        assert named == used, name
        assert ("kms" in services) == bool(used), name


# ---- storage


def test_every_table_is_encrypted_recoverable_and_kept() -> None:
    resources = transformed()[0]["Resources"]
    for name, table in of_type("AWS::DynamoDB::Table").items():
        assert table["SSESpecification"]["SSEEnabled"] is True
        assert table["PointInTimeRecoverySpecification"]["PointInTimeRecoveryEnabled"] is True
        assert table["DeletionProtectionEnabled"] is True
        assert resources[name]["DeletionPolicy"] == resources[name]["UpdateReplacePolicy"] == "Retain"


def test_every_queue_is_encrypted_and_refuses_what_comes_without_tls() -> None:
    policies = of_type("AWS::SQS::QueuePolicy").values()
    covered = {queue["Ref"] for policy in policies for queue in policy["Queues"]}
    assert covered == set(of_type("AWS::SQS::Queue"))
    for policy in policies:
        statements = policy["PolicyDocument"]["Statement"]
        assert all((one["Effect"], one["Principal"]) == ("Deny", "*") for one in statements)
        [statement] = [one for one in statements if one["Action"] == "sqs:*"]
        assert statement["Condition"] == {"Bool": {"aws:SecureTransport": "false"}}
        assert {attribute(each)[0] for each in statement["Resource"]} == {queue["Ref"] for queue in policy["Queues"]}
    for queue in of_type("AWS::SQS::Queue").values():
        assert queue["SqsManagedSseEnabled"] == {"Fn::If": ["HasKmsKey", False, True]}


def test_the_key_given_by_parameter_encrypts_all_that_is_stored() -> None:
    where: dict[str, Callable[[Properties], Any]] = {
        "AWS::DynamoDB::Table": lambda properties: properties["SSESpecification"]["KMSMasterKeyId"],
        "AWS::SQS::Queue": lambda properties: properties["KmsMasterKeyId"],
        "AWS::SecretsManager::Secret": lambda properties: properties["KmsKeyId"],
        "AWS::Logs::LogGroup": lambda properties: properties["KmsKeyId"],
    }
    for kind, key in where.items():
        for name, properties in of_type(kind).items():
            assert key(properties) == {"Fn::If": ["HasKmsKey", {"Ref": "KmsKeyArn"}, {"Ref": "AWS::NoValue"}]}, name


# ---- the guides


@pytest.mark.parametrize("guide", ["docs/deploy.md", "docs/operations.md"])
def test_a_guides_commands_name_outputs_and_resources_of_the_stack(guide: str) -> None:
    text = (ROOT / guide).read_text()
    outputs = set(re.findall(r"\$\(output (\w+)\)", text))
    assert outputs
    assert outputs <= set(transformed()[0]["Outputs"])
    assert set(re.findall(r"--logical-resource-id (\w+)", text)) <= set(transformed()[0]["Resources"])
