"""What must hold of each call, by what the very request did that it sent."""

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
from tests.wire.carriage import CONNECT_SECONDS, Clarity
from tests.wire.scene import Call, Told
from tests.wire.server import Accident, Arrival

# What a call may take beyond its time, apart from what the machine was late by.
SLACK_SECONDS = 0.1
# A connection that was idle for longer is forgotten by somebody on the way.
IDLE_SECONDS = 20.0
# What is kept of an answer, in characters.
EVIDENCE_LIMIT = 4000

ACCEPTED_MOVED = "what was accepted has moved, once and exactly"
NOT_SENT_DID_NOT = "what was not sent has not moved"
REFUSED_DID_NOT = "what was refused has not moved"
REFUSED_BY_INDODANA = "a refusal is Indodana's own, and whole"
OWN_ANSWER = "every request gets its own answer"
UNDERSTOOD = "a plain answer is understood"
HIDDEN_IS_UNKNOWN = "what the wire hid is not claimed"
NOT_LOST_FOR_NOTHING = "unknown is said only where the wire gave cause"
ONE_POST = "a refund is sent once"
TWO_GETS = "a status check is sent twice at most"
ASKED_AGAIN = "a status check on a connection that had died is made once more"
OWN_STATUS = "a status is of the order that was asked for"
IN_TIME = "a call keeps to its time"
DOCUMENTED = "nothing but the documented errors is raised"
EVIDENCE = "the evidence is of the answer"
SAYS_WHICH = "an error says what its answer said"
TOO_LATE = "nothing is sent when it is too late"
LAST_LOOK = "the last look is right before sending"
ENDED_FIRST = "a connection is used again only after its last answer has ended"
FIT_FIRST = "a connection is not used again with something left on it"
NOT_STALE = "a connection is not used again after a long time"
OWN_CONNECTION = "a refund is sent on a connection of its own"
AS_ASKED = "what arrives is what was asked"
NOTHING_ELSE = "nothing else is sent"


@dataclass(frozen=True)
class Fault:
    seed: int
    check: str
    text: str

    def __str__(self) -> str:
        return f"seed {self.seed}: {self.check}: {self.text}"


def faults(told: Told) -> list[Fault]:
    found: list[Fault] = []
    for call in told.calls:
        found += [Fault(told.seed, check, f"{call}: {text}") for check, text in _Judged(told, call).faults()]
    found += [Fault(told.seed, NOTHING_ELSE, text) for text in told.server.unexpected]
    return found


