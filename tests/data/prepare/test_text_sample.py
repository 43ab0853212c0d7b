"""A sample that is bounded and does not depend on who comes first."""

from hexareme.data.prepare.text_sample import Sample
from hypothesis import given
from hypothesis import strategies as st


@given(st.lists(st.tuples(st.integers(0, 2**64 - 1), st.text(max_size=30)), unique_by=lambda pair: pair[0]), st.randoms())
def test_a_sample_does_not_depend_on_the_order(pairs, random):
    shuffled = random.sample(pairs, len(pairs))
    one, other = Sample(budget=100), Sample(budget=100)
    one.add(pairs)
    for pair in shuffled:
        if pair[0] <= other.most:
            other.add([pair])
    assert sorted(one.texts()) == sorted(other.texts())
    assert sum(len(text.encode()) for text in one.texts()) <= 100
