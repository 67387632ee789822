"""The rules that template.yaml, samconfig.toml and the events must keep."""

from __future__ import annotations

import fnmatch
import hashlib
import importlib
import json
import operator
import re
import tomllib
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any
from urllib.parse import unquote

import pytest

from checks import api_body
from deploy.parameters import UNSTAMPED
from devstack.cloudformation import Document, Resolver
from devstack.template import Template
from tests.docker.invocations import INVOCATIONS

ROOT = Path(__file__).parents[2]

# The API's table in the design: a route that is not here, or has other scopes, is a mistake. Each of them opens it.
SCOPES = {
    "GET /v1/transactions/{merchantOrderId}": ["transactions:read"],
    "POST /v1/transactions/{merchantOrderId}/refunds": ["refunds:write"],
    "GET /v1/transactions/{merchantOrderId}/refunds": ["refunds:read"],
    "GET /v1/transactions/{merchantOrderId}/refunds/{refundId}": ["refunds:read"],
    "POST /v1/transactions/{merchantOrderId}/refunds/{refundId}/withdrawal": ["refunds:write", "refunds:resolve"],
    "POST /v1/transactions/{merchantOrderId}/refunds/{refundId}/resolution": ["refunds:resolve"],
    "GET /v1/refunds": ["refunds:read"],
    "GET /v1/transactions/{merchantOrderId}/audit": ["audit:read"],
}
ALL_SCOPES = {scope for scopes in SCOPES.values() for scope in scopes}
# Open to everybody; no other route may be.
HEALTH = "GET /v1/health"
ENVIRONMENT = {
    "CONFIGURATION",
    "INDODANA_URL",
    "INDODANA_BASE_PATH",
    "INDODANA_STATUS_VERSION",
    "INDODANA_CANCELLATION_VERSION",
    "SECRET_PREFIX",
    "MERCHANT_ID",
    "MERCHANT_CLAIM",
    "MERCHANT_IDS",
    "QUEUE_SENDERS",
    "SCOPE_PREFIX",
    "LEDGER_TABLE",
    "AUDIT_TABLE",
    "REFUND_QUEUE_URL",
    "REFUND_DEAD_LETTER_QUEUE_URL",
    "MAX_RECEIVE_COUNT",
    "AMBIGUOUS_REFUNDS",
    "CONFLICT_KINDS_NOT_DONE",
    "CONFLICT_KINDS_DONE",
    "RESOLUTION_HOLD_SECONDS",
    "POWERTOOLS_SERVICE_NAME",
    "POWERTOOLS_METRICS_NAMESPACE",
    "POWERTOOLS_LOG_LEVEL",
    "RES_OPTIONS",
    "AWS_ENDPOINT_URL",
}
HTTP_API_TIMEOUT_SECONDS = 30
OWN_KEY = {"Fn::If": ["HasKmsKey", {"Ref": "KmsKeyArn"}, {"Ref": "AWS::NoValue"}]}


TEMPLATE = Template.load_local().document
SAMCONFIG = tomllib.loads((ROOT / "samconfig.toml").read_text())
PARAMETERS: dict[str, dict[str, Any]] = TEMPLATE["Parameters"]
RESOURCES: dict[str, dict[str, Any]] = TEMPLATE["Resources"]


def of_type(kind: str) -> dict[str, dict[str, Any]]:
    return {name: resource for name, resource in RESOURCES.items() if resource["Type"] == kind}


FUNCTIONS = {name: resource["Properties"] for name, resource in of_type("AWS::Serverless::Function").items()}
QUEUES = {name: resource["Properties"] for name, resource in of_type("AWS::SQS::Queue").items()}
EVENT_FILES = sorted((ROOT / "events").rglob("*.json"))


def package(function: str) -> str:
    """StatusCheckFunction's is status_check."""
    return str(FUNCTIONS[function]["Handler"]).split(".")[0]


def routes(function: str) -> dict[str, dict[str, Any]]:
    return {
        f"{event['Properties']['Method']} {event['Properties']['Path']}": event["Properties"]
        for event in FUNCTIONS[function].get("Events", {}).values()
        if event["Type"] == "HttpApi"
    }


def statements(function: str) -> list[dict[str, Any]]:
    """What the function's role may do, where there is a key of one's own too."""
    properties = FUNCTIONS[function]
    role = RESOURCES[properties["Role"]["Fn::GetAtt"].removesuffix(".Arn")]["Properties"]
    assert "ManagedPolicyArns" not in role, "a managed policy reaches further than one function needs"
    found = [statement for policy in role["Policies"] for statement in policy["PolicyDocument"]["Statement"]]
    return [statement["Fn::If"][1] if "Fn::If" in statement else statement for statement in found]


def as_list(value: Any) -> list[Any]:
    return value if isinstance(value, list) else [value]


def actions_on(function: str, resource: str) -> set[str]:
    return {
        action
        for statement in statements(function)
        if any(resource in json.dumps(target) for target in as_list(statement["Resource"]))
        for action in as_list(statement["Action"])
    }


def overrides(environment: str) -> dict[str, str]:
    sections = SAMCONFIG[environment].values()
    given = [entry for section in sections for entry in section["parameters"].get("parameter_overrides", [])]
    return dict(entry.split("=", 1) for entry in given)


