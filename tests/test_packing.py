"""Compressed data files: read whole or refused, whatever they are named, and written with the same bytes each time."""

from __future__ import annotations

import bz2
import gzip
import json
import os
import resource
import subprocess
import sys
from pathlib import Path

import pytest
import zstandard
from hypothesis import example, given
from hypothesis import strategies as st
from pipeline import ROOT, tokens_of_any_kind

from syn_pipelines.text.readers import read_source
from syn_pipelines.utils.errors import UserError
from syn_pipelines.utils.jsonl import (
    Problems,
    content_hash,
    file_hash,
    lines_of,
    open_input,
    read_json,
    read_objects,
    read_whole,
    write_jsonl,
)
from syn_pipelines.utils.packing import form_of, form_there, forms_there, in_any_order, plain_path
from syn_pipelines.utils.paths import RunPaths, manifest_path
from syn_pipelines.utils.summary import Summary, count_lines

PACK = {".gz": gzip.compress, ".zst": zstandard.ZstdCompressor(write_checksum=True).compress}
FORMS = ["", *PACK]
packed = pytest.mark.parametrize("form", list(PACK))
any_form = pytest.mark.parametrize("form", FORMS)
rows_of_any_kind = st.lists(st.fixed_dictionaries({"id": st.text(max_size=3), "text": tokens_of_any_kind}), max_size=8)
ROWS = [{"id": str(n), "text": ["北", "京", "x" * (n % 7)]} for n in range(40)]


def rows_in(path: Path) -> list[dict]:
    problems = Problems(path, "")
    rows = [row for _, row in read_objects(path, problems)]
    problems.raise_if_any()
    return rows


def refusal(path: Path) -> str:
    with pytest.raises(UserError) as error:
        rows_in(path)
    assert "\n" not in str(error.value)
    return str(error.value)


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    return tmp_path_factory.mktemp("packing")


# --- what is written is what is read -------------------------------------------------------------------------------------

@given(rows_of_any_kind)
@example([])
def test_any_rows_come_back_from_every_form_with_equal_content_and_known_hashes(folder, rows):
    contents = set()
    for form in FORMS:
        path = folder / f"rows.jsonl{form}"
        count, digest = write_jsonl(path, rows)
        assert rows_in(path) == rows and count == len(rows) == count_lines(path) and digest == file_hash(path)
        contents.add(content_hash(path))
    assert len(contents) == 1 and contents == {file_hash(folder / "rows.jsonl")}


@packed
def test_equal_rows_give_equal_bytes_under_any_name_and_at_any_time(folder, form):
    first, second = folder / f"one.jsonl{form}", folder / f"other.jsonl{form}"
    for path in (first, second):
        write_jsonl(path, ROWS * 1000)  # several blocks
    assert first.read_bytes() == second.read_bytes()
    assert first.stat().st_size < 50_000  # of more than a million
    if form == ".gz":
        assert first.read_bytes()[3:8] == bytes(5)  # no name, no time


@pytest.mark.parametrize(("form", "unpack"), [(".gz", gzip.decompress), (".zst", zstandard.ZstdDecompressor().decompressobj().decompress)])
def test_other_programs_read_what_is_written(folder, form, unpack):
    write_jsonl(folder / "own.jsonl", ROWS)
    write_jsonl(folder / f"own.jsonl{form}", ROWS)
    assert unpack((folder / f"own.jsonl{form}").read_bytes()) == (folder / "own.jsonl").read_bytes()


@packed
def test_an_error_while_writing_leaves_the_old_file_and_nothing_else(tmp_path, form):
    path = tmp_path / f"rows.jsonl{form}"
    write_jsonl(path, ROWS)
    before = path.read_bytes()

    def failing():
        yield from ROWS
        raise OSError(28, "No space left on device")

    with pytest.raises(OSError, match="No space left"):
        write_jsonl(path, failing())
    assert path.read_bytes() == before and os.listdir(tmp_path) == [path.name]


# --- the content counts, not the name --------------------------------------------------------------------------------------

@pytest.mark.parametrize("content", FORMS)
@any_form
def test_a_file_under_a_wrong_name_is_read(tmp_path, form, content):
    path, source = tmp_path / f"wrong.jsonl{form}", tmp_path / f"source{content}"
    write_jsonl(source, ROWS)
    os.replace(source, path)
    assert rows_in(path) == ROWS


