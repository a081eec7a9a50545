"""Everything that the page says, as JSON values, from the files of a run. Sentences are streamed; only samples are kept."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from syn_pipelines.reporting import account
from syn_pipelines.reporting.browse import browsable
from syn_pipelines.reporting.cost import costs, totals
from syn_pipelines.reporting.diversity import NEAR, distinct_n, near_duplicates, resemblance, same_amount, self_bleu
from syn_pipelines.reporting.gains import gains
from syn_pipelines.reporting.replies import (
    Examples,
    questions_and_answers,
    read_annotations,
    read_explanations,
    written_from,
)
from syn_pipelines.reporting.survey import KINDS, Survey, kind_of, quantile
from syn_pipelines.tools._ledger_case import Case
from syn_pipelines.utils.errors import UserError
from syn_pipelines.utils.jsonl import read_json
from syn_pipelines.utils.labels import AliasMap
from syn_pipelines.utils.manifest import read_manifest
from syn_pipelines.utils.paths import MODES, RunPaths
from syn_pipelines.utils.records import Record, read_sentences, read_train

# The ledger takes 2 to 3 ms a row: beyond this many the counts of the manifests stand in for its recount.
RECOUNTED = 10_000
MOST_LABELS, MOST_UNMAPPED, MOST_REASONS = 200, 200, 40  # rows of a table; what is left out is said


@dataclass
class Halves:
    """The sentences of a run: as the data set has them, then as they are now. synthetic: None where there are none."""

    gold: Survey
    original: Survey
    synthetic: Survey | None
    kind: Callable[[str], str]

    @property
    def by_name(self) -> dict[str, Survey]:
        """"gold", "original", and "synthetic" where there is one."""
        return {"gold": self.gold, "original": self.original} | ({"synthetic": self.synthetic} if self.synthetic else {})


def content_of(opts: Any, case: Case) -> dict[str, Any]:
    """The whole content of the page.

    Raises:
        UserError: a file of the run is broken (names its line).
    """
    paths = case.paths
    halves = survey(opts, case)
    rows = halves.original.sentences + (halves.synthetic.sentences if halves.synthetic else 0)
    recounted = opts.recount or rows <= RECOUNTED
    accounts = account.recount(opts) if recounted else account.from_manifests(paths, halves.gold)
    examples = Examples()
    sample = sample_of(case, halves, examples)
    read_explanations(case, examples)
    spent = costs(paths.log)
    return {
        "file_name": paths.file_name, "run": paths.save_type_name, "seed": opts.seed, "rows": rows,
        "dense": case.language.dense, "lang": case.language.lang, "made_by": _made_by(paths),
        "recounted": recounted, "limit": RECOUNTED, "balanced": accounts.balanced, "problems": accounts.problems,
        "notes": accounts.notes, "recount_command": paths.command("report", recount=1),
        "funnel": account.funnel(accounts, halves.by_name), "steps": account.steps_shown(paths, accounts),
        "reasons": reasons(accounts, examples), "labels": labels(halves), "coverage": coverage(halves),
        "unmapped": unmapped(paths), "lengths": lengths(halves), "diversity": diversity(halves),
        "agreement": agreement(halves.original), "costs": spent, "cost_totals": totals(spent),
        "gains": gains(paths.run / "ablation" / "ablation.json"), "sample": sample,
    }


# --- reading ---------------------------------------------------------------------------------------------------------

def survey(opts: Any, case: Case) -> Halves:
    """Read all sentences: the synthetic ones first, for their sources are wanted of the others."""
    paths = case.paths
    merged, made = case.merged(1000, False), case.merged(1000, True)
    kind = kind_of(case.targets or sorted(case.entities), _pos_labels(opts, made.settings or merged.settings))
    files = [file.path for file in (made, case.target(1000), case.synthetic) if file.exists]
    half = opts.sample - opts.sample // 2
    synthetic = Survey(kind, opts.seed, shown=half).read(_rows(files[0], paths, "s5_merge_data")) if files else None
    sources = {str(row.get("source_id")) for row in synthetic.sample} | {str(t[1]) for t in synthetic.texts} if synthetic else set()
    gold_only = not merged.exists
    first = Survey(kind, opts.seed, shown=opts.sample // 2 if synthetic else opts.sample, keep=sources)
    gold = Survey(kind, opts.seed, compared=0) if not gold_only else first
    gold.read(read_train(paths, again=True))
    original = first if gold_only else first.read(_rows(merged.path, paths, "s5_merge_data"))
    return Halves(gold, original, synthetic, kind)


def _rows(path: Any, paths: RunPaths, script: str) -> Iterator[Record]:
    return read_sentences(path, may_be_empty=True, again=True, advice=paths.missing(script))


def _pos_labels(opts: Any, settings: Mapping[str, Any]) -> list[str]:
    prefix = settings.get("label_prefix")
    prefix = prefix if isinstance(prefix, str) else opts.label_prefix
    return [prefix + name for name in AliasMap.load(opts.pos_label, fallback="WORD").labels]


def sample_of(case: Case, halves: Halves, examples: Examples) -> dict[str, Any]:
    """The sentences to browse; on the way, examples of replies that were lost."""
    original = halves.original.sample
    synthetic = halves.synthetic.sample if halves.synthetic else []
    sources = {str(row.get("source_id")): found for row in synthetic
               if (found := halves.original.kept.get(str(row.get("source_id"))))}
    answers: dict[str, list[dict[str, Any]]] = {}
    for is_synthetic, sentences in ((False, original), (True, synthetic)):
        by_id = {row["id"]: row for row in sentences}
        rows = {mode: read_annotations(case, mode, is_synthetic, by_id, examples) for mode in MODES}
        answers |= questions_and_answers(case, is_synthetic, by_id, rows)
    # Prompts of step 2 are made of the gold entities alone.
    targets = {name: {**row, "entities": [e for e in row["entities"] if halves.kind(e["entity"]) == "target"]}
               for name, row in sources.items()}
    for name, answer in written_from(case, {row["id"]: row for row in synthetic}, targets).items():
        answers[name].insert(0, answer)
    return browsable(original, synthetic, sources, answers, halves.kind)


def _made_by(paths: RunPaths) -> list[str]:
    """The models that have answered, as the manifests name them."""
    found = {}
    for path in (paths.synthetic, *(paths.annotation(mode, synthetic) for synthetic in (False, True) for mode in MODES)):
        made = read_manifest(path).get("fingerprint") or {}
        if made.get("backend"):
            model = made.get("model")
            found[f"{made['backend']} ({model})" if model else str(made["backend"])] = None
    return list(found)


# --- tables ----------------------------------------------------------------------------------------------------------

def reasons(accounts: account.Accounts, examples: Examples) -> list[dict[str, Any]]:
    """Why replies, sentences and items were lost, the most frequent first, each with examples."""
    rows = []
    for step, found in accounts.lines:
        name, _, size = step.partition(" ")
        if size.isdecimal() and size != "1000" or not found.reasons and found.what != "repaired replies":
            continue
        what = found.what.partition(",")[0]
        mended = found.what == "repaired replies"
        for reason, count in (found.parts if mended else found.reasons).items():
            given = next((shown for key, shown in examples.found.items() if _is_about(key, step, what, reason, mended)), [])
            rows.append({"step": name if size == "1000" else step, "what": what, "reason": reason, "count": count,
                         "mended": mended, "examples": given})
    return sorted(rows, key=lambda row: (row["mended"], -row["count"], row["step"], row["reason"]))[:MOST_REASONS]


def _is_about(key: tuple[str, str, str], step: str, what: str, reason: str, mended: bool) -> bool:
    """Whether examples are of this line of the account. The items that step 5 looks up are those of steps 1 and 3."""
    of, how, why = key
    if step.startswith("s5"):
        mode, _, which = what.partition(" items of ")
        return (of, how, why) == (f"{'s3' if which.startswith('synthetic') else 's1'} {mode}", "not placed", reason)
    return (of, why) == (step, reason) and how != "not placed" and (how == "repaired") == mended


def labels(halves: Halves) -> dict[str, Any]:
    """Spans by label: ``before`` (in the data set), ``original`` and ``synthetic`` (now), and shares of characters."""
    surveys = halves.by_name
    names = {label for half in surveys.values() for label in half.labels}

    def row(label: str) -> dict[str, Any]:
        counts = {name: half.labels[label] for name, half in surveys.items()}
        shares = {name: _share(half.characters_of[label], half.characters) for name, half in surveys.items()}
        return {"label": label, "kind": halves.kind(label), "before": counts["gold"], "original": counts["original"],
                "synthetic": counts.get("synthetic"), "characters": shares["original"],
                "synthetic_characters": shares.get("synthetic")}

    rows = sorted(map(row, names), key=lambda r: (KINDS.index(r["kind"]), -(r["original"] + (r["synthetic"] or 0)), r["label"]))
    kinds = [{"kind": kind, "synthetic": None, **{name: half.of_kind(kind) for name, half in surveys.items()}} for kind in KINDS]
    return {"rows": rows[:MOST_LABELS], "more": max(len(rows) - MOST_LABELS, 0), "kinds": kinds}


def _share(part: int, whole: int) -> float:
    return part / whole if whole else 0.0


def coverage(halves: Halves) -> list[dict[str, Any]]:
    """Share of the characters that stand under a label of each kind, and under any; before, and in both halves."""
    return [{"half": name, "characters": half.characters,
             **{kind: _share(half.covered[kind], half.characters) for kind in (*KINDS, "any")}}
            for name, half in halves.by_name.items()]


def unmapped(paths: RunPaths) -> dict[str, Any] | None:
    """Types without an alias, those of both halves together; None where step 5 has not run.

    Raises:
        UserError: the file is broken.
    """
    path = paths.run / "unmapped_labels.json"
    if not path.is_file():
        return None
    again = paths.missing("s5_merge_data")
    halves, found = read_json(path, again), {}
    try:
        for half in ("gold", "synthetic"):
            for row in halves[half]:
                key = (str(row["mode"]), str(row["type"]))
                one = found.setdefault(key, {"mode": key[0], "type": key[1], "gold": 0, "synthetic": 0,
                                             "counted_as": str(row["counted_as"]), "add": str(row["add"])})
                one[half] += int(row["count"])
    except (KeyError, TypeError, ValueError, AttributeError) as err:
        raise UserError(f"{path}:1: is no list of unmapped labels ({type(err).__name__}: {err}). {again}") from None
    rows = sorted(found.values(), key=lambda row: (-row["gold"] - row["synthetic"], row["mode"], row["type"]))
    return {"rows": rows[:MOST_UNMAPPED], "more": max(len(rows) - MOST_UNMAPPED, 0),
            "total": sum(row["gold"] + row["synthetic"] for row in rows)}


def lengths(halves: Halves) -> list[dict[str, Any]]:
    """Tokens of the sentences of each half: mean, quantiles, and ``counts`` [tokens, sentences]."""
    result = []
    for name, half in halves.by_name.items():
        if name != "gold" and half.sentences:
            result.append({"half": name, "sentences": half.sentences, "mean": half.tokens / half.sentences,
                           **{f"p{share}": quantile(half.lengths, share / 100) for share in (5, 50, 95, 100)},
                           "counts": sorted(half.lengths.items())})
    return result


def diversity(halves: Halves) -> dict[str, Any]:
    """How alike sentences are: see ``reporting/diversity.py``. Both halves with equally many sentences."""
    texts = {name: [tokens for _, _, tokens in half.texts] for name, half in halves.by_name.items() if name != "gold"}
    texts = {name: found for name, found in texts.items() if found}
    size = min(map(len, texts.values()), default=0)
    texts = {name: found[:size] for name, found in texts.items()}
    cut = dict(zip(texts, same_amount(*texts.values()))) if len(texts) == 2 else texts
    rows = [{"half": name, "compared": size, "sentences": halves.by_name[name].sentences,
             "duplicates": halves.by_name[name].duplicates, "near": near_duplicates(found), "self_bleu": self_bleu(found),
             **{f"distinct_{n}": distinct_n(cut[name], n) for n in (1, 2, 3)}} for name, found in texts.items()]
    return {"rows": rows, "near": NEAR, "source": _beside_sources(halves)}


def _beside_sources(halves: Halves) -> dict[str, Any] | None:
    """How much synthetic sentences resemble the ones they were written from."""
    pairs = [(tokens, halves.original.kept[source]["text"]) for _, source, tokens in
             (halves.synthetic.texts if halves.synthetic else ()) if source in halves.original.kept]
    if not pairs:
        return None
    values = sorted(resemblance(a, b[:len(a) * 4 + 512]) for a, b in pairs)
    return {"pairs": len(values), "mean": sum(values) / len(values), "median": values[len(values) // 2],
            "near": sum(value >= NEAR for value in values)}


def agreement(original: Survey) -> dict[str, Any]:
    """Which extension label stands on which gold label: ``rows`` by gold label, the extension labels most frequent first."""
    rows: Sequence[str] = sorted({label for label, _ in original.found}, key=lambda name: (-original.labels[name], name))
    pairs: dict[tuple[str, str], dict[str, int]] = {}
    for (gold, extension, how), count in original.agreement.items():
        pairs.setdefault((gold, extension), {"exact": 0, "partial": 0})[how] = count
    shown = []
    for gold in rows[:40]:
        mine = [{"label": extension, "kind": original.kind(extension), **counts, "spans": original.labels[extension]}
                for (label, extension), counts in pairs.items() if label == gold]
        mine.sort(key=lambda row: (row["kind"] != "entity", -row["exact"], -row["partial"], row["label"]))
        shown.append({"gold": gold, "spans": original.labels[gold], **{
            how: original.found[gold, how] for how in ("exact", "partial", "none")}, "labels": mine})
    return {"rows": shown, "more": max(len(rows) - 40, 0)}
