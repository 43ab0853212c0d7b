"""The feed-forward part of a block. Shapes: B micro-batch, S sequence, H hidden, F ffn hidden, f this rank's part of it."""

from torch import Tensor, nn

from ...conf.schema import ModelConfig
from ...parallel.context import LayerGroups
from ...parallel.linear import ColumnParallelLinear, RowParallelLinear
from .activation import activated, feature_parts


class MLP(nn.Module):
    """down(activation(up(x))); with swiglu `up` holds the gate's rows, then the rows it gates.

    Args:
        config: sizes and activation.
        groups: the axes; the features inside are cut over the tensor axis.
    """

    def __init__(self, config: ModelConfig, *, groups: LayerGroups) -> None:
        super().__init__()
        self.activation = config.activation
        parts = feature_parts(config.ffn_hidden_size, config.activation)
        self.up = ColumnParallelLinear(config.hidden_size, sum(parts), bias=config.bias, group=groups.tensor, parts=parts,
                                       sequence_parallel=groups.sequence_parallel, overlap=groups.overlap)
        self.down = RowParallelLinear(config.ffn_hidden_size, config.hidden_size, bias=config.bias, group=groups.tensor,
                                      sequence_parallel=groups.sequence_parallel)

    def forward(self, x: Tensor) -> Tensor:
        """The residual stream, [B, S, H] or a shard of the sequence -> the same shape."""
        return self.down(activated(self.up(x), self.activation))
