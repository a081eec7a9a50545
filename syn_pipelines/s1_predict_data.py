"""Step 1: the language model adds extension labels to the original sentences.

--mode entity asks for entities of any type, --mode pos for words with part-of-speech tags; run it once for each. A run
that was stopped goes on where it stopped; finished sentences are never asked again.

reads   data/few_shot/<file_name>/train_1000.jsonl
writes  data/few_shot/<file_name>/<save_type_name>/{entity,pos}_train_1000.jsonl
run     python syn_pipelines/s1_predict_data.py --file_name=weibo --model_from_pretrained=MODEL --mode=entity
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from syn_pipelines.utils.annotate import annotate
from syn_pipelines.utils.dry_run import Plan, result_of
from syn_pipelines.utils.language import language_of
from syn_pipelines.utils.options import LabelOptions, at_least, between, load_options, option
from syn_pipelines.utils.paths import MODES, RunPaths
from syn_pipelines.utils.records import read_train
from syn_pipelines.utils.source import Source
from syn_pipelines.utils.summary import Summary, run_script, step_log


@dataclass(frozen=True)
class Options(LabelOptions):
    """Options of step 1."""

    batch_size: int = option(20, "prompts that a local model answers side by side", check=at_least(1))
    mode: str = option("entity", "what to ask for", choices=MODES)
    temperature: float = option(0.0, "sampling temperature; 0: greedy", check=between(0, 10))


def run(opts: Options) -> Summary:
    """Ask about every sentence of train_1000.jsonl and publish the annotations."""
    paths = RunPaths.of(opts)
    with step_log(opts, paths) as summary:
        source = Source(paths.train, lambda: read_train(paths))
        language = language_of(opts, (s["text"] for s in source))
        source.check()
        annotate(opts, paths, source, language, mode=opts.mode, output=paths.annotation(opts.mode, synthetic=False),
                 temperature=opts.temperature, lineage="", summary=summary)
    return summary


def main(cmd_args: bool | Sequence[str] = True, **overrides: Any) -> Summary | Plan:
    """Run the step from the command line, or with keywords only (``cmd_args=False``). A dry run gives its plan."""
    return result_of(run(load_options(Options, cmd_args, overrides)), cmd_args)


if __name__ == "__main__":
    run_script(main)
