"""All steps in order, from one YAML file: labels, explanations, splits, merge, NER models, final training sets.

The whole configuration and the data are checked before the first model call. What is complete is skipped, so the same
command goes on after a stop. Flags win over the file; --model_from_pretrained and --batch_size mean the language model.

reads   data/few_shot/<file_name>/
writes  data/few_shot/<file_name>/<save_type_name>/ (see data/README.md)
run     python syn_pipelines/run_all.py --config=configs/quickstart.yaml
"""

from __future__ import annotations

import dataclasses
import importlib
import logging
import os
import sys
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from types import ModuleType
from typing import Any

from syn_pipelines.utils.annotate import refuse_contradictions
from syn_pipelines.utils.display import block, text
from syn_pipelines.utils.dry_run import Plan, Plans, show
from syn_pipelines.utils.errors import UserError
from syn_pipelines.utils.labels import Labels
from syn_pipelines.utils.language import language_of
from syn_pipelines.utils.llm import choose_backend, kept_model
from syn_pipelines.utils.llm.ray_cluster import kept_cluster
from syn_pipelines.utils.manifest import STALE_LOG, read_manifest
from syn_pipelines.utils.options import (
    LabelOptions,
    LlmOptions,
    at_least,
    build_options,
    load_options,
    option,
    parse_flags,
)
from syn_pipelines.utils.paths import MODES, SIZES, RunPaths
from syn_pipelines.utils.prompts import load_prompt
from syn_pipelines.utils.records import read_sentences, read_train
from syn_pipelines.utils.reviews import Reviews
from syn_pipelines.utils.stored_replies import has_replies
from syn_pipelines.utils.summary import Account, Summary, count_lines, log_rows, refuse_missing, run_script, table

log = logging.getLogger(__name__)

SENTENCES_OF_AN_EXPLANATION = 4  # that pass the filters; the prompt asks for three to eight

# In these scripts --model_from_pretrained and --batch_size speak of the NER model, so flags of this script stay away.
NER_SCRIPTS = ("train_ner", "s7_pred_syn_data", "eval_ner")
# A whole run scores one model after the other, whatever the YAML file says for eval_ner alone.
SCORE_ONE = {"compare": (), "save_predictions": ""}


@dataclass(frozen=True)
class Options(LabelOptions):
    """Options of the whole run; any other option of a step goes into the YAML file."""

    batch_size: int | None = option(None, "prompts that a local model answers side by side "
                                     "(each step's own by default)", check=at_least(1))
    label_prefix: str = option("", "put before every extension label, so that none equals a target label")
    apply_gold_review: bool = option(False, "change gold labels as gold_corrections.jsonl says")
    from_pretrained: str = option("scratch", "encoder of the NER models: scratch, a local folder or a hub name")
    max_steps: int = option(-1, "training steps of each NER model; -1: chosen by the amount of data")
    with_report: bool = option(True, "write report.html when all is done")


@dataclass
class Step:
    """One call of a script. ``done``: whether there is nothing to do; LLM steps find that out by themselves."""

    script: str
    flags: dict[str, Any] = field(default_factory=dict)
    opts: Any = None

    @property
    def name(self) -> str:
        return " ".join([self.script, *(f"{k}={v}" for k, v in self.flags.items())])

    @property
    def module(self) -> ModuleType:
        return importlib.import_module(f"syn_pipelines.{self.script}")


def plan(has_test: bool) -> list[Step]:
    """Every call in order; evaluation only where there is something to evaluate on."""
    annotate = [Step("s1_predict_data", {"mode": mode}) for mode in MODES]
    again = [Step("s3_predict_syn_data", {"mode": mode}) for mode in MODES]
    train = [Step("train_ner", {"size": size, "train": "fusion"}) for size in SIZES]
    evaluate = [Step("eval_ner", {"size": size, "train": "fusion", "split": "test"}) for size in SIZES if has_test]
    return [*annotate, Step("s2_continous_generation"), *again, Step("s4_split_data"), Step("s5_merge_data"),
            Step("s6_combine_syn_fusion_label"), *train, Step("s7_pred_syn_data"), Step("s8_process_label_and_combine"),
            *evaluate]


def configure(steps: Sequence[Step], given: Mapping[str, Any]) -> None:
    """Build the options of every step; UserError with all problems at once."""
    problems = []
    for step in steps:
        fields = {f.name for f in dataclasses.fields(step.module.Options)}
        flags = {k: v for k, v in given.items() if k in fields}
        if step.script in NER_SCRIPTS:
            flags = {k: v for k, v in flags.items() if k not in ("model_from_pretrained", "batch_size")}
        if step.script == "eval_ner":
            flags |= SCORE_ONE
        try:
            step.opts = build_options(step.module.Options, {**flags, **step.flags})
        except UserError as err:
            problems.append(str(err))
    if problems:
        raise UserError("\n".join(dict.fromkeys(problems)))


