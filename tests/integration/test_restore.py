"""docs/restore.md: a lost ledger and a lost stack, with the page's own commands, and refunds that go on."""

from __future__ import annotations

import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import boto3
import pytest

from devstack.aws import AwsServer, provision
from devstack.template import Model, Template
from gateway.runtime.settings import Settings
from testkit.indodana.simulator import Simulator
from tests.aws_cli import AwsCommands
from tests.pages import blocks, section
from tests.world import MERCHANT, World

ROOT = Path(__file__).parents[2]
PAGE = ROOT / "docs/restore.md"
RESTORE = section(PAGE, "Restoring a table")
PUBLISHED_TIME = "2026-11-22T10:00:00+07:00"


def block(containing: str) -> str:
    [found] = [block for block in blocks(RESTORE) if containing in block]
    return found


@pytest.fixture
def aws_commands(aws: AwsServer, tmp_path: Path) -> Iterator[AwsCommands]:
    (tmp_path / "deploy").symlink_to(ROOT / "deploy")
    with AwsCommands(aws.url, tmp_path) as commands:
        yield commands


@pytest.fixture
def variables(world: World) -> Iterator[dict[str, str]]:
    """As under "Setting up". Tables that the test restores are deleted after it."""
    dynamodb = boto3.client("dynamodb")
    before = set(dynamodb.list_tables()["TableNames"])
    yield {
        "STACK": "qris-gateway-production",
        "LEDGER": world.settings.ledger_table,
        "AUDIT": world.settings.audit_table,
        "API": "https://abc123.execute-api.ap-southeast-3.amazonaws.com",
        "RULE": "qris-gateway-production-EveryMinute",
    }
    for table in sorted(set(dynamodb.list_tables()["TableNames"]) - before):
        dynamodb.update_table(TableName=table, DeletionProtectionEnabled=False)
        dynamodb.delete_table(TableName=table)


def stack(template: Template, aws: AwsServer, indodana: Simulator, name: str, **parameters: str) -> Model:
    """A stack of that name as a deployment makes it: only its parameters differ."""
    given = dict(template.parameters) | {"MerchantClaim": "merchant_id", "SecretPrefix": "test/"} | parameters
    deployed = Template(
        template.document,
        stack_name=name,
        endpoint_url=aws.url,
        overrides=given,
        own={"IndodanaUrl": indodana.upstream_url},
    )
    return deployed.model(provision(deployed.model(), aws.url))


def deploy(world: World, model: Model) -> None:
    """Every function starts anew with the stack's environment."""
    settings = Settings.from_environment(model.environment())
    world.reassemble(**vars(settings))


def refund_of_each_kind(world: World) -> dict[str, str]:
    """Orders with a refund that is done, one that waits in the queue, one whose outcome is unknown."""
    orders = {name: world.order(100_000) for name in ("done", "queued", "unknown")}
    assert world.refund(orders["done"], 30_000, key="done").status == 201
    assert world.refund(orders["queued"], 20_000, key="queued", later=True).status == 202
    world.simulator.fault("reset_after", path="order_cancellation", merchant_order_id=orders["unknown"], times=1)
    answer = world.refund(orders["unknown"], 10_000, key="unknown")
    assert (answer.status, answer.body["status"]) == (202, "UNKNOWN")
    world.reassemble()  # a process sends nothing for a moment after an unknown outcome
    return orders


def check_that_refunds_go_on(world: World, orders: dict[str, str]) -> None:
    repeated = world.refund(orders["done"], 30_000, key="done")
    assert (repeated.status, repeated.body["status"]) == (201, "SUCCEEDED")
    assert world.moved(orders["done"]) == 30_000
    assert world.refund(orders["done"], 80_000).status == 422  # 70,000 are left

    world.clock.pass_seconds(3600)
    [waiting] = world.open_refunds("QUEUED").body["refunds"]
    assert waiting["merchantOrderId"] == orders["queued"]
    assert world.recover()["enqueued"] == 1
    while world.moved(orders["queued"]) == 0:
        assert world.work_queue() == []
    assert world.sums(orders["queued"]) == (20_000, 0, 80_000)

    [unknown] = world.open_refunds("UNKNOWN").body["refunds"]
    assert unknown["merchantOrderId"] == orders["unknown"]
    settled = world.resolve(orders["unknown"], unknown["refundId"], "FAILED")
    assert (settled.status, settled.body["status"]) == (200, "FAILED")
    assert [record["action"] for record in world.audit(orders["unknown"])][-1] == "REFUND_RESOLVED"


