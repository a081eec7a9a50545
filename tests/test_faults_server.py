"""Servers that answer what no reply is: endless, compressed, misdirected, in another encoding. See test_openai_backend.py
for 429, 5xx, dropped and hanging connections, half a JSON and empty choices."""

from __future__ import annotations

import gzip
import os
import signal
import threading
import time
import tracemalloc
from datetime import datetime, timedelta, timezone
from email.utils import format_datetime

import pytest
from child import last_line, run_child, start_child
from fault_server import Fault, FaultServer
from hypothesis import given
from hypothesis import strategies as st
from pipeline import NAME, read_rows, write_dataset

from syn_pipelines.utils.errors import ServiceError
from syn_pipelines.utils.llm import Request
from syn_pipelines.utils.llm.openai_backend import OpenAIBackend
from syn_pipelines.utils.llm.openai_errors import MAX_PAUSE_S, retry_after_s
from syn_pipelines.utils.llm.openai_limits import MOST_BYTES

pytest.importorskip("openai", reason="needs the package openai (see requirements.txt)")


def backend_for(server: FaultServer, **options) -> OpenAIBackend:
    return OpenAIBackend("tiny", server.url, **{"first_pause_s": 0.002, "timeout_s": 20.0, **options})


def questions(count: int) -> list[Request]:
    return [Request(str(n), ({"role": "user", "content": f"about {n}"},), 64) for n in range(count)]


def echo(body) -> str:
    return f"answer {body['messages'][-1]['content']}"


def about(content: str, fault: Fault):
    return lambda number, body: fault if body["messages"][-1]["content"] == content else None


LATIN = '{"choices": [{"message": {"content": "é"}}]}'.encode("latin-1")
LOGIN = b"<!DOCTYPE html><html><title>Please log in</title><body>Please log in</body></html>"


@pytest.mark.parametrize("fault, told", [
    (Fault(endless=True), f"the answer has more than {MOST_BYTES >> 20} MiB"),
    (Fault(500, endless=True), f"the answer has more than {MOST_BYTES >> 20} MiB"),
    (Fault(raw=gzip.compress(b" " * 1000), headers={"Content-Encoding": "gzip"}), "compressed (gzip)"),
    (Fault(302, headers={"Location": "/login"}), "HTTP 404: Not Found"),  # followed, as a GET
    (Fault(307, headers={"Location": "/v1/chat/completions"}), "redirects"),
    (Fault(307, headers={"Location": "http://127.0.0.1:9/v1"}), "connection: "),
    (Fault(raw=LOGIN), "broken answer: Please log in"),
    (Fault(raw=LATIN), "broken answer: not UTF-8"),
], ids=["endless", "endless 500", "compressed", "redirect to a page", "redirect to itself", "redirect to nobody", "page", "latin-1"])
def test_what_is_no_answer_costs_its_request_alone_and_says_what_it_was(fault, told):
    with FaultServer(answer=echo, faults=about("about 3", fault)) as server:
        backend = backend_for(server, concurrency=2, tries=2)
        replies = {reply.id: reply for reply in backend.generate(questions(8))}
    assert [name for name, reply in replies.items() if reply.finish_reason != "stop"] == ["3"] and len(replies) == 8
    assert replies["3"].finish_reason == "error" and told in replies["3"].error, replies["3"].error
    assert {headers["Accept-Encoding"] for headers in server.headers} == {"identity"}


def test_an_endless_answer_does_not_fill_the_memory():
    with FaultServer(answer=echo, faults=about("about 0", Fault(endless=True))) as server:
        backend = backend_for(server, tries=1)
        list(backend.generate(questions(1)[:0] + questions(2)[1:]))  # the client's own needs
        tracemalloc.start()
        replies = list(backend.generate(questions(2)))
        _, most = tracemalloc.get_traced_memory()
        tracemalloc.stop()
    assert {reply.id: reply.finish_reason for reply in replies} == {"0": "error", "1": "stop"}
    assert most < 3 * MOST_BYTES


def test_a_server_that_has_moved_is_followed():
    with FaultServer(answer=echo) as there:
        with FaultServer(faults=lambda n, body: Fault(307, headers={"Location": f"{there.url}/chat/completions"})) as server:
            replies = list(backend_for(server).generate(questions(4)))
    assert {reply.text for reply in replies} == {f"answer about {n}" for n in range(4)}


def test_half_a_surrogate_pair_in_an_answer_is_stored_as_a_replacement_character(tmp_path):
    write_dataset(tmp_path)
    body = b'{"choices": [{"message": {"content": "[{\\"entity\\": \\"\\ud83d\\", \\"type\\": \\"x\\"}]"}}]}'
    with FaultServer(faults=lambda number, sent: Fault(raw=body)) as server:
        result = run_child("s1_predict_data", served(tmp_path, server))
    assert result.returncode == 0, result.stderr
    assert {row["reply"] for row in read_rows(tmp_path / NAME / "GLM4" / "entity_train_1000.jsonl")} == {
        '[{"entity": "\ufffd", "type": "x"}]'}


# --- Retry-After -----------------------------------------------------------------------------------------------------

NOW = datetime(2031, 5, 4, 12, 0, tzinfo=timezone.utc)


