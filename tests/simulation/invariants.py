"""What must hold after every step, and at the end of a schedule. A violation names the invariant.

The legal transitions are written down here a second time, independent of the code under test.
"""

from __future__ import annotations

import hashlib
import json
from collections import Counter
from collections.abc import Callable, Iterable
from copy import copy
from dataclasses import dataclass
from datetime import datetime
from decimal import Decimal
from typing import Any, NamedTuple

from gateway.core.dynamodb import from_item
from gateway.core.model import AmbiguousRefunds, from_iso
from gateway.core.transitions import RefundStatus
from tests.simulation.engine import Invocation
from tests.simulation.indodana_double import LEGAL_NAME, USER_ID, Movement

NEVER_KEPT = (LEGAL_NAME, USER_ID, "ApiKey-", "TopSecret-", "Bearer ")


OPEN = (RefundStatus.QUEUED, RefundStatus.SUBMITTING, RefundStatus.UNKNOWN)
LEGAL = {
    None: "QUEUED SUBMITTING FAILED",
    RefundStatus.QUEUED: "SUBMITTING FAILED",
    RefundStatus.SUBMITTING: "QUEUED SUCCEEDED FAILED UNKNOWN",
    RefundStatus.UNKNOWN: "SUCCEEDED FAILED SUBMITTING",
    RefundStatus.SUCCEEDED: "",
    RefundStatus.FAILED: "",
}
SUMS = {"amount": "transactionAmount", "refunded": "refunded", "reserved": "reserved", "refundable": "refundable"}
NOT_ENOUGH = "AMOUNT_EXCEEDS_REFUNDABLE"
NOT_MADE = ("ORDER_NOT_FOUND", "TRANSACTION_NOT_PAID", "AMOUNT_EXCEEDS_REFUNDABLE", "UPSTREAM_REFUSED")


# Who may request refunds by queue, and for whom.
LISTED = {("AROABACKOFFICE", "m1"), ("AROABACKOFFICE", "m2"), ("AIDATILLS", "m1")}


class Violation(BaseException):
    """An invariant does not hold. Not an Exception: the code under test catches those, as AWS raises them too."""

    def __init__(self, invariant: str, detail: str) -> None:
        super().__init__(f"{invariant}: {detail}")
        self.invariant = invariant
        self.tally: Any = None  # of the random run in which it broke


class Sent(NamedTuple):
    """A message that the gateway did not send."""

    body: str
    sender: str  # as SQS has it

    @property
    def sender_id(self) -> str:
        return self.sender.split(":")[0]

    def asks_for(self, refund: dict[str, Any]) -> bool:
        """Whether it is a full request for exactly this refund."""
        wanted = json.loads(self.body)
        if "refundId" in wanted:
            return False
        wanted["requestedAmount"] = wanted.pop("amount", None)
        return all(refund.get(name) == value for name, value in wanted.items())

    def is_answered_by(self, refund: dict[str, Any]) -> bool:
        wanted = json.loads(self.body)
        return self.asks_for(refund) or all(refund.get(name) == value for name, value in wanted.items())


@dataclass(frozen=True)
class RecordedState:
    """What the ledger had, from its write number `since` on."""

    since: int
    visible: dict[str, Any]  # what an answer may show
    holds_money: bool = False


type History = tuple[RecordedState, ...]


def current(history: History, after: int) -> list[RecordedState]:
    """All states that the ledger had since write number `after`, the latest last."""
    began = max((number for number, state in enumerate(history) if state.since <= after), default=0)
    return list(history[began:])


def at(history: History, write: int) -> RecordedState | None:
    return next((state for state in reversed(history) if state.since <= write), None)


def hold(invariant: str, holds: bool, detail: object) -> None:
    if not holds:
        raise Violation(invariant, str(detail))


