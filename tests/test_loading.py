"""What a checkpoint may lack or bring along: code of its own, chat templates, GPUs that are not there."""

from __future__ import annotations

import io
import json
import logging
import os
import shutil
import warnings
from pathlib import Path

import pytest
import torch
from tiny_chatglm3 import write_description
from tiny_models import SENTENCES, build_tiny_model, edit_json
from workspace import make_workspace, shell

from syn_pipelines import UserError
from syn_pipelines.utils.llm import Request
from syn_pipelines.utils.llm.checkpoints import check_checkpoint, quiet, read_chat_template, transformers_version
from syn_pipelines.utils.llm.transformers_backend import TransformersBackend
from syn_pipelines.utils.llm.transformers_loading import check_gpus, load_tokenizer

pytestmark = [
    pytest.mark.usefixtures("one_thread", "own_code_cache"),
    pytest.mark.skipif(transformers_version() < (4, 44), reason="the transformers backend needs transformers 4.44 or newer"),
]
CONFIG_CODE = """
from transformers import LlamaConfig

class MammothConfig(LlamaConfig):
    model_type = "mammoth"
"""
MODEL_CODE = """
from transformers import LlamaForCausalLM, LlamaModel
from .configuration_mammoth import MammothConfig

class MammothForCausalLM(LlamaForCausalLM):
    config_class = MammothConfig

class MammothModel(LlamaModel):
    config_class = MammothConfig
"""
CLASSES = {"AutoConfig": "configuration_mammoth.MammothConfig", "AutoModelForCausalLM": "modeling_mammoth.MammothForCausalLM"}


@pytest.fixture(scope="module")
def llama(tmp_path_factory):
    return build_tiny_model("llama", tmp_path_factory.mktemp("checkpoints") / "llama")


@pytest.fixture
def mammoth(llama, tmp_path):
    """The same model with the same weights, as code of its own that no release of transformers has."""
    folder = Path(shutil.copytree(llama, tmp_path / f"mammoth_{tmp_path.name}"))
    (folder / "configuration_mammoth.py").write_text(CONFIG_CODE)
    (folder / "modeling_mammoth.py").write_text(MODEL_CODE)
    edit_json(folder / "config.json", model_type="mammoth", auto_map=CLASSES, transformers_version="4.1.2")
    return folder


REQUESTS = [Request(str(i), ({"role": "user", "content": text},), 8) for i, text in enumerate(SENTENCES)]


def replies(folder: Path, **options) -> dict[str, str]:
    model = TransformersBackend(str(folder), batch_size=4, **options)
    return {reply.id: reply.text for reply in model.generate(REQUESTS)}


def refused(call) -> str:
    with pytest.raises(UserError) as caught:
        call()
    assert "\n" not in str(caught.value)
    return str(caught.value)


# ---- code that comes with a checkpoint ----


def test_code_that_is_not_trusted_does_not_run(mammoth):
    for path in mammoth.glob("*.py"):
        path.write_text("raise SystemExit('this code ran')\n")
    for call in (lambda: check_checkpoint(str(mammoth)), lambda: replies(mammoth)):
        message = refused(call)
        assert "needs code that comes with the checkpoint" in message and "--trust_remote_code" in message


@pytest.mark.parametrize("classes", [CLASSES, {"AutoConfig": CLASSES["AutoConfig"], "AutoModel": CLASSES["AutoModelForCausalLM"]}])
def test_trusted_code_answers_as_the_native_model_does(classes, mammoth, llama):
    edit_json(mammoth / "config.json", auto_map=classes)
    check_checkpoint(str(mammoth), trust_remote_code=True)
    assert replies(mammoth, trust_remote_code=True) == replies(llama)


def test_a_trusted_model_without_a_head_is_said_so(mammoth):
    edit_json(mammoth / "config.json", auto_map={**CLASSES, "AutoModelForCausalLM": None,
                                                 "AutoModel": "modeling_mammoth.MammothModel"})
    config = json.loads((mammoth / "config.json").read_text(encoding="utf-8"))
    config["auto_map"].pop("AutoModelForCausalLM")
    edit_json(mammoth / "config.json", auto_map=config["auto_map"])
    assert "causal language model" in refused(lambda: replies(mammoth, trust_remote_code=True))


