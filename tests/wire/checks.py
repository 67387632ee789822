"""What must hold for each call, compared with what its own request did on the server."""

from __future__ import annotations

import hashlib
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass
from itertools import pairwise

from indodana import (
    CancellationAccepted,
    ConnectionFailed,
    ConnectionLost,
    ConnectTimedOut,
    NotSent,
    OutcomeUnknown,
    RateLimited,
    Refused,
    SendingTooLate,
    TransactionStatus,
)
from tests.wire.answers import BODY_LIMIT
from tests.wire.deliveries import CONNECT_SECONDS, Clarity
from tests.wire.scene import Call, Run
from tests.wire.server import Arrival, ConnectionFault

# What a call may take beyond its time limit, besides the delays of the machine.
SLACK_SECONDS = 0.1
# After a longer idle time, a proxy or firewall may have dropped the connection.
IDLE_SECONDS = 20.0
# How much of an answer is stored, in characters.
EVIDENCE_LIMIT = 4000

ACCEPTED_MOVED = "an accepted refund has moved its amount exactly once"
NOT_SENT_DID_NOT = "a refund that was not sent has not moved money"
REFUSED_DID_NOT = "a refused refund has not moved money"
REFUSED_BY_INDODANA = "a refusal is Indodana's own complete document"
OWN_ANSWER = "every request gets its own answer"
UNDERSTOOD = "a clear answer gets its outcome"
HIDDEN_IS_UNKNOWN = "an incomplete or late answer is no outcome"
NOT_LOST_FOR_NOTHING = "an error has a cause on the wire"
ONE_POST = "a refund is sent once"
TWO_GETS = "a status check is sent at most twice"
ASKED_AGAIN = "a status check on a dead connection is retried"
OWN_STATUS = "a status belongs to the order that was asked for"
IN_TIME = "a call keeps to its time limit"
DOCUMENTED = "only documented errors are raised"
EVIDENCE = "the evidence matches the answer"
SAYS_WHICH = "an error has the details of its answer"
TOO_LATE = "nothing is sent after the lease"
LAST_LOOK = "may_send is asked right before sending"
ENDED_FIRST = "a connection is reused only after its last answer has ended"
FIT_FIRST = "a closed connection, or one with unread bytes, is not reused"
NOT_STALE = "a connection is not reused after a long idle time"
OWN_CONNECTION = "a refund is sent on its own connection"
AS_ASKED = "the server receives the requested amount"
NOTHING_ELSE = "no other requests are sent"


@dataclass(frozen=True)
class Violation:
    seed: int
    check: str
    text: str

    def __str__(self) -> str:
        return f"seed {self.seed}: {self.check}: {self.text}"


def violations(run: Run) -> list[Violation]:
    found: list[Violation] = []
    for call in run.calls:
        found += [Violation(run.seed, check, f"{call}: {text}") for check, text in _Judged(run, call).violations()]
    found += [Violation(run.seed, NOTHING_ELSE, text) for text in run.server.unexpected]
    return found


