"""Demonstrations for the prompts: gold sentences of the smallest subset, so that no larger part of the gold data is used.

Which ones is a pure function of the ids of the training sentences and --seed. All sentences are shown the same ones, as
far as they can be: a sentence is never its own demonstration, nor is another one with its text.
"""

from __future__ import annotations

import json
from collections import deque
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import islice

from syn_pipelines.utils.errors import UserError
from syn_pipelines.utils.inventories import TargetName
from syn_pipelines.utils.language import Language
from syn_pipelines.utils.paths import SIZES
from syn_pipelines.utils.records import Record
from syn_pipelines.utils.subsets import in_order, nested_subsets

WITHOUT_EACH = 4  # every fourth demonstration is a sentence without entities, so that "nothing here" is shown as well
MAX_TOKENS = 200  # a longer sentence of the data would make every prompt long


@dataclass(frozen=True)
class Demonstration:
    """A sentence with its answer. ``names``: the types in the answer."""

    id: str
    text: str
    answer: str
    names: tuple[str, ...]


@dataclass(frozen=True)
class Demonstrations:
    """Those that sentences are shown, in order of preference: ``number`` of them to each sentence."""

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


def demonstrations(sentences: Sequence[Record], number: int, language: Language, names: Mapping[str, TargetName], *,
                   seed: int) -> Demonstrations:
    """Choose ``number`` demonstrations from the smallest subset of these training sentences.

    names: what the prompts call the target labels; a label without a name stands as it is.
    Raises:
        UserError: the subset does not hold as many different sentences that can be shown (says how many).
    """
    share = min(SIZES.values())
    subset = nested_subsets([s["id"] for s in sentences], [share], seed=seed)[share]
    by_id = {s["id"]: s for s in sentences if s["id"] in subset}
    usable = [by_id[identity] for identity in in_order(list(by_id), seed=seed) if _is_usable(by_id[identity], language)]
    ordered = tuple(_mixed(_demonstration(s, language, names) for s in _without_repeats(usable, language)))
    if number > len(ordered):
        raise UserError(f"--shots={number}: the smallest subset ({share:.0%} of the training sentences) holds "
                        f"{len(ordered)} different sentences that can be shown. Use --shots={len(ordered)} or fewer.")
    return Demonstrations(ordered, number)


def _is_usable(sentence: Record, language: Language) -> bool:
    """Whether the sentence is of a usual length and each of its entities could be an answer."""
    surfaces = [language.join(sentence["text"][e["start"]:e["end"]]) for e in sentence["entities"]]
    return (len(sentence["text"]) <= MAX_TOKENS and bool(language.join(sentence["text"]).strip())
            and all(surface == surface.strip() != "" for surface in surfaces))


def _without_repeats(sentences: Iterable[Record], language: Language) -> Iterator[Record]:
    seen = set()
    for sentence in sentences:
        key = _key(language.join(sentence["text"]))
        if key not in seen:
            seen.add(key)
            yield sentence


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


def _mixed(shots: Iterable[Demonstration]) -> Iterator[Demonstration]:
    """Each in its order, those without entities at every fourth place, for as long as there are both."""
    full: deque[Demonstration] = deque()
    empty: deque[Demonstration] = deque()
    for shot in shots:
        (full if shot.names else empty).append(shot)
    place = 0
    while full or empty:
        place += 1
        yield (empty if empty and (place % WITHOUT_EACH == 0 or not full) else full).popleft()
