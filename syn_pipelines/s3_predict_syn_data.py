"""Step 3: the language model adds extension labels to the synthetic sentences, as step 1 does to the originals.

reads   data/few_shot/<file_name>/<save_type_name>/train_1000_synthetic.jsonl
writes  data/few_shot/<file_name>/<save_type_name>/{entity,pos}_train_1000_synthetic.jsonl
run     python syn_pipelines/s3_predict_syn_data.py --file_name=weibo --model_from_pretrained=MODEL --mode=entity
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from syn_pipelines.utils.annotate import annotate, source_lineage
from syn_pipelines.utils.dry_run import Plan, result_of
from syn_pipelines.utils.language import language_of
from syn_pipelines.utils.manifest import read_manifest, warn_of_stale
from syn_pipelines.utils.options import LabelOptions, at_least, between, load_options, option
from syn_pipelines.utils.paths import MODES, RunPaths
from syn_pipelines.utils.records import read_sentences, read_train
from syn_pipelines.utils.source import Source
from syn_pipelines.utils.summary import Summary, run_script, step_log


@dataclass(frozen=True)
class Options(LabelOptions):
    """Options of step 3."""

    batch_size: int = option(20, "prompts that a local model answers side by side", check=at_least(1))
    mode: str = option("entity", "what to ask for", choices=MODES)
    temperature: float = option(0.0, "sampling temperature; 0: greedy", check=between(0, 10))


def run(opts: Options) -> Summary:
    """Ask about every synthetic sentence and publish the annotations."""
    paths = RunPaths.of(opts)
    with step_log(opts, paths) as summary:
        renew = paths.missing("s2_continous_generation")
        source = Source(paths.synthetic, lambda: read_sentences(paths.synthetic, missing=renew, may_be_empty=True, advice=renew))
        source.check()
        summary.warnings += warn_of_stale(paths, [paths.synthetic])
        if read_manifest(paths.synthetic).get("complete") is False:
            summary.warn(f"{paths.synthetic}: not complete yet; more sentences can be added by step 2 and asked later.")
        # The language is that of the data set: a handful of synthetic sentences may look otherwise.
        language = language_of(opts, (s["text"] for s in read_train(paths)))
        annotate(opts, paths, source, language, mode=opts.mode, output=paths.annotation(opts.mode, synthetic=True),
                 temperature=opts.temperature, lineage=source_lineage(paths.synthetic), summary=summary)
    return summary


def main(cmd_args: bool | Sequence[str] = True, **overrides: Any) -> Summary | Plan:
    """Run the step from the command line, or with keywords only (``cmd_args=False``). A dry run gives its plan."""
    return result_of(run(load_options(Options, cmd_args, overrides)), cmd_args)


if __name__ == "__main__":
    run_script(main)
