"""Step 4: cut nested subsets of 25, 50 and 100 % of the training sentences, each with everything made from them.

A synthetic sentence goes where the sentence goes from which it was written, so a small subset holds nothing that was
made from outside it. The choice is a pure function of the sentence ids and --seed.

reads   data/few_shot/<file_name>/train_1000.jsonl, <save_type_name>/{entity,pos}_train_1000{,_synthetic}.jsonl and
        <save_type_name>/train_1000_synthetic.jsonl, those that exist
writes  <save_type_name>/{250,500,1000}/: train_n.jsonl and the same files named by size
run     python syn_pipelines/s4_split_data.py --file_name=weibo --save_type_name=GLM4
"""

from __future__ import annotations

import os
from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from syn_pipelines.utils.errors import UserError
from syn_pipelines.utils.journal import lock
from syn_pipelines.utils.jsonl import Problems, read_objects, to_line, writing
from syn_pipelines.utils.manifest import Publisher, is_current, read_manifest, warn_of_stale
from syn_pipelines.utils.options import TextOptions, command_of, load_options
from syn_pipelines.utils.paths import MODES, SIZES, RunPaths
from syn_pipelines.utils.records import Record, read_sentences, read_train, short
from syn_pipelines.utils.subsets import nested_subsets
from syn_pipelines.utils.summary import Account, Summary, run_script, step_log

STEP = "s4_split_data"


@dataclass(frozen=True)
class Options(TextOptions):
    """Options of step 4."""


@dataclass(frozen=True)
class Source:
    """A file to cut. ``name`` of its parts; ``owner`` of a row: the key whose id decides where it goes."""

    path: Path
    name: str
    owner: str
    made_by: str


def sources_of(paths: RunPaths) -> list[Source]:
    """Every file that may be cut besides train_1000.jsonl, whether it exists or not."""
    def made_by(step: str, **flags: str) -> str:
        return paths.command(step, **flags)

    return [
        *(Source(paths.annotation(mode, False), f"{mode}_train_{{n}}", "id", made_by("s1_predict_data", mode=mode))
          for mode in MODES),
        Source(paths.synthetic, "train_{n}_synthetic", "source_id", made_by("s2_continous_generation")),
        *(Source(paths.annotation(mode, True), f"{mode}_train_{{n}}_synthetic", "source_id",
                 made_by("s3_predict_syn_data", mode=mode)) for mode in MODES),
    ]


def present_of(paths: RunPaths) -> list[Source]:
    """The files that can be cut; annotations of synthetic sentences cannot without these."""
    there = os.path.lexists  # what is there but cannot be read, such as a link to nothing, is told and not passed over
    return [s for s in sources_of(paths) if there(s.path) and (s.owner == "id" or there(paths.synthetic))]


def is_done(opts: Options, paths: RunPaths) -> bool:
    """Whether every subset is cut and up to date."""
    names = ["train_{n}", *(s.name for s in present_of(paths))]
    files = [paths.sized(size, name) for size in SIZES for name in names]
    return is_current(paths, {STEP}, {"seed": opts.seed}, files)


def run(opts: Options) -> Summary:
    """Cut all files there are; UserError when there is no annotation at all."""
    paths = RunPaths.of(opts)
    with step_log(opts, paths) as summary, lock(paths.journals, STEP):
        sources, present = sources_of(paths), present_of(paths)
        if not any(s.path in {paths.annotation(mode, False) for mode in MODES} for s in present):
            raise UserError(f"{paths.run}: there is no annotation to split, neither entity_train_1000.jsonl nor "
                            f"pos_train_1000.jsonl. {paths.missing('s1_predict_data', mode='entity')}")
        _say_what_is_missing(paths, summary, sources, present)
        ids = [row["id"] for row in read_train(paths)]
        subsets = nested_subsets(ids, SIZES.values(), seed=opts.seed)
        belongs = {"id": {identity: identity for identity in ids},
                   "source_id": _synthetic_owners(paths, set(ids)) if os.path.lexists(paths.synthetic) else {}}
        summary.warnings += warn_of_stale(paths, [source.path for source in present])
        for source in present:  # all of them before the first file is written
            _check(source, belongs[source.owner])
        publisher = Publisher(paths, STEP, {"seed": opts.seed}, [paths.train, *(s.path for s in sources)],
                              command_of(opts, config=None, dense_lang=None, lang=None))
        gold = ((row["id"], row) for row in read_train(paths, again=True))
        _write_parts(paths, publisher, "train_{n}", gold, subsets, summary, inputs=[paths.train])
        for source in present:
            _write_parts(paths, publisher, source.name, _rows_of(source, belongs[source.owner]), subsets, summary,
                         inputs=[paths.train, source.path])
        publisher.remove_others(paths.sized(size, source.name) for size in SIZES for source in sources)
        summary.accounts.append(Account("sentences", len(ids), {"in all sizes": len(subsets[0.25]), "from 500 on":
                                len(subsets[0.5]) - len(subsets[0.25]), "in 1000 only": len(ids) - len(subsets[0.5])}))
        summary.warnings += warn_of_stale(paths, because_of=map(Path, summary.outputs))
    return summary


