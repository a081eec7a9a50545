"""The transformers backend on tiny checkpoints, through the loading code that real ones go through."""

from __future__ import annotations

import functools
import logging
import shlex
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from tiny_models import KINDS, SENTENCES, build_tiny_model, edit_json, supports

from syn_pipelines import UserError
from syn_pipelines.s1_predict_data import Options as Step1Options
from syn_pipelines.utils.llm import Constraint, Request, choose_backend, kept_model
from syn_pipelines.utils.llm.generate_batches import batch_length
from syn_pipelines.utils.llm.transformers_backend import TransformersBackend, merge_system
from syn_pipelines.utils.llm.transformers_loading import (
    Placement,
    choose_placement,
    load_model,
    load_tokenizer,
    parse_gpus,
)
from syn_pipelines.utils.llm.transformers_sampling import Row, TokenChooser, cut_reply, nucleus_floor

pytestmark = pytest.mark.usefixtures("one_thread")
HERE = [kind for kind in KINDS if supports(kind)]
each_kind = pytest.mark.parametrize(
    "kind",
    [
        pytest.param(
            kind, marks=pytest.mark.skipif(kind not in HERE, reason=f"this release of transformers has no {kind}")
        )
        for kind in KINDS
    ],
)
MARK = "\x01"  # one token of its own, in no sentence: marks the request that a patched model chokes on


@pytest.fixture(scope="module")
def folders(tmp_path_factory):
    root = tmp_path_factory.mktemp("checkpoints")
    return {kind: build_tiny_model(kind, root / kind) for kind in HERE}


@pytest.fixture
def checkpoint(folders, tmp_path):
    """Makes a copy of a checkpoint that a test may change."""

    def copy(kind: str = "llama") -> Path:
        return Path(shutil.copytree(folders[kind], tmp_path / kind))

    return copy


each_scheduler = pytest.mark.parametrize("scheduler", ["continuous", "generate"])


def backend(folder: Path | str, batch_size: int = 4, scheduler: str = "continuous") -> TransformersBackend:
    return TransformersBackend(str(folder), batch_size=batch_size, scheduler=scheduler)


def ask(number: int, content: str, max_new_tokens: int = 12, **sampling) -> Request:
    return Request(f"r{number}", ({"role": "user", "content": content},), max_new_tokens, **sampling)


def mixed_requests(**sampling) -> list[Request]:
    """Prompts of very different lengths, each with its own limit and seed."""
    contents = [sentence * (1 + i % 3) for i, sentence in enumerate(SENTENCES)] + ["短", "a"]
    return [ask(i, text, 5 + 3 * (i % 4), seed=i, **sampling) for i, text in enumerate(contents)]


def answers(model: TransformersBackend, requests: list[Request]) -> dict:
    replies = list(model.generate(requests))
    assert sorted(reply.id for reply in replies) == sorted(request.id for request in requests)
    return {reply.id: reply for reply in replies}


def greedy_by_hand(model: TransformersBackend, prompt: list[int], count: int) -> list[int]:
    """Greedy tokens from full forward passes: no padding, no cache, no generate()."""
    ids = list(prompt)
    with torch.inference_mode():
        for _ in range(count):
            ids.append(int(model._network(input_ids=torch.tensor([ids])).logits[0, -1].argmax()))
    return ids[len(prompt) :]


def patch_forward(model: TransformersBackend, wrong) -> list[list[list[int]]]:
    """Put ``wrong(rows, call)`` in the place of the real model's forward; returns the list of rows seen.

    rows: the token ids that each row feeds, whether they come padded side by side or packed end to end.
    """
    model._load()
    real, seen = model._network.forward, []

    @functools.wraps(real)
    def forward(*args, **kwargs):
        packed = kwargs.get("slot_pass")
        rows = [list(feed.tokens) for feed in packed.feeds] if packed else kwargs["input_ids"].tolist()
        seen.append(rows)
        return wrong(rows, functools.partial(real, *args, **kwargs))

    model._network.forward = forward
    return seen


def mark_id(model: TransformersBackend) -> int:
    return model._tokenizer(MARK, add_special_tokens=False)["input_ids"][0]


# ---- loading ----


def test_import_and_construction_need_no_torch():
    code = (
        "import sys; from syn_pipelines.utils.llm.transformers_backend import TransformersBackend as T; "
        "b = T('some/model', batch_size=2); "
        "print(b.name, b.model, 'torch' in sys.modules, 'transformers' in sys.modules)"
    )
    root = Path(__file__).parent.parent
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, cwd=root, check=True)
    assert done.stdout.split() == ["transformers", "some/model", "False", "False"]


