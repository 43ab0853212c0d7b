"""Mixtures that follow one another: which source gives each sample, and where in that source it stands. Pure, O(log stages).

A source goes on in a stage where it stood at the end of the one before: how many of its samples all earlier stages took follows from
arithmetic, so nothing is stored, and no window of a source comes again before its epoch is over.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise

import numpy as np

from ..errors import DataError
from .mixture import Mixture


@dataclass(frozen=True)
class Stage:
    """From one sample of the run on.

    Args:
        first_sample: global number of its first sample; 0 for the first stage.
        weights: one for each source of the run, in the same order in all stages; 0 leaves a source out.
        piece_length: tokens of the independent pieces that a window is cut into; the window's own length leaves it whole.
    """

    first_sample: int
    weights: tuple[float, ...]
    piece_length: int


class Stages:
    """The mixtures of a run, one after the other.

    Args:
        stages: by first sample; the first begins at 0. One whose first sample is that of the next has no sample.

    Raises:
        DataError: the weights of a stage are impossible.
        ValueError: the stages are not in order.
    """

    def __init__(self, stages: Sequence[Stage]) -> None:
        firsts = [stage.first_sample for stage in stages]
        if not firsts or firsts[0] != 0 or any(after < before for before, after in pairwise(firsts)):
            raise ValueError(f"stages must begin at sample 0 and follow one another, not at {firsts}")
        self.stages = list(stages)
        self._firsts = np.array(firsts, dtype=np.int64)
        self._mixtures = [_mixture(stage) for stage in stages]
        self._pieces = np.array([stage.piece_length for stage in stages], dtype=np.int64)
        taken = [np.zeros(len(stages[0].weights), dtype=np.int64)]
        for mixture, (first, after) in zip(self._mixtures, pairwise(firsts), strict=False):
            taken.append(taken[-1] + mixture.taken(after - first))
        self._taken = taken  # of each source, before each stage

    def stage_of(self, samples: np.ndarray) -> np.ndarray:
        """The stage of each sample; int64 of the same shape."""
        return np.searchsorted(self._firsts, samples, side="right") - 1

    def locate(self, samples: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """The source of each sample, and how many samples of that source came before it in the whole run.

        Args:
            samples: int64, any shape, from 0.

        Returns:
            Sources and counts, int64 of the same shape.
        """
        if len(self._mixtures) == 1:
            return self._mixtures[0].locate(samples)
        samples = np.asarray(samples, dtype=np.int64)
        sources, numbers, stages = np.empty_like(samples), np.empty_like(samples), self.stage_of(samples)
        for stage in np.unique(stages).tolist():
            here = stages == stage
            found, counts = self._mixtures[stage].locate(samples[here] - self._firsts[stage])
            sources[here], numbers[here] = found, counts + self._taken[stage][found]
        return sources, numbers

    def taken(self, count: int) -> np.ndarray:
        """How many of the first `count` samples of the run each source gives, int64."""
        stage = max(0, int(self.stage_of(np.array(count - 1))))
        return self._taken[stage] + self._mixtures[stage].taken(count - self.stages[stage].first_sample)

    def piece_lengths(self, samples: np.ndarray) -> np.ndarray:
        """Length of the pieces that each sample's window is cut into, in tokens; int64 of the same shape."""
        return self._pieces[self.stage_of(samples)]


def _mixture(stage: Stage) -> Mixture:
    try:
        return Mixture(stage.weights)
    except DataError as error:
        if stage.first_sample == 0:
            raise
        raise DataError(f"in the stage of data.stages from sample {stage.first_sample} on: {error}", do=error.do) from error
