"""docs/cost.md says what the formula says, and the formula says what a bill would."""

from __future__ import annotations

import json
import re
from dataclasses import replace

import pytest

from bench import cost, usage
from bench.cost import ALONE, DOCUMENT, FURTHER, INPUTS, QUEUED, REFUND, STATUS, Choices, Cost
from bench.usage import Usage
from devstack.template import Template

ONE = Usage(
    function="RefundApiFunction",  # 512 MB
    works=1,
    calls={"dynamodb.BatchGetItem": 1, "dynamodb.TransactWriteItems": 2, "indodana.order_cancellation": 1},
    write_units=12,
    audit_write_units=4,
    index_write_units=2,
    read_units=2,
    log_lines=2,
    metrics=[],
    stored_bytes=0,
    bytes_sent=0,
    bytes_answered=0,
    log_bytes=0,
    metric_bytes=0,
    cpu_ms=10,
)


@pytest.fixture(scope="module")
def priced(template: Template) -> Cost:
    usages = {**usage.load(), "refund by API": ONE}
    inputs = json.loads(INPUTS.read_text(encoding="utf-8"))
    inputs["assumptions"] |= {"cold_share": {"value": 0}, "upstream_ms": {"value": 200}}
    return Cost(usages, inputs, template)


def test_the_documents_tables_are_those_that_the_script_prints() -> None:
    text = DOCUMENT.read_text(encoding="utf-8")
    assert cost.with_tables(text, cost.load().tables()) == text, "python -m bench.cost --write"


def test_the_document_has_every_table() -> None:
    named = re.findall(r"<!-- table: (\w+) -->", DOCUMENT.read_text(encoding="utf-8"))
    assert sorted(named) == sorted(cost.load().tables())


def test_every_price_says_where_it_comes_from_and_when() -> None:
    inputs = json.loads(INPUTS.read_text(encoding="utf-8"))
    assert all(price["source"] and price["dated"] and price["of"] for price in inputs["prices"].values())


def test_a_function_is_billed_for_its_waits_and_its_share_of_a_cpu(priced: Cost) -> None:
    waits = 5 + 2 * 10 + 200
    assert priced.wait_ms(ONE, Choices()) == waits
    assert priced.cpu_ms(ONE, Choices(memory_mb=1769)) == 10
    assert priced.cpu_ms(ONE, Choices(memory_mb=3538)) == 10  # a single thread uses no second one
    assert priced.duration_ms(ONE) == waits + 35  # 10 ms on 0.29 of a CPU, rounded up


def test_a_batchs_refunds_wait_at_the_same_time_and_compute_one_after_the_other(priced: Cost) -> None:
    calls = {name: 10 * count for name, count in ONE.calls.items()}
    batch = replace(ONE, function="RefundWorkerFunction", works=10, calls=calls, cpu_ms=100)
    assert priced.wait_ms(batch, Choices()) == priced.wait_ms(ONE, Choices())
    assert priced.cpu_ms(batch, Choices()) == 10 * priced.cpu_ms(ONE, Choices())


def test_a_million_costs_its_units_at_their_prices(priced: Cost) -> None:
    costs = priced.million(REFUND)
    assert costs["DynamoDB writes"] == pytest.approx(14 * 0.625)
    assert costs["DynamoDB reads"] == pytest.approx(2 * 0.125)
    assert costs["Lambda time"] == pytest.approx(0.260 * 0.5 * 13.3334)
    assert (costs["API"], costs["Lambda requests"], costs["SQS"]) == (1.0, 0.2, 0)


def test_transactions_double_the_tables_writes_and_not_the_indexs(priced: Cost) -> None:
    assert priced.million(REFUND, Choices(transactions=False))["DynamoDB writes"] == pytest.approx((6 + 2) * 0.625)


def test_provisioned_capacity_breaks_even_at_some_29_percent(priced: Cost) -> None:
    used = 0.00065 / 3600 / 0.625 * 1_000_000
    assert used == pytest.approx(0.289, abs=0.001)
    provisioned = priced.million(REFUND, Choices(provisioned_use=used))["DynamoDB writes"]
    assert provisioned == pytest.approx(priced.million(REFUND)["DynamoDB writes"])


def test_a_batch_of_ten_shares_its_invocation_and_its_polls(priced: Cost) -> None:
    ten, one = priced.million(QUEUED), priced.million(ALONE)
    assert ten["Lambda requests"] == pytest.approx(one["Lambda requests"] / 10)
    assert (ten["SQS"], one["SQS"]) == (pytest.approx(1.2 * 0.4), pytest.approx(3 * 0.4))


@pytest.mark.parametrize(("per_second", "share"), [(0.5, 1.0), (1, 1.0), (2, 0.525), (100, 0.0595)])
def test_lambda_traces_the_first_of_each_second_and_a_twentieth_of_the_rest(
    priced: Cost, per_second: float, share: float
) -> None:
    assert priced.traced_share(per_second) == pytest.approx(share)


def test_what_is_left_out_costs_nothing(priced: Cost) -> None:
    bare = Choices(traces=False, metrics=False, platform_lines=False, access_log=False)
    assert priced.million(REFUND, bare)["traces"] == priced.million(REFUND, bare)["logs"] == 0


def test_a_known_orders_refund_is_cheaper_and_a_status_check_cheapest() -> None:
    real = cost.load()
    status, further, refund = (sum(real.million(way).values()) for way in (STATUS, FURTHER, REFUND))
    assert status < further < refund
