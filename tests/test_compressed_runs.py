"""Whole runs on compressed data sets: the same rows as the plain run, for every step and every tool, kills included."""

from __future__ import annotations

import gzip
import json
import re
import shutil
import signal
from collections.abc import Callable
from pathlib import Path

import pytest
import zstandard
from child import run_child
from pipeline import ROOT, run_step
from review_run import served

import syn_pipelines
from syn_pipelines import run_all
from syn_pipelines.utils.jsonl import open_input

PACK: dict[str, Callable[[bytes], bytes]] = {"": bytes, ".gz": gzip.compress, ".zst": zstandard.ZstdCompressor().compress}
SAMPLES, SET, RUN = ("sample_zh", "sample_en"), "toy", "run"
STEPS = {"file_name": SET, "save_type_name": RUN}
ASKING = {**STEPS, "backend": "offline"}
WHOLE = {**ASKING, "max_steps": 2, "with_report": 0}


def make_data_set(file_dir: Path, sample: str, form: str, *, train: int = 24) -> Path:
    """The first sentences of a sample; train_1000 (and in zstd form dev, too) packed by another program."""
    source, folder = ROOT / "data" / "few_shot" / sample, file_dir / SET
    folder.mkdir(parents=True)
    shutil.copy(source / "labels.txt", folder)
    for name, count, packing in (("train_1000", train, form), ("dev", 6, form if form == ".zst" else ""), ("test", 6, "")):
        lines = (source / f"{name}.jsonl").read_bytes().split(b"\n")[:count]
        (folder / f"{name}.jsonl{packing}").write_bytes(PACK[packing](b"\n".join(lines) + b"\n"))
    return folder


def pack_by_hand(folder: Path, form: str) -> None:
    """Put train_1000 into another form, as gzip and zstd do."""
    old = next(folder.glob("train_1000.jsonl*"))
    content = content_of(old)
    old.unlink()
    (folder / f"train_1000.jsonl{form}").write_bytes(PACK[form](content))


def content_of(path: Path) -> bytes:
    with open_input(path) as file:
        return file.read()


def without_form(text: str) -> str:
    return re.sub(r"\.jsonl\.(gz|zst)\b", ".jsonl", text)


def contents(run: Path) -> dict[str, object]:
    """Every file of a run by its plain name: data unpacked, manifests without hashes, all without the place of the data."""
    found: dict[str, object] = {}
    for path in sorted(run.rglob("*")):
        name = without_form(path.relative_to(run).as_posix())
        if not path.is_file() or name.endswith((".lock", "log.jsonl", "report.html")) or name.startswith(("report/", "export/")):
            continue
        if ".jsonl" in path.name and not name.startswith(".journal/"):
            found[name] = content_of(path)
        elif path.suffix == ".json":
            text = re.sub(r" --file_dir=[^ \"]*|[^ \"]*/(?=toy/)", "", without_form(path.read_text(encoding="utf-8")))
            value = json.loads(text)
            if "inputs" in value:
                value = {**value, "sha256": "", "inputs": sorted(value["inputs"])}
            found[name] = value
        else:
            found[name] = path.read_bytes()
    return found


def data_files(run: Path) -> set[str]:
    """What stands behind .jsonl in the names of the data files that steps have written."""
    return {path.name.partition(".jsonl")[2] for path in run.rglob("*.jsonl*")
            if ".journal" not in path.parts and "log" not in path.name and "export" not in path.parts}


def replies(run: Path) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in sorted((run / ".journal").glob("*.jsonl"))}


def whole_run(file_dir: Path, **flags: object) -> None:
    run_all.main(False, file_dir=str(file_dir), **{**WHOLE, "with_report": False, **flags})


@pytest.fixture(scope="module")
def runs(tmp_path_factory):
    """(sample, form) -> the folder of the data sets, after a whole run."""
    made = {}
    for sample in SAMPLES:
        for form in PACK:
            file_dir = tmp_path_factory.mktemp("place") / "data"
            make_data_set(file_dir, sample, form)
            whole_run(file_dir)
            made[sample, form] = file_dir
    return made


@pytest.fixture
def copy_of(runs, tmp_path):
    """A copy of a run, to do with as one likes."""
    def copied(sample: str, form: str) -> Path:
        return Path(shutil.copytree(runs[sample, form], tmp_path / "data"))
    return copied


