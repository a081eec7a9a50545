"""Steps 1 to 3 over more sentences than fit the memory: read again in each pass, few questions at once, a small index."""

from __future__ import annotations

import json
import os
import queue
import subprocess
import sys
import threading
from contextlib import closing
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from scripted import FINE, WRITTEN, ScriptedBackend, asked_lines, call, journal_of, rows_of, write_data_set, write_rows
from workspace import ROOT, tree_bytes

import syn_pipelines.s1_predict_data as s1
import syn_pipelines.s2_continous_generation as s2
import syn_pipelines.s3_predict_syn_data as s3
from syn_pipelines import UserError
from syn_pipelines.utils import annotate
from syn_pipelines.utils.journal import Journal, Replies
from syn_pipelines.utils.llm import Reply
from syn_pipelines.utils.records import read_sentences
from syn_pipelines.utils.source import Source

BYTES_A_ROW = 300  # what a question and its sentence take is thousands
SPARE_MB = 4.0  # what the peak of one process differs from that of another


# --- memory ----------------------------------------------------------------------------------------------------------

@pytest.mark.parametrize("flags", ["--step=s1 --model=function", "--step=s2 --model=function", "--step=s1 --model=server"])
def test_ten_times_as_many_sentences_take_hardly_more_memory(flags):
    if "server" in flags:
        pytest.importorskip("openai", reason="needs the package openai (see requirements.txt)")
    few, many = 600, 6000
    done = subprocess.run([sys.executable, str(ROOT / "benchmarks" / "driver.py"), "--rows", str(few), str(many), "--json",
                           *flags.split()], capture_output=True, text=True, check=True)
    small, large = json.loads(done.stdout)
    assert (small["rows"], large["rows"]) == (few, many) and large["asked"] > 0.7 * many
    assert large["peak_mb"] - small["peak_mb"] < SPARE_MB + (many - few) * BYTES_A_ROW / 2**20


def test_a_backend_that_reads_one_request_at_a_time_has_no_more_than_one_made(folder, monkeypatch):
    made = []
    request = annotate._request
    monkeypatch.setattr(annotate, "_request", lambda *args: made.append(args[2].id) or request(*args))

    class Slow(ScriptedBackend):
        def generate(self, requests):
            for reply in super().generate(requests):
                assert len(made) == len(self.asked)
                yield reply

    backend = Slow(FINE)
    monkeypatch.setattr(annotate, "choose_backend", lambda opts: backend)
    call(s1, folder)
    assert made == backend.asked_ids == list("12345")


@pytest.mark.parametrize("flags, asked", [({"skip": 10**30}, ""), ({"limit": 10**30}, "12345"), ({"skip": 3, "limit": 10**30}, "45")])
def test_numbers_beyond_all_files_choose_what_they_say(folder, use, flags, asked):
    backend = use(FINE)
    call(s1, folder, **flags)
    assert "".join(backend.asked_ids) == asked


# --- the index of a journal --------------------------------------------------------------------------------------------

IDS = st.text(st.sampled_from("ab#1é"), min_size=1, max_size=3)


