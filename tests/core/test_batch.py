"""The batch plan covers every sample of a step once, in an order that no layout changes."""

import pytest
from hexareme.core.batch import BatchPlan, nearest_multiples
from hypothesis import given
from hypothesis import strategies as st

sizes = st.integers(1, 6)


@given(micro=sizes, accumulation=sizes, dp=sizes, step=st.integers(0, 50))
def test_each_sample_once(micro, accumulation, dp, step):
    plan = BatchPlan.divide(global_size=micro * accumulation * dp, micro_size=micro, dp=dp)
    assert plan.accumulation_steps == accumulation
    per_rank = [plan.samples(step, rank) for rank in range(dp)]
    assert all(len(samples) == plan.local_size for samples in per_rank)
    first = step * plan.global_size
    assert sorted(sum(per_rank, [])) == list(range(first, first + plan.global_size))


@given(micro=sizes, accumulation=sizes, dp=sizes)
def test_a_micro_batch_is_one_block_over_all_ranks(micro, accumulation, dp):
    """Written out as design.md says it: rank d takes, for micro-batch a, the block a*dp*micro + d*micro."""
    plan = BatchPlan.divide(global_size=micro * accumulation * dp, micro_size=micro, dp=dp)
    for rank in range(dp):
        samples = plan.samples(0, rank)
        for a in range(accumulation):
            start = a * dp * micro + rank * micro
            assert samples[a * micro : (a + 1) * micro] == list(range(start, start + micro))


@given(size=st.integers(1, 200), micro=sizes, dp=sizes)
def test_what_does_not_divide_is_refused_with_sizes_that_do(size, micro, dp):
    if size % (micro * dp) == 0:
        BatchPlan.divide(global_size=size, micro_size=micro, dp=dp)
        return
    with pytest.raises(ValueError, match=f"global_size={size} .*micro_size={micro} .*dp={dp}"):
        BatchPlan.divide(global_size=size, micro_size=micro, dp=dp)
    near = nearest_multiples(size, micro * dp)
    assert near[-1] - size < micro * dp
    for other in near:
        BatchPlan.divide(global_size=other, micro_size=micro, dp=dp)


@pytest.mark.parametrize("wrong", [{"global_size": 0}, {"micro_size": 0}, {"dp": -1}])
def test_nothing_below_one(wrong):
    with pytest.raises(ValueError, match="at least 1"):
        BatchPlan.divide(**{"global_size": 4, "micro_size": 1, "dp": 1} | wrong)
