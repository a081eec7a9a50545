"""What the code never does, what a checkpoint cannot make it do, and where an API key never goes."""

from __future__ import annotations

import ast
import importlib
import json
import os
import pickle
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
from fault_server import Fault, FaultServer
from hypothesis import given
from hypothesis import strategies as st
from pipeline import NAME, ROOT, write_dataset, write_run

from syn_pipelines import s4_split_data
from syn_pipelines.utils.errors import ServiceError, UserError
from syn_pipelines.utils.llm.openai_session import Settings
from syn_pipelines.utils.visible import as_message, visible

SOURCES = sorted((ROOT / "syn_pipelines").rglob("*.py"))
KEY = "sk-planted-0123456789-abcdefghij"
TOKEN = "hf_planted0123456789abcdefghij"

# --- the code -------------------------------------------------------------------------------------------------------

FORBIDDEN_CALLS = {"eval", "exec", "compile", "__import__", "system", "popen", "getstatusoutput", "getoutput", "unsafe_load",
                   "full_load", "load_all", "UnsafeLoader", "FullLoader"}
FORBIDDEN_MODULES = {"pickle", "cPickle", "dill", "cloudpickle", "marshal", "shelve", "joblib"}


def calls(path: Path) -> Iterator[tuple[str, str, ast.Call]]:
    """(called name, what it is called on, call)"""
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Call):
            name = node.func.attr if isinstance(node.func, ast.Attribute) else getattr(node.func, "id", "")
            on = ast.unparse(node.func.value) if isinstance(node.func, ast.Attribute) else ""
            yield name, on, node


@pytest.mark.parametrize("path", SOURCES, ids=lambda path: str(path.relative_to(ROOT / "syn_pipelines")))
def test_no_source_runs_text_as_code_or_unpickles(path):
    for name, on, call in calls(path):
        where = f"{path}:{call.lineno}: {ast.unparse(call)[:80]}"
        flags = {keyword.arg: keyword.value for keyword in call.keywords}
        evaluates = name == "eval" and bool(on)  # model.eval() is torch's
        assert name not in FORBIDDEN_CALLS or evaluates or (name == "compile" and on == "re"), where
        assert not isinstance(flags.get("shell"), ast.Constant) or not flags["shell"].value, where
        assert "shell" not in flags or isinstance(flags["shell"], ast.Constant), where
        if name == "load" and on == "torch":
            assert isinstance(flags.get("weights_only"), ast.Constant) and flags["weights_only"].value is True, where
        if name == "load" and on == "yaml":
            raise AssertionError(where)
        if "trust_remote_code" in flags:
            said = ast.unparse(flags["trust_remote_code"])
            assert said in ("False", "trust_remote_code", "self._trust_remote_code", "case.llm.trust_remote_code") or (
                said == "True" and path.name == "glm3_backend.py"), where  # behind a check of the flag, see the tests of GLM3
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        modules = [node.module or ""] if isinstance(node, ast.ImportFrom) else (
            [alias.name for alias in node.names] if isinstance(node, ast.Import) else [])
        assert not FORBIDDEN_MODULES & {module.partition(".")[0] for module in modules}, f"{path}:{getattr(node, 'lineno', 0)}"
        if isinstance(node, ast.ClassDef):
            loaders = [ast.unparse(base) for base in node.bases if ast.unparse(base).startswith("yaml.")]
            assert set(loaders) <= {"yaml.SafeLoader"}, f"{path}:{node.lineno}"


def test_every_loader_of_transformers_is_told_whether_to_trust():
    told = {"AutoConfig", "AutoTokenizer", "AutoModel", "AutoModelForTokenClassification", "AutoModelForCausalLM", "make", "loader"}
    seen = 0
    for path in SOURCES:
        for name, on, call in calls(path):
            if name in ("from_pretrained", "from_config") and on.rpartition(".")[2] in told:
                seen += 1
                keywords = [keyword.arg for keyword in call.keywords]
                # "loader" gets its options as a dict that holds it
                assert "trust_remote_code" in keywords or (on == "loader" and None in keywords), f"{path}:{call.lineno}"
    assert seen >= 7


# --- checkpoints ----------------------------------------------------------------------------------------------------

