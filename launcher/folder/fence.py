"""What keeps an attempt that has lost its run folder from writing into it."""

import time
from pathlib import Path

from ...core.errors import FolderInUseError
from .lock_record import FILE_NAME, read_holder

RECENT_SECONDS = 5.0  # nobody can take a folder over in so short a time


class Fence:
    """Stops an attempt whose folder was taken over while it was frozen, or cut off from the disk.

    Args:
        directory: of the run.
        token: of this attempt.
    """

    def __init__(self, directory: Path, token: str) -> None:
        self._path, self._token = directory / FILE_NAME, token
        self._looked = float("-inf")

    def __call__(self) -> None:
        """Reads the lock.

        Raises:
            FolderInUseError: it is another attempt's, or cannot be understood. A file that was removed belongs to nobody yet.
        """
        try:
            found = read_holder(self._path)
        except FileNotFoundError:
            return
        if found is None or found.token != self._token:
            owner = f"belongs to {found.words()}" if found else "has a damaged .lock"
            raise FolderInUseError(f"{self._path.parent} {owner}; this attempt ({self._token}) is over and writes nothing more",
                                   do="leave the folder to the newer attempt", file=str(self._path))
        self._looked = time.clock_gettime(time.CLOCK_BOOTTIME)

    def lately(self) -> None:
        """The same, unless it was looked at in the last seconds: cheap enough for every line that a step writes.

        The clock goes on while the process or the machine sleeps; taking a folder over takes longer than `RECENT_SECONDS`.
        """
        if time.clock_gettime(time.CLOCK_BOOTTIME) - self._looked > RECENT_SECONDS:
            self()
