"""The decode loop: every decision is the model's own, and no pass is made that no reply needs."""

from __future__ import annotations

import dataclasses
import logging

import pytest

torch = pytest.importorskip("torch")

from hypothesis import HealthCheck, given, settings  # noqa: E402
from hypothesis import strategies as st  # noqa: E402
from tiny_models import build_tiny_model  # noqa: E402

from syn_pipelines.utils.llm import Constraint, Request, decode_loop, guide  # noqa: E402
from syn_pipelines.utils.llm.decode_loop import DecodeLoop, Meter  # noqa: E402
from syn_pipelines.utils.llm.grammar import is_grounded  # noqa: E402
from syn_pipelines.utils.llm.guide import fill_masks, forbid  # noqa: E402
from syn_pipelines.utils.llm.slot_cache import Feed, SlotCache, run_pass, slots_fit  # noqa: E402
from syn_pipelines.utils.llm.transformers_backend import TransformersBackend  # noqa: E402
from syn_pipelines.utils.replies import parse_reply  # noqa: E402

SENTENCES = (
    (True, tuple("小明昨天去了苏州博物馆，看到了许多古代瓷器。")),
    (False, ("Alice", "Smith", "visited", "Paris", "in", "March", "2021", ".")),
    (False, ("He", "said", '"Do', 'it"', "to", "Acme", "\\o/", "😀", ".")),
    (True, tuple("2024年3月15日 <|im_end|>发布了新模型，售价$3.50。")),
    (True, ("好",)),
    (False, ("a</s>b", "<|endoftext|>", "New York", "x")),
)
TAGS = ("名词", "动词", "标点", "noun phrase")


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    return build_tiny_model("qwen2", tmp_path_factory.mktemp("loop") / "qwen2", max_position_embeddings=4096)


@pytest.fixture(scope="module")
def model(folder):
    backend = TransformersBackend(str(folder), batch_size=3)
    backend._load()
    if backend._scheduler != "continuous":
        pytest.skip("this release of transformers cannot exchange the attention of a model")
    return backend


def request(number: int, mode: str, *, limit: int = 900, reply_format: str = "json", labels=TAGS, **sampling) -> Request:
    dense, tokens = SENTENCES[number % len(SENTENCES)]
    text = "请标注下面的句子，只输出结果。" * 2 + ("" if dense else " ").join(tokens)
    return Request(f"{number}", ({"role": "user", "content": text},), limit,
                   constraint=Constraint(mode, tokens, dense, labels, reply_format), **sampling)


def written_by(backend: TransformersBackend, requests: list[Request], *, slots: int = 3, prefix=(), meter=None) -> dict:
    rows = backend._rows(requests, [])
    loop = DecodeLoop(backend._network, slots=slots, ends=backend._ends, guide_of=backend._guide, meter=meter or Meter())
    done = {written.row.request.id: written for written in loop.run(rows, prefix=prefix)}
    assert sorted(done) == sorted(request.id for request in requests)
    return done


def common_prefix(backend: TransformersBackend, requests: list[Request]) -> list[int]:
    prompts = [row.prompt for row in backend._rows(requests, [])]
    size = next(i for i in range(len(prompts[0])) if len({tuple(prompt[:i + 1]) for prompt in prompts}) > 1)
    return prompts[0][:size]


def gist(done: dict) -> dict:
    return {name: (written.tokens, written.finish, written.error, written.closed) for name, written in done.items()}


def best_margin(backend: TransformersBackend, written) -> float:
    """Replay a greedy reply: before each token that the grammar left open, a whole forward pass without cache, padding
    or neighbours. Returns the smallest lead of the chosen token over the best allowed one (0 or more: it was the best).
    """
    held, tokens, least = backend._guide(written.row), [], float("inf")
    tokens += held.begin()
    decisions = 0
    while not held.done:
        held.watch_room(written.row.limit - len(tokens))
        with torch.no_grad():
            scores = backend._network(torch.tensor([[*written.row.prompt, *tokens]])).logits[:, -1].float()
        scores = forbid(scores, fill_masks([held], scores.shape[-1]))[0]
        if len(tokens) == len(written.tokens):
            assert written.finish == "length" or int(scores.argmax()) in backend._ends
            break
        chosen = written.tokens[len(tokens)]
        assert torch.isfinite(scores[chosen])
        least = min(least, float(scores[chosen] - scores.max()))
        tokens += [chosen, *held.take(chosen)]
        decisions += 1
    assert tokens == written.tokens and decisions
    return least


