"""Ask a language model about records so that a stop at any moment loses nothing that was finished.

``ask`` sends what a journal does not hold yet and stores every reply at once; ``annotate`` builds on it what steps 1 and
3 share: extension labels for the sentences of a file, published in input order.
"""

from __future__ import annotations

import hashlib
import logging
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from functools import partial
from pathlib import Path
from typing import Any

from syn_pipelines.utils.errors import UserError
from syn_pipelines.utils.journal import Journal, differing, is_begun, lock
from syn_pipelines.utils.jsonl import Problems, file_hash, read_objects, write_jsonl
from syn_pipelines.utils.language import Language
from syn_pipelines.utils.llm import Backend, Reply, Request, choose_backend
from syn_pipelines.utils.manifest import Publisher, read_manifest, warn_of_stale
from syn_pipelines.utils.options import LabelOptions, LlmOptions, command_of
from syn_pipelines.utils.paths import RunPaths
from syn_pipelines.utils.prompts import Prompt, load_prompt
from syn_pipelines.utils.records import Record
from syn_pipelines.utils.replies import parse_reply
from syn_pipelines.utils.summary import Account, Summary, progress, with_reasons

log = logging.getLogger(__name__)

REPLY_FORMAT = "json"
ADVICE = ("Use the settings of then, or another --save_type_name to keep both, or --overwrite to throw those replies "
          "away and ask all again.")


def backend_of(opts: LlmOptions) -> Backend:
    """The backend that the flags ask for; looked at closely before --overwrite throws replies away."""
    backend = choose_backend(opts)
    if opts.overwrite:
        backend.check()
    return backend


@dataclass(frozen=True)
class Question:
    """What to ask about one record. ``room``: (sentence, tokens a token of it, tokens besides) for the reply limit."""

    id: str
    messages: tuple[Mapping[str, str], ...]
    room: tuple[str, float, int]
    task: str
    record: Mapping[str, Any]


def fingerprint(opts: LlmOptions, backend: Backend, prompt: Prompt, questions: Sequence[Question],
                sampling: Mapping[str, float], lineage: str = "") -> dict[str, Any]:
    """Everything that shapes the replies; not batch size, GPU or concurrency, which only shape the speed.

    ``lineage`` stands for the questions where they come from a file that may still grow (then each record is checked
    by itself).
    """
    asked = hashlib.sha256()
    for question in questions:
        asked.update(f"{len(question.id)}:{question.id}{question.messages[-1]['content']}\0".encode())
    return {"backend": backend.name, "model": backend.model, "prompt": prompt.name, "prompt_sha256": prompt.sha256,
            "seed": opts.seed, **sampling, "constraint": "none", "reply_format": REPLY_FORMAT,
            "input": lineage or asked.hexdigest()}


def question_hash(question: Question) -> str:
    """Short hash of what is asked, stored with the reply: an id must not change its sentence."""
    return hashlib.sha256(question.messages[-1]["content"].encode()).hexdigest()[:16]


def reply_seed(seed: int, identity: str, attempt: int) -> int:
    """Seed of one request, the same in any order and batch; a repeated request gets another one."""
    return int.from_bytes(hashlib.sha256(f"{seed}:{identity}:{attempt}".encode()).digest()[:4], "big")


def journal_path(paths: RunPaths, output: Path) -> Path:
    """Where the replies behind an output file are."""
    return paths.journals / f"{output.stem}.jsonl"


@contextmanager
def opened_journal(paths: RunPaths, output: Path, prints: Mapping[str, Any], questions: Sequence[Question], *,
                   overwrite: bool, restore: Callable[[Record], dict[str, Any]] | None) -> Iterator[Journal]:
    """The journal of an output file under its lock, checked against what is asked now.

    restore: makes journal entries from published rows, for a run folder whose journal is gone; None: the rows do not
        tell the replies.
    Raises:
        UserError: another process is at it; the replies there answer other questions; they are gone.
    """
    with lock(paths.journals, output.stem):
        path = journal_path(paths, output)
        if not overwrite and not is_begun(path):
            _restore(path, output, restore)
        journal = Journal(path, prints, advice=ADVICE, overwrite=overwrite)
        try:
            _refuse_changed_questions(journal, questions)
            yield journal
        finally:
            journal.close()


def _restore(path: Path, output: Path, restore: Callable[[Record], dict[str, Any]] | None) -> None:
    manifest = read_manifest(output)
    if "fingerprint" not in manifest or not output.exists():
        return
    if restore is None or file_hash(output) != manifest.get("sha256"):
        changed = "" if restore is None else " and the file was changed since, so they cannot be taken from it"
        raise UserError(f"{output}: the replies it was made from ({path}) are gone{changed}. Use --overwrite to ask all "
                        "again, or another --save_type_name to keep this file.")
    Journal.begin(path, manifest["fingerprint"], [restore(row) for _, row in read_objects(output, Problems(output, ""))])


