"""The emulated DynamoDB answers as moto does; test_emulator_dynamodb.py has what moto does otherwise than AWS."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from devstack.aws import AwsServer
from devstack.template import Template
from testkit.emulator import Dynamo
from tests.testkit.emulator_calls import everything, outcome, pages
from tests.testkit.emulator_operations import COMPARED, REFUSED, Both, listings, on_table, operations


@pytest.fixture(scope="module")
def both(aws: AwsServer, template: Template) -> Both:
    return Both.provision(template, aws.url)


@COMPARED
@given(data=st.data())
def test_dynamodb_answers_as_moto_does(both: Both, data: st.DataObject) -> None:
    dynamo = both.emptied()
    for operation, arguments in data.draw(st.lists(operations(both.ledger), min_size=8, max_size=16)):
        ours = outcome(dynamo, operation, arguments)
        theirs = outcome(both.theirs, operation, arguments)
        reasons = ours[4] if isinstance(ours, list) else None
        if reasons and "ValidationError" in [reason["Code"] for reason in reasons]:
            # AWS tells which item it was (see below); moto refuses the request.
            ours = ["ClientError", "TransactWriteItems", "ValidationException", None, None]
        assert ours == theirs, (operation, arguments)
    assert everything(dynamo, both.ledger) == everything(both.theirs, both.ledger)

    for operation, arguments in listings(both.ledger) if data.draw(st.integers(0, 3)) == 0 else ():
        ours = [page["Items"] for page in pages(dynamo, operation, arguments)]
        theirs = [page["Items"] for page in pages(both.theirs, operation, arguments)]
        # AWS may end with an empty page (see below), moto looks ahead.
        assert ours == theirs or (ours[-1] == [] and ours[:-1] == theirs), (operation, arguments)

    rebuilt = Dynamo(both.tables)
    for item in dynamo.items(both.ledger):
        rebuilt.put_item(TableName=both.ledger, Item=item)
    assert rebuilt.snapshot() == dynamo.snapshot()


@pytest.mark.parametrize("what", REFUSED)
def test_dynamodb_refuses_what_moto_refuses(both: Both, what: str) -> None:
    operation, arguments = REFUSED[what]
    dynamo = both.emptied()
    ours = outcome(dynamo, operation, on_table(both.ledger, arguments))
    assert ours == outcome(both.theirs, operation, on_table(both.ledger, arguments))
    assert ours[2] == "ValidationException"
    assert everything(dynamo, both.ledger) == []
    elsewhere = outcome(dynamo, operation, on_table("elsewhere", arguments))
    assert elsewhere[2] in ("ResourceNotFoundException", "ValidationException")
