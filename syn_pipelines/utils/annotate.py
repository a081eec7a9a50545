"""Ask a language model about records so that a stop at any moment loses nothing that was finished.

``ask`` sends what a journal does not hold yet and stores every reply at once; ``annotate`` builds on it what steps 1 and
3 share: extension labels for the sentences of a file, published in input order.
"""

from __future__ import annotations

import hashlib
import logging
from collections import Counter
from collections.abc import Callable, Container, Iterable, Iterator, Mapping, Sequence
from contextlib import closing, suppress
from functools import lru_cache
from itertools import chain
from pathlib import Path
from typing import Any

from syn_pipelines.utils.dry_run import Job, model_name, plan
from syn_pipelines.utils.errors import ServiceError, UserError
from syn_pipelines.utils.journal import Journal, Replies
from syn_pipelines.utils.jsonl import content_hash, file_hash, write_jsonl
from syn_pipelines.utils.language import Language
from syn_pipelines.utils.llm import Backend, Reply, Request, choose_backend
from syn_pipelines.utils.llm.checkpoints import local_path
from syn_pipelines.utils.manifest import Publisher, read_manifest, warn_of_stale
from syn_pipelines.utils.options import LabelOptions, LlmOptions, command_of
from syn_pipelines.utils.paths import RunPaths
from syn_pipelines.utils.prompts import Prompt
from syn_pipelines.utils.questions import Question, Questions, Wording, notes_on
from syn_pipelines.utils.records import Record
from syn_pipelines.utils.replies import parse_reply
from syn_pipelines.utils.source import Source
from syn_pipelines.utils.stored_replies import (
    IsBad,
    entry_of,
    hashes,
    opened_journal,
    pending_questions,
    replies_so_far,
    replies_to_reparse,
    tally,
)
from syn_pipelines.utils.summary import Account, Progress, Summary, Usage, with_reasons

log = logging.getLogger(__name__)

# Failures in a row after which the model is to blame. More than the prompts of a batch that a GPU may have no room for:
# the longest come first.
MOST_FAILURES = 50

def backend_of(opts: LlmOptions) -> Backend:
    """The backend that the flags ask for; looked at closely before --overwrite throws replies away."""
    backend = choose_backend(opts)
    if opts.overwrite:
        backend.check()
    return backend


def fingerprint(opts: LlmOptions, backend: Backend, prompt: Prompt, questions: Iterable[Question],
                sampling: Mapping[str, float], lineage: str = "", *, shape: Mapping[str, str]) -> dict[str, Any]:
    """Everything that shapes the replies; not batch size, GPU, scheduler, address or concurrency: these shape the speed.

    ``lineage`` stands for the questions where they come from a file that may still grow (then each record is checked
    by itself). ``shape``: what the step asks for besides the prompt file and the sentences.
    """
    template = local_path(opts.chat_template, "--chat_template")
    template_print = {"chat_template": file_hash(template) or "no such file"} if opts.chat_template else {}
    return {"backend": backend.name, "model": backend.model, "prompt": prompt.name, "prompt_sha256": prompt.sha256,
            **template_print, "seed": opts.seed, **sampling, **shape, "input": lineage or hash_of_questions(questions)}


def hash_of_questions(questions: Iterable[Question]) -> str:
    """Fingerprint of what is asked, and about which records."""
    asked = hashlib.sha256()
    for question in questions:
        asked.update(f"{len(question.id)}:{question.id}{question.messages[-1]['content']}\0".encode())
    return asked.hexdigest()


def reply_seed(seed: int, identity: str, attempt: int) -> int:
    """Seed of one request, the same in any order and batch; a repeated request gets another one."""
    return int.from_bytes(hashlib.sha256(f"{seed}:{identity}:{attempt}".encode()).digest()[:4], "big")


def refuse_contradictions(opts: LlmOptions) -> None:
    """UserError for flags that cannot mean anything together with --reparse."""
    if opts.reparse:
        given = [name for name in ("overwrite", "retry_failed", "dry_run") if getattr(opts, name)]
        given += [name for name, low in (("skip", 1), ("limit", 0)) if getattr(opts, name) >= low]
        if given:
            raise UserError(f"--reparse asks nothing and reads all stored replies anew, but --{' and --'.join(given)} is given "
                            "too. Leave one of them out.")


