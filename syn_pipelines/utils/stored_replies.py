"""The stored replies behind a published file: to go on asking, to plan, or to read them anew.

They are in a journal; where that is gone, the raw replies in the published rows stand in for it.
"""

from __future__ import annotations

import hashlib
import logging
import sys
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import closing, contextmanager
from itertools import islice
from pathlib import Path
from typing import Any

from syn_pipelines.utils.compact import IdMap
from syn_pipelines.utils.errors import UserError
from syn_pipelines.utils.journal import Journal, Replies, differing, is_begun, lock
from syn_pipelines.utils.jsonl import Problems, file_hash, read_objects
from syn_pipelines.utils.llm import Reply
from syn_pipelines.utils.manifest import read_manifest
from syn_pipelines.utils.options import LlmOptions
from syn_pipelines.utils.packing import plain_path
from syn_pipelines.utils.paths import RunPaths
from syn_pipelines.utils.questions import Question, Questions
from syn_pipelines.utils.records import Record

log = logging.getLogger(__name__)

ADVICE = ("Use the settings of then, or another --save_type_name to keep both, or --overwrite to throw those replies "
          "away and ask all again.")


# Whether a stored reply to a question is one of those that --retry_failed asks again.
IsBad = Callable[[dict[str, Any], Question], bool]


def question_hash(question: Question) -> str:
    """Short hash of what is asked, stored with the reply: an id must not change its sentence."""
    return hashlib.sha256(question.messages[-1]["content"].encode()).hexdigest()[:16]


def hashes(question: Question) -> dict[str, str]:
    """What a reply is about: the whole question, and the sentence alone, which a new prompt leaves as it is."""
    return {"asked": question_hash(question), "sentence": hashlib.sha256(question.room.text.encode()).hexdigest()[:16]}


def entry_of(question: Question, reply: Reply) -> dict[str, Any]:
    """Journal line of a reply; half a surrogate pair cannot be stored and becomes U+FFFD."""
    entry = {**vars(reply), **hashes(question)}
    return {name: _storable(value) if isinstance(value, str) else value for name, value in entry.items()}


def _storable(text: str) -> str:
    try:
        text.encode()
    except UnicodeEncodeError:
        return text.encode("utf-16-le", "surrogatepass").decode("utf-16-le", "replace")
    return text


def journal_path(paths: RunPaths, output: Path) -> Path:
    """Where the replies behind an output file are."""
    return paths.journals / f"{plain_path(output).stem}.jsonl"


@contextmanager
def opened_journal(paths: RunPaths, output: Path, prints: Mapping[str, Any], *, overwrite: bool,
                   restore: Callable[[Record], dict[str, Any]] | None) -> Iterator[Journal]:
    """The journal of an output file under its lock; look through it (``checked``) before anything is asked.

    restore: makes journal entries from published rows, for a run folder whose journal is gone; None: the rows do not
        tell the replies.
    Raises:
        UserError: another process is at it; the replies there were made otherwise; they are gone.
    """
    with lock(paths.journals, plain_path(output).stem):
        path = journal_path(paths, output)
        if not overwrite and not is_begun(path) and (found := _published_replies(path, output, restore)):
            Journal.begin(path, *found)
        with closing(Journal(path, prints, advice=ADVICE, overwrite=overwrite)) as journal:
            yield journal


@contextmanager
def replies_so_far(paths: RunPaths, output: Path, prints: Mapping[str, Any], *, overwrite: bool,
                   restore: Callable[[Record], dict[str, Any]] | None) -> Iterator[Replies]:
    """What ``opened_journal`` would find, with the same errors; writes nothing and takes no lock."""
    path = journal_path(paths, output)
    found = None if overwrite or is_begun(path) else _published_replies(path, output, restore)
    if overwrite or found:
        replies = Replies.of(path, *(found or ({}, [])))
    else:
        replies = Replies.stored(path)
    with closing(replies):
        replies.refuse_others(prints, ADVICE)
        yield replies


