"""Bring back what people annotated in another tool: as a new data set, or as decisions about the spans of a run.

Every offset is checked against the text, character by character, before anything is written. Without --save_type_name the
sentences become a data set, as s0_prepare_data.py makes one. With it they are compared with what was exported: a span that
was removed is a reject, a new one an add, another label a relabel, other bounds a resize, and an untouched one in a sentence
that was finished an accept. Steps 5 and 8 honour these; those about gold labels act only with --apply_gold_review.

reads   --input; with a run also the file that was exported (--train, --size)
writes  data/few_shot/<file_name>/train_1000.jsonl and labels.txt; or review.jsonl and gold_corrections.jsonl of the run
run     python syn_pipelines/import_annotations.py --format=label-studio --input=project-1.json --file_name=weibo \\
            --save_type_name=GLM4
"""

from __future__ import annotations

import json
import re
import time
from collections import Counter
from collections.abc import Iterator, Sequence
from contextlib import closing
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from syn_pipelines.interchange.compare import Decided, RunSentences, changes, file_of, kind_of
from syn_pipelines.interchange.formats import FORMATS
from syn_pipelines.interchange.found import DONE, NOT_DONE, Checked, Checker, Found
from syn_pipelines.interchange.material import LABELS, MADE_BY, is_chosen, known_size, train_file
from syn_pipelines.interchange.offsets import CODE_POINTS, UNITS, first_difference
from syn_pipelines.utils.decisions import KINDS, REVIEW, DecisionLog, text_hash
from syn_pipelines.utils.dry_run import show
from syn_pipelines.utils.errors import UserError, did_you_mean
from syn_pipelines.utils.fusion import LabelledSpan, as_entity
from syn_pipelines.utils.journal import lock
from syn_pipelines.utils.jsonl import Problems, file_hash, read_json, replacing, write_jsonl
from syn_pipelines.utils.labels import AliasMap, read_target_labels
from syn_pipelines.utils.language import language_of
from syn_pipelines.utils.manifest import Publisher, read_manifest
from syn_pipelines.utils.options import PROJECT_ROOT, TextOptions, command_of, folder_name, load_options, option
from syn_pipelines.utils.packing import plain_path
from syn_pipelines.utils.paths import RunPaths
from syn_pipelines.utils.records import Record, read_train, short
from syn_pipelines.utils.summary import Account, Summary, run_script, step_log, with_reasons

STEP = "import_annotations"
REVIEW_LOCK = "review"  # that of the review page, which writes to the same files
_ADVICE = "Correct these in the tool and export again, or correct the file."
_DENSE_LETTERS = re.compile("[\u3040-\u30ff\u3400-\u9fff]")


@dataclass(frozen=True)
class Options(TextOptions):
    """Options of the import."""

    format: str = option("", "what the file is", choices=("", *FORMATS))
    input: str = option("", "the file, or folder, that the tool wrote")
    file_name: str = option("", "data set: a new one, or with --save_type_name that of the run")
    save_type_name: str = option("", "run to compare with; none: make a new data set",
                                 check=lambda value: folder_name(value) if value else "")
    train: str = option("syn_fusion", "what was exported: gold, fusion or syn_fusion (with a run)", choices=tuple(MADE_BY))
    size: int = option(1000, "the subset that was exported", check=known_size)
    labels: str = option("all", "the labels that were exported, where the file does not tell (with a run)", choices=LABELS)
    offsets: str = option("auto", "what the offsets count; auto: what the tool counts", choices=("auto", *UNITS))
    all_done: bool = option(False, "take every sentence as looked through, where the format does not tell (doccano: when "
                            "approved sentences only were exported)")
    overwrite: bool = option(False, "replace a data set that this script did not make, or that was changed since")
    json: bool = option(False, "print the summary as one JSON line")


def run(opts: Options) -> Summary:
    """Check all, then write."""
    if not opts.format or not opts.input:
        raise UserError(f"{STEP}: --format ({', '.join(FORMATS)}) and --input are needed. See --help.")
    if problem := folder_name(opts.file_name):
        raise UserError(f"{STEP}: --file_name: {opts.file_name!r} {problem}. Name the data set to make, or that of the run.")
    if opts.save_type_name:
        paths = RunPaths.of(opts)
        if not paths.run.is_dir():
            raise UserError(f"{paths.run}: there is no such run (--save_type_name). Leave it out to make a data set.")
        with step_log(opts, paths) as summary, lock(paths.journals, STEP), lock(paths.journals, REVIEW_LOCK):
            _compare(opts, paths, summary)
        return summary
    paths = RunPaths(Path(opts.file_dir), opts.file_name, ".")
    _refuse_foreign(opts, paths)
    with step_log(opts, paths) as summary, lock(paths.journals, STEP):
        _make_data_set(opts, paths, summary)
    return summary


