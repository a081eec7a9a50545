"""A small ChatGLM3-shaped checkpoint with random weights and code of its own, made on the spot.

The code (folder ``chatglm3``) is written for these tests and copies the habits of ChatGLM3 that have caused trouble:
role tokens outside the sentencepiece model, ``_pad`` with the old signature, ``position_ids`` that the caller has to
bring, keys and values with the batch in second place, more scores than tokens, own names in the config, no ``post_init``.
It runs on the transformers release that ChatGLM3 was written for.
"""

from __future__ import annotations

import io
import json
import shutil
from pathlib import Path

from tiny_models import SENTENCES

CODE = Path(__file__).parent / "chatglm3"
_MODEL = "modeling_chatglm.ChatGLMForConditionalGeneration"
_CONFIG = {
    "model_type": "chatglm",
    "architectures": ["ChatGLMModel"],
    "auto_map": {"AutoConfig": "configuration_chatglm.ChatGLMConfig", "AutoModel": _MODEL, "AutoModelForCausalLM": _MODEL},
    "transformers_version": "4.30.2",
    "torch_dtype": "float32",
    "eos_token_id": 2,
    "pad_token_id": 0,
    "tie_word_embeddings": False,
}
_TOKENIZER = {
    "tokenizer_class": "ChatGLMTokenizer",
    "auto_map": {"AutoTokenizer": ["tokenization_chatglm.ChatGLMTokenizer", None]},
    "remove_space": False,
    "do_lower_case": False,
}


def build_tiny_chatglm3(folder: Path, *, seq_length: int = 512, seed: int = 0) -> Path:
    """Write a complete checkpoint (safetensors, sentencepiece model, code) and return its folder.

    Args:
        folder: made if absent. Python imports the code under its name, so it holds no dot.
        seq_length: length of the context, in tokens.
        seed: of the random weights. They are drawn wide, so that replies vary and near ties are rare.
    """
    import torch
    from chatglm3.configuration_chatglm import ChatGLMConfig
    from chatglm3.modeling_chatglm import ChatGLMForConditionalGeneration
    from safetensors.torch import save_file

    write_description(folder, seq_length=seq_length)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        model = ChatGLMForConditionalGeneration(ChatGLMConfig(seq_length=seq_length))
        for weights in model.parameters():
            if weights.dim() > 1:  # the norms stay as they are, or every reply is one token over and over
                torch.nn.init.normal_(weights, std=0.2)
    save_file(model.state_dict(), folder / "model.safetensors", metadata={"format": "pt"})
    return folder


def write_description(folder: Path, *, seq_length: int = 512) -> Path:
    """All files but the weights: configs, code and the sentencepiece model. Needs no torch."""
    folder.mkdir(parents=True, exist_ok=True)
    for path in CODE.glob("*.py"):
        shutil.copy(path, folder)
    (folder / "config.json").write_text(json.dumps({**_CONFIG, "seq_length": seq_length}), encoding="utf-8")
    (folder / "tokenizer_config.json").write_text(json.dumps(_TOKENIZER), encoding="utf-8")
    (folder / "tokenizer.model").write_bytes(_sentencepiece())
    return folder


def _sentencepiece() -> bytes:
    """A sentencepiece model over SENTENCES that falls back to bytes; 0, 1, 2 are <unk>, <s>, </s>."""
    from sentencepiece import SentencePieceTrainer

    model = io.BytesIO()
    SentencePieceTrainer.train(
        sentence_iterator=iter(SENTENCES),
        model_writer=model,
        model_type="bpe",
        vocab_size=480,
        byte_fallback=True,
        character_coverage=1.0,
        normalization_rule_name="identity",
        remove_extra_whitespaces=False,
        minloglevel=2,
    )
    return model.getvalue()
