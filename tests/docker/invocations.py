"""An event for each function, and what must hold of its answer."""

from __future__ import annotations

import json
from collections.abc import Callable
from decimal import Decimal
from typing import Any

from testkit.processes import ROOT, until
from tests.docker.sam import SamStack

# A refund that waits comes back within some seconds; a message that nobody hid, after the queue's visibility timeout.
WAIT_SECONDS = 60.0


def body(answer: dict[str, Any]) -> Any:
    return json.loads(answer["body"], parse_float=Decimal)


def health_answers(stack: SamStack, answer: Any) -> None:
    assert answer == {"statusCode": 204, "headers": {"cache-control": "no-store"}}


def a_status_is_as_indodana_has_it(stack: SamStack, answer: Any) -> None:
    assert (answer["statusCode"], body(answer)["transactionStatus"]) == (200, "PAID")


def a_refund_is_taken_on(stack: SamStack, answer: Any) -> None:
    # Not one that is sent at once: after a cold start on a busy machine, too little of the function's time is left.
    assert (answer["statusCode"], body(answer)["status"]) == (202, "QUEUED")
    location = answer["headers"]["location"]
    done = until(lambda: stack.call("GET", location).body["status"], lambda status: status != "QUEUED", WAIT_SECONDS)
    assert done == "SUCCEEDED"


def what_is_good_of_a_poisoned_batch_is_refunded_and_the_rest_dead_lettered(stack: SamStack, answer: Any) -> None:
    assert answer == {"batchItemFailures": []}
    moved = [movement["amount"] for movement in stack.simulator.books("ORDER-PAID")["movements"]]
    assert moved.count(Decimal(12_000)) == 1
    records = json.loads((ROOT / "events/refund_worker/with-poison.json").read_text())["Records"]
    assert {letter["Body"] for letter in stack.dead_letters()} == {record["body"] for record in records[1:]}


def an_unknown_refund_is_counted(stack: SamStack, answer: Any) -> None:
    assert (answer["unknown"], answer["errors"]) == (1, 0)
    assert answer["oldest_unknown_seconds"] > 0


def a_timeline_is_read(stack: SamStack, answer: Any) -> None:
    assert answer["statusCode"] == 200
    assert "STATUS_CHECKED" in {record["action"] for record in body(answer)["records"]}


INVOCATIONS: dict[str, tuple[str, Callable[[SamStack, Any], None]]] = {
    "HealthFunction": ("health/anybody", health_answers),
    "StatusCheckFunction": ("status_check/paid", a_status_is_as_indodana_has_it),
    "RefundApiFunction": ("refund_api/respond-async", a_refund_is_taken_on),
    "RefundWorkerFunction": (
        "refund_worker/with-poison",
        what_is_good_of_a_poisoned_batch_is_refunded_and_the_rest_dead_lettered,
    ),
    "RecoveryFunction": ("recovery/schedule", an_unknown_refund_is_counted),
    "AuditQueryFunction": ("audit_query/timeline", a_timeline_is_read),
}
