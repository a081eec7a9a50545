"""The Ray engine on a real cluster of two nodes: the files of a run are those of one process; see test_ray_faults.py."""

from __future__ import annotations

import asyncio
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
from child import OFFLINE, last_line, prepared, run_child
from fault_server import Fault, FaultServer
from hypothesis import given
from hypothesis import strategies as st
from pipeline import NAME, all_bytes, sentence, write_dataset, write_rows
from ray_help import cluster_of_two, stored

from syn_pipelines.utils.errors import UserError
from syn_pipelines.utils.llm.ray_desk import Desk, Shape
from syn_pipelines.utils.options import EngineOptions, ray_address, worker_numbers

ray_installed = pytest.mark.skipif(not pytest.importorskip("importlib.util").find_spec("ray"),
                                   reason="needs Ray (pip install 'syn_pipelines[ray]')")
LLM_STEPS = [("s1_predict_data", {"mode": "entity"}), ("s1_predict_data", {"mode": "pos"}), ("s2_continous_generation", {}),
             ("s3_predict_syn_data", {"mode": "entity"}), ("s3_predict_syn_data", {"mode": "pos"})]


@pytest.fixture(scope="module")
def cluster():
    with cluster_of_two() as made:
        yield made


@pytest.fixture(scope="module")
def connection(cluster):
    """This process is connected, as a notebook may be; the steps use that."""
    import ray

    from syn_pipelines.utils.llm.ray_cluster import PACKAGE

    ray.cloudpickle.register_pickle_by_value(sys.modules[__name__])  # the nodes do not have this file
    ray.init(address=cluster.address, log_to_driver=False, logging_level="ERROR", runtime_env={"py_modules": [str(PACKAGE)]})
    yield cluster
    ray.shutdown()


def main(script: str, **flags) -> object:
    import importlib

    return importlib.import_module(f"syn_pipelines.{script}").main(cmd_args=False, **flags)


def both(tmp_path: Path, steps, **more) -> tuple[dict[str, bytes], dict[str, bytes]]:
    """The files of the steps by one process, then in the same place by Ray."""
    files = []
    for engine in ("local", "ray"):
        for script, flags in steps:
            main(script, file_dir=str(tmp_path), file_name=NAME, engine=engine, **flags, **(more if engine == "ray" else {}))
        run = tmp_path / NAME / "GLM4"
        files.append(all_bytes(run))
        run.rename(tmp_path / f"by-{engine}")
    return files[0], files[1]


@ray_installed
@pytest.mark.timeout(300)
def test_the_files_of_the_steps_that_ask_are_those_of_one_process(connection, tmp_path):
    write_dataset(tmp_path)
    alone, by_ray = both(tmp_path, [(script, {**flags, **OFFLINE}) for script, flags in LLM_STEPS], num_workers="1-2")
    assert len(alone) == 10 and by_ray == alone
    for name in ("entity_train_1000", "train_1000_synthetic"):
        lines = [path / ".journal" / f"{name}.jsonl" for path in (tmp_path / "by-local", tmp_path / "by-ray")]
        first, second = (sorted(path.read_bytes().splitlines()) for path in lines)
        assert first == second


@ray_installed
def test_a_script_finds_the_cluster_says_what_it_has_and_is_quiet_otherwise(cluster, tmp_path):
    write_dataset(tmp_path)
    result = run_child("s1_predict_data", {"file_dir": tmp_path, "file_name": NAME, **OFFLINE, "engine": "ray",
                                           "ray_address": cluster.address, "num_workers": 3, "cpus_per_worker": 2})
    assert result.returncode == 0 and result.stdout == ""
    assert (f"Ray cluster at {cluster.address}: 2 nodes, 4 CPUs, 0 GPUs; 3 workers of 2 CPU and 0 GPU, of which 2 fit at once"
            in result.stderr.splitlines())
    assert not [line for line in result.stderr.splitlines() if "ray" in line.lower() and "Ray cluster" not in line
                and "engine=ray" not in line]
    assert sorted(stored(tmp_path), key=int) == [str(n) for n in range(1, 13)]


@ray_installed
@pytest.mark.slow
def test_more_workers_are_started_while_there_is_work_for_them(connection, tmp_path):
    """Up to three clients with one request each at once; the server is slow until there are two."""
    write_dataset(tmp_path)
    write_rows(tmp_path / NAME / "train_1000.jsonl", [sentence(f"张三第{n}次去北京") for n in range(120)])
    with FaultServer(faults=lambda number, body: Fault(hang_s=1.0 if server.most_at_once < 2 else 0.05)) as server:
        main("s1_predict_data", file_dir=str(tmp_path), file_name=NAME, base_url=server.url, model_from_pretrained="tiny",
             concurrency=1, constraint="none", engine="ray", num_workers="1-3", lang="zh")
        assert 1 < server.most_at_once <= 3
    assert len(stored(tmp_path)) == len(set(stored(tmp_path))) == 120


# --- the desk alone ----------------------------------------------------------------------------------------------------

