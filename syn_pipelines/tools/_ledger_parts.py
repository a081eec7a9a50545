"""Step 4 in the ledger: every row is in the sizes it should be in, and in no other."""

from __future__ import annotations

import hashlib
from array import array
from collections import Counter
from dataclasses import dataclass, field
from functools import cache

from syn_pipelines.tools._ledger_case import NOBODY, PARTS, Case
from syn_pipelines.tools._ledger_files import DataFile, Follower, differing_keys
from syn_pipelines.utils.paths import SIZES
from syn_pipelines.utils.records import Record, short

_BUCKETS = 16  # bits of a draw by which draws are counted first


def check_parts(case: Case) -> None:
    """Compare each part with the rows of the whole file that belong there."""
    told = False
    shares = cache(lambda seed: _shares(case, seed))
    for name in PARTS:
        source = _source(case, name)
        files = {size: case.part(size, name) for size in SIZES}
        sizes = [size for size in SIZES if files[size].exists]
        if source.exists and not told:  # one note says it for all
            told = len(case.sizes_of(files, "s4")) < len(SIZES)
        parts = []
        for size in sizes:
            if not source.exists:
                files[size].problem("nowhere", f"{source.path}, which it was cut from, is not there.")
                continue
            seed = files[size].settings.get("seed")
            share = shares(seed if isinstance(seed, int) else case.opts.seed)
            parts.append(_Part(case, size, files[size], share, name.endswith("synthetic")))
        if parts:
            _check(case, source, parts, is_gold=name == "train_{n}")


def _source(case: Case, name: str) -> DataFile:
    """The whole file that a part was cut from."""
    if name == "train_{n}":
        return case.train
    if name == "train_{n}_synthetic":
        return case.synthetic
    return case.annotation(name.split("_")[0], synthetic=name.endswith("synthetic"))


def _shares(case: Case, seed: int) -> array[float]:
    """By place of a training sentence, the smallest share of the sentences that it belongs to: those whose hashes with the
    seed are the smallest.

    9 bytes a sentence: not the hashes are sorted, but 64 bits of them are counted, and those around the borders looked at.
    """
    draws = array("Q", (int.from_bytes(hashlib.sha256(f"{seed}:{sentence['id']}".encode()).digest()[:8], "big")
                        for sentence in case.sentences()))
    borders = [(_smallest(draws, max(1, round(len(draws) * share))), share) for share in sorted(SIZES.values())]
    return array("f", (next(share for border, share in borders if draw <= border) for draw in draws))


def _smallest(draws: array[int], number: int) -> int:
    """The draw that has ``number`` draws up to itself."""
    buckets = [0] * (1 << _BUCKETS)
    for draw in draws:
        buckets[draw >> 64 - _BUCKETS] += 1
    bucket = 0
    while number > buckets[bucket]:
        number -= buckets[bucket]
        bucket += 1
    return sorted(draw for draw in draws if draw >> 64 - _BUCKETS == bucket)[number - 1]


@dataclass
class _Part:
    """One part, and what was counted in it. shares: see ``_shares``."""

    case: Case
    size: int
    file: DataFile
    shares: array[float]
    synthetic: bool
    counts: Counter[str] = field(default_factory=Counter)

    def holds(self, identity: str) -> bool:
        """Whether what has this id belongs here: a training sentence, or what was made from one that does."""
        place = self.case.made.places.get(identity) if self.synthetic else None
        owner = self.case.places.get(identity) if place is None else self.case.made.owners[place]
        return owner is not None and owner != NOBODY and self.shares[owner] <= SIZES[self.size]

    def compare(self, source: DataFile, wanted: Record, line: int, row: Record | None, *, is_gold: bool) -> None:
        """One row of the whole file that belongs here."""
        if row is None:
            self.counts["missing in it"] += 1
            self.file.problem("missing", f"id {short(wanted['id'])} of {source.path.name} belongs here and is missing.")
            return
        self.counts["in the subset"] += 1
        if is_gold and (len(row["entities"]) != self.case.gold_of(row["id"]) or not self.case.has_gold(row)):
            self.file.problem("gold", f"id {short(row['id'])}: the text or the gold entities are not those of {source.path}:"
                                      f"{self.case.line_of(row['id'])}.", line)
        elif keys := differing_keys(row, wanted):
            self.file.problem("differs", f"id {short(row['id'])}: {keys} is not what {source.path.name} says.", line)


def _check(case: Case, source: DataFile, parts: list[_Part], *, is_gold: bool) -> None:
    """All sizes in one pass over the whole file, which is the slow one to read."""
    order, book, total = case.order_of(source), case.book, 0
    for part in parts:
        part.file.book = book.apart()  # findings stand in the order of the sizes
    followers = [Follower(part.file, order, f"what this subset takes from {source.path.name}", part.holds) for part in parts]
    for place, wanted in enumerate(case.sentences() if is_gold else source.records()):
        total += 1
        for part, follower in zip(parts, followers):
            if part.holds(wanted["id"]):
                part.compare(source, wanted, *follower.beside(wanted["id"], place), is_gold=is_gold)
            else:
                part.counts["outside it"] += 1
    for part, follower in zip(parts, followers):
        follower.end()
        book.take_in(part.file.book)
        part.file.book, counts = book, part.counts
        book.account(f"s4 {part.size}", f"rows of {source.path.name}", {
            "in the subset": counts["in the subset"],
            **({"missing in it": counts["missing in it"]} if counts["missing in it"] else {}),
            "outside it": counts["outside it"]}, total=total, file=part.file)
        part.file.settle({"rows": counts["in the subset"]}, source.manifest.get("complete") is not False,
                         stale=part.file.path in case.stale)
