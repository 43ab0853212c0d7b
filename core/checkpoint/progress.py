"""Signs of life of a rank that waits for the others' files: it lives as long as these grow. Pure."""

import os
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

LOOK_SECONDS = 0.5


@contextmanager
def ticking_while_growing(folder: Callable[[], Path | None], tick: Callable[[], None]) -> Iterator[None]:
    """Ticks whenever the files of a save grow, also while this rank is blocked in a collective; a save that stands still does not.

    Args:
        folder: where it writes, as soon as there is one.
        tick: the sign of life.
    """
    ending = threading.Event()

    def look() -> None:
        seen = 0
        while not ending.wait(LOOK_SECONDS):
            place = folder()
            size = 0 if place is None else staged_bytes(place)
            if size != seen:
                seen = size
                tick()

    thread = threading.Thread(target=look, name="growth of a save", daemon=True)
    thread.start()
    try:
        yield
    finally:
        ending.set()
        thread.join()


def staged_bytes(folder: Path) -> int:
    """Bytes of the files in a folder, as far as they can be seen."""
    try:
        with os.scandir(folder) as entries:
            return sum(entry.stat(follow_symlinks=False).st_size for entry in entries)
    except OSError:
        return 0
