"""The doctor: each finding with its fix, whatever is wrong, and nothing written."""

from __future__ import annotations

import json
import logging
import subprocess
import sys
from importlib.util import find_spec
from pathlib import Path

import pytest
from fault_server import Fault, FaultServer
from hypothesis import given, settings
from hypothesis import strategies as st
from scripted import FINE, call, journal_of, write_data_set
from tiny_models import build_tiny_model, edit_json, supports
from workspace import ROOT, make_workspace, shell

import syn_pipelines.s1_predict_data as s1
from syn_pipelines import UserError
from syn_pipelines.tools import _diagnosis, _doctor_machine, _doctor_model, doctor
from syn_pipelines.utils.journal import lock

OFFLINE = {"backend": "offline"}


def examined(folder: Path, **flags) -> dict[str, dict[str, str]]:
    """The findings by name, the worst one where there are several."""
    report = doctor.main(cmd_args=False, file_dir=str(folder.parent), file_name=folder.name, save_type_name="run", **flags)
    checks = sorted(report.as_dict()["checks"], key=lambda check: _diagnosis.STATUSES.index(check["status"]))
    assert report.ok is all(check["status"] != "problem" for check in checks)
    assert all(check["fix"] for check in checks if check["status"] != "ok") and all(check["found"] for check in checks)
    return {check["name"]: check for check in checks}


@pytest.fixture(scope="module")
def model(tmp_path_factory):
    if not supports("qwen2"):
        pytest.skip("this transformers has no qwen2")
    return build_tiny_model("qwen2", tmp_path_factory.mktemp("models") / "qwen2")


@pytest.fixture
def own_model(tmp_path):
    """One to break."""
    if not supports("qwen2"):
        pytest.skip("this transformers has no qwen2")
    return build_tiny_model("qwen2", tmp_path / "own")


# --- the command -----------------------------------------------------------------------------------------------------

def test_on_a_healthy_project_the_command_ends_with_0_and_a_summary(tmp_path):
    workspace = make_workspace(tmp_path / "project", train=5, held_out=2)
    before = sorted(workspace.rglob("*"))
    result = shell("python -m syn_pipelines.tools.doctor --file_name=weibo --backend=offline", workspace)
    assert result.returncode == 0, result.stdout + result.stderr
    lines = result.stdout.rstrip("\n").split("\n")
    assert lines[-1].endswith("0 problems: nothing stands in the way.") and "5 sentences" in result.stdout
    assert sorted(workspace.rglob("*")) == before
    starts = {line.index(line.split()[2]) for line in lines[:-2] if line[:1] not in " "}
    assert len(starts) == 1  # one column


def test_json_is_one_line_and_the_last_thing_written(folder):
    command = [sys.executable, "-m", "syn_pipelines.tools.doctor", f"--file_dir={folder.parent}", "--file_name=toy", "--json",
               "--backend=offline"]
    result = subprocess.run(command, cwd=ROOT, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True)
    content = json.loads(result.stdout.splitlines()[-1])
    assert result.returncode == 0 and content["ok"] is True
    assert all(set(check) == {"name", "status", "found", "fix"} for check in content["checks"])


@pytest.mark.parametrize("flags, code", [("--no_such_flag", 2), ("--batch_size=0", 2), ("--mode=pos --file_name=nowhere", 2),
                                         ("--config=/nowhere.yaml", 2), ("--file_name=nowhere", 1)])
def test_wrong_flags_are_2_and_problems_are_1(flags, code):
    result = shell(f"python -m syn_pipelines.tools.doctor {flags} --backend=offline", ROOT)
    assert result.returncode == code and "Traceback" not in result.stderr
    assert (result.stdout == "") is (code == 2)


def test_a_notebook_gets_a_report_and_nothing_is_printed(folder, capsys):
    level = logging.getLogger("syn_pipelines").level
    report = doctor.main(cmd_args=False, file_dir=str(folder.parent), file_name="toy", **OFFLINE)
    assert report.ok and "ok" in str(report) and capsys.readouterr().out == ""
    assert logging.getLogger("syn_pipelines").level == level
    with pytest.raises(UserError, match="batch_sise"):
        doctor.main(cmd_args=False, batch_sise=3)


