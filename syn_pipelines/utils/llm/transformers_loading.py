"""Checkpoints for the transformers backend: where they are, on which device they go, and errors a user can act on.

Only native architectures and safetensors are loaded; code that comes with a checkpoint is never run.
"""

from __future__ import annotations

import json
import logging
import os
import re
import warnings
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from syn_pipelines.utils.errors import UserError

log = logging.getLogger(__name__)

# A hub name is fetched in two parts, so that counting tokens does not download the weights.
_DESCRIPTION_FILES = ("*.json", "*.jinja", "*.txt", "*.model", "*.tiktoken")
_WEIGHT_FILES = ("model*.safetensors",)
# transformers 5 builds an empty tokenizer, without a word, for a folder that holds none of these.
_VOCABULARY_FILES = ("tokenizer.json", "tokenizer.model", "vocab.json", "vocab.txt", "spiece.model", "*.tiktoken")
_OTHER_WEIGHTS = ("*.bin", "*.pt", "*.pth", "*.gguf")
_NO_CONTEXT_LIMIT = 10**9  # tokenizers without a limit say 1e30


@dataclass(frozen=True)
class Placement:
    """Where the weights go. device_map: as ``from_pretrained`` takes it, None for the CPU."""

    dtype: str
    device_map: dict[str, str] | str | None = None
    max_memory: dict[int, int] = field(default_factory=dict)


def parse_gpus(n_gpu: str | int | Sequence[int]) -> tuple[int, ...]:
    """GPU numbers from ``0``, ``"0"``, ``"0,1"``, ``"[0, 1]"`` or ``[0, 1]``, in the order given.

    Raises:
        UserError: not a list of different numbers from 0 on.
    """
    text = ",".join(map(str, n_gpu)) if isinstance(n_gpu, (list, tuple)) else str(n_gpu)
    parts = [part.strip() for part in text.strip().strip("[]()").split(",") if part.strip()]
    if not parts or any(re.fullmatch(r"[0-9]+", part) is None for part in parts) or len(set(parts)) < len(parts):
        raise UserError(f"--n_gpu={text}: not a GPU number or a list of them. Write --n_gpu 0 or --n_gpu 0,1.")
    return tuple(int(part) for part in parts)


def choose_placement(gpus: Sequence[int]) -> Placement:
    """The named GPUs in bfloat16, or the CPU in float32 where the machine has no GPU at all (says so once).

    Raises:
        UserError: the machine has GPUs, but not all the named ones.
    """
    import torch

    count = torch.cuda.device_count() if torch.cuda.is_available() else 0
    if count == 0:
        log.warning("no GPU on this machine: the model runs on the CPU, in float32")
        return Placement("float32")
    absent = [gpu for gpu in gpus if gpu >= count]
    if absent:
        raise UserError(f"--n_gpu={absent[0]}: this machine has {count} GPU(s), numbered from 0. Name one of those.")
    if len(gpus) == 1:
        return Placement("bfloat16", {"": f"cuda:{gpus[0]}"})
    # A tenth of the free memory stays for the attention cache. Without a "cpu" entry nothing may spill to the host.
    return Placement("bfloat16", "auto", {gpu: int(torch.cuda.mem_get_info(gpu)[0] * 0.9) for gpu in gpus})


def find_checkpoint(model: str, *, weights: bool) -> Path:
    """Folder of a checkpoint: ``model`` itself if it is a folder, else the hub's copy of that name, fetched if need be.

    Args:
        model: path of a folder or hub name (``owner/name``).
        weights: fetch the weights as well. A local folder is checked for them in either case.

    Raises:
        UserError: nothing usable there; says what is missing and how to get it.
    """
    folder = Path(model).expanduser()
    if model.strip() and folder.is_dir():  # an empty name would be the working directory
        _check_description(folder, model)
        _check_weights(folder, model)
        return folder
    if not model.strip() or folder.exists() or os.path.isabs(folder) or model.startswith((".", "~")):
        kind = "a file, not a folder" if folder.is_file() else "no such folder"
        raise UserError(f"--model_from_pretrained={model}: {kind}. Give the folder of a checkpoint or a hub name.")
    folder = _fetch(model, (*_DESCRIPTION_FILES, *(_WEIGHT_FILES if weights else ())))
    _check_description(folder, model)
    if weights:
        _check_weights(folder, model)
    return folder


