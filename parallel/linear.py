"""Linear layers cut along the tensor axis (Megatron-LM, Shoeybi et al. 2019, section 3).

Parameters start as zeros; whoever builds the model fills them. Shapes: B micro-batch, S sequence, I in_features, O out_features;
lower case is this rank's part. The residual stream is [B, S, .] alike on every rank, or [B, s, .] under sequence parallelism
(Korthikanti et al. 2022); inside a tensor-parallel region the sequence is whole.
"""

from collections.abc import Sequence

import torch
import torch.distributed as dist
import torch.nn.functional as F
from torch import Tensor, nn

from .collectives import enter_tensor_region, leave_tensor_region, residual_parameter
from .overlap import overlapped_linear
from .partition import shard_parts


class ColumnParallelLinear(nn.Module):
    """y = x W^T + b with the rows of W, the output features, cut: residual stream in, output shard out.

    Args:
        in_features: I.
        out_features: O.
        bias: whether there is a bias; it is cut like the rows.
        group: the tensor axis.
        parts: sizes that are each cut by themselves, e.g. q, k, v; they add up to `out_features`. Empty: one part.
        sequence_parallel: the input is this rank's shard of the sequence.
        overlap: the backward pass communicates while it computes the weight's gradient; not under schedules that split it.

    Raises:
        ValueError: a part is not divisible by the group's size.
    """

    def __init__(self, in_features: int, out_features: int, *, bias: bool, group: dist.ProcessGroup, parts: Sequence[int] = (),
                 sequence_parallel: bool = False, overlap: bool = False) -> None:
        super().__init__()
        parts, self.group, self.sequence_parallel, self.overlap = tuple(parts) or (out_features,), group, sequence_parallel, overlap
        spec = shard_parts((out_features, in_features), dim=0, parts=parts, degree=group.size(), index=group.rank())
        self.shards = {"weight": spec}
        self.local_parts = tuple(part // group.size() for part in parts)
        self.weight = nn.Parameter(torch.zeros(spec.local_shape))
        self.bias: nn.Parameter | None = None
        if bias:
            self.shards["bias"] = shard_parts((out_features,), dim=0, parts=parts, degree=group.size(), index=group.rank())
            self.bias = nn.Parameter(torch.zeros(spec.local_size))

    def forward(self, x: Tensor) -> Tensor:
        """The residual stream -> [B, S, o]: this rank's slice of every part, one after the other."""
        return column_linear(x, self.weight, self.bias, self.group, sequence_parallel=self.sequence_parallel, overlap=self.overlap)


class RowParallelLinear(nn.Module):
    """y = x W^T + b with the columns of W, the input features, cut: input shard in, residual stream out.

    Args:
        in_features: I.
        out_features: O.
        bias: whether there is a bias; it lies whole on every rank and is added once, after the sum.
        group: the tensor axis.
        sequence_parallel: the output is this rank's shard of the sequence.

    Raises:
        ValueError: `in_features` is not divisible by the group's size.
    """

    def __init__(self, in_features: int, out_features: int, *, bias: bool, group: dist.ProcessGroup,
                 sequence_parallel: bool = False) -> None:
        super().__init__()
        self.group, self.sequence_parallel = group, sequence_parallel
        spec = shard_parts((out_features, in_features), dim=1, parts=(in_features,), degree=group.size(), index=group.rank())
        self.shards = {"weight": spec}
        self.weight = nn.Parameter(torch.zeros(spec.local_shape))
        self.bias = nn.Parameter(torch.zeros(out_features)) if bias else None

    def forward(self, x_BSi: Tensor) -> Tensor:
        """[B, S, i] -> the residual stream."""
        y = leave_tensor_region(F.linear(x_BSi, self.weight), self.group, sequence_parallel=self.sequence_parallel)
        if self.bias is None:
            return y
        bias_O = residual_parameter(self.bias, self.group, sequence_parallel=self.sequence_parallel)
        return y + bias_O.to(y.dtype)


def column_linear(x: Tensor, weight_oI: Tensor, bias_o: Tensor | None, group: dist.ProcessGroup, *, sequence_parallel: bool,
                  overlap: bool) -> Tensor:
    """The residual stream, whole features, times this rank's rows of a weight: [B, S, o].

    Args:
        x: [B, S, I], or [B, s, I] under sequence parallelism.
        weight_oI, bias_o: this rank's rows.
        group: the tensor axis.
        sequence_parallel, overlap: as for `ColumnParallelLinear`.
    """
    dtype = _product_dtype(x)
    x = x.to(dtype)  # autocast would cast it anyway: before the collective it halves the bytes of both passes
    if overlap:
        y_BSo = overlapped_linear(x, weight_oI.to(dtype), group, sequence_parallel=sequence_parallel)
    else:
        y_BSo = F.linear(enter_tensor_region(x, group, sequence_parallel=sequence_parallel), weight_oI)
    # Never inside of F.linear: for ZeRO-3 DeepSpeed replaces that by one that adds the bias in place, into the very result that
    # selective recomputation keeps, and so adds it twice.
    return y_BSo if bias_o is None else y_BSo + bias_o.to(y_BSo.dtype)


def _product_dtype(x: Tensor) -> torch.dtype:
    """The dtype in which a matrix product of `x` runs here."""
    kind = x.device.type
    return torch.get_autocast_dtype(kind) if torch.is_autocast_enabled(kind) else x.dtype
