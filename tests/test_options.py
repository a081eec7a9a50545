"""Options: the same names and types from the command line, a YAML file and keywords; mistakes are one clear line."""

from __future__ import annotations

import dataclasses
import importlib
import os
import shlex
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from syn_pipelines import run_all, s0_prepare_data, s1_predict_data, s2_continous_generation, s4_split_data
from syn_pipelines.utils.errors import UserError
from syn_pipelines.utils.options import TextOptions, command_of, folder_name, load_options, option, read_config

ROOT = Path(__file__).resolve().parents[1]
SCRIPTS = sorted(path.name for path in (ROOT / "syn_pipelines").glob("*.py") if path.name != "__init__.py")
S1 = s1_predict_data.Options
# Text that can be written to a file and given as an argument.
TEXT = st.text(st.characters(exclude_categories=["Cs"], exclude_characters="\0"))
WITHOUT_CONTROLS = st.text(st.characters(exclude_categories=["Cs", "Cc"]))


def call(script: str, *arguments: str, interpreter: tuple[str, ...] = ()) -> subprocess.CompletedProcess[str]:
    """Run a script as a person would, from the project's root."""
    return subprocess.run([sys.executable, *interpreter, f"syn_pipelines/{script}", *arguments], cwd=ROOT,
                          capture_output=True, text=True, encoding="utf-8", timeout=60)


def options_of(arguments: str, cls: type = S1) -> object:
    return load_options(cls, shlex.split(arguments))


def message(arguments: str, cls: type = S1) -> str:
    with pytest.raises(UserError) as error:
        options_of(arguments, cls)
    assert "\n" not in str(error.value)
    return str(error.value)


@pytest.fixture
def config(tmp_path):
    """Writes a YAML file and returns its path."""
    def write(text: str | bytes) -> str:
        path = tmp_path / "run.yaml"
        path.write_bytes(text if isinstance(text, bytes) else text.encode("utf-8"))
        return str(path)
    return write


# --- flags ---------------------------------------------------------------------------------------------------------

@pytest.mark.parametrize("arguments, name, value", [
    ("--batch_size 7", "batch_size", 7), ("--batch_size=7", "batch_size", 7), ("--skip -1", "skip", -1),
    ("--temperature 0.5", "temperature", 0.5), ("--temperature 1", "temperature", 1.0),
    ("--overwrite", "overwrite", True), ("--overwrite 1", "overwrite", True), ("--overwrite=0", "overwrite", False),
    ("--no-overwrite", "overwrite", False), ("--overwrite --no-overwrite", "overwrite", False),
    ("--overwrite true", "overwrite", True), ("--n_gpu 0,1", "n_gpu", "0,1"), ("--n_gpu '[0, 1]'", "n_gpu", "[0, 1]"), ("--dense_lang 1", "dense_lang", "1"),
    ("--mode pos", "mode", "pos"), ("--seed 1 --seed 2", "seed", 2), ("", "file_name", "sample_zh"),
])
def test_flags_become_values_of_their_type(arguments, name, value):
    found = getattr(options_of(arguments), name)
    assert found == value and type(found) is type(value)


@pytest.mark.parametrize("arguments, words", [
    ("--batch_size many", ["--batch_size", "'many'", "whole number"]),
    ("--batch_size 2.5", ["--batch_size", "'2.5'", "whole number"]),
    ("--batch_size 0", ["--batch_size", "0", "at least 1"]),
    ("--batch_size", ["--batch_size", "expected one argument"]),
    ("--seed=-1", ["--seed", "-1", "between 0 and"]), (f"--seed {2**63}", ["--seed", "between 0 and"]),
    ("--temperature nan", ["--temperature", "'nan'", "not a number"]),
    ("--temperature -1", ["--temperature", "between 0 and 10"]),
    ("--overwrite maybe", ["--overwrite", "'maybe'", "neither 0 nor 1"]),
    ("--mode nouns", ["--mode", "'nouns'", "entity, pos"]),
    ("--lang de", ["--lang", "'de'", "auto, zh, en, ja, ko"]),
    ("--dense_lang 2", ["--dense_lang", "'2'"]),
    ("--skip -2", ["--skip", "-2"]), ("--n_gpu first", ["--n_gpu", "'first'", "0,1"]), ("--n_gpu=-1", ["--n_gpu", "'-1'"]),
    ("--batchsize 3", ["'--batchsize'", "did you mean '--batch_size'?"]),
    ("--mod pos", ["'--mod'"]),  # no abbreviations: a new option must not change what an old command means
    ("stray", ["'stray'"]),
])
def test_a_bad_flag_is_one_line_that_names_it_and_what_is_wrong(arguments, words):
    text = message(arguments)
    assert all(word in text for word in [*words, "s1_predict_data", "--help"]), text