@each_kind
def test_counting_tokens_reads_the_tokenizer_only(kind, checkpoint):
    folder = checkpoint(kind)
    (folder / "model.safetensors").write_bytes(b"not weights")
    model = backend(folder)
    assert model.count_tokens("") == 0
    assert 0 < model.count_tokens("北京大学") < model.count_tokens("北京大学 and 東京の図書館")
    with pytest.raises(UserError, match="could not be loaded.*SafetensorError"):
        list(model.generate([ask(0, "hi")]))


def test_no_request_loads_nothing(tmp_path):
    assert list(backend(tmp_path / "absent").generate([])) == []


def _remove(*names):
    def spoil(folder):
        for name in names:
            for path in folder.glob(name):
                path.unlink()

    return spoil


def _to_bin(folder):
    from safetensors.torch import load_file

    torch.save(load_file(folder / "model.safetensors"), folder / "pytorch_model.bin")
    (folder / "model.safetensors").unlink()


def _drop_head(folder):
    from safetensors.torch import load_file, save_file

    weights = load_file(folder / "model.safetensors")
    del weights["lm_head.weight"]
    save_file(weights, folder / "model.safetensors", metadata={"format": "pt"})


def _lose_part(folder):
    _remove("model.safetensors")(folder)
    edit_json(folder / "model.safetensors.index.json", weight_map={"a": "model-1-of-2.safetensors"})


def _adapter(folder):
    (folder / "config.json").rename(folder / "adapter_config.json")


def _config(**changes):
    return lambda folder: edit_json(folder / "config.json", **changes)


BAD_FOLDERS = {
    "no config": (_remove("config.json"), "has no config.json"),
    "adapter": (_adapter, "holds an adapter only. Merge it"),
    "config is no JSON": (lambda f: (f / "config.json").write_text("{"), r"config.json:1: no JSON object .*Fetch it"),
    "config is too deep": (lambda f: (f / "config.json").write_text("[" * 100_000), r"config.json:1: no JSON object .*Fetch it"),
    "no model type": (lambda f: (f / "config.json").write_text("{}"), "model_type"),
    "no tokenizer": (_remove("token*", "special*", "*.jinja"), "no tokenizer .*Copy the tokenizer files"),
    "no weights": (_remove("*.safetensors"), r"no weights \(model.safetensors\)"),
    "pickled weights": (_to_bin, "pytorch_model.bin, but only safetensors.*save_pretrained"),
    "gguf": (lambda f: (f / "model.safetensors").rename(f / "q4.gguf"), "q4.gguf, but only safetensors"),
    "a part is missing": (_lose_part, "1 of 1 weight files are missing, among them model-1-of-2.safetensors"),
    "cut weights": (lambda f: (f / "model.safetensors").write_bytes(b"\0" * 99), "could not be loaded"),
    "weights without a head": (_drop_head, "1 weights are missing, among them lm_head.weight"),
    "unknown architecture": (_config(model_type="mammoth"), "does not know the architecture mammoth.*Update"),
    "not causal": (_config(model_type="t5"), "causal language model"),
    "needs its own code": (
        _config(model_type="mammoth", auto_map={"AutoConfig": "c.C", "AutoModelForCausalLM": "m.M"}),
        "code that comes with the checkpoint.*-hf",
    ),
    "tokenizer needs its own code": (
        lambda f: edit_json(
            f / "tokenizer_config.json", auto_map={"AutoTokenizer": ["t.T", None]}, tokenizer_class="T"
        ),
        "the tokenizer needs code that comes with the checkpoint",
    ),
}


@pytest.mark.parametrize("what", BAD_FOLDERS)
def test_a_bad_folder_is_one_line_with_advice_before_the_first_reply(what, checkpoint):
    spoil, says = BAD_FOLDERS[what]
    folder = checkpoint("llama")
    spoil(folder)
    with pytest.raises(UserError, match=says) as caught:
        next(backend(folder).generate([ask(0, "hi")]))
    message = str(caught.value)
    assert str(folder) in message and "\n" not in message and message.endswith(".")


def test_the_printed_conversion_of_pickled_weights_works(checkpoint):
    folder = checkpoint("llama")
    before = answers(backend(folder), [ask(0, SENTENCES[0])])
    _to_bin(folder)
    with pytest.raises(UserError) as caught:
        backend(folder).check()
    exec(shlex.split(str(caught.value).partition("if you trust the file: ")[2].removesuffix("."))[2], {})
    assert answers(backend(folder), [ask(0, SENTENCES[0])]) == before


