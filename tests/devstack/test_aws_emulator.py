"""The AWS emulator: correct under concurrency, and provisioned with what the template has."""

import io
import json
import subprocess
import sys
import threading
import time
from collections import Counter
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import pytest

from devstack.aws import AwsServer, Serialized, checked_endpoint, client, provision, store_secret
from devstack.errors import DevstackError
from tests.devstack.account import Account

# Takes 1 from the counter, as often as its condition allows, in eight threads; every other time in a transaction.
# Without boto3, whose import would take longer than all the rest; moto does not check signatures.
TAKE = """
import http.client, json, sys
from concurrent.futures import ThreadPoolExecutor

host, table = sys.argv[1:]
update = {
    "TableName": table,
    "Key": {"pk": {"S": "counter"}},
    "UpdateExpression": "SET #left = #left - :one",
    "ConditionExpression": "#left >= :one",
    "ExpressionAttributeNames": {"#left": "left"},
    "ExpressionAttributeValues": {":one": {"N": "1"}},
}
scope = "local/20270101/ap-southeast-3/dynamodb/aws4_request"
authorization = f"AWS4-HMAC-SHA256 Credential={scope}, SignedHeaders=host, Signature=0"

def call(connection, operation, body):
    headers = {"X-Amz-Target": f"DynamoDB_20120810.{operation}", "Authorization": authorization}
    connection.request("POST", "/", json.dumps(body), {**headers, "Content-Type": "application/x-amz-json-1.0"})
    response = connection.getresponse()
    text = response.read().decode()
    if response.status != 200 and "ConditionalCheckFailed" not in text:
        raise RuntimeError(text)
    return response.status == 200

def take(number):
    connection = http.client.HTTPConnection(host, timeout=60)
    for taken in range(100):
        if (number + taken) % 2:
            has_taken = call(connection, "UpdateItem", update)
        else:
            has_taken = call(connection, "TransactWriteItems", {"TransactItems": [{"Update": update}]})
        if not has_taken:
            return taken
    return 100

print("ready", flush=True)
input()
with ThreadPoolExecutor(8) as pool:
    print(sum(pool.map(take, range(8))))
"""


# The lock


@pytest.fixture
def switched_often() -> Iterator[Callable[[float], None]]:
    """Lets threads meet where they rarely would."""
    interval = sys.getswitchinterval()
    yield sys.setswitchinterval
    sys.setswitchinterval(interval)


def test_each_service_works_on_one_request_at_a_time() -> None:
    inside: Counter[str] = Counter()
    together = threading.Barrier(4, timeout=5)

    def application(environ: Any, start_response: Any) -> list[bytes]:
        target = environ["HTTP_X_AMZ_TARGET"]
        if target == "secretsmanager.GetSecretValue":
            together.wait()
        else:
            inside[target] += 1
            time.sleep(0.01)
            assert inside[target] == 1
            inside[target] -= 1
        start_response("200 OK", [])
        return [environ["wsgi.input"].read()]

    serialized = Serialized(application)

    def call(target: str) -> bytes:
        environ = {"HTTP_X_AMZ_TARGET": target, "wsgi.input": io.BytesIO(b"{}"), "CONTENT_LENGTH": "2"}
        return b"".join(serialized(environ, lambda *_: None))  # type: ignore[arg-type]

    targets = ["DynamoDB_20120810.UpdateItem", "AmazonSQS.SendMessage", "secretsmanager.GetSecretValue"]
    with ThreadPoolExecutor(12) as pool:
        assert set(pool.map(call, targets * 4)) == {b"{}"}


def test_32_threads_take_no_more_than_the_condition_allows(
    account: Account, switched_often: Callable[[float], None]
) -> None:
    account.dynamodb.put_item(TableName=account.table, Item={"pk": {"S": "counter"}, "left": {"N": "100"}})
    # Processes, since the threads of one hardly meet inside the server.
    script = [sys.executable, "-c", TAKE, account.endpoint_url.removeprefix("http://"), account.table]
    processes = [subprocess.Popen(script, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) for _ in range(4)]
    for process in processes:
        assert process.stdout is not None
        assert process.stdout.readline() == "ready\n"
    switched_often(1e-6)
    for process in processes:
        assert process.stdin is not None
        process.stdin.write("go\n")
        process.stdin.flush()
    taken = sum(int(process.communicate(timeout=60)[0]) for process in processes)
    left = account.dynamodb.get_item(TableName=account.table, Key={"pk": {"S": "counter"}})["Item"]["left"]["N"]
    assert (taken, left) == (100, "0")


