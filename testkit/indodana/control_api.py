"""The control API of the simulator: how tests and people make orders, cause faults and read the books."""

from collections.abc import Mapping
from decimal import Decimal
from typing import TYPE_CHECKING, Any

from testkit.indodana.answers import Answer
from testkit.indodana.fields import (
    InvalidFieldError,
    parse_amount,
    parse_flag,
    parse_object,
    parse_order_id,
    parse_text,
    refuse_unknown,
)
from testkit.indodana.server import CONTROL_PATH
from testkit.indodana.state import State

if TYPE_CHECKING:
    from testkit.indodana.simulator import Simulator


class ControlApi:
    def __init__(self, simulator: "Simulator") -> None:
        self._simulator = simulator

    def answer(self, method: str, path: list[str], query: Mapping[str, str], raw_body: bytes) -> Answer:
        try:
            return self._route(method, path, query, raw_body)
        except InvalidFieldError as error:
            details = {"kind": "ValidationError", "field": error.field, "message": str(error)}
            return Answer.of_json(400, {"status": "ERROR", "error": details})

    def _route(self, method: str, path: list[str], query: Mapping[str, str], raw_body: bytes) -> Answer:
        simulator, state = self._simulator, self._simulator.state
        body = _parse_body(raw_body) if method in ("POST", "PUT") else {}
        match method, path:
            case "GET", ["books"]:
                return Answer.of_json(200, state.books.describe(query.get("merchantOrderId")))
            case "GET", ["orders"]:
                return Answer.of_json(200, {"orders": state.books.describe_orders()})
            case "POST", ["orders"]:
                return Answer.of_json(201, _put_order(state, body))
            case "GET", ["faults"]:
                return Answer.of_json(200, {"faults": state.faults.describe()})
            case "POST", ["faults"]:
                return Answer.of_json(201, {"id": simulator.add_fault(state, body).id})
            case "DELETE", ["faults"]:
                simulator.clear_faults(state)
                return Answer.of_json(200, {})
            case "DELETE", ["faults", fault_id]:
                found = simulator.remove_fault(state, fault_id)
                return Answer.of_json(200, {}) if found else Answer.of_error(404, "No such fault")
            case "PUT", ["merchants", merchant_id]:
                return Answer.of_json(200, _put_credentials(state, merchant_id, body))
            case "POST", ["settings"]:
                return Answer.of_json(200, _change_settings(state, body))
            case "POST", ["reset"]:
                simulator.reset()
                return Answer.of_json(200, {})
        return Answer.of_error(404, f"No such control route: {method} {CONTROL_PATH}/{'/'.join(path)}")


def _put_order(state: State, body: Mapping[str, Any]) -> dict[str, Any]:
    refuse_unknown(body, "merchantId", "merchantOrderId", "amount", "transactionStatus")
    merchant_id = parse_text(body, "merchantId") if "merchantId" in body else state.credentials.default_merchant
    if merchant_id not in state.credentials:
        raise InvalidFieldError("merchantId", "is not a merchant of this simulator")
    merchant_order_id = parse_order_id(body, "merchantOrderId")
    amount = parse_amount(body, "amount")
    # Any status is accepted: callers must cope with those that the documentation does not list.
    status = parse_text(body, "transactionStatus")
    state.books.put_transaction(merchant_id, merchant_order_id, amount, status)
    return {"merchantId": merchant_id, "merchantOrderId": merchant_order_id}


def _put_credentials(state: State, merchant_id: str, body: Mapping[str, Any]) -> dict[str, Any]:
    refuse_unknown(body, "apiKey", "secretKey", "keepOld")
    api_key, secret_key = parse_text(body, "apiKey"), parse_text(body, "secretKey")
    keep_old = parse_flag(body, "keepOld", default=False)
    if state.credentials.put(merchant_id, api_key, secret_key, keep_old=keep_old):
        state.books.add_default_orders(merchant_id)
    return {"merchantId": merchant_id}


def _change_settings(state: State, body: Mapping[str, Any]) -> dict[str, Any]:
    refuse_unknown(body, "recognisesRepeats", "seed", "nonceWindowSeconds")
    recognises_repeats = parse_flag(body, "recognisesRepeats", default=state.books.recognises_repeats)
    window = body.get("nonceWindowSeconds", state.nonce_window_seconds)
    if window is not None and (isinstance(window, bool) or not isinstance(window, int | float | Decimal) or window < 0):
        raise InvalidFieldError("nonceWindowSeconds", "must be a number of 0 or more, or null")
    if "seed" in body:
        seed = body["seed"]
        if isinstance(seed, bool) or not isinstance(seed, int):
            raise InvalidFieldError("seed", "must be a whole number")
        state.faults.seed(seed)
    state.books.recognises_repeats = recognises_repeats
    state.nonce_window_seconds = None if window is None else float(window)
    return {"recognisesRepeats": recognises_repeats, "nonceWindowSeconds": state.nonce_window_seconds}


def _parse_body(raw: bytes) -> dict[str, Any]:
    body = parse_object(raw or b"{}")
    if body is None:
        raise InvalidFieldError("body", "must be a JSON object")
    return body
