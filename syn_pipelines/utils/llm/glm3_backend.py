"""Answers from ChatGLM3, through the code that comes with its checkpoint and the transformers release it was written for.

Covered: what the transformers backend does with ``--scheduler=generate``. Different here: the roles of a chat are single
tokens which no text can spell, padded rows bring their positions, and this release stops a batch, not its rows.
Not covered: tools, ChatGLM2, whose tokenizer has no roles, and weights that are not safetensors.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

from syn_pipelines.utils.errors import UserError
from syn_pipelines.utils.llm.checkpoints import (
    code_map,
    find_checkpoint,
    local_path,
    read_json_object,
    transformers_version,
)
from syn_pipelines.utils.llm.transformers_backend import TransformersBackend
from syn_pipelines.utils.llm.transformers_loading import check_gpus, load_tokenizer

RELEASE = (4, 30)  # of transformers
# A role opens another message, so it ends this one; eop is the end that earlier training wrote.
_END_COMMANDS = ("<|user|>", "<|observation|>", "<|assistant|>", "<|system|>", "eop")


def is_chatglm3(model: str) -> bool:
    """Whether a checkpoint is ChatGLM3: a folder by its configs, a hub name by its words (nothing is looked up).

    GLM4's first checkpoints call themselves chatglm, too; their tokenizer is another one.
    """
    folder = local_path(model)
    if not folder.is_dir():
        return "chatglm3" in model.lower()
    name = read_json_object(folder / "tokenizer_config.json").get("tokenizer_class")
    code = code_map(folder / "tokenizer_config.json").get("AutoTokenizer")
    names = [name, *(code if isinstance(code, list) else [code])]
    is_glm = read_json_object(folder / "config.json").get("model_type") == "chatglm"
    return is_glm and any(str(name).rpartition(".")[2] == "ChatGLMTokenizer" for name in names)


class Glm3Backend(TransformersBackend):
    """Backend over a ChatGLM3 checkpoint. The arguments are those of ``TransformersBackend``; the scheduler is always
    "generate", for the decode loop knows no model code but that of transformers."""

    name = "glm3"

    def __init__(self, model_from_pretrained: str, **options: Any) -> None:
        super().__init__(model_from_pretrained, **{**options, "scheduler": "generate"})

    def check(self) -> None:
        """Files, kind of model, environment, trust, tokenizer and GPUs. Raises UserError. Reads no weights."""
        self._load_tokenizer()
        if any(self._gpus):  # a machine with a GPU has GPU 0
            check_gpus(self._gpus)

    def _load_tokenizer(self) -> None:
        if self._tokenizer is not None:
            return
        self._check_kind(find_checkpoint(self.model, weights=False, code=self._trust_remote_code))
        _check_release()
        if not self._trust_remote_code:
            raise UserError(f"--model_from_pretrained={self.model}: ChatGLM3 needs the code that comes with its checkpoint. "
                            "Read that code (the .py files there) and add --trust_remote_code to run it.")
        if self._chat_template:
            raise UserError(f"--chat_template={self._chat_template}: ChatGLM3 marks roles with tokens that no template can "
                            "write. Leave it out.")
        tokenizer = load_tokenizer(self.model, trust_remote_code=True)
        tokenizer.verbose = False  # it has no <bos>, and would print so whenever it is asked
        try:
            end_commands(tokenizer)
        except (AttributeError, AssertionError, KeyError):  # no such method, or no such token
            raise UserError(f"--model_from_pretrained={self.model}: its tokenizer has no tokens for the roles of a chat. "
                            "Name a ChatGLM3 checkpoint.") from None
        self._tokenizer = tokenizer

    def _check_kind(self, folder: Path) -> None:
        start = f"--model_from_pretrained={self.model}"
        if not is_chatglm3(str(folder)):
            kind = read_json_object(folder / "config.json").get("model_type")
            raise UserError(f"{start}: holds a {kind} model, and the glm3 backend (--backend=glm3 or --save_type_name=GLM3) "
                            "runs ChatGLM3 only. Add --backend=transformers, or name a ChatGLM3 checkpoint.")
        if "." in folder.name:  # this release imports the code under the folder's name
            raise UserError(f"{start}: Python cannot import the model's code from a folder with a dot in its name. "
                            f"Rename it, to {folder.name.replace('.', '_')} for instance.")

    def _load(self) -> None:
        if self._network is not None:
            return
        super()._load()
        self._ends = end_commands(self._tokenizer)
        self._network.generation_config.eos_token_id = self._ends
        self._network.generate = as_newer_releases(self._network.generate, self._ends)

    def _encode(self, messages: list[dict[str, str]]) -> list[int]:
        """Token ids of a chat up to the point where the model speaks.

        The last role gets the line break that closes its head: left to the model, it may name a tool there.
        """
        ids = list(self._tokenizer.get_prefix_tokens())
        for message in messages:
            ids += self._tokenizer.build_single_message(message["role"], "", message["content"])
        return ids + self._tokenizer.build_single_message("assistant", "", "")


def end_commands(tokenizer: Any) -> list[int]:
    """The tokens that end a reply, in order."""
    return sorted({tokenizer.eos_token_id, *map(tokenizer.get_command, _END_COMMANDS)})


def as_newer_releases(generate: Callable[..., Any], ends: Sequence[int]) -> Callable[..., Any]:
    """``generate`` of this release and this model, called as newer ones are: left-padded rows count their positions from
    their first token, and stopping criteria answer for each row."""

    def call(*, attention_mask: Any, stopping_criteria: Iterable[Callable[..., Any]], **options: Any) -> Any:
        from transformers import StoppingCriteriaList

        places = (attention_mask.cumsum(dim=-1) - 1).clamp(min=0)
        stop = StoppingCriteriaList([AllRowsStop(list(stopping_criteria), ends)])
        return generate(attention_mask=attention_mask, position_ids=places, stopping_criteria=stop, **options)

    return call


class AllRowsStop:
    """Stops a batch when each of its rows has met one of the criteria, at the latest now, or written an end token.

    A row that is done goes on until then; what it writes is cut off later.
    """

    def __init__(self, criteria: Sequence[Callable[..., Any]], ends: Sequence[int]) -> None:
        self._criteria, self._ends = criteria, ends
        self._done: Any = False

    def __call__(self, input_ids: Any, scores: Any, **_: Any) -> bool:
        import torch

        self._done |= torch.isin(input_ids[:, -1], torch.tensor(self._ends, device=input_ids.device))
        for rows_done in self._criteria:
            self._done |= rows_done(input_ids, scores)
        return bool(self._done.all())


def _check_release() -> None:
    """UserError unless the installed transformers is the one that ChatGLM3's code was written for. Imports nothing."""
    if transformers_version() == RELEASE:
        return
    try:
        found = f"transformers {version('transformers')}"
    except PackageNotFoundError:
        found = "no transformers"
    raise UserError(
        f"the glm3 backend: ChatGLM3's code runs on transformers {RELEASE[0]}.{RELEASE[1]} only, and this environment has "
        f"{found}. Use the environment of requirements-glm3.txt: python3.11 -m venv .venv-glm3 && .venv-glm3/bin/pip "
        "install -r requirements-glm3.txt"
    )
