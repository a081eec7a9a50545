"""--dry_run: what a run would ask and cost, with nothing written."""

from __future__ import annotations

import json
import shutil
from contextlib import suppress
from pathlib import Path

import pytest
from fault_server import FaultServer
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from scripted import BAD, FINE, WRITTEN, call, journal_of, write_data_set
from tiny_models import build_tiny_model
from workspace import make_workspace, shell

import syn_pipelines.run_all as run_all
import syn_pipelines.s1_predict_data as s1
import syn_pipelines.s2_continous_generation as s2
import syn_pipelines.s3_predict_syn_data as s3
from syn_pipelines import UserError
from syn_pipelines.utils import dry_run
from syn_pipelines.utils.errors import ServiceError
from syn_pipelines.utils.llm import Reply
from syn_pipelines.utils.summary import duration


def everything(folder: Path) -> dict[str, bytes | None]:
    """Every file and folder below, hidden ones too."""
    return {str(p.relative_to(folder)): p.read_bytes() if p.is_file() else None for p in sorted(folder.rglob("*"))}


def answered(identity: str, tokens: int = 7) -> Reply:
    return Reply(identity, "[]", prompt_tokens=11, completion_tokens=tokens)


@pytest.fixture
def many(tmp_path):
    """A data set of 40 sentences and answers about them."""
    folder = write_data_set(tmp_path, [(f"Alice met Bob on day {n} .", [(0, 1, "PER")]) for n in range(40)])
    return folder, {str(n): answered(str(n)) for n in range(1, 41)}


# --- nothing is written ----------------------------------------------------------------------------------------------

@pytest.mark.parametrize("how", ["", "=probe"])
def test_the_scripts_print_the_plan_and_write_nothing(tmp_path, how):
    workspace = make_workspace(tmp_path / "project", train=12, held_out=2)
    data = workspace / "data" / "few_shot"
    before = everything(data)
    first = "".join(json.loads((data / "weibo/train_1000.jsonl").read_text(encoding="utf-8").split("\n")[0])["text"])
    for script in ("s1_predict_data", "s2_continous_generation"):
        result = shell(f"python syn_pipelines/{script}.py --file_name=weibo --backend=offline --dry_run{how}", workspace)
        assert result.returncode == 0, result.stderr
        assert first in result.stdout and "prompt tokens" in result.stdout and "nothing is written" in result.stdout
        assert ("could be used" in result.stdout) is bool(how)
    assert everything(data) == before


@pytest.mark.parametrize("how", ["plan", "probe"])
def test_a_dry_run_between_two_runs_leaves_every_byte_and_a_torn_last_line_alone(many, use, how):
    folder, answers = many
    use(answers)
    call(s1, folder, limit=10)
    with journal_of(folder).open("ab") as file:
        file.write(b'{"id": "11", "text": "torn')
    before = everything(folder)
    backend = use(answers)
    plan = call(s1, folder, dry_run=how)
    assert everything(folder) == before
    assert (plan.pending, plan.answered, plan.questions) == (30, 10, 40)
    assert backend.asked_ids == (["11", "12", "13", "14", "15"] if how == "probe" else [])
    call(s1, folder)
    assert backend.asked_ids[-30:] == [str(n) for n in range(11, 41)]  # what a probe asked is asked again, and stored


def test_errors_leave_no_trace_either(many, use):
    folder, answers = many
    use(answers)
    call(s1, folder, limit=3)
    before = everything(folder)
    with pytest.raises(UserError, match="seed 42 -> 7"):
        call(s1, folder, dry_run="plan", seed=7)
    assert everything(folder) == before
    assert call(s1, folder, dry_run="plan", seed=7, overwrite=True).pending == 40
    assert everything(folder) == before


