"""Collectives as autograd nodes of their own, so that schedules can place them; a group of one returns early.

They go through torch's functional operators: out of place, so that recomputation can keep their results, and visible to
`torch.compile` and to dispatch modes that count bytes.

Shapes: B micro-batch, S sequence, s this rank's shard of it (S / tp), H hidden.
"""

from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor

SEQUENCE = 1  # the dim of [B, S, H] along which sequence parallelism cuts


def wait(pending: Tensor, group: dist.ProcessGroup) -> Tensor:
    """What a started collective gives, once it is there; a GPU's host goes on at once, only its stream waits."""
    return pending if group.size() == 1 else torch.ops._c10d_functional.wait_tensor(pending)


def start_all_reduce(tensor: Tensor, group: dist.ProcessGroup, operation: str = "sum") -> Tensor:
    """`all_reduce` whose result must not be read before `wait`: whatever is computed between runs beside it."""
    if group.size() == 1:
        return tensor
    return torch.ops._c10d_functional.all_reduce(tensor.contiguous(), operation, group.group_name)


def start_reduce_scatter(tensor: Tensor, group: dist.ProcessGroup, dim: int) -> Tensor:
    """`reduce_scatter` whose result must not be read before `wait`."""
    if group.size() == 1:
        return tensor
    shard_length(tensor.shape[dim], group)
    stacked = tensor.unflatten(dim, (group.size(), -1)).movedim(dim, 0).contiguous().flatten(0, 1)
    return torch.ops._c10d_functional.reduce_scatter_tensor(stacked, "sum", group.size(), group.group_name)


def all_reduce(tensor: Tensor, group: dist.ProcessGroup, operation: str = "sum") -> Tensor:
    """The reduction of `tensor` over `group`, as a new tensor of the same dtype; not differentiable.

    Args:
        tensor: any shape, the same on every rank.
        group: who takes part; for a group of one the tensor itself comes back.
        operation: sum, max, min or avg.
    """
    return wait(start_all_reduce(tensor, group, operation), group)


def reduce_scatter(tensor: Tensor, group: dist.ProcessGroup, dim: int) -> Tensor:
    """This rank's slice along `dim` of the sum of `tensor` over `group`; not differentiable.

    Raises:
        ValueError: the dim cannot be cut evenly.
    """
    return wait(start_reduce_scatter(tensor, group, dim), group)


def all_gather(tensor: Tensor, group: dist.ProcessGroup, dim: int) -> Tensor:
    """The tensors of all ranks of `group` side by side along `dim` (from 0), in rank order; not differentiable."""
    if group.size() == 1:
        return tensor
    functional = torch.ops._c10d_functional
    stacked = functional.wait_tensor(functional.all_gather_into_tensor(tensor.contiguous(), group.size(), group.group_name))
    return stacked.view(group.size(), *tensor.shape).movedim(0, dim).flatten(dim, dim + 1)


def own_slice(tensor: Tensor, group: dist.ProcessGroup, dim: int) -> Tensor:
    """This rank's slice along `dim` of a tensor that lies whole on every rank; torch's own view, of which each rank's gradient is its own.

    Raises:
        ValueError: the dim cannot be cut evenly.
    """
    if group.size() == 1:
        return tensor
    length = shard_length(tensor.shape[dim], group)
    return tensor.narrow(dim, group.rank() * length, length)


def shard_length(length: int, group: dist.ProcessGroup) -> int:
    """Length of one rank's part of a sequence.

    Raises:
        ValueError: the ranks cannot get equal parts.
    """
    if length % group.size():
        below = length - length % group.size()
        near = " or ".join(str(each) for each in (below, below + group.size()) if each)
        raise ValueError(f"{length} tokens cannot be cut over parallel.tp={group.size()}; set parallel.sequence_parallel=false, "
                         f"or take a sequence of {near}")
    return length // group.size()


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


class _GatherAlike(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, tensor: Tensor, group: dist.ProcessGroup, dim: int) -> Tensor:
        ctx.group, ctx.dim = group, dim
        return all_gather(tensor, group, dim)

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor, None, None]:
        return own_slice(gradients[0], ctx.group, ctx.dim).contiguous(), None, None


class _Gather(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, tensor: Tensor, group: dist.ProcessGroup) -> Tensor:
        ctx.group = group
        return all_gather(tensor, group, SEQUENCE)

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor, None]:
        return reduce_scatter(gradients[0], ctx.group, SEQUENCE), None


class _ReduceScatter(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, tensor: Tensor, group: dist.ProcessGroup) -> Tensor:
        ctx.group = group
        return reduce_scatter(tensor, group, SEQUENCE)

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor, None]:
        return all_gather(gradients[0], ctx.group, SEQUENCE), None


