"""Steps 5 to 8 in the ledger: the items are placed again, and the result compared with every training set."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from functools import lru_cache
from itertools import chain
from pathlib import Path
from typing import Any

from syn_pipelines.s5_merge_data import current_targets
from syn_pipelines.tools._ledger_case import Case
from syn_pipelines.tools._ledger_files import DataFile, Order, differing_keys, joined, matched
from syn_pipelines.tools._ledger_review import Decided
from syn_pipelines.utils.fusion import Canonical, FusionStats, as_entity, columns, extension_spans
from syn_pipelines.utils.jsonl import file_hash
from syn_pipelines.utils.labels import AliasMap
from syn_pipelines.utils.manifest import read_manifest
from syn_pipelines.utils.packing import plain_path
from syn_pipelines.utils.paths import MODES
from syn_pipelines.utils.records import Record, short
from syn_pipelines.utils.summary import with_reasons

FALLBACKS = {"entity": "OTHER", "pos": "WORD"}


@dataclass
class Half:
    """What was counted in one merged file. extension: spans by label, as the rows of the file have them.

    decided: what people decided about its sentences.
    """

    decided: Decided
    stats: FusionStats = field(default_factory=FusionStats)
    annotated: Counter[str] = field(default_factory=Counter)
    extension: Counter[str] = field(default_factory=Counter)
    sentences: int = 0
    gold: int = 0  # entities of the sentences before the merge
    changed: int = 0  # of these, in sentences where they are not as they were
    predicted: int = 0
    targets: int = 0  # entities with a target label in the file
    entities: int = 0  # in the file
    compared: bool = True  # the items were placed again
    listed: Counter[str] = field(default_factory=Counter)  # items in the annotations, by mode


def prefix_of(case: Case, file: DataFile) -> str:
    """What stands before the extension labels of a merged file."""
    prefix = file.settings.get("label_prefix")
    return prefix if isinstance(prefix, str) else case.opts.label_prefix


def label_maps(case: Case, file: DataFile) -> dict[str, Canonical] | None:
    """Raw type -> label by mode, as when the file was merged; None where a label map of then is not there any more."""
    prefix = prefix_of(case, file)
    result: dict[str, Canonical] = {}
    for mode in MODES:
        path = _map_path(case, file, f"{mode}_label")
        if path is None:
            return None
        result[mode] = _canonical(path, FALLBACKS[mode], file_hash(path), prefix)
    return result


@lru_cache(maxsize=16)  # all sizes of a half are merged with the same two
def _canonical(path: Path, fallback: str, _sha256: str | None, prefix: str) -> Canonical:
    aliases = AliasMap.load(path, fallback=fallback)

    @lru_cache(maxsize=4096)
    def canonical(raw: object) -> tuple[str, bool]:
        name, known = aliases.canonical(raw)
        return prefix + name, known
    return canonical


def _map_path(case: Case, file: DataFile, option: str) -> Path | None:
    """The label map with the content that the manifest names, wherever it lies."""
    wanted, given = file.settings.get(option), Path(getattr(case.opts, option))
    if wanted is None:
        return given
    inputs = file.manifest.get("inputs", {})
    places = [given, *(case.paths.run / name for name, sha256 in inputs.items() if sha256 == wanted)]
    return next((path for path in places if path.is_file() and file_hash(path) == wanted), None)


def check_half(case: Case, size: int, synthetic: bool) -> Half:
    """Merge one half at one size again, and compare."""
    file, tail = case.merged(size, synthetic), "_synthetic" if synthetic else ""
    source, half = case.part(size, f"train_{{n}}{tail}"), Half(Decided.of(case, file, synthetic))
    if not source.exists:
        file.problem("nowhere", f"{source.path}, which it was made from, is not there.")
        return half
    target = case.target(size) if synthetic and _was_merged(case, size, file) else None
    maps = label_maps(case, file)
    half.compared = maps is not None
    if maps is None:
        file.problem("label map", "a label map that its manifest says it was made with is not there any more, so its extension "
                                  "labels cannot be compared.")
    dense = file.manifest.get("dense")
    dense = dense if isinstance(dense, bool) else case.language.dense
    for sentence, items, found, line, row in _joined(case, size, source, target, file, half):
        half.sentences += 1
        half.gold += len(sentence["entities"])
        half.predicted += len(found) if target else 0
        half.listed.update({mode: len(items[mode]) for mode in MODES})
        spans = [] if maps is None else extension_spans(
            sentence["text"], *(columns(items[mode], mode) for mode in ("entity", "pos")), dense=dense,
            entity_label=maps["entity"], pos_label=maps["pos"], stats=half.stats)
        if row is None:
            half.changed += len(sentence["entities"])
            file.problem("missing", f"id {short(sentence['id'])} of {source.path.name} is missing.")
            continue
        half.entities += len(row["entities"])
        for entity in row["entities"]:
            half.targets += entity["entity"] in case.targets
            half.extension[entity["entity"]] += entity["entity"] not in case.targets
        added = [as_entity(sentence["text"], (start, end), label) for start, end, label in spans]
        wanted = {**{k: v for k, v in sentence.items() if k != "label"},
                  "entities": half.decided.entities(file, sentence, len(sentence["entities"]), [*found, *added])}
        _check_row(case, file, half, line, row, wanted, len(found), (target or source).path.name, exact=maps is not None)
    if not synthetic:
        case.corrected[size] = half.decided.corrected
    if size == 1000:
        _check_chain(case, half, synthetic)
    _account_of_half(case, size, file, half, synthetic)
    file.settle(_counts(half), True, unless=() if maps else _counts(half), stale=file.path in case.stale)
    return half


def _check_chain(case: Case, half: Half, synthetic: bool) -> None:
    """The items of the largest size are those that step 1 or 3 published; a part that is out of date says so itself."""
    for mode in MODES:
        part, items = case.part(1000, f"{mode}_train_{{n}}{'_synthetic' if synthetic else ''}"), case.items.get((mode, synthetic))
        if items is not None and items != half.listed[mode] and part.path not in case.stale:
            part.problem("items", f"holds {half.listed[mode]:,} items, {case.annotation(mode, synthetic).path.name} {items:,}.")


def _was_merged(case: Case, size: int, file: DataFile) -> bool:
    """Whether the target labels of step 7 went into a merged file; its manifest tells, unless it speaks of an older one."""
    target = case.target(size)
    told = any(plain_path(Path(name)).name == plain_path(target.path).name for name in file.manifest.get("inputs", {}))
    return told or (not file.is_as_published and current_targets(case.paths, size) is not None)


def _joined(case: Case, size: int, source: DataFile, target: DataFile | None, file: DataFile, half: Half
            ) -> Iterator[tuple[Record, dict[str, list[Any]], list[Any], int, Record | None]]:
    """Each sentence, its items by mode, the target entities it should have, and its merged row with the line."""
    tail = "_synthetic" if plain_path(source.path).stem.endswith("_synthetic") else ""
    annotations = [case.part(size, f"{mode}_train_{{n}}{tail}") for mode in MODES]
    others = [*annotations, file, *([target] if target else [])]
    for sentence, found in joined(source.records(), case.order_of(source), others, source.path.name):
        items = {}
        for mode, other, (line, row) in zip(MODES, annotations, found):
            if row is not None and row.get("text") != sentence["text"]:
                other.problem("text", f"id {short(sentence['id'])}: the text is not that of {source.path.name}.", line)
                row = None
            half.annotated[f"{mode} {row['status'] if row else 'absent'}"] += 1
            items[mode] = row["items"] if row else []
        labelled = found[3][1] if target else None
        yield sentence, items, (labelled or sentence)["entities"], *found[2]


def _check_row(case: Case, file: DataFile, half: Half, line: int, row: Record, wanted: Record, known: int, known_from: str,
               *, exact: bool) -> None:
    """Compare a merged row.

    known: how many of the wanted entities are gold or predicted. known_from: the file of these. exact: compare the others
    too.
    """
    name, others = short(row["id"]), "an item or a decision" if half.decided.reviews.files else "an item"
    count = None if row.get("synthetic") or row["id"] in half.decided.corrected else case.gold_of(row["id"])
    if count is not None and not case.has_gold(row):
        half.changed += min(count, known)
        file.problem("gold", f"id {name}: the text or the gold entities are not those of {case.paths.train}:"
                             f"{case.line_of(row['id'])}.", line)
        return
    if half.decided.is_unsure(row["id"]):
        row, wanted = {**row, "entities": []}, {**wanted, "entities": []}
    elif not exact:
        row = {**row, "entities": row["entities"][:known]}
        wanted = {**wanted, "entities": wanted["entities"][:known]}
    if not (keys := differing_keys(row, wanted)):
        return
    if keys == "'entities'":
        file.problem("spans", f"id {name}: {_differing_entities(row['entities'], wanted['entities'], known_from, others)}.", line)
    else:
        file.problem("differs", f"id {name}: {keys} is not what the file it was made from says.", line)


def _differing_entities(found: list[Any], wanted: list[Any], known_from: str, others: str) -> str:
    """The first entity that should not be there, or that is missing. known_from: the file of the targets. others: what the
    others come from."""
    def said(entity: Mapping[str, Any]) -> str:
        return f"{entity['entity']} at tokens {entity['start']} to {entity['end']}"

    if extra := [entity for entity in found if entity not in wanted]:
        return f"{said(extra[0])} comes neither from {known_from} nor from {others}"
    if missing := [entity for entity in wanted if entity not in found]:
        return f"{said(missing[0])} of {known_from} or of {others} is missing"
    return "its entities are repeated, or not in their order"


def _counts(half: Half) -> dict[str, Any]:
    """As the manifest of a merged file has them."""
    stats = half.stats
    return {"sentences": half.sentences, "gold_entities": half.gold, "predicted_entities": half.predicted,
            "annotations": with_reasons(half.annotated), "items": with_reasons(stats.items),
            "placed": with_reasons(stats.placed), "folded": with_reasons(stats.folded),
            "not_placed": {mode: with_reasons(stats.unplaced[mode]) for mode in MODES if mode in stats.unplaced},
            "extension_spans": stats.spans.total() + sum(half.decided.reviews.extension.values()), "repeated": stats.repeated,
            **half.decided.reviews.counts()}


def _account_of_half(case: Case, size: int, file: DataFile, half: Half, synthetic: bool) -> None:
    book, step = case.book, f"s5 {size}"
    which, stats = "synthetic" if synthetic else "original", half.stats
    for mode in MODES:
        found = {name.split(" ")[1]: n for name, n in half.annotated.items() if name.startswith(mode) and n}
        book.account(step, f"{which} sentences, {mode} annotations", found, total=half.sentences, file=file)
    for mode in MODES:
        unplaced = stats.unplaced.get(mode, Counter())
        book.account(step, f"{mode} items of {which} sentences", {
            "placed": stats.placed[mode], "not placed": unplaced.total()}, unplaced,
            total=half.listed[mode] if half.compared else None, file=file)
    book.account(step, f"spans of the placed items, {which}", {
        "extension spans": stats.spans.total(), "same place and label as another": stats.repeated})
    if not synthetic:
        corrected = sum(half.decided.corrected.values())
        book.account(step, "gold entities", {"unchanged": half.gold - half.changed - corrected, "changed": half.changed,
                                             **with_reasons({"corrected by people": corrected})})
    book.account(step, f"entities in {file.path.name}", {
        "predicted target labels" if synthetic else "gold": half.targets, "extension spans": half.extension.total()},
        total=half.entities, file=file)


# --- steps 7 and 8 -----------------------------------------------------------------------------------------------

def check_target(case: Case, size: int) -> None:
    """Step 7: the synthetic sentences, each with what the NER model found in it."""
    file, source = case.target(size), case.part(size, "train_{n}_synthetic")
    counts: Counter[str] = Counter()
    for wanted, line, row in matched(source.records(), case.order_of(source), file, source.path.name):
        counts["expected"] += 1
        if row is None:
            counts["missing"] += 1
            file.problem("missing", f"id {short(wanted['id'])} of {source.path.name} is missing.")
            continue
        counts["with target entities" if row["entities"] else "without"] += 1
        counts["entities"] += len(row["entities"])
        if keys := differing_keys({**row, "entities": []}, {**wanted, "entities": []}):
            file.problem("differs", f"id {short(row['id'])}: {keys} is not what {source.path.name} says.", line)
        if unknown := [e["entity"] for e in row["entities"] if e["entity"] not in case.targets]:
            file.problem("label", f"id {short(row['id'])}: {short(unknown[0])} is not in labels.txt.", line)
    sentences = {name: counts[name] for name in ("with target entities", "without")}
    case.book.account(f"s7 {size}", "synthetic sentences", {**sentences, **with_reasons({"missing": counts["missing"]})},
                      total=counts["expected"], file=file)
    weights = [case.paths.run / name for name in file.manifest.get("inputs", {})
               if plain_path(Path(name)).suffix != ".jsonl"]
    complete = all(made.get("complete") is not False for made in [source.manifest, *map(read_manifest, weights)])
    file.settle({"sentences": sum(sentences.values()), "entities": counts["entities"]}, complete,
                stale=file.path in case.stale)


def check_final(case: Case, size: int) -> Counter[str]:
    """Step 8: the synthetic sentences that have target labels, then the original ones. Extension spans by label."""
    file, halves = case.final(size), [case.merged(size, False)]
    if case.merged(size, True).exists:
        if current_targets(case.paths, size):
            halves.insert(0, case.merged(size, True))
        else:
            case.book.note(f"s8: {case.target(size).path} is not there or out of date, so the synthetic sentences stay out. "
                           f"Make it with: {case.target(size).mend}")

    def expected() -> Iterator[Record]:
        return chain.from_iterable(half.records() for half in halves)

    distinct = all(half.distinct for half in halves) and (len(halves) == 1 or not case.made.clash)
    order = Order(lambda: (row["id"] for row in expected()), distinct=distinct)
    counts, labels = Counter(), Counter()
    of = " and ".join(half.path.name for half in halves)
    for wanted, line, row in matched(expected(), order, file, of):
        known = 0 if wanted.get("synthetic") else case.gold_of(wanted["id"]) or 0
        counts["expected"] += 1
        if row is None:
            counts["changed"] += known
            counts["missing"] += 1
            file.problem("missing", f"id {short(wanted['id'])} of {of} is missing.")
            continue
        counts["synthetic" if row.get("synthetic") else "original"] += 1
        corrected = None if wanted.get("synthetic") else case.corrected.get(size, {}).get(wanted["id"])
        same = not known or corrected is not None or case.has_gold(row)
        counts["unchanged" if same else "changed"] += known - (corrected or 0)
        counts["corrected by people"] += corrected or 0
        labels.update(entity["entity"] for entity in row["entities"])
        if not same:
            file.problem("gold", f"id {short(row['id'])}: the text or the gold entities are not those of {case.paths.train}:"
                                 f"{case.line_of(row['id'])}.", line)
        elif keys := differing_keys(row, wanted):
            file.problem("differs", f"id {short(row['id'])}: {keys} is not what {of} says.", line)
    extension = Counter({label: n for label, n in labels.items() if label not in case.targets})
    _account_of_final(case, size, counts, labels.total() - extension.total(), extension.total())
    file.settle({"sentences": counts["synthetic"] + counts["original"], "extension_spans": extension.total()}, True,
                stale=file.path in case.stale)
    return extension


def _account_of_final(case: Case, size: int, counts: Mapping[str, int], targets: int, extension: int) -> None:
    step = f"s8 {size}"
    case.book.account(step, "sentences", {**{name: counts[name] for name in ("synthetic", "original")},
                                          **with_reasons({"missing": counts["missing"]})},
                      total=counts["expected"], file=case.final(size))
    case.book.account(step, "gold entities", {**{name: counts[name] for name in ("unchanged", "changed")},
                                              **with_reasons({"corrected by people": counts["corrected by people"]})})
    case.book.account(step, "entities", {"target labels": targets, "extension spans": extension})
