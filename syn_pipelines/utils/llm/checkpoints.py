"""Checkpoints on disk: where they are, whether they are whole, and what can be known without reading the weights.

Importing this module imports neither torch nor transformers, and no function here runs a checkpoint's own code.
"""

from __future__ import annotations

import errno
import json
import logging
import os
import re
import shlex
import stat
import warnings
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

from syn_pipelines.utils.errors import UserError
from syn_pipelines.utils.jsonl import open_regular, read_json

log = logging.getLogger(__name__)

# A hub name is fetched in two parts, so that counting tokens does not download the weights.
_DESCRIPTION_FILES = ("*.json", "*.jinja", "*.txt", "*.model", "*.tiktoken")
_WEIGHT_FILES = ("model*.safetensors",)
_CODE_FILES = ("*.py",)
# transformers 5 builds an empty tokenizer, without a word, for a folder that holds none of these.
_VOCABULARY_FILES = ("tokenizer.json", "tokenizer.model", "vocab.json", "vocab.txt", "spiece.model", "*.tiktoken")
_OTHER_WEIGHTS = ("*.bin", "*.pt", "*.pth", "*.gguf")
MOST_TEMPLATE = 1 << 20  # bytes
_GENERATION_TAG = re.compile(r"\{%[-+]?\s*(end)?generation\s*[-+]?%\}")
NOT_CAUSAL = "not a model that writes text by itself. Name a causal language model, best a chat model."


def check_checkpoint(model: str, *, trust_remote_code: bool = False, chat_template: str = "") -> None:
    """Everything about a checkpoint that shows without reading its weights or running its code.

    Raises:
        UserError: see ``find_checkpoint``; also for an architecture that the installed transformers does not have, and
            that needs code which is absent or not trusted, and for a chat template that cannot be used.
    """
    folder = find_checkpoint(model, weights=False, code=trust_remote_code)
    _check_architecture(folder, model, trust_remote_code)
    read_chat_template(chat_template)


def find_checkpoint(model: str, *, weights: bool, code: bool = False) -> Path:
    """Folder of a checkpoint: ``model`` itself if it is a folder, else the hub's copy of that name, fetched if need be.

    Args:
        model: path of a folder or hub name (``owner/name``).
        weights: fetch the weights as well. A local folder is checked for them in either case.
        code: fetch the checkpoint's code as well.

    Raises:
        UserError: nothing usable there; says what is missing and how to get it.
    """
    folder = local_path(model)
    if model.strip() and folder.is_dir():  # an empty name would be the working directory
        refuse_special_files(folder)
        _check_description(folder, model)
        _check_weights(folder, model)
        return folder
    if not model.strip() or folder.exists() or os.path.isabs(folder) or model.startswith((".", "~")):
        kind = "a file, not a folder" if folder.is_file() else "no such folder"
        raise UserError(f"--model_from_pretrained={model}: {kind}. Give the folder of a checkpoint or a hub name.")
    wanted = (*_DESCRIPTION_FILES, *(_WEIGHT_FILES if weights else ()), *(_CODE_FILES if code else ()))
    folder = _fetch(model, wanted)
    _check_description(folder, model)
    if weights:
        _check_weights(folder, model)
    return folder


def local_path(name: str, flag: str = "--model_from_pretrained") -> Path:
    """A path that a flag names, with ~ for the home folder. UserError where that is nobody's."""
    try:
        return Path(name).expanduser()
    except RuntimeError:  # ~nobody/model
        raise UserError(f"{flag}={name}: there is no such user. Write the path in full.") from None


def refuse_special_files(folder: Path) -> None:
    """UserError for a pipe or a device in the folder of a checkpoint: the libraries that read it would wait there for ever."""
    for path in folder.iterdir():
        kind = path.stat().st_mode if path.exists() else stat.S_IFREG
        if not stat.S_ISREG(kind) and not stat.S_ISDIR(kind):
            raise UserError(f"{path}: is a pipe or a device, not a file. Take it out of the folder.")


