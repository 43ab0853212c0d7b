"""Which rank holds the others up, told from the busy seconds of all ranks. Pure.

A synchronous step lasts as long as its slowest rank; the others spend the rest of it waiting in collectives. So what tells a straggler is
not how long its steps are but how long it is busy in them.
"""

from collections import deque
from collections.abc import Sequence
from dataclasses import dataclass
from statistics import median

WINDOW = 12  # steps that are looked at together: with the warm-up they fit into 20
MOST_EXCEPTIONS = 2  # of them may be as quick as the others': those had a bad moment themselves
WARM_UP = 3  # first steps that do not count: kernels, caches and files are cold
LEAST_SECONDS = 0.1  # slower than the others by less is noise of sampling and scheduling
LEAST_SHARE = 0.15  # of the others' busy seconds, where those are long


@dataclass(frozen=True)
class Straggler:
    """A rank that holds the others up.

    Args:
        rank: which.
        seconds: its median busy seconds of a step.
        others: the median of its peers'.
    """

    rank: int
    seconds: float
    others: float


class StragglerWatch:
    """Names each straggler once.

    A rank's peers are those at its own place of the pipeline, since other stages do other work; a rank without any is compared with all,
    and must be busy twice as long.

    Args:
        places: of each rank, its place along the pipeline.
    """

    def __init__(self, places: Sequence[int]) -> None:
        self._peers = [[other for other, its in enumerate(places) if its == place and other != rank] for rank, place in enumerate(places)]
        self._recent: deque[Sequence[float]] = deque(maxlen=WINDOW)
        self._steps = 0
        self._named: set[int] = set()

    def add(self, busy_seconds: Sequence[float]) -> list[Straggler]:
        """Those that are straggling and were not named before.

        Args:
            busy_seconds: of each rank in one step.
        """
        self._steps += 1
        if self._steps <= WARM_UP:
            return []
        self._recent.append(tuple(busy_seconds))
        if len(self._recent) < WINDOW:
            return []
        found = [self._straggler(rank) for rank in range(len(self._peers)) if rank not in self._named and self._slow(rank)]
        self._named.update(each.rank for each in found)
        return found

    def _slow(self, rank: int) -> bool:
        quick = sum(not self._slower(rank, busy) for busy in self._recent)
        return quick <= MOST_EXCEPTIONS

    def _slower(self, rank: int, busy: Sequence[float]) -> bool:
        if len(busy) == 1:
            return False
        others = self._others(rank, busy)
        share = LEAST_SHARE if self._peers[rank] else 1.0
        return busy[rank] > others + max(LEAST_SECONDS, share * others)

    def _others(self, rank: int, busy: Sequence[float]) -> float:
        peers = self._peers[rank] or [other for other in range(len(busy)) if other != rank]
        return median(busy[other] for other in peers)

    def _straggler(self, rank: int) -> Straggler:
        return Straggler(rank, median(busy[rank] for busy in self._recent), median(self._others(rank, busy) for busy in self._recent))
