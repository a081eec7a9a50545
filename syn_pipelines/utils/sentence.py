"""Sentences to look at, in a notebook or on a terminal: rows of the data files, shown with their spans.

    import syn_pipelines

    sentences = syn_pipelines.load("sample_zh", "try", train="fusion", size=250)
    sentences[3].show()
"""

from __future__ import annotations

import sys
from collections.abc import Collection, Iterator, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from itertools import islice
from pathlib import Path
from typing import Any, SupportsIndex, overload

from syn_pipelines.utils.display import Mark, block, colour_wheel, marked, text
from syn_pipelines.utils.dry_run import show
from syn_pipelines.utils.errors import UserError, did_you_mean
from syn_pipelines.utils.jsonl import Problems, read_objects
from syn_pipelines.utils.labels import AliasMap, read_target_labels
from syn_pipelines.utils.language import Language, language_of
from syn_pipelines.utils.manifest import read_manifest
from syn_pipelines.utils.options import PROJECT_ROOT, DataOptions, TextOptions
from syn_pipelines.utils.paths import SIZES, RunPaths
from syn_pipelines.utils.records import problems_of_entities, problems_of_row
from syn_pipelines.utils.visible import visible

SHOWN = 5  # sentences that a list of them shows
# Training sets of a run: the file, and the step that makes it.
SETS = {"gold": ("train_{n}", "s4_split_data"), "fusion": ("train_{n}_fusion", "s5_merge_data"),
        "synthetic": ("train_{n}_synthetic_fusion", "s5_merge_data"),
        "syn_fusion": ("train_{n}_syn_fusion", "s8_process_label_and_combine")}
SPLITS = ("train", "dev", "test")


@dataclass(frozen=True)
class Look:
    """What is known about the labels of a file. targets: None where nothing is; then all labels count as such.

    pos: labels of parts of speech. dense: how tokens join; None: as the sentence itself looks.
    """

    targets: Sequence[str] | None = None
    pos: Collection[str] = ()
    dense: bool | None = None

    def kind(self, label: str) -> str:
        """"target", "pos" or "entity": a label of labels.txt, or an extension label."""
        if self.targets is None or label in self.targets:
            return "target"
        return "pos" if label in self.pos else "entity"