@pytest.mark.parametrize("name", ["/no/such/folder", "./no/such", "~/no such", "", "../gone"])
def test_a_path_that_does_not_exist_is_said_so(name):
    with pytest.raises(UserError, match="no such folder. Give the folder"):
        backend(name).count_tokens("a")


def test_a_file_is_not_a_checkpoint(tmp_path):
    (tmp_path / "model.gguf").write_bytes(b"x")
    with pytest.raises(UserError, match="a file, not a folder"):
        backend(tmp_path / "model.gguf").check()


@pytest.mark.parametrize("name", ["nobody/no-such-model", "a/b/c"])
def test_a_hub_name_that_cannot_be_fetched_is_said_so(name, monkeypatch, tmp_path):
    from huggingface_hub import constants

    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", True)
    monkeypatch.setattr(constants, "HF_HUB_CACHE", str(tmp_path))
    with pytest.raises(UserError, match=f"{name}: neither a folder here nor a model.*Check the name and the network"):
        backend(name).count_tokens("a")


def test_a_hub_name_in_the_cache_is_used_without_network(folders, monkeypatch, tmp_path):
    import huggingface_hub
    from huggingface_hub import constants

    cached = tmp_path / "models--someone--tiny"
    shutil.copytree(folders["qwen2"], cached / "snapshots" / "0123abcd")
    (cached / "refs").mkdir()
    (cached / "refs" / "main").write_text("0123abcd")
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", True)
    offline = functools.partial(huggingface_hub.snapshot_download, cache_dir=tmp_path)
    monkeypatch.setattr(huggingface_hub, "snapshot_download", offline)
    model = backend("someone/tiny")
    assert model.model == "someone/tiny"
    assert answers(model, [ask(0, "hi")])["r0"].finish_reason in ("stop", "length")


# ---- devices ----


@pytest.mark.parametrize(
    ("given_", "wanted"), [("0", (0,)), (0, (0,)), ("0,1", (0, 1)), ([0, 1], (0, 1)), ("[1, 0]", (1, 0)), (" 2 ", (2,))]
)
def test_gpus_are_an_index_or_a_list(given_, wanted):
    assert parse_gpus(given_) == wanted


@pytest.mark.parametrize("given_", ["", "all", "-1", "0,0", [], "0.5", "0;1", "²"])
def test_other_gpu_values_are_refused(given_):
    with pytest.raises(UserError, match="--n_gpu=.*Write --n_gpu 0 or --n_gpu 0,1"):
        TransformersBackend("m", batch_size=1, n_gpu=given_)


def test_a_batch_size_below_one_is_refused():
    with pytest.raises(UserError, match="--batch_size=0"):
        TransformersBackend("m", batch_size=0)


def test_without_a_gpu_the_cpu_is_used_and_said_once(folders, monkeypatch, caplog):
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    model = TransformersBackend(str(folders["llama"]), batch_size=2, n_gpu="0,1")
    with caplog.at_level(logging.INFO):
        answers(model, mixed_requests())
        answers(model, [ask(0, "again")])
    assert [record.getMessage() for record in caplog.records if "GPU" in record.getMessage()] == [
        "no GPU on this machine: the model runs on the CPU, in float32"
    ]
    assert model._network.dtype == torch.float32


def test_placement_follows_the_gpus_of_the_machine(monkeypatch):
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 2)
    monkeypatch.setattr(torch.cuda, "mem_get_info", lambda gpu: (1000 * (gpu + 1), 9999))
    one, two = choose_placement([1]), choose_placement([0, 1])
    assert (one.dtype, one.device_map, one.max_memory) == ("bfloat16", {"": "cuda:1"}, {})
    assert (two.dtype, two.device_map, two.max_memory) == ("bfloat16", "auto", {0: 900, 1: 1800})
    with pytest.raises(UserError, match=r"--n_gpu=2: this machine has 2 GPU\(s\)"):
        choose_placement([0, 2])


def test_a_model_larger_than_the_memory_is_said_so(folders):
    """With the CPU in the place of the GPUs: what does not fit must not spill to the disk in silence."""
    with pytest.raises(UserError, match="larger than the free memory. Name more GPUs"):
        load_model(str(folders["llama"]), Placement("float32", "auto", {"cpu": 100_000}))


