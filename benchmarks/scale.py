"""Speed and memory of the steps without a language model, and how both grow with the data; on request the LLM engine's own.

A small run is enlarged (scale_data.py): N original sentences and N synthetic ones, with other words in each copy, then the
real scripts run on it: steps 4, 5 (each half), 6, 8 and, up to 10,000 rows, the ledger, which has to find the run balanced.
Making the data is not counted. Without --file_name the small run is the shipped Chinese sample with the offline backend.

Give it a machine that does little else: seconds of the processor are disturbed less by others than wall time, but are.

run     python benchmarks/scale.py                                     1,000, 10,000 and 100,000 rows
        python benchmarks/scale.py --million --folder /large/disk      up to 1,000,000 rows
        python benchmarks/scale.py --rows 1000 10000 --steps s5_gold s5_synthetic --workers 2
        python benchmarks/scale.py --file_dir data/few_shot --file_name weibo --save_type_name GLM4 --json

--json prints a list of {"step", "rows", "rows_per_s", "wall_s", "peak_mb"}:
rows        N. Step 5 reads N sentences a half; steps 4 and 8 and the ledger read all 2 N.
rows_per_s  N over the seconds of the processor (user and system) of the step's process and all its children
peak_mb     the most that all processes of the step held together (see scale_measure.py), MB of 1,000,000 bytes

With --llm, --ray or --flat it measures step 1 against a simulated model instead (scale_llm.py, which says what the figures are):
        python benchmarks/scale.py --llm                  what the local engine takes for each of 10,000 rows
        python benchmarks/scale.py --llm --ray            and Ray with 1, 2 and 4 workers on this machine
        python benchmarks/scale.py --flat --million       memory of the driver at 10,000, 100,000 and 1,000,000 rows
"""

from __future__ import annotations

import argparse
import json
import math
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import scale_llm
from scale_measure import ROOT, Cost, environment, measured

SCRIPTS = ROOT / "syn_pipelines"
STEPS = {
    "s4": ["s4_split_data.py"],
    "s5_gold": ["s5_merge_data.py", "--is_syn=0"],
    "s5_synthetic": ["s5_merge_data.py", "--is_syn=1"],
    "s6": ["s6_combine_syn_fusion_label.py"],
    "s8": ["s8_process_label_and_combine.py"],
    "ledger": [],
}
NEEDS = {"s5_gold": ("s4",), "s5_synthetic": ("s4",), "s6": ("s4", "s5_gold", "s5_synthetic"), "s8": ("s4",), "ledger": ()}
LEDGER_ROWS = 10_000  # the most that it recounts unless --steps names it: it takes 3 ms a row
WITH_WORKERS = ("s5_gold", "s5_synthetic", "s8")

# Measured figures of the reference implementation of KnowFREE: (rows/s, peak MB) of its scripts on two cores of another
# machine; 1,000 Weibo sentences (synthetic: newspaper text), copied; its step 8 does step 5 again, as ours does.
REFERENCE = {
    "s4": {1_000: (25_000, 15), 10_000: (37_000, 54), 100_000: (45_000, 436)},
    "s5_gold": {1_000: (1_450, 37), 10_000: (1_440, 184), 100_000: (1_330, 1_654)},
    "s5_synthetic": {1_000: (2_400, 30), 10_000: (2_740, 115), 100_000: (2_460, 962)},
    "s6": {1_000: (None, 18), 10_000: (None, 18), 100_000: (None, 18)},
    "s8": {1_000: (2_300, 39), 10_000: (2_400, 209), 100_000: (2_390, 1_906)},
}
Row = dict[str, Any]