class Trap:
    """Unpickling this makes a file."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def __reduce__(self):
        return open, (str(self.path), "w")


def code_of_its_own(folder: Path, trapped: Path) -> Path:
    """Turn a checkpoint into one that needs its own code, which makes a file when it is run."""
    names = {"AutoConfig": "own.Config", "AutoModel": "own.Model", "AutoModelForCausalLM": "own.Model",
             "AutoModelForTokenClassification": "own.Model"}
    config = json.loads((folder / "config.json").read_text())
    (folder / "config.json").write_text(json.dumps({**config, "model_type": "own", "auto_map": names}))
    told = json.loads((folder / "tokenizer_config.json").read_text())
    (folder / "tokenizer_config.json").write_text(json.dumps(
        {**told, "tokenizer_class": "OwnTokenizer", "auto_map": {"AutoTokenizer": ["own.OwnTokenizer", None]}}))
    (folder / "own.py").write_text(f"open({str(trapped)!r}, 'w')\n")
    return folder


@pytest.fixture
def trapped(tmp_path):
    """A path at which no file may appear."""
    path = tmp_path / "trapped"
    yield path
    assert not path.exists()


def script(name: str, folder: Path, *flags: str, **variables: str) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, str(ROOT / "syn_pipelines" / f"{name}.py"), f"--file_dir={folder}", f"--file_name={NAME}", *flags]
    return subprocess.run(command, capture_output=True, text=True, timeout=280,
                          env={**os.environ, "PYTHONPATH": str(ROOT), "HF_HUB_OFFLINE": "1", "OMP_NUM_THREADS": "1", **variables})


@pytest.mark.parametrize("name, flag", [("s1_predict_data", "model_from_pretrained"), ("train_ner", "from_pretrained"),
                                        ("eval_ner", "model_from_pretrained"), ("s7_pred_syn_data", "model_from_pretrained")])
def test_code_of_a_checkpoint_does_not_run_and_the_error_says_that_it_is_needed(name, flag, tmp_path, trapped):
    from tiny_encoders import build_tiny_bert
    from tiny_models import build_tiny_model

    write_run(tmp_path, held_out=True)
    model = build_tiny_model("llama", tmp_path / "model") if name == "s1_predict_data" else build_tiny_bert(tmp_path / "model")
    code_of_its_own(model, trapped)
    if name in ("eval_ner", "s7_pred_syn_data"):
        config = json.loads((model / "config.json").read_text())
        (model / "config.json").write_text(json.dumps({**config, "architectures": ["OwnForTokenClassification"]}))
    step = importlib.import_module(f"syn_pipelines.{name}")
    flags = [f"--file_dir={tmp_path}", f"--file_name={NAME}", f"--{flag}={model}"]
    flags += ["--train=gold", "--max_steps=1"] if name == "train_ner" else []
    if name == "s7_pred_syn_data":
        s4_split_data.main(flags[:2])
    with pytest.raises(UserError, match="needs code that comes with the checkpoint") as caught:
        step.main(flags)
    assert ("--trust_remote_code" if name == "s1_predict_data" else "never run") in str(caught.value)


def test_a_pickle_in_place_of_weights_is_never_run(tmp_path, trapped):
    import torch
    from tiny_encoders import build_tiny_bert
    from tiny_models import build_tiny_model
    from transformers import AutoConfig, AutoModelForTokenClassification

    from syn_pipelines.ner.checkpoints import read_checkpoint
    from syn_pipelines.ner.encoders import load_encoder
    from syn_pipelines.ner.prediction import NerPredictor
    from syn_pipelines.utils.llm.transformers_loading import Placement, load_model

    encoder, classifier = build_tiny_bert(tmp_path / "encoder"), build_tiny_bert(tmp_path / "classifier")
    config = AutoConfig.from_pretrained(classifier, id2label={0: "O", 1: "B-PER"}, label2id={"O": 0, "B-PER": 1})
    AutoModelForTokenClassification.from_config(config).save_pretrained(classifier)
    language_model = build_tiny_model("llama", tmp_path / "language_model")
    loads = {encoder: lambda: load_encoder(encoder), classifier: lambda: NerPredictor.from_pretrained(classifier),
             language_model: lambda: load_model(str(language_model), Placement("float32"))}
    trap = {"embeddings.word_embeddings.weight": Trap(trapped)}
    for folder, load in loads.items():
        load()
        (folder / "model.safetensors").unlink()
        for name in ("pytorch_model.bin", "model.safetensors"):
            for write in (lambda path: torch.save(trap, path), lambda path: path.write_bytes(pickle.dumps(trap))):
                write(folder / name)
                with pytest.raises(UserError, match=folder.name):
                    load()
                assert not trapped.exists(), f"{folder} {name}"
    torch.save(trap, tmp_path / "model.checkpoint")
    with pytest.raises(UserError, match="is no checkpoint that can be read"):
        read_checkpoint(tmp_path / "model.checkpoint", {})


def test_a_chat_template_cannot_reach_out_of_its_sandbox(tmp_path, trapped):
    from tiny_models import build_tiny_model

    write_dataset(tmp_path)
    model = build_tiny_model("llama", tmp_path / "model")
    template = tmp_path / "template.jinja"
    template.write_text("{{ cycler.__init__.__globals__.os.system('touch " + str(trapped) + "') }}"
                        "{% for m in messages %}{{ m.content }}{% endfor %}")
    done = script("s1_predict_data", tmp_path, f"--model_from_pretrained={model}", f"--chat_template={template}", "--limit=1")
    assert done.returncode == 2 and "Traceback" not in done.stderr, done.stderr


# --- secrets --------------------------------------------------------------------------------------------------------

def holding(folder: Path, *secrets: str) -> list[Path]:
    """Files below the folder that hold one of the texts."""
    return [path for path in folder.rglob("*") if path.is_file() and any(s.encode() in path.read_bytes() for s in secrets)]


def answer(body):
    text = body["messages"][-1]["content"]
    return f"[] {KEY}" if "JSON" in text or "json" in text else f"今天张三在北京的公园里走了很久。{KEY} 后来他去了上海看朋友。"


def secretive(name: str, folder: Path, *flags: str, **variables: str) -> subprocess.CompletedProcess[str]:
    return script(name, folder, "--model_from_pretrained=tiny", "--concurrency=4", *flags, OPENAI_API_KEY=KEY, HF_TOKEN=TOKEN,
                  OPENAI_LOG="debug", **variables)


def test_a_key_is_in_no_output_of_a_whole_run(tmp_path):
    """The server demands the key, and even writes it into its answers."""
    write_dataset(tmp_path, held_out=True)
    config = tmp_path / "steps.yaml"
    config.write_text("train_ner: {max_steps: 1}\n")
    with FaultServer(answer=answer, key=KEY, holds=()) as server:
        runs = [secretive("run_all", tmp_path, f"--base_url={server.url}", f"--config={config}", *flags)
                for flags in (["--dry_run=probe"], [], ["--retry_failed"])]
        asked = len(server.requests)
    assert [done.returncode for done in runs] == [0, 0, 0], runs[1].stderr[-2000:]
    assert asked > 20 and (tmp_path / NAME / "GLM4" / "1000" / "train_1000_fusion.jsonl").exists()
    assert not [text for done in runs for text in (done.stdout, done.stderr) if KEY in text or TOKEN in text]
    assert not holding(tmp_path, KEY, TOKEN)


@pytest.mark.parametrize("fault", [None, Fault(401, f"no {KEY} here", retry_after=KEY), Fault(500, KEY), Fault(403, KEY, code=KEY),
                                   Fault(404, f"no model {KEY}"), Fault(400, KEY, charset=KEY), Fault(raw=KEY.encode()),
                                   Fault(402, KEY), Fault(400, headers={"X-Key": KEY, "Content-Encoding": KEY})],
                         ids=lambda fault: str(fault and (fault.status, fault.message[:2])))
def test_a_key_that_a_server_throws_back_is_shown_to_nobody(fault, tmp_path):
    write_dataset(tmp_path)
    with FaultServer(faults=lambda number, body: fault, key="another" if fault is None else "", models=[KEY]) as server:
        done = secretive("s1_predict_data", tmp_path, f"--base_url={server.url}", "--limit=1")
    assert "Traceback" not in done.stderr and done.stderr
    assert KEY not in done.stdout + done.stderr and not holding(tmp_path, KEY)


@given(st.lists(st.sampled_from([str, str.upper, lambda char: f"\\u{ord(char):04x}", lambda char: f"\\u{ord(char):04X}"]),
                min_size=len(KEY), max_size=len(KEY)))
def test_a_key_is_taken_out_of_a_reply_however_json_spells_it(ways):
    spelt = "".join(way(char) for way, char in zip(ways, KEY))
    for shown in (Settings("http://h/v1", KEY, 1, 1.0).without_key, Settings("http://h/v1", KEY, 1, 1.0).told):
        assert shown(f"a {spelt} b") == "a *** b"


def test_a_key_is_not_sent_on_to_the_server_of_a_redirect(tmp_path):
    write_dataset(tmp_path)
    with FaultServer() as other:
        moved = Fault(307, headers={"Location": f"http://localhost:{other.port}/v1/chat/completions"})
        with FaultServer(key=KEY, faults=lambda number, body: moved) as server:
            secretive("s1_predict_data", tmp_path, f"--base_url={server.url}", "--limit=1", "--timeout=5")
            assert server.requests
    assert other.headers and KEY not in str(other.headers) and not holding(tmp_path, KEY)


@pytest.mark.parametrize("address", ["http://user:geheim@127.0.0.1:9/v1", "http://user:ge/heim@h/v1", "http://geheim@h/v1",
                                     "https://u:geheim@geheim@h", "http://h/v1?key=geheim"])
def test_a_password_in_an_address_is_refused_and_not_repeated(address, tmp_path):
    write_dataset(tmp_path)
    config = tmp_path / "address.yaml"
    config.write_text(json.dumps({"base_url": address}))
    for flag in (f"--base_url={address}", f"--config={config}"):
        done = script("s1_predict_data", tmp_path, "--model_from_pretrained=tiny", flag)
        assert done.returncode == 2 and "is no plain address" in done.stderr
        assert "geheim" not in done.stdout + done.stderr
    assert not holding(tmp_path / NAME, "geheim")


def test_the_password_of_a_proxy_is_not_shown(tmp_path):
    write_dataset(tmp_path)
    for scheme in ("http", "nonsense"):
        done = secretive("s1_predict_data", tmp_path, "--base_url=http://far.away.invalid/v1", "--limit=1",
                         HTTP_PROXY=f"{scheme}://user:geheim@127.0.0.1:9")
        assert done.returncode == 2 and "Traceback" not in done.stderr and "geheim" not in done.stdout + done.stderr


# --- what is shown --------------------------------------------------------------------------------------------------

@pytest.mark.parametrize("text, shown", [
    ("\x1b[31mred\x07", "\\u001b[31mred\\u0007"), ("a\rb", "a\\u000db"), ("a\nb\tc", "a\nb\tc"), ("\u202egnp.exe", "\\u202egnp.exe"),
    ("北京 é 👩\u200d👩", "北京 é 👩\u200d👩"), ("\ud800", "\\ud800"), ("\x9b2J", "\\u009b2J"), ("\u2028", "\\u2028"),
])
def test_what_steers_a_terminal_is_shown_as_an_escape(text, shown):
    assert visible(text) == shown and str(UserError(text)) == shown and str(ServiceError(text)) == shown


@pytest.mark.parametrize("text, shown", [
    ("see http://user:pass@host/v1 now", "see http://***@host/v1 now"), ("http://u:p/a@s@host", "http://***@host"),
    ("socks5://u@h", "socks5://***@h"), ("http://host/v1 mail@host", "http://host/v1 mail@host"),
])
def test_a_message_tells_no_password(text, shown):
    assert as_message(text) == shown


def test_an_endless_value_does_not_bury_the_message():
    message = str(UserError("file:1: " + "x" * 10**6 + " is wrong. Do this."))
    assert len(message) < 2100 and message.startswith("file:1: ") and message.endswith("is wrong. Do this.")


def test_visible_json_is_the_same_json():
    value = {"\x7f\x9b\u202e": ["\u2028", "\x1b"]}
    assert json.loads(visible(json.dumps(value, ensure_ascii=False))) == value
