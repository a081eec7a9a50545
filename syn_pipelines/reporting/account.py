"""What became of every record, step by step: recounted by the ledger, or as the manifests tell it."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from syn_pipelines.reporting.survey import Survey
from syn_pipelines.tools import ledger
from syn_pipelines.utils.manifest import read_manifest
from syn_pipelines.utils.paths import MODES, SIZES, RunPaths
from syn_pipelines.utils.summary import Account, with_reasons

STATUSES = ("ok", "repaired", "rejected", "failed")
# What the parts of an account mean to a person; what is in none of these is neither good nor bad.
LOST = {"rejected", "failed", "dropped", "not placed", "changed", "kept, but missing", "from nowhere", "not in the data",
        "missing in it"}
OPEN = {"not asked yet", "answered, not published yet", "kept, not published yet", "absent"}
MENDED = {"repaired", "corrected by people", "items of repaired replies"}
BOOKKEEPING = ("stored replies", "things listed", "spans counted", "spans of the placed", "rows of entity", "rows of pos",
               "original sentences, ", "synthetic sentences, ")  # lines that only those look at who doubt
GOOD = {"ok", "used", "published", "placed", "in use", "unchanged", "in the subset", "with entities", "with target entities",
        "items of ok replies", "extension spans", "in the data", "gold", "predicted target labels", "target labels",
        "original", "synthetic", "published, replies gone"}


@dataclass(frozen=True)
class Stage:
    """A step as the report shows it. file: the one that says that the step has run. command: makes that file."""

    key: str
    title: str
    file: Path
    command: str

    @property
    def state(self) -> str:
        """"done", "partial" (a part was left out with --limit, or failed) or "not run yet"."""
        if not self.file.is_file():
            return "not run yet"
        return "partial" if read_manifest(self.file).get("complete") is False else "done"


@dataclass
class Accounts:
    """The account of a run. lines: (step, account), steps as in the ledger ("s4 250"). recounted: from the rows of all files;
    otherwise balanced, problems and notes say nothing."""

    lines: list[tuple[str, Account]]
    recounted: bool
    balanced: bool = True
    problems: list[dict[str, Any]] = field(default_factory=list)
    notes: list[str] = field(default_factory=list)

    def of(self, step: str, what: str) -> Account | None:
        """The account of some things in a step."""
        return next((account for name, account in self.lines if (name, account.what) == (step, what)), None)


def stages(paths: RunPaths) -> list[Stage]:
    """Every step that the report knows, in order."""
    s1, s3 = "s1_predict_data", "s3_predict_syn_data"
    return [
        Stage("data", "Your data set", paths.train, paths.prepare),
        Stage("s1 entity", "Entity labels for your sentences", paths.annotation("entity", False), paths.command(s1, mode="entity")),
        Stage("s1 pos", "Parts of speech for your sentences", paths.annotation("pos", False), paths.command(s1, mode="pos")),
        Stage("s2", "New sentences, written from yours", paths.synthetic, paths.command("s2_continous_generation")),
        Stage("s3 entity", "Entity labels for the new sentences", paths.annotation("entity", True), paths.command(s3, mode="entity")),
        Stage("s3 pos", "Parts of speech for the new sentences", paths.annotation("pos", True), paths.command(s3, mode="pos")),
        Stage("s4", "Subsets of 25, 50 and 100 %", paths.sized(1000, "train_{n}"), paths.command("s4_split_data")),
        Stage("s5", "One label set, found in the tokens", paths.sized(1000, "train_{n}_fusion"), paths.command("s5_merge_data")),
        Stage("s6", "Labels of both halves together", paths.label_file("syn_fusion"), paths.command("s6_combine_syn_fusion_label")),
        Stage("train", "NER model trained on fusion", paths.ner("fusion", 1000) / "model.safetensors",
              paths.command("train_ner", train="fusion", size=1000)),
        Stage("s7", "Target labels for the new sentences", paths.sized(1000, "train_{n}_synthetic_target"),
              paths.command("s7_pred_syn_data")),
        Stage("s8", "The final training sets", paths.sized(1000, "train_{n}_syn_fusion"),
              paths.command("s8_process_label_and_combine")),
    ]


def recount(opts: Any) -> Accounts:
    """The ledger's account, from the rows of all files (2 to 3 ms a row)."""
    names = ("file_dir", "file_name", "save_type_name", "seed", "dense_lang", "lang", "label_prefix", "entity_label", "pos_label")
    book = ledger.main(cmd_args=False, **{name: getattr(opts, name) for name in names}).book
    return Accounts(book.in_order(), True, book.balanced, [asdict(problem) for problem in book.problems], book.notes_in_order())


