"""What `make deploy` sees in the account before it begins."""

from __future__ import annotations

import re
from datetime import UTC, datetime
from typing import Any

import pytest
from botocore.exceptions import ClientError, EndpointConnectionError

from deploy import account, parameters, preflight
from deploy.account import Stack
from deploy.target import DeployError, Target
from tests.deploy.conftest import REGION, STACK, Account

FILLED = "MerchantId=m1 JwtIssuer=https://issuer.example JwtAudience=gateway"
QUEUE = "Resources: {Queue: {Type: AWS::SQS::Queue}}"


class Refusing:
    """A client whose every call is refused so."""

    def __init__(self, code: str) -> None:
        self.code = code

    def __getattr__(self, operation: str) -> Any:
        def refuse(**_: Any) -> None:
            error: Any = {
                "Error": {"Code": self.code, "Message": "The security token included in the request is invalid"}
            }
            raise ClientError(error, operation)

        return refuse


class Unreachable:
    def get_caller_identity(self) -> None:
        raise EndpointConnectionError(endpoint_url="https://sts.example")


class Limits:
    def __init__(self, concurrent: int, unreserved: int) -> None:
        self.limits = {"ConcurrentExecutions": concurrent, "UnreservedConcurrentExecutions": unreserved}

    def get_account_settings(self) -> dict[str, Any]:
        return {"AccountLimit": self.limits}


def look(given: str = "") -> list[str]:
    return preflight.look("staging", f"{FILLED} {given}", "no")


def test_an_account_in_which_nothing_is_missing_may_be_deployed_to(
    aws: Account, capsys: pytest.CaptureFixture[str]
) -> None:
    assert look() == []
    aws.deploy(QUEUE, {})
    assert look() == []
    said = capsys.readouterr().out.splitlines()
    assert said == [f"Deploying {STACK} in {REGION} as arn:aws:sts::123456789012:user/moto"] * 2


def test_a_stack_whose_first_change_set_was_declined_is_none(aws: Account) -> None:
    aws.client("cloudformation").create_change_set(
        StackName=STACK, ChangeSetName="declined", ChangeSetType="CREATE", TemplateBody=QUEUE
    )
    [stack] = aws.client("cloudformation").describe_stacks(StackName=STACK)["Stacks"]
    assert stack["StackStatus"] == "REVIEW_IN_PROGRESS"
    assert account.describe(aws, STACK) is None
    assert look() == []


