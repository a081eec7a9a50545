"""Every reader with broken files of every kind: one message that names the file, nothing hangs, nothing made before is lost."""

from __future__ import annotations

import json
import os
import re
import shutil
import signal
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from limits import COMPUTING, no_longer_than
from pipeline import NAME, read_rows, sentence, write_dataset, write_rows

from syn_pipelines import (
    eval_ner,
    run_all,
    s0_prepare_data,
    s1_predict_data,
    s2_continous_generation,
    s3_predict_syn_data,
    s4_split_data,
    s5_merge_data,
    s6_combine_syn_fusion_label,
    s7_pred_syn_data,
    s8_process_label_and_combine,
    train_ner,
)
from syn_pipelines.ner.checkpoints import Checkpoint, write_checkpoint
from syn_pipelines.tools import ablation, oracle
from syn_pipelines.utils.errors import UserError
from syn_pipelines.utils.inventories import load_inventory, load_target_names
from syn_pipelines.utils.llm.checkpoints import read_chat_template
from syn_pipelines.utils.options import PROJECT_ROOT, build_options
from syn_pipelines.utils.paths import RunPaths
from syn_pipelines.utils.prompts import load_prompt

RUN = "GLM4"
SECONDS = 60  # for one call: what takes longer hangs
MORE_THAN_A_LINE = (1 << 26) + 4096  # bytes

