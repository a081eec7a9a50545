"""Train the NER model of step 7: a span model on gold labels alone, or with extension labels beside them.

Extension labels are learned with a weight of their own and never predicted. dev.jsonl, where there is one, chooses the
weights that are kept; without it the last ones stay. On one machine the same data and options give the same model (with
a pretrained encoder: and the same number of threads). A training that was stopped goes on where it was when the same
command is given again, and ends with the same model. Several GPUs: accelerate launch syn_pipelines/train_ner.py ...

reads   <save_type_name>/n/train_n_fusion.jsonl and label_fusion.json (--train=fusion), n/train_n.jsonl and labels.txt
        (gold; at size 1000 train_1000.jsonl of the data set will do), n/train_n_syn_fusion.jsonl and
        label_syn_fusion.json (syn_fusion); dev.jsonl
writes  <save_type_name>/ner/<train>_<size>/, or --output_dir; beside it .log.jsonl, .checkpoint until it is
        done, and .lock beside an --output_dir;
        --export_hf, a copy with a README.md that loads with NerPredictor.from_pretrained
run     python syn_pipelines/train_ner.py --file_name=weibo --save_type_name=GLM4 --train=fusion --size=1000
"""

from __future__ import annotations

import logging
import os
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from syn_pipelines.ner.data import LabelSet, Sentence, unknown_labels
from syn_pipelines.ner.side_files import has_checkpoint, refuse_foreign_side_files, remove_checkpoint
from syn_pipelines.ner.team import is_helper
from syn_pipelines.ner.train_config import FORMAT_VERSION, LABEL_WEIGHTINGS, TrainConfig, drop_labels, learned
from syn_pipelines.utils.errors import UserError
from syn_pipelines.utils.journal import lock
from syn_pipelines.utils.jsonl import file_hash, open_input
from syn_pipelines.utils.labels import read_target_labels
from syn_pipelines.utils.manifest import Publisher, is_current, read_manifest, warn_of_stale
from syn_pipelines.utils.options import TextOptions, at_least, between, command_of, load_options, option
from syn_pipelines.utils.paths import SIZES, RunPaths, manifest_path
from syn_pipelines.utils.records import read_sentences
from syn_pipelines.utils.summary import Account, Summary, run_script, step_log

if TYPE_CHECKING:
    from syn_pipelines.ner.model import NerModel
    from syn_pipelines.ner.training import TrainResult

STEP = "train_ner"
# Files that may speak for the weights of a folder; of weights in parts the index does.
WEIGHTS = ("model.safetensors", "pytorch_model.bin", "model.safetensors.index.json", "pytorch_model.bin.index.json")
MADE_BY = {"gold": "s4_split_data", "fusion": "s5_merge_data", "syn_fusion": "s8_process_label_and_combine"}


def is_size(value: int) -> str:
    """Check: one of the sizes step 4 cuts."""
    return "" if value in SIZES else f"is none of {', '.join(map(str, SIZES))}"


def given_or_auto(value: int) -> str:
    """Check: -1 (not given) or a number from 1 on."""
    return "" if value == -1 or value >= 1 else "must be -1 (chosen by the amount of data) or at least 1"


def above_zero(value: float) -> str:
    """Check: a number above 0."""
    return "" if value > 0 else "must be above 0"


def weight_or_auto(value: float) -> str:
    """Check: -1 (not given) or a weight."""
    return "" if value == -1 or value >= 0 else "must be -1 (the default weight) or at least 0"


