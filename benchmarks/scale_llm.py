"""What the LLM engine takes itself: step 1, as a command, against a model of known latency (scale_server.py).

The server answers each request after a fixed delay, so ``rows`` requests, ``concurrency`` of them at once, take at least
rows x delay / concurrency seconds, whoever asks. What a run takes above that is the engine's:

start_s      wall time of a run over one sentence, less the delay: the interpreter, imports, Ray
wall_s       wall time of the run over all rows, all included
overhead_ms  (wall_s - start_s - rows x delay / concurrency) / rows: what each row waits for the engine. Work done while the
             answers to others are waited for costs no time and is not in it
cpu_ms       seconds of the driver's processor above those of the run over one sentence, for each row: all the work of the
             driver. With Ray the work of the workers is not in it
"""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from scale_measure import Cost, environment, measured
from scale_server import MODEL

ROOT = Path(__file__).resolve().parents[1]
STEP = ROOT / "syn_pipelines" / "s1_predict_data.py"


@dataclass(frozen=True)
class Setting:
    """One engine. concurrency: of all workers together, so that the least time is the same for all; workers: 0 is the local
    engine."""

    rows: int
    delay_s: float
    concurrency: int
    workers: int = 0

    @property
    def flags(self) -> list[str]:
        """Of the step."""
        if not self.workers:
            return [f"--concurrency={self.concurrency}"]
        return [f"--concurrency={max(self.concurrency // self.workers, 1)}", "--engine=ray", "--ray_address=local",
                f"--num_workers={self.workers}", "--gpus_per_worker=0", "--cpus_per_worker=0.1"]


@contextmanager
def simulated_model(delay_s: float) -> Iterator[str]:
    """The address of a server that runs until the block ends."""
    command = [sys.executable, str(Path(__file__).with_name("scale_server.py")), f"--delay={delay_s}"]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as server:
        try:
            yield server.stdout.readline().strip()
        finally:
            server.stdin.close()
            server.wait()


def run_step(data_sets: Path, name: str, run: str, url: str, flags: Sequence[str]) -> Cost:
    """Step 1 over a data set, entity mode. SystemExit when it fails or when a sentence got no answer."""
    command = [sys.executable, str(STEP), f"--file_dir={data_sets}", f"--file_name={name}", f"--save_type_name={run}",
               "--mode=entity", "--backend=openai", f"--base_url={url}", f"--model_from_pretrained={MODEL}", *flags]
    cost = measured(command, {**environment(), "OPENAI_API_KEY": "", "NO_PROXY": "127.0.0.1"})
    manifest = data_sets / name / run / "entity_train_1000.manifest.json"
    counts = json.loads(manifest.read_text(encoding="utf-8"))["counts"] if manifest.is_file() else {}
    if cost.code or counts.get("ok") != counts.get("sentences"):
        raise SystemExit(f"{' '.join(command)} ended with exit code {cost.code}, counts {counts}:\n{cost.said[-3000:]}")
    return cost


def overhead(data_sets: Path, setting: Setting) -> dict[str, Any]:
    """The figures of one engine. data_sets: folder with ``one`` (a sentence) and ``rows_<rows>``."""
    run = f"workers_{setting.workers}"
    with simulated_model(setting.delay_s) as url:
        one = run_step(data_sets, "one", run, url, setting.flags)
        whole = run_step(data_sets, f"rows_{setting.rows}", run, url, setting.flags)
    start_s, least_s = one.wall_s - setting.delay_s, setting.rows * setting.delay_s / setting.concurrency
    return {"engine": "ray" if setting.workers else "local", "workers": setting.workers or 1, "rows": setting.rows,
            "delay_s": setting.delay_s, "concurrency": setting.concurrency, "start_s": round(start_s, 2),
            "wall_s": round(whole.wall_s, 2),
            "overhead_ms": round(1000 * (whole.wall_s - start_s - least_s) / setting.rows, 3),
            "cpu_ms": round(1000 * (whole.cpu_s - one.cpu_s) / setting.rows, 3)}


def flat(data_sets: Path, rows: int, concurrency: int) -> dict[str, Any]:
    """Memory of the driver where the model answers at once."""
    with simulated_model(0) as url:
        cost = run_step(data_sets, f"rows_{rows}", "flat", url, [f"--concurrency={concurrency}"])
    return {"engine": "local", "rows": rows, "wall_s": round(cost.wall_s, 2), "peak_mb": round(cost.peak_mb, 1)}


def table(found: Sequence[dict[str, Any]]) -> str:
    """For people."""
    names = list(dict.fromkeys(name for row in found for name in row))
    lines = [names, ["---"] + ["---:"] * (len(names) - 1), *([str(row.get(name, "")) for name in names] for row in found)]
    return "\n".join(f"| {' | '.join(line)} |" for line in lines)
