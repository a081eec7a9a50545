"""What the span model reads: sentences with entities, label sets, vocabularies and batches. No torch here.

Entities are ``(start, end, label)`` triples, half-open token offsets, and may nest.
"""

from __future__ import annotations

import random
import unicodedata
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from itertools import accumulate, pairwise
from pathlib import Path

from syn_pipelines.utils.errors import UserError
from syn_pipelines.utils.jsonl import read_json
from syn_pipelines.utils.labels import OUTSIDE, name_problem, read_target_labels
from syn_pipelines.utils.language import DENSE_SHARE

Entity = tuple[int, int, str]

PAD_ID, UNKNOWN_ID = 0, 1
# Feature columns by kind of text: every column gives one string a token, and has its own vocabulary.
DENSE_COLUMNS = ("token", "bigram")
SPACED_COLUMNS = ("token", "lower", "shape", "prefix2", "prefix3", "suffix2", "suffix3", "bigram")
# Strings rarer than this share the unknown id: a pair of tokens seen once says nothing about any other sentence.
MIN_COUNT = {"bigram": 2, "prefix2": 2, "prefix3": 2, "suffix2": 2, "suffix3": 2, "shape": 2}


# Span cells computed at once: at 200 channels of 4 bytes about 100 MB for each of the dozen tensors of that shape.
MOST_CELLS = 1 << 17
# A sentence of more tokens is cut into pieces, best after one of these characters: the end of a sentence or line, else
# of a clause.
MAX_TOKENS = 512
SENTENCE_ENDS = frozenset("。！？!?.;；\n\r\v\f\x85\u2028\u2029")
CLAUSE_ENDS = frozenset("，、,:：")


@dataclass(frozen=True)
class Sentence:
    """Tokens and their entities, each ``0 <= start < end <= len(tokens)``; synthetic: written by the LLM, not found."""

    tokens: tuple[str, ...]
    entities: tuple[Entity, ...] = ()
    synthetic: bool = False

    @classmethod
    def from_record(cls, record: Mapping) -> Sentence:
        """From ``{"text": [token], "entities": [{"start", "end", "entity"}], "synthetic": bool}``; order kept.

        Duplicates are dropped.

        Raises:
            UserError: an entity lies outside the tokens or is empty.
        """
        tokens = tuple(record["text"])
        found = [(e["start"], e["end"], e["entity"]) for e in record.get("entities", ())]
        for start, end, label in found:
            if not 0 <= start < end <= len(tokens):
                raise UserError(
                    f"entity {label} at [{start}, {end}) does not fit a sentence of {len(tokens)} tokens "
                    f"({' '.join(tokens)[:60]!r}). Correct its offsets (end is exclusive)."
                )
        return cls(tokens, tuple(dict.fromkeys(found)), record.get("synthetic") is True)


# --------------------------------------------------------------------------------------------------------------------
# Labels


@dataclass(frozen=True)
class LabelSet:
    """Target labels (predicted), then extension labels (learned beside them, never predicted); ``O`` is in neither.

    counts: number of training spans by extension label, as the label file says; they set the loss weights.
    """

    targets: tuple[str, ...]
    extensions: tuple[str, ...] = ()
    counts: Mapping[str, int] = field(default_factory=dict)

    def __post_init__(self) -> None:
        if not self.targets:
            raise UserError("the label set holds no target label. Name at least one besides O.")
        repeated = [name for name, n in Counter(self.names).items() if n > 1]
        if repeated or OUTSIDE in self.names:
            raise UserError(f"label {(repeated or [OUTSIDE])[0]!r} stands twice in the label set. Keep one of them.")

    @property
    def names(self) -> tuple[str, ...]:
        """All labels in the order of the model's score planes: targets first."""
        return self.targets + self.extensions

    def to_dict(self) -> dict[str, dict]:
        """The label file: ``{"O": {"idx": 0, "count": -1, "is_target": true}, ...}``."""
        rows = {OUTSIDE: {"idx": 0, "count": -1, "is_target": True}}
        for idx, name in enumerate(self.names, start=1):
            target = idx <= len(self.targets)
            rows[name] = {"idx": idx, "count": -1 if target else self.counts.get(name, 1), "is_target": target}
        return rows

    @classmethod
    def from_dict(cls, rows: Mapping[str, Mapping], source: str = "label file") -> LabelSet:
        """The inverse of ``to_dict``; ``source`` names the file in errors.

        Raises:
            UserError: ``O`` is not first, a target follows an extension label, or a count is missing or below 1.
        """
        if next(iter(rows), None) != OUTSIDE:
            raise UserError(f"{source}: the first label is {next(iter(rows), None)!r}, not 'O'. Put O first.")
        targets, extensions, counts = [], [], {}
        for name, row in list(rows.items())[1:]:
            if problem := name_problem(name):
                raise UserError(f"{source}: label {name!r} {problem}. Rename it.")
            if not isinstance(row, Mapping) or not isinstance(row.get("is_target"), bool):
                raise UserError(f"{source}: label {name!r} has no \"is_target\" true or false. Add it.")
            if row["is_target"]:
                if extensions:
                    raise UserError(f"{source}: target label {name!r} stands after extension label "
                                    f"{extensions[-1]!r}. Put all targets directly after O.")
                targets.append(name)
                continue
            count = row.get("count")
            if type(count) is not int or count < 1:
                raise UserError(f"{source}: extension label {name!r} has count {count!r}; it needs at least 1. "
                                "Write the number of its spans, or remove the label.")
            extensions.append(name)
            counts[name] = count
        return cls(tuple(targets), tuple(extensions), counts)

    @classmethod
    def from_targets(cls, names: Iterable[str]) -> LabelSet:
        """From a plain list of labels as in labels.txt; ``O`` is skipped."""
        return cls(tuple(name for name in names if name != OUTSIDE))

    @classmethod
    def read(cls, path: Path, missing: str = "Make it with s5_merge_data.py, or name another label file.") -> LabelSet:
        """A ``.json`` label file, or any other file as a list of target labels as in labels.txt.

        missing: what to do when the file does not exist.

        Raises:
            UserError: missing file, broken JSON, or one of the mistakes of ``from_dict``.
        """
        if path.suffix != ".json":
            return cls.from_targets(read_target_labels(path))
        rows = read_json(path, missing)
        if not isinstance(rows, dict):
            raise UserError(f"{path}:1: a label file holds one JSON object, this is a {type(rows).__name__}. "
                            "Make the file again.")
        return cls.from_dict(rows, str(path))


