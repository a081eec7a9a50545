"""Fixtures of several test files."""

from __future__ import annotations

import signal
import sys
from functools import cache

import pytest
from child import moved, undisturbed_run
from hypothesis import settings
from scripted import ScriptedBackend, write_data_set

from syn_pipelines.utils import annotate

# A machine under load is no reason for a test to fail.
settings.register_profile("any machine", deadline=None)
settings.load_profile("any machine")
# A shell starts what runs in its background with interrupts ignored, and children inherit that.
signal.signal(signal.SIGINT, signal.default_int_handler)


# Files that take a minute or more. They are begun first, so that no process is left alone with one at the end.
LONG = ["test_chaos", "test_ray_faults", "test_security", "test_faults_model", "test_ledger_changes", "test_readme", "test_guide",
        "test_ray", "test_served_steps", "test_random_model", "test_hostile_inputs", "test_faults_signals", "test_faults_disk",
        "test_compressed_runs", "test_benchmarks", "test_ablation", "test_python_versions"]


def pytest_collection_modifyitems(items):
    items.sort(key=lambda item: LONG.index(item.path.stem) if item.path.stem in LONG else len(LONG))


@pytest.fixture
def folder(tmp_path):
    return write_data_set(tmp_path)


@pytest.fixture(scope="session")
def undisturbed(tmp_path_factory):
    """undisturbed(script, file_dir): the files of a run after a script that nobody has disturbed, as if made in that place."""
    @cache
    def made(script):
        folder = tmp_path_factory.mktemp("undisturbed") / "there"
        return folder, undisturbed_run(folder, script)

    def files(script, file_dir):
        folder, found = made(script)
        return moved(found, folder, file_dir)
    return files


@pytest.fixture(scope="module")
def one_thread():
    """torch computes with one thread: more are slower on models as tiny as those of the tests."""
    import torch

    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


@pytest.fixture(scope="module")
def own_code_cache(tmp_path_factory):
    """transformers copies the code of checkpoints into a folder of the user's; these tests use one of their own."""
    import transformers.dynamic_module_utils

    def forget() -> None:  # code loaded by other tests came from another folder
        for name in [name for name in sys.modules if name.partition(".")[0] == "transformers_modules"]:
            del sys.modules[name]

    folder = str(tmp_path_factory.mktemp("modules"))
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("HF_MODULES_CACHE", folder)
        patch.setattr(transformers.dynamic_module_utils, "HF_MODULES_CACHE", folder)
        patch.setattr(sys, "path", [folder, *sys.path])  # before the folder of the user, should that be there already
        forget()
        yield
        forget()


@pytest.fixture
def use(monkeypatch):
    """use(answers, ...): the steps get this scripted backend from now on."""
    def install(answers, **flags):
        backend = ScriptedBackend(answers, **flags)
        monkeypatch.setattr(annotate, "choose_backend", lambda *args, **kwargs: backend)
        return backend
    return install