def test_without_a_terminal_the_change_set_must_not_wait_for_an_answer(
    aws: Account, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("sys.stdin.isatty", lambda: False, raising=False)
    assert preflight.look("staging", FILLED, "") == [
        "there is no terminal to confirm the change set at: CONFIRM=no deploys without asking"
    ]


def test_a_region_that_is_not_enabled_is_told_from_wrong_credentials(aws: Account) -> None:
    aws.replaced[f"sts {REGION}"] = Refusing("InvalidClientTokenId")
    with pytest.raises(DeployError, match=rf"{REGION} is not enabled for the account of arn:aws.*enable-region"):
        look()
    aws.replaced["sts us-east-1"] = Refusing("InvalidClientTokenId")
    with pytest.raises(DeployError, match=r"does not know the credentials, or they have expired .*: sign in again"):
        look()


def test_other_refusals_are_passed_on(aws: Account) -> None:
    aws.replaced["sts"] = Refusing("ExpiredToken")
    with pytest.raises(DeployError, match=r"AWS refuses the credentials: .*ExpiredToken"):
        look()
    aws.replaced["sts"] = Unreachable()
    with pytest.raises(DeployError, match="AWS cannot be reached"):
        look()
    aws.replaced["sts"] = Account().client("sts")
    aws.replaced["cloudformation"] = Refusing("AccessDenied")
    with pytest.raises(DeployError, match=f"{STACK} cannot be looked at: .*AccessDenied"):
        look()


def test_credentials_that_are_missing_are_said(monkeypatch: pytest.MonkeyPatch, target: Target) -> None:
    for name in ("AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY", "AWS_PROFILE"):
        monkeypatch.delenv(name, raising=False)
    for name in ("AWS_CONFIG_FILE", "AWS_SHARED_CREDENTIALS_FILE"):
        monkeypatch.setenv(name, "/none")
    monkeypatch.setenv("AWS_EC2_METADATA_DISABLED", "true")
    with pytest.raises(DeployError, match="there are no AWS credentials"):
        account.session(target)
    with pytest.raises(DeployError, match=r"the AWS credentials cannot be read: .*nobody"):
        account.session(Target("staging", STACK, REGION, "nobody", {}))


@pytest.mark.parametrize(
    ("status", "said"),
    [
        ("CREATE_COMPLETE", None),
        ("UPDATE_COMPLETE", None),
        ("UPDATE_ROLLBACK_COMPLETE", None),
        ("UPDATE_IN_PROGRESS", "is being changed"),
        ("UPDATE_ROLLBACK_IN_PROGRESS", "is being changed"),
        ("UPDATE_COMPLETE_CLEANUP_IN_PROGRESS", "is being changed"),
        ("UPDATE_ROLLBACK_FAILED", "continue-update-rollback"),
        ("ROLLBACK_COMPLETE", "delete-stack"),
        ("CREATE_FAILED", "delete-stack"),
    ],
)
def test_a_stack_that_cloudformation_would_refuse_is_said(status: str, said: str | None) -> None:
    refused = account.not_deployable(STACK, Stack(status, str(datetime.now(UTC)), {}, ()))
    assert refused is None if said is None else said in str(refused)


def test_log_groups_of_an_earlier_stack_of_the_name_are_said(aws: Account) -> None:
    logs = aws.client("logs")
    logs.create_log_group(logGroupName=f"/aws/lambda/{STACK}-health")
    logs.create_log_group(logGroupName=f"/aws/lambda/{STACK}-health-of-another")
    logs.create_log_group(logGroupName=f"/aws/vendedlogs/http-api/{STACK}")
    found = look()
    assert [said.split(" is there already")[0] for said in found] == [
        f"the log group /aws/vendedlogs/http-api/{STACK}",
        f"the log group /aws/lambda/{STACK}-health",
    ]
    aws.deploy(QUEUE, {})
    assert look() == []


def make_table(aws: Account, name: str, *indexes: str) -> None:
    key = [{"AttributeName": "pk", "KeyType": "HASH"}]
    found: Any = [{"IndexName": each, "KeySchema": key, "Projection": {"ProjectionType": "ALL"}} for each in indexes]
    aws.client("dynamodb").create_table(
        TableName=name,
        BillingMode="PAY_PER_REQUEST",
        AttributeDefinitions=[{"AttributeName": "pk", "AttributeType": "S"}],
        KeySchema=key,
        **({"GlobalSecondaryIndexes": found} if found else {}),
    )


def test_an_existing_table_must_be_there_and_be_a_ledger(aws: Account) -> None:
    make_table(aws, "ledger", "open-refunds")
    make_table(aws, "audit")
    assert look("ExistingLedgerTable=ledger ExistingAuditTable=audit") == []
    assert look("ExistingLedgerTable=legder") == ["ExistingLedgerTable is legder, and there is no such table"]
    assert look("ExistingLedgerTable=audit") == [
        "ExistingLedgerTable is audit, which has no index open-refunds: it is not a ledger"
    ]


def test_a_stack_on_an_existing_table_is_not_deployed_without_it(aws: Account) -> None:
    make_table(aws, "ledger", "open-refunds")
    make_table(aws, "restored", "open-refunds")
    with_table = f"Parameters: {{ExistingLedgerTable: {{Type: String}}}}\n{QUEUE}"
    aws.deploy(with_table, {"ExistingLedgerTable": ""})
    assert look("ExistingLedgerTable=ledger") == []
    aws.deploy(with_table, {"ExistingLedgerTable": "ledger"})
    assert look() == [
        "ExistingLedgerTable is ledger in the stack, and would be empty: the stack would create a new, empty table. "
        "Set ExistingLedgerTable=ledger"
    ]
    assert look("ExistingLedgerTable=restored") == []


def test_reserved_concurrency_has_room_in_the_account(aws: Account) -> None:
    aws.replaced["lambda"] = Limits(1000, 1000)
    assert look("ReservedConcurrencyStatusCheck=800 ReservedConcurrencyRefundApi=100") == []
    [said] = look("ReservedConcurrencyStatusCheck=800 ReservedConcurrencyRefundApi=101")
    assert "901 executions are to be reserved, and the account has room for 900" in said
    # What the stack has reserved already is room for itself.
    template = "Parameters: {ReservedConcurrencyStatusCheck: {Type: Number}}\n" + QUEUE
    aws.deploy(template, {"ReservedConcurrencyStatusCheck": "800"})
    aws.replaced["lambda"] = Limits(1000, 200)
    assert look("ReservedConcurrencyStatusCheck=850") == []


def test_a_new_accounts_small_limit_is_said(aws: Account) -> None:
    aws.replaced["lambda"] = Limits(10, 10)
    [said] = look("ReservedConcurrencyRecovery=1")
    assert "1 executions are to be reserved, and the account has room for 0: its limit is 10" in said


def test_nothing_is_asked_where_nothing_is_reserved(aws: Account) -> None:
    aws.replaced["lambda"] = Refusing("AccessDenied")
    assert look() == []
    with pytest.raises(DeployError, match=r"the account cannot be looked at: .*AccessDenied"):
        look("ReservedConcurrencyRecovery=1")


@pytest.mark.parametrize(
    ("given", "said"),
    [
        ("ReservedConcurrencyRefundWorker=4", r"RefundWorker \(4\) is below WorkerMaximumConcurrency \(5\)"),
        ("ReservedConcurrencyStatusCheck=1 ProvisionedConcurrency=2", r"StatusCheck \(1\) is below Provisioned"),
        ("ReservedConcurrencyRefundApi=1 ProvisionedConcurrency=2", r"RefundApi \(1\) is below Provisioned"),
    ],
)
def test_reservations_below_what_needs_them_are_said(aws: Account, given: str, said: str) -> None:
    aws.replaced["lambda"] = Limits(1000, 1000)
    [found] = look(given)
    assert re.search(said, found)


def test_the_log_groups_are_those_of_the_template(target: Target) -> None:
    given = {"MerchantId": "m1", "JwtIssuer": "https://issuer.example", "JwtAudience": "gateway"}
    names = parameters.log_groups(Target("staging", STACK, REGION, None, given))
    assert len(names) == 7
    assert f"/aws/lambda/{STACK}-refund-api" in names
