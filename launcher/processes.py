"""Small Linux facts about processes: adopting orphans, and leaving none behind."""

import os
import signal
import time
from contextlib import suppress
from pathlib import Path

from ..core.parent_death import process_control

PR_SET_CHILD_SUBREAPER = 36  # linux/prctl.h
GONE = -1


def adopt_orphans() -> None:
    """Descendants whose parent dies become this process's children, so that `end_descendants` finds them."""
    process_control(PR_SET_CHILD_SUBREAPER, 1)


def parent_of(process: int) -> int:
    """The parent's process id; 0 where the process is gone."""
    try:
        status = Path(f"/proc/{process}/stat").read_text()
    except OSError:
        return 0
    return int(status.rpartition(")")[2].split()[1])  # the name in brackets may hold anything


def started_at(process: int) -> float:
    """When a process began, as a Unix time; exact to the kernel's tick of 10 ms. Now, where it is gone."""
    ticks = start_ticks(process)
    return time.time() - (0.0 if ticks == GONE else time.clock_gettime(time.CLOCK_BOOTTIME) - ticks / os.sysconf("SC_CLK_TCK"))


def start_ticks(process: int) -> int:
    """When a process began, in clock ticks since boot: with its id it names a process for good. `GONE` where there is none.

    A zombie has ended, whoever has not collected it yet.
    """
    try:
        fields = Path(f"/proc/{process}/stat").read_text().rpartition(")")[2].split()
    except OSError:
        return GONE
    return GONE if fields[0] in "ZX" else int(fields[19])


def descendants(process: int) -> list[int]:
    """All processes below a process, parents before their children."""
    parents = {int(entry.name): parent_of(int(entry.name)) for entry in Path("/proc").iterdir() if entry.name.isdigit()}
    found, level = [], [process]
    while level:
        level = [child for child, parent in parents.items() if parent in level]
        found += level
    return found


def end_descendants(*, patience_seconds: float) -> None:
    """Waits for every descendant of this process to end, kills those that do not, and reaps them all.

    Args:
        patience_seconds: before SIGKILL. A process that the kernel holds (a dead network disk) is given up 10 seconds later.
    """
    deadline = time.monotonic() + patience_seconds
    while (below := descendants(os.getpid())) and time.monotonic() < deadline + 10:
        if time.monotonic() > deadline:
            for process in below:
                with suppress(ProcessLookupError):
                    os.kill(process, signal.SIGKILL)
        reap()
        time.sleep(0.02)


def exit_code(status: int) -> int:
    """Of a wait status: 128 + n for a death by signal n, as a shell says it."""
    code = os.waitstatus_to_exitcode(status)
    return code if code >= 0 else 128 - code


def reap() -> dict[int, int]:
    """Collects every child that has ended: process id -> wait status."""
    ended: dict[int, int] = {}
    with suppress(ChildProcessError):
        while True:
            process, status = os.waitpid(-1, os.WNOHANG)
            if process == 0:
                break
            ended[process] = status
    return ended
