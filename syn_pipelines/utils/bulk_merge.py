"""Merging fast: every sentence once, however many of the nested subsets hold it, in one process or in several.

Lines of the files travel in frames: those of a sentence and of its annotations, found by their ids without being parsed. A
merger turns a frame into merged lines and counts. Anything that is not as it should be ends the fast way with ``Careful``:
``merging`` then finds the words for it. Where both get through, they give the same bytes.
"""

from __future__ import annotations

import os
import re
from collections import deque
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import ExitStack
from itertools import accumulate, chain
from json.encoder import JSONEncoder, encode_basestring
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import orjson

from syn_pipelines.utils.compact import IdMap
from syn_pipelines.utils.errors import UserError
from syn_pipelines.utils.fusion import Items, LabelledSpan, as_entity
from syn_pipelines.utils.jsonl import MAX_LINE, lines_of, may_lose_digits, open_input, parsed
from syn_pipelines.utils.labels import Labels
from syn_pipelines.utils.merging import Merged, Merger, items_of
from syn_pipelines.utils.packing import Output
from syn_pipelines.utils.paths import MODES, RunPaths
from syn_pipelines.utils.records import Record, problems_of_entities, problems_of_row
from syn_pipelines.utils.reviews import Reviews
from syn_pipelines.utils.workers import working

FRAME = 1 << 19  # bytes of lines in a frame, more or less: what a worker holds at once
_ANNOTATED, _LABELLED = (b', "reply": "', b', "items": ['), (b', "entities": [',)  # see ``_row``
_ABSENT = b"\n"  # in place of a line
_ID = re.compile(rb'\{"id": "([^"\\]+)"')
_TEXT = re.compile(rb'\{"id": "[^"\\]+", "text": \[(?=")')
_MOST = 1 << 11  # tokens for which numbers are at hand as texts, and the places where tokens of one character begin in a JSON list
_NUMBERS, _FIVES = [*map(str, range(_MOST + 1))], [*range(0, 5 * _MOST + 1, 5)]
_ENTITY = ["start", "end", "entity", "text"]  # the keys of an entity that this project has written
_encode = JSONEncoder(ensure_ascii=False).encode

# Sentences, annotations by mode, target labels. Without the annotations: those of a smaller size, known to be its part of the
# largest size's.
Files = Sequence[Path | None]
Line = tuple[list[int], list[bytes]]  # see ``_sentences``


class Careful(Exception):
    """Something may be wrong with the files of the largest size."""


class Apart(Exception):
    """The files of a size are not a part of those of the largest one: that of the ``number``."""

    def __init__(self, number: int) -> None:
        super().__init__(number)
        self.number = number


# --- the parent: reading, sharing out, writing ----------------------------------------------------------------------


def merge_alike(files: Sequence[Files], outputs: Sequence[Output], fresh: Callable[[], Merged], *, workers: int,
                arguments: Mapping[str, Any]) -> list[Merged]:
    """Merge the subsets of several sizes, the largest first, in one pass over all files.

    Args:
        outputs: are written to. fresh: gives an empty account. arguments: of ``merger_of``.
    Returns:
        for each size what was merged.
    Raises:
        Careful, Apart: this way does not do it; what was written is of no use. ServiceError: a worker has died.
    """
    results = [fresh() for _ in files]
    masks: deque[list[int]] = deque()
    with ExitStack() as stack:
        merge = stack.enter_context(working(workers, f"{__name__}:merger_of", arguments))
        readers = [[stack.enter_context(_Lines(path)) for path in found] for found in files]
        for answer in merge(_frames(_sentences(readers, unique=arguments["as_written"]), masks)):
            if not answer:
                raise Careful
            head, *lines = answer.split(b"\n")
            accounts = {int(mask): account for mask, account in orjson.loads(head).items()}
            groups = masks.popleft()
            for bit, (result, output) in enumerate(zip(results, outputs)):
                for mask, account in accounts.items():
                    if mask >> bit & 1:
                        result.add(account)
                if picked := [line for line, mask in zip(lines, groups) if mask >> bit & 1]:
                    output.write(b"\n".join([*picked, b""]))
    return results


