"""The files in deploy/ do what they say, as far as that can be found out without a cluster.

The Slurm script runs in a real bash; Slurm, Ray, vLLM and Python are small programs that write down how they were called.
"""

from __future__ import annotations

import json
import os
import shlex
import shutil
import signal
import socket
import stat
import subprocess
import sys
import tempfile
import time
from collections.abc import Mapping
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import pytest
import yaml
from workspace import make_workspace

from syn_pipelines import run_all
from syn_pipelines.utils.options import load_options, read_config

ROOT = Path(__file__).parents[1]
DEPLOY = ROOT / "deploy"
SCRIPT = DEPLOY / "slurm.sh"

# --- the Slurm script -------------------------------------------------------------------------------------------------

# Each writes its name and arguments as a JSON line. What srun starts is run here and now, as a program of the node.
TOOL = """#!{python}
import json, os, subprocess, sys, time
name, words = os.path.basename(sys.argv[0]), sys.argv[1:]
with open({log!r}, "a") as log:
    log.write(json.dumps({{"name": name, "words": words, "token": os.environ.get("RAY_AUTH_TOKEN", ""), "node": os.environ.get("NODE", "")}}) + "\\n")
"""
BODIES = {
    "srun": """
node = next(word.partition("=")[2] for word in words if word.startswith("--nodelist="))
while words and words[0].startswith("--"):
    words.pop(0)
os.environ["NODE"] = node
os.execvp(words[0], words)
""",
    "scontrol": """
if words[0] == "show":
    print("\\n".join(os.environ["NODES"].split()))
""",
    "hostname": "print('10.0.0.1 fe80::1')",
    "ray": """
if words[0] == "status":
    started = sum('"name": "ray", "words": ["start"' in line for line in open({log!r}))
    if os.environ.get("NO_RAY") or not started:
        sys.exit(1)
    print("Active:\\n" + " 1 node_0123\\n" * started)
elif not os.environ.get("NO_RAY"):
    time.sleep(60)
""",
    "vllm": "time.sleep(60)",
    "curl": "",
    "python": """
import signal
def stop(number, frame):
    with open({log!r}, "a") as log:
        log.write(json.dumps({{"name": "stopped", "words": []}}) + "\\n")
    sys.exit(143)
signal.signal(signal.SIGTERM, stop)
if os.environ.get("LASTS"):
    open({log!r} + ".runs", "w").close()
    time.sleep(60)
sys.exit(int(os.environ.get("CODE", "0")))
""",
}


class Job:
    """A Slurm job on machines that are not there."""

    def __init__(self, folder: Path) -> None:
        self.folder, self.log = folder, folder / "calls"
        (folder / "bin").mkdir()
        for name, body in BODIES.items():
            tool = folder / "bin" / name
            tool.write_text((TOOL + body).format(python=sys.executable, log=str(self.log)), encoding="utf-8")
            tool.chmod(tool.stat().st_mode | stat.S_IXUSR)

    def environment(self, **more: str) -> dict[str, str]:
        kept = {name: value for name, value in os.environ.items() if not name.startswith(("RAY_", "SLURM_"))}
        path = os.pathsep.join([str(self.folder / "bin"), os.environ["PATH"]])
        return {**kept, "PATH": path, "PAUSE": "0.05", "NODES": "n1 n2", "SLURM_JOB_NODELIST": "n[1-2]", "SLURM_JOB_ID": "17",
                "SLURM_SUBMIT_DIR": str(self.folder), "SLURM_GPUS_ON_NODE": "8", "SLURM_CPUS_PER_TASK": "32", **more}

    def start(self, *flags: str, **more: str) -> subprocess.Popen[str]:
        (self.folder / "deploy").mkdir(exist_ok=True)
        shutil.copy(DEPLOY / "pipeline.yaml", self.folder / "deploy")
        return subprocess.Popen(["bash", str(SCRIPT), *flags], env=self.environment(**more), stdout=subprocess.PIPE,
                                stderr=subprocess.PIPE, text=True)

    def run(self, *flags: str, **more: str) -> int:
        """To the end; also of everything that it started, or else this waits for the pipes until the time is over."""
        process = self.start(*flags, **more)
        self.said = process.communicate(timeout=30)[1]
        return process.returncode

    def wait_until_it_runs(self, process: subprocess.Popen[str]) -> None:
        while not Path(f"{self.log}.runs").exists():
            assert process.poll() is None, process.communicate()[1]
            time.sleep(0.02)

    def calls(self, name: str) -> list[dict[str, Any]]:
        rows = [json.loads(line) for line in self.log.read_text(encoding="utf-8").splitlines()]
        return [row for row in rows if row["name"] == name]

    @property
    def pipeline(self) -> list[str]:
        """The words behind the one call of run_all.py."""
        (call,) = self.calls("python")
        assert call["words"][0] == "syn_pipelines/run_all.py"
        return call["words"][1:]


