"""One sentence in the ledger: what was asked about it, what was answered, and where each item landed."""

from __future__ import annotations

import importlib
import shlex
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import closing
from dataclasses import dataclass
from itertools import chain, islice
from typing import Any

from syn_pipelines.tools._ledger_case import Case
from syn_pipelines.tools._ledger_explanations import Answer, Explanations
from syn_pipelines.tools._ledger_files import DataFile
from syn_pipelines.tools._ledger_journal import Journal, near
from syn_pipelines.tools._ledger_merge import label_maps
from syn_pipelines.tools._ledger_replies import Entry, annotation_of, reply_format
from syn_pipelines.tools._ledger_review import decisions_about
from syn_pipelines.utils.errors import UserError
from syn_pipelines.utils.fusion import ITEM_KEYS, as_entity
from syn_pipelines.utils.language import Language
from syn_pipelines.utils.options import LabelOptions, build_options, parse_flags
from syn_pipelines.utils.packing import plain_path
from syn_pipelines.utils.paths import MODES
from syn_pipelines.utils.prompts import load_prompt
from syn_pipelines.utils.questions import Question, Wording, explain_question, target_names
from syn_pipelines.utils.records import Record, short
from syn_pipelines.utils.spans import Grounder, unescaped
from syn_pipelines.utils.stored_replies import question_hash
from syn_pipelines.utils.visible import visible

NO_PROMPT = "not stored, and what is asked now is another text"
REPEATED = "same place and label as another"


@dataclass
class Story:
    """All that is known about one sentence: ``content`` holds JSON values only."""

    content: dict[str, Any]

    def as_dict(self) -> dict[str, Any]:
        """See docs/reliability.md."""
        return self.content

    def __str__(self) -> str:
        return visible("\n".join(_shown(self.content)))


def story_of(case: Case, identity: str) -> Story:
    """Look a sentence up by its id. UserError when no sentence of the data set or the run has it."""
    found = _find(case, identity)
    if found is None:
        def ids() -> Iterator[str]:
            return (row["id"] for row in chain(case.sentences(), case.synthetic.records()))

        like = near(identity, ids()) or islice(ids(), 3)
        raise UserError(f"{case.paths.run}: no sentence has the id {short(identity)} (--id). Ids that are near: "
                        f"{', '.join(like)}.")
    file, line, sentence = found
    synthetic = file is case.synthetic
    content = {"id": identity, "kind": "synthetic" if synthetic else "original", "file": str(file.path), "line": line,
               "text": sentence["text"], "entities": sentence["entities"]}
    if synthetic:
        content["source_id"] = sentence["source_id"]
    questions = [_annotation(case, mode, sentence, synthetic) for mode in MODES]
    answers = _explanations(case, sentence["source_id"] if synthetic else identity)
    made = [piece["id"] for answer in answers for piece in answer["pieces"] if piece["status"] == "kept"]
    if synthetic:
        answers = [a for a in answers if any(piece["id"] == identity for piece in a["pieces"])]
        made = []
    files = _files_of(case, {identity, *made})
    content |= {"decisions": decisions_about(case, sentence), "questions": questions, "explanations": answers, "files": files.pop(identity, []),
                "files_of_synthetic": files}
    content["final_entities"] = content["files"][-1].pop("entities") if content["files"] else []
    for place in [*content["files"], *(place for places in files.values() for place in places)]:
        place.pop("entities", None)
    return Story(content)


def _find(case: Case, identity: str) -> tuple[DataFile, int, Record] | None:
    """File, line and row of a training sentence or a synthetic one."""
    if identity in case.places:
        return next((case.train, case.line_of(identity), row) for row in case.sentences() if row["id"] == identity)
    return next(((case.synthetic, line, row) for line, row in case.synthetic.rows() if row["id"] == identity), None)


# --- annotations -------------------------------------------------------------------------------------------------

def _annotation(case: Case, mode: str, sentence: Record, synthetic: bool) -> dict[str, Any]:
    """The question of step 1 or 3 about a sentence, and what came of it."""
    file = case.annotation(mode, synthetic)
    with closing(case.journal_of(file)) as journal:
        attempts, form = journal.attempts(sentence["id"]), reply_format(journal, file)
        where = _where(journal, sentence["id"])
    row = next((row for _, row in file.rows() if row["id"] == sentence["id"]), None)
    if row is None and attempts:
        row = annotation_of(sentence, attempts[-1], mode, form)[0]
    language = case.language_in(file.settings)
    question = _question_about(case, file, mode, sentence, language)
    if row and not attempts:
        attempts, where = [{"text": row["reply"], "finish_reason": "", "error": "", "asked": None}], str(file.path)
    result = _asked(f"{'s3' if synthetic else 's1'} {mode}", sentence["id"], where, question, attempts)
    return {**result, "status": row["status"] if row else "not asked yet", "reason": row["reason"] if row else "",
            "items": list(_landed(case, mode, sentence, row["items"], synthetic)) if row else []}