def parse(arguments: Sequence[str] | None) -> argparse.Namespace:
    """The flags."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rows", type=int, nargs="+", help="sizes, see above")
    parser.add_argument("--million", action="store_true", help="1,000,000 rows too")
    parser.add_argument("--steps", nargs="+", choices=STEPS, help="those to show; what they need runs too (default: all, the ledger "
                        f"up to {LEDGER_ROWS:,} rows)")
    parser.add_argument("--workers", type=int, help="--workers of the steps that have it (default: the steps' own)")
    parser.add_argument("--file_dir", default=str(ROOT / "data" / "few_shot"), help="folder of the data set to copy")
    parser.add_argument("--file_name", default="", help="data set to copy (default: sample_zh, run here)")
    parser.add_argument("--save_type_name", default="offline", help="its run, all steps done")
    parser.add_argument("--folder", default=None, help="where the large runs are made and removed (default: the system's)")
    parser.add_argument("--json", action="store_true", help="print the figures as JSON")
    model = parser.add_argument_group("against a simulated model")
    model.add_argument("--llm", action="store_true", help="the local engine's own time")
    model.add_argument("--ray", action="store_true", help="that of Ray")
    model.add_argument("--ray_workers", type=int, nargs="+", default=[1, 2, 4], help="numbers of workers")
    model.add_argument("--flat", action="store_true", help="memory of the driver with a model that answers at once")
    model.add_argument("--delay", type=float, default=0.1, help="seconds that the model takes for an answer")
    model.add_argument("--concurrency", type=int, default=32, help="requests under way at once, all workers together")
    opts = parser.parse_args(arguments)
    defaults = [10_000] if opts.llm or opts.ray else [10_000, 100_000] if opts.flat else [1_000, 10_000, 100_000]
    opts.rows = sorted({*(opts.rows or defaults), *([1_000_000] if opts.million else [])})
    for name, value, least in (("rows", opts.rows[0], 1), ("concurrency", opts.concurrency, 1), ("delay", opts.delay, 0),
                               ("ray_workers", min(opts.ray_workers), 1)):
        if not value >= least:
            parser.error(f"--{name}: {value} is less than {least}")
    return opts


def tell(text: str) -> None:
    """Progress goes to standard error."""
    print(text, file=sys.stderr, flush=True)


def small_run(opts: argparse.Namespace, folder: Path) -> list[str]:
    """Folder, data set and run to enlarge; made of the sample where none is given."""
    if opts.file_name:
        return [opts.file_dir, opts.file_name, opts.save_type_name]
    tell("the sample through all steps, with the offline backend")
    source, target = ROOT / "data" / "few_shot" / "sample_zh", folder / "sample_zh"
    target.mkdir()
    for path in filter(Path.is_file, source.iterdir()):
        shutil.copy(path, target)
    flags = [f"--file_dir={folder}", "--file_name=sample_zh", "--save_type_name=offline", "--backend=offline", "--max_steps=20",
             "--with_report=0"]
    subprocess.run([sys.executable, str(SCRIPTS / "run_all.py"), *flags], check=True, capture_output=True, env=environment())
    return [str(folder), "sample_zh", "offline"]


def data(what: str, small: Sequence[str], large: Path, rows: int = 0, journals: bool = True) -> str:
    """Have scale_data.py do something, in a process of its own, so that this one stays small."""
    command = [sys.executable, str(Path(__file__).with_name("scale_data.py")), what, *small, str(large), str(rows), str(int(journals))]
    done = subprocess.run(command, capture_output=True, text=True, env=environment())
    if done.returncode:
        raise SystemExit(done.stderr.strip())
    return done.stdout.strip()


def check_space(small: Sequence[str], folder: Path, rows: int, journals: bool) -> None:
    """SystemExit when the disk has no room for the largest run."""
    needed, free = int(data("size", small, folder, journals=journals)) * rows, shutil.disk_usage(folder).free
    tell(f"{rows:,} rows will take about {needed / 1e9:.1f} GB in {folder}, where {free / 1e9:.1f} GB are free")
    if needed > 0.95 * free:
        raise SystemExit(f"{folder}: {rows:,} rows need about {needed / 1e9:.1f} GB and {free / 1e9:.1f} GB are free. Give another "
                         "--folder, fewer --rows, or --steps without the ledger, which alone reads the stored replies.")


def command_of(step: str, large: Path, workers: int | None) -> list[str]:
    """The command line of a step."""
    flags = [f"--file_dir={large}", "--file_name=large", "--save_type_name=run"]
    if workers is not None and step in WITH_WORKERS:
        flags.append(f"--workers={workers}")
    if step == "ledger":
        return [sys.executable, "-m", "syn_pipelines.tools.ledger", *flags]
    script, *more = STEPS[step]
    return [sys.executable, str(SCRIPTS / script), *more, *flags]


def needed_for(steps: Sequence[str]) -> list[str]:
    """The steps to run, in order, for those to show."""
    wanted = {*steps, *(other for step in steps for other in NEEDS.get(step, ()))}
    return [step for step in STEPS if step in wanted]


def steps_at(opts: argparse.Namespace, rows: int) -> list[str]:
    """The steps to show at this size."""
    return opts.steps or [step for step in STEPS if step != "ledger" or rows <= LEDGER_ROWS]


def at_size(opts: argparse.Namespace, small: Sequence[str], large: Path, rows: int) -> Iterator[Row]:
    """The figures at one size."""
    steps = steps_at(opts, rows)
    made = data("large", small, large, rows, "ledger" in steps)
    tell(f"{rows:,} original and {int(made):,} synthetic sentences")
    for step in needed_for(steps):
        if step in ("s8", "ledger") and not (large / "large" / "run" / "250" / "train_250_synthetic_target.jsonl").exists() \
                and (large / "large" / "run" / "250").is_dir():
            data("targets", small, large, rows)
        cost = measured(command_of(step, large, opts.workers), environment())
        if cost.code:
            raise SystemExit(f"{step} at {rows:,} rows ended with exit code {cost.code}:\n{cost.said[-3000:]}")
        if step in steps:
            yield figures(step, rows, cost)


def figures(step: str, rows: int, cost: Cost) -> Row:
    """What --json prints of a step."""
    return {"step": step, "rows": rows, "rows_per_s": round(rows / cost.cpu_s, 1), "wall_s": round(cost.wall_s, 3),
            "peak_mb": round(cost.peak_mb, 1)}


# --- the table --------------------------------------------------------------------------------------------------------

def exponent(before: Row, after: Row, value: Callable[[Row], float]) -> float:
    """Slope of the logarithm between two sizes: 1 is in proportion, 0 is no growth."""
    return math.log(value(after) / value(before)) / math.log(after["rows"] / before["rows"])


def table(rows: Sequence[Row]) -> str:
    """For people: the figures, how they grow, and the reference beside them."""
    head = ["step", "rows", "rows/s", "wall s", "time grows", "peak MB", "memory grows", "bytes/row", "reference rows/s", "times",
            "reference MB", "share"]
    lines = [head, ["---"] + ["---:"] * (len(head) - 1)]
    for step in STEPS:
        sizes = [row for row in rows if row["step"] == step]
        lines += [_line(row, before, sizes[0]) for row, before in zip(sizes, [None, *sizes])]
    return "\n".join(f"| {' | '.join(line)} |" for line in lines)


def _line(row: Row, before: Row | None, first: Row) -> list[str]:
    speed, memory = REFERENCE.get(row["step"], {}).get(row["rows"], (None, None))
    grown = ["", "", ""]
    if before:
        grown = [f"{exponent(before, row, lambda one: one['rows'] / one['rows_per_s']):.2f}",
                 f"{exponent(before, row, lambda one: one['peak_mb']):.2f}",
                 f"{(row['peak_mb'] - first['peak_mb']) * 1e6 / (row['rows'] - first['rows']):,.0f}"]
    return [row["step"], f"{row['rows']:,}", f"{row['rows_per_s']:,.0f}", f"{row['wall_s']:,.2f}", grown[0],
            f"{row['peak_mb']:,.0f}", grown[1], grown[2],
            f"{speed:,}" if speed else "", f"{row['rows_per_s'] / speed:.2f}" if speed else "",
            f"{memory:,}" if memory else "", f"{row['peak_mb'] / memory:.2f}" if memory else ""]


EXPLANATION = """
rows/s: rows over seconds of the processor, start of the program included. time grows, memory grows: exponent between this size
and the one before (seconds of the processor, start included; peak MB): 1 is in proportion, 0 is no growth. bytes/row: memory
above that of the smallest size, over the rows above it. reference: measured figures of the reference implementation of
KnowFREE, on another machine; times and share are ours over theirs."""


def against_a_model(opts: argparse.Namespace, small: Sequence[str], folder: Path) -> Iterator[Row]:
    """The figures of the engines, or of the driver's memory."""
    for name, rows in (("one", 1), *((f"rows_{rows}", rows) for rows in opts.rows)):
        data("sentences", small, folder / "data_sets" / name, rows)
    for rows in opts.rows:
        for workers in [*([0] if opts.llm else []), *(opts.ray_workers if opts.ray else [])]:
            setting = scale_llm.Setting(rows, opts.delay, opts.concurrency, workers)
            yield scale_llm.overhead(folder / "data_sets", setting)
        if opts.flat:
            yield scale_llm.flat(folder / "data_sets", rows, opts.concurrency)


def without_a_model(opts: argparse.Namespace, small: Sequence[str], folder: Path) -> Iterator[Row]:
    """The figures of the steps, size by size."""
    check_space(small, folder, opts.rows[-1], "ledger" in steps_at(opts, opts.rows[-1]))
    for rows in opts.rows:
        large = folder / f"rows_{rows}"
        yield from at_size(opts, small, large, rows)
        shutil.rmtree(large)  # a million rows take tens of GB


def main(arguments: Sequence[str] | None = None) -> None:
    """Make the runs and print the figures."""
    opts = parse(arguments)
    simulated = opts.llm or opts.ray or opts.flat
    with tempfile.TemporaryDirectory(dir=opts.folder, prefix="scale-") as folder:
        small = small_run(opts, Path(folder))
        found = []
        for row in (against_a_model if simulated else without_a_model)(opts, small, Path(folder)):
            found.append(row)
            tell(f"  {row}")
    if opts.json:
        print(json.dumps(found))
    else:
        print(scale_llm.table(found) if simulated else f"{table(found)}\n{EXPLANATION}")


if __name__ == "__main__":
    main()