def test_without_torch_and_transformers_the_rest_is_looked_at(folder):
    program = ("import sys; sys.modules.update(dict.fromkeys(['torch', 'transformers', 'llguidance', 'openai']));"
               "from syn_pipelines.utils.summary import run_script; from syn_pipelines.tools.doctor import command;"
               "sys.argv[1:] = {}; run_script(command)")
    flags = [f"--file_dir={folder.parent}", "--file_name=toy", "--json"]
    for extra, ok in ((["--backend=offline"], True), ([f"--model_from_pretrained={folder}"], False)):
        result = subprocess.run([sys.executable, "-c", program.format(flags + extra)], cwd=ROOT, capture_output=True, text=True)
        content = json.loads(result.stdout)
        named = {check["name"]: check for check in content["checks"]}
        assert content["ok"] is ok and named["data"]["status"] == "ok", result.stdout
        if ok:
            assert named["torch"]["status"] == "warning" and "not installed" in named["torch"]["found"]
        else:
            assert named["packages"]["status"] == "problem" and "torch, transformers" in named["packages"]["found"]


@pytest.mark.parametrize("error", [ValueError("odd"), RuntimeError(""), KeyError("x"), OSError(28, "No space"), RecursionError()])
def test_a_check_that_breaks_is_a_problem_and_the_others_go_on(folder, monkeypatch, error):
    def broken(case):
        raise error
        yield
    monkeypatch.setitem(doctor.LOOKS, "gpu", broken)
    found = examined(folder, **OFFLINE)
    assert found["gpu"]["status"] == "problem" and type(error).__name__ in found["gpu"]["found"]
    assert found["data"]["status"] == "ok" and found["run"]["status"] == "ok"


def test_the_model_of_a_config_file_is_looked_at(folder, tmp_path):
    config = tmp_path / "run.yaml"
    config.write_text("model_from_pretrained: /nowhere/model\nlabel_prefix: X_\n", encoding="utf-8")
    found = examined(folder, config=str(config))
    assert found["checkpoint"]["status"] == "problem" and "/nowhere/model" in found["checkpoint"]["found"]


# --- the model -------------------------------------------------------------------------------------------------------

def test_without_a_model_only_the_try_out_works_and_that_is_a_warning(folder):
    found = examined(folder)
    assert found["backend"]["status"] == "warning" and "--backend=offline" in found["backend"]["found"]


def test_a_whole_checkpoint_is_fine(folder, model):
    found = examined(folder, model_from_pretrained=str(model))
    for name in ("checkpoint", "transformers", "memory", "tokenizer", "chat template"):
        assert found[name]["status"] == "ok", found[name]
    assert "qwen2" in found["transformers"]["found"] and "parameters" in found["memory"]["found"]
    assert found["grammar"]["status"] == ("ok" if find_spec("llguidance") else "warning")
    assert "--constraint=none" in examined(folder, model_from_pretrained=str(model), constraint="none")["grammar"]["found"]


@pytest.mark.parametrize("name, check, told", [
    ("model.safetensors", "checkpoint", "no weights"), ("config.json", "checkpoint", "no config.json"),
    ("tokenizer*.json", "checkpoint", "no tokenizer")])
def test_a_checkpoint_that_lacks_something_is_a_problem_with_its_fix(folder, own_model, name, check, told):
    for path in own_model.glob(name):
        path.unlink()
    found = examined(folder, model_from_pretrained=str(own_model))
    assert found[check]["status"] == "problem" and told in found[check]["found"] and "tokenizer" not in found


@pytest.mark.parametrize("content, told, fix", [
    (lambda whole: whole[:-100], "100 bytes are missing", "Finish the download"), (lambda whole: b"", "no safetensors", "Fetch"),
    (lambda whole: b"\0" * 50, "no safetensors", "Fetch"), (lambda whole: whole[:60], "no safetensors", "Fetch")])
def test_weights_that_are_cut_are_noticed_without_reading_them(folder, own_model, content, told, fix):
    path = own_model / "model.safetensors"
    path.write_bytes(content(path.read_bytes()))
    found = examined(folder, model_from_pretrained=str(own_model))["memory"]
    assert found["status"] == "problem" and told in found["found"] and fix in found["fix"]


