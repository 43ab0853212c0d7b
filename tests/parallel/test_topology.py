"""The grid of ranks, against NumPy's row-major index arithmetic, and the live groups made from it."""

import numpy as np
import pytest
import torch
import torch.distributed as dist
from hexareme.parallel.context import ParallelContext
from hexareme.parallel.topology import AXES, Coordinate, Topology
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
    assert Topology(dp=4, tp=2, ep=2).ranks_along("ep") == [[0, 2], [4, 6], [1, 3], [5, 7]]


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


def test_live_groups_are_the_pure_ones() -> None:
    topology = Topology(pp=2, dp=2, tp=2)

    def rank(number: int) -> None:
        context = ParallelContext.create(topology, number)
        assert context.rank == number
        assert context.coordinate == topology.coordinate(number)
        for group, axes in ((context.tensor, ("tp",)), (context.data, ("dp", "cp")), (context.model, ("pp", "tp"))):
            wanted = next(ranks for ranks in topology.ranks_along(*axes) if number in ranks)
            assert dist.get_process_group_ranks(group) == wanted
            total = torch.tensor(number)
            dist.all_reduce(total, group=group)
            assert total == sum(wanted)
        assert context.world.size() == 8

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
