"""The control API of the simulator: how tests and people make orders, cause faults and read the books."""

from collections.abc import Mapping
from datetime import datetime
from decimal import Decimal
from typing import TYPE_CHECKING, Any

from testkit.indodana.answers import Answer
from testkit.indodana.books import CANCELLED, PAID, Rules
from testkit.indodana.clock import YEARS
from testkit.indodana.faults import describe_kinds
from testkit.indodana.fields import (
    InvalidFieldError,
    parse_amount,
    parse_flag,
    parse_object,
    parse_order_id,
    parse_text,
    parse_time,
    refuse_unknown,
)
from testkit.indodana.handler import CONTROL_PATH
from testkit.indodana.state import State

if TYPE_CHECKING:
    from testkit.indodana.simulator import Simulator

MAX_NONCE_WINDOW_SECONDS = 10**9
YEARS_TEXT = f"from {YEARS[0]} to {YEARS[-1]}"

INDEX = f"""Indodana simulator: control API. Bodies and answers are JSON.

GET     {CONTROL_PATH}/orders                 all orders: amount, money moved back, status, time
POST    {CONTROL_PATH}/orders                 add or replace an order
            {{"merchantOrderId": "MY-1", "amount": 75000, "transactionStatus": "PAID"}}
            optional: merchantId, transactionTime (default: now)
GET     {CONTROL_PATH}/books                  refunds done, sums and requests received
            ?merchantOrderId=MY-1 shows one order
GET     {CONTROL_PATH}/faults                 the faults in force, and what each kind of fault does
POST    {CONTROL_PATH}/faults                 add a fault
            {{"fault": "reset_after", "path": "order_cancellation", "merchantOrderId": "MY-1", "times": 1}}
DELETE  {CONTROL_PATH}/faults                 remove all faults
DELETE  {CONTROL_PATH}/faults/{{id}}            remove one fault
GET     {CONTROL_PATH}/clock                  the simulator's time
PUT     {CONTROL_PATH}/clock                  move it: {{"days": 31}} or {{"now": "2030-01-31T09:00:00+07:00"}}
            {{"now": null}} goes back to the real time. Signatures are always checked against the real time.
GET     {CONTROL_PATH}/settings               the settings and their values
POST    {CONTROL_PATH}/settings               change some of them
            partialRefundStatus   an order's status after a partial refund: "PAID" (default) or "CANCELLED"
            onePartialOnly        true refuses all refunds after an order's first partial refund (default: false)
            recognisesRepeats     true refuses a refundId that has moved money already (default: false)
            nonceWindowSeconds    how old a signature may be; null: any age (default: 300)
            seed                  restarts the random choice of faults that have a probability
PUT     {CONTROL_PATH}/merchants/{{id}}         set a merchant's keys: {{"apiKey": "k", "secretKey": "s"}}
            "keepOld": true keeps the old keys valid as well
POST    {CONTROL_PATH}/reset                  set everything back to the start
"""


class ControlApi:
    def __init__(self, simulator: "Simulator") -> None:
        self._simulator = simulator

    def answer(self, method: str, path: list[str], query: Mapping[str, str], raw_body: bytes) -> Answer:
        try:
            refuse_unknown(query, *(["merchantOrderId"] if path == ["books"] else []))
            return self._route(method, path, query, raw_body)
        except InvalidFieldError as error:
            details = {"kind": "ValidationError", "field": error.field, "message": str(error)}
            return Answer.of_json(400, {"status": "ERROR", "error": details})

    def _route(self, method: str, path: list[str], query: Mapping[str, str], raw_body: bytes) -> Answer:
        simulator, state = self._simulator, self._simulator.state
        body = _parse_body(raw_body) if method in ("POST", "PUT") else {}
        match method, path:
            case "GET", []:
                return Answer(200, INDEX.encode(), "text/plain; charset=utf-8")
            case "GET", ["books"]:
                return Answer.of_rows(200, state.books.describe(query.get("merchantOrderId")))
            case "GET", ["orders"]:
                return Answer.of_rows(200, {"orders": state.books.describe_orders()})
            case "POST", ["orders"]:
                return Answer.of_json(201, _put_order(state, body))
            case "GET", ["faults"]:
                return Answer.of_rows(200, {"faults": state.faults.describe(), **describe_kinds()})
            case "POST", ["faults"]:
                return Answer.of_json(201, {"id": simulator.add_fault(state, body).id})
            case "DELETE", ["faults"]:
                simulator.clear_faults(state)
                return Answer.of_json(200, {})
            case "DELETE", ["faults", fault_id]:
                found = simulator.remove_fault(state, fault_id)
                return Answer.of_json(200, {}) if found else Answer.of_error(404, "No such fault")
            case "GET", ["clock"]:
                return Answer.of_rows(200, _clock(state))
            case "PUT" | "POST", ["clock"]:
                return Answer.of_json(200, _move_clock(state, body))
            case "GET", ["settings"]:
                return Answer.of_rows(200, _settings(state))
            case "POST", ["settings"]:
                return Answer.of_json(200, _change_settings(state, body))
            case "PUT", ["merchants", merchant_id]:
                return Answer.of_json(200, _put_credentials(state, merchant_id, body))
            case "POST", ["reset"]:
                simulator.reset()
                return Answer.of_json(200, {})
        route = "/".join([CONTROL_PATH, *path])
        return Answer.of_error(404, f"No such control route: {method} {route}; GET {CONTROL_PATH} lists them")