@pytest.mark.parametrize("slots", [1, 3, 8])
@pytest.mark.parametrize(("mode", "reply_format"), [("entity", "json"), ("pos", "json"), ("pos", "inline")])
def test_every_decision_is_that_of_an_unpadded_forward_pass(mode, reply_format, slots, model):
    requests = [request(i, mode, reply_format=reply_format) for i in range(len(SENTENCES))]
    done = written_by(model, requests, slots=slots, prefix=common_prefix(model, requests))
    for written in done.values():
        assert best_margin(model, written) > -1e-4  # float32 rounding; a wrong cache is off by whole units


@pytest.mark.parametrize("temperature", [0.0, 0.9])
@pytest.mark.parametrize(("mode", "reply_format"), [("entity", "json"), ("pos", "json"), ("pos", "inline")])
def test_replies_are_the_same_with_forced_tokens_without_and_from_generate(mode, reply_format, temperature, folder):
    requests = [request(i, mode, reply_format=reply_format, temperature=temperature, seed=i) for i in range(7)]
    told = []
    for flags in ({}, {"forcing": False}, {"scheduler": "generate"}, {"batch_size": 2}):
        backend = TransformersBackend(str(folder), **{"batch_size": 4, **flags})
        told.append({reply.id: reply for reply in backend.generate(requests)})
    assert told[0] == told[1] == told[2] == told[3]
    assert {reply.decoded for reply in told[0].values()} == {"grammar"}


