"""A small stack of its own for each test, in an emulator that they share."""

import time
import uuid
from collections.abc import Callable
from pathlib import Path

from devstack.aws import client, provision
from devstack.template import Model, Template

TEMPLATE = """
Resources:
  Table:
    Type: AWS::DynamoDB::Table
    Properties:
      BillingMode: PAY_PER_REQUEST
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
  Secret:
    Type: AWS::SecretsManager::Secret
    Properties: {Name: !Sub "${AWS::StackName}/m1", GenerateSecretString: {GenerateStringKey: secretKey}}
"""


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


def until(true: Callable[[], bool], seconds: float = 10) -> None:
    deadline = time.monotonic() + seconds
    while not true():
        assert time.monotonic() < deadline, "it did not happen"
        time.sleep(0.02)
