"""Stragglers are named soon and once, and noise is not."""

import numpy as np
from hexareme.core.straggler import LEAST_SECONDS, StragglerWatch
from hypothesis import given, settings
from hypothesis import strategies as st


def run(steps, places):
    watch = StragglerWatch(places)
    return [(number, found) for number, busy in enumerate(steps, 1) for found in watch.add(list(busy))]


@settings(max_examples=60, deadline=None)
@given(seed=st.integers(0, 10**6), ranks=st.integers(2, 16), step=st.floats(0.02, 2.0), data=st.data())
def test_a_straggler_is_named_once_within_20_steps(seed, ranks, step, data):
    slow, random = data.draw(st.integers(0, ranks - 1)), np.random.default_rng(seed)
    busy = step * random.lognormal(0.0, 0.05, (60, ranks))
    busy[:, slow] += 0.3 + step * 0.15
    found = run(busy, [0] * ranks)
    assert [each.rank for _, each in found] == [slow] and found[0][0] <= 20
    assert found[0][1].seconds > found[0][1].others + LEAST_SECONDS


@settings(max_examples=10, deadline=None)
@given(seed=st.integers(0, 10**6), ranks=st.integers(1, 16), step=st.floats(0.01, 2.0))
def test_noise_is_no_straggler(seed, ranks, step):
    """Each step anyone may be 300 ms late, a tenth of all times: a busy machine. (At a fifth, chance alone makes 10 of 12.)"""
    random = np.random.default_rng(seed)
    busy = step * random.lognormal(0.0, 0.05, (1000, ranks)) + 0.3 * (random.random((1000, ranks)) < 0.1)
    assert run(busy, [0] * ranks) == []


def test_stages_are_not_compared_with_each_other():
    """The last stage works half as long again: every pipeline has one."""
    assert run([[0.2, 0.2, 0.3, 0.3]] * 100, [0, 0, 1, 1]) == []
    assert run([[0.2, 0.3]] * 100, [0, 1]) == []
    assert [each.rank for _, each in run([[0.2, 0.7, 0.3, 0.3]] * 100, [0, 0, 1, 1])] == [1]
    assert [each.rank for _, each in run([[0.2, 0.7]] * 100, [0, 1])] == [1]