@pytest.mark.gpu
@each_kind
def test_on_a_gpu_the_model_runs_in_bfloat16(kind, folders):
    if not torch.cuda.is_available():
        pytest.skip("no GPU here")
    model = backend(folders[kind], 8)
    requests = mixed_requests(temperature=0.8, top_p=0.8)
    replies = answers(model, requests)
    assert {reply.finish_reason for reply in replies.values()} <= {"stop", "length"}
    assert (model._network.device.type, model._network.dtype) == ("cuda", torch.bfloat16)
    assert answers(model, requests) == replies


# ---- batches ----


@each_kind
@pytest.mark.parametrize("sampling", [{}, {"temperature": 0.8, "top_p": 0.8}, {"temperature": 1.5}])
def test_a_reply_is_the_same_alone_in_any_batch_and_with_either_scheduler(kind, sampling, folders):
    requests = mixed_requests(**sampling)
    together = answers(backend(folders[kind], 8, "generate"), requests)
    model = backend(folders[kind], 3)
    assert answers(model, requests[::-1]) == together
    assert {request.id: answers(model, [request])[request.id] for request in requests} == together


@each_kind
def test_greedy_replies_are_those_of_unpadded_forward_passes(kind, folders):
    """Also shows that the checkpoint's own sampling and repetition penalty (Qwen2) have no effect."""
    model = backend(folders[kind])
    requests = mixed_requests()
    for reply, request in zip(map(answers(model, requests).get, [r.id for r in requests]), requests):
        prompt = model._prepare(request).prompt
        tokens = greedy_by_hand(model, prompt, request.max_new_tokens)
        kept, finish = cut_reply(tokens, request.max_new_tokens, model._ends)
        assert reply.text == model._tokenizer.decode(kept, skip_special_tokens=True)
        assert (reply.finish_reason, reply.prompt_tokens, reply.completion_tokens) == (finish, len(prompt), len(kept))


@each_kind
def test_the_seed_decides_a_sampled_reply(kind, folders):
    model = backend(folders[kind], 8)
    hot = {"temperature": 1.0, "top_p": 0.95}
    first, again, other = (
        answers(model, [ask(i, SENTENCES[0], seed=i + shift, **hot) for i in range(6)]) for shift in (0, 0, 100)
    )
    assert first == again
    assert len({reply.text for reply in [*first.values(), *other.values()]}) == 12


def test_greedy_and_sampled_requests_may_share_a_batch(folders):
    model = backend(folders["qwen2"], 8)
    cold, hot = ask(0, SENTENCES[1]), ask(1, SENTENCES[1], temperature=1.2, seed=5)
    mixed = answers(model, [cold, hot])
    assert mixed["r0"] == answers(model, [cold])["r0"]
    assert mixed["r1"] == answers(model, [hot])["r1"]
    assert mixed["r0"].text != mixed["r1"].text


def test_every_row_keeps_its_own_limit(folders):
    model = backend(folders["llama"], 8)
    limits = [1, 2, 30, 7, 19]
    replies = answers(model, [ask(i, SENTENCES[i], limit) for i, limit in enumerate(limits)])
    long = [replies[f"r{i}"] for i in range(5) if replies[f"r{i}"].finish_reason == "length"]
    assert len(long) >= 3
    for i, limit in enumerate(limits):
        reply = replies[f"r{i}"]
        assert reply.completion_tokens == limit if reply.finish_reason == "length" else reply.completion_tokens < limit


@each_kind
def test_each_end_of_turn_token_ends_a_reply(kind, checkpoint):
    """The generation config is given ends that the model is known to write: each of them must stop it."""
    folder = checkpoint(kind)
    model = backend(folder)
    requests = mixed_requests()
    free = answers(model, requests)
    wanted, ends = {}, []
    for request in requests[:3]:
        tokens = greedy_by_hand(model, model._prepare(request).prompt, 5)
        ends.append(tokens[4])
        wanted[request.id] = tokens
    edit_json(folder / "generation_config.json", eos_token_id=ends)
    stopped = answers(backend(folder), requests)
    for request in requests[:3]:
        kept, finish = cut_reply(wanted[request.id], 5, [*ends, *model._ends])
        reply = stopped[request.id]
        assert finish == reply.finish_reason == "stop"
        assert reply.completion_tokens == len(kept) <= 4
        assert reply.text == model._tokenizer.decode(kept, skip_special_tokens=True)
        assert free[request.id].completion_tokens >= reply.completion_tokens


