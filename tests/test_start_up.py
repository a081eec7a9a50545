"""Steps start fast: no heavy package is imported until it is needed."""

from __future__ import annotations

import subprocess
import sys

import pytest

HEAVY = ("torch", "transformers", "accelerate", "numpy", "matplotlib", "jieba", "textblob", "nltk", "jinja2", "starlette", "uvicorn", "spacy", "ray", "pyarrow")
LIGHT_SCRIPTS = (
    "s0_prepare_data", "s1_predict_data", "s2_continous_generation", "s3_predict_syn_data", "s4_split_data",
    "s5_merge_data", "s6_combine_syn_fusion_label", "s7_pred_syn_data", "s8_process_label_and_combine", "train_ner",
    "eval_ner", "run_all", "report", "review", "export", "import_annotations", "tools.oracle", "tools.doctor", "tools.ablation", "tools.chaos",
)  # fmt: skip


@pytest.mark.parametrize("script", LIGHT_SCRIPTS)
def test_importing_a_script_loads_no_heavy_package(script):
    program = f"import sys, syn_pipelines.{script}; print(*sorted(set({HEAVY!r}) & set(sys.modules)))"
    result = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True)
    assert result.stdout.strip() == ""


def test_looking_at_sentences_loads_no_heavy_package():
    program = ("import sys, syn_pipelines; before = 'syn_pipelines.utils.sentence' in sys.modules; syn_pipelines.load; "
               f"print(before, *sorted(set({(*HEAVY, 'IPython', 'jinja2')!r}) & set(sys.modules)))")
    result = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True)
    assert result.stdout.strip() == "False"
