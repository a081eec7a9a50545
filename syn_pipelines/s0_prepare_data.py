"""Step 0: make a data set folder from the files you have.

Reads columns (token, tag) in IO, BIO, BIOES, BMES or BILOU, the Weibo NER format (characters with a position digit), and
JSON or JSON lines with character offsets, all of them compressed (gzip, zstd) or not. A set without dev or test sentences is
split by --seed; equal sentences stay on one side. Invalid tags are repaired and reported.

reads   the files given as --train, --dev and --test
writes  data/few_shot/<file_name>/train_1000.jsonl, dev.jsonl, test.jsonl and labels.txt
run     python syn_pipelines/s0_prepare_data.py --file_name=weibo --train=weiboNER_2nd_conll.train \\
            --dev=weiboNER_2nd_conll.dev --test=weiboNER_2nd_conll.test
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from syn_pipelines.text.readers import FORMATS, Source, read_source
from syn_pipelines.utils.errors import UserError
from syn_pipelines.utils.journal import lock
from syn_pipelines.utils.jsonl import Problems, content_hash, file_hash, replacing, to_line, write_jsonl
from syn_pipelines.utils.labels import read_target_labels
from syn_pipelines.utils.manifest import Publisher, read_manifest, warn_of_stale
from syn_pipelines.utils.options import (
    TextOptions,
    at_least,
    between,
    command_of,
    folder_name,
    load_options,
    option,
)
from syn_pipelines.utils.packing import FORMS
from syn_pipelines.utils.paths import RunPaths
from syn_pipelines.utils.records import Record
from syn_pipelines.utils.summary import Account, Summary, run_script, step_log

STEP = "s0_prepare_data"
SPLITS = ("train", "dev", "test")


@dataclass(frozen=True)
class Options(TextOptions):
    """Options of step 0."""

    file_name: str = option("", "name of the data set folder to make", check=folder_name)
    train: str = option("", "file with the training sentences")
    dev: str = option("", "file with the dev sentences; none: cut from the training sentences")
    test: str = option("", "file with the test sentences; none: cut from the training sentences")
    format: str = option("auto", "format of the files", choices=("auto", *FORMATS))
    dev_share: float = option(0.1, "share of the sentences cut off for dev when there is no dev file; 0: none",
                              check=between(0, 0.5))
    test_share: float = option(0.1, "share cut off for test when there is no test file; 0: none", check=between(0, 0.4))
    size: int = option(-1, "keep N training sentences, chosen by seed, those with entities first; -1: all",
                       check=at_least(-1))
    invalid_tags: str = option("repair", "repair: take a tag that continues nothing as the start of an entity and report "
                               "it; error: list such tags and stop", choices=("repair", "error"))
    drop_leaks: bool = option(False, "take training sentences that dev or test holds too out of train")
    compress: str = option("none", "form of the files of sentences: plain, or compressed as .gz or .zst; steps then write theirs so, too",
                           choices=tuple(FORMS))
    overwrite: bool = option(False, "replace a data set that this step did not make, or that was changed since")


def rank(seed: int, key: str) -> bytes:
    """Place of a key in a random order that depends on nothing but the seed and the key."""
    return hashlib.sha256(f"{seed}:{key}".encode()).digest()


def text_of(sentence: Record) -> tuple[str, ...]:
    """What makes two sentences equal: their tokens."""
    return tuple(sentence["text"])


def cut_off(sentences: Sequence[Record], shares: dict[str, float], *, seed: int) -> dict[str, list[Record]]:
    """Split by share of the distinct sentences; equal sentences stay together, file order is kept.

    Returns:
        ``train`` and the names in ``shares``; each name gets the nearest whole number of distinct sentences.
    """
    order = sorted({text_of(s) for s in sentences}, key=lambda text: (rank(seed, "\0".join(text)), text))
    owner: dict[tuple[str, ...], str] = {}
    begin = 0
    for name, share in shares.items():
        end = begin + round(share * len(order))
        owner.update(dict.fromkeys(order[begin:end], name))
        begin = end
    parts: dict[str, list[Record]] = {name: [] for name in ("train", *shares)}
    for sentence in sentences:
        parts[owner.get(text_of(sentence), "train")].append(sentence)
    return parts


def choose(sentences: Sequence[Record], size: int, *, seed: int) -> list[Record]:
    """``size`` sentences by seed, those with entities first; file order is kept."""
    numbered = sorted(range(len(sentences)), key=lambda i: (not sentences[i]["entities"], rank(seed, f"{i}"), i))
    return [sentences[i] for i in sorted(numbered[:size])]


def run(opts: Options) -> Summary:
    """Read, split, check for leaks, write."""
    if not opts.train:
        raise UserError("s0_prepare_data: --train is needed: the file with the training sentences. See --help.")
    if problem := folder_name(opts.file_name):
        raise UserError(f"s0_prepare_data: --file_name: {opts.file_name!r} {problem}. Name the data set to make.")
    paths = RunPaths(Path(opts.file_dir), opts.file_name, ".", FORMS[opts.compress])
    foreign = _foreign(opts, paths)
    if not (paths.journals / f"{STEP}.lock").exists():  # this step never worked here
        _refuse_foreign(foreign, paths, {})
    given = {name: Path(getattr(opts, name)) for name in SPLITS if getattr(opts, name)}
    sources = {name: read_source(path, opts.format, dense_lang=opts.dense_lang) for name, path in given.items()}
    _refuse_tags(opts, sources.values())
    with step_log(opts, paths) as summary, lock(paths.journals, STEP):
        _report_tags(sources.values(), summary)
        parts = {name: source.sentences for name, source in sources.items()}
        shares = {name: share for name, share in (("dev", opts.dev_share), ("test", opts.test_share))
                  if name not in parts and share > 0}
        parts = {**parts, **cut_off(parts["train"], shares, seed=opts.seed)}
        for name in shares:
            if not parts[name]:
                summary.warn(f"{given['train']}: too few sentences to cut off {name}.jsonl; give more or a --{name} file.")
        read = len(sources["train"].sentences)
        cut = {f"cut off for {name}": len(parts[name]) for name in shares}
        parts["train"], leaks = _without_leaks(opts, parts, summary)
        if opts.size >= 0:
            parts["train"] = choose(parts["train"], opts.size, seed=opts.seed)
        if not parts["train"]:
            raise UserError(f"{given['train']}: no training sentence is left. Check --size, --drop_leaks and the file.")
        if not any(s["entities"] for s in parts["train"]):
            raise UserError(f"{given['train']}: no training sentence has an entity. Check the last column or the key of "
                            "the entities, and --format.")
        _refuse_foreign(foreign, paths, parts)
        _write(opts, paths, parts, list(given.values()), summary)
        for folder in sorted(path.name for path in paths.dataset.iterdir() if path.is_dir()):
            summary.warnings += warn_of_stale(RunPaths(paths.file_dir, paths.file_name, folder))
        summary.accounts.append(Account("training sentences", read, {
            "written": len(parts["train"]), **cut, "shared with dev or test": leaks,
            "beyond --size": read - sum(cut.values()) - leaks - len(parts["train"])}))
    return summary


def _foreign(opts: Options, paths: RunPaths) -> dict[Path, str]:
    """Data files that somebody else made, or corrected after this step made them, and what is known of each."""
    found = {}
    for path in () if opts.overwrite else (paths.train, paths.split("dev"), paths.split("test")):
        if not path.exists():
            continue
        manifest = read_manifest(path)
        if manifest.get("step") != STEP:
            found[path] = "exists and was not made by this step"
        elif manifest.get("sha256") != file_hash(path):
            found[path] = "was changed after this step made it"
    if paths.labels.exists() and not opts.overwrite and read_manifest(paths.train).get("step") != STEP:
        found[paths.labels] = "exists and was not made by this step"
    return found


def _refuse_foreign(foreign: Mapping[Path, str], paths: RunPaths, parts: Mapping[str, list[Record]]) -> None:
    """UserError for a foreign file, unless it holds what would be written there: so this step leaves them when it is
    stopped before their manifests are written."""
    names = {paths.train: "train", paths.split("dev"): "dev", paths.split("test"): "test"}
    for path, problem in foreign.items():
        if path == paths.labels:
            same = _has_labels(paths, _labels_of(parts))
        else:
            same = content_hash(path) == hashlib.sha256(b"".join(map(to_line, parts.get(names[path], ())))).hexdigest()
        if not same:
            raise UserError(f"{path}: {problem}. Choose another --file_name, or use --overwrite to replace it.")


def _labels_of(parts: Mapping[str, list[Record]]) -> list[str]:
    return sorted({e["entity"] for part in parts.values() for s in part for e in s["entities"]})


def _has_labels(paths: RunPaths, labels: list[str]) -> bool:
    """Whether labels.txt holds these labels, in any order: one in another order was put in that order by somebody."""
    with suppress(UserError):  # a missing or broken one is made anew
        return sorted(read_target_labels(paths.labels)) == labels
    return False


def _refuse_tags(opts: Options, sources: Iterable[Source]) -> None:
    for source in sources:
        problems = Problems(source.path, "Correct these tags, or use --invalid_tags=repair.")
        for line, text in source.repairs if opts.invalid_tags == "error" else ():
            problems.add(line, f"{text}.")
        problems.raise_if_any()


def _report_tags(sources: Iterable[Source], summary: Summary) -> None:
    for source in sources:
        if source.bare:
            summary.warn(f"{source.path}: no tag begins with B- or I-, so every tag but O is taken as a label.")
        if source.repairs:
            first = "; ".join(f"line {line}: {text}" for line, text in source.repairs[:3])
            summary.warn(f"{source.path}: {len(source.repairs)} tags repaired, the first: {first}")


def _without_leaks(opts: Options, parts: dict[str, list[Record]], summary: Summary) -> tuple[list[Record], int]:
    """Training sentences, and how many were taken out because dev or test holds the same text."""
    texts = {name: {text_of(s) for s in part} for name, part in parts.items()}
    for name, other in (("train", "dev"), ("train", "test"), ("dev", "test")):
        shared = sum(text_of(s) in texts.get(name, ()) for s in parts.get(other, ()))
        if shared:
            effect = "scores on them are too good."
            if name == "train":
                effect = "taken out of train." if opts.drop_leaks else f"{effect} Take them out of train with --drop_leaks."
            summary.warn(f"{shared} of {len(parts[other])} {other} sentences stand in {name} too: {effect}")
    if not opts.drop_leaks:
        return parts["train"], 0
    held_out = texts.get("dev", set()) | texts.get("test", set())
    kept = [s for s in parts["train"] if text_of(s) not in held_out]
    return kept, len(parts["train"]) - len(kept)


def _write(opts: Options, paths: RunPaths, parts: dict[str, list[Record]], inputs: list[Path], summary: Summary) -> None:
    settings = {"seed": opts.seed, "size": opts.size, "drop_leaks": opts.drop_leaks, "dev_share": opts.dev_share,
                "test_share": opts.test_share}
    publisher = Publisher(paths, STEP, settings, inputs, command_of(opts, config=None, overwrite=None))
    labels = _labels_of(parts)
    _write_labels(paths, labels)
    for name, target in (("train", paths.train), ("dev", paths.split("dev")), ("test", paths.split("test"))):
        if not parts.get(name):
            continue
        target = paths.to_write(target)
        count, digest = write_jsonl(target, parts[name])
        entities = sum(len(s["entities"]) for s in parts[name])
        publisher.publish(target, digest, {"sentences": count, "entities": entities})
        summary.outputs[str(target)] = count
        summary.notes.append(f"{name}: {count:,} sentences, {entities:,} entities")
    publisher.remove_others([paths.split("dev"), paths.split("test")])
    summary.outputs[str(paths.labels)] = len(labels) + 1


def _write_labels(paths: RunPaths, labels: list[str]) -> None:
    """labels.txt; one with the same labels stays as it is."""
    if _has_labels(paths, labels):
        return
    with replacing(paths.labels) as file:
        file.write(("\n".join(["O", *labels]) + "\n").encode("utf-8"))


def main(cmd_args: bool | Sequence[str] = True, **overrides: Any) -> Summary:
    """Run the step from the command line, or with keywords only (``cmd_args=False``)."""
    return run(load_options(Options, cmd_args, overrides))


if __name__ == "__main__":
    run_script(main)
