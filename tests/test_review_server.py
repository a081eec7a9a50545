"""The review server: whom it answers, what is on disk when it has answered, and how it ends."""

from __future__ import annotations

import http.client
import json
import os
import signal
import socket
import subprocess
import sys
from pathlib import Path

import pytest
from pipeline import NAME, ROOT, read_rows, run_step
from review_run import Server, hard_run, lines, served

from syn_pipelines.utils.decisions import effective, text_hash

pytest.importorskip("starlette", reason="the extra [review] is not installed")
pytest.importorskip("uvicorn", reason="the extra [review] is not installed")


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    return hard_run(tmp_path_factory.mktemp("data"))


@pytest.fixture(scope="module")
def server(run):
    with served(run.parents[1], n=100) as running:
        yield running


@pytest.fixture(scope="module")
def idle(tmp_path_factory):
    """A run that nobody reviews."""
    return hard_run(tmp_path_factory.mktemp("idle"))


@pytest.fixture
def own(tmp_path):
    """A run and a server of the test's own."""
    run = hard_run(tmp_path)
    with served(tmp_path, n=100) as running:
        yield run, running


# --- whom it answers -------------------------------------------------------------------------------------------------

@pytest.mark.parametrize("host", ["evil.example", "evil.example:80", "127.0.0.1.evil.example", "169.254.0.1", "[::1]", ""])
def test_another_host_is_refused_whatever_it_asks_for(server, host):
    for path in ("/", "/static/review.js", "/api/queue"):
        status, answer = server.ask(path, headers={"Host": host})
        assert status == 400 and "view" not in answer and "labels" not in answer
    assert server.ask("/api/queue")[0] == 200
    assert server.ask("/api/queue", headers={"Host": f"localhost:{server.port}"})[0] == 200


@pytest.mark.parametrize("headers", [
    {"X-Review-Token": None}, {"X-Review-Token": ""}, {"X-Review-Token": "x" * 32}, {"X-Review-Token": "ü"},
    {"X-Review-Token": None, "Cookie": "token=x"}])
def test_without_the_secret_there_are_no_data_and_no_decisions(server, run, headers):
    assert server.ask("/api/queue", headers=headers)[0] == 403
    assert server.ask("/api/sentences/0", headers=headers)[0] == 403
    assert server.ask("/api/sentences/0", {"do": "finish"}, headers=headers)[0] == 403
    assert not lines(run)


@pytest.mark.parametrize("headers", [
    {"Origin": None}, {"Origin": "null"}, {"Origin": "http://evil.example"}, {"Origin": "https://127.0.0.1"},
    {"Origin": "http://127.0.0.1:1"}, {"Sec-Fetch-Site": "cross-site"}, {"Sec-Fetch-Site": "same-site"},
    {"Content-Type": "text/plain"}, {"Content-Type": "application/x-www-form-urlencoded"}, {"Content-Type": None}])
def test_a_post_from_elsewhere_is_refused_even_with_the_secret(server, run, headers):
    assert server.ask("/api/sentences/0", {"do": "finish"}, headers=headers)[0] == 403
    assert not lines(run)


def test_no_other_site_may_read_answers_or_embed_the_page(server):
    for path in ("/", "/static/review.js", "/api/queue"):
        server.ask(path, headers={"Origin": "http://evil.example"})
        headers = {name.lower(): value for name, value in server.headers.items()}
        assert not any(name.startswith("access-control") for name in headers)
        policy = headers["content-security-policy"]
        assert "default-src 'none'" in policy and "frame-ancestors 'none'" in policy and "unsafe" not in policy
        assert headers["x-content-type-options"] == "nosniff" and headers["cache-control"] == "no-store"
        assert "set-cookie" not in headers
    assert server.ask("/api/queue", method="OPTIONS")[0] in (403, 405)


def test_the_page_itself_holds_no_data_and_no_secret(server):
    for path in ("/", "/static/review.js", "/static/api.js", "/static/review.css"):
        status, answer = server.ask(path, headers={"X-Review-Token": None})
        assert status == 200 and server.token not in answer["text"] and "北京" not in answer["text"]