@settings(max_examples=60, deadline=None)
@given(content=st.binary(max_size=60))
def test_any_bytes_in_place_of_weights_are_a_user_error_or_a_count(tmp_path_factory, content):
    path = tmp_path_factory.mktemp("weights") / "model.safetensors"
    path.write_bytes(content)
    try:
        count, missing = _doctor_model.count_numbers(path)
    except UserError:
        return
    assert count >= 0 and missing >= 0


@pytest.mark.parametrize("free, status", [(10**4, "problem"), (450_000, "warning"), (None, "warning"), (10**12, "ok")])
def test_the_memory_that_is_free_is_weighed_against_the_weights(folder, model, monkeypatch, free, status):
    torch = pytest.importorskip("torch")
    if torch.cuda.is_available():
        pytest.skip("speaks of main memory")
    monkeypatch.setattr(_doctor_model, "free_memory", lambda: free)
    found = examined(folder, model_from_pretrained=str(model))["memory"]  # 105,024 parameters of 4 bytes
    assert found["status"] == status, found


def test_free_memory_is_a_plausible_number_here():
    assert 10**8 < _doctor_machine.free_memory() < 10**14


def test_a_model_that_is_too_new_names_the_release_to_install(folder, own_model, monkeypatch):
    edit_json(own_model / "config.json", model_type="qwen99")
    assert "does not know qwen99" in examined(folder, model_from_pretrained=str(own_model))["transformers"]["found"]
    monkeypatch.setitem(_doctor_model.SINCE, "qwen99", "99.1")
    found = examined(folder, model_from_pretrained=str(own_model))["transformers"]
    assert found["status"] == "problem" and "transformers>=99.1" in found["fix"]


def test_code_of_a_checkpoint_needs_to_be_allowed(folder, own_model):
    edit_json(own_model / "config.json", model_type="own", auto_map={"AutoConfig": "configuration.C", "AutoModel": "modeling.M"})
    found = examined(folder, model_from_pretrained=str(own_model))["transformers"]
    assert found["status"] == "problem" and "--trust_remote_code" in found["found"] + found["fix"]


@pytest.mark.usefixtures("own_code_cache")
def test_chatglm3_needs_its_environment_and_says_so_elsewhere(folder, tmp_path):
    pytest.importorskip("sentencepiece")
    from tiny_chatglm3 import build_tiny_chatglm3, write_description

    from syn_pipelines.utils.llm.checkpoints import transformers_version
    if transformers_version() == (4, 30):
        found = examined(folder, model_from_pretrained=str(build_tiny_chatglm3(tmp_path / "chatglm3")), trust_remote_code=True)
        assert all(found[name]["status"] == "ok" for name in ("transformers", "memory", "tokenizer", "chat template"))
        return
    chatglm3 = write_description(tmp_path / "chatglm3")
    (chatglm3 / "model.safetensors").write_bytes(b"")
    found = examined(folder, model_from_pretrained=str(chatglm3), trust_remote_code=True)
    assert found["transformers"]["status"] == "problem" and "requirements-glm3.txt" in found["transformers"]["fix"]


def test_a_missing_chat_template_is_a_warning_and_can_be_given(folder, own_model, tmp_path):
    edit_json(own_model / "tokenizer_config.json", chat_template=None)
    (own_model / "chat_template.jinja").unlink(missing_ok=True)
    found = examined(folder, model_from_pretrained=str(own_model))["chat template"]
    assert found["status"] == "warning" and "--chat_template" in found["fix"]
    template = tmp_path / "chat.jinja"
    template.write_text("{% for m in messages %}{{ m['content'] }}{% endfor %}", encoding="utf-8")
    assert examined(folder, model_from_pretrained=str(own_model), chat_template=str(template))["chat template"]["status"] == "ok"
    template.write_text("{% for", encoding="utf-8")
    broken = examined(folder, model_from_pretrained=str(own_model), chat_template=str(template))
    assert broken["transformers"]["status"] == "problem" and "chat.jinja:1" in broken["transformers"]["found"]


@pytest.mark.parametrize("context, sizes, status", [
    (4096, (5, 20), "ok"), (1600, (5, 2000), "warning"), (64, (5, 20), "problem"),
])
def test_questions_that_leave_no_room_for_a_reply_are_found_without_the_weights(tmp_path, context, sizes, status):
    if not supports("qwen2"):
        pytest.skip("this transformers has no qwen2")
    folder = write_data_set(tmp_path, [(" ".join(["river"] * size), []) for size in sizes])
    model = build_tiny_model("qwen2", tmp_path / "model", max_position_embeddings=context)
    found = examined(folder, model_from_pretrained=str(model))["context"]
    assert found["status"] == status and f"takes {context:,} tokens" in found["found"]