class _Judged:
    def __init__(self, told: Told, call: Call) -> None:
        self.told = told
        self.call = call
        self.arrivals = told.arrivals_of(call)
        self.lag = told.lag.seconds(call.started, call.ended)
        self.seconds = call.ended - call.started
        self.accidents: list[Accident] = []
        if call.to == "server":
            self.accidents = [
                one for one in told.server.accidents if one.since <= call.ended and one.until >= call.started
            ]

    @property
    def exchanges(self) -> int:
        """One, and another one with other credentials after a 401."""
        return 1 + any(one.said is not None and one.said.status == 401 for one in self.arrivals)

    def said(self, *classes: type) -> bool:
        return isinstance(self.call.answer, classes)

    def faults(self) -> Iterator[tuple[str, str]]:
        yield from self._of_its_verdict()
        if self.arrivals:
            yield from self._by_what_came()
        else:
            yield from self._without_a_request()
        yield from self._of_its_time()
        yield from self._of_its_requests()

    # What it says, and what was done

    def _of_its_verdict(self) -> Iterator[tuple[str, str]]:
        call, name = self.call, self.call.verdict.__name__
        documented = (CancellationAccepted,) if call.cancels else (TransactionStatus,)
        if not self.said(*documented, NotSent, Refused, OutcomeUnknown):
            yield DOCUMENTED, f"{name}: {call.answer!r}"
        moved = [one for one in self.arrivals if one.moved]
        if self.said(CancellationAccepted) and [one.amount for one in moved] != [call.amount]:
            yield ACCEPTED_MOVED, f"moved {[str(one.amount) for one in moved]}"
        if isinstance(call.answer, TransactionStatus):
            status = (call.answer.transaction_status, call.answer.amount)
            own = [(one.said.transaction_status, one.said.status_amount) for one in self.arrivals if one.said]
            if status not in own:
                yield OWN_STATUS, f"{status}, not {own}"
        if self.said(NotSent) and moved:
            yield NOT_SENT_DID_NOT, f"{name}, and {len(moved)} moved"
        if self.said(Refused):
            if moved:
                yield REFUSED_DID_NOT, f"{len(moved)} moved"
            if not any(self._may(one, Refused) for one in self.arrivals):
                yield REFUSED_BY_INDODANA, "no such answer was sent whole"

    def _may(self, arrival: Arrival, verdict: type) -> bool:
        said, carried = arrival.said, arrival.carried
        assert said is not None
        assert carried is not None
        return carried.clarity is not Clarity.HIDDEN and issubclass(verdict, said.verdicts)

    def _by_what_came(self) -> Iterator[tuple[str, str]]:
        """Its last request's answer, as the wire carried it, allows some verdicts."""
        last, call = self.arrivals[-1], self.call
        said, carried = last.said, last.carried
        if said is None or carried is None:  # the server was stopped in the middle
            raise RuntimeError(f"{call} was not answered")
        allowed: tuple[type, ...] = said.verdicts
        check = UNDERSTOOD
        if carried.clarity is not Clarity.CLEAR:
            allowed = (*allowed, OutcomeUnknown)
        if carried.clarity is Clarity.HIDDEN:
            check = HIDDEN_IS_UNKNOWN
            # Their status line says enough.
            early = said.verdicts if said.status in (401, 429) else ()
            allowed = (*early, OutcomeUnknown)
        if self._was_slow(call.read_seconds):
            allowed = (*allowed, OutcomeUnknown)
        if last.stray:
            check, allowed = OWN_ANSWER, (*allowed, OutcomeUnknown)
        if self.accidents and self._needed_another(last):
            allowed = (*allowed, OutcomeUnknown, ConnectionFailed, RateLimited)
        if said.status == 401 and call.lease == "ends after one request":
            allowed = (*allowed, SendingTooLate)
        if self._needed_another(last) and self._was_slow(CONNECT_SECONDS):
            allowed = (*allowed, ConnectTimedOut)
        if not issubclass(call.verdict, allowed):
            names = "/".join(one.__name__ for one in allowed)
            yield check, f"{call.verdict.__name__} ({call.answer}), not {names}"
        elif self._is_clear(last) and issubclass(call.verdict, said.verdicts):
            yield from self._of_a_clear_answer(last)
        died = carried.nothing_came and last.before > 0 and len(self.arrivals) == 1
        if died and self._gave_up() and not self.accidents:
            yield ASKED_AGAIN, f"{call.answer}"

    def _is_clear(self, arrival: Arrival) -> bool:
        """The verdict can be of nothing but this answer."""
        carried = arrival.carried
        assert carried is not None
        return (
            carried.clarity is Clarity.CLEAR
            and arrival.answered
            and not (arrival.stray or (self.accidents and self._needed_another(arrival)))
            and not self._was_slow(self.call.read_seconds)
        )

    def _needed_another(self, last: Arrival) -> bool:
        """After a 401, or a status check on a kept connection, the client may have tried another connection."""
        assert last.said is not None
        return last.said.status == 401 or (last.before > 0 and not self.call.cancels)

    def _gave_up(self) -> bool:
        """A status check that could have been made once more."""
        return self.said(ConnectionLost) and not self.call.cancels and not self._was_slow(self.call.read_seconds)

    def _was_slow(self, seconds: float) -> bool:
        """The answer may have come too late, by the machine."""
        return self.seconds >= seconds

    def _of_a_clear_answer(self, arrival: Arrival) -> Iterator[tuple[str, str]]:
        call, said = self.call, arrival.said
        assert said is not None
        answer = call.answer
        if isinstance(answer, TransactionStatus):
            return  # looked at already
        if answer.http_status is None:
            yield SAYS_WHICH, f"{answer}, not HTTP {said.status}"
            return
        if answer.http_status != said.status:
            yield SAYS_WHICH, f"HTTP {answer.http_status}, not {said.status}"
        if isinstance(answer, RateLimited) and answer.retry_after_seconds != said.retry_after:
            yield SAYS_WHICH, f"Retry-After {answer.retry_after_seconds}, not {said.retry_after}"
        if said.field is not None and getattr(answer, "field", None) != said.field:
            yield SAYS_WHICH, f"contradicts in {getattr(answer, 'field', None)}, not {said.field}"
        if said.carries_body and len(said.body) <= BODY_LIMIT:
            evidence, sent = answer.evidence, hashlib.sha256(said.unpacked or said.body).hexdigest()
            if evidence is None or evidence.sha256 != sent or len(evidence.body) > EVIDENCE_LIMIT:
                yield EVIDENCE, f"{evidence}"

    def _without_a_request(self) -> Iterator[tuple[str, str]]:
        call, name = self.call, self.call.verdict.__name__
        connecting_failed = call.to != "server" or any(one.refused for one in self.accidents)
        unread = [one for one in self.accidents if one.lost]
        if self.said(OutcomeUnknown):
            if call.to != "server" or not (unread or self._was_slow(call.read_seconds)):
                yield NOT_LOST_FOR_NOTHING, f"{name} ({call.answer}), and nothing arrived"
            elif self._gave_up() and not any(one.fresh for one in unread):
                yield ASKED_AGAIN, f"{call.answer}"
        elif self.said(ConnectionFailed):
            if not (connecting_failed or self._was_slow(CONNECT_SECONDS)):
                yield NOT_LOST_FOR_NOTHING, f"{name} ({call.answer}), and no connection was refused"
        elif self.said(RateLimited) and any("answered" in one.name for one in unread):
            pass
        elif self.said(SendingTooLate):
            if call.lease == "holds":
                yield NOT_LOST_FOR_NOTHING, f"{name}, and the lease holds"
        else:
            yield NOT_LOST_FOR_NOTHING, f"{name} ({call.answer}), and nothing arrived"

    # When

    def _of_its_time(self) -> Iterator[tuple[str, str]]:
        call = self.call
        # A connection is there at once, unless the server is slow with it.
        slow = call.to != "server" or any(one.refused for one in self.accidents) or self.told.tls
        seconds = self.exchanges * (call.read_seconds + (CONNECT_SECONDS if slow else 0)) + SLACK_SECONDS + self.lag
        if self.seconds > seconds:
            yield IN_TIME, f"{self.seconds:.3f} s, more than {seconds:.3f} s"

    # How often, and on which connection

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
            assert one.said is not None
            if one.said.status != 401 or one.api_key == again.api_key:
                yield ONE_POST, f"again after {one.said.name}, with {again.api_key} after {one.api_key}"
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
                yield LAST_LOOK, f"looked {looks} s before it came, on connection {one.connection}"
        if self.said(ConnectionFailed) and len(call.asked_at) > len(arrivals):
            yield LAST_LOOK, "looked before there was a connection"


def tallied(told: Told) -> Counter[str]:
    """What happened in a seed, by kind."""
    counts = Counter({f"wire: {name}": count for name, count in told.server.events.items()})
    for accident in told.server.accidents:
        counts[f"wire: {accident.name}"] += 1
    for call in told.calls:
        counts["calls"] += 1
        counts[f"verdict: {call.verdict.__name__}"] += 1
        if call.to != "server":
            counts[f"wire: {call.to}"] += 1
        arrivals = told.arrivals_of(call)
        counts["requests"] += len(arrivals)
        counts["moved"] += sum(one.moved for one in arrivals)
        counts["answered on a kept connection"] += sum(bool(one.before) for one in arrivals)
        if len(arrivals) == 2:
            same_key = arrivals[0].api_key == arrivals[1].api_key
            counts["asked once more" if same_key else "sent again with another key"] += 1
        last = arrivals[-1] if arrivals else None
        if last is not None and last.carried is not None:
            counts[f"{last.carried.clarity.name.lower()} answers"] += 1
            # What was not held to its verdict, because the machine was slow.
            if last.carried.clarity is Clarity.CLEAR and call.ended - call.started >= call.read_seconds:
                counts["excused for slowness"] += 1
    return counts
