"""The feed-forward part of a block. Shapes: B micro-batch, S sequence, H hidden, F ffn hidden, f this rank's part of it."""

import torch.nn.functional as F
from torch import Tensor, nn

from ...conf.schema import Activation, ModelConfig
from ...parallel.context import LayerGroups
from ...parallel.linear import ColumnParallelLinear, RowParallelLinear


class MLP(nn.Module):
    """down(activation(up(x))); with swiglu (Shazeer 2020) `up` holds the gate's rows, then the rows it gates.

    Args:
        config: sizes and activation.
        groups: the axes; the features inside are cut over the tensor axis.
    """

    def __init__(self, config: ModelConfig, *, groups: LayerGroups) -> None:
        super().__init__()
        self.activation = config.activation
        parts = (config.ffn_hidden_size,) * (2 if config.activation == Activation.swiglu else 1)
        self.up = ColumnParallelLinear(config.hidden_size, sum(parts), bias=config.bias, group=groups.tensor, parts=parts,
                                       sequence_parallel=groups.sequence_parallel, overlap=groups.overlap)
        self.down = RowParallelLinear(config.ffn_hidden_size, config.hidden_size, bias=config.bias, group=groups.tensor,
                                      sequence_parallel=groups.sequence_parallel)

    def forward(self, x: Tensor) -> Tensor:
        """The residual stream, [B, S, H] or a shard of the sequence -> the same shape."""
        x = self.up(x)
        if self.activation == Activation.swiglu:
            gate_BSf, value_BSf = x.split(self.up.local_parts, dim=-1)
            return self.down(F.silu(gate_BSf) * value_BSf)
        return self.down(F.gelu(x, approximate="tanh" if self.activation == Activation.gelu_tanh else "none"))
