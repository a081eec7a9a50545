"""The stored replies behind a published file: to go on asking, to plan, or to read them anew.

They are in a journal; where that is gone, the raw replies in the published rows stand in for it.
"""

from __future__ import annotations

import hashlib
import logging
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import closing, contextmanager
from pathlib import Path
from typing import Any

from syn_pipelines.utils.errors import UserError
from syn_pipelines.utils.journal import Journal, Replies, differing, is_begun, lock
from syn_pipelines.utils.jsonl import Problems, file_hash, read_objects
from syn_pipelines.utils.manifest import read_manifest
from syn_pipelines.utils.packing import plain_path
from syn_pipelines.utils.paths import RunPaths
from syn_pipelines.utils.questions import Question
from syn_pipelines.utils.records import Record

log = logging.getLogger(__name__)

ADVICE = ("Use the settings of then, or another --save_type_name to keep both, or --overwrite to throw those replies "
          "away and ask all again.")


def question_hash(question: Question) -> str:
    """Short hash of what is asked, stored with the reply: an id must not change its sentence."""
    return hashlib.sha256(question.messages[-1]["content"].encode()).hexdigest()[:16]


def hashes(question: Question) -> dict[str, str]:
    """What a reply is about: the whole question, and the sentence alone, which a new prompt leaves as it is."""
    return {"asked": question_hash(question), "sentence": hashlib.sha256(question.room.text.encode()).hexdigest()[:16]}


def journal_path(paths: RunPaths, output: Path) -> Path:
    """Where the replies behind an output file are."""
    return paths.journals / f"{plain_path(output).stem}.jsonl"


@contextmanager
def opened_journal(paths: RunPaths, output: Path, prints: Mapping[str, Any], questions: Sequence[Question], *,
                   overwrite: bool, restore: Callable[[Record], dict[str, Any]] | None) -> Iterator[Journal]:
    """The journal of an output file under its lock, checked against what is asked now.

    restore: makes journal entries from published rows, for a run folder whose journal is gone; None: the rows do not
        tell the replies.
    Raises:
        UserError: another process is at it; the replies there answer other questions; they are gone.
    """
    with lock(paths.journals, plain_path(output).stem):
        path = journal_path(paths, output)
        if not overwrite and not is_begun(path) and (found := _published_replies(path, output, restore)):
            Journal.begin(path, *found)
        journal = Journal(path, prints, advice=ADVICE, overwrite=overwrite)
        try:
            _refuse_changed_questions(journal, questions)
            _warn_of_strangers(journal, questions)
            yield journal
        finally:
            journal.close()


@contextmanager
def replies_so_far(paths: RunPaths, output: Path, prints: Mapping[str, Any], questions: Sequence[Question], *,
                   overwrite: bool, restore: Callable[[Record], dict[str, Any]] | None) -> Iterator[Replies]:
    """What ``opened_journal`` would find, with the same errors; writes nothing and takes no lock."""
    path = journal_path(paths, output)
    found = None if overwrite or is_begun(path) else _published_replies(path, output, restore)
    if overwrite or found:
        replies = Replies.of(path, *(found or ({}, [])))
    else:
        replies = Replies.stored(path)
    with closing(replies):
        replies.refuse_others(prints, ADVICE)
        _refuse_changed_questions(replies, questions)
        yield replies


@contextmanager
def replies_to_reparse(paths: RunPaths, output: Path, questions: Sequence[Question], *,
                       restore: Callable[[Record], dict[str, Any]] | None) -> Iterator[Replies]:
    """The replies behind an output file as they are, whatever model and settings made them, under the file's lock.

    Raises:
        UserError: there are none; they are about other sentences; another process is at it.
    """
    path = journal_path(paths, output)
    if not has_replies(paths, output):  # looked up before the lock, which would leave a folder behind
        raise UserError(f"{path}: there are no stored replies to read anew. Run the step without --reparse first.")
    with lock(paths.journals, plain_path(output).stem):
        if not is_begun(path) and (found := _published_replies(path, output, restore)):
            Journal.begin(path, *found)
        with closing(Replies.stored(path)) as replies:
            _refuse_other_sentences(replies, questions)
            _warn_of_strangers(replies, questions)
            yield replies


def has_replies(paths: RunPaths, output: Path) -> bool:
    """Whether a step has a reply for this file; where its journal is gone, whether it has published the file.

    Raises:
        UserError: the journal is broken.
    """
    with closing(Replies.stored(journal_path(paths, output))) as replies:
        return len(replies) > 0 or (output.exists() and "fingerprint" in read_manifest(output))


def _published_replies(path: Path, output: Path, restore: Callable[[Record], dict[str, Any]] | None
                       ) -> tuple[dict[str, Any], list[dict[str, Any]]] | None:
    """Fingerprint and journal entries taken from a published file; None when no model made it."""
    manifest = read_manifest(output)
    if "fingerprint" not in manifest or not output.exists():
        return None
    if restore is None or file_hash(output) != manifest.get("sha256"):
        changed = "" if restore is None else " and the file was changed since, so they cannot be taken from it"
        raise UserError(f"{output}: the replies it was made from ({path}) are gone{changed}. Use --overwrite to ask all "
                        "again, or another --save_type_name to keep this file.")
    return manifest["fingerprint"], [restore(row) for _, row in read_objects(output, Problems(output, ""))]


def _refuse_changed_questions(replies: Replies, questions: Sequence[Question]) -> None:
    for question in questions:
        if question.id in replies:
            wanted = {f"sentence {question.id}": question_hash(question)}
            stored = replies.read(question.id).get("asked")
            if stored and (text := differing({f"sentence {question.id}": stored}, wanted)):
                raise replies.refusal(text, ADVICE)


def _warn_of_strangers(replies: Replies, questions: Iterable[Question]) -> None:
    strangers = sorted(set(replies).difference(question.id for question in questions))
    if strangers:
        log.warning("%s: %s replies are about ids that nothing asks about, such as %r; they are left alone.", replies.path,
                    f"{len(strangers):,}", strangers[0])


def _refuse_other_sentences(replies: Replies, questions: Sequence[Question]) -> None:
    """As ``_refuse_changed_questions``, for replies whose prompt may have changed since: only the sentence counts."""
    for question in questions:
        if question.id in replies:
            entry = replies.read(question.id)
            name = "sentence" if "sentence" in entry else "asked"
            if name in entry and entry[name] != hashes(question)[name]:
                raise UserError(f"{replies.path}: the reply about {question.id} is not about the sentence that has this id "
                                "now. Put the sentences of then back, or ask about those of now with --overwrite.")
