"""The model of the LLM benchmark: random weights and a tokenizer trained on the spot, written as a real checkpoint.

A random model says nothing about the quality of answers, but it costs what a trained model of its shape costs, and a
grammar makes its answers look like answers. Two things are made to resemble a trained model, or the lengths would be
far off:

- The tokenizer splits JSON as the large ones do (``", "pos": "`` is five tokens). A Chinese character is one token, and
  so is a short English word and whatever comes up often; no token is longer than four Chinese characters.
- Of the first 40 seeds the one is used that comes nearest to two or three entities a sentence and two characters a
  Chinese word; others give anything from no entity at all to lists that run on until the room ends.
- End tokens are ruled out, so that a reply without a grammar is exactly as long as it is told to be. That takes an output
  layer with a bias, which is why the architecture is Phi's.
"""

from __future__ import annotations

import re
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

SPECIALS = ("<|pad|>", "<|end|>", "<|user|>", "<|assistant|>")
CHAT_TEMPLATE = (
    "{% for m in messages %}<|{{ m['role'] }}|>\n{{ m['content'] }}<|end|>\n{% endfor %}"
    "{% if add_generation_prompt %}<|assistant|>\n{% endif %}"
)
_LONGEST_TOKEN = 12  # in bytes: four Chinese characters, or an English word of twelve letters
_WORD = re.compile(r"\b[A-Za-z]{2,8}\b")
_LOGIT_DEVIATION = 3.0
_SEED = 33
_NEVER = -1000.0


@dataclass(frozen=True)
class Shape:
    """Size of a model. ``vocabulary``: logits; the trained tokenizer fills the first few thousand of them."""

    layers: int
    hidden: int
    heads: int
    key_heads: int
    vocabulary: int
    context: int = 8192

    @property
    def intermediate(self) -> int:
        """Width of the feed-forward layers."""
        return 4 * self.hidden


SMALL = Shape(layers=2, hidden=192, heads=6, key_heads=2, vocabulary=8_000)
SEVEN_BILLION = Shape(layers=32, hidden=4096, heads=32, key_heads=32, vocabulary=32_000)


def write_checkpoint(folder: Path, shape: Shape, texts: Iterable[str], *, dtype: str, device: str) -> None:
    """Write tokenizer, random weights and generation config, ready for ``from_pretrained``.

    Args:
        folder: made if absent.
        texts: what the tokenizer is trained on.
        dtype, device: of the weights while they are drawn; a large model is drawn where it is fast.
    """
    import torch
    from transformers import GenerationConfig, PhiConfig, PhiForCausalLM

    folder.mkdir(parents=True, exist_ok=True)
    tokenizer = _tokenizer(list(texts), shape.vocabulary)
    tokenizer.save_pretrained(folder)
    config = PhiConfig(
        vocab_size=shape.vocabulary, hidden_size=shape.hidden, intermediate_size=shape.intermediate,
        num_hidden_layers=shape.layers, num_attention_heads=shape.heads, num_key_value_heads=shape.key_heads,
        max_position_embeddings=shape.context, initializer_range=_LOGIT_DEVIATION / shape.hidden**0.5,
        bos_token_id=None, eos_token_id=tokenizer.eos_token_id, pad_token_id=tokenizer.pad_token_id,
    )
    before = torch.get_default_dtype()
    torch.manual_seed(_SEED)
    torch.set_default_dtype(getattr(torch, dtype))
    try:
        with torch.device(device):
            model = PhiForCausalLM(config)
    finally:
        torch.set_default_dtype(before)
    with torch.no_grad():
        model.lm_head.bias[[tokenizer.convert_tokens_to_ids(token) for token in SPECIALS]] = _NEVER
    model.generation_config = GenerationConfig(eos_token_id=tokenizer.eos_token_id, pad_token_id=tokenizer.pad_token_id)
    model.save_pretrained(folder)


def _tokenizer(texts: list[str], most_tokens: int) -> Any:
    """Byte-level BPE. Every character of the texts that is no ASCII becomes a token, and every short English word."""
    from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers
    from transformers import PreTrainedTokenizerFast

    core = Tokenizer(models.BPE())
    core.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    core.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=most_tokens, min_frequency=2, special_tokens=list(SPECIALS), max_token_length=_LONGEST_TOKEN,
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(), show_progress=False,
    )
    characters = sorted({char for text in texts for char in text if not char.isascii()})
    words = sorted({word for text in texts for word in _WORD.findall(text)})
    # Merges are made by frequency: a hundred of each character make it a token before any word becomes one.
    frequent = [f"{char}\n" * 100 for char in characters] + [f"{word} {word}\n" * 10 for word in words]
    core.train_from_iterator([*texts, *frequent], trainer)
    return PreTrainedTokenizerFast(
        tokenizer_object=core, pad_token=SPECIALS[0], eos_token=SPECIALS[1], additional_special_tokens=list(SPECIALS[2:]),
        chat_template=CHAT_TEMPLATE, clean_up_tokenization_spaces=False,
    )