def check(opts: Options, paths: RunPaths, steps: Sequence[Step]) -> None:
    """Find out now what would stop a later step: data, labels, label clashes, prompts, the choice of the backend."""
    language = language_of(opts, (s["text"] for s in read_train(paths)))
    merge = next(step for step in steps if step.script == "s5_merge_data")
    labels = Labels.load(merge.opts, paths)
    Reviews.load(paths, labels.targets, synthetic=False, apply_gold=merge.opts.apply_gold_review).refuse_unknown(labels.extension)
    for name in ("dev", "test"):
        if os.path.lexists(paths.split(name)):
            for _ in read_sentences(paths.split(name), targets=labels.targets):
                pass
    for task in (*MODES, "explain"):
        load_prompt(task, language.lang)
    replies = [paths.synthetic, *(paths.annotation(mode, synthetic) for mode in MODES for synthetic in (False, True))]
    answered = all(read_manifest(path).get("complete") for path in replies)
    for llm in (step.opts for step in steps if isinstance(step.opts, LlmOptions)):
        if llm.reparse:
            continue
        backend = choose_backend(llm)
        if not answered or opts.overwrite or opts.retry_failed:  # else the model may be gone: nobody will ask it
            backend.check()


@dataclass
class Report:
    """What a whole run gave: the summary of every step, and what a person looks for first."""

    opts: Options
    paths: RunPaths
    backend: str
    summaries: dict[str, Any] = field(default_factory=dict)
    page: Path | None = None

    def __str__(self) -> str:
        rows = [("", *(f"{size}" for size in SIZES))]
        for name, file in (("original sentences", "train_{n}"), ("fusion", "train_{n}_fusion"),
                           ("synthetic sentences", "train_{n}_synthetic"), ("syn_fusion", "train_{n}_syn_fusion")):
            rows.append((name, *(f"{count_lines(self.paths.sized(size, file)):,}" for size in SIZES)))
        scores = {k: s for k, s in self.summaries.items() if k.startswith("eval_ner")}
        if scores:
            rows.append(("test F1 of NER on fusion", *(f"{s.f1:.1f}" for s in scores.values())))
        idle = all(s.up_to_date for name, s in self.summaries.items() if not name.startswith("eval_ner"))
        head = f"{self.paths.file_name}, run {self.paths.save_type_name}, labelled by {self.backend}"
        return "\n".join([
            "", f"Nothing to do: {head} is complete." if idle else f"Done: {head}", "", table(rows, indent="  "), "",
            *self._accounts(), "", "The two training sets:",
            f"  fusion      {self.paths.sized(1000, 'train_{n}_fusion')}",
            f"  syn_fusion  {self.paths.sized(1000, 'train_{n}_syn_fusion')}",
            f"Labels: {self.paths.label_file('fusion')}, {self.paths.label_file('syn_fusion')}",
            *([f"See it: {self.page}"] if self.page else []), *self._advice()])

    def _repr_html_(self) -> str:
        return block(f"<pre>{text(str(self).strip())}</pre>")

    def _accounts(self) -> list[str]:
        lines = []
        for name, summary in self.summaries.items():
            # Step 8 repeats the merge of step 5 with the target labels added.
            if not name.startswith("s8") and not name.startswith("eval_ner"):
                lines += [f"  {name.split('_')[0]}  {account}" for account in summary.accounts]
                lines += [f"  {name.split('_')[0]}  {summary.usage}"] if summary.usage else []
        return ["What became of every record:", *lines] if lines else []

    def _advice(self) -> list[str]:
        if self.backend != "offline":
            return []
        return ["", "The offline backend is a try-out without a language model. For real labels give a model and a name "
                "for its run:", f"  bash run_pipeline.sh --file_name={self.paths.file_name} "
                "--model_from_pretrained=Qwen/Qwen2.5-0.5B-Instruct --save_type_name=Qwen2.5"]


def output_of(step: Step, paths: RunPaths) -> Path:
    """The file that a step publishes out of its model's replies."""
    if step.script == "s2_continous_generation":
        return paths.synthetic
    return paths.annotation(step.opts.mode, synthetic=step.script == "s3_predict_syn_data")


def settle_reparse(steps: Sequence[Step], paths: RunPaths) -> None:
    """With --reparse, the steps without a stored reply ask as ever. UserError for flags that contradict it."""
    for step in steps:
        if isinstance(step.opts, LlmOptions):
            refuse_contradictions(step.opts)
            if step.opts.reparse and not has_replies(paths, output_of(step, paths)):
                step.opts = dataclasses.replace(step.opts, reparse=False)


def labelled_by(step: Step, paths: RunPaths) -> str:
    """Backend and model of the labels, for people."""
    if step.opts.reparse:
        made = read_manifest(output_of(step, paths)).get("fingerprint") or {"backend": "stored replies", "model": "?"}
    else:
        backend = choose_backend(step.opts)
        made = {"backend": backend.name, "model": backend.model}
    return made["backend"] if made["backend"] == "offline" else f"{made['backend']} ({made['model']})"