@pytest.mark.parametrize("path", ["/static/../server.py", "/static/..%2fserver.py", "/static/%2e%2e/server.py", "/static/none.js",
                                  "/static//etc/passwd", "/docs", "/openapi.json"])
def test_no_other_file_is_served(server, path):
    assert server.ask(path)[0] in (403, 404)


def test_a_body_beyond_the_limit_is_refused_before_it_is_read_to_its_end(server, run):
    assert server.ask("/api/sentences/0", body=b'{"do": "' + b"x" * 100_000 + b'"}')[0] == 413
    connection = http.client.HTTPConnection("127.0.0.1", server.port, timeout=20)
    connection.putrequest("POST", "/api/sentences/0", skip_host=True)
    for name, value in {"Host": f"127.0.0.1:{server.port}", "Origin": f"http://127.0.0.1:{server.port}", "X-Review-Token": server.token,
                        "Content-Type": "application/json", "Transfer-Encoding": "chunked"}.items():
        connection.putheader(name, value)
    connection.endheaders()
    connection.send(b"8000\r\n" + b"x" * 0x8000 + b"\r\n")  # and never an end
    assert connection.getresponse().status == 413
    connection.close()
    assert not lines(run)


@pytest.mark.parametrize("body", [b"", b"[]", b"null", b"{", b'{"do": NaN}', b"\xff", b'{"do": "drop"}', b'{"do": ["add"]}',
                                  b'{"do": "accept"}', b'{"do": "accept", "span": {"start": 0, "end": 99, "label": "PER"}}',
                                  b'{"do": "add", "span": {"start": 0, "end": true, "label": "PER"}}',
                                  b'{"do": "add", "span": {"start": 1, "end": 1, "label": "PER"}}',
                                  b'{"do": "add", "span": {"start": -1, "end": 1, "label": "PER"}}',
                                  b'{"do": "add", "span": {"start": 0, "end": 1, "label": "O"}}',
                                  b'{"do": "add", "span": {"start": 0, "end": 1, "label": "no such"}}', b"[" * 5000])
def test_what_is_no_action_is_refused_in_words_and_changes_nothing(server, run, body):
    status, answer = server.ask("/api/sentences/0", body=body)
    assert status == 409 and answer["problem"] and "Traceback" not in str(answer)
    assert not lines(run)


@pytest.mark.parametrize("path", ["/api/sentences/99999", "/api/sentences/-1", "/api/sentences/x"])
def test_a_sentence_beyond_the_queue_is_refused(server, path):
    assert server.ask(path)[0] in (404, 409)


def test_only_the_loopback_address_listens(server):
    def addresses(table):
        rows = [line.split() for line in Path(table).read_text(encoding="ascii").splitlines()[1:]] if Path(table).exists() else []
        return [row[1].split(":")[0] for row in rows if row[3] == "0A" and int(row[1].split(":")[1], 16) == server.port]

    if not os.path.exists("/proc/net/tcp"):
        pytest.skip("there is no /proc/net/tcp")
    assert addresses("/proc/net/tcp") == ["0100007F"] and addresses("/proc/net/tcp6") == []


# --- what is on disk -----------------------------------------------------------------------------------------------

def test_a_decision_is_on_disk_before_the_answer_and_says_what_it_is_about(own):
    run, server = own
    index = server.index_of("13")
    status, answer = server.act(index, "reject", (2, 6, "ORGANIZATION"))
    assert status == 200 and "rejected" in answer["said"]
    row, = lines(run)
    assert row.pop("time") > 1.7e9
    assert row == {"id": "13", "text_sha256": text_hash(list("我在北京大学")), "kind": "extension", "start": 2, "end": 6,
                   "label": "ORGANIZATION", "decision": "reject"}
    assert not (run / "gold_corrections.jsonl").exists()