def at_desk(story, calls: int = 1):
    async def told():
        return await story(Desk(None, Shape(1, 2, 1, 0, calls)))

    return asyncio.run(told())


def test_a_block_that_waits_for_a_worker_that_dies_is_given_again():
    """Of two calls one waits until the other has done with a row that kills the worker."""
    async def story(desk):
        desk._lone.add(desk._add([(0, "deadly")]))
        await desk.give([(1, "a"), (2, "b")], last=True)
        await desk.hello("first", "actor", "node")
        deadly, other = await desk.next_block(0), await desk.next_block(1)
        assert await desk.begin("first", "actor", "node", deadly) == [(0, "deadly")]
        waits = asyncio.ensure_future(desk.begin("first", "actor", "node", other))
        await asyncio.sleep(0)
        await desk.hello("second", "actor", "node")
        assert await asyncio.wait_for(waits, 5) == []
        await desk.beat("second", True)
        desk._give_again(time.monotonic() + 60)
        while desk._todo:
            block = await desk.next_block(desk._read)
            rows = await asyncio.wait_for(desk.begin("second", "actor", "node", block), 5)
            await desk.told("second", block, rows, [], True)
        assert sorted(n for n, _ in (await desk.take(0, 0.0))["results"]) == [0, 1, 2]

    at_desk(story, calls=2)


def test_a_reader_that_begins_anew_passes_over_what_was_handed_out():
    async def story(desk):
        for n in range(3):
            await desk.give([(n, n)], last=n == 2)
        assert [await desk.next_block(0), await desk.next_block(1)] == [0, 1]
        assert [await desk.next_block(0), await desk.next_block(1), await desk.next_block(2)] == [-1, -1, 2]
        assert await desk.begin("worker", "actor", "node", -1) == []

    at_desk(story)


def test_a_worker_that_is_ended_without_work_is_not_told_as_dead():
    async def story(desk):
        await desk.give([(0, "a")], last=True)
        for name in ("idle", "busy"):
            await desk.hello(name, name, "node")
            await desk.beat(name, True)
        await desk.begin("busy", "busy", "node", await desk.next_block(0))
        desk._bury("idle")
        before = (await desk.take(0, 0.0))["lost"]
        desk._bury("busy")
        return before, (await desk.take(0, 0.0))["lost"]

    assert at_desk(story) == (0, 1)


@pytest.mark.parametrize("actors, ready_before, fails", [(1, False, True), (1, True, True), (8, False, False)])
def test_workers_that_never_get_ready_end_the_run_and_a_node_that_goes_down_does_not(actors, ready_before, fails):
    """Eight that load on a node that dies, and one that dies again and again, also after it had been ready once."""
    async def story(desk):
        if ready_before:
            await desk.hello("ready", "actor 0", "node")
            await desk.beat("ready", True)
        for life in range(4 if actors == 1 else 2):
            for actor in range(actors):
                await desk.hello(f"{actor} {life}", f"actor {actor}", "node")
        return (await desk.take(0, 0.0))["failure"]

    failure = at_desk(story)
    assert bool(failure) == fails and (not fails or "died 3 times before it was ready" in failure[1])


def test_a_worker_that_starts_slowly_is_not_told_as_one_without_room(monkeypatch):
    from types import SimpleNamespace

    from syn_pipelines.utils.llm import ray_pool
    from syn_pipelines.utils.llm.ray_cluster import Cluster, Node

    monkeypatch.setattr(Cluster, "nodes", lambda self: [Node(2.0, 0.0)])
    for free, said in ((1.5, "takes long to start"), (0.0, "no room for a worker of 0.5 CPU")):
        monkeypatch.setitem(sys.modules, "ray", SimpleNamespace(available_resources=lambda free=free: {"CPU": free}))
        assert said in ray_pool.no_room(Cluster("here:1", own=False), Shape(1, 1, 0.5, 0.0))


# --- the pool ----------------------------------------------------------------------------------------------------------

class Echo:
    """Answers with twice the row."""

    local_model, calls = False, 1

    def build(self, gpus):
        return lambda rows: ((place, row * 2) for place, row in enumerate(rows))


@ray_installed
@pytest.mark.parametrize("ordered", [pytest.param(False, marks=pytest.mark.slow), True])
def test_rows_are_read_as_they_are_needed_and_answered_once(ordered, connection):
    from syn_pipelines.utils.llm.ray_pool import Pool

    read, given = 0, 0

    def rows() -> Iterator[int]:
        nonlocal read
        for n in range(2000):
            read += 1
            assert read - given <= 8 * 10
            yield n

    found = []
    for row, answer in Pool(EngineOptions(num_workers="2"), Echo(), block_rows=10, ordered=ordered).answers(rows()):
        assert answer == 2 * row
        given += 1
        found.append(row)
    assert (found if ordered else sorted(found)) == list(range(2000))


