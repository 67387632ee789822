"""What must hold after every step, and what must hold when all is quiet. A violation names the invariant.

The table of legal steps is the design's, written down here once more, so that the code is not its own judge.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable, Iterable
from copy import copy
from dataclasses import dataclass
from datetime import datetime
from decimal import Decimal
from typing import Any

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


class Violation(BaseException):
    """An invariant does not hold. Not an Exception: the code under test catches those, as AWS raises them too."""

    def __init__(self, invariant: str, detail: str) -> None:
        super().__init__(f"{invariant}: {detail}")
        self.invariant = invariant
        self.tally: Any = None  # of the storm in which it broke


@dataclass(frozen=True)
class Standing:
    """What was on record, from that write to the ledger on."""

    since: int
    said: dict[str, Any]  # as a caller may be told
    holds_money: bool = False


type History = tuple[Standing, ...]


def current(history: History, after: int) -> list[Standing]:
    """What was on record at some moment since so many writes; the latest last."""
    began = max((number for number, standing in enumerate(history) if standing.since <= after), default=0)
    return list(history[began:])


def at(history: History, write: int) -> Standing | None:
    return next((standing for standing in reversed(history) if standing.since <= write), None)


def hold(invariant: str, holds: bool, detail: object) -> None:
    if not holds:
        raise Violation(invariant, str(detail))


class Invariants:
    """Watches every write to the ledger and every movement of money, at the moment it happens."""

    def __init__(self, ambiguous_refunds: AmbiguousRefunds) -> None:
        self._may_repeat = ambiguous_refunds is AmbiguousRefunds.RESUBMIT
        self.refunds: dict[str, dict[str, Any]] = {}
        self._took_all: set[str] = set()  # has just reserved "all that remains"
        self.records: dict[str, tuple[dict[str, Any], ...]] = {}
        self.times_moved: dict[str, int] = {}
        self.moved: dict[str, Decimal] = {}  # by partition
        self.excused: set[str] = set()  # refunds whose outcome a real system could not know
        self.held_by: dict[str, Invocation] = {}  # who made a refund SUBMITTING
        self.writes = 0  # to the ledger, so far
        self.history: dict[str, History] = {}  # of each refund
        self.sums: dict[str, History] = {}  # by partition
        self.decided: set[Any] = set()  # what operators have been told is done

    def savepoint(self) -> Callable[[], None]:
        """What lets it forget all that it sees after it, whenever it is called."""
        saved = {name: copy(value) for name, value in vars(self).items()}
        return lambda: vars(self).update({name: copy(value) for name, value in saved.items()})

    # ---- after every step

    def wrote(
        self, writes: Iterable[dict[str, Any]], invocation: Invocation, its_clock: datetime, sums_of: Any
    ) -> None:
        """One transaction of the ledger that has just taken effect."""
        self.writes += 1
        puts = [write["Put"]["Item"] for write in writes if "Put" in write]
        refunds = [from_item(item) for item in puts if item["sk"]["S"].startswith("REFUND#")]
        records = [from_item(item) for item in puts if "action" in item]
        for refund in refunds:
            self._wrote_refund(refund, records, invocation, its_clock)
        for refund in refunds:
            if (sums := sums_of(refund["pk"])) is not None:
                self._check_sums(refund, sums)
                said = {name: sums[field] for field, name in SUMS.items()}
                self.sums[refund["pk"]] = (*self.sums.get(refund["pk"], ()), Standing(self.writes, said))

    def postponed(self, refund: dict[str, Any], its_clock: datetime) -> None:
        """Another attempt came to nothing, or is left to a message: bookkeeping."""
        self._check_due(self.refunds[refund["refundId"]], its_clock)
        self.refunds[refund["refundId"]] = refund

    def _check_due(self, before: dict[str, Any], its_clock: datetime) -> None:
        due = before.get("nextAttemptAt")
        said = f"{before['refundId'][:6]} at {its_clock}, and it is due at {due}"
        hold("nothing is attempted before it is due", due is None or its_clock >= from_iso(due), said)

    def _wrote_refund(
        self, refund: dict[str, Any], records: list[dict[str, Any]], invocation: Invocation, its_clock: datetime
    ) -> None:
        refund_id = refund["refundId"]
        before = self.refunds.get(refund_id)
        was = RefundStatus(before["status"]) if before else None
        now = RefundStatus(refund["status"])
        said = f"{refund_id[:6]}: {was} to {now}"
        hold("every transition is legal", now in LEGAL[was].split(), said)
        if was is RefundStatus.UNKNOWN and now is RefundStatus.SUBMITTING:
            hold("an unknown refund is not submitted again under review", self._may_repeat, said)
        hold("no transition is lost", refund["version"] == (before["version"] if before else 0) + 1, said)
        mine = [record for record in records if record.get("refundId") == refund_id]
        right = [(record.get("before"), record["after"]) for record in mine] == [(was, now)]
        hold("every transition has exactly one audit record", right, said)
        # Nothing is sent to the queue here with an id of its own.
        known_as = {record["correlationId"] for record in mine if record["channel"] != "api"}
        right = known_as <= {refund["correlationId"]}
        hold("what is done later is recorded under the id of whoever asked", right, f"{said} as {known_as}")
        history = self.records.get(refund_id, ())
        in_order = not history or history[-1]["sk"] < mine[0]["sk"]
        hold("the audit records stand in order", in_order, said)
        self.records[refund_id] = (*history, *mine)
        self.refunds[refund_id] = refund
        if before and now is RefundStatus.SUBMITTING:
            self._check_due(before, its_clock)
        amount = refund.get("reservedAmount", refund.get("requestedAmount"))
        told = {"status": now, "version": refund["version"], "amount": amount}
        holds_money = "reservedAmount" in refund and now is not RefundStatus.FAILED
        self.history[refund_id] = (*self.history.get(refund_id, ()), Standing(self.writes, told, holds_money))
        moved = self.times_moved.get(refund_id, 0)
        if now is RefundStatus.SUBMITTING:
            self.held_by[refund_id] = invocation
            if invocation.outlives_its_time:  # its lease may be over before it can send
                self.excused.add(refund_id)
            if "requestedAmount" not in refund and (before is None or "reservedAmount" not in before):
                self._took_all.add(refund_id)
        if now is RefundStatus.SUCCEEDED:
            hold("what succeeded has moved", moved >= 1, said)
        if now is RefundStatus.FAILED:
            hold("what failed has not moved", moved == 0, said)
        if now is RefundStatus.UNKNOWN:
            hold("unknown only where nobody could know", refund_id in self.excused, said)

    def _check_sums(self, refund: dict[str, Any], sums: dict[str, Any]) -> None:
        total = sums["refunded"] + sums["reserved"] + sums["refundable"]
        said = {name: sums[name] for name in ("amount", "refunded", "reserved", "refundable")}
        hold("refunded + reserved + refundable = amount", total == sums["amount"], said)
        hold("no sum is negative", min(sums["refunded"], sums["reserved"], sums["refundable"]) >= 0, said)
        mine = [other for other in self.refunds.values() if other["pk"] == refund["pk"]]
        reserved = sum((other.get("reservedAmount", 0) for other in mine if other["status"] in OPEN), Decimal(0))
        refunded = sum((other.get("reservedAmount", 0) for other in mine if other["status"] == "SUCCEEDED"), Decimal(0))
        right = (sums["reserved"], sums["refunded"]) == (reserved, refunded)
        hold("the order's sums are those of its refunds", right, f"{said}, and not {reserved} and {refunded}")
        if refund["refundId"] in self._took_all:
            self._took_all.remove(refund["refundId"])
            hold("all that remains leaves nothing", sums["refundable"] == 0, said)

    def money_moved(self, movement: Movement, amount: Decimal, sent_at: datetime | None) -> None:
        """`amount`: what was paid. `sent_at`: by its sender's clock; None where it arrived after it was given up."""
        refund_id = movement.refund_id
        self.times_moved[refund_id] = self.times_moved.get(refund_id, 0) + 1
        hold("money moves at most once per refund", self.times_moved[refund_id] == 1, refund_id[:6])
        partition = f"{movement.merchant_id}#{movement.merchant_order_id}"
        self.moved[partition] = self.moved.get(partition, Decimal(0)) + movement.amount
        hold("no more moves than was paid", self.moved[partition] <= amount, f"{self.moved[partition]} of {amount}")
        refund = self.refunds.get(refund_id)
        status = refund["status"] if refund else None
        said = f"{refund_id[:6]} is {status}"
        if sent_at is None:
            hold("what failed has not moved", status != RefundStatus.FAILED, said)
            in_doubt = status in (RefundStatus.SUBMITTING, RefundStatus.UNKNOWN)
            hold("intent is on record before money moves", in_doubt, said)
        else:
            hold("intent is on record before money moves", status == RefundStatus.SUBMITTING, said)
            lease = refund["leaseUntil"] if refund else ""
            said = f"{refund_id[:6]} is sent at {sent_at}, and its lease ended at {lease}"
            hold("intent is on record before money moves", sent_at < from_iso(lease), said)
        asked = refund.get("requestedAmount", movement.amount) if refund else movement.amount
        hold("what moves is what was asked for", movement.amount == asked, f"{movement.amount} and not {asked}")

    def died(self, invocation: Invocation) -> None:
        """Whoever dies with a refund in hand leaves it unknown."""
        for refund_id, holder in self.held_by.items():
            if holder is invocation and self.refunds[refund_id]["status"] == RefundStatus.SUBMITTING:
                self.excused.add(refund_id)

    # ---- when faults have stopped and time has passed

    def quiet(self, world: Any) -> None:
        for refund_id, refund in self.refunds.items():
            status = refund["status"]
            said = f"{refund_id[:6]} is {status}"
            settled = (RefundStatus.SUCCEEDED, RefundStatus.FAILED, RefundStatus.UNKNOWN)
            hold("nothing stays queued or submitting", status in settled, said)
            moved = self.times_moved.get(refund_id, 0)
            hold("what succeeded has moved", status != RefundStatus.SUCCEEDED or moved == 1, said)
            hold("what failed has not moved", status != RefundStatus.FAILED or moved == 0, said)
        for refund_id in self.times_moved:
            hold("no money moves that no record explains", refund_id in self.refunds, refund_id[:6])
        hold("no refund is ever deleted", world.refund_ids() == self.refunds.keys(), len(self.refunds))
        self._check_dead_letters(world)
        self._check_messages(world)
        self._check_what_is_kept(world)
        hold("no message outlives its refund's outcome", not world.messages(), world.messages())

    def _check_messages(self, world: Any) -> None:
        """Each has become the refund that it asks for, or a dead letter that a record explains."""
        explained = {item["bodySha256"]["S"] for item in world.audit_items() if "bodySha256" in item}
        for message in world.sent:
            wanted = json.loads(message)
            wanted["requestedAmount"] = wanted.pop("amount", None)
            made = any(all(refund.get(name) == wanted[name] for name in wanted) for refund in self.refunds.values())
            hold("no refund is lost", made or hashlib.sha256(message.encode()).hexdigest() in explained, message)

    def _check_dead_letters(self, world: Any) -> None:
        explained = {
            item["messageId"]["S"] for item in world.audit_items() if item["action"]["S"] == "MESSAGE_DEAD_LETTERED"
        }
        for message in world.dead_letters():
            original = message.get("MessageAttributes", {}).get("originalMessageId", {}).get("StringValue")
            hold("every dead letter is explained by a record", original in explained, message)

    def _check_what_is_kept(self, world: Any) -> None:
        for kind, text in world.everything_kept():
            for secret in NEVER_KEPT:
                hold("no secret and no name is kept", secret not in text, f"{secret!r} in {kind}")