def test_long_poll_blocks_nobody_and_ends_when_a_message_comes(account: Account) -> None:
    answers: list[Any] = []

    def poll() -> None:
        answers.append(account.sqs.receive_message(QueueUrl=account.queue.url, WaitTimeSeconds=10))

    poller = threading.Thread(target=poll)
    started = time.monotonic()
    poller.start()
    time.sleep(0.2)
    account.send("late")
    poller.join(5)
    assert [message["Body"] for message in answers[0]["Messages"]] == ["late"]
    assert time.monotonic() - started < 5


# Provisioning


def test_server_tells_of_each_operation_that_it_receives(account: Account) -> None:
    seen: list[str] = []
    with AwsServer(seen=seen.append) as other_door:
        client("dynamodb", other_door.url).list_tables()
        client("sqs", other_door.url).list_queues()
        client("secretsmanager", account.endpoint_url).list_secrets()

    assert seen == ["DynamoDB_20120810.ListTables", "AmazonSQS.ListQueues"]


def test_provisioning_again_keeps_the_data(account: Account) -> None:
    name = account.model.secrets["Secret"].name
    account.dynamodb.put_item(TableName=account.table, Item={"pk": {"S": "kept"}})
    account.send("kept")
    account.secrets.put_secret_value(SecretId=name, SecretString="rotated")
    again = account.provision()
    assert again.queues == account.model.queues
    assert account.dynamodb.get_item(TableName=account.table, Key={"pk": {"S": "kept"}})["Item"]
    assert account.count(account.queue.url) == 1
    value = account.secrets.get_secret_value(SecretId=name, VersionStage="AWSCURRENT")
    assert value["SecretString"] == "rotated"


def test_stored_secret_replaces_the_value_of_an_earlier_stack(account: Account) -> None:
    name = account.model.secrets["Secret"].name
    store_secret(account.endpoint_url, name, '{"apiKey": "new"}')
    value = account.secrets.get_secret_value(SecretId=name, VersionStage="AWSCURRENT")
    assert value["SecretString"] == '{"apiKey": "new"}'
    with pytest.raises(DevstackError, match="could not store the secret nobody"):
        store_secret(account.endpoint_url, "nobody", "x")


def test_given_secrets_are_stored_and_a_queue_follows_the_template(account: Account) -> None:
    other = f"{account.template.stack_name}/m2"
    provision(account.template.model(), account.endpoint_url, {other: '{"apiKey": "k"}'})
    assert account.secrets.get_secret_value(SecretId=other)["SecretString"] == '{"apiKey": "k"}'
    attributes = account.sqs.get_queue_attributes(QueueUrl=account.queue.url, AttributeNames=["All"])["Attributes"]
    assert attributes["VisibilityTimeout"] == "1"
    assert json.loads(attributes["RedrivePolicy"]) == {"deadLetterTargetArn": account.dead.arn, "maxReceiveCount": 2}


def test_table_with_other_keys_is_refused(account: Account) -> None:
    account.dynamodb.delete_table(TableName=account.table)
    account.dynamodb.create_table(
        TableName=account.table,
        AttributeDefinitions=[{"AttributeName": "id", "AttributeType": "S"}],
        KeySchema=[{"AttributeName": "id", "KeyType": "HASH"}],
        BillingMode="PAY_PER_REQUEST",
    )
    with pytest.raises(DevstackError, match="other keys"):
        account.provision()


def test_unreachable_endpoint_is_a_clear_error(account: Account) -> None:
    with pytest.raises(DevstackError, match="http://127"):
        provision(account.template.model(), "http://127.0.0.1:9")


@pytest.mark.parametrize("url", ["127.0.0.1:5000", "ftp://x", "https://dynamodb.ap-southeast-3.amazonaws.com"])
def test_invalid_endpoint_and_aws_itself_are_refused(url: str) -> None:
    with pytest.raises(DevstackError, match="AWS_ENDPOINT_URL"):
        checked_endpoint(url)


def test_taken_port_is_a_clear_error(endpoint_url: str) -> None:
    with pytest.raises(DevstackError, match="cannot listen"):
        AwsServer(port=int(endpoint_url.rpartition(":")[2]))
