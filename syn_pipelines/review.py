"""Look at a sample of a run, sentence by sentence, and correct it: a page in the browser, served on this machine only.

Accept, reject, relabel, add or resize spans with the mouse or the keyboard alone (? on the page lists the keys). Each decision
is on disk before the page says so; Ctrl-C ends the review, and the same command goes on where it stopped. Steps 5 and 8 apply
the decisions, those about gold labels with --apply_gold_review only.

reads   what step 4 has cut (and step 7 predicted) at --size, labels.txt, the two label maps
writes  review.jsonl and, for gold labels, gold_corrections.jsonl in the run folder
run     python syn_pipelines/review.py --file_name=weibo --save_type_name=GLM4 --ratio=0.1
        python syn_pipelines/review.py --file_name=weibo --save_type_name=GLM4 --n=50 --order=doubt --labels=target,entity
"""

from __future__ import annotations

import json
import logging
import os
import time
from collections.abc import Iterator, Sequence
from contextlib import closing, contextmanager
from dataclasses import dataclass, field, fields
from pathlib import Path
from typing import TYPE_CHECKING, Any

from syn_pipelines import s5_merge_data as s5
from syn_pipelines.utils.errors import UserError, did_you_mean
from syn_pipelines.utils.journal import lock
from syn_pipelines.utils.jsonl import file_hash
from syn_pipelines.utils.labels import Labels
from syn_pipelines.utils.language import language_of
from syn_pipelines.utils.manifest import read_manifest
from syn_pipelines.utils.options import TextOptions, at_least, between, blankless, load_options, option
from syn_pipelines.utils.paths import SIZES, RunPaths
from syn_pipelines.utils.records import read_train
from syn_pipelines.utils.summary import Summary, count_lines, run_script

if TYPE_CHECKING:
    from syn_pipelines.reviewing.queue import Wanted
    from syn_pipelines.reviewing.session import Session

log = logging.getLogger(__name__)

STEP = "review"
GROUPS = ("target", "entity", "pos")  # in --labels: all labels of a kind


def is_size(value: int) -> str:
    """Check: the name of a subset."""
    return "" if value in SIZES else f"is none of {', '.join(map(str, SIZES))}"


@dataclass(frozen=True)
class Options(TextOptions):
    """Options of the review."""

    ratio: float = option(0.1, "share of the sentences to look at", check=between(0, 1))
    n: int = option(0, "number of sentences to look at; 0: as --ratio says", check=at_least(0))
    order: str = option("random", "random: a random sample, whose figures speak for all sentences; doubt: first where the LLM, "
                        "the NER model and gold disagree", choices=("random", "doubt"))
    labels: str = option("", "look at these labels only, with commas between them; target, entity and pos mean all of a kind")
    size: int = option(1000, "which subset: 250, 500 or 1000", check=is_size)
    label_prefix: str = option("", "as in step 5; by default what its files were made with", check=blankless)
    entity_label: str = option(str(s5.KNOWLEDGE / "entity_label.json"), "label map of entity types")
    pos_label: str = option(str(s5.KNOWLEDGE / "pos_label.json"), "label map of POS tags")
    port: int = option(0, "port on 127.0.0.1; 0: any that is free", check=between(0, 65535))
    no_browser: bool = option(False, "only print the address")
    json: bool = option(False, "print one JSON line, last of all")


@dataclass
class Reviewed(Summary):
    """What a review came to. sentences, finished: of the queue. decided: in this review, by decision. estimate: precision by
    label of a random sample, with 95 % intervals."""

    sentences: int = 0
    finished: int = 0
    decided: dict[str, int] = field(default_factory=dict)
    estimate: list[dict[str, Any]] = field(default_factory=list)

    def __str__(self) -> str:
        """One line."""
        made = ", ".join(f"{n:,} {name}" for name, n in self.decided.items()) or "nothing"
        kept = f"; kept in {', '.join(self.outputs)}" if self.outputs else ""
        return f"{self.step}: decided now: {made}; {self.finished:,} of {self.sentences:,} sentences are finished{kept}"


def run(opts: Options) -> Reviewed:
    """Serve the page until Ctrl-C.

    Raises:
        UserError: the run is not there or not cut yet, a label is unknown, another review of this run is open, or Starlette
            and uvicorn are not installed.
    """
    from syn_pipelines.reviewing.server import serve

    paths = RunPaths.of(opts)
    if not os.path.lexists(paths.sized(opts.size, "train_{n}")):  # before the lock, which would make the folder of a mistyped run
        raise UserError(f"{paths.sized(opts.size, 'train_{n}')}: does not exist. {paths.missing('s4_split_data')}")
    result, started = Reviewed(STEP), time.monotonic()
    with lock(paths.journals, STEP), opened(opts, paths) as session:
        serve(session, port=opts.port, browser=not opts.no_browser)
        _take(session, result)
    result.seconds = time.monotonic() - started
    log.info("%s", result)
    return result