@dataclass(frozen=True)
class Asked:
    """What a caller asked for, and what was on record by then."""

    partition: str | None
    refund_id: str  # where it asks for one, be it by its key; else empty
    at: int  # how many writes there were
    moved_already: bool
    in_part: bool  # it asks for a page, or for some


def told_the_truth(
    watch: Invariants,
    asked: Asked,
    status: int,
    headers: dict[str, str],
    body: dict[str, Any],
    *,
    sums_read: tuple[int, ...],
) -> None:
    """What a caller is told agrees with what happened, and was on record at some moment since it asked.

    `sums_read`: after how many writes it was shown the order's sums, each time.
    """
    refund_id, said = body.get("refundId"), json.dumps(body, default=str)
    hold("no caller gets a 500", status != 500, said)
    if status == 201:
        hold("a caller is told the truth", watch.times_moved.get(refund_id or "", 0) == 1, said)
    if body.get("code") in NOT_MADE:
        hold("a caller is told the truth", not asked.moved_already, said)
    if status in (201, 202):
        hold("every accepted refund can be found", refund_id in watch.refunds, said)
    mine = watch.history.get(asked.refund_id, ())
    if body.get("code") == NOT_ENOUGH and refund_id is None:
        then = [at(mine, write) for write in sums_read or (asked.at,)]
        lacked = any(standing is None or not standing.holds_money for standing in then)
        hold("no refund lacks the money that it holds", lacked, said)
    if body.get("code") == "NOT_FOUND" and asked.refund_id:
        hold("a caller is told what is on record", at(mine, asked.at) is None, said)
    if RefundStatus.__members__.get(str(body.get("status"))):
        _told_of_a_refund(watch, asked.at, body)
        if "version" in body:
            hold("a caller is told what is on record", headers.get("etag") == f'"{body["version"]}"', headers)
    elif refund_id and body.get("code"):  # a problem
        status_said = RefundStatus.SUBMITTING if body["code"] == "REFUND_IN_PROGRESS" else RefundStatus.FAILED
        _told_of_a_refund(watch, asked.at, {"refundId": refund_id, "status": status_said})
    if "refund" in body:
        _told_of_a_refund(watch, asked.at, body["refund"])
    if "refunds" in body:
        _told_of_a_list(watch, asked, body)


