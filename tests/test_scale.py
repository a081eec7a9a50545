"""benchmarks/scale.py measures what it says, on data that are what it says. Speed is not tested."""

from __future__ import annotations

import json
import shlex
import subprocess
import sys
import urllib.request
from pathlib import Path

import pytest
from child import environment
from hypothesis import given
from hypothesis import strategies as st
from workspace import make_workspace

ROOT = Path(__file__).parents[1]
SCRIPT = ROOT / "benchmarks" / "scale.py"
STEPS = ["s4", "s5_gold", "s5_synthetic", "s6", "s8", "ledger"]


def scale(*flags: object) -> subprocess.CompletedProcess[str]:
    return subprocess.run([sys.executable, str(SCRIPT), *map(str, flags)], capture_output=True, text=True, timeout=250,
                          env=environment())


@pytest.fixture(scope="module")
def modules():
    sys.path.insert(0, str(SCRIPT.parent))
    try:
        import scale
        import scale_data
        import scale_llm
        import scale_measure
    finally:
        sys.path.remove(str(SCRIPT.parent))
    return {module.__name__: module for module in (scale, scale_data, scale_llm, scale_measure)}


@pytest.fixture(scope="module")
def small(tmp_path_factory):
    """The flags that name a run with all steps done."""
    home = make_workspace(tmp_path_factory.mktemp("small"), train=24)
    place = [f"--file_dir={home / 'data' / 'few_shot'}", "--file_name=weibo", "--save_type_name=offline"]
    done = subprocess.run([sys.executable, str(ROOT / "syn_pipelines" / "run_all.py"), *place, "--backend=offline", "--max_steps=1",
                           "--with_report=0"], capture_output=True, text=True, env=environment())
    assert done.returncode == 0, done.stderr
    return place


@pytest.fixture(scope="module")
def run(small, modules):
    data = modules["scale_data"]
    return data.RunPaths(Path(small[0].partition("=")[2]), "weibo", "offline")


@pytest.fixture(scope="module")
def base(run, modules):
    return modules["scale_data"].Reader(run).base()


def rows(path: Path) -> list[dict]:
    return [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines()]


# --- the figures ------------------------------------------------------------------------------------------------------

@pytest.fixture(scope="module")
def figures(small, tmp_path_factory):
    folder = tmp_path_factory.mktemp("large")
    done = scale("--json", "--rows", 30, 60, "--folder", folder, *small)
    assert done.returncode == 0, done.stderr
    assert not list(folder.iterdir())
    return json.loads(done.stdout)


def test_json_lists_every_step_at_every_size_with_five_figures_and_nothing_else(figures):
    assert [(row["rows"], row["step"]) for row in figures] == [(size, step) for size in (30, 60) for step in STEPS]
    assert all(list(row) == ["step", "rows", "rows_per_s", "wall_s", "peak_mb"] for row in figures)


def test_figures_are_possible(figures):
    for row in figures:
        assert 0 < row["rows"] / row["rows_per_s"] and row["wall_s"] > 0
        assert 8 < row["peak_mb"] < 400  # an interpreter, and no tensor library


def test_the_ledger_was_asked_and_found_the_large_runs_balanced(figures):
    assert sum(row["step"] == "ledger" for row in figures) == 2  # anything but balanced ends the benchmark, see below


def test_a_step_that_fails_ends_the_benchmark_with_what_it_said(small, run, tmp_path):
    labels = run.labels.read_bytes()
    run.labels.write_text("O\nNONE.OF.THESE\n", encoding="utf-8")
    try:
        done = scale("--json", "--rows", 5, "--steps", "s4", "--folder", tmp_path, *small)
    finally:
        run.labels.write_bytes(labels)
    assert done.returncode == 1 and not done.stdout and "Traceback" not in done.stderr
    assert "labels.txt" in done.stderr and not list(tmp_path.iterdir())


def test_a_run_that_is_not_there_is_told_in_one_line(small, tmp_path):
    done = scale("--folder", tmp_path, *small[:2], "--save_type_name=other")
    assert done.returncode == 1 and not done.stdout and len(done.stderr.splitlines()) == 1
    assert "other: there is no such run" in done.stderr


@pytest.mark.parametrize("flags", [["--rows", "0"], ["--concurrency", "0"], ["--ray_workers", "0"], ["--delay", "-1"],
                                   ["--steps", "s7"]])
def test_senseless_flags_are_refused_with_their_value(flags):
    done = scale(*flags)
    assert done.returncode == 2 and not done.stdout
    assert flags[0] in done.stderr.splitlines()[-1] and flags[1] in done.stderr.splitlines()[-1]


def test_too_small_a_disk_is_told_before_anything_is_made(modules, run, tmp_path):
    needed = [str(run.file_dir), run.file_name, run.save_type_name]
    with pytest.raises(SystemExit, match="rows need about .* GB .* are free"):
        modules["scale"].check_space(needed, tmp_path, 10**12, True)
    modules["scale"].check_space(needed, tmp_path, 10, True)
    assert not list(tmp_path.iterdir())