@dataclass(frozen=True)
class Options(TextOptions):
    """Options of the NER training."""

    size: int = option(1000, "size of the training set: 250, 500 or 1000", check=is_size)
    train: str = option("fusion", "training set", choices=("fusion", "gold", "syn_fusion"))
    from_pretrained: str = option("scratch", "encoder: scratch, a local folder or a hub name")
    epochs: int = option(-1, "passes over the training set; -1: chosen by the amount of data", check=given_or_auto)
    max_steps: int = option(-1, "training steps at most; -1: chosen by the amount of data", check=given_or_auto)
    train_batch_size: int = option(TrainConfig.batch_size, "sentences of a step, on all GPUs together", check=at_least(1))
    lr: float = option(TrainConfig.lr, "highest learning rate of a model trained from nothing", check=above_zero)
    encoder_lr: float = option(TrainConfig.encoder_lr, "highest learning rate of a pretrained encoder", check=above_zero)
    head_lr: float = option(TrainConfig.head_lr, "highest learning rate of the head over a pretrained encoder",
                            check=above_zero)
    warmup: float = option(TrainConfig.warmup, "steps in which the rates rise; below 1: as a share of all steps",
                           check=at_least(0))
    weight_decay: float = option(TrainConfig.weight_decay, "weight decay; biases and norms have none", check=at_least(0))
    clip: float = option(TrainConfig.clip, "longest gradient", check=above_zero)
    ext_weight: float = option(-1.0, "loss weight of extension labels, a target label has 1; -1: 0.1, or 1 with "
                               "--label_weighting=count", check=weight_or_auto)
    syn_weight: float = option(-1.0, "loss weight of synthetic sentences, 0: they are left out; -1: 1", check=weight_or_auto)
    label_weighting: str = option(TrainConfig.label_weighting, "weights of single extension labels: balanced: frequent "
                                  "ones less; count: by the counts of the label file, as in the paper's code; none: all "
                                  "the same", choices=LABEL_WEIGHTINGS)
    swap: float = option(TrainConfig.swap, "share of the words and mentions that are exchanged, anew in each step, for "
                         "others with the same labels; 0: none", check=between(0, 1))
    drop_labels: str = option("", "extension labels to leave out: NOUN,VERB")
    evaluations: int = option(TrainConfig.evaluations, "how often the dev data are scored", check=at_least(1))
    patience: int = option(TrainConfig.patience, "evaluations without a better dev F1 that end the training; 0: none does",
                           check=at_least(0))
    bf16: bool = option(TrainConfig.bf16, "on a GPU, compute in bfloat16 (weights and loss stay in float32)")
    keep_last: bool = option(False, "also save the weights of the last step, in a folder named ..._last")
    tensorboard: bool = option(False, "write TensorBoard files, in a folder named ....tensorboard")
    restart: bool = option(False, "begin anew instead of going on with a training that was stopped")
    output_dir: str = option("", "folder of the model, <save_type_name>/ner/<train>_<size> by default")
    export_hf: str = option("", "folder for a copy of the model with a model card, to hand on")
    n_gpu: str = option("0", "index of the GPU; without any GPU the CPU is used")


@dataclass(frozen=True)
class Inputs:
    """Files of one training. dev may be absent; encoder: the files of a local base encoder.

    targets: labels.txt, which the label file must agree with. missing: what makes train and labels.
    """

    train: Path
    labels: Path
    dev: Path
    targets: Path
    missing: str
    encoder: Sequence[Path] = ()

    @classmethod
    def of(cls, opts: Options, paths: RunPaths) -> Inputs:
        missing = paths.missing(MADE_BY[opts.train])
        labels = paths.labels if opts.train == "gold" else paths.label_file(opts.train)
        train = paths.sized(opts.size, "train_{n}" if opts.train == "gold" else f"train_{{n}}_{opts.train}")
        if opts.train == "gold" and opts.size == 1000 and not train.is_file():
            train, missing = paths.train, paths.missing_train  # the full size is the whole file, cut or not
        encoder = [] if opts.from_pretrained == "scratch" else model_files(Path(opts.from_pretrained))
        return cls(train, labels, paths.split("dev"), paths.labels, missing, encoder)

    @property
    def paths(self) -> list[Path]:
        return [self.train, self.labels, self.dev, *self.encoder]


def weights_path(folder: Path) -> Path:
    """The file of a model folder whose manifest speaks for the model."""
    return folder / "model.safetensors"


def weights_of(folder: Path) -> Path:
    """The file that speaks for the weights of any model; where there is none, the one that is missing."""
    return next((folder / name for name in WEIGHTS if (folder / name).is_file()), weights_path(folder))


def model_files(folder: Path) -> list[Path]:
    """The files of a model that shape what it predicts: weights, configuration, labels, tokenizer. [] without a folder."""
    if not folder.is_dir():
        return []
    others = [path for path in sorted(folder.iterdir()) if path.suffix in (".json", ".txt", ".model") and path.is_file()]
    return [weights_of(folder), *(p for p in others if p.name not in WEIGHTS and not p.name.endswith(".manifest.json"))]


def _hashes(folder: Path) -> dict[str, str | None]:
    """sha256 of every file of a model folder, its manifest aside."""
    files = (path for path in sorted(folder.rglob("*")) if path.is_file() and path != manifest_path(weights_path(folder)))
    return {path.relative_to(folder).as_posix(): file_hash(path) for path in files}


def model_folder(opts: Options, paths: RunPaths) -> Path:
    """Where the model goes."""
    return Path(opts.output_dir) if opts.output_dir else paths.ner(opts.train, opts.size)


def last_folder(folder: Path) -> Path:
    """Where the weights of the last step go, when they are wanted."""
    return folder.with_name(folder.name + "_last")


