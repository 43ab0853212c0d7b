"""Stages against brute force, and against torch's own schedules: what they hold, and how many micro-batches they take."""

from itertools import combinations, pairwise

import pytest
from hexareme.parallel.stages import LOOPED, SPLIT_BACKWARD, V_SHAPED, Placement, balanced, micro_batch_fault, stages_of, stages_per_rank
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn
from torch.distributed.pipelining import schedules as torch_schedules

TORCH = {"gpipe": "ScheduleGPipe", "1f1b": "Schedule1F1B", "interleaved_1f1b": "ScheduleInterleaved1F1B",
         "interleaved_zero_bubble": "ScheduleInterleavedZeroBubble", "zbv": "ScheduleZBVZeroBubble", "dualpipev": "ScheduleDualPipeV"}
schedules = st.sampled_from(sorted(TORCH))
costs = st.lists(st.integers(1, 20), min_size=1, max_size=8)


class TorchStage:
    """As much of a stage as torch asks for while it plans."""

    def __init__(self, index: int, placement: Placement, rank: int) -> None:
        self.stage_index, self.num_stages, self.group_size, self.group_rank = index, placement.num_stages, placement.pp, rank
        self.submod = nn.Identity()


def torch_schedule(schedule: str, placement: Placement, micro_batches: int):
    stages = [TorchStage(index, placement, 0) for index in placement.held_by(0)]
    single = schedule in ("gpipe", "1f1b")
    return getattr(torch_schedules, TORCH[schedule])(stages[0] if single else stages, micro_batches, loss_fn=lambda o, t: o)


@given(schedules, st.integers(2, 5), st.integers(2, 3), st.integers(1, 17))
@settings(max_examples=150, deadline=None)
def test_the_rule_for_micro_batches_is_torchs(schedule, pp, virtual_stages, micro_batches):
    placement = Placement.of(schedule, pp=pp, virtual_stages=virtual_stages)
    fault = micro_batch_fault(schedule, pp=pp, virtual_stages=virtual_stages, micro_batches=micro_batches)
    if fault is None:
        torch_schedule(schedule, placement, micro_batches)
        return
    with pytest.raises(ValueError, match="icrobatches"):
        torch_schedule(schedule, placement, micro_batches)
    reason, nearest = fault
    assert schedule in reason
    assert all(micro_batch_fault(schedule, pp=pp, virtual_stages=virtual_stages, micro_batches=n) is None for n in nearest)
    between = range(min(nearest) + 1 if min(nearest) < micro_batches else 1, max(nearest))
    assert all(micro_batch_fault(schedule, pp=pp, virtual_stages=virtual_stages, micro_batches=n) for n in between)


@given(schedules, st.integers(2, 5), st.integers(2, 3))
@settings(deadline=None)
def test_every_stage_lies_where_torch_looks_for_it(schedule, pp, virtual_stages):
    placement = Placement.of(schedule, pp=pp, virtual_stages=virtual_stages)
    planned = torch_schedule(schedule, placement, 4 * pp)
    if schedule not in ("gpipe", "1f1b"):
        assert planned.stage_index_to_group_rank == {stage: placement.owner(stage) for stage in range(placement.num_stages)}
    held = [placement.held_by(rank) for rank in range(pp)]
    assert sorted(stage for stages in held for stage in stages) == list(range(placement.num_stages))
    assert all(len(stages) == placement.per_rank for stages in held)
    if schedule in V_SHAPED:
        assert held == [[rank, 2 * pp - 1 - rank] for rank in range(pp)]


@given(st.sampled_from(sorted(LOOPED | V_SHAPED)), st.integers(2, 4))
def test_only_these_schedules_split_the_backward_pass(schedule, pp):
    planned = torch_schedule(schedule, Placement.of(schedule, pp=pp, virtual_stages=2), 4 * pp)
    kinds = {part.computation_type.value for actions in planned.pipeline_order.values() for action in actions if action
             for part in (action.sub_actions or (action,))}
    assert ("W" in kinds) == (schedule in SPLIT_BACKWARD)


@given(costs, st.integers(1, 8), st.integers(0, 60), st.integers(0, 60))
def test_balanced_is_the_best_of_all_cuts(costs, stages, first, last):
    if stages > len(costs):
        with pytest.raises(ValueError, match="use 1 to"):
            balanced(costs, stages, first=first, last=last)
        return
    counts = balanced(costs, stages, first=first, last=last)
    assert sum(counts) == len(costs)
    assert len(counts) == stages
    assert min(counts) >= 1
    assert worth(costs, counts, first, last) == min(worth(costs, other, first, last) for other in all_cuts(len(costs), stages))


def worth(costs, counts, first, last):
    """Largest cost of a stage, then the sum of squares."""
    stages = stages_of(counts)
    found = [sum(costs[i] for i in s.layers) + (first if s.first else 0) + (last if s.last else 0) for s in stages]
    return max(found), sum(cost**2 for cost in found)


def all_cuts(blocks, stages):
    return [[b - a for a, b in pairwise((0, *cut, blocks))] for cut in combinations(range(1, blocks), stages - 1)]


def test_seven_layers_on_four_stages():
    assert balanced([1] * 7, 4, first=0.1, last=1.5) == [2, 2, 2, 1]
    assert balanced([1] * 7, 4) in ([2, 2, 2, 1], [1, 2, 2, 2], [2, 1, 2, 2], [2, 2, 1, 2])
    assert [s.layers for s in stages_of([2, 2, 2, 1])] == [range(2), range(2, 4), range(4, 6), range(6, 7)]


def test_stages_of_each_rank_and_unknown_schedules():
    assert [stages_per_rank(s, 3) for s in sorted(TORCH)] == [1, 2, 1, 3, 3, 2]
    with pytest.raises(ValueError, match="choose from"):
        stages_per_rank("2f2b", 1)
    assert micro_batch_fault("1f1b", pp=4, virtual_stages=1, micro_batches=2) == (
        "1f1b needs at least as many micro-batches as its 4 stages", [4])
