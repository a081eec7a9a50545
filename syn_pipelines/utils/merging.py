"""Merging: sentences with their gold (or predicted) entities and what a model said about them.

``Merger.rows`` reads the files of one subset, says all that is wrong with them, and gives the merged sentences.
``bulk_merge`` does the same for many sentences fast, as long as nothing is wrong.
"""

from __future__ import annotations

import os
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field, fields
from pathlib import Path
from typing import Any

from syn_pipelines.utils.fusion import ITEM_KEYS, FusionStats, Items, LabelledSpan, as_entity, columns, extension_spans
from syn_pipelines.utils.jsonl import Problems, read_objects
from syn_pipelines.utils.labels import Labels
from syn_pipelines.utils.packing import plain_path
from syn_pipelines.utils.paths import MODES, RunPaths
from syn_pipelines.utils.records import STATUSES, Record, read_sentences, short
from syn_pipelines.utils.reviews import Reviews
from syn_pipelines.utils.summary import Account, with_reasons


@dataclass
class Merged:
    """What was merged, counted: a file, or a part of one."""

    reviews: Reviews
    fusion: FusionStats = field(default_factory=FusionStats)
    annotated: Counter[str] = field(default_factory=Counter)  # by mode and status
    sentences: int = 0
    gold: int = 0
    predicted: int = 0

    def add(self, part: Mapping[str, Any]) -> None:
        """Add a part, as ``as_json`` gives it."""
        for name in ("sentences", "gold", "predicted"):
            setattr(self, name, getattr(self, name) + part[name])
        self.annotated.update(part["annotated"])
        self.fusion.add(part["fusion"])
        self.reviews.add(part["reviews"])

    def as_json(self) -> dict[str, Any]:
        """All counts as JSON values."""
        return {"sentences": self.sentences, "gold": self.gold, "predicted": self.predicted, "annotated": self.annotated,
                "fusion": {f.name: getattr(self.fusion, f.name) for f in fields(self.fusion)}, "reviews": self.reviews.counted()}

    def accounts(self, which: str) -> list[Account]:
        """Items by mode, and what became of them, at size 1000."""
        result = []
        for mode in MODES:
            unplaced = self.fusion.unplaced.get(mode, Counter())
            if self.fusion.items[mode]:
                result.append(Account(f"{mode} items of the {which} sentences", self.fusion.items[mode], {
                    "placed": self.fusion.placed[mode], "not placed": sum(unplaced.values())}, dict(unplaced)))
        return result

    @property
    def placed(self) -> Counter[str]:
        """Extension spans in the rows, by label."""
        total = Counter(self.fusion.spans)
        total.update(self.reviews.extension)
        return total

    def counts(self) -> dict[str, Any]:
        """For the manifest."""
        stats = self.fusion
        return {"sentences": self.sentences, "gold_entities": self.gold, "predicted_entities": self.predicted,
                "annotations": with_reasons(self.annotated),
                "items": with_reasons(stats.items), "placed": with_reasons(stats.placed),
                "folded": with_reasons(stats.folded),
                "not_placed": {mode: with_reasons(stats.unplaced[mode]) for mode in MODES if mode in stats.unplaced},
                "extension_spans": self.placed.total(), "repeated": stats.repeated, **self.reviews.counts()}


