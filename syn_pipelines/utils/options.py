"""Options of every script: one dataclass serves the command line, the YAML file and the notebook.

Order of precedence: defaults < top-level YAML keys < the script's YAML section < flags or keywords.
"""

from __future__ import annotations

import argparse
import dataclasses
import importlib
import math
import os
import re
import reprlib
import shlex
import shutil
import sys
import types
import typing
import unicodedata
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from syn_pipelines.utils.errors import UserError, did_you_mean
from syn_pipelines.utils.visible import without_credentials
from syn_pipelines.utils.yaml_files import line_of_key, read_yaml

PROJECT_ROOT = Path(__file__).resolve().parents[2]

# Every script with an Options class; a YAML section may carry any of these names.
SCRIPTS = (
    "s0_prepare_data", "s1_predict_data", "s2_continous_generation", "s3_predict_syn_data", "s4_split_data",
    "s5_merge_data", "s6_combine_syn_fusion_label", "s7_pred_syn_data", "s8_process_label_and_combine",
    "train_ner", "eval_ner", "run_all", "report", "review", "export", "import_annotations",
)
# At the top of a YAML file these two mean the language model; steps with another meaning for them take a section.
LLM_ONLY = {"model_from_pretrained", "batch_size"}
LLM_SCRIPTS = {"s1_predict_data", "s2_continous_generation", "s3_predict_syn_data"}
_REPR = reprlib.Repr()
_REPR.maxstring = _REPR.maxother = _REPR.maxlong = 300
# How people write yes and no.
SWITCH = {"1": True, "true": True, "yes": True, "on": True, "0": False, "false": False, "no": False, "off": False}


def option(default: Any, help: str, *, choices: Sequence[str] = (), check: Callable[[Any], str] | None = None,
           alone: str = "", values: Sequence[str] = (), verbatim: bool = False) -> Any:
    """A dataclass field with its help text.

    check: returns what is wrong with a value, or "" when it is fine. alone: the value that the flag has when none is
    written behind it. values: names of the texts of a flag that takes exactly so many; the field is a tuple of them, or
    ``()`` when not given. verbatim: any text will do, control characters too.
    """
    return dataclasses.field(default=default, metadata={"help": help, "choices": tuple(choices), "check": check,
                                                        "alone": alone, "values": tuple(values),
                                                        "verbatim": verbatim})


def at_least(low: float) -> Callable[[float], str]:
    """Check: the number is ``low`` or more."""
    return lambda value: "" if value >= low else f"must be at least {low}"


def between(low: float, high: float) -> Callable[[float], str]:
    """Check: the number lies in [low, high]."""
    return lambda value: "" if low <= value <= high else f"must lie between {low} and {high}"


def folder_name(value: str) -> str:
    """Check: one plain folder name, so that no value can lead out of the data folder."""
    bad = not value or any(c in "/\\" or not c.isprintable() for c in value) or value.startswith(".")
    if not bad and len(value.encode("utf-8")) > 255:
        return "is longer than the 255 bytes of a file name"
    return "must be a plain folder name without '/', '\\' or a leading '.'" if bad else ""


def blankless(value: str) -> str:
    """Check: nothing that would break a label, which is one line without blanks."""
    return "" if value.isprintable() and not re.search(r"\s", value) else "must be without blanks and control characters"


def server_address(value: str) -> str:
    """Check: a plain http address. A name or password in it would be written to the run's log."""
    if value and not re.fullmatch(r"https?://[^\s/?#@]+(/[^\s?#@]*)?", value):
        return "is no plain address such as http://localhost:8000/v1 (no blanks, user names, '?' or '#')"
    return ""


def ray_address(value: str) -> str:
    """Check: auto, local, or where a Ray cluster is."""
    if value in ("auto", "local") or re.fullmatch(r"(ray://)?[^\s/?#@:]+:[0-9]{1,5}", value):
        return ""
    return "is none of auto, local, HOST:PORT and ray://HOST:PORT"


def worker_numbers(value: str) -> str:
    """Check: auto, a number of workers, or the least and the most of them, as 1-8."""
    if value == "auto" or (found := re.fullmatch(r"([1-9][0-9]{0,4})(?:-([1-9][0-9]{0,4}))?", value)) and (
            int(found[2] or found[1]) >= int(found[1])):
        return ""
    return "is neither auto nor a number such as 4 nor a range such as 1-8"