@given(st.floats(0, 3), st.floats(0.01, 100), st.integers(1, 10**6), st.integers(2, 1000))
def test_the_exponent_is_that_of_the_growth(modules, power, factor, first, times):
    sizes = [{"rows": n, "peak_mb": factor * n**power} for n in (first, first * times)]
    assert modules["scale"].exponent(*sizes, lambda row: row["peak_mb"]) == pytest.approx(power, abs=1e-6)


def test_the_table_shows_growth_and_the_reference_beside_each_size(modules):
    made = [{"step": "s5_gold", "rows": n, "rows_per_s": speed, "wall_s": 1.0, "peak_mb": memory}
            for n, speed, memory in ((1_000, 2_900.0, 30.0), (10_000, 2_900.0, 30.18))]
    lines = [[cell.strip() for cell in line.strip("|").split("|")] for line in modules["scale"].table(made).splitlines()]
    shown = [dict(zip(lines[0], line)) for line in lines[2:]]
    assert [row["reference rows/s"] for row in shown] == ["1,450", "1,440"]
    assert [row["times"] for row in shown] == ["2.00", "2.01"]
    assert (shown[1]["time grows"], shown[1]["memory grows"], shown[1]["bytes/row"]) == ("1.00", "0.00", "20")
    assert shown[0]["time grows"] == shown[0]["bytes/row"] == ""


# --- what is measured -------------------------------------------------------------------------------------------------

HOLDS = "held = bytearray(60_000_000)\nfor place in range(0, len(held), 4096): held[place] = 1\n"


def test_memory_is_that_of_all_processes_together(modules):
    child = f"{HOLDS}print('held', flush=True)\ninput()"
    program = (f"import subprocess, sys, time\nchild = {child!r}\n"
               "both = [subprocess.Popen([sys.executable, '-c', child], stdin=-1, stdout=-1, text=True) for _ in range(2)]\n"
               "for one in both: one.stdout.readline()\n"
               "time.sleep(0.5)\n"  # looked at every 20 ms
               "for one in both: one.communicate('\\n')\n")
    # From a small process: until it runs its program, a child has the memory of the one that started it.
    measuring = (f"import sys\nfrom scale_measure import measured\ncost = measured([sys.executable, '-c', {program!r}])\n"
                 "print(cost.code, cost.peak_mb)")
    done = subprocess.run([sys.executable, "-c", measuring], cwd=ROOT / "benchmarks", capture_output=True, text=True, check=True)
    code, peak = done.stdout.split()
    assert code == "0" and 120 < float(peak) < 250


def test_memory_that_is_held_for_a_moment_only_is_seen(modules):
    cost = modules["scale_measure"].measured([sys.executable, "-c", HOLDS])
    assert cost.peak_mb > 60


def test_seconds_of_the_processor_include_those_of_children(modules):
    child = "import time\nwhile time.process_time() < 0.4: pass"
    program = f"import subprocess, sys\nsubprocess.run([sys.executable, '-c', {child!r}], check=True)"
    cost = modules["scale_measure"].measured([sys.executable, "-c", program])
    assert cost.code == 0 and cost.cpu_s >= 0.4


# --- the data ---------------------------------------------------------------------------------------------------------

@pytest.fixture(scope="module")
def large(base, modules, tmp_path_factory):
    data = modules["scale_data"]
    paths = data.RunPaths(tmp_path_factory.mktemp("copies"), "large", "run")
    assert data.write_large(base, paths, 100) == 100
    return paths


def test_there_are_as_many_synthetic_sentences_as_original_ones_and_all_texts_differ(large):
    original, synthetic = rows(large.train), rows(large.synthetic)
    assert len(original) == len(synthetic) == 100
    texts = ["".join(row["text"]) for row in (*original, *synthetic)]
    assert len(set(texts)) == 200
    assert {row["source_id"] for row in synthetic} <= {row["id"] for row in original if row["entities"]}


def test_copies_of_a_sentence_differ_in_more_than_their_numbers(large, base):
    times = len(base.sources)
    original = rows(large.train)
    pairs = [(original[n]["text"], original[n + times]["text"]) for n in range(times) if n + times < len(original)]
    letters = [[tuple(token for token in text if not token.isdecimal()) for text in pair] for pair in pairs]
    assert sum(one != other for one, other in letters) >= len(letters) - 1


