"""llguidance's view of a tokenizer: the bytes of every token, and which tokens are no text.

A special token is never text: the characters of one inside a sentence ("</s>", "<|im_end|>") are written with ordinary
tokens. Fast tokenizers are read by llguidance itself. Of a slow one (remote code) three kinds are known: tokens that are
bytes (tiktoken), sentencepiece with byte tokens, and byte-level BPE with its table of characters.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from llguidance import LLTokenizer

_BLANK = "\u2581"  # how sentencepiece writes a blank
_IN_UTF8 = [byte for byte in range(0xF5) if byte not in (0xC0, 0xC1)]


class UnsupportedTokenizer(Exception):
    """The bytes of this tokenizer's tokens are not known; the message says why."""


def guidance_tokenizer(tokenizer: Any, vocab_size: int, ends: Sequence[int]) -> LLTokenizer:
    """The tokenizer for matchers. Takes a second or two where the vocabulary is large.

    Args:
        tokenizer: of transformers, fast or slow.
        vocab_size: width of the model's scores; may be larger than the tokenizer's vocabulary.
        ends: ids of all end tokens, at least one.
    Raises:
        UnsupportedTokenizer: not every text can be written with its tokens, or their bytes are not known.
    """
    from llguidance import LLTokenizer

    ends = [end for end in dict.fromkeys(ends) if 0 <= end < vocab_size]
    if not ends:
        raise UnsupportedTokenizer("it has no end token")
    try:
        source = _plain_json(tokenizer, ends) if tokenizer.is_fast else _SlowTokenizer(tokenizer, vocab_size, ends)
        guidance = LLTokenizer(source, n_vocab=vocab_size, eos_token=ends)
    except (ValueError, RuntimeError) as exc:  # llguidance's own words about a vocabulary that it cannot read
        raise UnsupportedTokenizer((str(exc).splitlines() or [type(exc).__name__])[0]) from exc
    single = {guidance.decode_bytes([i]) for i in range(vocab_size) if not guidance.is_special_token(i)}
    lacking = [byte for byte in _IN_UTF8 if bytes([byte]) not in single]
    if lacking:
        raise UnsupportedTokenizer(f"it cannot write every text (no token for the byte 0x{lacking[0]:02x})")
    return guidance


def decode_bytes(guidance: LLTokenizer, ids: Sequence[int]) -> bytes:
    """The exact bytes of the tokens, special tokens left out; no blank added, stripped or cleaned up.

    The text of a reply is ``decode_bytes(...).decode("utf-8", "replace")``; a tokenizer's own ``decode`` may drop the
    first blank or those before punctuation marks.
    """
    return guidance.decode_bytes([i for i in ids if not guidance.is_special_token(i)])


def _plain_json(tokenizer: Any, ends: Sequence[int]) -> str:
    """A fast tokenizer as JSON whose special tokens have names that no text holds.

    Under their own names llguidance would force the special token where a sentence spells it out.
    """
    state = json.loads(tokenizer.backend_tokenizer.to_str())
    state |= {"truncation": None, "padding": None, "post_processor": None}
    special = {*tokenizer.all_special_ids, *ends}
    listed = {token["id"]: token for token in state["added_tokens"]}
    renamed = {}
    for i in sorted(special | set(listed)):
        name = tokenizer.backend_tokenizer.id_to_token(i)
        token = listed.setdefault(i, dict.fromkeys(("single_word", "lstrip", "rstrip", "normalized"), False) | {"id": i})
        if name is None:  # an end token beyond the vocabulary
            del listed[i]
        elif i in special or any(token[key] for key in ("special", "lstrip", "rstrip", "single_word")):
            renamed[name] = token["content"] = f"<\ufdd0{i}\ufdd0>"
            token["special"] = True
    state["added_tokens"] = [listed[i] for i in sorted(listed)]
    model = state["model"]
    vocab = model.get("vocab")
    if isinstance(vocab, dict):
        model["vocab"] = {renamed.get(piece, piece): i for piece, i in vocab.items()}
    elif vocab:  # Unigram: pairs of piece and score
        model["vocab"] = [[renamed.get(piece, piece), score] for piece, score in vocab]
    if model.get("unk_token"):
        model["unk_token"] = renamed.get(model["unk_token"], model["unk_token"])
    return json.dumps(state)


