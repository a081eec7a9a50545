"""Steps 2 and 3 in-process, with a scripted backend that keeps what it was asked."""

from __future__ import annotations

import shutil

import pytest
from scripted import MORE, TOY, WRITTEN, call, journal_of, manifest_of, rows_of, write_data_set, write_rows
from workspace import tree_bytes

import syn_pipelines.s2_continous_generation as s2
import syn_pipelines.s3_predict_syn_data as s3
from syn_pipelines import UserError
from syn_pipelines.utils.llm import Reply

# --- step 2 ----------------------------------------------------------------------------------------------------------

def synthetic(folder):
    return rows_of(folder, "train_1000_synthetic")


def texts_by_id(folder):
    return {row["id"]: " ".join(row["text"]) for row in synthetic(folder)}


def test_s2_asks_about_sentences_with_entities_and_names_them(folder, use):
    backend = use(WRITTEN)
    call(s2, folder)
    assert backend.asked_ids == ["1#1", "3#1", "4#1"]
    content = backend.asked[1].messages[0]["content"]
    assert TOY[2][0] in content and "Bob (PER)\nAcme (ORG)\nLondon (LOC)" in content
    assert TOY[0][0] not in content
    assert [row["id"] for row in synthetic(folder)] == ["1-s1", "1-s2", "3-s1", "3-s2", "4-s1", "4-s2"]
    for row in synthetic(folder):
        assert row["synthetic"] is True and row["source_id"] == row["id"].split("-")[0] and row["entities"] == []
    assert synthetic(folder)[0]["text"] == ["Alice", "is", "a", "teacher", "from", "Lyon", "."]


def test_s2_drops_what_is_no_new_sentence_and_counts_why(folder, use):
    use({"1#1": "Alice visited Paris. Bob works for Acme in London. Alice is a teacher from Lyon. Too short. And then she",
         "3#1": "As an AI language model, I cannot continue this text.",
         "4#1": "Alice is a teacher from Lyon. ALICE is a teacher from Lyon."})
    summary = call(s2, folder)
    assert texts_by_id(folder) == {"1-s2": "Alice is a teacher from Lyon ."}
    manifest = manifest_of(folder, "train_1000_synthetic")
    counts = manifest["counts"]
    assert manifest["complete"] is True
    assert counts["sentences"] == 5 == counts["with entities"] + counts["without entities, not asked"]
    assert counts["replies"] == {"used": 2, "rejected": 1} and sum(counts["replies"].values()) == counts["with entities"]
    assert counts["reply_reasons"] == {"no_usable_sentence": 1}
    assert counts["synthetic_sentences"] == 1
    assert counts["dropped"] == {"copy_of_source": 2, "duplicate": 2, "refusal": 1, "too_short": 1, "unfinished": 1}
    assert any("1 explanations gave no sentence" in warning for warning in summary.warnings)


def test_s2_writes_no_sentence_of_the_data_set_whoever_it_was_asked_about(folder, use):
    use({**WRITTEN, "1#1": "The weather was fine again. Nothing happened here today."})
    call(s2, folder)
    have = {text for text, _ in TOY}
    assert not have & set(texts_by_id(folder).values())


def test_s2_with_two_samples_extends_what_one_gave(folder, use):
    use(WRITTEN)
    call(s2, folder)
    first = texts_by_id(folder)
    backend = use(MORE)
    call(s2, folder, num_samples=2)
    assert backend.asked_ids == ["1#2", "3#2", "4#2"]
    both = texts_by_id(folder)
    assert first.items() <= both.items() and len(both) == len(first) + 4
    extended = tree_bytes(folder / "run")
    shutil.rmtree(folder / "run")
    use({**WRITTEN, **MORE})
    call(s2, folder, num_samples=2)
    assert tree_bytes(folder / "run") == extended


def test_s2_ids_keep_their_text_when_a_useless_reply_is_asked_for_again(folder, use):
    use({**WRITTEN, **MORE, "1#1": "Sorry.", "3#1": Reply("3#1", "", "error", error="timeout")})
    call(s2, folder, num_samples=2)
    before = texts_by_id(folder)
    backend = use(WRITTEN)
    call(s2, folder, num_samples=2, retry_failed=True)
    assert backend.asked_ids == ["1#1", "3#1"]
    after = texts_by_id(folder)
    assert before.items() < after.items()
    assert manifest_of(folder, "train_1000_synthetic")["counts"]["replies"] == {"used": 6}


@pytest.mark.parametrize("flags, asked", [({"limit": 2}, ["1#1", "1#2", "3#1", "3#2"]), ({"skip": 2}, ["4#1", "4#2"]),
                                          ({"skip": 1, "limit": 1}, ["3#1", "3#2"])])
def test_s2_limit_and_skip_count_sentences_not_samples(folder, use, flags, asked):
    backend = use({**WRITTEN, **MORE})
    call(s2, folder, num_samples=2, **flags)
    assert backend.asked_ids == asked
    assert manifest_of(folder, "train_1000_synthetic")["complete"] is False
    call(s2, folder, num_samples=2)
    assert sorted(backend.asked_ids) == sorted({**WRITTEN, **MORE})
    assert manifest_of(folder, "train_1000_synthetic")["complete"] is True
    assert len(synthetic(folder)) == 10


def test_s2_needs_no_journal_when_it_is_complete(folder, use):
    use(WRITTEN)
    call(s2, folder)
    before = tree_bytes(folder / "run")
    shutil.rmtree(folder / "run" / ".journal")
    backend = use({})
    summary = call(s2, folder)
    assert summary.up_to_date and not backend.asked and tree_bytes(folder / "run") == before