@packed
def test_several_packed_parts_one_behind_the_other_are_read_whole(tmp_path, form):
    lines = [json.dumps(row, ensure_ascii=False).encode() + b"\n" for row in ROWS]
    content = b"".join(lines)
    path = tmp_path / f"parts.jsonl{form}"
    path.write_bytes(b"".join(PACK[form](content[at:at + 100]) for at in range(0, len(content), 100)) + PACK[form](b""))
    assert rows_in(path) == ROWS


def test_frames_without_data_are_passed_over(tmp_path):
    path = tmp_path / "parallel.jsonl.zst"
    frame = lambda number, data: bytes([0x50 + number, 0x2A, 0x4D, 0x18]) + len(data).to_bytes(4, "little") + data  # noqa: E731
    path.write_bytes(frame(0, b"abcd") + PACK[".zst"](b'{"n": 1}\n') + frame(15, b"") + PACK[".zst"](b'{"n": 2}\n'))
    assert rows_in(path) == [{"n": 1}, {"n": 2}]


@any_form
def test_a_byte_order_mark_and_carriage_returns_are_read_as_in_a_plain_file(tmp_path, form):
    path = tmp_path / f"windows.jsonl{form}"
    path.write_bytes(PACK.get(form, bytes)(b'\xef\xbb\xbf{"n": 1}\r\n\r\n{"n": 2}'))
    assert rows_in(path) == [{"n": 1}, {"n": 2}]


# --- never fewer rows in silence ---------------------------------------------------------------------------------------

@packed
def test_a_file_cut_off_at_any_byte_is_refused_with_file_and_line(tmp_path, form):
    path, whole = tmp_path / f"cut.jsonl{form}", tmp_path / "whole"
    write_jsonl(path, ROWS)
    os.replace(path, whole)
    data = whole.read_bytes()
    for size in range(len(data)):
        path.write_bytes(data[:size])
        assert f"{path}:" in refusal(path)
        with pytest.raises(UserError):
            count_lines(path)
        with pytest.raises(UserError):
            content_hash(path)


@packed
def test_the_line_is_that_where_the_data_end(tmp_path, form):
    path = tmp_path / f"cut.jsonl{form}"
    path.write_bytes(PACK[form](b'{"n": 1}\n' * 3) + PACK[form](b'{"n": 1}\n' * 2)[:-1])
    assert f"{path}:6: " in refusal(path) and "Copy or make the file again." in refusal(path)
    path.write_bytes(PACK[form](b'{"n": 1}\n{"n": ') + PACK[form](b'2}\n')[:7])
    assert f"{path}:2: " in refusal(path)


@given(data=st.data())
def test_a_changed_byte_is_refused_or_changes_nothing(folder, data):
    form = data.draw(st.sampled_from(list(PACK)))
    path = folder / f"changed.jsonl{form}"
    write_jsonl(path, ROWS)
    content = bytearray(path.read_bytes())
    content[data.draw(st.integers(0, len(content) - 1))] ^= 1 << data.draw(st.integers(0, 7))
    path.write_bytes(content)
    try:
        found = rows_in(path)
    except UserError as error:
        assert str(path) in str(error)
    else:
        assert found == ROWS  # a byte of the head that says nothing about the data


@packed
@pytest.mark.parametrize("more", [b"x", b'{"n": 1}\n', bytes(512), b"\x1f\x8b"], ids=["a byte", "a row", "zeros", "a beginning"])
def test_what_follows_the_end_is_refused(tmp_path, form, more):
    path = tmp_path / f"grown.jsonl{form}"
    write_jsonl(path, ROWS)
    path.write_bytes(path.read_bytes() + more)
    assert f"{path}:41: " in refusal(path)


@packed
def test_gzip_within_gzip_and_other_packers_are_no_rows(tmp_path, form):
    path = tmp_path / f"twice.jsonl{form}"
    for content in (PACK[form](PACK[form](b'{"n": 1}\n')), bz2.compress(b'{"n": 1}\n')):
        path.write_bytes(content)
        with pytest.raises(UserError, match="is not UTF-8|is not valid JSON"):
            rows_in(path)