class Invariants:
    """Watches every write to the ledger and every movement of money, at the moment it happens."""

    def __init__(self, ambiguous_refunds: AmbiguousRefunds) -> None:
        self._may_repeat = ambiguous_refunds is AmbiguousRefunds.RESUBMIT
        self.refunds: dict[str, dict[str, Any]] = {}
        self._took_all: set[str] = set()  # have just reserved "all that remains"
        self.records: dict[str, tuple[dict[str, Any], ...]] = {}
        self.times_moved: dict[str, int] = {}
        self.moved: dict[str, Decimal] = {}  # by partition
        self.excused: set[str] = set()  # refunds whose outcome no real system could know
        self.held_by: dict[str, Invocation] = {}  # who made a refund SUBMITTING
        self.writes = 0  # to the ledger, so far
        self.history: dict[str, History] = {}  # of each refund
        self.sums: dict[str, History] = {}  # by partition
        self.decided: set[Any] = set()  # decisions that were answered with 200
        self.tokens: set[str] = set()  # of messages, as refunds had them

    def savepoint(self) -> Callable[[], None]:
        """Returns a function that forgets all that happened since, as often as it is called."""
        saved = {name: copy(value) for name, value in vars(self).items()}
        return lambda: vars(self).update({name: copy(value) for name, value in saved.items()})

    # ---- after every step

    def wrote(
        self,
        writes: Iterable[dict[str, Any]],
        invocation: Invocation,
        its_clock: datetime,
        sums_of: Any,
        sent: Iterable[Sent],
    ) -> None:
        """Call it right after a transaction of the ledger took effect."""
        self.writes += 1
        puts = [write["Put"]["Item"] for write in writes if "Put" in write]
        refunds = [from_item(item) for item in puts if item["sk"]["S"].startswith("REFUND#")]
        records = [from_item(item) for item in puts if "action" in item]
        for refund in refunds:
            self._wrote_refund(refund, records, invocation, its_clock)
            self._check_senders(refund, [record for record in records if record["channel"] == "queue"], sent)
        for refund in refunds:
            if (sums := sums_of(refund["pk"])) is not None:
                self._check_sums(refund, sums)
                detail = {name: sums[field] for field, name in SUMS.items()}
                self.sums[refund["pk"]] = (*self.sums.get(refund["pk"], ()), RecordedState(self.writes, detail))

    def postponed(self, refund: dict[str, Any], its_clock: datetime) -> None:
        """Bookkeeping: an attempt did not send the refund, or a message will make the next one."""
        self._check_due(self.refunds[refund["refundId"]], its_clock)
        self._keep(refund)

    def message_sent(self, token: str) -> None:
        hold("a message is recorded before it is sent", token in self.tokens, token)

    def _keep(self, refund: dict[str, Any]) -> None:
        self.refunds[refund["refundId"]] = refund
        if "queueMessage" in refund:
            self.tokens.add(refund["queueMessage"])

    def _check_due(self, before: dict[str, Any], its_clock: datetime) -> None:
        due = before.get("nextAttemptAt")
        detail = f"{before['refundId'][:6]} at {its_clock}, due at {due}"
        hold("no attempt is made before it is due", due is None or its_clock >= from_iso(due), detail)

    def _wrote_refund(
        self, refund: dict[str, Any], records: list[dict[str, Any]], invocation: Invocation, its_clock: datetime
    ) -> None:
        refund_id = refund["refundId"]
        before = self.refunds.get(refund_id)
        was = RefundStatus(before["status"]) if before else None
        now = RefundStatus(refund["status"])
        detail = f"{refund_id[:6]}: {was} to {now}"
        hold("every transition is legal", now in LEGAL[was].split(), detail)
        if was is RefundStatus.UNKNOWN and now is RefundStatus.SUBMITTING:
            hold("an UNKNOWN refund is not submitted again (review)", self._may_repeat, detail)
        hold("no transition is lost", refund["version"] == (before["version"] if before else 0) + 1, detail)
        mine = [record for record in records if record.get("refundId") == refund_id]
        right = [(record.get("before"), record["after"]) for record in mine] == [(was, now)]
        hold("every transition has exactly one audit record", right, detail)
        # No message here has a correlation id of its own.
        known_as = {record["correlationId"] for record in mine if record["channel"] != "api"}
        right = known_as <= {refund["correlationId"]}
        hold("deferred steps are recorded with the request's correlation id", right, f"{detail} as {known_as}")
        history = self.records.get(refund_id, ())
        in_order = not history or history[-1]["sk"] < mine[0]["sk"]
        hold("the audit records are in order", in_order, detail)
        self.records[refund_id] = (*history, *mine)
        self._keep(refund)
        if before and now is RefundStatus.SUBMITTING:
            self._check_due(before, its_clock)
        amount = refund.get("reservedAmount", refund.get("requestedAmount"))
        visible = {"status": now, "version": refund["version"], "amount": amount}
        holds_money = "reservedAmount" in refund and now is not RefundStatus.FAILED
        self.history[refund_id] = (*self.history.get(refund_id, ()), RecordedState(self.writes, visible, holds_money))
        moved = self.times_moved.get(refund_id, 0)
        if now is RefundStatus.SUBMITTING:
            self.held_by[refund_id] = invocation
            if invocation.outlives_timeout:  # its lease may expire before it can send
                self.excused.add(refund_id)
            if "requestedAmount" not in refund and (before is None or "reservedAmount" not in before):
                self._took_all.add(refund_id)
        if now is RefundStatus.SUCCEEDED:
            hold("the money of a SUCCEEDED refund has moved", moved >= 1, detail)
        if now is RefundStatus.FAILED:
            hold("the money of a FAILED refund has not moved", moved == 0, detail)
        if now is RefundStatus.UNKNOWN:
            hold("UNKNOWN only if nobody could know the outcome", refund_id in self.excused, detail)

    def _check_senders(self, refund: dict[str, Any], by_queue: Iterable[dict[str, Any]], sent: Iterable[Sent]) -> None:
        """Of a refund and the records of its transition that the queue brought about."""
        asked = {one.sender_id for one in sent if one.asks_for(refund)}
        listed = {sender for sender in asked if (sender, refund["merchantId"]) in LISTED}
        for record in by_queue:
            detail = f"{refund['refundId'][:6]} by {record['actor']}, asked by {asked or 'nobody'}"
            hold("only a listed sender makes a refund by queue", "before" in record or bool(listed), detail)
            who_asked = {refund["createdBy"], *listed}
            hold("a step by queue is recorded for who asked for the refund", record["actor"] in who_asked, detail)

    def _check_sums(self, refund: dict[str, Any], sums: dict[str, Any]) -> None:
        total = sums["refunded"] + sums["reserved"] + sums["refundable"]
        detail = {name: sums[name] for name in ("amount", "refunded", "reserved", "refundable")}
        hold("refunded + reserved + refundable = amount", total == sums["amount"], detail)
        hold("no sum is negative", min(sums["refunded"], sums["reserved"], sums["refundable"]) >= 0, detail)
        mine = [other for other in self.refunds.values() if other["pk"] == refund["pk"]]
        reserved = sum((other.get("reservedAmount", 0) for other in mine if other["status"] in OPEN), Decimal(0))
        refunded = sum((other.get("reservedAmount", 0) for other in mine if other["status"] == "SUCCEEDED"), Decimal(0))
        right = (sums["reserved"], sums["refunded"]) == (reserved, refunded)
        hold("the order's sums match its refunds", right, f"{detail}, not {reserved} and {refunded}")
        if refund["refundId"] in self._took_all:
            self._took_all.remove(refund["refundId"])
            hold("refunding all that remains leaves nothing refundable", sums["refundable"] == 0, detail)

    def money_moved(self, movement: Movement, amount: Decimal, sent_at: datetime | None) -> None:
        """`amount`: what was paid. `sent_at`: by the sender's clock; None if it arrived after its sender timed out."""
        refund_id = movement.refund_id
        self.times_moved[refund_id] = self.times_moved.get(refund_id, 0) + 1
        hold("money moves at most once per refund", self.times_moved[refund_id] == 1, refund_id[:6])
        partition = f"{movement.merchant_id}#{movement.merchant_order_id}"
        self.moved[partition] = self.moved.get(partition, Decimal(0)) + movement.amount
        hold(
            "no more money moves than was paid", self.moved[partition] <= amount, f"{self.moved[partition]} of {amount}"
        )
        refund = self.refunds.get(refund_id)
        status = refund["status"] if refund else None
        detail = f"{refund_id[:6]} is {status}"
        if sent_at is None:
            hold("the money of a FAILED refund has not moved", status != RefundStatus.FAILED, detail)
            in_doubt = status in (RefundStatus.SUBMITTING, RefundStatus.UNKNOWN)
            hold("the intent is recorded before money moves", in_doubt, detail)
        else:
            hold("the intent is recorded before money moves", status == RefundStatus.SUBMITTING, detail)
            lease = refund["leaseUntil"] if refund else ""
            detail = f"{refund_id[:6]} sent at {sent_at}, after its lease ended at {lease}"
            hold("the intent is recorded before money moves", sent_at < from_iso(lease), detail)
        asked = refund.get("requestedAmount", movement.amount) if refund else movement.amount
        hold(
            "the amount that moves is the amount requested", movement.amount == asked, f"{movement.amount}, not {asked}"
        )

    def died(self, invocation: Invocation) -> None:
        """A process that is killed while it submits a refund leaves it UNKNOWN."""
        for refund_id, holder in self.held_by.items():
            if holder is invocation and self.refunds[refund_id]["status"] == RefundStatus.SUBMITTING:
                self.excused.add(refund_id)

    # ---- at the end, when faults have stopped and time has passed

    def quiet(self, world: Any) -> None:
        for refund_id, refund in self.refunds.items():
            status = refund["status"]
            detail = f"{refund_id[:6]} is {status}"
            settled = (RefundStatus.SUCCEEDED, RefundStatus.FAILED, RefundStatus.UNKNOWN)
            hold("no refund stays QUEUED or SUBMITTING", status in settled, detail)
            moved = self.times_moved.get(refund_id, 0)
            hold("the money of a SUCCEEDED refund has moved", status != RefundStatus.SUCCEEDED or moved == 1, detail)
            hold("the money of a FAILED refund has not moved", status != RefundStatus.FAILED or moved == 0, detail)
        for refund_id in self.times_moved:
            hold("every movement belongs to a refund in the ledger", refund_id in self.refunds, refund_id[:6])
        hold("no refund is ever deleted", world.refund_ids() == self.refunds.keys(), len(self.refunds))
        self._check_dead_letters(world)
        self._check_messages(world)
        self._check_what_is_kept(world)
        hold("no message remains after its refund is settled", not world.messages(), world.messages())

    def _check_messages(self, world: Any) -> None:
        """Each became the refund that it asks for or points to, or a dead letter with an audit record."""
        explained = {item["bodySha256"]["S"] for item in world.audit_items() if "bodySha256" in item}
        for message in world.sent:
            made = any(message.is_answered_by(refund) for refund in self.refunds.values())
            digest = hashlib.sha256(message.body.encode()).hexdigest()
            hold("no refund is lost", made or digest in explained, message)

    def _check_dead_letters(self, world: Any) -> None:
        records = Counter(
            item["messageId"]["S"] for item in world.audit_items() if item["action"]["S"] == "MESSAGE_DEAD_LETTERED"
        )
        for message in world.dead_letters():
            own, original = message["MessageId"], message.get("MessageAttributes", {}).get("originalMessageId")
            moved_by_sqs = "DeadLetterQueueSourceArn" in message["Attributes"]
            # The worker's own dead letter is recorded under the id that its sender knows.
            found = records[own] if moved_by_sqs or not original else records[original["StringValue"]]
            hold("every dead letter has an audit record", found >= 1, message)
            others = records[own] if original and not moved_by_sqs else 0
            hold("a dead letter has one audit record", found == 1 and not others, f"{found} and {others}: {message}")

    def _check_what_is_kept(self, world: Any) -> None:
        for kind, text in world.everything_kept():
            for secret in NEVER_KEPT:
                hold("no secret and no customer name is stored", secret not in text, f"{secret!r} in {kind}")


