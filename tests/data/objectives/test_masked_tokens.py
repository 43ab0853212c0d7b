"""Masked tokens: exact counts, 80/10/10, specials never, targets in their own places."""

import numpy as np
from hexareme.data.objectives.masked_tokens import MaskedTokens
from hypothesis import given, settings
from hypothesis import strategies as st

from .batches import END, segments, training

MASK, SPECIAL = 950, (END, 20, 21, 950)


def objective(density=0.15):
    return MaskedTokens(mask=MASK, special=SPECIAL, vocab_size=951, noise_density=density)


@settings(max_examples=25, deadline=None)
@given(first=st.integers(0, 10**9), seed=st.integers(0, 2**63 - 1), longest=st.sampled_from([6, 60, 200]),
       density=st.sampled_from([0.15, 0.5]))
def test_counts_are_exact_in_each_document(tmp_path_factory, first, seed, longest, density):
    folder = tmp_path_factory.getbasetemp()
    plain, changed = (training(folder, each, seed=seed, longest=longest).batch(range(first, first + 4)) for each in
                      (None, objective(density)))
    chosen_BS = changed.loss_mask_BS > 0
    assert np.array_equal(changed.targets_BS, plain.tokens_BS)
    assert np.array_equal(changed.tokens_BS[~chosen_BS], plain.tokens_BS[~chosen_BS])
    for row, begin, end in segments(plain):
        before, chosen = plain.tokens_BS[row, begin:end], chosen_BS[row, begin:end]
        ordinary = [place for place, token in enumerate(before.tolist()) if token not in SPECIAL]
        assert chosen.sum() == (max(1, round(len(ordinary) * density)) if ordinary else 0)
        assert set(np.flatnonzero(chosen).tolist()) <= set(ordinary)


def test_what_becomes_of_the_chosen(tmp_path):
    """80 % the mask, 10 % any ordinary id, 10 % as they were, within 5 sigma; each place of a window equally often."""
    plain, changed = (training(tmp_path, each, length=512, longest=200).batch(range(600)) for each in (None, objective()))
    chosen_BS = changed.loss_mask_BS > 0
    before, after = plain.tokens_BS[chosen_BS], changed.tokens_BS[chosen_BS]
    masked, kept = after == MASK, after == before
    other = after[~masked & ~kept]
    shares = np.array([masked.mean(), len(other) / len(after), kept.mean()])
    assert len(after) > 40000 and np.abs(shares - [0.8, 0.1, 0.1]).max() < 5 * (0.16 / len(after)) ** 0.5
    assert not set(other.tolist()) & set(SPECIAL) and len(set(other.tolist())) > 900  # of 947
    thirds = [part.mean() for part in np.array_split(chosen_BS, 3, axis=1)]
    assert np.ptp(thirds) < 0.006
