"""The policies of the queues, the merchant's secret and the audit table, enforced on whoever is in the account."""

from __future__ import annotations

import json
from typing import Any

import pytest

from devstack.cloudformation import SENDER_ID
from tests.aws.deployment import SECRET_PREFIX, Deployment, answer, policy_document
from tests.aws.function import REFUSALS

EVERYTHING = {"Action": "*", "Resource": "*"}


@pytest.fixture(scope="module")
def operator(deployment: Deployment) -> str:
    """A role that may do everything, as far as its own policy goes."""
    deployment.create_role("operator", EVERYTHING)
    return "operator"


# ---- the queues


def test_the_queues_refuse_whoever_comes_without_tls(deployment: Deployment) -> None:
    """The account's root user, too: with a header, the emulator believes that a proxy took the request without TLS."""
    for keys in (None, deployment.credentials(deployment.roles["refund_worker"])):
        client = deployment.client("sqs", keys) if keys else deployment.root("sqs")
        receive = {"QueueUrl": deployment.resources["RefundQueue"]}
        assert answer(client, "ReceiveMessage", receive) == ""
        client.meta.events.register("before-sign", _without_tls)
        for queue in deployment.of_type("AWS::SQS::Queue").values():
            assert answer(client, "ReceiveMessage", {"QueueUrl": queue}) in REFUSALS
            assert answer(client, "SendMessage", {"QueueUrl": queue, "MessageBody": "x"}) in REFUSALS


def _without_tls(request: Any, **_: Any) -> None:
    request.headers["X-Forwarded-Proto"] = "http"


def test_the_refund_queue_takes_messages_of_functions_and_senders_only(deployment: Deployment, operator: str) -> None:
    queue = {"QueueUrl": deployment.resources["RefundQueue"]}
    others = deployment.as_role(operator, "sqs")
    assert answer(others, "SendMessage", queue | {"MessageBody": "x"}) in REFUSALS
    assert answer(others, "ReceiveMessage", queue) == ""
    assert (
        answer(others, "SendMessage", {"QueueUrl": deployment.resources["RefundDeadLetterQueue"], "MessageBody": "x"})
        == ""
    )
    assert answer(deployment.root("sqs"), "SendMessage", queue | {"MessageBody": "x"}) in REFUSALS
    for folder in ("refund_api", "recovery"):
        function = deployment.as_role(deployment.roles[folder], "sqs")
        assert answer(function, "SendMessage", queue | {"MessageBody": "x"}) == ""


def test_a_sender_is_told_by_its_unique_id(deployment: Deployment) -> None:
    """The emulator gives a queue's own policy no aws:userid. So its statement is tried as one of a role and a user that
    may send to a queue without a policy."""
    iam, sqs = deployment.root("iam"), deployment.root("sqs")
    queue = {"QueueUrl": sqs.create_queue(QueueName="without-a-policy")["QueueUrl"], "MessageBody": "x"}
    [statement] = [
        statement
        for statement in deployment.queue_policies[deployment.resources["RefundQueue"]]["Statement"]
        if statement["Action"] == "sqs:SendMessage"
    ]

    def denied_but(unique_id: str) -> dict[str, Any]:
        text = json.dumps({name: value for name, value in statement.items() if name != "Principal"})
        assert SENDER_ID in text
        return json.loads(text.replace(SENDER_ID, unique_id)) | {"Resource": "*"}

    deployment.create_role("sender", EVERYTHING)
    role = iam.get_role(RoleName="sender")["Role"]["RoleId"]
    user = iam.create_user(UserName="sender")["User"]["UserId"]
    made = iam.create_access_key(UserName="sender")["AccessKey"]
    keys = {"aws_access_key_id": made["AccessKeyId"], "aws_secret_access_key": made["SecretAccessKey"]}
    senders = {role: deployment.as_role("sender", "sqs"), user: deployment.client("sqs", keys)}
    for listed in (role, user, "AROAELSEWHERE12345"):
        document = policy_document(EVERYTHING, denied_but(listed))
        iam.put_role_policy(RoleName="sender", PolicyName="sender", PolicyDocument=document)
        iam.put_user_policy(UserName="sender", PolicyName="sender", PolicyDocument=document)
        for unique_id, client in senders.items():
            assert (answer(client, "SendMessage", queue) == "") == (unique_id == listed)


# ---- the secret


def test_the_secret_is_read_by_functions_and_named_readers_only(deployment: Deployment, operator: str) -> None:
    read = {"SecretId": f"{SECRET_PREFIX}m1"}
    others = deployment.as_role(operator, "secretsmanager")
    assert answer(others, "GetSecretValue", read) in REFUSALS
    assert answer(others, "GetSecretValue", {"SecretId": f"{SECRET_PREFIX}m2"}) == "", "which has no policy"
    assert answer(others, "DescribeSecret", read) == ""
    deployment.create_role("reader", EVERYTHING)
    assert answer(deployment.as_role("reader", "secretsmanager"), "GetSecretValue", read) == ""
    for folder in ("status_check", "refund_api", "refund_worker"):
        client = deployment.as_role(deployment.roles[folder], "secretsmanager")
        assert answer(client, "GetSecretValue", read) == ""


# ---- the audit table


def test_the_audit_table_is_only_added_to(deployment: Deployment) -> None:
    """The emulator does not judge a table's own policy. So its statements are tried as those of a role that may do
    everything else."""
    denied = [{**statement} for statement in deployment.resource_policy("AuditTable")["Statement"]]
    for statement in denied:
        assert (statement["Effect"], statement.pop("Principal")) == ("Deny", "*")
    table = {"TableName": deployment.resources["AuditTable"]}
    key = {"pk": {"S": "m1#ORDER"}, "sk": {"S": "1"}}
    change = {"UpdateExpression": "SET a = :a", "ExpressionAttributeValues": {":a": {"S": "x"}}}
    calls: list[tuple[str, dict[str, Any]]] = [
        ("UpdateItem", table | {"Key": key} | change),
        ("DeleteItem", table | {"Key": key}),
        ("BatchWriteItem", {"RequestItems": {table["TableName"]: [{"DeleteRequest": {"Key": key}}]}}),
        ("TransactWriteItems", {"TransactItems": [{"Delete": table | {"Key": key}}]}),
        ("UpdateTimeToLive", table | {"TimeToLiveSpecification": {"Enabled": True, "AttributeName": "until"}}),
        ("DeleteTable", table),
    ]
    for role in ("somebody", "break-glass"):
        deployment.create_role(role, EVERYTHING, *denied)
        client = deployment.as_role(role, "dynamodb")
        assert answer(client, "PutItem", table | {"Item": key}) == ""
        assert answer(client, "GetItem", table | {"Key": key}) == ""
        answers = [answer(client, *call) for call in calls]
        if role == "somebody":
            assert set(answers) <= REFUSALS
        else:
            # At the end, the table's deletion protection.
            assert answers == [""] * 5 + ["ValidationException"]
