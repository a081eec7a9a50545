"""Attention over slots: one cache place for each running reply, and passes that hold no padding.

Plain batching pads every row of a pass to the longest feed and every row of the cache to the longest reply. Here the
tokens of all rows are laid end to end in one row, so the linear layers see no padding at all; only attention, which is
small beside them, looks at rows side by side. A row's keys and values lie in its own slot from position 0 on, so a row
may feed one token or a hundred, may leave at any time, and its slot is free for the next one at once.

Works with every model whose attention goes through transformers' ``AttentionInterface`` with full causal attention
(``slots_fit`` finds out by comparing with the model's own forward pass).

Notation: S slots, R rows of a pass (the first R slots), N tokens of a pass, W longest feed of a group of rows, L longest
row of a group, T room of a slot, H query heads, K key heads, D head size.
"""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

NAME = "slots"
# Rows up to the first feed longer than this are one group in attention, all others (new prompts) a second one: the
# padding inside a group is what it costs.
_LONG_FEED = 32
# What some models also want of attention; such a model is refused by ``slots_fit``.
_UNKNOWN = ("softcap", "sliding_window", "s_aux", "position_bias")
# Position codes that change with the longest row of a pass: then rows would depend on their neighbours.
_MOVING_ROPE = ("dynamic", "longrope")
_ROUND = 64  # slots grow in steps, so that a cache is not copied at every token


@dataclass(frozen=True)
class Feed:
    """Tokens that a row adds in one pass, and how many it has in the cache already."""

    tokens: Sequence[int]
    start: int


class Pass:
    """Where the tokens of one pass lie. Feed ``i`` belongs to slot ``i``; every feed holds a token.

    ids, positions: int64 (1, N). last: index of every row's last token among the N.
    """

    def __init__(self, feeds: Sequence[Feed], device: Any) -> None:
        import numpy as np
        import torch

        self.feeds = feeds
        lengths = np.array([len(feed.tokens) for feed in feeds])
        starts = np.array([feed.start for feed in feeds])
        ends = lengths.cumsum()
        self.needed = int((starts + lengths).max())
        flat = np.concatenate([feed.tokens for feed in feeds])
        places = np.arange(len(flat)) + np.repeat(starts - (ends - lengths), lengths)
        slots = np.repeat(np.arange(len(feeds)), lengths)
        packed = torch.from_numpy(np.stack([flat, places, slots])).to(device)
        self.ids, self.positions, self._slots = packed[:1], packed[1:2], packed[2]
        self.last = (ends - 1).tolist()
        self._groups = [_Group(lengths[rows], starts[rows], int(ends[rows][0] - lengths[rows][0]), rows, device)
                        for rows in _split(lengths)]
        self._moved: dict[Any, tuple] = {}

    def on(self, device: Any) -> tuple[Any, Any, list[_Group]]:
        """(slots (N,), positions (N,), groups) on a layer's device; a spread model has several."""
        if device not in self._moved:
            self._moved[device] = (self._slots.to(device), self.positions[0].to(device),
                                   [group.to(device) for group in self._groups])
        return self._moved[device]


class _Group:
    """Neighbouring rows that attend side by side.

    rows: their slots. gather: int64 (R * W,), which of the N tokens stands at each place of the group; a row shorter
    than W repeats its last one. scatter: int64 (tokens,), the places that count. mask: bool (R, 1, W, L), what each
    query sees.
    """

    def __init__(self, lengths: Any, starts: Any, begin: int, rows: slice, device: Any) -> None:
        import numpy as np
        import torch

        self.rows, self.width = rows, int(lengths.max())
        self.length = int((starts + lengths).max())
        place = np.minimum(np.arange(self.width), lengths[:, None] - 1)  # (R, W)
        offsets = begin + lengths.cumsum() - lengths
        self.gather = torch.from_numpy((offsets[:, None] + place).ravel()).to(device)
        self.scatter = torch.from_numpy(np.flatnonzero(np.arange(self.width) < lengths[:, None])).to(device)
        queries = torch.from_numpy(starts[:, None] + place).to(device)[:, None, :, None]
        self.mask = torch.arange(self.length, device=device) <= queries

    def to(self, device: Any) -> _Group:
        if self.gather.device == device:
            return self
        other = object.__new__(_Group)
        moved = {name: getattr(self, name).to(device) for name in ("gather", "scatter", "mask")}
        other.__dict__ = {**self.__dict__, **moved}
        return other