def _told_of_a_refund(watch: Invariants, since: int, told: dict[str, Any]) -> None:
    standings = [standing.said for standing in current(watch.history.get(told["refundId"], ()), since)]
    right = any(all(told.get(name, value) == value for name, value in standing.items()) for standing in standings)
    hold("a caller is told what is on record", right, f"{told}, and on record were {standings}")


def _told_of_a_list(watch: Invariants, asked: Asked, body: dict[str, Any]) -> None:
    # The index of open refunds may lag behind; but nothing stands in it that never was.
    since = asked.at if asked.partition else 0
    for refund in body["refunds"]:
        _told_of_a_refund(watch, since, refund)
    if asked.partition is None or asked.in_part or body.get("nextToken"):
        return
    listed = {refund["refundId"] for refund in body["refunds"]}
    there = {
        refund_id
        for refund_id, refund in watch.refunds.items()
        if refund["pk"] == asked.partition and at(watch.history[refund_id], asked.at)
    }
    hold("a caller is told what is on record", there <= listed, f"{there - listed} is missing in {body}")
    sums = [standing.said for standing in current(watch.sums.get(asked.partition, ()), asked.at)]
    told = {name: body[name] for name in SUMS.values()}
    none_yet = at(watch.sums.get(asked.partition, ()), asked.at) is None and set(told.values()) == {None}
    hold("a caller is told what is on record", none_yet or told in sums, f"{told}, and on record were {sums}")