@pytest.fixture
def job(tmp_path):
    return Job(tmp_path)


def test_bash_understands_the_slurm_script():
    assert subprocess.run(["bash", "-n", str(SCRIPT)], capture_output=True).returncode == 0


@pytest.mark.skipif(shutil.which("shellcheck") is None, reason="shellcheck is not installed")
def test_shellcheck_finds_nothing_in_the_slurm_script():
    done = subprocess.run(["shellcheck", str(SCRIPT)], capture_output=True, text=True)
    assert done.returncode == 0, done.stdout


def test_the_cluster_has_a_head_and_then_a_worker_on_every_other_node(job):
    assert job.run(NODES="n1 n2 n3") == 0, job.said
    head, *others = [call for call in job.calls("ray") if call["words"][0] == "start"]
    assert "--head" in head["words"] and head["node"] == "n1" and "--port=6379" in head["words"]
    assert sorted(call["node"] for call in others) == ["n2", "n3"]
    for call in others:
        assert "--address=10.0.0.1:6379" in call["words"] and "--head" not in call["words"]
    for call in (head, *others):
        assert {"--num-gpus=8", "--num-cpus=32", "--block"} <= set(call["words"])
    assert all(call["words"][:3] == ["--overlap", "--nodes=1", "--ntasks=1"] for call in job.calls("srun"))


def test_the_pipeline_starts_when_all_nodes_are_there_and_gets_all_flags(job):
    assert job.run("--file_name=news", "--seed=7") == 0, job.said
    rows = [json.loads(line) for line in job.log.read_text(encoding="utf-8").splitlines()]
    place = next(n for n, row in enumerate(rows) if row["name"] == "python")
    assert sum(row["name"] == "ray" and row["words"][0] == "start" for row in rows[:place]) == 2
    opts = load_options(run_all.Options, [word.replace("deploy/", f"{DEPLOY}/") for word in job.pipeline])
    assert (opts.engine, opts.ray_address, opts.file_name, opts.seed) == ("ray", "10.0.0.1:6379", "news", 7)


def test_every_program_of_the_job_has_the_jobs_own_token(job, tmp_path):
    assert job.run() == 0, job.said
    tokens = {call["token"] for name in ("ray", "python") for call in job.calls(name)}
    assert len(tokens) == 1 and all(len(token) == 64 for token in tokens)
    assert not any(token in " ".join(call["words"]) for token in tokens for call in job.calls("srun"))
    (tmp_path / "again").mkdir()
    again = Job(tmp_path / "again")
    assert again.run() == 0
    assert again.calls("python")[0]["token"] not in tokens


def test_with_serve_each_node_has_a_server_and_each_worker_a_node(job):
    assert job.run(SERVE="4") == 0, job.said
    servers = job.calls("vllm")
    assert [call["node"] for call in servers] in (["n1", "n2"], ["n2", "n1"])
    for call in servers:
        assert call["words"] == ["serve", "zai-org/glm-4-9b-chat-hf", "--port=8000", "--tensor-parallel-size=4",
                                 "--data-parallel-size=2"]
    assert {call["node"] for call in job.calls("curl")} == {"n1", "n2"}
    opts = load_options(run_all.Options, [word.replace("deploy/", f"{DEPLOY}/") for word in job.pipeline])
    assert (opts.backend, opts.base_url, opts.model_from_pretrained) == (
        "openai", "http://localhost:8000/v1", "zai-org/glm-4-9b-chat-hf")
    assert (opts.num_workers, opts.gpus_per_worker, opts.cpus_per_worker) == ("2", 0, 32)