class Sentence(dict):
    """A row of a data file, and as such a dict. It shows its tokens with target labels in solid boxes, extension labels in
    dashed ones, and parts of speech, where they are wanted, as dotted lines. ``predicted`` entities stand below the others,
    with a word where the two differ."""

    def __init__(self, row: Mapping[str, Any], look: Look | None = None) -> None:
        """row: ``text``, and ``entities``, ``predicted``, both or neither. look: see ``Look``.

        Raises:
            UserError: no such row.
        """
        super().__init__(row)
        self.look = look or Look()
        if problems := _problems(self):
            raise UserError(f"Sentence: {' '.join(problems)} The format of a row stands in data/README.md.")

    def show(self, *, pos: bool = False) -> None:
        """Show it here and now. pos: with the parts of speech."""
        _show(self.html(pos=pos), self.plain(pos=pos))

    def html(self, *, pos: bool = False) -> str:
        """What a notebook shows."""
        return block(self._card(pos), self._hint(pos))

    def plain(self, *, pos: bool = False) -> str:
        """What a terminal shows: the text, and a line for each span."""
        language = self._language
        lines = [(f"{self['id']}  " if "id" in self else "") + language.join(self["text"])]
        for name, marks in self._lines(pos):
            for mark in sorted(marks, key=lambda one: one.order):
                words = [mark.label, f"[{mark.start}, {mark.end})", language.join(self["text"][mark.start:mark.end])]
                lines.append("  " + "  ".join(word for word in (name, *words, mark.said) if word))
        return visible("\n".join(lines))

    def _repr_html_(self) -> str:
        return self.html()

    def __repr__(self) -> str:
        return self.plain()

    __str__ = __repr__

    def _card(self, pos: bool) -> str:
        joiner, hue = self._language.join(["", ""]), colour_wheel(self.look.targets or ())
        head = [f"<code>{text(self['id'])}</code>"] if "id" in self else []
        head += [f"synthetic, written from <code>{text(self['source_id'])}</code>"] if "source_id" in self else []
        parts = [f'<p class="mute">{" ".join(head)}</p>'] if head else []
        for name, marks in self._lines(pos):
            which = f'<span class="which">{name}</span>' if name else ""
            body = marked(self["text"], marks, joiner=joiner, hue=hue)
            parts.append(f'<div class="line">{which}<div class="text" dir="auto">{body}</div></div>')
        return f'<div class="one">{"".join(parts)}</div>'

    def _hint(self, pos: bool) -> str:
        """How to see what is left out."""
        hidden = not pos and any(self.look.kind(entity["entity"]) == "pos" for entity in self.get("entities", ()))
        return '<p class="mute">With parts of speech: <code>.show(pos=True)</code></p>' if hidden else ""

    def _lines(self, pos: bool) -> Iterator[tuple[str, list[Mark]]]:
        """(name, spans) of each line to show: the entities, the predicted ones, or both."""
        entities, predicted = ([self._mark(e) for e in self.get(key, ())] for key in ("entities", "predicted"))
        if "predicted" not in self:
            yield "", [mark for mark in entities if pos or mark.kind != "pos"]
        elif "entities" not in self:
            yield "", predicted
        else:
            gold, found = ({(m.start, m.end, m.label) for m in marks} for marks in (entities, predicted))
            yield "gold", [self._said(mark, "missed", found) for mark in entities if pos or mark.kind != "pos"]
            yield "predicted", [self._said(mark, "not gold", gold) for mark in predicted]

    def _mark(self, entity: Mapping[str, Any]) -> Mark:
        score = entity.get("score")
        return Mark(entity["start"], entity["end"], entity["entity"], self.look.kind(entity["entity"]),
                    score=score if isinstance(score, float) else None)

    @staticmethod
    def _said(mark: Mark, word: str, others: Collection[tuple[int, int, str]]) -> Mark:
        """With a word where the others lack it. Extension labels are never predicted, so they are not missed."""
        known = mark.kind != "target" or (mark.start, mark.end, mark.label) in others
        return mark if known else Mark(mark.start, mark.end, mark.label, mark.kind, word, mark.score)

    @property
    def _language(self) -> Language:
        found = language_of(TextOptions(), [self["text"]])
        return found if self.look.dense is None else Language(self.look.dense, found.lang)


class Sentences(list):
    """A list of ``Sentence``; a notebook shows the first of them."""

    def __init__(self, sentences: Sequence[Sentence] = (), name: str = "") -> None:
        """name: where they come from."""
        super().__init__(sentences)
        self.name = name

    @overload
    def __getitem__(self, place: SupportsIndex) -> Sentence: ...

    @overload
    def __getitem__(self, place: slice) -> Sentences: ...

    def __getitem__(self, place: Any) -> Any:
        found = super().__getitem__(place)
        return Sentences(found, self.name) if isinstance(place, slice) else found

    def show(self, n: int = SHOWN, *, pos: bool = False) -> None:
        """Show the first ``n``; ``sentences[20:30].show(10)`` shows others."""
        _show(self.html(n, pos=pos), self.plain(n, pos=pos))

    def html(self, n: int = SHOWN, *, pos: bool = False) -> str:
        """What a notebook shows."""
        head = f'<p class="head">{text(self._title(n))} <span class="mute">{text(self.name)}</span></p>'
        cards = [sentence._card(pos) for sentence in self[:n]]
        return block(head, *cards, next(filter(None, (sentence._hint(pos) for sentence in self[:n])), ""))

    def plain(self, n: int = SHOWN, *, pos: bool = False) -> str:
        """What a terminal shows."""
        return "\n".join([f"{self._title(n)}  {visible(self.name)}".rstrip(), *(one.plain(pos=pos) for one in self[:n])])

    def _title(self, n: int) -> str:
        return f"{len(self):,} sentence{'' if len(self) == 1 else 's'}" + (f", the first {n:,}:" if len(self) > n else "")

    def _repr_html_(self) -> str:
        return self.html()

    def __repr__(self) -> str:
        return self.plain()