class _Split(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, tensor: Tensor, group: dist.ProcessGroup) -> Tensor:
        ctx.group = group
        return own_slice(tensor, group, SEQUENCE).contiguous()

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor, None]:
        return all_gather(gradients[0], ctx.group, SEQUENCE), None


def copy_to_tensor_axis(tensor: Tensor, group: dist.ProcessGroup) -> Tensor:
    """Enter a tensor-parallel region: identity forward, gradients summed backward (`f` in Megatron-LM, Shoeybi et al. 2019, section 3)."""
    return tensor if group.size() == 1 else _Copy.apply(tensor, group)


def reduce_from_tensor_axis(tensor: Tensor, group: dist.ProcessGroup) -> Tensor:
    """Leave a tensor-parallel region: sum forward, identity backward (Megatron-LM's `g`); every rank goes on with the same tensor."""
    return tensor if group.size() == 1 else _Reduce.apply(tensor, group)


def gather_from_tensor_axis(tensor: Tensor, group: dist.ProcessGroup) -> Tensor:
    """Join the last dim's shards on every rank; backward takes this rank's slice (the result is used alike on every rank)."""
    return tensor if group.size() == 1 else _GatherAlike.apply(tensor, group, tensor.dim() - 1)


def gather_sequence(x_BsH: Tensor, group: dist.ProcessGroup) -> Tensor:
    """[B, s, H] -> [B, S, H], of which each rank goes on with its own heads or features: backward sums and scatters.

    With sequence parallelism this enters a tensor-parallel region (`g` in Korthikanti et al. 2022, "Reducing activation recomputation in
    large transformer models", section 4.2.2).
    """
    return x_BsH if group.size() == 1 else _Gather.apply(x_BsH, group)


def gather_sequence_alike(x_BsH: Tensor, group: dist.ProcessGroup) -> Tensor:
    """[B, s, H] -> [B, S, H], which every rank uses alike: each has the whole gradient, and backward takes this rank's slice of it."""
    return x_BsH if group.size() == 1 else _GatherAlike.apply(x_BsH, group, SEQUENCE)


def reduce_scatter_sequence(x_BSH: Tensor, group: dist.ProcessGroup) -> Tensor:
    """[B, S, H], each rank's summand -> [B, s, H], this rank's part of the sum: backward gathers (the paper's g-bar).

    Raises:
        ValueError: the sequence cannot be cut evenly.
    """
    return x_BSH if group.size() == 1 else _ReduceScatter.apply(x_BSH, group)


def split_sequence(x_BSH: Tensor, group: dist.ProcessGroup) -> Tensor:
    """[B, S, H], alike on every rank -> [B, s, H], this rank's part: backward gathers, so that every rank has the whole gradient.

    Raises:
        ValueError: the sequence cannot be cut evenly.
    """
    return x_BSH if group.size() == 1 else _Split.apply(x_BSH, group)


def enter_tensor_region(x: Tensor, group: dist.ProcessGroup, *, sequence_parallel: bool) -> Tensor:
    """The residual stream -> what every rank of the tensor axis multiplies with its shard of a weight, [B, S, H]."""
    return gather_sequence(x, group) if sequence_parallel else copy_to_tensor_axis(x, group)


def leave_tensor_region(x_BSH: Tensor, group: dist.ProcessGroup, *, sequence_parallel: bool) -> Tensor:
    """Each rank's summand [B, S, H] -> the residual stream: the sum, or this rank's part of the sequence of it."""
    return reduce_scatter_sequence(x_BSH, group) if sequence_parallel else reduce_from_tensor_axis(x_BSH, group)


def residual_parameter(parameter: Tensor, group: dist.ProcessGroup, *, sequence_parallel: bool) -> Tensor:
    """A parameter that lies whole on every rank and acts on the residual stream.

    Under sequence parallelism each rank's gradient covers its shard of the tokens only, so it is summed over the tensor axis here, in the
    graph of each micro-batch: then it is right whatever reduces or reads gradients later.
    """
    return copy_to_tensor_axis(parameter, group) if sequence_parallel else parameter


def residual_parameters(*parameters: Tensor, group: dist.ProcessGroup, sequence_parallel: bool) -> tuple[Tensor, ...]:
    """`residual_parameter` of several of one shape, with one collective for all."""
    if not sequence_parallel:
        return parameters
    return residual_parameter(torch.stack(parameters), group, sequence_parallel=True).unbind()


def residual_slice(tensor: Tensor, group: dist.ProcessGroup, *, sequence_parallel: bool, dim: int) -> Tensor:
    """What goes with this rank's part of the residual stream (positions, ids), of a tensor that covers the whole sequence along `dim`.

    Raises:
        ValueError: the sequence cannot be cut evenly.
    """
    return own_slice(tensor, group, dim) if sequence_parallel else tensor
