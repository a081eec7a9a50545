"""Tags to spans: what a scheme can express comes back, what is wrong is repaired and reported, nothing is lost."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from syn_pipelines.utils.tags import scheme_of, spans_of_tags, split_tag

# scheme: (letter of a one-token entity, first, middle, last)
SCHEMES = {"BIO": "BBII", "BIOES": "SBIE", "BMES": "SBME", "BILOU": "UBIL", "IO": "IIII"}
LABELS = st.sampled_from(["PER", "PER.NAM", "B-cell", "I", "地名", "O", "S_x", "-"])


@st.composite
def flat_spans(draw, *, gaps: int = 0):
    """(spans, number of tokens): spans that do not overlap; ``gaps``: least number of tokens between two."""
    spans, at = [], draw(st.integers(0, 2))
    for _ in range(draw(st.integers(0, 5))):
        end = at + draw(st.integers(1, 4))
        spans.append((at, end, draw(LABELS)))
        at = end + draw(st.integers(gaps, 2))
    return spans, at + draw(st.integers(0, 2))


def tags_of(spans, length: int, scheme: str, joint: str = "-") -> list[str]:
    """The textbook tags of spans, written here anew so that the reader is not tested with itself."""
    single, first, middle, last = SCHEMES[scheme]
    tags = ["O"] * length
    for start, end, label in spans:
        for i in range(start, end):
            letter = single if end - start == 1 else first if i == start else last if i == end - 1 else middle
            tags[i] = f"{letter}{joint}{label}"
    return tags


@pytest.mark.parametrize("scheme", ["BIO", "BIOES", "BMES", "BILOU"])
@given(flat_spans(), st.sampled_from("-_"))
def test_spans_come_back_from_every_scheme_without_a_repair(scheme, drawn, joint):
    spans, length = drawn
    tags = tags_of(spans, length, scheme, joint)
    name = "closed" if scheme != "BIO" else "open"
    assert spans_of_tags(tags, name) == (spans, [])
    assert spans_of_tags(tags)[0] == spans


@given(flat_spans(gaps=1))
def test_spans_come_back_from_io_where_none_touch(drawn):
    spans, length = drawn
    tags = tags_of(spans, length, "IO")
    assert scheme_of([tags]) == "io" and spans_of_tags(tags) == (spans, [])


@given(st.lists(st.sampled_from(["O", "X", "", "-", "B-"]) | st.builds("{}-{}".format, st.sampled_from("BIESMLU"), st.sampled_from("AB"))))
def test_any_tags_give_ordered_spans_that_hold_every_tagged_token(tags):
    spans, repairs = spans_of_tags(tags)
    if scheme_of([tags]) != "bare":
        tagged = {(i, tag[2:]) for i, tag in enumerate(tags) if split_tag(tag)}
        assert {(i, label) for start, end, label in spans for i in range(start, end)} == tagged
    assert all(a[1] <= b[0] for a, b in zip(spans, spans[1:])) and all(start < end for start, end, _ in spans)
    assert all(0 <= i < len(tags) for i, _ in repairs)


@pytest.mark.parametrize("tags, scheme, spans, repaired", [
    ("O I-A I-A O", "open", [(1, 3, "A")], [1]),
    ("B-A I-B I-B", "open", [(0, 1, "A"), (1, 3, "B")], [1]),
    ("B-A O I-A", "open", [(0, 1, "A"), (2, 3, "A")], [2]),
    ("I-A I-B", "io", [(0, 1, "A"), (1, 2, "B")], []),
    ("E-A O", "closed", [(0, 1, "A")], [0]),
    ("B-A I-A O", "closed", [(0, 2, "A")], [1]),
    ("B-A", "closed", [(0, 1, "A")], [0]),
    ("B-A S-A", "closed", [(0, 1, "A"), (1, 2, "A")], [0]),
    ("B-A M-A E-A M-A", "closed", [(0, 3, "A"), (3, 4, "A")], [3, 3]),
    ("B-A X-A B-A", "open", [(0, 1, "A"), (2, 3, "A")], [1]),
    ("b-A i-A", "open", [(0, 2, "A")], []),
    ("B-A B-A", "open", [(0, 1, "A"), (1, 2, "A")], []),
    ("A A O B", "bare", [(0, 2, "A"), (3, 4, "B")], []),
])
def test_invalid_tags_are_repaired_and_reported_where_they_stand(tags, scheme, spans, repaired):
    found, repairs = spans_of_tags(tags.split(), scheme)
    assert found == spans and sorted(i for i, _ in repairs) == repaired
    assert all("repaired" in text for _, text in repairs)


@pytest.mark.parametrize("sentences, scheme", [
    (["O O"], "io"), ([""], "io"), (["I-A O", "I-B I-B"], "io"),
    (["I-A I-A B-A O", "I-B"], "io"),  # the first CoNLL scheme
    (["B-A I-A", "I-A"], "open"), (["I-A B-B"], "open"), (["I-A O B-A"], "open"),
    (["B-A E-A", "I-A"], "closed"), (["S-A"], "closed"), (["U-A"], "closed"), (["B-A L-A"], "closed"),
    (["PER O", "person-actor O"], "bare"), (["B-A X"], "open"), (["I-A X"], "io"),
])
def test_the_scheme_is_told_from_the_whole_file(sentences, scheme):
    assert scheme_of([sentence.split() for sentence in sentences]) == scheme


@pytest.mark.parametrize("tag, parts", [
    ("B-PER", ("B", "PER")), ("i_PER", ("I", "PER")), ("B-B-cell", ("B", "B-cell")), ("O", None), ("B-", None), ("B", None),
    ("", None), ("PER", None), ("X-PER", None), ("BPER", None), ("O-PER", None),
])
def test_a_tag_is_a_letter_and_a_label(tag, parts):
    assert split_tag(tag) == parts
