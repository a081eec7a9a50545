"""Steps 1 to 3 as commands: killed anywhere, they go on and end with the same bytes as a run that nobody disturbed."""

from __future__ import annotations

import itertools
import json
import random
import re
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from scripted import read_rows
from workspace import make_workspace, shell, tree_bytes

SENTENCES = 100
STEPS = {  # name of the published file, command, sample
    "s1-entity": ("entity_train_1000", "s1_predict_data.py --mode=entity", "sample_en"),
    "s1-pos": ("pos_train_1000", "s1_predict_data.py --mode=pos", "sample_en"),
    "s2-zh": ("train_1000_synthetic", "s2_continous_generation.py", "sample_zh"),
    "s2-en": ("train_1000_synthetic", "s2_continous_generation.py --num_samples=2 --temperature=1", "sample_en"),
}
MOMENT_S = 0.0005  # between two looks at what a process has done


class Step:
    """One step's command in a workspace of its own."""

    def __init__(self, folder: Path, key: str) -> None:
        self.name, command, sample = STEPS[key]
        self.folder = make_workspace(folder, data_set=sample, name="toy", train=SENTENCES)
        self.words = [f"syn_pipelines/{command.split()[0]}", *command.split()[1:], "--file_name=toy", "--backend=offline"]
        self.run = self.folder / "data" / "few_shot" / "toy" / "GLM4"
        self.journal = self.run / ".journal" / f"{self.name}.jsonl"
        self.output = self.run / f"{self.name}.jsonl"

    @property
    def command(self) -> str:
        return "python " + " ".join(self.words)

    def finish(self, more: str = "") -> subprocess.CompletedProcess[str]:
        return shell(f"{self.command} {more}", self.folder)

    def start(self) -> subprocess.Popen[str]:
        return subprocess.Popen([sys.executable, *self.words], cwd=self.folder, stderr=subprocess.PIPE, text=True)

    def lines(self) -> int:
        """Whole lines of the journal now."""
        return self.journal.read_bytes().count(b"\n") if self.journal.exists() else 0

    def forget(self) -> None:
        """Take away all that was made."""
        for path in [*tree_bytes(self.run), "run.log.jsonl", *(f".journal/{p.name}" for p in self.journal.parent.glob("*"))]:
            (self.run / path).unlink(missing_ok=True)

    def asked(self) -> list[str]:
        return [row["id"] for row in read_rows(self.journal)[1:]]

    def manifest(self) -> dict:
        return json.loads((self.run / f"{self.name}.manifest.json").read_text(encoding="utf-8"))


def wait_until(process: subprocess.Popen[str], done: Callable[[], bool]) -> bool:
    """Wait for something a process does; False when it ended before."""
    while not done():
        if process.poll() is not None:
            return False
        time.sleep(MOMENT_S)
    return True


def end(process: subprocess.Popen[str], how: signal.Signals) -> tuple[int, str]:
    """Send a signal that ends the process; its exit code and what it said."""
    process.send_signal(how)
    _, said = process.communicate()
    return process.returncode, said


def start_and_catch(step: Step, lines: int) -> subprocess.Popen[str]:
    """Start the step and stand still (SIGSTOP) once its journal has so many lines and it is not done."""
    while True:  # on a busy machine it may get to its end before it is caught
        process = step.start()
        if wait_until(process, lambda: step.lines() >= lines):
            process.send_signal(signal.SIGSTOP)
            if not step.output.exists():
                return process
        end(process, signal.SIGKILL)
        step.forget()


@pytest.fixture(scope="module", params=STEPS)
def undisturbed(request, tmp_path_factory) -> tuple[str, dict[str, bytes], list[str]]:
    """(key of the step, files, ids asked) of a run that nobody disturbed."""
    step = Step(tmp_path_factory.mktemp("undisturbed"), request.param)
    result = step.finish()
    assert result.returncode == 0, result.stderr
    assert len(step.asked()) > 60
    return request.param, tree_bytes(step.run), step.asked()


