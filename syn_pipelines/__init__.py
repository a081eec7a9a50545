"""Grow a small NER dataset with a large language model: fusion and syn_fusion training sets."""

from pathlib import Path

from syn_pipelines.utils.errors import UserError
from syn_pipelines.utils.interrupts import guard_start

__all__ = ["UserError"]
__version__ = "0.1.0"

guard_start(Path(__file__).resolve().parent)  # scripts take a moment to import; Ctrl-C meanwhile is no traceback
