"""Tiny encoders with random weights, made on the spot, so that tests go through the real loading code.

A tokenizer saved by one release of transformers may not load in another: build the folder in the environment that
reads it.
"""

from __future__ import annotations

from pathlib import Path

import pytest

WORDS = ["john", "smith", "lives", "in", "rome", "and", "works", "for", "acme", "the", "##s", "##ing", "work", "live"]
CHARACTERS = list("小明在北京上学张伟去海很好李红住天津")


def build_tiny_bert(folder: Path, *, positions: int = 64, seed: int = 0) -> Path:
    """A BERT of two layers with WordPiece tokens for a few English words and Chinese characters."""
    from tokenizers import Tokenizer, decoders, models, normalizers, pre_tokenizers, processors
    from transformers import BertConfig, BertModel, PreTrainedTokenizerFast

    vocabulary = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]", "a", "b", "c", "##a", "##b", "##c", *WORDS, *CHARACTERS]
    ids = {token: k for k, token in enumerate(dict.fromkeys(vocabulary))}
    backend = Tokenizer(models.WordPiece(ids, unk_token="[UNK]"))
    backend.normalizer = normalizers.BertNormalizer(lowercase=True)
    backend.pre_tokenizer = pre_tokenizers.BertPreTokenizer()
    backend.post_processor = processors.BertProcessing(("[SEP]", ids["[SEP]"]), ("[CLS]", ids["[CLS]"]))
    backend.decoder = decoders.WordPiece()
    tokenizer = PreTrainedTokenizerFast(
        tokenizer_object=backend, unk_token="[UNK]", pad_token="[PAD]", cls_token="[CLS]", sep_token="[SEP]",
        mask_token="[MASK]", model_max_length=positions,
    )
    sizes = {"hidden_size": 32, "num_hidden_layers": 2, "num_attention_heads": 2, "intermediate_size": 48}
    config = BertConfig(vocab_size=len(ids), max_position_embeddings=positions, **sizes)
    return _save(folder, config, BertModel, tokenizer, seed)


def build_tiny_roberta(folder: Path, *, positions: int = 66, seed: int = 0) -> Path:
    """A RoBERTa with byte-level tokens, whose first two positions are never used."""
    from tokenizers import Tokenizer, decoders, models, pre_tokenizers, processors, trainers
    from transformers import PreTrainedTokenizerFast, RobertaConfig, RobertaModel

    specials = ["<s>", "<pad>", "</s>", "<unk>", "<mask>"]
    backend = Tokenizer(models.BPE())
    backend.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    backend.decoder = decoders.ByteLevel()
    alphabet = pre_tokenizers.ByteLevel.alphabet()
    trainer = trainers.BpeTrainer(vocab_size=320, special_tokens=specials, initial_alphabet=alphabet, show_progress=False)
    backend.train_from_iterator(["John Smith lives in Rome and works for Acme ."] * 4, trainer)
    backend.post_processor = processors.RobertaProcessing(("</s>", 2), ("<s>", 0), add_prefix_space=False)
    tokenizer = PreTrainedTokenizerFast(
        tokenizer_object=backend, bos_token="<s>", eos_token="</s>", cls_token="<s>", sep_token="</s>",
        pad_token="<pad>", unk_token="<unk>", mask_token="<mask>",
    )
    sizes = {"hidden_size": 32, "num_hidden_layers": 1, "num_attention_heads": 2, "intermediate_size": 48}
    config = RobertaConfig(vocab_size=len(tokenizer), max_position_embeddings=positions, pad_token_id=1, **sizes)
    return _save(folder, config, RobertaModel, tokenizer, seed)