def check_finished(step: Step, files: dict[str, bytes], asked: list[str]) -> None:
    assert tree_bytes(step.run) == files
    assert sorted(step.asked()) == sorted(asked), "a finished record was asked again, or one was lost"


def kills(step: Step, seed: int) -> Iterator[Callable[[], bool]]:
    """Moments to kill at, judged anew for each process: after a few more replies, or some time after its start."""
    rng = random.Random(seed)
    while True:
        if rng.random() < 0.75:
            wanted = step.lines() + rng.randint(0, 20)
            yield lambda wanted=wanted: step.lines() >= wanted
        else:
            end_s = time.monotonic() + rng.uniform(0, 0.8)
            yield lambda end_s=end_s: time.monotonic() >= end_s


def kill_and_restart(step: Step, files: dict[str, bytes], asked: list[str], *, times: int, seed: int) -> None:
    """Kill the step so many times, going on each time; whenever it gets to its end, compare and begin anew."""
    killed = 0
    for moment in kills(step, seed):
        process = step.start()
        wait_until(process, moment)
        code, _ = end(process, signal.SIGKILL)
        if code == 0:
            check_finished(step, files, asked)
            step.forget()
            continue
        assert code == -signal.SIGKILL
        killed += 1
        if killed == times:
            break
    result = step.finish()
    assert result.returncode == 0, result.stderr
    check_finished(step, files, asked)


def test_killed_at_random_points_the_files_and_the_questions_are_the_same(undisturbed, tmp_path):
    key, files, asked = undisturbed
    kill_and_restart(Step(tmp_path, key), files, asked, times=6, seed=1)  # 24 kills with all four steps


@pytest.mark.slow
@pytest.mark.parametrize("seed", range(3))
def test_killed_many_times_the_files_and_the_questions_are_the_same(undisturbed, tmp_path, seed):
    key, files, asked = undisturbed
    kill_and_restart(Step(tmp_path, key), files, asked, times=25, seed=100 + seed)


# Kills its own process right before the n-th call of a function of os: between any two things that reach the disk.
KILL_AT = """
import os, runpy, signal, sys
name, left = sys.argv[1], int(sys.argv[2])
real = getattr(os, name)
def counted(*args, **kwargs):
    global left
    left -= 1
    if not left:
        os.kill(os.getpid(), signal.SIGKILL)
    return real(*args, **kwargs)
setattr(os, name, counted)
sys.argv = sys.argv[3:]
runpy.run_path(sys.argv[0], run_name="__main__")
"""


@pytest.mark.parametrize("function, at_least", [("replace", 3), ("fsync", 3), ("fdatasync", 2)])
@pytest.mark.parametrize("undisturbed", ["s1-entity"], indirect=True)
def test_killed_between_any_two_steps_to_the_disk_it_goes_on(undisturbed, tmp_path, function, at_least):
    key, files, asked = undisturbed
    step = Step(tmp_path, key)
    for nth in itertools.count(1):
        process = subprocess.run([sys.executable, "-c", KILL_AT, function, str(nth), *step.words], cwd=step.folder,
                                 capture_output=True, text=True)
        if process.returncode == 0 or nth > 8:
            break
        assert process.returncode == -signal.SIGKILL, process.stderr
        if step.output.exists():  # never half a file; its manifest may still be missing
            assert step.output.read_bytes() == files[step.output.name]
        assert step.finish().returncode == 0
        check_finished(step, files, asked)
        step.forget()
    assert nth > at_least


@pytest.mark.parametrize("undisturbed", ["s1-pos"], indirect=True)
def test_interrupted_from_the_keyboard_it_says_how_to_go_on(undisturbed, tmp_path):
    key, files, asked = undisturbed
    step = Step(tmp_path, key)
    process = start_and_catch(step, lines=3)
    process.send_signal(signal.SIGINT)
    code, said = end(process, signal.SIGCONT)
    assert code == 130
    assert "what is finished is kept" in said.splitlines()[-1] and "Traceback" not in said
    assert 2 <= len(step.asked()) <= len(asked)
    assert step.finish().returncode == 0
    check_finished(step, files, asked)


