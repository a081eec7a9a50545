"""Replies behind a run: why some were not used, with examples, and what was asked and answered about single sentences."""

from __future__ import annotations

import json
import re
from collections.abc import Collection, Mapping
from contextlib import closing
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from syn_pipelines.s2_continous_generation import PLACES
from syn_pipelines.tools._ledger_case import Case
from syn_pipelines.tools._ledger_explanations import Explanations
from syn_pipelines.tools._ledger_files import annotation_problem
from syn_pipelines.tools._ledger_record import wording_of
from syn_pipelines.utils.errors import UserError
from syn_pipelines.utils.fusion import ITEM_KEYS
from syn_pipelines.utils.jsonl import Problems, lines_of, open_input, parsed, read_objects
from syn_pipelines.utils.manifest import read_manifest
from syn_pipelines.utils.paths import MODES, RunPaths
from syn_pipelines.utils.prompts import load_prompt
from syn_pipelines.utils.questions import Question, explain_question, target_names
from syn_pipelines.utils.records import Record
from syn_pipelines.utils.spans import EXACT, FOLDED, Grounder
from syn_pipelines.utils.stored_replies import journal_path, question_hash

EXAMPLES = 3  # of each reason
PLACED_AGAIN = 3000  # sentences whose items are looked up again to find examples of those not in the text
CUT_AGAIN = 2000  # explanations that are cut into sentences again to find examples of those dropped
_LONGEST = 600  # characters of an example
_ID = re.compile(rb'\{"id": ("(?:[^"\\]|\\.)*")')


@dataclass
class Examples:
    """By (step, what happened, reason) a few examples: ``id``, ``text`` (of the sentence), ``reply`` (or the item)."""

    found: dict[tuple[str, str, str], list[dict[str, str]]] = field(default_factory=dict)

    def add(self, key: tuple[str, str, str], identity: str, text: str, reply: str) -> None:
        """Keep the first few of each kind."""
        known = self.found.setdefault(key, [])
        if len(known) < EXAMPLES:
            known.append({"id": identity, "text": cut(text, _LONGEST), "reply": cut(reply, _LONGEST)})

    def lacks(self, key: tuple[str, str, str]) -> bool:
        """Whether there is room for one more."""
        return len(self.found.get(key, ())) < EXAMPLES


def cut(text: str, longest: int) -> str:
    """The beginning of a long text, saying so."""
    return text if len(text) <= longest else f"{text[:longest]} … ({len(text) - longest:,} characters more)"


# --- annotations -----------------------------------------------------------------------------------------------------

def read_annotations(case: Case, mode: str, synthetic: bool, wanted: Collection[str], examples: Examples) -> dict[str, Record]:
    """The rows about the wanted sentences, by id; fills in examples of what was lost or mended.

    Raises:
        UserError: a row is broken (names its line).
    """
    file, step = case.annotation(mode, synthetic), f"{'s3' if synthetic else 's1'} {mode}"
    if not file.exists:
        return {}
    language, rows, looked_up = case.language_in(file.settings), {}, 0
    unplaced = _unplaced(case.paths, mode, synthetic)
    problems, problem_of = Problems(file.path, f"Make it again with: {file.mend}"), annotation_problem(mode)
    for line, row in read_objects(file.path, problems):
        if text := problem_of(row) or ("" if _is_text(row) else "'text' must be a list of texts."):
            problems.add(line, text)
            continue
        if row["id"] in wanted:
            rows[row["id"]] = row
        if row["status"] != "ok":
            reason = row["reason"].split(":", 1)[0] or "no reason"
            examples.add((step, row["status"], reason), row["id"], language.join(row["text"]), row["reply"] or row["reason"])
        if row["items"] and looked_up < PLACED_AGAIN and any(examples.lacks((step, "not placed", why)) for why in unplaced):
            looked_up += 1
            _look_up(row, mode, step, language.dense, examples, language.join(row["text"]))
    problems.raise_if_any()
    return rows


def _is_text(row: Record) -> bool:
    return isinstance(row.get("text"), list) and all(isinstance(token, str) and token for token in row["text"])


def _unplaced(paths: RunPaths, mode: str, synthetic: bool) -> list[str]:
    """Reasons for which items of the whole set were not placed, as the manifest of step 5 tells."""
    counts = read_manifest(paths.sized(1000, f"train_{{n}}_{'synthetic_' if synthetic else ''}fusion")).get("counts")
    lost = counts.get("not_placed") if isinstance(counts, dict) else None
    reasons = lost.get(mode) if isinstance(lost, dict) else None
    return list(reasons) if isinstance(reasons, dict) else []


def _look_up(row: Record, mode: str, step: str, dense: bool, examples: Examples, text: str) -> None:
    surface, kind = ITEM_KEYS[mode]
    grounder, names = Grounder(row["text"], dense), [item[surface] for item in row["items"]]
    hows = [how for _, how in (grounder.align(names) if mode == "pos" else map(grounder.find, names))]
    for item, how in zip(row["items"], hows):
        if how not in (EXACT, FOLDED):
            examples.add((step, "not placed", how), row["id"], text, f"{item[surface]} / {item[kind]}")


# --- explanations ----------------------------------------------------------------------------------------------------

