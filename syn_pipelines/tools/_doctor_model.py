"""The doctor's look at the language model: a checkpoint on this machine, or a server. Reads no weights."""

from __future__ import annotations

import json
import math
import struct
from collections.abc import Iterator
from importlib.util import find_spec
from pathlib import Path
from types import SimpleNamespace
from typing import Any

from syn_pipelines.tools._diagnosis import Case, Check, ok, problem, told, warning
from syn_pipelines.tools._doctor_machine import GIB, INSTALL, INSTALL_GLM3, free_memory, installed
from syn_pipelines.utils.errors import UserError
from syn_pipelines.utils.llm import Constraint, Request
from syn_pipelines.utils.llm.checkpoints import code_map, find_checkpoint, read_json_object, transformers_version
from syn_pipelines.utils.llm.glm3_backend import RELEASE

OLDEST = (4, 44)  # release of transformers for all models but ChatGLM3
# First release with the native class of a model type. A checkpoint that is younger than the installed release is the most
# frequent reason why a model does not load.
SINCE = {"glm": "4.46", "glm4": "4.51", "glm4_moe": "4.54", "qwen2": "4.37", "qwen2_moe": "4.40", "qwen3": "4.51",
         "qwen3_moe": "4.51", "llama": "4.28", "mistral": "4.34", "gemma2": "4.42", "gemma3_text": "4.50", "phi3": "4.41"}
TOKENS_AT_ONCE = 1500  # of one request, prompt and reply, for an estimate of the cache
SENTENCE = ("Alice", "lives", "in", "Paris", ".")  # for the server, none of the data


def look_at_choice(case: Case) -> Iterator[Check]:
    """Which backend the flags choose."""
    llm = case.llm
    if llm.backend == "auto" and not llm.model_from_pretrained and not llm.base_url:
        yield warning("backend", "no language model is given, so only --backend=offline (a try-out) works",
                      "Add --model_from_pretrained (a folder or a hub name), and --base_url for a server, to check them.")
        return
    yield ok("backend", f"{case.backend.name} ({case.backend.model})")


def look_at_checkpoint(case: Case) -> Iterator[Check]:
    """Its files, and what the installed transformers makes of them."""
    if not case.is_local:
        return
    model = case.llm.model_from_pretrained
    folder = find_checkpoint(model, weights=False, code=case.llm.trust_remote_code)
    case.found["folder"] = folder
    yield ok("checkpoint", f"{folder}: all files are there" if Path(model).expanduser().is_dir()
             else f"{model}: found on the hub; its weights are downloaded on first use")
    yield from _release(case, folder)


def _release(case: Case, folder: Path) -> Iterator[Check]:
    """The release of transformers against the needs of the model."""
    kind = str(read_json_object(folder / "config.json").get("model_type"))
    here, shown = transformers_version(), f"transformers {installed('transformers') or '(not installed)'}"
    if case.backend_name == "glm3":
        if here == RELEASE:
            yield from _backend_check(case, f"{shown} runs ChatGLM3")
        else:
            yield problem("transformers", f"{shown}; the code of ChatGLM3 runs on 4.30 only", INSTALL_GLM3)
    elif here < OLDEST:
        yield problem("transformers", f"{shown} is older than 4.44", INSTALL)
    elif kind in _known_types():
        yield from _backend_check(case, f"{shown} knows {kind}")
    elif kind in SINCE and _number(SINCE[kind]) > here:
        yield problem("transformers", f"{shown} does not know {kind} yet, which came with {SINCE[kind]}",
                      f"pip install -U 'transformers>={SINCE[kind]},<6'")
    elif not code_map(folder / "config.json"):
        yield problem("transformers", f"{shown} does not know {kind}", "Update transformers, or choose another model.")
    else:
        yield from _backend_check(case, f"{shown} does not know {kind}; the checkpoint brings its own code")


def _backend_check(case: Case, found: str) -> Iterator[Check]:
    """What the backend itself refuses: code that is not trusted, files of it that are missing, a broken template."""
    try:
        case.backend.check()
    except UserError as err:
        yield told("transformers", err)
    else:
        case.found["loadable"] = True
        yield ok("transformers", found)


