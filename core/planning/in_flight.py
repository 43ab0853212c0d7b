"""How many micro-batches' activations a rank of the pipeline holds at once, from its schedule's order of passes. Pure: imports no torch.

gpipe: Huang et al. 2019; 1f1b: Narayanan et al. 2019 (PipeDream), with torch's warm-up of one forward pass for each stage still to come;
interleaved_1f1b: Narayanan et al. 2021, section 2.2, with torch's rounds of micro-batches (`ScheduleInterleaved1F1B`).
"""

from collections.abc import Iterator, Mapping, Sequence

Pass = tuple[bool, int]  # whether it is a forward pass, and through which of the rank's stages, by its place among them
EXACT = ("gpipe", "1f1b", "interleaved_1f1b")


def most_held(schedule: str, *, pp: int, rank: int, micro_batches: int, kept: Sequence[int]) -> int:
    """Most bytes of activations at any time of a step.

    Args:
        schedule: parallel.schedule; those not in `EXACT` split the backward pass, and for them all micro-batches are counted: a bound.
        pp: ranks of the pipeline.
        rank: place in it.
        micro_batches: of one step.
        kept: bytes of one micro-batch in each of the rank's stages, ascending.
    """
    if pp == 1:
        return sum(kept)
    if schedule not in EXACT:
        return micro_batches * sum(kept)
    held = most = 0
    for forward, stage in _passes(schedule, pp=pp, rank=rank, micro_batches=micro_batches, stages=len(kept)):
        held += kept[stage] if forward else -kept[stage]
        most = max(most, held)
    return most


def _passes(schedule: str, *, pp: int, rank: int, micro_batches: int, stages: int) -> Iterator[Pass]:
    """In the rank's order."""
    total = micro_batches * stages
    rounds = micro_batches // max(1, micro_batches // pp)  # micro-batches that pass one stage before the rank turns to its next
    if schedule == "gpipe":
        warmup = total
    elif schedule == "1f1b":
        warmup = min(total, pp - rank) - 1
    else:
        warmup = min(total, (stages - 1) * rounds + 2 * (pp - 1 - rank))
    for number in range(warmup):
        yield True, number // rounds % stages
    for number in range(total):
        if warmup + number < total:
            yield True, (warmup + number) // rounds % stages
        yield False, stages - 1 - number // rounds % stages


def parts_at_peak(parts: Sequence[Mapping[str, int]], most: int) -> dict[str, int]:
    """The peak divided over the parts in the proportion in which the rank's stages keep them.

    Args:
        parts: of one micro-batch in each stage.
        most: the peak in bytes.
    """
    one = sum(sum(each.values()) for each in parts)
    return {name: round(sum(each[name] for each in parts) * most / one) if one else 0 for name in parts[0]}
