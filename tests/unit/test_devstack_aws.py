"""The AWS emulator under concurrency, provisioning, and the queue mapping, on a real server."""

import io
import json
import subprocess
import sys
import threading
import time
import uuid
from collections import Counter
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest

from devstack.aws import AwsServer, Serialized, checked_endpoint, client, provision
from devstack.errors import DevstackError
from devstack.queues import Poller, failed_messages
from devstack.runtime import Runtime
from devstack.template import Function, Model, QueueMapping, Template

TEMPLATE = """
Resources:
  Table:
    Type: AWS::DynamoDB::Table
    Properties:
      AttributeDefinitions: [{AttributeName: pk, AttributeType: S}, {AttributeName: open, AttributeType: S}]
      KeySchema: [{AttributeName: pk, KeyType: HASH}]
      GlobalSecondaryIndexes:
        - {IndexName: open, KeySchema: [{AttributeName: open, KeyType: HASH}], Projection: {ProjectionType: ALL}}
  Queue:
    Type: AWS::SQS::Queue
    Properties:
      VisibilityTimeout: 1
      RedrivePolicy: {deadLetterTargetArn: !GetAtt Dead.Arn, maxReceiveCount: 2}
  Dead: {Type: AWS::SQS::Queue}
  Secret: {Type: AWS::SecretsManager::Secret, Properties: {Name: !Sub "${AWS::StackName}/m1", SecretString: first}}
"""

# Takes 1 from the counter, as often as its condition allows, in eight threads; every other time in a transaction.
TAKE = """
import sys
from concurrent.futures import ThreadPoolExecutor
from devstack.aws import client

endpoint_url, table = sys.argv[1:]
dynamodb = client("dynamodb", endpoint_url)
update = {
    "TableName": table,
    "Key": {"pk": {"S": "counter"}},
    "UpdateExpression": "SET #left = #left - :one",
    "ConditionExpression": "#left >= :one",
    "ExpressionAttributeNames": {"#left": "left"},
    "ExpressionAttributeValues": {":one": {"N": "1"}},
}

def take(number):
    taken = 0
    for turn in range(100):
        try:
            if (number + turn) % 2:
                dynamodb.update_item(**update)
            else:
                dynamodb.transact_write_items(TransactItems=[{"Update": update}])
        except (dynamodb.exceptions.ConditionalCheckFailedException, dynamodb.exceptions.TransactionCanceledException):
            return taken
        taken += 1
    return taken

print("ready", flush=True)
input()
with ThreadPoolExecutor(8) as pool:
    print(sum(pool.map(take, range(8))))
"""


@pytest.fixture(scope="module")
def endpoint_url() -> Iterator[str]:
    with pytest.MonkeyPatch.context() as patch, AwsServer() as server:
        patch.delenv("AWS_PROFILE", raising=False)
        patch.setenv("AWS_ACCESS_KEY_ID", "local")
        patch.setenv("AWS_SECRET_ACCESS_KEY", "local")
        patch.setenv("AWS_DEFAULT_REGION", "ap-southeast-3")
        yield server.url


class Account:
    """One test's own stack in the shared emulator."""

    def __init__(self, endpoint_url: str, folder: Path) -> None:
        self.endpoint_url = endpoint_url
        path = folder / "template.yaml"
        path.write_text(TEMPLATE)
        self.template = Template.load(path, stack_name=f"t{uuid.uuid4().hex[:8]}", endpoint_url=endpoint_url)
        self.dynamodb = client("dynamodb", endpoint_url)
        self.sqs = client("sqs", endpoint_url)
        self.secrets = client("secretsmanager", endpoint_url)
        self.model = self.provision()
        self.table = self.model.tables["Table"].name
        self.queue = self.model.queues["Queue"]
        self.dead = self.model.queues["Dead"]

    def provision(self) -> Model:
        return self.template.model(provision(self.template.model(), self.endpoint_url))

    def send(self, *bodies: str) -> None:
        for body in bodies:
            self.sqs.send_message(QueueUrl=self.queue.url, MessageBody=body)

    def count(self, url: str) -> int:
        names = ["ApproximateNumberOfMessages", "ApproximateNumberOfMessagesNotVisible"]
        attributes = self.sqs.get_queue_attributes(QueueUrl=url, AttributeNames=names)["Attributes"]
        return sum(int(attributes[name]) for name in names)


@pytest.fixture
def account(endpoint_url: str, tmp_path: Path) -> Account:
    return Account(endpoint_url, tmp_path)


def until(true: Callable[[], bool], seconds: float = 10) -> None:
    deadline = time.monotonic() + seconds
    while not true():
        assert time.monotonic() < deadline, "it did not come true"
        time.sleep(0.02)


