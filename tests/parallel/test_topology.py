"""The grid of ranks, against NumPy's row-major index arithmetic, and the live groups made from it."""

from dataclasses import fields

import numpy as np
import pytest
import torch
import torch.distributed as dist
from hexareme.parallel.context import ParallelContext
from hexareme.parallel.topology import AXES, Coordinate, Topology, divisors
from hypothesis import given
from hypothesis import strategies as st

from ..ranks import RankError, run_ranks

degrees = st.integers(1, 4)


@given(degrees, degrees, degrees, degrees)
def test_ranks_are_numbered_row_major(pp: int, dp: int, cp: int, tp: int) -> None:
    topology = Topology(pp=pp, dp=dp, cp=cp, tp=tp)
    assert topology.world_size == pp * dp * cp * tp
    for rank in range(topology.world_size):
        coordinate = topology.coordinate(rank)
        place = np.unravel_index(rank, (pp, dp, cp, tp))
        assert (coordinate.pp, coordinate.dp, coordinate.cp, coordinate.tp) == place
        assert topology.rank(coordinate) == rank


@given(degrees, degrees, degrees, degrees, st.sets(st.sampled_from(AXES), min_size=1))
def test_groups_partition_the_ranks(pp: int, dp: int, cp: int, tp: int, axes: set[str]) -> None:
    shape = (pp, dp, cp, tp)
    groups = Topology(pp=pp, dp=dp, cp=cp, tp=tp).ranks_along(*axes)
    moved = [i for i, axis in enumerate(AXES) if axis in axes]
    fixed = [i for i in range(4) if i not in moved]
    grid = np.arange(np.prod(shape)).reshape(shape).transpose(*fixed, *moved)
    wanted = grid.reshape(-1, np.prod([shape[i] for i in moved]))
    assert groups == sorted(wanted.tolist())


def test_groups_of_a_known_grid() -> None:
    topology = Topology(pp=2, dp=2, tp=2)
    assert topology.ranks_along("tp") == [[0, 1], [2, 3], [4, 5], [6, 7]]
    assert topology.ranks_along("dp") == [[0, 2], [1, 3], [4, 6], [5, 7]]
    assert topology.ranks_along("pp", "tp") == [[0, 1, 4, 5], [2, 3, 6, 7]]
    assert Topology(dp=4, cp=2, ep=4).ranks_along("ep") == [[0, 1, 2, 3], [4, 5, 6, 7]]
    assert Topology(dp=4, tp=2, ep=2).ranks_along("ep") == [[0, 2], [1, 3], [4, 6], [5, 7]]
    assert Topology(dp=4, tp=2, ep=2).ranks_along("expert_dp") == [[0, 4], [1, 5], [2, 6], [3, 7]]
    assert Topology(dp=2, cp=2, ep=2).ranks_along("expert_dp") == [[0, 2], [1, 3]]  # experts lie along the context axis first
    assert topology.pipeline_ends() == [[0, 4], [1, 5], [2, 6], [3, 7]]
    assert Topology(pp=4, tp=2).pipeline_ends() == [[0, 6], [1, 7]]


@st.composite
def topologies(draw: st.DrawFn) -> Topology:
    """Any small grid with an expert degree that fits it."""
    pp, dp, cp, tp = (draw(degrees) for _ in range(4))
    return Topology(pp=pp, dp=dp, cp=cp, tp=tp, ep=draw(st.sampled_from(divisors(dp * cp))))


