"""Tokens and time, from run.log.jsonl: what was asked of a model, and how long the steps that did something took."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

from syn_pipelines.utils.summary import log_rows

# Run anew each time, whether anything has changed or not: with them a report of the same run would never be the same.
_NOT_COUNTED = ("eval_ner", "report", "review")
_TOKENS = ("asked", "kept", "prompt_tokens", "completion_tokens")


def costs(log: Path) -> list[dict[str, Any]]:
    """A row for each step (and mode) that did something: ``step``, ``runs``, ``seconds``, ``models``, and where a model was
    asked ``asked``, ``kept``, ``prompt_tokens``, ``completion_tokens``, ``model_seconds``. Broken lines are passed over."""
    found: dict[str, dict[str, Any]] = {}
    for row in log_rows(log):
        step, options, usage = row.get("step"), row.get("options"), row.get("usage")
        if not isinstance(step, str) or step in _NOT_COUNTED or not _worked(row):
            continue
        mode = options.get("mode") if isinstance(options, dict) else None
        name = f"{step} {mode}" if isinstance(mode, str) and step.startswith(("s1_", "s3_")) else step
        total = found.setdefault(name, {"step": name, "runs": 0, "seconds": 0.0, "models": []})
        total["runs"] += 1
        total["seconds"] += number(row.get("seconds"))
        if isinstance(usage, dict):
            _add_usage(total, usage)
    return sorted(found.values(), key=_place)


def _worked(row: Mapping[str, Any]) -> bool:
    """Whether a step asked something, or did its work: one that finds all up to date costs nothing."""
    usage = row.get("usage")
    if isinstance(usage, dict):
        return number(usage.get("asked")) > 0
    return row.get("ended") == "done" and row.get("up_to_date") is not True and bool(row.get("outputs"))


def _add_usage(total: dict[str, Any], usage: Mapping[str, Any]) -> None:
    for name in _TOKENS:
        total[name] = total.get(name, 0) + int(number(usage.get(name)))
    total["model_seconds"] = total.get("model_seconds", 0.0) + number(usage.get("seconds"))
    if isinstance(model := usage.get("model"), str) and model and model not in total["models"]:
        total["models"].append(model)


def _place(row: Mapping[str, Any]) -> tuple[str, str]:
    name = row["step"]
    return ("s65" if name == "train_ner" else name[:2] + "0", name)


def number(value: Any) -> float:
    """A number of the log; 0 for what is none, or below it."""
    good = isinstance(value, (int, float)) and not isinstance(value, bool) and 0 < value < 1e15
    return float(value) if good else 0.0


def totals(rows: Iterable[Mapping[str, Any]]) -> dict[str, float]:
    """Sums over the steps."""
    rows = list(rows)
    return {name: sum(row.get(name, 0) for row in rows) for name in (*_TOKENS, "seconds", "model_seconds")}
