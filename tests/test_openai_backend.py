"""The openai backend against a real local server that misbehaves on demand."""

from __future__ import annotations

import asyncio
import contextlib
import itertools
import json
import logging
import socket
import threading
import time
from collections import Counter
from datetime import datetime, timedelta, timezone
from email.utils import format_datetime

import pytest
from fault_server import KNOWN_FIELDS, Fault, FaultServer, error_body
from hypothesis import given, settings
from hypothesis import strategies as st

from syn_pipelines import s1_predict_data
from syn_pipelines.utils.errors import ServiceError, UserError
from syn_pipelines.utils.llm import Constraint, Reply, Request, choose_backend
from syn_pipelines.utils.llm.openai_backend import OpenAIBackend
from syn_pipelines.utils.llm.openai_constraints import WAYS, obeys, probe_constraint
from syn_pipelines.utils.llm.openai_errors import (
    MAX_PAUSE_S,
    backoff_s,
    error_fields,
    is_too_long,
    refused_fields,
    retry_after_s,
    room_left,
)
from syn_pipelines.utils.llm.openai_wire import read_answer
from syn_pipelines.utils.options import build_options

pytest.importorskip("openai", reason="needs the package openai (see requirements.txt)")

KEY = "sk-0123456789abcdef"
ENTITY = Constraint("entity", ("Ann", "saw", "New", "York"), False, ("PER", "LOC"))
POS = Constraint("pos", tuple("我爱北京"), True, ("PN", "VV", "NR"))


@pytest.fixture(autouse=True)
def no_key(monkeypatch):
    monkeypatch.delenv("OPENAI_API_KEY", raising=False)


def backend_for(server, **options):
    return OpenAIBackend("tiny", server.url, **{"first_pause_s": 0.002, "timeout_s": 20.0, **options})


def question(name, limit=64, **fields):
    return Request(str(name), ({"role": "user", "content": f"about {name}"},), limit, **fields)


def questions(count, **fields):
    return [question(number, **fields) for number in range(count)]


def echo(body):
    return f"answer {body['messages'][-1]['content']}"


def once(*faults):
    """The first requests meet these faults, all later ones none."""
    return lambda number, body: faults[number - 1] if number <= len(faults) else None


def ask_one(server, request=None, **options):
    [reply] = backend_for(server, **options).generate([request or question("x")])
    return reply


# --- answers -----------------------------------------------------------------------------------------------------

def test_every_request_is_answered_once_with_its_own_text_and_the_servers_counts():
    with FaultServer(answer=echo) as server:
        replies = list(backend_for(server).generate(questions(100)))
    assert sorted(int(reply.id) for reply in replies) == list(range(100))
    assert all(reply == Reply(reply.id, f"answer about {reply.id}", "stop", 7, 3) for reply in replies)


def test_the_request_carries_sampling_and_limit_and_no_key_where_there_is_none():
    with FaultServer() as server:
        ask_one(server, question("x", 33, temperature=0.7, top_p=0.9, seed=5))
    [body] = server.requests
    assert body["model"] == "tiny" and body["messages"] == [{"role": "user", "content": "about x"}]
    assert (body["temperature"], body["top_p"], body["seed"], body["max_tokens"]) == (0.7, 0.9, 5, 33)
    assert body["chat_template_kwargs"] == {"enable_thinking": False}


def test_the_key_of_the_environment_is_sent(monkeypatch):
    monkeypatch.setenv("OPENAI_API_KEY", f" {KEY}\n")
    with FaultServer(key=KEY) as server:
        backend = backend_for(server)
        backend.check()
        assert next(backend.generate([question("x")])).finish_reason == "stop"


def test_replies_come_in_the_order_of_completion():
    slow = threading.Event()

    def wait(number, body):
        if body["messages"][-1]["content"] == "about 0":
            slow.wait(10)

    with FaultServer(answer=echo, faults=wait) as server:
        replies = backend_for(server, concurrency=2).generate(questions(5))
        first = [next(replies).id for _ in range(4)]
        slow.set()
        assert sorted(first) == ["1", "2", "3", "4"] and [reply.id for reply in replies] == ["0"]


def test_requests_are_read_lazily_and_no_more_than_concurrency_are_under_way():
    read = 0

    def endless():
        nonlocal read
        for number in itertools.count():
            read += 1
            yield question(number)

    with FaultServer(faults=lambda number, body: Fault(hang_s=0.005)) as server:
        replies = backend_for(server, concurrency=4).generate(endless())
        for taken in range(1, 41):
            next(replies)
            assert read <= taken + 8
        replies.close()
    assert 2 <= server.most_at_once <= 4