each_sample = pytest.mark.parametrize("sample", SAMPLES)
each_form = pytest.mark.parametrize("form", [".gz", ".zst"])
one_of_each = pytest.mark.parametrize(("sample", "form"), [("sample_zh", ".zst"), ("sample_en", ".gz")])


# --- the whole run -------------------------------------------------------------------------------------------------------

@each_sample
@each_form
def test_every_file_of_a_compressed_run_holds_what_that_of_the_plain_run_holds(runs, sample, form):
    plain, run = (runs[sample, f] / SET / RUN for f in ("", form))
    wanted, found = contents(plain), contents(run)
    assert wanted.keys() == found.keys() and len(wanted) > 90
    assert [name for name in wanted if wanted[name] != found[name]] == []
    assert replies(run) == replies(plain)
    assert data_files(plain) == {""} and data_files(run) == {form}
    assert not list(run.rglob("*.part"))


def test_a_second_run_has_nothing_to_do_and_a_dry_run_asks_nothing(runs):
    result = run_step("run_all", file_dir=runs["sample_zh", ".zst"], **WHOLE)
    assert result.returncode == 0 and "Nothing to do" in result.stdout, result.stderr
    dry = run_step("run_all", file_dir=runs["sample_en", ".gz"], dry_run=1, **WHOLE)
    assert dry.returncode == 0 and "Together: 0 requests" in dry.stdout, dry.stderr


@one_of_each
def test_replies_read_anew_change_nothing(copy_of, sample, form):
    file_dir = copy_of(sample, form)
    before = contents(file_dir / SET / RUN)
    for script, flags in (("s1_predict_data", {"mode": "entity"}), ("s2_continous_generation", {}), ("s3_predict_syn_data", {"mode": "pos"})):
        result = run_step(script, file_dir=file_dir, reparse=1, **ASKING, **flags)
        assert result.returncode == 0 and "all is up to date" in result.stderr, result.stderr
    assert contents(file_dir / SET / RUN) == before


def test_published_rows_stand_in_for_a_journal_that_is_gone(copy_of):
    run = copy_of("sample_zh", ".gz") / SET / RUN
    shutil.rmtree(run / ".journal")
    result = run_step("s1_predict_data", file_dir=run.parents[1], mode="entity", **ASKING)
    assert result.returncode == 0 and "all is up to date" in result.stderr and "asked about" not in result.stderr


# --- the tools -----------------------------------------------------------------------------------------------------------

@one_of_each
def test_the_ledger_balances(runs, sample, form):
    result = run_step("tools.ledger", file_dir=runs[sample, form], **STEPS)
    assert result.returncode == 0 and "Balanced" in result.stdout, result.stdout


def test_the_ledger_of_a_compressed_run_is_that_of_the_plain_one(runs):
    packed, plain = (run_step("tools.ledger", file_dir=runs["sample_zh", form], **STEPS).stdout for form in (".gz", ""))
    assert without_form(packed).split() == plain.split()
    told = json.loads(run_step("tools.ledger", file_dir=runs["sample_zh", ".gz"], id="3", json=1, **STEPS).stdout)
    assert told["final_entities"] and told["files"] and all(".gz" in row["file"] for row in told["files"])


def test_the_ledger_finds_a_row_that_was_changed(copy_of):
    file_dir = copy_of("sample_zh", ".gz")
    path = file_dir / SET / RUN / "250" / "train_250_fusion.jsonl.gz"
    lines = content_of(path).split(b"\n")
    path.write_bytes(gzip.compress(b"\n".join(lines[1:])))
    result = run_step("tools.ledger", file_dir=file_dir, **STEPS)
    assert result.returncode == 1 and "train_250_fusion.jsonl.gz" in result.stdout and "is missing" in result.stdout


def test_the_report_is_balanced_and_a_page_of_the_review_is_served(copy_of):
    pytest.importorskip("starlette", reason="the extra [review] is not installed")
    pytest.importorskip("uvicorn", reason="the extra [review] is not installed")
    file_dir = copy_of("sample_en", ".gz")
    result = run_step("report", file_dir=file_dir, **STEPS)
    assert result.returncode == 0 and "recounted, balanced" in result.stdout + result.stderr, result.stderr
    with served(file_dir, file_name=SET, save_type_name=RUN, n=10) as server:
        total = server.ask("/api/queue")[1]["total"]
        assert total == 10 and all(server.view(index)["tokens"] for index in range(total))


