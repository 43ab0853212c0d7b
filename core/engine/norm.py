"""The global gradient norm, the same under every layout, and which of several equal tensors counts.

DeepSpeed's own norm takes the mean of the experts' norms over their replicas, where it should be the root of the sum of squares over the
expert axis; so ours replaces it wherever gradients lie in plain sight (ZeRO 0 to 2, not offloaded).
"""

from collections.abc import Iterable, Iterator, Sequence

import torch
import torch.distributed as dist
from deepspeed.runtime.zero.stage_1_and_2 import DeepSpeedZeroOptimizer
from torch import Tensor

from ...parallel.context import ParallelContext
from ...parallel.partition_module import Placed


def counted(placed: Placed, context: ParallelContext) -> bool:
    """Whether this rank's tensor is the one that counts among its equals along the tensor and the pipeline axis."""
    return not placed.copy and (not placed.shard.replicated or context.tensor.rank() == 0)


def mark_for_deepspeed(placed: Sequence[Placed], context: ParallelContext) -> None:
    """Tell DeepSpeed the same by the attributes it looks for, for the norms that it still takes itself (BASE.md)."""
    for each in placed:
        for mark in ("model_parallel", "tensor_model_parallel"):
            setattr(each.parameter, mark, not each.shard.replicated and not each.copy)
        each.parameter.ds_pipe_replicated = each.copy  # type: ignore[attr-defined]


def global_norm(gradients: Iterable[Tensor], context: ParallelContext) -> Tensor:
    """Root of the sum of squares over all ranks, in fp64: torch's fp32 norm of a million elements is 4e-5 off on a CPU.

    Args:
        gradients: of this rank, so that every element of the whole model's gradient is given by exactly one rank.
        context: the process groups.
    """
    total = torch.zeros((), device=context_device(context), dtype=torch.float64)
    for gradient in gradients:
        total += torch.linalg.vector_norm(gradient.detach(), dtype=torch.float64).square()
    dist.all_reduce(total, group=context.world)
    return total.sqrt()


def whole_gradients(placed: Sequence[Placed], context: ParallelContext) -> Iterator[Tensor]:
    """The gradients that this rank gives at ZeRO stage 0, where every replica holds all of them."""
    for each in placed:
        replicas = context.expert_data if each.expert else context.data
        if counted(each, context) and replicas.rank() == 0 and each.parameter.grad is not None:
            yield each.parameter.grad


def clip(placed: Sequence[Placed], context: ParallelContext, bound: float) -> float:
    """The norm before clipping; gradients are scaled in place down to `bound`, at stage 0."""
    norm = global_norm(whole_gradients(placed, context), context)
    for each in placed:
        if each.parameter.grad is not None:
            each.parameter.grad.mul_((bound / (norm + 1e-6)).clamp(max=1.0))
    return float(norm)


def replace_norm(optimizer: DeepSpeedZeroOptimizer, placed: Sequence[Placed], context: ParallelContext) -> None:
    """Let a ZeRO-1 or ZeRO-2 optimizer take our norm of its partitions' gradients."""
    gives = {id(each.parameter): counted(each, context) for each in placed}

    def own_gradients() -> Iterator[Tensor]:
        for index in range(len(optimizer.bit16_groups)):
            real = (g for g in optimizer.averaged_gradients[index] if not getattr(g, "_zero_padding", False))
            # DeepSpeed does not mark the zeros that fill up the last partition: one tensor more than there are parameters.
            for gradient, parameter in zip(real, optimizer.params_in_partition[index], strict=False):
                if gives[id(parameter)]:
                    yield gradient

    optimizer.scaled_global_norm = lambda norm_type=2: global_norm(own_gradients(), context)


def context_device(context: ParallelContext) -> torch.device:
    """Where this rank's tensors lie."""
    return torch.device("cuda", torch.cuda.current_device()) if context.world.name() == "nccl" else torch.device("cpu")
