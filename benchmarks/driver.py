"""What asking costs beside the model: memory and time of steps 1 and 2 with a model that answers at once.

A data set of so many sentences is made of the shipped sample, over and over; a process of its own then runs the step. The
model is a function (``--model function``: the step alone) or a server in another process (``--model server``: the openai
backend with its client, too). ``server_ms``: processor time of that server for a row, which shares the machine.

run     python benchmarks/driver.py --rows 10000 100000 --model function
        python benchmarks/driver.py --rows 10000 --model server --step s1 --json
"""

from __future__ import annotations

import argparse
import asyncio
import json
import resource
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from syn_pipelines.utils.jsonl import Problems, read_objects, write_jsonl
from syn_pipelines.utils.llm import Reply, Request
from syn_pipelines.utils.options import PROJECT_ROOT

SAMPLE = PROJECT_ROOT / "data" / "few_shot" / "sample_zh"
LABELS = '[{"entity": "北京", "type": "城市"}]'
TEXT = "第{}天，他们在城里的一家小店见面，谈了很久才回家。那天的雨一直下到晚上，第{}个人才来。"


class InstantModel:
    """A backend (see ``syn_pipelines.utils.llm.Backend``) that answers each request when it is read."""

    name, model = "instant", "instant-1"

    def check(self) -> None:
        """Nothing can be missing."""

    def count_tokens(self, text: str) -> int:
        """Code points."""
        return len(text)

    def generate(self, requests: Iterable[Request]) -> Iterator[Reply]:
        """One reply a request, as it comes."""
        for request in requests:
            yield Reply(request.id, TEXT.format(request.seed, request.id) if request.task == "explain" else LABELS)


def make_data(folder: Path, rows: int) -> None:
    """The data set ``large``: the sentences of the sample, so often that there are ``rows``."""
    sample = [row for _, row in read_objects(SAMPLE / "train_1000.jsonl", Problems(SAMPLE, ""))]
    for row in sample:
        row.pop("id", None)  # the number of the line is the id
    (folder / "large").mkdir(parents=True)
    (folder / "large" / "labels.txt").write_bytes((SAMPLE / "labels.txt").read_bytes())
    write_jsonl(folder / "large" / "train_1000.jsonl", (sample[n % len(sample)] for n in range(rows)))


def run_step(step: str, folder: Path, url: str) -> dict[str, float]:
    """Run a step in this process; seconds of its asking and of all, and the most memory the process has had, in MB."""
    from syn_pipelines import s1_predict_data, s2_continous_generation
    from syn_pipelines.utils import annotate

    flags: dict[str, Any] = {"base_url": url, "model_from_pretrained": "instant"} if url else {"backend": "offline"}
    if not url:
        annotate.choose_backend = lambda opts: InstantModel()
    before, started = _peak_mb(), time.monotonic()
    summary = {"s1": s1_predict_data, "s2": s2_continous_generation}[step].main(
        cmd_args=False, file_dir=str(folder), file_name="large", save_type_name="run", **flags)
    return {"asked": summary.usage.asked, "asking_s": summary.usage.seconds, "wall_s": time.monotonic() - started,
            "cpu_s": time.process_time(), "base_mb": before, "peak_mb": _peak_mb()}


def _peak_mb() -> float:
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024


# --- the server ------------------------------------------------------------------------------------------------------

def serve() -> None:
    """Answer chat completions until the standard input ends; says the port first and the processor time last."""
    asyncio.run(_serve())


async def _serve() -> None:
    server = await asyncio.start_server(_talk, "127.0.0.1", 0, backlog=256)
    print(server.sockets[0].getsockname()[1], flush=True)
    await asyncio.get_running_loop().run_in_executor(None, sys.stdin.read)
    print(time.process_time(), flush=True)


