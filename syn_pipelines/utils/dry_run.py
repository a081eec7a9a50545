"""What a run would cost, found out without asking (``--dry_run``) or by asking a few times (``--dry_run=probe``).

Nothing is written. Prompt tokens are counted by the model's own tokenizer, which needs no weights. Output tokens are
taken from replies that are stored already, else from those of the probe, else from a rule of thumb (``RULES``).
Time is taken from the probe, else from what run.log.jsonl says of earlier runs, else it stays unknown.
"""

from __future__ import annotations

import dataclasses
import html
import random
import sys
import time
from collections.abc import Callable, Container, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from itertools import chain
from pathlib import Path
from typing import Any

from syn_pipelines.utils.errors import UserError
from syn_pipelines.utils.journal import Replies
from syn_pipelines.utils.jsonl import naming
from syn_pipelines.utils.llm import Backend, Reply, Request
from syn_pipelines.utils.streams import silence
from syn_pipelines.utils.summary import Summary, Usage, duration, log_rows
from syn_pipelines.utils.visible import visible

SHOWN = 2  # prompts
SAMPLE = 1000  # requests whose tokens are counted; of more, this many drawn by seed
PROBED = 5  # requests asked by a probe; the first one alone, for it also loads the weights
FEW = 5  # replies of an earlier run that are enough to take a speed from
# Output tokens where no reply is known yet: (for each token of the sentence, besides). A POS reply writes every word with
# its tag; entities fill a part of a sentence; an explanation is a few sentences whatever it explains.
RULES = {"entity": (1.5, 10), "pos": (8.0, 5), "pos inline": (2.5, 2), "explain": (0.0, 240)}
# Backends whose count_tokens is not the model's own tokenizer.
COUNTED = {"offline": "characters, this backend has no tokens", "openai": "an estimate, the server's tokenizer is not here"}


@dataclass(frozen=True)
class Job:
    """What a step is about to ask, as far as a plan needs it.

    step: name for people. unit: what a request is about. questions: how many the step has in all. answered: those with a
    reply that stays. pending: how many would be asked now. replies: those there are. rule: a key of ``RULES``.
    requests: makes those at some places, from 0, of the pending ones; only called for the few that are looked at.
    is_good: whether a reply could be used. log: run.log.jsonl. settings: what tells this step's lines there from others
    (``{"step": ..., "mode": ...}``).
    """

    step: str
    unit: str
    questions: int
    answered: int
    pending: int
    replies: Replies
    rule: str
    requests: Callable[[Container[int]], dict[int, Request]]
    is_good: Callable[[Reply], bool]
    log: Path
    settings: Mapping[str, str]
    seed: int


@dataclass
class Plan:
    """What a step would ask and cost. ``sources``: how each number was found; None: unknown."""

    step: str
    unit: str
    model: str
    questions: int
    answered: int
    pending: int
    prompts: list[str]
    prompt_tokens: int = 0
    output_tokens: int = 0
    seconds: float | None = None
    sources: dict[str, str] = field(default_factory=dict)
    probe: Probe | None = None

    def as_dict(self) -> dict[str, Any]:
        """JSON values only."""
        content = {f.name: getattr(self, f.name) for f in dataclasses.fields(self)}
        return {**content, "probe": self.probe.as_dict() if self.probe else None}

    def __str__(self) -> str:
        lines = [f"Dry run of {self.step} with {self.model}: nothing is written."]
        for number, prompt in enumerate(self.prompts, 1):
            lines += [f"--- prompt {number} of {self.pending:,}, as sent ".ljust(72, "-"), prompt]
        if self.prompts:
            lines.append("-" * 72)
        rows = [("requests", f"{self.pending:,}", self._accounted())]
        if self.pending:
            rows += [(name.replace("_", " "), f"{getattr(self, name):,}", self.sources[name])
                     for name in ("prompt_tokens", "output_tokens")]
            rows.append(("time", "unknown" if self.seconds is None else duration(self.seconds), self.sources["seconds"]))
        width = max(len(row[1]) for row in rows)
        lines += [f"{name:<14} {value:>{width}}  {source}" for name, value, source in rows]
        if self.probe:
            lines.append(f"{'probe':<14} {self.probe}")
        return "\n".join(lines)

    def _accounted(self) -> str:
        left = self.questions - self.pending - self.answered
        return (f"of {self.questions:,} would be asked now; {self.answered:,} have a reply already"
                + (f", {left:,} are left for a later run" if left else ""))

    __repr__ = __str__

    def _repr_html_(self) -> str:
        return f"<pre>{html.escape(str(self))}</pre>"


