"""Attention over a window whose parts lie on the ranks of the context axis, without any rank ever holding the whole of it.

Source: H. Liu, M. Zaharia, P. Abbeel, "Ring attention with blockwise transformers for near-infinite context", 2023, on the zig-zag cut of
`sequence_cut`. Keys and values travel round the ring while each rank attends to those it has just got; results of blocks are joined by
their log-sum-exp, in fp32. The gradients of keys and values travel behind them and end at home.

A rank sends (cp - 1) times its keys and values in the forward pass, and in the backward pass the same again and (cp - 1) times their
gradients in fp32.

Shapes: B micro-batch, S queries here, K keys of one block, N query heads, G kv heads, R = N / G, D head dim.
"""

from collections.abc import Iterator
from typing import Any, NamedTuple

import torch
import torch.distributed as dist
from torch import Tensor
from torch.autograd.function import once_differentiable

from .sequence_cut import Block, chunks, ring_block, tiles

_HOST_SCORES, _DEVICE_SCORES = 2**19, 2**27  # scores held at a time: a CPU's stay in the cache, a GPU's launches stay few


def ring_attention(q_BNSD: Tensor, k_BGSD: Tensor, v_BGSD: Tensor, *, group: dist.ProcessGroup, documents_BW: Tensor | None) -> Tensor:
    """Causal attention of this rank's queries to the keys of the whole window: [B, N, S, D], in the dtype of `q`.

    Args:
        q_BNSD, k_BGSD, v_BGSD: of this rank's tokens, which are those of `sequence_cut.places(kind="ring")`; G divides N.
        group: the context axis.
        documents_BW: segment numbers of the whole window, in its order: a query sees only keys of its own; None: all before it.
    """
    return _Ring.apply(q_BNSD, k_BGSD, v_BGSD, documents_BW, group)


class _Ring(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, q: Tensor, k: Tensor, v: Tensor, documents: Tensor | None, group: dist.ProcessGroup) -> Tensor:
        out = torch.zeros_like(q, dtype=_precise(q))
        lse = torch.full(q.shape[:3], -torch.inf, dtype=out.dtype, device=q.device)
        with torch.autocast(q.device.type, enabled=False):
            for keys_and_values, blocks in _visits(torch.stack((k, v)), documents, group, _scores_per_row(q)):
                for rows, keys, seen in blocks:
                    k_here, v_here = keys_and_values[:, :, :, keys]
                    join(out[:, :, rows], lse[:, :, rows], *block_attention(q[:, :, rows], k_here, v_here, seen))
        result = out.to(q.dtype)
        ctx.group = group
        ctx.save_for_backward(q, k, v, documents, result, lse)
        return result

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, d_out: Tensor) -> tuple[Tensor, Tensor, Tensor, None, None]:
        q, k, v, documents, result, lse = ctx.saved_tensors
        d_q, home, following = torch.zeros_like(q, dtype=lse.dtype), None, None
        with torch.autocast(q.device.type, enabled=False):
            d_out = d_out.to(lse.dtype)
            slope_BNS = (d_out * result).sum(dim=-1)
            for keys_and_values, blocks in _visits(torch.stack((k, v)), documents, ctx.group, _scores_per_row(q)):
                d_kv = torch.zeros_like(keys_and_values, dtype=lse.dtype)
                for rows, keys, seen in blocks:
                    k_here, v_here = keys_and_values[:, :, :, keys]
                    of_q, of_k, of_v = block_gradients(q[:, :, rows], k_here, v_here, seen, d_out[:, :, rows], lse[:, :, rows],
                                                       slope_BNS[:, :, rows])
                    d_q[:, :, rows] += of_q
                    d_kv[0, :, :, keys] += of_k
                    d_kv[1, :, :, keys] += of_v
                if home is None:  # our own keys and values: their gradient is at home already
                    home = d_kv
                    continue
                if following is not None:
                    d_kv += following.arrived()
                following = _Passed(d_kv, ctx.group)
            assert home is not None
            if following is not None:
                home += following.arrived()
        return d_q.to(q.dtype), home[0].to(k.dtype), home[1].to(v.dtype), None, None


class _Tile(NamedTuple):
    rows: slice
    keys: slice
    seen: Tensor | None  # bool [B or 1, rows, keys]; None: all


def _scores_per_row(q_BNSD: Tensor) -> int:
    return q_BNSD.shape[0] * q_BNSD.shape[1] * q_BNSD.shape[2]  # a rank has as many keys as queries