# --- a server --------------------------------------------------------------------------------------------------------

def test_a_server_that_is_down_is_a_problem(folder):
    pytest.importorskip("openai")
    found = examined(folder, base_url="http://127.0.0.1:9/v1", model_from_pretrained="tiny")
    assert found["server"]["status"] == "problem" and "127.0.0.1:9" in found["server"]["found"]
    assert "server grammar" not in found and "checkpoint" not in found


@pytest.mark.parametrize("holds, status, word", [(("grammar",), "ok", "grammar"), (("json_schema",), "ok", "json_schema"),
                                                 ((), "warning", "nothing")])
def test_a_server_is_asked_which_constraints_it_takes(folder, holds, status, word):
    pytest.importorskip("openai")
    if holds:
        pytest.importorskip("llguidance")
    with FaultServer(holds=holds, answer=lambda body: "hello") as server:
        found = examined(folder, base_url=server.url, model_from_pretrained="tiny")
        assert found["server"]["status"] == "ok" and found["server grammar"]["status"] == status
        assert f"entity: {word}" in found["server grammar"]["found"]
        assert not any(text in asked for asked in server.asked for text in ("Acme", "weather"))  # none of the data
        count = len(server.requests)
        assert "--constraint=none" in examined(folder, base_url=server.url, model_from_pretrained="tiny",
                                               constraint="none")["server grammar"]["found"]
        assert len(server.requests) == count


def test_a_server_that_refuses_is_a_problem_in_its_own_words(folder):
    pytest.importorskip("openai")
    with FaultServer(models=("other",), only_model="other") as server:
        found = examined(folder, base_url=server.url, model_from_pretrained="tiny")["server"]
        assert found["status"] == "problem" and "other" in found["found"] + found["fix"]
    with FaultServer(key="secret") as server:
        assert "OPENAI_API_KEY" in str(examined(folder, base_url=server.url, model_from_pretrained="tiny")["server"])
    with FaultServer(faults=lambda number, body: Fault(400, "prompts of this kind are not for me")) as server:
        found = examined(folder, base_url=server.url, model_from_pretrained="tiny")
        assert "not for me" in found["server grammar"]["found"] and found["server grammar"]["status"] == "problem"


# --- the data --------------------------------------------------------------------------------------------------------

def test_a_broken_data_set_is_named_with_its_lines_and_the_rest_is_looked_at(folder):
    with (folder / "train_1000.jsonl").open("a", encoding="utf-8") as file:
        file.write('{"text": ["a"], "entities": [{"start": 0, "end": 3, "entity": "PER"}]}\n{broken\n')
    found = examined(folder, **OFFLINE)
    assert found["data"]["status"] == "problem" and found["labels"]["status"] == "ok"
    assert "train_1000.jsonl:6" in found["data"]["found"] and "train_1000.jsonl:7" in found["data"]["found"]


def test_labels_that_clash_with_the_maps_are_a_problem_unless_prefixed(folder):
    (folder / "labels.txt").write_text("O\nPER\nLOC\nORG\nPERSON\n", encoding="utf-8")
    found = examined(folder, **OFFLINE)["labels"]
    assert found["status"] == "problem" and "PERSON" in found["found"] and "--label_prefix" in found["found"] + found["fix"]
    assert examined(folder, label_prefix="X_", **OFFLINE)["labels"]["status"] == "ok"
    assert "no_such_map" in examined(folder, entity_label="no_such_map.json", **OFFLINE)["labels"]["found"]


def test_held_out_sentences_are_looked_at_too(folder):
    assert {examined(folder, **OFFLINE)[name]["status"] for name in ("dev", "test")} == {"warning"}
    (folder / "test.jsonl").write_text('{"text": ["a"], "entities": [{"start": 0, "end": 1, "entity": "NEW"}]}\n')
    found = examined(folder, **OFFLINE)["test"]
    assert found["status"] == "problem" and "test.jsonl:1" in found["found"] and "NEW" in found["found"]


