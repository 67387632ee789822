"""The request context: who acts, through which channel, and how much time is left."""

from __future__ import annotations

import math
import uuid
from collections.abc import Callable
from dataclasses import dataclass, field


def _no_limit() -> float:
    return math.inf


@dataclass(frozen=True)
class RequestContext:
    """Belongs to one request, message or recovery run, and is part of every audit record of it."""

    actor: str
    channel: str
    request_id: str
    correlation_id: str | None = None  # None: the request, message or run has none
    message: str | None = None  # the queue message being processed: the gateway's token in it, or its SQS id
    sender: str | None = None  # … and the unique id of the AWS role or user that sent it
    sender_session: str | None = None  # … and the name of the role's session
    # Until the function ends, or its caller stops waiting.
    seconds_left: Callable[[], float] = field(default=_no_limit, compare=False, repr=False)

    @property
    def known_as(self) -> str:
        return self.correlation_id or self.request_id

    @property
    def carrier(self) -> str:
        """The message that will carry a QUEUED refund: the current one, or a new token for one still to be sent."""
        return self.message or uuid.uuid4().hex
