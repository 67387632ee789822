"""Compares what a run of chaos left behind with what the gateway promises: the books, the ledger, the audit log."""

import itertools
from collections import Counter, defaultdict
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from decimal import Decimal

from devstack.callers import Ask, Item, Wanted
from testkit.http_caller import Answer

LEDGER_ATTRIBUTES = (
    *("pk", "sk", "amount", "refunded", "reserved", "refundable"),
    *("refundId", "merchantId", "merchantOrderId", "idempotencyKey", "status", "reservedAmount", "version"),
)
AUDIT_ATTRIBUTES = ("sk", "refundId", "action", "before", "after", "at", "cause")

OPEN = ("QUEUED", "SUBMITTING")
# From the design, not from the code that is checked with it. (`UNKNOWN` is never submitted again here.)
LEGAL_STEPS = {
    ("", "QUEUED"),
    ("", "SUBMITTING"),
    ("", "FAILED"),
    ("QUEUED", "SUBMITTING"),
    ("QUEUED", "FAILED"),
    ("SUBMITTING", "QUEUED"),
    ("SUBMITTING", "SUCCEEDED"),
    ("SUBMITTING", "FAILED"),
    ("SUBMITTING", "UNKNOWN"),
    ("UNKNOWN", "SUCCEEDED"),
    ("UNKNOWN", "FAILED"),
}


@dataclass
class Check:
    """A promise, how often it was checked, and where it was broken."""

    promise: str
    looked_at: int = 0
    broken: list[str] = field(default_factory=list)

    def that(self, holds: bool, story: str) -> None:
        self.looked_at += 1
        if not holds:
            self.broken.append(story)


