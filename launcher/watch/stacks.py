"""The Python stacks of a rank, taken from outside: works while Python's lock is held, not in a stopped process.

A signal makes `faulthandler` write every thread's stack, in C, into an anonymous file that the watcher made before it forked the rank.
"""

import faulthandler
import os
import re
import signal
import time
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

from ...core.waiting import Frame, Wait, operation, site, wait_of

SIGNAL = signal.SIGUSR2
_HEADER = re.compile(r"(Current thread|Thread) 0x[0-9a-f]+.*\(most recent call first\):")
_FRAME = re.compile(r'  File "(.*)", line (\d+) in (.*)')
FIRST_FUNCTION = "become_rank"  # of a rank's process
_MAKES_BATCHES = "_make"  # of data/samples/loader.py, in its threads


class StackFile:
    """Where a rank's stacks go; made before the fork, it has no name and goes with its processes."""

    def __init__(self) -> None:
        self._file = os.memfd_create("stacks", os.MFD_CLOEXEC)
        self._read = 0

    def install(self) -> None:
        """In the rank, before anything slow: the signal would end a process that does not handle it."""
        faulthandler.register(SIGNAL, file=self._file, all_threads=True)

    def ask(self, process: int) -> None:
        """Makes the rank write its stacks."""
        self._read = os.fstat(self._file).st_size
        with suppress(ProcessLookupError):
            os.kill(process, SIGNAL)

    def answer(self) -> str:
        """What it has written since it was asked; empty where it did not answer yet."""
        size = os.fstat(self._file).st_size
        return os.pread(self._file, size - self._read, self._read).decode(errors="replace")


@dataclass(frozen=True)
class Standing:
    """Where a rank stands.

    Args:
        wait: what its main thread waits for.
        operation: the collective's name, where it waits in one.
        place: our own line, as `core/engine/engine.py:137 in _agree`.
        text: that line.
        lines: (function, line) of the main thread's frames of ours, outermost first: its place in the rank's program.
        frames: the innermost frames, as text.
    """

    wait: Wait = Wait.none
    operation: str = ""
    place: str = ""
    text: str = ""
    lines: tuple[tuple[str, int], ...] = ()
    frames: tuple[str, ...] = ()


def threads_of(dump: str) -> list[list[Frame]]:
    """The stacks of a dump of `faulthandler`, each innermost first; the main thread's is the last."""
    found: list[list[Frame]] = []
    for line in dump.splitlines():
        if _HEADER.match(line):
            found.append([])
        elif (match := _FRAME.match(line)) and found:
            found[-1].append(Frame(match[1], int(match[2]), match[3]))
    return found


def complete(dump: str) -> bool:
    """Whether a dump has come to its end: the outermost frame of the main thread, or the mark of one that was too deep."""
    last = dump.rpartition("\n")[0].rpartition("\n")[2]
    return dump.endswith("\n") and (last == "  ..." or last.endswith(("in <module>", "in _run_module_as_main")))


def standing_of(dump: str, *, accelerator: bool) -> Standing:
    """What the stacks say of a rank; nothing where there are none.

    Args:
        dump: as `StackFile.answer`.
        accelerator: whether tensors lie on one.
    """
    threads = threads_of(dump)
    if not threads or not threads[-1]:
        return Standing()
    main = threads[-1]
    told = main
    wait = wait_of(main, accelerator=accelerator)
    if wait is Wait.loader:
        told = next((frames for frames in threads[:-1] if any(frame.function == _MAKES_BATCHES for frame in frames)), main)
    elif wait is Wait.none:  # a GPU's backward pass runs in a thread of its own, and so do its collectives
        other = next((frames for frames in threads[:-1] if _in_backward(frames)), None)
        if other is not None:
            told, wait = other, wait_of(other, accelerator=accelerator)
    here = site(told)
    return Standing(wait=wait, operation=operation(told) if wait is Wait.collective else "", place=str(here or ""),
                    text=here.text if here else "", lines=_place(main),
                    frames=tuple(map(str, told[:6])))


def _place(main: Sequence[Frame]) -> tuple[tuple[str, int], ...]:
    """Our frames from the rank's first function on: how it was started differs from rank to rank."""
    ours = [(frame.function, frame.line) for frame in main if frame.ours]
    names = [name for name, _ in ours]
    return tuple(reversed(ours[: names.index(FIRST_FUNCTION)] if FIRST_FUNCTION in names else ours))


def _in_backward(frames: Sequence[Frame]) -> bool:
    return any(frame.function == "backward" for frame in frames)


def state_of(process: int) -> str:
    """Linux's letter for what a process is at: R running, S sleeping, T stopped, D waiting for a disk, Z ended; X where it is gone."""
    try:
        return Path(f"/proc/{process}/stat").read_text().rpartition(")")[2].split()[0]
    except OSError:
        return "X"


def append_to_log(path: Path, dump: str, *, process: int, idle_seconds: float) -> None:
    """Adds the stacks to the rank's own log, if its disk lets us."""
    title = f"--- stacks of process {process}, {time.strftime('%Y-%m-%d %H:%M:%S %z')}, {idle_seconds:.1f} s without progress"
    with suppress(OSError), path.open("a") as log:
        log.write(f"{title}\n{dump or 'it did not answer'}\n")