def load_tokenizer(model: str) -> Any:
    """Tokenizer of a checkpoint, with its chat template if it has one. Does not touch the weights.

    Raises:
        UserError: see ``find_checkpoint``; also when the tokenizer needs code of the checkpoint or is damaged.
    """
    from transformers import AutoTokenizer

    folder = find_checkpoint(model, weights=False)
    with quiet():
        try:
            tokenizer = AutoTokenizer.from_pretrained(str(folder), trust_remote_code=False)
        except Exception as exc:
            raise UserError(_explain(exc, model, "tokenizer")) from exc
    template = folder / "chat_template.jinja"
    if not tokenizer.chat_template and template.is_file():  # releases before 4.48 do not look for this file
        tokenizer.chat_template = template.read_text(encoding="utf-8")
    return tokenizer


def load_model(model: str, placement: Placement) -> Any:
    """Causal language model in evaluation mode, placed as told.

    Raises:
        UserError: see ``find_checkpoint``; also for an unknown architecture, one that needs code of the checkpoint,
            damaged or missing weights, and a model larger than the memory of the GPUs.
    """
    import torch

    folder = find_checkpoint(model, weights=True)
    options: dict[str, Any] = {_dtype_keyword(): getattr(torch, placement.dtype)}
    if placement.device_map:
        options["device_map"] = placement.device_map
    if placement.max_memory:
        options["max_memory"] = placement.max_memory
    with quiet():
        try:
            loaded, info = _from_pretrained(folder, options)
        except Exception as exc:
            raise UserError(_explain(exc, model, "model")) from exc
    lost = sorted(info["missing_keys"])
    if lost:  # transformers would fill them with random numbers and go on
        raise UserError(
            f"--model_from_pretrained={model}: {len(lost)} weights are missing, among them {lost[0]}. "
            "Name a complete checkpoint of a text-generating model."
        )
    if {"cpu", "disk"} & {str(device) for device in getattr(loaded, "hf_device_map", {}).values()}:
        raise UserError(_too_large(model))
    return loaded.eval()


def end_token_ids(model: Any, tokenizer: Any) -> list[int]:
    """Every token that ends a reply: of the generation config, the model config, the tokenizer and the chat template.

    The sources disagree in practice: the generation config of some Llama 3 copies lacks the end-of-turn token that
    their template writes, and GLM's tokenizer names one of its three.
    """
    ids: set[int] = set()
    for source in (model.generation_config, model.config, tokenizer):
        value = getattr(source, "eos_token_id", None)
        ids.update(value if isinstance(value, (list, tuple)) else [] if value is None else [value])
    return sorted(ids | _template_ends(tokenizer))


def context_length(config: Any, tokenizer: Any) -> int:
    """Most tokens, prompt and reply together, that the model was made for."""
    config = config.get_text_config() if hasattr(config, "get_text_config") else config
    for name in ("max_position_embeddings", "n_positions", "max_seq_len", "seq_length"):
        value = getattr(config, name, None)
        if isinstance(value, int) and value > 0:
            return value
    return min(int(tokenizer.model_max_length), _NO_CONTEXT_LIMIT)


@contextmanager
def quiet() -> Iterator[None]:
    """Keep transformers' notices and progress bars off the output; only its errors are let through."""
    from transformers.utils import logging as hf_logging

    level = hf_logging.get_verbosity()
    hf_logging.set_verbosity_error()
    hf_logging.disable_progress_bar()
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            yield
    finally:
        hf_logging.set_verbosity(level)


def first_line(exc: BaseException) -> str:
    """``<type>: <first line of the message>``, at most 300 characters."""
    lines = str(exc).strip().splitlines()
    return f"{type(exc).__name__}: {lines[0].strip() if lines else 'no message'}"[:300]


def _from_pretrained(folder: Path, options: dict[str, Any]) -> tuple[Any, dict]:
    from transformers import AutoModelForCausalLM

    options = {**options, "trust_remote_code": False, "use_safetensors": True, "output_loading_info": True}
    try:
        return AutoModelForCausalLM.from_pretrained(str(folder), attn_implementation="sdpa", **options)
    except ValueError as exc:
        if "scaled_dot_product_attention" not in str(exc):
            raise
        return AutoModelForCausalLM.from_pretrained(str(folder), attn_implementation="eager", **options)


