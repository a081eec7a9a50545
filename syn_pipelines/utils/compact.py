"""A map from ids to whole numbers that stays small with millions of them."""

from __future__ import annotations

from array import array

_PARTS = 64  # grown one at a time, so that growing never holds the map twice
_FULL, _GROWTH = 0.8, 1.4  # share of used slots at which a part grows, and by how much


class IdMap:
    """Id -> whole number from 0, in at most 21 bytes an id (``wide``: 28, ``narrow``: 16), where a dict takes 150.

    Not the ids are kept but 64 bits of their hash: of ten million ids two are taken for one another with a probability
    of 3 in a million. Numbers are below 2 ** 32, ``wide`` ones below 2 ** 64, ``narrow`` ones below 2 ** 8. Nothing can be
    taken out.

    >>> places = IdMap()
    >>> places["17"] = 0
    >>> "17" in places, places.get("18")
    (True, None)
    """

    def __init__(self, *, wide: bool = False, narrow: bool = False) -> None:
        self._type = "Q" if wide else "B" if narrow else "I"
        self._keys = [array("Q", bytes(64)) for _ in range(_PARTS)]  # 0: a free slot
        self._values = [array(self._type, bytes(8 * array(self._type).itemsize)) for _ in range(_PARTS)]
        self._used = [0] * _PARTS

    def __len__(self) -> int:
        return sum(self._used)

    def get(self, identity: str) -> int | None:
        """The number of an id, None where it has none."""
        key = hash(identity) & 0xFFFFFFFFFFFFFFFF or 1
        part = key % _PARTS
        keys = self._keys[part]
        size = len(keys)
        slot = (key // _PARTS) % size
        while found := keys[slot]:
            if found == key:
                return self._values[part][slot]
            slot = slot + 1 if slot + 1 < size else 0
        return None

    def __contains__(self, identity: object) -> bool:
        return self.get(identity) is not None

    def __setitem__(self, identity: str, value: int) -> None:
        key = hash(identity) & 0xFFFFFFFFFFFFFFFF or 1
        part = key % _PARTS
        if self._used[part] >= _FULL * len(self._keys[part]):
            self._grow(part)
        self._used[part] += _put(self._keys[part], self._values[part], key, value)

    def setdefault(self, identity: str, value: int) -> int | None:
        """Give an id its number, unless it has one: then that is what comes back."""
        known = self.get(identity)
        if known is None:
            self[identity] = value
        return known

    def _grow(self, part: int) -> None:
        old_keys, old_values = self._keys[part], self._values[part]
        size = int(len(old_keys) * _GROWTH) + 1
        keys, values = array("Q", bytes(8 * size)), array(self._type, bytes(old_values.itemsize * size))
        for key, value in zip(old_keys, old_values):
            if key:
                _put(keys, values, key, value)
        self._keys[part], self._values[part] = keys, values


def _put(keys: array, values: array, key: int, value: int) -> bool:
    """Store a pair in its slot or the next free one; whether the key is new."""
    size = len(keys)
    slot = (key // _PARTS) % size
    while (found := keys[slot]) and found != key:
        slot = slot + 1 if slot + 1 < size else 0
    keys[slot], values[slot] = key, value
    return not found