# The lock


@pytest.fixture
def switched_often() -> Iterator[Callable[[float], None]]:
    """Lets threads meet where they rarely would."""
    interval = sys.getswitchinterval()
    yield sys.setswitchinterval
    sys.setswitchinterval(interval)


def test_one_request_of_a_service_is_worked_on_at_a_time_and_others_go_on() -> None:
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


def test_four_processes_of_eight_threads_take_no_more_than_the_condition_allows(
    account: Account, switched_often: Callable[[float], None]
) -> None:
    account.dynamodb.put_item(TableName=account.table, Item={"pk": {"S": "counter"}, "left": {"N": "100"}})
    # Processes, since the threads of one hardly meet inside the server.
    script = [sys.executable, "-c", TAKE, account.endpoint_url, account.table]
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


def test_a_long_poll_holds_up_nobody_and_answers_when_a_message_comes(account: Account) -> None:
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


def test_who_wants_to_know_is_told_of_every_operation_that_comes_by_this_door(account: Account) -> None:
    seen: list[str] = []
    with AwsServer(seen=seen.append) as other_door:
        client("dynamodb", other_door.url).list_tables()
        client("sqs", other_door.url).list_queues()
        client("secretsmanager", account.endpoint_url).list_secrets()

    assert seen == ["DynamoDB_20120810.ListTables", "AmazonSQS.ListQueues"]


def test_provisioning_again_keeps_tables_queues_and_secrets_with_their_data(account: Account) -> None:
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


def test_the_given_secrets_are_stored_and_a_queue_follows_the_template(account: Account) -> None:
    other = f"{account.template.stack_name}/m2"
    provision(account.template.model(), account.endpoint_url, {other: '{"apiKey": "k"}'})
    assert account.secrets.get_secret_value(SecretId=other)["SecretString"] == '{"apiKey": "k"}'
    attributes = account.sqs.get_queue_attributes(QueueUrl=account.queue.url, AttributeNames=["All"])["Attributes"]
    assert attributes["VisibilityTimeout"] == "1"
    assert json.loads(attributes["RedrivePolicy"]) == {"deadLetterTargetArn": account.dead.arn, "maxReceiveCount": 2}


def test_a_table_with_other_keys_is_refused(account: Account) -> None:
    account.dynamodb.delete_table(TableName=account.table)
    account.dynamodb.create_table(
        TableName=account.table,
        AttributeDefinitions=[{"AttributeName": "id", "AttributeType": "S"}],
        KeySchema=[{"AttributeName": "id", "KeyType": "HASH"}],
        BillingMode="PAY_PER_REQUEST",
    )
    with pytest.raises(DevstackError, match="other keys"):
        account.provision()


def test_an_endpoint_that_is_not_there_is_a_clear_error(account: Account) -> None:
    with pytest.raises(DevstackError, match="http://127"):
        provision(account.template.model(), "http://127.0.0.1:9")


@pytest.mark.parametrize("url", ["127.0.0.1:5000", "ftp://x", "https://dynamodb.ap-southeast-3.amazonaws.com"])
def test_an_endpoint_that_is_none_or_aws_itself_is_refused(url: str) -> None:
    with pytest.raises(DevstackError, match="AWS_ENDPOINT_URL"):
        checked_endpoint(url)


def test_a_taken_port_is_a_clear_error(endpoint_url: str) -> None:
    with pytest.raises(DevstackError, match="cannot listen"):
        AwsServer(port=int(endpoint_url.rpartition(":")[2]))


# The queue mapping


class Worker:
    """A function that takes batches, and the poller that feeds it."""

    def __init__(
        self,
        account: Account,
        answer: Callable[[list[dict[str, Any]]], Any],
        *,
        concurrency: int = 2,
        report: bool = True,
    ) -> None:
        self.batches: list[list[dict[str, Any]]] = []
        self.answer = answer
        function = Function("W", "worker", "w.handler", 5, 128, {}, "arn:aws:lambda:r:1:function:worker")
        self.runtime = Runtime({"W": function}, {"W": self.handle})
        mapping = QueueMapping("W", "Queue", 10, 0, report, concurrency)
        self.poller = Poller(mapping, account.queue, "ap-southeast-3", account.sqs, self.runtime)

    def handle(self, event: Any, _: Any) -> Any:
        self.batches.append(event["Records"])
        return self.answer(event["Records"])

    @property
    def bodies(self) -> list[str]:
        return [record["body"] for batch in list(self.batches) for record in batch]

    def __enter__(self) -> "Worker":
        self.poller.start()
        return self

    def __exit__(self, *_: object) -> None:
        self.poller.stop()
        self.poller.join(5)
        assert self.runtime.drain(5)


