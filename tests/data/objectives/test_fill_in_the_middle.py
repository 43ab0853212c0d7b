"""Fill in the middle: each document comes back when its parts are put in order; what the loss counts; how often."""

import numpy as np
import pytest
from hexareme.data.objectives.fill_in_the_middle import FillInTheMiddle
from hypothesis import given, settings
from hypothesis import strategies as st

from .batches import END, segments, training

PREFIX, SUFFIX, MIDDLE = 901, 902, 70000  # the last one is outside the file's two bytes


def objective(rate=1.0, spm_rate=0.5, middle_only=False, end=END):
    return FillInTheMiddle(prefix=PREFIX, suffix=SUFFIX, middle=MIDDLE, end_of_document=end, rate=rate, spm_rate=spm_rate,
                           middle_only=middle_only)


def parts(row):
    """Prefix, middle, suffix, and what closes a document, by the marks alone; and whether the suffix came first."""
    row = [int(each) for each in row]
    assert [row.count(mark) for mark in (PREFIX, SUFFIX, MIDDLE)] == [1, 1, 1] and row[0] == PREFIX
    suffix, middle = row.index(SUFFIX), row.index(MIDDLE)
    end = row[-1:] if row[-1] == END else []
    body = row[: len(row) - len(end)]
    if suffix == 1 and middle > suffix:
        return None, body[middle + 1 :], body[suffix + 1 : middle], end
    return body[1:suffix], body[middle + 1 :], body[suffix + 1 : middle], end


@settings(max_examples=25, deadline=None)
@given(first=st.integers(0, 10**9), seed=st.integers(0, 2**63 - 1), spm=st.sampled_from([0.0, 1.0]), longest=st.sampled_from([6, 60, 200]))
def test_each_document_comes_back(tmp_path_factory, first, seed, spm, longest):
    folder = tmp_path_factory.getbasetemp()
    plain = training(folder, seed=seed, longest=longest).batch(range(first, first + 4))
    changed = training(folder, objective(spm_rate=spm), seed=seed, longest=longest).batch(range(first, first + 4))
    for row, begin, end in segments(plain):
        before, after = (batch.tokens_BS[row, begin:end] for batch in (plain, changed))
        closed = int(before[-1] == END)
        kept = end - begin - closed - 3
        if kept < 1:
            assert np.array_equal(before, after)
            continue
        prefix, middle, suffix, tail = parts(after)
        # suffix first: prefix and middle lie together, as the paper's variant has them; an empty prefix reads as either order
        text = (prefix or []) + middle + suffix
        assert text == before[:kept].tolist() and tail == [END] * closed
        assert spm == 0.0 or prefix is None
        assert changed.loss_mask_BS[row, end - 1] == closed
        assert changed.loss_mask_BS[row, begin : end - 1].all()
    assert np.array_equal(changed.targets_BS[:, :-1], changed.tokens_BS[:, 1:])
    for name in ("documents_BS", "positions_BS", "documents_D", "starts_B"):
        assert np.array_equal(getattr(plain, name), getattr(changed, name))


def test_only_the_middle_counts(tmp_path):
    every, only = (training(tmp_path, objective(spm_rate=0.0, middle_only=flag)).batch(range(40)) for flag in (False, True))
    assert np.array_equal(every.tokens_BS, only.tokens_BS)
    changed = 0
    for row, begin, end in segments(only):
        tokens = only.tokens_BS[row, begin:end].tolist()
        if MIDDLE not in tokens:
            assert np.array_equal(only.loss_mask_BS[row, begin:end], every.loss_mask_BS[row, begin:end])
            continue
        counted = only.targets_BS[row, begin:end][only.loss_mask_BS[row, begin:end] > 0].tolist()
        assert counted == tokens[tokens.index(MIDDLE) + 1 :]
        changed += 1
    assert changed > 40


def test_rates_and_uniform_cuts(tmp_path):
    """A sample's documents draw on their own: 5 sigma of a binomial, and of the mean of |cut|, which is n/3 for each part."""
    plain, batch = (training(tmp_path, each, length=512, longest=200).batch(range(400)) for each in (None, objective(0.3, 0.25)))
    able = changed = first = 0
    shares = []
    for row, begin, end in segments(plain):
        closed = int(plain.tokens_BS[row, end - 1] == END)
        kept = end - begin - closed - 3
        if kept < 1:
            continue
        able += 1
        if batch.tokens_BS[row, begin] != PREFIX:
            assert np.array_equal(batch.tokens_BS[row, begin:end], plain.tokens_BS[row, begin:end])
            continue
        changed += 1
        prefix, middle, suffix, _ = parts(batch.tokens_BS[row, begin:end])
        first += prefix is None
        if prefix and kept > 50:
            shares.append([len(prefix) / kept, len(middle) / kept, len(suffix) / kept])
    assert abs(changed / able - 0.3) < 5 * (0.3 * 0.7 / able) ** 0.5
    assert abs(first / changed - 0.25) < 0.05 + 5 * (0.25 * 0.75 / changed) ** 0.5  # an empty prefix reads as suffix first
    assert len(shares) > 100 and np.abs(np.mean(shares, axis=0) - 1 / 3).max() < 5 * (1 / 18 / len(shares)) ** 0.5 + 0.02


@pytest.mark.parametrize("rate", [0.0, 1.0])
def test_the_ends_of_the_rate(tmp_path, rate):
    batch = training(tmp_path, objective(rate)).batch(range(20))
    assert (batch.tokens_BS == MIDDLE).any() == bool(rate)
    assert batch.tokens_BS.dtype == np.uint32 and batch.targets_BS.dtype == np.uint32