class Merger:
    """Merges sentences one by one; what it does is counted in a ``Merged``."""

    def __init__(self, labels: Labels, dense: bool, reviews: Reviews, *, strict: bool = False) -> None:
        """reviews: what people decided; nothing is counted in it. strict: predicted labels must be target labels."""
        self.labels, self.strict, self._dense, self._reviews = labels, strict, dense, reviews
        self._canonical = {mode: labels.canonical(mode) for mode in MODES}

    def afresh(self) -> Merged:
        """With nothing counted yet."""
        return Merged(self._reviews.afresh())

    def spans(self, tokens: Sequence[str], items: Mapping[str, Items], merged: Merged) -> list[LabelledSpan]:
        """What the items of a sentence add to it."""
        return extension_spans(tokens, items["entity"], items["pos"], dense=self._dense, stats=merged.fusion,
                               entity_label=self._canonical["entity"], pos_label=self._canonical["pos"])

    def rows(self, paths: RunPaths, files: Sequence[Path | None], merged: Merged) -> Iterator[Record]:
        """Sentences with gold (or predicted target) entities first, then the extension entities, as people have left them.

        Args:
            files: sentences, annotations by mode, and target labels or None; those of modes need not be there.
        Raises:
            UserError: after the last sentence, all that is wrong with a file.
        """
        source, entity, pos, target = files
        step = "s3_predict_syn_data" if plain_path(source).stem.endswith("_synthetic") else "s1_predict_data"
        annotations = {mode: Joined(path, f"Make it again with: {paths.command(step, mode=mode)}, then "
                                          f"{paths.command('s4_split_data')}")
                       for mode, path in (("entity", entity), ("pos", pos))}
        predictions = None
        if target:
            predict_again = paths.missing("s7_pred_syn_data")
            for _ in read_sentences(target, targets=self.labels.targets if self.strict else None, may_be_empty=True, again=True,
                                    advice=predict_again):
                pass  # their format; Joined only matches the rows
            predictions = Joined(target, predict_again)
        for sentence in read_sentences(source, targets=self.labels.targets, may_be_empty=True, again=True,
                                       advice=paths.missing("s4_split_data")):
            items = {mode: _items(mode, joined, sentence, merged) for mode, joined in annotations.items()}
            found = sentence["entities"]
            if predictions and (row := predictions.of(sentence, required=True)):
                found = row["entities"]
                merged.predicted += len(found)
            spans = self.spans(sentence["text"], items, merged)
            merged.sentences += 1
            merged.gold += len(sentence["entities"])
            added = [as_entity(sentence["text"], (start, end), label) for start, end, label in spans]
            # Tags cannot say what the extension labels say, so a "label" list would now be wrong.
            entities = merged.reviews.entities(sentence, [*found, *added])
            yield {**{k: v for k, v in sentence.items() if k != "label"}, "entities": entities}
        for joined in (*annotations.values(), *([predictions] if predictions else [])):
            joined.finish()


def _items(mode: str, joined: Joined, sentence: Record, merged: Merged) -> Items:
    row = joined.of(sentence)
    items = items_of(row, mode) if row else ([], [])
    if items is None:
        joined.refuse(f"holds no known 'status' or no list 'items' of objects with the texts {' and '.join(ITEM_KEYS[mode])}.")
        row, items = None, ([], [])
    merged.annotated[f"{mode} {row['status'] if row else 'absent'}"] += 1
    return items


def items_of(row: Record, mode: str) -> Items | None:
    """The items of an annotation; None where it has no known status, or no items with the keys of this mode."""
    if row.get("status") not in STATUSES or not isinstance(row.get("items"), list):
        return None
    try:
        items = surfaces, kinds = columns(row["items"], mode)
    except (KeyError, TypeError):  # no such key, no object
        return None
    return items if {*map(type, surfaces), *map(type, kinds)} <= {str} else None


class Joined:
    """Rows of a file that stand in the order of the sentences, matched by id; a sentence may have none.

    ``finish`` raises what is wrong with them, all of it together.
    """

    def __init__(self, path: Path, advice: str) -> None:
        self._problems = Problems(path, advice)
        self._rows = read_objects(path, self._problems) if os.path.lexists(path) else iter(())
        self._line, self._next = 0, next(self._rows, None)

    def of(self, sentence: Record, *, required: bool = False) -> Record | None:
        """The row of this sentence; that a ``required`` one is not there is noted."""
        if self._next is None or str(self._next[1].get("id")) != sentence["id"]:
            if required and not self._problems.found:  # a broken line is passed over, what follows is as it should be
                self.refuse(f"the row of sentence {sentence['id']!r} should follow here.")
            return None
        (self._line, row), self._next = self._next, next(self._rows, None)
        if row.get("text") != sentence["text"]:
            self.refuse(f"its text is not that of sentence {sentence['id']!r}: it was made from another version of the data.")
            return None
        return row

    def refuse(self, problem: str) -> None:
        """Note what is wrong with the row that ``of`` gave last."""
        self._problems.add(self._line, problem)

    def finish(self) -> None:
        """Every row must have found its sentence, and none been refused. UserError otherwise."""
        self._problems.raise_if_any()
        if self._next is not None:
            line, row = self._next
            self._problems.add(line, f"id {short(row.get('id'))} is not among the sentences of this subset, or out of their order.")
            self._problems.raise_if_any()