@pytest.mark.parametrize(("choice", "text", "finish"), [
    ({"message": {"content": "half an ans"}, "finish_reason": "length"}, "half an ans", "length"),
    ({"message": {"content": None, "reasoning_content": "let me think"}, "finish_reason": "length"}, "", "length"),
    ({"message": {"content": "yes", "reasoning_content": "hm"}, "finish_reason": "stop"}, "yes", "stop"),
    ({"message": {"content": [{"type": "text", "text": "a"}, {"type": "text", "text": "b"}]}}, "ab", "stop"),
    ({"message": {"content": None, "refusal": "I will not"}, "finish_reason": "stop"}, "I will not", "stop"),
    ({"message": {"content": "半\ud83d"}, "finish_reason": "eos_token"}, "半\ud83d", "stop"),
    ({"message": {"content": "half an"}, "finish_reason": "MAX_TOKENS"}, "half an", "length"),
    ({"message": {"content": "half an"}, "finish_reason": "model_length"}, "half an", "length"),
    ({"message": {"content": "half an"}, "finish_reason": "content_filter"}, "half an", "length"),
    ({"message": {"content": "half an"}, "finish_reason": "sensitive"}, "half an", "length"),
    ({"message": {"content": "x"}, "finish_reason": ["length"]}, "x", "length"),
    ({"message": {"content": "x"}, "finish_reason": None}, "x", "stop"),
    ({"message": {"content": "x"}, "finish_reason": "tool_calls"}, "x", "stop"),
])
def test_shapes_of_a_choice(choice, text, finish):
    with FaultServer(answer=lambda body: choice) as server:
        reply = ask_one(server)
    assert (reply.text, reply.finish_reason, reply.error) == (text, finish, "")


@pytest.mark.parametrize("usage", [None, {}, {"prompt_tokens": None, "completion_tokens": "3"},
                                   {"prompt_tokens": 10**400, "completion_tokens": -1}])
def test_a_server_that_counts_nothing_gives_zeros(usage):
    with FaultServer(usage=usage) as server:
        reply = ask_one(server)
    assert (reply.finish_reason, reply.prompt_tokens, reply.completion_tokens) == ("stop", 0, 0)


def test_no_request_opens_no_connection():
    assert list(OpenAIBackend("tiny", "http://127.0.0.1:9/v1").generate(iter(()))) == []


def test_a_prompt_that_cannot_be_encoded_fails_alone():
    with FaultServer(answer=echo) as server:
        replies = {reply.id: reply for reply in backend_for(server).generate([question("a"), question("\ud83d")])}
    assert replies["a"].finish_reason == "stop"
    assert replies["\ud83d"].finish_reason == "error" and "surrogate" in replies["\ud83d"].error


def test_an_answer_with_a_byte_order_mark_is_read():
    assert read_answer(b'\xef\xbb\xbf{"choices": [{"message": {"content": "yes"}}]}').text == "yes"


@given(st.binary() | st.recursive(st.none() | st.integers() | st.text(), lambda inner: st.lists(inner) | st.dictionaries(
    st.sampled_from(["choices", "message", "content", "usage", "finish_reason", "error"]), inner)).map(
        lambda value: json.dumps(value).encode()))
def test_any_bytes_are_an_outcome(content):
    assert read_answer(content).kind in ("answer", "refused", "broken", "empty")


# --- faults that pass --------------------------------------------------------------------------------------------

PASSING = {
    "429": Fault(429), "429 with seconds": Fault(429, retry_after="0.01"),
    "429 with a date": Fault(429, retry_after="Wed, 21 Oct 2015 07:28:00 GMT"), "500": Fault(500), "502": Fault(502),
    "503": Fault(503, retry_after="0"), "408": Fault(408), "dropped": Fault(drop=True), "half a JSON": Fault(cut=True),
    "no JSON": Fault(raw=b"<html>login</html>"), "no choices": Fault(raw=b'{"choices": []}'),
    "empty choice": Fault(raw=b'{"choices": [{}]}'), "null": Fault(raw=b"null"), "nothing": Fault(raw=b""),
    "empty text": Fault(raw=b'{"choices": [{"message": {"content": ""}, "finish_reason": "stop"}]}'),
    "aborted": Fault(raw=b'{"choices": [{"message": {"content": "x"}, "finish_reason": "abort"}]}'),
    "network": Fault(raw=b'{"choices": [{"message": {"content": "x"}, "finish_reason": "network_error"}]}'),
    "overloaded": Fault(raw=b'{"choices": [{"message": {"content": "x"}, "finish_reason": "insufficient_system_resource"}]}'),
    "wrong encoding": Fault(raw='{"choices": [{"message": {"content": "é"}}]}'.encode("latin-1")),
    "deep": Fault(raw=b"[" * 100_000), "a charset that is none": Fault(500, charset="hex"),
}


@pytest.mark.parametrize("fault", PASSING.values(), ids=PASSING)
def test_a_passing_fault_is_asked_again(fault):
    with FaultServer(answer=echo, faults=once(fault, fault)) as server:
        assert ask_one(server) == Reply("x", "answer about x", "stop", 7, 3)
    assert len(server.requests) == 3


def test_an_answer_that_takes_too_long_is_asked_again():
    with FaultServer(answer=echo, faults=once(Fault(hang_s=3))) as server:
        assert ask_one(server, timeout_s=0.3).text == "answer about x"
    assert len(server.requests) == 2


