"""When the follower ends: after its owner says so, or soon after its owner has died, and never later than the deadline."""

import os
import select
import signal
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path

ORPHAN_SECONDS = 6.0  # to bring the rest to the disk after the training process has died
WATCH_SECONDS = 0.5


class Lifeline:
    """Watches the owner from a thread, so that the end comes even while the main thread is inside a tracking library.

    The owner writes `finish <seconds> <exit code>` and closes the pipe. A pipe that closes without that, or a parent that is no longer
    ours, means that the owner was killed. (The parent is asked for too: a forked child of the owner may hold the pipe open.)

    Args:
        descriptor: the read end of the owner's pipe; nothing of it may be buffered elsewhere.
        on_deadline: called when time is up, from the watching thread; this process ends right after it.
    """

    def __init__(self, descriptor: int, *, on_deadline: Callable[[], None]) -> None:
        self.ending = threading.Event()
        self.exit_code = 1  # of the run; what we say if it was killed
        self._descriptor, self._on_deadline = descriptor, on_deadline
        self._deadline = 0.0
        self._parent = os.getppid()
        threading.Thread(target=self._watch, name="lifeline", daemon=True).start()

    @property
    def seconds_left(self) -> float:
        """Until the deadline, once `ending` is set."""
        return max(0.0, self._deadline - time.monotonic())

    def _watch(self) -> None:
        seconds = self._wait_for_end()
        self._deadline = time.monotonic() + seconds
        self.ending.set()
        time.sleep(seconds)
        try:
            self._on_deadline()
        finally:
            os._exit(1)

    def _wait_for_end(self) -> float:
        """Block until the owner has finished or died; returns the seconds that are left then."""
        heard = b""
        while os.getppid() == self._parent:
            ready, _, _ = select.select([self._descriptor], [], [], WATCH_SECONDS)
            if not ready:
                continue
            block = os.read(self._descriptor, 4096)
            heard += block
            if heard.endswith(b"\n"):
                _, seconds, exit_code = heard.split()
                self.exit_code = int(exit_code)
                return float(seconds)
            if not block:
                break
        return ORPHAN_SECONDS


def kill_descendants(pid: int) -> None:
    """SIGKILL every descendant of `pid`; wandb's helpers lead sessions of their own, so no process group holds them."""
    for descendant in list(_descendants(pid)):  # all found before the first dies: an orphan has another parent
        try:
            os.kill(descendant, signal.SIGKILL)
        except ProcessLookupError:
            continue


def _descendants(pid: int) -> Iterator[int]:
    for listing in Path(f"/proc/{pid}/task").glob("*/children"):
        try:
            children = [int(child) for child in listing.read_text().split()]
        except OSError:
            continue  # the thread has ended meanwhile
        for child in children:
            yield child
            yield from _descendants(child)
