"""A bound on the CPU time of one document: the loops of foreign libraries over hostile text must end."""

import signal
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from types import FrameType


class TimeLimit(BaseException):
    """Not an Exception: trafilatura catches those wherever it can, and would go on."""


def _stop(number: int, frame: FrameType | None) -> None:
    raise TimeLimit


@contextmanager
def time_limit(seconds: float) -> Iterator[None]:
    """Raises TimeLimit inside the block after so much CPU time of this process.

    CPU time and not the clock's, because a busy machine must not change what is removed. Only the main thread can be interrupted by a
    signal; in any other there is no limit.
    """
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    before = signal.signal(signal.SIGVTALRM, _stop)
    # Again each second: an exception that is raised inside a destructor is swallowed by the interpreter.
    signal.setitimer(signal.ITIMER_VIRTUAL, seconds, 1.0)
    try:
        yield
    finally:
        signal.setitimer(signal.ITIMER_VIRTUAL, 0)
        signal.signal(signal.SIGVTALRM, before)
