"""What the doctor's checks are made of: one finding a line, each problem with its fix."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from dataclasses import asdict, dataclass, field
from functools import cached_property
from typing import Any

from syn_pipelines.utils.errors import UserError
from syn_pipelines.utils.paths import RunPaths
from syn_pipelines.utils.summary import columns

STATUSES = ("ok", "warning", "problem")


@dataclass(frozen=True)
class Check:
    """One finding. ``status``: "ok", "warning" (it works, but not as well as it could) or "problem"."""

    name: str
    status: str
    found: str
    fix: str = ""


def ok(name: str, found: str) -> Check:
    """Nothing to do."""
    return Check(name, "ok", found)


def warning(name: str, found: str, fix: str) -> Check:
    """It works, but there is something to know."""
    return Check(name, "warning", found, fix)


def problem(name: str, found: str, fix: str) -> Check:
    """A run would stop, or never be of use."""
    return Check(name, "problem", found, fix)


@dataclass
class Case:
    """What is looked at. ``llm``: options of step 1; ``merge``: of step 5."""

    llm: Any
    merge: Any
    found: dict[str, Any] = field(default_factory=dict)  # by earlier checks, for later ones

    @cached_property
    def backend(self) -> Any:
        """The backend that the flags choose, nothing loaded. Raises UserError where nothing can be chosen."""
        from syn_pipelines.utils.llm import choose_backend

        return choose_backend(self.llm)

    @property
    def backend_name(self) -> str:
        """"" where none can be chosen."""
        try:
            return self.backend.name
        except UserError:
            return ""

    @property
    def is_local(self) -> bool:
        """Whether the model's weights would be read by this machine."""
        return self.backend_name in ("transformers", "glm3")

    @property
    def has_data(self) -> bool:
        """Whether the data set is there; the first check of it says so, the others need not repeat it."""
        try:
            return bool(self.paths)
        except UserError:
            return False

    @cached_property
    def paths(self) -> RunPaths:
        """Raises UserError: no such data set."""
        return RunPaths.of(self.llm)


Look = Callable[[Case], Iterable[Check]]


def looked_at(name: str, look: Look, case: Case) -> Iterator[Check]:
    """The findings of one check; whatever it raises is a finding too."""
    try:
        yield from look(case)
    except UserError as err:
        yield told(name, err)
    except Exception as err:  # a doctor that dies of a disease helps nobody
        text = " ".join(str(err).split())[:300]
        yield problem(name, f"{type(err).__name__}: {text}", "This check itself broke; the message may say more. "
                      "Mend what it names, or reinstall with: pip install -r requirements.txt")


def told(name: str, err: UserError) -> Check:
    """A user error as a finding: its last sentence is what to do."""
    found, _, fix = str(err).strip().rpartition(". ")
    return problem(name, found or fix, fix if found else "Do what the message says.")


@dataclass
class Report:
    """All findings."""

    checks: list[Check]

    @property
    def ok(self) -> bool:
        """Whether nothing is a problem."""
        return all(check.status != "problem" for check in self.checks)

    def as_dict(self) -> dict[str, Any]:
        """``{"ok", "checks": [{"name", "status", "found", "fix"}]}``."""
        return {"ok": self.ok, "checks": [asdict(check) for check in self.checks]}

    def __str__(self) -> str:
        width = max((columns(check.name) for check in self.checks), default=0)
        lines = []
        for check in self.checks:
            head = f"{check.status:<8} {check.name + ' ' * (width - columns(check.name))}  "
            indent = "\n" + " " * columns(head)
            lines.append(head + check.found.replace("\n", indent))
            if check.fix:
                lines[-1] += indent + "fix: " + check.fix.replace("\n", indent)
        counts = {status: sum(check.status == status for check in self.checks) for status in STATUSES}
        verdict = "nothing stands in the way" if self.ok else "see the fixes above"
        return "\n".join([*lines, "", f"{counts['ok']} ok, {_many(counts['warning'], 'warning')}, "
                          f"{_many(counts['problem'], 'problem')}: {verdict}."])


def _many(count: int, what: str) -> str:
    return f"{count} {what}{'' if count == 1 else 's'}"
