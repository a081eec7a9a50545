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
import re
from array import array
from collections.abc import Iterable, Iterator, Sequence
from contextlib import ExitStack
from dataclasses import dataclass, replace
from pathlib import Path
from threading import Event
from typing import Any

from syn_pipelines.utils.compact import IdMap
from syn_pipelines.utils.errors import UserError
from syn_pipelines.utils.journal import lock
from syn_pipelines.utils.jsonl import Problems, lines_of, open_input, parsed, read_objects, to_line, writing
from syn_pipelines.utils.language import is_dense
from syn_pipelines.utils.manifest import Publisher, is_as_written, is_current, read_manifest, warn_of_stale
from syn_pipelines.utils.options import TextOptions, command_of, load_options
from syn_pipelines.utils.paths import MODES, SIZES, RunPaths
from syn_pipelines.utils.records import read_sentences, read_train, short
from syn_pipelines.utils.side_by_side import side_by_side
from syn_pipelines.utils.source import Source as Reread
from syn_pipelines.utils.subsets import Subsets
from syn_pipelines.utils.summary import Account, Summary, run_script, step_log

_TOGETHER = 64  # lines
_ID = re.compile(rb'\{"id": "([^"\\]+)"')
_SOURCE_ID = re.compile(rb', "source_id": "([^"\\]+)"')  # in a text a quote stands behind a backslash
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
        summary.warnings += warn_of_stale(paths, [source.path for source in present])
        of_train = Owners(IdMap(), bytearray())
        train = Reread(paths.train, lambda: read_train(paths, ids=of_train.places))
        subsets, dense = _subsets_of(opts, train, of_train)
        publisher = Publisher(paths, STEP, {"seed": opts.seed}, [paths.train, *(s.path for s in sources)],
                              command_of(opts, config=None, dense_lang=None, lang=None))
        owners = {"id": of_train, "source_id": _synthetic_owners(paths, of_train) if os.path.lexists(paths.synthetic) else of_train}
        with ExitStack() as stack:  # no file is replaced before all have been looked at
            gold = zip(of_train.in_order(), _train_lines(train))
            parts = [Parts(stack, paths, "train_{n}", [paths.train], gold)]
            parts += [Parts(stack, paths, source.name, [paths.train, source.path], _rows_of(source, owners[source.owner]))
                      for source in present]
            side_by_side(Parts.fill, parts)
            train.refuse_changed()
        for part in parts:
            part.publish(publisher, summary, dense)
        publisher.remove_others(paths.sized(size, source.name) for size in SIZES for source in sources)
        small, half, full = (subsets.size(share) for share in SIZES.values())
        summary.accounts.append(Account("sentences", full, {"in all sizes": small, "from 500 on": half - small,
                                                            "in 1000 only": full - half}))
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


@dataclass
class Owners:
    """Sentences by id. places: their lines. sizes: of the sentence in each line, as bits; 0 where there is none."""

    places: IdMap
    sizes: bytearray

    def put(self, line: int, sizes: int) -> None:
        """Note where a sentence goes; lines come in order."""
        self.sizes.extend(bytes(line + 1 - len(self.sizes)))
        self.sizes[line] = sizes

    def in_order(self) -> Iterator[int]:
        """The sizes of all sentences."""
        return filter(None, self.sizes)


def _subsets_of(opts: Options, train: Reread, owners: Owners) -> tuple[Subsets, bool]:
    """The subsets of the training sentences, and whether their tokens join without blanks by what they look like; ``owners``
    learns where each sentence goes, and has its line already."""
    subsets, lines = Subsets(SIZES.values(), seed=opts.seed), array("I")

    def added() -> Iterator[list[str]]:
        for row in train:
            subsets.add(row["id"])
            lines.append(owners.places.get(row["id"]))
            yield row["text"]
    dense = is_dense(replace(opts, dense_lang="auto"), added())
    for line, sizes in zip(lines, subsets.holding(lambda: (row["id"] for row in train))):
        owners.put(line, sizes)
    return subsets, dense


def _synthetic_owners(paths: RunPaths, train: Owners) -> Owners:
    """The synthetic sentences; each goes where the training sentence goes from which it was written."""
    problems = Problems(paths.synthetic, paths.missing("s2_continous_generation"))
    owners = Owners(IdMap(), bytearray())
    for line, identity, source in _written_from(paths.synthetic, owners.places):
        if (place := train.places.get(source)) is None:
            problems.add(line, f"sentence {short(identity)} was written from {short(source)}, which is not in {paths.train}.")
        else:
            owners.put(line, train.sizes[place])
    problems.raise_if_any()
    return owners


