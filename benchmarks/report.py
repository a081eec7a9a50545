"""How long the report of a large run takes, how large it is, and how much memory it needs.

A small run is copied again and again under new ids until it has the sentences wanted, with its stored replies and with counts
in its manifests to match; then report.py runs on it as a command. Its texts repeat, which is the hard case for the search for
near-duplicates. Without --file_name the run is made of the shipped sample with the offline backend.

run     python benchmarks/report.py
        python benchmarks/report.py --file_dir data/few_shot --file_name weibo --save_type_name offline --sentences 100000 --json
"""

from __future__ import annotations

import argparse
import json
import os
import re
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

from syn_pipelines.utils.jsonl import Problems, read_json, read_objects, write_json, write_jsonl
from syn_pipelines.utils.options import PROJECT_ROOT
from syn_pipelines.utils.paths import RunPaths, manifest_path
from syn_pipelines.utils.records import read_train

KINDS = ("train_{n}", "train_{n}_fusion", "train_{n}_synthetic_fusion", "train_{n}_synthetic_target", "train_{n}_syn_fusion")
_MADE = re.compile("([#-]s?[0-9]+)$")  # what the ids of synthetic sentences and of requests have behind that of their source


def parse(arguments: Sequence[str] | None) -> argparse.Namespace:
    """The flags."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--sentences", type=int, default=100_000, help="of the large run, original and synthetic ones")
    parser.add_argument("--file_dir", default=str(PROJECT_ROOT / "data" / "few_shot"), help="folder of the data set to copy")
    parser.add_argument("--file_name", default="", help="data set to copy (default: sample_zh, run here)")
    parser.add_argument("--save_type_name", default="offline", help="its run")
    parser.add_argument("--json", action="store_true", help="print the figures as JSON")
    return parser.parse_args(arguments)


def small_run(folder: Path) -> RunPaths:
    """The sample after all steps with the offline backend."""
    shutil.copytree(PROJECT_ROOT / "data" / "few_shot" / "sample_zh", folder / "sample_zh",
                    ignore=lambda place, names: [name for name in names if (Path(place) / name).is_dir()])
    flags = [f"--file_dir={folder}", "--file_name=sample_zh", "--save_type_name=offline", "--backend=offline", "--max_steps=20",
             "--with_report=0"]
    subprocess.run([sys.executable, str(PROJECT_ROOT / "syn_pipelines" / "run_all.py"), *flags], check=True, capture_output=True)
    return RunPaths(folder, "sample_zh", "offline")


def enlarge(small: RunPaths, large: RunPaths, sentences: int) -> int:
    """Copy a run often enough; the number of its sentences."""
    counted = sum(1 for _ in read_train(small, again=True)) + sum(1 for _ in rows_of(small.synthetic))
    times = max(-(-sentences // counted), 1)
    for name in ("labels.txt",):
        large.dataset.mkdir(parents=True, exist_ok=True)
        shutil.copy(small.dataset / name, large.dataset / name)
    write_jsonl(large.train, (renamed(row, k) for k in range(times) for row in read_train(small, again=True)))
    files = [small.synthetic, *(small.annotation(mode, made) for mode in ("entity", "pos") for made in (False, True)),
             *(small.sized(1000, kind) for kind in KINDS)]
    for path in filter(Path.is_file, files):
        target = large.run / path.relative_to(small.run)
        write_jsonl(target, (renamed(row, k) for k in range(times) for row in rows_of(path)))
        if manifest_path(path).is_file():
            made = read_json(manifest_path(path))
            write_json(manifest_path(target), {**made, "counts": multiplied(made["counts"], times)})
    for path in small.journals.glob("*.jsonl"):
        head, *entries = rows_of(path)
        large.journals.mkdir(exist_ok=True)
        write_jsonl(large.journals / path.name, [head, *(renamed(row, k) for k in range(times) for row in entries)])
    for name in ("unmapped_labels.json", "run.log.jsonl", "label_syn_fusion.json"):
        if (small.run / name).is_file():
            shutil.copy(small.run / name, large.run / name)
    return counted * times


def rows_of(path: Path) -> Iterator[dict[str, Any]]:
    """The rows of a file."""
    problems = Problems(path, "")
    for _, row in read_objects(path, problems):
        yield row
    problems.raise_if_any()


def renamed(row: dict[str, Any], copy: int) -> dict[str, Any]:
    """A row of the copy: 17-s2 becomes 17x5-s2."""
    head, *made = _MADE.split(row["id"])
    row = {**row, "id": f"{head}x{copy}{''.join(made)}"}
    return row | ({"source_id": f"{row['source_id']}x{copy}"} if "source_id" in row else {})


def multiplied(counts: Any, times: int) -> Any:
    """All numbers of a manifest's counts."""
    if isinstance(counts, dict):
        return {name: multiplied(value, times) for name, value in counts.items()}
    return counts * times if isinstance(counts, int) and not isinstance(counts, bool) else counts


def measure(large: RunPaths) -> dict[str, Any]:
    """Run report.py as a command; seconds, seconds of the processor, MB of the page, MiB of memory at most."""
    command = [sys.executable, str(PROJECT_ROOT / "syn_pipelines" / "report.py"), f"--file_dir={large.file_dir}",
               f"--file_name={large.file_name}", f"--save_type_name={large.save_type_name}"]
    started = time.perf_counter()
    process = subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, env={**os.environ, "OMP_NUM_THREADS": "1"})
    with process.stderr as said:
        told = said.read().decode(errors="replace")
    _, status, used = os.wait4(process.pid, 0)  # of this process alone
    process.returncode = os.waitstatus_to_exitcode(status)
    if process.returncode:
        raise SystemExit(told)
    seconds, processor = time.perf_counter() - started, used.ru_utime + used.ru_stime
    unit = 1 << 20 if sys.platform == "darwin" else 1 << 10
    return {"seconds": round(seconds, 1), "processor_seconds": round(processor, 1),
            "page_mb": round((large.run / "report.html").stat().st_size / 1e6, 2), "peak_mib": round(used.ru_maxrss / unit)}


def main(arguments: Sequence[str] | None = None) -> None:
    """Make the runs and print the figures."""
    opts = parse(arguments)
    with tempfile.TemporaryDirectory() as folder:
        small = RunPaths(Path(opts.file_dir), opts.file_name, opts.save_type_name) if opts.file_name else small_run(Path(folder))
        large = RunPaths(Path(folder) / "large", "large", "run")
        count = enlarge(small, large, opts.sentences)
        files = sum(path.stat().st_size for path in large.dataset.rglob("*") if path.is_file())
        result = {"sentences": count, "input_mb": round(files / 1e6), **measure(large)}
    if opts.json:
        print(json.dumps(result))
        return
    print(f"{count:,} sentences ({result['input_mb']:,} MB): {result['seconds']} s ({result['processor_seconds']} s of the "
          f"processor), a page of {result['page_mb']} MB, at most {result['peak_mib']:,} MiB of memory")


if __name__ == "__main__":
    main()