class _Lines:
    """The lines of a file that are not blank, one after the other: ``raw`` is the next one, b"" behind the last."""

    def __init__(self, path: Path | None) -> None:
        self.path, self.raw = path, b""

    def __enter__(self) -> _Lines:
        try:
            self._file = open_input(self.path) if self.path and os.path.lexists(self.path) else None
        except UserError:
            raise Careful from None
        self._lines = lines_of(self._file) if self._file else iter(())
        try:
            self.step()
        except BaseException:
            self.__exit__()
            raise
        return self

    def __exit__(self, *error: object) -> None:
        if self._file:
            self._file.close()

    def step(self) -> None:
        """Go on to the next line."""
        for number, raw in self._lines:
            if len(raw) >= MAX_LINE:
                raise Careful
            if number == 1:
                raw = raw.removeprefix(b"\xef\xbb\xbf")
            if not raw.isspace():
                self.raw = raw if raw.endswith(b"\n") else raw + b"\n"
                return
        self.raw = b""

    def identity(self) -> bytes:
        """The id of the line, in UTF-8."""
        if match := _ID.match(self.raw):
            return match[1]
        try:
            value = parsed(self.raw)["id"]
            if type(value) not in (str, int) or value == "":
                raise Careful
            return str(value).encode()
        except (ValueError, TypeError, KeyError):
            raise Careful from None

    def take(self, identity: bytes) -> bytes:
        """The line with this id, if it is the next one."""
        raw = self.raw
        # Signs that JSON escapes do not stand there as they are: a quote would be the end of another id.
        plain = b"\\" not in identity and b'"' not in identity
        if not (plain and raw.startswith(b'{"id": "%b"' % identity)) and (not raw or self.identity() != identity):
            return _ABSENT
        self.step()
        return raw

    def skip(self, line: bytes, identity: bytes) -> bool:
        """Pass over this line, or over none where it is absent; whether that is what stands here."""
        if self.raw == line:
            self.step()
            return True
        return line == _ABSENT and (not self.raw or self.identity() != identity)


def _sentences(readers: Sequence[Sequence[_Lines]], *, unique: bool) -> Iterator[Line]:
    """For every sentence of the largest size: the sizes that it is merged for alike, as sets of bits (bit 0: the largest), and
    its lines: the sentence, its annotations by mode, and for each of these sets the target labels. unique: no id is there twice."""
    (sentences, *annotations, targets), *riders = readers
    ids = IdMap()
    while raw := sentences.raw:
        identity = sentences.identity()
        if not unique and ids.setdefault(identity.decode("utf-8", "replace"), 0) is not None:
            raise Careful
        sentences.step()
        lines = [raw, *(mode.take(identity) for mode in annotations)]
        sizes = {_predicted(targets, identity): 1}
        for number, rider in enumerate(riders, 1):
            if rider[0].raw != raw:
                continue
            if not all(mode.skip(line, identity) for mode, line in zip(rider[:-1], lines)):
                raise Apart(number)
            predicted = _predicted(rider[-1], identity)
            sizes[predicted] = sizes.get(predicted, 0) | 1 << number
        yield [*sizes.values()], [*lines, *sizes]
    if any(lines.raw for lines in readers[0]):
        raise Careful
    for number, rider in enumerate(riders, 1):
        if any(lines.raw for lines in rider):
            raise Apart(number)


def _predicted(targets: _Lines, identity: bytes) -> bytes:
    if targets.path is None:
        return _ABSENT
    if (line := targets.take(identity)) == _ABSENT:
        raise Careful
    return line


def _frames(sentences: Iterable[Line], masks: deque[list[int]]) -> Iterator[bytes]:
    """Lines packed for a merger; ``masks`` tells for each frame which sizes each merged line is for."""
    heads: list[list[int]] = []
    parts: list[bytes] = []
    size = 0
    for sizes, lines in sentences:
        heads.append(sizes)
        parts += lines
        size += sum(map(len, lines))
        if size >= FRAME:
            masks.append([*chain.from_iterable(heads)])
            yield b"\n".join([orjson.dumps(heads), b"".join(parts)])
            heads, parts, size = [], [], 0
    if heads:
        masks.append([*chain.from_iterable(heads)])
        yield b"\n".join([orjson.dumps(heads), b"".join(parts)])