def test_all_bad_values_are_named_at_once():
    text = message("--seed x --batch_size y --mode z")
    assert all(name in text for name in ("--seed", "--batch_size", "--mode"))


@pytest.mark.parametrize("arguments", [["--nonsense"], ["--seed", "x"], ["--file_name", "../../etc"], ["--mode"]])
def test_a_script_ends_with_exit_2_and_one_line_on_a_bad_flag(arguments):
    done = call("s1_predict_data.py", *arguments)
    assert (done.returncode, done.stdout) == (2, "")
    assert done.stderr.startswith("error: ") and done.stderr.count("\n") == 1 and "Traceback" not in done.stderr


@pytest.mark.parametrize("script", SCRIPTS)
def test_every_script_takes_the_common_flags(script):
    options = importlib.import_module(f"syn_pipelines.{script.removesuffix('.py')}").Options
    flags = {"file_dir": "d", "file_name": "n", "save_type_name": "s", "seed": "7", "dense_lang": "1", "lang": "ja"}
    opts = load_options(options, [f"--{name}={value}" for name, value in flags.items()])
    assert {name: str(getattr(opts, name)) for name in flags} == flags


@pytest.mark.parametrize("script", SCRIPTS)
def test_help_works_and_loads_no_model_runtime(script):
    done = call(script, "--help", interpreter=("-X", "importtime"))
    assert done.returncode == 0, done.stderr[-2000:]
    assert all(flag in done.stdout for flag in ("--file_dir", "--file_name", "--save_type_name", "--seed", "--config"))
    loaded = {line.rpartition("|")[2].strip().partition(".")[0] for line in done.stderr.splitlines()}
    assert not loaded & {"torch", "transformers", "numpy", "jieba", "textblob", "nltk"}


def test_help_shows_every_flag_with_its_default():
    shown = call("s1_predict_data.py", "--help").stdout
    for field in dataclasses.fields(S1):
        assert f"--{field.name}" in shown
    assert "default: 20" in shown and "95 %" in shown


@given(st.lists(st.sampled_from(["--seed", "--seed=1", "--overwrite", "--no-overwrite", "--mode", "pos", "3", "--", "-1",
                                 "--config", "--file_name"]) | TEXT.filter(lambda t: not t.startswith(("-h", "--h")))))
def test_any_arguments_give_options_or_one_clear_error(arguments):
    try:
        assert isinstance(load_options(S1, arguments), S1)
    except UserError as error:
        assert str(error)


@given(seed=st.integers(0, 2**63 - 1), file_dir=WITHOUT_CONTROLS, overwrite=st.booleans(), temperature=st.floats(0, 10), mode=st.sampled_from(["entity", "pos"]),
       file_name=WITHOUT_CONTROLS.filter(lambda name: not folder_name(name)))
def test_the_command_line_of_options_gives_the_same_options(**values):
    opts = load_options(S1, False, values)
    python, script, *arguments = shlex.split(command_of(opts))
    assert (python, script) == ("python", "syn_pipelines/s1_predict_data.py")
    assert load_options(S1, arguments) == opts


# --- names of folders ----------------------------------------------------------------------------------------------

