"""Step 7: find the target entities in the synthetic sentences with a trained NER model.

Without --model_from_pretrained each size uses the model trained on its own data, so that the small sets learn nothing
from outside them. One given model serves all sizes, which the manifests record. It may be a folder of train_ner.py, a
checkpoint of the reference implementation of KnowFREE, or any token-classification checkpoint of the transformers library.

reads   <save_type_name>/n/train_n_synthetic.jsonl, <save_type_name>/ner/fusion_n/ or --model_from_pretrained
writes  <save_type_name>/n/train_n_synthetic_target.jsonl
run     python syn_pipelines/s7_pred_syn_data.py --file_name=weibo --save_type_name=GLM4
"""

from __future__ import annotations

import os
import re
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from itertools import tee
from pathlib import Path
from typing import TYPE_CHECKING, Any

from syn_pipelines.train_ner import STEP as TRAIN_STEP
from syn_pipelines.train_ner import model_files, weights_of
from syn_pipelines.utils.errors import UserError
from syn_pipelines.utils.fusion import as_entity
from syn_pipelines.utils.journal import lock
from syn_pipelines.utils.jsonl import write_jsonl
from syn_pipelines.utils.labels import read_target_labels
from syn_pipelines.utils.llm.checkpoints import find_checkpoint
from syn_pipelines.utils.llm.ray_cluster import kept_cluster
from syn_pipelines.utils.manifest import Publisher, is_current, read_manifest, warn_of_stale
from syn_pipelines.utils.options import EngineOptions, at_least, command_of, load_options, option
from syn_pipelines.utils.packing import plain_path
from syn_pipelines.utils.paths import SIZES, RunPaths
from syn_pipelines.utils.records import Record, read_sentences
from syn_pipelines.utils.summary import Account, Summary, count_lines, progress, run_script, step_log

if TYPE_CHECKING:
    from syn_pipelines.ner.decoding import Span

    Predict = Callable[[Iterable[Sequence[str]]], Iterator[list[Span]]]

STEP = "s7_pred_syn_data"
# Flags of one run that shape the speed, or nothing.
NOT_IN_COMMAND = ("config", "seed", "n_gpu", "batch_size", "dense_lang", "lang", "engine", "ray_address", "num_workers",
                  "gpus_per_worker", "cpus_per_worker")
_HUB_NAME = re.compile(r"\w[\w.-]*/[\w.-]+")


@dataclass(frozen=True)
class Options(EngineOptions):
    """Options of step 7."""

    from_pretrained: str = option("", "base encoder: gives tokenizer and config where the model folder lacks them")
    model_from_pretrained: str = option("", "trained model for all sizes, a folder or hub name; by default each size uses "
                                        "its own ner/fusion_<size>")
    label_file: str = option("", "label file of a checkpoint of the reference implementation, where its folder holds none")
    batch_size: int = option(4, "sentences a batch", check=at_least(1))
    n_gpu: str = option("0", "index of the GPU; without any GPU the CPU is used")


def settings_of(opts: Options) -> dict[str, Any]:
    """The options that shape the outputs."""
    return {name: getattr(opts, name) for name in ("model_from_pretrained", "from_pretrained", "label_file")}


def model_folder(opts: Options, paths: RunPaths, size: int) -> Path:
    """The model that labels a size."""
    return Path(opts.model_from_pretrained) if opts.model_from_pretrained else paths.ner("fusion", size)


def is_done(opts: Options, paths: RunPaths) -> bool:
    """Whether the target labels of every size are there and up to date."""
    return is_current(paths, {STEP}, settings_of(opts), [paths.sized(size, "train_{n}_synthetic_target") for size in SIZES])


def run(opts: Options) -> Summary:
    """Label all sizes that have synthetic sentences.

    Raises:
        UserError: there are none, a model is missing, or it predicts labels that labels.txt lacks.
    """
    paths = RunPaths.of(opts)
    with step_log(opts, paths) as summary, lock(paths.journals, STEP), kept_cluster():
        sources = {size: paths.sized(size, "train_{n}_synthetic") for size in SIZES}
        present = [size for size in SIZES if os.path.lexists(sources[size])]
        advice = f"Make it with: {paths.command('s2_continous_generation')}, then {paths.command('s4_split_data')}"
        if not present:
            raise UserError(f"{sources[1000]}: does not exist. {advice}")
        for size in SIZES:
            if size not in present:
                summary.warn(f"{sources[size]}: not there, left out. {advice}")
        models = _find_models(opts, paths, present)
        own = () if opts.model_from_pretrained else models.values()  # a given model may come from another run or data set
        summary.warnings += warn_of_stale(paths, [*(sources[size] for size in present), *map(weights_of, own)])
        note = _note(opts, summary)
        files = {size: _model_files(opts, models[size]) for size in present}
        publisher = Publisher(paths, STEP, settings_of(opts), [*sources.values(), *(p for found in files.values() for p in found)],
                              command_of(opts, **dict.fromkeys(NOT_IN_COMMAND)))
        predict, loaded = None, None
        for size in present:
            if models[size] != loaded:
                predict, loaded = _load(opts, paths, models[size]), models[size]
            _label_size(paths, predict, size, files[size], publisher, summary, note)
        publisher.remove_others(paths.sized(size, "train_{n}_synthetic_target") for size in SIZES)
        summary.warnings += warn_of_stale(paths, because_of=map(Path, summary.outputs))
    return summary


