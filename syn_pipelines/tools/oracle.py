"""The oracle: does the pipeline find a perfect model's answers again?

Feeds the gold entities back as the model's reply, through the real reply parser and the real merge (labels mapped onto
themselves), and counts how many are placed where they were. Anything under 100 % is lost by the pipeline itself.

reads   data/few_shot/<file_name>/train_1000.jsonl
run     python -m syn_pipelines.tools.oracle --file_name=weibo
"""

from __future__ import annotations

import json
import logging
from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any

from syn_pipelines.utils.dry_run import show
from syn_pipelines.utils.fusion import FusionStats, columns, extension_spans
from syn_pipelines.utils.language import Language, language_of
from syn_pipelines.utils.options import TextOptions, load_options, option
from syn_pipelines.utils.paths import RunPaths
from syn_pipelines.utils.records import Record, read_train
from syn_pipelines.utils.replies import parse_reply
from syn_pipelines.utils.summary import run_script, table


@dataclass(frozen=True)
class Options(TextOptions):
    """Options of the oracle."""

    json: bool = option(False, "print one JSON line instead of the table")


@dataclass
class Result:
    """``found`` of ``gold`` entities; ``extra``: spans placed beyond gold (the same words stand elsewhere too).

    Entities annotated twice at the same place with the same label count once.
    """

    gold: Counter[str]
    found: Counter[str]
    extra: int

    def as_dict(self) -> dict[str, Any]:
        """``found``, ``gold``, ``extra``, ``share`` (percent), and the same by label."""
        by_label = {label: {"found": self.found[label], "gold": self.gold[label],
                            "share": _percent(self.found[label], self.gold[label])} for label in sorted(self.gold)}
        return {"found": self.found.total(), "gold": self.gold.total(), "extra": self.extra,
                "share": _percent(self.found.total(), self.gold.total()), "by_label": by_label}

    def __str__(self) -> str:
        rows = [("label", "found", "gold", "share")]
        content = self.as_dict()
        for label, row in [*content["by_label"].items(), ("all", content)]:
            rows.append((label, f"{row['found']:,}", f"{row['gold']:,}", f"{row['share']:.1f} %"))
        return f"{table(rows)}\nplaced beyond gold: {self.extra:,} (the same words elsewhere in the sentence)"


def _percent(part: int, whole: int) -> float:
    return 100.0 * part / whole if whole else 100.0


def measure(sentences: Iterable[Record], language: Language) -> Result:
    """Send the gold entities of every sentence through parser and merge."""
    result = Result(Counter(), Counter(), 0)
    for sentence in sentences:
        tokens = sentence["text"]
        reply = json.dumps([{"entity": language.join(tokens[e["start"]:e["end"]]), "type": e["entity"]}
                            for e in sentence["entities"]], ensure_ascii=False)
        placed = set(extension_spans(tokens, columns(parse_reply(reply, "entity").items, "entity"), ([], []), dense=language.dense,
                                     entity_label=lambda raw: (str(raw), True), pos_label=lambda raw: (str(raw), True),
                                     stats=FusionStats()))
        gold = {(e["start"], e["end"], e["entity"]) for e in sentence["entities"]}
        result.gold.update(label for _, _, label in gold)
        result.found.update(label for _, _, label in gold & placed)
        result.extra += len(placed - gold)
    return result


def run(opts: Options) -> Result:
    """Measure a data set's training sentences."""
    paths = RunPaths.of(opts)
    language = language_of(opts, (s["text"] for s in read_train(paths)))
    return measure(read_train(paths, again=True), language)


def main(cmd_args: bool | Sequence[str] = True, **overrides: Any) -> Result:
    """Run from the command line, or with keywords only (``cmd_args=False``)."""
    opts = load_options(Options, cmd_args, overrides)
    result = run(opts)
    if cmd_args is not False:
        if not opts.json:
            logging.getLogger(__name__).info("%s: gold entities fed back as the model's reply", opts.file_name)
        show(json.dumps(result.as_dict(), ensure_ascii=False) if opts.json else str(result))
    return result


if __name__ == "__main__":
    run_script(main)
