"""The doctor's look at the machine: Python, packages, torch, GPUs, disk."""

from __future__ import annotations

import os
import re
import shutil
import sys
from collections.abc import Iterator
from importlib.metadata import PackageNotFoundError, version
from importlib.util import find_spec
from pathlib import Path

from syn_pipelines.tools._diagnosis import Case, Check, ok, problem, warning
from syn_pipelines.utils.llm.transformers_loading import parse_gpus

GIB = 1 << 30
INSTALL = "pip install -r requirements.txt"
INSTALL_GLM3 = "pip install -r requirements-glm3.txt (an environment of its own)"
# A run of 1,000 sentences takes some 10 MB and its three NER models some 100 MB; a full disk stops every step.
LITTLE_SPACE, NO_SPACE = 2 * GIB, GIB // 10


def look_at_python(case: Case) -> Iterator[Check]:
    """Supported versions are 3.10 to 3.12; the GLM3 environment ends at 3.11."""
    shown = f"{sys.version.split()[0]} ({sys.executable})"
    last = (3, 11) if case.backend_name == "glm3" else (3, 12)
    if (3, 10) <= sys.version_info[:2] <= last:
        yield ok("python", shown)
    else:
        yield problem("python", f"{shown} is not supported", f"Make the environment with Python 3.10 to {last[0]}.{last[1]}: "
                      "python3.11 -m venv .venv")


def look_at_packages(case: Case) -> Iterator[Check]:
    """What every step needs, and what this backend needs besides."""
    wanted = {"yaml": "pyyaml", "tqdm": "tqdm", "jieba": "jieba", "textblob": "textblob"}
    if case.backend_name == "openai":
        wanted["openai"] = "openai"
    if case.is_local:
        wanted |= {name: name for name in ("torch", "transformers", "safetensors", "accelerate")}
    if case.backend_name == "glm3":
        wanted |= {"cpm_kernels": "cpm_kernels", "sentencepiece": "sentencepiece"}
    lost = [package for module, package in wanted.items() if find_spec(module) is None]
    if lost:
        command = INSTALL_GLM3 if case.backend_name == "glm3" else INSTALL
        yield problem("packages", f"{', '.join(lost)} not installed", command)
    else:
        yield ok("packages", f"all {len(wanted)} that this needs are installed")


def look_at_torch(case: Case) -> Iterator[Check]:
    """torch is needed by the NER models, and by a model on this machine."""
    if find_spec("torch") is None:
        if not case.is_local:  # else it is among the packages that are missing
            yield warning("torch", "not installed: train_ner, step 7 and eval_ner do not run here", INSTALL)
        return
    import torch

    case.found["torch"] = torch
    yield ok("torch", f"{torch.__version__}, " + (f"built for CUDA {torch.version.cuda}" if torch.version.cuda else
                                                  "built for the CPU"))


def look_at_gpus(case: Case) -> Iterator[Check]:
    """The GPUs that --n_gpu names, their memory and driver."""
    torch = case.found.get("torch")
    if torch is None:
        return
    if not torch.cuda.is_available():
        yield _without_gpu(case, torch)
        return
    count = torch.cuda.device_count()
    named = parse_gpus(case.llm.n_gpu)
    shown = []
    for gpu in range(count):
        free, total = torch.cuda.mem_get_info(gpu)
        mark = "*" if gpu in named else ""
        shown.append(f"{gpu}{mark}: {torch.cuda.get_device_name(gpu)}, {free / GIB:.1f} of {total / GIB:.1f} GiB free")
    found = f"driver {_driver() or '?'}; " + "; ".join(shown) + " (*: chosen by --n_gpu)"
    absent = [gpu for gpu in named if gpu >= count]
    if absent:
        yield problem("gpu", f"{found}; --n_gpu={case.llm.n_gpu} names GPU {absent[0]}, which is not there",
                      f"Name one of 0 to {count - 1}.")
    else:
        case.found["gpus"] = named
        yield ok("gpu", found)


def _without_gpu(case: Case, torch: object) -> Check:
    driver = _driver()
    if driver and os.environ.get("CUDA_VISIBLE_DEVICES", "0") in ("", "-1"):
        return warning("gpu", "hidden: CUDA_VISIBLE_DEVICES is empty", "Unset that variable to use the GPU.")
    if driver and torch.version.cuda is None:
        return warning("gpu", f"driver {driver} is there, but this torch is built for the CPU",
                       "Install torch with CUDA: https://pytorch.org/get-started/locally/")
    if driver:
        return warning("gpu", f"driver {driver} is there, but torch cannot use it with CUDA {torch.version.cuda}",
                       "Update the driver, or install a torch built for an older CUDA.")
    if not case.is_local:
        return ok("gpu", "none; not needed for the language model here, and the NER model learns on the CPU too")
    return warning("gpu", "none: the language model runs on the CPU, in float32, slowly",
                   "Take a small model (0.5B to 1.5B), a machine with a GPU, or a server (--base_url).")


def _driver() -> str:
    """Version of the NVIDIA driver, "" without one."""
    try:
        text = Path("/proc/driver/nvidia/version").read_text(encoding="utf-8", errors="replace")
    except OSError:
        return ""
    match = re.search(r"\s([0-9]+\.[0-9.]+)\s", text)
    return match[1] if match else "of unknown version"


def look_at_disk(case: Case) -> Iterator[Check]:
    """Room and the right to write where the run folder is, or will be."""
    wanted = case.paths.run if case.has_data else Path(case.llm.file_dir).absolute()
    folder = next(path for path in (wanted, *wanted.parents, Path(".")) if path.is_dir())
    free = shutil.disk_usage(folder).free
    shown = f"{free / GIB:.1f} GiB free in {folder}"
    if not os.access(folder, os.W_OK):
        yield problem("disk", f"{folder}: may not be written", f"chmod u+w {folder}, or choose another --file_dir.")
    elif free < NO_SPACE:
        yield problem("disk", shown, "Free some space, or choose another --file_dir.")
    elif free < LITTLE_SPACE:
        yield warning("disk", shown, "The NER models of a run take some 100 MB each; free some space.")
    else:
        yield ok("disk", shown)


def free_memory() -> int | None:
    """Bytes of main memory that a process can still get here, None where the system does not tell."""
    try:
        text = Path("/proc/meminfo").read_text(encoding="ascii", errors="replace")
        free = int(re.search(r"MemAvailable:\s+([0-9]+) kB", text)[1]) * 1024
    except (OSError, TypeError):
        return None
    for limit, used in (("memory.max", "memory.current"), ("memory/memory.limit_in_bytes", "memory/memory.usage_in_bytes")):
        try:  # of a container, version 2 and 1
            group = Path("/sys/fs/cgroup")
            free = min(free, int((group / limit).read_text()) - int((group / used).read_text()))
        except (OSError, ValueError):  # "max" is no limit
            continue
    return max(free, 0)


def installed(package: str) -> str:
    """Version of a package, "" where it is not installed. Does not import it."""
    try:
        return version(package)
    except PackageNotFoundError:
        return ""
