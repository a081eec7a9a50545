"""The Ray engine on a real cluster of two nodes: workers, nodes and the driver are killed, rows kill their workers."""

from __future__ import annotations

import os
import signal
from pathlib import Path

import pytest
from child import environment, last_line, run_child, start_child
from fault_server import Fault, FaultServer
from pipeline import NAME, all_bytes, read_rows, sentence, write_dataset, write_rows
from ray_help import (
    DEADLY,
    NODE,
    build_fragile_model,
    cluster_of_two,
    kill,
    stored,
    wait_for,
    workers,
)
from tiny_models import build_tiny_model

pytest.importorskip("ray", reason="needs Ray (pip install 'syn_pipelines[ray]')")
pytest.importorskip("pyarrow", reason="needs ray[data] (pip install 'syn_pipelines[ray]')")

ROWS = 40
ANSWER = '[{"entity": "张三", "type": "人名"}]'
DELAY_S = 0.3


@pytest.fixture(scope="module")
def cluster():
    with cluster_of_two() as made:
        yield made


def slow(number, body):
    return Fault(hang_s=DELAY_S)


def data_set(folder: Path) -> None:
    """More sentences, so that there is a middle."""
    write_dataset(folder)
    write_rows(folder / NAME / "train_1000.jsonl", [sentence(f"张三在北京第{n}次见到李四") for n in range(ROWS)])


def served(folder: Path, server: FaultServer, **more) -> dict[str, object]:
    return {"file_dir": folder, "file_name": NAME, "base_url": server.url, "model_from_pretrained": "tiny", "lang": "zh",
            "constraint": "none", "concurrency": 2, **more}


def on(cluster, **more) -> dict[str, object]:
    return {"engine": "ray", "ray_address": cluster.address, "num_workers": 2, "cpus_per_worker": 1, **more}


def asked_about(server: FaultServer) -> int:
    return sum("见到" in content for content in server.asked)


@pytest.fixture
def local(tmp_path):
    """The files of a run by one process, in the same place as the other one will be: manifests tell the place."""
    with FaultServer(answer=lambda body: ANSWER) as server:
        data_set(tmp_path)
        result = run_child("s1_predict_data", served(tmp_path, server))
    assert result.returncode == 0, result.stderr
    run = tmp_path / NAME / "GLM4"
    files = {name: content.replace(server.url.encode(), b"URL") for name, content in all_bytes(run).items()}
    run.rename(tmp_path / "local")
    return files


def files_of(folder: Path, server: FaultServer) -> dict[str, bytes]:
    return {name: content.replace(server.url.encode(), b"URL") for name, content in all_bytes(folder / NAME / "GLM4").items()}


def each_once(folder: Path) -> None:
    names = stored(folder)
    assert len(names) == len(set(names)) == ROWS


def test_a_worker_that_is_killed_in_the_middle_costs_nothing(cluster, local, tmp_path):
    """The only one, so that it has rows in hand."""
    with FaultServer(answer=lambda body: ANSWER, faults=slow) as server:
        process = start_child("s1_predict_data", served(tmp_path, server, **on(cluster, num_workers=1)))
        wait_for(lambda: len(stored(tmp_path)) >= 5, process)
        kill([wait_for(lambda: [pid for node in cluster.list_all_nodes() for pid in workers(node)], process)[0]])
        _, said = process.communicate(timeout=120)
        assert process.returncode == 0, said
        assert "a Ray worker has died (1 by now)" in said and "Traceback" not in said
        assert files_of(tmp_path, server) == local
    each_once(tmp_path)


@pytest.mark.slow
def test_a_node_that_dies_in_the_middle_costs_nothing(cluster, local, tmp_path):
    node = cluster.add_node(num_cpus=2, resources={"doomed": 1}, **NODE)
    with FaultServer(answer=lambda body: ANSWER, faults=slow) as server:
        process = start_child("s1_predict_data", served(tmp_path, server, **on(cluster, num_workers=6)))
        wait_for(lambda: len(stored(tmp_path)) >= 3 and workers(node), process)
        cluster.remove_node(node, allow_graceful=False)
        _, said = process.communicate(timeout=120)
        assert process.returncode == 0, said
        assert "Traceback" not in said
        assert files_of(tmp_path, server) == local
    each_once(tmp_path)


