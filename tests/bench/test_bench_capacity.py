"""Request units are counted by the rules of the DynamoDB developer guide."""

from __future__ import annotations

import pytest

from bench.capacity import Index, Item, Units, Write, get_units, item_bytes, page_units, written_units

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
        ({"M": {}}, 3),
        ({"M": {"by": {"S": "till"}, "of": {"M": {}}}}, 3 + 1 + 6 + 1 + 5),
    ],
)
def test_attribute_size_is_that_of_its_name_and_value(value: dict[str, object], size: int) -> None:
    assert item_bytes({"amount": value}) == len("amount") + size


def test_attribute_of_an_unsupported_type_is_refused() -> None:
    with pytest.raises(NotImplementedError):
        item_bytes({"tags": {"L": []}})


@pytest.mark.parametrize(("size", "units"), [(100, 1), (1024, 1), (1025, 2), (2049, 3)])
def test_write_takes_one_unit_per_started_kilobyte(size: int, units: int) -> None:
    assert written_units([Write(None, of_bytes(size))], transaction=False, done=True) == Units(write=units)


def test_write_is_charged_for_the_larger_of_old_and_new_item() -> None:
    shrunk = Write(of_bytes(3000), of_bytes(100))
    assert written_units([shrunk], transaction=False, done=True).write == 3


def test_transaction_doubles_the_units_after_rounding_up() -> None:
    writes = [Write(None, of_bytes(1100)), Write(of_bytes(500), of_bytes(500))]
    assert written_units(writes, transaction=True, done=True).write == 2 * (2 + 1)


def test_failed_write_is_charged_for_the_existing_item_only() -> None:
    there = of_bytes(2000)
    wanted = of_bytes(100, openKey="m1#QUEUED", openSince="2026")
    assert written_units([Write(there, wanted, (INDEX,))], transaction=False, done=False) == Units(write=2)
    assert written_units([Write(None, wanted, (INDEX,))], transaction=False, done=False) == Units(write=1)


def test_cancelled_transaction_is_charged_like_a_successful_one() -> None:
    assert written_units([Write(None, of_bytes(2000)), Write(None, None)], transaction=True, done=False).write == 2 * (
        2 + 1
    )


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
def test_sparse_index_is_written_when_an_item_enters_or_leaves(before: Item | None, after: Item, units: int) -> None:
    in_transaction = written_units([Write(before, after, (INDEX,))], transaction=True, done=True)
    assert in_transaction.index_write == units  # a transaction does not double it


def test_items_read_by_key_are_rounded_up_one_by_one() -> None:
    assert get_units([of_bytes(100), of_bytes(5000)], 3, consistent=True) == Units(read=1 + 2 + 1)


def test_page_is_rounded_up_as_a_whole() -> None:
    assert page_units([of_bytes(3000)] * 4, consistent=True) == Units(read=3)
    assert page_units([], consistent=True) == Units(read=1)


def test_eventually_consistent_read_takes_half() -> None:
    assert page_units([of_bytes(5000)], consistent=False) == Units(read=1)
    assert get_units([], 1, consistent=False) == Units(read=0.5)
