"""Tokenizers of every make, built on the spot: fast and slow, byte-level, sentencepiece and ranks of bytes.

Their special tokens are <unk>, <s>, </s> and <|user|>; ``ends_of`` gives the ids of the last two.
"""

from __future__ import annotations

import functools
import io
from typing import Any

from tiny_models import SENTENCES

SPECIALS = ("<unk>", "<s>", "</s>", "<|user|>")


def ends_of(tokenizer: Any) -> list[int]:
    return [tokenizer.convert_tokens_to_ids(name) for name in SPECIALS[2:]]


def _fast(core: Any) -> Any:
    from transformers import PreTrainedTokenizerFast

    return PreTrainedTokenizerFast(tokenizer_object=core, unk_token="<unk>", bos_token="<s>", eos_token="</s>",
                                   additional_special_tokens=["<|user|>"])


def fast_byte_level() -> Any:
    """As Qwen2, Llama 3 and GLM4 have it."""
    from tokenizers import Tokenizer, decoders, models, normalizers, pre_tokenizers, trainers

    core = Tokenizer(models.BPE())
    core.normalizer = normalizers.NFC()
    core.pre_tokenizer, core.decoder = pre_tokenizers.ByteLevel(add_prefix_space=False), decoders.ByteLevel()
    core.train_from_iterator(SENTENCES, trainers.BpeTrainer(
        vocab_size=480, special_tokens=list(SPECIALS), initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        show_progress=False))
    return _fast(core)


def _byte_pieces() -> list[str]:
    return [f"<0x{byte:02X}>" for byte in range(256)]


def fast_sentencepiece() -> Any:
    """As Llama 2 has it: a blank is put before a text, and dropped from the front of what is decoded."""
    from tokenizers import Tokenizer, decoders, models, normalizers

    pieces = [*SPECIALS, *_byte_pieces(), *sorted({*"".join(SENTENCES).replace(" ", "\u2581"), "\u2581"}), "\u2581N", "or", "\u2581Y"]
    merges = [("\u2581", "N"), ("o", "r"), ("\u2581", "Y")]
    core = Tokenizer(models.BPE(vocab={piece: i for i, piece in enumerate(pieces)}, merges=merges, unk_token="<unk>",
                                fuse_unk=True, byte_fallback=True))
    core.normalizer = normalizers.Sequence([normalizers.Prepend("\u2581"), normalizers.Replace(" ", "\u2581")])
    core.decoder = decoders.Sequence([decoders.Replace("\u2581", " "), decoders.ByteFallback(), decoders.Fuse(),
                                      decoders.Strip(" ", 1, 0)])
    core.add_special_tokens(list(SPECIALS))
    return _fast(core)


def fast_with_blank_before() -> Any:
    """As GPT-2 has it when asked for ``add_prefix_space``, one step of several."""
    from tokenizers import pre_tokenizers

    tokenizer = fast_byte_level()
    tokenizer.backend_tokenizer.pre_tokenizer = pre_tokenizers.Sequence(
        [pre_tokenizers.Digits(), pre_tokenizers.ByteLevel(add_prefix_space=True)])
    return tokenizer


def fast_metaspace() -> Any:
    """As newer Llama 2 files have it: blanks are replaced before the words are split."""
    from tokenizers import decoders, normalizers, pre_tokenizers

    tokenizer = fast_sentencepiece()
    core = tokenizer.backend_tokenizer
    core.normalizer = normalizers.Sequence([])
    core.pre_tokenizer = pre_tokenizers.Metaspace(prepend_scheme="first", split=False)
    core.decoder = decoders.Metaspace(prepend_scheme="first", split=False)
    return tokenizer


def fast_unigram() -> Any:
    """Without tokens for bytes: most texts cannot be written."""
    from tokenizers import Tokenizer, decoders, models, pre_tokenizers

    pieces = [(name, 0.0) for name in SPECIALS] + [(c, -1.0) for c in "\u2581abcdefghij"]
    core = Tokenizer(models.Unigram(pieces, unk_id=0))
    core.pre_tokenizer, core.decoder = pre_tokenizers.Metaspace(), decoders.Metaspace()
    return _fast(core)


def _slow(base_methods: type) -> Any:
    from transformers import PreTrainedTokenizer

    class Slow(base_methods, PreTrainedTokenizer):
        pass

    return Slow(unk_token="<unk>", bos_token="<s>", eos_token="</s>", additional_special_tokens=["<|user|>"])