@pytest.mark.parametrize("number, code", [(signal.SIGKILL, -9), pytest.param(signal.SIGINT, 130, marks=pytest.mark.slow),
                                          pytest.param(signal.SIGTERM, 143, marks=pytest.mark.slow)])
def test_a_driver_that_is_stopped_goes_on_with_what_is_stored(number, code, cluster, local, tmp_path):
    with FaultServer(answer=lambda body: ANSWER, faults=slow) as server:
        flags = served(tmp_path, server, **on(cluster))
        process = start_child("s1_predict_data", flags)
        wait_for(lambda: len(stored(tmp_path)) >= 5, process)
        process.send_signal(number)
        _, said = process.communicate(timeout=60)
        assert process.returncode == code and "Traceback" not in said, said
        if number != signal.SIGKILL:
            assert "what is finished is kept; the same command goes on from there" in last_line(said)
        wait_for(lambda: not any(workers(node) for node in cluster.list_all_nodes()))
        before = set(stored(tmp_path))
        assert 5 <= len(before) < ROWS
        server.faults = lambda number, body: None
        asked = asked_about(server)
        result = run_child("s1_predict_data", flags)
        assert result.returncode == 0, result.stderr
        assert asked_about(server) - asked == ROWS - len(before)
        assert files_of(tmp_path, server) == local
    each_once(tmp_path)


@pytest.mark.slow
def test_a_cluster_of_the_runs_own_ends_with_it_when_it_is_killed(tmp_path):
    data_set(tmp_path)
    with FaultServer(answer=lambda body: ANSWER, faults=slow) as server:
        process = start_child("s1_predict_data", served(tmp_path, server, engine="ray", ray_address="local"))
        wait_for(lambda: len(stored(tmp_path)) >= 2, process)
        started = descendants(process.pid)
        assert len(started) >= 3
        process.kill()
        process.wait()
        process.stdout.close()
        process.stderr.close()
        wait_for(lambda: not any(is_alive(pid) for pid in started))


def descendants(pid: int) -> list[int]:
    parents = {}
    for status in Path("/proc").glob("[0-9]*/stat"):
        try:
            parents[int(status.parent.name)] = int(status.read_text().rpartition(")")[2].split()[1])
        except (OSError, ValueError):
            continue
    found, last = [], [pid]
    while last:
        last = [child for child, parent in parents.items() if parent in last]
        found += last
    return found


def is_alive(pid: int) -> bool:
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    except OSError:
        return False


# --- rows and models that kill their worker -----------------------------------------------------------------------------

MODEL = {"file_name": NAME, "mode": "pos", "reply_format": "inline", "constraint": "none", "trust_remote_code": 1}


def test_a_sentence_that_kills_every_worker_is_marked_as_failed_and_the_others_are_answered(cluster, tmp_path):
    rows = write_dataset(tmp_path)
    deadly = [row["id"] for row in rows if DEADLY in row["text"]]
    assert len(deadly) == 1
    build_tiny_model("llama", tmp_path / "sound", max_position_embeddings=4096)
    sound = run_child("s1_predict_data", {"file_dir": tmp_path, **MODEL, "save_type_name": "sound",
                                          "model_from_pretrained": tmp_path / "sound"})
    fragile = build_fragile_model(tmp_path / "fragile")
    result = run_child("s1_predict_data", {"file_dir": tmp_path, **MODEL, "save_type_name": "fragile",
                                           "model_from_pretrained": fragile, **on(cluster)})
    assert sound.returncode == result.returncode == 0, result.stderr
    assert "1 the worker died" in result.stderr and "Traceback" not in result.stderr
    found = {row["id"]: row for row in read_rows(tmp_path / NAME / "fragile" / "pos_train_1000.jsonl")}
    expected = {row["id"]: row for row in read_rows(tmp_path / NAME / "sound" / "pos_train_1000.jsonl")}
    assert found[deadly[0]]["status"] == "failed" and found[deadly[0]]["reason"].startswith("the worker died: 3 times")
    assert {name: row for name, row in found.items() if name not in deadly} == {
        name: row for name, row in expected.items() if name not in deadly}