# Options of the script by the name that the training has for them, where it is another.
TRAINING = {"batch_size": "train_batch_size"}
SHAPING = ("lr", "encoder_lr", "head_lr", "warmup", "weight_decay", "clip", "ext_weight", "syn_weight", "label_weighting",
           "swap", "evaluations", "patience", "bf16", "seed", "batch_size")


def settings_of(opts: Options) -> dict[str, Any]:
    """The options that shape the model."""
    names = ("train", "size", "from_pretrained", "epochs", "max_steps", "drop_labels", "dense_lang",
             *(TRAINING.get(name, name) for name in SHAPING))
    return {**{name: getattr(opts, name) for name in names}, "format_version": FORMAT_VERSION}


def train_config(opts: Options, device: str) -> TrainConfig:
    """The options of the training itself."""
    return TrainConfig(epochs=max(0, opts.epochs), max_steps=max(0, opts.max_steps), device=device,
                       keep_last=opts.keep_last, **{name: getattr(opts, TRAINING.get(name, name)) for name in SHAPING})


def is_done(opts: Options, paths: RunPaths) -> bool:
    """Whether this very model is there, and its training has left nothing that ``run`` would take away."""
    return _is_made(opts, paths) and not has_checkpoint(model_folder(opts, paths))


def _is_made(opts: Options, paths: RunPaths) -> bool:
    """Whether this very model is there, with all its files, made from the data as they are now."""
    folder = model_folder(opts, paths)
    wanted = [folder, last_folder(folder)] if opts.keep_last else [folder]
    return (is_current(paths, {STEP}, settings_of(opts), [weights_path(path) for path in wanted])
            and all(read_manifest(weights_path(path)).get("files") == _hashes(path) for path in wanted))


def run(opts: Options) -> Summary:
    """Train one model, unless it is there already."""
    paths = RunPaths.of(opts)
    if is_helper():
        return _help(opts, paths)
    folder, inputs = model_folder(opts, paths), Inputs.of(opts, paths)
    for name in ("output_dir", "export_hf"):
        given = getattr(opts, name)
        if given and Path(given).name in ("", ".."):  # "." and the like: a whole folder is renamed when it is complete
            raise UserError(f"--{name}={given}: names no folder of its own. Give the path of a new folder.")
    _check_export(opts, folder)
    with step_log(opts, paths) as summary, lock(*lock_of(folder, paths)):
        if _is_made(opts, paths):
            remove_checkpoint(folder)  # a kill may have come between the model and this
            summary.up_to_date = True
            summary.outputs[str(folder)] = 1
            _export(opts, folder, summary)
            return summary
        publisher = Publisher(paths, STEP, settings_of(opts), inputs.paths, command_of(
            opts, config=None, n_gpu=None, lang=None, restart=None, tensorboard=None, export_hf=None))
        sentences, dev, labels = read_inputs(inputs, opts)
        summary.warnings += warn_of_stale(paths, inputs.paths)
        used = learned(sentences, train_config(opts, "cpu"))
        summary.accounts.append(_account(len(sentences), used, labels))
        model, result = _train(opts, sentences, dev, labels, folder)
        _tell(summary, result)
        counts = {"sentences": len(used), "dev_sentences": len(dev), "steps": result.steps}
        complete = read_manifest(inputs.train).get("complete") is not False
        for path, kept, scores in _save(model, result, folder):
            publisher.publish(weights_path(path), file_hash(weights_path(path)) or "", {**counts, "kept_step": kept},
                              complete=complete, **scores, files=_hashes(path))
            summary.outputs[str(path)] = 1
        remove_checkpoint(folder)
        _export(opts, folder, summary)
        summary.warnings += warn_of_stale(paths, because_of=[weights_path(folder)])
    return summary


def _check_export(opts: Options, folder: Path) -> None:
    """UserError where the copy would take the place of a model, or go with one that is replaced."""
    if not opts.export_hf:
        return
    copy = Path(opts.export_hf).resolve()
    if any(copy.is_relative_to(own.resolve()) for own in (folder, last_folder(folder))):
        raise UserError(f"--export_hf={opts.export_hf}: is in the model's own folder. Name another one for the copy.")
    if read_manifest(weights_path(copy)).get("step") == STEP:
        raise UserError(f"--export_hf={opts.export_hf}: holds a model that was trained there. Name another folder for the copy.")


def lock_of(folder: Path, paths: RunPaths) -> tuple[Path, str]:
    """Folder and name of the lock: one training at a time works on a model folder, whichever run it belongs to."""
    folder = folder.resolve()
    if folder.parent == paths.ner("", 0).parent.resolve():
        return paths.journals, f"{STEP}_{folder.name}"
    return folder.parent, folder.name


