"""What a step tells a person: log lines on standard error, and a summary whose numbers add up."""

from __future__ import annotations

import dataclasses
import json
import logging
import os
import signal
import sys
import time
import unicodedata
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager, nullcontext, suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

from syn_pipelines.utils.display import summary_html
from syn_pipelines.utils.errors import ServiceError, UserError
from syn_pipelines.utils.interrupts import Stop, exit_code, farewell, stoppable
from syn_pipelines.utils.jsonl import MAX_LINE, lines_of, open_own, open_regular, parsed
from syn_pipelines.utils.options import script_name
from syn_pipelines.utils.packing import plain_path, unpacked
from syn_pipelines.utils.paths import RunPaths
from syn_pipelines.utils.streams import lasting_streams, tell
from syn_pipelines.utils.visible import visible, without_credentials

if TYPE_CHECKING:
    from syn_pipelines.utils.dry_run import Plan

log = logging.getLogger(__name__)

LOG_EVERY_S = 30.0  # between two lines of progress in a log file
NARROW = 110  # columns; a bar in less has no room for the name of the work, which the line above it tells


@dataclass
class Account:
    """``total`` things of one kind (sentences, items, spans) and what became of them; the parts must add up."""

    what: str
    total: int
    parts: dict[str, int]
    reasons: dict[str, int] = field(default_factory=dict)  # of the parts that were lost

    def __post_init__(self) -> None:
        if sum(self.parts.values()) != self.total:
            raise AssertionError(f"{self.what}: {self.total} is not the sum of {self.parts}: a record got lost")

    def __str__(self) -> str:
        parts = " + ".join(f"{n:,} {name}" for name, n in self.parts.items()) or "0"
        reasons = ", ".join(f"{n:,} {name}" for name, n in sorted(self.reasons.items(), key=lambda r: (-r[1], r[0])))
        return f"{self.total:,} {self.what} = {parts}" + (f" ({reasons})" if reasons else "")


@dataclass
class Usage:
    """What one run asked of a model, and what that took.

    unit: what a request is about. model: backend and model. kept: replies that could be used. seconds: from the first
    request to the last reply, loading of the weights included. closed: replies ended by the grammar because the room ran
    out. decoded: replies by how they were held to the constraint ("grammar", "json_schema"; the others not at all).
    """

    unit: str = "sentence"
    model: str = ""
    asked: int = 0
    kept: int = 0
    prompt_tokens: int = 0
    completion_tokens: int = 0
    seconds: float = 0.0
    closed: int = 0
    decoded: dict[str, int] = field(default_factory=dict)

    def add(self, reply: Any, kept: bool) -> None:
        """Count one ``syn_pipelines.utils.llm.Reply``."""
        self.asked += 1
        self.kept += kept
        self.prompt_tokens += reply.prompt_tokens
        self.completion_tokens += reply.completion_tokens
        self.closed += reply.closed
        if reply.decoded:
            self.decoded[reply.decoded] = self.decoded.get(reply.decoded, 0) + 1

    def rates(self) -> str:
        """Speed and share kept so far."""
        seconds = max(self.seconds, 1e-9)
        return (f"{self.asked / seconds:,.1f} {self.unit}s/s, {self.completion_tokens / seconds:,.0f} tokens/s, "
                f"kept {100 * self.kept / max(self.asked, 1):.1f} %")

    def __str__(self) -> str:
        parts = [f"asked about {self.asked:,} {self.unit}s in {self.seconds:.1f} s: {self.rates()}; "
                 f"{self.prompt_tokens:,} prompt + {self.completion_tokens:,} completion tokens"]
        parts += [f"{count:,} decoded by {how}" for how, count in sorted(self.decoded.items())]
        if self.closed:
            parts.append(f"{self.closed:,} closed early because their room ran out")
        return "; ".join(parts)


