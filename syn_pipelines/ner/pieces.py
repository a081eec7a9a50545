"""Tokens to word pieces and back: a sentence becomes windows of pieces that an encoder can read, and nothing is cut.

Notation: B sentences, L tokens of the longest, P pieces of the longest window (both up to a full ``BUCKET``), D size of
a state.
"""

from __future__ import annotations

import logging
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor, nn

from syn_pipelines.utils.errors import UserError
from syn_pipelines.utils.llm.checkpoints import brings_code, first_line, longest_input, quiet, refuse_special_files

Inputs = dict[str, Tensor]

log = logging.getLogger(__name__)

POOLINGS = ("max", "first")
DEFAULT_POSITIONS = 512
# Tokens whose pieces are remembered; a text of spaced words may hold any number of different ones.
MOST_REMEMBERED = 1 << 16
VOCABULARY_FILES = ("tokenizer.json", "vocab.txt", "vocab.json", "tokenizer.model", "sentencepiece.bpe.model", "spiece.model",
                    "spm.model")


# Padded lengths are multiples of this: few different shapes, and those a GPU is fast on. Costs 1 % on a CPU.
BUCKET = 8


def in_bucket(length: int) -> int:
    """The padded length of a batch whose longest sentence has this one."""
    return -(-length // BUCKET) * BUCKET


@dataclass(frozen=True)
class Window:
    """Pieces of a stretch of a sentence. owners: for each piece its token, -1 when another window answers for it."""

    pieces: tuple[int, ...]
    owners: tuple[int, ...]


def cut_windows(piece_counts: Sequence[int], budget: int) -> list[tuple[int, int, int, int]]:
    """Cut a sentence into windows of at most ``budget`` pieces; nothing is truncated.

    Args:
        piece_counts: pieces of each token, each between 1 and ``budget // 2``.
    Returns:
        (first, last, own first, own last) token offsets, half-open: the window reads the outer range and answers for
        the inner one. The inner ranges cover every token exactly once. A sentence that fits gives one window.
    """
    total = len(piece_counts)
    if sum(piece_counts) <= budget:
        return [(0, total, 0, total)]
    windows = []
    own_first = 0
    while own_first < total:
        own_last, used = own_first, 0
        while own_last < total and used + piece_counts[own_last] <= budget // 2:
            used += piece_counts[own_last]
            own_last += 1
        first, last = own_first, own_last
        # Context on the left up to a quarter of the window, on the right what is left over.
        left_limit = used + budget // 4
        while first > 0 and used + piece_counts[first - 1] <= left_limit:
            first -= 1
            used += piece_counts[first]
        while last < total and used + piece_counts[last] <= budget:
            used += piece_counts[last]
            last += 1
        windows.append((first, last, own_first, own_last))
        own_first = own_last
    return windows


class Splitter:
    """Splits tokens one by one into a tokenizer's pieces and puts those of a sentence into windows.

    positions: pieces that the encoder reads at once. spaced: tokens are words parted by blanks, so each is shown to the
    tokenizer with a blank before it (byte-level vocabularies tell "Rome" inside a word from " Rome"). pooling: which
    pieces answer for a token, all of them ("max") or the "first".
    """

    def __init__(self, tokenizer, positions: int, *, spaced: bool, pooling: str = "max") -> None:
        if pooling not in POOLINGS:
            raise UserError(f"pooling {pooling!r} is unknown. Use one of {', '.join(POOLINGS)}.")
        self.tokenizer = tokenizer
        self.spaced = spaced
        self.pooling = pooling
        whole, bare = tokenizer("a")["input_ids"], tokenizer("a", add_special_tokens=False)["input_ids"]
        at = next((k for k in range(len(whole)) if bare and whole[k : k + len(bare)] == bare), 0)
        self._before, self._after = whole[:at], whole[at + len(bare) :]
        self._budget = max(4, positions - len(self._before) - len(self._after))
        self._remembered: dict[str, tuple[int, ...]] = {}

    def split(self, token: str) -> tuple[int, ...]:
        """Ids of a token's pieces, at least one. Of a token that would fill half a window alone the rest is left out."""
        if token not in self._remembered:
            if len(self._remembered) == MOST_REMEMBERED:
                self._remembered.clear()
            # The tokenizers refuse half a surrogate pair.
            text = (" " + token if self.spaced else token).encode("utf-8", "replace").decode("utf-8")
            ids = self.tokenizer(text, add_special_tokens=False)["input_ids"]
            # Blanks and control characters give no piece at all; they still need a state.
            ids = ids or [self.tokenizer.unk_token_id if self.tokenizer.unk_token_id is not None else 0]
            if len(ids) > self._budget // 2:
                log.warning("a token is read only in part, %d of its %d pieces: %.40r", self._budget // 2, len(ids), token)
            self._remembered[token] = tuple(ids[: self._budget // 2])
        return self._remembered[token]

    def prepare(self, tokens: Sequence[str]) -> tuple[int, list[Window]]:
        """Length of one sentence and its windows."""
        pieces = [self.split(token) for token in tokens]
        windows = []
        for first, last, own_first, own_last in cut_windows([len(p) for p in pieces], self._budget):
            ids, owners = list(self._before), [-1] * len(self._before)
            for place in range(first, last):
                owner = place if own_first <= place < own_last else -1
                ids += pieces[place]
                # With pooling by first piece the others of the token answer for nothing.
                rest = owner if self.pooling == "max" else -1
                owners += [owner] + [rest] * (len(pieces[place]) - 1)
            windows.append(Window(tuple(ids + self._after), tuple(owners + [-1] * len(self._after))))
        return len(tokens), windows

    def collate(self, prepared: Sequence[tuple[int, list[Window]]]) -> Inputs:
        """pieces, real, slots: (windows, P); filled: (B, L), where a token stands; lengths: (B,).

        A slot is b * L + token, or B * L for "nobody".
        """
        lengths = torch.tensor([length for length, _ in prepared])
        longest = in_bucket(int(lengths.max()))
        nobody = len(lengths) * longest
        rows = [(b, window) for b, (_, windows) in enumerate(prepared) for window in windows]
        pieces, real = self.pad([window for _, window in rows])
        slots = torch.full_like(pieces, nobody)
        for row, (b, window) in enumerate(rows):
            owners = [nobody if owner < 0 else b * longest + owner for owner in window.owners]
            slots[row, : len(owners)] = torch.tensor(owners)
        filled = torch.arange(longest)[None, :] < lengths[:, None]
        return {"pieces": pieces, "real": real, "slots": slots, "filled": filled, "lengths": lengths}

    def pad(self, windows: Sequence[Window]) -> tuple[Tensor, Tensor]:
        """(windows, P) pieces, and 1 where one stands and 0 behind the last one."""
        sizes = torch.tensor([len(window.pieces) for window in windows])
        most = self._budget + len(self._before) + len(self._after)
        real = (torch.arange(min(in_bucket(int(sizes.max())), most))[None, :] < sizes[:, None]).long()
        pieces = torch.full_like(real, self.tokenizer.pad_token_id or 0)
        for row, window in enumerate(windows):
            pieces[row, : len(window.pieces)] = torch.tensor(window.pieces)
        return pieces, real


def pool_pieces(states: Tensor, slots: Tensor, filled: Tensor) -> Tensor:
    """(windows, P, D) of pieces to (B, L, D) of tokens: the maximum over a token's pieces, 0 where no token stands."""
    (batch, longest), size = filled.shape, states.shape[-1]
    pooled = states.new_zeros(batch * longest + 1, size)
    slots = slots.reshape(-1, 1).expand(-1, size)
    pooled = pooled.scatter_reduce(0, slots, states.reshape(-1, size), "amax", include_self=False)
    return pooled[:-1].view(batch, longest, size)


def positions_of(encoder: nn.Module, tokenizer) -> int:
    """Number of pieces that a transformers encoder can read at once."""
    known = getattr(encoder.config, "max_position_embeddings", None) or DEFAULT_POSITIONS
    table = getattr(getattr(encoder, "embeddings", None), "position_embeddings", None)
    if getattr(table, "padding_idx", None) is not None:
        known -= table.padding_idx + 1  # RoBERTa counts its positions from padding_idx + 1 on
    return min(known, longest_input(tokenizer))


def has_vocabulary(folder: Path) -> bool:
    """Whether a folder holds a tokenizer's vocabulary."""
    return any((folder / name).is_file() for name in VOCABULARY_FILES)


def load_tokenizer(path: str | Path, base: str | None = None):
    """The tokenizer at ``path`` (folder or hub id), or that of ``base`` where the folder has none.

    Raises:
        UserError: there is none.
    """
    from transformers import AutoTokenizer

    advice = "Name an encoder folder or hub id with its tokenizer files."
    # For a folder without a vocabulary transformers 5 builds an empty tokenizer and says nothing.
    if Path(path).is_dir() and not has_vocabulary(Path(path)):
        if base:
            return load_tokenizer(base)
        raise UserError(f"{path}: no tokenizer could be loaded (none of {', '.join(VOCABULARY_FILES)}). {advice}")
    with loading(path, "tokenizer", advice):
        tokenizer = AutoTokenizer.from_pretrained(str(path), trust_remote_code=False)
    longest_input(tokenizer)  # refuses what would only be found out while a sentence is cut
    return tokenizer


@contextmanager
def loading(path: str | Path, what: str, advice: str) -> Iterator[None]:
    """For calls of transformers that read a checkpoint: no notices, and one UserError for all that may go wrong.

    What its classes raise for a broken file is anything from a KeyError to a bare Exception.
    """
    if Path(path).is_dir():
        refuse_special_files(Path(path))
    try:
        with quiet():
            yield
    except UserError:
        raise
    except Exception as error:
        if "trust_remote_code" in str(error) or (Path(path).is_dir() and brings_code(Path(path))):
            raise UserError(f"{path}: no {what} could be loaded: it needs code that comes with the checkpoint, which is never run "
                            f"for NER models. Name a checkpoint that transformers itself knows.") from error
        raise UserError(f"{path}: no {what} could be loaded ({first_line(error)}). {advice}") from error