def ask(opts: LlmOptions, backend: Backend, journal: Journal, questions: Questions, *, what: str,
        sampling: Mapping[str, float], is_bad: IsBad, summary: Summary, each: int = 1, unit: str = "sentence") -> None:
    """Ask the questions that --skip and --limit choose and that have no reply yet.

    In memory are the questions under way only: as many as the backend reads ahead. It may read the requests in a thread
    of its own (one at a time), if closing its replies ends that.

    is_bad: tells from a stored reply and its question whether --retry_failed asks again. summary: gets its ``usage``, None
    when nothing was asked. each, unit: how many questions in a row are about one sentence (the flags count sentences), and
    the name of one.
    Raises:
        UserError: a stored reply is about another question; the sentences have changed meanwhile.
    """
    number, _ = tally(opts, journal, questions, is_bad, each)
    if not number:
        return
    backend.check()
    log.info("%s: asking %s (%s) about %s of %s", what, backend.name, backend.model, f"{number:,}", f"{questions.number:,}")
    summary.usage = Usage(unit, model_name(backend))
    under_way: dict[str, Question] = {}
    requests = _requests(opts, _counter(backend), pending_questions(opts, journal, questions, is_bad, each), questions.source,
                         journal, sampling, under_way)
    with Progress(summary.usage, total=number, what=what) as progress, \
            closing(backend.generate(requests)) as replies:  # closed at once when stopped, not when collected
        def store(reply: Reply) -> None:
            question = under_way.pop(reply.id)
            entry = entry_of(question, reply)
            journal.append(entry)
            progress.add(reply, kept=not is_bad(entry, question))

        try:
            for reply in sure_failures(replies, works=_has_worked(journal)):
                store(reply)
        except KeyboardInterrupt as stop:  # mostly while a reply was being stored: others have come meanwhile
            for reply in _answers_at_hand(replies, stop):
                store(reply)
            raise
        # A backend that forgets a request, or does not read all of them, must not lose the record.
        for identity in chain(list(under_way), (request.id for request in requests)):
            store(Reply(identity, "", "error", error="the backend gave no reply"))
    questions.source.refuse_changed()
    journal.refuse_gone()


def _requests(opts: LlmOptions, count: Callable[[str], int], questions: Iterable[Question], source: Source, journal: Replies,
              sampling: Mapping[str, float], under_way: dict[str, Question]) -> Iterator[Request]:
    """The requests, each made when the backend reads it and noted as under way; no more of them once the sentences are
    others, so that replies under way come to their end."""
    try:
        for question in questions:
            under_way[question.id] = question
            yield _request(opts, count, question, journal, sampling)
    except UserError:
        if not source.has_changed():
            raise


def _answers_at_hand(replies: Iterator[Reply], stop: KeyboardInterrupt) -> Iterator[Reply]:
    """What a backend that is told to stop has answered already. Nothing failed: that would be asked again."""
    with suppress(KeyboardInterrupt):
        yield from (reply for reply in chain([replies.throw(stop)], replies) if reply.finish_reason != "error")


def sure_failures(replies: Iterable[Reply], *, works: bool) -> Iterator[Reply]:
    """The replies as they come, failed ones not before it is sure that the request is to blame and not the model.

    That is when the model has answered another request, and has not failed ``MOST_FAILURES`` times in a row. works: it
    has answered one in an earlier run.
    Raises:
        ServiceError: it is the model. Failures in a row are not given: these requests count as not asked.
    """
    failed: list[Reply] = []
    for reply in replies:
        if reply.finish_reason == "error":
            failed.append(reply)
            if len(failed) >= MOST_FAILURES:
                raise _broken_model(failed)
        elif reply.finish_reason == "too_long":  # said without the model
            yield reply
        else:
            works = True
            yield from failed
            failed.clear()
            yield reply
    if failed and not works:
        raise _broken_model(failed)
    yield from failed


def _broken_model(failed: Sequence[Reply]) -> ServiceError:
    requests = f"{len(failed)} requests in a row" if len(failed) > 1 else "the only request"
    return ServiceError(f"the model failed on {requests}, the last time with: {failed[-1].error}. None of them is marked as "
                        "failed, and what is finished is kept; once this is mended, the same command goes on from there. If "
                        "these sentences are to blame and not the model, leave them out with --skip and --limit.")


def _has_worked(journal: Replies) -> bool:
    return any(entry["finish_reason"] not in ("error", "too_long") for entry in journal.entries())


