"""Stages of a mixture against a count by hand; pieces of windows against the definition."""

from itertools import pairwise

import numpy as np
import pytest
from hexareme.data.errors import DataError
from hexareme.data.order.mixture import Mixture
from hexareme.data.order.pieces import cut_into_pieces
from hexareme.data.order.stages import Stage, Stages
from hypothesis import given, settings
from hypothesis import strategies as st

S = 64


@st.composite
def some_stages(draw):
    """Weights in 64ths, whose periods are short; `test_mixture.py` has all others."""
    sources = draw(st.integers(1, 4))
    cuts = st.lists(st.integers(0, 64), min_size=sources - 1, max_size=sources - 1).map(lambda found: [0, *sorted(found), 64])
    weights = cuts.map(lambda found: tuple(float(after - before) for before, after in pairwise(found)))
    firsts = [0, *sorted(draw(st.lists(st.integers(0, 3000), max_size=3)))]
    return Stages([Stage(first, draw(weights), draw(st.sampled_from([8, 32, S]))) for first in firsts])


def owner(stages, sample):
    """The last stage that has begun."""
    return max(number for number, stage in enumerate(stages.stages) if stage.first_sample <= sample)


@settings(max_examples=25, deadline=None)
@given(some_stages())
def test_each_source_goes_on_where_it_stood(stages):
    """Counted sample by sample over all borders: no number of a source is left out, none comes twice."""
    located = zip(*(found.tolist() for found in stages.locate(np.arange(4000))), strict=True)
    seen = [0] * len(stages.stages[0].weights)
    for sample, (source, number) in enumerate(located):
        assert number == seen[source], sample
        assert stages.stages[owner(stages, sample)].weights[source] > 0
        seen[source] += 1
    assert stages.taken(4000).tolist() == seen


@settings(max_examples=25, deadline=None)
@given(some_stages(), st.integers(1, 4000))
def test_within_a_stage_every_prefix_is_within_one_of_exact(stages, count):
    """Acceptance 2, for the quantised weights of each stage."""
    last = owner(stages, count - 1)
    first = stages.stages[last].first_sample
    mixture = Mixture(stages.stages[last].weights)
    taken = stages.taken(count) - stages.taken(first)
    for have, share in zip(taken.tolist(), mixture.counts, strict=True):
        assert abs(have * mixture.period - share * (count - first)) < mixture.period
    sources, _ = stages.locate(np.arange(first, count))
    assert np.bincount(sources, minlength=len(taken)).tolist() == taken.tolist()


@settings(max_examples=20, deadline=None)
@given(some_stages(), st.lists(st.integers(0, 2**62), min_size=1, max_size=30))
def test_the_order_of_the_question_changes_nothing(stages, samples):
    together = stages.locate(np.array(samples))
    for place, sample in enumerate(samples):
        assert [int(each) for each in stages.locate(np.array(sample))] == [int(found[place]) for found in together]
        assert int(stages.piece_lengths(np.array(sample))) == stages.stages[owner(stages, sample)].piece_length


def test_no_window_comes_again_before_its_epoch_is_over():
    """Across borders, too: source 1 has 97 windows, and each of its numbers modulo 97 comes once in each 97."""
    stages = Stages([Stage(0, (3.0, 1.0), S), Stage(150, (1.0, 5.0), S), Stage(151, (0.0, 1.0), S), Stage(400, (1.0, 1.0), S)])
    sources, numbers = stages.locate(np.arange(1000))
    own = numbers[sources == 1]
    for at in range(0, len(own) - 97, 97):
        assert sorted(own[at : at + 97] % 97) == list(range(97))


@pytest.mark.parametrize("firsts", [[], [1], [0, 5, 4]])
def test_stages_out_of_order(firsts):
    with pytest.raises(ValueError, match="stages must begin at sample 0"):
        Stages([Stage(first, (1.0,), S) for first in firsts])


def test_impossible_weights_name_their_stage():
    with pytest.raises(DataError, match="stage of data.stages from sample 7 on.*weights"):
        Stages([Stage(0, (1.0, 0.0), S), Stage(7, (0.0, 0.0), S)])


@settings(max_examples=60, deadline=None)
@given(st.lists(st.integers(1, S - 1), max_size=6, unique=True).map(sorted), st.sampled_from([1, 2, 8, 16, 32, S]))
def test_a_piece_begins_segments_as_a_document_does(begins, piece):
    """Against the definition, token by token."""
    starts = {0, *begins}
    positions = np.array([place - max(each for each in starts if each <= place) for place in range(S)])
    documents, cut = cut_into_pieces(positions[None], np.array([piece]))
    borders = starts | set(range(0, S, piece))
    assert cut[0].tolist() == [place - max(each for each in borders if each <= place) for place in range(S)]
    assert documents[0].tolist() == [sum(each <= place for each in borders) - 1 for place in range(S)]
    assert documents.dtype == np.int32


def test_whole_windows_stay_as_they_are():
    positions = np.array([[*range(20), *range(S - 20)], [*range(S)]])
    documents, cut = cut_into_pieces(positions, np.array([S, 16]))
    assert cut[0].tolist() == positions[0].tolist() and documents[0].tolist() == [0] * 20 + [1] * (S - 20)
    assert cut[1].tolist() == list(range(16)) * 4