@pytest.mark.parametrize(("name", "file"), [("conll", "train.conll"), ("doccano", "train.jsonl"), ("hf", "data/train.jsonl"),
                                            ("label-studio", "tasks.json")])
def test_an_export_equals_that_of_the_plain_run_and_comes_back_compressed(copy_of, runs, name, file):
    file_dir = copy_of("sample_zh", ".gz")
    folders = {"": file_dir / "plain", ".gz": file_dir / "packed"}
    for form, output in folders.items():
        place = file_dir if form else runs["sample_zh", ""]
        result = run_step("export", file_dir=place, format=name, train="gold", output=output, **STEPS)
        assert result.returncode == 0, result.stderr
    assert (folders[""] / file).read_bytes() == (folders[".gz"] / file).read_bytes()
    for path in [p for p in folders[".gz"].rglob("*") if p.is_file() and not p.name.startswith("export") and p.suffix != ".md"]:
        path.with_name(f"{path.name}.gz").write_bytes(gzip.compress(path.read_bytes()))
        path.unlink()
    given = folders[".gz"] if name == "hf" else folders[".gz"] / f"{file}.gz"
    result = run_step("import_annotations", file_dir=file_dir, format=name, input=given, train="gold", **STEPS)
    assert result.returncode == 0 and "24 sentences = 24 " in result.stderr and "0 decisions" in result.stderr, result.stderr


def test_an_import_keeps_the_form_of_the_data_set_it_replaces(tmp_path):
    (tmp_path / "in.conll").write_text("北 B-LOC\n京 I-LOC\n", encoding="utf-8")
    for form in ("", ".gz"):
        result = run_step("import_annotations", file_dir=tmp_path, file_name=SET, format="conll", input=tmp_path / "in.conll",
                          overwrite=1)
        assert result.returncode == 0, result.stderr
        train, = (tmp_path / SET).glob("train_1000.jsonl*")
        assert train.name == f"train_1000.jsonl{form}" and b"LOC" in content_of(train)
        pack_by_hand(tmp_path / SET, ".gz")


def test_sentences_predictions_and_checks_work_on_compressed_files(copy_of):
    form = ".zst"
    file_dir = copy_of("sample_en", form)
    shown = syn_pipelines.load(SET, RUN, train="syn_fusion", size=250, file_dir=str(file_dir))
    assert str(file_dir / SET / RUN / "250" / f"train_250_syn_fusion.jsonl{form}") in repr(shown)
    saved = file_dir / f"predicted.jsonl{form}"
    result = run_step("eval_ner", file_dir=file_dir, model_from_pretrained=file_dir / SET / RUN / "ner" / "fusion_250", split="dev",
                      save_predictions=saved, **STEPS)
    assert result.returncode == 0 and content_of(saved) != saved.read_bytes(), result.stderr
    assert len(syn_pipelines.read(saved)) == 6
    for tool, flags in (("tools.oracle", STEPS), ("tools.doctor", ASKING)):
        result = run_step(tool, file_dir=file_dir, **flags)
        assert result.returncode == 0 and "Traceback" not in result.stderr, result.stdout


# --- another form, by hand -----------------------------------------------------------------------------------------------

@pytest.mark.parametrize(("before", "after"), [("", ".gz"), (".zst", "")])
def test_a_data_set_packed_by_hand_asks_nothing_again_and_its_run_takes_on_the_form(copy_of, runs, before, after):
    file_dir = copy_of("sample_zh", before)
    run, asked = file_dir / SET / RUN, replies(file_dir / SET / RUN)
    pack_by_hand(file_dir / SET, after)
    whole_run(file_dir, dry_run=True)
    for script in ("s4_split_data", "s5_merge_data", "report"):  # they read what is there in the other form
        result = run_step(script, file_dir=file_dir, **STEPS)
        assert result.returncode == 0 and "Traceback" not in result.stderr, result.stderr
    whole_run(file_dir)
    assert replies(run) == asked and data_files(run) == {after}
    wanted, found = contents(runs["sample_zh", after] / SET / RUN), contents(run)
    assert [name for name in wanted if wanted[name] != found.get(name)] == [] and wanted.keys() == found.keys()
    assert "Balanced" in run_step("tools.ledger", file_dir=file_dir, **STEPS).stdout