def test_a_ledger_is_restored_by_the_pages_commands_and_refunds_go_on(
    world: World,
    aws: AwsServer,
    indodana: Simulator,
    template: Template,
    aws_commands: AwsCommands,
    variables: dict[str, str],
) -> None:
    orders = refund_of_each_kind(world)
    assert PUBLISHED_TIME in block("restore-table-to-point-in-time")
    aws_commands.run(block("restore-table-to-point-in-time"), variables)
    aws_commands.run(block("update-continuous-backups"), variables)
    # After the restored time: the emulator copies the table as it is.
    later = world.order(100_000)
    assert world.refund(later, 40_000, key="later").status == 201

    differences = aws_commands.run(block("comm -3"), variables)
    [difference] = differences.splitlines()
    assert f'["{MERCHANT}#{later}"' in difference
    assert '"SUCCEEDED"' in difference
    last_steps = aws_commands.run(block("def wib"), variables)
    [last_step] = [line.split("\t") for line in last_steps.splitlines() if line.startswith(f"{MERCHANT}#{later}\t")]
    assert last_step[2:4] == ["SUCCEEDED", "40000"]
    assert re.fullmatch(r"\d{4}-\d\d-\d\d \d\d:\d\d:\d\d WIB", last_step[4])
    aws_commands.run(block("copy()").replace("m1#ORDER-PAID", f"{MERCHANT}#{later}"), variables)
    assert aws_commands.run(block("comm -3"), variables) == ""
    assert aws_commands.run(block("disagree()"), variables) == ""

    restored = f"{variables['LEDGER']}-restored"
    deploy(world, stack(template, aws, indodana, "test", ExistingLedgerTable=restored))
    assert world.settings.ledger_table == restored
    check_that_refunds_go_on(world, orders)
    assert world.refund(later, 40_000, key="later").status == 201
    assert world.moved(later) == 40_000


def test_orders_whose_sums_are_wrong_are_shown(
    world: World, aws_commands: AwsCommands, variables: dict[str, str]
) -> None:
    order = world.order(100_000)
    world.refund(order, 30_000)
    wrong: Any = {"pk": {"S": f"{MERCHANT}#{order}"}, "sk": {"S": "ORDER"}}
    world.dynamodb.update_item(
        TableName=variables["LEDGER"],
        Key=wrong,
        UpdateExpression="SET refunded = :sum",
        ExpressionAttributeValues={":sum": {"N": "29999"}},
    )
    found = aws_commands.run(block("disagree()").replace("$LEDGER-restored", "$LEDGER"), variables)
    assert found == f"{MERCHANT}#{order}\trefunded should be\t30000\treserved\t0\n"


def test_a_stack_made_anew_takes_over_both_tables_by_parameters(
    world: World, aws: AwsServer, indodana: Simulator, template: Template, variables: dict[str, str]
) -> None:
    orders = refund_of_each_kind(world)

    model = stack(
        *(template, aws, indodana, "anew"),
        ExistingLedgerTable=variables["LEDGER"],
        ExistingAuditTable=variables["AUDIT"],
    )
    assert model.tables == {}
    deploy(world, model)

    assert world.settings.refund_queue_url.endswith("/anew-RefundQueue")
    assert (world.settings.ledger_table, world.settings.audit_table) == (variables["LEDGER"], variables["AUDIT"])
    check_that_refunds_go_on(world, orders)
    assert [record["action"] for record in world.audit(orders["done"])][-2:] == ["REFUND_SUCCEEDED", "REFUND_REFUSED"]


def test_a_restored_audit_table_gets_the_policy_of_the_old_one(
    world: World, aws_commands: AwsCommands, variables: dict[str, str]
) -> None:
    old = world.dynamodb.describe_table(TableName=variables["AUDIT"])["Table"]["TableArn"]
    policy = '{"Version": "2012-10-17", "Statement": []}'
    world.dynamodb.put_resource_policy(ResourceArn=old, Policy=policy)
    try:
        restored = block("restore-table-to-point-in-time").replace("$LEDGER", "$AUDIT")
        aws_commands.run(restored, variables)
        aws_commands.run(block("put-resource-policy"), variables)
    finally:
        world.dynamodb.delete_resource_policy(ResourceArn=old)
    new = world.dynamodb.describe_table(TableName=f"{variables['AUDIT']}-restored")["Table"]["TableArn"]
    assert world.dynamodb.get_resource_policy(ResourceArn=new)["Policy"].strip() == policy


def test_commands_for_the_accounts_own_settings_are_commands_of_aws(
    aws_commands: AwsCommands, variables: dict[str, str]
) -> None:
    page = (ROOT / "docs/account.md").read_text()
    aws_commands.run("\n".join(blocks(page)), variables)
    assert {call.split()[0] for call in aws_commands.checked} == {"backup", "budgets", "cloudwatch", "sts"}
    assert "backup put-backup-vault-lock-configuration" in aws_commands.checked


def test_commands_that_the_emulator_lacks_are_commands_of_aws(
    aws_commands: AwsCommands, variables: dict[str, str]
) -> None:
    every = [block for page in (PAGE, ROOT / "docs/operations.md") for block in blocks(page.read_text())]
    script = "make() { true; }\nFUNCTION=f\n" + "\n".join(
        block for block in every if re.search(r"^aws (apigatewayv2|cloudformation|cloudwatch|events) ", block, re.M)
    )
    aws_commands.run(script, variables)
    assert sorted(set(aws_commands.checked)) == [
        "apigatewayv2 update-stage",
        "cloudformation describe-stack-resource",
        "cloudformation set-stack-policy",
        "cloudformation update-termination-protection",
        "cloudwatch get-metric-statistics",
        "events describe-rule",
        "events disable-rule",
        "events enable-rule",
        "lambda get-account-settings",
    ]