def test_a_plan_needs_the_tokenizer_and_no_weights(tmp_path, many):
    folder, _ = many
    model = build_tiny_model("qwen2", tmp_path / "model", max_position_embeddings=4096)
    (model / "model.safetensors").write_bytes(b"no weights at all")
    before = everything(folder)
    plan = call(s1, folder, model_from_pretrained=str(model), dry_run="plan")
    assert plan.prompts[0].startswith("<|im_start|>user\n") and plan.prompts[0].endswith("<|im_start|>assistant\n")
    assert plan.prompt_tokens > 40 * 100 and "the model's tokenizer" in plan.sources["prompt_tokens"]
    assert everything(folder) == before


def test_a_model_that_is_not_there_ends_a_dry_run_as_it_would_a_run(many):
    with pytest.raises(UserError, match="/nowhere"):
        call(s1, many[0], model_from_pretrained="/nowhere", dry_run="plan")


# --- what it tells ---------------------------------------------------------------------------------------------------

def test_the_first_prompts_are_shown_as_they_would_be_sent(many, use):
    folder, answers = many
    backend = use(answers)
    plan = call(s1, folder, dry_run="plan", skip=1)
    call(s1, folder)
    assert plan.prompts == [f"user: {request.messages[0]['content']}" for request in backend.asked[1:3]]
    assert "day 1 ." in plan.prompts[0] and all(prompt in str(plan) for prompt in plan.prompts)


def test_the_plan_is_readable_in_a_notebook_and_as_json(many, use, capsys):
    folder, answers = many
    use(answers)
    plan = call(s1, folder, dry_run="plan")
    assert capsys.readouterr().out == ""  # a notebook shows what it is given
    assert "would be asked now" in repr(plan) and repr(plan) in str(plan) and "<pre>" in plan._repr_html_()
    content = json.loads(json.dumps(plan.as_dict()))
    assert (content["pending"], content["answered"], content["seconds"]) == (40, 0, None)


