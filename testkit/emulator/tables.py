"""DynamoDB's tables and sparse indexes, and the checks of keys."""

from __future__ import annotations

from collections.abc import Callable, Mapping

from testkit.emulator.clients import invalid
from testkit.emulator.values import MAX_KEY_BYTES, Item, stored

type Key = tuple[str, str]  # partition key, sort key
type Position = tuple[str, ...]  # of an item in its table or index: (pk, sk) or (hash, range, pk, sk)


class Index:
    """A sparse index: the items that have both of its attributes, those of one hash key together."""

    def __init__(self, hash_attribute: str, range_attribute: str) -> None:
        self._hash = hash_attribute
        self._range = range_attribute
        self.attributes = (hash_attribute, range_attribute, "pk", "sk")  # what a position is made of
        self.groups: dict[str, dict[Position, Item]] = {}
        self._in_order: list[Position] | None = None  # all positions; None: not known

    def changed(self) -> None:
        """An item came, went or moved."""
        self._in_order = None

    def in_order(self) -> list[Position]:
        if self._in_order is None:
            self._in_order = sorted(position for group in self.groups.values() for position in group)
        return self._in_order

    def position(self, item: Item, key: Key) -> Position | None:
        one = item.get(self._hash)
        other = item.get(self._range)
        return None if one is None or other is None else (one["S"], other["S"], *key)


class Table:
    def __init__(self, name: str, indexes: Mapping[str, tuple[str, str]]) -> None:
        self.name = name
        self.partitions: dict[str, dict[str, Item]] = {}
        self.indexes = {index: Index(*attributes) for index, attributes in indexes.items()}
        self._index_attributes = tuple({name for attributes in indexes.values() for name in attributes})

    def get(self, key: Key) -> Item | None:
        partition = self.partitions.get(key[0])
        return partition.get(key[1]) if partition else None

    def write(self, key: Key, item: Item | None) -> None:
        """None: it is gone, as it was before it was first written."""
        partition = self.partitions.setdefault(key[0], {})
        before = partition.pop(key[1], None) if item is None else partition.get(key[1])
        if item is not None:
            partition[key[1]] = item
        for index in self.indexes.values():
            old = index.position(before, key) if before is not None else None
            new = index.position(item, key) if item is not None else None
            if old != new:
                index.changed()
            if old and old != new:
                group = index.groups[old[0]]
                del group[old]
                if not group:
                    del index.groups[old[0]]
            if new and item is not None:
                index.groups.setdefault(new[0], {})[new] = item

    def savepoint(self) -> Callable[[], None]:
        partitions = _copied(self.partitions)
        groups = [(index, _copied(index.groups)) for index in self.indexes.values()]

        def rollback() -> None:
            self.partitions = _copied(partitions)
            for index, copied in groups:
                index.groups = _copied(copied)
                index.changed()

        return rollback

    def checked_item(self, item: Item) -> tuple[Item, Key]:
        """The item as it is stored, and its key."""
        key = _key_of(item, "One or more parameter values were invalid: Missing the key {} in the item")
        self.check_index_keys(item)
        return stored(item), key

    def check_index_keys(self, item: Item) -> None:
        for name in self._index_attributes:
            value = item.get(name)
            if value is not None and not value.get("S"):
                raise invalid(
                    "One or more parameter values are not valid. A value specified for a secondary index key is not "
                    f"supported: a non-empty string is expected. IndexKey: {name}"
                )


def _copied[K, P](groups: Mapping[str, dict[K, P]]) -> dict[str, dict[K, P]]:
    return {name: dict(group) for name, group in groups.items()}


def checked_key(attributes: Item) -> Key:
    if len(attributes) != 2:
        raise invalid("The provided key element does not match the schema")
    return _key_of(attributes, "The provided key element does not match the schema")


def _key_of(attributes: Item, missing: str) -> Key:
    try:
        pk, sk = attributes["pk"]["S"], attributes["sk"]["S"]
    except KeyError as error:
        if error.args == ("S",):
            raise invalid("One or more parameter values were invalid: Type mismatch for key, expected: S") from None
        raise invalid(missing.format(error.args[0])) from None
    if not pk or not sk:
        raise invalid(
            "One or more parameter values are not valid. The AttributeValue for a key attribute cannot contain an "
            "empty string value"
        )
    for name, text in (("pk", pk), ("sk", sk)):
        if len(text) * 4 > MAX_KEY_BYTES[name] and len(text.encode()) > MAX_KEY_BYTES[name]:
            raise invalid(f"Size of {name} has exceeded the maximum size limit of {MAX_KEY_BYTES[name]} bytes")
    return pk, sk
