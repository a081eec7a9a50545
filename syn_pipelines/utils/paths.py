"""Where every file of a data set and of a run lives, and which command makes it."""

from __future__ import annotations

import os
import shlex
from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path

from syn_pipelines.utils.errors import UserError
from syn_pipelines.utils.options import DataOptions
from syn_pipelines.utils.packing import FORMS, form_of, forms_there, plain_path

SIZES = {250: 0.25, 500: 0.5, 1000: 1.0}  # the name of a subset: its share of the training sentences
MODES = ("entity", "pos")

_DEFAULTS = DataOptions()


def manifest_path(path: Path) -> Path:
    """``a/entity_train_1000.jsonl`` -> ``a/entity_train_1000.manifest.json``, in whatever form the file is."""
    return path.with_name(plain_path(path).stem + ".manifest.json")


@dataclass(frozen=True)
class RunPaths:
    """File names of one run, as people who know KnowFREE expect them (see data/README.md).

    A data file is given as it lies there, compressed or not; one that is not there yet in the form that is written.
    written_as: that form, ".gz", ".zst" or "" for neither; None: that of train_1000.

    Raises:
        UserError: where a data file is asked for that is there in two forms.
    """

    file_dir: Path
    file_name: str
    save_type_name: str
    written_as: str | None = None

    @classmethod
    def of(cls, opts: DataOptions) -> RunPaths:
        """Paths of the run that the options name.

        Raises:
            UserError: there is no such data set; names those that exist.
        """
        paths = cls(Path(opts.file_dir), opts.file_name, opts.save_type_name)
        if not paths.dataset.is_dir():
            known = sorted(p.name for p in paths.file_dir.glob("*/") if forms_there(p / "train_1000.jsonl"))
            here = ", ".join(known) or f"none in {paths.file_dir.absolute()}"  # often the wrong working directory
            raise UserError(f"{paths.dataset}: there is no such data set (--file_dir, --file_name). "
                            f"Known here: {here}. Make one with: {paths.prepare}")
        return paths

    @property
    def dataset(self) -> Path:
        return self.file_dir / self.file_name

    @property
    def run(self) -> Path:
        return self.dataset / self.save_type_name

    @cached_property
    def form(self) -> str:
        """What steps put behind the names of the data files that they write."""
        if self.written_as is not None:
            return self.written_as
        there = _only(self.dataset / "train_1000.jsonl")
        return form_of(there) if there else ""

    def _data(self, plain: Path) -> Path:
        return _only(plain) or plain.with_name(plain.name + self.form)

    def to_write(self, path: Path) -> Path:
        """Where a data file of these is to be written: one that lies there in another form gets that name first, so that it
        is never there twice, nor away. Readers go by the content. Call it right before writing, under the step's lock."""
        plain = plain_path(path)
        wanted = plain.with_name(plain.name + self.form)
        if path != wanted and os.path.lexists(path):
            os.replace(path, wanted)
        for form in FORMS.values():  # what a kill has left, before the form was changed
            plain.with_name(f"{plain.name}{form}.part").unlink(missing_ok=True)
        return wanted

    @property
    def train(self) -> Path:
        return self._data(self.dataset / "train_1000.jsonl")

    @property
    def labels(self) -> Path:
        return self.dataset / "labels.txt"

    def split(self, name: str) -> Path:
        """dev.jsonl or test.jsonl of the data set."""
        return self._data(self.dataset / f"{name}.jsonl")

    @property
    def synthetic(self) -> Path:
        return self._data(self.run / "train_1000_synthetic.jsonl")

    def annotation(self, mode: str, synthetic: bool) -> Path:
        return self._data(self.run / f"{mode}_train_1000{'_synthetic' if synthetic else ''}.jsonl")

    def sized(self, size: int, name: str) -> Path:
        """File of a subset; ``{n}`` in the name stands for the size: ``sized(250, "train_{n}_fusion")``."""
        return self._data(self.run / str(size) / f"{name.replace('{n}', str(size))}.jsonl")

    def label_file(self, kind: str) -> Path:
        """label_fusion.json, label_synthetic_fusion.json or label_syn_fusion.json."""
        return self.run / f"label_{kind}.json"

    def ner(self, train: str, size: int) -> Path:
        return self.run / "ner" / f"{train}_{size}"

    @property
    def journals(self) -> Path:
        return self.run / ".journal"

    @property
    def log(self) -> Path:
        return self.run / "run.log.jsonl"

    def command(self, script: str, **flags: object) -> str:
        """The command line that runs a script on this run, ready to paste."""
        words = ["python", f"syn_pipelines/{script}.py", f"--file_name={self.file_name}"]
        if str(self.file_dir) != str(Path(_DEFAULTS.file_dir)):
            words.append(f"--file_dir={self.file_dir}")
        if self.save_type_name != _DEFAULTS.save_type_name:
            words.append(f"--save_type_name={self.save_type_name}")
        return shlex.join(words + [f"--{name}={value}" for name, value in flags.items()])

    def missing(self, script: str, **flags: object) -> str:
        """Advice of the error for a file that a script has not made yet."""
        return f"Make it with: {self.command(script, **flags)}"

    @property
    def missing_train(self) -> str:
        return f"Put the training sentences there (format: data/README.md) or make the file with: {self.prepare}"

    @property
    def prepare(self) -> str:
        """The command line that makes the data set."""
        return replace(self, save_type_name=_DEFAULTS.save_type_name).command("s0_prepare_data", train="YOUR_FILE")


def _only(plain: Path) -> Path | None:
    """The one form of a data file that is there, if any."""
    there = forms_there(plain)
    if len(there) > 1:
        raise UserError(f"{there[0]}: {there[1].name} is there too, and nobody can tell which of the two counts. Remove one of them.")
    return there[0] if there else None
