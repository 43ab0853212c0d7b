"""A rank's signs of life, in one page of memory that it shares with the watcher that forked it. Pure."""

import mmap
from dataclasses import dataclass
from enum import IntEnum

_PHASE, _STEP, _PROGRESS, _TICKS, _THREAD = range(5)  # places in the page, 8 bytes each; each is written by itself


class Phase(IntEnum):
    """What a rank is at; each has `run.hang_timeout` seconds from one sign of progress to the next."""

    start = 0
    step = 1
    evaluation = 2
    save = 3
    end = 4


@dataclass(frozen=True)
class Beat:
    """One look at a rank.

    Args:
        phase: what it is at.
        step: optimizer steps done.
        progress: grows with each sign of progress.
        thread: grows with each beat of the rank's own thread, as long as the process runs and Python's lock is passed on.
        ticks: signs of progress since the phase began.
    """

    phase: Phase
    step: int
    progress: int
    thread: int
    ticks: int = 0


class Pulse:
    """Written by a rank, read by its watcher; made before the fork, it needs no name and no file, and goes with its processes.

    Several threads of a rank write here: two that tick at once may count as one, and none undoes what another wrote.
    """

    def __init__(self) -> None:
        self._page = memoryview(mmap.mmap(-1, mmap.PAGESIZE)).cast("q")

    def enter(self, phase: Phase, step: int) -> None:
        """A phase begins.

        Args:
            phase: which.
            step: optimizer steps done.
        """
        self._page[_PHASE], self._page[_STEP], self._page[_TICKS] = phase, step, 0
        self._page[_PROGRESS] += 1

    def tick(self) -> None:
        """The phase goes on: another micro-batch, another batch of an evaluation, another block of a file."""
        self._page[_TICKS] += 1
        self._page[_PROGRESS] += 1

    def beat(self) -> None:
        """The rank's own thread runs; that is no progress."""
        self._page[_THREAD] += 1

    def read(self) -> Beat:
        """As it stands."""
        page = self._page
        return Beat(Phase(page[_PHASE]), page[_STEP], page[_PROGRESS], page[_THREAD], page[_TICKS])
