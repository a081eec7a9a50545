"""Step 4 in the ledger: every row is in the sizes it should be in, and in no other."""

from __future__ import annotations

from collections.abc import Callable, Iterator

from syn_pipelines.tools._ledger_book import DataFile, differing_keys, matched, places_of
from syn_pipelines.tools._ledger_case import PARTS, Case, digest_of
from syn_pipelines.utils.paths import SIZES
from syn_pipelines.utils.records import Record, short
from syn_pipelines.utils.subsets import nested_subsets


def check_parts(case: Case) -> None:
    """Compare each part with the rows of the whole file that belong there."""
    owners = {row["id"]: row["source_id"] for _, row in case.synthetic.rows()}
    told = False
    for name in PARTS:
        source = _source(case, name)
        files = {size: case.part(size, name) for size in SIZES}
        sizes = [size for size in SIZES if files[size].exists]
        if source.exists and not told:  # one note says it for all
            told = len(case.sizes_of(files, "s4")) < len(SIZES)
        for size in sizes:
            if not source.exists:
                files[size].problem("nowhere", f"{source.path}, which it was cut from, is not there.")
                continue
            _check_part(case, size, name, source, files[size], owners if name.endswith("synthetic") else None)


def _source(case: Case, name: str) -> DataFile:
    """The whole file that a part was cut from."""
    if name == "train_{n}":
        return case.train
    if name == "train_{n}_synthetic":
        return case.synthetic
    return case.annotation(name.split("_")[0], synthetic=name.endswith("synthetic"))


def _check_part(case: Case, size: int, name: str, source: DataFile, file: DataFile, owners: dict[str, str] | None) -> None:
    """One part. owners: of synthetic sentences, the training sentence each was made from."""
    seed = file.settings.get("seed")
    subset = nested_subsets(list(case.places), [SIZES[size]],
                            seed=seed if isinstance(seed, int) else case.opts.seed)[SIZES[size]]
    total = outside = 0

    def belonging() -> Iterator[Record]:
        nonlocal total, outside
        outside = 0
        rows = case.sentences() if source is case.train else (row for _, row in source.rows())
        for total, row in enumerate(rows, 1):  # noqa: B007 (it is the count)
            if (owners or {}).get(row["id"], row["id"]) in subset:
                yield row
            else:
                outside += 1

    found, missing = _compare(case, belonging, source, file, is_gold=name == "train_{n}")
    case.book.account(f"s4 {size}", f"rows of {source.path.name}", {
        "in the subset": found, **({"missing in it": missing} if missing else {}), "outside it": outside}, total=total, file=file)
    file.settle({"rows": found}, source.manifest.get("complete") is not False, stale=file.path in case.stale)


def _compare(case: Case, belonging: Callable[[], Iterator[Record]], source: DataFile, file: DataFile,
             is_gold: bool) -> tuple[int, int]:
    """(rows that are there, rows that are missing)."""
    found = missing = 0
    for wanted, line, row in matched(belonging(), places_of(row["id"] for row in belonging()), file,
                                     f"what this subset takes from {source.path.name}"):
        if row is None:
            missing += 1
            file.problem("missing", f"id {short(wanted['id'])} of {source.path.name} belongs here and is missing.")
            continue
        found += 1
        if is_gold and digest_of(row) != case.gold[row["id"]][1]:
            file.problem("gold", f"id {short(row['id'])}: the text or the gold entities are not those of {source.path}:"
                                 f"{case.line_of(row['id'])}.", line)
        elif keys := differing_keys(row, wanted):
            file.problem("differs", f"id {short(row['id'])}: {keys} is not what {source.path.name} says.", line)
    return found, missing
