"""Step 5: bring the model's labels onto one label set, find them in the tokens, and merge them with the gold labels.

Gold labels are never changed, moved or dropped, unless a person has and --apply_gold_review is given. Extension labels come
from --entity_label and --pos_label (canonical name: aliases); what could not be placed or mapped is counted, and
unmapped_labels.json holds the line to add. What people decided in a review is applied last, and counted.

reads   <save_type_name>/{250,500,1000}/ as cut by step 4, labels.txt, the two label maps; review.jsonl and
        gold_corrections.jsonl where they are
writes  n/train_n_fusion.jsonl and label_fusion.json (--is_syn 0); n/train_n_synthetic_fusion.jsonl and
        label_synthetic_fusion.json (--is_syn 1; with the target labels of step 7 where they exist);
        unmapped_labels.json
run     python syn_pipelines/s5_merge_data.py --file_name=weibo --save_type_name=GLM4 --is_syn=0
"""

from __future__ import annotations

import json
import os
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import Any

from syn_pipelines.utils.decisions import GOLD
from syn_pipelines.utils.errors import UserError
from syn_pipelines.utils.fusion import ITEM_KEYS, Canonical, FusionStats, as_entity, extension_spans, label_file
from syn_pipelines.utils.journal import lock
from syn_pipelines.utils.jsonl import Problems, file_hash, read_json, read_objects, write_json, write_jsonl
from syn_pipelines.utils.labels import AliasMap, check_maps, clashes, read_target_labels
from syn_pipelines.utils.language import Language, language_of
from syn_pipelines.utils.manifest import Publisher, is_current, read_manifest, warn_of_stale
from syn_pipelines.utils.options import PROJECT_ROOT, TextOptions, blankless, command_of, load_options, option
from syn_pipelines.utils.packing import plain_path
from syn_pipelines.utils.paths import MODES, SIZES, RunPaths
from syn_pipelines.utils.records import STATUSES, Record, read_sentences, read_train, short
from syn_pipelines.utils.reviews import Reviews, accounts_of, review_files
from syn_pipelines.utils.summary import Account, Summary, run_script, step_log, with_reasons

STEP = "s5_merge_data"
KNOWLEDGE = PROJECT_ROOT / "data" / "fusion_knowledge"


@dataclass(frozen=True)
class Options(TextOptions):
    """Options of steps 5 and 8."""

    is_syn: str = option("both", "0: the original sentences, 1: the synthetic ones", choices=("both", "0", "1"))
    label_prefix: str = option("", "put before every extension label, so that none equals a target label",
                               check=blankless)
    entity_label: str = option(str(KNOWLEDGE / "entity_label.json"), "label map of entity types")
    pos_label: str = option(str(KNOWLEDGE / "pos_label.json"), "label map of POS tags")
    apply_gold_review: bool = option(False, "change gold labels as gold_corrections.jsonl says")


@dataclass(frozen=True)
class Labels:
    """Target labels (without O) and the two maps onto extension labels."""

    targets: tuple[str, ...]
    entity: AliasMap
    pos: AliasMap
    prefix: str

    @classmethod
    def load(cls, opts: Options, paths: RunPaths, summary: Summary | None = None) -> Labels:
        """Read and check all label files.

        Raises:
            UserError: a file is missing or broken, or an extension label equals a target label.
        """
        labels = cls(tuple(read_target_labels(paths.labels)), AliasMap.load(opts.entity_label, fallback="OTHER"),
                     AliasMap.load(opts.pos_label, fallback="WORD"), opts.label_prefix)
        check_maps(labels.entity, labels.pos)
        equal, nearly = clashes(labels.targets, labels.extension)
        if equal:
            raise UserError(f"{paths.labels}: the target labels {', '.join(equal)} are also extension labels of "
                            f"{opts.entity_label} or {opts.pos_label}; the model's guesses would pass as gold. Give the "
                            "extension labels a prefix, such as --label_prefix=X_, or rename them in the map.")
        if nearly and summary:
            summary.warn(f"{paths.labels}: extension labels differ from target labels by case only: {', '.join(nearly)}. "
                         "--label_prefix=X_ would keep them apart for readers.")
        return labels

    @property
    def extension(self) -> list[str]:
        """All extension labels, with the prefix."""
        return [self.prefix + name for name in (*self.entity.labels, *self.pos.labels)]

    def canonical(self, mode: str) -> Canonical:
        """raw type -> (label with prefix, whether the raw type is known)."""
        aliases = self.entity if mode == "entity" else self.pos

        @lru_cache(maxsize=4096)  # a model uses a few dozen types, and an unknown one is looked up in four ways
        def label(raw: object) -> tuple[str, bool]:
            name, known = aliases.canonical(raw)
            return self.prefix + name, known
        return label


