"""Runs of any size for scale.py: a small run of real sentences, again and again, each time with other words in it.

Every copy of a sentence gets a number of its own somewhere between its words, and up to three of its Han characters are
exchanged for rare ones, in the sentence and in everything made from it: gold and target entities, replies, items,
explanations, stored replies. So all texts differ, all annotations match them, and the ledger balances. Of each explanation
as many sentences are taken as make the synthetic sentences as many as the original ones. Everything is written while it is
made; memory holds the small run alone.

run     python benchmarks/scale_data.py large FOLDER DATA_SET RUN LARGE_FOLDER ROWS 1
        what steps 1 to 3 leave behind, in LARGE_FOLDER/large/run; with 0 in place of 1 without the stored replies
        ... targets FOLDER DATA_SET RUN LARGE_FOLDER ROWS 1     what step 7 leaves behind step 4
        ... sentences FOLDER DATA_SET RUN NEW_DATA_SET ROWS 1   original sentences alone
"""

from __future__ import annotations

import hashlib
import json
import random
import shutil
import sys
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack
from dataclasses import dataclass, field
from itertools import cycle, islice
from pathlib import Path
from typing import Any, BinaryIO

from syn_pipelines.text.filters import candidates
from syn_pipelines.utils.errors import UserError
from syn_pipelines.utils.jsonl import Problems, file_hash, read_objects, to_line, write_json
from syn_pipelines.utils.language import Language
from syn_pipelines.utils.manifest import read_manifest
from syn_pipelines.utils.paths import MODES, SIZES, RunPaths, manifest_path
from syn_pipelines.utils.prompts import load_prompt
from syn_pipelines.utils.records import Record, read_sentences, read_train
from syn_pipelines.utils.stored_replies import journal_path

# Signs of the private use area stand in the lines for what differs from copy to copy.
ID, NUMBER, TOKENS, HASH = "\ue000", "\ue001", "\ue002", "\ue003"
DIGITS = 8  # of a number: as many in all copies, so that no two texts become equal
NOISE = 3  # characters exchanged in a copy
AHEAD = 4  # synthetic sentences there may be more than original ones so far; then one without an explanation does no harm
STORED = {"finish_reason": "stop", "prompt_tokens": 0, "completion_tokens": 0, "error": "", "decoded": "", "closed": False,
          "asked": HASH, "sentence": HASH}
_TELLING = "的地得是也"  # what the splitting of sentences looks at


@dataclass(frozen=True)
class Sentence:
    """Lines of one sentence by kind of file, with signs for what differs; ``text`` joined, with the number in it."""

    text: str
    lines: dict[str, str]
    entities: int = 0  # gold ones, of a synthetic sentence those in its line of target labels


@dataclass(frozen=True)
class Source:
    """An original sentence with those written from it, and its explanation with the first 0, 1, ... of them."""

    sentence: Sentence
    pieces: tuple[Sentence, ...]
    explanations: tuple[str, ...]
    has_entities: bool
    words: str  # the characters that may be exchanged


@dataclass
class Base:
    """The small run as templates. rare: characters that stand nowhere in it."""

    paths: RunPaths
    language: Language
    sources: list[Source]
    rare: str


