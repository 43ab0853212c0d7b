"""A process that ends with its parent: by the kernel, and by a pipe that the parent holds open. Pure: imports no torch."""

import ctypes
import os
import signal
from contextlib import suppress
from threading import Thread

PR_SET_PDEATHSIG = 1  # linux/prctl.h


def die_with_parent(parent: int) -> None:
    """SIGKILL for this process as soon as its parent dies, even by SIGKILL.

    Args:
        parent: process id that the parent had when it started this one; if it is dead already, this process ends at once.
    """
    with suppress(OSError):  # a sandbox may forbid it; `die_when_closed` needs no permission
        process_control(PR_SET_PDEATHSIG, signal.SIGKILL)
    if os.getppid() != parent:  # it died between the fork and the line above
        os.kill(os.getpid(), signal.SIGKILL)


def die_when_closed(reader: int) -> None:
    """SIGKILL for this process as soon as nobody holds the other end of a pipe open, as when the parent has died. Watched by a thread.

    Args:
        reader: of the pipe; nothing is ever written to it. The caller has closed its own copy of the other end.
    """
    def watch() -> None:
        with suppress(OSError):
            os.read(reader, 1)
        os.kill(os.getpid(), signal.SIGKILL)

    Thread(target=watch, name="parent", daemon=True).start()


def process_control(option: int, value: int) -> None:
    """Linux's `prctl` with one argument.

    Raises:
        OSError: the kernel refuses.
    """
    libc = ctypes.CDLL(None, use_errno=True)
    if libc.prctl(option, ctypes.c_ulong(value), ctypes.c_ulong(0), ctypes.c_ulong(0), ctypes.c_ulong(0)) != 0:
        raise OSError(ctypes.get_errno(), f"prctl({option})")