def test_the_exit_code_is_that_of_the_pipeline(job):
    assert job.run(CODE="2") == 2
    assert not [call for call in job.calls("scontrol") if call["words"][0] == "requeue"]


def test_a_cluster_that_cannot_start_ends_the_job_before_the_pipeline(job):
    assert job.run(NO_RAY="1") == 1
    assert "ray status" in job.said and not job.calls("python")


@pytest.mark.parametrize("number, requeued", [(signal.SIGUSR1, [["requeue", "17"]]), (signal.SIGTERM, [])])
def test_a_signal_stops_the_pipeline_in_order_and_only_the_end_of_the_time_queues_the_job_again(job, number, requeued):
    process = job.start(LASTS="1")
    job.wait_until_it_runs(process)
    process.send_signal(number)
    process.communicate(timeout=30)
    assert process.returncode == 143
    assert len(job.calls("stopped")) == 1
    assert [call["words"] for call in job.calls("scontrol") if call["words"][0] == "requeue"] == requeued


def test_the_lines_for_sbatch_come_before_the_first_command_and_ask_for_a_warning():
    lines = SCRIPT.read_text(encoding="utf-8").splitlines()
    first = next(n for n, line in enumerate(lines) if line and not line.startswith("#"))
    asked = [line.removeprefix("#SBATCH ") for line in lines if line.startswith("#SBATCH ")]
    assert all(line in lines[:first] for line in (f"#SBATCH {one}" for one in asked))
    assert {"--requeue", "--ntasks-per-node=1", "--signal=B:USR1@300", "--open-mode=append"} <= set(asked)


@pytest.mark.slow
@pytest.mark.timeout(600)
@pytest.mark.skipif(find_spec("ray") is None, reason="Ray is not installed")
def test_the_script_runs_the_pipeline_on_a_real_ray_cluster_of_this_machine(tmp_path, job):
    for name in ("ray", "python", "hostname"):
        (job.folder / "bin" / name).unlink()
    (job.folder / "bin" / "hostname").write_text("#!/bin/sh\necho 127.0.0.1\n", encoding="utf-8")
    (job.folder / "bin" / "hostname").chmod(0o755)
    home = make_workspace(tmp_path / "home", name="corpus", train=20)
    (home / "deploy").symlink_to(DEPLOY)
    with socket.socket() as free:
        free.bind(("", 0))
        port = str(free.getsockname()[1])
    path = os.pathsep.join([str(job.folder / "bin"), str(Path(sys.executable).parent), os.environ["PATH"]])
    with tempfile.TemporaryDirectory() as temporary:  # the names of Ray's sockets must be short
        process = job.start("--backend=offline", "--max_steps=2", "--with_report=0", NODES="n1", PATH=path, PORT=port,
                            SLURM_SUBMIT_DIR=str(home), SLURM_GPUS_ON_NODE="0", SLURM_CPUS_PER_TASK="2", PYTHONPATH=str(ROOT),
                            RAY_TMPDIR=temporary)
        try:
            said = process.communicate(timeout=560)[1]  # Ray ends half a minute after the script, and then the pipes are closed
        finally:
            process.terminate()
    assert process.returncode == 0, said
    run = home / "data" / "few_shot" / "corpus" / "GLM4"
    options = [json.loads(line)["options"] for line in (run / "run.log.jsonl").read_text(encoding="utf-8").splitlines()]
    assert {one["ray_address"] for one in options if one.get("engine") == "ray"} == {f"127.0.0.1:{port}"}
    assert (run / "1000" / "train_1000_syn_fusion.jsonl").is_file()


# --- the configuration ------------------------------------------------------------------------------------------------