@given(st.integers(-10_000, 10_000), st.integers(-10**6, 10**6))
def test_a_date_to_come_back_at_is_counted_from_the_servers_own_clock(wait_s, wrong_s):
    """However wrong the clock here is."""
    there = NOW + timedelta(seconds=wrong_s)
    headers = {"date": format_datetime(there, usegmt=True),
               "retry-after": format_datetime(there + timedelta(seconds=wait_s), usegmt=True)}
    assert retry_after_s(headers) == min(max(wait_s, 0), MAX_PAUSE_S)


def test_a_date_without_the_servers_clock_is_counted_from_ours():
    headers = {"retry-after": format_datetime(datetime.now(timezone.utc) + timedelta(seconds=100), usegmt=True)}
    assert 50 < retry_after_s(headers) <= 100
    assert retry_after_s({**headers, "date": "yesterday"}) <= 100


# --- the scripts -----------------------------------------------------------------------------------------------------

def served(folder, server: FaultServer, **more) -> dict[str, object]:
    return {"file_dir": folder, "file_name": NAME, "base_url": server.url, "model_from_pretrained": "tiny", **more}


def stored(folder) -> list[str]:
    return [row["id"] for row in read_rows(folder / NAME / "GLM4" / ".journal" / "entity_train_1000.jsonl")[1:]]


def test_a_server_that_refuses_every_sentence_marks_none_as_failed(tmp_path):
    write_dataset(tmp_path)
    refuse = Fault(400, "chat template is broken")
    with FaultServer(faults=lambda number, body: refuse if "句子" in body["messages"][-1]["content"] else None) as server:
        result = run_child("s1_predict_data", served(tmp_path, server))
        assert result.returncode == 1 and "Traceback" not in result.stderr
        assert "failed on 12 requests in a row" in last_line(result.stderr) and refuse.message in last_line(result.stderr)
        assert stored(tmp_path) == []
    with FaultServer() as server:
        assert run_child("s1_predict_data", served(tmp_path, server)).returncode == 0
    assert len(stored(tmp_path)) == 12


@pytest.mark.parametrize("numbers", [[signal.SIGTERM], [signal.SIGTERM, signal.SIGTERM], [signal.SIGINT, signal.SIGTERM]],
                         ids=["once", "twice", "two kinds"])
def test_stopping_while_the_server_hangs_ends_at_once_and_repeats_no_answer(numbers, tmp_path):
    write_dataset(tmp_path)
    with FaultServer(faults=lambda number, body: Fault(hang_s=60) if number > 7 else None) as server:
        process = start_child("s1_predict_data", served(tmp_path, server, concurrency=2))
        while not (server.at_once == 2 and len(server.requests) >= 9) and process.poll() is None:
            time.sleep(0.01)
        for number in numbers:
            process.send_signal(number)
        _, said = process.communicate(timeout=30)
        asked = set(stored(tmp_path))
    assert process.returncode in {128 + number for number in numbers}
    assert "Traceback" not in said and "what is finished is kept; the same command goes on from there" in last_line(said)
    assert len(asked) >= 5
    with FaultServer() as server:
        assert run_child("s1_predict_data", served(tmp_path, server)).returncode == 0
        assert sum("句子" in content for content in server.asked) == 12 - len(asked)


SLOW_DISK = """
real = os.fdatasync
def slow(handle):
    os.fdatasync = real
    time.sleep(1.0)
    send(NUMBER)
os.fdatasync = slow
"""


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_answers_that_come_while_a_reply_is_stored_are_kept_when_a_signal_comes_then(number, tmp_path):
    write_dataset(tmp_path)
    with FaultServer() as server:
        result = run_child("s1_predict_data", served(tmp_path, server, concurrency=4, constraint="none"),
                           before=SLOW_DISK.replace("NUMBER", str(int(number))))
        assert result.returncode == 128 + number and "Traceback" not in result.stderr, result.stderr
        assert len(stored(tmp_path)) == len(set(stored(tmp_path))) == len(server.asked) == 8
        assert run_child("s1_predict_data", served(tmp_path, server, constraint="none")).returncode == 0
        assert len(server.asked) == 12


@pytest.mark.parametrize("work", [lambda backend: list(backend.generate(questions(3))), OpenAIBackend.check],
                         ids=["requests", "check"])
def test_a_signal_that_does_not_wake_the_waiting_thread_is_seen_all_the_same(work):
    """As one that comes just before the wait: a minute later the answer would end it, and this test by its time limit."""
    def interrupt(number, frame):
        raise KeyboardInterrupt

    before = signal.signal(signal.SIGUSR1, interrupt)
    with FaultServer(models=("another",), faults=lambda number, body: Fault(hang_s=900)) as server:
        def send():
            while not server.requests:
                time.sleep(0.01)
            os.kill(os.getpid(), signal.SIGUSR1)

        sender = threading.Thread(target=send, daemon=True)
        sender.start()
        signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGUSR1})  # of this thread alone: another one takes the signal
        try:
            with pytest.raises(KeyboardInterrupt):
                work(backend_for(server, timeout_s=900.0))
        finally:
            signal.pthread_sigmask(signal.SIG_UNBLOCK, {signal.SIGUSR1})
            signal.signal(signal.SIGUSR1, before)


def test_twenty_failures_of_the_servers_own_still_come_first():
    with FaultServer(faults=lambda number, body: Fault(500, "down")) as server:
        with pytest.raises(ServiceError, match="20 tries in a row failed"):
            list(backend_for(server).generate(questions(60)))
