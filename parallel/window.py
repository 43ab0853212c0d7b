"""Whole windows from the parts that the ranks of the context axis hold."""

import torch
import torch.distributed as dist
from torch import Tensor

from .collectives import gather_sequence


def gather_window(x_Bs: Tensor, group: dist.ProcessGroup, *, kind: str) -> Tensor:
    """[B, s, ...] of every rank -> [B, S, ...] in the window's order; backward sums over the ranks and takes this rank's part.

    Args:
        x_Bs: this rank's tokens along dim 1.
        group: the context axis.
        kind: how the window was cut: ring or ulysses.
    """
    gathered = gather_sequence(x_Bs, group)
    if group.size() == 1 or kind == "ulysses":
        return gathered
    first, second = gathered.unflatten(1, (group.size(), 2, -1)).unbind(2)  # rank r holds chunk r and chunk 2 cp - 1 - r
    return torch.cat((first, second.flip(1)), dim=1).flatten(1, 2)