def settings_of(opts: Options) -> dict[str, Any]:
    """The options that shape this step's files; of the label maps the content counts, not the path."""
    return {"label_prefix": opts.label_prefix, "dense_lang": opts.dense_lang,
            "entity_label": file_hash(Path(opts.entity_label)), "pos_label": file_hash(Path(opts.pos_label)),
            **({"apply_gold_review": True} if opts.apply_gold_review else {})}


def is_done(opts: Options, paths: RunPaths) -> bool:
    """Whether both halves, as far as their inputs exist, are made and up to date."""
    kinds = ["fusion"] + ["synthetic_fusion"] * paths.sized(1000, "train_{n}_synthetic").is_file()
    files = [paths.label_file(kind) for kind in kinds]
    files += [paths.sized(size, f"train_{{n}}_{kind}") for kind in kinds for size in SIZES]
    return is_current(paths, {STEP}, settings_of(opts), files)


def run(opts: Options) -> Summary:
    """Merge one half or both, all sizes."""
    paths = RunPaths.of(opts)
    with step_log(opts, paths) as summary, lock(paths.journals, STEP):
        merge_halves(opts, paths, summary)
        summary.warnings += warn_of_stale(paths, because_of=map(Path, summary.outputs))
    return summary


def merge_halves(opts: Options, paths: RunPaths, summary: Summary) -> None:
    """The halves that --is_syn names, under the lock of this step; step 8 does this too."""
    labels = Labels.load(opts, paths, summary)
    language = language_of(opts, (s["text"] for s in read_train(paths, again=True)))
    halves = [merge_half(opts, paths, labels, language, summary, synthetic=synthetic)
              for synthetic in (False, True) if opts.is_syn in ("both", str(int(synthetic)))]
    merged = [reviews for reviews in halves if reviews]
    summary.accounts += accounts_of(merged) if opts.is_syn == "both" else accounts_of(merged, "not_in_this_half")
    if opts.apply_gold_review and not (paths.run / GOLD).exists():
        summary.warn(f"{paths.run / GOLD}: not there, so --apply_gold_review has no effect.")


def merge_half(opts: Options, paths: RunPaths, labels: Labels, language: Language, summary: Summary, *,
               synthetic: bool) -> Reviews | None:
    """Merge the original or the synthetic sentences at every size; their label file counts size 1000.

    Returns the decisions of people as they were applied at that size; None where the half is not there.
    """
    kind, tail = ("synthetic_fusion", "_synthetic") if synthetic else ("fusion", "")
    outputs = {size: paths.sized(size, f"train_{{n}}_{kind}") for size in SIZES}
    inputs = {size: _inputs(paths, size, tail) for size in SIZES}
    maps = [paths.train, paths.labels, Path(opts.entity_label), Path(opts.pos_label), *review_files(paths)]
    publisher = Publisher(paths, STEP, settings_of(opts), [*maps, *(p for found in inputs.values() for p in found)],
                          command_of(opts, is_syn=int(synthetic), config=None, seed=None))
    missing = [f"{inputs[size][0]}" for size in SIZES if not os.path.lexists(inputs[size][0])]
    if missing and not synthetic:
        raise UserError(f"{missing[0]}: does not exist. {paths.missing('s4_split_data')}")
    if missing:
        summary.warn(f"{missing[0]}: not there, so there is no synthetic half. Make it with: "
                     f"{paths.command('s2_continous_generation')}, then {paths.command('s4_split_data')}")
        publisher.remove_others([*outputs.values(), paths.label_file(kind)])
        _write_unmapped(opts, paths, "synthetic", FusionStats(), summary)
        return None
    # Read after the publisher has hashed them: a decision that comes in between makes the files out of date, never unseen.
    reviews = Reviews.load(paths, labels.targets, synthetic=synthetic, apply_gold=opts.apply_gold_review)
    reviews.refuse_unknown(labels.extension)
    _say_what_is_missing(paths, summary, inputs, synthetic)
    targets = [paths.sized(size, "train_{n}_synthetic_target") for size in SIZES if synthetic]
    summary.warnings += warn_of_stale(paths, [*targets, *(p for found in inputs.values() for p in found if p not in targets)])
    for size in SIZES:
        merge = Merge(labels, language, paths, reviews.afresh())
        outputs[size] = paths.to_write(outputs[size])
        count, digest = write_jsonl(outputs[size], merge.rows(*inputs[size]))
        publisher.publish(outputs[size], digest, merge.counts(), inputs=[*maps, *inputs[size]], dense=language.dense)
        summary.outputs[str(outputs[size])] = count
    content = label_file(labels.targets, merge.placed)  # of the last size, 1000
    digest = write_json(paths.label_file(kind), content)
    publisher.publish(paths.label_file(kind), digest, {"labels": len(content)}, inputs=[*maps, *inputs[1000]])
    summary.outputs[str(paths.label_file(kind))] = len(content)
    _write_unmapped(opts, paths, "synthetic" if synthetic else "gold", merge.fusion, summary)
    summary.accounts += merge.accounts("synthetic" if synthetic else "original")
    return merge.reviews