@pytest.mark.parametrize("name", ["../../etc", "/etc", "..", ".", "", ".hidden", "a/b", "a\\b", "a\nb", "a\0b", "x" * 300,
                                  "字" * 100])
def test_no_folder_name_leads_out_of_the_data_folder(name):
    for key in ("file_name", "save_type_name"):
        with pytest.raises(UserError, match=f"--{key}: "):
            load_options(S1, False, {key: name})


@given(TEXT)
def test_an_accepted_folder_name_is_one_folder_below(name):
    if not folder_name(name):
        assert Path("/data", name).parts == ("/", "data", name)


# --- keywords ------------------------------------------------------------------------------------------------------

def test_keywords_alone_never_look_at_the_command_line(monkeypatch):
    monkeypatch.setattr(sys, "argv", ["x", "--help", "--seed", "7"])
    assert load_options(S1, False, {"batch_size": 3}) == S1(batch_size=3)


def test_the_flags_are_exactly_the_keywords():
    for cls in (s0_prepare_data.Options, S1, s2_continous_generation.Options, s4_split_data.Options):
        values = {f.name: f.default for f in dataclasses.fields(cls) if f.default != ""}
        arguments = [f"--{name}={int(value) if isinstance(value, bool) else value}" for name, value in values.items()]
        assert load_options(cls, arguments) == load_options(cls, False, values) == cls()


@pytest.mark.parametrize("keywords, words", [
    ({"batchsize": 3}, ["unknown option 'batchsize'", "did you mean 'batch_size'?"]),
    ({"batch_size": "many"}, ["--batch_size", "'many'"]),
    ({"batch_size": True}, ["--batch_size", "True"]),
    ({"file_name": None}, ["--file_name", "None"]),
    ({"temperature": float("inf")}, ["--temperature", "inf"]),
    ({"file_dir": "a\udcff"}, ["--file_dir", "UTF-8"]),
    ({"config": "no/such.yaml"}, ["no/such.yaml", "--config"]),
])
def test_bad_keywords_raise_user_errors_that_name_them(keywords, words):
    with pytest.raises(UserError) as error:
        s1_predict_data.main(cmd_args=False, **keywords)
    assert all(word in str(error.value) for word in words), error.value


def test_natural_values_of_a_notebook_are_taken():
    assert load_options(S1, ["--file_dir=~/sets"]).file_dir == os.path.expanduser("~/sets")
    assert load_options(S1, ["--file_dir=a~/~b"]).file_dir == "a~/~b"
    opts = load_options(S1, False, {"n_gpu": [0, 1], "dense_lang": True, "overwrite": 1, "file_dir": Path("a/b"),
                                    "temperature": 1, "batch_size": 4.0})
    assert (opts.n_gpu, opts.dense_lang, opts.overwrite, opts.file_dir, opts.temperature, opts.batch_size) == (
        "0,1", "1", True, "a/b", 1.0, 4)
    assert load_options(S1, False, {"n_gpu": 1}).n_gpu == "1"


@given(st.dictionaries(st.sampled_from([f.name for f in dataclasses.fields(S1) if f.name != "config"]) | st.text(max_size=5),
                       st.none() | st.booleans() | st.integers() | st.floats() | st.text() | st.lists(st.integers())))
def test_any_keywords_give_options_or_a_user_error(keywords):
    try:
        assert isinstance(load_options(S1, False, keywords), S1)
    except UserError as error:
        assert str(error)


def test_an_option_without_default_may_stay_unset():
    assert load_options(run_all.Options, False, {}).batch_size is None
    assert load_options(run_all.Options, False, {"batch_size": None}).batch_size is None
    assert load_options(run_all.Options, ["--batch_size=5"]).batch_size == 5


# --- YAML ----------------------------------------------------------------------------------------------------------

def test_flags_win_over_sections_over_top_level_keys_over_defaults(config):
    path = config("seed: 1\nbatch_size: 2\ntemperature: 0.1\ns1_predict_data:\n  batch_size: 3\n  temperature: 0.2\n")
    opts = load_options(S1, [f"--config={path}", "--temperature=0.3"])
    assert (opts.seed, opts.batch_size, opts.temperature, opts.mode) == (1, 3, 0.3, "entity")
    assert load_options(S1, False, {"config": path, "seed": 9}).seed == 9