def _find_models(opts: Options, paths: RunPaths, sizes: Sequence[int]) -> dict[int, Path]:
    """Model folder by size, a hub's model fetched; UserError names all that are missing with the commands that train them."""
    given = opts.model_from_pretrained
    if _HUB_NAME.fullmatch(given) and not Path(given).exists():
        return dict.fromkeys(sizes, find_checkpoint(given, weights=True))
    models = {size: model_folder(opts, paths, size) for size in sizes}
    absent = [size for size in sizes if not given and not models[size].is_dir()]
    if absent:
        raise UserError("\n".join(f"{models[size]}: there is no such model. "
                                  f"{paths.missing(TRAIN_STEP, train='fusion', size=size)}" for size in absent))
    return models


def _model_files(opts: Options, folder: Path) -> list[Path]:
    """The files that shape the predictions, weights first."""
    return [*(model_files(folder) or [weights_of(folder)]), *([Path(opts.label_file)] if opts.label_file else [])]


def _note(opts: Options, summary: Summary) -> dict[str, str]:
    """What the manifests say about a model that serves all sizes."""
    if not opts.model_from_pretrained:
        return {}
    text = (f"{opts.model_from_pretrained} labels all sizes; the smaller sets may learn from it what their own data do "
            "not hold.")
    summary.warn(text)
    return {"warning": text}


def _load(opts: Options, paths: RunPaths, folder: Path) -> Predict:
    """The model of a folder as a function from sentences to their entities, in order; with Ray, workers load it."""
    from syn_pipelines.ner.prediction import choose_device
    from syn_pipelines.ner.prediction_pool import NerWork, load_predictor, predicted

    base = opts.from_pretrained if opts.from_pretrained != "scratch" else ""
    known = tuple(read_target_labels(paths.labels))
    if opts.engine == "ray":
        work = NerWork(folder.absolute(), base, opts.label_file, known, paths.labels, opts.batch_size)
        return lambda sentences: predicted(opts, work, sentences)
    predictor = load_predictor(folder, base, choose_device(opts.n_gpu), opts.label_file, known, paths.labels)
    return lambda sentences: predictor(sentences, opts.batch_size)


def _label_size(paths: RunPaths, predict: Predict, size: int, model: Sequence[Path], publisher: Publisher, summary: Summary,
                note: dict[str, str]) -> None:
    source, output = paths.sized(size, "train_{n}_synthetic"), paths.sized(size, "train_{n}_synthetic_target")
    counts: Counter[str] = Counter()
    output = paths.to_write(output)
    count, digest = write_jsonl(output, _rows(paths, source, predict, counts))
    complete = all(read_manifest(path).get("complete") is not False for path in (source, model[0]))
    publisher.publish(output, digest, {"sentences": count, "entities": counts["entities"]}, complete=complete,
                      inputs=[source, *model], **note)
    summary.outputs[str(output)] = count
    summary.accounts.append(Account(f"synthetic sentences ({size})", count, {
        "with target entities": counts["with"], "without": count - counts["with"]}))
    summary.notes.append(f"{counts['entities']:,} target entities in the {size} set")


def _rows(paths: RunPaths, source: Path, predict: Predict, counts: Counter[str]) -> Iterator[Record]:
    """The synthetic sentences with the predicted entities in place of theirs, which are none."""
    rows, ahead = tee(read_sentences(source, may_be_empty=True, advice=paths.missing("s4_split_data")))
    predictions = predict(row["text"] for row in ahead)
    for spans, row in progress(zip(predictions, rows), total=count_lines(source), what=plain_path(source).stem, unit="sentence"):
        counts["entities"] += len(spans)
        counts["with"] += bool(spans)
        yield {**row, "entities": [as_entity(row["text"], (span.start, span.end), span.label) for span in spans]}


def main(cmd_args: bool | Sequence[str] = True, **overrides: Any) -> Summary:
    """Run the step from the command line, or with keywords only (``cmd_args=False``)."""
    return run(load_options(Options, cmd_args, overrides))


if __name__ == "__main__":
    run_script(main)