@settings(max_examples=60, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(st.lists(st.tuples(IDS, st.text(max_size=9), st.booleans()), max_size=25))
def test_the_index_knows_what_a_dict_would_also_after_the_file_is_opened_again(tmp_path, entries):
    path = tmp_path / "journal.jsonl"
    path.unlink(missing_ok=True)
    texts, attempts = {}, {}
    journal = Journal(path, {"model": "m"}, advice="")
    for identity, text, again in entries:
        if again:
            journal.close()
            journal = Journal(path, {"model": "m"}, advice="")
        texts.pop(identity, None)  # the order is that of the last lines
        texts[identity], attempts[identity] = text, attempts.get(identity, 0) + 1
        journal.append({"id": identity, "text": text, "finish_reason": "stop", "error": ""})
    stored = Replies.stored(path)
    for replies in journal, stored:
        assert [(entry["id"], entry["text"]) for entry in replies.entries()] == list(texts.items())
        assert list(replies) == list(texts) and len(replies) == len(texts)
        for identity in {*texts, "a", "absent"}:
            assert (identity in replies) is (identity in texts)
            assert replies.attempts(identity) == attempts.get(identity, 0)
            if identity in texts:
                assert replies.read(identity)["text"] == texts[identity]
            else:
                with pytest.raises(KeyError):
                    replies.read(identity)
        replies.close()


class Alike(str):
    """A text whose hash is that of all others of its kind."""

    __slots__ = ()

    def __hash__(self) -> int:
        return 7


def test_a_reply_is_never_given_to_another_id_with_the_same_hash(tmp_path):
    with closing(Replies.of(tmp_path / "journal.jsonl", {}, [{"id": "one", "text": "", "finish_reason": "stop", "error": ""}])) as replies:
        replies._note(Alike("one"), len(replies._line_at(0)))
        assert replies.read(Alike("one"))["id"] == "one"
        with pytest.raises(UserError, match="a reply about two is no longer where it was"):
            replies.read(Alike("two"))


@pytest.mark.parametrize("change", [lambda content: content.replace(b'"one"', b'"eno"'), lambda content: content[:-90],
                                    lambda content: content.replace(b'"id"', b'"di"'), lambda content: b""])
def test_a_journal_changed_under_a_running_step_gives_no_other_reply(tmp_path, change):
    path = tmp_path / "journal.jsonl"
    with closing(Journal(path, {"model": "m"}, advice="")) as journal:
        for identity in ("one", "two"):
            journal.append({"id": identity, "text": "[]", "finish_reason": "stop", "error": ""})
        path.write_bytes(change(path.read_bytes()))  # in place: the same file
        with pytest.raises(UserError, match="no longer where it was"):
            [journal.read(identity) for identity in ("one", "two")]


# --- an input that changes while a step runs ----------------------------------------------------------------------------

def edited(path: Path) -> None:
    """Another word of the same length in the last sentence, in place, the times set back."""
    before = os.stat(path)
    path.write_bytes(path.read_bytes().replace(b"weather", b"wreathe"))
    os.utime(path, ns=(before.st_atime_ns, before.st_mtime_ns))


def swapped(path: Path) -> None:
    """The lines in another order, by a file that takes its place."""
    lines = path.read_bytes().splitlines(keepends=True)
    other = path.with_name("other")
    other.write_bytes(b"".join(reversed(lines)))
    os.replace(other, path)


def torn(path: Path) -> None:
    path.write_bytes(path.read_bytes()[:-40])


def put_back(path: Path) -> None:
    content = path.read_bytes()
    path.write_bytes(content[:50])
    path.write_bytes(content)


class Meddler(ScriptedBackend):
    """After so many answers somebody changes the input file."""

    def __init__(self, answers, path: Path, change, after: int) -> None:
        super().__init__(answers)
        self.path, self.change, self.after = path, change, after

    def generate(self, requests):
        for number, reply in enumerate(super().generate(requests), 1):
            yield reply
            if number == self.after:
                self.change(self.path)


@pytest.mark.parametrize("change", [edited, swapped, torn, Path.unlink, put_back])
@pytest.mark.parametrize("after", [2, 5])
def test_an_input_that_changes_while_its_sentences_are_asked_about_is_refused(folder, monkeypatch, use, change, after):
    path = folder / "train_1000.jsonl"
    before = path.read_bytes()
    backend = Meddler(FINE, path, change, after)
    monkeypatch.setattr(annotate, "choose_backend", lambda opts: backend)
    with pytest.raises(UserError, match=r"train_1000\.jsonl: has changed while the step runs, so nothing was published"):
        call(s1, folder)
    assert asked_lines(folder) == list("12345")[:after], "what was answered is kept, and nothing asked about other sentences"
    assert not (folder / "run" / "entity_train_1000.jsonl").exists()
    path.write_bytes(before)
    again = use(FINE)
    call(s1, folder)
    assert again.asked_ids == list("12345")[after:]
    assert [row["id"] for row in rows_of(folder)] == list("12345")


@pytest.mark.parametrize("step, answers, name", [(s2, WRITTEN, "train_1000.jsonl"), (s3, {
    f"{source}-s{k}": "[]" for source in "134" for k in (1, 2)}, "run/train_1000_synthetic.jsonl")])
def test_the_other_steps_refuse_it_too(folder, monkeypatch, use, step, answers, name):
    use(WRITTEN)
    if step is s3:
        call(s2, folder)
    backend = Meddler(answers, folder / name, swapped, 1)
    monkeypatch.setattr(annotate, "choose_backend", lambda opts: backend)
    with pytest.raises(UserError, match="has changed while the step runs"):
        call(step, folder)


def test_an_input_that_changes_while_it_is_published_leaves_the_older_file(folder, use, monkeypatch):
    use(FINE)
    call(s1, folder, limit=4)
    before = tree_bytes(folder / "run")
    path, rows = folder / "train_1000.jsonl", annotate._rows

    def changing(*args):
        for number, row in enumerate(rows(*args)):
            if number == 3:
                edited(path)
            yield row
    monkeypatch.setattr(annotate, "_rows", changing)
    use(FINE)
    with pytest.raises(UserError, match="has changed while the step runs"):
        call(s1, folder)
    assert tree_bytes(folder / "run") == before


def test_each_pass_gives_the_sentences_that_the_first_one_checked(tmp_path):
    path = tmp_path / "train_1000.jsonl"
    rows = [{"text": ["a"], "entities": [], "more": {"x": 1}}, {"entities": [], "id": 7, "text": ["b"]},
            {"id": "c", "text": ["c", " "], "entities": []}]
    path.write_bytes(b"\xef\xbb\xbf" + b"\r\n".join(json.dumps(row).encode() for row in rows) + b"\n\n")
    source = Source(path, lambda: read_sentences(path))
    first = list(source)
    assert [json.dumps(row) for row in source] == [json.dumps(row) for row in first]
    assert [row["id"] for row in first] == ["1", "7", "c"] and source.number == 3
    write_rows(path, rows[:2])
    with pytest.raises(UserError, match="has changed while the step runs"):
        list(source)


# --- backends ----------------------------------------------------------------------------------------------------------

class Forgetful(ScriptedBackend):
    """Answers every second request; after ``reads`` of them it reads no more."""

    def __init__(self, answers, reads: int) -> None:
        super().__init__(answers)
        self.reads = reads

    def generate(self, requests):
        for number, reply in enumerate(super().generate(requests)):
            if number % 2 == 0:
                yield reply
            if number + 1 == self.reads:
                return


@pytest.mark.parametrize("reads", [1, 2, 3, 99])
def test_a_request_that_a_backend_forgets_or_does_not_read_is_a_failed_one(folder, monkeypatch, reads):
    monkeypatch.setattr(annotate, "choose_backend", lambda opts: Forgetful(FINE, reads))
    call(s1, folder)
    answered = [identity for number, identity in enumerate("12345") if number % 2 == 0 and number < reads]
    rows = rows_of(folder)
    assert [row["id"] for row in rows if row["status"] != "failed"] == answered
    assert {row["reason"] for row in rows if row["status"] == "failed"} == {"the backend gave no reply"} and len(rows) == 5


class Fed(ScriptedBackend):
    """Reads the requests in a thread of its own, some ahead, while replies are stored."""

    def generate(self, requests):
        waiting: queue.Queue = queue.Queue(maxsize=20)

        def feed() -> None:
            for request in requests:
                waiting.put(request)
            waiting.put(None)
        thread = threading.Thread(target=feed)
        thread.start()
        yield from super().generate(iter(waiting.get, None))
        thread.join()


@pytest.mark.parametrize("flags", [{}, {"retry_failed": True}])
def test_requests_may_be_read_in_another_thread_while_replies_are_stored(tmp_path, monkeypatch, flags):
    names = [f"n{k}" for k in range(400)]
    folder = write_data_set(tmp_path, [(f"Day {name} was fine .", [], name) for name in names])
    answers = {name: Reply(name, "", "error", error="timeout") if number % 3 else "[]" for number, name in enumerate(names)}
    monkeypatch.setattr(annotate, "choose_backend", lambda opts: ScriptedBackend(answers))
    if flags:
        call(s1, folder)
    backend = Fed({name: '[{"entity": "Day", "type": "x"}]' for name in names})
    monkeypatch.setattr(annotate, "choose_backend", lambda opts: backend)
    call(s1, folder, **flags)
    wanted = [name for number, name in enumerate(names) if number % 3] if flags else names
    assert backend.asked_ids == wanted
    assert asked_lines(folder)[-len(wanted):] == wanted
    assert len({request.seed for request in backend.asked}) == len(wanted)
    assert [row["status"] for row in rows_of(folder)] == ["ok"] * 400
    assert journal_of(folder).read_bytes().endswith(b"}\n")