def read_explanations(case: Case, examples: Examples) -> None:
    """Examples of explanations that were not used, and of sentences in them that were dropped."""
    file = case.synthetic
    counts = file.manifest.get("counts", {})
    told = [counts.get(name) for name in ("dropped", "reply_reasons")]
    wanted = [(how, reason) for how, reasons in zip(("dropped", "rejected"), told) if isinstance(reasons, dict)
              for reason in reasons]
    if not wanted:
        return
    with closing(case.journal_of(file)) as journal:
        if not journal.exists:
            return
        explanations, looked_at = Explanations(case, file, journal), 0
        for sentence in case.sentences():
            if not sentence["entities"]:
                continue
            looked_at += 1
            if looked_at > CUT_AGAIN or not any(examples.lacks(("s2", *key)) for key in wanted):
                break
            text = explanations.language.join(sentence["text"])
            for answer in explanations.of(sentence):
                if answer.reason and answer.attempts:
                    examples.add(("s2", "rejected", answer.reason), sentence["id"], text,
                                 answer.attempts[-1]["text"] or answer.attempts[-1]["error"])
                for piece in answer.pieces:
                    if piece.reason:
                        examples.add(("s2", "dropped", piece.reason), sentence["id"], text, piece.text)


# --- single sentences ------------------------------------------------------------------------------------------------

def stored(path: Path, wanted: Collection[str]) -> dict[str, dict[str, Any]]:
    """The last reply about each wanted request of a journal, {} where there is no journal.

    Other lines are not read as JSON, which would take as long as everything else together.
    Raises:
        UserError: such a line is broken.
    """
    if not path.is_file() or not wanted:
        return {}
    names, found = {json.dumps(name, ensure_ascii=False).encode() for name in wanted}, {}
    with open_input(path, packed=False) as file:
        for number, line in lines_of(file):
            if number == 1 or not line.endswith(b"\n"):  # the fingerprint; a line that a stop has torn
                continue
            match = _ID.match(line)
            if match and match[1] not in names:
                continue
            try:
                entry = parsed(line.decode("utf-8"))
                texts = [entry[name] for name in ("id", "text", "finish_reason", "error")]
                if not all(isinstance(text, str) for text in texts):
                    raise TypeError
            except (ValueError, KeyError, TypeError):
                raise UserError(f"{path}:{number}: this reply is broken. Remove the line to have its request asked again.") from None
            if entry["id"] in wanted:
                found[entry["id"]] = entry
    return found


def questions_and_answers(case: Case, synthetic: bool, sentences: Mapping[str, Record], rows: Mapping[str, Mapping[str, Record]]
                          ) -> dict[str, list[dict[str, Any]]]:
    """By id of a sentence: what was asked for labels and answered; ``step``, ``prompt`` (None: not known), ``reply``,
    ``status``, ``reason``. rows: annotations by mode and id."""
    result: dict[str, list[dict[str, Any]]] = {name: [] for name in sentences}
    for mode in MODES:
        file = case.annotation(mode, synthetic)
        mine = rows.get(mode, {})
        language = case.language_in(file.settings)
        wording = wording_of(case, file, mode, language) if mine else None
        entries = stored(journal_path(case.paths, file.path), set(mine))
        for name, row in mine.items():
            question = wording.question(sentences[name]) if wording and name in entries else None
            result[name].append({"step": f"{'s3' if synthetic else 's1'} {mode}", "prompt": _prompt(question, entries.get(name)),
                                 "reply": row["reply"], "status": row["status"], "reason": row["reason"]})
    return result


def _prompt(question: Question | None, entry: Mapping[str, Any] | None) -> str | None:
    """The text of a question, where the hash stored with the reply says that it was this one."""
    same = question is not None and entry is not None and question_hash(question) == entry.get("asked")
    return question.messages[-1]["content"] if same and question else None


def written_from(case: Case, synthetic: Mapping[str, Record], sources: Mapping[str, Record]) -> dict[str, dict[str, Any]]:
    """By id of a synthetic sentence: the question of step 2 that it is an answer to, and the whole answer."""
    file = case.synthetic
    requests = {name: request for name, row in synthetic.items() if (request := _request(row))}
    entries = stored(journal_path(case.paths, file.path), set(requests.values()))
    language, result = case.language_in(file.settings), {}
    try:
        prompt, names = load_prompt("explain", language.lang), target_names(case.paths)
    except UserError:  # a prompt file or a label file of then is gone or broken: the answers are shown all the same
        prompt, names = None, {}
    for name, request in requests.items():
        entry, source = entries.get(request), sources.get(synthetic[name]["source_id"])
        question = explain_question(request, source, language, prompt, names, (0, 0)) if entry and source and prompt else None
        if entry:
            result[name] = {"step": "s2", "prompt": _prompt(question, entry), "reply": entry["text"], "status": "used",
                            "reason": "" if entry["finish_reason"] == "stop" else entry["finish_reason"]}
    return result


def _request(row: Record) -> str:
    """The request whose answer holds a synthetic sentence: "17-s2" is of "17#1", the second sample's begin at 1001."""
    place = row["id"].rpartition("-s")[2]
    source = row.get("source_id")
    if not isinstance(source, str) or not place.isdecimal() or len(place) > 9 or int(place) < 1:
        return ""
    return f"{source}#{(int(place) - 1) // PLACES + 1}"
