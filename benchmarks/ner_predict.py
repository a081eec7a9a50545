"""Prediction over a stream of text: sentences and characters a second, and whether the memory stays constant.

Text is made as it is read, characters by falling frequency in sentences as long as those of the Weibo training set. The
model has random weights: the scratch encoder and its head as the trainer builds them, or BERT-base on a GPU. It reads
``--characters / 10`` first, then all of them; the peak of the process must be the same after both.

run     python benchmarks/ner_predict.py
        python benchmarks/ner_predict.py --json --characters 100000
        python benchmarks/ner_predict.py --device cuda
"""

from __future__ import annotations

import argparse
import json
import random
import resource
import sys
import time
from collections import deque
from collections.abc import Iterator, Sequence
from itertools import accumulate, islice
from typing import Any

import torch
from ner_work import CAPPED_WIDTH, Bert, label_set, read_lengths

from syn_pipelines.ner.data import Sentence
from syn_pipelines.ner.head import HeadConfig
from syn_pipelines.ner.model import NerModel
from syn_pipelines.ner.prediction import NerPredictor
from syn_pipelines.ner.training import build_model

ALPHABET = [chr(0x4E00 + k) for k in range(3000)]


def parse(arguments: Sequence[str] | None) -> argparse.Namespace:
    """The flags."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--json", action="store_true", help="print the figures as JSON instead of lines")
    parser.add_argument("--characters", type=int, default=1_000_000, help="of text, at least 1,000")
    parser.add_argument("--batch_size", type=int, default=32, help="sentences predicted together")
    parser.add_argument("--threads", type=int, default=1, help="of torch on the CPU; the scratch encoder always uses one")
    parser.add_argument("--device", choices=("cpu", "cuda"), default="cpu", help="cuda: BERT-base")
    flags = parser.parse_args(arguments)
    for name, least in (("characters", 1000), ("batch_size", 1), ("threads", 1)):
        if getattr(flags, name) < least:
            parser.error(f"--{name}={getattr(flags, name)}: less than {least}")
    return flags


def text(characters: int, seed: int = 0) -> Iterator[list[str]]:
    """Sentences with so many characters together, one after the other."""
    chance = random.Random(seed)
    lengths = read_lengths(None)
    weights = list(accumulate(1 / rank for rank in range(1, len(ALPHABET) + 1)))
    while characters > 0:
        length = min(characters, chance.choice(lengths))
        yield chance.choices(ALPHABET, cum_weights=weights, k=length)
        characters -= length


def build(device: str) -> NerModel:
    """A model with random weights; the vocabulary of the scratch encoder comes from the first thousand sentences."""
    torch.manual_seed(0)
    if device == "cuda":
        return NerModel(Bert(12, 768, heads=12), label_set(), HeadConfig(CAPPED_WIDTH)).to(device)
    return build_model([Sentence(tuple(tokens)) for tokens in islice(text(100_000), 1000)], label_set())


def measure(predictor: NerPredictor, characters: int, flags: argparse.Namespace) -> dict[str, float]:
    """Speed over so much text, and the peak of the process's memory so far in MB."""
    sentences = 0

    def counted() -> Iterator[list[str]]:
        nonlocal sentences
        for tokens in text(characters):
            sentences += 1
            yield tokens

    # With one thread the processor's time, which other programs on the machine lengthen less than they do the clock's.
    clock = time.process_time if flags.device == "cpu" and flags.threads == 1 else time.perf_counter
    started = clock()
    deque(predictor(counted(), flags.batch_size), maxlen=0)
    seconds = clock() - started
    unit = 1e6 if sys.platform == "darwin" else 1e3  # bytes there, kilobytes elsewhere
    return {"characters": characters, "sentences_per_s": round(sentences / seconds, 1),
            "characters_per_s": round(characters / seconds), "seconds": round(seconds, 1),
            "peak_mb": round(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / unit, 1)}


def run(flags: argparse.Namespace) -> dict[str, Any]:
    """Both amounts of text. Returns what ``--json`` prints."""
    torch.set_num_threads(flags.threads)
    predictor = NerPredictor(build(flags.device))
    tenth, whole = (measure(predictor, n, flags) for n in (flags.characters // 10, flags.characters))
    return {"device": flags.device, "batch_size": flags.batch_size, "tenth": tenth, "whole": whole,
            "growth_mb": round(whole["peak_mb"] - tenth["peak_mb"], 1)}


def shown(found: dict[str, Any]) -> str:
    """Two lines of figures, and the difference."""
    lines = [f"{part['characters']:,} characters: {part['sentences_per_s']:,.0f} sentences/s, "
             f"{part['characters_per_s']:,} characters/s, {part['seconds']} s, peak {part['peak_mb']:.0f} MB"
             for part in (found["tenth"], found["whole"])]
    return "\n".join([*lines, f"ten times the text: {found['growth_mb']:+.1f} MB"])


def main(arguments: Sequence[str] | None = None) -> int:
    """Measure and print. Exit code 1: there is no such device."""
    flags = parse(arguments)
    if flags.device == "cuda" and not torch.cuda.is_available():
        print("--device=cuda, but torch finds no GPU", file=sys.stderr)
        return 1
    found = run(flags)
    print(json.dumps(found, indent=2) if flags.json else shown(found))
    return 0


if __name__ == "__main__":
    sys.exit(main())