def _help(opts: Options, paths: RunPaths) -> Summary:
    """The part of a process that only shares the computing: it reads, trains, and writes nothing."""
    logging.getLogger("syn_pipelines").setLevel(logging.ERROR)
    if not _is_made(opts, paths):
        _train(opts, *read_inputs(Inputs.of(opts, paths), opts), model_folder(opts, paths))
    return Summary(STEP)


def read_inputs(inputs: Inputs, opts: Options) -> tuple[list[Sentence], list[Sentence], LabelSet]:
    """Training sentences, dev sentences (none without the file) and labels, without those of ``--drop_labels``.

    Raises:
        UserError: names what is wrong.
    """
    open_input(inputs.train, inputs.missing).close()  # of two missing files, the data are the one to name
    labels = LabelSet.read(inputs.labels, inputs.missing)
    targets = labels.targets if inputs.labels.suffix != ".json" else None
    if targets is None and inputs.targets.is_file() and set(labels.targets) != set(read_target_labels(inputs.targets)):
        raise UserError(f"{inputs.labels}: its target labels ({', '.join(labels.targets)}) are not those of {inputs.targets} "
                        f"({', '.join(read_target_labels(inputs.targets))}): it is of other data. {inputs.missing}")
    sentences = [Sentence.from_record(r) for r in read_sentences(inputs.train, targets=targets, missing=inputs.missing)]
    if unknown := unknown_labels(sentences, labels):
        label, count = unknown.most_common(1)[0]
        raise UserError(f"{inputs.train}: holds {count} spans of {label!r}, which is not in the label set of {inputs.labels}. "
                        f"Train with the label file that belongs to these data. {inputs.missing}")
    dev = []
    if os.path.lexists(inputs.dev):  # a link to nothing is told, not taken for none
        dev = [Sentence.from_record(row) for row in read_sentences(inputs.dev, targets=labels.targets)]
    names = [name.strip() for name in opts.drop_labels.split(",") if name.strip()]
    try:
        sentences, labels = drop_labels(sentences, labels, names)
    except UserError as error:
        raise UserError(f"--drop_labels: {error}") from None
    return sentences, dev, labels


def _account(total: int, used: Sequence[Sentence], labels: LabelSet) -> Account:
    """used: of all ``total`` sentences those that the training learns from."""
    targets = set(labels.targets)
    with_targets = sum(any(label in targets for _, _, label in s.entities) for s in used)
    parts = {"with target entities": with_targets, "without": len(used) - with_targets}
    left_out = {"left out (without text, or synthetic ones of weight 0)": total - len(used)} if total > len(used) else {}
    return Account("training sentences", total, parts | left_out)


def _train(opts: Options, sentences: Sequence[Sentence], dev: Sequence[Sentence], labels: LabelSet,
           folder: Path) -> tuple[NerModel, TrainResult]:
    from syn_pipelines.ner.prediction import choose_device
    from syn_pipelines.ner.storage import refuse_foreign
    from syn_pipelines.ner.training import train_model

    export = [Path(opts.export_hf)] if opts.export_hf else []
    for path in (folder, *([last_folder(folder)] if opts.keep_last else []), *export):
        refuse_foreign(path)  # now, not when the training is over
    refuse_foreign_side_files(folder)
    return train_model(sentences, labels, train_config(opts, choose_device(opts.n_gpu)), dev=dev,
                       encoder=opts.from_pretrained, output=folder, tensorboard=opts.tensorboard, restart=opts.restart,
                       dense=None if opts.dense_lang == "auto" else opts.dense_lang == "1")


def _save(model: NerModel, result: TrainResult, folder: Path) -> Iterator[tuple[Path, int, dict[str, float]]]:
    """Write the best model, and the last one where it was kept: folder, step, scores of each."""
    model.save(folder)
    yield folder, result.best_step, {"dev_f1": round(result.dev.micro.f1, 2)} if result.dev else {}
    if result.last:
        model.load_state_dict(result.last)
        model.threshold = result.last_threshold
        model.save(last_folder(folder))
        f1 = result.history[-1]["dev_f1"]
        yield last_folder(folder), result.steps, {} if f1 is None else {"dev_f1": round(f1, 2)}


def _export(opts: Options, folder: Path, summary: Summary) -> None:
    """The copy that ``--export_hf`` asks for."""
    if not opts.export_hf:
        return
    from syn_pipelines.ner.export import export_hf
    from syn_pipelines.ner.model import NerModel

    score = read_manifest(weights_path(folder)).get("dev_f1")
    export_hf(NerModel.load(folder), opts.export_hf, scores={} if score is None else {"strict F1 on dev": score})
    summary.outputs[opts.export_hf] = 1


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