def plan(job: Job, backend: Backend, *, probe: bool) -> Plan:
    """Find out what the job would cost. ``probe``: ask a few of its requests; their replies are thrown away.

    Raises:
        UserError: the model cannot be used; a real run would stop in the same way.
    """
    model = model_name(backend)
    result = Plan(job.step, job.unit, model, job.questions, job.answered, job.pending, prompts=[])
    if not job.pending:
        return result
    backend.check()
    places, first = sample(job.pending, job.seed), range(min(job.pending, max(SHOWN, PROBED)))
    made = job.requests({*places, *first})
    result.prompts = [prompt_as_sent(backend, made[place])[0] for place in first[:SHOWN]]
    looked_at = [made[place] for place in places]
    result.probe = _probe(job, backend, [made[place] for place in first[:PROBED]]) if probe else None
    result.prompt_tokens, result.sources["prompt_tokens"] = _prompt_tokens(job, backend, looked_at, result.probe)
    each, result.sources["output_tokens"] = _output_tokens(job, backend, looked_at, result.probe)
    result.output_tokens = round(each * job.pending)
    result.seconds, result.sources["seconds"] = _seconds(job, model, result.probe)
    return result


def model_name(backend: Backend) -> str:
    """Backend and model, for people."""
    return f"{backend.name} ({backend.model})"


def sample(number: int, seed: int) -> Sequence[int]:
    """At most ``SAMPLE`` of the places of so many items, drawn by seed, in their order."""
    return range(number) if number <= SAMPLE else sorted(random.Random(seed).sample(range(number), SAMPLE))


def prompt_as_sent(backend: Backend, request: Request) -> tuple[str, int]:
    """The chat as the model reads it, and its tokens; where a server puts it together, as roles and contents."""
    in_process = getattr(backend, "prompt_as_sent", None)  # the chat template is theirs
    if in_process is None:
        text = "\n\n".join(f"{message['role']}: {message['content']}" for message in request.messages)
        return text, backend.count_tokens(text)
    try:
        return in_process(request.messages)
    except UserError:
        raise
    except Exception as exc:  # a chat template may refuse the roles: these requests would fail, and say so
        return f"(cannot be sent: {type(exc).__name__}: {exc})", 0


# --- tokens ----------------------------------------------------------------------------------------------------------

def _prompt_tokens(job: Job, backend: Backend, requests: Sequence[Request], probe: Probe | None) -> tuple[int, str]:
    """Prompt tokens of all pending requests, and where the number is from."""
    told, replies = _known(job, probe, "prompt_tokens") if backend.name in COUNTED else (0, 0)
    if replies:
        return round(told / replies * job.pending), f"as counted with {replies:,} replies"
    share = job.pending / len(requests)
    counted = COUNTED.get(backend.name, "counted by the model's tokenizer")
    return (round(sum(prompt_as_sent(backend, request)[1] for request in requests) * share),
            counted + (f", scaled up from {len(requests):,} prompts" if share > 1 else ""))


def _output_tokens(job: Job, backend: Backend, requests: Sequence[Request], probe: Probe | None) -> tuple[float, str]:
    """Mean output tokens of a request, and where the number is from."""
    told, replies = _known(job, None, "completion_tokens")
    if replies:
        return told / replies, f"from the {replies:,} replies stored already"
    told, replies = _known(job, probe, "completion_tokens")
    if replies:
        return told / replies, f"from the {replies} replies of the probe, a small sample"
    each, besides = RULES[job.rule]
    sizes = [min(besides + each * backend.count_tokens(_sentence(request)), request.max_new_tokens) for request in requests]
    return sum(sizes) / len(sizes), "a rule of thumb, no reply is known yet; may be off by a factor of three"


def _known(job: Job, probe: Probe | None, name: str) -> tuple[int, int]:
    """The sum of a token count over all replies that a model really gave, stored ones and those of the probe, and how many
    these are.

    Rows taken over from a published file tell none.
    """
    total = number = 0
    for entry in chain(job.replies.entries(), map(dataclasses.asdict, probe.replies if probe else ())):
        count = entry.get(name) if entry["finish_reason"] in ("stop", "length") else None
        if isinstance(count, int) and count > 0:
            total, number = total + count, number + 1
    return total, number


def _sentence(request: Request) -> str:
    record = request.record or {}
    return ("" if record.get("dense") else " ").join(record.get("tokens", ()))


# --- time ------------------------------------------------------------------------------------------------------------

@dataclass
class Probe:
    """A few requests really asked. ``first_s``: the first one alone, loading included; ``others_s``: the rest.

    starts_anew: the rest had to wait for a start of its own, as with Ray workers, so that it tells no speed.
    """

    replies: list[Reply]
    first_s: float
    others_s: float
    kept: int
    unit: str
    starts_anew: bool = False

    @property
    def rate(self) -> float:
        """Requests a second, without the first one where there are others."""
        others = len(self.replies) - 1
        return others / max(self.others_s, 1e-6) if others else 1 / max(self.first_s, 1e-6)

    def as_dict(self) -> dict[str, Any]:
        """JSON values only."""
        return {"asked": len(self.replies), "kept": self.kept, "first_s": round(self.first_s, 3),
                "others_s": round(self.others_s, 3), "per_s": round(self.rate, 4),
                "completion_tokens": sum(reply.completion_tokens for reply in self.replies),
                "errors": [reply.error for reply in self.replies if reply.error]}

    def __str__(self) -> str:
        tokens = sum(reply.completion_tokens for reply in self.replies[1:]) / max(self.others_s, 1e-6)
        others = len(self.replies) - 1
        text = f"{len(self.replies)} requests: the first took {self.first_s:.1f} s with all loading"
        if others and self.starts_anew:
            text += f", the other {others} together {self.others_s:.1f} s, starting again"
        elif others:
            text += (f", the other {others} together {self.others_s:.1f} s ({self.rate:,.2f} {self.unit}s/s, "
                     f"{tokens:,.0f} tokens/s)")
        text += f"; {self.kept} of {len(self.replies)} replies could be used"
        errors = [reply.error for reply in self.replies if reply.error]
        return text + (f" ({errors[0]})" if errors else "")


