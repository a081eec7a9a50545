"""Where every file of a data set and of a run lives, and which command makes it."""

from __future__ import annotations

import shlex
from dataclasses import dataclass, replace
from pathlib import Path

from syn_pipelines.utils.errors import UserError
from syn_pipelines.utils.options import DataOptions

SIZES = {250: 0.25, 500: 0.5, 1000: 1.0}  # the name of a subset: its share of the training sentences
MODES = ("entity", "pos")

_DEFAULTS = DataOptions()


def manifest_path(path: Path) -> Path:
    """``a/entity_train_1000.jsonl`` -> ``a/entity_train_1000.manifest.json``."""
    return path.with_name(path.stem + ".manifest.json")


@dataclass(frozen=True)
class RunPaths:
    """File names of one run, as people who know KnowFREE expect them (see data/README.md)."""

    file_dir: Path
    file_name: str
    save_type_name: str

    @classmethod
    def of(cls, opts: DataOptions) -> RunPaths:
        """Paths of the run that the options name.

        Raises:
            UserError: there is no such data set; names those that exist.
        """
        paths = cls(Path(opts.file_dir), opts.file_name, opts.save_type_name)
        if not paths.dataset.is_dir():
            known = sorted(p.name for p in paths.file_dir.glob("*/") if (p / "train_1000.jsonl").is_file())
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

    @property
    def train(self) -> Path:
        return self.dataset / "train_1000.jsonl"

    @property
    def labels(self) -> Path:
        return self.dataset / "labels.txt"

    def split(self, name: str) -> Path:
        """dev.jsonl or test.jsonl of the data set."""
        return self.dataset / f"{name}.jsonl"

    @property
    def synthetic(self) -> Path:
        return self.run / "train_1000_synthetic.jsonl"

    def annotation(self, mode: str, synthetic: bool) -> Path:
        return self.run / f"{mode}_train_1000{'_synthetic' if synthetic else ''}.jsonl"

    def sized(self, size: int, name: str) -> Path:
        """File of a subset; ``{n}`` in the name stands for the size: ``sized(250, "train_{n}_fusion")``."""
        return self.run / str(size) / f"{name.replace('{n}', str(size))}.jsonl"

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
