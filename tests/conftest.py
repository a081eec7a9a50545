"""Fixtures of several test files."""

from __future__ import annotations

import pytest
from scripted import ScriptedBackend, write_data_set

from syn_pipelines.utils import annotate


@pytest.fixture
def folder(tmp_path):
    return write_data_set(tmp_path)


@pytest.fixture
def use(monkeypatch):
    """use(answers, ...): the steps get this scripted backend from now on."""
    def install(answers, **flags):
        backend = ScriptedBackend(answers, **flags)
        monkeypatch.setattr(annotate, "choose_backend", lambda *args, **kwargs: backend)
        return backend
    return install
