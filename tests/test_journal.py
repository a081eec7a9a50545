"""The journal of finished replies and the lock of a step."""

from __future__ import annotations

import json
import signal
import subprocess
import sys

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from syn_pipelines import UserError
from syn_pipelines.utils.journal import Journal, differing, is_begun, lock
from syn_pipelines.utils.jsonl import to_line

PRINTS = {"model": "m", "seed": 42, "prompt_sha256": "ab" * 32}
ADVICE = "Use --overwrite."


def reply(identity: str, text: str = "[]", **more) -> dict:
    return {"id": identity, "text": text, "finish_reason": "stop", "error": "", **more}


def opened(path, prints=PRINTS, **flags) -> Journal:
    return Journal(path, prints, advice=ADVICE, **flags)


def filled(path, *entries) -> bytes:
    """A closed journal with these entries; returns its bytes."""
    journal = opened(path)
    for entry in entries:
        journal.append(entry)
    journal.close()
    return path.read_bytes()


@pytest.fixture
def path(tmp_path):
    return tmp_path / ".journal" / "entity_train_1000.jsonl"


def test_stored_replies_are_there_when_the_journal_is_opened_again(path):
    filled(path, reply("1", "one"), reply("2", "two\u2028\x00\r\nend"))
    journal = opened(path)
    assert len(journal) == 2 and "1" in journal and "3" not in journal
    assert journal.read("2")["text"] == "two\u2028\x00\r\nend"
    with pytest.raises(KeyError):
        journal.read("3")
    journal.close()


