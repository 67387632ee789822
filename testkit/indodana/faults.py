"""Faults: which kinds exist, what each does and takes, and which request is hit by which."""

import itertools
import random
import threading
from collections.abc import Container, Mapping
from dataclasses import asdict, dataclass, field
from typing import Any

from testkit.indodana.fields import InvalidFieldError, parse_order_id

# The calls of Indodana's API, as faults and books name them.
CHECK_STATUS = "check_status"
ORDER_CANCELLATION = "order_cancellation"
PATHS = (CHECK_STATUS, ORDER_CANCELLATION)
REFUSE_CONNECTIONS = "refuse_connections"
DEFAULT_HOLD_SECONDS = 60

# What narrows a fault to some requests. A refused connection carries no request, so it takes none of these.
MATCHING = {
    "path": f"only requests of this kind: {' or '.join(PATHS)}",
    "merchantOrderId": "only requests for this order",
    "probability": "only this share of the requests, from 0 to 1",
    "times": "only so many requests; then the fault is removed",
}
UNDONE = "The request is not processed."


@dataclass(frozen=True)
class Kind:
    """What a fault does, and its own parameters with their defaults."""

    does: str
    parameters: Mapping[str, Any] = field(default_factory=dict)


FAULTS = {
    REFUSE_CONNECTIONS: Kind(
        "Refuses connections to the upstream port, for `seconds` or until the fault is removed.", {"seconds": None}
    ),
    "reset_before": Kind(f"Resets the connection. {UNDONE}"),
    "reset_after": Kind("Processes the request, then resets the connection instead of answering."),
    "timeout_before": Kind(
        f"Sends no answer and closes the connection after `seconds`. {UNDONE}", {"seconds": DEFAULT_HOLD_SECONDS}
    ),
    "timeout_after": Kind(
        "Processes the request, then sends no answer and closes the connection after `seconds`.",
        {"seconds": DEFAULT_HOLD_SECONDS},
    ),
    "error_before": Kind(f"Answers with `status` (500 to 599). {UNDONE}", {"status": 500}),
    "error_after": Kind("Processes the request, then answers with `status` (500 to 599).", {"status": 500}),
    "rate_limited": Kind(f"Answers 429 with the header Retry-After, set to `retryAfter`. {UNDONE}", {"retryAfter": 1}),
    "unauthorized": Kind(f"Answers 401, as for a wrong signature. {UNDONE}"),
    "conflict": Kind(f"Answers 409. {UNDONE}"),
    "refused": Kind(f"Answers with `status` (400, 403, 404 or 422). {UNDONE}", {"status": 422}),
    "html": Kind(f"Answers with `status` and an HTML page, as a proxy does. {UNDONE}", {"status": 200}),
    "html_after": Kind("Processes the request, then answers with `status` and an HTML page.", {"status": 200}),
    "empty": Kind(f"Answers 200 with an empty body. {UNDONE}"),
    "empty_after": Kind("Processes the request, then answers 200 with an empty body."),
    "ok_error": Kind(f'Answers 200 with a body that says "status": "ERROR". {UNDONE}'),
    "slow": Kind("Processes the request and sends the correct answer after `seconds`.", {"seconds": 1}),
    "truncated_after": Kind("Processes the request, then breaks off in the middle of the correct answer."),
}
# These process the request, then change or withhold the answer. The others do not process it.
PROCESSES_THE_REQUEST = {name for name in FAULTS if name.endswith("_after")} | {"slow"}

# 204, 205 and 304 have no body to put a page in.
HTML_STATUSES = frozenset(range(200, 600)) - {204, 205, 304}
STATUSES: dict[str, tuple[Container[int], str]] = {
    "error_before": (range(500, 600), "500 to 599"),
    "error_after": (range(500, 600), "500 to 599"),
    "refused": ((400, 403, 404, 422), "400, 403, 404 or 422"),
    "html": (HTML_STATUSES, "200 to 599 that has a body"),
    "html_after": (HTML_STATUSES, "200 to 599 that has a body"),
}
MAX_SECONDS = 86400


@dataclass
class Fault:
    """One fault as it was requested. Its field names are those of the control API."""

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
    def processes_the_request(self) -> bool:
        return self.fault in PROCESSES_THE_REQUEST


def describe_kinds() -> dict[str, Any]:
    """Every kind of fault, and the parameters that narrow one to some requests."""
    return {"kinds": [{"fault": name, **asdict(kind)} for name, kind in FAULTS.items()], "narrowedBy": MATCHING}


def parse_fault(body: Mapping[str, Any], fault_id: str) -> Fault:
    name = body.get("fault")
    if not isinstance(name, str) or name not in FAULTS:
        raise InvalidFieldError("fault", f"must be one of {', '.join(FAULTS)}")
    kind = FAULTS[name]
    allowed = [*kind.parameters, *(() if name == REFUSE_CONNECTIONS else MATCHING)]
    given = {parameter: value for parameter, value in body.items() if parameter != "fault" and value is not None}
    for parameter in given:
        if parameter not in allowed:
            raise InvalidFieldError(parameter, f"is not a parameter of {name}; allowed: {', '.join(allowed)}")
    values = {parameter: _parse_parameter(name, parameter, given) for parameter in given}
    return Fault(fault_id, name, **{**kind.parameters, **values})


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
            # The header may also be a date, and callers must cope with nonsense: a text is sent as it is.
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
    """The faults in force, in the order in which they were added. The first that matches a request strikes."""

    # Shared by all instances: an id from before a reset must not name another fault after it.
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
