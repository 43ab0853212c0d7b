"""Which choices an expert of limited capacity takes. Shapes: B samples, S tokens of the whole sequence, k choices, s tokens here."""

from math import ceil

import torch
import torch.distributed as dist
from torch import Tensor

from ...parallel.collectives import all_gather


def expert_capacity(factor: float, *, tokens: int, choices: int, num_experts: int) -> int:
    """Most choices of one sequence that one expert takes: ceil(factor * tokens * choices / experts)."""
    return ceil(factor * tokens * choices / num_experts)


def kept_choices(experts_Bsk: Tensor, places_s: Tensor, *, capacity: int, num_experts: int, context: dist.ProcessGroup) -> Tensor:
    """Bool [B, s, k]: of each sample every expert keeps its first `capacity` choices.

    The order is GShard's (Lepikhin et al. 2020, algorithm 1): every token's first choice before any second one, and among these by place
    in the window, also where the window is cut over ranks. So it depends on the sample alone, not on micro-batch or layout.

    Args:
        experts_Bsk: int64 experts of the tokens here, in order of choice.
        places_s: int64 places of these tokens in the window.
        capacity: from `expert_capacity`.
        num_experts: E.
        context: the context axis.
    """
    B, s, k = experts_Bsk.shape
    order_S = all_gather(places_s, context, 0).argsort()
    whole_BSk = all_gather(experts_Bsk, context, 1)[:, order_S]
    queue_BA = whole_BSk.transpose(1, 2).flatten(1)  # all first choices, then all second ones
    sorted_BA, by_expert_BA = queue_BA.sort(dim=1, stable=True)
    first_BE = torch.searchsorted(sorted_BA, torch.arange(num_experts, device=queue_BA.device).expand(B, -1).contiguous())
    rank_BA = torch.arange(queue_BA.shape[1], device=queue_BA.device) - first_BE.gather(1, sorted_BA)
    kept_BA = torch.zeros_like(queue_BA, dtype=torch.bool).scatter_(1, by_expert_BA, rank_BA < capacity)
    kept_BSk = kept_BA.view(B, k, -1).transpose(1, 2)
    return kept_BSk[:, order_S.argsort()[context.rank() * s:(context.rank() + 1) * s]]
