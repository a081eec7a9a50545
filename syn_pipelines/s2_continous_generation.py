"""Step 2: the language model goes on from each sentence and explains its target entities; the answer becomes sentences.

Sentences without target entities are not asked about. Refusals, echoes of the prompt, markdown, stumps, copies and
duplicates are dropped, each counted by its reason; the raw replies stay in the run folder's .journal.

reads   data/few_shot/<file_name>/train_1000.jsonl
writes  data/few_shot/<file_name>/<save_type_name>/train_1000_synthetic.jsonl
run     python syn_pipelines/s2_continous_generation.py --file_name=weibo --model_from_pretrained=MODEL
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from syn_pipelines.text.filters import Candidate, candidates
from syn_pipelines.utils.annotate import (
    ask,
    backend_of,
    fingerprint,
    plan_asking,
    published,
    refuse_contradictions,
    renewal,
)
from syn_pipelines.utils.compact import IdMap
from syn_pipelines.utils.dry_run import Plan, model_name, result_of
from syn_pipelines.utils.inventories import TargetName
from syn_pipelines.utils.journal import Replies, is_begun
from syn_pipelines.utils.jsonl import write_jsonl
from syn_pipelines.utils.language import Language, language_of
from syn_pipelines.utils.manifest import Publisher, is_current, read_manifest, warn_of_stale
from syn_pipelines.utils.options import LlmOptions, at_least, between, load_options, option
from syn_pipelines.utils.paths import RunPaths
from syn_pipelines.utils.prompts import Prompt, load_prompt
from syn_pipelines.utils.questions import Question, Questions, explain_prints, explain_question, target_names
from syn_pipelines.utils.records import Record, read_train
from syn_pipelines.utils.source import Source
from syn_pipelines.utils.stored_replies import journal_path, opened_journal, replies_so_far, replies_to_reparse
from syn_pipelines.utils.summary import Account, Summary, run_script, step_log, with_reasons

# Room for an answer of a few sentences about each entity, in tokens of the model: a fixed budget, with some more for a
# long sentence, because a budget taken from the prompt's length cuts answers in the middle.
ANSWER_TOKENS, ANSWER_TOKENS_EACH = 384, 2.0
_SOURCE, _WRITTEN = 0, 1  # where a text was met: in the training sentences, or in a reply
PLACES = 1000  # numbers kept free for the sentences of one sample; no answer has as many


@dataclass(frozen=True)
class Options(LlmOptions):
    """Options of step 2."""

    batch_size: int = option(40, "prompts that a local model answers side by side", check=at_least(1))
    temperature: float = option(0.8, "sampling temperature; 0: greedy", check=between(0, 10))
    top_p: float = option(0.8, "sample from the smallest set of tokens with this probability", check=between(0.01, 1))
    num_samples: int = option(1, "explanations asked for each sentence", check=at_least(1))


def run(opts: Options) -> Summary:
    """Ask for explanations of every sentence with entities and publish the sentences in them."""
    paths = RunPaths.of(opts)
    with step_log(opts, paths) as summary:
        refuse_contradictions(opts)
        source = Source(paths.train, lambda: read_train(paths))
        language = language_of(opts, (s["text"] for s in source))
        source.check()
        samples = samples_of(opts, paths)
        settings = {"num_samples": samples, "dense": language.dense, "lang": language.lang}
        publisher = Publisher(paths, summary.step, settings, [paths.train], renewal(opts, paths.synthetic))
        prompt, names = load_prompt("explain", language.lang), target_names(paths)
        questions = Questions(source, lambda s: questions_about(s, language, prompt, names, samples))
        reader = Reader(language, prompt, samples)
        if opts.reparse:
            with replies_to_reparse(paths, paths.synthetic, questions, restore=None) as replies:
                _publish(summary, paths, publisher, Harvest(source, reader, replies), replies.fingerprint)
        else:
            _ask(summary, opts, paths, publisher, questions, reader, explain_prints(names))
        if not opts.dry_run:
            summary.warnings += warn_of_stale(paths, because_of=map(Path, summary.outputs))
    return summary


def samples_of(opts: Options, paths: RunPaths) -> int:
    """Explanations of each sentence; --reparse, called without the flags of then, leaves none of those asked for out."""
    settings = read_manifest(paths.synthetic).get("settings") if opts.reparse else None
    before = settings.get("num_samples") if isinstance(settings, dict) else None
    return max(opts.num_samples, before) if isinstance(before, int) else opts.num_samples


def _ask(summary: Summary, opts: Options, paths: RunPaths, publisher: Publisher, questions: Questions, reader: Reader,
          shape: Mapping[str, str]) -> None:
    """Ask for what is missing and publish, or plan that."""
    backend = backend_of(opts)
    sampling = {"temperature": opts.temperature, "top_p": opts.top_p}
    asking = {"what": summary.step, "sampling": sampling, "is_bad": reader.is_bad, "each": opts.num_samples,
              "summary": summary, "unit": "explanation"}
    # num_samples is no part of the fingerprint: asking for one more keeps those that are there.
    prints = fingerprint(opts, backend, reader.prompt, (q for q in questions if q.id.endswith("#1")), sampling,
                         shape=shape)
    if is_finished_without_replies(opts, paths, publisher.settings, prints):
        summary.up_to_date = True
        summary.notes.append(f"{paths.synthetic} is complete (the replies it was made from are gone)")
        if opts.dry_run:
            summary.plan = Plan(summary.step, asking["unit"], model_name(backend), questions.number, questions.number, 0, [])
    elif opts.dry_run:
        with replies_so_far(paths, paths.synthetic, prints, overwrite=opts.overwrite, restore=None) as replies:
            plan_asking(opts, backend, replies, questions, paths=paths, settings={}, rule="explain", **asking)
    else:
        with opened_journal(paths, paths.synthetic, prints, overwrite=opts.overwrite, restore=None) as journal:
            ask(opts, backend, journal, questions, **asking)
            _publish(summary, paths, publisher, Harvest(questions.source, reader, journal), prints)


def _publish(summary: Summary, paths: RunPaths, publisher: Publisher, harvest: Harvest,
             prints: Mapping[str, Any]) -> None:
    """Write the synthetic sentences and their manifest, and report on them."""
    before = published(paths.synthetic)
    count, digest = write_jsonl(paths.to_write(paths.synthetic), harvest.rows())
    complete = not harvest.counted["not asked yet"]
    publisher.publish(paths.synthetic, digest, harvest.counts(count), complete=complete, fingerprint=prints)
    harvest.report(summary)
    summary.outputs[str(paths.synthetic)] = count
    summary.up_to_date = not summary.usage and complete and digest == before
    _warn(summary, publisher.command, harvest)


def is_finished_without_replies(opts: Options, paths: RunPaths, settings: Mapping[str, Any],
                                prints: Mapping[str, Any]) -> bool:
    """Whether nothing is left to do although the journal is gone (copies of a run folder often lack hidden folders)."""
    return (not opts.overwrite and not opts.retry_failed and not is_begun(journal_path(paths, paths.synthetic))
            and is_current(paths, ["s2_continous_generation"], settings, [paths.synthetic])
            and read_manifest(paths.synthetic).get("fingerprint") == prints)


def questions_about(sentence: Record, language: Language, prompt: Prompt, names: Mapping[str, TargetName],
                    samples: int) -> list[Question]:
    """One question a sample, with ids ``<sentence id>#1``, ``#2``, ...; none about a sentence without entities."""
    if not sentence["entities"]:
        return []
    return [explain_question(f"{sentence['id']}#{k}", sentence, language, prompt, names, (ANSWER_TOKENS_EACH, ANSWER_TOKENS))
            for k in range(1, samples + 1)]


