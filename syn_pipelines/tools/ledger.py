"""The ledger: is every row accounted for? Recounts a whole run from the rows of its files, and shows that it adds up.

Every sentence is kept, rejected, failed or not asked yet; every stored reply is read again and compared with its row;
every item is placed again, every decision of a review applied again, and the result compared with the training sets; gold
entities, subsets, label files, manifests and checksums are compared with the data. What a run has not come to yet is no
imbalance. Writes nothing.
Exit code: 0 balanced, 1 something does not add up (each finding with its file, line and the command that mends it),
2 bad input.

reads   data/few_shot/<file_name>/ and its run <save_type_name>/
run     python -m syn_pipelines.tools.ledger --file_name=weibo --save_type_name=GLM4
        python -m syn_pipelines.tools.ledger --file_name=weibo --save_type_name=GLM4 --id=17
"""

from __future__ import annotations

import json
import logging
import sys
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from syn_pipelines.s5_merge_data import KNOWLEDGE
from syn_pipelines.tools._ledger_book import Book
from syn_pipelines.tools._ledger_case import Case
from syn_pipelines.tools._ledger_explanations import check_explanations
from syn_pipelines.tools._ledger_labels import check_label_files, check_models, check_present, check_unmapped
from syn_pipelines.tools._ledger_manifests import check_manifests, report_stale
from syn_pipelines.tools._ledger_merge import Half, check_final, check_half, check_target
from syn_pipelines.tools._ledger_parts import check_parts
from syn_pipelines.tools._ledger_record import Story, story_of
from syn_pipelines.tools._ledger_replies import check_annotations
from syn_pipelines.tools._ledger_review import account_of_decisions
from syn_pipelines.tools._ledger_sources import report_changed_sources
from syn_pipelines.utils.dry_run import show
from syn_pipelines.utils.errors import UserError
from syn_pipelines.utils.options import TextOptions, load_options, option
from syn_pipelines.utils.paths import MODES, SIZES, RunPaths
from syn_pipelines.utils.summary import run_script


@dataclass(frozen=True)
class Options(TextOptions):
    """Options of the ledger. Where a manifest tells how a file was made, that counts, not the flag."""

    id: str = option("", "show one sentence: its prompts, replies, items and where each landed", verbatim=True)
    json: bool = option(False, "print one JSON line instead of the table")
    label_prefix: str = option("", "what stands before extension labels, for files without a manifest")
    entity_label: str = option(str(KNOWLEDGE / "entity_label.json"), "label map of entity types")
    pos_label: str = option(str(KNOWLEDGE / "pos_label.json"), "label map of POS tags")


@dataclass
class Ledger:
    """The account of one run; ``balanced`` is what the exit code says."""

    paths: RunPaths
    book: Book

    @property
    def balanced(self) -> bool:
        return self.book.balanced

    def as_dict(self) -> dict[str, Any]:
        """``balanced``, ``steps``, ``problems``, ``notes``."""
        return self.book.as_dict()

    def __str__(self) -> str:
        return f"The account of {self.paths.file_name}, run {self.paths.save_type_name}\n\n{self.book}"


def opened(opts: Options) -> Case:
    """The data set and the run. UserError where there is none."""
    paths = RunPaths.of(opts)
    if not paths.run.is_dir():
        known = sorted(path.name for path in paths.dataset.iterdir() if path.is_dir() and not path.name.startswith("."))
        raise UserError(f"{paths.run}: there is no such run (--save_type_name). Runs of {paths.file_name}: "
                        f"{', '.join(known) or 'none yet'}. Make one with: {paths.command('run_all')}")
    return Case(opts, paths, Book())


def run(opts: Options) -> Ledger:
    """Recount the whole run."""
    case = opened(opts)
    if not case.paths.labels.is_file() and any(case.paths.label_file(kind).exists() for kind in ("fusion", "syn_fusion")):
        case.book.problem(case.paths.labels, "gone", "is gone, so no label counts as a target label here. Put it back.")
    case.book.account("data", "sentences", {"with entities": case.asked, "without": len(case) - case.asked})
    case.book.account("data", "gold entities", {label: case.entities[label] for label in sorted(case.entities)},
                      total=case.gold_entities, file=case.train)
    check_manifests(case)
    report_changed_sources(case)
    for label in sorted(set(case.entities) - set(case.targets)) if case.targets else ():
        case.train.problem("label", f"the label {label!r} is not in labels.txt.", case.first_lines[label])
    for mode in MODES:
        check_annotations(case, mode, synthetic=False)
    check_explanations(case)
    for mode in MODES:
        check_annotations(case, mode, synthetic=True)
    check_parts(case)
    _check_training_sets(case)
    report_stale(case)
    return Ledger(case.paths, case.book)


def _check_training_sets(case: Case) -> None:
    """Steps 5 to 8 and the models between them."""
    halves: dict[bool, Half | None] = {False: None, True: None}
    for synthetic in (False, True):
        if not case.part(1000, "train_{n}_synthetic" if synthetic else "train_{n}").exists and not any(
                case.merged(size, synthetic).exists for size in SIZES):
            continue  # step 4 is not there yet, which is said
        for size in case.sizes_of({size: case.merged(size, synthetic) for size in SIZES}, "s5"):
            halves[synthetic] = check_half(case, size, synthetic)  # the last one, 1000, stays
    if not case.merged(1000, True).exists:
        halves[True] = None
    if not case.merged(1000, False).exists:
        halves[False] = None
    account_of_decisions(case.book, [half.decided for half in halves.values() if half], whole=all(
        half or not case.part(1000, name).exists for half, name in zip(halves.values(), ("train_{n}", "train_{n}_synthetic"))))
    check_models(case)
    targets = {size: case.target(size) for size in SIZES}
    if halves[True] is not None or any(file.exists for file in targets.values()):
        for size in case.sizes_of(targets, "s7"):
            check_target(case, size)
    final: Counter[str] | None = None
    finals = {size: case.final(size) for size in SIZES}
    if halves[False] is not None or any(file.exists for file in finals.values()):
        for size in case.sizes_of(finals, "s8"):
            counts = check_final(case, size)
            final = counts if size == 1000 else final
    check_label_files(case, halves, final)
    check_unmapped(case, halves)
    check_present(case)


def main(cmd_args: bool | Sequence[str] = True, **overrides: Any) -> Ledger | Story:
    """Run from the command line, or with keywords only (``cmd_args=False``). With ``id`` the story of one sentence."""
    opts = load_options(Options, cmd_args, overrides)
    level = logging.getLogger("syn_pipelines").level
    logging.getLogger("syn_pipelines").setLevel(logging.ERROR)  # what readers tell on the way is in the account
    try:
        result = story_of(opened(opts), opts.id) if opts.id else run(opts)
    finally:
        logging.getLogger("syn_pipelines").setLevel(level)
    if cmd_args is not False:
        show(json.dumps(result.as_dict(), ensure_ascii=False) if opts.json else str(result))
    return result


def command() -> None:
    """``main`` as a command; exit code 1 when something does not add up."""
    result = main()
    if isinstance(result, Ledger) and not result.balanced:
        sys.exit(1)


if __name__ == "__main__":
    run_script(command)