# Content in place of a file's own, as a function of that.
CONTENT: dict[str, Callable[[bytes], bytes]] = {
    "empty": lambda old: b"",
    "one blank line": lambda old: b"\n",
    "byte order mark": lambda old: b"\xef\xbb\xbf" + old,
    "line ends of Windows": lambda old: old.replace(b"\n", b"\r\n"),
    "UTF-16": lambda old: old.decode("utf-8", "replace").encode("utf-16"),
    "Latin-1": lambda old: old[:2] + b"\xe9" + old[2:],
    "NUL bytes": lambda old: old[:2] + b"\0\0" + old[2:],
    "zeros": lambda old: b"\0" * 5000,
    "cut in the middle of a line": lambda old: old[:len(old) * 2 // 3].rstrip(b"\n"),
    "a line of a megabyte behind": lambda old: old.rstrip(b"\n") + b"\n" + b"x " * (1 << 19) + b"\n",
    "every line twice": lambda old: old + old,
    "nested deeply": lambda old: b"[" * 50_000 + b"\n",
    "nested as deeply as it is allowed to read": lambda old: b'{"text": ' + b"[" * 900 + b"]" * 900 + b"}\n",
    "NaN": lambda old: b'{"id": NaN}\n',
    "a number beyond all bounds": lambda old: b'{"id": 1e999}\n',
    "too many digits": lambda old: b'{"id": ' + b"9" * 5000 + b"}\n",
    "a key twice": lambda old: b'{"text": ["a"], "text": ["b"], "entities": []}\n',
    "half a surrogate pair": lambda old: b'{"text": ["\\ud800"], "entities": []}\n',
    "a list": lambda old: b"[]\n",
    "null": lambda old: b"null\n",
    "a text": lambda old: b'"text"\n',
    "a steering text": lambda old: b'{"text": ["\\u001b[2J"], "entities": [{"entity": "\\u001b[31m\\u202e"}]}\n',
}
HARMLESS = {"byte order mark", "line ends of Windows"}


def folder_there(path: Path) -> None:
    path.mkdir()


def dangling_link(path: Path) -> None:
    path.symlink_to("/nowhere/at/all")


def zeros_without_end(path: Path) -> None:
    with path.open("wb") as file:
        file.truncate(MORE_THAN_A_LINE)


PLACES = {"a folder": folder_there, "a link to nothing": dangling_link, "a pipe": os.mkfifo, "endless zeros": zeros_without_end}


# --- a whole run ----------------------------------------------------------------------------------------------------

@pytest.fixture(scope="module")
def whole(tmp_path_factory) -> Path:
    """The folder of a data set with a finished run, made by the real steps; copied by those that change it."""
    data = tmp_path_factory.mktemp("whole")
    write_dataset(data, held_out=True, ids=[str(number) for number in range(1, 13)])
    write_rows(data / NAME / "test.jsonl", [sentence("张三不在北京", id="t1"), sentence("李四在哪里", id="t2")])
    flags = {"file_dir": str(data), "file_name": NAME}
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(os, "fsync", lambda handle: None)
        run_all.main(cmd_args=False, **flags, backend="offline", max_steps=1)
        ablation.main(cmd_args=False, **flags, sizes="1000", seeds=1, train="gold", max_steps=1)
        eval_ner.main(cmd_args=False, **flags, save_predictions=str(data / NAME / "found.jsonl"), resamples=100)
    for name in ("entity_label.json", "pos_label.json"):
        shutil.copy(PROJECT_ROOT / "data" / "fusion_knowledge" / name, data / NAME)
    (data / NAME / "options.yaml").write_text("seed: 42\ns1_predict_data: {temperature: 0}\n", encoding="utf-8")
    for task in ("entity.zh.v2", "explain.zh.v1"):
        found = sorted((PROJECT_ROOT / "configs" / "prompts").glob(task.rpartition(".")[0] + ".v*.txt"))[-1]
        shutil.copy(found, data / NAME / found.name)
    shutil.copy(PROJECT_ROOT / "configs" / "inventories" / "zh.yaml", data / NAME)
    (data / NAME / f"{NAME}.yaml").write_text("PER: {name: person, description: a name}\n", encoding="utf-8")
    (data / NAME / "template.jinja").write_text("{% for m in messages %}{{ m.content }}{% endfor %}\n", encoding="utf-8")
    write_checkpoint(data / NAME / "other", Checkpoint(), {"seed": 1})
    rows = read_rows(data / NAME / "train_1000.jsonl")
    (data / NAME / "columns.txt").write_text("".join(
        "".join(f"{token} {'B-PER' if n == 0 else 'O'}\n" for n, token in enumerate(row["text"])) + "\n" for row in rows))
    (data / NAME / "list.json").write_text(json.dumps(
        [{"text": "".join(row["text"]), "entities": [[0, 1, "PER"]]} for row in rows], ensure_ascii=False, indent=1))
    return data / NAME


@pytest.fixture
def place(whole, tmp_path, monkeypatch) -> Path:
    """A copy of that folder."""
    monkeypatch.setattr(os, "fsync", lambda handle: None)
    return Path(shutil.copytree(whole, tmp_path / "data" / NAME, symlinks=True))


def call(step: Any, folder: Path, **flags: Any) -> Any:
    """The step's real ``main``, as the command line calls it, but that an error comes out as it is raised."""
    given = {"file_dir": str(folder.parent), "file_name": folder.name, **flags}
    return step.main([word for name, value in given.items()
                      for word in ([f"--{name}", *value] if isinstance(value, tuple) else [f"--{name}={value}"])])


@dataclass(frozen=True)
class Reader:
    """A file and what reads it. fine: faults that do it no harm, None: any may or may not. lines: messages about its content
    tell the line."""

    path: str
    read: Callable[[Path], Any]
    fine: frozenset[str] | None = frozenset()
    lines: bool = True
    before: Callable[[Path], Any] = lambda folder: None

    def file(self, folder: Path) -> Path:
        """``path`` in the folder; a ``*`` in it stands for anything."""
        found, = folder.glob(self.path)
        return found


def reader(path: str, step: Any, *, fine: str | None = "", lines: bool = True,
           before: Callable[[Path], Any] = lambda folder: None, **flags: Any) -> Any:
    """fine: faults with ``|`` between. flags: "@x" is the path of x in the folder."""
    def read(folder: Path) -> Any:
        def there(value: Any) -> Any:
            if isinstance(value, tuple):
                return tuple(map(there, value))
            return str(folder / value[1:]) if isinstance(value, str) and value.startswith("@") else value
        return call(step, folder, **{name: there(value) for name, value in flags.items()})
    names = None if fine is None else frozenset(filter(None, fine.split("|")))
    label = f"{path.rpartition('/')[2]} by {step.__name__.rpartition('.')[2]}{' dry' if 'dry_run' in flags else ''}"
    return pytest.param(Reader(path, read, names, lines, before), id=label)


def direct(path: str, read: Callable[[Path], Any], *, fine: str | None = "", lines: bool = True) -> Any:
    names = None if fine is None else frozenset(filter(None, fine.split("|")))
    return pytest.param(Reader(path, read, names, lines), id=path.rpartition("/")[2])


def without(name: str) -> Callable[[Path], None]:
    return lambda folder: (folder / RUN / name).unlink()


def options(step: Any, folder: Path, **flags: Any) -> Any:
    return build_options(step.Options, {"file_dir": str(folder.parent), "file_name": folder.name, **flags})


def is_final(folder: Path) -> bool:
    opts = options(s8_process_label_and_combine, folder)
    return s8_process_label_and_combine.is_done(opts, RunPaths.of(opts))


def as_it_was(folder: Path) -> Any:
    step = run_all.Step("s4_split_data")
    step.opts = options(s4_split_data, folder)
    return str(run_all._as_it_was(RunPaths.of(step.opts), step))


NO_ROW = "empty|one blank line"
READERS = [
    reader("train_1000.jsonl", s1_predict_data, backend="offline"),
    reader("train_1000.jsonl", s2_continous_generation, backend="offline"),
    reader("train_1000.jsonl", s4_split_data),
    reader("train_1000.jsonl", oracle),
    reader("labels.txt", s5_merge_data),
    reader("labels.txt", s7_pred_syn_data, lines=False),
    reader("dev.jsonl", train_ner, max_steps=1, train="gold"),
    reader("test.jsonl", eval_ner, resamples=100),
    reader("entity_label.json", s5_merge_data, entity_label="@entity_label.json", fine="half a surrogate pair"),
    reader("pos_label.json", s5_merge_data, pos_label="@pos_label.json", fine="half a surrogate pair"),
    reader(f"{RUN}/entity_train_1000.jsonl", s4_split_data, fine=NO_ROW),
    reader(f"{RUN}/train_1000_synthetic.jsonl", s3_predict_syn_data, backend="offline", fine=NO_ROW),
    reader(f"{RUN}/1000/entity_train_1000.jsonl", s5_merge_data, is_syn=0, fine=NO_ROW),
    reader(f"{RUN}/1000/train_1000_synthetic.jsonl", s7_pred_syn_data, fine=NO_ROW),
    # without the file, the synthetic sentences stay out, with a warning
    reader(f"{RUN}/1000/train_1000_synthetic_target.jsonl", s8_process_label_and_combine, fine="a link to nothing"),
    reader(f"{RUN}/1000/train_1000_fusion.jsonl", train_ner, max_steps=1, swap=0),
    reader(f"{RUN}/label_fusion.json", s6_combine_syn_fusion_label, before=without("label_syn_fusion.manifest.json"), lines=False),
    reader(f"{RUN}/label_fusion.json", train_ner, max_steps=1, swap=0, lines=False),
    reader(f"{RUN}/.journal/entity_train_1000.jsonl", s1_predict_data, backend="offline", fine=None),
    reader(f"{RUN}/.journal/entity_train_1000.jsonl", s1_predict_data, backend="offline", dry_run="plan", fine=None),
    reader(f"{RUN}/entity_train_1000.manifest.json", s4_split_data, fine=None),
    reader(f"{RUN}/unmapped_labels.json", s5_merge_data, fine=None),
    reader(f"{RUN}/run.log.jsonl", s1_predict_data, backend="offline", dry_run="plan", save_type_name=RUN, overwrite=1, fine=None),
    reader(f"{RUN}/ner/fusion_1000/config.json", eval_ner, resamples=100, lines=False),
    reader(f"{RUN}/ner/fusion_1000/labels.json", eval_ner, resamples=100, lines=False),
    reader(f"{RUN}/ner/fusion_1000/vocab.json", eval_ner, resamples=100, lines=False),
    reader(f"{RUN}/ner/fusion_1000/model.safetensors", eval_ner, resamples=100, lines=False),
    reader("other.checkpoint", train_ner, output_dir="@other", max_steps=1, lines=False, fine=None),
    reader("found.jsonl", eval_ner, compare=("@found.jsonl", "fusion"), resamples=100, lines=False),
    reader(f"{RUN}/ablation/results/*.json", ablation, sizes="1000", seeds=1, train="gold", max_steps=1, dry_run=1, fine=None),
    reader("options.yaml", s4_split_data, config="@options.yaml", fine=NO_ROW, lines=False),
    reader("columns.txt", s0_prepare_data, train="@columns.txt", file_name="fresh", fine=None),
    reader("list.json", s0_prepare_data, train="@list.json", file_name="fresh", lines=False),
    direct(f"{RUN}/present.json", is_final, fine=None),
    direct(f"{RUN}/run.log.jsonl", as_it_was, fine=None),
    direct("entity.zh.v2.txt", lambda folder: load_prompt("entity", "zh", folder=folder), lines=False),
    direct("zh.yaml", lambda folder: load_inventory("entity", "zh", folder=folder), lines=False),
    direct(f"{NAME}.yaml", lambda folder: load_target_names(NAME, None, folder=folder), fine=None, lines=False),
    direct("template.jinja", lambda folder: read_chat_template(str(folder / "template.jinja")), fine=None, lines=False),
]


def kept(folder: Path, spoiled: Path) -> dict[str, bytes]:
    """All that was made before, without the spoiled file, logs and locks. Of manifests the names: the others' command tells the
    folder, which the copy has changed."""
    return {str(path.relative_to(folder)): b"" if path.name.endswith(".manifest.json") else path.read_bytes()
            for path in sorted(folder.rglob("*"))
            if path != spoiled and not path.name.endswith((".log.jsonl", ".lock")) and path.is_file()}


def outcome(read: Callable[[Path], Any], folder: Path) -> str:
    """The message of the refusal, "" when nothing was refused; anything else that is raised is a failure of the test."""
    with no_longer_than(SECONDS):
        try:
            read(folder)
        except UserError as err:
            return str(err)
    return ""


def check(case: Reader, folder: Path, path: Path, fault: str, *, content: bool) -> bool:
    """Read the spoiled file; whether it was refused."""
    before = kept(folder, path)
    message = outcome(case.read, folder)
    if not message:
        assert case.fine is None or fault in case.fine | HARMLESS, f"{fault}: was not refused"
        return False
    assert case.fine is None or fault not in case.fine, f"{fault}: {message}"
    assert path.name.split(".")[0] in message, f"{fault}: {message}"
    assert not re.search("[\x00-\x08\x0b-\x1f\x7f\u202e]", message), f"{fault}: {message!r}"
    assert len(message) < 50_000 and "Traceback" not in message, fault
    if content and case.lines and fault not in ("empty", "one blank line"):
        assert re.search(r":\d+: ", message), f"{fault}: {message}"
    assert kept(folder, path) == before, f"{fault}: something else was changed"
    return True


@pytest.mark.parametrize("case", READERS)
def test_a_broken_file_is_one_message_that_names_it(case, whole, place):
    path = case.file(place)
    case.before(place)
    original = path.read_bytes()
    begun = kept(place, path)
    for fault in (*CONTENT, *PLACES):
        path.unlink()
        if fault in CONTENT:
            path.write_bytes(CONTENT[fault](original))
        else:
            PLACES[fault](path)
        refused = check(case, place, path, fault, content=fault in CONTENT)
        if path.is_dir():
            path.rmdir()
        path.unlink(missing_ok=True)
        if not refused and kept(place, path) != begun:  # what was fine may have been made into something
            shutil.rmtree(place)
            shutil.copytree(whole, place, symlinks=True)
            case.before(place)
            path.unlink()
        path.write_bytes(original)
    message = outcome(case.read, place)
    assert not message or case.path == "other.checkpoint", message


def test_a_limit_within_another_leaves_that_one_on():
    with no_longer_than(1000, COMPUTING):
        with no_longer_than(5, COMPUTING):
            pass
        assert 900 < signal.getitimer(signal.ITIMER_VIRTUAL)[0] < 1001


# --- any value in place of any other --------------------------------------------------------------------------------

ANY_VALUE = st.recursive(
    st.none() | st.booleans() | st.integers() | st.sampled_from([-1, 0, 2**31, 10**30, 1.5, -0.0, 1e300, "", "O", "a/b", "<b>", "\n"])
    | st.text(max_size=5),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=5), inner, max_size=3), max_leaves=6)


