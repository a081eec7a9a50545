"""Hand a data set or a run to another tool: one folder of files, complete or not at all, the same bytes every time.

conll and bioes (columns), hf (Hugging Face datasets) and spacy are for training and publishing, and hold dev and test too;
label-studio, doccano and argilla are for people who look at the labels. Ids, tokens and spans travel with the sentences, so
import_annotations.py brings back what people changed. What each format keeps stands in docs/interchange.md.

reads   n/train_n_syn_fusion.jsonl (or fusion, or gold) of the run, labels.txt, dev.jsonl and test.jsonl
writes  the folder --output, by default <run folder>/export/<format>
run     python syn_pipelines/export.py --file_name=weibo --save_type_name=GLM4 --format=label-studio
"""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from syn_pipelines.interchange.card import card
from syn_pipelines.interchange.folder import STEP, Folder
from syn_pipelines.interchange.formats import FORMATS, Format
from syn_pipelines.interchange.material import LABELS, MADE_BY, TRAIN, Material, known_size
from syn_pipelines.interchange.offsets import CODE_POINTS, UNITS
from syn_pipelines.utils.dry_run import show
from syn_pipelines.utils.errors import UserError
from syn_pipelines.utils.journal import lock
from syn_pipelines.utils.manifest import Publisher, warn_of_stale
from syn_pipelines.utils.options import TextOptions, command_of, load_options, option
from syn_pipelines.utils.paths import RunPaths
from syn_pipelines.utils.summary import Account, Summary, run_script, step_log, with_reasons


@dataclass(frozen=True)
class Options(TextOptions):
    """Options of the export."""

    format: str = option("", "what to write", choices=("", *FORMATS))
    train: str = option("syn_fusion", "which sentences: gold, fusion (with extension labels) or syn_fusion (the synthetic ones "
                        "too)", choices=tuple(MADE_BY))
    size: int = option(1000, "which subset: 250, 500 or 1000", check=known_size)
    labels: str = option("all", "which labels: the target labels, the extension labels, or all", choices=LABELS)
    offsets: str = option("auto", "what offsets count; auto: what the tool counts", choices=("auto", *UNITS))
    output: str = option("", "folder to write; none: <run folder>/export/<format>")
    json: bool = option(False, "print the summary as one JSON line")


def run(opts: Options) -> Summary:
    """Count, write, and say what a flat format could not hold."""
    if not opts.format:
        raise UserError(f"export: --format is needed: {', '.join(FORMATS)}. See --help.")
    paths, format = _paths(opts), FORMATS[opts.format]
    unit = format.unit if opts.offsets == "auto" else opts.offsets
    if unit != CODE_POINTS and not format.counts_offsets:
        raise UserError(f"export: --offsets={unit}: the format {opts.format} has no offsets that could count otherwise. Leave it "
                        "out.")
    output = Path(opts.output or paths.run / "export" / opts.format).absolute()
    if output.name in ("", ".."):
        raise UserError(f"export: --output={opts.output}: needs a name of its own. Name a folder to make.")
    with step_log(opts, paths) as summary, lock(paths.journals, STEP):
        material = Material.of(opts, paths, train=opts.train, size=opts.size, labels=opts.labels, unit=unit,
                               held_out=format.held_out)
        summary.warnings += warn_of_stale(paths, list(material.files.values()))
        settings = {"format": opts.format, "train": opts.train, "size": opts.size, "labels": opts.labels, "offsets": unit,
                    "dense": material.language.dense}
        publisher = Publisher(paths, STEP, settings, [paths.labels, *material.files.values()],
                              command_of(opts, config=None, seed=None, json=None))
        with Folder(output, opts.format) as folder:
            left_out = format.module.write(folder, material, opts.format)
            if opts.format == "hf":
                with folder.file("README.md") as file:
                    file.write(card(material, paths).encode("utf-8"))
            folder.finish(lambda path, sha256: publisher.publish(path, sha256, _counts(material, left_out)))
        _account(opts, format, material, left_out, summary)
        summary.outputs.update({str(output / name): _rows(name, material) for name in sorted(folder.files)})
        summary.notes.append(f"load it with: {format.load.format(folder=str(output))}")
    return summary


def _paths(opts: Options) -> RunPaths:
    """Those of the run; of the data set alone where there is no run yet and none is needed."""
    paths = RunPaths.of(opts)
    if paths.run.is_dir():
        return paths
    if opts.train != "gold" or opts.size != 1000 or not opts.output:
        raise UserError(f"{paths.run}: there is no such run (--save_type_name). Name one that is there, or export the data set "
                        "alone with --train=gold and --output=FOLDER.")
    return replace(paths, save_type_name=".")


def _rows(name: str, material: Material) -> int:
    """Rows of a file, as far as it has some."""
    stem = Path(name).name.split(".")[0]
    split = {"validation": "dev", "tasks": TRAIN, "records": TRAIN}.get(stem, stem)
    return material.census[split].sentences if split in material.census else 1


def _counts(material: Material, left_out: Mapping[str, Counter[str]]) -> dict[str, Any]:
    """For the manifest."""
    return {split: {"sentences": census.sentences, "synthetic": census.synthetic, "spans": census.chosen,
                    "left_out": with_reasons(left_out.get(split, Counter()))} for split, census in material.census.items()}


def _account(opts: Options, format: Format, material: Material, left_out: Mapping[str, Counter[str]],
             summary: Summary) -> None:
    """What became of every sentence and span, and what to look out for."""
    for split, census in material.census.items():
        of, lost = "" if split == TRAIN else f" of {split}", left_out.get(split, Counter())
        summary.accounts.append(Account(f"sentences{of}", census.sentences, {
            "original": census.sentences - census.synthetic, "synthetic": census.synthetic}))
        in_file = 0 if format.holds_all else lost.total()
        parts = {"not of the chosen labels": census.not_chosen, "stand there twice": census.repeated, "left out": in_file}
        summary.accounts.append(Account(f"spans{of}", census.total, {"written": census.chosen - in_file, **with_reasons(parts)},
                                        {} if format.holds_all else with_reasons(lost)))
        if lost and format.holds_all:
            reasons = ", ".join(f"{n:,} {reason}" for reason, n in sorted(lost.items()))
            summary.notes.append(f"{lost.total():,} spans{of} are not in {format.flat}: {reasons}")
    if any(left_out.values()):
        summary.notes.append(f"{format.flat}: one label a token, target labels first, then the outermost span")
    census = material.census[TRAIN]
    if format.page and census.beyond_bmp:
        summary.warn(f"{census.beyond_bmp:,} sentences hold characters beyond U+FFFF (such as emoji), which the page of "
                     f"{opts.format} counts as two: it shows spans behind them shifted. What is drawn there comes back right.")
    if format.counts_offsets and census.line_ends:
        summary.warn(f"{census.line_ends:,} sentences hold line ends within a token, which pages may show otherwise.")
    if not material.labels:
        summary.warn(f"no sentence has a label of --labels={opts.labels}.")


def main(cmd_args: bool | Sequence[str] = True, **overrides: Any) -> Summary:
    """Run from the command line, or with keywords only (``cmd_args=False``)."""
    opts = load_options(Options, cmd_args, overrides)
    summary = run(opts)
    if opts.json and cmd_args is not False:
        show(json.dumps(summary.as_dict(), ensure_ascii=False))
    return summary


if __name__ == "__main__":
    run_script(main)