def test_retry_after_is_waited_for():
    times = []

    def note(number, body):
        times.append(time.monotonic())
        return Fault(503, retry_after="1") if number == 1 else None

    with FaultServer(faults=note) as server:
        ask_one(server)
    assert times[1] - times[0] >= 1.0


def test_after_429_all_requests_pause_and_fewer_are_under_way():
    with FaultServer(answer=echo, faults=lambda n, body: Fault(429) if server.at_once > 2 else Fault(hang_s=0.01)) as server:
        replies = list(backend_for(server, concurrency=12).generate(questions(60)))
    assert {reply.finish_reason for reply in replies} == {"stop"} and len(replies) == 60


def test_a_storm_of_faults_loses_and_doubles_nothing():
    kinds = [Fault(429), Fault(500), Fault(drop=True), Fault(cut=True), Fault(raw=b"\xff")]
    with FaultServer(answer=echo, faults=lambda n, body: kinds[n // 4 % 5] if n % 4 == 0 else None) as server:
        replies = list(backend_for(server).generate(questions(150)))
    assert Counter(reply.id for reply in replies) == Counter(str(number) for number in range(150))
    assert all(reply.text == f"answer about {reply.id}" for reply in replies)
    # Each answer was asked for once: only the requests that met a fault came again.
    assert Counter(server.answered) == Counter(f"about {number}" for number in range(150))


# --- faults that stay --------------------------------------------------------------------------------------------

def poison(content, fault):
    return lambda number, body: fault if body["messages"][-1]["content"] == content else None


@pytest.mark.parametrize(("fault", "tries", "error"), [
    (Fault(500, "out of luck"), 6, "HTTP 500: out of luck"),
    (Fault(drop=True), 6, "connection: "),
    (Fault(raw=b'{"choices": []}'), 6, "broken answer: "),
    (Fault(raw=b'{"choices": [{"message": {"content": " "}}]}'), 3, "empty answer: "),
    (Fault(429, "slow down"), 12, "HTTP 429: slow down"),
    (Fault(400, "bad <b>thing</b>\nof two lines"), 1, "HTTP 400: bad <b>thing</b> of two lines"),
    (Fault(403, "flagged by moderation"), 1, "HTTP 403: flagged by moderation"),
    (Fault(413, "too big"), 1, "HTTP 413: too big"),
])
def test_one_request_that_always_fails_fails_alone_after_its_tries(fault, tries, error):
    with FaultServer(answer=echo, faults=poison("about 3", fault)) as server:
        backend = backend_for(server, concurrency=2)
        list(backend.generate([question("warm up")]))
        replies = {reply.id: reply for reply in backend.generate(questions(40))}
    assert [name for name, reply in replies.items() if reply.finish_reason != "stop"] == ["3"]
    assert replies["3"].finish_reason == "error" and replies["3"].error.startswith(error) and replies["3"].text == ""
    assert server.asked.count("about 3") == tries and len(replies) == 40


@pytest.mark.parametrize("concurrency", [1, 3, 16])
@pytest.mark.parametrize("fault", [Fault(500), Fault(drop=True)], ids=["500", "dropped"])
def test_twenty_failures_in_a_row_stop_the_work_and_mark_nothing(fault, concurrency):
    given = []
    with FaultServer(answer=echo, faults=lambda number, body: None if number <= 7 else fault) as server:
        with pytest.raises(ServiceError, match="20 tries in a row failed.*same command"):
            for reply in backend_for(server, concurrency=concurrency).generate(questions(200)):
                given.append(reply)
    assert len(given) == 7 and {reply.finish_reason for reply in given} == {"stop"}
    # Not 6 for each of the 200: what failed before the last answer came and what was under way at the end adds a few.
    assert 20 <= len(server.requests) - 7 < 80


def test_a_404_after_an_answer_is_a_fault_that_may_pass():
    with FaultServer(answer=echo, faults=lambda number, body: Fault(404, "no route") if number in (2, 3) else None) as server:
        replies = list(backend_for(server, concurrency=1).generate(questions(5)))
    assert {reply.finish_reason for reply in replies} == {"stop"}
    with FaultServer(answer=echo, faults=lambda number, body: Fault(404, "no route") if number > 1 else None) as server:
        with pytest.raises(ServiceError, match="20 tries in a row failed.*no route"):
            list(backend_for(server, concurrency=1).generate(questions(50)))


def test_a_server_that_is_gone_stops_the_work(tmp_path):
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        address = f"http://127.0.0.1:{taken.getsockname()[1]}/v1"
    with pytest.raises(ServiceError, match="20 tries in a row"):
        list(OpenAIBackend("tiny", address, first_pause_s=0.001).generate(questions(50)))


def test_a_server_that_only_answers_429_stops_the_work():
    with FaultServer(faults=lambda number, body: Fault(429, "slow down")) as server:
        with pytest.raises(ServiceError, match="asking for patience.*slow down"):
            list(backend_for(server).generate(questions(50)))


@pytest.mark.parametrize("fault", [Fault(402, "no balance"), Fault(429, "quota used up", code="insufficient_quota")])
def test_an_account_without_money_stops_the_work_at_once(fault):
    with FaultServer(faults=lambda number, body: fault) as server:
        with pytest.raises(ServiceError, match="paid"):
            list(backend_for(server, concurrency=1).generate(questions(50)))
    assert len(server.requests) <= 2


def test_answers_that_were_there_when_the_server_died_are_given_first():
    release = threading.Event()

    def fail_rest(number, body):
        if number <= 4:
            return None
        release.wait(10)
        return Fault(500)

    with FaultServer(answer=echo, faults=fail_rest) as server:
        replies = backend_for(server, concurrency=8).generate(questions(30))
        given = [next(replies)]
        release.set()
        time.sleep(0.3)  # the loop fails meanwhile, the caller is busy elsewhere
        with pytest.raises(ServiceError):
            for reply in replies:
                given.append(reply)
    assert sorted(reply.text for reply in given) == sorted(f"answer {text}" for text in server.answered)


# --- refusals ----------------------------------------------------------------------------------------------------

def test_a_refused_key_is_a_users_mistake_and_is_never_repeated(monkeypatch, caplog):
    monkeypatch.setenv("OPENAI_API_KEY", KEY)
    caplog.set_level(logging.DEBUG)
    with FaultServer(key="another") as server:
        for act in (OpenAIBackend.check, lambda backend: list(backend.generate(questions(3)))):
            with pytest.raises(UserError, match=r"refuses the key in OPENAI_API_KEY.*\*\*\*") as caught:
                act(backend_for(server))
            assert KEY not in str(caught.value) and "\n" not in str(caught.value)
    assert KEY not in caplog.text and KEY not in repr(backend_for(server)._settings)


def test_a_missing_key_is_named():
    with FaultServer(key=KEY) as server, pytest.raises(UserError, match="OPENAI_API_KEY.*not set"):
        backend_for(server).check()


@pytest.mark.parametrize("body", [error_body(f"{'x' * 290} your key {KEY}"), f"<p>{KEY}</p>".encode(), b'{"choices": "' + KEY.encode(),
                                  error_body(f"your key {KEY}").replace(b"0", b"\\u0030")])
def test_a_key_in_a_broken_answer_is_not_stored(monkeypatch, body):
    monkeypatch.setenv("OPENAI_API_KEY", KEY)
    with FaultServer(faults=lambda number, _: Fault(raw=body) if number > 1 else None) as server:
        replies = list(backend_for(server, concurrency=1).generate(questions(2)))
    assert KEY[:10] not in repr(replies) and replies[1].finish_reason == "error"


@pytest.mark.parametrize("key", ["two words", "schlüssel", "a\nb"])
def test_a_key_that_cannot_be_one_is_refused_without_showing_it(monkeypatch, key):
    monkeypatch.setenv("OPENAI_API_KEY", key)
    with pytest.raises(UserError, match="OPENAI_API_KEY") as caught:
        OpenAIBackend("tiny", "http://localhost/v1")
    assert key not in str(caught.value)


def test_403_before_any_answer_is_about_the_key():
    with FaultServer(faults=lambda number, body: Fault(403, "not for you")) as server:
        with pytest.raises(UserError, match="refuses the key.*not for you"):
            list(backend_for(server).generate(questions(3)))


def test_an_unknown_model_is_a_users_mistake_that_lists_what_there_is():
    with FaultServer(models=[f"other-{n}" for n in range(30)] + ["tiny-v2"], only_model="tiny-v2") as server:
        with pytest.raises(UserError, match=r"no model 'tiny'.*It has tiny-v2, .* and 26 more\."):
            backend_for(server).check()
        with pytest.raises(UserError, match="no model 'tiny'"):
            list(backend_for(server).generate(questions(3)))


@pytest.mark.parametrize("models", [None, [], ["another"]])
def test_a_server_that_does_not_list_the_model_but_has_it_will_do_with_a_warning_where_it_lists_others(models, caplog):
    with FaultServer(models=models, only_model="tiny") as server:
        for _ in range(2):
            backend_for(server).check()
    told = [record.getMessage() for record in caplog.records if record.levelno == logging.WARNING]
    assert told == ([f"{server.url} does not list the model 'tiny' and answers to that name all the same. It has another. The "
                     "replies are stored as those of 'tiny'."] if models else [])


def test_a_key_is_tried_out_where_anybody_may_see_the_list_of_models():
    with FaultServer(faults=lambda number, body: Fault(401, "no such key")) as server:
        with pytest.raises(UserError, match="refuses the key.*no such key"):
            backend_for(server, try_out=True).check()
    assert len(server.requests) == 1


def test_a_server_that_lists_the_model_is_asked_nothing_else():
    with FaultServer() as server:
        backend_for(server).check()
    assert not server.requests


@pytest.mark.parametrize("fault", [Fault(500), Fault(401, "not for this key"), Fault(403), Fault(429), Fault(hang_s=1)], ids=repr)
def test_a_server_whose_list_of_models_does_not_work_will_do(fault):
    with FaultServer(models_fault=fault, only_model="tiny") as server:
        backend_for(server, timeout_s=0.5).check()


def test_nobody_at_the_address():
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        port = taken.getsockname()[1]
    with pytest.raises(UserError, match=f"http://127.0.0.1:{port}/v1: no server answers there"):
        OpenAIBackend("tiny", f"http://127.0.0.1:{port}/v1", first_pause_s=0.001).check()


def test_an_address_without_its_path_is_corrected():
    with FaultServer() as server:
        with pytest.raises(UserError, match=f"--base_url=http://127.0.0.1:{server.port}/v1"):
            OpenAIBackend("tiny", f"http://127.0.0.1:{server.port}").check()


def test_parameters_that_a_server_does_not_know_are_dropped_with_one_warning(caplog):
    with FaultServer(knows=KNOWN_FIELDS - {"seed", "top_p"}, answer=echo) as server:
        replies = list(backend_for(server, concurrency=1).generate(questions(20, temperature=0.5, top_p=0.9, seed=1)))
    assert {reply.finish_reason for reply in replies} == {"stop"}
    assert set(server.requests[-1]) == KNOWN_FIELDS - {"seed", "top_p", "response_format"}
    assert len(server.requests) == 21
    warnings = [record.message for record in caplog.records if record.levelno == logging.WARNING]
    assert len(warnings) == 2 and "seed" in warnings[0] and "top_p" in warnings[1]


def test_fields_that_are_refused_without_a_name_are_dropped():
    def strict(number, body):
        return Fault(400, "bad request") if "chat_template_kwargs" in body else None

    with FaultServer(answer=echo, faults=strict) as server:
        replies = list(backend_for(server, concurrency=1).generate(questions(5)))
    assert {reply.finish_reason for reply in replies} == {"stop"} and len(server.requests) == 6


def test_fields_that_are_refused_without_a_name_cost_no_request_that_is_under_way():
    def strict(number, body):
        if "chat_template_kwargs" not in body:
            return None
        return Fault(400, "bad request", hang_s=0.3 if number > 4 else 0.0)

    with FaultServer(answer=echo, faults=strict) as server:
        replies = list(backend_for(server, concurrency=8).generate(questions(8)))
    assert {reply.finish_reason for reply in replies} == {"stop"}


def test_a_bad_first_request_does_not_change_the_others():
    with FaultServer(answer=echo, faults=poison("about 0", Fault(400, "cannot do that"))) as server:
        replies = list(backend_for(server, concurrency=1).generate(questions(3)))
    assert [reply.finish_reason for reply in replies] == ["error", "stop", "stop"]
    assert "chat_template_kwargs" in server.requests[-1]


def test_the_limits_new_name_is_used_where_the_old_one_is_refused():
    def modern(number, body):
        if "max_tokens" in body:
            return Fault(400, "Unsupported parameter: 'max_tokens' is not supported with this model. Use "
                         "'max_completion_tokens' instead.", "unsupported_parameter", "max_tokens")

    with FaultServer(answer=echo, faults=modern) as server:
        replies = list(backend_for(server, concurrency=1).generate(questions(5, limit=48)))
    assert {reply.finish_reason for reply in replies} == {"stop"}
    assert [body.get("max_completion_tokens") for body in server.requests] == [None, 48, 48, 48, 48, 48]


TOO_LONG = ["This model's maximum context length is 512 tokens. However, your messages resulted in 9000 tokens.",
            "'max_tokens' or 'max_completion_tokens' is too large: 64. This model's maximum context length is 512 tokens and "
            "your request has 505 input tokens (64 > 512 - 505).",
            "The decoder prompt (length 600) is longer than the maximum model length of 512.",
            "the request exceeds the available context size, try increasing it",
            "Input length (900 tokens) exceeds the maximum allowed length (512 tokens).",
            "The input token count (900) exceeds the maximum number of tokens allowed (512).",
            "`inputs` tokens + `max_new_tokens` must be <= 512. Given: 500 `inputs` tokens and 64 `max_new_tokens`"]


@pytest.mark.parametrize("message", TOO_LONG)
def test_a_prompt_that_does_not_fit_is_too_long_and_says_why(message):
    with FaultServer(faults=lambda number, body: Fault(400, message)) as server:
        reply = ask_one(server)
    assert reply.finish_reason == "too_long" and message[:200] in reply.error and len(server.requests) <= 3


def test_a_limit_that_does_not_fit_is_made_smaller():
    def small(number, body):
        if body["max_tokens"] > 412:
            return Fault(400, f"'max_tokens' or 'max_completion_tokens' is too large: {body['max_tokens']}. This model's maximum "
                         f"context length is 512 tokens and your request has 100 input tokens ({body['max_tokens']} > 512 - 100).")

    with FaultServer(answer=echo, faults=small) as server:
        assert ask_one(server, question("x", 5000)).finish_reason == "stop"
    assert [body["max_tokens"] for body in server.requests] == [5000, 412]
    assert set(server.requests[1]) == set(server.requests[0])


# --- constraints -------------------------------------------------------------------------------------------------

@pytest.fixture
def llguidance():
    return pytest.importorskip("llguidance", reason="the fault server obeys grammars with llguidance")


@pytest.mark.parametrize("constraint", [ENTITY, POS, Constraint("pos", ("a", "/", "b"), False, (), "inline"),
                                        Constraint("entity", tuple("引\"号\\"), True)])
@pytest.mark.parametrize("holds", [("grammar",), ("json_schema",), ()], ids=str)
def test_a_reply_says_how_the_server_held_it(llguidance, holds, constraint, caplog):
    caplog.set_level(logging.INFO)
    expected = holds[0] if holds and not (constraint.reply_format == "inline" and holds == ("json_schema",)) else ""
    with FaultServer(holds=holds, answer=lambda body: "hello") as server:
        backend = backend_for(server)
        replies = list(backend.generate(questions(5, constraint=constraint)))
        probes = [text for text in server.asked if not text.startswith("about")]
        replies += backend.generate(questions(2, constraint=constraint))
    assert {reply.decoded for reply in replies} == {expected}
    if expected:
        assert all(obeys(next(way for way in WAYS if way.decoded == expected), constraint, reply.text, cut=False)
                   for reply in replies)
    assert 1 <= len(probes) <= len(WAYS) and len(server.requests) == len(probes) + 7
    assert sum("replies are held to" in record.message for record in caplog.records) == 1


@pytest.mark.parametrize("proxy", ["foo://here", "http://a:b:c"])
def test_a_proxy_that_cannot_be_used_is_one_line(proxy, monkeypatch):
    monkeypatch.setenv("ALL_PROXY", proxy)
    with pytest.raises(UserError, match=r"client for http://192\.0\.2\.1:9/v1 cannot be made .* unset ALL_PROXY"):
        OpenAIBackend("tiny", "http://192.0.2.1:9/v1").check()


def test_the_probe_says_nothing_of_the_data():
    with FaultServer(answer=lambda body: "hello") as server:
        list(backend_for(server).generate(questions(1, constraint=ENTITY)))
    probes = [body for body in server.requests if not body["messages"][-1]["content"].startswith("about")]
    assert probes and all("York" not in json.dumps(body) for body in probes)


def test_a_server_that_refuses_unknown_fields_gets_a_json_schema(llguidance):
    with FaultServer(knows=KNOWN_FIELDS, holds=("json_schema",)) as server:
        replies = list(backend_for(server).generate(questions(5, constraint=POS)))
    assert {reply.decoded for reply in replies} == {"json_schema"}
    assert {tuple(sorted(body)) for body in server.requests[-5:]} == {tuple(sorted(KNOWN_FIELDS))}


def test_a_server_that_refuses_the_schema_as_well_answers_freely():
    with FaultServer(knows=KNOWN_FIELDS - {"response_format"}, answer=echo) as server:
        replies = list(backend_for(server).generate(questions(5, constraint=ENTITY)))
    assert {(reply.finish_reason, reply.decoded) for reply in replies} == {("stop", "")}


def test_one_grammar_that_a_server_refuses_costs_no_row(llguidance):
    def picky(number, body):
        if "structured_outputs" in body and body["messages"][-1]["content"] == "about 2":
            return Fault(400, "grammar too complex")

    with FaultServer(holds=("grammar",), faults=picky) as server:
        replies = {reply.id: reply for reply in backend_for(server).generate(questions(4, constraint=POS))}
    assert {name: reply.decoded for name, reply in replies.items()} == {"0": "grammar", "1": "grammar", "2": "", "3": "grammar"}


def test_requests_without_a_constraint_are_not_probed():
    with FaultServer() as server:
        list(backend_for(server).generate(questions(3)))
    assert len(server.requests) == 3


def test_a_connection_that_breaks_during_the_probe_says_nothing_of_the_server(llguidance):
    with FaultServer(holds=("grammar",), faults=once(*[Fault(drop=True)] * 8)) as server:
        assert ask_one(server, question("x", constraint=POS)).decoded == "grammar"


def test_a_grammar_that_kills_its_request_is_not_the_end_of_the_server(llguidance):
    def deadly(number, body):
        return Fault(drop=True) if {"structured_outputs", "ebnf", "grammar"} & body.keys() else None

    with FaultServer(holds=("json_schema",), faults=deadly) as server:
        assert ask_one(server, question("x", constraint=POS)).decoded == "json_schema"


@pytest.mark.parametrize("fault", [Fault(502), Fault(429)], ids=["502", "429"])
def test_a_server_that_is_starting_during_the_probe_says_nothing_of_grammars(llguidance, fault):
    with FaultServer(holds=("grammar",), faults=once(*[fault] * 13)) as server:
        assert ask_one(server, question("x", constraint=POS), tries=3).decoded == "grammar"


@pytest.mark.parametrize(("text", "cut", "fine"), [
    ("hello", False, False), ("[]", False, True), ('[{"entity": "Tomorrow", "type": "PER"}]', False, True),
    ('[{"entity": "Paris", "type": "PER"}]', False, False), ('[{"entity": "fine", "type": "X"}]', False, False),
    ('[{"entity": "fine", "type": "LOC"}, {"entity": "be', True, True), ('Sure: [{"entity": "be", "type": "LOC"}]', False, False),
])
def test_what_counts_as_held_to_an_entity_grammar(text, cut, fine):
    assert obeys(WAYS[0], probe_constraint(ENTITY), text, cut=cut) is fine


# --- threads -----------------------------------------------------------------------------------------------------

def own_threads():
    return [thread for thread in threading.enumerate() if thread.name == "requests to the server"]


def test_it_works_inside_a_running_event_loop():
    async def cell():
        return [reply.text for reply in backend.generate(questions(3))]

    with FaultServer(answer=echo) as server:
        backend = backend_for(server)
        assert len(asyncio.run(cell())) == 3
    assert not own_threads()


def test_an_interrupt_that_is_thrown_in_comes_after_the_answers_that_have_arrived_by_then():
    with FaultServer(answer=echo, faults=lambda number, body: Fault(hang_s=2.0 if number > 6 else 0.0)) as server:
        replies = backend_for(server, concurrency=4).generate(questions(20))
        given = [next(replies)]
        while len(server.answered) < 6:
            time.sleep(0.01)
        with pytest.raises(KeyboardInterrupt):
            given.append(replies.throw(KeyboardInterrupt))
            given.extend(iter(lambda: next(replies), None))
        assert sorted(reply.text for reply in given) == sorted(f"answer {text}" for text in server.answered)
    assert not own_threads()


@pytest.mark.parametrize("leave", ["close", "throw", "forget"])
def test_leaving_early_cancels_what_is_under_way_and_ends_the_thread(leave):
    with FaultServer(faults=lambda number, body: Fault(hang_s=0.0 if number < 4 else 2.0)) as server:
        replies = backend_for(server, concurrency=8).generate(questions(100))
        next(replies)
        if leave == "close":
            replies.close()
        elif leave == "throw":
            with contextlib.suppress(KeyboardInterrupt):
                replies.throw(KeyboardInterrupt)
        del replies
        assert not own_threads()
        assert len(server.requests) <= 24


def test_an_error_of_the_caller_in_the_middle_of_the_requests_ends_the_thread():
    def broken():
        yield from questions(20)
        raise ValueError("mine")

    with FaultServer() as server, pytest.raises(ValueError, match="mine"):
        list(backend_for(server, concurrency=2).generate(broken()))
    assert not own_threads()


def test_nothing_is_logged_for_single_requests(caplog):
    caplog.set_level(logging.INFO)
    with FaultServer() as server:
        list(backend_for(server).generate(questions(10)))
    assert len(caplog.records) == 1 and server.url in caplog.text and "tiny" in caplog.text


# --- choosing ----------------------------------------------------------------------------------------------------

def options(**given):
    return build_options(s1_predict_data.Options, given)


def test_an_address_chooses_this_backend():
    backend = choose_backend(options(base_url="http://localhost:8000/v1", model_from_pretrained="m", concurrency=3))
    assert isinstance(backend, OpenAIBackend) and (backend.name, backend.model) == ("openai", "m")


@pytest.mark.parametrize(("given", "message"), [
    ({"base_url": "http://h/v1"}, "needs --model_from_pretrained"),
    ({"backend": "openai", "model_from_pretrained": "m"}, "needs the server's address"),
    ({"backend": "transformers", "model_from_pretrained": "m", "base_url": "http://h/v1"}, "asks no server"),
    ({"backend": "offline", "base_url": "http://h/v1"}, "asks no server"),
])
def test_flags_that_do_not_go_together(given, message):
    with pytest.raises(UserError, match=message):
        choose_backend(options(**given))


@pytest.mark.parametrize("address", ["localhost:8000", "ftp://h/v1", "http://", "http://me:secret@h/v1", "http://h/v1?key=1",
                                     "http://h /v1"])
def test_what_is_no_plain_address_is_refused(address):
    with pytest.raises(UserError, match="no plain address"):
        options(base_url=address)


# --- pure functions ----------------------------------------------------------------------------------------------

@pytest.mark.parametrize(("text", "tokens"), [
    ("", 0), ("dog", 1), ("The quick fox.", 5), ("1234", 4), ("a  b\n\nc", 5), ("北京大学", 8), ("에", 2), ("é", 1), ("😀", 3),
    ("\ud83d", 2), ("a" * 3000, 1000),
])
def test_token_estimate(text, tokens):
    assert OpenAIBackend("m", "http://localhost/v1").count_tokens(text) == tokens


@given(st.text())
def test_token_estimate_counts_every_sign_and_never_more_than_the_bytes(text):
    signs = sum(not char.isspace() and not (char.isascii() and char.isalpha()) for char in text)
    assert signs <= OpenAIBackend("m", "http://localhost/v1").count_tokens(text) <= len(text.encode())


NOW = datetime(2026, 11, 21, 12, 0, tzinfo=timezone.utc)


@pytest.mark.parametrize(("value", "seconds"), [
    ("3", 3.0), ("0.5", 0.5), ("", 0.0), ("soon", 0.0), ("-4", 0.0), ("99999", MAX_PAUSE_S),
    (format_datetime(NOW + timedelta(seconds=30), usegmt=True), 30.0), (format_datetime(NOW - timedelta(days=1)), 0.0),
    (format_datetime(NOW + timedelta(days=9), usegmt=True), MAX_PAUSE_S), ("nan", 0.0), ("inf", 0.0), ("1e9", 0.0),
    (f"Mon, 01 Jan {10**20} 00:00:00 GMT", 0.0), (f"Mon, 01 Jan 2026 00:00:00 +{10**20}", 0.0),
])
def test_retry_after(value, seconds):
    assert retry_after_s({"retry-after": value}, NOW) == seconds


@settings(max_examples=200)
@given(st.text(max_size=40))
def test_any_retry_after_is_a_bounded_wait(value):
    assert 0.0 <= retry_after_s({"retry-after": value}, NOW) <= MAX_PAUSE_S


@given(st.integers(1, 10_000))
def test_backoff_grows_to_a_minute(failures):
    assert 0.0 <= backoff_s(failures) <= min(0.5 * 2 ** min(failures - 1, 30), 60.0)


@pytest.mark.parametrize(("body", "message", "code", "parameter"), [
    (error_body("no", "c", "p").decode(), "no", "c error", "p"),
    ('{"object": "error", "message": "no such\\nthing", "code": 400}', "no such thing", "400", ""),
    ('{"error": "model not found"}', "model not found", "", ""),
    ('{"detail": "Unexpected fields"}', "Unexpected fields", "", ""),
    ('{"detail": [{"type": "t", "loc": ["body", "seed"], "msg": "Extra"}]}', "body.seed: Extra", "", ""),
    ("<html><style>p {}</style><h1>502</h1> Bad</html>", "502 Bad", "", ""), ("", "", "", ""),
    ('[{"error": {"message": "x"}}]', '[{"error": {"message": "x"}}]', "", ""),
])
def test_messages_of_servers(body, message, code, parameter):
    assert error_fields(body) == (message, code, parameter)


@given(st.text() | st.recursive(st.none() | st.booleans() | st.text(), lambda inner: st.lists(inner) | st.dictionaries(
    st.sampled_from(["error", "message", "detail", "msg", "loc", "code"]), inner)).map(json.dumps))
def test_any_body_has_a_message_of_one_line(body):
    message, _, _ = error_fields(body)
    assert len(message) <= 300 and message.isprintable()


SENT = {"temperature", "top_p", "seed", "max_tokens", "chat_template_kwargs"}


@pytest.mark.parametrize(("message", "parameter", "names"), [
    ("Unexpected fields in the request: {'chat_template_kwargs'}", "", {"chat_template_kwargs"}),
    ("body.seed: Extra inputs are not permitted; body.top_p: Extra inputs are not permitted", "", {"seed", "top_p"}),
    ("Unsupported value: 'temperature' does not support 0 with this model.", "temperature", {"temperature"}),
    ('Invalid JSON payload received. Unknown name "seed": Cannot find field.', "", {"seed"}),
    ("Unrecognized request argument supplied: chat_template_kwargs", "", {"chat_template_kwargs"}),
    ("temperature must be at most 2", "temperature", set()), ("seeds are not supported", "", set()),
])
def test_which_fields_a_message_refuses(message, parameter, names):
    assert refused_fields(message, parameter, SENT) == names


@pytest.mark.parametrize(("message", "room"), [
    ("maximum context length is 4097 tokens. However, you requested 5000 tokens (100 in the messages, 4900 in the completion)", 3997),
    ("exceeds the model's maximum context length of 4096 tokens. You requested a total of 5000 tokens: 100 tokens from the "
     "input messages and 4900 tokens for the completion.", 3996),
    ("maximum context length is 8192 tokens. However, your request has 9000 input tokens.", 0),
    ("max_tokens is too large: 4900. This model supports at most 1024 completion tokens", 2450),
    ("Invalid max_tokens value, the valid range of max_tokens is [1, 8192]", 2450),
])
def test_room_that_a_message_tells(message, room):
    assert is_too_long(message) and room_left(message, 4900) == room


@pytest.mark.parametrize("body", ["[" * 100_000, '{"error": {"message": ' + "[" * 900 + "]" * 900 + "}}", "<" * 1_000_000,
                                  "<style>" * 100_000])
def test_a_body_that_is_made_to_break_readers_has_a_message_too(body):
    message = error_fields(body)[0]
    assert len(message) <= 300 and "\n" not in message


def test_a_refusal_in_a_body_that_nests_too_deeply_fails_its_request_alone():
    with FaultServer(answer=echo, faults=poison("about 1", Fault(400, raw=b"[" * 100_000))) as server:
        replies = list(backend_for(server, concurrency=1).generate(questions(3)))
    assert [reply.finish_reason for reply in replies] == ["stop", "error", "stop"] and "HTTP 400" in replies[1].error


def test_ordinary_refusals_are_not_about_length():
    for message in ("Unsupported parameter: 'max_tokens'. Use 'max_completion_tokens' instead.", "model not found", ""):
        assert not is_too_long(message)