def test_a_window_that_is_too_large_is_refused_with_what_to_do(tmp_path):
    path = tmp_path / "far.jsonl.zst"
    far = zstandard.ZstdCompressor(compression_params=zstandard.ZstdCompressionParameters(window_log=28)).compressobj()
    path.write_bytes(far.compress(b'{"n": 1}\n') + far.flush())
    assert f"{path}:1: " in refusal(path) and "128 MiB" in refusal(path) and "without --long" in refusal(path)


@packed
def test_a_bomb_is_refused_in_little_memory(tmp_path, form):
    path = tmp_path / f"bomb.jsonl{form}"
    if form == ".gz":
        path.write_bytes(gzip.compress(bytes(1 << 29), 1))
    else:
        with path.open("wb") as file, zstandard.ZstdCompressor().stream_writer(file) as writer:
            for _ in range(1 << 10):
                writer.write(bytes(1 << 22))  # 4 GiB in 130 KiB
    code = ("import resource, sys; from pathlib import Path; resource.setrlimit(resource.RLIMIT_AS, (1 << 30, 1 << 30))\n"
            "from syn_pipelines.utils.jsonl import Problems, read_objects\n"
            "problems = Problems(Path(sys.argv[1]), ''); list(read_objects(problems.path, problems)); print(problems.found)")
    result = subprocess.run([sys.executable, "-c", code, str(path)], capture_output=True, text=True, timeout=200,
                            env={**os.environ, "PYTHONPATH": str(ROOT)})
    assert ":1: has more than 64 MiB in one line" in result.stdout, result.stderr


@packed
def test_a_file_read_at_once_may_not_unpack_to_more_than_its_limit(tmp_path, form):
    path = tmp_path / f"labels.json{form}"
    path.write_bytes(PACK[form](json.dumps(["x" * 1_000_000]).encode()))
    assert read_json(path) == ["x" * 1_000_000]
    with pytest.raises(UserError, match="unpacks to more than 0 MiB"):
        read_whole(path, most=900_000)


def test_without_the_package_zst_files_are_refused_and_gz_files_are_not(tmp_path, monkeypatch):
    write_jsonl(tmp_path / "a.jsonl.zst", ROWS)
    monkeypatch.setitem(sys.modules, "zstandard", None)
    assert "pip install zstandard" in refusal(tmp_path / "a.jsonl.zst")
    with pytest.raises(UserError, match="pip install zstandard"):
        write_jsonl(tmp_path / "b.jsonl.zst", ROWS)
    assert os.listdir(tmp_path) == ["a.jsonl.zst"]
    write_jsonl(tmp_path / "a.jsonl.gz", ROWS)
    assert rows_in(tmp_path / "a.jsonl.gz") == ROWS


# --- streams ---------------------------------------------------------------------------------------------------------

@any_form
def test_every_line_can_be_found_again_by_its_place(tmp_path, form):
    path = tmp_path / f"rows.jsonl{form}"
    write_jsonl(path, ROWS)
    with in_any_order(open_input(path)) as file:
        places, at = [], 0
        for _, line in lines_of(file):
            places.append(at)
            at += len(line)
        for number in (39, 0, 17):
            file.seek(places[number])
            assert json.loads(file.readline()) == ROWS[number]


@packed
def test_what_is_never_compressed_is_not_unpacked(tmp_path, form):
    path = tmp_path / "journal.jsonl"
    path.write_bytes(PACK[form](b"{}\n"))
    with open_input(path, packed=False) as file:
        assert file.read() == path.read_bytes()


@any_form
def test_closing_a_stream_closes_its_file(tmp_path, form):
    path = tmp_path / f"rows.jsonl{form}"
    write_jsonl(path, ROWS)
    most = resource.getrlimit(resource.RLIMIT_NOFILE)[0]
    for _ in range(min(most, 2000) + 10):
        with open_input(path) as file:
            file.readline()


# --- names -------------------------------------------------------------------------------------------------------------

@any_form
def test_manifests_and_summaries_do_not_depend_on_the_form(tmp_path, form):
    path = tmp_path / f"entity_train_1000.jsonl{form}"
    assert manifest_path(path) == tmp_path / "entity_train_1000.manifest.json"
    assert (plain_path(path).name, form_of(path)) == ("entity_train_1000.jsonl", form)
    assert "(3 rows)" in str(Summary("s", outputs={str(path): 3}))