def is_allowed(parameter: str, value: str) -> bool:
    rules = PARAMETERS[parameter]
    if "AllowedValues" in rules:
        return value in map(str, rules["AllowedValues"])
    if "MinValue" in rules:
        return value.isdigit() and rules["MinValue"] <= int(value) <= rules["MaxValue"]
    return re.fullmatch(rules["AllowedPattern"], value) is not None


# ------------------------------------------------------------------------------------------------- API


def test_every_route_of_the_design_is_there_with_its_scope_and_no_other() -> None:
    body = RESOURCES["Api"]["Properties"]["DefinitionBody"]
    found = {
        f"{method.upper()} {path}": operation["security"]
        for path, item in body["paths"].items()
        for method, operation in item.items()
    }
    # Cognito puts the resource server's name before a scope.
    assert found == {HEALTH: []} | {
        route: [{"Jwt": [{"Fn::If": ["CreatesUserPool", f"qris-gateway/{scope}", scope]} for scope in scopes]}]
        for route, scopes in SCOPES.items()
    }
    assert list(body["components"]["securitySchemes"]) == ["Jwt"]
    prefix = TEMPLATE["Globals"]["Function"]["Environment"]["Variables"]["SCOPE_PREFIX"]
    assert prefix == {"Fn::If": ["CreatesUserPool", "qris-gateway/", ""]}


def test_every_route_is_in_one_functions_events() -> None:
    found = [route for function in FUNCTIONS for route in routes(function)]
    assert sorted(found) == sorted([HEALTH, *SCOPES])
    for function in FUNCTIONS:
        for properties in routes(function).values():
            # SAM would add an event's own Auth to the body's.
            assert properties.keys() == {"ApiId", "Method", "Path"}
            assert properties["ApiId"] == {"Ref": "Api"}
    assert "Auth" not in RESOURCES["Api"]["Properties"]


def test_the_apis_routes_are_those_of_the_document() -> None:
    text = api_body.TEMPLATE.read_text()
    assert text == api_body.with_routes(text, api_body.load_document()), (
        "docs/openapi.yaml has changed: .venv/bin/python -m checks.api_body --write"
    )


def test_the_open_route_is_throttled_harder_and_says_nothing() -> None:
    properties = RESOURCES["Api"]["Properties"]
    limits = properties["RouteSettings"][HEALTH]
    assert 0 < limits["ThrottlingRateLimit"] < properties["DefaultRouteSettings"]["ThrottlingRateLimit"]
    assert 0 < limits["ThrottlingBurstLimit"] < properties["DefaultRouteSettings"]["ThrottlingBurstLimit"]
    assert set(routes("HealthFunction")) == {HEALTH}
    event = json.loads((ROOT / "events/health/anybody.json").read_text())
    answer = importlib.import_module("health.handler").lambda_handler(event, None)
    assert answer == {"statusCode": 204, "headers": {"cache-control": "no-store"}}


def test_the_access_log_says_who_got_what_and_has_no_personal_data() -> None:
    log = json.loads(RESOURCES["Api"]["Properties"]["AccessLogSettings"]["Format"]["Fn::Sub"])
    assert log.pop("service") == "${AWS::StackName}"
    assert log.keys() >= {"requestId", "status", "method", "path", "sourceIp", "subject", "client", "authorizedParty"}
    for value in log.values():
        assert re.fullmatch(r"\$context\.[A-Za-z._]+", value.replace("client_id", "client"))


@pytest.mark.parametrize("function", [function for function in FUNCTIONS if routes(function)])
def test_a_function_behind_the_api_ends_before_the_api_gives_up(function: str) -> None:
    assert FUNCTIONS[function]["Timeout"] < HTTP_API_TIMEOUT_SECONDS


def test_the_user_pool_knows_the_scopes_and_serves_only_machines() -> None:
    assert {name for name, resource in RESOURCES.items() if resource["Type"].startswith("AWS::Cognito::")} == {
        name for name, resource in RESOURCES.items() if resource.get("Condition") == "CreatesUserPool"
    }
    scopes = RESOURCES["ResourceServer"]["Properties"]["Scopes"]
    assert {scope["ScopeName"] for scope in scopes} == ALL_SCOPES
    client = RESOURCES["UserPoolClient"]["Properties"]
    assert client["AllowedOAuthFlows"] == ["client_credentials"]
    assert {each["Fn::Sub"] for each in client["AllowedOAuthScopes"]} == {
        f"${{ResourceServer}}/{scope}" for scope in ALL_SCOPES
    }
    assert RESOURCES["ResourceServer"]["Properties"]["Identifier"] == "qris-gateway"
    assert RESOURCES["UserPool"]["Properties"]["AdminCreateUserConfig"] == {"AllowAdminCreateUserOnly": True}


