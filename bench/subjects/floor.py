"""The floors of the warm path: the minimum for a safe refund and an audited status check.

    status    one signed GET, one PutItem
    refund    TransactWriteItems (refund, order's sums, audit record), one signed POST, TransactWriteItems

No validation, no error handling, no logs.
"""

import json
import os
import time
import uuid
from typing import Any

from clients import dynamodb, secretsmanager, session
from signing import authorization

UPSTREAM = os.environ["INDODANA_URL"] + os.environ["INDODANA_BASE_PATH"]
_secret = json.loads(
    secretsmanager.get_secret_value(SecretId=os.environ["SECRET_PREFIX"] + os.environ["MERCHANT_ID"])["SecretString"]
)
_opened: set[str] = set()


def _headers() -> dict[str, str]:
    return {"Authorization": authorization(_secret["apiKey"], _secret["secretKey"])}


def _record(order: str, action: str) -> dict[str, Any]:
    return {
        "pk": {"S": order},
        "sk": {"S": f"{time.time()}#{uuid.uuid4().hex}"},
        "action": {"S": action},
        "actor": {"S": "till-7"},
    }


def status(event: dict[str, Any], _context: object) -> dict[str, Any]:
    order = event["pathParameters"]["merchantOrderId"]
    url = f"{UPSTREAM}/v1/transactions/qris/check_status"
    answer = session.get(url, params={"merchantOrderId": order}, headers=_headers(), timeout=5).json()
    dynamodb.put_item(TableName="peer-audit", Item=_record(order, "STATUS_CHECKED"))
    return {"statusCode": 200, "body": json.dumps(answer)}


def refund(event: dict[str, Any], _context: object) -> dict[str, Any]:
    order, amount = event["pathParameters"]["merchantOrderId"], json.loads(event["body"])["amount"]
    refund_id = uuid.uuid4().hex
    if order not in _opened:
        _open(order)
    _write(order, refund_id, "SUBMITTING", {":refundable": {"N": str(-amount)}, ":reserved": {"N": str(amount)}})
    body = {"refundId": refund_id, "merchantOrderId": order, "cancellationAmount": amount}
    answer = session.post(f"{UPSTREAM}/v3/order_cancellation", json=body, headers=_headers(), timeout=10).json()
    if answer["status"] != "OK":
        raise RuntimeError(answer)
    _write(order, refund_id, "SUCCEEDED", {":refundable": {"N": "0"}, ":reserved": {"N": str(-amount)}})
    return {"statusCode": 201, "body": json.dumps({"refundId": refund_id, "status": "SUCCEEDED"})}


def _open(order: str) -> None:
    sums = {"pk": {"S": order}, "sk": {"S": "ORDER"}, "refundable": {"N": "1000000000000"}, "reserved": {"N": "0"}}
    dynamodb.put_item(TableName="peer-orders", Item=sums)
    _opened.add(order)


def _write(order: str, refund_id: str, state: str, sums: dict[str, Any]) -> None:
    refund = {"pk": {"S": order}, "sk": {"S": f"REFUND#{refund_id}"}, "status": {"S": state}}
    dynamodb.transact_write_items(
        TransactItems=[
            {"Put": {"TableName": "peer-orders", "Item": refund}},
            {
                "Update": {
                    "TableName": "peer-orders",
                    "Key": {"pk": {"S": order}, "sk": {"S": "ORDER"}},
                    "UpdateExpression": "SET refundable = refundable + :refundable, reserved = reserved + :reserved",
                    "ConditionExpression": "refundable >= :zero",
                    "ExpressionAttributeValues": {**sums, ":zero": {"N": "0"}},
                }
            },
            {"Put": {"TableName": "peer-audit", "Item": _record(order, f"REFUND_{state}")}},
        ]
    )
