"""What a file of another program says about one sentence, before it is checked, and the checks."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from typing import Any

from syn_pipelines.interchange.offsets import CODE_POINTS, UTF16, Layout, beyond_bmp, first_difference, index
from syn_pipelines.text.tokens import tokenize_around
from syn_pipelines.utils.fusion import LabelledSpan
from syn_pipelines.utils.labels import OUTSIDE, name_problem
from syn_pipelines.utils.records import short

# How a sentence ended in the tool.
DONE, UNKNOWN, NOT_DONE = "done", "unknown", "not done"


@dataclass(frozen=True)
class Mark:
    """A span as the tool has it: character offsets, or those of tokens. surface: the text that it says is there."""

    start: Any
    end: Any
    label: Any
    surface: str | None = None


@dataclass
class Found:
    """One row. text: None where the format has tokens only. tokens: None where the row was not exported by us, then it
    is cut into some. exported: the spans that were sent out, where they came back. in_tokens: what offsets count."""

    line: int
    id: str
    marks: Sequence[Mark]
    text: str | None = None
    tokens: list[str] | None = None
    exported: list[LabelledSpan] | None = None
    status: str = UNKNOWN
    synthetic: bool = False
    source_id: str = ""
    in_tokens: bool = False


@dataclass(frozen=True)
class Checked:
    """A row that is as it should be; spans are half-open token offsets, each once, sorted."""

    line: int
    id: str
    tokens: list[str]
    spans: list[LabelledSpan]
    exported: list[LabelledSpan] | None
    status: str
    synthetic: bool
    source_id: str


@dataclass
class Checker:
    """Checks rows, and counts what it mended.

    joiner: "" or " ", for texts without tokens; with tokens the text tells. unit: what offsets count. page: what those count
    that were drawn on the page of a tool, where that is something else ("": it is not); a span that went out came back as
    it was.
    """

    joiner: str
    unit: str
    page: str = ""
    counts: Counter[str] = field(default_factory=Counter)  # blank trimmed, repeated

    def checked(self, found: Found) -> Checked:
        """ValueError says what is wrong with the row, one problem a line."""
        tokens = found.tokens
        if tokens is not None and (not tokens or not all(isinstance(token, str) and token for token in tokens)):
            raise ValueError(f"'tokens' must be a list of texts that are not empty, got {short(tokens)}.")
        problems: list[str] = []
        if tokens is None:
            tokens, spans = self._cut(found, problems)
        else:
            layout = Layout(tokens, self._fitting(tokens, found.text), self.unit)
            spans = [span for mark in found.marks if (span := self._span(mark, found, layout, problems))]
        if problems:
            raise ValueError("\n".join(problems))
        self.counts["repeated"] += len(spans) - len(set(spans))
        exported = None if found.exported is None else sorted(set(found.exported))
        if exported and (bad := [span for span in exported if not 0 <= span[0] < span[1] <= len(tokens)]):
            raise ValueError(f"'exported' holds the span {bad[0]}, but the text has {len(tokens)} tokens.")
        return Checked(found.line, found.id, tokens, sorted(set(spans)), exported, found.status, found.synthetic,
                       found.source_id)

    def _fitting(self, tokens: list[str], text: str | None) -> str:
        """What joins the tokens to the text. ValueError where neither way does."""
        if text is None:
            return self.joiner
        ways = sorted(("", " "), key=lambda joiner: joiner != self.joiner)
        for joiner in ways:
            if joiner.join(tokens) == text:
                return joiner
        expected = max((joiner.join(tokens) for joiner in ways), key=lambda joined: first_difference(joined, text))
        at = first_difference(expected, text)
        raise ValueError(f"the text is not that of its tokens from character {at} on: expected {short(expected[at:])}, "
                         f"found {short(text[at:])}.")

    def _span(self, mark: Mark, found: Found, layout: Layout, problems: list[str]) -> LabelledSpan | None:
        """The tokens of a mark; None, and a problem noted, where it has none."""
        if problem := mark_problem(mark):
            problems.append(problem)
            return None
        if found.in_tokens:
            if 0 <= mark.start < mark.end <= len(layout.tokens):
                return mark.start, mark.end, mark.label
            problems.append(f"the span from token {mark.start} to {mark.end} does not lie in the {len(layout.tokens)} tokens.")
            return None
        if self._is_drawn(mark, found, layout):
            layout = Layout(layout.tokens, layout.joiner, self.page)
        span = layout.inside(mark.start, mark.end)
        here = layout.shown(mark.start, mark.end)
        if span is None:
            problems.append(f"the span {mark.start} to {mark.end} ({mark.label}), which is {short(here)}, does not begin and "
                            f"end with a token{self._other_unit(mark, layout)}.")
            return None
        self.counts["blank trimmed"] += layout.outside(*span) != (mark.start, mark.end)
        if mark.surface is not None and not same_surface(mark.surface, here):
            problems.append(f"the span {mark.start} to {mark.end} ({mark.label}) should be {short(mark.surface)}, but the text "
                            f"there is {short(here)}{self._other_unit(mark, layout)}.")
            return None
        return *span, mark.label

    def _is_drawn(self, mark: Mark, found: Found, layout: Layout) -> bool:
        """Whether the offsets are those of the page: where the two differ, all but those that went out."""
        if not self.page or found.exported is None or not beyond_bmp(layout.text):
            return False
        span = layout.inside(mark.start, mark.end)
        return span is None or (*span, mark.label) not in found.exported

    def _other_unit(self, mark: Mark, layout: Layout) -> str:
        """Advice where the offsets would fit if they counted otherwise."""
        if not beyond_bmp(layout.text):
            return ""
        other = UTF16 if layout.unit == CODE_POINTS else CODE_POINTS
        counted = Layout(layout.tokens, layout.joiner, other)
        fits = counted.inside(mark.start, mark.end) is not None
        if fits and (mark.surface is None or same_surface(mark.surface, counted.shown(mark.start, mark.end))):
            return f"; it would in {NAMES[other]}: use --offsets={other} if the whole file counts so"
        return ""

    def _cut(self, found: Found, problems: list[str]) -> tuple[list[str], list[LabelledSpan]]:
        """Tokens of a text that came without, so that every mark falls on their edges."""
        text, edges, labels = found.text or "", [], []
        for mark in found.marks:
            problem, where = mark_problem(mark), f"the span {mark.start} to {mark.end} ({mark.label})"
            at, to = (None, None) if problem else (index(text, mark.start, self.unit), index(text, mark.end, self.unit))
            if not problem and (at is None or to is None or at >= to):
                problem = f"{where} does not lie in the {len(text)} characters of the text."
            elif not problem and mark.surface is not None and not same_surface(mark.surface, text[at:to]):
                problem = f"{where} should be {short(mark.surface)}, but the text there is {short(text[at:to])}."
            if problem:
                problems.append(problem)
            else:
                edges.append((at, to))
                labels.append(mark.label)
        tokens, spans = tokenize_around(text, edges, dense=not self.joiner)
        if not tokens:
            problems.append("the text holds no token.")
        problems += [f"the span {start} to {end} covers white space only." for start, end in spans if start == end]
        return tokens, [(start, end, label) for (start, end), label in zip(spans, labels)]


NAMES = {CODE_POINTS: "code points", UTF16: "UTF-16 code units"}


def mark_problem(mark: Mark) -> str:
    """What is wrong with a mark whatever the text, "" when nothing is."""
    if type(mark.start) is not int or type(mark.end) is not int:
        return f"a span needs whole numbers as offsets, got {short(mark.start)} and {short(mark.end)}."
    if not isinstance(mark.label, str) or not mark.label or mark.label == OUTSIDE:
        return f"the span {mark.start} to {mark.end} needs a label, got {short(mark.label)}."
    if problem := name_problem(mark.label):
        return f"the label {short(mark.label)} {problem}."
    return ""


def same_surface(said: str, here: str) -> bool:
    r"""Whether a tool means the text that is there: pages show blanks and line ends as they like (``\n`` as two
    characters, two blanks as one), all other characters must be equal."""
    return said == here or _plain(said) == _plain(here)


def _plain(text: str) -> str:
    return "".join(text.replace("\\r", "").replace("\\n", "").split())


def spans_of(value: Any) -> list[LabelledSpan] | None:
    """The ``exported`` of a row: [[start, end, label]]; None where there is none. ValueError where it is broken."""
    if value is None:
        return None
    if not isinstance(value, list) or not all(_is_span(span) for span in value):
        raise ValueError(f"'exported' must hold [start, end, label] lists, got {short(value)}.")
    return [(span[0], span[1], span[2]) for span in value]


def _is_span(value: Any) -> bool:
    return (isinstance(value, list) and len(value) == 3 and type(value[0]) is int and type(value[1]) is int
            and isinstance(value[2], str))


def tokens_of(value: Any) -> list[str] | None:
    """The ``tokens`` of a row; None where there are none. ValueError where it is no list."""
    if value is None or isinstance(value, list):
        return value
    raise ValueError(f"'tokens' must be a list, got {short(value)}.")


def identity_of(*values: Any) -> str:
    """The first of the values that can be an id, as a text; "" where none can."""
    good = (value for value in values if isinstance(value, (str, int)) and not isinstance(value, bool) and value != "")
    return str(next(good, ""))


def marks_of(rows: Iterable[Sequence[Any]]) -> list[Mark]:
    """Marks of [start, end, label] rows."""
    return [Mark(*row[:3]) for row in rows]