@each_kind
def test_all_ends_of_the_family_are_known(kind, folders, checkpoint):
    names = {
        "qwen2": {"<|im_end|>", "<|endoftext|>"},
        "llama": {"<|end_of_text|>", "<|eot_id|>"},
        "glm": {"<|endoftext|>", "<|user|>", "<|observation|>"},
    }[kind]
    model = backend(folders[kind])
    model._load()
    assert set(model._tokenizer.convert_ids_to_tokens(model._ends)) == names
    # Copies of Llama 3 with an old generation config exist: the template still names the end of a turn.
    folder = checkpoint(kind)
    edit_json(folder / "generation_config.json", eos_token_id=None)
    poor = backend(folder)
    poor._load()
    from_elsewhere = {"qwen2": {"<|im_end|>"}, "glm": {"<|endoftext|>", "<|user|>"}}.get(kind, names)
    assert set(poor._tokenizer.convert_ids_to_tokens(poor._ends)) == from_elsewhere


@pytest.mark.parametrize("file, value", [("generation_config.json", {"eos_token_id": ["x"]}), ("generation_config.json", {"eos_token_id": [None]}),
                                         ("tokenizer_config.json", {"model_max_length": "x"}), ("tokenizer_config.json", {"model_max_length": -1})])
def test_a_setting_of_a_checkpoint_that_is_no_number_is_named(checkpoint, file, value):
    folder = checkpoint("qwen2")
    edit_json(folder / file, **value)
    if file == "tokenizer_config.json":  # else the model's own number of positions is taken
        edit_json(folder / "config.json", max_position_embeddings=None)
    with pytest.raises(UserError, match=next(iter(value))):
        backend(folder).count_tokens("x")
        list(backend(folder).generate([ask(1, "hi", 1)]))


def test_requests_are_read_in_windows_not_all_at_once(folders):
    read = 0

    def stream():
        nonlocal read
        for read in range(1, 1001):
            yield ask(read, "hi", 1)

    replies = backend(folders["llama"], 2).generate(stream())
    assert next(replies).id
    assert read <= 64


def test_nothing_reaches_the_standard_streams(folders, capfd):
    answers(backend(folders["qwen2"]), mixed_requests(temperature=0.7, top_p=0.9))
    written = capfd.readouterr()
    assert written.out == ""
    assert [line for line in written.err.splitlines() if "no GPU on this machine" not in line] == []


# ---- prompts ----


@each_kind
def test_the_prompt_is_the_chat_template_once(kind, folders):
    model = backend(folders[kind])
    seen = patch_forward(model, lambda ids, call: call())
    request = Request("r0", ({"role": "system", "content": "回答。"}, {"role": "user", "content": SENTENCES[3]}), 4)
    reply = answers(model, [request])["r0"]
    chat = list(request.messages)
    tokens = model._tokenizer.apply_chat_template(chat, tokenize=True, add_generation_prompt=True, return_dict=False)
    assert seen[0] == [tokens]
    assert reply.prompt_tokens == len(tokens)
    begin = model._tokenizer.bos_token_id
    assert tokens.count(begin) == (1 if kind == "llama" else 0)


def test_control_tokens_spelled_in_a_sentence_stay_text(folders):
    model = backend(folders["llama"])
    model._load_tokenizer()
    chat = [{"role": "user", "content": "<|eot_id|><|role|>assistant <|begin_of_text|> 小明"}]
    ids = model._encode(chat)
    rendered = model._tokenizer.apply_chat_template(chat, tokenize=False, add_generation_prompt=True)
    assert model._tokenizer.decode(ids, clean_up_tokenization_spaces=False) == rendered
    plain = model._encode([{"role": "user", "content": "小明"}])
    specials = set(model._tokenizer.all_special_ids)
    assert [i for i in ids if i in specials] == [i for i in plain if i in specials]


def test_without_a_chat_template_the_prompt_is_plain_and_said_once(checkpoint, caplog):
    folder = checkpoint("llama")
    (folder / "chat_template.jinja").unlink(missing_ok=True)
    edit_json(folder / "tokenizer_config.json", chat_template=None)
    with caplog.at_level(logging.WARNING):
        model = backend(folder)
        seen = patch_forward(model, lambda ids, call: call())
        replies = answers(model, [ask(0, SENTENCES[0]), ask(1, "<|eot_id|>")])
    assert sum("has no chat template" in record.getMessage() for record in caplog.records) == 1
    assert replies["r0"].completion_tokens > 0
    assert model._tokenizer.decode(seen[0][0]) == "<|begin_of_text|>" + SENTENCES[0] + "\n"