class Reader:
    """Makes templates out of the small run. UserError where there is none with all steps done."""

    def __init__(self, paths: RunPaths) -> None:
        self.paths = paths
        settings = read_manifest(paths.annotation("entity", False)).get("settings", {})
        if not {"dense", "lang"} <= settings.keys():
            raise UserError(f"{paths.run}: there is no such run, or its steps are not done. {paths.missing('run_all')}")
        self.language = Language(dense=settings["dense"], lang=settings["lang"])
        self.prompt = load_prompt("explain", self.language.lang).text
        self.items = {(mode, made): {row["id"]: row["items"] for row in _rows(paths.annotation(mode, made))}
                      for mode in MODES for made in (False, True)}
        self.targets = {row["id"]: row["entities"] for row in read_sentences(
            paths.sized(1000, "train_{n}_synthetic_target"), may_be_empty=True, again=True)}

    def base(self) -> Base:
        """All sentences that can be copied. UserError where too few were written from them."""
        written: dict[str, list[Record]] = {}
        for row in read_sentences(self.paths.synthetic, again=True):
            written.setdefault(row["source_id"], []).append(row)
        fixed = {char for rows in self.items.values() for items in rows.values() for item in items
                 for char in item.get("type", item.get("pos", ""))} | set(_TELLING)
        sources = [self._source(row, written.get(row["id"], []), fixed) for row in read_train(self.paths, again=True)]
        if sum(len(source.pieces) for source in sources) < 1.2 * len(sources):
            raise UserError(f"{self.paths.synthetic}: holds fewer synthetic sentences than there are original ones, so this run "
                            "cannot be enlarged to as many of both. Take another one.")
        used = {char for source in sources for part in (source.sentence, *source.pieces) for char in part.text} | fixed
        return Base(self.paths, self.language, sources,
                    "".join(chr(code) for code in range(0x4E00, 0x9FA6) if chr(code) not in used))

    def _source(self, row: Record, written: Sequence[Record], fixed: set[str]) -> Source:
        sentence = self._sentence(row, False, ID)
        pieces: list[Sentence] = []
        shown: list[str] = []
        for made in written:
            piece = self._sentence(made, True, f"{ID}-s{len(pieces) + 1}")
            if self._is_found([*shown, piece.text], sentence.text):
                pieces.append(piece)
                shown.append(piece.text)
        joiner = "" if self.language.dense else " "
        replies = tuple(self._line({"id": f"{ID}#1", "text": joiner.join(shown[:count]), **STORED})
                        for count in range(len(shown) + 1))
        han = {char for char in sentence.text if "\u4e00" <= char <= "\u9fa5"}
        return Source(sentence, tuple(pieces), replies, bool(row["entities"]), "".join(sorted(han - fixed)))

    def _is_found(self, texts: Sequence[str], source: str) -> bool:
        """Whether step 2 keeps these sentences of a reply that consists of them, as they are."""
        number = "7" * DIGITS
        wanted = [text.replace(NUMBER, number) for text in texts]
        reply = ("" if self.language.dense else " ").join(wanted)
        found = candidates(reply, source=self._tokens(source.replace(NUMBER, number)), prompt=self.prompt,
                           dense=self.language.dense, lang=self.language.lang, cut=False)
        return [(piece.reason, piece.tokens) for piece in found] == [("", self._tokens(text)) for text in wanted]

    def _tokens(self, text: str) -> list[str]:
        return list(text) if self.language.dense else text.split(" ")

    def _sentence(self, row: Record, made: bool, identity: str) -> Sentence:
        items = {mode: self.items[mode, made].get(row["id"], []) for mode in MODES}
        targets = self.targets.get(row["id"], []) if made else []
        place, word = _place(row["text"], items["pos"], [*row["entities"], *targets])
        tokens = [*row["text"][:place], TOKENS, *row["text"][place:]]
        text = self.language.join([NUMBER if token == TOKENS else token for token in tokens])
        width = DIGITS if self.language.dense else 1
        kind = items["pos"][word - 1]["pos"] if word else ""
        if items["pos"]:
            items["pos"] = [*items["pos"][:word], {"word": NUMBER, "pos": kind or items["pos"][0]["pos"]}, *items["pos"][word:]]
        rest = {key: value for key, value in row.items() if key not in ("id", "text", "entities", "label", "source_id")}
        origin = {"source_id": ID} if made else {}
        tail = "_synthetic" if made else ""
        head = {"id": identity, "text": tokens}
        lines = {f"train{tail}": {**head, "entities": _moved(row["entities"], place, width), **rest, **origin}}
        if made:
            lines["target"] = {**head, "entities": _moved(targets, place, width), **rest, **origin}
        for mode in MODES:
            reply = json.dumps(items[mode], ensure_ascii=False)
            lines[f"{mode}{tail}"] = {**head, "reply": reply, "items": items[mode], "status": "ok", "reason": ""}
            lines[f"journal {mode}{tail}"] = {"id": identity, "text": reply, **STORED}
        return Sentence(text, {name: self._line(line) for name, line in lines.items()}, len(targets if made else row["entities"]))

    @staticmethod
    def _line(row: Record) -> str:
        return to_line(row).decode()


def _rows(path: Path) -> Iterator[Record]:
    return (row for _, row in read_objects(path, Problems(path, "")))


def _place(tokens: Sequence[str], words: Sequence[Record], entities: Sequence[Record]) -> tuple[int, int]:
    """Where the number goes: (tokens, words) before it. Between two words and in no entity; in front if need be."""
    ends, length = {}, 0
    for number, item in enumerate(words, 1):
        length += len("".join(item["word"].split()))
        ends[length] = number
    length = 0
    for place, (token, after) in enumerate(zip(tokens, tokens[1:]), 1):
        length += len(token.strip())
        inside = any(entity["start"] < place < entity["end"] for entity in entities)
        if not inside and token.isalpha() and after.isalpha() and (length in ends or not words):
            return place, ends.get(length, 0)
    return 0, 0


def _moved(entities: Sequence[Record], place: int, width: int) -> list[Record]:
    """Entities after ``width`` tokens were put in at ``place``."""
    return [{**entity, "start": entity["start"] + width * (entity["start"] >= place),
             "end": entity["end"] + width * (entity["end"] > place)} for entity in entities]


# --- copies -----------------------------------------------------------------------------------------------------------