def unknown_labels(sentences: Iterable[Sentence], labels: LabelSet) -> Counter[str]:
    """Labels of the sentences that the label set does not hold, with their number of spans."""
    known = set(labels.names)
    return Counter(label for s in sentences for _, _, label in s.entities if label not in known)


def overlaps_of(sentences: Iterable[Sentence], labels: Iterable[str]) -> str:
    """How entities with these labels overlap, as the decode mode that can give all of them (but crossing ones).

    Returns:
        "multilabel" when a span has two labels anywhere, else "nested" when two entities overlap, else "flat".
    """
    wanted = set(labels)
    found = "flat"
    for sentence in sentences:
        spans = sorted((s, e) for s, e, label in sentence.entities if label in wanted)
        for previous, following in pairwise(spans):
            if following == previous:
                return "multilabel"
            if following[0] < previous[1]:
                found = "nested"
    return found


def count_crossing(sentences: Iterable[Sentence], labels: Iterable[str]) -> int:
    """Number of entities with these labels that cross an earlier one of their sentence: no decode mode gives both."""
    wanted = set(labels)
    crossing = 0
    for sentence in sentences:
        spans = sorted({(s, e) for s, e, label in sentence.entities if label in wanted}, key=lambda span: (span[0], -span[1]))
        around: list[int] = []  # ends of the spans that the next one may lie in, the innermost last
        for start, end in spans:
            while around and around[-1] <= start:
                around.pop()
            crossing += any(outer < end for outer in around)
            around.append(end)
            around.sort(reverse=True)
    return crossing


# --------------------------------------------------------------------------------------------------------------------
# Long sentences


def split_long(tokens: Sequence[str], limit: int, entities: Iterable[Entity] = ()) -> list[tuple[int, int]]:
    """Where to cut a sentence so that no piece has more than ``limit`` tokens.

    A cut goes through as few entities as can be, then stands after the end of a sentence rather than of a clause, and of
    a clause rather than anywhere, and makes the piece before it as long as can be.

    Args:
        limit: at least 1.
        entities: an entity longer than ``limit`` cannot be kept whole and plays no part.
    Returns:
        (start, end) of each piece, half-open token offsets; together they are the sentence. A sentence that is not too
        long is one piece; one without tokens has none.
    """
    if limit < 1:
        raise ValueError(f"limit must be at least 1, got {limit}")
    if len(tokens) <= limit:
        return [(0, len(tokens))] if tokens else []
    crossed = [0] * (len(tokens) + 1)  # by a cut before this token: first the changes, then their running sums
    for start, end, _ in entities:
        if 1 < end - start <= limit:
            crossed[start + 1] += 1
            crossed[end] -= 1
    crossed = list(accumulate(crossed))
    kind = [0, *((t[-1:] in CLAUSE_ENDS) + 2 * (t[-1:] in SENTENCE_ENDS) for t in tokens)]  # of a cut before this token
    pieces, start = [], 0
    while len(tokens) - start > limit:
        cut = max(range(start + 1, start + limit + 1), key=lambda c: (-crossed[c], kind[c], c))
        pieces.append((start, cut))
        start = cut
    return [*pieces, (start, len(tokens))]


def split_sentence(sentence: Sentence, limit: int) -> list[Sentence]:
    """The sentence in pieces of at most ``limit`` tokens; an entity that does not lie within one piece is left out."""
    if len(sentence.tokens) <= limit:
        return [sentence]
    return [
        replace(sentence, tokens=sentence.tokens[first:last],
                entities=tuple((s - first, e - first, label) for s, e, label in sentence.entities if first <= s and e <= last))
        for first, last in split_long(sentence.tokens, limit, sentence.entities)
    ]


