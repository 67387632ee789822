"""Indodana's merchant API: checking a status, cancelling an order."""

import hashlib
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from testkit.indodana.answers import Answer, RefusalError
from testkit.indodana.books import Cancellation, Transaction
from testkit.indodana.faults import CHECK_STATUS, ORDER_CANCELLATION
from testkit.indodana.fields import InvalidFieldError, parse_amount, parse_order_id, parse_text, parse_time, plain
from testkit.indodana.state import State

BASE_PATH = "/chermes/merchant"
ENDPOINTS = {
    ("GET", f"{BASE_PATH}/v1/transactions/qris/check_status"): CHECK_STATUS,
    ("POST", f"{BASE_PATH}/v1/order_cancellation"): ORDER_CANCELLATION,
    ("POST", f"{BASE_PATH}/v2/order_cancellation"): ORDER_CANCELLATION,
    ("POST", f"{BASE_PATH}/v3/order_cancellation"): ORDER_CANCELLATION,
}
# Not documented; 32 is what the gateway promises to stay within.
MAX_REFUND_ID_LENGTH = 32


@dataclass(frozen=True)
class Call:
    """A request to the API, as far as it could be read. `endpoint` is the path itself when it is not a known one."""

    endpoint: str
    authorization: str | None
    merchant_order_id: str | None
    refund_id: str | None
    body: dict[str, Any] | None


def answer(state: State, call: Call) -> Answer:
    """Do what the request asks and give the right answer, before a fault changes it."""
    try:
        if call.endpoint not in ENDPOINTS.values():
            raise RefusalError(404, "No such path")
        merchant_id = state.authenticate(call.authorization)
        if call.endpoint == CHECK_STATUS:
            if not call.merchant_order_id:
                raise InvalidFieldError("merchantOrderId", "is required")
            return Answer.of_json(200, _status(state.books.transaction(merchant_id, call.merchant_order_id)))
        if call.body is None:
            raise RefusalError(400, "Body must be a JSON object")
        cancellation = parse_cancellation(call.body)
        state.books.cancel(merchant_id, cancellation)
    except InvalidFieldError as error:
        return Answer.of_error(422, {error.field: error.message})
    except RefusalError as refusal:
        return Answer.of_error(refusal.status, refusal.message)
    return Answer.of_json(
        200,
        {
            "status": "OK",
            "refundId": cancellation.refund_id,
            "merchantOrderId": cancellation.merchant_order_id,
            "cancellationAmount": plain(cancellation.amount),
        },
    )


def parse_cancellation(body: Mapping[str, Any]) -> Cancellation:
    """The documented body of order_cancellation. Other fields are ignored."""
    refund_id = parse_text(body, "refundId")
    if len(refund_id) > MAX_REFUND_ID_LENGTH:
        raise InvalidFieldError("refundId", f"is longer than {MAX_REFUND_ID_LENGTH} characters")
    merchant_order_id = parse_order_id(body, "merchantOrderId")
    amount = parse_amount(body, "cancellationAmount")
    reason = parse_text(body, "cancellationReason")
    cancelled_by = parse_text(body, "cancelledBy")
    parse_time(body, "cancellationDate")
    return Cancellation(refund_id, merchant_order_id, amount, reason, cancelled_by)


def _status(transaction: Transaction) -> dict[str, Any]:
    identity = hashlib.sha256(f"{transaction.merchant_id}/{transaction.merchant_order_id}".encode()).hexdigest()
    return {
        "status": "OK",
        "transactionStatus": transaction.status,
        "merchantOrderId": transaction.merchant_order_id,
        "transactionId": f"trx-{identity[:16]}",
        "amount": plain(transaction.amount),
        "paymentType": "3_months",
        "transactionTime": transaction.time.strftime("%Y-%m-%dT%H:%M:%S%z"),
        "fraudStatus": "REJECT" if transaction.status == "REJECTED" else "ACCEPT",
        "legalName": "Siti Rahmawati",
        "indodanaUserId": f"user-{identity[16:28]}",
    }
