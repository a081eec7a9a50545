"""Grow a small NER dataset with a large language model: fusion and syn_fusion training sets."""

from syn_pipelines.utils.errors import UserError

__all__ = ["UserError"]
__version__ = "0.1.0"
