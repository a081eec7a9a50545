"""Six ways to get the same replies out of a language model, side by side: sentences/s, model steps, padding, memory.

A hundred fixed sentences, entity and POS questions as steps 1 and 3 ask them, a model with random weights of the size
that ``--layers`` and ``--hidden`` say (7 billion parameters where there is a GPU). What the variants are and how to read
the figures: docs/performance.md. Takes some minutes on two cores.

run     python benchmarks/llm_engine.py
        python benchmarks/llm_engine.py --json > llm_engine.json
"""

from __future__ import annotations

import argparse
import contextlib
import json
import logging
import os
import platform
import statistics
import sys
import tempfile
import time
from collections.abc import Iterator, Sequence
from dataclasses import replace
from importlib.metadata import version
from importlib.util import find_spec
from pathlib import Path
from typing import Any

from llm_engine_model import SEVEN_BILLION, SMALL, Shape, write_checkpoint
from llm_engine_report import aims, copy_bandwidth, step_bound, table
from llm_engine_requests import MODES, load_sentences, requests_of, training_texts
from llm_engine_variants import ORDER, VARIANTS, Bench, Measured

from syn_pipelines.utils.llm import Request
from syn_pipelines.utils.llm.checkpoints import quiet

_WARM_UP = 2  # requests of each language, the shortest


class BenchmarkError(Exception):
    """The variants did not do the same work, so their figures cannot be compared."""


def parse(arguments: Sequence[str] | None) -> argparse.Namespace:
    """The flags."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--json", action="store_true", help="print the figures as JSON instead of tables")
    parser.add_argument("--rounds", type=int, default=3, help="times that each variant runs; the median counts")
    parser.add_argument("--requests", type=int, default=100, help="sentences; above 100 they come again")
    parser.add_argument("--batch_size", type=int, default=20, help="rows of a batch, or requests under way")
    parser.add_argument("--modes", default=",".join(MODES), help="entity, pos, or both with a comma")
    parser.add_argument("--device", choices=("auto", "cpu", "cuda"), default="auto", help="auto: a GPU if there is one")
    parser.add_argument("--threads", type=int, default=1, help="of torch on the CPU; more are slower on a busy machine")
    for name in ("layers", "hidden", "heads", "key_heads", "vocabulary"):
        parser.add_argument(f"--{name}", type=int, default=0, help="of the model; 0: as the device's usual model")
    parser.add_argument("--checkpoint", default="", help="folder to keep the model in, and to take it from when it is there")
    flags = parser.parse_args(arguments)
    for name in ("rounds", "requests", "batch_size"):
        if getattr(flags, name) < 1:
            parser.error(f"--{name}={getattr(flags, name)}: less than 1")
    if unknown := set(flags.modes.split(",")) - set(MODES):
        parser.error(f"--modes={flags.modes}: {', '.join(sorted(unknown))} is none of {', '.join(MODES)}")
    return flags


def run(flags: argparse.Namespace) -> dict[str, Any]:
    """All rounds. Returns what ``--json`` prints."""
    device = _device(flags)
    shape = _shape(flags, device)
    with _checkpoint_folder(flags.checkpoint) as folder:
        if not (folder / "config.json").exists():
            _say(f"writing the model: {shape}")
            with quiet():
                write_checkpoint(folder, shape, training_texts(load_sentences()),
                                 dtype="bfloat16" if device == "cuda" else "float32", device=device)
        bench = Bench(folder, batch_size=flags.batch_size, device=device)
        sentences = load_sentences(flags.requests)
        work = {mode: requests_of(mode, sentences, bench.backend.count_tokens) for mode in flags.modes.split(",")}
        _warm_up(bench, work)
        rounds = {mode: {variant: [] for variant in VARIANTS} for mode in work}
        for number in range(flags.rounds):
            for mode, groups in work.items():
                for variant, measured in one_round(bench, groups).items():
                    rounds[mode][variant].append(measured)
                    _say(f"round {number + 1}/{flags.rounds}  {mode:6}  {variant:12}  {measured.seconds:7.2f} s")
        return _figures(bench, flags, device, rounds)


def one_round(bench: Bench, groups: Sequence[Sequence[Request]]) -> dict[str, Measured]:
    """Every variant once. The lengths of the replies of ours_forced are those of all others.

    Raises:
        BenchmarkError: a variant did not give what all others give.
    """
    found: dict[str, Measured] = {}
    lengths: dict[str, int] = {}
    for variant in ORDER:
        found[variant] = bench.run(variant, groups, lengths)
        lengths = lengths or found[variant].lengths
        _check(variant, found[variant], lengths)
    return found


def _check(variant: str, measured: Measured, lengths: dict[str, int]) -> None:
    held = variant in ("ours_forced", "ours_grammar")
    for reply in measured.replies.values():
        if reply.error:
            raise BenchmarkError(f"{variant}: request {reply.id} failed: {reply.error}")
        if held and (reply.finish_reason, reply.decoded) != ("stop", "grammar"):
            raise BenchmarkError(f"{variant}: request {reply.id} was not held to its grammar. Is llguidance installed?")
    # On a GPU rounding may tip a tie between two tokens in ours_grammar; "identical" says so.
    if variant != "ours_grammar" and measured.lengths != lengths:
        raise BenchmarkError(f"{variant}: its replies are not as long as those of ours_forced")


def _warm_up(bench: Bench, work: dict[str, list[list[Request]]]) -> None:
    """Every variant on a few short requests: kernels are chosen, grammars' tokenizer is made."""
    for groups in work.values():
        one_round(bench, [sorted(group, key=lambda request: request.max_new_tokens)[:_WARM_UP] for group in groups])