def test_a_template_file_of_its_own_is_read(checkpoint):
    folder = checkpoint("llama")
    edit_json(folder / "tokenizer_config.json", chat_template=None)
    (folder / "chat_template.jinja").write_text("{{ bos_token }}{% for m in messages %}>{{ m['content'] }}{% endfor %}")
    model = backend(folder)
    model._load_tokenizer()
    assert model._tokenizer.decode(model._encode([{"role": "user", "content": "hi"}])) == "<|begin_of_text|>>hi"


def test_a_template_without_system_role_gets_it_in_the_first_user_turn(checkpoint):
    folder = checkpoint("llama")
    template = (
        "{{ bos_token }}{% for m in messages %}{% if m['role'] == 'system' %}{{ raise_exception('no system role') }}"
        "{% endif %}{{ m['role'] }}:{{ m['content'] }}{% endfor %}"
    )
    (folder / "chat_template.jinja").write_text(template)
    edit_json(folder / "tokenizer_config.json", chat_template=template)
    model = backend(folder)
    model._load_tokenizer()
    ids = model._encode([{"role": "system", "content": "S"}, {"role": "user", "content": "U"}])
    assert model._tokenizer.decode(ids) == "<|begin_of_text|>user:S\n\nU"
    bad = Request("r1", ({"role": "system", "content": "S"},), 4)
    replies = answers(model, [ask(0, "fine"), bad])
    assert replies["r1"].finish_reason == "error" and "no system role" in replies["r1"].error
    assert replies["r0"].finish_reason in ("stop", "length")


def test_a_prompt_without_room_for_a_reply_is_reported_not_cut(tmp_path):
    model = backend(build_tiny_model("llama", tmp_path / "short", max_position_embeddings=64))
    model._load()
    overhead = len(model._encode([{"role": "user", "content": ""}]))

    def sized(number: int, tokens: int, limit: int) -> Request:
        return ask(number, "\x02" * (tokens - overhead), limit)

    sizes = [(70, 8), (60, 8), (56, 8), (50, 100), (48, 100), (63, 1)]
    replies = answers(model, [sized(i, tokens, limit) for i, (tokens, limit) in enumerate(sizes)])
    finish = [replies[f"r{i}"].finish_reason for i in range(6)]
    assert [value == "too_long" for value in finish] == [True, True, False, True, False, False]
    assert replies["r0"].error == "prompt has 70 tokens, the model takes 64"
    assert (replies["r0"].text, replies["r0"].prompt_tokens) == ("", 70)
    assert replies["r4"].completion_tokens <= 16 and (finish[4] == "stop" or replies["r4"].completion_tokens == 16)


def test_a_context_that_the_instruction_alone_fills_is_refused_before_the_first_reply(tmp_path):
    folder = build_tiny_model("llama", tmp_path / "short", max_position_embeddings=64)
    instruction = "\x02" * 60
    with pytest.raises(UserError, match=r"takes 64 tokens, and the instruction alone has 60\. Use a model"):
        list(backend(folder).generate([ask(0, instruction + "a"), ask(1, instruction + "b")]))
    # One long sentence is no such case: the others may be short.
    (reply,) = backend(folder).generate([ask(0, instruction + "a")])
    assert reply.finish_reason == "too_long"


def test_the_check_sees_a_tokenizer_that_cannot_be_read(checkpoint):
    folder = checkpoint("llama")
    (folder / "tokenizer.json").write_text("{", encoding="utf-8")
    with pytest.raises(UserError, match="tokenizer"):
        backend(folder).check()


def test_steps_that_ask_the_same_model_one_after_the_other_may_share_its_weights(folders):
    def chosen(kind: str, **flags) -> TransformersBackend:
        return choose_backend(Step1Options(model_from_pretrained=str(folders[kind]), **flags))

    with kept_model():
        first = chosen("llama")
        right = answers(first, mixed_requests())
        network = first._network
        again = chosen("llama", batch_size=3)
        assert again._network is network and answers(again, mixed_requests()) == right
        assert chosen("llama", scheduler="generate")._network is None
        assert chosen("qwen2")._network is None
        assert chosen("llama")._network is None  # one model at a time
    apart = chosen("llama")
    assert apart._network is None and apart is not chosen("llama")


# ---- failures ----


