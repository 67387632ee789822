"""What the clients of all three services share: refusals and the exceptions made of them."""

from __future__ import annotations

from collections.abc import Callable
from functools import cache, wraps
from typing import Any, Concatenate, Protocol

from botocore.errorfactory import BaseClientExceptions, ClientExceptionsFactory
from botocore.exceptions import ClientError
from botocore.loaders import Loader
from botocore.model import ServiceModel


class Refusal(Exception):
    """AWS says no; it leaves the client as the ClientError that botocore makes of it."""

    def __init__(self, code: str, message: str, **details: Any) -> None:
        super().__init__(message)
        self.code = code
        self.response = {"Error": {"Code": code, "Message": message}, **details}


def invalid(message: str) -> Refusal:
    return Refusal("ValidationException", message)


@cache
def exceptions_of(service: str) -> BaseClientExceptions:
    """The very classes that a client of the service has, from botocore's own model of it."""
    model = ServiceModel(Loader().load_service_model(service, "service-2"), service)
    return ClientExceptionsFactory().create_client_exceptions(model)


class _Client(Protocol):
    @property
    def exceptions(self) -> Any: ...


def operation[C: _Client, **P, R](name: str) -> Callable[[Callable[Concatenate[C, P], R]], Callable[..., R]]:
    """A call that the client makes, by AWS's name for it."""

    def decorated(method: Callable[Concatenate[C, P], R]) -> Callable[..., R]:
        @wraps(method)
        def call(client: C, /, *args: P.args, **request: P.kwargs) -> R:
            try:
                return method(client, *args, **request)
            except Refusal as refusal:
                error: type[ClientError] = client.exceptions.from_code(refusal.code)
                raise error(refusal.response, name) from None  # type: ignore[arg-type]

        return call

    return decorated