class _Judged:
    def __init__(self, run: Run, call: Call) -> None:
        self.run = run
        self.call = call
        self.arrivals = run.arrivals_of(call)
        self.lag = run.lag.seconds(call.started, call.ended)
        self.seconds = call.ended - call.started
        self.connection_faults: list[ConnectionFault] = []
        if call.to == "server":
            self.connection_faults = [
                one for one in run.server.connection_faults if one.since <= call.ended and one.until >= call.started
            ]

    @property
    def exchanges(self) -> int:
        """One, or two if it was repeated with new credentials after a 401."""
        return 1 + any(one.answer_sent is not None and one.answer_sent.status == 401 for one in self.arrivals)

    def _outcome_is(self, *classes: type) -> bool:
        return isinstance(self.call.answer, classes)

    def violations(self) -> Iterator[tuple[str, str]]:
        yield from self._of_its_outcome()
        if self.arrivals:
            yield from self._by_what_came()
        else:
            yield from self._without_a_request()
        yield from self._of_its_time()
        yield from self._of_its_requests()

    # Its outcome, and what was done

    def _of_its_outcome(self) -> Iterator[tuple[str, str]]:
        call, name = self.call, self.call.outcome.__name__
        documented = (CancellationAccepted,) if call.cancels else (TransactionStatus,)
        if not self._outcome_is(*documented, NotSent, Refused, OutcomeUnknown):
            yield DOCUMENTED, f"{name}: {call.answer!r}"
        moved = [one for one in self.arrivals if one.moved]
        if self._outcome_is(CancellationAccepted) and [one.amount for one in moved] != [call.amount]:
            yield ACCEPTED_MOVED, f"moved {[str(one.amount) for one in moved]}"
        if isinstance(call.answer, TransactionStatus):
            status = (call.answer.transaction_status, call.answer.amount)
            own = [
                (one.answer_sent.transaction_status, one.answer_sent.status_amount)
                for one in self.arrivals
                if one.answer_sent
            ]
            if status not in own:
                yield OWN_STATUS, f"{status}, not {own}"
        if self._outcome_is(NotSent) and moved:
            yield NOT_SENT_DID_NOT, f"{name}, and {len(moved)} moved"
        if self._outcome_is(Refused):
            if moved:
                yield REFUSED_DID_NOT, f"{len(moved)} moved"
            if not any(self._may(one, Refused) for one in self.arrivals):
                yield REFUSED_BY_INDODANA, "no such answer was sent completely"

    def _may(self, arrival: Arrival, outcome: type) -> bool:
        answer_sent, delivery = arrival.answer_sent, arrival.delivery
        assert answer_sent is not None
        assert delivery is not None
        return delivery.clarity is not Clarity.HIDDEN and issubclass(outcome, answer_sent.outcomes)

    def _by_what_came(self) -> Iterator[tuple[str, str]]:
        """The delivery of the last request's answer allows certain outcomes."""
        last, call = self.arrivals[-1], self.call
        answer_sent, delivery = last.answer_sent, last.delivery
        if answer_sent is None or delivery is None:  # the server was stopped in the middle
            raise RuntimeError(f"{call} was not answered")
        allowed: tuple[type, ...] = answer_sent.outcomes
        check = UNDERSTOOD
        if delivery.clarity is not Clarity.CLEAR:
            allowed = (*allowed, OutcomeUnknown)
        if delivery.clarity is Clarity.HIDDEN:
            check = HIDDEN_IS_UNKNOWN
            # Their status line is enough.
            early = answer_sent.outcomes if answer_sent.status in (401, 429) else ()
            allowed = (*early, OutcomeUnknown)
        if self._was_slow(call.read_seconds):
            allowed = (*allowed, OutcomeUnknown)
        if last.stray:
            check, allowed = OWN_ANSWER, (*allowed, OutcomeUnknown)
        if self.connection_faults and self._needed_another(last):
            allowed = (*allowed, OutcomeUnknown, ConnectionFailed, RateLimited)
        if answer_sent.status == 401 and call.lease == "ends after one request":
            allowed = (*allowed, SendingTooLate)
        if self._needed_another(last) and self._was_slow(CONNECT_SECONDS):
            allowed = (*allowed, ConnectTimedOut)
        if not issubclass(call.outcome, allowed):
            names = "/".join(one.__name__ for one in allowed)
            yield check, f"{call.outcome.__name__} ({call.answer}), not {names}"
        elif self._is_clear(last) and issubclass(call.outcome, answer_sent.outcomes):
            yield from self._of_a_clear_answer(last)
        died = delivery.nothing_came and last.before > 0 and len(self.arrivals) == 1
        if died and self._gave_up() and not self.connection_faults:
            yield ASKED_AGAIN, f"{call.answer}"

    def _is_clear(self, arrival: Arrival) -> bool:
        """The outcome can only come from this answer."""
        delivery = arrival.delivery
        assert delivery is not None
        return (
            delivery.clarity is Clarity.CLEAR
            and arrival.answered
            and not (arrival.stray or (self.connection_faults and self._needed_another(arrival)))
            and not self._was_slow(self.call.read_seconds)
        )

    def _needed_another(self, last: Arrival) -> bool:
        """After a 401, or a status check on a kept connection, the client may have tried another connection."""
        assert last.answer_sent is not None
        return last.answer_sent.status == 401 or (last.before > 0 and not self.call.cancels)

    def _gave_up(self) -> bool:
        """A status check that could have been retried."""
        return self._outcome_is(ConnectionLost) and not self.call.cancels and not self._was_slow(self.call.read_seconds)

    def _was_slow(self, seconds: float) -> bool:
        """The machine may have made the answer too late."""
        return self.seconds >= seconds

    def _of_a_clear_answer(self, arrival: Arrival) -> Iterator[tuple[str, str]]:
        call, answer_sent = self.call, arrival.answer_sent
        assert answer_sent is not None
        answer = call.answer
        if isinstance(answer, TransactionStatus):
            return  # checked in _of_its_outcome
        if answer.http_status is None:
            yield SAYS_WHICH, f"{answer}, not HTTP {answer_sent.status}"
            return
        if answer.http_status != answer_sent.status:
            yield SAYS_WHICH, f"HTTP {answer.http_status}, not {answer_sent.status}"
        if isinstance(answer, RateLimited) and answer.retry_after_seconds != answer_sent.retry_after:
            yield SAYS_WHICH, f"Retry-After {answer.retry_after_seconds}, not {answer_sent.retry_after}"
        if answer_sent.field is not None and getattr(answer, "field", None) != answer_sent.field:
            yield SAYS_WHICH, f"contradicts in {getattr(answer, 'field', None)}, not {answer_sent.field}"
        if answer_sent.carries_body and len(answer_sent.body) <= BODY_LIMIT:
            evidence, sent = answer.evidence, hashlib.sha256(answer_sent.unpacked or answer_sent.body).hexdigest()
            if evidence is None or evidence.sha256 != sent or len(evidence.body) > EVIDENCE_LIMIT:
                yield EVIDENCE, f"{evidence}"

    def _without_a_request(self) -> Iterator[tuple[str, str]]:
        call, name = self.call, self.call.outcome.__name__
        connecting_failed = call.to != "server" or any(one.refused for one in self.connection_faults)
        unread = [one for one in self.connection_faults if one.lost]
        if self._outcome_is(OutcomeUnknown):
            if call.to != "server" or not (unread or self._was_slow(call.read_seconds)):
                yield NOT_LOST_FOR_NOTHING, f"{name} ({call.answer}), and nothing arrived"
            elif self._gave_up() and not any(one.fresh for one in unread):
                yield ASKED_AGAIN, f"{call.answer}"
        elif self._outcome_is(ConnectionFailed):
            if not (connecting_failed or self._was_slow(CONNECT_SECONDS)):
                yield NOT_LOST_FOR_NOTHING, f"{name} ({call.answer}), and no connection was refused"
        elif self._outcome_is(RateLimited) and any("answered" in one.name for one in unread):
            pass
        elif self._outcome_is(SendingTooLate):
            if call.lease == "holds":
                yield NOT_LOST_FOR_NOTHING, f"{name}, and the lease holds"
        else:
            yield NOT_LOST_FOR_NOTHING, f"{name} ({call.answer}), and nothing arrived"

    # Its time

    def _of_its_time(self) -> Iterator[tuple[str, str]]:
        call = self.call
        # A connection takes no time, unless the server delays it.
        slow = call.to != "server" or any(one.refused for one in self.connection_faults) or self.run.tls
        seconds = self.exchanges * (call.read_seconds + (CONNECT_SECONDS if slow else 0)) + SLACK_SECONDS + self.lag
        if self.seconds > seconds:
            yield IN_TIME, f"{self.seconds:.3f} s, more than {seconds:.3f} s"

    # Number of requests, and their connections

    def _of_its_requests(self) -> Iterator[tuple[str, str]]:
        call, arrivals = self.call, self.arrivals
        if call.cancels:
            yield from self._of_its_posts()
        elif len(arrivals) > 2 * self.exchanges:
            yield TWO_GETS, f"{len(arrivals)} arrived"
        for one in arrivals:
            if one.amount != call.amount:
                yield AS_ASKED, f"{one.amount} arrived"
            if one.early:
                yield ENDED_FIRST, f"on connection {one.connection}, after {one.before}"
            if one.unfit_since is not None and one.unfit_since < call.started:
                yield FIT_FIRST, f"on connection {one.connection}, after {one.before}"
            if one.idle_since is not None:
                idle = call.wall - one.idle_since
                if not -self.lag - 1 <= idle <= IDLE_SECONDS + 1:
                    yield NOT_STALE, f"{idle:.1f} s after the last answer on connection {one.connection}"

    def _of_its_posts(self) -> Iterator[tuple[str, str]]:
        call, arrivals = self.call, self.arrivals
        for one, again in pairwise(arrivals):
            assert one.answer_sent is not None
            if one.answer_sent.status != 401 or one.api_key == again.api_key:
                yield ONE_POST, f"again after {one.answer_sent.name}, with {again.api_key} after {one.api_key}"
        if len(arrivals) > 2:
            yield ONE_POST, f"{len(arrivals)} times"
        for one in arrivals:
            if one.before:
                yield OWN_CONNECTION, f"as number {one.before + 1} on connection {one.connection}"
        if call.lease == "is over" and arrivals:
            yield TOO_LATE, "a request arrived"
        if call.lease == "ends after one request" and len(arrivals) > 1:
            yield TOO_LATE, "a second request arrived"
        for one in arrivals:
            if not any(one.opened_at <= asked <= one.at for asked in call.asked_at):
                looks = ", ".join(f"{one.at - asked:.4f}" for asked in call.asked_at) or "not"
                yield LAST_LOOK, f"asked {looks} s before the request came, on connection {one.connection}"
        if self._outcome_is(ConnectionFailed) and len(call.asked_at) > len(arrivals):
            yield LAST_LOOK, "asked before there was a connection"


def tallied(run: Run) -> Counter[str]:
    """Counts what happened in a seed, by kind."""
    counts = Counter({f"wire: {name}": count for name, count in run.server.events.items()})
    for fault in run.server.connection_faults:
        counts[f"wire: {fault.name}"] += 1
    for call in run.calls:
        counts["calls"] += 1
        counts[f"outcome: {call.outcome.__name__}"] += 1
        if call.to != "server":
            counts[f"wire: {call.to}"] += 1
        arrivals = run.arrivals_of(call)
        counts["requests"] += len(arrivals)
        counts["moved"] += sum(one.moved for one in arrivals)
        counts["answered on a kept connection"] += sum(bool(one.before) for one in arrivals)
        if len(arrivals) == 2:
            same_key = arrivals[0].api_key == arrivals[1].api_key
            counts["status check retried" if same_key else "sent again with new credentials"] += 1
        last = arrivals[-1] if arrivals else None
        if last is not None and last.delivery is not None:
            counts[f"{last.delivery.clarity.name.lower()} answers"] += 1
            # Not compared strictly, because the machine was slow.
            if last.delivery.clarity is Clarity.CLEAR and call.ended - call.started >= call.read_seconds:
                counts["excused because the machine was slow"] += 1
    return counts
