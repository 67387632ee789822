"""What DynamoDB charges for a call, told from the call and the items it meets, by the rules of its developer's guide.

    an item          the bytes of its names and its values; a number takes about a byte for two digits, and one more;
                     a map takes three bytes, one for each entry, and its names and values
    a write          1 unit for each KB of the item as it was or as it becomes, whichever is larger, rounded up
    in a transaction twice as much: one write prepares it, one commits it
    a sparse index   a write as an item enters it or leaves it, two where its key changes, none where it is not in it;
                     it follows the table afterwards, so a transaction does not double it
    a read           1 unit for each 4 KB, rounded up: of each item in a batch, of all items together in a query or a
                     scan; half where it need not be consistent; the least where nothing is found

A write that is refused is charged as the item that is there, or 1 unit. The guide does not say what a cancelled
transaction costs; it is charged here as if it had been done, which is the most it can be.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from math import ceil
from typing import Any

Item = Mapping[str, Mapping[str, Any]]  # in the low-level client's form: {"status": {"S": "QUEUED"}}
Index = tuple[str, str]  # its hash and its range attribute; all others are projected, as in template.yaml

WRITE_UNIT_BYTES = 1024
READ_UNIT_BYTES = 4096
# Where a page of a query or a scan ends.
PAGE_BYTES = 1024 * 1024


@dataclass(frozen=True)
class Units:
    """Request units (what an on-demand table is billed in); as many capacity units, where they fall in one second."""

    write: float = 0
    index_write: float = 0
    read: float = 0

    def __add__(self, other: Units) -> Units:
        return Units(self.write + other.write, self.index_write + other.index_write, self.read + other.read)


NO_UNITS = Units()


@dataclass(frozen=True)
class Write:
    """One item of a write. `after`: what it becomes, or would have become."""

    before: Item | None
    after: Item | None
    indexes: tuple[Index, ...] = ()


def item_bytes(item: Item) -> int:
    return sum(len(name.encode()) + _value_bytes(value) for name, value in item.items())


def written(writes: Iterable[Write], *, transaction: bool, done: bool) -> Units:
    factor = 2 if transaction else 1
    units = NO_UNITS
    for write in writes:
        met = [item for item in (write.before, write.after if done or transaction else None) if item is not None]
        units += Units(write=factor * max((_write_units(item) for item in met), default=1))
        if done:
            units += Units(index_write=sum(_index_writes(write, index) for index in write.indexes))
    return units


def read_each(items: Iterable[Item], asked: int, *, consistent: bool) -> Units:
    """Items got by their keys, `asked` keys in all."""
    found = [_read_units(item_bytes(item)) for item in items]
    return _read(sum(found) + asked - len(found), consistent=consistent)


def read_together(items: Iterable[Item], *, consistent: bool) -> Units:
    """A page of a query or a scan."""
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
    raise NotImplementedError(f"an attribute of the type {kind}")


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
