"""Mixtures against exact shares, counted."""

from fractions import Fraction
from itertools import pairwise

import numpy as np
import pytest
from hexareme.data.errors import DataError
from hexareme.data.order.mixture import QUANTUM, Mixture, balanced_period, quantise
from hypothesis import given, settings
from hypothesis import strategies as st

WEIGHTS = st.lists(st.one_of(st.just(0.0), st.floats(1e-9, 1e9)), min_size=1, max_size=12).filter(any)


@settings(max_examples=200, deadline=None)
@given(WEIGHTS)
def test_quantised_weights_are_near_and_never_lost(weights):
    counts = quantise(weights)
    assert sum(counts) == QUANTUM
    assert all((count > 0) == (weight > 0) for count, weight in zip(counts, weights, strict=True))
    if all(weight == 0 or weight / sum(weights) >= 1 / QUANTUM for weight in weights):
        assert all(abs(count - weight / sum(weights) * QUANTUM) < 1 + 1e-6 for count, weight in zip(counts, weights, strict=True))


@settings(max_examples=60, deadline=None)
@given(st.lists(st.integers(0, 40), min_size=1, max_size=9).filter(any))
def test_every_prefix_is_within_one(counts):
    order, period = balanced_period(counts), sum(counts)
    taken = [0] * len(counts)
    positive = sum(count > 0 for count in counts)
    bound = Fraction(1) if positive == 1 else 1 - Fraction(1, 2 * positive - 2)
    for length, source in enumerate(order, start=1):
        taken[source] += 1
        for count, have in zip(counts, taken, strict=True):
            assert abs(have - Fraction(count * length, period)) <= bound  # Tijdeman's own bound, below 1
    assert taken == counts


@settings(max_examples=15, deadline=None)
@given(WEIGHTS)
def test_full_periods_stay_within_one(weights):
    mixture = Mixture(weights)
    taken = [0] * len(weights)
    for sample, source in enumerate(mixture.locate(np.arange(mixture.period))[0].tolist()):
        taken[source] += 1
        assert all(abs(have * mixture.period - c * (sample + 1)) < mixture.period for have, c in zip(taken, mixture.counts, strict=True))


def test_many_sources():
    counts = quantise([1.0] * 1000 + [1e-12] * 999 + [5e-324])
    assert min(counts) >= 1
    order = balanced_period([3, 1] * 100)
    assert [order.count(source) for source in range(200)] == [3, 1] * 100


@settings(max_examples=30, deadline=None)
@given(WEIGHTS, st.integers(0, 10**12))
def test_locate_counts_the_samples_of_each_source(weights, start):
    mixture = Mixture(weights)
    sources, indices = mixture.locate(np.arange(start, start + 300))
    for source in set(sources.tolist()):
        assert all(after == before + 1 for before, after in pairwise(indices[sources == source].tolist()))
        assert indices[sources == source][0] == mixture.taken(start)[source]  # before the first of them
    assert mixture.locate(np.array(0))[1] == 0
    assert mixture.taken(start).sum() == start


def test_locate_from_the_first_sample():
    mixture, seen = Mixture([0.7, 0.0, 0.3]), [0, 0, 0]
    for source, index in zip(*(found.tolist() for found in mixture.locate(np.arange(2 * QUANTUM))), strict=True):
        assert index == seen[source]
        seen[source] += 1
    assert seen[1] == 0


def test_one_source_is_itself():
    sources, numbers = Mixture([5.0]).locate(np.array([0, 1, 10**9, 2**62]))
    assert sources.tolist() == [0] * 4 and numbers.tolist() == [0, 1, 10**9, 2**62]


@pytest.mark.parametrize("weights", [[], [0.0], [1.0, -1.0], [float("nan")], [float("inf")], [1e308, 1e308, 1e308]])
def test_impossible_weights(weights):
    with pytest.raises(DataError, match="weights"):
        Mixture(weights)


def test_too_many_sources():
    with pytest.raises(DataError, match="4097"):
        Mixture([1.0] * 4097)
