"""The span head against plain statements of what it computes: every cell of an L x L square, one sentence at a time."""

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch.nn import functional as F

from syn_pipelines.ner.cells import cells_of, count_cells
from syn_pipelines.ner.head import HeadConfig, SpanHead

WIDTHS = st.one_of(st.none(), st.integers(1, 9))
CONFIG = {"channels": 12, "biaffine_heads": 2, "attention_heads": 3, "size_embedding": 5}


def listed_cells(length: int, max_width: int | None, window: int) -> list[tuple[int, int]]:
    """(start, last) of one sentence's cells, as the documentation says it."""
    return [(start, last) for start in range(length) for last in range(length)
            if start - window <= last and (max_width is None or last < start + max_width)]


def square_logits(head: SpanHead, states: torch.Tensor) -> torch.Tensor:
    """(L, D) of one sentence to (L, L, K), with dense scores and a dense masked softmax."""
    length, config = len(states), head.config
    start, end = F.leaky_relu(head.start(states)), F.leaky_relu(head.end(states))
    parts = (length, config.biaffine_heads, config.channels // config.biaffine_heads)
    pairs = torch.einsum("ihx,hoxy,jhy->ijho", start.view(parts), head.biaffine, end.view(parts)).flatten(2)
    sizes = (torch.arange(length)[None, :] - torch.arange(length)[:, None]).clamp(-15, 14) + 15
    pairs = pairs + head.start_score(start)[:, None] + head.end_score(end)[None] + head.size_score(head.size(sizes))
    if head.attention is not None:
        within = torch.ones(length, length, dtype=torch.bool)
        for i in range(length):
            for j in range(length):
                too_wide = config.max_width is not None and j >= i + config.max_width
                within[i, j] = j >= i - config.window and not too_wide
        near = (torch.arange(length)[None, :] - torch.arange(length)[:, None]).abs() <= config.window
        shape = (length, length, config.attention_heads, -1)
        query, key, value = (x.view(shape).transpose(1, 2) for x in head.attention.project_in(pairs).chunk(3, dim=-1))
        allowed = (near[None] & within[:, None, :])[:, None]
        weights = (query @ key.transpose(2, 3) / query.shape[-1] ** 0.5).masked_fill(~allowed, -1e9).softmax(-1)
        mixed = (weights @ value).transpose(1, 2).reshape(length, length, -1)
        pairs = pairs + head.attention.norm(head.attention.project_out(mixed))
    return head.classify(pairs)


@settings(max_examples=60)
@given(st.lists(st.integers(1, 14), min_size=1, max_size=5), WIDTHS, st.integers(0, 4))
def test_cells_are_those_of_each_sentence_in_order(lengths, max_width, window):
    cells = cells_of(lengths, max_width, window)
    wanted = [(b, *cell) for b, n in enumerate(lengths) for cell in listed_cells(n, max_width, window)]
    assert list(zip(cells.sentence.tolist(), cells.start.tolist(), cells.last.tolist())) == wanted
    spans = [k for k, (_, start, last) in enumerate(wanted) if start <= last]
    assert cells.spans.tolist() == spans
    assert cells.number(*(part[cells.spans] for part in (cells.sentence, cells.start, cells.last))).tolist() == list(
        range(len(spans)))
    assert all(count_cells(n, max_width, window) >= len(listed_cells(n, max_width, window)) for n in lengths)


@settings(max_examples=40)
@given(st.lists(st.integers(1, 80), min_size=1, max_size=5), WIDTHS, st.integers(0, 4))
def test_groups_hold_every_cell_once_and_places_find_the_spans(lengths, max_width, window):
    cells, longest = cells_of(lengths, max_width, window), max(lengths)
    pairs = []  # (token number of the start, of the last) in working order
    for group in cells.groups:
        columns, starts = group.distances.shape
        block, place = group.picked // (columns * starts), group.picked % (columns * starts)
        start, last = group.starts[block, place % starts], group.ends[block, place // starts]
        assert torch.equal(group.distances.flatten()[place], last - start)
        pairs += zip(start.tolist(), last.tolist())
    base = cells.sentence * longest
    assert sorted(pairs) == sorted(zip((base + cells.start).tolist(), (base + cells.last).tolist()))
    assert [pairs[k] for k in cells.places.tolist()] == [
        (b * longest + i, b * longest + j) for b, i, j in zip(*(part[cells.spans].tolist() for part in (
            cells.sentence, cells.start, cells.last)))]


def test_cells_move_whole_to_another_device():
    moved = cells_of([40, 3], None, 3).to("meta")
    tensors = [moved.sentence, moved.mask, moved.places, *(getattr(group, name) for group in moved.groups
                                                          for name in ("starts", "ends", "distances", "picked"))]
    assert {tensor.device.type for tensor in tensors} == {"meta"} and moved.sentences == 2


@settings(max_examples=40, deadline=None)
@given(st.lists(st.integers(1, 70), min_size=1, max_size=4), WIDTHS, st.sampled_from([0, 1, 3]), st.integers(0, 9))
def test_logits_equal_the_dense_square_of_each_sentence_alone(lengths, max_width, window, seed):
    torch.manual_seed(seed)
    head = SpanHead(8, 3, HeadConfig(max_width, window=window, **CONFIG)).eval()
    states = torch.randn(len(lengths), max(lengths) + seed % 3, 8)  # encoders may pad further than the longest sentence
    cells = cells_of(lengths, max_width, window)
    with torch.no_grad():
        logits = head(states, cells)
        for b, length in enumerate(lengths):
            mine = cells.spans[cells.sentence[cells.spans] == b]
            wanted = square_logits(head, states[b, :length])[cells.start[mine], cells.last[mine]]
            torch.testing.assert_close(logits[cells.sentence[cells.spans] == b], wanted, atol=1e-4, rtol=1e-4)


@pytest.mark.parametrize("max_width", [None, 3])
def test_gradients_equal_those_of_the_dense_square(max_width):
    torch.manual_seed(1)
    head = SpanHead(8, 3, HeadConfig(max_width, **CONFIG)).eval()
    states, cells = torch.randn(1, 50, 8), cells_of([50], max_width, 3)
    gradients = []
    for logits in (head(states, cells), square_logits(head, states[0])[cells.start[cells.spans], cells.last[cells.spans]]):
        gradients.append(torch.autograd.grad(logits.sigmoid().sum(), list(head.parameters())))
    for ours, dense in zip(*gradients):
        torch.testing.assert_close(ours, dense, atol=1e-3, rtol=1e-3)


@pytest.mark.parametrize("max_width, window", [(None, 3), (4, 2), (3, 0)])
def test_gradients_of_states_are_those_of_finite_differences(max_width, window):
    torch.manual_seed(2)
    config = HeadConfig(max_width, channels=8, biaffine_heads=2, attention_heads=2, size_embedding=3, window=window)
    head = SpanHead(4, 2, config).double().eval()
    states, cells = torch.randn(2, 19, 4, dtype=torch.double, requires_grad=True), cells_of([19, 5], max_width, window)
    assert torch.autograd.gradcheck(lambda states: head(states, cells), (states,))


def test_training_in_bfloat16_gives_about_the_gradients_of_float32():
    torch.manual_seed(3)
    head, cells = SpanHead(8, 3, HeadConfig(4, **CONFIG)).eval(), cells_of([30, 11], 4, 3)
    states = torch.randn(2, 30, 8)
    gradients = []
    for enabled in (False, True):
        with torch.autocast("cpu", torch.bfloat16, enabled=enabled):
            logits = head(states, cells)
        gradients.append(torch.autograd.grad(logits.float().sigmoid().sum(), list(head.parameters())))
    for exact, rough in zip(*gradients):
        assert rough.dtype == torch.float32 and (rough - exact).norm() < 0.1 * exact.norm() + 1e-2


def test_channels_that_heads_cannot_share_are_refused():
    with pytest.raises(ValueError, match="96 channels cannot be split into 10 attention_heads"):
        HeadConfig(channels=96)