@given(st.lists(st.none() | st.integers(0, 2**63 - 1), min_size=3, max_size=3))
def test_the_most_specific_given_value_counts(tmp_path_factory, layers):
    top, section, flag = layers
    path = tmp_path_factory.mktemp("yaml") / "run.yaml"
    path.write_text("\n".join([f"seed: {top}"] * (top is not None) + ["s1_predict_data:"]
                              + [f"  seed: {section}"] * (section is not None)), encoding="utf-8")
    flags = [f"--seed={flag}"] * (flag is not None)
    expected = next((value for value in (flag, section, top) if value is not None), 42)
    assert load_options(S1, [f"--config={path}", *flags]).seed == expected


def test_a_top_level_model_and_batch_size_mean_the_language_model_alone(config):
    values = read_config(config("model_from_pretrained: M\nbatch_size: 5\nseed: 7\n"))
    for script in ("s1_predict_data", "s2_continous_generation", "s3_predict_syn_data"):
        assert values[script] == {"model_from_pretrained": "M", "batch_size": "5", "seed": "7"}
    for script in ("s7_pred_syn_data", "train_ner", "eval_ner"):
        assert values[script] == {"seed": "7"}


def test_a_section_reaches_its_own_script_alone(config):
    values = read_config(config("s7_pred_syn_data:\n  model_from_pretrained: N\n  batch_size: 9\n"))
    assert values["s7_pred_syn_data"] == {"model_from_pretrained": "N", "batch_size": "9"}
    assert not any(found for script, found in values.items() if script != "s7_pred_syn_data")


def test_a_top_level_key_reaches_the_steps_that_have_the_flag(config):
    values = read_config(config("label_prefix: X_\n"))
    assert values["s5_merge_data"] == values["s8_process_label_and_combine"] == {"label_prefix": "X_"}
    assert values["s4_split_data"] == {}


@pytest.mark.parametrize("text, words", [
    ("sed: 1\n", ["'sed'", "did you mean 'seed'?"]),
    ("s1_predict: {}\n", ["'s1_predict'", "did you mean 's1_predict_data'?"]),
    ("s4_split_data:\n  mode: pos\n", ["s4_split_data", "'mode'"]),
    ("a: 1\nb: 2\n", ["'a'", "'b'"]),
    ("s1_predict_data: 5\n", ["s1_predict_data", "no keys"]),
    ("config: other.yaml\n", ["'config'"]),
    ("s1_predict_data:\n  config: other.yaml\n", ["'config'"]),
    ("- seed\n", ["list"]),
    ("seed: [1\n", ["not valid YAML"]),
    ("seed: 1\nmode: *x\n", ["run.yaml:2", "not valid YAML"]),
    ("seed: 1\n\x00", ["not valid YAML"]),
    ("seed: 1\nmode: pos\nseed: 2\n", ["run.yaml:3", "'seed' stands twice"]),
    ("s4_split_data:\n  seed: 1\ns4_split_data:\n  seed: 2\n", ["run.yaml:3", "stands twice"]),
    ("seed: !!int x\n", ["cannot be read"]),
    ("seed: " + "[" * 3000, ["cannot be read"]),
    (b"seed: \xff\n", ["UTF-8"]),
    ("seed: many\n", ["run.yaml:1: seed: 'many'", "whole number"]),
    ("s1_predict_data:\n  batch_size: 0\n", ["run.yaml:2: batch_size: 0", "at least 1"]),
])
def test_a_mistake_in_the_file_is_one_line_that_names_file_and_key(config, text, words):
    found = message(f"--config={config(text)}")
    assert all(word in found for word in ["run.yaml", *words]), found


