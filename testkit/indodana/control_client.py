"""Client of the simulator's control API."""

import urllib.error
import urllib.request
from datetime import datetime
from decimal import Decimal
from typing import Any
from urllib.parse import quote

import simplejson

# The simulator runs on this machine; only closing a listener takes longer than some milliseconds.
TIMEOUT_SECONDS = 5.0


class SimulatorError(Exception):
    """The simulator refused a control request."""


class SimulatorControl:
    """Amounts come back as exact numbers: int or Decimal."""

    def __init__(self, url: str) -> None:
        self._url = url.rstrip("/")
        # HTTP only: no proxy, even if the environment names one, and no TLS context, which is slow to make.
        self._opener = urllib.request.OpenerDirector()
        self._opener.add_handler(urllib.request.HTTPHandler())
        self._opener.add_handler(urllib.request.HTTPErrorProcessor())
        self._opener.add_handler(urllib.request.HTTPDefaultErrorHandler())

    def add_order(
        self,
        merchant_order_id: str,
        amount: Decimal | int,
        transaction_status: str = "PAID",
        merchant_id: str | None = None,
        transaction_time: datetime | None = None,
    ) -> None:
        """Add or replace an order, of the first merchant and made now if not said otherwise."""
        self._call(
            "POST",
            "orders",
            _given(
                merchantOrderId=merchant_order_id,
                amount=amount,
                transactionStatus=transaction_status,
                merchantId=merchant_id,
                transactionTime=None if transaction_time is None else transaction_time.isoformat(),
            ),
        )

    def orders(self) -> list[dict[str, Any]]:
        orders: list[dict[str, Any]] = self._call("GET", "orders")["orders"]
        return orders

    def fault(
        self,
        fault: str,
        *,
        path: str | None = None,
        merchant_order_id: str | None = None,
        probability: float | None = None,
        times: int | None = None,
        seconds: float | None = None,
        retry_after: int | str | None = None,
        status: int | None = None,
    ) -> str:
        """The id of the new fault."""
        body = _given(
            fault=fault,
            path=path,
            merchantOrderId=merchant_order_id,
            probability=probability,
            times=times,
            seconds=seconds,
            retryAfter=retry_after,
            status=status,
        )
        return str(self._call("POST", "faults", body)["id"])

    def faults(self) -> list[dict[str, Any]]:
        """The faults in force. `times` is how often each will still strike."""
        faults: list[dict[str, Any]] = self._call("GET", "faults")["faults"]
        return faults

    def clear_faults(self, fault_id: str | None = None) -> None:
        """Clear one fault, or all."""
        self._call("DELETE", "faults" if fault_id is None else f"faults/{quote(fault_id, safe='')}")

    def books(self, merchant_order_id: str | None = None) -> dict[str, Any]:
        narrowed = "" if merchant_order_id is None else f"?merchantOrderId={quote(merchant_order_id, safe='')}"
        return self._call("GET", f"books{narrowed}")

    def moved(self, merchant_id: str, merchant_order_id: str) -> Decimal:
        """The sum of the order's movements; 0 for an order that the simulator does not know."""
        movements = self.books(merchant_order_id)["movements"]
        return sum((Decimal(m["amount"]) for m in movements if m["merchantId"] == merchant_id), Decimal(0))

    def set_credentials(self, merchant_id: str, api_key: str, secret_key: str, *, keep_old: bool = False) -> None:
        """The new pair is valid at once, and the old one no longer, unless `keep_old`."""
        pair = {"apiKey": api_key, "secretKey": secret_key}
        self._call("PUT", f"merchants/{quote(merchant_id, safe='')}", pair | ({"keepOld": True} if keep_old else {}))

    def settings(self, **settings: Any) -> dict[str, Any]:
        """Change the settings given, and get them all. Their names are those of `GET /_simulator`."""
        return self._call("POST", "settings", settings)

    def now(self) -> datetime:
        """The simulator's time."""
        return datetime.fromisoformat(self._call("GET", "clock")["now"])

    def move_clock(self, days: float) -> None:
        """Move the simulator's time forward, or back if `days` is negative."""
        self._call("PUT", "clock", {"days": days})

    def set_clock(self, now: datetime | None) -> None:
        """None: back to the real time."""
        self._call("PUT", "clock", {"now": None if now is None else now.isoformat()})

    def reset(self) -> None:
        self._call("POST", "reset")

    def _call(self, method: str, path: str, body: dict[str, Any] | None = None) -> dict[str, Any]:
        data = None if body is None else simplejson.dumps(body, use_decimal=True).encode()
        request = urllib.request.Request(
            f"{self._url}/_simulator/{path}", data, {"Content-Type": "application/json"}, method=method
        )
        try:
            with self._opener.open(request, timeout=TIMEOUT_SECONDS) as answer:
                parsed: dict[str, Any] = simplejson.loads(answer.read(), use_decimal=True)
                return parsed
        except urllib.error.HTTPError as error:
            with error:
                answer_text = error.read().decode(errors="replace")
            raise SimulatorError(f"{method} {path}: {error.code} {answer_text}") from error


def _given(**fields: Any) -> dict[str, Any]:
    return {name: value for name, value in fields.items() if value is not None}