@contextmanager
def opened(opts: Options, paths: RunPaths) -> Iterator[Session]:
    """The queue that the options name, with the decisions there are. Hold the lock of the step.

    Raises:
        UserError: a label is unknown, no sentence is left to look at, or a file cannot be used.
    """
    from syn_pipelines.reviewing.corpus import Corpus
    from syn_pipelines.reviewing.queue import draw
    from syn_pipelines.reviewing.session import Session
    from syn_pipelines.reviewing.store import Store

    labels = Labels.load(_as_merged(opts, paths), paths)
    wanted = wanted_of(opts.labels, labels)
    with closing(Store(paths.run)) as store, closing(Corpus(paths, opts.size, labels, _is_dense(opts, paths))) as corpus:
        queue, pool = draw(corpus, n=opts.n, ratio=opts.ratio, order=opts.order, seed=opts.seed, wanted=wanted)
        corpus.locate(queue)
        yield Session(corpus, store, queue, pool=pool, order=opts.order, wanted=wanted, labels_wanted=opts.labels)


def wanted_of(text: str, labels: Labels) -> Wanted | None:
    """Which spans --labels means; None: all. UserError for a name that is no label."""
    names = [name for part in text.split(",") if (name := part.strip())]
    groups = {"target": labels.targets, "entity": [labels.prefix + name for name in labels.entity.labels],
              "pos": [labels.prefix + name for name in labels.pos.labels]}
    known = {label for group in groups.values() for label in group}
    if unknown := [name for name in names if name not in known and name not in groups]:
        raise UserError(f"--labels: {unknown[0]!r} is no label of this run{did_you_mean(unknown[0], known | set(groups))}. Give "
                        f"labels with commas between them, or {', '.join(groups)}.")
    chosen = {label for name in names for label in (groups.get(name, ()) if name not in known else (name,))}
    return (lambda span: span.label in chosen) if names else None


def _as_merged(opts: Options, paths: RunPaths) -> s5.Options:
    """Label prefix and maps as step 5 had them, where its files tell; a flag wins."""
    manifest = read_manifest(paths.sized(opts.size, "train_{n}_fusion"))
    settings, defaults, found = manifest.get("settings", {}), Options(), {}
    if not opts.label_prefix and isinstance(settings.get("label_prefix"), str):
        found["label_prefix"] = settings["label_prefix"]
    for name in ("entity_label", "pos_label"):
        places = (paths.run / place for place, sha256 in manifest.get("inputs", {}).items() if sha256 == settings.get(name))
        same = next((path for path in places if sha256_is(path, settings.get(name))), None)
        if getattr(opts, name) == getattr(defaults, name) and same:
            found[name] = str(same)
    given = {f.name: getattr(opts, f.name) for f in fields(s5.Options) if hasattr(opts, f.name)}
    return s5.Options(**{**given, **found})


def sha256_is(path: Path, sha256: object) -> bool:
    """Whether a file has this content."""
    return isinstance(sha256, str) and path.is_file() and file_hash(path) == sha256


def _is_dense(opts: Options, paths: RunPaths) -> bool:
    dense = read_manifest(paths.sized(opts.size, "train_{n}_fusion")).get("dense")
    if opts.dense_lang == "auto" and isinstance(dense, bool):
        return dense
    return language_of(opts, (row["text"] for row in read_train(paths, again=True))).dense


def _take(session: Session, result: Reviewed) -> None:
    result.sentences, result.finished = len(session.queue), sum(session.finished)
    result.decided = dict(sorted(session.store.made.items()))
    result.estimate = session.estimate() if session.is_estimate() else []
    result.outputs = {str(path): count_lines(path) for path in session.store.files}


def main(cmd_args: bool | Sequence[str] = True, **overrides: Any) -> Reviewed:
    """Run the review from the command line, or with keywords only (``cmd_args=False``); returns when it is ended."""
    opts = load_options(Options, cmd_args, overrides)
    result = run(opts)
    if opts.json:
        print(json.dumps(result.as_dict(), ensure_ascii=False))
    return result


if __name__ == "__main__":
    run_script(main)