def share(value: float) -> str:
    """Check: a part of a machine that a worker takes; -1: chosen."""
    return "" if value == -1 or 0 <= value <= 10_000 else "must be 0 or more (-1: chosen)"


def gpu_numbers(value: str) -> str:
    """Check: one number or several, as 0,1 or [0, 1]."""
    return "" if re.fullmatch(r"[\[(]?\s*[0-9]+(\s*,\s*[0-9]+)*,?\s*[\])]?", value) else "is no GPU number and no list of them: 0 or 0,1"


@dataclass(frozen=True)
class DataOptions:
    """The flags that name a data set and a run."""

    file_dir: str = option("./data/few_shot", "folder that holds the data sets")
    file_name: str = option("sample_zh", "data set: name of a folder under --file_dir", check=folder_name)
    save_type_name: str = option("GLM4", "run: name of the folder of this run's files, inside the data set's folder",
                                 check=folder_name)
    seed: int = option(42, "seed of every random choice", check=between(0, 2**63 - 1))
    config: str = option("", "YAML file with options; flags win over it")


@dataclass(frozen=True)
class TextOptions(DataOptions):
    """The common flags. Every script takes them, so that one line of flags serves all steps; those that join tokens into
    text use ``dense_lang`` and ``lang``."""

    dense_lang: str = option("auto", "1: tokens join without blanks (zh, ja); 0: with one blank; auto: 1 when at least "
                             "95 %% of the tokens are single characters", choices=("auto", "0", "1"))
    lang: str = option("auto", "language of the text", choices=("auto", "zh", "en", "ja", "ko"))


@dataclass(frozen=True)
class EngineOptions(TextOptions):
    """The flags of the steps whose models may run in several workers. They shape the speed and nothing else."""

    engine: str = option("local", "what runs the model: local is this process, ray are workers on a Ray cluster (or on this "
                         "machine)", choices=("local", "ray"))
    ray_address: str = option("auto", "Ray cluster: auto takes that of RAY_ADDRESS or one that runs here and else starts one; "
                              "local always starts one, for this run alone; or HOST:PORT or ray://HOST:PORT", check=ray_address)
    num_workers: str = option("auto", "Ray workers: a number such as 4, or the least and the most such as 1-8; auto: one for "
                              "each GPU that a local model can have, else one for each node", check=worker_numbers)
    gpus_per_worker: float = option(-1.0, "GPUs of a Ray worker, also 0.5; -1: one for a local model where the cluster has "
                                    "GPUs (--n_gpu has no effect with Ray)", check=share)
    cpus_per_worker: float = option(-1.0, "CPUs of a Ray worker; -1: 1 for a local model, else 0.5", check=share)


@dataclass(frozen=True)
class LlmOptions(EngineOptions):
    """The flags of the steps that ask a language model."""

    n_gpu: str = option("0", "index of the GPU, or several: 0,1; without any GPU the CPU is used", check=gpu_numbers)
    model_from_pretrained: str = option("", "language model: local folder, hub name, or its name on the server")
    backend: str = option("auto", "what answers: auto takes openai when --base_url is given and otherwise the model's own; "
                          "openai is any server with that interface; offline needs no model and is a try-out, not an LLM",
                          choices=("auto", "transformers", "glm3", "openai", "offline"))
    base_url: str = option("", "address of an OpenAI-compatible server, such as http://localhost:8000/v1; its key is "
                           "read from the environment variable OPENAI_API_KEY", check=server_address)
    concurrency: int = option(16, "requests under way at a server at once", check=at_least(1))
    timeout: float = option(300.0, "seconds to wait for one answer of a server", check=at_least(0.001))
    scheduler: str = option("continuous", "how a local model is kept busy: continuous fills every freed place at once and "
                            "skips forced tokens; generate is transformers' own loop, batch by batch",
                            choices=("continuous", "generate"))
    chat_template: str = option("", "file with a chat template, for a checkpoint without one (or in place of its own)")
    trust_remote_code: bool = option(False, "run the Python code that comes with a checkpoint; only for code you have read")
    skip: int = option(-1, "leave out the first N sentences now; -1: none", check=at_least(-1))
    limit: int = option(-1, "ask about the first N sentences only (after --skip), a later run asks the rest; -1: all",
                        check=at_least(-1))
    overwrite: bool = option(False, "throw away the replies of an earlier run and ask all again")
    retry_failed: bool = option(False, "ask only the sentences again whose reply was rejected or failed")
    reparse: bool = option(False, "read the stored replies anew, after a change of the program or of the label files; "
                           "asks no model")
    dry_run: str = option("", "show the first prompts and what the whole run would cost, and write nothing; probe also "
                          "times a few requests", choices=("", "plan", "probe"), alone="plan")


