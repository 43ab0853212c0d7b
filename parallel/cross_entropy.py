"""Cross entropy over logits that are cut along the vocabulary.

Shapes: B micro-batch, S sequence, V vocabulary, v this rank's columns (padding included), T = B * S tokens.
"""

from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor

from .collectives import all_reduce
from .partition import shard_padded

_CHUNK = 2**22  # logits widened to fp32 at a time: 16 MiB, so that memory holds the logits and their gradient and little else


class _CrossEntropy(torch.autograd.Function):
    """log(sum(exp(logits))) - logit of the target.

    Keeps the logits themselves and one number a token; the backward pass recomputes the softmax from these.
    """

    @staticmethod
    def forward(ctx: Any, logits_Tv: Tensor, targets_T: Tensor, vocab_size: int, group: dist.ProcessGroup) -> Tensor:
        pieces = shard_padded((vocab_size,), dim=0, degree=group.size(), index=group.rank()).pieces
        start, length = (pieces[0].start, pieces[0].length) if pieces else (vocab_size, 0)
        own_Tv = logits_Tv[:, :length]  # without the padding columns
        nothing_T = torch.full_like(targets_T, -torch.inf, dtype=torch.float32)  # a rank may hold padding only
        largest_T = all_reduce(own_Tv.amax(dim=-1).float() if length else nothing_T, group, "max")
        exponentials_T, target_logits_T = torch.zeros_like(largest_T), torch.zeros_like(largest_T)
        if length:
            for rows in _row_slices(own_Tv):
                exponentials_T[rows] = (own_Tv[rows].float() - largest_T[rows, None]).exp_().sum(dim=-1)
            columns_T, elsewhere_T = _own_columns(targets_T, start, length)
            target_logits_T = own_Tv.gather(1, columns_T[:, None])[:, 0].float().masked_fill(elsewhere_T, 0.0)
        exponentials_T, target_logits_T = all_reduce(torch.stack((exponentials_T, target_logits_T)), group).unbind(0)
        normalizer_T = largest_T + exponentials_T.log()
        ctx.save_for_backward(logits_Tv, targets_T, normalizer_T)
        ctx.start, ctx.length = start, length
        return normalizer_T - target_logits_T

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor | None, ...]:
        logits_Tv, targets_T, normalizer_T = ctx.saved_tensors
        gradient_T = gradients[0]
        result_Tv = torch.zeros_like(logits_Tv) if ctx.length < logits_Tv.shape[1] else torch.empty_like(logits_Tv)
        if not ctx.length:
            return result_Tv, None, None, None
        columns_T, elsewhere_T = _own_columns(targets_T, ctx.start, ctx.length)
        for rows in _row_slices(logits_Tv):
            part = (logits_Tv[rows, :ctx.length].float() - normalizer_T[rows, None]).exp_()
            part.scatter_add_(1, columns_T[rows, None], elsewhere_T[rows, None].float() - 1.0)
            result_Tv[rows, :ctx.length] = part.mul_(gradient_T[rows, None])
        return result_Tv, None, None, None


def _own_columns(targets_T: Tensor, start: int, length: int) -> tuple[Tensor, Tensor]:
    """Local column of each target (0 where it is another rank's), and whether it is another rank's."""
    columns_T = targets_T - start
    elsewhere_T = (columns_T < 0) | (columns_T >= length)
    return columns_T.masked_fill(elsewhere_T, 0), elsewhere_T


def _row_slices(logits_Tv: Tensor) -> list[slice]:
    rows = max(1, _CHUNK // max(1, logits_Tv.shape[1]))
    return [slice(i, i + rows) for i in range(0, logits_Tv.shape[0], rows)]


def vocab_parallel_cross_entropy(logits_BSv: Tensor, targets_BS: Tensor, *, vocab_size: int, group: dist.ProcessGroup) -> Tensor:
    """Cross entropy of each token, in fp32 (Megatron-LM, Shoeybi et al. 2019, section 3).

    Args:
        logits_BSv: this rank's columns, [B, S, v], any float dtype; columns past the vocabulary are ignored.
        targets_BS: int64 ids in [0, V), alike on every rank, checked by whoever read them.
        vocab_size: V.
        group: the tensor axis.

    Returns:
        loss_BS in nats, alike on every rank. Its gradient is that of one copy: every rank goes on alike.
    """
    columns = -(-vocab_size // group.size())
    if logits_BSv.shape != (*targets_BS.shape, columns):
        raise ValueError(
            f"logits of shape {tuple(logits_BSv.shape)} do not fit targets {tuple(targets_BS.shape)} and {columns} columns a rank")
    loss_T = _CrossEntropy.apply(logits_BSv.reshape(-1, columns), targets_BS.reshape(-1), vocab_size, group)
    return loss_T.view(targets_BS.shape)
