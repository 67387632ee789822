"""The request units that DynamoDB charges for a call, by the rules of its developer guide.

    an item          the bytes of its names and its values; a number takes about a byte for two digits, and one more;
                     a map takes three bytes, one for each entry, and its names and values
    a write          1 unit for each KB of the item before or after, whichever is larger, rounded up
    in a transaction twice as many: one to prepare the write, one to commit it
    a sparse index   one write when an item enters or leaves it, two when its index key changes, none for an item
                     that is not in it; not doubled by a transaction, because the index is updated later
    a read           1 unit for each 4 KB, rounded up: by item in a batch, for all items together in a query or scan;
                     half of that when eventually consistent; one unit, or half, when nothing is found

A write that fails its condition is charged for the existing item, or 1 unit. The guide does not say what a cancelled
transaction costs; it is charged here like a successful one, an upper bound.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from math import ceil
from typing import Any

Item = Mapping[str, Mapping[str, Any]]  # in the low-level client's form: {"status": {"S": "QUEUED"}}
Index = tuple[str, str]  # its hash and range attributes; all others are projected, as in template.yaml

WRITE_UNIT_BYTES = 1024
READ_UNIT_BYTES = 4096
# The page size limit of a query or scan.
PAGE_BYTES = 1024 * 1024


@dataclass(frozen=True)
class Units:
    """Request units, in which an on-demand table is billed."""

    write: float = 0
    index_write: float = 0
    read: float = 0

    def __add__(self, other: Units) -> Units:
        return Units(self.write + other.write, self.index_write + other.index_write, self.read + other.read)


NO_UNITS = Units()


@dataclass(frozen=True)
class Write:
    """One item of a write; `after` also if the write failed."""

    before: Item | None
    after: Item | None
    indexes: tuple[Index, ...] = ()


def item_bytes(item: Item) -> int:
    return sum(len(name.encode()) + _value_bytes(value) for name, value in item.items())


def written_units(writes: Iterable[Write], *, transaction: bool, done: bool) -> Units:
    factor = 2 if transaction else 1
    units = NO_UNITS
    for write in writes:
        items = [item for item in (write.before, write.after if done or transaction else None) if item is not None]
        units += Units(write=factor * max((_write_units(item) for item in items), default=1))
        if done:
            units += Units(index_write=sum(_index_writes(write, index) for index in write.indexes))
    return units


def get_units(items: Iterable[Item], asked: int, *, consistent: bool) -> Units:
    """Items read by key, of `asked` keys."""
    found = [_read_units(item_bytes(item)) for item in items]
    return _read(sum(found) + asked - len(found), consistent=consistent)


def page_units(items: Iterable[Item], *, consistent: bool) -> Units:
    """One page of a query or scan."""
    return _read(_read_units(sum(item_bytes(item) for item in items)), consistent=consistent)


def _value_bytes(value: Mapping[str, Any]) -> int:
    ((kind, content),) = value.items()
    match kind:
        case "S":
            return len(content.encode())
        case "N":
            digits = content.lstrip("-").replace(".", "").strip("0")
            return ceil(len(digits) / 2) + 1
        case "BOOL":
            return 1
        case "M":
            return 3 + len(content) + item_bytes(content)
    raise NotImplementedError(f"attribute type {kind}")


def _write_units(item: Item) -> int:
    return max(1, ceil(item_bytes(item) / WRITE_UNIT_BYTES))


def _read_units(size: int) -> int:
    return max(1, ceil(size / READ_UNIT_BYTES))


def _read(units: int, *, consistent: bool) -> Units:
    return Units(read=units if consistent else units / 2)


def _index_writes(write: Write, index: Index) -> int:
    before, after = _index_key(write.before, index), _index_key(write.after, index)
    if before == after:
        if before is None or write.before == write.after:
            return 0
        assert write.before is not None
        assert write.after is not None
        return max(_write_units(write.before), _write_units(write.after))
    removed = _write_units(write.before) if before and write.before else 0
    added = _write_units(write.after) if after and write.after else 0
    return removed + added


def _index_key(item: Item | None, index: Index) -> tuple[Any, ...] | None:
    """None: the item is not in the index."""
    if item is None or not all(attribute in item for attribute in index):
        return None
    return tuple(item[attribute] for attribute in index)