def _refuse_changed_questions(journal: Journal, questions: Sequence[Question]) -> None:
    for question in questions:
        if question.id in journal:
            wanted = {f"sentence {question.id}": question_hash(question)}
            stored = journal.read(question.id).get("asked")
            if stored and (text := differing({f"sentence {question.id}": stored}, wanted)):
                raise journal.refusal(text)


def ask(opts: LlmOptions, backend: Backend, journal: Journal, questions: Sequence[Question], *, what: str,
        sampling: Mapping[str, float], is_bad: Callable[[dict[str, Any]], bool], each: int = 1) -> int:
    """Ask the questions that --skip and --limit choose and that have no reply yet. Returns how many were asked.

    is_bad: tells from a stored reply whether --retry_failed asks again. each: how many questions in a row are about one
    sentence (the flags count sentences).
    """
    first = max(opts.skip, 0) * each
    chosen = questions[first:] if opts.limit < 0 else questions[first:first + opts.limit * each]
    if opts.retry_failed:
        pending = [q for q in chosen if q.id in journal and is_bad(journal.read(q.id))]
    else:
        pending = [q for q in chosen if q.id not in journal]
    if not pending:
        return 0
    backend.check()
    log.info("%s: asking %s (%s) about %s of %s", what, backend.name, backend.model,
             f"{len(pending):,}", f"{len(questions):,}")
    by_id = {q.id: q for q in pending}
    requests = (_request(opts, backend, question, journal, sampling) for question in pending)
    for reply in progress(backend.generate(requests), total=len(pending), what=what, unit="sentence"):
        journal.append(_entry(by_id.pop(reply.id), reply))
    for question in by_id.values():  # a backend that forgets a request must not lose the record
        journal.append(_entry(question, Reply(question.id, "", "error", error="the backend gave no reply")))
    return len(pending)


def _request(opts: LlmOptions, backend: Backend, question: Question, journal: Journal,
             sampling: Mapping[str, float]) -> Request:
    sentence, each, besides = question.room
    return Request(question.id, question.messages, max_new_tokens=int(besides + each * backend.count_tokens(sentence)),
                   temperature=sampling["temperature"], top_p=sampling["top_p"],
                   seed=reply_seed(opts.seed, question.id, journal.attempts.get(question.id, 0)),
                   task=question.task, record=question.record)


def _entry(question: Question, reply: Reply) -> dict[str, Any]:
    """Journal line of a reply; half a surrogate pair cannot be stored and becomes U+FFFD."""
    entry = {**asdict(reply), "asked": question_hash(question)}
    return {k: v.encode("utf-16-le", "surrogatepass").decode("utf-16-le", "replace") if isinstance(v, str) else v
            for k, v in entry.items()}


# --- steps 1 and 3 -----------------------------------------------------------------------------------------------

def annotate(opts: LabelOptions, paths: RunPaths, sentences: Sequence[Record], language: Language, *, mode: str,
             source: Path, output: Path, temperature: float, lineage: str, summary: Summary) -> None:
    """Label sentences with a model (``mode`` "entity" or "pos") and publish one annotation record for each.

    Args:
        source: the file the sentences come from. lineage: see ``fingerprint``.
        summary: is filled in.
    """
    publisher = Publisher(paths, summary.step, {"mode": mode, "dense": language.dense, "lang": language.lang}, [source],
                          renewal(opts))
    backend = backend_of(opts)
    prompt = load_prompt(mode, language.lang)
    sampling = {"temperature": temperature, "top_p": 1.0}
    question_about = partial(_label_question, language=language, prompt=prompt, mode=mode)
    questions = [question_about(sentence) for sentence in sentences]
    prints = {"mode": mode, **fingerprint(opts, backend, prompt, questions, sampling, lineage)}
    with opened_journal(paths, output, prints, questions, overwrite=opts.overwrite,
                        restore=lambda row: _entry_of_row(row, question_about(row))) as journal:
        asked = ask(opts, backend, journal, questions, what=f"{summary.step} {mode}", sampling=sampling,
                    is_bad=lambda entry: _annotation("", [], entry, mode)["status"] in ("rejected", "failed"))
        counts: Counter[str] = Counter()
        reasons: Counter[str] = Counter()
        before = published(output)
        _, digest = write_jsonl(output, _rows(sentences, journal, mode, counts, reasons))
        publisher.publish(output, digest, {"sentences": len(sentences), **with_reasons(counts),
                                           "reasons": with_reasons(reasons)},
                          complete=not counts["not_asked"], fingerprint=prints)
    summary.accounts.append(Account(f"sentences ({mode})", len(sentences), {
        "ok": counts["ok"], "repaired": counts["repaired"], "rejected": counts["rejected"], "failed": counts["failed"],
        "not asked yet": counts["not_asked"]}, dict(reasons)))
    summary.outputs[str(output)] = len(sentences) - counts["not_asked"]
    summary.up_to_date = not asked and not counts["not_asked"] and digest == before
    warn_of_losses(summary, opts, counts)
    summary.warnings += warn_of_stale(paths, because_of=map(Path, summary.outputs))