def _probe(job: Job, backend: Backend, requests: Sequence[Request]) -> Probe:
    started = time.monotonic()
    replies = list(backend.generate(requests[:1]))
    between = time.monotonic()
    replies += backend.generate(requests[1:]) if requests[1:] else []
    ended = time.monotonic()
    return Probe(replies, between - started, ended - between, sum(map(job.is_good, replies)), job.unit,
                 getattr(backend, "starts_anew", False))


def _seconds(job: Job, model: str, probe: Probe | None) -> tuple[float | None, str]:
    """Seconds for all pending requests, and where the number is from."""
    if probe and not any(reply.finish_reason in ("stop", "length") for reply in probe.replies):
        return None, "the probe got no reply"
    if probe and probe.starts_anew:
        return None, "Ray workers were being started for most of the probe; probe with --engine=local, for one of them"
    if probe:
        return (probe.first_s + (job.pending - 1) / probe.rate,
                "at the rate of the probe, a small sample: full batches are faster")
    known = [usage for usage in _logged(job) if usage.model == model and usage.asked >= FEW and usage.seconds > 0]
    if known:
        last = known[-1]
        return (job.pending * last.seconds / last.asked,
                f"as fast as the {last.asked:,} replies of the last run ({last.rates()})")
    return None, "nothing was measured yet; --dry_run=probe asks a few and times them"


def _logged(job: Job) -> Iterator[Usage]:
    """What earlier runs of the same step took, oldest first, as far as run.log.jsonl tells."""
    for row in log_rows(job.log):
        try:
            usage = Usage(**row["usage"])
            usage.rates()  # an error where a number is none, or beyond all bounds
            if job.settings.items() <= {**row["options"], "step": row["step"]}.items():
                yield usage
        except (ValueError, KeyError, TypeError, ArithmeticError):
            continue  # as with a line that is broken


# --- several steps -----------------------------------------------------------------------------------------------------

@dataclass
class Plans:
    """The plans of several steps; ``later``: what cannot be planned yet, and why."""

    plans: list[Plan] = field(default_factory=list)
    later: list[str] = field(default_factory=list)

    def as_dict(self) -> dict[str, Any]:
        """JSON values only."""
        return {"plans": [plan.as_dict() for plan in self.plans], "later": list(self.later), **self.total()}

    def total(self) -> dict[str, Any]:
        """Sums; ``seconds`` is None as soon as one of them is unknown."""
        times = [plan.seconds if plan.pending else 0.0 for plan in self.plans]
        return {"pending": sum(plan.pending for plan in self.plans),
                "prompt_tokens": sum(plan.prompt_tokens for plan in self.plans),
                "output_tokens": sum(plan.output_tokens for plan in self.plans),
                "seconds": None if None in times else sum(times)}

    def __str__(self) -> str:
        total = self.total()
        needed = "unknown" if total["seconds"] is None else duration(total["seconds"])
        lines = [str(plan) for plan in self.plans]
        lines += [f"Not yet: {text}" for text in self.later]
        lines.append(f"Together: {total['pending']:,} requests, {total['prompt_tokens']:,} prompt tokens, about "
                     f"{total['output_tokens']:,} output tokens, time {needed}"
                     + (" (without what cannot be planned yet)" if self.later else ""))
        return "\n\n".join(lines)

    __repr__ = __str__

    def _repr_html_(self) -> str:
        return f"<pre>{html.escape(str(self))}</pre>"


# --- showing ---------------------------------------------------------------------------------------------------------

def result_of(summary: Summary, cmd_args: object) -> Summary | Plan:
    """What a step's ``main`` returns: its summary, or the plan of a dry run, printed where a command asked for it."""
    if summary.plan is None:
        return summary
    if cmd_args is not False:
        show(str(summary.plan))
    return summary.plan


def show(text: str) -> None:
    """Print a result; what the terminal cannot write, or would obey, is escaped. OSError where it cannot be written, but not
    for a pipe that nobody reads any more: whoever looked at it (``| head``) has seen enough."""
    encoding = getattr(sys.stdout, "encoding", None) or "utf-8"
    try:
        with naming(Path("standard output")):
            print(visible(text).encode(encoding, "backslashreplace").decode(encoding), flush=True)
    except BrokenPipeError:
        silence(sys.stdout)