# --------------------------------------------------------------------------------------------------------------------
# Features of the model that is trained from nothing


def is_dense(sentences: Iterable[Sentence]) -> bool:
    """Whether at least 95 % of the tokens are one code point, as in Chinese data split by character."""
    lengths = Counter(len(token) == 1 for sentence in sentences for token in sentence.tokens)
    return lengths[True] >= DENSE_SHARE * lengths.total()


def word_shape(token: str) -> str:
    """Case and kind of the characters, runs shortened to two: ``McDonald's`` is ``XxXxx'x``, ``1998`` is ``dd``."""
    shape: list[str] = []
    for char in token:
        kind = unicodedata.category(char)
        mark = "X" if kind in ("Lu", "Lt") else "x" if kind == "Ll" else "d" if kind[0] == "N" else (
            "c" if kind[0] == "L" else char)
        if shape[-2:] != [mark, mark]:
            shape.append(mark)
    return "".join(shape)


def feature_strings(tokens: Sequence[str], column: str) -> list[str]:
    """The strings of one feature column, one a token. ``bigram`` joins a token with the next one (or the end).

    Raises:
        ValueError: unknown column.
    """
    if column == "token":
        return list(tokens)
    if column == "bigram":
        return [f"{a}\t{b}" for a, b in zip(tokens, [*tokens[1:], ""])]
    if column == "lower":
        return [token.lower() for token in tokens]
    if column == "shape":
        return [word_shape(token) for token in tokens]
    if column[:6] in ("prefix", "suffix") and column[6:].isdigit():
        size = int(column[6:])
        return [token[:size] if column[0] == "p" else token[-size:] for token in tokens]
    raise ValueError(f"unknown feature column {column!r}")


class Vocabulary:
    """Feature columns and their known strings; ids 0 (padding) and 1 (unknown) come first in every column."""

    def __init__(self, columns: Mapping[str, Sequence[str]]) -> None:
        self.columns = {name: tuple(strings) for name, strings in columns.items()}
        self._ids = {
            name: {string: idx for idx, string in enumerate(strings, start=UNKNOWN_ID + 1)}
            for name, strings in self.columns.items()
        }

    @classmethod
    def build(cls, sentences: Sequence[Sentence], dense: bool | None = None) -> Vocabulary:
        """All strings of the training sentences that are frequent enough, by falling frequency, then by name."""
        names = DENSE_COLUMNS if (is_dense(sentences) if dense is None else dense) else SPACED_COLUMNS
        columns = {}
        for name in names:
            counts = Counter(string for s in sentences for string in feature_strings(s.tokens, name))
            kept = [string for string, n in counts.items() if n >= MIN_COUNT.get(name, 1)]
            columns[name] = sorted(kept, key=lambda string: (-counts[string], string))
        return cls(columns)

    @property
    def sizes(self) -> dict[str, int]:
        """Number of ids by column, padding and unknown included."""
        return {name: len(strings) + UNKNOWN_ID + 1 for name, strings in self.columns.items()}

    def encode(self, tokens: Sequence[str]) -> list[list[int]]:
        """Ids by column, then by token."""
        return [
            [ids.get(string, UNKNOWN_ID) for string in feature_strings(tokens, name)]
            for name, ids in self._ids.items()
        ]


# --------------------------------------------------------------------------------------------------------------------
# Batches


def batch_order(lengths: Sequence[int], batch_size: int, *, seed: int, epoch: int) -> list[list[int]]:
    """One epoch's batches of sentence indices: similar lengths together, a pure function of the arguments.

    Sentences are shuffled, sorted by length within pools of 16 batches, cut into batches, and the batches are
    shuffled. Every index appears exactly once; only the batch that ends a pool may be smaller than ``batch_size``.
    """
    rng = random.Random(f"{seed}:{epoch}")
    order = rng.sample(range(len(lengths)), len(lengths))
    pool_size = 16 * batch_size
    batches: list[list[int]] = []
    for first in range(0, len(order), pool_size):
        pool = sorted(order[first : first + pool_size], key=lambda idx: lengths[idx])
        batches += [pool[k : k + batch_size] for k in range(0, len(pool), batch_size)]
    rng.shuffle(batches)
    return batches


def within_cells(batch: Sequence[int], cells: Sequence[int], limit: int = MOST_CELLS) -> list[list[int]]:
    """Cut a batch so that no part holds more than ``limit`` span cells, unless a single sentence does.

    Args:
        batch: sentence indices. cells: span cells by index.
    """
    parts: list[list[int]] = []
    room = 0
    for idx in batch:
        if not parts or cells[idx] > room:
            parts.append([])
            room = limit
        parts[-1].append(idx)
        room -= cells[idx]
    return parts


def chunked(items: Iterable, size: int) -> Iterator[list]:
    """Consecutive lists of ``size`` items, the last one shorter; reads ahead no further than the list it gives."""
    chunk: list = []
    for item in items:
        chunk.append(item)
        if len(chunk) == size:
            yield chunk
            chunk = []
    if chunk:
        yield chunk
