"""Choosing the next token from logits. Shapes: R rows (prompts), V vocabulary."""

from dataclasses import dataclass

import torch
from torch import Tensor

from ..parallel.random import hashed, stream_key


@dataclass(frozen=True, kw_only=True)
class Sampling:
    """How to choose.

    Args:
        temperature: divides the logits; 0: always the most likely token.
        top_k: keep the k most likely tokens; 0: all.
        top_p: keep the fewest tokens whose probabilities reach p (Holtzman et al. 2020, "nucleus sampling"); 1: all.
        seed: of the draws.

    Raises:
        ValueError: a value out of range.
    """

    temperature: float = 1.0
    top_k: int = 0
    top_p: float = 1.0
    seed: int = 0

    def __post_init__(self) -> None:
        if not 0.0 <= self.temperature < float("inf"):
            raise ValueError(f"temperature={self.temperature} must be at least 0 (0: greedy)")
        if self.top_k < 0:
            raise ValueError(f"top_k={self.top_k} must be at least 0 (0: all tokens)")
        if not 0.0 < self.top_p <= 1.0:
            raise ValueError(f"top_p={self.top_p} must be in (0, 1] (1: all tokens)")


def uniforms(seed: int, *, rows: int, draw: int) -> Tensor:
    """Draw number `draw` of each row, [R] float64 in (0, 1): a row's draws do not depend on the rows beside it."""
    keys = torch.tensor([stream_key(seed, "sampling", row) for row in range(rows)])
    bits = hashed(keys, torch.tensor(draw))
    return ((bits >> 12).bitwise_and_(2**52 - 1).double() + 0.5) * 2.0**-52


def choose(logits_RV: Tensor, sampling: Sampling, uniforms_R: Tensor) -> Tensor:
    """One token for each row.

    Args:
        logits_RV: on the CPU, without padding columns.
        sampling: how.
        uniforms_R: float64 in (0, 1), where in the distribution to look.

    Returns:
        int64 ids, [R]. Equal logits and equal uniforms give equal ids: ranks that hold the same logits need not talk.
    """
    if sampling.temperature == 0.0:
        return logits_RV.argmax(dim=-1)
    sorted_RV, ids_RV = (logits_RV.double() / sampling.temperature).sort(dim=-1, descending=True, stable=True)
    if sampling.top_k:
        sorted_RV = sorted_RV[:, :sampling.top_k]
    probabilities_RV = sorted_RV.softmax(dim=-1)
    before_RV = probabilities_RV.cumsum(dim=-1) - probabilities_RV
    probabilities_RV = probabilities_RV.masked_fill(before_RV >= sampling.top_p, 0.0)
    cumulative_RV = probabilities_RV.cumsum(dim=-1)
    places_R1 = torch.searchsorted(cumulative_RV, uniforms_R[:, None] * cumulative_RV[:, -1:])
    last_R1 = (probabilities_RV > 0).sum(dim=-1, keepdim=True) - 1  # rounding may point past the end
    return ids_RV.gather(1, torch.minimum(places_R1, last_R1))[:, 0]
