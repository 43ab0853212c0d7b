"""A column-parallel product whose backward pass communicates while it computes the gradient of the weight.

Shapes: B micro-batch, S sequence, s this rank's shard of it, I input features, o this rank's output features.
"""

from typing import Any

import torch
import torch.distributed as dist
import torch.nn.functional as F
from torch import Tensor

from .collectives import SEQUENCE, all_gather, start_all_reduce, start_reduce_scatter, wait


class _Overlapped(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, x: Tensor, weight_oI: Tensor, group: dist.ProcessGroup, sequence_parallel: bool) -> Tensor:
        x_BSI = all_gather(x, group, SEQUENCE) if sequence_parallel else x
        ctx.save_for_backward(x_BSI, weight_oI)
        ctx.group, ctx.sequence_parallel = group, sequence_parallel
        return F.linear(x_BSI, weight_oI)

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor | None, ...]:
        y_BSo = gradients[0]
        x_BSI, weight_oI = ctx.saved_tensors
        wants_x, wants_weight = ctx.needs_input_grad[:2]
        pending = _start_reduction(y_BSo @ weight_oI, ctx.group, ctx.sequence_parallel) if wants_x else None
        weight = y_BSo.flatten(0, -2).t() @ x_BSI.flatten(0, -2) if wants_weight else None
        return None if pending is None else wait(pending, ctx.group), weight, None, None


def _start_reduction(x_BSI: Tensor, group: dist.ProcessGroup, sequence_parallel: bool) -> Tensor:
    return start_reduce_scatter(x_BSI, group, SEQUENCE) if sequence_parallel else start_all_reduce(x_BSI, group)


def overlapped_linear(x: Tensor, weight_oI: Tensor, group: dist.ProcessGroup, *, sequence_parallel: bool) -> Tensor:
    """`F.linear(enter_tensor_region(x, ...), weight)`, with the input gradient's reduction beside the weight gradient's product.

    It is one autograd node over activation and weight, so a schedule that splits the backward pass in two must not meet it: torch would
    run it twice, its collective included. Start and wait are all there is to it: on a GPU collectives have a stream of their own.

    Args:
        x: the residual stream, [B, S, I], or [B, s, I] under sequence parallelism; of the weight's dtype.
        weight_oI: this rank's rows.
        group: the tensor axis.
        sequence_parallel: whether `x` is a shard of the sequence.
    """
    y_BSo: Tensor = _Overlapped.apply(x, weight_oI, group, sequence_parallel)
    return y_BSo
