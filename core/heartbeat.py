"""A rank's own thread: it beats while the process runs and passes Python's lock on, and sees whether the main thread waits for others.

It imports no torch, so that it beats before the slow imports.
"""

import sys
import threading
import time
from collections.abc import Callable, Sequence
from types import FrameType, ModuleType
from typing import Self

from .pulse import Pulse
from .waiting import Wait, carries, wait_at

BEAT_SECONDS = 0.5
SAMPLE_SECONDS = 0.04  # between looks at the main thread; a step's waiting is known to about this


class TicksOfImports:
    """Each module that is looked for is a sign of progress: from a network disk that a thousand ranks read, torch takes minutes.

    Args:
        tick: a sign of progress.
    """

    def __init__(self, tick: Callable[[], None]) -> None:
        self._tick = tick

    def install(self) -> None:
        """From here on, for the life of the process."""
        sys.meta_path.insert(0, self)

    def find_spec(self, name: str, path: Sequence[str] | None = None, target: ModuleType | None = None) -> None:
        """Finds nothing: the next finder is asked (importlib's protocol)."""
        self._tick()


class Heartbeat:
    """Watches the thread that makes it; ends with its process, or when it is told to.

    Args:
        pulse: where it beats.
        accelerator: whether tensors lie on one (`waiting.wait_of`).
    """

    def __init__(self, pulse: Pulse, *, accelerator: bool) -> None:
        self._pulse, self._accelerator = pulse, accelerator
        self._watched = threading.get_ident()
        self._waited = 0.0
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._run, name="hexareme-heartbeat", daemon=True)

    def start(self) -> Self:
        """Begins to beat."""
        self._thread.start()
        return self

    def stop(self) -> None:
        """Ends the thread."""
        self._stop.set()
        self._thread.join(BEAT_SECONDS)

    def waited_seconds(self) -> float:
        """How long the watched thread has waited for other ranks, or for its device, since this began."""
        return self._waited

    def _run(self) -> None:
        looked = beaten = time.perf_counter()
        self._pulse.beat()
        while not self._stop.wait(SAMPLE_SECONDS):
            now = time.perf_counter()
            if self._waits():
                self._waited += now - looked
            looked = now
            if now - beaten >= BEAT_SECONDS:
                self._pulse.beat()
                beaten = now

    def _waits(self) -> bool:
        frame: FrameType | None = sys._current_frames().get(self._watched)
        while frame is not None and carries(frame.f_code.co_filename):
            frame = frame.f_back
        if frame is None:
            return False
        return wait_at(frame.f_code.co_filename, frame.f_lineno or 0, accelerator=self._accelerator) in (Wait.collective, Wait.device)
