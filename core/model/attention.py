"""Self-attention, heads cut along the tensor axis.

Shapes: B micro-batch, S new tokens (queries), K keys, H hidden, N query heads here, G kv heads here, D head dim.
"""

from torch import Tensor, nn

from ...conf.schema import ModelConfig, Positions
from ...parallel.context import LayerGroups
from ...parallel.linear import ColumnParallelLinear, RowParallelLinear
from ...parallel.random import stream_key
from ...parallel.topology import divisors
from .attend import Attend
from .input import Shared
from .rope import rotate


class Attention(nn.Module):
    """Causal attention, with fewer kv heads than query heads where the config says so (grouped-query, Ainslie et al. 2023).

    Args:
        config: sizes.
        layer: number of the block.
        groups: the axes; each rank of the tensor axis holds whole heads.
        seed: of attention dropout.

    Raises:
        ValueError: the heads do not fit hidden_size, each other, or the group.
    """

    def __init__(self, config: ModelConfig, *, layer: int, groups: LayerGroups, seed: int) -> None:
        super().__init__()
        group = groups.tensor
        _check_heads(config, group.size())
        self.layer, self.head_dim = layer, config.hidden_size // config.num_heads
        self.num_heads, self.num_kv_heads = config.num_heads // group.size(), config.num_kv_heads // group.size()
        self.rope = config.positions == Positions.rope
        self.attend = Attend(groups, group.rank() * self.num_heads, config.attention_dropout,
                             stream_key(seed, "dropout", layer, "attention_weights"))
        q, kv = config.num_heads * self.head_dim, config.num_kv_heads * self.head_dim
        self.qkv = ColumnParallelLinear(config.hidden_size, q + 2 * kv, bias=config.bias, group=group, parts=(q, kv, kv))
        self.output = RowParallelLinear(q, config.hidden_size, bias=config.bias, group=group)

    def forward(self, x_BSH: Tensor, shared: Shared) -> Tensor:
        """[B, S, H] -> [B, S, H]."""
        B, S, _ = x_BSH.shape
        parts = self.qkv(x_BSH).split(self.qkv.local_parts, dim=-1)
        q_BNSD, k_BGSD, v_BGSD = (part.view(B, S, -1, self.head_dim).transpose(1, 2) for part in parts)
        if shared.rotation_BSD is not None:
            q_BNSD, k_BGSD = rotate(q_BNSD, shared.rotation_BSD), rotate(k_BGSD, shared.rotation_BSD)
        if shared.cache is not None:
            k_BGSD, v_BGSD = shared.cache.append(self.layer, k_BGSD, v_BGSD)
        y_BNSD = self.attend(q_BNSD, k_BGSD, v_BGSD, shared, training=self.training)
        return self.output(y_BNSD.transpose(1, 2).reshape(B, S, self.num_heads * self.head_dim))


def _check_heads(config: ModelConfig, tp: int) -> None:
    hidden, heads, kv_heads = config.hidden_size, config.num_heads, config.num_kv_heads
    if hidden % heads:
        raise ValueError(f"model.num_heads={heads} must divide model.hidden_size={hidden}; try one of {divisors(hidden)}")
    if heads % kv_heads:
        raise ValueError(f"model.num_kv_heads={kv_heads} must divide model.num_heads={heads}; try one of {divisors(heads)}")
    if config.positions == Positions.rope and (hidden // heads) % 2:
        raise ValueError(f"model.positions=rope needs an even head size, not {hidden} / {heads}; choose other model.num_heads")
    for key, value in (("num_heads", heads), ("num_kv_heads", kv_heads)):
        if value % tp:
            raise ValueError(f"parallel.tp={tp} must divide model.{key}={value}; try tp in {divisors(value)}")
