"""The tool that kills whole runs: what it finds in ours (nothing), and that it would find what it looks for."""

from __future__ import annotations

import hashlib
import json
import os
import random
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
from fault_server import FaultServer
from hypothesis import given, settings
from hypothesis import strategies as st
from workspace import ROOT, make_workspace, shell, tree_bytes

from syn_pipelines import UserError
from syn_pipelines.tools import chaos
from syn_pipelines.tools._chaos_child import KINDS, TIME, WEIGHTS, WEIGHTS_BYTES, Order
from syn_pipelines.tools._chaos_compare import MARK, Replies, Torn, differences
from syn_pipelines.tools._chaos_points import draw, more
from syn_pipelines.utils.journal import lock
from syn_pipelines.utils.options import load_options
from syn_pipelines.utils.paths import RunPaths

pytestmark = pytest.mark.timeout(1800)
SCRIPTS = {"s1_predict_data", "s2_continous_generation", "s3_predict_syn_data", "s4_split_data", "s5_merge_data",
           "s6_combine_syn_fusion_label", "train_ner", "s7_pred_syn_data", "s8_process_label_and_combine"}
TOOL = "python -m syn_pipelines.tools.chaos --backend=offline"


@pytest.fixture
def small(tmp_path) -> Path:
    """A workspace with a handful of sentences."""
    return make_workspace(tmp_path / "project", train=8, held_out=2)


def killed(workspace: Path, flags: str) -> tuple[subprocess.CompletedProcess[str], dict]:
    """The tool as a command, and what it printed with --json."""
    result = shell(f"{TOOL} --json {flags}", workspace)
    assert result.stdout, result.stderr
    return result, json.loads(result.stdout)


def check_kept(result: subprocess.CompletedProcess[str], report: dict, kills: int) -> None:
    assert (report["problems"], result.returncode) == ([], 0), result.stderr
    assert (report["kills"], report["identical"], report["lost"], report["repeated_calls"]) == (kills, True, 0, 0)
    assert len(report["points"]) == kills and report["files"] > 90


# --- our own pipeline ----------------------------------------------------------------------------------------------

@pytest.fixture(scope="module")
def sample(tmp_path_factory) -> Path:
    """A workspace with the whole sample."""
    return make_workspace(tmp_path_factory.mktemp("chaos"), name="sample_zh", train=367, held_out=84)


@pytest.fixture(scope="module")
def survived(sample):
    """The sample's run after 20 kills, and the report on it."""
    result, report = killed(sample, "--file_name=sample_zh --save_type_name=killed --max_steps=2 --kills=20 --seed=3")
    return sample / "data" / "few_shot" / "sample_zh" / "killed", result, report


def test_killed_twenty_times_all_over_the_pipeline_nothing_is_lost_repeated_or_different(survived):
    run, result, report = survived
    check_kept(result, report, 20)
    assert len({point["step"].split()[0] for point in report["points"]} & SCRIPTS) >= 7
    assert len({point["kind"] for point in report["points"]}) >= 7
    assert not (run / MARK).exists() and not list(run.rglob("*.part")) and not list(run.rglob("*.checkpoint"))
    assert result.stderr.count("\nkill ") == 20


def test_a_run_folder_that_holds_something_is_refused_and_left_as_it_is(survived):
    run = survived[0]
    before = tree_bytes(run)
    result = shell(f"{TOOL} --file_name=sample_zh --save_type_name=killed", run.parents[3])
    assert result.returncode == 2 and "Traceback" not in result.stderr
    assert "killed: is not empty" in result.stderr and "--save_type_name" in result.stderr
    assert tree_bytes(run) == before


def test_the_killed_run_is_complete_for_run_all(survived):
    run = survived[0]
    before = tree_bytes(run)
    result = shell("python syn_pipelines/run_all.py --file_name=sample_zh --save_type_name=killed --backend=offline --seed=3 "
                   "--max_steps=2", run.parents[3])
    assert result.returncode == 0 and "Nothing to do" in result.stdout
    assert tree_bytes(run) == before


@pytest.mark.slow
@pytest.mark.timeout(7200)
def test_killed_two_hundred_times_nothing_is_lost_repeated_or_different(sample):
    result, report = killed(sample, "--file_name=sample_zh --save_type_name=often --max_steps=10 --kills=200 --seed=1")
    check_kept(result, report, 200)
    assert {point["step"].split()[0] for point in report["points"]} >= SCRIPTS
    assert {point["kind"] for point in report["points"]} == set(KINDS)