@dataclass(frozen=True)
class LabelOptions(LlmOptions):
    """The flags of the steps that ask for labels."""

    constraint: str = option("grammar", "grammar: a local model (or a server that can) writes nothing that does not parse "
                             "or is not in the sentence; none: it writes what it likes", choices=("grammar", "none"))
    open_labels: bool = option(False, "the model may also make up names of types and tags")
    reply_format: str = option("json", "how words and tags are written: json, or inline (word/TAG, a third of the tokens; "
                               "acts in POS mode only)", choices=("json", "inline"))
    shots: int = option(0, "demonstrations put before each sentence, taken from the gold data of the smallest subset "
                        "(acts in entity mode only)", check=at_least(0))


def script_name(options: type) -> str:
    """Name of the script that defines this Options class: "s4_split_data"."""
    return Path(sys.modules[options.__module__].__file__ or options.__module__).stem


def load_options(cls: type, cmd_args: bool | Sequence[str] = True, overrides: Mapping[str, Any] | None = None) -> Any:
    """Build ``cls`` from the command line, a list of arguments, or keywords only.

    Args:
        cls: a frozen dataclass whose fields were made by ``option``.
        cmd_args: True parses ``sys.argv``; a list parses that list; False reads no command line at all.
        overrides: keywords; a keyword and a flag mean the same, the flag wins.
    Raises:
        UserError: any unknown or ill-typed value, all of them in one message.
    """
    given = dict(overrides or {})
    if cmd_args is not False:
        given |= parse_flags(cls, sys.argv[1:] if cmd_args is True else list(cmd_args))
    return build_options(cls, given)


def build_options(cls: type, given: Mapping[str, Any]) -> Any:
    """Options from explicitly given values over those of the YAML file they name."""
    fields = {f.name for f in dataclasses.fields(cls)}
    problems = [f"unknown option {name!r}{did_you_mean(name, fields)}" for name in given if name not in fields]
    config = str(given.get("config") or "")
    values = read_config(config, cls)[script_name(cls)] if config else {}
    # A model given as a flag is meant to be used although the file says offline, and the other way round.
    if (given.get("model_from_pretrained") or given.get("base_url")) and values.get("backend") == "offline":
        del values["backend"]
    if given.get("backend") == "offline" and "backend" in fields:
        values.pop("model_from_pretrained", None)
    if given.get("backend", "auto") not in ("auto", "openai") and "base_url" in fields:
        values.pop("base_url", None)
    values |= given
    cleaned = {}
    for field in dataclasses.fields(cls):
        if field.name in values:
            try:
                cleaned[field.name] = _convert(field, typing.get_type_hints(cls)[field.name], values[field.name])
            except ValueError as err:
                where = "--" if field.name in given else f"{config}:{line_of_key(Path(config), field.name)}: "
                problems.append(f"{where}{field.name}: {err}")
    if problems:
        raise UserError(f"{script_name(cls)}: {'; '.join(problems)}. See --help.")
    return cls(**cleaned)


def command_of(opts: Any, **changed: Any) -> str:
    """The command line that gives these options, defaults left out, ready to paste.

    ``changed``: options to set otherwise in that line; None leaves one out.
    """
    words = ["python", f"syn_pipelines/{script_name(type(opts))}.py"]
    for field in dataclasses.fields(opts):
        value = changed[field.name] if field.name in changed else getattr(opts, field.name)
        if field.metadata["values"]:
            words += [f"--{field.name}", *value] if value else []
        elif value is not None and (value != field.default or field.name == "file_name"):
            words.append(f"--{field.name}={int(value) if isinstance(value, bool) else value}")
    return shlex.join(words)