def _where(journal: Journal, request: str) -> str:
    line = journal.line(request)
    return f"{journal.path}:{line}" if line else ""


def _asked(step: str, request: str, where: str, question: Question | None, attempts: Sequence[Entry]) -> dict[str, Any]:
    """Prompt and replies. The prompt is shown only when the hash stored with the reply says that it was this one."""
    asked = attempts[-1].get("asked") if attempts else None
    same = question is not None and (not attempts or question_hash(question) == asked)
    prompt = question.messages[-1]["content"] if same and question else None
    replies = [{"text": e["text"], "finish_reason": e["finish_reason"], "error": e["error"]} for e in attempts]
    return {"step": step, "request": request, "where": where, "prompt": prompt, "replies": replies}


def _question_about(case: Case, file: DataFile, mode: str, sentence: Record, language: Language) -> Question | None:
    """The question as the command in the manifest asks it; None where it cannot be made any more."""
    wording = wording_of(case, file, mode, language)
    return wording.question(sentence) if wording else None


def wording_of(case: Case, file: DataFile, mode: str, language: Language) -> Wording | None:
    """How the command in the manifest asks; None where that cannot be told any more."""
    words = shlex.split(file.mend)
    script = "s3_predict_syn_data" if plain_path(file.path).stem.endswith("_synthetic") else "s1_predict_data"
    try:
        options = importlib.import_module(f"syn_pipelines.{script}").Options
        flags = parse_flags(options, words[2:]) if words[1:2] == [f"syn_pipelines/{script}.py"] else {}
        given = {**flags, "file_dir": str(case.paths.file_dir), "file_name": case.paths.file_name,
                 "save_type_name": case.paths.save_type_name}
        opts: LabelOptions = build_options(options, given)
        return Wording.of(opts, case.paths, language, mode)
    except (UserError, ValueError):
        return None


def _landed(case: Case, mode: str, sentence: Record, items: Sequence[Mapping[str, str]],
            synthetic: bool) -> Iterator[dict[str, Any]]:
    """Each item with its spans in the sentence, or why it has none."""
    merged = case.merged(1000, synthetic)
    maps = label_maps(case, merged)
    dense = merged.manifest.get("dense")
    grounder = Grounder(sentence["text"], dense if isinstance(dense, bool) else case.language.dense)
    surface, kind = ITEM_KEYS[mode]
    if mode == "pos":
        found = [([span] if span else [], how) for span, how in grounder.align([item[surface] for item in items])]
    else:
        found = [grounder.find(item[surface]) for item in items]
    seen: set[tuple[int, int, str]] = set()
    for item, (spans, how) in zip(items, found):
        label = maps[mode](unescaped(item[kind]))[0] if maps else None
        new = [span for span in spans if (*span, label) not in seen]
        seen.update((*span, label) for span in spans)
        yield {**item, "label": label if spans else None, "how": how if new or not spans else REPEATED,
               "spans": [as_entity(sentence["text"], span, label) for span in spans]}


# --- explanations ------------------------------------------------------------------------------------------------

def _explanations(case: Case, identity: str) -> list[dict[str, Any]]:
    """What was written about a training sentence, and what became of each piece of it."""
    file = case.synthetic
    if not case.gold_of(identity):
        return []
    published = {row["id"]: line for line, row in file.rows() if row["source_id"] == identity}
    with closing(case.journal_of(file)) as journal:
        if not journal.exists:
            return [{**_asked("s2", f"{identity}#1", "", None, []), "status": "replies gone", "reason": "",
                     "pieces": [{"id": name, "text": "", "status": "kept"} for name in published]}] if published else []
        explanations = Explanations(case, file, journal)
        for sentence in case.sentences():  # from the first on: which of two equal sentences is the duplicate
            answers = explanations.of(sentence) if sentence["entities"] else []
            if sentence["id"] == identity:
                return [_explanation(case, explanations, sentence, answer, published) for answer in answers]
    return []


def _explanation(case: Case, explanations: Explanations, sentence: Record, answer: Answer,
                 published: Mapping[str, int]) -> dict[str, Any]:
    try:
        prompt = load_prompt("explain", explanations.language.lang)
        question = explain_question(answer.request, sentence, explanations.language, prompt, target_names(case.paths), (0, 0))
    except UserError:
        question = None
    pieces = [{"id": piece.id, "text": piece.text, "status": "dropped" if piece.reason else (
        "kept" if piece.id in published else "kept, not published"), "reason": piece.reason} for piece in answer.pieces]
    where = _where(explanations.journal, answer.request)
    return {**_asked("s2", answer.request, where, question, answer.attempts), "status": answer.status,
            "reason": answer.reason, "pieces": pieces}