@dataclass
class Summary:
    """Result of a step: what it read, what became of it, which files it wrote (path: rows), what to look at.

    usage: what was asked of a model, None where a step asks none. plan: of a dry run, which does nothing else.
    """

    step: str
    accounts: list[Account] = field(default_factory=list)
    outputs: dict[str, int] = field(default_factory=dict)
    warnings: list[str] = field(default_factory=list)
    notes: list[str] = field(default_factory=list)
    up_to_date: bool = False
    seconds: float = 0.0
    usage: Usage | None = None
    plan: Plan | None = None

    def warn(self, text: str) -> None:
        """Log a warning and keep it."""
        log.warning("%s", text)
        self.warnings.append(text)

    def __str__(self) -> str:
        head = f"{self.step}: " + ("nothing to do, all is up to date" if self.up_to_date else f"done in {self.seconds:.1f} s")
        lines = [head, *(f"  {account}" for account in self.accounts), *(f"  {note}" for note in self.notes)]
        if self.usage and self.usage.asked:
            lines.append(f"  {self.usage}")
        if self.outputs and not self.up_to_date:
            lines.append("  wrote " + self._outputs_shown())
        return "\n".join(lines)

    def _outputs_shown(self) -> str:
        files = [Path(path) for path in self.outputs]
        def shown(path: Path, name: object) -> str:
            return f"{name} ({self.outputs[str(path)]:,} rows)" if plain_path(path).suffix == ".jsonl" else f"{name}"

        if len(files) <= 3:
            return ", ".join(shown(path, path) for path in files)
        folder = Path(os.path.commonpath(files))
        full = next((path for path in files if "1000" in path.name), files[0])
        return f"{len(files)} files in {folder}, such as {shown(full, full.relative_to(folder))}"

    def as_dict(self) -> dict[str, Any]:
        """JSON values only; without what the step does not have."""
        content = dataclasses.asdict(self)
        return {name: value for name, value in content.items() if name not in ("usage", "plan") or value is not None}

    def _repr_html_(self) -> str:
        return summary_html(self)


def table(rows: Sequence[Sequence[str]], *, indent: str = "") -> str:
    """Columns of texts, the first to the left, the others to the right; East Asian characters count as two columns."""
    widths = [max(columns(row[i]) for row in rows) for i in range(len(rows[0]))]
    lines = []
    for row in rows:
        blanks = [" " * (width - columns(cell)) for cell, width in zip(row, widths)]
        lines.append(indent + "  ".join([row[0] + blanks[0], *(b + cell for b, cell in zip(blanks[1:], row[1:]))]))
    return "\n".join(lines)


def columns(text: str) -> int:
    return sum(2 if unicodedata.east_asian_width(char) in "WF" else 1 for char in text)


def with_reasons(counts: Mapping[str, int]) -> dict[str, int]:
    """A plain dict in a fixed order, zeros left out."""
    return {name: counts[name] for name in sorted(counts) if counts[name]}


@contextmanager
def step_log(opts: Any, paths: RunPaths) -> Iterator[Summary]:
    """Name the step, time it, log its summary, and keep a line about it in run.log.jsonl.

    Raises:
        UserError: for what the system refuses (a full disk, a folder that may not be written), so that a notebook gets
            the same clear line as the command line.
    """
    summary = Summary(script_name(type(opts)))
    settings = {f.name: getattr(opts, f.name) for f in dataclasses.fields(opts)}
    shown = [f"{f.name}={settings[f.name]}" for f in dataclasses.fields(opts) if settings[f.name] != f.default]
    log.info("%s: %s", summary.step, " ".join(shown) or "all options at their defaults")
    began, started = time.time(), time.monotonic()  # a clock that is set back must not make a step last -3600 s
    dry = bool(settings.get("dry_run"))  # leaves no trace, not even this one
    try:
        yield summary
        refuse_missing(summary)
    except BaseException as err:
        if not dry:
            asked = {"usage": dataclasses.asdict(summary.usage)} if summary.usage else {}
            _append(paths.log, {"time": began, "step": summary.step, "options": settings, "ended": type(err).__name__,
                                "error": str(err)[:500], "seconds": round(time.monotonic() - started, 3), **asked})
        _warn_of_flags(settings, summary, err)
        if isinstance(err, OSError) and err.errno:
            raise _mendable(err) from err
        raise
    summary.seconds = time.monotonic() - started
    if dry:
        return
    log.info("%s", summary)
    _append(paths.log, {"time": began, "step": summary.step, "options": settings, "ended": "done", **summary.as_dict()})


