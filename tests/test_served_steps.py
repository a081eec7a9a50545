"""Step 1 through servers: killed clients, servers that stop and come back, faults in between; nothing lost or asked twice."""

from __future__ import annotations

import contextlib
import importlib.util
import os
import signal
import socket
import subprocess
import sys
import time
import urllib.error
import urllib.request
from collections import Counter
from pathlib import Path

import pytest
from fault_server import Fault, FaultServer
from scripted import read_rows, write_data_set

ROOT = Path(__file__).resolve().parents[1]
NAMES = "Ann Bob Cleo Dan Eve Finn Gus Hal Ida Jim Kay Leo Mia Ned Ora Pam Quin Ros Sam Tom".split()
PLACES = "Paris Rome Oslo Bern Lima Cairo".split()
pytest.importorskip("openai", reason="needs the package openai (see requirements.txt)")


def sentences(count):
    texts = [f"{NAMES[n % 20]} went to {PLACES[n % 6]} on day {n} ." for n in range(count)]
    return [(text, [(0, 1, "PER"), (3, 4, "LOC")]) for text in texts]


def start_step(folder, url, run, model="tiny", **flags):
    """Step 1 as a process of its own; standard error is kept in a file."""
    flags = {"file_dir": folder.parent, "file_name": folder.name, "save_type_name": run, "base_url": url,
             "model_from_pretrained": model, "mode": "entity", "concurrency": 4, **flags}
    command = [sys.executable, str(ROOT / "syn_pipelines" / "s1_predict_data.py"), *(f"--{k}={v}" for k, v in flags.items())]
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}
    environment.pop("OPENAI_API_KEY", None)
    with (folder.parent / "stderr.txt").open("a+b") as errors:
        return subprocess.Popen(command, env=environment, stdout=subprocess.DEVNULL, stderr=errors)


def run_step(folder, url, run, **flags):
    """(exit code, what it said)"""
    before = len(said(folder))
    code = start_step(folder, url, run, **flags).wait(timeout=120)
    return code, said(folder)[before:]


def said(folder):
    path = folder.parent / "stderr.txt"
    return path.read_text(encoding="utf-8") if path.exists() else ""


def published(folder, run):
    return (folder / run / "entity_train_1000.jsonl").read_bytes()


def finished(folder, run):
    """Sentences whose replies are stored, by id; an unfinished last line does not count."""
    path = folder / run / ".journal" / "entity_train_1000.jsonl"
    lines = path.read_bytes().split(b"\n")[1:-1] if path.exists() else []
    return {line.split(b'"id": "', 1)[1].split(b'"', 1)[0].decode() for line in lines if b'"id": "' in line}


def asked_sentences(server, texts):
    """How often each sentence was asked about."""
    return Counter(n for content in server.asked for n, text in enumerate(texts, 1) if text in content)


def wait_until(condition, process=None, seconds=60):
    end = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < end and (process is None or process.poll() is None), "it did not come to that"
        time.sleep(0.01)


def killed_in_the_middle(folder, url, run, least, **flags):
    """Start the step, kill it without warning once so many replies are stored; returns the ids of those."""
    process = start_step(folder, url, run, **flags)
    wait_until(lambda: len(finished(folder, run)) >= least, process)
    process.send_signal(signal.SIGKILL)
    assert process.wait(timeout=30) == -signal.SIGKILL
    return finished(folder, run)


def assert_exactly_once(folder, run, count):
    rows = read_rows(folder / run / "entity_train_1000.jsonl")
    assert [row["id"] for row in rows] == [str(n) for n in range(1, count + 1)]
    assert {row["status"] for row in rows} <= {"ok", "repaired", "rejected"}


# --- against the fault server ------------------------------------------------------------------------------------

COUNT = 60


def label(body):
    """The name in the sentence, as an honest model would answer."""
    words = body["messages"][-1]["content"].split()
    found = [word for word in words if word in NAMES + PLACES]
    return f'[{{"entity": "{found[-2]}", "type": "PERSON"}}, {{"entity": "{found[-1]}", "type": "LOC"}}]' if found else "hi"