@pytest.mark.parametrize(
    ("given", "is_right"),
    [
        ({"JwtIssuer": "https://issuer.example", "JwtAudience": "gateway"}, True),
        ({"JwtIssuer": "https://issuer.example", "JwtAudience": "gateway", "MerchantClaim": "merchant_id"}, False),
        (
            {
                "JwtIssuer": "https://issuer.example",
                "JwtAudience": "gateway",
                "MerchantClaim": "merchant_id",
                "MerchantIds": "m1,m2",
            },
            True,
        ),
        ({"JwtIssuer": "https://issuer.example"}, False),
        ({"JwtAudience": "gateway"}, False),
        ({"CreateUserPool": "yes"}, True),
        ({"CreateUserPool": "yes", "MerchantClaim": "merchant_id", "MerchantIds": "m1"}, False),
        ({"CreateUserPool": "yes", "JwtIssuer": "https://issuer.example"}, False),
        ({"CreateUserPool": "yes", "JwtAudience": "gateway"}, False),
    ],
)
def test_a_stack_has_one_issuer_and_the_claim_its_tokens_have(given: dict[str, str], is_right: bool) -> None:
    resolver = Resolver(Template(TEMPLATE, overrides={"MerchantId": "m1"} | given), {})
    failed = [
        assertion["AssertDescription"]
        for name, rule in TEMPLATE["Rules"].items()
        if resolver.truth(rule["RuleCondition"], name)
        for assertion in rule["Assertions"]
        if not resolver.truth(assertion["Assert"], name)
    ]
    assert (failed == []) is is_right


@pytest.mark.parametrize("environment", ["staging", "production"])
def test_an_environment_has_an_issuer_or_a_user_pool(environment: str) -> None:
    given = overrides(environment)
    assert ({"JwtIssuer", "JwtAudience"} <= set(given)) != (given.get("CreateUserPool") == "yes")


# ------------------------------------------------------------------------------------------- functions


@pytest.mark.parametrize("function", FUNCTIONS)
def test_every_handler_can_be_imported(function: str) -> None:
    module, _, name = FUNCTIONS[function]["Handler"].rpartition(".")
    assert callable(getattr(importlib.import_module(module), name))


def test_the_environment_has_the_names_that_the_functions_read() -> None:
    assert set(TEMPLATE["Globals"]["Function"]["Environment"]["Variables"]) == ENVIRONMENT
    assert [name for name, properties in FUNCTIONS.items() if "Environment" in properties] == []


def test_no_aws_endpoint_is_set_in_aws() -> None:
    variables = TEMPLATE["Globals"]["Function"]["Environment"]["Variables"]
    assert variables["AWS_ENDPOINT_URL"]["Fn::If"] == [
        "HasAwsEndpointUrl",
        {"Ref": "AwsEndpointUrl"},
        {"Ref": "AWS::NoValue"},
    ]
    assert is_allowed("AwsEndpointUrl", PARAMETERS["AwsEndpointUrl"]["Default"])
    for url in ("http://127.0.0.1:5000", "https://dynamodb.ap-southeast-3.amazonaws.com", " "):
        assert not is_allowed("AwsEndpointUrl", url), url


@pytest.mark.parametrize("function", FUNCTIONS)
def test_every_function_has_a_log_group_with_a_retention_of_its_own(function: str) -> None:
    groups = [properties["LoggingConfig"]["LogGroup"]["Ref"] for properties in FUNCTIONS.values()]
    group = FUNCTIONS[function]["LoggingConfig"]["LogGroup"]["Ref"]
    assert groups.count(group) == 1
    assert RESOURCES[group]["Properties"]["RetentionInDays"] == {"Ref": "LogRetentionDays"}


def test_log_groups_that_the_runbook_reads_are_the_stacks() -> None:
    page = (ROOT / "docs/operations.md").read_text()
    names = {group["Properties"]["LogGroupName"]["Fn::Sub"] for group in of_type("AWS::Logs::LogGroup").values()}
    [functions] = re.findall(r"for group in ([\w -]+); do\n +aws logs tail \"/aws/lambda/\$STACK-\$group\"", page)
    [api] = re.findall(r'aws logs tail "(/[\w/-]+/)\$STACK"', page)
    assert names == {
        *(f"/aws/lambda/${{AWS::StackName}}-{group}" for group in functions.split()),
        f"{api}${{AWS::StackName}}",
    }


def test_every_log_group_has_a_retention_and_the_key() -> None:
    for name, group in of_type("AWS::Logs::LogGroup").items():
        assert group["Properties"]["RetentionInDays"] == {"Ref": "LogRetentionDays"}, name
        assert group["Properties"]["KmsKeyId"] == OWN_KEY, name
        # Kept, but not after a first deployment that failed: a name left behind would block the next one.
        assert (group["DeletionPolicy"], group["UpdateReplacePolicy"]) == ("RetainExceptOnCreate", "Retain"), name


def test_the_apis_log_group_needs_no_resource_policy_of_its_own() -> None:
    """CloudWatch Logs has few and short resource policies; log delivery writes each group of another name into one."""
    [group] = [name for name in of_type("AWS::Logs::LogGroup") if name == "ApiLogs"]
    assert RESOURCES[group]["Properties"]["LogGroupName"]["Fn::Sub"].startswith("/aws/vendedlogs/")


# ----------------------------------------------------------------------------------------------- roles


@pytest.mark.parametrize("function", FUNCTIONS)
def test_no_role_has_a_wildcard_action_or_reaches_every_resource(function: str) -> None:
    for statement in statements(function):
        assert statement["Effect"] == "Allow"
        assert [action for action in as_list(statement["Action"]) if "*" in action] == []
        if statement["Sid"] != "SendTraces":  # X-Ray knows no resource to name
            assert "*" not in as_list(statement["Resource"])


@pytest.mark.parametrize("function", FUNCTIONS)
def test_no_role_may_change_or_delete_what_the_audit_table_holds(function: str) -> None:
    allowed = {"AuditQueryFunction": {"dynamodb:Query", "dynamodb:PutItem"}, "HealthFunction": set()}
    assert actions_on(function, "AuditTable") == allowed.get(function, {"dynamodb:PutItem"})