def warn_of_losses(summary: Summary, opts: LlmOptions, counts: Mapping[str, int]) -> None:
    """Say what was lost, what was not asked, and what to do about it."""
    if counts["rejected"] + counts["failed"]:
        again = f"{renewal(opts)} --retry_failed"
        summary.warn(f"{counts['rejected']} replies could not be used and {counts['failed']} requests failed; these "
                     f"sentences keep their gold labels only. Ask them again with: {again}")
    if counts["not_asked"]:
        summary.warn(f"{counts['not_asked']} sentences were not asked yet. Ask the rest with: {renewal(opts)}")


def published(output: Path) -> str:
    """sha256 of a file that is as its manifest says, "" for any other."""
    found = file_hash(output)
    return found if found and found == read_manifest(output).get("sha256") else ""


def renewal(opts: LlmOptions) -> str:
    """The command that makes or completes the file: these options without what only shapes one run of it."""
    return command_of(opts, **dict.fromkeys(("skip", "limit", "overwrite", "retry_failed", "n_gpu", "batch_size", "config")))


def _label_question(sentence: Record, language: Language, prompt: Prompt, mode: str) -> Question:
    text = language.join(sentence["text"])
    # The longest useful reply: POS writes every word with its tag in about 12 tokens, entities rarely fill half a text.
    room = (text, 14.0, 64) if mode == "pos" else (text, 8.0, 96)
    return Question(sentence["id"], ({"role": "user", "content": prompt.render(text)},), room, mode,
                    {"tokens": sentence["text"], "dense": language.dense, "lang": language.lang, "entities": []})


def _rows(sentences: Iterable[Record], journal: Journal, mode: str, counts: Counter[str],
          reasons: Counter[str]) -> Iterator[Record]:
    """The annotation records there are, in input order; counts what became of each sentence."""
    for sentence in sentences:
        if sentence["id"] not in journal:
            counts["not_asked"] += 1
            continue
        row = _annotation(sentence["id"], sentence["text"], journal.read(sentence["id"]), mode)
        counts[row["status"]] += 1
        if row["status"] in ("rejected", "failed"):
            reasons[row["reason"].split(":", 1)[0]] += 1  # "too_long: 900 tokens" counts as "too_long"
        yield row


def _annotation(identity: str, tokens: Sequence[str], entry: Mapping[str, Any], mode: str) -> Record:
    """The annotation record of a stored reply; a pure function, so a better parser improves old replies too."""
    row = {"id": identity, "text": tokens, "reply": entry["text"], "items": []}
    if entry["finish_reason"] == "error":
        return {**row, "status": "failed", "reason": entry["error"] or "error"}
    if entry["finish_reason"] == "too_long":
        return {**row, "status": "rejected", "reason": f"too_long: {entry['error']}"}
    parsed = parse_reply(entry["text"], mode, cut=entry["finish_reason"] == "length")
    return {**row, "items": parsed.items, "status": parsed.status, "reason": parsed.reason}


def _entry_of_row(row: Record, question: Question) -> dict[str, Any]:
    """Journal entry of a published annotation, the reverse of ``_annotation`` as far as it goes (no token counts).

    question: about the text that the row has, so that the row is not taken for an answer about another.
    """
    finish, error = "stop", ""
    if row["status"] == "failed":
        finish, error = "error", row["reason"]
    elif row["reason"].startswith("too_long: "):
        finish, error = "too_long", row["reason"].removeprefix("too_long: ")
    entry = {"id": row["id"], "text": row["reply"], "finish_reason": finish, "error": error,
             "asked": question_hash(question)}
    cut = {**entry, "finish_reason": "length"}
    # Whether the token limit cut a reply is not in the row, and decides in rare cases how it is read.
    whole_as_row, cut_as_row = (row == _annotation(row["id"], row["text"], e, question.task) for e in (entry, cut))
    return cut if finish == "stop" and cut_as_row and not whole_as_row else entry


def source_lineage(path: Path) -> str:
    """Fingerprint of a file made by another LLM step: how it was made, so that more of the same may be added to it."""
    made = read_manifest(path).get("fingerprint")
    if not made:
        return file_hash(path) or ""
    return hashlib.sha256(repr(sorted(made.items())).encode()).hexdigest()