def test_missing_code_is_found_before_anything_is_loaded(mammoth):
    (mammoth / "modeling_mammoth.py").unlink()
    message = refused(lambda: check_checkpoint(str(mammoth), trust_remote_code=True))
    assert "modeling_mammoth.py is missing" in message


def test_code_that_does_not_run_here_names_both_releases(mammoth):
    import transformers

    (mammoth / "modeling_mammoth.py").write_text("from transformers import what_newer_releases_lack\n")
    message = refused(lambda: replies(mammoth, trust_remote_code=True))
    assert f"does not run on transformers {transformers.__version__}" in message and "written for 4.1.2" in message


def test_trust_changes_nothing_for_a_native_model_even_a_damaged_one(llama, tmp_path):
    folder = Path(shutil.copytree(llama, tmp_path / "llama"))
    assert replies(folder, trust_remote_code=True) == replies(folder)
    (folder / "model.safetensors").write_bytes(b"\0" * 99)
    assert "Fetch the checkpoint again" in refused(lambda: replies(folder, trust_remote_code=True))


@pytest.mark.parametrize("auto_map", [None, ["x"], "x", {}, 7])
def test_an_unknown_architecture_without_code_is_found_before_anything_is_loaded(auto_map, mammoth):
    edit_json(mammoth / "config.json", auto_map=auto_map)
    message = refused(lambda: check_checkpoint(str(mammoth), trust_remote_code=True))
    assert "does not know the architecture mammoth" in message and "Update transformers" in message


def test_a_tokenizer_whose_padding_code_is_older_than_this_release_works(tmp_path):
    folder = write_description(tmp_path / "old")
    (folder / "model.safetensors").write_bytes(b"not weights")
    tokenizer = load_tokenizer(str(folder), trust_remote_code=True)
    ids = tokenizer("北京大学 New York", add_special_tokens=False)["input_ids"]
    assert tokenizer.decode(ids) == "北京大学 New York"


# ---- chat templates ----


TEMPLATE = "{% for m in messages %}<{{ m['role'] }}>{{ m['content'] }}{% endfor %}{% generation %}>{% endgeneration %}"


def test_a_given_chat_template_takes_the_place_of_the_checkpoints_own(llama, tmp_path):
    path = tmp_path / "chat.jinja"
    path.write_text(TEMPLATE, encoding="utf-8-sig")  # a byte order mark is no part of it
    tokenizer = load_tokenizer(str(llama), chat_template=str(path))
    assert tokenizer.apply_chat_template([{"role": "user", "content": "小明"}], tokenize=False) == "<user>小明>"
    assert load_tokenizer(str(llama)).chat_template != TEMPLATE
    check_checkpoint(str(llama), chat_template=str(path))
    model = TransformersBackend(str(llama), batch_size=2, chat_template=str(path))
    assert len(list(model.generate(REQUESTS[:2]))) == 2


def test_a_given_chat_template_serves_a_checkpoint_without_one(llama, tmp_path, caplog):
    folder = Path(shutil.copytree(llama, tmp_path / "llama"))
    (folder / "chat_template.jinja").unlink(missing_ok=True)
    edit_json(folder / "tokenizer_config.json", chat_template=None)
    replies(folder)
    assert "no chat template" in caplog.text
    caplog.clear()
    (tmp_path / "chat.jinja").write_text(TEMPLATE)
    replies(folder, chat_template=str(tmp_path / "chat.jinja"))
    assert "chat template" not in caplog.text