def from_manifests(paths: RunPaths, gold: Survey) -> Accounts:
    """What the steps wrote beside their files. gold: the survey of the training sentences."""
    lines = [("data", _account("sentences", {"with entities": gold.with_targets, "without": gold.sentences - gold.with_targets})),
             ("data", _account("gold entities", with_reasons(gold.labels)))]
    for mode in MODES:
        lines += _annotations(paths, mode, False)
    lines += _explanations(paths)
    for mode in MODES:
        lines += _annotations(paths, mode, True)
    for size in SIZES:
        lines += _subset(paths, size)
        lines += _merged(paths, size)
        lines += _final(paths, size)
    order = {name: place for place, name in enumerate(ledger_steps())}
    lines.sort(key=lambda line: order[line[0]])
    return Accounts([(step, account) for step, account in lines if account.parts], False)


def ledger_steps() -> list[str]:
    """Names of steps in the lines of an account, in order."""
    sized = [f"{step} {size}" for step in ("s4", "s5", "s7", "s8") for size in SIZES]
    return ["data", "s1 entity", "s1 pos", "s2", "s3 entity", "s3 pos", *sized[:6], "s6", "train", *sized[6:]]


def _account(what: str, parts: Mapping[str, int], reasons: Mapping[str, int] | None = None) -> Account:
    return Account(what, sum(parts.values()), dict(parts), dict(reasons or {}))


def _counts(path: Path) -> dict[str, Any]:
    """The counts of a file that is there, {} where nothing tells them."""
    counts = read_manifest(path).get("counts") if path.is_file() else None
    return counts if isinstance(counts, dict) else {}


def whole(value: Any) -> int:
    """A count of a manifest; 0 for what is none."""
    return value if isinstance(value, int) and not isinstance(value, bool) and value > 0 else 0


def _wholes(value: Any) -> dict[str, int]:
    return with_reasons({name: whole(n) for name, n in value.items()}) if isinstance(value, dict) else {}


def _annotations(paths: RunPaths, mode: str, synthetic: bool) -> Iterator[tuple[str, Account]]:
    if counts := _counts(paths.annotation(mode, synthetic)):
        parts = {name: whole(counts.get(name)) for name in STATUSES} | {"not asked yet": whole(counts.get("not_asked"))}
        yield f"{'s3' if synthetic else 's1'} {mode}", _account("sentences", parts, _wholes(counts.get("reasons")))


def _explanations(paths: RunPaths) -> Iterator[tuple[str, Account]]:
    if not (counts := _counts(paths.synthetic)):
        return
    yield "s2", _account("sentences", {name: whole(counts.get(name)) for name in ("with entities", "without entities, not asked")})
    replies = _wholes(counts.get("replies"))
    yield "s2", _account("explanations", {name: replies.get(name, 0) for name in ("used", "rejected", "failed", "not asked yet")},
                         _wholes(counts.get("reply_reasons")))
    dropped = _wholes(counts.get("dropped"))
    yield "s2", _account("pieces of the explanations", {
        "published": whole(counts.get("synthetic_sentences")), "dropped": sum(dropped.values())}, dropped)


def _subset(paths: RunPaths, size: int) -> Iterator[tuple[str, Account]]:
    for name in ("train_{n}", "train_{n}_synthetic"):
        if counts := _counts(paths.sized(size, name)):
            yield f"s4 {size}", _account(f"rows of {name.replace('{n}', '1000')}.jsonl", {"in the subset": whole(counts.get("rows"))})


def _merged(paths: RunPaths, size: int) -> Iterator[tuple[str, Account]]:
    step = f"s5 {size}"
    for which, kind in (("original", "fusion"), ("synthetic", "synthetic_fusion")):
        path = paths.sized(size, f"train_{{n}}_{kind}")
        if not (counts := _counts(path)):
            continue
        placed, lost = _wholes(counts.get("placed")), counts.get("not_placed")
        for mode in MODES:
            reasons = _wholes(lost.get(mode)) if isinstance(lost, dict) else {}
            yield step, _account(f"{mode} items of {which} sentences", {
                "placed": placed.get(mode, 0), "not placed": sum(reasons.values())}, reasons)
        spans = whole(counts.get("extension_spans"))
        yield step, _account(f"spans of the placed items, {which}", {
            "extension spans": spans, "same place and label as another": whole(counts.get("repeated"))})
        first = "predicted target labels" if which == "synthetic" else "gold"
        yield step, _account(f"entities in {path.name}", {
            first: whole(counts.get("predicted_entities" if which == "synthetic" else "gold_entities")), "extension spans": spans})


