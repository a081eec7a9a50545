"""Full disks, folders that may not be written, folders that vanish: the real scripts, stopped by the real system."""

from __future__ import annotations

import os
import resource
import shutil
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest
from child import OFFLINE, flags, last_line, prepared, run_child
from fault_server import FaultServer
from pipeline import NAME, all_bytes, read_rows, write_run

# A file that may not grow beyond so many bytes is what a full disk is to the one who writes it.
FULL = "import resource\ndef full(size=20): resource.setrlimit(resource.RLIMIT_FSIZE, (size, resource.RLIM_INFINITY))\n"

def stopped(result: subprocess.CompletedProcess[str], *words: str) -> str:
    """The one line of an error that the user can mend."""
    assert result.returncode == 2 and "Traceback" not in result.stderr, result.stderr
    line = last_line(result.stderr)
    assert line.startswith("error: ") and all(word in line for word in words), line
    return line


@pytest.mark.parametrize("script, file", [
    ("s1_predict_data", "GLM4/entity_train_1000.jsonl.part"),
    ("s1_predict_data", "entity_train_1000.manifest.json.part"),
    ("s2_continous_generation", "GLM4/train_1000_synthetic.jsonl.part"),
    ("s4_split_data", "1000/pos_train_1000_synthetic.jsonl.part"),
    ("s5_merge_data", "250/train_250_fusion.jsonl.part"),
    ("s5_merge_data", "label_fusion.json.part"),
    ("s6_combine_syn_fusion_label", "label_syn_fusion.manifest.json.part"),
])
def test_a_disk_that_is_full_at_any_file_is_one_line_with_it_and_the_next_run_ends_the_same(script, file, undisturbed, tmp_path):
    run, opts = prepared(tmp_path / "a", script), flags(tmp_path / "a", script)
    result = run_child(script, opts, before=f"{FULL}at('open', {file!r}, full)\n")
    name = file.removesuffix(".part")
    stopped(result, name, "File too large", "Nothing already finished is lost", "run the same command again")
    assert not (run / name).exists() and not list(run.rglob("*.part"))
    assert run_child(script, opts).returncode == 0
    assert all_bytes(run) == undisturbed(script, tmp_path / "a")


@pytest.mark.parametrize("script, journal", [("s1_predict_data", "entity_train_1000"),
                                             ("s2_continous_generation", "train_1000_synthetic")])
def test_a_disk_that_is_full_in_the_middle_of_the_replies_keeps_those_it_had_room_for(script, journal, undisturbed, tmp_path):
    run, opts = prepared(tmp_path / "a", script), flags(tmp_path / "a", script)
    path = run / ".journal" / f"{journal}.jsonl"
    result = run_child(script, opts, prepare=[lambda: resource.setrlimit(resource.RLIMIT_FSIZE, (2500, 2500))])
    stopped(result, str(path), "File too large")
    whole = path.read_bytes().rpartition(b"\n")[0].split(b"\n")
    assert 2 < len(whole) < 13 and not (run / f"{journal}.jsonl").exists()
    assert run_child(script, opts).returncode == 0
    assert path.read_bytes().startswith(b"\n".join(whole))
    ids = [row["id"] for row in read_rows(path)[1:]]
    assert len(set(ids)) == len(ids)
    assert all_bytes(run) == undisturbed(script, tmp_path / "a")


def test_a_log_that_cannot_be_written_is_a_warning_and_torn_lines_cost_no_other(tmp_path):
    run = prepared(tmp_path, "s4_split_data")
    result = run_child("s4_split_data", flags(tmp_path), before=f"{FULL}at('open', 'run.log.jsonl', full)\n")
    assert result.returncode == 0 and f"{run / 'run.log.jsonl'}: cannot be written (File too large)" in result.stderr
    assert (run / "1000" / "train_1000.jsonl").exists()
    torn = (run / "run.log.jsonl").read_bytes()
    assert 0 < len(torn) <= 20 and b"\n" not in torn
    assert run_child("s4_split_data", flags(tmp_path)).returncode == 0
    first, second = (run / "run.log.jsonl").read_text(encoding="utf-8").splitlines()
    assert first == torn.decode() and '"ended": "done"' in second


TRAINING = {"train": "gold", "max_steps": 4, "evaluations": 2}


@pytest.fixture(scope="module")
def weights(tmp_path_factory) -> bytes:
    """Of a training with all the room it needs."""
    folder = tmp_path_factory.mktemp("trained")
    run = write_run(folder, held_out=True)
    assert run_child("train_ner", flags(folder, **TRAINING)).returncode == 0
    return (run / "ner" / "gold_1000" / "model.safetensors").read_bytes()