def refuse_missing(*summaries: Any) -> None:
    """UserError when a file that a step has made is gone: then somebody removes files while it runs."""
    gone = [path for summary in summaries for path in summary.outputs if not os.path.exists(path)]
    if gone:
        raise UserError(f"{gone[0]}{f' and {len(gone) - 1} more' if len(gone) > 1 else ''}: was written and is gone. Somebody "
                        "has removed it while the step ran; run the same command again.")


def _warn_of_flags(settings: Mapping[str, Any], summary: Summary, err: BaseException) -> None:
    """"The same command" goes on from what is finished, but not with a flag that throws that away."""
    begun = {"overwrite": bool(summary.usage and summary.usage.asked), "restart": not isinstance(err, UserError)}
    for name in (name for name, done in begun.items() if done and settings.get(name)):
        log.warning("To go on later leave out --%s: it would begin anew.", name)


def _mendable(err: OSError) -> UserError:
    where = f"{err.filename}: " if err.filename else ""
    return UserError(f"{where}{_reason(err)}. Nothing already finished is lost; mend this and run the same command again.")


def _reason(err: OSError) -> str:
    """What the system says, in more words where its own tell little."""
    more = {FileExistsError: " (there is a file where a folder is needed)",
            NotADirectoryError: " (a part of this path is a file, not a folder)",
            FileNotFoundError: " (was it, or its folder, removed while this ran?)"}
    return (err.strerror or str(err) or type(err).__name__) + more.get(type(err), "")


def _append(path: Path, row: Mapping[str, Any]) -> None:
    try:
        if "error" not in row:  # a mistyped name must not leave a folder behind
            path.parent.mkdir(parents=True, exist_ok=True)
        elif not path.parent.is_dir():
            return
        line = (json.dumps(row, ensure_ascii=False) + "\n").encode("utf-8", "backslashreplace")
        with open_own(path) as file:
            if size := file.seek(0, os.SEEK_END):
                file.seek(size - 1)
                line = line if file.read(1) == b"\n" else b"\n" + line  # a kill, or a full disk, has torn the line before
            file.write(line)
    except OSError as err:  # the log is a convenience: a full disk shows up where data are written
        log.warning("%s: cannot be written (%s)", path, err.strerror)


def log_rows(path: Path) -> Iterator[dict[str, Any]]:
    """What run.log.jsonl tells, as far as it can be read: the log is for people, a line that somebody broke costs no more."""
    try:
        with open_regular(path) as file:
            for _, line in lines_of(file):
                if len(line) == MAX_LINE:  # this is no log
                    return
                with suppress(ValueError):
                    if isinstance(row := parsed(line.decode("utf-8")), dict):
                        yield row
    except OSError:
        return


def progress(items: Iterable[Any], *, total: int, what: str, unit: str) -> Any:
    """A progress bar with rate and time left on a terminal and in a notebook, nothing elsewhere."""
    from tqdm import tqdm

    return tqdm(items, total=total, desc=what, unit=unit, disable=_no_bar(), mininterval=0.5, dynamic_ncols=True)


def _no_bar() -> bool | None:
    """tqdm's ``disable``. None: where standard error is no terminal; a notebook's is none and draws bars all the same."""
    kernel = sys.modules.get("ipykernel.kernelapp")
    return False if kernel and kernel.IPKernelApp.initialized() else None


def _narrow() -> bool:
    try:
        return 0 < os.get_terminal_size(sys.stderr.fileno()).columns < NARROW
    except (OSError, ValueError):  # no terminal
        return False


