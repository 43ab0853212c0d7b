"""Linear layers cut along the tensor axis (Megatron-LM, Shoeybi et al. 2019, section 3).

Parameters start as zeros; whoever builds the model fills them. Shapes: B micro-batch, S sequence, I in_features, O out_features;
lower case is this rank's part.
"""

from collections.abc import Sequence

import torch
import torch.distributed as dist
import torch.nn.functional as F
from torch import Tensor, nn

from .collectives import copy_to_tensor_axis, reduce_from_tensor_axis
from .partition import shard_parts


class ColumnParallelLinear(nn.Module):
    """y = x W^T + b with the rows of W, the output features, cut: whole input, output shard.

    Args:
        in_features: I.
        out_features: O.
        bias: whether there is a bias; it is cut like the rows.
        group: the tensor axis.
        parts: sizes that are each cut by themselves, e.g. q, k, v; they add up to `out_features`. Empty: one part.

    Raises:
        ValueError: a part is not divisible by the group's size.
    """

    def __init__(self, in_features: int, out_features: int, *, bias: bool, group: dist.ProcessGroup, parts: Sequence[int] = ()) -> None:
        super().__init__()
        parts, self.group = tuple(parts) or (out_features,), group
        spec = shard_parts((out_features, in_features), dim=0, parts=parts, degree=group.size(), index=group.rank())
        self.shards = {"weight": spec}
        self.local_parts = tuple(part // group.size() for part in parts)
        self.weight = nn.Parameter(torch.zeros(spec.local_shape))
        self.bias: nn.Parameter | None = None
        if bias:
            self.shards["bias"] = shard_parts((out_features,), dim=0, parts=parts, degree=group.size(), index=group.rank())
            self.bias = nn.Parameter(torch.zeros(spec.local_size))

    def forward(self, x_BSI: Tensor) -> Tensor:
        """[B, S, I] alike on every rank -> [B, S, o]: this rank's slice of every part, one after the other."""
        return F.linear(copy_to_tensor_axis(x_BSI, self.group), self.weight, self.bias)


class RowParallelLinear(nn.Module):
    """y = x W^T + b with the columns of W, the input features, cut: input shard, whole output.

    Args:
        in_features: I.
        out_features: O.
        bias: whether there is a bias; it lies whole on every rank and is added once, after the sum.
        group: the tensor axis.

    Raises:
        ValueError: `in_features` is not divisible by the group's size.
    """

    def __init__(self, in_features: int, out_features: int, *, bias: bool, group: dist.ProcessGroup) -> None:
        super().__init__()
        self.group = group
        spec = shard_parts((out_features, in_features), dim=1, parts=(in_features,), degree=group.size(), index=group.rank())
        self.shards = {"weight": spec}
        self.weight = nn.Parameter(torch.zeros(spec.local_shape))
        self.bias = nn.Parameter(torch.zeros(out_features)) if bias else None

    def forward(self, x_BSi: Tensor) -> Tensor:
        """[B, S, i] -> [B, S, O], alike on every rank."""
        y_BSO = reduce_from_tensor_axis(F.linear(x_BSi, self.weight), self.group)
        return y_BSO if self.bias is None else y_BSO + self.bias.to(y_BSO.dtype)
