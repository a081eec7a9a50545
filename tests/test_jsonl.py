"""JSON lines: only \\n ends a line, mistakes are named by line, and a file is there whole or not at all."""

from __future__ import annotations

import hashlib
import json
import os
import stat
import sys

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from syn_pipelines.utils.errors import UserError
from syn_pipelines.utils.jsonl import (
    Problems,
    _parsed_slowly,
    file_hash,
    parsed,
    read_json,
    read_lines,
    read_objects,
    replacing,
    write_json,
    write_jsonl,
)

TEXT = st.text(st.characters(exclude_categories=["Cs"]))
VALUES = st.recursive(st.none() | st.booleans() | st.integers() | TEXT,
                      lambda inner: st.lists(inner, max_size=3) | st.dictionaries(TEXT, inner, max_size=3), max_leaves=8)


@pytest.fixture
def path(tmp_path):
    return tmp_path / "rows.jsonl"


def objects(path) -> list[tuple[int, dict]]:
    problems = Problems(path, "Correct these lines.")
    rows = list(read_objects(path, problems))
    problems.raise_if_any()
    return rows


def lines(path) -> list[tuple[int, str]]:
    problems = Problems(path, "Correct these lines.")
    found = list(read_lines(path, problems))
    problems.raise_if_any()
    return found


def message(path) -> str:
    with pytest.raises(UserError) as error:
        objects(path)
    return str(error.value)


# --- lines ---------------------------------------------------------------------------------------------------------

@pytest.mark.parametrize("char", ["\u2028", "\u2029", "\x85", "\x0b", "\x0c", "\x1c", "\x1e"])
def test_only_a_line_feed_ends_a_line(path, char):
    path.write_bytes(f"a{char}b\nc\n".encode())
    assert lines(path) == [(1, f"a{char}b"), (2, "c")]


def test_line_separators_of_unicode_stay_in_the_text(path):
    path.write_bytes('{"text": ["a\u2028b\x85", "\u2029"]}\n{}\n'.encode())
    assert objects(path) == [(1, {"text": ["a\u2028b\x85", "\u2029"]}), (2, {})]


def test_a_lone_carriage_return_stays_in_the_line_and_crlf_ends_one(path):
    path.write_bytes(b"a\rb\r\n\r\nc\r\n\rd")
    assert lines(path) == [(1, "a\rb"), (3, "c"), (4, "\rd")]


def test_a_byte_order_mark_is_dropped_at_the_start_alone(path):
    path.write_bytes("\ufeff{\"a\": \"\ufeffb\"}\n".encode())
    assert objects(path) == [(1, {"a": "\ufeffb"})]


def test_blank_lines_are_passed_over_and_still_counted(path):
    path.write_bytes(b'\n  \n{"a": 1}\n\n{"a": 2}')
    assert [number for number, _ in objects(path)] == [3, 5]


@given(st.lists(st.dictionaries(TEXT, VALUES, max_size=3), max_size=5))
@example([{"t": "\u2028\u2029\x85\r\n\ufffd\ufffd"}])
def test_rows_written_are_the_rows_read(tmp_path_factory, rows):
    path = tmp_path_factory.mktemp("rows") / "rows.jsonl"
    count, digest = write_jsonl(path, rows)
    assert count == len(rows) == path.read_bytes().count(b"\n")
    assert digest == file_hash(path) == hashlib.sha256(path.read_bytes()).hexdigest()
    assert objects(path) == list(enumerate(rows, 1))


# --- mistakes ------------------------------------------------------------------------------------------------------

def test_a_missing_file_says_what_makes_it(tmp_path):
    with pytest.raises(UserError, match=r"no\.jsonl: does not exist\. Run step 9\."):
        next(read_objects(tmp_path / "no.jsonl", Problems(tmp_path, ""), "Run step 9."))
    with pytest.raises(UserError, match=r"no\.json: does not exist"):
        read_json(tmp_path / "no.json")


def test_a_folder_in_place_of_a_file_is_a_user_error(tmp_path):
    with pytest.raises(UserError, match="cannot be read"):
        next(read_lines(tmp_path, Problems(tmp_path, "")))


