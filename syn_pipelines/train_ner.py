"""Train the NER model of step 7: a span model on gold labels alone, or with extension labels beside them.

Extension labels are learned with a lower weight and never predicted. dev.jsonl, where there is one, chooses the weights
that are kept; without it the last ones stay. On one machine the same data and options give the same model (with
a pretrained encoder: and the same number of threads).

reads   <save_type_name>/n/train_n_fusion.jsonl and label_fusion.json (--train=fusion), n/train_n.jsonl and labels.txt
        (gold; at size 1000 train_1000.jsonl of the data set will do), n/train_n_syn_fusion.jsonl and
        label_syn_fusion.json (syn_fusion); dev.jsonl
writes  <save_type_name>/ner/<train>_<size>/, or --output_dir
run     python syn_pipelines/train_ner.py --file_name=weibo --save_type_name=GLM4 --train=fusion --size=1000
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from syn_pipelines.ner.data import LabelSet, Sentence
from syn_pipelines.utils.journal import lock
from syn_pipelines.utils.jsonl import file_hash, open_input
from syn_pipelines.utils.manifest import Publisher, is_current, read_manifest, warn_of_stale
from syn_pipelines.utils.options import TextOptions, command_of, load_options, option
from syn_pipelines.utils.paths import SIZES, RunPaths
from syn_pipelines.utils.records import read_sentences
from syn_pipelines.utils.summary import Account, Summary, run_script, step_log

if TYPE_CHECKING:
    from syn_pipelines.ner.training import TrainResult

STEP = "train_ner"
MADE_BY = {"gold": "s4_split_data", "fusion": "s5_merge_data", "syn_fusion": "s8_process_label_and_combine"}


def is_size(value: int) -> str:
    """Check: one of the sizes step 4 cuts."""
    return "" if value in SIZES else f"is none of {', '.join(map(str, SIZES))}"


def given_or_auto(value: int) -> str:
    """Check: -1 (not given) or a number from 1 on."""
    return "" if value == -1 or value >= 1 else "must be -1 (chosen by the amount of data) or at least 1"


@dataclass(frozen=True)
class Options(TextOptions):
    """Options of the NER training."""

    size: int = option(1000, "size of the training set: 250, 500 or 1000", check=is_size)
    train: str = option("fusion", "training set", choices=("fusion", "gold", "syn_fusion"))
    from_pretrained: str = option("scratch", "encoder: scratch, a local folder or a hub name")
    epochs: int = option(-1, "passes over the training set; -1: chosen by the amount of data", check=given_or_auto)
    max_steps: int = option(-1, "training steps at most; -1: chosen by the amount of data", check=given_or_auto)
    output_dir: str = option("", "folder of the model, <save_type_name>/ner/<train>_<size> by default")
    n_gpu: str = option("0", "index of the GPU; without any GPU the CPU is used")


@dataclass(frozen=True)
class Inputs:
    """Files of one training. dev may be absent."""

    train: Path
    labels: Path
    dev: Path
    missing: str

    @classmethod
    def of(cls, opts: Options, paths: RunPaths) -> Inputs:
        missing = paths.missing(MADE_BY[opts.train])
        if opts.train == "gold":
            train = paths.sized(opts.size, "train_{n}")
            if opts.size == 1000 and not train.is_file():
                train = paths.train  # the full size is the whole file, whether or not it has been cut
            return cls(train, paths.labels, paths.split("dev"), missing)
        train = paths.sized(opts.size, f"train_{{n}}_{opts.train}")
        return cls(train, paths.label_file(opts.train), paths.split("dev"), missing)

    @property
    def paths(self) -> list[Path]:
        return [self.train, self.labels, self.dev]


def weights_path(folder: Path) -> Path:
    """The file of a model folder whose manifest speaks for the model."""
    return folder / "model.safetensors"


def model_folder(opts: Options, paths: RunPaths) -> Path:
    """Where the model goes."""
    return Path(opts.output_dir) if opts.output_dir else paths.ner(opts.train, opts.size)


def settings_of(opts: Options) -> dict[str, Any]:
    """The options that shape the model."""
    return {name: getattr(opts, name) for name in ("train", "size", "from_pretrained", "epochs", "max_steps", "seed")}


def is_done(opts: Options, paths: RunPaths) -> bool:
    """Whether this very model is there, made from the data as they are now."""
    return is_current(paths, {STEP}, settings_of(opts), [weights_path(model_folder(opts, paths))])


def run(opts: Options) -> Summary:
    """Train one model, unless it is there already."""
    paths = RunPaths.of(opts)
    folder, inputs = model_folder(opts, paths), Inputs.of(opts, paths)
    with step_log(opts, paths) as summary, lock(paths.journals, f"{STEP}_{opts.train}_{opts.size}"):
        if is_done(opts, paths):
            summary.up_to_date = True
            summary.outputs[str(folder)] = 1
            return summary
        publisher = Publisher(paths, STEP, settings_of(opts), inputs.paths,
                              command_of(opts, config=None, n_gpu=None, dense_lang=None, lang=None))
        sentences, dev, labels = read_inputs(inputs)
        summary.warnings += warn_of_stale(paths, inputs.paths)
        summary.accounts.append(_account(sentences, labels))
        result = _train(opts, sentences, dev, labels, folder)
        _tell(summary, result)
        counts = {"sentences": len(sentences), "dev_sentences": len(dev), "steps": result.steps,
                  "kept_step": result.best_step}
        scores = {"dev_f1": round(result.dev.micro.f1, 2)} if result.dev else {}
        complete = read_manifest(inputs.train).get("complete") is not False
        publisher.publish(weights_path(folder), file_hash(weights_path(folder)) or "", counts, complete=complete, **scores)
        summary.outputs[str(folder)] = 1
        summary.warnings += warn_of_stale(paths, because_of=[weights_path(folder)])
    return summary


def read_inputs(inputs: Inputs) -> tuple[list[Sentence], list[Sentence], LabelSet]:
    """Training sentences, dev sentences (none without the file) and labels; UserError names what is wrong."""
    open_input(inputs.train, inputs.missing).close()  # of two missing files, the data are the one to name
    labels = LabelSet.read(inputs.labels, inputs.missing)
    targets = labels.targets if inputs.labels.suffix != ".json" else None
    sentences = [Sentence.from_record(r) for r in read_sentences(inputs.train, targets=targets, missing=inputs.missing)]
    dev = []
    if inputs.dev.is_file():
        dev = [Sentence.from_record(row) for row in read_sentences(inputs.dev, targets=labels.targets)]
    return sentences, dev, labels


def _account(sentences: Sequence[Sentence], labels: LabelSet) -> Account:
    targets = set(labels.targets)
    with_targets = sum(any(label in targets for _, _, label in s.entities) for s in sentences)
    return Account("training sentences", len(sentences), {
        "with target entities": with_targets, "without": len(sentences) - with_targets})


def _train(opts: Options, sentences: Sequence[Sentence], dev: Sequence[Sentence], labels: LabelSet,
           folder: Path) -> TrainResult:
    from syn_pipelines.ner.prediction import choose_device
    from syn_pipelines.ner.storage import refuse_foreign
    from syn_pipelines.ner.training import TrainConfig, train_model

    refuse_foreign(folder)  # now, not when the training is over
    config = TrainConfig(epochs=max(0, opts.epochs), max_steps=max(0, opts.max_steps), seed=opts.seed,
                         device=choose_device(opts.n_gpu))
    model, result = train_model(sentences, labels, config, dev=dev, encoder=opts.from_pretrained)
    model.save(folder)
    return result


def _tell(summary: Summary, result: TrainResult) -> None:
    if result.dev is None:
        summary.notes.append(f"{result.steps} steps, the last weights kept")
        return
    summary.notes.append(f"{result.steps} steps, the weights of step {result.best_step} kept: dev F1 "
                         f"{result.dev.micro.f1:.1f} (strict)")


def main(cmd_args: bool | Sequence[str] = True, **overrides: Any) -> Summary:
    """Run the training from the command line, or with keywords only (``cmd_args=False``)."""
    return run(load_options(Options, cmd_args, overrides))


if __name__ == "__main__":
    run_script(main)
