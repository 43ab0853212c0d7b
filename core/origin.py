"""Which rank a step's unhealthy number came from, and which documents it was made of: gathered only when it happens."""

from collections.abc import Sequence
from dataclasses import dataclass

import torch.distributed as dist

from ..parallel.context import ParallelContext
from .engine.sentinel import Seen

MOST = 2000  # characters of a message
SHARE = 600  # of one data rank's samples
MOST_RANKS = 8  # named


@dataclass(frozen=True)
class Witness:
    """What one rank says of a step.

    Args:
        rank: of the world.
        place: in the pipeline.
        replica: place on the data axis: ranks with the same one have the same samples.
        seen: what was not finite there.
        samples: what of the batch it was, for people.
        loss: mean over the unmasked tokens of the micro-batch with the largest; minus infinity on a rank without a loss.
    """

    rank: int
    place: int
    replica: int
    seen: Seen
    samples: str
    loss: float = -float("inf")


def gather(context: ParallelContext, witness: Witness) -> list[Witness]:
    """The witnesses of all ranks, in their order. Collective."""
    found: list[Witness] = [witness] * context.world.size()
    dist.all_gather_object(found, witness, group=context.world)
    return found


def first_seen(witnesses: Sequence[Witness]) -> tuple[str, list[Witness]]:
    """What went wrong first, and the ranks that saw it: hidden states flow up through the stages, gradients down.

    Returns:
        The kind of number with its place, and those ranks; none where each rank's own numbers were finite, and only their sum was not.
    """
    stages = [each.seen.hidden_stage for each in witnesses if each.seen.hidden_stage is not None]
    if stages:
        lowest = min(stages)
        return f"in the hidden states of stage {lowest}", [each for each in witnesses if each.seen.hidden_stage == lowest]
    losing = [each for each in witnesses if each.seen.loss]
    if losing:
        return "in the loss", losing
    stages = [each.seen.gradient_stage for each in witnesses if each.seen.gradient_stage is not None]
    if stages:
        found = [each for each in witnesses if each.seen.gradient_stage == max(stages)]
        return f"in the gradient of {found[0].seen.gradient}", found
    return "in the sum over the ranks, each of which is finite", []


def account(what: str, witnesses: Sequence[Witness]) -> str:
    """One message of all that is known.

    Args:
        what: the step and its number.
        witnesses: of all ranks.
    """
    where, guilty = first_seen(witnesses)
    if not guilty:
        return f"{what}: first {where}"
    staged = any(each.place for each in witnesses)
    ranks = ", ".join(f"{each.rank} (stage {each.place} of the pipeline)" if staged else str(each.rank) for each in guilty[:MOST_RANKS])
    more = f" and {len(guilty) - MOST_RANKS} more" if len(guilty) > MOST_RANKS else ""
    micros = sorted({number for each in guilty for number in each.seen.micro_batches})
    when = f", micro-batch {', '.join(map(str, micros[:MOST_RANKS]))}" if micros else ""
    return bounded(f"{what}: first {where} on rank {ranks}{more}{when}; made of {_samples(guilty)}")


def bounded(text: str) -> str:
    """A message of bounded length."""
    return text if len(text) <= MOST else text[: MOST - 4] + " ..."


def highest_loss(witnesses: Sequence[Witness]) -> Witness:
    """The rank of the micro-batch with the largest loss."""
    return max(witnesses, key=lambda each: (each.loss, -each.rank))


def _samples(witnesses: Sequence[Witness]) -> str:
    """What each replica says of its samples, once."""
    return "; ".join(dict.fromkeys(each.samples for each in witnesses))
