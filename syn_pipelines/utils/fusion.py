"""Fusion: turn what a language model said about a sentence into extension spans beside the gold ones.

Gold entities are never touched: this module only says which spans to add.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from syn_pipelines.utils.spans import EXACT, FOLDED, Grounder, TokenSpan, unescaped

Items = Sequence[Mapping[str, str]]
Canonical = Callable[[object], tuple[str, bool]]  # raw type -> (label, whether the raw type is known)
LabelledSpan = tuple[int, int, str]

ITEM_KEYS = {"entity": ("entity", "type"), "pos": ("word", "pos")}  # of an item, by mode: its surface, its raw type


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

    def note(self, mode: str, how: str) -> None:
        """Count one item by what became of it."""
        self.items[mode] += 1
        if how in (EXACT, FOLDED):
            self.placed[mode] += 1
            self.folded[mode] += how == FOLDED
        else:
            self.unplaced.setdefault(mode, Counter())[how] += 1

    def label(self, mode: str, raw: str, canonical: Canonical) -> str:
        """Canonical label of a raw type; unknown ones are counted."""
        label, known = canonical(unescaped(raw))
        if not known:
            self.unmapped.setdefault(mode, Counter())[raw] += 1
        return label


def extension_spans(tokens: Sequence[str], entity_items: Items, pos_items: Items, *, entity_label: Canonical,
                    pos_label: Canonical, dense: bool, stats: FusionStats) -> list[LabelledSpan]:
    """Spans that a model's items add to a sentence.

    Entity items stand for every occurrence on token boundaries, nested ones included. POS items are aligned in order,
    each to its own position. Same span and label: once. Same span, other label: kept.

    Args:
        entity_items: ``[{"entity": surface, "type": raw type}]``; pos_items: ``[{"word": surface, "pos": raw tag}]``.
        stats: is added to.
    Returns:
        half-open (start, end, label) token spans: those of entities, then those of words, each sorted.
    """
    if not entity_items and not pos_items:
        return []
    grounder = Grounder(tokens, dense)
    entities: list[LabelledSpan] = []
    for item in entity_items:
        spans, how = grounder.find(item["entity"])
        stats.note("entity", how)
        if spans:
            label = stats.label("entity", item["type"], entity_label)
            entities += [(*span, label) for span in spans]
    words: list[LabelledSpan] = []
    for item, (span, how) in zip(pos_items, grounder.align([item["word"] for item in pos_items])):
        stats.note("pos", how)
        if span:
            words.append((*span, stats.label("pos", item["pos"], pos_label)))
    unique = list(dict.fromkeys(sorted(entities) + sorted(words)))
    stats.repeated += len(entities) + len(words) - len(unique)
    stats.spans.update(label for _, _, label in unique)
    return unique


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