@pytest.mark.parametrize("at, file, room", [
    ("all the time", "gold_1000.checkpoint", 50_000),
    (".gold_1000.new/vocab.json", "gold_1000", 20),  # written by Python
    (".gold_1000.new/vocab.json", "gold_1000", 200_000),  # the weights, written by a library in another language
])
def test_a_full_disk_ends_a_training_that_goes_on_to_the_same_model(at, file, room, weights, tmp_path):
    run = write_run(tmp_path, held_out=True)
    when = f"full({room})" if at == "all the time" else f"at('open', {at!r}, lambda: full({room}))"
    result = run_child("train_ner", flags(tmp_path, **TRAINING), before=f"{FULL}{when}\n")
    stopped(result, str(run / "ner" / file), "run the same command again", "checkpoint")
    assert not (run / "ner" / "gold_1000").exists() and not list((run / "ner").glob(".*"))
    again = run_child("train_ner", flags(tmp_path, **TRAINING))
    assert again.returncode == 0 and ("goes on after step 2" in again.stderr) is (at != "all the time"), again.stderr
    assert (run / "ner" / "gold_1000" / "model.safetensors").read_bytes() == weights


# --- a disk of its own -----------------------------------------------------------------------------------------------

def mounted(*words: str) -> None:
    try:
        done = subprocess.run(["mount", *words], capture_output=True, text=True)
    except FileNotFoundError:
        pytest.skip("there is no command mount")
    if done.returncode:
        pytest.skip(f"nothing can be mounted here: {done.stderr.strip()}")


@pytest.fixture
def disk(tmp_path: Path) -> Iterator[Path]:
    """A disk of one megabyte."""
    folder = tmp_path / "disk"
    folder.mkdir()
    mounted("-t", "tmpfs", "-o", "size=1m", "none", str(folder))
    yield folder
    subprocess.run(["umount", str(folder)], check=True)


def fill(disk: Path, left: int) -> Path:
    """Take all room but so many bytes."""
    filler = disk / "filler"
    with filler.open("wb") as file:
        file.write(b"x" * (os.statvfs(disk).f_bavail * os.statvfs(disk).f_bsize - left))
    return filler


@pytest.mark.parametrize("pages", [0, 1, 2, 3])
def test_on_a_disk_without_room_a_step_stops_and_goes_on_when_there_is_room(pages, disk, undisturbed):
    run = prepared(disk / "a", "s1_predict_data")
    filler = fill(disk, pages * os.statvfs(disk).f_bsize)
    result = run_child("s1_predict_data", flags(disk / "a", **OFFLINE))
    stopped(result, str(run), "No space left on device", "run the same command again")
    filler.unlink()
    assert run_child("s1_predict_data", flags(disk / "a", **OFFLINE)).returncode == 0
    ids = [row["id"] for row in read_rows(run / ".journal" / "entity_train_1000.jsonl")[1:]]
    assert sorted(ids, key=int) == [str(n) for n in range(1, 13)]
    assert all_bytes(run) == undisturbed("s1_predict_data", disk / "a")


def test_a_training_on_a_disk_without_room_is_one_line(disk):
    run = write_run(disk, held_out=True)  # the weights and all that belongs to a checkpoint take more than a megabyte
    result = run_child("train_ner", flags(disk, train="gold", max_steps=2, evaluations=2))
    stopped(result, str(run / "ner"), "run the same command again")
    assert not [path for path in (run / "ner").rglob("*") if path.is_file() and path.stat().st_size > 100_000]


# --- folders that may not be written ---------------------------------------------------------------------------------

@pytest.fixture
def sealed(tmp_path: Path) -> Iterator[Path]:
    """A data set whose files can be read and not changed, for root as well."""
    write_run(tmp_path / "sealed", modes=(), synthetic=False)
    folder = tmp_path / "sealed"
    if os.geteuid() == 0:
        mounted("--bind", str(folder), str(folder))
        subprocess.run(["mount", "-o", "remount,ro,bind", str(folder)], check=True)
        yield folder
        subprocess.run(["umount", str(folder)], check=True)
    else:
        places = [folder, *(path for path in folder.rglob("*") if path.is_dir())]
        for place in places:
            place.chmod(0o555)
        yield folder
        for place in places:
            place.chmod(0o755)