@dataclass
class Aftermath:
    """All that is known after the run: Indodana's books, the ledger, the audit log, and the callers' answers."""

    orders: Mapping[str, Decimal]
    movements: Sequence[Item]
    ledger: Sequence[Item]
    audit: Sequence[Item]
    dead_letters: Sequence[Item] = ()
    """Their bodies."""
    told: Sequence[tuple[Ask, Answer]] = ()
    wanted: Iterable[Wanted] = ()
    found: Mapping[tuple[str, str], str | None] = field(default_factory=dict)
    """By order and refund id: the status that the API gives for what a caller was promised; None: it finds none."""

    def __post_init__(self) -> None:
        self.refunds = {item["refundId"]: item for item in self.ledger if item["sk"].startswith("REFUND#")}
        self.sums = {item["pk"].partition("#")[2]: item for item in self.ledger if item["sk"] == "ORDER"}
        self.moved: dict[str, list[Item]] = defaultdict(list)
        for movement in self.movements:
            self.moved[movement["refundId"]].append(movement)

    def checks(self) -> list[Check]:
        return [
            self._nothing_is_open(),
            *self._money(),
            self._sums(),
            *self._callers(),
            self._chains(),
            self._dead_letters_are_explained(),
        ]

    def cut_off(self) -> int:
        """How many refunds became UNKNOWN because the process that submitted them was killed."""
        return sum(
            record.get("after") == "UNKNOWN" and "lease expired" in record.get("cause", "") for record in self.audit
        )

    def _nothing_is_open(self) -> Check:
        check = Check("nothing is left QUEUED or SUBMITTING")
        for refund in self.refunds.values():
            check.that(refund["status"] not in OPEN, _story(refund))
        return check

    def _money(self) -> Iterable[Check]:
        once = Check("no refund moved money twice")
        succeeded = Check("SUCCEEDED: moved exactly once, and exactly that much")
        failed = Check("FAILED: nothing moved")
        explained = Check("every movement is a refund on record, of that order and amount")
        for refund_id, refund in self.refunds.items():
            moved = len(self.moved[refund_id])
            once.that(moved <= 1, f"{moved} times: {_story(refund)}")
            if refund["status"] == "SUCCEEDED":
                succeeded.that(moved == 1, f"{moved} times: {_story(refund)}")
            if refund["status"] == "FAILED":
                failed.that(moved == 0, f"{moved} times: {_story(refund)}")
        for movement in self.movements:
            known = self.refunds.get(movement["refundId"], {})
            place = (known.get("merchantId"), known.get("merchantOrderId"), known.get("reservedAmount"))
            explained.that(
                place == (movement["merchantId"], movement["merchantOrderId"], movement["amount"]), str(movement)
            )
        return once, succeeded, failed, explained

    def _sums(self) -> Check:
        check = Check("each order: sums add up, refunded ≤ moved ≤ refunded + reserved, moved ≤ amount")
        by_order: dict[str, list[Item]] = defaultdict(list)
        for refund in self.refunds.values():
            by_order[refund["merchantOrderId"]].append(refund)
        moved: Counter[str] = Counter()
        for movement in self.movements:
            moved[movement["merchantOrderId"]] += movement["amount"]
        for order_id in self.sums.keys() | by_order.keys() | moved.keys():

            def held(*states: str, order_id: str = order_id) -> Decimal:
                reserved = (
                    refund.get("reservedAmount", 0) for refund in by_order[order_id] if refund["status"] in states
                )
                return sum(reserved, Decimal(0))

            amount = self.orders.get(order_id, Decimal(0))
            nothing = {"amount": amount, "refunded": 0, "reserved": 0, "refundable": amount}
            sums = self.sums.get(order_id, nothing)
            check.that(
                sums["amount"] == amount == sums["refunded"] + sums["reserved"] + sums["refundable"]
                and sums["refundable"] >= 0
                and sums["refunded"] == held("SUCCEEDED")
                and sums["reserved"] == held("UNKNOWN", *OPEN)
                and sums["refunded"] <= moved[order_id] <= min(amount, sums["refunded"] + sums["reserved"]),
                f"{order_id}: moved {moved[order_id]}, { ({name: str(sums[name]) for name in nothing}) }",
            )
        return check

    def _callers(self) -> Iterable[Check]:
        """A refusal is final only if its key was used once: another request may have come when there was room."""
        true = Check("what a caller was told is true: 201 SUCCEEDED, 202 on record, refused not moved")
        findable = Check("every refund that got a 201 or 202 is found by its id")
        recorded = Check("every refund that was sent to the queue is on record")
        by_key = {(refund["merchantOrderId"], refund["idempotencyKey"]): refund for refund in self.refunds.values()}
        asked = Counter(ask.wanted for ask, _ in self.told)
        sent = set(self.wanted)
        for ask, answer in self.told:
            wanted = ask.wanted
            refund = by_key.get((wanted.order_id, wanted.key), {})
            status, named = refund.get("status"), answer.body.get("refundId")
            story = f"{answer.status} {answer.body.get('code') or answer.body.get('status')} to {wanted}: {status}"
            match answer.status:
                case 201:
                    true.that((status, refund.get("refundId")) == ("SUCCEEDED", named), story)
                case 202:
                    true.that(refund.get("refundId") == named, story)
                case 404 | 409 | 422 if answer.body.get("code") != "IDEMPOTENCY_KEY_REUSED":
                    final = named is not None or (asked[wanted] == 1 and wanted not in sent)
                    true.that(not final or status in (None, "FAILED"), story)
                case _:
                    true.that(False, story)
            if answer.status in (201, 202):
                findable.that(self.found.get((wanted.order_id, str(named))) == status, story)
        for wanted in sent:
            recorded.that((wanted.order_id, wanted.key) in by_key, str(wanted))
        return true, findable, recorded

    def _chains(self) -> Check:
        check = Check("each refund's audit records are one legal, unbroken chain to where it stands")
        steps: dict[str, list[Item]] = defaultdict(list)
        for record in self.audit:
            if "refundId" in record and record["action"] != "REFUND_REFUSED":
                steps[record["refundId"]].append(record)
        for refund_id in steps.keys() | self.refunds.keys():
            records = sorted(steps[refund_id], key=lambda record: str(record["sk"]))
            taken = [(record.get("before", ""), record["after"]) for record in records]
            states = ["", *(after for _, after in taken)]
            refund = self.refunds.get(refund_id, {})
            check.that(
                taken == list(itertools.pairwise(states))
                and set(taken) <= LEGAL_STEPS
                and (states[-1], len(taken)) == (refund.get("status"), refund.get("version"))
                and len({record["at"] for record in records}) == len(records),
                f"{refund_id}: {' '.join(f'{before}→{after}' for before, after in taken)}, and is {_story(refund)}",
            )
        return check

    def _dead_letters_are_explained(self) -> Check:
        check = Check("no dead letter that nothing on record explains")
        known = {
            (refund["merchantOrderId"], refund[name])
            for refund in self.refunds.values()
            for name in ("idempotencyKey", "refundId")
        }
        for letter in self.dead_letters:
            named = letter.get("idempotencyKey", letter.get("refundId"))
            check.that((letter.get("merchantOrderId"), named) in known, str(letter))
        return check


def _story(refund: Item) -> str:
    names = ("refundId", "merchantOrderId", "idempotencyKey", "status", "reservedAmount", "version")
    return ", ".join(f"{name} {refund[name]}" for name in names if name in refund)