def read_chat_template(path: str) -> str:
    """Text of a chat template; "" where no path is given.

    Raises:
        UserError: the file cannot be read, or is no template.
    """
    if not path:
        return ""
    import jinja2

    try:
        with open_regular(local_path(path, "--chat_template")) as file:
            raw = file.read(MOST_TEMPLATE + 1)
        if len(raw) > MOST_TEMPLATE:
            raise OSError(errno.EFBIG, f"it has more than {MOST_TEMPLATE >> 20} MiB")
        text = raw.decode("utf-8-sig")
        # transformers adds these loop controls and a tag for training to the language of templates
        jinja2.Environment(extensions=["jinja2.ext.loopcontrols"]).parse(_GENERATION_TAG.sub("", text))
    except UnicodeDecodeError:
        raise UserError(f"--chat_template={path}: is not UTF-8. Save it as UTF-8.") from None
    except OSError as exc:
        raise UserError(f"--chat_template={path}: cannot be read ({exc.strerror}). Name a file with a Jinja template.") from None
    except (ValueError, RecursionError) as exc:  # thousands of brackets
        raise UserError(f"--chat_template={path}: is no Jinja template ({first_line(exc)}). Correct the file.") from None
    except jinja2.TemplateSyntaxError as exc:
        raise UserError(f"{path}:{exc.lineno}: is no Jinja template ({exc.message}). Correct the line.") from None
    if not text.strip():
        raise UserError(f"--chat_template={path}: is empty. Name a file with a Jinja template.")
    return text


def transformers_version() -> tuple[int, int]:
    """Major and minor number of the installed release; (0, 0) without one. Does not import it."""
    try:
        numbers = re.findall(r"[0-9]+", version("transformers"))
    except PackageNotFoundError:
        return 0, 0
    return int(numbers[0]), int(numbers[1])


def read_json_object(path: Path) -> dict[str, Any]:
    """Content of a JSON file of a checkpoint; empty for a file that is absent, unreadable or no object."""
    try:
        content = read_json(path, strict=False)
    except UserError:
        return {}
    return content if isinstance(content, dict) else {}


def code_map(path: Path) -> dict[str, Any]:
    """Which auto class stands for which class of the checkpoint's own code, from one of its configs; mostly empty."""
    names = read_json_object(path).get("auto_map")
    return names if isinstance(names, dict) else {}


def brings_code(folder: Path) -> bool:
    """Whether a checkpoint's model or tokenizer has code of its own."""
    return any(code_map(folder / name) for name in ("config.json", "tokenizer_config.json"))


@contextmanager
def quiet() -> Iterator[None]:
    """Keep notices and progress bars of transformers and of the hub's client off the output; only errors are let through."""
    from transformers.utils import logging as hf_logging

    # Of its handlers, not of its loggers: that would take half a millisecond, and this is entered for every pass.
    loggers = (hf_logging.get_logger(), logging.getLogger("huggingface_hub"))
    levels = [(handler, handler.level) for logger in loggers for handler in logger.handlers]
    for handler, level in levels:
        handler.setLevel(max(level, logging.ERROR))
    hf_logging.disable_progress_bar()
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            yield
    finally:
        for handler, level in levels:
            handler.setLevel(level)


def longest_input(tokenizer: Any) -> int:
    """``model_max_length`` of a tokenizer: tokens. UserError where its file says something that is no number."""
    value = tokenizer.model_max_length
    if isinstance(value, bool) or not isinstance(value, (int, float)) or not value >= 1:
        raise UserError(f"{tokenizer.name_or_path}: tokenizer_config.json: model_max_length is {value!r:.60}, not a number of tokens. "
                        "Correct it, or copy the file from the model's source.")
    return int(min(value, 1 << 62))


def first_line(exc: BaseException) -> str:
    """``<type>: <first line of the message>``, at most 300 characters."""
    lines = str(exc).strip().splitlines()
    return f"{type(exc).__name__}: {lines[0].strip() if lines else 'no message'}"[:300]


def _fetch(name: str, patterns: Sequence[str]) -> Path:
    """The hub's files of a model. One request decides; from_pretrained would retry for a minute without a network."""
    from huggingface_hub import snapshot_download

    log.info("looking up %s on the Hugging Face hub (files are downloaded on first use)", name)
    with quiet():
        try:
            return Path(snapshot_download(name, allow_patterns=list(patterns)))
        except Exception as exc:
            raise UserError(
                f"--model_from_pretrained={name}: neither a folder here nor a model that could be fetched "
                f"({first_line(exc)}). Check the name and the network (a gated model needs `hf auth login`), or "
                "download it on another machine and give the folder."
            ) from exc