def test_sentences_of_a_run_without_manifests_are_the_same_to_step_3_in_any_form(copy_of):
    file_dir = copy_of("sample_zh", "")
    run = file_dir / SET / RUN
    for name in ("train_1000_synthetic", "entity_train_1000_synthetic"):
        (run / f"{name}.manifest.json").unlink()
    shutil.rmtree(run / ".journal")
    (run / "entity_train_1000_synthetic.jsonl").unlink()
    assert run_step("s3_predict_syn_data", file_dir=file_dir, mode="entity", **ASKING).returncode == 0
    made = run / "train_1000_synthetic.jsonl"
    (run / f"{made.name}.gz").write_bytes(gzip.compress(made.read_bytes()))
    made.unlink()
    result = run_step("s3_predict_syn_data", file_dir=file_dir, mode="entity", **ASKING)
    assert result.returncode == 0 and "asked about" not in result.stderr, result.stderr


def test_a_file_in_two_forms_stops_the_steps_that_read_it_until_one_is_gone(copy_of):
    file_dir = copy_of("sample_zh", ".gz")
    folder = file_dir / SET
    for path, script, flags in ((folder / "train_1000.jsonl", "s1_predict_data", ASKING), (folder / RUN / "pos_train_1000.jsonl", "s4_split_data", STEPS)):
        path.write_bytes(content_of(path.with_name(f"{path.name}.gz")))
        for each, more in ((script, flags), ("tools.ledger", STEPS), ("report", STEPS)):
            result = run_step(each, file_dir=file_dir, **more)
            assert result.returncode == 2 and f"{path}: {path.name}.gz is there too" in result.stderr, result.stderr
            assert "Traceback" not in result.stderr and path.exists()
        path.unlink()
        assert run_step(script, file_dir=file_dir, **flags).returncode == 0


# --- broken files --------------------------------------------------------------------------------------------------------

@one_of_each
@pytest.mark.parametrize("file", ["../train_1000", "train_1000_synthetic", "pos_train_1000", "1000/train_1000_synthetic_target"])
def test_a_file_that_was_cut_off_is_named_by_every_step_that_reads_it(copy_of, sample, form, file):
    file_dir = copy_of(sample, form)
    path = file_dir / SET / RUN / f"{file}.jsonl{form}"
    path.write_bytes(path.read_bytes()[:-5])
    readers = {"../train_1000": ["s1_predict_data", "s4_split_data", "tools.oracle"], "pos_train_1000": ["s4_split_data"],
               "train_1000_synthetic": ["s3_predict_syn_data", "s4_split_data"],
               "1000/train_1000_synthetic_target": ["s8_process_label_and_combine"]}[file]
    before = contents(file_dir / SET / RUN / "250")
    for script in readers:
        result = run_step(script, file_dir=file_dir, **(ASKING if script[:2] in ("s1", "s3") else STEPS))
        assert result.returncode == 2 and re.search(rf"{path.name}:\d+: the \w+ data ", result.stderr), result.stderr
        assert "Traceback" not in result.stderr
    assert contents(file_dir / SET / RUN / "250") == before
    result = run_step("tools.ledger", file_dir=file_dir, **STEPS)
    assert result.returncode in (1, 2) and path.name in result.stdout + result.stderr and "Traceback" not in result.stderr


# --- kills ---------------------------------------------------------------------------------------------------------------

KILL = "at({event!r}, {name!r}, lambda: os.kill(os.getpid(), signal.SIGKILL), {nth})\n"


@one_of_each
@pytest.mark.parametrize(("script", "event", "name"), [
    ("s1_predict_data", "open", "entity_train_1000.jsonl{form}.part"), ("s2_continous_generation", "os.rename", "train_1000_synthetic.jsonl{form}"),
    ("s4_split_data", "open", "train_500_synthetic.jsonl{form}.part"), ("s5_merge_data", "os.rename", "train_500_fusion.jsonl{form}")])