class Input:
    """The rows of a file that are as they should be. ``problems`` holds the others; raise them before anything is written."""

    def __init__(self, opts: Options, joiner: str) -> None:
        self.opts, self.path, self._format = opts, Path(opts.input), FORMATS[opts.format]
        self.problems = Problems(self.path, _ADVICE)
        unit = self._format.unit if opts.offsets == "auto" else opts.offsets
        if unit != CODE_POINTS and not self._format.counts_offsets:
            raise UserError(f"{STEP}: --offsets={unit}: the format {opts.format} has no offsets that could count otherwise. Leave "
                            "it out.")
        self.checker = Checker(joiner, unit, self._format.page if opts.offsets == "auto" else "")

    def rows(self) -> Iterator[Found]:
        """As the file has them; an id that stands twice is a problem."""
        lines: dict[str, int] = {}
        with closing(self._format.module.read(self.path, self.problems)) as rows:
            for found in rows:
                if found.id in lines:
                    self.problems.add(found.line, f"id {short(found.id)} stands in line {lines[found.id]} already; ids must be "
                                                  "unique.")
                    continue
                lines[found.id] = found.line
                yield found
        if not lines and not self.problems.found:
            raise UserError(f"{self.path}: holds no sentence. Check the file and --format.")

    def checked(self, found: Found) -> Checked | None:
        """The row with spans in tokens; None where something is wrong with it."""
        try:
            return self.checker.checked(found)
        except ValueError as err:
            for text in str(err).split("\n"):
                self.problems.add(found.line, f"sentence {short(found.id)}: {text}")
            return None

    def notes(self, summary: Summary) -> None:
        """Say what was mended."""
        if trimmed := self.checker.counts["blank trimmed"]:
            summary.notes.append(f"{trimmed:,} spans began or ended with a blank between words, which was cut off")
        if repeated := self.checker.counts["repeated"]:
            summary.notes.append(f"{repeated:,} spans stood twice with the same label and count once")


# --- a new data set ----------------------------------------------------------------------------------------------


def _refuse_foreign(opts: Options, paths: RunPaths) -> None:
    """UserError where a data set is there that this script did not make as it is. After a stop between it and its manifest
    nobody can tell, and --overwrite is needed."""
    manifest = read_manifest(paths.train)
    own = manifest.get("step") == STEP and manifest.get("sha256") == file_hash(paths.train)
    problem = "exists and was not made by this script"
    if manifest.get("step") == STEP:
        problem = "was changed after this script made it"
    for path in () if opts.overwrite or own else (paths.train, paths.labels):
        if path.exists():
            raise UserError(f"{path}: {problem}. Choose another --file_name, name a run with --save_type_name, or use "
                            "--overwrite to replace it.")


def _make_data_set(opts: Options, paths: RunPaths, summary: Summary) -> None:
    source = Input(opts, _joiner(opts))
    counts: Counter[str] = Counter()
    labels: set[str] = set()
    publisher = Publisher(paths, STEP, {"format": opts.format, "offsets": source.checker.unit}, _files(source.path),
                          command_of(opts, config=None, overwrite=None, json=None, seed=None))
    count, digest = write_jsonl(paths.train, _records(source, labels, counts))
    publisher.publish(paths.train, digest, {"sentences": count, "entities": counts["entities"]})
    with replacing(paths.labels) as file:
        file.write(("\n".join(["O", *sorted(labels)]) + "\n").encode("utf-8"))
    summary.outputs.update({str(paths.train): count, str(paths.labels): len(labels) + 1})
    summary.accounts.append(Account("sentences", count + counts["left out"], {
        "written": count, "left out, for nobody has finished them": counts["left out"]}))
    summary.notes.append(f"{counts['entities']:,} entities, {len(labels)} labels")
    if counts["renamed"]:
        summary.notes.append(f"{counts['renamed']:,} sentences got an id with '_' for '-', as the other stands for "
                             "sentences that step 2 writes")
    source.notes(summary)


def _records(source: Input, labels: set[str], counts: Counter[str]) -> Iterator[Record]:
    """Records for train_1000.jsonl; raises at the end what is wrong with the file."""
    ids: dict[str, int] = {}
    for found in source.rows():
        row = source.checked(found)
        if row is None:
            continue
        if row.status == NOT_DONE:
            counts["left out"] += 1
            continue
        for label in sorted({label for _, _, label in row.spans} - labels):
            if len(label.split()) > 1:
                source.problems.add(row.line, f"the label {short(label)} has a blank in it, which labels.txt cannot hold.")
            labels.add(label)
        counts["entities"] += len(row.spans)
        identity = re.sub(r"-(s[0-9]+)$", r"_\1", row.id)
        counts["renamed"] += identity != row.id
        if identity in ids:
            source.problems.add(row.line, f"id {short(row.id)} becomes {short(identity)}, which stands in line {ids[identity]} already.")
        ids[identity] = row.line
        more = {"synthetic": True, "source_id": row.source_id} if row.synthetic else {}
        order = sorted(row.spans, key=lambda span: (span[0], -span[1], span[2]))
        entities = [as_entity(row.tokens, (start, end), label) for start, end, label in order]
        yield {"id": identity, "text": row.tokens, "entities": entities, **more}
    source.problems.raise_if_any()
    if not labels:
        raise UserError(f"{source.path}: no finished sentence has a span. Check the file, and what the tool exports.")


