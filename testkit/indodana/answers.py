"""What the simulator sends back over HTTP."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Self

import simplejson

JSON_TYPE = "application/json"
# The kind of error that goes with a status. The documentation shows some; the others are made in their likeness.
KINDS = {
    400: "BadRequestError",
    401: "FailedAuthError",
    403: "ForbiddenError",
    404: "NotFoundError",
    409: "ConflictError",
    422: "ValidationError",
    429: "TooManyRequestsError",
}
SERVER_ERROR_KIND = "InternalServerError"


@dataclass(frozen=True)
class Answer:
    status: int
    body: bytes
    content_type: str = JSON_TYPE
    headers: Mapping[str, str] = field(default_factory=dict)

    @classmethod
    def of_json(cls, status: int, body: Mapping[str, Any], headers: Mapping[str, str] | None = None) -> Self:
        return cls(status, _dumps(body), headers=headers or {})

    @classmethod
    def of_rows(cls, status: int, body: Mapping[str, Any]) -> Self:
        """JSON for people: one entry of each list and object of `body` on a line."""
        members = [b"%s: %s" % (_dumps(name), _rows(value)) for name, value in body.items()]
        return cls(status, b"{\n  %s\n}\n" % b",\n  ".join(members))

    @classmethod
    def of_error(
        cls,
        status: int,
        message: str | dict[str, str],
        kind: str | None = None,
        headers: Mapping[str, str] | None = None,
    ) -> Self:
        kind = kind or KINDS.get(status, SERVER_ERROR_KIND)
        return cls.of_json(status, {"status": "ERROR", "error": {"kind": kind, "message": message}}, headers)


class RefusalError(Exception):
    """Indodana refuses the request and answers with an error."""

    def __init__(self, status: int, message: str | dict[str, str]) -> None:
        super().__init__(f"{status}: {message}")
        self.status = status
        self.message = message


def _rows(value: Any) -> bytes:
    match value:
        case dict() if value:
            rows, brackets = [b"%s: %s" % (_dumps(name), _dumps(entry)) for name, entry in value.items()], (b"{", b"}")
        case list() if value:
            rows, brackets = [_dumps(entry) for entry in value], (b"[", b"]")
        case _:
            return _dumps(value)
    return brackets[0] + b"\n    " + b",\n    ".join(rows) + b"\n  " + brackets[1]


def _dumps(value: Any) -> bytes:
    return simplejson.dumps(value, use_decimal=True).encode()
