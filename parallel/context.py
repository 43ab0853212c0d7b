"""The live process groups of one rank."""

from dataclasses import dataclass

import torch.distributed as dist

from .topology import Coordinate, Topology


@dataclass(frozen=True)
class LayerGroups:
    """What a layer must know of the layout: the groups over which it is cut, and how.

    Args:
        tensor: the tensor axis: heads, features and vocabulary are cut over it.
        context: the context axis: the sequence is cut over it.
        expert: the expert axis: experts are cut over it.
        sequence_parallel: norms, dropout and residuals live on shards of the sequence, cut over `tensor`.
        context_attention: ring or ulysses: how attention sees the whole sequence.
        overlap: the backward pass of a column-parallel layer communicates while it computes the weight's gradient, in one autograd node;
            not for pipeline schedules that split the backward pass.
    """

    tensor: dist.ProcessGroup
    context: dist.ProcessGroup
    expert: dist.ProcessGroup
    sequence_parallel: bool = False
    context_attention: str = "ring"
    overlap: bool = False

    @property
    def rings(self) -> bool:
        """Whether each rank attends from its part of the sequence to keys and values that come round the context axis."""
        return self.context_attention == "ring" and self.context.size() > 1

    @classmethod
    def of_tensor_axis(cls, tensor: dist.ProcessGroup) -> "LayerGroups":
        """Only the tensor axis, the others of one rank. Collective over `tensor` (its members make their group of one)."""
        alone = tensor if tensor.size() == 1 else dist.new_group([dist.get_rank()], use_local_synchronization=True)
        return cls(tensor=tensor, context=alone, expert=alone)


@dataclass(frozen=True)
class ParallelContext:
    """This rank's place in the topology and the group it shares with its neighbours along each axis.

    Args:
        topology: the degrees of all axes.
        rank: this process's number.
        coordinate: its place on each axis.
        tensor: ranks that hold the shards of one layer (tp).
        context: ranks that hold the parts of one sequence (cp).
        pipeline: ranks that hold the stages of one model (pp), in order.
        pipeline_ends: the first and the last of them, for a tied embedding; None on the ranks between.
        data: ranks that hold equal dense parameters, and reduce their gradients together (dp x cp).
        expert: ranks that together hold the experts of a layer once (ep).
        expert_data: ranks that hold equal experts, and reduce their gradients together (dp x cp / ep).
        model: ranks that together hold the dense model once (pp x tp).
        world: every rank.
    """

    topology: Topology
    rank: int
    coordinate: Coordinate
    tensor: dist.ProcessGroup
    context: dist.ProcessGroup
    pipeline: dist.ProcessGroup
    pipeline_ends: dist.ProcessGroup | None
    data: dist.ProcessGroup
    expert: dist.ProcessGroup
    expert_data: dist.ProcessGroup
    model: dist.ProcessGroup
    world: dist.ProcessGroup

    def layer_groups(self, *, sequence_parallel: bool = False, context_attention: str = "ring", overlap: bool = False) -> LayerGroups:
        """What the layers of a model must know; on a tensor axis of one there is nothing to cut and nothing to overlap."""
        cut = self.tensor.size() > 1
        return LayerGroups(self.tensor, self.context, self.expert, sequence_parallel and cut, context_attention, overlap and cut)

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
        own = {axes: _own_group(topology.ranks_along(*axes), rank, made)
               for axes in (("tp",), ("cp",), ("pp",), ("dp", "cp"), ("ep",), ("expert_dp",), ("pp", "tp"))}
        _make(topology.pipeline_ends(), rank, made)
        ends = next((made[tuple(pair)] for pair in topology.pipeline_ends() if rank in pair and len(set(pair)) > 1), None)
        assert dist.group.WORLD is not None
        return cls(topology, rank, topology.coordinate(rank), tensor=own["tp",], context=own["cp",], pipeline=own["pp",],
                   pipeline_ends=ends, data=own["dp", "cp"], expert=own["ep",], expert_data=own["expert_dp",], model=own["pp", "tp"],
                   world=dist.group.WORLD)


def _own_group(groups: list[list[int]], rank: int, made: dict[tuple[int, ...], dist.ProcessGroup]) -> dist.ProcessGroup:
    """Make all `groups` and return the one with `rank` in it."""
    _make(groups, rank, made)
    return next(made[tuple(ranks)] for ranks in groups if rank in ranks)


def _make(groups: list[list[int]], rank: int, made: dict[tuple[int, ...], dist.ProcessGroup]) -> None:
    """Make those of `groups` that are not made yet, on all ranks in the same order.

    Equal rank lists share one communicator (a GPU one costs memory): the whole world is the default group, `made` remembers the others.
    """
    for ranks in groups:
        key = tuple(sorted(set(ranks)))
        if key in made:
            continue
        if len(ranks) == dist.get_world_size():
            assert dist.group.WORLD is not None
            made[key] = dist.group.WORLD
        elif len(key) > 1:
            made[key] = dist.new_group(list(key))
        elif key[0] == rank:  # only its member makes a group of one: thousands of them would each cost all ranks a round
            made[key] = dist.new_group(list(key), use_local_synchronization=True)