def test_the_audit_query_may_only_read_the_audit_table_and_add_to_it() -> None:
    assert {statement["Sid"]: statement["Action"] for statement in statements("AuditQueryFunction")} == {
        "WriteLogs": ["logs:CreateLogStream", "logs:PutLogEvents"],
        "SendTraces": ["xray:PutTelemetryRecords", "xray:PutTraceSegments"],
        "UseKey": ["kms:Decrypt", "kms:DescribeKey", "kms:Encrypt", "kms:GenerateDataKey"],
        "ReadAudit": "dynamodb:Query",
        "AppendAudit": "dynamodb:PutItem",
    }


def test_no_role_deletes_from_the_ledger_and_status_check_has_no_access() -> None:
    assert [name for name in FUNCTIONS if "dynamodb:DeleteItem" in actions_on(name, "LedgerTable")] == []
    assert actions_on("StatusCheckFunction", "LedgerTable") == set()


def test_only_those_who_call_indodana_may_read_merchants_keys() -> None:
    readers = {name for name in FUNCTIONS if "secretsmanager:GetSecretValue" in actions_on(name, "${SecretPrefix}")}
    assert readers == {"StatusCheckFunction", "RefundApiFunction", "RefundWorkerFunction"}
    assert is_allowed("SecretPrefix", "qris-gateway/")
    assert not is_allowed("SecretPrefix", "qris-gateway"), "without its end, the prefix would reach others' secrets"


# --------------------------------------------------------------------------------------------- storage


@pytest.mark.parametrize("table", of_type("AWS::DynamoDB::Table"))
def test_every_table_is_encrypted_recoverable_and_kept(table: str) -> None:
    resource = RESOURCES[table]
    properties = resource["Properties"]
    assert resource["DeletionPolicy"] == resource["UpdateReplacePolicy"] == "Retain"
    assert properties["DeletionProtectionEnabled"] is True
    assert properties["PointInTimeRecoverySpecification"] == {"PointInTimeRecoveryEnabled": True}
    assert properties["SSESpecification"] == {"SSEEnabled": True, "SSEType": "KMS", "KMSMasterKeyId": OWN_KEY}
    assert properties["BillingMode"] == "PAY_PER_REQUEST"


@pytest.mark.parametrize("secret", of_type("AWS::SecretsManager::Secret"))
def test_every_secret_is_kept_and_none_stands_in_the_template(secret: str) -> None:
    resource = RESOURCES[secret]
    # Its name is fixed: left behind by a first deployment that failed, it would make the next one fail too.
    assert (resource["DeletionPolicy"], resource["UpdateReplacePolicy"]) == ("RetainExceptOnCreate", "Retain")
    assert "SecretString" not in resource["Properties"]
    assert resource["Properties"]["KmsKeyId"] == OWN_KEY


def references(value: Any, name: str) -> Iterator[Any]:
    """The functions of CloudFormation in the value that refer to that resource, the innermost."""
    if isinstance(value, dict):
        for key, item in value.items():
            text = item if isinstance(item, str) else ""
            refers = {
                "Ref": text == name,
                "Fn::GetAtt": text.startswith(f"{name}."),
                "Fn::Sub": re.search(rf"\$\{{{name}[.}}]", text) is not None,
            }
            if refers.get(key):
                yield value
            yield from references(item, name)
    elif isinstance(value, list):
        for item in value:
            yield from references(item, name)


def chosen_tables(value: Any, table: str) -> Iterator[tuple[Any, Any]]:
    """What stands for the stack's own table, and for an existing one, wherever the template chooses between them."""
    if isinstance(value, dict):
        if value.get("Fn::If", [""])[0] == f"Creates{table}":
            yield value["Fn::If"][1], value["Fn::If"][2]
        for item in value.values():
            yield from chosen_tables(item, table)
    elif isinstance(value, list):
        for item in value:
            yield from chosen_tables(item, table)


@pytest.mark.parametrize("table", of_type("AWS::DynamoDB::Table"))
def test_an_existing_table_takes_the_place_of_the_stacks_own_everywhere(table: str) -> None:
    assert RESOURCES[table]["Condition"] == f"Creates{table}"
    assert TEMPLATE["Conditions"][f"Creates{table}"] == {"Fn::Equals": [{"Ref": f"Existing{table}"}, ""]}
    template = {name: part for name, part in TEMPLATE.items() if name not in ("Parameters", "Conditions")}
    arn = "arn:${AWS::Partition}:dynamodb:${AWS::Region}:${AWS::AccountId}:table/"
    existing = {
        f'{{"Ref": "{table}"}}': {"Ref": f"Existing{table}"},
        f'{{"Fn::GetAtt": "{table}.Arn"}}': {"Fn::Sub": f"{arn}${{Existing{table}}}"},
        f'{{"Fn::Sub": "${{{table}.Arn}}/index/open-refunds"}}': {
            "Fn::Sub": f"{arn}${{Existing{table}}}/index/open-refunds"
        },
    }
    choices = list(chosen_tables(template, table))
    assert len(choices) == len(list(references(template, table))) > 5, "each reference is one side of a choice"
    for own, other in choices:
        assert other == existing[json.dumps(own)]


