"""Progress while a model is asked, and what the closing summary and the log say of it."""

from __future__ import annotations

import fcntl
import json
import os
import pty
import re
import struct
import subprocess
import sys
import termios
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st
from scripted import FINE, WRITTEN, call, journal_of, manifest_of, read_rows
from workspace import ROOT, make_workspace

import syn_pipelines.s1_predict_data as s1
import syn_pipelines.s2_continous_generation as s2
from syn_pipelines.utils import summary
from syn_pipelines.utils.llm import Reply
from syn_pipelines.utils.summary import Usage, duration

ANSWERS = {
    "1": Reply("1", '[{"entity": "Alice", "type": "P"}]', prompt_tokens=10, completion_tokens=5, decoded="grammar"),
    "2": Reply("2", "no", prompt_tokens=10, completion_tokens=2),
    "3": Reply("3", "[]", prompt_tokens=10, completion_tokens=3, decoded="grammar", closed=True),
    "4": Reply("4", "", "error", error="time-out: 30 s"),
    "5": Reply("5", "[]", prompt_tokens=10, completion_tokens=90, decoded="json_schema"),
}


def test_the_closing_summary_tells_tokens_speed_share_kept_and_how_replies_were_decoded(folder, use):
    use(ANSWERS)
    result = call(s1, folder)
    assert result.usage.seconds > 0
    text = str(result)
    for part in ("asked about 5 sentences in", "sentences/s", "tokens/s", "kept 60.0 %", "40 prompt + 100 completion tokens",
                 "2 decoded by grammar", "1 decoded by json_schema", "1 closed early", "1 no_json", "1 time-out"):
        assert part in text
    assert manifest_of(folder)["counts"]["closed"] == 1
    stored = {row["id"]: row for row in read_rows(journal_of(folder))[1:]}
    assert stored["3"]["closed"] is True and stored["3"]["decoded"] == "grammar"


def test_explanations_are_counted_as_explanations_and_kept_when_they_give_a_sentence(folder, use):
    use({**WRITTEN, "3#1": "I cannot."})
    result = call(s2, folder)
    assert (result.usage.unit, result.usage.asked, result.usage.kept) == ("explanation", 3, 2)
    assert "asked about 3 explanations" in str(result) and "closed" not in manifest_of(folder, "train_1000_synthetic")["counts"]


def test_the_log_keeps_what_a_run_took_also_of_one_that_broke(folder, use):
    use(ANSWERS, fail_after=2)
    with pytest.raises(RuntimeError):
        call(s1, folder)
    use(ANSWERS)
    call(s1, folder)
    rows = read_rows(folder / "run" / "run.log.jsonl")
    assert [row["ended"] for row in rows] == ["RuntimeError", "done"]
    assert [row["usage"]["asked"] for row in rows] == [2, 3]
    assert rows[1]["usage"]["completion_tokens"] == 93 and rows[1]["usage"]["model"] == "scripted (answers-1)"
    use({})
    again = call(s1, folder)
    assert again.usage is None and "asked about" not in str(again)
    assert "usage" not in read_rows(folder / "run" / "run.log.jsonl")[-1]


def test_a_log_file_shows_life(folder, use, monkeypatch, caplog):
    monkeypatch.setattr(summary, "LOG_EVERY_S", 0.0)
    use(ANSWERS)
    with caplog.at_level("INFO"):
        call(s1, folder)
    lines = [text for text in caplog.messages if " left" in text]
    assert len(lines) == 4  # the last reply is told by the summary
    assert re.fullmatch(r"s1_predict_data entity: 2 of 5 \(40 %\), [\d,.]+ sentences/s, [\d,]+ tokens/s, kept 50\.0 %, "
                        r"about .+ left", lines[1])


def test_a_log_file_is_not_flooded(folder, use, caplog):
    use(FINE)
    with caplog.at_level("INFO"):
        call(s1, folder)
    assert not [text for text in caplog.messages if " left" in text]


def on_a_terminal(command: list[str], folder: Path, columns: int) -> bytes:
    """What a command writes to standard error when that is a terminal."""
    ours, theirs = pty.openpty()
    fcntl.ioctl(theirs, termios.TIOCSWINSZ, struct.pack("HHHH", 24, columns, 0, 0))
    with subprocess.Popen(command, cwd=folder, stderr=theirs, stdout=subprocess.DEVNULL,
                          env={**os.environ, "TERM": "xterm"}) as process:
        os.close(theirs)
        shown = b""
        try:
            while block := os.read(ours, 65536):
                shown += block
        except OSError:  # how a terminal ends
            pass
    os.close(ours)
    assert process.returncode == 0, shown
    return shown


def test_a_terminal_gets_a_bar_with_tokens_and_share_kept(tmp_path):
    workspace = make_workspace(tmp_path / "project", train=40, held_out=2)
    command = [sys.executable, str(ROOT / "syn_pipelines/s1_predict_data.py"), "--file_name=weibo", "--backend=offline"]
    shown = on_a_terminal(command, workspace, columns=160)
    assert b"40/40" in shown and re.search(rb"<\d\d:\d\d, +[\d.,]+ sentences/s, [\d,]+ tokens/s, kept 100\.0 %\]", shown)


@pytest.mark.parametrize("columns", [80, 160])
def test_lines_of_the_log_stand_above_the_bar_and_a_narrow_terminal_shows_all_figures(columns):
    code = ("import logging, sys\n"
            "from syn_pipelines.utils.summary import Progress, Usage\n"
            "from syn_pipelines.utils.llm import Reply\n"
            "logging.basicConfig(stream=sys.stderr, format='%(message)s')\n"
            "with Progress(Usage('sentence'), total=2, what='s1_predict_data entity') as bar:\n"
            "    logging.warning('no GPU here')\n"
            "    for n in '12':\n"
            "        bar.add(Reply(n, '[]'), kept=True)\n")
    shown = on_a_terminal([sys.executable, "-c", code], ROOT, columns)
    assert re.search(rb"[\r\n]no GPU here\r?\n", shown)
    assert re.search(rb" tokens/s, kept 100\.0 %\]", shown) and (b"s1_predict_data entity:" in shown) is (columns == 160)


def test_a_journal_line_of_before_reads_as_ever(folder, use):
    use(FINE)
    call(s1, folder)
    rows = read_rows(journal_of(folder))
    old = [rows[0]] + [{k: row[k] for k in ("id", "text", "finish_reason", "error", "asked")} for row in rows[1:]]
    journal_of(folder).write_text("".join(json.dumps(row) + "\n" for row in old), encoding="utf-8")
    use({})
    assert call(s1, folder).up_to_date


@given(st.floats(0, 1e9))
def test_a_duration_is_off_by_less_than_its_second_unit(seconds):
    size = {"s": 1, "min": 60, "h": 3600, "d": 86400}
    words = duration(seconds).split(" ")
    told = sum(int(number) * size[unit] for number, unit in zip(words[::2], words[1::2]))
    assert abs(told - seconds) < max(size[words[1]] / 23, 1)


def test_rates_of_nothing_do_not_divide_by_zero():
    assert "kept 0.0 %" in Usage().rates()