@pytest.mark.parametrize("line, words", [
    (b'{"a": 1', "not valid JSON (Expecting ',' delimiter at column 8)"),
    (b"[1]", "holds a list, not an object"),
    (b'"text"', "holds a str, not an object"),
    (b'{"a": "\xe4"}', "not UTF-8 (byte 0xe4 at position 8); save the file as UTF-8"),
    (b"[" * 100_000, "nested too deeply"),
    (b'{"a": [NaN]}', "NaN is no JSON number at column 8"),
    (b'{"a": -Infinity}', "-Infinity is no JSON number"),
    (b'{"a": ' + b"9" * 5000 + b"}", "too many digits"),
    (rb'{"a": "x\ud83d"}', r"half of a surrogate pair, \ud83d at column 9"),
    (rb'{"a\UDC00": 1}', "not valid JSON"),
    (rb'{"a": "\DE00"}', "not valid JSON"),
])
def test_a_broken_line_is_named_with_its_number(path, line, words):
    path.write_bytes(b'{"ok": 1}\n' + line + b'\n{"ok": 2}\n')
    text = message(path)
    assert text.startswith(f"{path}:2: ") and words in text and text.endswith("Correct these lines.")
    assert text.count("\n") == 0


def test_whole_surrogate_pairs_are_characters(path):
    path.write_bytes(rb'{"a": "\ud83d\ude00 \\ud83d"}' + b"\n")
    assert objects(path) == [(1, {"a": "\U0001f600 \\ud83d"})]


def test_all_problems_of_a_file_are_listed_and_at_most_twenty(path):
    path.write_bytes(b"{}\nx\n{}\ny\n")
    assert [line.split(": ")[0] for line in message(path).splitlines()] == [f"{path}:2", f"{path}:4"]
    path.write_bytes(b"x\n" * 30)
    found = message(path).splitlines()
    assert len(found) == 21 and found[19].startswith(f"{path}:20:") and "first 20 problems" in found[20]


@given(st.binary() | st.lists(st.sampled_from([b'{"a":', b'"\\ud800"', b"1", b"}", b"\n", b"[", b"]", b"{}", b"NaN", b"\xff"])).map(b"".join))
def test_any_bytes_give_rows_that_can_be_written_again_or_a_user_error(tmp_path_factory, data):
    path = tmp_path_factory.mktemp("any") / "rows.jsonl"
    path.write_bytes(data)
    try:
        rows = [row for _, row in objects(path)]
    except UserError as error:
        assert str(path) in str(error)
    else:
        write_jsonl(path, rows)


@pytest.mark.parametrize("content, words", [
    (b'{\n "a": 1,\n}', ":3: is not valid JSON"), (b'{\n "a": "\xff"}', "is not UTF-8"), (b"", ":1: is not valid JSON"),
    (b"[" * 100_000, "nested too deeply"), (rb'["\ud800"]', "surrogate"),
])
def test_a_broken_json_file_is_named_with_its_line(tmp_path, content, words):
    path = tmp_path / "labels.json"
    path.write_bytes(content)
    with pytest.raises(UserError) as error:
        read_json(path)
    assert str(path) in str(error.value) and words in str(error.value) and "\n" not in str(error.value)


@given(VALUES)
def test_json_written_is_json_read(tmp_path_factory, value):
    path = tmp_path_factory.mktemp("json") / "value.json"
    assert write_json(path, value) == file_hash(path)
    assert read_json(path) == value
    path.write_bytes("\ufeff".encode() + path.read_bytes())
    assert read_json(path) == value


PIECES = st.lists(st.sampled_from([
    '{"a": 1, "a": 2}', '{"a" : 1,"a":2}', '{"a:": "b\\":"}', '{"\\u003a": 1}', '{"a": "\\u0022:", "a": 1}', "18446744073709551616",
    "-9223372036854775809", "1e22", "1e999", "-0", "0.1", "1E5", "NaN", '"\\ud800"', '"\\ud83d\\ude00"', '"\\/"', "[", "]", "{", "}", ",", ":",
    '"x"', "true", " ", "\t", "\x00", "é", "\ufeff", '"a": ', "[" * 101 + "]" * 101, '{"a": {"b": [' * 40 + "1" + "]}}" * 40]), max_size=6).map("".join)