class Reader:
    """Reads replies about the training sentences: which pieces of text are in them, and why one is of no use."""

    def __init__(self, language: Language, prompt: Prompt, samples: int) -> None:
        self.language, self.prompt, self.samples = language, prompt, samples

    def pieces(self, entry: Mapping[str, Any], tokens: Sequence[str]) -> list[Candidate]:
        """What a stored reply about the sentence with these tokens holds; nothing where there was no reply."""
        if entry["finish_reason"] in ("error", "too_long"):
            return []
        return candidates(entry["text"], source=tokens, prompt=self.prompt.text, dense=self.language.dense,
                          lang=self.language.lang, cut=entry["finish_reason"] == "length")

    def is_bad(self, entry: Mapping[str, Any], question: Question) -> bool:
        """Whether a stored reply to this question gave nothing, duplicates aside."""
        return all(piece.reason for piece in self.pieces(entry, question.record["tokens"]))


class Harvest:
    """Takes the sentences out of the stored replies, in the order of the training sentences, and keeps account.

    A pure function of the replies: what is dropped does not depend on the order in which they came.
    """

    def __init__(self, source: Source, reader: Reader, replies: Replies) -> None:
        self.source, self.reader, self.replies = source, reader, replies
        self.asked_about: Counter[str] = Counter()  # sentences: with or without entities
        self.counted: Counter[str] = Counter()  # replies: one for each sample of a sentence with entities
        self.errors: Counter[str] = Counter()
        self.dropped: Counter[str] = Counter()  # pieces of text, by reason
        self.kept = self.closed = 0
        self._seen = IdMap()  # texts, as ``_SOURCE`` or ``_WRITTEN``

    @staticmethod
    def _key(tokens: Sequence[str]) -> str:
        return "".join("".join(tokens).split()).casefold()

    def rows(self) -> Iterator[Record]:
        """Synthetic sentences with ids ``<sentence id>-s<k>``, k being the place in what was written about it.

        k also counts sentences dropped as duplicates of another record's, and goes on at 1001 with the second sample's,
        so that no id changes its text when more is asked or a useless reply is asked for again.
        """
        for sentence in self.source:
            self._seen[self._key(sentence["text"])] = _SOURCE
        for sentence in self.source:
            self.asked_about["with entities" if sentence["entities"] else "without entities, not asked"] += 1
            for place, tokens in self._good_texts(sentence) if sentence["entities"] else ():
                if reason := self._repeats(tokens):
                    self.dropped[reason] += 1
                    continue
                identity = f"{sentence['id']}-s{place}"  # no training sentence's: read_train has refused that
                self._seen[self._key(tokens)] = _WRITTEN
                self.kept += 1
                yield {"id": identity, "text": tokens, "entities": [], "synthetic": True, "source_id": sentence["id"]}

    def _good_texts(self, sentence: Record) -> Iterator[tuple[int, list[str]]]:
        """(k, tokens) of what passes the filters in the replies about a sentence; counts replies and dropped pieces."""
        for k in range(1, self.reader.samples + 1):
            if (identity := f"{sentence['id']}#{k}") not in self.replies:
                self.counted["not asked yet"] += 1
                continue
            entry = self.replies.read(identity)
            self.closed += bool(entry.get("closed"))
            found = self.reader.pieces(entry, sentence["text"])
            self.dropped.update(piece.reason for piece in found if piece.reason)
            good = [piece.tokens for piece in found if not piece.reason]
            status, reason = ("used", "") if good else _uselessness(entry, found)
            self.counted[status] += 1
            if reason:
                self.errors[reason] += 1
            yield from enumerate(good, (k - 1) * PLACES + 1)

    def _repeats(self, tokens: Sequence[str]) -> str:
        return {None: "", _SOURCE: "copy_of_source", _WRITTEN: "duplicate"}[self._seen.get(self._key(tokens))]

    def counts(self, count: int) -> dict[str, Any]:
        """For the manifest; every number of a kind adds up."""
        return {"sentences": self.source.number, **with_reasons(self.asked_about),
                "replies": with_reasons(self.counted), "reply_reasons": with_reasons(self.errors),
                **with_reasons({"closed": self.closed}), "synthetic_sentences": count, "dropped": with_reasons(self.dropped)}

    def report(self, summary: Summary) -> None:
        """Accounts of sentences, replies and pieces of text."""
        order = ("used", "rejected", "failed", "not asked yet")
        summary.accounts += [
            Account("sentences", self.source.number,
                    {name: self.asked_about[name] for name in ("with entities", "without entities, not asked")}),
            Account("explanations", self.reader.samples * self.asked_about["with entities"],
                    {name: self.counted[name] for name in order}, dict(self.errors)),
            Account("sentences in them", self.kept + sum(self.dropped.values()),
                    {"kept": self.kept, "dropped": sum(self.dropped.values())}, dict(self.dropped)),
        ]


def _uselessness(entry: Mapping[str, Any], found: Sequence[Candidate]) -> tuple[str, str]:
    """Status and reason of a reply that gave nothing."""
    if entry["finish_reason"] == "error":
        return "failed", entry["error"].split(":", 1)[0]
    if entry["finish_reason"] == "too_long":
        return "rejected", "too_long"
    return "rejected", "no_usable_sentence" if found else "empty_reply"


def _warn(summary: Summary, command: str, harvest: Harvest) -> None:
    if lost := harvest.counted["rejected"] + harvest.counted["failed"]:
        summary.warn(f"{lost} explanations gave no sentence. Ask for them again with: {command} --retry_failed")
    if harvest.counted["not asked yet"]:
        summary.warn(f"{harvest.counted['not asked yet']} explanations were not asked for yet. Ask for the rest with: "
                     f"{command}")


def main(cmd_args: bool | Sequence[str] = True, **overrides: Any) -> Summary | Plan:
    """Run the step from the command line, or with keywords only (``cmd_args=False``). A dry run gives its plan."""
    return result_of(run(load_options(Options, cmd_args, overrides)), cmd_args)


if __name__ == "__main__":
    run_script(main)