@pytest.mark.parametrize(("content", "says"), [
    (None, "cannot be read .*Name a file"),
    (b"\xff\xfe{{", "is not UTF-8. Save it as UTF-8."),
    (b"a\n{% for m in messages %}\n", "chat.jinja:2: is no Jinja template .*Correct the line."),
    (b"{{ messages", "chat.jinja:1: is no Jinja template"),
    (b" \n", "is empty"),
])  # fmt: skip
def test_a_chat_template_that_cannot_be_used_is_found_at_once(content, says, llama, tmp_path):
    path = tmp_path / "chat.jinja"
    if content is not None:
        path.write_bytes(content)
    for call in (lambda: read_chat_template(str(path)), lambda: check_checkpoint(str(llama), chat_template=str(path))):
        with pytest.raises(UserError, match=says):
            call()


@pytest.mark.parametrize(("content", "says"), [
    ("{{ messages[0].foo.bar }}", "fails on a user message .*UndefinedError"),
    ("{{ raise_exception('no users') }}", "fails on a user message .*no users"),
    ("#!/bin/sh", "leaves out what the user says"),
])  # fmt: skip
def test_a_chat_template_that_cannot_ask_anything_is_found_before_the_first_request(content, says, llama, tmp_path):
    path = tmp_path / "chat.jinja"
    path.write_text(content)
    with pytest.raises(UserError, match=f"^--chat_template=.*chat.jinja: {says}"):
        TransformersBackend(str(llama), batch_size=2, chat_template=str(path)).check()
    folder = Path(shutil.copytree(llama, tmp_path / "llama"))
    (folder / "chat_template.jinja").write_text(content)
    edit_json(folder / "tokenizer_config.json", chat_template=content)
    with pytest.raises(UserError, match=f"^--model_from_pretrained=.*: its chat template {says}"):
        replies(folder)


@pytest.mark.parametrize("path", [".", "/no/such/template", "a\0b"])
def test_a_path_that_is_no_file_is_no_chat_template(path):
    with pytest.raises(UserError, match="--chat_template=.*cannot be read"):
        read_chat_template(path)


# ---- GPUs ----


def test_a_gpu_that_a_gpu_machine_lacks_is_refused_and_a_machine_without_any_is_not(monkeypatch):
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 2)
    assert check_gpus([0, 1])
    with pytest.raises(UserError, match=r"--n_gpu=5: this machine has 2 GPU\(s\), numbered from 0"):
        check_gpus([1, 5])
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    assert not check_gpus([1, 5])


# ---- through the script ----


def test_a_fault_of_the_checkpoint_costs_no_stored_reply(mammoth, tmp_path):
    workspace = make_workspace(tmp_path / "project", train=4, held_out=2)
    step = "python syn_pipelines/s1_predict_data.py --file_name=weibo --save_type_name=try --mode=entity"
    assert shell(f"{step} --backend=offline", workspace).returncode == 0
    run = workspace / "data" / "few_shot" / "weibo" / "try"
    before = {path: path.read_bytes() for path in run.rglob("*.jsonl") if path.name != "run.log.jsonl"}
    assert before
    modules = {"HF_MODULES_CACHE": os.environ["HF_MODULES_CACHE"]}
    for flags, says in (("", "--trust_remote_code"), ("--trust_remote_code --chat_template=none.jinja", "none.jinja")):
        done = shell(f"{step} --overwrite --model_from_pretrained={mammoth} {flags}", workspace, **modules)
        assert done.returncode == 2 and says in done.stderr.splitlines()[-1] and "Traceback" not in done.stderr
        assert {path: path.read_bytes() for path in before} == before


@pytest.mark.filterwarnings("error")
def test_notices_of_transformers_are_kept_off_for_a_while_and_come_back():
    root, logger, seen = logging.getLogger("transformers"), logging.getLogger("transformers.somewhere"), io.StringIO()
    handler = logging.StreamHandler(seen)
    root.addHandler(handler)
    try:
        with quiet():
            with quiet():
                logger.warning("inner")
            logger.warning("outer")
            logger.error("grave")
            warnings.warn("of Python", stacklevel=1)
        logger.warning("after")
    finally:
        root.removeHandler(handler)
    assert seen.getvalue().split() == ["grave", "after"]