async def _talk(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    models = json.dumps({"object": "list", "data": [{"id": "instant", "object": "model"}]}).encode()
    while not reader.at_eof():
        try:
            head = (await reader.readuntil(b"\r\n\r\n")).lower()
            size = int(head.partition(b"content-length:")[2].partition(b"\r\n")[0] or 0)
            asked = await reader.readexactly(size)
        except (asyncio.IncompleteReadError, asyncio.CancelledError, ConnectionError):
            break
        body = models if not size else _completion(asked)
        writer.write(b"HTTP/1.1 200 OK\r\nContent-Type: application/json\r\nContent-Length: %d\r\n\r\n" % len(body) + body)
    writer.close()


def _completion(asked: bytes) -> bytes:
    number = int(asked.partition(b'"seed":')[2].partition(b",")[0].strip(b" }") or 0)
    text = LABELS if b"JSON" in asked else TEXT.format(number, number)
    return json.dumps({"choices": [{"index": 0, "message": {"role": "assistant", "content": text}, "finish_reason": "stop"}],
                       "usage": {"prompt_tokens": 100, "completion_tokens": 20}}).encode()


@contextmanager
def server(figures: dict[str, float]) -> Iterator[str]:
    """Address of a server in a process of its own; at the end its processor time as ``server_s``."""
    with subprocess.Popen([sys.executable, __file__, "--serve"], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as process:
        try:
            yield f"http://127.0.0.1:{int(process.stdout.readline())}/v1"
            figures["server_s"] = float(process.communicate()[0])
        finally:
            process.kill()


# --- the command -----------------------------------------------------------------------------------------------------

def measure(rows: int, *, step: str = "s1", model: str = "function", folder: Path | None = None) -> dict[str, Any]:
    """Figures of one step over so many sentences, in processes of their own.

    folder: for the data (default: a temporary one). Gives ``rows``, ``asked``, ``base_mb`` (before the step), ``peak_mb``,
    ``wall_s``, ``ms_a_row`` (of asking, as the clock goes), ``cpu_ms_a_row`` (of the whole step), ``server_ms``.
    """
    with tempfile.TemporaryDirectory(dir=folder) as place:
        make_data(Path(place), rows)
        figures: dict[str, float] = {}
        command = [sys.executable, __file__, "--child", step, place]
        if model == "server":
            with server(figures) as url:
                done = subprocess.run([*command, url], check=True, stdout=subprocess.PIPE, text=True)
        else:
            done = subprocess.run(command, check=True, stdout=subprocess.PIPE, text=True)
    figures |= json.loads(done.stdout)
    asked = figures["asked"]
    return {"step": step, "model": model, "rows": rows, "asked": int(asked), "base_mb": round(figures["base_mb"], 1),
            "peak_mb": round(figures["peak_mb"], 1), "wall_s": round(figures["wall_s"], 2),
            "ms_a_row": round(1000 * figures["asking_s"] / asked, 4), "cpu_ms_a_row": round(1000 * figures["cpu_s"] / asked, 4),
            "server_ms": round(1000 * figures.get("server_s", 0) / asked, 4)}


def main(arguments: Sequence[str] | None = None) -> None:
    """The command."""
    words = list(sys.argv[1:] if arguments is None else arguments)
    if words[:1] == ["--serve"]:
        serve()
    elif words[:1] == ["--child"]:
        print(json.dumps(run_step(words[1], Path(words[2]), *(words[3:] or [""]))))
    else:
        parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
        parser.add_argument("--rows", type=int, nargs="+", default=[10_000, 100_000], help="sentences")
        parser.add_argument("--step", choices=("s1", "s2"), default="s1")
        parser.add_argument("--model", choices=("function", "server"), default="function", help="what answers")
        parser.add_argument("--json", action="store_true", help="print a list of the figures")
        opts = parser.parse_args(words)
        found = [measure(rows, step=opts.step, model=opts.model) for rows in opts.rows]
        print(json.dumps(found) if opts.json else "\n".join(map(str, found)))


if __name__ == "__main__":
    main()
