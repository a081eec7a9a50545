"""What an ablation of the run has found, made ready to be shown."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from syn_pipelines.utils.errors import UserError
from syn_pipelines.utils.jsonl import read_json


def gains(path: Path) -> dict[str, Any] | None:
    """The test F1 of each training set at each size; None where no ablation was made.

    Returns: ``train`` and ``sizes`` (as asked), ``seeds``, ``sentences`` (of test, unseen in training), ``missing`` (trainings),
        ``cells``: ``train``, ``size``, ``f1``, ``sd`` (None for one seed), ``gain`` (None, or ``mean``, ``low``, ``high``), ``note``.
    Raises:
        UserError: the file is broken.
    """
    if not path.is_file():
        return None
    again = "Make it again with: python -m syn_pipelines.tools.ablation"
    content = read_json(path, again)
    try:
        return {"train": [str(name) for name in content["train"]], "sizes": [int(size) for size in content["sizes"]],
                "seeds": len(content["seeds"]), "sentences": int(content["test"]["new"]), "missing": int(content["missing"]),
                "cells": [_cell(cell) for cell in content["summary"]]}
    except (KeyError, TypeError, ValueError, AttributeError) as err:
        raise UserError(f"{path}:1: is no result of an ablation ({type(err).__name__}: {err}). {again}") from None


def _cell(cell: dict[str, Any]) -> dict[str, Any]:
    score, gain = cell["test_f1"], cell["gain"]
    return {"train": str(cell["train"]), "size": int(cell["size"]), "f1": float(score["mean"]),
            "sd": None if score["sd"] is None else float(score["sd"]), "note": str(cell["note"]),
            "gain": gain and {name: float(gain[name]) for name in ("mean", "low", "high")}}