def _known_types() -> set[str]:
    from transformers.models.auto.configuration_auto import CONFIG_MAPPING_NAMES  # no import of torch

    return set(CONFIG_MAPPING_NAMES)


def _number(release: str) -> tuple[int, ...]:
    return tuple(map(int, release.split(".")))


# --- memory ----------------------------------------------------------------------------------------------------------

def look_at_memory(case: Case) -> Iterator[Check]:
    """The weights, as they would be loaded, against the memory that is free."""
    folder, torch = case.found.get("folder"), case.found.get("torch")
    if folder is None or torch is None:
        return
    files = sorted(folder.glob("model*.safetensors"))
    if not files:
        yield warning("memory", "the weights are not downloaded yet, so their size is not known",
                      "Run this again after the first use, or after: hf download " + case.llm.model_from_pretrained)
        return
    numbers = 0
    for file in files:
        count, missing = count_numbers(file)
        if missing:
            yield problem("memory", f"{file}: {missing:,} bytes are missing at its end", "Finish the download.")
            return
        numbers += count
    gpus = case.found.get("gpus", ())
    width = 2 if gpus else 4  # bfloat16 on a GPU, float32 on the CPU
    free = sum(torch.cuda.mem_get_info(gpu)[0] for gpu in gpus) if gpus else free_memory()
    yield _weighed(case, numbers, width, free, _cache_bytes(folder, width) * case.llm.batch_size)


def _weighed(case: Case, numbers: int, width: int, free: int | None, cache: float) -> Check:
    where = "GPU memory" if case.found.get("gpus") else "main memory"
    need = numbers * width
    shown = (f"{_short(numbers)} parameters take {need / GIB:.1f} GiB as {'bfloat16' if width == 2 else 'float32'}, a batch of "
             f"{case.llm.batch_size} up to {cache / GIB:.1f} GiB more; ")
    if free is None:
        return warning("memory", f"{shown}the free {where} is not known", "Compare it with the machine's memory.")
    shown += f"{free / GIB:.1f} GiB of {where} are free"
    more = "Name more GPUs (--n_gpu 0,1), free memory, take a smaller model, or a server (--base_url)."
    if need > free:
        return problem("memory", shown, more)
    if need + cache > free:
        return warning("memory", shown, f"The batch is halved by itself where it must be; a smaller --batch_size saves that. {more}")
    return ok("memory", shown)


def count_numbers(path: Path) -> tuple[int, int]:
    """Parameters in a safetensors file, and how many bytes it lacks at its end; reads its header only.

    Raises:
        UserError: no safetensors file.
    """
    try:
        with path.open("rb") as file:
            length = struct.unpack("<Q", file.read(8))[0]
            header = json.loads(file.read(min(length, 1 << 28)))
        tensors = [entry for name, entry in header.items() if name != "__metadata__"]
        end = max((entry["data_offsets"][1] for entry in tensors), default=0)
        count = sum(math.prod(entry["shape"]) for entry in tensors)
    except (struct.error, ValueError, KeyError, TypeError, IndexError, AttributeError, RecursionError):
        raise UserError(f"{path}: is no safetensors file. Fetch it again.") from None
    return count, max(8 + length + end - path.stat().st_size, 0)


def _cache_bytes(folder: Path, width: int) -> float:
    """Attention cache of one request; 0 where the config does not tell."""
    config = read_json_object(folder / "config.json")

    def first(*names: str) -> int:
        return next((config[name] for name in names if isinstance(config.get(name), int)), 0)

    layers, heads = first("num_hidden_layers", "num_layers", "n_layer"), first("num_attention_heads", "n_head")
    pairs = first("num_key_value_heads", "multi_query_group_num") or heads
    size = first("head_dim", "kv_channels") or first("hidden_size", "n_embd") // max(heads, 1)
    return 2.0 * layers * pairs * size * width * TOKENS_AT_ONCE


def _short(number: int) -> str:
    for size, name in ((10**9, "billion"), (10**6, "million")):
        if number >= size:
            return f"{number / size:.1f} {name}"
    return f"{number:,}"


# --- tokenizer, template, grammar ------------------------------------------------------------------------------------