def _inputs(paths: RunPaths, size: int, tail: str) -> list[Path]:
    """The sentences of a subset and their annotations, present or not; of synthetic ones the target labels if present.

    Absent target labels are no input: the first run of step 7 is no reason to call the files of this step out of date,
    for step 8 merges them anyway.
    """
    files = [paths.sized(size, f"train_{{n}}{tail}"), *(paths.sized(size, f"{m}_train_{{n}}{tail}") for m in MODES)]
    target = current_targets(paths, size) if tail else None
    return [*files, target] if target else files


def current_targets(paths: RunPaths, size: int) -> Path | None:
    """The target labels of the synthetic sentences, if step 7 has run since these were cut.

    Those of other sentences are as good as none: nothing that comes before step 7 may be held up by them.
    """
    path, source = paths.sized(size, "train_{n}_synthetic_target"), paths.sized(size, "train_{n}_synthetic")
    inputs = {plain_path(Path(name)): sha256 for name, sha256 in read_manifest(path).get("inputs", {}).items()}
    made_from = inputs.get(Path(f"{size}/{plain_path(source).name}"))
    return path if path.is_file() and made_from in (None, file_hash(source)) else None


def _say_what_is_missing(paths: RunPaths, summary: Summary, inputs: Mapping[int, Sequence[Path]], synthetic: bool) -> None:
    step = "s3_predict_syn_data" if synthetic else "s1_predict_data"
    for mode, path in zip(MODES, inputs[1000][1:]):
        if not os.path.lexists(path):
            summary.warn(f"{path}: not there, merged without {mode} labels. Make it with: {paths.command(step, mode=mode)}, "
                         f"then {paths.command('s4_split_data')}")
        elif read_manifest(path).get("complete") is False:
            # the command of the manifest names the model too
            ask_rest = read_manifest(paths.annotation(mode, synthetic)).get("command") or paths.command(step, mode=mode)
            summary.warn(f"{path}: not complete; sentences without an annotation keep their gold labels only. Ask the "
                         f"rest with: {ask_rest}, then {paths.command('s4_split_data')}")
    if not any(p.is_file() for p in inputs[1000][1:3]) and not synthetic:
        raise UserError(f"{inputs[1000][1]}: there is no annotation to merge. {paths.missing('s4_split_data')}")