def test_a_step_killed_at_a_compressed_file_goes_on_to_the_same_bytes(copy_of, sample, form, script, event, name):
    """The run before is in another form, so that this is a kill in the middle of the change, too."""
    file_dir = copy_of(sample, "")
    run, plain = file_dir / SET / RUN, contents(file_dir / SET / RUN)
    pack_by_hand(file_dir / SET, form)
    flags = {"file_dir": file_dir, **(ASKING if script[:2] in ("s1", "s2") else STEPS)}
    result = run_child(script, flags, before=KILL.format(event=event, name=name.format(form=form), nth=1))
    assert result.returncode == -signal.SIGKILL, result.stderr
    assert contents(run).keys() >= {key for key in plain if key.endswith(".jsonl")}  # everything can be read in between
    result = run_child(script, flags)
    assert result.returncode == 0 and "asked about" not in result.stderr, result.stderr
    assert not list(run.rglob("*.part")) and contents(run) == plain


@pytest.mark.slow
def test_a_compressed_run_killed_all_over_is_the_undisturbed_one(tmp_path):
    make_data_set(tmp_path, "sample_zh", ".zst", train=12)
    result = run_step("tools.chaos", file_dir=tmp_path, kills=4, seed=5, json=1, max_steps=1, file_name=SET, save_type_name=RUN,
                      backend="offline")
    report = json.loads(result.stdout)
    assert result.returncode == 0 and (report["identical"], report["lost"], report["repeated_calls"]) == (True, 0, 0), report
    assert data_files(tmp_path / SET / RUN) == {".zst"}


# --- step 0 --------------------------------------------------------------------------------------------------------------

def prepare(file_dir: Path, given: Path, **flags: object) -> str:
    result = run_step("s0_prepare_data", file_dir=file_dir, file_name="made", train=given, **flags)
    return result.stderr if result.returncode else ""


@pytest.mark.parametrize(("compress", "form"), [("none", ""), ("gzip", ".gz"), ("zstd", ".zst")])
def test_step_0_takes_compressed_files_and_writes_the_form_it_is_told(tmp_path, compress, form):
    plain = ROOT / "data" / "examples" / "news.conll"
    given = tmp_path / f"news.conll{form or '.gz'}"
    given.write_bytes(PACK[form or ".gz"](plain.read_bytes()))
    assert prepare(tmp_path / "a", plain) == "" and prepare(tmp_path / "b", given, compress=compress) == ""
    for name in ("train_1000", "dev", "test"):
        found, = (tmp_path / "b" / "made").glob(f"{name}.jsonl*")
        assert found.name == f"{name}.jsonl{form}" and content_of(found) == (tmp_path / "a" / "made" / f"{name}.jsonl").read_bytes()
        made = json.loads((tmp_path / "b" / "made" / f"{name}.manifest.json").read_text(encoding="utf-8"))
        assert made["file"] == found.name


def test_step_0_changes_the_form_of_its_own_files_and_leaves_those_of_others(tmp_path):
    given = ROOT / "data" / "examples" / "news.conll"
    for compress, form in (("none", ""), ("zstd", ".zst"), ("gzip", ".gz")):
        assert prepare(tmp_path, given, compress=compress) == ""
        assert {path.name.partition(".jsonl")[2] for path in (tmp_path / "made").glob("[td]*.jsonl*")} == {form}
    pack_by_hand(tmp_path / "made", ".zst")  # the same content: nothing that somebody would miss
    assert prepare(tmp_path, given) == ""
    pack_by_hand(tmp_path / "made", ".zst")
    changed = tmp_path / "made" / "train_1000.jsonl.zst"
    changed.write_bytes(PACK[".zst"](content_of(changed).split(b"\n")[0] + b"\n"))
    assert "train_1000.jsonl.zst: was changed after this step made it" in prepare(tmp_path, given)
    assert prepare(tmp_path, given, overwrite=1) == "" and not changed.exists()


def test_data_sets_in_any_form_are_known(tmp_path):
    for name, form in (("one", ""), ("two", ".gz"), ("three", ".zst")):
        shutil.move(make_data_set(tmp_path / name, "sample_zh", form), tmp_path / f"set_{name}")
    result = run_step("tools.oracle", file_dir=tmp_path, file_name="none")
    assert result.returncode == 2 and "Known here: set_one, set_three, set_two" in result.stderr
