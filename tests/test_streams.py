"""Scripts whose standard output or standard error is closed, on a full disk, or read by nobody any more."""

from __future__ import annotations

import errno
import os
import subprocess
import sys

import pytest
from child import ROOT, command, environment
from pipeline import NAME, all_bytes, write_run

CLOSED, FULL = "&-", "/dev/full"
OFFLINE = {"file_name": NAME, "backend": "offline", "lang": "ja"}
STOP = "at('open', 'GLM4/entity_train_1000.jsonl.part', lambda: send(signal.{}))\n"


def run(words: list[str], out: str = "", err: str = "") -> subprocess.CompletedProcess[str]:
    """Run words with standard output and standard error sent elsewhere ("": caught)."""
    sent = f"{f'>{out}' if out else ''} {f'2>{err}' if err else ''}"
    return subprocess.run(["bash", "-c", f'exec "$@" {sent}', "bash", *words], env=environment(), capture_output=True, text=True,
                          timeout=120, cwd=ROOT)


@pytest.fixture(scope="module")
def calm(tmp_path_factory) -> dict[str, bytes]:
    """The files of a run with both streams."""
    folder = tmp_path_factory.mktemp("calm")
    made = write_run(folder, modes=(), synthetic=False)
    assert run(command("s1_predict_data", {"file_dir": folder, **OFFLINE})).returncode == 0
    return {name: content.replace(str(folder).encode(), b"") for name, content in all_bytes(made).items()}


@pytest.mark.parametrize("out, err", [(CLOSED, ""), ("", CLOSED), (CLOSED, CLOSED), ("", FULL)])
def test_a_step_without_its_streams_makes_the_same_files(out, err, calm, tmp_path):
    made = write_run(tmp_path, modes=(), synthetic=False)
    result = run(command("s1_predict_data", {"file_dir": tmp_path, **OFFLINE}), out, err)
    assert (result.returncode, result.stdout) == (0, "") and "Traceback" not in result.stderr
    assert {name: content.replace(str(tmp_path).encode(), b"") for name, content in all_bytes(made).items()} == calm


@pytest.mark.parametrize("err", [CLOSED, FULL])
@pytest.mark.parametrize("name, code", [("SIGTERM", 143), ("SIGINT", 130), ("", 2)])
def test_the_exit_code_stays_what_it_is_when_nothing_can_be_told(name, code, err, tmp_path):
    made = write_run(tmp_path, modes=(), synthetic=False)
    flags = {"file_dir": tmp_path / "" if name else tmp_path / "none", **OFFLINE}
    result = run(command("s1_predict_data", flags, STOP.format(name) if name else ""), err=err)
    assert (result.returncode, result.stdout) == (code, "")
    assert not any(b"what is finished is kept" in path.read_bytes() for path in made.rglob("*") if path.is_file())


@pytest.mark.parametrize("out, code, told", [(CLOSED, 0, ""), (FULL, 2, f"error: standard output: {os.strerror(errno.ENOSPC)}.")])
def test_a_result_that_cannot_be_written_is_one_line(out, code, told, tmp_path):
    write_run(tmp_path, modes=(), synthetic=False)
    result = run(command("s1_predict_data", {"file_dir": tmp_path, **OFFLINE, "dry_run": "plan"}), out)
    assert result.returncode == code and "Traceback" not in result.stderr and "Exception ignored" not in result.stderr
    assert (result.stderr.splitlines() or [""])[-1].startswith(told)


@pytest.mark.parametrize("script, balanced, code", [("tools.ledger", True, 0), ("tools.ledger", False, 1), ("tools.oracle", True, 0)])
def test_a_pipe_that_nobody_reads_any_more_leaves_the_exit_code_that_was_earned(script, balanced, code, tmp_path):
    write_run(tmp_path, modes=() if balanced else ("entity",), synthetic=False)  # rows without replies do not add up
    read, write = os.pipe()
    os.close(read)
    result = subprocess.run(command(script, {"file_dir": tmp_path, "file_name": NAME}), env=environment(), stdout=write,
                            stderr=subprocess.PIPE, text=True, timeout=120, cwd=ROOT)
    os.close(write)
    assert result.returncode == code and "pipe" not in result.stderr and "Exception ignored" not in result.stderr, result.stderr


@pytest.mark.parametrize("error, told", [
    ("MemoryError()", "error: the memory does not suffice (MemoryError). Take smaller batches"),
    ("ConnectionResetError(104, 'reset by peer')", "error: reset by peer. Nothing already finished is lost"),
    ("OSError()", "error: OSError. Nothing already finished is lost")])
def test_an_error_without_a_text_or_a_file_says_what_is_known(error, told):
    code = f"from syn_pipelines.utils.summary import run_script\ndef main():\n    raise {error}\nrun_script(main)\n"
    result = run([sys.executable, "-c", code])
    assert result.returncode == 2 and result.stderr.startswith(told)
