"""A run to review, with all that makes a page go wrong, the review server as a process, and a headless Chromium."""

from __future__ import annotations

import http.client
import json
import os
import shutil
import signal
import subprocess
import sys
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import pytest
from child import ROOT, command, environment
from pipeline import NAME, read_rows, write_rows, write_run, write_targets

from syn_pipelines import s4_split_data

SCRIPT = "<script>document.title='owned'</script>"
SCRIPT_LABEL = "<img/src=x/onerror=document.title='owned'>"
CHROMIUM = "/usr/bin/chromium"
FLAGS = ["--no-sandbox", "--disable-gpu", "--disable-quic", "--no-first-run", "--disable-background-networking",
         "--disable-component-update", "--disable-sync"]

# text, entities as (start, end, label), items as (surface, type). Nested, identical twice, across scripts, and hostile.
HARD = [
    (list("我在北京大学"), [(2, 6, "LOC"), (2, 4, "LOC"), (2, 4, "LOC")], [("北京大学", "机构"), ("北京", "地名")]),
    ([*"東京で", "👩\u200d👩\u200d👧", "e\u0301", "\u0301", "\u202e", "\u200d", *"会った"], [(0, 2, "LOC")], [("東京", "地名")]),
    ([SCRIPT, "Seoul", "서울", "a b", " ", "\r", "\u2028", "שלום", "ａｂ"], [(1, 3, "LOC"), (0, 1, SCRIPT_LABEL)],
     [("seoul", "地名"), (SCRIPT, "人名"), ("ab", SCRIPT_LABEL)]),
    (list("空"), [], []),
]


def hard_run(file_dir: Path, *, synthetic: bool = True) -> Path:
    """The twelve plain sentences and the hard ones, cut by step 4, with target labels of step 7. Returns the run folder."""
    run = write_run(file_dir, synthetic=synthetic)
    rows = [{"text": tokens, "entities": [{"start": s, "end": e, "entity": label, "text": tokens[s:e]} for s, e, label in entities]}
            for tokens, entities, _ in HARD]
    train = file_dir / NAME / "train_1000.jsonl"
    write_rows(train, [*read_rows(train), *rows])
    with (file_dir / NAME / "labels.txt").open("a", encoding="utf-8") as file:
        file.write(SCRIPT_LABEL + "\n")
    for mode, keys in (("entity", ("entity", "type")), ("pos", ("word", "pos"))):
        path = run / f"{mode}_train_1000.jsonl"
        more = [{"id": str(13 + i), "text": tokens, "reply": "", "status": "ok", "reason": "",
                 "items": [dict(zip(keys, item)) for item in items] if mode == "entity" else []}
                for i, (tokens, _, items) in enumerate(HARD)]
        write_rows(path, [*read_rows(path), *more])
    s4_split_data.main(cmd_args=False, file_dir=str(file_dir), file_name=NAME)
    if synthetic:
        write_targets(run)
    return run


class Server:
    """``review.py`` as a process: ``address`` (with the secret), ``port``, ``token``."""

    def __init__(self, file_dir: Path, **flags: Any) -> None:
        words = {"file_dir": file_dir, "file_name": NAME, "no_browser": 1, "dense_lang": 1, **flags}
        self.process = subprocess.Popen(command("review", words), env=environment(PYTHONUNBUFFERED="1"), cwd=ROOT, text=True,
                                        stdout=subprocess.PIPE, stderr=subprocess.PIPE, preexec_fn=_hears_signals)
        said = self.process.stdout.readline()
        if " at http://" not in said:
            raise AssertionError(f"the server did not start: {said} {self.process.communicate(timeout=20)[1]}")
        self.address = said.split()[-1]
        parts = urlsplit(self.address)
        self.port, self.token = parts.port, parts.fragment

    def ask(self, path: str, action: Any = None, *, method: str = "", headers: Mapping[str, str | None] = {}, body: bytes | None = None
            ) -> tuple[int, dict[str, Any]]:
        """(status, JSON) of one request as the page would send it; ``headers`` change or, with None, leave out."""
        sent = {"Host": f"127.0.0.1:{self.port}", "X-Review-Token": self.token}
        if action is not None or body is not None:
            method = method or "POST"
            body = json.dumps(action).encode() if body is None else body
            sent |= {"Origin": f"http://127.0.0.1:{self.port}", "Content-Type": "application/json"}
        sent = {name: value for name, value in {**sent, **headers}.items() if value is not None}
        connection = http.client.HTTPConnection("127.0.0.1", self.port, timeout=20)
        try:
            connection.request(method or "GET", path, body, sent)
            answer = connection.getresponse()
            self.headers, raw = dict(answer.getheaders()), answer.read()
            try:
                return answer.status, json.loads(raw)
            except ValueError:
                return answer.status, {"text": raw.decode("utf-8", "replace")}
        finally:
            connection.close()

    def act(self, index: int, do: str, span: tuple[int, int, str] | None = None, **to: Any) -> tuple[int, dict[str, Any]]:
        """An action of the page on one sentence."""
        action: dict[str, Any] = {"do": do, **({"to": to} if to else {})}
        if span:
            action["span"] = dict(zip(("start", "end", "label"), span))
        return self.ask(f"/api/sentences/{index}", action)

    def view(self, index: int) -> dict[str, Any]:
        return self.ask(f"/api/sentences/{index}")[1]["view"]

    def index_of(self, identity: str) -> int:
        """Where a sentence stands in the queue."""
        total = self.ask("/api/queue")[1]["total"]
        return next(i for i in range(total) if self.view(i)["id"] == identity)

    def end(self, number: int = signal.SIGINT) -> tuple[int, str]:
        """(exit code, standard error) after a signal."""
        if self.process.poll() is None:
            self.process.send_signal(number)
        _, error = self.process.communicate(timeout=30)
        return self.process.returncode, error


def _hears_signals() -> None:
    signal.signal(signal.SIGINT, signal.SIG_DFL)


@contextmanager
def served(file_dir: Path, **flags: Any) -> Iterator[Server]:
    """A server that is gone afterwards."""
    server = Server(file_dir, **flags)
    try:
        yield server
    finally:
        server.end(signal.SIGKILL)


@contextmanager
def chromium() -> Iterator[Any]:
    """A headless Chromium; the test is skipped where there is none."""
    sync_api = pytest.importorskip("playwright.sync_api", reason="Playwright is not installed")
    path = CHROMIUM if os.access(CHROMIUM, os.X_OK) else shutil.which("chromium")
    if not path:
        pytest.skip(f"there is no {CHROMIUM}")
    with sync_api.sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=path, args=FLAGS)
        try:
            yield browser
        finally:
            browser.close()


def lines(run: Path, name: str = "review.jsonl") -> list[dict[str, Any]]:
    """The decisions of a file, [] where there is none."""
    return read_rows(run / name) if (run / name).exists() else []


if __name__ == "__main__":
    print(hard_run(Path(sys.argv[1])))
