"""Units are counted as DynamoDB's developer's guide says: what the cost on AWS is computed from."""

from __future__ import annotations

import pytest

from bench.capacity import Index, Item, Units, Write, item_bytes, read_each, read_together, written

INDEX: Index = ("openKey", "openSince")


def of_bytes(size: int, **attributes: str) -> Item:
    item = {"pk": {"S": "m1"}, **{name: {"S": value} for name, value in attributes.items()}}
    return {**item, "x": {"S": "x" * (size - item_bytes(item) - 1)}}


@pytest.mark.parametrize(
    ("value", "size"),
    [
        ({"S": "Ordér"}, 6),
        ({"BOOL": True}, 1),
        ({"N": "0"}, 1),
        ({"N": "7"}, 2),
        ({"N": "25000"}, 2),
        ({"N": "12345"}, 4),
        ({"N": "-99.95"}, 3),
    ],
)
def test_an_attribute_has_the_bytes_of_its_name_and_its_value(value: dict[str, object], size: int) -> None:
    assert item_bytes({"amount": value}) == len("amount") + size


def test_an_attribute_of_another_type_is_refused() -> None:
    with pytest.raises(NotImplementedError):
        item_bytes({"tags": {"L": []}})


@pytest.mark.parametrize(("size", "units"), [(100, 1), (1024, 1), (1025, 2), (2049, 3)])
def test_a_write_takes_a_unit_for_each_kilobyte_begun(size: int, units: int) -> None:
    assert written([Write(None, of_bytes(size))], transaction=False, done=True) == Units(write=units)


def test_the_larger_of_the_item_before_and_after_counts() -> None:
    shrunk = Write(of_bytes(3000), of_bytes(100))
    assert written([shrunk], transaction=False, done=True).write == 3


def test_a_transaction_takes_twice_as_much_rounded_up_before() -> None:
    writes = [Write(None, of_bytes(1100)), Write(of_bytes(500), of_bytes(500))]
    assert written(writes, transaction=True, done=True).write == 2 * (2 + 1)


def test_a_refused_write_takes_what_the_item_there_would_and_touches_no_index() -> None:
    there = of_bytes(2000)
    wanted = of_bytes(100, openKey="m1#QUEUED", openSince="2026")
    assert written([Write(there, wanted, (INDEX,))], transaction=False, done=False) == Units(write=2)
    assert written([Write(None, wanted, (INDEX,))], transaction=False, done=False) == Units(write=1)


def test_a_cancelled_transaction_takes_as_much_as_if_it_were_done() -> None:
    assert written([Write(None, of_bytes(2000)), Write(None, None)], transaction=True, done=False).write == 2 * (2 + 1)


QUEUED = of_bytes(400, openKey="m1#QUEUED", openSince="2026-11-22T07:05")
POSTPONED = of_bytes(500, openKey="m1#QUEUED", openSince="2026-11-22T07:05")
SUBMITTING = of_bytes(400, openKey="m1#SUBMITTING", openSince="2026-11-22T07:06")
SETTLED = of_bytes(400)


@pytest.mark.parametrize(
    ("before", "after", "units"),
    [
        (None, QUEUED, 1),
        (QUEUED, SUBMITTING, 2),
        (SUBMITTING, SETTLED, 1),
        (QUEUED, POSTPONED, 1),
        (QUEUED, QUEUED, 0),
        (SETTLED, SETTLED, 0),
        (None, SETTLED, 0),
    ],
)
def test_a_sparse_index_is_written_as_an_item_enters_changes_and_leaves(
    before: Item | None, after: Item, units: int
) -> None:
    in_transaction = written([Write(before, after, (INDEX,))], transaction=True, done=True)
    assert in_transaction.index_write == units  # it follows afterwards, so it is not doubled


def test_items_got_by_key_are_rounded_up_each_and_a_missing_one_takes_the_least() -> None:
    assert read_each([of_bytes(100), of_bytes(5000)], 3, consistent=True) == Units(read=1 + 2 + 1)


def test_a_page_is_rounded_up_as_a_whole() -> None:
    assert read_together([of_bytes(3000)] * 4, consistent=True) == Units(read=3)
    assert read_together([], consistent=True) == Units(read=1)


def test_a_read_that_need_not_be_consistent_takes_half() -> None:
    assert read_together([of_bytes(5000)], consistent=False) == Units(read=1)
    assert read_each([], 1, consistent=False) == Units(read=0.5)