@given(PIECES | VALUES.map(lambda value: json.dumps(value, ensure_ascii=False)) | VALUES.map(json.dumps))
def test_the_fast_reader_gives_what_the_careful_one_gives(text):
    def outcome(read, *arguments):
        try:
            value = read(*arguments)
            return repr(value)
        except ValueError as error:
            return str(error)
    assert outcome(parsed, text) == outcome(_parsed_slowly, text, True) == outcome(parsed, text.encode())


# --- files appear whole --------------------------------------------------------------------------------------------

def failing_rows(error: BaseException):
    yield {"new": 1}
    raise error


@pytest.mark.parametrize("error", [UserError("bad"), KeyboardInterrupt(), OSError(28, "No space left on device"), SystemExit(1)])
def test_an_error_in_the_middle_leaves_the_old_file_and_nothing_else(path, error):
    path.write_bytes(b'{"old": 1}\n')
    with pytest.raises(type(error)):
        write_jsonl(path, failing_rows(error))
    assert path.read_bytes() == b'{"old": 1}\n' and os.listdir(path.parent) == [path.name]


def test_a_full_disk_is_reported_with_the_file_that_did_not_fit(path):
    with pytest.raises(OSError, match="No space left") as raised:
        write_jsonl(path, failing_rows(OSError(28, "No space left on device")))
    assert raised.value.filename == str(path)


def test_an_error_in_the_middle_leaves_no_new_file(path):
    with pytest.raises(ValueError):
        write_jsonl(path, failing_rows(ValueError()))
    assert os.listdir(path.parent) == []


def test_the_old_file_is_seen_until_the_new_one_is_whole(path):
    write_jsonl(path, [{"old": 1}])
    with replacing(path) as file:
        file.write(b'{"new": 1}\n')
        file.flush()
        assert objects(path) == [(1, {"old": 1})]
    assert objects(path) == [(1, {"new": 1})]


def test_a_file_may_be_rewritten_from_itself(path):
    write_jsonl(path, [{"n": n} for n in range(3)])
    write_jsonl(path, ({"n": row["n"] + 1} for _, row in read_objects(path, Problems(path, ""))))
    assert [row["n"] for _, row in objects(path)] == [1, 2, 3]


def test_folders_are_made_and_a_left_over_part_is_replaced(tmp_path):
    path = tmp_path / "a" / "b" / "rows.jsonl"
    path.parent.mkdir(parents=True)
    path.with_name("rows.jsonl.part").write_bytes(b"torn by a kill")
    write_jsonl(path, [{"a": 1}])
    assert path.read_bytes() == b'{"a": 1}\n' and os.listdir(path.parent) == ["rows.jsonl"]
    assert stat.S_IMODE(path.stat().st_mode) & 0o400


def test_text_is_stored_as_itself(path):
    write_jsonl(path, [{"text": ["张", "é", "\u2028"]}])
    assert path.read_text(encoding="utf-8") == '{"text": ["张", "é", "\u2028"]}\n'
    assert json.loads(path.read_bytes()) == {"text": ["张", "é", "\u2028"]}


def test_the_hash_of_a_missing_file_is_none(tmp_path):
    assert file_hash(tmp_path / "none") is None


@pytest.mark.skipif(sys.version_info < (3, 11), reason="hashlib.file_digest is new in Python 3.11")
def test_the_hash_is_the_same_on_python_3_10(path, monkeypatch):
    path.write_bytes(b"x" * 3_000_000)
    expected = file_hash(path)
    monkeypatch.delattr(hashlib, "file_digest")
    assert file_hash(path) == expected


def test_a_file_that_changes_is_hashed_again_even_at_the_same_time_and_size(path):
    for content in (b"old", b"new", b"own"):
        path.write_bytes(content)
        os.utime(path, ns=(1_000_000_000, 1_000_000_000))
        assert file_hash(path) == hashlib.sha256(content).hexdigest()


def test_the_hash_of_a_file_just_written_is_known_until_somebody_changes_it(path):
    _, digest = write_jsonl(path, [{"a": 1}])
    assert file_hash(path) == digest == hashlib.sha256(path.read_bytes()).hexdigest()
    path.write_bytes(b'{"a": 2}\n')
    assert file_hash(path) != digest
