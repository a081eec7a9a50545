"""The sample that a reader can browse: sentences with spans, each synthetic one with its source, prompts and replies."""

from __future__ import annotations

import json
import os
from collections.abc import Callable, Iterable, Mapping, Sequence
from itertools import chain, zip_longest
from typing import Any

from syn_pipelines.reporting.replies import cut
from syn_pipelines.utils.records import Record
from syn_pipelines.utils.visible import visible

MOST_BYTES = 1_800_000  # of all sentences together, so that the page stays below 3 MB
MOST_TOKENS, MOST_SPANS, LONGEST_REPLY = 400, 600, 4000

Answers = Mapping[str, Sequence[Mapping[str, Any]]]


def browsable(original: Sequence[Record], synthetic: Sequence[Record], sources: Mapping[str, Record], answers: Answers,
              kind: Callable[[str], str]) -> dict[str, Any]:
    """What the page shows of the sample.

    Args:
        sources: original sentences by id. answers: by id of a sentence, see ``replies``.
    Returns:
        ``labels``: [name, kind] of each label, the most frequent first. ``prompts``: by step [beginning, end] that its prompts
        share. ``sentences``: by number; ``shown``: numbers of those drawn, the others are sources. ``left_out``: sentences drawn
        that found no room.
    """
    book = _Book(kind, _shared(chain.from_iterable(answers.values())))
    shown: list[int] = []
    drawn = [row for pair in zip_longest(synthetic, original) for row in pair if row is not None]
    for row in drawn:
        source = sources.get(str(row.get("source_id"))) if row.get("synthetic") else None
        needed = [one for one in (source, row) if one is not None and one["id"] not in book.places]
        entries = [book.entry(one, answers.get(one["id"], ())) for one in needed]
        size = sum(len(json.dumps(entry, ensure_ascii=False).encode("utf-8", "replace")) for entry in entries)
        if book.size + size > MOST_BYTES:
            continue
        book.size += size
        for one, entry in zip(needed, entries):
            book.places[one["id"]] = len(book.sentences)
            book.sentences.append(entry)
        place = book.places[row["id"]]
        if source is not None:
            book.sentences[place]["source"] = book.places[source["id"]]
        shown.append(place)
    return {"labels": [[visible(label), kind(label)] for label in book.labels],
            "prompts": {step: [visible(part) for part in parts] for step, parts in book.prompts.items()},
            "sentences": book.sentences, "shown": shown, "left_out": len(drawn) - len(shown)}


class _Book:
    """Sentences as the page has them, with numbers in place of labels."""

    def __init__(self, kind: Callable[[str], str], prompts: Mapping[str, tuple[str, str]]) -> None:
        self.kind, self.prompts = kind, prompts
        self.labels: dict[str, int] = {}
        self.places: dict[str, int] = {}
        self.sentences: list[dict[str, Any]] = []
        self.size = 0

    def entry(self, row: Record, answers: Iterable[Mapping[str, Any]]) -> dict[str, Any]:
        """One sentence: id, tokens, spans [start, end, label], questions."""
        tokens = row["text"][:MOST_TOKENS]
        spans = sorted((e["start"], min(e["end"], len(tokens)), self.labels.setdefault(e["entity"], len(self.labels)))
                       for e in row["entities"] if e["start"] < len(tokens))
        entry = {"id": visible(row["id"]), "synthetic": bool(row.get("synthetic")), "tokens": [visible(t) for t in tokens],
                 "spans": spans[:MOST_SPANS], "asked": [self._asked(answer) for answer in answers]}
        return entry | ({"cut": len(row["text"]) - len(tokens)} if len(tokens) < len(row["text"]) else {})

    def _asked(self, answer: Mapping[str, Any]) -> dict[str, Any]:
        beginning, end = self.prompts.get(answer["step"], ("", ""))
        prompt = answer["prompt"]
        middle = None if prompt is None else visible(cut(prompt[len(beginning):len(prompt) - len(end)], LONGEST_REPLY))
        return {"step": answer["step"], "prompt": middle, "reply": visible(cut(answer["reply"], LONGEST_REPLY)),
                "status": answer["status"], "reason": visible(cut(answer["reason"], LONGEST_REPLY))}


def _shared(answers: Iterable[Mapping[str, Any]]) -> dict[str, tuple[str, str]]:
    """By step, how all its prompts begin and how they end: they differ in the sentence alone."""
    prompts: dict[str, list[str]] = {}
    for answer in answers:
        if answer["prompt"] is not None:
            prompts.setdefault(answer["step"], []).append(answer["prompt"])
    result = {}
    for step, texts in prompts.items():
        beginning = os.path.commonprefix(texts)
        rest = [text[len(beginning):][::-1] for text in texts]
        result[step] = beginning, os.path.commonprefix(rest)[::-1]
    return result
