"""Work spread over processes: answers in order, bounded reading ahead, no hang and no orphan when a process is killed."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from syn_pipelines.utils.errors import ServiceError
from syn_pipelines.utils.workers import LARGE, worker_count, working

HERE = Path(__file__).resolve().parent
TASKS = [f"{n} task".encode() for n in range(40)]


@pytest.fixture(autouse=True)
def functions_of_the_tests(monkeypatch):
    monkeypatch.setenv("PYTHONPATH", os.pathsep.join([str(HERE), str(HERE.parent)]))
    monkeypatch.syspath_prepend(str(HERE))


def answers(count: int, function: str, tasks=TASKS, **arguments) -> list[bytes]:
    with working(count, f"worker_functions:{function}", arguments) as ask:
        return list(ask(tasks))


@pytest.mark.parametrize("count", [1, 2, 3])
def test_answers_come_in_the_order_of_the_tasks_whoever_is_slow(count):
    assert answers(count, "upper") == [task.upper() for task in TASKS]


def test_what_a_worker_prints_does_not_get_into_the_answers():
    assert answers(2, "printing") == TASKS


def test_large_tasks_and_answers_pass(count=2):
    tasks = [bytes([n]) * 3_000_000 for n in range(6)]
    assert answers(count, "upper", tasks) == [task.upper() for task in tasks]


def test_little_is_read_ahead():
    given = []

    def tasks():
        for task in TASKS:
            given.append(task)
            yield task
    with working(2, "worker_functions:upper", {}) as ask:
        for number, _ in enumerate(ask(tasks()), 1):
            assert len(given) <= number + 4


def test_a_killed_worker_is_one_clear_error():
    with pytest.raises(ServiceError, match="a worker process ended by SIGKILL.*--workers=1"):
        answers(2, "dying", at="17 task")


@pytest.mark.parametrize("count", [2, 4])
def test_a_worker_that_ends_while_others_are_busy_leaves_nobody_waiting(count):
    with pytest.raises(ServiceError, match="SIGKILL"):
        answers(count, "dying", [b"first", *TASKS], at="first", pause=0.2)


@pytest.mark.parametrize("count", [2, 4])
def test_answers_may_be_left_untaken(count):
    with working(count, "worker_functions:upper", {}) as ask:
        assert next(ask(TASKS)) == TASKS[0].upper()


def test_ctrl_c_does_not_reach_the_workers():
    assert str(os.getpgrp()).encode() not in answers(2, "group")


def test_no_package_is_looked_for_in_the_current_folder(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    for name in ("signal", "enum", "json", "syn_pipelines"):
        (tmp_path / f"{name}.py").write_text("raise SystemExit('the wrong one')")
    assert answers(2, "upper") == [task.upper() for task in TASKS]


def test_an_error_while_tasks_are_made_is_raised_and_ends_the_workers(tmp_path):
    def tasks():
        yield from TASKS[:5]
        raise ValueError("bad input")
    with pytest.raises(ValueError, match="bad input"):
        answers(2, "telling", tasks(), file=str(tmp_path / "told"))
    assert_gone(tmp_path / "told")


def assert_gone(told: Path) -> None:
    """None of the processes whose ids stand in a file is there any more, or soon will be."""
    numbers = {int(line) for line in told.read_text().split()}
    assert numbers
    for _ in range(600):
        if not any(is_running(number) for number in numbers):
            return
        time.sleep(0.05)
    raise AssertionError(f"still running: {numbers}")


def is_running(number: int) -> bool:
    try:
        return Path(f"/proc/{number}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    except OSError:
        return False


@pytest.mark.skipif(not os.path.isdir("/proc"), reason="looks processes up in /proc")
@pytest.mark.parametrize("number", [signal.SIGKILL, signal.SIGTERM, signal.SIGINT])
def test_workers_end_with_their_parent(tmp_path, number):
    told = tmp_path / "told"
    program = ("from syn_pipelines.utils.workers import working\n"
               f"with working(2, 'worker_functions:telling', {{'file': {str(told)!r}}}) as ask:\n"
               "    for answer in ask(b'task' for _ in range(100000)): pass\n")
    parent = subprocess.Popen([sys.executable, "-c", program], stderr=subprocess.DEVNULL)
    while parent.poll() is None and (not told.exists() or len(set(told.read_text().split())) < 2):
        time.sleep(0.02)
    parent.send_signal(number)
    assert parent.wait(60) != 0
    assert_gone(told)


def test_small_inputs_are_done_without_other_processes(tmp_path):
    small, large = tmp_path / "small", tmp_path / "large"
    small.write_bytes(b"x" * 1000)
    with large.open("wb") as file:
        file.truncate(LARGE)
    assert worker_count(0, [small, tmp_path / "none"]) == 1
    assert worker_count(0, [small, large]) == len(os.sched_getaffinity(0))
    assert worker_count(3, [small]) == 3