class Progress:
    """How far the asking is: a bar on a terminal or in a notebook, elsewhere a log line now and then, so that a log file
    shows life."""

    def __init__(self, usage: Usage, *, total: int, what: str) -> None:
        """usage: is filled in. total: requests to come. what: the name of the work."""
        from tqdm import tqdm
        from tqdm.contrib.logging import logging_redirect_tqdm

        self.usage, self.total, self.what = usage, total, what
        self._started = self._told = time.monotonic()
        self._bar = tqdm(total=total, desc="" if _narrow() else what, unit=f" {usage.unit}s", disable=_no_bar(),
                         mininterval=0.5, dynamic_ncols=True,
                         bar_format="{l_bar}{bar}| {n_fmt}/{total_fmt} [{elapsed}<{remaining}, {rate_noinv_fmt}{postfix}]")
        self._logs = nullcontext() if self._bar.disable else logging_redirect_tqdm()  # lines of the log stand above the bar

    def __enter__(self) -> Progress:
        self._logs.__enter__()
        return self

    def __exit__(self, *error: object) -> None:
        self.usage.seconds = time.monotonic() - self._started
        self._logs.__exit__(None, None, None)
        self._bar.close()

    def add(self, reply: Any, kept: bool) -> None:
        """Count a reply and show it."""
        now = time.monotonic()
        self.usage.add(reply, kept)
        self.usage.seconds = now - self._started
        if not self._bar.disable:
            self._bar.set_postfix_str(self.usage.rates().partition(", ")[2], refresh=False)  # the bar has the first itself
            self._bar.update()
        elif now - self._told >= LOG_EVERY_S and self.usage.asked < self.total:
            self._told = now
            left = self.usage.seconds / self.usage.asked * (self.total - self.usage.asked)
            log.info("%s: %s of %s (%d %%), %s, about %s left", self.what, f"{self.usage.asked:,}", f"{self.total:,}",
                     100 * self.usage.asked // self.total, self.usage.rates(), duration(left))


def duration(seconds: float) -> str:
    """Readable to two units: "45 s", "3 min 20 s", "2 h 5 min", "3 d 4 h"."""
    whole = max(round(seconds), 0)
    units = ((86400, "d"), (3600, "h"), (60, "min"), (1, "s"))
    first = next((i for i, (size, _) in enumerate(units) if whole >= size), len(units) - 1)
    parts = []
    for size, name in units[first:first + 2]:
        parts.append(f"{whole // size} {name}")
        whole %= size
    return " ".join(part for i, part in enumerate(parts) if i == 0 or not part.startswith("0 "))


class _Visible(logging.Formatter):
    """Lines that cannot steer the terminal or tell a password, whatever a file name, a label or an address in them holds."""

    def format(self, record: logging.LogRecord) -> str:
        return visible(without_credentials(super().format(record)))


@lasting_streams()
def run_script(main: Callable[[], Any]) -> None:
    """Run a script's ``main`` as a command: messages to standard error, exit 2 for what the user can mend.

    Exit codes: 0 done, 1 a server gave up, 2 bad input, 130 interrupted, 143 terminated (what is finished is kept).
    """
    logging.basicConfig(level=logging.WARNING, stream=sys.stderr, format="%(message)s")
    for handler in logging.getLogger().handlers:
        handler.setFormatter(_Visible("%(message)s"))
    for name in ("syn_pipelines", "__main__"):  # ours tell what they do; other packages only what goes wrong
        logging.getLogger(name).setLevel(logging.INFO)
    stop, code = Stop(), 0
    try:
        with stoppable(stop):
            main()
    except (UserError, ServiceError, OSError) as err:
        code = _told(err)
    except KeyboardInterrupt:
        stop.number = stop.number or signal.SIGINT
    except Exception as err:  # an import that is interrupted may fail in any way
        if type(err).__name__ in ("OutOfMemoryError", "MemoryError"):  # torch's own is not imported for its name
            said = " ".join(str(err).split())[:200] or type(err).__name__
            code = _told(UserError(f"the memory does not suffice ({said}). Take smaller batches (--batch_size, "
                                   "--train_batch_size) or a larger machine; what is finished is kept."))
        elif not stop.number:
            raise
    if stop.number:
        tell(farewell(stop.number))
        code = exit_code(stop.number)
    if code:
        sys.exit(code)


def _told(err: Exception) -> int:
    """Print the one line about an error; its exit code."""
    stopped = isinstance(err, ServiceError)
    tell("stopped:" if stopped else "error:", _mendable(err) if isinstance(err, OSError) else err)
    return 1 if stopped else 2


def count_lines(path: Path) -> int:
    """Rows of a jsonl file; 0 when there is none."""
    try:
        file = open_regular(path)
    except FileNotFoundError:
        return 0
    with unpacked(file, path) as rows:
        return sum(1 for _ in lines_of(rows))
