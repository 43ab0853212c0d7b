"""Self-attention, heads cut along the tensor axis.

Shapes: B micro-batch, S new tokens (queries), K keys, H hidden, N query heads here, G kv heads here, D head dim.
"""

import torch
import torch.distributed as dist
import torch.nn.functional as F
from torch import Tensor, nn

from ...conf.schema import ModelConfig, Positions
from ...parallel.linear import ColumnParallelLinear, RowParallelLinear
from ...parallel.random import attention_dropout, stream_key
from ...parallel.topology import divisors
from .input import Shared
from .rope import rotate


class Attention(nn.Module):
    """Causal attention, with fewer kv heads than query heads where the config says so (grouped-query, Ainslie et al. 2023).

    Args:
        config: sizes.
        layer: number of the block.
        group: the tensor axis; each rank holds whole heads.
        seed: of attention dropout.

    Raises:
        ValueError: the heads do not fit hidden_size, each other, or the group.
    """

    def __init__(self, config: ModelConfig, *, layer: int, group: dist.ProcessGroup, seed: int) -> None:
        super().__init__()
        _check_heads(config, group.size())
        self.layer, self.head_dim = layer, config.hidden_size // config.num_heads
        self.num_heads, self.num_kv_heads = config.num_heads // group.size(), config.num_kv_heads // group.size()
        self.first_head = group.rank() * self.num_heads
        self.rope = config.positions == Positions.rope
        self.dropout, self.site_key = config.attention_dropout, stream_key(seed, "dropout", layer, "attention_weights")
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
        attend = self._explicit if self.training and self.dropout > 0 else self._fused
        y_BNSD = attend(q_BNSD, k_BGSD, v_BGSD, shared)
        return self.output(y_BNSD.transpose(1, 2).reshape(B, S, self.num_heads * self.head_dim))

    def _fused(self, q_BNSD: Tensor, k_BGKD: Tensor, v_BGKD: Tensor, shared: Shared) -> Tensor:
        if shared.mask_BSK is None:
            # one new token sees everything before it; otherwise there are as many keys as queries
            causal = q_BNSD.shape[2] == k_BGKD.shape[2]
            return F.scaled_dot_product_attention(q_BNSD, k_BGKD, v_BGKD, is_causal=causal, enable_gqa=self.num_kv_heads != self.num_heads)
        # with a mask the memory-efficient kernel is the one left on a GPU, and it wants as many kv heads as query heads
        k_BNKD, v_BNKD = self._expanded(k_BGKD), self._expanded(v_BGKD)
        return F.scaled_dot_product_attention(q_BNSD, k_BNKD, v_BNKD, attn_mask=shared.mask_BSK[:, None])

    def _explicit(self, q_BNSD: Tensor, k_BGKD: Tensor, v_BGKD: Tensor, shared: Shared) -> Tensor:
        """Attention with its weights in the open, for dropout on them; softmax in fp32."""
        S, K = q_BNSD.shape[2], k_BGKD.shape[2]
        scores_BNSK = (q_BNSD @ self._expanded(k_BGKD).transpose(2, 3)).float() * self.head_dim**-0.5
        causal_SK = torch.ones(S, K, dtype=torch.bool, device=q_BNSD.device).tril(K - S)
        seen = causal_SK if shared.mask_BSK is None else shared.mask_BSK[:, None]
        weights_BNSK = scores_BNSK.masked_fill(~seen, -torch.inf).softmax(dim=-1)
        heads_N = torch.arange(self.first_head, self.first_head + self.num_heads, device=q_BNSD.device)
        weights_BNSK = attention_dropout(weights_BNSK, self.dropout, site_key=self.site_key, step=shared.step,
                                         samples_B=shared.samples_B, heads_N=heads_N, positions_S=shared.positions_S)
        return weights_BNSK.to(v_BGKD.dtype) @ self._expanded(v_BGKD)

    def _expanded(self, x_BGKD: Tensor) -> Tensor:
        """Each kv head once for every query head that uses it."""
        groups = self.num_heads // self.num_kv_heads
        return x_BGKD if groups == 1 else x_BGKD.repeat_interleave(groups, dim=1)


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
