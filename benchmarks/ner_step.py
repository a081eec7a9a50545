"""A training step of the span model beside the same arithmetic stated plainly: seconds, and peak of live tensors.

Both sides get the same weights, batches and gold spans and run in turn, round by round; medians count. The plain side
is `ner_reference.py`: every cell of an L x L square. Settings: head and loss on given word states, forward and backward
(gradient to the states included), of full-length batches of 4 in shuffled order (lengths of the Weibo training set) and
of length 64, batch 8; then the whole step with a BERT encoder of 4 layers and the optimizer. Ours scores all spans, and
in a second row those of up to 12 tokens. Takes about two minutes; what the figures mean: docs/performance.md.

run     python benchmarks/ner_step.py
        python benchmarks/ner_step.py --json > ner_step.json
        python benchmarks/ner_step.py --data data/few_shot/weibo/train_1000.jsonl
        python benchmarks/ner_step.py --device cuda          # BERT-base instead, and what the arithmetic allows
"""

from __future__ import annotations

import argparse
import json
import statistics
import sys
import time
from collections.abc import Callable, Sequence
from functools import partial
from typing import Any

import torch
from ner_gpu import bert_base
from ner_reference import ReferenceModel
from ner_work import CAPPED_WIDTH, Bert, GivenStates, Work, label_set, read_lengths, shuffled_batches, work_of
from peak_memory import peak_of_tensors
from torch import nn

from syn_pipelines.ner.cells import cells_of
from syn_pipelines.ner.head import HeadConfig
from syn_pipelines.ner.model import Batch, NerModel

LEAST_SPEEDUP, MOST_MEMORY = 3.0, 0.5


class BenchmarkError(Exception):
    """The two sides did not compute the same."""


Step = Callable[[Work], None]


def parse(arguments: Sequence[str] | None) -> argparse.Namespace:
    """The flags."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--json", action="store_true", help="print the figures as JSON instead of a table")
    parser.add_argument("--threads", type=int, default=1, help="of torch; more are slower on a busy machine")
    parser.add_argument("--rounds", type=int, default=3, help="times that each side runs each batch; the median counts")
    parser.add_argument("--batches", type=int, default=6, help="full-length batches of 4")
    parser.add_argument("--data", nargs="+", metavar="FILE",
                        help="data files whose sentence lengths count (default: those of the Weibo training set)")
    parser.add_argument("--hidden", type=int, default=768, help="size of the given word states")
    parser.add_argument("--fused", action="store_true", help="the plain side's attention by scaled_dot_product_attention")
    parser.add_argument("--device", choices=("cpu", "cuda"), default="cpu",
                        help="cuda: training and prediction at BERT-base size, batch 32")
    parser.add_argument("--peak_tflops", type=float, default=989.0, help="of the GPU in bfloat16, for the bound")
    flags = parser.parse_args(arguments)
    for name in ("threads", "rounds", "batches", "hidden"):
        if getattr(flags, name) < 1:
            parser.error(f"--{name}={getattr(flags, name)}: less than 1")
    return flags


def our_batch(model: NerModel, work: Work) -> Batch:
    """The batch with its cells, as ``NerModel.collate`` makes it."""
    return Batch(work.inputs, cells_of(work.lengths, model.max_width, model.head.config.window))


def steps_of(models: dict[str, nn.Module], *, optimize: bool) -> dict[str, Step]:
    """What is measured: loss and gradients of one batch, with ``optimize`` the weights' update as well."""
    weights = torch.rand(len(label_set().names))

    def step(model: nn.Module, optimizer: torch.optim.Optimizer | None, work: Work) -> None:
        if isinstance(model, NerModel):
            batch = our_batch(model, work)
            loss = model.loss(batch, model.gold(work.sentences, batch), weights).mean()
        else:
            loss = model.loss(work.inputs, work.gold_square, weights)
        loss.backward()
        if optimizer:
            optimizer.step()
        model.zero_grad(set_to_none=True)
        if "states" in work.inputs:
            work.inputs["states"].grad = None

    def bound(model: nn.Module) -> Step:
        optimizer = torch.optim.AdamW(model.parameters(), lr=1e-5) if optimize else None
        return lambda work: step(model.train(), optimizer, work)

    return {name: bound(model) for name, model in models.items()}


def build(encoder: nn.Module, fused: bool) -> dict[str, nn.Module]:
    """The plain side and both of ours with the same weights over the same encoder."""
    labels = label_set()
    ours, capped = NerModel(encoder, labels, HeadConfig()), NerModel(encoder, labels, HeadConfig(CAPPED_WIDTH))
    capped.load_state_dict(ours.state_dict())
    plain = ReferenceModel(encoder, len(labels.names), HeadConfig(), fused=fused)
    plain.copy_from(ours.head)
    return {"reference": plain, "ours": ours, "capped": capped}


@torch.no_grad()
def check(models: dict[str, nn.Module], length: int = 40) -> float:
    """Greatest difference of both sides' scores for a sentence alone.

    Raises:
        BenchmarkError: it is more than rounding explains.
    """
    plain, ours = models["reference"].eval(), models["ours"].eval()
    work = work_of((length,), ours.encoder, ours.labels)
    batch = our_batch(ours, work)
    wanted = plain(work.inputs)[0][batch.cells.start[batch.cells.spans], batch.cells.last[batch.cells.spans]]
    difference = (ours(batch) - wanted).abs().max().item()
    if not difference < 1e-4:
        raise BenchmarkError(f"for a sentence of {length} tokens the two sides' scores differ by {difference:.2g}")
    return difference


