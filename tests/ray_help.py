"""A Ray cluster of two nodes on this machine, and the processes in it."""

from __future__ import annotations

import json
import os
import signal
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from pipeline import NAME, read_rows
from tiny_models import build_tiny_model, edit_json

os.environ["RAY_worker_niceness"] = "0"  # Ray's own is 15: beside other tests workers would hardly run
NODE = {"include_dashboard": False, "object_store_memory": 80 * 2**20}

# A model that ends its process when it reads this character, as a bug in a kernel or the system's out-of-memory killer would.
DEADLY = "哈"
_FRAGILE = """
import json, os, pathlib
import torch
from transformers import LlamaConfig, LlamaForCausalLM

class FragileConfig(LlamaConfig):
    model_type = "fragile"

class FragileForCausalLM(LlamaForCausalLM):
    config_class = FragileConfig

    def __init__(self, config):
        super().__init__(config)
        if config.at_start:
            os._exit(11)

    def forward(self, input_ids=None, **kwargs):
        if input_ids is not None:
            for row in input_ids.tolist():
                if any(row[i:i + len(self.config.deadly)] == self.config.deadly for i in range(len(row))):
                    os._exit(11)
        return super().forward(input_ids=input_ids, **kwargs)
"""


def _head(tries: int = 3) -> Any:
    """A cluster of one node, begun again where the machine is too busy to bring it up in Ray's 30 s."""
    from ray.cluster_utils import Cluster

    try:
        return Cluster(initialize_head=True, head_node_args={"num_cpus": 2, **NODE})
    except Exception:  # Ray raises no class of its own
        if tries == 1:
            raise
        return _head(tries - 1)


@contextmanager
def cluster_of_two() -> Iterator[Any]:
    """Two nodes of two CPUs; ``address`` is what --ray_address takes. This process is not connected to it."""
    cluster = _head()
    try:
        cluster.add_node(num_cpus=2, **NODE)
        yield cluster
    finally:
        cluster.shutdown()


def workers(node: Any) -> list[int]:
    """Process numbers of the pool's workers on a node: children of its raylet that have loaded one."""
    raylet = node.all_processes["raylet"][0].process.pid
    found = []
    for status in Path("/proc").glob("[0-9]*/stat"):
        try:
            parent = int(status.read_text().rpartition(")")[2].split()[1])
            if parent == raylet and b"MapWorker" in (status.parent / "cmdline").read_bytes():
                found.append(int(status.parent.name))
        except (OSError, ValueError):  # has ended meanwhile
            continue
    return found


def wait_for(condition: Callable[[], Any], process: Any = None, limit_s: float = 120.0) -> Any:
    """What the condition gives once it is true; fails when the process has ended before."""
    end = time.monotonic() + limit_s
    while not (found := condition()):
        assert time.monotonic() < end, "it never happened"
        if process is not None and process.poll() is not None:
            raise AssertionError(f"the script ended before with {process.returncode}: {process.communicate()[1][-3000:]}")
        time.sleep(0.05)
    return found


def kill(pids: list[int]) -> None:
    for pid in pids:
        os.kill(pid, signal.SIGKILL)


def stored(file_dir: Path, name: str = "entity_train_1000") -> list[str]:
    """Ids in a journal, one for each line."""
    path = file_dir / NAME / "GLM4" / ".journal" / f"{name}.jsonl"
    return [row["id"] for row in read_rows(path)[1:]] if path.exists() else []


def build_fragile_model(folder: Path, *, at_start: bool = False) -> Path:
    """A tiny model with code of its own that dies of ``DEADLY``, or while it loads."""
    from transformers import AutoTokenizer

    build_tiny_model("llama", folder, max_position_embeddings=4096)
    deadly = AutoTokenizer.from_pretrained(str(folder))(DEADLY, add_special_tokens=False)["input_ids"]
    (folder / "fragile.py").write_text(_FRAGILE, encoding="utf-8")
    edit_json(folder / "config.json", model_type="fragile", architectures=["FragileForCausalLM"], deadly=deadly, at_start=at_start,
              auto_map={"AutoConfig": "fragile.FragileConfig", "AutoModelForCausalLM": "fragile.FragileForCausalLM"})
    assert json.loads((folder / "config.json").read_text())["deadly"]
    return folder
