"""The policies of the queues, the merchant's secret and the audit table, enforced on whoever is in the account."""

from __future__ import annotations

from typing import Any

import pytest

from tests.aws.deployment import BACK_OFFICE, SECRET_PREFIX, Deployment, answer
from tests.aws.function import REFUSALS

EVERYTHING = {"Action": "*", "Resource": "*"}


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


@pytest.mark.parametrize("operation", ["SendMessage", "SendMessageBatch"])
def test_the_refund_queue_takes_messages_from_listed_senders_only(
    deployment: Deployment, operator: str, operation: str
) -> None:
    queue, dead_letters = deployment.resources["RefundQueue"], deployment.resources["RefundDeadLetterQueue"]
    entries = [{"Id": "1", "MessageBody": "x"}]

    def sent(client: Any, url: str = queue) -> str:
        message = {"MessageBody": "x"} if operation == "SendMessage" else {"Entries": entries}
        return answer(client, operation, {"QueueUrl": url} | message)

    functions = {folder: sent(deployment.as_role(role, "sqs")) for folder, role in deployment.roles.items()}
    assert {folder for folder, refused in functions.items() if not refused} == {"refund_api", "recovery"}
    assert sent(deployment.as_role(BACK_OFFICE, "sqs")) == ""
    assert sent(deployment.as_role(operator, "sqs")) in REFUSALS
    # Whoever may do everything may also put messages into the dead-letter queue.
    assert sent(deployment.as_role(operator, "sqs"), dead_letters) == ""
    deployment.clear()


# ---- the secret


@pytest.fixture(scope="module")
def operator(deployment: Deployment) -> str:
    """A role that may do everything, as far as its own policy goes."""
    deployment.create_role("operator", EVERYTHING)
    return "operator"


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
