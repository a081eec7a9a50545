"""How many replies parse, and how many items are in the sentence: a random model, with a grammar and without.

The model knows nothing, so whatever is right about its replies comes from the grammar. With ``--model_from_pretrained``
the same is counted for a real one. Sentences come from data files of this project (rows with "text": tokens).

run     python benchmarks/grounding.py
        python benchmarks/grounding.py --data data/few_shot/weibo/train_1000.jsonl --limit 1000 --json
"""

from __future__ import annotations

import argparse
import json
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import replace
from functools import lru_cache
from itertools import islice
from pathlib import Path
from typing import Any

from llm_engine_model import SMALL, write_checkpoint
from llm_engine_requests import load_sentences, training_texts

from syn_pipelines.utils.language import language_of
from syn_pipelines.utils.llm import Request
from syn_pipelines.utils.llm.grammar import is_grounded
from syn_pipelines.utils.llm.transformers_backend import TransformersBackend
from syn_pipelines.utils.options import PROJECT_ROOT, LabelOptions
from syn_pipelines.utils.paths import RunPaths
from syn_pipelines.utils.questions import Question, Wording
from syn_pipelines.utils.records import read_sentences
from syn_pipelines.utils.replies import parse_reply
from syn_pipelines.utils.summary import progress, table

SAMPLES = [str(PROJECT_ROOT / "data" / "few_shot" / name / "train_1000.jsonl") for name in ("sample_zh", "sample_en")]
KINDS = {"entity": ("entity", "json"), "pos": ("pos", "json"), "pos inline": ("pos", "inline")}


def parse(arguments: Sequence[str] | None) -> argparse.Namespace:
    """The flags."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", action="append", help="data file; may be given several times (default: the samples)")
    parser.add_argument("--limit", type=int, default=100, help="sentences of each file")
    parser.add_argument("--model_from_pretrained", default="", help="a real model (default: a random one made here)")
    parser.add_argument("--batch_size", type=int, default=32, help="requests under way")
    parser.add_argument("--scheduler", choices=("continuous", "generate"), default="continuous")
    parser.add_argument("--json", action="store_true", help="print the counts as JSON instead of a table")
    return parser.parse_args(arguments)


def questions_of(path: Path, limit: int, mode: str, reply_format: str) -> list[Question]:
    """What steps 1 and 3 would ask about the first sentences of a file."""
    opts = LabelOptions(reply_format=reply_format)
    sentences = list(islice(read_sentences(path), limit))
    wording = Wording.of(opts, RunPaths.of(opts), language_of(opts, (s["text"] for s in sentences)), mode)
    return [wording.question(sentence) for sentence in sentences]


def requests_of(backend: TransformersBackend, questions: Sequence[Question]) -> Iterator[Request]:
    """Requests with ids that are their places."""
    count = lru_cache(maxsize=4096)(backend.count_tokens)
    for place, question in enumerate(questions):
        yield Request(str(place), question.messages, question.room.tokens(count), constraint=question.constraint)


def measure(backend: TransformersBackend, questions: Sequence[Question], *, held: bool) -> dict[str, Any]:
    """Ask, and count what the replies are worth.

    Returns: replies; parsed: those that were whole and in form; items; in_text: items that are spans of tokens of the
    sentence, or stand in a list of words that join to it; closed: replies that the room left had to end.
    """
    counts: Counter[str] = Counter()
    started = time.perf_counter()
    asked = requests_of(backend, questions if held else [replace(q, constraint=None) for q in questions])
    for reply in progress(backend.generate(asked), total=len(questions), what="asking", unit="sentence"):
        constraint = questions[int(reply.id)].constraint
        parsed = parse_reply(reply.text, constraint.mode, cut=reply.finish_reason == "length",
                             reply_format=constraint.reply_format)
        apart = [[item] for item in parsed.items] if constraint.mode == "entity" else [parsed.items]
        counts.update(replies=1, parsed=parsed.status == "ok", items=len(parsed.items), closed=reply.closed,
                      tokens=reply.completion_tokens,
                      in_text=sum(len(items) for items in apart if is_grounded(constraint, items)))
    names = ("replies", "parsed", "items", "in_text", "closed", "tokens")
    return {**{name: counts[name] for name in names}, "seconds": round(time.perf_counter() - started, 1)}


def main(arguments: Sequence[str] | None = None) -> None:
    """Measure and print."""
    flags = parse(arguments)
    found: dict[str, dict[str, Any]] = {}
    with tempfile.TemporaryDirectory() as folder:
        if not flags.model_from_pretrained:
            write_checkpoint(Path(folder), SMALL, training_texts(load_sentences()), dtype="float32", device="cpu")
        for kind, (mode, reply_format) in KINDS.items():
            questions = [question for path in flags.data or SAMPLES
                         for question in questions_of(Path(path), flags.limit, mode, reply_format)]
            for constraint in ("grammar", "none"):
                backend = TransformersBackend(flags.model_from_pretrained or folder, batch_size=flags.batch_size,
                                              scheduler=flags.scheduler)
                found[f"{kind}, {constraint}"] = measure(backend, questions, held=constraint == "grammar")
    print(json.dumps(found, indent=2) if flags.json else shown(found))


def shown(found: dict[str, dict[str, Any]]) -> str:
    """The counts as a table."""
    def share(part: int, whole: int) -> str:
        return f"{part / whole:.1%}" if whole else "-"

    rows = [("", "replies", "parse", "items", "in the text", "closed", "seconds")]
    for name, row in found.items():
        rows.append((name, f"{row['replies']:,}", share(row["parsed"], row["replies"]), f"{row['items']:,}",
                     share(row["in_text"], row["items"]), f"{row['closed']:,}", f"{row['seconds']}"))
    return table(rows)


if __name__ == "__main__":
    sys.exit(main())
