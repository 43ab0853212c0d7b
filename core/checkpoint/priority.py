"""The lowest priority for what works beside the training. Linux. Pure: imports no torch."""

import ctypes
import os
import platform
import threading

NICENESS = 19
_IOPRIO_SET = {"x86_64": 251, "aarch64": 30}
_WHO_PROCESS, _CLASS_IDLE, _CLASS_SHIFT = 1, 3, 13  # linux/ioprio.h


def lower_priority() -> None:
    """Of this thread, and of what it starts: the processor and the disk serve everything else first."""
    os.setpriority(os.PRIO_PROCESS, threading.get_native_id(), NICENESS)
    call = _IOPRIO_SET.get(platform.machine())
    if call is not None:  # refused where a container forbids it; then only the processor is yielded
        ctypes.CDLL(None).syscall(call, _WHO_PROCESS, 0, _CLASS_IDLE << _CLASS_SHIFT)