def _check_description(folder: Path, model: str) -> None:
    """Config and vocabulary are there and readable."""
    config = folder / "config.json"
    if not config.is_file():
        adapter = (folder / "adapter_config.json").is_file()
        why = "holds an adapter only. Merge it into its base model and save that" if adapter else (
            "has no config.json. Give the folder that save_pretrained or the hub's download wrote"
        )
        raise UserError(f"--model_from_pretrained={model}: {why}.")
    try:
        read_json(config, strict=False)["model_type"]
    except (UserError, KeyError, TypeError) as exc:
        raise UserError(f"{config}:1: no JSON object with a model_type ({first_line(exc)}). Fetch it again.") from exc
    if not any(any(folder.glob(name)) for name in _VOCABULARY_FILES):
        raise UserError(
            f"--model_from_pretrained={model}: no tokenizer (tokenizer.json, tokenizer.model or vocab.json). "
            "Copy the tokenizer files of its base model into the folder."
        )


def _check_architecture(folder: Path, model: str, trust_remote_code: bool) -> None:
    """The installed transformers has the architecture, or the checkpoint brings code for it that may run."""
    from transformers.models.auto.configuration_auto import CONFIG_MAPPING_NAMES  # no import of torch

    kind = str(read_json_object(folder / "config.json").get("model_type"))
    if kind in CONFIG_MAPPING_NAMES:
        return
    code = code_map(folder / "config.json")
    if not code:
        raise UserError(unknown_architecture(model, kind))
    if not trust_remote_code:
        raise UserError(needs_code(model, "model"))
    here = [str(name).split(".")[0] for name in code.values() if "--" not in str(name)]  # "--": of another repository
    lost = sorted(f"{name}.py" for name in here if not (folder / f"{name}.py").is_file())
    if lost:
        raise UserError(f"--model_from_pretrained={model}: its code {lost[0]} is missing. Finish the download.")


def _check_weights(folder: Path, model: str) -> None:
    """Safetensors are there, all the parts that the index names included."""
    index = folder / "model.safetensors.index.json"
    if index.is_file():
        try:
            parts = sorted({part + "" for part in read_json(index, strict=False)["weight_map"].values()})
        except (UserError, KeyError, TypeError, AttributeError) as exc:
            raise UserError(f"{index}:1: not an index of weights ({first_line(exc)}). Fetch it again.") from exc
        lost = [part for part in parts if not (folder / part).is_file()]
        if lost:
            raise UserError(
                f"--model_from_pretrained={model}: {len(lost)} of {len(parts)} weight files are missing, "
                f"among them {lost[0]}. Finish the download."
            )
    elif not (folder / "model.safetensors").is_file():
        raise UserError(f"--model_from_pretrained={model}: {_without_safetensors(folder)}")


def _without_safetensors(folder: Path) -> str:
    other = sorted(path.name for pattern in _OTHER_WEIGHTS for path in folder.glob(pattern))
    if not other:
        return "no weights (model.safetensors). Finish the download, or give the folder that holds them."
    if not other[0].endswith(".bin"):
        return f"weights in {other[0]}, but only safetensors are loaded. Name a safetensors checkpoint of the model."
    trust = ", trust_remote_code=True" if brings_code(folder) else ""
    name = json.dumps(str(folder), ensure_ascii=False)
    code = (f"from transformers import AutoModelForCausalLM as M; M.from_pretrained({name}, use_safetensors=False{trust})"
            f".save_pretrained({name}, safe_serialization=True)")
    return (f"weights in {other[0]}, but only safetensors are loaded. Convert them once, if you trust the file: "
            f"{shlex.join(['python', '-c', code])}.")


def needs_code(model: str, what: str) -> str:
    """What to tell about a model or tokenizer whose code is not trusted."""
    return (
        f"--model_from_pretrained={model}: the {what} needs code that comes with the checkpoint. Read that code (its .py "
        "files) and add --trust_remote_code to run it, or use a native checkpoint of the same model, often one whose name "
        'ends in "-hf" (THUDM/glm-4-9b-chat-hf for GLM4).'
    )


def unknown_architecture(model: str, kind: str) -> str:
    """What to tell about an architecture that the installed transformers lacks."""
    return (
        f"--model_from_pretrained={model}: transformers {version('transformers')} does not know the architecture "
        f"{kind}. Update transformers or choose another model."
    )