@pytest.mark.parametrize("name", ["ExistingLedgerTable", "ExistingAuditTable"])
def test_an_existing_table_is_given_by_its_name(name: str) -> None:
    assert is_allowed(name, "qris-gateway-production-LedgerTable-1ABCDEF-restored")
    assert not is_allowed(name, "arn:aws:dynamodb:ap-southeast-3:123456789012:table/ledger")


def test_the_audit_tables_own_policy_denies_changing_and_deleting() -> None:
    policy = RESOURCES["AuditTable"]["Properties"]["ResourcePolicy"]["PolicyDocument"]
    [statement] = policy["Statement"]
    assert (statement["Effect"], statement["Principal"], statement["Resource"]) == ("Deny", "*", "*")
    denied = set(statement["Action"])
    assert denied == {
        f"dynamodb:{call}"
        for call in (
            *("BatchWriteItem", "DeleteItem", "UpdateItem", "PartiQLDelete", "PartiQLUpdate"),
            *("DeleteTable", "UpdateTimeToLive"),
        )
    }
    # Whoever deploys can still manage the table and mend the policy itself.
    assert not denied & {"dynamodb:PutResourcePolicy", "dynamodb:DeleteResourcePolicy", "dynamodb:UpdateTable"}
    for function in FUNCTIONS:
        assert not denied & actions_on(function, "AuditTable"), function
    assert statement["Condition"] == {
        "Fn::If": [
            "HasAuditBreakGlassRole",
            {"ArnNotEquals": {"aws:PrincipalArn": {"Ref": "AuditBreakGlassRoleArn"}}},
            {"Ref": "AWS::NoValue"},
        ]
    }


def test_the_secrets_own_policy_lets_only_its_readers_read_it() -> None:
    [policy] = [resource["Properties"] for resource in of_type("AWS::SecretsManager::ResourcePolicy").values()]
    assert policy["SecretId"] == {"Ref": "MerchantSecret"}
    assert policy["BlockPublicPolicy"] is True
    [statement] = policy["ResourcePolicy"]["Statement"]
    assert (statement["Effect"], statement["Principal"]) == ("Deny", "*")
    assert statement["Action"] == "secretsmanager:GetSecretValue", "storing new keys stays possible"
    condition, with_readers, without = statement["Condition"]["ArnNotEquals"]["aws:PrincipalArn"]["Fn::If"]
    readers = [name for name in FUNCTIONS if "secretsmanager:GetSecretValue" in actions_on(name, "${SecretPrefix}")]
    roles = [FUNCTIONS[name]["Role"] for name in readers]
    assert condition == "HasKeyReaders"
    assert without == roles
    joined = ",".join(f"${{{role['Fn::GetAtt']}}}" for role in roles)
    assert with_readers == {"Fn::Split": [",", {"Fn::Sub": f"{joined},${{SecretReaderArns}}"}]}
    # CloudFormation reads a secret when it updates it.
    assert statement["Condition"]["StringNotEquals"] == {"aws:CalledViaFirst": "cloudformation.amazonaws.com"}


KEPT = {"AWS::Logs::LogGroup", "AWS::SQS::Queue", "AWS::SQS::QueuePolicy"}


@pytest.mark.parametrize("name", [name for name, resource in RESOURCES.items() if resource["Type"] in KEPT])
def test_queues_and_logs_outlive_the_stack(name: str) -> None:
    # Not after a first deployment that failed: what it left behind would make the next one fail, too.
    kept = (RESOURCES[name]["DeletionPolicy"], RESOURCES[name]["UpdateReplacePolicy"])
    assert kept == ("RetainExceptOnCreate", "Retain")


def test_the_stack_policy_protects_all_that_has_data() -> None:
    allow, deny = json.loads((ROOT / "deploy/stack-policy.json").read_text())["Statement"]
    assert (allow["Effect"], allow["Action"], allow["Resource"]) == ("Allow", "Update:*", "*")
    assert (deny["Effect"], deny["Action"]) == ("Deny", ["Update:Replace", "Update:Delete"])
    data = ("AWS::DynamoDB::Table", "AWS::SQS::Queue", "AWS::SecretsManager::Secret", "AWS::Cognito::UserPool")
    assert sorted(deny["Resource"]) == sorted(
        f"LogicalResourceId/{name}" for name, resource in RESOURCES.items() if resource["Type"] in data
    )


# ----------------------------------------------------------------------------------------------- queue


def worked_queues() -> Iterator[tuple[str, dict[str, Any], dict[str, Any]]]:
    """Function, its SQS event's properties, the queue's properties."""
    for function, properties in FUNCTIONS.items():
        for event in properties.get("Events", {}).values():
            if event["Type"] == "SQS":
                queue = event["Properties"]["Queue"]["Fn::GetAtt"].removesuffix(".Arn")
                yield function, event["Properties"], QUEUES[queue]


def test_a_message_stays_invisible_for_six_times_the_workers_timeout() -> None:
    found = list(worked_queues())
    assert found
    for function, event, queue in found:
        window = event.get("MaximumBatchingWindowInSeconds", 0)
        assert queue["VisibilityTimeout"] >= 6 * FUNCTIONS[function]["Timeout"] + window


def test_a_failed_message_fails_alone_and_ends_in_the_dead_letter_queue() -> None:
    for _, event, queue in worked_queues():
        assert event["FunctionResponseTypes"] == ["ReportBatchItemFailures"]
        assert event["ScalingConfig"] == {"MaximumConcurrency": {"Ref": "WorkerMaximumConcurrency"}}
        assert queue["RedrivePolicy"]["deadLetterTargetArn"] == {"Fn::GetAtt": "RefundDeadLetterQueue.Arn"}


