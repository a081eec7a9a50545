"""The map of ids that stays small."""

from hypothesis import given
from hypothesis import strategies as st

from syn_pipelines.utils.compact import IdMap

IDS = st.text(max_size=8)


@given(st.lists(st.tuples(IDS, st.integers(0, 2**32 - 1))), st.lists(IDS))
def test_holds_what_a_dict_holds(pairs, others):
    found, wanted = IdMap(), {}
    for identity, number in pairs:
        found[identity] = wanted[identity] = number
    assert len(found) == len(wanted)
    for identity in [*wanted, *others]:
        assert found.get(identity) == wanted.get(identity)
        assert (identity in found) == (identity in wanted)


def test_keeps_every_number_while_it_grows():
    numbers = IdMap(wide=True)
    for i in range(100_000):
        numbers[f"{i}x"] = i << 20
    assert len(numbers) == 100_000
    assert all(numbers.get(f"{i}x") == i << 20 for i in range(100_000))
    assert not any(f"{i}y" in numbers for i in range(1000))


def test_takes_no_more_memory_than_it_says():
    for kind, most in (({}, 21), ({"wide": True}, 28), ({"narrow": True}, 16)):
        numbers = IdMap(**kind)
        for i in range(50_000):
            numbers[str(i)] = i % 256
            if i > 10_000 and i % 500 == 0:
                held = sum(part.itemsize * len(part) for part in (*numbers._keys, *numbers._values))
                assert held <= (most + 1) * len(numbers)


@given(st.lists(st.tuples(IDS, st.integers(0, 2**32 - 1)), max_size=200))
def test_an_id_keeps_the_number_that_it_was_given_first(pairs):
    found, wanted = IdMap(), {}
    for identity, number in pairs:
        assert found.setdefault(identity, number) == wanted.get(identity)
        wanted.setdefault(identity, number)
    assert len(found) == len(wanted) and all(found.get(identity) == number for identity, number in wanted.items())


def test_first_numbers_are_kept_while_it_grows():
    numbers = IdMap()
    assert all(numbers.setdefault(str(i), i) is None for i in range(50_000))
    assert all(numbers.setdefault(str(i), 0) == i for i in range(50_000)) and len(numbers) == 50_000
