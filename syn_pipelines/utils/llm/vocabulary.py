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
        ends: ids of all end tokens; those that a fast tokenizer does not know are left out.
    Raises:
        UnsupportedTokenizer: not every text can be written with its tokens, or their bytes are not known.
    """
    fast = tokenizer.is_fast
    known = min(len(tokenizer), vocab_size) if fast else vocab_size
    ends = [end for end in dict.fromkeys(ends) if 0 <= end < known]
    if not ends:
        raise UnsupportedTokenizer("it has no end token")
    try:
        guidance = _fast(tokenizer, vocab_size, ends) if fast else _slow(tokenizer, vocab_size, ends)
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


def _fast(tokenizer: Any, vocab_size: int, ends: list[int]) -> LLTokenizer:
    from llguidance import LLTokenizer

    state = _plain_state(tokenizer, vocab_size, ends)
    guidance = LLTokenizer(json.dumps(state), n_vocab=vocab_size, eos_token=ends)
    if (state["decoder"] or {}).get("type") == "ByteLevel":
        return guidance
    special = [i for i in range(vocab_size) if guidance.is_special_token(i)]
    tokens = [guidance.decode_bytes([i]) for i in range(vocab_size)]
    return LLTokenizer(_Speller(tokens, special, ends, guidance.tokenize_str), n_vocab=vocab_size, eos_token=ends)


def _plain_state(tokenizer: Any, vocab_size: int, ends: Sequence[int]) -> dict[str, Any]:
    """A fast tokenizer as its JSON tells it, changed so that every text stays text.

    Special tokens get names that no text holds: under their own, llguidance would force the special token where a
    sentence spells it out. What alters a text (Unicode forms, a blank in front) is taken out where tokens are bytes.
    """
    state = json.loads(tokenizer.backend_tokenizer.to_str())
    state |= {"truncation": None, "padding": None, "post_processor": None}
    decoder = (state["decoder"] or {}).get("type")
    if decoder == "ByteLevel":
        state["normalizer"] = None
        for step in (state["pre_tokenizer"] or {}).get("pretokenizers", [state["pre_tokenizer"] or {}]):
            if step.get("type") == "ByteLevel":
                step["add_prefix_space"] = False
    elif decoder == "Metaspace":  # the same in the words that llguidance knows
        blank = {"type": "Replace", "pattern": {"String": _BLANK}, "content": " "}
        state["decoder"] = {"type": "Sequence", "decoders": [blank, {"type": "ByteFallback"}, {"type": "Fuse"}]}
    _rename_special(state, {*tokenizer.all_special_ids, *ends}, tokenizer.backend_tokenizer.id_to_token)
    _leave_out_unscored(state, vocab_size)
    return state


def _leave_out_unscored(state: dict[str, Any], vocab_size: int) -> None:
    """Take out the tokens that the model has no scores for: added ones (for padding, for images) may lie behind its own."""
    state["added_tokens"] = [token for token in state["added_tokens"] if token["id"] < vocab_size]
    vocab = state["model"].get("vocab")
    if isinstance(vocab, dict):
        state["model"]["vocab"] = {piece: i for piece, i in vocab.items() if i < vocab_size}
    elif vocab:
        state["model"]["vocab"] = vocab[:vocab_size]


def _rename_special(state: dict[str, Any], special: set[int], name_of: Callable[[int], str | None]) -> None:
    listed = {token["id"]: token for token in state["added_tokens"]}
    for i in special - set(listed):
        listed[i] = {"id": i, **dict.fromkeys(("special", "single_word", "lstrip", "rstrip", "normalized"), False)}
    renamed = {}
    for i, token in listed.items():
        # One that takes blanks around it along is no text either.
        if i in special or any(token[key] for key in ("special", "lstrip", "rstrip", "single_word")):
            renamed[name_of(i)] = token["content"] = f"<\ufdd0{i}\ufdd0>"
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


class _Speller:
    """A tokenizer as ``LLTokenizer`` takes it: bytes of every token, and the tokens of a text.

    own_ids: the tokens that the tokenizer itself would choose; they are taken where they spell the text exactly, and
    otherwise (it changes the text, or knows no bytes) the longest token each.
    """

    is_tokenizer_wrapper = True

    def __init__(self, tokens: list[bytes], special: list[int], ends: Sequence[int],
                 own_ids: Callable[[str], list[int]]) -> None:
        self.tokens, self.special_token_ids, self._own_ids = tokens, special, own_ids
        self.eos_token_id, self.bos_token_id = ends[0], None
        barred = set(special)
        self._ids = {data: i for i, data in reversed([*enumerate(tokens)]) if i not in barred}
        self._longest = max(map(len, self._ids), default=0)

    def __call__(self, text: bytes | str) -> list[int]:
        data = text.encode() if isinstance(text, str) else bytes(text)
        try:
            ids = self._own_ids(data.decode("utf-8"))
        except UnicodeDecodeError:
            ids = []
        return ids if b"".join(self.tokens[i] for i in ids) == data else self._longest_each(data)

    def _longest_each(self, data: bytes) -> list[int]:
        ids, at = [], 0
        while at < len(data):
            size = next((n for n in range(self._longest, 0, -1) if data[at:at + n] in self._ids), 0)
            if not size:
                raise ValueError(f"no token for the byte 0x{data[at]:02x}")
            ids.append(self._ids[data[at:at + size]])
            at += size
        return ids


def _slow(tokenizer: Any, vocab_size: int, ends: list[int]) -> LLTokenizer:
    from llguidance import LLTokenizer

    pieces = _sentencepiece_of(tokenizer)
    bytes_of = _bytes_of(tokenizer, pieces)
    barred = {*tokenizer.all_special_ids, *tokenizer.added_tokens_decoder, *ends}
    tokens, special = [], []
    for i in range(vocab_size):
        data = None if i in barred else bytes_of(_token(tokenizer, i))
        if not data:  # special, or a hole in the vocabulary
            special.append(i)
        tokens.append(data or f"<|{i}|>".encode())

    def own_ids(text: str) -> list[int]:
        # _tokenize: the public method would find special tokens in the text, whatever it is asked. Sentencepiece puts a
        # blank before a text, but not behind a line break.
        ids = [tokenizer._convert_token_to_id(token) for token in tokenizer._tokenize("\n" * bool(pieces) + text)]
        before = b""
        while pieces and ids and before not in (b"\n", b" \n"):
            before += tokens[ids.pop(0)]
        return ids if all(i is not None and i < vocab_size for i in ids) else []

    return LLTokenizer(_Speller(tokens, special, ends, own_ids), n_vocab=vocab_size, eos_token=ends)


def _bytes_of(tokenizer: Any, pieces: Any) -> Callable[[Any], bytes | None]:
    """The function from a token, as the tokenizer spells it, to its bytes (None: it is no text)."""
    table = getattr(tokenizer, "byte_decoder", None)
    if pieces:
        return lambda token: _bytes_of_piece(pieces, token)
    if table:
        return lambda token: bytes(table[c] for c in token) if token and set(token) <= table.keys() else None
    if any(isinstance(_token(tokenizer, i), bytes) for i in range(256)):
        return lambda token: token if isinstance(token, bytes) else None
    raise UnsupportedTokenizer(f"the bytes of the tokens of {type(tokenizer).__name__} are not known")


def _bytes_of_piece(pieces: Any, token: Any) -> bytes | None:
    i = pieces.piece_to_id(token) if token else pieces.unk_id()
    if i == pieces.unk_id() or pieces.is_control(i) or pieces.is_unused(i):
        return None
    return bytes([int(token[3:5], 16)]) if pieces.is_byte(i) else token.replace(_BLANK, " ").encode()


def _sentencepiece_of(tokenizer: Any) -> Any | None:
    """The sentencepiece model of a slow tokenizer, its own or that of the tokenizer inside it."""
    return getattr(tokenizer, "sp_model", None) or getattr(getattr(tokenizer, "tokenizer", None), "sp_model", None)


def _token(tokenizer: Any, i: int) -> Any:
    """Token of an id, None for an id that has none."""
    try:
        return tokenizer._convert_id_to_token(i)
    except (IndexError, KeyError, ValueError, TypeError):
        return None
