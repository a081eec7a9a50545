"""Tiny encoders with random weights, made on the spot, so that tests go through the real loading code.

A tokenizer saved by one release of transformers may not load in another: build the folder in the environment that
reads it.
"""

from __future__ import annotations

from pathlib import Path

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


def _save(folder: Path, config, model_class, tokenizer, seed: int) -> Path:
    import torch

    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        model_class(config).save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    return folder