def test_decisions_about_gold_go_to_a_file_of_their_own(own):
    run, server = own
    index = server.index_of("13")
    server.act(index, "relabel", (2, 6, "LOC"), label="PER")
    server.act(index, "add", (0, 1, "PER"))
    assert not lines(run)
    assert [(row["kind"], row["decision"], row["label"]) for row in lines(run, "gold_corrections.jsonl")] == [
        ("gold", "relabel", "LOC"), ("gold", "add", "PER")]
    assert lines(run, "gold_corrections.jsonl")[0]["to"] == {"start": 2, "end": 6, "label": "PER"}


def test_every_answered_decision_survives_kill_9(own):
    run, server = own
    index = server.index_of("13")
    answered = []
    for view in (server.view(index), server.view(server.index_of("1"))):
        for span in view["spans"]:
            status, _ = server.act(view["index"], "reject", (span["start"], span["end"], span["label"]))
            answered.append((status, view["id"], span["start"], span["end"], span["label"]))
    server.end(signal.SIGKILL)
    rows = [row for name in ("review.jsonl", "gold_corrections.jsonl") for row in lines(run, name)]
    assert len(answered) > 5
    assert sorted((200, r["id"], r["start"], r["end"], r["label"]) for r in rows) == sorted(answered)
    with served(run.parents[1], n=100) as again:
        assert {span["decision"] for span in again.view(index)["spans"]} == {"reject"}


def test_a_line_torn_by_a_kill_is_cut_and_what_stands_before_it_stays(own):
    run, server = own
    server.act(server.index_of("13"), "reject", (2, 6, "ORGANIZATION"))
    server.end(signal.SIGKILL)
    with (run / "review.jsonl").open("ab") as file:
        file.write(b'{"id": "13", "text_sha')
    with served(run.parents[1], n=100) as again:
        index = again.index_of("13")
        assert again.act(index, "accept", (2, 4, "LOCATION"))[0] == 200
    assert [row["decision"] for row in lines(run)] == ["reject", "accept"]


def test_two_pages_that_do_not_know_of_each_other_lose_nothing(own):
    run, server = own
    index = server.index_of("13")
    first = server.view(index)  # both pages have this one; one decides, the other still shows it as open
    server.act(index, "reject", (2, 6, "ORGANIZATION"))
    server.act(index, "add", (0, 1, "PERSON"))
    status, answer = server.act(index, "finish")
    assert status == 200 and first["finished"] is False and answer["view"]["finished"]
    found = {(row["start"], row["end"], row["label"]): row["decision"] for row in lines(run) if "start" in row}
    assert found[2, 6, "ORGANIZATION"] == "reject" and found[0, 1, "PERSON"] == "add" and found[2, 4, "LOCATION"] == "accept"


def test_a_full_disk_is_said_and_the_decision_is_not_shown_as_saved(tmp_path):
    if not os.path.exists("/dev/full"):
        pytest.skip("there is no /dev/full")
    run = hard_run(tmp_path)
    (run / "review.jsonl").write_bytes(b"")
    # A limit on the size of files is a full disk that needs no disk.
    code = ("import resource, signal, runpy, sys; signal.signal(signal.SIGXFSZ, signal.SIG_IGN); "
            "resource.setrlimit(resource.RLIMIT_FSIZE, (300, 300)); sys.argv = sys.argv[1:]; "
            "runpy.run_path(sys.argv[0], run_name='__main__')")
    server = Server.__new__(Server)
    server.process = subprocess.Popen(
        [sys.executable, "-c", code, str(ROOT / "syn_pipelines" / "review.py"), f"--file_dir={tmp_path}", f"--file_name={NAME}", "--n=100",
         "--no_browser=1", "--dense_lang=1"], stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True,
        env={**os.environ, "PYTHONPATH": str(ROOT), "PYTHONUNBUFFERED": "1"})
    try:
        address = server.process.stdout.readline().split()[-1]
        server.port, server.token = int(address.split(":")[2].split("/")[0]), address.partition("#")[2]
        index = server.index_of("13")
        before = server.view(index)
        assert server.act(index, "reject", (2, 4, "LOCATION"))[0] == 200
        status, answer = server.act(index, "finish")
        assert status == 500 and "review.jsonl" in answer["problem"] and "not saved" in answer["problem"]
        assert [s["decision"] for s in server.view(index)["spans"]].count("reject") == 1
        assert sum(bool(s["decision"]) for s in server.view(index)["spans"]) == 1 and not before["finished"]
    finally:
        server.end(signal.SIGKILL)
    assert [row["decision"] for row in lines(run)] == ["reject"]