@settings(max_examples=40, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(limits=st.lists(st.tuples(st.integers(-1, 6), st.integers(-1, 6)), max_size=2), last=st.fixed_dictionaries(
    {"limit": st.integers(-1, 6), "skip": st.integers(-1, 6), "retry_failed": st.booleans()}), step=st.sampled_from([s1, s2]))
def test_a_plan_counts_what_the_run_then_asks(folder, use, limits, last, step):
    shutil.rmtree(folder / "run", ignore_errors=True)
    answers = {**BAD, **WRITTEN, "3#1": Reply("3#1", "", "error", error="timeout")}
    use(answers)
    for limit, skip in limits:
        with suppress(ServiceError):  # where the only request fails, nothing tells whether it is to blame
            call(step, folder, limit=limit, skip=skip)
    backend = use(answers)
    plan = call(step, folder, dry_run="plan", **last)
    assert not backend.asked
    with suppress(ServiceError):
        call(step, folder, **last)
    assert plan.pending == len(backend.asked)
    assert plan.questions == (5 if step is s1 else 3) and 0 <= plan.answered <= plan.questions - plan.pending


def test_output_tokens_come_from_stored_replies_and_before_that_from_a_rule(many, use):
    folder, answers = many
    use(answers)
    plan = call(s1, folder, dry_run="plan")
    assert "rule of thumb" in plan.sources["output_tokens"] and plan.output_tokens > 0
    call(s1, folder, limit=10)
    plan = call(s1, folder, dry_run="plan")
    assert "10 replies stored" in plan.sources["output_tokens"] and plan.output_tokens == 30 * 7


def test_replies_stored_without_token_counts_are_no_measure(many, use):
    folder, answers = many
    use(answers)
    call(s1, folder, limit=10)
    path = journal_of(folder)
    lines = [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines()]
    bare = [{k: line[k] for k in ("id", "text", "finish_reason", "error", "asked")} for line in lines[1:]]
    path.write_text("".join(json.dumps(line) + "\n" for line in [lines[0], *bare]), encoding="utf-8")
    plan = call(s1, folder, dry_run="plan")
    assert plan.answered == 10 and "rule of thumb" in plan.sources["output_tokens"]
    assert call(s1, folder).usage.asked == 30


@pytest.mark.parametrize("mode, reply_format", [("entity", "json"), ("pos", "json"), ("pos", "inline")])
def test_the_rule_of_thumb_stays_within_the_limit_of_a_reply(many, use, mode, reply_format):
    folder, answers = many
    backend = use(answers)
    plan = call(s1, folder, dry_run="plan", mode=mode, reply_format=reply_format)
    call(s1, folder, mode=mode, reply_format=reply_format)
    assert 0 < plan.output_tokens <= sum(request.max_new_tokens for request in backend.asked)


def test_time_comes_from_the_log_of_an_earlier_run_with_the_same_model_only(many, use):
    folder, answers = many
    use(answers)
    assert call(s1, folder, dry_run="plan").seconds is None
    used = call(s1, folder, limit=10).usage
    plan = call(s1, folder, dry_run="plan")
    assert plan.seconds == pytest.approx(30 * used.seconds / 10) and "last run" in plan.sources["seconds"]
    with (folder / "run" / "run.log.jsonl").open("a", encoding="utf-8") as log:
        log.write('broken\n{"step": 7}\n[]\n{"step": "s1_predict_data", "options": {}, "usage": {"asked": "x"}}\n')
    assert call(s1, folder, dry_run="plan").seconds == plan.seconds
    assert call(s1, folder, dry_run="plan", mode="pos").seconds is None
    use(answers, model="another")
    assert call(s1, folder, dry_run="plan", overwrite=True).seconds is None


def test_a_probe_measures_and_says_that_it_is_a_small_sample(many, use):
    folder, answers = many
    use({**answers, "2": Reply("2", "", "error", error="HTTP 400: no"), "3": Reply("3", "I cannot.", completion_tokens=3)})
    plan = call(s1, folder, dry_run="probe")
    assert plan.seconds > 0 and "small sample" in plan.sources["seconds"]
    assert "3 of 5 replies could be used (HTTP 400: no)" in str(plan)
    assert plan.output_tokens == round(40 * (7 + 3 + 7 + 7) / 4)
    assert plan.as_dict()["probe"]["kept"] == 3 and plan.as_dict()["probe"]["errors"] == ["HTTP 400: no"]


def test_a_server_counts_its_prompts_itself_as_soon_as_it_has_answered(many):
    pytest.importorskip("openai")
    folder, _ = many
    with FaultServer(answer=lambda body: "hello", usage={"prompt_tokens": 50, "completion_tokens": 3}) as server:
        flags = {"base_url": server.url, "model_from_pretrained": "tiny", "constraint": "none"}
        plan = call(s1, folder, dry_run="plan", **flags)
        assert "an estimate" in plan.sources["prompt_tokens"] and not server.requests
        plan = call(s1, folder, dry_run="probe", **flags)
        assert (plan.prompt_tokens, plan.output_tokens) == (40 * 50, 40 * 3) and len(server.requests) == 5
        assert "counted with 5 replies" in plan.sources["prompt_tokens"] and "0 of 5 replies could be used" in str(plan)
    with pytest.raises(UserError, match="no server answers"):
        call(s1, folder, dry_run="plan", **flags)


def test_a_probe_by_ray_workers_tells_no_speed():
    """They are started for the first request and again for the others."""
    probe = dry_run.Probe([answered("1"), answered("2")], 9.0, 9.0, 2, "sentence", starts_anew=True)
    seconds, why = dry_run._seconds(None, "model", probe)
    assert seconds is None and "--engine=local" in why
    assert "/s" not in str(probe) and str(probe).endswith("starting again; 2 of 2 replies could be used")


def test_a_probe_without_any_reply_claims_no_time(many, use):
    folder, answers = many
    use({identity: Reply(identity, "", "too_long", error="900 of 512 tokens") for identity in answers})
    plan = call(s1, folder, dry_run="probe")
    assert plan.seconds is None and plan.sources["seconds"] == "the probe got no reply" and "900 of 512" in str(plan)


def test_where_nothing_is_left_to_ask_the_plan_says_so_without_a_model_call(folder, use):
    use(FINE)
    call(s1, folder)
    backend = use({})
    for how in ("plan", "probe"):
        plan = call(s1, folder, dry_run=how)
        assert plan.pending == 0 and plan.answered == 5 and "0  of 5 would be asked now" in str(plan)
    assert not backend.asked and not backend.checked


def test_a_published_file_without_its_journal_counts_as_answered(folder, use):
    use({**FINE, **WRITTEN})
    call(s1, folder)
    call(s2, folder)
    shutil.rmtree(folder / "run" / ".journal")
    before = everything(folder)
    assert [call(step, folder, dry_run="plan").answered for step in (s1, s2)] == [5, 3]
    assert everything(folder) == before


def test_of_many_prompts_a_sample_is_counted_and_scaled_up(many, use, monkeypatch):
    folder, answers = many
    use(answers)
    whole = call(s1, folder, dry_run="plan")
    monkeypatch.setattr(dry_run, "SAMPLE", 8)
    sampled = call(s1, folder, dry_run="plan")
    assert "scaled up from 8 prompts" in sampled.sources["prompt_tokens"]
    assert sampled.prompt_tokens == pytest.approx(whole.prompt_tokens, rel=0.05)
    assert call(s1, folder, dry_run="plan").as_dict() == sampled.as_dict()


def test_a_chat_that_its_template_refuses_is_shown_as_that(many, use):
    folder, answers = many
    backend = use(answers)

    def refuse(messages):
        raise ValueError("roles must alternate")
    backend.prompt_as_sent = refuse
    plan = call(s1, folder, dry_run="plan")
    assert plan.prompts[0] == "(cannot be sent: ValueError: roles must alternate)" and plan.prompt_tokens == 0


# --- all steps -------------------------------------------------------------------------------------------------------

def test_run_all_plans_the_steps_that_ask_a_model_and_runs_none(tmp_path):
    workspace = make_workspace(tmp_path / "project", train=12, held_out=2)
    before = everything(workspace / "data" / "few_shot")
    result = shell("python syn_pipelines/run_all.py --file_name=weibo --backend=offline --dry_run=probe", workspace)
    assert result.returncode == 0, result.stderr
    for name in ("s1_predict_data entity", "s1_predict_data pos", "s2_continous_generation"):
        assert f"Dry run of {name} with offline" in result.stdout
    assert "Not yet: s3_predict_syn_data mode=entity" in result.stdout and "Together: " in result.stdout
    assert everything(workspace / "data" / "few_shot") == before


def test_run_all_plans_step_3_once_its_input_is_complete(folder, use, monkeypatch):
    backend = use({**FINE, **WRITTEN})
    monkeypatch.setattr(run_all, "choose_backend", lambda opts: backend)
    call(s2, folder)
    plans = call(run_all, folder, backend="offline", dry_run="plan")
    assert [plan.step.split(" ")[0] for plan in plans.plans] == [s1.__name__.split(".")[1]] * 2 + ["s2_continous_generation"] \
        + [s3.__name__.split(".")[1]] * 2
    assert not plans.later and plans.total()["pending"] == sum(plan.pending for plan in plans.plans) > 10
    assert json.loads(json.dumps(plans.as_dict()))["pending"] == plans.total()["pending"]
    assert "Together" in repr(plans)


@pytest.mark.parametrize("seconds, text", [(0, "0 s"), (0.4, "0 s"), (59.6, "1 min"), (61, "1 min 1 s"), (3600, "1 h"),
                                           (3 * 3600 + 59, "3 h"), (86400 * 2 + 3600 * 5, "2 d 5 h")])
def test_durations_are_told_in_two_units(seconds, text):
    assert duration(seconds) == text
