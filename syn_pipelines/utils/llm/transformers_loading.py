"""Checkpoints for the transformers backend: where they are, on which device they go, and errors a user can act on.

Only safetensors are loaded. Code that comes with a checkpoint runs only where the caller trusts it.
"""

from __future__ import annotations

import gc
import logging
import re
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from importlib.metadata import version
from pathlib import Path
from typing import Any

from syn_pipelines.utils.errors import UserError
from syn_pipelines.utils.llm.checkpoints import (
    NOT_CAUSAL,
    brings_code,
    code_map,
    find_checkpoint,
    first_line,
    longest_input,
    needs_code,
    quiet,
    read_chat_template,
    read_json_object,
    transformers_version,
    unknown_architecture,
)

log = logging.getLogger(__name__)

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


def check_gpus(gpus: Sequence[int]) -> bool:
    """Whether the machine has a GPU at all. Imports torch.

    Raises:
        UserError: it has GPUs, but not all the named ones.
    """
    import torch

    count = torch.cuda.device_count() if torch.cuda.is_available() else 0
    absent = [gpu for gpu in gpus if gpu >= count]
    if count and absent:
        raise UserError(f"--n_gpu={absent[0]}: this machine has {count} GPU(s), numbered from 0. Name one of those.")
    return count > 0


def choose_placement(gpus: Sequence[int]) -> Placement:
    """The named GPUs in bfloat16, or the CPU in float32 where the machine has no GPU at all (says so once).

    Raises:
        UserError: the machine has GPUs, but not all the named ones.
    """
    import torch

    if not check_gpus(gpus):
        log.warning("no GPU on this machine: the model runs on the CPU, in float32")
        return Placement("float32")
    if len(gpus) == 1:
        return Placement("bfloat16", {"": f"cuda:{gpus[0]}"})
    # A tenth of the free memory stays for the attention cache. Without a "cpu" entry nothing may spill to the host.
    return Placement("bfloat16", "auto", {gpu: int(torch.cuda.mem_get_info(gpu)[0] * 0.9) for gpu in gpus})


def load_tokenizer(model: str, *, trust_remote_code: bool = False, chat_template: str = "") -> Any:
    """Tokenizer of a checkpoint. Does not touch the weights.

    Args:
        trust_remote_code: run the checkpoint's own code where it has some.
        chat_template: path of the template that stands in for the checkpoint's own, "" for its own, if it has one.
    Raises:
        UserError: see ``check_checkpoint``; also when the tokenizer needs code of the checkpoint or is damaged.
    """
    folder = find_checkpoint(model, weights=False, code=trust_remote_code)
    given = read_chat_template(chat_template)
    from transformers import AutoTokenizer

    with quiet():
        try:
            tokenizer = AutoTokenizer.from_pretrained(str(folder), trust_remote_code=trust_remote_code)
        except Exception as exc:
            raise UserError(_explain(exc, model, "tokenizer", folder, trust_remote_code)) from exc
    longest_input(tokenizer)  # refuses what would only be found out while tokens are counted
    # Nobody here asks a tokenizer for masks; making them runs the padding code, which in tokenizers written before 4.45
    # (GLM4's first ones) does not know the arguments of today.
    tokenizer.model_input_names = ["input_ids"]
    beside = folder / "chat_template.jinja"
    if given:
        tokenizer.chat_template = given
    elif not getattr(tokenizer, "chat_template", None) and beside.is_file():  # releases before 4.48 do not look there
        tokenizer.chat_template = beside.read_text(encoding="utf-8")
    return tokenizer


