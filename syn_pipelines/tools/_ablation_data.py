"""The data of an ablation: what is missing, what each training set holds, and what makes its figures doubtful."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field

from syn_pipelines import train_ner
from syn_pipelines.ner.train_config import label_weights, learned, with_weights
from syn_pipelines.utils.errors import UserError, did_you_mean
from syn_pipelines.utils.jsonl import file_hash
from syn_pipelines.utils.labels import read_target_labels
from syn_pipelines.utils.manifest import read_manifest
from syn_pipelines.utils.paths import RunPaths
from syn_pipelines.utils.records import read_sentences, read_train

STEP_7 = "s7_pred_syn_data"
ALL = "all"


def check_files(paths: RunPaths, trainings: Iterable[train_ner.Options]) -> None:
    """UserError that names every file that is missing, each with the command that makes it."""
    wanted = {paths.train: paths.missing_train, paths.labels: paths.missing_train}
    wanted |= {paths.split(name): f"The ablation needs it: dev chooses the weights, test gives the figures. Add it, or cut "
               f"it off with: {paths.prepare}" for name in ("dev", "test")}
    for training in trainings:
        inputs = train_ner.Inputs.of(training, paths)
        wanted |= {path: inputs.missing for path in (inputs.train, inputs.labels) if path not in wanted}
    absent = [f"{path}: does not exist. {advice}" for path, advice in wanted.items() if not path.is_file()]
    if absent:
        raise UserError("\n".join(absent))


def file_hashes(paths: RunPaths, training: train_ner.Options) -> dict[str, str | None]:
    """sha256 of every file on which the scores of a training depend, by its role."""
    inputs = train_ner.Inputs.of(training, paths)
    files = {"train": inputs.train, "labels": inputs.labels, "dev": inputs.dev, "test": paths.split("test"),
             "targets": paths.labels, **{f"encoder {path.name}": path for path in inputs.encoder}}
    return {role: file_hash(path) for role, path in files.items()}


def new_sentences(paths: RunPaths) -> tuple[list[int], int]:
    """Numbers of the test sentences whose text does not stand in train_1000.jsonl, and the number of all.

    Raises:
        UserError: there is no such sentence, or none of them has an entity, so that nothing can be measured.
    """
    seen = {tuple(row["text"]) for row in read_train(paths, again=True)}
    test = paths.split("test")
    rows = list(read_sentences(test, targets=read_target_labels(paths.labels)))
    new = [k for k, row in enumerate(rows) if tuple(row["text"]) not in seen]
    if not any(rows[k]["entities"] for k in new):
        raise UserError(f"{test}: of its {len(rows)} sentences {len(new)} do not stand in {paths.train.name}, and none of "
                        "these has an entity: nothing can be measured. Give it sentences that are not in the training set.")
    return new, len(rows)


@dataclass
class Material:
    """What one training set holds. spans: of the extension labels; weights: their loss weights. mark: what makes figures
    doubtful, "" for nothing."""

    name: str
    sentences: int
    targets: tuple[str, ...]
    spans: Counter[str]
    weights: dict[str, float]
    mark: str = ""
    warnings: list[str] = field(default_factory=list)

    @classmethod
    def read(cls, paths: RunPaths, training: train_ner.Options) -> Material:
        """Read and check a training set with its labels.

        Raises:
            UserError: names what is wrong with the files.
        """
        inputs = train_ner.Inputs.of(training, paths)
        sentences, _, labels = train_ner.read_inputs(inputs, training)
        config = with_weights(train_ner.train_config(training, "cpu"))
        used = learned(sentences, config)
        weights = label_weights(used, labels, config.ext_weight, config.label_weighting)
        spans = Counter(label for s in used for _, _, label in s.entities if label in labels.extensions)
        found = cls(f"{training.train} {training.size}", len(sentences), labels.targets, spans, dict(zip(labels.names, weights)))
        if training.train == "syn_fusion":
            synthetic = sum(s.synthetic for s in sentences)
            found.mark = step_7_mark(paths, training.size) if synthetic else ""
            if not synthetic:
                found.warnings.append(f"{inputs.train}: holds no synthetic sentence, so it is no more than fusion. Make them "
                                      f"with: {found.renewal(paths)}")
        found._add_warnings(paths, inputs)
        return found

    def renewal(self, paths: RunPaths) -> str:
        """The commands that label the synthetic sentences."""
        return f"{paths.command(STEP_7)}, then {paths.command('s8_process_label_and_combine')}"

    def _add_warnings(self, paths: RunPaths, inputs: train_ner.Inputs) -> None:
        if self.mark:
            self.warnings.append(f"{inputs.train}: {self.mark}, so they may hold what the training set does not. Renew with: "
                                 f"{self.renewal(paths)}")
        if read_manifest(inputs.train).get("complete") is False:
            self.warnings.append(f"{inputs.train}: was made of a part of the sentences only (--limit).")
        if self.spans and not any(self.weights[name] for name in self.spans):
            self.warnings.append(f"{inputs.train}: the extension labels have the loss weight 0 and teach nothing. Give another "
                                 "--ext_weight to see what they are worth.")


def step_7_mark(paths: RunPaths, size: int) -> str:
    """What is doubtful about the target labels of a size's synthetic sentences, "" for nothing: they must come from a model
    that was trained on this size alone."""
    inputs = read_manifest(paths.sized(size, "train_{n}_synthetic_target")).get("inputs", {})
    weights = train_ner.weights_path(paths.ner("fusion", size))
    own = weights.relative_to(paths.run).as_posix()
    models = [name for name in inputs if name.endswith(train_ner.WEIGHTS)]
    if not models:
        return f"nothing tells which model labelled the synthetic sentences of size {size}"
    if models != [own]:
        return f"the synthetic sentences of size {size} were labelled by {models[0]}, which was not trained on this size alone"
    trained_on = read_manifest(weights).get("settings", {}).get("size", size)
    if trained_on != size:
        return f"the synthetic sentences of size {size} were labelled by {own}, which was trained on size {trained_on}"
    return ""


def dropped_labels(names: Sequence[str], material: Material) -> dict[str, tuple[int, float]]:
    """The extension labels to leave out, one at a time: (number of spans, loss weight), the most frequent first.

    names: of --drop_labels; ``all`` takes every label that has a span.

    Raises:
        UserError: a name that is no extension label, a label without a span, or no label at all.
    """
    extensions = [name for name in material.weights if name not in material.targets]
    wanted = names
    if names == [ALL] and ALL not in extensions:
        # A comma would be read as the end of a name; no label that the steps make has one.
        wanted = [name for name in extensions if material.spans[name] and "," not in name and name == name.strip()]
    for name in wanted:
        if name not in extensions:
            raise UserError(f"--drop_labels: {material.name} has no extension label {name!r}"
                            f"{did_you_mean(name, extensions)}. It has: {', '.join(extensions) or 'none'}.")
        if not material.spans[name]:
            raise UserError(f"--drop_labels: {material.name} has no span with the label {name!r}, so leaving it out changes "
                            "nothing. Name another.")
    if not wanted:
        raise UserError(f"--drop_labels: {material.name} has no span with an extension label. Name another --train.")
    return {name: (material.spans[name], material.weights[name])
            for name in sorted(wanted, key=lambda name: (-material.spans[name], name))}