def parse_flags(cls: type, arguments: Sequence[str]) -> dict[str, Any]:
    """The flags that were really given, values still as text. ``--help`` prints and exits."""
    parser = _Parser(prog=f"{script_name(cls)}.py", description=sys.modules[cls.__module__].__doc__,
                     formatter_class=_HelpFormatter, allow_abbrev=False)
    hints = typing.get_type_hints(cls)
    for field in dataclasses.fields(cls):
        shown = "none" if field.default in ("", None, ()) else str(field.default).replace("%", "%%")  # a path may hold one
        settings: dict[str, Any] = {"dest": field.name, "default": argparse.SUPPRESS,
                                    "help": f"{field.metadata['help']} (default: {shown})"}
        if hints[field.name] is bool:
            parser.add_argument(f"--{field.name}", nargs="?", const="1", metavar="0|1", **settings)
            parser.add_argument(f"--no-{field.name}", action="store_const", const="0", dest=field.name,
                                default=argparse.SUPPRESS, help=argparse.SUPPRESS)
        else:
            choices = field.metadata["choices"]
            metavar = "|".join(filter(None, choices)) if choices else _type_name(hints[field.name]).upper()
            if field.metadata["alone"]:
                settings |= {"nargs": "?", "const": field.metadata["alone"]}
            if field.metadata["values"]:
                metavar, settings["nargs"] = field.metadata["values"], len(field.metadata["values"])
            parser.add_argument(f"--{field.name}", metavar=metavar, **settings)
    flags, unknown = parser.parse_known_args(list(arguments))
    if unknown:
        flag = unknown[0].partition("=")[0]
        known = {f"--{field.name}" for field in dataclasses.fields(cls)}
        parser.error(f"unknown argument {flag!r}{did_you_mean(flag, known)}")
    return vars(flags)


class _Parser(argparse.ArgumentParser):
    def error(self, message: str) -> typing.NoReturn:
        raise UserError(f"{self.prog}: {message}. See --help.")


class _HelpFormatter(argparse.RawDescriptionHelpFormatter):
    def __init__(self, prog: str) -> None:
        super().__init__(prog, max_help_position=34, width=min(110, shutil.get_terminal_size().columns - 2))


def _type_name(hint: Any) -> str:
    if isinstance(hint, types.UnionType):
        return _type_name(next(t for t in hint.__args__ if t is not type(None)))
    return {int: "N", float: "X"}.get(hint, "TEXT")


def _convert(field: dataclasses.Field, hint: Any, value: Any) -> Any:
    """The value as the field's type, checked; ValueError says what is wrong with it."""
    if field.metadata["values"]:
        return _to_texts(value, field.metadata["values"])
    if isinstance(hint, types.UnionType):
        if value is None:
            return None
        hint = next(t for t in hint.__args__ if t is not type(None))
    if not (field.metadata["verbatim"] and isinstance(value, str)):
        value = {bool: _to_bool, int: _to_int, float: _to_float, str: _to_text}[hint](value)
    if field.metadata["alone"] and value.lower() in SWITCH:  # a notebook's dry_run=True
        value = field.metadata["alone"] if SWITCH[value.lower()] else field.default
    choices = field.metadata["choices"]
    if choices and value not in choices:
        raise ValueError(f"{_shown(value)} is none of {', '.join(filter(None, choices))}")
    problem = field.metadata["check"](value) if field.metadata["check"] else ""
    if problem:
        raise ValueError(f"{_shown(value)} {problem}")
    return value


def _to_bool(value: Any) -> bool:
    if not isinstance(value, (str, int)) or str(value).strip().lower() not in SWITCH:
        raise ValueError(f"{_shown(value)} is neither 0 nor 1")
    return SWITCH[str(value).strip().lower()]


def _to_int(value: Any) -> int:
    try:
        if isinstance(value, bool) or (isinstance(value, float) and value != int(value)):
            raise ValueError
        return int(value)
    except (TypeError, ValueError, OverflowError):
        raise ValueError(f"{_shown(value)} is not a whole number") from None


def _to_float(value: Any) -> float:
    try:
        number = float(value)
    except (TypeError, ValueError, OverflowError):  # the last: a whole number of hundreds of digits
        number = math.nan
    if isinstance(value, bool) or not math.isfinite(number):
        raise ValueError(f"{_shown(value)} is not a number")
    return number


