"""What a training keeps beside its model folder. No torch here.

    <model folder>.checkpoint    from which a killed training goes on (``checkpoints``); gone when the model is complete
    <model folder>.log.jsonl     a JSON line for each evaluation, as ``TrainResult.history`` describes them
    <model folder>.tensorboard/  the same numbers as curves, when asked for
"""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

from syn_pipelines.utils.errors import UserError
from syn_pipelines.utils.jsonl import write_jsonl

Row = dict[str, Any]


class UnusableCheckpoint(UserError):
    """A checkpoint that cannot be read, or is of another training."""


def checkpoint_path(folder: Path) -> Path:
    """The checkpoint of the training that makes this model folder."""
    return folder.with_name(folder.name + ".checkpoint")


def checkpoint_workplace(folder: Path) -> Path:
    """A folder in which checkpoints are written before they take their place."""
    return folder.with_name(f".{folder.name}.checkpoint.part")


def has_checkpoint(folder: Path) -> bool:
    """Whether there is anything that ``remove_checkpoint`` would take away."""
    return checkpoint_path(folder).exists() or checkpoint_workplace(folder).exists()


def remove_checkpoint(folder: Path) -> None:
    """Take away the checkpoint of a training that is complete, or not to go on."""
    checkpoint_path(folder).unlink(missing_ok=True)
    shutil.rmtree(checkpoint_workplace(folder), ignore_errors=True)


def log_path(folder: Path) -> Path:
    """The JSONL log of the training that makes this model folder."""
    return folder.with_name(folder.name + ".log.jsonl")


def tensorboard_path(folder: Path) -> Path:
    """The folder of its TensorBoard files."""
    return folder.with_name(folder.name + ".tensorboard")


def refuse_foreign_side_files(folder: Path) -> None:
    """UserError where something that no training wrote stands where a log or TensorBoard files would go."""
    if log_path(folder).exists() and not _is_training_log(log_path(folder)):
        raise UserError(f"{log_path(folder)}: exists and is no log of a training. Give the model's folder another name, or "
                        "move that file.")
    board = tensorboard_path(folder)
    if board.exists() and not (board.is_dir() and all(path.name.startswith("events.out.") for path in board.iterdir())):
        raise UserError(f"{board}: exists and holds other than TensorBoard files. Give the model's folder another name, or "
                        "move it.")


def _is_training_log(path: Path) -> bool:
    """Whether it begins as a training begins it; an empty file will do."""
    if not path.is_file():  # nothing comes out of a pipe
        return False
    try:
        with path.open("rb") as file:
            first = file.readline()
        return not first or {"step", "loss", "dev_f1"} <= set(json.loads(first))
    except (OSError, ValueError, TypeError):
        return False


def tensorboard_writer() -> Any:
    """The class that writes TensorBoard files.

    Raises:
        UserError: the package is missing.
    """
    try:
        from torch.utils.tensorboard import SummaryWriter
    except ImportError:
        raise UserError("--tensorboard needs the package tensorboard, which is not installed. Install it with: "
                        "pip install tensorboard") from None
    return SummaryWriter


class TrainLog:
    """Writes rows as they come; ``rows`` holds those of an earlier part of the same training."""

    def __init__(self, folder: Path | None, rows: list[Row], *, tensorboard: bool = False) -> None:
        """folder: model folder, None to write nothing. Without earlier rows the files of an older training go."""
        self.folder, self.rows, self._board = folder, rows, None
        if folder is None:
            return
        folder.parent.mkdir(parents=True, exist_ok=True)
        if not rows:
            log_path(folder).unlink(missing_ok=True)
        if tensorboard:
            if not rows:
                shutil.rmtree(tensorboard_path(folder), ignore_errors=True)
            # What a killed part of the training wrote after its last checkpoint is not shown.
            self._board = tensorboard_writer()(tensorboard_path(folder), purge_step=rows[-1]["step"] + 1 if rows else None)

    def add(self, row: Row) -> None:
        """Keep a row and write it; the file holds all rows of the training, each once."""
        self.rows.append(row)
        if self.folder is not None:
            write_jsonl(log_path(self.folder), self.rows)
        if self._board is not None:
            for name, value in row.items():
                if name != "step" and value is not None:
                    self._board.add_scalar(name, value, row["step"])
            self._board.flush()

    def close(self) -> None:
        if self._board is not None:
            self._board.close()
