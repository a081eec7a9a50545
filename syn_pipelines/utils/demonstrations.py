"""Demonstrations for the prompts: gold sentences of the smallest subset, so that no larger part of the gold data is used.

Which ones is a pure function of the ids of the training sentences and --seed. All sentences are shown the same ones, as
far as they can be: a sentence is never its own demonstration, nor is another one with its text.
"""

from __future__ import annotations

import json
from array import array
from collections import deque
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from itertools import islice
from operator import itemgetter

from syn_pipelines.utils.compact import IdMap
from syn_pipelines.utils.errors import UserError
from syn_pipelines.utils.inventories import TargetName
from syn_pipelines.utils.language import Language
from syn_pipelines.utils.paths import SIZES
from syn_pipelines.utils.records import Record
from syn_pipelines.utils.subsets import place_of

WITHOUT_EACH = 4  # every fourth demonstration is a sentence without entities, so that "nothing here" is shown as well
MAX_TOKENS = 200  # a longer sentence of the data would make every prompt long
KEPT = 100  # at most so many of a kind are looked at, however large the subset; more where more are asked for


@dataclass(frozen=True)
class Demonstration:
    """A sentence with its answer. ``names``: the types in the answer."""

    id: str
    text: str
    answer: str
    names: tuple[str, ...]


@dataclass(frozen=True)
class Demonstrations:
    """Those that sentences are shown, in order of preference, and some more: ``number`` of them to each sentence."""

    ordered: tuple[Demonstration, ...] = ()
    number: int = 0

    def about(self, identity: str, text: str) -> list[tuple[str, str]]:
        """(text, answer) of those shown to a sentence: the first ones, without the sentence itself."""
        key = _key(text)
        others = (shot for shot in self.ordered if shot.id != identity and _key(shot.text) != key)
        return [(shot.text, shot.answer) for shot in islice(others, self.number)]

    @property
    def shown(self) -> tuple[Demonstration, ...]:
        """All that any sentence can be shown: one may be left out for its id and one for its text."""
        return self.ordered[:self.number + 2] if self.number else ()


def demonstrations(sentences: Iterable[Record], number: int, language: Language, names: Mapping[str, TargetName], *,
                   seed: int) -> Demonstrations:
    """Choose ``number`` demonstrations from the smallest subset of these training sentences.

    sentences: can be iterated over several times; in memory is a number for each, for a moment, and no text.
    names: what the prompts call the target labels; a label without a name stands as it is.
    Raises:
        UserError: the subset does not hold as many different sentences that can be shown (says how many).
    """
    share = min(SIZES.values())
    last = _last_place(sentences, share, seed)
    first_of = IdMap(wide=True)  # texts: the place of the first sentence that has it
    for place, key, _ in _usable(sentences, last, language, seed):
        if (first := first_of.get(key)) is None or place < first:
            first_of[key] = place
    if number > len(first_of):
        raise UserError(f"--shots={number}: the smallest subset ({share:.0%} of the training sentences) holds "
                        f"{len(first_of)} different sentences that can be shown. Use --shots={len(first_of)} or fewer.")
    full, empty = _Smallest(max(KEPT, number + 2)), _Smallest(max(KEPT, number + 2))
    for place, key, sentence in _usable(sentences, last, language, seed):
        if first_of.get(key) == place:
            (full if sentence["entities"] else empty).add(place, sentence)
    return Demonstrations(tuple(_demonstration(s, language, names) for s in _mixed(full.items(), empty.items())), number)


def _place(identity: str, seed: int) -> int:
    """64 bits of the hash that orders the subsets: of a million ids, hardly ever two have the same."""
    return int.from_bytes(place_of(identity, seed=seed)[:8], "big")


def _last_place(sentences: Iterable[Record], share: float, seed: int) -> int:
    """The place of the last sentence of a subset (see ``nested_subsets``)."""
    places = array("Q", (_place(sentence["id"], seed) for sentence in sentences))
    if not places:
        return 0
    return sorted(places)[max(1, round(len(places) * share)) - 1]


def _usable(sentences: Iterable[Record], last: int, language: Language, seed: int) -> Iterator[tuple[int, str, Record]]:
    """(place, key of the text, sentence) of those of the subset that can be shown."""
    for sentence in sentences:
        place = _place(sentence["id"], seed)
        if place <= last and _is_usable(sentence, language):
            yield place, _key(language.join(sentence["text"])), sentence


class _Smallest:
    """The sentences with the smallest places of those added."""

    def __init__(self, most: int) -> None:
        self._most, self._items = most, []

    def add(self, place: int, sentence: Record) -> None:
        self._items.append((place, sentence))
        if len(self._items) > 2 * self._most:
            self._cut()

    def items(self) -> list[Record]:
        """In the order of their places."""
        self._cut()
        return [sentence for _, sentence in self._items]

    def _cut(self) -> None:
        self._items.sort(key=itemgetter(0))
        del self._items[self._most:]


def _is_usable(sentence: Record, language: Language) -> bool:
    """Whether the sentence is of a usual length and each of its entities could be an answer."""
    surfaces = [language.join(sentence["text"][e["start"]:e["end"]]) for e in sentence["entities"]]
    return (len(sentence["text"]) <= MAX_TOKENS and bool(language.join(sentence["text"]).strip())
            and all(surface == surface.strip() != "" for surface in surfaces))


def _key(text: str) -> str:
    """Texts with the same key count as the same sentence."""
    return "".join(text.split()).casefold()


def _demonstration(sentence: Record, language: Language, names: Mapping[str, TargetName]) -> Demonstration:
    tokens = sentence["text"]
    found = dict.fromkeys((language.join(tokens[e["start"]:e["end"]]), _name(e["entity"], names))
                          for e in sorted(sentence["entities"], key=lambda e: (e["start"], -e["end"])))
    answer = json.dumps([{"entity": surface, "type": name} for surface, name in found], ensure_ascii=False)
    return Demonstration(sentence["id"], language.join(tokens), answer, tuple(dict.fromkeys(name for _, name in found)))


def _name(label: str, names: Mapping[str, TargetName]) -> str:
    return names[label].name if label in names else label


def _mixed(full: Iterable[Record], empty: Iterable[Record]) -> Iterator[Record]:
    """Each in its order, those without entities at every fourth place, for as long as there are both."""
    full, empty = deque(full), deque(empty)
    place = 0
    while full or empty:
        place += 1
        yield (empty if empty and (place % WITHOUT_EACH == 0 or not full) else full).popleft()
