"""Fusion: turn what a language model said about a sentence into extension spans beside the gold ones.

Gold entities are never touched: this module only says which spans to add.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from operator import itemgetter
from typing import Any

from syn_pipelines.utils.spans import EXACT, FOLDED, Grounder, TokenSpan, unescaped

Items = tuple[Sequence[str], Sequence[str]]  # what a model said of a sentence, in order: surfaces, and the raw type of each
Canonical = Callable[[object], tuple[str, bool]]  # raw type -> (label, whether the raw type is known)
LabelledSpan = tuple[int, int, str]

ITEM_KEYS = {"entity": ("entity", "type"), "pos": ("word", "pos")}  # of an item, by mode: its surface, its raw type


def columns(items: Sequence[Mapping[str, Any]], mode: str) -> Items:
    """Items as in a file, ``{"entity": surface, "type": raw type}`` or ``{"word": surface, "pos": raw tag}``, as ``Items``."""
    surface, kind = map(itemgetter, ITEM_KEYS[mode])
    return [*map(surface, items)], [*map(kind, items)]


@dataclass
class FusionStats:
    """Counts over many sentences. For each mode: items = placed + those not placed, by reason."""

    items: Counter[str] = field(default_factory=Counter)  # by mode
    placed: Counter[str] = field(default_factory=Counter)  # by mode
    folded: Counter[str] = field(default_factory=Counter)  # by mode, of the placed ones
    unplaced: dict[str, Counter[str]] = field(default_factory=dict)  # by mode and reason
    unmapped: dict[str, Counter[str]] = field(default_factory=dict)  # by mode and raw type
    spans: Counter[str] = field(default_factory=Counter)  # added, by label
    repeated: int = 0  # spans found again with the same label

    def note(self, mode: str, hows: Sequence[str]) -> None:
        """Count items by what became of each."""
        for how in dict.fromkeys(hows):
            count = hows.count(how)
            self.items[mode] += count
            if how in (EXACT, FOLDED):
                self.placed[mode] += count
                self.folded[mode] += count * (how == FOLDED)
            else:
                self.unplaced.setdefault(mode, Counter())[how] += count

    def add(self, other: Mapping[str, Any]) -> None:
        """Add other counts, by the names of these."""
        for name in ("items", "placed", "folded", "spans"):
            getattr(self, name).update(other[name])
        for name in ("unplaced", "unmapped"):
            for mode, counts in other[name].items():
                getattr(self, name).setdefault(mode, Counter()).update(counts)
        self.repeated += other["repeated"]

    def labels(self, mode: str, raws: Sequence[str], canonical: Canonical) -> Sequence[str]:
        """Canonical labels of raw types; unknown ones are counted."""
        if not raws:
            return []
        meant = [*map(unescaped, raws)] if "\\" in "".join(raws) else raws
        labels, known = zip(*map(canonical, meant))
        if not all(known):
            self.unmapped.setdefault(mode, Counter()).update([raw for raw, fine in zip(raws, known) if not fine])
        return labels


def extension_spans(tokens: Sequence[str], entity_items: Items, pos_items: Items, *, entity_label: Canonical,
                    pos_label: Canonical, dense: bool, stats: FusionStats) -> list[LabelledSpan]:
    """Spans that a model's items add to a sentence.

    Entity items stand for every occurrence on token boundaries, nested ones included. POS items are aligned in order,
    each to its own position. Same span and label: once. Same span, other label: kept.

    Args:
        entity_items, pos_items: see ``columns``. stats: is added to.
    Returns:
        half-open (start, end, label) token spans: those of entities, then those of words, each sorted.
    """
    surfaces, raws = entity_items
    if not surfaces and not pos_items[0]:
        return []
    grounder = Grounder(tokens, dense)
    found = [*map(grounder.find, surfaces)]
    stats.note("entity", [how for _, how in found])
    types = stats.labels("entity", [raw for raw, (spans, _) in zip(raws, found) if spans], entity_label)
    places = [spans for spans, _ in found if spans]
    entities = [(start, end, label) for spans, label in zip(places, types) for start, end in spans]
    words, tags = _words(grounder, pos_items, pos_label, stats)
    unique = [*dict.fromkeys(sorted(entities))]
    stats.repeated += len(entities) - len(unique)
    if not {*tags}.isdisjoint(types):  # a word, too, may have been said to be an entity
        seen, every = {*unique}, words
        words = [word for word in every if word not in seen]
        tags = [tag for _, _, tag in words]
        stats.repeated += len(every) - len(words)
    stats.spans.update([label for _, _, label in unique])
    stats.spans.update(tags)
    return unique + words


def _words(grounder: Grounder, items: Items, canonical: Canonical, stats: FusionStats) -> tuple[list[LabelledSpan], Sequence[str]]:
    """The places of the words of a sentence, in order and once each, and their labels again."""
    words, raws = items
    if (ends := grounder.ends_in_order(words)) is not None:  # the words are the sentence, as they are nearly always
        stats.note("pos", [EXACT] * len(words))
        labels = stats.labels("pos", raws, canonical)
        return [*zip([0, *ends], ends, labels)], labels
    placed = grounder.align(words)
    stats.note("pos", [how for _, how in placed])
    found = [(raw, span) for raw, (span, _) in zip(raws, placed) if span]
    labels = stats.labels("pos", [raw for raw, _ in found], canonical)
    return [(start, end, label) for (_, (start, end)), label in zip(found, labels)], labels


def as_entity(tokens: Sequence[str], span: TokenSpan, label: str) -> dict[str, Any]:
    """An entity record of a data file."""
    start, end = span
    return {"start": start, "end": end, "entity": label, "text": list(tokens[start:end])}


def label_file(targets: Iterable[str], counts: Mapping[str, int]) -> dict[str, dict[str, Any]]:
    """``{"<label>": {"idx", "count", "is_target"}}``: O, the targets in their order, extension labels by name.

    Args:
        targets: target labels without O. counts: spans by extension label; those with none are left out.
    """
    rows = [("O", -1, True), *((label, -1, True) for label in targets),
            *((label, counts[label], False) for label in sorted(counts) if counts[label] > 0)]
    return {label: {"idx": i, "count": count, "is_target": target} for i, (label, count, target) in enumerate(rows)}
