"""A request as it was sent, a response as it goes out, and API Gateway's own refusals."""

import json
from collections.abc import Sequence
from dataclasses import dataclass, field
from http import HTTPStatus

from devstack.errors import DevstackError

type Headers = Sequence[tuple[str, str]]


@dataclass(frozen=True)
class Request:
    method: str
    target: str
    """As sent: the path still encoded, with the query."""
    headers: Headers = ()
    body: bytes = b""
    source_ip: str = "127.0.0.1"
    protocol: str = "HTTP/1.1"


@dataclass(frozen=True)
class Response:
    status: int
    body: bytes = b""
    headers: Headers = field(default_factory=tuple)


class BadRequestError(DevstackError):
    """The request cannot be read."""

    def __init__(self, status: HTTPStatus = HTTPStatus.BAD_REQUEST) -> None:
        super().__init__(status.phrase)
        self.status = status


def refusal(status: int, headers: Headers = ()) -> Response:
    """One of API Gateway's own responses."""
    body = json.dumps({"message": HTTPStatus(status).phrase}).encode()
    return Response(status, body, (("content-type", "application/json"), *headers))