def test_a_data_set_that_is_not_there_is_told_with_those_that_are(folder):
    found = examined(folder.parent / "other", **OFFLINE)
    assert found["data"]["status"] == "problem" and "toy" in found["data"]["found"]
    assert {"python", "disk"} <= set(found) and sum(check["status"] == "problem" for check in found.values()) == 1


def test_a_run_at_work_and_a_broken_journal_are_found_and_left_alone(folder, use):
    use(FINE)
    call(s1, folder)
    assert "5 stored replies, nobody at work" in examined(folder, **OFFLINE)["run"]["found"]
    with lock(folder / "run" / ".journal", "entity_train_1000"):
        found = examined(folder, **OFFLINE)["run"]
        assert found["status"] == "warning" and "entity_train_1000" in found["found"]
    with journal_of(folder).open("ab") as file:
        file.write(b"{broken}\n")
    before = {path: path.read_bytes() for path in folder.rglob("*") if path.is_file()}
    found = examined(folder, **OFFLINE)["run"]
    assert found["status"] == "problem" and "entity_train_1000.jsonl:7" in found["found"]
    assert {path: path.read_bytes() for path in folder.rglob("*") if path.is_file()} == before


def test_outdated_files_come_with_the_command_that_renews_them(folder, use):
    use(FINE)
    call(s1, folder)
    write_data_set(folder.parent, [("Something else .", [(0, 1, "PER")])])
    found = examined(folder, **OFFLINE)["run"]
    assert found["status"] == "warning" and "python syn_pipelines/s1_predict_data.py" in found["fix"]


@pytest.mark.parametrize("free, status", [(10**6, "problem"), (10**9, "warning"), (10**12, "ok")])
def test_room_on_the_disk(folder, monkeypatch, free, status):
    class Usage:
        pass
    Usage.free = free
    monkeypatch.setattr(_doctor_machine.shutil, "disk_usage", lambda path: Usage)
    assert examined(folder, **OFFLINE)["disk"]["status"] == status


# --- the machine -----------------------------------------------------------------------------------------------------

@pytest.mark.parametrize("version, ok", [((3, 9, 18), False), ((3, 10, 0), True), ((3, 12, 9), True), ((3, 13, 0), False)])
def test_python_versions(folder, monkeypatch, version, ok):
    monkeypatch.setattr(_doctor_machine.sys, "version_info", version)
    assert (examined(folder, **OFFLINE)["python"]["status"] == "ok") is ok


class FakeCuda:
    """What torch says of a machine with two GPUs."""
    class version:
        cuda = "12.8"
    __version__ = "2.13.0"

    class cuda:
        is_available = staticmethod(lambda: True)
        device_count = staticmethod(lambda: 2)
        mem_get_info = staticmethod(lambda gpu: (30 << 30, 40 << 30))
        get_device_name = staticmethod(lambda gpu: "A100")


@pytest.mark.parametrize("n_gpu, status, word", [("0", "ok", "0*: A100"), ("0,1", "ok", "1*: A100"),
                                                 ("2", "problem", "names GPU 2")])
def test_gpus_are_shown_with_their_memory_and_those_that_are_not_there_are_a_problem(folder, monkeypatch, n_gpu, status, word):
    monkeypatch.setitem(sys.modules, "torch", FakeCuda)
    monkeypatch.setattr(_doctor_machine, "find_spec", lambda name: object())
    found = examined(folder, n_gpu=n_gpu, **OFFLINE)["gpu"]
    assert found["status"] == status and word in found["found"] and "30.0 of 40.0 GiB" in found["found"]


@pytest.mark.parametrize("driver, cuda, hidden, word", [("550.54", None, "0", "built for the CPU"),
                                                        ("450.1", "12.8", "0", "cannot use it"), ("550.54", "12.8", "", "hidden")])
def test_a_gpu_that_torch_cannot_use_is_explained(folder, monkeypatch, driver, cuda, hidden, word):
    class Blind(FakeCuda):
        class version:
            pass

        class cuda:
            is_available = staticmethod(lambda: False)
    Blind.version.cuda = cuda
    monkeypatch.setitem(sys.modules, "torch", Blind)
    monkeypatch.setattr(_doctor_machine, "find_spec", lambda name: object())
    monkeypatch.setattr(_doctor_machine, "_driver", lambda: driver)
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", hidden)
    found = examined(folder, **OFFLINE)["gpu"]
    assert found["status"] == "warning" and word in found["found"]
