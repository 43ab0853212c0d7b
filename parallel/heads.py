"""The projection to queries, keys and values where there are fewer kv heads than ranks: each kv head lies on several ranks.

Shapes: B micro-batch, S sequence, H hidden, D head dim, o this rank's rows: its query heads', then one key's and one value's.
"""

from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor, nn

from .collectives import all_reduce
from .linear import ColumnParallelLinear, column_linear
from .partition import ShardSpec, shard_repeated
from .topology import divisors


class _SumOfRepeated(torch.autograd.Function):
    """Identity forward; backward sums the gradient over the ranks that hold the same part.

    One all-reduce over the whole tensor axis in which each rank fills the place of its part, the others with zeros. A group of the sharers
    alone would send less, but would be one more communicator for each of them, with buffers on every GPU; the key and value rows are the
    small end of the model, the more so the fewer there are.
    """

    @staticmethod
    def forward(ctx: Any, tensor: Tensor, parts: int, group: dist.ProcessGroup) -> Tensor:
        ctx.parts, ctx.group = parts, group
        return tensor.view_as(tensor)

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor, None, None]:
        own = ctx.group.rank() * ctx.parts // ctx.group.size()
        places = gradients[0].new_zeros(ctx.parts, *gradients[0].shape)
        places[own] = gradients[0]
        return all_reduce(places, ctx.group)[own], None, None


class RepeatedKVLinear(nn.Module):
    """The fused projection to q, k and v, whose kv heads are repeated: rank r of n holds kv head r * num_kv_heads // n.

    That is the head its own query heads use. `weight` and `bias` hold the rows of its query heads, `kv_weight` and `kv_bias` the rows of
    that kv head; all of them are parts of one `weight` and one `bias` of the whole model (rows: all q, all k, all v).

    Args:
        in_features: H.
        num_heads: query heads; a multiple of the group's size.
        num_kv_heads: kv heads; a true divisor of the group's size.
        head_dim: D.
        bias: whether there is a bias.
        group: the tensor axis.
        sequence_parallel, overlap: as for `ColumnParallelLinear`.
    """

    def __init__(self, in_features: int, *, num_heads: int, num_kv_heads: int, head_dim: int, bias: bool, group: dist.ProcessGroup,
                 sequence_parallel: bool = False, overlap: bool = False) -> None:
        super().__init__()
        self.num_kv_heads, self.group, self.sequence_parallel, self.overlap = num_kv_heads, group, sequence_parallel, overlap
        self.local_parts = (num_heads // group.size() * head_dim, head_dim, head_dim)
        self.shards: dict[str, ShardSpec] = {}
        self.aliases = {"kv_weight": "weight", "kv_bias": "bias"}
        repeats = group.size() // num_kv_heads
        self.copies = {"kv_weight", "kv_bias"} if group.rank() % repeats else set()
        rows = (num_heads * head_dim, num_kv_heads * head_dim, num_kv_heads * head_dim)
        self.weight, self.kv_weight = self._pair("weight", (sum(rows), in_features), rows)
        self.bias: nn.Parameter | None = None
        self.kv_bias: nn.Parameter | None = None
        if bias:
            self.bias, self.kv_bias = self._pair("bias", (sum(rows),), rows)

    def _pair(self, name: str, shape: tuple[int, ...], rows: tuple[int, int, int]) -> tuple[nn.Parameter, nn.Parameter]:
        own, repeated = shard_repeated(shape, parts=rows[:1], repeated=rows[1:], degree=self.group.size(), index=self.group.rank(),
                                       distinct=self.num_kv_heads)
        self.shards |= {name: own, f"kv_{name}": repeated}
        return nn.Parameter(torch.zeros(own.local_shape)), nn.Parameter(torch.zeros(repeated.local_shape))

    def forward(self, x: Tensor) -> Tensor:
        """The residual stream -> [B, S, o]: this rank's q, then k, then v."""
        bias_o = None if self.bias is None or self.kv_bias is None else torch.cat((self.bias, self._summed(self.kv_bias)))
        weight_oH = torch.cat((self.weight, self._summed(self.kv_weight)))
        return column_linear(x, weight_oH, bias_o, self.group, sequence_parallel=self.sequence_parallel, overlap=self.overlap)

    def _summed(self, parameter: Tensor) -> Tensor:
        summed: Tensor = _SumOfRepeated.apply(parameter, self.num_kv_heads, self.group)
        return summed


def qkv_linear(in_features: int, *, num_heads: int, num_kv_heads: int, head_dim: int, bias: bool, group: dist.ProcessGroup,
               sequence_parallel: bool = False, overlap: bool = False) -> ColumnParallelLinear | RepeatedKVLinear:
    """The fused projection, kv heads cut where there are enough of them, repeated where there are not.

    Args:
        in_features, num_heads, num_kv_heads, head_dim, bias, group, sequence_parallel, overlap: as for `RepeatedKVLinear`.

    Raises:
        ValueError: the heads cannot be laid out on so many ranks.
    """
    check_degree(group.size(), num_heads=num_heads, num_kv_heads=num_kv_heads)
    if num_kv_heads % group.size():
        return RepeatedKVLinear(in_features, num_heads=num_heads, num_kv_heads=num_kv_heads, head_dim=head_dim, bias=bias, group=group,
                                sequence_parallel=sequence_parallel, overlap=overlap)
    q, kv = num_heads * head_dim, num_kv_heads * head_dim
    return ColumnParallelLinear(in_features, q + 2 * kv, bias=bias, group=group, parts=(q, kv, kv), sequence_parallel=sequence_parallel,
                                overlap=overlap)


def fitting_degrees(*, num_heads: int, num_kv_heads: int) -> list[int]:
    """The tensor degrees that give each rank whole query heads, and whole kv heads or one that it shares."""
    return [tp for tp in divisors(num_heads) if num_kv_heads % tp == 0 or tp % num_kv_heads == 0]


def check_degree(tp: int, *, num_heads: int, num_kv_heads: int) -> None:
    """Whether a tensor degree fits the heads.

    Raises:
        ValueError: it does not; names those that do.
    """
    fitting = fitting_degrees(num_heads=num_heads, num_kv_heads=num_kv_heads)
    if num_heads % tp:
        raise ValueError(f"parallel.tp={tp} must divide model.num_heads={num_heads}; try tp in {fitting}")
    if tp not in fitting:
        raise ValueError(f"parallel.tp={tp} must divide model.num_kv_heads={num_kv_heads} or be a multiple of it; try tp in {fitting}")