def dry_run(paths: RunPaths, steps: Sequence[Step]) -> Plans:
    """What the steps that ask a model would ask and cost; they are the only ones looked at, and write nothing."""
    result = Plans()
    explanations = None
    for step in steps:
        if step.script == "s3_predict_syn_data" and explanations and (explanations.pending or not paths.synthetic.is_file()):
            result.later.append(_guess(step, explanations, result.plans))
        if step.script != "s3_predict_syn_data" or paths.synthetic.is_file():
            plan = step.module.run(step.opts).plan
            result.plans.append(plan)
            explanations = plan if step.script == "s2_continous_generation" else explanations
    return result


def _guess(step: Step, explanations: Plan, plans: Sequence[Plan]) -> str:
    """What a step costs that asks about sentences which step 2 has still to write: as much each as an original one."""
    count = explanations.pending * SENTENCES_OF_AN_EXPLANATION
    like = next((p for p in plans if p.pending and p.step == f"s1_predict_data {step.opts.mode}"), None)
    tokens = "" if like is None else (f", about {count * like.prompt_tokens // like.pending:,} prompt and "
                                      f"{count * like.output_tokens // like.pending:,} output tokens")
    return (f"{step.name} asks about the sentences that step 2 has still to write. With {SENTENCES_OF_AN_EXPLANATION} from "
            f"each of {explanations.pending:,} explanations: {count:,} requests{tokens}.")


def run(opts: Options, given: Mapping[str, Any]) -> Report | Plans:
    """Run what is not complete yet, or plan it. ``given``: the flags or keywords really given, for the steps."""
    paths = RunPaths.of(opts)
    has_test = os.path.lexists(paths.split("test"))
    steps = plan(has_test)
    configure(steps, given)
    settle_reparse(steps, paths)
    check(opts, paths, steps)
    if opts.dry_run:
        with kept_model():
            return dry_run(paths, [step for step in steps if isinstance(step.opts, LlmOptions)])
    name = labelled_by(steps[0], paths)
    log.info("run_all: %s, run %s, labelled by %s", paths.dataset, paths.run, name)
    report = Report(opts, paths, name)
    with _quiet(STALE_LOG), ExitStack() as model:  # what a step makes out of date is renewed by those that follow
        model.enter_context(kept_model())
        model.enter_context(kept_cluster())
        for number, step in enumerate(steps, 1):
            if not isinstance(step.opts, LlmOptions):
                model.close()  # the NER models need the memory
            log.info("\n[%d/%d] %s", number, len(steps), step.name)
            done: Callable[[Any, RunPaths], bool] | None = getattr(step.module, "is_done", None)
            if done and done(step.opts, paths):
                log.info("%s: complete, skipped", step.script)
                report.summaries[step.name] = _as_it_was(paths, step)
            else:
                report.summaries[step.name] = step.module.run(step.opts)
    refuse_missing(*report.summaries.values())  # a folder may be removed while a later step runs
    if not has_test:
        log.warning("%s: not there, so the NER models were not evaluated.", paths.split("test"))
    report.page = write_page(given) if opts.with_report else None
    return report


def write_page(given: Mapping[str, Any]) -> Path | None:
    """report.html of the run. It is for people to look at: what goes wrong with it is a warning, the run is complete."""
    from syn_pipelines import report

    names = {f.name for f in dataclasses.fields(report.Options)}
    try:
        return report.run(build_options(report.Options, {k: v for k, v in given.items() if k in names})).page
    except Exception as err:
        log.warning("The report was not made (%s: %s). All else is complete.", type(err).__name__, err)
        return None


@contextmanager
def _quiet(logger: str) -> Iterator[None]:
    before = logging.getLogger(logger).level
    logging.getLogger(logger).setLevel(logging.ERROR)
    try:
        yield
    finally:
        logging.getLogger(logger).setLevel(before)


def _as_it_was(paths: RunPaths, step: Step) -> Summary:
    """Summary of a step that is skipped, with the accounts of the run that made its files, if the log still has them."""
    summary = Summary(step.script, up_to_date=True)
    for row in log_rows(paths.log):
        try:
            if (row["step"], row["ended"]) == (step.script, "done") and step.flags.items() <= row["options"].items():
                accounts = [Account(**account) for account in row["accounts"]]
                summary.accounts = accounts if accounts and all(map(str, accounts)) else summary.accounts
        except (ValueError, KeyError, TypeError, AttributeError, AssertionError):
            continue  # as with a line that is broken
    return summary


def main(cmd_args: bool | Sequence[str] = True, **overrides: Any) -> Report | Plans:
    """Run from the command line, or with keywords only (``cmd_args=False``); prints the report on the command line."""
    given = dict(overrides)
    if cmd_args is not False:
        given |= parse_flags(Options, sys.argv[1:] if cmd_args is True else cmd_args)
    report = run(load_options(Options, False, given), given)
    if cmd_args is not False:
        show(str(report))
    return report


if __name__ == "__main__":
    run_script(main)