@pytest.mark.parametrize("first, then", [({"limit": 1}, {}), ({}, {"num_samples": 2}), ({}, {"retry_failed": True}),
                                         ({}, {"seed": 7})])
def test_s2_without_its_journal_does_not_ask_again_unbidden(folder, use, first, then):
    use(WRITTEN)
    call(s2, folder, **first)
    before = tree_bytes(folder / "run")
    shutil.rmtree(folder / "run" / ".journal")
    backend = use({**WRITTEN, **MORE})
    for _ in range(2):
        with pytest.raises(UserError, match=r"train_1000_synthetic\.jsonl: the replies .* are gone.*--overwrite"):
            call(s2, folder, **then)
    assert not backend.asked and tree_bytes(folder / "run") == before
    call(s2, folder, **{**then, "retry_failed": False}, overwrite=True)
    assert backend.asked


def test_s2_refuses_an_id_of_the_data_that_a_synthetic_sentence_would_get(tmp_path, use):
    folder = write_data_set(tmp_path, [(*TOY[0], "1"), (*TOY[1], "1-s1")])
    use(WRITTEN)
    with pytest.raises(UserError, match="'1-s1'"):
        call(s2, folder)
    assert not (folder / "run" / "train_1000_synthetic.jsonl").exists()


@pytest.mark.parametrize("temperature", [0, 0.8])
@pytest.mark.parametrize("sample", ["zh", "en"])
def test_s2_offline_is_a_function_of_the_seed(tmp_path, temperature, sample):
    texts = {"zh": ("小 王 在 北 京 吃 烤 鸭 。", [(3, 5, "LOC"), (0, 2, "PER")]), "en": TOY[2]}
    results = []
    for seed in (1, 1, 2):
        folder = write_data_set(tmp_path, [texts[sample]] * 6)
        call(s2, folder, backend="offline", temperature=temperature, seed=seed)
        results.append((folder / "run" / "train_1000_synthetic.jsonl").read_bytes())
        shutil.rmtree(folder / "run")
    assert results[0] == results[1]
    assert (results[0] == results[2]) is (temperature == 0)


# --- step 3 ----------------------------------------------------------------------------------------------------------

SYNTHETIC = "entity_train_1000_synthetic"


class Anything(dict):
    """The same answer to every request."""

    def __missing__(self, key):
        return '[{"entity": "Alice", "type": "PERSON"}]'


def test_s3_goes_on_after_s2_grew(folder, use):
    use(WRITTEN)
    call(s2, folder, limit=2)
    backend = use(Anything())
    summary = call(s3, folder)
    assert backend.asked_ids == ["1-s1", "1-s2", "3-s1", "3-s2"]
    assert any("not complete yet" in warning for warning in summary.warnings)
    use({**WRITTEN, **MORE})
    grown = call(s2, folder, num_samples=2)
    assert any("s3_predict_syn_data" in warning for warning in grown.warnings)
    backend = use(Anything())
    assert not call(s3, folder).warnings
    assert not {"1-s1", "1-s2", "3-s1", "3-s2"} & set(backend.asked_ids)
    assert [row["id"] for row in rows_of(folder, SYNTHETIC)] == [row["id"] for row in synthetic(folder)]
    grown = tree_bytes(folder / "run")
    shutil.rmtree(folder / "run")
    use({**WRITTEN, **MORE})
    call(s2, folder, num_samples=2)
    use(Anything())
    call(s3, folder)
    assert tree_bytes(folder / "run") == grown


@pytest.mark.parametrize("journal", ["kept", "deleted"])
def test_s3_refuses_when_an_id_has_another_sentence_than_was_asked_about(folder, use, journal):
    use(WRITTEN)
    call(s2, folder)
    use(Anything())
    call(s3, folder)
    if journal == "deleted":
        journal_of(folder, SYNTHETIC).unlink()
    use({**WRITTEN, "3#1": "Acme sells hats to farmers. Bob keeps their books in order."})
    call(s2, folder, overwrite=True)
    backend = use(Anything())
    with pytest.raises(UserError, match=r"sentence 3-s1 .* -> .*--overwrite"):
        call(s3, folder)
    assert not backend.asked
    call(s3, folder, overwrite=True)
    assert len(backend.asked) == 6


def test_s3_names_the_step_that_makes_its_input(folder, use):
    use(Anything())
    with pytest.raises(UserError, match=r"train_1000_synthetic\.jsonl: .*s2_continous_generation\.py"):
        call(s3, folder)


def test_s3_refuses_replies_about_sentences_made_otherwise(folder, use):
    use(WRITTEN)
    call(s2, folder)
    use(Anything())
    call(s3, folder)
    use(WRITTEN)
    call(s2, folder, seed=7, overwrite=True)
    with pytest.raises(UserError, match="input .* -> "):
        call(s3, folder, seed=42)


def test_s3_of_no_synthetic_sentences_gives_an_empty_file(folder, use):
    use(dict.fromkeys(WRITTEN, "Sorry."))
    call(s2, folder)
    backend = use({})
    call(s3, folder)
    assert not backend.asked and rows_of(folder, SYNTHETIC) == []
    assert manifest_of(folder, SYNTHETIC)["complete"] is True


def test_s3_keeps_the_language_of_the_data_set(folder, use):
    use(WRITTEN)
    call(s2, folder)
    rows = [{"id": "1-s1", "text": list("北京是首都。"), "entities": [], "synthetic": True, "source_id": "1"}]
    write_rows(folder / "run" / "train_1000_synthetic.jsonl", rows)
    backend = use(Anything())
    call(s3, folder)
    assert "北 京 是 首 都 。" in backend.asked[0].messages[0]["content"]
    assert backend.asked[0].record["lang"] == "en" and backend.asked[0].record["dense"] is False