@pytest.mark.parametrize("name", ["..gz", ".zst", "/", ".", "a/..", "\0", "x.gz.zst"])
def test_strange_names_are_names(name):
    path = Path(name)
    assert plain_path(path) == Path("x.gz" if name == "x.gz.zst" else name) and form_there(path / "none") == path / "none"


@any_form
def test_a_file_is_found_in_the_form_in_which_it_is_there(tmp_path, form):
    there = tmp_path / f"rows.jsonl{form}"
    assert forms_there(there) == [] and form_there(tmp_path / "rows.jsonl") == tmp_path / "rows.jsonl"
    write_jsonl(there, ROWS)
    for other in FORMS:
        assert forms_there(tmp_path / f"rows.jsonl{other}") == [there] == [form_there(tmp_path / f"rows.jsonl{other}")]


@any_form
def test_a_run_is_written_in_the_form_of_the_training_sentences_and_read_in_any(tmp_path, form):
    paths = RunPaths(tmp_path, "demo", "run")
    write_jsonl(tmp_path / "demo" / f"train_1000.jsonl{form}", ROWS)
    assert paths.train.name == f"train_1000.jsonl{form}" and paths.synthetic.name == f"train_1000_synthetic.jsonl{form}"
    for before in FORMS:
        write_jsonl(paths.run / f"train_1000_synthetic.jsonl{before}", ROWS)
        (paths.run / f"train_1000_synthetic.jsonl{before}.part").write_bytes(b"torn by a kill")
        assert paths.synthetic.name == f"train_1000_synthetic.jsonl{before}" and rows_in(paths.synthetic) == ROWS
        write_jsonl(paths.to_write(paths.synthetic), ROWS[:3])
        assert os.listdir(paths.run) == [f"train_1000_synthetic.jsonl{form}"] and rows_in(paths.synthetic) == ROWS[:3]
        paths.synthetic.unlink()


@pytest.mark.parametrize(("one", "other"), [("", ".gz"), ("", ".zst"), (".gz", ".zst")])
def test_a_data_file_in_two_forms_is_refused_and_both_are_named(tmp_path, one, other):
    paths = RunPaths(tmp_path, "demo", "run")
    for form in (one, other):
        write_jsonl(tmp_path / "demo" / f"train_1000.jsonl{form}", ROWS)
    with pytest.raises(UserError) as error:
        _ = paths.train
    assert f"train_1000.jsonl{one}: train_1000.jsonl{other} is there too" in str(error.value) and "Remove one" in str(error.value)


# --- files of other programs ---------------------------------------------------------------------------------------------

CONTENTS = {
    "columns.bio": "张 B-PER\n三 I-PER\n在 O\n\n北 B-LOC\n京 I-LOC\n",
    "weibo.conll.train": "张0\tB-PER\n三1\tI-PER\n在0\tO\n\n北0\tB-LOC\n京1\tI-LOC\n",
    "list.json": json.dumps([{"text": "张三在", "entities": [[0, 2, "PER"]]}, {"text": "北京", "entities": [[0, 2, "LOC"]]}]),
    "rows.jsonl": '{"text": "张三在", "entities": [[0, 2, "PER"]]}\n{"text": "北京", "entities": [[0, 2, "LOC"]]}\n',
    "rows.txt": '{"text": "张三在", "entities": [[0, 2, "PER"]]}\n{"text": "北京", "entities": [[0, 2, "LOC"]]}\n',
}


@packed
@pytest.mark.parametrize("name", list(CONTENTS))
def test_every_input_format_is_read_compressed_as_it_is_plain(tmp_path, form, name):
    plain, path = tmp_path / name, tmp_path / f"{name}{form}"
    plain.write_text(CONTENTS[name], encoding="utf-8")
    path.write_bytes(PACK[form](plain.read_bytes()))
    expected = read_source(plain, "auto")
    found = read_source(path, "auto")
    assert found.sentences == expected.sentences and len(expected.sentences) == 2
    path.write_bytes(path.read_bytes()[:-3])
    with pytest.raises(UserError, match="end here, in the middle"):
        read_source(path, "auto")
