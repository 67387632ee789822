"""A gateway whose calls may be quick, or as slow as their timeouts let them be, on a clock that only they move."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from datetime import timedelta
from typing import Any

from botocore.exceptions import ReadTimeoutError

from gateway.core.audit import AuditLog
from gateway.core.ledger import Ledger
from gateway.core.order_locks import LOCK_SECONDS
from gateway.http.requests import time_left
from gateway.refunds.queue import RefundQueue
from gateway.refunds.service import RefundService
from gateway.runtime import aws
from gateway.status.checks import StatusChecks
from indodana import (
    CANCEL_READ_SECONDS,
    SECRETS_SECONDS,
    STATUS_BUDGET_SECONDS,
    AnswerTimedOut,
    IndodanaError,
    RateLimited,
    Refused,
    SendingTooLate,
    Timeouts,
)
from tests.unit.protocol_world import World, paid, request

LAMBDA_SECONDS = 29.0  # of the API's functions (template.yaml); test_time_budget.py compares

CALLS: Any = aws.AWS_CONFIG
TRIES = CALLS.retries["total_max_attempts"]
# The standard mode waits for up to 1 s before the second try, 2 s before the third, and so on.
WAITS = sum(2**number for number in range(TRIES - 1))
AWS_SECONDS = TRIES * (CALLS.connect_timeout + CALLS.read_timeout) + WAITS


class Choices:
    """Makes the next run choose differently, until every combination was run."""

    def __init__(self) -> None:
        self._taken: list[tuple[int, int]] = []  # what was chosen, of how many
        self._next = 0

    def __repr__(self) -> str:
        return f"chosen, of so many: {self._taken}"

    def one_of[T](self, *options: T) -> T:
        if self._next == len(self._taken):
            self._taken.append((0, len(options)))
        chosen, _ = self._taken[self._next]
        self._next += 1
        return options[chosen]

    def runs(self) -> Iterator[Choices]:
        while True:
            self._next = 0
            yield self
            while self._taken and self._taken[-1][0] + 1 == self._taken[-1][1]:
                self._taken.pop()
            if not self._taken:
                return
            chosen, of = self._taken.pop()
            self._taken.append((chosen + 1, of))


class SlowAws:
    """A client whose calls are quick, or slow and then succeed or fail."""

    def __init__(self, client: Any, world: SlowWorld) -> None:
        self._client = client
        self._world = world
        self.exceptions = getattr(client, "exceptions", None)

    def __getattr__(self, name: str) -> Callable[..., Any]:
        lock = LOCK_SECONDS if name == "transact_write_items" else 0

        def call(**arguments: Any) -> Any:
            how = self._world.choices.one_of("quick", "slow", "slow and fails")
            if how != "quick":
                self._world.passes(lock + AWS_SECONDS)
            if how == "slow and fails":
                self._world.aws_failed = True
                raise ReadTimeoutError(endpoint_url="https://aws")
            return getattr(self._client, name)(**arguments)

        return call


class SlowIndodana:
    def __init__(self, world: SlowWorld) -> None:
        self._world = world

    def check_status(self, *_: str) -> Any:
        not_found = Refused("no such order", http_status=404)
        seconds, answer = self._world.choices.one_of(
            (0.0, paid()),
            (STATUS_BUDGET_SECONDS, paid()),
            (STATUS_BUDGET_SECONDS, AnswerTimedOut("no answer")),
            (STATUS_BUDGET_SECONDS, not_found),
        )
        self._world.passes(seconds)
        if isinstance(answer, IndodanaError):
            raise answer
        return answer

    def cancel(self, _: str, __: Any, *, may_send: Callable[[], bool]) -> Any:
        self._world.passes(self._world.choices.one_of(0.0, SECRETS_SECONDS + Timeouts().connect))
        if not may_send():
            raise SendingTooLate("too late")
        late = RateLimited("slow down", retry_after_seconds=3)
        seconds, error = self._world.choices.one_of(
            *((0.0, None), (CANCEL_READ_SECONDS, None)),
            *((CANCEL_READ_SECONDS, AnswerTimedOut("no answer")), (CANCEL_READ_SECONDS, late)),
        )
        self._world.passes(seconds)
        if error:
            raise error
        return self._world.plain.cancel("m1", None, may_send=lambda: True)  # type: ignore[arg-type]


class SlowWorld(World):
    """`cold_seconds`: from API Gateway to the invocation."""

    def __init__(self, choices: Choices, cold_seconds: float) -> None:
        super().__init__()
        self.choices = choices
        self.plain = self.indodana
        self.cold = timedelta(seconds=cold_seconds)
        self.aws_failed = False
        self._assemble(self.dynamo, None)

    def slow_down(self) -> None:
        """From here on; until then everything is quick. A request arrives now."""
        known_orders = self.protocol.known_orders
        self.indodana = SlowIndodana(self)  # type: ignore[assignment]
        self._assemble(SlowAws(self.dynamo, self), SlowAws(_Sqs(), self))
        self.protocol.known_orders = known_orders
        self._taken_at = self.now
        self.now = began = self.now + self.cold
        event = {"requestContext": {"timeEpoch": int(self._taken_at.timestamp() * 1000)}}

        def until_timeout() -> float:
            return LAMBDA_SECONDS - (self.now - began).total_seconds()

        self.time_left = time_left(event, until_timeout, lambda: self.now.timestamp())

    @property
    def elapsed(self) -> float:
        """Since API Gateway took the request."""
        return (self.now - self._taken_at).total_seconds()

    def refund_now(self) -> None:
        self.service.refund_now(request(), self.context(seconds_left=self.time_left))

    def refund_later(self) -> None:
        self.service.refund_later(request(), self.context(seconds_left=self.time_left))

    def check_status(self) -> None:
        checks = StatusChecks(self.indodana, self.audit_log, clock=self.clock)
        checks.check(request().order, self.context(seconds_left=self.time_left))

    def _assemble(self, dynamo: Any, sqs: Any) -> None:
        self.ledger = Ledger(dynamo, "ledger", "audit", sleep=lambda _: None)
        self.audit_log = AuditLog(dynamo, "audit")
        queue = RefundQueue(sqs, "queue", "dead letters")
        self.service = RefundService(self.with_settings(), self.ledger, self.audit_log, queue, clock=self.clock)


class _Sqs:
    def send_message(self, **_: Any) -> None:
        pass