def plan_asking(opts: LlmOptions, backend: Backend, replies: Replies, questions: Questions, *, what: str,
                sampling: Mapping[str, float], is_bad: IsBad, summary: Summary, paths: RunPaths,
                settings: Mapping[str, str], rule: str, each: int = 1, unit: str = "sentence") -> None:
    """What ``ask`` would do, into ``summary.plan``; asks nothing but the few requests of --dry_run=probe.

    settings: options that tell this work from other work of the same step. rule: see ``dry_run.RULES``.
    """
    pending, answered = tally(opts, replies, questions, is_bad, each, warn=False)
    count, known = _counter(backend), {}

    def requests(places: Container[int]) -> dict[int, Request]:
        found = {place: question for place, question in enumerate(pending_questions(opts, replies, questions, is_bad, each))
                 if place in places}
        known.update((question.id, question) for question in found.values())
        return {place: _request(opts, count, question, replies, sampling) for place, question in found.items()}

    job = Job(what, unit, questions.number, answered, pending, replies, rule, requests,
              lambda reply: not is_bad(entry_of(known[reply.id], reply), known[reply.id]), paths.log,
              {"step": summary.step, **settings}, opts.seed)
    summary.plan = plan(job, backend, probe=opts.dry_run == "probe")


def _counter(backend: Backend) -> Callable[[str], int]:
    """Length in tokens; what is the same in every request (``Room.items``) is counted once."""
    return lru_cache(maxsize=1024)(backend.count_tokens)


def _request(opts: LlmOptions, count: Callable[[str], int], question: Question, journal: Replies,
             sampling: Mapping[str, float]) -> Request:
    return Request(question.id, question.messages, max_new_tokens=question.room.tokens(count),
                   temperature=sampling["temperature"], top_p=sampling["top_p"],
                   seed=reply_seed(opts.seed, question.id, journal.attempts(question.id)),
                   constraint=question.constraint, task=question.task, record=question.record)


# --- steps 1 and 3 -----------------------------------------------------------------------------------------------

def annotate(opts: LabelOptions, paths: RunPaths, source: Source, language: Language, *, mode: str, output: Path,
             temperature: float, lineage: str, summary: Summary) -> None:
    """Label sentences with a model (``mode`` "entity" or "pos") and publish one annotation record for each.

    Args:
        source: the sentences; they are read once or twice before anything is asked, while it is asked, and to publish.
        lineage: see ``fingerprint``. summary: is filled in.
    """
    refuse_contradictions(opts)
    what, sampling = f"{summary.step} {mode}", {"temperature": temperature, "top_p": 1.0}
    publisher = Publisher(paths, summary.step, {"mode": mode, "dense": language.dense, "lang": language.lang}, [source.path],
                          renewal(opts, output))
    wording = Wording.of(opts, paths, language, mode)
    summary.notes += notes_on(opts, mode)
    questions = Questions(source, lambda sentence: [wording.question(sentence)])
    asking = {"what": what, "sampling": sampling, "summary": summary,
              "is_bad": lambda entry, _: _annotation("", [], entry, mode, wording.reply_format)["status"] in ("rejected", "failed")}

    published_as = _reply_format(read_manifest(output).get("fingerprint", {}))

    def restore(row: Record) -> dict[str, Any]:
        return _entry_of_row(row, wording.question(row), published_as)

    if opts.reparse:
        with replies_to_reparse(paths, output, questions, restore=restore) as replies:
            _publish(publisher, source, replies, mode, output, replies.fingerprint, summary)
        return
    backend = backend_of(opts)
    prints = {"mode": mode, **fingerprint(opts, backend, wording.prompt, questions, sampling, lineage, shape=wording.prints)}
    if opts.dry_run:
        with replies_so_far(paths, output, prints, overwrite=opts.overwrite, restore=restore) as replies:
            rule = "pos inline" if wording.reply_format == "inline" else mode
            same = {"mode": mode, "constraint": opts.constraint, "reply_format": opts.reply_format}
            plan_asking(opts, backend, replies, questions, paths=paths, settings=same, rule=rule, **asking)
        return
    with opened_journal(paths, output, prints, overwrite=opts.overwrite, restore=restore) as journal:
        ask(opts, backend, journal, questions, **asking)
        _publish(publisher, source, journal, mode, output, prints, summary)


def _publish(publisher: Publisher, source: Source, replies: Replies, mode: str, output: Path,
             prints: Mapping[str, Any], summary: Summary) -> None:
    """Write the annotation records and their manifest, and report on them."""
    counts: Counter[str] = Counter()
    reasons: Counter[str] = Counter()
    before = published(output)
    output = publisher.paths.to_write(output)
    _, digest = write_jsonl(output, _rows(source, replies, mode, _reply_format(prints), counts, reasons))
    publisher.publish(output, digest, {"sentences": source.number, **with_reasons(counts),
                                       "reasons": with_reasons(reasons)},
                      complete=not counts["not_asked"], fingerprint=prints)
    summary.accounts.append(Account(f"sentences ({mode})", source.number, {
        "ok": counts["ok"], "repaired": counts["repaired"], "rejected": counts["rejected"], "failed": counts["failed"],
        "not asked yet": counts["not_asked"]}, dict(reasons)))
    summary.outputs[str(output)] = source.number - counts["not_asked"]
    summary.up_to_date = not summary.usage and not counts["not_asked"] and digest == before
    warn_of_losses(summary, publisher.command, counts)
    summary.warnings += warn_of_stale(publisher.paths, because_of=map(Path, summary.outputs))


