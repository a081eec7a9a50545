"""The doctor's look at the data set, the label files, the prompts and the run folder."""

from __future__ import annotations

import fcntl
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path

from syn_pipelines.tools._diagnosis import Case, Check, ok, problem, told, warning
from syn_pipelines.utils.dry_run import prompt_as_sent
from syn_pipelines.utils.errors import UserError
from syn_pipelines.utils.journal import Replies
from syn_pipelines.utils.labels import Labels, clashes
from syn_pipelines.utils.language import language_of
from syn_pipelines.utils.llm import LEAST_REPLY_TOKENS, Request
from syn_pipelines.utils.manifest import stale_files
from syn_pipelines.utils.paths import MODES
from syn_pipelines.utils.prompts import load_prompt
from syn_pipelines.utils.questions import Wording, target_names
from syn_pipelines.utils.records import read_sentences, read_train


def look_at_data(case: Case) -> Iterator[Check]:
    """The training sentences."""
    sentences = list(read_train(case.paths))
    by_length = sorted(sentences, key=lambda sentence: sum(map(len, sentence["text"])))
    case.found["extremes"] = by_length[:1] + by_length[-1:]
    case.found["language"] = language = language_of(case.llm, (s["text"] for s in sentences))
    entities = sum(len(sentence["entities"]) for sentence in sentences)
    shown = (f"{case.paths.train}: {len(sentences):,} sentences, {entities:,} entities, language {language.lang}, tokens "
             f"joined {'without blanks' if language.dense else 'by a blank'}")
    if entities:
        yield ok("data", shown)
    else:
        yield warning("data", shown, "Step 2 asks about sentences with entities only; without any it writes nothing.")


def look_at_labels(case: Case) -> Iterator[Check]:
    """labels.txt and both label maps."""
    if not case.has_data:
        return
    labels = Labels.load(case.merge, case.paths)
    case.found["targets"] = labels.targets
    extension = [case.merge.label_prefix + name for name in (*labels.entity.labels, *labels.pos.labels)]
    nearly = clashes(labels.targets, extension)[1]
    shown = (f"{len(labels.targets)} target labels, {len(labels.entity.labels)} entity and {len(labels.pos.labels)} POS "
             "labels to map onto")
    if nearly:
        yield warning("labels", f"{shown}; equal but for case: {', '.join(nearly)}", "--label_prefix=X_ keeps them apart.")
    else:
        yield ok("labels", shown)


def look_at_splits(case: Case) -> Iterator[Check]:
    """dev.jsonl and test.jsonl."""
    for name in ("dev", "test") if case.has_data else ():
        path = case.paths.split(name)
        if not path.is_file():
            yield warning(name, f"{path}: not there, so NER models are {'not evaluated' if name == 'test' else 'not selected'}"
                          " on it", f"Put it there, or make all splits with: {case.paths.prepare}")
            continue
        try:
            count = sum(1 for _ in read_sentences(path, targets=case.found.get("targets")))
        except UserError as err:
            yield told(name, err)
        else:
            yield ok(name, f"{count:,} sentences")


def look_at_prompts(case: Case) -> Iterator[Check]:
    """Prompt files, inventories and label descriptions for the language of the data."""
    language = case.found.get("language")
    if language is None:
        return
    wordings = [Wording.of(case.llm, case.paths, language, mode) for mode in MODES]
    case.found["wordings"] = wordings
    names = [wording.prompt.name for wording in wordings] + [load_prompt("explain", language.lang).name]
    described = len(target_names(case.paths))
    yield ok("prompts", f"{', '.join(names)}; " + (f"{described} target labels are described" if described else
                                                   "target labels go by their names"))


def look_at_context(case: Case) -> Iterator[Check]:
    """Whether the questions leave room for a reply in the context of a local model."""
    context, wordings = case.found.get("context"), case.found.get("wordings", ())
    if not context or not wordings:
        return
    shortest, longest = (max(prompt_as_sent(case.backend, Request("", wording.question(sentence).messages, 1))[1]
                             for wording in wordings) for sentence in case.found["extremes"])
    shown = f"the model takes {context:,} tokens, the prompt of the longest sentence has {longest:,}"
    if longest + LEAST_REPLY_TOKENS <= context:
        yield ok("context", shown)
    elif shortest + LEAST_REPLY_TOKENS <= context:
        yield warning("context", f"{shown}: sentences that do not fit are rejected", "Use a model with a longer context.")
    else:
        yield problem("context", f"{shown}, that of the shortest {shortest:,}", "Use a model with a longer context.")


def look_at_run(case: Case) -> Iterator[Check]:
    """Locks, stored replies and outdated files of the run folder."""
    if not case.has_data:
        return
    run = case.paths.run
    if not run.is_dir():
        yield ok("run", f"{run}: not begun yet")
        return
    busy = [found for path in sorted(case.paths.journals.glob("*.lock")) if (found := _holder(path))]
    for name, process in busy:
        yield warning("run", f"process {process} is at work on {name}", "Wait for it to end before the same step is started.")
    count = 0
    for path in sorted(case.paths.journals.glob("*.jsonl")):
        try:
            with closing(Replies.stored(path)) as replies:
                count += len(replies)
        except UserError as err:
            yield told("run", err)
    stale = stale_files(case.paths)
    for path, names, command in stale[:3]:
        yield warning("run", f"{path}: out of date, {names[0]} has changed since", f"Renew it with: {command}")
    if not busy and not stale:
        yield ok("run", f"{run}: {count:,} stored replies, nobody at work, nothing out of date")


def _holder(path: Path) -> tuple[str, str] | None:
    """(work, process) of a lock that is held right now. Takes it for a moment where it is free."""
    with path.open("r", encoding="utf-8", errors="replace") as file:
        try:
            fcntl.flock(file, fcntl.LOCK_SH | fcntl.LOCK_NB)
        except BlockingIOError:
            return path.stem, file.read(20).strip() or "?"
        fcntl.flock(file, fcntl.LOCK_UN)
    return None