def failures(*ids: str) -> dict[str, Any]:
    return {"batchItemFailures": [{"itemIdentifier": item} for item in ids]}


def test_an_event_has_the_shape_of_sqs(account: Account) -> None:
    account.sqs.send_message(
        QueueUrl=account.queue.url,
        MessageBody="{}",
        MessageAttributes={
            "text": {"DataType": "String", "StringValue": "x"},
            "bytes": {"DataType": "Binary", "BinaryValue": b"\xff"},
        },
    )
    with Worker(account, lambda _: None) as worker:
        until(lambda: account.count(account.queue.url) == 0)
    ((record,),) = worker.batches
    assert {"ApproximateReceiveCount", "SentTimestamp", "SenderId", "ApproximateFirstReceiveTimestamp"} <= set(
        record["attributes"]
    )
    assert record["attributes"]["ApproximateReceiveCount"] == "1"
    assert record["messageAttributes"]["text"]["stringValue"] == "x"
    assert record["messageAttributes"]["bytes"] == {
        "binaryValue": "/w==",
        "stringListValues": [],
        "binaryListValues": [],
        "dataType": "Binary",
    }
    assert record["md5OfBody"] == "99914b932bd37a50b983c5e7c90ae93b"
    assert (record["eventSource"], record["eventSourceARN"]) == ("aws:sqs", account.queue.arn)
    assert record["awsRegion"] == "ap-southeast-3"
    assert record["messageId"]
    assert record["receiptHandle"]


def test_only_what_was_reported_failed_comes_back_until_the_dead_letter_queue_has_it(account: Account) -> None:
    account.send("good", "poison", "good too")

    def answer(records: list[dict[str, Any]]) -> Any:
        return failures(*(record["messageId"] for record in records if record["body"] == "poison"))

    with Worker(account, answer) as worker:
        until(lambda: account.count(account.dead.url) == 1)
    assert sorted(worker.bodies) == ["good", "good too", "poison", "poison"], "the receive limit is two"
    assert account.count(account.queue.url) == 0
    (dead,) = account.sqs.receive_message(QueueUrl=account.dead.url)["Messages"]
    assert dead["Body"] == "poison"


def test_a_handler_that_raises_fails_its_whole_batch(account: Account) -> None:
    account.send("a", "b")

    def answer(_: Any) -> Any:
        raise RuntimeError("down")

    with Worker(account, answer) as worker:
        until(lambda: account.count(account.dead.url) == 2)
    assert sorted(worker.bodies) == ["a", "a", "b", "b"]


def test_batches_are_worked_at_once_up_to_the_maximum_concurrency(account: Account) -> None:
    release, working, most, lock = threading.Event(), [0], [0], threading.Lock()

    def answer(_: Any) -> Any:
        with lock:
            working[0] += 1
            most[0] = max(most[0], working[0])
        release.wait(5)
        with lock:
            working[0] -= 1

    with Worker(account, answer, concurrency=3):
        for number in range(5):
            account.send(str(number))
            time.sleep(0.1)
        assert most[0] == 3
        release.set()
        until(lambda: account.count(account.queue.url) == 0)
    assert most[0] == 3


def test_the_poller_outlives_a_queue_that_fails(account: Account) -> None:
    class Flaky:
        broken = True

        def receive_message(self, **arguments: Any) -> Any:
            if self.broken:
                self.broken = False
                raise RuntimeError("no connection")
            return account.sqs.receive_message(**arguments)

        def __getattr__(self, name: str) -> Any:
            return getattr(account.sqs, name)

    account.send("a")
    worker = Worker(account, lambda _: None)
    worker.poller._sqs = Flaky()  # type: ignore[assignment]
    with worker:
        until(lambda: worker.bodies == ["a"])


@pytest.mark.parametrize(
    ("result", "failed"),
    [
        (None, set()),
        ({}, set()),
        ({"batchItemFailures": []}, set()),
        ({"batchItemFailures": None}, set()),
        (failures("1"), {"1"}),
        (failures("1", "1"), {"1"}),
        (failures("unknown"), {"1", "2"}),
        (failures("1", ""), {"1", "2"}),
        ({"batchItemFailures": [{"itemIdentifier": None}]}, {"1", "2"}),
        ({"batchItemFailures": [{}]}, {"1", "2"}),
        ({"batchItemFailures": "all"}, {"1", "2"}),
        ("nonsense", {"1", "2"}),
    ],
)
def test_a_report_is_read_as_lambda_reads_it(result: Any, failed: set[str]) -> None:
    messages: Any = [{"MessageId": "1"}, {"MessageId": "2"}]
    assert failed_messages(result, messages) == failed