def test_every_key_of_the_configuration_is_an_option_of_some_step():
    values = read_config(str(DEPLOY / "pipeline.yaml"))
    assert values["s1_predict_data"]["batch_size"] == "64" and values["train_ner"]["from_pretrained"] == "scratch"
    assert values["s7_pred_syn_data"].get("model_from_pretrained") is None  # that of the language model is not its own


def test_the_pipeline_plans_a_run_with_the_configuration(tmp_path):
    home = make_workspace(tmp_path, name="corpus")
    done = subprocess.run([sys.executable, str(ROOT / "syn_pipelines" / "run_all.py"), f"--config={DEPLOY / 'pipeline.yaml'}",
                           "--backend=offline", "--dry_run", f"--file_dir={home / 'data' / 'few_shot'}"],
                          capture_output=True, text=True, timeout=120, env={**os.environ, "HF_HUB_OFFLINE": "1"})
    assert done.returncode == 0, done.stderr
    assert "s1_predict_data" in done.stdout


# --- the Kubernetes manifest ------------------------------------------------------------------------------------------

# Fields of ray.io/v1 that may stand in the manifest (KubeRay 1.6), and the types of their values; a dict is an object of
# these fields, a list holds such objects. "pods" is checked by itself.
CLUSTER: Mapping[str, Any] = {
    "rayVersion": str, "authOptions": {"mode": {"token", "disabled"}}, "enableInTreeAutoscaling": bool,
    "autoscalerOptions": {"idleTimeoutSeconds": int, "upscalingMode": {"Default", "Conservative", "Aggressive"},
                          "version": {"v1", "v2"}, "resources": dict},
    "headGroupSpec": {"rayStartParams": "texts", "template": "pods", "serviceType": str},
    "workerGroupSpecs": [{"groupName": str, "replicas": int, "minReplicas": int, "maxReplicas": int, "numOfHosts": int,
                          "idleTimeoutSeconds": int, "rayStartParams": "texts", "template": "pods"}],
}
JOB: Mapping[str, Any] = {
    "entrypoint": str, "backoffLimit": int, "activeDeadlineSeconds": int, "shutdownAfterJobFinishes": bool,
    "ttlSecondsAfterFinished": int, "submissionMode": {"K8sJobMode", "HTTPMode", "SidecarMode", "InteractiveMode"},
    "runtimeEnvYAML": str, "suspend": bool, "rayClusterSpec": CLUSTER,
}


def misfits(value: Any, wanted: Any, where: str) -> list[str]:
    """What does not fit, "" being the root."""
    if wanted == "pods":
        return [] if set(value) == {"spec"} and value["spec"]["containers"] else [where]
    if wanted == "texts":
        return [f"{where}.{key}" for key, text in value.items() if not isinstance(text, str)]
    if isinstance(wanted, set):
        return [] if value in wanted else [where]
    if isinstance(wanted, list):
        return [p for n, one in enumerate(value) for p in misfits(one, wanted[0], f"{where}[{n}]")]
    if isinstance(wanted, Mapping):
        unknown = [f"{where}.{key}" for key in value if key not in wanted]
        return unknown + [p for key in value if key in wanted for p in misfits(value[key], wanted[key], f"{where}.{key}")]
    return [] if type(value) is wanted else [where]


@pytest.fixture(scope="module")
def manifest():
    return {document["kind"]: document for document in yaml.safe_load_all((DEPLOY / "kuberay.yaml").read_text(encoding="utf-8"))}


@pytest.fixture(scope="module")
def cluster(manifest):
    return manifest["RayJob"]["spec"]["rayClusterSpec"]


@pytest.fixture(scope="module")
def pods(cluster):
    return [group["template"]["spec"] for group in (cluster["headGroupSpec"], *cluster["workerGroupSpecs"])]


def test_the_manifest_has_known_fields_of_the_right_types_only(manifest):
    assert set(manifest) == {"PersistentVolumeClaim", "RayJob"}
    assert manifest["RayJob"]["apiVersion"] == "ray.io/v1"
    assert misfits(manifest["RayJob"]["spec"], JOB, "spec") == []