def warn_of_losses(summary: Summary, command: str, counts: Mapping[str, int]) -> None:
    """Say what was lost, what was not asked, and what to do about it. ``command``: makes or completes the file."""
    if counts["rejected"] + counts["failed"]:
        again = f"{command} --retry_failed"
        summary.warn(f"{counts['rejected']} replies could not be used and {counts['failed']} requests failed; these "
                     f"sentences keep their gold labels only. Ask them again with: {again}")
    if counts["not_asked"]:
        summary.warn(f"{counts['not_asked']} sentences were not asked yet. Ask the rest with: {command}")


def published(output: Path) -> str:
    """sha256 of a file that is as its manifest says, "" for any other."""
    found = file_hash(output)
    return found if found and found == read_manifest(output).get("sha256") else ""


def renewal(opts: LlmOptions, output: Path) -> str:
    """The command that makes or completes the file: these options without what only shapes one run of it.

    For --reparse, which may be called without a model, the command that asked.
    """
    if opts.reparse and (command := read_manifest(output).get("command")):
        return command
    once = ("skip", "limit", "overwrite", "retry_failed", "reparse", "dry_run", "n_gpu", "batch_size", "concurrency",
            "scheduler", "config", "engine", "ray_address", "num_workers", "gpus_per_worker", "cpus_per_worker")
    return command_of(opts, **dict.fromkeys(once))


def _reply_format(prints: Mapping[str, Any]) -> str:
    """How the replies with this fingerprint were asked to look; --reparse may be called without the flags of then."""
    return str(prints.get("reply_format", "json"))


def _rows(sentences: Iterable[Record], journal: Replies, mode: str, reply_format: str, counts: Counter[str],
          reasons: Counter[str]) -> Iterator[Record]:
    """The annotation records there are, in input order; counts what became of each sentence."""
    for sentence in sentences:
        if sentence["id"] not in journal:
            counts["not_asked"] += 1
            continue
        entry = journal.read(sentence["id"])
        row = _annotation(sentence["id"], sentence["text"], entry, mode, reply_format)
        counts[row["status"]] += 1
        counts["closed"] += bool(entry.get("closed"))
        if row["status"] in ("rejected", "failed"):
            reasons[row["reason"].split(":", 1)[0]] += 1  # "too_long: 900 tokens" counts as "too_long"
        yield row


def _annotation(identity: str, tokens: Sequence[str], entry: Mapping[str, Any], mode: str, reply_format: str) -> Record:
    """The annotation record of a stored reply; a pure function, so a better parser improves old replies too."""
    row = {"id": identity, "text": tokens, "reply": entry["text"], "items": []}
    if entry["finish_reason"] == "error":
        return {**row, "status": "failed", "reason": entry["error"] or "error"}
    if entry["finish_reason"] == "too_long":
        return {**row, "status": "rejected", "reason": f"too_long: {entry['error']}"}
    parsed = parse_reply(entry["text"], mode, cut=entry["finish_reason"] == "length", reply_format=reply_format)
    return {**row, "items": parsed.items, "status": parsed.status, "reason": parsed.reason}


def _entry_of_row(row: Record, question: Question, reply_format: str) -> dict[str, Any]:
    """Journal entry of a published annotation, the reverse of ``_annotation`` as far as it goes (no token counts).

    question: about the text that the row has, so that the row is not taken for an answer about another.
    """
    finish, error = "stop", ""
    if row["status"] == "failed":
        finish, error = "error", row["reason"]
    elif row["reason"].startswith("too_long: "):
        finish, error = "too_long", row["reason"].removeprefix("too_long: ")
    entry = {"id": row["id"], "text": row["reply"], "finish_reason": finish, "error": error,
             **hashes(question)}
    cut = {**entry, "finish_reason": "length"}
    # Whether the token limit cut a reply is not in the row, and decides in rare cases how it is read.
    whole_as_row, cut_as_row = (row == _annotation(row["id"], row["text"], e, question.task, reply_format)
                                for e in (entry, cut))
    return cut if finish == "stop" and cut_as_row and not whole_as_row else entry


def source_lineage(path: Path) -> str:
    """Fingerprint of a file made by another LLM step: how it was made, so that more of the same may be added to it."""
    made = read_manifest(path).get("fingerprint")
    if not made:
        return content_hash(path) or ""  # the same however it is compressed
    return hashlib.sha256(repr(sorted(made.items())).encode()).hexdigest()
