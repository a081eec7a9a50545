"""Local models that fail: on one sentence, on all, for want of memory, in the middle. See test_transformers_backend.py and
test_decode_loop.py for rows that break a batch and batches that are halved."""

from __future__ import annotations

import signal
from collections import Counter
from pathlib import Path

import pytest
from child import last_line, run_child
from hypothesis import given
from hypothesis import strategies as st
from pipeline import NAME, TEXTS, all_bytes, read_rows, write_dataset

from syn_pipelines.ner.decoding import Span
from syn_pipelines.ner.prediction import predict_stream
from syn_pipelines.utils.annotate import MOST_FAILURES, sure_failures
from syn_pipelines.utils.errors import ServiceError
from syn_pipelines.utils.llm import Reply, Request
from syn_pipelines.utils.llm.offline import OfflineBackend

pytestmark = pytest.mark.usefixtures("one_thread")
each_scheduler = pytest.mark.parametrize("scheduler", ["continuous", "generate"])


# --- who is to blame: pure --------------------------------------------------------------------------------------------

def replies(finishes) -> list[Reply]:
    return [Reply(str(n), "", finish, error="broken" if finish == "error" else "") for n, finish in enumerate(finishes)]


def sure(finishes, works=False) -> tuple[list[str], bool]:
    """(ids given, whether the model was blamed)"""
    given_: list[str] = []
    try:
        for reply in sure_failures(replies(finishes), works=works):
            given_.append(reply.id)
    except ServiceError:
        return given_, True
    return given_, False


FINISHES = st.lists(st.sampled_from(["stop", "length", "too_long", "error"]), max_size=30)


@given(FINISHES, st.booleans())
def test_every_reply_is_given_once_unless_the_model_has_never_answered(finishes, works):
    ids, blamed = sure(finishes, works)
    answered = works or bool({"stop", "length"} & set(finishes))
    assert blamed is (not answered and "error" in finishes)
    assert len(ids) == len(set(ids))
    kept = [n for n, finish in enumerate(finishes) if finish != "error" or answered]
    assert sorted(map(int, ids)) == kept


@given(st.integers(0, 3), st.integers(0, 5), st.booleans())
def test_so_many_failures_in_a_row_are_the_models_and_mark_nothing(before, after, works):
    finishes = ["stop"] * before + ["error"] * (MOST_FAILURES + after)
    assert sure(finishes, works) == ([str(n) for n in range(before)], True)
    fewer = ["stop"] * before + ["error"] * (MOST_FAILURES - 1) + ["length"]
    assert sure(fewer, works) == ([str(n) for n in [*range(before), *range(before, len(fewer))]], False)


def test_no_reply_is_no_fault():
    assert sure([]) == ([], False)


# --- the offline backend ---------------------------------------------------------------------------------------------

def test_a_sentence_that_a_tagger_trips_over_fails_alone(monkeypatch):
    from syn_pipelines.utils.llm.offline import zh

    tagger = zh.load_tagger()
    real = tagger.cut

    def trips(text):
        if "上海" in text:
            raise IndexError("list index out of range")
        return real(text)

    monkeypatch.setattr(tagger, "cut", trips)
    records = [{"tokens": list(text), "dense": True, "lang": "zh", "entities": []} for text in TEXTS]
    requests = [Request(str(n), (), 64, task="entity", record=record) for n, record in enumerate(records)]
    found = {reply.id: reply for reply in OfflineBackend().generate(requests)}
    failed = {name for name, reply in found.items() if reply.finish_reason == "error"}
    assert failed == {str(n) for n, text in enumerate(TEXTS) if "上海" in text} and len(found) == len(TEXTS)
    assert {found[name].error for name in failed} == {"offline backend: IndexError: list index out of range"}


# --- a real checkpoint under the real script -------------------------------------------------------------------------

@pytest.fixture(scope="module")
def checkpoint(tmp_path_factory) -> Path:
    from tiny_models import build_tiny_model

    return build_tiny_model("llama", tmp_path_factory.mktemp("tiny") / "llama", max_position_embeddings=1024)


def flags(folder: Path, checkpoint: Path, **more) -> dict[str, object]:
    return {"file_dir": folder, "file_name": NAME, "model_from_pretrained": checkpoint, "batch_size": 4, "constraint": "none",
            **more}


def wrong(error: str, when: str = "True") -> str:
    """Code that lets passes over prompts fail; ``rows`` is how many they have. Small ones try out a model that was loaded."""
    return ("import torch\nfrom transformers.models.llama.modeling_llama import LlamaForCausalLM\nreal = LlamaForCausalLM.forward\n"
            "def forward(self, *args, **options):\n    packed, ids = options.get('slot_pass'), options['input_ids']\n"
            "    rows = len(packed.feeds) if packed else len(ids)\n"
            f"    if ids.numel() > 100 and {when}:\n        raise {error}\n"
            "    return real(self, *args, **options)\nLlamaForCausalLM.forward = forward\n")


def journal(folder: Path) -> list[str]:
    return [row["id"] for row in read_rows(folder / NAME / "GLM4" / ".journal" / "entity_train_1000.jsonl")[1:]]


@pytest.fixture(scope="module")
def calm(checkpoint, tmp_path_factory) -> dict[str, bytes]:
    """Published files of a run that nothing disturbed."""
    folder = tmp_path_factory.mktemp("calm")
    write_dataset(folder)
    result = run_child("s1_predict_data", flags(folder, checkpoint))
    assert result.returncode == 0, result.stderr
    return published(folder)


def published(folder: Path) -> dict[str, bytes]:
    return {name: content for name, content in all_bytes(folder / NAME / "GLM4").items() if name.endswith("1000.jsonl")}