def load_model(model: str, placement: Placement, *, trust_remote_code: bool = False) -> Any:
    """Causal language model in evaluation mode, placed as told.

    Raises:
        UserError: see ``find_checkpoint``; also for an unknown architecture, one that needs code of the checkpoint
            which is not trusted, damaged or missing weights, and a model larger than the memory of the GPUs.
    """
    import torch

    folder = find_checkpoint(model, weights=True, code=trust_remote_code)
    options: dict[str, Any] = {_dtype_keyword(): getattr(torch, placement.dtype), "trust_remote_code": trust_remote_code}
    if placement.device_map:
        options["device_map"] = placement.device_map
    if placement.max_memory:
        options["max_memory"] = placement.max_memory
    with quiet():
        try:
            loaded, info = _from_pretrained(folder, options)
        except Exception as exc:
            raise UserError(_explain(exc, model, "model", folder, trust_remote_code)) from exc
    if not loaded.can_generate():  # AutoModel may give a model without a head
        raise UserError(f"--model_from_pretrained={model}: {NOT_CAUSAL}")
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
        values = value if isinstance(value, (list, tuple)) else [] if value is None else [value]
        if not all(type(number) is int for number in values):
            raise UserError(f"{tokenizer.name_or_path}: eos_token_id is {value!r:.60} in its configuration, not a number of a token or a "
                            "list of them. Correct it, or copy the file from the model's source.")
        ids.update(values)
    return sorted(ids | _template_ends(tokenizer))


def context_length(config: Any, tokenizer: Any) -> int:
    """Most tokens, prompt and reply together, that the model was made for."""
    config = config.get_text_config() if hasattr(config, "get_text_config") else config
    for name in ("max_position_embeddings", "n_positions", "max_seq_len", "seq_length"):
        value = getattr(config, name, None)
        if isinstance(value, int) and value > 0:
            return value
    return min(longest_input(tokenizer), _NO_CONTEXT_LIMIT)


def _from_pretrained(folder: Path, options: dict[str, Any]) -> tuple[Any, dict]:
    import transformers

    options = {**options, "use_safetensors": True, "output_loading_info": True}
    code = code_map(folder / "config.json")
    only_plain = options["trust_remote_code"] and "AutoModel" in code and "AutoModelForCausalLM" not in code
    loader = transformers.AutoModel if only_plain else transformers.AutoModelForCausalLM
    if transformers_version() < (4, 36):  # the choice of an attention came with that release
        return loader.from_pretrained(str(folder), **options)
    try:
        return loader.from_pretrained(str(folder), attn_implementation="sdpa", **options)
    except ValueError as exc:
        if "scaled_dot_product_attention" not in str(exc):
            raise
        return loader.from_pretrained(str(folder), attn_implementation="eager", **options)


def _dtype_keyword() -> str:
    """``torch_dtype`` up to transformers 4, ``dtype`` from 5 on."""
    return "torch_dtype" if transformers_version() < (5, 0) else "dtype"


def _explain(exc: Exception, model: str, what: str, folder: Path, trusted: bool) -> str:
    """One line for the user out of an error of from_pretrained."""
    text = str(exc)
    start = f"--model_from_pretrained={model}: "
    # 4.30 looks for the class of a tokenizer among its own before it thinks of code beside it
    if not trusted and ("trust_remote_code" in text or ("does not exist or is not" in text and brings_code(folder))):
        return needs_code(model, what)
    if "does not recognize this architecture" in text:
        kind = re.search(r"model type `([^`]*)`", text)
        return unknown_architecture(model, kind.group(1) if kind else "")
    if "Unrecognized configuration class" in text or "Unrecognized model" in text:
        return f"{start}{NOT_CAUSAL}"
    if is_out_of_memory(exc) or "offload" in text or "device disk" in text:  # the last one: releases around 4.57
        return _too_large(model)
    damaged = isinstance(exc, OSError) or "Safetensor" in type(exc).__name__
    if trusted and not damaged and brings_code(folder):
        written = read_json_object(folder / "config.json").get("transformers_version", "an older release")
        return (
            f"{start}the {what}'s own code does not run on transformers {version('transformers')} ({first_line(exc)}). It "
            f'was written for {written}: install that, or use a native checkpoint, often one whose name ends in "-hf".'
        )
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


def free_memory() -> None:
    """Give back what a failed pass left behind. Call it where no exception holds the pass's tensors any more."""
    import torch

    gc.collect()
    if torch.cuda.is_available():
        with suppress(RuntimeError):  # of a GPU that has broken down, which whoever uses it next will tell
            torch.cuda.empty_cache()


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