def test_a_message_is_received_as_often_as_sqs_allows_by_default() -> None:
    limit = TEMPLATE["Parameters"]["RefundMaxReceiveCount"]
    assert (limit["Default"], limit["MaxValue"]) == (100, 100)


def test_recovery_reads_dead_letters_and_deletes_none() -> None:
    assert actions_on("RecoveryFunction", "RefundDeadLetterQueue") == {"sqs:ReceiveMessage"}


def test_late_recovery_runs_do_not_pile_up() -> None:
    properties = FUNCTIONS["RecoveryFunction"]
    assert properties["EventInvokeConfig"] == {"MaximumRetryAttempts": 0, "MaximumEventAgeInSeconds": 60}
    [schedule] = properties["Events"].values()
    assert schedule["Properties"]["Schedule"] == "rate(1 minute)"
    assert properties["Timeout"] <= 60


def test_the_functions_know_the_queues_own_receive_limit() -> None:
    variables = TEMPLATE["Globals"]["Function"]["Environment"]["Variables"]
    assert variables["MAX_RECEIVE_COUNT"] == QUEUES["RefundQueue"]["RedrivePolicy"]["maxReceiveCount"]


@pytest.mark.parametrize("queue", QUEUES)
def test_queues_are_encrypted_take_only_tls_and_keep_messages_14_days(queue: str) -> None:
    assert QUEUES[queue]["SqsManagedSseEnabled"] == {"Fn::If": ["HasKmsKey", False, True]}
    assert QUEUES[queue]["KmsMasterKeyId"] == OWN_KEY
    assert QUEUES[queue]["MessageRetentionPeriod"] == 14 * 24 * 3600
    [policy] = [p["Properties"] for p in of_type("AWS::SQS::QueuePolicy").values()]
    assert {"Ref": queue} in policy["Queues"]
    [statement] = [one for one in policy["PolicyDocument"]["Statement"] if one["Sid"] == "TlsOnly"]
    assert {"Fn::GetAtt": f"{queue}.Arn"} in statement["Resource"]
    assert (statement["Effect"], statement["Principal"]) == ("Deny", "*")
    assert statement["Condition"] == {"Bool": {"aws:SecureTransport": "false"}}


ROLES = {"RefundApiRole", "RecoveryRole"}
FUNCTION_ROLES = {role["Fn::GetAtt"].removesuffix(".Arn") for role in (one["Role"] for one in FUNCTIONS.values())}
TILLS, OFFICE = "AROAEXAMPLETILLS1", "AIDAEXAMPLEOFFICE"


def may_send(senders: str, *, arn: str = "", user_id: str = "") -> bool:
    """Whether the queue's policy lets the principal send, if its own policy does. Without an ARN and a user id: an AWS
    service. (All operators of a condition must hold; a negated one holds if the request has no such key.)"""
    overrides = {**Template.load_local().parameters, "QueueSenders": senders}
    arns = {name: {"Arn": f"arn:aws:iam::123456789012:role/{name}"} for name in FUNCTION_ROLES}
    resolver = Resolver(Document(TEMPLATE, overrides=overrides), arns)
    document = resolver.resolve(RESOURCES["RefundQueuesPolicy"]["Properties"]["PolicyDocument"], "RefundQueuesPolicy")
    [deny] = [one for one in document["Statement"] if one["Sid"] == "ListedSendersOnly"]
    assert (deny["Effect"], deny["Principal"], deny["Action"]) == ("Deny", "*", "sqs:SendMessage")
    assert deny["Resource"] == resolver.attribute("RefundQueue", "Arn", "")
    matches: dict[str, Callable[[str, str], bool]] = {
        "ArnNotEquals": operator.eq,
        "StringNotEquals": operator.eq,
        "StringNotLike": fnmatch.fnmatchcase,
    }
    given = {"aws:PrincipalArn": arn, "aws:userid": user_id}
    denied = []
    for name, [(key, values)] in ((name, list(block.items())) for name, block in deny["Condition"].items()):
        denied.append(not given[key] or not any(matches[name](given[key], value) for value in values))
    return not all(denied)


@pytest.mark.parametrize("senders", ["", f"{TILLS}=m1", f"{TILLS}=m1,{TILLS}=m2,{OFFICE}=m2"])
def test_only_functions_that_send_and_listed_senders_reach_the_queue(senders: str) -> None:
    listed = {entry.partition("=")[0] for entry in senders.split(",")}
    for role in FUNCTION_ROLES:
        arn = f"arn:aws:iam::123456789012:role/{role}"
        assert may_send(senders, arn=arn, user_id="AROAFUNCTION12345:stack-function") == (role in ROLES)
    role, user = "arn:aws:iam::123456789012:role/other", "arn:aws:iam::123456789012:user/office"
    assert may_send(senders, arn=role, user_id=f"{TILLS}:till-3") == (TILLS in listed)
    assert may_send(senders, arn=user, user_id=OFFICE) == (OFFICE in listed)
    for other in (f"{TILLS}2:till-3", TILLS[:-1], f"{OFFICE}2", OFFICE[:-1], "123456789012", "m1:x", f"{OFFICE}=m2"):
        assert not may_send(senders, arn=role, user_id=other), other
    assert not may_send(senders)  # an AWS service: SNS, EventBridge


