"""Bytes of state that each rank holds: parameters, gradients, masters and optimizer moments, by ZeRO stage. Pure: imports no torch.

ZeRO: Rajbhandari et al. 2020, section 5; padding and what is kept whole are DeepSpeed 0.19's. Activations and the buffers of running
collectives (DeepSpeed's reduce bucket) are no state.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import accumulate

from .traffic import Replicas, ZeroSwitches, padded


@dataclass(frozen=True)
class StateBytes:
    """What one rank holds.

    Args:
        parameters: that the forward pass uses, or this rank's part of them.
        gradients: between two micro-batches of a step.
        masters: fp32 copies that the optimizer updates.
        moments: of the optimizer.
    """

    parameters: int
    gradients: int
    masters: int
    moments: int

    @property
    def total(self) -> int:
        """All of it."""
        return self.parameters + self.gradients + self.masters + self.moments


def state_bytes(stage: int, groups: Sequence[Replicas], switches: ZeroSwitches, *, moments: int = 2,
                parameter_bytes: int = 4) -> StateBytes:
    """What one rank holds between two micro-batches of a step that is not the first; gradients, masters and moments in fp32.

    Args:
        stage: of ZeRO.
        groups: every parameter of the rank, in the order in which DeepSpeed lays each group out.
        switches: of DeepSpeed; stage 3's persistent parameters lie whole.
        moments: that the optimizer keeps of each parameter: 2 for adamw, 0 for sgd without momentum.
        parameter_bytes: of one element in the forward pass.

    Raises:
        ValueError: no such stage.
    """
    if stage not in range(4):
        raise ValueError(f"parallel.zero={stage} is no stage of ZeRO; try 0 to 3")
    whole = sum(sum(group.sizes) for group in groups)
    if stage == 0:
        return StateBytes(whole * parameter_bytes, 4 * whole, 0, 4 * moments * whole)
    if stage == 3:
        part = sum(-(-size // group.n) for group in groups for size in group.sizes)
        persistent = sum(size for group in groups for size in group.sizes if size <= switches.persistence_threshold)
        return StateBytes((part + persistent) * parameter_bytes, 4 * part, 4 * part, 4 * moments * part)
    flat, part = sum(map(padded, groups)), sum(padded(group) // group.n for group in groups)
    gradients = whole if stage == 1 else sum(map(_touched, groups))  # stage 1 reduces, and so cuts, only at the end of a step
    return StateBytes(flat * parameter_bytes, 4 * gradients, 4 * part, 4 * moments * part)


def _touched(group: Replicas) -> int:
    """Elements of the parameters of which at least a part lies in this rank's partition: stage 2 makes room for all of each."""
    share = padded(group) // group.n
    ends = list(accumulate(group.sizes))
    first, last = group.rank * share, (group.rank + 1) * share
    return sum(size for size, end in zip(group.sizes, ends, strict=True) if end > first and end - size < last)
