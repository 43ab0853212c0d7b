"""What one run of a proof leaves behind, and whole tensors out of what each rank held of them."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from functools import cache
from math import prod
from typing import Any

import numpy as np

from ...parallel.partition import ShardSpec


@dataclass(frozen=True)
class Portion:
    """A flat piece of a tensor as one rank held it.

    Args:
        name: full name in the whole model.
        shard: where the local tensor lies in the whole one.
        start: `values` are elements [start, start + len) of the flattened local tensor.
        values: fp32.
    """

    name: str
    shard: ShardSpec
    start: int
    values: np.ndarray


@dataclass
class Trace:
    """What one rank saw.

    Args:
        losses, norms: of each step, equal on all ranks.
        gradients: of the first step, as the optimizer got them.
        parameters: and buffers, after the last step.
        experts: (layer, step, sample) -> the experts that each token was sent to.
        strayed: tokens of which a router clearly preferred other experts than the reference's.
    """

    losses: list[float] = field(default_factory=list)
    norms: list[float] = field(default_factory=list)
    gradients: list[Portion] = field(default_factory=list)
    parameters: list[Portion] = field(default_factory=list)
    experts: Mapping[tuple[int, int, int], Any] = field(default_factory=dict)
    strayed: int = 0


@dataclass
class Whole:
    """A tensor put together from all ranks.

    Args:
        values: flat, fp32; NaN where no rank held an element.
        owner: the first rank that held each element.
        fault: what is wrong with it by itself: copies that differ, padding that is not zero; empty: nothing.
        fault_rank: where.
    """

    values: np.ndarray
    owner: np.ndarray
    fault: str = ""
    fault_rank: int = 0

    def put(self, portion: Portion, rank: int) -> None:
        """Adds what one rank held; equal elements on several ranks must be equal bit for bit."""
        places = _places(portion.shard)[portion.start : portion.start + len(portion.values)]
        real = places >= 0
        if portion.values[~real].any():
            self._blame("padding is not zero", rank)
        places, values = places[real], portion.values[real]
        copies = self.owner[places] >= 0
        if not np.array_equal(self.values[places[copies]], values[copies], equal_nan=True):
            self._blame(f"differs from its copy on rank {self.owner[places[copies]][0]}", rank)
        fresh = places[~copies]
        self.values[fresh], self.owner[fresh] = values[~copies], rank

    def _blame(self, fault: str, rank: int) -> None:
        if not self.fault:
            self.fault, self.fault_rank = fault, rank


def assemble(ranks: Sequence[Sequence[Portion]]) -> dict[str, Whole]:
    """Whole tensors by name, from what each rank held."""
    found: dict[str, Whole] = {}
    for rank, portions in enumerate(ranks):
        for portion in portions:
            size = prod(portion.shard.shape)
            whole = found.setdefault(portion.name, Whole(np.full(size, np.nan, np.float32), np.full(size, -1, np.int32)))
            whole.put(portion, rank)
    return found


@cache
def _places(shard: ShardSpec) -> np.ndarray:
    """Flat place in the whole tensor of each element of the flattened local one; -1 for padding."""
    places = np.full(prod(shard.local_shape), -1, np.int64)
    for local, start, length in shard.runs():
        places[local : local + length] = np.arange(start, start + length)
    return places
