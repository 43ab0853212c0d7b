"""Attention over a window whose parts lie on the ranks of the context axis: all of the window, some of the heads.

Source: S. A. Jacobs et al., "DeepSpeed Ulysses: System optimizations for enabling training of extreme long sequence transformer models",
2023. One all-to-all turns sequence shards into head shards, attention runs as on one rank, another one turns its result back.

Shapes: B micro-batch, S window, s this rank's part of it (S / cp), N query heads, G kv heads, n and g those of one rank after the exchange,
D head dim.
"""

from math import lcm
from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor

from .topology import divisors


class _Exchange(torch.autograd.Function):
    """Slice i of dim 0 goes to rank i; slice j of the result came from rank j. It is its own transpose."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, group: dist.ProcessGroup) -> Tensor:
        ctx.group = group
        return _exchanged(x, group)

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor, None]:
        return _exchanged(gradients[0], ctx.group), None


def _exchanged(x: Tensor, group: dist.ProcessGroup) -> Tensor:
    functional, ones = torch.ops._c10d_functional, [1] * group.size()
    return functional.wait_tensor(functional.all_to_all_single(x.contiguous(), ones, ones, group.group_name))


def check_heads(num_heads: int, cp: int) -> None:
    """Every rank of the context axis must get as many query heads.

    Args:
        num_heads: query heads of one rank of the tensor axis.
        cp: ranks of the context axis.

    Raises:
        ValueError: it cannot.
    """
    if num_heads % cp:
        raise ValueError(f"parallel.cp={cp} must divide the {num_heads} query heads of each tensor rank under parallel.context_attention="
                         f"ulysses; try parallel.cp in {divisors(num_heads)}, or parallel.context_attention=ring")


def to_heads(q_BNsD: Tensor, k_BGsD: Tensor, v_BGsD: Tensor, group: dist.ProcessGroup) -> tuple[Tensor, ...]:
    """All heads of this rank's tokens -> some heads of all tokens: q_BnSD, k_BgSD, v_BgSD, in one exchange.

    Query heads n r to n (r + 1) end on rank r, with the kv heads they use; where those do not divide by cp they are repeated before.

    Args:
        q_BNsD, k_BGsD, v_BGsD: of this rank's tokens; G divides N.
        group: the context axis; a group of one changes nothing.

    Raises:
        ValueError: the query heads cannot be divided.
    """
    cp = group.size()
    if cp == 1:
        return q_BNsD, k_BGsD, v_BGsD
    check_heads(q_BNsD.shape[1], cp)
    repeats = lcm(k_BGsD.shape[1], cp) // k_BGsD.shape[1]
    heads = [q_BNsD, *(x.repeat_interleave(repeats, dim=1) if repeats > 1 else x for x in (k_BGsD, v_BGsD))]
    parts = [x.unflatten(1, (cp, -1)) for x in heads]
    joined = torch.cat(parts, dim=2).movedim(1, 0)
    whole = _Exchange.apply(joined, group).movedim(0, 2).flatten(2, 3)
    return whole.split([part.shape[2] for part in parts], dim=1)


def to_sequence(y_BnSD: Tensor, group: dist.ProcessGroup) -> Tensor:
    """Some heads of all tokens -> all heads of this rank's tokens, [B, N, s, D]: the way back from `to_heads`."""
    cp = group.size()
    if cp == 1:
        return y_BnSD
    return _Exchange.apply(y_BnSD.unflatten(2, (cp, -1)).movedim(2, 0), group).movedim(0, 1).flatten(1, 2)