def build_tiny_deberta(folder: Path, *, positions: int = 64, seed: int = 0) -> Path:
    """A DeBERTa of the second version, with relative positions and pieces that begin with a mark for the blank."""
    from tokenizers import Tokenizer, decoders, models, pre_tokenizers, processors
    from transformers import PreTrainedTokenizerFast

    config_class, model_class = _classes("DebertaV2Config", "DebertaV2Model")
    specials = ["[PAD]", "[CLS]", "[SEP]", "[UNK]", "[MASK]"]
    words = [word for word in dict.fromkeys([*WORDS, *CHARACTERS]) if "#" not in word]
    pieces = dict.fromkeys(["▁", *(f"▁{word}" for word in words), *CHARACTERS, *"abcdefghijklmnopqrstuvwxyz."])
    backend = Tokenizer(models.Unigram([*((s, 0.0) for s in specials), *((p, -2.0 - len(p) / 9) for p in pieces)], unk_id=3))
    backend.pre_tokenizer = pre_tokenizers.Metaspace()
    backend.decoder = decoders.Metaspace()
    backend.post_processor = processors.BertProcessing(("[SEP]", 2), ("[CLS]", 1))
    tokenizer = PreTrainedTokenizerFast(
        tokenizer_object=backend, unk_token="[UNK]", pad_token="[PAD]", cls_token="[CLS]", sep_token="[SEP]",
        mask_token="[MASK]", model_max_length=positions,
    )
    sizes = {"hidden_size": 32, "num_hidden_layers": 1, "num_attention_heads": 2, "intermediate_size": 48}
    config = config_class(vocab_size=len(tokenizer), max_position_embeddings=positions, relative_attention=True,
                          position_buckets=8, pos_att_type=["p2c", "c2p"], position_biased_input=False,
                          share_att_key=True, norm_rel_ebd="layer_norm", **sizes)
    return _save(folder, config, model_class, tokenizer, seed)


def build_tiny_modernbert(folder: Path, *, positions: int = 64, seed: int = 0) -> Path:
    """A ModernBERT of one global and two local layers, which read four pieces to either side."""
    from tokenizers import Tokenizer, decoders, models, pre_tokenizers, processors, trainers
    from transformers import PreTrainedTokenizerFast

    config_class, model_class = _classes("ModernBertConfig", "ModernBertModel")
    specials = ["[PAD]", "[CLS]", "[SEP]", "[UNK]", "[MASK]"]
    backend = Tokenizer(models.BPE())
    backend.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    backend.decoder = decoders.ByteLevel()
    alphabet = pre_tokenizers.ByteLevel.alphabet()
    trainer = trainers.BpeTrainer(vocab_size=320, special_tokens=specials, initial_alphabet=alphabet, show_progress=False)
    backend.train_from_iterator(["John Smith lives in Rome and works for Acme ."] * 4, trainer)
    backend.post_processor = processors.BertProcessing(("[SEP]", 2), ("[CLS]", 1))
    tokenizer = PreTrainedTokenizerFast(
        tokenizer_object=backend, unk_token="[UNK]", pad_token="[PAD]", cls_token="[CLS]", sep_token="[SEP]",
        mask_token="[MASK]", model_max_length=positions,
    )
    config = config_class(
        vocab_size=len(tokenizer), max_position_embeddings=positions, hidden_size=32, num_hidden_layers=3,
        num_attention_heads=2, intermediate_size=48, global_attn_every_n_layers=3, local_attention=8, pad_token_id=0,
        cls_token_id=1, sep_token_id=2, bos_token_id=1, eos_token_id=2)
    return _save(folder, config, model_class, tokenizer, seed)


BUILDERS = {"bert": build_tiny_bert, "roberta": build_tiny_roberta, "deberta": build_tiny_deberta,
            "modernbert": build_tiny_modernbert}


def _classes(*names: str) -> list[type]:
    """Classes of transformers by name; the test is skipped where the installed release lacks one."""
    import transformers

    if missing := [name for name in names if not hasattr(transformers, name)]:
        pytest.skip(f"transformers {transformers.__version__} has no {missing[0]}")
    return [getattr(transformers, name) for name in names]


def _save(folder: Path, config, model_class, tokenizer, seed: int) -> Path:
    import torch

    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        model_class(config).save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    return folder