def _visits(own: Tensor, documents_BW: Tensor | None, group: dist.ProcessGroup,
            scores_per_row: int) -> Iterator[tuple[Tensor, Iterator[_Tile]]]:
    """Each rank's keys and values in the order in which they come by, our own first, and what our queries see of them.

    They are passed on before anyone computes with them, so that the next ones travel meanwhile.
    """
    cp, rank, length = group.size(), group.rank(), own.shape[3]
    rows = max(1, (_HOST_SCORES if own.device.type == "cpu" else _DEVICE_SCORES) // scores_per_row)
    here = own
    for step in range(cp):
        passed = _Passed(here, group) if step < cp - 1 else None
        source = (rank - step) % cp
        documents_BS = None if documents_BW is None else (_held(documents_BW, rank, cp), _held(documents_BW, source, cp))
        yield here, (_tile(piece, documents_BS, own.device) for piece in tiles(ring_block(rank, source, length), rows))
        if passed is not None:
            here = passed.arrived()


def _tile(piece: Block, documents_BS: tuple[Tensor, Tensor] | None, device: torch.device) -> _Tile:
    """The mask of one piece, from places in local order and from the documents of the queries and of the keys."""
    seen = None
    if piece.causal:
        rows, keys = (torch.arange(part.start, part.stop, device=device) for part in (piece.queries, piece.keys))
        seen = (rows[:, None] >= keys)[None]
    if documents_BS is not None:
        same = documents_BS[0][:, piece.queries, None] == documents_BS[1][:, None, piece.keys]
        seen = same if seen is None else seen & same
    return _Tile(piece.queries, piece.keys, seen)


def _held(documents_BW: Tensor, rank: int, cp: int) -> Tensor:
    parts = chunks(documents_BW.shape[1], cp=cp, rank=rank, kind="ring")
    return torch.cat([documents_BW[:, part.start:part.stop] for part in parts], dim=1)


class _Passed:
    """A tensor on its way to the next rank of the ring, while that of the rank before comes in."""

    def __init__(self, tensor: Tensor, group: dist.ProcessGroup) -> None:
        self._sent = tensor.contiguous()  # held until it has left
        self._incoming = torch.empty_like(self._sent)
        rank, cp = group.rank(), group.size()
        self._works = dist.batch_isend_irecv([
            dist.P2POp(dist.isend, self._sent, group=group, group_peer=(rank + 1) % cp),
            dist.P2POp(dist.irecv, self._incoming, group=group, group_peer=(rank - 1) % cp)])

    def arrived(self) -> Tensor:
        """What the rank before sent."""
        for work in self._works:
            work.wait()
        return self._incoming


def block_attention(q_BNSD: Tensor, k_BGKD: Tensor, v_BGKD: Tensor, seen_BSK: Tensor | None) -> tuple[Tensor, Tensor]:
    """Attention to these keys alone, and the logarithm of the sum of its exponentials, both fp32 or better.

    Args:
        q_BNSD, k_BGKD, v_BGKD: G divides N.
        seen_BSK: bool, broadcastable over B; None: every query sees every key.

    Returns:
        out_BNSD, and lse_BNS; zeros and minus infinity for a query that sees no key.
    """
    scores_BGRSK = _scores(q_BNSD, k_BGKD, seen_BSK)
    lse_BGRS = scores_BGRSK.logsumexp(dim=-1)
    shift = lse_BGRS.masked_fill(lse_BGRS == -torch.inf, 0.0)  # exp(-inf - 0) is 0, and no NaN
    weights = scores_BGRSK.sub_(shift[..., None]).exp_()
    out = weights.flatten(2, 3) @ v_BGKD.to(weights.dtype)
    return out.reshape(q_BNSD.shape), lse_BGRS.flatten(1, 2)


def block_gradients(q_BNSD: Tensor, k_BGKD: Tensor, v_BGKD: Tensor, seen_BSK: Tensor | None, d_out_BNSD: Tensor, lse_BNS: Tensor,
                    slope_BNS: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """What these keys add to the gradients of q, k and v (Dao et al. 2022, "FlashAttention", section B.2); fp32 or better.

    Args:
        q_BNSD, k_BGKD, v_BGKD, seen_BSK: as for `block_attention`.
        d_out_BNSD: gradient of the joined result.
        lse_BNS: of all keys of the window.
        slope_BNS: sum over D of d_out times the joined result.
    """
    B, N, S, D = q_BNSD.shape
    G = k_BGKD.shape[1]
    weights = _scores(q_BNSD, k_BGKD, seen_BSK).sub_(lse_BNS.view(B, G, -1, S, 1)).exp_().flatten(2, 3)
    d_out = _folded(d_out_BNSD, G).to(weights.dtype)
    d_scores = (d_out @ v_BGKD.to(weights.dtype).mT).sub_(_folded(slope_BNS[..., None], G)).mul_(weights).mul_(D**-0.5)
    d_q = (d_scores @ k_BGKD.to(weights.dtype)).view(B, N, S, D)
    return d_q, d_scores.mT @ _folded(q_BNSD, G).to(weights.dtype), weights.mT @ d_out


def join(out_BNSD: Tensor, lse_BNS: Tensor, more_BNSD: Tensor, more_lse_BNS: Tensor) -> None:
    """Adds the attention to further keys, in place: softmax over the union of both sets of keys.

    Args:
        out_BNSD, lse_BNS: so far; zeros and minus infinity at the start.
        more_BNSD, more_lse_BNS: of the further keys; a query has seen a key in one of the two.
    """
    joined = torch.logaddexp(lse_BNS, more_lse_BNS)
    out_BNSD.mul_((lse_BNS - joined).exp_()[..., None]).add_(more_BNSD * (more_lse_BNS - joined).exp_()[..., None])
    lse_BNS.copy_(joined)


def _scores(q_BNSD: Tensor, k_BGKD: Tensor, seen_BSK: Tensor | None) -> Tensor:
    """[B, G, R, S, K], minus infinity where masked."""
    B, N, S, D = q_BNSD.shape
    G, precise = k_BGKD.shape[1], _precise(q_BNSD)
    scores = ((_folded(q_BNSD, G).to(precise) * D**-0.5) @ k_BGKD.to(precise).mT).view(B, G, N // G, S, -1)
    return scores if seen_BSK is None else scores.masked_fill_(~seen_BSK[:, None, None], -torch.inf)


def _folded(x_BNSD: Tensor, G: int) -> Tensor:
    """[B, G, R * S, D]: the query heads that share a kv head in one product with it, so that it is never repeated."""
    B, _, _, D = x_BNSD.shape
    return x_BNSD.reshape(B, G, -1, D)


def _precise(x: Tensor) -> torch.dtype:
    return torch.promote_types(x.dtype, torch.float32)