@dataclass(frozen=True)
class Asked:
    """A caller's request, and what the ledger had at that moment."""

    partition: str | None
    refund_id: str  # of the refund that it is about, also if it only has the key; else empty
    at: int  # the number of the last write
    moved_already: bool
    in_part: bool  # it asks for a page, or has a filter


def check_answer(
    watch: Invariants,
    asked: Asked,
    status: int,
    headers: dict[str, str],
    body: dict[str, Any],
    *,
    sums_read: tuple[int, ...],
) -> None:
    """An answer must agree with what happened, and with the ledger at some moment since the request.

    `sums_read`: the number of the last write, each time that the request read the order's sums.
    """
    refund_id, detail = body.get("refundId"), json.dumps(body, default=str)
    hold("no caller gets a 500", status != 500, detail)
    if status == 201:
        hold("an answer agrees with what happened", watch.times_moved.get(refund_id or "", 0) == 1, detail)
    if body.get("code") in NOT_MADE:
        hold("an answer agrees with what happened", not asked.moved_already, detail)
    if status in (201, 202):
        hold("every accepted refund can be found", refund_id in watch.refunds, detail)
    mine = watch.history.get(asked.refund_id, ())
    if body.get("code") == NOT_ENOUGH and refund_id is None:
        then = [at(mine, write) for write in sums_read or (asked.at,)]
        lacked = any(state is None or not state.holds_money for state in then)
        hold("no refund is refused for money that it holds itself", lacked, detail)
    if body.get("code") == "NOT_FOUND" and asked.refund_id:
        hold("an answer agrees with the ledger", at(mine, asked.at) is None, detail)
    if RefundStatus.__members__.get(str(body.get("status"))):
        _check_refund_in_answer(watch, asked.at, body)
        if "version" in body:
            hold("an answer agrees with the ledger", headers.get("etag") == f'"{body["version"]}"', headers)
    elif refund_id and body.get("code"):  # a problem
        status_said = RefundStatus.SUBMITTING if body["code"] == "REFUND_IN_PROGRESS" else RefundStatus.FAILED
        _check_refund_in_answer(watch, asked.at, {"refundId": refund_id, "status": status_said})
    if "refund" in body:
        _check_refund_in_answer(watch, asked.at, body["refund"])
    if "refunds" in body:
        _check_list_in_answer(watch, asked, body)