@contextmanager
def replies_to_reparse(paths: RunPaths, output: Path, questions: Iterable[Question], *,
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
            for _ in checked(replies, questions, refuse=_refuse_other_sentence):
                pass
            yield replies


def has_replies(paths: RunPaths, output: Path) -> bool:
    """Whether a step has a reply for this file; where its journal is gone, whether it has published the file.

    Raises:
        UserError: the journal is broken.
    """
    with closing(Replies.stored(journal_path(paths, output))) as replies:
        return len(replies) > 0 or (output.exists() and "fingerprint" in read_manifest(output))


def _published_replies(path: Path, output: Path, restore: Callable[[Record], dict[str, Any]] | None
                       ) -> tuple[dict[str, Any], Iterator[dict[str, Any]]] | None:
    """Fingerprint and journal entries taken from a published file; None when no model made it."""
    manifest = read_manifest(output)
    if "fingerprint" not in manifest or not output.exists():
        return None
    if restore is None or file_hash(output) != manifest.get("sha256"):
        changed = "" if restore is None else " and the file was changed since, so they cannot be taken from it"
        raise UserError(f"{output}: the replies it was made from ({path}) are gone{changed}. Use --overwrite to ask all "
                        "again, or another --save_type_name to keep this file.")
    return manifest["fingerprint"], (restore(row) for _, row in read_objects(output, Problems(output, "")))


def refuse_changed_question(replies: Replies, question: Question, entry: Mapping[str, Any]) -> None:
    """UserError where a stored reply answers another question than the one with its id now."""
    name = f"sentence {question.id}"
    stored = entry.get("asked")
    if stored and (text := differing({name: stored}, {name: question_hash(question)})):
        raise replies.refusal(text, ADVICE)


def _refuse_other_sentence(replies: Replies, question: Question, entry: Mapping[str, Any]) -> None:
    """As ``refuse_changed_question``, for replies whose prompt may have changed since: only the sentence counts."""
    name = "sentence" if "sentence" in entry else "asked"
    if name in entry and entry[name] != hashes(question)[name]:
        raise UserError(f"{replies.path}: the reply about {question.id} is not about the sentence that has this id "
                        "now. Put the sentences of then back, or ask about those of now with --overwrite.")


def checked(replies: Replies, questions: Iterable[Question], *, warn: bool = True,
            refuse: Callable[[Replies, Question, Mapping[str, Any]], None] = refuse_changed_question) -> Iterator[Question]:
    """The questions, after a look at the reply that each has; at the end a warning of replies that none has asked for.

    questions: can be iterated over twice. warn: False leaves that warning out. refuse: UserError for a reply that is not
    about the question.
    """
    answered = 0
    for question in questions:
        if question.id in replies:
            answered += 1
            refuse(replies, question, replies.read(question.id))
        yield question
    if warn and answered < len(replies):
        _warn_of_strangers(replies, questions)


def _warn_of_strangers(replies: Replies, questions: Iterable[Question]) -> None:
    asked = IdMap()
    for question in questions:
        asked[question.id] = 0
    number, first = 0, ""
    for identity in replies:
        if identity not in asked:
            number, first = number + 1, min(first or identity, identity)
    if number:
        log.warning("%s: %s replies are about ids that nothing asks about, such as %r; they are left alone.", replies.path,
                    f"{number:,}", first)


# --- which questions are left ------------------------------------------------------------------------------------------

def pending_questions(opts: LlmOptions, replies: Replies, questions: Iterable[Question], is_bad: IsBad, each: int
                      ) -> Iterator[Question]:
    """The questions to ask now, see ``ask``, each looked up when it is read."""
    first, last = _chosen(opts, each)
    return (question for question in islice(questions, first, last) if _is_pending(opts, replies, question, is_bad))


def _chosen(opts: LlmOptions, each: int) -> tuple[int, int]:
    """Half-open places of the questions that --skip and --limit leave."""
    first = max(opts.skip, 0) * each
    last = sys.maxsize if opts.limit < 0 else first + opts.limit * each
    return min(first, sys.maxsize), min(last, sys.maxsize)


def _is_pending(opts: LlmOptions, replies: Replies, question: Question, is_bad: IsBad) -> bool:
    if opts.retry_failed:
        return question.id in replies and is_bad(replies.read(question.id), question)
    return question.id not in replies


def tally(opts: LlmOptions, replies: Replies, questions: Questions, is_bad: IsBad, each: int, *, warn: bool = True
          ) -> tuple[int, int]:
    """How many questions are to be asked now, and how many others have a reply. All replies are looked at, see ``checked``."""
    first, last = _chosen(opts, each)
    pending = answered = 0
    for place, question in enumerate(checked(replies, questions, warn=warn)):
        if first <= place < last and _is_pending(opts, replies, question, is_bad):
            pending += 1
        else:
            answered += question.id in replies
    return pending, answered