def test_the_queues_policy_lets_the_roles_through_that_send_to_it() -> None:
    sending = {
        FUNCTIONS[name]["Role"]["Fn::GetAtt"].removesuffix(".Arn")
        for name in FUNCTIONS
        if "sqs:SendMessage" in actions_on(name, '"RefundQueue.Arn"')
    }
    assert sending == ROLES


def test_the_longest_list_of_senders_fits_into_the_queues_policy() -> None:
    longest = PARAMETERS["QueueSenders"]["MaxLength"]
    shortest_entries = ",".join([f"AROA{'A' * 17}=m"] * (longest // 24))
    resolver = Resolver(
        Document(TEMPLATE, overrides={**Template.load_local().parameters, "QueueSenders": shortest_entries}),
        {name: {"Arn": f"arn:aws:iam::123456789012:role/{'r' * 64}"} for name in FUNCTION_ROLES}
        | {name: {"Arn": f"arn:aws:sqs:ap-southeast-3:123456789012:{'q' * 80}"} for name in QUEUES},
    )
    document = resolver.resolve(RESOURCES["RefundQueuesPolicy"]["Properties"]["PolicyDocument"], "RefundQueuesPolicy")
    assert len(json.dumps(document)) < 8192  # SQS's own limit


# ------------------------------------------------------------------------------------------ parameters


@pytest.mark.parametrize("parameter", PARAMETERS)
def test_every_parameter_says_what_it_is_and_refuses_what_it_is_not(parameter: str) -> None:
    rules = PARAMETERS[parameter]
    assert rules["Description"]
    assert rules["ConstraintDescription"].startswith("must be ")
    assert {"AllowedPattern", "AllowedValues", "MinValue"} & set(rules)
    if "Default" in rules:
        assert is_allowed(parameter, str(rules["Default"]))


def test_every_parameter_is_in_one_group() -> None:
    groups = TEMPLATE["Metadata"]["AWS::CloudFormation::Interface"]["ParameterGroups"]
    assert sorted(name for group in groups for name in group["Parameters"]) == sorted(PARAMETERS)


def test_every_parameter_is_in_the_table_of_the_guide_with_its_default() -> None:
    table = (ROOT / "docs/parameters.md").read_text()
    documented = re.findall(r"^\| `(\w+)` \| (?:`([^`]*)`|(must be given)|) ?\|", table, re.MULTILINE)
    defaults = {name: None if must_be_given else default for name, default, must_be_given in documented}

    assert len(documented) == len(defaults)
    assert defaults == {
        name: str(rules["Default"]) if "Default" in rules else None for name, rules in PARAMETERS.items()
    }


def test_a_deployment_stamps_its_configuration_where_lambda_sees_a_change() -> None:
    """In a variable: without a change of what a version holds, Lambda publishes none and the deployment fails or has no
    effect. A function's tags are no part of its version."""
    text = (ROOT / "template.yaml").read_text()
    assert text.count(UNSTAMPED) == 1
    assert TEMPLATE["Globals"]["Function"]["Environment"]["Variables"]["CONFIGURATION"] == "unstamped"
    assert "Tags" not in TEMPLATE["Globals"]["Function"]
    assert [name for name, properties in FUNCTIONS.items() if "Tags" in properties] == []


@pytest.mark.parametrize("environment", ["staging", "production"])
def test_an_environments_resources_have_the_cost_tags(environment: str) -> None:
    """Tags of the stack: CloudFormation gives them to all that it makes."""
    tags = SAMCONFIG[environment]["deploy"]["parameters"]["tags"]
    assert sorted(tags) == ["Application=qris-gateway", f"Environment={environment}"]


RESERVED = ["StatusCheck", "RefundApi", "RefundWorker", "Recovery"]


@pytest.mark.parametrize("function", FUNCTIONS)
def test_concurrency_is_reserved_by_parameter_and_not_by_default(function: str) -> None:
    name = function.removesuffix("Function")
    expected = {
        "Fn::If": [f"Reserves{name}", {"Ref": f"ReservedConcurrency{name}"}, {"Ref": "AWS::NoValue"}],
    }
    reserved = FUNCTIONS[function].get("ReservedConcurrentExecutions")
    assert reserved == (expected if name in RESERVED else None)


@pytest.mark.parametrize("name", RESERVED)
def test_no_concurrency_is_reserved_where_the_parameter_is_0(name: str) -> None:
    parameter = f"ReservedConcurrency{name}"
    assert PARAMETERS[parameter]["Default"] == 0
    assert "100" in PARAMETERS[parameter]["ConstraintDescription"]
    given = {"MerchantId": "m1", "JwtIssuer": "https://issuer.example", "JwtAudience": "gateway"}
    for value, reserves in (("0", False), ("1", True)):
        resolver = Resolver(Template(TEMPLATE, overrides=given | {parameter: value}), {})
        assert resolver.condition(f"Reserves{name}", name) is reserves


def test_every_role_has_the_permissions_boundary_if_there_is_one() -> None:
    boundary = {"Fn::If": ["HasPermissionsBoundary", {"Ref": "PermissionsBoundaryArn"}, {"Ref": "AWS::NoValue"}]}
    for name, role in of_type("AWS::IAM::Role").items():
        assert role["Properties"]["PermissionsBoundary"] == boundary, name


@pytest.mark.parametrize("function", FUNCTIONS)
def test_traces_are_off_by_default_and_only_then_need_no_permission(function: str) -> None:
    assert (PARAMETERS["Tracing"]["Default"], TEMPLATE["Globals"]["Function"]["Tracing"]) == (
        "PassThrough",
        {"Ref": "Tracing"},
    )
    assert "Tracing" not in FUNCTIONS[function]
    role = RESOURCES[FUNCTIONS[function]["Role"]["Fn::GetAtt"].removesuffix(".Arn")]["Properties"]
    [statement] = [each for each in role["Policies"][0]["PolicyDocument"]["Statement"] if "xray:" in json.dumps(each)]
    condition, allowed, otherwise = statement["Fn::If"]
    assert (condition, allowed["Sid"], otherwise) == ("TracesInvocations", "SendTraces", {"Ref": "AWS::NoValue"})


def test_production_shifts_traffic_gradually_and_its_alarms_reach_somebody() -> None:
    given = overrides("production")
    assert given["DeploymentPreference"] == "Canary10Percent5Minutes"
    assert "AlarmTopicArn" in given


@pytest.mark.parametrize("environment", ["local", "staging", "production"])
def test_every_environment_sets_real_parameters_and_leaves_none_out(environment: str) -> None:
    given = overrides(environment)
    assert set(given) <= set(PARAMETERS)
    assert {name for name, rules in PARAMETERS.items() if "Default" not in rules} <= set(given)
    assert SAMCONFIG[environment]["global"]["parameters"]["region"] == "ap-southeast-3"
    for name, value in given.items():
        assert is_allowed(name, value) != value.startswith("<"), f"{environment}: {name}={value}"


@pytest.mark.parametrize(
    ("environment", "url"),
    [
        ("staging", "https://stg-k-api.indodanafinance.com"),
        ("production", "https://api.indodanafinance.co.id"),
    ],
)
def test_every_environment_calls_its_own_upstream(environment: str, url: str) -> None:
    assert overrides(environment)["IndodanaUrl"] == url


def test_no_key_crosses_the_internet_in_clear_text() -> None:
    for host in ("localhost", "127.0.0.1", "10.1.2.3", "192.168.1.5", "api.indodanafinance.co.id"):
        assert is_allowed("IndodanaUrl", f"https://{host}"), host
        assert not is_allowed("IndodanaUrl", f"http://{host}"), host
        assert not is_allowed("JwtIssuer", f"http://{host}"), host


def test_no_environment_reaches_the_keys_of_another_in_the_same_account() -> None:
    staging, production = (overrides(name)["SecretPrefix"] for name in ("staging", "production"))
    assert not staging.startswith(production)
    assert not production.startswith(staging)


# ----------------------------------------------------------------------------------------------- events


def test_every_function_has_events_and_every_event_a_function() -> None:
    folders = {path.relative_to(ROOT / "events").parts[0] for path in EVENT_FILES}
    assert folders == {package(function) for function in FUNCTIONS}


def test_every_function_is_run_in_the_lambda_runtime_by_the_docker_tests() -> None:
    assert set(INVOCATIONS) == set(FUNCTIONS)


@pytest.mark.parametrize("function", [function for function in FUNCTIONS if routes(function)])
def test_there_is_an_event_for_every_route_and_none_for_another(function: str) -> None:
    events = [json.loads(path.read_text()) for path in (ROOT / "events" / package(function)).iterdir()]
    assert {event["routeKey"] for event in events} == set(routes(function))


@pytest.mark.parametrize("path", EVENT_FILES, ids=lambda path: f"{path.parent.name}-{path.stem}")
def test_every_event_is_what_aws_would_send(path: Path) -> None:
    event = json.loads(path.read_text())
    if "routeKey" in event:
        check_http_event(event)
    elif "Records" in event:
        for record in event["Records"]:
            assert record["eventSource"] == "aws:sqs"
            assert record["md5OfBody"] == hashlib.md5(record["body"].encode(), usedforsecurity=False).hexdigest()
        ids = [record["messageId"] for record in event["Records"]]
        assert len(ids) == len(set(ids))
    else:
        assert (event["source"], event["detail-type"]) == ("aws.events", "Scheduled Event")


def check_http_event(event: dict[str, Any]) -> None:
    context = event["requestContext"]
    method, _, template = event["routeKey"].partition(" ")
    assert event["version"] == "2.0"
    assert context["routeKey"] == event["routeKey"]
    assert (context["http"]["method"], context["http"]["path"]) == (method, event["rawPath"])
    # Segment by segment on the encoded path, as the router does: an encoded slash stays inside its segment.
    segments = zip(template.split("/"), event["rawPath"].split("/"), strict=True)
    values = {name[1:-1]: unquote(given) for name, given in segments if name.startswith("{")}
    assert event.get("pathParameters", {}) == values
    query = event.get("queryStringParameters", {})
    assert event["rawQueryString"] == "&".join(f"{name}={value}" for name, value in query.items())
    assert [name for name in event["headers"] if name != name.lower()] == []
    if event["routeKey"] == HEALTH:
        assert "authorizer" not in context
        return
    jwt = context["authorizer"]["jwt"]
    assert jwt["scopes"] == SCOPES[event["routeKey"]]
    assert set(SCOPES[event["routeKey"]]) & set(jwt["claims"]["scope"].split())
    assert jwt["claims"]["merchant_id"]
    assert isinstance(event["isBase64Encoded"], bool)