# --- files -------------------------------------------------------------------------------------------------------

def _files_of(case: Case, ids: set[str]) -> dict[str, list[dict[str, Any]]]:
    """By id: the rows (file, line, entities) about it, in the order in which the steps make the files."""
    result: dict[str, list[dict[str, Any]]] = {}
    for file in case.data_files():
        for line, row in file.rows():
            if row["id"] in ids:
                result.setdefault(row["id"], []).append(
                    {"file": str(file.path), "line": line, "entities": row.get("entities", [])})
    return result


# --- for people --------------------------------------------------------------------------------------------------

def _shown(content: Mapping[str, Any]) -> Iterator[str]:
    """The lines that a person reads."""
    of = f", made from {content['source_id']}" if "source_id" in content else ""
    yield f"{content['kind']} sentence {content['id']}{of}   {content['file']}:{content['line']}"
    yield from _block([" ".join(content["text"]) if any(len(t) > 1 for t in content["text"]) else "".join(content["text"])])
    if content["kind"] == "original":
        yield from _entities("gold entities", content["entities"])
    for question in content["questions"]:
        yield from _question_shown(question)
        if question["items"]:
            yield "  items"
            yield from (f"    {_item_shown(item)}" for item in question["items"])
    for answer in content["explanations"]:
        yield from _question_shown(answer)
        for piece in answer["pieces"]:
            name = f"{piece['id']}: " if piece["id"] else ""
            yield f"  {name}{piece['status']}{' (' + piece['reason'] + ')' if piece.get('reason') else ''}"
            yield from _block([piece["text"]])
    yield from _decisions_shown(content["decisions"])
    yield from ["", "in these files"] if content["files"] else ["", "in no file of the run yet"]
    yield from (f"  {place['file']}:{place['line']}" for place in content["files"])
    if content["files_of_synthetic"]:
        yield from ["", "its synthetic sentences, in"]
        for name, places in content["files_of_synthetic"].items():
            yield f"  {name}  {len(places)} files, the last {places[-1]['file']}:{places[-1]['line']}"
    yield ""
    yield from _entities(f"entities in {content['files'][-1]['file'] if content['files'] else 'no file'}",
                         content["final_entities"])


def _question_shown(question: Mapping[str, Any]) -> Iterator[str]:
    reason = f" ({question['reason']})" if question["reason"] else ""
    yield ""
    yield f"{question['step']}  {question['request']}: {question['status']}{reason}   {question['where']}".rstrip()
    yield "  prompt" if question["prompt"] else f"  prompt: {NO_PROMPT}"
    yield from _block([question["prompt"]] if question["prompt"] else [])
    for number, reply in enumerate(question["replies"], 1):
        times = f" {number} of {len(question['replies'])}" if len(question["replies"]) > 1 else ""
        ended = ", ".join(filter(None, [reply["finish_reason"], reply["error"]]))
        yield f"  reply{times} ({ended})" if ended else f"  reply{times}"
        yield from _block([reply["text"]])


def _decisions_shown(decisions: Sequence[Mapping[str, Any]]) -> Iterator[str]:
    if decisions:
        yield from ["", "decided about it by people"]
    for row in decisions:
        span = f" {row['label']} {row['start']}-{row['end']}" if "label" in row else ""
        to = f" -> {row['to']['label']} {row['to']['start']}-{row['to']['end']}" if "to" in row else ""
        yield f"  {row['decision']}{span}{to}: {row['state']}   {row['file']}:{row['line']}"


def _item_shown(item: Mapping[str, Any]) -> str:
    surface, kind = (item[key] for key in ITEM_KEYS["pos" if "word" in item else "entity"])
    places = ", ".join(f"{span['start']}-{span['end']}" for span in item["spans"])
    landed = f"{item['label'] or '?'} at {places} ({item['how']})" if places else f"not placed: {item['how']}"
    return f"{surface} / {kind} -> {landed}"


def _entities(head: str, entities: Sequence[Mapping[str, Any]]) -> Iterator[str]:
    yield f"{head}: {len(entities)}"
    for entity in entities:
        yield f"  {entity['entity']} {entity['start']}-{entity['end']}  {' '.join(entity.get('text', []))}"


def _block(lines: Iterable[str]) -> Iterator[str]:
    return (f"    | {line}" for text in lines for line in text.split("\n"))