def _put_order(state: State, body: Mapping[str, Any]) -> dict[str, Any]:
    refuse_unknown(body, "merchantId", "merchantOrderId", "amount", "transactionStatus", "transactionTime")
    merchant_id = parse_text(body, "merchantId") if "merchantId" in body else state.credentials.default_merchant
    if merchant_id not in state.credentials:
        raise InvalidFieldError("merchantId", "is not a merchant of this simulator")
    merchant_order_id = parse_order_id(body, "merchantOrderId")
    amount = parse_amount(body, "amount")
    # Any status is accepted: callers must cope with those that the documentation does not list.
    status = parse_text(body, "transactionStatus")
    time = _parse_near_time(body, "transactionTime") if "transactionTime" in body else None
    state.books.put_transaction(merchant_id, merchant_order_id, amount, status, time)
    return {"merchantId": merchant_id, "merchantOrderId": merchant_order_id}


def _put_credentials(state: State, merchant_id: str, body: Mapping[str, Any]) -> dict[str, Any]:
    refuse_unknown(body, "apiKey", "secretKey", "keepOld")
    api_key, secret_key = parse_text(body, "apiKey"), parse_text(body, "secretKey")
    keep_old = parse_flag(body, "keepOld", default=False)
    if state.credentials.put(merchant_id, api_key, secret_key, keep_old=keep_old):
        state.books.add_default_orders(merchant_id)
    return {"merchantId": merchant_id}


def _clock(state: State) -> dict[str, Any]:
    return {"now": state.clock.now().isoformat(), "secondsAhead": state.clock.seconds_ahead}


def _move_clock(state: State, body: Mapping[str, Any]) -> dict[str, Any]:
    refuse_unknown(body, "now", "days")
    if len(body) != 1:
        raise InvalidFieldError("now", "give either now or days")
    if "days" in body:
        _move_clock_by_days(state, body["days"])
    elif body["now"] is None:
        state.clock.follow_real_time()
    else:
        state.clock.move_to(_parse_near_time(body, "now"))
    return _clock(state)


def _move_clock_by_days(state: State, days: Any) -> None:
    if not _is_number(days):
        raise InvalidFieldError("days", "must be a number")
    try:
        state.clock.move_by(float(days))
    except OverflowError as error:
        raise InvalidFieldError("days", f"moves the clock out of the years {YEARS_TEXT}") from error


def _settings(state: State) -> dict[str, Any]:
    rules = state.books.rules
    return {
        "recognisesRepeats": rules.recognises_repeats,
        "partialRefundStatus": rules.partial_refund_status,
        "onePartialOnly": rules.one_partial_only,
        "nonceWindowSeconds": state.nonce_window_seconds,
    }


def _change_settings(state: State, body: Mapping[str, Any]) -> dict[str, Any]:
    """All of them, or none if one is not right."""
    before = _settings(state)
    refuse_unknown(body, *before, "seed")
    after = {**before, **body}
    if after["partialRefundStatus"] not in (PAID, CANCELLED):
        raise InvalidFieldError("partialRefundStatus", f"must be {PAID} or {CANCELLED}")
    rules = Rules(
        recognises_repeats=parse_flag(after, "recognisesRepeats"),
        partial_refund_status=after["partialRefundStatus"],
        one_partial_only=parse_flag(after, "onePartialOnly"),
    )
    window = after["nonceWindowSeconds"]
    if window is not None and not (_is_number(window) and 0 <= window <= MAX_NONCE_WINDOW_SECONDS):
        raise InvalidFieldError("nonceWindowSeconds", f"must be a number from 0 to {MAX_NONCE_WINDOW_SECONDS}, or null")
    if "seed" in body:
        seed = body["seed"]
        if isinstance(seed, bool) or not isinstance(seed, int):
            raise InvalidFieldError("seed", "must be a whole number")
        state.faults.seed(seed)
    state.books.rules = rules
    state.nonce_window_seconds = float(window) if isinstance(window, Decimal) else window
    return _settings(state)


def _parse_near_time(body: Mapping[str, Any], field: str) -> datetime:
    time = parse_time(body, field)
    if time.year not in YEARS:
        raise InvalidFieldError(field, f"must be in the years {YEARS_TEXT}")
    return time


def _is_number(value: Any) -> bool:
    return isinstance(value, int | float | Decimal) and not isinstance(value, bool)


def _parse_body(raw: bytes) -> dict[str, Any]:
    body = parse_object(raw or b"{}")
    if body is None:
        raise InvalidFieldError("body", "must be a JSON object")
    return body