def test_reading_between_appends_does_not_disturb_them(path):
    journal = opened(path)
    for number in range(20):
        journal.append(reply(str(number), "x" * number))
        assert journal.read(str(number // 2))["text"] == "x" * (number // 2)
    journal.close()
    assert [json.loads(line)["id"] for line in path.read_bytes().splitlines()[1:]] == [str(n) for n in range(20)]


def test_the_last_line_about_a_request_counts_and_attempts_are_counted(path):
    filled(path, reply("1", "first"), reply("2"), reply("1", "second"))
    journal = opened(path)
    assert journal.read("1")["text"] == "second"
    assert [journal.attempts(name) for name in ("1", "2", "3")] == [2, 1, 0] and len(journal) == 2
    journal.close()


def test_every_line_is_with_the_system_before_append_returns(path):
    journal = opened(path)
    for number in range(1, 30):
        journal.append(reply(str(number)))
        assert path.read_bytes().count(b"\n") == number + 1
    journal.close()


def test_a_last_line_torn_anywhere_is_cut_and_the_rest_stays(path):
    whole = filled(path, reply("1", "eins"), reply("2", "zwei, 二"))
    kept = whole[:whole.rindex(b"\n", 0, -1) + 1]
    for cut in range(len(kept), len(whole)):
        path.write_bytes(whole[:cut])
        journal = opened(path)
        assert "1" in journal and "2" not in journal
        journal.append(reply("2", "zwei, 二"))
        journal.close()
        assert path.read_bytes() == whole


def test_a_journal_torn_in_its_first_line_is_begun_again(path):
    header = filled(path)
    for cut in range(len(header)):
        path.write_bytes(header[:cut])
        assert not is_begun(path)
        filled(path)
        assert path.read_bytes() == header
    assert is_begun(path)


def test_a_journal_of_a_first_line_alone_has_no_replies(path):
    filled(path)
    journal = opened(path)
    assert len(journal) == 0
    journal.close()


@pytest.mark.parametrize("broken", [
    b"{", b"nonsense", b"[]", b"7", b'"text"', b"\xff\xfe", b"\0\0\0\0", b"", b'{"text": "no id"}', b'{"id": "9"}',
    b'{"id": "9", "text": "[]"}', to_line(reply(None)).strip(), to_line(reply(["1"])).strip(),
    to_line(reply("9", finish_reason="xyz")).strip()], ids=repr)
def test_a_broken_line_in_the_middle_stops_with_file_and_line(path, broken):
    lines = filled(path, reply("1"), reply("2"), reply("3")).splitlines(keepends=True)
    damaged = b"".join([*lines[:2], broken + b"\n", *lines[3:]])
    path.write_bytes(damaged)
    with pytest.raises(UserError, match=rf"{path.name}:3: .*--overwrite"):
        opened(path)
    assert path.read_bytes() == damaged


@pytest.mark.parametrize("first", [to_line(reply("1")), b"nonsense\n", b'{"fingerprint": 7}\n', b"\xff\n"], ids=repr)
def test_a_first_line_that_is_no_fingerprint_stops_and_nothing_is_to_be_removed_from_the_file(path, first):
    path.parent.mkdir()
    path.write_bytes(first + to_line(reply("2")))
    with pytest.raises(UserError, match=rf"{path.name}:1: is not the line that says how .* Put it back from a copy") as caught:
        opened(path)
    assert "Remove" not in str(caught.value) and "--overwrite" in str(caught.value)


def test_a_byte_order_mark_that_an_editor_left_is_passed_over(path):
    whole = b"\xef\xbb\xbf" + filled(path, reply("1", "one"), reply("2", "two"))
    path.write_bytes(whole)
    journal = opened(path)
    assert [journal.read(identity)["text"] for identity in journal] == ["one", "two"]
    journal.append(reply("3"))
    journal.close()
    assert path.read_bytes() == whole + to_line(reply("3"))


def test_another_fingerprint_names_every_difference_and_the_way_out(path):
    before = filled(path, reply("1"))
    with pytest.raises(UserError) as caught:
        opened(path, {**PRINTS, "seed": 7, "prompt_sha256": "cd" * 32, "top_p": 0.8})
    text = str(caught.value)
    assert str(path) in text and ADVICE in text
    assert "seed 42 -> 7" in text and "top_p None -> 0.8" in text and "prompt_sha256 abababababab... -> " in text
    assert "model" not in text.replace("prompt_sha256", "")
    assert path.read_bytes() == before


def test_another_prompt_is_not_told_as_other_sentences():
    found = {"prompt_sha256": "ab", "shots": "0", "input": "cd"}
    assert differing(found, {**found, "shots": "2", "input": "ef"}) == "shots 0 -> 2"
    assert "sentences" in differing(found, {**found, "input": "ef"})


def test_without_a_reply_another_fingerprint_is_no_matter(path):
    filled(path)
    opened(path, {"seed": 7}).close()
    journal = opened(path, {"seed": 8})
    journal.append(reply("1"))
    journal.close()
    with pytest.raises(UserError, match="seed 8 -> 7"):
        opened(path, {"seed": 7})
    assert path.read_bytes().count(b"\n") == 2


def test_overwrite_begins_anew_with_the_new_fingerprint(path):
    filled(path, reply("1"))
    journal = opened(path, {"seed": 7}, overwrite=True)
    assert len(journal) == 0
    journal.close()
    opened(path, {"seed": 7}).close()


def test_overwrite_begins_anew_even_where_a_line_is_broken(path):
    path.write_bytes(filled(path, reply("1")) + b"nonsense\n" * 2)
    opened(path, overwrite=True).close()
    opened(path).close()


def test_a_left_over_part_file_of_a_killed_begin_does_no_harm(path):
    path.parent.mkdir()
    path.with_name(path.name + ".part").write_bytes(b'{"fingerp')
    filled(path, reply("1"))
    assert [p.name for p in path.parent.iterdir()] == [path.name]


def replaced(path, prints, *entries) -> str:
    """The message after an older copy has taken the place of a journal in use, to which these entries had been added."""
    older = path.read_bytes() if path.exists() else to_line({"fingerprint": prints})
    journal = opened(path, prints)
    for entry in entries:
        journal.append(entry)
    path.unlink()
    path.write_bytes(older)
    with pytest.raises(UserError) as caught:
        journal.refuse_gone()
    journal.close()
    return str(caught.value)


def test_replies_whose_journal_was_replaced_are_taken_in_by_the_next_run_with_the_same_settings(path):
    path.parent.mkdir()
    rescued = [path.with_name(f"{path.stem}.rescued-{n}.jsonl") for n in (1, 2)]
    other = {**PRINTS, "seed": 7}
    assert f"was replaced by another one; its replies are in {rescued[0].name}." in replaced(path, other, reply("1", "other"))
    path.unlink()
    filled(path, reply("1", "one"))
    assert f"its replies are in {rescued[1].name}." in replaced(path, PRINTS, reply("2", "two"), reply("1", "one again"))
    assert b"other" in rescued[0].read_bytes()
    for _ in range(2):
        journal = opened(path)
        assert {identity: journal.read(identity)["text"] for identity in journal} == {"1": "one again", "2": "two"}
        journal.close()
        assert set(path.parent.iterdir()) == {path, rescued[0]}
    opened(path, other, overwrite=True).close()
    assert list(path.parent.iterdir()) == [path]


@given(st.dictionaries(st.sampled_from("abc"), st.integers(0, 2)), st.dictionaries(st.sampled_from("abc"), st.integers(0, 2)))
def test_fingerprints_differ_exactly_when_they_are_unequal(one, other):
    assert (differing(one, other) == "") == (one == other)


@settings(max_examples=40, deadline=None)
@given(st.lists(st.tuples(st.sampled_from("abcd"), st.text(max_size=20)), max_size=12), st.data())
def test_cut_anywhere_only_whole_lines_survive(tmp_path_factory, entries, data):
    path = tmp_path_factory.mktemp("cut") / "j.jsonl"
    texts = [(i, t.encode("utf-8", "replace").decode()) for i, t in entries]
    whole = filled(path, *(reply(i, t) for i, t in texts))
    header = whole.index(b"\n") + 1
    cut = data.draw(st.integers(header, len(whole)))
    path.write_bytes(whole[:cut])
    journal = opened(path)
    left = texts[:whole[:cut].count(b"\n") - 1]
    assert {i: journal.read(i)["text"] for i in dict(left)} == dict(left)
    assert len(journal) == len(dict(left))
    journal.close()


HOLD = """
import sys, time
from pathlib import Path
from syn_pipelines.utils.journal import lock
with lock(Path(sys.argv[1]), "work"):
    print("held", flush=True)
    time.sleep(600)
"""


def test_a_second_process_is_told_who_is_at_work_and_a_killed_one_leaves_no_lock(tmp_path):
    holder = subprocess.Popen([sys.executable, "-c", HOLD, str(tmp_path)], stdout=subprocess.PIPE, text=True)
    try:
        assert holder.stdout.readline() == "held\n"
        with pytest.raises(UserError, match=rf"work\.lock: process {holder.pid} is at the same work"):
            with lock(tmp_path, "work"):
                pass
        with lock(tmp_path, "other work"):
            pass
    finally:
        holder.send_signal(signal.SIGKILL)
        holder.communicate()
    with lock(tmp_path, "work"):
        pass


def test_a_lock_is_free_again_after_an_error_inside(tmp_path):
    with pytest.raises(RuntimeError), lock(tmp_path, "work"):
        raise RuntimeError
    with lock(tmp_path, "work"):
        pass
