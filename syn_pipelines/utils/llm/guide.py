"""Holding replies to their grammars: the state of one reply, and the masks of all that choose a token together.

The grammars come from ``grammar``, the matching is llguidance's. A matcher never raises: whatever goes wrong with one
ends that reply alone, as a ``GuideError``.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

from syn_pipelines.utils.llm import Constraint
from syn_pipelines.utils.llm.closing import Closer
from syn_pipelines.utils.llm.grammar import lark_of
from syn_pipelines.utils.llm.vocabulary import decode_bytes, guidance_tokenizer


class GuideError(Exception):
    """A reply cannot be written. ``finish``: what its finish reason is."""

    def __init__(self, text: str, finish: str = "error") -> None:
        super().__init__(text)
        self.finish = finish


class Guidance:
    """What the grammars of one model have in common. Takes about a second to make.

    Args:
        vocab_size: width of the model's scores. ends: its end tokens.
    Raises:
        UnsupportedTokenizer: the bytes of its tokens cannot be known.
    """

    def __init__(self, tokenizer: Any, vocab_size: int, ends: Sequence[int]) -> None:
        from llguidance import LLExecutor

        self.tokens = guidance_tokenizer(tokenizer, vocab_size, ends)
        self.executor = LLExecutor()

    def count_tokens(self, text: str) -> int:
        """Length of a text in tokens as the grammar forces them."""
        return len(self.tokens.tokenize_str(text))

    def text_of(self, tokens: Sequence[int]) -> str:
        """The exact text of a reply's tokens."""
        return decode_bytes(self.tokens, tokens).decode("utf-8", "replace")

    def matcher(self, lark: str) -> Any:
        from llguidance import LLMatcher

        matcher = LLMatcher(self.tokens, LLMatcher.grammar_from_lark(lark), log_level=0)
        if matcher.is_error():
            raise GuideError(f"grammar: {_first_line(matcher)}")
        return matcher


class Guide:
    """The grammar of one reply at its present place.

    Args:
        limit: most tokens of the reply. When only just enough are left, the grammar closes the reply.
        forcing: hand out the tokens that leave no choice. Else the model is asked for them one by one, with nothing
            else to choose from.
    Raises:
        GuideError: the grammar does not work, or not even the shortest reply fits the limit ("too_long").
    """

    def __init__(self, guidance: Guidance, constraint: Constraint, limit: int, *, forcing: bool = True) -> None:
        self.guidance, self._forcing = guidance, forcing
        self._closer = Closer(constraint, guidance.count_tokens)
        if self._closer.least > limit:
            raise GuideError(f"the shortest reply has {self._closer.least} tokens, there is room for {limit}", "too_long")
        self.matcher = guidance.matcher(lark_of(constraint))
        self.closed = False
        self._written: list[int] = []  # what the matcher has seen
        self.owed: list[int] = []  # the last of these: forced, and not asked for yet
        self._pushed = 0

    @property
    def length(self) -> int:
        """Tokens of the reply so far."""
        return len(self._written) - len(self.owed)

    @property
    def done(self) -> bool:
        """Whether the reply is whole and nothing can follow."""
        return not self.owed and self.matcher.is_stopped() and not self.matcher.is_error()

    def begin(self) -> list[int]:
        """The tokens that stand before the first choice."""
        return self._force()

    def take(self, token: int) -> list[int]:
        """Go on by a chosen token; returns those that are forced behind it."""
        if self.owed:
            if token != self.owed.pop(0):
                raise GuideError(f"grammar: token {token} cannot come here")
            return []
        if not self.matcher.consume_token(token):
            raise GuideError(f"grammar: {_first_line(self.matcher)}")
        self._written.append(token)
        return self._force()

    def watch_room(self, left: int) -> list[int]:
        """Before a choice: with only just enough tokens left to close the reply, allow nothing but its end.

        Returns the tokens that are forced then.
        """
        closer = self._closer
        if self.closed or self.owed or left > closer.most + closer.margin:
            return []
        closer.push(decode_bytes(self.guidance.tokens, self._written[self._pushed:]))
        self._pushed = len(self._written)
        if left > closer.room() + closer.margin:
            return []
        matcher = self.guidance.matcher(closer.lark())
        if not matcher.consume_tokens(self._written):
            raise GuideError(f"grammar: {_first_line(matcher)}")
        self.matcher, self.closed = matcher, True
        return self._force()

    def _force(self) -> list[int]:
        if self.matcher.is_stopped():
            return []
        tokens = self.matcher.compute_ff_tokens()
        if tokens and not self.matcher.consume_tokens(tokens):
            raise GuideError(f"grammar: {_first_line(self.matcher)}")
        self._written += tokens
        if self._forcing:
            return tokens
        self.owed = list(tokens)
        return []


