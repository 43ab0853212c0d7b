"""A rank's log. Until a rank has met rank 0 it does not know whether the run folder is its own: its log waits in memory."""

import faulthandler
import os
import sys
import time
from contextlib import suppress
from pathlib import Path
from typing import TextIO


class RankLog:
    """Made by a watcher before it forks the rank; outlives the rank, whatever ends it.

    Args:
        path: of the log.
        rank: rank 0's watcher holds the folder, so its log is written there from the start.
    """

    def __init__(self, path: Path, rank: int) -> None:
        self.path = path
        self._rank = rank
        self._waiting = None if rank == 0 else os.memfd_create("rank-log", os.MFD_CLOEXEC)

    def open(self) -> TextIO:
        """In the rank: a stream to it; every rank but 0 prints there instead of on the terminal."""
        log = self.path.open("a", buffering=1) if self._waiting is None else os.fdopen(self._waiting, "a", buffering=1, closefd=False)
        with suppress(OSError):  # no room even for a line is found, and said with the way out, when checkpoints are counted
            log.write(f"--- rank {self._rank}, process {os.getpid()}, {time.strftime('%Y-%m-%d %H:%M:%S %z')}\n")
        faulthandler.enable(log)  # a crash in native code leaves its Python stack here
        if self._waiting is not None:
            flush_output()
            os.dup2(self._waiting, 1)
            os.dup2(self._waiting, 2)
        return log

    def settle(self) -> None:
        """In the rank: the folder is this attempt's; what was written moves there, and what follows goes there."""
        if self._waiting is None:
            return
        flush_output()
        self.path.parent.mkdir(exist_ok=True)
        settled = os.open(self.path, os.O_WRONLY | os.O_APPEND | os.O_CREAT | os.O_CLOEXEC, 0o644)
        self._move(settled)
        for descriptor in (1, 2):
            os.dup2(settled, descriptor)
        os.dup2(settled, self._waiting, inheritable=False)  # the stream and faulthandler go on with this one
        os.close(settled)

    def rest(self, *, ours: bool) -> None:
        """In the watcher, after the rank's end: what never settled goes into the folder, or is shown where that is not ours.

        Args:
            ours: whether the folder is this attempt's.
        """
        if self._waiting is None:
            return
        with suppress(OSError):
            if ours:
                settled = os.open(self.path, os.O_WRONLY | os.O_APPEND | os.O_CREAT | os.O_CLOEXEC, 0o644)
                self._move(settled)
                os.close(settled)
            elif b"Traceback" in self._content() or b"Fatal Python error" in self._content():
                os.write(2, self._content())
        os.close(self._waiting)

    def _content(self) -> bytes:
        assert self._waiting is not None
        return os.pread(self._waiting, os.fstat(self._waiting).st_size, 0)

    def _move(self, target: int) -> None:
        assert self._waiting is not None
        os.write(target, self._content())
        os.ftruncate(self._waiting, 0)


def flush_output() -> None:
    """Writes out what is buffered; a closed terminal is no reason to fail now."""
    for stream in (sys.stdout, sys.stderr):
        try:
            stream.flush()
        except OSError:
            continue
