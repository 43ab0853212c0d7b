"""The auxiliary losses of a router, and their way into the gradient.

Shapes: B samples, s tokens here, S tokens of the whole sequence (s * cp), E experts, k choices.
"""

from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor

from ...parallel.collectives import all_reduce


class _AttachLoss(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, x: Tensor, loss: Tensor, scale: float) -> Tensor:
        ctx.scale, ctx.like = scale, (loss.shape, loss.dtype, loss.device)
        return x.view_as(x)

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor, Tensor, None]:
        shape, dtype, device = ctx.like
        return gradients[0], torch.full(shape, ctx.scale, dtype=dtype, device=device), None


def attach_loss(x: Tensor, loss: Tensor, scale: float) -> Tensor:
    """`x` itself; when its gradient comes back, `loss` gets the gradient `scale`, as if scale * loss were part of the objective.

    So a loss that arises inside of a block needs no way out through the later ones, and works on every pipeline stage.
    """
    return _AttachLoss.apply(x, loss, scale)


def choices_of_experts(experts_Bsk: Tensor, num_experts: int) -> Tensor:
    """[B, E] fp32: how many choices of the tokens here fell on each expert (exact below 2^24)."""
    flat_BA = experts_Bsk.flatten(1)
    counts_BE = torch.zeros(flat_BA.shape[0], num_experts, device=flat_BA.device)
    return counts_BE.scatter_add_(1, flat_BA, torch.ones_like(flat_BA, dtype=counts_BE.dtype))


def balance_loss(scores_BsE: Tensor, counts_BE: Tensor, *, choices: int, context: dist.ProcessGroup) -> Tensor:
    """[B] fp32: sum over experts of f_e * P_e of each sequence: 1 where the load is even.

    f_e = E / (k S) * (choices of e) has no gradient, P_e is the mean score (Switch Transformer, Fedus et al. 2021, equation 4, and GShard;
    for each sequence as in DeepSeek-V3, 2024, section 2.1.2, where sigmoid scores are normalised first). On the context axis each rank's
    value covers its own tokens' part of P_e; the parts add up to the sequence's.

    Args:
        scores_BsE: fp32 scores, that add up to 1 over the experts.
        counts_BE: choices of the tokens here that fell on each expert.
        choices: k.
        context: the context axis.
    """
    s, E = scores_BsE.shape[1:]
    S = s * context.size()
    load_BE = all_reduce(counts_BE, context) * (E / (choices * S))
    return (load_BE * scores_BsE.sum(dim=1) / S).sum(dim=1)


def z_loss(logits_BsE: Tensor, *, context: dist.ProcessGroup) -> Tensor:
    """[B] fp32: mean over a sequence's tokens of logsumexp(logits)^2 (ST-MoE, Zoph et al. 2022, equation 5); here its own tokens' part."""
    return logits_BsE.logsumexp(dim=-1).square().sum(dim=1) / (logits_BsE.shape[1] * context.size())