def fill_masks(guides: Sequence[Guide | None], vocab_size: int) -> Any:
    """The tokens that may come next, a bit each: int32 (rows, words of 32 bits), or None when every row is free.

    A matcher that breaks down here says so at the next ``Guide.take``.
    """
    held = [(guide.matcher, row) for row, guide in enumerate(guides) if guide and not guide.owed]
    owing = [(guide.owed[0], row) for row, guide in enumerate(guides) if guide and guide.owed]
    if not held and not owing:
        return None
    from llguidance.numpy import allocate_token_bitmask, fill_next_token_bitmask_par

    bits = allocate_token_bitmask(len(guides), vocab_size)  # all ones
    if held:
        executor = next(guide for guide in guides if guide).guidance.executor
        fill_next_token_bitmask_par(executor, held, bits)
    for token, row in owing:
        bits[row] = 0
        bits.view("uint32")[row, token // 32] = 1 << token % 32
    return bits


def forbid(scores: Any, bits: Any) -> Any:
    """Set the scores of all tokens that may not come next to minus infinity, in place.

    scores: float (rows, vocabulary). bits: as ``fill_masks`` gives them.
    """
    import numpy as np
    import torch

    size = scores.shape[-1]
    if scores.device.type == "cpu":  # numpy unpacks bits several times faster than torch shifts them
        closed = np.unpackbits(np.bitwise_not(bits).view(np.uint8), axis=1, bitorder="little", count=size)
        return scores.masked_fill_(torch.from_numpy(closed.view(bool)), float("-inf"))
    eights = torch.from_numpy(bits.view(np.uint8)).to(scores.device, non_blocking=True)
    shifts = torch.arange(8, dtype=torch.uint8, device=scores.device)
    closed = ((eights.unsqueeze(-1) >> shifts) & 1).view(len(bits), -1)[:, :size] == 0
    return scores.masked_fill_(closed, float("-inf"))


class GrammarMasks:
    """The grammars of a batch inside transformers' own ``generate``: a logits processor.

    guides: one a row, made with ``forcing=False``, or None. width: tokens of the padded prompts. limits: most tokens of
    each reply. lengths: of the rows that are whole; errors: of those that broke down; both by row.
    """

    def __init__(self, guides: Sequence[Guide | None], width: int, limits: Sequence[int]) -> None:
        self.guides, self._width, self._limits = list(guides), width, limits
        self.lengths: dict[int, int] = {}
        self.errors: dict[int, GuideError] = {}

    def __call__(self, input_ids: Any, scores: Any) -> Any:
        """scores: float (rows, vocabulary)."""
        self._catch_up(input_ids)
        left = [limit - input_ids.shape[1] + self._width for limit in self._limits]
        for row, guide in self._running():
            self._try(row, guide.watch_room, left[row])
        running = dict(self._running())
        bits = fill_masks([running.get(row) for row in range(len(scores))], scores.shape[-1])
        return scores if bits is None else forbid(scores.clone(), bits)

    def over(self, input_ids: Any, scores: Any, **_: Any) -> Any:
        """A stopping criterion: bool (rows,), which rows are whole."""
        import torch

        self._catch_up(input_ids)
        done = [row in self.lengths or row in self.errors for row in range(len(self.guides))]
        return torch.tensor(done, device=input_ids.device)

    def _catch_up(self, input_ids: Any) -> None:
        """Let every guide see the tokens that were chosen since."""
        running = self._running()
        known = min((guide.length for _, guide in running), default=0)
        written = input_ids[:, self._width + known:].tolist()
        for row, guide in running:
            for token in written[row][guide.length - known:]:
                self._try(row, guide.take, token)
            if guide.done and row not in self.errors:
                self.lengths[row] = guide.length

    def _running(self) -> list[tuple[int, Guide]]:
        return [(row, guide) for row, guide in enumerate(self.guides)
                if guide and row not in self.lengths and row not in self.errors]

    def _try(self, row: int, move: Callable[[int], Any], value: int) -> None:
        if row not in self.errors:
            try:
                move(value)
            except GuideError as exc:
                self.errors[row] = exc


def _first_line(matcher: Any) -> str:
    return (matcher.get_error() or "no token is allowed").strip().splitlines()[0][:300]