# --- the merger, in this process or in a worker ----------------------------------------------------------------------


def merger_of(paths: Sequence[str], maps: Mapping[str, Any], dense: bool, synthetic: bool, apply_gold: bool, strict: bool,
              as_written: bool) -> BulkMerger:
    """The function that merges a frame.

    Args:
        paths: as of ``RunPaths``. maps: the options that ``Labels.load`` reads. as_written: all files are, byte for byte, what
            the steps have written, so no key stands twice: that takes long to find out.
    """
    run = RunPaths(Path(paths[0]), *paths[1:])
    labels = Labels.load(SimpleNamespace(**maps), run)
    reviews = Reviews.load(run, labels.targets, synthetic=synthetic, apply_gold=apply_gold)
    return BulkMerger(Merger(labels, dense, reviews, strict=strict), reviews, orjson.loads if as_written else parsed)


class BulkMerger:
    """Turns frames of lines into merged lines with an account of them; b"" where something is not as it should be."""

    def __init__(self, merger: Merger, reviews: Reviews, parse: Callable[[bytes], Any]) -> None:
        """parse: reads lines."""
        labels = merger.labels
        self._merger, self._targets, self._reviews, self._parse = merger, frozenset(labels.targets), reviews, parse
        self._middles = {label: _middle(label) for label in labels.extension}

    def __call__(self, frame: bytes) -> bytes:
        head, *rest = frame.split(b"\n")
        lines, accounts, merged = iter(rest), {}, []
        parse = parsed if may_lose_digits(frame) else self._parse
        try:
            for sizes in orjson.loads(head):
                self._merge(sizes, lines, accounts, merged, parse)
        except (Careful, UserError, ValueError):
            return b""
        counts = orjson.dumps({str(mask): account.as_json() for mask, account in accounts.items()})
        return counts + b"\n" + "\n".join(merged).encode()

    def _merge(self, sizes: Sequence[int], lines: Iterator[bytes], accounts: dict[int, Merged], merged: list[str],
               parse: Callable[[bytes], Any]) -> None:
        """One sentence. What all sizes share is counted once, for the set of all of them."""
        account = self._account(accounts, sum(sizes))
        line = next(lines)
        sentence = _object(line, parse)
        if problems_of_row(sentence, self._targets):
            raise Careful
        tokens = sentence["text"]
        as_written = line if parse is orjson.loads and _TEXT.match(line) else b""
        spans = self._merger.spans(tokens, self._items(lines, tokens, as_written, account, parse), account)
        account.sentences += 1
        account.gold += len(sentence["entities"])
        sentence["id"] = str(sentence["id"])
        decided = self._reviews.has_decided(sentence["id"])
        text = _Text.of(tokens, as_written)
        added = [] if decided else text.entities(spans, self._middles)
        for mask in sizes:
            found, own = sentence["entities"], self._account(accounts, mask)
            if line := next(lines):
                found = _row(line, as_written, _LABELLED, tokens, parse).get("entities")
                if problems_of_entities(found, tokens, self._targets if self._merger.strict else None):
                    raise Careful
                own.predicted += len(found)
            if decided:
                every = [*found, *(as_entity(tokens, (start, end), label) for start, end, label in spans)]
                parts = [_encode(entity) for entity in own.reviews.entities(sentence, every)]
            else:
                parts = text.as_they_are(found) + added
            merged.append(_line(sentence, text.json, parts))

    def _account(self, accounts: dict[int, Merged], mask: int) -> Merged:
        if mask not in accounts:
            accounts[mask] = self._merger.afresh()
        return accounts[mask]

    def _items(self, lines: Iterator[bytes], tokens: list[str], sentence: bytes, account: Merged, parse: Callable[[bytes], Any]
               ) -> dict[str, Items]:
        """What the annotations say of a sentence. sentence: its line where all these are as written, else b""."""
        items = {}
        for mode in MODES:
            row = _row(line, sentence, _ANNOTATED, tokens, parse) if (line := next(lines)) else None
            if (found := items_of(row, mode) if row else ([], [])) is None:
                raise Careful
            account.annotated[f"{mode} {row['status'] if row else 'absent'}"] += 1
            items[mode] = found
        return items