def _joiner(opts: Options) -> str:
    """What joins the tokens of texts that come without, by their script: "" or " "."""
    if opts.dense_lang != "auto":
        return "" if opts.dense_lang == "1" else " "
    letters = characters = 0
    source = Input(opts, "")
    for found in source.rows():
        if found.tokens is not None or found.text is None:
            break  # where one sentence has its tokens all have
        letters += len(_DENSE_LETTERS.findall(found.text))
        characters += len(found.text)
    return "" if letters > 0.2 * characters else " "


def _files(path: Path) -> list[Path]:
    """The files of the input, for the manifest."""
    return sorted(p for p in path.rglob("*") if p.is_file()) if path.is_dir() else [path]


# --- decisions about a run ---------------------------------------------------------------------------------------


@dataclass
class Comparison:
    """One file against one run."""

    opts: Options
    source: Input
    sentences: RunSentences
    targets: tuple[str, ...]
    known: frozenset[str]
    ended: Counter[str]

    def rows(self) -> Iterator[tuple[str, dict[str, Any]]]:
        """(file, decision) of every change; problems go to those of the source."""
        for found in self.source.rows():
            sentence = self.sentences.get(found.id)
            if sentence is None:
                self.source.problems.add(found.line, f"id {short(found.id)} is not among the sentences of "
                                                     f"{self.sentences.path}.")
                continue
            if found.tokens is not None and found.tokens != sentence["text"]:
                self.source.problems.add(found.line, _other_tokens(found, sentence))
                continue
            found.tokens = sentence["text"]
            if row := self.source.checked(found):
                yield from self._decisions(row, sentence)

    def _decisions(self, row: Checked, sentence: Record) -> Iterator[tuple[str, dict[str, Any]]]:
        before = row.exported if row.exported is not None else self._exported(row, sentence)
        done = row.status == DONE or (self.opts.all_done and row.status != NOT_DONE)
        if row.status == NOT_DONE or (before and not row.spans and not done):
            self.ended["not finished" if row.status == NOT_DONE else "came back without any span"] += 1
            return
        synthetic = sentence.get("synthetic") is True
        base = {"id": row.id, "text_sha256": text_hash(sentence["text"])}
        by = f"{STEP} {self.opts.format}"
        found = changes(before, row.spans, lambda a, b: self._file(a, synthetic) == self._file(b, synthetic))
        changed = any(change.decision != "accept" for change in found)
        self.ended["changed" if changed else "confirmed" if done else "unchanged, not known to be finished"] += 1
        for change in found:
            new = change.to or change.span
            if change.decision != "accept" and change.decision != "reject" and new[2] not in self.known:
                self.source.problems.add(row.line, f"the label {short(new[2])} is neither a target label nor an extension label "
                                                   f"of this run{did_you_mean(new[2], self.known)}.")
            if change.decision == "accept" and not done:
                continue
            kind = kind_of(change.span[2], self.targets, synthetic)
            to = {"to": _object(change.to)} if change.to else {}
            yield file_of(kind), {**base, "kind": kind, **_object(change.span), "decision": change.decision, **to, "by": by}
        if done:
            yield REVIEW, {**base, "decision": "done", "by": by}

    def _file(self, label: str, synthetic: bool) -> str:
        return file_of(kind_of(label, self.targets, synthetic))

    def _exported(self, row: Checked, sentence: Record) -> list[LabelledSpan]:
        """The spans of the run, where the file does not tell which were sent out."""
        if not FORMATS[self.opts.format].holds_all:
            raise UserError(f"{self.source.path}: the file with the ids, {plain_path(self.source.path).stem}.ids.jsonl, is not beside it; "
                            "columns alone do not tell which spans were left out. Put it there.")
        return [(entity["start"], entity["end"], entity["entity"]) for entity in sentence["entities"]
                if is_chosen(entity["entity"], self.targets, self.opts.labels)]


def _object(span: LabelledSpan) -> dict[str, Any]:
    return dict(zip(("start", "end", "label"), span))


def _other_tokens(found: Found, sentence: Record) -> str:
    expected, tokens = json.dumps(sentence["text"], ensure_ascii=False), json.dumps(found.tokens, ensure_ascii=False)
    at = first_difference(expected, tokens)
    return (f"sentence {short(found.id)} has other tokens than in the run, which was made anew since the export: expected "
            f"{short(expected[at:])}, found {short(tokens[at:])}.")