@given(topologies())
def test_the_expert_axes_cut_the_replicas_into_a_grid(topology: Topology) -> None:
    blocks, replicas = topology.ranks_along("ep"), topology.ranks_along("expert_dp")
    for groups in (blocks, replicas):
        assert sorted(rank for group in groups for rank in group) == list(range(topology.world_size))
        assert groups == sorted(groups) and all(group == sorted(group) for group in groups)
    assert {len(group) for group in blocks} == {topology.ep}
    assert {len(group) for group in replicas} == {topology.dp * topology.cp // topology.ep}
    for dense in topology.ranks_along("dp", "cp"):
        inside = [set(group) for group in blocks if set(group) <= set(dense)]
        across = [set(group) for group in replicas if set(group) <= set(dense)]
        assert set().union(*inside) == set().union(*across) == set(dense)  # neither leaves the ranks with equal dense parameters
        assert all(len(block & replica) == 1 for block in inside for replica in across)


@given(topologies())
def test_the_ends_of_a_pipeline_lie_on_its_first_and_last_place(topology: Topology) -> None:
    pairs = topology.pipeline_ends()
    assert len(pairs) == topology.dp * topology.cp * topology.tp
    ends = [rank for pair in pairs for rank in pair]
    assert sorted(set(ends)) == [r for r in range(topology.world_size) if topology.coordinate(r).pp in (0, topology.pp - 1)]
    assert len(ends) == 2 * len(pairs)
    for first, last in pairs:
        a, b = topology.coordinate(first), topology.coordinate(last)
        assert (a.dp, a.cp, a.tp) == (b.dp, b.cp, b.tp) and (a.pp, b.pp) == (0, topology.pp - 1)


@given(st.integers(1, 64), degrees, degrees, degrees)
def test_dp_is_what_remains(world_size: int, tp: int, pp: int, cp: int) -> None:
    if world_size % (tp * pp * cp):
        with pytest.raises(ValueError, match=f"parallel.tp={tp}"):
            Topology.divide(world_size=world_size, tp=tp, pp=pp, cp=cp)
    else:
        topology = Topology.divide(world_size=world_size, tp=tp, pp=pp, cp=cp)
        assert topology.world_size == world_size
        assert topology.dp == world_size // (tp * pp * cp)


def test_impossible_topologies_are_refused() -> None:
    with pytest.raises(ValueError, match=r"parallel.ep=3.*try ep in \[1, 2, 4\]"):
        Topology(dp=4, ep=3)
    with pytest.raises(ValueError, match="parallel.tp=0"):
        Topology.divide(world_size=4, tp=0)
    with pytest.raises(ValueError, match="rank=8"):
        Topology(dp=8).coordinate(8)
    with pytest.raises(ValueError, match="tp=1 is outside"):
        Topology(dp=2).rank(Coordinate(pp=0, dp=0, cp=0, tp=1))
    with pytest.raises(ValueError, match="unknown axes"):
        Topology(dp=2).ranks_along("ep", "tp")


@pytest.mark.parametrize("topology", [Topology(pp=2, dp=2, tp=2), Topology(dp=2, cp=2, tp=2, ep=4), Topology(pp=4, cp=2, ep=2)], ids=str)
def test_live_groups_are_the_pure_ones(topology: Topology) -> None:
    def rank(number: int) -> None:
        context = ParallelContext.create(topology, number)
        assert context.rank == number
        assert context.coordinate == topology.coordinate(number)
        live = {("tp",): context.tensor, ("cp",): context.context, ("pp",): context.pipeline, ("dp", "cp"): context.data,
                ("ep",): context.expert, ("expert_dp",): context.expert_data, ("pp", "tp"): context.model}
        for axes, group in live.items():
            wanted = next(ranks for ranks in topology.ranks_along(*axes) if number in ranks)
            assert dist.get_process_group_ranks(group) == wanted
            total = torch.tensor(number)
            dist.all_reduce(total, group=group)
            assert total == sum(wanted)
        ends = [pair for pair in topology.pipeline_ends() if number in pair and topology.pp > 1]
        assert [dist.get_process_group_ranks(group) for group in (context.pipeline_ends,) if group] == ends
        assert context.world.size() == 8

    run_ranks(rank, 8)


def test_groups_of_the_same_ranks_are_one_group() -> None:
    """A communicator costs memory on a GPU: each set of ranks has one, whatever axes it serves."""
    def rank(number: int) -> None:
        groups = context_groups(ParallelContext.create(Topology(pp=2, dp=2, tp=2, ep=2), number))
        by_ranks: dict[tuple[int, ...], set[int]] = {}
        for group in groups:
            by_ranks.setdefault(tuple(dist.get_process_group_ranks(group)), set()).add(id(group))
        assert all(len(found) == 1 for found in by_ranks.values())
        assert len(by_ranks) == 6  # tp, pp (and its ends), dp (and ep), pp x tp, alone (cp and expert_dp), world

    def context_groups(context: ParallelContext) -> list[dist.ProcessGroup]:
        named = [getattr(context, field.name) for field in fields(context)]
        return [group for group in named if isinstance(group, dist.ProcessGroup)]

    run_ranks(rank, 8)


def test_equal_groups_are_made_once() -> None:
    def rank(number: int) -> None:
        context = ParallelContext.create(Topology(tp=2), number)
        assert context.tensor is context.model is context.world
        assert context.data.size() == 1
        total = torch.tensor(number)
        dist.all_reduce(total, group=context.data)
        assert total == number

    run_ranks(rank, 2)


def test_a_world_of_another_size_is_refused() -> None:
    with pytest.raises(RankError, match=r"ValueError.*has 2"):
        run_ranks(lambda rank: ParallelContext.create(Topology(dp=4), rank), 2)