def _dtype_keyword() -> str:
    """``torch_dtype`` up to transformers 4, ``dtype`` from 5 on."""
    import transformers

    return "torch_dtype" if int(transformers.__version__.split(".")[0]) < 5 else "dtype"


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
        json.loads(config.read_text(encoding="utf-8"))["model_type"]
    except (ValueError, KeyError, TypeError) as exc:
        raise UserError(f"{config}:1: no JSON object with a model_type ({first_line(exc)}). Fetch it again.") from exc
    if not any(any(folder.glob(name)) for name in _VOCABULARY_FILES):
        raise UserError(
            f"--model_from_pretrained={model}: no tokenizer (tokenizer.json, tokenizer.model or vocab.json). "
            "Copy the tokenizer files of its base model into the folder."
        )


def _check_weights(folder: Path, model: str) -> None:
    """Safetensors are there, all the parts that the index names included."""
    index = folder / "model.safetensors.index.json"
    if index.is_file():
        try:
            parts = sorted(set(json.loads(index.read_text(encoding="utf-8"))["weight_map"].values()))
        except (ValueError, KeyError, TypeError, AttributeError) as exc:
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
    return (
        f"weights in {other[0]}, but only safetensors are loaded. Convert them once, if you trust the file: "
        'python -c "from transformers import AutoModelForCausalLM as M; '
        f"M.from_pretrained('{folder}', use_safetensors=False).save_pretrained('{folder}')\"."
    )


def _explain(exc: Exception, model: str, what: str) -> str:
    """One line for the user out of an error of from_pretrained."""
    import transformers

    text = str(exc)
    start = f"--model_from_pretrained={model}: "
    if "trust_remote_code" in text:
        return (
            f"{start}the {what} needs code that comes with the checkpoint, which is never run here. Use a native "
            'checkpoint of the same model, often one whose name ends in "-hf" (THUDM/glm-4-9b-chat-hf for GLM4).'
        )
    if "does not recognize this architecture" in text:
        kind = re.search(r"model type `([^`]*)`", text)
        return (
            f"{start}transformers {transformers.__version__} does not know the architecture "
            f"{kind.group(1) if kind else ''}. Update transformers or choose another model."
        )
    if "Unrecognized configuration class" in text or "Unrecognized model" in text:
        return f"{start}not a model that writes text by itself. Name a causal language model, best a chat model."
    if is_out_of_memory(exc) or "offload" in text or "device disk" in text:  # the last one: releases around 4.57
        return _too_large(model)
    return f"{start}the {what} could not be loaded ({first_line(exc)}). Fetch the checkpoint again or choose another."


def _too_large(model: str) -> str:
    return (
        f"--model_from_pretrained={model}: larger than the free memory. "
        "Name more GPUs (--n_gpu 0,1) or a smaller model."
    )


def is_out_of_memory(exc: BaseException) -> bool:
    """True for torch's own error and for the plain RuntimeErrors that the CPU allocator and cuBLAS raise."""
    import torch

    if isinstance(exc, (torch.OutOfMemoryError, MemoryError)):
        return True
    signs = ("out of memory", "can't allocate memory", "CUBLAS_STATUS_ALLOC_FAILED")
    return isinstance(exc, RuntimeError) and any(sign in str(exc) for sign in signs)


def _template_ends(tokenizer: Any) -> set[int]:
    """The special token that the chat template writes straight after an answer, if it writes one."""
    mark = "xyzzy"
    turns = [{"role": role, "content": mark if role == "assistant" else "a"} for role in ("user", "assistant", "user")]
    try:
        text = tokenizer.apply_chat_template(turns, tokenize=False)
    except Exception:  # no template, or one that refuses this talk: the other sources stand
        return set()
    after = text.rpartition(mark)[2].lstrip()
    specials = {int(i): str(token) for i, token in tokenizer.added_tokens_decoder.items() if token.special}
    fits = [i for i, token in specials.items() if after.startswith(token) and i != tokenizer.bos_token_id]
    return {max(fits, key=lambda i: len(specials[i]))} if fits else set()
