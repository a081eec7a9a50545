"""Tiny checkpoints with random weights, made on the spot, so that tests go through the real loading code.

A tokenizer saved by one release of transformers may not load in another: build the folder in the environment that
reads it. Each kind copies the habits of its family that have caused trouble: tied embeddings and sampling values in the
generation config (Qwen2), a tokenizer that adds its own begin-of-text token and has no padding token (Llama), three
end-of-turn tokens (GLM).
"""

from __future__ import annotations

import json
from pathlib import Path

SENTENCES = (
    "小明昨天在北京大学见到了张伟,两个人一起去吃火锅。",
    "从句子里找出所有的人名、地名和组织,用JSON回答。",
    "Find every person, place and organisation in the sentence and answer with a JSON array.",
    "Mr. Smith of the U.S. Treasury flew to New York on Monday.",
    "東京で新しい図書館が開き、田中さんも見に行った。",
    '[{"entity": "北京大学", "type": "ORG"}, {"entity": "New York", "type": "LOC"}]',
)

_CHAT = {
    "qwen2": {
        "specials": ["<|endoftext|>", "<|im_start|>", "<|im_end|>"],
        "eos": "<|im_end|>",
        "pad": "<|endoftext|>",
        "bos": None,
        "ends": ["<|im_end|>", "<|endoftext|>"],
        "tied": True,
        "template": "{% for m in messages %}<|im_start|>{{ m['role'] }}\n{{ m['content'] }}<|im_end|>\n{% endfor %}"
        "{% if add_generation_prompt %}<|im_start|>assistant\n{% endif %}",
    },
    "llama": {
        "specials": ["<|begin_of_text|>", "<|end_of_text|>", "<|role|>", "<|/role|>", "<|eot_id|>"],
        "eos": "<|end_of_text|>",
        "pad": None,
        "bos": "<|begin_of_text|>",
        "ends": ["<|end_of_text|>", "<|eot_id|>"],
        "template": "{{ bos_token }}{% for m in messages %}<|role|>{{ m['role'] }}<|/role|>{{ m['content'] }}<|eot_id|>"
        "{% endfor %}{% if add_generation_prompt %}<|role|>assistant<|/role|>{% endif %}",
    },
    "glm": {
        "specials": ["<|endoftext|>", "[gMASK]", "<sop>", "<|system|>", "<|user|>", "<|assistant|>", "<|observation|>"],
        "eos": "<|endoftext|>",
        "pad": "<|endoftext|>",
        "bos": None,
        "ends": ["<|endoftext|>", "<|user|>", "<|observation|>"],
        "template": "[gMASK]<sop>{% for m in messages %}<|{{ m['role'] }}|>\n{{ m['content'] }}{% endfor %}"
        "{% if add_generation_prompt %}<|assistant|>\n{% endif %}",
    },
}
KINDS = tuple(_CHAT)


def build_tiny_model(
    kind: str, folder: Path, *, max_position_embeddings: int = 512, hidden_size: int = 64, seed: int = 0
) -> Path:
    """Write a complete checkpoint (safetensors, tokenizer with chat template, generation config) and return its folder.

    Args:
        kind: "qwen2", "llama" or "glm". The last one needs transformers 4.46 (see ``supports``).
        folder: made if absent.
        max_position_embeddings: length of the context, in tokens.
        seed: of the random weights. They are drawn wide, so that replies vary and near ties are rare.
    """
    import torch

    chat = _CHAT[kind]
    folder.mkdir(parents=True, exist_ok=True)
    tokenizer = _tokenizer(chat)
    tokenizer.save_pretrained(folder)
    ids = {token: tokenizer.convert_tokens_to_ids(token) for token in chat["specials"]}
    config, model_class = _architecture(kind)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        model = model_class(
            config(
                vocab_size=len(tokenizer),
                hidden_size=hidden_size,
                intermediate_size=2 * hidden_size,
                num_hidden_layers=2,
                num_attention_heads=4,
                num_key_value_heads=2,
                head_dim=hidden_size // 4,
                max_position_embeddings=max_position_embeddings,
                initializer_range=0.2,
                tie_word_embeddings=chat.get("tied", False),
                bos_token_id=ids.get(chat["bos"]),
                eos_token_id=ids[chat["eos"]],
                pad_token_id=ids.get(chat["pad"]),
            )
        )
    model.save_pretrained(folder, safe_serialization=True)
    generation = {"eos_token_id": [ids[end] for end in chat["ends"]], "bos_token_id": ids.get(chat["bos"])}
    if kind == "qwen2":
        generation |= {"do_sample": True, "temperature": 0.7, "top_p": 0.8, "top_k": 20, "repetition_penalty": 1.3}
    edit_json(folder / "generation_config.json", **generation)
    return folder


def supports(kind: str) -> bool:
    """Whether the installed transformers has the architecture of ``kind``."""
    try:
        _architecture(kind)
    except ImportError:
        return False
    return True


def edit_json(path: Path, **changes: object) -> None:
    """Set keys of a JSON file of a checkpoint; a value of None removes the key. A missing file is made."""
    content = json.loads(path.read_text(encoding="utf-8")) if path.exists() else {}
    content = {key: value for key, value in {**content, **changes}.items() if value is not None}
    path.write_text(json.dumps(content, ensure_ascii=False, indent=2), encoding="utf-8")


def _architecture(kind: str):
    """Config class and model class. Raises ImportError where this release of transformers lacks them."""
    import transformers

    names = {"qwen2": "Qwen2", "llama": "Llama", "glm": "Glm"}
    try:
        return (
            getattr(transformers, f"{names[kind]}Config"),
            getattr(transformers, f"{names[kind]}ForCausalLM"),
        )
    except AttributeError as exc:
        raise ImportError(f"transformers {transformers.__version__} has no {kind}") from exc


def _tokenizer(chat: dict):
    """Byte-level BPE over SENTENCES; adds the begin token by itself where the family does."""
    from tokenizers import Tokenizer, decoders, models, pre_tokenizers, processors, trainers
    from transformers import PreTrainedTokenizerFast

    core = Tokenizer(models.BPE())
    core.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    core.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=480,
        special_tokens=chat["specials"],
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        show_progress=False,
    )
    core.train_from_iterator(SENTENCES, trainer)
    if chat["bos"]:
        core.post_processor = processors.TemplateProcessing(
            single=f"{chat['bos']} $A", special_tokens=[(chat["bos"], core.token_to_id(chat["bos"]))]
        )
    return PreTrainedTokenizerFast(
        tokenizer_object=core,
        eos_token=chat["eos"],
        pad_token=chat["pad"],
        bos_token=chat["bos"],
        chat_template=chat["template"],
        clean_up_tokenization_spaces=False,
        additional_special_tokens=[t for t in chat["specials"] if t not in (chat["eos"], chat["pad"], chat["bos"])],
    )