@pytest.mark.slow
def test_workers_that_die_while_they_load_the_model_end_the_run(cluster, tmp_path):
    write_dataset(tmp_path)
    model = build_fragile_model(tmp_path / "model", at_start=True)
    result = run_child("s1_predict_data", {"file_dir": tmp_path, **MODEL, "model_from_pretrained": model, **on(cluster)})
    assert result.returncode == 1 and "Traceback" not in result.stderr
    assert "a Ray worker died 3 times before it was ready" in last_line(result.stderr)
    assert stored(tmp_path, "pos_train_1000") == []


@pytest.mark.slow
def test_what_a_worker_cannot_load_is_told_as_by_one_process(cluster, tmp_path):
    write_dataset(tmp_path)
    model = build_tiny_model("llama", tmp_path / "model")
    weights = model / "model.safetensors"
    weights.write_bytes(weights.read_bytes()[:1000])
    flags = {"file_dir": tmp_path, **MODEL, "model_from_pretrained": model}
    alone = run_child("s1_predict_data", flags)
    result = run_child("s1_predict_data", {**flags, **on(cluster)})
    assert result.returncode == alone.returncode == 2
    assert last_line(result.stderr) == last_line(alone.stderr)


@pytest.mark.slow
def test_a_server_that_goes_away_stops_the_run_as_with_one_process(cluster, tmp_path):
    data_set(tmp_path)
    gone = Fault(500, "gone")
    with FaultServer(answer=lambda body: ANSWER, faults=lambda n, body: gone if n > 12 else None) as server:
        result = run_child("s1_predict_data", served(tmp_path, server, **on(cluster)))
        assert result.returncode == 1 and "Traceback" not in result.stderr, result.stderr
        assert last_line(result.stderr).startswith("stopped: ") and "tries in a row failed" in last_line(result.stderr)
        assert {row["finish_reason"] for row in read_rows(tmp_path / NAME / "GLM4" / ".journal" / "entity_train_1000.jsonl")[1:]
                } == {"stop"}
        server.faults = lambda n, body: None
        result = run_child("s1_predict_data", served(tmp_path, server, **on(cluster)))
        assert result.returncode == 0, result.stderr
    each_once(tmp_path)


def test_a_key_that_only_the_driver_has_is_asked_for_and_never_sent(cluster, tmp_path):
    data_set(tmp_path)
    key = "sk-only-here-5f8e2a7d91c3"
    with FaultServer(answer=lambda body: ANSWER, key=key) as server:
        process = start_child("s1_predict_data", served(tmp_path, server, **on(cluster)), OPENAI_API_KEY=key)
        said = "".join(process.communicate(timeout=120))
    assert process.returncode == 2, said
    assert "OPENAI_API_KEY is set where this was started, and not in the Ray worker on" in last_line(said)
    logs = Path(cluster.head_node.get_session_dir_path())
    for path in [*logs.rglob("*"), *tmp_path.rglob("*")]:
        if path.is_file() and not path.is_symlink():
            assert key.encode() not in path.read_bytes(), path
    assert key not in said


@pytest.mark.slow
def test_a_cluster_of_the_runs_own_has_the_key_and_no_file_of_it(tmp_path):
    data_set(tmp_path)
    key = "sk-of-everybody-77b1c0ffee"
    with FaultServer(answer=lambda body: ANSWER, key=key) as server:
        process = start_child("s1_predict_data", served(tmp_path, server, engine="ray", ray_address="local"), OPENAI_API_KEY=key,
                              RAY_TMPDIR=str(Path("/tmp") / f"ray-key-{os.getpid()}"))
        said = "".join(process.communicate(timeout=120))
    assert process.returncode == 0, said
    folders = [tmp_path, Path("/tmp") / f"ray-key-{os.getpid()}"]
    files = [path for folder in folders for path in folder.rglob("*") if path.is_file() and not path.is_symlink()]
    assert any("raylet" in path.name for path in files)
    assert not [path for path in files if key.encode() in path.read_bytes()]
    assert environment().get("OPENAI_API_KEY") is None and key not in said