def _figures(bench: Bench, flags: argparse.Namespace, device: str,
             rounds: dict[str, dict[str, list[Measured]]]) -> dict[str, Any]:
    figures: dict[str, Any] = {mode: {variant: _median(flags.requests, measured) for variant, measured in variants.items()}
                               for mode, variants in rounds.items()}
    checks: dict[str, Any] = {"identical": {}, "replies": {}}
    for mode, variants in rounds.items():
        pairs = list(zip(variants["ours_forced"], variants["ours_grammar"]))
        checks["identical"][mode] = all(_texts(forced) == _texts(asked) for forced, asked in pairs)
        checks["replies"][mode] = _lengths(variants["ours_forced"][0])
    checks["aims"] = aims(figures, checks["identical"])
    if device == "cuda":
        bandwidth = copy_bandwidth()
        checks["step"] = {mode: step_bound(bench.network, variants["ours_free"], bandwidth) for mode, variants in rounds.items()}
    return {**figures, "setup": _setup(bench, flags, device), "checks": checks}


def _median(sentences: int, measured: Sequence[Measured]) -> dict[str, Any]:
    def middle(value: Any) -> float:
        return statistics.median(value(one) for one in measured)

    peaks = [one.peak_mb for one in measured if one.peak_mb is not None]
    return {"sentences_per_s": round(middle(lambda one: sentences / one.seconds), 3),
            "model_steps": int(middle(lambda one: one.model_steps)),
            "tokens": measured[0].tokens,
            "padding_share": round(middle(lambda one: one.padding), 4),
            "mask_share": round(middle(lambda one: one.mask_s / one.seconds), 4),
            "peak_mb": round(max(peaks), 1) if peaks else None}


def _texts(measured: Measured) -> dict[str, str]:
    return {reply.id: reply.text for reply in measured.replies.values()}


def _lengths(measured: Measured) -> dict[str, Any]:
    """What the replies are like: mean and greatest lengths in tokens, how many were closed for want of room."""
    replies = measured.replies.values()
    prompts, tokens = [r.prompt_tokens for r in replies], [r.completion_tokens for r in replies]
    return {"mean_prompt_tokens": round(statistics.mean(prompts), 1), "longest_prompt_tokens": max(prompts),
            "mean_reply_tokens": round(statistics.mean(tokens), 1), "longest_reply_tokens": max(tokens),
            "mean_items": round(statistics.mean(len(json.loads(r.text)) for r in replies), 2),
            "closed": sum(r.closed for r in replies)}


def _setup(bench: Bench, flags: argparse.Namespace, device: str) -> dict[str, Any]:
    import torch

    config = bench.network.config  # of the model that ran; --checkpoint may hold one of another size
    model = {"layers": config.num_hidden_layers, "hidden": config.hidden_size, "heads": config.num_attention_heads,
             "key_heads": config.num_key_value_heads, "vocabulary": config.vocab_size,
             "parameters": sum(p.numel() for p in bench.network.parameters())}
    return {"device": torch.cuda.get_device_name() if device == "cuda" else "cpu", "cores": os.cpu_count(),
            "threads": torch.get_num_threads(), "dtype": str(bench.network.dtype).removeprefix("torch."),
            "model": model, "requests": flags.requests, "rounds": flags.rounds,
            "batch_size": flags.batch_size, "python": platform.python_version(), **{name: version(name) for name in ("torch", "transformers", "llguidance")}}


def _device(flags: argparse.Namespace) -> str:
    if flags.device == "cpu":
        os.environ["CUDA_VISIBLE_DEVICES"] = ""  # before torch looks
    import torch

    if flags.threads:
        torch.set_num_threads(flags.threads)
    found = "cuda" if torch.cuda.is_available() else "cpu"
    if flags.device == "cuda" != found:
        raise BenchmarkError("--device=cuda, but torch finds no GPU")
    return found


def _shape(flags: argparse.Namespace, device: str) -> Shape:
    usual = SEVEN_BILLION if device == "cuda" else SMALL
    given = {name: getattr(flags, name) for name in ("layers", "hidden", "heads", "key_heads", "vocabulary")}
    return replace(usual, **{name: value for name, value in given.items() if value})


@contextlib.contextmanager
def _checkpoint_folder(kept: str) -> Iterator[Path]:
    if kept:
        yield Path(kept)
        return
    with tempfile.TemporaryDirectory() as folder:
        yield Path(folder) / "model"


def _say(text: str) -> None:
    print(text, file=sys.stderr, flush=True)


def main(arguments: Sequence[str] | None = None) -> int:
    """Exit code 1: the figures mean nothing, or replies with and without forced tokens differ in float32."""
    logging.basicConfig(level=logging.WARNING, format="%(message)s")
    flags = parse(arguments)
    if find_spec("llguidance") is None or int(version("transformers").split(".")[0]) < 5:
        _say("the benchmark needs llguidance and, to compare with its continuous batching, transformers 5")
        return 2
    started = time.perf_counter()
    try:
        figures = run(flags)
    except BenchmarkError as err:
        _say(str(err))
        return 1
    _say(f"{time.perf_counter() - started:.0f} s in all")
    print(json.dumps(figures, indent=2) if flags.json else table(figures))
    same = all(figures["checks"]["identical"].values())
    return 0 if same or figures["setup"]["dtype"] != "float32" else 1


if __name__ == "__main__":
    sys.exit(main())