class _Text:
    """The tokens of a sentence as JSON, to cut the texts of entities out of.

    json: joined as in a file. at: where each token begins there, and where one more would. numbers: those of tokens, as texts.
    """

    __slots__ = ("json", "at", "numbers")

    def __init__(self, json: str, at: Sequence[int], numbers: Sequence[str]) -> None:
        self.json, self.at, self.numbers = json, at, numbers

    @classmethod
    def of(cls, tokens: Sequence[str], line: bytes) -> _Text:
        """line: the sentence as written, b"" where that is not known."""
        count = len(tokens)
        numbers = _NUMBERS if count <= _MOST else [*map(str, range(count + 1))]
        if match := _TEXT.match(line):
            json = line[match.end():line.find(b'"], "', match.end()) + 1].decode()
            if "\\" not in json:  # nothing is escaped: then this was the end of the list, and lengths tell the places
                if len(json) == 5 * count - 2 and count <= _MOST:  # characters, as in Chinese
                    return cls(json, _FIVES, numbers)
                at = [0, *accumulate(map((4).__add__, map(len, tokens)))]
                if at[-1] == len(json) + 2:
                    return cls(json, at, numbers)
        pieces = [*map(encode_basestring, tokens)]
        return cls(", ".join(pieces), [0, *accumulate(map((2).__add__, map(len, pieces)))], numbers)

    def entities(self, spans: Iterable[LabelledSpan], middles: Mapping[str, str]) -> list[str]:
        """Entities as ``to_line`` writes them. middles: of a label, see ``_middle``."""
        text, at, numbers = self.json, self.at, self.numbers
        return [f'{{"start": {numbers[start]}, "end": {numbers[end]}{middles[label]}{text[at[start]:at[end] - 2]}]}}'
                for start, end, label in spans]

    def as_they_are(self, entities: Sequence[Record]) -> list[str]:
        """Entities of a file as ``to_line`` writes them."""
        if all([*entity] == _ENTITY for entity in entities):
            spans = [(entity["start"], entity["end"], entity["entity"]) for entity in entities]
            return self.entities(spans, {label: _middle(label) for _, _, label in spans})
        return [*map(_encode, entities)]


def _middle(label: str) -> str:
    """What stands between the end and the text of an entity."""
    return f', "entity": {encode_basestring(label)}, "text": ['


def _object(line: bytes, parse: Callable[[bytes], Any]) -> Record:
    value = parse(line)
    if not isinstance(value, dict) or not value:
        raise Careful
    return value


def _row(line: bytes, sentence: bytes, keys: Sequence[bytes], tokens: list[str], parse: Callable[[bytes], Any]) -> Record:
    """A row about the sentence with these tokens; where both are as written and begin alike, from the last of these keys on: the
    text, and a reply, take most of the time to parse.

    sentence: its line where it begins with id and text, else b"". keys: the first stands behind the text. No text can hold one:
    there a quote stands behind a backslash.
    """
    if sentence and (end := line.find(keys[0])) > 0 and sentence.startswith(line[:end]) and (at := line.find(keys[-1], end)) > 0:
        return _object(b"{" + line[at + 2:], parse)
    row = _object(line, parse)
    if row.get("text") != tokens:
        raise Careful
    return row


def _line(sentence: Record, text: str, entities: Sequence[str]) -> str:
    """What ``to_line`` makes of a sentence with these tokens and entities, both as JSON, its id first and without tags."""
    parts = ['{"id": ', encode_basestring(sentence["id"])]
    for name, value in sentence.items():
        if name == "text":
            parts += ', "text": [', text, "]"
        elif name == "entities":
            parts += ', "entities": [', ", ".join(entities), "]"
        elif name not in ("id", "label"):
            parts += ", ", encode_basestring(name), ": ", _encode(value)
    return "".join([*parts, "}"])