def test_steps_5_and_8_find_the_decisions_in_what_they_merge(own):
    run, server = own
    index = server.index_of("13")
    server.act(index, "reject", (2, 6, "ORGANIZATION"))
    server.act(index, "relabel", (2, 4, "LOCATION"), label="FACILITY")
    server.act(index, "add", (0, 1, "PERSON"))
    server.act(index, "resize", (0, 1, "PERSON"), start=0, end=2)
    server.act(index, "reject", (2, 6, "LOC"))
    server.end()
    assert run_step("s5_merge_data", file_dir=run.parents[1], dense_lang=1).returncode == 0

    def merged():
        row = next(row for row in read_rows(run / "1000" / "train_1000_fusion.jsonl") if row["id"] == "13")
        return {(e["start"], e["end"], e["entity"]) for e in row["entities"]}

    assert merged() == {(2, 6, "LOC"), (2, 4, "LOC"), (2, 4, "FACILITY"), (0, 2, "PERSON")}
    done = run_step("s5_merge_data", file_dir=run.parents[1], dense_lang=1, apply_gold_review=1)
    assert done.returncode == 0 and merged() == {(2, 4, "LOC"), (2, 4, "FACILITY"), (0, 2, "PERSON")}
    with served(run.parents[1], n=100) as again:  # and the page still shows what each span was before
        shown = {(s["start"], s["end"], s["label"]): s["decision"] for s in again.view(again.index_of("13"))["spans"]}
    assert shown == {(2, 6, "LOC"): "reject", (2, 4, "LOC"): "", (2, 6, "ORGANIZATION"): "reject", (2, 4, "LOCATION"): "relabel",
                     (0, 1, "PERSON"): "resize"}


# --- beginning and ending --------------------------------------------------------------------------------------------

def test_a_second_server_on_the_same_run_is_refused(server, run):
    second = run_step("review", file_dir=run.parents[1], no_browser=1)
    assert second.returncode == 2
    assert str(server.process.pid) in second.stderr and "review.lock" in second.stderr and len(second.stderr.splitlines()) == 1


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_a_signal_ends_the_review_in_one_line_that_says_what_was_decided(own, number):
    run, server = own
    index = server.index_of("13")
    server.act(index, "reject", (2, 6, "ORGANIZATION"))
    server.act(index, "finish")
    code, error = server.end(number)
    assert code == 0 and len(error.splitlines()) == 1, error
    assert "1 reject" in error and "accept" in error and "1 of " in error and "review.jsonl" in error
    assert not list((run / ".journal").glob("*.html"))


def test_a_review_without_a_decision_leaves_no_file(own):
    run, server = own
    server.view(0)
    code, error = server.end()
    assert code == 0 and "nothing" in error
    assert not (run / "review.jsonl").exists() and not (run / "gold_corrections.jsonl").exists()


def test_json_is_one_line_on_standard_output(tmp_path):
    run = hard_run(tmp_path)
    with served(tmp_path, n=5, json=1) as server:
        server.act(0, "finish")
        server.process.send_signal(signal.SIGINT)
        out, _ = server.process.communicate(timeout=30)
    result = json.loads(out.splitlines()[-1])
    assert (result["sentences"], result["finished"], result["decided"]["done"]) == (5, 1, 1)
    assert result["outputs"] == {str(run / name): len(lines(run, name)) for name in ("gold_corrections.jsonl", "review.jsonl")
                                 if (run / name).exists()}
    assert sum(row["right"] for row in result["estimate"]) == result["decided"].get("accept", 0)


