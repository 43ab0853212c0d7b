"""Self-attention, heads cut along the tensor axis.

Shapes: B micro-batch, S new tokens (queries), K keys, H hidden, N query heads here, G kv heads here, D head dim,
o columns of this rank's q, k and v.
"""

from torch import Tensor, nn

from ...conf.schema import ModelConfig, Positions
from ...parallel.context import LayerGroups
from ...parallel.heads import check_degree, qkv_linear
from ...parallel.linear import RowParallelLinear
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
        groups: the axes; each rank of the tensor axis holds whole heads, and shares a kv head where there are fewer than ranks.
        seed: of attention dropout.

    Raises:
        ValueError: the heads do not fit hidden_size, each other, or the group.
    """

    def __init__(self, config: ModelConfig, *, layer: int, groups: LayerGroups, seed: int) -> None:
        super().__init__()
        group = groups.tensor
        _check_heads(config, group.size())
        self.layer, self.head_dim = layer, config.hidden_size // config.num_heads
        self.num_heads = config.num_heads // group.size()
        self.rope = config.positions == Positions.rope
        self.attend = Attend(groups, self.num_heads, config.attention_dropout, stream_key(seed, "dropout", layer, "attention_weights"))
        self.qkv = qkv_linear(config.hidden_size, num_heads=config.num_heads, num_kv_heads=config.num_kv_heads, head_dim=self.head_dim,
                              bias=config.bias, group=group, sequence_parallel=groups.sequence_parallel, overlap=groups.overlap)
        self.output = RowParallelLinear(config.num_heads * self.head_dim, config.hidden_size, bias=config.bias, group=group,
                                        sequence_parallel=groups.sequence_parallel)

    def forward(self, x: Tensor, shared: Shared) -> Tensor:
        """The residual stream, [B, S, H] or a shard of the sequence -> the same shape."""
        qkv_BSo = self.qkv(x)  # the whole sequence
        B, S, _ = qkv_BSo.shape
        parts = qkv_BSo.split(self.qkv.local_parts, dim=-1)
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
    check_degree(tp, num_heads=heads, num_kv_heads=kv_heads)
