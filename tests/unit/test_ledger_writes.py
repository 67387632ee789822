"""What the ledger makes of DynamoDB's refusals, told apart by what stands in them."""

from __future__ import annotations

from collections.abc import Callable
from datetime import UTC, datetime
from decimal import Decimal
from types import SimpleNamespace
from typing import Any

import pytest
from botocore.exceptions import ClientError

from gateway.core.context import RequestContext
from gateway.core.errors import LedgerBusy, LedgerUnavailable, OrderChanged, RefundChanged
from gateway.core.ledger import CONFLICT_TRIES, Ledger
from gateway.core.model import Order, OrderKey, Reason, Refund, RefundRequest, new_refund
from gateway.core.transitions import RefundStatus

REQUEST = RefundRequest(OrderKey("m1", "O-1"), "k", Decimal(1000), Reason.OTHERS, None, "agent")
AT = datetime(2026, 11, 27, 7, 0, tzinfo=UTC)
ORDER = Order(Decimal(5000), Decimal(5000))
NONE, FAILED, CONFLICT = {"Code": "None"}, {"Code": "ConditionalCheckFailed"}, {"Code": "TransactionConflict"}


class Canceled(ClientError):
    pass


class Client:
    """Answers each TransactWriteItems with the next of `answers`: None, or what is raised."""

    exceptions = SimpleNamespace(
        TransactionCanceledException=Canceled,
        ConditionalCheckFailedException=type("ConditionalCheckFailed", (ClientError,), {}),
    )

    def __init__(self, *answers: Exception | None) -> None:
        self.answers = list(answers)
        self.calls: list[Any] = []

    def transact_write_items(self, **request: Any) -> None:
        self.calls.append(request)
        answer = self.answers.pop(0) if len(self.answers) > 1 else self.answers[0]
        if answer:
            raise answer


def canceled(*reasons: dict[str, Any] | None) -> Canceled:
    answer: Any = {"Error": {"Code": "TransactionCanceledException", "Message": ""}}
    if reasons:
        answer["CancellationReasons"] = list(reasons)
    return Canceled(answer, "TransactWriteItems")


CONTEXT = RequestContext("agent", "api", "r-1")


def submitting() -> Refund:
    return new_refund(REQUEST, RefundStatus.SUBMITTING, AT, CONTEXT, reserved_amount=Decimal(1000))


@pytest.fixture
def transitions() -> list[Refund]:
    return []


@pytest.fixture
def write(transitions: list[Refund]) -> Callable[[Client, Refund], None]:
    def write(client: Client, after: Refund) -> None:
        ledger = Ledger(
            client,  # type: ignore[arg-type]
            "ledger",
            "audit",
            sleep=lambda _: None,
            on_transition=lambda _, after: transitions.append(after),
        )
        ledger.transition(None, after, CONTEXT, order=ORDER)

    return write


type Write = Callable[[Client, Refund], None]


@pytest.fixture
def item_of() -> Callable[[Refund], Any]:
    """The refund as it is written."""

    def item_of(refund: Refund) -> Any:
        client = Client(None)
        Ledger(client, "ledger", "audit").transition(None, refund, CONTEXT, order=ORDER)  # type: ignore[arg-type]
        return client.calls[0]["TransactItems"][0]["Put"]["Item"]

    return item_of


type ItemOf = Callable[[Refund], Any]


def test_a_refusal_without_reasons_is_tried_again_and_then_nobody_knows(
    write: Write, transitions: list[Refund]
) -> None:
    client = Client(canceled())

    with pytest.raises(LedgerUnavailable) as raised:
        write(client, submitting())

    assert not isinstance(raised.value, LedgerBusy)  # which would say that nothing was written
    assert len(client.calls) == CONFLICT_TRIES
    assert transitions == []


@pytest.mark.parametrize("reasons", [(), (FAILED,), (NONE, NONE)], ids=["none", "one", "one too few"])
def test_a_refusal_with_too_few_reasons_followed_by_success_is_a_write(
    write: Write, transitions: list[Refund], reasons: tuple[dict[str, Any], ...]
) -> None:
    after = submitting()

    write(Client(canceled(*reasons), None), after)

    assert transitions == [after]


def test_a_write_that_landed_before_its_refusal_is_recognised(
    write: Write, transitions: list[Refund], item_of: ItemOf
) -> None:
    after = submitting()
    landed = FAILED | {"Item": item_of(after)}

    write(Client(canceled(), canceled(landed, FAILED, NONE)), after)

    assert transitions == [after]


def test_a_conflict_on_the_refund_says_nothing_of_the_sums(write: Write) -> None:
    """The write that it met may be the reason why the sums do not allow it, so that write's end is waited for."""
    sums = FAILED | {"Item": {name: {"N": "0"} for name in ("amount", "refundable", "reserved", "refunded")}}
    after = submitting()

    write(Client(canceled(CONFLICT, NONE, sums), None), after)
    with pytest.raises(OrderChanged):
        write(Client(canceled(NONE, NONE, sums)), after)


def test_another_refund_in_its_place_is_what_the_caller_learns(
    write: Write, transitions: list[Refund], item_of: ItemOf
) -> None:
    other = submitting()

    with pytest.raises(RefundChanged) as raised:
        write(Client(canceled(FAILED | {"Item": item_of(other)}, NONE, NONE)), submitting())

    assert raised.value.current == other
    assert transitions == []


def test_conflicts_without_end_mean_that_nothing_was_written(write: Write) -> None:
    with pytest.raises(LedgerBusy):
        write(Client(canceled(NONE, NONE, CONFLICT)), submitting())