def look_at_tokenizer(case: Case) -> Iterator[Check]:
    """The tokenizer loads, a chat template is there, grammars can be built on it."""
    folder = case.found.get("folder")
    if folder is None or not case.found.get("loadable"):  # the reason is told already, and would be told wrongly here
        return
    from syn_pipelines.utils.llm.transformers_loading import context_length, load_tokenizer

    try:
        tokenizer = load_tokenizer(case.llm.model_from_pretrained, trust_remote_code=case.llm.trust_remote_code,
                                   chat_template=case.llm.chat_template)
    except UserError as err:
        yield told("tokenizer", err)
        return
    config = read_json_object(folder / "config.json")
    case.found["context"] = context_length(SimpleNamespace(**(config.get("text_config") or config)), tokenizer)
    fast = bool(getattr(tokenizer, "is_fast", False))
    yield ok("tokenizer", f"{type(tokenizer).__name__}, {len(tokenizer):,} tokens, {'fast' if fast else 'slow (Python)'}")
    if case.backend_name == "glm3":
        yield ok("chat template", "not needed, ChatGLM3 has its own form of a chat")
    elif getattr(tokenizer, "chat_template", None):
        yield ok("chat template", case.llm.chat_template or "the checkpoint's own")
    else:
        yield warning("chat template", "none: prompts are sent as plain text, which a chat model does not expect",
                      "Take the chat version of the model, or give a template: --chat_template FILE")
    yield _grammar(case, tokenizer, folder)


def _grammar(case: Case, tokenizer: Any, folder: Path) -> Check:
    if getattr(case.llm, "constraint", "none") == "none":
        return ok("grammar", "switched off by --constraint=none")
    if find_spec("llguidance") is None:
        return warning("grammar", "llguidance is not installed: replies are not held to their sentences",
                       "pip install llguidance")
    from syn_pipelines.utils.llm.vocabulary import UnsupportedTokenizer, guidance_tokenizer

    config = read_json_object(folder / "config.json")
    sizes = [config.get(name) for name in ("vocab_size", "padded_vocab_size")]
    width = max([len(tokenizer), *(size for size in sizes if isinstance(size, int))])
    end = getattr(tokenizer, "eos_token_id", None)
    try:
        guidance_tokenizer(tokenizer, width, [end if end is not None else 0])
    except UnsupportedTokenizer as exc:
        return warning("grammar", f"not with this tokenizer ({exc}): replies are not held to their sentences",
                       "Nothing needs to be done; a model with a fast tokenizer would lose fewer replies.")
    return ok("grammar", f"llguidance {installed('llguidance')}: every reply parses and is found in its sentence")


# --- server ----------------------------------------------------------------------------------------------------------

def look_at_server(case: Case) -> Iterator[Check]:
    """Whether it answers, has the model, and which constraints it takes; asks it a few small questions."""
    if case.backend_name != "openai" or find_spec("openai") is None:
        return
    case.backend.check()
    yield ok("server", f"{case.llm.base_url} answers and has {case.llm.model_from_pretrained}")
    if getattr(case.llm, "constraint", "none") == "none":
        yield ok("server grammar", "not used: --constraint=none")
        return
    taken, errors = [], []
    for mode in ("entity", "pos"):
        for reply in case.backend.generate([_trial(mode)]):
            taken.append((mode, reply.decoded))
            errors += [reply.error] if reply.error else []
    if errors:
        yield problem("server grammar", f"the server refused a request: {errors[0]}", "Correct what it names, or ask its "
                      "operator.")
    shown = ", ".join(f"{mode}: {how or 'nothing'}" for mode, how in taken)
    if all(how for _, how in taken):
        yield ok("server grammar", f"it holds replies to what it is told ({shown})")
    elif not errors:
        yield warning("server grammar", f"it takes neither grammars nor JSON schemas for all tasks ({shown}); replies that "
                      "do not parse are rejected", "Nothing needs to be done; vLLM and SGLang take grammars.")


def _trial(mode: str) -> Request:
    labels = ("PERSON", "PLACE") if mode == "entity" else ("NOUN", "VERB", "OTHER")
    question = f"Say in JSON which {'entities' if mode == 'entity' else 'parts of speech'} are here: {' '.join(SENTENCE)}"
    return Request(f"doctor {mode}", ({"role": "user", "content": question},), 200,
                   constraint=Constraint(mode, SENTENCE, False, labels))
