"""Which source each sample of a mixture comes from: pure, O(1), and within one sample of the exact share at every moment."""

import math
from collections.abc import Sequence
from heapq import heappop, heappush

import numpy as np

from ..errors import DataError

QUANTUM = 4096


class Mixture:
    """A repeating period of at most 4096 samples in which the sources are spread as evenly as can be.

    Args:
        weights: one for each source, any scale; 0 leaves a source out.

    Raises:
        DataError: a weight is negative or not finite, all are 0, or more than 4096 are positive.
    """

    def __init__(self, weights: Sequence[float]) -> None:
        counts = quantise(weights)
        divisor = math.gcd(*counts)
        self.counts = [count // divisor for count in counts]
        self.period = sum(self.counts)
        order = balanced_period(self.counts)
        self._sources = np.array(order, dtype=np.int64)
        self._ranks = np.array(_ranks(order, len(counts)), dtype=np.int64)
        self._shares = np.array(self.counts, dtype=np.int64)

    def locate(self, samples: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """The source of each sample, and how many samples of that source came before it.

        Args:
            samples: int64, any shape, from 0.

        Returns:
            Sources and counts, int64 of the same shape.
        """
        cycles, positions = np.divmod(samples, self.period)
        sources = self._sources[positions]
        return sources, cycles * self._shares[sources] + self._ranks[positions]

    def taken(self, count: int) -> np.ndarray:
        """How many of the first `count` samples each source gives, int64."""
        cycles, rest = divmod(count, self.period)
        return cycles * self._shares + np.bincount(self._sources[:rest], minlength=len(self._shares))


def quantise(weights: Sequence[float]) -> list[int]:
    """Weights as whole 4096ths, by largest remainder; a positive weight gets at least one.

    Raises:
        DataError: as `Mixture`.
    """
    total, positive = sum(weights), sum(weight > 0 for weight in weights)
    if not all(math.isfinite(weight) and weight >= 0 for weight in weights) or not 0 < total < math.inf:
        message = f"weights {list(weights)} of data.train must be finite, not negative, and not all 0"
        raise DataError(message, do="give each source a weight, for example its share of the tokens")
    if positive > QUANTUM:
        raise DataError(f"data.train has {positive} sources, at most {QUANTUM} can be mixed", do="merge some of them")
    exact = [weight / total * QUANTUM for weight in weights]
    counts = [max(math.floor(share), 1) if weight > 0 else 0 for weight, share in zip(weights, exact, strict=True)]
    while (missing := QUANTUM - sum(counts)) != 0:
        step = 1 if missing > 0 else -1
        # growing: who lacks most; shrinking (tiny weights were lifted to 1): who has most too much and can give
        can_change = [number for number, count in enumerate(counts) if count > (0 if step > 0 else 1)]
        counts[max(can_change, key=lambda number: step * (exact[number] - counts[number]))] += step
    return counts


def balanced_period(counts: Sequence[int]) -> list[int]:
    """Spreads counts[i] times i over one period so that in every prefix of length k the count of i is within 1 of k * share_i.

    R. Tijdeman, "The chairman assignment problem", Discrete Mathematics 32 (1980), section 2: of the sources that would otherwise fall
    behind by 1 - 1/(2m - 2), m sources, take the one that would do so first. In whole numbers, so without rounding.
    """
    period = sum(counts)
    present = np.array([source for source, count in enumerate(counts) if count], dtype=np.int64)
    if len(present) == 1:
        return [int(present[0])] * period
    share = np.repeat(np.array([counts[source] for source in present], dtype=np.int64), [counts[source] for source in present])  # of each
    turn = np.concatenate([np.arange(counts[source]) for source in present])  # the n-th time that a source is taken
    source, slack = np.repeat(present, [counts[source] for source in present]), 2 * len(present) - 2
    # It may be taken from the position on where the source is 1/slack behind, and must be before it is 1 - 1/slack behind: neither depends
    # on the other sources. The shift makes whole numbers that order exactly as the quotients (period <= 2**12, slack < 2**13).
    release = -(-period * (1 + slack * turn) // (slack * share))
    deadline = ((((slack - 1) + slack * turn) * period) << 24) // share
    waiting: list[tuple[int, int]] = []
    arriving = np.argsort(release, kind="stable")
    jobs = list(zip(deadline[arriving].tolist(), source[arriving].tolist(), strict=True))
    until = np.searchsorted(release[arriving], np.arange(1, period + 1), side="right").tolist()
    order, arrived = [], 0
    for arrivals in until:
        for job in jobs[arrived:arrivals]:
            heappush(waiting, job)
        arrived = arrivals
        order.append(heappop(waiting)[1])
    return order


def _ranks(sources: Sequence[int], num_sources: int) -> list[int]:
    seen, ranks = [0] * num_sources, []
    for source in sources:
        ranks.append(seen[source])
        seen[source] += 1
    return ranks