def test_a_folder_that_may_not_be_written_is_named(sealed):
    for run in "GLM4", "another":
        result = run_child("s1_predict_data", flags(sealed, **OFFLINE, save_type_name=run))
        line = stopped(result, str(sealed / NAME / run))
        assert "Read-only file system" in line or "Permission denied" in line


@pytest.mark.parametrize("script", ["s1_predict_data", "s4_split_data"])
def test_a_file_in_the_place_of_a_folder_is_named(script, tmp_path):
    run = prepared(tmp_path, script)
    place = run / ".journal"
    place.write_text("mine")
    stopped(run_child(script, flags(tmp_path, **(OFFLINE if script[:2] == "s1" else {}))), str(place),
            "there is a file where a folder is needed")
    assert place.read_text() == "mine"


# --- folders that vanish ---------------------------------------------------------------------------------------------

def server_that_removes(folder: Path, nth: int, how) -> FaultServer:
    def faults(number, body):
        if number == nth:
            how(folder)

    return FaultServer(faults=faults)


def about_sentences(server: FaultServer) -> int:
    """Requests but for those that try out the server."""
    return sum("句子" in content for content in server.asked)


def put_older_copy(folder: Path) -> None:
    """As programs do that keep folders in step with each other."""
    path = folder / ".journal" / "entity_train_1000.jsonl"
    lines = path.read_bytes().splitlines(keepends=True)
    path.unlink()
    path.write_bytes(b"".join(lines[:2]))


@pytest.mark.parametrize("how, told", [
    (shutil.rmtree, "was removed; it has been put back"),
    (lambda folder: folder.rename(folder.with_name("moved")), "was moved away; put it back"),
    (put_older_copy, "was replaced by another one; its replies are in entity_train_1000.rescued-1.jsonl"),
], ids=["removed", "moved", "replaced"])
def test_a_run_folder_that_vanishes_costs_no_reply_that_was_paid_for(how, told, tmp_path):
    pytest.importorskip("openai", reason="needs the package openai (see requirements.txt)")
    run = prepared(tmp_path, "s1_predict_data")
    opts = flags(tmp_path, model_from_pretrained="tiny", concurrency=1)
    with server_that_removes(run, 6, how) as server:
        stopped(run_child("s1_predict_data", {**opts, "base_url": server.url}), str(run / ".journal"), told)
        if not run.exists():
            (run.with_name("moved")).rename(run)
        stored = {row["id"] for path in (run / ".journal").glob("*.jsonl") for row in read_rows(path)[1:]}
        before = about_sentences(server)
        assert 4 <= len(stored) <= before <= 7 and not (run / "entity_train_1000.jsonl").exists()
        assert run_child("s1_predict_data", {**opts, "base_url": server.url}).returncode == 0
        assert about_sentences(server) - before == 12 - len(stored)
    assert [path.name for path in (run / ".journal").glob("*.jsonl")] == ["entity_train_1000.jsonl"]
    assert [row["status"] for row in read_rows(run / "entity_train_1000.jsonl")] == ["ok"] * 12


REMOVE = "def remove(path): os.unlink(path) if os.path.isfile(path) else shutil.rmtree(path)\n"


@pytest.mark.parametrize("script, at, gone", [
    ("s4_split_data", "open 1000/train_1000.jsonl.part", "250"),
    ("s5_merge_data", "open train_1000_fusion.jsonl.part", "250/train_250_fusion.jsonl"),
    ("s5_merge_data", "os.rename train_500_fusion.jsonl.part", "."),
    ("s1_predict_data", "open GLM4/entity_train_1000.jsonl.part", ".journal"),
])
def test_files_removed_while_a_step_runs_are_told_and_made_again(script, at, gone, undisturbed, tmp_path):
    run, opts = prepared(tmp_path / "a", script), flags(tmp_path / "a", script)
    event, name = at.split()
    place = run / gone
    kept = shutil.copytree(run, tmp_path / "kept")
    result = run_child(script, opts, before=f"{REMOVE}at({event!r}, {name!r}, lambda: remove({str(place)!r}))\n")
    if gone == ".journal":  # nothing is asked any more: what is published stands in for the replies
        assert result.returncode == 0
    else:
        stopped(result, str(run), "run the same command again")
    if gone == ".":
        shutil.rmtree(run, ignore_errors=True)
        shutil.copytree(kept, run)
    assert run_child(script, opts).returncode == 0
    assert all_bytes(run) == undisturbed(script, tmp_path / "a")
