"""The live process groups of one rank."""

from dataclasses import dataclass

import torch.distributed as dist

from .topology import Coordinate, Topology


@dataclass(frozen=True)
class ParallelContext:
    """This rank's place in the topology and the group it shares with its neighbours along each axis.

    Args:
        topology: the degrees of all axes.
        rank: this process's number.
        coordinate: its place on each axis.
        tensor: ranks that hold the shards of one layer (tp).
        data: ranks that hold equal dense parameters, and reduce their gradients together (dp x cp).
        model: ranks that together hold the model once (pp x tp): the gradient norm is a sum over these.
        world: every rank.
    """

    topology: Topology
    rank: int
    coordinate: Coordinate
    tensor: dist.ProcessGroup
    data: dist.ProcessGroup
    model: dist.ProcessGroup
    world: dist.ProcessGroup

    @classmethod
    def create(cls, topology: Topology, rank: int) -> "ParallelContext":
        """Make every group, in the same order on all ranks. Collective; `torch.distributed` is already initialised, also for one rank.

        Raises:
            ValueError: the world has another size than the topology, or `rank` is not this process's.
        """
        if dist.get_world_size() != topology.world_size:
            raise ValueError(f"{topology} needs {topology.world_size} ranks, but torch.distributed has {dist.get_world_size()}")
        if dist.get_rank() != rank:
            raise ValueError(f"rank={rank} is not this process's rank, which is {dist.get_rank()}")
        made: dict[tuple[int, ...], dist.ProcessGroup] = {}
        tensor, data, model = (_own_group(topology.ranks_along(*axes), rank, made) for axes in (("tp",), ("dp", "cp"), ("pp", "tp")))
        assert dist.group.WORLD is not None
        return cls(topology, rank, topology.coordinate(rank), tensor, data, model, dist.group.WORLD)


def _own_group(groups: list[list[int]], rank: int, made: dict[tuple[int, ...], dist.ProcessGroup]) -> dist.ProcessGroup:
    """Make all `groups` and return the one with `rank` in it.

    Equal rank lists share one communicator (a GPU one costs memory): the whole world is the default group, `made` remembers the others.
    """
    for ranks in groups:
        key = tuple(ranks)
        if key in made:
            continue
        if len(ranks) == dist.get_world_size():
            assert dist.group.WORLD is not None
            made[key] = dist.group.WORLD
        elif len(ranks) > 1:
            made[key] = dist.new_group(ranks)
        elif ranks[0] == rank:  # only its member makes a group of one: thousands of them would each cost all ranks a round
            made[key] = dist.new_group(ranks, use_local_synchronization=True)
    return next(made[tuple(ranks)] for ranks in groups if rank in ranks)