def _check_refund_in_answer(watch: Invariants, since: int, shown: dict[str, Any]) -> None:
    states = [state.visible for state in current(watch.history.get(shown["refundId"], ()), since)]
    right = any(all(shown.get(name, value) == value for name, value in state.items()) for state in states)
    hold("an answer agrees with the ledger", right, f"{shown}; the ledger had {states}")


def _check_list_in_answer(watch: Invariants, asked: Asked, body: dict[str, Any]) -> None:
    # The index of open refunds may lag behind, but it never shows a state that never was.
    since = asked.at if asked.partition else 0
    for refund in body["refunds"]:
        _check_refund_in_answer(watch, since, refund)
    if asked.partition is None or asked.in_part or body.get("nextToken"):
        return
    listed = {refund["refundId"] for refund in body["refunds"]}
    there = {
        refund_id
        for refund_id, refund in watch.refunds.items()
        if refund["pk"] == asked.partition and at(watch.history[refund_id], asked.at)
    }
    hold("an answer agrees with the ledger", there <= listed, f"{there - listed} missing in {body}")
    sums = [state.visible for state in current(watch.sums.get(asked.partition, ()), asked.at)]
    shown = {name: body[name] for name in SUMS.values()}
    none_yet = at(watch.sums.get(asked.partition, ()), asked.at) is None and set(shown.values()) == {None}
    hold("an answer agrees with the ledger", none_yet or shown in sums, f"{shown}; the ledger had {sums}")
