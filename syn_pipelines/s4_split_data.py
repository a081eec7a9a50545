"""Step 4: cut nested subsets of 25, 50 and 100 % of the training sentences, each with everything made from them.

A synthetic sentence goes where the sentence goes from which it was written, so a small subset holds nothing that was
made from outside it. The choice is a pure function of the sentence ids and --seed.

reads   data/few_shot/<file_name>/train_1000.jsonl, <save_type_name>/{entity,pos}_train_1000{,_synthetic}.jsonl and
        <save_type_name>/train_1000_synthetic.jsonl, those that exist
writes  <save_type_name>/{250,500,1000}/: train_n.jsonl and the same files named by size
run     python syn_pipelines/s4_split_data.py --file_name=weibo --save_type_name=GLM4
"""

from __future__ import annotations

import hashlib
from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from syn_pipelines.utils.errors import UserError
from syn_pipelines.utils.journal import lock
from syn_pipelines.utils.jsonl import Problems, read_objects, write_jsonl
from syn_pipelines.utils.manifest import Publisher, is_current, read_manifest, warn_of_stale
from syn_pipelines.utils.options import DataOptions, command_of, load_options
from syn_pipelines.utils.paths import MODES, SIZES, RunPaths
from syn_pipelines.utils.records import Record, read_sentences, read_train
from syn_pipelines.utils.summary import Account, Summary, run_script, step_log


STEP = "s4_split_data"


@dataclass(frozen=True)
class Options(DataOptions):
    """Options of step 4."""


def nested_subsets(ids: Collection[str], shares: Iterable[float], *, seed: int) -> dict[float, set[str]]:
    """Subsets of ids by share; each is contained in every larger one.

    The order is that of a hash of seed and id, so it does not depend on the order of ``ids``.

    Args:
        ids: distinct. shares: in (0, 1]; a subset holds the nearest whole number of ids, at least one.
    """
    order = sorted(ids, key=lambda identity: (hashlib.sha256(f"{seed}:{identity}".encode()).digest(), identity))
    return {share: set(order[:max(1, round(len(order) * share))]) for share in shares}


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


def is_done(opts: Options, paths: RunPaths) -> bool:
    """Whether every subset is cut and up to date."""
    present = [s for s in sources_of(paths) if s.path.is_file()]
    files = [paths.sized(size, name) for size in SIZES for name in ("train_{n}", *(s.name for s in present))]
    return is_current(paths, {STEP}, {"seed": opts.seed}, files)


def run(opts: Options) -> Summary:
    """Cut all files there are; UserError when there is no annotation at all."""
    paths = RunPaths.of(opts)
    with step_log(opts, paths) as summary, lock(paths.journals, STEP):
        sources = sources_of(paths)
        present = [s for s in sources if s.path.is_file() and (s.owner == "id" or paths.synthetic.is_file())]
        if not any(s.path in {paths.annotation(mode, False) for mode in MODES} for s in present):
            raise UserError(f"{paths.run}: there is no annotation to split, neither entity_train_1000.jsonl nor "
                            f"pos_train_1000.jsonl. {paths.missing('s1_predict_data', mode='entity')}")
        for source in sources:
            if source not in present:
                summary.warn(f"{source.path}: not there, left out. Make it with: {source.made_by}")
        warn_of_stale(paths, [s.path for s in present])
        publisher = Publisher(paths, STEP, {"seed": opts.seed}, [paths.train, *(s.path for s in sources)],
                              command_of(opts, config=None))
        ids = [s["id"] for s in read_train(paths)]
        subsets = nested_subsets(ids, SIZES.values(), seed=opts.seed)
        owners = _synthetic_owners(paths, set(ids)) if paths.synthetic.is_file() else {}
        for size, share in SIZES.items():
            _write_gold(paths, publisher, size, subsets[share], summary)
            for source in present:
                _write_part(paths, publisher, source, size, subsets[share], set(ids), owners, summary)
        publisher.remove_others(paths.sized(size, source.name) for size in SIZES for source in sources)
        summary.accounts.append(Account("sentences", len(ids), {"in all sizes": len(subsets[0.25]), "from 500 on":
                                len(subsets[0.5]) - len(subsets[0.25]), "in 1000 only": len(ids) - len(subsets[0.5])}))
        summary.warnings += warn_of_stale(paths)
    return summary


def _synthetic_owners(paths: RunPaths, ids: Collection[str]) -> dict[str, str]:
    """Synthetic sentence -> the training sentence from which it was written."""
    owners = {}
    for row in read_sentences(paths.synthetic, may_be_empty=True):
        if row.get("source_id") not in ids:
            raise UserError(f"{paths.synthetic}: sentence {row['id']!r} was written from {row.get('source_id')!r}, which "
                            f"is not in {paths.train}. {paths.missing('s2_continous_generation')}")
        owners[row["id"]] = row["source_id"]
    return owners


def _write_gold(paths: RunPaths, publisher: Publisher, size: int, chosen: set[str], summary: Summary) -> None:
    path = paths.sized(size, "train_{n}")
    count, digest = write_jsonl(path, (row for row in read_train(paths, again=True) if row["id"] in chosen))
    publisher.publish(path, digest, {"sentences": count}, inputs=[paths.train])
    summary.outputs[str(path)] = count


def _write_part(paths: RunPaths, publisher: Publisher, source: Source, size: int, chosen: set[str], ids: set[str],
                owners: Mapping[str, str], summary: Summary) -> None:
    path = paths.sized(size, source.name)
    count, digest = write_jsonl(path, _rows_of(source, chosen, ids, owners))
    complete = read_manifest(source.path).get("complete") is not False
    publisher.publish(path, digest, {"rows": count}, complete=complete, inputs=[paths.train, source.path])
    summary.outputs[str(path)] = count


def _rows_of(source: Source, chosen: set[str], ids: set[str], owners: Mapping[str, str]) -> Iterator[Record]:
    problems = Problems(source.path, f"Make the file again with: {source.made_by}")
    for line, row in read_objects(source.path, problems):
        owner = row.get("id") if source.owner == "id" else owners.get(str(row.get("id")))
        if owner not in ids:
            problems.add(line, f"id {row.get('id')!r} is not among the sentences it belongs to.")
        elif owner in chosen:
            yield row
    problems.raise_if_any()


def main(cmd_args: bool | Sequence[str] = True, **overrides: Any) -> Summary:
    """Run the step from the command line, or with keywords only (``cmd_args=False``)."""
    return run(load_options(Options, cmd_args, overrides))


if __name__ == "__main__":
    run_script(main)