@each_scheduler
def test_a_tokenizer_with_more_tokens_than_the_model_keeps_its_grammar_and_its_batches(scheduler, checkpoint, caplog):
    pytest.importorskip("llguidance")
    folder = checkpoint("llama")
    tokenizer = load_tokenizer(str(folder))
    tokenizer.add_special_tokens({"pad_token": "<pad>"})
    tokenizer.save_pretrained(folder)
    held = Constraint("entity", ("New", "York", "<pad>"), False, ("LOC",))
    requests = [ask(i, "<pad>" + SENTENCES[3] * (i + 1), 80, constraint=held) for i in range(3)]
    replies = answers(backend(folder, scheduler=scheduler), requests)
    assert {(reply.decoded, reply.finish_reason, reply.error) for reply in replies.values()} == {("grammar", "stop", "")}
    assert not [record for record in caplog.records if "one by one" in record.getMessage()]


@each_scheduler
def test_a_reply_without_any_choice_was_not_closed_for_want_of_room(scheduler, folders):
    pytest.importorskip("llguidance")
    nothing = Constraint("entity", ("\u3000",), True, ("LOC",))
    reply, = backend(folders["llama"], scheduler=scheduler).generate([ask(0, "\u3000", 16, constraint=nothing)])
    assert (reply.text, reply.finish_reason, reply.closed) == ("[]", "stop", False)


@each_scheduler
def test_a_row_that_breaks_the_model_costs_only_itself(scheduler, folders):
    model = backend(folders["llama"], 8, scheduler)
    requests = mixed_requests()
    right = answers(model, requests)

    def choke(rows, call):
        if any(mark_id(model) in row for row in rows):
            raise ValueError("cannot digest this\nsecond line")
        return call()

    patch_forward(model, choke)
    replies = answers(model, [*requests[:4], ask(99, MARK), *requests[4:]])
    bad = replies.pop("r99")
    assert (bad.finish_reason, bad.error, bad.text) == ("error", "ValueError: cannot digest this", "")
    assert replies == right


@pytest.mark.parametrize("error", [torch.OutOfMemoryError("no room"), RuntimeError("CUDA error: out of memory")])
@each_scheduler
def test_a_batch_that_does_not_fit_the_memory_is_halved_for_good(scheduler, error, folders, caplog):
    model = backend(folders["llama"], 8, scheduler)
    requests = mixed_requests() + [ask(10 + i, SENTENCES[0], 3) for i in range(5)]
    right = answers(model, requests)

    def small_memory(rows, call):
        if len(rows) > 2:
            raise error
        return call()

    seen = patch_forward(model, small_memory)
    with caplog.at_level(logging.WARNING):
        assert answers(model, requests) == right
    assert [len(rows) for rows in seen if len(rows) > 2] == [8, 4]
    assert sum("out of memory" in record.getMessage() for record in caplog.records) == 2


@each_scheduler
def test_a_row_that_never_fits_is_an_error_and_the_rest_go_on(scheduler, folders):
    model = backend(folders["llama"], 4, scheduler)

    def no_room(rows, call):
        if any(mark_id(model) in row for row in rows):
            raise torch.OutOfMemoryError("tried to allocate 9 TiB")
        return call()

    patch_forward(model, no_room)
    replies = answers(model, [*mixed_requests(), ask(99, MARK)])
    assert replies.pop("r99").error == "OutOfMemoryError: tried to allocate 9 TiB"
    assert all(reply.finish_reason in ("stop", "length") for reply in replies.values())


@pytest.mark.parametrize("temperature", [0.0, 0.8])
@each_scheduler
def test_scores_that_are_not_numbers_are_an_error_not_garbage(scheduler, temperature, folders):
    model = backend(folders["llama"], 8, scheduler)
    requests = mixed_requests(temperature=temperature)
    right = answers(model, requests)

    def overflow(rows, call):
        output = call()
        bad = [i for i, row in enumerate(rows) if mark_id(model) in row]
        # (rows, 1, vocabulary) from padded rows, (1, rows, vocabulary) from packed ones
        output.logits.view(len(rows), -1)[bad] = float("nan")
        return output

    patch_forward(model, overflow)
    replies = answers(model, [*requests, ask(99, MARK, temperature=temperature)])
    assert "not numbers" in replies.pop("r99").error
    assert replies == right


@each_scheduler
def test_an_interrupt_is_not_swallowed(scheduler, folders):
    model = backend(folders["llama"], scheduler=scheduler)

    def interrupt(rows, call):
        raise KeyboardInterrupt

    patch_forward(model, interrupt)
    with pytest.raises(KeyboardInterrupt):
        list(model.generate([ask(0, "hi")]))