def test_a_key_of_no_step_ends_a_script_with_exit_2(config):
    done = call("s4_split_data.py", f"--config={config('sizes: 3')}")
    assert done.returncode == 2 and "'sizes'" in done.stderr and "Traceback" not in done.stderr


@pytest.mark.parametrize("tag", ["!!python/object/apply:os.mkdir", "!!python/name:os.mkdir", "!!python/object/new:os.mkdir"])
def test_python_tags_are_refused_and_do_nothing(config, tmp_path, tag):
    text = message(f"--config={config(f'file_dir: {tag} [{tmp_path}/made]')}")
    assert "run.yaml:1" in text and not (tmp_path / "made").exists()


def test_names_that_look_like_other_values_stay_names(config):
    path = config("file_name: 010\nsave_type_name: 2024-11-21\ns1_predict_data:\n  n_gpu: 0,1\n  backend: offline\n")
    opts = load_options(S1, False, {"config": path})
    assert (opts.file_name, opts.save_type_name, opts.n_gpu) == ("010", "2024-11-21", "0,1")
    assert load_options(S1, False, {"config": config("save_type_name: no\noverwrite: yes\n")}) == S1(
        save_type_name="no", overwrite=True, config=str(path))


def test_lists_anchors_byte_order_mark_and_empty_sections_are_understood(config):
    path = config("\ufeffs1_predict_data: &llm\n  n_gpu: [0, 1]\n  batch_size: 3\ns2_continous_generation:\n  <<: *llm\n  batch_size: 4\n"
                  "s3_predict_syn_data:\n  # batch_size: 3\n")
    values = read_config(path)
    assert values["s1_predict_data"] == {"n_gpu": ["0", "1"], "batch_size": "3"}
    assert values["s2_continous_generation"] == {"n_gpu": ["0", "1"], "batch_size": "4"}
    assert values["s3_predict_syn_data"] == {} and load_options(S1, False, {"config": path}).n_gpu == "0,1"


def test_an_empty_file_changes_nothing(config):
    path = config("# nothing yet\n")
    assert load_options(S1, False, {"config": path}) == S1(config=path)


def test_a_model_given_as_flag_is_used_although_the_file_says_offline(config):
    path = config("backend: offline\n")
    assert load_options(S1, [f"--config={path}", "--model_from_pretrained=M"]).backend == "auto"
    path = config("model_from_pretrained: M\n")
    opts = load_options(S1, [f"--config={path}", "--backend=offline"])
    assert (opts.backend, opts.model_from_pretrained) == ("offline", "")


@dataclass(frozen=True)
class ToolOptions(TextOptions):
    """Options of a tool that is no step."""

    depth: int = option(1, "how deep")


def test_a_tool_that_is_no_step_reads_the_common_keys_of_a_file(config):
    path = config("file_name: weibo\nseed: 3\ns1_predict_data:\n  mode: pos\n")
    opts = load_options(ToolOptions, [f"--config={path}"])
    assert (opts.file_name, opts.seed, opts.depth) == ("weibo", 3, 1)


@pytest.mark.parametrize("given, kept", [(True, "plan"), (False, ""), ("1", "plan"), ("0", ""), ("probe", "probe"), ("", "")])
def test_a_flag_that_may_stand_alone_also_takes_yes_and_no(given, kept):
    assert load_options(S1, False, {"dry_run": given}).dry_run == kept
    with pytest.raises(UserError, match="'maybe' is none of plan, probe"):
        load_options(S1, False, {"dry_run": "maybe"})


@pytest.mark.parametrize("path", sorted((ROOT / "configs").glob("*.yaml")), ids=lambda path: path.name)
def test_every_shipped_file_fits_the_steps(path):
    assert read_config(str(path))
    load_options(run_all.Options, False, {"config": str(path)})


def test_a_section_for_run_all_is_refused_for_its_keys_belong_to_the_steps(tmp_path):
    config = tmp_path / "run.yaml"
    config.write_text("run_all:\n  seed: 1\n", encoding="utf-8")
    with pytest.raises(UserError, match="top level"):
        read_config(str(config))