def _split(lengths: Any) -> list[slice]:
    """Slots of the groups: up to the first long feed, and from there on."""
    long = (lengths > _LONG_FEED).nonzero()[0]
    border = int(long[0]) if len(long) else len(lengths)
    return [rows for rows in (slice(0, border), slice(border, len(lengths))) if rows.start < rows.stop]


class SlotCache:
    """Keys and values of all slots, a pair of (S, K, T, D) tensors a layer, grown as rows grow.

    Takes the place of a transformers ``Cache`` in the calls that a decoder makes (``update``, ``get_seq_length``).
    """

    is_compileable = False

    def __init__(self, slots: int) -> None:
        self.slots = slots
        self.layers: list[list[Any]] = []  # [keys, values]
        self._kept: list[list[Any]] = []  # the same of what ``keep`` copied, (K, length, D)
        self.current: Pass | None = None

    def update(self, keys: Any, values: Any, layer_idx: int, *_: Any, **__: Any) -> tuple[Any, Any]:
        """Put the new (1, K, N, D) keys and values into their slots; returns the whole (S, K, T, D) tensors."""
        while len(self.layers) <= layer_idx:
            self.layers.append([])
        layer = self.layers[layer_idx]
        slots, positions, _ = self.current.on(keys.device)
        self._make_room(layer, keys, values)
        for store, new in zip(layer, (keys, values)):
            store[slots, :, positions] = new[0].transpose(0, 1)
        return layer[0], layer[1]

    def get_seq_length(self, layer_idx: int = 0) -> int:
        """Unused by a model that is given its positions; there is no one length."""
        return 0

    def move(self, sources: Sequence[int], targets: Sequence[int], length: int) -> None:
        """Copy the first ``length`` positions of slots into other slots, none of which is also a source."""
        # Slot by slot: a list of slots would be sent to the GPU for every layer, each time waiting for all that runs there.
        for layer in self.layers:
            for store in layer:
                for source, target in zip(sources, targets):
                    store[target, :, :length] = store[source, :, :length]

    def keep(self, slot: int, length: int) -> None:
        """Copy the first positions of a slot aside, for ``recall``."""
        self._kept = [[store[slot, :, :length].clone() for store in layer] for layer in self.layers]

    def recall(self, slot: int) -> None:
        """Put what ``keep`` copied into a slot."""
        for layer, kept in zip(self.layers, self._kept):
            for store, copy in zip(layer, kept):
                store[slot, :, :copy.shape[1]] = copy

    def clear(self, slot: int) -> None:
        """Zero a slot: numbers that are none would spread to its next row, although masked."""
        for layer in self.layers:
            for store in layer:
                store[slot].zero_()

    def _make_room(self, layer: list[Any], keys: Any, values: Any) -> None:
        have = layer[0].shape[2] if layer else 0
        if have >= self.current.needed:
            return
        # A quarter more than needed: a reply grows by one token a pass.
        room = -(-max(self.current.needed, have * 5 // 4) // _ROUND) * _ROUND
        for i, new in enumerate((keys, values)):
            grown = new.new_zeros(self.slots, new.shape[1], room, new.shape[3])
            if layer[i:]:
                grown[:, :, :have] = layer[i]
                layer[i] = grown
            else:
                layer.append(grown)


def slot_attention(module: Any, query: Any, key: Any, value: Any, attention_mask: Any, scaling: float | None = None,
                   slot_pass: Pass | None = None, **others: Any) -> tuple[Any, None]:
    """Attention of packed queries over their slots; registered with transformers under ``NAME``.

    Args:
        query: (1, H, N, D). key, value: (S, K, T, D) as ``SlotCache.update`` gives them.
    Returns:
        (1, N, H, D) and None for the weights.
    """
    import torch
    from torch.nn.functional import scaled_dot_product_attention

    unknown = [name for name in _UNKNOWN if others.get(name) is not None]
    if unknown or slot_pass is None or attention_mask is not None:
        raise NotImplementedError(f"attention with {', '.join(unknown) or 'a mask of its own'}")
    heads, size = query.shape[1], value.shape[-1]
    keyed = key.shape[1]
    _, _, groups = slot_pass.on(query.device)
    out = []
    for group in groups:
        rows, width = group.rows.stop - group.rows.start, group.width
        # The queries that share a key head stand behind each other, so that no key is copied for them:
        # (H, R*W, D) -> (R, K, H/K * W, D)
        q = query[0].index_select(1, group.gather).view(keyed, heads // keyed, rows, width, -1)
        q = q.permute(2, 0, 1, 3, 4).reshape(rows, keyed, heads // keyed * width, -1)
        mask = group.mask
        if width > 1:
            mask = mask[:, :, None].expand(-1, -1, heads // keyed, -1, -1).reshape(rows, 1, -1, group.length)
        seen = group.rows, slice(None), slice(group.length)
        answer = scaled_dot_product_attention(q, key[seen], value[seen], attn_mask=mask, scale=scaling)
        answer = answer.view(rows, keyed, heads // keyed, width, size).permute(0, 3, 1, 2, 4)
        out.append(answer.reshape(rows * width, heads, size).index_select(0, group.scatter))
    return torch.cat(out)[None], None


def run_pass(network: Any, cache: SlotCache, feeds: Sequence[Feed]) -> Any:
    """One forward pass; feed ``i`` goes to slot ``i``. Returns the logits behind each row's last token, (R, vocabulary)."""
    import torch

    device = network.get_input_embeddings().weight.device
    cache.current = plan = Pass(feeds, device)
    # On a GPU a list is sent there when it is used, which waits for all layers. In a spread model the last layer is on
    # another device, where no tensor of this one can be used.
    spread = len(set(getattr(network, "hf_device_map", {}).values())) > 1
    last = plan.last if spread else torch.tensor(plan.last, device=device)
    with _attending(network):
        return network(input_ids=plan.ids, position_ids=plan.positions, past_key_values=cache, use_cache=True,
                       attention_mask=None, logits_to_keep=last, slot_pass=plan).logits[0]


@contextmanager
def _attending(network: Any) -> Any:
    """Within this, the model's attention is ``slot_attention``, and not by cuDNN: torch prefers that on newer GPUs, where it
    makes a plan for each new shape, and here every pass has one."""
    import torch
    from transformers import AttentionInterface

    AttentionInterface.register(NAME, slot_attention)
    config = network.config.get_text_config()
    before, cudnn = config._attn_implementation, torch.backends.cuda.cudnn_sdp_enabled()
    config._attn_implementation = NAME
    torch.backends.cuda.enable_cudnn_sdp(False)
    try:
        yield
    finally:
        config._attn_implementation = before
        torch.backends.cuda.enable_cudnn_sdp(cudnn)


def slots_fit(network: Any) -> str:
    """Whether the model can run in slots: "" if so, else the reason.

    Compares the scores of a pass over three rows of different age with those of the model's own forward pass.
    """
    import torch

    if not getattr(network, "_supports_attention_backend", False):
        return "its attention cannot be replaced"
    config = network.config.get_text_config()
    kinds = set(getattr(config, "layer_types", None) or ["full_attention"])
    if kinds != {"full_attention"} or getattr(network, "_is_stateful", False):
        return f"its layers are of other kinds ({', '.join(sorted(kinds))})"
    rope = getattr(config, "rope_parameters", None) or getattr(config, "rope_scaling", None) or {}
    if isinstance(rope, dict) and rope.get("rope_type", rope.get("type")) in _MOVING_ROPE:
        return "its position codes change with the length of the batch"
    rows = [[(7 * i + 3 * k) % min(config.vocab_size, 97) for i in range(length)] for k, length in enumerate((9, 4, 6))]
    try:
        with torch.inference_mode():
            cache = SlotCache(len(rows))
            run_pass(network, cache, [Feed(row[:k + 1], 0) for k, row in enumerate(rows)])
            ours = run_pass(network, cache, [Feed(row[k + 1:], k + 1) for k, row in enumerate(rows)]).float()
            device = network.get_input_embeddings().weight.device
            for row, scores in zip(rows, ours):
                own = network(torch.tensor([row], device=device)).logits[0, -1].float()
                if torch.cosine_similarity(own - own.mean(), scores - scores.mean(), dim=0) < 0.999:
                    return "its scores differ there"
    except Exception as exc:  # whatever a model does not take: it has its own loop to fall back on
        return f"{type(exc).__name__}: {str(exc).splitlines()[0] if str(exc) else ''}"[:200]
    return ""
