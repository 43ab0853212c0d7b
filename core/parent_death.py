"""A process that ends with its parent, which is a Linux fact. Pure: imports no torch."""

import ctypes
import os
import signal

PR_SET_PDEATHSIG = 1  # linux/prctl.h


def die_with_parent(parent: int) -> None:
    """SIGKILL for this process as soon as its parent dies, even by SIGKILL.

    Args:
        parent: process id that the parent had when it started this one; if it is dead already, this process ends at once.
    """
    process_control(PR_SET_PDEATHSIG, signal.SIGKILL)
    if os.getppid() != parent:  # it died between the fork and the line above
        os.kill(os.getpid(), signal.SIGKILL)


def process_control(option: int, value: int) -> None:
    """Linux's `prctl` with one argument.

    Raises:
        OSError: the kernel refuses.
    """
    libc = ctypes.CDLL(None, use_errno=True)
    if libc.prctl(option, ctypes.c_ulong(value), ctypes.c_ulong(0), ctypes.c_ulong(0), ctypes.c_ulong(0)) != 0:
        raise OSError(ctypes.get_errno(), f"prctl({option})")
