"""Collectives as autograd nodes of their own, so that schedules can place them; a group of one returns early.

They go through torch's functional operators: out of place, so that recomputation can keep their results, and visible to
`torch.compile` and to dispatch modes that count bytes.
"""

from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor


def all_reduce(tensor: Tensor, group: dist.ProcessGroup, operation: str = "sum") -> Tensor:
    """The reduction of `tensor` over `group`, as a new tensor of the same dtype; not differentiable.

    Args:
        tensor: any shape, the same on every rank.
        group: who takes part; for a group of one the tensor itself comes back.
        operation: sum, max, min or avg.
    """
    if group.size() == 1:
        return tensor
    functional = torch.ops._c10d_functional
    return functional.wait_tensor(functional.all_reduce(tensor.contiguous(), operation, group.group_name))


def all_gather_last(tensor: Tensor, group: dist.ProcessGroup) -> Tensor:
    """The tensors of all ranks of `group` side by side along the last dim, in rank order; not differentiable."""
    if group.size() == 1:
        return tensor
    functional = torch.ops._c10d_functional
    stacked = functional.wait_tensor(functional.all_gather_into_tensor(tensor.contiguous(), group.size(), group.group_name))
    return torch.cat(stacked.view(group.size(), *tensor.shape).unbind(0), dim=-1)


class _Copy(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, tensor: Tensor, group: dist.ProcessGroup) -> Tensor:
        ctx.group = group
        return tensor.view_as(tensor)

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor, None]:
        return all_reduce(gradients[0], ctx.group), None


class _Reduce(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, tensor: Tensor, group: dist.ProcessGroup) -> Tensor:
        return all_reduce(tensor, group)

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor, None]:
        return gradients[0], None


class _Gather(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, tensor: Tensor, group: dist.ProcessGroup) -> Tensor:
        ctx.group, ctx.size = group, tensor.shape[-1]
        return all_gather_last(tensor, group)

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor, None]:
        return gradients[0].narrow(-1, ctx.group.rank() * ctx.size, ctx.size).contiguous(), None


def copy_to_tensor_axis(tensor: Tensor, group: dist.ProcessGroup) -> Tensor:
    """Enter a tensor-parallel region: identity forward, gradients summed backward (`f` in Megatron-LM, Shoeybi et al. 2019, section 3)."""
    return tensor if group.size() == 1 else _Copy.apply(tensor, group)


def reduce_from_tensor_axis(tensor: Tensor, group: dist.ProcessGroup) -> Tensor:
    """Leave a tensor-parallel region: sum forward, identity backward (Megatron-LM's `g`); every rank goes on with the same tensor."""
    return tensor if group.size() == 1 else _Reduce.apply(tensor, group)


def gather_from_tensor_axis(tensor: Tensor, group: dist.ProcessGroup) -> Tensor:
    """Join the last dim's shards on every rank; backward takes this rank's slice (the result is used alike on every rank)."""
    return tensor if group.size() == 1 else _Gather.apply(tensor, group)