def measure(models: dict[str, nn.Module], batches: Sequence[tuple[int, ...]], rounds: int, *,
            optimize: bool) -> dict[str, tuple[float, int]]:
    """Seconds of all batches (sum of the batches' medians) and peak bytes of the worst of them, by side."""
    ours = models["ours"]
    steps = steps_of(models, optimize=optimize)
    works = [work_of(lengths, ours.encoder, ours.labels) for lengths in batches]
    peaks = {name: 0 for name in steps}
    # Also the warm-up. The batches that cost the plain side and ours most.
    worst = {max(batches, key=lambda lengths: len(lengths) * max(lengths) ** 2),
             max(batches, key=lambda lengths: sum(length ** 2 for length in lengths))}
    for work in (work for work in works if work.lengths in worst):
        for name, step in steps.items():
            peaks[name] = max(peaks[name], peak_of_tensors(partial(step, work)))
    seconds = {name: [[] for _ in works] for name in steps}
    # With one thread the processor's time, which other programs on the machine lengthen less than they do the clock's.
    clock = time.process_time if torch.get_num_threads() == 1 else time.perf_counter
    for _ in range(rounds):
        for k, work in enumerate(works):
            for name, step in steps.items():
                started = clock()
                step(work)
                seconds[name][k].append(clock() - started)
    return {name: (sum(map(statistics.median, seconds[name])), peaks[name]) for name in steps}


def rows_of(setting: str, found: dict[str, tuple[float, int]], steps: int) -> list[dict[str, Any]]:
    """One row for all spans, one for those up to the cap."""
    reference_s, reference_bytes = found["reference"]
    rows = []
    for side, name in (("ours", "all spans"), ("capped", f"spans of up to {CAPPED_WIDTH} tokens")):
        seconds, peak = found[side]
        rows.append({"setting": f"{setting}, {name}", "speedup": round(reference_s / seconds, 2),
                     "memory_ratio": round(peak / reference_bytes, 3), "reference_s": round(reference_s / steps, 4),
                     "ours_s": round(seconds / steps, 4), "reference_mb": round(reference_bytes / 1e6, 1),
                     "ours_mb": round(peak / 1e6, 1)})
    return rows


def run(flags: argparse.Namespace) -> list[dict[str, Any]]:
    """All settings. Returns what ``--json`` prints.

    Raises:
        BenchmarkError: the two sides do not compute the same.
    """
    torch.set_num_threads(flags.threads)
    torch.manual_seed(0)
    weibo = shuffled_batches(read_lengths(flags.data), 4, flags.batches)
    rows = []
    for what, encoder, optimize in ((f"head and loss, states of {flags.hidden}", GivenStates(flags.hidden), False),
                                    ("whole step, BERT of 4 layers of 256", Bert(4, 256), True)):
        models = build(encoder, flags.fused)
        _say(f"{what}: scores of a sentence alone differ by {check(models):.1g}")
        for name, batches in (("full-length batches of 4", weibo), ("length 64, batch 8", [(64,) * 8])):
            _say(f"{what}: {name}")
            found = measure(models, batches, flags.rounds, optimize=optimize)
            rows += rows_of(f"{what}, {name}", found, len(batches))
    return rows


def shown(rows: Sequence[dict[str, Any]]) -> str:
    """A Markdown table; seconds and megabytes of a step."""
    lines = ["| setting | reference s | ours s | speed-up | reference MB | ours MB | memory |",
             "| --- | ---: | ---: | ---: | ---: | ---: | ---: |"]
    lines += [f"| {row['setting']} | {row['reference_s']:.3f} | {row['ours_s']:.3f} | {row['speedup']:.2f} | "
              f"{row['reference_mb']:.0f} | {row['ours_mb']:.0f} | {row['memory_ratio']:.2f} |" for row in rows]
    aimed = [row for row in rows if row["setting"].startswith("head")]
    slow = sum(row["speedup"] < LEAST_SPEEDUP or row["memory_ratio"] > MOST_MEMORY for row in aimed)
    lines.append(f"\nHead and loss: {len(aimed) - slow} of {len(aimed)} rows at least {LEAST_SPEEDUP:.0f} times as fast "
                 f"with at most {MOST_MEMORY:.0%} of the memory.")
    return "\n".join(lines)


def _say(line: str) -> None:
    print(line, file=sys.stderr)


def main(arguments: Sequence[str] | None = None) -> int:
    """Measure and print. Exit code 1: the two sides do not compute the same, or there is no such device."""
    flags = parse(arguments)
    if flags.device == "cuda":
        if not torch.cuda.is_available():
            _say("--device=cuda, but torch finds no GPU")
            return 1
        print(json.dumps(bert_base("cuda", read_lengths(flags.data), peak_tflops=flags.peak_tflops), indent=2))
        return 0
    try:
        rows = run(flags)
    except BenchmarkError as error:
        _say(str(error))
        return 1
    print(json.dumps(rows, indent=2) if flags.json else shown(rows))
    return 0


if __name__ == "__main__":
    sys.exit(main())