def _say_what_is_missing(paths: RunPaths, summary: Summary, sources: Sequence[Source], present: Sequence[Source]) -> None:
    for source in sources:
        made = read_manifest(source.path)
        if source not in present:
            why = f"without {paths.synthetic.name}" if source.path.is_file() else "not there"
            summary.warn(f"{source.path}: {why}, left out. Make it with: {source.made_by}")
        elif made.get("complete") is False:
            summary.warn(f"{source.path}: not complete, cut as it is. Complete it with: "
                         f"{made.get('command') or source.made_by}")


def _synthetic_owners(paths: RunPaths, ids: Collection[str]) -> dict[str, str]:
    """Synthetic sentence -> the training sentence from which it was written, in file order."""
    for _ in read_sentences(paths.synthetic, may_be_empty=True, again=True):
        pass  # the format is checked; line numbers are needed below
    problems = Problems(paths.synthetic, paths.missing("s2_continous_generation"))
    owners = {}
    for line, row in read_objects(paths.synthetic, problems):
        owner = str(row.get("source_id"))
        if owner not in ids:
            problems.add(line, f"sentence {short(row.get('id'))} was written from {short(owner)}, which is not in {paths.train}.")
        owners[str(row.get("id"))] = owner
    problems.raise_if_any()
    return owners


def _check(source: Source, belongs: Mapping[str, str]) -> None:
    """Every row of a file belongs to a sentence, once, and the rows stand in the order of the sentences.

    belongs: id of a row -> id of the training sentence that decides where it goes, in file order.
    """
    problems = Problems(source.path, f"Make the file again with: {source.made_by}")
    places = {identity: place for place, identity in enumerate(belongs)}
    last = -1
    for line, row in read_objects(source.path, problems):
        place = places.get(str(row.get("id")), -1)
        if place < 0:
            problems.add(line, f"id {short(row.get('id'))} is not among the sentences it belongs to.")
        elif place <= last:
            problems.add(line, f"id {short(row.get('id'))} stands there twice or out of the order of the sentences.")
        last = max(last, place)
    problems.raise_if_any()


def _rows_of(source: Source, belongs: Mapping[str, str]) -> Iterator[tuple[str, Record]]:
    return ((belongs[str(row["id"])], row) for _, row in read_objects(source.path, Problems(source.path, "")))


def _write_parts(paths: RunPaths, publisher: Publisher, name: str, rows: Iterable[tuple[str, Record]],
                 subsets: Mapping[float, Collection[str]], summary: Summary, *, inputs: Sequence[Path]) -> None:
    """Write the parts of one file, all sizes in one pass. Each row comes with the id that decides where it goes."""
    outputs = {size: paths.to_write(paths.sized(size, name)) for size in SIZES}
    counts = dict.fromkeys(SIZES, 0)
    with ExitStack() as stack:
        files = {size: stack.enter_context(writing(path)) for size, path in outputs.items()}
        for owner, row in rows:
            line = to_line(row)
            for size, share in SIZES.items():
                if owner in subsets[share]:
                    files[size].write(line)
                    counts[size] += 1
    complete = read_manifest(inputs[-1]).get("complete") is not False
    for size, path in outputs.items():
        publisher.publish(path, files[size].hexdigest(), {"rows": counts[size]}, complete=complete, inputs=inputs)
        summary.outputs[str(path)] = counts[size]


def main(cmd_args: bool | Sequence[str] = True, **overrides: Any) -> Summary:
    """Run the step from the command line, or with keywords only (``cmd_args=False``)."""
    return run(load_options(Options, cmd_args, overrides))


if __name__ == "__main__":
    run_script(main)
