"""The functions' roles, enforced: each function does its work with its own role, and its role allows nothing else.

The emulator judges each call by the policies as they stand in the transformed template: each item of a transaction,
each index, each queue. docs/decisions/0017 says what this proves and what it does not.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import botocore.session
import pytest

from testkit.indodana.control_client import SimulatorControl
from testkit.ministack import Ministack
from tests.aws.deployment import LEFT_OUT, SECRET_PREFIX, Deployment, Grant, answer
from tests.aws.flows import DIED, FLOWS, Run
from tests.aws.function import REFUSALS, Access, known_to_iam

FUNCTIONS = sorted(file.parent.name for file in (Path(__file__).parents[2] / "functions").glob("*/handler.py"))
# What the emulator cannot judge, and what is asserted instead.
NOT_JUDGED = {
    "logs": "Lambda calls it; and the emulator wants a log group's ARN without the `:*` that AWS wants. "
    "tests/build/test_template_transformed.py: a function writes to its own logs only",
    "xray": "Lambda calls it; and the emulator has no X-Ray. "
    "tests/build/test_template_transformed.py: nothing else has the resource `*`",
    "kms": "DynamoDB, SQS and Secrets Manager call it for the function; the emulator's do not. "
    "tests/build/test_template_transformed.py: only through the services that the role uses. Below: not directly",
}
# Where a refusal is only logged: the flow comes to the same, a moment later.
BEST_EFFORT = {"sqs:ChangeMessageVisibility"}
# Services whose calls name their resource, and how.
NAMED_BY = {"dynamodb": "TableName", "sqs": "QueueUrl", "secretsmanager": "SecretId"}
KEY_CALLS: dict[str, dict[str, Any]] = {
    "Decrypt": {"CiphertextBlob": b"x"},
    "DescribeKey": {},
    "Encrypt": {"Plaintext": b"x"},
    "GenerateDataKey": {"KeySpec": "AES_256"},
}
OTHERS_SECRET = "another-application/m1"

Runs = Callable[[str], Run]


@pytest.fixture(scope="package")
def undisturbed(deployment: Deployment, indodana_control: SimulatorControl) -> Runs:
    """What a flow comes to with the roles as they are."""
    runs: dict[str, Run] = {}

    def run(name: str) -> Run:
        if name not in runs:
            runs[name] = FLOWS[name].run(deployment, indodana_control)
        return runs[name]

    return run


# ---- each function can do its work


@pytest.mark.parametrize("name", FLOWS)
def test_a_flow_works_with_the_functions_own_roles(undisturbed: Runs, name: str) -> None:
    flow, run = FLOWS[name], undisturbed(name)
    assert run.denied == set()
    failed = [result for result in run.results if isinstance(result, str)]
    assert failed in ([], [DIED])
    assert flow.result in (None, run.results[-1])
    assert flow.there.items() <= run.there.items()


# ---- and nothing else


@pytest.mark.parametrize("folder", FUNCTIONS)
def test_each_action_of_a_role_is_needed_by_a_flow(
    deployment: Deployment, indodana_control: SimulatorControl, undisturbed: Runs, folder: str
) -> None:
    wrong = []
    for grant in deployment.grants(folder):
        if grant.action.split(":")[0] in NOT_JUDGED:
            continue
        name = flow_that_needs(grant, folder, undisturbed)
        if name is None:
            wrong.append(f"{grant}: no flow uses it")
            continue
        with deployment.without(grant):
            run = FLOWS[name].run(deployment, indodana_control)
        if run.denied != {grant.action}:
            wrong.append(f"{grant}: without it, {name} was refused {run.denied or 'nothing'}")
        came_to, usual = ((each.results, each.there) for each in (run, undisturbed(name)))
        if (came_to == usual) != (grant.action in BEST_EFFORT):
            wrong.append(f"{grant}: without it, {name} came to {came_to} instead of {usual}")
    assert not wrong, "\n".join(wrong)


def flow_that_needs(grant: Grant, folder: str, undisturbed: Runs) -> str | None:
    return next((name for name in FLOWS if any(map(grant.covers, undisturbed(name).used.get(folder, ())))), None)


@pytest.mark.parametrize("folder", FUNCTIONS)
def test_a_role_may_do_nothing_else_with_the_stacks_resources(deployment: Deployment, folder: str) -> None:
    """Every operation that names a table, an index, a queue or a secret, on each of the stack's own and on a secret of
    another application."""
    allowed = deployment.grants(folder)
    tried = 0
    for service, named_by in NAMED_BY.items():
        client = deployment.as_role(deployment.roles[folder], service)
        for operation in operations(service, named_by):
            for needed, arguments in targets(deployment, service, operation):
                if any(grant.covers(needed) for grant in allowed):
                    continue
                tried += 1
                assert answer(client, operation, arguments) in REFUSALS, needed
    assert tried > 100


def operations(service: str, named_by: str) -> Iterator[str]:
    model = botocore.session.get_session().get_service_model(service)
    for name in model.operation_names:
        shape = model.operation_model(name).input_shape
        if shape and named_by in shape.members:
            yield name


def targets(deployment: Deployment, service: str, operation: str) -> Iterator[tuple[Access, dict[str, str]]]:
    """What to call the operation on, and how IAM sees that."""
    action = f"{service}:{operation}"
    match service:
        case "dynamodb":
            for name in deployment.tables.values():
                yield Access(action, f"table/{name}"), {"TableName": name}
                if operation in ("Query", "Scan"):
                    for index in deployment.indexes(name):
                        yield Access(action, f"table/{name}/index/{index}"), {"TableName": name, "IndexName": index}
        case "sqs":
            for url in deployment.of_type("AWS::SQS::Queue").values():
                yield Access(known_to_iam(action), url.rpartition("/")[2]), {"QueueUrl": url}
        case "secretsmanager":
            for name in (f"{SECRET_PREFIX}m1", OTHERS_SECRET):
                yield Access(action, f"secret:{name}"), {"SecretId": name}


# ---- the emulator does enforce


def test_a_role_without_a_policy_may_do_nothing(deployment: Deployment) -> None:
    deployment.create_role("nobody")
    for service, named_by in NAMED_BY.items():
        client = deployment.as_role("nobody", service)
        for operation in operations(service, named_by):
            for needed, arguments in targets(deployment, service, operation):
                assert answer(client, operation, arguments) in REFUSALS, needed


def test_a_transaction_is_refused_whole_for_one_item(deployment: Deployment) -> None:
    """The worker may put into the ledger and into the audit log, and may not delete there."""
    tables = deployment.tables
    deployment.clear()
    client = deployment.as_role(deployment.roles["refund_worker"], "dynamodb")
    key = {"pk": {"S": "m1#ORDER"}, "sk": {"S": "ORDER"}}
    puts = [{"Put": {"TableName": table, "Item": key}} for table in tables.values()]
    for table in tables.values():
        for kind in ("Delete", "ConditionCheck"):
            another = {"TableName": table, "Key": key | {"sk": {"S": "X"}}}
            items = [*puts, {kind: another | {"ConditionExpression": "attribute_not_exists(pk)"}}]
            assert answer(client, "TransactWriteItems", {"TransactItems": items}) in REFUSALS
        assert deployment.root("dynamodb").scan(TableName=table, Select="COUNT")["Count"] == 0
    assert answer(client, "TransactWriteItems", {"TransactItems": puts}) == ""


def test_another_secret_key_of_a_role_is_refused(deployment: Deployment) -> None:
    keys = deployment.credentials(deployment.roles["refund_worker"])
    receive = {"QueueUrl": deployment.resources["RefundQueue"]}
    assert answer(deployment.client("sqs", keys), "ReceiveMessage", receive) == ""
    for name in ("aws_secret_access_key", "aws_session_token"):
        forged = deployment.client("sqs", keys | {name: keys[name][::-1]})
        assert answer(forged, "ReceiveMessage", receive) not in ("", *REFUSALS)


# ---- other parameters


def test_a_stack_on_another_ones_tables_works_with_its_own_roles(
    deployment: Deployment,
    indodana_control: SimulatorControl,
    undisturbed: Runs,
    ministack: Ministack,
    certificate: Path,
    tmp_path: Path,
) -> None:
    """As after a restore. Every flow that needs an action of a role that no flow before it needs."""
    needed = [
        flow_that_needs(grant, folder, undisturbed)
        for folder in FUNCTIONS
        for grant in deployment.grants(folder)
        if grant.action.split(":")[0] not in NOT_JUDGED
    ]
    tables = {f"Existing{name}": table for name, table in deployment.tables.items()}
    parameters = {**deployment.parameters, **tables, "SecretPrefix": "restored/"}
    stack = Deployment(ministack, certificate, tmp_path, "restored", parameters, deployment.upstream_url)
    assert stack.of_type("AWS::DynamoDB::Table") == {}
    assert stack.tables == deployment.tables
    stack.store_merchants_secrets()
    try:
        for name in filter(None, dict.fromkeys(needed)):
            run, usual = FLOWS[name].run(stack, indodana_control), undisturbed(name)
            assert run.denied == set(), name
            assert (run.results, run.there) == (usual.results, usual.there), name
    finally:
        stack.stop()


def test_a_role_may_use_the_key_only_through_a_service(
    deployment: Deployment, ministack: Ministack, certificate: Path, tmp_path: Path
) -> None:
    key = deployment.root("kms").create_key()["KeyMetadata"]["Arn"]
    own = {"KmsKeyArn": key, "SecretPrefix": "with-a-key/"}
    stack = Deployment(ministack, certificate, tmp_path, "with-a-key", {**deployment.parameters, **own})
    named: set[str] = set()
    for folder in FUNCTIONS:
        grants = [grant for grant in stack.grants(folder) if grant.action.startswith("kms:")]
        client = stack.as_role(stack.roles[folder], "kms")
        for grant in grants:
            operation = grant.action.removeprefix("kms:")
            named.add(operation)
            assert answer(client, operation, KEY_CALLS[operation] | {"KeyId": key}) in REFUSALS, grant
    assert named == set(KEY_CALLS)
    # The condition is what refuses: the key's policy and the emulator let a role use it that has none.
    stack.create_role("user-of-the-key", {"Action": [f"kms:{operation}" for operation in named], "Resource": key})
    client = stack.as_role("user-of-the-key", "kms")
    for operation in named - {"Decrypt"}:
        assert answer(client, operation, KEY_CALLS[operation] | {"KeyId": key}) == ""


# ---- what is not tried


def test_what_is_left_out_is_no_role_nor_what_a_role_names(deployment: Deployment) -> None:
    assert set(LEFT_OUT) <= set(deployment.left_out.values())
    kept = ("AWS::DynamoDB::", "AWS::IAM::", "AWS::Lambda::Function", "AWS::Logs::", "AWS::SQS::")
    for name in deployment.left_out:
        kind = deployment.transformed["Resources"][name]["Type"]
        assert not kind.startswith(kept), name
        assert kind != "AWS::SecretsManager::Secret"


def test_what_is_not_judged_is_all_that_is_left(deployment: Deployment) -> None:
    services = {grant.action.split(":")[0] for folder in FUNCTIONS for grant in deployment.grants(folder)}
    assert services <= {*NOT_JUDGED, *NAMED_BY}