@dataclass
class Copy:
    """One copy of a source. taken: how many of its synthetic sentences."""

    number: int
    source: Source
    taken: int
    exchanged: list[tuple[str, str]]
    dense: bool

    def fill(self, line: str, text: str = "") -> bytes:
        """A line of this copy. text: the sentence it is about, where the line holds its hash."""
        number = f"{self.number:0{DIGITS}d}"
        for old, new in self.exchanged:
            line, text = line.replace(old, new), text.replace(old, new)
        if text:
            line = line.replace(HASH, hashlib.sha256(text.replace(NUMBER, number).encode()).hexdigest()[:16])
        tokens = '", "'.join(number) if self.dense else number
        return line.replace(ID, str(self.number)).replace(NUMBER, number).replace(TOKENS, tokens).encode()


def copies(base: Base, rows: int, seed: int = 1) -> Iterator[Copy]:
    """``rows`` copies in the order of the small run, together with as many synthetic sentences."""
    chance, made = random.Random(seed), 0
    for number, source in enumerate(islice(cycle(base.sources), rows), 1):
        chosen = chance.sample(source.words, min(NOISE, len(source.words)))
        exchanged = [(char, chance.choice(base.rare)) for char in chosen]
        while len({new for _, new in exchanged}) < len(exchanged):  # two characters must not become one
            exchanged = [(char, chance.choice(base.rare)) for char in chosen]
        taken = max(min(len(source.pieces), number + AHEAD - made, rows - made), 0)
        made += taken
        yield Copy(number, source, taken, exchanged, base.language.dense)


@dataclass
class Output:
    """A file that is being written, with its hash."""

    path: Path
    file: BinaryIO
    rows: int = 0
    entities: int = 0
    digest: Any = field(default_factory=hashlib.sha256)

    def write(self, line: bytes) -> None:
        """Add a line."""
        self.file.write(line)
        self.digest.update(line)
        self.rows += 1


def write_large(base: Base, large: RunPaths, rows: int, journals: bool = True) -> int:
    """Write what steps 1 to 3 would have made of ``rows`` copies; the number of synthetic sentences."""
    files = _files(large, journals)
    for path in (large.dataset, large.run, large.journals):
        path.mkdir(parents=True, exist_ok=True)
    shutil.copy(base.paths.labels, large.labels)
    counts: Counter[str] = Counter()
    with ExitStack() as stack:
        outputs = {name: Output(path, stack.enter_context(path.open("wb", 1 << 18))) for name, path in files.items()}
        for output, small in ((outputs[name], path) for name, path in _files(base.paths, True).items()
                              if name.startswith("journal") and name in outputs):
            with small.open("rb") as file:
                head = json.loads(file.readline())["fingerprint"]
            output.write(to_line({"fingerprint": _json_replies(head)}))
        for copy in copies(base, rows):
            _write_copy(copy, outputs, counts)
    _write_manifests(base, large, outputs, counts)
    return counts["pieces"]


def write_sentences(base: Base, data_set: Path, rows: int) -> None:
    """Write a data set of ``rows`` original sentences and nothing else."""
    data_set.mkdir(parents=True)
    shutil.copy(base.paths.labels, data_set / "labels.txt")
    with (data_set / "train_1000.jsonl").open("wb", 1 << 18) as file:
        for copy in copies(base, rows):
            file.write(copy.fill(copy.source.sentence.lines["train"]))


def _files(paths: RunPaths, journals: bool) -> dict[str, Path]:
    """By kind of line the file it goes into."""
    files = {"train": paths.train, "train_synthetic": paths.synthetic}
    files |= {f"{mode}{tail}": paths.annotation(mode, bool(tail)) for mode in MODES for tail in ("", "_synthetic")}
    stored = {f"journal {name}": journal_path(paths, path) for name, path in files.items() if name != "train"}
    return files | (stored if journals else {})


def _write_copy(copy: Copy, outputs: dict[str, Output], counts: Counter[str]) -> None:
    source = copy.source
    for part in (source.sentence, *source.pieces[:copy.taken]):
        for name, line in part.lines.items():
            if name in outputs:
                outputs[name].write(copy.fill(line, part.text if name.startswith("journal") else ""))
    outputs["train"].entities += source.sentence.entities
    counts["with entities"] += source.has_entities
    if source.has_entities:
        counts["used" if copy.taken else "rejected"] += 1
        counts["pieces"] += copy.taken
        if stored := outputs.get("journal train_synthetic"):
            stored.write(copy.fill(source.explanations[copy.taken], source.sentence.text))


