"""YAML files that people write: every plain value is text, and what is wrong with a file is one line that names it."""

from __future__ import annotations

import re
import typing
from pathlib import Path
from typing import Any

from syn_pipelines.utils.errors import UserError
from syn_pipelines.utils.jsonl import read_whole

MAX_BYTES, MAX_NODES = 1 << 20, 20_000


def read_yaml(path: str | Path, *, missing: str, example: str) -> dict[Any, Any]:
    """The keys and values of a YAML file; {} when it is empty.

    Args:
        missing: what to do when the file cannot be read. example: a line as it should look, such as "'seed: 42'".
    Raises:
        UserError: unreadable file, not UTF-8, not valid YAML (with its line), a key that stands twice, no keys at all.
    """
    import yaml  # only runs that read such a file need it

    raw = read_whole(Path(path), missing, most=MAX_BYTES)
    try:
        text = raw.decode("utf-8-sig")
        loader = _loader()(text)
        node = loader.get_single_node()
        if node is not None and _unfolds_endlessly(node):
            raise UserError(f"{path}: its aliases (*name) unfold to more than {MAX_NODES:,} values, or hold themselves. Write the "
                            "values out.")
        content = {} if node is None else loader.construct_document(node)
    except UnicodeDecodeError as err:
        line = raw.count(b"\n", 0, err.start) + 1
        raise UserError(f"{path}:{line}: is not UTF-8 (byte 0x{raw[err.start]:02x}). Save it as UTF-8.") from None
    except yaml.YAMLError as err:
        place = getattr(err, "position", None)  # of a character that YAML does not allow
        line = (getattr(getattr(err, "problem_mark", None), "line", 0) if place is None else text.count("\n", 0, place)) + 1
        reason = getattr(err, "problem", None) or getattr(err, "reason", None) or str(err).splitlines()[0]
        raise UserError(f"{path}:{line}: is not valid YAML ({reason}). Correct the line.") from None
    except (ValueError, AttributeError, RecursionError):  # what the parser lets through: "!!int x", thousands of brackets
        raise UserError(f"{path}: holds a value that cannot be read. Write lines such as {example}.") from None
    if not isinstance(content, dict):
        raise UserError(f"{path}: holds a {type(content).__name__}, not keys and values. Write lines such as {example}.")
    return content


def _unfolds_endlessly(node: Any) -> bool:
    """Whether a document is too large once each alias is replaced by what it stands for; a few lines can hold 10^9 values."""
    waiting, count = [node], 0
    while waiting and count <= MAX_NODES:
        value = waiting.pop().value
        if not isinstance(value, str):
            inner = [part for pair in value for part in (pair if isinstance(pair, tuple) else (pair,))]
            waiting += inner
            count += len(inner)
    return count > MAX_NODES


def line_of_key(path: Path, key: str) -> int:
    """Line of the first place where ``key`` stands as a key, from 1; 1 when it is written in an unusual way."""
    text = read_whole(path, most=MAX_BYTES).decode("utf-8-sig")
    found = re.search(rf"""^\s*(?:- )?["']?{re.escape(key)}["']?\s*:""", text, re.MULTILINE)
    return text.count("\n", 0, found.end()) + 1 if found else 1


def _loader() -> type:
    """Every plain value is text, converted by those who use it: a run named 2024-11-21, 010 or no keeps its name.
    Python tags are refused, and a key that stands twice, for one of the two would be lost."""
    import yaml

    class Loader(yaml.SafeLoader):
        yaml_implicit_resolvers: typing.ClassVar[dict[str, Any]] = {
            "<": [r for r in yaml.SafeLoader.yaml_implicit_resolvers["<"] if r[0].endswith("merge")]}

        def construct_mapping(self, node: Any, deep: bool = False) -> dict[Any, Any]:
            seen = set()
            for key, _ in node.value:
                if str(key.value) in seen:
                    raise yaml.constructor.ConstructorError(None, None, f"the key {key.value!r} stands twice", key.start_mark)
                seen.add(str(key.value))
            return super().construct_mapping(node, deep)

    return Loader
