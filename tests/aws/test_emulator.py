"""The emulator of testkit/emulator answers as ministack does: a third implementation, beside moto.

Where they differ, and what AWS documents:

| what | AWS | emulator | moto | ministack |
|---|---|---|---|---|
| one attribute set twice in an update | refused | refused | refused | **done** |
| a message deleted a second time | done | done | done | **ReceiptHandleIsInvalid** |
| in a transaction, adding to a number that an item lacks | the item's reason | so | **no reasons** | so |
| the key to go on after a page that ends with the last item | there | there | **missing** | there |
| DeadLetterQueueSourceArn of a message that SQS moved | there | there | **missing** | there |
| SenderId of a message that a role sent | the role's id and session | any | any | **the account** |
| TransactionConflict | there | **never** | **never** | **never** |

The last two are not tried here.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from devstack.aws import client
from devstack.template import Template
from testkit.ministack import Ministack
from tests.testkit import secret_stories
from tests.testkit.emulator_calls import everything, outcome, pages
from tests.testkit.emulator_operations import COMPARED, REFUSED, Both, listings, on_table, operations
from tests.testkit.queue_stories import STORIES, Story, delay, told_by_both

NOT_REFUSED = {"one attribute set twice"}
DIFFERENT_STORIES: dict[Callable[[Story], None], list[Any]] = {
    delay: [(("delete_message", "done"), ("delete_message", "ReceiptHandleIsInvalid"))],
}


@pytest.fixture(scope="module")
def unrestricted(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Ministack]:
    with Ministack(tmp_path_factory.mktemp("unrestricted")) as emulator:
        yield emulator


@pytest.fixture(scope="module")
def both(unrestricted: Ministack, template: Template) -> Both:
    return Both.provision(template, unrestricted.url)


@COMPARED
@given(data=st.data())
def test_dynamodb_answers_as_ministack_does(both: Both, data: st.DataObject) -> None:
    dynamo = both.emptied()
    for operation, arguments in data.draw(st.lists(operations(both.ledger), min_size=8, max_size=16)):
        ours = outcome(dynamo, operation, arguments)
        theirs = outcome(both.theirs, operation, arguments)
        assert ours == theirs, (operation, arguments)
    assert everything(dynamo, both.ledger) == everything(both.theirs, both.ledger)

    for operation, arguments in listings(both.ledger) if data.draw(st.integers(0, 3)) == 0 else ():
        ours = [page["Items"] for page in pages(dynamo, operation, arguments)]
        theirs = [page["Items"] for page in pages(both.theirs, operation, arguments)]
        assert ours == theirs, (operation, arguments)


@pytest.mark.parametrize("what", REFUSED)
def test_dynamodb_refuses_what_ministack_refuses(both: Both, what: str) -> None:
    operation, arguments = REFUSED[what]
    dynamo = both.emptied()
    ours = outcome(dynamo, operation, on_table(both.ledger, arguments))
    theirs = outcome(both.theirs, operation, on_table(both.ledger, arguments))
    assert theirs == ({} if what in NOT_REFUSED else ours)


@pytest.mark.parametrize("told", STORIES, ids=lambda told: told.__name__)
def test_sqs_does_as_ministack_does(unrestricted: Ministack, told: Callable[[Story], None]) -> None:
    ours, theirs = told_by_both(told, client("sqs", unrestricted.url))
    differing = [(mine, other) for mine, other in zip(ours, theirs, strict=True) if mine != other]
    assert differing == DIFFERENT_STORIES.get(told, [])


def test_secrets_manager_answers_as_ministack_does(unrestricted: Ministack) -> None:
    for ours, theirs in secret_stories.told_by_both(client("secretsmanager", unrestricted.url)):
        assert ours == theirs