@pytest.mark.parametrize("undisturbed", ["s1-pos"], indirect=True)
def test_a_second_process_stops_and_the_first_goes_on(undisturbed, tmp_path):
    key, files, asked = undisturbed
    step = Step(tmp_path, key)
    first = start_and_catch(step, lines=2)
    try:
        second = step.finish()
        assert second.returncode == 2 and "Traceback" not in second.stderr
        assert f"process {first.pid} is at the same work" in second.stderr.splitlines()[-1]
        first.send_signal(signal.SIGCONT)
        _, said = first.communicate()
        assert first.returncode == 0, said
        check_finished(step, files, asked)
    finally:
        first.kill()


@pytest.mark.parametrize("undisturbed", ["s1-pos"], indirect=True)
def test_the_lock_of_a_killed_process_is_free(undisturbed, tmp_path):
    key, files, asked = undisturbed
    step = Step(tmp_path, key)
    first = start_and_catch(step, lines=2)
    end(first, signal.SIGKILL)
    assert (step.journal.parent / f"{step.name}.lock").read_text() == str(first.pid)
    assert step.finish().returncode == 0
    check_finished(step, files, asked)


@pytest.mark.parametrize("undisturbed", ["s1-entity"], indirect=True)
def test_a_full_disk_is_one_line_and_nothing_finished_is_lost(undisturbed, tmp_path):
    key, files, asked = undisturbed
    step = Step(tmp_path, key)
    result = shell(f"ulimit -f 6; {step.command}", step.folder)  # no file beyond 6 KiB
    assert result.returncode == 2 and "Traceback" not in result.stderr, result.stderr
    assert "run the same command again" in result.stderr.splitlines()[-1]
    assert not step.output.exists() and step.lines() > 10
    assert step.finish().returncode == 0
    check_finished(step, files, asked)


@pytest.mark.parametrize("undisturbed", ["s1-entity"], indirect=True)
def test_what_stops_a_command_is_one_line_and_exit_2(undisturbed, tmp_path):
    key, files, _ = undisturbed
    step = Step(tmp_path, key)
    assert step.finish().returncode == 0
    whole = step.journal.read_bytes()

    def refused(more: str = "") -> str:
        result = step.finish(more)
        assert result.returncode == 2 and "Traceback" not in result.stderr, result.stderr
        assert tree_bytes(step.run) == files
        (line,) = [line for line in result.stderr.splitlines() if line.startswith("error: ")]
        return line

    line = refused("--seed=7")
    assert "seed 42 -> 7" in line and "--overwrite" in line and str(step.journal.relative_to(step.folder)) in line
    assert "temperature 0.0 -> 0.5" in refused("--temperature=0.5")
    lines = whole.splitlines(keepends=True)
    step.journal.write_bytes(b"".join([*lines[:4], lines[4][:9] + b"\n", *lines[5:]]))
    line = refused()
    assert re.search(r"entity_train_1000\.jsonl:5: ", line) and "--overwrite" in line
    step.journal.write_bytes(whole)
    step.words.remove("--backend=offline")
    line = refused()
    assert "--model_from_pretrained" in line and "--backend=offline" in line


@pytest.mark.parametrize("undisturbed", ["s1-entity", "s2-en"], indirect=True)
def test_limited_runs_add_up_to_the_whole_one(undisturbed, tmp_path):
    key, files, asked = undisturbed
    step = Step(tmp_path, key)
    result = step.finish("--skip=10 --limit=15")
    assert result.returncode == 0 and "not asked" in result.stderr and "Ask" in result.stderr
    assert step.manifest()["complete"] is False
    some = step.asked()
    assert 15 <= len(some) < len(asked)
    result = step.finish()
    assert result.returncode == 0 and step.manifest()["complete"] is True
    assert step.asked()[:len(some)] == some
    check_finished(step, files, asked)
    again = step.finish("--batch_size=1")
    assert again.returncode == 0 and "nothing to do" in again.stderr
    check_finished(step, files, asked)
    assert step.finish("--overwrite").returncode == 0
    check_finished(step, files, asked)
