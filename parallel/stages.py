"""Which blocks a pipeline stage holds, and which rank holds a stage. Pure arithmetic."""

from collections.abc import Sequence
from dataclasses import dataclass


@dataclass(frozen=True)
class Stage:
    """A slice of the model.

    Args:
        index: place in the pipeline, from 0.
        layers: numbers of its blocks.
        first: it holds the embedding.
        last: it holds the final norm and the head.
    """

    index: int
    layers: range
    first: bool
    last: bool

    @classmethod
    def whole(cls, num_layers: int) -> "Stage":
        """The one stage of a model that is not cut."""
        return cls(0, range(num_layers), first=True, last=True)


def stages_of(counts: Sequence[int]) -> list[Stage]:
    """Consecutive stages with so many blocks each."""
    stages, start = [], 0
    for index, count in enumerate(counts):
        stages.append(Stage(index, range(start, start + count), first=index == 0, last=index == len(counts) - 1))
        start += count
    return stages
