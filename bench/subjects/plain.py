"""A plain function, as written straight from Indodana's documentation: it signs the request and returns the answer.

It stores nothing: a repeated request refunds twice, and a refund that timed out is lost.
"""

import json
import os
import uuid
from datetime import UTC, datetime
from typing import Any

import requests

from signing import authorization

UPSTREAM = os.environ["INDODANA_URL"] + os.environ["INDODANA_BASE_PATH"]


def _headers() -> dict[str, str]:
    return {"Authorization": authorization(os.environ["API_KEY"], os.environ["SECRET_KEY"])}


def status(event: dict[str, Any], _context: object) -> dict[str, Any]:
    params = {"merchantOrderId": event["pathParameters"]["merchantOrderId"]}
    url = f"{UPSTREAM}/v1/transactions/qris/check_status"
    response = requests.get(url, params=params, headers=_headers(), timeout=5)
    return {"statusCode": response.status_code, "body": response.text}


def refund(event: dict[str, Any], _context: object) -> dict[str, Any]:
    wanted = json.loads(event["body"])
    body = {
        "refundId": uuid.uuid4().hex,
        "merchantOrderId": event["pathParameters"]["merchantOrderId"],
        "cancellationAmount": wanted["amount"],
        "cancellationReason": wanted["reason"],
        "cancelledBy": wanted["requestedBy"],
        "cancellationDate": datetime.now(UTC).isoformat(),
    }
    response = requests.post(f"{UPSTREAM}/v3/order_cancellation", json=body, headers=_headers(), timeout=10)
    return {"statusCode": 201 if response.ok else response.status_code, "body": response.text}