@pytest.mark.parametrize("flags, words", [
    ({"save_type_name": "typo"}, ["train_1000.jsonl", "s4_split_data"]), ({"labels": "PRE"}, ["'PRE'", "did you mean 'PER'"]),
    ({"ratio": 2}, ["ratio"]), ({"order": "doubtful"}, ["order"]), ({"size": 7}, ["size"]), ({"n": -1}, ["n: "]),
    ({"port": 70000}, ["port"])])
def test_a_mistaken_flag_is_one_line_and_makes_nothing(idle, flags, words):
    done = run_step("review", file_dir=idle.parents[1], no_browser=1, **flags)
    assert done.returncode == 2 and all(word in done.stderr for word in words) and "Traceback" not in done.stderr
    assert not (idle.parent / "typo").exists() and not lines(idle)


def test_a_port_that_is_taken_is_one_line(idle):
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        port = taken.getsockname()[1]
        done = run_step("review", file_dir=idle.parents[1], no_browser=1, port=port)
    assert done.returncode == 2 and f"port {port}" in done.stderr and len(done.stderr.splitlines()) == 1


def test_without_starlette_it_is_said_what_to_install(idle):
    code = ("import sys; sys.modules['starlette'] = sys.modules['starlette.applications'] = None; sys.argv[0] = 'review.py'; "
            "from syn_pipelines import review; from syn_pipelines.utils.summary import run_script; run_script(review.main)")
    done = subprocess.run([sys.executable, "-c", code, f"--file_dir={idle.parents[1]}", f"--file_name={NAME}", "--no_browser"], text=True,
                          capture_output=True, env={**os.environ, "PYTHONPATH": str(ROOT)}, timeout=60)
    assert done.returncode == 2 and "pip install" in done.stderr and len(done.stderr.splitlines()) == 1


def test_the_browser_gets_the_secret_by_a_file_that_only_this_user_can_read(tmp_path):
    run = hard_run(tmp_path)
    note = tmp_path / "opened"
    browser = tmp_path / "browser.sh"
    browser.write_text(f'#!/bin/sh\nprintf "%s\\n" "$1" > {note}.part; stat -c %a "${{1#file://}}" >> {note}.part; '
                       f'cat "${{1#file://}}" >> {note}.part; mv {note}.part {note}\n', encoding="utf-8")
    browser.chmod(0o700)
    os.environ["BROWSER"] = str(browser)
    try:
        with served(tmp_path, n=5, no_browser=0) as server:
            said = server.process.stdout.readline()  # the second line; the browser is opened behind it
            assert "Ctrl-C" in said
            for _ in range(100):
                if note.exists():
                    break
                server.process.poll()
                server.ask("/api/queue")
            address, mode, page = note.read_text(encoding="utf-8").split("\n")[:3]
            server.end()
    finally:
        del os.environ["BROWSER"]
    assert address.startswith("file://") and server.token not in address
    assert mode == "600" and server.address in page
    assert not list((run / ".journal").glob("*.html"))


def test_effective_decisions_are_those_that_the_page_shows(own):
    run, server = own
    index = server.index_of("13")
    server.act(index, "reject", (2, 6, "ORGANIZATION"))
    server.act(index, "accept", (2, 6, "ORGANIZATION"))
    server.act(index, "undo")
    server.act(index, "add", (0, 1, "PERSON"))
    server.act(index, "relabel", (0, 1, "PERSON"), label="FACILITY")
    counted = {d.span: d.decision for d in effective(run / "review.jsonl").decisions["13"]}
    shown = {(s["start"], s["end"], s["label"]): s["decision"] for s in server.view(index)["spans"] if s["decision"]}
    assert counted == shown == {(2, 6, "ORGANIZATION"): "reject", (0, 1, "PERSON"): "relabel"}