@pytest.mark.parametrize("change, where", [
    (lambda spec: spec.update(entryPoint="x"), "spec.entryPoint"),
    (lambda spec: spec["rayClusterSpec"]["workerGroupSpecs"][0].update(maxReplicas="8"),
     "spec.rayClusterSpec.workerGroupSpecs[0].maxReplicas"),
    (lambda spec: spec["rayClusterSpec"]["headGroupSpec"]["rayStartParams"].update({"num-cpus": 0}),
     "spec.rayClusterSpec.headGroupSpec.rayStartParams.num-cpus")])
def test_the_check_of_fields_finds_a_wrong_name_and_a_wrong_type(manifest, change, where):
    spec = json.loads(json.dumps(manifest["RayJob"]["spec"]))
    change(spec)
    assert misfits(spec, JOB, "spec") == [where]


def test_the_entrypoint_is_a_script_of_this_project_with_flags_that_it_has(manifest, cluster):
    program, script, *flags = shlex.split(manifest["RayJob"]["spec"]["entrypoint"])
    assert program == "python" and (ROOT / script.removeprefix("/opt/syn_pipelines/")).is_file()
    flags = [flag.replace("/etc/syn_pipelines/", f"{DEPLOY}/") for flag in flags]
    opts = load_options(run_all.Options, flags)
    assert (opts.engine, opts.ray_address) == ("ray", "auto")
    (group,) = cluster["workerGroupSpecs"]
    assert opts.num_workers == f"{group['minReplicas']}-{group['maxReplicas']}"
    assert group["minReplicas"] <= group["replicas"] <= group["maxReplicas"] and cluster["enableInTreeAutoscaling"]


def test_paths_of_the_entrypoint_lie_on_volumes_that_every_pod_has(manifest, pods):
    entrypoint = manifest["RayJob"]["spec"]["entrypoint"]
    for pod in pods:
        (container,) = pod["containers"]
        volumes = {volume["name"]: volume for volume in pod["volumes"]}
        mounted = {mount["mountPath"]: volumes[mount["name"]] for mount in container["volumeMounts"]}
        assert mounted["/data"]["persistentVolumeClaim"]["claimName"] == manifest["PersistentVolumeClaim"]["metadata"]["name"]
        assert mounted["/etc/syn_pipelines"]["configMap"]["name"] == "syn-pipelines"
        assert "--file_dir=/data/" in entrypoint and "--config=/etc/syn_pipelines/pipeline.yaml" in entrypoint
        assert "value" in next(one for one in container["env"] if one["name"] == "HF_HOME")
    assert manifest["PersistentVolumeClaim"]["spec"]["accessModes"] == ["ReadWriteMany"]


def test_keys_come_from_a_secret_and_gpus_go_to_workers_alone(cluster, pods):
    for pod in pods:
        key = next(one for one in pod["containers"][0]["env"] if one["name"] == "OPENAI_API_KEY")
        assert "value" not in key and key["valueFrom"]["secretKeyRef"]["optional"] is True
    head, worker = ({**pod["containers"][0]["resources"]["limits"]} for pod in pods)
    assert worker["nvidia.com/gpu"] == "1" and "nvidia.com/gpu" not in head
    assert cluster["headGroupSpec"]["rayStartParams"]["num-cpus"] == "0"


def test_head_and_workers_run_the_same_image_and_one_version_of_ray_is_named(cluster, pods):
    assert len({pod["containers"][0]["image"] for pod in pods}) == 1
    text = (DEPLOY / "kuberay.yaml").read_text(encoding="utf-8")
    assert f"rayproject/ray:{cluster['rayVersion']}-py311" in text


def test_the_commands_in_the_manifest_make_what_it_refers_to():
    text = (DEPLOY / "kuberay.yaml").read_text(encoding="utf-8")
    assert "kubectl create configmap syn-pipelines --from-file=pipeline.yaml=deploy/pipeline.yaml" in text
    assert "kubectl create secret generic syn-pipelines --from-literal=OPENAI_API_KEY=" in text