class _SlowTokenizer:
    """What ``LLTokenizer`` asks of a tokenizer that it cannot read itself."""

    is_tokenizer_wrapper = True

    def __init__(self, tokenizer: Any, vocab_size: int, ends: Sequence[int]) -> None:
        self._tokenizer = tokenizer
        self._sentencepiece = _sentencepiece_of(tokenizer)
        bytes_of = self._bytes_of()
        special = {*tokenizer.all_special_ids, *tokenizer.added_tokens_decoder, *ends}
        self.eos_token_id, self.bos_token_id = ends[0], None
        self.tokens: list[bytes] = []
        self.special_token_ids: list[int] = []
        for i in range(vocab_size):
            data = None if i in special else bytes_of(_token(tokenizer, i))
            if not data:  # special, or a hole in the vocabulary
                self.special_token_ids.append(i)
                data = f"<|{i}|>".encode()
            self.tokens.append(data)
        barred = set(self.special_token_ids)
        self._ids = {data: i for i, data in reversed([*enumerate(self.tokens)]) if i not in barred}
        self._longest = max(map(len, self._ids), default=0)

    def __call__(self, text: bytes | str) -> list[int]:
        """The tokens of a text as the tokenizer itself would choose them; where it changes the text, the longest each."""
        data = text.encode() if isinstance(text, str) else bytes(text)
        try:
            ids = self._own_ids(data.decode("utf-8"))
        except UnicodeDecodeError:
            ids = []
        if b"".join(self.tokens[i] for i in ids) == data:
            return ids
        ids, at = [], 0
        while at < len(data):
            size = next((n for n in range(self._longest, 0, -1) if data[at:at + n] in self._ids), 0)
            if not size:
                raise ValueError(f"no token for the byte 0x{data[at]:02x}")
            ids.append(self._ids[data[at:at + size]])
            at += size
        return ids

    def _own_ids(self, text: str) -> list[int]:
        # _tokenize: the public method would find special tokens in the text, whatever it is asked. Sentencepiece puts a
        # blank before a text; behind a line break it does not.
        lead = "\n" if self._sentencepiece else ""
        ids = [self._tokenizer._convert_token_to_id(token) for token in self._tokenizer._tokenize(lead + text)]
        skipped = b""
        while lead and ids and skipped not in (b"\n", b" \n"):
            skipped += self.tokens[ids.pop(0)]
        barred = len(self.tokens)
        return [] if any(i is None or i >= barred for i in ids) else ids

    def _bytes_of(self) -> Callable[[Any], bytes | None]:
        """The function from a token, as the tokenizer spells it, to its bytes (None: special)."""
        if self._sentencepiece:
            return self._of_sentencepiece
        table = getattr(self._tokenizer, "byte_decoder", None)
        if table:
            return lambda token: bytes(table[c] for c in token) if token and set(token) <= table.keys() else None
        if any(isinstance(_token(self._tokenizer, i), bytes) for i in range(256)):
            return lambda token: token if isinstance(token, bytes) else None
        raise UnsupportedTokenizer(f"the bytes of the tokens of {type(self._tokenizer).__name__} are not known")

    def _of_sentencepiece(self, token: Any) -> bytes | None:
        model = self._sentencepiece
        i = model.piece_to_id(token) if token else model.unk_id()
        if i == model.unk_id() or model.is_control(i) or model.is_unused(i):
            return None
        return bytes([int(token[3:5], 16)]) if model.is_byte(i) else token.replace(_BLANK, " ").encode()


def _sentencepiece_of(tokenizer: Any) -> Any | None:
    """The sentencepiece model of a slow tokenizer, its own or that of the tokenizer inside it."""
    return getattr(tokenizer, "sp_model", None) or getattr(getattr(tokenizer, "tokenizer", None), "sp_model", None)


def _token(tokenizer: Any, i: int) -> Any:
    """Token of an id, None for an id that has none."""
    try:
        return tokenizer._convert_id_to_token(i)
    except (IndexError, KeyError, ValueError, TypeError):
        return None