@settings(max_examples=15, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(asked=st.lists(st.tuples(st.integers(0, 5), st.sampled_from(["entity", "pos"]), st.integers(1, 260),
                                st.sampled_from(["json", "inline"]), st.booleans()), min_size=1, max_size=7),
       slots=st.integers(1, 4))
def test_any_limit_gives_a_whole_grounded_reply_or_a_refusal_that_says_so(asked, slots, model):
    requests = [dataclasses.replace(request(number, mode, limit=limit, reply_format=form if mode == "pos" else "json",
                                            labels=() if free else TAGS, seed=i, temperature=1.0), id=str(i))
                for i, (number, mode, limit, form, free) in enumerate(asked)]
    for written in written_by(model, requests, slots=slots).values():
        if written.finish == "too_long":
            assert "room for" in written.error and not written.tokens
            continue
        constraint = written.row.request.constraint
        parsed = parse_reply(model._reply(written).text, constraint.mode, reply_format=constraint.reply_format)
        assert written.finish == "stop" and len(written.tokens) <= written.row.limit
        assert parsed.status == "ok" and is_grounded(constraint, parsed.items)


def test_a_reply_closed_for_want_of_room_says_so(model):
    short = written_by(model, [request(0, "entity", limit=60)])["0"]
    assert short.closed and short.finish == "stop" and len(short.tokens) <= 60


def test_forced_tokens_save_most_passes_and_no_token_is_fed_twice(model):
    requests = [request(i, "pos") for i in range(6)]
    meter, rows = Meter(), model._rows(requests, [])
    done = written_by(model, requests, slots=6, meter=meter)
    longest = max(len(written.tokens) for written in done.values())
    assert meter.passes < longest / 3
    fed = sum(len(row.prompt) for row in rows) + sum(len(written.tokens) for written in done.values())
    assert fed - 6 * 60 <= meter.fed <= fed  # the last forced tokens of a reply need not be fed at all


def test_the_shared_beginning_is_computed_once(model):
    requests = [request(i, "entity") for i in range(6)]
    prefix = common_prefix(model, requests)
    assert len(prefix) >= 16
    apart, shared = Meter(), Meter()
    without = written_by(model, requests, slots=2, meter=apart)
    assert gist(written_by(model, requests, slots=2, prefix=prefix, meter=shared)) == gist(without)
    assert apart.fed - shared.fed == len(prefix) * (len(requests) - 1)


def test_a_prompt_that_lacks_the_shared_beginning_is_fed_whole_also_in_a_used_slot(model):
    plain = [request(i, "entity") for i in range(4)]
    odd = [Request(f"odd{i}", ({"role": "user", "content": "另一个开头" * (i + 1)},), 40, constraint=plain[0].constraint)
           for i in range(3)]
    mixed = [plain[0], odd[0], plain[1], odd[1], plain[2], odd[2], plain[3]]
    alone = {r.id: written_by(model, [r], slots=1)[r.id].tokens for r in mixed}
    done = written_by(model, mixed, slots=2, prefix=common_prefix(model, plain))
    assert {name: written.tokens for name, written in done.items()} == alone


def test_a_place_is_filled_as_soon_as_it_is_free(model):
    requests = [request(4, "pos", seed=i) for i in range(20)]  # very short replies
    requests = [dataclasses.replace(r, id=str(i)) for i, r in enumerate(requests)]
    requests.append(dataclasses.replace(request(0, "pos"), id="long"))
    alone, together = Meter(), Meter()
    written_by(model, [requests[-1]], slots=1, meter=alone)
    written_by(model, requests, slots=8, meter=together)
    assert together.passes <= alone.passes + 4  # the short ones pass through beside the long one


def test_a_long_prompt_is_fed_in_parts(model, monkeypatch):
    requests = [request(i, mode) for i, mode in enumerate(("entity", "pos", "entity", "pos"))]
    whole = written_by(model, requests)
    monkeypatch.setattr(decode_loop, "_PROMPT_TOKENS", 7)
    meter = Meter()
    assert gist(written_by(model, requests, meter=meter)) == gist(whole)
    assert meter.passes > len(requests)


def test_too_little_memory_in_the_middle_of_a_reply_loses_no_token(model, monkeypatch):
    requests = [request(i, "pos") for i in range(5)]
    right = written_by(model, requests, slots=4)
    calls, real = [], decode_loop.run_pass

    def tight(network, cache, feeds):
        calls.append(len(feeds))
        if len(calls) > 10 and len(feeds) > 1:
            raise torch.OutOfMemoryError("no room")
        return real(network, cache, feeds)

    monkeypatch.setattr(decode_loop, "run_pass", tight)
    assert gist(written_by(model, requests, slots=4)) == gist(right)
    assert max(calls) == 4 and calls[-1] == 1


@pytest.mark.parametrize("count", [1, 5])
def test_too_little_memory_for_the_cache_of_all_slots_halves_them_and_fails_no_row(count, model, monkeypatch):
    requests = [request(i, "pos") for i in range(count)]
    right = written_by(model, requests, slots=2)
    sizes, real = [], decode_loop.run_pass

    def tight(network, cache, feeds):
        sizes.append(cache.slots)
        if cache.slots > 2:
            raise torch.OutOfMemoryError("no room")
        return real(network, cache, feeds)

    monkeypatch.setattr(decode_loop, "run_pass", tight)
    assert gist(written_by(model, requests, slots=16)) == gist(right)
    assert list(dict.fromkeys(sizes)) == [16, 8, 4, 2]


def test_a_choice_that_is_repeated_draws_the_same_numbers(model, monkeypatch):
    requests = [request(i, "entity", temperature=1.0, top_p=0.9, seed=i) for i in range(4)]
    right = written_by(model, requests, slots=4)
    real, fails = decode_loop.choose_tokens, [False, False, True]

    def breaks_after_choosing(*arguments):
        chosen = real(*arguments)
        if fails and fails.pop(0):
            raise torch.OutOfMemoryError("no room")
        return chosen

    monkeypatch.setattr(decode_loop, "choose_tokens", breaks_after_choosing)
    assert gist(written_by(model, requests, slots=4)) == gist(right)
    assert not fails


def test_the_row_that_a_pass_fails_on_is_found_by_halving(model, monkeypatch):
    requests = [dataclasses.replace(request(i, "pos"), id=str(i)) for i in range(16)]
    right = gist(written_by(model, requests, slots=16))
    odd = dataclasses.replace(requests[11], messages=({"role": "user", "content": "坏\x02句子"},))
    (mark,) = model._tokenizer("\x02", add_special_tokens=False)["input_ids"]
    sizes, real = [], decode_loop.run_pass

    def choke(network, cache, feeds):
        sizes.append(len(feeds))
        if any(mark in feed.tokens for feed in feeds):
            raise ValueError("cannot digest this")
        return real(network, cache, feeds)

    monkeypatch.setattr(decode_loop, "run_pass", choke)
    done = gist(written_by(model, [*requests[:11], odd, *requests[12:]], slots=16))
    assert done.pop("11")[1:3] == ("error", "ValueError: cannot digest this")
    assert done == {name: what for name, what in right.items() if name != "11"}
    assert {16, 8} <= set(sizes)


def test_a_failing_grammar_ends_its_own_reply_only(model, monkeypatch):
    requests = [request(i, "entity") for i in range(4)]
    right = gist(written_by(model, requests))
    real = guide.lark_of
    monkeypatch.setattr(guide, "lark_of", lambda c: "start: no_such_rule" if c == requests[1].constraint else real(c))
    done = gist(written_by(model, requests))
    tokens, finish, error, _ = done.pop("1")
    assert (tokens, finish) == ([], "error") and error.startswith("grammar: ")
    assert done == {name: what for name, what in right.items() if name != "1"}


def test_a_sentence_that_cannot_be_encoded_costs_only_itself(model):
    requests = [request(i, "entity") for i in range(3)]
    bad = dataclasses.replace(requests[1], constraint=Constraint("entity", ("x\ud800", "y"), False, TAGS))
    done = gist(written_by(model, [requests[0], bad, requests[2]]))
    tokens, finish, error, _ = done.pop("1")
    assert (tokens, finish) == ([], "error") and error.startswith("UnicodeEncodeError: ")
    assert done == gist(written_by(model, [requests[0], requests[2]]))


@pytest.mark.parametrize("family", ["Gemma2", "Mamba", "Mistral"])
def test_models_that_cannot_run_in_slots_are_noticed(family):
    """Capped scores, no attention at all, a sliding window."""
    import transformers

    sizes = {"vocab_size": 128, "hidden_size": 32, "intermediate_size": 64, "num_hidden_layers": 2, "head_dim": 8,
             "num_attention_heads": 4, "num_key_value_heads": 2, "sliding_window": 4}
    if family == "Mamba":
        sizes = {"vocab_size": 128, "hidden_size": 32, "num_hidden_layers": 2, "state_size": 4}
    config = getattr(transformers, f"{family}Config")(**sizes)
    network = getattr(transformers, f"{family}ForCausalLM")(config).eval()
    assert slots_fit(network)


def test_a_model_that_cannot_run_in_slots_falls_back_and_says_so(tmp_path, folder, caplog):
    from transformers import AutoTokenizer, MistralConfig, MistralForCausalLM

    tokenizer = AutoTokenizer.from_pretrained(str(folder))
    config = MistralConfig(vocab_size=len(tokenizer), hidden_size=32, intermediate_size=64, num_hidden_layers=1,
                           num_attention_heads=4, num_key_value_heads=2, max_position_embeddings=1024, sliding_window=512,
                           bos_token_id=None, eos_token_id=tokenizer.eos_token_id)
    MistralForCausalLM(config).save_pretrained(tmp_path, safe_serialization=True)
    tokenizer.save_pretrained(tmp_path)
    backend = TransformersBackend(str(tmp_path), batch_size=2)
    with caplog.at_level(logging.INFO):
        replies = {r.id: r for r in backend.generate([request(i, "entity", limit=120) for i in range(3)])}
    for i in range(3):
        parsed = parse_reply(replies[str(i)].text, "entity")
        assert parsed.status == "ok" and is_grounded(request(i, "entity").constraint, parsed.items)
    assert "--scheduler=generate is used" in caplog.text


def test_rows_of_any_age_share_a_pass(model):
    rows = [[3 + (7 * i + k) % 90 for i in range(n)] for k, n in enumerate((50, 3, 40, 7))]
    with torch.inference_mode():
        cache = SlotCache(6)
        run_pass(model._network, cache, [Feed(row[:2], 0) for row in rows])
        packed = run_pass(model._network, cache, [Feed(row[2:], 2) for row in rows])
        for row, scores in zip(rows, packed):
            own = model._network(torch.tensor([row])).logits[0, -1]
            assert torch.allclose(own, scores, atol=1e-4)
