"""The README's commands, as pasted."""

from __future__ import annotations

import re

import pytest
from workspace import ROOT, make_workspace, shell

NEEDS_MORE = ("# needs", "run_pipeline.sh", "run_tests.sh", "source .venv", "requirements-glm3")


def blocks(readme: str, language: str) -> list[str]:
    """The fenced blocks of one language."""
    return re.findall(rf"^```{language}\n(.*?)^```", (ROOT / readme).read_text(encoding="utf-8"), re.DOTALL | re.MULTILINE)


def commands(readme: str) -> list[str]:
    """Blocks that run anywhere: no network, no GPU, no new environment."""
    return [block for block in blocks(readme, "bash") if not any(word in block for word in NEEDS_MORE)]


@pytest.mark.timeout(900)  # some thirty commands
def test_the_commands_run_as_pasted_one_after_the_other(tmp_path):
    workspace = make_workspace(tmp_path / "project", name="sample_zh", train=16, held_out=6)
    # The same commands with short trainings: what is tested is that they run, not how well the model learns.
    script = re.sub(r"(train_ner\.py|run_all\.py|tools\.ablation)", r"\1 --max_steps=2", "\n".join(commands("README.md")))
    result = shell(script, workspace)
    assert result.returncode == 0, result.stderr
    for python in dict.fromkeys(blocks("README.md", "python") + blocks("README.zh.md", "python")):
        result = shell(f"python - <<'END'\n{python}\nEND", workspace)
        assert result.returncode == 0, result.stderr


def test_both_readmes_show_the_same_commands():
    def bare(readme: str) -> list[str]:
        return [re.sub(r"^#.*\n", "", block, flags=re.MULTILINE) for block in blocks(readme, "bash")]

    assert bare("README.md") == bare("README.zh.md")
    assert len(commands("README.md")) >= 4