def _refuse_other_export(opts: Options, file: Path) -> None:
    """UserError where the folder of an export tells that other spans were exported than ``file`` and the flags say."""
    path = Path(opts.input)
    manifest = next(filter(None, (read_manifest(folder / "export.json") for folder in (path, *path.absolute().parents[:2]))), {})
    settings = manifest.get("settings", {}) if manifest.get("step") == "export" else {}
    for name in ("train", "size", "labels"):
        if name in settings and settings[name] != getattr(opts, name):
            raise UserError(f"{STEP}: {path}: was exported with --{name}={settings[name]}, not {getattr(opts, name)}. Give the same "
                            "flags here, for what was not exported would count as removed.")
    then = next((digest for name, digest in manifest.get("inputs", {}).items()
                 if plain_path(Path(name)).name == plain_path(file).name), None)
    if then and settings and then != file_hash(file):
        raise UserError(f"{STEP}: {file}: was made anew since the export, and {opts.format} does not tell which spans were exported. "
                        "Export again, or bring the file back as a data set (without --save_type_name).")


def _compare(opts: Options, paths: RunPaths, summary: Summary) -> None:
    file, missing = train_file(paths, opts.train, opts.size)
    targets = tuple(read_target_labels(paths.labels))
    language = language_of(opts, (s["text"] for s in read_train(paths, again=True)))
    source = Input(opts, language.join(["", ""]))
    if not FORMATS[opts.format].tells_exported:
        _refuse_other_export(opts, file)
    decided, time_s = Decided(paths.run), time.time()
    rows: dict[str, list[dict[str, Any]]] = {name: [] for name in KINDS}
    standing = 0
    with RunSentences(file, missing) as sentences:
        comparison = Comparison(opts, source, sentences, targets, _known_labels(paths, targets), Counter())
        for name, row in comparison.rows():
            if decided.has(name, row):
                standing += 1
            else:
                rows[name].append({**row, "time": time_s})
    source.problems.raise_if_any()
    counts: Counter[str] = Counter()
    for name, found in rows.items():
        if found:
            with DecisionLog(paths.run / name) as log:
                log.append_all(found)
            counts.update(row["decision"] for row in found)
            summary.outputs[str(paths.run / name)] = len(found)
    summary.accounts.append(Account("sentences", comparison.ended.total(), with_reasons(comparison.ended)))
    summary.accounts.append(Account("decisions", counts.total() + standing, {**with_reasons(counts), "there already": standing}))
    source.notes(summary)
    _say_what_next(opts, paths, rows, comparison.ended, summary)


def _known_labels(paths: RunPaths, targets: Sequence[str]) -> frozenset[str]:
    """The labels that a decision may give: others would stop step 5."""
    known = set(targets)
    for kind in ("fusion", "synthetic_fusion", "syn_fusion"):
        path = paths.label_file(kind)
        content = read_json(path) if path.is_file() else {}
        known.update(content if isinstance(content, dict) else ())
    prefix = read_manifest(paths.sized(1000, "train_{n}_fusion")).get("settings", {}).get("label_prefix", "")
    for name, fallback in (("entity_label", "OTHER"), ("pos_label", "WORD")):
        shipped = AliasMap.load(str(PROJECT_ROOT / "data" / "fusion_knowledge" / f"{name}.json"), fallback=fallback)
        known.update(prefix + label for label in shipped.labels)
    return frozenset(known - {"O"})


def _say_what_next(opts: Options, paths: RunPaths, rows: dict[str, list[dict[str, Any]]], ended: Counter[str],
                   summary: Summary) -> None:
    gold = sum(row["decision"] != "accept" for name, found in rows.items() if name != REVIEW for row in found)
    if gold:
        summary.notes.append(f"{gold:,} corrections of gold labels act only with --apply_gold_review of steps 5 and 8")
    if any(rows.values()):
        summary.notes.append(f"apply them with: {paths.command('s5_merge_data')}, then "
                             f"{paths.command('s8_process_label_and_combine')}")
    unsure = ended["unchanged, not known to be finished"] + ended["came back without any span"]
    if unsure:
        summary.warn(f"{unsure:,} sentences came back unchanged or without any span, and {opts.format} does not tell whether "
                     "somebody has finished them; they count as not looked at. --all_done takes them as finished.")


def main(cmd_args: bool | Sequence[str] = True, **overrides: Any) -> Summary:
    """Run from the command line, or with keywords only (``cmd_args=False``)."""
    opts = load_options(Options, cmd_args, overrides)
    summary = run(opts)
    if opts.json and cmd_args is not False:
        show(json.dumps(summary.as_dict(), ensure_ascii=False))
    return summary


if __name__ == "__main__":
    run_script(main)
