"""Broken files given to the real commands: exit code 2 and one line, whatever stands in place of the training sentences."""

from __future__ import annotations

import os
import re
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

import pytest
from pipeline import NAME, ROOT, run_step, write_dataset

from syn_pipelines.tools import oracle
from syn_pipelines.utils.errors import UserError

RUN = "GLM4"


@pytest.mark.parametrize("make", [os.mkfifo, os.mkdir, lambda path: path.symlink_to("/nowhere"), lambda path: path.write_bytes(b"\xff\xfe[\0")],
                         ids=["pipe", "folder", "link", "bytes"])
def test_a_command_ends_with_exit_2_and_one_line(tmp_path, make):
    write_dataset(tmp_path)
    path = tmp_path / NAME / "train_1000.jsonl"
    path.unlink()
    make(path)
    result = run_step("s1_predict_data", file_dir=tmp_path, backend="offline")
    assert result.returncode == 2 and "Traceback" not in result.stderr
    errors = [line for line in result.stderr.splitlines() if line.startswith("error: ")]
    assert len(errors) == 1 and str(path) in errors[0]


@contextmanager
def as_nobody() -> Iterator[None]:
    """Where the tests run as root, who may read everything."""
    root = os.geteuid() == 0
    if root:
        os.seteuid(65534)
    try:
        yield
    finally:
        if root:
            os.seteuid(0)


def test_a_file_that_may_not_be_read_is_named():
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        write_dataset(folder)
        for path in (folder, folder / NAME):
            path.chmod(0o777)
        (folder / NAME / "train_1000.jsonl").chmod(0)
        with as_nobody(), pytest.raises(UserError, match=r"train_1000\.jsonl: cannot be read \(Permission denied\)"):
            oracle.main([f"--file_dir={folder}", f"--file_name={NAME}"])
        (folder / NAME / "train_1000.jsonl").chmod(0o600)


def test_zeros_without_end_do_not_fill_the_memory(tmp_path):
    write_dataset(tmp_path)
    path = tmp_path / NAME / "train_1000.jsonl"
    with path.open("r+b") as file:
        with suppress(OSError):
            file.truncate(1 << 40)  # a terabyte that takes no room
    code = ("import resource, sys; resource.setrlimit(resource.RLIMIT_AS, (3 << 30, 3 << 30)); sys.argv[0] = 's4'; "
            "from syn_pipelines import s4_split_data as s; from syn_pipelines.utils.summary import run_script; run_script(s.main)")
    (tmp_path / NAME / RUN).mkdir()
    (tmp_path / NAME / RUN / "entity_train_1000.jsonl").write_text("{}\n")
    result = subprocess.run([sys.executable, "-c", code, f"--file_dir={tmp_path}", f"--file_name={NAME}"], capture_output=True,
                            text=True, timeout=300, env={**os.environ, "PYTHONPATH": str(ROOT)})
    assert result.returncode == 2 and re.search(r"train_1000\.jsonl:13: has more than 64 MiB in one line", result.stderr), result.stderr