def load(file_name: str, save_type_name: str = "", *, train: str = "fusion", size: int = 1000, split: str = "train",
         file_dir: str | Path = DataOptions.file_dir, limit: int | None = None) -> Sentences:
    """Sentences of a data set, or of a training set that a run has made of it.

    Args:
        file_name, file_dir: the data set. save_type_name: the run; without it the sentences of the data set.
        train: "gold", "fusion", "synthetic" (the synthetic half alone) or "syn_fusion". size: 250, 500 or 1000.
        split: "dev" and "test" are those of the data set. limit: the first so many; None: all of them, in memory.
    Raises:
        UserError: there is no such file, or it is broken.
    """
    for what, value, known in (("train", train, tuple(SETS)), ("size", size, tuple(SIZES)), ("split", split, SPLITS)):
        if value not in known:
            raise UserError(f"load: {what}={value!r} is none of {', '.join(map(str, known))}"
                            f"{did_you_mean(value, [str(name) for name in known])}.")
    paths = RunPaths.of(DataOptions(str(file_dir), file_name, save_type_name or DataOptions.save_type_name))
    if split != "train":
        return read(paths.split(split), limit=limit, missing="The data set has none; step 0 cuts one off.")
    if not save_type_name:
        return read(paths.train, limit=limit, missing=paths.missing_train)
    file, script = SETS[train]
    return read(paths.sized(size, file), limit=limit, missing=paths.missing(script))


def read(path: str | Path, *, limit: int | None = None, missing: str = "") -> Sentences:
    """Sentences of one file: of a data set, of a run, or what ``eval_ner`` saved with ``save_predictions``.

    Args:
        limit: the first so many; None: all of them, in memory. missing: advice where there is no such file.
    Raises:
        UserError: there is no such file, or it is broken (names its lines).
    """
    path, rows = Path(path), []
    problems = Problems(path, "Correct these lines.")
    for line, row in islice(read_objects(path, problems, missing), limit):
        found = _problems(row)
        for problem in found:
            problems.add(line, problem)
        if not found:
            rows.append({"id": str(row.get("id", line)), **{key: value for key, value in row.items() if key != "id"}})
    problems.raise_if_any()
    look = look_of(path, rows)
    return Sentences([Sentence(row, look) for row in rows], str(path))


def look_of(path: Path, rows: Sequence[Mapping[str, Any]]) -> Look:
    """What the files around a data file tell about it: labels.txt of its data set, its manifest."""
    targets = None
    for folder in (path.parent, *path.absolute().parent.parents[:2]):
        if (folder / "labels.txt").is_file():
            with suppress(UserError):  # a file of somebody else
                targets = tuple(read_target_labels(folder / "labels.txt"))
            break
    settings = read_manifest(path).get("settings") or {}
    prefix, pos = str(settings.get("label_prefix") or ""), ()
    with suppress(UserError):
        pos = AliasMap.load(PROJECT_ROOT / "data" / "fusion_knowledge" / "pos_label.json", fallback="WORD").labels
    dense = language_of(TextOptions(), (row["text"] for row in rows)).dense if rows else None
    forced = settings.get("dense")
    return Look(targets, frozenset(prefix + name for name in pos), forced if isinstance(forced, bool) else dense)


def _problems(row: Mapping[str, Any]) -> list[str]:
    """What is wrong with a row; ``entities`` and ``predicted`` may both be missing."""
    found = problems_of_row({**row, "entities": row.get("entities", [])}, None)
    if not found and "predicted" in row:
        found = problems_of_entities(row["predicted"], row["text"], key="predicted")
    return found


def _show(page: str, plain: str) -> None:
    """Into a notebook, or as text where there is none."""
    ipython = sys.modules.get("IPython")
    if ipython and ipython.get_ipython():
        ipython.display.display({"text/html": page, "text/plain": plain}, raw=True)
    else:
        show(plain)