@pytest.mark.parametrize("synthetic", [False, True])
def test_annotations_match_the_texts(large, synthetic):
    sentences = rows(large.synthetic if synthetic else large.train)
    for sentence in sentences:
        for entity in sentence["entities"]:
            assert entity["text"] == sentence["text"][entity["start"]:entity["end"]]
    entity_rows, pos_rows = (rows(large.annotation(mode, synthetic)) for mode in ("entity", "pos"))
    for sentence, found, words in zip(sentences, entity_rows, pos_rows, strict=True):
        assert found["id"] == words["id"] == sentence["id"]
        assert found["text"] == words["text"] == sentence["text"]
        assert "".join(item["word"] for item in words["items"]) == "".join(sentence["text"])
        assert all(json.loads(row["reply"]) == row["items"] for row in (found, words))


def test_gold_entities_are_those_of_the_small_run(large, run, modules):
    small = list(modules["scale_data"].read_train(run))
    wanted = [[entity["entity"] for entity in row["entities"]] for row in small]
    found = [[entity["entity"] for entity in row["entities"]] for row in rows(large.train)]
    assert found == [wanted[n % len(wanted)] for n in range(100)]


def test_the_same_rows_give_the_same_bytes(large, base, modules, tmp_path):
    again = modules["scale_data"].RunPaths(tmp_path, "large", "run")
    modules["scale_data"].write_large(base, again, 100)
    for path in sorted(large.dataset.rglob("*.jsonl")):
        assert path.read_bytes() == (again.dataset / path.relative_to(large.dataset)).read_bytes()


def test_without_the_ledger_no_stored_replies_are_written(base, modules, tmp_path):
    paths = modules["scale_data"].RunPaths(tmp_path, "large", "run")
    modules["scale_data"].write_large(base, paths, 20, journals=False)
    assert not list(paths.journals.glob("*.jsonl")) and len(rows(paths.synthetic)) == 20


# --- against a simulated model ----------------------------------------------------------------------------------------

def test_the_simulated_model_lists_itself_and_answers(modules):
    with modules["scale_llm"].simulated_model(0.0) as url:
        listed = json.load(urllib.request.urlopen(f"{url}/models", timeout=10))
        body = json.dumps({"model": "simulated", "messages": [{"role": "user", "content": "x" * 100_000}]}).encode()
        answers = [json.load(urllib.request.urlopen(f"{url}/chat/completions", body, timeout=10)) for _ in range(2)]
    assert [row["id"] for row in listed["data"]] == ["simulated"]
    assert all(answer["choices"][0]["message"]["content"] == "[]" for answer in answers)


def test_engine_figures_follow_from_each_other(small):
    done = scale("--json", "--llm", "--flat", "--rows", 40, "--delay", 0.05, "--concurrency", 4, *small)
    assert done.returncode == 0, done.stderr
    engine, driver = json.loads(done.stdout)
    assert (engine["engine"], engine["workers"], engine["rows"]) == ("local", 1, 40)
    least = 40 * 0.05 / 4
    assert engine["wall_s"] > least
    assert engine["overhead_ms"] == pytest.approx(1000 * (engine["wall_s"] - engine["start_s"] - least) / 40, abs=0.6)
    assert isinstance(engine["cpu_ms"], float)  # a difference, which other programs can make negative at this size
    assert driver["rows"] == 40 and driver["peak_mb"] > 20


# --- the arithmetic of docs/scaling.md --------------------------------------------------------------------------------

def test_tokens_are_counted_for_every_question_of_a_run(small, run):
    pytest.importorskip("tokenizers")
    done = subprocess.run([sys.executable, str(SCRIPT.with_name("scale_tokens.py")), "--json", *small], capture_output=True,
                          text=True, timeout=120, env=environment())
    assert done.returncode == 0, done.stderr
    found = {row.pop("questions"): row for row in json.loads(done.stdout)}
    assert list(found) == ["s1 entity", "s1 pos", "s2", "s3 entity", "s3 pos"]
    sentences, synthetic = rows(run.train), rows(run.synthetic)
    assert found["s1 pos"]["number"] == len(sentences) and found["s3 pos"]["number"] == len(synthetic)
    assert found["s2"]["number"] == sum(bool(row["entities"]) for row in sentences)
    replies = [row["reply"] for row in rows(run.annotation("pos", True))]
    assert found["s3 pos"]["reply_characters"] == pytest.approx(sum(map(len, replies)) / len(replies), abs=0.06)
    for row in found.values():
        assert 0 < row["shared_tokens"] < row["prompt_tokens"] < 3 * row["prompt_characters"] and row["reply_tokens"] > 0


def test_the_benchmarks_take_the_flags_that_the_document_gives_them(modules):
    lines = (ROOT / "docs" / "scaling.md").read_text(encoding="utf-8").splitlines()
    commands = [shlex.split(line, comments=True)[1:] for line in lines if line.startswith("python benchmarks/")]
    assert {command[0] for command in commands} == {"benchmarks/scale.py", "benchmarks/scale_tokens.py"}
    for command in commands:
        assert (ROOT / command[0]).is_file()
        if command[0].endswith("scale.py"):
            modules["scale"].parse(command[1:])