@each_scheduler
def test_a_model_that_fails_on_every_sentence_is_told_and_marks_none(scheduler, checkpoint, calm, tmp_path):
    write_dataset(tmp_path)
    opts = flags(tmp_path, checkpoint, scheduler=scheduler)
    result = run_child("s1_predict_data", opts, before=wrong("ValueError('no kernel image for this device')"))
    line = last_line(result.stderr)
    assert result.returncode == 1 and "Traceback" not in result.stderr, result.stderr
    assert line.startswith("stopped: the model failed on 12 requests in a row") and "no kernel image for this device" in line
    assert journal(tmp_path) == [] and not (tmp_path / NAME / "GLM4" / "entity_train_1000.jsonl").exists()
    assert run_child("s1_predict_data", opts).returncode == 0
    assert published(tmp_path) == calm


@each_scheduler
def test_a_model_that_has_room_for_one_prompt_only_answers_all_the_same(scheduler, checkpoint, calm, tmp_path):
    write_dataset(tmp_path)
    before = wrong("torch.OutOfMemoryError('CUDA out of memory. Tried to allocate 9.00 GiB')", "rows > 1")
    result = run_child("s1_predict_data", flags(tmp_path, checkpoint, scheduler=scheduler), before=before)
    assert result.returncode == 0 and "out of memory with" in result.stderr and "going on with 1\n" in result.stderr, result.stderr
    assert published(tmp_path) == calm


@each_scheduler
@pytest.mark.parametrize("number, code", [("TERM", 143), ("INT", 130)])
def test_a_model_stopped_in_the_middle_keeps_what_it_has_written_and_repeats_nothing(scheduler, number, code, checkpoint, calm, tmp_path):
    write_dataset(tmp_path)
    opts = flags(tmp_path, checkpoint, scheduler=scheduler)
    stop = f"real_sync = os.fdatasync\ndef sync(handle):\n    real_sync(handle)\n    send(signal.SIG{number})\nos.fdatasync = sync\n"
    result = run_child("s1_predict_data", opts, before=stop)
    assert result.returncode == code == 128 + getattr(signal, f"SIG{number}") and "Traceback" not in result.stderr, result.stderr
    assert "what is finished is kept; the same command goes on from there" in last_line(result.stderr)
    kept = journal(tmp_path)
    assert 1 <= len(kept) < 12
    assert run_child("s1_predict_data", opts).returncode == 0
    assert journal(tmp_path)[:len(kept)] == kept and set(Counter(journal(tmp_path)).values()) == {1}
    assert published(tmp_path) == calm


@pytest.mark.parametrize("module", ["torch", "transformers", "torch.nn", "safetensors"])
def test_a_signal_while_a_model_is_loading_is_one_line(module, checkpoint, tmp_path):
    write_dataset(tmp_path)
    result = run_child("s1_predict_data", flags(tmp_path, checkpoint), before=f"at('import', {module!r}, lambda: send(signal.SIGINT))\n")
    assert result.returncode == 130 and "Traceback" not in result.stderr, result.stderr
    assert last_line(result.stderr).startswith("interrupted: what is finished is kept")


def test_a_cache_that_breaks_when_a_reply_ends_is_computed_again(checkpoint, monkeypatch):
    from syn_pipelines.utils.llm.slot_cache import SlotCache
    from syn_pipelines.utils.llm.transformers_backend import TransformersBackend

    requests = [Request(str(n), ({"role": "user", "content": f"{n} " * (n + 1)},), 4 + 3 * n) for n in range(6)]
    model = TransformersBackend(str(checkpoint), batch_size=4)
    right = {reply.id: reply for reply in model.generate(requests)}
    real, left = SlotCache.move, [2]

    def breaks(self, *args):
        if left[0]:
            left[0] -= 1
            raise RuntimeError("CUDA error: an illegal memory access was encountered")
        return real(self, *args)

    monkeypatch.setattr(SlotCache, "move", breaks)
    assert {reply.id: reply for reply in model.generate(requests)} == right and left == [0]


# --- NER models ------------------------------------------------------------------------------------------------------

class Cramped:
    """Finds the first token of each sentence; has room for two sentences at once, and for none of more than 20 tokens."""

    labels = None

    def __init__(self) -> None:
        self.sizes: list[int] = []

    def cells(self, length: int) -> int:
        return length

    def predict(self, sentences):
        import torch

        self.sizes.append(len(sentences))
        if len(sentences) > 2 or any(len(tokens) > 20 for tokens in sentences):
            raise torch.OutOfMemoryError("CUDA out of memory")
        return [[Span(0, 1, tokens[0], 1.0)] for tokens in sentences]


def test_labelling_goes_on_with_smaller_batches_where_the_memory_does_not_suffice(caplog):
    import torch

    sentences = [[str(n), *"abc"[:n % 4]] for n in range(11)]
    found = list(predict_stream(Cramped(), sentences, batch_size=5))
    assert [spans[0].label for spans in found] == [str(n) for n in range(11)]
    assert "out of memory with 5 sentences at once: going on with 2" in caplog.text
    with pytest.raises(torch.OutOfMemoryError):
        list(predict_stream(Cramped(), [["a"] * 21], batch_size=5))


def test_a_training_without_enough_memory_is_one_line(tmp_path):
    write_dataset(tmp_path)
    before = ("import torch\ndef forward(self, *args):\n    raise torch.OutOfMemoryError('CUDA out of memory. Tried to allocate 9 GiB')\n"
              "torch.nn.LSTM.forward = forward\n")
    result = run_child("train_ner", {"file_dir": tmp_path, "file_name": NAME, "train": "gold", "max_steps": 2}, before=before)
    assert result.returncode == 2 and "Traceback" not in result.stderr, result.stderr
    assert "Tried to allocate 9 GiB" in last_line(result.stderr) and "--train_batch_size" in last_line(result.stderr)