class _Ranks:
    """Tokens are bytes, the shorter the earlier; no id 300 (a hole)."""

    model_input_names = ("input_ids",)

    def __init__(self, **kwargs: Any) -> None:
        texts = [bytes([byte]) for byte in range(256)] + [text.encode() for text in ("New", " York", "\": \"", "北京", "大学")]
        texts += ["京".encode()[:2], "😀".encode()[:3]]
        ids = [i for i in range(len(texts) + 60) if i != 300][:len(texts)]
        self.ranks = dict(zip(texts, ids))
        self.decoder = {i: text for text, i in self.ranks.items()}
        super().__init__(**kwargs)

    @property
    def vocab_size(self) -> int:
        return 310

    def get_vocab(self) -> dict[Any, int]:
        return {**self.ranks, **self.added_tokens_encoder}

    def _tokenize(self, text: str, **kwargs: Any) -> list[bytes]:
        data, tokens = text.encode(), []
        while data:
            size = max(n for n in range(1, len(data) + 1) if data[:n] in self.ranks)
            tokens.append(data[:size])
            data = data[size:]
        return tokens

    def _convert_token_to_id(self, token: Any) -> Any:
        return self.ranks.get(token)

    def _convert_id_to_token(self, i: int) -> Any:
        return self.decoder.get(i, "")


def slow_ranks() -> Any:
    """As the first remote code of GLM4 has it."""
    return _slow(_Ranks)


@functools.cache
def _sentencepiece_model() -> bytes:
    import sentencepiece

    written = io.BytesIO()
    sentencepiece.SentencePieceTrainer.train(
        sentence_iterator=iter(SENTENCES * 4), model_writer=written, vocab_size=460, model_type="bpe", byte_fallback=True,
        character_coverage=1.0, normalization_rule_name="identity", remove_extra_whitespaces=False, unk_id=0, bos_id=1,
        eos_id=2, minloglevel=2, hard_vocab_limit=False)
    return written.getvalue()


class _Pieces:
    """Sentencepiece; the ids behind its pieces are special names."""

    model_input_names = ("input_ids",)

    def __init__(self, **kwargs: Any) -> None:
        import sentencepiece

        self.sp_model = sentencepiece.SentencePieceProcessor()
        self.sp_model.LoadFromSerializedProto(_sentencepiece_model())
        super().__init__(**kwargs)

    @property
    def vocab_size(self) -> int:
        return self.sp_model.get_piece_size()

    def get_vocab(self) -> dict[str, int]:
        return {self.sp_model.id_to_piece(i): i for i in range(self.vocab_size)} | self.added_tokens_encoder

    def _tokenize(self, text: str, **kwargs: Any) -> list[str]:
        return self.sp_model.encode(text, out_type=str)

    def _convert_token_to_id(self, token: str) -> int:
        return self.sp_model.piece_to_id(token)

    def _convert_id_to_token(self, i: int) -> str:
        return self.sp_model.id_to_piece(i)


def slow_sentencepiece() -> Any:
    """As ChatGLM3 has it."""
    return _slow(_Pieces)


class _Characters:
    """Byte-level, a visible character for each byte."""

    model_input_names = ("input_ids",)

    def __init__(self, **kwargs: Any) -> None:
        self.byte_decoder = {chr(0x4E00 + byte): byte for byte in range(256)}
        super().__init__(**kwargs)

    @property
    def vocab_size(self) -> int:
        return 256

    def get_vocab(self) -> dict[str, int]:
        return {**self.byte_decoder, **self.added_tokens_encoder}

    def _tokenize(self, text: str, **kwargs: Any) -> list[str]:
        return [chr(0x4E00 + byte) for byte in text.encode()]

    def _convert_token_to_id(self, token: str) -> int | None:
        return self.byte_decoder.get(token)

    def _convert_id_to_token(self, i: int) -> str:
        return chr(0x4E00 + i) if i < 256 else ""


def slow_byte_level() -> Any:
    """As the slow tokenizers of GPT-2 and Qwen2 have it."""
    return _slow(_Characters)


def slow_unknown() -> Any:
    """Nothing says which bytes its tokens are."""
    tokenizer = slow_byte_level()
    tokenizer.byte_decoder = None
    return tokenizer


MAKES = {make.__name__: make for make in (fast_byte_level, fast_with_blank_before, fast_sentencepiece, fast_metaspace,
                                          slow_ranks, slow_sentencepiece, slow_byte_level)}
