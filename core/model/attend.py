"""From queries, keys and values to their attention: which kernel, which mask, which way over the context axis.

Shapes: B micro-batch, S queries, K keys, N query heads here, G kv heads here, n and g those of one rank of the context axis, D head dim.
"""

from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor

from ...parallel.context import LayerGroups
from ...parallel.random import attention_dropout
from ...parallel.ring_attention import ring_attention
from ...parallel.ulysses import check_heads, to_heads, to_sequence
from ...parallel.window import gather_window
from .input import Shared


@dataclass(frozen=True)
class Attend:
    """Scaled dot-product attention over the heads of one rank, under every layout of the context axis.

    Args:
        groups: the axes.
        num_heads: query heads of one rank of the tensor axis.
        dropout: probability of zero for each attention weight; above 0 selects an explicit attention while training.
        site_key: `stream_key` of that dropout.

    Raises:
        ValueError: the heads cannot be divided over the context axis, which only Ulysses does.
    """

    groups: LayerGroups
    num_heads: int
    dropout: float
    site_key: int

    def __post_init__(self) -> None:
        if self.groups.context_attention == "ulysses":
            check_heads(self.num_heads, self.groups.context.size())

    @property
    def first_head(self) -> int:
        """Global number of the tensor rank's first query head, for dropout."""
        return self.groups.tensor.rank() * self.num_heads

    def __call__(self, q_BNSD: Tensor, k_BGKD: Tensor, v_BGKD: Tensor, shared: Shared, *, training: bool) -> Tensor:
        """[B, N, S, D]: what each query sees."""
        dropped = training and self.dropout > 0
        if self.groups.rings:
            return (self._gathered if dropped else self._ring)(q_BNSD, k_BGKD, v_BGKD, shared)
        context = self.groups.context
        q_BnSD, k_BgKD, v_BgKD = to_heads(q_BNSD, k_BGKD, v_BGKD, context)
        if dropped:
            first_head = self.first_head + context.rank() * q_BnSD.shape[1]
            positions_S = torch.arange(q_BnSD.shape[2], device=q_BnSD.device)
            y_BnSD = self._explicit(q_BnSD, k_BgKD, v_BgKD, shared, first_head=first_head, positions_S=positions_S)
        else:
            y_BnSD = _fused(q_BnSD, k_BgKD, v_BgKD, shared.mask_BSK)
        return to_sequence(y_BnSD, context)

    def _ring(self, q_BNSD: Tensor, k_BGSD: Tensor, v_BGSD: Tensor, shared: Shared) -> Tensor:
        return ring_attention(q_BNSD, k_BGSD, v_BGSD, group=self.groups.context, documents_BW=shared.documents_BK)

    def _gathered(self, q_BNSD: Tensor, k_BGSD: Tensor, v_BGSD: Tensor, shared: Shared) -> Tensor:
        """Dropout on attention weights needs them in the open: keys and values of the whole window come to each rank's queries."""
        G = k_BGSD.shape[1]
        k_BGKD, v_BGKD = (gather_window(x.flatten(0, 1), self.groups.context, kind="ring").unflatten(0, (-1, G)) for x in (k_BGSD, v_BGSD))
        return self._explicit(q_BNSD, k_BGKD, v_BGKD, shared, first_head=self.first_head, positions_S=shared.positions_S)

    def _explicit(self, q_BNSD: Tensor, k_BGKD: Tensor, v_BGKD: Tensor, shared: Shared, *, first_head: int, positions_S: Tensor) -> Tensor:
        """Attention with its weights in the open, for dropout on them; softmax in fp32."""
        N, S, K = q_BNSD.shape[1], q_BNSD.shape[2], k_BGKD.shape[2]
        scores_BNSK = (q_BNSD @ expanded(k_BGKD, N).transpose(2, 3)).float() * q_BNSD.shape[-1]**-0.5
        causal_SK = torch.ones(S, K, dtype=torch.bool, device=q_BNSD.device).tril(K - S)
        seen = causal_SK if shared.mask_BSK is None else shared.mask_BSK[:, None]
        weights_BNSK = scores_BNSK.masked_fill(~seen, -torch.inf).softmax(dim=-1)
        heads_N = torch.arange(first_head, first_head + N, device=q_BNSD.device)
        weights_BNSK = attention_dropout(weights_BNSK, self.dropout, site_key=self.site_key, step=shared.step,
                                         samples_B=shared.samples_B, heads_N=heads_N, positions_S=positions_S)
        return weights_BNSK.to(v_BGKD.dtype) @ expanded(v_BGKD, N)


def _fused(q_BNSD: Tensor, k_BGKD: Tensor, v_BGKD: Tensor, mask_BSK: Tensor | None) -> Tensor:
    if mask_BSK is None:
        # one new token sees everything before it; otherwise there are as many keys as queries
        causal = q_BNSD.shape[2] == k_BGKD.shape[2]
        return F.scaled_dot_product_attention(q_BNSD, k_BGKD, v_BGKD, is_causal=causal, enable_gqa=q_BNSD.shape[1] != k_BGKD.shape[1])
    # with a mask the memory-efficient kernel is the one left on a GPU, and it wants as many kv heads as query heads
    k_BNKD, v_BNKD = expanded(k_BGKD, q_BNSD.shape[1]), expanded(v_BGKD, q_BNSD.shape[1])
    return F.scaled_dot_product_attention(q_BNSD, k_BNKD, v_BNKD, attn_mask=mask_BSK[:, None])


def expanded(x_BGKD: Tensor, num_heads: int) -> Tensor:
    """Each kv head once for every query head that uses it: [B, num_heads, K, D]."""
    repeats = num_heads // x_BGKD.shape[1]
    return x_BGKD if repeats == 1 else x_BGKD.repeat_interleave(repeats, dim=1)
