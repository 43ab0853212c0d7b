"""The order as a whole: bijections, coverage, and statistics that a bad mixing function would not survive."""

from collections import Counter

import numpy as np
import pytest
from hexareme.data.order.permutation import (
    GOLDEN,
    MASK,
    ROUNDS,
    ceil_sqrt,
    mix,
    mix_many,
    permute,
    permute_many,
    window_start,
    window_starts,
)
from hypothesis import given, settings
from hypothesis import strategies as st

KEYS = st.integers(0, 2**64 - 1)
SEEDS = st.integers(0, 2**63 - 1)


@settings(max_examples=150, deadline=None)
@given(st.integers(1, 600), KEYS)
def test_permute_is_a_bijection(size, key):
    assert sorted(permute(index, size, key) for index in range(size)) == list(range(size))


@settings(max_examples=50, deadline=None)
@given(st.integers(1, 2**50), KEYS, st.data())
def test_permute_stays_inside_and_is_injective_at_any_size(size, key, data):
    indices = data.draw(st.sets(st.integers(0, size - 1), max_size=50))
    images = {permute(index, size, key) for index in indices}
    assert len(images) == len(indices)
    assert all(0 <= image < size for image in images)


@settings(max_examples=80, deadline=None)
@given(st.integers(1, 40), st.integers(0, 400), SEEDS, st.integers(0, 5))
def test_no_token_is_a_target_twice_in_an_epoch(sequence_length, more, seed, epoch):
    """The coverage property: floor(T / S) * S distinct targets each epoch."""
    num_tokens = sequence_length + 1 + more
    windows = num_tokens // sequence_length
    samples = range(epoch * windows, (epoch + 1) * windows)
    starts = [window_start(s, seed=seed, num_tokens=num_tokens, sequence_length=sequence_length) for s in samples]
    targets = [(start + 1 + i) % num_tokens for start in starts for i in range(sequence_length)]
    assert all(0 <= start < num_tokens for start in starts)
    assert len(targets) == len(set(targets)) == windows * sequence_length


def starts_of_epoch(epoch, *, seed, num_tokens=5000, sequence_length=10, stream=0):
    windows = num_tokens // sequence_length
    samples = range(epoch * windows, (epoch + 1) * windows)
    return [window_start(s, seed=seed, num_tokens=num_tokens, sequence_length=sequence_length, stream=stream) for s in samples]


