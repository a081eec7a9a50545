"""Grow a small NER dataset with a large language model: fusion and syn_fusion training sets."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

from syn_pipelines.utils.errors import UserError
from syn_pipelines.utils.interrupts import guard_start

if TYPE_CHECKING:
    from syn_pipelines.utils.sentence import Sentence, Sentences, load, read

__all__ = ["Sentence", "Sentences", "UserError", "load", "read"]
__version__ = "0.1.0"

guard_start(Path(__file__).resolve().parent)  # scripts take a moment to import; Ctrl-C meanwhile is no traceback


def __getattr__(name: str) -> Any:
    """What only notebooks need is imported when it is asked for: every script imports this package first."""
    if name not in __all__:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    from syn_pipelines.utils import sentence

    return getattr(sentence, name)


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})