@ray_installed
@pytest.mark.timeout(300)
@pytest.mark.slow
def test_predictions_of_step_7_are_those_of_one_process(connection, tmp_path):
    run = prepared(tmp_path, "s6_combine_syn_fusion_label")
    main("train_ner", file_dir=str(tmp_path), file_name=NAME, train="gold", size=1000, max_steps=150, evaluations=1)
    model = run / "ner" / "gold_1000"
    files = []
    for engine in ("local", "ray"):
        main("s7_pred_syn_data", file_dir=str(tmp_path), file_name=NAME, model_from_pretrained=str(model), batch_size=1,
             engine=engine, num_workers="2")
        files.append(all_bytes(run))
        for size in (250, 500, 1000):
            (run / str(size) / f"train_{size}_synthetic_target.jsonl").unlink()
    assert files[0] == files[1]
    assert b'"entity": "PER"' in files[0]["1000/train_1000_synthetic_target.jsonl"]


# --- what cannot be ----------------------------------------------------------------------------------------------------

def refused(folder: Path, before: str = "", **flags) -> subprocess.CompletedProcess[str]:
    write_dataset(folder)
    result = run_child("s1_predict_data", {"file_dir": folder, "file_name": NAME, **OFFLINE, "engine": "ray", **flags}, before=before)
    assert result.returncode == 2 and "Traceback" not in result.stderr and stored(folder) == []
    return last_line(result.stderr)


@ray_installed
@pytest.mark.slow
def test_a_worker_that_fits_nowhere_is_told_with_the_numbers(tmp_path):
    said = refused(tmp_path, ray_address="local", gpus_per_worker=1000, cpus_per_worker=0.5)
    assert "no room for a worker of 0.5 CPU and 1000 GPU" in said and "the largest node has" in said
    assert "--gpus_per_worker" in said


@ray_installed
def test_a_machine_that_is_too_busy_to_start_a_cluster_is_told(tmp_path):
    """Ray raises an Exception of no other class when its node is not there after 30 s."""
    late = ("import ray\ndef init(**_):\n    raise Exception('The current node timed out during startup.')\nray.init = init\n")
    said = refused(tmp_path, before=late, ray_address="local")
    assert "cannot be started: The current node timed out during startup. Run the same command again" in said


@ray_installed
@pytest.mark.parametrize("address", ["127.0.0.1:9", "ray://127.0.0.1:9"])
def test_an_address_where_no_cluster_is_is_told_at_once(address, tmp_path):
    assert f"--ray_address={address}: no Ray cluster can be reached there" in refused(tmp_path, ray_address=address)


@ray_installed
def test_an_address_where_no_cluster_is_costs_no_stored_reply(tmp_path):
    write_dataset(tmp_path)
    flags = {"file_dir": tmp_path, "file_name": NAME, **OFFLINE}
    assert run_child("s1_predict_data", flags).returncode == 0
    before = stored(tmp_path)
    result = run_child("s1_predict_data", {**flags, "engine": "ray", "ray_address": "127.0.0.1:9", "overwrite": 1})
    assert result.returncode == 2 and "no Ray cluster can be reached there" in last_line(result.stderr)
    assert before and stored(tmp_path) == before


def test_without_ray_the_command_that_installs_it_is_named(tmp_path):
    hidden = ("import importlib.util\nreal = importlib.util.find_spec\n"
              "importlib.util.find_spec = lambda name, *more: None if name == 'ray' else real(name, *more)\n")
    said = refused(tmp_path, before=hidden)
    assert "--engine=ray needs the package ray" in said and "pip install 'syn_pipelines[ray]'" in said


@pytest.mark.parametrize("value, good", [
    ("auto", True), ("1", True), ("4", True), ("1-8", True), ("8-8", True), ("8-1", False), ("0", False), ("-1", False),
    ("1-", False), ("many", False), ("1.5", False), ("", False)])
def test_numbers_of_workers(value, good):
    assert (worker_numbers(value) == "") == good


@pytest.mark.parametrize("value, good", [
    ("auto", True), ("local", True), ("head:6379", True), ("ray://10.0.0.1:10001", True), ("head", False), ("http://head:1", False),
    ("ray://", False), ("ray://a:b@head:1", False), ("", False)])
def test_addresses_of_clusters(value, good):
    assert (ray_address(value) == "") == good


@given(st.text())
def test_any_text_is_an_address_or_not(value):
    assert isinstance(ray_address(value), str) and isinstance(worker_numbers(value), str)


def test_the_engine_is_in_no_manifest_and_no_command(undisturbed, tmp_path):
    """So that a run may be gone on with by the other engine."""
    from syn_pipelines.s1_predict_data import Options
    from syn_pipelines.utils.annotate import renewal

    given = Options(engine="ray", ray_address="local", num_workers="2-3", gpus_per_worker=0.5, cpus_per_worker=2.0)
    assert renewal(given, tmp_path / "x.jsonl") == renewal(Options(), tmp_path / "x.jsonl")
    with pytest.raises(UserError, match="num_workers"):
        from syn_pipelines.utils.options import load_options

        load_options(Options, False, {"num_workers": "none"})