def _write_manifests(base: Base, large: RunPaths, outputs: dict[str, Output], counts: Counter[str]) -> None:
    """Those of the small run, with the counts and hashes of the large one."""
    hashes = {name: output.digest.hexdigest() for name, output in outputs.items()}
    rows = outputs["train"].rows
    if prepared := read_manifest(base.paths.train):
        made = {"sentences": rows, "entities": outputs["train"].entities}
        write_json(manifest_path(large.train), {**prepared, "counts": made, "inputs": {}, "sha256": hashes["train"]})
    for name, path in _files(large, False).items():
        if name == "train":
            continue
        small = read_manifest(_files(base.paths, False)[name])
        made = {"sentences": outputs[name].rows, "ok": outputs[name].rows, "reasons": {}}
        if name == "train_synthetic":
            asked = {what: counts[what] for what in ("rejected", "used") if counts[what]}
            without = {"without entities, not asked": rows - counts["with entities"]} if rows > counts["with entities"] else {}
            made = {"sentences": rows, "with entities": counts["with entities"], **without, "replies": asked,
                    "reply_reasons": {"empty_reply": counts["rejected"]} if counts["rejected"] else {},
                    "synthetic_sentences": outputs[name].rows, "dropped": {}}
        source = {"../train_1000.jsonl": hashes["train"]} if name in (*MODES, "train_synthetic") else {
            "train_1000_synthetic.jsonl": hashes["train_synthetic"]}
        write_json(manifest_path(path), {**small, "counts": made, "fingerprint": _json_replies(small["fingerprint"]),
                                         "inputs": source, "sha256": hashes[name]})


def _json_replies(fingerprint: dict[str, Any]) -> dict[str, Any]:
    return {**fingerprint, "reply_format": "json"} if "reply_format" in fingerprint else fingerprint


def write_targets(base: Base, large: RunPaths, rows: int) -> None:
    """Write what step 7 would have made of the subsets of step 4: the target labels of the small run."""
    with ExitStack() as stack:
        outputs, wanted = {}, {}
        for size in SIZES:
            path = large.sized(size, "train_{n}_synthetic_target")
            outputs[size] = Output(path, stack.enter_context(path.open("wb", 1 << 18)))
            wanted[size] = _ids(large.sized(size, "train_{n}_synthetic"))
        following = {size: next(ids, "") for size, ids in wanted.items()}
        for copy in copies(base, rows):
            for place, piece in enumerate(copy.source.pieces[:copy.taken], 1):
                for size in [size for size, identity in following.items() if identity == f"{copy.number}-s{place}"]:
                    outputs[size].write(copy.fill(piece.lines["target"]))
                    outputs[size].entities += piece.entities
                    following[size] = next(wanted[size], "")
    small = read_manifest(base.paths.sized(1000, "train_{n}_synthetic_target"))
    for size, output in outputs.items():
        source = large.sized(size, "train_{n}_synthetic")
        write_json(manifest_path(output.path), {
            **small, "file": output.path.name, "counts": {"sentences": output.rows, "entities": output.entities},
            "inputs": {f"{size}/{source.name}": file_hash(source)}, "sha256": output.digest.hexdigest()})


def _ids(path: Path) -> Iterator[str]:
    with path.open(encoding="utf-8") as file:
        for line in file:
            yield line.split('"', 4)[3]  # {"id": "17-s2", ...


def bytes_a_row(base: Base) -> int:
    """How many bytes the files of one row will take, all steps done: rather more than less."""
    sources = base.sources
    def size(part: Sentence, names: Callable[[str], bool]) -> int:
        return sum(len(line.encode()) for name, line in part.lines.items() if names(name))

    pieces = [piece for source in sources for piece in source.pieces]
    total = 0.0
    for parts in ([source.sentence for source in sources], pieces):
        stored = sum(size(part, lambda name: name.startswith("journal")) for part in parts)
        rows = sum(size(part, lambda name: not name.startswith("journal")) for part in parts)
        # Whole and in three subsets (1.75), and merged twice: each a third larger than the POS items.
        merged = 2.7 * sum(size(part, lambda name: name.startswith("pos")) for part in parts)
        total += (stored + 2.75 * rows + 1.75 * merged) / len(parts)
    return int(total) + 16 * DIGITS


def main(arguments: Sequence[str]) -> None:
    """See above; prints the number of synthetic sentences, or for ``size`` the bytes a row will take."""
    what, folder, name, run, target, rows, journals = arguments
    base = Reader(RunPaths(Path(folder), name, run)).base()
    large = RunPaths(Path(target), "large", "run")
    if what == "size":
        print(bytes_a_row(base))
    elif what == "large":
        print(write_large(base, large, int(rows), journals == "1"))
    elif what == "sentences":
        write_sentences(base, Path(target), int(rows))
    else:
        write_targets(base, large, int(rows))


if __name__ == "__main__":
    try:
        main(sys.argv[1:])
    except UserError as err:
        raise SystemExit(str(err)) from None
