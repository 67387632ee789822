"""How the simulator is told to fail: which faults exist, what each takes, and which request gets which."""

import itertools
import random
import threading
from collections.abc import Container, Mapping
from dataclasses import asdict, dataclass
from typing import Any

from testkit.indodana.books import InvalidFieldError, parse_order_id

PATHS = ("check_status", "order_cancellation")
REFUSE_CONNECTIONS = "refuse_connections"
DEFAULT_HOLD_SECONDS = 60

# Every fault, with the parameters of its own and their defaults.
FAULTS: dict[str, dict[str, Any]] = {
    REFUSE_CONNECTIONS: {"seconds": None},
    "reset_before": {},
    "reset_after": {},
    "timeout_before": {"seconds": DEFAULT_HOLD_SECONDS},
    "timeout_after": {"seconds": DEFAULT_HOLD_SECONDS},
    "error_before": {"status": 500},
    "error_after": {"status": 500},
    "rate_limited": {"retryAfter": 1},
    "unauthorized": {},
    "conflict": {},
    "refused": {"status": 422},
    "html": {"status": 200},
    "html_after": {"status": 200},
    "empty": {},
    "empty_after": {},
    "ok_error": {},
    "slow": {"seconds": 1},
    "truncated_after": {},
}
# These do what was asked, then spoil the answer. All others do nothing.
DOES_THE_WORK = {name for name in FAULTS if name.endswith("_after")} | {"slow"}

# 204, 205 and 304 have no body to put a page in.
HTML_STATUSES = frozenset(range(200, 600)) - {204, 205, 304}
STATUSES: dict[str, tuple[Container[int], str]] = {
    "error_before": (range(500, 600), "500 to 599"),
    "error_after": (range(500, 600), "500 to 599"),
    "refused": ((400, 403, 404, 422), "400, 403, 404 or 422"),
    "html": (HTML_STATUSES, "200 to 599 that has a body"),
    "html_after": (HTML_STATUSES, "200 to 599 that has a body"),
}
# What narrows a fault to some requests. A refused connection carries no request, so none of it fits there.
MATCHING = ("path", "merchantOrderId", "probability", "times")
MAX_SECONDS = 86400


@dataclass
class Fault:
    """One fault as it was asked for. Its field names are those of the control API."""

    id: str
    fault: str
    path: str | None = None
    merchantOrderId: str | None = None  # noqa: N815
    probability: float | None = None
    times: int | None = None
    seconds: float | None = None
    retryAfter: int | str | None = None  # noqa: N815
    status: int | None = None

    def describe(self) -> dict[str, Any]:
        return {name: value for name, value in asdict(self).items() if value is not None}

    @property
    def does_the_work(self) -> bool:
        return self.fault in DOES_THE_WORK


def parse_fault(body: Mapping[str, Any], fault_id: str) -> Fault:
    name = body.get("fault")
    if not isinstance(name, str) or name not in FAULTS:
        raise InvalidFieldError("fault", f"must be one of {', '.join(FAULTS)}")
    takes = set(FAULTS[name]) | (set() if name == REFUSE_CONNECTIONS else set(MATCHING))
    given = {field: value for field, value in body.items() if field != "fault" and value is not None}
    for field in given:
        if field not in takes:
            raise InvalidFieldError(field, f"is not a parameter of {name}")
    values = {field: _parse_parameter(name, field, given) for field in given}
    return Fault(fault_id, name, **(FAULTS[name] | values))


def _parse_parameter(name: str, field: str, given: Mapping[str, Any]) -> Any:
    value = given[field]
    number = None if isinstance(value, bool | str | list | dict) else value
    integer = value if isinstance(number, int) else None
    match field:
        case "path":
            if value in PATHS:
                return value
            raise InvalidFieldError(field, f"must be one of {', '.join(PATHS)}")
        case "merchantOrderId":
            return parse_order_id(given, field)
        case "probability":
            if number is not None and 0 <= number <= 1:
                return float(number)
            raise InvalidFieldError(field, "must be a number from 0 to 1")
        case "times":
            if integer is not None and integer > 0:
                return integer
            raise InvalidFieldError(field, "must be a whole number above 0")
        case "seconds":
            if number is not None and 0 <= number <= MAX_SECONDS:
                return float(number)
            raise InvalidFieldError(field, f"must be a number from 0 to {MAX_SECONDS}")
        case "retryAfter":
            # A date is as good a Retry-After as a count of seconds is, and so is nonsense: it goes out as it is.
            if (integer is not None and integer >= 0) or (isinstance(value, str) and value and _is_header_text(value)):
                return value
            raise InvalidFieldError(field, "must be whole seconds, or the header's text")
        case _:
            allowed, description = STATUSES[name]
            if integer is not None and integer in allowed:
                return integer
            raise InvalidFieldError(field, f"of {name} must be {description}")


def _is_header_text(value: str) -> bool:
    return value.isascii() and value.isprintable()


class Faults:
    """The faults in force, in the order in which they were added; the first that fits a request is its fault."""

    # Shared by all instances, so that an id from before a reset never names another fault after it.
    _numbers = itertools.count(1)

    def __init__(self, seed: int) -> None:
        self._lock = threading.Lock()
        self._random = random.Random(seed)
        self._faults: dict[str, Fault] = {}

    def seed(self, seed: int) -> None:
        with self._lock:
            self._random = random.Random(seed)

    def add(self, body: Mapping[str, Any]) -> Fault:
        fault = parse_fault(body, f"f{next(self._numbers)}")
        with self._lock:
            self._faults[fault.id] = fault
        return fault

    def remove(self, fault_id: str) -> bool:
        with self._lock:
            return self._faults.pop(fault_id, None) is not None

    def clear(self) -> None:
        with self._lock:
            self._faults.clear()

    def pick(self, path: str, merchant_order_id: str | None) -> Fault | None:
        with self._lock:
            for fault in list(self._faults.values()):
                if fault.fault == REFUSE_CONNECTIONS or fault.path not in (None, path):
                    continue
                if fault.merchantOrderId not in (None, merchant_order_id):
                    continue
                if fault.probability is not None and self._random.random() >= fault.probability:
                    continue
                if fault.times is not None:
                    fault.times -= 1
                    if not fault.times:
                        del self._faults[fault.id]
                return fault
            return None

    def refuses_connections(self) -> bool:
        with self._lock:
            return any(fault.fault == REFUSE_CONNECTIONS for fault in self._faults.values())

    def describe(self) -> list[dict[str, Any]]:
        with self._lock:
            return [fault.describe() for fault in self._faults.values()]