@st.composite
def one_change(draw: Any, value: Any) -> Any:
    """The value with any one part of it replaced, taken away or joined by another."""
    where = draw(st.integers(0, 3))
    if not isinstance(value, (dict, list)) or not value or where == 0:
        return draw(ANY_VALUE)
    copy = dict(value) if isinstance(value, dict) else list(value)
    key = draw(st.sampled_from(sorted(copy) if isinstance(copy, dict) else range(len(copy))))
    if where == 1:
        del copy[key]
    elif where == 2 and isinstance(copy, dict):
        copy[draw(st.text(max_size=5))] = draw(ANY_VALUE)
    else:
        copy[key] = draw(one_change(copy[key]))
    return copy


RECORDS = [case for case in READERS if case.values[0].path.endswith((".jsonl", ".json"))]


@pytest.mark.parametrize("case", RECORDS)
@settings(max_examples=12, deadline=None, suppress_health_check=list(HealthCheck))
@given(data=st.data())
def test_any_value_in_place_of_any_other_is_taken_or_refused(case, whole, tmp_path_factory, data):
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(os, "fsync", lambda handle: None)
        folder = Path(shutil.copytree(whole, tmp_path_factory.mktemp("changed") / NAME, symlinks=True))
        try:
            case.before(folder)
            path = case.file(folder)
            if path.suffix == ".jsonl":
                rows = read_rows(path)
                number = data.draw(st.integers(0, min(2, len(rows) - 1)))
                rows[number] = data.draw(one_change(rows[number]))
                write_rows(path, rows)
            else:
                path.write_text(json.dumps(data.draw(one_change(json.loads(path.read_text(encoding="utf-8"))))), encoding="utf-8")
            before = kept(folder, path)
            if message := outcome(case.read, folder):
                named = path.name.split(".")[0] in message
                # a vocabulary of another size is as good as weights of another size
                assert named or (path.name == "vocab.json" and "model.safetensors: the weights do not fit" in message)
                assert kept(folder, path) == before
        finally:
            shutil.rmtree(folder.parent)
