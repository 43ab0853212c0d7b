"""Each objective is a function of the seed and a sample's number: whatever is read with it, before it, by whom, in which thread."""

import numpy as np
import pytest
from hexareme.data.objectives.fill_in_the_middle import FillInTheMiddle
from hexareme.data.objectives.masked_tokens import MaskedTokens
from hexareme.data.objectives.span_corruption import SpanCorruption
from hexareme.data.order.stages import Stage
from hexareme.data.samples.batch import join, stack
from hexareme.data.samples.loader import Loader
from hypothesis import given, settings
from hypothesis import strategies as st

from .batches import END, same, segments, training

OBJECTIVES = {
    "fim": FillInTheMiddle(prefix=901, suffix=902, middle=903, end_of_document=END, rate=0.5, spm_rate=0.5, middle_only=True),
    "spans": SpanCorruption(sentinels=tuple(range(900, 960)), end_of_document=END, noise_density=0.15, mean_span_length=3.0),
    "masked": MaskedTokens(mask=950, special=(END, 950), vocab_size=951, noise_density=0.15),
}
each_objective = pytest.mark.parametrize("objective", OBJECTIVES.values(), ids=OBJECTIVES)


@each_objective
@settings(max_examples=15, deadline=None)
@given(data=st.data())
def test_neither_order_nor_batches_matter(tmp_path_factory, objective, data):
    training_set = training(tmp_path_factory.getbasetemp(), objective)
    numbers = data.draw(st.lists(st.integers(0, 2000), min_size=2, max_size=12))
    cut = data.draw(st.integers(1, len(numbers) - 1))
    whole = training_set.batch(numbers)
    assert same(whole, join([training_set.batch(numbers[:cut]), training_set.batch(numbers[cut:])]))
    assert same(whole, stack([training_set.sample(number) for number in numbers]))
    back = training_set.batch(numbers[::-1])
    assert all(np.array_equal(getattr(whole, name), getattr(back, name)[::-1]) for name in ("tokens_BS", "targets_BS", "loss_mask_BS"))


@each_objective
def test_workers_ranks_and_a_resume_see_the_same(tmp_path, objective):
    def steps(workers, first, rank, ranks):
        share = 8 // ranks
        with Loader(training(tmp_path, objective), workers=workers,
                    local_samples=lambda step: range(8 * step + rank * share, 8 * step + (rank + 1) * share)) as loader:
            return [loader.batch(step) for step in range(first, 6)]

    alone = steps(0, 0, 0, 1)
    assert all(same(one, other) for one, other in zip(alone, steps(3, 0, 0, 1), strict=True))
    assert all(same(one, other) for one, other in zip(alone[4:], steps(2, 4, 0, 1), strict=True))
    halves = zip(steps(1, 0, 0, 2), steps(0, 0, 1, 2), strict=True)
    assert all(same(one, join(both)) for one, both in zip(alone, halves, strict=True))


@each_objective
def test_another_seed_or_number_draws_anew_and_what_is_read_stays(tmp_path, objective):
    plain = training(tmp_path).batch(range(8))
    kept = plain.tokens_BS.copy(), plain.loss_mask_BS.copy()
    one, other = (objective(plain, seed=seed).tokens_BS for seed in (3, 4))
    assert not np.array_equal(one, other)
    assert np.array_equal(plain.tokens_BS, kept[0]) and np.array_equal(plain.loss_mask_BS, kept[1])


@each_objective
def test_without_a_document_mask_the_ids_are_the_same(tmp_path, objective):
    masked, open_ = (training(tmp_path, objective, mask=mask).batch(range(10)) for mask in (True, False))
    for name in ("tokens_BS", "targets_BS", "loss_mask_BS", "documents_D"):
        assert np.array_equal(getattr(masked, name), getattr(open_, name)), name
    plain = training(tmp_path, mask=False).batch(range(10))
    for name in ("documents_BS", "positions_BS"):
        assert np.array_equal(getattr(plain, name), getattr(open_, name)) and getattr(plain, name).dtype == getattr(open_, name).dtype


@pytest.mark.parametrize("name", ["fim", "spans"])
def test_nothing_leaves_its_document_or_its_piece(tmp_path, name):
    """Text of each segment after the change is text of that segment before; under a curriculum a segment is a piece."""
    stages = [Stage(0, (1.0,), 16)]
    plain, changed = (training(tmp_path, each, stages=stages).batch(range(30)) for each in (None, OBJECTIVES[name]))
    assert not np.array_equal(plain.tokens_BS, changed.tokens_BS)
    for row, begin, end in segments(plain):
        before, after = (set(batch.tokens_BS[row, begin:end].tolist()) for batch in (plain, changed))
        assert {token for token in after if 0 < token < 900} <= before


@each_objective
def test_middle_ranks_of_a_pipeline_count_the_same_losses(tmp_path, objective):
    middle = training(tmp_path, objective)
    middle.leave_out_ids()
    assert same(middle.batch(range(5)), training(tmp_path, objective).batch(range(5)))