def served_answer(body: dict) -> str:
    """A function of the request: no labels, or three sentences that stand in no other answer."""
    asked = body["messages"][-1]["content"]
    number = int(hashlib.sha256(asked.encode()).hexdigest()[:6], 16)
    if "JSON" in asked:
        return "[]"
    return "".join(f"第{number + k}天，他们在城里的一家小店见面，谈了很久才回家。" for k in range(3))


@pytest.mark.slow
def test_a_served_model_that_answers_out_of_order_is_asked_nothing_twice_either(small):
    pytest.importorskip("openai", reason="needs the package openai (see requirements.txt)")
    with FaultServer(answer=served_answer) as server:
        result = shell(f"python -m syn_pipelines.tools.chaos --json --file_name=weibo --backend=openai --base_url={server.url} "
                       "--model_from_pretrained=tiny --concurrency=4 --max_steps=1 --kills=12", small)
    check_kept(result, json.loads(result.stdout), 12)
    assert server.most_at_once > 1


# --- a pipeline that breaks its promises ----------------------------------------------------------------------------

BROKEN = """
import os, sys
from pathlib import Path
from syn_pipelines.tools import _chaos_child
from syn_pipelines.utils import annotate
from syn_pipelines.utils.journal import Journal

what = sys.argv.pop(1).split("+")
order = _chaos_child.Order.read(sys.argv[1])

def copied(source, target):
    content = Path(source).read_bytes()
    with open(target, "wb") as new:
        for k in range(4):
            new.write(content[k * len(content) // 4:(k + 1) * len(content) // 4])
            new.flush()
    os.unlink(source)

def held_back(journal, entry):
    journal.__dict__.setdefault("held", []).append(dict(entry))

def stored(journal):
    for entry in journal.__dict__.pop("held", []):
        append(journal, entry)
    refuse_gone(journal)

def all_but_the_last(*args):
    return iter(list(rows(*args))[:-1])

if "buffers" in what:
    append, refuse_gone = Journal.append, lambda journal: None
    Journal.append, Journal.refuse_gone = held_back, stored
if "manifests" in what:
    replace = os.replace
    os.replace = lambda source, target: (copied if str(target).endswith(".manifest.json") else replace)(source, target)
if "copies" in what:
    os.replace = copied
if "drops" in what and not order.counts:
    for path in Path(order.root).glob(".journal/*.jsonl"):
        lines = path.read_bytes().splitlines(keepends=True)
        path.write_bytes(b"".join(lines[:1] + lines[2:]))
if "forgets" in what and not order.counts:
    rows, annotate._rows = annotate._rows, all_but_the_last
if "leaves" in what and not order.counts:
    Path(order.root, ".left.part").write_bytes(b"")
if "hollows" in what and not order.counts:
    Path(order.root, ".left").mkdir(exist_ok=True)
if "stumbles" in what and not order.counts and Path(order.root, ".journal", "pos_train_1000.jsonl").exists():
    sys.exit("no more")
_chaos_child.main()
"""
DRIVER = """
import sys
from syn_pipelines.tools import _chaos_run, chaos
from syn_pipelines.utils.summary import run_script
_chaos_run.CHILD = (sys.argv.pop(1), sys.argv.pop(1))
run_script(chaos.command)
"""


def broken(folder: Path, what: str, flags: str) -> tuple[subprocess.CompletedProcess[str], dict]:
    """The tool at work on a pipeline that breaks promises, on a handful of sentences."""
    workspace = make_workspace(folder / "project", train=8, held_out=2)
    for name, text in (("broken.py", BROKEN), ("driver.py", DRIVER)):
        (workspace / name).write_text(text, encoding="utf-8")
    result = shell(f"python driver.py broken.py {what} --backend=offline --file_name=weibo --save_type_name=run --max_steps=1 "
                   f"--json {flags}", workspace, PYTHONPATH=str(ROOT), TMPDIR=str(folder))
    assert result.stdout, result.stderr
    return result, json.loads(result.stdout)