@pytest.mark.parametrize("change", [{"epoch": 1}, {"seed": 1}, {"seed": 2**63 - 1}, {"stream": 1}])
def test_epoch_seed_and_stream_change_order_and_offset(change):
    one, other = starts_of_epoch(0, seed=0), starts_of_epoch(**{"epoch": 0, "seed": 0, **change})
    assert one[0] % 10 != other[0] % 10  # another offset (for these keys)
    assert abs(np.corrcoef(one, other)[0, 1]) < 0.15
    assert sum(a // 10 == b // 10 for a, b in zip(one, other, strict=True)) < 10


def test_every_token_is_reached_over_the_epochs():
    seen: Counter[int] = Counter()
    for epoch in range(40):
        seen.update((start + 1 + i) % 19 for start in starts_of_epoch(epoch, seed=3, num_tokens=19) for i in range(10))
    assert len(seen) == 19
    assert min(seen.values()) > 10  # 21 expected


def test_small_permutations_are_all_equally_likely():
    for size, factorial in ((2, 2), (3, 6), (4, 24)):
        counts = Counter(tuple(permute(index, size, mix(key)) for index in range(size)) for key in range(factorial * 200))
        assert len(counts) == factorial
        chi_square = sum((count - 200) ** 2 / 200 for count in counts.values())
        assert chi_square < factorial - 1 + 6 * (2 * (factorial - 1)) ** 0.5  # six standard deviations


@pytest.mark.parametrize("size", [1000, 4096, 100_003])
def test_neighbours_are_torn_apart(size):
    images = np.array([permute(index, size, 7) for index in range(1000)])
    assert abs(np.abs(np.diff(images)).mean() / size - 1 / 3) < 0.03  # of two random places, a third of the length
    assert abs(np.corrcoef(np.arange(1000), images)[0, 1]) < 0.12
    assert np.histogram(images, bins=10, range=(0, size))[0].min() > 60


def test_one_key_bit_changes_everything():
    size = 10_000
    base = [permute(index, size, 0) for index in range(300)]
    for bit in (0, 1, 31, 63):
        assert sum(permute(index, size, 1 << bit) == base[index] for index in range(300)) < 5


def test_mix_is_splitmix64():
    assert mix(0) == 0xE220A8397B1DCDAF  # first output of Vigna's splitmix64.c for seed 0
    assert mix(0x9E3779B97F4A7C15) == 0x6E789E6AA1B965F4  # and the second


def test_the_order_never_changes_between_versions():
    """A resumed run must see the samples of the version that began it."""
    places = [window_start(s, seed=1234, num_tokens=10**12 + 39, sequence_length=4096) for s in (0, 1, 10**6, 10**9)]
    assert places == [735466630955, 262971182852, 43445698308, 239903511195]


@given(st.integers(1, 2**52))
def test_ceil_sqrt(value):
    assert (ceil_sqrt(value) - 1) ** 2 < value <= ceil_sqrt(value) ** 2


def bulk(indices, size, key):
    return permute_many(np.array(indices, dtype=np.uint64), size, np.full(len(indices), key, dtype=np.uint64)).tolist()


@settings(max_examples=200, deadline=None)
@given(st.one_of(st.integers(1, 600), st.integers(1, 2**63), st.integers(0, 40).map(lambda k: 2**63 - k)), KEYS, st.data())
def test_bulk_is_the_scalar_bit_for_bit(size, key, data):
    ends = st.sampled_from([0, size - 1])
    indices = data.draw(st.lists(st.one_of(ends, st.integers(0, size - 1)), min_size=1, max_size=20))
    assert bulk(indices, size, key) == [permute(index, size, key) for index in indices]


@settings(max_examples=100, deadline=None)
@given(st.lists(st.integers(0, MASK), min_size=1, max_size=20))
def test_bulk_mix_is_the_scalar(values):
    assert mix_many(np.array(values, dtype=np.uint64)).tolist() == [mix(value) for value in values]


def test_every_small_size_is_a_bijection():
    for size in range(1, 700):
        assert sorted(bulk(range(size), size, mix(size))) == list(range(size))


def inverse(image, size, key):
    """The network run backwards, step by step: what a bijection must have, at any size."""
    rows = ceil_sqrt(size)
    columns = -(-size // rows)
    while True:
        row, column = divmod(image, columns)
        for number in reversed(range(ROUNDS // 2)):
            round_key = key + 2 * GOLDEN * number
            column = (column - mix(round_key + GOLDEN + row)) % columns
            row = (row - mix(round_key + column)) % rows
        image = row * columns + column
        if image < size:
            return image


@settings(max_examples=200, deadline=None)
@given(st.one_of(st.integers(1, 2**63), st.integers(0, 40).map(lambda k: 2**63 - k)), KEYS, st.data())
def test_a_bijection_of_any_size_has_its_inverse(size, key, data):
    indices = data.draw(st.lists(st.integers(0, size - 1), min_size=1, max_size=20))
    images = bulk(indices, size, key)
    assert all(0 <= image < size for image in images)
    assert [inverse(image, size, key) for image in images] == indices


@settings(max_examples=200, deadline=None)
@given(st.one_of(st.integers(1, 5000), st.integers(1, 2**63)), st.integers(1, 9000), SEEDS, st.integers(0, 5), st.data())
def test_bulk_window_starts(num_tokens, sequence_length, seed, stream, data):
    if num_tokens <= sequence_length:
        num_tokens += sequence_length
    if num_tokens > 2**63:
        return
    samples = data.draw(st.lists(st.integers(0, 2**63 - 1), min_size=1, max_size=20))
    named = {"seed": seed, "num_tokens": num_tokens, "sequence_length": sequence_length, "stream": stream}
    assert window_starts(np.array(samples), **named).tolist() == [window_start(sample, **named) for sample in samples]


def unmix(value):
    """The value that `mix` sends there."""
    for shift, factor in ((31, 0x94D049BB133111EB), (27, 0xBF58476D1CE4E5B9), (30, 1)):
        found = value
        for _ in range(64 // shift):
            found = value ^ (found >> shift)
        value = found * pow(factor, -1, 2**64) & MASK
    return (value - GOLDEN) & MASK


@pytest.mark.parametrize("size", [7, 1000, 2**40 + 3, 2**63])
def test_bulk_where_row_and_hash_pass_2_to_the_64(size):
    """One index in 2^32 for the largest sizes, so no random key meets it."""
    columns = -(-size // ceil_sqrt(size))
    key = unmix(MASK - 1)
    assert mix(key) == MASK - 1
    last_row = (size - 1) // columns * columns  # its column is 0, so the first hash is that of the key
    assert bulk([last_row], size, key) == [permute(last_row, size, key)]
