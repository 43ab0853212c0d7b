"""What ZeRO sends in one step, as a function of its stage, accumulation, dtype, padding and DeepSpeed's switches. Pure: imports no torch.

Bytes that leave one rank under the ring algorithms, as parallel/traffic.py counts them; W bytes over n ranks: an all-reduce 2 W (n-1)/n, an
all-gather or a reduce-scatter W (n-1)/n. ZeRO: Rajbhandari et al. 2020, section 7; the details are DeepSpeed 0.19's (shared/BASE.md).
"""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

Sent = dict[tuple[str, str], float]  # (axis, kind of collective) -> bytes that leave one rank in one step
_ALIGNMENT = 2  # a flat group of stages 1 and 2 is padded to a multiple of this and n (DeepSpeed's nccl_start_alignment_factor)


@dataclass(frozen=True)
class Replicas:
    """Parameters of one optimizer group, alike on the ranks of one axis.

    Args:
        axis: over which their gradients are reduced: data or expert_data.
        n: ranks of it.
        rank: this one's place in it.
        sizes: elements of each parameter as it lies on this rank.
    """

    axis: str
    n: int
    rank: int
    sizes: tuple[int, ...]


@dataclass(frozen=True)
class ZeroSwitches:
    """DeepSpeed's settings that decide what is sent.

    Args:
        reduce_to_owner: stages 1 and 2 reduce each piece of a gradient to its owner; False: all-reduce it to all.
        persistence_threshold: stage 3: parameters of at most so many elements stay whole, and are gathered once a step.
        max_live: stage 3: elements that may lie whole at a time.
        max_reuse: stage 3: a parameter that is used again within so many elements stays whole.
    """

    reduce_to_owner: bool = True
    persistence_threshold: int = 0
    max_live: int = 0
    max_reuse: int = 0

    @classmethod
    def of(cls, zero: Mapping[str, Any]) -> "ZeroSwitches":
        """From the section `zero_optimization` that `deepspeed_settings` writes."""
        return cls(not zero["use_multi_rank_bucket_allreduce"], int(zero["stage3_param_persistence_threshold"]),
                   int(zero["stage3_max_live_parameters"]), int(zero["stage3_max_reuse_distance"]))


def zero_traffic(stage: int, groups: Sequence[Replicas], switches: ZeroSwitches, *, accumulation: int, reduce_bytes: int = 4,
                 parameter_bytes: int = 4) -> Sent:
    """Bytes that one rank sends in one step for parameters and gradients.

    Of stage 3 it is the second step and every later one: in the first, DeepSpeed learns the order of use and frees at once.

    Args:
        stage: of ZeRO.
        groups: every parameter of the rank.
        switches: of DeepSpeed.
        accumulation: micro-batches of one rank in one step.
        reduce_bytes: of one element of a travelling gradient (train.reduce_precision).
        parameter_bytes: of one element of a gathered parameter.

    Raises:
        ValueError: no such stage, or stage-3 thresholds between "keep all" and "free at once", where it depends on the order of use.
    """
    if stage not in range(4):
        raise ValueError(f"parallel.zero={stage} is no stage of ZeRO; try 0 to 3")
    gathers = _gathers(groups, switches) if stage == 3 else 0
    found: Sent = {}
    for group in (each for each in groups if each.n > 1):
        others = (group.n - 1) / group.n
        if stage == 0:
            add(found, group.axis, "all_reduce", 2 * sum(group.sizes) * reduce_bytes * others)
        elif stage < 3:
            reductions = accumulation if stage == 2 else 1  # stage 2 keeps no whole gradient from one micro-batch to the next
            kind, elements = _reduced(group, switches)
            add(found, group.axis, kind, reductions * elements * reduce_bytes)
            add(found, group.axis, "all_gather", padded(group) * parameter_bytes * others)
        else:
            for size in group.sizes:  # each is cut and padded by itself
                sent = -(-size // group.n) * (group.n - 1)
                times = 1 if size <= switches.persistence_threshold else gathers * accumulation
                add(found, group.axis, "all_gather", times * sent * parameter_bytes)
                add(found, group.axis, "reduce_scatter", accumulation * sent * reduce_bytes)
    return found


def add(found: Sent, axis: str, kind: str, sent: float) -> None:
    """Adds bytes to those of an axis and kind, in place."""
    found[axis, kind] = found.get((axis, kind), 0.0) + sent


def merged(parts: Iterable[Sent]) -> Sent:
    """The sum of several."""
    found: Sent = {}
    for part in parts:
        for (axis, kind), sent in part.items():
            add(found, axis, kind, sent)
    return found


def padded(group: Replicas) -> int:
    """Elements of the flat group of stages 1 and 2, with its padding."""
    unit = _ALIGNMENT * group.n
    return -(-sum(group.sizes) // unit) * unit


def _reduced(group: Replicas, switches: ZeroSwitches) -> tuple[str, float]:
    """Kind and gradient elements that leave this rank in one reduction at stages 1 and 2; the padding does not travel."""
    total = sum(group.sizes)
    if not switches.reduce_to_owner:
        return "all_reduce", 2.0 * total * (group.n - 1) / group.n
    share = padded(group) // group.n
    own = min(share, max(0, total - group.rank * share))
    return "reduce", float(total - own)


def _gathers(groups: Sequence[Replicas], switches: ZeroSwitches) -> int:
    """How often each parameter of stage 3 is gathered for one micro-batch: once if it stays whole from forward to backward, else twice."""
    elements = sum(sum(group.sizes) for group in groups)
    if switches.max_live == 0 and switches.max_reuse == 0:
        return 2
    if switches.max_live >= elements and switches.max_reuse >= 2 * elements:
        return 1
    raise ValueError(f"stage3_max_live_parameters={switches.max_live} and stage3_max_reuse_distance={switches.max_reuse} keep a part of "
                     f"{elements} elements: what is sent depends on the order of use; try 0 for both, or at least {2 * elements}")
