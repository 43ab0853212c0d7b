"""How DeepSpeed learns of experts that are not of its own classes: their gradients are reduced over their own replicas only."""

from collections.abc import Sequence

from deepspeed.moe.layer import MoE
from deepspeed.utils import groups
from torch import nn

from ...parallel.context import ParallelContext
from ...parallel.partition_module import Placed
from .optimizer import EXPERTS


class ExpertMark(MoE):
    """A module without parameters, by whose class DeepSpeed sees that a model has experts: it asks for nothing else."""

    def __init__(self) -> None:
        nn.Module.__init__(self)
        self.num_experts = 1

    def set_deepspeed_parallelism(self, use_data_before_expert_parallel_: bool = False) -> None:
        """Nothing to set up: the groups are ours."""


def announce_experts(model: nn.Module, placed: Sequence[Placed], context: ParallelContext) -> None:
    """Mark the experts' parameters and give DeepSpeed their groups.

    Where every rank holds all experts, or there are none, nothing is special: they are reduced like all others.

    Args:
        model: that DeepSpeed will wrap; it gets the mark as a submodule.
        placed: every parameter of this rank.
        context: the process groups.
    """
    experts = [each.parameter for each in placed if each.expert]
    if context.expert.size() == 1 or not experts:
        return
    for parameter in experts:
        parameter.allreduce = False  # type: ignore[attr-defined]
        parameter.group_name = EXPERTS  # type: ignore[attr-defined]
    model.expert_mark = ExpertMark()
    groups._EXPERT_PARALLEL_GROUP[EXPERTS] = context.expert
    groups._EXPERT_DATA_PARALLEL_GROUP[EXPERTS] = context.expert_data