def _to_text(value: Any) -> str:
    if isinstance(value, (list, tuple)) and not any(isinstance(item, (list, tuple)) for item in value):
        return ",".join(map(_to_text, value))  # n_gpu=[0, 1] in a notebook or a YAML file
    if isinstance(value, bool):  # a notebook's dense_lang=True
        return str(int(value))
    if not isinstance(value, (str, int, float, Path)):
        raise ValueError(f"{_shown(value)} is not a text")
    text = str(value)
    if text.startswith("~/"):  # behind "=" the shell leaves it as it is
        text = os.path.expanduser(text)
    try:
        text.encode("utf-8")
    except UnicodeEncodeError:  # a flag of undecodable bytes
        raise ValueError(f"{_shown(text)} is not UTF-8") from None
    if "\0" in text:  # no path and no prompt can hold it
        raise ValueError(f"{_shown(text)} holds a NUL character")
    if any(unicodedata.category(char) == "Cc" for char in text):  # in a path it would break lines of logs and of manifests
        raise ValueError(f"{_shown(text)} holds a line end or another control character")
    return text


def _shown(value: Any) -> str:
    """A value in a message: without passwords, and short whatever it holds."""
    return _REPR.repr(without_credentials(value) if isinstance(value, str) else value)


def _to_texts(value: Any, names: Sequence[str]) -> tuple[str, ...]:
    if value is None or value == "" or value == () or value == []:
        return ()
    if not isinstance(value, (list, tuple)) or len(value) != len(names):
        raise ValueError(f"{_shown(value)} must be {len(names)} values: {' '.join(names)}, in a file or a notebook "
                         f"[{', '.join(names)}]")
    return tuple(map(_to_text, value))


def read_config(path: str, cls: type | None = None) -> dict[str, dict[str, Any]]:
    """Options by script name from a YAML file.

    Args:
        cls: the Options of a tool that is not among ``SCRIPTS``, to get its options too.
    Raises:
        UserError: unreadable file, YAML error (with its line), or a key that no script has; all keys in one message.
    """
    content = read_yaml(path, missing="Give --config the path of a YAML file.", example="'seed: 42'")
    options = {name: _options_of(name) for name in SCRIPTS}
    if cls is not None:
        options.setdefault(script_name(cls), cls)
    # "config" stays out: a file cannot name another one
    fields = {name: {f.name for f in dataclasses.fields(o)} - {"config"} for name, o in options.items()}
    return _by_script(path, content, fields)


def _by_script(path: str, content: dict[Any, Any], fields: Mapping[str, set[str]]) -> dict[str, dict[str, Any]]:
    every = set().union(*fields.values())
    result: dict[str, dict[str, Any]] = {name: {} for name in fields}
    sections: dict[str, dict[str, Any]] = {}
    problems: list[str] = []

    def refuse(key: Any, problem: str) -> None:
        problems.append(f"{path}:{line_of_key(Path(path), str(key))}: {problem}")

    for key, value in content.items():
        if key == "run_all":
            refuse(key, "run_all takes no section of its own; put its keys at the top level, for all steps")
        elif key in fields:
            value = value or {}  # all its keys may be commented out
            if not isinstance(value, dict):
                refuse(key, f"section {key!r} holds no keys")
                continue
            for k in value:
                if k not in fields[key]:
                    refuse(k, f"{key} has no option {k!r}{did_you_mean(k, fields[key])}")
            sections[key] = value
        elif key not in every:
            refuse(key, f"no step has an option {key!r}{did_you_mean(key, every | set(fields))}")
        else:
            for name in LLM_SCRIPTS if key in LLM_ONLY else fields:
                if key in fields[name]:
                    result[name][key] = value
    if problems:
        raise UserError(f"{'; '.join(problems)}. Correct the keys.")
    return {name: {**result[name], **sections.get(name, {})} for name in fields}


def _options_of(script: str) -> type:
    # By name and on demand: the keys of a YAML file belong to the scripts, and importing them here at the top
    # would turn the one-way imports (steps -> utils) into a circle.
    return importlib.import_module(f"syn_pipelines.{script}").Options