def check_found(what: str, report: dict) -> None:
    """The report names what this breach does."""
    problems = "\n".join(report["problems"])
    if what in ("copies", "manifests"):
        assert "was torn by a kill after byte" in problems
    if what == "buffers":
        assert report["repeated_calls"] > 0 and "was asked again although it was finished" in problems
    if what == "drops":
        assert report["repeated_calls"] > 0 and ".journal/entity_train_1000.jsonl: 1 was asked again" in problems
    if what == "forgets":
        assert not report["identical"] and "\nentity_train_1000.jsonl: differs from byte" in "\n" + problems
    if what == "leaves":
        assert not report["identical"] and ".left.part: is left over" in problems
    if what == "hollows":
        assert not report["identical"] and ".left/: is left over, an empty folder" in problems
    if what == "stumbles":
        assert not report["identical"] and "the same command ended with exit code 1: no more" in problems


def test_what_a_broken_pipeline_does_is_found_and_named(tmp_path):
    result, report = broken(tmp_path, "copies+drops+forgets+leaves", "--kills=6 --seed=28")
    assert result.returncode == 1 and report["kills"] == 6
    for what in ("copies", "drops", "forgets", "leaves"):
        check_found(what, report)
    kept = list(tmp_path.glob("chaos-*/data/weibo/run/entity_train_1000.jsonl"))
    assert kept and kept[0].read_bytes() != (tmp_path / "project/data/few_shot/weibo/run" / kept[0].name).read_bytes()


@pytest.mark.slow
@pytest.mark.parametrize("what", ["copies", "manifests", "drops", "buffers", "forgets", "leaves", "hollows", "stumbles"])
def test_each_breach_alone_is_enough(tmp_path, what):
    result, report = broken(tmp_path, what, "--kills=20 --seed=18")
    assert result.returncode == 1
    check_found(what, report)


# --- mistakes and stops ----------------------------------------------------------------------------------------------

@pytest.mark.parametrize(("flags", "message"), [
    ("--file_name=nowhere", "there is no such data set"),
    ("--file_name=weibo --kills=0", "must be at least 1"),
    ("--file_name=weibo --overwrite", "--overwrite: chaos starts the same command again"),
    ("--file_name=weibo --retry_failed --dry_run", "--retry_failed, --dry_run"),
    ("--file_name=weibo --label_prefix='a b'", "label_prefix"),
    ("--file_name=weibo --wrong=1", "unknown argument '--wrong'"),
])
def test_a_mistake_is_one_line_exit_code_2_and_leaves_nothing_behind(small, flags, message):
    result = shell(f"{TOOL} {flags}", small)
    assert result.returncode == 2 and "Traceback" not in result.stderr
    assert message in result.stderr.splitlines()[-1]
    assert not [path for path in (small / "data" / "few_shot" / "weibo").iterdir() if path.is_dir()]