def weather(number, body):
    """Every fourth request meets a fault; all are slow enough to be killed in the middle."""
    faults = [Fault(429, retry_after="0.05"), Fault(drop=True), Fault(500), Fault(cut=True), Fault(raw=b"\xff\xfe")]
    return faults[number // 4 % 5] if number % 4 == 0 else Fault(hang_s=0.02)


@pytest.fixture
def served(tmp_path):
    folder = write_data_set(tmp_path, sentences(COUNT), "served")
    with FaultServer(answer=label) as server:
        assert run_step(folder, server.url, "calm")[0] == 0
        assert set(asked_sentences(server, [text for text, _ in sentences(COUNT)]).values()) == {1}
    return folder


def test_kills_restarts_and_faults_change_nothing(served):
    texts = [text for text, _ in sentences(COUNT)]
    with FaultServer(answer=label, faults=weather) as server:
        done = killed_in_the_middle(served, server.url, "wild", 10)
        asked_of_first = asked_sentences(server, texts)
        port = server.port
    code, output = run_step(served, server.url, "wild")
    assert code == 2 and "no server answers there" in output and finished(served, "wild") == done
    with FaultServer(answer=label, faults=lambda number, body: weather(number, body) if number < 40 else Fault(drop=True),
                     port=port) as server:
        code, output = run_step(served, server.url, "wild")
        asked_of_second = asked_sentences(server, texts)
    assert code == 1 and "tries in a row failed" in output and "Traceback" not in output
    done_twice = finished(served, "wild")
    assert done < done_twice < set(map(str, range(1, COUNT + 1)))
    with FaultServer(answer=label, faults=weather, port=port) as server:
        assert run_step(served, server.url, "wild")[0] == 0
        asked_of_third = asked_sentences(server, texts)
        assert run_step(served, server.url, "wild")[0] == 0
        assert asked_sentences(server, texts) == asked_of_third
    assert asked_of_first and not done & set(map(str, asked_of_second)) and not done_twice & set(map(str, asked_of_third))
    assert_exactly_once(served, "wild", COUNT)
    assert published(served, "wild") == published(served, "calm")


def test_a_sentence_that_always_fails_is_marked_and_can_be_asked_again(served):
    poisoned = sentences(COUNT)[6][0]

    def poison(number, body):
        return Fault(400, "cannot read that") if poisoned in body["messages"][-1]["content"] else None

    with FaultServer(answer=label, faults=poison) as server:
        assert run_step(served, server.url, "poison")[0] == 0
    rows = read_rows(served / "poison" / "entity_train_1000.jsonl")
    assert [(row["id"], row["reason"]) for row in rows if row["status"] == "failed"] == [("7", "HTTP 400: cannot read that")]
    with FaultServer(answer=label) as server:
        assert run_step(served, server.url, "poison", retry_failed=1)[0] == 0
        assert asked_sentences(server, [text for text, _ in sentences(COUNT)]) == {7: 1}
    assert published(served, "poison") == published(served, "calm")


@pytest.mark.parametrize("fault", [Fault(401, "no such key"), Fault(404, "The model `tiny` does not exist")], ids=["key", "model"])
def test_what_the_user_can_mend_is_one_line_and_exit_2(served, fault):
    with FaultServer(answer=label, faults=lambda number, body: fault) as server:
        code, output = run_step(served, server.url, "refused")
    errors = [line for line in output.splitlines() if line.startswith("error: ")]
    assert code == 2 and len(errors) == 1 and fault.message in errors[0] and "Traceback" not in output
    assert not finished(served, "refused")


def test_a_refused_key_is_found_before_overwrite_throws_replies_away(served):
    before = finished(served, "calm")
    with FaultServer(answer=label, faults=lambda number, body: Fault(401, "no such key")) as server:  # it lists its models
        code, output = run_step(served, server.url, "calm", overwrite=1)
    assert code == 2 and "refuses the key" in output and finished(served, "calm") == before


def test_interrupting_a_step_that_waits_for_the_server_ends_it_at_once(served):
    with FaultServer(answer=label, faults=lambda number, body: Fault(hang_s=20) if number > 10 else None) as server:
        process = start_step(served, server.url, "interrupted")
        wait_until(lambda: len(finished(served, "interrupted")) >= 5 and server.at_once >= 4, process)
        process.send_signal(signal.SIGINT)
        assert process.wait(timeout=15) == 130
    assert "Traceback" not in said(served) and len(finished(served, "interrupted")) >= 5


def test_the_key_is_in_no_file(served, monkeypatch):
    key = "sk-kept-in-the-environment"
    with FaultServer(answer=label, key=key) as server:
        environment = {**os.environ, "OPENAI_API_KEY": key}
        command = [sys.executable, str(ROOT / "syn_pipelines" / "s1_predict_data.py"), f"--file_dir={served.parent}",
                   "--file_name=served", "--save_type_name=keyed", f"--base_url={server.url}", "--model_from_pretrained=tiny"]
        result = subprocess.run(command, env=environment, capture_output=True, text=True, timeout=60)
    assert result.returncode == 0, result.stderr
    assert key not in result.stdout + result.stderr
    assert not [path for path in served.rglob("*") if path.is_file() and key.encode() in path.read_bytes()]
    assert published(served, "keyed") == published(served, "calm")


def test_a_server_with_grammars_gives_replies_of_which_every_one_is_grounded(tmp_path):
    pytest.importorskip("llguidance", reason="the fault server obeys grammars with llguidance")
    folder = write_data_set(tmp_path, sentences(20), "held")
    with FaultServer(holds=("grammar",)) as server:
        code, output = run_step(folder, server.url, "run")
    assert code == 0 and "replies are held to: grammar" in output
    rows = read_rows(folder / "run" / "entity_train_1000.jsonl")
    assert {row["status"] for row in rows} == {"ok"} and any(row["items"] for row in rows)
    assert all(item["entity"] in " ".join(row["text"]) for row in rows for item in row["items"])


# --- against transformers serve ----------------------------------------------------------------------------------

REAL_COUNT = 16


class Serve:
    """A process of ``transformers serve`` with one checkpoint, which can be stopped and started at the same address."""

    def __init__(self, checkpoint, folder):
        self.checkpoint, self.folder = checkpoint, folder
        with socket.socket() as free:
            free.bind(("127.0.0.1", 0))
            self.port = free.getsockname()[1]
        self.url = f"http://127.0.0.1:{self.port}/v1"
        self._process = None

    def start(self):
        command = [str(Path(sys.executable).with_name("transformers")), "serve", str(self.checkpoint), "--device", "cpu",
                   "--dtype", "float32", "--host", "127.0.0.1", "--port", str(self.port)]
        environment = {**os.environ, "OMP_NUM_THREADS": "1", "HF_HUB_OFFLINE": "1", "HF_HOME": str(self.folder)}
        with (self.folder / "serve.txt").open("ab") as output:
            self._process = subprocess.Popen(command, env=environment, stdout=output, stderr=output)
        wait_until(self._answers, self._process, seconds=120)

    def _answers(self):
        with contextlib.suppress(urllib.error.URLError, ConnectionError, TimeoutError):
            with urllib.request.urlopen(f"http://127.0.0.1:{self.port}/health", timeout=5) as answer:
                return answer.status == 200
        return False

    def stop(self):
        self._process.kill()
        self._process.wait(timeout=30)


@pytest.fixture(scope="module")
def real(tmp_path_factory):
    for package in ("transformers.cli.serving", "fastapi", "uvicorn"):
        with contextlib.suppress(ModuleNotFoundError):
            if importlib.util.find_spec(package):
                continue
        pytest.skip(f"`transformers serve` needs {package}")
    from tiny_models import build_tiny_model

    folder = tmp_path_factory.mktemp("serve")
    checkpoint = build_tiny_model("qwen2", folder / "tiny", max_position_embeddings=1024)
    server = Serve(checkpoint, folder)
    server.start()
    yield server
    server.stop()


def test_a_real_server_answers_and_the_constraint_it_ignores_is_not_taken_for_kept(real):
    from syn_pipelines.utils.llm import Constraint, Request
    from syn_pipelines.utils.llm.openai_backend import OpenAIBackend

    backend = OpenAIBackend(str(real.checkpoint), real.url)
    backend.check()
    constraint = Constraint("pos", ("Ann", "left"), False, ("NN", "VB"))
    requests = [Request(str(n), ({"role": "user", "content": f"Tell me about {n}."},), 12 + n, constraint=constraint)
                for n in range(6)]
    replies = {reply.id: reply for reply in backend.generate(requests)}
    assert sorted(replies) == [request.id for request in requests]
    assert all(reply.text and reply.decoded == "" and reply.prompt_tokens > 5 for reply in replies.values())
    assert all(replies[request.id].completion_tokens <= request.max_new_tokens for request in requests)
    assert {reply.finish_reason for reply in replies.values()} <= {"stop", "length"}


def test_a_real_server_with_another_model_is_a_users_mistake(real):
    from syn_pipelines.utils.errors import UserError
    from syn_pipelines.utils.llm.openai_backend import OpenAIBackend

    with pytest.raises(UserError, match="no model '/no/such/model'"):
        OpenAIBackend("/no/such/model", real.url).check()


def test_a_real_server_killed_clients_and_faults_in_between(real, tmp_path):
    texts = [text for text, _ in sentences(REAL_COUNT)]
    folder = write_data_set(tmp_path, sentences(REAL_COUNT), "served")
    settings = {"model": str(real.checkpoint), "concurrency": 2}
    assert run_step(folder, real.url, "calm", **settings)[0] == 0
    with FaultServer(upstream=real.url, faults=weather) as proxy:
        done = killed_in_the_middle(folder, proxy.url, "wild", 3, **settings)
        before = len(proxy.requests)
        process = start_step(folder, proxy.url, "wild", **settings)
        wait_until(lambda: len(finished(folder, "wild")) >= len(done) + 2, process)
        real.stop()
        assert process.wait(timeout=120) == 1 and "tries in a row failed" in said(folder)
        done_twice, second = finished(folder, "wild"), len(proxy.requests)
        real.start()
        assert run_step(folder, proxy.url, "wild", **settings)[0] == 0
    again = {n for body in proxy.requests[before:second] for n, text in enumerate(texts, 1)
             if text in body["messages"][-1]["content"]}
    third = {n for body in proxy.requests[second:] for n, text in enumerate(texts, 1)
             if text in body["messages"][-1]["content"]}
    assert not done & set(map(str, again)) and not done_twice & set(map(str, third))
    assert done < done_twice
    assert_exactly_once(folder, "wild", REAL_COUNT)
    assert published(folder, "wild") == published(folder, "calm")