class Merge:
    """One subset: joins sentences with their annotations by id, in one pass, and keeps account."""

    def __init__(self, labels: Labels, language: Language, paths: RunPaths, reviews: Reviews) -> None:
        self.labels, self.language, self.paths, self.reviews = labels, language, paths, reviews
        self._canonical = {mode: labels.canonical(mode) for mode in MODES}
        self.fusion = FusionStats()
        self.sentences = self.gold = self.predicted = 0
        self.annotated: Counter[str] = Counter()

    def rows(self, source: Path, entity: Path, pos: Path, target: Path | None = None) -> Iterator[Record]:
        """Sentences with gold (or predicted target) entities first, then the extension entities, as people have left them."""
        step = "s3_predict_syn_data" if plain_path(source).stem.endswith("_synthetic") else "s1_predict_data"
        annotations = {mode: Joined(path, f"Make it again with: {self.paths.command(step, mode=mode)}, then "
                                          f"{self.paths.command('s4_split_data')}")
                       for mode, path in (("entity", entity), ("pos", pos))}
        predictions = None
        if target:
            predict_again = self.paths.missing("s7_pred_syn_data")
            for _ in read_sentences(target, may_be_empty=True, again=True, advice=predict_again):
                pass  # their format; Joined only matches the rows
            predictions = Joined(target, predict_again)
        for sentence in read_sentences(source, targets=self.labels.targets, may_be_empty=True, again=True,
                                       advice=self.paths.missing("s4_split_data")):
            items = {mode: self._items(mode, joined, sentence) for mode, joined in annotations.items()}
            found = sentence["entities"]
            if predictions and (row := predictions.of(sentence, required=True)):
                found = row["entities"]
                self.predicted += len(found)
            spans = extension_spans(sentence["text"], items["entity"], items["pos"], dense=self.language.dense,
                                    entity_label=self._canonical["entity"], pos_label=self._canonical["pos"],
                                    stats=self.fusion)
            self.sentences += 1
            self.gold += len(sentence["entities"])
            added = [as_entity(sentence["text"], (start, end), label) for start, end, label in spans]
            # Tags cannot say what the extension labels say, so a "label" list would now be wrong.
            entities = self.reviews.entities(sentence, [*found, *added])
            yield {**{k: v for k, v in sentence.items() if k != "label"}, "entities": entities}
        for joined in (*annotations.values(), *([predictions] if predictions else [])):
            joined.finish()

    def _items(self, mode: str, joined: Joined, sentence: Record) -> Sequence[Mapping[str, str]]:
        row = joined.of(sentence)
        if row and not _is_annotation(row, mode):
            joined.refuse(f"holds no known 'status' or no list 'items' of objects with the texts {' and '.join(ITEM_KEYS[mode])}.")
            row = None
        self.annotated[f"{mode} {row['status'] if row else 'absent'}"] += 1
        return row["items"] if row else []

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


def _is_annotation(row: Record, mode: str) -> bool:
    status, items = row.get("status"), row.get("items")
    surface, kind = ITEM_KEYS[mode]
    return status in STATUSES and isinstance(items, list) and all(
        isinstance(i, dict) and isinstance(i.get(surface), str) and isinstance(i.get(kind), str) for i in items)


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


def _write_unmapped(opts: Options, paths: RunPaths, half: str, stats: FusionStats, summary: Summary) -> None:
    """unmapped_labels.json: types that no alias names, most frequent first, with the line to add. Keeps the other half."""
    path = paths.run / "unmapped_labels.json"
    try:
        content = read_json(path)
    except UserError:  # it is made anew
        content = None
    kept = content if isinstance(content, dict) else {}
    files = {"entity": (opts.entity_label, "OTHER"), "pos": (opts.pos_label, "WORD")}
    rows = [{"mode": mode, "type": raw, "count": count, "counted_as": opts.label_prefix + files[mode][1],
             "add": f"{json.dumps(raw, ensure_ascii=False)} to the aliases of a label in {Path(files[mode][0]).name}"}
            for mode in MODES
            for raw, count in sorted(stats.unmapped.get(mode, {}).items(), key=lambda r: (-r[1], r[0]))]
    halves = {"gold": kept.get("gold", []), "synthetic": kept.get("synthetic", []), half: rows}
    write_json(path, {name: halves[name] for name in ("gold", "synthetic")})
    if rows:
        total = sum(row["count"] for row in rows)
        summary.warn(f"{total:,} items of {len(rows):,} unmapped types became {opts.label_prefix}OTHER or "
                     f"{opts.label_prefix}WORD ({half}); {path} lists them.")


def main(cmd_args: bool | Sequence[str] = True, **overrides: Any) -> Summary:
    """Run the step from the command line, or with keywords only (``cmd_args=False``)."""
    return run(load_options(Options, cmd_args, overrides))


if __name__ == "__main__":
    run_script(main)
