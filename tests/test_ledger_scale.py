"""The ledger of many sentences: what it keeps of each is a few bytes, and it reads files side by side."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from ledger_runs import MERGING, Run, new_run
from pipeline import quick_writes, read_rows, write_rows  # noqa: F401 (a fixture)

from syn_pipelines.tools import ledger
from syn_pipelines.tools._ledger_book import Book
from syn_pipelines.tools._ledger_files import DataFile, Order, matched
from syn_pipelines.tools._ledger_journal import Journal
from syn_pipelines.tools._ledger_parts import _shares
from syn_pipelines.utils.compact import IdMap
from syn_pipelines.utils.paths import SIZES
from syn_pipelines.utils.subsets import nested_subsets

BYTES = 200  # a sentence, of which some 30 are meant; the rest is for what the allocator does
# Not ru_maxrss, which goes on from that of the process that started this one.
_PEAK = """
import re, sys
from syn_pipelines.tools import ledger
ledger.main(sys.argv[1:])
print(re.search("VmHWM:\\\\s+([0-9]+) kB", open("/proc/self/status").read())[1], file=sys.stderr)
"""


def enlarged(small: Run, folder: Path, times: int) -> Run:
    """A run whose sentences are those of another one again and again, each with a last token of its own."""
    run = Run(folder / "data" / "few_shot")
    files = [small.paths.train, small.paths.synthetic, *(small.paths.annotation(mode, made) for mode in ("entity", "pos")
                                                         for made in (False, True))]
    for path in [*files, *(p for p in small.paths.journals.glob("*.jsonl") if not p.name.startswith("train"))]:
        target = run.file_dir / path.relative_to(small.file_dir)
        target.parent.mkdir(parents=True, exist_ok=True)
        rows = read_rows(path)
        head = [rows.pop(0)] if "fingerprint" in rows[0] else []
        write_rows(target, [*head, *(_copy({"id": str(n), **row}, k) for k in range(times) for n, row in enumerate(rows, 1))])
    run.paths.labels.write_bytes(small.paths.labels.read_bytes())
    for step, flags in MERGING:
        run.step(step, **flags)
    return run


def _copy(row: dict[str, Any], k: int) -> dict[str, Any]:
    row = {name: value for name, value in row.items() if name not in ("sentence", "label")}
    source, made, number = row["id"].rpartition("-s")
    row["id"] = f"{source}x{k}-s{number}" if made else f"{number}x{k}"
    if "source_id" in row:
        row["source_id"] += f"x{k}"
    return {**row, "text": [*row["text"], f"k{k}"]} if isinstance(row["text"], list) else row


def peak_of(run: Run) -> int:
    """KiB that the ledger of a run takes as a process."""
    words = [f"--{name}={value}" for name, value in run.flags.items()]
    done = subprocess.run([sys.executable, "-c", _PEAK, *words], capture_output=True, text=True, check=True)
    return int(done.stderr.split()[-1])


@pytest.mark.skipif(not Path("/proc/self/status").exists(), reason="this system does not tell the peak of one process")
def test_memory_grows_by_some_bytes_a_sentence(tmp_path):
    small = new_run(tmp_path / "small", train=10)
    small.ask()
    runs = {times: enlarged(small, tmp_path / str(times), times) for times in (20, 180)}
    rows = {times: len(read_rows(run.paths.train)) + len(read_rows(run.paths.synthetic)) for times, run in runs.items()}
    peaks = {times: peak_of(run) for times, run in runs.items()}
    assert rows[180] - rows[20] > 4000
    assert (peaks[180] - peaks[20]) * 1024 < BYTES * (rows[180] - rows[20])


# --- files side by side ----------------------------------------------------------------------------------------------

def _expected_findings(ids: list[str], rows: list[str]) -> tuple[list[tuple[str, int]], list[str]]:
    """What ``matched`` should say, told with the places of all ids at hand: (id and line given), (findings)."""
    places = {identity: place for place, identity in reversed([*enumerate(ids)])}
    given, found, at = [], [], 0
    for place, identity in enumerate(ids):
        while at < len(rows) and places.get(rows[at], -1) < place:
            found.append(("order" if rows[at] in places else "nowhere", at + 1))
            at += 1
        here = at < len(rows) and places[rows[at]] == place
        given.append((identity, at + 1 if here else 0))
        at += here
    found += [("order" if rows[n] in places else "nowhere", n + 1) for n in range(at, len(rows))]
    return given, found


@settings(max_examples=150, deadline=None)
@given(ids=st.lists(st.sampled_from("abcdef"), max_size=8), rows=st.lists(st.sampled_from("abcdefgh"), max_size=8))
def test_two_files_are_matched_as_if_all_places_were_known(tmp_path_factory, ids, rows):
    path = tmp_path_factory.mktemp("matched") / "rows.jsonl"
    write_rows(path, [{"id": identity} for identity in rows])
    book = Book()
    file = DataFile(book, path, "")
    found = [(record["id"], line) for record, line, _ in matched(
        ({"id": identity} for identity in ids), Order(lambda: ids, distinct=len(set(ids)) == len(ids)), file, "its source")]
    given, findings = _expected_findings(ids, rows)
    assert found == given
    listed = {("order" if "twice" in p.problem else "nowhere", p.line) for p in book.problems if p.line}
    assert listed <= set(findings) and bool(listed) == bool(findings)
    assert not file.distinct or len(set(rows)) == len(rows)


# --- journals --------------------------------------------------------------------------------------------------------

@settings(max_examples=100, deadline=None)
@given(asked=st.lists(st.sampled_from([f"{n}" for n in range(40)]), max_size=120), known=st.integers(0, 30))
def test_a_journal_gives_all_attempts_in_their_order_wherever_they_stand(tmp_path_factory, asked, known):
    path = tmp_path_factory.mktemp("journal") / "replies.jsonl"
    entries = [{"id": identity, "text": f"reply {n}", "finish_reason": "stop", "error": ""} for n, identity in enumerate(asked)]
    write_rows(path, [{"fingerprint": {"seed": 1}}, *entries])
    places = IdMap()
    for n in range(known):
        places[str(n)] = n
    journal = Journal(Book(), path, "", places)
    wanted: dict[str, list[dict[str, Any]]] = {}
    for entry in entries:
        wanted.setdefault(entry["id"], []).append(entry)
    for identity in [*map(str, range(40)), "nobody"]:
        assert journal.attempts(identity) == wanted.get(identity, [])
        lines = [n for n, entry in enumerate(entries, 2) if entry["id"] == identity]
        assert journal.line(identity) == (lines[-1] if lines else None)
    assert [name for name, _ in journal.others()] == [name for name in wanted if name not in places]
    assert (journal.lines, journal.requests) == (len(entries), len(wanted))
    assert journal.known_requests == sum(name in places for name in wanted)
    journal.close()


# --- subsets ---------------------------------------------------------------------------------------------------------

@pytest.mark.parametrize("seed", [42, 7])
def test_subsets_are_those_of_step_4_though_found_in_another_way(tmp_path, seed):
    run = new_run(tmp_path, train=57)
    run.paths.run.mkdir()
    case = ledger.opened(ledger.Options(**run.flags))
    ids = [sentence["id"] for sentence in case.sentences()]
    shares = _shares(case, seed)
    wanted = nested_subsets(ids, SIZES.values(), seed=seed)
    assert {share: {identity for identity in ids if shares[case.places.get(identity)] <= share} for share in SIZES.values()} == wanted


def test_a_finding_is_counted_once_however_often_its_file_is_read(tmp_path):
    path = tmp_path / "rows.jsonl"
    path.write_text("".join(f"{line}\n" for line in ["[]"] * 9 + [json.dumps({"id": "1"})]), encoding="utf-8")
    book = Book()
    file = DataFile(book, path, "")
    for _ in range(3):
        assert [row["id"] for row in file.records()] == ["1"]
    assert [p.problem for p in book.problems][-1] == "6 more like the one before." and len(book.problems) == 4
