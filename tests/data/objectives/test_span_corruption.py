"""Span corruption: the window comes back; counts of T5's rule; each division into spans equally likely."""

from collections import Counter
from decimal import ROUND_HALF_EVEN, Decimal
from itertools import combinations

import numpy as np
import pytest
from hexareme.data.objectives.span_corruption import SpanCorruption, cut
from hypothesis import given, settings
from hypothesis import strategies as st

from .batches import END, segments, training

FIRST = 900  # sentinels from here on


def objective(density=0.15, mean=3.0, end=END, length=512):
    bare = SpanCorruption(sentinels=(), end_of_document=end, noise_density=density, mean_span_length=mean)
    marks = tuple(range(FIRST, FIRST + bare.most_spans(length)))
    return SpanCorruption(sentinels=marks, end_of_document=end, noise_density=density, mean_span_length=mean)


def t5_counts(length, density, mean):
    """`random_spans_noise_mask` of google-research/text-to-text-transfer-transformer, re-derived with decimal rounding."""
    def rounded(value):
        return int(Decimal(value).quantize(Decimal(1), ROUND_HALF_EVEN))

    noise = max(min(rounded(length * density), length - 1), 1)
    return noise, max(rounded(noise / mean), 1)


def told(row, counted):
    """The text of a row and the lengths of its spans, by the marks alone; what is counted must be the targets."""
    row = [int(each) for each in row]
    again = row.index(FIRST, row.index(FIRST) + 1)
    inputs, rest = row[:again], row[again:]
    spans, mark = {}, None
    targets = rest[: rest.index(END) + 1]
    assert [each for each, on in zip([*row[1:], None], counted, strict=True) if on] == targets
    for each in targets[:-1]:
        if each >= FIRST:
            mark, spans[each] = each, []
        else:
            spans[mark].append(each)
    assert set(rest[len(targets) :]) <= {END}
    assert [each for each in inputs if each >= FIRST] == list(spans) == list(range(FIRST, FIRST + len(spans)))
    text = [token for each in inputs for token in (spans[each] if each >= FIRST else [each])]
    return text, [len(span) for span in spans.values()]


@settings(max_examples=25, deadline=None)
@given(first=st.integers(0, 10**9), seed=st.integers(0, 2**63 - 1), longest=st.sampled_from([6, 60, 200]),
       density=st.sampled_from([0.15, 0.5]), mean=st.sampled_from([1.0, 3.0, 8.0]))
def test_each_text_comes_back_and_counts_are_exact(tmp_path_factory, first, seed, longest, density, mean):
    folder, wanted = tmp_path_factory.getbasetemp(), objective(density, mean)
    plain = training(folder, seed=seed, longest=longest, length=128).batch(range(first, first + 3))
    changed = training(folder, wanted, seed=seed, longest=longest, length=128).batch(range(first, first + 3))
    assert np.array_equal(changed.targets_BS[:, :-1], changed.tokens_BS[:, 1:])
    for row, begin, end in segments(plain):
        before, counted = plain.tokens_BS[row, begin:end], changed.loss_mask_BS[row, begin:end]
        body = before[: len(before) - int(before[-1] == END)].tolist()
        if not counted.any():
            assert np.array_equal(changed.tokens_BS[row, begin:end], before)
            assert len(body) < 2 or end - begin < wanted.places(2)
            continue
        text, lengths = told(changed.tokens_BS[row, begin:end], counted)
        noise, spans = t5_counts(len(text), density, mean)
        assert sum(lengths) == noise and len(lengths) == min(spans, len(text) - noise)
        assert text == body[: len(text)]
        assert len(text) == len(body) or wanted.places(len(text) + 1) > end - begin


def test_one_row_by_hand():
    wanted = objective(density=3 / 7, mean=1.5)
    row, inputs = wanted._corrupt(np.arange(10, 17), (5, 6), np.dtype(np.uint16))
    assert (len(row), inputs) == (7 + 4 + 1, 4 + 2) and row[-1] == END
    assert told(row, [False] * 5 + [True] * 6 + [False])[0] == [*range(10, 17)]


def test_each_division_is_equally_likely():
    """Against all divisions of 7 items into 3 parts, enumerated: chi square of 15 cells, 99.99 % below 44."""
    found = Counter(tuple(cut(7, 3, key * 0x9E3779B97F4A7C15 % 2**64).tolist()) for key in range(15000))
    every = {(a, b - a, 7 - b) for a, b in combinations(range(1, 7), 2)}
    assert set(found) == every and len(every) == 15
    assert sum((count - 1000) ** 2 / 1000 for count in found.values()) < 44


@pytest.mark.parametrize(("length", "spans"), [(512, 23), (2048, 93)])
def test_sentinels_that_a_row_needs(length, spans):
    wanted = objective(length=length)
    assert wanted.most_spans(length) == spans and wanted.places(int(wanted.text_lengths(length)[-1])) <= length