def _written_from(path: Path, ids: IdMap) -> Iterator[tuple[int, str, str]]:
    """(line, id, id of the sentence it was written from) of the synthetic sentences; ``ids`` is filled with the lines."""
    if not is_as_written(path):
        for row in read_sentences(path, may_be_empty=True, again=True, ids=ids):
            yield ids.get(row["id"]), row["id"], str(row.get("source_id"))
        return
    with open_input(path) as file:
        for line, raw in lines_of(file):
            identity, source = _ID.match(raw), _SOURCE_ID.search(raw)
            row = {} if identity and source else parsed(raw)  # ids with a quote in them, or numbers
            ids[name := identity[1].decode() if identity else str(row["id"])] = line
            yield line, name, source[1].decode() if source else str(row.get("source_id"))


def _train_lines(train: Reread) -> Iterator[bytes]:
    """The training sentences, as lines to write."""
    if not is_as_written(train.path):  # checked in an earlier pass; that it is still the same file is asked for at the end
        for line, row in read_objects(train.path, Problems(train.path, "")):
            yield to_line({"id": str(row.pop("id", line)), **row})
        return
    with open_input(train.path) as file:
        for line, raw in lines_of(file):
            if not _ID.match(raw):  # an id with a quote in it, a number, or none
                row = parsed(raw)
                raw = to_line({"id": str(row.pop("id", line)), **row})
            yield raw


def _rows_of(source: Source, owners: Owners) -> Iterator[tuple[int, bytes]]:
    """(sizes, line to write) of every row.

    Raises:
        UserError: at the end, for rows that belong to no sentence, stand there twice, or not in the order of the sentences.
    """
    problems = Problems(source.path, f"Make the file again with: {source.made_by}")
    last = 0
    for line, identity, raw in _lines_of(source.path, problems):
        place = owners.places.get(identity)
        if place is None:
            problems.add(line, f"id {short(identity)} is not among the sentences it belongs to.")
        elif place <= last:
            problems.add(line, f"id {short(identity)} stands there twice or out of the order of the sentences.")
        else:
            last = place
            yield owners.sizes[place], raw
    problems.raise_if_any()


def _lines_of(path: Path, problems: Problems) -> Iterator[tuple[int, str, bytes]]:
    """(number, id, line to write) of every row; lines that a step has written are copied as they are."""
    if not is_as_written(path):
        yield from ((line, str(row.get("id")), to_line(row)) for line, row in read_objects(path, problems))
        return
    with open_input(path) as file:
        for line, raw in lines_of(file):
            if match := _ID.match(raw):
                yield line, match[1].decode(), raw
            else:  # an id with a quote in it, or a number
                yield line, str(parsed(raw)["id"]), raw


class Parts:
    """The parts of one file, one for each size, in the making."""

    def __init__(self, stack: ExitStack, paths: RunPaths, name: str, inputs: Sequence[Path], rows: Iterable[tuple[int, bytes]]
                 ) -> None:
        """stack: closes them, and puts them in their places if all went well. rows: (sizes, line) of every row to come."""
        self._inputs, self._rows, self._paths = inputs, rows, [paths.to_write(paths.sized(size, name)) for size in SIZES]
        self._files = [stack.enter_context(writing(path)) for path in self._paths]
        self._counts = [0] * len(SIZES)

    def fill(self, stop: Event) -> None:
        """Write every row into the sizes that it belongs to; end early at ``stop``."""
        waiting: list[list[bytes]] = [[] for _ in SIZES]  # written together, many at a time
        into = [[lines for bit, lines in enumerate(waiting) if sizes >> bit & 1] for sizes in range(1 << len(SIZES))]
        for sizes, line in self._rows:
            for lines in into[sizes]:
                lines.append(line)
            if len(waiting[-1]) >= _TOGETHER:
                self._write(waiting)
                if stop.is_set():
                    return
        self._write(waiting)

    def _write(self, waiting: Sequence[list[bytes]]) -> None:
        for number, lines in enumerate(waiting):
            self._files[number].write(b"".join(lines))
            self._counts[number] += len(lines)
            lines.clear()

    def publish(self, publisher: Publisher, summary: Summary, dense: bool) -> None:
        """Their manifests, once they are in their places. dense: see ``_subsets_of``; so no later step has to find out."""
        complete = read_manifest(self._inputs[-1]).get("complete") is not False
        for path, file, count in zip(self._paths, self._files, self._counts):
            publisher.publish(path, file.hexdigest(), {"rows": count}, complete=complete, inputs=self._inputs, dense=dense)
            summary.outputs[str(path)] = count


def main(cmd_args: bool | Sequence[str] = True, **overrides: Any) -> Summary:
    """Run the step from the command line, or with keywords only (``cmd_args=False``)."""
    return run(load_options(Options, cmd_args, overrides))


if __name__ == "__main__":
    run_script(main)