def is_running(number: str) -> bool:
    """Whether there is such a process, and it has not ended (one that nobody has waited for yet has)."""
    try:
        return Path(f"/proc/{number}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    except OSError:
        return False


def test_stopped_it_takes_its_process_with_it_and_leaves_no_empty_run(small):
    environment = {**os.environ, "TMPDIR": str(small), "OMP_NUM_THREADS": "1"}
    tool = subprocess.Popen([sys.executable, *TOOL.split()[1:], "--file_name=weibo"], cwd=small, env=environment,
                            stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True)
    tool.stderr.readline()  # "the undisturbed run"
    children = Path(f"/proc/{tool.pid}/task/{tool.pid}/children")
    while not (list(small.glob("chaos-*/said")) and (processes := children.read_text().split())):
        time.sleep(0.01)
    tool.send_signal(signal.SIGTERM)
    _, said = tool.communicate()
    while is_running(processes[-1]):  # it was killed; for ever where it was not
        time.sleep(0.01)
    assert tool.returncode == 143 and "Traceback" not in said
    assert not list(small.glob("chaos-*")) and not (small / "data/few_shot/weibo/GLM4").exists()


def test_a_run_that_chaos_left_unfinished_may_be_taken_up_again(small):
    run = small / "data" / "few_shot" / "weibo" / "GLM4"
    (run / "250").mkdir(parents=True)
    opts = load_options(chaos.Options, False, {"file_dir": str(run.parents[1]), "file_name": "weibo"})
    with pytest.raises(UserError, match="GLM4: is not empty"):
        chaos.refuse_used(RunPaths.of(opts), opts, {})
    (run / MARK).write_text("{}")
    chaos.refuse_used(RunPaths.of(opts), opts, {"seed": 9})
    (run / MARK).write_text(json.dumps({"flags": {"max_steps": "20"}}))
    chaos.refuse_used(RunPaths.of(opts), opts, {"file_dir": "elsewhere", "max_steps": 20})
    with pytest.raises(UserError, match="begun with other flags: --seed was not given and is 9"):
        chaos.refuse_used(RunPaths.of(opts), opts, {"max_steps": 20, "seed": 9})


def test_two_of_them_never_work_on_one_run(small):
    run = small / "data" / "few_shot" / "weibo" / "GLM4"
    with lock(run / ".journal", "chaos"):
        (run / MARK).write_text("{}")
        with pytest.raises(UserError, match=f"process {os.getpid()} is at the same work"):
            chaos.main(cmd_args=False, file_dir=str(run.parents[1]), file_name="weibo", backend="offline")
        assert (run / ".journal" / "chaos.lock").exists() and (run / MARK).exists()


@pytest.mark.parametrize(("given", "config", "steps"), [
    ({}, "", 20), ({"max_steps": "7"}, "", "7"), ({"max_steps": -1}, "", -1), ({}, "max_steps: 5\n", None),
    ({}, "train_ner:\n  max_steps: 5\n", None), ({}, "seed: 5\n", 20)])
def test_trainings_are_short_unless_somebody_says_how_long(tmp_path, given, config, steps):
    if config:
        (tmp_path / "run.yaml").write_text(config, encoding="utf-8")
        given = {**given, "config": str(tmp_path / "run.yaml")}
    flags = chaos.flags_of({**given, "kills": 3, "json": True}, load_options(chaos.Options, False, given))
    assert flags.get("max_steps") == steps and not flags.keys() & {"kills", "json"}


# --- where to kill ---------------------------------------------------------------------------------------------------

EVENTS = st.lists(st.tuples(st.integers(0, 4), st.sampled_from([k for k in KINDS if k != TIME]), st.sampled_from("abc"),
                            st.integers(0, 3)), min_size=1, max_size=60).map(
    lambda rows: [(f"step {step}", kind, name, place, 0.5 * k)
                  for k, (step, kind, name, place) in enumerate(sorted(rows, key=lambda row: row[0]))])


@settings(deadline=None)
@given(events=EVENTS, kills=st.integers(1, 100), seed=st.integers(0, 9))
def test_points_are_events_of_their_kind_in_order_and_each_step_has_its_share(events, kills, seed):
    targets = draw(events, kills, random.Random(seed))
    assert targets == draw(events, kills, random.Random(seed)) and len(targets) == kills
    assert [t.index for t in targets] == sorted(t.index for t in targets)
    assert all(t.delay_s >= 0 and (t.kind == TIME or events[t.index][1] == t.kind) for t in targets)
    files: dict[str, set[str]] = {}
    for step, _, name, *_ in events:
        files.setdefault(step, set()).add(name)
    total = sum(len(names) ** 0.5 for names in files.values())
    for step, names in files.items():
        own = [t for t in targets if t.kind != TIME and events[t.index][0] == step]
        assert len(own) < kills * len(names) ** 0.5 / total + 2
    assert 2 * sum(t.kind == TIME for t in targets) <= kills + 1


@settings(max_examples=20, deadline=None)
@given(events=EVENTS, seed=st.integers(0, 9))
def test_points_of_a_complete_run_come_to_its_first_event_before_long(events, seed):
    targets = more(events, random.Random(seed))
    assert [next(targets).index for _ in range(20)][-1] == 0


WRITING = """
import json, os, shutil, sys
from pathlib import Path
from syn_pipelines.tools._chaos_child import Order, Watch, wrap

watch = Watch(Order.read(sys.argv[1]))
wrap(watch)
run = Path(sys.argv[2])
(run / "a").mkdir()
(run / "a" / "one").write_text("12345678")
with (run / "a" / "one").open("ab") as file:
    file.write(b"abcdefgh")
    file.flush()
    os.fsync(file.fileno())
(run / "a" / "one").replace(run / "a" / "two")
os.rename(run / "a" / "two", run / "three")
with open(run / "three", "r+b", opener=lambda name, flags: os.open(name, flags)) as file:
    file.truncate(4)
(run / "three").read_bytes()
(run / "a" / "four").touch()
shutil.rmtree(run / "a")
(run / "three").unlink()
(run.parent / "elsewhere").write_text("-")
if watch.order.counts:
    watch.save()
"""
EVENTS_OF_WRITING = [
    ["folder", "a"], ["half write", "a/one"], ["after write", "a/one"], ["half write", "a/one"], ["after write", "a/one"],
    ["before sync", "a/one"], ["after sync", "a/one"], ["before rename", "a/two"], ["after rename", "a/two"],
    ["before rename", "three"], ["after rename", "three"], ["folder", "a/four"], ["folder", "a"], ["folder", "three"]]


def start_writing(folder: Path, target: int | None, kind: str = "", code: str = WRITING) -> tuple[int, Path, list]:
    """(exit code, run folder, what it told) of a process that is to die at an event, or to count them."""
    run, order = folder / "link" / str(target), folder / "order.json"
    run.mkdir(parents=True)
    reader, writer = os.pipe()
    Order(str(run), str(folder / "trace"), "", writer, target, kind, counts=target is None).write(order)
    done = subprocess.run([sys.executable, "-c", code, str(order), str(run)], cwd=ROOT, pass_fds=(writer,))
    os.close(writer)
    with os.fdopen(reader, "rb") as told:
        return done.returncode, run, [json.loads(line) for line in told]


def test_every_way_to_the_disk_is_counted_and_a_process_dies_exactly_there(tmp_path):
    (tmp_path / "real").mkdir()
    (tmp_path / "link").symlink_to(tmp_path / "real")
    assert start_writing(tmp_path, None)[0] == 0
    assert [event[1:3] for event in json.loads((tmp_path / "trace").read_text())] == EVENTS_OF_WRITING
    left = {1: "a: one 1234", 3: "a: one 12345678abcd", 7: "a: one 12345678abcdefgh", 8: "a: two 12345678abcdefgh", 12: "a: "}
    for target, (kind, name) in enumerate(EVENTS_OF_WRITING):
        code, run, told = start_writing(tmp_path, target, kind)
        assert code == -signal.SIGKILL and told == [{"step": "", "kind": kind, "file": name}]
        if target in left:
            assert left[target] == "a: " + " ".join(f"{p.name} {p.read_text()}" for p in (run / "a").iterdir())


def test_a_process_dies_in_the_middle_of_weights_that_are_written_without_python(tmp_path):
    pytest.importorskip("safetensors.numpy")
    saves = "import numpy, safetensors.numpy\nsafetensors.numpy.save_file({'w': numpy.zeros(1 << 16)}, run / 'weights')\n"
    code = WRITING.replace('(run / "a").mkdir()\n', saves + '(run / "a").mkdir()\n')
    assert start_writing(tmp_path, None, code=code)[0] == 0
    died, run, told = start_writing(tmp_path, 0, WEIGHTS, code)
    assert died in (-signal.SIGXFSZ, -signal.SIGKILL) and told == [{"step": "", "kind": WEIGHTS, "file": "weights"}]
    assert [path.stat().st_size <= WEIGHTS_BYTES for path in run.iterdir()] == [True]


# --- what is compared ------------------------------------------------------------------------------------------------

@pytest.fixture
def two_runs(tmp_path) -> tuple[RunPaths, RunPaths]:
    """The same run in two places, written by hand."""
    pair = RunPaths(tmp_path / "a" / "data", "demo", "run"), RunPaths(tmp_path / "b c'd" / "data", "demo", "run")
    for paths in pair:
        manifest = {"inputs": {os.path.relpath(tmp_path / "labels.json", paths.run): "1", "../train_1000.jsonl": "2"},
                    "command": paths.command("s5_merge_data")}
        write(paths.run / "data.jsonl", '{"id": 1}\n{"id": 2}\n')
        write(paths.run / "data.manifest.json", json.dumps(manifest, indent=2) + "\n")
        write(paths.run / "ner" / "fusion_250.log.jsonl", json.dumps({"step": 1, "sentences_per_s": len(str(paths))}) + "\n")
        write(paths.journals / "data.jsonl", '{"fingerprint": {}}\n{"id": "1"}\n{"id": "2"}\n')
        write(paths.log, f"{paths}\n")
        write(paths.journals / "data.lock", f"{paths}")
    return pair


def write(path: Path, text: str) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(text, encoding="utf-8")


@pytest.mark.parametrize(("file", "text", "found"), [
    ("run.log.jsonl", "other\n", ""),
    (".journal/data.lock", "17", ""),
    (".journal/data.jsonl", '{"fingerprint": {}}\n{"id": "2"}\n{"id": "1"}\n', ""),
    (".journal/data.jsonl", '{"fingerprint": {}}\n{"id": "1"}\n{"id": "3"}\n', ".journal/data.jsonl: differs from byte"),
    ("data.jsonl", '{"id": 1}\n{"id": 3}\n', "data.jsonl: differs from byte 17 on"),
    ("data.jsonl", '{"id": 1}\n', "data.jsonl: differs from byte 10 on"),
    ("data.jsonl.part", "", "data.jsonl.part: is left over"),
    ("ner/.fusion_250.old/config.json", "{}", "ner/.fusion_250.old/config.json: is left over"),
    ("data.manifest.json", "{", "data.manifest.json: differs from byte"),
    ("ner/fusion_250.log.jsonl", '{"step": 1}\n', ""),
    ("ner/fusion_250.log.jsonl", '{"step": 2}\n', "ner/fusion_250.log.jsonl: differs from byte"),
])
def test_what_may_differ_does_and_everything_else_is_named(two_runs, file, text, found):
    reference, real = two_runs
    assert differences(reference, real) == (4, [])
    write(real.run / file, text)
    problems = [str(difference) for difference in differences(reference, real)[1]]
    assert len(problems) == bool(found) and all(problem.startswith(found) for problem in problems)


def test_an_empty_folder_that_is_left_over_is_named(two_runs):
    (two_runs[1].run / "ner" / ".fusion_250.old").mkdir()
    assert [str(found) for found in differences(*two_runs)[1]] == ["ner/.fusion_250.old/: is left over, an empty folder"]


def test_a_missing_file_is_named(two_runs):
    (two_runs[1].run / "data.jsonl").unlink()
    assert [str(difference) for difference in differences(*two_runs)[1]] == ["data.jsonl: is missing"]


def test_half_a_file_under_its_final_name_is_seen_after_the_kill(two_runs):
    torn = Torn(*two_runs)
    assert torn.find() == []
    path = two_runs[1].run / "data.jsonl"
    for text, problems in (('{"id": 1}\n{"id', 1), ("", 1), ('{"id": 1}\n{"id": 2}\n', 0), ('{"id": 4}\n', 0)):
        path.write_text(text)
        os.utime(path, ns=(0, len(text)))
        assert len(torn.find()) == problems and torn.find() == []
    for name, text in (("data.jsonl", '{"id": 7}\n{"id": '), ("data.manifest.json", '{"inputs": {"other'), ("data.manifest.json", "")):
        write(two_runs[1].run / name, text)
        assert [str(found) for found in torn.find()] == [f"{name}: was torn by a kill after byte {len(text)}"]
    write(two_runs[1].run / "data.jsonl.part", "{")
    assert torn.find() == []


def test_replies_that_go_or_change_are_lost_and_requests_of_finished_ones_repeated(two_runs, tmp_path):
    journals = two_runs[1].journals
    replies = Replies(journals)
    replies.look()
    asked = tmp_path / "asked"
    asked.write_text("asked\ts1\t2\nasked\ts1\t3\nasked\tother\t1\n")
    replies.count(asked, {"s1": "data"})
    assert replies.repeated == [("data", "2")] and not replies.lost
    for lines in ("answered\ts1\t7\nanswered\ts1\t8\n", "asked\ts1\t7\nasked\ts1\t8\nasked\ts1\t9\n"):
        asked.write_text(lines)  # the last reply may have been in the middle of being written when the process was killed
        replies.count(asked, {"s1": "data"})
    assert replies.repeated == [("data", "2"), ("data", "7")]
    write(journals / "data.jsonl", '{"fingerprint": {}}\n{"id": "1", "text": "x"}\n{"id": "3"}\n{"id": "3"}\n{"id": "4"')
    replies.look()
    assert replies.lost == {("data", "1"), ("data", "2")}
    assert replies.stand_twice() == [("data", "3")]
    shutil.rmtree(journals)
    replies.look()
    assert ("data", "3") in replies.lost and ("data", "4") not in replies.lost
