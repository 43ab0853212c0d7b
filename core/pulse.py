"""A rank's signs of life, in one page of memory that it shares with the watcher that forked it. Pure."""

import mmap
import struct
from dataclasses import dataclass
from enum import IntEnum

_FIELDS = struct.Struct("=4q")


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
    """

    phase: Phase
    step: int
    progress: int
    thread: int


class Pulse:
    """Written by a rank, read by its watcher; made before the fork, it needs no name and no file, and goes with its processes."""

    def __init__(self) -> None:
        self._page = mmap.mmap(-1, mmap.PAGESIZE)

    def enter(self, phase: Phase, step: int) -> None:
        """A phase begins.

        Args:
            phase: which.
            step: optimizer steps done.
        """
        seen = self.read()
        self._write(Beat(phase, step, seen.progress + 1, seen.thread))

    def tick(self) -> None:
        """The phase goes on: another micro-batch, another batch of an evaluation, another block of a file."""
        seen = self.read()
        self._write(Beat(seen.phase, seen.step, seen.progress + 1, seen.thread))

    def read(self) -> Beat:
        """As it stands."""
        phase, step, progress, thread = _FIELDS.unpack_from(self._page)
        return Beat(Phase(phase), step, progress, thread)

    def _write(self, beat: Beat) -> None:
        _FIELDS.pack_into(self._page, 0, beat.phase, beat.step, beat.progress, beat.thread)