def _final(paths: RunPaths, size: int) -> Iterator[tuple[str, Account]]:
    if counts := _counts(paths.sized(size, "train_{n}_synthetic_target")):
        yield f"s7 {size}", _account("synthetic sentences", {"labelled": whole(counts.get("sentences"))})
    if counts := _counts(paths.sized(size, "train_{n}_syn_fusion")):
        yield f"s8 {size}", _account("sentences", {"in the training set": whole(counts.get("sentences"))})


# --- the funnel ------------------------------------------------------------------------------------------------------

def meaning(part: str) -> str:
    """"good", "mended", "lost", "open" or "other"."""
    groups = (("good", GOOD), ("mended", MENDED), ("lost", LOST), ("open", OPEN))
    return next((name for name, parts in groups if part in parts), "other")


def funnel(accounts: Accounts, surveys: Mapping[str, Survey]) -> list[dict[str, Any]]:
    """The sentences on their way from the data set into the training set: ``name``, ``count``, ``lost`` (reason: count).

    surveys: "gold", and "original" and "synthetic" where there are such files. A step that has not run has count None.
    """
    asked, used = accounts.of("s2", "sentences"), accounts.of("s2", "explanations")
    pieces, final = accounts.of("s2", "pieces of the explanations"), accounts.of("s8 1000", "sentences")
    labelled, of_labelled = _labelled(accounts, surveys.get("synthetic"), final)
    rows = [_row("sentences you have", surveys["gold"].sentences, {}),
            _row("with target entities, so asked about", surveys["gold"].with_targets,
                 {"without entities": surveys["gold"].sentences - surveys["gold"].with_targets}),
            _row("explanations that could be used", used and used.parts.get("used"), _losses(used)),
            _row("sentences found in them", pieces and pieces.total, {}),
            _row("of these new and whole", pieces and pieces.parts.get("published"), dict(pieces.reasons) if pieces else {}),
            _row("of these with a predicted target label", labelled, {"without": of_labelled - (labelled or 0)}),
            _row("sentences in the final training set", final and final.total, {})]
    return rows if asked else [rows[0], rows[1], *(_row(row["name"], None, {}) for row in rows[2:])]


def _labelled(accounts: Accounts, synthetic: Survey | None, final: Account | None) -> tuple[int | None, int]:
    """Synthetic sentences with a predicted target label, and how many there are. The manifest of step 7 does not tell, but
    the sentences themselves do once step 8 has put the labels there."""
    told = accounts.of("s7 1000", "synthetic sentences")
    if told and "with target entities" in told.parts:
        return told.parts["with target entities"], told.total
    return (synthetic.with_targets, synthetic.sentences) if synthetic and final else (None, 0)


def _row(name: str, count: int | None, lost: Mapping[str, int]) -> dict[str, Any]:
    return {"name": name, "count": count, "lost": {reason: n for reason, n in lost.items() if n}}


def _losses(account: Account | None) -> dict[str, int]:
    if account is None:
        return {}
    lost = {name: n for name, n in account.parts.items() if name != "used" and n}
    return dict(account.reasons) | {name: n for name, n in lost.items() if not account.reasons or name == "not asked yet"}


def steps_shown(paths: RunPaths, accounts: Accounts) -> list[dict[str, Any]]:
    """Each step with its state and its accounts: those of the whole set (``accounts``, and what
    only keeps the books: ``more``), and of the subsets (``smaller``)."""
    result = []
    for stage in stages(paths):
        mine = [(name, account) for name, account in accounts.lines if name == stage.key or name.split(" ")[0] == stage.key]
        sized = {name: int(name.split(" ")[1]) for name, _ in mine if name.split(" ")[-1].isdecimal()}
        whole_set = [account for name, account in mine if sized.get(name, 1000) == 1000]
        result.append({
            "key": stage.key, "title": stage.title, "state": stage.state, "command": stage.command, "file": str(stage.file.name),
            "accounts": [_shown(account) for account in whole_set if not account.what.startswith(BOOKKEEPING)],
            "more": [_shown(account) for account in whole_set if account.what.startswith(BOOKKEEPING)],
            "smaller": {str(size): [_shown(account) for name, account in mine if sized.get(name) == size]
                        for size in sorted({*sized.values()} - {1000})}})
    return result


def _shown(account: Account) -> dict[str, Any]:
    parts = [{"name": name, "count": count, "meaning": meaning(name)} for name, count in account.parts.items()]
    return {"what": account.what, "total": account.total, "parts": parts, "text": str(account), "reasons": account.reasons}
