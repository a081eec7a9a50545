"""What the figures of the LLM benchmark say: tables, aims, and the bound that a GPU's memory sets."""

from __future__ import annotations

import statistics
import time
from collections.abc import Mapping, Sequence
from typing import Any

from llm_engine_requests import MODES
from llm_engine_variants import VARIANTS, Measured


def aims(figures: Mapping[str, Any], identical: Mapping[str, bool]) -> list[dict[str, Any]]:
    """What the engine is meant to reach, and what it reached: ``{"aim", "mode", "value", "at_least", "holds"}``."""
    found = []
    for mode in MODES:
        if mode not in figures:
            continue
        speed = {variant: figures[mode][variant]["sentences_per_s"] for variant in VARIANTS}
        steps = {variant: figures[mode][variant]["model_steps"] for variant in VARIANTS}
        fewer = 4.0 if mode == "pos" else 2.0
        for aim, value, least in (
            ("sentences/s of ours_free to reference", speed["ours_free"] / speed["reference"], 2.0),
            ("sentences/s of ours_free to continuous", speed["ours_free"] / speed["continuous"], 1.0),
            ("model steps of ours_grammar to ours_forced", steps["ours_grammar"] / steps["ours_forced"], fewer),
            ("same replies of ours_grammar and ours_forced", float(identical[mode]), 1.0),
            ("sentences/s of ours_forced to reference", speed["ours_forced"] / speed["reference"], 3.0),
        ):
            found.append({"aim": aim, "mode": mode, "value": round(value, 2), "at_least": least, "holds": value >= least})
    return found


def table(figures: Mapping[str, Any]) -> str:
    """Markdown: a table per mode, then the aims."""
    setup, checks = figures["setup"], figures["checks"]
    model = setup["model"]
    lines = [f"{setup['requests']} sentences, {setup['batch_size']} at once, median of {setup['rounds']} rounds; "
             f"{setup['device']}, {setup['threads']} threads; {model['layers']} layers of {model['hidden']}, "
             f"{model['vocabulary']} logits, {model['parameters'] / 1e6:.1f} M parameters, {setup['dtype']}; "
             f"torch {setup['torch']}, transformers {setup['transformers']}, llguidance {setup['llguidance']}"]
    for mode in (mode for mode in MODES if mode in figures):
        replies = checks["replies"][mode]
        lines += ["", f"{mode}: prompts {replies['mean_prompt_tokens']} tokens (most {replies['longest_prompt_tokens']}), "
                  f"replies {replies['mean_reply_tokens']} (most {replies['longest_reply_tokens']}), "
                  f"{replies['mean_items']} items a sentence", "",
                  "| variant | sentences/s | to reference | model steps | to reference | tokens | padding | mask | peak MB |",
                  "| --- | ---: | ---: | ---: | ---: | ---: | ---: | ---: | ---: |"]
        lines += [_row(variant, figures[mode][variant], figures[mode]["reference"]) for variant in VARIANTS]
    lines += ["", "| aim | mode | reached | at least | holds |", "| --- | --- | ---: | ---: | --- |"]
    lines += [f"| {a['aim']} | {a['mode']} | {a['value']:.2f} | {a['at_least']:.0f} | {'yes' if a['holds'] else 'NO'} |"
              for a in checks["aims"]]
    for mode, step in checks.get("step", {}).items():
        lines.append(f"\n{mode}: a step of ours_free takes {1000 * step['step_s']:.1f} ms; reading weights and cache takes "
                     f"at least {1000 * step['bound_s']:.1f} ms ({step['copy_gb_per_s']:.0f} GB/s): {step['ratio']:.2f}x")
    return "\n".join(lines)


def _row(variant: str, own: Mapping[str, Any], base: Mapping[str, Any]) -> str:
    peak = "" if own["peak_mb"] is None else f"{own['peak_mb']:.0f}"
    return (f"| {variant} | {own['sentences_per_s']:.2f} | {own['sentences_per_s'] / base['sentences_per_s']:.2f} "
            f"| {own['model_steps']} | {own['model_steps'] / base['model_steps']:.2f} | {own['tokens']} "
            f"| {own['padding_share']:.1%} | {own['mask_share']:.1%} | {peak} |")


def copy_bandwidth() -> float:
    """Bytes per second that the GPU reads and writes when it copies a gigabyte, the best of ten."""
    import torch

    source = torch.empty(2**30, dtype=torch.uint8, device="cuda")
    target = torch.empty_like(source)
    best = float("inf")
    for _ in range(10):
        torch.cuda.synchronize()
        begin = time.perf_counter()
        target.copy_(source)
        torch.cuda.synchronize()
        best = min(best, time.perf_counter() - begin)
    return 2 * source.numel() / best


def step_bound(network: Any, rounds: Sequence[Measured], bandwidth: float) -> dict[str, float]:
    """Seconds of a step of free decoding, all included, beside the least that reading weights and cache takes.

    Every step reads all weights (of the input embedding a few rows only) and the keys and values of all that the live
    replies hold so far; a reply of n tokens after a prompt of p reads n * (p + n / 2) of them.
    """
    config = network.config.get_text_config()
    unread = network.get_input_embeddings().weight
    weights = sum(p.numel() * p.element_size() for p in network.parameters() if p is not unread)
    heads = config.num_key_value_heads * (config.hidden_size // config.num_attention_heads)
    position = 2 * config.num_hidden_layers * heads * unread.element_size()
    cached = sum(r.completion_tokens * (r.prompt_tokens + r.completion_tokens / 2) for r in rounds[0].replies.values())
    steps = rounds[0].model_steps
    bound = (weights + position * cached / steps) / bandwidth
    step = statistics.median(one.seconds / one.model_steps for one in rounds)
    return {"step_s": step, "bound_s": bound, "ratio": step / bound, "copy_gb_per_s": bandwidth / 1e9}