def test_an_error_of_the_caller_is_not_taken_for_one_of_the_model(folders):
    def stream():
        yield ask(0, "hi")
        raise RuntimeError("the caller's own")

    with pytest.raises(RuntimeError, match="the caller's own"):
        list(backend(folders["llama"]).generate(stream()))


# ---- pure parts ----


def draw(scores: list[float], *, seed: int, temperature: float = 1.0, top_p: float = 1.0) -> int:
    request = ask(0, "x", 1, temperature=temperature, top_p=top_p, seed=seed)
    chooser = TokenChooser([Row(request, [0], 1)], 1, torch.device("cpu"))
    return int(chooser(torch.zeros((1, 1), dtype=torch.long), torch.tensor([scores])).argmax())


@settings(max_examples=60, deadline=None)
@given(
    scores=st.lists(st.floats(-20, 20, width=32), min_size=2, max_size=12),
    seed=st.integers(0, 2**40),
    temperature=st.floats(0.05, 3),
    top_p=st.floats(0, 1),
)
def test_a_drawn_token_lies_in_the_smallest_set_that_reaches_top_p(scores, seed, temperature, top_p):
    token = draw(scores, seed=seed, temperature=temperature, top_p=top_p)
    probabilities = torch.softmax(torch.tensor(scores).double() / temperature, 0)
    better = float(probabilities[probabilities > probabilities[token]].sum())
    assert better < top_p + 1e-9 or scores[token] == max(scores)
    assert token == draw(scores, seed=seed, temperature=temperature, top_p=top_p)


def test_the_nucleus_is_the_same_whether_few_or_all_tokens_are_sorted():
    spread = torch.tensor([[0.01], [1], [2], [4], [8], [1]])
    scores = torch.randn(6, 3000, generator=torch.Generator().manual_seed(1)) * spread
    scores[5] = 0.0  # all tokens tie: all belong
    probabilities = torch.softmax(scores.double(), -1)
    for top_p in (0.0, 0.3, 0.8, 0.999, 1.0):
        floor = nucleus_floor(probabilities, torch.full((6, 1), top_p, dtype=torch.float64))
        for row, least in zip(probabilities, floor):
            inside = row[row >= least]
            assert inside.sum() >= top_p - 1e-9
            assert len(inside) == len(row) if top_p == 1 else row[row > least].sum() < max(top_p, 1e-9)
    one_by_one = [nucleus_floor(row[None], torch.tensor([[0.8]], dtype=torch.float64)) for row in probabilities]
    together = nucleus_floor(probabilities, torch.full((6, 1), 0.8, dtype=torch.float64))
    assert torch.equal(torch.cat(one_by_one), together)


def test_tokens_are_drawn_as_often_as_their_probability_says():
    counts = [0, 0, 0]
    for seed in range(2000):
        counts[draw([0.0, 1.0, 2.0], seed=seed)] += 1
    for count, probability in zip(counts, torch.softmax(torch.tensor([0.0, 1.0, 2.0]), 0).tolist()):
        assert abs(count / 2000 - probability) < 0.04


@given(
    tokens=st.lists(st.integers(0, 5), max_size=20),
    limit=st.integers(1, 25),
    ends=st.sets(st.integers(0, 5), max_size=2),
)
def test_a_cut_reply_is_a_prefix_without_end_tokens(tokens, limit, ends):
    kept, finish = cut_reply(tokens, limit, ends)
    assert kept == tokens[: len(kept)] and len(kept) <= limit and not ends & set(kept)
    if finish == "stop":
        assert tokens[len(kept)] in ends
    else:
        assert len(kept) == min(limit, len(tokens))


@given(st.lists(st.tuples(st.integers(1, 60), st.integers(1, 60)), min_size=1, max_size=9), st.integers(60, 120))
def test_a_batch_takes_the_longest_front_that_fits_the_context(sizes, context):
    def fits(count):
        return max(p for p, _ in sizes[:count]) + max(r for _, r in sizes[:count]) <= context

    count = batch_length(sizes, context)
    assert 1 <= count <= len(sizes)
    assert count == 1 or fits(count)
    assert count == len(sizes) or not fits(count + 1)


def test_system_text_moves_only_where_a_user_turn_follows():
    system, user = {"role": "system", "content": "S"}, {"role": "user", "content": "U"}
    assert merge_system([system, user]) == [{"role": "user", "content": "S\n\nU"}]
    assert merge_system([user]) == [user]
    assert merge_system([system]) == [system]
