"""The request context: who takes a step, through which door, and how much time is left for it."""

from __future__ import annotations

import math
import uuid
from collections.abc import Callable
from dataclasses import dataclass, field


def _no_limit() -> float:
    return math.inf


@dataclass(frozen=True)
class RequestContext:
    """Travels with a request, a message or a run of recovery, and stands in every audit record of it."""

    actor: str
    channel: str
    request_id: str
    correlation_id: str | None = None  # None: nobody gave one with this request, message or run
    message: str | None = None  # the queue message in hand: the gateway's own token in it, or SQS's id of it
    seconds_left: Callable[[], float] = field(default=_no_limit, compare=False, repr=False)  # until the function ends

    @property
    def known_as(self) -> str:
        return self.correlation_id or self.request_id

    @property
    def carrier(self) -> str:
        """The message that will carry a QUEUED refund: the one in hand, or a new token for one still to be sent."""
        return self.message or uuid.uuid4().hex
